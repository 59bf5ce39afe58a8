//! What can be wrong with a configuration, said in one line that an operator can act on.
//!
//! Invariant: a text names where the fault is (file and line, variable or flag), the key, and what is allowed. The
//! value of a key we do not know is never repeated: it may be a secret in the wrong place.

use std::fmt;
use std::path::PathBuf;

/// Why no configuration could be made: one fault, and where it is.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {fault}")]
pub struct ConfigError {
    /// Where the fault is.
    pub origin: Origin,
    /// What is wrong there.
    pub fault: Box<Fault>,
    /// What Mosquitto makes of it, if it is in a file of Mosquitto's.
    pub in_mosquitto: Option<Box<InMosquitto>>,
}

/// What Mosquitto makes of a fault in its configuration.
#[derive(Debug)]
pub struct InMosquitto {
    /// What it says.
    pub words: String,
    /// The exit status that it ends with.
    pub status: u8,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A configuration file, or a file that a `_FILE` variable names, could not be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is not TOML.
    #[error("not valid TOML: {message}")]
    Syntax {
        /// What the parser expected.
        message: String,
    },
    /// No option has this name.
    #[error("unknown key {key}{}", DidYouMean(.nearest))]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// The option with the most similar name, if one is similar.
        nearest: Option<&'static str>,
    },
    /// No option has a variable of this name.
    #[error("sets no option; {advice}")]
    UnknownVariable {
        /// What to do instead.
        advice: String,
    },
    /// The key names an end-to-end secret, which a broker must not be given.
    #[error(
        "{key} is an end-to-end key, and a broker never holds one (docs/veil1-protocol.md, section 13.2); \
         remove it here and give it to the clients only"
    )]
    EndToEndKey {
        /// The key as it was written.
        key: String,
    },
    /// The value is of the wrong type or out of range.
    #[error("{key} = {value} is not allowed; allowed: {allowed}")]
    WrongValue {
        /// The option.
        key: String,
        /// The value as it was given.
        value: String,
        /// The values it may have.
        allowed: String,
    },
    /// Two options, each allowed alone, contradict each other.
    #[error("{key} = {value} is not allowed; allowed: {allowed}, because {because}")]
    Relation {
        /// The option.
        key: &'static str,
        /// Its value.
        value: String,
        /// The values it may have, given the other option.
        allowed: String,
        /// The other option, where that is set, and the reason.
        because: String,
    },
    /// An option that has no default was not given.
    #[error("{key} must be given; {how}")]
    Missing {
        /// The option.
        key: &'static str,
        /// How to give it.
        how: &'static str,
    },
    /// An option is set twice in the same layer.
    #[error("{key} is also set by {other}; set one of them")]
    SetTwice {
        /// The option.
        key: &'static str,
        /// The first place.
        other: Origin,
    },
    /// No option of Mosquitto has this name.
    #[error("unknown option {option}; docs/mosquitto.md lists every option of Mosquitto")]
    UnknownMosquittoOption {
        /// The name as it was written.
        option: String,
    },
    /// An option of Mosquitto stands in the wrong place, lacks its value or is not supported.
    #[error("{option} {reason}")]
    Mosquitto {
        /// The option.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory of further configuration files cannot be read.
    #[error("include_dir {}: {reason}", .path.display())]
    Include {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A host name to listen on has no address.
    #[error("{option}: {host} cannot be resolved: {reason}")]
    Host {
        /// The option that names it.
        option: &'static str,
        /// The name.
        host: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A listener has no address of the wanted kind.
    #[error("listener: {host} has no address of its socket_domain")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// The checked layers could not be put together, which is a fault of this crate.
    #[error("cannot be merged: {0}")]
    Merge(config::ConfigError),
}

impl ConfigError {
    pub(crate) fn new(origin: Origin, fault: Fault) -> Self {
        Self { origin, fault: Box::new(fault), in_mosquitto: None }
    }
}

impl From<config::ConfigError> for ConfigError {
    fn from(error: config::ConfigError) -> Self {
        Self::new(Origin::Merged, Fault::Merge(error))
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file, and the line counted from 1 where one is known.
    File {
        /// The path as it was given.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A file named by an environment variable that ends in `_FILE`.
    EnvironmentFile {
        /// The name of the variable.
        variable: String,
        /// The file it names.
        path: PathBuf,
    },
    /// A flag of the command line.
    CommandLine {
        /// The flag.
        flag: &'static str,
    },
    /// All layers together.
    Merged,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::EnvironmentFile { variable, path } => {
                write!(f, "{} (named by environment variable {variable})", path.display())
            }
            Self::CommandLine { flag } => write!(f, "command line {flag}"),
            Self::Merged => f.write_str("configuration layers"),
        }
    }
}

struct DidYouMean<'a>(&'a Option<&'static str>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => f.write_str("; docs/configuration.md lists every key"),
        }
    }
}
