//! Puts the layers together: defaults, file, environment, command line.
//!
//! Every layer is checked by itself first, so that an error names the layer; the merge is the crate `config`.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, File, FileFormat, Map, Value};

use crate::broker_config::{BrokerConfig, ListenerConfig, LogLevel, Mode, loopback_listeners};
use crate::error::{ConfigError, Fault, Origin};
use crate::mosquitto::{self, Strictness};
use crate::options::{DATA_DIR, LISTENERS, OptionSpec, SCHEMES_OF_LISTENERS};
use crate::relations::Known;
use crate::value::Given;
use crate::{document, environment};

/// Larger files are not configuration, and reading them would be the operator's mistake, not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;
const DATA_FOLDER: &str = "veilmq";

/// Where a configuration comes from.
#[derive(Debug)]
pub struct Sources<'a, E> {
    /// The configuration file; without one the broker is in [`Mode::Development`].
    pub file: Option<&'a Path>,
    /// What the command line says.
    pub overrides: Overrides,
    /// Names and values of environment variables, in general those of [`process_environment`](crate::process_environment).
    pub environment: E,
}

/// What the command line can say; it wins over file and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `-p`: without a configuration file the ports of the loopback listeners; with one of our own, further listeners on
    /// these ports of all interfaces; with Mosquitto's, the ports of the loopback listeners if the file has no listener.
    pub ports: Vec<u16>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
    /// `-v`: log level `debug`, unless a more talkative one is set.
    pub verbose: bool,
    /// `-q`: nothing is logged, whatever else is said.
    pub quiet: bool,
    /// The program was called by the name of Mosquitto: without a file it does what that one does without.
    pub replaces_mosquitto: bool,
}

impl BrokerConfig {
    /// Makes the configuration from its sources and checks it whole.
    ///
    /// # Errors
    /// The first fault found: names the file and line, variable or flag, the key, and what is allowed.
    pub fn load<E>(sources: Sources<'_, E>) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let environment: Vec<_> = sources.environment.into_iter().collect();
        let mut known = Known::default();
        let (defaults, file) = match sources.file {
            None if sources.overrides.replaces_mosquitto => {
                (mosquitto::without_file(&sources.overrides.ports)?, None)
            }
            None => (Self::development(user_data_dir(&environment)), None),
            Some(path) => {
                // Once: what comes through a pipe cannot be read again.
                let text = mosquitto::read_main(path)?;
                if mosquitto::is_mosquitto_text(path, &text) {
                    let ports = &sources.overrides.ports;
                    (mosquitto::read(path, &text, ports, Strictness::Strict)?, None)
                } else {
                    document::check(path, &text, &mut known)?;
                    (Self::default(), Some(text))
                }
            }
        };
        let variables = environment::options(&environment, &mut known)?;

        let mut layers = Config::builder().add_source(toml_layer(&defaults.to_toml()));
        if let Some(text) = &file {
            layers = layers.add_source(toml_layer(text));
        }
        for (spec, given) in variables {
            layers = set(layers, spec, given)?;
        }
        let mut config: Self = layers.build()?.try_deserialize()?;
        (config.mode, config.mosquitto, config.named) = (defaults.mode, defaults.mosquitto, defaults.named);
        sources.overrides.apply(&mut config, &mut known)?;
        listeners_are_given(&config, sources.file)?;
        known.check(&config)?;
        config.named.extend(known.named());
        Ok(config)
    }

    /// Writes the effective configuration as a TOML file that [`load`](Self::load) accepts again.
    ///
    /// The mode is not part of it: what is loaded from a file is configured.
    ///
    /// # Panics
    /// On a number above `i64::MAX` or a path that is not UTF-8, neither of which `load` lets through.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a checked configuration is TOML: {error}"))
    }
}

impl Overrides {
    fn apply(self, config: &mut BrokerConfig, known: &mut Known) -> Result<(), ConfigError> {
        for (index, port) in self.ports.iter().enumerate() {
            known.set(LISTENERS, &[], Origin::CommandLine { flag: "-p" }, port);
            add_port(config, *port, index == 0);
        }
        if let Some(data_dir) = self.data_dir {
            let origin = Origin::CommandLine { flag: "--data-dir" };
            let given = data_dir.to_str().map_or_else(
                || Given::Other(data_dir.display().to_string()),
                |text| Given::Text(text.to_owned()),
            );
            document::check_option(&DATA_DIR, &[], origin, &given, known)?;
            config.data_dir = data_dir;
        }
        if let Some(address) = self.admin {
            known.set("admin.address", &[], Origin::CommandLine { flag: "--admin" }, &address);
            config.admin.address = Some(address);
        }
        if self.verbose {
            config.log.level = config.log.level.max(LogLevel::Debug);
        }
        if self.quiet {
            config.log.level = LogLevel::Off;
        }
        Ok(())
    }
}

