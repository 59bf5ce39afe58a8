//! A replay gives what was committed, in this process and in the next.

use std::collections::HashSet;

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert_eq, proptest};
use veilmq::store::{OpenReport, ReplayReport};
use veilmq_core::{Moment, Record, Reference, SessionId, SessionRecord, Stage, Store, WillRecord};
use veilmq_protocol::QoS;

use crate::model::{
    Model, advanced, assert_recovers_in_parts, cleared, ended, forgotten, message, open, open_with_spare,
    packet_id, published, received, released, replayed, retained, session, settled, sorted_texts, subscribed,
    unsubscribed,
};

/// Commits the batches, reopens, and checks what is there against the model; then commits as much again as it takes to have the
/// log rewritten, and checks once more.
fn check(name: &str, batches: &[Vec<Record>]) {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let (mut store, _) = open(directory.path());
    for batch in batches {
        store.commit(batch).unwrap();
        batch.iter().for_each(|record| model.apply(record));
    }
    let expected = sorted_texts(&model.records());
    assert_eq!(sorted_texts(&replayed(&mut store)), expected, "{name}");
    drop(store);

    let (mut store, report) = open_with_spare(directory.path(), 0);

    assert_eq!(sorted_texts(&replayed(&mut store)), expected, "{name}, after a restart");
    assert_recovers_in_parts(&mut store, name);
    let OpenReport { quarantined, set_aside, blob_files, replay } = report;
    assert_eq!((quarantined, set_aside, blob_files), (None, None, 0));
    assert_eq!((replay.damaged_rows, replay.lost_batches), (0, 0));
    for _ in 0..20 {
        store.commit(&[retained("filler", &vec![0; 60_000])]).unwrap();
    }
    store.commit(&[cleared("filler")]).unwrap();
    assert_eq!(sorted_texts(&replayed(&mut store)), expected, "{name}, after compaction");
    drop(store);
    let (mut store, report) = open(directory.path());
    assert_eq!(sorted_texts(&replayed(&mut store)), expected, "{name}, after compaction and a restart");
    assert_recovers_in_parts(&mut store, name);
    assert_eq!((report.replay.damaged_rows, report.replay.lost_batches), (0, 0));
    assert!(report.replay.rows < 600, "{name}: {} rows are left", report.replay.rows);
}

#[test]
fn a_replay_gives_what_was_committed() {
    let big = vec![7; 1 << 20];
    let will = SessionRecord {
        session: SessionId(1),
        client_id: "ünï".into(),
        authenticated: true,
        user: Some("ünï".into()),
        expiry_seconds: u32::MAX,
        disconnected_at: Some(Moment::from_milliseconds(5)),
        will: Some(WillRecord {
            topic: "will/of/one".into(),
            payload: vec![1; 60_000],
            application_properties: vec![0x01, 0x01],
            message_expiry_seconds: Some(9),
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_seconds: 30,
        }),
        last_identifier: 65_535,
    };
    let long_filter = format!("{}/#", "long".repeat(16_000));
    let many_ids = {
        let mut reference = crate::model::reference(1, Stage::Queued);
        reference.subscription_ids = (1..=5_000).collect();
        Record::Published { message: message(Some(1), "a", b""), references: vec![reference] }
    };
    let shared_references = {
        let share = |number: u64, filter: &str| Reference {
            share: Some(filter.into()),
            ..crate::model::reference(number, Stage::Published(packet_id(4)))
        };
        let references = vec![share(1, "$share/g/a/#"), share(2, &format!("$share/g/{long_filter}"))];
        Record::Published { message: message(Some(1), "a", b"x"), references }
    };
    let cases: Vec<(&str, Vec<Vec<Record>>)> = vec![
        ("a session with a will", vec![vec![Record::Session(will.clone())]]),
        ("a head that shrinks", vec![vec![Record::Session(will)], vec![session(1, 60)]]),
        (
            "subscriptions",
            vec![vec![session(1, 0), subscribed(1, "a/+", None), subscribed(1, "a/#", Some(7))]],
        ),
        (
            "a replaced one",
            vec![vec![session(1, 0), subscribed(1, "a", None)], vec![subscribed(1, "a", Some(7))]],
        ),
        ("a removed one", vec![vec![session(1, 0), subscribed(1, "a", None)], vec![unsubscribed(1, "a")]]),
        ("a long filter", vec![vec![session(1, 0), subscribed(1, &long_filter, None)]]),
        ("a big payload", vec![vec![session(1, 0), published(1, &big, &[1])]]),
        ("a big payload forgotten", vec![vec![published(1, &big, &[])], vec![forgotten(1)]]),
        ("references of two sessions", vec![vec![session(1, 0), session(2, 0), published(1, b"x", &[1, 2])]]),
        ("a reference with many identifiers", vec![vec![session(1, 0), many_ids]]),
        (
            "stages",
            vec![
                vec![session(1, 0), published(1, b"x", &[1]), published(2, b"y", &[1])],
                vec![advanced(1, 1, Stage::Published(packet_id(9)))],
                vec![advanced(1, 1, Stage::Released(packet_id(9))), settled(1, 2)],
            ],
        ),
        (
            "references of members of groups",
            vec![vec![session(1, 0), session(2, 0), shared_references.clone()]],
        ),
        (
            "references that were stored after the end of their session",
            vec![vec![session(1, 0), session(2, 0), ended(1)], vec![shared_references.clone()]],
        ),
        (
            "what a session had as a member of a group when it ended",
            vec![vec![session(1, 0), session(2, 0), shared_references.clone()], vec![ended(1)]],
        ),
        (
            "settled in the batch that ends the session",
            vec![
                vec![session(1, 0), session(2, 0), shared_references.clone()],
                vec![settled(1, 1), ended(1)],
                vec![settled(2, 1), ended(2)],
            ],
        ),
        (
            "one of them passed on",
            vec![
                vec![session(1, 0), session(2, 0), shared_references],
                vec![ended(1), settled(1, 1), settled(2, 1), forgotten(1), published(2, b"x", &[2])],
            ],
        ),
        ("a body without references", vec![vec![published(1, b"x", &[])]]),
        (
            "received identifiers",
            vec![vec![session(1, 0), received(1, 3), received(1, 4)], vec![released(1, 3)]],
        ),
        ("retained", vec![vec![retained("a", &big), retained("a/b", b"1")], vec![retained("a", b"2")]]),
        ("retained cleared", vec![vec![retained("a", &big), retained("a/b", b"1")], vec![cleared("a")]]),
        (
            "the end of a session",
            vec![
                vec![
                    session(1, 0),
                    session(2, 0),
                    subscribed(1, &long_filter, None),
                    published(1, b"x", &[1, 2]),
                ],
                vec![received(1, 3), subscribed(2, "a", None)],
                vec![subscribed(1, "b", None), ended(1)],
            ],
        ),
    ];
    for (name, batches) in cases {
        check(name, &batches);
    }
}

