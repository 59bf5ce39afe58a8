//! What a running broker can take over of another configuration, and what differs between two.
//!
//! Invariant: [`BrokerConfig::reloaded`] leaves exactly those options as they are whose [`OptionSpec::reload`] is
//! [`Reload::NextStart`]; a test changes each option and compares the two.

use std::collections::BTreeMap;
use std::fmt;

use crate::broker_config::{AdminConfig, BrokerConfig};
use crate::options::{OPTIONS, OptionSpec};
use crate::storage::StorageConfig;
use crate::veil::VeilConfig;

/// When an option of a running broker takes effect that a reload finds changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// For everybody.
    AtOnce,
    /// For connections made from then on; the others keep what they have been told.
    NewConnections,
    /// Not before the broker starts again.
    NextStart,
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtOnce => "at once",
            Self::NewConnections => "new connections",
            Self::NextStart => "next start",
        })
    }
}

/// The beginnings of keys and what holds for the options below; the first one counts.
const RELOADS: &[(&str, Reload)] = &[
    ("listeners[].address", Reload::AtOnce),
    ("listeners[].mode", Reload::AtOnce),
    ("listeners[].access.", Reload::AtOnce),
    ("listeners[].tls.client_ca_file", Reload::AtOnce),
    ("listeners[].tls.crl_file", Reload::AtOnce),
    ("listeners[].", Reload::NewConnections),
    ("tls.", Reload::NewConnections),
    ("admin.token_file", Reload::AtOnce),
    ("log.", Reload::AtOnce),
    ("sys.", Reload::AtOnce),
    ("access.client_id_prefix", Reload::NewConnections),
    ("access.dynamic_security_password_file", Reload::NextStart),
    ("access.", Reload::AtOnce),
    ("acl.", Reload::AtOnce),
    ("bans.", Reload::AtOnce),
    ("mqtt.server_reference", Reload::AtOnce),
    ("mqtt.upgrade_qos", Reload::AtOnce),
    ("mqtt.queue_qos0", Reload::AtOnce),
    ("mqtt.", Reload::NewConnections),
    ("limits.payload_bytes_max", Reload::AtOnce),
    ("limits.memory_bytes", Reload::AtOnce),
    ("limits.takeovers_per_minute_max", Reload::AtOnce),
    ("limits.topic_levels_max", Reload::AtOnce),
    ("limits.user_properties_max", Reload::AtOnce),
    ("limits.subscriptions_per_session_max", Reload::AtOnce),
    ("limits.session_queue_", Reload::AtOnce),
    ("limits.queue_", Reload::AtOnce),
    ("limits.outbox_bytes_max", Reload::AtOnce),
    ("limits.write_seconds_max", Reload::AtOnce),
    ("limits.mailbox_bytes_max", Reload::AtOnce),
    ("limits.retained_bytes_max", Reload::AtOnce),
    ("limits.", Reload::NewConnections),
    ("rates.", Reload::NewConnections),
    ("storage.reserve_bytes", Reload::AtOnce),
    ("veil.trust", Reload::AtOnce),
    ("veil.revocations", Reload::AtOnce),
    ("veil.half_open_max", Reload::AtOnce),
    ("veil.rekey_", Reload::AtOnce),
    ("e2e.", Reload::AtOnce),
    ("bridges[].", Reload::AtOnce),
];

impl OptionSpec {
    /// When it takes effect if a reload finds it changed.
    #[must_use]
    pub fn reload(&self) -> Reload {
        let mut reloads = RELOADS.iter();
        let found = reloads.find(|(start, _)| self.key.starts_with(start));
        found.map_or(Reload::NextStart, |(_, reload)| *reload)
    }
}

