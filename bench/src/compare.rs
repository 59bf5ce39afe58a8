//! The same rows on several brokers in interleaved rounds, so that the noise of the machine hits all alike.
//!
//! Each row is measured on every broker before the next row, and each round begins with another broker. A run
//! with lost, duplicate or late messages is a fault that the report names; so is a run that failed.

use std::time::Duration;

use serde::Serialize;

use crate::broker::{self, BrokerError, BrokerSpec, Persistence, RunningBroker};
use crate::durable;
use crate::idle::{self, IdlePlan};
use crate::load::{self, Amount, Plan};
use crate::report::RunReport;
use crate::scenario::Scenario;
use crate::stats::{median, ratio};
use veilmq_protocol::QoS;

/// Pairs of the row that shows what commits cost when many clients share them.
const STORED_PAIRS: u16 = 10;

/// What is compared.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) brokers: Vec<BrokerSpec>,
    /// The broker that the others are divided by.
    pub(crate) baseline: usize,
    pub(crate) rounds: u32,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) qos: Vec<QoS>,
    /// Deliveries of each run, whatever its scenario.
    pub(crate) deliveries: u64,
    /// Messages per second of the latency rows; `None` leaves them out.
    pub(crate) latency_per_second: Option<u32>,
    pub(crate) latency_time: Duration,
    /// Connections of the memory row; `None` leaves it out.
    pub(crate) idle_connections: Option<u32>,
    /// Durable sessions that are away, of each row.
    pub(crate) away: Vec<u16>,
    /// Messages stored for each of them.
    pub(crate) away_messages: u64,
    /// All that the runs have in common; address, process, scenario, QoS, amount and rate are filled in.
    pub(crate) common: Plan,
}

/// One kind of figure of one row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) row: String,
    pub(crate) unit: &'static str,
    pub(crate) cells: Vec<Cell>,
}

/// What one broker reached.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) broker: String,
    /// One for each round that succeeded.
    pub(crate) samples: Vec<f64>,
    pub(crate) median: Option<f64>,
    /// As a multiple of the baseline's median.
    pub(crate) ratio: Option<f64>,
}

/// A broker and how it was set up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Contestant {
    pub(crate) label: String,
    pub(crate) version: String,
    pub(crate) settings: &'static str,
}

/// Settings that are the same for all brokers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) protocol: &'static str,
    pub(crate) payload_bytes: usize,
    pub(crate) deliveries: u64,
    pub(crate) window: u64,
    pub(crate) inflight_max: u16,
    pub(crate) generator_threads: u16,
    pub(crate) rounds: u32,
}

/// The result of a comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ComparisonReport {
    pub(crate) brokers: Vec<Contestant>,
    pub(crate) baseline: String,
    pub(crate) settings: Settings,
    pub(crate) figures: Vec<Figure>,
    pub(crate) faults: Vec<String>,
}

#[derive(Clone, Copy)]
enum Row {
    Flood(Scenario, QoS),
    Latency(QoS, u32),
    Idle(u32),
    /// Pairs with durable subscribers.
    Stored(u16),
    Away(u16),
}

/// Figures of one row, in the order in which they are shown.
type Measured = Vec<f64>;

/// Measures every row on every broker, telling `progress` about each.
///
/// # Errors
/// A broker does not start the first time. Later failures are faults in the report.
pub(crate) async fn compare(
    comparison: &Comparison,
    progress: impl Fn(&str),
) -> Result<ComparisonReport, BrokerError> {
    let mut running = Vec::with_capacity(comparison.brokers.len());
    for spec in &comparison.brokers {
        running.push(RunningBroker::start(spec, Persistence::Off).await?);
    }
    let rows = rows(comparison);
    let mut tally = Tally::new(rows.len(), running.len());
    for round in 0..comparison.rounds as usize {
        for (row_index, row) in rows.iter().enumerate() {
            for turn in 0..running.len() {
                let place = (round + turn) % running.len();
                let (spec, broker) = (&comparison.brokers[place], &running[place]);
                progress(&format!(
                    "round {} of {}: {}, {}",
                    round + 1,
                    comparison.rounds,
                    row.name(),
                    spec.label
                ));
                let mut fault = |text: String| {
                    tally.faults.push(format!("{}, {}, round {}: {text}", spec.label, row.name(), round + 1));
                };
                match measure(comparison, *row, spec, broker, &mut fault).await {
                    Ok(measured) => tally.samples[row_index][place].push(measured),
                    Err(error) => fault(error),
                }
            }
        }
    }
    drop(running);
    report(comparison, &rows, tally).await
}

