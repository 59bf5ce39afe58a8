//! The receive algorithm of VEIL-1 section 12.1: every refusal by its name, and what is delivered with what facts.

mod e2e_support;

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

use e2e_support::{
    EPOCH, JSON, NOW, SCOPE, TOPIC, certificate, counter, keyring, member, member_with, plain, press, seed,
    topic, unsigned,
};
use veilmq_client::e2e::{
    Authentication, ConfigError, E2e, EnvelopeOptions, EpochTiming, GroupKey, Keyring, Limits, Member,
    OpenError, Opened, Padding, ReplayLimits, Scope, ScopeConfig, SealError, SenderPolicy,
};
use veilmq_protocol::veil::{
    CertificateError, CertificateFields, Kid, Roles, Suite,
    channel::{Identity, IdentityKeys, TrustAnchors},
};

type Result<T> = std::result::Result<T, OpenError>;

fn default() -> EnvelopeOptions {
    EnvelopeOptions::default()
}

fn seal(sender: &mut E2e, now: u64) -> Vec<u8> {
    sender.seal(topic(TOPIC), JSON, &plain(), now, &mut counter()).expect("the scope has a key")
}

fn live(reader: &mut E2e, payload: &[u8], now: u64) -> Result<Opened> {
    reader.open(topic(TOPIC), payload, false, &plain(), now)
}

fn retained(reader: &mut E2e, payload: &[u8], now: u64) -> Result<Opened> {
    reader.open(topic(TOPIC), payload, true, &plain(), now)
}

#[test]
fn plaintext_on_a_scope_is_never_delivered() {
    let mut reader = member(unsigned(1), default());
    for payload in [&b"V"[..], b"VE", b"{}", b"VEIL-1", &[0x56, 0x45, 0x20, 2, 0]] {
        assert_eq!(live(&mut reader, payload, NOW), Err(OpenError::NotEncrypted), "{payload:?}");
    }
    assert_eq!(live(&mut reader, b"VE\x10", NOW), Err(OpenError::Malformed("header")));
}

#[test]
fn envelope_kinds_this_receiver_does_not_have_are_malformed() {
    let payload = seal(&mut member(unsigned(2), default()), NOW);
    let mut reader = member(unsigned(1), default());
    for (index, bits) in [(2, 0x02), (4, 0x40), (4, 0x80)] {
        let mut other = payload.clone();
        other[index] |= bits;
        let result = live(&mut reader, &other, NOW);
        assert!(matches!(result, Err(OpenError::Malformed(_))), "byte {index} | {bits:#x}: {result:?}");
    }
}

#[test]
fn an_empty_message_is_a_tombstone_that_proves_nothing_with_or_without_retain() {
    let mut reader = member(unsigned(1), default());

    for opened in [retained(&mut reader, b"", NOW).unwrap(), live(&mut reader, b"", NOW).unwrap()] {
        assert!(opened.is_tombstone());
        assert_eq!(opened.authentication(), Authentication::None);
    }
}

#[test]
fn an_authentic_empty_message_is_a_tombstone_that_a_member_has_made() {
    for suite in Suite::ALL {
        let mut sender = member(unsigned(2), EnvelopeOptions { suite, ..default() });
        let payload = sender.seal(topic(TOPIC), b"", &plain(), NOW, &mut counter()).unwrap();

        let opened = retained(&mut member(unsigned(1), default()), &payload, NOW).unwrap();

        assert!(opened.is_tombstone());
        assert_eq!(opened.authentication(), Authentication::Group);
    }
}

#[test]
fn a_message_in_parts_is_whole_once_its_last_part_came_and_never_twice() {
    let options = EnvelopeOptions { chunk_bytes: NonZeroU32::new(10).unwrap(), ..default() };
    let mut sender = member(unsigned(2), options);
    let mut reader = member(unsigned(1), default());
    let mut parts = sender.seal_in_parts(topic(TOPIC), JSON, &plain(), NOW, &mut counter()).unwrap();
    assert_eq!(parts.len(), JSON.len().div_ceil(10));

    parts.reverse();
    let (last, others) = parts.split_last().unwrap();
    for part in others {
        assert_eq!(live(&mut reader, part, NOW), Err(OpenError::Incomplete));
        assert_eq!(live(&mut reader, part, NOW), Err(OpenError::Replay));
    }
    assert_eq!(live(&mut reader, last, NOW).unwrap().plaintext, JSON);

    assert_eq!(live(&mut reader, last, NOW), Err(OpenError::Replay));
    assert_eq!(retained(&mut reader, last, NOW), Err(OpenError::Malformed("chunk")));
}

