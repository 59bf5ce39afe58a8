//! Records: everything the broker keeps across a restart, and the storage trait that keeps it.
//!
//! A batch of records is atomic and durable when [`Store::commit`] returns; acknowledgements wait for that.
//! Replaying a store gives records that make up the same state, ordered so that each refers only to earlier ones.

use std::fmt;
use std::sync::Arc;

use veilmq_protocol::{PacketId, QoS, SubscribeOptions, Will};

use crate::id::{MessageId, SessionId};
use crate::message::Message;
use crate::recovery::Recovery;
use crate::time::Moment;

/// One durable fact.
#[derive(Clone, Debug)]
pub enum Record {
    /// A session exists, or its head changed (replaces the earlier head).
    Session(SessionRecord),
    /// A session ended: its head, subscriptions, references and received identifiers are gone. References that name a group
    /// stay until they are settled: their messages may still be on the way, and are then for another member.
    SessionEnded {
        /// The session that ended.
        session: SessionId,
    },
    /// A session subscribed (replaces the same filter).
    Subscribed {
        /// The subscribing session.
        session: SessionId,
        /// The Topic Filter as subscribed.
        filter: Arc<str>,
        /// Its options and identifier.
        subscription: SubscriptionRecord,
    },
    /// A session unsubscribed.
    Unsubscribed {
        /// The unsubscribing session.
        session: SessionId,
        /// The Topic Filter to remove.
        filter: Arc<str>,
    },
    /// A message body was stored, with a reference from each durable session that will receive it.
    Published {
        /// The body; its `id` is present.
        message: Arc<Message>,
        /// The sessions that need it.
        references: Vec<Reference>,
    },
    /// No session refers to the body any more.
    Forgotten {
        /// The body to remove.
        message: MessageId,
    },
    /// A reference moved on: it got a Packet Identifier, or its PUBREC arrived.
    Advanced {
        /// The reference as it now is (replaces the earlier one).
        reference: Reference,
        /// The body it refers to.
        message: MessageId,
    },
    /// A session has no more need of a message.
    Settled {
        /// The session.
        session: SessionId,
        /// The body it referred to.
        message: MessageId,
    },
    /// A QoS 2 PUBLISH with this Packet Identifier arrived from the session's client and awaits PUBREL.
    Received {
        /// The session.
        session: SessionId,
        /// The client's Packet Identifier.
        packet_id: PacketId,
    },
    /// PUBREL arrived: the identifier is free again.
    Released {
        /// The session.
        session: SessionId,
        /// The client's Packet Identifier.
        packet_id: PacketId,
    },
    /// The retained message of a topic (replaces the earlier one).
    Retained {
        /// The message; its `id` does not matter.
        message: Arc<Message>,
    },
    /// The retained message of a topic was cleared or has expired.
    RetainedCleared {
        /// The Topic Name.
        topic: Arc<str>,
    },
}

/// The head of a durable session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The identity of the session.
    pub session: SessionId,
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// Its client proved who it is, so that nobody else gets the session: as `user`, or with a VEIL-1 identity if there is none.
    pub authenticated: bool,
    /// The user name of its client.
    pub user: Option<Arc<str>>,
    /// The Session Expiry Interval in seconds; `u32::MAX` never expires.
    pub expiry_seconds: u32,
    /// When the connection closed; None while connected.
    pub disconnected_at: Option<Moment>,
    /// The Will Message that is still to be published.
    pub will: Option<WillRecord>,
    /// The Packet Identifier that a message to the client had last; 0 before the first.
    pub last_identifier: u16,
}

/// A Will Message as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct WillRecord {
    /// The Will Topic.
    pub topic: String,
    /// The Will Payload.
    pub payload: Vec<u8>,
    /// Encoded application properties.
    pub application_properties: Vec<u8>,
    /// The Message Expiry Interval in seconds.
    pub message_expiry_seconds: Option<u32>,
    /// The Will QoS.
    pub qos: QoS,
    /// The Will Retain flag.
    pub retain: bool,
    /// The Will Delay Interval in seconds.
    pub delay_seconds: u32,
}

impl fmt::Debug for WillRecord {
    /// Shows only the length of the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WillRecord")
            .field("topic", &self.topic)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("delay_seconds", &self.delay_seconds)
            .field("message_expiry_seconds", &self.message_expiry_seconds)
            .field("application_properties", &self.application_properties.len())
            .field("payload_len", &self.payload.len())
            .finish()
    }
}

