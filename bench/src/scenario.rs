//! Who publishes to whom: `1-1`, `1-100` (fan-out), `100-1` (fan-in), `pairs-10`.
//!
//! Invariant: at least one publisher and one subscriber, at most [`CLIENTS_MAX`] of each.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use thiserror::Error;

/// Publishers or subscribers of one scenario at most.
pub(crate) const CLIENTS_MAX: u16 = 10_000;

/// The clients of a run and their topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One publisher, one topic, this many subscribers.
    FanOut(u16),
    /// This many publishers, one topic, one subscriber.
    FanIn(u16),
    /// This many publishers, each with a topic and a subscriber of its own.
    Pairs(u16),
}

/// A scenario that cannot be run.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ScenarioError {
    #[error("expected PUBLISHERS-SUBSCRIBERS with a 1 on one side (1-1, 1-100, 100-1) or pairs-N")]
    Form,
    #[error("publishers and subscribers must be 1 to {CLIENTS_MAX}")]
    Range,
}

impl Scenario {
    pub(crate) fn publishers(self) -> u16 {
        match self {
            Self::FanOut(_) => 1,
            Self::FanIn(count) | Self::Pairs(count) => count,
        }
    }

    pub(crate) fn subscribers(self) -> u16 {
        match self {
            Self::FanIn(_) => 1,
            Self::FanOut(count) | Self::Pairs(count) => count,
        }
    }

    /// The subscribers that receive what `publisher` sends.
    pub(crate) fn audience(self, publisher: u16) -> Range<u16> {
        match self {
            Self::FanOut(_) | Self::FanIn(_) => 0..self.subscribers(),
            Self::Pairs(_) => publisher..publisher + 1,
        }
    }

    /// How many deliveries one published message causes.
    pub(crate) fn deliveries_per_message(self) -> u64 {
        u64::from(self.audience(0).end - self.audience(0).start)
    }

    /// The number of the topic that `publisher` publishes to.
    pub(crate) fn publisher_topic(self, publisher: u16) -> u16 {
        self.audience(publisher).start
    }

    /// The number of the topic that `subscriber` subscribes to.
    pub(crate) fn subscriber_topic(self, subscriber: u16) -> u16 {
        match self {
            Self::FanOut(_) | Self::FanIn(_) => 0,
            Self::Pairs(_) => subscriber,
        }
    }
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (left, right) = text.split_once('-').ok_or(ScenarioError::Form)?;
        match (left, right) {
            ("pairs", count) => Ok(Self::Pairs(parse_count(count)?)),
            ("1", count) => Ok(Self::FanOut(parse_count(count)?)),
            (count, "1") => Ok(Self::FanIn(parse_count(count)?)),
            _ => Err(ScenarioError::Form),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FanOut(count) => write!(out, "1-{count}"),
            Self::FanIn(count) => write!(out, "{count}-1"),
            Self::Pairs(count) => write!(out, "pairs-{count}"),
        }
    }
}

fn parse_count(text: &str) -> Result<u16, ScenarioError> {
    // `u16::from_str` also takes a plus sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ScenarioError::Form);
    }
    text.parse().ok().filter(|count| (1..=CLIENTS_MAX).contains(count)).ok_or(ScenarioError::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_written_as_it_is_read() {
        for text in ["1-1", "1-100", "100-1", "1-10000", "pairs-1", "pairs-500"] {
            assert_eq!(text.parse::<Scenario>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_scenario_is_refused() {
        let rows = [
            ("", ScenarioError::Form),
            ("1", ScenarioError::Form),
            ("1-", ScenarioError::Form),
            ("-1", ScenarioError::Form),
            ("2-2", ScenarioError::Form),
            ("1-+5", ScenarioError::Form),
            ("1-1-1", ScenarioError::Form),
            ("pairs-x", ScenarioError::Form),
            ("1-0", ScenarioError::Range),
            ("0-1", ScenarioError::Range),
            ("pairs-0", ScenarioError::Range),
            ("1-10001", ScenarioError::Range),
            ("99999999-1", ScenarioError::Range),
        ];

        for (text, error) in rows {
            assert_eq!(text.parse::<Scenario>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn every_subscriber_listens_to_the_topic_of_the_publishers_it_is_the_audience_of() {
        for text in ["1-1", "1-7", "7-1", "pairs-7"] {
            let scenario: Scenario = text.parse().unwrap();
            for publisher in 0..scenario.publishers() {
                for subscriber in 0..scenario.subscribers() {
                    let hears = scenario.subscriber_topic(subscriber) == scenario.publisher_topic(publisher);
                    assert_eq!(
                        scenario.audience(publisher).contains(&subscriber),
                        hears,
                        "{text}: publisher {publisher}, subscriber {subscriber}"
                    );
                }
            }
        }
    }
}
