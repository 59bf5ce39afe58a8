//! What a run or an idle measurement says in the end, for people and for programs.
//!
//! Field names carry their unit. Figures that were not measured are absent, never zero.

use std::fmt;

use serde::Serialize;
use veilmq_protocol::ProtocolVersion;

use crate::load::{Outcome, Plan};
use crate::procfs::{CpuTime, Memory};
use crate::stats::{Histogram, LatencySummary};

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) scenario: String,
    pub(crate) protocol: &'static str,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) rate_per_second: Option<u32>,
    pub(crate) published: u64,
    /// Deliveries that were due: published messages times the audience of each.
    pub(crate) due: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    /// Arrived after a message with a higher number of the same publisher.
    pub(crate) late: u64,
    /// Arrived, but no publisher of this run had sent it.
    pub(crate) foreign: u64,
    /// A publisher gave up waiting for acknowledgements or deliveries.
    pub(crate) stalled: bool,
    pub(crate) seconds: f64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) broker_cpu: Option<BrokerCpu>,
    pub(crate) generator_cpu_seconds: f64,
    /// From the due time of a message to its arrival; only at a fixed rate.
    pub(crate) latency: Option<LatencySummary>,
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
    /// Adds up what all clients of a run saw.
    pub(crate) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let mut latency = Histogram::new();
        let (mut delivered, mut lost, mut duplicates, mut late, mut foreign) = (0, 0, 0, 0, 0);
        for (subscriber, index) in outcome.subscribers.iter().zip(0..) {
            latency.merge(&subscriber.latency);
            foreign += subscriber.foreign;
            for ((ledger, publisher), number) in subscriber.ledgers.iter().zip(&outcome.publishers).zip(0..) {
                delivered += ledger.delivered();
                duplicates += ledger.duplicates();
                late += ledger.late();
                if plan.scenario.audience(number).contains(&index) {
                    lost += ledger.lost(publisher.published);
                }
            }
        }
        let published = outcome.publishers.iter().map(|publisher| publisher.published).sum();
        let seconds = outcome.elapsed.as_secs_f64();
        let per_delivery = |total: f64| crate::stats::ratio(total, delivered as f64);
        Self {
            scenario: plan.scenario.to_string(),
            protocol: protocol_name(plan.version),
            qos: plan.qos as u8,
            payload_bytes: plan.payload_bytes,
            rate_per_second: plan.per_second,
            published,
            due: published * plan.scenario.deliveries_per_message(),
            delivered,
            lost,
            duplicates,
            late,
            foreign,
            stalled: outcome.publishers.iter().any(|publisher| publisher.stalled),
            seconds,
            deliveries_per_second: crate::stats::ratio(delivered as f64, seconds).unwrap_or(0.0),
            broker_cpu: outcome.broker_cpu.map(|time| BrokerCpu {
                time,
                micros_per_delivery: per_delivery(time.total_seconds() * 1e6),
            }),
            generator_cpu_seconds: outcome.generator_cpu.total_seconds(),
            latency: plan.per_second.and_then(|_| latency.summary()),
        }
    }

    /// Every message arrived exactly once and in order.
    pub(crate) fn is_faultless(&self) -> bool {
        self.faults() == 0 && !self.stalled
    }

    fn faults(&self) -> u64 {
        self.lost + self.duplicates + self.late + self.foreign
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, protocol, qos, payload_bytes, .. } = self;
        writeln!(out, "scenario     {scenario}, MQTT {protocol}, QoS {qos}, {payload_bytes} B")?;
        writeln!(out, "published    {}", self.published)?;
        writeln!(out, "delivered    {} of {} due", self.delivered, self.due)?;
        let Self { lost, duplicates, late, foreign, .. } = self;
        writeln!(out, "faults       {lost} lost, {duplicates} duplicate, {late} late, {foreign} foreign")?;
        if self.stalled {
            writeln!(out, "stalled      a publisher gave up waiting")?;
        }
        let Self { seconds, deliveries_per_second, .. } = self;
        writeln!(out, "throughput   {deliveries_per_second:.0} deliveries/s in {seconds:.3} s")?;
        if let Some(cpu) = &self.broker_cpu {
            let CpuTime { user_seconds, system_seconds } = cpu.time;
            writeln!(out, "broker CPU   {user_seconds:.2} s user, {system_seconds:.2} s system")?;
            if let Some(micros) = cpu.micros_per_delivery {
                writeln!(out, "             {micros:.3} us per delivery (seconds per million)")?;
            }
        }
        writeln!(out, "own CPU      {:.2} s", self.generator_cpu_seconds)?;
        if let Some(latency) = &self.latency {
            let LatencySummary { p50_micros, p90_micros, p99_micros, p999_micros, max_micros } = latency;
            writeln!(
                out,
                "latency      p50 {p50_micros:.0} us, p90 {p90_micros:.0} us, p99 {p99_micros:.0} us, \
                 p99.9 {p999_micros:.0} us, max {max_micros:.0} us"
            )?;
        }
        Ok(())
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

/// The result of an idle measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleReport {
    pub(crate) connections: u32,
    /// Time to open all of them, one after the other.
    pub(crate) connect_seconds: f64,
    pub(crate) memory: Option<IdleMemory>,
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

impl fmt::Display for IdleReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "connections  {} in {:.3} s", self.connections, self.connect_seconds)?;
        let Some(memory) = &self.memory else { return Ok(()) };
        let kib = |bytes: u64| bytes / 1024;
        let IdleMemory { before, after, .. } = memory;
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
        let IdleMemory { pss_bytes_per_connection: pss, rss_bytes_per_connection: rss, .. } = memory;
        writeln!(out, "per idle     {pss:.0} B PSS, {rss:.0} B RSS")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::{publisher, subscriber, test_plan};
    use std::time::Duration;

    fn subscriber(ledgers: Vec<Ledger>) -> subscriber::Outcome {
        subscriber::Outcome { ledgers, foreign: 0, latency: Histogram::new(), last: None }
    }

    fn ledger(arrivals: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        arrivals.iter().for_each(|sequence| ledger.record(*sequence));
        ledger
    }

    fn outcome(published: &[u64], subscribers: Vec<subscriber::Outcome>) -> Outcome {
        let cpu = CpuTime { user_seconds: 1.5, system_seconds: 0.5 };
        let publisher = |published| publisher::Outcome { published, stalled: false };
        Outcome {
            publishers: published.iter().copied().map(publisher).collect(),
            subscribers,
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

        assert_eq!((report.published, report.due, report.delivered), (3, 6, 5));
        assert_eq!((report.lost, report.duplicates, report.late), (1, 1, 0));
        assert!(!report.is_faultless());
        assert_eq!(report.broker_cpu.unwrap().micros_per_delivery, Some(400_000.0));
        assert_eq!(report.deliveries_per_second, 2.5);
    }

    #[test]
    fn pairs_expect_each_message_at_one_subscriber_only() {
        let (first, second) = (vec![ledger(&[0, 1]), ledger(&[])], vec![ledger(&[]), ledger(&[0])]);
        let outcome = outcome(&[2, 1], vec![subscriber(first), subscriber(second)]);

        let report = RunReport::new(&test_plan("pairs-2"), &outcome);

        assert_eq!((report.due, report.delivered, report.lost), (3, 3, 0));
        assert!(report.is_faultless());
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
