//! Who may connect, what clients may do, and what is taken back from them: in the pure core, with verdicts that the tests give.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridges;
mod certificates;
mod control;
mod retained;
mod revocation;
mod roles;
mod rules;
mod users;
mod vouchers;

use std::collections::HashMap;

use veilmq_core::{Access, Actions, Rule, RuleEffect, RuleStage, Rules, Subject, Template};
use veilmq_protocol::{Connect, PublishProperties, QoS, TopicName, Will};
use veilmq_simulator::{Conn, World, connect_v5};

const PUBLISH: Actions = Actions { publish: true, receive: false };
const RECEIVE: Actions = Actions { publish: false, receive: true };

/// Users whose passwords are checked; the number says which entry it is.
fn users(users: &[(&str, u64)]) -> Option<HashMap<std::sync::Arc<str>, u64>> {
    Some(users.iter().map(|(name, stamp)| ((*name).into(), *stamp)).collect())
}

fn rule(subject: Subject, effect: RuleEffect, actions: Actions, filter: &str) -> Rule {
    Rule { subject, effect, actions, filter: Template::new(filter).unwrap() }
}

fn allow(actions: Actions, filter: &str) -> Rule {
    rule(Subject::Everyone, RuleEffect::Allow, actions, filter)
}

fn deny(actions: Actions, filter: &str) -> Rule {
    rule(Subject::Everyone, RuleEffect::Deny, actions, filter)
}

fn rules(rules: Vec<Rule>, strict: bool) -> Option<Rules> {
    Some(Rules::new(vec![RuleStage { rules, denies_wildcard_names: false }], strict))
}

/// A broker that lets everybody in and allows what these rules say.
fn world_with(list: Vec<Rule>, strict: bool) -> World {
    let mut world = World::new(1);
    world.set_access(Access { rules: rules(list, strict), ..Access::open_to(true) });
    world
}

fn connect_as<'a>(client_id: &'a str, user: &'a str, session_expiry_seconds: u32) -> Connect<'a> {
    let password: &[u8] = b"secret";
    Connect {
        username: Some(user),
        password: Some(password),
        ..connect_v5(client_id, false, session_expiry_seconds)
    }
}

/// Connects as a user whose password is right, and takes CONNACK.
fn join_as(world: &mut World, client_id: &str, user: &str, stamp: u64) -> (Conn, Vec<String>) {
    let connection = world.connect(&connect_as(client_id, user, 60));
    world.judge(veilmq_core::Verdict::Right(stamp));
    let answer = world.received(connection);
    (connection, answer)
}

fn will<'a>(topic: &'a str, delay_seconds: u32) -> Option<Will<'a>> {
    Some(Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TopicName::new(topic).unwrap(),
        payload: b"gone",
        delay_seconds,
        properties: PublishProperties::default(),
    })
}
