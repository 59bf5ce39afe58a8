//! The writer thread: collects what shards submit, commits all of it as one batch, then tells each shard.
//!
//! While one group is being synced the next one gathers, so the cost of a sync is shared by all that wait for it. What
//! nobody waits for begins no commit for a moment: with luck it goes along with something that is waited for.
//! A failed group is reported and dropped; the thread goes on. Invariant: no ticket is reported durable before a
//! commit with its records has returned, except under `Durability::Interval`, where arrival is enough.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use veilmq_config::Durability;
use veilmq_core::{Record, Reference, ShardIndex, Store, StoreError, Ticket};

/// The bytes of records at which a group is complete; whole submissions only, so that one may exceed it.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long submissions wait for company if nobody waits for them.
const COMPANY_TIME_MAX: Duration = Duration::from_millis(50);
/// The bytes of such submissions that wait no longer.
const COMPANY_BYTES_MAX: usize = 1024 * 1024;

/// Told by the writer thread what became of tickets.
///
/// On success every ticket of the shard up to and including the one given is stored, except those reported as
/// failed before; on failure the one given is not. It must not block.
pub type Completion = Box<dyn Fn(ShardIndex, Ticket, Result<(), &StoreError>) + Send>;

/// Called by the writer thread with all that the next commit stores, to bring it up to date.
pub type Refresh = Box<dyn Fn(&mut [Record]) + Send>;

/// How the writer commits.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// When a submission counts as stored.
    pub durability: Durability,
    /// The most bytes of records that may wait; submissions above it fail. Shards should stop reading well below.
    pub backlog_bytes_max: usize,
}

/// The writer thread; stops, after committing everything, when dropped.
pub struct StorageWriter {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

/// A shard's access to the writer thread.
#[derive(Clone)]
pub struct StorageHandle(Arc<Queue>);

/// What one shard submitted in one go.
struct Submission {
    shard: ShardIndex,
    ticket: Ticket,
    /// None if there was no room for them.
    records: Option<Vec<Record>>,
    bytes: usize,
}

struct Queue {
    /// Submissions are answered when they arrive, so that each is waited for.
    answers_on_arrival: bool,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    backlog_bytes: AtomicUsize,
    backlog_bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    submissions: VecDeque<Submission>,
    bytes: usize,
    /// When the submissions are to be taken at the latest; None if there are none.
    due: Option<Instant>,
    stopping: bool,
}

impl Waiting {
    /// Adds a submission; true if the writer has to look at what waits sooner than it knew.
    fn add(&mut self, submission: Submission, awaited: bool) -> bool {
        let was_due = self.due;
        self.bytes += submission.bytes;
        self.submissions.push_back(submission);
        let now = Instant::now();
        let is_urgent = awaited || self.bytes >= COMPANY_BYTES_MAX;
        let due = if is_urgent { now } else { now + COMPANY_TIME_MAX };
        self.due = Some(was_due.map_or(due, |earlier| earlier.min(due)));
        // The writer is on its way to what was due before now.
        was_due.is_none_or(|earlier| is_urgent && earlier > now)
    }

    fn take(&mut self) -> Option<Submission> {
        let submission = self.submissions.pop_front()?;
        self.bytes -= submission.bytes;
        if self.submissions.is_empty() {
            self.due = None;
        }
        Some(submission)
    }
}

impl StorageWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn start(
        store: Box<dyn Store>,
        options: WriterOptions,
        refresh: Refresh,
        completion: Completion,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            answers_on_arrival: matches!(options.durability, Durability::Interval { .. }),
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            backlog_bytes: AtomicUsize::new(0),
            backlog_bytes_max: options.backlog_bytes_max,
        });
        let interval = match options.durability {
            Durability::Interval { milliseconds } => Some(Duration::from_millis(milliseconds.into())),
            Durability::Commit | Durability::Memory => None,
        };
        let worker = Worker {
            queue: Arc::clone(&queue),
            store,
            interval,
            refresh,
            completion,
            group: Group::default(),
            failing: false,
        };
        let thread = thread::Builder::new().name("storage".into()).spawn(move || worker.run())?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Returns access to the thread for a shard.
    pub fn handle(&self) -> StorageHandle {
        StorageHandle(Arc::clone(&self.queue))
    }

    /// Commits everything submitted so far, closes the store and ends the thread.
    ///
    /// # Errors
    /// What became of the last commit; with `Durability::Interval` this is the only report of what was not stored.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), StoreError> {
        self.queue.lock().stopping = true;
        self.queue.arrived.notify_one();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(StoreError("the writer thread panicked".into())),
        }
    }
}

