//! The options of VEIL-1.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const SUITES: &[&str] = &["aes-256-gcm", "chacha20-poly1305", "aes-256-cbc-hmac-sha-256"];
const SCHEMES: &[&str] = &["scheme-4", "scheme-3", "scheme-2", "scheme-1"];
const PAPER_MODES: &[&str] = &["paper-1", "paper-2", "paper-3", "paper-4"];
const FAN_OUTS: &[&str] = &["digest", "group-outer", "group"];

pub(super) const OPTIONS: &[OptionSpec] = &[
    option("veil.enabled", Kind::Boolean, "Whether a client may ask for Authentication Method `VEIL-1`."),
    option("veil.suites", Kind::Choices(SUITES), "Suites offered to clients."),
    option("veil.schemes", Kind::Choices(SCHEMES), "Schemes offered to clients."),
    unset(
        option(
            "veil.paper_modes",
            Kind::ChoicesOrNone(PAPER_MODES),
            "Schemes served as in the paper to clients that ask for it, beside `veil.schemes` (weakenings).",
        ),
        "none",
    ),
    option("veil.trust", Kind::Paths, "Files with public authority certificates."),
    unset(
        option(
            "veil.revocations",
            Kind::Paths,
            "Files with revocation lists of authorities, as `veil ca revoke` makes them; read again when they change.",
        ),
        "none",
    ),
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
        "veil.property_mode",
        Kind::Boolean,
        "Whether a client of Scheme 4 may protect each PUBLISH with a User Property instead of sending records.",
    ),
    option(
        "veil.property_requires_tls",
        Kind::Boolean,
        "Whether that is for connections inside TLS only; without TLS, packets other than PUBLISH are unprotected (a weakening).",
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
    integer(
        "veil.join_milliseconds",
        0,
        60_000,
        "How long CONNACK waits for the issuer of keys that a client asks for with CONNECT, in ms; 0 passes no request on.",
    ),
    integer(
        "veil.retry_milliseconds",
        0,
        3_600_000,
        "When clients are told to come back if the broker goes away, in ms; some are told up to twice as long.",
    ),
    integer("veil.rekey_seconds", 60, 604_800, "Age at which the keys of a channel are renewed, in seconds."),
    integer(
        "veil.rekey_records",
        1_024,
        1 << 24,
        "Records after which the keys of a channel are renewed, if that comes first.",
    ),
];
