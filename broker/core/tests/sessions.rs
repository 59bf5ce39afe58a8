//! Connections and sessions: CONNECT, takeover, expiry, keep alive, Will Messages.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;

use veilmq_core::Settings;
use veilmq_protocol::{
    Connect, ConnectProperties, Disconnect, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode,
    TopicName, Will,
};
use veilmq_simulator::{World, connect_v5, connect_v311, publish};

fn will<'a>(topic: &'a str, delay_seconds: u32) -> Option<Will<'a>> {
    Some(Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TopicName::new(topic).unwrap(),
        payload: b"gone",
        delay_seconds,
        properties: PublishProperties::default(),
    })
}

#[test]
fn the_second_connection_with_a_client_identifier_takes_the_session_over() {
    // [MQTT-3.1.4-3]
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let (first, _) = world.join("x", true, 60);

        let (second, present) = world.join("x", false, 60);

        assert!(present);
        assert_eq!(world.received(first), ["DISCONNECT 0x8e"]);
        assert!(world.is_closed(first));
        assert!(!world.is_closed(second));
    }
}

#[test]
fn clean_start_throws_the_earlier_session_away() {
    // [MQTT-3.1.2-4], [MQTT-3.2.2-2]
    let mut world = World::new(2);
    let (first, _) = world.join("x", true, 60);
    world.subscribe(first, "t", QoS::AtLeastOnce);
    world.cut(first);

    let (second, present) = world.join("x", true, 60);
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "t", "lost", QoS::AtLeastOnce, 1);

    assert!(!present);
    assert!(world.received(second).is_empty());
    assert_eq!(world.received(publisher), ["PUBACK id1 0x10"]);
}

#[test]
fn a_session_ends_when_its_expiry_interval_has_passed() {
    // [MQTT-4.1.0-2]
    for (wait_ms, present) in [(59_999, true), (60_000, false)] {
        let mut world = World::new(1);
        let (first, _) = world.join("x", true, 60);
        world.cut(first);

        world.pass(wait_ms);

        assert_eq!(world.join("x", false, 60).1, present, "after {wait_ms} ms");
    }
}

#[test]
fn a_session_without_expiry_interval_ends_with_its_connection() {
    let mut world = World::new(1);
    let (first, _) = world.join("x", false, 0);
    world.cut(first);

    assert!(!world.join("x", false, 0).1);
}

#[test]
fn a_session_without_expiry_interval_is_not_there_to_be_taken_over() {
    let mut world = World::new(1);
    world.join("x", true, 0);

    assert!(!world.join("x", false, 60).1);
}

#[test]
fn disconnect_may_shorten_the_session_but_not_prolong_one_that_had_none() {
    // [C09]
    let mut world = World::new(1);
    let (shortened, _) = world.join("a", true, 60);
    let (prolonged, _) = world.join("b", true, 0);
    let disconnect = |seconds| {
        Packet::Disconnect(Disconnect { session_expiry_seconds: Some(seconds), ..Disconnect::default() })
    };

    world.send(shortened, &disconnect(5));
    world.send(prolonged, &disconnect(5));
    world.pass(5_000);

    assert!(!world.join("a", false, 60).1);
    assert_eq!(world.received(prolonged), ["DISCONNECT 0x82"]);
}

#[test]
fn disconnect_cannot_prolong_a_session_beyond_the_brokers_limit() {
    let mut world = World::with(Settings { session_expiry_seconds_max: 60, ..Settings::default() });
    let (client, _) = world.join("x", true, 30);
    let prolong = Disconnect { session_expiry_seconds: Some(3_600), ..Disconnect::default() };
    world.send(client, &Packet::Disconnect(prolong));

    world.pass(60_000);

    assert!(!world.join("x", false, 30).1);
}

#[test]
fn a_connection_leaves_no_deadline_behind() {
    let mut world = World::new(2);
    let silent = world.accept(0, ProtocolVersion::V5);
    let alive = world.connect(&Connect { keep_alive_seconds: 10, ..connect_v5("x", true, 0) });
    assert!(world.next_deadline().is_some());

    world.cut(silent);
    world.cut(alive);

    assert_eq!(world.next_deadline(), None);
}

