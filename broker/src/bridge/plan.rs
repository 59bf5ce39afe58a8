//! What one bridge is to do: its options, and what is made of them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use veilmq_bridge::{Direction, Filters, LocalSettings, Mapping, MappingError, RemoteSettings, Settings};
use veilmq_config::{
    BridgeConfig, BridgeDirection, BridgeNotifications, BridgeProtocol, BridgeReload, BridgeStart,
    BrokerConfig,
};
use veilmq_core::SessionSummary;
use veilmq_protocol::{ProtocolVersion, QoS};

use super::tls;
use crate::files::{self, FileError};
use crate::tls::TlsError;

/// What a PUBLISH from this broker may have beside what fitted into its publisher's packet, in bytes.
const GROWTH_BYTES: u32 = 1_024;
/// What CONNECT has room for.
const PASSWORD_BYTES_MAX: usize = 65_535;
/// A session that never expires (MQTT 5.0 section 3.1.2.11.2).
const NEVER: u32 = u32::MAX;

/// Why bridges cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A topic is none.
    #[error("bridge {bridge}: {source}")]
    Topic {
        /// The bridge.
        bridge: String,
        /// What is wrong.
        source: MappingError,
    },
    /// TLS cannot be spoken.
    #[error("bridge {bridge}: {source}")]
    Tls {
        /// The bridge.
        bridge: String,
        /// What is wrong.
        source: TlsError,
    },
    /// The file with its password cannot be read.
    #[error("bridge {bridge}: {source}")]
    Password {
        /// The bridge.
        bridge: String,
        /// What is wrong.
        source: FileError,
    },
    /// The operating system does not say what this machine is called, or gives no randomness.
    #[error("bridges: {0}")]
    System(io::Error),
}

impl BridgeError {
    /// Returns the file at fault.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tls { source, .. } => source.path(),
            Self::Password { source, .. } => Some(source.path()),
            Self::Topic { .. } | Self::System(_) => None,
        }
    }
}

/// What one bridge is to do.
#[derive(Debug, Clone)]
pub struct BridgePlan {
    /// Its name in logs.
    pub(super) name: Arc<str>,
    /// The options it is made of.
    pub(super) config: BridgeConfig,
    /// The topic that tells clients of this broker how the bridge fares.
    pub(super) local_notification_topic: Option<String>,
    /// How much has to wait for a lazy bridge; `None` for any other.
    pub(super) threshold: Option<Threshold>,
    /// Whether a change of it holds at once.
    pub(super) changes_at_once: bool,
    /// What crosses, and as whom.
    pub(super) settings: Settings,
}

/// How much waits when a lazy bridge connects: one of the two is enough, and so is a message that had to be dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Threshold {
    messages: usize,
    bytes: u64,
}

impl Threshold {
    /// What a session does not hold can never wait.
    fn new(bridge: &BridgeConfig, config: &BrokerConfig) -> Self {
        let limits = &config.limits;
        Self {
            messages: bridge.lazy_messages.min(limits.session_queue_messages_max) as usize,
            bytes: limits.session_queue_bytes_max / 2,
        }
    }

    pub(super) fn is_reached_by(self, session: &SessionSummary) -> bool {
        session.queued_messages + session.inflight_messages >= self.messages
            || session.queued_bytes as u64 >= self.bytes
            || session.lacked_room
    }
}

impl PartialEq for BridgePlan {
    /// Compares what the operator has said: of the bridge, in a file of its own, and of limits that hold for it. The rest is made
    /// of the first, or random.
    fn eq(&self, other: &Self) -> bool {
        let (settings, others) = (&self.settings, &other.settings);
        self.config == other.config
            && self.threshold == other.threshold
            && settings.local == others.local
            && settings.remote == others.remote
    }
}

impl BridgePlan {
    /// Makes the plans of all bridges, and looks whether their files can be used.
    ///
    /// # Errors
    /// [`BridgeError`], naming the bridge.
    pub fn all(config: &BrokerConfig) -> Result<Vec<Self>, BridgeError> {
        if config.bridges.is_empty() {
            return Ok(Vec::new());
        }
        let host = host_name().map_err(BridgeError::System)?;
        config.bridges.iter().map(|bridge| Self::new(bridge, config, &host)).collect()
    }

