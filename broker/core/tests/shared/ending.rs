//! What becomes of a group's copy when the delivery, the connection, the session or the broker ends.

use veilmq_core::{
    Input, Message, MessageId, MessageParts, Record, Reference, SessionId, SessionRecord, Stage, Store,
    SubscriptionRecord,
};
use veilmq_protocol::{
    Acknowledgement, Connect, Disconnect, Packet, Publish, PublishProperties, QoS, ReasonCode, TopicName,
    Will,
};
use veilmq_simulator::{Conn, World, connect_v5, id, options, publish};

use crate::{GROUP, limited_member, member, payloads, publish_all, publisher};

fn answer_with(make: fn(Acknowledgement<'static>) -> Packet<'static>, reason: ReasonCode) -> Packet<'static> {
    make(Acknowledgement::new(id(1), reason))
}

/// A name, and what ends the session of the client "a" on a connection.
type Ending = (&'static str, fn(&mut World, Conn));

/// How a session can end.
const ENDINGS: [Ending; 4] = [
    ("expiry", |world, connection| {
        world.cut(connection);
        world.pass(60_000);
    }),
    ("Clean Start", |world, _| {
        world.join("a", true, 60);
    }),
    ("Clean Start later", |world, connection| {
        world.cut(connection);
        world.join("a", true, 0);
    }),
    ("DISCONNECT", |world, connection| {
        let disconnect = Disconnect { session_expiry_seconds: Some(0), ..Disconnect::default() };
        world.send(connection, &Packet::Disconnect(disconnect));
    }),
];

#[test]
fn what_a_session_has_not_acknowledged_when_it_ends_goes_to_another_member_in_order() {
    for shards in [1, 4] {
        for (name, end) in ENDINGS {
            for (expiry_seconds, qos) in [(0, QoS::AtLeastOnce), (7_200, QoS::AtLeastOnce)] {
                let mut world = World::new(shards);
                let a = limited_member(&mut world, "a", 60, 2);
                let publisher = publisher(&mut world);
                publish_all(&mut world, publisher, &["1", "2", "3", "4", "5"], qos);
                assert_eq!(payloads(&mut world, a), ["1", "2"]);
                world.ack(a, Packet::PubAck, 1);
                assert_eq!(payloads(&mut world, a), ["3"]);
                let b = member(&mut world, "b", expiry_seconds, qos);

                end(&mut world, a);

                let expected: Vec<String> = (1..)
                    .zip(2..=5)
                    .map(|(id, number)| format!("PUBLISH t \"{number}\" qos1 id{id}"))
                    .collect();
                assert_eq!(world.received(b), expected, "{shards} shards, {name}");
                let stored = if expiry_seconds == 0 { 0 } else { 4 };
                assert_eq!(world.stored_bodies(), stored, "{shards} shards, {name}");
                for packet_id in 1..=4 {
                    world.ack(b, Packet::PubAck, packet_id);
                }
                assert_eq!(world.stored_bodies(), 0);
                for gauge in ["veilmq_queued_messages", "veilmq_queued_bytes", "veilmq_inflight_messages"] {
                    assert_eq!(world.sample(gauge, ""), 0, "{gauge}");
                }
            }
        }
    }
}

#[test]
fn the_messages_of_a_session_that_ends_with_its_connection_go_to_another_member() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let a = limited_member(&mut world, "a", 0, 1);
        let publisher = publisher(&mut world);
        publish_all(&mut world, publisher, &["1", "2"], QoS::AtLeastOnce);
        let b = member(&mut world, "b", 0, QoS::AtMostOnce);
        let c = member(&mut world, "c", 0, QoS::AtLeastOnce);

        world.cut(a);

        assert_eq!(world.received(b), ["PUBLISH t \"1\" qos0"]);
        assert_eq!(world.received(c), ["PUBLISH t \"2\" qos1 id1"]);
    }
}

