//! What CONNACK announces of the broker's capabilities, and what becomes of clients that ask for more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;
use std::sync::Arc;

use veilmq_core::{Capabilities, Input, Settings};
use veilmq_protocol::{
    ConnAck, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, PublishProperties, QoS, TopicName,
    Will, next_frame,
};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, options, publish};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V5, ProtocolVersion::V311, ProtocolVersion::V31];

/// What a version says and whether it closes the connection, for 5, 3.1.1 and 3.1.
type Answers = [(&'static [u8], bool); 3];

fn world(capabilities: Capabilities) -> World {
    World::with(Settings { capabilities, reason_strings: false, ..Settings::default() })
}

fn connect(version: ProtocolVersion) -> Connect<'static> {
    Connect { version, ..connect_v5("x", true, 0) }
}

/// Connects in a version, and throws CONNACK away.
fn join(world: &mut World, version: ProtocolVersion) -> Conn {
    let connection = world.connect(&connect(version));
    assert_eq!(world.bytes(connection)[0], 0x20, "CONNACK");
    connection
}

fn only(maximum_qos: QoS) -> Capabilities {
    Capabilities { maximum_qos, ..Capabilities::default() }
}

fn without_retain() -> Capabilities {
    Capabilities { retain: false, ..Capabilities::default() }
}

fn without_wildcards() -> Capabilities {
    Capabilities { wildcard_subscriptions: false, ..Capabilities::default() }
}

fn without_subscription_ids() -> Capabilities {
    Capabilities { subscription_ids: false, ..Capabilities::default() }
}

fn without_sharing() -> Capabilities {
    Capabilities { shared_subscriptions: false, ..Capabilities::default() }
}

/// Reads the one CONNACK that a client of MQTT 5 has received.
fn with_connack<T>(world: &mut World, connection: Conn, read: impl FnOnce(&ConnAck<'_>) -> T) -> T {
    let bytes = world.bytes(connection);
    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    match Packet::decode(frame, ProtocolVersion::V5).unwrap() {
        Packet::ConnAck(connack) => read(&connack),
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

#[test]
fn connack_announces_exactly_what_is_missing() {
    // [MQTT-3.2.2-9] and sections 3.2.2.3.4, 3.2.2.3.5, 3.2.2.3.11 to 3.2.2.3.13
    type Announced = (Option<QoS>, Option<bool>, Option<bool>, Option<bool>, Option<bool>);
    let rows: [(Capabilities, Announced); 7] = [
        (Capabilities::default(), (None, None, None, None, None)),
        (only(QoS::AtLeastOnce), (Some(QoS::AtLeastOnce), None, None, None, None)),
        (only(QoS::AtMostOnce), (Some(QoS::AtMostOnce), None, None, None, None)),
        (without_retain(), (None, Some(false), None, None, None)),
        (without_wildcards(), (None, None, Some(false), None, None)),
        (without_subscription_ids(), (None, None, None, Some(false), None)),
        (without_sharing(), (None, None, None, None, Some(false))),
    ];
    for (capabilities, expected) in rows {
        let mut world = world(capabilities);
        let connection = world.connect(&connect(ProtocolVersion::V5));

        let announced = with_connack(&mut world, connection, |connack| {
            let properties = &connack.properties;
            (
                properties.maximum_qos,
                properties.retain_available,
                properties.wildcard_subscription_available,
                properties.subscription_ids_available,
                properties.shared_subscription_available,
            )
        });

        assert_eq!(announced, expected);
    }
}

#[test]
fn what_is_not_on_offer_is_refused_with_its_reason_code() {
    // [MQTT-3.2.2-9], sections 3.2.2.3.4, 3.2.2.3.5, 3.2.2.3.11 to 3.2.2.3.13; 3.1.1: [MQTT311-3.8.3-2]
    const CLOSED: (&[u8], bool) = (b"", true);
    const REFUSED: (&[u8], bool) = (b"\x90\x03\0\x09\x80", false);
    const ACKNOWLEDGED: (&[u8], bool) = (b"\x90\x03\0\x09\x00", false);
    const V5_WITH_ID: &[u8] = b"\x82\x09\0\x09\x02\x0b\x07\0\x01t\x01";
    type Ask = fn(&mut World, Conn);
    let rows: [(&str, Capabilities, Ask, Answers); 7] = [
        (
            "QoS 1 of 0",
            only(QoS::AtMostOnce),
            |world, connection| world.publish(connection, "t", "x", QoS::AtLeastOnce, 1),
            [(b"\xe0\x01\x9b", true), CLOSED, CLOSED],
        ),
        (
            "QoS 2 of 1",
            only(QoS::AtLeastOnce),
            |world, connection| world.publish(connection, "t", "x", QoS::ExactlyOnce, 1),
            [(b"\xe0\x01\x9b", true), CLOSED, CLOSED],
        ),
        (
            "RETAIN",
            without_retain(),
            |world, connection| world.retain(connection, "t", "x"),
            [(b"\xe0\x01\x9a", true), CLOSED, CLOSED],
        ),
        (
            "wildcard +",
            without_wildcards(),
            |world, connection| world.subscribe(connection, "a/+/b", QoS::AtLeastOnce),
            [(b"\xe0\x01\xa2", true), REFUSED, ACKNOWLEDGED],
        ),
        (
            "wildcard #",
            without_wildcards(),
            |world, connection| world.subscribe(connection, "#", QoS::AtMostOnce),
            [(b"\xe0\x01\xa2", true), REFUSED, ACKNOWLEDGED],
        ),
        (
            "a shared subscription",
            without_sharing(),
            |world, connection| world.subscribe(connection, "$share/g/t", QoS::AtMostOnce),
            [(b"\xe0\x01\x9e", true), REFUSED, ACKNOWLEDGED],
        ),
        (
            "Subscription Identifier",
            without_subscription_ids(),
            |world, connection| world.send_bytes(connection, V5_WITH_ID),
            // Before MQTT 5 these bytes are no SUBSCRIBE.
            [(b"\xe0\x01\xa1", true), CLOSED, CLOSED],
        ),
    ];
    for (what, capabilities, ask, answers) in rows {
        for (version, (expected, closes)) in VERSIONS.into_iter().zip(answers) {
            let mut world = world(capabilities.clone());
            let connection = join(&mut world, version);

            ask(&mut world, connection);

            assert_eq!(world.bytes(connection), expected, "{what} {version:?}");
            assert_eq!(world.is_closed(connection), closes, "{what} {version:?}");
        }
    }
}

#[test]
fn a_will_that_could_not_be_published_is_refused_with_the_connection() {
    // [MQTT-3.2.2-12], [MQTT-3.2.2-13]; 3.1.1 has no return code for it: [MQTT311-3.2.2-6]
    let will = |qos, retain| Will {
        qos,
        retain,
        topic: TopicName::new("will").unwrap(),
        payload: b"gone",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let rows = [
        (only(QoS::AtMostOnce), will(QoS::AtLeastOnce, false), 0x9b),
        (only(QoS::AtLeastOnce), will(QoS::ExactlyOnce, false), 0x9b),
        (without_retain(), will(QoS::AtMostOnce, true), 0x9a),
    ];
    for (capabilities, will, reason) in rows {
        for version in VERSIONS {
            let mut world = world(capabilities.clone());

            let connection = world.connect(&Connect { will: Some(will), ..connect(version) });

            let expected =
                if version == ProtocolVersion::V5 { vec![0x20, 3, 0, reason, 0] } else { Vec::new() };
            assert_eq!(world.bytes(connection), expected, "{version:?} {reason:02x}");
            assert!(world.is_closed(connection), "{version:?} {reason:02x}");
        }
    }
}

#[test]
fn a_subscription_is_granted_the_maximum_qos_at_most() {
    // [MQTT-3.2.2-9], [MQTT-3.2.2-10]
    for version in VERSIONS {
        for (maximum, granted) in [(QoS::AtMostOnce, [0, 0, 0]), (QoS::AtLeastOnce, [0, 1, 1])] {
            let mut world = world(only(maximum));
            let connection = join(&mut world, version);
            for (asked, granted) in
                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().zip(granted)
            {
                world.subscribe(connection, "t", asked);
                assert_eq!(world.received(connection), [format!("SUBACK [{granted:02x}]")], "{version:?}");
            }

            world.publish(connection, "t", "x", maximum, 1);

            let publish = format!("PUBLISH t \"x\" qos{}", maximum.value());
            assert!(
                world.received(connection).iter().any(|packet| packet.starts_with(&publish)),
                "{version:?}"
            );
        }
    }
}

#[test]
fn filters_and_subscriptions_on_offer_are_served_as_before() {
    let mut world = world(Capabilities { subscription_ids: false, ..without_wildcards() });
    let connection = join(&mut world, ProtocolVersion::V311);
    world.subscribe(connection, "a/b", QoS::AtMostOnce);
    assert_eq!(world.received(connection), ["SUBACK [00]"]);

    world.publish(connection, "a/b", "x", QoS::AtMostOnce, 0);

    assert_eq!(world.received(connection), ["PUBLISH a/b \"x\" qos0"]);
}

#[test]
fn messages_retained_under_another_configuration_are_not_brought_up() {
    let mut world = World::new(1);
    let (publisher, _) = world.join("p", true, 0);
    world.send(
        publisher,
        &Packet::Publish(Publish { retain: true, ..publish("t", "kept", QoS::AtLeastOnce, 1) }),
    );

    let (mut world, _) = world.restart(Settings { capabilities: without_retain(), ..Settings::default() });
    let connection = world.connect(&connect_v311("x", true));
    world.bytes(connection);
    world.subscribe_with(connection, "t", options(QoS::AtLeastOnce));

    assert_eq!(world.received(connection), ["SUBACK [01]"]);
}

fn with_server_reference() -> Settings {
    Settings { server_reference: Some(Arc::from("b.example:1883")), ..Settings::default() }
}

#[test]
fn without_a_server_reference_clients_are_told_of_the_shutdown() {
    let mut world = World::new(1);
    let (v5, _) = world.join("x", true, 0);

    world.turn(0, Input::Shutdown);

    assert_eq!(world.bytes(v5), b"\xe0\x20\x8b\x1e\x1f\0\x1bthe broker is shutting down".to_vec());
}

#[test]
fn a_broker_that_goes_away_refers_its_clients_to_another() {
    // Section 3.14.2.2.5
    let mut world = World::with(with_server_reference());
    let v5 = join(&mut world, ProtocolVersion::V5);
    let v311 = world.connect(&connect_v311("y", true));
    world.bytes(v311);

    world.turn(0, Input::Shutdown);

    let words = b"\x1f\0\x1bthe broker is shutting down\x1c\0\x0eb.example:1883";
    assert_eq!(world.bytes(v5), [&[0xe0, 49, 0x9c, 47], words.as_slice()].concat());
    assert_eq!(world.bytes(v311), b"");
    assert!(world.is_closed(v5) && world.is_closed(v311));
}

#[test]
fn who_connects_while_the_broker_goes_away_is_referred_to_another() {
    // Section 3.2.2.3.16
    let answers: [(Settings, [&[u8]; 3]); 2] = [
        (
            Settings { reason_strings: false, ..with_server_reference() },
            [b"\x20\x14\0\x9c\x11\x1c\0\x0eb.example:1883", b"\x20\x02\0\x03", b"\x20\x02\0\x03"],
        ),
        (
            Settings { reason_strings: false, ..Settings::default() },
            [b"\x20\x03\0\x88\0", b"\x20\x02\0\x03", b"\x20\x02\0\x03"],
        ),
    ];
    for (settings, answers) in answers {
        for (version, expected) in VERSIONS.into_iter().zip(answers) {
            let mut world = World::with(settings.clone());
            let early = world.accept(0, version);

            world.turn(0, Input::Shutdown);
            let late = world.accept(0, version);

            for connection in [early, late] {
                assert!(!world.is_closed(connection), "it has said nothing yet");
                world.send(connection, &Packet::Connect(connect(version)));
                assert_eq!(world.bytes(connection), expected, "{version:?}");
                assert!(world.is_closed(connection), "{version:?}");
            }
        }
    }
}

#[test]
fn response_information_is_for_clients_that_ask_for_it() {
    // [MQTT-3.1.2-28]
    let template =
        |text: &str| Settings { response_information: Some(Arc::from(text)), ..Settings::default() };
    let rows = [
        (template("answers/%c/in"), true, 1_000, Some("answers/x/in")),
        (template("answers"), true, 1_000, Some("answers")),
        (template("answers/%c/in"), false, 1_000, None),
        // [MQTT-3.1.2-24] It is no reason to refuse a client.
        (template("answers/%c/in"), true, 30, None),
        (Settings::default(), true, 1_000, None),
    ];
    for (settings, asks, packet_bytes_max, expected) in rows {
        let mut world = World::with(settings);
        let properties = ConnectProperties {
            request_response_information: asks,
            packet_bytes_max: NonZeroU32::new(packet_bytes_max),
            ..ConnectProperties::default()
        };

        let connection = world.connect(&Connect { properties, ..connect(ProtocolVersion::V5) });

        let told = with_connack(&mut world, connection, |connack| {
            connack.properties.response_information.map(str::to_owned)
        });
        assert_eq!(told.as_deref(), expected);
    }
}
