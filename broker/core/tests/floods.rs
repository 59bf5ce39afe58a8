//! Much at once, and more than a client takes: what it costs is bounded, in memory and in one turn, and nothing is lost that has room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;

use veilmq_core::{Access, Actions, Rule, RuleEffect, RuleStage, Rules, Settings, Subject, Template};
use veilmq_protocol::{
    Connect, Packet, PublishProperties, QoS, Subscribe, SubscribeFiltersBuf, TopicFilter, TopicName,
    Unsubscribe, UnsubscribeFiltersBuf, UserProperties, Will,
};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, id, options, publish};

/// The retained topics that one turn looks at.
const TOPICS_PER_TURN: usize = 4_096;
/// The deadlines that one turn acts on.
const DEADLINES_PER_TURN: usize = 256;

/// Retains `count` messages of one byte below `r/`.
fn retain_many(world: &mut World, count: usize, qos: QoS) {
    let (writer, _) = world.join("writer", true, 0);
    for number in 0..count {
        let topic = format!("r/{number:06}");
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { 1 };
        world.send(
            writer,
            &Packet::Publish(veilmq_protocol::Publish {
                retain: true,
                ..publish(&topic, "x", qos, packet_id)
            }),
        );
    }
    world.cut(writer);
}

fn publications(world: &mut World, connection: Conn) -> Vec<String> {
    world.received(connection).into_iter().filter(|packet| packet.starts_with("PUBLISH")).collect()
}

/// Acknowledges QoS 1 messages until none comes any more; returns how many came.
fn acknowledge_all(world: &mut World, connection: Conn) -> usize {
    let mut count = 0;
    loop {
        world.pass(10);
        let received = publications(world, connection);
        if received.is_empty() {
            return count;
        }
        count += received.len();
        for packet in received {
            let (_, packet_id) = packet.rsplit_once(" id").unwrap();
            let packet_id = packet_id.split(' ').next().unwrap().parse().unwrap();
            world.ack(connection, Packet::PubAck, packet_id);
        }
    }
}

#[test]
fn a_subscriber_to_everything_gets_every_retained_message_and_no_turn_brings_them_all() {
    // [D03]
    let mut world = World::new(1);
    retain_many(&mut world, 3 * TOPICS_PER_TURN, QoS::AtMostOnce);
    let (subscriber, _) = world.join("subscriber", true, 0);

    world.subscribe(subscriber, "#", QoS::AtMostOnce);

    let mut received = publications(&mut world, subscriber);
    assert!(!received.is_empty() && received.len() <= TOPICS_PER_TURN, "{} in one turn", received.len());
    world.pass(100);
    received.extend(publications(&mut world, subscriber));
    let expected: Vec<String> =
        (0..3 * TOPICS_PER_TURN).map(|number| format!("PUBLISH r/{number:06} \"x\" qos0 retain")).collect();
    assert!(received == expected, "{} messages, in order and each once", received.len());
    assert_eq!(world.next_deadline(), None, "nothing is left to do");
}

#[test]
fn many_filters_of_one_packet_share_what_a_turn_looks_at_and_each_brings_its_messages() {
    // [D03], [D02]
    let mut world = World::new(1);
    retain_many(&mut world, TOPICS_PER_TURN, QoS::AtMostOnce);
    let (subscriber, _) = world.join("subscriber", true, 0);
    let filters: Vec<String> = (0..8)
        .map(|number| format!("+/{}", "+/".repeat(number).trim_end_matches('/')))
        .map(|levels| format!("{}/#", levels.trim_end_matches('/')))
        .collect();

    world.subscribe_all(subscriber, &filters, QoS::AtMostOnce);

    let at_once = publications(&mut world, subscriber).len();
    assert!(at_once <= TOPICS_PER_TURN, "{at_once}");
    world.pass(100);
    // "+/#" and "+/+/#" match two levels, the others more.
    assert_eq!(at_once + publications(&mut world, subscriber).len(), 2 * TOPICS_PER_TURN);
}

