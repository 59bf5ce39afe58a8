//! Where Authentication Data sits in CONNECT, CONNACK and AUTH, and how a handshake ends on either side: with the tag over the
//! whole packet that brings the ServerFinish (VEIL-1 sections 4.4, 4.6 to 4.8).

use super::{
    Established,
    error::HandshakeError,
    handshake_server::Protection,
    record::Side,
    schedule::{ApplicationSecrets, FlightKeys, Transcript},
};
use crate::{
    PACKET_BYTES_MAX, Packet, ProtocolVersion, ReasonCode, next_frame,
    veil::{
        hello::{FINISH_TAG_LEN, ServerFinish, ServerFinishParams},
        registry::AUTHENTICATION_METHOD,
        vmc::Certificate,
    },
};
use core::ops::Range;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The packet that brings a message of the handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// CONNECT, whose Authentication Data may end with a proof over the packet.
    Connect,
    /// CONNACK, after a handshake that began with CONNECT.
    ConnAck,
    /// AUTH with Reason Code 0x00, after one that began with AUTH.
    Auth,
}

/// Where the Authentication Data of a packet is.
pub(super) fn locate(carrier: Carrier, packet: &[u8]) -> Result<Range<usize>, HandshakeError> {
    let (frame, used) = next_frame(packet, PACKET_BYTES_MAX)?.ok_or(HandshakeError::NotCarrier)?;
    if used != packet.len() {
        return Err(HandshakeError::NotCarrier);
    }
    let authentication = match (carrier, Packet::decode(frame, ProtocolVersion::V5)?) {
        (Carrier::Connect, Packet::Connect(connect)) => {
            (connect.properties.authentication_method, connect.properties.authentication_data)
        }
        (Carrier::ConnAck, Packet::ConnAck(connack)) if connack.reason.is_error() => {
            return Err(HandshakeError::Refused(connack.reason));
        }
        (Carrier::ConnAck, Packet::ConnAck(connack)) => {
            (connack.properties.authentication_method, connack.properties.authentication_data)
        }
        (Carrier::Auth, Packet::Auth(auth)) if auth.reason == ReasonCode::Success => (auth.method, auth.data),
        _ => return Err(HandshakeError::NotCarrier),
    };
    let (Some(AUTHENTICATION_METHOD), Some(data)) = authentication else {
        return Err(HandshakeError::FinishMissing);
    };
    // The codec borrows from the packet, so the distance of the addresses is the offset.
    let data_at = data.as_ptr().addr() - packet.as_ptr().addr();
    Ok(data_at..data_at + data.len())
}

/// Where the last `len` bytes of the Authentication Data of a packet are.
pub(super) fn locate_end(
    carrier: Carrier,
    packet: &[u8],
    len: usize,
) -> Result<Range<usize>, HandshakeError> {
    let data = locate(carrier, packet)?;
    if data.len() < len {
        return Err(HandshakeError::FinishMissing);
    }
    Ok(data.end - len..data.end)
}

/// `HMAC(Derive(ack, "mac", "", 32), T3 || packet with these 32 bytes zero)`.
pub(super) fn finish_tag(
    keys: &FlightKeys,
    t3: Transcript,
    packet: &[u8],
    tag: &Range<usize>,
) -> [u8; FINISH_TAG_LEN] {
    let before = packet.get(..tag.start).unwrap_or_default();
    let after = packet.get(tag.end..).unwrap_or_default();
    keys.mac(&[t3.as_bytes(), before, &[0; FINISH_TAG_LEN], after])
}

/// A handshake on the client's side that lacks nothing but the ServerFinish.
pub(super) struct Conclusion {
    pub(super) protection: Protection,
    pub(super) broker: Certificate,
    pub(super) transcript: Transcript,
    pub(super) secrets: ApplicationSecrets,
}

impl Conclusion {
    /// Verifies the tag that ends the Authentication Data at `data` over the whole packet, and opens the broker's parameters.
    pub(super) fn establish(
        self,
        packet: &[u8],
        data: Range<usize>,
        finish: &ServerFinish<'_>,
    ) -> Result<Established, HandshakeError> {
        let keys = FlightKeys::server_finish(&self.secrets.acknowledge);
        let expected = finish_tag(&keys, self.transcript, packet, &(data.end - FINISH_TAG_LEN..data.end));
        if !bool::from(expected.ct_eq(&finish.tag)) {
            return Err(HandshakeError::FinishTag);
        }
        let params = keys
            .open(&self.transcript, finish.params)
            .map_err(|_| HandshakeError::Sealed("broker parameters"))
            .map(Zeroizing::new)?;
        let params = ServerFinishParams::parse(&params)
            .map_err(|error| HandshakeError::Contents("broker parameters", error))?;
        let Self { protection, broker, secrets, .. } = self;
        let mut established = Established::new(Side::Client, protection, broker, secrets, params);
        established.install_groups().map_err(|error| HandshakeError::Contents("group grants", error))?;
        Ok(established)
    }
}
