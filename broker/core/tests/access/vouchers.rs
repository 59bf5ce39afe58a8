//! Users that somebody vouches for, for a while.

use veilmq_core::{Access, Actions, Rule, Terms, Verdict};
use veilmq_protocol::{Connect, QoS};
use veilmq_simulator::{Conn, World};

use super::{PUBLISH, RECEIVE, allow, connect_as, rules, users, will};

fn access(authorities: &[u64]) -> Access {
    Access { authorities: authorities.into(), users: users(&[("file", 1)]), ..Access::open_to(true) }
}

/// Connects as ann, for whom somebody vouches for so long; takes CONNACK.
fn join(world: &mut World, client_id: &str, authority: u64, milliseconds: u64) -> (Conn, Vec<String>) {
    let connect = Connect { will: will("w", 0), ..connect_as(client_id, "ann", 60) };
    let connection = world.connect(&connect);
    let until = world.now() + milliseconds;
    world.judge(Verdict::Vouched { user: "ann".into(), authority, terms: Terms::until(until) });
    let answer = world.received(connection);
    (connection, answer)
}

#[test]
fn a_connection_ends_with_the_voucher_and_its_will_is_still_published() {
    let mut world = World::new(1);
    world.set_access(access(&[7]));
    let (watcher, _) = world.join("watcher", true, 0);
    world.subscribe(watcher, "w", QoS::AtMostOnce);
    world.received(watcher);
    let (ann, connack) = join(&mut world, "a", 7, 10_000);
    assert!(connack[0].starts_with("CONNACK 0x00"), "{connack:?}");

    world.pass(9_999);
    assert!(!world.is_closed(ann));
    world.pass(2);

    assert_eq!(world.received(ann), ["DISCONNECT 0x87"]);
    assert!(world.is_closed(ann));
    assert_eq!(world.received(watcher).len(), 1);
}

#[test]
fn a_voucher_is_worth_nothing_once_who_gave_it_is_not_believed() {
    // [B07]
    let mut world = World::new(1);
    world.set_access(access(&[7, 8]));
    let (first, _) = join(&mut world, "a", 7, 10_000);
    let (second, _) = join(&mut world, "b", 8, 10_000);

    world.set_access(access(&[8]));

    assert_eq!(world.received(first), ["DISCONNECT 0x87"]);
    assert!(!world.is_closed(second));
    let (_, connack) = join(&mut world, "a", 7, 10_000);
    assert_eq!(connack, ["CONNACK 0x86"]);
    let (_, connack) = join(&mut world, "a", 8, 10_000);
    assert!(connack[0].starts_with("CONNACK 0x00"), "{connack:?}");
}

/// What a service says of ann: these rules, to be asked for again after a second, and over after three.
fn terms(world: &World, list: Vec<Rule>) -> Terms {
    let now = world.now();
    Terms { rules: rules(list, true), renew_at: Some(now + 1_000), until: Some(now + 3_000) }
}

fn world_of_service() -> World {
    let mut world = World::new(2);
    let access = Access { authorities_bring_rules: true, rules: rules(Vec::new(), true), ..access(&[7]) };
    world.set_access(access);
    world
}

/// Connects as ann with what the service says of her; returns what comes behind CONNACK too.
fn join_with(world: &mut World, client_id: &str, list: Vec<Rule>) -> (Conn, Vec<String>) {
    let connection = world.connect(&connect_as(client_id, "ann", 60));
    let terms = terms(world, list);
    world.judge(Verdict::Vouched { user: "ann".into(), authority: 7, terms });
    let mut received = world.received(connection);
    assert!(received[0].starts_with("CONNACK 0x00"), "{received:?}");
    received.remove(0);
    (connection, received)
}

fn join_on(world: &mut World, client_id: &str, list: Vec<Rule>) -> Conn {
    join_with(world, client_id, list).0
}

#[test]
fn rules_that_come_with_a_voucher_take_the_place_of_the_others() {
    let mut world = world_of_service();
    let ann = join_on(&mut world, "a", vec![allow(PUBLISH, "%u/#"), allow(RECEIVE, "%c")]);

    world.publish(ann, "ann/x", "m", QoS::AtLeastOnce, 1);
    world.publish(ann, "bob/x", "m", QoS::AtLeastOnce, 2);
    assert_eq!(world.received(ann), ["PUBACK id1 0x10", "PUBACK id2 0x87"]);
    world.subscribe(ann, "a", QoS::AtMostOnce);
    world.subscribe(ann, "ann/x", QoS::AtMostOnce);
    assert_eq!(world.received(ann), ["SUBACK [00]", "SUBACK [87]"]);

    // A change of the tables leaves them.
    world.set_access(Access {
        authorities_bring_rules: true,
        rules: rules(vec![allow(PUBLISH, "bob/x")], true),
        ..access(&[7])
    });
    world.publish(ann, "ann/x", "m", QoS::AtLeastOnce, 3);
    world.publish(ann, "bob/x", "m", QoS::AtLeastOnce, 4);
    assert_eq!(world.received(ann), ["PUBACK id3 0x10", "PUBACK id4 0x87"]);
}

