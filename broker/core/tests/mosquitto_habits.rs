//! What MQTT leaves open and Mosquitto does in its own way, where the settings ask for that, and what is done everywhere because nobody
//! loses by it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_core::Settings;
use veilmq_protocol::{
    Acknowledgement, Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    SubscribeOptions, TopicName, Will,
};
use veilmq_simulator::{World, connect_v5, connect_v311, id, options, publish};

fn world(mosquitto_habits: bool) -> World {
    World::with(Settings { mosquitto_habits, reason_strings: false, ..Settings::default() })
}

fn will<'a>(topic: &'a str, payload: &'a [u8]) -> Will<'a> {
    Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TopicName::new(topic).unwrap(),
        payload,
        delay_seconds: 0,
        properties: PublishProperties::default(),
    }
}

#[test]
fn a_malformed_connect_is_answered_where_its_properties_or_its_client_identifier_are_at_fault() {
    let (malformed, not_valid) = (&b"\x20\x03\0\x81\0"[..], &b"\x20\x03\0\x85\0"[..]);
    let cases = [
        // The Will Topic or the User Name holds U+0000, the Password is cut short, a reserved flag is set.
        (&b"\x06\0\x3c\0\0\x01c\0\0\x03a\0b\0\x01w"[..], &b""[..]),
        (b"\x82\0\x3c\0\0\x01c\0\x01\0", b""),
        (b"\xc2\0\x3c\0\0\x01c\0\x01u\0\x02p", b""),
        (b"\x03\0\x3c\0\0\x01c", b""),
        // Receive Maximum is cut short, Maximum QoS is none of its properties, bytes are left over.
        (b"\x02\0\x3c\x02\x21\0\0\x01c", malformed),
        (b"\x02\0\x3c\x02\x24\0\0\x01c", malformed),
        (b"\x02\0\x3c\0\0\x01c\0", malformed),
        // The Client Identifier holds U+0000.
        (b"\x02\0\x3c\0\0\x01\0", not_valid),
    ];
    for ((rest, answer), habits) in cases.iter().flat_map(|case| [(case, true), (case, false)]) {
        let body = [b"\0\x04MQTT\x05", *rest].concat();
        let connect = [&[0x10, body.len() as u8][..], &body].concat();
        let expected = if habits { answer } else { malformed };
        let mut world = world(habits);
        let client = world.accept(0, ProtocolVersion::V5);

        world.send_bytes(client, &connect);

        assert_eq!(world.bytes(client), expected, "{rest:02x?} {habits}");
        assert!(world.is_closed(client));
    }
}

#[test]
fn a_will_to_a_topic_of_the_broker_is_answered_with_nothing() {
    for (version, habits, expected) in [
        (ProtocolVersion::V5, true, &b""[..]),
        (ProtocolVersion::V311, true, b""),
        (ProtocolVersion::V5, false, b"\x20\x03\0\x87\0"),
        (ProtocolVersion::V311, false, b"\x20\x02\0\x05"),
    ] {
        let mut world = world(habits);
        let connect = Connect { version, will: Some(will("$CONTROL/x", b"w")), ..connect_v5("c", true, 0) };

        let client = world.connect(&connect);

        assert_eq!(world.bytes(client), expected);
        assert!(world.is_closed(client));
    }
}

#[test]
fn too_many_levels_are_malformed() {
    let deep = "/".repeat(200);
    for (habits, published, subscribed) in
        [(true, "DISCONNECT 0x81", "DISCONNECT 0x81"), (false, "DISCONNECT 0x90", "SUBACK [8f]")]
    {
        let mut world = world(habits);
        let (one, _) = world.join("one", true, 0);
        let (other, _) = world.join("other", true, 0);

        world.publish(one, &deep, "x", QoS::AtLeastOnce, 1);
        world.subscribe(other, &deep, QoS::AtMostOnce);

        assert_eq!(world.received(one), [published]);
        assert_eq!(world.received(other), [subscribed]);
    }
}

