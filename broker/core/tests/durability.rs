//! Nothing is acknowledged before it is durable, and a crash loses nothing that was acknowledged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_core::{Moment, Settings};
use veilmq_protocol::{Connect, Packet, Publish, PublishProperties, QoS, TopicName, Will};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, publish};

fn offline_subscriber(world: &mut World, qos: QoS) {
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, "t", qos);
    world.cut(subscriber);
}

#[test]
fn an_acknowledgement_waits_for_the_commit_of_what_a_durable_session_needs() {
    for (qos, answer) in [(QoS::AtLeastOnce, "PUBACK id1"), (QoS::ExactlyOnce, "PUBREC id1")] {
        let mut world = World::new(2);
        offline_subscriber(&mut world, qos);
        let (publisher, _) = world.join("p", true, 0);
        world.commits_at_once = false;

        world.publish(publisher, "t", "x", qos, 1);
        assert!(world.received(publisher).is_empty(), "{qos:?}");
        world.commit();

        assert_eq!(world.received(publisher), [answer]);
    }
}

#[test]
fn what_a_subscriber_acknowledges_is_stored_and_nothing_waits_for_it() {
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.bytes(subscriber);
    world.commits_at_once = false;

    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos1 id1"]);
    world.ack(subscriber, Packet::PubAck, 1);

    assert_eq!(world.awaited(), [true, false]);
    world.commit();
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn acknowledgements_keep_the_order_of_their_messages() {
    let mut world = World::new(1);
    offline_subscriber(&mut world, QoS::AtLeastOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.commits_at_once = false;

    world.publish(publisher, "t", "stored", QoS::AtLeastOnce, 1);
    world.publish(publisher, "nobody", "x", QoS::AtLeastOnce, 2);
    assert!(world.received(publisher).is_empty());
    world.commit();

    assert_eq!(world.received(publisher), ["PUBACK id1", "PUBACK id2 0x10"]);
}

#[test]
fn connack_and_suback_of_a_durable_session_wait_for_the_commit() {
    let mut world = World::new(1);
    world.commits_at_once = false;
    let client = world.connect(&connect_v5("s", true, 60));
    assert!(world.bytes(client).is_empty());
    world.commit();
    assert_eq!(world.received(client), ["CONNACK 0x00"]);

    world.subscribe(client, "t", QoS::AtLeastOnce);
    assert!(world.bytes(client).is_empty());
    world.commit();

    assert_eq!(world.received(client), ["SUBACK [01]"]);
}

#[test]
fn connack_of_a_clean_start_waits_until_the_end_of_the_old_session_is_durable() {
    let mut world = World::new(1);
    world.join("s", true, 3_600);
    world.commits_at_once = false;

    let client = world.connect(&connect_v5("s", true, 0));
    assert!(world.bytes(client).is_empty());
    world.commit();

    assert_eq!(world.received(client), ["CONNACK 0x00"]);
}

#[test]
fn a_qos_2_message_is_sent_and_released_only_when_that_is_durable() {
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.bytes(subscriber);
    world.commits_at_once = false;

    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
    assert!(world.bytes(subscriber).is_empty());
    world.commit();
    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos2 id1"]);
    world.ack(subscriber, Packet::PubRec, 1);
    assert!(world.bytes(subscriber).is_empty());
    world.commit();

    assert_eq!(world.received(subscriber), ["PUBREL id1"]);
}

#[test]
fn messages_of_one_publisher_keep_their_order_where_qos_1_and_2_alternate() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (subscriber, _) = world.join("s", true, 3_600);
        world.subscribe(subscriber, "t", QoS::ExactlyOnce);
        let (publisher, _) = world.join("p", true, 0);
        world.bytes(subscriber);
        world.commits_at_once = false;

        world.publish(publisher, "t", "a", QoS::ExactlyOnce, 1);
        world.commit_one();
        assert_eq!(world.received(publisher), ["PUBREC id1"]);
        for (payload, id) in [("b", 2), ("c", 3)] {
            world.publish(publisher, "t", payload, QoS::AtLeastOnce, id);
        }
        assert!(world.bytes(subscriber).is_empty(), "a waits for its commit, and nothing overtakes it");
        world.commit();

        let sent = |payload, qos, id| format!("PUBLISH t \"{payload}\" qos{qos} id{id}");
        assert_eq!(world.received(subscriber), [sent("a", 2, 1), sent("b", 1, 2), sent("c", 1, 3)]);
        world.publish(publisher, "t", "d", QoS::AtLeastOnce, 4);
        assert_eq!(world.received(subscriber), [sent("d", 1, 4)], "nothing waits any longer");
    }
}

