//! A configuration while it is read from `mosquitto.conf`: Mosquitto's defaults, and what the lines so far have said.
//!
//! Options attach to the listener above them as in Mosquitto. Invariant: `listeners` begins with the default listener, and
//! `current` is one of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::Note;
use super::bridge::BridgeDraft;
use super::plugin::PluginsDraft;
use super::tls::{TlsDraft, Unusable};
use crate::access::{AccessConfig, AclConfig, AclSubscribe, BadCredentials, ListenerAccessConfig};
use crate::broker_config::{
    AdminConfig, BrokerConfig, DEFAULT_PORT, ListenerConfig, ListenerProtocol, LogLevel, Mode,
};
use crate::error::{ConfigError, Fault, Origin};
use crate::limits::LimitsConfig;
use crate::mqtt::{ListenerMqttConfig, MqttConfig};
use crate::named::Named;
use crate::storage::Durability;
use crate::{ListenAddress, ProxiedTls, ProxyIdentity, ProxyProtocolConfig};

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
    /// The first option of the default listener, and where it stands.
    pub(super) default_listener: Option<(Origin, &'static str)>,
    /// Whether security options belong to the listener above them.
    pub(super) is_per_listener: bool,
    /// `allow_anonymous` for all listeners.
    pub(super) anonymous: Option<bool>,
    /// Security options for all listeners.
    pub(super) security: SecurityDraft,
    pub(super) plugins: PluginsDraft,
    pub(super) is_control_api_on: bool,
    /// `clientid_prefixes`.
    pub(super) client_id_prefix: Option<String>,
    /// The most talkative `log_type` so far.
    pub(super) log_level: Option<LogLevel>,
    /// Where the log goes, if anything has been said about that.
    pub(super) log_destinations: Option<Vec<String>>,
    /// How many messages may wait, beside those in flight; 0 for no bound.
    pub(super) queued_messages_max: u32,
    /// How many bytes of messages may wait; 0 for no bound.
    pub(super) queued_bytes_max: u64,
    pub(super) is_persistent: bool,
    pub(super) persistence_location: PathBuf,
    pub(super) persistence_file: String,
    pub(super) bridges: Vec<BridgeDraft>,
    pub(super) notes: Vec<Note>,
    /// What is to be noted of the line that is being read.
    pub(super) remark: Option<&'static str>,
    /// What the broker looks for when it starts.
    pub(super) named: Vec<Named>,
}

/// A listener while it is read.
#[derive(Debug)]
pub(super) struct ListenerDraft {
    /// Where it begins; the default listener begins nowhere.
    pub(super) origin: Origin,
    /// Where each of its options stands, the last of several.
    pub(super) lines: HashMap<&'static str, Origin>,
    pub(super) port: Option<u16>,
    /// An address or a host name.
    pub(super) host: Option<String>,
    pub(super) family: Family,
    pub(super) protocol: ListenerProtocol,
    /// The path of a Unix socket, instead of a port.
    pub(super) socket: Option<PathBuf>,
    pub(super) tls: TlsDraft,
    /// The version of the PROXY header that connections begin with, if they do.
    pub(super) proxy_version: Option<u8>,
    /// Whether the client has to speak TLS with the proxy.
    pub(super) requires_proxied_tls: bool,
    pub(super) connections_max: Option<u32>,
    pub(super) anonymous: Option<bool>,
    /// Security options for this listener, if they are not for all.
    pub(super) security: SecurityDraft,
    /// What the plugins that it uses by their names add to that.
    pub(super) used: SecurityDraft,
    /// `listener_auto_id_prefix`, which goes before `auto_id_prefix`.
    pub(super) assigned_client_id_prefix: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) websocket_origins: Vec<String>,
    /// `http_dir`.
    pub(super) http_directory: Option<PathBuf>,
    pub(super) mqtt: ListenerMqttConfig,
}

