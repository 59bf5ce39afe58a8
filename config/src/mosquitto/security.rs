//! The options of Mosquitto that say who may connect: of the whole broker, or with `per_listener_settings` of one listener.

use super::option::Allowed;
use super::option::MosquittoOption as Row;
use super::option::Scope::{Global, Listener, Security};

const NO_PSK: &str = "pre-shared keys of TLS are not available; use certificates";

pub(super) const OPTIONS: &[Row] = &[
    Row::text(
        "acl_file",
        Security,
        "`acl.mosquitto_file` or `listeners[].access.mosquitto_acl_file`, with `acl.subscribe = \"compat\"`",
        |draft, path| {
            draft.security().acl_file = Some(path.into());
            Ok(())
        },
    ),
    Row::boolean(
        "allow_anonymous",
        Security,
        "`access.anonymous` or `listeners[].access.anonymous`; without a listener the default is `true`, on this machine only",
        |draft, on| {
            if draft.is_per_listener {
                draft.listener().anonymous = Some(on);
            } else {
                draft.anonymous = Some(on);
            }
        },
    ),
    Row::boolean(
        "allow_zero_length_clientid",
        Security,
        "`listeners[].mqtt.empty_client_id`",
        |draft, on| {
            draft.security().refuses_empty_client_id = !on;
        },
    ),
    Row::text("auto_id_prefix", Security, "`listeners[].mqtt.assigned_client_id_prefix`", |draft, prefix| {
        draft.security().assigned_client_id_prefix = Some(assigned_prefix(prefix)?);
        Ok(())
    }),
    Row::boolean("listener_allow_anonymous", Listener, "`listeners[].access.anonymous`", |draft, on| {
        draft.listener().anonymous = Some(on);
    }),
    Row::text(
        "listener_auto_id_prefix",
        Listener,
        "`listeners[].mqtt.assigned_client_id_prefix`",
        |draft, prefix| {
            draft.listener().assigned_client_id_prefix = Some(assigned_prefix(prefix)?);
            Ok(())
        },
    ),
    Row::text(
        "password_file",
        Security,
        "`access.password_file` or `listeners[].access.password_file`",
        |draft, path| {
            draft.security().password_file = Some(path.into());
            Ok(())
        },
    ),
    Row::boolean(
        "per_listener_settings",
        Global,
        "security options belong to the listener above them; it must stand above them all",
        |draft, on| draft.is_per_listener = on,
    ),
    Row::refused("psk_file", Security, NO_PSK),
    Row::refused("psk_hint", Listener, NO_PSK),
];

fn assigned_prefix(prefix: &str) -> Result<String, Allowed> {
    match prefix.len() {
        0..=50 => Ok(prefix.to_owned()),
        _ => Err("at most 50 bytes"),
    }
}
