//! How a broker differs from its defaults: the `with` line, for the core and as a configuration file.
//!
//! One table names each setting once; what is not in it, no scenario can change.

use std::fmt::Write as _;
use std::sync::Arc;

use veilmq_core::Settings;
use veilmq_protocol::QoS;

/// A setting that a scenario can change.
#[derive(Debug)]
struct Setting {
    /// The last part of its key in the configuration.
    name: &'static str,
    /// The table it stands in.
    table: &'static str,
    /// Sets it; false where the value does not fit.
    apply: fn(&mut Settings, &str) -> bool,
}

/// A setting of the core whose field has the name of the key.
macro_rules! same {
    ($table:literal, $name:ident) => {
        Setting {
            name: stringify!($name),
            table: $table,
            apply: |settings, value| value.parse().map(|value| settings.$name = value).is_ok(),
        }
    };
}

/// An optional part of MQTT.
macro_rules! capability {
    ($name:literal, $field:ident) => {
        Setting {
            name: $name,
            table: "mqtt",
            apply: |settings, value| value.parse().map(|value| settings.capabilities.$field = value).is_ok(),
        }
    };
}

/// Text that clients are told.
macro_rules! text {
    ($name:ident) => {
        Setting {
            name: stringify!($name),
            table: "mqtt",
            apply: |settings, value| {
                settings.$name = Some(Arc::from(value));
                true
            },
        }
    };
}

const SETTINGS: [Setting; 29] = [
    same!("access", anonymous),
    Setting {
        name: "maximum_qos",
        table: "mqtt",
        apply: |settings, value| {
            let qos = value.parse().ok().and_then(|qos: u8| QoS::try_from(qos).ok());
            qos.map(|qos| settings.capabilities.maximum_qos = qos).is_some()
        },
    },
    capability!("retain_available", retain),
    capability!("wildcard_subscription_available", wildcard_subscriptions),
    capability!("shared_subscription_available", shared_subscriptions),
    capability!("subscription_identifier_available", subscription_ids),
    same!("mqtt", reason_strings),
    text!(server_reference),
    text!(response_information),
    same!("limits", packet_bytes_max),
    same!("limits", connect_packet_bytes_max),
    same!("limits", connect_seconds_max),
    same!("limits", keep_alive_seconds_max),
    same!("limits", session_expiry_seconds_max),
    same!("limits", receive_maximum),
    same!("limits", inflight_max),
    same!("limits", topic_alias_maximum),
    same!("limits", topic_alias_to_client_max),
    same!("limits", topic_levels_max),
    same!("limits", client_id_bytes_max),
    same!("limits", user_properties_max),
    same!("limits", subscriptions_per_session_max),
    same!("limits", session_queue_messages_max),
    same!("limits", session_queue_bytes_max),
    same!("limits", session_queue_memory_bytes),
    same!("limits", queue_memory_bytes),
    same!("limits", queue_bytes_max),
    same!("limits", outbox_bytes_max),
    same!("limits", retained_bytes_max),
];

/// One setting and its value.
#[derive(Debug, Clone)]
pub struct Change {
    setting: &'static Setting,
    value: String,
}

impl Change {
    /// Reads `name=value`.
    pub(super) fn parse(word: &str) -> Result<Self, String> {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word} is not name=value"))?;
        let setting = SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
            let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
            format!("{name} is not one of {}", names.join(", "))
        })?;
        let change = Self { setting, value: value.trim_matches('"').to_owned() };
        if (setting.apply)(&mut Settings::default(), &change.value) {
            Ok(change)
        } else {
            Err(format!("{name} cannot be {value}"))
        }
    }
}

/// Returns the settings of a core with these changes.
pub(super) fn core_settings(shards: u16, changes: &[Change]) -> Settings {
    let mut settings = Settings { shards, ..Settings::default() };
    for change in changes {
        (change.setting.apply)(&mut settings, &change.value);
    }
    settings
}

/// Returns the same as a configuration file that admits anonymous clients unless a change says otherwise.
pub(super) fn configuration(shards: u16, changes: &[Change]) -> String {
    let mut file = format!("shards.count = {shards}\n");
    if !changes.iter().any(|change| change.setting.name == "anonymous") {
        file.push_str("access.anonymous = true\n");
    }
    for Change { setting, value } in changes {
        let is_bare = value.parse::<bool>().is_ok() || value.parse::<u64>().is_ok();
        let quotes = if is_bare { "" } else { "\"" };
        // Writing to a string cannot fail.
        let _ = writeln!(file, "{}.{} = {quotes}{value}{quotes}", setting.table, setting.name);
    }
    file
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_change_reaches_the_core_and_the_configuration_file() {
        let changes = [Change::parse("receive_maximum=2").unwrap()];

        assert_eq!(core_settings(4, &changes).receive_maximum, 2);
        let file = configuration(4, &changes);
        assert_eq!(file, "shards.count = 4\naccess.anonymous = true\nlimits.receive_maximum = 2\n");
    }

    #[test]
    fn a_change_that_cannot_be_made_is_named() {
        assert!(Change::parse("recieve_maximum=2").unwrap_err().starts_with("recieve_maximum is not one of"));
        assert_eq!(Change::parse("receive_maximum=x").unwrap_err(), "receive_maximum cannot be x");
    }
}
