//! The sum of the fifteen MQTT Control Packets, and the two ways between it and bytes.

use bytes::BufMut;

use crate::{
    Acknowledgement, Auth, ConnAck, Connect, DecodeError, Disconnect, EncodeError, Frame, PacketType,
    ProtocolVersion, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe,
    sink::{self, Body, Sink},
};

/// One MQTT Control Packet, borrowing its strings and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Connection request.
    Connect(Connect<'a>),
    /// Connect acknowledgment.
    ConnAck(ConnAck<'a>),
    /// Publish message.
    Publish(Publish<'a>),
    /// Publish acknowledgment (QoS 1).
    PubAck(Acknowledgement<'a>),
    /// Publish received (QoS 2, part 1).
    PubRec(Acknowledgement<'a>),
    /// Publish release (QoS 2, part 2).
    PubRel(Acknowledgement<'a>),
    /// Publish complete (QoS 2, part 3).
    PubComp(Acknowledgement<'a>),
    /// Subscribe request.
    Subscribe(Subscribe<'a>),
    /// Subscribe acknowledgment.
    SubAck(SubAck<'a>),
    /// Unsubscribe request.
    Unsubscribe(Unsubscribe<'a>),
    /// Unsubscribe acknowledgment.
    UnsubAck(UnsubAck<'a>),
    /// PING request.
    PingReq,
    /// PING response.
    PingResp,
    /// Disconnect notification.
    Disconnect(Disconnect<'a>),
    /// Authentication exchange.
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Reads a framed packet. A CONNECT carries its own version, and `version` is then ignored.
    ///
    /// # Errors
    /// The first fault found; [`DecodeError::reason`] says how to answer it.
    pub fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let (packet_type, body) = (frame.packet_type(), frame.body);
        let acknowledgement = || Acknowledgement::decode(frame, version);
        let flagged = || check_flags(frame, version);
        Ok(match packet_type {
            PacketType::Connect => Self::Connect(Connect::decode(body)?),
            PacketType::ConnAck => Self::ConnAck(ConnAck::decode(body, version)?),
            PacketType::Publish => Self::Publish(Publish::decode(frame, version)?),
            PacketType::PubAck => Self::PubAck(acknowledgement()?),
            PacketType::PubRec => Self::PubRec(acknowledgement()?),
            PacketType::PubRel => Self::PubRel(acknowledgement()?),
            PacketType::PubComp => Self::PubComp(acknowledgement()?),
            PacketType::Subscribe => {
                Self::Subscribe(flagged().and_then(|()| Subscribe::decode(body, version))?)
            }
            PacketType::SubAck => Self::SubAck(SubAck::decode(body, version)?),
            PacketType::Unsubscribe => {
                Self::Unsubscribe(flagged().and_then(|()| Unsubscribe::decode(body, version))?)
            }
            PacketType::UnsubAck => Self::UnsubAck(UnsubAck::decode(body, version)?),
            PacketType::PingReq => no_body(frame).map(|()| Self::PingReq)?,
            PacketType::PingResp => no_body(frame).map(|()| Self::PingResp)?,
            PacketType::Disconnect => Self::Disconnect(Disconnect::decode(body, version)?),
            PacketType::Auth => Self::Auth(Auth::decode(body, version)?),
        })
    }

    /// The number of User Properties, those of a Will Message included.
    #[must_use]
    pub fn user_property_count(&self) -> usize {
        let user = match self {
            Self::Connect(packet) => {
                let will = packet.will.map_or(0, |will| will.properties.user.len());
                return packet.properties.user.len() + will;
            }
            Self::ConnAck(packet) => packet.properties.user,
            Self::Publish(packet) => packet.properties.user,
            Self::PubAck(packet) | Self::PubRec(packet) | Self::PubRel(packet) | Self::PubComp(packet) => {
                packet.user
            }
            Self::Subscribe(packet) => packet.user,
            Self::SubAck(packet) => packet.user,
            Self::Unsubscribe(packet) => packet.user,
            Self::UnsubAck(packet) => packet.user,
            Self::PingReq | Self::PingResp => return 0,
            Self::Disconnect(packet) => packet.user,
            Self::Auth(packet) => packet.user,
        };
        user.len()
    }

    /// The packet type.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// The size in bytes of the whole packet. A CONNECT is measured in its own version.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encoded_len(&self, version: ProtocolVersion) -> Result<usize, EncodeError> {
        sink::encoded_len(self, version)
    }

    /// Writes the whole packet, or nothing. A CONNECT is written in its own version; MQTT 3 leaves out what it
    /// does not have.
    ///
    /// # Errors
    /// A field too long or missing, a string with U+0000, a packet beyond 268,435,455 bytes or unknown to the
    /// version, or an output buffer of fixed size that is too small.
    pub fn encode<B: BufMut>(&self, version: ProtocolVersion, out: &mut B) -> Result<(), EncodeError> {
        self.encode_within(version, usize::MAX, out).map(drop)
    }

    /// As [`Self::encode`], but writes nothing if the packet takes more than `bytes_max` bytes; returns how many it takes.
    ///
    /// # Errors
    /// As [`Self::encode`]; [`EncodeError::PacketTooLarge`] beyond `bytes_max`.
    pub fn encode_within<B: BufMut>(
        &self,
        version: ProtocolVersion,
        bytes_max: usize,
        out: &mut B,
    ) -> Result<usize, EncodeError> {
        let header = match self {
            Self::Publish(publish) => publish.header(),
            other => other.packet_type().header(),
        };
        sink::encode(header, self, version, bytes_max, out)
    }
}

impl Body for Packet<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        match self {
            Self::Connect(packet) => packet.write(version, out),
            Self::ConnAck(packet) => packet.write(version, out),
            Self::Publish(packet) => packet.write(version, out),
            Self::PubAck(packet) | Self::PubRec(packet) | Self::PubRel(packet) | Self::PubComp(packet) => {
                packet.write(version, out)
            }
            Self::Subscribe(packet) => Body::write(packet, version, out),
            Self::SubAck(packet) => packet.write(version, out),
            Self::Unsubscribe(packet) => packet.write(version, out),
            Self::UnsubAck(packet) => packet.write(version, out),
            Self::PingReq | Self::PingResp => Ok(()),
            Self::Disconnect(packet) => Body::write(packet, version, out),
            Self::Auth(packet) => Body::write(packet, version, out),
        }
    }
}

/// MQTT 3.1 lets a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE carry DUP; later versions do not.
pub(crate) fn check_flags(frame: Frame<'_>, version: ProtocolVersion) -> Result<(), DecodeError> {
    // [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1]
    if frame.header == frame.packet_type().header() || version == ProtocolVersion::V31 {
        Ok(())
    } else {
        Err(DecodeError::Reserved("fixed header flags"))
    }
}

const fn no_body(frame: Frame<'_>) -> Result<(), DecodeError> {
    if frame.body.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(frame.packet_type().name())) }
}
