//! Topics and listeners with less durability are acknowledged at once; what that can lose, and what it cannot.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use veilmq_core::{Promise, Record, RelaxedTopics, Settings};
use veilmq_protocol::{Packet, Publish, QoS};
use veilmq_simulator::{Conn, World, connect_v5, publish};

fn settings() -> Settings {
    let filters = |filters: &[&str]| filters.iter().map(|filter| Arc::from(*filter)).collect();
    Settings {
        relaxed_topics: RelaxedTopics { interval: filters(&["i/#"]), memory: filters(&["m/#", "i/both"]) },
        ..Settings::default()
    }
}

/// A durable session that is subscribed to everything at QoS 2 and away, and a publisher; commits wait.
fn world(filter: &str) -> (World, Conn) {
    let mut world = World::with(settings());
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, filter, QoS::ExactlyOnce);
    world.cut(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    world.commits_at_once = false;
    (world, publisher)
}

fn received_on_return(world: &mut World) -> Vec<String> {
    world.commits_at_once = true;
    let subscriber = world.connect(&connect_v5("s", false, 3_600));
    let mut received = world.received(subscriber);
    assert_eq!(received.remove(0), "CONNACK 0x00 present");
    received
}

#[test]
fn a_message_of_an_interval_topic_is_acknowledged_first_and_stored_then() {
    for topic in ["i/a", "i/both"] {
        let (mut world, publisher) = world("#");

        world.publish(publisher, topic, "x", QoS::AtLeastOnce, 1);

        assert_eq!(world.received(publisher), ["PUBACK id1"]);
        assert_eq!(world.awaited(), [false]);
        world.commit();
        let (mut world, _) = world.crash(1);
        assert_eq!(received_on_return(&mut world), [format!("PUBLISH {topic} \"x\" qos1 id1")]);
    }
}

#[test]
fn a_crash_loses_what_came_on_an_interval_topic_right_before() {
    let (mut world, publisher) = world("#");
    world.publish(publisher, "i/a", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(publisher), ["PUBACK id1"]);

    let (mut world, _) = world.crash(1);

    assert!(received_on_return(&mut world).is_empty());
}

#[test]
fn a_message_of_a_memory_topic_is_never_stored_and_waits_in_memory_for_its_session() {
    for filter in ["#", "$share/g/#"] {
        let (mut world, publisher) = world(filter);

        world.publish(publisher, "m/a", "x", QoS::AtLeastOnce, 1);

        assert_eq!(world.received(publisher), ["PUBACK id1"], "{filter}");
        assert!(!world.has_uncommitted(), "{filter}");
        assert_eq!(received_on_return(&mut world), ["PUBLISH m/a \"x\" qos1 id1"], "{filter}");
        assert_eq!(world.stored_bodies(), 0, "{filter}");
    }
}

#[test]
fn a_restart_forgets_the_messages_of_memory_topics() {
    for filter in ["#", "$share/g/#"] {
        let (mut world, publisher) = world(filter);
        world.publish(publisher, "m/a", "x", QoS::AtLeastOnce, 1);
        world.commit();

        let (mut world, _) = world.crash(1);

        assert!(received_on_return(&mut world).is_empty(), "{filter}");
    }
}

#[test]
fn a_qos_2_exchange_on_a_memory_topic_needs_no_store() {
    let (mut world, publisher) = world("#");
    world.publish(publisher, "m/a", "x", QoS::ExactlyOnce, 1);
    world.ack(publisher, Packet::PubRel, 1);
    assert_eq!(world.received(publisher), ["PUBREC id1", "PUBCOMP id1"]);
    assert!(!world.has_uncommitted());

    let subscriber = world.connect(&connect_v5("s", false, 3_600));
    world.commit();

    assert_eq!(world.received(subscriber)[1..], ["PUBLISH m/a \"x\" qos2 id1"]);
    world.ack(subscriber, Packet::PubRec, 1);
    world.ack(subscriber, Packet::PubComp, 1);
    assert_eq!(world.received(subscriber), ["PUBREL id1"]);
    assert!(!world.has_uncommitted());
}

#[test]
fn a_message_of_a_memory_topic_that_outlives_its_group_member_goes_to_the_next_and_not_to_the_store() {
    let mut world = World::with(settings());
    let (first, _) = world.join("first", true, 3_600);
    world.subscribe(first, "$share/g/m/#", QoS::AtLeastOnce);
    world.cut(first);
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "m/a", "x", QoS::AtLeastOnce, 1);
    let (second, _) = world.join("second", true, 3_600);
    world.subscribe(second, "$share/g/m/#", QoS::AtLeastOnce);
    world.received(second);

    world.join("first", true, 0);

    assert_eq!(world.received(second), ["PUBLISH m/a \"x\" qos1 id1"]);
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn other_topics_wait_for_their_commit_behind_relaxed_ones_and_before_them() {
    let (mut world, publisher) = world("#");

    world.publish(publisher, "i/a", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, "a", "2", QoS::AtLeastOnce, 2);
    world.publish(publisher, "m/a", "3", QoS::AtLeastOnce, 3);

    assert_eq!(world.received(publisher), ["PUBACK id1"]);
    world.commit();
    assert_eq!(world.received(publisher), ["PUBACK id2", "PUBACK id3"]);
    assert_eq!(
        received_on_return(&mut world),
        ["PUBLISH i/a \"1\" qos1 id1", "PUBLISH a \"2\" qos1 id2", "PUBLISH m/a \"3\" qos1 id3"]
    );
}

