//! Scopes: which topics share a group key (VEIL-1 section 8.1).
//!
//! Owns the rule that picks one scope for a topic. Knows no key. Invariant: a table is ordered so that the
//! first scope that matches a topic is the one the topic belongs to.

use std::cmp::{Ordering, Reverse};

use veilmq_protocol::{TopicFilter, TopicName, veil::channel::hash};

use super::error::ConfigError;

/// A Topic Filter that names the topics sharing a group key and a roster.
///
/// ```
/// use veilmq_client::e2e::Scope;
/// use veilmq_protocol::TopicName;
///
/// let scope = Scope::new("factory/line-3/#")?;
///
/// assert!(scope.contains(TopicName::new("factory/line-3/sensor/temperature").unwrap()));
/// assert!(!scope.contains(TopicName::new("factory/line-4/sensor/temperature").unwrap()));
/// # Ok::<(), veilmq_client::e2e::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    filter: Box<str>,
    hash: [u8; 32],
    tag: [u8; 4],
}

impl Scope {
    /// Takes a Topic Filter: `+` anywhere, `#` at the end only.
    ///
    /// # Errors
    /// [`ConfigError::InvalidFilter`], or [`ConfigError::SharedFilter`] for `$share/...`.
    pub fn new(filter: &str) -> Result<Self, ConfigError> {
        let parsed = TopicFilter::new(filter).map_err(|_| ConfigError::InvalidFilter)?;
        if parsed.shared().is_some() {
            return Err(ConfigError::SharedFilter);
        }
        let [a, b, c, d, ..] = hash(&[b"veil1 scope", filter.as_bytes()]);
        Ok(Self { filter: filter.into(), hash: hash(&[filter.as_bytes()]), tag: [a, b, c, d] })
    }

    /// Returns the Topic Filter.
    pub fn as_str(&self) -> &str {
        &self.filter
    }

    /// Returns whether the filter matches `topic`; a more specific scope may still own it.
    pub fn contains(&self, topic: TopicName<'_>) -> bool {
        filter_contains(&self.filter, topic)
    }

    /// Returns the lookup hint that envelopes carry: the first 4 bytes of `H("veil1 scope" || scope)`.
    pub fn tag(&self) -> [u8; 4] {
        self.tag
    }

    /// Returns `H(scope)`, which group keys are derived with.
    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Orders the more specific scope first: most literal levels, then longest, then last in byte order.
    ///
    /// The last step makes scopes such as `a/+` and `a/#` comparable, so that every party picks the same one.
    pub(super) fn by_specificity(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }

    fn rank(&self) -> (Reverse<usize>, Reverse<usize>, Reverse<&str>) {
        let literal_levels = self.filter.split('/').filter(|level| !matches!(*level, "+" | "#")).count();
        (Reverse(literal_levels), Reverse(self.filter.len()), Reverse(&self.filter))
    }
}

/// Returns whether `topic` matches `filter`; an invalid filter matches nothing.
pub(super) fn filter_contains(filter: &str, topic: TopicName<'_>) -> bool {
    TopicFilter::new(filter).is_ok_and(|filter| filter.matches(topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_belongs_to_the_scope_with_most_literal_levels_then_the_longest() {
        let mut scopes = ["#", "+/b", "a/#", "a/+", "a/b/#", "a/+/c", "a/b/c", "a/+/+", "a/+/+/+"]
            .map(|f| Scope::new(f).unwrap());
        scopes.sort_by(Scope::by_specificity);
        let rows = [
            ("a/b/c", "a/b/c"),
            ("a/b/d", "a/b/#"),
            ("a/x/c", "a/+/c"),
            ("a/x/y", "a/+/+"),
            ("a/x/y/z", "a/+/+/+"),
            ("a/b/y/z", "a/b/#"),
            ("a", "a/#"),
            ("a/x", "a/+"),
            ("x/b", "+/b"),
            ("z", "#"),
        ];
        for (topic, expected) in rows {
            let topic = TopicName::new(topic).unwrap();
            let owner = scopes.iter().find(|scope| scope.contains(topic)).map(Scope::as_str);
            assert_eq!(owner, Some(expected), "{}", topic.as_str());
        }
    }

    #[test]
    fn scope_tag_is_the_one_in_the_reference_envelopes() {
        assert_eq!(Scope::new("factory/line-3/#").unwrap().tag(), [0x95, 0x05, 0x37, 0xd6]);
    }

    #[test]
    fn filters_that_name_no_topics_are_refused() {
        for filter in ["", "a/#/b", "a+/b"] {
            assert_eq!(Scope::new(filter), Err(ConfigError::InvalidFilter), "{filter}");
        }
        assert_eq!(Scope::new("$share/g/a"), Err(ConfigError::SharedFilter));
    }
}
