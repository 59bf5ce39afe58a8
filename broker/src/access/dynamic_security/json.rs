//! Members of JSON objects as Mosquitto's plugin reads them: names in any case, and numbers that are no whole ones cut off.

use serde_json::{Map, Value};

/// Beyond this, either way, a priority is cut off.
const PRIORITY_MAX: i32 = 100_000;

/// A JSON object.
pub(in crate::access) type Object = Map<String, Value>;

/// What stands where a member of another type was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongType;

/// Returns a member by its name.
pub(super) fn member<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// Returns a text; None if there is no such member.
///
/// # Errors
/// It is no text, or one that MQTT does not allow.
pub(super) fn text<'a>(object: &'a Object, name: &str) -> Result<Option<&'a str>, WrongType> {
    match member(object, name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text)),
        Some(_) => Err(WrongType),
    }
}

/// Returns a text that has to be there.
///
/// # Errors
/// It is not there, or no text.
pub(super) fn needed<'a>(object: &'a Object, name: &str) -> Result<&'a str, WrongType> {
    text(object, name)?.ok_or(WrongType)
}

/// Returns whether something is so; `default` if nothing is said of it.
///
/// # Errors
/// It is neither true nor false.
pub(super) fn boolean(object: &Object, name: &str, default: bool) -> Result<bool, WrongType> {
    match member(object, name) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or(WrongType),
    }
}

/// Returns a priority within its limits; `default` if there is none.
pub(super) fn priority(object: &Object, default: i32) -> i32 {
    let given = integer(object, "priority").unwrap_or_else(|| default.into());
    let cut = given.clamp((-PRIORITY_MAX).into(), PRIORITY_MAX.into());
    i32::try_from(cut).unwrap_or(default)
}

/// Returns a whole number; None if there is none.
pub(super) fn integer(object: &Object, name: &str) -> Option<i64> {
    let value = member(object, name)?;
    // The cast saturates.
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

/// Returns the elements of a list; None if there is no such member.
///
/// # Errors
/// It is no list.
pub(super) fn list<'a>(object: &'a Object, name: &str) -> Result<Option<&'a [Value]>, WrongType> {
    match member(object, name) {
        None => Ok(None),
        Some(Value::Array(elements)) => Ok(Some(elements)),
        Some(_) => Err(WrongType),
    }
}

/// Returns what an object has beside these members.
pub(super) fn others(object: &Object, known: &[&str]) -> Object {
    let is_known = |key: &str| known.iter().any(|name| key.eq_ignore_ascii_case(name));
    object.iter().filter(|(key, _)| !is_known(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}
