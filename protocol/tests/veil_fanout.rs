//! FAN-D, the digest fan-out of VEIL-1 sections 6.1 to 6.3.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use proptest::prelude::*;
use std::num::{NonZeroU16, NonZeroU32};
use veil_common::{
    bytes,
    handshake::encode,
    hex,
    records::{MAX, pair, refuses_every_flip, suite_of, vector_secret},
    text, vectors,
};
use veilmq_protocol::{
    Packet, PacketId, ProtocolVersion, Publish, PublishHead, PublishProperties, QoS, SubscriptionIdsBuf,
    TopicName, UserPropertiesBuf, next_frame,
    veil::{
        Scheme, Suite,
        channel::{
            Content, FanDelivery, OpenedRecord, RecordError, RecordOpener, RecordSealer, RecordTag, Secret32,
            Side, gbody_digest,
        },
        fanout::{join, put_shared_properties, put_subscriber_header},
        record::{SharedBody, SubscriberHeader},
    },
};

/// The message of the vectors: its topic, and its payload, which is an envelope.
const TOPIC: &str = "factory/line-3/sensor/temperature";

fn vector_body(head: &mut Vec<u8>) -> Vec<u8> {
    let payload = bytes(&vectors(), "/envelope/cases/chacha20-poly1305/hex");
    let body = SharedBody { stamp: None, topic: TOPIC.as_bytes(), properties: &[], payload: &payload };
    body.encode_head(head).unwrap();
    payload
}

fn head(packet_id: Option<PacketId>) -> PublishHead<'static> {
    PublishHead {
        dup: false,
        qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        retain: false,
        packet_id,
        topic: TOPIC.as_bytes(),
        topic_alias: None,
        message_expiry_seconds: None,
        subscription_ids: &[],
        application_properties: &[],
        payload_len: 0,
    }
}

#[test]
fn fan_out_records_are_those_of_the_vectors_byte_for_byte() {
    let vectors = vectors();
    let mut shared = Vec::new();
    let payload = vector_body(&mut shared);
    let mut header = Vec::new();
    put_subscriber_header(&head(PacketId::new(21)), &mut header).unwrap();
    let digest = gbody_digest(&[&shared, &payload]);
    assert_eq!(hex(&header), text(&vectors, "/record/header_i"));
    assert_eq!(hex(&[shared.as_slice(), &payload].concat()), text(&vectors, "/record/gbody"));
    assert_eq!(hex(&digest), text(&vectors, "/record/digest"));
    for number in ["1", "2", "3"] {
        let suite = suite_of(number);
        let mut sealer = RecordSealer::new(suite, Scheme::Four, vector_secret("/handshake/s_ap"));
        let mut opener =
            RecordOpener::new(Side::Client, suite, Scheme::Four, vector_secret("/handshake/s_ap"));

        let mut record = Vec::new();
        let tag = sealer.fan_d(&mut record, &header, &digest, shared.len() + payload.len()).unwrap();
        record.extend_from_slice(&shared);
        record.extend_from_slice(&payload);
        record.extend_from_slice(tag.as_ref());

        assert_eq!(hex(&record), text(&vectors, &format!("/record/FAN_D/{number}")), "suite {number}");
        let delivery = fan(&mut opener, &mut record).unwrap();
        let publish = delivery.publish(&record).unwrap();
        assert_eq!(
            hex(&encode(&Packet::Publish(publish))),
            text(&vectors, "/record/publish").replace("000a00", "001500")
        );
    }
}

fn fan(opener: &mut RecordOpener, record: &mut [u8]) -> Result<FanDelivery, RecordError> {
    let len = record.len();
    match opener.next(record, MAX)?.expect("the record is whole") {
        OpenedRecord { consumed, content: Content::Fan(delivery) } => {
            assert_eq!(consumed, len);
            Ok(delivery)
        }
        other => panic!("not a fan-out: {other:?}"),
    }
}

