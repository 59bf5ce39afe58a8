//! Mosquitto's configuration file: read with its meaning and its defaults, and turned into ours.
//!
//! Every line is checked against one table of all options Mosquitto has ([`mosquitto_options`]), which says what becomes of each:
//! it is honoured, has no effect for a stated reason, or is refused for a stated reason. `docs/mosquitto.md` is tested against
//! that table. Invariant: no line is passed over silently; what is skipped is noted.

mod bridge;
mod draft;
mod general;
mod grammar;
mod import;
mod listener;
mod option;
mod plugin;
mod security;
mod tls;
mod words;

use std::collections::HashSet;
use std::path::Path;

use self::draft::{Draft, ListenerDraft};
use self::grammar::Line;
pub use self::import::import_mosquitto;
use self::option::{Allowed, Takes};
pub use self::option::{Fate, MosquittoOption, Scope};
use crate::BrokerConfig;
use crate::error::{ConfigError, Fault, Origin};
use crate::load::read_text;
use crate::named::{Named, Outside};

/// What a reader should know of a line that did not do all it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The line.
    pub origin: Origin,
    /// The option.
    pub option: String,
    /// What became of it, and why.
    pub text: String,
    /// Whether the operator has probably meant something else.
    pub is_warning: bool,
}

/// What to do about an option that cannot be honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// It is an error.
    Strict,
    /// It is skipped and noted.
    Lenient,
}

/// Lists every option of Mosquitto 2.0 and 2.1 with what becomes of it.
pub fn mosquitto_options() -> impl Iterator<Item = &'static MosquittoOption> {
    [general::OPTIONS, security::OPTIONS, listener::OPTIONS, tls::OPTIONS, bridge::OPTIONS, plugin::OPTIONS]
        .into_iter()
        .flatten()
}

/// Tells whether a configuration file is Mosquitto's: not if its name ends in `.toml`, otherwise by the first line that says
/// something.
///
/// # Errors
/// If the file cannot be read.
pub fn is_mosquitto_file(path: &Path) -> Result<bool, ConfigError> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Ok(false);
    }
    Ok(is_mosquitto_text(path, &read_main(path)?))
}

/// Tells the same of a file that was read.
pub(crate) fn is_mosquitto_text(path: &Path, text: &str) -> bool {
    path.extension().is_none_or(|extension| extension != "toml") && grammar::is_mosquitto(text)
}

/// Reads a configuration file whose format is not known yet.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn read_main(path: &Path) -> Result<String, ConfigError> {
    read_named(path).map_err(|error| unreadable(error, path))
}

fn read_named(path: &Path) -> Result<String, ConfigError> {
    read_text(path, &Origin::File { path: path.to_owned(), line: None })
}

/// Makes a configuration of the text of a `mosquitto.conf` and the files it includes. `ports` are those of the command line.
///
/// # Errors
/// The first fault, with file, line and option.
pub(crate) fn read(
    path: &Path,
    text: &str,
    ports: &[u16],
    strictness: Strictness,
) -> Result<BrokerConfig, ConfigError> {
    let mut reader = Reader {
        draft: Draft::new(),
        strictness,
        block: Block::Listener,
        any_security: false,
        plugin: Plugin::None,
        postponed: None,
        given: HashSet::new(),
    };
    reader.file(path, text, Depth::Main)?;
    match reader.postponed {
        Some(error) => Err(error),
        None => reader.draft.finish(ports),
    }
}

/// Makes what Mosquitto does without a file. `ports` are those of the command line.
///
/// # Errors
/// None that is known of; the listeners are this machine's.
pub(crate) fn without_file(ports: &[u16]) -> Result<BrokerConfig, ConfigError> {
    Draft::new().finish(ports)
}

struct Reader {
    draft: Draft,
    strictness: Strictness,
    block: Block,
    /// Whether an option was met that `per_listener_settings` would have told where it belongs.
    any_security: bool,
    plugin: Plugin,
    /// What is wrong, but as Mosquitto does it is noticed after everything has been read.
    postponed: Option<ConfigError>,
    /// The options that may stand once only for each listener and bridge, and where they stood.
    given: HashSet<(&'static str, usize, usize)>,
}

/// What options of plugins attach to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plugin {
    /// Nothing is above them.
    None,
    /// What is built in.
    BuiltIn,
    /// What cannot be loaded.
    Foreign,
}

