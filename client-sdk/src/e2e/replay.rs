//! Which messages were received before (VEIL-1 section 12.2).
//!
//! Owns the windows, the order of sender sessions and the marks of retained messages. Checking never changes
//! anything, so an unauthenticated message cannot; the caller commits once the message proved authentic.
//! Invariants: a live message is committed at most once per stream while its (sender, topic) is remembered; at
//! most [`SESSIONS_MAX`] sessions of each kind are kept per (sender, topic).

mod streams;
mod window;

use std::collections::HashMap;

use veilmq_protocol::veil::{
    Kid,
    envelope::EnvelopeHeader,
    layout::{LayoutError, Reader},
};

pub use self::window::ReplayWindow;
use self::{streams::Streams, window::Window};
use super::error::{OpenError, StateError};

/// Sessions remembered per sender and topic.
const SESSIONS_MAX: usize = 4;

/// Bounds of the replay state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayLimits {
    /// (sender, topic) pairs remembered; beyond it the sender with most of them forgets the one it used longest ago, which is counted.
    pub streams_max: usize,
    /// The same of one sender (default 8,192): whoever sends on more topics pushes out its own.
    pub sender_streams_max: usize,
    /// How long an older sender session is still accepted after a newer one appeared, in milliseconds.
    pub session_grace_ms: u64,
    /// How far out of order the messages of a stream may come (default 128 messages).
    pub window: ReplayWindow,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self {
            streams_max: 65_536,
            sender_streams_max: 8_192,
            session_grace_ms: 60_000,
            window: ReplayWindow::default(),
        }
    }
}

/// Identifies what messages are counted in: a sender and a topic, the latter by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamName {
    pub(super) sender: Kid,
    pub(super) topic_hash: [u8; 32],
}

/// What the replay state needs to know of an envelope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(super) stream: StreamName,
    pub(super) position: Position,
    pub(super) will: bool,
    /// Sent from the retained message store, so it may arrive any number of times.
    pub(super) retained: bool,
}

impl Arrival {
    pub(super) fn new(header: &EnvelopeHeader, topic_hash: [u8; 32], retained: bool) -> Self {
        Self {
            stream: StreamName { sender: header.sender, topic_hash },
            position: Position { session: header.session, seq: header.seq },
            will: header.is_will(),
            retained,
        }
    }
}

/// The place of a message among all messages of one sender on one topic, ordered by time of sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    session: u64,
    seq: u32,
}

/// The replay state of one receiver.
pub(super) struct Replay {
    limits: ReplayLimits,
    streams: Streams,
    evictions: u64,
    /// What was committed last.
    newest: Option<Arrival>,
    /// After a crash: sessions not newer than this must already be known. Zero otherwise.
    session_floor: u64,
}

impl Replay {
    pub(super) fn new(limits: ReplayLimits) -> Self {
        let streams = Streams::new(limits.streams_max, limits.sender_streams_max);
        Self { limits, streams, evictions: 0, newest: None, session_floor: 0 }
    }

    /// How many (sender, topic) pairs were forgotten for lack of space.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// What was committed last.
    pub(super) fn newest(&self) -> Option<Arrival> {
        self.newest
    }

    /// Decides whether a message is new, without remembering it.
    pub(super) fn check(&self, arrival: &Arrival, now_unix_ms: u64) -> Result<(), OpenError> {
        let stream = self.streams.peek(&arrival.stream);
        if arrival.retained {
            let mark = stream.and_then(|stream| stream.class(arrival.will).retained);
            return match mark {
                Some(newest) if arrival.position < newest => Err(OpenError::RetainedRollback),
                Some(_) | None => Ok(()),
            };
        }
        // A Will is sealed before the session it follows, and may be due long after it: no grace, no floor.
        let rules = match arrival.will {
            true => SessionRules { grace_ms: u64::MAX, floor: 0, now_unix_ms },
            false => SessionRules {
                grace_ms: self.limits.session_grace_ms,
                floor: self.session_floor,
                now_unix_ms,
            },
        };
        let unknown = Sessions::default();
        stream.map_or(&unknown, |stream| &stream.class(arrival.will).sessions).check(arrival.position, rules)
    }

