//! Network connections over TLS.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::network::{Dial, Link};
use super::run::Received;
use crate::certificates::{Authority, Certificate};
use crate::tls::{TlsClient, TlsStream};

/// MQTT over TLS.
#[derive(Clone)]
pub struct OverTls {
    /// Keeps the files of the certificate.
    _authority: Arc<Authority>,
    certificate: Certificate,
    client: TlsClient,
}

impl Default for OverTls {
    fn default() -> Self {
        let authority = Authority::new();
        let certificate = authority.issue_for_this_machine();
        let client = TlsClient::new(&authority, None);
        Self { _authority: Arc::new(authority), certificate, client }
    }
}

impl Dial for OverTls {
    type Link = TlsStream;

    fn listener(&self, address: SocketAddr) -> String {
        format!("[[listeners]]\naddress = \"{address}\"\n{}", self.certificate.on_listener())
    }

    fn open(&self, address: SocketAddr) -> Result<TlsStream> {
        self.client.open(address)
    }
}

impl Link for TlsStream {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)?;
        self.flush()
    }

    fn end(&mut self) -> Result<()> {
        self.sock.shutdown(Shutdown::Write)
    }

    fn receive(&mut self, patience: Duration) -> Received {
        let mut buffer = [0; 16 * 1024];
        // A timeout of zero would mean none at all.
        let timeout = patience.max(Duration::from_millis(1));
        match self.sock.set_read_timeout(Some(timeout)).and_then(|()| self.read(&mut buffer)) {
            Ok(0) => Received::Closed,
            Ok(len) => Received::Bytes(buffer[..len].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Received::Nothing
            }
            Err(_) => Received::Closed,
        }
    }
}
