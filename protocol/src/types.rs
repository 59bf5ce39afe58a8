//! The small closed types every packet is made of: QoS, Packet Identifier, protocol version, packet type.

use core::{fmt, num::NonZeroU16};

use crate::DecodeError;

/// Quality of Service of a message or subscription (MQTT 5.0 section 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// Delivered once or not at all; never acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged with PUBACK; may be delivered more than once.
    AtLeastOnce = 1,
    /// Acknowledged with PUBREC, PUBREL and PUBCOMP; delivered once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The two bits on the wire.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

impl TryFrom<u8> for QoS {
    type Error = DecodeError;

    fn try_from(value: u8) -> Result<Self, DecodeError> {
        Self::from_bits(value).ok_or(DecodeError::Reserved("QoS"))
    }
}

/// A Packet Identifier, 1 to 65,535 (MQTT 5.0 section 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// Makes an identifier; `None` for 0, which is none.
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The protocol version a CONNECT asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1, protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0, protocol name `MQTT`, level 5.
    V5,
}

impl ProtocolVersion {
    /// The protocol level byte of CONNECT: 3, 4 or 5.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name of CONNECT.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    pub(crate) const fn has_properties(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// The type of an MQTT Control Packet, the high four bits of its first byte (MQTT 5.0 section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Connection request.
    Connect = 1,
    /// Connect acknowledgment.
    ConnAck = 2,
    /// Publish message.
    Publish = 3,
    /// Publish acknowledgment (QoS 1).
    PubAck = 4,
    /// Publish received (QoS 2, part 1).
    PubRec = 5,
    /// Publish release (QoS 2, part 2).
    PubRel = 6,
    /// Publish complete (QoS 2, part 3).
    PubComp = 7,
    /// Subscribe request.
    Subscribe = 8,
    /// Subscribe acknowledgment.
    SubAck = 9,
    /// Unsubscribe request.
    Unsubscribe = 10,
    /// Unsubscribe acknowledgment.
    UnsubAck = 11,
    /// PING request.
    PingReq = 12,
    /// PING response.
    PingResp = 13,
    /// Disconnect notification.
    Disconnect = 14,
    /// Authentication exchange (MQTT 5.0 only).
    Auth = 15,
}

impl PacketType {
    /// The packet type in the standard's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// The first byte of this packet with the flag bits the standard prescribes (all 0 for PUBLISH).
    pub(crate) const fn header(self) -> u8 {
        let flags = match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// Reads type and flag bits of a first byte.
    ///
    /// The DUP bit that MQTT 3.1 lets PUBREL, SUBSCRIBE and UNSUBSCRIBE carry passes here, since the version is
    /// not known yet; [`crate::Packet::decode`] refuses it in the later versions.
    pub(crate) fn from_header(header: u8) -> Result<Self, DecodeError> {
        let packet_type = Self::from_bits(header >> 4).ok_or(DecodeError::Reserved("packet type"))?;
        let flags_ok = match packet_type {
            Self::Publish => {
                // [MQTT-3.3.1-4] QoS 3 does not exist; [MQTT-3.3.1-2] DUP is 0 on QoS 0.
                let (dup, qos) = (header & DUP != 0, header >> 1 & 0b11);
                qos != 3 && !(dup && qos == 0)
            }
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => header & !DUP == packet_type.header(),
            _ => header == packet_type.header(),
        };
        // [MQTT-2.1.3-1], [MQTT-3.14.1-1], [MQTT-3.15.1-1], [MQTT311-2.2.2-2]
        if flags_ok { Ok(packet_type) } else { Err(DecodeError::Reserved("fixed header flags")) }
    }
}

/// The DUP bit of a first byte.
pub(crate) const DUP: u8 = 0b1000;

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
