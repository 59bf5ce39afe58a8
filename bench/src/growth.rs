//! How cost grows: one curve for each thing there may be more of, and a verdict on each.
//!
//! Every value is a cost per unit (a message, a delivery, a connection, a row), so that a cost which is flat or linear as it
//! should be gives a curve that does not rise. Every point is the median of rounds, each on a fresh broker.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use veilmq_protocol::QoS;

use crate::broker::{BrokerSpec, Persistence, RunningBroker};
use crate::durable;
use crate::idle::{self, IdlePlan};
use crate::load::{self, Amount, Plan};
use crate::page::{command, machine, write_file};
use crate::report::RunReport;
use crate::scenario::Scenario;
use crate::stats::{median, ratio};
use crate::svg::{Lines, rounded};

/// Pairs that the traffic beside idle connections flows between.
const TRAFFIC_PAIRS: u16 = 5;

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    /// Connections, all but ten of them idle.
    Connections,
    /// Subscriptions with wildcards that no message matches.
    Subscriptions,
    /// Subscribers of one topic.
    FanOut,
    /// Idle connections.
    Idle,
    /// Stored messages that a broker starts with.
    Rows,
}

impl Dimension {
    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Subscriptions => "subscriptions",
            Self::FanOut => "subscribers",
            Self::Idle => "idle connections",
            Self::Rows => "stored messages",
        }
    }

    /// What a point of its curve is, and in which unit.
    fn cost(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections | Self::Subscriptions => ("broker CPU per message", "us"),
            Self::FanOut => ("broker CPU per delivery", "us"),
            Self::Idle => ("PSS per connection", "B"),
            Self::Rows => ("start after kill -9, per message", "us"),
        }
    }
}

/// What is measured where.
pub(crate) struct Growth {
    pub(crate) broker: BrokerSpec,
    pub(crate) sizes: Vec<(Dimension, Vec<u32>)>,
    /// Deliveries of each run.
    pub(crate) deliveries: u64,
    pub(crate) rounds: u32,
    /// A point may cost so many times what the first of its curve costs.
    pub(crate) tolerance: f64,
    /// What all runs have in common.
    pub(crate) common: Plan,
}

/// The result: one curve for each dimension.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GrowthReport {
    pub(crate) broker: String,
    pub(crate) rounds: u32,
    pub(crate) tolerance: f64,
    pub(crate) curves: Vec<Curve>,
}

/// The cost of a unit, over how many of something there are.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Curve {
    pub(crate) across: &'static str,
    pub(crate) cost: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) points: Vec<Point>,
    /// The largest cost as a multiple of the first.
    pub(crate) growth: f64,
    /// The growth is within the tolerance.
    pub(crate) within: bool,
}

/// One point of a curve.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) at: u32,
    pub(crate) cost: f64,
}

/// Measures every point, telling `progress` about each.
///
/// # Errors
/// A broker does not start, or a measurement fails.
pub(crate) async fn measure(growth: &Growth, progress: impl Fn(&str)) -> Result<GrowthReport, String> {
    let mut curves = Vec::new();
    for (dimension, sizes) in &growth.sizes {
        let mut points = Vec::new();
        for at in sizes {
            let mut samples = Vec::new();
            for round in 0..growth.rounds {
                let name = dimension.name();
                progress(&format!("{at} {name}, round {} of {}", round + 1, growth.rounds));
                let sample = point(growth, *dimension, *at).await;
                samples.push(sample.map_err(|error| format!("{at} {name}: {error}"))?);
            }
            points.push(Point { at: *at, cost: median(&samples).ok_or("there are no rounds")? });
        }
        curves.push(Curve::new(*dimension, points, growth.tolerance));
    }
    let Growth { broker, rounds, tolerance, .. } = growth;
    Ok(GrowthReport { broker: broker.label.clone(), rounds: *rounds, tolerance: *tolerance, curves })
}

