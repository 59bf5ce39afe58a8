//! What revocation lists do beyond taking members out (VEIL-1 section 3.2): to senders, to authorities, and to what was saved.

use veilmq_client::e2e::{
    Directory, EnvelopeOptions, OpenError, SealError, SenderPolicy,
    distribution::{IssuePolicy, KeyEvent},
};
use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Roles,
        channel::{derive, hash},
        distribution::{Crl, KeyHead, RevocationReason},
    },
};

use super::world::{
    Broker, Party, SCOPE, SECOND, START, TOPIC, anchors, below, crl, crl_topic, entropy, identity, renewed,
    scope,
};

fn list(crl: &Crl) -> (String, Vec<u8>) {
    (crl_topic(), crl.as_bytes().to_vec())
}

/// A key authority, a publisher and a reader that takes messages of any member, all with the keys of the scope.
fn anybody() -> (Broker, Party, Party, Party) {
    let mut broker = Broker::default();
    let authority = identity("authority", Roles::KEY_AUTHORITY, &[SCOPE]);
    let mut authority = Party::issuing(authority, IssuePolicy::default());
    let press = identity("press", Roles::PUBLISHER | Roles::SUBSCRIBER, &[SCOPE]);
    let mut press = Party::joining(press);
    let lake = identity("lake", Roles::SUBSCRIBER, &[SCOPE]);
    let options = EnvelopeOptions { senders: SenderPolicy::AnyMember, ..EnvelopeOptions::default() };
    let mut lake = Party::joining_with(lake, options);
    lake.keys.want_certificate(press.kid());
    for _ in 0..2 {
        for party in [&mut press, &mut lake, &mut authority] {
            party.visit(&mut broker, START);
        }
    }
    press.visit(&mut broker, START);
    lake.visit(&mut broker, START);
    (broker, authority, press, lake)
}

fn seals(party: &mut Party, now: u64) -> Result<Vec<u8>, SealError> {
    let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
    party.e2e.seal(topic, b"21.5", &none, now, &mut entropy())
}

#[test]
fn a_revoked_sender_is_refused_even_where_any_member_may_send_and_after_a_restart() {
    let (mut broker, _, mut press, mut lake) = anybody();
    let message = press.seal(START);
    assert!(lake.reads(&message, START));

    let compromised = crl(1, &[&press.identity], RevocationReason::KeyCompromise);
    lake.hear(&list(&compromised), START);

    let refused = OpenError::SenderRevoked(press.kid());
    let message = press.seal(START);
    assert_eq!(lake.open(&message, START).unwrap_err(), refused);
    let options = EnvelopeOptions { senders: SenderPolicy::AnyMember, ..EnvelopeOptions::default() };
    let mut lake = lake.restarted(|identity| Party::joining_with(identity, options));
    assert_eq!(lake.open(&message, START).unwrap_err(), refused);

    // Until it shows another certificate.
    let saved = press.keys.export(&press.e2e);
    let mut press = Party::joining(renewed(&press.identity));
    press.keys.import(&mut press.e2e, &saved, &mut entropy()).unwrap();
    press.visit(&mut broker, START + SECOND);
    lake.keys.want_certificate(press.kid());
    lake.visit(&mut broker, START + SECOND);
    let message = press.seal(START + SECOND);
    assert!(lake.reads(&message, START + SECOND));
}

#[test]
fn nothing_is_sealed_under_the_keys_of_an_authority_that_was_revoked() {
    for (reason, may_seal, reads_what_was_sealed) in [
        (RevocationReason::KeyCompromise, false, false),
        (RevocationReason::PrivilegeWithdrawn, false, false),
        (RevocationReason::Superseded, true, true),
    ] {
        let (_, authority, mut press, mut lake) = anybody();
        let before = press.seal(START);
        let revoked = crl(1, &[&authority.identity], reason);

        press.hear(&list(&revoked), START + SECOND);
        lake.hear(&list(&revoked), START + SECOND);

        let now = START + 2 * SECOND;
        assert_eq!(seals(&mut press, now).is_ok(), may_seal, "{reason:?}");
        assert_eq!(lake.reads(&before, now), reads_what_was_sealed, "{reason:?}");
        // What was retained earlier is opened, unless the key is in other hands.
        let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
        let retained = lake.e2e.open(topic, &before, true, &none, now);
        assert_eq!(retained.is_ok(), reason != RevocationReason::KeyCompromise, "{reason:?}");
        let mut press = press.restarted(Party::joining);
        assert_eq!(seals(&mut press, now).is_ok(), may_seal, "{reason:?}, after a restart");
    }
}

