//! Who may connect, and whose session it is.

use veilmq_core::{Access, Input, Settings, Verdict};
use veilmq_protocol::{Connect, Packet, ProtocolVersion, QoS};
use veilmq_simulator::{World, connect_v5, connect_v311};

use super::{connect_as, join_as, users};

fn world(anonymous: bool) -> World {
    let mut world = World::new(2);
    world.set_access(Access { users: users(&[("ann", 1), ("bob", 2)]), ..Access::open_to(anonymous) });
    world
}

#[test]
fn a_password_is_checked_elsewhere_and_the_client_waits() {
    let mut world = world(false);

    let ann = world.connect(&connect_as("c", "ann", 0));

    assert!(world.received(ann).is_empty());
    let (_, credentials) = &world.credentials[0];
    assert_eq!((&*credentials.user, &*credentials.client_id), ("ann", "c"));
    assert_eq!(credentials.password.as_slice(), b"secret");
    assert!(!format!("{credentials:?}").contains("secret"));
    world.judge(Verdict::Right(1));
    assert_eq!(world.received(ann), ["CONNACK 0x00"]);
}

#[test]
fn what_a_client_sends_ahead_is_handled_after_the_verdict_or_not_at_all() {
    // [MQTT-3.1.4-5], [MQTT-3.1.4-6]
    for (verdict, answers) in
        [(Verdict::Right(1), vec!["CONNACK 0x00", "PINGRESP"]), (Verdict::Wrong, vec!["CONNACK 0x86"])]
    {
        let mut world = world(false);
        let ann = world.accept(0, ProtocolVersion::V5);
        let mut bytes = Vec::new();
        Packet::Connect(connect_as("c", "ann", 0)).encode(ProtocolVersion::V5, &mut bytes).unwrap();
        Packet::PingReq.encode(ProtocolVersion::V5, &mut bytes).unwrap();
        let (first, second) = bytes.split_at(bytes.len() - 1);
        world.send_bytes(ann, first);
        world.send_bytes(ann, second);
        assert!(world.received(ann).is_empty());

        world.judge(verdict);

        assert_eq!(world.received(ann), answers);
    }
}

#[test]
fn what_a_client_may_send_ahead_is_bounded() {
    let mut world = world(false);
    let ann = world.connect(&connect_as("c", "ann", 0));
    for _ in 0..5 {
        world.send_bytes(ann, &[0xC0; 15_000]);
    }

    assert_eq!(world.received(ann), ["CONNACK 0x97"]);
    world.judge(Verdict::Right(1));
    assert!(world.is_closed(ann));
}

#[test]
fn refusals_have_the_codes_of_each_version() {
    let v311 =
        |user| Connect { username: user, password: user.map(|_| b"x".as_slice()), ..connect_v311("c", true) };
    let v31 = |user| Connect { version: ProtocolVersion::V31, ..v311(user) };
    let v5 = |user| Connect { username: user, password: Some(b"x"), ..connect_v5("c", true, 0) };
    for (verdict, fifth, third, oldest) in [
        (Verdict::Wrong, "CONNACK 0x86", "CONNACK 0x87", "CONNACK 0x86"),
        (Verdict::Banned, "CONNACK 0x8a", "CONNACK 0x87", "CONNACK 0x87"),
        (Verdict::Busy, "CONNACK 0x89", "CONNACK 0x88", "CONNACK 0x88"),
    ] {
        for (connect, expected) in
            [(v5(Some("ann")), fifth), (v311(Some("ann")), third), (v31(Some("ann")), oldest)]
        {
            let mut world = world(true);
            let connection = world.connect(&connect);
            world.judge(verdict.clone());

            assert_eq!(world.received(connection), [expected], "{verdict:?} in {:?}", connect.version);
            assert!(world.is_closed(connection));
        }
    }
}

#[test]
fn mqtt_5_clients_can_be_told_as_mosquitto_does() {
    let mut world = world(false);
    let access =
        Access { users: users(&[("ann", 1)]), tells_bad_credentials: false, ..Access::open_to(false) };
    world.set_access(access);
    let ann = world.connect(&connect_as("c", "ann", 0));
    world.judge(Verdict::Wrong);

    assert_eq!(world.received(ann), ["CONNACK 0x87"]);
}

