//! When the state of a client is written, and on which thread: what was received is saved on one that may wait for the disk, so that
//! nothing else does; what something is to follow from is on disk when [`Saving::save`] returns, for which its client waits alone.
//!
//! Invariants: an older state replaces no newer one; nothing is written once this is dropped, and another client may then open the file.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinHandle, block_in_place, spawn_blocking},
};
use tracing::error;

use super::clock::unix_ms;
use crate::sealed_file::{Content, SealedFile, SealedFileError};

/// Saving what was received takes at most one part in so many of the time while messages come in; a crash between two saves lets what
/// came meanwhile be received again.
const SHARE: u64 = 20;
/// The longest time between two saves while messages come in, in milliseconds.
const PAUSE_MS_MAX: u64 = 5_000;
/// How often a save that takes its time is looked at when the next is due, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10;

pub(super) struct Saving {
    /// None where nothing is kept.
    file: Option<Arc<Shared>>,
    /// How many states were given to it.
    count: u64,
    under_way: Option<JoinHandle<()>>,
    due_ms: Option<u64>,
}

struct Shared {
    last: Mutex<Last>,
    /// When it may be saved again, in unix milliseconds.
    rested_at_ms: AtomicU64,
}

struct Last {
    /// None when the client has let go of it.
    file: Option<SealedFile>,
    /// Which state is in the file.
    number: u64,
}

impl Saving {
    pub(super) fn new(file: Option<SealedFile>) -> Self {
        let shared = |file| {
            Arc::new(Shared { last: Mutex::new(Last { file, number: 0 }), rested_at_ms: AtomicU64::new(0) })
        };
        Self { file: file.map(|file| shared(Some(file))), count: 0, under_way: None, due_ms: None }
    }

    /// When [`save_beside`](Self::save_beside) has something to do, in unix milliseconds.
    pub(super) const fn due(&self) -> Option<u64> {
        self.due_ms
    }

    /// Has the state saved soon.
    pub(super) fn want(&mut self) {
        self.due_ms.get_or_insert(unix_ms());
    }

    /// Saves the state; when this returns, it is on disk.
    ///
    /// # Errors
    /// [`SealedFileError`].
    pub(super) fn save(&mut self, content: impl FnOnce() -> Content) -> Result<(), SealedFileError> {
        self.due_ms = None;
        let Some(file) = &self.file else { return Ok(()) };
        self.count += 1;
        let content = content();
        without_holding_tasks_up(|| file.save(self.count, &content))
    }

    /// Saves the state if that is wanted and the disk has had its rest, and waits for nothing.
    pub(super) fn save_beside(&mut self, content: impl FnOnce() -> Content) {
        let now_ms = unix_ms();
        if self.due_ms.is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        let Some(file) = &self.file else {
            self.due_ms = None;
            return;
        };
        if self.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            self.due_ms = Some(now_ms + LOOK_AGAIN_MS);
            return;
        }
        let rested_at_ms = file.rested_at_ms.load(Ordering::Relaxed);
        // A clock that was set back does not put it off.
        if rested_at_ms > now_ms && rested_at_ms <= now_ms + PAUSE_MS_MAX {
            self.due_ms = Some(rested_at_ms);
            return;
        }
        self.due_ms = None;
        self.count += 1;
        let (file, number, content) = (Arc::clone(file), self.count, content());
        self.under_way = Some(spawn_blocking(move || {
            if let Err(error) = file.save(number, &content) {
                error!(%error, "cannot save which messages were received");
            }
        }));
    }
}

/// Does what may wait for the disk. Where the runtime has several threads, its other tasks go on meanwhile.
fn without_holding_tasks_up<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.last().file = None;
        }
    }
}