#[test]
fn a_qos_2_delivery_that_has_begun_goes_to_nobody_else_and_one_that_has_not_does() {
    // [MQTT-4.8.2-5]
    for shards in [1, 4] {
        for (name, end) in ENDINGS {
            let mut world = World::new(shards);
            let a = limited_member(&mut world, "a", 60, 2);
            let publisher = publisher(&mut world);
            publish_all(&mut world, publisher, &["1", "2", "3", "4"], QoS::ExactlyOnce);
            world.ack(a, Packet::PubRec, 1);
            assert_eq!(payloads(&mut world, a), ["1", "2"]);
            let b = member(&mut world, "b", 7_200, QoS::ExactlyOnce);

            end(&mut world, a);

            assert_eq!(payloads(&mut world, b), ["3", "4"], "{shards} shards, {name}");
            assert_eq!(world.stored_bodies(), 2);
        }
    }
}

#[test]
fn a_qos_2_delivery_that_waits_for_its_commit_has_not_begun() {
    let mut world = World::new(1);
    let a = member(&mut world, "a", 60, QoS::ExactlyOnce);
    let publisher = publisher(&mut world);
    world.commits_at_once = false;
    publish_all(&mut world, publisher, &["1"], QoS::ExactlyOnce);
    // The message is stored, the Packet Identifier of its delivery is not.
    world.commit_one();
    let disconnect = Disconnect { session_expiry_seconds: Some(0), ..Disconnect::default() };
    world.send(a, &Packet::Disconnect(disconnect));
    assert!(payloads(&mut world, a).is_empty());
    world.commits_at_once = true;
    world.commit();
    // There was nobody else, so it is gone.
    assert_eq!(world.stored_bodies(), 0);

    let a = member(&mut world, "a", 60, QoS::ExactlyOnce);
    let b = member(&mut world, "b", 7_200, QoS::ExactlyOnce);
    world.commits_at_once = false;
    publish_all(&mut world, publisher, &["2"], QoS::ExactlyOnce);
    world.commit_one();
    world.send(a, &Packet::Disconnect(disconnect));
    world.commits_at_once = true;
    world.commit();

    assert_eq!(world.received(b), ["PUBLISH t \"2\" qos2 id1"]);
}

#[test]
fn an_answer_with_an_error_ends_the_delivery_and_nobody_else_is_offered_it() {
    // [MQTT-4.8.2-6]
    for shards in [1, 4] {
        for (qos, make) in [
            (QoS::AtLeastOnce, Packet::PubAck as fn(Acknowledgement<'static>) -> Packet<'static>),
            (QoS::ExactlyOnce, Packet::PubRec),
        ] {
            for expiry_seconds in [0, 60] {
                let mut world = World::new(shards);
                let [a, b] = ["a", "b"].map(|name| member(&mut world, name, expiry_seconds, qos));
                let publisher = publisher(&mut world);
                publish_all(&mut world, publisher, &["1"], qos);
                assert_eq!(payloads(&mut world, a), ["1"]);

                world.send(a, &answer_with(make, ReasonCode::ImplementationSpecificError));
                world.join("a", true, 0);

                assert!(world.received(a).iter().all(|packet| !packet.starts_with("PUBLISH")));
                assert!(world.received(b).is_empty());
                assert_eq!(world.stored_bodies(), 0);
            }
        }
    }
}

#[test]
fn a_delivery_whose_connection_breaks_waits_for_its_session() {
    // [MQTT-4.8.2-4]
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let a = limited_member(&mut world, "a", 3_600, 2);
        let publisher = publisher(&mut world);
        publish_all(&mut world, publisher, &["1", "2", "3"], QoS::ExactlyOnce);
        world.ack(a, Packet::PubRec, 1);
        let b = member(&mut world, "b", 3_600, QoS::ExactlyOnce);

        world.cut(a);
        world.pass(3_599_000);

        assert!(world.received(b).is_empty());
        let (a, _) = world.join("a", false, 3_600);
        assert_eq!(
            world.received(a),
            ["PUBREL id1", "PUBLISH t \"2\" qos2 id2 dup", "PUBLISH t \"3\" qos2 id3"]
        );
    }
}

