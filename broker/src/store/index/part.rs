//! One part of the index, for the sessions, bodies and topics that are its own.
//!
//! A reference takes some 30 bytes here. Invariant: `live_bytes` is the sum of all entries that are in the part.

use std::collections::BTreeMap;

use veilmq_core::{IdMap, MessageId, SessionId};
use veilmq_protocol::PacketId;

use super::super::entry::{Effect, Key, Name};
use super::super::rows::RowKey;

/// Maps that lost most of their entries give memory back above this number.
const SHRINK_ABOVE: usize = 256;

/// Where the live entries of some keys are.
#[derive(Default)]
pub(crate) struct IndexPart {
    sessions: IdMap<SessionId, OfSession>,
    bodies: IdMap<MessageId, BodySpot>,
    retained: BTreeMap<Name, Spot>,
    live_bytes: u64,
}

/// What is stored of one session; without a head if it has ended, or if damage took that.
#[derive(Default)]
struct OfSession {
    head: Option<Spot>,
    subscriptions: BTreeMap<Name, Spot>,
    received: BTreeMap<PacketId, Spot>,
    references: IdMap<MessageId, ReferenceSpot>,
}

/// The batch and the size of an entry.
#[derive(Clone, Copy)]
struct Spot {
    sequence: u64,
    bytes: u32,
}

/// A spot in one number, since there may be millions: 47 bits of the sequence number, 16 of the size (at most 65,535 is counted), and
/// whether the session has the reference as a member of a group.
#[derive(Clone, Copy)]
struct ReferenceSpot(u64);

impl ReferenceSpot {
    fn new(sequence: u64, bytes: u32, shared: bool) -> Self {
        Self(sequence << 17 | u64::from(bytes.min(0xffff)) << 1 | u64::from(shared))
    }

    fn sequence(self) -> u64 {
        self.0 >> 17
    }

    fn bytes(self) -> u32 {
        (self.0 >> 1) as u32 & 0xffff
    }

