//! Tokens as passwords: the section `access.jwt`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whose tokens prove who clients are, and what they have to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// A JWKS file with the keys of issuers; without it and `key_files` no token is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// PEM files with public keys of issuers.
    pub key_files: Vec<PathBuf>,
    /// What `iss` has to be; `None` is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What `aud` has to hold; `None` is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The claim that has to be the User Name, or is it where CONNECT has none.
    pub user_claim: String,
    /// How far the clock of an issuer may be from the broker's, in seconds.
    pub leeway_seconds: u32,
}

impl JwtConfig {
    /// Whether tokens are taken at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.jwks_file.is_some() || !self.key_files.is_empty()
    }
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            jwks_file: None,
            key_files: Vec::new(),
            issuer: None,
            audience: None,
            user_claim: "sub".to_owned(),
            leeway_seconds: 30,
        }
    }
}