#[test]
fn anonymous_is_who_has_no_user_name() {
    for (anonymous, has_users, user, expected) in [
        (true, true, None, "CONNACK 0x00"),
        (false, true, None, "CONNACK 0x87"),
        (true, false, None, "CONNACK 0x00"),
        (false, false, None, "CONNACK 0x87"),
        (true, false, Some("ann"), "CONNACK 0x00"),
        (false, false, Some("ann"), "CONNACK 0x86"),
    ] {
        let mut world = World::new(1);
        let known = has_users.then(|| users(&[("ann", 1)]).unwrap());
        world.set_access(Access { users: known, ..Access::open_to(anonymous) });

        let connection = world.connect(&Connect { username: user, ..connect_v5("c", true, 0) });

        assert_eq!(world.received(connection), [expected], "{anonymous} {has_users} {user:?}");
    }
}

#[test]
fn whose_password_has_no_turn_in_the_time_to_connect_is_told_that_the_broker_is_busy() {
    // [A01]
    for (version, busy) in [(ProtocolVersion::V5, "CONNACK 0x89"), (ProtocolVersion::V311, "CONNACK 0x88")] {
        let mut world = World::with(Settings { connect_seconds_max: 5, ..Settings::default() });
        world.set_access(Access { users: users(&[("ann", 1)]), ..Access::open_to(false) });
        let ann = world.connect(&Connect { version, ..connect_as("c", "ann", 0) });

        world.pass(5_000);

        assert_eq!(world.received(ann), [busy]);
        assert!(world.is_closed(ann));
        world.judge(Verdict::Right(1));
        assert!(world.received(ann).is_empty());
    }
}

#[test]
fn whom_the_transport_has_proved_needs_no_password() {
    let mut world = world(false);
    let ann = world.accept(0, ProtocolVersion::V5);
    world.turn(0, Input::Vouched { connection: ann, user: "device-7" });
    world.send(ann, &Packet::Connect(connect_as("c", "ann", 0)));

    assert!(world.credentials.is_empty());
    assert_eq!(world.received(ann), ["CONNACK 0x00"]);
}

#[test]
fn a_session_belongs_to_the_user_who_began_it() {
    // [C01]
    let mut world = world(true);
    let (ann, _) = join_as(&mut world, "c", "ann", 1);
    world.subscribe(ann, "t", QoS::AtLeastOnce);
    world.received(ann);

    let bob = world.connect(&connect_as("c", "bob", 60));
    world.judge(Verdict::Right(2));
    let nobody = world.connect(&connect_v5("c", true, 60));

    assert_eq!(world.received(bob), ["CONNACK 0x87"]);
    assert_eq!(world.received(nobody), ["CONNACK 0x87"]);
    assert!(!world.is_closed(ann), "the live connection is not touched");

    world.cut(ann);
    let (mut world, _) = world.crash(2);
    world.set_access(Access { users: users(&[("ann", 1), ("bob", 2)]), ..Access::open_to(true) });
    assert_eq!(join_as(&mut world, "c", "bob", 2).1, ["CONNACK 0x87"], "nor after a restart");
    assert_eq!(join_as(&mut world, "c", "ann", 1).1, ["CONNACK 0x00 present"]);
}

#[test]
fn a_session_that_nobody_proved_to_be_theirs_begins_anew_for_a_user() {
    // [C01]
    for claims in [None, Some("ann")] {
        let mut world = World::new(1);
        let stranger = world.connect(&Connect { username: claims, ..connect_v5("c", true, 60) });
        world.subscribe(stranger, "#", QoS::AtLeastOnce);
        world.cut(stranger);
        world.set_access(Access { users: users(&[("ann", 1)]), ..Access::open_to(true) });
        let (publisher, _) = world.join("p", true, 0);
        world.publish(publisher, "t", "for the stranger", QoS::AtLeastOnce, 1);

        let (_, answer) = join_as(&mut world, "c", "ann", 1);

        assert_eq!(answer, ["CONNACK 0x00"], "{claims:?}");
    }
}

#[test]
fn authentication_comes_before_takeover() {
    // [C01]
    let mut world = world(false);
    let (ann, _) = join_as(&mut world, "c", "ann", 1);

    let impostor = world.connect(&connect_as("c", "ann", 60));
    assert!(!world.is_closed(ann));
    world.judge(Verdict::Wrong);

    assert!(!world.is_closed(ann) && world.is_closed(impostor));
}
