//! What the writer does when space runs out or commits fail: what it says, what it still stores, what it keeps, how it recovers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use veilmq::store::{Condition, Room, WriterOptions};
use veilmq_config::Durability;
use veilmq_core::{Message, MessageId, Record, Stage, StorageState, Store, StoreError};

use crate::model::{advanced, forgotten, packet_id, published, session, settled, sorted_texts};
use crate::writer::{Bench, RESERVE, bench, start_in};

fn commit_bench() -> Bench {
    bench(Durability::Commit, usize::MAX)
}

/// The first step of session 1 with a message.
fn begun(message: u64) -> Record {
    advanced(1, message, Stage::Published(packet_id(1)))
}

impl Bench {
    fn next_condition(&self) -> Condition {
        self.conditions.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn stored_texts(&self) -> Vec<String> {
        sorted_texts(&self.stored.lock().unwrap())
    }
}

#[test]
fn below_the_reserve_it_says_so_and_stores_what_still_comes_until_there_is_room_again() {
    let bench = commit_bench();
    bench.free_bytes.store(RESERVE - 1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(100));
    bench.submit(0, 1, vec![session(1, 0)]);

    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, true)]);
    let full = bench.next_condition();
    assert_eq!(full, Condition::Full { free_bytes: RESERVE - 1, reserve_bytes: RESERVE });
    assert_eq!(full.to_string(), "storage is full: 67108863 bytes free of a reserve of 67108864");
    bench.free_bytes.store(2 * RESERVE, Ordering::Relaxed);

    assert_eq!(bench.next_condition(), Condition::Ready);
    assert_eq!(bench.stored_texts(), sorted_texts(&[session(1, 0)]));
}

#[test]
fn an_error_is_said_before_anybody_hears_of_it_and_an_attempt_a_second_later_ends_it() {
    let bench = commit_bench();
    bench.submit(0, 1, vec![session(1, 0)]);
    bench.orders.send(Err("no space")).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, false)]);
    let failing = bench.conditions.try_recv().unwrap();
    assert_eq!(
        (failing.state(), failing.to_string()),
        (StorageState::Failing, "storage failing: no space".into())
    );
    assert_eq!(bench.began.recv().unwrap(), 1);

    assert_eq!(bench.began.recv_timeout(Duration::from_secs(10)).unwrap(), 0, "nobody asked for this commit");
    bench.orders.send(Err("no space")).unwrap();
    bench.began.recv_timeout(Duration::from_secs(10)).unwrap();
    bench.orders.send(Ok(())).unwrap();

    assert_eq!(bench.next_condition(), Condition::Ready);
    assert!(bench.stored_texts().is_empty(), "what failed is not stored later");
}

#[test]
fn after_an_error_nothing_is_tried_for_want_of_room_and_a_success_alone_does_not_make_it_ready() {
    let bench = commit_bench();
    bench.submit(0, 1, vec![session(1, 0)]);
    bench.orders.send(Err("no space")).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, false)]);
    bench.free_bytes.store(0, Ordering::Relaxed);
    assert_eq!(bench.next_condition().state(), StorageState::Failing);
    bench.began.recv().unwrap();

    assert!(bench.began.recv_timeout(Duration::from_millis(1_500)).is_err(), "there is no room to try it");
    bench.submit(0, 2, vec![settled(1, 1)]);
    bench.orders.send(Ok(())).unwrap();
    assert_eq!(bench.answers(1), [(0, 2, true)], "what frees something is tried");

    assert_eq!(bench.next_condition().state(), StorageState::Full);
    bench.free_bytes.store(2 * RESERVE, Ordering::Relaxed);
    assert_eq!(bench.next_condition(), Condition::Ready);
}

