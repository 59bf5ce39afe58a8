//! Listeners differ: whom they let in, what they offer, and which topics their clients see.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_core::{
    Access, Actions, Entrance, EntranceId, Rule, RuleEffect, RuleStage, Rules, Settings, Subject, Template,
    Verdict, Versions,
};
use veilmq_protocol::{
    Connect, Packet, PublishProperties, QoS, TopicFilter, TopicName, Unsubscribe, UnsubscribeFiltersBuf, Will,
};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, id};

const SECOND: EntranceId = EntranceId(1);

/// A broker with a listener like any other, and a second one.
fn world(change: impl FnOnce(&mut Entrance)) -> World {
    let settings = Settings { shards: 2, ..Settings::default() };
    let mut second = Entrance::of(&settings);
    change(&mut second);
    World::with(Settings { entrances: vec![Entrance::of(&settings), second], ..settings })
}

fn mounted() -> World {
    world(|entrance| entrance.mount_point = Some("site/".into()))
}

/// Connects by a listener, and returns the answer.
fn answer(world: &mut World, entrance: EntranceId, connect: &Connect<'_>) -> String {
    world.entrance = entrance;
    let connection = world.connect(connect);
    world.received(connection).join(" ")
}

fn join(world: &mut World, entrance: EntranceId, client_id: &str) -> Conn {
    world.entrance = entrance;
    let (connection, _) = world.join(client_id, true, 0);
    world.received(connection);
    connection
}

#[test]
fn a_listener_speaks_the_versions_it_is_told_to() {
    // [MQTT-3.1.2-2], [MQTT311-3.1.2-2]
    let mut world = world(|entrance| entrance.versions = Versions { v311: false, ..Versions::ALL });

    assert_eq!(answer(&mut world, SECOND, &connect_v311("a", true)), "CONNACK 0x84");
    assert_eq!(answer(&mut world, SECOND, &connect_v5("b", true, 0)), "CONNACK 0x00");
    assert_eq!(answer(&mut world, EntranceId(0), &connect_v311("c", true)), "CONNACK 0x00");
    let mut world = self::world(|entrance| entrance.versions = Versions { v5: false, ..Versions::ALL });
    assert_eq!(answer(&mut world, SECOND, &connect_v5("b", true, 0)), "CONNACK 0x84");
}

#[test]
fn an_empty_client_identifier_is_taken_where_that_is_allowed() {
    let mut world = world(|entrance| entrance.empty_client_id = false);

    assert_eq!(answer(&mut world, SECOND, &connect_v5("", true, 0)), "CONNACK 0x80");
    assert_eq!(answer(&mut world, SECOND, &connect_v311("", true)), "CONNACK 0x85");
    assert!(answer(&mut world, EntranceId(0), &connect_v5("", true, 0)).starts_with("CONNACK 0x00"));
}

#[test]
fn a_user_name_can_take_the_place_of_the_client_identifier() {
    let mut world = world(|entrance| entrance.user_name_is_client_id = true);
    let ann = Connect { username: Some("ann"), ..connect_v5("anything", true, 0) };
    world.entrance = SECOND;

    let first = world.connect(&ann);
    let second = world.connect(&Connect { client_id: "another", ..ann });

    assert!(world.is_closed(first), "it is the same client");
    assert_eq!(world.received(second), ["CONNACK 0x00"]);
    assert_eq!(answer(&mut world, SECOND, &connect_v5("c", true, 0)), "CONNACK 0x87");
}

#[test]
fn a_listener_may_take_nobody_but_users_that_a_certificate_has_proved() {
    let mut world = world(|entrance| entrance.proven_users_only = true);
    world.set_access(vec![Access::open_to(true), Access::open_to(true)]);
    let ann = Connect { username: Some("ann"), password: Some(b"secret"), ..connect_v5("ann", true, 0) };

    assert_eq!(answer(&mut world, SECOND, &ann), "CONNACK 0x86");
    assert_eq!(answer(&mut world, SECOND, &connect_v311("b", true)), "CONNACK 0x86", "4 in its form");
    assert_eq!(answer(&mut world, EntranceId(0), &ann), "CONNACK 0x00");
}

#[test]
fn each_listener_asks_its_own_table_who_may_connect() {
    let users = HashMap::from([(Arc::from("ann"), 1)]);
    let mut world = world(|_| {});
    world.set_access(vec![Access::open_to(true), Access { users: Some(users), ..Access::open_to(false) }]);
    let ann = Connect { username: Some("ann"), password: Some(b"secret"), ..connect_v5("ann", true, 0) };

    assert_eq!(answer(&mut world, EntranceId(0), &ann), "CONNACK 0x00", "there a user name is only a name");
    assert_eq!(answer(&mut world, SECOND, &connect_v5("b", true, 0)), "CONNACK 0x87");
    assert_eq!(answer(&mut world, SECOND, &ann), "");
    assert_eq!(world.credentials[0].1.entrance, SECOND);
    world.judge(Verdict::Wrong);
    assert_eq!(
        answer(&mut world, EntranceId(2), &connect_v5("c", true, 0)),
        "CONNACK 0x87",
        "nobody knows it"
    );
}

