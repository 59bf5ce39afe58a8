//! Which topics cross a bridge, in which direction, and what they are called on the other side.
//!
//! Invariant: a mapped name matches the filter of the side it goes to. A name made up so that its end becomes a `$` topic here
//! therefore never crosses under a filter that begins with a wildcard ([MQTT-4.7.2-1]).

use veilmq_protocol::{QoS, TopicError, TopicFilter, TopicName};

use crate::link::Side;

/// Where the messages of a mapping go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the other broker to this one.
    In,
    /// From this broker to the other one.
    Out,
    /// Either way.
    Both,
}

impl Direction {
    /// Says whether messages that come from `side` cross.
    #[must_use]
    pub const fn takes_from(self, side: Side) -> bool {
        match (self, side) {
            (Self::Both, _) | (Self::In, Side::Remote) | (Self::Out, Side::Local) => true,
            (Self::In, Side::Local) | (Self::Out, Side::Remote) => false,
        }
    }
}

/// A mapping that names no topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{filter}' is no topic filter: {source}")]
pub struct MappingError {
    filter: String,
    source: TopicError,
}

/// One rule of what crosses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    direction: Direction,
    qos: QoS,
    local: Naming,
    remote: Naming,
}

/// What the topics of a mapping are called on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Naming {
    /// What is put before a name that comes in, and taken from one that goes out.
    prefix: String,
    filter: String,
    /// How many bytes of the filter begin every name that it matches.
    fixed_bytes: usize,
}

impl Naming {
    fn new(prefix: &str, pattern: &str) -> Result<Self, MappingError> {
        let filter = format!("{prefix}{pattern}");
        match TopicFilter::new(&filter) {
            Ok(_) => Ok(Self { prefix: prefix.to_owned(), fixed_bytes: fixed_bytes(&filter), filter }),
            Err(source) => Err(MappingError { filter, source }),
        }
    }

    /// Says no without reading the filter where the beginning is another: there may be thousands of mappings.
    fn matches(&self, topic: &str) -> bool {
        if !self.filter.get(..self.fixed_bytes).is_some_and(|fixed| topic.starts_with(fixed)) {
            return false;
        }
        match (TopicFilter::new(&self.filter), TopicName::new(topic)) {
            (Ok(filter), Ok(topic)) => filter.matches(topic),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }
}

fn fixed_bytes(filter: &str) -> usize {
    let wildcard = filter.find(['+', '#']);
    match wildcard {
        None => filter.len(),
        // [MQTT-4.7.1-2] `a/#` matches `a` as well.
        Some(at) if filter.as_bytes().get(at) == Some(&b'#') => at.saturating_sub(1),
        Some(at) => at,
    }
}

impl Mapping {
    /// Makes a mapping of the topics `pattern`, which are called `local_prefix` and then `pattern` here, and `remote_prefix` and
    /// then `pattern` on the other side; an empty pattern makes the prefixes whole topics. `qos` is the highest that crosses.
    ///
    /// # Errors
    /// A prefix and the pattern make no Topic Filter, which the error then names.
    pub fn new(
        pattern: &str,
        direction: Direction,
        qos: QoS,
        local_prefix: &str,
        remote_prefix: &str,
    ) -> Result<Self, MappingError> {
        let (local, remote) = (Naming::new(local_prefix, pattern)?, Naming::new(remote_prefix, pattern)?);
        Ok(Self { direction, qos, local, remote })
    }

    /// Where its messages go.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// The highest QoS that crosses.
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.qos
    }

    /// The Topic Filter of its topics on one side.
    #[must_use]
    pub fn filter(&self, side: Side) -> &str {
        &self.naming(side).filter
    }

    /// What a topic of `from` is called on the other side; `None` if it does not cross.
    #[must_use]
    pub fn map(&self, from: Side, topic: &str) -> Option<String> {
        let (source, sink) = (self.naming(from), self.naming(from.other()));
        if !self.direction.takes_from(from) || !source.matches(topic) {
            return None;
        }
        let rest = topic.strip_prefix(source.prefix.as_str())?;
        let mapped = format!("{}{rest}", sink.prefix);
        sink.matches(&mapped).then_some(mapped)
    }

    /// By how many bytes a name may grow on its way from `from`.
    #[must_use]
    pub fn growth(&self, from: Side) -> usize {
        self.naming(from.other()).prefix.len().saturating_sub(self.naming(from).prefix.len())
    }

    fn naming(&self, side: Side) -> &Naming {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_as_the_filter_says_whatever_it_begins_with() {
        let filters = ["#", "+", "a", "a/#", "a/+", "+/a", "a/+/c", "a/b/#", "a/b", "/", "/#", "\u{e4}/#"];
        let names = [
            "a", "b", "ab", "a/", "a/b", "a/b/c", "a/b/d", "ab/c", "b/a", "/", "/a", "$a", "\u{e4}",
            "\u{e4}/x",
        ];
        for (filter, name) in filters.iter().flat_map(|filter| names.map(|name| (*filter, name))) {
            let mapping = Mapping::new(filter, Direction::Both, QoS::AtMostOnce, "", "").unwrap();

            let expected = TopicFilter::new(filter).unwrap().matches(TopicName::new(name).unwrap());
            assert_eq!(mapping.map(Side::Local, name).is_some(), expected, "{filter} {name}");
        }
    }
}
