//! The shape of the configuration and its built-in defaults.
//!
//! Plain data: how it is loaded is `load`, which values are allowed is `options`, limits are in `limits`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    AccessConfig, AclConfig, BansConfig, FileMode, LimitsConfig, ListenAddress, ListenerTlsConfig,
    MqttConfig, Note, ProxyProtocolConfig, TlsConfig,
};

/// The MQTT port of a broker that was given none.
pub(crate) const DEFAULT_PORT: u16 = 1883;
const ADMIN_PORT: u16 = 9464;

/// Everything the broker can be told before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Whether a configuration file was given; not an option itself.
    #[serde(skip)]
    pub mode: Mode,
    /// What came from Mosquitto's configuration and is no option of ours.
    #[serde(skip)]
    pub mosquitto: MosquittoConfig,
    /// The directory of identity and stored state; created when absent.
    pub data_dir: PathBuf,
    /// The MQTT listeners, at least one, no two alike.
    pub listeners: Vec<ListenerConfig>,
    /// The certificate of listeners that name none of their own.
    pub tls: TlsConfig,
    /// The admin listener: metrics, liveness, readiness, trust.
    pub admin: AdminConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What the process is to the system.
    #[serde(default)]
    pub process: ProcessConfig,
    /// What the broker says of itself on `$SYS` topics.
    pub sys: SysConfig,
    /// How many shards share the work.
    pub shards: ShardsConfig,
    /// Who may connect.
    pub access: AccessConfig,
    /// What clients may do.
    pub acl: AclConfig,
    /// Who is kept out for trying too many passwords.
    pub bans: BansConfig,
    /// The optional parts of MQTT on offer.
    pub mqtt: MqttConfig,
    /// What a client may make the broker hold or do.
    pub limits: LimitsConfig,
    /// Where and how durably state is kept.
    pub storage: StorageConfig,
    /// The VEIL-1 channel.
    pub veil: VeilConfig,
}

/// Where the broker stands: tried out on this machine, or set up by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No configuration file was given: loopback only, anonymous clients allowed, and the admin listener accepts a
    /// public authority certificate.
    Development,
    /// A configuration file was given; nothing is open that it does not open.
    #[default]
    Configured,
    /// Mosquitto's configuration file was given; what it does not say is as in Mosquitto.
    Mosquitto,
}

/// What came from Mosquitto's configuration and is no option of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MosquittoConfig {
    /// Mosquitto's persistent database, if it is to keep one.
    pub database: Option<PathBuf>,
    /// What should be said about lines that did not do all they say.
    pub notes: Vec<Note>,
}

/// One MQTT listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where it accepts connections.
    pub address: ListenAddress,
    /// The permissions of a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// What carries MQTT there.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// TLS below that, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsConfig>,
    /// The PROXY protocol below all else, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolConfig>,
    /// When what its clients have stored is acknowledged, if not as `storage.durability` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<ListenerDurability>,
    /// Network Connections at one time on this listener, if it has a limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
}

/// When what the clients of a listener have stored is acknowledged. It is stored either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerDurability {
    /// Once it is durable.
    Commit,
    /// Before: a crash can lose what came within the last moments.
    Interval,
}

/// What carries MQTT on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// TCP itself.
    #[default]
    Mqtt,
    /// WebSocket over TCP (MQTT 5.0 section 6).
    WebSocket,
}

impl ListenerConfig {
    /// A listener for MQTT on TCP itself.
    pub(crate) fn mqtt(address: SocketAddr) -> Self {
        Self {
            address: address.into(),
            mode: None,
            protocol: ListenerProtocol::Mqtt,
            tls: None,
            proxy_protocol: None,
            durability: None,
            connections_max: None,
        }
    }
}

/// The admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// The HTTP address of metrics and health; `None`, written `"off"`, opens none.
    #[serde(with = "address_or_off")]
    pub address: Option<SocketAddr>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How a log line is written.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Where lines go: `stderr`, `stdout`, or files that they are appended to.
    pub destinations: Vec<String>,
    /// Whether a line has the time.
    pub timestamps: bool,
    /// How the time is written, in UTC, with the fields of `strftime`; `None` writes it as RFC 3339 says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_format: Option<String>,
    /// Whether a line is written when a client connects and when it disconnects.
    pub connections: bool,
}

/// What the process is to the system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The file that has the number of the process while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
    /// The user that the process becomes if root starts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: LogLevel::Info,
            destinations: vec!["stderr".to_owned()],
            timestamps: true,
            timestamp_format: None,
            connections: true,
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// The least severe level that is written; the order is from quiet to talkative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing is written.
    Off,
    /// Someone must act tonight.
    Error,
    /// Someone should act this week.
    Warn,
    /// Connections and the life of the broker.
    Info,
    /// Decisions.
    Debug,
    /// Packets.
    Trace,
}

