//! What a bridge sends to another broker, to the byte: as Mosquitto's bridges do, whose brokers and tests are used to it.

use std::sync::Arc;

use veilmq_bridge::{Direction, Event, Fault, Link, Mapping, Settings, Side};
use veilmq_protocol::{ProtocolVersion, QoS, ReasonCode};

use crate::rig::settings;

pub(crate) fn sample(version: ProtocolVersion) -> Settings {
    let map = |pattern, direction, qos, local, remote| {
        Mapping::new(pattern, direction, qos, local, remote).unwrap()
    };
    let mut settings = settings(
        version,
        vec![
            map("bridge/#", Direction::Both, QoS::AtLeastOnce, "", ""),
            map("out/#", Direction::Out, QoS::ExactlyOnce, "lp/", "rp/"),
        ],
    );
    settings.remote.says_bridge = true;
    settings.remote.client_id = "bsamp".into();
    settings.remote.session_expiry_seconds = None;
    settings.remote.notification_topic = Some("$SYS/broker/connection/bsamp/state".into());
    settings.remote.unsubscribes = true;
    settings
}

const TOPIC: &[u8] = b"\x00\x22$SYS/broker/connection/bsamp/state";

pub(crate) fn hex(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn connect_has_the_bit_of_bridges_and_the_will_that_tells_of_the_end() {
    let mut link = Link::open(Arc::new(sample(ProtocolVersion::V311)), 0, 0).unwrap();

    let head = b"\x10\x38\x00\x04MQTT\x84\x2c\x00\x3c\x00\x05bsamp";
    assert_eq!(link.output(Side::Remote).split(), hex(&[head, TOPIC, b"\x00\x010"]));
    assert!(!link.wants_local());
}

#[test]
fn connect_of_mqtt_5_has_the_receive_maximum_the_maximum_packet_size_and_the_mark() {
    let mut link = Link::open(Arc::new(sample(ProtocolVersion::V5)), 0, 0).unwrap();

    let head = b"\x10\x5f\x00\x04MQTT\x05\x2c\x00\x3c\x25\x21\x00\x14\x27\x00\x0f\x42\x40\
        \x26\x00\x0dveilmq-bridge\x00\x0bhere/bridge\x00\x05bsamp\x00";
    assert_eq!(link.output(Side::Remote).split(), hex(&[head, TOPIC, b"\x00\x010"]));
}

#[test]
fn after_connack_come_the_notification_the_subscriptions_and_the_unsubscriptions() {
    for (version, connack, expected) in [
        (
            ProtocolVersion::V311,
            b"\x20\x02\x00\x00".as_slice(),
            hex(&[
                &[0x33, 0x27],
                TOPIC,
                b"\x00\x011",
                b"\x82\x0d\x00\x02\x00\x08bridge/#\x01",
                b"\xa2\x0c\x00\x03\x00\x08rp/out/#",
            ]),
        ),
        (
            ProtocolVersion::V5,
            b"\x20\x03\x00\x00\x00",
            hex(&[
                &[0x33, 0x28],
                TOPIC,
                b"\x00\x01\x001",
                b"\x82\x0e\x00\x02\x00\x00\x08bridge/#\x0d",
                b"\xa2\x0d\x00\x03\x00\x00\x08rp/out/#",
            ]),
        ),
    ] {
        let mut link = Link::open(Arc::new(sample(version)), 0, 0).unwrap();
        link.output(Side::Remote).clear();

        link.receive(Side::Remote, connack, 1).unwrap();

        assert_eq!(link.output(Side::Remote).split(), expected, "{version:?}");
        assert!(link.wants_local());
    }
}

#[test]
fn packets_of_the_bridge_and_messages_have_one_running_number_from_link_to_link() {
    let mut link = relaying(sample(ProtocolVersion::V311));
    assert_eq!(link.last_identifier(), 3);
    link.receive(Side::Local, b"\x32\x0e\x00\x08bridge/x\x00\x04\x00a", 1).unwrap();
    link.receive(Side::Local, b"\x32\x0e\x00\x08bridge/x\x00\x05\x00b", 1).unwrap();
    // What is sent again is no new message.
    link.receive(Side::Local, b"\x3a\x0e\x00\x08bridge/x\x00\x04\x00a", 1).unwrap();

    let mut next = Link::open(Arc::new(sample(ProtocolVersion::V311)), link.last_identifier(), 2).unwrap();
    next.output(Side::Remote).clear();
    next.receive(Side::Remote, b"\x20\x02\x00\x00", 2).unwrap();

    let own = hex(&[
        &[0x33, 0x27],
        TOPIC,
        b"\x00\x061",
        b"\x82\x0d\x00\x07\x00\x08bridge/#\x01",
        b"\xa2\x0c\x00\x08\x00\x08rp/out/#",
    ]);
    assert_eq!(next.output(Side::Remote).split(), own);
}

#[test]
fn what_has_to_wait_on_one_side_keeps_no_answer_from_what_has_to_wait_on_the_other() {
    let mut link = Link::open(Arc::new(sample(ProtocolVersion::V311)), 0, 0).unwrap();
    link.receive(Side::Remote, b"\x20\x02\x01\x00", 0).unwrap();
    // This broker takes one message at a time.
    link.receive(Side::Local, b"\x20\x06\x00\x00\x03\x21\x00\x01", 0).unwrap();
    link.output(Side::Local).clear();
    link.output(Side::Remote).clear();
    let to_remote =
        |id: u8, payload: u8| [&[0x32, 0x0e][..], b"\x00\x08bridge/x", &[0, id, 0, payload]].concat();
    let to_local = |id: u8, payload: u8| [&[0x32, 0x0d][..], b"\x00\x08bridge/y", &[0, id, payload]].concat();

    // Identifier 2 is that of a SUBSCRIBE which the other broker has not answered.
    link.receive(Side::Local, &to_remote(2, b'a'), 1).unwrap();
    link.receive(Side::Local, &to_remote(4, b'b'), 1).unwrap();
    link.receive(Side::Remote, &to_local(7, b'c'), 1).unwrap();
    link.receive(Side::Remote, &to_local(8, b'd'), 1).unwrap();
    assert_eq!(link.output(Side::Remote).split(), b"".as_slice(), "both sides wait");
    assert!(link.reads(Side::Local) && link.reads(Side::Remote));
    link.output(Side::Local).clear();
    link.receive(Side::Remote, &to_local(9, b'z'), 1).unwrap();
    link.receive(Side::Remote, b"\x90\x03\x00\x02\x01", 2).unwrap();

    assert_eq!(
        link.output(Side::Remote).split(),
        hex(&[b"\x32\x0d\x00\x08bridge/x\x00\x02a", b"\x32\x0d\x00\x08bridge/x\x00\x04b"])
    );
    link.receive(Side::Local, b"\x40\x02\x00\x07", 2).unwrap();
    assert_eq!(link.output(Side::Remote).split(), b"\x40\x02\x00\x07".as_slice());
    let crossed = link.output(Side::Local).split();
    assert!(crossed.ends_with(b"d") && !crossed.contains(&b'z'), "one at a time, in order");
}

#[test]
fn a_publish_above_the_limit_keeps_no_answer_from_what_has_to_wait_on_the_other_side() {
    // [E07] [E08]
    let mut settings = sample(ProtocolVersion::V311);
    settings.remote.packet_bytes_max = 300;
    let mut link = Link::open(Arc::new(settings), 0, 0).unwrap();
    link.receive(Side::Remote, b"\x20\x02\x01\x00", 0).unwrap();
    // This broker takes one message at a time.
    link.receive(Side::Local, b"\x20\x06\x00\x00\x03\x21\x00\x01", 0).unwrap();
    link.output(Side::Remote).clear();
    // Identifier 2 is that of a SUBSCRIBE which the other broker has not answered.
    link.receive(Side::Local, b"\x32\x0e\x00\x08bridge/x\x00\x02\x00a", 1).unwrap();
    link.receive(Side::Remote, b"\x32\x0d\x00\x08bridge/y\x00\x07c", 1).unwrap();
    link.receive(Side::Remote, b"\x32\x0d\x00\x08bridge/y\x00\x08d", 1).unwrap();
    let large = hex(&[b"\x32\xc8\x02\x00\x08bridge/y\x00\x09", &[b'x'; 316]]);

    for part in large.chunks(100) {
        assert!(link.reads(Side::Remote));
        link.receive(Side::Remote, part, 1).unwrap();
    }
    link.receive(Side::Remote, b"\x90\x03\x00\x02\x01", 2).unwrap();

    assert_eq!(link.output(Side::Remote).split(), b"\x32\x0d\x00\x08bridge/x\x00\x02a".as_slice());
    link.receive(Side::Local, b"\x40\x02\x00\x07", 3).unwrap();
    assert!(link.output(Side::Local).split().ends_with(b"d"));
    assert_eq!(link.output(Side::Remote).split(), b"\x40\x02\x00\x07\x40\x02\x00\x09".as_slice());
}

#[test]
fn what_waits_behind_a_message_that_has_to_wait_is_bounded() {
    let mut link = Link::open(Arc::new(sample(ProtocolVersion::V311)), 0, 0).unwrap();
    link.receive(Side::Remote, b"\x20\x02\x01\x00", 0).unwrap();
    link.receive(Side::Local, b"\x20\x03\x00\x00\x00", 0).unwrap();
    link.output(Side::Remote).clear();
    link.receive(Side::Local, b"\x32\x0e\x00\x08bridge/x\x00\x02\x00a", 1).unwrap();
    // 60,000 bytes each, at QoS 0.
    let large = [&b"\x30\xe0\xd4\x03\x00\x08bridge/x\x00"[..], &[b'x'; 59_989]].concat();

    let mut taken = 0;
    while link.reads(Side::Local) {
        link.receive(Side::Local, &large, 1).unwrap();
        taken += 1;
    }

    assert_eq!(taken, 18, "a mebibyte");
    link.receive(Side::Remote, b"\x90\x03\x00\x02\x01", 2).unwrap();
    assert!(link.output(Side::Remote).len() >= 1024 * 1024, "they cross when it does");
}

#[test]
fn this_broker_hears_of_the_bridge_as_often_as_it_wants() {
    let mut link = Link::open(Arc::new(sample(ProtocolVersion::V311)), 0, 0).unwrap();
    link.receive(Side::Remote, b"\x20\x02\x00\x00", 0).unwrap();
    link.receive(Side::Local, b"\x20\x06\x00\x00\x03\x13\x00\x0a", 0).unwrap();
    link.output(Side::Local).clear();

    link.tick(10_000).unwrap();

    assert_eq!(link.output(Side::Local).split(), b"\xc0\x00".as_slice());
    assert!(!link.output(Side::Remote).ends_with(b"\xc0\x00"));
}

#[test]
fn a_refusal_ends_the_link_and_is_named() {
    let mut link = Link::open(Arc::new(sample(ProtocolVersion::V311)), 0, 0).unwrap();

    let fault = link.receive(Side::Remote, b"\x20\x02\x00\x01", 1).unwrap_err();

    let expected = Fault::Refused { side: Side::Remote, reason: ReasonCode::UnsupportedProtocolVersion };
    assert_eq!(fault, expected);
    assert_eq!(fault.to_string(), "the other broker refused the connection: Unsupported Protocol Version");
}

/// A link between two brokers that do whatever a test says.
pub(crate) fn relaying(settings: Settings) -> Link {
    let version = settings.remote.version;
    let mut link = Link::open(Arc::new(settings), 0, 0).unwrap();
    let connack: &[u8] = match version {
        ProtocolVersion::V5 => b"\x20\x03\x00\x00\x00",
        ProtocolVersion::V31 | ProtocolVersion::V311 => b"\x20\x02\x00\x00",
    };
    link.receive(Side::Remote, connack, 0).unwrap();
    link.receive(Side::Local, b"\x20\x03\x00\x00\x00", 0).unwrap();
    assert_eq!(link.next_event(), Some(Event::Up));
    link.output(Side::Remote).clear();
    link.output(Side::Local).clear();
    link
}

#[test]
fn a_silent_broker_is_asked_and_then_given_up() {
    let mut link = relaying(sample(ProtocolVersion::V311));

    assert_eq!(link.deadline(), Some(60_000));
    link.tick(59_999).unwrap();
    assert!(link.output(Side::Remote).is_empty());
    link.tick(60_000).unwrap();
    assert_eq!(link.output(Side::Remote).split(), b"\xc0\x00".as_slice());
    link.receive(Side::Remote, b"\xd0\x00", 60_010).unwrap();
    link.tick(120_000).unwrap();
    assert_eq!(link.output(Side::Remote).split(), b"\xc0\x00".as_slice());

    let fault = link.tick(180_000).unwrap_err();

    assert_eq!(fault, Fault::Silent { side: Side::Remote, packet: "PINGREQ" });
}

#[test]
fn faults_of_the_other_broker_end_the_link_with_their_name() {
    let table: [(&[u8], &str); 8] = [
        (b"\xe0\x02\x8b\x00", "the other broker ended the connection: Server shutting down"),
        (b"\xa2\x06\x00\x01\x00\x00\x01a", "the other broker sent UNSUBSCRIBE, which it must not send now"),
        (b"\x20\x03\x00\x00\x00", "the other broker sent CONNACK, which it must not send now"),
        (b"\x36\x05\x00\x01tx\x00", "the other broker sent a malformed packet: fixed header flags"),
        (b"\x30\x06\x00\x00\x03\x23\x00\x07", "the other broker sent a malformed packet: Topic Alias"),
        (b"\x90\xff\xff\xff\x7f", "the other broker sent a malformed packet: "),
        (b"\x36\xff\xff\xff\x7f", "the other broker sent a malformed packet: fixed header flags"),
        (
            b"\x32\xff\xff\xff\x7f\x00\x01t\x00\x00",
            "the other broker sent a malformed packet: Packet Identifier",
        ),
    ];
    for (bytes, expected) in table {
        let mut link = relaying(sample(ProtocolVersion::V5));

        let fault = link.receive(Side::Remote, bytes, 1).unwrap_err().to_string();

        assert!(fault.starts_with(expected), "{bytes:02x?}: {fault}");
    }
}

#[test]
fn refusals_of_subscriptions_and_messages_are_told() {
    let mut link = relaying(sample(ProtocolVersion::V5));

    link.receive(Side::Remote, b"\x90\x04\x00\x02\x00\x87", 1).unwrap();
    link.receive(Side::Local, b"\x32\x0e\x00\x08bridge/x\x00\x07\x00x", 1).unwrap();
    link.receive(Side::Remote, b"\x40\x03\x00\x07\x87", 1).unwrap();

    let reason = ReasonCode::NotAuthorized;
    let filter = "bridge/#".to_owned();
    let subscription = Event::SubscriptionRefused { side: Side::Remote, filter, reason };
    assert_eq!(link.next_event(), Some(subscription));
    assert_eq!(link.next_event(), Some(Event::MessageRefused { side: Side::Remote, reason }));
    assert_eq!(link.output(Side::Local).split(), b"\x40\x03\x00\x07\x87".as_slice());
}

#[test]
fn a_message_is_not_acknowledged_while_the_other_side_has_no_room() {
    let mut link = relaying(sample(ProtocolVersion::V5));
    link.receive(Side::Remote, b"\x32\x0e\x00\x08bridge/x\x00\x07\x00x", 1).unwrap();

    let fault = link.receive(Side::Local, b"\x40\x03\x00\x07\x97", 1).unwrap_err();

    assert_eq!(fault, Fault::Overloaded { side: Side::Local, reason: ReasonCode::QuotaExceeded });
    assert!(link.output(Side::Remote).is_empty());
}

#[test]
fn aliases_of_the_other_broker_are_understood_as_far_as_it_was_told() {
    let mut settings = sample(ProtocolVersion::V5);
    settings.remote.topic_alias_maximum = 1;
    settings.mark = None;
    let mut link = relaying(settings);

    link.receive(Side::Remote, b"\x30\x0f\x00\x08bridge/x\x03\x23\x00\x01a", 1).unwrap();
    link.receive(Side::Remote, b"\x30\x07\x00\x00\x03\x23\x00\x01b", 1).unwrap();
    assert_eq!(
        link.output(Side::Local).split(),
        b"\x30\x0c\x00\x08bridge/x\x00a\x30\x0c\x00\x08bridge/x\x00b".as_slice()
    );

    assert!(link.receive(Side::Remote, b"\x30\x0f\x00\x08bridge/x\x03\x23\x00\x02c", 1).is_err());
}

#[test]
fn nothing_is_read_from_one_side_while_the_other_takes_nothing() {
    let mut link = relaying(sample(ProtocolVersion::V311));
    let payload = vec![b'x'; 100_000];
    let mut publish = vec![0x30];
    let mut length = payload.len() + 10;
    while length > 0 {
        publish.push((length & 0x7f) as u8 | if length > 0x7f { 0x80 } else { 0 });
        length >>= 7;
    }
    publish.extend_from_slice(b"\x00\x08bridge/x");
    publish.extend_from_slice(&payload);

    for _ in 0..20 {
        link.receive(Side::Remote, &publish, 1).unwrap();
    }

    assert!(!link.reads(Side::Remote));
    assert!(link.reads(Side::Local));
    assert!(link.output(Side::Local).len() < 1_200_000);
    let mut written = 0;
    while !link.output(Side::Local).is_empty() {
        written += link.output(Side::Local).split().len();
        link.proceed(2).unwrap();
    }
    assert!(written >= 20 * payload.len());
    assert!(link.reads(Side::Remote));
}

#[test]
fn whoever_asks_whether_the_bridge_is_there_is_answered() {
    let mut link = relaying(sample(ProtocolVersion::V311));
    link.output(Side::Remote).clear();

    link.receive(Side::Remote, b"\xc0\x00", 1).unwrap();

    assert_eq!(link.output(Side::Remote).split(), b"\xd0\x00"[..]);
}

#[test]
fn a_message_that_nobody_knows_of_any_more_is_released() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut link = relaying(sample(version));
        link.output(Side::Remote).clear();

        link.receive(Side::Remote, b"\x50\x02\x07\xd1", 1).unwrap();

        assert_eq!(link.output(Side::Remote).split(), b"\x62\x02\x07\xd1"[..], "{version:?}");
    }
}

