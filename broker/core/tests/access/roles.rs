//! Roles: what they allow and deny, and what becomes of clients when they change.

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_core::{
    Access, ControlTopics, EntranceId, Holder, Role, RoleDefaults, RoleRule, Roles, Rules, Template,
};
use veilmq_protocol::{
    Packet, PacketId, ProtocolVersion, QoS, TopicFilter, Unsubscribe, UnsubscribeFiltersBuf,
};
use veilmq_simulator::{Conn, World};

use super::{connect_as, join_as, users};

/// What a role of a test says: the kind of question, the topics, and whether it is allowed.
pub(super) type Line = (char, &'static str, bool);

pub(super) fn role(lines: &[Line]) -> Arc<Role> {
    let mut role = Role::default();
    for (kind, text, allow) in lines {
        let rule = || RoleRule::new(Template::with_groups(text).unwrap(), *allow);
        match kind {
            'p' => role.publish.push(rule()),
            'r' => role.receive.push(rule()),
            's' => role.subscribe.push(rule()),
            'u' => role.unsubscribe.push(rule()),
            kind => panic!("there is no kind {kind}"),
        }
    }
    Arc::new(role)
}

/// A broker with the user ann, who has one role.
pub(super) fn access(lines: &[Line], seat: u64) -> Access {
    let holder = Holder { roles: [role(lines)].into(), seat };
    let defaults = RoleDefaults { publish: false, receive: true, subscribe: false, unsubscribe: true };
    let roles =
        Roles { users: HashMap::from([("ann".into(), holder)]), anonymous: Holder::default(), defaults };
    Access {
        users: users(&[("ann", 1)]),
        rules: Some(Rules::by_roles(roles)),
        controls: ControlTopics { dynamic_security: true, broker: false },
        ..Access::open_to(true)
    }
}

fn unsubscribe(world: &mut World, connection: Conn, filter: &str) {
    let mut filters = UnsubscribeFiltersBuf::default();
    filters.push(TopicFilter::new(filter).unwrap());
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: PacketId::new(9).unwrap(),
        user: Default::default(),
        filters: filters.as_filters(),
    });
    world.send(connection, &packet);
}

#[test]
fn an_unsubscribe_that_is_denied_changes_nothing_where_the_client_can_be_told() {
    let mut world = World::new(1);
    world.set_access(access(&[('s', "#", true), ('u', "kept", false), ('p', "#", true)], 1));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    world.subscribe(ann, "kept", QoS::AtMostOnce);
    world.received(ann);

    unsubscribe(&mut world, ann, "kept");
    world.publish(ann, "kept", "still", QoS::AtMostOnce, 0);

    assert_eq!(world.received(ann), ["UNSUBACK [87]", "PUBLISH kept \"still\" qos0"]);
    // MQTT 3.1.1 has no word for it in UNSUBACK, so there the subscription ends ([MQTT311-3.10.4-1]).
    let request = veilmq_protocol::Connect { version: ProtocolVersion::V311, ..connect_as("old", "ann", 0) };
    let old = world.connect(&request);
    world.judge(veilmq_core::Verdict::Right(1));
    world.subscribe(old, "kept", QoS::AtMostOnce);
    unsubscribe(&mut world, old, "kept");
    world.received(old);
    world.publish(ann, "kept", "gone", QoS::AtMostOnce, 0);
    assert_eq!(world.received(old), [""; 0]);
}

#[test]
fn clients_whose_roles_have_changed_are_told_so_and_others_stay() {
    let mut world = World::new(2);
    world.set_access(access(&[('s', "#", true)], 1));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    let (other, _) = world.join("other", true, 0);

    world.set_access(access(&[('s', "#", true)], 1));
    assert!(!world.is_closed(ann), "nothing has changed");
    world.set_access(access(&[('s', "t", true)], 2));

    assert_eq!(world.received(ann), ["DISCONNECT 0x98"]);
    assert!(!world.is_closed(other));
}

#[test]
fn a_client_that_comes_before_its_shard_was_told_of_a_change_finds_it_in_force_and_stays() {
    let mut world = World::new(1);
    world.set_access(access(&[], 1));
    let (earlier, _) = join_as(&mut world, "earlier", "ann", 1);

    world.shared.set_access(access(&[('s', "t", true)], 2));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    world.subscribe(ann, "t", QoS::AtMostOnce);
    assert_eq!(world.received(ann), ["SUBACK [00]"]);
    assert_eq!(world.received(earlier), ["DISCONNECT 0x98"]);

    world.tell_access();
    assert!(!world.is_closed(ann));
}

#[test]
fn a_user_that_is_gone_is_disconnected_by_its_administrator() {
    let mut world = World::new(1);
    world.set_access(access(&[('s', "#", true)], 1));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);

    let mut after = access(&[], 1);
    after.users = users(&[]);
    after.rules = Some(Rules::by_roles(Roles::default()));
    world.set_access(after);

    assert_eq!(world.received(ann), ["DISCONNECT 0x98"]);
}

#[test]
fn a_subscription_ends_that_the_client_may_not_have_when_it_comes_back() {
    let mut world = World::new(1);
    let elsewhere = access(&[('s', "b", true)], 1);
    world.set_access(vec![access(&[('s', "#", true), ('p', "#", true)], 1), elsewhere]);
    let (mut ann, _) = join_as(&mut world, "a", "ann", 1);
    for filter in ["a", "b"] {
        world.subscribe(ann, filter, QoS::AtMostOnce);
    }

    for entrance in [1, 0] {
        world.cut(ann);
        world.entrance = EntranceId(entrance);
        ann = join_as(&mut world, "a", "ann", 1).0;
    }
    for (topic, packet_id) in [("a", 1), ("b", 2)] {
        world.publish(ann, topic, "m", QoS::AtLeastOnce, packet_id);
    }

    assert_eq!(world.received(ann), ["PUBACK id1 0x10", "PUBLISH b \"m\" qos0", "PUBACK id2"]);
}

#[test]
fn a_subscription_that_is_not_allowed_any_more_ends_and_others_go_on() {
    // [B07]
    let mut world = World::new(1);
    world.set_access(access(&[('s', "#", true), ('p', "#", true)], 1));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    for filter in ["secret/#", "open/#", "$share/g/secret/x"] {
        world.subscribe(ann, filter, QoS::AtLeastOnce);
    }
    world.received(ann);

    // No seat changes, so the connection stays.
    world.set_access(access(&[('s', "open/#", true), ('p', "#", true)], 1));
    for topic in ["secret/x", "open/x"] {
        world.publish(ann, topic, "m", QoS::AtMostOnce, 0);
    }

    assert_eq!(world.received(ann), ["PUBLISH open/x \"m\" qos0"]);
    assert_eq!(world.sample("veilmq_subscriptions", ""), 1);
}

#[test]
fn a_subscription_that_ended_while_its_client_was_away_is_not_there_after_a_restart() {
    // [B07]
    let mut world = World::new(1);
    world.set_access(access(&[('s', "#", true), ('p', "#", true)], 1));
    let (ann, _) = join_as(&mut world, "a", "ann", 1);
    world.subscribe(ann, "secret", QoS::AtLeastOnce);
    world.cut(ann);

    world.set_access(access(&[('s', "open", true), ('p', "#", true)], 2));
    world.set_access(access(&[('s', "#", true), ('p', "#", true)], 3));
    let (publisher, _) = join_as(&mut world, "p", "ann", 1);
    world.publish(publisher, "secret", "m", QoS::AtLeastOnce, 1);
    assert_eq!(world.received(publisher), ["PUBACK id1 0x10"]);
}
