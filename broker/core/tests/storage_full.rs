//! While storage takes nothing new: what would have to be stored is refused with its Reason Code and never acknowledged, the
//! rest flows on, what frees something is stored, and all is as before once there is room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use veilmq_core::{MemoryPressure, StorageState};
use veilmq_protocol::{Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, TopicName, Will};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, publish};

const STATES: [StorageState; 2] = [StorageState::Full, StorageState::Failing];
/// A retained message of the topic `kept` and a durable session that is away and subscribes to `stored`.
fn world_with_something_stored() -> World {
    let mut world = World::new(2);
    let (keeper, _) = world.join("keeper", true, 0);
    world.retain(keeper, "kept", "old");
    let (sleeper, _) = world.join("sleeper", true, 3_600);
    world.subscribe(sleeper, "stored", QoS::ExactlyOnce);
    world.cut(sleeper);
    world
}

fn retained(topic: &'static str, payload: &'static str, qos: QoS) -> Packet<'static> {
    Packet::Publish(Publish { retain: true, ..publish(topic, payload, qos, 1) })
}

/// Returns what a topic retains, as a new subscriber learns it.
fn kept(world: &mut World, topic: &str) -> Vec<String> {
    let (late, _) = world.join("late", true, 0);
    world.subscribe(late, topic, QoS::ExactlyOnce);
    let mut received = world.received(late);
    received.remove(0);
    received
}

