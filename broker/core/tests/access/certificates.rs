//! Rules that go by what a client's certificate says, over absence, changes and restarts.

use std::sync::Arc;

use veilmq_core::{Access, CertificateField, CertificateFields, Input, Rule};
use veilmq_protocol::{Packet, ProtocolVersion, QoS};
use veilmq_simulator::{Conn, World, connect_v5};

use super::{PUBLISH, RECEIVE, allow, connect_as, deny, join_as, rules, users, will, world_with};

/// Connects a client that has shown TLS a certificate with this common name, and takes CONNACK.
fn join_with(world: &mut World, client_id: &str, common_name: &str) -> (Conn, Vec<String>) {
    let connection = world.accept(0, ProtocolVersion::V5);
    let said = [(CertificateField::CommonName, common_name.into())];
    let certificate = Arc::new(CertificateFields::new(said));
    world.turn(0, Input::Certified { connection, certificate });
    world.send(connection, &Packet::Connect(connect_v5(client_id, false, 60)));
    let connack = world.received(connection);
    (connection, connack)
}

fn set_rules(world: &mut World, list: Vec<Rule>) {
    world.set_access(Access { rules: rules(list, true), ..Access::open_to(true) });
}

fn publish(world: &mut World, connection: Conn, topic: &str) -> Vec<String> {
    world.publish(connection, topic, "m", QoS::AtLeastOnce, 1);
    world.commit();
    world.received(connection)
}

#[test]
fn a_client_may_do_what_is_allowed_to_its_certificate_and_one_without_may_not() {
    let mut world = world_with(vec![allow(PUBLISH, "d/%{cn}/#"), deny(PUBLISH, "d/%{cn}/no")], true);
    let (own, _) = join_with(&mut world, "c", "m7");
    let (other, _) = join_with(&mut world, "o", "m8");
    let (without, _) = world.join("n", true, 0);

    for (connection, topic, expected) in [
        (own, "d/m7/x", "PUBACK id1 0x10"),
        (own, "d/m7/no", "PUBACK id1 0x87"),
        (own, "d/m8/x", "PUBACK id1 0x87"),
        (other, "d/m8/x", "PUBACK id1 0x10"),
        (other, "d/m7/x", "PUBACK id1 0x87"),
        (without, "d/m7/x", "PUBACK id1 0x87"),
        (without, "d//x", "PUBACK id1 0x87"),
    ] {
        assert_eq!(publish(&mut world, connection, topic), [expected], "{topic}");
    }
}

#[test]
fn a_certificate_that_names_what_is_no_level_is_nobody() {
    // [B01]
    for hostile in ["+", "#", "m7/x", "/", "m7\0", "", "%c", "$SYS"] {
        let mut world = world_with(
            vec![allow(PUBLISH, "d/%{cn}/#"), allow(RECEIVE, "d/%{cn}/#"), allow(PUBLISH, "%{cn}/#")],
            true,
        );
        let (eve, connack) = join_with(&mut world, "m7", hostile);
        assert_eq!(connack, ["CONNACK 0x00"], "{hostile:?}");

        for topic in ["d/m7/x", "d//x", "d/x", "$SYS/x", "m7/x"] {
            assert_eq!(publish(&mut world, eve, topic), ["PUBACK id1 0x87"], "{hostile:?} at {topic}");
        }
        for filter in ["d/+/x", "d/#", "#", "d/m7/x"] {
            world.subscribe(eve, filter, QoS::AtMostOnce);
            assert_eq!(world.received(eve), ["SUBACK [87]"], "{hostile:?} subscribes to {filter}");
        }
    }
}

#[test]
fn a_certificate_is_that_of_the_connection_and_a_password_does_not_take_its_place() {
    let mut world = world_with(vec![], true);
    let access = Access { users: users(&[("m7", 1)]), ..Access::open_to(true) };
    world.set_access(Access { rules: rules(vec![allow(PUBLISH, "d/%{cn}")], true), ..access });
    let (first, _) = join_with(&mut world, "c", "m7");
    assert_eq!(publish(&mut world, first, "d/m7"), ["PUBACK id1 0x10"]);
    world.cut(first);

    let (second, _) = join_as(&mut world, "c", "m7", 1);

    assert_eq!(publish(&mut world, second, "d/m7"), ["PUBACK id1 0x87"], "it has shown none now");
}

#[test]
fn a_service_is_told_what_the_certificate_says() {
    let mut world = world_with(vec![], true);
    world.set_access(Access { users: users(&[("ann", 1)]), ..Access::open_to(false) });
    let connection = world.accept(0, ProtocolVersion::V5);
    let certificate = Arc::new(CertificateFields::new([(CertificateField::Serial, "0A".into())]));
    world.turn(0, Input::Certified { connection, certificate: Arc::clone(&certificate) });

    world.send(connection, &Packet::Connect(connect_as("c", "ann", 0)));

    assert_eq!(world.credentials[0].1.certificate, Some(certificate));
}

