//! The index: in which batch of the log the live entry of each key is.
//!
//! It is built from the log when a store is opened, in parts and by as many threads, and follows every commit. Values stay on disk.
//! Invariant: an entry that puts a value is live exactly if the index gives its batch for its key, since no batch has two for one key.

mod part;

use veilmq_core::{MessageId, Part, SessionId};

pub(crate) use self::part::IndexPart;
use super::apart::at_once;
use super::entry::{Effect, Key};
use super::rows::RowKey;

/// Where the live entries are.
pub(crate) struct Index {
    /// At least one; a key is in the one that has its number.
    parts: Vec<IndexPart>,
}

impl Index {
    /// Makes an empty index of so many parts, at least one.
    pub(crate) fn new(parts: u16) -> Self {
        Self { parts: Part::all(parts).map(|_| IndexPart::default()).collect() }
    }

    /// Returns the parts, each with what is its own.
    pub(crate) fn parts(&mut self) -> impl Iterator<Item = (Part, &mut IndexPart)> {
        let count = u16::try_from(self.parts.len()).unwrap_or(u16::MAX);
        Part::all(count).zip(&mut self.parts)
    }

    /// Returns the bytes of all live entries.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.parts.iter().map(IndexPart::live_bytes).sum()
    }

    /// Tells whether the session has a head.
    pub(crate) fn has_head(&self, session: SessionId) -> bool {
        self.part(session.0).has_head(session)
    }

    /// Tells which sessions have a head.
    pub(crate) fn heads(&self) -> impl Iterator<Item = SessionId> {
        self.parts.iter().flat_map(IndexPart::heads)
    }

    /// Tells whether anything is stored of the session.
    pub(crate) fn has_session(&self, session: SessionId) -> bool {
        self.part(session.0).has_session(session)
    }

    /// Returns the number of the batch with the live entry of the key; None if it has none.
    pub(crate) fn sequence_of(&self, key: Key) -> Option<u64> {
        self.part(key.number()).sequence_of(key)
    }

    /// Returns the row in which the entry of a body begins.
    pub(crate) fn row_of(&self, message: MessageId) -> Option<RowKey> {
        self.part(message.0).row_of(message)
    }

    /// Takes an entry in that is at `place` and has `bytes` bytes; entries come in the order of the log.
    pub(crate) fn apply(&mut self, effect: Effect, place: RowKey, bytes: usize) {
        self.part_mut(effect.number()).apply(effect, place, bytes);
    }

    /// Forgets everything that refers to a session or a body that is not there, and returns its keys. What a session had as a member of a
    /// group needs no session.
    pub(crate) fn take_orphans(&mut self) -> Vec<Key> {
        let has_body = |message| self.row_of(message).is_some();
        let orphans = at_once(self.parts.iter().map(|part| || part.orphans(has_body))).concat();
        for key in &orphans {
            self.part_mut(key.number()).forget(*key);
        }
        orphans
    }

    fn part(&self, number: u64) -> &IndexPart {
        &self.parts[Part::index_of(number, self.parts.len())]
    }

    fn part_mut(&mut self, number: u64) -> &mut IndexPart {
        let index = Part::index_of(number, self.parts.len());
        &mut self.parts[index]
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::PacketId;

    use super::super::entry::Name;
    use super::*;

    const SESSION: SessionId = SessionId(7);
    const OTHER: SessionId = SessionId(8);
    const MESSAGE: MessageId = MessageId(3);

    fn put(index: &mut Index, sequence: u64, key: Key, bytes: usize) {
        index.apply(Effect::Put { key, shared: false }, RowKey { sequence, chunk: 2 }, bytes);
    }

    fn put_shared(index: &mut Index, sequence: u64, key: Key, bytes: usize) {
        index.apply(Effect::Put { key, shared: true }, RowKey::first_of(sequence), bytes);
    }

    fn keys(session: SessionId) -> [Key; 4] {
        [
            Key::Session(session),
            Key::Subscription(session, Name::of("a/#")),
            Key::Received(session, PacketId::new(9).unwrap()),
            Key::Reference(session, MESSAGE),
        ]
    }

    #[test]
    fn the_last_put_of_a_key_is_live_until_it_is_removed() {
        let keys = [&keys(SESSION)[..], &[Key::Retained(Name::of("a")), Key::Body(MESSAGE)]].concat();
        let mut index = Index::new(3);
        for (sequence, bytes) in [(1, 10), (5, 30)] {
            keys.iter().for_each(|key| put(&mut index, sequence, *key, bytes));

            assert!(keys.iter().all(|key| index.sequence_of(*key) == Some(sequence)));
            assert_eq!(index.live_bytes(), 6 * bytes as u64);
        }
        assert_eq!(index.row_of(MESSAGE), Some(RowKey { sequence: 5, chunk: 2 }));

        for key in &keys {
            index.apply(Effect::Removed(*key), RowKey::first_of(6), 4);
            assert_eq!(index.sequence_of(*key), None);
        }

        assert_eq!((index.live_bytes(), index.has_session(SESSION)), (0, false));
    }

    #[test]
    fn the_end_of_a_session_leaves_what_it_had_as_a_member_of_groups() {
        let mut index = Index::new(3);
        for session in [SESSION, OTHER] {
            keys(session).iter().for_each(|key| put(&mut index, 1, *key, 10));
        }
        let shared = Key::Reference(SESSION, MessageId(4));
        put_shared(&mut index, 1, shared, 10);

        index.apply(Effect::SessionEnded(SESSION), RowKey::first_of(2), 2);

        assert!(keys(SESSION).iter().all(|key| index.sequence_of(*key).is_none()));
        assert!(keys(OTHER).iter().all(|key| index.sequence_of(*key) == Some(1)));
        assert_eq!((index.sequence_of(shared), index.live_bytes()), (Some(1), 50));
        assert!(index.has_session(SESSION) && !index.has_head(SESSION));
    }

    #[test]
    fn what_refers_to_nothing_is_found_and_forgotten() {
        let mut index = Index::new(3);
        keys(SESSION).iter().skip(1).for_each(|key| put(&mut index, 1, *key, 10));
        keys(OTHER).iter().for_each(|key| put(&mut index, 1, *key, 10));
        put(&mut index, 1, Key::Body(MessageId(4)), 10);
        put_shared(&mut index, 1, Key::Reference(SESSION, MessageId(4)), 10);

        let mut orphans = index.take_orphans();

        orphans.sort();
        let mut expected = [&keys(SESSION)[1..], &[Key::Reference(OTHER, MESSAGE)]].concat();
        expected.sort();
        assert_eq!(orphans, expected);
        assert_eq!((index.live_bytes(), index.take_orphans()), (50, vec![]));
    }
}