#[test]
fn a_replay_visits_nothing_before_what_it_refers_to() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    let batch = [
        received(2, 1),
        subscribed(2, "a", None),
        published(9, b"later", &[2, 1]),
        published(8, b"earlier", &[2]),
        session(2, 0),
        session(1, 0),
    ];
    store.commit(&batch).unwrap();
    // What moves on comes after its body or with it, whichever is younger in the log.
    store.commit(&[advanced(1, 9, Stage::Queued), session(1, 7)]).unwrap();
    store.commit(&[advanced(1, 8, Stage::Queued)]).unwrap();

    let mut sessions = HashSet::new();
    let mut messages = Vec::new();
    let mut references = 0;
    store
        .replay(&mut |record| match record {
            Record::Session(head) => assert!(sessions.insert(head.session)),
            Record::Subscribed { session, .. } | Record::Received { session, .. } => {
                assert!(sessions.contains(&session));
            }
            Record::Published { message, references: with_it } => {
                assert!(with_it.iter().all(|reference| sessions.contains(&reference.session)));
                messages.push(message.id().unwrap().0);
                references += with_it.len();
            }
            Record::Advanced { reference, message } => {
                assert!(sessions.contains(&reference.session) && messages.contains(&message.0));
                references += 1;
            }
            other => panic!("{other:?}"),
        })
        .unwrap();

    messages.sort_unstable();
    assert_eq!((sessions.len(), messages, references), (2, vec![8, 9], 4));
}

#[test]
fn what_refers_to_nothing_is_skipped_reported_and_then_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    let orphans = [subscribed(1, "a", None), received(1, 1), settled(1, 1), advanced(1, 5, Stage::Queued)];
    store.commit(&orphans).unwrap();
    store.commit(&[session(2, 0), advanced(2, 6, Stage::Queued)]).unwrap();
    drop(store);

    let (mut store, first) = open(directory.path());
    let remaining = replayed(&mut store).len();
    store.commit(&[session(2, 1)]).unwrap();
    drop(store);
    let (_, second) = open(directory.path());

    assert_eq!((first.replay.orphans, remaining), (4, 1));
    assert_eq!(second.replay, ReplayReport { rows: 3, damaged_rows: 0, orphans: 0, lost_batches: 0 });
}

#[test]
fn a_message_settled_in_the_batch_that_stores_it_never_reaches_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    store.commit(&[session(1, 0)]).unwrap();
    let mark = || std::fs::read(directory.path().join("watermark")).unwrap();
    let before = mark();

    store.commit(&[published(1, b"x", &[1]), settled(1, 1), forgotten(1)]).unwrap();

    assert_eq!(mark(), before, "there was no batch");
}

