//! Queues that spill: little of what waits is in memory, and nothing of it is lost or out of order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU16;

use veilmq_core::{Record, Settings, Store};
use veilmq_protocol::{Connect, Disconnect, Packet, Publish, PublishProperties, QoS};
use veilmq_simulator::{Conn, World, connect_v5, publish};

const MEMORY_BYTES: usize = 64 * 1024;

fn world(shards: u16) -> World {
    World::with(Settings { shards, session_queue_memory_bytes: MEMORY_BYTES, ..Settings::default() })
}

/// Connects a client that stays a member of what it subscribes to, and lets it go.
fn offline(world: &mut World, name: &str, filter: &str, qos: QoS) {
    let (connection, _) = world.join(name, true, 3_600);
    world.subscribe(connection, filter, qos);
    world.cut(connection);
}

/// A payload of about a kilobyte that begins with its number.
fn payload(number: usize) -> String {
    format!("{number:05}{}", "x".repeat(1_000))
}

/// Publishes messages with these numbers to `t`, each acknowledged before the next.
fn publish_numbers(world: &mut World, numbers: std::ops::Range<usize>, qos: QoS) {
    let (publisher, _) = world.join("publisher", true, 0);
    for number in numbers {
        world.publish(publisher, "t", &payload(number), qos, 1);
        if qos == QoS::ExactlyOnce {
            world.ack(publisher, Packet::PubRel, 1);
        }
    }
    let answers = world.received(publisher);
    assert!(answers.iter().all(|answer| !answer.contains("0x")), "{answers:?}");
}

fn number_of(packet: &str) -> Option<usize> {
    let published = packet.strip_prefix("PUBLISH t \"")?;
    Some(published[..5].parse().unwrap())
}

/// Answers what the client has received, as long as that brings more; returns the numbers of the messages in their order.
fn drain(world: &mut World, connection: Conn) -> Vec<usize> {
    let mut numbers = Vec::new();
    loop {
        let packets = world.received(connection);
        if packets.is_empty() {
            return numbers;
        }
        for packet in packets {
            let id = |packet: &str| {
                packet.split(' ').find_map(|word| word.strip_prefix("id")).unwrap().parse().unwrap()
            };
            if let Some(number) = number_of(&packet) {
                numbers.push(number);
                let is_exactly_once = packet.contains(" qos2 ");
                let answer = if is_exactly_once { Packet::PubRec } else { Packet::PubAck };
                world.ack(connection, answer, id(&packet));
            } else if packet.starts_with("PUBREL") {
                world.ack(connection, Packet::PubComp, id(&packet));
            }
        }
    }
}

fn memory_bytes(world: &World) -> usize {
    usize::try_from(world.sample("veilmq_queued_memory_bytes", "")).unwrap()
}

fn is_all_gone(world: &mut World) {
    for gauge in ["queued_messages", "queued_bytes", "queued_memory_bytes", "inflight_messages"] {
        assert_eq!(world.sample(&format!("veilmq_{gauge}"), ""), 0, "{gauge}");
    }
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn ten_thousand_messages_wait_in_little_memory_and_arrive_in_order() {
    // [D05]
    let mut rows = vec![(QoS::AtLeastOnce, 2, true, 10_000)];
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        rows.extend([(1, false), (3, false), (3, true)].map(|(shards, crashes)| (qos, shards, crashes, 500)));
    }
    for (qos, shards, crashes, count) in rows {
        let mut world = world(shards);
        offline(&mut world, "s", "t", qos);
        publish_numbers(&mut world, 0..count, qos);
        let held = memory_bytes(&world);
        assert!(held > MEMORY_BYTES / 2 && held <= MEMORY_BYTES, "{held} bytes");
        assert!(world.sample("veilmq_queued_bytes", "") > 1_000 * count as u64);
        if crashes {
            world = world.crash(shards).0;
            assert_eq!(memory_bytes(&world), 0);
        }
        assert_eq!(world.sample("veilmq_queued_messages", ""), count as u64);

        let (subscriber, present) = world.join("s", false, 3_600);

        assert!(present);
        assert!(drain(&mut world, subscriber).into_iter().eq(0..count), "{qos:?} {shards} {crashes}");
        is_all_gone(&mut world);
    }
}

