//! A retained message is sent only as long as who published it might publish it.

use veilmq_core::{Access, Rule, RuleEffect, Settings, Subject};
use veilmq_protocol::QoS;
use veilmq_simulator::World;

use super::{PUBLISH, RECEIVE, allow, deny, join_as, rule, rules, users};

/// What a new subscriber is sent.
fn brought(world: &mut World) -> Vec<String> {
    let (subscriber, _) = world.join("subscriber", true, 0);
    world.subscribe(subscriber, "#", QoS::AtMostOnce);
    let mut received = world.received(subscriber);
    world.cut(subscriber);
    received.retain(|packet| packet.starts_with("PUBLISH"));
    received
}

fn set_rules(world: &mut World, list: Vec<Rule>) {
    let users = users(&[("ann", 1), ("bob", 1)]);
    world.set_access(Access { users, rules: rules(list, false), ..Access::open_to(true) });
}

fn everything() -> Vec<Rule> {
    vec![allow(PUBLISH, "#"), allow(RECEIVE, "#")]
}

/// A broker with retained messages of ann, of bob, and of a client without a name.
fn world(settings: Settings) -> World {
    let mut world = World::with(settings);
    set_rules(&mut world, everything());
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    let (bob, _) = join_as(&mut world, "b", "bob", 1);
    let (nobody, _) = world.join("n", true, 0);
    world.retain(ann, "of/ann", "m");
    world.retain(bob, "of/bob", "m");
    world.retain(nobody, "of/n", "m");
    world
}

const ANN: &str = "PUBLISH of/ann \"m\" qos0 retain";
const BOB: &str = "PUBLISH of/bob \"m\" qos0 retain";
const NOBODY: &str = "PUBLISH of/n \"m\" qos0 retain";

#[test]
fn what_a_publisher_might_not_publish_any_more_is_not_sent_after_a_restart_either() {
    // [B07]
    for restarts in [false, true] {
        let mut world = world(Settings::default());
        if restarts {
            world = world.crash(1).0;
        }
        let user = |name: &str| Subject::User(name.into());
        for (denied, expected) in [
            (vec![], vec![ANN, BOB, NOBODY]),
            (vec![rule(user("ann"), RuleEffect::Deny, PUBLISH, "of/+")], vec![BOB, NOBODY]),
            (vec![rule(user("bob"), RuleEffect::Deny, PUBLISH, "of/ann")], vec![ANN, BOB, NOBODY]),
            (vec![rule(Subject::Anonymous, RuleEffect::Deny, PUBLISH, "#")], vec![ANN, BOB]),
            (vec![deny(PUBLISH, "of/%u")], vec![NOBODY]),
            (vec![deny(PUBLISH, "of/%c")], vec![ANN, BOB]),
            (vec![deny(PUBLISH, "#")], vec![]),
            (vec![], vec![ANN, BOB, NOBODY]),
        ] {
            set_rules(&mut world, [everything(), denied].concat());

            assert_eq!(brought(&mut world), expected, "restarts: {restarts}");
        }
    }
}

#[test]
fn nobody_asks_where_that_is_not_wanted() {
    let mut world = world(Settings { check_retained_source: false, ..Settings::default() });

    set_rules(&mut world, [everything(), vec![deny(PUBLISH, "#")]].concat());

    assert_eq!(brought(&mut world), [ANN, BOB, NOBODY]);
}
