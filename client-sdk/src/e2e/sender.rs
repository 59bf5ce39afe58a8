//! The sending side: session numbers, sequence numbers and stream keys (VEIL-1 sections 8.2, 12.3).
//!
//! Invariant: no (session, topic, sequence number) is given out twice, over restarts as well, as long as the
//! clock moves forward or the last session is restored; so no nonce repeats under one key.

use std::collections::HashMap;

use veilmq_protocol::veil::{
    channel::{Operations, hash},
    envelope::WILL_SESSION_BIT,
};

use super::{
    cipher::{StreamId, StreamKey},
    error::SealError,
    lru::Lru,
};

/// A stream is closed at this sequence number (VEIL-1 section 8.2).
const SEQ_END: u32 = 1 << 31;
/// The low bits of a session number that are random, apart from [`WILL_SESSION_BIT`].
const RANDOM_MASK: u64 = 0x7FFF;

/// A place in a stream that belongs to one message only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) session: u64,
    pub(super) seq: u32,
    pub(super) topic_hash: [u8; 32],
}

/// What messages are numbered by.
#[derive(Clone, Copy)]
pub(super) struct StreamOf<'a> {
    /// A Topic Name, or something no topic is called.
    pub(super) name: &'a str,
    /// The topic that the keys depend on; empty if it is inside the plaintext.
    pub(super) topic: &'a str,
}

impl<'a> StreamOf<'a> {
    /// The stream of a topic.
    pub(super) const fn topic(topic: &'a str) -> Self {
        Self { name: topic, topic }
    }
}

pub(super) struct Sender {
    streams_max: usize,
    session: Option<u64>,
    /// Milliseconds part of the newest session ever used, Wills included.
    newest_session_ms: u64,
    streams: HashMap<Box<str>, Stream>,
    keys: Lru<StreamId, StreamKey>,
    /// What sealing took since it was last taken.
    pub(super) operations: Operations,
}

struct Stream {
    next_seq: u32,
    topic_hash: [u8; 32],
}

impl Stream {
    fn next_slot(&mut self, session: u64) -> Slot {
        let slot = Slot { session, seq: self.next_seq, topic_hash: self.topic_hash };
        self.next_seq += 1;
        slot
    }
}

impl Sender {
    pub(super) fn new(streams_max: usize, keys_max: usize) -> Self {
        Self {
            streams_max: streams_max.max(1),
            session: None,
            newest_session_ms: 0,
            streams: HashMap::new(),
            keys: Lru::new(keys_max),
            operations: Operations::default(),
        }
    }

    /// Milliseconds part of the newest session used; a restarted sender must start above it.
    pub(super) fn newest_session_ms(&self) -> u64 {
        self.newest_session_ms
    }

    /// Starts a new session above `session_ms` with the next message.
    pub(super) fn resume_after(&mut self, session_ms: u64) {
        self.newest_session_ms = self.newest_session_ms.max(session_ms);
        self.close_session();
    }

    /// Takes the next slot of `stream`. Opens a new session if there is none, if the stream is at its end, or if
    /// there are more streams than may be remembered (forgetting one alone would repeat its numbers).
    pub(super) fn next_slot(
        &mut self,
        stream: StreamOf<'_>,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Slot, SealError> {
        let topic = stream.name;
        match self.streams.get(topic) {
            Some(stream) if stream.next_seq >= SEQ_END => self.close_session(),
            None if self.streams.len() >= self.streams_max => self.close_session(),
            Some(_) | None => {}
        }
        let session = match self.session {
            Some(session) => session,
            None => *self.session.insert(new_session(&mut self.newest_session_ms, now_unix_ms, entropy)?),
        };
        if let Some(stream) = self.streams.get_mut(topic) {
            return Ok(stream.next_slot(session));
        }
        let mut stream = Stream { next_seq: 0, topic_hash: hash(&[stream.topic.as_bytes()]) };
        let slot = stream.next_slot(session);
        self.streams.insert(topic.into(), stream);
        Ok(slot)
    }

