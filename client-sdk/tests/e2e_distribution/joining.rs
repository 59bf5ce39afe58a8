//! A member that a head leaves out asks its issuer (VEIL-1 section 9.1).

use veilmq_client::e2e::{
    Scope,
    distribution::{Admission, HeadError, IssuePolicy, JoinError, KeyEvent, RosterError, Rotation},
};

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use veilmq_protocol::veil::{
    channel::{derive, extract, hash, hmac, sign},
    distribution::{JoinRequest, JoinResponse},
    hello::JoinStatus,
    layout::put_v16,
};
use x25519_dalek::{PublicKey, StaticSecret};

use super::world::{Broker, Party, SCOPE, SECOND, START, entropy, renewed, scope};

/// A publisher whose head is out, and a reader it has never heard of that has just seen this head and asked.
fn asked(policy: IssuePolicy) -> (Broker, Party, Party, (String, Vec<u8>)) {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", policy);
    press.visit(&mut broker, START);
    let mut lake = Party::subscriber("lake");
    let events = lake.visit(&mut broker, START + SECOND);
    assert!(
        matches!(&*events, [KeyEvent::HeadRefused { error: HeadError::NotAMember { .. }, .. }]),
        "{events:?}"
    );
    let request = broker.passing.remove(0);
    assert_eq!(request.0, format!("_veil/1/jn/{}", press.kid()));
    (broker, press, lake, request)
}

/// Hands a message over and gives what the party says to it.
fn answer(party: &mut Party, message: &(String, Vec<u8>), broker: &mut Broker, now: u64) -> Vec<KeyEvent> {
    let events = party.hear(message, now);
    broker.publish(party.keys.outgoing(now, &mut entropy()));
    party.keys.announced(&mut party.e2e);
    events
}

#[test]
fn a_member_that_was_left_out_has_its_keys_after_one_exchange() {
    let now = START + 2 * SECOND;
    let (mut broker, mut press, mut lake, request) = asked(IssuePolicy::default());

    let admitted = answer(&mut press, &request, &mut broker, now);
    let response = broker.passing.remove(0);
    let installed = answer(&mut lake, &response, &mut broker, now);
    let confirmation = broker.passing.remove(0);
    let joined = answer(&mut press, &confirmation, &mut broker, now);

    let (scope, member, issuer) = (SCOPE.to_owned(), lake.kid(), press.kid());
    assert_eq!(admitted, [KeyEvent::Admitted { scope: scope.clone(), member }]);
    assert_eq!(response.0, format!("_veil/1/jr/{member}"));
    assert_eq!(installed, [KeyEvent::Installed { scope: scope.clone(), issuer, epoch: 1 }]);
    assert_eq!(joined, [KeyEvent::Joined { scope, member }]);
    let message = press.seal(now);
    assert!(lake.reads(&message, now));
    // The head that is retained next is no older than what came by asking.
    press.visit(&mut broker, now + 2 * SECOND);
    let events = lake.visit(&mut broker, now + 3 * SECOND);
    assert!(!events.iter().any(|event| matches!(event, KeyEvent::HeadRefused { .. })), "{events:?}");
}

/// A publisher whose head is out, a reader that has heard of nothing, and the request that goes with its CONNECT.
fn asked_with_connect() -> (Broker, Party, Party, Vec<u8>) {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let mut lake = Party::subscriber("lake");
    let request = lake.keys.ask_with_connect(&scope(), press.kid(), START + SECOND, &mut entropy()).unwrap();
    (broker, press, lake, request)
}