/// Mosquitto's `-p` acts in addition to the listeners of a file, and on all interfaces; without a file it is the port
/// of the loopback listeners.
fn add_port(config: &mut BrokerConfig, port: u16, is_first: bool) {
    match config.mode {
        Mode::Development => {
            if is_first {
                config.listeners.clear();
            }
            config.listeners.extend(loopback_listeners(port));
        }
        // It was told of the ports when it was read.
        Mode::Mosquitto => {}
        Mode::Configured => {
            for ip in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
                let listener = ListenerConfig::mqtt(SocketAddr::new(ip, port).into());
                if !config.listeners.contains(&listener) {
                    config.listeners.push(listener);
                }
            }
        }
    }
}

fn listeners_are_given(config: &BrokerConfig, file: Option<&Path>) -> Result<(), ConfigError> {
    if !config.listeners.is_empty() {
        return Ok(());
    }
    let origin = match file {
        Some(path) => Origin::File { path: path.to_owned(), line: None },
        None => Origin::Default,
    };
    let how = "write [[listeners]] with an address, such as address = \"127.0.0.1:1883\"";
    Err(ConfigError::new(origin, Fault::Missing { key: LISTENERS, how }))
}

/// The data directory without a configuration file: the user's own, by the XDG Base Directory rules.
fn user_data_dir(environment: &[(String, String)]) -> PathBuf {
    let variable = |wanted: &str| {
        let found = environment.iter().find(|(name, value)| name == wanted && !value.is_empty());
        found.map(|(_, value)| Path::new(value))
    };
    // A relative XDG_DATA_HOME is invalid by its specification and is ignored.
    if let Some(data_home) = variable("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return data_home.join(DATA_FOLDER);
    }
    match variable("HOME") {
        Some(home) => home.join(".local/share").join(DATA_FOLDER),
        None => BrokerConfig::default().data_dir,
    }
}

/// Reads a small UTF-8 file. A comment may be in another encoding, as in old files.
pub(crate) fn read_text(path: &Path, origin: &Origin) -> Result<String, ConfigError> {
    let read = || {
        let mut bytes = Vec::new();
        let length = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if length as u64 > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        String::from_utf8(bytes).or_else(|error| without_foreign_comments(error.as_bytes()))
    };
    read().map_err(|reason| ConfigError::new(origin.clone(), Fault::Unreadable { reason }))
}

fn without_foreign_comments(bytes: &[u8]) -> std::io::Result<String> {
    let is_foreign =
        |line: &[u8]| str::from_utf8(line).is_err() && !line.trim_ascii_start().starts_with(b"#");
    match bytes.split(|byte| *byte == b'\n').position(is_foreign) {
        Some(index) => Err(std::io::Error::other(format!("line {} is not UTF-8", index + 1))),
        None => Ok(String::from_utf8_lossy(bytes).into_owned()),
    }
}

fn toml_layer(text: &str) -> File<config::FileSourceString, FileFormat> {
    File::from_str(text, FileFormat::Toml)
}

fn set(
    layers: ConfigBuilder<DefaultState>,
    spec: &OptionSpec,
    given: Given,
) -> Result<ConfigBuilder<DefaultState>, ConfigError> {
    let layers = match (spec.key.split_once("[]."), given) {
        (Some((list, member)), Given::List(elements)) => {
            let tables = elements.into_iter().map(|element| listener_table(member, element));
            layers.set_override(list, tables.collect::<Vec<_>>())?
        }
        (_, given) => layers.set_override(spec.key, value(given))?,
    };
    Ok(layers)
}

/// The table of one listener in the environment's list.
fn listener_table(member: &str, element: Given) -> Map<String, Value> {
    let mut schemes = SCHEMES_OF_LISTENERS.iter();
    let named = schemes
        .find_map(|(scheme, protocol, has_tls)| Some((element.strip_prefix(scheme)?, *protocol, *has_tls)));
    let (address, protocol, has_tls) = named.unwrap_or((element, "mqtt", false));
    let mut table =
        Map::from([(member.to_owned(), value(address)), ("protocol".to_owned(), protocol.into())]);
    if has_tls {
        table.insert("tls".to_owned(), Map::<String, Value>::new().into());
    }
    table
}

fn value(given: Given) -> Value {
    match given {
        Given::Integer(integer) => integer.into(),
        Given::Boolean(boolean) => boolean.into(),
        Given::Text(text) | Given::Other(text) => text.into(),
        Given::List(elements) => elements.into_iter().map(value).collect::<Vec<_>>().into(),
    }
}
