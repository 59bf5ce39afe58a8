//! The Reason Strings of acknowledgements: one sentence for each refusal, for whoever reads the client's log.
//!
//! A sentence depends on the packet and its Reason Code alone, or on what the client itself sent, so it tells a client no more of
//! others than the code does.

use veilmq_protocol::{Acknowledgement, Packet, PacketType, ReasonCode, SubAck, UnsubAck};

/// Puts the sentence into an acknowledgement that says no, for `why` or for its Reason Code; None for every other packet.
pub(crate) fn explained<'a>(packet: &Packet<'a>, why: Option<&'static str>) -> Option<Packet<'a>> {
    let packet_type = packet.packet_type();
    match *packet {
        Packet::PubAck(ack) => with(packet_type, ack, why).map(Packet::PubAck),
        Packet::PubRec(ack) => with(packet_type, ack, why).map(Packet::PubRec),
        Packet::PubRel(ack) => with(packet_type, ack, why).map(Packet::PubRel),
        Packet::PubComp(ack) => with(packet_type, ack, why).map(Packet::PubComp),
        Packet::SubAck(suback) => {
            let reason = suback.reason_codes().find(|reason| reason.is_error())?;
            let reason_string = Some(sentence(packet_type, reason)?);
            Some(Packet::SubAck(SubAck { reason_string, ..suback }))
        }
        Packet::UnsubAck(unsuback) => {
            let reason = unsuback.reason_codes().find(|reason| reason.is_error())?;
            let reason_string = Some(sentence(packet_type, reason)?);
            Some(Packet::UnsubAck(UnsubAck { reason_string, ..unsuback }))
        }
        Packet::Connect(_)
        | Packet::ConnAck(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::PingResp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => None,
    }
}

fn with<'a>(
    packet: PacketType,
    ack: Acknowledgement<'a>,
    why: Option<&'static str>,
) -> Option<Acknowledgement<'a>> {
    let reason_string = Some(why.or_else(|| sentence(packet, ack.reason))?);
    Some(Acknowledgement { reason_string, ..ack })
}

fn sentence(packet: PacketType, reason: ReasonCode) -> Option<&'static str> {
    Some(match (packet, reason) {
        (PacketType::PubAck | PacketType::PubRec, ReasonCode::QuotaExceeded) => {
            "the broker has no room to keep the message"
        }
        (PacketType::PubAck | PacketType::PubRec, ReasonCode::NotAuthorized) => {
            "not authorised to publish to this topic"
        }
        (PacketType::SubAck, ReasonCode::NotAuthorized) => "not authorised to subscribe to a Topic Filter",
        (PacketType::PubRel | PacketType::PubComp, ReasonCode::PacketIdentifierNotFound) => {
            "no QoS 2 exchange has this Packet Identifier"
        }
        (PacketType::SubAck, ReasonCode::QuotaExceeded) => {
            "there is no room for another subscription of this session"
        }
        (PacketType::SubAck, ReasonCode::TopicFilterInvalid) => {
            "a Topic Filter has more levels than this broker allows"
        }
        _ => return None,
    })
}
