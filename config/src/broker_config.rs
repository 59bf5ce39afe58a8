//! The shape of the configuration and its built-in defaults.
//!
//! Plain data: how it is loaded is `load`, which values are allowed is `options`, limits are in `limits`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    AccessConfig, AclConfig, BansConfig, BridgeConfig, Durability, E2eConfig, FileMode, LimitsConfig,
    ListenAddress, ListenerAccessConfig, ListenerMqttConfig, ListenerTlsConfig, MqttConfig, Named, Note,
    ProxyProtocolConfig, RatesConfig, StorageConfig, TlsConfig, VeilConfig,
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
    /// The places that name what the broker looks for only when it starts; not an option.
    #[serde(skip)]
    pub named: Vec<Named>,
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
    /// How fast clients may send.
    pub rates: RatesConfig,
    /// Where and how durably state is kept.
    pub storage: StorageConfig,
    /// The VEIL-1 channel.
    pub veil: VeilConfig,
    /// What is asked of messages that are sealed end to end.
    #[serde(default)]
    pub e2e: E2eConfig,
    /// The bridges to other brokers, no two with one name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<BridgeConfig>,
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
    /// The network interface that connections have to come by, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The origins of web pages that may connect by WebSocket; none in the list lets all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub websocket_origins: Vec<String>,
    /// Who may connect there, if it is not as for all listeners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<ListenerAccessConfig>,
    /// What is offered of MQTT there, where that is not what all listeners offer.
    #[serde(default, skip_serializing_if = "ListenerMqttConfig::is_default")]
    pub mqtt: ListenerMqttConfig,
    /// Network Connections at one time on this listener, if it has a limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// The files that are served there over HTTP, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_directory: Option<PathBuf>,
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
    /// No MQTT at all, but HTTP: what the broker counts, and files.
    #[serde(rename = "http_api")]
    HttpApi,
}

impl ListenerConfig {
    /// Makes a listener for plain MQTT on this address.
    #[must_use]
    pub fn mqtt(address: ListenAddress) -> Self {
        Self {
            address,
            mode: None,
            protocol: ListenerProtocol::Mqtt,
            tls: None,
            proxy_protocol: None,
            durability: None,
            connections_max: None,
            http_directory: None,
            interface: None,
            websocket_origins: Vec::new(),
            access: None,
            mqtt: ListenerMqttConfig::default(),
        }
    }
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// The HTTP address of metrics and health; `None`, written `"off"`, opens none.
    #[serde(with = "address_or_off")]
    pub address: Option<SocketAddr>,
    /// The file with the token that operators show; without one nobody can administer the broker there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How a log line is written.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Where lines go: `stderr`, `stdout`, `syslog`, `topic`, or files that they are appended to.
    pub destinations: Vec<String>,
    /// As what the system's logger gets them.
    pub syslog_facility: SyslogFacility,
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
            syslog_facility: SyslogFacility::Daemon,
            timestamps: true,
            timestamp_format: None,
            connections: true,
        }
    }
}

/// As what the system's logger gets log lines (RFC 3164 section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogFacility {
    /// System daemons.
    Daemon,
    /// Local use 0.
    Local0,
    /// Local use 1.
    Local1,
    /// Local use 2.
    Local2,
    /// Local use 3.
    Local3,
    /// Local use 4.
    Local4,
    /// Local use 5.
    Local5,
    /// Local use 6.
    Local6,
    /// Local use 7.
    Local7,
}

impl SyslogFacility {
    /// Those that the standard leaves to each machine, in their order.
    pub const LOCAL: [Self; 8] = [
        Self::Local0,
        Self::Local1,
        Self::Local2,
        Self::Local3,
        Self::Local4,
        Self::Local5,
        Self::Local6,
        Self::Local7,
    ];

    /// The number of the standard.
    #[must_use]
    pub fn code(self) -> u8 {
        const DAEMON: u8 = 3;
        const LOCAL_0: u8 = 16;
        let local = (LOCAL_0..).zip(Self::LOCAL).find(|(_, local)| *local == self);
        local.map_or(DAEMON, |(code, _)| code)
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

/// The built-in defaults of a configured broker, which has no listener until it is given one.
impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Configured,
            mosquitto: MosquittoConfig::default(),
            named: Vec::new(),
            data_dir: PathBuf::from("/var/lib/veilmq"),
            listeners: Vec::new(),
            tls: TlsConfig::default(),
            admin: AdminConfig {
                address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT))),
                token_file: None,
            },
            log: LogConfig::default(),
            process: ProcessConfig::default(),
            sys: SysConfig { interval_seconds: 10 },
            shards: ShardsConfig { count: 0 },
            access: AccessConfig::open_to(false),
            acl: AclConfig::default(),
            bans: BansConfig::default(),
            mqtt: MqttConfig::default(),
            limits: LimitsConfig::default(),
            rates: RatesConfig::default(),
            storage: StorageConfig::default(),
            veil: VeilConfig::default(),
            e2e: E2eConfig::default(),
            bridges: Vec::new(),
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
        ListenerConfig::mqtt(SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()),
        ListenerConfig::mqtt(SocketAddr::from((Ipv6Addr::LOCALHOST, port)).into()),
    ]
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