/// What the broker says of itself on `$SYS` topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SysConfig {
    /// From one report to the next, in seconds; 0 makes none.
    pub interval_seconds: u16,
}

/// How many shards share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardsConfig {
    /// Shards, each with its own thread: 1 to 64, or 0 for one for each two available cores (at most 64).
    pub count: u8,
}

/// Where and how durably state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StorageKeys", into = "StorageKeys")]
pub struct StorageConfig {
    /// When written state is safe from a crash.
    pub durability: Durability,
    /// Topic Filters of messages that are acknowledged before they are stored.
    pub interval_topics: Vec<String>,
    /// Topic Filters of messages that are never stored.
    pub memory_topics: Vec<String>,
    /// The memory the storage engine may use as cache, in bytes.
    pub cache_bytes: u64,
    /// The free space of the file system below which nothing new is stored, in bytes; 0 keeps none.
    pub reserve_bytes: u64,
}

/// When written state is safe from a crash, which is what an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged: nothing acknowledged is lost.
    Commit,
    /// At intervals: a kill or a power cut may lose what was acknowledged within the last one.
    Interval {
        /// The interval between two commits, in milliseconds.
        milliseconds: u32,
    },
    /// Never: a restart begins empty.
    Memory,
}

/// The VEIL-1 channel, as the broker offers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VeilConfig {
    /// Whether a client may ask for Authentication Method `VEIL-1`.
    pub enabled: bool,
    /// The suites offered (VEIL-1 section 2), none twice.
    pub suites: Vec<Suite>,
    /// The schemes offered (VEIL-1 section 7), none twice.
    pub schemes: Vec<Scheme>,
    /// Files with public authority certificates (VEIL-1 section 3); more may be added while the broker runs.
    pub trust: Vec<PathBuf>,
    /// The file with the broker's own certificate; `None` presents the one made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Handshakes in progress at one time beyond which each address may begin 4 a second; further ones get 0x97, Quota
    /// exceeded.
    pub half_open_max: u32,
    /// Whether a client may use the mode COMPACT, which needs no AUTH packet (VEIL-1 section 4.6).
    pub compact: bool,
    /// How far the clock of a client that uses COMPACT may be from the broker's, in seconds.
    pub clock_skew_seconds: u32,
    /// The most CONNECTs of COMPACT that are remembered, so that none is taken twice, and the most used tickets.
    pub replays_max: u32,
    /// The time that a client has for its first record after COMPACT or RESUME, in milliseconds.
    pub proof_milliseconds: u32,
    /// How long a ticket for RESUME is good for, in seconds; 0 gives none (VEIL-1 section 4.7).
    pub ticket_seconds: u32,
    /// How messages are authenticated to subscribers (VEIL-1 section 6.3).
    pub fan_out: FanOut,
    /// Topic Filters whose topics share a group key; every other topic has its own.
    pub group_scopes: Vec<String>,
    /// The age at which a group key is replaced, in seconds (VEIL-1 section 6.4).
    pub group_key_seconds: u32,
    /// The least time between two keys of a group when members leave, in milliseconds.
    pub group_rekey_milliseconds: u32,
    /// Whether a group takes a new key when a member joins.
    pub join_secrecy: bool,
    /// The age at which the keys of a channel are renewed, in seconds (VEIL-1 section 4.8).
    pub rekey_seconds: u32,
    /// The records after which the keys of a channel are renewed, whichever comes first.
    pub rekey_records: u32,
}

/// How messages are authenticated to subscribers (VEIL-1 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FanOut {
    /// FAN-D in Scheme 4, FAN-GE with the subscriber's own tag in Scheme 3.
    Digest,
    /// FAN-G and FAN-GE as in the paper: any subscriber can forge messages to the others; a weakening.
    Group,
    /// FAN-G and FAN-GE with the subscriber's own tag.
    GroupOuter,
}

/// A suite of the VEIL-1 registry (section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suite {
    /// AES-256-CBC with HMAC-SHA-256, encrypt-then-MAC.
    #[serde(rename = "aes-256-cbc-hmac-sha-256")]
    Aes256CbcHmacSha256,
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Suite {
    /// The byte that stands for the suite on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Aes256CbcHmacSha256 => 1,
            Self::Aes256Gcm => 2,
            Self::ChaCha20Poly1305 => 3,
        }
    }
}

/// A scheme of VEIL-1 section 7, as far as the broker offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Scheme 1: plain MQTT after an authenticated CONNECT; a weakening.
    #[serde(rename = "scheme-1")]
    Scheme1,
    /// Scheme 2: every record is encrypted and authenticated (EI).
    #[serde(rename = "scheme-2")]
    Scheme2,
    /// Scheme 3: as Scheme 2, and messages are encrypted once for a group of subscribers (FAN-GE).
    #[serde(rename = "scheme-3")]
    Scheme3,
    /// Scheme 4: every record is authenticated (I), with FAN-D towards subscribers.
    #[serde(rename = "scheme-4")]
    Scheme4,
}

