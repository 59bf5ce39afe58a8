//! What the brokers of a comparison prove who they are with: a TLS certificate, and an authority for VEIL-1 channels.
//!
//! Made anew for each comparison, in a directory that goes away with it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use thiserror::Error;

use crate::link::{VeilError, VeilTransport};

/// The name that the TLS certificate is for.
pub(crate) const TLS_NAME: &str = "localhost";

/// Files in a directory of their own.
pub(crate) struct Secrets {
    _directory: TempDir,
    /// PEM; it vouches for itself.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// `NAME` of `NAME.vmc` and `NAME.key`.
    pub(crate) authority: PathBuf,
}

/// Why there are none.
#[derive(Debug, Error)]
pub(crate) enum SecretsError {
    #[error("no temporary directory: {0}")]
    Directory(#[source] std::io::Error),
    #[error("`openssl`, which makes the TLS certificate, cannot be run: {0}")]
    Missing(#[source] std::io::Error),
    #[error("`openssl` made no certificate")]
    Refused,
    #[error(transparent)]
    Authority(#[from] VeilError),
}

impl Secrets {
    /// Makes an ECDSA P-256 certificate with `openssl`, and an authority.
    ///
    /// # Errors
    /// `openssl` is not installed or fails, or a file cannot be written.
    pub(crate) fn make() -> Result<Self, SecretsError> {
        let directory = TempDir::new().map_err(SecretsError::Directory)?;
        let file = |name| directory.path().join(name);
        let (certificate, key, authority) = (file("broker.pem"), file("broker.key"), file("ca"));
        let status = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={TLS_NAME}")])
            .args(["-addext", &format!("subjectAltName=DNS:{TLS_NAME}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .map_err(SecretsError::Missing)?;
        if !status.success() {
            return Err(SecretsError::Refused);
        }
        VeilTransport::make_authority(&authority)?;
        Ok(Self { _directory: directory, certificate, key, authority })
    }
}