#[test]
fn a_topic_inside_the_envelope_counts_and_must_lie_in_the_scope() {
    let options = EnvelopeOptions { inner_topic: true, ..default() };
    let mut sender = member(unsigned(2), options);
    let mut reader = member(unsigned(1), default());
    let elsewhere = topic("remote/line-3");
    let mut seal = |name| sender.seal(topic(name), JSON, &plain(), NOW, &mut counter()).unwrap();
    let (first, second) = (seal(TOPIC), seal("factory/line-3/other"));

    for (payload, name) in [(&first, TOPIC), (&second, "factory/line-3/other")] {
        assert!(reader.opens(elsewhere, payload));
        let opened = reader.open(elsewhere, payload, false, &plain(), NOW).unwrap();
        assert_eq!((opened.topic.as_deref(), &*opened.plaintext), (Some(name), JSON));
        assert_eq!(opened.origin().unwrap().gap, 0, "numbered for the whole scope");
    }
    assert_eq!(reader.open(topic(TOPIC), &first, false, &plain(), NOW), Err(OpenError::Replay));
    assert!(!reader.opens(elsewhere, &seal_plainly()));
}

/// An envelope that goes by the topic it came on.
fn seal_plainly() -> Vec<u8> {
    seal(&mut member(unsigned(3), default()), NOW)
}

#[test]
fn topics_outside_every_scope_are_neither_sealed_nor_opened() {
    let mut e2e = member(unsigned(1), default());
    let outside = topic("office/door");

    assert!(!e2e.publishes_sealed(outside));
    assert_eq!(e2e.seal(outside, JSON, &plain(), NOW, &mut counter()), Err(SealError::NoScope));
    assert_eq!(e2e.open(outside, JSON, false, &plain(), NOW), Err(OpenError::TopicMismatch));
}

#[test]
fn the_most_specific_scope_owns_a_topic_whatever_the_order_of_configuration() {
    for order in [["factory/#", SCOPE], [SCOPE, "factory/#"]] {
        let mut e2e = E2e::new(unsigned(1), Limits::default());
        for filter in order {
            let scope = Scope::new(filter).unwrap();
            e2e.add_scope(ScopeConfig::envelope(scope, keyring(), default())).unwrap();
        }
        assert_eq!(e2e.scope_of(topic(TOPIC)).map(Scope::as_str), Some(SCOPE));
        assert_eq!(e2e.scope_of(topic("factory/gate")).map(Scope::as_str), Some("factory/#"));

        let again = ScopeConfig::envelope(Scope::new(SCOPE).unwrap(), keyring(), default());
        assert_eq!(e2e.add_scope(again), Err(ConfigError::DuplicateScope));
        assert!(e2e.remove_scope(&Scope::new(SCOPE).unwrap()));
        assert_eq!(e2e.scope_of(topic(TOPIC)).map(Scope::as_str), Some("factory/#"));
    }
}

#[test]
fn a_scope_that_is_to_be_signed_can_only_be_read_without_an_identity() {
    let options = EnvelopeOptions { sign: true, ..default() };
    let mut reader = member(unsigned(1), options.clone());

    let refused = reader.seal(topic(TOPIC), JSON, &plain(), NOW, &mut counter());

    assert_eq!(refused, Err(SealError::NoIdentity));
    let payload = seal(&mut member(press(), options), NOW);
    let Member::Identity(identity) = press() else { panic!("the reference publisher has an identity") };
    assert_eq!(live(&mut reader, &payload, NOW), Err(OpenError::UnknownSender(identity.kid())));
    reader.directory_mut().pin(identity.certificate().clone());
    assert_eq!(live(&mut reader, &payload, NOW).unwrap().authentication(), Authentication::Signed);
}

const ACTIVE: u64 = NOW + 10_000_000;

fn two_epochs() -> Keyring {
    let mut keyring = keyring();
    keyring.insert(EPOCH + 1, GroupKey::new(&seed("next")), ACTIVE).expect("a newer epoch");
    keyring
}