#[test]
fn an_answer_that_comes_with_connack_gives_the_same_as_one_that_is_published() {
    let now = START + 2 * SECOND;
    let (mut broker, mut press, mut lake, request) = asked_with_connect();
    assert!(broker.passing.is_empty(), "nothing is published");
    let asked = (format!("_veil/1/jn/{}", press.kid()), request);
    answer(&mut press, &asked, &mut broker, now);
    let (_, response) = broker.passing.remove(0);

    assert!(lake.keys.handle_connack(&mut lake.e2e, JoinStatus::Done, &response, now));

    let (scope_text, issuer) = (SCOPE.to_owned(), press.kid());
    assert_eq!(lake.keys.take_events(), [KeyEvent::Installed { scope: scope_text, issuer, epoch: 1 }]);
    let message = press.seal(now);
    assert!(lake.reads(&message, now));
    broker.publish(lake.keys.outgoing(now, &mut entropy()));
    let confirmation = broker.passing.remove(0);
    let joined = answer(&mut press, &confirmation, &mut broker, now);
    assert!(matches!(&*joined, [KeyEvent::Joined { .. }]), "{joined:?}");
    let again = lake.keys.ask_with_connect(&scope(), issuer, now, &mut entropy());
    assert!(again.is_none(), "who has keys asks for none");
}

#[test]
fn connack_without_an_answer_ends_the_wait_and_a_later_answer_counts_no_more() {
    let now = START + 2 * SECOND;
    let (issuer, scope_text) = (asked_with_connect().1.kid(), SCOPE.to_owned());
    for (status, response, event) in [
        (JoinStatus::None, &b""[..], KeyEvent::JoinNotPassedOn { scope: scope_text.clone(), issuer }),
        (JoinStatus::Pending, b"", KeyEvent::JoinPending { scope: scope_text, issuer }),
    ] {
        let (mut broker, mut press, mut lake, request) = asked_with_connect();
        assert!(!lake.keys.handle_connack(&mut lake.e2e, status, response, now));
        assert_eq!(lake.keys.take_events(), [event]);

        answer(&mut press, &(format!("_veil/1/jn/{issuer}"), request), &mut broker, now);
        let late = broker.passing.remove(0);
        lake.hear(&late, now);

        let message = press.seal(now);
        assert!(!lake.reads(&message, now), "{status:?}");
    }
}

/// What `mill`, which is certified for the scope as well, makes of a request that names another issuer.
fn forged(request: &[u8], mill: &Party, now: u64) -> Vec<u8> {
    let request = JoinRequest::parse(request).unwrap();
    let (secret, x25519) = (StaticSecret::from([7; 32]), PublicKey::from(&StaticSecret::from([7; 32])));
    let response = JoinResponse {
        request_nonce: request.nonce,
        nonce: [8; 16],
        created_ms: now,
        x25519: x25519.to_bytes(),
        flight: &[],
    };
    // The schedule is no secret of anybody who has one half of the exchange.
    let nothing = hash(&[]);
    let early = extract(&[0; 32], &[0; 32]).derive("derived", &nothing);
    let agreed = secret.diffie_hellman(&PublicKey::from(request.x25519));
    let secret = extract(early.as_bytes(), agreed.as_bytes());
    let transcript = hash(&[b"veil1 join", request.as_bytes(), &response.head()]);
    let issuer = secret.derive("e2e s", &transcript);
    let certificate = mill.certificate();
    let signature = sign(mill.identity.keys(), "join rsp", &hash(&[&transcript, certificate.as_bytes()]));
    let covered = hash(&[&transcript, certificate.as_bytes(), &signature]);
    let mut flight = Vec::new();
    put_v16(&mut flight, certificate.as_bytes(), "certificate").unwrap();
    flight.extend_from_slice(&signature);
    flight.extend_from_slice(&hmac(issuer.derive("finished", &[]).as_bytes(), &[&covered]));
    flight.extend_from_slice(&[0, 0, 1]);
    let mut iv = [0; 12];
    derive(issuer.as_bytes(), "iv", &[], &mut iv);
    let cipher = ChaCha20Poly1305::new(issuer.derive("key", &[]).as_bytes().into());
    let flight = cipher.encrypt(&iv.into(), Payload { msg: &flight, aad: &transcript }).unwrap();
    JoinResponse { flight: &flight, ..response }.encode().unwrap()
}

