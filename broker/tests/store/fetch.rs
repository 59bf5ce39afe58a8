//! Bodies are read back one by one while the store is in use.

use veilmq_core::{MessageId, MessageParts, Store};

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
