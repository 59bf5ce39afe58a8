//! The same rows on several brokers in interleaved rounds, so that the noise of the machine hits all alike.
//!
//! Each row is measured on every broker before the next row, and each round begins with another broker. A run
//! with lost, duplicate or late messages is a fault that the report names; so is a run that failed.

mod row;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use veilmq_protocol::QoS;

pub(crate) use self::row::{Carrier, PAIRS};
use self::row::{Measured, Row, measure};
use crate::broker::{self, BrokerError, BrokerSpec, Persistence, RunningBroker, Secrets};
use crate::load::Plan;
use crate::scenario::Scenario;
use crate::stats::{median, ratio};

/// What is compared.
#[derive(Clone)]
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
    /// Connections of the rows about their rate; `None` leaves them out.
    pub(crate) connects: Option<u32>,
    /// Retained messages of their row; `None` leaves it out.
    pub(crate) retained: Option<u32>,
    /// What brokers speak TLS and VEIL-1 with; `None` leaves those rows out.
    pub(crate) secrets: Option<Arc<Secrets>>,
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
                if !row.suits(spec.kind) {
                    continue;
                }
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
    let mut rows = Vec::new();
    for scenario in &comparison.scenarios {
        rows.extend(comparison.qos.iter().map(|qos| Row::Flood(*scenario, *qos)));
    }
    if let Some(per_second) = comparison.latency_per_second {
        rows.extend(comparison.qos.iter().map(|qos| Row::Latency(*qos, per_second)));
    }
    let carriers = if comparison.secrets.is_some() { ALL_CARRIERS } else { &[Carrier::Tcp] };
    for carrier in carriers.iter().filter(|carrier| !matches!(carrier, Carrier::Tcp | Carrier::TlsResumed)) {
        rows.extend(comparison.qos.iter().map(|qos| Row::Secured(*carrier, *qos)));
    }
    if let Some(count) = comparison.connects {
        rows.extend(carriers.iter().map(|carrier| Row::Connects(*carrier, count)));
    }
    if let Some(count) = comparison.idle_connections {
        let kept = carriers.iter().filter(|carrier| **carrier != Carrier::TlsResumed);
        // A handshake takes the generator longer than a connection does.
        rows.extend(kept.map(|carrier| match carrier {
            Carrier::Tcp => Row::Idle(Carrier::Tcp, count),
            secured => Row::Idle(*secured, (count / SECURED_SHARE).max(1)),
        }));
    }
    rows.extend(comparison.retained.map(Row::Retained));
    if !comparison.away.is_empty() {
        rows.extend([1, PAIRS].map(Row::Stored));
    }
    rows.extend(comparison.away.iter().copied().map(Row::Away));
    // What none of them can do is no row.
    rows.retain(|row| comparison.brokers.iter().any(|spec| row.suits(spec.kind)));
    rows
}

/// Of the idle connections, so many times fewer are opened over TLS and over VEIL-1.
const SECURED_SHARE: u32 = 5;
const ALL_CARRIERS: &[Carrier] = &[Carrier::Tcp, Carrier::Tls, Carrier::TlsResumed, Carrier::Veil];

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
                let samples = rounds.iter().filter_map(|measured| measured.get(index).copied());
                samples.filter(|sample| sample.is_finite()).collect()
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
        let rows = [Row::Flood(Scenario::fan_out(100), QoS::AtLeastOnce), Row::Idle(Carrier::Tcp, 10)];
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
