//! A key that too many sender sessions have used is replaced (VEIL-1 section 8.3).

use veilmq_client::e2e::{
    E2e, Limits, Member,
    distribution::{IssuePolicy, IssuedState},
};
use veilmq_protocol::{PublishProperties, TopicName, veil::Roles};

use super::world::{Broker, Party, SCOPE, SECOND, START, TOPIC, entropy, identity, options, scope};

/// What begins a sender session each time: a Will.
fn will(party: &mut Party, now: u64) -> Vec<u8> {
    let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
    party.e2e.seal_will(topic, b"21.5", &none, now, &mut entropy()).unwrap()
}

fn policy(sessions_max: u32) -> IssuePolicy {
    IssuePolicy { sessions_max, ..IssuePolicy::default() }
}

const ONE: [(u32, IssuedState); 1] = [(1, IssuedState::Sending)];
const ANOTHER: [(u32, IssuedState); 2] = [(1, IssuedState::Sending), (2, IssuedState::Announced)];

#[test]
fn the_epoch_changes_once_more_sessions_than_permitted_have_used_the_key_and_only_once() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", policy(3));
    press.visit(&mut broker, START);
    let now = START + SECOND;
    for _ in 0..3 {
        will(&mut press, now);
    }
    press.visit(&mut broker, now);
    assert_eq!(press.keys.issued(&scope(), now), ONE);

    will(&mut press, now);
    for later in [now, now + SECOND, now + 5 * SECOND] {
        press.visit(&mut broker, later);
        assert_eq!(press.keys.issued(&scope(), later), ANOTHER);
        will(&mut press, later);
    }

    let active = now + 61 * SECOND;
    press.visit(&mut broker, active);
    will(&mut press, active);
    press.visit(&mut broker, active);
    assert_eq!(press.keys.issued(&scope(), active), [(2, IssuedState::Sending)], "the count begins again");
}

#[test]
fn sessions_that_used_the_key_before_a_restart_count_as_well() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", policy(3));
    press.visit(&mut broker, START);
    let mut now = START;
    // A device that crashes again and again begins a session each time.
    for _ in 0..3 {
        now += 5 * SECOND;
        press.seal(now);
        press = press.restarted(|identity| Party::issuing(identity, policy(3)));
        press.visit(&mut broker, now);
        assert_eq!(press.keys.issued(&scope(), now), ONE);
    }

    press.seal(now + SECOND);
    press.visit(&mut broker, now + SECOND);

    assert_eq!(press.keys.issued(&scope(), now + SECOND), ANOTHER);
}

#[test]
fn a_key_authority_counts_the_sessions_of_those_whom_it_hears() {
    let mut broker = Broker::default();
    let mut authority = Party::issuing(identity("authority", Roles::KEY_AUTHORITY, &[SCOPE]), policy(2));
    let mut press = Party::joining(identity("press", Roles::PUBLISHER, &[SCOPE]));
    press.visit(&mut broker, START);
    authority.visit(&mut broker, START);
    press.visit(&mut broker, START);
    let now = START + SECOND;
    for expected in [&ONE[..], &ONE, &ANOTHER] {
        let message = will(&mut press, now);
        assert!(authority.reads(&message, now));
        assert!(!authority.reads(&message, now), "a repetition counts no more");
        authority.visit(&mut broker, now);

        assert_eq!(authority.keys.issued(&scope(), now), expected);
    }
}

#[test]
fn a_stream_that_is_full_goes_on_in_another_session_which_counts() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", policy(2));
    let limits = Limits { stream_messages_max: 4, ..Limits::default() };
    press.e2e = E2e::new(Member::Identity(press.identity.clone()), limits);
    press.keys =
        veilmq_client::e2e::distribution::Distribution::new(press.identity.clone(), super::world::anchors());
    press.keys.issue(&mut press.e2e, scope(), options(), policy(2)).unwrap();
    press.visit(&mut broker, START);
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut broker, START);
    press.visit(&mut broker, START + SECOND);
    lake.visit(&mut broker, START + SECOND);
    let now = START + 2 * SECOND;

    let places: Vec<(u64, u32)> = (0..9)
        .map(|_| {
            let message = press.seal(now);
            assert!(lake.reads(&message, now));
            let session = u64::from_be_bytes(message[21..29].try_into().unwrap());
            (session, u32::from_be_bytes(message[29..33].try_into().unwrap()))
        })
        .collect();
    press.visit(&mut broker, now);

    let numbers: Vec<u32> = places.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 0, 1, 2, 3, 0]);
    assert!(places.is_sorted() && places[3].0 < places[4].0 && places[7].0 < places[8].0, "{places:?}");
    assert_eq!(press.keys.issued(&scope(), now), ANOTHER);
}
