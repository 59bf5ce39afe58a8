//! A publisher and one subscriber agree on a key that nobody else has (VEIL-1 sections 7, 9.1).

use std::sync::Arc;

use veilmq_client::e2e::{
    OpenError, Scope, SealError,
    distribution::{Admission, IssuePolicy, JoinError, KeyEvent, RosterError},
};
use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Kid, Roles,
        channel::Identity,
        distribution::{Pair, RevocationReason, scope_tag},
        envelope::{Envelope, EnvelopeFlags},
    },
};

use super::world::{Broker, DAY, Party, SECOND, START, crl, crl_topic, entropy, identity, options};

const SECRET: &[u8] = b"for one alone";

fn press() -> Arc<Identity> {
    identity("press", Roles::PUBLISHER, &["_veil/1/p2p/#"])
}

pub(crate) fn reader(name: &str) -> Arc<Identity> {
    identity(name, Roles::SUBSCRIBER, &["_veil/1/p2p/#"])
}

pub(crate) fn publisher() -> Party {
    Party::giving_pairs(press(), IssuePolicy::default())
}

pub(crate) fn seal_for(party: &mut Party, subscriber: Kid, now: u64) -> Result<Vec<u8>, SealError> {
    let topic = Pair::topic(subscriber, "line-3/t");
    let none = PublishProperties::default();
    party.e2e.seal(TopicName::new(&topic).unwrap(), SECRET, &none, now, &mut entropy())
}

fn open_at(party: &mut Party, topic: &str, payload: &[u8], now: u64) -> Result<Vec<u8>, OpenError> {
    let none = PublishProperties::default();
    let opened = party.e2e.open(TopicName::new(topic).unwrap(), payload, false, &none, now);
    opened.map(|opened| opened.plaintext)
}

/// As on the topic of this party.
fn open(party: &mut Party, payload: &[u8], now: u64) -> Result<Vec<u8>, OpenError> {
    let topic = Pair::topic(party.kid(), "line-3/t");
    open_at(party, &topic, payload, now)
}

/// Carries everything that is not retained to whom it is for, until nobody has more to say.
pub(crate) fn talk(broker: &mut Broker, parties: &mut [&mut Party], now: u64) -> Vec<KeyEvent> {
    let mut events = Vec::new();
    for _ in 0..6 {
        for party in &mut *parties {
            events.extend(party.visit(broker, now));
        }
        for message in std::mem::take(&mut broker.passing) {
            for party in &mut *parties {
                if party.keys.filters().contains(&message.0) {
                    events.extend(party.hear(&message, now));
                }
            }
        }
    }
    events
}

#[test]
fn each_subscriber_has_a_key_of_its_own_and_reads_nothing_of_the_others() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let (mut lake, mut hill) =
        (Party::paired(reader("lake"), press.kid()), Party::paired(reader("hill"), press.kid()));
    let events = talk(&mut broker, &mut [&mut press, &mut lake, &mut hill], START);

    let confirmed = events.iter().filter(|event| matches!(event, KeyEvent::Joined { .. })).count();
    assert_eq!(confirmed, 2, "{events:?}");
    let for_lake = seal_for(&mut press, lake.kid(), START).unwrap();
    let envelope = Envelope::parse(&for_lake).unwrap().header;
    let pair = Pair { publisher: press.kid(), subscriber: lake.kid() };
    assert!(envelope.flags.contains(EnvelopeFlags::PAIRWISE));
    assert_eq!(envelope.scope_tag, scope_tag(&pair.to_string()));

    let lakes = Pair::topic(lake.kid(), "line-3/t");
    assert_eq!(open_at(&mut hill, &lakes, &for_lake, START), Err(OpenError::TopicMismatch));
    assert_eq!(open(&mut hill, &for_lake, START), Err(OpenError::TopicMismatch), "another pair, another tag");
    let mut forged = for_lake.clone();
    forged[5..9].copy_from_slice(&scope_tag(&Pair { subscriber: hill.kid(), ..pair }.to_string()));
    assert_eq!(open(&mut hill, &forged, START), Err(OpenError::BadTag));
    assert_eq!(open(&mut lake, &for_lake, START), Ok(SECRET.to_vec()));
    assert_eq!(open(&mut lake, &for_lake, START), Err(OpenError::Replay));
}

