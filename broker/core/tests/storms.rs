//! Clients that come in masses, again and again, or die at once: nothing is left behind, and limits hold.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use veilmq_core::Settings;
use veilmq_protocol::{
    Connect, ConnectProperties, Packet, PublishProperties, QoS, TopicFilter, TopicName, Unsubscribe,
    UnsubscribeFiltersBuf, Will,
};
use veilmq_simulator::{Conn, World, connect_v5, id};

fn connect_with_receive_maximum(world: &mut World, client_id: &str, receive_maximum: u16) -> Conn {
    let properties = ConnectProperties {
        receive_maximum: NonZeroU16::new(receive_maximum),
        session_expiry_seconds: Some(600),
        ..ConnectProperties::default()
    };
    world.connect(&Connect { properties, ..connect_v5(client_id, false, 600) })
}

fn publications(world: &mut World, connection: Conn) -> usize {
    world.received(connection).iter().filter(|packet| packet.starts_with("PUBLISH")).count()
}

#[test]
fn of_twins_that_take_each_others_place_exactly_one_is_connected_and_none_is_left_behind() {
    // [C02]
    for shards in [1, 3] {
        let settings = Settings { shards, takeovers_per_minute_max: 0, ..Settings::default() };
        let mut world = World::with(settings);
        let mut twins = Vec::new();
        for _ in 0..1_000 {
            twins.push(world.join("twin", false, 600).0);
        }

        let connected = twins.iter().filter(|twin| !world.is_closed(**twin)).count();

        assert_eq!((connected, world.is_closed(twins[999])), (1, false));
        assert_eq!(world.sample("veilmq_connections", ""), 1);
        assert_eq!(world.sample("veilmq_sessions", "connected"), 1);
        assert_eq!(world.sample("veilmq_connections_closed_total", "taken_over"), 999);
        world.subscribe(twins[999], "t", QoS::AtLeastOnce);
        assert_eq!(world.received(twins[999]), ["SUBACK [01]"], "it is served");
    }
}

#[test]
fn a_takeover_brings_the_receive_maximum_of_the_new_connection() {
    // [C03], [MQTT-4.9.0-1]
    let mut world = World::new(1);
    let small = connect_with_receive_maximum(&mut world, "reader", 2);
    world.subscribe(small, "t", QoS::AtLeastOnce);
    world.bytes(small);
    let (writer, _) = world.join("writer", true, 0);
    for number in 1..=10 {
        world.publish(writer, "t", "x", QoS::AtLeastOnce, number);
    }
    assert_eq!(publications(&mut world, small), 2);

    let large = connect_with_receive_maximum(&mut world, "reader", 5);

    assert_eq!(publications(&mut world, large), 5, "those in flight again, and as many as fit besides");
    let smaller = connect_with_receive_maximum(&mut world, "reader", 1);
    assert_eq!(publications(&mut world, smaller), 1);
}

#[test]
fn identifiers_that_are_never_released_are_bounded_by_the_receive_maximum() {
    // [C05], [MQTT-3.3.4-7]
    let mut world = World::with(Settings { receive_maximum: 20, ..Settings::default() });
    let (client, _) = world.join("greedy", true, 600);
    for number in 1..=20 {
        world.publish(client, "t", "x", QoS::ExactlyOnce, number);
    }
    assert!(!world.is_closed(client));

    world.publish(client, "t", "x", QoS::ExactlyOnce, 21);

    assert_eq!(world.received(client).last().map(String::as_str), Some("DISCONNECT 0x93"));
    let (client, _) = world.join("greedy", false, 600);
    for number in 1..=20 {
        world.ack(client, Packet::PubRel, number);
    }
    assert_eq!(world.received(client).iter().filter(|packet| packet.starts_with("PUBCOMP")).count(), 20);
}

#[test]
fn sessions_that_come_and_go_leave_nothing_behind() {
    // [C11]
    let mut world = World::new(2);
    for round in 0..2_000 {
        let name = format!("client-{}", round % 7);
        let (connection, _) = world.join(&name, round % 3 == 0, 0);
        for filter in ["a/+", "a/#", "$share/g/a/b", "a/+"] {
            world.subscribe(connection, filter, QoS::AtLeastOnce);
        }
        let mut filters = UnsubscribeFiltersBuf::default();
        filters.push(TopicFilter::new("a/#").unwrap());
        let unsubscribe =
            Unsubscribe { packet_id: id(9), user: Default::default(), filters: filters.as_filters() };
        world.send(connection, &Packet::Unsubscribe(unsubscribe));
        world.cut(connection);
    }

    for (name, label) in [
        ("veilmq_connections", ""),
        ("veilmq_sessions", "connected"),
        ("veilmq_sessions", "disconnected"),
        ("veilmq_subscriptions", ""),
        ("veilmq_shared_subscriptions", ""),
        ("veilmq_queued_messages", ""),
    ] {
        assert_eq!(world.sample(name, label), 0, "{name} {label}");
    }
    assert_eq!(world.next_deadline(), None, "no timer is left");
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn filters_that_overlap_in_every_way_cost_no_more_than_there_are_and_bring_one_message() {
    // [D02]
    const LEVELS: u32 = 12;
    let mut world = World::new(1);
    let (subscriber, _) = world.join("subscriber", true, 0);
    for pattern in 0..1_u32 << LEVELS {
        let level = |bit| if pattern >> bit & 1 == 1 { "+" } else { "a" };
        let filter = (0..LEVELS).map(level).collect::<Vec<_>>().join("/");
        world.subscribe(subscriber, &filter, QoS::AtMostOnce);
    }
    world.bytes(subscriber);
    let (publisher, _) = world.join("publisher", true, 0);
    let topic = ["a"; LEVELS as usize].join("/");
    let began = Instant::now();

    for number in 0..20 {
        // Each topic is new to the broker, so no earlier match helps.
        world.publish(publisher, &format!("{topic}/{number}"), "x", QoS::AtMostOnce, 0);
        world.publish(publisher, &topic, "x", QoS::AtMostOnce, 0);
    }

    assert_eq!(world.received(subscriber).len(), 20, "one for each message that matches");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_wills_of_clients_that_die_at_once_fill_a_queue_no_further_than_its_limit() {
    // [D04]
    const WILL_BYTES: usize = 10_000;
    let queue_bytes = 300_000;
    let mut world = World::with(Settings {
        session_queue_bytes_max: queue_bytes,
        outbox_bytes_max: 1,
        ..Settings::default()
    });
    let (subscriber, _) = world.join("subscriber", true, 600);
    world.subscribe(subscriber, "wills/#", QoS::AtLeastOnce);
    world.cut(subscriber);
    let payload = vec![b'w'; WILL_BYTES];
    let topics: Vec<String> = (0..200).map(|number| format!("wills/{number}")).collect();
    let clients: Vec<Conn> = topics
        .iter()
        .map(|topic| {
            let will = Will {
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: TopicName::new(topic).unwrap(),
                payload: &payload,
                delay_seconds: 0,
                properties: PublishProperties::default(),
            };
            world.connect(&Connect { will: Some(will), ..connect_v5(topic, true, 0) })
        })
        .collect();

    for client in clients {
        world.cut(client);
    }

    let queued = world.sample("veilmq_queued_messages", "");
    let dropped = world.sample("veilmq_messages_dropped_total", "queue_full");
    assert_eq!(queued + dropped, 200, "every will is accounted for");
    assert!(world.sample("veilmq_queued_bytes", "") <= queue_bytes as u64 && queued >= 20, "{queued}");
}