#[test]
fn each_listener_has_its_own_rules() {
    let rule = Rule {
        subject: Subject::Everyone,
        effect: RuleEffect::Allow,
        actions: Actions { publish: false, receive: true },
        filter: Template::new("open").unwrap(),
    };
    let stage = RuleStage { rules: vec![rule], denies_wildcard_names: false };
    let mut world = world(|_| {});
    world.set_access(vec![
        Access::open_to(true),
        Access { rules: Some(Rules::new(vec![stage], false)), ..Access::open_to(true) },
    ]);
    let free = join(&mut world, EntranceId(0), "free");
    let bound = join(&mut world, SECOND, "bound");
    for client in [free, bound] {
        world.subscribe(client, "#", QoS::AtMostOnce);
        world.received(client);
    }

    world.publish(bound, "open", "1", QoS::AtMostOnce, 0);
    world.publish(free, "open", "2", QoS::AtMostOnce, 0);
    world.publish(free, "closed", "3", QoS::AtMostOnce, 0);

    assert_eq!(world.received(free).len(), 2, "its own two");
    let heard = world.received(bound);
    assert!(heard.len() == 1 && heard[0].contains("open"), "{heard:?}");
}

#[test]
fn a_retained_message_is_held_against_the_rules_of_the_listener_it_came_by_wherever_that_stands_now() {
    let settings = Settings { shards: 2, ..Settings::default() };
    let named = |name: &str| Entrance { name: name.into(), ..Entrance::of(&settings) };
    let entrances = |names: &[&str]| names.iter().map(|name| named(name)).collect();
    let nothing = || Access {
        rules: Some(Rules::new(vec![RuleStage { rules: Vec::new(), denies_wildcard_names: false }], false)),
        ..Access::open_to(true)
    };
    let mut first = World::with(Settings { entrances: entrances(&["one", "two"]), ..settings.clone() });
    for (entrance, client_id, topic) in [(EntranceId(0), "a", "by/one"), (SECOND, "b", "by/two")] {
        let publisher = join(&mut first, entrance, client_id);
        first.retain(publisher, topic, "m");
    }
    let mut world =
        first.restart(Settings { entrances: entrances(&["new", "two", "one"]), ..settings.clone() }).0;

    for (accesses, expected) in [
        (vec![Access::open_to(true), Access::open_to(true), nothing()], vec!["by/two"]),
        (vec![Access::open_to(true), nothing(), Access::open_to(true)], vec!["by/one"]),
        (vec![Access::open_to(true), nothing(), nothing()], vec![]),
    ] {
        world.set_access(accesses);
        let subscriber = join(&mut world, EntranceId(0), "s");
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let heard = world.received(subscriber);
        let topics: Vec<&str> = heard[1..].iter().filter_map(|packet| packet.split(' ').nth(1)).collect();
        assert_eq!(topics, expected, "{heard:?}");
    }
}

#[test]
fn the_highest_qos_is_that_of_the_listener() {
    let mut world = world(|entrance| entrance.capabilities.maximum_qos = QoS::AtMostOnce);
    let bounded = join(&mut world, SECOND, "a");
    let free = join(&mut world, EntranceId(0), "b");

    world.subscribe(bounded, "t", QoS::ExactlyOnce);
    world.subscribe(free, "t", QoS::ExactlyOnce);
    world.publish(free, "t", "x", QoS::AtLeastOnce, 7);

    assert_eq!(world.received(bounded)[0], "SUBACK [00]");
    assert!(world.received(free).iter().any(|packet| packet == "PUBACK id7"));
    world.publish(bounded, "t", "x", QoS::AtLeastOnce, 7);
    assert_eq!(world.received(bounded).last().map(String::as_str), Some("DISCONNECT 0x9b"));
}

#[test]
fn clients_behind_a_mount_point_see_what_is_below_it_and_nothing_else() {
    let mut world = mounted();
    let (inner, outer) = (join(&mut world, SECOND, "inner"), join(&mut world, EntranceId(0), "outer"));
    for client in [inner, outer] {
        world.subscribe(client, "#", QoS::AtMostOnce);
        world.received(client);
    }

    world.publish(inner, "a", "up", QoS::AtMostOnce, 0);
    world.publish(outer, "site/b", "down", QoS::AtMostOnce, 0);
    world.publish(outer, "elsewhere", "no", QoS::AtMostOnce, 0);
    world.publish(outer, "site/", "no", QoS::AtMostOnce, 0);

    assert_eq!(world.received(inner), ["PUBLISH a \"up\" qos0", "PUBLISH b \"down\" qos0"]);
    let all = world.received(outer);
    assert!(all.len() == 4 && all[0] == "PUBLISH site/a \"up\" qos0", "{all:?}");
}

