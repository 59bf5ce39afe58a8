//! Between an MQTT PUBLISH and the two halves a fan-out splits it into (VEIL-1 sections 6.1, 6.2).
//!
//! The broker writes the shared half once and the other half per subscriber; a client joins them
//! again. Invariant: joining what was split gives the PUBLISH the subscriber would have received.

use super::{
    layout::LayoutError,
    record::{SharedBody, SubscriberHeader},
};
use crate::{
    DecodeError, PacketId, Publish, PublishHead, PublishProperties, QoS, TopicName,
    property::Property,
    publish::publish_header,
    publish_properties::write_subscription_id,
    sink::{Sink, Writer},
};
use alloc::vec::Vec;

const FIELD: &str = "fan-out";
const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// Appends the properties of a shared body: the application properties as they are, then the
/// expiry the publisher gave, if it gave one.
pub fn put_shared_properties(
    application_properties: &[u8],
    original_expiry_seconds: Option<u32>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(application_properties);
    Writer(out).u32_property(Property::MessageExpiryInterval, original_expiry_seconds);
}

/// Appends the per-subscriber header of a delivery: of `head`, the flags, the Packet Identifier,
/// the Subscription Identifiers and the remaining expiry; the rest is shared, and a Topic Alias is
/// not used.
///
/// # Errors
/// [`LayoutError::TooLong`] for Subscription Identifiers above 65,535 bytes.
pub fn put_subscriber_header(head: &PublishHead<'_>, out: &mut Vec<u8>) -> Result<(), LayoutError> {
    let mut properties = Vec::new();
    let mut writer = Writer(&mut properties);
    for &id in head.subscription_ids {
        write_subscription_id(id, &mut writer);
    }
    writer.u32_property(Property::MessageExpiryInterval, head.message_expiry_seconds);
    SubscriberHeader {
        flags: publish_header(head.dup, head.qos, head.retain) & 0x0F,
        packet_id: head.packet_id.map(PacketId::value),
        properties: &properties,
    }
    .encode(out)
}

/// Joins the two halves into the PUBLISH they stand for.
///
/// # Errors
/// [`DecodeError`] for either half being malformed, as for a PUBLISH.
pub fn join<'a>(header_i: &'a [u8], shared_body: &'a [u8]) -> Result<Publish<'a>, DecodeError> {
    let header = SubscriberHeader::parse(header_i).map_err(|_| DecodeError::Truncated(FIELD))?;
    let body = SharedBody::parse(shared_body).map_err(|_| DecodeError::Truncated(FIELD))?;
    let topic = core::str::from_utf8(body.topic).map_err(|_| DecodeError::InvalidString("Topic Name"))?;
    let packet_id = match header.packet_id {
        None => None,
        Some(id) => Some(PacketId::new(id).ok_or(DecodeError::NotAllowed("Packet Identifier"))?),
    };
    Ok(Publish {
        dup: header.flags & DUP != 0,
        qos: QoS::try_from(header.flags >> 1 & 0b11)?,
        retain: header.flags & RETAIN != 0,
        topic: Some(TopicName::new(topic).map_err(|_| DecodeError::TopicNameInvalid("Topic Name"))?),
        packet_id,
        properties: PublishProperties::decode_split(body.properties, header.properties)?,
        payload: body.payload,
    })
}
