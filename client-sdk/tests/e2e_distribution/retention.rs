//! What the broker retains of an issuer: heads that are lost or overwritten come back, and at a bounded rate.

use std::sync::Arc;

use veilmq_client::e2e::OpenError;
use veilmq_client::e2e::distribution::{IssuePolicy, IssuedState, KeyEvent, Rotation};

use crate::admit;
use crate::world::{Broker, DAY, Party, SCOPE, SECOND, START, entropy, scope};

/// What the issuer says of its heads when it has connected.
fn said(press: &mut Party, broker: &mut Broker, now: u64) -> Vec<KeyEvent> {
    let mut events = press.visit(broker, now);
    events.retain(|event| !matches!(event, KeyEvent::Admitted { .. }));
    events
}

#[test]
fn an_issuer_puts_back_what_a_broker_has_lost_or_retains_in_place_of_its_newest_head() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let (topic, old) = broker.only("_veil/1/kp/");
    let mut lake = Party::subscriber("lake");
    lake.visit(&mut Broker::default(), START);
    let saved = lake.keys.export(&lake.e2e);
    press.keys.admit(&scope(), lake.certificate(), START, &mut entropy()).unwrap();
    press.visit(&mut broker, START + 100 * SECOND);
    let (_, newest) = broker.only("_veil/1/kp/");
    let (mut damaged, mut foreign) = (newest.clone(), newest.clone());
    // The last byte of a wrap, and the first of a signature: neither is a head that the issuer has published last.
    *damaged.last_mut().unwrap() ^= 1;
    foreign[80] ^= 1;
    let lost = vec![KeyEvent::HeadLost { scope: SCOPE.to_owned() }];

    let mut now = START + 200 * SECOND;
    assert_eq!(said(&mut press, &mut broker, now), vec![]);
    assert_eq!(broker.only("_veil/1/kp/").1, newest, "it is there");
    for found in [None, Some(old), Some(b"rubbish".to_vec()), Some(damaged), Some(foreign)] {
        now += 100 * SECOND;
        broker.retained.retain(|kept, _| *kept != topic);
        broker.retained.extend(found.clone().map(|found| (topic.clone(), found)));

        let events = said(&mut press, &mut broker, now);
        press.visit(&mut broker, now + SECOND);

        assert_eq!(events, lost);
        let mut reader = Party::joining(Arc::clone(&lake.identity));
        reader.keys.import(&mut reader.e2e, &saved, &mut entropy()).unwrap();
        reader.visit(&mut broker, now + SECOND);
        let sealed = press.seal(now + SECOND);
        assert!(reader.reads(&sealed, now + SECOND), "{found:?}");
    }
}

#[test]
fn an_issuer_whose_heads_are_overwritten_in_a_loop_puts_one_back_each_minute() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let (topic, _) = broker.only("_veil/1/kp/");
    broker.retained.insert(topic.clone(), b"rubbish".to_vec());

    let heads = |broker: &mut Broker, press: &mut Party, now: u64| {
        press.hear(&(topic.clone(), b"rubbish".to_vec()), now);
        broker.publish(press.keys.outgoing(now, &mut entropy()));
        broker.retained.insert(topic.clone(), b"rubbish".to_vec()).is_some_and(|head| head != b"rubbish")
    };
    let put_back = (100..400).filter(|second| heads(&mut broker, &mut press, START + second * SECOND));

    assert_eq!(put_back.collect::<Vec<_>>(), [101, 161, 221, 281, 341]);
}

#[test]
fn a_clock_that_was_set_back_by_a_year_keeps_no_new_member_waiting() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let year_before = START - 365 * DAY;
    let lake = Party::subscriber("lake");
    press.keys.admit(&scope(), lake.certificate(), START, &mut entropy()).unwrap();
    let (_, before) = broker.only("_veil/1/kp/");

    press.visit(&mut broker, year_before);
    press.visit(&mut broker, year_before + SECOND);

    assert_ne!(broker.only("_veil/1/kp/").1, before);
}

