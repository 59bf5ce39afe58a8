//! Joining and leaving groups: what is granted, what is refused, and what is counted.

use veilmq_core::Settings;
use veilmq_protocol::{
    Connect, Packet, ProtocolVersion, QoS, RetainHandling, SubscribeOptions, TopicFilter, Unsubscribe,
    UnsubscribeFiltersBuf, UserProperties, next_frame,
};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, id, options};

use crate::{GROUP, limited_member, member, payloads, publish_all, publisher};

fn unsubscribe(world: &mut World, connection: Conn, filter: &str) {
    let mut filters = UnsubscribeFiltersBuf::default();
    filters.push(TopicFilter::new(filter).unwrap());
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: id(10),
        user: UserProperties::default(),
        filters: filters.as_filters(),
    });
    world.send(connection, &packet);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    // [MQTT-3.8.3-4]
    let mut world = World::new(1);
    let (client, _) = world.join("a", true, 0);

    world.send_bytes(client, b"\x82\x10\0\x01\0\0\x0a$share/g/t\x04");

    assert_eq!(world.received(client), ["DISCONNECT 0x82"]);
    assert!(world.is_closed(client));
}

#[test]
fn a_shared_filter_needs_a_share_name_without_wildcards_and_a_filter() {
    // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    for filter in ["$share", "$share/x", "$share/x/", "$share//f", "$share/a+/f", "$share/#/f"] {
        let mut body = vec![0, 1, 0, 0, filter.len() as u8];
        body.extend_from_slice(filter.as_bytes());
        body.push(0);
        let mut world = World::new(1);
        let (client, _) = world.join("a", true, 0);

        world.send_bytes(client, &[&[0x82, body.len() as u8], &body[..]].concat());

        assert_eq!(world.received(client), ["DISCONNECT 0x81"], "{filter}");
        // MQTT 3.1.1 has no properties, and no way to say why.
        let client = world.connect(&connect_v311("b", true));
        body.remove(2);
        world.send_bytes(client, &[&[0x82, body.len() as u8], &body[..]].concat());
        assert_eq!(world.received(client), ["CONNACK 0x00"], "{filter}");
        assert!(world.is_closed(client));
    }
}

#[test]
fn connack_does_not_deny_shared_subscriptions() {
    let mut world = World::new(1);
    let client = world.connect(&connect_v5("a", true, 0));
    let bytes = world.bytes(client);

    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    let Packet::ConnAck(connack) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
        panic!("expected CONNACK, got {bytes:02x?}");
    };
    assert_ne!(connack.properties.shared_subscription_available, Some(false));
}

#[test]
fn a_shared_subscription_brings_no_retained_messages() {
    let mut world = World::new(1);
    let publisher = publisher(&mut world);
    world.retain(publisher, "t", "kept");
    for (name, expiry_seconds) in [("a", 0), ("b", 60)] {
        let (client, _) = world.join(name, true, expiry_seconds);
        for retain_handling in [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend] {
            let options = SubscribeOptions { retain_handling, ..options(QoS::AtLeastOnce) };
            world.subscribe_with(client, GROUP, options);
            assert_eq!(world.received(client), ["SUBACK [01]"], "{retain_handling:?}");
        }

        world.subscribe(client, "t", QoS::AtMostOnce);
        assert_eq!(world.received(client), ["SUBACK [00]", "PUBLISH t \"kept\" qos0 retain"]);
    }
}