#[test]
fn too_many_sessions_are_a_busy_broker() {
    for (mosquitto_habits, reason) in [(true, 0x89), (false, 0x97)] {
        let settings =
            Settings { mosquitto_habits, sessions_max: 1, reason_strings: false, ..Settings::default() };
        let mut world = World::with(settings);
        world.join("one", true, 60);

        let client = world.connect(&connect_v5("two", true, 0));

        assert_eq!(world.bytes(client), [0x20, 3, 0, reason, 0]);
    }
}

#[test]
fn the_release_of_an_identifier_that_is_not_in_use_succeeds() {
    for (habits, expected) in [(true, "PUBCOMP id7"), (false, "PUBCOMP id7 0x92")] {
        let mut world = world(habits);
        let (client, _) = world.join("c", true, 0);

        world.send(client, &Packet::PubRel(Acknowledgement::new(id(7), ReasonCode::Success)));

        assert_eq!(world.received(client), [expected]);
    }
}

#[test]
fn anybody_may_say_how_a_bridge_fares() {
    for (habits, expected) in [(true, "PUBACK id1 0x10"), (false, "PUBACK id1 0x87")] {
        let mut world = world(habits);
        let (client, _) = world.join("c", true, 0);

        world.publish(client, "$SYS/broker/connection/other/state", "1", QoS::AtLeastOnce, 1);
        world.publish(client, "$SYS/broker/connection/other", "1", QoS::AtLeastOnce, 2);

        assert_eq!(world.received(client), [expected, "PUBACK id2 0x87"]);
    }
}

#[test]
fn nobody_publishes_where_shared_subscriptions_have_their_names() {
    for (habits, expected) in [(true, "PUBACK id1 0x87"), (false, "PUBACK id1 0x10")] {
        let mut world = world(habits);
        let (client, _) = world.join("c", true, 0);

        world.publish(client, "$share/g/t", "1", QoS::AtLeastOnce, 1);

        assert_eq!(world.received(client), [expected]);
    }
}

#[test]
fn a_will_that_is_too_large_is_refused_with_its_connect() {
    for (version, expected) in
        [(ProtocolVersion::V5, &b"\x20\x03\0\x95\0"[..]), (ProtocolVersion::V311, b"\x20\x02\0\x05")]
    {
        let settings = Settings { payload_bytes_max: 1, reason_strings: false, ..Settings::default() };
        let mut world = World::with(settings);
        let connect = Connect { version, will: Some(will("t", b"ww")), ..connect_v5("c", true, 0) };

        let client = world.connect(&connect);

        assert_eq!(world.bytes(client), expected);
        assert!(world.is_closed(client));
        let fits = world.connect(&Connect { will: Some(will("t", b"w")), ..connect_v311("c", true) });
        assert_eq!(world.bytes(fits), b"\x20\x02\0\0");
    }
}

#[test]
fn a_publisher_that_no_local_leaves_out_has_subscribed_all_the_same() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    world.subscribe_with(client, "t", SubscribeOptions { no_local: true, ..options(QoS::AtLeastOnce) });
    world.received(client);

    world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
    world.publish(client, "u", "x", QoS::AtLeastOnce, 2);

    assert_eq!(world.received(client), ["PUBACK id1", "PUBACK id2 0x10"]);
}

#[test]
fn a_message_that_expires_while_it_waits_takes_an_identifier_along() {
    let mut world = World::new(1);
    let (away, _) = world.join("c", true, 60);
    world.subscribe(away, "t", QoS::AtLeastOnce);
    world.commit();
    world.cut(away);
    let (publisher, _) = world.join("p", true, 0);
    let short = PublishProperties { message_expiry_seconds: Some(1), ..PublishProperties::default() };
    let first = Publish { properties: short, ..publish("t", "gone", QoS::AtLeastOnce, 1) };
    world.send(publisher, &Packet::Publish(first));
    world.publish(publisher, "t", "here", QoS::AtLeastOnce, 2);
    world.commit();
    world.pass(2_000);

    let (back, _) = world.join("c", false, 60);

    let received = world.received(back);
    assert_eq!(received.last().map(String::as_str), Some("PUBLISH t \"here\" qos1 id2"), "{received:?}");
}