#[test]
fn an_envelope_of_a_pair_says_so_and_no_other_does() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    talk(&mut broker, &mut [&mut press, &mut lake], START);
    let mut plain = seal_for(&mut press, lake.kid(), START).unwrap();
    plain[4] ^= 0x80;

    assert_eq!(open(&mut lake, &plain, START), Err(OpenError::Malformed("pairwise flag")));

    let mut group = Party::publisher("press", IssuePolicy::default());
    group.visit(&mut Broker::default(), START);
    let mut paired = group.seal(START);
    paired[4] ^= 0x80;
    assert_eq!(group.open(&paired, START).unwrap_err(), OpenError::Malformed("pairwise flag"));
}

#[test]
fn nothing_is_sealed_before_the_subscriber_has_shown_that_it_has_the_key() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    let request = broker.passing.remove(0);
    press.hear(&request, START);
    press.visit(&mut broker, START);
    let response = broker.passing.remove(0);
    let events = lake.hear(&response, START);
    assert!(matches!(&*events, [KeyEvent::Installed { .. }]), "{events:?}");
    lake.visit(&mut broker, START);
    let confirmation = broker.passing.remove(0);

    assert_eq!(seal_for(&mut press, lake.kid(), START), Err(SealError::NoKey));
    // Nobody else can show it, and nobody can ask for the same again.
    let mut wrong = confirmation.clone();
    wrong.1[20] ^= 1;
    for message in [&wrong, &request] {
        let events = press.hear(message, START);
        assert!(matches!(&*events, [KeyEvent::RequestRefused { .. }]), "{events:?}");
        assert_eq!(seal_for(&mut press, lake.kid(), START), Err(SealError::NoKey));
    }
    press.hear(&confirmation, START);
    let sealed = seal_for(&mut press, lake.kid(), START).unwrap();
    assert_eq!(open(&mut lake, &sealed, START), Ok(SECRET.to_vec()));
}

#[test]
fn whoever_is_not_admitted_gets_no_key() {
    let named = IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
    let elsewhere = || identity("lake", Roles::SUBSCRIBER, &["office/#"]);
    for (policy, lake, is_named, refused) in [
        (named.clone(), reader("lake"), false, true),
        (named, reader("lake"), true, false),
        (IssuePolicy::default(), elsewhere(), false, true),
    ] {
        let mut broker = Broker::default();
        let mut press = Party::giving_pairs(press(), policy);
        if is_named {
            assert_eq!(press.keys.admit_to_pairs(lake.certificate().clone(), START), Ok(true));
        }
        let mut lake = Party::paired(lake, press.kid());

        let events = talk(&mut broker, &mut [&mut press, &mut lake], START);

        let refusal = KeyEvent::JoinFailed { issuer: press.kid(), error: JoinError::Refused(1) };
        assert_eq!(events.contains(&refusal), refused, "{events:?}");
        assert_eq!(seal_for(&mut press, lake.kid(), START).is_err(), refused);
    }
}

#[test]
fn a_subscriber_asks_again_until_its_publisher_is_there_and_when_that_has_begun_anew() {
    let mut broker = Broker::default();
    let mut lake = Party::paired(reader("lake"), press().kid());
    lake.visit(&mut broker, START);
    assert_eq!(broker.passing.len(), 1);
    lake.visit(&mut broker, START + 5 * SECOND);
    lake.visit(&mut broker, START + 29 * SECOND);
    assert_eq!(broker.passing.len(), 1, "not all the time");
    lake.visit(&mut broker, START + 30 * SECOND);
    assert_eq!(broker.passing.len(), 2);
    broker.passing.clear();

    // The publisher introduces itself, so nobody waits for half a minute.
    let mut now = START + 34 * SECOND;
    for _ in 0..2 {
        let mut press = publisher();
        talk(&mut broker, &mut [&mut press, &mut lake], now);
        let sealed = seal_for(&mut press, lake.kid(), now).unwrap();
        assert_eq!(open(&mut lake, &sealed, now), Ok(SECRET.to_vec()));
        // It comes back without what it knew.
        now += 60 * SECOND;
    }
}

#[test]
fn a_publisher_that_comes_while_it_is_being_asked_is_asked_again_as_soon_as_that_is_over() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    lake.visit(&mut broker, START);
    // Nobody was there to hear it.
    broker.passing.clear();
    press.visit(&mut broker, START + SECOND);

    lake.visit(&mut broker, START + SECOND);
    assert!(broker.passing.is_empty());
    lake.visit(&mut broker, START + 3 * SECOND);

    assert_eq!(broker.passing.len(), 1);
    talk(&mut broker, &mut [&mut press, &mut lake], START + 3 * SECOND);
    assert!(seal_for(&mut press, lake.kid(), START + 3 * SECOND).is_ok());
}

