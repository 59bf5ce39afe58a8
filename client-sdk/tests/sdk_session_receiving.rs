//! The receiving side of the session without I/O: acknowledgements, exactly-once, limits and bad servers.
#![allow(clippy::unwrap_used, reason = "test code")]

mod sdk_support;

use std::num::{NonZeroU16, NonZeroU32};

use sdk_support::{Rig, acknowledgement, closed, encode, incoming, message, options, resumed, suback};
use veilmq_client::{
    QoS, ReasonCode,
    session::{CloseReason, Event, SessionOptions},
};
use veilmq_protocol::{ConnAck, Disconnect, Packet, Publish, PublishProperties, TopicName};

/// [MQTT-4.6.0-2]
#[test]
fn qos_1_is_acknowledged_only_when_taken_and_in_the_order_of_arrival() {
    let mut rig = Rig::connected(options());
    rig.receive(&incoming("a", QoS::AtLeastOnce, 11, false));
    rig.receive(&incoming("b", QoS::AtLeastOnce, 12, false));
    let (first, second) = (message(rig.poll()), message(rig.poll()));
    assert_eq!((first.0.as_str(), second.0.as_str()), ("a", "b"));
    assert!(rig.sent().is_empty());

    rig.session.acknowledge(second.1.unwrap());
    assert!(rig.sent().is_empty());
    rig.session.acknowledge(first.1.unwrap());

    assert_eq!(rig.sent(), b"\x40\x02\x00\x0b\x40\x02\x00\x0c");
}

/// [MQTT-4.3.3-10]
#[test]
fn qos_2_is_delivered_once_however_often_it_is_sent() {
    let mut rig = Rig::connected(options());
    rig.receive(&incoming("a", QoS::ExactlyOnce, 5, false));
    let (_, receipt) = message(rig.poll());
    rig.session.acknowledge(receipt.unwrap());
    assert_eq!(rig.sent(), b"\x50\x02\x00\x05");

    rig.receive(&incoming("a", QoS::ExactlyOnce, 5, true));
    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x50\x02\x00\x05");
    rig.reconnect(&resumed());
    rig.receive(&incoming("a", QoS::ExactlyOnce, 5, true));
    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x50\x02\x00\x05");
    rig.receive(&Packet::PubRel(acknowledgement(5)));
    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x70\x02\x00\x05");

    // The identifier is free again, so the same one is another message.
    rig.receive(&incoming("b", QoS::ExactlyOnce, 5, false));
    assert_eq!(message(rig.poll()).0, "b");
}

#[test]
fn a_release_of_an_unknown_message_is_answered_as_unknown() {
    let mut rig = Rig::connected(options());

    rig.receive(&Packet::PubRel(acknowledgement(9)));

    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x70\x03\x00\x09\x92");
}

#[test]
fn a_message_not_yet_taken_when_the_connection_broke_is_not_delivered_twice() {
    for (qos, answer) in [(QoS::AtLeastOnce, b"\x40\x02\x00\x07"), (QoS::ExactlyOnce, b"\x50\x02\x00\x07")] {
        let mut rig = Rig::connected(options());
        rig.receive(&incoming("a", qos, 7, false));
        let (_, receipt) = message(rig.poll());
        rig.reconnect(&resumed());

        rig.receive(&incoming("a", qos, 7, true));
        assert!(rig.poll().is_none(), "{qos:?}");
        assert!(rig.sent().is_empty(), "{qos:?}");
        rig.session.acknowledge(receipt.unwrap());

        assert_eq!(rig.sent(), answer, "{qos:?}");
    }
}

#[test]
fn a_message_taken_after_its_connection_broke_is_acknowledged_when_it_comes_again() {
    let mut rig = Rig::connected(options());
    rig.receive(&incoming("a", QoS::AtLeastOnce, 7, false));
    let (_, receipt) = message(rig.poll());
    rig.session.connection_lost();
    rig.session.acknowledge(receipt.unwrap());
    rig.reconnect(&resumed());

    rig.receive(&incoming("a", QoS::AtLeastOnce, 7, true));

    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x40\x02\x00\x07");
}

/// [MQTT-3.3.4-9]
#[test]
fn a_message_is_not_acknowledged_for_an_earlier_one_that_had_its_identifier() {
    let mut rig = Rig::connected(options());
    rig.receive(&incoming("expires", QoS::AtLeastOnce, 7, false));
    let (_, expired) = message(rig.poll());
    rig.session.connection_lost();
    rig.reconnect(&resumed());
    rig.session.acknowledge(expired.unwrap());

    rig.receive(&incoming("next", QoS::AtLeastOnce, 7, false));
    let (text, next) = message(rig.poll());
    assert_eq!(text, "next");
    rig.session.connection_lost();
    rig.reconnect(&resumed());
    rig.receive(&incoming("next", QoS::AtLeastOnce, 7, true));
    assert!(rig.poll().is_none(), "the application has it");
    assert!(rig.sent().is_empty(), "and has not taken it");
    rig.session.acknowledge(next.unwrap());

    assert_eq!(rig.sent(), b"\x40\x02\x00\x07");
}