#[test]
fn a_message_on_its_way_to_a_session_that_ends_meanwhile_goes_to_another_member() {
    for shards in [1, 4] {
        for expiry_seconds in [0, 3_600] {
            let mut world = World::new(shards);
            let a = member(&mut world, "a", expiry_seconds, QoS::ExactlyOnce);
            let (publisher, _) = world.join("publisher", true, 3_600);
            let b = member(&mut world, "b", 3_600, QoS::ExactlyOnce);
            world.commits_at_once = false;
            world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
            world.cut(a);
            if expiry_seconds > 0 {
                world.connect(&connect_v5("a", true, 0));
            }

            world.commits_at_once = true;
            world.commit();

            assert_eq!(world.received(b), ["PUBLISH t \"x\" qos2 id1"], "{shards} shards");
            world.ack(b, Packet::PubRec, 1);
            world.ack(b, Packet::PubComp, 1);
            assert_eq!(world.stored_bodies(), 0);
        }
    }
}

#[test]
fn a_will_is_shared_too_and_not_with_the_session_that_ends() {
    let mut world = World::new(1);
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TopicName::new("t").unwrap(),
        payload: b"gone",
        delay_seconds: 0,
        properties: PublishProperties::default(),
    };
    let dying = world.connect(&Connect { will: Some(will), ..connect_v5("a", true, 0) });
    world.subscribe(dying, GROUP, QoS::AtLeastOnce);
    let b = member(&mut world, "b", 0, QoS::AtLeastOnce);

    world.cut(dying);

    assert_eq!(world.received(b), ["PUBLISH t \"gone\" qos1 id1"]);
}

#[test]
fn when_the_broker_stops_sessions_that_live_on_keep_what_others_had() {
    let mut world = World::new(1);
    let transient = member(&mut world, "a", 0, QoS::AtLeastOnce);
    let other = member(&mut world, "b", 0, QoS::AtLeastOnce);
    let publisher = publisher(&mut world);
    publish_all(&mut world, publisher, &["1", "2"], QoS::AtLeastOnce);
    let lasting = member(&mut world, "c", 3_600, QoS::AtLeastOnce);

    world.turn(0, Input::Shutdown);

    assert_eq!(payloads(&mut world, transient), ["1"]);
    assert_eq!(payloads(&mut world, other), ["2"]);
    assert_eq!(payloads(&mut world, lasting), ["1", "2"]);
    let (mut world, summary) = world.crash(1);
    assert_eq!((summary.sessions, summary.deliveries), (1, 2));
    let (lasting, _) = world.join("c", false, 3_600);
    assert_eq!(payloads(&mut world, lasting), ["1", "2"]);
}
#[test]
fn groups_and_what_they_wait_for_survive_a_crash() {
    for (before, after) in [(1, 1), (4, 2), (2, 4)] {
        let mut world = World::new(before);
        let a = limited_member(&mut world, "a", 60, 2);
        let publisher = publisher(&mut world);
        publish_all(&mut world, publisher, &["1", "2", "3"], QoS::AtLeastOnce);
        publish_all(&mut world, publisher, &["4"], QoS::ExactlyOnce);
        assert_eq!(payloads(&mut world, a), ["1", "2"]);

        let (mut world, summary) = world.crash(after);

        assert_eq!((summary.sessions, summary.subscriptions, summary.deliveries), (1, 1, 4));
        assert_eq!(world.sample("veilmq_shared_subscriptions", ""), 1);
        let b = member(&mut world, "b", 3_600, QoS::ExactlyOnce);
        world.pass(60_000);
        assert_eq!(payloads(&mut world, b), ["1", "2", "3", "4"]);

        let (mut world, summary) = world.crash(before);

        assert_eq!((summary.sessions, summary.deliveries), (1, 4));
        let (b, _) = world.join("b", false, 3_600);
        assert_eq!(payloads(&mut world, b), ["1", "2", "3", "4"]);
        for packet_id in 1..=3 {
            world.ack(b, Packet::PubAck, packet_id);
        }
        world.ack(b, Packet::PubRec, 4);
        world.ack(b, Packet::PubComp, 4);
        assert_eq!(world.stored_bodies(), 0);
    }
}