#[test]
fn another_key_follows_when_half_of_the_time_of_the_first_is_over_and_both_are_read_for_a_while() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    talk(&mut broker, &mut [&mut press, &mut lake], START);
    let first = seal_for(&mut press, lake.kid(), START).unwrap();
    talk(&mut broker, &mut [&mut press, &mut lake], START + DAY - SECOND);
    let same = seal_for(&mut press, lake.kid(), START + DAY - SECOND).unwrap();

    let now = START + DAY;
    let events = talk(&mut broker, &mut [&mut press, &mut lake], now);

    assert!(events.iter().any(|event| matches!(event, KeyEvent::Joined { .. })), "{events:?}");
    let next = seal_for(&mut press, lake.kid(), now).unwrap();
    let epoch = |payload: &[u8]| Envelope::parse(payload).unwrap().header.epoch;
    assert_eq!(epoch(&first), epoch(&same));
    assert!(epoch(&same) < epoch(&next));
    for sealed in [&first, &next] {
        assert_eq!(open(&mut lake, sealed, now), Ok(SECRET.to_vec()));
    }
    let late = now + 600 * SECOND;
    let late_open = open(&mut lake, &same, late);
    assert_eq!(late_open, Err(OpenError::EpochDropped { epoch: epoch(&same) }));
}

#[test]
fn keys_of_pairs_are_kept_over_restarts_of_both() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let publisher_kid = press.kid();
    let mut lake = Party::paired(reader("lake"), publisher_kid);
    talk(&mut broker, &mut [&mut press, &mut lake], START);
    let before = seal_for(&mut press, lake.kid(), START).unwrap();

    press = press.restarted(|identity| Party::giving_pairs(identity, IssuePolicy::default()));
    lake = lake.restarted(|identity| Party::paired(identity, publisher_kid));
    let events = talk(&mut broker, &mut [&mut press, &mut lake], START + SECOND);

    assert!(!events.iter().any(|event| matches!(event, KeyEvent::Installed { .. })), "{events:?}");
    let after = seal_for(&mut press, lake.kid(), START + SECOND).unwrap();
    for sealed in [&before, &after] {
        assert_eq!(open(&mut lake, sealed, START + SECOND), Ok(SECRET.to_vec()));
    }
}

#[test]
fn who_was_let_in_by_name_is_let_in_after_a_restart_too() {
    let named = || IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
    let mut broker = Broker::default();
    let mut press = Party::giving_pairs(press(), named());
    let mut lake = Party::paired(reader("lake"), press.kid());
    let mut hill = Party::paired(reader("hill"), press.kid());
    press.visit(&mut broker, START);
    press.keys.take_changed();
    for party in [&lake, &hill] {
        press.keys.admit_to_pairs(party.certificate(), START).unwrap();
        assert!(press.keys.take_changed(), "there is something to save");
        press.keys.admit_to_pairs(party.certificate(), START).unwrap();
        assert!(!press.keys.take_changed(), "it is saved already");
    }
    talk(&mut broker, &mut [&mut press, &mut lake], START);

    press = press.restarted(|identity| Party::giving_pairs(identity, named()));
    // One has half of the time of its key behind it, and the other has not asked before.
    let events = talk(&mut broker, &mut [&mut press, &mut lake, &mut hill], START + DAY);

    let joined = events.iter().filter(|event| matches!(event, KeyEvent::Joined { .. })).count();
    assert_eq!(joined, 2, "{events:?}");
    for party in [&mut lake, &mut hill] {
        let sealed = seal_for(&mut press, party.kid(), START + DAY).unwrap();
        assert_eq!(open(party, &sealed, START + DAY), Ok(SECRET.to_vec()));
    }
}

