//! Shared Subscriptions (section 4.8.2): one copy for each group, who gets it, and what becomes of it when that session ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod choice;
mod ending;
mod random;
mod subscribing;

use std::num::NonZeroU16;

use veilmq_protocol::{Connect, Packet, QoS};
use veilmq_simulator::{Conn, World, connect_v5};

/// What most members subscribe to.
pub(crate) const GROUP: &str = "$share/g/t";

/// Connects a client that takes part in a group.
pub(crate) fn member(world: &mut World, name: &str, expiry_seconds: u32, qos: QoS) -> Conn {
    let (connection, _) = world.join(name, true, expiry_seconds);
    world.subscribe(connection, GROUP, qos);
    assert_eq!(world.received(connection), [format!("SUBACK [0{}]", qos.value())]);
    connection
}

/// Connects a member with a Receive Maximum.
pub(crate) fn limited_member(
    world: &mut World,
    name: &str,
    expiry_seconds: u32,
    receive_maximum: u16,
) -> Conn {
    let mut connect = connect_v5(name, true, expiry_seconds);
    connect.properties.receive_maximum = NonZeroU16::new(receive_maximum);
    let connection = world.connect(&Connect { ..connect });
    world.subscribe(connection, GROUP, QoS::ExactlyOnce);
    assert_eq!(world.received(connection), ["CONNACK 0x00", "SUBACK [02]"]);
    connection
}

pub(crate) fn publisher(world: &mut World) -> Conn {
    world.join("publisher", true, 0).0
}

/// Publishes one message for each payload; they are numbered from 1.
pub(crate) fn publish_all(world: &mut World, publisher: Conn, payloads: &[&str], qos: QoS) {
    for (number, payload) in (1..).zip(payloads) {
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { number };
        world.publish(publisher, "t", payload, qos, packet_id);
        if qos == QoS::ExactlyOnce {
            world.ack(publisher, Packet::PubRel, packet_id);
        }
    }
}

/// Takes the payloads of the PUBLISH packets that a client has received.
pub(crate) fn payloads(world: &mut World, connection: Conn) -> Vec<String> {
    let received = world.received(connection);
    let published = received.iter().filter(|packet| packet.starts_with("PUBLISH"));
    published.map(|packet| packet.split('"').nth(1).unwrap().to_owned()).collect()
}
