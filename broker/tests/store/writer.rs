//! The writer thread: groups, the order of its answers, failures, limits and the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use veilmq::store::{Condition, Room, StorageHandle, StorageWriter, WriterOptions, WriterParts};
use veilmq_config::{Durability, StorageConfig};
use veilmq_core::{Message, MessageId, Record, ShardIndex, Store, StoreError, Ticket};

use crate::model::{cleared, open, published, replayed, retained, session, sorted_texts, text};

const HOUR: Durability = Durability::Interval { milliseconds: 3_600_000 };

/// What the completion said: shard, ticket, whether it is stored.
pub(crate) type Answer = (u16, u64, bool);

/// A store that does what the test says, commit by commit; without an order it waits for one.
struct Obedient {
    orders: Receiver<Result<(), &'static str>>,
    began: Sender<usize>,
    stored: Arc<Mutex<Vec<Record>>>,
}

impl Store for Obedient {
    fn commit(&mut self, batch: &[Record]) -> Result<(), StoreError> {
        self.began.send(batch.len()).unwrap();
        self.orders.recv().unwrap().map_err(|error| StoreError(error.into()))?;
        self.stored.lock().unwrap().extend_from_slice(batch);
        Ok(())
    }

    fn fetch(&mut self, _: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        unreachable!("nothing is read back in these tests")
    }

    fn replay(&mut self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(crate) struct Bench {
    writer: StorageWriter,
    handle: StorageHandle,
    pub(crate) orders: Sender<Result<(), &'static str>>,
    /// The number of records of each commit that began.
    pub(crate) began: Receiver<usize>,
    pub(crate) answers: Receiver<Answer>,
    pub(crate) stored: Arc<Mutex<Vec<Record>>>,
    pub(crate) conditions: Receiver<Condition>,
    pub(crate) free_bytes: Arc<AtomicU64>,
}

/// What the disk of [`bench`] keeps in reserve, in bytes; much more is free.
pub(crate) const RESERVE: u64 = 64 << 20;

pub(crate) fn bench(durability: Durability, backlog_bytes_max: usize) -> Bench {
    let (orders, orders_of_store) = mpsc::channel();
    let (began_of_store, began) = mpsc::channel();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let store = Obedient { orders: orders_of_store, began: began_of_store, stored: Arc::clone(&stored) };
    let free_bytes = Arc::new(AtomicU64::new(u64::MAX));
    let of_room = Arc::clone(&free_bytes);
    let room = Room::new(RESERVE, Box::new(move || of_room.load(Ordering::Relaxed)));
    let options = WriterOptions { durability, backlog_bytes_max };
    let (writer, answers, conditions) = start_in(room, Box::new(store), options);
    Bench { handle: writer.handle(), writer, orders, began, answers, stored, conditions, free_bytes }
}

fn start(
    store: Box<dyn Store>,
    durability: Durability,
    backlog_bytes_max: usize,
) -> (StorageWriter, Receiver<Answer>) {
    let room = Room::new(0, Box::new(|| u64::MAX));
    let (writer, answers, _) = start_in(room, store, WriterOptions { durability, backlog_bytes_max });
    (writer, answers)
}

pub(crate) fn start_in(
    room: Room,
    store: Box<dyn Store>,
    options: WriterOptions,
) -> (StorageWriter, Receiver<Answer>, Receiver<Condition>) {
    let (answer, answers) = mpsc::channel();
    let (condition, conditions) = mpsc::channel();
    let completion = Box::new(move |shard: ShardIndex, ticket: Ticket, result: Result<(), &StoreError>| {
        // A test that is over hears no more.
        let _ = answer.send((shard.0, ticket.0, result.is_ok()));
    });
    let parts = WriterParts {
        store,
        options,
        room,
        owed: Vec::new(),
        refresh: Box::new(refreshed),
        committed: Box::new(|_, _| {}),
        completion,
        reply: Box::new(|_, _| {}),
        watch: Box::new(move |now: &Condition| drop(condition.send(now.clone()))),
    };
    (StorageWriter::start(parts).unwrap(), answers, conditions)
}

/// Every topic that is said to be cleared retains a message again by the time it is stored.
fn refreshed(records: &mut [Record]) {
    for record in records {
        if let Record::RetainedCleared { topic } = record {
            *record = retained(topic, b"newer");
        }
    }
}

impl Bench {
    /// Submits a batch that is waited for.
    pub(crate) fn submit(&self, shard: u16, ticket: u64, records: Vec<Record>) {
        self.handle.submit(ShardIndex(shard), Ticket(ticket), records, true);
    }

    /// Submits a batch that nobody waits for.
    pub(crate) fn submit_unawaited(&self, shard: u16, ticket: u64, records: Vec<Record>) {
        self.handle.submit(ShardIndex(shard), Ticket(ticket), records, false);
    }

    pub(crate) fn answers(&self, count: usize) -> Vec<Answer> {
        (0..count).map(|_| self.answers.recv_timeout(Duration::from_secs(10)).unwrap()).collect()
    }

    fn stored(&self) -> usize {
        self.stored.lock().unwrap().len()
    }
}

#[test]
fn what_arrives_during_a_commit_becomes_one_group_with_one_answer_per_shard() {
    let bench = bench(Durability::Commit, usize::MAX);
    bench.submit(0, 1, vec![session(1, 0)]);
    assert_eq!(bench.began.recv().unwrap(), 1);
    for ticket in 2..5 {
        bench.submit(0, ticket, vec![session(ticket, 0)]);
        bench.submit(1, ticket, vec![session(ticket, 0), session(ticket, 0)]);
    }
    assert!(bench.answers.try_recv().is_err(), "nothing is answered before it is stored");

    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, true)]);
    assert_eq!(bench.began.recv().unwrap(), 9);
    bench.orders.send(Ok(())).unwrap();

    assert_eq!(bench.answers(2), [(0, 4, true), (1, 4, true)]);
    assert_eq!(bench.stored(), 10);
}