#[test]
fn mqtt_3_1_knows_no_session_present() {
    for (version, present) in [(ProtocolVersion::V31, 0), (ProtocolVersion::V311, 1)] {
        let mut world = World::new(1);
        let connect = Connect { version, ..connect_v311("x", false) };
        world.connect(&connect);

        let again = world.connect(&connect);

        assert_eq!(world.bytes(again), [0x20, 2, present, 0], "{version:?}");
    }
}

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    // [MQTT-3.1.2-22], [C10]
    let mut world = World::new(1);
    let connection = world.connect(&Connect { keep_alive_seconds: 10, ..connect_v5("x", true, 0) });
    world.bytes(connection);
    world.pass(14_000);
    world.send(connection, &Packet::PingReq);
    assert_eq!(world.received(connection), ["PINGRESP"]);

    world.pass(14_999);
    assert!(!world.is_closed(connection));
    world.pass(1);

    assert_eq!(world.received(connection), ["DISCONNECT 0x8d"]);
    assert!(world.is_closed(connection));
}

#[test]
fn parts_of_a_packet_are_heard_where_they_are_progress_and_not_where_they_drip() {
    // [MQTT-3.1.2-22], [A01] A PUBLISH of 100,000 bytes, of which some come every 5 s.
    let large = [&[0x30, 0xa0, 0x8d, 0x06, 0, 1, b't', 0][..], &[b'x'; 99_996]].concat();
    for (bytes, lasts) in [(1, false), (60, false), (1_024, true), (5_000, true)] {
        let mut world = World::new(1);
        let connection = world.connect(&Connect { keep_alive_seconds: 10, ..connect_v5("x", true, 0) });
        world.bytes(connection);

        for part in large[..large.len() - 1].chunks(bytes).take(10) {
            world.pass(5_000);
            world.send_bytes(connection, part);
        }

        assert_eq!(world.is_closed(connection), !lasts, "{bytes} bytes at a time");
    }
}

#[test]
fn a_connection_that_sends_no_connect_is_closed_without_a_word() {
    let mut world = World::new(1);
    let connection = world.accept(0, ProtocolVersion::V5);
    world.send_bytes(connection, &[0x10]);

    world.pass(10_000);

    assert!(world.is_closed(connection));
    assert!(world.bytes(connection).is_empty());
}

#[test]
fn refusals_have_the_form_that_the_clients_version_knows() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        ("not CONNECT", &[0xC0, 0], &[]),
        ("unknown level", &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 0], &[0x20, 2, 0, 1]),
        (
            "reserved flag, v5",
            &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 3, 0, 0, 0, 0, 0],
            &[0x20, 3, 0, 0x81, 0],
        ),
        ("reserved flag, v3.1.1", &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 3, 0, 0, 0, 0], &[]),
        (
            "empty id without clean session",
            &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 0],
            &[0x20, 2, 0, 2],
        ),
        (
            "unknown method",
            &[0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 4, 0x15, 0, 1, b'X', 0, 0],
            &[0x20, 3, 0, 0x8C, 0],
        ),
    ];
    for (name, sent, answer) in cases {
        let mut world = World::with(Settings { reason_strings: false, ..Settings::default() });
        let connection = world.accept(0, ProtocolVersion::V5);

        world.send_bytes(connection, sent);

        assert_eq!(world.bytes(connection), *answer, "{name}");
        assert!(world.is_closed(connection), "{name}");
    }
}

#[test]
fn an_empty_client_identifier_gets_one_that_connack_tells() {
    // [MQTT-3.2.2-16]
    let mut world = World::new(3);
    let connection = world.connect(&connect_v5("", true, 0));

    let bytes = world.bytes(connection);

    assert!(bytes.windows(5).any(|window| window == b"auto-"), "{bytes:02x?}");
    assert!(!world.is_closed(connection));
}

