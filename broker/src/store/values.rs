//! Values: the bytes of what a record says, without its key.
//!
//! Numbers are little-endian; a text or byte string is its length as 32 bits and its bytes. Reading checks everything
//! that later code relies on, so a value that was read is as good as one from the wire; any bytes give a value or None.

use std::sync::Arc;

use veilmq_core::{
    CertificateField, CertificateFields, Expiry, Message, MessageId, MessageParts, Moment, Record, Reference,
    SessionId, SessionRecord, Source, Stage, SubscriptionRecord, WillRecord,
};
use veilmq_protocol::{
    PacketId, PublishProperties, QoS, RetainHandling, SubscribeOptions, TopicFilter, TopicName,
};

use super::entry::Key;

/// What is stored under a key, borrowed from the record that says it.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    /// A session head.
    Session(&'a SessionRecord),
    /// A subscription.
    Subscription(&'a str, &'a SubscriptionRecord),
    /// A message body.
    Message(&'a Message),
    /// A retained message.
    Retained(&'a Message),
    /// A reference.
    Reference(&'a Reference),
    /// A received Packet Identifier; the key says it all.
    Received,
}

impl Value<'_> {
    /// Tells whether it is a reference that a session has as a member of a group, which outlives the session.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Reference(Reference { share: Some(_), .. }))
    }

    /// Appends the bytes of the value.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Session(record) => encode_session(record, out),
            Self::Subscription(filter, record) => encode_subscription(filter, record, out),
            Self::Message(message) => encode_message(message, None, out),
            Self::Retained(message) => encode_message(message, message.source().map(|source| &**source), out),
            Self::Reference(reference) => encode_reference(reference, out),
            Self::Received => {}
        }
    }
}

const HAS_DISCONNECTED: u8 = 1 << 0;
/// In the flags of a retained message: whose it is; stores of before have none.
const HAS_SOURCE: u8 = 1 << 0;
const HAS_WILL: u8 = 1 << 1;
/// In the flags of a retained message: by which listener it came.
const HAS_LISTENER: u8 = 1 << 1;
const HAS_EXPIRY: u8 = 1 << 2;
/// In the flags of a session head: which Packet Identifier was last; stores of before have none.
const HAS_IDENTIFIER: u8 = 1 << 2;
const RETAIN: u8 = 1 << 3;
const NO_LOCAL: u8 = 1 << 4;
const RETAIN_AS_PUBLISHED: u8 = 1 << 5;
const AUTHENTICATED: u8 = 1 << 6;
const SHARED: u8 = 1 << 7;
/// In the flags of a retained message: what its publisher's certificate says.
const HAS_CERTIFICATE: u8 = 1 << 4;
/// In the flags of a retained message: somebody who vouched for its publisher said what that might do.
const IS_VOUCHED: u8 = 1 << 5;
/// In the flags of a session head or a retained message, which belong to no group.
const HAS_USER: u8 = 1 << 7;
/// In the flags of a retained message: all that is said of whose it is.
const OF_SOURCE: u8 = HAS_SOURCE | HAS_USER | HAS_LISTENER | HAS_CERTIFICATE | IS_VOUCHED;
/// In the flags of a reference: where its stage is, and where its Quality of Service is.
const STAGE_SHIFT: u8 = 4;
const STAGE: u8 = 0b11 << STAGE_SHIFT;
const QOS: u8 = 0b11;

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // Everything stored came out of one packet, which is below 2^28 bytes.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn encode_session(record: &SessionRecord, out: &mut Vec<u8>) {
    let SessionRecord {
        session: _,
        client_id,
        authenticated,
        user,
        expiry_seconds,
        disconnected_at,
        will,
        last_identifier,
    } = record;
    out.push(
        flag(disconnected_at.is_some(), HAS_DISCONNECTED)
            | flag(will.is_some(), HAS_WILL)
            | flag(*authenticated, AUTHENTICATED)
            | flag(user.is_some(), HAS_USER)
            | flag(*last_identifier > 0, HAS_IDENTIFIER),
    );
    out.extend_from_slice(&expiry_seconds.to_le_bytes());
    if *last_identifier > 0 {
        out.extend_from_slice(&last_identifier.to_le_bytes());
    }
    if let Some(at) = disconnected_at {
        out.extend_from_slice(&at.milliseconds().to_le_bytes());
    }
    put_bytes(client_id.as_bytes(), out);
    if let Some(user) = user {
        put_bytes(user.as_bytes(), out);
    }
    if let Some(will) = will {
        encode_will(will, out);
    }
}

