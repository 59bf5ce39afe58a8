//! Limits that change while the broker runs.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use veilmq_core::Settings;
use veilmq_protocol::QoS;
use veilmq_simulator::World;

fn change(world: &mut World, change: impl FnOnce(&mut Settings)) {
    let mut settings = (**world.shared.settings()).clone();
    change(&mut settings);
    world.set_settings(settings);
}

#[test]
fn a_payload_is_held_against_the_limit_of_now() {
    let mut world = World::new(2);
    let (client, _) = world.join("c", true, 0);
    let answers = |world: &mut World, packet_id| {
        world.publish(client, "t", "12345", QoS::AtLeastOnce, packet_id);
        world.received(client)
    };

    assert_eq!(answers(&mut world, 1), ["PUBACK id1 0x10"]);
    change(&mut world, |settings| settings.payload_bytes_max = 4);
    assert_eq!(answers(&mut world, 2), ["PUBACK id2 0x83"]);
    change(&mut world, |settings| settings.payload_bytes_max = 5);
    assert_eq!(answers(&mut world, 3), ["PUBACK id3 0x10"]);
}

#[test]
fn a_queue_takes_as_much_as_the_limit_of_now_allows_and_keeps_what_it_has() {
    let mut world = World::new(2);
    let (client, _) = world.join("c", false, 600);
    world.subscribe(client, "t", QoS::AtLeastOnce);
    world.cut(client);
    let (publisher, _) = world.join("p", true, 0);
    let publish = |world: &mut World, packet_id: u16| {
        world.publish(publisher, "t", &packet_id.to_string(), QoS::AtLeastOnce, packet_id);
    };

    publish(&mut world, 1);
    publish(&mut world, 2);
    change(&mut world, |settings| settings.session_queue_messages_max = 1);
    publish(&mut world, 3);
    change(&mut world, |settings| settings.session_queue_messages_max = 3);
    publish(&mut world, 4);

    let (client, _) = world.join("c", false, 600);
    let received = world.received(client);
    let payloads: Vec<&str> = received.iter().filter_map(|packet| packet.split('"').nth(1)).collect();
    assert_eq!(payloads, ["1", "2", "4"]);
}

#[test]
fn a_client_that_connects_has_as_much_in_flight_as_the_limit_of_now_allows() {
    for (inflight_max, expected) in [(2, 2), (1, 1)] {
        let mut world = World::new(1);
        change(&mut world, |settings| settings.inflight_max = inflight_max);
        let (client, _) = world.join("c", true, 0);
        world.subscribe(client, "t", QoS::AtLeastOnce);
        world.received(client);
        let (publisher, _) = world.join("p", true, 0);

        for packet_id in 1..=3 {
            world.publish(publisher, "t", "m", QoS::AtLeastOnce, packet_id);
        }

        assert_eq!(world.received(client).len(), expected);
    }
}