    /// Remembers an authentic message that [`Replay::check`] let pass, and returns how many messages are
    /// missing between it and the one before it in its stream.
    pub(super) fn commit(&mut self, arrival: &Arrival, now_unix_ms: u64) -> u32 {
        self.newest = Some(*arrival);
        if self.streams.touch(&arrival.stream).is_none() {
            self.evictions += u64::from(self.streams.insert(arrival.stream, Stream::default()));
        }
        let Some(stream) = self.streams.touch(&arrival.stream) else { return 0 };
        let class = stream.class_mut(arrival.will);
        if arrival.retained {
            class.retained = Some(arrival.position);
        }
        // Also for a retained message, so that its live copy is not delivered as well.
        let gap = class.sessions.commit(arrival.position, self.limits.window, now_unix_ms);
        if arrival.retained { 0 } else { gap }
    }

    /// Appends the state to `out`, of each sender the streams used longest ago first, as if what is `untaken` had never arrived.
    pub(super) fn encode(&self, untaken: &[Arrival], out: &mut Vec<u8>) {
        let mut left_out: HashMap<StreamName, Vec<&Arrival>> = HashMap::new();
        for arrival in untaken {
            left_out.entry(arrival.stream).or_default().push(arrival);
        }
        out.extend_from_slice(&(self.streams.len() as u64).to_be_bytes());
        for (name, stream) in self.streams.iter() {
            out.extend_from_slice(name.sender.as_bytes());
            out.extend_from_slice(&name.topic_hash);
            let left_out = left_out.get(&name).map_or([].as_slice(), Vec::as_slice);
            for (class, will) in [(&stream.normal, false), (&stream.will, true)] {
                let left_out = left_out.iter().filter(|arrival| arrival.will == will);
                let left_out: Vec<Position> = left_out.map(|arrival| arrival.position).collect();
                class.encode(&left_out, out);
            }
        }
    }

    /// Reads what [`Replay::encode`] wrote, replacing this state.
    pub(super) fn decode(&mut self, mut reader: Reader<'_>) -> Result<(), StateError> {
        let width = self.limits.window;
        let mut streams = Streams::new(self.limits.streams_max, self.limits.sender_streams_max);
        for _ in 0..reader.u64("stream count")? {
            let sender = Kid::from_bytes(reader.array("sender")?);
            let topic_hash = reader.array("topic hash")?;
            let stream = Stream {
                normal: Class::decode(&mut reader, width)?,
                will: Class::decode(&mut reader, width)?,
            };
            self.evictions += u64::from(streams.insert(StreamName { sender, topic_hash }, stream));
        }
        reader.finish()?;
        self.streams = streams;
        Ok(())
    }

    /// Makes a state that was saved some time before a crash safe: everything up to its marks counts as
    /// received, and sessions it does not know must be newer than `session_floor`.
    pub(super) fn distrust(&mut self, session_floor: u64) {
        self.session_floor = session_floor;
        let names: Vec<StreamName> = self.streams.iter().map(|(name, _)| name).collect();
        for name in &names {
            if let Some(stream) = self.streams.touch(name) {
                stream.normal.sessions.fill_windows();
                stream.will.sessions.fill_windows();
            }
        }
    }
}

/// One sender on one topic. Wills are ordered among themselves, because they are sealed ahead of their time.
#[derive(Default)]
struct Stream {
    normal: Class,
    will: Class,
}

impl Stream {
    fn class(&self, will: bool) -> &Class {
        if will { &self.will } else { &self.normal }
    }

    fn class_mut(&mut self, will: bool) -> &mut Class {
        if will { &mut self.will } else { &mut self.normal }
    }
}

#[derive(Default)]
struct Class {
    sessions: Sessions,
    retained: Option<Position>,
}

#[derive(Clone, Copy)]
struct SessionRules {
    grace_ms: u64,
    floor: u64,
    now_unix_ms: u64,
}

/// Sessions in ascending order, at most [`SESSIONS_MAX`]: once there are that many, those older than all of
/// them stay refused, so a forgotten session cannot come back.
#[derive(Default)]
struct Sessions {
    known: Vec<Session>,
}

struct Session {
    number: u64,
    appeared_ms: u64,
    window: Window,
}

