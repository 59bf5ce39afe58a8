//! The options of Mosquitto's plugins. Three of them need no C, for the broker has what they do: dynamic security, and files of
//! passwords and rules.

use std::path::{Path, PathBuf};

use super::Note;
use super::draft::{Draft, SecurityDraft};
use super::option::MosquittoOption as Row;
use super::option::Scope::Plugin;
use super::option::{Allowed, forget_text};
use crate::error::{ConfigError, Fault, Origin};

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

/// Where a plugin counts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Where the options of security count that stand in the same place.
    #[default]
    Here,
    /// On all listeners, whatever they say.
    Everywhere,
    /// On the listeners that use it: its place among the plugins with a name.
    Users(usize),
}

/// A plugin with a name.
#[derive(Debug)]
struct Loaded {
    name: String,
    /// `None` if it cannot be loaded.
    plugin: Option<BuiltIn>,
    /// Where it was given the name.
    origin: Origin,
    /// The file that it reads.
    file: Option<PathBuf>,
    /// The listeners that use it, and where they say so.
    users: Vec<(usize, Origin)>,
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
    /// Where the one above counts.
    reach: Reach,
    /// Those that `plugin_load` has given a name.
    loaded: Vec<Loaded>,
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
    Row::text("plugin_load", Plugin, "as `plugin`, for the listeners that use its name", |draft, value| {
        let (_, path) = value.split_once(' ').ok_or("a name and a path")?;
        begin(draft, path.trim_start())
    }),
    // What it names was looked up before.
    Row::text("plugin_use", Plugin, "a name that `plugin_load` has given", forget_text),
    Row::text("plugin_opt_acl_file", Plugin, "as `acl_file`", |draft, path| {
        only(draft.file_of_plugin(BuiltIn::AclFile, |security| &mut security.acl_file)?, path)
    }),
    Row::text("plugin_opt_password_file", Plugin, "as `password_file`", |draft, path| {
        only(draft.file_of_plugin(BuiltIn::PasswordFile, |security| &mut security.password_file)?, path)
    }),
    Row::text("plugin_opt_config_file", Plugin, "`access.dynamic_security_file`", |draft, path| {
        if draft.plugins.current != BuiltIn::DynamicSecurity {
            return Err(NOT_ITS_OWN);
        }
        only(&mut draft.plugins.dynamic_security_file, path)?;
        draft.plugins.without_file = None;
        match draft.plugins.reach {
            Reach::Here => draft.security().has_dynamic_security = true,
            Reach::Everywhere => draft.plugins.is_global = true,
            Reach::Users(index) => draft.plugins.loaded[index].file = Some(path.into()),
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
    draft.plugins.reach = Reach::Here;
    Ok(())
}

impl Draft {
    /// Tells whether `plugin_load` has given this name.
    pub(super) fn has_plugin(&self, name: &str) -> bool {
        self.plugins.loaded.iter().any(|loaded| loaded.name == name)
    }

    /// Gives the plugin that was named last a name of its own; it may be one that cannot be loaded.
    pub(super) fn name_plugin(&mut self, name: &str, origin: &Origin, is_built_in: bool) {
        let plugin = is_built_in.then_some(self.plugins.current);
        let (name, origin) = (name.to_owned(), origin.clone());
        self.plugins.reach = Reach::Users(self.plugins.loaded.len());
        self.plugins.loaded.push(Loaded { name, plugin, origin, file: None, users: Vec::new() });
    }

    /// Has the listener use the plugin with this name, to which the options below belong. Returns whether it is built in.
    pub(super) fn use_plugin(&mut self, name: &str, origin: &Origin) -> bool {
        let place = self.plugins.loaded.iter().position(|loaded| loaded.name == name);
        let Some(index) = place else { return false };
        let loaded = &mut self.plugins.loaded[index];
        loaded.users.push((self.current, origin.clone()));
        let Some(plugin) = loaded.plugin else { return false };
        (self.plugins.current, self.plugins.reach) = (plugin, Reach::Users(index));
        true
    }

    /// Gives the listeners the files of the plugins that they use.
    ///
    /// # Errors
    /// A listener has another file already, or two.
    pub(super) fn settle_plugins(&mut self) -> Result<(), ConfigError> {
        for Loaded { name, plugin, origin, file, users } in std::mem::take(&mut self.plugins.loaded) {
            if users.is_empty() {
                let text = format!("no effect: no listener says `plugin_use {name}`");
                self.notes.push(Note { origin, option: "plugin_load".to_owned(), text, is_warning: true });
            }
            let (Some(file), Some(plugin)) = (file, plugin) else { continue };
            for (listener, origin) in users {
                let security =
                    if self.is_per_listener { &self.listeners[listener].security } else { &self.security };
                let files = [&security.acl_file, &security.password_file].map(Clone::clone);
                let used = &mut self.listeners[listener].used;
                let (of_all, own) = match plugin {
                    BuiltIn::DynamicSecurity => {
                        used.has_dynamic_security = true;
                        continue;
                    }
                    BuiltIn::AclFile => (&files[0], &mut used.acl_file),
                    BuiltIn::PasswordFile => (&files[1], &mut used.password_file),
                };
                if let Some(other) = of_all.as_ref().or(own.as_ref()).filter(|other| **other != file) {
                    let reason = format!("{name} reads {}, beside {}", file.display(), other.display());
                    let option = "plugin_use".to_owned();
                    return Err(ConfigError::new(origin, Fault::Mosquitto { option, reason }));
                }
                *own = Some(file.clone());
            }
        }
        Ok(())
    }

    /// Returns where the file goes that an option of a plugin names.
    fn file_of_plugin(
        &mut self,
        plugin: BuiltIn,
        of_security: fn(&mut SecurityDraft) -> &mut Option<PathBuf>,
    ) -> Result<&mut Option<PathBuf>, Allowed> {
        if self.plugins.current != plugin {
            return Err(NOT_ITS_OWN);
        }
        match self.plugins.reach {
            Reach::Users(index) => Ok(&mut self.plugins.loaded[index].file),
            Reach::Everywhere if self.is_per_listener => {
                Err("below `plugin`: with `per_listener_settings` each listener has its own")
            }
            Reach::Everywhere | Reach::Here => Ok(of_security(self.security())),
        }
    }
}

fn begin_global(draft: &mut Draft, path: &str) -> Result<(), Allowed> {
    begin(draft, path)?;
    draft.plugins.reach = Reach::Everywhere;
    Ok(())
}
