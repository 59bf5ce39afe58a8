//! Every option there is: its key, what is allowed, what it means.
//!
//! The one table that file checking, environment names, error texts and `docs/configuration.md` are made from.
//! Invariant: its keys are exactly the serialised fields of `BrokerConfig`; a test compares the two.

use crate::kind::Kind;
use crate::value::Shape;

/// The word that opens no listener.
pub(crate) const OFF: &str = "off";
/// The key of the listeners' addresses, which the environment sets as one list.
pub(crate) const LISTENERS: &str = "listeners[].address";
/// What stands before an address in the environment's list, what carries MQTT there, and whether that is in TLS.
pub(crate) const SCHEMES_OF_LISTENERS: &[(&str, &str, bool)] =
    &[("mqtts://", "mqtt", true), ("ws://", "websocket", false), ("wss://", "websocket", true)];
const VARIABLE_PREFIX: &str = "VEILMQ";
const SUITES: &[&str] = &["aes-256-gcm", "chacha20-poly1305", "aes-256-cbc-hmac-sha-256"];
const SCHEMES: &[&str] = &["scheme-4", "scheme-3", "scheme-2", "scheme-1"];
const FAN_OUTS: &[&str] = &["digest", "group-outer", "group"];
const MEMORY_BYTES_MAX: i64 = 1 << 40;

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

