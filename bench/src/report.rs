//! What a run or an idle measurement says in the end, for people and for programs.
//!
//! Field names carry their unit. Figures that were not measured are absent, never zero.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use veilmq_protocol::ProtocolVersion;

use crate::ledger::{Ledger, Order};
use crate::load::{Outcome, Plan};
use crate::procfs::{CpuTime, Memory};
use crate::scenario::Reach;
use crate::stats::{Histogram, LatencySummary};
use crate::subscriber::Accounts;

/// The result of one run, whatever its workload: the object that `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) scenario: String,
    pub(crate) protocol: &'static str,
    pub(crate) transport: &'static str,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) rate_per_second: Option<u32>,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) seconds: f64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) broker_cpu: Option<BrokerCpu>,
    /// Memory of the broker process at the end of the run, its connections still open.
    pub(crate) broker_memory: Option<Memory>,
    pub(crate) generator_cpu_seconds: f64,
    /// From the due time of a message to its arrival, only at a fixed rate; or of opening a connection.
    pub(crate) latency: Option<LatencySummary>,
    /// Of a workload that is made of connections.
    pub(crate) connections: Option<Connections>,
    /// How messages were stored for sessions that were away.
    pub(crate) stored: Option<Stored>,
}

/// What became of the messages of a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    /// Deliveries that were due: published messages times the audience of each.
    pub(crate) due: u64,
    /// Distinct messages that arrived.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    /// Arrived after a message with a higher number of the same publisher.
    pub(crate) late: u64,
    /// Arrived, but no publisher of this run had sent it.
    pub(crate) foreign: u64,
    /// A publisher gave up waiting for acknowledgements or deliveries.
    pub(crate) stalled: bool,
}

impl Counts {
    /// Adds an account of what a client, or a group of them, was due: `published` messages.
    pub(crate) fn add(&mut self, ledger: &Ledger, published: u64) {
        self.due += published;
        self.delivered += ledger.delivered();
        self.lost += ledger.lost(published);
        self.duplicates += ledger.duplicates();
        self.late += ledger.late();
    }

    /// Every message arrived exactly once and in order.
    pub(crate) fn is_faultless(&self) -> bool {
        self.lost + self.duplicates + self.late + self.foreign == 0 && !self.stalled
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { due, lost, duplicates, late, foreign, .. } = self;
        write!(out, "{due} due: {lost} lost, {duplicates} duplicate, {late} late, {foreign} foreign")
    }
}

/// How connections were opened, and what they weigh.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connections {
    pub(crate) count: u32,
    /// Time to open all of them.
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) broker_cpu_micros: Option<f64>,
    /// Connections whose TLS handshake took over the keys of an earlier one.
    pub(crate) resumed: u32,
    /// Memory around the opening of connections that then idle.
    pub(crate) memory: Option<IdleMemory>,
}

impl Connections {
    /// `count` connections that took `elapsed`.
    pub(crate) fn new(count: u32, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let per_second = crate::stats::ratio(count.into(), seconds).unwrap_or(0.0);
        Self { count, seconds, per_second, broker_cpu_micros: None, resumed: 0, memory: None }
    }
}

/// How messages were stored before they were delivered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stored {
    /// Durable sessions that were away; none for retained messages.
    pub(crate) sessions: u16,
    pub(crate) acknowledged_per_second: f64,
    /// Of messages that were sent one at a time: from PUBLISH to PUBACK.
    pub(crate) puback: Option<LatencySummary>,
    pub(crate) broker_cpu_micros_per_message: Option<f64>,
}

impl Stored {
    /// Messages that were stored for nobody in particular.
    pub(crate) fn of_messages(acknowledged_per_second: f64) -> Self {
        Self { sessions: 0, acknowledged_per_second, puback: None, broker_cpu_micros_per_message: None }
    }
}

