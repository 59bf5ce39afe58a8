//! The writer thread: collects what shards submit, commits all of it as one batch, then tells each shard.
//!
//! While one group is being synced the next one gathers, so the cost of a sync is shared by all that wait for it. What
//! nobody waits for begins no commit for a moment: with luck it goes along with something that is waited for.
//! A failed group is reported and dropped, but for what is owed; the thread goes on, and tries every second whether the
//! store does too. Invariant: no ticket is reported durable before a commit with its records has returned, except under
//! `Durability::Interval`, where arrival is enough.
//! Between commits it reads back what shards ask for.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use veilmq_config::Durability;
use veilmq_core::{Message, MessageId, Reader, Record, ShardIndex, Store, StoreError, Ticket};

use super::group::{Group, record_bytes};
use super::room::{Condition, Room};

/// The bytes of records at which a group is complete; whole submissions only, so that one may exceed it.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long submissions wait for company if nobody waits for them.
const COMPANY_TIME_MAX: Duration = Duration::from_millis(50);
/// The bytes of such submissions that wait no longer.
const COMPANY_BYTES_MAX: usize = 1024 * 1024;
/// The time between looks whether there is room again, or the store works again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The requests to read that are answered between two commits.
const FETCHES_MAX: usize = 16;

/// Told by the writer thread what became of tickets.
///
/// On success every ticket of the shard up to and including the one given is stored, except those reported as
/// failed before; on failure the one given is not. It must not block.
pub type Completion = Box<dyn Fn(ShardIndex, Ticket, Result<(), &StoreError>) + Send>;

/// Called by the writer thread with all that the next commit stores, to bring it up to date.
pub type Refresh = Box<dyn Fn(&mut [Record]) + Send>;

/// Told by the writer thread what storage can do, which is assumed to be ready at the start. It must not block.
pub type Watch = Box<dyn Fn(&Condition) + Send>;

/// Told by the writer thread what became of records: they are durable, or dropped. Only those that were promised before they
/// were stored may be neither for a while. It must not block.
pub type Committed = Box<dyn Fn(&[Record], bool) + Send>;

/// Given by the writer thread what a shard wanted to read. It must not block.
pub type Reply = Box<dyn Fn(ShardIndex, Fetched) + Send>;

/// The answer to [`StorageHandle::fetch`].
pub struct Fetched {
    /// Who asked.
    pub reader: Reader,
    /// What was asked for.
    pub asked: Vec<MessageId>,
    /// The messages that the store has of it.
    pub messages: Result<Vec<Arc<Message>>, StoreError>,
}

/// What the writer works with.
pub struct WriterParts {
    /// Where records go.
    pub store: Box<dyn Store>,
    /// How they are committed.
    pub options: WriterOptions,
    /// The space that there is for them.
    pub room: Room,
    /// Records that could not be stored so far and must not be dropped.
    pub owed: Vec<Record>,
    /// Called before each commit.
    pub refresh: Refresh,
    /// Told what became of records.
    pub committed: Committed,
    /// Told what became of tickets.
    pub completion: Completion,
    /// Given what was read.
    pub reply: Reply,
    /// Told what storage can do.
    pub watch: Watch,
}

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
pub(super) struct Submission {
    pub(super) shard: ShardIndex,
    pub(super) ticket: Ticket,
    /// An error if there was no room for them.
    records: Result<Vec<Record>, Vec<Record>>,
    pub(super) bytes: usize,
    pub(super) awaited: bool,
}