#[test]
fn epochs_are_accepted_according_to_the_transition_window() {
    let timing = EpochTiming::default();
    let retire = ACTIVE + timing.transition_window_ms;
    let drop = retire + timing.history_ms;
    let gone = Err(OpenError::EpochDropped { epoch: EPOCH });
    let early = Err(OpenError::NoKey { epoch: EPOCH + 1 });
    // (now, live, retained, backlog, Will) for a message of the old epoch, then live for one of the new epoch.
    let rows = [
        (ACTIVE - timing.clock_skew_ms - 1, Ok(()), Ok(()), Ok(()), Ok(()), early),
        (ACTIVE - timing.clock_skew_ms, Ok(()), Ok(()), Ok(()), Ok(()), Ok(())),
        (ACTIVE, Ok(()), Ok(()), Ok(()), Ok(()), Ok(())),
        (retire - 1, Ok(()), Ok(()), Ok(()), Ok(()), Ok(())),
        (retire, gone, Ok(()), Ok(()), Ok(()), Ok(())),
        (drop - 1, gone, Ok(()), Ok(()), Ok(()), Ok(())),
        (drop, gone, gone, gone, gone, Ok(())),
    ];
    let mut sender = member_with(unsigned(2), SCOPE, two_epochs(), default());
    let old = seal(&mut sender, NOW);
    let will = sender.seal_will(topic(TOPIC), JSON, &plain(), NOW, &mut counter()).unwrap();
    let new = seal(&mut sender, ACTIVE);
    let backlog = EnvelopeOptions { backlog: true, ..default() };
    let reader = |options| member_with(unsigned(1), SCOPE, two_epochs(), options);
    for (now, as_live, as_retained, as_backlog, as_will, of_new) in rows {
        assert_eq!(live(&mut reader(default()), &old, now).map(drop_value), as_live, "live at {now}");
        assert_eq!(
            retained(&mut reader(default()), &old, now).map(drop_value),
            as_retained,
            "retained at {now}"
        );
        assert_eq!(
            live(&mut reader(backlog.clone()), &old, now).map(drop_value),
            as_backlog,
            "backlog at {now}"
        );
        assert_eq!(live(&mut reader(default()), &will, now).map(drop_value), as_will, "Will at {now}");
        assert_eq!(live(&mut reader(default()), &new, now).map(drop_value), of_new, "new epoch at {now}");
    }
}

fn drop_value(_: Opened) {}

#[test]
fn numbering_continues_over_an_epoch_change() {
    let mut sender = member_with(unsigned(2), SCOPE, two_epochs(), default());
    let mut reader = member_with(unsigned(1), SCOPE, two_epochs(), default());
    let old = seal(&mut sender, ACTIVE - 1);
    let lost = seal(&mut sender, ACTIVE - 1);
    let new = seal(&mut sender, ACTIVE);

    let first = *live(&mut reader, &old, ACTIVE).unwrap().origin().unwrap();
    let second = *live(&mut reader, &new, ACTIVE).unwrap().origin().unwrap();

    assert_eq!((first.epoch, first.seq, first.gap), (EPOCH, 0, 0));
    assert_eq!((second.epoch, second.seq, second.gap), (EPOCH + 1, 2, 1));
    assert_eq!(live(&mut reader, &lost, ACTIVE).unwrap().origin().unwrap().gap, 0);
}

#[test]
fn dropped_keys_leave_memory_with_the_keys_of_their_streams() {
    let mut e2e = member_with(unsigned(1), SCOPE, two_epochs(), default());
    let payload = seal(&mut member_with(unsigned(2), SCOPE, two_epochs(), default()), NOW);
    let again = seal(&mut member_with(unsigned(3), SCOPE, two_epochs(), default()), NOW);
    live(&mut e2e, &payload, NOW).unwrap();
    let drop_ms = e2e.keyring_mut(&Scope::new(SCOPE).unwrap()).unwrap().times(EPOCH).unwrap().drop_ms;

    assert_eq!(e2e.advance(NOW), Some(drop_ms));
    assert_eq!(e2e.advance(drop_ms), None);

    // Even a clock that is set back does not bring the key back.
    assert_eq!(retained(&mut e2e, &again, NOW), Err(OpenError::EpochDropped { epoch: EPOCH }));
}

#[test]
fn without_an_active_epoch_nothing_is_sealed() {
    let mut keyring = Keyring::explicit(EpochTiming::default());
    keyring.insert(1, GroupKey::new(&[1; 32]), NOW + 1).unwrap();
    let mut e2e = member_with(unsigned(1), SCOPE, keyring, default());

    assert_eq!(e2e.seal(topic(TOPIC), JSON, &plain(), NOW, &mut counter()), Err(SealError::NoKey));
    assert!(e2e.seal(topic(TOPIC), JSON, &plain(), NOW + 1, &mut counter()).is_ok());
}

