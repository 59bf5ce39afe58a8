//! A client's side of TLS, over rustls: a stream of bytes for the tests that speak MQTT by hand.

use std::io::Result;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::certificates::{Authority, Certificate};

/// How clients of an authority connect.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

/// A TLS connection.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl TlsClient {
    /// Trusts the authority, and shows `certificate`, with those behind it in its file, if it is asked for one.
    ///
    /// # Panics
    /// If the files cannot be read.
    #[must_use]
    pub fn new(authority: &Authority, certificate: Option<&Certificate>) -> Self {
        Self::speaking(&[&TLS13, &TLS12], authority, certificate)
    }

    /// Does the same in one of some versions. The key may be another certificate's, and nothing but it is looked at.
    ///
    /// # Panics
    /// If the files cannot be read.
    #[must_use]
    pub fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        authority: &Authority,
        certificate: Option<&Certificate>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let root =
            CertificateDer::from_pem_file(authority.certificate()).expect("an authority has a certificate");
        roots.add(root).expect("its certificate is an authority's");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("ring knows them")
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain =
                    CertificateDer::pem_file_iter(&shown.certificate).expect("a file of certificates");
                let chain = chain.map(|one| one.expect("a certificate")).collect();
                let key = PrivateKeyDer::from_pem_file(&shown.key).expect("a key");
                let key = provider.key_provider.load_private_key(key).expect("a key of a known kind");
                let own = SingleCertAndKey::from(CertifiedKey::new(chain, key));
                builder.with_client_cert_resolver(Arc::new(own))
            }
        };
        Self { config: Arc::new(config) }
    }

    /// Connects and completes the handshake; reads time out after ten seconds.
    ///
    /// # Errors
    /// If there is no connection, or the handshake fails.
    pub fn open(&self, address: SocketAddr) -> Result<TlsStream> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        self.on(stream)
    }

    /// Completes the handshake on a connection.
    ///
    /// # Errors
    /// If it fails.
    ///
    /// # Panics
    /// Never: the configuration fits.
    pub fn on(&self, mut stream: TcpStream) -> Result<TlsStream> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session =
            ClientConnection::new(Arc::clone(&self.config), name).expect("a configuration that fits");
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(session, stream))
    }
}
