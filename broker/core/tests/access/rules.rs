//! What clients may do: at PUBLISH, SUBSCRIBE and CONNECT, and when a message is delivered.

use std::num::NonZeroU16;

use veilmq_core::{Actions, RuleEffect, Subject};
use veilmq_protocol::{Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS};
use veilmq_simulator::{World, connect_v5, connect_v311, publish};

use super::{PUBLISH, RECEIVE, allow, deny, rule, will, world_with};

#[test]
fn a_publication_that_is_denied_reaches_nobody_and_its_client_is_told() {
    let mut world = world_with(vec![allow(RECEIVE, "#"), allow(PUBLISH, "open/#")], false);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "#", QoS::ExactlyOnce);
    world.received(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    let old = world.connect(&connect_v311("old", true));
    world.received(old);

    for connection in [publisher, old] {
        world.publish(connection, "closed", "0", QoS::AtMostOnce, 0);
        world.publish(connection, "closed", "1", QoS::AtLeastOnce, 1);
        world.publish(connection, "closed", "2", QoS::ExactlyOnce, 2);
        world.retain(connection, "closed", "kept");
    }
    world.publish(publisher, "open/a", "through", QoS::AtMostOnce, 0);

    assert_eq!(world.received(publisher), ["PUBACK id1 0x87", "PUBREC id2 0x87"]);
    // [MQTT311-3.3.5-2]
    assert_eq!(world.received(old), ["PUBACK id1", "PUBREC id2"]);
    assert_eq!(world.received(subscriber), ["PUBLISH open/a \"through\" qos0"]);
    assert_eq!(world.shared.retained_totals().0, 0);
    assert_eq!(world.sample("veilmq_messages_dropped_total", "not_authorized"), 8);
    assert_eq!(world.sample("veilmq_acl_denied_total", "publish"), 8);
}

#[test]
fn a_topic_alias_is_authorised_as_the_topic_it_stands_for_each_time() {
    // [B06]
    let mut world = world_with(vec![allow(RECEIVE, "#"), allow(PUBLISH, "open")], false);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "#", QoS::AtMostOnce);
    world.received(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    let aliased = |topic: &'static str, alias: u16, payload: &'static str, packet_id: u16| {
        let full = publish(if topic.is_empty() { "x" } else { topic }, payload, QoS::AtLeastOnce, packet_id);
        let properties =
            PublishProperties { topic_alias: NonZeroU16::new(alias), ..PublishProperties::default() };
        Publish { topic: full.topic.filter(|_| !topic.is_empty()), properties, ..full }
    };

    for (number, (topic, alias)) in
        [("open", 1), ("closed", 2), ("", 1), ("", 2), ("$SYS/x", 3), ("", 3)].into_iter().enumerate()
    {
        let packet_id = u16::try_from(number + 1).unwrap();
        world.send(publisher, &Packet::Publish(aliased(topic, alias, "m", packet_id)));
    }
    // The alias was bound while its topic was allowed.
    world.set_access(veilmq_core::Access::open_to(true));
    world.set_access(veilmq_core::Access {
        rules: super::rules(vec![allow(RECEIVE, "#")], false),
        ..veilmq_core::Access::open_to(true)
    });
    world.send(publisher, &Packet::Publish(aliased("", 1, "late", 7)));

    assert_eq!(
        world.received(publisher),
        [
            "PUBACK id1",
            "PUBACK id2 0x87",
            "PUBACK id3",
            "PUBACK id4 0x87",
            "PUBACK id5 0x87",
            "PUBACK id6 0x87",
            "PUBACK id7 0x87"
        ]
    );
    assert_eq!(world.received(subscriber).len(), 2);
}

#[test]
fn a_strict_subscribe_is_answered_filter_by_filter_and_a_shared_one_by_its_real_filter() {
    // [B03], [B04], [B05]
    let list = vec![allow(RECEIVE, "open/#"), deny(RECEIVE, "open/secret")];
    let mut world = world_with(list, true);
    let (client, _) = world.join("c", true, 0);
    let asked = [
        ("open/#", 1),
        ("#", 0x87),
        ("open/secret", 0x87),
        ("$share/g/open/a", 1),
        ("$share/g/#", 0x87),
        ("$share/open/closed", 0x87),
        ("$queue/open/a", 0x87),
        ("$delayed/5/open/a", 0x87),
        ("$exclusive/open/a", 0x87),
        ("+/a", 0x87),
    ];

    world.subscribe_all(client, &asked.map(|(filter, _)| filter), QoS::AtLeastOnce);

    let codes: Vec<u8> = asked.iter().map(|(_, code)| *code).collect();
    assert_eq!(world.received(client), [format!("SUBACK {codes:02x?}")]);
    let old = world.connect(&connect_v311("old", true));
    world.received(old);
    world.subscribe(old, "#", QoS::AtLeastOnce);
    // [MQTT311-3.9.3-2]
    assert_eq!(world.received(old), ["SUBACK [80]"]);
}

