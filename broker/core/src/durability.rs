//! How durably the messages of a topic are kept, if it is less durably than the broker keeps messages otherwise.
//!
//! The class of a topic does not change while the broker runs, so a message needs no mark of its own.

use std::sync::Arc;

use veilmq_protocol::{TopicFilter, TopicName};

/// When the answers to what a client has stored go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promise {
    /// Once it is durable: nothing acknowledged is lost.
    #[default]
    Stored,
    /// At once: what came right before a crash is lost.
    Received,
}

/// When a message may be acknowledged, and what a crash can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageDurability {
    /// Acknowledged once it is stored: nothing acknowledged is lost.
    Commit,
    /// Acknowledged at once and stored: what came right before a crash is lost.
    Interval,
    /// Acknowledged at once and never stored: a restart forgets it.
    Memory,
}

/// The topics whose messages are kept less durably. A topic that both lists match is kept the more durable way.
#[derive(Clone, Debug, Default)]
pub struct RelaxedTopics {
    /// Topic Filters of messages that are acknowledged before they are stored.
    pub interval: Vec<Arc<str>>,
    /// Topic Filters of messages that are kept in memory only.
    pub memory: Vec<Arc<str>>,
}

impl RelaxedTopics {
    /// Returns how durably messages of a topic are kept.
    pub(crate) fn durability_of(&self, topic: TopicName<'_>) -> MessageDurability {
        let is_matched_by = |filters: &[Arc<str>]| {
            filters.iter().any(|filter| TopicFilter::new(filter).is_ok_and(|filter| filter.matches(topic)))
        };
        if is_matched_by(&self.interval) {
            MessageDurability::Interval
        } else if is_matched_by(&self.memory) {
            MessageDurability::Memory
        } else {
            MessageDurability::Commit
        }
    }

    /// Tells whether messages of a topic are kept in memory only.
    pub(crate) fn is_in_memory(&self, topic: &str) -> bool {
        !self.memory.is_empty()
            && TopicName::new(topic).is_ok_and(|topic| self.durability_of(topic) == MessageDurability::Memory)
    }
}
