//! Messages on their way: QoS 0, 1 and 2 in both directions, order, quota, expiry, retained messages.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::{NonZeroU16, NonZeroU32};

use veilmq_core::Settings;
use veilmq_protocol::{
    Acknowledgement, Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    RetainHandling, SubscribeOptions, TopicName,
};
use veilmq_simulator::{World, connect_v5, connect_v311, id, options, publish};

#[test]
fn a_message_is_delivered_at_the_lower_of_both_qualities() {
    // [MQTT-3.8.4-8]
    for shards in [1, 4] {
        for published in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for granted in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let mut world = World::new(shards);
                let (subscriber, _) = world.join("s", true, 0);
                let (publisher, _) = world.join("p", true, 0);
                world.subscribe(subscriber, "a/+", granted);
                assert_eq!(world.received(subscriber), [format!("SUBACK [{:02x}]", granted.value())]);

                let packet_id = if published == QoS::AtMostOnce { 0 } else { 5 };
                world.publish(publisher, "a/b", "x", published, packet_id);

                let qos = granted.min(published).value();
                let identifier = if qos == 0 { "" } else { " id1" };
                assert_eq!(world.received(subscriber), [format!("PUBLISH a/b \"x\" qos{qos}{identifier}")]);
            }
        }
    }
}

#[test]
fn both_sides_of_a_qos_2_exchange_come_to_their_end() {
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 0);
    let (publisher, _) = world.join("p", true, 0);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.bytes(subscriber);

    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 7);
    assert_eq!(world.received(publisher), ["PUBREC id7"]);
    world.ack(publisher, Packet::PubRel, 7);
    assert_eq!(world.received(publisher), ["PUBCOMP id7"]);

    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos2 id1"]);
    world.ack(subscriber, Packet::PubRec, 1);
    assert_eq!(world.received(subscriber), ["PUBREL id1"]);
    world.ack(subscriber, Packet::PubComp, 1);
    assert!(world.received(subscriber).is_empty());
}

#[test]
fn a_repeated_pubrec_is_answered_with_pubrel_again() {
    // [MQTT-4.3.3-4]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 60);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.bytes(subscriber);
    world.publish(subscriber, "t", "x", QoS::ExactlyOnce, 7);
    world.bytes(subscriber);

    world.ack(subscriber, Packet::PubRec, 1);
    world.ack(subscriber, Packet::PubRec, 1);

    assert_eq!(world.received(subscriber), ["PUBREL id1", "PUBREL id1"]);
}

#[test]
fn a_repeated_qos_2_publish_is_acknowledged_again_and_delivered_once() {
    // [MQTT-4.3.3-10], [MQTT-4.3.3-12], [C04]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 0);
    let (publisher, _) = world.join("p", true, 60);
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    world.bytes(subscriber);
    world.publish(publisher, "t", "once", QoS::ExactlyOnce, 7);
    world.cut(publisher);

    let (publisher, _) = world.join("p", false, 60);
    let again = Publish { dup: true, ..publish("t", "once", QoS::ExactlyOnce, 7) };
    world.send(publisher, &Packet::Publish(again));
    world.ack(publisher, Packet::PubRel, 7);
    world.publish(publisher, "t", "new", QoS::ExactlyOnce, 7);

    assert_eq!(world.received(publisher), ["PUBREC id7", "PUBCOMP id7", "PUBREC id7"]);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"once\" qos0", "PUBLISH t \"new\" qos0"]);
}

#[test]
fn unknown_identifiers_are_answered_as_not_found() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);

    world.ack(client, Packet::PubRel, 9);
    world.ack(client, Packet::PubRec, 9);
    world.ack(client, Packet::PubAck, 9);
    world.ack(client, Packet::PubComp, 9);

    assert_eq!(world.received(client), ["PUBCOMP id9 0x92", "PUBREL id9 0x92"]);
}

#[test]
fn a_refusal_of_an_unknown_identifier_is_not_released() {
    let mut world = World::new(1);
    let (client, _) = world.join("c", true, 0);

    world.send(client, &Packet::PubRec(Acknowledgement::new(id(9), ReasonCode::UnspecifiedError)));

    assert!(world.received(client).is_empty());
}

