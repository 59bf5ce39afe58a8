//! From the lines of an export to records: every field is checked, as what comes from a client is.
//!
//! Any bytes give a line or a fault that names the field. What lines say about one another is checked by `import`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use veilmq_core::{
    CertificateField, CertificateFields, Expiry, Message, MessageId, MessageParts, Moment, Reference,
    SessionId, SessionRecord, Source, Stage, SubscriptionRecord, WillRecord,
};
use veilmq_protocol::{
    PacketId, PublishProperties, QoS, RetainHandling, SubscribeOptions, TopicFilter, TopicName,
};

use super::encode::{FORMAT, VERSION};
use super::tally::Tally;

/// What a line after the first says.
pub(crate) enum Line {
    Session(SessionRecord),
    Subscription { session: SessionId, filter: Arc<str>, subscription: SubscriptionRecord },
    Message(Arc<Message>),
    Delivery { message: MessageId, reference: Reference },
    Received { session: SessionId, packet_id: PacketId },
    Retained(Arc<Message>),
    End(Tally),
}

/// What is wrong with a line.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The field at fault; None if it is the line.
    pub(crate) field: Option<&'static str>,
    /// What is wrong with it.
    pub(crate) what: String,
}

impl Fault {
    /// Says what is wrong with a field.
    pub(crate) fn of(field: &'static str, what: impl Into<String>) -> Self {
        Self { field: Some(field), what: what.into() }
    }

    /// Says what is wrong with the line.
    pub(crate) fn of_line(what: impl Into<String>) -> Self {
        Self { field: None, what: what.into() }
    }
}

type Checked<T> = Result<T, Fault>;

/// Checks that the first line is that of an export which this broker understands.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn header(line: &[u8]) -> Checked<()> {
    let mut fields = Fields::of(line)?;
    if fields.text("format")? != FORMAT {
        return Err(Fault::of("format", format!("it is not {FORMAT:?}")));
    }
    match fields.number("version", u64::MAX)? {
        VERSION => fields.end(),
        other => Err(Fault::of("version", format!("it is {other}, and this broker reads {VERSION}"))),
    }
}

/// Reads any other line.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn line(line: &[u8]) -> Checked<Line> {
    let mut fields = Fields::of(line)?;
    let kind = fields.text("kind")?;
    let line = match kind.as_str() {
        "session" => Line::Session(fields.session_head()?),
        "subscription" => fields.subscription()?,
        "message" => {
            let id = MessageId(fields.number("message", u64::MAX)?);
            Line::Message(fields.body(Some(id), None)?)
        }
        "delivery" => fields.delivery()?,
        "received" => Line::Received { session: fields.session()?, packet_id: fields.packet_id()? },
        "retained" => {
            let source = fields.source()?.map(Arc::new);
            Line::Retained(fields.body(None, source.as_ref())?)
        }
        "end" => Line::End(fields.tally()?),
        other => return Err(Fault::of("kind", format!("there is no {other:?}"))),
    };
    fields.end()?;
    Ok(line)
}

