//! Policies on end-to-end encryption in the pure core: what is refused, with which bytes, and what is counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod stored;

use veilmq_core::{Access, Policies, Policy};
use veilmq_protocol::veil::distribution::scope_tag;
use veilmq_protocol::veil::envelope::{EnvelopeFlags, EnvelopeHeader};
use veilmq_protocol::veil::{Kid, Suite};
use veilmq_protocol::{Packet, ProtocolVersion, Publish, QoS};
use veilmq_simulator::{Conn, World, connect_v5, publish};

const SENDER: Kid = Kid::from_bytes(*b"senderid");
const REJECTED: &str = "veilmq_e2e_rejected_total";

/// A policy that requires envelopes on `f/#` from anybody.
fn policy() -> Policy {
    Policy { sender_binding: false, ..Policy::requiring("factory", "f/#") }
}

fn world_with(policies: Vec<Policy>) -> World {
    let mut world = World::new(1);
    enforce(&mut world, policies);
    world
}

fn enforce(world: &mut World, policies: Vec<Policy>) {
    world.set_access(Access { policies: Policies::new(policies).unwrap(), ..Access::open_to(true) });
}

fn header(seq: u32) -> EnvelopeHeader {
    EnvelopeHeader {
        suite: Suite::Aes256Gcm,
        flags: EnvelopeFlags::default(),
        scope_tag: scope_tag("f/#"),
        epoch: 1,
        sender: SENDER,
        session: 0x0123_4567_89ab_0001,
        seq,
        timestamp_ms: None,
        chunk: None,
    }
}

/// An envelope as nobody can tell from a genuine one who has no key.
fn envelope(header: &EnvelopeHeader) -> Vec<u8> {
    let mut payload = Vec::new();
    header.encode(&mut payload);
    let signature = if header.flags.contains(EnvelopeFlags::SIGNED) { 64 } else { 0 };
    payload.resize(payload.len() + 32 + signature, 0xA5);
    payload
}

/// Sixteen random bytes for an IV, and a block.
fn article() -> Vec<u8> {
    (0..32_u8).map(|byte| byte.wrapping_mul(37) ^ 0xE5).collect()
}

fn join(world: &mut World, client_id: &str) -> Conn {
    let connection = world.connect(&connect_v5(client_id, true, 0));
    world.received(connection);
    connection
}

fn send(world: &mut World, connection: Conn, topic: &str, payload: &[u8], qos: QoS, packet_id: u16) {
    world.send(connection, &Packet::Publish(Publish { payload, ..publish(topic, "", qos, packet_id) }));
}

fn retain(world: &mut World, connection: Conn, topic: &str, payload: &[u8]) {
    let publish = Publish { payload, retain: true, ..publish(topic, "", QoS::AtMostOnce, 0) };
    world.send(connection, &Packet::Publish(publish));
}

/// Sends a message at QoS 1 and returns the Reason Code of its PUBACK.
fn code(world: &mut World, connection: Conn, topic: &str, payload: &[u8]) -> u8 {
    send(world, connection, topic, payload, QoS::AtLeastOnce, 1);
    let puback = world.bytes(connection);
    assert_eq!(puback[0], 0x40, "{puback:02x?}");
    puback.get(4).copied().unwrap_or(0)
}

fn accept(world: &mut World, version: ProtocolVersion) -> Conn {
    world.accept(0, version)
}