#[test]
fn a_voucher_is_asked_for_again_and_what_it_says_then_holds_for_a_live_subscription() {
    // [B07]
    let mut world = world_of_service();
    let ann = join_on(&mut world, "a", vec![allow(Actions::ALL, "t")]);
    world.subscribe(ann, "t", QoS::AtMostOnce);
    world.received(ann);
    world.pass(1_001);
    assert!(!world.is_closed(ann), "it waits for no answer");
    world.publish(ann, "t", "old", QoS::AtMostOnce, 0);
    assert_eq!(world.received(ann), ["PUBLISH t \"old\" qos0"]);

    let terms = terms(&world, vec![allow(PUBLISH, "t")]);
    world.judge(Verdict::Vouched { user: "ann".into(), authority: 7, terms });

    world.publish(ann, "t", "new", QoS::AtMostOnce, 0);
    assert!(world.received(ann).is_empty());
    world.pass(2_500);
    assert!(!world.is_closed(ann), "the time of the first answer does not count any more");
}

#[test]
fn a_voucher_that_is_taken_back_ends_the_connection_and_the_will_message_goes_nowhere() {
    // [B07]
    let mut world = world_of_service();
    let watcher = join_on(&mut world, "watcher", vec![allow(RECEIVE, "w")]);
    world.subscribe(watcher, "w", QoS::AtMostOnce);
    world.received(watcher);
    let ann = world.connect(&Connect { will: will("w", 0), ..connect_as("a", "ann", 60) });
    let mut terms = terms(&world, vec![allow(PUBLISH, "w")]);
    // Only this one is to be renewed first.
    terms.renew_at = Some(world.now() + 500);
    world.judge(Verdict::Vouched { user: "ann".into(), authority: 7, terms });
    world.received(ann);
    world.pass(501);

    world.judge(Verdict::Wrong);

    assert_eq!(world.received(ann), ["DISCONNECT 0x87"]);
    assert!(world.received(watcher).is_empty());
}

#[test]
fn what_nobody_can_say_now_is_asked_again_until_its_time_is_over() {
    let mut world = world_of_service();
    let ann = join_on(&mut world, "a", vec![allow(PUBLISH, "t")]);
    world.pass(1_001);
    world.judge(Verdict::Busy);
    world.pass(1_900);
    assert!(!world.is_closed(ann));

    world.pass(200);

    assert_eq!(world.received(ann), ["DISCONNECT 0x87"]);
}

#[test]
fn a_session_of_before_the_start_gets_what_it_may_have_once_its_client_is_vouched_for_again() {
    let mut world = world_of_service();
    let ann = join_on(&mut world, "a", vec![allow(RECEIVE, "#")]);
    world.subscribe(ann, "#", QoS::AtLeastOnce);
    world.cut(ann);
    world = world.crash(2).0;
    world.set_access(Access { authorities_bring_rules: true, ..access(&[7]) });
    let publisher = join_on(&mut world, "p", vec![allow(PUBLISH, "#")]);
    for (packet_id, topic) in (1..).zip(["one", "two"]) {
        world.publish(publisher, topic, "m", QoS::AtLeastOnce, packet_id);
    }

    let (_, received) = join_with(&mut world, "a", vec![allow(RECEIVE, "two")]);

    assert_eq!(received, ["PUBLISH two \"m\" qos1 id2"]);
}

#[test]
fn what_a_client_with_rules_of_its_own_has_retained_stays_when_it_is_gone() {
    let mut world = world_of_service();
    let ann = join_on(&mut world, "a", vec![allow(PUBLISH, "t")]);
    world.retain(ann, "t", "m");
    world.cut(ann);

    let reader = join_on(&mut world, "r", vec![allow(RECEIVE, "t")]);
    world.subscribe(reader, "t", QoS::AtMostOnce);

    assert!(world.received(reader).iter().any(|packet| packet.starts_with("PUBLISH t")));
}

/// What a new subscriber is sent, whom the file knows.
fn brought(world: &mut World) -> Vec<String> {
    let connection = world.connect(&connect_as("r", "file", 0));
    world.judge(Verdict::Right(1));
    world.subscribe(connection, "#", QoS::AtMostOnce);
    let mut received = world.received(connection);
    world.cut(connection);
    received.retain(|packet| packet.starts_with("PUBLISH"));
    received
}

