//! Why a broker does not start, or does not change, and where an operator has to look.
//!
//! Invariant: what is wrong with a file that `mosquitto.conf` names is said with the line that names it.

use std::io;
use std::path::Path;

use veilmq_config::{MosquittoConfig, Origin};
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
    /// The file at fault is one that a line of Mosquitto's configuration names.
    #[error("{origin}: {option}: {}", error.without_option())]
    Named {
        /// The line.
        origin: Origin,
        /// The option in it.
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

    /// Says which line of Mosquitto's configuration names the file at fault, if one does.
    #[must_use]
    pub fn placed(self, config: &MosquittoConfig) -> Self {
        let Some(path) = self.path() else { return self };
        let is_named = |named: &Path| match self {
            Self::File(_) => path == named,
            // One of the files of a folder.
            _ => path.starts_with(named),
        };
        let Some(file) = config.files.iter().find(|file| is_named(&file.path)) else { return self };
        let (origin, option) = (file.origin.clone(), file.option.clone());
        Self::Named { origin, option, error: Box::new(self) }
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

    /// Returns the file at fault, where an option names it.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Access(error) => error.path(),
            Self::Tls(error) | Self::Bridge(BridgeError::Tls { source: error, .. }) => error.path(),
            _ => None,
        }
    }

    /// Says what is wrong without the option of our own that names the file.
    fn without_option(&self) -> String {
        match self {
            Self::Tls(error) => error.without_option(),
            Self::Bridge(BridgeError::Tls { bridge, source }) => {
                format!("bridge {bridge}: {}", source.without_option())
            }
            _ => self.to_string(),
        }
    }
}