/// The fields of a line that have not been read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(line: &[u8]) -> Checked<Self> {
        match serde_json::from_slice(line) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Fault::of_line("it is not an object")),
            Err(error) => Err(Fault::of_line(format!("it is not JSON: {error}"))),
        }
    }

    fn take(&mut self, field: &'static str) -> Checked<Value> {
        self.0.remove(field).ok_or_else(|| Fault::of(field, "it is missing"))
    }

    /// Reads a field that may be null.
    fn optional<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Checked<T>,
    ) -> Checked<Option<T>> {
        match self.0.get(field) {
            Some(Value::Null) => {
                self.0.remove(field);
                Ok(None)
            }
            Some(_) | None => read(self, field).map(Some),
        }
    }

    fn end(&self) -> Checked<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Fault::of_line(format!("field {name:?} is not known"))),
        }
    }

    fn text(&mut self, field: &'static str) -> Checked<String> {
        match self.take(field)? {
            Value::String(text) => Ok(text),
            _ => Err(Fault::of(field, "it is not a text")),
        }
    }

    fn flag(&mut self, field: &'static str) -> Checked<bool> {
        self.take(field)?.as_bool().ok_or_else(|| Fault::of(field, "it is neither true nor false"))
    }

    fn number(&mut self, field: &'static str, max: u64) -> Checked<u64> {
        let number = self.take(field)?.as_u64().filter(|number| *number <= max);
        number.ok_or_else(|| Fault::of(field, format!("it is not a whole number from 0 to {max}")))
    }

    fn u32(&mut self, field: &'static str) -> Checked<u32> {
        let number = self.number(field, u32::MAX.into())?;
        u32::try_from(number).map_err(|error| Fault::of(field, error.to_string()))
    }

    fn moment(&mut self, field: &'static str) -> Checked<Moment> {
        self.number(field, u64::MAX).map(Moment::from_milliseconds)
    }

    fn bytes(&mut self, field: &'static str) -> Checked<Vec<u8>> {
        STANDARD
            .decode(self.text(field)?)
            .map_err(|error| Fault::of(field, format!("it is not base64: {error}")))
    }

    fn session(&mut self) -> Checked<SessionId> {
        self.number("session", u64::MAX).map(SessionId)
    }

    fn packet_id(&mut self) -> Checked<PacketId> {
        let number = u16::try_from(self.number("packet_id", u64::MAX)?).ok();
        number
            .and_then(PacketId::new)
            .ok_or_else(|| Fault::of("packet_id", "it is not a whole number from 1 to 65535"))
    }

    fn qos(&mut self) -> Checked<QoS> {
        let number = u8::try_from(self.number("qos", u64::MAX)?).ok();
        number
            .and_then(|number| QoS::try_from(number).ok())
            .ok_or_else(|| Fault::of("qos", "it is not 0, 1 or 2"))
    }

    fn topic(&mut self) -> Checked<String> {
        let topic = self.text("topic")?;
        match TopicName::new(&topic) {
            Ok(_) => Ok(topic),
            Err(error) => Err(Fault::of("topic", format!("it is not a Topic Name: {error}"))),
        }
    }

    fn filter(&mut self, field: &'static str) -> Checked<String> {
        let filter = self.text(field)?;
        match TopicFilter::new(&filter) {
            Ok(_) => Ok(filter),
            Err(error) => Err(Fault::of(field, format!("it is not a Topic Filter: {error}"))),
        }
    }

    fn properties(&mut self) -> Checked<Vec<u8>> {
        let properties = self.bytes("properties")?;
        match PublishProperties::decode_application(&properties) {
            Ok(_) => Ok(properties),
            Err(error) => {
                Err(Fault::of("properties", format!("they are not application properties: {error}")))
            }
        }
    }

    fn session_head(&mut self) -> Checked<SessionRecord> {
        let client_id = self.text("client_id")?;
        if client_id.len() > u16::MAX.into() {
            return Err(Fault::of("client_id", "it has more than 65535 bytes"));
        }
        Ok(SessionRecord {
            session: self.session()?,
            client_id: Arc::from(client_id),
            authenticated: self.flag("authenticated")?,
            user: self.user()?,
            expiry_seconds: self.u32("expiry_seconds")?,
            disconnected_at: self.optional("disconnected_at_ms", Self::moment)?,
            will: self.optional("will", Self::will)?,
            last_identifier: self.last_identifier()?,
        })
    }

    /// Reads the last Packet Identifier, which exports of earlier brokers do not have.
    fn last_identifier(&mut self) -> Checked<u16> {
        if !self.0.contains_key("last_packet_id") {
            return Ok(0);
        }
        let identifier = self.u32("last_packet_id")?;
        u16::try_from(identifier).map_err(|_| Fault::of("last_packet_id", "it is above 65535"))
    }

    /// Reads the user name, which exports of brokers that knew no users do not have.
    fn user(&mut self) -> Checked<Option<Arc<str>>> {
        if !self.0.contains_key("user") {
            return Ok(None);
        }
        Ok(self.optional("user", Self::text)?.map(Arc::from))
    }

    fn will(&mut self, field: &'static str) -> Checked<WillRecord> {
        let Value::Object(fields) = self.take(field)? else {
            return Err(Fault::of(field, "it is neither an object nor null"));
        };
        let mut will = Self(fields);
        let record = WillRecord {
            topic: will.topic()?,
            payload: will.bytes("payload")?,
            application_properties: will.properties()?,
            message_expiry_seconds: will.optional("message_expiry_seconds", Self::u32)?,
            qos: will.qos()?,
            retain: will.flag("retain")?,
            delay_seconds: will.u32("delay_seconds")?,
        };
        will.end()?;
        Ok(record)
    }

    fn subscription(&mut self) -> Checked<Line> {
        let retain_handling = match self.number("retain_handling", 2)? {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            _ => RetainHandling::DoNotSend,
        };
        let options = SubscribeOptions {
            qos: self.qos()?,
            no_local: self.flag("no_local")?,
            retain_as_published: self.flag("retain_as_published")?,
            retain_handling,
        };
        Ok(Line::Subscription {
            session: self.session()?,
            filter: Arc::from(self.filter("filter")?),
            subscription: SubscriptionRecord {
                options,
                subscription_id: self.optional("subscription_id", Self::subscription_id)?,
            },
        })
    }

    fn subscription_id(&mut self, field: &'static str) -> Checked<u32> {
        let id = self.take(field)?;
        subscription_id(&id, field)
    }

    fn body(&mut self, id: Option<MessageId>, source: Option<&Arc<Source>>) -> Checked<Arc<Message>> {
        let at = self.optional("expires_at_ms", Self::moment)?;
        let interval = self.optional("expiry_seconds", Self::u32)?;
        let expiry = match (at, interval) {
            (Some(at), Some(interval_seconds)) => Some(Expiry { at, interval_seconds }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Fault::of("expiry_seconds", "it and `expires_at_ms` go together"));
            }
        };
        let (topic, properties, payload) = (self.topic()?, self.properties()?, self.bytes("payload")?);
        let parts = MessageParts {
            id,
            publisher: None,
            source,
            qos: self.qos()?,
            retain: self.flag("retain")?,
            topic: &topic,
            application_properties: &properties,
            payload: &payload,
            expiry,
        };
        Ok(Message::new(&parts, 0))
    }

    /// Reads whose a retained message is, which exports of brokers that did not remember it do not have.
    fn source(&mut self) -> Checked<Option<Source>> {
        const FIELD: &str = "source";
        let source = match self.0.remove(FIELD) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(fields)) => &mut Self(fields),
            Some(_) => return Err(Fault::of(FIELD, "it is neither an object nor null")),
        };
        let client_id = Arc::from(source.text("client_id")?);
        let user = source.optional("user", Self::text)?.map(Arc::from);
        let listener = source.optional("listener", Self::text)?.map(Arc::from);
        // Exports of brokers that did not remember these do not have them.
        let is_vouched = source.0.contains_key("vouched") && source.flag("vouched")?;
        let certificate = source.certificate()?.map(Arc::new);
        source.end()?;
        Ok(Some(Source { client_id, user, listener, is_vouched, certificate }))
    }

    /// Reads what the publisher's certificate says, which exports of brokers that did not remember it do not have.
    fn certificate(&mut self) -> Checked<Option<CertificateFields>> {
        const FIELD: &str = "certificate";
        let said = match self.0.remove(FIELD) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(said)) => said,
            Some(_) => return Err(Fault::of(FIELD, "it is neither an object nor null")),
        };
        let fields = said.into_iter().map(|(name, text)| {
            let field = CertificateField::named(&name);
            let field = field.ok_or_else(|| Fault::of(FIELD, format!("there is no field {name:?}")))?;
            match text {
                Value::String(text) if !text.is_empty() => Ok((field, text.into())),
                _ => Err(Fault::of(FIELD, format!("{name:?} is not a text with something in it"))),
            }
        });
        Ok(Some(CertificateFields::new(fields.collect::<Checked<Vec<_>>>()?)))
    }

    fn delivery(&mut self) -> Checked<Line> {
        let qos = self.qos()?;
        if qos == QoS::AtMostOnce {
            return Err(Fault::of("qos", "it is not 1 or 2"));
        }
        let reference = Reference {
            session: self.session()?,
            qos,
            retain: self.flag("retain")?,
            subscription_ids: self.subscription_ids()?,
            share: self.optional("share", Self::share)?,
            stage: self.stage()?,
        };
        Ok(Line::Delivery { message: MessageId(self.number("message", u64::MAX)?), reference })
    }

    fn subscription_ids(&mut self) -> Checked<Vec<u32>> {
        const FIELD: &str = "subscription_ids";
        let Value::Array(ids) = self.take(FIELD)? else {
            return Err(Fault::of(FIELD, "it is not a list"));
        };
        ids.iter().map(|id| subscription_id(id, FIELD)).collect()
    }

    fn share(&mut self, field: &'static str) -> Checked<Arc<str>> {
        let filter = self.filter(field)?;
        match TopicFilter::new(&filter).ok().and_then(TopicFilter::shared) {
            Some(_) => Ok(Arc::from(filter)),
            None => Err(Fault::of(field, "it is not the filter of a Shared Subscription")),
        }
    }

    fn stage(&mut self) -> Checked<Stage> {
        let packet_id = self.optional("packet_id", |fields, _| fields.packet_id())?;
        match (self.text("stage")?.as_str(), packet_id) {
            ("queued", None) => Ok(Stage::Queued),
            ("published", Some(packet_id)) => Ok(Stage::Published(packet_id)),
            ("released", Some(packet_id)) => Ok(Stage::Released(packet_id)),
            ("queued", Some(_)) => Err(Fault::of("packet_id", "a queued delivery has none")),
            ("published" | "released", None) => Err(Fault::of("packet_id", "it is missing at this stage")),
            (other, _) => Err(Fault::of("stage", format!("there is no {other:?}"))),
        }
    }

    fn tally(&mut self) -> Checked<Tally> {
        Ok(Tally {
            sessions: self.number("sessions", u64::MAX)?,
            subscriptions: self.number("subscriptions", u64::MAX)?,
            messages: self.number("messages", u64::MAX)?,
            deliveries: self.number("deliveries", u64::MAX)?,
            received: self.number("received", u64::MAX)?,
            retained: self.number("retained", u64::MAX)?,
            message_bytes: self.number("message_bytes", u64::MAX)?,
        })
    }
}

/// Subscription Identifiers are 1 to 268,435,455 (section 3.8.2.1.2).
fn subscription_id(id: &Value, field: &'static str) -> Checked<u32> {
    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
    id.filter(|id| (1..=268_435_455).contains(id))
        .ok_or_else(|| Fault::of(field, "a Subscription Identifier is a whole number from 1 to 268435455"))
}