#[test]
fn retained_messages_wait_for_a_subscriber_with_a_short_queue_and_are_not_dropped() {
    // [D03]
    let mut world = World::with(Settings {
        session_queue_messages_max: 10,
        inflight_max: 5,
        outbox_bytes_max: 100,
        ..Settings::default()
    });
    retain_many(&mut world, 500, QoS::AtLeastOnce);
    let (subscriber, _) = world.join("subscriber", true, 600);

    world.subscribe(subscriber, "r/#", QoS::AtLeastOnce);

    assert!(world.sample("veilmq_queued_messages", "") <= 10);
    assert_eq!(acknowledge_all(&mut world, subscriber), 500);
    assert_eq!(world.sample("veilmq_messages_dropped_total", "queue_full"), 0);
}

#[test]
fn what_a_subscription_still_brings_survives_a_lost_connection_and_ends_with_it_or_its_session() {
    // [D03], [C11]
    let mut world =
        World::with(Settings { session_queue_messages_max: 10, inflight_max: 5, ..Settings::default() });
    retain_many(&mut world, 100, QoS::AtLeastOnce);
    let (subscriber, _) = world.join("subscriber", true, 600);
    world.subscribe(subscriber, "r/#", QoS::AtLeastOnce);
    world.cut(subscriber);
    world.pass(1_000);

    let (subscriber, present) = world.join("subscriber", false, 600);

    assert!(present);
    assert_eq!(acknowledge_all(&mut world, subscriber), 100);
    world.subscribe(subscriber, "r/#", QoS::AtLeastOnce);
    let mut filters = UnsubscribeFiltersBuf::default();
    filters.push(TopicFilter::new("r/#").unwrap());
    let unsubscribe =
        Unsubscribe { packet_id: id(9), user: UserProperties::default(), filters: filters.as_filters() };
    world.send(subscriber, &Packet::Unsubscribe(unsubscribe));
    assert!(acknowledge_all(&mut world, subscriber) <= 15, "only what was on its way");
    world.subscribe(subscriber, "r/#", QoS::AtLeastOnce);
    let (subscriber, _) = world.join("subscriber", true, 0);
    assert_eq!(acknowledge_all(&mut world, subscriber), 0, "another session");
}

#[test]
fn identifiers_of_subscriptions_that_overlap_count_for_the_queue() {
    // [D02], [D05]
    const FILTERS: u32 = 1_000;
    let queue_bytes_max = 500_000;
    let mut world = World::with(Settings { session_queue_bytes_max: queue_bytes_max, ..Settings::default() });
    let (subscriber, _) = world.join("subscriber", true, 600);
    for number in 0..FILTERS {
        let level = |bit: u32| if number >> bit & 1 == 1 { "+" } else { "a" };
        let filter = (0..10).map(level).collect::<Vec<_>>().join("/");
        let mut filters = SubscribeFiltersBuf::default();
        filters.push(TopicFilter::new(&filter).unwrap(), options(QoS::AtLeastOnce)).unwrap();
        let subscribe = Subscribe {
            packet_id: id(9),
            subscription_id: NonZeroU32::new(number + 1),
            user: UserProperties::default(),
            filters: filters.as_filters(),
        };
        world.send(subscriber, &Packet::Subscribe(subscribe));
    }
    world.cut(subscriber);
    let (publisher, _) = world.join("publisher", true, 0);

    for _ in 0..1_000 {
        world.publish(publisher, &["a"; 10].join("/"), "x", QoS::AtLeastOnce, 1);
    }

    let queued = world.sample("veilmq_queued_messages", "");
    let bytes = world.sample("veilmq_queued_bytes", "");
    assert!(bytes <= queue_bytes_max as u64, "{bytes}");
    assert!(queued * 4 * u64::from(FILTERS) <= bytes, "{queued} messages in {bytes} bytes");
    assert_eq!(queued + world.sample("veilmq_messages_dropped_total", "queue_full"), 1_000);
    let (subscriber, _) = world.join("subscriber", false, 600);
    assert_eq!(acknowledge_all(&mut world, subscriber) as u64, queued);
    assert_eq!(world.sample("veilmq_queued_bytes", ""), 0);
}

