//! Bridges to other brokers: where they are, what crosses, and as whom.
//!
//! Only what is asked for: how a bridge keeps it is the broker's. Invariant: each topic of a checked bridge makes a Topic Filter
//! on both sides.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use veilmq_protocol::TopicFilter;

use crate::broker_config::BrokerConfig;
use crate::error::{ConfigError, Fault};
use crate::relations::Known;
use crate::tls::TlsVersion;

const NAME: &str = "bridges[].name";
const ADDRESSES: &str = "bridges[].addresses";
const LOCAL_CLIENT_ID: &str = "bridges[].local_client_id";
const PASSWORD: &str = "bridges[].password";
const PASSWORD_FILE: &str = "bridges[].password_file";
const PATTERN: &str = "bridges[].topics[].pattern";
const RESTART_SECONDS_MAX: &str = "bridges[].restart_seconds_max";
const KEY_FILE: &str = "bridges[].tls.key_file";
const CERTIFICATE_FILE: &str = "bridges[].tls.certificate_file";
/// The MQTT port of a broker whose port is not named.
const PORT: u16 = 1883;

/// A bridge to another broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BridgeConfig {
    /// What it is called.
    pub name: String,
    /// Where the other broker is, perhaps in several places.
    pub addresses: Vec<RemoteAddress>,
    /// Whether all addresses are equally good, rather than the first better than the others.
    pub round_robin: bool,
    /// The address of this machine that connections come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_address: Option<std::net::IpAddr>,
    /// TLS towards the other broker, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BridgeTlsConfig>,
    /// When the system asks whether a silent peer is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keep_alive: Option<TcpKeepAliveConfig>,
    /// How long sent bytes may go unacknowledged before TCP gives up, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_user_timeout_milliseconds: Option<u32>,
    /// The version of MQTT that the other broker is spoken to in.
    pub protocol: BridgeProtocol,
    /// Whether it says in MQTT 3 that it is a bridge.
    pub says_bridge: bool,
    /// The Client Identifier on the other broker; `None` is made of the host's name and the bridge's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The user name on the other broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password on the other broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<BridgePassword>,
    /// The file that the password is read from instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Whether the other broker forgets what it has for the bridge when the connection ends.
    pub clean_start: bool,
    /// How long the other broker keeps the session, in seconds; MQTT 5 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry_seconds: Option<u32>,
    /// The longest silence on the way to the other broker, in seconds.
    pub keep_alive_seconds: u16,
    /// QoS 1 and 2 messages in flight in either direction.
    pub receive_maximum: u16,
    /// The highest Topic Alias taken from the other broker; MQTT 5 only.
    pub topic_alias_maximum: u16,
    /// The largest packet sent to the other broker, in bytes, even if it takes larger ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_bytes_max: Option<u32>,
    /// Whether messages stay retained on the way to the other broker.
    pub passes_retain: bool,
    /// Whether to unsubscribe, on the other broker, from what is only sent.
    pub unsubscribes: bool,
    /// Whether messages in MQTT 5 carry the names of the bridges that they have crossed.
    pub marks_messages: bool,
    /// The Client Identifier on this broker; `None` is made of the one on the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_client_id: Option<String>,
    /// Whether this broker forgets what waits for the bridge when its connection ends; `None` is as `clean_start`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_clean_start: Option<bool>,
    /// Who is told whether the bridge is up.
    pub notifications: BridgeNotifications,
    /// On which topic; `None` is one below `$SYS/broker/connection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_topic: Option<String>,
    /// When the bridge connects.
    pub start: BridgeStart,
    /// How many messages wait before a lazy bridge connects.
    pub lazy_messages: u32,
    /// After how long without a message a lazy bridge leaves, in seconds.
    pub idle_seconds: u32,
    /// The shortest wait before the bridge connects again, in seconds.
    pub restart_seconds_min: u32,
    /// The longest wait, in seconds.
    pub restart_seconds_max: u32,
    /// What a reload does to a bridge that has changed.
    pub reload: BridgeReload,
    /// What crosses.
    pub topics: Vec<BridgeTopicConfig>,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            addresses: Vec::new(),
            round_robin: false,
            bind_address: None,
            tls: None,
            tcp_keep_alive: None,
            tcp_user_timeout_milliseconds: None,
            protocol: BridgeProtocol::V5,
            says_bridge: true,
            client_id: None,
            username: None,
            password: None,
            password_file: None,
            clean_start: false,
            session_expiry_seconds: None,
            keep_alive_seconds: 60,
            receive_maximum: 1_000,
            topic_alias_maximum: 10,
            packet_bytes_max: None,
            passes_retain: true,
            unsubscribes: true,
            marks_messages: true,
            local_client_id: None,
            local_clean_start: None,
            notifications: BridgeNotifications::Both,
            notification_topic: None,
            start: BridgeStart::Automatic,
            lazy_messages: 10,
            idle_seconds: 60,
            restart_seconds_min: 5,
            restart_seconds_max: 30,
            reload: BridgeReload::Immediate,
            topics: Vec::new(),
        }
    }
}