/// How far a message is whose identifier the server uses for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfinished {
    Untaken,
    Taken,
    /// It came on an earlier connection.
    Earlier,
}

/// [MQTT-2.2.1-4]
#[test]
fn an_identifier_that_is_used_again_at_another_qos_loses_no_message() {
    for unfinished in [Unfinished::Untaken, Unfinished::Taken, Unfinished::Earlier] {
        for (first, second) in [(QoS::ExactlyOnce, QoS::AtLeastOnce), (QoS::AtLeastOnce, QoS::ExactlyOnce)] {
            let row = format!("{unfinished:?} {first:?}");
            let mut rig = Rig::connected(options());
            rig.receive(&incoming("old", first, 7, false));
            let (_, old) = message(rig.poll());
            match unfinished {
                Unfinished::Untaken => {}
                Unfinished::Taken => rig.session.acknowledge(old.unwrap()),
                Unfinished::Earlier => {
                    rig.session.connection_lost();
                    rig.reconnect(&resumed());
                }
            }
            rig.sent();

            rig.receive(&incoming("new", second, 7, false));
            let (text, new) = message(rig.poll());
            assert_eq!(text, "new", "{row}");
            rig.session.acknowledge(old.unwrap());
            assert!(rig.sent().is_empty(), "{row}: nothing of the new one is taken");
            rig.session.acknowledge(new.unwrap());
            let answer = if second == QoS::ExactlyOnce { 0x50 } else { 0x40 };
            assert_eq!(rig.sent(), [answer, 2, 0, 7], "{row}: one answer, for the new one");

            // It is no repeat of the old one, whatever it says of having been sent before.
            rig.session.connection_lost();
            rig.reconnect(&resumed());
            rig.receive(&incoming("newest", first, 7, true));
            assert_eq!(message(rig.poll()).0, "newest", "{row}");
        }
    }
}

/// [MQTT-3.3.4-7]
#[test]
fn an_identifier_that_is_used_again_brings_no_more_messages_than_the_receive_maximum() {
    let two = SessionOptions { receive_maximum: NonZeroU16::new(2).unwrap(), ..options() };
    let mut rig = Rig::connected(two);
    let receipts = [QoS::ExactlyOnce, QoS::AtLeastOnce].map(|qos| {
        rig.receive(&incoming("x", qos, 7, false));
        message(rig.poll()).1.unwrap()
    });
    receipts.into_iter().for_each(|receipt| rig.session.acknowledge(receipt));
    assert_eq!(rig.sent(), b"\x40\x02\x00\x07");

    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        rig.receive(&incoming("x", qos, 7, false));
        message(rig.poll());
    }
    rig.receive(&incoming("x", QoS::AtLeastOnce, 7, false));

    assert_eq!(closed(rig.poll()), CloseReason::ReceiveMaximumExceeded);
}

#[test]
fn a_release_of_a_message_whose_identifier_is_used_again_is_answered_as_unknown() {
    let mut rig = Rig::connected(options());
    rig.receive(&incoming("old", QoS::ExactlyOnce, 7, false));
    rig.receive(&incoming("new", QoS::AtLeastOnce, 7, false));
    assert_eq!([message(rig.poll()).0, message(rig.poll()).0], ["old", "new"]);

    rig.receive(&Packet::PubRel(acknowledgement(7)));

    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x70\x03\x00\x07\x92");
}

#[test]
fn a_server_that_exceeds_the_receive_maximum_is_disconnected() {
    let mut rig =
        Rig::connected(SessionOptions { receive_maximum: NonZeroU16::new(2).unwrap(), ..options() });
    rig.receive(&incoming("a", QoS::AtLeastOnce, 1, false));
    rig.receive(&incoming("b", QoS::ExactlyOnce, 2, false));
    rig.receive(&incoming("c", QoS::AtLeastOnce, 3, false));
    message(rig.poll());
    message(rig.poll());

    assert_eq!(closed(rig.poll()), CloseReason::ReceiveMaximumExceeded);
    assert_eq!(rig.sent(), b"\xe0\x01\x93");
}