#[test]
fn retained_messages_wills_groups_and_the_end_of_a_subscription_go_by_the_mount_point_too() {
    let mut world = mounted();
    let outer = join(&mut world, EntranceId(0), "outer");
    world.subscribe(outer, "site/#", QoS::AtMostOnce);
    world.entrance = SECOND;
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TopicName::new("gone").unwrap(),
        payload: b"bye",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let dying = world.connect(&Connect { will: Some(will), ..connect_v5("dying", true, 0) });
    world.retain(dying, "kept", "1");
    world.cut(dying);
    let heard = world.received(outer).join("\n");
    assert!(heard.contains("site/kept") && heard.contains("site/gone"), "{heard}");

    let inner = join(&mut world, SECOND, "inner");
    world.subscribe(inner, "kept", QoS::AtMostOnce);
    world.subscribe(inner, "$share/g/t", QoS::AtMostOnce);
    assert!(world.received(inner).join(" ").contains("kept"), "what is retained comes under its own name");
    world.publish(outer, "site/t", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.received(inner).len(), 1);

    let mut filters = UnsubscribeFiltersBuf::default();
    for filter in ["kept", "$share/g/t", "site/kept"] {
        filters.push(TopicFilter::new(filter).unwrap());
    }
    let user = Default::default();
    let unsubscribe = Unsubscribe { packet_id: id(4), user, filters: filters.as_filters() };
    world.send(inner, &Packet::Unsubscribe(unsubscribe));
    assert_eq!(world.received(inner), ["UNSUBACK [00, 00, 11]"]);
}

#[test]
fn what_a_mount_point_makes_of_a_topic_is_what_rules_decide_about() {
    // [B13] The name that a client uses is rewritten before anything is allowed, in every way that it can be used.
    let all = Actions { publish: true, receive: true };
    let rule = |effect, filter: &str| Rule {
        subject: Subject::Everyone,
        effect,
        actions: all,
        filter: Template::new(filter).unwrap(),
    };
    let rules = || {
        // Under its own name what is closed would be open.
        let rules = vec![
            rule(RuleEffect::Deny, "site/closed/#"),
            rule(RuleEffect::Allow, "closed/#"),
            rule(RuleEffect::Allow, "site/#"),
        ];
        Some(Rules::new(vec![RuleStage { rules, denies_wildcard_names: false }], false))
    };
    let mut world = mounted();
    world.set_access(vec![Access::open_to(true), Access { rules: rules(), ..Access::open_to(true) }]);
    let outer = join(&mut world, EntranceId(0), "outer");
    world.subscribe(outer, "#", QoS::AtMostOnce);
    world.retain(outer, "site/closed/kept", "secret");
    world.received(outer);
    let inner = join(&mut world, SECOND, "inner");

    world.publish(inner, "closed/x", "no", QoS::AtLeastOnce, 1);
    let aliased = |topic, packet_id| veilmq_protocol::Publish {
        topic,
        properties: PublishProperties { topic_alias: std::num::NonZeroU16::new(1), ..Default::default() },
        ..veilmq_simulator::publish("unused", "no", QoS::AtLeastOnce, packet_id)
    };
    world.send(inner, &Packet::Publish(aliased(TopicName::new("closed/x").ok(), 2)));
    world.send(inner, &Packet::Publish(aliased(None, 3)));
    assert_eq!(world.received(inner), ["PUBACK id1 0x87", "PUBACK id2 0x87", "PUBACK id3 0x87"]);
    for filter in ["#", "closed/#", "$share/g/closed/#", "+/kept"] {
        world.subscribe(inner, filter, QoS::AtMostOnce);
    }
    world.publish(outer, "site/closed/live", "secret", QoS::AtMostOnce, 0);
    let heard = world.received(inner).join(" ");
    assert!(!heard.contains("PUBLISH"), "{heard}");
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TopicName::new("closed/will").unwrap(),
        payload: b"no",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let dying = Connect { will: Some(will), ..connect_v5("dying", true, 0) };
    assert_eq!(answer(&mut world, SECOND, &dying), "CONNACK 0x87");
    world.publish(inner, "open", "yes", QoS::AtMostOnce, 0);
    let heard = world.received(outer);
    assert!(heard.len() == 2 && heard[1].contains("site/open"), "{heard:?}");
}

#[test]
fn there_are_no_more_sessions_than_allowed() {
    let mut world = World::with(Settings { sessions_max: 2, ..Settings::default() });
    let away = join(&mut world, EntranceId(0), "a");
    assert_eq!(answer(&mut world, EntranceId(0), &connect_v311("b", false)), "CONNACK 0x00");

    assert_eq!(answer(&mut world, EntranceId(0), &connect_v5("c", true, 0)), "CONNACK 0x97");
    assert_eq!(answer(&mut world, EntranceId(0), &connect_v311("b", false)), "CONNACK 0x00 present");
    world.cut(away);
    assert_eq!(answer(&mut world, EntranceId(0), &connect_v5("c", true, 0)), "CONNACK 0x00");
}

#[test]
fn client_identifiers_begin_as_they_have_to() {
    let mut world = World::with(Settings { client_id_prefix: Some("dev-".into()), ..Settings::default() });

    assert_eq!(answer(&mut world, EntranceId(0), &connect_v5("dev-1", true, 0)), "CONNACK 0x00");
    assert_eq!(answer(&mut world, EntranceId(0), &connect_v5("1", true, 0)), "CONNACK 0x87");
}