/// CPU time of the broker process during a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BrokerCpu {
    #[serde(flatten)]
    pub(crate) time: CpuTime,
    /// Microseconds for each delivered message, which is also seconds for each million of them.
    pub(crate) micros_per_delivery: Option<f64>,
}

impl RunReport {
    /// A report of `plan` in which nothing has been measured yet; `scenario` is its name.
    pub(crate) fn empty(plan: &Plan, scenario: String) -> Self {
        Self {
            scenario,
            protocol: protocol_name(plan.version),
            transport: plan.transport.name(),
            qos: plan.qos as u8,
            payload_bytes: plan.payload_bytes,
            rate_per_second: plan.per_second,
            counts: Counts::default(),
            seconds: 0.0,
            deliveries_per_second: 0.0,
            broker_cpu: None,
            broker_memory: None,
            generator_cpu_seconds: 0.0,
            latency: None,
            connections: None,
            stored: None,
        }
    }

    /// Adds up what all clients of a run saw.
    pub(crate) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let mut latency = Histogram::new();
        let mut counts = Counts {
            published: outcome.publishers.iter().map(|publisher| publisher.published).sum(),
            stalled: outcome.publishers.iter().any(|publisher| publisher.stalled),
            ..Counts::default()
        };
        let published = |publisher: u16| {
            outcome.publishers.get(usize::from(publisher)).map_or(0, |publisher| publisher.published)
        };
        for (subscriber, index) in outcome.subscribers.iter().zip(0..) {
            latency.merge(&subscriber.latency);
            counts.foreign += subscriber.foreign;
            match &subscriber.accounts {
                Accounts::Each(ledgers) => {
                    let sources = plan.scenario.sources(index);
                    ledgers
                        .iter()
                        .zip(sources)
                        .for_each(|(ledger, source)| counts.add(ledger, published(source)));
                }
                Accounts::Member(orders) => counts.late += orders.iter().map(Order::late).sum::<u64>(),
            }
        }
        if plan.scenario.reach == Reach::AnyOne {
            for (ledger, publisher) in outcome.groups.iter().zip(0..) {
                // Only each member's own order is kept: the group as a whole has none.
                let late = counts.late;
                counts.add(ledger, published(publisher));
                counts.late = late;
            }
        }
        Self {
            broker_memory: outcome.broker_memory,
            latency: plan.per_second.and_then(|_| latency.summary()),
            ..Self::empty(plan, plan.scenario.to_string()).measured(
                counts,
                outcome.elapsed,
                outcome.broker_cpu,
                outcome.generator_cpu,
            )
        }
    }

    /// The same report with counts, and the figures that follow from them and the time they took.
    pub(crate) fn measured(
        self,
        counts: Counts,
        elapsed: Duration,
        broker_cpu: Option<CpuTime>,
        generator_cpu: CpuTime,
    ) -> Self {
        let seconds = elapsed.as_secs_f64();
        let delivered = counts.delivered as f64;
        Self {
            counts,
            seconds,
            deliveries_per_second: crate::stats::ratio(delivered, seconds).unwrap_or(0.0),
            broker_cpu: broker_cpu.map(|time| BrokerCpu {
                time,
                micros_per_delivery: crate::stats::ratio(time.total_seconds * 1e6, delivered),
            }),
            generator_cpu_seconds: generator_cpu.total_seconds,
            ..self
        }
    }

    /// Every message arrived exactly once and in order.
    pub(crate) fn is_faultless(&self) -> bool {
        self.counts.is_faultless()
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, protocol, transport, qos, payload_bytes, .. } = self;
        writeln!(
            out,
            "scenario     {scenario}, MQTT {protocol} over {transport}, QoS {qos}, {payload_bytes} B"
        )?;
        if self.counts.due > 0 {
            self.write_deliveries(out)?;
        }
        if let Some(connections) = &self.connections {
            connections.write(out)?;
        }
        if let Some(stored) = &self.stored {
            let Stored { sessions, acknowledged_per_second, puback, broker_cpu_micros_per_message } = stored;
            writeln!(
                out,
                "stored       {acknowledged_per_second:.0} acknowledged/s, for {sessions} sessions that were away"
            )?;
            if let Some(puback) = puback {
                writeln!(out, "PUBACK       {puback}")?;
            }
            if let Some(micros) = broker_cpu_micros_per_message {
                writeln!(out, "             {micros:.3} us of broker CPU per message stored")?;
            }
        }
        if let Some(cpu) = &self.broker_cpu {
            let CpuTime { user_seconds, system_seconds, .. } = cpu.time;
            writeln!(out, "broker CPU   {user_seconds:.2} s user, {system_seconds:.2} s system")?;
            if let Some(micros) = cpu.micros_per_delivery {
                writeln!(out, "             {micros:.3} us per delivery (seconds per million)")?;
            }
        }
        if let Some(Memory { pss_bytes, rss_bytes }) = self.broker_memory {
            writeln!(out, "broker size  {} KiB PSS, {} KiB RSS", pss_bytes / 1024, rss_bytes / 1024)?;
        }
        writeln!(out, "own CPU      {:.2} s", self.generator_cpu_seconds)?;
        if let Some(latency) = &self.latency {
            writeln!(out, "latency      {latency}")?;
        }
        Ok(())
    }
}

