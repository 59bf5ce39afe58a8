//! Writes the packets that a client sends, as their lines say, right or wrong.
//!
//! Properties keep the order of the line and may be repeated or misplaced. In MQTT 3.1 and 3.1.1 properties and Reason Codes
//! are left out, because these versions have none.

use std::collections::BTreeMap;

use veilmq_protocol::PacketType;

use super::line::{Field, Line};
use super::script::Version;
use super::value::Value;
use super::vocabulary::{self, Form, HEADER, Property, WILL_PROPERTIES};

/// The values that variables have.
pub(super) type Variables = BTreeMap<String, Value>;

/// Returns the bytes of a packet.
///
/// # Errors
/// A variable has no value, or a value is too long to be written.
pub(super) fn encode(line: &Line, version: Version, variables: &Variables) -> Result<Vec<u8>, String> {
    let line = &bind(line, variables)?;
    let mut body = Writer { bytes: Vec::new(), version };
    let flags = match line.packet {
        PacketType::Connect => {
            body.connect(line)?;
            0
        }
        PacketType::Publish => {
            body.publish(line)?;
            line.number("dup", 0) << 3 | line.number("qos", 0) << 1 | line.number("retain", 0)
        }
        PacketType::Subscribe => {
            body.subscribe(line)?;
            0b0010
        }
        PacketType::Unsubscribe => {
            body.number(line.number("id", 0), Form::TwoBytes);
            body.properties(line)?;
            for filter in line.values("filter") {
                body.value(filter)?;
            }
            0b0010
        }
        PacketType::PingReq => 0,
        PacketType::Disconnect | PacketType::Auth => {
            body.reason(line)?;
            0
        }
        _ => {
            body.number(line.number("id", 0), Form::TwoBytes);
            body.reason(line)?;
            if line.packet == PacketType::PubRel { 0b0010 } else { 0 }
        }
    };
    let header = line.number(HEADER, (line.packet as u64) << 4 | flags);
    let mut packet = Writer { bytes: vec![header as u8], version };
    packet.number(body.bytes.len() as u64, Form::VariableInteger);
    packet.bytes.extend(body.bytes);
    Ok(packet.bytes)
}

/// Puts values in the place of variables.
fn bind(line: &Line, variables: &Variables) -> Result<Line, String> {
    let mut line = line.clone();
    for field in &mut line.fields {
        if let Value::Variable(name) = &field.value {
            let value = variables.get(name).ok_or_else(|| format!("${name} has no value yet"))?;
            field.value = value.clone();
        }
    }
    Ok(line)
}

struct Writer {
    bytes: Vec<u8>,
    version: Version,
}

