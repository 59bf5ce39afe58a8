//! Where the ServerFinish sits in a CONNACK, and the tag over that whole packet
//! (VEIL-1 section 4.4).

use super::{
    error::HandshakeError,
    schedule::{FlightKeys, Transcript},
};
use crate::{
    PACKET_BYTES_MAX, Packet, ProtocolVersion, next_frame,
    veil::{
        hello::{FINISH_TAG_LEN, ServerFinish},
        registry::AUTHENTICATION_METHOD,
    },
};

/// The ServerFinish of a successful CONNACK, and where its tag begins in the packet.
pub(super) struct ReceivedFinish<'a> {
    pub(super) finish: ServerFinish<'a>,
    pub(super) tag_at: usize,
}

impl<'a> ReceivedFinish<'a> {
    pub(super) fn locate(packet: &'a [u8]) -> Result<Self, HandshakeError> {
        let (frame, used) = next_frame(packet, PACKET_BYTES_MAX)?.ok_or(HandshakeError::NotConnAck)?;
        let Packet::ConnAck(connack) = Packet::decode(frame, ProtocolVersion::V5)? else {
            return Err(HandshakeError::NotConnAck);
        };
        if used != packet.len() {
            return Err(HandshakeError::NotConnAck);
        }
        if connack.reason.is_error() {
            return Err(HandshakeError::Refused(connack.reason));
        }
        let properties = connack.properties;
        let (Some(AUTHENTICATION_METHOD), Some(data)) =
            (properties.authentication_method, properties.authentication_data)
        else {
            return Err(HandshakeError::FinishMissing);
        };
        let finish = ServerFinish::parse(data)?;
        // The codec borrows from the packet, so the distance of the addresses is the offset.
        let data_at = data.as_ptr().addr() - packet.as_ptr().addr();
        Ok(Self { finish, tag_at: data_at + data.len() - FINISH_TAG_LEN })
    }
}

/// `HMAC(Derive(ack, "mac", "", 32), T3 || CONNACK with these 32 bytes zero)`.
pub(super) fn finish_tag(
    keys: &FlightKeys,
    t3: Transcript,
    packet: &[u8],
    tag_at: usize,
) -> [u8; FINISH_TAG_LEN] {
    let (before, rest) = packet.split_at(tag_at);
    let after = rest.get(FINISH_TAG_LEN..).unwrap_or_default();
    keys.mac(&[t3.as_bytes(), before, &[0; FINISH_TAG_LEN], after])
}