impl RunReport {
    fn write_deliveries(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { published, due, delivered, lost, duplicates, late, foreign, stalled } = self.counts;
        writeln!(out, "published    {published}")?;
        writeln!(out, "delivered    {delivered} of {due} due")?;
        writeln!(out, "faults       {lost} lost, {duplicates} duplicate, {late} late, {foreign} foreign")?;
        if stalled {
            writeln!(out, "stalled      a publisher gave up waiting")?;
        }
        let Self { seconds, deliveries_per_second, .. } = self;
        writeln!(out, "throughput   {deliveries_per_second:.0} deliveries/s in {seconds:.3} s")
    }
}

impl Connections {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, seconds, per_second, broker_cpu_micros, resumed, memory } = self;
        writeln!(
            out,
            "connections  {count} in {seconds:.3} s, {per_second:.0} per second, {resumed} resumed"
        )?;
        if let Some(micros) = broker_cpu_micros {
            writeln!(out, "             {micros:.1} us of broker CPU for each")?;
        }
        let Some(IdleMemory { before, after, pss_bytes_per_connection: pss, rss_bytes_per_connection: rss }) =
            memory
        else {
            return Ok(());
        };
        let kib = |bytes: u64| bytes / 1024;
        writeln!(
            out,
            "PSS          {} KiB before, {} KiB after",
            kib(before.pss_bytes),
            kib(after.pss_bytes)
        )?;
        writeln!(
            out,
            "RSS          {} KiB before, {} KiB after",
            kib(before.rss_bytes),
            kib(after.rss_bytes)
        )?;
        writeln!(out, "per idle     {pss:.0} B PSS, {rss:.0} B RSS")
    }
}

/// The version as it is written in reports and on the command line.
pub(crate) fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 => "3.1",
        ProtocolVersion::V311 => "3.1.1",
        ProtocolVersion::V5 => "5",
    }
}

/// Memory of the broker process around the opening of idle connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleMemory {
    pub(crate) before: Memory,
    pub(crate) after: Memory,
    pub(crate) pss_bytes_per_connection: f64,
    pub(crate) rss_bytes_per_connection: f64,
}

