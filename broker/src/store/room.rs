//! What storage can do, and the free space on its file system that this depends on.
//!
//! Nothing new is stored any more while some space is still left, because what frees or settles something has to be written
//! too. It looks at the file system at most every 100 ms, or after so many bytes that the reserve could be gone.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use veilmq_core::StorageState;

/// How long a look at the file system is good for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The disk space that a byte of records may take at worst, until the engine has tidied up.
const BYTES_ON_DISK: u64 = 8;
/// The least free space with which storage takes something new again after an error, whatever the reserve.
const RETURN_BYTES_MIN: u64 = 1024 * 1024;

/// What storage can do, and why not more.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub enum Condition {
    /// It stores what it is given.
    #[default]
    #[error("storage is ready")]
    Ready,
    /// Its file system is full, but for what is kept in reserve.
    #[error("storage is full: {free_bytes} bytes free of a reserve of {reserve_bytes}")]
    Full {
        /// What is free.
        free_bytes: u64,
        /// What has to be free.
        reserve_bytes: u64,
    },
    /// The last commit failed.
    #[error("storage failing: {0}")]
    Failing(String),
}

impl Condition {
    /// Returns the part of it that shards act upon.
    pub fn state(&self) -> StorageState {
        match self {
            Self::Ready => StorageState::Ready,
            Self::Full { .. } => StorageState::Full,
            Self::Failing(_) => StorageState::Failing,
        }
    }
}

/// Says how many bytes are free.
pub type FreeBytes = Box<dyn FnMut() -> u64 + Send>;

/// Keeps a reserve of free space.
pub struct Room {
    free_bytes: FreeBytes,
    reserve_bytes: u64,
    looked_at: Option<Instant>,
    /// How much may still be written before the next look.
    unwatched_bytes: u64,
}

impl Room {
    /// Keeps `reserve_bytes` free; 0 keeps nothing.
    pub fn new(reserve_bytes: u64, free_bytes: FreeBytes) -> Self {
        Self { free_bytes, reserve_bytes, looked_at: None, unwatched_bytes: 0 }
    }

    /// Keeps `reserve_bytes` free on the file system that has the directory. Where that cannot be found out, as on some network
    /// file systems, only errors tell that it is full.
    pub fn on_file_system_of(directory: &Path, reserve_bytes: u64) -> Self {
        let directory = directory.to_owned();
        let look = move || match free_bytes(&directory) {
            Ok(free_bytes) => {
                metrics::gauge!("veilmq_storage_free_bytes").set(free_bytes as f64);
                free_bytes
            }
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "free space is unknown");
                u64::MAX
            }
        };
        Self::new(reserve_bytes, Box::new(look))
    }

    /// Tells, before `bytes` of records are written, whether the reserve has been reached.
    pub(super) fn before(&mut self, bytes: usize, now: Instant) -> Condition {
        if self.reserve_bytes == 0 {
            return Condition::Ready;
        }
        let bytes = (bytes as u64).saturating_mul(BYTES_ON_DISK);
        let is_fresh = self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_INTERVAL);
        if is_fresh && let Some(left) = self.unwatched_bytes.checked_sub(bytes) {
            self.unwatched_bytes = left;
            return Condition::Ready;
        }
        let free_bytes = (self.free_bytes)();
        self.looked_at = Some(now);
        self.unwatched_bytes = free_bytes.saturating_sub(self.reserve_bytes).saturating_sub(bytes);
        match free_bytes < self.reserve_bytes {
            true => Condition::Full { free_bytes, reserve_bytes: self.reserve_bytes },
            false => Condition::Ready,
        }
    }

    /// Tells whether there is room again after there was none. That takes a quarter more than the reserve, so that the answer
    /// does not change with every message.
    pub(super) fn after(&mut self) -> Condition {
        let reserve_bytes = self.reserve_bytes.saturating_add(self.reserve_bytes / 4).max(RETURN_BYTES_MIN);
        match (self.free_bytes)() {
            free_bytes if free_bytes < reserve_bytes => Condition::Full { free_bytes, reserve_bytes },
            _ => Condition::Ready,
        }
    }
}

/// Returns what unprivileged processes may still write to the file system of a directory.
fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = statvfs(directory)?;
    if found.blocks() == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const RESERVE: u64 = 64 << 20;

    fn room(reserve_bytes: u64) -> (Room, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (free, looks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (of_room, counted) = (Arc::clone(&free), Arc::clone(&looks));
        let free_bytes = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            of_room.load(Ordering::Relaxed)
        };
        (Room::new(reserve_bytes, Box::new(free_bytes)), free, looks)
    }

    #[test]
    fn it_is_full_below_the_reserve_and_has_room_again_a_quarter_above_it() {
        let (mut room, free, _) = room(RESERVE);
        let full = |free_bytes| Condition::Full { free_bytes, reserve_bytes: RESERVE };
        let mut now = Instant::now();
        for (bytes, before) in [(RESERVE, Condition::Ready), (RESERVE - 1, full(RESERVE - 1)), (0, full(0))] {
            now += LOOK_INTERVAL;
            free.store(bytes, Ordering::Relaxed);

            assert_eq!(room.before(1, now), before);
        }
        for (bytes, is_ready) in [(RESERVE, false), (RESERVE / 4 * 5 - 1, false), (RESERVE / 4 * 5, true)] {
            free.store(bytes, Ordering::Relaxed);

            assert_eq!(room.after() == Condition::Ready, is_ready, "{bytes}");
        }
    }

    #[test]
    fn it_looks_again_after_a_while_or_after_much_was_written() {
        let (mut room, free, looks) = room(RESERVE);
        let start = Instant::now();
        free.store(RESERVE + 1_000 * BYTES_ON_DISK, Ordering::Relaxed);
        for (bytes, milliseconds, expected) in
            [(400, 0, 1), (600, 99, 1), (1, 99, 2), (1, 150, 2), (1, 199, 3)]
        {
            room.before(bytes, start + Duration::from_millis(milliseconds));

            assert_eq!(looks.load(Ordering::Relaxed), expected, "{bytes} bytes after {milliseconds} ms");
        }
    }

    #[test]
    fn without_a_reserve_only_the_way_back_from_an_error_takes_free_space() {
        let (mut room, free, looks) = room(0);

        assert_eq!(room.before(usize::MAX, Instant::now()), Condition::Ready);
        assert_eq!(looks.load(Ordering::Relaxed), 0);
        assert_eq!(room.after().state(), StorageState::Full);
        free.store(RETURN_BYTES_MIN, Ordering::Relaxed);
        assert_eq!(room.after(), Condition::Ready);
    }

    #[test]
    fn the_file_system_of_a_directory_says_what_is_free() {
        let directory = tempfile::tempdir().unwrap();

        assert!(free_bytes(directory.path()).unwrap() > 0);
        assert!(free_bytes(&directory.path().join("absent")).is_err());
    }
}
