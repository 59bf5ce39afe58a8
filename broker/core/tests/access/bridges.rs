//! Bridges: the broker's own, which rules do not concern, and those of other brokers, which MQTT 3 cannot say all about.

use veilmq_core::{Access, BridgeErrand, Input, Settings};
use veilmq_protocol::{Connect, ConnectProperties, Packet, ProtocolVersion, QoS, UserPropertiesBuf};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, options, publish};

use super::{PUBLISH, deny, rules};

/// Connects as one of the broker's own bridges.
fn bridge(world: &mut World, last_identifier: u16) -> Conn {
    bridge_for(world, BridgeErrand { last_identifier, ..BridgeErrand::default() })
}

fn bridge_for(world: &mut World, errand: BridgeErrand) -> Conn {
    let bridge = world.accept(0, ProtocolVersion::V5);
    world.turn(0, Input::Bridged { connection: bridge, errand, is_encrypted: false });
    world.send(bridge, &Packet::Connect(connect_v5("local.b", false, u32::MAX)));
    bridge
}

#[test]
fn a_bridge_of_this_broker_needs_no_account_and_no_rule_holds_for_it() {
    let mut world = World::new(2);
    let nothing = || Access { rules: rules(vec![deny(PUBLISH, "#")], true), ..Access::open_to(false) };
    world.set_access(nothing());

    let first = bridge(&mut world, 0);
    world.subscribe(first, "t/#", QoS::AtLeastOnce);
    world.publish(first, "t/own", "x", QoS::AtLeastOnce, 1);

    let expected = ["CONNACK 0x00", "SUBACK [01]", "PUBLISH t/own \"x\" qos1 id1", "PUBACK id1"];
    let mut received = world.received(first);
    received.sort();
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(received, expected);
    world.cut(first);
    let (mut world, _) = world.crash(2);
    world.set_access(nothing());
    let again = bridge(&mut world, 0);
    assert_eq!(world.received(again)[0], "CONNACK 0x00 present");
}

#[test]
fn nobody_else_has_the_session_of_a_bridge() {
    let mut world = World::new(1);
    let own = bridge(&mut world, 0);
    world.received(own);

    let stranger = world.connect(&connect_v5("local.b", true, 0));
    let named = world.connect(&Connect { username: Some("bridges"), ..connect_v5("local.b", true, 0) });

    assert_eq!(world.received(stranger), ["CONNACK 0x87"]);
    assert_eq!(world.received(named), ["CONNACK 0x87"]);
    assert!(!world.is_closed(own));
}

#[test]
fn messages_to_a_bridge_have_the_identifiers_behind_those_it_has_used() {
    let mut world = World::new(1);
    let own = bridge(&mut world, 7);
    world.subscribe(own, "t", QoS::AtLeastOnce);
    world.received(own);
    let (publisher, _) = world.join("p", true, 0);

    world.publish(publisher, "t", "a", QoS::AtLeastOnce, 1);
    let before = world.received(own);
    world.cut(own);
    let again = bridge(&mut world, 10);
    world.publish(publisher, "t", "b", QoS::AtLeastOnce, 2);

    assert_eq!(before, ["PUBLISH t \"a\" qos1 id8"]);
    assert_eq!(
        world.received(again),
        ["CONNACK 0x00 present", "PUBLISH t \"a\" qos1 id8 dup", "PUBLISH t \"b\" qos1 id11"]
    );
}

#[test]
fn a_bridge_of_another_broker_gets_nothing_back_and_what_is_retained_stays_so() {
    let mut world = World::new(1);
    let other = world.connect(&Connect { bridge: true, ..connect_v311("b", true) });
    world.subscribe_with(other, "t", options(QoS::AtMostOnce));
    world.received(other);
    let (publisher, _) = world.join("p", true, 0);

    world.publish(other, "t", "own", QoS::AtMostOnce, 0);
    world.publish(publisher, "t", "of somebody else", QoS::AtMostOnce, 0);
    world.retain(publisher, "t", "kept");

    assert_eq!(
        world.received(other),
        ["PUBLISH t \"of somebody else\" qos0", "PUBLISH t \"kept\" qos0 retain"]
    );
}

#[test]
fn a_client_says_below_sys_whether_its_own_bridge_is_up_and_nothing_else() {
    let mut world = World::new(1);
    let (reader, _) = world.join("r", true, 0);
    world.subscribe(reader, "$SYS/#", QoS::AtMostOnce);
    world.received(reader);
    let (bridge, _) = world.join("b", true, 0);

    for topic in ["$SYS/broker/connection/b/state", "$SYS/broker/connection/c/state", "$SYS/broker/uptime"] {
        world.publish(bridge, topic, "1", QoS::AtLeastOnce, 1);
    }

    assert_eq!(world.received(bridge), ["PUBACK id1", "PUBACK id1 0x87", "PUBACK id1 0x87"]);
    assert_eq!(world.received(reader), ["PUBLISH $SYS/broker/connection/b/state \"1\" qos0"]);
}

