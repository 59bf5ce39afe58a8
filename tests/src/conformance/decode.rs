//! Reads the packets that a broker sends into the vocabulary of the scripts.
//!
//! A second reading beside that of `veilmq-protocol`: both must succeed. Fields that have their usual value (flags that are 0,
//! an empty payload) are left out.

use veilmq_protocol::{Packet, PacketType, ReasonCode, next_frame};

use super::line::{Field, Line};
use super::script::Version;
use super::value::Value;
use super::vocabulary::{Form, PROPERTIES};

/// Takes the first packet out of `buffer`; none if it has not arrived in full.
///
/// # Errors
/// The bytes are not a packet.
pub(super) fn take_packet(buffer: &mut Vec<u8>, version: Version) -> Result<Option<Line>, String> {
    let invalid =
        |error: &dyn std::fmt::Display| format!("bytes that are no packet ({error}): {buffer:02x?}");
    let Some((frame, len)) = next_frame(buffer, usize::MAX).map_err(|error| invalid(&error))? else {
        return Ok(None);
    };
    let packet = Packet::decode(frame, version.protocol()).map_err(|error| invalid(&error))?;
    let mut reader = Reader { rest: frame.body, version };
    let line = reader
        .packet(packet.packet_type(), frame.header)
        .filter(|_| reader.rest.is_empty())
        .ok_or_else(|| invalid(&"it ends too early or too late"))?;
    buffer.drain(..len);
    Ok(Some(line))
}

/// What is left of a packet. None stands for bytes that are missing.
struct Reader<'a> {
    rest: &'a [u8],
    version: Version,
}

impl Reader<'_> {
    fn packet(&mut self, packet: PacketType, header: u8) -> Option<Line> {
        let mut line = Line { packet, reason: 0, fields: Vec::new() };
        match packet {
            PacketType::ConnAck => {
                let flags = self.number(Form::Byte)?;
                line.push_unless_zero("session_present", flags & 1);
                line.reason = self.number(Form::Byte)? as u8;
                self.properties(&mut line)?;
            }
            PacketType::Publish => {
                let qos = u64::from(header >> 1 & 3);
                line.push_unless_empty("topic", self.text()?);
                line.push_unless_zero("qos", qos);
                line.push_unless_zero("retain", u64::from(header & 1));
                line.push_unless_zero("dup", u64::from(header >> 3 & 1));
                if qos > 0 {
                    line.push("id", Value::Number(self.number(Form::TwoBytes)?));
                }
                self.properties(&mut line)?;
                line.push_unless_empty("payload", std::mem::take(&mut self.rest).to_vec());
            }
            PacketType::SubAck | PacketType::UnsubAck => {
                line.push("id", Value::Number(self.number(Form::TwoBytes)?));
                self.properties(&mut line)?;
                let codes = std::mem::take(&mut self.rest).to_vec();
                if packet == PacketType::SubAck || self.version == Version::V5 {
                    line.push("codes", Value::Codes(codes));
                }
            }
            PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => {
                line.push("id", Value::Number(self.number(Form::TwoBytes)?));
                self.reason(&mut line)?;
            }
            PacketType::Disconnect | PacketType::Auth => self.reason(&mut line)?,
            PacketType::PingResp => {}
            PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq => {
                return None;
            }
        }
        Some(line)
    }

    /// Reads a Reason Code and properties, each of which may be left out.
    fn reason(&mut self, line: &mut Line) -> Option<()> {
        line.reason = ReasonCode::Success.value();
        if !self.rest.is_empty() {
            line.reason = self.number(Form::Byte)? as u8;
        }
        if self.rest.is_empty() { Some(()) } else { self.properties(line) }
    }

    fn properties(&mut self, line: &mut Line) -> Option<()> {
        if self.version != Version::V5 {
            return Some(());
        }
        let len = self.number(Form::VariableInteger)? as usize;
        let (properties, rest) = self.rest.split_at_checked(len)?;
        let mut reader = Reader { rest: properties, version: self.version };
        self.rest = rest;
        while !reader.rest.is_empty() {
            let id = reader.number(Form::Byte)?;
            let property = PROPERTIES.iter().find(|property| u64::from(property.id) == id)?;
            let value = match property.form {
                Form::Pair => Value::Pair(reader.text()?, reader.text()?),
                Form::Text | Form::Codes => Value::Text(reader.text()?),
                number => Value::Number(reader.number(number)?),
            };
            line.push(property.name, value);
        }
        Some(())
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let len = self.number(Form::TwoBytes)? as usize;
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(text.to_vec())
    }

    fn number(&mut self, form: Form) -> Option<u64> {
        match form {
            Form::VariableInteger => {
                let mut number = 0;
                for shift in [0, 7, 14, 21] {
                    let byte = self.number(Form::Byte)?;
                    number |= (byte & 0x7F) << shift;
                    if byte < 0x80 {
                        return Some(number);
                    }
                }
                None
            }
            Form::FourBytes => Some(self.number(Form::TwoBytes)? << 16 | self.number(Form::TwoBytes)?),
            Form::TwoBytes => Some(self.number(Form::Byte)? << 8 | self.number(Form::Byte)?),
            Form::Byte | Form::Text | Form::Pair | Form::Codes => {
                let (first, rest) = self.rest.split_first()?;
                self.rest = rest;
                Some(u64::from(*first))
            }
        }
    }
}

impl Line {
    fn push(&mut self, name: &'static str, value: Value) {
        self.fields.push(Field { name, value });
    }

    fn push_unless_zero(&mut self, name: &'static str, number: u64) {
        if number != 0 {
            self.push(name, Value::Number(number));
        }
    }

    fn push_unless_empty(&mut self, name: &'static str, text: Vec<u8>) {
        if !text.is_empty() {
            self.push(name, Value::Text(text));
        }
    }
}
