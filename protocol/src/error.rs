//! Why bytes are not a packet, and why a packet cannot become bytes.
//!
//! Every variant names the field at fault. The wire reaction to a [`DecodeError`] is a pure function of it:
//! [`DecodeError::reason`].

use crate::ReasonCode;

/// Says why received bytes were refused; the text of each variant is the field at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field reaches past the end of the packet.
    #[error("{0} is cut short")]
    Truncated(&'static str),
    /// Bytes are left after the last field.
    #[error("{0} is followed by surplus bytes")]
    TrailingBytes(&'static str),
    /// A string is not UTF-8 or holds U+0000 ([MQTT-1.5.4-1], [MQTT-1.5.4-2]).
    #[error("{0} is not a valid UTF-8 string")]
    InvalidString(&'static str),
    /// A Variable Byte Integer has five bytes or is not the shortest form ([MQTT-1.5.5-1]).
    #[error("{0} is not a valid Variable Byte Integer")]
    InvalidVariableByteInteger(&'static str),
    /// A reserved bit or value is used, or the field does not exist in this version.
    #[error("{0} holds a reserved value")]
    Reserved(&'static str),
    /// A property does not belong in this packet, or is unknown.
    #[error("{0} is not allowed in this packet")]
    PropertyNotAllowed(&'static str),
    /// A property that may occur once occurs again.
    #[error("{0} is repeated")]
    PropertyRepeated(&'static str),
    /// A well-formed value is not allowed by the protocol, or contradicts another one.
    #[error("{0} holds a value the protocol does not allow")]
    NotAllowed(&'static str),
    /// A field the protocol requires is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The protocol name or level is none of 5.0, 3.1.1 and 3.1.
    #[error("{0} is not supported")]
    UnsupportedVersion(&'static str),
    /// MQTT 3.1 requires a Client Identifier and got an empty one.
    #[error("{0} is not valid")]
    ClientIdInvalid(&'static str),
    /// A Topic Filter is empty or its wildcards or share name are misplaced.
    #[error("{0} is not a valid Topic Filter")]
    TopicFilterInvalid(&'static str),
    /// A Topic Name is empty or holds a wildcard.
    #[error("{0} is not a valid Topic Name")]
    TopicNameInvalid(&'static str),
    /// A Topic Alias is 0 ([MQTT-3.3.2-8]).
    #[error("{0} is zero")]
    TopicAliasInvalid(&'static str),
    /// The packet is larger than the receiver accepts.
    #[error("{0} exceeds the limit")]
    PacketTooLarge(&'static str),
}

impl DecodeError {
    /// The Reason Code with which the connection is closed (MQTT 5.0 section 4.13).
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Truncated(_)
            | Self::TrailingBytes(_)
            | Self::InvalidString(_)
            | Self::InvalidVariableByteInteger(_)
            | Self::Reserved(_)
            | Self::PropertyNotAllowed(_)
            // 0x8F and 0x90 are for what is correctly formed and yet not accepted (table 2-6).
            | Self::TopicFilterInvalid(_)
            | Self::TopicNameInvalid(_) => ReasonCode::MalformedPacket,
            Self::PropertyRepeated(_) | Self::NotAllowed(_) | Self::Missing(_) => ReasonCode::ProtocolError,
            Self::UnsupportedVersion(_) => ReasonCode::UnsupportedProtocolVersion,
            Self::ClientIdInvalid(_) => ReasonCode::ClientIdentifierNotValid,
            Self::TopicAliasInvalid(_) => ReasonCode::TopicAliasInvalid,
            Self::PacketTooLarge(_) => ReasonCode::PacketTooLarge,
        }
    }

    /// The field at fault, in the standard's words.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Truncated(field)
            | Self::TrailingBytes(field)
            | Self::InvalidString(field)
            | Self::InvalidVariableByteInteger(field)
            | Self::Reserved(field)
            | Self::PropertyNotAllowed(field)
            | Self::PropertyRepeated(field)
            | Self::NotAllowed(field)
            | Self::Missing(field)
            | Self::UnsupportedVersion(field)
            | Self::ClientIdInvalid(field)
            | Self::TopicFilterInvalid(field)
            | Self::TopicNameInvalid(field)
            | Self::TopicAliasInvalid(field)
            | Self::PacketTooLarge(field) => field,
        }
    }
}

/// Says why a packet cannot be written; the text of each variant is the field at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field is longer than 65,535 bytes.
    #[error("{0} is longer than 65,535 bytes")]
    TooLong(&'static str),
    /// A string holds U+0000 ([MQTT-1.5.4-2]).
    #[error("{0} holds U+0000")]
    HoldsNul(&'static str),
    /// A number is outside the range of its field.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A field that must be present is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The packet does not exist in this protocol version.
    #[error("{0} does not exist in this protocol version")]
    NotInVersion(&'static str),
    /// The Remaining Length would exceed 268,435,455.
    #[error("{0} is longer than 268,435,455 bytes")]
    PacketTooLarge(&'static str),
    /// The output buffer has a fixed size and is too small.
    #[error("{0} does not fit into the output buffer")]
    NoRoom(&'static str),
}
