//! The options of who may connect and what clients may do.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    option(
        "access.anonymous",
        Kind::Boolean,
        "Whether a client without a user name that proves no identity may connect.",
    ),
    unset(
        option(
            "access.password_file",
            Kind::Path,
            "File with user names and hashes of passwords (`veilmq passwd`), read again when it changes and on SIGHUP.",
        ),
        "none; no password is checked",
    ),
    option(
        "access.rehash",
        Kind::Boolean,
        "Whether a weak hash in that file is replaced when its user has given the right password.",
    ),
    unset(
        option(
            "access.client_id_prefix",
            Kind::Text { bytes_max: 1_024 },
            "What every Client Identifier has to begin with; other clients are refused with 0x87.",
        ),
        "anything",
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
            "File of rules on what clients may do, in TOML, read again when it changes and on SIGHUP.",
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
    option(
        "acl.check_retained_source",
        Kind::Boolean,
        "Whether a retained message is sent to a new subscriber only if who published it might still publish there now.",
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
];
