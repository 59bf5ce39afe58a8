//! What durable sessions cost: QoS 1 messages for sessions that are away, `kill -9`, a restart, and the drain.
//!
//! The broker keeps its state on disk and is alone on it. Every message is acknowledged before the broker is killed, so
//! whatever is missing afterwards was lost by it.

use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use veilmq_protocol::{
    Acknowledgement, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode, TopicName,
};

use crate::broker::{BrokerSpec, Persistence, RunningBroker};
use crate::ledger::Ledger;
use crate::link::{Link, LinkError, LinkOptions, unexpected};
use crate::load::{CpuReading, LoadError, Plan};
use crate::procfs::{CpuTime, written_bytes};
use crate::report::{Counts, RunReport, Stored};
use crate::stamp::Stamp;
use crate::stats::{Histogram, LatencySummary};
use crate::subscribe::subscribe;
use crate::workload::Workload;

const TOPIC: &str = "bench/away";
/// Messages that are sent one at a time, to see how long an acknowledgement takes.
const SINGLE_MESSAGES: u64 = 500;
/// Bytes gathered for one write.
const BATCH_BYTES: usize = 16 * 1024;

/// Names and units of what [`measure`] returns.
pub(crate) const FIGURES: &[(&str, &str)] = &[
    ("acknowledged", "1/s"),
    ("CPU per message", "us"),
    ("written per message", "B"),
    ("kept per message", "B"),
    ("PUBACK p50", "us"),
    ("PUBACK p99", "us"),
    ("restart after kill -9", "ms"),
    ("lost by kill -9", "messages"),
    ("drain", "1/s"),
    ("CPU per delivery of the drain", "us"),
];

/// Stores `messages` messages for each of `sessions` sessions that are away, kills the broker, and drains them.
///
/// # Errors
/// The broker does not start again, a connection fails, or a process or directory cannot be read.
pub(crate) async fn measure(
    spec: &BrokerSpec,
    plan: &Plan,
    sessions: u16,
    messages: u64,
) -> Result<Vec<f64>, String> {
    let broker = RunningBroker::start(spec, Persistence::Disk).await.map_err(text)?;
    let mut plan = Plan { address: broker.address, broker_pid: Some(broker.pid()), ..plan.clone() };
    let stored = store(&plan, sessions, messages).await?;
    let kept = broker.stored_bytes().map_err(text)?;

    let started = Instant::now();
    let broker = broker.kill_and_restart(spec).await.map_err(text)?;
    let restarted_in = started.elapsed();
    plan.address = broker.address;

    let before = CpuTime::of(broker.pid()).map_err(text)?;
    let drained = drain(&plan, sessions, messages).await?;
    let drain_cpu = CpuTime::of(broker.pid()).map_err(text)?.since(before);
    // What did not come has no rate and no cost: NaN is no sample.
    let delivered = if drained.counts.delivered > 0 { drained.counts.delivered as f64 } else { f64::NAN };
    let cpu = stored.cpu.ok_or("the CPU time was not read")?;
    Ok(vec![
        stored.per_second,
        cpu.total_seconds / stored.batch * 1e6,
        stored.written.ok_or("the bytes written were not read")? / stored.batch,
        kept as f64 / messages as f64,
        stored.puback.p50_micros,
        stored.puback.p99_micros,
        restarted_in.as_secs_f64() * 1e3,
        drained.counts.lost as f64,
        delivered / drained.elapsed.as_secs_f64(),
        drain_cpu.total_seconds / delivered * 1e6,
    ])
}

/// Stores `messages` messages for one session that is away, kills the broker, and returns how long it takes to answer again.
///
/// # Errors
/// The broker does not start again, or a connection fails.
pub(crate) async fn restart(spec: &BrokerSpec, plan: &Plan, messages: u64) -> Result<Duration, String> {
    let broker = RunningBroker::start(spec, Persistence::Disk).await.map_err(text)?;
    let plan = Plan { address: broker.address, broker_pid: Some(broker.pid()), ..plan.clone() };
    store(&plan, 1, messages).await?;
    let started = Instant::now();
    broker.kill_and_restart(spec).await.map_err(text)?;
    Ok(started.elapsed())
}