#[test]
fn an_answer_of_the_wrong_kind_is_a_protocol_error() {
    // [C07]
    for (qos, answer) in [
        (QoS::AtLeastOnce, Packet::PubRec as fn(Acknowledgement<'static>) -> Packet<'static>),
        (QoS::ExactlyOnce, Packet::PubAck),
        (QoS::ExactlyOnce, Packet::PubComp),
    ] {
        let mut world = World::new(1);
        let (client, _) = world.join("c", true, 0);
        world.subscribe(client, "t", qos);
        world.publish(client, "t", "x", qos, 3);
        world.bytes(client);

        world.ack(client, answer, 1);

        assert_eq!(world.received(client), ["DISCONNECT 0x82"], "{qos:?}");
    }
}

#[test]
fn an_offline_session_gets_its_messages_in_order_and_unacknowledged_ones_again_with_dup() {
    // [MQTT-4.4.0-1], [MQTT-4.6.0-5]
    let mut world = World::new(2);
    let (subscriber, _) = world.join("s", true, 600);
    let (publisher, _) = world.join("p", true, 0);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.bytes(subscriber);
    world.publish(publisher, "t", "1", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"1\" qos1 id1"]);
    world.cut(subscriber);
    world.publish(publisher, "t", "2", QoS::AtLeastOnce, 2);
    world.publish(publisher, "t", "0", QoS::AtMostOnce, 0);

    let (subscriber, present) = world.join("s", false, 600);

    assert!(present);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"1\" qos1 id1 dup", "PUBLISH t \"2\" qos1 id2"]);
}

#[test]
fn the_clients_receive_maximum_holds_back_publish_and_nothing_else() {
    // [MQTT-3.3.4-9], [MQTT-3.3.4-10]
    let mut world = World::new(1);
    let mut connect = connect_v5("s", true, 0);
    connect.properties.receive_maximum = NonZeroU16::new(2);
    let subscriber = world.connect(&connect);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    let (publisher, _) = world.join("p", true, 0);
    world.bytes(subscriber);
    for number in 1..=4 {
        world.publish(publisher, "t", &number.to_string(), QoS::AtLeastOnce, number);
    }

    world.send(subscriber, &Packet::PingReq);
    assert_eq!(
        world.received(subscriber),
        ["PUBLISH t \"1\" qos1 id1", "PUBLISH t \"2\" qos1 id2", "PINGRESP"]
    );
    world.ack(subscriber, Packet::PubAck, 1);
    assert_eq!(world.received(subscriber), ["PUBLISH t \"3\" qos1 id3"]);
}

#[test]
fn a_pubrec_with_an_error_frees_the_quota() {
    // [MQTT-4.4.0-2]
    let mut world = World::new(1);
    let mut connect = connect_v5("s", true, 0);
    connect.properties.receive_maximum = NonZeroU16::new(1);
    let subscriber = world.connect(&connect);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    for number in 1..=2 {
        world.publish(publisher, "t", &number.to_string(), QoS::ExactlyOnce, number);
    }
    assert_eq!(world.received(subscriber), ["PUBLISH t \"1\" qos2 id1"]);

    world.send(subscriber, &Packet::PubRec(Acknowledgement::new(id(1), ReasonCode::UnspecifiedError)));

    assert_eq!(world.received(subscriber), ["PUBLISH t \"2\" qos2 id2"]);
}

#[test]
fn a_client_that_exceeds_our_receive_maximum_is_disconnected() {
    // [MQTT-3.3.4-7]; 3.1.1 has no such limit.
    for (version, closed) in [(ProtocolVersion::V5, true), (ProtocolVersion::V311, false)] {
        let mut world = World::with(Settings { receive_maximum: 2, ..Settings::default() });
        let connect = Connect { version, ..connect_v5("p", true, 0) };
        let publisher = world.connect(&connect);
        world.bytes(publisher);

        for number in 1..=3 {
            world.publish(publisher, "t", "x", QoS::ExactlyOnce, number);
        }

        assert_eq!(world.is_closed(publisher), closed, "{version:?}");
        if closed {
            assert_eq!(world.received(publisher).last().unwrap(), "DISCONNECT 0x93");
        }
    }
}

