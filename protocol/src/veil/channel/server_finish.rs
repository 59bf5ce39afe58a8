//! Where the ServerFinish sits in a CONNACK or AUTH, and the tag over that whole packet
//! (VEIL-1 sections 4.4 and 4.8).

use super::{
    error::HandshakeError,
    schedule::{FlightKeys, Transcript},
};
use crate::{
    PACKET_BYTES_MAX, Packet, ProtocolVersion, ReasonCode, next_frame,
    veil::{
        hello::{FINISH_TAG_LEN, ServerFinish},
        registry::AUTHENTICATION_METHOD,
    },
};

/// The packet that brings a ServerFinish.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// CONNACK, after a handshake that began with CONNECT.
    ConnAck,
    /// AUTH with Reason Code 0x00, after one that began with AUTH.
    Auth,
}

/// The ServerFinish of a successful packet, and where its tag begins in the packet.
pub(super) struct ReceivedFinish<'a> {
    pub(super) finish: ServerFinish<'a>,
    pub(super) tag_at: usize,
}

impl<'a> ReceivedFinish<'a> {
    pub(super) fn locate(carrier: Carrier, packet: &'a [u8]) -> Result<Self, HandshakeError> {
        let (frame, used) = next_frame(packet, PACKET_BYTES_MAX)?.ok_or(HandshakeError::NotCarrier)?;
        if used != packet.len() {
            return Err(HandshakeError::NotCarrier);
        }
        let authentication = match (carrier, Packet::decode(frame, ProtocolVersion::V5)?) {
            (Carrier::ConnAck, Packet::ConnAck(connack)) if connack.reason.is_error() => {
                return Err(HandshakeError::Refused(connack.reason));
            }
            (Carrier::ConnAck, Packet::ConnAck(connack)) => {
                (connack.properties.authentication_method, connack.properties.authentication_data)
            }
            (Carrier::Auth, Packet::Auth(auth)) if auth.reason == ReasonCode::Success => {
                (auth.method, auth.data)
            }
            _ => return Err(HandshakeError::NotCarrier),
        };
        let (Some(AUTHENTICATION_METHOD), Some(data)) = authentication else {
            return Err(HandshakeError::FinishMissing);
        };
        let finish = ServerFinish::parse(data)?;
        // The codec borrows from the packet, so the distance of the addresses is the offset.
        let data_at = data.as_ptr().addr() - packet.as_ptr().addr();
        Ok(Self { finish, tag_at: data_at + data.len() - FINISH_TAG_LEN })
    }
}

/// `HMAC(Derive(ack, "mac", "", 32), T3 || packet with these 32 bytes zero)`.
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
