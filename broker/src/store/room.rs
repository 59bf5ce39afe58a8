//! What storage can do, and the free space on its file system that this depends on.
//!
//! Nothing new is stored any more while some space is still left, because what frees or settles something has to be written
//! too. It looks at the file system at most every 100 ms, or after so many bytes that the reserve could be gone.
//! What the store can use again within its own files counts as free space, since the store gives little of it back to the file
//! system: but a part of the reserve has to be free outside them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use veilmq_core::StorageState;

/// How long a look at the file system is good for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The disk space that a byte of records may take at worst, until the engine has tidied up.
const BYTES_ON_DISK: u64 = 8;
/// The least free space with which storage takes something new again after an error, whatever the reserve.
const RETURN_BYTES_MIN: u64 = 1024 * 1024;
/// One part of so many of the reserve has to be outside the files of the store: to open it again takes some.
const OUTSIDE: u64 = 16;

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
        /// What is free, or can be used again.
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

/// How much is to stay free, in bytes; 0 is nothing. All copies are one number.
#[derive(Clone, Debug)]
pub struct Reserve(Arc<AtomicU64>);

impl Reserve {
    /// Sets how much it is from now on.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keeps a reserve of free space.
pub struct Room {
    free_bytes: FreeBytes,
    reserve: Reserve,
    looked_at: Option<Instant>,
    /// How much may still be written before the next look.
    unwatched_bytes: u64,
    /// What the last look found.
    seen: Option<Seen>,
}

/// What a look at the file system found.
#[derive(Clone, Copy)]
struct Seen {
    free_bytes: u64,
    /// What it was compared with.
    wanted_bytes: u64,
    /// Whether enough is free outside the files of the store.
    is_enough_outside: bool,
}

impl Room {
    /// Keeps `reserve_bytes` free; 0 keeps nothing.
    pub fn new(reserve_bytes: u64, free_bytes: FreeBytes) -> Self {
        let reserve = Reserve(Arc::new(AtomicU64::new(reserve_bytes)));
        Self { free_bytes, reserve, looked_at: None, unwatched_bytes: 0, seen: None }
    }

    /// Returns what decides how much it keeps free. A change counts from the next look on.
    pub fn reserve(&self) -> Reserve {
        self.reserve.clone()
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

    /// Tells, before `bytes` of records are written, whether the reserve has been reached; the store says what it can use again.
    pub(super) fn before(&mut self, bytes: usize, reusable_bytes: u64, now: Instant) -> Condition {
        let reserve_bytes = self.reserve.bytes();
        if reserve_bytes == 0 {
            self.seen = None;
            return Condition::Ready;
        }
        let bytes = (bytes as u64).saturating_mul(BYTES_ON_DISK);
        let is_fresh = self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_INTERVAL);
        if is_fresh && let Some(left) = self.unwatched_bytes.checked_sub(bytes) {
            self.unwatched_bytes = left;
            return Condition::Ready;
        }
        let free_bytes = self.look(reserve_bytes, reusable_bytes);
        self.looked_at = Some(now);
        self.unwatched_bytes = free_bytes.saturating_sub(reserve_bytes).saturating_sub(bytes);
        match free_bytes < reserve_bytes {
            true => Condition::Full { free_bytes, reserve_bytes },
            false => Condition::Ready,
        }
    }

    /// Tells whether there is room again after there was none. That takes a quarter more than the reserve, so that the answer
    /// does not change with every message.
    pub(super) fn after(&mut self, reusable_bytes: u64) -> Condition {
        let reserve_bytes = self.reserve.bytes();
        let reserve_bytes = reserve_bytes.saturating_add(reserve_bytes / 4).max(RETURN_BYTES_MIN);
        match self.look(reserve_bytes, reusable_bytes) {
            free_bytes if free_bytes < reserve_bytes => Condition::Full { free_bytes, reserve_bytes },
            _ => Condition::Ready,
        }
    }

    /// Returns what counts as free, and takes note of it beside what is wanted.
    fn look(&mut self, wanted_bytes: u64, reusable_bytes: u64) -> u64 {
        let free_bytes = (self.free_bytes)();
        // Whatever is wanted: what may be written while storage is full is decided by the reserve alone.
        let is_enough_outside = free_bytes >= self.reserve.bytes().max(RETURN_BYTES_MIN) / OUTSIDE;
        self.seen = Some(Seen { free_bytes, wanted_bytes, is_enough_outside });
        free_bytes.saturating_add(if is_enough_outside { reusable_bytes } else { 0 })
    }

    /// Returns by how much the store may grow, as the last look found; negative by how much it should shrink. Without a look,
    /// nothing limits it.
    pub(super) fn growth_bytes(&self) -> i64 {
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.seen.map_or(i64::MAX, |seen| signed(seen.free_bytes) - signed(seen.wanted_bytes))
    }

