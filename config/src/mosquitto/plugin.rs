//! The options of Mosquitto's plugins. Three of them need no C, for the broker has what they do: dynamic security, and files of
//! passwords and rules.

use std::path::{Path, PathBuf};

use super::Note;
use super::draft::{Draft, SecurityDraft};
use super::option::MosquittoOption as Row;
use super::option::Scope::Plugin;
use super::option::{Allowed, forget_text};
use crate::error::Origin;

const NO_OTHER: &str = "plugins written in C cannot be loaded, but for those that are built in, see `plugin`; `access.http` of a \
                        configuration of our own asks a service";
const NO_OTHER_OPTIONS: &str = "options of plugins written in C, which cannot be loaded; `auth_opt_*` is the older name of each \
                                `plugin_opt_*`";
/// The plugins that are built in, by what stands behind the last `/` of their paths, without its suffix.
const BUILT_IN: &[(&str, BuiltIn)] = &[
    ("mosquitto_acl_file", BuiltIn::AclFile),
    ("mosquitto_dynamic_security", BuiltIn::DynamicSecurity),
    ("mosquitto_password_file", BuiltIn::PasswordFile),
];
const ONLY_BUILT_IN: Allowed = "…/mosquitto_dynamic_security.so, …/mosquitto_acl_file.so or …/mosquitto_password_file.so, which are built in; no other plugin can be loaded, but `access.http` of a configuration of our own asks a service";
const NOT_ITS_OWN: Allowed = "an option of the plugin above it, and this one is not";

/// A plugin that is built in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum BuiltIn {
    #[default]
    DynamicSecurity,
    AclFile,
    PasswordFile,
}

/// The plugins of a configuration while it is read.
#[derive(Debug, Default)]
pub(super) struct PluginsDraft {
    /// `plugin_opt_config_file`.
    pub(super) dynamic_security_file: Option<PathBuf>,
    /// `plugin_opt_password_init_file`.
    pub(super) password_init_file: Option<PathBuf>,
    /// Whether that plugin is for all listeners, whatever they say.
    pub(super) is_global: bool,
    /// The one above.
    current: BuiltIn,
    /// Whether the one above is for all listeners.
    current_is_global: bool,
    /// The name that `plugin_load` has given.
    name: Option<String>,
    /// The line of the one above, as long as it has no file.
    without_file: Option<(Origin, String)>,
}

pub(super) const OPTIONS: &[Row] = &[
    Row::text("auth_plugin", Plugin, "as `plugin`", begin),
    Row::refused("auth_plugin_deny_special_chars", Plugin, NO_OTHER),
    Row::text("global_plugin", Plugin, "as `plugin`, for all listeners", begin_global),
    Row::text(
        "plugin",
        Plugin,
        "`mosquitto_dynamic_security` (`access.dynamic_security_file`), `mosquitto_acl_file` (as `acl_file`) and `mosquitto_password_file` (as `password_file`) are built in; any other is an error",
        begin,
    ),
    Row::text("plugin_load", Plugin, "as `plugin`, under a name", |draft, value| {
        let (name, path) = value.split_once(' ').ok_or("a name and a path")?;
        begin_global(draft, path.trim_start())?;
        draft.plugins.name = Some(name.to_owned());
        Ok(())
    }),
    Row::text("plugin_use", Plugin, "a name that `plugin_load` has given", |draft, name| {
        let is_known = draft.plugins.name.as_deref() == Some(name.trim_end());
        is_known.then_some(()).ok_or("a name that plugin_load has given above")
    }),
    Row::text("plugin_opt_acl_file", Plugin, "as `acl_file`", |draft, path| {
        only(&mut draft.security_of_plugin(BuiltIn::AclFile)?.acl_file, path)
    }),
    Row::text("plugin_opt_password_file", Plugin, "as `password_file`", |draft, path| {
        only(&mut draft.security_of_plugin(BuiltIn::PasswordFile)?.password_file, path)
    }),
    Row::text("plugin_opt_config_file", Plugin, "`access.dynamic_security_file`", |draft, path| {
        let is_global = draft.plugins.current_is_global;
        if draft.plugins.current != BuiltIn::DynamicSecurity {
            return Err(NOT_ITS_OWN);
        }
        only(&mut draft.plugins.dynamic_security_file, path)?;
        draft.plugins.without_file = None;
        if is_global {
            draft.plugins.is_global = true;
        } else {
            draft.security().has_dynamic_security = true;
        }
        Ok(())
    }),
    Row::text("plugin_opt_config_format", Plugin, "`json` and `auto`, which mean JSON", |draft, format| {
        forget_text(draft, format)?;
        matches!(format, "json" | "auto").then_some(()).ok_or("json or auto")
    })
    .without_effect(),
    Row::text(
        "plugin_opt_password_init_file",
        Plugin,
        "`access.dynamic_security_password_file`",
        |draft, path| only(&mut draft.plugins.password_init_file, path),
    ),
    Row::refused("plugin_opt_*", Plugin, NO_OTHER_OPTIONS),
];

/// What Mosquitto says of the plugin where it has no file.
const INACTIVE: &str =
    "Dynamic security plugin has no plugin_opt_config_file defined. The plugin will not be activated.";

/// Tells whether an option names a plugin.
pub(super) fn begins(option: &str) -> bool {
    matches!(option, "plugin" | "auth_plugin" | "global_plugin" | "plugin_load")
}

impl PluginsDraft {
    /// Takes note of the line that names a plugin; returns what is to be said of the one above.
    pub(super) fn begun(&mut self, origin: &Origin, option: &str) -> Option<Note> {
        let before = self.inactive();
        let is_dynamic = self.current == BuiltIn::DynamicSecurity;
        self.without_file = is_dynamic.then(|| (origin.clone(), option.to_owned()));
        before
    }

    /// Returns what is to be said of the plugin that was named last, if it has no file.
    pub(super) fn inactive(&mut self) -> Option<Note> {
        let (origin, option) = self.without_file.take()?;
        Some(Note { origin, option, text: INACTIVE.to_owned(), is_warning: true })
    }
}

/// Sets what there is one of, whatever the listener.
fn only(known: &mut Option<PathBuf>, path: &str) -> Result<(), Allowed> {
    match known {
        Some(known) if known.as_path() != Path::new(path) => {
            Err("the file that is named above it: there is one for all listeners")
        }
        _ => {
            *known = Some(path.into());
            Ok(())
        }
    }
}

fn begin(draft: &mut Draft, path: &str) -> Result<(), Allowed> {
    let name = path.trim_end().rsplit('/').next().unwrap_or_default();
    let name = name.split_once('.').map_or(name, |(name, _)| name);
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    draft.plugins.current = built_in.ok_or(ONLY_BUILT_IN)?.1;
    draft.plugins.current_is_global = false;
    Ok(())
}

impl Draft {
    /// What the options of a plugin attach to that says who may connect or what clients may do.
    fn security_of_plugin(&mut self, plugin: BuiltIn) -> Result<&mut SecurityDraft, Allowed> {
        match (self.plugins.current == plugin, self.plugins.current_is_global && self.is_per_listener) {
            (false, _) => Err(NOT_ITS_OWN),
            (true, true) => Err("below `plugin`: with `per_listener_settings` each listener has its own"),
            (true, false) => Ok(self.security()),
        }
    }
}

fn begin_global(draft: &mut Draft, path: &str) -> Result<(), Allowed> {
    begin(draft, path)?;
    draft.plugins.current_is_global = true;
    Ok(())
}