/// Every option, in the order of the documentation.
pub const OPTIONS: &[OptionSpec] = &[
    DATA_DIR,
    unset(
        option(
            LISTENERS,
            Kind::ListenAddress,
            "Where to accept connections: TCP, where port 0 lets the system choose, or a Unix socket.",
        ),
        "must be given (development: `127.0.0.1:1883` and `[::1]:1883`)",
    ),
    unset(
        option(
            "listeners[].mode",
            Kind::FileMode,
            "Permissions of a Unix socket; whoever may write to it may connect.",
        ),
        "`0660` for a Unix socket",
    ),
    unset(
        option(
            "listeners[].protocol",
            Kind::Choice(&["mqtt", "websocket"]),
            "What carries MQTT there: TCP itself, or WebSocket over TCP.",
        ),
        "`mqtt`",
    ),
    unset(
        option(
            "listeners[].durability",
            Kind::Choice(&["commit", "interval"]),
            "When what clients there have stored is acknowledged: once it is durable, or before, so that a crash can lose what came within the last 50 ms. Only with `storage.durability` `commit`.",
        ),
        "as `storage.durability`",
    ),
    unset(
        option(
            "listeners[].tls.certificates[].certificate_file",
            Kind::Path,
            "PEM file with a certificate, followed by those of its issuers; of several the client's SNI chooses, or else the first is shown.",
        ),
        "`tls.certificate_file`; without `listeners[].tls` there is no TLS",
    ),
    unset(
        option(
            "listeners[].tls.certificates[].key_file",
            Kind::Path,
            "PEM file with the private key of that certificate.",
        ),
        "`tls.key_file`",
    ),
    unset(
        option(
            "listeners[].tls.minimum_version",
            Kind::Choice(&["1.2", "1.3"]),
            "Oldest version of TLS that is spoken.",
        ),
        "`1.2`",
    ),
    unset(
        option(
            "listeners[].tls.client_certificate",
            Kind::Choice(&["off", "optional", "required"]),
            "Whether clients are asked for a certificate, and refused without one.",
        ),
        "`off`",
    ),
    unset(
        option(
            "listeners[].tls.client_ca_file",
            Kind::Path,
            "PEM file with the certificates of the authorities that issue those of clients.",
        ),
        "needed where clients are asked for a certificate",
    ),
    unset(
        option(
            "listeners[].tls.crl_file",
            Kind::Path,
            "PEM file with the certificates that those authorities have revoked (CRL); it must have a list of each that issues any.",
        ),
        "nothing is revoked",
    ),
    unset(
        option(
            "listeners[].tls.identity",
            Kind::Choice(&["none", "cn", "subject"]),
            "What of a client certificate is the User Name, instead of what CONNECT says: nothing, its common name, its subject (RFC 2253).",
        ),
        "`none`",
    ),
    unset(
        option(
            "listeners[].proxy_protocol.trusted",
            Kind::Networks,
            "Proxies that say where a client is with a PROXY header (version 1 or 2); on this listener all connections begin with one, and nobody else may connect.",
        ),
        "no PROXY headers",
    ),
    unset(
        integer(
            "listeners[].connections_max",
            0,
            10_000_000,
            "Network Connections at one time on this listener; more are closed.",
        ),
        "`limits.connections_max` alone",
    ),
    unset(
        option(
            "tls.certificate_file",
            Kind::Path,
            "PEM file with the certificate of listeners with TLS that name none, followed by those of its issuers.",
        ),
        "each listener with TLS names its own",
    ),
    unset(
        option("tls.key_file", Kind::Path, "PEM file with the private key of that certificate."),
        "each listener with TLS names its own",
    ),
    option("admin.address", Kind::AddressOrOff, "HTTP address of metrics and health."),
    option("log.format", Kind::Choice(&["text", "json"]), "How a log line is written."),
    option(
        "log.level",
        Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        "Least severe level that is written.",
    ),
    option(
        "log.destinations",
        Kind::Paths,
        "Where log lines go: `stderr`, `stdout`, or files that they are appended to; files are opened anew on SIGHUP.",
    ),
    option("log.timestamps", Kind::Boolean, "Whether a log line has the time."),
    unset(
        option("log.timestamp_format", Kind::Text { bytes_max: 256 }, "UTC with the fields of `strftime`."),
        "as in RFC 3339",
    ),
    option("log.connections", Kind::Boolean, "Whether clients that connect and disconnect are logged."),
    unset(
        option("process.pid_file", Kind::Path, "File that has the number of the process while it runs."),
        "no file is written",
    ),
    unset(
        option("process.user", Kind::Text { bytes_max: 256 }, "User that root's process becomes."),
        "the process stays who it is",
    ),
    integer(
        "sys.interval_seconds",
        0,
        65_535,
        "From one report on `$SYS` topics to the next, in seconds; 0 makes none.",
    ),
    integer(
        "shards.count",
        0,
        64,
        "Threads that share the work; 0 is one for each two available cores, at least 1 and at most 64.",
    ),
    option(
        "access.anonymous",
        Kind::Boolean,
        "Whether a client without a user name that proves no identity may connect.",
    ),
    unset(
        option(
            "access.password_file",
            Kind::Path,
            "File with user names and hashes of passwords (`veilmq passwd`), read again on SIGHUP.",
        ),
        "none; no password is checked",
    ),
    option(
        "access.rehash",
        Kind::Boolean,
        "Whether a weak hash in that file is replaced when its user has given the right password.",
    ),
    option(
        "access.bad_credentials",
        Kind::Choice(&["bad-user-name-or-password", "not-authorized"]),
        "What MQTT 5 clients are told whose user name or password is wrong: 0x86, or 0x87 as by Mosquitto.",
    ),
    unset(
        option(
            "acl.file",
            Kind::Path,
            "File of rules on what clients may do, in TOML, read again on SIGHUP.",
        ),
        "none; every client may do everything",
    ),
    unset(
        option(
            "acl.mosquitto_file",
            Kind::Path,
            "The same in Mosquitto's format (`acl_file`); not allowed with `acl.file`.",
        ),
        "none",
    ),
    option(
        "acl.subscribe",
        Kind::Choice(&["strict", "compat"]),
        "What is said to a SUBSCRIBE for more than the client may receive: no, or yes as by Mosquitto, and the rest is held back.",
    ),
    integer(
        "bans.failures_per_address_max",
        0,
        1_000_000,
        "Wrong passwords from one address within `bans.window_seconds` that ban it; 0 bans none.",
    ),
    integer(
        "bans.failures_per_user_max",
        0,
        1_000_000,
        "Wrong passwords for one user within `bans.window_seconds` that ban it where it has not been before; 0 bans none.",
    ),
    integer("bans.window_seconds", 1, 86_400, "How long wrong passwords are counted together, in seconds."),
    integer("bans.seconds", 1, 604_800, "How long a ban lasts, in seconds."),
    integer(
        "mqtt.maximum_qos",
        0,
        2,
        "Maximum QoS announced: the highest that clients may publish with; subscriptions are granted no more.",
    ),
    option("mqtt.retain_available", Kind::Boolean, "Whether messages may be retained."),
    option(
        "mqtt.wildcard_subscription_available",
        Kind::Boolean,
        "Whether a Topic Filter may hold wildcards.",
    ),
    option(
        "mqtt.subscription_identifier_available",
        Kind::Boolean,
        "Whether a SUBSCRIBE may carry a Subscription Identifier.",
    ),
    option(
        "mqtt.shared_subscription_available",
        Kind::Boolean,
        "Whether subscriptions may be shared (`$share/...`).",
    ),
    option(
        "mqtt.refuse_long_keep_alive",
        Kind::Boolean,
        "Whether a client of MQTT 3 that asks for more than `limits.keep_alive_seconds_max` is refused (0x02); it cannot be told another.",
    ),
    option(
        "mqtt.upgrade_qos",
        Kind::Boolean,
        "Whether a message is delivered with the QoS of the subscription, even if it was published with a lower one; MQTT says no.",
    ),
    option("mqtt.queue_qos0", Kind::Boolean, "Whether QoS 0 messages wait, in memory, for absent clients."),
    option(
        "mqtt.reason_strings",
        Kind::Boolean,
        "Whether refusals and farewells explain themselves to clients of MQTT 5 with a Reason String.",
    ),
    unset(
        option(
            "mqtt.server_reference",
            Kind::Text { bytes_max: 1_024 },
            "Server Reference for clients when the broker ends: where to go instead, with DISCONNECT or CONNACK 0x9C.",
        ),
        "none; clients are told 0x8B",
    ),
    unset(
        option(
            "mqtt.response_information",
            Kind::Text { bytes_max: 1_024 },
            "Response Information for clients that ask for it; `%c` in it stands for the Client Identifier.",
        ),
        "none is returned",
    ),
    integer(
        "limits.packet_bytes_max",
        20,
        268_435_460,
        "Maximum Packet Size announced: a whole packet with its fixed header, in bytes.",
    ),
    integer(
        "limits.payload_bytes_max",
        0,
        268_435_455,
        "Largest payload of a message, in bytes; a larger one is acknowledged with 0x83 and goes to nobody. 0 is what fits into a packet.",
    ),
    integer(
        "limits.connect_packet_bytes_max",
        1_024,
        1 << 20,
        "Largest packet taken before the client is authenticated, in bytes, if `limits.packet_bytes_max` is no less.",
    ),
    integer(
        "limits.connect_seconds_max",
        1,
        300,
        "Time from accept to CONNACK, and for a re-authentication, in seconds.",
    ),
    integer(
        "limits.connections_max",
        1,
        10_000_000,
        "Network Connections at one time, all listeners together.",
    ),
    integer(
        "limits.tls_handshakes_max",
        1,
        1_000_000,
        "TLS handshakes in progress at one time; further connections are closed.",
    ),
    integer(
        "limits.keep_alive_seconds_max",
        0,
        65_535,
        "Longest Keep Alive granted (Server Keep Alive), in seconds; 0 grants what is asked.",
    ),
    integer(
        "limits.session_expiry_seconds_max",
        0,
        4_294_967_295,
        "Longest Session Expiry Interval granted, in seconds; 4294967295 grants what is asked, even never.",
    ),
    integer(
        "limits.receive_maximum",
        1,
        65_535,
        "Receive Maximum announced: QoS 1 and 2 publications a client may have in flight to the broker.",
    ),
    integer(
        "limits.inflight_max",
        1,
        65_535,
        "QoS 1 and 2 messages in flight to a client, even if it would take more.",
    ),
    integer(
        "limits.inflight_bytes_max",
        0,
        MEMORY_BYTES_MAX,
        "Payload bytes in flight to a client above which no further QoS 1 or 2 message is sent; 0 is no bound.",
    ),
    integer("limits.topic_alias_maximum", 0, 65_535, "Topic Alias Maximum announced; 0 takes no alias."),
    integer(
        "limits.topic_alias_to_client_max",
        0,
        1_024,
        "Topics of one connection that get an alias towards its client, if that takes as many; 0 uses none.",
    ),
    integer("limits.topic_levels_max", 1, 65_536, "Levels in a Topic Name or Topic Filter."),
    integer("limits.client_id_bytes_max", 23, 65_535, "UTF-8 bytes of a Client Identifier."),
    integer(
        "limits.user_properties_max",
        0,
        65_535,
        "User Properties in one packet; more are refused with 0x97.",
    ),
    integer("limits.subscriptions_per_session_max", 1, 1_000_000, "Subscriptions of one session."),
    integer(
        "limits.session_queue_messages_max",
        1,
        100_000_000,
        "Messages waiting in one session; at least `limits.inflight_max`.",
    ),
    integer(
        "limits.session_queue_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in one session; at least `limits.packet_bytes_max`.",
    ),
    integer(
        "limits.session_queue_memory_bytes",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in one session that stay in memory; the newer ones are in the store alone.",
    ),
    integer(
        "limits.queue_memory_bytes",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in all sessions beyond which newer ones are in the store alone.",
    ),
    integer(
        "limits.queue_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in all sessions, in memory or in the store; at least `limits.session_queue_bytes_max`.",
    ),
    integer(
        "limits.outbox_bytes_max",
        4_096,
        1 << 30,
        "Encoded bytes that may wait for one socket; a single larger packet may exceed it when it waits alone.",
    ),
    integer(
        "limits.write_seconds_max",
        1,
        3_600,
        "How long bytes may wait for a socket that takes none, in seconds, before the connection is closed.",
    ),
    integer(
        "limits.mailbox_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes on their way from one shard to another; at least `limits.packet_bytes_max`.",
    ),
    integer(
        "limits.retained_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of all retained messages together; at least `limits.packet_bytes_max`.",
    ),
    option(
        "storage.durability",
        Kind::Choice(&["commit", "interval", "memory"]),
        "When stored state is safe: before it is acknowledged, at intervals, or never.",
    ),
    unset(
        integer(
            "storage.interval_milliseconds",
            1,
            60_000,
            "Interval of durability `interval`, in milliseconds; not allowed with another durability.",
        ),
        "`1000` with durability `interval`",
    ),
    option(
        "storage.interval_topics",
        Kind::TopicFilters,
        "Topics whose messages are acknowledged before they are stored: a crash can lose what came within the last 50 ms.",
    ),
    option(
        "storage.memory_topics",
        Kind::TopicFilters,
        "Topics whose messages are never stored, unless `storage.interval_topics` matches them too.",
    ),
    integer(
        "storage.cache_bytes",
        1 << 20,
        MEMORY_BYTES_MAX,
        "Memory the storage engine may use as cache, in bytes.",
    ),
    integer(
        "storage.reserve_bytes",
        0,
        MEMORY_BYTES_MAX,
        "Free space of the file system of `data_dir` below which nothing new is stored, in bytes; 0 keeps none.",
    ),
    option("veil.enabled", Kind::Boolean, "Whether a client may ask for Authentication Method `VEIL-1`."),
    option("veil.suites", Kind::Choices(SUITES), "Suites offered to clients."),
    option("veil.schemes", Kind::Choices(SCHEMES), "Schemes offered to clients."),
    option("veil.trust", Kind::Paths, "Files with public authority certificates."),
    unset(
        option("veil.certificate", Kind::Path, "File with the broker's own certificate."),
        "the one made at the first start",
    ),
    integer(
        "veil.half_open_max",
        1,
        1_000_000,
        "Handshakes in progress at one time beyond which each address may begin 4 a second.",
    ),
    option(
        "veil.compact",
        Kind::Boolean,
        "Whether a client may use the mode COMPACT, which needs no AUTH packet but a clock.",
    ),
    integer(
        "veil.clock_skew_seconds",
        1,
        3_600,
        "How far the clock of a client that uses COMPACT may be from the broker's, in seconds.",
    ),
    integer(
        "veil.replays_max",
        1_024,
        1 << 26,
        "CONNECTs of COMPACT remembered, so that none is taken twice, and used tickets; beyond it COMPACT is refused, not forgotten.",
    ),
    integer(
        "veil.proof_milliseconds",
        100,
        60_000,
        "Time that a client has for its first record after COMPACT or RESUME; until then it takes nobody's session.",
    ),
    integer(
        "veil.ticket_seconds",
        0,
        604_800,
        "How long a ticket to resume a channel is good for, in seconds; 0 gives none. A restart makes all tickets useless.",
    ),
    option(
        "veil.fan_out",
        Kind::Choice(FAN_OUTS),
        "How messages are authenticated to subscribers: each by a tag of its own, a group key as well, or (a weakening) a group key alone.",
    ),
    option(
        "veil.group_scopes",
        Kind::TopicFilters,
        "Topics that share a group key; every other topic has its own. Who is sent one of them could read all.",
    ),
    integer("veil.group_key_seconds", 60, 604_800, "Age at which a group key is replaced, in seconds."),
    integer("veil.group_rekey_milliseconds", 0, 3_600_000, "Least time between two keys of a group, in ms."),
    option("veil.join_secrecy", Kind::Boolean, "Whether a group takes a new key when a member joins."),
    integer("veil.rekey_seconds", 60, 604_800, "Age at which the keys of a channel are renewed, in seconds."),
    integer(
        "veil.rekey_records",
        1_024,
        1 << 24,
        "Records after which the keys of a channel are renewed, if that comes first.",
    ),
];

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
        self.key == LISTENERS || self.key.starts_with("listeners[].tls.certificates[].")
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