#[test]
fn an_answer_of_somebody_else_costs_nobody_the_answer_of_the_issuer() {
    let now = START + 2 * SECOND;
    let mill = Party::publisher("mill", IssuePolicy::default());
    for with_connack in [false, true] {
        let (mut broker, mut press, mut lake, request) = match with_connack {
            false => asked(IssuePolicy::default()),
            true => {
                let (broker, press, lake, request) = asked_with_connect();
                let topic = format!("_veil/1/jn/{}", press.kid());
                (broker, press, lake, (topic, request))
            }
        };
        let own = format!("_veil/1/jr/{}", lake.kid());
        let forgery = forged(&request.1, &mill, now);

        let events = match with_connack {
            false => lake.hear(&(own.clone(), forgery.clone()), now),
            true => {
                lake.keys.handle_connack(&mut lake.e2e, JoinStatus::Done, &forgery, now);
                lake.keys.take_events()
            }
        };
        let again = lake.hear(&(own, forgery), now);
        answer(&mut press, &request, &mut broker, now);
        lake.hear(&broker.passing.remove(0), now);

        let issuer = press.kid();
        let failed = [KeyEvent::JoinFailed { issuer, error: JoinError::NotAuthentic }];
        assert_eq!((events.as_slice(), again.as_slice()), (&failed[..], &failed[..]));
        let message = press.seal(now);
        assert!(lake.reads(&message, now), "with CONNACK: {with_connack}");
    }
}

#[test]
fn whoever_is_not_let_in_learns_that_and_nothing_else() {
    let now = START + 2 * SECOND;
    let named = IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
    let barred = |press: &mut Party, lake: &Party| {
        press.keys.remove(&scope(), lake.kid(), Rotation::Removal, &mut entropy()).unwrap();
    };
    for (policy, bar) in [(named, false), (IssuePolicy::default(), true)] {
        let (mut broker, mut press, mut lake, request) = asked(policy);
        if bar {
            barred(&mut press, &lake);
        }

        let told = answer(&mut press, &request, &mut broker, now);
        let events = lake.hear(&broker.passing.remove(0), now);

        let (issuer, error) = (press.kid(), JoinError::Refused(1));
        assert!(error.to_string().starts_with("JoinRefused: not admitted: "), "{error}");
        assert!(
            matches!(
                told.as_slice(),
                [KeyEvent::JoinRefused { member, subject, reason, .. }]
                    if *member == lake.kid() && subject == "lake" && error.to_string().ends_with(&**reason)
            ),
            "{told:?}"
        );
        assert_eq!(events, [KeyEvent::JoinFailed { issuer, error }]);
        let message = press.seal(now);
        assert!(!lake.reads(&message, now));
    }
}

#[test]
fn a_full_scope_gives_keys_to_its_members_alone_and_takes_their_new_certificates() {
    let now = START + 2 * SECOND;
    let policy = IssuePolicy { members_max: 1, ..IssuePolicy::default() };
    let (mut broker, mut press, mut lake, request) = asked(policy);
    let hill = Party::subscriber("hill");
    assert_eq!(press.keys.admit(&scope(), hill.certificate(), now, &mut entropy()), Ok(true));
    press.keys.take_events();

    let events = answer(&mut press, &request, &mut broker, now);
    let refused = lake.hear(&broker.passing.remove(0), now);

    let (scope_text, member, issuer) = (SCOPE.to_owned(), lake.kid(), press.kid());
    assert_eq!(events, [KeyEvent::Full { scope: scope_text, member }]);
    assert_eq!(refused, [KeyEvent::JoinFailed { issuer, error: JoinError::Refused(1) }]);
    let by_name = press.keys.admit(&scope(), lake.certificate(), now, &mut entropy());
    assert_eq!(by_name, Err(RosterError::Full));
    let renewed = renewed(&hill.identity).certificate().clone();
    assert_eq!(press.keys.admit(&scope(), renewed.clone(), now, &mut entropy()), Ok(true));
    assert_eq!(press.keys.members(&scope()), Ok(vec![renewed]));
}

