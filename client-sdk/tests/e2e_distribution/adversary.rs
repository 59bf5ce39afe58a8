//! A broker that rolls back, swaps, splices and replays what distributes keys.

use veilmq_client::e2e::{
    UnwrapError,
    distribution::{HeadError, IssuePolicy, KeyEvent, Rotation},
};
use veilmq_protocol::veil::{
    Kid,
    distribution::{DistributionError, KeyHead, bundle, put_bundle},
};

use crate::{
    admit,
    world::{Broker, Party, SCOPE, SECOND, START, entropy, scope},
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
                press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
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
    assert_eq!(press.keys.members(&scope()).unwrap(), []);
}

#[test]
fn wraps_of_issuers_that_nobody_knows_do_not_keep_those_of_others_out() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let mut members: Vec<Party> = (0..65).map(|n| Party::subscriber(&format!("member-{n}"))).collect();
    for member in &members {
        press.keys.admit(&scope(), member.certificate(), START, &mut entropy()).unwrap();
    }
    press.visit(&mut broker, START);
    let lake = &mut members[0];
    let own = lake.kid().to_string();
    let (topic, wrap) =
        broker.retained.iter().find(|(topic, _)| topic.contains("/w/") && topic.ends_with(&own)).unwrap();
    let hash = topic.split('/').nth(3).unwrap();
    for stranger in 0..100_u64 {
        let forged = format!("_veil/1/kp/{hash}/{stranger:016x}/w/{own}");
        lake.hear(&(forged, wrap.clone()), START);
    }

    lake.hear(&(topic.clone(), wrap.clone()), START);
    let head =
        broker.retained.iter().find(|(topic, _)| topic.starts_with("_veil/1/kp/") && !topic.contains("/w/"));
    let (topic, head) = head.unwrap();
    lake.hear(&(topic.clone(), head.clone()), START);

    let message = press.seal(START);
    assert!(members[0].reads(&message, START));
}

#[test]
fn senders_that_do_not_exist_do_not_keep_a_member_from_asking_for_those_that_do() {
    let mut lake = Party::subscriber("lake");
    let before = lake.keys.filters().len();
    for stranger in 0..1_000_u64 {
        lake.keys.want_certificate(Kid::from_bytes(stranger.to_be_bytes()));
    }

    let press = Kid::from_bytes([9; 8]);
    assert!(lake.keys.want_certificate(press));
    assert!(!lake.keys.want_certificate(press), "it is asked for already");

    let filters = lake.keys.filters();
    assert!(filters.contains(&format!("_veil/1/pre/{press}")));
    assert!(filters.len() <= before + 256, "{} filters", filters.len());
}

#[test]
fn a_member_that_has_lost_its_state_asks_and_its_next_prekey_counts() {
    let mut broker = Broker::default();
    let policy = IssuePolicy { allow_static_wrap: false, ..IssuePolicy::default() };
    let mut press = Party::publisher("press", policy);
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut broker, START);
    press.visit(&mut broker, START);

    // Its prekey is gone, and with it what the wrap was made for.
    let mut lake = Party::joining(lake.identity.clone());
    let now = START + 10 * SECOND;
    let events = lake.visit(&mut broker, now);
    assert!(
        matches!(&*events, [KeyEvent::HeadRefused { error: HeadError::Unwrap { .. }, .. }]),
        "{events:?}"
    );
    let request = broker.passing.remove(0);
    press.hear(&request, now);
    press.visit(&mut broker, now);
    let response = broker.passing.remove(0);
    lake.hear(&response, now);

    let message = press.seal(now);
    assert!(lake.reads(&message, now), "it was answered");
    press.visit(&mut broker, now + 10 * SECOND);
    let mut again = lake.restarted(Party::joining);
    let events = again.visit(&mut broker, now + 10 * SECOND);
    assert!(!events.iter().any(|event| matches!(event, KeyEvent::HeadRefused { .. })), "{events:?}");
}

#[test]
fn an_issuer_puts_a_head_back_that_somebody_has_cleared_and_no_more_than_once_a_minute() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let (topic, first) = broker.only("_veil/1/kp/");
    let mut clear = |broker: &mut Broker, now| {
        broker.retained.remove(&topic);
        let events = press.hear(&(topic.clone(), Vec::new()), now);
        press.visit(broker, now);
        (events, broker.retained.contains_key(&topic), press.keys.next_due())
    };

    let now = START + 100 * SECOND;
    let cleared = || vec![KeyEvent::HeadCleared { scope: SCOPE.to_owned() }];
    let (events, is_back, _) = clear(&mut broker, now);
    assert_eq!((events, is_back), (cleared(), true));
    assert_ne!(broker.only("_veil/1/kp/").1, first, "it is a newer one, which no broker refuses");

    assert_eq!(clear(&mut broker, now + SECOND), (cleared(), false, now + 60 * SECOND));
    assert_eq!(clear(&mut broker, now + 2 * SECOND), (vec![], false, now + 60 * SECOND), "said once");
    let mut reader = Party::subscriber("lake");
    press.visit(&mut broker, now + 60 * SECOND);
    reader.visit(&mut broker, now + 60 * SECOND);
    press.visit(&mut broker, now + 62 * SECOND);
    reader.visit(&mut broker, now + 62 * SECOND);
    let sealed = press.seal(now + 62 * SECOND);
    assert!(reader.reads(&sealed, now + 62 * SECOND));
}
