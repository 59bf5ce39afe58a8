//! Identities of what the core holds. All are plain numbers that never repeat within a data directory or a run.

use core::fmt;
use core::hash::{BuildHasherDefault, Hasher};
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{HashMap, HashSet};

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

identity!(
    /// A Session State; unique in a data directory, never used again.
    SessionId
);
identity!(
    /// A stored message body; unique in a data directory and increasing in the order of publication.
    MessageId
);
identity!(
    /// A Network Connection; unique in one run of the broker.
    ConnectionId
);
identity!(
    /// A batch of records of one shard; increasing.
    Ticket
);

/// The position of a shard, 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u16);

/// A map keyed by one of these identities.
///
/// The broker hands the numbers out itself, so no client can choose them to collide and a multiplication is hash enough.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A set of these identities, or of Packet Identifiers, which are too few to collide much.
pub(crate) type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// Hashes one of these identities.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio spreads consecutive numbers over the high bits, the rotation brings them to the low ones.
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

impl IdHasher {
    /// Returns the slot of a topic among so many, for which every byte counts.
    pub(crate) fn slot_of(topic: &[u8], slots: usize) -> usize {
        let mut hasher = Self::default();
        let (words, rest) = topic.as_chunks::<8>();
        for word in words {
            hasher.write_u64(u64::from_le_bytes(*word));
        }
        match topic.last_chunk::<8>() {
            Some(last) => hasher.write_u64(u64::from_le_bytes(*last)),
            None => hasher.write(rest),
        }
        // What came last has reached the high bits only.
        hasher.write_u64(topic.len() as u64);
        // The remainder is below the number of slots.
        (hasher.finish() % slots as u64) as usize
    }
}

/// Hands out numbers that never repeat, from any shard.
#[derive(Debug)]
pub(crate) struct Sequence(AtomicU64);

impl Sequence {
    /// Starts with `first` as the next number.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self(AtomicU64::new(first))
    }

    /// Returns the next number.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes sure that every later number is above `taken`.
    pub(crate) fn skip_past(&self, taken: u64) {
        self.0.fetch_max(taken.saturating_add(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_topic_counts_for_its_slot() {
        for length in 1..=24 {
            let topic = vec![b'a'; length];
            for place in 0..length {
                let mut other = topic.clone();
                other[place] = b'b';

                let slots = [&topic, &other].map(|topic| IdHasher::slot_of(topic, 1 << 20));

                assert_ne!(slots[0], slots[1], "{length} {place}");
            }
        }
    }
}