fn encode_will(will: &WillRecord, out: &mut Vec<u8>) {
    let WillRecord {
        topic,
        payload,
        application_properties,
        message_expiry_seconds,
        qos,
        retain,
        delay_seconds,
    } = will;
    out.push(flag(*retain, RETAIN) | flag(message_expiry_seconds.is_some(), HAS_EXPIRY));
    out.push(qos.value());
    out.extend_from_slice(&delay_seconds.to_le_bytes());
    if let Some(seconds) = message_expiry_seconds {
        out.extend_from_slice(&seconds.to_le_bytes());
    }
    put_bytes(topic.as_bytes(), out);
    put_bytes(application_properties, out);
    put_bytes(payload, out);
}

fn encode_subscription(filter: &str, record: &SubscriptionRecord, out: &mut Vec<u8>) {
    let SubscriptionRecord { options, subscription_id } = record;
    out.push(flag(options.no_local, NO_LOCAL) | flag(options.retain_as_published, RETAIN_AS_PUBLISHED));
    out.push(options.qos.value());
    out.push(options.retain_handling as u8);
    out.extend_from_slice(&subscription_id.unwrap_or(0).to_le_bytes());
    put_bytes(filter.as_bytes(), out);
}

fn encode_message(message: &Message, source: Option<&Source>, out: &mut Vec<u8>) {
    let MessageParts {
        id: _,
        publisher: _,
        source: _,
        qos,
        retain,
        topic,
        application_properties,
        payload,
        expiry,
    } = message.parts();
    let (user, listener) =
        source.map_or((None, None), |source| (source.user.as_ref(), source.listener.as_ref()));
    let certificate = source.and_then(|source| source.certificate.as_deref());
    out.push(
        flag(retain, RETAIN)
            | flag(expiry.is_some(), HAS_EXPIRY)
            | flag(source.is_some(), HAS_SOURCE)
            | flag(user.is_some(), HAS_USER)
            | flag(listener.is_some(), HAS_LISTENER)
            | flag(certificate.is_some(), HAS_CERTIFICATE)
            | flag(source.is_some_and(|source| source.is_vouched), IS_VOUCHED),
    );
    out.push(qos.value());
    if let Some(expiry) = expiry {
        out.extend_from_slice(&expiry.at.milliseconds().to_le_bytes());
        out.extend_from_slice(&expiry.interval_seconds.to_le_bytes());
    }
    put_bytes(topic.as_bytes(), out);
    put_bytes(application_properties, out);
    let names = source.map(|source| &source.client_id).into_iter().chain(user).chain(listener);
    names.for_each(|name| put_bytes(name.as_bytes(), out));
    if let Some(certificate) = certificate {
        let fields = CertificateField::ALL.map(|field| certificate.field(field).unwrap_or_default());
        fields.iter().for_each(|text| put_bytes(text.as_bytes(), out));
    }
    put_bytes(payload, out);
}

