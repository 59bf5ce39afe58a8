//! From records to the lines of an export; docs/store-export.md describes each field.
//!
//! Invariant: what these lines say, `decode` reads back as the same records.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use veilmq_core::{
    CertificateFields, Message, MessageId, Moment, Record, Reference, SessionRecord, Stage, WillRecord,
};

use super::spool::Place;
use super::tally::Tally;

/// What the first line of every export says.
pub(crate) const FORMAT: &str = "veilmq-export";
/// The version of the format that is written, and the newest that is read.
pub(crate) const VERSION: u64 = 1;

/// A line; the names of the variants are the values of `kind`.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Session {
        session: u64,
        client_id: &'a str,
        authenticated: bool,
        user: Option<&'a str>,
        expiry_seconds: u32,
        disconnected_at_ms: Option<u64>,
        will: Option<Will<'a>>,
        last_packet_id: u16,
    },
    Subscription {
        session: u64,
        filter: &'a str,
        qos: u8,
        no_local: bool,
        retain_as_published: bool,
        retain_handling: u8,
        subscription_id: Option<u32>,
    },
    Message {
        message: u64,
        #[serde(flatten)]
        body: Body<'a>,
    },
    Delivery {
        message: u64,
        session: u64,
        qos: u8,
        retain: bool,
        subscription_ids: &'a [u32],
        share: Option<&'a str>,
        stage: &'static str,
        packet_id: Option<u16>,
    },
    Received {
        session: u64,
        packet_id: u16,
    },
    Retained {
        #[serde(flatten)]
        body: Body<'a>,
        source: Option<Source<'a>>,
    },
    End {
        #[serde(flatten)]
        tally: &'a Tally,
    },
}

#[derive(Serialize)]
struct Header {
    format: &'static str,
    version: u64,
}

#[derive(Serialize)]
struct Will<'a> {
    topic: &'a str,
    qos: u8,
    retain: bool,
    delay_seconds: u32,
    message_expiry_seconds: Option<u32>,
    properties: Base64<'a>,
    payload: Base64<'a>,
}

#[derive(Serialize)]
struct Source<'a> {
    client_id: &'a str,
    user: Option<&'a str>,
    listener: Option<&'a str>,
    vouched: bool,
    certificate: Option<Certificate<'a>>,
}

/// What a certificate says, field by field.
struct Certificate<'a>(&'a CertificateFields);

impl Serialize for Certificate<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(field, text)| (field.name(), text)))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    topic: &'a str,
    qos: u8,
    retain: bool,
    expires_at_ms: Option<u64>,
    expiry_seconds: Option<u32>,
    properties: Base64<'a>,
    payload: Base64<'a>,
}

/// Bytes as text: the standard alphabet of RFC 4648, padded.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Appends the first line.
pub(crate) fn header(out: &mut Vec<u8>) {
    append(&Header { format: FORMAT, version: VERSION }, out);
}

/// Appends the last line.
pub(crate) fn end(tally: &Tally, out: &mut Vec<u8>) {
    append(&Line::End { tally }, out);
}

/// Passes on the lines of one record of a replay with their places: a body has one, and one for each of its references. Other
/// records, which say that something is gone, have none.
pub(crate) fn record<E>(
    record: &Record,
    line: &mut Vec<u8>,
    mut put: impl FnMut(Place, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut put = |place, content: &Line<'_>| {
        line.clear();
        append(content, line);
        put(place, line)
    };
    match record {
        Record::Session(head) => put(Place::session(head.session), &session(head)),
        Record::Subscribed { session, filter, subscription } => {
            let options = subscription.options;
            let line = Line::Subscription {
                session: session.0,
                filter,
                qos: options.qos.value(),
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                retain_handling: options.retain_handling as u8,
                subscription_id: subscription.subscription_id,
            };
            put(Place::subscription(*session, filter), &line)
        }
        Record::Published { message, references } => {
            let Some(id) = message.id() else { return Ok(()) };
            put(Place::message(id), &Line::Message { message: id.0, body: body(message) })?;
            references
                .iter()
                .try_for_each(|reference| put(Place::delivery(id, reference), &delivery(id, reference)))
        }
        Record::Advanced { reference, message } => {
            put(Place::delivery(*message, reference), &delivery(*message, reference))
        }
        Record::Received { session, packet_id } => {
            let line = Line::Received { session: session.0, packet_id: packet_id.value() };
            put(Place::received(*session, *packet_id), &line)
        }
        Record::Retained { message } => {
            let source = message.source().map(|source| Source {
                client_id: &source.client_id,
                user: source.user.as_deref(),
                listener: source.listener.as_deref(),
                vouched: source.is_vouched,
                certificate: source.certificate.as_deref().map(Certificate),
            });
            put(Place::retained(message.topic()), &Line::Retained { body: body(message), source })
        }
        Record::SessionEnded { .. }
        | Record::Unsubscribed { .. }
        | Record::Forgotten { .. }
        | Record::Settled { .. }
        | Record::Released { .. }
        | Record::RetainedCleared { .. } => Ok(()),
    }
}

fn append(line: &impl Serialize, out: &mut Vec<u8>) {
    // Nothing here fails to be written to memory: no map has keys that are not text.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b'\n');
}

fn session(head: &SessionRecord) -> Line<'_> {
    let SessionRecord {
        session,
        client_id,
        authenticated,
        user,
        expiry_seconds,
        disconnected_at,
        will,
        last_identifier,
    } = head;
    Line::Session {
        session: session.0,
        client_id,
        authenticated: *authenticated,
        user: user.as_deref(),
        expiry_seconds: *expiry_seconds,
        disconnected_at_ms: disconnected_at.map(Moment::milliseconds),
        last_packet_id: *last_identifier,
        will: will.as_ref().map(|will| {
            let WillRecord {
                topic,
                payload,
                application_properties,
                message_expiry_seconds,
                qos,
                retain,
                delay_seconds,
            } = will;
            Will {
                topic,
                qos: qos.value(),
                retain: *retain,
                delay_seconds: *delay_seconds,
                message_expiry_seconds: *message_expiry_seconds,
                properties: Base64(application_properties),
                payload: Base64(payload),
            }
        }),
    }
}

fn body(message: &Message) -> Body<'_> {
    let parts = message.parts();
    Body {
        topic: parts.topic,
        qos: parts.qos.value(),
        retain: parts.retain,
        expires_at_ms: parts.expiry.map(|expiry| expiry.at.milliseconds()),
        expiry_seconds: parts.expiry.map(|expiry| expiry.interval_seconds),
        properties: Base64(parts.application_properties),
        payload: Base64(parts.payload),
    }
}

fn delivery(message: MessageId, reference: &Reference) -> Line<'_> {
    let Reference { session, qos, retain, subscription_ids, share, stage } = reference;
    let (stage, packet_id) = match stage {
        Stage::Queued => ("queued", None),
        Stage::Published(packet_id) => ("published", Some(packet_id.value())),
        Stage::Released(packet_id) => ("released", Some(packet_id.value())),
    };
    Line::Delivery {
        message: message.0,
        session: session.0,
        qos: qos.value(),
        retain: *retain,
        subscription_ids,
        share: share.as_deref(),
        stage,
        packet_id,
    }
}