#[test]
fn what_is_not_stored_yet_stays_in_memory_and_goes_when_it_is() {
    let mut world = world(2);
    offline(&mut world, "s", "t", QoS::AtLeastOnce);
    let publishers = ["p", "q"].map(|name| world.join(name, true, 0).0);
    world.commits_at_once = false;
    for number in 0..200 {
        world.publish(publishers[number % 2], "t", &payload(number), QoS::AtLeastOnce, 1 + number as u16);
    }
    assert!(memory_bytes(&world) > 200_000);

    while world.commit_one() {}
    // The shard of the session may have nothing to do when a batch of another one is stored.
    world.pass(2_000);

    assert!(memory_bytes(&world) <= MEMORY_BYTES);
}

#[test]
fn what_was_refused_by_the_store_stays_in_memory_and_holds_nothing_else_there() {
    let mut world = world(1);
    offline(&mut world, "s", "t", QoS::AtLeastOnce);
    publish_numbers(&mut world, 0..100, QoS::AtLeastOnce);
    let (publisher, _) = world.join("refused", true, 0);
    world.commits_at_once = false;
    world.publish(publisher, "t", &payload(100), QoS::AtLeastOnce, 1);
    world.fail_commits();
    world.commits_at_once = true;
    publish_numbers(&mut world, 101..200, QoS::AtLeastOnce);
    assert!(memory_bytes(&world) <= MEMORY_BYTES + 2_000);

    let (subscriber, _) = world.join("s", false, 3_600);

    assert!(drain(&mut world, subscriber).into_iter().eq(0..200));
}

#[test]
fn a_client_that_leaves_and_returns_while_messages_are_read_gets_them_once_and_in_order() {
    type Leave = fn(&mut World, Conn);
    // How the first connection ends: cut, by the client, or by the next one (takeover).
    let endings: [Leave; 3] = [
        World::cut,
        |world, connection| world.send(connection, &Packet::Disconnect(Disconnect::default())),
        |_, _| {},
    ];
    for leave in endings {
        for answered_between in [false, true] {
            let mut world = world(1);
            offline(&mut world, "s", "t", QoS::ExactlyOnce);
            publish_numbers(&mut world, 0..500, QoS::ExactlyOnce);
            world.fetches_at_once = false;
            let (first, _) = world.join("s", false, 3_600);
            let mut seen = drain(&mut world, first);
            assert!(!seen.is_empty() && seen.len() < 500 && world.fetching().is_some());

            leave(&mut world, first);
            if answered_between {
                while world.fetch_one() {}
            }
            let (second, _) = world.join("s", false, 3_600);
            world.fetches_at_once = true;
            while world.fetch_one() {}
            seen.extend(drain(&mut world, second));

            assert!(seen.into_iter().eq(0..500));
            is_all_gone(&mut world);
        }
    }
}

#[test]
fn what_was_in_flight_is_read_back_and_sent_again_first() {
    for crashes in [false, true] {
        let mut world = world(1);
        offline(&mut world, "s", "t", QoS::AtLeastOnce);
        publish_numbers(&mut world, 0..300, QoS::AtLeastOnce);
        let (first, _) = world.join("s", false, 3_600);
        let sent = world.received(first).len();
        assert_eq!(sent, 300, "a Receive Maximum that large lets all through");
        world.cut(first);
        publish_numbers(&mut world, 300..310, QoS::AtLeastOnce);
        if crashes {
            world = world.crash(1).0;
        }

        let mut connect = connect_v5("s", false, 3_600);
        connect.properties.receive_maximum = NonZeroU16::new(7);
        let second = world.connect(&Connect { ..connect });
        let received = world.received(second);
        assert_eq!(received.len(), 8, "{received:?}");
        assert!(received[1..].iter().all(|packet| packet.ends_with(" dup")));
        let mut numbers: Vec<usize> = received.iter().filter_map(|packet| number_of(packet)).collect();
        for packet_id in 1..=7 {
            world.ack(second, Packet::PubAck, packet_id);
        }
        numbers.extend(drain(&mut world, second));

        assert!(numbers.into_iter().eq(0..310));
        is_all_gone(&mut world);
    }
}

#[test]
fn a_reading_that_fails_closes_the_connection_and_loses_nothing() {
    let mut world = world(1);
    offline(&mut world, "s", "t", QoS::AtLeastOnce);
    publish_numbers(&mut world, 0..300, QoS::AtLeastOnce);
    world.fetches_at_once = false;
    let (first, _) = world.join("s", false, 3_600);
    let mut seen = drain(&mut world, first);

    assert!(world.fail_fetch());

    assert_eq!(world.received(first), ["DISCONNECT 0x97"]);
    assert!(world.is_closed(first));
    world.fetches_at_once = true;
    let (second, _) = world.join("s", false, 3_600);
    seen.extend(drain(&mut world, second));
    assert!(seen.into_iter().eq(0..300));
    is_all_gone(&mut world);
}

