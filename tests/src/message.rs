//! Application Messages as the puppets and the tests tell each other of them.
//!
//! `tests/interop/puppet.md` describes the JSON. A payload that is large travels as a file, so that a line stays short.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Larger payloads travel as files.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// An Application Message as a client received it, or as it shall send it.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The Topic Name.
    pub topic: String,
    /// The Application Message.
    pub payload: Vec<u8>,
    /// Quality of Service, 0..=2.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// The properties; version 5 only.
    pub properties: Properties,
}

/// The properties of a PUBLISH.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload Format Indicator: the payload is UTF-8.
    pub is_utf8: bool,
    /// Message Expiry Interval in seconds.
    pub expiry_seconds: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<u16>,
    /// Response Topic.
    pub response_topic: Option<String>,
    /// Correlation Data.
    pub correlation_data: Option<Vec<u8>>,
    /// Content Type.
    pub content_type: Option<String>,
    /// Subscription Identifiers, in rising order.
    pub subscription_ids: Vec<u32>,
    /// User Properties, in order.
    pub user: Vec<(String, String)>,
}

impl Message {
    /// A message that is not retained and has no properties.
    #[must_use]
    pub fn new(topic: &str, payload: &[u8], qos: u8) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            qos,
            retain: false,
            properties: Properties::default(),
        }
    }

    /// The same message with the RETAIN flag.
    #[must_use]
    pub fn retained(self) -> Self {
        Self { retain: true, ..self }
    }

    /// The same message with properties.
    #[must_use]
    pub fn with(self, properties: Properties) -> Self {
        Self { properties, ..self }
    }

    /// Writes the message as a puppet takes it; `directory` gets the payload if it is large.
    pub(crate) fn to_json(&self, directory: &Path) -> Value {
        let (field, payload) = if self.payload.len() <= INLINE_BYTES_MAX {
            ("payload", to_hex(&self.payload))
        } else {
            let file = directory.join("sent");
            std::fs::write(&file, &self.payload).expect("the payload can be written to a file");
            ("payload_file", file.to_string_lossy().into_owned())
        };
        json!({
            "topic": self.topic,
            field: payload,
            "qos": self.qos,
            "retain": self.retain,
            "properties": self.properties.to_json(),
        })
    }

    /// Reads a message that a puppet received; None if it is not as described.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let payload = match value["payload_file"].as_str() {
            Some(file) => std::fs::read(file).ok()?,
            None => from_hex(value["payload"].as_str()?)?,
        };
        Some(Self {
            topic: value["topic"].as_str()?.to_owned(),
            payload,
            qos: u8::try_from(value["qos"].as_u64()?).ok()?,
            retain: value["retain"].as_bool()?,
            properties: Properties::from_json(&value["properties"])?,
        })
    }
}

impl Properties {
    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("utf8", self.is_utf8.then(|| true.into()));
        put("expiry", self.expiry_seconds.map(Value::from));
        put("topic_alias", self.topic_alias.map(Value::from));
        put("response_topic", self.response_topic.clone().map(Value::from));
        put("correlation_data", self.correlation_data.as_deref().map(|data| to_hex(data).into()));
        put("content_type", self.content_type.clone().map(Value::from));
        put("user", (!self.user.is_empty()).then(|| json!(self.user)));
        fields.into()
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
        let pair =
            |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned()));
        let correlation_data = match value["correlation_data"].as_str() {
            Some(hex) => Some(from_hex(hex)?),
            None => None,
        };
        let ids = list("subscription_ids");
        let ids = ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        let mut subscription_ids = ids.collect::<Option<Vec<u32>>>()?;
        subscription_ids.sort_unstable();
        Some(Self {
            is_utf8: value["utf8"].as_bool().unwrap_or(false),
            expiry_seconds: value["expiry"].as_u64().and_then(|seconds| u32::try_from(seconds).ok()),
            topic_alias: value["topic_alias"].as_u64().and_then(|alias| u16::try_from(alias).ok()),
            response_topic: text("response_topic"),
            correlation_data,
            content_type: text("content_type"),
            subscription_ids,
            user: list("user").iter().map(pair).collect::<Option<_>>()?,
        })
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, payload, qos, retain, properties } = self;
        let shown = String::from_utf8_lossy(payload.get(..40).unwrap_or(payload));
        write!(formatter, "{topic} q{qos} r{} {} bytes {shown:?}", u8::from(*retain), payload.len())?;
        if *properties == Properties::default() { Ok(()) } else { write!(formatter, " {properties:?}") }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
