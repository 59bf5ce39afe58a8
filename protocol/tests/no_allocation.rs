//! Decoding a packet, of any type and valid or not, allocates nothing.
#![allow(clippy::unwrap_used, reason = "test code")]

mod packets;

use core::hint::black_box;

use proptest::prelude::*;
use veilmq_protocol::{
    PACKET_BYTES_MAX, Packet,
    ProtocolVersion::{self, V5, V31, V311},
    next_frame,
};

/// Frames, decodes and walks everything a receiver may look at.
fn decode_and_walk(bytes: &[u8], version: ProtocolVersion) {
    let Ok(Some((frame, _))) = next_frame(bytes, PACKET_BYTES_MAX) else { return };
    match Packet::decode(frame, version) {
        Ok(Packet::Connect(packet)) => walk(packet.properties.user),
        Ok(Packet::Publish(packet)) => {
            walk(packet.properties.user);
            walk(packet.properties.subscription_ids);
        }
        Ok(Packet::Subscribe(packet)) => {
            walk(packet.filters.map(|(filter, options)| (filter.shared(), options)));
        }
        Ok(Packet::Unsubscribe(packet)) => walk(packet.filters),
        Ok(Packet::SubAck(packet)) => walk(packet.reason_codes()),
        other => drop(black_box(other)),
    }
}

fn walk(items: impl Iterator) {
    items.for_each(|item| drop(black_box(item)));
}

fn allocations(bytes: &[u8], version: ProtocolVersion) -> u64 {
    allocation_counter::measure(|| decode_and_walk(bytes, version)).count_total
}

#[test]
fn the_counter_sees_an_allocation() {
    assert_eq!(allocation_counter::measure(|| drop(black_box(Box::new(1_u8)))).count_total, 1);
}

proptest! {
    #[test]
    fn decoding_a_valid_packet_allocates_nothing(
        (version, packet) in prop_oneof![Just(V5), Just(V311), Just(V31)]
            .prop_flat_map(|version| (Just(version), packets::any_packet(version))),
    ) {
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();

        prop_assert_eq!(allocations(&bytes, version), 0);
    }

    #[test]
    fn refusing_a_damaged_packet_allocates_nothing(
        packet in packets::any_packet(V5),
        damage in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        packet.encode(V5, &mut bytes).unwrap();
        let position = damage.index(bytes.len());
        bytes[position] = value;

        prop_assert_eq!(allocations(&bytes, V5), 0);
    }
}
