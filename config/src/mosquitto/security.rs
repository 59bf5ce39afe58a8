//! The options of Mosquitto that say who may connect: of the whole broker, or with `per_listener_settings` of one listener.

use super::draft::Draft;
use super::option::MosquittoOption as Row;
use super::option::Scope::{Global, Listener, Security};
use super::option::{Allowed, forget_text};

const NO_PSK: &str = "pre-shared keys of TLS are not available; use certificates";

pub(super) const OPTIONS: &[Row] = &[
    Row::text(
        "acl_file",
        Security,
        "`acl.mosquitto_file`, with `acl.subscribe = \"compat\"`",
        |draft, path| {
            let path = Some(path.into());
            if draft.is_per_listener {
                draft.listener().acl_file = path;
            } else {
                draft.acl_file = path;
            }
            Ok(())
        },
    ),
    Row::boolean(
        "allow_anonymous",
        Security,
        "`access.anonymous`; without a listener the default is `true`, on this machine only",
        |draft, on| {
            if draft.is_per_listener {
                draft.listener().anonymous = Some(on);
            } else {
                draft.anonymous = Some(on);
            }
        },
    ),
    Row::refused(
        "allow_zero_length_clientid",
        Security,
        "an empty Client Identifier is always allowed where MQTT allows it",
    ),
    Row::text("auto_id_prefix", Security, "`auto-`, and nothing else", auto_id_prefix),
    Row::boolean("listener_allow_anonymous", Listener, "`access.anonymous`", |draft, on| {
        draft.listener().anonymous = Some(on);
    }),
    Row::text("listener_auto_id_prefix", Listener, "`auto-`, and nothing else", auto_id_prefix),
    Row::text("password_file", Security, "`access.password_file`", |draft, path| {
        let path = Some(path.into());
        if draft.is_per_listener {
            draft.listener().password_file = path;
        } else {
            draft.password_file = path;
        }
        Ok(())
    }),
    Row::boolean(
        "per_listener_settings",
        Global,
        "security options belong to the listener above them; it must stand above them all",
        |draft, on| draft.is_per_listener = on,
    ),
    Row::refused("psk_file", Security, NO_PSK),
    Row::refused("psk_hint", Listener, NO_PSK),
];

fn auto_id_prefix(draft: &mut Draft, prefix: &str) -> Result<(), Allowed> {
    forget_text(draft, prefix)?;
    (prefix == "auto-").then_some(()).ok_or("auto-")
}