/// Stores and drains as [`measure`] does, on a broker that goes on running; the sessions end afterwards.
///
/// # Errors
/// A connection fails, or a process cannot be read.
pub(crate) async fn run(plan: &Plan, sessions: u16, messages: u64) -> Result<RunReport, String> {
    let stored = store(plan, sessions, messages).await?;
    let cpu = CpuReading::take(plan.broker_pid).map_err(text)?;
    let drained = drain(plan, sessions, messages).await?;
    let (broker_cpu, generator_cpu) = cpu.since(plan.broker_pid).map_err(text)?;
    for number in 0..sessions {
        let client_id = client_id(number);
        let options = plan.link_options(&client_id, 64);
        Link::open(&options).await.map_err(text)?.close().await.map_err(text)?;
    }
    let report = RunReport::empty(plan, Workload::Away(sessions).to_string());
    let counts = Counts { published: messages, ..drained.counts };
    Ok(RunReport {
        stored: Some(Stored {
            sessions,
            acknowledged_per_second: stored.per_second,
            puback: Some(stored.puback),
            broker_cpu_micros_per_message: stored.cpu.map(|cpu| cpu.total_seconds / stored.batch * 1e6),
        }),
        ..report.measured(counts, drained.elapsed, broker_cpu, generator_cpu)
    })
}

/// How the messages were stored.
struct Storing {
    /// Of messages that were sent one at a time.
    puback: LatencySummary,
    /// Messages that were sent as fast as they are acknowledged; the rest is about them.
    batch: f64,
    per_second: f64,
    cpu: Option<CpuTime>,
    written: Option<f64>,
}

