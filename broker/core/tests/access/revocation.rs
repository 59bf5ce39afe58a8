//! What is taken back: it reaches connections that are open, what waits, what is in flight, what is retained, and Will Messages.

use veilmq_core::{Access, Rule};
use veilmq_protocol::{Acknowledgement, Connect, Packet, PacketId, Publish, QoS, ReasonCode};
use veilmq_simulator::{World, connect_v5, publish};

use super::{PUBLISH, RECEIVE, allow, connect_as, join_as, rules, users, will, world_with};

fn open() -> Vec<Rule> {
    vec![allow(PUBLISH, "#"), allow(RECEIVE, "#")]
}

fn restrict(world: &mut World, list: Vec<Rule>) {
    world.set_access(Access { rules: rules(list, false), ..Access::open_to(true) });
}

#[test]
fn a_user_that_is_removed_or_has_another_password_is_disconnected() {
    // [B07]
    for (after, survives) in [
        (users(&[("ann", 1), ("bob", 2)]), true),
        (users(&[("bob", 2)]), false),
        (users(&[("ann", 3), ("bob", 2)]), false),
        (None, false),
    ] {
        let mut world = World::new(2);
        world.set_access(Access { users: users(&[("ann", 1), ("bob", 2)]), ..Access::open_to(false) });
        let (ann, _) = join_as(&mut world, "a", "ann", 1);
        let says = format!("{after:?}");

        world.set_access(Access { users: after, ..Access::open_to(false) });

        assert_eq!(world.is_closed(ann), !survives, "{says}");
        let farewell: &[&str] = if survives { &[] } else { &["DISCONNECT 0x87"] };
        assert_eq!(world.received(ann), farewell, "{says}");
    }
}

#[test]
fn a_verdict_on_a_password_that_has_been_changed_meanwhile_lets_nobody_in() {
    // [B07]
    let mut world = World::new(1);
    world.set_access(Access { users: users(&[("ann", 1)]), ..Access::open_to(false) });
    let ann = world.connect(&connect_as("a", "ann", 0));

    world.set_access(Access { users: users(&[("ann", 2)]), ..Access::open_to(false) });
    world.judge(veilmq_core::Verdict::Right(1));

    assert_eq!(world.received(ann), ["CONNACK 0x86"]);
}

#[test]
fn anonymous_clients_go_when_they_are_not_allowed_any_more() {
    // [B07]
    let mut world = World::new(1);
    let nobody = world.connect(&connect_v5("n", true, 0));
    let claims = world.connect(&Connect { username: Some("ann"), ..connect_v5("a", true, 0) });
    world.received(nobody);
    world.received(claims);

    world.set_access(Access::open_to(false));

    for connection in [nobody, claims] {
        assert_eq!(world.received(connection), ["DISCONNECT 0x87"]);
    }
}

#[test]
fn a_live_subscription_brings_no_more_of_what_its_client_may_not_receive_any_more() {
    // [B07]
    let mut world = world_with(open(), false);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.received(subscriber);
    let (publisher, _) = world.join("p", true, 0);

    restrict(&mut world, vec![allow(PUBLISH, "#")]);
    world.publish(publisher, "t", "secret", QoS::AtLeastOnce, 1);
    world.publish(publisher, "t", "secret", QoS::AtMostOnce, 0);

    assert!(world.received(subscriber).is_empty());
    restrict(&mut world, open());
    world.publish(publisher, "t", "open again", QoS::AtMostOnce, 0);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"open again\" qos0"]);
}

#[test]
fn what_waits_in_a_session_is_not_sent_after_its_client_may_not_receive_it_any_more() {
    // [B07]
    for restarts in [false, true] {
        let mut world = world_with(open(), false);
        let (subscriber, _) = world.join("s", true, 60);
        world.subscribe(subscriber, "#", QoS::ExactlyOnce);
        world.cut(subscriber);
        let (publisher, _) = world.join("p", true, 0);
        for (packet_id, topic) in (1..).zip(["one", "two", "one"]) {
            world.publish(publisher, topic, "m", QoS::AtLeastOnce, packet_id);
        }
        if restarts {
            world = world.crash(1).0;
        }
        restrict(&mut world, vec![allow(RECEIVE, "one")]);

        let (subscriber, present) = world.join("s", false, 60);

        assert!(present);
        assert_eq!(world.received(subscriber), ["PUBLISH one \"m\" qos1 id1", "PUBLISH one \"m\" qos1 id3"]);
        assert_eq!(world.sample("veilmq_messages_dropped_total", "not_authorized"), 1);
        world.ack(subscriber, Packet::PubAck, 1);
        world.ack(subscriber, Packet::PubAck, 3);
        assert_eq!(world.stored_bodies(), 0, "what is not sent is not kept");
    }
}