#[test]
fn sessions_that_do_not_outlive_a_crash_pass_nothing_to_one_another() {
    for shards in [1, 4] {
        for is_connected in [true, false] {
            let mut world = World::new(shards);
            let a = limited_member(&mut world, "a", 60, 2);
            let publisher = publisher(&mut world);
            publish_all(&mut world, publisher, &["1", "2", "3"], QoS::AtLeastOnce);
            let b = member(&mut world, "b", 60, QoS::AtLeastOnce);
            member(&mut world, "c", 3_600, QoS::AtLeastOnce);
            for (name, connection) in [("a", a), ("b", b)] {
                world.cut(connection);
                if is_connected {
                    world.connect(&connect_v5(name, false, 0));
                }
            }

            let until = world.now().plus_seconds(60);
            let (mut world, summary) = world.crash_until(until, shards);
            assert_eq!((summary.sessions, summary.deliveries), (3, 3));
            world.pass(0);

            let (c, _) = world.join("c", false, 3_600);
            assert_eq!(payloads(&mut world, c), ["1", "2", "3"], "{shards} shards");
            assert_eq!(world.stored_bodies(), 3);
        }
    }
}

#[test]
fn a_qos_2_delivery_that_may_have_begun_before_a_crash_goes_to_nobody_else() {
    // [MQTT-4.8.2-5]
    let mut world = World::new(1);
    let a = member(&mut world, "a", 60, QoS::ExactlyOnce);
    let publisher = publisher(&mut world);
    publish_all(&mut world, publisher, &["1"], QoS::ExactlyOnce);
    assert_eq!(payloads(&mut world, a), ["1"]);

    let (mut world, _) = world.crash(1);
    let b = member(&mut world, "b", 3_600, QoS::ExactlyOnce);
    world.pass(60_000);

    assert!(world.received(b).is_empty());
    assert_eq!(world.stored_bodies(), 0);
}

#[test]
fn a_crash_before_the_end_of_a_session_is_stored_brings_back_what_it_had() {
    for failing in [false, true] {
        let mut world = World::new(2);
        let a = member(&mut world, "a", 60, QoS::AtLeastOnce);
        world.cut(a);
        let publisher = publisher(&mut world);
        publish_all(&mut world, publisher, &["1"], QoS::AtLeastOnce);
        let b = member(&mut world, "b", 3_600, QoS::AtLeastOnce);
        world.commits_at_once = false;

        world.pass(60_000);
        assert_eq!(payloads(&mut world, b), ["1"]);
        if failing {
            world.fail_commits();
        }
        let (mut world, summary) = world.crash(2);

        assert_eq!(summary.deliveries, 1);
        let (b, _) = world.join("b", false, 3_600);
        world.pass(60_000);
        assert_eq!(world.received(b), ["PUBLISH t \"1\" qos1 id1"], "as a new message, after a's end");
    }
}

#[test]
fn a_session_whose_end_was_not_stored_hands_its_messages_on_when_it_is_found_superseded() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let a = limited_member(&mut world, "a", 60, 1);
        let publisher = publisher(&mut world);
        publish_all(&mut world, publisher, &["seen"], QoS::ExactlyOnce);
        publish_all(&mut world, publisher, &["1", "2"], QoS::AtLeastOnce);
        assert_eq!(payloads(&mut world, a), ["seen"]);
        member(&mut world, "b", 3_600, QoS::ExactlyOnce);
        world.commits_at_once = false;
        world.connect(&connect_v5("a", true, 60));
        world.fail_commits();
        world.commits_at_once = true;
        world.join("a", false, 60);

        let (mut world, summary) = world.crash(shards);

        assert_eq!((summary.sessions, summary.deliveries), (2, 2));
        assert_eq!(world.sample("veilmq_queued_messages", ""), 2);
        let (b, _) = world.join("b", false, 3_600);
        assert_eq!(world.received(b), ["PUBLISH t \"1\" qos1 id1", "PUBLISH t \"2\" qos1 id2"]);
        world.ack(b, Packet::PubAck, 1);
        world.ack(b, Packet::PubAck, 2);
        assert_eq!(world.stored_bodies(), 0);
    }
}

