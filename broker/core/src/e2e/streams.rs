//! Which envelopes have been seen lately, so that a repeated one goes to nobody (VEIL-1 section 13.1).
//!
//! Of each stream the last numbers are kept with a short digest of what came with them. What is the same byte by byte is a
//! retransmission; another content under the same number, and a number too old to compare, is refused. Memory alone: after a
//! restart the windows are empty, and receivers have theirs. Invariant: the streams that are kept are a fixed number, so senders
//! cannot make it grow.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;
use veilmq_protocol::veil::Kid;
use veilmq_protocol::veil::envelope::EnvelopeHeader;

/// The numbers of a stream that are compared, as many as receivers look back (VEIL-1 section 17).
const WINDOW: u32 = 128;
/// Half of the streams that are kept, about 600 bytes each.
const GENERATION: usize = 8_192;

/// What was found out about an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Its number is new.
    No(Mark),
    /// It is there already, byte by byte.
    Same,
    /// Another one has its number, or the number is too old to compare.
    Other,
}

/// What is to be remembered of an envelope once it has been accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    stream: Stream,
    seq: u32,
    digest: u32,
    scope_tag: [u8; 4],
    epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stream {
    sender: Kid,
    session: u64,
    topic: u64,
}

/// The windows of the streams that publish to this shard.
#[derive(Debug)]
pub(crate) struct Streams {
    key: [u8; 16],
    windows: Generations<Stream, Window>,
    epochs: Generations<(Kid, [u8; 4]), Newest>,
}

/// The newest epoch that a sender has used in a scope.
#[derive(Debug)]
struct Newest {
    epoch: u32,
    since_ms: u64,
}

/// A table that forgets what has not been used for long: what was used since the last change of generations, and before it.
#[derive(Debug)]
struct Generations<K, V> {
    current: HashMap<K, V>,
    previous: HashMap<K, V>,
}

impl<K: Copy + Eq + Hash, V> Generations<K, V> {
    fn new() -> Self {
        Self { current: HashMap::new(), previous: HashMap::new() }
    }

    fn look_up(&self, key: &K) -> Option<&V> {
        self.current.get(key).or_else(|| self.previous.get(key))
    }

    /// Returns an entry to be changed, which counts as used.
    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.current.contains_key(&key) {
            let value = self.previous.remove(&key).unwrap_or_else(make);
            if self.current.len() >= GENERATION {
                self.previous = std::mem::take(&mut self.current);
            }
            return self.current.entry(key).or_insert(value);
        }
        self.current.entry(key).or_insert_with(make)
    }

    fn forget(&mut self) {
        self.current.clear();
        self.previous.clear();
    }
}

#[derive(Debug)]
struct Window {
    highest: u32,
    /// By number modulo the window; 0 for none.
    digests: Box<[u32; WINDOW as usize]>,
}

impl Streams {
    /// Makes windows whose digests nobody can predict who does not know the key.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { key, windows: Generations::new(), epochs: Generations::new() }
    }

    /// Looks an envelope up and changes nothing. `topic` is empty where the envelope hides it.
    pub(crate) fn look_up(&self, header: &EnvelopeHeader, topic: &str, payload: &[u8]) -> Seen {
        let stream =
            Stream { sender: header.sender, session: header.session, topic: self.digest(topic.as_bytes()) };
        // The lower half; 0 stands for an empty place.
        let digest = (self.digest(payload) as u32).max(1);
        let (scope_tag, epoch) = (header.scope_tag, header.epoch);
        let mark = Mark { stream, seq: header.seq, digest, scope_tag, epoch };
        match self.windows.look_up(&stream) {
            Some(window) => window.look_up(mark),
            None => Seen::No(mark),
        }
    }

    /// Tells whether a sender has gone on to a later epoch of the scope, longer ago than the transition takes.
    pub(crate) fn has_left(&self, header: &EnvelopeHeader, unix_ms: u64, transition_ms: u64) -> bool {
        let newest = self.epochs.look_up(&(header.sender, header.scope_tag));
        newest.is_some_and(|newest| {
            header.epoch < newest.epoch && unix_ms.saturating_sub(newest.since_ms) >= transition_ms
        })
    }

    /// Remembers an envelope that was accepted.
    pub(crate) fn remember(&mut self, mark: Mark, unix_ms: u64) {
        self.windows.entry(mark.stream, || Window::beginning_at(mark.seq)).remember(mark);
        let first = || Newest { epoch: mark.epoch, since_ms: unix_ms };
        let newest = self.epochs.entry((mark.stream.sender, mark.scope_tag), first);
        if mark.epoch > newest.epoch {
            *newest = Newest { epoch: mark.epoch, since_ms: unix_ms };
        }
    }

    /// Forgets what was seen: what was accepted may not have been stored, and comes again.
    pub(crate) fn forget(&mut self) {
        self.windows.forget();
    }

    fn digest(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(bytes);
        hasher.finish()
    }
}

