//! What carries the bytes of one connection: TCP, with or without TLS.
//!
//! Invariant: what TLS has taken is flushed before this waits for anything else.

use std::{
    fmt,
    future::poll_fn,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::debug;

/// Whom a client believes on TLS, and what it shows there.
///
/// A VEIL-1 channel needs no TLS; this is for brokers that speak nothing else. What PEM files cannot say is for a configuration of
/// [`rustls`] to say, from which it can be made.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

/// Names why the files for TLS cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or holds no certificate or key.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: pem::Error,
    },
    /// What it holds cannot be used.
    #[error("TLS: {0}")]
    Unusable(#[from] rustls::Error),
    /// The name to be expected is not one of a host.
    #[error("{0:?} is not the name of a host")]
    Name(String),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// As a program has it configured: authorities of the system or of memory, keys of a security module.
impl From<Arc<ClientConfig>> for Tls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self { config, name: None }
    }
}

impl Tls {
    /// Believes brokers whose certificates come from the authorities in a PEM file.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn trusting(authorities: &Path) -> Result<Self, TlsError> {
        Self::with(authorities, None)
    }

    /// Does the same, and shows a certificate if it is asked for one: two PEM files, a chain and its key.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn showing(authorities: &Path, chain: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::with(authorities, Some((chain, key)))
    }

    /// Expects another name in the broker's certificate than the host it is reached by.
    ///
    /// # Errors
    /// [`TlsError::Name`].
    pub fn expecting(mut self, name: &str) -> Result<Self, TlsError> {
        self.name = Some(ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?);
        Ok(self)
    }

    fn with(authorities: &Path, shown: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
                builder.with_client_auth_cert(certificates(chain)?, read)?
            }
        };
        Ok(Self::from(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| unreadable(path, error);
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>();
    match found.map_err(failed)? {
        none if none.is_empty() => Err(failed(pem::Error::NoItemsFound)),
        certificates => Ok(certificates),
    }
}

fn unreadable(path: &Path, error: pem::Error) -> TlsError {
    TlsError::File { path: path.display().to_string(), error }
}

/// What came of [`Transport::move_bytes`].
pub(super) enum Moved {
    /// So many bytes are in the buffer; none at the end of the connection.
    Read(usize),
    /// So many bytes of the output are on their way.
    Written(usize),
}

/// An open connection.
pub(super) struct Transport {
    stream: Stream,
    /// Whose turn it is, where both directions could go on.
    writes_first: bool,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Connects, and completes the handshake of TLS.
    pub(super) async fn open(host: String, port: u16, tls: Option<Tls>) -> io::Result<Self> {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot set TCP_NODELAY");
        }
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(Tls { config, name }) => {
                let name = match name {
                    Some(name) => name,
                    None => ServerName::try_from(host).map_err(io::Error::other)?,
                };
                Stream::Tls(Box::new(TlsConnector::from(config).connect(name, stream).await?))
            }
        };
        Ok(Self { stream, writes_first: false })
    }

    /// Waits until something was read into `room`, or some of `output` was written. Cancel safe.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn move_bytes(
        &mut self,
        mut room: Option<&mut [u8]>,
        output: &[u8],
    ) -> io::Result<Moved> {
        self.writes_first = !self.writes_first;
        poll_fn(|cx| {
            if self.writes_first
                && let Poll::Ready(written) = self.poll_output(cx, output)
            {
                return Poll::Ready(written);
            }
            if let Some(room) = &mut room {
                let mut buffer = ReadBuf::new(room);
                if let Poll::Ready(read) = self.stream.poll_read(cx, &mut buffer) {
                    return Poll::Ready(read.map(|()| Moved::Read(buffer.filled().len())));
                }
            }
            if self.writes_first { Poll::Pending } else { self.poll_output(cx, output) }
        })
        .await
    }

    /// Sends what is left, and then says that nothing follows.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn finish(&mut self, mut output: &[u8]) -> io::Result<()> {
        while !output.is_empty() {
            if let Moved::Written(len) = self.move_bytes(None, output).await? {
                output = output.get(len..).unwrap_or_default();
            }
        }
        poll_fn(|cx| self.stream.poll_shutdown(cx)).await
    }

    fn poll_output(&mut self, cx: &mut Context<'_>, output: &[u8]) -> Poll<io::Result<Moved>> {
        if !output.is_empty() {
            return self.stream.poll_write(cx, output).map_ok(Moved::Written);
        }
        match self.stream.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
