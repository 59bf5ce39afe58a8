//! What a configuration names that is outside of it, and where it does, so that whoever finds it missing can say so.

use std::path::{Path, PathBuf};

use crate::error::Origin;
use crate::kind::Kind;
use crate::options::OptionSpec;
use crate::value::Given;

/// A place of the configuration that names something which the broker looks for only when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The place.
    pub origin: Origin,
    /// The option.
    pub option: String,
    /// What it names.
    pub outside: Outside,
}

/// Something outside of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// A file or a folder.
    Path(PathBuf),
    /// A user of the system.
    User(String),
    /// A network interface.
    Interface(String),
}

impl Outside {
    /// Returns what the value of an option names.
    pub(crate) fn all(spec: &OptionSpec, given: &Given) -> Vec<Self> {
        match (spec.kind, given) {
            (Kind::Path, Given::Text(path)) => vec![Self::Path(path.into())],
            (Kind::Paths, Given::List(paths)) => paths
                .iter()
                .filter_map(
                    |path| if let Given::Text(path) = path { Some(Self::Path(path.into())) } else { None },
                )
                .collect(),
            (Kind::User, Given::Text(user)) => vec![Self::User(user.clone())],
            (Kind::Interface, Given::Text(interface)) => vec![Self::Interface(interface.clone())],
            _ => Vec::new(),
        }
    }

    /// Returns the file or folder that it is.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::User(_) | Self::Interface(_) => None,
        }
    }
}