#[test]
fn acknowledged_messages_make_room_under_the_receive_maximum() {
    let mut rig = Rig::connected(SessionOptions { receive_maximum: NonZeroU16::MIN, ..options() });
    for (packet_id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::AtLeastOnce)] {
        rig.receive(&incoming("a", qos, packet_id, false));
        let (_, receipt) = message(rig.poll());
        rig.session.acknowledge(receipt.unwrap());
        if qos == QoS::ExactlyOnce {
            rig.receive(&Packet::PubRel(acknowledgement(packet_id)));
            assert!(rig.poll().is_none());
        }
    }
}

#[test]
fn topic_aliases_are_resolved_within_their_connection_and_their_limit() {
    // [MQTT-3.3.2-7], [MQTT-3.3.2-10]
    let aliased = |topic: Option<&'static str>, alias: u16| {
        let properties =
            PublishProperties { topic_alias: NonZeroU16::new(alias), ..PublishProperties::default() };
        encode(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: topic.map(|topic| TopicName::new(topic).unwrap()),
            packet_id: None,
            properties,
            payload: b"x",
        }))
    };
    let mut rig = Rig::connected(SessionOptions { topic_alias_maximum: 2, ..options() });

    rig.session.receive(&aliased(Some("a/b"), 2));
    rig.session.receive(&aliased(None, 2));
    for _ in 0..2 {
        let Some(Event::Message { message, .. }) = rig.poll() else { panic!("no message") };
        assert_eq!(message.topic, "a/b");
    }
    for (topic, alias) in [(Some("a/b"), 3), (None, 1)] {
        rig.reconnect(&resumed());
        rig.session.receive(&aliased(topic, alias));
        assert_eq!(closed(rig.poll()), CloseReason::TopicAliasInvalid);
        assert_eq!(rig.sent(), b"\xe0\x01\x94");
    }
    rig.reconnect(&resumed());
    rig.session.receive(&aliased(None, 2));
    assert_eq!(closed(rig.poll()), CloseReason::TopicAliasInvalid, "aliases end with their connection");
}

#[test]
fn an_answer_nobody_asked_for_ends_the_connection() {
    let rows = [
        suback(1, &[0]),
        Packet::PingReq,
        Packet::ConnAck(ConnAck::default()),
        Packet::Auth(veilmq_protocol::Auth::default()),
    ];
    for packet in rows {
        let mut rig = Rig::connected(options());

        rig.receive(&packet);

        assert_eq!(closed(rig.poll()), CloseReason::Unexpected(packet.packet_type()));
        assert_eq!(rig.sent(), b"\xe0\x01\x82");
    }
}

#[test]
fn late_acknowledgements_of_what_is_settled_do_no_harm() {
    let mut rig = Rig::connected(options());

    rig.receive(&Packet::PubAck(acknowledgement(3)));
    rig.receive(&Packet::PubComp(acknowledgement(3)));
    rig.receive(&Packet::PubRec(acknowledgement(3)));

    assert!(rig.poll().is_none());
    assert_eq!(rig.sent(), b"\x62\x03\x00\x03\x92", "there is nothing to release");
}

#[test]
fn the_servers_disconnect_is_told_and_not_answered() {
    let mut rig = Rig::connected(options());
    let packet =
        Disconnect { reason_string: Some("maintenance"), ..Disconnect::new(ReasonCode::ServerShuttingDown) };

    rig.receive(&Packet::Disconnect(packet));

    let reason = closed(rig.poll());
    let text = Some("maintenance".to_owned());
    assert_eq!(reason, CloseReason::Disconnected { reason: ReasonCode::ServerShuttingDown, text });
    assert!(!reason.is_final());
    assert!(rig.sent().is_empty());
}

#[test]
fn malformed_and_oversized_packets_end_the_connection_with_their_reason() {
    let rows: [(&[u8], u8); 3] =
        [(b"\x36\x00", 0x81), (b"\x30\x05\x00\x01+\x00x", 0x81), (b"\x30\xff\x7f", 0x95)];
    for (bytes, code) in rows {
        let small = NonZeroU32::new(64).unwrap();
        let mut rig = Rig::connected(SessionOptions { packet_bytes_max: small, ..options() });

        rig.session.receive(bytes);

        assert!(matches!(closed(rig.poll()), CloseReason::Malformed(_)), "{bytes:02x?}");
        assert_eq!(rig.sent(), [0xe0, 0x01, code], "{bytes:02x?}");
    }
}

#[test]
fn packets_are_understood_however_they_are_cut() {
    let mut rig = Rig::connected(options());
    let bytes = [
        encode(&incoming("a", QoS::AtMostOnce, 0, false)),
        encode(&incoming("b", QoS::AtLeastOnce, 1, false)),
    ]
    .concat();

    let mut payloads = Vec::new();
    for byte in bytes {
        rig.session.receive(&[byte]);
        while let Some(event) = rig.poll() {
            payloads.push(message(Some(event)).0);
        }
    }

    assert_eq!(payloads, ["a", "b"]);
}
