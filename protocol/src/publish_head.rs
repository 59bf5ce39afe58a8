//! The head of a PUBLISH to one of many subscribers.
//!
//! One stored message is an immutable image of topic, application properties and payload; what differs per
//! subscriber is written here, and the payload is sent from the image without copying.

use core::num::NonZeroU16;

use bytes::BufMut;

use crate::{
    PacketId, ProtocolVersion, QoS,
    frame::{packet_len, variable_byte_integer_len},
    property::Property,
    publish::publish_header,
    publish_properties::write_subscription_id,
    sink::{Sink, Writer},
};

/// Everything of a PUBLISH up to its payload.
///
/// Every field is already validated: `topic` is a Topic Name or, with a Topic Alias in MQTT 5.0, empty;
/// `application_properties` come from [`crate::PublishProperties::encode_application`]; Subscription Identifiers are
/// 1 to 268,435,455; `packet_id` is present exactly with QoS 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishHead<'a> {
    /// Says that this is a repeat.
    pub dup: bool,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// The RETAIN flag of this delivery.
    pub retain: bool,
    /// The identifier of this delivery.
    pub packet_id: Option<PacketId>,
    /// The Topic Name as it goes over the wire, at most 65,535 bytes.
    pub topic: &'a [u8],
    /// The alias of the topic on this Network Connection.
    pub topic_alias: Option<NonZeroU16>,
    /// What is left of the message's lifetime, in seconds.
    pub message_expiry_seconds: Option<u32>,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: &'a [u32],
    /// The encoded application properties.
    pub application_properties: &'a [u8],
    /// The size of the payload that follows, in bytes.
    pub payload_len: usize,
}

impl PublishHead<'_> {
    /// The size of the whole packet in bytes, payload included.
    ///
    /// A packet beyond [`crate::PACKET_BYTES_MAX`], or the receiver's Maximum Packet Size, is not to be encoded.
    #[must_use]
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        packet_len(self.body_len(version))
    }

    /// Writes the packet up to its payload. MQTT 3 leaves the properties out.
    ///
    /// `out` must have room for [`Self::encoded_len`] less the payload.
    pub fn encode<B: BufMut>(&self, version: ProtocolVersion, out: &mut B) {
        let mut out = Writer(out);
        out.u8(publish_header(self.dup, self.qos, self.retain));
        out.variable_byte_integer(self.body_len(version));
        out.u16(self.topic.len() as u16);
        out.put(self.topic);
        if let Some(id) = self.packet_id {
            out.packet_id(id);
        }
        if version.has_properties() {
            self.write_properties(&mut out);
        }
    }

    fn body_len(&self, version: ProtocolVersion) -> usize {
        let packet_id_len = if self.packet_id.is_some() { 2 } else { 0 };
        let properties_len = match version {
            ProtocolVersion::V5 => {
                let len = self.properties_len();
                variable_byte_integer_len(len) + len
            }
            ProtocolVersion::V31 | ProtocolVersion::V311 => 0,
        };
        2 + self.topic.len() + packet_id_len + properties_len + self.payload_len
    }

    fn properties_len(&self) -> usize {
        let expiry_len = if self.message_expiry_seconds.is_some() { 5 } else { 0 };
        let alias_len = if self.topic_alias.is_some() { 3 } else { 0 };
        let ids_len: usize =
            self.subscription_ids.iter().map(|&id| 1 + variable_byte_integer_len(id as usize)).sum();
        expiry_len + alias_len + ids_len + self.application_properties.len()
    }

    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.variable_byte_integer(self.properties_len());
        out.u16_property(Property::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        for &id in self.subscription_ids {
            write_subscription_id(id, out);
        }
        out.put(self.application_properties);
        // Last, as by Mosquitto; their order means nothing (section 2.2.2.2).
        out.u32_property(Property::MessageExpiryInterval, self.message_expiry_seconds);
    }
}