#[test]
fn a_scope_that_is_not_issued_is_an_error_whatever_is_asked_of_it() {
    let mut press = Party::publisher("press", IssuePolicy::default());
    let (slip, lake) = (Scope::new("factroy/#").unwrap(), Party::subscriber("lake"));

    let removed = press.keys.remove(&slip, lake.kid(), Rotation::Removal, &mut entropy());
    let admitted = press.keys.admit(&slip, lake.certificate(), START, &mut entropy());

    assert_eq!((removed, admitted), (Err(RosterError::NotIssued), Err(RosterError::NotIssued)));
    assert_eq!(press.keys.rotate(&slip, Rotation::Ordinary, &mut entropy()), Err(RosterError::NotIssued));
    assert_eq!(press.keys.members(&slip), Err(RosterError::NotIssued));
}

#[test]
fn an_answer_that_was_changed_anywhere_gives_nothing() {
    let now = START + 2 * SECOND;
    let length = {
        let (mut broker, mut press, _lake, request) = asked(IssuePolicy::default());
        answer(&mut press, &request, &mut broker, now);
        broker.passing.remove(0).1.len()
    };
    for at in (3..length).step_by(37) {
        let (mut broker, mut press, mut lake, request) = asked(IssuePolicy::default());
        answer(&mut press, &request, &mut broker, now);
        let (topic, mut response) = broker.passing.remove(0);
        response[at] ^= 1;

        lake.hear(&(topic, response), now);

        let message = press.seal(now);
        assert!(!lake.reads(&message, now), "byte {at}");
    }
}

#[test]
fn a_request_counts_once_in_its_time_and_for_the_issuer_it_names() {
    let now = START + 2 * SECOND;
    let (mut broker, mut press, _lake, request) = asked(IssuePolicy::default());
    let mut mill = Party::publisher("mill", IssuePolicy::default());
    mill.visit(&mut broker, START);
    let not_fresh =
        |events: &[KeyEvent]| matches!(events, [KeyEvent::RequestRefused { error: JoinError::NotFresh }]);

    assert!(not_fresh(&mill.hear(&request, now)), "it names another issuer");
    assert!(not_fresh(&press.hear(&request, now + 200 * SECOND)), "it is too old");
    assert!(!not_fresh(&press.hear(&request, now)));
    assert!(not_fresh(&press.hear(&request, now)), "it was answered before");
}

#[test]
fn a_member_does_not_wait_for_an_issuer_that_is_away() {
    let (_broker, press, mut lake, _request) = asked(IssuePolicy::default());

    lake.keys.advance(&mut lake.e2e, START + 5 * SECOND, &mut entropy());

    let pending = KeyEvent::JoinPending { scope: SCOPE.to_owned(), issuer: press.kid() };
    assert_eq!(lake.keys.take_events(), [pending]);
}

#[test]
fn a_member_that_asks_all_the_time_keeps_nobody_else_from_joining() {
    let now = START + 2 * SECOND;
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut Broker::default(), START);
    let mut ask = |name: &str, times: usize| {
        let mut refused = 0;
        for _ in 0..times {
            let mut member = Party::subscriber(name);
            let request = member.keys.ask_with_connect(&scope(), press.kid(), now, &mut entropy()).unwrap();
            let events = press.hear(&(format!("_veil/1/jn/{}", press.kid()), request), now);
            let is_refused =
                |event: &KeyEvent| matches!(event, KeyEvent::RequestRefused { error: JoinError::NotFresh });
            refused += usize::from(events.iter().any(is_refused));
        }
        refused
    };

    assert_eq!(ask("greedy", 1_025), 1);
    assert_eq!(ask("lake", 1), 0);
}
