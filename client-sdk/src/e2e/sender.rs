//! The sending side: session numbers, sequence numbers and stream keys (VEIL-1 sections 8.2, 12.3).
//!
//! Invariant: no (session, topic, sequence number) is given out twice, over restarts as well, as long as the
//! clock moves forward or the last session is restored; so no nonce repeats under one key. Of a state that is restored twice
//! while the clock stands still, the sessions differ by chance: 31 random bits.

use std::collections::HashMap;

use veilmq_protocol::veil::{
    channel::{Operations, hash},
    envelope::WILL_SESSION_BIT,
};

use super::{
    cipher::{StreamId, StreamKey},
    config::Limits,
    error::SealError,
    lru::Lru,
};

/// A stream is closed at this sequence number at the latest (VEIL-1 section 8.2).
pub(super) const SEQ_END: u32 = 1 << 31;
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
    seq_end: u32,
    session: Option<u64>,
    /// Milliseconds part of the newest session ever used, Wills included.
    newest_session_ms: u64,
    /// That one is of an earlier run, of which there may be other copies.
    resumed: bool,
    /// There is a session that was not asked about.
    begun: bool,
    streams: HashMap<Box<str>, Stream>,
    pub(super) keys: Lru<StreamId, StreamKey>,
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
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            streams_max: limits.sending_streams_max.max(1),
            seq_end: limits.stream_messages_max.clamp(1, SEQ_END),
            session: None,
            newest_session_ms: 0,
            resumed: false,
            begun: false,
            streams: HashMap::new(),
            keys: Lru::new(limits.stream_keys_max),
            operations: Operations::default(),
        }
    }

    /// Milliseconds part of the newest session used; a restarted sender must start above it.
    pub(super) fn newest_session_ms(&self) -> u64 {
        self.newest_session_ms
    }

    /// Whether a session was begun since this was last asked.
    pub(super) fn take_session_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// Starts a new session above `session_ms` with the next message.
    pub(super) fn resume_after(&mut self, session_ms: u64) {
        self.newest_session_ms = self.newest_session_ms.max(session_ms);
        self.resumed = true;
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
            Some(stream) if stream.next_seq >= self.seq_end => self.close_session(),
            None if self.streams.len() >= self.streams_max => self.close_session(),
            Some(_) | None => {}
        }
        let session = match self.session {
            Some(session) => session,
            None => {
                let session = self.begin(now_unix_ms, entropy)?;
                *self.session.insert(session)
            }
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
        let session = self.begin(now_unix_ms, entropy)? | WILL_SESSION_BIT;
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

    /// Chooses `(milliseconds << 16) | random`, with milliseconds above every earlier session of this sender. Where the clock
    /// does not say which, after a restart, they are random too: a copy of this sender's state may go on elsewhere.
    fn begin(&mut self, now_unix_ms: u64, entropy: &mut dyn FnMut(&mut [u8])) -> Result<u64, SealError> {
        let mut random = || {
            let mut bytes = [0; 2];
            entropy(&mut bytes);
            u64::from(u16::from_be_bytes(bytes))
        };
        let next_ms = self.newest_session_ms.saturating_add(1);
        let session_ms = match now_unix_ms >= next_ms {
            true => now_unix_ms,
            false if self.resumed => next_ms.saturating_add(random()),
            false => next_ms,
        };
        if session_ms >= 1 << 48 {
            return Err(SealError::SessionsExhausted);
        }
        self.newest_session_ms = session_ms;
        (self.resumed, self.begun) = (false, true);
        Ok(session_ms << 16 | random() & RANDOM_MASK)
    }

    fn close_session(&mut self) {
        self.session = None;
        self.streams.clear();
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::{E2e, EnvelopeOptions, EpochTiming, GroupKey, Keyring, Member, Scope, ScopeConfig};
    use veilmq_protocol::{
        PublishProperties, TopicName,
        veil::{Kid, Suite},
    };

    const NOW: u64 = 1_790_000_000_000;

    fn zero(bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn limited(sending_streams_max: usize) -> Sender {
        Sender::new(&Limits { sending_streams_max, stream_keys_max: 8, ..Limits::default() })
    }

    fn all_ones(bytes: &mut [u8]) {
        bytes.fill(0xFF);
    }

    #[test]
    fn session_is_the_time_and_fifteen_random_bits() {
        let mut sender = limited(8);

        let slot = sender.next_slot(StreamOf::topic("a"), NOW, &mut all_ones).unwrap();

        assert_eq!(slot.session, NOW << 16 | 0x7FFF);
    }

    #[test]
    fn each_topic_is_numbered_from_zero() {
        let mut sender = limited(8);
        let mut next = |topic| sender.next_slot(StreamOf::topic(topic), NOW, &mut zero).unwrap().seq;

        assert_eq!([next("a"), next("a"), next("b"), next("a")], [0, 1, 0, 2]);
    }

    #[test]
    fn will_sessions_are_marked_and_never_shared() {
        let mut sender = limited(8);
        let mut session = || sender.will_slot("a", NOW, &mut zero).unwrap().session;

        let (first, second) = (session(), session());

        assert_eq!(first, NOW << 16 | WILL_SESSION_BIT);
        assert_eq!(second, (NOW + 1) << 16 | WILL_SESSION_BIT);
    }

    #[test]
    fn too_many_topics_start_a_new_session_instead_of_repeating_numbers() {
        let mut sender = limited(2);
        let first = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();
        sender.next_slot(StreamOf::topic("b"), NOW, &mut zero).unwrap();

        let third = sender.next_slot(StreamOf::topic("c"), NOW, &mut zero).unwrap();
        let again = sender.next_slot(StreamOf::topic("a"), NOW, &mut zero).unwrap();

        assert!(third.session > first.session);
        assert_eq!((again.session, again.seq), (third.session, 0));
    }

    #[test]
    fn session_numbers_never_wrap_around() {
        let mut sender = limited(8);

        assert_eq!(
            sender.next_slot(StreamOf::topic("a"), 1 << 48, &mut zero),
            Err(SealError::SessionsExhausted)
        );
    }

    #[test]
    fn stream_keys_are_derived_once_and_forgotten_with_their_session() {
        let mut sender = limited(1);
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