#[test]
fn what_only_frees_something_is_owed_to_the_store_and_all_else_is_dropped_with_its_batch() {
    let moved: Vec<Record> = vec![published(7, b"x", &[2]), settled(1, 3)];
    let rows: [(&str, Vec<Record>, Vec<Record>); 3] = [
        ("settled", vec![settled(1, 1), forgotten(1)], vec![settled(1, 1), forgotten(1)]),
        ("a new message", vec![published(8, b"x", &[1])], vec![]),
        ("a message that is passed on is stored in one place", moved, vec![]),
    ];
    for (name, batch, owed) in rows {
        let bench = commit_bench();
        bench.submit(0, 1, batch);
        bench.orders.send(Err("no space")).unwrap();
        assert_eq!(bench.answers(1), [(0, 1, false)], "{name}");
        bench.submit(0, 2, vec![session(9, 0)]);
        bench.orders.send(Ok(())).unwrap();
        assert_eq!(bench.answers(1), [(0, 2, true)], "{name}");

        let expected: Vec<Record> = owed.into_iter().chain([session(9, 0)]).collect();
        assert_eq!(bench.stored_texts(), sorted_texts(&expected), "{name}");
    }
}

#[test]
fn a_message_whose_body_was_not_stored_leaves_no_reference_behind() {
    let bench = commit_bench();
    bench.submit(0, 1, vec![published(5, b"x", &[1])]);
    bench.orders.send(Err("no space")).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, false)]);

    bench.submit(0, 2, vec![begun(5), begun(6)]);
    bench.orders.send(Ok(())).unwrap();
    bench.answers(1);
    bench.submit(0, 3, vec![settled(1, 5), forgotten(5), begun(5)]);
    bench.orders.send(Ok(())).unwrap();
    bench.answers(1);

    let expected = [begun(6), settled(1, 5), forgotten(5), begun(5)];
    assert_eq!(bench.stored_texts(), sorted_texts(&expected));
}

#[test]
fn what_nobody_waits_for_is_owed_as_a_whole() {
    let bench = commit_bench();
    let batch = vec![published(7, b"x", &[2]), settled(1, 3)];
    bench.submit_unawaited(0, 1, batch.clone());
    bench.orders.send(Err("no space")).unwrap();
    assert_eq!(bench.answers(1), [(0, 1, false)]);

    bench.submit(0, 2, vec![session(9, 0)]);
    bench.orders.send(Ok(())).unwrap();

    assert_eq!(bench.answers(1), [(0, 2, true)]);
    let expected: Vec<Record> = batch.into_iter().chain([session(9, 0)]).collect();
    assert_eq!(bench.stored_texts(), sorted_texts(&expected));
}

/// A store that nobody gives anything, with things of no use that so many commits take out.
struct Untidy(Arc<AtomicU64>);

impl Store for Untidy {
    fn commit(&mut self, batch: &[Record]) -> Result<(), StoreError> {
        assert!(batch.is_empty());
        self.0.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn replay(&mut self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        Ok(())
    }

    fn fetch(&mut self, _: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        Ok(Vec::new())
    }

    fn reusable_bytes(&self) -> u64 {
        if self.0.load(Ordering::Relaxed) == 10 { RESERVE } else { 0 }
    }

    fn confine(&mut self, growth_bytes: i64) -> bool {
        assert!(growth_bytes < 0);
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[test]
fn while_it_is_full_the_store_tidies_up_at_once_until_there_is_room() {
    let left = Arc::new(AtomicU64::new(60));
    let options = WriterOptions { durability: Durability::Commit, backlog_bytes_max: usize::MAX };
    let room = Room::new(RESERVE, Box::new(|| RESERVE / 2));

    let (_writer, _, conditions) = start_in(room, Box::new(Untidy(Arc::clone(&left))), options);
    let next = || conditions.recv_timeout(Duration::from_secs(10)).unwrap().state();
    assert_eq!(next(), StorageState::Full);
    while next() == StorageState::Full {}

    assert_eq!(left.load(Ordering::Relaxed), 10, "what is left is for a time when it is wanted");
}

#[test]
fn it_does_not_tidy_up_with_what_little_it_takes_to_open_the_store() {
    let left = Arc::new(AtomicU64::new(60));
    let options = WriterOptions { durability: Durability::Commit, backlog_bytes_max: usize::MAX };
    let (look, looks) = mpsc::channel();
    let free_bytes = move || {
        // A test that is over wants no more looks.
        let _ = look.send(());
        RESERVE / 20
    };
    let room = Room::new(RESERVE, Box::new(free_bytes));

    let (writer, _, _) = start_in(room, Box::new(Untidy(Arc::clone(&left))), options);
    // It looks again only after it has done what it made of the look before.
    for _ in 0..3 {
        looks.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    writer.stop().unwrap();
    assert_eq!(left.load(Ordering::Relaxed), 60);
}