#[test]
fn old_messages_are_refused_by_their_timestamp_unless_retained_or_wills() {
    let options = EnvelopeOptions { timestamp: true, max_age_ms: Some(1_000), ..default() };
    for (age, expected) in [(1_000, None), (1_001, Some(1_001)), (90_000, Some(90_000))] {
        let mut sender = member(unsigned(2), options.clone());
        let reader = || member(unsigned(1), options.clone());
        let payload = seal(&mut sender, NOW);
        let will = sender.seal_will(topic(TOPIC), JSON, &plain(), NOW, &mut counter()).unwrap();

        let refused = live(&mut reader(), &payload, NOW + age).err();
        assert_eq!(refused, expected.map(|age_ms| OpenError::TooOld { age_ms }));
        let from_the_future = live(&mut reader(), &payload, NOW - age).err();
        assert_eq!(from_the_future, expected.map(|age_ms| OpenError::TooOld { age_ms }));
        for opened in [retained(&mut reader(), &payload, NOW + age), live(&mut reader(), &will, NOW + age)] {
            assert_eq!(opened.unwrap().origin().unwrap().age_ms, Some(age));
        }
    }
}

#[test]
fn padded_messages_have_the_length_of_their_bucket_and_open_without_it() {
    let options = EnvelopeOptions { padding: Padding::PowersOfTwo, ..default() };
    let mut sender = member(unsigned(2), options);
    let mut reader = member(unsigned(1), default());
    for (length, bucket) in [(0, 64), (63, 64), (64, 128), (1_000, 1_024)] {
        let plaintext = vec![0; length];
        let payload = sender.seal(topic(TOPIC), &plaintext, &plain(), NOW, &mut counter()).unwrap();

        assert_eq!(payload.len(), 49 + bucket);
        assert_eq!(live(&mut reader, &payload, NOW).unwrap().plaintext, plaintext);
    }
}

fn anchors() -> TrustAnchors {
    let keys = IdentityKeys::from_seeds(&seed("ca"), &seed("ca"));
    let ca = CertificateFields { roles: Roles::CA, ..(*certificate("ca", &[])).clone() };
    let mut anchors = TrustAnchors::new();
    anchors.add(ca.sign(&keys).expect("a valid CA")).expect("self-signed");
    anchors
}

#[test]
fn only_known_senders_are_accepted_where_the_scope_demands_it() {
    let options = EnvelopeOptions { senders: SenderPolicy::Known, ..default() };
    let leaf = certificate("line 3", &["factory/line-3/sensor/#"]);
    let kid = leaf.kid();
    let mut sender = member(Member::Unsigned(kid), default());
    let unknown = Err(OpenError::UnknownSender(kid));

    let mut reader = member(unsigned(1), options);
    assert_eq!(live(&mut reader, &seal(&mut sender, NOW), NOW).map(drop_value), unknown);

    let refused = reader.directory_mut().introduce(leaf.clone(), &TrustAnchors::new(), NOW);
    assert!(matches!(refused, Err(CertificateError::UnknownIssuer(_))), "{refused:?}");
    assert_eq!(live(&mut reader, &seal(&mut sender, NOW), NOW).map(drop_value), unknown);

    assert_eq!(reader.directory_mut().introduce(leaf, &anchors(), NOW), Ok(kid));
    assert_eq!(live(&mut reader, &seal(&mut sender, NOW), NOW).map(drop_value), Ok(()));

    let elsewhere = topic("factory/line-3/actuator");
    let payload = sender.seal(elsewhere, JSON, &plain(), NOW, &mut counter()).unwrap();
    let outside_its_scopes = reader.open(elsewhere, &payload, false, &plain(), NOW);
    assert_eq!(outside_its_scopes.map(drop_value), unknown);

    let expired = 1_821_536_001_000;
    assert_eq!(live(&mut reader, &seal(&mut sender, expired), expired).map(drop_value), unknown);

    let payload = seal(&mut sender, NOW);
    reader.directory_mut().revoke(kid);
    assert_eq!(live(&mut reader, &payload, NOW), Err(OpenError::SenderRevoked(kid)));
}

