//! A bridge between two real cores: what crosses, under which names, and how often when connections and brokers die.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leaving;
mod random;
mod rig;
mod wire;

use veilmq_bridge::{Direction, Event, Mapping, Side};
use veilmq_protocol::{ProtocolVersion, QoS};
use veilmq_simulator::options;

use rig::{Rig, mapping, settings};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn messages_cross_in_both_directions_at_every_qos_and_in_every_version() {
    for version in VERSIONS {
        let mut rig = Rig::new(settings(version, vec![mapping("a/#", Direction::Both, QoS::ExactlyOnce)]));
        rig.listen(Side::Local);
        rig.listen(Side::Remote);
        rig.park();
        rig.up();

        for (number, qos) in LEVELS.into_iter().enumerate() {
            rig.publish(Side::Local, "a/out", &format!("{number}"), qos);
            rig.publish(Side::Remote, "a/in", &format!("{number}"), qos);
            rig.publish(Side::Local, "b/not", "mapped", qos);
            rig.pump().unwrap();
        }

        // A client that is away gets no QoS 0.
        assert_eq!(rig.heard(Side::Remote), ["a/in 1", "a/out 1", "a/in 2", "a/out 2"], "{version:?}");
        let here = ["a/out 1", "b/not mapped", "a/in 1", "a/out 2", "b/not mapped", "a/in 2"];
        assert_eq!(rig.heard(Side::Local), here, "{version:?}");
    }
}

#[test]
fn topics_are_renamed_and_a_direction_is_kept() {
    let map = |pattern, direction, local, remote| {
        Mapping::new(pattern, direction, QoS::AtLeastOnce, local, remote).unwrap()
    };
    let mut rig = Rig::new(settings(
        ProtocolVersion::V5,
        vec![
            map("temperature/#", Direction::Out, "house/", "site/7/"),
            map("order/+", Direction::In, "", "site/7/"),
            map("", Direction::Out, "house/door", "doors/7"),
        ],
    ));
    rig.listen(Side::Local);
    rig.listen(Side::Remote);
    rig.park();
    rig.up();

    for topic in ["house/temperature/hall", "house/temperature", "house/door", "house/door/bell", "order/x"] {
        rig.publish(Side::Local, topic, "out", QoS::AtLeastOnce);
    }
    for topic in ["site/7/order/42", "site/7/order/42/x", "site/7/temperature/hall", "site/8/order/42"] {
        rig.publish(Side::Remote, topic, "in", QoS::AtLeastOnce);
    }
    rig.pump().unwrap();
    let heard = |rig: &mut Rig, side, payload: &str| {
        let mut topics = rig.heard(side);
        topics.retain(|topic| topic.ends_with(payload));
        topics
    };

    let out = ["site/7/temperature/hall out", "site/7/temperature out", "doors/7 out"];
    assert_eq!(heard(&mut rig, Side::Remote, "out"), out);
    assert_eq!(heard(&mut rig, Side::Local, "in"), ["order/42 in"]);
}

#[test]
fn no_name_from_the_other_broker_becomes_a_dollar_topic_under_a_wildcard() {
    // [E07]
    let crafted = Mapping::new("#", Direction::In, QoS::AtLeastOnce, "", "in/").unwrap();

    assert_eq!(crafted.map(Side::Remote, "in/a"), Some("a".into()));
    assert_eq!(crafted.map(Side::Remote, "in/$CONTROL/dynamic-security/v1"), None);
    assert_eq!(crafted.map(Side::Remote, "in/$SYS/broker/uptime"), None);
    assert_eq!(crafted.map(Side::Remote, "in/"), None);
    assert_eq!(crafted.map(Side::Local, "a"), None);
}

#[test]
fn a_message_that_this_broker_would_hang_up_on_is_left_out_and_the_next_one_crosses() {
    // [E07] Were it passed on, the bridge would be sent away, connect again, be sent the same message again, for ever.
    for (name, user_properties, levels) in [("user properties", 128, 1), ("levels", 0, 201)] {
        let mut rig =
            Rig::new(settings(ProtocolVersion::V5, vec![mapping("#", Direction::In, QoS::ExactlyOnce)]));
        rig.there = veilmq_simulator::World::with(veilmq_core::Settings {
            topic_levels_max: 1_000,
            user_properties_max: 1_000,
            ..veilmq_core::Settings::default()
        });
        rig.listen(Side::Local);
        rig.up();
        let (conn, _) = rig.there.join("crafty", true, 0);
        let mut user = veilmq_protocol::UserPropertiesBuf::new();
        for number in 0..user_properties {
            user.push("number", &number.to_string()).unwrap();
        }
        let topic = vec!["t"; levels].join("/");
        for (qos, packet_id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
            let mut publish = veilmq_simulator::publish(&topic, "crafted", qos, packet_id);
            publish.properties.user = user.as_user_properties();
            rig.there.send(conn, &veilmq_protocol::Packet::Publish(publish));
        }

        rig.pump().unwrap();
        rig.publish(Side::Remote, "t", "next", QoS::ExactlyOnce);
        rig.pump().unwrap();

        assert_eq!(rig.heard(Side::Local), ["t next"], "{name}");
        let refused = rig.events.iter().filter(|event| matches!(event, Event::MessageRefused { .. })).count();
        assert_eq!(refused, 3, "{name}");
    }
}