#[test]
fn a_finished_exchange_frees_the_brokers_receive_maximum() {
    // [MQTT-3.3.4-7]
    let mut world =
        World::with(Settings { receive_maximum: 1, retained_bytes_max: 0, ..Settings::default() });
    let (client, _) = world.join("c", true, 0);
    for round in 1..=3 {
        world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        world.publish(client, "t", "x", QoS::ExactlyOnce, 2);
        world.ack(client, Packet::PubRel, 2);
        // Refused, which ends the exchange as well.
        let refused = Publish { retain: true, ..publish("t", "x", QoS::ExactlyOnce, 3) };
        world.send(client, &Packet::Publish(refused));

        let answers = ["PUBACK id1 0x10", "PUBREC id2", "PUBCOMP id2", "PUBREC id3 0x97"];
        assert_eq!(world.received(client), answers, "round {round}");
    }
}

#[test]
fn a_message_that_cannot_be_retained_reaches_nobody_and_is_counted() {
    // [D03]
    let mut world = World::with(Settings { retained_bytes_max: 0, ..Settings::default() });
    let (client, _) = world.join("c", true, 0);
    world.subscribe(client, "t", QoS::AtMostOnce);
    world.bytes(client);

    world.retain(client, "t", "x");

    assert!(world.received(client).is_empty());
    assert_eq!(world.sample("veilmq_messages_dropped_total", "retained_full"), 1);
}

#[test]
fn a_packet_above_the_clients_maximum_is_dropped_and_counts_as_delivered() {
    // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    let mut world = World::new(1);
    let mut connect = connect_v5("s", true, 60);
    connect.properties.packet_bytes_max = NonZeroU32::new(30);
    let subscriber = world.connect(&connect);
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 0);

    world.publish(publisher, "t", &"x".repeat(40), QoS::ExactlyOnce, 1);
    world.publish(publisher, "t", "small", QoS::ExactlyOnce, 2);

    assert_eq!(world.received(subscriber), ["PUBLISH t \"small\" qos2 id2"]);
}

#[test]
fn a_message_expires_while_it_waits_and_its_interval_counts_down() {
    // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.cut(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    for (number, seconds) in [(1, 5), (2, 60)] {
        let properties =
            PublishProperties { message_expiry_seconds: Some(seconds), ..PublishProperties::default() };
        let publish = Publish { properties, ..publish("t", "x", QoS::AtLeastOnce, number) };
        world.send(publisher, &Packet::Publish(publish));
    }
    world.pass(10_000);

    let (subscriber, _) = world.join("s", false, 600);

    assert_eq!(world.received(subscriber), ["PUBLISH t \"x\" qos1 id2 expires50"]);
}

#[test]
fn retained_messages_come_with_a_subscription_and_an_empty_one_clears() {
    // [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-12]
    let mut world = World::new(2);
    let (publisher, _) = world.join("p", true, 0);
    world.retain(publisher, "a/1", "old");
    world.retain(publisher, "a/1", "new");
    world.retain(publisher, "a/2", "gone");
    world.retain(publisher, "a/2", "");
    let (subscriber, _) = world.join("s", true, 0);

    world.subscribe(subscriber, "a/#", QoS::AtMostOnce);
    world.retain(publisher, "a/3", "live");

    assert_eq!(
        world.received(subscriber),
        ["SUBACK [00]", "PUBLISH a/1 \"new\" qos0 retain", "PUBLISH a/3 \"live\" qos0"]
    );
}

#[test]
fn retain_handling_and_retain_as_published_are_obeyed() {
    // [MQTT-3.3.1-9] to [MQTT-3.3.1-13]
    let cases: &[(RetainHandling, [usize; 2])] = &[
        (RetainHandling::Send, [1, 1]),
        (RetainHandling::SendIfNew, [1, 0]),
        (RetainHandling::DoNotSend, [0, 0]),
    ];
    for (retain_handling, counts) in cases {
        let mut world = World::new(1);
        let (client, _) = world.join("c", true, 0);
        world.retain(client, "t", "x");
        for count in counts {
            let options = SubscribeOptions {
                retain_handling: *retain_handling,
                retain_as_published: true,
                ..options(QoS::AtMostOnce)
            };
            world.subscribe_with(client, "t", options);
            assert_eq!(world.received(client).len(), 1 + count, "{retain_handling:?}");
        }
        world.retain(client, "t", "y");
        assert_eq!(world.received(client), ["PUBLISH t \"y\" qos0 retain"]);
    }
}