#[test]
fn sessions_do_not_keep_what_is_not_mapped_any_more() {
    let sample_without = |version| {
        let mut settings = sample(version);
        settings.mappings.remove(0);
        settings.remote.notification_topic = None;
        settings.drop_filters(sample(version).subscribed());
        settings
    };
    let kept = b"\xa2\x0c\x00\x01\x00\x08rp/out/#";
    let both = hex(&[kept, b"\xa2\x0c\x00\x02\x00\x08bridge/#"]);
    for (version, connack, expected) in [
        (ProtocolVersion::V311, b"\x20\x02\x01\x00", &*both),
        (ProtocolVersion::V311, b"\x20\x02\x00\x00", kept),
        // It may or may not have kept the session.
        (ProtocolVersion::V31, b"\x20\x02\x00\x00", &*both),
    ] {
        let mut link = Link::open(Arc::new(sample_without(version)), 0, 0).unwrap();
        link.output(Side::Remote).clear();

        link.receive(Side::Remote, connack, 1).unwrap();

        assert_eq!(link.output(Side::Remote).split(), expected, "{version:?}");
    }
    let mut parking = Link::park(Arc::new(sample_without(ProtocolVersion::V311)), 0).unwrap();
    parking.output(Side::Local).clear();

    parking.receive(Side::Local, b"\x20\x03\x01\x00\x00", 1).unwrap();

    assert!(parking.output(Side::Local).ends_with(b"\xa2\x0d\xff\xfe\x00\x00\x08bridge/#"));
    parking.receive(Side::Local, b"\x90\x04\xff\xff\x00\x02", 1).unwrap();
    assert!(!parking.is_parked());
    parking.receive(Side::Local, b"\xb0\x04\xff\xfe\x00\x00", 1).unwrap();
    assert!(parking.is_parked());
}