async fn point(growth: &Growth, dimension: Dimension, at: u32) -> Result<f64, String> {
    let spec = &growth.broker;
    if dimension == Dimension::Rows {
        let seconds = durable::restart(spec, &growth.common, at.into()).await?.as_secs_f64();
        return Ok(seconds * 1e6 / f64::from(at));
    }
    // Connections that this broker inherits the limit for.
    let clients = u32::from(2 * TRAFFIC_PAIRS);
    let connections = match dimension {
        Dimension::Subscriptions => Scenario::subscriptions(at).clients(),
        Dimension::Connections | Dimension::FanOut | Dimension::Idle | Dimension::Rows => at.max(clients) + 1,
    };
    idle::allow_open_files(connections).map_err(text)?;
    let broker = RunningBroker::start(spec, Persistence::Off).await.map_err(text)?;
    let plan = Plan { address: broker.address, broker_pid: Some(broker.pid()), ..growth.common.clone() };
    let idle_plan = |connections| IdlePlan {
        address: plan.address,
        transport: plan.transport.clone(),
        version: plan.version,
        connections,
        processes: Some(1),
        broker_pid: plan.broker_pid,
        limit: plan.limit,
    };
    let scenario = match dimension {
        Dimension::Idle => {
            let opened = idle::measure(&idle_plan(at)).await.map_err(text)?;
            return opened.memory.map(|memory| memory.pss_bytes_per_connection).ok_or("no memory".to_owned());
        }
        Dimension::Connections => Scenario::pairs(TRAFFIC_PAIRS),
        Dimension::Subscriptions => Scenario::subscriptions(at),
        Dimension::FanOut | Dimension::Rows => Scenario::fan_out(u16::try_from(at).unwrap_or(u16::MAX)),
    };
    let idle = if dimension == Dimension::Connections { at.saturating_sub(clients) } else { 0 };
    let held = idle::hold(&idle_plan(idle)).await.map_err(text)?;
    let messages = (growth.deliveries / scenario.deliveries_per_message()).max(1);
    let plan = Plan { scenario, qos: QoS::AtMostOnce, amount: Amount::Messages(messages), ..plan.clone() };
    let report = RunReport::new(&plan, &load::run(&plan).await.map_err(text)?);
    drop(held);
    if !report.is_faultless() {
        return Err(report.counts.to_string());
    }
    report.broker_cpu.and_then(|cpu| cpu.micros_per_delivery).ok_or("nothing was delivered".to_owned())
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

impl Curve {
    fn new(dimension: Dimension, points: Vec<Point>, tolerance: f64) -> Self {
        let first = points.first().map_or(0.0, |point| point.cost);
        let largest = points.iter().map(|point| point.cost).fold(first, f64::max);
        let growth = ratio(largest, first).unwrap_or(1.0);
        let (cost, unit) = dimension.cost();
        Self { across: dimension.name(), cost, unit, points, growth, within: growth <= tolerance }
    }

    fn file(&self) -> String {
        format!("growth-{}.svg", self.across.replace(' ', "-"))
    }

    fn plot(&self) -> String {
        let points = self.points.iter().map(|point| (point.at.into(), point.cost)).collect();
        let title = format!("{} over {}, {}", self.cost, self.across, self.unit);
        Lines { title, across: self.across.to_owned(), series: vec![(self.cost.to_owned(), points)] }.render()
    }
}

impl GrowthReport {
    /// No cost grows more than the tolerance allows.
    pub(crate) fn is_flat(&self) -> bool {
        self.curves.iter().all(|curve| curve.within)
    }

    /// Writes `growth.md` and a plot for each curve.
    ///
    /// # Errors
    /// A file cannot be written; the error names it.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), String> {
        let mut page = format!(
            "# How cost grows\n\nMade by `{}`, on {}. {}\n\n",
            command(),
            machine(),
            self.explanation(),
        );
        for curve in &self.curves {
            let heads: Vec<String> = curve.points.iter().map(|point| point.at.to_string()).collect();
            let costs: Vec<String> = curve.points.iter().map(|point| rounded(&point.cost)).collect();
            page.push_str(&format!("## {}, {}\n\n", curve.cost, curve.across));
            page.push_str(&format!("| {} | {} | growth |\n", curve.across, heads.join(" | ")));
            page.push_str(&format!("| --- |{} ---: |\n", " ---: |".repeat(heads.len())));
            let (unit, growth) = (curve.unit, curve.verdict());
            page.push_str(&format!("| {unit} | {} | {growth} |\n\n", costs.join(" | ")));
            page.push_str(&format!("![{} over {}]({})\n\n", curve.cost, curve.across, curve.file()));
            write_file(&directory.join(curve.file()), &curve.plot())?;
        }
        write_file(&directory.join("growth.md"), &format!("{}\n", page.trim_end()))
    }

    fn explanation(&self) -> String {
        let Self { broker, rounds, tolerance, .. } = self;
        format!(
            "The broker is `{broker}`; each figure is the median of {rounds} rounds, each on a fresh broker, at QoS 0. Growth is the \
             largest cost as a multiple of the first; more than {tolerance} is a fault."
        )
    }
}

impl Curve {
    fn verdict(&self) -> String {
        let Self { growth, within, .. } = self;
        if *within { format!("{growth:.2}") } else { format!("{growth:.2}, too much") }
    }
}

impl fmt::Display for GrowthReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for curve in &self.curves {
            let Curve { across, cost, unit, points, .. } = curve;
            write!(out, "{cost} over {across}, {unit}:")?;
            for Point { at, cost } in points {
                write!(out, "  {at}: {}", rounded(cost))?;
            }
            writeln!(out, "  (growth {})", curve.verdict())?;
        }
        writeln!(out, "{}", self.explanation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(costs: &[f64]) -> Curve {
        let points = costs.iter().zip(1..).map(|(cost, at)| Point { at, cost: *cost }).collect();
        Curve::new(Dimension::Subscriptions, points, 1.5)
    }

    #[test]
    fn a_cost_that_rises_above_the_tolerance_is_a_fault_and_one_that_falls_is_none() {
        for (costs, growth, within) in [
            (&[2.0, 2.5, 3.0][..], 1.5, true),
            (&[2.0, 3.2, 2.0], 1.6, false),
            (&[2.0, 1.0, 0.5], 1.0, true),
            (&[2.0], 1.0, true),
        ] {
            let curve = curve(costs);
            assert_eq!((curve.growth, curve.within), (growth, within), "{costs:?}");
        }
    }

    #[test]
    fn a_page_shows_every_curve_and_says_which_grows_too_much() {
        let report = GrowthReport {
            broker: "veilmq".to_owned(),
            rounds: 3,
            tolerance: 1.5,
            curves: vec![curve(&[1.0, 4.0])],
        };
        let directory = tempfile::tempdir().unwrap();

        report.write(directory.path()).unwrap();

        let page = std::fs::read_to_string(directory.path().join("growth.md")).unwrap();
        assert!(page.contains("| us | 1.00 | 4.00 | 4.00, too much |"), "{page}");
        assert!(page.contains("(growth-subscriptions.svg)"), "{page}");
        assert!(directory.path().join("growth-subscriptions.svg").is_file());
        assert!(!report.is_flat());
    }
}