#[test]
fn group_body_is_that_of_the_vectors() {
    let vectors = vectors();
    let bytes = bytes(&vectors, "/record/gbody_group");

    let body = SharedBody::parse(&bytes).unwrap();

    let stamp = body.stamp.unwrap();
    assert_eq!((stamp.gid, stamp.epoch, stamp.sequence, stamp.broker_unix_ms), (5, 2, 77, 1_790_000_400_000));
    let mut again = Vec::new();
    body.encode_head(&mut again).unwrap();
    again.extend_from_slice(body.payload);
    assert_eq!(again, bytes);
}

fn fan_record(sealer: &mut RecordSealer, head: &PublishHead<'_>, payload: &[u8]) -> Vec<u8> {
    let mut properties = Vec::new();
    put_shared_properties(
        head.application_properties,
        head.message_expiry_seconds.map(|left| left + 9),
        &mut properties,
    );
    let mut shared = Vec::new();
    let body = SharedBody { stamp: None, topic: head.topic, properties: &properties, payload };
    body.encode_head(&mut shared).unwrap();
    let mut header = Vec::new();
    put_subscriber_header(head, &mut header).unwrap();
    let mut record = Vec::new();
    let digest = gbody_digest(&[&shared, payload]);
    let tag: RecordTag = sealer.fan_d(&mut record, &header, &digest, shared.len() + payload.len()).unwrap();
    record.extend_from_slice(&shared);
    record.extend_from_slice(payload);
    record.extend_from_slice(tag.as_ref());
    record
}

#[test]
fn every_flipped_bit_of_a_fan_out_record_is_refused() {
    for suite in Suite::ALL {
        let (mut sealer, _) = pair(suite, Scheme::Four, Side::Client);
        let good = fan_record(&mut sealer, &head(PacketId::new(1)), b"payload");

        refuses_every_flip(&good, || pair(suite, Scheme::Four, Side::Client).1);
    }
}

/// The group form belongs to FAN-G, where its stamp is checked.
#[test]
fn group_form_in_a_digest_fan_out_is_refused() {
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Client);
    let body = bytes(&vectors(), "/record/gbody_group");
    let mut record = Vec::new();
    let tag = sealer.fan_d(&mut record, b"\x00\x00\x00", &gbody_digest(&[&body]), body.len()).unwrap();
    record.extend_from_slice(&body);
    record.extend_from_slice(tag.as_ref());

    assert_eq!(opener.next(&mut record, MAX), Err(RecordError::Authentication));
}

#[test]
fn fan_out_record_of_another_subscriber_is_refused() {
    let (mut sealer, _) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Client);
    let mut record = fan_record(&mut sealer, &head(None), b"payload");
    let other = Secret32::new(&[1; 32]);
    let mut opener = RecordOpener::new(Side::Client, Suite::Aes256Gcm, Scheme::Four, other);

    assert_eq!(opener.next(&mut record, MAX), Err(RecordError::Authentication));
}

#[test]
fn malformed_halves_of_a_fan_out_are_refused() {
    let good_header = b"\x00\x00\x00";
    let good_body = b"\x00\x00\x01a\x00\x00\x00\x00payload";
    assert!(join(good_header, good_body).is_ok());
    for header in [
        &b""[..],
        b"\x06\x00\x01\x00\x00",
        b"\x10\x00\x00",
        b"\x02\x00\x00\x00\x00",
        b"\x00\x00\x00x",
        b"\x00\x00\x02\x0b\x00",
        b"\x00\x00\x03\x23\x00\x01",
        b"\x00\x00\x05\x26\x00\x00\x00\x00",
    ] {
        assert!(join(header, good_body).is_err(), "{header:02x?}");
    }
    for body in [
        &b""[..],
        b"\x02\x00\x01a\x00\x00\x00\x00",
        b"\x00\x00\x01#\x00\x00\x00\x00",
        b"\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x01a\x00\x00\x00\x01",
        b"\x00\x00\x01a\x00\x00\x00\x02\x0b\x01",
        b"\x00\x00\x01\xff\x00\x00\x00\x00",
    ] {
        assert!(join(good_header, body).is_err(), "{body:02x?}");
    }
}

