//! PUBLISH (section 3.3).

use core::fmt;

use crate::{
    DecodeError, EncodeError, Frame, PacketId, ProtocolVersion, PublishProperties, QoS, TopicName,
    reader::Reader,
    sink::{Body, Sink},
    types::{DUP, PacketType},
};

/// Publish message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Says that this is a repeat; written only with QoS 1 and 2 ([MQTT-3.3.1-2]).
    pub dup: bool,
    /// The delivery assurance of this sending.
    pub qos: QoS,
    /// From a client: keep it; from a server: it was kept.
    pub retain: bool,
    /// The Topic Name; `None` leaves it to the Topic Alias.
    pub topic: Option<TopicName<'a>>,
    /// Present with QoS 1 and 2 only ([MQTT-2.2.1-2]).
    pub packet_id: Option<PacketId>,
    /// The properties; ignored when writing MQTT 3.
    pub properties: PublishProperties<'a>,
    /// The Application Message.
    pub payload: &'a [u8],
}

const RETAIN: u8 = 0b0001;

/// The first byte of a PUBLISH.
pub(crate) const fn publish_header(dup: bool, qos: QoS, retain: bool) -> u8 {
    // [MQTT-3.3.1-2]
    let dup = dup && !matches!(qos, QoS::AtMostOnce);
    PacketType::Publish.header()
        | if dup { DUP } else { 0 }
        | qos.value() << 1
        | if retain { RETAIN } else { 0 }
}

impl<'a> Publish<'a> {
    /// Reads a framed PUBLISH; the caller has looked at its type.
    ///
    /// # Errors
    /// As [`Packet::decode`](crate::Packet::decode).
    pub fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let header = frame.header;
        let qos = QoS::try_from(header >> 1 & 0b11)?;
        let mut body = Reader::new(frame.body);
        let topic = read_topic(&mut body)?;
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(body.packet_id()?) };
        let properties = if version.has_properties() {
            PublishProperties::decode(&mut body)?
        } else {
            PublishProperties::default()
        };
        // MQTT 5.0 section 3.3.2.1: only a Topic Alias makes up for an empty Topic Name.
        if topic.is_none() && properties.topic_alias.is_none() {
            return Err(match version {
                ProtocolVersion::V5 => DecodeError::Missing("Topic Name"),
                ProtocolVersion::V31 | ProtocolVersion::V311 => DecodeError::TopicNameInvalid("Topic Name"),
            });
        }
        let (dup, retain) = (header & DUP != 0, header & RETAIN != 0);
        Ok(Self { dup, qos, retain, topic, packet_id, properties, payload: body.rest() })
    }

    pub(crate) const fn header(&self) -> u8 {
        publish_header(self.dup, self.qos, self.retain)
    }
}

fn read_topic<'a>(body: &mut Reader<'a>) -> Result<Option<TopicName<'a>>, DecodeError> {
    if let Some(rest) = body.rest().strip_prefix(&[0, 0]) {
        *body = Reader::new(rest);
        return Ok(None);
    }
    // [MQTT-3.3.2-1], [MQTT-3.3.2-2]
    body.topic_name("Topic Name").map(Some)
}

impl Body for Publish<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError> {
        let alias = if version.has_properties() { self.properties.topic_alias } else { None };
        if self.topic.is_none() && alias.is_none() {
            return Err(EncodeError::Missing("Topic Name"));
        }
        out.string(self.topic.map_or("", TopicName::as_str), "Topic Name")?;
        if self.qos != QoS::AtMostOnce {
            out.packet_id(self.packet_id.ok_or(EncodeError::Missing("Packet Identifier"))?);
        }
        if version.has_properties() {
            out.properties(&self.properties)?;
        }
        out.put(self.payload);
        Ok(())
    }
}

impl fmt::Debug for Publish<'_> {
    /// Shows only the length of the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("packet_id", &self.packet_id)
            .field("properties", &self.properties)
            .field("payload_len", &self.payload.len())
            .finish()
    }
}