#[test]
fn a_signature_counts_only_while_its_certificate_allows_it() {
    let keys = IdentityKeys::from_seeds(&seed("signer"), &seed("signer"));
    let leaf = certificate("signer", &["factory/line-3/sensor/#"]);
    let kid = leaf.kid();
    let signer = Member::Identity(Arc::new(Identity::new(leaf.clone(), keys).unwrap()));
    let mut sender = member(signer, EnvelopeOptions { sign: true, ..default() });
    let mut reader = member(unsigned(1), default());
    reader.directory_mut().pin(leaf);
    let elsewhere = topic("factory/line-3/actuator");
    let expired = 1_821_536_001_000;

    let payload = seal(&mut sender, NOW);
    assert_eq!(live(&mut reader, &payload, NOW).unwrap().authentication(), Authentication::Signed);

    let payload = sender.seal(elsewhere, JSON, &plain(), NOW, &mut counter()).unwrap();
    assert_eq!(reader.open(elsewhere, &payload, false, &plain(), NOW), Err(OpenError::UnknownSender(kid)));
    let payload = seal(&mut sender, expired);
    assert_eq!(live(&mut reader, &payload, expired), Err(OpenError::UnknownSender(kid)));
}

#[test]
fn debug_output_does_not_show_the_plaintext() {
    let payload = seal(&mut member(unsigned(2), default()), NOW);

    let shown = format!("{:?}", live(&mut member(unsigned(1), default()), &payload, NOW).unwrap());

    assert!(shown.contains("plaintext_len: 30") && !shown.contains("21.5"), "{shown}");
}

#[test]
fn a_list_of_senders_narrows_the_known_ones() {
    let (one, two) = (certificate("one", &[]), certificate("two", &[]));
    let listed = SenderPolicy::Listed(BTreeSet::from([one.kid()]));
    let mut reader = member(unsigned(1), EnvelopeOptions { senders: listed, ..default() });
    for (certificate, expected) in [(&one, None), (&two, Some(OpenError::UnknownSender(two.kid())))] {
        reader.directory_mut().pin(certificate.clone());
        let payload = seal(&mut member(Member::Unsigned(certificate.kid()), default()), NOW);
        assert_eq!(live(&mut reader, &payload, NOW).err(), expected);
    }
}

#[test]
fn a_revoked_sender_is_refused_even_where_any_member_may_send() {
    let mut reader = member(unsigned(1), default());
    let kid = Kid::from_bytes([2; 8]);
    let payload = seal(&mut member(unsigned(2), default()), NOW);

    reader.directory_mut().revoke(kid);

    assert_eq!(live(&mut reader, &payload, NOW), Err(OpenError::SenderRevoked(kid)));
    assert!(reader.directory().is_revoked(kid));
}

#[test]
fn forgotten_streams_are_counted() {
    let limits =
        Limits { replay: ReplayLimits { streams_max: 2, ..ReplayLimits::default() }, ..Limits::default() };
    let mut reader = E2e::new(unsigned(1), limits);
    let scope = Scope::new(SCOPE).unwrap();
    reader.add_scope(ScopeConfig::envelope(scope, keyring(), default())).unwrap();

    for kid in 2..6 {
        live(&mut reader, &seal(&mut member(unsigned(kid), default()), NOW), NOW).unwrap();
    }

    assert_eq!(reader.replay_evictions(), 2);
}

#[test]
fn every_receive_error_has_the_name_of_section_16() {
    let kid = Kid::from_bytes([1; 8]);
    let rows = [
        (OpenError::NotEncrypted, "NotEncrypted"),
        (OpenError::Malformed("type"), "Malformed"),
        (OpenError::TopicMismatch, "TopicMismatch"),
        (OpenError::NoKey { epoch: 1 }, "NoKey"),
        (OpenError::EpochDropped { epoch: 1 }, "EpochDropped"),
        (OpenError::UnknownSender(kid), "UnknownSender"),
        (OpenError::SenderRevoked(kid), "SenderRevoked"),
        (OpenError::BadTag, "BadTag"),
        (OpenError::Replay, "Replay"),
        (OpenError::SessionRollback, "SessionRollback"),
        (OpenError::RetainedRollback, "RetainedRollback"),
        (OpenError::TooOld { age_ms: 1 }, "TooOld"),
        (OpenError::BadLegacy, "BadLegacy"),
    ];
    for (error, name) in rows {
        assert_eq!(error.name(), name);
    }
}
