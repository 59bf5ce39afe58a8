//! The sending half of a connection: packets into the outbox, through the records of a VEIL-1 channel where there is one.
//!
//! Invariant: between turns no record is open, so whatever the driver finds in the outbox may be written as it is.

use std::sync::Arc;

use veilmq_protocol::veil::channel::{
    OpenRecord, Operations, PropertyChannel, PropertyError, PropertyOpener, RecordSealer,
};
use veilmq_protocol::veil::fanout::{put_shared_properties, put_subscriber_header};
use veilmq_protocol::veil::layout::LayoutError;
use veilmq_protocol::veil::record::{ControlOp, SharedBody};
use veilmq_protocol::veil::{Kid, Scheme};
use veilmq_protocol::{EncodeError, PACKET_BYTES_MAX, Packet, ProtocolVersion, PublishHead, QoS};

use super::aliases::{Alias, TopicAliases};
use crate::groups::{Admission, GroupBody, GroupKind, GroupMessage};
use crate::message::{FanBody, Message};
use crate::outbox::{Outbox, SHARED_PAYLOAD_BYTES_MIN};
use crate::time::Moment;

/// Below this many bytes of shared body, a tag over the packet costs no more than FAN-D's (VEIL-1 section 19.2, item 4).
const FAN_BODY_BYTES_MIN: usize = 128;
/// What stands before the key identifier in the topic of a client's operations in property mode (VEIL-1 section 5.4).
const OPERATIONS_TOPIC: &str = "_veil/1/ctl/";
/// A record that has grown to this size is closed, so that the client can open it early.
const RECORD_BYTES: usize = 16 * 1024;

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    version: ProtocolVersion,
    /// Acknowledgements that say no may explain themselves ([MQTT-3.1.2-29]).
    pub(crate) explains: bool,
    /// The client's Maximum Packet Size.
    packet_bytes_max: u32,
    outbox: Outbox,
    channel: Option<Box<Channel>>,
    /// None for a client that takes no Topic Alias.
    aliases: Option<Box<TopicAliases>>,
}

/// What packets go through.
enum Channel {
    Records(Records),
    /// Each PUBLISH has a property.
    Property(PropertyMode),
}

/// Both halves of property mode (VEIL-1 section 5.3).
struct PropertyMode {
    channel: Box<PropertyChannel>,
    /// Each operation is the payload of a PUBLISH on this topic.
    operations_topic: Box<str>,
}

impl Channel {
    fn records(&self) -> Option<&Records> {
        match self {
            Self::Records(records) => Some(records),
            Self::Property(_) => None,
        }
    }

    fn records_mut(&mut self) -> Option<&mut Records> {
        match self {
            Self::Records(records) => Some(records),
            Self::Property(_) => None,
        }
    }
}

impl PropertyMode {
    /// Makes the PUBLISH that brings an operation: a whole CTRL record is its payload.
    fn publish_operation(
        &mut self,
        version: ProtocolVersion,
        op: &ControlOp<'_>,
    ) -> Result<Vec<u8>, SendError> {
        let mut record = Vec::new();
        self.channel.operations.control(&mut record, op)?;
        let head = PublishHead {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            packet_id: None,
            topic: self.operations_topic.as_bytes(),
            topic_alias: None,
            message_expiry_seconds: None,
            subscription_ids: &[],
            application_properties: &[],
            payload_len: record.len(),
        };
        let mut plain = Vec::with_capacity(head.encoded_len(version));
        head.encode(version, &mut plain);
        plain.extend_from_slice(&record);
        let mut packet = Vec::new();
        self.channel.publishes.seal(&plain, &mut packet)?;
        Ok(packet)
    }
}

struct Records {
    sealer: RecordSealer,
    fan: Fan,
    open: Option<OpenRecord>,
    /// The length of the outbox when the record was begun.
    opened_at: usize,
    keys_since: Moment,
}

