//! A configuration while it is read from `mosquitto.conf`: Mosquitto's defaults, and what the lines so far have said.
//!
//! Options attach to the listener above them as in Mosquitto. Invariant: `listeners` begins with the default listener, and
//! `current` is one of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::Note;
use super::bridge::BridgeDraft;
use super::tls::TlsDraft;
use crate::access::{AccessConfig, AclConfig, AclSubscribe, BadCredentials};
use crate::broker_config::{
    AdminConfig, BrokerConfig, DEFAULT_PORT, ListenerConfig, ListenerProtocol, LogLevel, Mode,
};
use crate::error::{ConfigError, Fault, Origin};
use crate::limits::LimitsConfig;
use crate::mqtt::MqttConfig;
use crate::storage::Durability;
use crate::{ListenAddress, ProxyProtocolConfig};

/// What stands behind the name of Mosquitto's database in the name of our directory beside it.
const DIRECTORY_SUFFIX: &str = ".veilmq";
/// Mosquitto's own bound on packets, since 2.1.
const PACKET_BYTES_MAX: u32 = 2_000_000;
/// Where a broker that stores nothing would look for what it does not need.
const UNUSED_DIRECTORY: &str = "mosquitto.veilmq";
/// More than anybody has; what Mosquitto does not bound is bounded by this.
const MESSAGES_UNBOUNDED: u32 = 100_000_000;

/// A configuration while it is read.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) config: BrokerConfig,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) current: usize,
    /// Whether security options belong to the listener above them.
    pub(super) is_per_listener: bool,
    /// `allow_anonymous` for all listeners.
    pub(super) anonymous: Option<bool>,
    /// `password_file` for all listeners.
    pub(super) password_file: Option<PathBuf>,
    /// `acl_file` for all listeners.
    pub(super) acl_file: Option<PathBuf>,
    /// The most talkative `log_type` so far.
    pub(super) log_level: Option<LogLevel>,
    /// Where the log goes, if anything has been said about that.
    pub(super) log_destinations: Option<Vec<String>>,
    /// How many messages may wait above those in flight; 0 for no bound.
    pub(super) queued_messages_max: u32,
    /// How many bytes of messages may wait; 0 for no bound.
    pub(super) queued_bytes_max: u64,
    pub(super) is_persistent: bool,
    pub(super) persistence_location: PathBuf,
    pub(super) persistence_file: String,
    pub(super) bridges: Vec<BridgeDraft>,
    pub(super) notes: Vec<Note>,
}

/// A listener while it is read.
#[derive(Debug)]
pub(super) struct ListenerDraft {
    /// Where it begins; the default listener begins nowhere.
    pub(super) origin: Origin,
    pub(super) port: Option<u16>,
    /// An address or a host name.
    pub(super) host: Option<String>,
    pub(super) family: Family,
    pub(super) protocol: ListenerProtocol,
    /// The path of a Unix socket, instead of a port.
    pub(super) socket: Option<PathBuf>,
    pub(super) tls: TlsDraft,
    /// Whether connections begin with a PROXY header.
    pub(super) is_proxied: bool,
    pub(super) connections_max: Option<u32>,
    pub(super) anonymous: Option<bool>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) acl_file: Option<PathBuf>,
    pub(super) maximum_qos: u8,
    pub(super) topic_alias_maximum: u16,
    pub(super) topic_alias_to_client_max: u16,
}

/// The versions of IP that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Both,
    Ipv4,
    Ipv6,
}

impl ListenerDraft {
    pub(super) fn new(origin: Origin) -> Self {
        Self {
            origin,
            port: None,
            host: None,
            family: Family::Both,
            protocol: ListenerProtocol::Mqtt,
            socket: None,
            tls: TlsDraft::default(),
            is_proxied: false,
            connections_max: None,
            anonymous: None,
            password_file: None,
            acl_file: None,
            maximum_qos: 2,
            topic_alias_maximum: 10,
            topic_alias_to_client_max: 10,
        }
    }

    /// Makes our listeners of it, one for each address.
    fn listeners(&self, addresses: Vec<ListenAddress>) -> Result<Vec<ListenerConfig>, ConfigError> {
        let tls = self.tls.finish().map_err(|(option, reason)| self.fault(option, reason))?;
        if self.is_proxied && (tls.is_some() || self.tls.asks_for_certificates()) {
            let reason = "cannot be used with TLS or with client certificates that the proxy has seen";
            return Err(self.fault("enable_proxy_protocol", reason));
        }
        // Mosquitto takes everybody's word there.
        let everybody = || ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
        let proxy_protocol = self.is_proxied.then(|| ProxyProtocolConfig { trusted: everybody() });
        let listener = |address| ListenerConfig {
            address,
            mode: None,
            protocol: self.protocol,
            tls: tls.clone(),
            proxy_protocol: proxy_protocol.clone(),
            connections_max: self.connections_max,
            durability: None,
        };
        Ok(addresses.into_iter().map(listener).collect())
    }

