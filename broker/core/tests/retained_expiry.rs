//! Retained messages that expire leave the broker, its figures and its store, though nobody asks for them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_core::{Record, RelaxedTopics, Settings, Store};
use veilmq_protocol::{Packet, Publish, PublishProperties, QoS};
use veilmq_simulator::{Conn, World, publish};

/// Publishes a retained message of QoS 1 that expires after so many seconds.
fn retain(world: &mut World, client: Conn, topic: &str, expiry_seconds: u32) {
    let properties =
        PublishProperties { message_expiry_seconds: Some(expiry_seconds), ..PublishProperties::default() };
    let publish = Publish { retain: true, properties, ..publish(topic, "x", QoS::AtLeastOnce, 1) };
    world.send(client, &Packet::Publish(publish));
}

/// Returns the topics of which the store has a retained message.
fn stored(world: &mut World) -> Vec<String> {
    let mut topics = Vec::new();
    let mut note = |record| {
        if let Record::Retained { message } = record {
            topics.push(message.topic().to_owned());
        }
    };
    world.store.replay(&mut note).unwrap();
    topics
}

#[test]
fn an_expired_message_is_gone_a_second_later_from_memory_and_store_unasked() {
    // [MQTT-3.3.2-5]
    let mut world = World::new(3);
    let clients: Vec<Conn> = (0..6).map(|number| world.join(&format!("c{number}"), true, 0).0).collect();
    for (client, seconds) in clients.iter().zip([60, 10, 20, 60, 30, 10]) {
        retain(&mut world, *client, &format!("jobs/{}", client.0), seconds);
    }
    world.retain(clients[0], "kept", "x");
    let mut counts = Vec::new();

    for _ in 0..7 {
        world.pass(10_999);
        counts.push((world.shared.retained_totals().0, stored(&mut world).len()));
    }

    assert_eq!(counts, [5, 4, 3, 3, 3, 1, 1].map(|count| (count, count)));
    assert_eq!(stored(&mut world), ["kept"]);
    assert_eq!(world.next_deadline(), None, "nothing is left to wait for");
}

#[test]
fn what_a_restart_brings_back_expires_too() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    retain(&mut world, client, "late", 60);
    retain(&mut world, client, "early", 20);

    let (mut world, summary) = world.crash(2);

    assert_eq!(summary.retained, 2);
    world.pass(21_000);
    assert_eq!(stored(&mut world), ["late"]);
    world.pass(40_000);
    assert_eq!((world.shared.retained_totals(), stored(&mut world)), ((0, 0), vec![]));
}

#[test]
fn an_expiry_follows_the_message_that_is_retained_now() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    retain(&mut world, client, "longer", 10);
    retain(&mut world, client, "longer", 100);
    retain(&mut world, client, "for ever", 10);
    world.retain(client, "for ever", "x");
    retain(&mut world, client, "shorter", 100);
    retain(&mut world, client, "shorter", 10);

    world.pass(20_000);

    assert_eq!(stored(&mut world), ["for ever", "longer"]);
    world.pass(100_000);
    assert_eq!(stored(&mut world), ["for ever"]);
}

#[test]
fn of_many_that_expire_at_once_a_turn_removes_some() {
    const COUNT: usize = 2_500;
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    (0..COUNT).for_each(|number| retain(&mut world, client, &number.to_string(), 10));
    let mut counts = Vec::new();

    world.pass(9_999);
    for _ in 0..4 {
        counts.push(world.shared.retained_totals().0);
        world.pass(1);
    }

    assert_eq!(counts, [2_500, 1_500, 500, 0]);
    assert!(stored(&mut world).is_empty());
}

#[test]
fn what_has_expired_makes_room_at_once_where_retained_messages_are_at_their_limit() {
    // [D03]
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    // Timers go by full seconds, and this expires between two.
    world.pass(500);
    retain(&mut world, client, "a", 10);
    let retained_bytes_max = world.shared.retained_totals().1;
    world.set_settings(Settings { retained_bytes_max, ..Settings::default() });
    world.pass(9_999);
    world.bytes(client);

    retain(&mut world, client, "b", 10);
    world.pass(1);
    retain(&mut world, client, "b", 10);

    assert_eq!(world.received(client), ["PUBACK id1 0x97", "PUBACK id1 0x10"]);
    assert_eq!(stored(&mut world), ["b"]);
}

#[test]
fn what_is_kept_in_memory_alone_expires_without_a_record() {
    let relaxed_topics = RelaxedTopics { memory: vec!["memory/#".into()], ..RelaxedTopics::default() };
    let mut world = World::with(Settings { relaxed_topics, ..Settings::default() });
    let (client, _) = world.join("c", true, 0);
    retain(&mut world, client, "memory/a", 10);
    world.commits_at_once = false;

    world.pass(10_000);

    assert_eq!(world.shared.retained_totals(), (0, 0));
    assert!(!world.has_uncommitted());
}