#[test]
fn a_topic_of_nothing_but_separators_is_refused_or_served_everywhere_it_can_stand() {
    // [D01] In PUBLISH, retained, SUBSCRIBE, UNSUBSCRIBE, a Will Message and a rule; with the usual limit, and without any.
    let deep = "/".repeat(65_535);
    let will = |topic| Will {
        qos: QoS::AtMostOnce,
        retain: true,
        topic,
        payload: b"w",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let topic = TopicName::new(&deep).unwrap();
    let mut world = World::new(1);
    let (client, _) = world.join("client", true, 0);
    world.subscribe(client, &deep, QoS::AtMostOnce);
    assert_eq!(world.received(client), ["SUBACK [8f]"]);
    world.retain(client, &deep, "x");
    assert_eq!(world.received(client), ["DISCONNECT 0x90"]);
    let connect = Connect { will: Some(will(topic)), ..connect_v5("dying", true, 0) };
    let limits = || Settings { connect_packet_bytes_max: 1 << 20, ..Settings::default() };
    let mut world = World::with(limits());
    let dying = world.connect(&connect);
    assert_eq!(world.received(dying), ["CONNACK 0x90"]);

    let mut world = World::with(Settings { topic_levels_max: 65_536, ..limits() });
    let rule = Rule {
        subject: Subject::Everyone,
        effect: RuleEffect::Allow,
        actions: Actions { publish: true, receive: true },
        filter: Template::new(&("+".to_owned() + &"/+".repeat(32_000) + "/#")).unwrap(),
    };
    let stage = RuleStage { rules: vec![rule], denies_wildcard_names: false };
    world.set_access(Access { rules: Some(Rules::new(vec![stage], false)), ..Access::open_to(true) });
    let (client, _) = world.join("client", true, 0);
    world.subscribe(client, &deep, QoS::AtMostOnce);
    let dying = world.connect(&connect);
    world.cut(dying);
    world.retain(client, &deep, "x");
    assert_eq!(publications(&mut world, client).len(), 2);
    let mut filters = UnsubscribeFiltersBuf::default();
    filters.push(TopicFilter::new(&deep).unwrap());
    let unsubscribe =
        Unsubscribe { packet_id: id(9), user: UserProperties::default(), filters: filters.as_filters() };
    world.send(client, &Packet::Unsubscribe(unsubscribe));
    assert_eq!(world.received(client), ["UNSUBACK [00]"]);
}

#[test]
fn of_one_subscribe_no_more_filters_are_looked_at_than_a_session_can_hold() {
    // [D02]
    const FILTERS: usize = 200_000;
    let mut world = World::with(Settings { subscriptions_per_session_max: 100, ..Settings::default() });
    let (client, _) = world.join("client", true, 600);

    world.subscribe_all(client, &["t"; FILTERS], QoS::AtLeastOnce);

    let suback = world.bytes(client);
    let reasons = &suback[suback.len() - FILTERS..];
    assert!(reasons[..100].iter().all(|reason| *reason == 1), "granted again and again");
    assert!(reasons[100..].iter().all(|reason| *reason == 0x97), "and then no more");
    assert_eq!(world.sample("veilmq_subscriptions", ""), 1);
}

#[test]
fn a_session_in_every_group_of_a_topic_costs_as_much_as_there_are_groups() {
    // [D02] Were each group compared with all others, a message would take a hundred million steps.
    const GROUPS: usize = 10_000;
    let mut world = World::with(Settings { outbox_bytes_max: 1 << 24, ..Settings::default() });
    let (greedy, _) = world.join("greedy", true, 0);
    for number in 0..GROUPS {
        world.subscribe(greedy, &format!("$share/{number}/t"), QoS::AtMostOnce);
    }
    world.bytes(greedy);
    let (publisher, _) = world.join("publisher", true, 0);
    let began = std::time::Instant::now();

    for _ in 0..3 {
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    }

    assert_eq!(publications(&mut world, greedy).len(), 3 * GROUPS, "a copy for each group");
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_acknowledges_nothing_holds_so_many_bytes_in_flight() {
    // [D06]
    let mut world = World::with(Settings { inflight_bytes_max: 10_000, ..Settings::default() });
    let (subscriber, _) = world.join("subscriber", true, 600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    let (publisher, _) = world.join("publisher", true, 0);
    let payload = "p".repeat(3_000);

    for _ in 0..10 {
        world.publish(publisher, "t", &payload, QoS::AtLeastOnce, 1);
    }

    assert_eq!(publications(&mut world, subscriber).len(), 4);
    world.ack(subscriber, Packet::PubAck, 1);
    assert_eq!(publications(&mut world, subscriber).len(), 1);
    world.cut(subscriber);
    let (subscriber, _) = world.join("subscriber", false, 600);
    assert_eq!(publications(&mut world, subscriber).len(), 4, "those in flight, and no more");
    for packet_id in 2..=5 {
        world.ack(subscriber, Packet::PubAck, packet_id);
    }
    assert_eq!(acknowledge_all(&mut world, subscriber), 5);
}

#[test]
fn clients_that_die_at_once_are_buried_some_in_each_turn() {
    // [D04]
    const CLIENTS: usize = 4 * DEADLINES_PER_TURN;
    let mut world = World::new(1);
    let (heir, _) = world.join("heir", true, 600);
    world.subscribe(heir, "wills/+", QoS::AtLeastOnce);
    let payload = vec![b'w'; 1_000];
    for number in 0..CLIENTS {
        let topic = format!("wills/{number}");
        let will = Will {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: TopicName::new(&topic).unwrap(),
            payload: &payload,
            delay_seconds: 0,
            properties: PublishProperties::default(),
        };
        let connect = connect_v5(&topic, true, 0);
        world.connect(&Connect { will: Some(will), keep_alive_seconds: 10, ..connect });
    }
    world.commits_at_once = false;

    world.pass(20_000);

    let batches = world.awaited().len();
    assert!(batches >= CLIENTS / DEADLINES_PER_TURN, "{batches} batches for the store");
    world.commit();
    assert_eq!(acknowledge_all(&mut world, heir), CLIENTS, "nobody's will is lost");
}

#[test]
fn twins_are_slowed_down_and_the_one_that_is_there_is_left_in_peace() {
    // [C02]
    for shards in [1, 3] {
        let mut world = World::with(Settings { shards, takeovers_per_minute_max: 60, ..Settings::default() });
        let mut twins = Vec::new();
        for _ in 0..200 {
            twins.push(world.connect(&connect_v5("twin", false, 600)));
        }

        let answers: Vec<String> =
            twins.iter().map(|twin| world.received(*twin).first().unwrap().clone()).collect();

        assert_eq!(answers.iter().filter(|answer| answer.starts_with("CONNACK 0x00")).count(), 61);
        assert!(answers[61..].iter().all(|answer| answer == "CONNACK 0x9f"), "{:?}", answers.last());
        let connected: Vec<usize> = (0..200).filter(|twin| !world.is_closed(twins[*twin])).collect();
        assert_eq!(connected, [60], "exactly one");
        let old = world.connect(&connect_v311("twin", false));
        assert_eq!(world.bytes(old), [0x20, 2, 0, 3], "server unavailable");
        world.send(twins[60], &Packet::PingReq);
        assert_eq!(world.received(twins[60]), ["PINGRESP"]);
        world.pass(1_000);
        let (next, present) = world.join("twin", false, 600);
        assert!(present && world.is_closed(twins[60]) && !world.is_closed(next));
    }
}

#[test]
fn who_comes_back_to_a_session_without_a_connection_is_never_slowed_down() {
    // [C02]
    let mut world = World::new(1);

    for _ in 0..500 {
        let (connection, _) = world.join("flaky", false, 600);
        world.cut(connection);
    }

    assert_eq!(world.sample("veilmq_connections_closed_total", "refused"), 0);
}