fn rows(comparison: &Comparison) -> Vec<Row> {
    let floods = comparison
        .scenarios
        .iter()
        .flat_map(|scenario| comparison.qos.iter().map(move |qos| Row::Flood(*scenario, *qos)));
    let latencies = comparison
        .latency_per_second
        .into_iter()
        .flat_map(|per_second| comparison.qos.iter().map(move |qos| Row::Latency(*qos, per_second)));
    let mut rows: Vec<Row> =
        floods.chain(latencies).chain(comparison.idle_connections.map(Row::Idle)).collect();
    if !comparison.away.is_empty() {
        rows.extend([1, STORED_PAIRS].map(Row::Stored));
    }
    rows.extend(comparison.away.iter().copied().map(Row::Away));
    rows
}

struct Tally {
    /// By row, then by broker: one entry for each successful round.
    samples: Vec<Vec<Vec<Measured>>>,
    faults: Vec<String>,
}

impl Tally {
    fn new(rows: usize, brokers: usize) -> Self {
        Self { samples: vec![vec![Vec::new(); brokers]; rows], faults: Vec::new() }
    }
}

impl Row {
    fn name(self) -> String {
        match self {
            Self::Flood(scenario, qos) => format!("{scenario} QoS {}", qos as u8),
            Self::Latency(qos, per_second) => format!("1-1 QoS {} at {per_second}/s", qos as u8),
            Self::Idle(connections) => format!("{connections} idle connections"),
            Self::Stored(pairs) => format!("durable pairs-{pairs} QoS 1"),
            Self::Away(sessions) => format!("1-{sessions} away"),
        }
    }

    /// Names and units of what the row measures.
    fn figures(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Flood(..) => &[("CPU per delivery", "us"), ("deliveries", "1/s")],
            Self::Latency(..) => &[("p50", "us"), ("p99", "us"), ("CPU per delivery", "us")],
            Self::Idle(_) => &[("PSS per connection", "B")],
            Self::Stored(_) => &[("CPU per delivery", "us"), ("deliveries", "1/s")],
            Self::Away(_) => durable::FIGURES,
        }
    }
}

async fn measure(
    comparison: &Comparison,
    row: Row,
    spec: &BrokerSpec,
    broker: &RunningBroker,
    fault: &mut impl FnMut(String),
) -> Result<Measured, String> {
    let plan = Plan { address: broker.address, broker_pid: Some(broker.pid()), ..comparison.common.clone() };
    match row {
        Row::Flood(scenario, qos) => {
            let messages = (comparison.deliveries / scenario.deliveries_per_message()).max(1);
            let report =
                run(&Plan { scenario, qos, amount: Amount::Messages(messages), ..plan }, fault).await?;
            Ok(vec![cpu_micros(&report)?, report.deliveries_per_second])
        }
        Row::Latency(qos, per_second) => {
            let amount = Amount::Time(comparison.latency_time);
            let per_second = Some(per_second);
            let report =
                run(&Plan { scenario: Scenario::fan_out(1), qos, amount, per_second, ..plan }, fault).await?;
            let latency = report.latency.as_ref().ok_or("nothing was delivered")?;
            Ok(vec![latency.p50_micros, latency.p99_micros, cpu_micros(&report)?])
        }
        Row::Idle(connections) => Ok(vec![idle_bytes(&plan, spec, connections).await?]),
        Row::Stored(pairs) => {
            let fresh =
                RunningBroker::start(spec, Persistence::Disk).await.map_err(|error| error.to_string())?;
            let plan = Plan {
                address: fresh.address,
                broker_pid: Some(fresh.pid()),
                is_durable: true,
                scenario: Scenario::pairs(pairs),
                qos: QoS::AtLeastOnce,
                amount: Amount::Messages(comparison.away_messages),
                ..plan
            };
            let report = run(&plan, fault).await?;
            Ok(vec![cpu_micros(&report)?, report.deliveries_per_second])
        }
        Row::Away(sessions) => durable::measure(spec, &plan, sessions, comparison.away_messages).await,
    }
}

async fn run(plan: &Plan, fault: &mut impl FnMut(String)) -> Result<RunReport, String> {
    let outcome = load::run(plan).await.map_err(|error| error.to_string())?;
    let report = RunReport::new(plan, &outcome);
    if !report.is_faultless() {
        fault(report.counts.to_string());
    }
    Ok(report)
}