#[test]
fn an_unsubscribed_member_gets_no_new_messages_and_keeps_those_it_has() {
    let mut world = World::new(1);
    let a = limited_member(&mut world, "a", 60, 1);
    let publisher = publisher(&mut world);
    publish_all(&mut world, publisher, &["1", "2"], QoS::AtLeastOnce);
    assert_eq!(payloads(&mut world, a), ["1"]);
    unsubscribe(&mut world, a, "t");
    unsubscribe(&mut world, a, "$share/h/t");
    unsubscribe(&mut world, a, GROUP);
    assert_eq!(world.received(a), ["UNSUBACK [11]", "UNSUBACK [11]", "UNSUBACK [00]"]);

    publish_all(&mut world, publisher, &["3"], QoS::AtLeastOnce);
    world.ack(a, Packet::PubAck, 1);

    assert_eq!(payloads(&mut world, a), ["2"]);
    assert_eq!(world.received(publisher), ["PUBACK id1", "PUBACK id2", "PUBACK id1 0x10"]);
    let (mut world, summary) = world.crash(1);
    assert_eq!((summary.subscriptions, summary.deliveries), (0, 1));
    assert_eq!(world.sample("veilmq_shared_subscriptions", ""), 0);
    // It was a member's message, so it still goes to one.
    let b = member(&mut world, "b", 0, QoS::AtLeastOnce);
    world.pass(60_000);
    assert_eq!(payloads(&mut world, b), ["2"]);
}

#[test]
fn subscribing_again_changes_the_options_and_not_the_group() {
    let mut world = World::new(1);
    let [a, b] = ["a", "b"].map(|name| member(&mut world, name, 0, QoS::AtLeastOnce));
    let publisher = publisher(&mut world);
    publish_all(&mut world, publisher, &["1"], QoS::AtLeastOnce);

    world.subscribe(a, GROUP, QoS::AtMostOnce);
    publish_all(&mut world, publisher, &["2", "3"], QoS::AtLeastOnce);

    assert_eq!(world.received(a), ["PUBLISH t \"1\" qos1 id1", "SUBACK [00]", "PUBLISH t \"3\" qos0"]);
    assert_eq!(world.received(b), ["PUBLISH t \"2\" qos1 id1"]);
    assert_eq!(world.sample("veilmq_shared_subscriptions", ""), 2);
}

#[test]
fn shared_subscriptions_are_counted_with_all_others_and_apart() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let a = member(&mut world, "a", 0, QoS::AtMostOnce);
        world.subscribe(a, "t", QoS::AtMostOnce);
        member(&mut world, "b", 60, QoS::AtMostOnce);
        let counts = |world: &World| {
            ["veilmq_subscriptions", "veilmq_shared_subscriptions"].map(|name| world.sample(name, ""))
        };
        assert_eq!(counts(&world), [3, 2]);

        world.cut(a);

        assert_eq!(counts(&world), [1, 1]);
    }
}

#[test]
fn clients_of_every_version_share() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let mut members = vec![member(&mut world, "a", 0, QoS::AtLeastOnce)];
        for version in [ProtocolVersion::V311, ProtocolVersion::V31] {
            let name = format!("level{}", version.level());
            let connection = world.connect(&Connect { version, ..connect_v311(&name, true) });
            world.subscribe(connection, GROUP, QoS::AtLeastOnce);
            assert_eq!(world.received(connection), ["CONNACK 0x00", "SUBACK [01]"]);
            members.push(connection);
        }
        let publisher = publisher(&mut world);

        publish_all(&mut world, publisher, &["1", "2", "3"], QoS::AtLeastOnce);

        for (number, member) in (1..).zip(members) {
            assert_eq!(world.received(member), [format!("PUBLISH t \"{number}\" qos1 id1")]);
        }
    }
}

#[test]
fn a_group_matches_topics_by_its_inner_filter() {
    let mut world = World::with(Settings { topic_levels_max: 3, ..Settings::default() });
    let (client, _) = world.join("a", true, 0);
    for filter in ["$share/g/#", "$share/g/a/b/c", "$share/g/a/b/c/d"] {
        world.subscribe(client, filter, QoS::AtMostOnce);
    }
    assert_eq!(world.received(client), ["SUBACK [00]", "SUBACK [00]", "SUBACK [8f]"]);
    let publisher = publisher(&mut world);

    world.publish(publisher, "a/b/c", "both", QoS::AtMostOnce, 0);
    world.publish(publisher, "g", "one", QoS::AtMostOnce, 0);

    assert_eq!(payloads(&mut world, client), ["both", "both", "one"]);
}