/// What a session asked for with a Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The subscription options.
    pub options: SubscribeOptions,
    /// The Subscription Identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
}

/// One session's need of one stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The session that needs the message.
    pub session: SessionId,
    /// The Quality of Service of the delivery, 1 or 2.
    pub qos: QoS,
    /// The RETAIN flag of the delivery.
    pub retain: bool,
    /// The Subscription Identifiers that go with the delivery.
    pub subscription_ids: Vec<u32>,
    /// The filter as subscribed, if the session has the message as a member of a group: others may get it instead.
    pub share: Option<Arc<str>>,
    /// How far the delivery has come.
    pub stage: Stage,
}

/// How far a QoS 1 or 2 delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No Packet Identifier yet.
    Queued,
    /// PUBLISH has its Packet Identifier; awaiting PUBACK or PUBREC.
    Published(PacketId),
    /// PUBREC arrived (QoS 2); PUBREL is sent until PUBCOMP arrives.
    Released(PacketId),
}

/// Durable storage of records.
pub trait Store: Send {
    /// Commits a batch: all of it or nothing, durable when this returns. One without records changes nothing and is written all the same, so that
    /// its success says that the medium takes something; it may also tidy up more than others do.
    ///
    /// # Errors
    /// What the medium answered; nothing of the batch may then be assumed to be stored. If the medium has it all the same, a
    /// replay may still visit it until another batch was committed, and not after that.
    fn commit(&mut self, batch: &[Record]) -> Result<(), StoreError>;

    /// Visits everything that is stored, in an order in which each record refers only to earlier ones: sessions first; bodies, in no
    /// particular order, before the references to them. A body comes as `Published` with the references that are at hand, the others
    /// follow as `Advanced`. A body without references is visited too, so that the caller can forget it. A reference that names a group
    /// is visited even if its session is gone, so that another member gets the message.
    ///
    /// # Errors
    /// What the medium answered.
    fn replay(&mut self, visit: &mut dyn FnMut(Record)) -> Result<(), StoreError>;

    /// Takes everything that is stored into a recovery, as a replay would. A store may fill all parts at once: of each session it
    /// then says first that it is to be expected, and the rest comes in any order.
    ///
    /// # Errors
    /// What the medium answered.
    fn recover(&mut self, recovery: &mut Recovery) -> Result<(), StoreError> {
        self.replay(&mut |record| recovery.apply(record))
    }

    /// Reads message bodies back, in the order asked for. One that is not stored, or cannot be read because it is damaged, is
    /// left out. How many sessions refer to a body is not part of it.
    ///
    /// # Errors
    /// What the medium answered; nothing is then known of any of the bodies.
    fn fetch(&mut self, messages: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError>;

    /// Returns how many bytes it can store, at the least, within what it takes up already.
    fn reusable_bytes(&self) -> u64 {
        0
    }

    /// Says how many more bytes it may take up; if negative, it takes up too many. True if it holds more that is of no use than it then
    /// should: the next commits take that out.
    fn confine(&mut self, growth_bytes: i64) -> bool {
        let _ = growth_bytes;
        false
    }
}

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
#[error("storage: {0}")]
pub struct StoreError(pub String);

impl WillRecord {
    /// Takes the Will of a CONNECT over.
    pub(crate) fn new(will: &Will<'_>) -> Self {
        let mut application_properties = Vec::new();
        // A decoded CONNECT holds no field that could be too long to encode again, and a Vec has room.
        let _ = will.properties.encode_application_as_sent(&mut application_properties);
        Self {
            topic: will.topic.as_str().to_owned(),
            payload: will.payload.to_vec(),
            application_properties,
            message_expiry_seconds: will.properties.message_expiry_seconds,
            qos: will.qos,
            retain: will.retain,
            delay_seconds: will.delay_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_will_can_be_printed_without_its_payload() {
        let will = WillRecord {
            topic: "f/t".into(),
            payload: vec![211, 212, 213],
            application_properties: Vec::new(),
            message_expiry_seconds: None,
            qos: QoS::AtMostOnce,
            retain: false,
            delay_seconds: 0,
        };

        let printed = format!("{will:?}");

        assert!(printed.contains("payload_len: 3") && !printed.contains("211"), "{printed}");
    }
}