impl Sessions {
    fn check(&self, position: Position, rules: SessionRules) -> Result<(), OpenError> {
        let newer = self.known.iter().filter(|session| session.number > position.session);
        let replaced_ms = newer.map(|session| session.appeared_ms).min();
        if replaced_ms.is_some_and(|ms| rules.now_unix_ms.saturating_sub(ms) > rules.grace_ms) {
            return Err(OpenError::SessionRollback);
        }
        match self.known.iter().find(|session| session.number == position.session) {
            Some(session) if session.window.is_new(position.seq) => Ok(()),
            Some(_) => Err(OpenError::Replay),
            None if position.session <= rules.floor => Err(OpenError::SessionRollback),
            None if self.would_be_forgotten(position.session) => Err(OpenError::SessionRollback),
            None => Ok(()),
        }
    }

    fn would_be_forgotten(&self, number: u64) -> bool {
        self.known.len() >= SESSIONS_MAX && self.known.iter().all(|session| session.number > number)
    }

    fn commit(&mut self, position: Position, width: ReplayWindow, now_unix_ms: u64) -> u32 {
        match self.known.binary_search_by_key(&position.session, |session| session.number) {
            Ok(index) => self.known.get_mut(index).map_or(0, |session| session.window.commit(position.seq)),
            Err(index) => {
                let window = Window::starting_at(position.seq, width);
                let session = Session { number: position.session, appeared_ms: now_unix_ms, window };
                self.known.insert(index, session);
                if self.known.len() > SESSIONS_MAX {
                    self.known.remove(0);
                }
                0
            }
        }
    }

    fn fill_windows(&mut self) {
        for session in &mut self.known {
            session.window.fill();
        }
    }
}

impl Class {
    fn encode(&self, left_out: &[Position], out: &mut Vec<u8>) {
        out.push(self.sessions.known.len() as u8);
        for session in &self.sessions.known {
            out.extend_from_slice(&session.number.to_be_bytes());
            out.extend_from_slice(&session.appeared_ms.to_be_bytes());
            let mut window = session.window.clone();
            for position in left_out.iter().filter(|position| position.session == session.number) {
                window.forget(position.seq);
            }
            window.encode(out);
        }
        out.push(u8::from(self.retained.is_some()));
        if let Some(mark) = self.retained {
            out.extend_from_slice(&mark.session.to_be_bytes());
            out.extend_from_slice(&mark.seq.to_be_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>, width: ReplayWindow) -> Result<Self, StateError> {
        let count = usize::from(reader.u8("session count")?);
        if count > SESSIONS_MAX {
            return Err(LayoutError::Value("session count").into());
        }
        let known = (0..count).map(|_| Session::decode(reader, width)).collect::<Result<Vec<_>, _>>()?;
        if !known.is_sorted_by(|a, b| a.number < b.number) {
            return Err(LayoutError::Order("session").into());
        }
        let retained = match reader.u8("retained mark")? {
            0 => None,
            1 => {
                Some(Position { session: reader.u64("retained session")?, seq: reader.u32("retained seq")? })
            }
            2.. => return Err(LayoutError::Value("retained mark").into()),
        };
        Ok(Self { sessions: Sessions { known }, retained })
    }
}

impl Session {
    fn decode(reader: &mut Reader<'_>, width: ReplayWindow) -> Result<Self, StateError> {
        Ok(Self {
            number: reader.u64("session")?,
            appeared_ms: reader.u64("appearance")?,
            window: Window::decode(reader, width)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(seq: u32, will: bool) -> Arrival {
        Arrival {
            stream: StreamName { sender: Kid::from_bytes([1; 8]), topic_hash: [2; 32] },
            position: Position { session: 7, seq },
            will,
            retained: false,
        }
    }

    #[test]
    fn what_the_application_has_not_taken_is_new_after_a_restart_and_all_else_is_not() {
        let mut before = Replay::new(ReplayLimits::default());
        for seq in 0..5 {
            before.commit(&arrival(seq, false), 1);
        }
        before.commit(&arrival(4, true), 1);
        let mut state = Vec::new();

        before.encode(&[arrival(1, false), arrival(4, false)], &mut state);
        let mut after = Replay::new(ReplayLimits::default());
        after.decode(Reader::new(&state)).unwrap();

        let is_new = |seq| after.check(&arrival(seq, false), 1).is_ok();
        assert_eq!([0, 1, 2, 3, 4, 5].map(is_new), [false, true, false, false, true, true]);
        assert_eq!(after.check(&arrival(4, true), 1), Err(OpenError::Replay), "that was a Will");
        assert!(before.check(&arrival(1, false), 1).is_err(), "for this program it has arrived");
    }
}
