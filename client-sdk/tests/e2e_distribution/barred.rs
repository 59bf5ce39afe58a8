//! Who was taken out stays out, however many there are (VEIL-1 section 12.4).

use veilmq_client::e2e::{
    SealError,
    distribution::{IssuePolicy, KeyEvent, Rotation},
};
use veilmq_protocol::veil::{
    Kid,
    distribution::{Pair, RevocationReason},
};

use crate::{
    admit,
    pairs::{publisher, reader, seal_for, talk},
    world::{Broker, Party, SCOPE, SECOND, START, crl, crl_topic, entropy, renewed, scope},
};

/// As many as are told apart.
const BARRED_MAX: u64 = 65_536;

/// Takes out `first`, as many that nobody knows as are told apart, and one more.
fn take_out_too_many(first: Kid, mut remove: impl FnMut(Kid) -> Vec<KeyEvent>, scope: &str) {
    for kid in std::iter::once(first).chain((2..BARRED_MAX).map(|n| Kid::from_bytes(n.to_be_bytes()))) {
        assert_eq!(remove(kid), []);
    }
    assert_eq!(remove(Kid::from_bytes([255; 8])), [KeyEvent::Closed { scope: scope.to_owned() }]);
    assert_eq!(remove(Kid::from_bytes([254; 8])), [], "said once");
}

#[test]
fn a_scope_out_of_which_too_many_were_taken_lets_nobody_in_but_by_name() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (mut lake, mut late) = (Party::subscriber("lake"), Party::subscriber("late"));
    for member in [&lake, &late] {
        admit(&mut press, member);
    }
    let remove = |press: &mut Party, kid| {
        press.keys.take_events();
        press.keys.remove(&scope(), kid, Rotation::Removal, &mut entropy()).unwrap();
        press.keys.take_events()
    };
    let named = Party::subscriber("named");
    take_out_too_many(named.kid(), |kid| remove(&mut press, kid), SCOPE);
    let removed = KeyEvent::Removed { scope: SCOPE.to_owned(), member: late.kid() };
    assert_eq!(remove(&mut press, late.kid()), [removed], "one more than are told apart");
    // Who is let in by name opens it for nobody else.
    admit(&mut press, &named);

    let mut hill = Party::subscriber("hill");
    let mut now = START;
    for is_restarted in [false, true] {
        if is_restarted {
            press = press.restarted(|identity| Party::issuing(identity, IssuePolicy::default()));
        }
        for _ in 0..3 {
            now += 10 * SECOND;
            for party in [&mut press, &mut lake, &mut late, &mut hill] {
                party.visit(&mut broker, now);
            }
        }
        let message = press.seal(now);
        assert!(lake.reads(&message, now), "it is a member");
        assert!(!late.reads(&message, now) && !hill.reads(&message, now));
        let stays_out =
            [&late, &hill, &lake, &named].map(|party| press.keys.is_removed(&scope(), party.kid()));
        assert_eq!(stays_out, [true, true, false, false]);
    }

    admit(&mut press, &hill);
    for party in [&mut press, &mut hill] {
        party.visit(&mut broker, now + 2 * SECOND);
    }
    let message = press.seal(now + 2 * SECOND);
    assert!(hill.reads(&message, now + 2 * SECOND));
}

#[test]
fn a_publisher_that_has_taken_away_too_many_pairs_gives_none_but_by_name() {
    let mut broker = Broker::default();
    let mut press = publisher();
    let paired = |press: &Party, name| Party::paired(reader(name), press.kid());
    let (mut lake, mut late) = (paired(&press, "lake"), paired(&press, "late"));
    talk(&mut broker, &mut [&mut press, &mut lake, &mut late], START);
    let remove = |press: &mut Party, kid| {
        press.keys.remove_pair(&mut press.e2e, kid);
        press.keys.take_events()
    };
    let named = reader("named");
    take_out_too_many(named.kid(), |kid| remove(&mut press, kid), "_veil/1/p2p/#");
    assert_eq!(press.keys.admit_to_pairs(named.certificate().clone(), START), Ok(true));
    let pair = Pair { publisher: press.kid(), subscriber: late.kid() }.to_string();
    let removed = KeyEvent::Removed { scope: pair, member: late.kid() };
    assert_eq!(remove(&mut press, late.kid()), [removed]);

    let mut hill = paired(&press, "hill");
    for now in [START + 60 * SECOND, START + 120 * SECOND] {
        talk(&mut broker, &mut [&mut press, &mut lake, &mut late, &mut hill], now);
        assert!(seal_for(&mut press, lake.kid(), now).is_ok());
        for out in [&late, &hill] {
            assert_eq!(seal_for(&mut press, out.kid(), now), Err(SealError::NoKey));
        }
        let stays_out = [&late, &hill, &lake].map(|party| press.keys.is_removed_from_pairs(party.kid()));
        assert_eq!(stays_out, [true, true, false]);
        press = press.restarted(|identity| Party::giving_pairs(identity, IssuePolicy::default()));
    }

    let now = START + 180 * SECOND;
    assert_eq!(press.keys.admit_to_pairs(hill.certificate(), now), Ok(true));
    talk(&mut broker, &mut [&mut press, &mut hill], now);
    assert!(seal_for(&mut press, hill.kid(), now).is_ok());
    assert!(!press.keys.is_removed_from_pairs(hill.kid()));
}

#[test]
fn who_was_let_in_again_by_name_is_let_in_with_another_certificate_as_everybody_is() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    let lake = Party::subscriber("lake");
    press.keys.remove(&scope(), lake.kid(), Rotation::Removal, &mut entropy()).unwrap();
    admit(&mut press, &lake);
    let list = crl(1, &[&lake.identity], RevocationReason::Superseded);
    press.hear(&(crl_topic(), list.as_bytes().to_vec()), START);
    assert_eq!(press.keys.members(&scope()), Ok(Vec::new()));

    let mut renewed = Party::joining(renewed(&lake.identity));
    for now in [START + SECOND, START + 10 * SECOND] {
        renewed.visit(&mut broker, now);
        press.visit(&mut broker, now);
    }

    assert_eq!(press.keys.members(&scope()), Ok(vec![renewed.certificate()]));
}
