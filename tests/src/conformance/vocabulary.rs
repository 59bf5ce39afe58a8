//! The names that scripts use: fields, properties and Reason Codes, and how each is written on the wire.
//!
//! Names of the standard that are used as they are (packets, Reason Codes) come from `veilmq-protocol`.

use veilmq_protocol::{PacketType, ReasonCode};

/// How a field or property is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Byte,
    TwoBytes,
    FourBytes,
    VariableInteger,
    Text,
    Pair,
    /// One Reason Code per filter.
    Codes,
}

impl Form {
    /// The largest number that can be written in this form; none if it holds no number.
    pub(super) fn number_max(self) -> Option<u64> {
        match self {
            Self::Byte => Some(0xFF),
            Self::TwoBytes => Some(0xFFFF),
            Self::FourBytes => Some(0xFFFF_FFFF),
            Self::VariableInteger => Some(268_435_455),
            Self::Text | Self::Pair | Self::Codes => None,
        }
    }
}

/// A property of MQTT 5 section 2.2.2.2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) id: u8,
    pub(super) form: Form,
}

const fn property(name: &'static str, id: u8, form: Form) -> Property {
    Property { name, id, form }
}

pub(super) const PROPERTIES: [Property; 26] = [
    property("payload_format", 0x01, Form::Byte),
    property("expiry", 0x02, Form::FourBytes),
    property("content_type", 0x03, Form::Text),
    property("response_topic", 0x08, Form::Text),
    property("correlation", 0x09, Form::Text),
    property("sub_id", 0x0B, Form::VariableInteger),
    property("session_expiry", 0x11, Form::FourBytes),
    property("assigned_client_id", 0x12, Form::Text),
    property("server_keep_alive", 0x13, Form::TwoBytes),
    property("method", 0x15, Form::Text),
    property("data", 0x16, Form::Text),
    property("request_problem", 0x17, Form::Byte),
    property("request_response", 0x19, Form::Byte),
    property("response_information", 0x1A, Form::Text),
    property("server_reference", 0x1C, Form::Text),
    property("reason_string", 0x1F, Form::Text),
    property("receive_maximum", 0x21, Form::TwoBytes),
    property("topic_alias_max", 0x22, Form::TwoBytes),
    property("alias", 0x23, Form::TwoBytes),
    property("qos_max", 0x24, Form::Byte),
    property("retain_available", 0x25, Form::Byte),
    property("user", 0x26, Form::Pair),
    property("packet_max", 0x27, Form::FourBytes),
    property("wildcard_available", 0x28, Form::Byte),
    property("sub_ids_available", 0x29, Form::Byte),
    property("shared_available", 0x2A, Form::Byte),
];

/// The Will Properties of CONNECT.
pub(super) const WILL_PROPERTIES: [Property; 7] = [
    property("will_payload_format", 0x01, Form::Byte),
    property("will_expiry", 0x02, Form::FourBytes),
    property("will_content_type", 0x03, Form::Text),
    property("will_response_topic", 0x08, Form::Text),
    property("will_correlation", 0x09, Form::Text),
    property("will_delay", 0x18, Form::FourBytes),
    property("will_user", 0x26, Form::Pair),
];

type Row = (&'static str, Form);

const CONNECT: &[Row] = &[
    ("client", Form::Text),
    ("clean_start", Form::Byte),
    ("keep_alive", Form::TwoBytes),
    ("username", Form::Text),
    ("password", Form::Text),
    ("will_topic", Form::Text),
    ("will_payload", Form::Text),
    ("will_qos", Form::Byte),
    ("will_retain", Form::Byte),
    ("version", Form::Text),
    ("protocol", Form::Text),
    ("level", Form::Byte),
    ("flags", Form::Byte),
];
const PUBLISH: &[Row] = &[
    ("topic", Form::Text),
    ("payload", Form::Text),
    ("qos", Form::Byte),
    ("retain", Form::Byte),
    ("dup", Form::Byte),
    ("id", Form::TwoBytes),
];
const SUBSCRIBE: &[Row] = &[
    ("id", Form::TwoBytes),
    ("filter", Form::Text),
    ("qos", Form::Byte),
    ("nl", Form::Byte),
    ("rap", Form::Byte),
    ("rh", Form::Byte),
    ("options", Form::Byte),
];

/// The fields of a packet that are not properties.
fn rows(packet: PacketType) -> &'static [Row] {
    match packet {
        PacketType::Connect => CONNECT,
        PacketType::ConnAck => &[("session_present", Form::Byte)],
        PacketType::Publish => PUBLISH,
        PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => {
            &[("id", Form::TwoBytes)]
        }
        PacketType::Subscribe => SUBSCRIBE,
        PacketType::Unsubscribe => &[("id", Form::TwoBytes), ("filter", Form::Text)],
        PacketType::SubAck | PacketType::UnsubAck => &[("id", Form::TwoBytes), ("codes", Form::Codes)],
        PacketType::PingReq | PacketType::PingResp | PacketType::Disconnect | PacketType::Auth => &[],
    }
}