fn cpu_micros(report: &RunReport) -> Result<f64, String> {
    let cpu = report.broker_cpu.as_ref().and_then(|cpu| cpu.micros_per_delivery);
    cpu.ok_or_else(|| "nothing was delivered".to_owned())
}

/// Weighs a fresh process: one that has worked before keeps memory that new connections would reuse.
async fn idle_bytes(plan: &Plan, spec: &BrokerSpec, connections: u32) -> Result<f64, String> {
    idle::allow_open_files(connections).map_err(|error| error.to_string())?;
    let fresh = RunningBroker::start(spec, Persistence::Off).await.map_err(|error| error.to_string())?;
    let idle_plan = IdlePlan {
        address: fresh.address,
        transport: plan.transport.clone(),
        version: plan.version,
        connections,
        processes: None,
        broker_pid: Some(fresh.pid()),
        limit: plan.limit,
    };
    let opened = idle::measure(&idle_plan).await.map_err(|error| error.to_string())?;
    opened.memory.map(|memory| memory.pss_bytes_per_connection).ok_or_else(|| "no memory was read".to_owned())
}

async fn report(
    comparison: &Comparison,
    rows: &[Row],
    tally: Tally,
) -> Result<ComparisonReport, BrokerError> {
    let mut brokers = Vec::new();
    for spec in &comparison.brokers {
        let version = broker::version(spec).await;
        brokers.push(Contestant { label: spec.label.clone(), version, settings: spec.kind.settings() });
    }
    let labels: Vec<&str> = comparison.brokers.iter().map(|spec| spec.label.as_str()).collect();
    let common = &comparison.common;
    Ok(ComparisonReport {
        baseline: labels[comparison.baseline].to_owned(),
        figures: figures(rows, &tally, &labels, comparison.baseline),
        brokers,
        settings: Settings {
            protocol: crate::report::protocol_name(common.version),
            payload_bytes: common.payload_bytes,
            deliveries: comparison.deliveries,
            window: common.window,
            inflight_max: common.inflight_max,
            generator_threads: common.threads,
            rounds: comparison.rounds,
        },
        faults: tally.faults,
    })
}

fn figures(rows: &[Row], tally: &Tally, labels: &[&str], baseline: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (row, by_broker) in rows.iter().zip(&tally.samples) {
        for (index, (name, unit)) in row.figures().iter().enumerate() {
            let samples = |rounds: &Vec<Measured>| -> Vec<f64> {
                rounds.iter().filter_map(|measured| measured.get(index).copied()).collect()
            };
            let samples: Vec<Vec<f64>> = by_broker.iter().map(samples).collect();
            let reference = samples.get(baseline).and_then(|samples| median(samples));
            let cell = |(samples, label): (Vec<f64>, &&str)| {
                let median = median(&samples);
                let ratio = median.zip(reference).and_then(|(median, reference)| ratio(median, reference));
                Cell { broker: (*label).to_owned(), samples, median, ratio }
            };
            let cells = samples.into_iter().zip(labels).map(cell).collect();
            figures.push(Figure { row: format!("{}: {name}", row.name()), unit, cells });
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_by_figure_and_broker() {
        let rows = [Row::Flood(Scenario::fan_out(100), QoS::AtLeastOnce), Row::Idle(10)];
        let mut tally = Tally::new(2, 2);
        tally.samples[0][0] = vec![vec![4.0, 100.0], vec![2.0, 300.0], vec![9.0, 200.0]];
        tally.samples[0][1] = vec![vec![1.0, 400.0]];
        tally.samples[1][0] = vec![vec![1024.0]];

        let figures = figures(&rows, &tally, &["mosquitto", "veilmq"], 0);

        let names: Vec<_> = figures.iter().map(|figure| (figure.row.as_str(), figure.unit)).collect();
        assert_eq!(
            names,
            [
                ("1-100 QoS 1: CPU per delivery", "us"),
                ("1-100 QoS 1: deliveries", "1/s"),
                ("10 idle connections: PSS per connection", "B"),
            ]
        );
        let cells: Vec<Vec<_>> = figures
            .iter()
            .map(|figure| figure.cells.iter().map(|cell| (cell.median, cell.ratio)).collect())
            .collect();
        assert_eq!(cells[0], [(Some(4.0), Some(1.0)), (Some(1.0), Some(0.25))]);
        assert_eq!(cells[1], [(Some(200.0), Some(1.0)), (Some(400.0), Some(2.0))]);
        assert_eq!(cells[2], [(Some(1024.0), Some(1.0)), (None, None)]);
    }
}