    /// Takes the only slot of a new Will session on `topic`.
    pub(super) fn will_slot(
        &mut self,
        topic: &str,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Slot, SealError> {
        let session = new_session(&mut self.newest_session_ms, now_unix_ms, entropy)? | WILL_SESSION_BIT;
        Ok(Slot { session, seq: 0, topic_hash: hash(&[topic.as_bytes()]) })
    }

    /// Returns the keys of a stream, deriving them at its first use.
    pub(super) fn key(
        &mut self,
        id: StreamId,
        derive: impl FnOnce() -> Option<StreamKey>,
    ) -> Option<&StreamKey> {
        if self.keys.peek(&id).is_none() {
            self.keys.insert(id, derive()?);
        }
        self.keys.touch(&id).map(|key| &*key)
    }

    pub(super) fn retain_keys(&mut self, keep: impl FnMut(&StreamId) -> bool) {
        self.keys.retain(keep);
    }

    fn close_session(&mut self) {
        self.session = None;
        self.streams.clear();
        self.keys.clear();
    }
}

/// Chooses `(milliseconds << 16) | random`, with milliseconds above every earlier session of this sender.
fn new_session(
    newest_ms: &mut u64,
    now_unix_ms: u64,
    entropy: &mut dyn FnMut(&mut [u8]),
) -> Result<u64, SealError> {
    let session_ms = now_unix_ms.max(newest_ms.saturating_add(1));
    if session_ms >= 1 << 48 {
        return Err(SealError::SessionsExhausted);
    }
    let mut random = [0; 2];
    entropy(&mut random);
    *newest_ms = session_ms;
    Ok(session_ms << 16 | u64::from(u16::from_be_bytes(random)) & RANDOM_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::{
        E2e, EnvelopeOptions, EpochTiming, GroupKey, Keyring, Limits, Member, Scope, ScopeConfig,
    };
    use veilmq_protocol::{
        PublishProperties, TopicName,
        veil::{Kid, Suite},
    };

    const NOW: u64 = 1_790_000_000_000;

    fn zero(bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn all_ones(bytes: &mut [u8]) {
        bytes.fill(0xFF);
    }

    #[test]
    fn session_is_the_time_and_fifteen_random_bits() {
        let mut sender = Sender::new(8, 8);

        let slot = sender.next_slot(StreamOf::topic("a"), NOW, &mut all_ones).unwrap();

        assert_eq!(slot.session, NOW << 16 | 0x7FFF);
    }

    #[test]
    fn each_topic_is_numbered_from_zero() {
        let mut sender = Sender::new(8, 8);
        let mut next = |topic| sender.next_slot(StreamOf::topic(topic), NOW, &mut zero).unwrap().seq;

        assert_eq!([next("a"), next("a"), next("b"), next("a")], [0, 1, 0, 2]);
    }

    #[test]
    fn will_sessions_are_marked_and_never_shared() {
        let mut sender = Sender::new(8, 8);
        let mut session = || sender.will_slot("a", NOW, &mut zero).unwrap().session;

        let (first, second) = (session(), session());

        assert_eq!(first, NOW << 16 | WILL_SESSION_BIT);
        assert_eq!(second, (NOW + 1) << 16 | WILL_SESSION_BIT);
    }

    #[test]
    fn stream_is_closed_at_two_to_the_31_and_a_newer_session_follows() {
        let mut sender = Sender::new(8, 8);
        let first = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();
        sender.streams.get_mut("a").unwrap().next_seq = SEQ_END - 1;

        let last = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();
        let next = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();

        assert_eq!((last.session, last.seq), (first.session, SEQ_END - 1));
        assert_eq!(next.seq, 0);
        assert!(next.session > last.session);
    }

    #[test]
    fn too_many_topics_start_a_new_session_instead_of_repeating_numbers() {
        let mut sender = Sender::new(2, 8);
        let first = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();
        sender.next_slot(StreamOf::topic("b"), NOW, &mut zero).unwrap();

        let third = sender.next_slot(StreamOf::topic("c"), NOW, &mut zero).unwrap();
        let again = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();

        assert!(third.session > first.session);
        assert_eq!((again.session, again.seq), (third.session, 0));
    }

    #[test]
    fn session_numbers_never_wrap_around() {
        let mut sender = Sender::new(8, 8);

        assert_eq!(
            sender.next_slot(StreamOf::topic("a"), 1 << 48, &mut zero),
            Err(SealError::SessionsExhausted)
        );
    }

    #[test]
    fn stream_keys_are_derived_once_and_forgotten_with_their_session() {
        let mut sender = Sender::new(1, 8);
        let slot = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();
        let id = StreamId {
            scope: 0,
            issuer: crate::e2e::rings::Issuer::Configuration,
            suite: Suite::Aes256Gcm,
            epoch: 1,
            sender: Kid::from_bytes([1; 8]),
            session: slot.session,
            topic_hash: slot.topic_hash,
        };
        let group_key = GroupKey::new(&[1; 32]);

        assert!(sender.key(id, || Some(StreamKey::derive(&group_key, &id))).is_some());
        assert!(sender.key(id, || panic!("derived twice")).is_some());

        sender.next_slot(StreamOf::topic("b"), NOW, &mut zero).unwrap();
        assert!(sender.key(id, || None).is_none());
    }

    #[test]
    fn sending_keys_go_with_their_epoch_and_with_their_scope() {
        let mut keyring = Keyring::explicit(EpochTiming::default());
        keyring.insert(1, GroupKey::new(&[1; 32]), 0).unwrap();
        keyring.insert(2, GroupKey::new(&[2; 32]), NOW).unwrap();
        let scope = Scope::new("a").unwrap();
        let mut e2e = E2e::new(Member::Unsigned(Kid::from_bytes([1; 8])), Limits::default());
        let config = ScopeConfig::envelope(scope.clone(), keyring, EnvelopeOptions::default());
        e2e.add_scope(config).unwrap();
        let topic = TopicName::new("a").unwrap();
        for now in [NOW - 1, NOW] {
            e2e.seal(topic, b"x", &PublishProperties::default(), now, &mut zero).unwrap();
        }
        assert_eq!(e2e.sender.keys.len(), 2);

        e2e.advance(u64::MAX - 1);
        assert_eq!(e2e.sender.keys.len(), 1);

        e2e.remove_scope(&scope);
        assert_eq!(e2e.sender.keys.len(), 0);
    }
}
