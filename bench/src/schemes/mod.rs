//! The experiment of the paper: its four schemes, `veil` and TLS, measured side by side.
//!
//! Publisher, broker and subscribers are processes of their own, so that CPU time divides between them by what the kernel
//! says. Each run has a fresh broker with one shard; contestants take turns within a round, so that what else the machine does
//! falls on all of them. Operations are counted by the code that makes them, in short runs of their own at QoS 0 in which a message is
//! sent when all have had the last, because acknowledgements and messages that share a record are no part of the paper's Table 2.

mod contestant;
mod crypto;
mod part;
mod publisher;
mod report;
mod subscribers;
mod worker;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use veilmq_protocol::veil::Suite;
use veilmq_protocol::veil::channel::Operations;

pub(crate) use self::contestant::Contestant;
use self::crypto::CryptoCost;
use self::part::{Carrier, Connected, Counts, Done, Part, Role};
pub(crate) use self::report::{Counted, Measured, SchemesReport};
use self::worker::Worker;
use crate::Failure;
use crate::broker::{BrokerSpec, Persistence, RunningBroker, Secrets};
use crate::idle::allow_open_files;
use crate::procfs::CpuTime;
use crate::stats::median;

/// Messages of a run that counts operations.
const COUNTED_MESSAGES: u64 = 20;
/// How long connecting may take, and what a run may take beyond its schedule.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured.
pub(crate) struct Experiment {
    pub(crate) veilmq: BrokerSpec,
    /// Without one the conventional case is left out.
    pub(crate) mosquitto: Option<BrokerSpec>,
    pub(crate) suites: Vec<Suite>,
    pub(crate) subscribers: Vec<u16>,
    pub(crate) messages: u64,
    pub(crate) rounds: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) qos: u8,
    /// Of all subscribers together, in a second, at most.
    pub(crate) deliveries_per_second: u32,
    /// Of the publisher, in a second, at most.
    pub(crate) messages_per_second: u32,
}

/// What one run showed.
struct Run {
    publisher_connect: f64,
    subscriber_connect: f64,
    latency: [f64; 2],
    /// CPU microseconds per message of publisher, broker and all subscribers.
    cpu: [f64; 3],
    /// Operations per message of publisher and broker, and per message and subscriber.
    operations: [Counts; 3],
}

/// Plays the part that standard input tells.
///
/// # Errors
/// It cannot be played to its end.
pub(crate) async fn play() -> Result<(), Failure> {
    let part: Part = part::hear().await?;
    allow_open_files(part.subscribers.into())?;
    match part.role {
        Role::Publisher => publisher::play(&part).await,
        Role::Subscribers => subscribers::play(&part).await,
    }
}

impl Experiment {
    /// Measures everything, telling `progress` about each run.
    ///
    /// # Errors
    /// A broker does not start, or a run does not come to its end.
    pub(crate) async fn measure(&self, progress: impl Fn(&str)) -> Result<SchemesReport, Failure> {
        let secrets = Secrets::make()?;
        allow_open_files(self.subscribers.iter().max().copied().unwrap_or(0).into())?;
        let crypto = self.crypto(&progress)?;
        let mut counted = Vec::new();
        let mut measured = Vec::new();
        for (suite, subscribers) in self.points() {
            for contestant in Contestant::ALL.into_iter().filter(|one| one.table_2(1).is_some()) {
                progress(&format!("counting {contestant}, suite {}, {subscribers} subscribers", suite as u8));
                let run = self.run(contestant, suite, subscribers, true, &secrets).await?;
                counted.push(Counted::new(contestant, suite, subscribers, run.operations));
            }
            let mut samples: Vec<(Contestant, Vec<Run>)> =
                self.contestants().map(|contestant| (contestant, Vec::new())).collect();
            let count = samples.len();
            for round in 0..self.rounds as usize {
                for turn in 0..count {
                    // Each round begins with another, so that none always comes after the same.
                    let Some((contestant, runs)) = samples.get_mut((round + turn) % count) else { continue };
                    progress(&format!(
                        "round {} of {}: {contestant}, suite {}, {subscribers} subscribers",
                        round + 1,
                        self.rounds,
                        suite as u8,
                    ));
                    runs.push(self.run(*contestant, suite, subscribers, false, &secrets).await?);
                }
            }
            measured.extend(
                samples.iter().map(|(contestant, runs)| summary(*contestant, suite, subscribers, runs)),
            );
        }
        Ok(SchemesReport {
            messages: self.messages,
            rounds: self.rounds,
            payload_bytes: self.payload_bytes,
            qos: self.qos,
            brokers: self.versions().await,
            measured,
            counted,
            crypto,
        })
    }