#[test]
fn what_only_a_server_sends_is_a_protocol_error_whatever_it_says() {
    for packet in [&b"\x20\x01\x00"[..], b"\x90\x06\x00\x01\x02\x01\x00\x00", b"\xb0\x00", b"\xd0\x01\x00"] {
        let mut world = world(false);
        let (client, _) = world.join("c", true, 0);

        world.send_bytes(client, packet);

        assert_eq!(world.received(client), ["DISCONNECT 0x82"], "{packet:02x?}");
        assert!(world.is_closed(client));
    }
}

#[test]
fn a_client_that_comes_back_in_time_takes_its_delayed_will_back_even_with_clean_start() {
    for (habits, expected) in [(true, &[][..]), (false, &["PUBLISH t \"w\" qos0"])] {
        let mut world = world(habits);
        let (other, _) = world.join("other", true, 0);
        world.subscribe(other, "t", QoS::AtMostOnce);
        world.received(other);
        let delayed = Will { delay_seconds: 3, ..will("t", b"w") };
        let client = world.connect(&Connect { will: Some(delayed), ..connect_v5("c", true, 60) });
        world.cut(client);

        world.join("c", true, 0);

        assert_eq!(world.received(other), expected);
    }
}

#[test]
fn properties_are_passed_on_in_the_order_in_which_they_came() {
    // User Property a: b, Response Topic r, Payload Format Indicator, User Property c: d.
    let properties = b"\x26\0\x01a\0\x01b\x08\0\x01r\x01\x01\x26\0\x01c\0\x01d";
    let passed_on = [&b"\x30\x19\0\x01t\x14"[..], properties, b"x"].concat();
    let mut world = world(false);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.bytes(subscriber);

    world.send_bytes(publisher, &passed_on);

    assert_eq!(world.bytes(subscriber), passed_on);
    // The same as a Will, with a Will Delay Interval of 0 in their midst.
    let (front, back) = properties.split_at(7);
    let will = [&b"\x19"[..], front, b"\x18\0\0\0\0", back, b"\0\x01t\0\x01x"].concat();
    let connect = [&b"\x10\x2e\0\x04MQTT\x05\x06\0\x3c\0\0\x01w"[..], &will].concat();
    let willing = world.accept(0, ProtocolVersion::V5);
    world.send_bytes(willing, &connect);
    world.cut(willing);
    assert_eq!(world.bytes(subscriber), passed_on);
}

#[test]
fn packet_identifiers_go_on_after_a_restart() {
    let mut world = world(true);
    let (subscriber, _) = world.join("s", false, 600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.received(subscriber);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos1 id1"]);
    world.send(subscriber, &Packet::PubAck(Acknowledgement::new(id(1), ReasonCode::Success)));
    world.cut(subscriber);

    let (mut world, _) = world.crash(1);

    let (subscriber, _) = world.join("s", false, 600);
    world.received(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "t", "y", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"y\" qos1 id2"]);
}

/// Publishes at QoS 2 with the identifier 7.
fn publish_7(world: &mut World, publisher: veilmq_simulator::Conn, topic: &str, dup: bool) {
    let message = Publish { dup, ..publish(topic, "x", QoS::ExactlyOnce, 7) };
    world.send(publisher, &Packet::Publish(message));
}

