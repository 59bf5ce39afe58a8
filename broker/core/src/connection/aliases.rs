//! Topic Aliases towards a client: which topic has which alias on one Network Connection (section 3.3.2.3.4).
//!
//! First come, first served: an alias keeps its topic, because giving it to another costs that topic in full again and three
//! bytes more. Invariant: an alias is in the table only if a PUBLISH with topic and alias is in the outbox, and none is above
//! the client's Topic Alias Maximum.

use std::collections::HashMap;
use std::num::NonZeroU16;

/// What the property takes in a packet: its identifier and the alias.
const ALIAS_BYTES: usize = 3;

/// The topics of one connection that have an alias.
#[derive(Debug)]
pub(super) struct TopicAliases {
    maximum: u16,
    aliases: HashMap<Box<[u8]>, NonZeroU16>,
}

/// What an alias can do for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alias {
    /// The client knows it: it stands for the topic.
    Bound(NonZeroU16),
    /// The client may be told of it, together with the topic.
    Free(NonZeroU16),
    /// All are taken, or it would take more bytes than the topic.
    None,
}

impl TopicAliases {
    /// Makes the table of a connection whose client takes aliases up to `maximum`; None if it takes none.
    // [MQTT-3.1.2-27]
    pub(super) fn new(maximum: u16) -> Option<Box<Self>> {
        (maximum > 0).then(|| Box::new(Self { maximum, aliases: HashMap::new() }))
    }

    /// Returns what an alias can do for a topic.
    pub(super) fn alias_of(&self, topic: &[u8]) -> Alias {
        if topic.len() <= ALIAS_BYTES {
            return Alias::None;
        }
        if let Some(alias) = self.aliases.get(topic) {
            return Alias::Bound(*alias);
        }
        // [MQTT-3.1.2-26]
        let next = u16::try_from(self.aliases.len() + 1).ok().filter(|next| *next <= self.maximum);
        next.and_then(NonZeroU16::new).map_or(Alias::None, Alias::Free)
    }

    /// Takes note that the client was told of a free alias.
    pub(super) fn bind(&mut self, topic: &[u8], alias: NonZeroU16) {
        self.aliases.insert(Box::from(topic), alias);
    }
}