#[test]
fn what_is_retained_is_held_against_what_was_said_last_of_its_publisher() {
    // [B07]
    let set_access = |world: &mut World| {
        let own = rules(vec![allow(RECEIVE, "#")], true);
        world.set_access(Access { authorities_bring_rules: true, rules: own, ..access(&[7]) });
    };
    let everything = || vec![allow(PUBLISH, "t/#")];
    let mut world = World::new(2);
    set_access(&mut world);
    let ann = join_on(&mut world, "a", everything());
    world.retain(ann, "t/1", "m");
    world.retain(ann, "t/2", "m");
    let both = ["PUBLISH t/1 \"m\" qos0 retain", "PUBLISH t/2 \"m\" qos0 retain"];
    assert_eq!(brought(&mut world), both);

    // A renewal takes one away, while she is connected.
    world.pass(1_000);
    let fewer = terms(&world, vec![allow(PUBLISH, "t/2")]);
    world.judge(Verdict::Vouched { user: "ann".into(), authority: 7, terms: fewer });
    assert_eq!(brought(&mut world), both[1..]);
    world.cut(ann);
    world.pass(100_000);
    assert_eq!(brought(&mut world), both[1..], "her session is over");

    // A login as somebody else, or one that is refused, says nothing of her.
    let eve = world.connect(&connect_as("a", "ann", 0));
    world.judge(Verdict::Wrong);
    assert_eq!(world.received(eve), ["CONNACK 0x86"]);
    let other = join_on(&mut world, "other", Vec::new());
    world.cut(other);
    assert_eq!(brought(&mut world), both[1..]);

    // What is said at another login holds for what was retained before.
    let ann = join_on(&mut world, "a", everything());
    assert_eq!(brought(&mut world), both);

    // She is denied altogether.
    world.pass(1_000);
    world.judge(Verdict::Wrong);
    assert_eq!(world.received(ann).last().map(String::as_str), Some("DISCONNECT 0x87"));
    assert!(brought(&mut world).is_empty());

    // After a restart nothing is known, until she comes back.
    let mut world = world.crash(1).0;
    set_access(&mut world);
    assert_eq!(brought(&mut world), both);
    join_on(&mut world, "a", vec![allow(PUBLISH, "t/1")]);
    assert_eq!(brought(&mut world), both[..1]);

    // Where nobody brings rules any more, those of the file hold.
    world.set_access(Access { rules: rules(vec![allow(RECEIVE, "#")], true), ..access(&[7]) });
    assert!(brought(&mut world).is_empty());
}

#[test]
fn what_was_said_of_a_publisher_is_forgotten_with_its_last_message_and_kept_when_that_is_replaced() {
    let mut world = World::new(1);
    let own = rules(vec![allow(RECEIVE, "#"), allow(PUBLISH, "t")], true);
    world.set_access(Access { authorities_bring_rules: true, rules: own, ..access(&[7]) });
    let ann = join_on(&mut world, "a", vec![allow(PUBLISH, "t")]);
    world.retain(ann, "t", "one");
    world.retain(ann, "t", "two");
    assert_eq!(brought(&mut world), ["PUBLISH t \"two\" qos0 retain"]);
    world.pass(1_000);
    let none = terms(&world, Vec::new());
    world.judge(Verdict::Vouched { user: "ann".into(), authority: 7, terms: none });
    assert!(brought(&mut world).is_empty());

    // Somebody else's message takes its place.
    let file = world.connect(&connect_as("f", "file", 60));
    world.judge(Verdict::Right(1));
    world.retain(file, "t", "three");

    assert_eq!(brought(&mut world), ["PUBLISH t \"three\" qos0 retain"]);
}

#[test]
fn a_client_with_a_password_and_no_user_name_is_whoever_is_vouched_for() {
    let unnamed = || Connect { username: None, ..connect_as("a", "", 60) };
    let own = rules(vec![allow(PUBLISH, "%u")], true);
    for (verdict, code) in [
        (Verdict::Vouched { user: "ann".into(), authority: 7, terms: Terms::default() }, "CONNACK 0x00"),
        (Verdict::Vouched { user: "".into(), authority: 7, terms: Terms::default() }, "CONNACK 0x86"),
        (Verdict::Right(1), "CONNACK 0x86"),
        (Verdict::Wrong, "CONNACK 0x86"),
    ] {
        let mut world = World::new(1);
        world.set_access(Access { rules: own.clone(), authorities_name_users: true, ..access(&[7]) });
        let connection = world.connect(&unnamed());
        world.judge(verdict);

        let connack = world.received(connection);
        assert!(connack[0].starts_with(code), "{connack:?}");
        if code == "CONNACK 0x00" {
            world.publish(connection, "ann", "m", QoS::AtLeastOnce, 1);
            world.publish(connection, "bob", "m", QoS::AtLeastOnce, 2);
            assert_eq!(world.received(connection), ["PUBACK id1 0x10", "PUBACK id2 0x87"]);
        }
    }
    // Where nobody says who that is, it is nobody in particular.
    let mut world = World::new(1);
    world.set_access(access(&[7]));
    let connection = world.connect(&unnamed());
    assert!(world.received(connection)[0].starts_with("CONNACK 0x00"));
}