#[test]
fn a_message_at_qos_2_waits_for_its_pubrel_where_nothing_is_stored() {
    for (mosquitto_habits, queues_spill, waits) in
        [(true, false, true), (true, true, false), (false, false, false)]
    {
        let settings =
            Settings { mosquitto_habits, queues_spill, reason_strings: false, ..Settings::default() };
        let mut world = World::with(settings);
        let (subscriber, _) = world.join("s", true, 0);
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let (publisher, _) = world.join("p", true, 0);
        world.received(subscriber);
        let first = "PUBLISH first \"x\" qos0";

        publish_7(&mut world, publisher, "first", false);
        assert_eq!(world.received(subscriber).is_empty(), waits, "{mosquitto_habits} {queues_spill}");
        publish_7(&mut world, publisher, "repeated", true);
        assert_eq!(world.received(publisher), ["PUBREC id7", "PUBREC id7"]);
        world.send(publisher, &Packet::PubRel(Acknowledgement::new(id(7), ReasonCode::Success)));
        assert_eq!(world.received(publisher), ["PUBCOMP id7"]);
        let released: &[&str] = if waits { &[first] } else { &[] };
        assert_eq!(world.received(subscriber), released, "a repetition is none of its own");
    }
}

#[test]
fn a_client_that_repeats_a_message_of_qos_2_again_and_again_is_ended() {
    for (habits, queues_spill) in [(true, false), (true, true), (false, false)] {
        let settings =
            Settings { mosquitto_habits: habits, queues_spill, reason_strings: false, ..Settings::default() };
        let mut world = World::with(settings);
        let (publisher, _) = world.join("p", false, 600);
        let older = world.connect(&connect_v311("older", false));
        world.received(older);

        for client in [publisher, older] {
            publish_7(&mut world, client, "t", false);
            publish_7(&mut world, client, "t", true);
            assert_eq!(world.received(client), ["PUBREC id7", "PUBREC id7"], "once is no harm");
            publish_7(&mut world, client, "t", true);
            assert_eq!(world.is_closed(client), habits);
        }

        let said = if habits { "DISCONNECT 0x82" } else { "PUBREC id7" };
        assert_eq!(world.received(publisher), [said]);
        assert_eq!(world.received(older), if habits { &[][..] } else { &["PUBREC id7"] });
    }
}

#[test]
fn a_message_of_qos_2_may_be_repeated_once_on_each_connection_and_anew_after_its_pubrel() {
    let mut world = world(true);
    let (publisher, _) = world.join("p", false, 600);
    let release = Packet::PubRel(Acknowledgement::new(id(7), ReasonCode::Success));

    for _ in 0..3 {
        publish_7(&mut world, publisher, "t", false);
        publish_7(&mut world, publisher, "t", true);
        world.send(publisher, &release);
    }
    publish_7(&mut world, publisher, "t", false);
    publish_7(&mut world, publisher, "t", true);
    assert!(!world.is_closed(publisher));
    world.commit();
    world.cut(publisher);
    let (publisher, _) = world.join("p", false, 600);
    world.received(publisher);
    publish_7(&mut world, publisher, "t", true);

    assert_eq!(world.received(publisher), ["PUBREC id7"]);
}

#[test]
fn of_two_messages_that_wait_with_one_identifier_the_last_one_counts_and_an_end_lets_it_go() {
    let settings = Settings { mosquitto_habits: true, queues_spill: false, ..Settings::default() };
    let mut world = World::with(settings);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "#", QoS::AtMostOnce);
    let (publisher, _) = world.join("p", false, 600);
    world.received(subscriber);

    publish_7(&mut world, publisher, "first", false);
    publish_7(&mut world, publisher, "second", false);
    assert_eq!(world.received(publisher), ["PUBREC id7", "PUBREC id7"]);
    assert_eq!(world.received(subscriber), [""; 0]);
    world.cut(publisher);

    assert_eq!(world.received(subscriber), ["PUBLISH second \"x\" qos0"]);
    let (publisher, _) = world.join("p", false, 600);
    world.received(publisher);
    world.send(publisher, &Packet::PubRel(Acknowledgement::new(id(7), ReasonCode::Success)));
    assert_eq!(world.received(publisher), ["PUBCOMP id7"]);
    assert_eq!(world.received(subscriber), [""; 0], "exactly once");
}