#[test]
fn what_an_authority_has_certified_counts_no_more_than_it_does() {
    let mut broker = Broker::default();
    let (plant, reader) = below("plant", "reader");
    let reader = Party::joining(reader);
    let mut anchors = anchors();
    anchors.add(plant.certificate().clone()).unwrap();
    let press = identity("press", Roles::PUBLISHER, &[SCOPE]);
    let mut press = Party::issuing_to(anchors, press, IssuePolicy::default());
    assert_eq!(press.keys.admit(&scope(), reader.certificate(), START, &mut entropy()), Ok(true));
    press.visit(&mut broker, START);

    let events = press.hear(&list(&crl(1, &[&plant], RevocationReason::KeyCompromise)), START + SECOND);

    let removed = KeyEvent::Removed { scope: SCOPE.to_owned(), member: reader.kid() };
    assert!(events.contains(&removed), "{events:?}");
    assert_eq!(press.keys.members(&scope()).unwrap(), []);
}

/// Bytes that differ between two states are taken from the second, up to where both are the same again.
fn spliced(without: &[u8], with: &[u8], list: &Crl) -> Vec<u8> {
    let at = without.iter().zip(with).position(|(one, other)| one != other).unwrap() - 3;
    assert_eq!(without[at..at + 4], [0; 4], "no lists");
    let mut out = without[..at].to_vec();
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&u32::try_from(list.as_bytes().len()).unwrap().to_be_bytes());
    out.extend_from_slice(list.as_bytes());
    out.extend_from_slice(&without[at + 4..]);
    out
}

#[test]
fn a_key_that_is_made_because_a_saved_list_takes_a_saved_member_out_is_random() {
    let mut broker = Broker::default();
    let issuing = || Party::publisher("press", IssuePolicy::default());
    let (mut press, lake) = (issuing(), Party::subscriber("lake"));
    press.keys.admit(&scope(), lake.certificate(), START, &mut entropy()).unwrap();
    let revoked = crl(1, &[&lake.identity], RevocationReason::KeyCompromise);
    let without = press.keys.export(&press.e2e);
    let mut told = issuing();
    told.hear(&list(&revoked), START);
    let saved = spliced(&without, &told.keys.export(&told.e2e), &revoked);

    let mut press = issuing();
    press.keys.import(&mut press.e2e, &saved, &mut entropy()).unwrap();
    press.visit(&mut broker, START);

    assert_eq!(press.keys.members(&scope()).unwrap(), []);
    let head = KeyHead::parse(&broker.only("_veil/1/kp/").1).unwrap().0;
    let scope = hash(&[SCOPE.as_bytes()]);
    let context = [scope.as_slice(), &head.epoch.to_be_bytes(), head.issuer.as_bytes()].concat();
    let mut of_zero = [0; 32];
    derive(&[0; 32], "commit", &context, &mut of_zero);
    assert_ne!(head.commitment, of_zero);
}

#[test]
fn a_certificate_that_was_replaced_does_not_come_back() {
    let press = identity("press", Roles::PUBLISHER, &[SCOPE]);
    let (before, after) = (press.certificate().clone(), renewed(&press).certificate().clone());
    let mut directory = Directory::default();

    for (shown, expected) in [(&before, &before), (&after, &after), (&before, &after)] {
        assert_eq!(directory.introduce(shown.clone(), &anchors(), START), Ok(press.kid()));
        assert_eq!(directory.certificate(press.kid()), Some(expected));
    }
}