#[test]
fn no_local_keeps_a_clients_own_messages_away() {
    // [MQTT-3.8.3-3]
    let mut world = World::new(1);
    let (own, _) = world.join("own", true, 0);
    let (other, _) = world.join("other", true, 0);
    for client in [own, other] {
        world.subscribe_with(client, "t", SubscribeOptions { no_local: true, ..options(QoS::AtMostOnce) });
        world.bytes(client);
    }

    world.publish(own, "t", "x", QoS::AtMostOnce, 0);

    assert!(world.received(own).is_empty());
    assert_eq!(world.received(other), ["PUBLISH t \"x\" qos0"]);
}

#[test]
fn unsubscribing_ends_delivery_and_says_whether_there_was_something_to_end() {
    // [MQTT-3.10.4-1], [MQTT-3.10.4-5]
    let mut world = World::new(2);
    let (client, _) = world.join("c", true, 0);
    world.subscribe(client, "a", QoS::AtMostOnce);
    world.bytes(client);
    let mut filters = veilmq_protocol::UnsubscribeFiltersBuf::default();
    for filter in ["a", "b"] {
        filters.push(veilmq_protocol::TopicFilter::new(filter).unwrap());
    }

    world.send(
        client,
        &Packet::Unsubscribe(veilmq_protocol::Unsubscribe {
            packet_id: id(4),
            user: Default::default(),
            filters: filters.as_filters(),
        }),
    );
    world.publish(client, "a", "x", QoS::AtMostOnce, 0);

    assert_eq!(world.received(client), ["UNSUBACK [00, 11]"]);
}

#[test]
fn a_topic_alias_stands_for_its_topic_on_this_connection() {
    // Section 3.3.2.3.4
    let mut world = World::with(Settings { topic_alias_maximum: 2, ..Settings::default() });
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "long/topic", QoS::AtMostOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    let aliased = |topic: Option<&'static str>, alias| {
        Packet::Publish(Publish {
            topic: topic.map(|topic| TopicName::new(topic).unwrap()),
            properties: PublishProperties {
                topic_alias: NonZeroU16::new(alias),
                ..PublishProperties::default()
            },
            ..publish("t", "x", QoS::AtMostOnce, 0)
        })
    };

    world.send(publisher, &aliased(Some("long/topic"), 2));
    world.send(publisher, &aliased(None, 2));
    assert_eq!(world.received(subscriber).len(), 2);

    world.send(publisher, &aliased(None, 1));
    assert_eq!(world.received(publisher), ["DISCONNECT 0x82"]);
    let (publisher, _) = world.join("p", true, 0);
    world.send(publisher, &aliased(Some("long/topic"), 3));
    assert_eq!(world.received(publisher), ["DISCONNECT 0x94"]);
}

#[test]
fn limits_of_topics_are_held() {
    // [D01]
    let deep = "a/".repeat(10);
    let mut world = World::with(Settings { topic_levels_max: 5, ..Settings::default() });
    let (client, _) = world.join("c", true, 0);

    world.publish(client, &deep, "x", QoS::AtMostOnce, 0);

    assert_eq!(world.received(client), ["DISCONNECT 0x90"]);
    let mut world = World::with(Settings {
        topic_levels_max: 5,
        subscriptions_per_session_max: 1,
        ..Settings::default()
    });
    let (client, _) = world.join("c", true, 0);
    for filter in ["a/b/c/d/e/f", "one", "two", "one"] {
        world.subscribe(client, filter, QoS::AtMostOnce);
    }
    assert_eq!(world.received(client), ["SUBACK [8f]", "SUBACK [00]", "SUBACK [97]", "SUBACK [00]"]);
}

