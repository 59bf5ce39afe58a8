//! A broker that rolls back, swaps, splices and replays what distributes keys.

use veilmq_client::e2e::{
    UnwrapError,
    distribution::{HeadError, IssuePolicy, KeyEvent, Rotation},
};
use veilmq_protocol::veil::distribution::{DistributionError, KeyHead, bundle, put_bundle};

use crate::{
    admit,
    world::{Broker, Party, SECOND, START, entropy, scope},
};

type Retained = (String, Vec<u8>);

/// Why the only head in these events was refused.
fn refusal(events: &[KeyEvent]) -> &HeadError {
    match events {
        [KeyEvent::HeadRefused { error, .. }] => error,
        other => panic!("{other:?}"),
    }
}

/// A publisher with one member, and its first three heads.
fn three_epochs() -> (Party, Party, Vec<Retained>) {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    let heads = (0..3)
        .map(|n| {
            if n > 0 {
                press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy());
            }
            press.visit(&mut broker, START + n * 100 * SECOND);
            broker.only("_veil/1/kp/")
        })
        .collect();
    (press, lake, heads)
}

#[test]
fn a_head_that_was_rolled_back_is_refused_also_after_a_restart() {
    let (_, mut lake, heads) = three_epochs();
    let now = START + 300 * SECOND;
    lake.hear(&heads[2], now);

    assert_eq!(refusal(&lake.hear(&heads[1], now)), &HeadError::Rollback { epoch: 2 });

    let mut lake = lake.restarted(Party::joining);
    assert_eq!(refusal(&lake.hear(&heads[0], now)), &HeadError::Rollback { epoch: 1 });
    assert_eq!(lake.hear(&heads[2], now), []);
}

#[test]
fn an_older_issue_of_the_same_epoch_is_refused() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (mut lake, hill) = (Party::subscriber("lake"), Party::subscriber("hill"));
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    let first = broker.only("_veil/1/kp/");
    admit(&mut press, &hill);
    press.visit(&mut broker, START + SECOND);
    lake.visit(&mut broker, START + SECOND);

    assert_eq!(refusal(&lake.hear(&first, START + SECOND)), &HeadError::Rollback { epoch: 1 });
}

#[test]
fn an_issuer_that_gives_two_keys_for_one_epoch_is_caught() {
    let now = START + 300 * SECOND;
    let (_, mut lake, heads) = three_epochs();
    let (_, _, others) = three_epochs();
    lake.hear(&heads[1], now);

    assert_eq!(refusal(&lake.hear(&others[1], now + 1)), &HeadError::Equivocation { epoch: 2 });
    assert_eq!(refusal(&lake.hear(&others[2], now + 1)), &HeadError::BrokenChain { epoch: 3 });
    assert!(matches!(&*lake.hear(&heads[2], now + 1), [KeyEvent::Installed { epoch: 3, .. }]));
}

#[test]
fn wraps_cannot_be_swapped_between_members_or_heads() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (mut lake, mut hill) = (Party::subscriber("lake"), Party::subscriber("hill"));
    for member in [&lake, &hill] {
        admit(&mut press, member);
    }
    press.visit(&mut broker, START);
    let (topic, payload) = broker.only("_veil/1/kp/");
    let (head, wraps) = KeyHead::parse(&payload).unwrap();
    let wraps = bundle(wraps).unwrap();
    let with = |wraps: &[_]| {
        let mut payload = head.as_bytes().to_vec();
        put_bundle(&mut payload, wraps);
        (topic.clone(), payload)
    };

    let mut swapped = wraps.clone();
    let first = swapped[0].kid;
    swapped[0].kid = swapped[1].kid;
    swapped[1].kid = first;
    for member in [&mut lake, &mut hill] {
        let expected = HeadError::Unwrap { epoch: 1, error: UnwrapError::Sealed };
        assert_eq!(refusal(&member.hear(&with(&swapped), START)), &expected);
    }

    assert_eq!(refusal(&lake.hear(&with(&[]), START)), &HeadError::NotAMember { epoch: 1 });
    // What was left out by the broker and not by the issuer can still come.
    assert!(matches!(&*lake.hear(&with(&wraps), START), [KeyEvent::Installed { .. }]));
}

#[test]
fn a_head_counts_only_on_its_own_topic_and_only_as_it_was_signed() {
    let (_, mut lake, heads) = three_epochs();
    let now = START + 300 * SECOND;
    let (topic, payload) = &heads[0];

    let elsewhere = topic.replace(topic.rsplit('/').next().unwrap(), "0101010101010101");
    assert_eq!(refusal(&lake.hear(&(elsewhere, payload.clone()), now)), &HeadError::TopicMismatch);

    let head_len = KeyHead::parse(payload).unwrap().0.as_bytes().len();
    for position in 0..head_len {
        let mut changed = payload.clone();
        changed[position] ^= 1;
        let events = lake.hear(&(topic.clone(), changed), now);
        assert!(
            matches!(refusal(&events), HeadError::Object(_) | HeadError::TopicMismatch),
            "byte {position}"
        );
    }
    assert!(matches!(&*lake.hear(&heads[0], now), [KeyEvent::Installed { .. }]));
}

#[test]
fn another_members_prekey_cannot_be_put_in_its_place() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (mut lake, mut mallory) = (Party::subscriber("lake"), Party::subscriber("mallory"));
    lake.visit(&mut broker, START);
    mallory.visit(&mut broker, START);
    let of = |party: &Party| format!("_veil/1/pre/{}", party.kid());
    let spliced = (of(&lake), broker.retained[&of(&mallory)].clone());

    let events = press.hear(&spliced, START);

    let error = DistributionError::Value("member");
    assert_eq!(events, [KeyEvent::Refused { topic: of(&lake), error }]);
    assert_eq!(press.keys.members(&scope()), []);
}
