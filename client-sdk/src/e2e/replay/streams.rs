//! What is remembered for each sender and topic, within bounds for each sender and altogether.
//!
//! Invariants: `sizes` lists every sender under its number of topics; what makes room is the topic that a sender used longest ago,
//! and never the one that came last. A sender with no more topics than an equal share of the whole loses none to others.

use std::collections::{BTreeMap, BTreeSet};

use veilmq_protocol::veil::Kid;

use super::{Stream, StreamName};
use crate::e2e::lru::Lru;

pub(super) struct Streams {
    total_max: usize,
    sender_max: usize,
    total: usize,
    senders: BTreeMap<Kid, Lru<[u8; 32], Stream>>,
    /// How many topics each sender has.
    sizes: BTreeSet<(usize, Kid)>,
}

impl Streams {
    pub(super) fn new(total_max: usize, sender_max: usize) -> Self {
        Self {
            total_max: total_max.max(1),
            sender_max,
            total: 0,
            senders: BTreeMap::new(),
            sizes: BTreeSet::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.total
    }

    /// Looks a stream up without counting it as a use.
    pub(super) fn peek(&self, name: &StreamName) -> Option<&Stream> {
        self.senders.get(&name.sender)?.peek(&name.topic_hash)
    }

    /// Looks a stream up and makes it the one that its sender used last.
    pub(super) fn touch(&mut self, name: &StreamName) -> Option<&mut Stream> {
        self.senders.get_mut(&name.sender)?.touch(&name.topic_hash)
    }

    /// Remembers a stream. Returns whether another had to go for it.
    pub(super) fn insert(&mut self, name: StreamName, stream: Stream) -> bool {
        let StreamName { sender, topic_hash } = name;
        let sender_max = self.sender_max;
        let replaced = self.change(sender, |own| own.insert(topic_hash, stream).is_some(), sender_max);
        if self.total <= self.total_max {
            return replaced;
        }
        if let Some(victim) = self.who_makes_room(sender) {
            self.change(victim, |own| own.pop_oldest().is_some(), sender_max);
        }
        true
    }

    /// Visits the streams of one sender after the other, those used longest ago first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamName, &Stream)> {
        self.senders.iter().flat_map(|(sender, own)| {
            let name = |topic_hash: &[u8; 32]| StreamName { sender: *sender, topic_hash: *topic_hash };
            own.iter().map(move |(topic_hash, stream)| (name(topic_hash), stream))
        })
    }

    /// Whoever has most; of several the newcomer, unless it has nothing but what just came.
    fn who_makes_room(&self, newcomer: Kid) -> Option<Kid> {
        let own = self.senders.get(&newcomer).map_or(0, Lru::len);
        let largest = self.sizes.iter().rev().find(|(_, sender)| *sender != newcomer);
        match largest {
            Some((size, sender)) if *size > own || own <= 1 => Some(*sender),
            Some(_) | None => (own > 1).then_some(newcomer),
        }
    }

    fn change<T>(
        &mut self,
        sender: Kid,
        change: impl FnOnce(&mut Lru<[u8; 32], Stream>) -> T,
        sender_max: usize,
    ) -> T {
        let own = self.senders.entry(sender).or_insert_with(|| Lru::new(sender_max));
        let before = own.len();
        let changed = change(own);
        let after = own.len();
        self.total = self.total - before + after;
        self.sizes.remove(&(before, sender));
        match after {
            0 => drop(self.senders.remove(&sender)),
            _ => drop(self.sizes.insert((after, sender))),
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(sender: u8, topic: u16) -> StreamName {
        let mut topic_hash = [0; 32];
        topic_hash[..2].copy_from_slice(&topic.to_be_bytes());
        StreamName { sender: Kid::from_bytes([sender; 8]), topic_hash }
    }

    /// Brings topics of a sender one after the other; returns how many had to go.
    fn fill(streams: &mut Streams, sender: u8, topics: impl IntoIterator<Item = u16>) -> usize {
        topics.into_iter().filter(|topic| streams.insert(name(sender, *topic), Stream::default())).count()
    }

    fn known(streams: &Streams, sender: u8) -> Vec<u16> {
        (0..1_000).filter(|topic| streams.peek(&name(sender, *topic)).is_some()).collect()
    }

    #[test]
    fn a_sender_beyond_its_own_bound_pushes_out_its_own_oldest() {
        let mut streams = Streams::new(100, 3);
        fill(&mut streams, 1, 0..3);
        streams.touch(&name(1, 0));

        assert_eq!(fill(&mut streams, 1, [3]), 1);

        assert_eq!(known(&streams, 1), [0, 2, 3]);
        assert_eq!(streams.len(), 3);
    }

    #[test]
    fn a_sender_that_fills_the_whole_takes_nothing_from_those_with_a_share_of_it() {
        let mut streams = Streams::new(30, 30);
        fill(&mut streams, 1, 0..10);
        fill(&mut streams, 2, 0..5);

        // There is room for fifteen, and then its own make room.
        assert_eq!(fill(&mut streams, 3, 0..500), 500 - 15);

        assert_eq!(known(&streams, 1).len(), 10);
        assert_eq!(known(&streams, 2).len(), 5);
        assert_eq!(known(&streams, 3), (485..500).collect::<Vec<_>>());
        assert_eq!(streams.len(), 30);
    }

    #[test]
    fn who_has_most_makes_room_for_who_has_little() {
        let mut streams = Streams::new(30, 30);
        fill(&mut streams, 1, 0..30);

        assert_eq!(fill(&mut streams, 2, 0..20), 20);

        // Once it has as much, what it brings costs itself.
        assert_eq!(known(&streams, 1), (15..30).collect::<Vec<_>>());
        assert_eq!(known(&streams, 2), (5..20).collect::<Vec<_>>());
    }

    #[test]
    fn what_came_last_is_always_remembered() {
        let mut streams = Streams::new(3, 3);
        for sender in 1..=200 {
            fill(&mut streams, sender, [u16::from(sender)]);
            assert!(streams.peek(&name(sender, sender.into())).is_some(), "{sender}");
            assert_eq!(streams.len(), 3.min(sender.into()));
        }
    }
}