#[test]
fn a_revoked_end_of_a_pair_neither_gets_nor_sends_anything_more() {
    for is_publisher in [false, true] {
        let mut broker = Broker::default();
        let mut press = publisher();
        let mut lake = Party::paired(reader("lake"), press.kid());
        talk(&mut broker, &mut [&mut press, &mut lake], START);
        let on_its_way = seal_for(&mut press, lake.kid(), START).unwrap();
        let revoked = if is_publisher { &press } else { &lake };
        let list = crl(1, &[&revoked.identity], RevocationReason::PrivilegeWithdrawn);
        broker.retained.insert(crl_topic(), list.as_bytes().to_vec());

        press.visit(&mut broker, START + SECOND);
        lake.visit(&mut broker, START + SECOND);

        if is_publisher {
            assert!(open(&mut lake, &on_its_way, START + SECOND).is_err());
        } else {
            assert_eq!(seal_for(&mut press, lake.kid(), START + SECOND), Err(SealError::NoKey));
            let events = talk(&mut broker, &mut [&mut press, &mut lake], START + DAY);
            assert!(!events.iter().any(|event| matches!(event, KeyEvent::Joined { .. })), "{events:?}");
        }
    }
}

#[test]
fn the_key_of_a_pair_comes_with_connack_as_well() {
    let mut broker = Broker::default();
    let mut press = publisher();
    press.visit(&mut broker, START);
    let mut lake = Party::paired(reader("lake"), press.kid());
    let pair = Pair { publisher: press.kid(), subscriber: lake.kid() };
    let scope = Scope::new(&pair.to_string()).unwrap();
    let request = lake.keys.ask_with_connect(&scope, press.kid(), START, &mut entropy()).unwrap();
    press.hear(&(format!("_veil/1/jn/{}", press.kid()), request), START);
    press.visit(&mut broker, START);
    let (_, response) = broker.passing.remove(0);

    let status = veilmq_protocol::veil::hello::JoinStatus::Done;
    assert!(lake.keys.handle_connack(&mut lake.e2e, status, &response, START));

    talk(&mut broker, &mut [&mut press, &mut lake], START);
    let sealed = seal_for(&mut press, lake.kid(), START).unwrap();
    assert_eq!(open(&mut lake, &sealed, START), Ok(SECRET.to_vec()));
    let again = lake.keys.ask_with_connect(&scope, press.kid(), START, &mut entropy());
    assert!(again.is_none(), "who has a key asks for none");
}

#[test]
fn a_pair_that_its_publisher_took_away_comes_back_by_name_only() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    let mut hill = Party::paired(reader("hill"), press.kid());
    talk(&mut broker, &mut [&mut press, &mut lake, &mut hill], START);
    let scope = Pair { publisher: press.kid(), subscriber: lake.kid() }.to_string();

    assert!(press.keys.remove_pair(&mut press.e2e, lake.kid()));
    assert!(!press.keys.remove_pair(&mut press.e2e, lake.kid()), "it is gone");

    let removed = KeyEvent::Removed { scope, member: lake.kid() };
    assert_eq!(press.keys.take_events(), [removed]);
    let refusal = KeyEvent::JoinFailed { issuer: press.kid(), error: JoinError::Refused(1) };
    for now in [START + SECOND, START + DAY, START + DAY + 60 * SECOND] {
        if now == START + DAY + 60 * SECOND {
            press = press.restarted(|identity| Party::giving_pairs(identity, IssuePolicy::default()));
        }
        let events = talk(&mut broker, &mut [&mut press, &mut lake, &mut hill], now);
        assert_eq!(events.contains(&refusal), now > START + SECOND, "{events:?}");
        assert_eq!(seal_for(&mut press, lake.kid(), now), Err(SealError::NoKey));
        let for_hill = seal_for(&mut press, hill.kid(), now).unwrap();
        assert_eq!(open(&mut hill, &for_hill, now), Ok(SECRET.to_vec()));
    }

    let now = START + DAY + 120 * SECOND;
    assert_eq!(press.keys.admit_to_pairs(lake.certificate(), now), Ok(true));
    talk(&mut broker, &mut [&mut press, &mut lake], now);
    let sealed = seal_for(&mut press, lake.kid(), now).unwrap();
    assert_eq!(open(&mut lake, &sealed, now), Ok(SECRET.to_vec()));
}

#[test]
fn an_exchange_that_is_under_way_gives_no_key_to_a_pair_that_was_taken_away() {
    for is_publisher in [false, true] {
        let mut broker = Broker::default();
        let mut press = publisher();
        let mut lake = Party::paired(reader("lake"), press.kid());
        press.visit(&mut broker, START);
        lake.visit(&mut broker, START);
        press.hear(&broker.passing.remove(0), START);
        press.visit(&mut broker, START);
        let response = broker.passing.remove(0);

        if is_publisher {
            lake.hear(&response, START);
            lake.visit(&mut broker, START);
            press.keys.remove_pair(&mut press.e2e, lake.kid());
            press.keys.take_events();
            assert_eq!(press.hear(&broker.passing.remove(0), START), []);
            assert_eq!(seal_for(&mut press, lake.kid(), START), Err(SealError::NoKey));
        } else {
            assert!(lake.keys.remove_pair(&mut lake.e2e, press.kid()));
            lake.keys.take_events();
            assert_eq!(lake.hear(&response, START), []);
            lake.visit(&mut broker, START);
            assert!(broker.passing.is_empty(), "nothing is confirmed");
        }
    }
}

