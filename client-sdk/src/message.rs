//! Messages as the application owns them: what is published, what arrives, and their properties.
//!
//! Plain data; whether a payload is sealed is decided where it is sent and received.

use std::fmt;

use bytes::Bytes;
use veilmq_protocol::{
    EncodeError, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, TopicName,
    UserPropertiesBuf,
};

use crate::e2e::{Authentication, OpenError, Origin, Provenance};

/// The application properties of a message (MQTT 5.0 section 3.3.2.3); end-to-end scopes bind some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Says whether the payload is UTF-8 text; absent means unspecified bytes.
    pub payload_is_utf8: Option<bool>,
    /// Lifetime of the message in seconds; absent means it does not expire.
    pub message_expiry_seconds: Option<u32>,
    /// Describes the payload, for instance as a MIME type.
    pub content_type: Option<String>,
    /// Where the receiver may answer: a Topic Name.
    pub response_topic: Option<String>,
    /// Tells the requester which request an answer is for.
    pub correlation_data: Option<Vec<u8>>,
    /// Pairs the application attached, in order.
    pub user: Vec<(String, String)>,
}

impl Properties {
    pub(crate) fn received(properties: &PublishProperties<'_>) -> Self {
        Self {
            payload_is_utf8: properties.payload_is_utf8,
            message_expiry_seconds: properties.message_expiry_seconds,
            content_type: properties.content_type.map(str::to_owned),
            response_topic: properties.response_topic.map(|topic| topic.as_str().to_owned()),
            correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
            user: owned_pairs(properties.user),
        }
    }

    /// The properties as a packet borrows them; `user` comes from [`encode_pairs`].
    ///
    /// # Errors
    /// [`EncodeError::OutOfRange`] for a Response Topic that is no Topic Name.
    pub(crate) fn borrow<'a>(
        &'a self,
        user: &'a UserPropertiesBuf,
    ) -> Result<PublishProperties<'a>, EncodeError> {
        let response_topic = match &self.response_topic {
            Some(topic) => {
                Some(TopicName::new(topic).map_err(|_| EncodeError::OutOfRange("Response Topic"))?)
            }
            None => None,
        };
        Ok(PublishProperties {
            payload_is_utf8: self.payload_is_utf8,
            message_expiry_seconds: self.message_expiry_seconds,
            content_type: self.content_type.as_deref(),
            response_topic,
            correlation_data: self.correlation_data.as_deref(),
            user: user.as_user_properties(),
            ..PublishProperties::default()
        })
    }
}

/// Encodes User Properties once, for use in a packet.
pub(crate) fn encode_pairs(pairs: &[(String, String)]) -> Result<UserPropertiesBuf, EncodeError> {
    let mut encoded = UserPropertiesBuf::new();
    for (name, value) in pairs {
        encoded.push(name, value)?;
    }
    Ok(encoded)
}

fn owned_pairs(pairs: veilmq_protocol::UserProperties<'_>) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A message to be published, with the payload exactly as it goes to the broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Publication {
    /// The Topic Name.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The delivery assurance.
    pub qos: QoS,
    /// Asks the broker to keep it for later subscribers.
    pub retain: bool,
    /// The application properties.
    pub properties: Properties,
}

/// Says how long the payload is, not what it is.
impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, payload, qos, retain, properties: _ } = self;
        f.debug_struct("Publication")
            .field("topic", topic)
            .field("payload_bytes", &payload.len())
            .field("qos", qos)
            .field("retain", retain)
            .finish_non_exhaustive()
    }
}

impl Publication {
    /// The same with what goes to the broker in place of its topic and payload.
    pub(crate) fn carrying(&self, wire_topic: &str, payload: Bytes) -> Self {
        let Self { qos, retain, .. } = *self;
        Self { topic: wire_topic.to_owned(), payload, qos, retain, properties: self.properties.clone() }
    }

    /// Appends the PUBLISH packet to `out`.
    pub(crate) fn encode(&self, packet_id: Option<PacketId>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let user = encode_pairs(&self.properties.user)?;
        self.packet(packet_id, &user)?.encode(ProtocolVersion::V5, out)
    }

    fn packet<'a>(
        &'a self,
        packet_id: Option<PacketId>,
        user: &'a UserPropertiesBuf,
    ) -> Result<Packet<'a>, EncodeError> {
        Ok(Packet::Publish(Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: Some(TopicName::new(&self.topic).map_err(|_| EncodeError::OutOfRange("Topic Name"))?),
            packet_id,
            properties: self.properties.borrow(user)?,
            payload: &self.payload,
        }))
    }
}

