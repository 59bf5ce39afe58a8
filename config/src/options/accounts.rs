//! The options of users that stand elsewhere than in a password file.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

const CLAIM_BYTES_MAX: usize = 1_024;

pub(super) const OPTIONS: &[OptionSpec] = &[
    unset(
        option(
            "access.dynamic_security_file",
            Kind::Path,
            "Mosquitto's `dynamic-security.json`: clients, groups and roles, which say who may connect and what clients may do, and which `mosquitto_ctrl dynsec` administers. Read again when it changes and on SIGHUP, and made if it does not exist; not allowed with rules of a file.",
        ),
        "none",
    ),
    unset(
        option(
            "access.dynamic_security_password_file",
            Kind::Path,
            "A file whose first line is the password of `admin`, for when `access.dynamic_security_file` does not exist yet and is made with this user; without it the password is `MOSQUITTO_DYNSEC_PASSWORD` of the environment, or is made up and written beside the file, with `.pw` behind its name.",
        ),
        "none",
    ),
    option(
        "access.control_api",
        Kind::Boolean,
        "Whether clients that may publish to `$CONTROL/broker/v1` are told there of listeners and of what is built in (`mosquitto_ctrl broker`).",
    ),
    unset(
        option(
            "access.jwt.jwks_file",
            Kind::Path,
            "JWKS file (RFC 7517) with the keys of those whose tokens (JSON Web Tokens: HS256, RS256, ES256, EdDSA) are taken for passwords of users that no file knows. Read again when it changes and on SIGHUP.",
        ),
        "none; without `access.jwt.key_files` no token is taken",
    ),
    option(
        "access.jwt.key_files",
        Kind::Paths,
        "PEM files with public keys (RSA for RS256, P-256 for ES256, Ed25519 for EdDSA) that tokens may be signed with, beside those of `access.jwt.jwks_file`; read again like it.",
    ),
    unset(
        option(
            "access.jwt.issuer",
            Kind::Text { bytes_max: CLAIM_BYTES_MAX },
            "What `iss` of a token has to be.",
        ),
        "anything, or nothing",
    ),
    unset(
        option(
            "access.jwt.audience",
            Kind::Text { bytes_max: CLAIM_BYTES_MAX },
            "What `aud` of a token has to be, or to have among others.",
        ),
        "anything, or nothing",
    ),
    option(
        "access.jwt.user_claim",
        Kind::Text { bytes_max: CLAIM_BYTES_MAX },
        "The claim of a token that has to be the user name of CONNECT, and is the user name of a client that gives none.",
    ),
    integer(
        "access.jwt.leeway_seconds",
        0,
        600,
        "How far the clock of an issuer may be from the broker's, in seconds.",
    ),
];