#[test]
fn records_are_brought_up_to_date_when_they_are_stored_not_when_they_arrive() {
    let bench = bench(Durability::Commit, usize::MAX);
    bench.submit(0, 1, vec![session(1, 0), cleared("t")]);
    assert_eq!(bench.began.recv().unwrap(), 2);

    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, true)]);

    let stored = bench.stored.lock().unwrap();
    assert_eq!(
        stored.iter().map(text).collect::<Vec<_>>(),
        [text(&session(1, 0)), text(&retained("t", b"newer"))]
    );
}

#[test]
fn what_nobody_waits_for_goes_along_with_what_somebody_does() {
    let bench = bench(Durability::Commit, usize::MAX);
    let started = Instant::now();
    bench.handle.submit(ShardIndex(0), Ticket(1), vec![session(1, 0)], false);
    bench.submit(1, 1, vec![session(2, 0)]);

    assert_eq!(bench.began.recv().unwrap(), 2);

    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.answers(2), [(0, 1, true), (1, 1, true)]);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_nobody_waits_for_is_stored_all_the_same() {
    let bench = bench(Durability::Commit, usize::MAX);
    for ticket in 1..=2 {
        bench.handle.submit(ShardIndex(0), Ticket(ticket), vec![session(ticket, 0)], false);
    }

    assert_eq!(bench.began.recv_timeout(Duration::from_secs(10)).unwrap(), 2, "in one group");

    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.answers(1), [(0, 2, true)]);
}

#[test]
fn much_that_nobody_waits_for_waits_no_longer() {
    let bench = bench(Durability::Commit, usize::MAX);
    let started = Instant::now();

    bench.handle.submit(ShardIndex(0), Ticket(1), vec![published(1, &vec![0; 1 << 20], &[])], false);

    bench.began.recv().unwrap();
    assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
    bench.orders.send(Ok(())).unwrap();
}

