//! What Mosquitto says of a fault in its configuration, for whoever looks for these words, and the exit status it says it with.
//!
//! Our own line, which names file, line and option, stands before them. Invariant: nothing here decides whether something is a fault.

use super::grammar::Line;
use crate::error::{ConfigError, InMosquitto};

/// The exit status for a file that cannot be understood.
const UNREADABLE: u8 = 3;
/// The exit status for what is noticed only when a listener opens.
const UNUSABLE: u8 = 1;

impl ConfigError {
    /// Adds what Mosquitto says of a line that it cannot understand.
    pub(super) fn said(mut self, words: impl Into<String>) -> Self {
        self.in_mosquitto = Some(Box::new(InMosquitto { words: words.into(), status: UNREADABLE }));
        self
    }

    /// Adds what Mosquitto says of a listener that it cannot open.
    pub(super) fn said_late(mut self, words: impl Into<String>) -> Self {
        self.in_mosquitto = Some(Box::new(InMosquitto { words: words.into(), status: UNUSABLE }));
        self
    }
}

/// No option has this name.
pub(super) fn unknown(line: &Line) -> String {
    format!("Unknown configuration variable '{}'.", line.name)
}

/// The option has no value.
pub(super) fn empty(line: &Line) -> String {
    let name = match line.name.as_str() {
        "listener" => "listener port",
        name => name.strip_prefix("plugin_opt_").unwrap_or(name),
    };
    format!("Empty '{name}' value in configuration.")
}

/// The option, of which there is one, was given before.
pub(super) fn duplicate(line: &Line) -> String {
    let name = match line.name.as_str() {
        "bind_address" => "default listener bind_address",
        "clientid" | "remote_clientid" => "bridge remote clientid",
        // As it is spelt there.
        "local_clientid" => "bridge local clientd",
        "local_password" => "bridge local_password",
        "local_username" => "bridge local_username",
        "password" | "remote_password" => "bridge remote_password",
        "username" | "remote_username" => "bridge remote_username",
        name => name,
    };
    format!("Duplicate '{name}' value in configuration.")
}

/// The option belongs to something that does not stand above it.
pub(super) fn homeless(line: &Line, what: &str) -> String {
    format!("The '{}' option requires {what} to be defined first.", line.name)
}

/// The value is no number.
pub(super) fn no_number(line: &Line) -> String {
    format!("'{}' value not a number.", line.name)
}

/// The value is not one of those that the option takes.
pub(super) fn invalid(line: &Line) -> String {
    let Line { name, value, .. } = line;
    match name.as_str() {
        "listener" if value.split_ascii_whitespace().next() == Some("0") => {
            "A listener with port 0 must provide a Unix socket path.".to_owned()
        }
        "listener" => format!("Invalid 'port' value ({value})."),
        "mount_point" => {
            format!("Invalid 'mount_point' value ({value}). Does it contain a wildcard character?")
        }
        "max_qos" | "maximum_qos" => "'max_qos' must be between 0 and 2 inclusive.".to_owned(),
        "max_inflight_messages" => "'max_inflight_messages' must be <= 65535.".to_owned(),
        "max_packet_size" => "'max_packet_size' must be >= 20.".to_owned(),
        "max_topic_alias" | "max_topic_alias_broker" => format!("Invalid '{name}' value in configuration."),
        "auto_id_prefix" | "listener_auto_id_prefix" => format!("'{name}' length must be <= 50."),
        "websockets_headers_size" => "Packet buffer size must be between 0 and 65535 inclusive.".to_owned(),
        "enable_proxy_protocol" => "enable_proxy_protocol must be 1 or 2.".to_owned(),
        "topic" if value.starts_with('"') && value.matches('"').count() == 1 => {
            let rest = value.split_once(' ').map_or("", |(_, rest)| rest);
            format!("Missing closing quote in topic value ({rest}).")
        }
        _ => format!("Invalid '{name}' value ({value})."),
    }
}