#[test]
fn a_message_that_is_damaged_is_counted_and_passed_over() {
    for in_flight in [false, true] {
        let mut world = world(1);
        offline(&mut world, "s", "t", QoS::AtLeastOnce);
        publish_numbers(&mut world, 0..300, QoS::AtLeastOnce);
        if in_flight {
            let (first, _) = world.join("s", false, 3_600);
            world.cut(first);
        }
        world.fetches_at_once = false;
        let (subscriber, _) = world.join("s", false, 3_600);
        let mut seen = drain(&mut world, subscriber);
        let lost = world.fetching().unwrap()[3];
        world.store.commit(&[Record::Forgotten { message: lost }]).unwrap();

        world.fetches_at_once = true;
        while world.fetch_one() {}
        seen.extend(drain(&mut world, subscriber));

        assert_eq!(seen.len(), 299);
        assert!(seen.is_sorted());
        assert_eq!(world.sample("veilmq_messages_dropped_total", "unreadable"), 1);
        is_all_gone(&mut world);
    }
}

#[test]
fn messages_that_expire_while_they_wait_give_their_room_back() {
    for crashes in [false, true] {
        let mut world = world(1);
        offline(&mut world, "s", "t", QoS::AtLeastOnce);
        let (publisher, _) = world.join("p", true, 0);
        // Every third stays, the others expire after a minute or two.
        for number in 0..600 {
            let expiry_seconds = [None, Some(60), Some(120)][number % 3];
            let text = payload(number);
            let packet = Publish {
                properties: PublishProperties {
                    message_expiry_seconds: expiry_seconds,
                    ..PublishProperties::default()
                },
                ..publish("t", &text, QoS::AtLeastOnce, 1)
            };
            world.send(publisher, &Packet::Publish(packet));
        }
        if crashes {
            world = world.crash(1).0;
        }
        assert_eq!(world.sample("veilmq_queued_messages", ""), 600);
        world.pass(61_000);
        assert_eq!(world.sample("veilmq_queued_messages", ""), 400);
        world.pass(60_000);
        assert_eq!(world.sample("veilmq_queued_messages", ""), 200);
        assert_eq!(world.sample("veilmq_messages_dropped_total", "expired"), 400);
        assert_eq!(world.stored_bodies(), 200);

        let (subscriber, _) = world.join("s", false, 3_600);

        assert!(drain(&mut world, subscriber).into_iter().eq((0..600).step_by(3)));
        is_all_gone(&mut world);
    }
}

#[test]
fn messages_that_expire_between_two_readings_are_passed_over() {
    let mut world = world(1);
    offline(&mut world, "s", "t", QoS::AtLeastOnce);
    let (publisher, _) = world.join("p", true, 0);
    for number in 0..300 {
        let text = payload(number);
        let expiry = (100..200).contains(&number).then_some(60);
        let properties = PublishProperties { message_expiry_seconds: expiry, ..PublishProperties::default() };
        let packet = Publish { properties, ..publish("t", &text, QoS::AtLeastOnce, 1) };
        world.send(publisher, &Packet::Publish(packet));
    }
    world.fetches_at_once = false;
    let (subscriber, _) = world.join("s", false, 3_600);
    let mut seen = drain(&mut world, subscriber);

    world.pass(60_500);
    world.fetches_at_once = true;
    while world.fetch_one() {}
    seen.extend(drain(&mut world, subscriber));

    assert!(seen.into_iter().eq((0..100).chain(200..300)));
    is_all_gone(&mut world);
}

#[test]
fn an_ended_session_leaves_what_spilled_to_another_member_in_order() {
    // [MQTT-4.8.2-5]
    for crashes in [false, true] {
        let mut world = world(2);
        offline(&mut world, "a", "$share/g/t", QoS::AtLeastOnce);
        publish_numbers(&mut world, 0..1_000, QoS::AtLeastOnce);
        offline(&mut world, "b", "$share/g/t", QoS::AtLeastOnce);
        if crashes {
            world = world.crash(2).0;
        }

        world.join("a", true, 0);

        assert_eq!(world.sample("veilmq_queued_messages", ""), 1_000);
        assert!(memory_bytes(&world) <= 2 * MEMORY_BYTES);
        let (b, _) = world.join("b", false, 3_600);
        assert!(drain(&mut world, b).into_iter().eq(0..1_000));
        is_all_gone(&mut world);
    }
}