impl Drop for StorageWriter {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = self.join()
        {
            tracing::error!(%error, "the last batch was not stored");
        }
    }
}

impl StorageHandle {
    /// Passes a batch to the writer thread, without waiting. The completion says what became of it, in the order of
    /// submission; a batch submitted after the writer stopped is never reported, so never acknowledged. A batch that is not
    /// `awaited` is committed within some 50 ms, together with others if there are any.
    pub fn submit(&self, shard: ShardIndex, ticket: Ticket, records: Vec<Record>, awaited: bool) {
        let bytes = records.iter().map(record_bytes).sum();
        let before = self.0.backlog_bytes.fetch_add(bytes, Ordering::Relaxed);
        let submission = if before.saturating_add(bytes) <= self.0.backlog_bytes_max || before == 0 {
            Submission { shard, ticket, records: Some(records), bytes }
        } else {
            self.0.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
            Submission { shard, ticket, records: None, bytes: 0 }
        };
        let awaited = awaited || self.0.answers_on_arrival || submission.records.is_none();
        if self.0.lock().add(submission, awaited) {
            self.0.arrived.notify_one();
        }
    }

    /// Returns the bytes of records that were submitted and are not stored yet.
    pub fn backlog_bytes(&self) -> usize {
        self.0.backlog_bytes.load(Ordering::Relaxed)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The queue is whole between any two statements that hold the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes that a record keeps in memory while it waits.
fn record_bytes(record: &Record) -> usize {
    let reference_bytes =
        |reference: &Reference| size_of::<Reference>() + 4 * reference.subscription_ids.len();
    size_of::<Record>()
        + match record {
            Record::Session(head) => {
                let will = head.will.as_ref();
                head.client_id.len()
                    + will.map_or(0, |will| {
                        will.topic.len() + will.payload.len() + will.application_properties.len()
                    })
            }
            Record::Subscribed { filter: name, .. }
            | Record::Unsubscribed { filter: name, .. }
            | Record::RetainedCleared { topic: name } => name.len(),
            Record::Published { message, references } => {
                message.size_bytes() + references.iter().map(reference_bytes).sum::<usize>()
            }
            Record::Advanced { reference, .. } => reference_bytes(reference),
            Record::Retained { message } => message.size_bytes(),
            Record::SessionEnded { .. }
            | Record::Forgotten { .. }
            | Record::Settled { .. }
            | Record::Received { .. }
            | Record::Released { .. } => 0,
        }
}

/// What the next commit will store.
#[derive(Default)]
struct Group {
    records: Vec<Record>,
    bytes: usize,
    /// The tickets that wait for the commit, in the order of arrival.
    tickets: Vec<(ShardIndex, Ticket)>,
    /// How much of the group was acknowledged on arrival and must not be dropped: records, bytes.
    promised: (usize, usize),
    /// When it must be committed, unless tickets wait for it.
    due: Option<Instant>,
}

struct Worker {
    queue: Arc<Queue>,
    store: Box<dyn Store>,
    interval: Option<Duration>,
    refresh: Refresh,
    completion: Completion,
    group: Group,
    /// Whether the last commit failed.
    failing: bool,
}

impl Worker {
    fn run(mut self) -> Result<(), StoreError> {
        loop {
            let stopping = self.gather();
            if stopping || self.is_due() {
                let result = self.commit();
                if stopping {
                    return result;
                }
            }
        }
    }

    /// Waits for submissions, or for the time to commit, and takes what fits into the group. True once the writer
    /// is to stop and everything was taken.
    fn gather(&mut self) -> bool {
        let queue = Arc::clone(&self.queue);
        let mut waiting = queue.lock();
        // A group that is full and cannot be stored waits for its next attempt, and so does all that follows.
        let has_room = self.group.bytes < GROUP_BYTES_MAX;
        while !waiting.stopping {
            let next = if has_room { waiting.due } else { None };
            let next = next.into_iter().chain(self.group.due).min();
            waiting = match next.map(|due| due.saturating_duration_since(Instant::now())) {
                None => queue.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    queue.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        let stopping = waiting.stopping;
        let mut taken = Vec::new();
        let mut bytes = self.group.bytes;
        while (stopping || bytes < GROUP_BYTES_MAX)
            && let Some(submission) = waiting.take()
        {
            bytes += submission.bytes;
            taken.push(submission);
        }
        drop(waiting);
        self.take(taken);
        stopping
    }

    /// Adds submissions to the group; those that need no commit are answered here.
    fn take(&mut self, submissions: Vec<Submission>) {
        for Submission { shard, ticket, records, bytes } in submissions {
            let Some(records) = records else {
                (self.completion)(
                    shard,
                    ticket,
                    Err(&StoreError("too many bytes are waiting to be stored".into())),
                );
                continue;
            };
            self.group.records.extend(records);
            self.group.bytes += bytes;
            self.group.tickets.push((shard, ticket));
        }
        if let Some(interval) = self.interval
            && !self.group.records.is_empty()
        {
            self.group.due.get_or_insert_with(|| Instant::now() + interval);
            // Promising more while the store refuses what was promised before would be a lie.
            if !self.failing {
                self.group.promised = (self.group.records.len(), self.group.bytes);
                self.report_stored();
            }
        }
    }

    fn is_due(&self) -> bool {
        match self.group.due {
            None => !self.group.tickets.is_empty(),
            Some(due) => Instant::now() >= due || self.group.bytes >= GROUP_BYTES_MAX && !self.failing,
        }
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.group.records.is_empty() {
            self.report_stored();
            return Ok(());
        }
        (self.refresh)(&mut self.group.records);
        let started = Instant::now();
        let result = self.store.commit(&self.group.records);
        metrics::histogram!("veilmq_storage_commit_seconds").record(started.elapsed());
        match &result {
            Ok(()) => {
                // First the room, then the answer: a shard that was waiting for both finds both.
                self.queue.backlog_bytes.fetch_sub(self.group.bytes, Ordering::Relaxed);
                self.report_stored();
                self.group = Group::default();
            }
            Err(error) => self.report_failed(error),
        }
        if let (Err(error), false) = (&result, self.failing) {
            tracing::error!(%error, "records are not stored, and nothing that needs them is acknowledged");
        } else if result.is_ok() && self.failing {
            tracing::info!("records are stored again");
        }
        self.failing = result.is_err();
        result
    }

    /// Tells each shard about its last ticket.
    fn report_stored(&mut self) {
        let mut last: Vec<(ShardIndex, Ticket)> = Vec::new();
        for (shard, ticket) in self.group.tickets.drain(..) {
            match last.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, known)) => *known = ticket,
                None => last.push((shard, ticket)),
            }
        }
        for (shard, ticket) in last {
            (self.completion)(shard, ticket, Ok(()));
        }
    }

    /// Tells each ticket, and keeps of the group only what was promised.
    fn report_failed(&mut self, error: &StoreError) {
        let (records, bytes) = self.group.promised;
        self.group.records.truncate(records);
        self.queue.backlog_bytes.fetch_sub(self.group.bytes - bytes, Ordering::Relaxed);
        self.group.bytes = bytes;
        for (shard, ticket) in self.group.tickets.drain(..) {
            (self.completion)(shard, ticket, Err(error));
        }
        self.group.due = self.interval.filter(|_| records > 0).map(|interval| Instant::now() + interval);
    }
}