/// The options of which Mosquitto 2.1.2 takes no second one. Of all others the last one counts, or all of them do.
const ONCE: &[&str] = &[
    "auto_id_prefix",
    "bind_address",
    "bind_interface",
    "bridge_alpn",
    "bridge_bind_address",
    "bridge_cafile",
    "bridge_capath",
    "bridge_certfile",
    "bridge_ciphers",
    "bridge_ciphers_tls1.3",
    "bridge_tls_version",
    "clientid",
    "http_dir",
    "listener_auto_id_prefix",
    "local_clientid",
    "local_password",
    "local_username",
    "log_timestamp_format",
    "notification_topic",
    "password",
    "persistence_file",
    "persistence_location",
    "pid_file",
    "remote_clientid",
    "remote_password",
    "remote_username",
    "tls_version",
    "username",
];
/// The options that the default listener does not have.
const NOT_BY_DEFAULT: &[&str] = &["accept_protocol_versions", "mount_point", "plugin_use"];

/// The options that name a file or folder which is read later, so that what is wrong with it can be said of their line.
const FILES: &[&str] = &[
    "acl_file",
    "bridge_cafile",
    "bridge_capath",
    "bridge_certfile",
    "bridge_keyfile",
    "cafile",
    "capath",
    "certfile",
    "crlfile",
    "http_dir",
    "keyfile",
    "password_file",
    "persistence_location",
    "pid_file",
    "plugin_opt_acl_file",
    "plugin_opt_config_file",
    "plugin_opt_password_file",
    "plugin_opt_password_init_file",
];

/// What options attach to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Listener,
    Bridge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Main,
    Included,
}

impl Reader {
    /// Reads one file. What an included file begins is over at its end.
    fn file(&mut self, path: &Path, text: &str, depth: Depth) -> Result<(), ConfigError> {
        let before = (self.draft.current, self.block);
        (self.draft.current, self.block) = (0, Block::Listener);
        for line in grammar::lines(path, text) {
            match (line.name.as_str(), depth) {
                ("include_dir", Depth::Main) => self.include(&line)?,
                ("include_dir", Depth::Included) => {
                    self.note(&line, "only the main configuration file includes others");
                }
                _ => self.line(&line)?,
            }
        }
        (self.draft.current, self.block) = before;
        Ok(())
    }