#[test]
fn messages_at_qos_0_wait_for_a_bridge_that_is_away_if_it_has_asked_for_that() {
    for (keeps_qos0, expected) in
        [(true, &["CONNACK 0x00 present", "PUBLISH t \"x\" qos0"][..]), (false, &["CONNACK 0x00 present"])]
    {
        let mut world = World::new(1);
        let own = bridge_for(&mut world, BridgeErrand { keeps_qos0, ..BridgeErrand::default() });
        world.subscribe(own, "t", QoS::AtMostOnce);
        world.cut(own);
        let (client, _) = world.join("c", true, 0);
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);

        let again = bridge(&mut world, 0);

        assert_eq!(world.received(again), expected);
        world.cut(again);
        world.publish(client, "t", "y", QoS::AtMostOnce, 0);
        let last = bridge(&mut world, 0);
        assert_eq!(world.received(last), ["CONNACK 0x00 present"], "it is asked for each time");
    }
}

#[test]
fn a_session_shows_that_a_message_found_no_room_until_its_client_comes_for_what_waits() {
    let large = "x".repeat(700);
    for settings in [
        Settings { session_queue_messages_max: 1, ..Settings::default() },
        Settings { session_queue_bytes_max: 1_000, ..Settings::default() },
        Settings { queue_bytes_max: 1_000, ..Settings::default() },
    ] {
        let mut world = World::with(settings);
        let errand = BridgeErrand { keeps_qos0: true, ..BridgeErrand::default() };
        let own = bridge_for(&mut world, errand);
        world.subscribe(own, "t", QoS::AtLeastOnce);
        world.cut(own);
        let (client, _) = world.join("c", true, 0);
        let lacked_room = |world: &World| world.shard(0).session("local.b", 0).unwrap().summary.lacked_room;
        world.publish(client, "t", &large, QoS::AtLeastOnce, 1);
        assert!(!lacked_room(&world));

        world.publish(client, "t", &large, QoS::AtMostOnce, 0);
        assert!(lacked_room(&world));

        let own = bridge_for(&mut world, BridgeErrand { only_subscribes: true, ..errand });
        world.cut(own);
        assert!(lacked_room(&world), "it has not come for what waits");
        bridge_for(&mut world, errand);
        assert!(!lacked_room(&world));
    }
}

#[test]
fn what_waits_at_qos_0_leaves_when_it_expires() {
    let mut world = World::new(1);
    let own = bridge_for(&mut world, BridgeErrand { keeps_qos0: true, ..BridgeErrand::default() });
    world.subscribe(own, "t", QoS::AtLeastOnce);
    world.cut(own);
    let (client, _) = world.join("c", true, 0);
    for (payload, seconds) in [("a", 9), ("b", 1), ("c", 0), ("d", 2)] {
        let mut message = publish("t", payload, QoS::AtMostOnce, 0);
        message.properties.message_expiry_seconds = (seconds > 0).then_some(seconds);
        world.send(client, &Packet::Publish(message));
    }
    let waiting = |world: &World| {
        let session = world.shard(0).session("local.b", 0).unwrap().summary;
        (session.queued_messages, session.queued_bytes > 0)
    };
    let mut seen = vec![waiting(&world)];

    for seconds in [2, 1, 7] {
        world.pass(seconds * 1_000);
        seen.push(waiting(&world));
    }

    assert_eq!(seen, [(4, true), (2, true), (2, true), (1, true)]);
    assert_eq!(world.sample("veilmq_messages_dropped_total", "expired"), 3);
    let again = bridge(&mut world, 0);
    assert_eq!(world.received(again)[1..], ["PUBLISH t \"c\" qos0"]);
}

#[test]
fn what_waits_for_a_bridge_goes_on_waiting_while_it_only_subscribes() {
    let mut world = World::new(1);
    let subscribing = BridgeErrand { keeps_qos0: true, only_subscribes: true, ..BridgeErrand::default() };
    let (client, _) = world.join("c", true, 0);
    let first = bridge_for(&mut world, subscribing);
    world.subscribe(first, "t", QoS::AtLeastOnce);
    world.cut(first);
    world.publish(client, "t", "a", QoS::AtMostOnce, 0);
    world.publish(client, "t", "b", QoS::AtLeastOnce, 1);

    let second = bridge_for(&mut world, subscribing);
    world.publish(client, "t", "c", QoS::AtMostOnce, 0);
    world.publish(client, "t", "d", QoS::AtLeastOnce, 2);
    assert_eq!(world.received(second), ["CONNACK 0x00 present"]);
    world.cut(second);
    let third = bridge(&mut world, 0);

    let all = ["a\" qos0", "c\" qos0", "b\" qos1 id1", "d\" qos1 id2"];
    let expected = all.map(|message| format!("PUBLISH t \"{message}"));
    assert_eq!(world.received(third)[1..], expected);
}

#[test]
fn only_a_bridge_that_asks_is_told_who_this_broker_is() {
    let broker_id = Some("0123".into());
    let mut world = World::with(Settings { broker_id, ..Settings::default() });
    let mut question = UserPropertiesBuf::new();
    question.push("veilmq-bridge", "site-7").unwrap();
    let asking = ConnectProperties { user: question.as_user_properties(), ..ConnectProperties::default() };

    for (properties, expected) in [(asking, true), (ConnectProperties::default(), false)] {
        let conn = world.connect(&Connect { properties, ..connect_v5("b", true, 0) });
        let bytes = world.bytes(conn);

        assert_eq!(bytes.ends_with(b"\x26\0\x0dveilmq-broker\0\x040123"), expected, "{bytes:02x?}");
    }
}
