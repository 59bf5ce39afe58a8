//! Packets as a client receives them: plain values that can be compared.

use std::collections::HashMap;
use std::num::NonZeroU16;

use veilmq_protocol as protocol;
use veilmq_protocol::{ProtocolVersion, PublishProperties, next_frame};

/// A connection, by the number that the broker knows it by.
pub(crate) type Connection = u64;

/// What arrives at a client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packet {
    ConnAck {
        present: bool,
        reason: u8,
    },
    Publish(Publish),
    PubAck {
        id: u16,
        reason: u8,
    },
    PubRec {
        id: u16,
        reason: u8,
    },
    PubRel {
        id: u16,
        reason: u8,
    },
    PubComp {
        id: u16,
        reason: u8,
    },
    SubAck {
        id: u16,
        reasons: Vec<u8>,
    },
    UnsubAck {
        id: u16,
        reasons: Vec<u8>,
    },
    PingResp,
    Disconnect {
        reason: u8,
    },
    /// The network connection is closed; nothing follows.
    Closed,
}

/// A PUBLISH, its topic named in full.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) id: u16,
    /// In ascending order: their order on the wire means nothing ([MQTT-3.3.4-4]).
    pub(crate) subscription_ids: Vec<u32>,
    pub(crate) expiry_seconds: Option<u32>,
    pub(crate) properties: Properties,
}

/// The properties that a publisher's client may give a message and that go with it unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Properties {
    pub(crate) is_utf8: Option<bool>,
    pub(crate) content_type: Option<String>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Vec<u8>>,
    pub(crate) user: Vec<(String, String)>,
}

/// Whose order among themselves is laid down. Packets of different streams may come in any order within one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// Answers, in the order of what they answer ([MQTT-4.6.0-2], [MQTT-4.6.0-3]).
    Answers,
    /// PUBREL, in the order of PUBREC ([MQTT-4.6.0-4]).
    Releases,
    /// Messages of one QoS ([MQTT-4.6.0-5]).
    Messages(u8),
}

impl Packet {
    pub(crate) fn stream(&self) -> Stream {
        match self {
            Self::Publish(publish) => Stream::Messages(publish.qos),
            Self::PubRel { .. } => Stream::Releases,
            Self::ConnAck { .. }
            | Self::PubAck { .. }
            | Self::PubRec { .. }
            | Self::PubComp { .. }
            | Self::SubAck { .. }
            | Self::UnsubAck { .. }
            | Self::PingResp
            | Self::Disconnect { .. }
            | Self::Closed => Stream::Answers,
        }
    }
}

/// Reads what arrives on one connection.
pub(crate) struct Reader {
    version: ProtocolVersion,
    alias_maximum: u16,
    aliases: HashMap<u16, String>,
}

impl Reader {
    pub(crate) fn new(version: ProtocolVersion, alias_maximum: u16) -> Self {
        Self { version, alias_maximum, aliases: HashMap::new() }
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }

    /// Decodes packets, all of them whole.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some((frame, consumed)) = next_frame(bytes, usize::MAX).unwrap() {
            let packet = protocol::Packet::decode(frame, self.version).unwrap();
            packets.push(self.packet(&packet));
            bytes = &bytes[consumed..];
        }
        assert!(bytes.is_empty(), "half a packet: {bytes:02x?}");
        packets
    }

    fn packet(&mut self, packet: &protocol::Packet<'_>) -> Packet {
        let parts = |ack: &protocol::Acknowledgement<'_>| (ack.packet_id.value(), ack.reason.value());
        match packet {
            protocol::Packet::ConnAck(connack) => {
                Packet::ConnAck { present: connack.session_present, reason: connack.reason.value() }
            }
            protocol::Packet::Publish(publish) => Packet::Publish(self.publish(publish)),
            protocol::Packet::PubAck(ack) => {
                let (id, reason) = parts(ack);
                Packet::PubAck { id, reason }
            }
            protocol::Packet::PubRec(ack) => {
                let (id, reason) = parts(ack);
                Packet::PubRec { id, reason }
            }
            protocol::Packet::PubRel(ack) => {
                let (id, reason) = parts(ack);
                Packet::PubRel { id, reason }
            }
            protocol::Packet::PubComp(ack) => {
                let (id, reason) = parts(ack);
                Packet::PubComp { id, reason }
            }
            protocol::Packet::SubAck(suback) => {
                Packet::SubAck { id: suback.packet_id.value(), reasons: suback.reasons.to_vec() }
            }
            protocol::Packet::UnsubAck(unsuback) => {
                Packet::UnsubAck { id: unsuback.packet_id.value(), reasons: unsuback.reasons.to_vec() }
            }
            protocol::Packet::PingResp => Packet::PingResp,
            protocol::Packet::Disconnect(disconnect) => {
                Packet::Disconnect { reason: disconnect.reason.value() }
            }
            other => panic!("a broker never sends {other:?}"),
        }
    }

    fn publish(&mut self, publish: &protocol::Publish<'_>) -> Publish {
        let mut subscription_ids: Vec<u32> = publish.properties.subscription_ids.iter().collect();
        subscription_ids.sort_unstable();
        Publish {
            topic: self.topic(publish),
            payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
            qos: publish.qos.value(),
            retain: publish.retain,
            dup: publish.dup,
            id: publish.packet_id.map_or(0, protocol::PacketId::value),
            subscription_ids,
            expiry_seconds: publish.properties.message_expiry_seconds,
            properties: Properties::of(&publish.properties),
        }
    }

    /// Returns the topic that a PUBLISH names or has an alias for ([MQTT-3.1.2-26], [MQTT-3.1.2-27]).
    fn topic(&mut self, publish: &protocol::Publish<'_>) -> String {
        let named = publish.topic.map(|topic| topic.as_str().to_owned());
        let Some(alias) = publish.properties.topic_alias.map(NonZeroU16::get) else {
            return named.expect("a topic or an alias");
        };
        assert!(alias <= self.alias_maximum, "alias {alias}, and {} is the maximum", self.alias_maximum);
        match named {
            Some(topic) => {
                self.aliases.insert(alias, topic.clone());
                topic
            }
            None => self.aliases[&alias].clone(),
        }
    }
}

impl Properties {
    fn of(properties: &PublishProperties<'_>) -> Self {
        let owned = |text: &str| text.to_owned();
        Self {
            is_utf8: properties.payload_is_utf8,
            content_type: properties.content_type.map(owned),
            response_topic: properties.response_topic.map(|topic| owned(topic.as_str())),
            correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
            user: properties.user.iter().map(|(name, value)| (owned(name), owned(value))).collect(),
        }
    }
}