    fn new(bridge: &BridgeConfig, config: &BrokerConfig, host: &str) -> Result<Self, BridgeError> {
        if let Some(tls) = &bridge.tls {
            let named = |source| BridgeError::Tls { bridge: bridge.name.clone(), source };
            tls::client_config(tls).map_err(named)?;
        }
        let password = password(bridge)
            .map_err(|source| BridgeError::Password { bridge: bridge.name.clone(), source })?;
        let client_id = bridge.client_id.clone().unwrap_or_else(|| format!("{host}.{}", bridge.name));
        let topic = bridge.notification_topic.clone();
        let topic = topic.unwrap_or_else(|| format!("$SYS/broker/connection/{client_id}/state"));
        let told = |who: &[BridgeNotifications]| who.contains(&bridge.notifications).then(|| topic.clone());
        let is_lazy = bridge.start == BridgeStart::Lazy;
        let mut hash_key = [0; 16];
        getrandom::fill(&mut hash_key).map_err(|error| BridgeError::System(error.into()))?;
        Ok(Self {
            name: Arc::from(bridge.name.as_str()),
            local_notification_topic: told(&[BridgeNotifications::Local, BridgeNotifications::Both]),
            threshold: is_lazy.then(|| Threshold::new(bridge, config)),
            changes_at_once: bridge.reload == BridgeReload::Immediate,
            settings: Settings {
                local: local_settings(bridge, config, &client_id),
                mappings: mappings(bridge)?,
                dropped: Filters::default(),
                mark: bridge.marks_messages.then(|| client_id.clone()),
                idle_milliseconds: is_lazy.then_some(u64::from(bridge.idle_seconds) * 1_000),
                hash_key,
                remote: remote_settings(
                    bridge,
                    config,
                    (client_id, password),
                    told(&[BridgeNotifications::Both]),
                ),
            },
            config: bridge.clone(),
        })
    }

    /// The shortest and the longest wait before the bridge connects again.
    pub(super) fn waits(&self) -> (Duration, Duration) {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        (seconds(self.config.restart_seconds_min), seconds(self.config.restart_seconds_max))
    }
}

/// Returns what the bridge shows the other broker, wherever it is written.
fn password(bridge: &BridgeConfig) -> Result<Option<Vec<u8>>, FileError> {
    let Some(path) = &bridge.password_file else {
        return Ok(bridge.password.as_ref().map(|password| password.as_bytes().to_vec()));
    };
    let text = files::read(path, PASSWORD_BYTES_MAX)?;
    files::warn_if_exposed(path);
    let password = text.strip_suffix(b"\n").unwrap_or(&text);
    Ok(Some(password.strip_suffix(b"\r").unwrap_or(password).to_vec()))
}

fn remote_settings(
    bridge: &BridgeConfig,
    config: &BrokerConfig,
    (client_id, password): (String, Option<Vec<u8>>),
    notification_topic: Option<String>,
) -> RemoteSettings {
    let kept_seconds = bridge.session_expiry_seconds.unwrap_or(if bridge.clean_start { 0 } else { NEVER });
    RemoteSettings {
        version: match bridge.protocol {
            BridgeProtocol::V31 => ProtocolVersion::V31,
            BridgeProtocol::V311 => ProtocolVersion::V311,
            BridgeProtocol::V5 => ProtocolVersion::V5,
        },
        says_bridge: bridge.says_bridge,
        client_id,
        username: bridge.username.clone(),
        password,
        clean_start: bridge.clean_start,
        session_expiry_seconds: Some(kept_seconds).filter(|seconds| *seconds > 0),
        keep_alive_seconds: bridge.keep_alive_seconds,
        receive_maximum: bridge.receive_maximum,
        packet_bytes_max: config.limits.packet_bytes_max,
        says_packet_bytes_max: !config.mqtt.mosquitto_habits,
        sent_packet_bytes_max: bridge.packet_bytes_max,
        topic_alias_maximum: bridge.topic_alias_maximum,
        notification_topic,
        passes_retain: bridge.passes_retain,
        unsubscribes: bridge.unsubscribes,
    }
}

fn local_settings(bridge: &BridgeConfig, config: &BrokerConfig, client_id: &str) -> LocalSettings {
    let is_lazy = bridge.start == BridgeStart::Lazy;
    // What a lazy bridge connects for has to be there when it does.
    let clean_start = bridge.local_clean_start.unwrap_or(bridge.clean_start) && !is_lazy;
    LocalSettings {
        client_id: bridge.local_client_id.clone().unwrap_or_else(|| format!("local.{client_id}")),
        clean_start,
        session_expiry_seconds: if clean_start { 0 } else { NEVER },
        maximum_qos: QoS::try_from(config.mqtt.maximum_qos).unwrap_or(QoS::ExactlyOnce),
        keeps_retained: config.mqtt.retain_available,
        packet_bytes_max: config.limits.packet_bytes_max.saturating_add(GROWTH_BYTES),
        topic_levels_max: config.limits.topic_levels_max,
        user_properties_max: config.limits.user_properties_max,
    }
}

fn mappings(bridge: &BridgeConfig) -> Result<Vec<Mapping>, BridgeError> {
    let mapping = |topic: &veilmq_config::BridgeTopicConfig| {
        let direction = match topic.direction {
            BridgeDirection::In => Direction::In,
            BridgeDirection::Out => Direction::Out,
            BridgeDirection::Both => Direction::Both,
        };
        let qos = QoS::try_from(topic.qos).unwrap_or(QoS::ExactlyOnce);
        Mapping::new(&topic.pattern, direction, qos, &topic.local_prefix, &topic.remote_prefix)
            .map_err(|source| BridgeError::Topic { bridge: bridge.name.clone(), source })
    };
    bridge.topics.iter().map(mapping).collect()
}

fn host_name() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}