/// Security options of the broker or of one listener, but for `allow_anonymous`.
#[derive(Debug, Default)]
pub(super) struct SecurityDraft {
    pub(super) password_file: Option<PathBuf>,
    pub(super) acl_file: Option<PathBuf>,
    /// Whether dynamic security says who may connect and what clients may do.
    pub(super) has_dynamic_security: bool,
    pub(super) refuses_empty_client_id: bool,
    pub(super) assigned_client_id_prefix: Option<String>,
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
            lines: HashMap::new(),
            port: None,
            host: None,
            family: Family::Both,
            protocol: ListenerProtocol::Mqtt,
            socket: None,
            tls: TlsDraft::default(),
            proxy_version: None,
            requires_proxied_tls: false,
            connections_max: None,
            anonymous: None,
            security: SecurityDraft::default(),
            used: SecurityDraft::default(),
            assigned_client_id_prefix: None,
            interface: None,
            websocket_origins: Vec::new(),
            http_directory: None,
            mqtt: ListenerMqttConfig::default(),
        }
    }

    /// Makes our listeners of it, one for each address.
    fn listeners(&self, addresses: Vec<ListenAddress>) -> Result<Vec<ListenerConfig>, ConfigError> {
        let is_http = self.protocol == ListenerProtocol::HttpApi;
        if self.http_directory.is_some() && !is_http {
            return Err(
                self.fault("http_dir", "needs `protocol http_api` beside it; no other listener serves files")
            );
        }
        if is_http && (self.proxy_version.is_some() || self.socket.is_some()) {
            return Err(self.fault(
                "protocol",
                "cannot be `http_api` on a Unix socket or behind `enable_proxy_protocol`",
            ));
        }
        let proxy_protocol = self.proxy_protocol()?;
        let tls = match proxy_protocol {
            Some(_) => None,
            None => self.tls.finish().map_err(|unusable| match unusable {
                Unusable::Lines(option, reason) => self.fault(option, reason),
                Unusable::Late(option, reason) => {
                    self.fault(option, reason).said_late(format!("{option} {reason}."))
                }
            })?,
        };
        let proven_users_only = tls.is_some() && self.tls.has_no_users();
        let mqtt = ListenerMqttConfig { proven_users_only, ..self.mqtt.clone() };
        let listener = |address| ListenerConfig {
            address,
            mode: None,
            protocol: self.protocol,
            tls: tls.clone(),
            proxy_protocol: proxy_protocol.clone(),
            connections_max: self.connections_max,
            http_directory: self.http_directory.clone(),
            durability: None,
            interface: self.interface.clone(),
            websocket_origins: self.websocket_origins.clone(),
            access: None,
            mqtt: mqtt.clone(),
        };
        Ok(addresses.into_iter().map(listener).collect())
    }

    fn proxy_protocol(&self) -> Result<Option<ProxyProtocolConfig>, ConfigError> {
        let Some(version) = self.proxy_version else { return Ok(None) };
        let asks = self.tls.asks();
        if let Some(option) = asks.cannot_be_proxied() {
            let named = if option == "certfile" { "certfile and keyfile" } else { option };
            let words = format!("{named} cannot be used with `enable_proxy_protocol {version}`.");
            return Err(self.fault(option, "cannot be used with `enable_proxy_protocol`").said(words));
        }
        if version == 1 && (self.requires_proxied_tls || asks.certificate || asks.common_name) {
            return Err(self.fault("enable_proxy_protocol", "must be 2 for what the proxy says of TLS"));
        }
        // Mosquitto takes everybody's word there.
        let everybody = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok());
        Ok(Some(ProxyProtocolConfig {
            trusted: everybody.collect(),
            version: Some(version),
            tls: match (asks.certificate, self.requires_proxied_tls) {
                (true, _) => ProxiedTls::Certificate,
                (false, true) => ProxiedTls::Required,
                (false, false) => ProxiedTls::Any,
            },
            identity: if asks.common_name { ProxyIdentity::Cn } else { ProxyIdentity::None },
        }))
    }

    fn fault(&self, option: &str, reason: &str) -> ConfigError {
        let origin = self.lines.get(option).unwrap_or(&self.origin).clone();
        let (option, reason) = (option.to_owned(), reason.to_owned());
        ConfigError::new(origin, Fault::Mosquitto { option, reason })
    }

    /// Says what of MQTT is offered, after the security options for all listeners if there are any for all.
    fn settle_mqtt(&mut self, common: Option<&SecurityDraft>) {
        let security = common.unwrap_or(&self.security);
        self.mqtt.empty_client_id = !security.refuses_empty_client_id;
        let prefix = self.assigned_client_id_prefix.as_ref().or(security.assigned_client_id_prefix.as_ref());
        if let Some(prefix) = prefix {
            self.mqtt.assigned_client_id_prefix.clone_from(prefix);
        }
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
                    let (option, origin) = match self.lines.get("bind_address") {
                        Some(line) => ("bind_address", line),
                        None => ("listener", &self.origin),
                    };
                    ConfigError::new(origin.clone(), Fault::Host { option, host: host.clone(), reason })
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
                    mosquitto_habits: true,
                    ..MqttConfig::default()
                },
                limits: LimitsConfig {
                    packet_bytes_max: PACKET_BYTES_MAX,
                    receive_maximum: 20,
                    topic_alias_maximum: 10,
                    topic_alias_to_client_max: 10,
                    inflight_max: 20,
                    client_id_bytes_max: u16::MAX,
                    // 200 slashes.
                    topic_levels_max: 201,
                    // What fits into a CONNECT.
                    user_properties_max: u16::MAX.into(),
                    connect_packet_bytes_max: 256 * 1024,
                    ..LimitsConfig::default()
                },
                ..BrokerConfig::default()
            },
            listeners: vec![ListenerDraft::new(Origin::Default)],
            current: 0,
            default_listener: None,
            is_per_listener: false,
            anonymous: None,
            security: SecurityDraft::default(),
            plugins: PluginsDraft::default(),
            is_control_api_on: false,
            client_id_prefix: None,
            log_level: None,
            log_destinations: None,
            queued_messages_max: 1_000,
            queued_bytes_max: 0,
            is_persistent: false,
            persistence_location: PathBuf::new(),
            persistence_file: "mosquitto.db".to_owned(),
            bridges: Vec::new(),
            notes: Vec::new(),
            remark: None,
            named: Vec::new(),
        }
    }

    /// What security options attach to.
    pub(super) fn security(&mut self) -> &mut SecurityDraft {
        if self.is_per_listener { &mut self.listener().security } else { &mut self.security }
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
    /// A host name without address.
    pub(super) fn finish(mut self, ports: &[u16]) -> Result<BrokerConfig, ConfigError> {
        // They go by the numbers of the listeners, of which the default one may have to go.
        self.settle_plugins()?;
        let is_local_only = self.listeners.len() == 1 && !self.default_listener_is_placed();
        if !is_local_only && !self.default_listener_is_placed() {
            self.settle_default_listener();
        }
        self.settle_security(is_local_only);
        for listener in &mut self.listeners {
            listener.settle_mqtt((!self.is_per_listener).then_some(&self.security));
        }
        match is_local_only {
            true => self.listen_locally(ports)?,
            false => self.listen()?,
        }
        if let Some(destinations) = self.log_destinations.take() {
            self.config.log.destinations = destinations;
        }
        self.config.log.level = self.log_level.unwrap_or(LogLevel::Info);
        self.bound_queues();
        self.choose_directory();
        let bridges = std::mem::take(&mut self.bridges).into_iter().map(BridgeDraft::finish);
        self.config.bridges = bridges.collect::<Result<_, _>>()?;
        self.notes.extend(self.plugins.inactive());
        self.config.mosquitto.notes = self.notes;
        self.config.named = self.named;
        Ok(self.config)
    }

    fn default_listener_is_placed(&self) -> bool {
        self.listeners.first().is_some_and(|listener| listener.port.is_some() || listener.host.is_some())
    }

    /// Beside other listeners the default listener opens if anything has been said of it.
    fn settle_default_listener(&mut self) {
        let Some((origin, option)) = self.default_listener.take() else {
            self.listeners.remove(0);
            return;
        };
        let text = format!(
            "stands above every listener, so that one on port {DEFAULT_PORT} is opened too, as by Mosquitto"
        );
        self.notes.push(Note { origin, option: option.to_owned(), text, is_warning: true });
    }

    fn listen(&mut self) -> Result<(), ConfigError> {
        let mut taken = HashMap::new();
        for listener in &self.listeners {
            let access = self.access_of(listener, false);
            for mut listening in listener.listeners(listener.addresses()?)? {
                let place = (listening.address.clone(), &listener.interface);
                if let Some(other) = taken.insert(place, &listener.origin) {
                    let reason = format!("listens on {} as that of {other} does", listening.address);
                    return Err(listener.fault("listener", &reason).said_late("Address already in use"));
                }
                listening.access = access.clone();
                self.config.listeners.push(listening);
            }
        }
        Ok(())
    }

    /// Without any listener Mosquitto serves this machine only.
    fn listen_locally(&mut self, ports: &[u16]) -> Result<(), ConfigError> {
        let ports = if ports.is_empty() { &[DEFAULT_PORT] } else { ports };
        let default = &self.listeners[0];
        let access = self.access_of(default, true);
        for port in ports {
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            let addresses = loopback.map(|ip| SocketAddr::new(ip, *port)).into_iter();
            let wanted = addresses.filter(|address| default.family.includes(*address));
            for mut listening in default.listeners(wanted.map(ListenAddress::from).collect())? {
                listening.access.clone_from(&access);
                self.config.listeners.push(listening);
            }
        }
        Ok(())
    }

    /// Says who may connect and what clients may do, for all listeners; which of them differs is seen later.
    fn settle_security(&mut self, is_local_only: bool) {
        let first = self.listeners.first();
        let anonymous = first.and_then(|listener| listener.anonymous).or(self.anonymous);
        let security = match first {
            Some(listener) if self.is_per_listener => &listener.security,
            Some(_) | None => &self.security,
        };
        self.config.access = AccessConfig {
            dynamic_security_file: self.plugins.dynamic_security_file.clone().filter(|_| self.has_roles()),
            dynamic_security_password_file: self.plugins.password_init_file.clone(),
            control_api: self.is_control_api_on,
            password_file: security.password_file.clone(),
            bad_credentials: BadCredentials::NotAuthorized,
            client_id_prefix: self.client_id_prefix.take(),
            ..AccessConfig::open_to(anonymous.unwrap_or(is_local_only))
        };
        // Where there are roles for all, a listener that goes by the rules of a file says so.
        let has_roles = self.config.access.dynamic_security_file.is_some();
        let acl = &self.config.acl;
        self.config.acl = AclConfig {
            file: None,
            mosquitto_file: security.acl_file.clone().filter(|_| !has_roles),
            subscribe: AclSubscribe::Compat,
            check_retained_source: acl.check_retained_source,
        };
    }

    /// Tells whether dynamic security counts on any listener.
    fn has_roles(&self) -> bool {
        let drafts = self.listeners.iter().flat_map(|listener| [&listener.security, &listener.used]);
        self.plugins.is_global || drafts.chain([&self.security]).any(|security| security.has_dynamic_security)
    }

    /// Returns who may connect on a listener and what its clients may do; None if that is as for all listeners.
    fn access_of(&self, listener: &ListenerDraft, is_local_only: bool) -> Option<ListenerAccessConfig> {
        let security = if self.is_per_listener { &listener.security } else { &self.security };
        let used = &listener.used;
        let own = ListenerAccessConfig {
            anonymous: listener.anonymous.or(self.anonymous).unwrap_or(is_local_only),
            password_file: used.password_file.clone().or_else(|| security.password_file.clone()),
            rehash: false,
            acl_file: None,
            mosquitto_acl_file: used.acl_file.clone().or_else(|| security.acl_file.clone()),
            dynamic_security: self.plugins.is_global
                || security.has_dynamic_security
                || used.has_dynamic_security,
            jwt: false,
            http: false,
        };
        (own != self.config.access_of_listeners()).then_some(own)
    }

    /// Mosquitto counts what waits above the messages in flight, and we count both.
    fn bound_queues(&mut self) {
        let limits = &mut self.config.limits;
        limits.session_queue_messages_max = match self.queued_messages_max {
            0 => MESSAGES_UNBOUNDED,
            waiting => waiting.min(MESSAGES_UNBOUNDED),
        };
        // Mosquitto has no limit on these but that of packets, which is the smallest of ours.
        let packet = u64::from(limits.packet_bytes_max);
        for bytes in
            [&mut limits.queue_bytes_max, &mut limits.mailbox_bytes_max, &mut limits.retained_bytes_max]
        {
            *bytes = packet.max(*bytes);
        }
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
