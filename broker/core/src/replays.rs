//! The CONNECTs of COMPACT that were taken: none is taken twice (VEIL-1 section 4.6).
//!
//! A CONNECT is good for twice the clock skew: as far as the client's clock may be behind, and as far as it may be ahead. So long
//! its fingerprint is kept, in two generations of that length. Invariant: what may still be good is never forgotten to make room;
//! who comes when there is none has to come back later, or with SIGMA.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use crate::time::Moment;

/// Eight bytes of a hash.
type Fingerprint = [u8; 8];

/// Takes the bytes of a fingerprint as they are: they are a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

type Fingerprints = HashSet<Fingerprint, BuildHasherDefault<AsItIs>>;

/// What became of a CONNECT that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It is new, and remembered from now on.
    New,
    /// It was there before.
    Again,
    /// It may be new, but could not be remembered.
    Full,
}

/// The memory of CONNECTs.
pub(crate) struct Replays {
    current: Fingerprints,
    previous: Fingerprints,
    current_since: Moment,
    generation_milliseconds: u64,
    entries_max: usize,
}

impl Replays {
    /// Remembers up to `entries_max` CONNECTs of clients whose clocks may be off by `clock_skew_milliseconds`.
    pub(crate) fn new(clock_skew_milliseconds: u64, entries_max: usize) -> Self {
        Self {
            current: Fingerprints::default(),
            previous: Fingerprints::default(),
            current_since: Moment::from_milliseconds(0),
            // One more, because both ends of the interval are good.
            generation_milliseconds: clock_skew_milliseconds.saturating_mul(2).saturating_add(1),
            entries_max,
        }
    }

    /// Takes note of a CONNECT.
    pub(crate) fn show(&mut self, fingerprint: Fingerprint, now: Moment) -> Shown {
        self.age(now);
        if self.previous.contains(&fingerprint) || self.current.contains(&fingerprint) {
            return Shown::Again;
        }
        if self.previous.len() + self.current.len() >= self.entries_max {
            return Shown::Full;
        }
        self.current.insert(fingerprint);
        Shown::New
    }

    fn age(&mut self, now: Moment) {
        let age = now.since(self.current_since);
        if age < self.generation_milliseconds {
            return;
        }
        let last = std::mem::take(&mut self.current);
        let is_recent = age < self.generation_milliseconds.saturating_mul(2);
        self.previous = if is_recent { last } else { Fingerprints::default() };
        self.current_since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_milliseconds(1_800_000_000_000);

    fn fingerprint(number: u64) -> Fingerprint {
        number.to_be_bytes()
    }

    #[test]
    fn a_connect_is_new_once_for_as_long_as_it_is_good() {
        for begun in [0, 1, 100, 199, 200, 201, 350] {
            let mut replays = Replays::new(100, 10);
            replays.show(fingerprint(1), NOW);
            assert_eq!(replays.show(fingerprint(2), NOW + begun), Shown::New, "{begun}");
            for later in [0, 1, 50, 100, 199, 200] {
                assert_eq!(
                    replays.show(fingerprint(2), NOW + begun + later),
                    Shown::Again,
                    "{begun} {later}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_forgotten_to_make_room() {
        let mut replays = Replays::new(100, 3);
        for number in 0..3 {
            assert_eq!(replays.show(fingerprint(number), NOW), Shown::New);
        }

        assert_eq!(replays.show(fingerprint(9), NOW), Shown::Full);
        assert_eq!(replays.show(fingerprint(0), NOW + 200), Shown::Again);
        assert_eq!(replays.show(fingerprint(9), NOW + 200), Shown::Full);
        assert_eq!(replays.show(fingerprint(9), NOW + 402), Shown::New, "the others are too old to be good");
    }
}
