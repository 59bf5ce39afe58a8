//! Every option there is: its key, what is allowed, what it means.
//!
//! The one table that file checking, environment names, error texts and `docs/configuration.md` are made from.
//! Invariant: its keys are exactly the serialised fields of `BrokerConfig`; a test compares the two.

mod access;
mod accounts;
mod bridges;
mod e2e;
mod hooks;
mod limits;
mod listeners;
mod mqtt;
mod process;
mod rates;
mod storage;
mod veil;

use crate::kind::Kind;
use crate::value::Shape;

/// The word that opens no listener.
pub(crate) const OFF: &str = "off";
/// The key of the listeners' addresses, which the environment sets as one list.
pub(crate) const LISTENERS: &str = "listeners[].address";
/// What stands before an address in the environment's list, what carries MQTT there, and whether that is in TLS.
pub(crate) const SCHEMES_OF_LISTENERS: &[(&str, &str, bool)] =
    &[("mqtts://", "mqtt", true), ("ws://", "websocket", false), ("wss://", "websocket", true)];
const MEMORY_BYTES_MAX: i64 = 1 << 40;
/// What each table of a list needs.
const NEEDED: &[&str] = &[
    LISTENERS,
    "listeners[].tls.certificates[].certificate_file",
    "listeners[].tls.certificates[].key_file",
    "e2e.policies[].name",
    "e2e.policies[].topics",
    "bridges[].name",
    "bridges[].addresses",
    "bridges[].topics[].pattern",
];
const VARIABLE_PREFIX: &str = "VEILMQ";

/// One option of the configuration file.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// The dotted key; `[]` follows a key that holds a list of tables.
    pub key: &'static str,
    /// What is allowed.
    pub kind: Kind,
    /// What the broker does when the option has no value at all; `None` for options that always have one.
    pub unset: Option<&'static str>,
    /// One sentence on what it does.
    pub meaning: &'static str,
}

const fn option(key: &'static str, kind: Kind, meaning: &'static str) -> OptionSpec {
    OptionSpec { key, kind, unset: None, meaning }
}

const fn integer(key: &'static str, min: i64, max: i64, meaning: &'static str) -> OptionSpec {
    option(key, Kind::Integer { min, max }, meaning)
}

const fn unset(spec: OptionSpec, without: &'static str) -> OptionSpec {
    OptionSpec { unset: Some(without), ..spec }
}

/// The option that the command line sets as a path, which may turn out not to be UTF-8.
pub(crate) const DATA_DIR: OptionSpec = option(
    "data_dir",
    Kind::Path,
    "Directory of the broker's identity and stored state; created when absent.",
);

/// The tables, in the order of the documentation.
const SECTIONS: &[&[OptionSpec]] = &[
    &[DATA_DIR],
    listeners::OPTIONS,
    process::OPTIONS,
    access::OPTIONS,
    accounts::OPTIONS,
    hooks::OPTIONS,
    mqtt::OPTIONS,
    limits::OPTIONS,
    rates::OPTIONS,
    storage::OPTIONS,
    veil::OPTIONS,
    e2e::OPTIONS,
    bridges::OPTIONS,
];

/// Every option, in the order of the documentation.
pub const OPTIONS: &[OptionSpec] = &joined();

const COUNT: usize = {
    let mut count = 0;
    let mut section = 0;
    while section < SECTIONS.len() {
        count += SECTIONS[section].len();
        section += 1;
    }
    count
};

const fn joined() -> [OptionSpec; COUNT] {
    let mut all = [DATA_DIR; COUNT];
    let (mut section, mut within, mut at) = (0, 0, 0);
    while at < COUNT {
        if within == SECTIONS[section].len() {
            section += 1;
            within = 0;
        } else {
            all[at] = SECTIONS[section][within];
            within += 1;
            at += 1;
        }
    }
    all
}

impl OptionSpec {
    /// The option with this key.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|spec| spec.key == key)
    }

    /// The environment variable that sets the option: `VEILMQ__LIMITS__INFLIGHT_MAX`; `VEILMQ__LISTENERS` for the
    /// addresses of all listeners and what carries MQTT there.
    #[must_use]
    pub fn variable(&self) -> String {
        let key = self.key.split_once("[].").map_or(self.key, |(list, _)| list);
        format!("{VARIABLE_PREFIX}__{}", key.replace('.', "__").to_uppercase())
    }

    /// Whether the option is a member of each table in a list, whose values the environment gives as one list.
    pub(crate) fn is_in_list_of_tables(&self) -> bool {
        self.key.contains("[]")
    }

    /// Whether each table of the list it is in needs it.
    pub(crate) fn is_needed(&self) -> bool {
        NEEDED.contains(&self.key)
    }

    /// Whether an environment variable sets it; what carries MQTT stands before the address instead.
    pub(crate) fn has_variable(&self) -> bool {
        self.key == LISTENERS || !self.is_in_list_of_tables()
    }

    /// How the text of its environment variable is read.
    pub(crate) fn shape_in_environment(&self) -> Shape {
        if self.is_in_list_of_tables() { Shape::List } else { self.kind.shape() }
    }
}
