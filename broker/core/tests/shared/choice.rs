//! Which member of a group gets a message, and how.

use std::num::NonZeroU32;

use veilmq_core::Settings;
use veilmq_protocol::{
    Connect, Packet, ProtocolVersion, Publish, QoS, Subscribe, SubscribeFiltersBuf, SubscribeOptions,
    TopicFilter, UserProperties, next_frame,
};
use veilmq_simulator::{World, connect_v5, id, options, publish};

use crate::{GROUP, limited_member, member, payloads, publish_all, publisher};

#[test]
fn members_of_a_group_get_one_message_each_in_turn() {
    for shards in [1, 4] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for expiry_seconds in [0, 60] {
                let mut world = World::new(shards);
                let members = ["a", "b", "c"].map(|name| member(&mut world, name, expiry_seconds, qos));
                let publisher = publisher(&mut world);

                publish_all(&mut world, publisher, &["1", "2", "3", "4", "5", "6"], qos);

                let got = members.map(|member| payloads(&mut world, member));
                assert_eq!(got, [["1", "4"], ["2", "5"], ["3", "6"]], "{shards} shards, {qos:?}");
            }
        }
    }
}

#[test]
fn a_member_that_joins_or_leaves_does_not_disturb_the_turn_of_the_others() {
    let mut world = World::new(1);
    let [a, b] = ["a", "b"].map(|name| member(&mut world, name, 0, QoS::AtMostOnce));
    let publisher = publisher(&mut world);
    publish_all(&mut world, publisher, &["1"], QoS::AtMostOnce);
    let c = member(&mut world, "c", 0, QoS::AtMostOnce);
    publish_all(&mut world, publisher, &["2"], QoS::AtMostOnce);
    world.cut(a);
    publish_all(&mut world, publisher, &["3", "4", "5"], QoS::AtMostOnce);

    let got = [a, b, c].map(|member| payloads(&mut world, member).concat());
    assert_eq!(got, ["1", "24", "35"]);
}

#[test]
fn every_share_name_and_every_filter_is_a_group_of_its_own() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let mut members = Vec::new();
        for (name, filter) in
            [("a", "$share/g/t"), ("b", "$share/h/t"), ("c", "$share/g/+"), ("d", "$share/g/#"), ("e", "t")]
        {
            let (connection, _) = world.join(name, true, 0);
            world.subscribe(connection, filter, QoS::AtLeastOnce);
            world.bytes(connection);
            members.push(connection);
        }
        let publisher = publisher(&mut world);

        publish_all(&mut world, publisher, &["x", "y"], QoS::AtLeastOnce);

        for member in members {
            assert_eq!(payloads(&mut world, member), ["x", "y"]);
        }
    }
}

#[test]
fn a_shared_copy_is_apart_from_ordinary_subscriptions_and_from_other_groups() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let (client, _) = world.join("a", true, 3_600);
        for filter in ["t", "#", GROUP, "$share/h/t"] {
            world.subscribe(client, filter, QoS::AtLeastOnce);
        }
        world.cut(client);
        let publisher = publisher(&mut world);
        publish_all(&mut world, publisher, &["x"], QoS::AtLeastOnce);

        let (mut world, summary) = world.crash(shards);

        assert_eq!(summary.deliveries, 3);
        let (client, _) = world.join("a", false, 3_600);
        assert_eq!(payloads(&mut world, client), ["x", "x", "x"]);
        for packet_id in 1..=3 {
            assert_ne!(world.stored_bodies(), 0);
            world.ack(client, Packet::PubAck, packet_id);
        }
        assert_eq!(world.stored_bodies(), 0);
    }
}

#[test]
fn a_member_with_send_quota_is_preferred_to_one_without_and_that_one_to_an_absent_one() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let absent = member(&mut world, "absent", 3_600, QoS::AtLeastOnce);
        world.cut(absent);
        let a = limited_member(&mut world, "a", 0, 1);
        let b = limited_member(&mut world, "b", 0, 3);
        let publisher = publisher(&mut world);

        publish_all(&mut world, publisher, &["1", "2", "3", "4"], QoS::AtLeastOnce);
        assert_eq!(payloads(&mut world, a), ["1"]);
        assert_eq!(payloads(&mut world, b), ["2", "3", "4"]);

        // Both have used up their quota: they take turns again, and what they get waits.
        publish_all(&mut world, publisher, &["5", "6"], QoS::AtLeastOnce);
        assert!(payloads(&mut world, a).is_empty() && payloads(&mut world, b).is_empty());
        world.ack(a, Packet::PubAck, 1);
        world.ack(b, Packet::PubAck, 1);
        assert_eq!([a, b].map(|member| payloads(&mut world, member)), [["5"], ["6"]]);

        // An acknowledgement makes a member the better choice at once.
        world.ack(b, Packet::PubAck, 2);
        publish_all(&mut world, publisher, &["7"], QoS::AtLeastOnce);
        assert_eq!(payloads(&mut world, b), ["7"]);
    }
}

#[test]
fn messages_wait_for_absent_members_only_if_they_may_wait() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let granted = [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c", QoS::AtLeastOnce)];
        for (name, qos) in granted {
            let connection = member(&mut world, name, 3_600, qos);
            world.cut(connection);
        }
        let publisher = publisher(&mut world);

        publish_all(&mut world, publisher, &["lost"], QoS::AtMostOnce);
        publish_all(&mut world, publisher, &["1", "2", "3"], QoS::AtLeastOnce);

        let got = ["a", "b", "c"].map(|name| {
            let (connection, _) = world.join(name, false, 3_600);
            payloads(&mut world, connection).concat()
        });
        assert_eq!(got, ["", "13", "2"]);
    }
}

