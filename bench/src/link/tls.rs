//! TLS with rustls, without a socket: bytes in, bytes out.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use thiserror::Error;

use super::LinkError;
use super::buffers::{Inbox, Outbox, Window};

/// Servers whose sessions a client keeps to be resumed: the one under load.
const SERVERS_KEPT: usize = 1;

/// Why TLS cannot be spoken.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error("{path}: {source}")]
    Certificates {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path}: no certificate is in it")]
    Empty { path: PathBuf },
    #[error("{path}: a certificate in it cannot be trusted: {source}")]
    Untrusted {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{name:?} is not the name of a server: {source}")]
    Name {
        name: String,
        #[source]
        source: InvalidDnsNameError,
    },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
}

/// Whom a client of the generator believes over TLS.
pub(crate) struct TlsTransport {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    authorities: PathBuf,
    resumes: bool,
}

impl TlsTransport {
    /// Trusts the certificates in the PEM file `authorities` for a server called `name`; sessions are resumed if `resumes` is
    /// set.
    ///
    /// # Errors
    /// The file or the name cannot be used.
    pub(crate) fn load(authorities: &Path, name: &str, resumes: bool) -> Result<Self, TlsError> {
        let path = || authorities.to_owned();
        let unreadable = |source| TlsError::Certificates { path: path(), source };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).map_err(unreadable)? {
            let certificate = certificate.map_err(unreadable)?;
            roots.add(certificate).map_err(|source| TlsError::Untrusted { path: path(), source })?;
        }
        if roots.is_empty() {
            return Err(TlsError::Empty { path: path() });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = resumption(resumes);
        let server = ServerName::try_from(name.to_owned())
            .map_err(|source| TlsError::Name { name: name.to_owned(), source })?;
        Ok(Self { config: Arc::new(config), name: server, authorities: path(), resumes })
    }

    /// The same for one client: it resumes no sessions but its own. All clients together would keep a handful of tickets
    /// for a server, and most of them would find none.
    pub(super) fn for_one_client(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = resumption(self.resumes);
        Self {
            config: Arc::new(config),
            name: self.name.clone(),
            authorities: self.authorities.clone(),
            ..*self
        }
    }

    pub(super) fn layer(&self) -> Result<TlsLayer, LinkError> {
        let mut connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        // A publisher bounds what it queues.
        connection.set_buffer_limit(None);
        Ok(TlsLayer { connection })
    }

    pub(super) fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("--ca={}", self.authorities.display()),
            format!("--tls-name={}", self.name.to_str()),
        ];
        words.extend(self.resumes.then(|| "--tls-resume".to_owned()));
        words
    }
}

/// What a client keeps of its sessions.
fn resumption(resumes: bool) -> Resumption {
    if resumes { Resumption::in_memory_sessions(SERVERS_KEPT) } else { Resumption::disabled() }
}

pub(super) struct TlsLayer {
    connection: ClientConnection,
}

impl TlsLayer {
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn close(&mut self) {
        self.connection.send_close_notify();
    }

    pub(super) fn seal(&mut self, outbox: &mut Outbox, sealed: &mut Outbox) -> Result<(), LinkError> {
        let queued = outbox.pending().len();
        if queued > 0 {
            self.connection.writer().write_all(outbox.pending())?;
            outbox.advance(queued);
        }
        while self.connection.wants_write() {
            self.connection.write_tls(sealed.raw())?;
        }
        Ok(())
    }

    pub(super) fn open(&mut self, received: &mut Window, inbox: &mut Inbox) -> Result<(), LinkError> {
        while !received.unread().is_empty() {
            let read = self.connection.read_tls(&mut &*received.unread())?;
            received.consume(read);
            let mut left = self.connection.process_new_packets()?.plaintext_bytes_to_read();
            while left > 0 {
                let count = self.connection.reader().read(inbox.window.room())?;
                inbox.window.arrived(count);
                left -= count;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let missing = Path::new("/nonexistent/ca.pem");

        for path in [file.path(), missing] {
            let error = TlsTransport::load(path, "localhost", false).err().unwrap().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