#[test]
fn what_cannot_be_stored_is_not_acknowledged() {
    // [MQTT311-4.8.0-2] Either version's connection is closed; only MQTT 5 has a word for it.
    let rows = [(connect_v5("p", true, 0), &["DISCONNECT 0x97"][..]), (connect_v311("p", true), &[])];
    for (connect, said) in rows {
        let mut world = World::new(1);
        offline_subscriber(&mut world, QoS::AtLeastOnce);
        let publisher = world.connect(&connect);
        world.received(publisher);
        world.commits_at_once = false;

        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        world.fail_commits();

        assert_eq!(world.received(publisher), said);
        assert!(world.is_closed(publisher));
    }
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    for (before, after) in [(1, 1), (4, 2), (2, 7)] {
        let mut world = World::new(before);
        offline_subscriber(&mut world, QoS::AtLeastOnce);
        let (publisher, _) = world.join("p", true, 0);
        for number in 1..=20 {
            world.publish(publisher, "t", &number.to_string(), QoS::AtLeastOnce, number);
        }
        world.retain(publisher, "kept", "r");
        assert_eq!(world.received(publisher).len(), 20);

        let (mut world, summary) = world.crash(after);

        assert_eq!(
            (summary.sessions, summary.subscriptions, summary.deliveries, summary.retained),
            (1, 1, 20, 1)
        );
        // Before the first turn of any shard.
        assert_eq!(world.sample("veilmq_sessions", "disconnected"), 1);
        assert_eq!(world.sample("veilmq_queued_messages", ""), 20);
        let (subscriber, present) = world.join("s", false, 3_600);
        assert!(present);
        let expected: Vec<String> =
            (1..=20).map(|number| format!("PUBLISH t \"{number}\" qos1 id{number}")).collect();
        assert_eq!(world.received(subscriber), expected);
        world.subscribe(subscriber, "kept", QoS::AtMostOnce);
        assert_eq!(world.received(subscriber)[1], "PUBLISH kept \"r\" qos0 retain");
    }
}

#[test]
fn what_was_in_flight_at_a_crash_is_sent_again_with_its_identifier() {
    // [MQTT-4.4.0-1]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    let (publisher, _) = world.join("p", true, 0);
    for number in 1..=3 {
        world.publish(publisher, "t", &number.to_string(), QoS::ExactlyOnce, number);
    }
    world.ack(subscriber, Packet::PubRec, 1);
    world.ack(subscriber, Packet::PubRec, 2);
    world.ack(subscriber, Packet::PubComp, 2);

    let (mut world, _) = world.crash(3);
    let (subscriber, _) = world.join("s", false, 3_600);

    assert_eq!(world.received(subscriber), ["PUBREL id1", "PUBLISH t \"3\" qos2 id3 dup"]);
}

#[test]
fn a_qos_2_identifier_of_a_client_survives_a_crash() {
    // [MQTT-4.3.3-10]
    let mut world = World::new(1);
    offline_subscriber(&mut world, QoS::AtLeastOnce);
    let (publisher, _) = world.join("p", true, 3_600);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 7);

    let (mut world, _) = world.crash(1);
    let (publisher, _) = world.join("p", false, 3_600);
    let again = Publish { dup: true, ..publish("t", "x", QoS::ExactlyOnce, 7) };
    world.send(publisher, &Packet::Publish(again));
    assert_eq!(world.received(publisher), ["PUBREC id7"]);

    let (subscriber, _) = world.join("s", false, 3_600);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos1 id1"]);
}

