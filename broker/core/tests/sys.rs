//! Topics that belong to the broker: what it says there, who hears it, and that nobody else may.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_core::{Input, Settings, SysReport};
use veilmq_protocol::{Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, TopicName, Will};
use veilmq_simulator::{World, connect_v5, connect_v311, publish};

fn announce(world: &mut World, topic: &str, payload: &str) {
    let topic = TopicName::new(topic).unwrap();
    world.turn(0, Input::Announced { topic, payload: payload.as_bytes(), retain: true });
}

#[test]
fn what_the_broker_says_reaches_subscribers_at_their_quality_and_those_to_come() {
    for (qos, packet_id) in [(QoS::AtMostOnce, ""), (QoS::AtLeastOnce, " id1"), (QoS::ExactlyOnce, " id1")] {
        let mut world = World::new(3);
        let qos_value = qos.value();
        let (early, _) = world.join("early", true, 0);
        world.subscribe(early, "$SYS/#", qos);
        world.bytes(early);
        let (member, _) = world.join("member", true, 0);
        world.subscribe(member, "$share/group/$SYS/#", qos);
        world.bytes(member);

        announce(&mut world, "$SYS/broker/uptime", "0 seconds");
        announce(&mut world, "$SYS/broker/uptime", "10 seconds");

        let (late, _) = world.join("late", true, 0);
        world.subscribe(late, "$SYS/broker/+", qos);
        let received = world.received(early);
        assert_eq!(
            received[0],
            format!("PUBLISH $SYS/broker/uptime \"0 seconds\" qos{qos_value}{packet_id}")
        );
        assert_eq!(received.len(), 2);
        assert_eq!(world.received(member), received);
        assert_eq!(
            world.received(late),
            [
                format!("SUBACK [0{qos_value}]"),
                format!("PUBLISH $SYS/broker/uptime \"10 seconds\" qos{qos_value}{packet_id} retain"),
            ]
        );
    }
}

#[test]
fn what_is_said_once_is_not_for_subscribers_to_come() {
    let mut world = World::new(2);
    let (early, _) = world.join("early", true, 0);
    world.subscribe(early, "$SYS/broker/log/#", QoS::AtMostOnce);
    world.bytes(early);
    let topic = TopicName::new("$SYS/broker/log/N").unwrap();

    world.turn(0, Input::Announced { topic, payload: b"line", retain: false });

    let (late, _) = world.join("late", true, 0);
    world.subscribe(late, "$SYS/broker/log/#", QoS::AtMostOnce);
    assert_eq!(world.received(early), ["PUBLISH $SYS/broker/log/N \"line\" qos0"]);
    assert_eq!(world.received(late), ["SUBACK [00]"]);
}

#[test]
fn filters_that_begin_with_a_wildcard_do_not_reach_the_brokers_topics() {
    // [MQTT-4.7.2-1]
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    announce(&mut world, "$SYS/x", "before");
    for filter in ["#", "+/x", "+/#"] {
        world.subscribe(client, filter, QoS::AtMostOnce);
    }

    announce(&mut world, "$SYS/x", "after");

    assert_eq!(world.received(client), ["SUBACK [00]"; 3]);
    world.subscribe(client, "$SYS/+", QoS::AtMostOnce);
    assert_eq!(world.received(client), ["SUBACK [00]", "PUBLISH $SYS/x \"after\" qos0 retain"]);
}

#[test]
fn what_the_broker_says_is_not_stored_and_takes_no_budget() {
    let mut world = World::with(Settings { retained_bytes_max: 1, ..Settings::default() });

    announce(&mut world, "$SYS/broker/version", "veilmq version 1");

    assert_eq!(world.shared.retained_totals(), (0, 0));
    assert_eq!(world.stored_bodies(), 0);
    let (mut world, summary) = world.crash(1);
    assert_eq!(summary.retained, 0);
    let (client, _) = world.join("c", true, 0);
    world.subscribe(client, "$SYS/#", QoS::AtMostOnce);
    assert_eq!(world.received(client), ["SUBACK [00]"]);
}

#[test]
fn a_session_that_is_away_is_owed_what_it_subscribed_to() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", false, 600);
    world.subscribe(client, "$SYS/#", QoS::AtLeastOnce);
    world.cut(client);

    announce(&mut world, "$SYS/broker/uptime", "0 seconds");

    let (mut world, _) = world.crash(1);
    let (client, _) = world.join("c", false, 600);
    assert_eq!(world.received(client), ["PUBLISH $SYS/broker/uptime \"0 seconds\" qos1 id1"]);
}