#[test]
fn a_retained_message_of_a_memory_topic_is_retained_until_a_restart() {
    let (mut world, publisher) = world("nothing");
    world.send(
        publisher,
        &Packet::Publish(Publish { retain: true, ..publish("m/a", "x", QoS::AtLeastOnce, 1) }),
    );
    assert_eq!(world.received(publisher), ["PUBACK id1 0x10"]);
    assert!(!world.has_uncommitted());
    world.subscribe(publisher, "m/#", QoS::AtMostOnce);
    assert_eq!(world.received(publisher), ["SUBACK [00]", "PUBLISH m/a \"x\" qos0 retain"]);

    let (mut world, summary) = world.crash(1);

    assert_eq!(summary.retained, 0);
    let (client, _) = world.join("c", true, 0);
    world.subscribe(client, "m/#", QoS::AtMostOnce);
    assert_eq!(world.received(client), ["SUBACK [00]"]);
}

#[test]
fn what_was_retained_before_its_topic_was_relaxed_is_retained_once_more_and_then_forgotten() {
    let mut world = World::new(1);
    let (publisher, _) = world.join("p", true, 0);
    world.retain(publisher, "m/a", "old");

    let (world, first) = world.restart(settings());
    let (_, second) = world.crash(1);

    assert_eq!((first.retained, second.retained), (1, 0));
}

/// A durable session that subscribes, and a publisher with one, both by a listener that promises what was received; commits wait.
fn relaxed_world() -> (World, Conn, Conn) {
    let mut world = World::with(settings());
    world.promise = Promise::Received;
    world.commits_at_once = false;
    // Their CONNACKs wait for nothing either.
    let (subscriber, _) = world.join("s", true, 3_600);
    let (publisher, _) = world.join("p", true, 3_600);
    (world, subscriber, publisher)
}

#[test]
fn what_clients_of_a_relaxed_listener_have_stored_is_acknowledged_first_and_stored_then() {
    let (mut world, subscriber, publisher) = relaxed_world();

    world.subscribe(subscriber, "#", QoS::ExactlyOnce);
    assert_eq!(world.received(subscriber), ["SUBACK [02]"]);
    world.cut(subscriber);
    world.publish(publisher, "a", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, "a", "2", QoS::ExactlyOnce, 2);
    world.ack(publisher, Packet::PubRel, 2);
    assert_eq!(world.received(publisher), ["PUBACK id1", "PUBREC id2", "PUBCOMP id2"]);
    assert!(world.awaited().iter().all(|awaited| !awaited));

    world.commit();
    let (mut world, _) = world.crash(1);
    assert_eq!(received_on_return(&mut world), ["PUBLISH a \"1\" qos1 id1", "PUBLISH a \"2\" qos2 id2"]);
}

#[test]
fn a_crash_loses_what_came_by_a_relaxed_listener_right_before_and_nothing_of_other_listeners() {
    let (mut world, subscriber, relaxed) = relaxed_world();
    world.subscribe(subscriber, "#", QoS::ExactlyOnce);
    world.cut(subscriber);
    world.commit();
    world.promise = Promise::Stored;
    world.commits_at_once = true;
    let (strict, _) = world.join("q", true, 0);
    world.commits_at_once = false;

    world.publish(strict, "a", "1", QoS::AtLeastOnce, 1);
    assert!(world.received(strict).is_empty());
    world.commit();
    assert_eq!(world.received(strict), ["PUBACK id1"]);
    world.publish(relaxed, "a", "2", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(relaxed), ["PUBACK id1"]);

    let (mut world, _) = world.crash(1);
    assert_eq!(received_on_return(&mut world), ["PUBLISH a \"1\" qos1 id1"]);
}

#[test]
fn a_memory_topic_stays_one_on_every_listener() {
    let (mut world, subscriber, publisher) = relaxed_world();
    world.subscribe(subscriber, "#", QoS::ExactlyOnce);
    world.cut(subscriber);
    world.commit();

    world.publish(publisher, "m/a", "x", QoS::AtLeastOnce, 1);

    assert_eq!(world.received(publisher), ["PUBACK id1"]);
    assert!(!world.has_uncommitted());
}

#[test]
fn what_clears_a_message_from_the_store_that_is_kept_in_memory_now_goes_on_doing_so() {
    let (mut world, publisher) = world("#");
    world.retain(publisher, "m/a", "x");
    let mut batch = [Record::RetainedCleared { topic: "m/a".into() }];

    world.shared.refresh(&mut batch);

    assert_eq!(world.shared.retained_totals().0, 1);
    assert!(matches!(batch, [Record::RetainedCleared { .. }]));
}