#[test]
fn packets_that_follow_connect_in_the_same_read_are_handled_after_connack() {
    let mut world = World::new(4);
    let connection = world.accept(0, ProtocolVersion::V311);
    let mut bytes = Vec::new();
    Packet::Connect(connect_v311("x", true)).encode(ProtocolVersion::V311, &mut bytes).unwrap();
    Packet::PingReq.encode(ProtocolVersion::V311, &mut bytes).unwrap();

    world.send_bytes(connection, &bytes);

    assert_eq!(world.received(connection), ["CONNACK 0x00", "PINGRESP"]);
}

#[test]
fn every_split_of_the_bytes_gives_the_same_answers() {
    let mut bytes = Vec::new();
    for packet in [Packet::Connect(connect_v5("x", true, 0)), Packet::PingReq, Packet::PingReq] {
        packet.encode(ProtocolVersion::V5, &mut bytes).unwrap();
    }
    for cut in 0..=bytes.len() {
        let mut world = World::new(1);
        let connection = world.accept(0, ProtocolVersion::V5);

        world.send_bytes(connection, &bytes[..cut]);
        world.send_bytes(connection, &bytes[cut..]);

        assert_eq!(world.received(connection), ["CONNACK 0x00", "PINGRESP", "PINGRESP"], "cut at {cut}");
    }
}

#[test]
fn a_large_packet_may_arrive_in_many_pieces_and_every_byte_is_counted_once() {
    let mut world = World::new(4);
    let connection = world.accept(0, ProtocolVersion::V5);
    let payload = "x".repeat(4 * 1024 * 1024);
    let mut bytes = Vec::new();
    for packet in [
        Packet::Connect(connect_v5("x", true, 0)),
        Packet::Publish(publish("t", &payload, QoS::AtLeastOnce, 1)),
        Packet::PingReq,
    ] {
        packet.encode(ProtocolVersion::V5, &mut bytes).unwrap();
    }

    // Copying what has arrived with each of these pieces would take minutes.
    for piece in bytes.chunks(100) {
        world.send_bytes(connection, piece);
    }

    assert_eq!(world.received(connection), ["CONNACK 0x00", "PUBACK id1 0x10", "PINGRESP"]);
    assert_eq!(world.sample("veilmq_bytes_received_total", ""), bytes.len() as u64);
}

#[test]
fn a_will_is_published_when_the_connection_is_lost_and_discarded_on_a_normal_disconnect() {
    // [MQTT-3.1.2-8], [MQTT-3.14.4-3]
    for (goodbye, expected) in [
        (None, vec!["PUBLISH w \"gone\" qos0"]),
        (Some(ReasonCode::Success), vec![]),
        (Some(ReasonCode::DisconnectWithWill), vec!["PUBLISH w \"gone\" qos0"]),
    ] {
        let mut world = World::new(2);
        let (watcher, _) = world.join("watcher", true, 0);
        world.subscribe(watcher, "w", QoS::AtMostOnce);
        world.bytes(watcher);
        let dying = world.connect(&Connect { will: will("w", 0), ..connect_v5("x", true, 0) });

        match goodbye {
            None => world.cut(dying),
            Some(reason) => {
                world.send(dying, &Packet::Disconnect(Disconnect { reason, ..Disconnect::default() }));
            }
        }

        assert_eq!(world.received(watcher), expected, "{goodbye:?}");
    }
}

#[test]
fn a_delayed_will_waits_and_a_reconnect_stops_it() {
    // [MQTT-3.1.3-9]
    for (returns, expected) in [(true, 0), (false, 1)] {
        let mut world = World::new(1);
        let (watcher, _) = world.join("watcher", true, 0);
        world.subscribe(watcher, "w", QoS::AtMostOnce);
        world.bytes(watcher);
        let dying = world.connect(&Connect { will: will("w", 30), ..connect_v5("x", true, 60) });
        world.cut(dying);
        world.pass(29_999);
        assert!(world.received(watcher).is_empty());

        if returns {
            world.join("x", false, 60);
        }
        world.pass(1);

        assert_eq!(world.received(watcher).len(), expected);
    }
}