/// Topics that cross a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BridgeTopicConfig {
    /// The Topic Filter behind the prefixes; empty, the prefixes are the topic.
    pub pattern: String,
    /// Which way they cross.
    pub direction: BridgeDirection,
    /// The highest QoS they cross with.
    pub qos: u8,
    /// What stands before their names on this broker.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_prefix: String,
    /// What stands before their names on the other broker.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_prefix: String,
}

impl Default for BridgeTopicConfig {
    fn default() -> Self {
        Self {
            pattern: String::new(),
            direction: BridgeDirection::Out,
            qos: 0,
            local_prefix: String::new(),
            remote_prefix: String::new(),
        }
    }
}

/// Which way messages cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeDirection {
    /// From the other broker to this one.
    In,
    /// From this broker to the other one.
    Out,
    /// Either way.
    Both,
}

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BridgeProtocol {
    /// MQTT 3.1.
    #[serde(rename = "3.1")]
    V31,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
}

/// Who is told whether a bridge is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeNotifications {
    /// Nobody.
    Off,
    /// The clients of this broker.
    Local,
    /// The clients of both brokers.
    Both,
}

/// When a bridge connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeStart {
    /// At the start, and again whenever the connection has ended.
    Automatic,
    /// When messages wait.
    Lazy,
    /// At the start.
    Once,
}

/// What a reload does to a bridge that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeReload {
    /// It ends, and begins anew at once.
    Immediate,
    /// What has changed holds from its next connection on.
    Lazy,
}

/// TLS towards the other broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BridgeTlsConfig {
    /// PEM file, or directory of such files, with the authorities that the other broker's certificate may come from; `None` are
    /// those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// PEM file with the bridge's own certificate, followed by those of its issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whether the certificate may be for another name than the address.
    pub any_name: bool,
    /// The protocol that is asked for (ALPN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// The oldest version of TLS that is spoken.
    pub minimum_version: TlsVersion,
}

/// When the system asks whether a silent peer is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpKeepAliveConfig {
    /// The silence before it asks, in seconds.
    pub idle_seconds: u16,
    /// From one question to the next, in seconds.
    pub interval_seconds: u16,
    /// The questions before it gives up.
    pub count: u8,
}

impl Default for TcpKeepAliveConfig {
    /// What Linux does without being told otherwise.
    fn default() -> Self {
        Self { idle_seconds: 7_200, interval_seconds: 75, count: 9 }
    }
}

/// A password, which no log line repeats.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BridgePassword(String);

impl BridgePassword {
    /// Takes a password.
    #[must_use]
    pub fn new(password: &str) -> Self {
        Self(password.to_owned())
    }

    /// Returns it as CONNECT carries it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for BridgePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BridgePassword")
    }
}

/// Where another broker is: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteAddress {
    /// The host name or IP address.
    pub host: String,
    /// The port of TCP.
    pub port: u16,
}

/// A text that is no address of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no host name or IP address, perhaps with a port")]
pub struct NoRemoteAddress;

impl FromStr for RemoteAddress {
    type Err = NoRemoteAddress;