impl BrokerConfig {
    /// Returns what becomes of a running broker with this configuration if `said` is what it is told now.
    #[must_use]
    pub fn reloaded(&self, said: &Self) -> Self {
        let mut access = said.access.clone();
        access.dynamic_security_password_file.clone_from(&self.access.dynamic_security_password_file);
        Self {
            mode: self.mode,
            mosquitto: self.mosquitto.clone(),
            data_dir: self.data_dir.clone(),
            admin: AdminConfig { address: self.admin.address, token_file: said.admin.token_file.clone() },
            process: self.process.clone(),
            shards: self.shards,
            storage: StorageConfig { reserve_bytes: said.storage.reserve_bytes, ..self.storage.clone() },
            veil: VeilConfig {
                trust: said.veil.trust.clone(),
                revocations: said.veil.revocations.clone(),
                half_open_max: said.veil.half_open_max,
                rekey_seconds: said.veil.rekey_seconds,
                rekey_records: said.veil.rekey_records,
                ..self.veil.clone()
            },
            access,
            ..said.clone()
        }
    }

    /// Lists the options in which another configuration differs, in the order of [`OPTIONS`]. Of tables in a list it is those that
    /// differ in any of them.
    ///
    /// # Panics
    /// As [`BrokerConfig::to_toml`].
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static OptionSpec> {
        let (one, other) = (values(self), values(other));
        OPTIONS.iter().filter(|spec| one.get(spec.key) != other.get(spec.key)).collect()
    }
}

/// Every value of a configuration by the key of its option, each with its place in the lists that it is in.
fn values(config: &BrokerConfig) -> BTreeMap<String, Vec<(Vec<usize>, String)>> {
    let mut values = BTreeMap::new();
    let table: toml::Table = config.to_toml().parse().unwrap_or_default();
    collect("", &[], &toml::Value::Table(table), &mut values);
    values
}

fn collect(
    key: &str,
    place: &[usize],
    value: &toml::Value,
    values: &mut BTreeMap<String, Vec<(Vec<usize>, String)>>,
) {
    match value {
        toml::Value::Table(table) => {
            let dot = if key.is_empty() { "" } else { "." };
            for (name, value) in table {
                collect(&format!("{key}{dot}{name}"), place, value, values);
            }
        }
        toml::Value::Array(elements) if elements.iter().any(toml::Value::is_table) => {
            for (index, element) in elements.iter().enumerate() {
                let place: Vec<usize> = place.iter().copied().chain([index]).collect();
                collect(&format!("{key}[]"), &place, element, values);
            }
        }
        value => values.entry(key.to_owned()).or_default().push((place.to_vec(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ListenerConfig;

    fn listeners(ports: &[u16]) -> Vec<ListenerConfig> {
        let listener = |port: &u16| format!("127.0.0.1:{port}").parse().map(ListenerConfig::mqtt).unwrap();
        ports.iter().map(listener).collect()
    }

    fn keys(one: &BrokerConfig, other: &BrokerConfig) -> Vec<&'static str> {
        one.differences(other).into_iter().map(|spec| spec.key).collect()
    }

    #[test]
    fn what_differs_is_named_once_and_without_its_value() {
        let one = BrokerConfig { listeners: listeners(&[1, 2]), ..BrokerConfig::default() };
        let mut other = BrokerConfig { listeners: listeners(&[1, 3, 4]), ..BrokerConfig::default() };
        other.limits.inflight_max = 7;
        other.listeners[0].connections_max = Some(1);
        other.listeners[1].connections_max = Some(1);

        assert_eq!(keys(&one, &one), [""; 0]);
        assert_eq!(
            keys(&one, &other),
            [
                "listeners[].address",
                "listeners[].protocol",
                "listeners[].connections_max",
                "limits.inflight_max"
            ]
        );
    }

    #[test]
    fn the_beginnings_are_all_of_some_option_and_none_hides_another() {
        for (index, (start, _)) in RELOADS.iter().enumerate() {
            let is_first = |spec: &&OptionSpec| {
                let first = RELOADS.iter().position(|(start, _)| spec.key.starts_with(start));
                first == Some(index)
            };
            assert!(OPTIONS.iter().any(|spec| is_first(&spec)), "{start} is of no use");
        }
    }
}