/// How messages go out on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fan {
    /// Like every other packet.
    Alone,
    /// In FAN-D records.
    Digest,
    /// In FAN-G or FAN-GE records, for groups of this kind.
    Group(GroupKind),
}

impl Fan {
    /// FAN-D is also what a member of too many groups gets in Scheme 4.
    fn digests(self) -> bool {
        matches!(self, Self::Digest | Self::Group(GroupKind { scheme: Scheme::Four, .. }))
    }
}

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// It exceeds the client's Maximum Packet Size ([MQTT-3.1.2-24]).
    #[error("the packet exceeds the client's Maximum Packet Size")]
    TooLarge,
    /// It cannot be expressed in the client's protocol version.
    #[error("{0}")]
    Encode(#[from] EncodeError),
    /// Its per-subscriber part does not fit into a record.
    #[error("{0}")]
    Record(#[from] LayoutError),
    /// The property that protects it cannot be made.
    #[error("{0}")]
    Property(#[from] PropertyError),
}

impl Wire {
    /// Makes the sending half of a connection whose client takes packets and Topic Aliases up to these maxima.
    pub(crate) fn new(version: ProtocolVersion, packet_bytes_max: usize, alias_maximum: u16) -> Self {
        Self {
            version,
            explains: false,
            packet_bytes_max: packet_bytes_max.min(PACKET_BYTES_MAX) as u32,
            outbox: Outbox::default(),
            channel: None,
            aliases: TopicAliases::new(alias_maximum),
        }
    }

    /// Sends everything from now on in records.
    pub(crate) fn secure(&mut self, sealer: RecordSealer, fan: Fan, now: Moment) {
        let records = Records { sealer, fan, open: None, opened_at: 0, keys_since: now };
        self.channel = Some(Box::new(Channel::Records(records)));
    }

    /// Gives every PUBLISH from now on its property, and checks those of the client.
    pub(crate) fn protect(&mut self, channel: PropertyChannel, client: Kid) {
        let operations_topic = format!("{OPERATIONS_TOPIC}{client}").into();
        self.channel =
            Some(Box::new(Channel::Property(PropertyMode { channel: Box::new(channel), operations_topic })));
    }

    /// Returns the topic that operations are published on; None where they are records, or nothing.
    pub(crate) fn operations_topic(&self) -> Option<&str> {
        match &**self.channel.as_ref()? {
            Channel::Records(_) => None,
            Channel::Property(mode) => Some(&mode.operations_topic),
        }
    }

    /// Tells whether packets go out in records.
    pub(crate) fn has_records(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.records().is_some())
    }

    /// Tells whether each PUBLISH is protected, in records or by its property.
    pub(crate) fn is_protected(&self) -> bool {
        self.channel.is_some()
    }

    /// Returns what checks each PUBLISH of the client; None outside of property mode.
    pub(crate) fn published(&mut self) -> Option<&mut PropertyOpener> {
        match self.channel.as_deref_mut()? {
            Channel::Records(_) => None,
            Channel::Property(mode) => Some(&mut mode.channel.published),
        }
    }

    /// Returns the kind of the groups that messages are to be sealed for; None if there are none.
    pub(crate) fn group(&self) -> Option<GroupKind> {
        match self.channel.as_ref()?.records()?.fan {
            Fan::Group(kind) => Some(kind),
            Fan::Alone | Fan::Digest => None,
        }
    }

    pub(crate) fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Returns how many bytes wait to be written.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.outbox.len_bytes()
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Gives up the connection's unsent bytes, the last record closed.
    pub(crate) fn into_outbox(mut self) -> Outbox {
        self.close_record();
        self.outbox
    }

    /// Appends a CONNACK that is complete in bytes, before any record.
    pub(crate) fn send_opening(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.check(bytes.len())?;
        self.outbox.append(|tail| tail.extend_from_slice(bytes));
        Ok(())
    }

    /// Sends an AUTH that is complete in bytes, the last packet under the present keys, and seals what follows with others
    /// (VEIL-1 section 4.8).
    pub(crate) fn switch_after(
        &mut self,
        auth: &[u8],
        next: RecordSealer,
        now: Moment,
    ) -> Result<(), SendError> {
        self.check(auth.len())?;
        self.open_record();
        self.outbox.append(|tail| tail.extend_from_slice(auth));
        self.close_record();
        if let Some(channel) = records_of(&mut self.channel) {
            channel.sealer.switch_to(next);
            channel.keys_since = now;
        }
        Ok(())
    }

    /// Tells whether the client takes a packet of this size, and its version can express it.
    pub(crate) fn takes(&self, packet: &Packet<'_>) -> bool {
        packet.encoded_len(self.version).is_ok_and(|bytes| self.check(bytes).is_ok())
    }

    /// Sends a packet other than PUBLISH; returns its length in bytes.
    pub(crate) fn send(&mut self, packet: &Packet<'_>) -> Result<usize, SendError> {
        let (version, bytes_max) = (self.version, self.packet_bytes_max as usize);
        self.open_record();
        let sent = self.outbox.append(|tail| packet.encode_within(version, bytes_max, tail));
        let bytes = sent.map_err(|error| match error {
            EncodeError::PacketTooLarge(_) => SendError::TooLarge,
            error => SendError::Encode(error),
        })?;
        self.limit_record();
        Ok(bytes)
    }

    /// Sends a PUBLISH with the payload of `message`; returns its length in bytes.
    pub(crate) fn publish(
        &mut self,
        head: &PublishHead<'_>,
        message: &Arc<Message>,
    ) -> Result<usize, SendError> {
        let fans_out = match self.channel.as_deref_mut() {
            None => false,
            Some(Channel::Records(records)) => records.fan.digests(),
            Some(Channel::Property(_)) => return self.publish_protected(head, message),
        };
        if fans_out && message.topic_as_bytes().len() + message.payload().len() >= FAN_BODY_BYTES_MIN {
            let bytes = self.publish_bytes(head)?;
            self.fan_out(head, message)?;
            return Ok(bytes);
        }
        if self.aliases.is_some() {
            let (head, bytes) = self.with_alias(*head)?;
            self.append_publish(&head, bytes, message);
            return Ok(bytes);
        }
        let bytes = head.encoded_len(self.version);
        self.check(bytes)?;
        self.append_publish(head, bytes, message);
        Ok(bytes)
    }

    /// Sends a PUBLISH with its property; returns its length in bytes.
    fn publish_protected(
        &mut self,
        head: &PublishHead<'_>,
        message: &Arc<Message>,
    ) -> Result<usize, SendError> {
        let plain_bytes = self.publish_bytes(head)?;
        let Some(Channel::Property(mode)) = self.channel.as_deref_mut() else { return Ok(0) };
        let mut plain = Vec::with_capacity(plain_bytes);
        head.encode(self.version, &mut plain);
        plain.extend_from_slice(message.payload().as_wire_bytes());
        let mut packet = Vec::new();
        mode.channel.publishes.seal(&plain, &mut packet)?;
        self.check(packet.len())?;
        self.outbox.append(|tail| tail.extend_from_slice(&packet));
        Ok(packet.len())
    }

    /// Returns the length of a PUBLISH in bytes, if the client takes as much.
    pub(crate) fn publish_bytes(&self, head: &PublishHead<'_>) -> Result<usize, SendError> {
        let bytes = head.encoded_len(self.version);
        self.check(bytes)?;
        Ok(bytes)
    }

    /// Sends an operation on the channel, if there is one.
    pub(crate) fn control(&mut self, op: &ControlOp<'_>) -> Result<(), SendError> {
        if let Some(Channel::Property(mode)) = self.channel.as_deref_mut() {
            let packet = mode.publish_operation(self.version, op)?;
            self.check(packet.len())?;
            self.outbox.append(|tail| tail.extend_from_slice(&packet));
            return Ok(());
        }
        self.close_record();
        let Some(channel) = records_of(&mut self.channel) else { return Ok(()) };
        Ok(self.outbox.append(|tail| channel.sealer.control(tail, op))?)
    }

    /// Sends a PUBLISH as its group gets it, the group's key before it if the client has another (VEIL-1 section 6.3).
    pub(crate) fn publish_in_group(
        &mut self,
        head: &PublishHead<'_>,
        message: &Arc<Message>,
        admission: &Admission<'_>,
    ) -> Result<(), SendError> {
        if let Some(grant) = &admission.grant {
            self.control(grant)?;
        }
        self.close_record();
        let Some(channel) = records_of(&mut self.channel) else { return Ok(()) };
        let mut header = Vec::new();
        put_subscriber_header(head, &mut header)?;
        let GroupMessage { fan, body, .. } = &admission.message;
        let outer = self.outbox.append(|tail| channel.sealer.fan_group(tail, &header, fan))?;
        match body {
            GroupBody::Encrypted(bytes) => self.outbox.append_shared(bytes),
            GroupBody::Clear(body_head, tag) => {
                self.outbox.append(|tail| tail.extend_from_slice(body_head));
                self.append_body_payload(message);
                self.outbox.append(|tail| tail.extend_from_slice(tag));
            }
        }
        if let Some(outer) = outer {
            self.outbox.append(|tail| tail.extend_from_slice(outer.as_ref()));
        }
        Ok(())
    }

    /// Appends a payload within a record that authenticates it and does not encrypt it.
    fn append_body_payload(&mut self, message: &Arc<Message>) {
        let payload = message.payload().as_wire_bytes();
        if payload.len() >= SHARED_PAYLOAD_BYTES_MIN {
            self.outbox.append_payload(message);
        } else {
            self.outbox.append(|tail| tail.extend_from_slice(payload));
        }
    }

    /// Lets an alias stand for the topic, or gives it one if the packet has room for that; returns the packet's length in bytes.
    fn with_alias<'a>(&mut self, head: PublishHead<'a>) -> Result<(PublishHead<'a>, usize), SendError> {
        let alias = self.aliases.as_ref().map_or(Alias::None, |aliases| aliases.alias_of(head.topic));
        let topic = head.topic;
        let head = match alias {
            // [MQTT-3.3.2-11] The alias has its topic on this connection.
            Alias::Bound(alias) => PublishHead { topic: &[], topic_alias: Some(alias), ..head },
            Alias::Free(alias) => {
                let named = PublishHead { topic_alias: Some(alias), ..head };
                match self.check(named.encoded_len(self.version)) {
                    Ok(()) => named,
                    Err(_) => head,
                }
            }
            Alias::None => head,
        };
        let bytes = head.encoded_len(self.version);
        self.check(bytes)?;
        // From here on nothing keeps the packet from being sent.
        if let (Some(aliases), Alias::Free(_), Some(alias)) = (&mut self.aliases, alias, head.topic_alias) {
            aliases.bind(topic, alias);
        }
        Ok((head, bytes))
    }

    fn append_publish(&mut self, head: &PublishHead<'_>, bytes: usize, message: &Arc<Message>) {
        let payload = message.payload().as_wire_bytes();
        let shared = self.channel.is_none() && payload.len() >= SHARED_PAYLOAD_BYTES_MIN;
        let version = self.version;
        self.open_record();
        self.outbox.append(|tail| {
            tail.reserve(if shared { bytes - payload.len() } else { bytes });
            head.encode(version, tail);
            if !shared {
                tail.extend_from_slice(payload);
            }
        });
        if shared {
            self.outbox.append_payload(message);
        }
        self.limit_record();
    }

    /// Ends the turn: closes the open record, and changes keys that are old (VEIL-1 section 4.8).
    pub(crate) fn seal(&mut self, now: Moment, rekey_milliseconds: u64, rekey_records: u64) {
        self.close_record();
        let Some(channel) = records_of(&mut self.channel) else { return };
        if channel.sealer.records() >= rekey_records || now.since(channel.keys_since) >= rekey_milliseconds {
            channel.keys_since = now;
            self.outbox.append(|tail| channel.sealer.key_update(tail));
        }
    }

    /// Returns what was sealed since this was last asked, in operations; None without a channel.
    pub(crate) fn take_operations(&mut self) -> Option<Operations> {
        Some(match self.channel.as_deref_mut()? {
            Channel::Records(records) => records.sealer.take_operations(),
            Channel::Property(mode) => {
                let mut made = mode.channel.publishes.take_operations();
                made += mode.channel.operations.take_operations();
                made
            }
        })
    }

    fn check(&self, packet_bytes: usize) -> Result<(), SendError> {
        if packet_bytes > self.packet_bytes_max as usize { Err(SendError::TooLarge) } else { Ok(()) }
    }

    fn open_record(&mut self) {
        let Some(channel) = records_of(&mut self.channel) else { return };
        if channel.open.is_none() {
            channel.opened_at = self.outbox.len_bytes();
            channel.open = Some(self.outbox.append(|tail| channel.sealer.begin(tail)));
        }
    }

    fn close_record(&mut self) {
        let Some(channel) = records_of(&mut self.channel) else { return };
        if let Some(open) = channel.open.take() {
            self.outbox.append(|tail| channel.sealer.finish(tail, open));
        }
    }

    fn limit_record(&mut self) {
        let records = self.channel.as_ref().and_then(|channel| channel.records());
        let full = records.is_some_and(|channel| {
            channel.open.is_some() && self.outbox.len_bytes() - channel.opened_at >= RECORD_BYTES
        });
        if full {
            self.close_record();
        }
    }

    /// Writes a FAN-D record: the body's digest is computed once for all subscribers (VEIL-1 section 6.3).
    fn fan_out(&mut self, head: &PublishHead<'_>, message: &Arc<Message>) -> Result<(), SendError> {
        self.close_record();
        let Some(channel) = records_of(&mut self.channel) else { return Ok(()) };
        let payload = message.payload().as_wire_bytes();
        let FanBody { head: body_head, digest } = message.fan_body(|| {
            let head = shared_body_head(message)?;
            let digest = channel.sealer.digest(&[&head, payload]);
            Ok::<_, LayoutError>(FanBody { head: head.into_boxed_slice(), digest })
        })?;
        let mut header = Vec::new();
        put_subscriber_header(head, &mut header)?;
        let body_bytes = body_head.len() + payload.len();
        let tag = self.outbox.append(|tail| {
            let tag = channel.sealer.fan_d(tail, &header, digest, body_bytes)?;
            tail.extend_from_slice(body_head);
            Ok::<_, LayoutError>(tag)
        })?;
        self.append_body_payload(message);
        self.outbox.append(|tail| tail.extend_from_slice(tag.as_ref()));
        Ok(())
    }
}

fn records_of(channel: &mut Option<Box<Channel>>) -> Option<&mut Records> {
    channel.as_mut()?.records_mut()
}

/// Returns the G-body of a message up to its payload (VEIL-1 section 6.1).
fn shared_body_head(message: &Message) -> Result<Vec<u8>, LayoutError> {
    let mut properties = Vec::new();
    let expiry = message.expiry().map(|expiry| expiry.interval_seconds);
    put_shared_properties(message.application_properties(), expiry, &mut properties);
    let body =
        SharedBody { stamp: None, topic: message.topic_as_bytes(), properties: &properties, payload: &[] };
    let mut head = Vec::new();
    body.encode_head(&mut head)?;
    Ok(head)
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Records(records) => {
                f.debug_struct("Records").field("fan", &records.fan).finish_non_exhaustive()
            }
            Self::Property(_) => f.write_str("Property"),
        }
    }
}
