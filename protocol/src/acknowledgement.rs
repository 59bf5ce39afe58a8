//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7), which differ only in their Reason Codes.

use crate::{
    DecodeError, EncodeError, Frame, PacketId, PacketType, ProtocolVersion, ReasonCode, UserProperties,
    packet::check_flags,
    property::{Property, PropertyReader, not_allowed},
    reader::Reader,
    sink::{Body, Properties, Sink},
};

/// Acknowledgement of one step of a QoS 1 or 2 delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// The identifier of the PUBLISH ([MQTT-2.2.1-5]).
    pub packet_id: PacketId,
    /// The outcome; MQTT 3 knows success only and leaves it out.
    pub reason: ReasonCode,
    /// Explains the outcome to a human.
    pub reason_string: Option<&'a str>,
    /// Pairs the sender attached.
    pub user: UserProperties<'a>,
}

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1]
const RECEIPT_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
];

/// [MQTT-3.6.2-1], [MQTT-3.7.2-1]
const RELEASE_REASONS: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::PacketIdentifierNotFound];

impl<'a> Acknowledgement<'a> {
    /// Makes an acknowledgement without properties.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user: UserProperties::in_block(&[], 0, 0) }
    }

    /// Reads a framed PUBACK, PUBREC, PUBREL or PUBCOMP; the caller has looked at its type.
    ///
    /// # Errors
    /// As [`Packet::decode`](crate::Packet::decode).
    pub fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_type = frame.packet_type();
        if packet_type == PacketType::PubRel {
            check_flags(frame, version)?;
        }
        let mut body = Reader::new(frame.body);
        let mut packet = Self::new(body.packet_id()?, ReasonCode::Success);
        // Reason Code and Property Length may be left out from the end (MQTT 5.0 section 3.4.2.1, 3.4.2.2.1).
        if version.has_properties() && !body.is_empty() {
            packet.reason = body.reason_code(match packet_type {
                PacketType::PubRel | PacketType::PubComp => RELEASE_REASONS,
                _ => RECEIPT_REASONS,
            })?;
            if !body.is_empty() {
                packet.read_properties(&mut body)?;
            }
        }
        body.finish(packet_type.name())?;
        Ok(packet)
    }

    fn read_properties(&mut self, body: &mut Reader<'a>) -> Result<(), DecodeError> {
        (self.reason_string, self.user) = read_reason_properties(body)?;
        Ok(())
    }
}

impl Body for Acknowledgement<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        out.packet_id(self.packet_id);
        let has_properties = self.reason_string.is_some() || !self.user.is_empty();
        if !version.has_properties() || (self.reason == ReasonCode::Success && !has_properties) {
            return Ok(());
        }
        out.u8(self.reason.value());
        if has_properties {
            out.properties(&ReasonProperties { reason_string: self.reason_string, user: self.user })?;
        }
        Ok(())
    }
}

/// The properties of an acknowledgement: a Reason String and User Properties.
pub(crate) struct ReasonProperties<'a> {
    pub(crate) reason_string: Option<&'a str>,
    pub(crate) user: UserProperties<'a>,
}

impl Properties for ReasonProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        out.string_property(Property::ReasonString, self.reason_string)?;
        self.user.write(out)
    }
}

/// Reads what [`ReasonProperties`] writes.
pub(crate) fn read_reason_properties<'a>(
    body: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeError> {
    let mut reason_string = None;
    let mut block = PropertyReader::open(body)?;
    while let Some(property) = block.next()? {
        match property {
            Property::ReasonString => reason_string = Some(block.value().string(property.name())?),
            other => return not_allowed(other),
        }
    }
    Ok((reason_string, block.user()))
}
