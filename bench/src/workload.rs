//! What a run does: traffic between clients, or one of the workloads that are not. The named ones are one table.
//!
//! A name that is not in the table is read as the pattern behind it, so that every size can be asked for.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use veilmq_protocol::QoS;

use crate::scenario::{Scenario, ScenarioError, count};

/// Retained messages, connections or sessions of one workload at most.
const COUNT_MAX: u32 = 1_000_000;
/// Sessions that are away at most.
const AWAY_MAX: u32 = 10_000;
/// Payload of every scenario unless the user asks for another one.
pub(crate) const PAYLOAD_BYTES: u32 = 100;
/// Messages of a scenario that the table does not know.
const MESSAGES: u64 = 100_000;

/// The kinds of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Numbered messages from publishers to subscribers.
    Traffic(Scenario),
    /// So many retained messages, each on a topic of its own, to one subscriber of all of them.
    Retained(u32),
    /// So many connections, each closed once it is accepted.
    Connects(u32),
    /// So many connections at once that do nothing.
    Idle(u32),
    /// Messages at QoS 1 for so many durable sessions that are away, which then come back for them.
    Away(u16),
}

/// A workload with the settings it has unless the user asks for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preset {
    pub(crate) name: String,
    pub(crate) workload: Workload,
    pub(crate) qos: QoS,
    pub(crate) payload_bytes: u32,
    /// Messages per second; `None` for full speed.
    pub(crate) per_second: Option<u32>,
    /// Messages that are published.
    pub(crate) messages: u64,
}