    fn is_shared(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The row in which a body begins, and the size of its entry.
#[derive(Clone, Copy)]
struct BodySpot {
    sequence: u64,
    chunk: u32,
    bytes: u32,
}

impl IndexPart {
    /// Returns the bytes of all live entries.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Tells whether the session has a head.
    pub(crate) fn has_head(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|of_session| of_session.head.is_some())
    }

    /// Tells whether anything is stored of the session.
    pub(crate) fn has_session(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Returns the number of the batch with the live entry of the key; None if it has none.
    pub(crate) fn sequence_of(&self, key: Key) -> Option<u64> {
        let sequence = |spot: &Spot| spot.sequence;
        match key {
            Key::Session(session) => self.sessions.get(&session)?.head.as_ref().map(sequence),
            Key::Subscription(session, name) => {
                self.sessions.get(&session)?.subscriptions.get(&name).map(sequence)
            }
            Key::Received(session, packet_id) => {
                self.sessions.get(&session)?.received.get(&packet_id).map(sequence)
            }
            Key::Retained(name) => self.retained.get(&name).map(sequence),
            Key::Reference(session, message) => {
                self.sessions.get(&session)?.references.get(&message).map(|spot| spot.sequence())
            }
            Key::Body(message) => self.bodies.get(&message).map(|spot| spot.sequence),
        }
    }

    /// Returns the row in which the entry of a body begins.
    pub(crate) fn row_of(&self, message: MessageId) -> Option<RowKey> {
        let BodySpot { sequence, chunk, .. } = *self.bodies.get(&message)?;
        Some(RowKey { sequence, chunk })
    }

    /// Takes an entry in that is at `place` and has `bytes` bytes; entries come in the order of the log.
    pub(crate) fn apply(&mut self, effect: Effect, place: RowKey, bytes: usize) {
        match effect {
            Effect::Put { key, shared } => {
                // No packet has 2^32 bytes, and neither has what is stored of one.
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                let counted = self.put(key, place, bytes, shared);
                self.live_bytes = self.live_bytes - counted.before + counted.after;
            }
            Effect::Removed(key) => self.forget(key),
            Effect::SessionEnded(session) => self.end(session),
        }
    }

    fn put(&mut self, key: Key, place: RowKey, bytes: u32, shared: bool) -> Counted {
        let RowKey { sequence, chunk } = place;
        let spot = Spot { sequence, bytes };
        let before = match key {
            Key::Session(session) => self.of(session).head.replace(spot).map(|spot| spot.bytes),
            Key::Subscription(session, name) => {
                self.of(session).subscriptions.insert(name, spot).map(|spot| spot.bytes)
            }
            Key::Received(session, packet_id) => {
                self.of(session).received.insert(packet_id, spot).map(|spot| spot.bytes)
            }
            Key::Retained(name) => self.retained.insert(name, spot).map(|spot| spot.bytes),
            Key::Reference(session, message) => {
                let spot = ReferenceSpot::new(sequence, bytes, shared);
                let before = self.of(session).references.insert(message, spot);
                return Counted::new(before.map(ReferenceSpot::bytes), spot.bytes());
            }
            Key::Body(message) => {
                let spot = BodySpot { sequence, chunk, bytes };
                self.bodies.insert(message, spot).map(|spot| spot.bytes)
            }
        };
        Counted::new(before, bytes)
    }

    fn of(&mut self, session: SessionId) -> &mut OfSession {
        self.sessions.entry(session).or_default()
    }

    /// Forgets a key and returns the bytes of its live entry.
    fn remove(&mut self, key: Key) -> Option<u32> {
        match key {
            Key::Retained(name) => self.retained.remove(&name).map(|spot| spot.bytes),
            Key::Body(message) => {
                let spot = self.bodies.remove(&message)?;
                shrink(&mut self.bodies);
                Some(spot.bytes)
            }
            Key::Session(session)
            | Key::Subscription(session, _)
            | Key::Received(session, _)
            | Key::Reference(session, _) => {
                let of_session = self.sessions.get_mut(&session)?;
                let bytes = of_session.remove(key);
                if of_session.is_empty() {
                    self.sessions.remove(&session);
                    shrink(&mut self.sessions);
                }
                bytes
            }
        }
    }

    fn end(&mut self, session: SessionId) {
        let Some(of_session) = self.sessions.get_mut(&session) else { return };
        self.live_bytes -= of_session.end();
        if of_session.is_empty() {
            self.sessions.remove(&session);
            shrink(&mut self.sessions);
        }
    }

    /// Tells which sessions have a head.
    pub(super) fn heads(&self) -> impl Iterator<Item = SessionId> {
        let heads = self.sessions.iter().filter(|(_, of_session)| of_session.head.is_some());
        heads.map(|(session, _)| *session)
    }

    /// Returns the keys of everything that refers to a session or a body that is not there. What a session had as a member of a
    /// group needs no session.
    pub(super) fn orphans(&self, has_body: impl Fn(MessageId) -> bool) -> Vec<Key> {
        let mut orphans = Vec::new();
        for (session, of_session) in &self.sessions {
            let OfSession { head, subscriptions, received, references } = of_session;
            if head.is_none() {
                orphans.extend(subscriptions.keys().map(|name| Key::Subscription(*session, *name)));
                orphans.extend(received.keys().map(|packet_id| Key::Received(*session, *packet_id)));
            }
            for (message, spot) in references {
                if head.is_none() && !spot.is_shared() || !has_body(*message) {
                    orphans.push(Key::Reference(*session, *message));
                }
            }
        }
        orphans
    }

    /// Forgets a key.
    pub(super) fn forget(&mut self, key: Key) {
        self.live_bytes -= u64::from(self.remove(key).unwrap_or(0));
    }
}

/// The bytes of a key's live entry before and after a change.
struct Counted {
    before: u64,
    after: u64,
}

impl Counted {
    fn new(before: Option<u32>, after: u32) -> Self {
        Self { before: u64::from(before.unwrap_or(0)), after: u64::from(after) }
    }
}

impl OfSession {
    fn is_empty(&self) -> bool {
        let Self { head, subscriptions, received, references } = self;
        head.is_none() && subscriptions.is_empty() && received.is_empty() && references.is_empty()
    }

    fn remove(&mut self, key: Key) -> Option<u32> {
        match key {
            Key::Session(_) => self.head.take().map(|spot| spot.bytes),
            Key::Subscription(_, name) => self.subscriptions.remove(&name).map(|spot| spot.bytes),
            Key::Received(_, packet_id) => self.received.remove(&packet_id).map(|spot| spot.bytes),
            Key::Reference(_, message) => {
                let spot = self.references.remove(&message)?;
                shrink(&mut self.references);
                Some(spot.bytes())
            }
            Key::Retained(_) | Key::Body(_) => None,
        }
    }

    /// Forgets all but the references that the session has as a member of groups; returns the bytes of what it forgot.
    fn end(&mut self) -> u64 {
        let Self { head, subscriptions, received, references } = self;
        let spots = head.iter().chain(subscriptions.values()).chain(received.values());
        let mut bytes: u64 = spots.map(|spot| u64::from(spot.bytes)).sum();
        references.retain(|_, spot| {
            bytes += if spot.is_shared() { 0 } else { u64::from(spot.bytes()) };
            spot.is_shared()
        });
        shrink(references);
        (*head, *subscriptions, *received) = (None, BTreeMap::new(), BTreeMap::new());
        bytes
    }
}

/// Gives memory back after a map has lost most of what it had.
fn shrink<K: Eq + core::hash::Hash, V>(map: &mut IdMap<K, V>) {
    if map.capacity() > SHRINK_ABOVE && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_keeps_what_is_packed_into_its_spot() {
        for (bytes, counted) in [(0, 0), (12, 12), (65_535, 65_535), (90_000, 65_535)] {
            for shared in [false, true] {
                let spot = ReferenceSpot::new((1 << 47) - 1, bytes, shared);
                assert_eq!(
                    (spot.sequence(), spot.bytes(), spot.is_shared()),
                    ((1 << 47) - 1, counted, shared)
                );
            }
        }
        assert!(size_of::<(MessageId, ReferenceSpot)>() == 16);
    }
}