impl Writer {
    fn connect(&mut self, line: &Line) -> Result<(), String> {
        let (protocol, level): (&[u8], _) = match self.version {
            Version::V31 => (b"MQIsdp", 3),
            Version::V311 => (b"MQTT", 4),
            Version::V5 => (b"MQTT", 5),
        };
        let has_will = line.fields.iter().any(|field| field.name.starts_with("will_"));
        let flags = u64::from(line.has("username")) << 7
            | u64::from(line.has("password")) << 6
            | line.number("will_retain", 0) << 5
            | line.number("will_qos", 0) << 3
            | u64::from(has_will) << 2
            | line.number("clean_start", 1) << 1;
        self.text(one_text(line, "protocol").unwrap_or(protocol))?;
        self.number(line.number("level", level), Form::Byte);
        self.number(line.number("flags", flags), Form::Byte);
        self.number(line.number("keep_alive", 0), Form::TwoBytes);
        self.properties(line)?;
        self.text(one_text(line, "client").unwrap_or_default())?;
        if has_will {
            let find = |field: &Field| WILL_PROPERTIES.iter().find(|property| property.name == field.name);
            self.properties_among(line, find)?;
            self.text(one_text(line, "will_topic").unwrap_or_default())?;
            self.text(one_text(line, "will_payload").unwrap_or_default())?;
        }
        for name in ["username", "password"] {
            if let Some(text) = one_text(line, name) {
                self.text(text)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self, line: &Line) -> Result<(), String> {
        self.text(one_text(line, "topic").unwrap_or_default())?;
        if line.number("qos", 0) > 0 {
            self.number(line.number("id", 0), Form::TwoBytes);
        }
        self.properties(line)?;
        self.bytes.extend_from_slice(one_text(line, "payload").unwrap_or_default());
        Ok(())
    }

    fn subscribe(&mut self, line: &Line) -> Result<(), String> {
        self.number(line.number("id", 0), Form::TwoBytes);
        self.properties(line)?;
        let entries = line.fields.iter().enumerate().filter(|(_, field)| field.name == "filter");
        for (start, filter) in entries {
            let entry = line.fields[start + 1..].iter().take_while(|field| field.name != "filter");
            let entry = Line { fields: entry.cloned().collect(), ..line.clone() };
            let options = entry.number("rh", 0) << 4
                | entry.number("rap", 0) << 3
                | entry.number("nl", 0) << 2
                | entry.number("qos", 0);
            self.value(&filter.value)?;
            self.number(entry.number("options", options), Form::Byte);
        }
        Ok(())
    }

    /// Writes a Reason Code and properties, as short as the standard allows.
    fn reason(&mut self, line: &Line) -> Result<(), String> {
        let mut properties = Self { bytes: Vec::new(), version: self.version };
        properties.properties(line)?;
        let is_empty = properties.bytes.len() <= 1;
        if self.version != Version::V5 || is_empty && line.reason == 0 {
            return Ok(());
        }
        self.number(line.reason.into(), Form::Byte);
        if !is_empty {
            self.bytes.extend(properties.bytes);
        }
        Ok(())
    }

    fn properties(&mut self, line: &Line) -> Result<(), String> {
        self.properties_among(line, |field| vocabulary::property_named(field.name))
    }

    fn properties_among(
        &mut self,
        line: &Line,
        find: impl Fn(&Field) -> Option<&'static Property>,
    ) -> Result<(), String> {
        if self.version != Version::V5 {
            return Ok(());
        }
        let mut all = Self { bytes: Vec::new(), version: self.version };
        for field in &line.fields {
            let Some(property) = find(field) else { continue };
            all.number(property.id.into(), Form::Byte);
            match &field.value {
                Value::Number(number) => all.number(*number, property.form),
                value => all.value(value)?,
            }
        }
        self.number(all.bytes.len() as u64, Form::VariableInteger);
        self.bytes.extend(all.bytes);
        Ok(())
    }

    fn value(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Text(text) => self.text(text),
            Value::Pair(name, value) => {
                self.text(name)?;
                self.text(value)
            }
            other => Err(format!("{other} cannot be written here")),
        }
    }

    fn text(&mut self, text: &[u8]) -> Result<(), String> {
        let len = u16::try_from(text.len()).map_err(|_| format!("{} bytes are too long", text.len()))?;
        self.bytes.extend(len.to_be_bytes());
        self.bytes.extend_from_slice(text);
        Ok(())
    }

    fn number(&mut self, number: u64, form: Form) {
        match form {
            Form::TwoBytes => self.bytes.extend((number as u16).to_be_bytes()),
            Form::FourBytes => self.bytes.extend((number as u32).to_be_bytes()),
            Form::VariableInteger => {
                let mut rest = number;
                while rest > 0x7F {
                    self.bytes.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                self.bytes.push(rest as u8);
            }
            Form::Byte | Form::Text | Form::Pair | Form::Codes => self.bytes.push(number as u8),
        }
    }
}

fn one_text<'a>(line: &'a Line, name: &str) -> Option<&'a [u8]> {
    line.fields.iter().find_map(|field| match &field.value {
        Value::Text(text) if field.name == name => Some(text.as_slice()),
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may fail by panicking")]
mod tests {
    use super::super::line::Direction;
    use super::*;

    fn encoded(line: &str, version: Version) -> Vec<u8> {
        let words: Vec<&str> = line.split(' ').collect();
        encode(&Line::parse(&words, Direction::ToBroker).unwrap(), version, &Variables::new()).unwrap()
    }

    #[test]
    fn packets_are_written_as_the_standard_draws_them() {
        let rows: [(&str, Version, &[u8]); 10] = [
            (
                "CONNECT client=c clean_start=1 keep_alive=60",
                Version::V311,
                b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
            ),
            (
                "CONNECT client=c clean_start=0 receive_maximum=2 will_topic=t will_delay=1 username=u",
                Version::V5,
                b"\x10\x1f\x00\x04MQTT\x05\x84\x00\x00\x03\x21\x00\x02\x00\x01c\x05\x18\x00\x00\x00\x01\x00\x01t\
                  \x00\x00\x00\x01u",
            ),
            ("PUBLISH topic=a qos=1 id=7 payload=x", Version::V5, b"\x32\x07\x00\x01a\x00\x07\x00x"),
            ("PUBLISH topic=a payload=x", Version::V311, b"\x30\x04\x00\x01ax"),
            ("PUBREL id=1", Version::V5, b"\x62\x02\x00\x01"),
            ("PUBREC id=1 quota-exceeded", Version::V5, b"\x50\x03\x00\x01\x97"),
            (
                "SUBSCRIBE id=1 sub_id=200 filter=a qos=1 nl rh=2 filter=b",
                Version::V5,
                b"\x82\x0e\x00\x01\x03\x0b\xc8\x01\x00\x01a\x25\x00\x01b\x00",
            ),
            ("PINGREQ", Version::V5, b"\xc0\x00"),
            ("UNSUBSCRIBE id=1 filter=a", Version::V311, b"\xa2\x05\x00\x01\x00\x01a"),
            ("DISCONNECT disconnect-with-will-message", Version::V5, b"\xe0\x01\x04"),
        ];

        for (line, version, bytes) in rows {
            assert_eq!(encoded(line, version), bytes, "{line}");
        }
    }

    #[test]
    fn what_the_standard_forbids_can_be_written() {
        assert_eq!(encoded("SUBSCRIBE header=0x80 id=0", Version::V311), b"\x80\x02\x00\x00");
        assert_eq!(encoded("PUBLISH topic=# alias=0", Version::V5), b"\x30\x07\x00\x01#\x03\x23\x00\x00");
    }
}
