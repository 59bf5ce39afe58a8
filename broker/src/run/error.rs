//! Why a broker does not start, or does not change, and where an operator has to look.
//!
//! Invariant: what is wrong with something that the configuration names is said with the place that names it.

use std::io;
use std::path::Path;

use veilmq_config::{Named, Origin, Outside};
use veilmq_core::StoreError;

use super::process::UserError;
use crate::access::AccessError;
use crate::admin::{AdminError, TokenError};
use crate::bridge::BridgeError;
use crate::files::FileError;
use crate::identity::IdentityError;
use crate::listener::ListenError;
use crate::logging;
use crate::store::DirectoryError;
use crate::tls::TlsError;
use crate::trust::TrustError;

/// Why the broker did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// What is stored cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A configured authority cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A listener cannot speak TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A password file or a file of rules cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The admin listener did not start.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The token of operators cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A bridge cannot be made.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// An MQTT listener did not start.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A log file cannot be opened.
    #[error(transparent)]
    Log(#[from] logging::LogError),
    /// The process cannot become the configured user.
    #[error(transparent)]
    User(#[from] UserError),
    /// What is at fault is named in the configuration.
    #[error("{origin}: {option}: {error}")]
    Named {
        /// Where.
        origin: Origin,
        /// The option there.
        option: String,
        /// What is wrong.
        error: Box<RunError>,
    },
    /// The operating system gave no thread, event queue, signal or randomness.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl RunError {
    pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// Says which place of the configuration names what is at fault, if one does.
    #[must_use]
    pub fn placed(self, named: &[Named]) -> Self {
        let found = match self.outside() {
            Some(Outside::Path(path)) => place_of(&path, named),
            Some(outside) => named.iter().find(|named| named.outside == outside),
            None => None,
        };
        let Some(Named { origin, option, .. }) = found else { return self };
        Self::Named { origin: origin.clone(), option: option.clone(), error: Box::new(self) }
    }

    /// Returns what Mosquitto says of it, where somebody may look for that.
    #[must_use]
    pub fn in_mosquittos_words(&self) -> Option<String> {
        match self {
            Self::Access(AccessError::Passwords(error)) => error.in_mosquittos_words(),
            Self::Named { error, .. } => error.in_mosquittos_words(),
            _ => None,
        }
    }

    /// Returns what is at fault, where an option names it.
    fn outside(&self) -> Option<Outside> {
        let path = match self {
            Self::File(error) => Some(error.path()),
            Self::Access(error) => error.path(),
            Self::Tls(error) => error.path(),
            Self::Bridge(error) => error.path(),
            Self::Identity(error) => error.path(),
            Self::Trust(error) => error.path(),
            Self::Token(error) => Some(error.path()),
            Self::Log(error) => Some(error.path()),
            Self::User(error) => return Some(Outside::User(error.user().to_owned())),
            Self::Listen(error) => return Some(Outside::Interface(error.interface()?.to_owned())),
            Self::Directory(_)
            | Self::Store(_)
            | Self::Admin(_)
            | Self::Named { .. }
            | Self::System { .. } => None,
        };
        path.map(|path| Outside::Path(path.to_owned()))
    }
}

/// Finds the first place that names a path, or else the nearest folder that it is in.
fn place_of<'a>(path: &Path, named: &'a [Named]) -> Option<&'a Named> {
    let length = |named: &&Named| named.outside.path().map_or(0, |named| named.components().count());
    let holds = |named: &&Named| named.outside.path().is_some_and(|named| path.starts_with(named));
    named.iter().filter(holds).min_by_key(|named| std::cmp::Reverse(length(named)))
}