    fn points(&self) -> Vec<(Suite, u16)> {
        let of_suite = |suite: &Suite| self.subscribers.iter().map(|n| (*suite, *n)).collect::<Vec<_>>();
        self.suites.iter().flat_map(of_suite).collect()
    }

    fn contestants(&self) -> impl Iterator<Item = Contestant> {
        let has_mosquitto = self.mosquitto.is_some();
        Contestant::ALL.into_iter().filter(move |one| has_mosquitto || *one != Contestant::Conventional)
    }

    async fn versions(&self) -> Vec<String> {
        let mut versions = vec![crate::broker::version(&self.veilmq).await];
        if let Some(mosquitto) = &self.mosquitto {
            versions.push(crate::broker::version(mosquitto).await);
        }
        versions
    }

    /// What the broker computes, for every scheme with records.
    fn crypto(&self, progress: &impl Fn(&str)) -> Result<Vec<CryptoCost>, Failure> {
        progress("the broker's cryptography alone");
        let mut costs = Vec::new();
        for (suite, subscribers) in self.points() {
            for contestant in
                [Contestant::Scheme2, Contestant::Scheme3, Contestant::Scheme4, Contestant::Veil]
            {
                costs.push(crypto::measure(contestant, suite, self.payload_bytes, subscribers)?);
            }
        }
        Ok(costs)
    }

    async fn run(
        &self,
        contestant: Contestant,
        suite: Suite,
        subscribers: u16,
        counts: bool,
        secrets: &Secrets,
    ) -> Result<Run, Failure> {
        let broker = self.start(contestant, secrets).await?;
        let part = self.part(contestant, suite, subscribers, counts, secrets, &broker);
        let scheduled = part.interval.unwrap_or_default() * u32::try_from(part.messages).unwrap_or(u32::MAX);
        let limit = PATIENCE + 3 * scheduled;
        let mut listening = Worker::start(&Part { role: Role::Subscribers, ..part.clone() })?;
        let subscriber_connect = median(&listening.answer::<Connected>(limit).await?.micros);
        let mut publishing = Worker::start(&part)?;
        let publisher_connect = median(&publishing.answer::<Connected>(limit).await?.micros);

        publishing.say(&())?;
        listening.answer::<()>(limit).await?;
        let pids = [publishing.pid(), broker.pid(), listening.pid()];
        let (operations, cpu) = (operations(contestant, &broker).await?, cpu_of(pids)?);
        publishing.say(&())?;
        if part.interval.is_none() {
            for _ in 1..part.messages {
                listening.answer::<()>(limit).await?;
                publishing.say(&())?;
            }
        }
        let published: Done = publishing.answer(limit).await?;
        let received: Done = listening.answer(limit).await?;
        let spent = cpu_of(pids)?;
        let made = self::operations(contestant, &broker).await?;

        let messages = part.messages;
        let mut each_cpu = [0.0; 3];
        for (each, (after, before)) in each_cpu.iter_mut().zip(spent.into_iter().zip(cpu)) {
            *each = after.since(before).total_seconds * 1e6 / messages as f64;
        }
        let mut broker_made = made.all();
        for (made, before) in broker_made.iter_mut().zip(operations.all()) {
            *made -= before;
        }
        Ok(Run {
            publisher_connect: publisher_connect.ok_or("nobody connected")?,
            subscriber_connect: subscriber_connect.ok_or("nobody connected")?,
            latency: received.latency_micros.ok_or("nothing arrived")?,
            cpu: each_cpu,
            operations: [
                published.operations.each_of(messages),
                Counts::from(broker_made).each_of(messages),
                received.operations.each_of(messages * u64::from(subscribers)),
            ],
        })
    }

