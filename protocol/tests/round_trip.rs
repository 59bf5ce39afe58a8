//! Whatever is encoded decodes to itself, in every version, and arrives only when it is whole.
#![allow(clippy::unwrap_used, reason = "test code")]

mod packets;

use proptest::prelude::*;
use veilmq_protocol::{
    DecodeError, EncodeError, PACKET_BYTES_MAX, Packet,
    ProtocolVersion::{self, V5, V31, V311},
    PublishHead, PublishProperties, frame_len, next_frame,
};

fn encode(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes).unwrap();
    bytes
}

fn check_round_trip(packet: Packet<'_>, version: ProtocolVersion) -> Result<(), TestCaseError> {
    let bytes = encode(&packet, version);
    prop_assert_eq!(packet.encoded_len(version), Ok(bytes.len()));

    let (frame, used) = next_frame(&bytes, PACKET_BYTES_MAX).unwrap().unwrap();

    prop_assert_eq!(used, bytes.len());
    prop_assert_eq!(Packet::decode(frame, version), Ok(packet));
    Ok(())
}

proptest! {
    #[test]
    fn mqtt_5_packets_decode_to_themselves(packet in packets::any_packet(V5)) {
        check_round_trip(packet, V5)?;
    }

    #[test]
    fn mqtt_3_1_1_packets_decode_to_themselves(packet in packets::any_packet(V311)) {
        check_round_trip(packet, V311)?;
    }

    #[test]
    fn mqtt_3_1_packets_decode_to_themselves(packet in packets::any_packet(V31)) {
        check_round_trip(packet, V31)?;
    }

    /// [A05] A declared length beyond what has arrived is waited for, never read past.
    #[test]
    fn a_packet_is_framed_only_when_it_is_whole(packet in packets::any_packet(V5), next in any::<u8>()) {
        let mut bytes = encode(&packet, V5);
        let whole = bytes.len();
        for len in 0..whole {
            prop_assert_eq!(next_frame(&bytes[..len], whole), Ok(None));
        }
        bytes.push(next);

        let (frame, used) = next_frame(&bytes, whole).unwrap().unwrap();

        prop_assert_eq!((used, frame.total_len(), frame_len(&bytes)), (whole, whole, Ok(Some(whole))));
    }

    /// [A02] The limit bites at the fixed header, before the body has arrived.
    #[test]
    fn a_packet_above_the_limit_is_refused_at_its_fixed_header(packet in packets::any_packet(V5)) {
        let bytes = encode(&packet, V5);
        let fixed_len = 1 + bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;

        let refused = next_frame(&bytes[..fixed_len], bytes.len() - 1);

        prop_assert_eq!(refused, Err(DecodeError::PacketTooLarge("Remaining Length")));
    }

    /// A body that ends early is an error or a shorter packet, never a read past the end.
    #[test]
    fn a_shortened_body_never_panics(packet in packets::any_packet(V5), cut in 1_usize..64) {
        let mut bytes = encode(&packet, V5);
        prop_assume!(bytes.len() > 2 && bytes.len() < 130);
        bytes.truncate(bytes.len().saturating_sub(cut).max(2));
        bytes[1] = (bytes.len() - 2) as u8;
        let (frame, _) = next_frame(&bytes, PACKET_BYTES_MAX).unwrap().unwrap();

        if let Ok(shorter) = Packet::decode(frame, V5) {
            check_round_trip(shorter, V5)?;
        }
    }

    #[test]
    fn an_output_buffer_that_is_too_small_stays_untouched(packet in packets::any_packet(V5)) {
        let len = packet.encoded_len(V5).unwrap();
        let mut exact = vec![0xEE; len];
        let mut small = vec![0xEE; len - 1];

        prop_assert_eq!(packet.encode(V5, &mut exact.as_mut_slice()), Ok(()));
        prop_assert_eq!(packet.encode(V5, &mut small.as_mut_slice()), Err(EncodeError::NoRoom("packet")));
        prop_assert!(small.iter().all(|&byte| byte == 0xEE));
    }

    #[test]
    fn application_properties_decode_to_what_a_server_forwards(properties in packets::publish_properties()) {
        let mut bytes = Vec::new();
        properties.encode_application(&mut bytes).unwrap();
        prop_assert_eq!(properties.application_len(), Ok(bytes.len()));

        let forwarded = PublishProperties {
            message_expiry_seconds: None,
            topic_alias: None,
            subscription_ids: PublishProperties::default().subscription_ids,
            ..properties
        };
        prop_assert_eq!(PublishProperties::decode_application(&bytes), Ok(forwarded));
    }

    /// The head of a fan-out and the whole packet are two ways to the same meaning.
    #[test]
    fn a_publish_head_and_its_payload_decode_to_the_publish(publish in packets::publish(V5)) {
        for version in [V5, V311, V31] {
            prop_assume!(version == V5 || publish.topic.is_some());
            let mut application_properties = Vec::new();
            publish.properties.encode_application(&mut application_properties).unwrap();
            let subscription_ids: Vec<u32> = publish.properties.subscription_ids.collect();
            let head = PublishHead {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                packet_id: publish.packet_id,
                topic: publish.topic.map_or(b"", |topic| topic.as_str().as_bytes()),
                topic_alias: publish.properties.topic_alias,
                message_expiry_seconds: publish.properties.message_expiry_seconds,
                subscription_ids: &subscription_ids,
                application_properties: &application_properties,
                payload_len: publish.payload.len(),
            };
            let mut bytes = Vec::new();
            head.encode(version, &mut bytes);
            bytes.extend_from_slice(publish.payload);
            prop_assert_eq!(head.encoded_len(version), bytes.len());

            let (frame, _) = next_frame(&bytes, PACKET_BYTES_MAX).unwrap().unwrap();

            let properties = if version == V5 { publish.properties } else { PublishProperties::default() };
            let expected = veilmq_protocol::Publish { properties, ..publish };
            prop_assert_eq!(Packet::decode(frame, version), Ok(Packet::Publish(expected)));
        }
    }
}