/// Makes the sessions, and has the broker acknowledge `messages` messages for each.
async fn store(plan: &Plan, sessions: u16, messages: u64) -> Result<Storing, String> {
    for number in 0..sessions {
        let mut link = open(plan, number).await?;
        subscribe(&mut link, &[TOPIC.to_owned()], QoS::AtLeastOnce).await.map_err(text)?;
        link.close().await.map_err(text)?;
    }
    let mut publisher = Publisher { link: open(plan, u16::MAX).await?, sent: 0, acknowledged: 0 };
    let puback = publisher.publish_singly(plan, messages).await.map_err(text)?;
    let before = CpuReading::take(plan.broker_pid).map_err(text)?;
    // What another user's process has written may not be read.
    let written = || plan.broker_pid.and_then(|pid| written_bytes(pid).ok());
    let written_before = written();
    let (started, first) = (Instant::now(), publisher.sent);
    publisher.publish(plan, messages).await.map_err(text)?;
    let batch = (messages - first) as f64;
    let per_second = batch / started.elapsed().as_secs_f64();
    let (cpu, _) = before.since(plan.broker_pid).map_err(text)?;
    publisher.link.close().await.map_err(text)?;
    Ok(Storing {
        puback: puback.summary().ok_or("nothing was acknowledged")?,
        batch,
        per_second,
        cpu,
        written: written().zip(written_before).map(|(now, before)| (now - before) as f64),
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Opens a connection on the session with this number, which stays when the connection ends.
async fn open(plan: &Plan, number: u16) -> Result<Link, String> {
    let client_id = client_id(number);
    let options = LinkOptions { is_durable: true, ..plan.link_options(&client_id, 64 * 1024) };
    Link::open(&options).await.map_err(text)
}

fn client_id(number: u16) -> String {
    format!("bench-away-{number}")
}

/// Publishes numbered messages; acknowledgements come in the order of the messages.
struct Publisher {
    link: Link,
    sent: u64,
    acknowledged: u64,
}

impl Publisher {
    /// Sends each message when the one before it is acknowledged; returns how long the acknowledgements took.
    async fn publish_singly(&mut self, plan: &Plan, messages: u64) -> Result<Histogram, LoadError> {
        let mut latency = Histogram::new();
        for number in 1..=SINGLE_MESSAGES.min(messages / 2) {
            let started = Instant::now();
            self.publish(plan, number).await?;
            latency.record(started.elapsed().as_nanos() as u64);
        }
        Ok(latency)
    }

    /// Publishes until `total` messages have been sent in all, and all of them are acknowledged.
    async fn publish(&mut self, plan: &Plan, total: u64) -> Result<(), LoadError> {
        let in_flight_max = u64::from(plan.inflight_max.min(self.link.receive_maximum()));
        let mut payload = vec![b'.'; plan.payload_bytes];
        while self.acknowledged < total {
            while self.sent < total
                && self.sent - self.acknowledged < in_flight_max
                && self.link.backlog_bytes() < BATCH_BYTES
            {
                self.push(&mut payload)?;
            }
            let turned = timeout(plan.stall, self.link.turn()).await;
            turned.unwrap_or(Err(LinkError::Late("PUBACK", plan.stall)))?;
            while let Some(packet) = self.link.inbox.next()? {
                match packet {
                    Packet::PubAck(answer) if answer.reason.is_error() => {
                        return Err(LoadError::PublishRefused(answer.reason));
                    }
                    Packet::PubAck(_) => self.acknowledged += 1,
                    other => return Err(unexpected(&other, "PUBACK").into()),
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, payload: &mut [u8]) -> Result<(), LoadError> {
        let stamp = Stamp { publisher: 0, sequence: self.sent, due_nanos: 0 }.encode();
        if let Some(head) = payload.first_chunk_mut() {
            *head = stamp;
        }
        let packet_id = PacketId::new((self.sent % u64::from(u16::MAX)) as u16 + 1);
        self.link.outbox.push(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: TopicName::new(TOPIC).ok(),
            packet_id,
            properties: PublishProperties::default(),
            payload,
        }))?;
        self.sent += 1;
        Ok(())
    }
}

/// What came back after the restart.
struct Drained {
    /// Of all sessions; nothing is said of what was published.
    counts: Counts,
    /// From the first CONNECT to the last message.
    elapsed: Duration,
}

/// Connects all sessions at once and takes what waits for them.
async fn drain(plan: &Plan, sessions: u16, messages: u64) -> Result<Drained, String> {
    let started = Instant::now();
    LocalSet::new()
        .run_until(async {
            let mut clients = JoinSet::new();
            for number in 0..sessions {
                let plan = plan.clone();
                clients.spawn_local(async move { receive(&plan, number, messages).await });
            }
            let mut drained = Drained { counts: Counts::default(), elapsed: Duration::ZERO };
            while let Some(client) = clients.join_next().await {
                let (ledger, last) = client.map_err(text)??;
                drained.counts.add(&ledger, messages);
                drained.elapsed = drained.elapsed.max(last.saturating_duration_since(started));
            }
            Ok(drained)
        })
        .await
}

/// Receives until everything is there or nothing more comes; returns the account and when the last came.
async fn receive(plan: &Plan, number: u16, messages: u64) -> Result<(Ledger, Instant), String> {
    let mut link = open(plan, number).await?;
    let mut ledger = Ledger::default();
    let mut last = Instant::now();
    loop {
        // The first of what waits may have come along with CONNACK.
        while let Some(packet) = link.inbox.next().map_err(text)? {
            let Packet::Publish(publish) = packet else {
                return Err(unexpected(&packet, "PUBLISH").to_string());
            };
            if let Some(stamp) = Stamp::decode(publish.payload) {
                ledger.record(stamp.sequence);
                last = Instant::now();
            }
            if let Some(packet_id) = publish.packet_id {
                let answer = Acknowledgement::new(packet_id, ReasonCode::Success);
                link.outbox.push(&Packet::PubAck(answer)).map_err(text)?;
            }
        }
        if ledger.delivered() >= messages {
            break;
        }
        match timeout(plan.stall, link.turn()).await {
            Err(_) => break,
            Ok(turned) => turned.map_err(text)?,
        }
    }
    link.close().await.map_err(text)?;
    Ok((ledger, last))
}