    /// Takes `host`, `host:port` or `[address]:port`. What stands behind the last colon is the port, as with Mosquitto.
    fn from_str(text: &str) -> Result<Self, NoRemoteAddress> {
        let (host, port) = match text.rsplit_once(':') {
            None => (text, PORT),
            Some((host, port)) => (host, port.parse().map_err(|_| NoRemoteAddress)?),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_good = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "[]/\0".contains(c));
        (is_good && port != 0).then(|| Self { host: host.to_owned(), port }).ok_or(NoRemoteAddress)
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Serialize for RemoteAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RemoteAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl BrokerConfig {
    /// Checks what bridges need to be complete.
    ///
    /// # Errors
    /// The first option that is missing or in the way.
    pub(crate) fn check_bridges(&self, known: &Known) -> Result<(), ConfigError> {
        for (index, bridge) in self.bridges.iter().enumerate() {
            let known = &known.within(&[index]);
            bridge.check(known, index)?;
            for other in &self.bridges[..index] {
                if other.name == bridge.name {
                    return Err(refused(known, NAME, &bridge.name, "another bridge has this name"));
                }
                if bridge.local_client_id.is_some() && other.local_client_id == bridge.local_client_id {
                    let value = bridge.local_client_id.as_deref().unwrap_or_default();
                    return Err(refused(known, LOCAL_CLIENT_ID, value, "another bridge has this identifier"));
                }
            }
        }
        Ok(())
    }
}

impl BridgeConfig {
    /// Checks what is known of it; `index` is its place in the list.
    fn check(&self, known: &Known, index: usize) -> Result<(), ConfigError> {
        if self.addresses.is_empty() {
            return Err(refused(known, ADDRESSES, "[]", "there is nowhere to connect to"));
        }
        for (number, topic) in self.topics.iter().enumerate() {
            let known = &known.within(&[index, number]);
            for prefix in [&topic.local_prefix, &topic.remote_prefix] {
                let filter = format!("{prefix}{}", topic.pattern);
                if !TopicFilter::new(&filter).is_ok_and(|filter| filter.shared().is_none()) {
                    let because = format!("{filter:?} is no Topic Filter without $share");
                    return Err(refused(known, PATTERN, &topic.pattern, &because));
                }
            }
        }
        let password = self.password.as_ref().map(|_| PASSWORD);
        let file = self.password_file.as_ref().map(|path| (PASSWORD_FILE, path.to_string_lossy()));
        if let (Some(other), Some((key, path))) = (password, &file) {
            return Err(refused(known, key, path, &format!("{other} is given too")));
        }
        // [MQTT311-3.1.2-22]
        if let Some(key) = password.or(file.map(|(key, _)| key))
            && self.username.is_none()
            && self.protocol != BridgeProtocol::V5
        {
            let how = "MQTT 3 knows no password without a user name";
            let missing = Fault::Missing { key: "bridges[].username", how };
            return Err(ConfigError::new(known.origin(key), missing));
        }
        if self.restart_seconds_max < self.restart_seconds_min {
            let because = format!("bridges[].restart_seconds_min is {}", self.restart_seconds_min);
            let value = self.restart_seconds_max.to_string();
            return Err(refused(known, RESTART_SECONDS_MAX, &value, &because));
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        let (given, missing) = match (&tls.certificate_file, &tls.key_file) {
            (Some(_), None) => (CERTIFICATE_FILE, KEY_FILE),
            (None, Some(_)) => (KEY_FILE, CERTIFICATE_FILE),
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        let how = "a certificate is of no use without its key, nor a key without its certificate";
        Err(ConfigError::new(known.origin(given), Fault::Missing { key: missing, how }))
    }
}

fn refused(known: &Known, key: &'static str, value: &str, because: &str) -> ConfigError {
    let (value, because) = (format!("{value:?}"), because.to_owned());
    let allowed = "no such value".to_owned();
    ConfigError::new(known.origin(key), Fault::Relation { key, value, allowed, because })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port() {
        for (text, expected) in [
            ("broker", Some("broker:1883")),
            ("broker.example:8883", Some("broker.example:8883")),
            ("192.0.2.1:1", Some("192.0.2.1:1")),
            ("[2001:db8::1]:1883", Some("[2001:db8::1]:1883")),
            ("::1:1883", Some("[::1]:1883")),
            ("", None),
            (":1883", None),
            ("broker:", None),
            ("broker:0", None),
            ("broker:65536", None),
            ("bro ker:1883", None),
        ] {
            let address = text.parse::<RemoteAddress>().ok().map(|address| address.to_string());

            assert_eq!(address.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn no_debug_output_has_the_password() {
        let bridge =
            BridgeConfig { password: Some(BridgePassword::new("secret")), ..BridgeConfig::default() };

        assert!(!format!("{bridge:?}").contains("secret"));
    }
}