#[test]
fn a_will_that_waits_for_a_century_keeps_no_later_one_waiting() {
    // Mosquitto sends no will any more once one has a delay that its timers cannot count.
    let mut world = World::new(1);
    let (watcher, _) = world.join("watcher", true, 0);
    world.subscribe(watcher, "w", QoS::AtMostOnce);
    world.bytes(watcher);
    for (client_id, delay_seconds) in [("patient", 4_000_000_000), ("eternal", u32::MAX), ("hasty", 1)] {
        let dying = world
            .connect(&Connect { will: will("w", delay_seconds), ..connect_v5(client_id, true, u32::MAX) });
        world.cut(dying);
    }

    world.pass(999);
    assert!(world.received(watcher).is_empty());
    world.pass(1);

    assert_eq!(world.received(watcher).len(), 1);
}

#[test]
fn a_will_is_published_no_later_than_the_end_of_its_session() {
    // [C09]
    let mut world = World::new(1);
    let (watcher, _) = world.join("watcher", true, 0);
    world.subscribe(watcher, "w", QoS::AtMostOnce);
    world.bytes(watcher);
    let dying = world.connect(&Connect { will: will("w", 600), ..connect_v5("x", true, 10) });
    world.cut(dying);

    world.pass(10_000);

    assert_eq!(world.received(watcher), ["PUBLISH w \"gone\" qos0"]);
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    // [MQTT-3.1.0-2], [A10]
    let mut connect = Vec::new();
    Packet::Connect(connect_v5("x", true, 0)).encode(ProtocolVersion::V5, &mut connect).unwrap();
    for second in [connect.as_slice(), b"\x10\x0a\0\x04MQTT\x06\x02\0\x3c", b"\x10\0"] {
        let mut world = World::new(1);
        let (connection, _) = world.join("x", true, 0);

        world.send_bytes(connection, second);

        assert_eq!(world.received(connection), ["DISCONNECT 0x82"]);
        assert!(world.is_closed(connection));
    }
}

#[test]
fn a_connack_that_the_client_does_not_take_is_replaced_by_a_refusal_if_that_fits() {
    // [MQTT-3.1.2-24]
    for (packet_bytes_max, answer) in [(20, vec!["CONNACK 0x83"]), (5, vec!["CONNACK 0x83"]), (4, vec![])] {
        let mut world = World::new(1);
        let mut connect = connect_v5("", true, 0);
        connect.properties.packet_bytes_max = NonZeroU32::new(packet_bytes_max);

        let connection = world.connect(&connect);

        assert_eq!(world.received(connection), answer, "{packet_bytes_max}");
        assert!(world.is_closed(connection));
        assert_eq!(world.sample("veilmq_sessions", "connected"), 0);
    }
}

#[test]
fn anonymous_clients_are_refused_where_they_are_not_allowed() {
    let mut world = World::with(Settings { anonymous: false, ..Settings::default() });
    let v5 = world.connect(&connect_v5("x", true, 0));
    let v311 = world.connect(&connect_v311("y", true));

    assert_eq!(world.received(v5), ["CONNACK 0x87"]);
    assert_eq!(world.bytes(v311), [0x20, 2, 0, 5]);
}

#[test]
fn a_keep_alive_above_the_limit_is_overridden_and_told() {
    // [MQTT-3.2.2-21], [C10]
    let mut world = World::with(Settings { keep_alive_seconds_max: 20, ..Settings::default() });
    let connect = Connect { keep_alive_seconds: 0, ..connect_v5("x", true, 0) };
    let connection = world.connect(&connect);
    assert!(world.bytes(connection).windows(3).any(|window| window == [0x13, 0, 20]));

    world.pass(30_000);

    assert!(world.is_closed(connection));
}

#[test]
fn shutdown_says_goodbye_to_everyone() {
    let mut world = World::new(1);
    let (v5, _) = world.join("x", true, 0);
    let properties = ConnectProperties::default();
    let v311 = world.connect(&Connect { properties, ..connect_v311("y", true) });
    world.bytes(v311);

    world.turn(0, veilmq_core::Input::Shutdown);

    assert_eq!(world.received(v5), ["DISCONNECT 0x8b"]);
    assert!(world.bytes(v311).is_empty());
    assert!(world.is_closed(v5) && world.is_closed(v311));
}