/// One line of the table: name, workload, QoS, messages per second (0 for full speed), messages.
type Line = (&'static str, Workload, QoS, u32, u64);

const TABLE: [Line; 17] = {
    use QoS::{AtLeastOnce, AtMostOnce};
    use Workload::{Away, Connects, Idle, Retained, Traffic};
    [
        ("1-1", Traffic(Scenario::fan_out(1)), AtMostOnce, 0, 100_000),
        ("1-100", Traffic(Scenario::fan_out(100)), AtMostOnce, 0, 5_000),
        ("1-1000", Traffic(Scenario::fan_out(1_000)), AtMostOnce, 0, 500),
        ("100-1", Traffic(Scenario::fan_in(100)), AtMostOnce, 0, 100_000),
        ("pairs-10", Traffic(Scenario::pairs(10)), AtMostOnce, 0, 200_000),
        ("pairs-500", Traffic(Scenario::pairs(500)), AtMostOnce, 0, 200_000),
        ("shared-100-10", Traffic(Scenario::shared(100, 10)), AtMostOnce, 0, 100_000),
        ("wildcards-10000", Traffic(Scenario::wildcards(1_000)), AtMostOnce, 0, 100_000),
        ("subscriptions-100000", Traffic(Scenario::subscriptions(100_000)), AtMostOnce, 0, 100_000),
        ("latency", Traffic(Scenario::fan_out(1)), AtLeastOnce, 2_000, 20_000),
        ("retained-100000", Retained(100_000), AtMostOnce, 0, 100_000),
        ("connects-5000", Connects(5_000), AtMostOnce, 0, 0),
        ("idle-5000", Idle(5_000), AtMostOnce, 0, 0),
        ("idle-19000", Idle(19_000), AtMostOnce, 0, 0),
        ("away-1", Away(1), AtLeastOnce, 0, 20_000),
        ("away-10", Away(10), AtLeastOnce, 0, 20_000),
        ("away-100", Away(100), AtLeastOnce, 0, 20_000),
    ]
};

/// A workload that cannot be run.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum WorkloadError {
    #[error("{0}, retained-N, connects-N, idle-N or away-N; `veilmq-bench scenarios` lists the named ones")]
    Scenario(#[from] ScenarioError),
    #[error("{what} must be 1 to {max}")]
    Range { what: &'static str, max: u32 },
}

impl Preset {
    /// All lines of the table.
    pub(crate) fn all() -> Vec<Self> {
        TABLE.iter().map(Self::of).collect()
    }

    /// `count` idle connections.
    pub(crate) fn idle(count: u32) -> Self {
        let workload = Workload::Idle(count);
        Self { name: workload.to_string(), ..Self::of(&("", workload, QoS::AtMostOnce, 0, 0)) }
    }

    fn of(&(name, workload, qos, per_second, messages): &Line) -> Self {
        Self {
            name: name.to_owned(),
            workload,
            qos,
            payload_bytes: PAYLOAD_BYTES,
            per_second: (per_second > 0).then_some(per_second),
            messages,
        }
    }

    /// What the table of scenarios shows, in the order of [`HEAD`].
    pub(crate) fn cells(&self) -> Vec<String> {
        let number = |count: u32| if count == 0 { "-".to_owned() } else { count.to_string() };
        let (publishers, subscribers, topics, is_shared, filters) = match self.workload {
            Workload::Traffic(scenario) => {
                let branches = if scenario.sources(0).len() == 1 { scenario.publishers } else { 1 };
                (
                    scenario.publishers.into(),
                    scenario.subscribers.into(),
                    u32::from(branches) * u32::from(scenario.topics),
                    scenario.filters("", 0).iter().any(|filter| filter.starts_with("$share/")),
                    (0..scenario.listeners())
                        .map(|listener| scenario.filters("", listener).len() as u32)
                        .sum(),
                )
            }
            Workload::Retained(messages) => (1, 1, messages, false, 1),
            Workload::Connects(_) | Workload::Idle(_) => (0, 0, 0, false, 0),
            Workload::Away(sessions) => (1, sessions.into(), 1, false, sessions.into()),
        };
        vec![
            self.name.clone(),
            number(publishers),
            number(subscribers),
            number(topics),
            number(filters),
            if is_shared { "yes" } else { "no" }.to_owned(),
            (self.qos as u8).to_string(),
            self.payload_bytes.to_string(),
            self.per_second.map_or_else(|| "full speed".to_owned(), |rate| rate.to_string()),
            if self.messages == 0 { "-".to_owned() } else { self.messages.to_string() },
        ]
    }
}

/// Heads of the columns of [`Preset::cells`].
pub(crate) const HEAD: [&str; 10] = [
    "name",
    "publishers",
    "subscribers",
    "topics",
    "filters",
    "shared",
    "QoS",
    "payload, B",
    "messages/s",
    "messages",
];

impl FromStr for Preset {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(line) = TABLE.iter().find(|(name, ..)| *name == text) {
            return Ok(Self::of(line));
        }
        let workload = text.parse()?;
        let qos = if matches!(workload, Workload::Away(_)) { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        Ok(Self { name: text.to_owned(), ..Self::of(&("", workload, qos, 0, MESSAGES)) })
    }
}

impl FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let within = |number: &str, what, max| {
            let number = count(number)?.filter(|count| (1..=max).contains(count));
            number.ok_or(WorkloadError::Range { what, max })
        };
        match text.split_once('-') {
            Some(("retained", number)) => Ok(Self::Retained(within(number, "retained messages", COUNT_MAX)?)),
            Some(("connects", number)) => Ok(Self::Connects(within(number, "connections", COUNT_MAX)?)),
            Some(("idle", number)) => Ok(Self::Idle(within(number, "connections", COUNT_MAX)?)),
            Some(("away", number)) => Ok(Self::Away(within(number, "sessions", AWAY_MAX)? as u16)),
            _ => Ok(Self::Traffic(text.parse()?)),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Traffic(scenario) => scenario.fmt(out),
            Self::Retained(count) => write!(out, "retained-{count}"),
            Self::Connects(count) => write!(out, "connects-{count}"),
            Self::Idle(count) => write!(out, "idle-{count}"),
            Self::Away(count) => write!(out, "away-{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_table_says_what_its_workload_is_unless_it_is_a_word() {
        for preset in Preset::all() {
            assert_eq!(preset.name.parse(), Ok(preset.clone()));
            assert_eq!(preset.cells().len(), HEAD.len());
            if preset.name != "latency" {
                assert_eq!(preset.workload.to_string(), preset.name);
                assert_eq!(preset.name.parse(), Ok(preset.workload));
            }
        }
    }

    #[test]
    fn a_size_that_is_not_in_the_table_may_be_asked_for() {
        let preset: Preset = "retained-7".parse().unwrap();

        assert_eq!((preset.workload, preset.name.as_str()), (Workload::Retained(7), "retained-7"));
        assert_eq!(
            "shared-2-3".parse::<Preset>().unwrap().workload,
            Workload::Traffic(Scenario::shared(2, 3))
        );
    }

    #[test]
    fn the_table_counts_topics_and_filters_of_all_clients() {
        let rows = [
            ("1-100", ["1", "100", "1", "100", "no"]),
            ("pairs-10", ["10", "10", "10", "10", "no"]),
            ("shared-100-10", ["100", "10", "1", "10", "yes"]),
            ("wildcards-10000", ["10", "10", "10000", "10000", "no"]),
            ("subscriptions-100000", ["10", "10", "10", "100010", "no"]),
            ("idle-5000", ["-", "-", "-", "-", "no"]),
        ];

        for (name, cells) in rows {
            assert_eq!(name.parse::<Preset>().unwrap().cells()[1..6], cells, "{name}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        for text in ["retained-0", "connects-0", "idle-1000001", "away-10001", "away-99999999999"] {
            assert!(matches!(text.parse::<Preset>(), Err(WorkloadError::Range { .. })), "{text}");
        }
        for text in ["retained-", "idle-x", "nonsense", ""] {
            assert!(matches!(text.parse::<Preset>(), Err(WorkloadError::Scenario(_))), "{text}");
        }
    }
}