#[test]
fn a_clock_that_was_set_back_by_a_year_does_not_put_off_the_key_that_was_announced_before() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
    press.visit(&mut broker, START + SECOND);
    let mut now = START - 365 * DAY;

    press.visit(&mut broker, now);
    now += DAY / 24;
    press.visit(&mut broker, now);

    let states: Vec<_> = press.keys.issued(&scope(), now).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states.last(), Some(&IssuedState::Sending), "{states:?}");
    let mut lake = Party::subscriber("lake");
    press.keys.admit(&scope(), lake.certificate(), now, &mut entropy()).unwrap();
    press.visit(&mut broker, now + 10 * SECOND);
    lake.visit(&mut broker, now + 10 * SECOND);
    let sealed = press.seal(now + 10 * SECOND);
    assert!(lake.reads(&sealed, now + 10 * SECOND));
}

#[test]
fn nothing_is_sealed_under_a_key_that_is_not_saved() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let mut lake = Party::subscriber("lake");
    press.keys.admit(&scope(), lake.certificate(), START, &mut entropy()).unwrap();
    press.visit(&mut broker, START + 10 * SECOND);
    lake.visit(&mut broker, START + 10 * SECOND);
    press.keys.rotate(&scope(), Rotation::Ordinary, &mut entropy()).unwrap();
    let now = START + 20 * SECOND;
    let head = press.keys.outgoing(now, &mut entropy());
    let much_later = now + 600 * SECOND;

    let before = press.seal(much_later);
    press.keys.announced(&mut press.e2e);
    let after = press.seal(much_later);

    assert!(lake.reads(&before, much_later), "the disk is full, and the head is kept back");
    assert_eq!(lake.open(&after, much_later).err(), Some(OpenError::NoKey { epoch: 2 }));
    broker.publish(head);
    lake.visit(&mut broker, much_later);
    assert!(lake.reads(&after, much_later));
}

/// A publisher with so many members that each has its wrap on a topic of its own.
fn with_wraps_of_their_own() -> (Broker, Party, Vec<Party>) {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let members: Vec<Party> = (0..65).map(|n| Party::subscriber(&format!("member-{n}"))).collect();
    for member in &members {
        admit(&mut press, member);
    }
    press.visit(&mut broker, START);
    (broker, press, members)
}

#[test]
fn a_member_whose_wrap_is_lost_or_overwritten_asks_for_its_key() {
    let (mut broker, mut press, members) = with_wraps_of_their_own();
    let retained = broker.retained.clone();
    let other = retained.iter().find(|(topic, _)| topic.contains("/w/")).unwrap().1.clone();
    let message = press.seal(START);
    for (index, found) in [None, Some(b"rubbish".to_vec()), Some(other)].into_iter().enumerate() {
        let mut member = Party::joining(Arc::clone(&members[index + 1].identity));
        broker.retained.clone_from(&retained);
        let own = broker
            .retained
            .keys()
            .find(|topic| topic.ends_with(&member.kid().to_string()) && topic.contains("/w/"));
        let own = own.unwrap().clone();
        broker.retained.remove(&own);
        broker.retained.extend(found.map(|found| (own, found)));

        member.visit(&mut broker, START);
        member.visit(&mut broker, START + 29 * SECOND);
        assert!(broker.passing.is_empty(), "a wrap may come later than its head");
        assert!(member.keys.next_due() <= START + 30 * SECOND);
        member.visit(&mut broker, START + 30 * SECOND);
        let [request] = &std::mem::take(&mut broker.passing)[..] else { panic!("one request") };
        press.hear(request, START + 31 * SECOND);
        press.visit(&mut broker, START + 31 * SECOND);
        for answer in std::mem::take(&mut broker.passing) {
            member.hear(&answer, START + 32 * SECOND);
        }

        assert!(member.reads(&message, START + 32 * SECOND), "case {index}");
    }
}

#[test]
fn a_wrap_that_does_not_come_is_asked_for_in_time_also_when_the_clock_is_set_back() {
    let (mut broker, _press, members) = with_wraps_of_their_own();
    broker.retained.retain(|topic, _| !topic.contains("/w/"));
    for now in [START, START - DAY] {
        let mut member = Party::joining(Arc::clone(&members[1].identity));
        member.visit(&mut broker, START);
        let mut asks = |now| {
            member.keys.advance(&mut member.e2e, now, &mut entropy());
            let outgoing = member.keys.outgoing(now, &mut entropy());
            outgoing.iter().any(|outgoing| outgoing.topic.starts_with("_veil/1/jn/"))
        };

        assert!(!asks(START));
        assert!(!asks(now));
        assert!(!asks(now + 29 * SECOND));
        assert!(asks(now + 30 * SECOND), "{now}");
    }
}
