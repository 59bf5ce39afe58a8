//! The end of the epoch numbers: a scope whose issuer has announced the last one (VEIL-1 section 8.3).

use veilmq_client::e2e::{
    OpenError, SealError,
    distribution::{HeadError, IssuePolicy, IssuedState, JoinError, KeyEvent, RosterError, Rotation},
};
use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Roles,
        distribution::{KeyHead, KeyHeadFields},
    },
};

use crate::{
    admit,
    world::{Broker, DAY, Party, SCOPE, SECOND, START, TOPIC, entropy, identity, scope},
};

/// When the last epoch has become active.
const ACTIVE: u64 = START + 7 * SECOND;
/// When it retires and is dropped, by the default policy.
const RETIRED: u64 = ACTIVE + 8 * DAY + 600 * SECOND;
const DROPPED: u64 = RETIRED + 7 * DAY;

fn exhausted() -> KeyEvent {
    KeyEvent::EpochsExhausted { scope: SCOPE.to_owned() }
}

/// The head that the broker retains, as the issuer signs it with another number.
fn renumbered(broker: &Broker, press: &Party, epoch: u32) -> (String, Vec<u8>) {
    let (topic, payload) = broker.only("_veil/1/kp/");
    let head = KeyHead::parse(&payload).unwrap().0;
    let created_ms = head.created_ms + 1;
    let fields = KeyHeadFields { epoch, created_ms, previous: [7; 32], ..(*head).clone() };
    (topic, fields.sign(press.identity.keys()).unwrap().as_bytes().to_vec())
}

/// An issuer that was restored from an older copy, when it had announced all numbers but the last, and its member.
fn at_the_end(policy: IssuePolicy) -> (Broker, Party, Party) {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", policy);
    let mut lake = Party::subscriber("lake");
    admit(&mut press, &lake);
    press.visit(&mut broker, START);
    let (topic, head) = renumbered(&broker, &press, u32::MAX - 1);
    broker.retained.insert(topic, head);
    press.visit(&mut broker, START + 2 * SECOND);
    lake.visit(&mut broker, START + 2 * SECOND);
    assert_eq!(press.keys.issued(&scope(), ACTIVE), [(u32::MAX, IssuedState::Sending)]);
    (broker, press, lake)
}

fn seal(party: &mut Party, now: u64) -> Result<Vec<u8>, SealError> {
    let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
    party.e2e.seal(topic, b"21.5", &none, now, &mut entropy())
}

#[test]
fn the_key_of_the_last_epoch_is_never_replaced_and_whoever_asks_for_it_is_told() {
    let (mut broker, mut press, mut lake) = at_the_end(IssuePolicy::default());
    let before = KeyHead::parse(&broker.only("_veil/1/kp/").1).unwrap().0;

    let rotated = press.keys.rotate(&scope(), Rotation::Compromise, &mut entropy());
    press.visit(&mut broker, ACTIVE + DAY);

    assert_eq!(rotated, Err(RosterError::EpochsExhausted));
    let again = KeyHead::parse(&broker.only("_veil/1/kp/").1).unwrap().0;
    assert_eq!((again.epoch, again.link()), (u32::MAX, before.link()));
    assert!(again.created_ms > before.created_ms, "it is issued again in its time");
    lake.visit(&mut broker, ACTIVE + DAY);
    let message = press.seal(ACTIVE + DAY);
    assert!(lake.reads(&message, ACTIVE + DAY));
}

#[test]
fn the_last_epoch_ends_at_its_time_is_erased_and_leaves_nothing_to_do() {
    let (mut broker, mut press, mut lake) = at_the_end(IssuePolicy::default());
    let mut lives = |press: &mut Party, now| {
        let events = press.visit(&mut broker, now);
        lake.visit(&mut broker, now);
        let sealed = seal(press, now);
        (events.contains(&exhausted()), sealed.map(|message| lake.open(&message, now).is_ok()))
    };

    assert_eq!(lives(&mut press, ACTIVE + DAY - 61 * SECOND), (false, Ok(true)));
    assert_eq!(lives(&mut press, ACTIVE + DAY), (true, Ok(true)));
    assert!(press.keys.next_due() > ACTIVE + DAY, "nothing is tried again and again");
    assert_eq!(lives(&mut press, RETIRED - 1), (false, Ok(true)));
    assert_eq!(lives(&mut press, RETIRED), (false, Err(SealError::NoKey)));
    assert!(press.keys.next_due() <= DROPPED);
    assert_eq!(lives(&mut press, DROPPED), (false, Err(SealError::NoKey)));

    assert_eq!(press.keys.issued(&scope(), DROPPED), []);
    assert!(press.keys.next_due() > DROPPED);
    assert_eq!((lake.e2e.erasure_due(), press.e2e.erasure_due()), (None, None));
}

