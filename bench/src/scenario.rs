//! Who publishes to whom: `1-1`, `1-100` (fan-out), `100-1` (fan-in), `pairs-10`, `shared-100-10`, `wildcards-10000`,
//! `subscriptions-100000`.
//!
//! Invariant: at least one publisher and one subscriber, at most [`CLIENTS_MAX`] of each.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use thiserror::Error;

/// Publishers or subscribers of one scenario at most.
pub(crate) const CLIENTS_MAX: u16 = 10_000;
/// Pairs that the traffic of `wildcards-N` and `subscriptions-N` flows between.
const TRAFFIC_PAIRS: u16 = 10;
/// Filters of `wildcards-N` at most.
const WILDCARDS_MAX: u32 = 100_000;
/// Filters of `subscriptions-N` at most.
const BYSTANDER_FILTERS_MAX: u32 = 1_000_000;
/// Filters that one bystander holds at most.
const FILTERS_PER_BYSTANDER: u32 = 1_000;

/// Which subscribers a message reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every one: all clients share one topic.
    All,
    /// The one with the publisher's number, which has topics of its own.
    Own,
    /// Any one of them: they are one group of a Shared Subscription.
    AnyOne,
}

/// The clients of a run, their topics and their subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) publishers: u16,
    pub(crate) subscribers: u16,
    pub(crate) reach: Reach,
    /// Topics that each publisher takes in turn. With more than one, each is subscribed to by a filter of its own, with wildcards.
    pub(crate) topics: u16,
    /// Filters with wildcards that further clients hold and no message matches.
    pub(crate) bystander_filters: u32,
}

/// A scenario that cannot be run.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ScenarioError {
    #[error(
        "expected PUBLISHERS-SUBSCRIBERS with a 1 on one side (1-1, 1-100, 100-1), pairs-N, shared-PUBLISHERS-SUBSCRIBERS, \
         wildcards-N or subscriptions-N"
    )]
    Form,
    #[error("publishers and subscribers must be 1 to {CLIENTS_MAX}")]
    Clients,
    #[error("wildcards must be {TRAFFIC_PAIRS} to {WILDCARDS_MAX} and a multiple of {TRAFFIC_PAIRS}")]
    Wildcards,
    #[error("subscriptions must be 1 to {BYSTANDER_FILTERS_MAX}")]
    Subscriptions,
}

impl Scenario {
    /// `count` publishers, each with a topic and a subscriber of its own.
    pub(crate) const fn pairs(count: u16) -> Self {
        Self { publishers: count, subscribers: count, reach: Reach::Own, topics: 1, bystander_filters: 0 }
    }

    /// One publisher, one topic, `count` subscribers.
    pub(crate) const fn fan_out(count: u16) -> Self {
        Self { publishers: 1, subscribers: count, reach: Reach::All, topics: 1, bystander_filters: 0 }
    }

    /// `count` publishers, one topic, one subscriber.
    pub(crate) const fn fan_in(count: u16) -> Self {
        Self { publishers: count, subscribers: 1, reach: Reach::All, topics: 1, bystander_filters: 0 }
    }

    /// `publishers` and one group of `subscribers`, each of which gets a part of the messages.
    pub(crate) const fn shared(publishers: u16, subscribers: u16) -> Self {
        Self { publishers, subscribers, reach: Reach::AnyOne, topics: 1, bystander_filters: 0 }
    }

    /// Pairs that hold `10 * topics` filters with wildcards, of which each message matches one.
    pub(crate) const fn wildcards(topics: u16) -> Self {
        Self { topics, ..Self::pairs(TRAFFIC_PAIRS) }
    }

    /// Pairs beside `filters` filters with wildcards that no message matches.
    pub(crate) const fn subscriptions(filters: u32) -> Self {
        Self { bystander_filters: filters, ..Self::pairs(TRAFFIC_PAIRS) }
    }

    /// Clients that hold the filters that nothing matches.
    pub(crate) fn bystanders(self) -> u16 {
        self.bystander_filters.div_ceil(FILTERS_PER_BYSTANDER) as u16
    }

