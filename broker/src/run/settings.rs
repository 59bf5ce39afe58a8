//! Translates the configuration into what the core and the operating system understand.

use std::num::NonZero;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;
use veilmq_config::{
    BrokerConfig, Durability, LimitsConfig, ListenerConfig, Mode, MqttConfig, MqttVersion, PaperMode,
    ProxyIdentity, ProxyProtocolConfig, StorageConfig, VeilConfig,
};
use veilmq_core::{
    Capabilities, Entrance, FanOut, FanOutForm, MemoryPressure, OneTrip, PolicySample, RelaxedTopics, Sample,
    SampleKind, Settings, Shared, StorageState, Versions,
};
use veilmq_protocol::QoS;
use veilmq_protocol::veil::channel::ServerPolicy;
use veilmq_protocol::veil::{Scheme, Schemes, Suite};

use crate::admin::metrics::MetricSource;
use crate::clock;
use crate::store::{OpenReport, StorageHandle};

const SHARDS_MAX: usize = 64;
/// File descriptors that are not connections: storage, logs, admin, event queues, listeners.
const OTHER_FILES: u64 = 256;

/// Returns the limits and capabilities that the core applies.
pub(super) fn core_settings(config: &BrokerConfig) -> Settings {
    let settings = common_settings(config);
    let entrances = config.listeners.iter().map(|listener| entrance(listener, &settings)).collect();
    Settings { entrances, ..settings }
}

/// Returns what is the same for all listeners.
fn common_settings(config: &BrokerConfig) -> Settings {
    let limits = &config.limits;
    Settings {
        shards: shards(config.shards.count),
        anonymous: config.access.anonymous,
        capabilities: capabilities(&config.mqtt),
        reason_strings: config.mqtt.reason_strings,
        server_reference: config.mqtt.server_reference.as_deref().map(Arc::from),
        response_information: config.mqtt.response_information.as_deref().map(Arc::from),
        packet_bytes_max: limits.packet_bytes_max as usize,
        payload_bytes_max: match limits.payload_bytes_max {
            0 => usize::MAX,
            bytes => bytes as usize,
        },
        entrances: Vec::new(),
        // It is chosen at the start.
        broker_id: None,
        client_id_prefix: config.access.client_id_prefix.as_deref().map(Arc::from),
        sessions_max: limits.sessions_max as usize,
        takeovers_per_minute_max: limits.takeovers_per_minute_max,
        connect_packet_bytes_max: limits.connect_packet_bytes_max as usize,
        connect_seconds_max: limits.connect_seconds_max,
        keep_alive_seconds_max: limits.keep_alive_seconds_max,
        refuse_long_keep_alive: config.mqtt.refuse_long_keep_alive,
        refuse_control_characters: config.mqtt.refuse_control_characters,
        mosquitto_habits: config.mqtt.mosquitto_habits,
        upgrade_qos: config.mqtt.upgrade_qos,
        queue_qos0: config.mqtt.queue_qos0,
        session_expiry_seconds_max: limits.session_expiry_seconds_max,
        receive_maximum: limits.receive_maximum,
        inflight_max: limits.inflight_max,
        inflight_bytes_max: bytes(limits.inflight_bytes_max),
        topic_alias_maximum: limits.topic_alias_maximum,
        topic_alias_to_client_max: limits.topic_alias_to_client_max,
        topic_levels_max: limits.topic_levels_max as usize,
        client_id_bytes_max: limits.client_id_bytes_max.into(),
        user_properties_max: limits.user_properties_max as usize,
        subscriptions_per_session_max: limits.subscriptions_per_session_max as usize,
        session_queue_messages_max: limits.session_queue_messages_max as usize,
        session_queue_bytes_max: bytes(limits.session_queue_bytes_max),
        session_queue_memory_bytes: bytes(limits.session_queue_memory_bytes),
        queue_memory_bytes: bytes(limits.queue_memory_bytes),
        queue_bytes_max: bytes(limits.queue_bytes_max),
        queues_spill: config.storage.durability != Durability::Memory,
        outbox_bytes_max: bytes(limits.outbox_bytes_max),
        relaxed_topics: RelaxedTopics {
            interval: shared_texts(&config.storage.interval_topics),
            memory: shared_texts(&config.storage.memory_topics),
        },
        retained_bytes_max: bytes(limits.retained_bytes_max),
        check_retained_source: config.acl.check_retained_source,
        half_open_max: config.veil.half_open_max as usize,
        rekey_seconds: config.veil.rekey_seconds,
        rekey_records: config.veil.rekey_records.into(),
    }
}