#[test]
fn the_queue_of_an_offline_session_is_bounded_and_the_overflow_is_counted() {
    // [D05]
    let mut world = World::with(Settings { session_queue_messages_max: 2, ..Settings::default() });
    let (subscriber, _) = world.join("s", true, 600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.cut(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    for number in 1..=3 {
        world.publish(publisher, "t", &number.to_string(), QoS::AtLeastOnce, number);
    }

    assert_eq!(world.sample("veilmq_messages_dropped_total", "queue_full"), 1);
    let (subscriber, _) = world.join("s", false, 600);
    assert_eq!(world.received(subscriber).len(), 2);
}

#[test]
fn a_full_queue_drops_qos_0_messages_before_others() {
    let mut world =
        World::with(Settings { session_queue_messages_max: 2, outbox_bytes_max: 0, ..Settings::default() });
    let (subscriber, _) = world.join("s", true, 600);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    for number in 1..=4 {
        let qos = if number <= 2 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        world.publish(publisher, "t", "x", qos, if number <= 2 { 0 } else { number });
    }

    assert_eq!(world.sample("veilmq_messages_dropped_total", "qos0_no_space"), 2);
    assert_eq!(world.sample("veilmq_messages_dropped_total", "queue_full"), 0);
    assert_eq!(world.sample("veilmq_queued_messages", ""), 2);
}

#[test]
fn what_waits_at_qos_0_for_a_slow_client_waits_on_while_it_is_absent_if_that_is_wanted() {
    for (queue_qos0, expiry_seconds, kept) in [(true, 600, 2), (false, 600, 0), (true, 0, 0)] {
        // Nothing goes to the client.
        let mut world = World::with(Settings { queue_qos0, outbox_bytes_max: 0, ..Settings::default() });
        let (subscriber, _) = world.join("s", true, expiry_seconds);
        world.subscribe(subscriber, "t", QoS::AtMostOnce);
        let (publisher, _) = world.join("p", true, 0);
        for payload in ["a", "b"] {
            world.publish(publisher, "t", payload, QoS::AtMostOnce, 0);
        }

        world.cut(subscriber);

        assert_eq!(world.sample("veilmq_queued_messages", ""), kept);
        assert_eq!(world.sample("veilmq_messages_dropped_total", "qos0_no_space"), 2 - kept);
        world.set_settings(Settings { queue_qos0, ..Settings::default() });
        let (subscriber, _) = world.join("s", false, 600);
        let waited = ["PUBLISH t \"a\" qos0", "PUBLISH t \"b\" qos0"];
        let received = world.received(subscriber);
        assert_eq!(received, waited[..received.len()], "{queue_qos0} {expiry_seconds}");
        assert_eq!(received.len() as u64, kept);
    }
}

#[test]
fn old_clients_get_refusals_in_their_own_form() {
    // Sections 3.9.3 and 3.11 of MQTT 3.1.1: 0x80 is the only failure, UNSUBACK has no codes, and DISCONNECT is the client's.
    let mut world = World::with(Settings { subscriptions_per_session_max: 1, ..Settings::default() });
    let client = world.connect(&connect_v311("c", true));
    world.bytes(client);
    world.subscribe(client, "t", QoS::ExactlyOnce);
    world.subscribe(client, "u", QoS::ExactlyOnce);
    assert_eq!(world.bytes(client), [0x90, 3, 0, 9, 2, 0x90, 3, 0, 9, 0x80]);

    world.send_bytes(client, &[0xA2, 5, 0, 7, 0, 1, b't']);
    assert_eq!(world.bytes(client), [0xB0, 2, 0, 7]);

    world.ack(client, Packet::PubRel, 5);
    assert_eq!(world.bytes(client), [0x70, 2, 0, 5]);

    world.send(client, &Packet::Connect(connect_v311("c", true)));
    assert!(world.is_closed(client));
    assert!(world.bytes(client).is_empty());
}

#[test]
fn nothing_that_follows_disconnect_is_looked_at() {
    // [MQTT-3.14.4-1]
    let mut world = World::new(1);
    let (subscriber, _) = world.join("s", true, 0);
    world.subscribe(subscriber, "t", QoS::AtMostOnce);
    world.bytes(subscriber);
    let (publisher, _) = world.join("p", true, 0);
    let mut bytes = vec![0xE0, 0];
    let late = Packet::Publish(publish("t", "late", QoS::AtMostOnce, 0));
    late.encode(ProtocolVersion::V5, &mut bytes).unwrap();

    world.send_bytes(publisher, &bytes);

    assert!(world.is_closed(publisher));
    assert!(world.bytes(subscriber).is_empty());
}

#[test]
fn old_clients_get_packets_in_their_own_form() {
    let mut world = World::new(1);
    let client = world.connect(&connect_v311("c", true));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    world.publish(client, "t", "x", QoS::AtLeastOnce, 8);

    let bytes = world.bytes(client);

    assert_eq!(
        bytes,
        [
            0x20, 2, 0, 0, // CONNACK
            0x90, 3, 0, 9, 1, // SUBACK
            0x32, 6, 0, 1, b't', 0, 1, b'x', // PUBLISH
            0x40, 2, 0, 8, // PUBACK
        ]
    );
}