#[test]
fn what_is_in_flight_is_not_sent_again_after_its_client_may_not_receive_it_any_more() {
    // [B07]
    let mut world = world_with(open(), false);
    let (subscriber, _) = world.join("s", true, 60);
    world.subscribe(subscriber, "#", QoS::ExactlyOnce);
    let (publisher, _) = world.join("p", true, 0);
    for (packet_id, topic) in (1..).zip(["one", "two"]) {
        world.publish(publisher, topic, "m", QoS::AtLeastOnce, packet_id);
    }
    world.publish(publisher, "two", "m", QoS::ExactlyOnce, 3);
    world.ack(publisher, Packet::PubRel, 3);
    world.received(subscriber);
    world.ack(subscriber, Packet::PubRec, 3);
    world.cut(subscriber);
    restrict(&mut world, vec![allow(RECEIVE, "one")]);

    let (subscriber, _) = world.join("s", false, 60);

    // The exchange that the client has taken over is finished, and carries nothing.
    assert_eq!(world.received(subscriber), ["PUBLISH one \"m\" qos1 id1 dup", "PUBREL id3"]);
    world.ack(subscriber, Packet::PubAck, 1);
    world.ack(subscriber, Packet::PubComp, 3);
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn a_retained_message_is_not_delivered_to_who_may_not_receive_it() {
    // [B07]
    let mut world = world_with(open(), false);
    let (publisher, _) = world.join("p", true, 0);
    world.retain(publisher, "t", "kept");
    restrict(&mut world, vec![allow(PUBLISH, "#")]);

    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    assert_eq!(world.received(subscriber), ["SUBACK [00]"]);

    restrict(&mut world, open());
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    assert_eq!(world.received(subscriber), ["SUBACK [00]", "PUBLISH t \"kept\" qos0 retain"]);
}

#[test]
fn a_will_is_authorised_again_when_it_fires() {
    // [B02], [B07]
    for (delay_seconds, list, arrives) in
        [(0, open(), true), (0, vec![allow(RECEIVE, "#")], false), (5, vec![allow(RECEIVE, "#")], false)]
    {
        let mut world = world_with(open(), false);
        let (subscriber, _) = world.join("s", true, 0);
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        world.received(subscriber);
        let dying = world.connect(&Connect { will: will("w", delay_seconds), ..connect_v5("d", true, 60) });
        if delay_seconds > 0 {
            world.cut(dying);
        }

        restrict(&mut world, list);
        world.cut(dying);
        world.pass(10_000);

        assert_eq!(!world.received(subscriber).is_empty(), arrives, "after {delay_seconds} s");
    }
}

#[test]
fn the_will_of_a_user_that_is_removed_is_not_published() {
    // [B07]
    let mut world = World::new(1);
    world.set_access(Access { users: users(&[("ann", 1), ("bob", 2)]), ..Access::open_to(false) });
    let (bob, _) = join_as(&mut world, "s", "bob", 2);
    world.subscribe(bob, "#", QoS::AtMostOnce);
    world.received(bob);
    let ann = world.connect(&Connect { will: will("w", 0), ..connect_as("a", "ann", 60) });
    world.judge(veilmq_core::Verdict::Right(1));
    world.received(ann);

    world.set_access(Access { users: users(&[("bob", 2)]), ..Access::open_to(false) });

    assert_eq!(world.received(ann), ["DISCONNECT 0x87"]);
    assert!(world.received(bob).is_empty());
}

#[test]
fn a_qos_2_exchange_that_began_before_brings_nothing_more_after() {
    // [B08], [MQTT-4.3.3-10]
    let mut world = world_with(open(), false);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    let (publisher, _) = world.join("p", true, 60);
    world.publish(publisher, "t", "while allowed", QoS::ExactlyOnce, 1);
    assert_eq!(world.received(subscriber).len(), 2);
    world.cut(publisher);
    restrict(&mut world, vec![allow(RECEIVE, "#")]);

    let (publisher, _) = world.join("p", false, 60);
    let again = Publish { dup: true, ..publish("t", "while allowed", QoS::ExactlyOnce, 1) };
    world.send(publisher, &Packet::Publish(again));
    let release = Acknowledgement::new(PacketId::new(1).unwrap(), ReasonCode::Success);
    world.send(publisher, &Packet::PubRel(release));
    world.send(publisher, &Packet::Publish(publish("t", "new", QoS::ExactlyOnce, 1)));

    assert_eq!(world.received(publisher), ["PUBREC id1", "PUBCOMP id1", "PUBREC id1 0x87"]);
    assert!(world.received(subscriber).is_empty());
}