    /// All clients that subscribe: the subscribers, and behind them the bystanders.
    pub(crate) fn listeners(self) -> u16 {
        self.subscribers + self.bystanders()
    }

    /// Connections of a run.
    pub(crate) fn clients(self) -> u32 {
        u32::from(self.publishers) + u32::from(self.listeners())
    }

    /// The publishers that `listener` hears.
    pub(crate) fn sources(self, listener: u16) -> Range<u16> {
        match self.reach {
            _ if listener >= self.subscribers => 0..0,
            Reach::All | Reach::AnyOne => 0..self.publishers,
            Reach::Own => listener..listener + 1,
        }
    }

    /// How many deliveries one published message causes.
    pub(crate) fn deliveries_per_message(self) -> u64 {
        match self.reach {
            Reach::All => self.subscribers.into(),
            Reach::Own | Reach::AnyOne => 1,
        }
    }

    /// The topics that `publisher` publishes to in turn, below `root`.
    pub(crate) fn publisher_topics(self, root: &str, publisher: u16) -> Vec<String> {
        let branch = self.branch(publisher);
        match self.topics {
            1 => vec![format!("{root}/{branch}")],
            topics => (0..topics).map(|topic| format!("{root}/{branch}/x/{topic}")).collect(),
        }
    }

    /// The filters that `listener` subscribes to, below `root`.
    pub(crate) fn filters(self, root: &str, listener: u16) -> Vec<String> {
        if let Some(bystander) = listener.checked_sub(self.subscribers) {
            return self.bystander_filters(root, bystander.into());
        }
        let branch = self.branch(listener);
        match (self.reach, self.topics) {
            (Reach::AnyOne, _) => vec![format!("$share/bench/{root}/{branch}")],
            (_, 1) => vec![format!("{root}/{branch}")],
            (_, topics) => (0..topics)
                .map(|topic| wildcard(&format!("{root}/{branch}/+/{topic}"), topic.into()))
                .collect(),
        }
    }

    fn bystander_filters(self, root: &str, bystander: u32) -> Vec<String> {
        let first = bystander * FILTERS_PER_BYSTANDER;
        let end = self.bystander_filters.min(first + FILTERS_PER_BYSTANDER);
        // One level deeper than every topic, so that the tree is walked and nothing found.
        (first..end).map(|number| wildcard(&format!("{root}/+/{number}/+"), number)).collect()
    }

    fn branch(self, client: u16) -> u16 {
        if self.reach == Reach::Own { client } else { 0 }
    }
}

/// Both kinds of wildcards in turn.
fn wildcard(filter: &str, number: u32) -> String {
    if number.is_multiple_of(2) { filter.to_owned() } else { format!("{filter}/#") }
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let clients = |text: &str| {
            count(text)?
                .and_then(|count| u16::try_from(count).ok())
                .filter(|count| (1..=CLIENTS_MAX).contains(count))
                .ok_or(ScenarioError::Clients)
        };
        match text.split('-').collect::<Vec<_>>()[..] {
            ["pairs", pairs] => Ok(Self::pairs(clients(pairs)?)),
            ["shared", publishers, subscribers] => {
                Ok(Self::shared(clients(publishers)?, clients(subscribers)?))
            }
            ["wildcards", filters] => count(filters)?
                .filter(|count| {
                    (1..=WILDCARDS_MAX).contains(count) && count.is_multiple_of(TRAFFIC_PAIRS.into())
                })
                .map(|count| Self::wildcards((count / u32::from(TRAFFIC_PAIRS)) as u16))
                .ok_or(ScenarioError::Wildcards),
            ["subscriptions", filters] => count(filters)?
                .filter(|count| (1..=BYSTANDER_FILTERS_MAX).contains(count))
                .map(Self::subscriptions)
                .ok_or(ScenarioError::Subscriptions),
            ["1", subscribers] => Ok(Self::fan_out(clients(subscribers)?)),
            [publishers, "1"] => Ok(Self::fan_in(clients(publishers)?)),
            _ => Err(ScenarioError::Form),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishers, subscribers, reach, topics, bystander_filters } = *self;
        match reach {
            Reach::AnyOne => write!(out, "shared-{publishers}-{subscribers}"),
            Reach::All => write!(out, "{publishers}-{subscribers}"),
            Reach::Own if bystander_filters > 0 => write!(out, "subscriptions-{bystander_filters}"),
            Reach::Own if topics > 1 => {
                write!(out, "wildcards-{}", u32::from(publishers) * u32::from(topics))
            }
            Reach::Own => write!(out, "pairs-{publishers}"),
        }
    }
}