impl Shared {
    fn save(&self, number: u64, content: &[u8]) -> Result<(), SealedFileError> {
        let mut last = self.last();
        let Some(file) = last.file.as_ref().filter(|_| last.number < number) else { return Ok(()) };
        let began = unix_ms();
        let outcome = file.save(content);
        let ended = unix_ms();
        let pause = ended.saturating_sub(began).max(1).saturating_mul(SHARE);
        self.rested_at_ms.store(ended.saturating_add(pause.min(PAUSE_MS_MAX)), Ordering::Relaxed);
        if outcome.is_ok() {
            last.number = number;
        }
        outcome
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc, time::Duration};

    use tokio::runtime::{Builder, Runtime};
    use veilmq_protocol::veil::channel::Secret32;

    use super::*;
    use crate::sealed_file::StateKey;

    fn key() -> StateKey {
        StateKey::Key(Secret32::new(&[1; 32]))
    }

    fn content(text: &str) -> Content {
        Content::new(text.as_bytes().to_vec())
    }

    fn is_in(path: &Path) -> Content {
        SealedFile::read(path, &key()).unwrap().1
    }

    /// A runtime whose one thread for what may wait is taken until the sender is dropped.
    fn busy() -> (Runtime, mpsc::SyncSender<()>) {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (release, released) = mpsc::sync_channel(0);
        runtime.spawn_blocking(move || released.recv());
        (runtime, release)
    }

    /// A state in which something is, and something else is wanted.
    fn wanting(path: &Path) -> Saving {
        let mut saving = Saving::new(Some(SealedFile::open(path, &key()).unwrap().0));
        saving.save(|| content("first")).unwrap();
        // The disk has had its rest.
        saving.file.as_ref().unwrap().rested_at_ms.store(0, Ordering::Relaxed);
        saving.want();
        saving
    }

    #[test]
    fn what_is_saved_beside_keeps_nobody_waiting_and_comes_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (runtime, release) = busy();
        let _inside = runtime.enter();
        let mut saving = wanting(&path);

        saving.save_beside(|| content("second"));
        assert_eq!(is_in(&path).as_slice(), b"first");
        assert_eq!(saving.due(), None);
        saving.want();
        saving.save_beside(|| panic!("one is under way"));
        assert!(saving.due().is_some(), "and this one is not forgotten");
        drop(release);
        runtime.block_on(saving.under_way.as_mut().unwrap()).unwrap();

        assert_eq!(is_in(&path).as_slice(), b"second");
    }

    #[test]
    fn what_a_client_has_to_wait_for_keeps_no_other_task_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let mut saving = wanting(&path);
        let shared = Arc::clone(saving.file.as_ref().unwrap());
        // As if the disk took its time.
        let disk = shared.last();

        let client = runtime.spawn(async move { saving.save(|| content("second")) });
        let (went_on, goes_on) = mpsc::sync_channel(1);
        runtime.spawn(async move { went_on.send(()) });
        goes_on.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(disk);

        runtime.block_on(client).unwrap().unwrap();
        assert_eq!(is_in(&path).as_slice(), b"second");
    }

    #[test]
    fn an_older_state_replaces_no_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (runtime, release) = busy();
        let _inside = runtime.enter();
        let mut saving = wanting(&path);

        saving.save_beside(|| content("second"));
        saving.save(|| content("third")).unwrap();
        drop(release);
        runtime.block_on(saving.under_way.as_mut().unwrap()).unwrap();

        assert_eq!(is_in(&path).as_slice(), b"third");
    }

    #[test]
    fn nothing_is_written_once_the_client_has_let_go_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (runtime, release) = busy();
        let _inside = runtime.enter();
        let mut saving = wanting(&path);
        saving.save_beside(|| content("second"));
        let task = saving.under_way.take().unwrap();

        drop(saving);
        let (next, _) = SealedFile::open(&path, &key()).unwrap();
        next.save(b"of the next client").unwrap();
        drop(release);
        runtime.block_on(task).unwrap();

        assert_eq!(is_in(&path).as_slice(), b"of the next client");
    }
}