/// What a shard wants to read.
struct Fetch {
    shard: ShardIndex,
    reader: Reader,
    messages: Vec<MessageId>,
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
    fetches: VecDeque<Fetch>,
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
    pub fn start(parts: WriterParts) -> io::Result<Self> {
        let WriterParts { store, options, room, owed, refresh, committed, completion, reply, watch } = parts;
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
        let mut worker = Worker {
            queue: Arc::clone(&queue),
            store,
            interval,
            room,
            refresh,
            committed,
            completion,
            watch,
            condition: Condition::Ready,
            look_at: None,
            reply,
            fetches: VecDeque::new(),
            group: Group::default(),
        };
        worker.group.owe(owed);
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
            Submission { shard, ticket, records: Ok(records), bytes, awaited }
        } else {
            self.0.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
            Submission { shard, ticket, records: Err(records), bytes: 0, awaited }
        };
        let awaited = awaited || self.0.answers_on_arrival || submission.records.is_err();
        if self.0.lock().add(submission, awaited) {
            self.0.arrived.notify_one();
        }
    }

    /// Asks the writer thread for messages that are durable, without waiting. The reply comes between two commits.
    pub fn fetch(&self, shard: ShardIndex, reader: Reader, messages: Vec<MessageId>) {
        self.0.lock().fetches.push_back(Fetch { shard, reader, messages });
        self.0.arrived.notify_one();
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

struct Worker {
    queue: Arc<Queue>,
    store: Box<dyn Store>,
    interval: Option<Duration>,
    room: Room,
    refresh: Refresh,
    committed: Committed,
    completion: Completion,
    watch: Watch,
    condition: Condition,
    /// When to look again, unless storage is ready.
    look_at: Option<Instant>,
    reply: Reply,
    /// What is to be read next.
    fetches: VecDeque<Fetch>,
    group: Group,
}

impl Worker {
    fn run(mut self) -> Result<(), StoreError> {
        let condition = self.room.before(0, self.store.reusable_bytes(), Instant::now());
        self.show(condition);
        if !self.group.records.is_empty() {
            // What is owed is not reported to anybody: the condition says what became of it.
            let _ = self.commit();
        }
        loop {
            let stopping = self.gather();
            if stopping || self.is_due() {
                let result = self.commit();
                if stopping {
                    return result;
                }
            }
            self.read();
            if self.look_at.is_some_and(|at| at <= Instant::now()) {
                self.look();
            }
        }
    }

    /// Waits for submissions, or for the time to commit or to look, and takes what fits into the group. True once the
    /// writer is to stop and everything was taken.
    fn gather(&mut self) -> bool {
        let queue = Arc::clone(&self.queue);
        let mut waiting = queue.lock();
        // A group that is full and cannot be stored waits for its next attempt, and so does all that follows.
        let has_room = self.group.bytes < GROUP_BYTES_MAX;
        while !waiting.stopping && waiting.fetches.is_empty() {
            let next = if has_room { waiting.due } else { None };
            let next = next.into_iter().chain(self.group.due).chain(self.look_at).min();
            waiting = match next.map(|due| due.saturating_duration_since(Instant::now())) {
                None => queue.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    queue.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        let stopping = waiting.stopping;
        let fetches = waiting.fetches.len().min(FETCHES_MAX);
        self.fetches.extend(waiting.fetches.drain(..fetches));
        // Being woken to read is no reason to begin a commit.
        let is_due = stopping || waiting.due.is_some_and(|due| due <= Instant::now());
        let mut taken = Vec::new();
        let mut bytes = self.group.bytes;
        while (stopping || is_due && bytes < GROUP_BYTES_MAX)
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
        for mut submission in submissions {
            match std::mem::replace(&mut submission.records, Ok(Vec::new())) {
                Ok(records) => self.group.add(&submission, records),
                Err(records) => {
                    (self.committed)(&records, false);
                    (self.completion)(
                        submission.shard,
                        submission.ticket,
                        Err(&StoreError("too many bytes are waiting to be stored".into())),
                    );
                }
            }
        }
        if let Some(interval) = self.interval
            && !self.group.records.is_empty()
        {
            self.group.due.get_or_insert_with(|| Instant::now() + interval);
            // Promising more while the store refuses what was promised before would be a lie.
            if !self.is_failing() {
                self.group.promise_all();
                self.report_stored();
            }
        }
    }

    fn is_due(&self) -> bool {
        match self.group.due {
            None => self.group.is_awaited(),
            Some(due) => Instant::now() >= due || self.group.bytes >= GROUP_BYTES_MAX && !self.is_failing(),
        }
    }

    fn is_failing(&self) -> bool {
        matches!(self.condition, Condition::Failing(_))
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.group.records.is_empty() {
            self.report_stored();
            return Ok(());
        }
        self.commit_group()
    }

    fn commit_group(&mut self) -> Result<(), StoreError> {
        if self.condition == Condition::Ready {
            let reusable_bytes = self.store.reusable_bytes();
            let condition = self.room.before(self.group.bytes, reusable_bytes, Instant::now());
            self.show(condition);
        }
        self.store.confine(self.room.growth_bytes());
        (self.refresh)(&mut self.group.records);
        let started = Instant::now();
        let result = self.store.commit(&self.group.records);
        metrics::histogram!("veilmq_storage_commit_seconds").record(started.elapsed());
        match &result {
            Ok(()) => {
                if self.is_failing() {
                    let condition = self.room.after(self.store.reusable_bytes());
                    self.show(condition);
                }
                // First the room, then the answer: a shard that was waiting for both finds both.
                self.queue.backlog_bytes.fetch_sub(self.group.bytes, Ordering::Relaxed);
                (self.committed)(&self.group.records, true);
                self.report_stored();
                self.group.stored();
            }
            Err(error) => {
                // Whoever is told that its batch failed asks again, and is to be refused by then.
                self.show(Condition::Failing(error.0.clone()));
                self.report_failed(error);
            }
        }
        result
    }

    /// Looks whether storage takes something new again.
    fn look(&mut self) {
        let started = Instant::now();
        let condition = self.room.after(self.store.reusable_bytes());
        let mut is_tidying = false;
        match &self.condition {
            Condition::Ready => {}
            Condition::Full { .. } => {
                self.show(condition);
                is_tidying = self.condition != Condition::Ready && self.tidy();
            }
            // Otherwise it cannot succeed yet. Batches that only free something are tried all the same, as they come.
            Condition::Failing(_) if self.room.can_try() => {
                // What is owed, or nothing, which is written too. The condition says what became of it.
                let _ = self.commit_group();
            }
            Condition::Failing(_) => {}
        }
        // An attempt that takes long, because much has to be read again, is made less often.
        let pause = if is_tidying { Duration::ZERO } else { LOOK_INTERVAL.max(4 * started.elapsed()) };
        self.look_at = (self.condition != Condition::Ready).then(|| Instant::now() + pause);
    }

    /// Has the store take out a part of what is of no use, which it otherwise does when something is stored: there may be nothing, since
    /// it would be refused. True if that worked, and something may be left.
    fn tidy(&mut self) -> bool {
        self.room.can_tidy() && self.store.confine(self.room.growth_bytes()) && self.commit_group().is_ok()
    }

    fn show(&mut self, condition: Condition) {
        if condition == self.condition {
            return;
        }
        let changes = condition.state() != self.condition.state();
        match &condition {
            Condition::Ready if changes => tracing::info!("storage takes everything again"),
            Condition::Full { .. } if changes => {
                tracing::error!("{condition}; nothing new is stored until there is room");
            }
            Condition::Failing(_) if changes => {
                tracing::error!("{condition}; nothing that needs it is acknowledged");
            }
            Condition::Ready | Condition::Full { .. } | Condition::Failing(_) => {}
        }
        if changes {
            self.look_at = (condition != Condition::Ready).then(|| Instant::now() + LOOK_INTERVAL);
        }
        (self.watch)(&condition);
        self.condition = condition;
    }

    /// Reads what shards have asked for.
    fn read(&mut self) {
        for Fetch { shard, reader, messages: asked } in self.fetches.drain(..) {
            let messages = self.store.fetch(&asked);
            (self.reply)(shard, Fetched { reader, asked, messages });
        }
    }

    /// Tells each shard about its last ticket.
    fn report_stored(&mut self) {
        for (shard, ticket) in self.group.take_last_tickets() {
            (self.completion)(shard, ticket, Ok(()));
        }
    }

    /// Tells each ticket, and keeps of the group what must not be dropped.
    fn report_failed(&mut self, error: &StoreError) {
        let bytes = self.group.bytes;
        let (tickets, dropped) = self.group.failed();
        (self.committed)(&dropped, false);
        // What is kept may be larger than it was: a later message has taken its place.
        self.queue.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.queue.backlog_bytes.fetch_add(self.group.bytes, Ordering::Relaxed);
        for (shard, ticket) in tickets {
            (self.completion)(shard, ticket, Err(error));
        }
        let is_owing = !self.group.records.is_empty();
        self.group.due = self.interval.filter(|_| is_owing).map(|interval| Instant::now() + interval);
    }
}
