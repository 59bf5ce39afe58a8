//! The options of users that stand elsewhere than in a password file.

use super::{OptionSpec, option, unset};
use crate::kind::Kind;

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
];
