//! Compares what was received with what a line expects.
//!
//! A PUBLISH is compared as a whole. In other packets the Reason Code, the flags and the fields that the line names are
//! compared. Where the version has no properties or no Reason Codes, those of the line do not count.

use veilmq_protocol::PacketType;

use super::encode::Variables;
use super::line::Line;
use super::script::Version;
use super::value::Value;
use super::vocabulary;

/// Tells whether a received packet is the expected one; binds variables that have no value yet.
///
/// # Errors
/// The first difference.
pub(super) fn check(
    expected: &Line,
    got: &Line,
    version: Version,
    variables: &mut Variables,
) -> Result<(), String> {
    let packet = expected.packet;
    if packet != got.packet {
        return Err(format!("another packet than {}", packet.name()));
    }
    let has_reason = version == Version::V5 || packet == PacketType::ConnAck;
    if has_reason && expected.reason != got.reason {
        return Err(format!("not {}", vocabulary::reason_name(expected.reason)));
    }
    for name in names(expected, got, version) {
        let expected: Vec<&Value> = expected.values(name).filter(|value| !is_usual(name, value)).collect();
        let got: Vec<&Value> = got.values(name).collect();
        compare(name, &expected, &got, variables)?;
    }
    Ok(())
}

/// The fields to compare, each once.
fn names(expected: &Line, got: &Line, version: Version) -> Vec<&'static str> {
    let is_whole = expected.packet == PacketType::Publish;
    let flags = ["session_present", "codes"];
    let counts = |name: &str| {
        let is_property = vocabulary::property_named(name).is_some();
        let has_codes = version == Version::V5 || expected.packet == PacketType::SubAck;
        if is_property { version == Version::V5 } else { name != "codes" || has_codes }
    };
    let in_got = got.fields.iter().filter(|field| is_whole || flags.contains(&field.name));
    let mut names: Vec<&'static str> = Vec::new();
    for field in expected.fields.iter().chain(in_got) {
        if counts(field.name) && !names.contains(&field.name) {
            names.push(field.name);
        }
    }
    names
}

/// Values that are not written when they are received.
fn is_usual(name: &str, value: &Value) -> bool {
    match name {
        "qos" | "retain" | "dup" | "session_present" => *value == Value::Number(0),
        "payload" | "topic" => *value == Value::Text(Vec::new()),
        _ => *value == Value::Absent,
    }
}

fn compare(name: &str, expected: &[&Value], got: &[&Value], variables: &mut Variables) -> Result<(), String> {
    if expected.len() < got.len() {
        return Err(format!("{name} was not expected, or not so often"));
    }
    if expected.len() > got.len() {
        return Err(format!("{name} is missing, or not there often enough"));
    }
    let mut expected = expected.to_vec();
    let mut got = got.to_vec();
    // A PUBLISH for several subscriptions carries their identifiers in any order.
    if name == "sub_id" {
        let number = |value: &&Value| if let Value::Number(number) = value { *number } else { 0 };
        expected.sort_by_key(number);
        got.sort_by_key(number);
    }
    for (expected, got) in expected.into_iter().zip(got) {
        let is_equal = match (expected, got) {
            (Value::Variable(variable), got) => {
                variables.entry(variable.clone()).or_insert_with(|| got.clone()) == got
            }
            (Value::Range(first, last), Value::Number(number)) => (first..=last).contains(&number),
            (expected, got) => expected == got,
        };
        if !is_equal {
            return Err(format!("{name} is not {expected}"));
        }
    }
    Ok(())
}