/// A number of digits alone: `u32::from_str` also takes a plus sign. `None` for one that is too large.
///
/// # Errors
/// The text is something else.
pub(crate) fn count(text: &str) -> Result<Option<u32>, ScenarioError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ScenarioError::Form);
    }
    Ok(text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use veilmq_protocol::{TopicFilter, TopicName};

    #[test]
    fn a_scenario_is_written_as_it_is_read() {
        let texts = [
            "1-1",
            "1-100",
            "100-1",
            "1-10000",
            "pairs-1",
            "pairs-500",
            "shared-100-10",
            "wildcards-10000",
            "subscriptions-100000",
        ];
        for text in texts {
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
            ("shared-3", ScenarioError::Form),
            ("wildcards-", ScenarioError::Form),
            ("1-0", ScenarioError::Clients),
            ("0-1", ScenarioError::Clients),
            ("pairs-0", ScenarioError::Clients),
            ("shared-1-0", ScenarioError::Clients),
            ("1-10001", ScenarioError::Clients),
            ("99999999999-1", ScenarioError::Clients),
            ("wildcards-0", ScenarioError::Wildcards),
            ("wildcards-15", ScenarioError::Wildcards),
            ("wildcards-100010", ScenarioError::Wildcards),
            ("subscriptions-0", ScenarioError::Subscriptions),
            ("subscriptions-1000001", ScenarioError::Subscriptions),
        ];

        for (text, error) in rows {
            assert_eq!(text.parse::<Scenario>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn every_topic_of_a_publisher_matches_one_filter_of_each_listener_that_hears_it_and_none_of_the_others() {
        let texts = ["1-1", "1-7", "7-1", "pairs-7", "shared-3-2", "wildcards-40", "subscriptions-2500"];
        for text in texts {
            let scenario: Scenario = text.parse().unwrap();
            for publisher in 0..scenario.publishers {
                for topic in scenario.publisher_topics("bench/r", publisher) {
                    for listener in 0..scenario.listeners() {
                        let matching = scenario.filters("bench/r", listener);
                        let matching = matching.iter().filter(|filter| matches(filter, &topic)).count();
                        let expected = usize::from(scenario.sources(listener).contains(&publisher));
                        assert_eq!(matching, expected, "{text}: {topic}, listener {listener}");
                    }
                }
            }
        }
    }

    #[test]
    fn filters_are_as_many_as_the_name_says() {
        let rows = [("wildcards-10000", 10_000), ("subscriptions-2500", 2_510), ("shared-100-10", 10)];

        for (text, expected) in rows {
            let scenario: Scenario = text.parse().unwrap();
            let filters = (0..scenario.listeners()).map(|listener| scenario.filters("r", listener).len());
            assert_eq!(filters.sum::<usize>(), expected, "{text}");
        }
    }

    /// A plain reading of MQTT 5.0 section 4.7.
    fn matches(filter: &str, topic: &str) -> bool {
        TopicName::new(topic).unwrap();
        TopicFilter::new(filter).unwrap();
        let mut levels = filter.strip_prefix("$share/bench/").unwrap_or(filter).split('/');
        let mut names = topic.split('/');
        loop {
            match (levels.next(), names.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(level), Some(name)) if level == name => {}
                _ => return false,
            }
        }
    }
}