#[test]
fn a_failed_group_is_reported_ticket_by_ticket_and_the_next_one_is_stored() {
    let bench = bench(Durability::Commit, usize::MAX);
    bench.submit(0, 1, vec![session(1, 0)]);
    bench.began.recv().unwrap();
    bench.submit(0, 2, vec![session(2, 0)]);
    bench.submit(0, 3, vec![session(3, 0)]);

    bench.orders.send(Ok(())).unwrap();
    bench.orders.send(Err("disk full")).unwrap();
    assert_eq!(bench.answers(3), [(0, 1, true), (0, 2, false), (0, 3, false)]);
    bench.submit(0, 4, vec![session(4, 0)]);
    bench.orders.send(Ok(())).unwrap();

    assert_eq!(bench.answers(1), [(0, 4, true)]);
    let expected = sorted_texts(&[session(1, 0), session(4, 0)]);
    assert_eq!(sorted_texts(&bench.stored.lock().unwrap()), expected, "what failed is not tried again");
    assert_eq!(bench.handle.backlog_bytes(), 0);
}

#[test]
fn what_is_owed_may_have_grown_by_the_time_its_group_fails() {
    let bench = bench(Durability::Commit, usize::MAX);
    bench.submit(0, 1, vec![session(1, 0)]);
    bench.began.recv().unwrap();
    bench.handle.submit(ShardIndex(0), Ticket(2), vec![cleared("t")], false);
    bench.submit(0, 3, vec![session(2, 0)]);

    bench.orders.send(Ok(())).unwrap();
    bench.orders.send(Err("disk full")).unwrap();
    assert_eq!(bench.answers(3), [(0, 1, true), (0, 2, false), (0, 3, false)]);
    // What is owed may be tried alone before that arrives.
    bench.orders.send(Ok(())).unwrap();
    bench.orders.send(Ok(())).unwrap();
    bench.submit(0, 4, vec![session(3, 0)]);

    assert_eq!(bench.answers(1), [(0, 4, true)]);
    let expected = sorted_texts(&[retained("t", b"newer"), session(1, 0), session(3, 0)]);
    assert_eq!(sorted_texts(&bench.stored.lock().unwrap()), expected);
    assert_eq!(bench.handle.backlog_bytes(), 0);
}

#[test]
fn the_backlog_is_bounded_and_what_exceeds_it_fails_in_its_turn() {
    let bench = bench(Durability::Commit, 10_000);
    bench.submit(0, 1, vec![published(1, &[0; 4_000], &[])]);
    bench.began.recv().unwrap();
    bench.submit(0, 2, vec![published(2, &[0; 4_000], &[])]);
    bench.submit(0, 3, vec![published(3, &[0; 4_000], &[])]);
    bench.submit(0, 4, vec![session(1, 0)]);
    assert!((8_000..=10_000).contains(&bench.handle.backlog_bytes()), "{}", bench.handle.backlog_bytes());

    bench.orders.send(Ok(())).unwrap();
    bench.orders.send(Ok(())).unwrap();

    assert_eq!(bench.answers(3), [(0, 1, true), (0, 3, false), (0, 4, true)]);
    assert_eq!(bench.stored(), 3);
    assert_eq!(bench.handle.backlog_bytes(), 0);
}

#[test]
fn a_submission_larger_than_the_backlog_is_stored_when_nothing_else_waits() {
    let bench = bench(Durability::Commit, 10);
    bench.submit(0, 1, vec![published(1, &[0; 4_000], &[])]);
    bench.orders.send(Ok(())).unwrap();

    assert_eq!(bench.answers(1), [(0, 1, true)]);
}

#[test]
fn an_interval_answers_on_arrival_and_stores_at_its_end() {
    let bench = bench(Durability::Interval { milliseconds: 50 }, usize::MAX);
    let started = Instant::now();
    bench.submit(0, 1, vec![session(1, 0)]);

    assert_eq!(bench.answers(1), [(0, 1, true)]);
    assert_eq!(bench.began.recv().unwrap(), 1);
    assert!(started.elapsed() >= Duration::from_millis(50));
    bench.orders.send(Ok(())).unwrap();
}