#[test]
fn a_client_that_publishes_to_the_brokers_topics_is_told_no_and_nobody_hears_it() {
    let v5 = connect_v5("p", true, 0);
    let v311 = connect_v311("p", true);
    let cases: &[(Connect<'_>, QoS, &[&str])] = &[
        (v5, QoS::AtMostOnce, &[]),
        (v5, QoS::AtLeastOnce, &["PUBACK id7 0x87"]),
        (v5, QoS::ExactlyOnce, &["PUBREC id7 0x87"]),
        // [MQTT311-3.3.5-2] There is no way to say no, so it is acknowledged as any other.
        (v311, QoS::AtMostOnce, &[]),
        (v311, QoS::AtLeastOnce, &["PUBACK id7"]),
        (v311, QoS::ExactlyOnce, &["PUBREC id7", "PUBCOMP id7"]),
    ];
    for (connect, qos, answers) in cases {
        let mut world = World::new(1);
        let (witness, _) = world.join("w", true, 0);
        world.subscribe(witness, "$SYS/#", QoS::AtLeastOnce);
        world.bytes(witness);
        let publisher = world.connect(connect);
        world.bytes(publisher);
        let packet_id = if *qos == QoS::AtMostOnce { 0 } else { 7 };

        let forbidden = Publish { retain: true, ..publish("$SYS/broker/uptime", "never", *qos, packet_id) };
        world.send(publisher, &Packet::Publish(forbidden));
        if (connect.version, *qos) == (ProtocolVersion::V311, QoS::ExactlyOnce) {
            world.ack(publisher, Packet::PubRel, 7);
        }

        assert_eq!(world.received(publisher), *answers, "{:?} {qos:?}", connect.version);
        assert!(!world.is_closed(publisher));
        assert!(world.received(witness).is_empty());
        assert_eq!(world.sample("veilmq_messages_dropped_total", "not_authorized"), 1);
        let (late, _) = world.join("l", true, 0);
        world.subscribe(late, "$SYS/#", QoS::AtMostOnce);
        assert_eq!(world.received(late), ["SUBACK [00]"]);
    }
}

#[test]
fn a_refused_message_frees_the_clients_quota() {
    let mut world = World::with(Settings { receive_maximum: 1, ..Settings::default() });
    let (client, _) = world.join("c", true, 0);
    for (packet_id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::ExactlyOnce)] {
        world.publish(client, "$SYS/x", "", qos, packet_id);
    }

    world.publish(client, "t", "", QoS::AtLeastOnce, 4);

    assert_eq!(
        world.received(client),
        ["PUBACK id1 0x87", "PUBREC id2 0x87", "PUBREC id3 0x87", "PUBACK id4 0x10"]
    );
}

#[test]
fn a_will_on_the_brokers_topics_is_refused_with_connect() {
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TopicName::new("$SYS/x").unwrap(),
        payload: b"x",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    for (connect, bytes) in [
        (connect_v5("c", true, 0), b"\x20\x03\x00\x87\x00".as_slice()),
        (connect_v311("c", true), b"\x20\x02\x00\x05"),
    ] {
        let mut world = World::with(Settings { reason_strings: false, ..Settings::default() });

        let client = world.connect(&Connect { will: Some(will), ..connect });

        // [MQTT-3.1.4-2]
        assert!(world.is_closed(client));
        assert_eq!(world.bytes(client), bytes);
    }
}

#[test]
fn the_totals_of_the_shards_come_out_under_their_names() {
    let mut world = World::new(4);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    world.subscribe(subscriber, "$share/group/u", QoS::AtMostOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "t", "four", QoS::AtMostOnce, 0);
    let (sleeper, _) = world.join("z", false, 1);
    world.cut(sleeper);
    world.pass(2_000);

    let all = SysReport::new("1", world.now()).update(&world.totals(), world.now());

    let payload = |name: &str| {
        let topic = format!("$SYS/broker/{name}");
        all.iter().find(|(changed, _)| *changed == topic).map(|(_, payload)| payload.clone()).unwrap()
    };
    for (name, expected) in [
        ("clients/connected", "2"),
        ("clients/total", "2"),
        ("clients/expired", "1"),
        ("messages/received", "6"),
        ("messages/sent", "6"),
        ("publish/messages/received", "1"),
        ("publish/bytes/received", "4"),
        ("publish/messages/sent", "1"),
        ("publish/bytes/sent", "4"),
        ("subscriptions/count", "2"),
        ("shared_subscriptions/count", "1"),
    ] {
        assert_eq!(payload(name), expected, "{name}");
    }
}

#[test]
fn every_byte_to_a_client_is_counted_from_the_first_answer_to_the_farewell() {
    let mut world = World::new(1);
    let client = world.connect(&connect_v311("client", true));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    world.publish(client, "t", "hello", QoS::AtLeastOnce, 2);
    let refused = world.accept(0, ProtocolVersion::V5);
    world.send(refused, &Packet::Connect(Connect { client_id: "", ..connect_v5("", true, 0) }));
    let violator = world.connect(&connect_v5("violator", true, 0));
    world.send_bytes(violator, b"\xc0\x01\0");

    let received: usize =
        [client, refused, violator].map(|connection| world.bytes(connection).len()).iter().sum();

    assert!(received > 0 && world.is_closed(violator));
    assert_eq!(world.sample("veilmq_bytes_sent_total", ""), received as u64);
}