fn encode_reference(reference: &Reference, out: &mut Vec<u8>) {
    let Reference { session: _, qos, retain, subscription_ids, share, stage } = reference;
    let (stage, packet_id) = match stage {
        Stage::Queued => (0, None),
        Stage::Published(packet_id) => (1, Some(packet_id)),
        Stage::Released(packet_id) => (2, Some(packet_id)),
    };
    // There may be millions of references, so that most of what can be said takes one byte.
    out.push(flag(*retain, RETAIN) | flag(share.is_some(), SHARED) | stage << STAGE_SHIFT | qos.value());
    if let Some(packet_id) = packet_id {
        out.extend_from_slice(&packet_id.value().to_le_bytes());
    }
    if let Some(share) = share {
        put_bytes(share.as_bytes(), out);
    }
    for id in subscription_ids {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

/// Reads what is stored under a key, as the record that says so; None if the bytes are not that. A body comes without references, a
/// reference as `Advanced`.
pub(crate) fn decode(key: Key, bytes: &[u8]) -> Option<Record> {
    let record = match key {
        Key::Session(session) => Record::Session(decode_session(session, bytes)?),
        Key::Subscription(session, _) => {
            let (filter, subscription) = decode_subscription(bytes)?;
            Record::Subscribed { session, filter: Arc::from(filter), subscription }
        }
        Key::Received(session, packet_id) => Record::Received { session, packet_id },
        Key::Retained(_) => Record::Retained { message: decode_retained(bytes)? },
        Key::Reference(session, message) => {
            Record::Advanced { reference: decode_reference(session, bytes)?, message }
        }
        Key::Body(message) => {
            Record::Published { message: decode_message(message, bytes)?, references: Vec::new() }
        }
    };
    Some(record)
}

/// Reads a session head; None if the bytes are not one.
fn decode_session(session: SessionId, bytes: &[u8]) -> Option<SessionRecord> {
    let mut fields = Fields(bytes);
    let known = HAS_DISCONNECTED | HAS_WILL | AUTHENTICATED | HAS_USER | HAS_IDENTIFIER;
    let flags = fields.flags(known)?;
    let authenticated = flags & AUTHENTICATED != 0;
    let expiry_seconds = fields.u32()?;
    let last_identifier = fields.when(flags & HAS_IDENTIFIER, Fields::u16)?.unwrap_or(0);
    let disconnected_at = fields.when(flags & HAS_DISCONNECTED, Fields::moment)?;
    let client_id = Arc::from(fields.text()?);
    let user = fields.when(flags & HAS_USER, Fields::text)?.map(Arc::from);
    let will = fields.when(flags & HAS_WILL, decode_will)?;
    fields.end()?;
    Some(SessionRecord {
        session,
        client_id,
        authenticated,
        user,
        expiry_seconds,
        disconnected_at,
        will,
        last_identifier,
    })
}

fn decode_will(fields: &mut Fields<'_>) -> Option<WillRecord> {
    let flags = fields.flags(RETAIN | HAS_EXPIRY)?;
    let qos = fields.qos()?;
    let delay_seconds = fields.u32()?;
    let message_expiry_seconds = fields.when(flags & HAS_EXPIRY, Fields::u32)?;
    let topic = fields.topic()?.to_owned();
    let application_properties = fields.properties()?.to_vec();
    let payload = fields.bytes()?.to_vec();
    let retain = flags & RETAIN != 0;
    Some(WillRecord {
        topic,
        payload,
        application_properties,
        message_expiry_seconds,
        qos,
        retain,
        delay_seconds,
    })
}

/// Reads a subscription and its Topic Filter; None if the bytes are not one.
fn decode_subscription(bytes: &[u8]) -> Option<(&str, SubscriptionRecord)> {
    let mut fields = Fields(bytes);
    let flags = fields.flags(NO_LOCAL | RETAIN_AS_PUBLISHED)?;
    let qos = fields.qos()?;
    let retain_handling = match fields.u8()? {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return None,
    };
    let subscription_id = Some(fields.u32()?).filter(|id| *id != 0);
    let filter = TopicFilter::new(fields.text()?).ok()?.as_str();
    fields.end()?;
    let options = SubscribeOptions {
        qos,
        no_local: flags & NO_LOCAL != 0,
        retain_as_published: flags & RETAIN_AS_PUBLISHED != 0,
        retain_handling,
    };
    Some((filter, SubscriptionRecord { options, subscription_id }))
}

/// Reads a message body; None if the bytes are not one. How many sessions need it is not part of it.
pub(crate) fn decode_message(id: MessageId, bytes: &[u8]) -> Option<Arc<Message>> {
    decode_any_message(Some(id), RETAIN | HAS_EXPIRY, bytes)
}

/// Reads a retained message; None if the bytes are not one.
fn decode_retained(bytes: &[u8]) -> Option<Arc<Message>> {
    decode_any_message(None, RETAIN | HAS_EXPIRY | OF_SOURCE, bytes)
}

fn decode_any_message(id: Option<MessageId>, known: u8, bytes: &[u8]) -> Option<Arc<Message>> {
    let mut fields = Fields(bytes);
    let flags = fields.flags(known)?;
    let qos = fields.qos()?;
    let expiry = fields.when(flags & HAS_EXPIRY, |fields| {
        Some(Expiry { at: fields.moment()?, interval_seconds: fields.u32()? })
    })?;
    let topic = fields.topic()?;
    let application_properties = fields.properties()?;
    let source = fields.source(flags)?.map(Arc::new);
    let payload = fields.bytes()?;
    fields.end()?;
    let parts = MessageParts {
        id,
        publisher: None,
        source: source.as_ref(),
        qos,
        retain: flags & RETAIN != 0,
        topic,
        application_properties,
        payload,
        expiry,
    };
    Some(Message::new(&parts, 0))
}

/// Reads a reference; None if the bytes are not one.
fn decode_reference(session: SessionId, bytes: &[u8]) -> Option<Reference> {
    let mut fields = Fields(bytes);
    let flags = fields.flags(RETAIN | SHARED | STAGE | QOS)?;
    let retain = flags & RETAIN != 0;
    let qos = QoS::try_from(flags & QOS).ok()?;
    let stage = match (flags & STAGE) >> STAGE_SHIFT {
        0 => Stage::Queued,
        1 => Stage::Published(PacketId::new(fields.u16()?)?),
        2 => Stage::Released(PacketId::new(fields.u16()?)?),
        _ => return None,
    };
    let share = fields.when(flags & SHARED, |fields| fields.shared_filter().map(Arc::from))?;
    let (ids, []) = fields.0.as_chunks::<4>() else { return None };
    let subscription_ids = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
    Some(Reference { session, qos, retain, subscription_ids, share, stage })
}

/// Bytes that are read field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn moment(&mut self) -> Option<Moment> {
        self.array().map(|bytes| Moment::from_milliseconds(u64::from_le_bytes(bytes)))
    }

    fn flags(&mut self, known: u8) -> Option<u8> {
        self.u8().filter(|flags| flags & !known == 0)
    }

    fn qos(&mut self) -> Option<QoS> {
        QoS::try_from(self.u8()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        core::str::from_utf8(self.bytes()?).ok()
    }

    fn topic(&mut self) -> Option<&'a str> {
        TopicName::new(self.text()?).ok().map(TopicName::as_str)
    }

    fn shared_filter(&mut self) -> Option<&'a str> {
        let filter = TopicFilter::new(self.text()?).ok()?;
        filter.shared().map(|_| filter.as_str())
    }

    fn properties(&mut self) -> Option<&'a [u8]> {
        let bytes = self.bytes()?;
        PublishProperties::decode_application(bytes).ok()?;
        Some(bytes)
    }

    /// Reads whose a retained message is; the outer None is damage.
    fn source(&mut self, flags: u8) -> Option<Option<Source>> {
        let name = |fields: &mut Self| fields.text().map(Arc::from);
        let client_id = self.when(flags & HAS_SOURCE, name)?;
        let user = self.when(flags & HAS_USER, name)?;
        let listener = self.when(flags & HAS_LISTENER, name)?;
        let certificate = self.when(flags & HAS_CERTIFICATE, Self::certificate)?.map(Arc::new);
        let is_vouched = flags & IS_VOUCHED != 0;
        match client_id {
            Some(client_id) => Some(Some(Source { client_id, user, listener, is_vouched, certificate })),
            // Without whose it is nothing is said of that.
            None => (flags & OF_SOURCE == 0).then_some(None),
        }
    }

    /// Reads what a certificate says, field by field; one that it says nothing of is empty.
    fn certificate(&mut self) -> Option<CertificateFields> {
        let mut said = Vec::new();
        for field in CertificateField::ALL {
            said.push((field, self.text()?.into()));
        }
        Some(CertificateFields::new(said))
    }

    /// Reads a field that is there only if the flag is set; the outer None is damage.
    fn when<T>(&mut self, flag: u8, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if flag == 0 { Some(None) } else { read(self).map(Some) }
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests;