/// A change in terms of a few sessions, names and earlier messages.
#[derive(Clone, Debug)]
enum Change {
    Session(u64),
    Ended(u64),
    Subscribed(u64, usize),
    Unsubscribed(u64, usize),
    Published(usize, Vec<u64>),
    Forgotten(prop::sample::Index),
    Advanced(u64, prop::sample::Index, u16),
    Settled(u64, prop::sample::Index),
    Received(u64, u16),
    Released(u64, u16),
    Retained(usize, usize),
    Cleared(usize),
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let who = || 1_u64..4;
    let name = || 0_usize..3;
    let size = || prop_oneof![Just(0_usize), Just(10), Just(6_990), Just(20_000)];
    let earlier = any::<prop::sample::Index>;
    let change = prop_oneof![
        1 => who().prop_map(Change::Session),
        1 => who().prop_map(Change::Ended),
        1 => (who(), name()).prop_map(|(who, name)| Change::Subscribed(who, name)),
        1 => (who(), name()).prop_map(|(who, name)| Change::Unsubscribed(who, name)),
        3 => (size(), prop::collection::vec(who(), 0..4)).prop_map(|(size, who)| Change::Published(size, who)),
        1 => earlier().prop_map(Change::Forgotten),
        1 => (who(), earlier(), 1_u16..4).prop_map(|(who, earlier, id)| Change::Advanced(who, earlier, id)),
        3 => (who(), earlier()).prop_map(|(who, earlier)| Change::Settled(who, earlier)),
        1 => (who(), 1_u16..4).prop_map(|(who, id)| Change::Received(who, id)),
        1 => (who(), 1_u16..4).prop_map(|(who, id)| Change::Released(who, id)),
        1 => (name(), size()).prop_map(|(name, size)| Change::Retained(name, size)),
        1 => name().prop_map(Change::Cleared),
    ];
    prop::collection::vec(prop::collection::vec(change, 0..12), 1..12)
}

impl Change {
    /// The sessions that must exist for the change to make sense.
    fn sessions(&self) -> &[u64] {
        match self {
            Self::Subscribed(who, _) | Self::Advanced(who, ..) | Self::Received(who, _) => {
                std::slice::from_ref(who)
            }
            Self::Published(_, who) => who,
            Self::Session(_)
            | Self::Ended(_)
            | Self::Unsubscribed(..)
            | Self::Forgotten(_)
            | Self::Settled(..)
            | Self::Released(..)
            | Self::Retained(..)
            | Self::Cleared(_) => &[],
        }
    }
}

/// Makes records of changes; message identities only increase, and sessions exist before something refers to them, as in
/// the broker.
fn records(changes: &[Change], next_message: &mut u64, sessions: &mut HashSet<u64>) -> Vec<Record> {
    let long = "t".repeat(7_100);
    let names = ["a", "a/b", long.as_str()];
    let mut records = Vec::new();
    for change in changes {
        let unknown = change.sessions().iter().filter(|who| sessions.insert(**who));
        records.extend(unknown.map(|who| session(*who, 0)));
        match change {
            Change::Session(who) => drop(sessions.insert(*who)),
            Change::Ended(who) => drop(sessions.remove(who)),
            _ => {}
        }
        let earlier = |index: &prop::sample::Index, next: u64| index.index(next as usize) as u64;
        records.push(match change {
            Change::Session(who) => session(*who, *next_message as u32),
            Change::Ended(who) => ended(*who),
            Change::Subscribed(who, name) => subscribed(*who, names[*name], Some(*next_message as u32)),
            Change::Unsubscribed(who, name) => unsubscribed(*who, names[*name]),
            Change::Published(size, who) => {
                *next_message += 1;
                published(*next_message - 1, &vec![*next_message as u8; *size], who)
            }
            Change::Forgotten(message) => forgotten(earlier(message, *next_message)),
            Change::Advanced(who, message, id) => {
                advanced(*who, earlier(message, *next_message), Stage::Published(packet_id(*id)))
            }
            Change::Settled(who, message) => settled(*who, earlier(message, *next_message)),
            Change::Received(who, id) => received(*who, *id),
            Change::Released(who, id) => released(*who, *id),
            Change::Retained(name, size) => retained(names[*name], &vec![*next_message as u8; *size]),
            Change::Cleared(name) => cleared(names[*name]),
        });
    }
    records
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 40, ..Default::default() })]

    #[test]
    fn any_sequence_of_batches_is_there_again(
        batches in changes(),
        reopen_each in any::<bool>(),
        spare_bytes in prop_oneof![Just(0_u64), Just(10_000), Just(u64::MAX / 4)],
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let (mut next_message, mut sessions) = (1, HashSet::new());
        let (mut store, _) = open_with_spare(directory.path(), spare_bytes);
        for batch in batches {
            let batch = records(&batch, &mut next_message, &mut sessions);
            store.commit(&batch).unwrap();
            batch.iter().for_each(|record| model.apply(record));
            if reopen_each {
                drop(store);
                store = open_with_spare(directory.path(), spare_bytes).0;
            }
            prop_assert_eq!(sorted_texts(&replayed(&mut store)), sorted_texts(&model.records()));
        }
        drop(store);
        let (mut store, report) = open(directory.path());
        prop_assert_eq!(sorted_texts(&replayed(&mut store)), sorted_texts(&model.records()));
        prop_assert_eq!((report.replay.damaged_rows, report.replay.lost_batches), (0, 0));
    }
}
