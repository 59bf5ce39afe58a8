//! What a token says, once its signature was found right.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::TokenFault;

/// What a token says of itself (RFC 7519 section 4.1), and all else.
#[derive(Deserialize)]
pub(super) struct Claims {
    /// In unix seconds, cut off to whole ones.
    #[serde(rename = "exp", deserialize_with = "numeric_date")]
    pub(super) expires_at: u64,
    #[serde(rename = "nbf", default, deserialize_with = "optional_date")]
    pub(super) not_before: Option<u64>,
    #[serde(rename = "iss")]
    pub(super) issuer: Option<String>,
    #[serde(rename = "aud", default, deserialize_with = "one_or_several")]
    pub(super) audience: Vec<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Claims {
    /// Reads the middle part of a token.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`], also without an end.
    pub(super) fn parse(payload: &str) -> Result<Self, TokenFault> {
        let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenFault::Malformed)?;
        serde_json::from_slice(&bytes).map_err(|_| TokenFault::Malformed)
    }

    /// Returns a claim that is a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.others.get(name)?.as_str()
    }
}

fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    // The cast cuts off and saturates; no date before 1970 has not passed.
    Ok(seconds as u64)
}

fn optional_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    numeric_date(deserializer).map(Some)
}

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(audience) => vec![audience],
        Audience::Several(audiences) => audiences,
    })
}