#[test]
fn a_crash_while_copies_are_passed_on_loses_none() {
    for failing in [false, true] {
        let mut world = world(1);
        offline(&mut world, "a", "$share/g/t", QoS::AtLeastOnce);
        publish_numbers(&mut world, 0..300, QoS::AtLeastOnce);
        offline(&mut world, "b", "$share/g/t", QoS::AtLeastOnce);
        world.fetches_at_once = false;
        world.join("a", true, 0);
        if failing {
            assert!(world.fail_fetch());
            assert!(!world.fetch_one(), "it is asked for again in a while");
            world.pass(1_000);
        }
        assert!(world.fetch_one());

        let (mut world, _) = world.crash(1);

        let (b, _) = world.join("b", false, 3_600);
        let mut numbers = drain(&mut world, b);
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..300));
        is_all_gone(&mut world);
    }
}

#[test]
fn what_spilled_has_no_heir_when_its_group_is_gone() {
    let mut world = world(1);
    offline(&mut world, "a", "$share/g/t", QoS::AtLeastOnce);
    publish_numbers(&mut world, 0..300, QoS::AtLeastOnce);
    world.fetches_at_once = false;

    world.join("a", true, 0);

    assert_eq!(world.fetching(), None);
    is_all_gone(&mut world);
}

#[test]
fn the_queues_of_all_sessions_have_a_limit_together() {
    // [D05]
    let one = {
        let mut world = world(1);
        offline(&mut world, "s", "t", QoS::AtLeastOnce);
        publish_numbers(&mut world, 0..1, QoS::AtLeastOnce);
        usize::try_from(world.sample("veilmq_queued_bytes", "")).unwrap()
    };
    for shards in [1, 3] {
        let mut world = World::with(Settings { shards, queue_bytes_max: 10 * one, ..Settings::default() });
        for name in ["a", "b", "c"] {
            offline(&mut world, name, "t", QoS::AtLeastOnce);
        }

        publish_numbers(&mut world, 0..4, QoS::AtLeastOnce);

        assert_eq!(world.sample("veilmq_queued_messages", ""), 10);
        assert_eq!(world.sample("veilmq_messages_dropped_total", "queues_full"), 2);
        let received: usize = ["a", "b", "c"]
            .iter()
            .map(|name| {
                let (connection, _) = world.join(name, false, 3_600);
                drain(&mut world, connection).len()
            })
            .sum();
        assert_eq!(received, 10);
        is_all_gone(&mut world);
    }
}

#[test]
fn beyond_the_memory_of_all_queues_new_messages_spill_at_once() {
    let mut world = World::with(Settings { shards: 2, queue_memory_bytes: 100_000, ..Settings::default() });
    let names: Vec<String> = (0..20).map(|number| format!("client {number}")).collect();
    for name in &names {
        offline(&mut world, name, "t", QoS::AtLeastOnce);
    }

    publish_numbers(&mut world, 0..50, QoS::AtLeastOnce);

    assert!(memory_bytes(&world) <= 100_000, "{} bytes", memory_bytes(&world));
    for name in &names {
        let (connection, _) = world.join(name, false, 3_600);
        assert!(drain(&mut world, connection).into_iter().eq(0..50));
    }
    is_all_gone(&mut world);
}

#[test]
fn a_store_that_keeps_nothing_lets_nothing_spill() {
    let settings =
        Settings { session_queue_memory_bytes: MEMORY_BYTES, queues_spill: false, ..Settings::default() };
    let mut world = World::with(settings);
    offline(&mut world, "s", "t", QoS::AtLeastOnce);
    publish_numbers(&mut world, 0..300, QoS::AtLeastOnce);
    world.fetches_at_once = false;

    let (subscriber, _) = world.join("s", false, 3_600);

    assert!(drain(&mut world, subscriber).into_iter().eq(0..300));
}

#[test]
fn a_reconnecting_client_that_is_slow_is_not_read_ahead_of() {
    let mut world = world(1);
    offline(&mut world, "s", "t", QoS::AtLeastOnce);
    publish_numbers(&mut world, 0..1_000, QoS::AtLeastOnce);
    let mut connect = connect_v5("s", false, 3_600);
    connect.properties.receive_maximum = NonZeroU16::new(1);
    let subscriber = world.connect(&Connect { ..connect });
    for _ in 0..300 {
        let packet_id = last_id(&mut world, subscriber);
        world.ack(subscriber, Packet::PubAck, packet_id);

        assert!(memory_bytes(&world) <= 2 * MEMORY_BYTES);
    }
}

fn last_id(world: &mut World, connection: Conn) -> u16 {
    let packets = world.received(connection);
    let word = packets.last().unwrap().split(' ').find_map(|word| word.strip_prefix("id"));
    word.unwrap().parse().unwrap()
}