#[test]
fn a_publish_above_the_limit_is_passed_over_and_answered_in_whatever_pieces_it_comes() {
    // [E07] [E08] In MQTT 3 the other broker cannot be told the limit. Were the link to end, it would send the message again each time.
    let mut settings = sample(ProtocolVersion::V311);
    settings.remote.packet_bytes_max = 300;
    settings.mark = None;
    for (header, answers) in
        [(0x30, b"".as_slice()), (0x32, b"\x40\x02\x00\x07"), (0x34, b"\x50\x02\x00\x07")]
    {
        for piece in [1, 7, 1_000] {
            let mut link = relaying(settings.clone());
            let mut bytes = hex(&[&[header, 0xc8, 0x02], b"\x00\x08bridge/x\x00\x07", &[b'x'; 316]]);
            bytes.extend_from_slice(b"\x30\x0b\x00\x08bridge/xa");

            for (number, part) in bytes.chunks(piece).enumerate() {
                let is_before_the_end = (number + 1) * piece < 331;
                link.receive(Side::Remote, part, 1).unwrap();
                assert!(!is_before_the_end || link.output(Side::Remote).is_empty(), "{header:x} {piece}");
            }

            assert_eq!(link.output(Side::Remote).split(), answers, "{header:x} {piece}");
            assert_eq!(
                link.output(Side::Local).split(),
                b"\x30\x0c\x00\x08bridge/x\x00a".as_slice(),
                "{header:x} {piece}"
            );
            let reason = ReasonCode::PacketTooLarge;
            assert_eq!(link.next_event(), Some(Event::MessageRefused { side: Side::Local, reason }));
            if header == 0x34 {
                link.receive(Side::Remote, b"\x62\x02\x00\x07", 1).unwrap();
                assert_eq!(link.output(Side::Remote).split(), b"\x70\x02\x00\x07".as_slice());
                assert!(link.output(Side::Local).is_empty());
            }
        }
    }
}

#[test]
fn a_broker_that_serves_no_qos_2_is_released_nothing() {
    // PUBREC was given on an earlier connection, which has ended before PUBREL.
    for connack in [b"\x20\x05\x00\x00\x02\x24\x01", b"\x20\x05\x00\x00\x02\x24\x00"] {
        let mut link = Link::open(Arc::new(sample(ProtocolVersion::V5)), 0, 0).unwrap();
        link.receive(Side::Remote, connack, 0).unwrap();
        link.receive(Side::Local, b"\x20\x03\x01\x00\x00", 0).unwrap();
        link.output(Side::Remote).clear();
        link.output(Side::Local).clear();

        link.receive(Side::Local, b"\x62\x02\x00\x07", 1).unwrap();

        assert!(link.output(Side::Remote).is_empty());
        assert_eq!(link.output(Side::Local).split(), b"\x70\x02\x00\x07".as_slice());
    }
}