#[test]
fn settled_messages_leave_nothing_in_the_store() {
    let mut world = World::new(3);
    for client in ["a", "b", "c"] {
        let (subscriber, _) = world.join(client, true, 3_600);
        world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    }
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.stored_bodies(), 1);

    for client in ["a", "b"] {
        let (subscriber, _) = world.join(client, false, 3_600);
        world.ack(subscriber, Packet::PubAck, 1);
    }
    assert_eq!(world.stored_bodies(), 1);
    // The third session ends instead of acknowledging.
    world.join("c", true, 0);

    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn a_will_survives_a_crash_and_is_published_after_it() {
    let mut world = World::new(1);
    offline_subscriber(&mut world, QoS::AtLeastOnce);
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TopicName::new("t").unwrap(),
        payload: b"gone",
        delay_seconds: 10,
        properties: PublishProperties::default(),
    };
    world.connect(&Connect { will: Some(will), ..connect_v5("dying", true, 60) });

    let (mut world, _) = world.crash(1);
    world.pass(10_000);

    let (subscriber, _) = world.join("s", false, 3_600);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"gone\" qos1 id1"]);
}

#[test]
fn a_qos_2_message_that_was_not_stored_reaches_nobody_and_is_no_repetition_later() {
    // [MQTT-4.3.3-10]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 3_600);
    world.commits_at_once = false;

    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 7);
    world.fail_commits();
    assert!(world.is_closed(publisher));
    assert!(world.bytes(subscriber).is_empty());
    world.commits_at_once = true;
    let (publisher, _) = world.join("p", false, 3_600);
    let again = Publish { dup: true, ..publish("t", "x", QoS::ExactlyOnce, 7) };
    world.send(publisher, &Packet::Publish(again));

    assert_eq!(world.received(publisher), ["PUBREC id7"]);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos2 id1"]);
    assert_eq!(world.crash(1).1.deliveries, 1);
}

#[test]
fn a_qos_2_message_that_was_written_and_refused_arrives_once_when_it_is_sent_again() {
    for crashes_at_once in [true, false] {
        let mut world = World::new(1);
        offline_subscriber(&mut world, QoS::ExactlyOnce);
        let (publisher, _) = world.join("p", true, 3_600);
        world.commits_at_once = false;
        world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
        assert!(world.fail_one_after_writing());

        if crashes_at_once {
            world = world.crash(1).0;
        }
        world.commits_at_once = true;
        let publisher = world.connect(&connect_v5("p", false, 3_600));
        let again = Publish { dup: true, ..publish("t", "x", QoS::ExactlyOnce, 1) };
        world.send(publisher, &Packet::Publish(again));
        assert_eq!(world.received(publisher), ["CONNACK 0x00 present", "PUBREC id1"]);

        assert_eq!(world.crash(1).1.deliveries, 1, "{crashes_at_once}");
    }
}

#[test]
fn a_repetition_whose_answer_is_lost_stays_a_repetition() {
    // [MQTT-4.3.3-10]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 3_600);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 7);
    let again = Publish { dup: true, ..publish("t", "x", QoS::ExactlyOnce, 7) };
    world.commits_at_once = false;
    world.publish(publisher, "t", "y", QoS::ExactlyOnce, 8);
    world.send(publisher, &Packet::Publish(again));
    world.fail_commits();
    world.commits_at_once = true;

    let (publisher, _) = world.join("p", false, 3_600);
    world.send(publisher, &Packet::Publish(again));

    assert_eq!(world.received(publisher), ["PUBREC id7"]);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos2 id1"]);
}

#[test]
fn a_release_that_was_not_stored_is_awaited_again() {
    let mut world = World::new(1);
    let (publisher, _) = world.join("p", true, 3_600);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 7);
    world.bytes(publisher);
    world.commits_at_once = false;
    world.ack(publisher, Packet::PubRel, 7);
    world.fail_commits();
    world.commits_at_once = true;

    let (publisher, _) = world.join("p", false, 3_600);
    world.ack(publisher, Packet::PubRel, 7);

    assert_eq!(world.received(publisher), ["PUBCOMP id7"]);
}

#[test]
fn a_qos_2_step_that_was_not_stored_is_stored_when_the_client_returns() {
    for step in ["PUBLISH t \"x\" qos2 id1", "PUBREL id1"] {
        let mut world = World::new(1);
        let (subscriber, _) = world.join("s", true, 3_600);
        world.subscribe(subscriber, "t", QoS::ExactlyOnce);
        let (publisher, _) = world.join("p", true, 0);
        world.bytes(subscriber);
        world.commits_at_once = false;
        world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
        world.commit_one();
        if step == "PUBREL id1" {
            world.commit();
            world.ack(subscriber, Packet::PubRec, 1);
        }

        world.fail_commits();
        assert!(world.is_closed(subscriber));
        world.commits_at_once = true;
        let (subscriber, _) = world.join("s", false, 3_600);

        assert_eq!(world.received(subscriber), [step]);
    }
}

