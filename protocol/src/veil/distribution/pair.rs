//! Pairs: a publisher, and a subscriber that it has messages for alone (VEIL-1 sections 7 and 9.1).
//!
//! Owns how a pair is named as a scope, and where its messages go. Invariant: parsing accepts exactly what `Display` writes.

use alloc::{
    format,
    string::{String, ToString},
};
use core::fmt;

use crate::veil::registry::Kid;

const NAME: &str = "pairwise:";

/// A publisher and one subscriber, in this direction.
///
/// ```
/// use veilmq_protocol::veil::distribution::Pair;
///
/// let pair: Pair = Pair::parse("pairwise:9de50bb148ef83cd:6a87196860500705").unwrap();
///
/// assert_eq!(pair.filter(), "_veil/1/p2p/6a87196860500705/#");
/// assert_eq!(Pair::subscriber_of("_veil/1/p2p/6a87196860500705/line-3/t"), Some(pair.subscriber));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Who seals.
    pub publisher: Kid,
    /// Who opens.
    pub subscriber: Kid,
}

impl Pair {
    /// What every topic of a pair begins with; the key identifier of the subscriber and the topic follow.
    pub const TOPICS: &'static str = "_veil/1/p2p/";

    /// Recognises the scope of a pair; `None` for any other.
    #[must_use]
    pub fn parse(scope: &str) -> Option<Self> {
        let (publisher, subscriber) = scope.strip_prefix(NAME)?.split_once(':')?;
        let pair = Self { publisher: publisher.parse().ok()?, subscriber: subscriber.parse().ok()? };
        (pair.to_string() == scope).then_some(pair)
    }

    /// Returns the Topic Filter of everything that its subscriber gets, from this publisher and from others.
    #[must_use]
    pub fn filter(&self) -> String {
        format!("{}{}/#", Self::TOPICS, self.subscriber)
    }

    /// Returns the Topic Name of what `subscriber` alone gets of `topic`.
    #[must_use]
    pub fn topic(subscriber: Kid, topic: &str) -> String {
        format!("{}{subscriber}/{topic}", Self::TOPICS)
    }

    /// Returns whose messages a Topic Name, or all names that a filter matches, are; `None` if they are not for one subscriber.
    #[must_use]
    pub fn subscriber_of(topic: &str) -> Option<Kid> {
        let (level, rest) = topic.strip_prefix(Self::TOPICS)?.split_once('/')?;
        let subscriber: Kid = level.parse().ok()?;
        (!rest.is_empty() && subscriber.to_string() == level).then_some(subscriber)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}{}:{}", self.publisher, self.subscriber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_so_is_a_pair_or_a_topic_of_one() {
        let (a, b) = ("9de50bb148ef83cd", "6a87196860500705");
        for (scope, is_pair) in [
            (format!("pairwise:{a}:{b}"), true),
            (format!("pairwise:{}:{b}", a.to_uppercase()), false),
            (format!("pairwise:{a}:{b}:"), false),
            (format!("pairwise:{a}"), false),
            (format!("{a}:{b}"), false),
        ] {
            assert_eq!(Pair::parse(&scope).is_some(), is_pair, "{scope}");
        }
        for (topic, is_one) in [
            (format!("_veil/1/p2p/{b}/t"), true),
            (format!("_veil/1/p2p/{b}/#"), true),
            (format!("_veil/1/p2p/{b}/"), false),
            (format!("_veil/1/p2p/{b}"), false),
            (format!("_veil/1/p2p/{}/t", a.to_uppercase()), false),
            (String::from("_veil/1/p2p/+/t"), false),
            (format!("_veil/1/jr/{b}/t"), false),
        ] {
            assert_eq!(Pair::subscriber_of(&topic).is_some(), is_one, "{topic}");
        }
    }
}