#[test]
fn a_publication_that_has_to_be_stored_is_refused_by_its_acknowledgement() {
    // [D09]
    type Row = (&'static str, u32, Packet<'static>, &'static str);
    let at_least_once = |topic| Packet::Publish(publish(topic, "x", QoS::AtLeastOnce, 1));
    let exactly_once = |topic| Packet::Publish(publish(topic, "x", QoS::ExactlyOnce, 1));
    let rows: [Row; 6] = [
        ("QoS 1 for a durable session", 0, at_least_once("stored"), "PUBACK id1 0x97"),
        ("QoS 2 for a durable session", 0, exactly_once("stored"), "PUBREC id1 0x97"),
        ("QoS 2 of a durable session, for nobody", 60, exactly_once("nobody"), "PUBREC id1 0x97"),
        ("QoS 1, to be retained", 0, retained("kept", "new", QoS::AtLeastOnce), "PUBACK id1 0x97"),
        ("QoS 2, to be retained", 0, retained("kept", "new", QoS::ExactlyOnce), "PUBREC id1 0x97"),
        (
            "QoS 1, clears a topic that is stored for",
            0,
            retained("stored", "", QoS::AtLeastOnce),
            "PUBACK id1 0x97",
        ),
    ];
    for state in STATES {
        for (name, expiry_seconds, packet, answer) in &rows {
            let mut world = world_with_something_stored();
            let (publisher, _) = world.join("p", true, *expiry_seconds);
            world.commits_at_once = false;
            world.shared.show_storage(state);

            world.send(publisher, packet);

            assert_eq!(world.received(publisher), [*answer], "{name}");
            assert!(!world.has_uncommitted(), "{name}: nothing is stored");
            assert_eq!(world.sample("veilmq_messages_dropped_total", "storage_full"), 1, "{name}");
            world.shared.show_storage(StorageState::Ready);
            world.commits_at_once = true;
            world.send(publisher, packet);
            let accepted = world.received(publisher);
            assert!(accepted.len() == 1 && !accepted[0].ends_with("0x97"), "{name}: {accepted:?}");
        }
    }
}

#[test]
fn a_refused_publication_reaches_nobody_and_takes_nothing_away() {
    // [MQTT-4.3.3-9]
    let mut world = world_with_something_stored();
    let (live, _) = world.join("live", true, 0);
    world.subscribe(live, "#", QoS::ExactlyOnce);
    world.received(live);
    let (publisher, _) = world.join("p", true, 0);
    world.shared.show_storage(StorageState::Full);

    world.publish(publisher, "stored", "x", QoS::ExactlyOnce, 1);
    world.send(publisher, &retained("kept", "new", QoS::AtLeastOnce));

    assert_eq!(world.received(publisher), ["PUBREC id1 0x97", "PUBACK id1 0x97"]);
    assert!(world.received(live).is_empty());
    assert_eq!(kept(&mut world, "kept"), ["PUBLISH kept \"old\" qos0 retain"]);
    world.ack(publisher, Packet::PubRel, 1);
    assert_eq!(world.received(publisher), ["PUBCOMP id1 0x92"], "its identifier is free");
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn older_versions_have_no_refusal_so_the_connection_ends_and_the_client_has_the_message_still() {
    // [MQTT311-4.8.0-2], [MQTT311-3.3.5-2]
    for state in STATES {
        for version in [ProtocolVersion::V311, ProtocolVersion::V31] {
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let mut world = world_with_something_stored();
                let publisher = world.connect(&Connect { version, ..connect_v311("p", true) });
                world.received(publisher);
                world.commits_at_once = false;
                world.shared.show_storage(state);

                world.publish(publisher, "stored", "x", qos, 1);

                assert_eq!(world.bytes(publisher), [0_u8; 0], "{version:?} {qos:?}");
                assert!(world.is_closed(publisher) && !world.has_uncommitted());
            }
        }
    }
}

#[test]
fn what_needs_no_storing_flows_on() {
    let mut world = world_with_something_stored();
    let (live, _) = world.join("live", true, 0);
    world.subscribe(live, "#", QoS::ExactlyOnce);
    world.received(live);
    let (publisher, _) = world.join("p", true, 0);
    world.commits_at_once = false;
    world.shared.show_storage(StorageState::Failing);

    world.publish(publisher, "stored", "0", QoS::AtMostOnce, 0);
    world.publish(publisher, "elsewhere", "1", QoS::AtLeastOnce, 1);
    world.publish(publisher, "elsewhere", "2", QoS::ExactlyOnce, 2);

    assert_eq!(world.received(publisher), ["PUBACK id1", "PUBREC id2"]);
    assert_eq!(
        world.received(live),
        ["PUBLISH stored \"0\" qos0", "PUBLISH elsewhere \"1\" qos1 id1", "PUBLISH elsewhere \"2\" qos2 id2"]
    );
    let (another, _) = world.join("another", true, 0);
    world.subscribe(another, "elsewhere", QoS::ExactlyOnce);
    assert_eq!(world.received(another), ["SUBACK [02]"]);
    assert!(!world.has_uncommitted());
}

#[test]
fn a_message_of_qos_0_that_cannot_be_retained_reaches_its_subscribers_and_leaves_none_retained() {
    // [MQTT-3.3.1-5] Section 3.3.1.3: the server may discard it, and then there is no retained message.
    let mut world = world_with_something_stored();
    let (live, _) = world.join("live", true, 0);
    world.subscribe(live, "kept", QoS::AtMostOnce);
    world.received(live);
    let (publisher, _) = world.join("p", true, 0);
    world.shared.show_storage(StorageState::Full);

    world.retain(publisher, "kept", "new");

    assert_eq!(world.received(live), ["PUBLISH kept \"new\" qos0"]);
    assert_eq!(kept(&mut world, "kept"), [""; 0]);
    assert_eq!(world.sample("veilmq_messages_dropped_total", "storage_full"), 1);
    let (mut world, summary) = world.crash(1);
    assert_eq!(summary.retained, 0, "nor does a restart bring the old one back");
    assert_eq!(kept(&mut world, "kept"), [""; 0]);
}

#[test]
fn a_retained_message_can_be_cleared_which_frees_its_room() {
    // [MQTT-3.3.1-6]
    for (qos, answer) in [(QoS::AtMostOnce, None), (QoS::AtLeastOnce, Some("PUBACK id1 0x10"))] {
        let mut world = world_with_something_stored();
        let (publisher, _) = world.join("p", true, 0);
        world.shared.show_storage(StorageState::Full);

        world.send(publisher, &retained("kept", "", qos));

        assert_eq!(world.received(publisher), answer.into_iter().collect::<Vec<_>>());
        assert_eq!(world.sample("veilmq_messages_dropped_total", "storage_full"), 0);
        assert_eq!(world.crash(1).1.retained, 0);
    }
}

#[test]
fn subscriptions_of_durable_sessions_are_refused_filter_by_filter() {
    // [MQTT-3.9.3-1]
    let v311 = Connect { clean_start: false, ..connect_v311("s", false) };
    for (connect, code) in [(connect_v5("s", true, 60), "97"), (v311, "80")] {
        for state in STATES {
            let mut world = World::new(1);
            let client = world.connect(&connect);
            world.received(client);
            world.commits_at_once = false;
            world.shared.show_storage(state);

            world.subscribe(client, "t", QoS::AtLeastOnce);

            assert_eq!(world.received(client), [format!("SUBACK [{code}]")]);
            assert!(!world.has_uncommitted());
            world.shared.show_storage(StorageState::Ready);
            world.subscribe(client, "t", QoS::AtLeastOnce);
            world.commit();
            assert_eq!(world.received(client), ["SUBACK [01]"]);
        }
    }
}

#[test]
fn a_client_of_mqtt_3_1_is_not_told_that_it_subscribes_when_that_cannot_be_stored() {
    let mut world = World::new(1);
    let connect = Connect { version: ProtocolVersion::V31, ..connect_v311("s", false) };
    let client = world.connect(&connect);
    world.received(client);
    world.shared.show_storage(StorageState::Full);

    world.subscribe(client, "t", QoS::AtLeastOnce);

    assert_eq!(world.bytes(client), [0_u8; 0]);
    assert!(world.is_closed(client));
}

#[test]
fn a_subscription_that_is_refused_anew_stays_in_force() {
    let mut world = world_with_something_stored();
    world.shared.show_storage(StorageState::Full);
    let (sleeper, present) = world.join("sleeper", false, 3_600);
    world.subscribe(sleeper, "stored", QoS::AtMostOnce);
    world.shared.show_storage(StorageState::Ready);
    let (publisher, _) = world.join("p", true, 0);

    world.publish(publisher, "stored", "x", QoS::AtLeastOnce, 1);

    assert!(present);
    assert_eq!(world.received(sleeper), ["SUBACK [97]", "PUBLISH stored \"x\" qos1 id1"]);
}

#[test]
fn who_wants_a_new_durable_session_is_refused_with_connack() {
    // [MQTT-3.2.2-7] Return code 3 of MQTT 3.1.1: server unavailable.
    let durable =
        [(connect_v5("new", true, 60), "CONNACK 0x97"), (connect_v311("new", false), "CONNACK 0x88")];
    for state in STATES {
        for (connect, answer) in durable {
            let mut world = World::new(1);
            world.commits_at_once = false;
            world.shared.show_storage(state);

            let client = world.connect(&connect);

            assert_eq!(world.received(client), [answer]);
            assert!(world.is_closed(client) && !world.has_uncommitted());
            let transient = world.connect(&connect_v5("new", true, 0));
            assert_eq!(world.received(transient), ["CONNACK 0x00"]);
        }
    }
}

#[test]
fn who_comes_back_for_what_is_stored_is_let_in_as_long_as_commits_succeed() {
    let mut world = world_with_something_stored();
    let (publisher, _) = world.join("p", true, 0);
    world.publish(publisher, "stored", "x", QoS::ExactlyOnce, 1);
    assert_eq!(world.stored_bodies(), 1);
    world.shared.show_storage(StorageState::Failing);
    let refused = world.connect(&connect_v5("sleeper", false, 3_600));
    assert_eq!(world.received(refused), ["CONNACK 0x97"]);
    let ended = world.connect(&connect_v5("sleeper", true, 0));
    assert_eq!(world.received(ended), ["CONNACK 0x97"], "the end of a session is stored too");
    world.shared.show_storage(StorageState::Full);

    let (sleeper, present) = world.join("sleeper", false, 3_600);

    assert!(present);
    assert_eq!(world.received(sleeper), ["PUBLISH stored \"x\" qos2 id1"]);
    world.ack(sleeper, Packet::PubRec, 1);
    assert_eq!(world.received(sleeper), ["PUBREL id1"]);
    world.ack(sleeper, Packet::PubComp, 1);
    assert_eq!(world.stored_bodies(), 0, "which frees its room");
}

#[test]
fn a_refused_client_takes_no_session_over() {
    // [MQTT-3.1.4-3]
    let mut world = World::new(1);
    let (first, _) = world.join("s", true, 60);
    world.shared.show_storage(StorageState::Failing);

    let second = world.connect(&connect_v5("s", false, 60));

    assert_eq!(world.received(second), ["CONNACK 0x97"]);
    assert!(!world.is_closed(first));
}

#[test]
fn an_exchange_of_qos_2_that_began_is_brought_to_its_end() {
    // [MQTT-4.3.3-11]
    let mut world = World::new(1);
    let (publisher, _) = world.join("p", true, 60);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
    world.shared.show_storage(StorageState::Full);

    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
    world.ack(publisher, Packet::PubRel, 1);

    assert_eq!(world.received(publisher), ["PUBREC id1", "PUBREC id1", "PUBCOMP id1"]);
}

#[test]
fn a_will_is_published_and_stored_all_the_same() {
    // [MQTT-3.1.2-8] Nobody could be told that it is refused.
    let mut world = world_with_something_stored();
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TopicName::new("stored").unwrap(),
        payload: b"gone",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let client: Conn = world.connect(&Connect { will: Some(will), ..connect_v5("w", true, 0) });
    world.shared.show_storage(StorageState::Full);

    world.cut(client);

    assert_eq!(world.stored_bodies(), 1);
}

#[test]
fn while_memory_is_critical_what_would_have_to_be_kept_is_refused() {
    // [D09]
    let mut world = World::new(1);
    let (away, _) = world.join("away", true, 600);
    world.subscribe(away, "t", QoS::AtLeastOnce);
    world.cut(away);
    let (publisher, _) = world.join("publisher", true, 0);
    for (pressure, answer) in [
        (MemoryPressure::High, "PUBACK id1"),
        (MemoryPressure::Critical, "PUBACK id1 0x97"),
        (MemoryPressure::None, "PUBACK id1"),
    ] {
        world.shared.show_memory(pressure);

        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);

        assert_eq!(world.received(publisher), [answer], "{pressure:?}");
    }
}