#[test]
fn a_commit_that_fails_hurts_nobody_who_waits_for_another() {
    let mut world = World::new(1);
    offline_subscriber(&mut world, QoS::AtLeastOnce);
    let (first, _) = world.join("first", true, 0);
    let (second, _) = world.join("second", true, 0);
    world.commits_at_once = false;
    world.publish(first, "t", "1", QoS::AtLeastOnce, 1);
    world.publish(second, "t", "2", QoS::AtLeastOnce, 1);
    // This answer needs no commit of its own, only its place behind the one before.
    world.publish(first, "nobody", "x", QoS::AtLeastOnce, 2);

    world.commit_one();
    world.fail_one();

    assert_eq!(world.received(first), ["PUBACK id1", "PUBACK id2 0x10"]);
    assert_eq!(world.received(second), ["DISCONNECT 0x97"]);
}

#[test]
fn a_session_whose_end_was_not_stored_does_not_live_on_beside_its_successor() {
    let mut world = World::new(1);
    offline_subscriber(&mut world, QoS::AtLeastOnce);
    world.commits_at_once = false;
    world.connect(&connect_v5("s", true, 3_600));
    world.fail_commits();
    world.commits_at_once = true;
    world.join("s", false, 3_600);

    let summary = world.crash(1).1;

    assert_eq!((summary.sessions, summary.subscriptions), (1, 0));
}

#[test]
fn a_session_that_is_over_is_not_resumed_even_before_the_clock_is_looked_at() {
    // [MQTT-3.1.2-23]
    let mut world = World::new(1);
    world.join("x", true, 60);
    world.join("x", false, 0);

    let (mut world, summary) = world.crash(1);

    assert_eq!(summary.sessions, 1);
    assert!(!world.join("x", false, 60).1);
}

#[test]
fn a_retained_message_on_its_way_to_a_durable_session_survives_a_crash() {
    let mut world = World::new(1);
    let (publisher, _) = world.join("p", true, 0);
    let kept = Publish { retain: true, ..publish("t", "x", QoS::AtLeastOnce, 1) };
    world.send(publisher, &Packet::Publish(kept));
    let (subscriber, _) = world.join("s", true, 3_600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    assert_eq!(world.received(subscriber), ["SUBACK [01]", "PUBLISH t \"x\" qos1 id1 retain"]);

    let (mut world, _) = world.crash(1);
    let (subscriber, _) = world.join("s", false, 3_600);

    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos1 id1 dup retain"]);
    world.ack(subscriber, Packet::PubAck, 1);
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn a_clock_that_was_set_back_prolongs_no_session() {
    // [C09]
    let mut world = World::new(1);
    let (client, _) = world.join("x", true, 60);
    world.cut(client);
    let earlier = Moment::from_milliseconds(world.now().milliseconds() - 86_400_000);

    let (mut world, _) = world.crash_until(earlier, 1);
    world.pass(60_000);

    assert!(!world.join("x", false, 60).1);
}

#[test]
fn numbers_of_sessions_and_messages_are_not_used_again_after_a_crash() {
    let mut world = World::new(1);
    offline_subscriber(&mut world, QoS::AtLeastOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "t", "old", QoS::AtLeastOnce, 1);

    let (mut world, _) = world.crash(1);
    let (publisher, _) = world.join("other", true, 3_600);
    world.publish(publisher, "t", "new", QoS::AtLeastOnce, 1);
    let (mut world, summary) = world.crash(1);

    assert_eq!((summary.sessions, summary.deliveries), (2, 2));
    let (subscriber, _) = world.join("s", false, 3_600);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"old\" qos1 id1", "PUBLISH t \"new\" qos1 id2"]);
}

