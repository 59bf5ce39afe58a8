//! Whether durable storage takes more, as whoever writes it tells every shard.
//!
//! The core never looks at a disk. It refuses what would have to be stored as long as storage takes nothing new, and lets
//! through what frees or settles something, so that room can come back.

use std::sync::atomic::{AtomicU8, Ordering};

/// What durable storage is able to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageState {
    /// It stores what it is given.
    #[default]
    Ready,
    /// Its room is kept for what frees or settles something.
    Full,
    /// The last commit failed, so the next one may fail too.
    Failing,
}

/// The state of storage, read by all shards and written by one thread.
#[derive(Debug, Default)]
pub(crate) struct StorageSign(AtomicU8);

impl StorageSign {
    pub(crate) fn show(&self, state: StorageState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    // What a shard does on a sign that has just changed is right too: a batch that fails is never acknowledged.
    pub(crate) fn state(&self) -> StorageState {
        match self.0.load(Ordering::Relaxed) {
            1 => StorageState::Full,
            2 => StorageState::Failing,
            _ => StorageState::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_that_is_shown_is_the_state_that_is_read() {
        let sign = StorageSign::default();
        assert_eq!(sign.state(), StorageState::Ready);
        for state in [StorageState::Full, StorageState::Failing, StorageState::Ready] {
            sign.show(state);

            assert_eq!(sign.state(), state);
        }
    }
}