fn entrance(listener: &ListenerConfig, settings: &Settings) -> Entrance {
    let mqtt = &listener.mqtt;
    let mut entrance = Entrance::of(settings);
    entrance.name = Arc::from(listener.address.to_string());
    let speaks = |version| mqtt.versions.contains(&version);
    entrance.versions = Versions {
        v31: speaks(MqttVersion::V31),
        v311: speaks(MqttVersion::V311),
        v5: speaks(MqttVersion::V5),
    };
    if let Some(qos) = mqtt.maximum_qos {
        entrance.capabilities.maximum_qos = maximum_qos(qos);
    }
    entrance.topic_alias_maximum = mqtt.topic_alias_maximum.unwrap_or(settings.topic_alias_maximum);
    entrance.topic_alias_to_client_max =
        mqtt.topic_alias_to_client_max.unwrap_or(settings.topic_alias_to_client_max);
    entrance.empty_client_id = mqtt.empty_client_id;
    entrance.assigned_prefix = Arc::from(mqtt.assigned_client_id_prefix.as_str());
    entrance.user_name_is_client_id = mqtt.user_name_as_client_id;
    // Without such a name its client could say whatever it likes of itself.
    let needs_name = |proxy: &ProxyProtocolConfig| proxy.identity == ProxyIdentity::Cn;
    entrance.proven_users_only =
        mqtt.proven_users_only || listener.proxy_protocol.as_ref().is_some_and(needs_name);
    entrance.mount_point = mqtt.mount_point.as_deref().map(Arc::from);
    entrance
}

fn maximum_qos(qos: u8) -> QoS {
    QoS::try_from(qos).unwrap_or(QoS::ExactlyOnce)
}

fn shared_texts(texts: &[String]) -> Vec<Arc<str>> {
    texts.iter().map(|text| Arc::from(text.as_str())).collect()
}

fn capabilities(mqtt: &MqttConfig) -> Capabilities {
    Capabilities {
        maximum_qos: maximum_qos(mqtt.maximum_qos),
        retain: mqtt.retain_available,
        wildcard_subscriptions: mqtt.wildcard_subscription_available,
        subscription_ids: mqtt.subscription_identifier_available,
        shared_subscriptions: mqtt.shared_subscription_available,
    }
}

/// Zero stands for one shard for each two processors that we may use: the others have the network and the store to look after.
pub(super) fn shards(configured: u8) -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    shards_on(processors, configured)
}

fn shards_on(processors: usize, configured: u8) -> u16 {
    let shards = if configured == 0 { processors / 2 } else { configured.into() };
    u16::try_from(shards.clamp(1, SHARDS_MAX)).unwrap_or(1)
}

/// Returns the suites and schemes that the channel serves.
pub(super) fn server_policy(veil: &VeilConfig) -> ServerPolicy {
    let schemes: Vec<Scheme> = veil
        .schemes
        .iter()
        .map(|scheme| match scheme {
            veilmq_config::Scheme::Scheme1 => Scheme::One,
            veilmq_config::Scheme::Scheme2 => Scheme::Two,
            veilmq_config::Scheme::Scheme3 => Scheme::Three,
            veilmq_config::Scheme::Scheme4 => Scheme::Four,
        })
        .collect();
    let suites = veil
        .suites
        .iter()
        .map(|suite| match suite {
            veilmq_config::Suite::Aes256CbcHmacSha256 => Suite::Aes256CbcHmacSha256,
            veilmq_config::Suite::Aes256Gcm => Suite::Aes256Gcm,
            veilmq_config::Suite::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        })
        .collect();
    ServerPolicy { suites, schemes: Schemes::of(&schemes), property_mode: veil.property_mode }
}

/// Returns the schemes that are also served as in the paper.
pub(super) fn paper_modes(veil: &VeilConfig) -> Schemes {
    let scheme = |mode: &PaperMode| match mode {
        PaperMode::Paper1 => Scheme::One,
        PaperMode::Paper2 => Scheme::Two,
        PaperMode::Paper3 => Scheme::Three,
        PaperMode::Paper4 => Scheme::Four,
    };
    Schemes::of(&veil.paper_modes.iter().map(scheme).collect::<Vec<_>>())
}

/// Returns how messages are fanned out.
pub(super) fn fan_out(veil: &VeilConfig) -> FanOut {
    FanOut {
        form: match veil.fan_out {
            veilmq_config::FanOut::Digest => FanOutForm::Digest,
            veilmq_config::FanOut::Group => FanOutForm::Group,
            veilmq_config::FanOut::GroupOuter => FanOutForm::GroupOuter,
        },
        rekey_milliseconds_min: veil.group_rekey_milliseconds.into(),
        key_milliseconds: u64::from(veil.group_key_seconds) * 1_000,
        join_secrecy: veil.join_secrecy,
        scopes: shared_texts(&veil.group_scopes),
    }
}