/// What the broker publishes for a client whose connection is lost.
///
/// On an end-to-end scope the payload is sealed before it is given to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The message.
    pub publication: Publication,
    /// How long the broker waits before publishing it, in seconds.
    pub delay_seconds: u32,
}

impl Will {
    /// A Will without properties that is published at once with QoS 0.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        let publication = Publication {
            topic: topic.to_owned(),
            payload: Bytes::from(payload.into()),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Properties::default(),
        };
        Self { publication, delay_seconds: 0 }
    }

    /// Sets the delivery assurance.
    #[must_use]
    pub const fn qos(mut self, qos: QoS) -> Self {
        self.publication.qos = qos;
        self
    }

    /// Makes it a retained message.
    #[must_use]
    pub const fn retain(mut self, retain: bool) -> Self {
        self.publication.retain = retain;
        self
    }

    /// Sets how long the broker waits before publishing it, in seconds.
    #[must_use]
    pub const fn delay_seconds(mut self, seconds: u32) -> Self {
        self.delay_seconds = seconds;
        self
    }
}

/// A message that arrived.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The Topic Name, after alias resolution.
    pub topic: String,
    /// The payload; the plaintext if the message was sealed.
    pub payload: Bytes,
    /// The delivery assurance it arrived with.
    pub qos: QoS,
    /// The RETAIN flag it arrived with.
    pub retain: bool,
    /// Says that it was sent before; always false with QoS 0.
    pub dup: bool,
    /// The application properties.
    pub properties: Properties,
    /// What is known about the sender, if the topic is in an end-to-end scope.
    pub sealed: Option<Sealed>,
}

/// Says how long the payload is, not what it is: it may be what nobody else is to read.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, payload, qos, retain, dup, properties: _, sealed } = self;
        f.debug_struct("Message")
            .field("topic", topic)
            .field("payload_bytes", &payload.len())
            .field("qos", qos)
            .field("retain", retain)
            .field("dup", dup)
            .field("sealed", sealed)
            .finish_non_exhaustive()
    }
}

impl Message {
    /// Whether the message says that what is retained on its topic is deleted, and how far that is proven.
    pub fn deletes(&self) -> Option<Authentication> {
        self.sealed.as_ref().filter(|_| self.payload.is_empty()).map(|sealed| sealed.authentication)
    }
}

/// Where an opened message came from, and how far that is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Sender, epoch and number of an envelope; the article's format and tombstones prove nothing.
    pub provenance: Provenance,
    /// How far the origin is proven.
    pub authentication: Authentication,
}

impl Sealed {
    /// The same where nothing is known of what is missing.
    fn without_gap(self) -> Self {
        match self.provenance {
            Provenance::Envelope(origin) => {
                Self { provenance: Provenance::Envelope(Origin { gap: 0, ..origin }), ..self }
            }
            Provenance::Article | Provenance::Tombstone => self,
        }
    }
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Message(Message),
    /// A message on an end-to-end scope was not authentic or not acceptable; its payload is withheld.
    Refused {
        /// The Topic Name it arrived on.
        topic: String,
        /// Why it was refused.
        error: OpenError,
    },
    /// QoS 0 messages were left out because this subscription was full while the program waited for an answer
    /// from the broker.
    Missed {
        /// How many.
        count: u64,
    },
}

impl Received {
    /// The same where nothing is known of what is missing.
    pub(crate) fn without_gap(self) -> Self {
        match self {
            Self::Message(message) => {
                let sealed = message.sealed.map(Sealed::without_gap);
                Self::Message(Message { sealed, ..message })
            }
            Self::Refused { .. } | Self::Missed { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_a_message_tells_its_size_and_not_its_content() {
        let Will { publication, .. } = Will::new("ward/7", "a diagnosis");
        let Publication { topic, payload, qos, retain, properties } = publication.clone();
        let properties = Properties { content_type: Some("a secret type".to_owned()), ..properties };
        let message = Message { topic, payload, qos, retain, dup: false, properties, sealed: None };
        for text in [format!("{publication:?}"), format!("{:?}", Received::Message(message))] {
            assert!(text.contains("ward/7") && text.contains("payload_bytes: 11"), "{text}");
            assert!(
                !text.contains("diagnosis") && !text.contains("secret") && !text.contains("97"),
                "{text}"
            );
        }
    }
}