impl Window {
    fn beginning_at(seq: u32) -> Self {
        Self { highest: seq, digests: Box::new([0; WINDOW as usize]) }
    }

    fn place(seq: u32) -> usize {
        // The remainder is below WINDOW.
        (seq % WINDOW) as usize
    }

    fn look_up(&self, mark: Mark) -> Seen {
        if mark.seq > self.highest {
            return Seen::No(mark);
        }
        if self.highest - mark.seq >= WINDOW {
            return Seen::Other;
        }
        match self.digests[Self::place(mark.seq)] {
            0 => Seen::No(mark),
            digest if digest == mark.digest => Seen::Same,
            _ => Seen::Other,
        }
    }

    fn remember(&mut self, mark: Mark) {
        if mark.seq > self.highest {
            // The places of the numbers in between are free for them.
            for passed in (self.highest + 1..mark.seq).take(WINDOW as usize) {
                self.digests[Self::place(passed)] = 0;
            }
            self.highest = mark.seq;
        }
        self.digests[Self::place(mark.seq)] = mark.digest;
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::veil::Suite;
    use veilmq_protocol::veil::envelope::EnvelopeFlags;

    use super::*;

    fn header(session: u64, seq: u32) -> EnvelopeHeader {
        EnvelopeHeader {
            suite: Suite::Aes256Gcm,
            flags: EnvelopeFlags::default(),
            scope_tag: [0; 4],
            epoch: 1,
            sender: Kid::from_bytes(*b"senderid"),
            session,
            seq,
            timestamp_ms: None,
            chunk: None,
        }
    }

    fn accept(streams: &mut Streams, session: u64, seq: u32, payload: &[u8]) -> &'static str {
        match streams.look_up(&header(session, seq), "t", payload) {
            Seen::No(mark) => {
                streams.remember(mark, 0);
                "new"
            }
            Seen::Same => "same",
            Seen::Other => "other",
        }
    }

    #[test]
    fn a_number_is_new_once() {
        let mut streams = Streams::new([1; 16]);

        for (session, seq, payload, expected) in [
            (1, 0, b"a", "new"),
            (1, 0, b"a", "same"),
            (1, 0, b"b", "other"),
            (1, 3, b"d", "new"),
            (1, 1, b"b", "new"),
            (1, 3, b"d", "same"),
            (2, 0, b"a", "new"),
            (1, 200, b"z", "new"),
            (1, 72, b"x", "other"),
            (1, 73, b"y", "new"),
            (1, 3, b"d", "other"),
            (1, 131, b"d", "new"),
            (1, u32::MAX, b"z", "new"),
            (1, 200, b"z", "other"),
        ] {
            assert_eq!(accept(&mut streams, session, seq, payload), expected, "{session} {seq}");
        }
    }

    #[test]
    fn another_topic_is_another_stream() {
        let mut streams = Streams::new([1; 16]);
        accept(&mut streams, 1, 0, b"a");

        assert!(matches!(streams.look_up(&header(1, 0), "u", b"b"), Seen::No(_)));
    }

    #[test]
    fn the_streams_that_are_kept_are_bounded_and_those_in_use_stay() {
        let mut streams = Streams::new([1; 16]);
        let last = 10 * GENERATION as u32;
        for number in 0..=last {
            accept(&mut streams, number.into(), 0, b"a");
            accept(&mut streams, u64::MAX, number, b"a");
        }

        assert!(streams.windows.current.len() + streams.windows.previous.len() <= 2 * GENERATION);
        assert_eq!(accept(&mut streams, u64::MAX, last - 100, b"a"), "same");
        assert_eq!(accept(&mut streams, 0, 0, b"b"), "new", "it was forgotten");
    }

    #[test]
    fn a_sender_may_use_an_earlier_epoch_for_the_length_of_a_transition() {
        let mut streams = Streams::new([1; 16]);
        let of = |epoch: u32, seq: u32| EnvelopeHeader { epoch, ..header(1, seq) };
        let Seen::No(mark) = streams.look_up(&of(3, 0), "t", b"a") else { panic!("it is new") };
        streams.remember(mark, 1_000);

        for (epoch, now, expected) in
            [(2, 1_000, false), (2, 1_499, false), (2, 1_500, true), (3, 9_000, false), (4, 9_000, false)]
        {
            assert_eq!(streams.has_left(&of(epoch, 1), now, 500), expected, "{epoch} at {now}");
        }
    }

    #[test]
    fn what_was_forgotten_is_new() {
        let mut streams = Streams::new([1; 16]);
        accept(&mut streams, 1, 0, b"a");

        streams.forget();

        assert_eq!(accept(&mut streams, 1, 0, b"a"), "new");
    }
}