#[test]
fn a_crash_does_not_lose_what_was_on_its_way_to_a_session_that_ended() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        member(&mut world, "a", 60, QoS::ExactlyOnce);
        let publisher = publisher(&mut world);
        let b = member(&mut world, "b", 3_600, QoS::ExactlyOnce);
        world.commits_at_once = false;
        world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
        world.connect(&connect_v5("a", true, 60));
        // The publication is stored, then the end of the session; that another member has the message is not.
        world.commit_one();
        world.commit_one();
        assert_eq!(world.received(publisher), ["PUBREC id1"]);
        assert!(world.received(b).is_empty() && world.has_uncommitted());

        let (mut world, summary) = world.crash(shards);

        assert_eq!(summary.deliveries, 1);
        let (b, _) = world.join("b", false, 3_600);
        assert_eq!(world.received(b), ["PUBLISH t \"x\" qos2 id1"]);
        world.ack(b, Packet::PubRec, 1);
        world.ack(b, Packet::PubComp, 1);
        assert_eq!((world.stored_bodies(), world.crash(1).1.deliveries), (0, 0));
    }
}

#[test]
fn what_was_stored_for_a_session_after_its_end_is_found_by_another_member() {
    let head = |number: u64, client_id: &str| {
        Record::Session(SessionRecord {
            session: SessionId(number),
            client_id: client_id.into(),
            authenticated: false,
            user: None,
            expiry_seconds: 60,
            disconnected_at: None,
            will: None,
            last_identifier: 0,
        })
    };
    let subscribed = |number: u64| Record::Subscribed {
        session: SessionId(number),
        filter: GROUP.into(),
        subscription: SubscriptionRecord { options: options(QoS::AtLeastOnce), subscription_id: None },
    };
    let reference = |share: Option<&str>| Reference {
        session: SessionId(1),
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: Vec::new(),
        share: share.map(Into::into),
        stage: Stage::Queued,
    };
    let message = |number: u64| {
        let parts = MessageParts {
            id: Some(MessageId(number)),
            publisher: None,
            source: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "t",
            application_properties: &[],
            payload: b"x",
            expiry: None,
        };
        Message::new(&parts, 1)
    };
    let mut world = World::new(1);
    let records = [
        head(1, "a"),
        head(2, "b"),
        subscribed(1),
        subscribed(2),
        Record::SessionEnded { session: SessionId(1) },
        Record::Published { message: message(5), references: vec![reference(Some(GROUP))] },
        Record::Published { message: message(6), references: vec![reference(None)] },
    ];
    world.store.commit(&records).unwrap();

    let (mut world, summary) = world.crash(1);

    assert_eq!((summary.sessions, summary.deliveries), (1, 1));
    let mut stored = Vec::new();
    let mut visit = |record| {
        if let Record::Published { message, references } = record {
            stored.push((message.id().unwrap().0, references[0].session.0));
        }
    };
    world.store.replay(&mut visit).unwrap();
    assert_eq!(stored, [(7, 2)], "under an identity that was never used");
}

#[test]
fn a_message_expires_wherever_it_waits() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let a = member(&mut world, "a", 60, QoS::AtLeastOnce);
        world.cut(a);
        let publisher = publisher(&mut world);
        for (packet_id, payload, seconds) in [(1, "short", 59), (2, "long", 90)] {
            let properties =
                PublishProperties { message_expiry_seconds: Some(seconds), ..PublishProperties::default() };
            let message = Publish { properties, ..publish("t", payload, QoS::AtLeastOnce, packet_id) };
            world.send(publisher, &Packet::Publish(message));
        }
        let b = member(&mut world, "b", 60, QoS::AtLeastOnce);

        world.pass(60_000);

        assert_eq!(world.received(b), ["PUBLISH t \"long\" qos1 id1 expires30"]);
        assert_eq!(world.stored_bodies(), 1);
    }
}
