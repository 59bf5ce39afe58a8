//! Values as bytes and back, and bytes that are none.

use proptest::prelude::{any, prop};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;

/// A value of each kind, as bytes.
fn samples() -> [Vec<u8>; 6] {
    let will = WillRecord {
        topic: "will".into(),
        payload: vec![1, 2, 3],
        application_properties: vec![0x01, 0x01],
        message_expiry_seconds: Some(4),
        qos: QoS::ExactlyOnce,
        retain: true,
        delay_seconds: 5,
    };
    let head = SessionRecord {
        session: SessionId(1),
        client_id: "client".into(),
        authenticated: true,
        user: Some("user".into()),
        expiry_seconds: 60,
        disconnected_at: Some(Moment::from_milliseconds(7)),
        will: Some(will),
        last_identifier: 513,
    };
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let subscription = SubscriptionRecord { options, subscription_id: Some(9) };
    let source = Arc::new(Source {
        client_id: "c".into(),
        user: Some("u".into()),
        listener: Some("127.0.0.1:1883".into()),
        is_vouched: true,
        certificate: Some(Arc::new(CertificateFields::new([
            (CertificateField::CommonName, "m7".into()),
            (CertificateField::Serial, "0A".into()),
        ]))),
    });
    let parts = MessageParts {
        id: None,
        publisher: None,
        source: Some(&source),
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "a/b",
        application_properties: &[0x01, 0x00],
        payload: b"payload",
        expiry: Some(Expiry { at: Moment::from_milliseconds(8), interval_seconds: 2 }),
    };
    let message = Message::new(&parts, 0);
    let stage = Stage::Released(PacketId::new(3).unwrap());
    let reference = Reference {
        session: SessionId(1),
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: vec![4, 5],
        share: None,
        stage,
    };
    let shared = Reference { share: Some("$share/g/a/#".into()), ..reference.clone() };
    [
        Value::Session(&head),
        Value::Subscription("a/+", &subscription),
        Value::Retained(&message),
        Value::Reference(&reference),
        Value::Reference(&shared),
        Value::Message(&message),
    ]
    .map(encoded)
}

fn encoded(value: Value<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

/// Reads the bytes as a value of the given kind and writes it again.
fn rewritten(kind: usize, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind {
        0 => decode_session(SessionId(1), bytes).map(|head| encoded(Value::Session(&head))),
        1 => decode_subscription(bytes)
            .map(|(filter, subscription)| encoded(Value::Subscription(filter, &subscription))),
        2 => decode_retained(bytes).map(|message| encoded(Value::Retained(&message))),
        5 => decode_message(MessageId(1), bytes).map(|message| encoded(Value::Message(&message))),
        _ => decode_reference(SessionId(1), bytes).map(|reference| encoded(Value::Reference(&reference))),
    }
}

#[test]
fn what_was_written_is_read_and_no_part_of_it_is() {
    for (kind, bytes) in samples().into_iter().enumerate() {
        assert_eq!(rewritten(kind, &bytes).as_ref(), Some(&bytes));
        // A reference ends in a list without a length, so it can lose whole identifiers unnoticed here; the row's
        // checksum notices.
        for len in
            (0..bytes.len()).filter(|len| !matches!(kind, 3 | 4) || !(bytes.len() - len).is_multiple_of(4))
        {
            assert_eq!(rewritten(kind, &bytes[..len]), None, "value {kind}, {len} bytes");
        }
    }
}

#[test]
fn a_queued_reference_is_one_byte_and_four_for_each_identifier() {
    let reference = decode_reference(SessionId(1), &[1]).unwrap();
    let subscription_ids = vec![4, 5];

    assert_eq!((reference.qos, reference.stage), (QoS::AtLeastOnce, Stage::Queued));
    assert_eq!(encoded(Value::Reference(&reference)), [1]);
    let reference = Reference { subscription_ids, ..reference };
    assert_eq!(encoded(Value::Reference(&reference)).len(), 9);
    assert!(!Value::Reference(&reference).is_shared());
    let shared = Reference { share: Some("$share/g/a".into()), ..reference };
    assert!(Value::Reference(&shared).is_shared());
}

#[test]
fn a_body_says_nothing_of_whose_it_is_and_a_retained_message_of_before_neither() {
    let [_, _, retained, _, _, message] = samples();

    let read = decode_retained(&message).unwrap();

    assert!(read.source().is_none());
    assert_eq!(encoded(Value::Retained(&read)), message);
    assert_eq!(rewritten(5, &retained), None);
    let source = decode_retained(&retained).unwrap().source().map(|source| (**source).clone()).unwrap();
    assert_eq!((&*source.client_id, source.user.as_deref()), ("c", Some("u")));
    assert_eq!(source.listener.as_deref(), Some("127.0.0.1:1883"));
    assert!(source.is_vouched);
    assert_eq!(source.certificate.unwrap().field(CertificateField::Serial), Some("0A"));
}

#[test]
fn a_name_that_no_client_could_have_sent_is_refused() {
    let [_, subscription, retained, _, shared, message] = samples();
    let replace = |bytes: &[u8], from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    };

    assert_eq!(rewritten(1, &replace(&subscription, b"a/+", b"a+/")), None);
    assert_eq!(rewritten(2, &replace(&retained, b"a/b", b"a/#")), None);
    assert_eq!(rewritten(5, &replace(&message, b"a/b", b"a/#")), None);
    assert_eq!(rewritten(5, &replace(&message, b"a/b", b"a/\xff")), None);
    assert_eq!(rewritten(4, &replace(&shared, b"$share", b"$shard")), None);
}

proptest! {
    #[test]
    fn any_bytes_give_nothing_or_a_value_that_is_written_the_same(
        kind in 0_usize..6,
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        if let Some(again) = rewritten(kind, &bytes) {
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_changed_byte_gives_nothing_or_another_value(
        kind in 0_usize..6,
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let original = samples()[kind].clone();
        let mut bytes = original.clone();
        bytes[at.index(original.len())] ^= change;
        let again = rewritten(kind, &bytes);
        prop_assert!(again.is_none_or(|again| again != original));
    }
}