impl Scheme {
    /// The number that stands for the scheme on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Scheme1 => 1,
            Self::Scheme2 => 2,
            Self::Scheme3 => 3,
            Self::Scheme4 => 4,
        }
    }
}

/// The built-in defaults of a configured broker, which has no listener until it is given one.
impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Configured,
            mosquitto: MosquittoConfig::default(),
            data_dir: PathBuf::from("/var/lib/veilmq"),
            listeners: Vec::new(),
            tls: TlsConfig::default(),
            admin: AdminConfig { address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT))) },
            log: LogConfig::default(),
            process: ProcessConfig::default(),
            sys: SysConfig { interval_seconds: 10 },
            shards: ShardsConfig { count: 0 },
            access: AccessConfig::open_to(false),
            acl: AclConfig::default(),
            bans: BansConfig::default(),
            mqtt: MqttConfig::default(),
            limits: LimitsConfig::default(),
            storage: StorageConfig::default(),
            veil: VeilConfig::default(),
        }
    }
}

impl BrokerConfig {
    /// Tells whether anything is kept in the data directory: state, or the broker's identity.
    #[must_use]
    pub fn needs_data_dir(&self) -> bool {
        self.veil.enabled || self.storage.durability != Durability::Memory
    }

    /// The built-in defaults without a configuration file: loopback only, open to whoever is on this machine.
    pub(crate) fn development(data_dir: PathBuf) -> Self {
        Self {
            mode: Mode::Development,
            data_dir,
            listeners: loopback_listeners(DEFAULT_PORT).to_vec(),
            access: AccessConfig::open_to(true),
            ..Self::default()
        }
    }
}

pub(crate) fn loopback_listeners(port: u16) -> [ListenerConfig; 2] {
    [
        ListenerConfig::mqtt(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        ListenerConfig::mqtt(SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
    ]
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Commit,
            interval_topics: Vec::new(),
            memory_topics: Vec::new(),
            cache_bytes: 32 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Default for VeilConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305, Suite::Aes256CbcHmacSha256],
            schemes: vec![Scheme::Scheme4, Scheme::Scheme2],
            trust: Vec::new(),
            certificate: None,
            half_open_max: 1_000,
            compact: true,
            clock_skew_seconds: 120,
            replays_max: 1 << 20,
            proof_milliseconds: 5_000,
            ticket_seconds: 86_400,
            fan_out: FanOut::Digest,
            group_scopes: Vec::new(),
            group_key_seconds: 3_600,
            group_rekey_milliseconds: 1_000,
            join_secrecy: false,
            rekey_seconds: 3_600,
            rekey_records: 1 << 24,
        }
    }
}

/// `StorageConfig` as it is written: an interval is a key of its own, so that one environment variable can set it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageKeys {
    durability: DurabilityKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_milliseconds: Option<u32>,
    interval_topics: Vec<String>,
    memory_topics: Vec<String>,
    cache_bytes: u64,
    reserve_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityKey {
    Commit,
    Interval,
    Memory,
}

impl StorageKeys {
    const INTERVAL_MILLISECONDS: u32 = 1_000;
}

impl From<StorageKeys> for StorageConfig {
    fn from(keys: StorageKeys) -> Self {
        let StorageKeys {
            durability,
            interval_milliseconds,
            interval_topics,
            memory_topics,
            cache_bytes,
            reserve_bytes,
        } = keys;
        let durability = match durability {
            DurabilityKey::Commit => Durability::Commit,
            DurabilityKey::Interval => Durability::Interval {
                milliseconds: interval_milliseconds.unwrap_or(StorageKeys::INTERVAL_MILLISECONDS),
            },
            DurabilityKey::Memory => Durability::Memory,
        };
        Self { durability, interval_topics, memory_topics, cache_bytes, reserve_bytes }
    }
}

impl From<StorageConfig> for StorageKeys {
    fn from(config: StorageConfig) -> Self {
        let StorageConfig { durability, interval_topics, memory_topics, cache_bytes, reserve_bytes } = config;
        let (durability, interval_milliseconds) = match durability {
            Durability::Commit => (DurabilityKey::Commit, None),
            Durability::Interval { milliseconds } => (DurabilityKey::Interval, Some(milliseconds)),
            Durability::Memory => (DurabilityKey::Memory, None),
        };
        Self { durability, interval_milliseconds, interval_topics, memory_topics, cache_bytes, reserve_bytes }
    }
}

/// TOML has no null, so "no listener" is the word `off`.
mod address_or_off {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::options::OFF;

    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(OFF),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == OFF {
            return Ok(None);
        }
        text.parse().map(Some).map_err(D::Error::custom)
    }
}