#[test]
fn a_subscriber_that_has_left_a_pair_reads_nothing_and_asks_no_more() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    talk(&mut broker, &mut [&mut press, &mut lake], START);
    let on_its_way = seal_for(&mut press, lake.kid(), START).unwrap();

    assert!(lake.keys.remove_pair(&mut lake.e2e, press.kid()));

    let epoch = Envelope::parse(&on_its_way).unwrap().header.epoch;
    assert_eq!(open(&mut lake, &on_its_way, START), Err(OpenError::NoKey { epoch }));
    let heard = format!("_veil/1/pre/{}", press.kid());
    assert!(!lake.keys.filters().contains(&heard));
    for now in [START + 60 * SECOND, START + DAY] {
        lake.visit(&mut broker, now);
        assert!(broker.passing.is_empty());
    }
}

#[test]
fn no_more_are_named_than_may_have_a_pair() {
    let mut press = Party::giving_pairs(press(), IssuePolicy { members_max: 2, ..IssuePolicy::default() });
    let mut name = |name: &str| press.keys.admit_to_pairs(reader(name).certificate().clone(), START);

    assert_eq!([name("a"), name("b")], [Ok(true), Ok(true)]);
    assert_eq!(name("c"), Err(RosterError::Full));
    assert_eq!(name("b"), Ok(true), "who is named is no other one");
}

#[test]
fn the_number_of_the_last_epoch_of_a_pair_is_given_once() {
    // The publisher's time in seconds is beyond the last number.
    let now = (u64::from(u32::MAX) + 1) * SECOND;
    let mut broker = Broker::default();
    let mut press = publisher();
    let mut lake = Party::paired(reader("lake"), press.kid());
    talk(&mut broker, &mut [&mut press, &mut lake], now);
    let first = seal_for(&mut press, lake.kid(), now).unwrap();
    assert_eq!(Envelope::parse(&first).unwrap().header.epoch, u32::MAX);

    let half_over = now + DAY;
    let events = talk(&mut broker, &mut [&mut press, &mut lake], half_over);

    let refusal = KeyEvent::JoinFailed { issuer: press.kid(), error: JoinError::Refused(3) };
    assert!(events.contains(&refusal), "{events:?}");
    let following = seal_for(&mut press, lake.kid(), half_over).unwrap();
    assert_eq!(open(&mut lake, &following, half_over), Ok(SECRET.to_vec()));
    let over = now + 2 * DAY;
    talk(&mut broker, &mut [&mut press, &mut lake], over);
    assert_eq!(seal_for(&mut press, lake.kid(), over), Err(SealError::NoKey));
}

#[test]
fn whatever_a_program_takes_part_in_later_changes_what_it_subscribes_to() {
    type Join = fn(&mut Party);
    let both = Roles::PUBLISHER | Roles::SUBSCRIBER;
    let mut party = Party::joining(identity("press", both, &["#"]));
    assert!(party.keys.take_filters_changed() && !party.keys.take_filters_changed());
    let steps: [Join; 4] = [
        |party| party.keys.join(&mut party.e2e, Scope::new("a/#").unwrap(), options()).unwrap(),
        |party| party.keys.join_pair(&mut party.e2e, Kid::from_bytes([2; 8]), options()).unwrap(),
        |party| party.keys.issue_pairs(&mut party.e2e, options(), IssuePolicy::default()).unwrap(),
        |party| {
            let scope = Scope::new("b/#").unwrap();
            party.keys.issue(&mut party.e2e, scope, options(), IssuePolicy::default()).unwrap();
        },
    ];
    for (step, join) in steps.into_iter().enumerate() {
        let before = party.keys.filters();

        join(&mut party);

        assert_ne!(party.keys.filters(), before, "{step}");
        assert!(party.keys.take_filters_changed() && !party.keys.take_filters_changed(), "{step}");
    }
}
