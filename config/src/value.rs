//! A value as somebody gave it, before it is known to be right: the common form of TOML and environment values.

use std::fmt;

use toml::de::DeValue;

/// A value as it was given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Given {
    Integer(i64),
    Boolean(bool),
    Text(String),
    List(Vec<Given>),
    /// A type that no option has, as it was written or named.
    Other(String),
}

/// How the text of an environment variable is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Integer,
    Boolean,
    Text,
    /// Elements separated by commas.
    List,
}

impl Given {
    pub(crate) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Self::Other(digits.as_str().to_owned()), Self::Integer),
            DeValue::Float(digits) => Self::Other(digits.as_str().to_owned()),
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Datetime(time) => Self::Other(time.to_string()),
            DeValue::Array(array) => {
                Self::List(array.iter().map(|element| Self::from_toml(element.get_ref())).collect())
            }
            DeValue::Table(_) => Self::Other("{ a table }".to_owned()),
        }
    }
}

impl Given {
    /// The text without `prefix`, if it is a text that begins with it.
    pub(crate) fn strip_prefix(&self, prefix: &str) -> Option<Self> {
        let Self::Text(text) = self else { return None };
        text.strip_prefix(prefix).map(|rest| Self::Text(rest.to_owned()))
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{element}")?;
                }
                f.write_str("]")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}
