//! One packet as a line of a script writes it: its name, its Reason Code, its fields in their order.
//!
//! Refuses names that the packet does not have, values that cannot be written, and lines that leave open what must be said.

use std::fmt;

use veilmq_protocol::PacketType;

use super::script::Version;
use super::value::{self, Value};
use super::vocabulary::{self, Form};

/// A field and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: Value,
}

/// A packet, to be sent or expected, or as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) packet: PacketType,
    pub(super) reason: u8,
    pub(super) fields: Vec<Field>,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToBroker,
    FromBroker,
}

impl Line {
    /// Reads `PACKET reason field=value ...`.
    pub(super) fn parse(words: &[&str], direction: Direction) -> Result<Self, String> {
        let (name, words) = words.split_first().ok_or("the packet is missing")?;
        let packet = match direction {
            Direction::ToBroker => {
                vocabulary::sent(name).ok_or_else(|| format!("a client sends no {name}"))?
            }
            Direction::FromBroker => {
                vocabulary::received(name).ok_or_else(|| format!("a broker sends no {name}"))?
            }
        };
        let mut line = Self { packet, reason: 0, fields: Vec::new() };
        let mut has_reason = false;
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => line.fields.push(field(packet, name, value, direction)?),
                None if packet == PacketType::Subscribe && ["nl", "rap"].contains(word) => {
                    line.fields.push(field(packet, word, "1", direction)?);
                }
                None if vocabulary::has_reason(packet) && !has_reason => {
                    line.reason = vocabulary::reason(word)
                        .ok_or_else(|| format!("{word} is neither a Reason Code nor field=value"))?;
                    has_reason = true;
                }
                None => return Err(format!("{word} is not field=value")),
            }
        }
        line.check_fields(direction)?;
        Ok(line)
    }

    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.fields.iter().filter(move |field| field.name == name).map(|field| &field.value)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The number of a field; `otherwise` if the field is not there.
    pub(super) fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.values(name)
            .find_map(|value| match value {
                Value::Number(number) => Some(*number),
                _ => None,
            })
            .unwrap_or(otherwise)
    }

    fn check_fields(&self, direction: Direction) -> Result<(), String> {
        use PacketType as P;
        let name = self.packet.name();
        let needs_id = match self.packet {
            P::Publish => self.number("qos", 0) > 0,
            P::PubAck | P::PubRec | P::PubRel | P::PubComp => true,
            P::Subscribe | P::SubAck | P::Unsubscribe | P::UnsubAck => true,
            P::Connect | P::ConnAck | P::PingReq | P::PingResp | P::Disconnect | P::Auth => false,
        };
        if needs_id && !self.has("id") {
            return Err(format!("this {name} needs id="));
        }
        if self.packet == P::SubAck && !self.has("codes") {
            return Err(format!("{name} needs codes="));
        }
        let mut seen = Vec::new();
        for field in &self.fields {
            let is_repeatable = direction == Direction::ToBroker || ["user", "sub_id"].contains(&field.name);
            if !is_repeatable && seen.contains(&field.name) {
                return Err(format!("{name} names {} twice", field.name));
            }
            seen.push(field.name);
        }
        Ok(())
    }

    /// Says why the line cannot count in a version.
    pub(super) fn check_version(&self, version: Version) -> Result<(), String> {
        let name = self.packet.name();
        if version == Version::V5 {
            let is_silent = self.packet == PacketType::UnsubAck && !self.has("codes");
            return if is_silent { Err(format!("{name} needs codes=")) } else { Ok(()) };
        }
        if self.packet == PacketType::Auth {
            return Err(format!("{name} is a packet of MQTT 5 only: prefix the line with `5:`"));
        }
        let options = ["nl", "rap", "rh"];
        match self.fields.iter().find(|field| options.contains(&field.name)) {
            Some(field) => {
                Err(format!("{} is an option of MQTT 5 only: prefix the line with `5:`", field.name))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.packet.name())?;
        if vocabulary::has_reason(self.packet) {
            write!(f, " {}", vocabulary::reason_name(self.reason))?;
        }
        self.fields.iter().try_for_each(|field| write!(f, " {}={}", field.name, field.value))
    }
}

fn field(packet: PacketType, name: &str, word: &str, direction: Direction) -> Result<Field, String> {
    let (name, form) = vocabulary::field(packet, name)
        .filter(|(name, _)| direction == Direction::ToBroker || *name != vocabulary::HEADER)
        .ok_or_else(|| format!("{} has no field {name}", packet.name()))?;
    let value = read_value(name, form, word, direction).map_err(|error| format!("{name}: {error}"))?;
    Ok(Field { name, value })
}

fn read_value(name: &str, form: Form, word: &str, direction: Direction) -> Result<Value, String> {
    let is_expected = direction == Direction::FromBroker;
    if is_expected && word == "absent" {
        return Ok(Value::Absent);
    }
    if let Some(variable) = word.strip_prefix('$').filter(|_| takes_variable(name, form)) {
        return Ok(Value::Variable(variable.to_owned()));
    }
    if let Some(most) = form.number_max() {
        let in_range = |number: u64| match number <= most {
            true => Ok(number),
            false => Err(format!("{number} is above {most}")),
        };
        if let Some((first, last)) = word.split_once("..").filter(|_| is_expected) {
            return Ok(Value::Range(in_range(value::number(first)?)?, in_range(value::number(last)?)?));
        }
        return Ok(Value::Number(in_range(value::number(word)?)?));
    }
    match form {
        Form::Pair => value::pair(word).map(|(name, value)| Value::Pair(name, value)),
        Form::Codes => {
            let code = |word| vocabulary::reason(word).ok_or_else(|| format!("{word} is not a Reason Code"));
            word.split(',').map(code).collect::<Result<_, _>>().map(Value::Codes)
        }
        Form::Byte | Form::TwoBytes | Form::FourBytes | Form::VariableInteger | Form::Text => {
            value::text(word).map(Value::Text)
        }
    }
}

/// `$` begins topics too, so text fields take a variable only where it is of use.
fn takes_variable(name: &str, form: Form) -> bool {
    form.number_max().is_some() || ["client", "assigned_client_id"].contains(&name)
}