#[test]
fn a_full_queue_is_the_last_choice() {
    let mut world = World::with(Settings { session_queue_messages_max: 2, ..Settings::default() });
    let away = member(&mut world, "away", 3_600, QoS::AtLeastOnce);
    world.cut(away);
    let busy = limited_member(&mut world, "busy", 0, 1);
    let publisher = publisher(&mut world);

    publish_all(&mut world, publisher, &["1", "2", "3", "4", "5", "6"], QoS::AtLeastOnce);

    assert_eq!(world.sample("veilmq_messages_dropped_total", "queue_full"), 1);
    for packet_id in 1..=3 {
        world.ack(busy, Packet::PubAck, packet_id);
    }
    assert_eq!(payloads(&mut world, busy), ["1", "2", "3"]);
    let (away, _) = world.join("away", false, 3_600);
    assert_eq!(payloads(&mut world, away), ["4", "5"]);
}

#[test]
fn a_member_whose_outbox_is_full_is_passed_over() {
    let mut world = World::with(Settings { outbox_bytes_max: 1, ..Settings::default() });
    let slow = member(&mut world, "slow", 60, QoS::AtMostOnce);
    let other = member(&mut world, "other", 0, QoS::AtMostOnce);
    let publisher = publisher(&mut world);
    world.cut(slow);
    world.commits_at_once = false;
    // Its CONNACK waits for a commit and fills the outbox.
    let slow = world.connect(&connect_v5("slow", false, 60));

    publish_all(&mut world, publisher, &["1", "2"], QoS::AtMostOnce);
    assert_eq!(payloads(&mut world, other), ["1", "2"]);
    world.commit();
    publish_all(&mut world, publisher, &["3"], QoS::AtMostOnce);

    assert_eq!(world.received(slow), ["CONNACK 0x00 present", "PUBLISH t \"3\" qos0"]);
}

#[test]
fn a_delivery_has_the_qos_and_the_options_of_the_chosen_member() {
    // [MQTT-4.8.2-3]
    for shards in [1, 4] {
        let mut world = World::new(shards);
        let mut members = Vec::new();
        for (number, qos) in (1..).zip([QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]) {
            let (connection, _) = world.join(&format!("m{number}"), true, 0);
            let mut filters = SubscribeFiltersBuf::default();
            let retain_as_published = number == 2;
            let options = SubscribeOptions { retain_as_published, ..options(qos) };
            filters.push(TopicFilter::new(GROUP).unwrap(), options).unwrap();
            world.send(
                connection,
                &Packet::Subscribe(Subscribe {
                    packet_id: id(1),
                    subscription_id: NonZeroU32::new(number),
                    user: UserProperties::default(),
                    filters: filters.as_filters(),
                }),
            );
            world.bytes(connection);
            members.push(connection);
        }
        let publisher = publisher(&mut world);
        for packet_id in 1..=3 {
            let retained = Publish { retain: true, ..publish("t", "x", QoS::ExactlyOnce, packet_id) };
            world.send(publisher, &Packet::Publish(retained));
        }

        for (number, expected) in (1..).zip(["qos0", "qos1 id1 retain", "qos2 id1"]) {
            let bytes = world.bytes(members[number as usize - 1]);
            let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
            let Packet::Publish(publish) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
                panic!("expected PUBLISH, got {bytes:02x?}");
            };
            assert_eq!(publish.properties.subscription_ids.iter().collect::<Vec<_>>(), [number]);
            let described = veilmq_simulator::describe_all(&bytes, ProtocolVersion::V5);
            assert_eq!(described, [format!("PUBLISH t \"x\" {expected}")]);
        }
    }
}

#[test]
fn a_message_that_is_too_large_for_the_chosen_client_is_dropped_and_counted() {
    // [MQTT-3.1.2-25]
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut world = World::new(4);
        let mut connect = connect_v5("a", true, 0);
        connect.properties.packet_bytes_max = NonZeroU32::new(30);
        let a = world.connect(&Connect { ..connect });
        world.subscribe(a, GROUP, qos);
        world.bytes(a);
        let b = member(&mut world, "b", 0, qos);
        let publisher = publisher(&mut world);

        publish_all(&mut world, publisher, &["large".repeat(9).as_str()], qos);

        assert!(world.received(a).is_empty() && world.received(b).is_empty());
        assert_eq!(world.sample("veilmq_messages_dropped_total", "too_large"), 1);
    }
}

#[test]
fn a_publication_that_was_not_stored_goes_to_nobody_and_its_repetition_to_one() {
    // [MQTT-4.3.3-10]
    let mut world = World::new(2);
    let [a, b] = ["a", "b"].map(|name| member(&mut world, name, 3_600, QoS::ExactlyOnce));
    let (publisher, _) = world.join("publisher", true, 3_600);
    world.commits_at_once = false;
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 1);
    world.fail_commits();
    assert!(world.received(a).is_empty() && world.received(b).is_empty());
    world.commits_at_once = true;

    let (publisher, _) = world.join("publisher", false, 3_600);
    let again = Publish { dup: true, ..publish("t", "x", QoS::ExactlyOnce, 1) };
    world.send(publisher, &Packet::Publish(again));

    assert_eq!(payloads(&mut world, a).len() + payloads(&mut world, b).len(), 1);
    assert_eq!(world.crash(2).1.deliveries, 1);
}