#[derive(Debug)]
struct Message {
    qos: QoS,
    dup: bool,
    retain: bool,
    packet_id: u16,
    expiry: Option<u32>,
    ids: Vec<u32>,
    utf8: Option<bool>,
    response: Option<String>,
    correlation: Option<Vec<u8>>,
    content_type: Option<String>,
    user: Vec<(String, String)>,
    payload: Vec<u8>,
}

fn any_message() -> impl Strategy<Value = Message> {
    let flags = (0..3_u8, any::<bool>(), any::<bool>(), 1..=u16::MAX);
    let delivery = (prop::option::of(0..u32::MAX - 9), prop::collection::vec(1..268_435_455_u32, 0..4));
    let texts = (any::<Option<bool>>(), prop::option::of("[a-z/]{1,9}"), prop::option::of("[a-z/]{0,9}"));
    let rest = (
        prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
        prop::collection::vec(("[a-z]{0,5}", "[a-z]{0,5}"), 0..4),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    (flags, delivery, texts, rest).prop_map(|(flags, delivery, texts, rest)| Message {
        qos: QoS::try_from(flags.0).unwrap(),
        dup: flags.1 && flags.0 > 0,
        retain: flags.2,
        packet_id: flags.3,
        expiry: delivery.0,
        ids: delivery.1,
        utf8: texts.0,
        response: texts.1,
        content_type: texts.2,
        correlation: rest.0,
        user: rest.1,
        payload: rest.2,
    })
}

proptest! {
    /// The differential check: what a FAN-D subscriber sees is what an ordinary one would.
    #[test]
    fn publish_rebuilt_from_a_fan_out_is_the_original(message in any_message()) {
        let mut user = UserPropertiesBuf::default();
        for (name, value) in &message.user {
            user.push(name, value).unwrap();
        }
        let mut ids = SubscriptionIdsBuf::new();
        for &id in &message.ids {
            ids.push(NonZeroU32::new(id).unwrap()).unwrap();
        }
        let packet_id = (message.qos != QoS::AtMostOnce).then(|| PacketId::new(message.packet_id).unwrap());
        let original = Publish {
            dup: message.dup,
            qos: message.qos,
            retain: message.retain,
            topic: Some(TopicName::new(TOPIC).unwrap()),
            packet_id,
            properties: PublishProperties {
                payload_is_utf8: message.utf8,
                message_expiry_seconds: message.expiry,
                topic_alias: None::<NonZeroU16>,
                response_topic: message.response.as_deref().map(|topic| TopicName::new(topic).unwrap()),
                correlation_data: message.correlation.as_deref(),
                content_type: message.content_type.as_deref(),
                subscription_ids: ids.as_subscription_ids(),
                user: user.as_user_properties(),
                sent: Default::default(),
            },
            payload: &message.payload,
        };
        let mut application = Vec::new();
        original.properties.encode_application(&mut application).unwrap();
        let head = PublishHead {
            dup: message.dup,
            qos: message.qos,
            retain: message.retain,
            packet_id,
            topic: TOPIC.as_bytes(),
            topic_alias: None,
            message_expiry_seconds: message.expiry,
            subscription_ids: &message.ids,
            application_properties: &application,
            payload_len: message.payload.len(),
        };
        let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Client);

        let mut record = fan_record(&mut sealer, &head, &message.payload);
        let delivery = fan(&mut opener, &mut record).unwrap();
        let rebuilt = delivery.publish(&record).unwrap();

        prop_assert_eq!(rebuilt, original);
        let packet = encode(&Packet::Publish(rebuilt));
        let (frame, _) = next_frame(&packet, MAX).unwrap().unwrap();
        prop_assert_eq!(Packet::decode(frame, ProtocolVersion::V5).unwrap(), Packet::Publish(original));
    }

    #[test]
    fn parsing_arbitrary_fan_out_parts_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = SharedBody::parse(&bytes);
        let _ = SubscriberHeader::parse(&bytes);
        let _ = join(&bytes, &bytes);
        let _ = join(b"\x00\x00\x00", &bytes);
    }
}
