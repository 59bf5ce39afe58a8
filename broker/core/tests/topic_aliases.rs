//! Topic Aliases towards clients, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;

use veilmq_core::Settings;
use veilmq_protocol::{Connect, ConnectProperties, QoS};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311};

/// Connects a client that takes aliases, and subscribes it to all topics; what it receives of that is taken away.
fn subscriber(world: &mut World, client_id: &str, expiry: u32, alias_maximum: u16, qos: QoS) -> Conn {
    let connect = connect_v5(client_id, false, expiry);
    let properties = ConnectProperties { topic_alias_maximum: alias_maximum, ..connect.properties };
    let connection = world.connect(&Connect { properties, ..connect });
    world.subscribe(connection, "#", qos);
    world.bytes(connection);
    connection
}

/// A QoS 0 PUBLISH with the payload `x`, its topic and alias as given.
fn publish_bytes(topic: &str, alias: Option<u8>) -> Vec<u8> {
    let properties = alias.map_or(vec![0], |alias| vec![3, 0x23, 0, alias]);
    let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
    body.extend([topic.as_bytes(), &properties, b"x"].concat());
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

/// The topic that is published to, and the topic and alias that the subscriber then gets.
type Step = (&'static str, &'static str, Option<u8>);

#[test]
fn a_topic_is_sent_once_and_its_alias_from_then_on() {
    let cases: &[(&str, u16, u16, &[Step])] = &[
        // [MQTT-3.1.2-26] The client's maximum is kept; first come, first served.
        (
            "maximum 1",
            1,
            16,
            &[
                ("TopicA", "TopicA", Some(1)),
                ("TopicA", "", Some(1)),
                ("TopicB", "TopicB", None),
                ("TopicA", "", Some(1)),
            ],
        ),
        // [MQTT-3.1.2-27]
        ("maximum 0", 0, 16, &[("TopicA", "TopicA", None), ("TopicA", "TopicA", None)]),
        ("the broker's own limit", 9, 1, &[("TopicA", "TopicA", Some(1)), ("TopicB", "TopicB", None)]),
        ("switched off", 9, 0, &[("TopicA", "TopicA", None), ("TopicA", "TopicA", None)]),
        (
            "several topics",
            2,
            16,
            &[
                ("TopicA", "TopicA", Some(1)),
                ("TopicB", "TopicB", Some(2)),
                ("TopicB", "", Some(2)),
                ("TopicA", "", Some(1)),
            ],
        ),
        // The property takes three bytes, so nothing is gained here.
        ("short topics", 9, 16, &[("abc", "abc", None), ("abc", "abc", None), ("abcd", "abcd", Some(1))]),
    ];
    for (name, client_maximum, own_maximum, steps) in cases {
        let mut world =
            World::with(Settings { topic_alias_to_client_max: *own_maximum, ..Settings::default() });
        let subscriber = subscriber(&mut world, "s", 0, *client_maximum, QoS::AtMostOnce);
        let (publisher, _) = world.join("p", true, 0);

        for (published, topic, alias) in *steps {
            world.publish(publisher, published, "x", QoS::AtMostOnce, 0);

            // [MQTT-3.3.2-7]
            assert_eq!(world.bytes(subscriber), publish_bytes(topic, *alias), "{name}: {published}");
        }
    }
}

#[test]
fn each_connection_has_aliases_of_its_own() {
    let mut world = World::new(2);
    let first = subscriber(&mut world, "s", 60, 1, QoS::AtLeastOnce);
    let other = subscriber(&mut world, "o", 0, 1, QoS::AtMostOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "TopicB", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.bytes(first), publish_bytes("TopicB", Some(1)));
    assert_eq!(world.bytes(other), publish_bytes("TopicB", Some(1)));

    world.publish(publisher, "TopicA", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.bytes(first), b"\x32\x0c\x00\x06TopicA\x00\x01\x00x");

    // [MQTT-3.3.2-7] What is sent again after a reconnect is numbered anew: the first topic of the new connection comes first.
    world.cut(first);
    let connect = connect_v5("s", false, 60);
    let properties = ConnectProperties { topic_alias_maximum: 1, ..connect.properties };
    let second = world.connect(&Connect { properties, ..connect });
    let received = world.bytes(second);
    assert!(
        received.ends_with(b"\x3a\x0f\x00\x06TopicA\x00\x01\x03\x23\x00\x01x"),
        "the resent message has topic and alias: {received:02x?}"
    );
    world.publish(publisher, "TopicA", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.bytes(second), publish_bytes("", Some(1)));
}

#[test]
fn a_message_that_is_too_large_gives_its_topic_no_alias() {
    // The packet of "TopicA" is 12 bytes with topic alone, 15 with both and 9 with the alias alone.
    let steps: &[(usize, &str, Option<Vec<u8>>)] = &[
        // Both do not fit, so the topic goes alone.
        (14, "x", Some(publish_bytes("TopicA", None))),
        (14, "xxxx", None),
        (15, "x", Some(publish_bytes("TopicA", Some(1)))),
    ];
    // So that CONNACK fits.
    let terse = Settings { receive_maximum: u16::MAX, topic_alias_maximum: 0, ..Settings::default() };
    for (bytes_max, payload, expected) in steps {
        let mut world = World::with(terse.clone());
        let connect = connect_v5("s", true, 0);
        let properties = ConnectProperties {
            topic_alias_maximum: 9,
            packet_bytes_max: NonZeroU32::new(u32::try_from(*bytes_max).unwrap()),
            ..connect.properties
        };
        let subscriber = world.connect(&Connect { properties, ..connect });
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        world.bytes(subscriber);
        let (publisher, _) = world.join("p", true, 0);

        world.publish(publisher, "TopicA", payload, QoS::AtMostOnce, 0);

        assert_eq!(world.bytes(subscriber), expected.clone().unwrap_or_default());
        // A smaller one on the same topic: had the alias been bound without being sent, its topic would be missing.
        world.publish(publisher, "TopicA", "", QoS::AtMostOnce, 0);
        let next = world.bytes(subscriber);
        let has_topic = next.windows(6).any(|window| window == b"TopicA");
        assert_eq!(has_topic, *bytes_max == 14, "{next:02x?}");
        // [MQTT-3.1.2-24] What counts is the packet as it is sent: an alias makes room for the payload.
        if *bytes_max == 15 {
            world.publish(publisher, "TopicA", "1234567", QoS::AtMostOnce, 0);
            assert_eq!(world.bytes(subscriber), b"\x30\x0d\x00\x00\x03\x23\x00\x011234567");
        }
    }
}

#[test]
fn a_client_of_mqtt_3_gets_no_alias() {
    let mut world = World::new(1);
    let subscriber = world.connect(&connect_v311("s", true));
    world.subscribe(subscriber, "#", QoS::AtMostOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 0);

    for _ in 0..2 {
        world.publish(publisher, "TopicA", "x", QoS::AtMostOnce, 0);
        assert_eq!(world.bytes(subscriber), b"\x30\x09\x00\x06TopicAx");
    }
}
