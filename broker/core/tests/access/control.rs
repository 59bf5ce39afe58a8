//! Commands on `$CONTROL`: who may give them, who sees them, and whom the answer reaches.

use veilmq_core::{Access, ControlTopic, ControlTopics};
use veilmq_protocol::QoS;
use veilmq_simulator::World;

use super::roles::access;
use super::{PUBLISH, RECEIVE, allow, join_as, rules};

const TOPIC: &str = "$CONTROL/dynamic-security/v1";

#[test]
fn a_command_reaches_nobody_but_whoever_carries_it_out_and_its_answer_only_its_client() {
    // [B02]
    let mut world = World::new(2);
    world.set_access(access(&[('p', "$CONTROL/#", true), ('r', "#", true), ('s', "$CONTROL/#", true)], 1));
    world.set_access(access(
        &[('p', "$CONTROL/#", true), ('r', "$CONTROL/#", true), ('s', "$CONTROL/#", true)],
        1,
    ));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    let (other, _) = join_as(&mut world, "b", "ann", 1);
    for client in [ann, other] {
        world.subscribe(client, "$CONTROL/#", QoS::AtLeastOnce);
        world.received(client);
    }

    for (qos, packet_id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        world.publish(ann, TOPIC, "do", qos, packet_id);
    }

    assert_eq!(world.received(ann), ["PUBACK id1", "PUBREC id2"]);
    assert_eq!(world.commands.len(), 3);
    let command = world.answer(b"done").unwrap();
    assert_eq!(command.topic, ControlTopic::DynamicSecurity);
    assert_eq!((command.user.as_deref(), &*command.client_id), (Some("ann"), "a"));
    assert_eq!(command.payload.as_slice(), b"do");
    assert!(!format!("{command:?}").contains("do\""), "it may hold a password");
    assert_eq!(world.received(ann), ["PUBLISH $CONTROL/dynamic-security/v1/response \"done\" qos0"]);
    assert_eq!(world.received(other), [""; 0]);
    // A repetition is acknowledged and not carried out again.
    world.publish(ann, TOPIC, "do", QoS::ExactlyOnce, 2);
    assert_eq!(world.received(ann), ["PUBREC id2"]);
    assert_eq!(world.commands.len(), 2);
}

#[test]
fn who_may_not_publish_to_the_topic_gives_no_command() {
    // [B02]
    for (lines, topic) in [
        (&[('p', "#", true)][..], TOPIC),
        (&[('p', "$CONTROL/dynamic-security/v2", true)][..], TOPIC),
        (&[('p', "$CONTROL/#", true)][..], "$CONTROL/broker/v1"),
        (&[('p', "$CONTROL/#", true)][..], "$CONTROL/dynamic-security/v1/response"),
    ] {
        let mut world = World::new(1);
        world.set_access(access(lines, 1));
        let (ann, _) = join_as(&mut world, "a", "ann", 1);

        world.publish(ann, topic, "do", QoS::AtLeastOnce, 1);

        assert_eq!(world.received(ann), ["PUBACK id1 0x87"], "{topic}");
        assert!(world.commands.is_empty());
    }
}

#[test]
fn an_answer_reaches_no_client_that_may_not_receive_it_or_has_not_subscribed() {
    for (lines, filter) in [
        (&[('p', "$CONTROL/#", true), ('s', "$CONTROL/#", true)][..], "$CONTROL/#"),
        (&[('p', "$CONTROL/#", true), ('r', "$CONTROL/#", true), ('s', "#", true)][..], "t"),
    ] {
        let mut world = World::new(1);
        world.set_access(access(lines, 1));
        let (ann, _) = join_as(&mut world, "a", "ann", 1);
        world.subscribe(ann, filter, QoS::AtMostOnce);
        world.received(ann);

        world.publish(ann, TOPIC, "do", QoS::AtMostOnce, 0);
        world.answer(b"done").unwrap();

        assert_eq!(world.received(ann), [""; 0], "{filter}");
    }
}

#[test]
fn a_command_that_is_too_large_is_refused() {
    let mut world = World::new(1);
    world.set_access(access(&[('p', "$CONTROL/#", true)], 1));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);

    world.publish(ann, TOPIC, &"x".repeat(1024 * 1024 + 1), QoS::AtLeastOnce, 1);

    assert_eq!(world.received(ann), ["PUBACK id1 0x83"]);
    assert!(world.commands.is_empty());
}

#[test]
fn rules_of_a_file_say_too_who_may_give_commands() {
    let mut world = World::new(1);
    let list = vec![allow(PUBLISH, "$CONTROL/broker/v1"), allow(RECEIVE, "$CONTROL/#")];
    let controls = ControlTopics { dynamic_security: false, broker: true };
    world.set_access(Access { rules: rules(list, true), controls, ..Access::open_to(true) });
    let (client, _) = world.join("c", true, 0);

    world.publish(client, "$CONTROL/broker/v1", "list", QoS::AtLeastOnce, 1);
    world.publish(client, TOPIC, "list", QoS::AtLeastOnce, 2);

    assert_eq!(world.received(client), ["PUBACK id1", "PUBACK id2 0x87"]);
    assert_eq!(world.commands.len(), 1);
}

#[test]
fn it_is_known_where_the_connections_of_a_user_come_from_while_they_last() {
    let mut world = World::new(2);
    world.set_access(access(&[], 1));
    let (first, _) = join_as(&mut world, "a", "ann", 1);
    let (_, _) = join_as(&mut world, "b", "ann", 1);
    let (_, _) = world.join("c", true, 0);
    assert_eq!(world.shared.peers_of(&"ann".into()).len(), 2);

    world.cut(first);

    assert_eq!(world.shared.peers_of(&"ann".into()).len(), 1);
    assert!(world.shared.peers_of(&"bob".into()).is_empty());
}

#[test]
fn a_command_for_which_there_is_nobody_is_told_so() {
    for (broker, expected) in [
        (
            true,
            &[
                "PUBACK id1",
                r#"PUBLISH $CONTROL/x/v1/response "{\"error\": \"endpoint not available\"}" qos0"#,
            ][..],
        ),
        (false, &["PUBACK id1 0x87"][..]),
    ] {
        let mut world = World::new(1);
        let controls = ControlTopics { dynamic_security: false, broker };
        world.set_access(Access { controls, ..Access::open_to(true) });
        let (client, _) = world.join("c", true, 0);
        world.subscribe(client, "$CONTROL/x/#", QoS::AtMostOnce);
        world.received(client);

        world.publish(client, "$CONTROL/x/v1", "do", QoS::AtLeastOnce, 1);

        let mut received = world.received(client);
        received.sort();
        assert_eq!(received, expected);
        assert!(world.commands.is_empty());
    }
}