    async fn start(&self, contestant: Contestant, secrets: &Secrets) -> Result<RunningBroker, Failure> {
        let spec = match (contestant, &self.mosquitto) {
            (Contestant::Conventional, Some(mosquitto)) => mosquitto,
            _ => &self.veilmq,
        };
        let options = [
            ("VEILMQ__SHARDS__COUNT", "1"),
            ("VEILMQ__VEIL__SCHEMES", "scheme-4,scheme-3,scheme-2,scheme-1"),
            ("VEILMQ__VEIL__FAN_OUT", contestant.fan_out()),
        ];
        Ok(RunningBroker::start_with(spec, Persistence::Off, Some(secrets), &options).await?)
    }

    fn part(
        &self,
        contestant: Contestant,
        suite: Suite,
        subscribers: u16,
        counts: bool,
        secrets: &Secrets,
        broker: &RunningBroker,
    ) -> Part {
        let (address, carrier) = match contestant {
            Contestant::Plain => (broker.address, Carrier::Tcp),
            Contestant::Conventional => {
                (broker.tls_address, Carrier::Tls { certificate: secrets.certificate.clone() })
            }
            _ => {
                let (authority, broker_file) = (secrets.authority.clone(), broker.veil_certificate());
                (broker.address, Carrier::Veil { authority, broker: broker_file })
            }
        };
        let paced = Duration::from_secs(1)
            / self.messages_per_second.min(self.deliveries_per_second / u32::from(subscribers).max(1)).max(1);
        Part {
            role: Role::Publisher,
            contestant,
            suite: suite as u8,
            subscribers,
            messages: if counts { COUNTED_MESSAGES } else { self.messages },
            interval: (!counts).then_some(paced),
            payload_bytes: self.payload_bytes,
            qos: if counts { 0 } else { self.qos },
            address,
            carrier,
        }
    }
}

fn cpu_of(pids: [u32; 3]) -> Result<[CpuTime; 3], Failure> {
    let [publisher, broker, subscribers] = pids;
    Ok([CpuTime::of(publisher)?, CpuTime::of(broker)?, CpuTime::of(subscribers)?])
}

fn summary(contestant: Contestant, suite: Suite, subscribers: u16, runs: &[Run]) -> Measured {
    let middle =
        |of: &dyn Fn(&Run) -> f64| median(&runs.iter().map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    Measured {
        contestant,
        suite: suite as u8,
        subscribers,
        publisher_connect_micros: middle(&|run| run.publisher_connect),
        subscriber_connect_micros: middle(&|run| run.subscriber_connect),
        p50_micros: middle(&|run| run.latency[0]),
        p99_micros: middle(&|run| run.latency[1]),
        publisher_cpu_micros: middle(&|run| run.cpu[0]),
        broker_cpu_micros: middle(&|run| run.cpu[1]),
        subscribers_cpu_micros: middle(&|run| run.cpu[2]),
        broker_cpu_samples: runs.iter().map(|run| run.cpu[1]).collect(),
    }
}

/// What our broker has counted since it started; another broker counts nothing.
async fn operations(contestant: Contestant, broker: &RunningBroker) -> Result<Counts, Failure> {
    if contestant == Contestant::Conventional {
        return Ok(Counts::default());
    }
    let mut stream = TcpStream::connect(broker.admin_address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(counts_in(&page))
}

fn counts_in(page: &str) -> Counts {
    let count = |name: &str| {
        let start = format!("veilmq_channel_operations_total{{operation=\"{name}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(start.as_str())?.parse::<f64>().ok());
        value.unwrap_or_default()
    };
    Operations::NAMES.map(count).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_metrics_by_the_name_of_the_operation() {
        let page = "# HELP veilmq_channel_operations_total x\n\
                    veilmq_channel_operations_total{operation=\"mac\"} 7\n\
                    veilmq_channel_operations_total{operation=\"encryption\"} 12\n\
                    veilmq_channel_operations_total{operation=\"digest_tag\"} 200\n\
                    veilmq_channel_operations_total{operation=\"digest\"} 1\n";

        assert_eq!(counts_in(page).all(), [12.0, 7.0, 200.0, 1.0]);
        assert_eq!(counts_in("").all(), [0.0; 4]);
    }
}