#[test]
fn a_message_that_grows_above_what_this_broker_takes_is_left_out_and_the_next_one_crosses() {
    // [E07] A prefix and the mark make it larger than it was.
    const LIMIT: usize = 2_000;
    for version in VERSIONS {
        let prefixed = Mapping::new("#", Direction::In, QoS::ExactlyOnce, "site/7/", "").unwrap();
        let mut rig = Rig::new(settings(version, vec![prefixed]));
        rig.here = veilmq_simulator::World::with(veilmq_core::Settings {
            packet_bytes_max: LIMIT,
            ..veilmq_core::Settings::default()
        });
        rig.settings.remote.packet_bytes_max = LIMIT as u32;
        rig.listen(Side::Local);
        rig.up();
        let mut crossed = Vec::new();

        for spare in (0..80).rev().step_by(8) {
            let payload = "x".repeat(LIMIT - 20 - spare);
            for qos in LEVELS {
                rig.publish(Side::Remote, "t", &payload, qos);
            }
            rig.pump().unwrap();
            rig.publish(Side::Remote, "t", "next", QoS::ExactlyOnce);
            rig.pump().unwrap();
            let heard = rig.heard(Side::Local);
            assert_eq!(heard.last().unwrap(), "site/7/t next", "{version:?} {spare}");
            crossed.push(heard.len() - 1);
        }

        assert_eq!((crossed.first(), crossed.last()), (Some(&2), Some(&0)), "{version:?} {crossed:?}");
    }
}

#[test]
fn what_is_published_while_the_bridge_is_down_waits_for_it_in_order() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut rig =
            Rig::new(settings(ProtocolVersion::V311, vec![mapping("#", Direction::Out, QoS::ExactlyOnce)]));
        rig.listen(Side::Remote);
        rig.park();
        let numbers: Vec<String> = (0..200).map(|number| number.to_string()).collect();

        for number in &numbers {
            rig.publish(Side::Local, "t", number, qos);
        }
        rig.crash(Side::Local);
        rig.up();

        let expected: Vec<String> = numbers.iter().map(|number| format!("t {number}")).collect();
        assert_eq!(rig.heard(Side::Remote), expected, "{qos:?}");
    }
}

#[test]
fn the_mapping_limits_the_qos() {
    let mut rig =
        Rig::new(settings(ProtocolVersion::V5, vec![mapping("#", Direction::Both, QoS::AtLeastOnce)]));
    rig.park();
    rig.up();
    let (conn, _) = rig.there.join("watcher", true, 0);
    rig.there.subscribe(conn, "#", QoS::ExactlyOnce);
    rig.there.received(conn);

    rig.publish(Side::Local, "t", "x", QoS::ExactlyOnce);
    rig.pump().unwrap();

    assert_eq!(rig.there.received(conn), ["PUBLISH t \"x\" qos1 id1"]);
}

#[test]
fn retained_messages_cross_and_stay_retained_unless_that_is_not_wanted() {
    for (passes_retain, expected) in [(true, "t new retained"), (false, "t new")] {
        let mut settings =
            settings(ProtocolVersion::V5, vec![mapping("#", Direction::Out, QoS::AtLeastOnce)]);
        settings.remote.passes_retain = passes_retain;
        let mut rig = Rig::new(settings);
        let (conn, _) = rig.here.join("keeper", true, 0);
        rig.here.retain(conn, "t", "old");
        rig.here.retain(conn, "t", "new");
        rig.park();
        let (watcher, _) = rig.there.join("watcher", true, 0);
        let as_published =
            veilmq_protocol::SubscribeOptions { retain_as_published: true, ..options(QoS::AtLeastOnce) };
        rig.there.subscribe_with(watcher, "t", as_published);
        rig.there.received(watcher);

        rig.up();

        let received = rig.there.received(watcher).join(" ");
        assert_eq!(received.contains("retain"), expected.contains("retained"), "{received}");
        assert!(received.contains("\"new\"") && !received.contains("\"old\""), "{received}");
    }
}

#[test]
fn a_message_does_not_come_back_over_a_bridge_that_maps_both_ways() {
    for version in VERSIONS {
        let mut rig = Rig::new(settings(version, vec![mapping("#", Direction::Both, QoS::ExactlyOnce)]));
        rig.listen(Side::Local);
        rig.listen(Side::Remote);
        rig.park();
        rig.up();

        rig.publish(Side::Local, "t", "from here", QoS::ExactlyOnce);
        rig.publish(Side::Remote, "t", "from there", QoS::ExactlyOnce);
        rig.pump().unwrap();

        assert_eq!(rig.heard(Side::Local), ["t from here", "t from there"], "{version:?}");
        assert_eq!(rig.heard(Side::Remote), ["t from there", "t from here"], "{version:?}");
    }
}