#[test]
fn what_an_interval_promised_is_tried_again_and_nothing_more_is_promised_until_it_is_stored() {
    let bench = bench(Durability::Interval { milliseconds: 5 }, usize::MAX);
    bench.submit(0, 1, vec![session(1, 0)]);
    assert_eq!(bench.answers(1), [(0, 1, true)]);
    bench.orders.send(Err("disk full")).unwrap();
    assert_eq!(bench.began.recv().unwrap(), 1);
    assert_eq!(bench.began.recv().unwrap(), 1, "the promised record is tried again");

    bench.submit(0, 2, vec![session(2, 0)]);
    bench.orders.send(Err("disk full")).unwrap();
    assert_eq!(bench.began.recv().unwrap(), 2);
    bench.orders.send(Err("disk full")).unwrap();
    assert_eq!(bench.answers(1), [(0, 2, false)]);
    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.began.recv().unwrap(), 1, "what failed is dropped");
    bench.writer.stop().unwrap();

    assert_eq!(sorted_texts(&bench.stored.lock().unwrap()), sorted_texts(&[session(1, 0)]));
}

#[test]
fn stopping_commits_what_was_submitted() {
    let bench = bench(HOUR, usize::MAX);
    for ticket in 1..100 {
        bench.submit(0, ticket, vec![session(ticket, 0)]);
    }
    bench.orders.send(Ok(())).unwrap();

    bench.writer.stop().unwrap();

    assert_eq!(bench.stored.lock().unwrap().len(), 99);
}

#[test]
fn stopping_says_what_became_of_the_last_commit() {
    let bench = bench(HOUR, usize::MAX);
    bench.submit(0, 1, vec![session(1, 0)]);
    bench.orders.send(Err("disk full")).unwrap();

    assert_eq!(bench.writer.stop().unwrap_err().to_string(), "storage: disk full");
}

#[test]
fn memory_answers_like_the_others_and_touches_no_directory() {
    let directory = tempfile::tempdir().unwrap();
    let config = StorageConfig { durability: Durability::Memory, ..StorageConfig::default() };
    let (store, _) = veilmq::store::open(&directory.path().join("data"), &config, 2).unwrap();
    let (writer, answers) = start(store, config.durability, usize::MAX);

    writer.handle().submit(ShardIndex(0), Ticket(1), vec![session(1, 60)], true);
    writer.stop().unwrap();

    assert_eq!(answers.iter().collect::<Vec<_>>(), [(0, 1, true)]);
    assert!(!directory.path().join("data").exists());
}

#[test]
fn records_of_many_shards_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, answers) = start(Box::new(open(directory.path()).0), Durability::Commit, usize::MAX);
    let expected: Vec<Record> = std::thread::scope(|scope| {
        let shards = [0_u16, 1, 2].map(|shard| {
            let handle = writer.handle();
            scope.spawn(move || {
                let numbers = (0..50).map(|number| u64::from(shard) * 1_000 + number);
                let records: Vec<Record> = numbers.map(|number| session(number, 60)).collect();
                for (ticket, record) in (1..).zip(&records) {
                    handle.submit(ShardIndex(shard), Ticket(ticket), vec![record.clone()], true);
                }
                records
            })
        });
        shards.into_iter().flat_map(|shard| shard.join().unwrap()).collect()
    });

    writer.stop().unwrap();

    let answers: Vec<Answer> = answers.iter().collect();
    for shard in [0, 1, 2] {
        assert_eq!(answers.iter().rfind(|answer| answer.0 == shard), Some(&(shard, 50, true)));
    }
    assert_eq!(sorted_texts(&replayed(&mut open(directory.path()).0)), sorted_texts(&expected));
}
