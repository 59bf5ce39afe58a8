//! TLS towards the other broker: whom a bridge trusts, and what it shows.
//!
//! Files are read for each connection, so a renewed certificate is used from the next one on.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use veilmq_config::{BridgeTlsConfig, TlsVersion};

use crate::tls::{TlsError, read_certificates, read_key, read_trust};

const AUTHORITIES: &str = "bridges[].tls.ca";
const CERTIFICATE: &str = "bridges[].tls.certificate_file";
const KEY: &str = "bridges[].tls.key_file";

/// Makes what TLS connections of a bridge begin with.
///
/// # Errors
/// [`TlsError`], naming the option and the file.
pub(super) fn client_config(config: &BridgeTlsConfig) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = match config.minimum_version {
        TlsVersion::Tls12 => &[&TLS12, &TLS13],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsError::Unusable)?;
    let authorities = read_trust(AUTHORITIES, config.ca.as_deref())?;
    let builder = if config.any_name {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsError::Unusable(Error::General(error.to_string())))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { verifier, provider }))
    } else {
        builder.with_root_certificates(authorities)
    };
    let mut client = match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(read_certificates(CERTIFICATE, certificate)?, read_key(KEY, key)?)
            .map_err(TlsError::Unusable)?,
        (None, _) | (_, None) => builder.with_no_client_auth(),
    };
    client.alpn_protocols = config.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(client))
}

/// Accepts a certificate that is for another name, if it is good otherwise.
#[derive(Debug)]
struct AnyName {
    verifier: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