/// The first byte of a packet that a client sends, for lines that write it out.
pub(super) const HEADER: &str = "header";

/// Finds a field of a packet by its name.
pub(super) fn field(packet: PacketType, name: &str) -> Option<Row> {
    let properties: &[Property] = if has_properties(packet) { &PROPERTIES } else { &[] };
    let will: &[Property] = if packet == PacketType::Connect { &WILL_PROPERTIES } else { &[] };
    let properties = will.iter().chain(properties).map(|property| (property.name, property.form));
    let mut all = rows(packet).iter().copied().chain([(HEADER, Form::Byte)]).chain(properties);
    all.find(|(candidate, _)| *candidate == name)
}

/// Finds a property by the name a line gave it; will properties are not among them.
pub(super) fn property_named(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name)
}

fn has_properties(packet: PacketType) -> bool {
    !matches!(packet, PacketType::PingReq | PacketType::PingResp)
}

/// Tells whether a line may name a Reason Code of the packet.
pub(super) fn has_reason(packet: PacketType) -> bool {
    use PacketType as P;
    matches!(packet, P::ConnAck | P::PubAck | P::PubRec | P::PubRel | P::PubComp | P::Disconnect | P::Auth)
}

/// Finds a packet that a client sends.
pub(super) fn sent(name: &str) -> Option<PacketType> {
    use PacketType as P;
    let all = [
        P::Connect,
        P::Publish,
        P::PubAck,
        P::PubRec,
        P::PubRel,
        P::PubComp,
        P::Subscribe,
        P::Unsubscribe,
        P::PingReq,
        P::Disconnect,
        P::Auth,
    ];
    all.into_iter().find(|packet| packet.name() == name)
}

/// Finds a packet that a broker sends.
pub(super) fn received(name: &str) -> Option<PacketType> {
    use PacketType as P;
    let all = [
        P::ConnAck,
        P::Publish,
        P::PubAck,
        P::PubRec,
        P::PubRel,
        P::PubComp,
        P::SubAck,
        P::UnsubAck,
        P::PingResp,
        P::Disconnect,
        P::Auth,
    ];
    all.into_iter().find(|packet| packet.name() == name)
}

/// Names that share a value with another.
const ALIASES: [(&str, u8); 2] = [("normal-disconnection", 0x00), ("granted-qos-0", 0x00)];

/// Reads a Reason Code: its name in kebab case, or `0x8e`.
pub(super) fn reason(word: &str) -> Option<u8> {
    if let Some(digits) = word.strip_prefix("0x") {
        return u8::from_str_radix(digits, 16).ok();
    }
    let named = ReasonCode::ALL.iter().find(|code| kebab(**code) == word).map(|code| code.value());
    named.or_else(|| ALIASES.iter().find(|(name, _)| *name == word).map(|(_, value)| *value))
}

/// Writes a Reason Code of MQTT 5.
pub(super) fn reason_name(value: u8) -> String {
    ReasonCode::try_from(value).map_or_else(|_| format!("0x{value:02x}"), kebab)
}

fn kebab(code: ReasonCode) -> String {
    code.to_string().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_named_in_kebab_case_or_by_number() {
        assert_eq!(reason("session-taken-over"), Some(0x8E));
        assert_eq!(reason("granted-qos-0"), Some(0));
        assert_eq!(reason("0x8f"), Some(0x8F));
        assert_eq!(reason("taken-over"), None);
        assert_eq!(reason_name(0x92), "packet-identifier-not-found");
    }

    #[test]
    fn no_name_stands_for_two_fields_of_a_packet() {
        for (name, _) in CONNECT.iter().chain(PUBLISH).chain(SUBSCRIBE) {
            assert!(property_named(name).is_none(), "{name}");
        }
    }
}
