//! Bodies are read back one by one while the store is in use.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use veilmq::store::{Fetched, Room, StorageWriter, WriterOptions, WriterParts};
use veilmq_config::Durability;
use veilmq_core::{
    MemoryStore, Message, MessageId, MessageParts, Reader, Record, SessionId, ShardIndex, Store, StoreError,
    Ticket,
};

use crate::model::{forgotten, open, published, retained, session, settled};

#[test]
fn stored_bodies_are_read_back_in_the_order_asked_for_and_missing_ones_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    // One row, none of payload, and many rows.
    let big = vec![9; 100_000];
    let batch =
        [session(1, 60), published(1, b"one", &[1]), published(2, b"", &[1]), published(3, &big, &[1])];
    store.commit(&batch).unwrap();
    store.commit(&[published(4, b"gone", &[1]), retained("a", b"not a body")]).unwrap();
    store.commit(&[settled(1, 4), forgotten(4)]).unwrap();
    for _ in 0..2 {
        let asked = [3, 4, 1, 77, 2].map(MessageId);

        let fetched = store.fetch(&asked).unwrap();

        let found: Vec<_> = fetched.iter().map(|message| message.parts()).collect();
        let found: Vec<_> =
            found.iter().map(|MessageParts { id, payload, .. }| (id.unwrap().0, *payload)).collect();
        assert_eq!(found, [(3, &big[..]), (1, b"one"), (2, b"")]);
        // And by the next process.
        drop(store);
        (store, _) = open(directory.path());
    }
}

/// A store that takes nothing, and cannot be read.
struct Refusing;

impl Store for Refusing {
    fn commit(&mut self, _: &[Record]) -> Result<(), StoreError> {
        Err(StoreError("full".into()))
    }

    fn replay(&mut self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        Ok(())
    }

    fn fetch(&mut self, _: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        Err(StoreError("broken".into()))
    }
}

/// Stores a message, asks for it and another one; returns what was told of the batch and what was read.
fn store_and_read(store: Box<dyn Store>) -> ((usize, bool), (ShardIndex, Fetched)) {
    let (tell, told) = mpsc::channel();
    let (give, given) = mpsc::channel();
    let parts = WriterParts {
        store,
        options: WriterOptions { durability: Durability::Commit, backlog_bytes_max: usize::MAX },
        room: Room::new(0, Box::new(|| u64::MAX)),
        owed: Vec::new(),
        refresh: Box::new(|_| {}),
        committed: Box::new(move |records, is_durable| tell.send((records.len(), is_durable)).unwrap()),
        completion: Box::new(|_, _, _| {}),
        reply: Box::new(move |shard, fetched| give.send((shard, fetched)).unwrap()),
        watch: Box::new(|_| {}),
    };
    let writer = StorageWriter::start(parts).unwrap();
    let handle = writer.handle();
    handle.submit(ShardIndex(2), Ticket(1), vec![session(1, 60), published(5, b"x", &[1])], true);
    let told = told.recv_timeout(Duration::from_secs(10)).unwrap();
    handle.fetch(ShardIndex(2), Reader::Session(SessionId(1)), [6, 5].map(MessageId).into());
    (told, given.recv_timeout(Duration::from_secs(10)).unwrap())
}

#[test]
fn the_writer_reads_for_a_shard_what_it_has_stored() {
    let (told, (shard, fetched)) = store_and_read(Box::new(MemoryStore::new()));

    assert_eq!(told, (2, true));
    assert_eq!((shard, fetched.reader), (ShardIndex(2), Reader::Session(SessionId(1))));
    assert_eq!(fetched.asked, [MessageId(6), MessageId(5)]);
    let ids: Vec<_> = fetched.messages.unwrap().iter().map(|message| message.id()).collect();
    assert_eq!(ids, [Some(MessageId(5))]);
}

#[test]
fn the_writer_says_what_was_refused_and_what_cannot_be_read() {
    let (told, (_, fetched)) = store_and_read(Box::new(Refusing));

    assert_eq!(told, (2, false));
    assert!(fetched.messages.is_err());
}