#[test]
fn a_wildcard_brings_only_what_the_client_may_receive() {
    // [B05]
    let list = vec![allow(PUBLISH, "#"), allow(RECEIVE, "open/#"), deny(RECEIVE, "open/secret")];
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = world_with(list.clone(), false);
        let (publisher, _) = world.join("p", true, 0);
        world.retain(publisher, "closed/r", "retained");
        world.retain(publisher, "open/r", "retained");
        let (subscriber, _) = world.join("s", true, 0);
        world.subscribe(subscriber, "#", qos);
        let (member, _) = world.join("m", true, 0);
        world.subscribe(member, "$share/g/#", qos);
        world.received(member);

        for (packet_id, topic) in (1..).zip(["closed/a", "open/a", "open/secret", "$other"]) {
            world.publish(publisher, topic, "m", qos, if qos == QoS::AtMostOnce { 0 } else { packet_id });
        }

        let topics = |received: Vec<String>| -> Vec<String> {
            let publications = received.iter().filter(|packet| packet.starts_with("PUBLISH"));
            publications.map(|packet| packet.split(' ').nth(1).unwrap().to_owned()).collect()
        };
        assert_eq!(topics(world.received(subscriber)), ["open/r", "open/a"], "{qos:?}");
        assert_eq!(topics(world.received(member)), ["open/a"], "{qos:?}");
    }
}

#[test]
fn a_will_is_authorised_when_its_client_connects() {
    // [B02], [MQTT-3.1.4-2]
    let mut world = world_with(vec![allow(PUBLISH, "wills/%c"), allow(RECEIVE, "#")], false);
    for (topic, expected) in [
        ("wills/c", "CONNACK 0x00"),
        ("wills/d", "CONNACK 0x87"),
        ("$SYS/x", "CONNACK 0x87"),
        ("$CONTROL/dynamic-security/v1", "CONNACK 0x87"),
    ] {
        let connection = world.connect(&Connect { will: will(topic, 0), ..connect_v5("c", true, 0) });

        assert_eq!(world.received(connection), [expected], "{topic}");
    }
}

#[test]
fn a_certificate_free_client_without_a_user_name_has_the_rules_of_anonymous_clients() {
    let list = vec![
        rule(Subject::Anonymous, RuleEffect::Allow, Actions::ALL, "public"),
        rule(Subject::User("ann".into()), RuleEffect::Allow, Actions::ALL, "ann"),
    ];
    let mut world = world_with(list, false);
    for (user, own) in [(None, "public"), (Some("ann"), "ann"), (Some("bob"), "none")] {
        let connection = world.connect(&Connect { username: user, ..connect_v5("c", true, 0) });
        world.received(connection);
        for (packet_id, topic) in (1..).zip(["public", "ann"]) {
            world.publish(connection, topic, "m", QoS::AtLeastOnce, packet_id);

            let expected = if topic == own {
                format!("PUBACK id{packet_id} 0x10")
            } else {
                format!("PUBACK id{packet_id} 0x87")
            };
            assert_eq!(world.received(connection), [expected], "{user:?} {topic}");
        }
    }
}

#[test]
fn without_rules_everybody_may_do_everything_and_no_rule_is_asked() {
    let mut world = World::new(1);
    let connection = world.accept(0, ProtocolVersion::V5);
    world.send(connection, &Packet::Connect(connect_v5("c", true, 0)));
    world.subscribe(connection, "#", QoS::AtMostOnce);
    world.publish(connection, "t", "m", QoS::AtMostOnce, 0);

    assert_eq!(world.received(connection).len(), 3);
    for action in ["publish", "subscribe", "receive"] {
        assert_eq!(world.sample("veilmq_acl_checks_total", action), 0);
    }
}