    fn fault(&self, option: &str, reason: &str) -> ConfigError {
        let (option, reason) = (option.to_owned(), reason.to_owned());
        ConfigError::new(self.origin.clone(), Fault::Mosquitto { option, reason })
    }

    /// Names where to listen.
    fn addresses(&self) -> Result<Vec<ListenAddress>, ConfigError> {
        if let Some(path) = &self.socket {
            return Ok(vec![ListenAddress::Unix(path.clone())]);
        }
        let port = self.port.unwrap_or(DEFAULT_PORT);
        let found: Vec<SocketAddr> = match &self.host {
            None => [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
                .map(|ip| SocketAddr::new(ip, port))
                .into(),
            Some(host) => (host.as_str(), port)
                .to_socket_addrs()
                .map_err(|reason| {
                    ConfigError::new(self.origin.clone(), Fault::Host { host: host.clone(), reason })
                })?
                .collect(),
        };
        let mut addresses: Vec<ListenAddress> = Vec::new();
        for address in found.into_iter().filter(|address| self.family.includes(*address)) {
            if !addresses.contains(&address.into()) {
                addresses.push(address.into());
            }
        }
        if addresses.is_empty() {
            let fault = Fault::NoAddress { host: self.host.clone().unwrap_or_default() };
            return Err(ConfigError::new(self.origin.clone(), fault));
        }
        Ok(addresses)
    }
}

impl Family {
    fn includes(self, address: SocketAddr) -> bool {
        match self {
            Self::Both => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

impl Draft {
    /// Begins with what Mosquitto does when it is told nothing.
    pub(super) fn new() -> Self {
        Self {
            config: BrokerConfig {
                mode: Mode::Mosquitto,
                // Several brokers on one machine is usual, and their port of metrics would be one.
                admin: AdminConfig { address: None, token_file: None },
                mqtt: MqttConfig {
                    reason_strings: false,
                    refuse_long_keep_alive: true,
                    ..MqttConfig::default()
                },
                limits: LimitsConfig {
                    packet_bytes_max: PACKET_BYTES_MAX,
                    receive_maximum: 20,
                    inflight_max: 20,
                    client_id_bytes_max: u16::MAX,
                    connect_packet_bytes_max: 256 * 1024,
                    ..LimitsConfig::default()
                },
                ..BrokerConfig::default()
            },
            listeners: vec![ListenerDraft::new(Origin::Default)],
            current: 0,
            is_per_listener: false,
            anonymous: None,
            password_file: None,
            acl_file: None,
            log_level: None,
            log_destinations: None,
            queued_messages_max: 1_000,
            queued_bytes_max: 0,
            is_persistent: false,
            persistence_location: PathBuf::new(),
            persistence_file: "mosquitto.db".to_owned(),
            bridges: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The listener that options attach to.
    pub(super) fn listener(&mut self) -> &mut ListenerDraft {
        &mut self.listeners[self.current]
    }

    /// The bridge that options attach to, once there is one.
    pub(super) fn bridge(&mut self) -> &mut BridgeDraft {
        let last = self.bridges.len() - 1;
        &mut self.bridges[last]
    }

    /// Makes the configuration of what was read. `ports` are those of the command line, which count only where no listener is
    /// configured.
    ///
    /// # Errors
    /// A host name without address, or listeners that would have to differ in what all listeners share.
    pub(super) fn finish(mut self, ports: &[u16]) -> Result<BrokerConfig, ConfigError> {
        let is_local_only = self.listeners.len() == 1 && !self.default_listener_is_used();
        if is_local_only {
            self.listen_locally(ports)?;
        } else {
            if !self.default_listener_is_used() {
                self.listeners.remove(0);
            }
            for listener in &self.listeners {
                self.config.listeners.extend(listener.listeners(listener.addresses()?)?);
            }
        }
        self.share_what_listeners_agree_on(is_local_only)?;
        if let Some(destinations) = self.log_destinations.take() {
            self.config.log.destinations = destinations;
        }
        self.config.log.level = self.log_level.unwrap_or(LogLevel::Info);
        self.bound_queues();
        self.choose_directory();
        let bridges = std::mem::take(&mut self.bridges).into_iter().map(BridgeDraft::finish);
        self.config.bridges = bridges.collect::<Result<_, _>>()?;
        self.config.mosquitto.notes = self.notes;
        Ok(self.config)
    }

    fn default_listener_is_used(&self) -> bool {
        self.listeners.first().is_some_and(|listener| listener.port.is_some() || listener.host.is_some())
    }

    /// Without any listener Mosquitto serves this machine only.
    fn listen_locally(&mut self, ports: &[u16]) -> Result<(), ConfigError> {
        let ports = if ports.is_empty() { &[DEFAULT_PORT] } else { ports };
        let default = &self.listeners[0];
        for port in ports {
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            let addresses = loopback.map(|ip| SocketAddr::new(ip, *port)).into_iter();
            let wanted = addresses.filter(|address| default.family.includes(*address));
            let listeners = default.listeners(wanted.map(ListenAddress::from).collect())?;
            self.config.listeners.extend(listeners);
        }
        Ok(())
    }

    /// Sets what the broker has one of, as far as all listeners want the same.
    fn share_what_listeners_agree_on(&mut self, is_local_only: bool) -> Result<(), ConfigError> {
        let anonymous = self.anonymous;
        let anonymous_of =
            |listener: &ListenerDraft| listener.anonymous.or(anonymous).unwrap_or(is_local_only);
        let passwords_of = |listener: &ListenerDraft| {
            let file = if self.is_per_listener { &listener.password_file } else { &self.password_file };
            file.clone()
        };
        let rules_of = |listener: &ListenerDraft| {
            let file = if self.is_per_listener { &listener.acl_file } else { &self.acl_file };
            file.clone()
        };
        let access = AccessConfig {
            password_file: self.agreed("password_file", passwords_of)?,
            bad_credentials: BadCredentials::NotAuthorized,
            ..AccessConfig::open_to(self.agreed("allow_anonymous", anonymous_of)?)
        };
        let mosquitto_file = self.agreed("acl_file", rules_of)?;
        self.config.access = access;
        self.config.acl = AclConfig { file: None, mosquitto_file, subscribe: AclSubscribe::Compat };
        self.config.mqtt.maximum_qos = self.agreed("max_qos", |listener| listener.maximum_qos)?;
        self.config.limits.topic_alias_maximum =
            self.agreed("max_topic_alias", |listener| listener.topic_alias_maximum)?;
        self.config.limits.topic_alias_to_client_max =
            self.agreed("max_topic_alias_broker", |listener| listener.topic_alias_to_client_max)?;
        Ok(())
    }

    fn agreed<T: PartialEq>(
        &self,
        option: &'static str,
        value: impl Fn(&ListenerDraft) -> T,
    ) -> Result<T, ConfigError> {
        let first = value(&self.listeners[0]);
        match self.listeners.iter().find(|listener| value(listener) != first) {
            None => Ok(first),
            Some(other) => Err(ConfigError::new(
                other.origin.clone(),
                Fault::Mosquitto {
                    option: option.to_owned(),
                    reason: "all listeners must have the same, for the broker has one".to_owned(),
                },
            )),
        }
    }

    /// Mosquitto counts what waits above the messages in flight, and we count both.
    fn bound_queues(&mut self) {
        let limits = &mut self.config.limits;
        limits.session_queue_messages_max = match self.queued_messages_max {
            0 => MESSAGES_UNBOUNDED,
            waiting => waiting.saturating_add(limits.inflight_max.into()).min(MESSAGES_UNBOUNDED),
        };
        limits.session_queue_bytes_max = match self.queued_bytes_max {
            0 => limits.queue_bytes_max,
            bytes => bytes.clamp(limits.packet_bytes_max.into(), limits.queue_bytes_max),
        };
    }

    /// State is kept beside Mosquitto's database; without persistence nothing is.
    fn choose_directory(&mut self) {
        let database = self.persistence_location.join(&self.persistence_file);
        if self.is_persistent {
            let name = format!("{}{DIRECTORY_SUFFIX}", self.persistence_file);
            self.config.data_dir = self.persistence_location.join(name);
            self.config.mosquitto.database = Some(database);
        } else {
            self.config.storage.durability = Durability::Memory;
            self.config.data_dir = PathBuf::from(UNUSED_DIRECTORY);
            // The keys of the channel would have to be kept.
            self.config.veil.enabled = false;
        }
    }
}