    fn include(&mut self, line: &Line) -> Result<(), ConfigError> {
        if line.value.is_empty() {
            return Err(empty(line));
        }
        for path in grammar::included(&line.value, &line.origin)? {
            self.file(&path, &read_named(&path)?, Depth::Included)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line) -> Result<(), ConfigError> {
        let Some(option) = mosquitto_options().find(|option| option.is_named(&line.name)) else {
            return self.unless_lenient(line, unknown(line));
        };
        if let Err(error) = self.option(option, line) {
            return self.unless_lenient(line, error);
        }
        Ok(())
    }

    fn option(&mut self, option: &'static MosquittoOption, line: &Line) -> Result<(), ConfigError> {
        let begins_bridge = option.name == "connection";
        if begins_bridge {
            self.block = Block::Listener;
            self.check_name(line)?;
        }
        if option.scope == Scope::Bridge && !begins_bridge && self.block != Block::Bridge {
            let reason = "belongs to a bridge, so `connection NAME` must stand above it";
            return Err(fault(line, reason).said(words::homeless(line, "a bridge")));
        }
        if NOT_BY_DEFAULT.contains(&option.name) && self.draft.current == 0 {
            let reason = "belongs to a listener, so `listener PORT` must stand above it";
            return Err(fault(line, reason).said(words::homeless(line, "a listener")));
        }
        if option.scope == Scope::Plugin
            && option.name.starts_with("plugin_opt_")
            && self.is_of_foreign_plugin(line)?
        {
            self.postpone(line, fault(line, "belongs to a plugin that cannot be loaded"));
            return Ok(());
        }
        if option.fate == Fate::Refused {
            return self.refuse(option, line);
        }
        self.check_once(option, line)?;
        let word = line.value.split(' ').next().unwrap_or_default();
        match option.name {
            "listener" => self.begin_listener(line)?,
            "plugin_load" if self.draft.has_plugin(word) => {
                let words = format!("Duplicate plugin name '{word}'.");
                return Err(fault(line, &format!("{word} stands above already")).said(words));
            }
            "plugin_use" if !self.draft.has_plugin(&line.value) => {
                let words = format!("Plugin '{}' not previously loaded.", line.value);
                return Err(wrong(line, "a name that plugin_load has given above").said(words));
            }
            "log_dest" if word == "file" && !self.given.insert(("log_dest", 0, 0)) => {
                return Err(
                    fault(line, "file stands above already").said("Duplicate \"log_dest file\" value.")
                );
            }
            "per_listener_settings" if self.any_security => {
                return Err(fault(line, "must stand above every security option"));
            }
            _ => {}
        }
        self.any_security |= option.scope == Scope::Security;
        self.apply(option, line)?;
        self.remember(option, line);
        if begins_bridge {
            self.block = Block::Bridge;
            self.draft.bridge().origin = line.origin.clone();
        }
        if option.fate == Fate::WithoutEffect {
            self.note(line, option.note);
        }
        match option.name {
            "plugin_load" => self.draft.name_plugin(word, &line.origin, self.plugin == Plugin::BuiltIn),
            "plugin_use" => {
                let is_built_in = self.draft.use_plugin(&line.value, &line.origin);
                self.plugin = if is_built_in { Plugin::BuiltIn } else { Plugin::Foreign };
            }
            _ => {}
        }
        if plugin::begins(option.name) {
            let before = self.draft.plugins.begun(&line.origin, &line.name);
            self.draft.notes.extend(before);
        }
        Ok(())
    }

    /// Keeps where an option stands, for what is found wrong with it only later.
    fn remember(&mut self, option: &'static MosquittoOption, line: &Line) {
        if matches!(option.scope, Scope::Listener | Scope::Security) {
            self.draft.listener().lines.insert(option.name, line.origin.clone());
            let is_of_listener = option.scope == Scope::Listener
                || self.draft.is_per_listener && option.name != "allow_anonymous";
            if self.draft.current == 0 && is_of_listener {
                self.draft.default_listener.get_or_insert((line.origin.clone(), option.name));
            }
        }
        if option.name == "bind_address" {
            self.draft.listeners[0].lines.insert(option.name, line.origin.clone());
        }
        let outside = match option.name {
            "bind_interface" => Outside::Interface(line.value.clone()),
            "user" => Outside::User(line.value.clone()),
            file if FILES.contains(&file) => Outside::Path(line.value.clone().into()),
            _ => return,
        };
        let (origin, option) = (line.origin.clone(), line.name.clone());
        self.draft.named.push(Named { origin, option, outside });
    }

    fn refuse(&mut self, option: &'static MosquittoOption, line: &Line) -> Result<(), ConfigError> {
        if line.value.is_empty() {
            return Err(empty(line));
        }
        let error = fault(line, &format!("is not supported: {}", option.note));
        if self.strictness == Strictness::Strict && matches!(option.name, "bridge_psk" | "bridge_identity") {
            self.draft.bridge().refuse_psk(option.name, error);
            return Ok(());
        }
        Err(error)
    }

    /// Tells whether an option is one of a plugin that cannot be loaded, of which that is said later.
    fn is_of_foreign_plugin(&self, line: &Line) -> Result<bool, ConfigError> {
        if matches!(line.name.as_str(), "plugin_opt_" | "auth_opt_") {
            let words = format!("Invalid '{}' config option.", line.name);
            return Err(fault(line, "names no option").said(words));
        }
        if line.value.is_empty() {
            return Err(empty(line));
        }
        match self.plugin {
            Plugin::None => {
                let words = words::homeless(line, "plugin/global_plugin/plugin_load");
                Err(fault(line, "belongs to a plugin, so `plugin PATH` must stand above it").said(words))
            }
            Plugin::BuiltIn => Ok(false),
            Plugin::Foreign => Ok(true),
        }
    }

    /// Refuses what stands twice where Mosquitto takes it once.
    fn check_once(&mut self, option: &'static MosquittoOption, line: &Line) -> Result<(), ConfigError> {
        let place = match option.scope {
            Scope::Security if !self.draft.is_per_listener => (0, 0),
            Scope::Listener | Scope::Security => (self.draft.current, 0),
            Scope::Bridge => (0, self.draft.bridges.len()),
            Scope::Global | Scope::Plugin => (0, 0),
        };
        // Two names of one option.
        let name = match option.name {
            "clientid" => "remote_clientid",
            "password" => "remote_password",
            "username" => "remote_username",
            other => other,
        };
        if ONCE.contains(&option.name) && !self.given.insert((name, place.0, place.1)) {
            return Err(fault(line, "stands above already").said(words::duplicate(line)));
        }
        Ok(())
    }

    /// Refuses a second bridge of the same name.
    fn check_name(&self, line: &Line) -> Result<(), ConfigError> {
        if self.draft.bridges.iter().any(|bridge| bridge.config.name == line.value) {
            let words = format!("Duplicate bridge name '{}'.", line.value);
            return Err(fault(line, &format!("{} stands above already", line.value)).said(words));
        }
        Ok(())
    }

    fn begin_listener(&mut self, line: &Line) -> Result<(), ConfigError> {
        if line.value.is_empty() {
            return Err(empty(line));
        }
        self.block = Block::Listener;
        self.draft.listeners.push(ListenerDraft::new(line.origin.clone()));
        self.draft.current = self.draft.listeners.len() - 1;
        Ok(())
    }

    fn apply(&mut self, option: &'static MosquittoOption, line: &Line) -> Result<(), ConfigError> {
        if line.value.is_empty() {
            return Err(empty(line));
        }
        match option.takes {
            Takes::Boolean(apply) => match first_word(&line.value) {
                Some("true" | "1") => apply(&mut self.draft, true),
                Some("false" | "0") => apply(&mut self.draft, false),
                _ => return Err(wrong(line, "true or false")),
            },
            Takes::Integer { min, max, raises, apply } => {
                let number = first_word(&line.value).and_then(|word| word.parse::<i64>().ok());
                let wrong = || wrong(line, &format!("a whole number from {min} to {max}"));
                match number {
                    Some(number) if (min..=max).contains(&number) => apply(&mut self.draft, number),
                    Some(number) if raises && number < min => {
                        self.note(line, &format!("{number} is too low, so it is {min}, as in Mosquitto"));
                        apply(&mut self.draft, min);
                    }
                    Some(_) => return Err(wrong()),
                    None => return Err(wrong().said(words::no_number(line))),
                }
            }
            Takes::Text(apply) if option.begins_plugin() => {
                let begun = apply(&mut self.draft, &line.value);
                self.plugin = if begun.is_ok() { Plugin::BuiltIn } else { Plugin::Foreign };
                if let Err(error) = begun.map_err(|allowed| wrong(line, allowed)) {
                    self.postpone(line, error);
                }
            }
            Takes::Text(apply) => {
                apply(&mut self.draft, &line.value).map_err(|allowed: Allowed| wrong(line, allowed))?;
                if let Some(remark) = self.draft.remark.take() {
                    self.note(line, remark);
                }
            }
            Takes::Nothing => {}
        }
        Ok(())
    }

    /// Keeps the first error that is noticed after everything has been read, or notes it where options may be skipped.
    fn postpone(&mut self, line: &Line, error: ConfigError) {
        if let Err(error) = self.unless_lenient(line, error) {
            self.postponed.get_or_insert(error);
        }
    }

    /// Passes the error on, or notes it where options may be skipped.
    fn unless_lenient(&mut self, line: &Line, error: ConfigError) -> Result<(), ConfigError> {
        match self.strictness {
            Strictness::Strict => Err(error),
            Strictness::Lenient => {
                self.draft.notes.push(Note {
                    origin: line.origin.clone(),
                    option: line.name.clone(),
                    text: format!("skipped: {}", error.fault),
                    is_warning: false,
                });
                Ok(())
            }
        }
    }

    fn note(&mut self, line: &Line, text: &str) {
        let (origin, option, text) = (line.origin.clone(), line.name.clone(), text.to_owned());
        self.draft.notes.push(Note { origin, option, text, is_warning: false });
    }
}

/// Returns the word that a value consists of. A comment may follow it, as Mosquitto reads no further.
fn first_word(value: &str) -> Option<&str> {
    let mut words = value.split_ascii_whitespace();
    let first = words.next()?;
    words.next().is_none_or(|second| second.starts_with('#')).then_some(first)
}

fn fault(line: &Line, reason: &str) -> ConfigError {
    let (option, reason) = (line.name.clone(), reason.to_owned());
    ConfigError::new(line.origin.clone(), Fault::Mosquitto { option, reason })
}

fn wrong(line: &Line, allowed: &str) -> ConfigError {
    let fault =
        Fault::WrongValue { key: line.name.clone(), value: line.value.clone(), allowed: allowed.to_owned() };
    ConfigError::new(line.origin.clone(), fault).said(words::invalid(line))
}

fn empty(line: &Line) -> ConfigError {
    fault(line, "needs a value").said(words::empty(line))
}

fn unknown(line: &Line) -> ConfigError {
    ConfigError::new(line.origin.clone(), Fault::UnknownMosquittoOption { option: line.name.clone() })
        .said(words::unknown(line))
}

/// Says of a main file that cannot be opened what Mosquitto says.
fn unreadable(error: ConfigError, path: &Path) -> ConfigError {
    match (&*error.fault, &error.origin) {
        (Fault::Unreadable { .. }, Origin::File { path: unread, .. }) if unread == path => {
            error.said(format!("Unable to open config file '{}'.", path.display()))
        }
        _ => error,
    }
}
