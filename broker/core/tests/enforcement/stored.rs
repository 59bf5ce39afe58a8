//! What was there before a policy, and what is not stored after all.

use veilmq_core::Policy;
use veilmq_protocol::{Connect, PublishProperties, QoS, TopicName, Will};
use veilmq_simulator::{World, connect_v5};

use super::{REJECTED, code, enforce, envelope, header, join, policy, retain, send, world_with};

#[test]
fn what_was_retained_before_the_policy_is_kept_from_subscribers_until_the_policy_goes() {
    let mut world = World::new(1);
    let writer = join(&mut world, "writer");
    retain(&mut world, writer, "f/plain", b"plain");
    retain(&mut world, writer, "f/sealed", &envelope(&header(0)));

    let seen = |world: &mut World| {
        let reader = join(world, "reader");
        world.subscribe(reader, "f/#", QoS::AtMostOnce);
        let received = world.received(reader).len();
        world.cut(reader);
        received - 1
    };
    assert_eq!(seen(&mut world), 2);
    enforce(&mut world, vec![policy()]);
    assert_eq!(seen(&mut world), 1);
    assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", "withheld"), 1);
    // The same after a restart: what is restored passes the same checks.
    let (mut world, _) = world.crash(2);
    enforce(&mut world, vec![policy()]);
    assert_eq!(seen(&mut world), 1);
    enforce(&mut world, Vec::new());
    assert_eq!(seen(&mut world), 2);
}

#[test]
fn a_will_that_came_before_the_policy_is_not_published() {
    let mut world = World::new(1);
    let reader = join(&mut world, "reader");
    world.subscribe(reader, "#", QoS::AtMostOnce);
    world.bytes(reader);
    let will = Some(Will {
        topic: TopicName::new("f/t").unwrap(),
        payload: b"plain",
        qos: QoS::AtMostOnce,
        retain: false,
        delay_seconds: 0,
        properties: PublishProperties::default(),
    });
    let client = world.connect(&Connect { will, ..connect_v5("c", true, 0) });
    enforce(&mut world, vec![policy()]);

    world.cut(client);

    assert_eq!(world.received(reader), [""; 0]);
    assert_eq!(world.policy_sample(REJECTED, "factory", "plaintext"), 1);
}

#[test]
fn what_could_not_be_stored_is_no_repetition_when_it_comes_again() {
    let mut world = world_with(vec![policy()]);
    let (reader, _) = world.join("reader", true, 600);
    world.subscribe(reader, "f/#", QoS::AtLeastOnce);
    world.cut(reader);
    let writer = join(&mut world, "writer");
    world.commits_at_once = false;
    send(&mut world, writer, "f/t", &envelope(&header(0)), QoS::AtLeastOnce, 1);
    world.fail_commits();
    assert!(world.is_closed(writer));
    world.commits_at_once = true;

    let writer = join(&mut world, "writer");
    assert_eq!(code(&mut world, writer, "f/t", &envelope(&header(0))), 0);

    assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", "accepted"), 2);
    assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", "duplicate"), 0);
}

#[test]
fn counters_outlive_a_change_of_policies() {
    let mut world = world_with(vec![policy()]);
    let client = join(&mut world, "c");
    code(&mut world, client, "f/t", b"plain");
    enforce(&mut world, vec![Policy { require_signed: true, ..policy() }]);

    assert_eq!(code(&mut world, client, "f/t", &envelope(&header(0))), 0x99);

    assert_eq!(world.policy_sample(REJECTED, "factory", "plaintext"), 1);
    assert_eq!(world.policy_sample(REJECTED, "factory", "unsigned"), 1);
}

#[test]
fn a_retained_message_is_cleared_by_publishers_of_the_scope_only() {
    let mut world = world_with(vec![Policy::requiring("bound", "b/#"), policy()]);
    let client = join(&mut world, "c");

    retain(&mut world, client, "f/t", &envelope(&header(0)));
    assert_eq!(world.shared.retained_totals().0, 1);
    retain(&mut world, client, "b/t", b"");
    assert_eq!(world.policy_sample(REJECTED, "bound", "clear"), 1, "the client is nobody");
    retain(&mut world, client, "f/t", b"");
    assert_eq!(world.shared.retained_totals().0, 0, "who publishes there is not looked at");
}