#[test]
fn an_expired_retained_message_is_forgotten_by_the_store_too() {
    // [MQTT-3.3.2-5]
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    let properties = PublishProperties { message_expiry_seconds: Some(5), ..PublishProperties::default() };
    let kept = Publish { retain: true, properties, ..publish("t", "x", QoS::AtLeastOnce, 1) };
    world.send(client, &Packet::Publish(kept));
    world.pass(5_000);
    world.bytes(client);

    world.subscribe(client, "t", QoS::AtLeastOnce);

    assert_eq!(world.received(client), ["SUBACK [01]"]);
    let mut retained = 0;
    let mut count = |record| retained += usize::from(matches!(record, veilmq_core::Record::Retained { .. }));
    veilmq_core::Store::replay(&mut world.store, &mut count).unwrap();
    assert_eq!(retained, 0);
}

/// Returns connections of sessions on shard 0 and on shard 1.
fn join_on_two_shards(world: &mut World) -> (Conn, Conn) {
    let clients: Vec<Conn> = (0..8).map(|number| world.join(&format!("c{number}"), true, 0).0).collect();
    let on = |shard| *clients.iter().find(|client| world.shard_of(**client) == shard).unwrap();
    (on(0), on(1))
}

#[test]
fn the_retained_message_that_survives_is_the_newest_whichever_shard_stores_first() {
    // What each of two clients on different shards publishes, in this order; an empty payload clears.
    for (first, second) in [("old", "new"), ("old", ""), ("", "new")] {
        for committed in [1, 2] {
            let mut world = World::new(2);
            let (left, right) = join_on_two_shards(&mut world);
            world.retain(left, "t", "before");
            world.commits_at_once = false;
            let retain = |payload| Publish { retain: true, ..publish("t", payload, QoS::AtLeastOnce, 1) };

            world.send(left, &Packet::Publish(retain(first)));
            world.send(right, &Packet::Publish(retain(second)));
            for shard in [1, 0].into_iter().take(committed) {
                assert!(world.commit_one_of(shard));
            }

            let (mut world, _) = world.crash(1);
            let (late, _) = world.join("late", true, 0);
            world.subscribe(late, "t", QoS::AtMostOnce);
            let expected =
                if second.is_empty() { None } else { Some(format!("PUBLISH t {second:?} qos0 retain")) };
            let answers: Vec<String> = Some("SUBACK [00]".to_owned()).into_iter().chain(expected).collect();
            assert_eq!(world.received(late), answers, "{first:?} then {second:?}, {committed} stored");
        }
    }
}

#[test]
fn a_retained_message_that_was_acknowledged_survives_though_a_newer_one_does_not() {
    let mut world = World::new(2);
    let (left, right) = join_on_two_shards(&mut world);
    world.commits_at_once = false;
    let retain = |payload| Publish { retain: true, ..publish("t", payload, QoS::AtLeastOnce, 1) };
    world.send(left, &Packet::Publish(retain("old")));
    world.send(right, &Packet::Publish(retain("new")));

    world.commit_one_of(0);

    assert_eq!(world.received(left), ["PUBACK id1 0x10"]);
    assert!(world.received(right).is_empty());
    let (mut world, summary) = world.crash(1);
    assert_eq!(summary.retained, 1);
    let (late, _) = world.join("late", true, 0);
    world.subscribe(late, "t", QoS::AtMostOnce);
    let received = world.received(late);
    assert!(received[1].starts_with("PUBLISH t "), "{received:?}");
}

#[test]
fn a_lower_limit_of_retained_messages_loses_none_that_is_stored() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);
    world.retain(client, "a", "1");
    world.retain(client, "b", "2");

    let (mut world, summary) = world.restart(Settings { retained_bytes_max: 1, ..Settings::default() });

    assert_eq!(summary.retained, 2);
    let (client, _) = world.join("c", true, 0);
    world.subscribe(client, "#", QoS::AtMostOnce);
    assert_eq!(
        world.received(client),
        ["SUBACK [00]", "PUBLISH a \"1\" qos0 retain", "PUBLISH b \"2\" qos0 retain"]
    );
    world.retain(client, "c", "3");
    world.retain(client, "a", "");
    let (mut world, summary) = world.crash(1);
    assert_eq!(summary.retained, 1);
    let (client, _) = world.join("c", true, 0);
    world.subscribe(client, "#", QoS::AtMostOnce);
    assert_eq!(world.received(client), ["SUBACK [00]", "PUBLISH b \"2\" qos0 retain"]);
}