#[test]
fn a_message_that_says_the_same_later_is_none_that_comes_back() {
    let mut rig =
        Rig::new(settings(ProtocolVersion::V311, vec![mapping("#", Direction::Both, QoS::AtLeastOnce)]));
    rig.listen(Side::Local);
    rig.park();
    rig.up();

    rig.publish(Side::Local, "lamp", "on", QoS::AtLeastOnce);
    rig.pump().unwrap();
    rig.publish(Side::Remote, "lamp", "on", QoS::AtLeastOnce);
    rig.pump().unwrap();

    assert_eq!(rig.heard(Side::Local), ["lamp on", "lamp on"]);
}

#[test]
fn a_message_crosses_each_bridge_once_however_the_brokers_are_joined() {
    // [E06] Two bridges from the same broker to the same other one: what one takes over, the other brings back.
    let both = vec![mapping("#", Direction::Both, QoS::AtLeastOnce)];
    let mut rig = Rig::new(settings(ProtocolVersion::V5, both));
    rig.listen(Side::Local);
    rig.park();
    rig.up();
    let (conn, _) = rig.there.join("another bridge", true, 0);
    let mut user = veilmq_protocol::UserPropertiesBuf::new();
    user.push("veilmq-bridge", "here/bridge").unwrap();
    let mut publish = veilmq_simulator::publish("t", "round trip", QoS::AtLeastOnce, 1);
    publish.properties.user = user.as_user_properties();

    rig.there.send(conn, &veilmq_protocol::Packet::Publish(publish));
    rig.pump().unwrap();

    assert_eq!(rig.heard(Side::Local), [""; 0]);
    assert_eq!(rig.events, [Event::Up, Event::LoopStopped]);
}

#[test]
fn a_message_comes_to_no_broker_that_a_bridge_has_taken_it_from() {
    // [E06] Over however many others it comes.
    let both = vec![mapping("#", Direction::Both, QoS::AtLeastOnce)];
    let known = |id: &str| {
        let broker_id = Some(id.into());
        veilmq_simulator::World::with(veilmq_core::Settings { broker_id, ..veilmq_core::Settings::default() })
    };
    let mut rig = Rig::new(settings(ProtocolVersion::V5, both));
    (rig.here, rig.there) = (known("here"), known("there"));
    rig.listen(Side::Local);
    rig.listen(Side::Remote);
    rig.park();
    rig.up();
    let marked = |brokers: &[&str]| {
        let mut user = veilmq_protocol::UserPropertiesBuf::new();
        brokers.iter().for_each(|broker| user.push("veilmq-broker", broker).unwrap());
        user
    };

    for (side, brokers) in [
        (Side::Remote, &["here", "third"][..]),
        (Side::Remote, &["third"]),
        (Side::Local, &["there"]),
        (Side::Local, &["third", "here"]),
    ] {
        let (user, payload) = (marked(brokers), brokers.join(" and "));
        let mut publish = veilmq_simulator::publish("t", &payload, QoS::AtLeastOnce, 1);
        publish.properties.user = user.as_user_properties();
        let (conn, _) = rig.world(side).join("another bridge", true, 0);
        rig.world(side).send(conn, &veilmq_protocol::Packet::Publish(publish));
        rig.pump().unwrap();
    }

    assert_eq!(rig.heard(Side::Local), ["t third", "t there", "t third and here"]);
    assert_eq!(rig.heard(Side::Remote), ["t here and third", "t third", "t third and here"]);
    assert_eq!(rig.events, [Event::Up, Event::LoopStopped, Event::LoopStopped]);
}

#[test]
fn what_a_bridge_takes_from_a_broker_carries_who_that_is() {
    let mut rig =
        Rig::new(settings(ProtocolVersion::V5, vec![mapping("#", Direction::Out, QoS::AtMostOnce)]));
    rig.here = veilmq_simulator::World::with(veilmq_core::Settings {
        broker_id: Some("here".into()),
        ..veilmq_core::Settings::default()
    });
    rig.park();
    rig.up();
    let (watcher, _) = rig.there.join("watcher", true, 0);
    rig.there.subscribe(watcher, "#", QoS::AtMostOnce);
    rig.there.received(watcher);

    rig.publish(Side::Local, "t", "x", QoS::AtMostOnce);
    rig.pump().unwrap();

    let bytes = rig.there.bytes(watcher);
    let (frame, _) = veilmq_protocol::next_frame(&bytes, 1_000).unwrap().unwrap();
    let packet = veilmq_protocol::Packet::decode(frame, ProtocolVersion::V5).unwrap();
    let veilmq_protocol::Packet::Publish(publish) = packet else { panic!("{packet:?}") };
    let marks: Vec<_> = publish.properties.user.iter().collect();
    assert_eq!(marks, [("veilmq-bridge", "here/bridge"), ("veilmq-broker", "here")]);
}