impl IdleMemory {
    /// Divides the growth among `connections`, which must not be 0.
    pub(crate) fn new(before: Memory, after: Memory, connections: u32) -> Self {
        let share = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(connections);
        Self {
            before,
            after,
            pss_bytes_per_connection: share(before.pss_bytes, after.pss_bytes),
            rss_bytes_per_connection: share(before.rss_bytes, after.rss_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{publisher, subscriber, test_plan};

    fn subscriber(ledgers: Vec<Ledger>) -> subscriber::Outcome {
        let accounts = Accounts::Each(ledgers);
        subscriber::Outcome { accounts, foreign: 0, latency: Histogram::new(), last: None }
    }

    fn ledger(arrivals: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        arrivals.iter().for_each(|sequence| ledger.record(*sequence));
        ledger
    }

    fn outcome(published: &[u64], subscribers: Vec<subscriber::Outcome>) -> Outcome {
        let cpu = CpuTime { user_seconds: 1.5, system_seconds: 0.5, total_seconds: 2.0 };
        let publisher = |published| publisher::Outcome { published, stalled: false };
        Outcome {
            publishers: published.iter().copied().map(publisher).collect(),
            subscribers,
            groups: Vec::new(),
            broker_memory: None,
            elapsed: Duration::from_secs(2),
            broker_cpu: Some(cpu),
            generator_cpu: cpu,
        }
    }

    #[test]
    fn fan_out_expects_every_message_at_every_subscriber() {
        let outcome =
            outcome(&[3], vec![subscriber(vec![ledger(&[0, 1, 2])]), subscriber(vec![ledger(&[0, 0, 2])])]);

        let report = RunReport::new(&test_plan("1-2"), &outcome);

        let Counts { published, due, delivered, lost, duplicates, late, .. } = report.counts;
        assert_eq!((published, due, delivered), (3, 6, 5));
        assert_eq!((lost, duplicates, late), (1, 1, 0));
        assert!(!report.is_faultless());
        assert_eq!(report.broker_cpu.unwrap().micros_per_delivery, Some(400_000.0));
        assert_eq!(report.deliveries_per_second, 2.5);
    }

    #[test]
    fn pairs_expect_each_message_at_one_subscriber_only() {
        let (first, second) = (ledger(&[0, 1]), ledger(&[0]));
        let outcome = outcome(&[2, 1], vec![subscriber(vec![first]), subscriber(vec![second])]);

        let report = RunReport::new(&test_plan("pairs-2"), &outcome);

        assert_eq!((report.counts.due, report.counts.delivered, report.counts.lost), (3, 3, 0));
        assert!(report.is_faultless());
    }

    #[test]
    fn a_group_is_due_each_message_once_and_each_member_its_order() {
        let member = |arrivals: &[u64]| {
            let mut order = Order::default();
            arrivals.iter().for_each(|sequence| order.record(*sequence));
            let accounts = Accounts::Member(vec![order]);
            subscriber::Outcome { accounts, foreign: 0, latency: Histogram::new(), last: None }
        };
        let mut outcome = outcome(&[5], vec![member(&[0, 3]), member(&[2, 1, 1])]);
        outcome.groups = vec![ledger(&[0, 3, 2, 1, 1])];

        let Counts { due, delivered, lost, duplicates, late, .. } =
            RunReport::new(&test_plan("shared-1-2"), &outcome).counts;

        assert_eq!((due, delivered, lost, duplicates, late), (5, 4, 1, 1, 2));
    }

    #[test]
    fn cpu_per_delivery_is_absent_when_nothing_was_delivered() {
        let report = RunReport::new(&test_plan("1-1"), &outcome(&[0], vec![subscriber(vec![ledger(&[])])]));

        assert_eq!(report.broker_cpu.unwrap().micros_per_delivery, None);
    }

    #[test]
    fn memory_per_connection_is_the_growth_divided_and_may_be_negative() {
        let memory = |bytes| Memory { pss_bytes: bytes, rss_bytes: 2 * bytes };

        let grown = IdleMemory::new(memory(1_000), memory(3_000), 4);
        let shrunk = IdleMemory::new(memory(3_000), memory(1_000), 4);

        assert_eq!((grown.pss_bytes_per_connection, grown.rss_bytes_per_connection), (500.0, 1_000.0));
        assert_eq!(shrunk.pss_bytes_per_connection, -500.0);
    }
}