/// Returns how COMPACT and RESUME are served by a broker that starts now.
pub(super) fn one_trip(veil: &VeilConfig, started_unix_ms: u64) -> OneTrip {
    OneTrip {
        compact: veil.compact,
        clock_skew_milliseconds: u64::from(veil.clock_skew_seconds) * 1_000,
        replays_max: veil.replays_max as usize,
        proof_milliseconds: veil.proof_milliseconds.into(),
        ticket_milliseconds: u64::from(veil.ticket_seconds) * 1_000,
        started_unix_ms,
    }
}

/// Returns how much of the disk is to stay free, in bytes; without a store that is nothing.
pub(super) fn reserve_bytes(storage: &StorageConfig) -> u64 {
    match storage.durability {
        Durability::Commit | Durability::Interval { .. } => storage.reserve_bytes,
        Durability::Memory => 0,
    }
}

/// Converts a number of bytes, saturating where memory is addressed with less than 64 bits.
pub(super) fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Allows as many open files as the system lets us have, and returns the limits with no more connections than these leave room for:
/// whoever fills them must not keep the store, the admin listener and a reload from theirs.
pub(super) fn within_open_files(config: &BrokerConfig) -> LimitsConfig {
    let mut limits = config.limits.clone();
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    match raised {
        Ok(files) => {
            let room = u32::try_from(files - OTHER_FILES.min(files / 2)).unwrap_or(u32::MAX);
            if room < limits.connections_max {
                limits.connections_max = room;
                if config.mode == Mode::Configured {
                    let wanted = config.limits.connections_max;
                    warn!(
                        files,
                        "so few files may be open: {room} connections in place of {wanted} (limits.connections_max)"
                    );
                }
            }
        }
        Err(error) => warn!(%error, "the limit of open files cannot be raised"),
    }
    limits
}

/// Forbids core dumps: the memory of a broker holds channel keys and its own identity (VEIL-1 section 13.2).
pub(super) fn forbid_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!(%error, "core dumps cannot be forbidden");
    }
}

/// What is shared by all shards, for `/metrics`.
pub(super) struct DaemonMetrics {
    pub(super) shared: Arc<Shared>,
    pub(super) storage: StorageHandle,
    pub(super) report: OpenReport,
}

impl MetricSource for DaemonMetrics {
    fn visit_joins(&self, visit: &mut dyn FnMut(f64)) {
        for milliseconds in self.shared.take_join_milliseconds() {
            visit(milliseconds as f64 / 1_000.0);
        }
    }

    fn visit_policies(&self, visit: &mut dyn FnMut(PolicySample<'_>)) {
        self.shared.visit_policies(visit);
    }

    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        let (messages, retained_bytes) = self.shared.retained_totals();
        let now = clock::unix_seconds();
        let stale = self.shared.revocations().iter().filter(|list| list.next_update < now).count();
        for (name, help, value) in [
            ("veilmq_revocations_stale", "Revocation lists of VEIL-1 that are past their time.", stale),
            ("veilmq_retained_messages", "Retained messages.", messages),
            ("veilmq_retained_bytes", "Bytes of retained messages.", retained_bytes),
            (
                "veilmq_storage_backlog_bytes",
                "Bytes of records that wait for the storage writer.",
                self.storage.backlog_bytes(),
            ),
        ] {
            visit(Sample { name, help, kind: SampleKind::Gauge, label: None, value: value as u64 });
        }
        let mut labelled = |name, help, label, value| {
            visit(Sample { name, help, kind: SampleKind::Gauge, label: Some(label), value });
        };
        for (state, label) in
            [(StorageState::Ready, "ready"), (StorageState::Full, "full"), (StorageState::Failing, "failing")]
        {
            let value = u64::from(self.shared.storage() == state);
            labelled(
                "veilmq_storage_state",
                "1 for what storage can do at the moment.",
                ("state", label),
                value,
            );
        }
        for (level, label) in [(MemoryPressure::High, "high"), (MemoryPressure::Critical, "critical")] {
            let help = "1 while the memory of the process is above this level of limits.memory_bytes.";
            labelled(
                "veilmq_memory_pressure",
                help,
                ("level", label),
                u64::from(self.shared.memory() >= level),
            );
        }
        let settings = self.shared.settings();
        for (pool, bytes) in [
            ("queues", settings.queue_bytes_max),
            ("queues_in_memory", settings.queue_memory_bytes),
            ("retained", settings.retained_bytes_max),
        ] {
            let help = "Bytes that the configuration allows for what is kept for clients.";
            labelled("veilmq_memory_budget_bytes", help, ("pool", pool), bytes as u64);
        }
        for (kind, value) in self.report.damage() {
            let help = "What was found damaged when the store was opened.";
            labelled("veilmq_storage_damage", help, ("kind", kind), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_number_every_second_core_is_a_shard_and_there_is_at_least_one() {
        for (processors, configured, shards) in
            [(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 2), (64, 0, 32), (256, 0, 64), (2, 5, 5), (1, 64, 64)]
        {
            assert_eq!(shards_on(processors, configured), shards, "{configured} on {processors}");
        }
    }
}
