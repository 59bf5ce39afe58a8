//! The sending side: session numbers, sequence numbers and stream keys (VEIL-1 sections 8.2, 12.3).
//!
//! Invariant: no (session, topic, sequence number) is given out twice, over restarts as well, as long as the
//! clock moves forward or the last session is restored; so no nonce repeats under one key.

use std::collections::HashMap;

use veilmq_protocol::veil::{channel::hash, envelope::WILL_SESSION_BIT};

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

pub(super) struct Sender {
    streams_max: usize,
    session: Option<u64>,
    /// Milliseconds part of the newest session ever used, Wills included.
    newest_session_ms: u64,
    streams: HashMap<Box<str>, Stream>,
    keys: Lru<StreamId, StreamKey>,
}

struct Stream {
    next_seq: u32,
    topic_hash: [u8; 32],
}

impl Sender {
    pub(super) fn new(streams_max: usize, keys_max: usize) -> Self {
        Self {
            streams_max: streams_max.max(1),
            session: None,
            newest_session_ms: 0,
            streams: HashMap::new(),
            keys: Lru::new(keys_max),
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

    /// Takes the next slot on `topic`. Opens a new session if there is none, if the stream is at its end, or if
    /// there are more streams than may be remembered (forgetting one alone would repeat its numbers).
    pub(super) fn next_slot(
        &mut self,
        topic: &str,
        now_unix_ms: u64,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Slot, SealError> {
        match self.streams.get(topic) {
            Some(stream) if stream.next_seq >= SEQ_END => self.close_session(),
            None if self.streams.len() >= self.streams_max => self.close_session(),
            Some(_) | None => {}
        }
        let session = match self.session {
            Some(session) => session,
            None => *self.session.insert(new_session(&mut self.newest_session_ms, now_unix_ms, entropy)?),
        };
        if !self.streams.contains_key(topic) {
            let topic_hash = hash(&[topic.as_bytes()]);
            self.streams.insert(topic.into(), Stream { next_seq: 0, topic_hash });
        }
        let stream = self.streams.get_mut(topic).ok_or(SealError::SessionsExhausted)?;
        let slot = Slot { session, seq: stream.next_seq, topic_hash: stream.topic_hash };
        stream.next_seq += 1;
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
