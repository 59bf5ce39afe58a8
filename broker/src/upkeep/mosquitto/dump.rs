//! What `mosquitto_db_dump --json` prints: one object with a list for each kind of thing in Mosquitto's database.
//!
//! Fields that are not listed here are passed over, as later versions may have more. Invariant: what is read here is as good as
//! what comes from a client; a fault names the list, the place in it, and the field.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use veilmq_protocol::{PublishProperties, QoS, TopicFilter, TopicName, UserPropertiesBuf};

/// A whole dump.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Dump {
    /// Messages that are retained or that clients wait for.
    pub(super) base_messages: Vec<BaseMessage>,
    /// Sessions.
    pub(super) clients: Vec<Client>,
    /// Which message is at which stage of its way from or to which client.
    pub(super) client_messages: Vec<ClientMessage>,
    /// Which messages are retained.
    pub(super) retained_messages: Vec<RetainedMessage>,
    /// What clients have subscribed to.
    pub(super) subscriptions: Vec<Subscription>,
}

/// A message.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct BaseMessage {
    pub(super) storeid: u64,
    /// When it expires, in seconds of Unix time; 0 is never.
    pub(super) expiry_time: i64,
    /// The Packet Identifier that its publisher gave it.
    pub(super) source_mid: u16,
    pub(super) qos: u8,
    pub(super) retain: u8,
    pub(super) topic: String,
    /// The Client Identifier of its publisher.
    pub(super) clientid: Option<String>,
    /// The user name of its publisher.
    pub(super) username: Option<String>,
    /// Base64; absent if it is empty.
    #[serde(default)]
    pub(super) payload: String,
    #[serde(default)]
    pub(super) properties: Vec<Property>,
}

/// A property of a message.
#[derive(Deserialize)]
pub(super) struct Property {
    identifier: String,
    name: Option<String>,
    value: Option<Value>,
}

/// A session.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Client {
    pub(super) clientid: String,
    pub(super) username: Option<String>,
    /// When it ends, in seconds of Unix time; 0 if its client is connected, or it never does.
    pub(super) session_expiry_time: i64,
    pub(super) session_expiry_interval: u32,
}

/// A message on its way.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ClientMessage {
    pub(super) clientid: String,
    /// The message; in Mosquitto 2.1 it is the Subscription Identifier instead.
    pub(super) storeid: u64,
    pub(super) mid: u16,
    pub(super) qos: u8,
    pub(super) state: u8,
    /// RETAIN of the delivery in the upper four bits.
    pub(super) retain_dup: u8,
    /// 0 from the client, 1 to it.
    pub(super) direction: u8,
    #[serde(default)]
    pub(super) subscription_identifier: u32,
}

/// That a message is retained.
#[derive(Deserialize)]
pub(super) struct RetainedMessage {
    pub(super) storeid: u64,
}

/// A subscription.
#[derive(Deserialize)]
pub(super) struct Subscription {
    pub(super) clientid: String,
    pub(super) topic: String,
    pub(super) qos: u8,
    /// No Local, Retain As Published and Retain Handling as in SUBSCRIBE.
    pub(super) options: u8,
    /// 0 for none.
    #[serde(default)]
    pub(super) identifier: u32,
}

/// What is wrong with a dump, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpFault {
    /// It is not JSON, or a field is missing or of another type; the text says at which line.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value that it cannot have.
    #[error("{list}[{index}], field `{field}`: {what}")]
    Field {
        /// The list.
        list: &'static str,
        /// The place in it, from 0.
        index: usize,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

/// What is wrong with a field.
pub(super) type Wrong = (&'static str, String);

/// Adds the place to what is wrong with a field.
pub(super) fn at(list: &'static str, index: usize) -> impl Fn(Wrong) -> DumpFault {
    move |(field, what)| DumpFault::Field { list, index, field, what }
}

impl BaseMessage {
    /// Checks the topic.
    pub(super) fn topic(&self) -> Result<TopicName<'_>, Wrong> {
        TopicName::new(&self.topic).map_err(|error| ("topic", format!("it is not a Topic Name: {error}")))
    }

    /// Decodes the payload.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Wrong> {
        STANDARD.decode(&self.payload).map_err(|error| ("payload", format!("it is not base64: {error}")))
    }

    /// Encodes the properties that are passed on.
    pub(super) fn application_properties(&self) -> Result<Vec<u8>, Wrong> {
        const FIELD: &str = "properties";
        let mut user = UserPropertiesBuf::new();
        let mut correlation = None;
        for property in &self.properties {
            match property.identifier.as_str() {
                "user-property" => user
                    .push(property.name.as_deref().unwrap_or_default(), property.text()?)
                    .map_err(|error| (FIELD, error.to_string()))?,
                "correlation-data" => {
                    let bytes = bytes_of_hexadecimal(property.text()?);
                    correlation = Some(bytes.ok_or((FIELD, "`correlation-data` is not hexadecimal".into()))?);
                }
                _ => {}
            }
        }
        let mut properties = PublishProperties {
            correlation_data: correlation.as_deref(),
            user: user.as_user_properties(),
            ..PublishProperties::default()
        };
        for property in &self.properties {
            match property.identifier.as_str() {
                "payload-format-indicator" => {
                    let is_utf8 = property.value.as_ref().and_then(Value::as_u64).filter(|value| *value < 2);
                    let wrong = || (FIELD, "`payload-format-indicator` is neither 0 nor 1".to_owned());
                    properties.payload_is_utf8 = Some(is_utf8.ok_or_else(wrong)? == 1);
                }
                "content-type" => properties.content_type = Some(property.text()?),
                "response-topic" => {
                    let topic = TopicName::new(property.text()?);
                    let wrong = |error| (FIELD, format!("`response-topic` is not a Topic Name: {error}"));
                    properties.response_topic = Some(topic.map_err(wrong)?);
                }
                _ => {}
            }
        }
        let mut encoded = Vec::new();
        properties.encode_application(&mut encoded).map_err(|error| (FIELD, error.to_string()))?;
        Ok(encoded)
    }
}

impl Property {
    fn text(&self) -> Result<&str, Wrong> {
        let text = self.value.as_ref().and_then(Value::as_str);
        text.ok_or_else(|| ("properties", format!("the value of `{}` is not a text", self.identifier)))
    }
}

impl Subscription {
    /// Checks the filter.
    pub(super) fn filter(&self) -> Result<TopicFilter<'_>, Wrong> {
        TopicFilter::new(&self.topic).map_err(|error| ("topic", format!("it is not a Topic Filter: {error}")))
    }
}

/// Reads a Quality of Service.
pub(super) fn qos(value: u8) -> Result<QoS, Wrong> {
    QoS::try_from(value).map_err(|_| ("qos", "it is not 0, 1 or 2".to_owned()))
}

fn bytes_of_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}
