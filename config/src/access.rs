//! Who may connect, what clients may do, and who is kept out for trying: the sections `access`, `acl` and `bans`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker_config::BrokerConfig;
use crate::http::HttpAccessConfig;
use crate::jwt::JwtConfig;

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Whether a client that proves no identity may connect.
    pub anonymous: bool,
    /// The file with user names and hashes of passwords; `None` checks no password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Mosquitto's file of dynamic security, which clients may administer over MQTT; `None` leaves that off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_security_file: Option<PathBuf>,
    /// The file with the password of the first administrator, for when that file does not exist yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_security_password_file: Option<PathBuf>,
    /// Whether questions about the broker are answered on `$CONTROL/broker/v1`.
    pub control_api: bool,
    /// Whether a weak hash is replaced in that file when its user has given the right password.
    pub rehash: bool,
    /// What an MQTT 5 client is told whose user name or password is wrong.
    pub bad_credentials: BadCredentials,
    /// What every Client Identifier has to begin with; `None` is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id_prefix: Option<String>,
    /// Whose tokens are taken for passwords.
    #[serde(default)]
    pub jwt: JwtConfig,
    /// Who is asked about users over HTTP.
    #[serde(default)]
    pub http: HttpAccessConfig,
}

/// Who may connect on one listener and what its clients may do, instead of what is said for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerAccessConfig {
    /// Whether a client that proves no identity may connect.
    pub anonymous: bool,
    /// The file with user names and hashes of passwords; `None` checks no password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Whether a weak hash is replaced in that file when its user has given the right password.
    pub rehash: bool,
    /// The file of rules in TOML; `None`, with no other file, lets every client do everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl_file: Option<PathBuf>,
    /// The file of rules in Mosquitto's format, if there is none in TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mosquitto_acl_file: Option<PathBuf>,
    /// Whether the file of dynamic security says who may connect and what clients may do.
    pub dynamic_security: bool,
    /// Whether tokens are taken for passwords.
    pub jwt: bool,
    /// Whether the service is asked about users.
    pub http: bool,
}

/// What an MQTT 5 client is told whose user name or password is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BadCredentials {
    /// Reason Code 0x86, Bad User Name or Password.
    #[serde(rename = "bad-user-name-or-password")]
    BadUserNameOrPassword,
    /// Reason Code 0x87, Not authorized, as Mosquitto does.
    #[serde(rename = "not-authorized")]
    NotAuthorized,
}

/// What clients may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclConfig {
    /// The file of rules in TOML; `None`, with no other file, lets every client do everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The file of rules in Mosquitto's format, if there is none in TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mosquitto_file: Option<PathBuf>,
    /// What is said to a SUBSCRIBE for more than the client may receive.
    pub subscribe: AclSubscribe,
    /// Whether a retained message is sent only if its publisher might still publish it.
    pub check_retained_source: bool,
}

/// What is said to a SUBSCRIBE for more than the client may receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AclSubscribe {
    /// No.
    Strict,
    /// Yes, as by Mosquitto; what the client may not receive is held back.
    Compat,
}

/// Who is kept out for trying too many passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BansConfig {
    /// Wrong passwords from one address within the window that ban it; 0 bans none.
    pub failures_per_address_max: u32,
    /// Wrong passwords for one user within the window that ban it where it has not been before; 0 bans none.
    pub failures_per_user_max: u32,
    /// The window, in seconds.
    pub window_seconds: u32,
    /// How long a ban lasts, in seconds.
    pub seconds: u32,
}

impl AccessConfig {
    /// The defaults, for a broker that is open to everybody or to nobody.
    pub(crate) fn open_to(anonymous: bool) -> Self {
        Self {
            anonymous,
            password_file: None,
            dynamic_security_file: None,
            dynamic_security_password_file: None,
            control_api: false,
            rehash: false,
            bad_credentials: BadCredentials::BadUserNameOrPassword,
            client_id_prefix: None,
            jwt: JwtConfig::default(),
            http: HttpAccessConfig::default(),
        }
    }
}

impl BrokerConfig {
    /// Returns who may connect and what clients may do on the listeners that do not say it themselves.
    pub fn access_of_listeners(&self) -> ListenerAccessConfig {
        ListenerAccessConfig {
            anonymous: self.access.anonymous,
            password_file: self.access.password_file.clone(),
            rehash: self.access.rehash,
            acl_file: self.acl.file.clone(),
            mosquitto_acl_file: self.acl.mosquitto_file.clone(),
            dynamic_security: self.access.dynamic_security_file.is_some(),
            jwt: self.access.jwt.is_on(),
            http: self.access.http.url.is_some(),
        }
    }
}

impl Default for AclConfig {
    fn default() -> Self {
        Self {
            file: None,
            mosquitto_file: None,
            subscribe: AclSubscribe::Strict,
            check_retained_source: true,
        }
    }
}

impl Default for BansConfig {
    fn default() -> Self {
        Self { failures_per_address_max: 30, failures_per_user_max: 100, window_seconds: 60, seconds: 300 }
    }
}