    /// Tells whether the last look found what it takes to move things within the store.
    pub(super) fn can_tidy(&self) -> bool {
        self.seen.is_some_and(|seen| seen.is_enough_outside)
    }

    /// Tells whether the last look found enough to try something after an error.
    pub(super) fn can_try(&self) -> bool {
        self.seen.is_none_or(|seen| seen.free_bytes >= RETURN_BYTES_MIN)
    }
}

/// Returns what unprivileged processes may still write to the file system of a directory.
pub(super) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = statvfs(directory)?;
    if found.blocks() == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// Tells whether unprivileged processes may make no other file on the file system of a directory. One without a limit says 0 of 0.
pub(super) fn has_no_file_left(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|found| found.files() > 0 && found.files_available() == 0)
}

#[cfg(test)]
mod tests {
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

            assert_eq!(room.before(1, 0, now), before);
        }
        for (bytes, is_ready) in [(RESERVE, false), (RESERVE / 4 * 5 - 1, false), (RESERVE / 4 * 5, true)] {
            free.store(bytes, Ordering::Relaxed);

            assert_eq!(room.after(0) == Condition::Ready, is_ready, "{bytes}");
        }
    }

    #[test]
    fn what_the_store_can_use_again_counts_unless_too_little_is_free_outside_it() {
        // Each case: what is free, what can be used again, whether it is full, is not full any more, can tidy up, and can grow.
        type Case = (u64, u64, [bool; 3], i64);
        let part = RESERVE / OUTSIDE;
        let cases: [Case; 6] = [
            (15 * part, 0, [true, false, true], -(part as i64)),
            (15 * part, part, [false, false, true], -(part as i64)),
            (15 * part, 5 * part, [false, true, true], -(part as i64)),
            (part, 40 * part, [false, true, true], -15 * part as i64),
            (part - 1, 40 * part, [true, false, false], -15 * part as i64 - 1),
            (20 * part, 0, [false, true, true], 4 * part as i64),
        ];
        for (free_bytes, reusable_bytes, expected, growth_bytes) in cases {
            let (mut room, free, _) = room(RESERVE);
            free.store(free_bytes, Ordering::Relaxed);

            let is_full = room.before(1, reusable_bytes, Instant::now()) != Condition::Ready;
            let growth = room.growth_bytes();
            let is_over = room.after(reusable_bytes) == Condition::Ready;

            assert_eq!([is_full, is_over, room.can_tidy()], expected, "{free_bytes} and {reusable_bytes}");
            assert_eq!(growth, growth_bytes, "{free_bytes} and {reusable_bytes}");
        }
    }

    #[test]
    fn another_reserve_counts_from_the_next_look_on() {
        let (mut room, free, _) = room(0);
        let now = Instant::now();
        free.store(RESERVE, Ordering::Relaxed);
        assert_eq!(room.before(1, 0, now), Condition::Ready);

        room.reserve().set(2 * RESERVE);
        let full = Condition::Full { free_bytes: RESERVE, reserve_bytes: 2 * RESERVE };
        assert_eq!(room.before(1, 0, now), full);
        assert_ne!(room.after(0), Condition::Ready);

        room.reserve().set(RESERVE / 2);
        assert_eq!(room.after(0), Condition::Ready);
    }

    #[test]
    fn it_looks_again_after_a_while_or_after_much_was_written() {
        let (mut room, free, looks) = room(RESERVE);
        let start = Instant::now();
        free.store(RESERVE + 1_000 * BYTES_ON_DISK, Ordering::Relaxed);
        for (bytes, milliseconds, expected) in
            [(400, 0, 1), (600, 99, 1), (1, 99, 2), (1, 150, 2), (1, 199, 3)]
        {
            room.before(bytes, 0, start + Duration::from_millis(milliseconds));

            assert_eq!(looks.load(Ordering::Relaxed), expected, "{bytes} bytes after {milliseconds} ms");
        }
    }

    #[test]
    fn without_a_reserve_only_the_way_back_from_an_error_takes_free_space() {
        let (mut room, free, looks) = room(0);

        assert_eq!(room.before(usize::MAX, 0, Instant::now()), Condition::Ready);
        assert_eq!((looks.load(Ordering::Relaxed), room.growth_bytes()), (0, i64::MAX));
        assert_eq!((room.after(0).state(), room.can_try()), (StorageState::Full, false));
        free.store(RETURN_BYTES_MIN, Ordering::Relaxed);
        assert_eq!((room.after(0), room.can_try()), (Condition::Ready, true));
    }

    #[test]
    fn the_file_system_of_a_directory_says_what_is_free() {
        let directory = tempfile::tempdir().unwrap();

        assert!(free_bytes(directory.path()).unwrap() > 0);
        assert!(free_bytes(&directory.path().join("absent")).is_err());
    }
}