#[test]
fn who_is_away_is_still_who_its_certificate_said_and_after_a_restart_until_it_comes_back() {
    // [B06]
    let list = || vec![allow(PUBLISH, "#"), allow(RECEIVE, "d/%{cn}/#")];
    for restarts in [false, true] {
        let mut world = world_with(list(), true);
        let (own, _) = join_with(&mut world, "c", "m7");
        world.subscribe(own, "d/m7/#", QoS::AtLeastOnce);
        world.commit();
        world.cut(own);
        if restarts {
            world = world.crash(1).0;
        }
        set_rules(&mut world, list());
        let (sender, _) = world.join("s", true, 0);
        publish(&mut world, sender, "d/m7/x");

        let (eve, received) = join_with(&mut world, "c", "m8");
        assert_eq!(received.len(), 1, "restarts: {restarts}: {received:?}");
        world.cut(eve);
        publish(&mut world, sender, "d/m7/y");
        let (_, received) = join_with(&mut world, "c", "m7");

        assert!(received[0].starts_with("CONNACK 0x00"), "{received:?}");
        assert_eq!(received.len(), 1, "what waited was held against m8 and dropped: {received:?}");
    }
}

#[test]
fn what_waits_for_a_client_after_a_restart_is_sent_if_its_certificate_may_have_it() {
    let list = || vec![allow(PUBLISH, "#"), allow(RECEIVE, "d/%{cn}/#")];
    let mut world = world_with(list(), true);
    let (own, _) = join_with(&mut world, "c", "m7");
    world.subscribe(own, "d/m7/#", QoS::AtLeastOnce);
    world.commit();
    world.cut(own);
    world = world.crash(1).0;
    set_rules(&mut world, list());
    let (sender, _) = world.join("s", true, 0);
    publish(&mut world, sender, "d/m7/x");

    let (_, received) = join_with(&mut world, "c", "m7");

    assert!(received.iter().any(|packet| packet.starts_with("PUBLISH d/m7/x")), "{received:?}");
}

#[test]
fn a_retained_message_says_what_the_certificate_of_its_publisher_said() {
    // [B07]
    let everything = || vec![allow(RECEIVE, "#"), allow(PUBLISH, "d/%{cn}/#")];
    for restarts in [false, true] {
        let mut world = world_with(everything(), true);
        let (own, _) = join_with(&mut world, "c", "m7");
        world.retain(own, "d/m7/x", "m");
        if restarts {
            world = world.crash(1).0;
        }
        for (list, is_sent) in [
            (everything(), true),
            (vec![allow(RECEIVE, "#"), allow(PUBLISH, "e/%{cn}/#")], false),
            (vec![allow(RECEIVE, "#"), allow(PUBLISH, "#"), deny(PUBLISH, "d/%{cn}/x")], false),
            (vec![allow(RECEIVE, "#"), allow(PUBLISH, "d/%{serial}/#")], false),
            (everything(), true),
        ] {
            set_rules(&mut world, list);
            let (reader, _) = world.join("r", true, 0);
            world.subscribe(reader, "#", QoS::AtMostOnce);

            let received = world.received(reader);

            let brought = received.iter().any(|packet| packet.starts_with("PUBLISH d/m7/x"));
            assert_eq!(brought, is_sent, "restarts: {restarts}: {received:?}");
        }
    }
}

#[test]
fn a_will_is_asked_for_with_the_certificate_of_its_client() {
    let mut world = world_with(vec![allow(PUBLISH, "d/%{cn}/will"), allow(RECEIVE, "#")], false);
    let (reader, _) = world.join("r", true, 0);
    world.subscribe(reader, "d/#", QoS::AtMostOnce);
    world.received(reader);
    let mut connect = |name: &str| {
        let connection = world.accept(0, ProtocolVersion::V5);
        let certificate = CertificateFields::new([(CertificateField::CommonName, name.into())]);
        world.turn(0, Input::Certified { connection, certificate: Arc::new(certificate) });
        let will = will("d/m7/will", 0);
        world.send(
            connection,
            &Packet::Connect(veilmq_protocol::Connect { will, ..connect_v5(name, true, 0) }),
        );
        let answer = world.received(connection);
        world.cut(connection);
        (answer, world.received(reader).len())
    };

    assert_eq!(connect("m8"), (vec!["CONNACK 0x87".to_owned()], 0));
    assert_eq!(connect("m7"), (vec!["CONNACK 0x00".to_owned()], 1));
}