#[test]
fn who_is_taken_out_of_the_last_epoch_ends_it_and_the_request_says_so() {
    for rotation in [Rotation::Removal, Rotation::Compromise] {
        let (mut broker, mut press, lake) = at_the_end(IssuePolicy::default());

        let removed = press.keys.remove(&scope(), lake.kid(), rotation, &mut entropy());

        assert_eq!(removed, Err(RosterError::EpochsExhausted));
        let events = press.visit(&mut broker, ACTIVE);
        let taken_out = KeyEvent::Removed { scope: SCOPE.to_owned(), member: lake.kid() };
        assert!(events.contains(&taken_out) && events.contains(&exhausted()), "{events:?}");
        assert_eq!(press.keys.members(&scope()), Ok(Vec::new()));
        assert_eq!(seal(&mut press, ACTIVE), Err(SealError::NoKey));
        assert!(press.keys.next_due() > ACTIVE);

        let mut press = press.restarted(|identity| Party::issuing(identity, IssuePolicy::default()));
        press.visit(&mut broker, ACTIVE + SECOND);
        assert_eq!(seal(&mut press, ACTIVE + SECOND), Err(SealError::NoKey));
    }
}

#[test]
fn nobody_is_let_into_the_last_epoch_where_new_members_read_nothing_from_before() {
    let policy = IssuePolicy { join_secrecy: true, ..IssuePolicy::default() };
    let (mut broker, mut press, _lake) = at_the_end(policy);
    let named = Party::subscriber("hill");
    let mut asking = Party::subscriber("dale");
    broker.passing.clear();

    let admitted = press.keys.admit(&scope(), named.certificate(), ACTIVE, &mut entropy());
    asking.visit(&mut broker, ACTIVE);
    asking.visit(&mut broker, ACTIVE);
    press.hear(&broker.passing.remove(0), ACTIVE);
    press.visit(&mut broker, ACTIVE);
    let answered = asking.hear(&broker.passing.remove(0), ACTIVE);

    assert_eq!(admitted, Err(RosterError::EpochsExhausted));
    let issuer = press.kid();
    assert_eq!(answered, [KeyEvent::JoinFailed { issuer, error: JoinError::Refused(1) }]);
    assert_eq!(press.keys.members(&scope()).unwrap().len(), 1);
}

#[test]
fn an_issuer_restored_from_a_copy_older_than_the_last_epoch_seals_nothing_any_more() {
    let mut broker = Broker::default();
    let mut press = Party::publisher("press", IssuePolicy::default());
    press.visit(&mut broker, START);
    let (topic, head) = renumbered(&broker, &press, u32::MAX);
    broker.retained.insert(topic, head);

    let events = press.visit(&mut broker, START + SECOND);
    let events = [events, press.visit(&mut broker, START + SECOND)].concat();

    assert!(events.contains(&exhausted()), "{events:?}");
    assert_eq!(seal(&mut press, START + SECOND), Err(SealError::NoKey));
}

#[test]
fn an_issuer_that_has_announced_the_last_epoch_is_believed_no_lower_one() {
    let (mut broker, mut press, mut lake) = at_the_end(IssuePolicy::default());
    let topic = broker.only("_veil/1/kp/").0;
    let mut anew = Party::issuing(press.identity.clone(), IssuePolicy::default());
    admit(&mut anew, &lake);
    let mut empty = Broker::default();
    anew.visit(&mut empty, ACTIVE);

    let events = lake.hear(&empty.only(&topic), ACTIVE);

    let error = HeadError::Rollback { epoch: 1 };
    let refused = KeyEvent::HeadRefused { scope: SCOPE.to_owned(), issuer: press.kid(), error };
    assert_eq!(events, [refused]);
    press.visit(&mut broker, ACTIVE);
    let message = press.seal(ACTIVE);
    assert!(lake.reads(&message, ACTIVE));

    // Another identity is another issuer.
    let mut other = Party::issuing(identity("press 2", Roles::PUBLISHER, &[SCOPE]), IssuePolicy::default());
    admit(&mut other, &lake);
    other.visit(&mut empty, ACTIVE);
    lake.visit(&mut empty, ACTIVE);
    let message = other.seal(ACTIVE);
    assert!(lake.reads(&message, ACTIVE));
}

#[test]
fn a_key_of_the_last_epoch_is_refused_once_it_was_erased() {
    let (mut broker, mut press, mut lake) = at_the_end(IssuePolicy::default());
    lake.visit(&mut broker, ACTIVE);
    let message = press.seal(ACTIVE);

    lake.keys.advance(&mut lake.e2e, DROPPED, &mut entropy());

    let refused = lake.open(&message, ACTIVE).map(|opened| opened.plaintext);
    assert_eq!(refused, Err(OpenError::EpochDropped { epoch: u32::MAX }), "whatever the clock says now");
}
