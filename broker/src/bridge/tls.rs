//! TLS towards the other broker: whom a bridge trusts, and what it shows.
//!
//! Files are read for each connection, so a renewed certificate is used from the next one on.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use veilmq_config::{BridgeTlsConfig, TlsVersion};

use crate::tls::plain::{self, Authorities};
use crate::tls::{TlsError, certified_key, read_certificates, read_key, read_trust};

/// Makes what TLS connections of a bridge begin with.
///
/// # Errors
/// [`TlsError`], naming the file.
pub(super) fn client_config(config: &BridgeTlsConfig) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = match config.minimum_version {
        TlsVersion::Tls12 => &[&TLS12, &TLS13],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsError::Unusable)?;
    let trust = read_trust(config.ca.as_deref())?;
    let algorithms = provider.signature_verification_algorithms;
    let web = WebPkiServerVerifier::builder_with_provider(Arc::new(trust.store), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Unusable(Error::General(error.to_string())))?;
    let authorities = Authorities { certificates: trust.certificates, revocations: None };
    let verifier = Remote { web, authorities, any_name: config.any_name, algorithms };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            let (chain, own) = (read_certificates(certificate)?, read_key(key)?);
            let own = certified_key(chain, own).map_err(|error| match error {
                Error::InconsistentKeys(_) => {
                    let (key, certificate) = (key.clone(), certificate.clone());
                    TlsError::Mismatch { key, certificate }
                }
                error => TlsError::Unusable(error),
            })?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
        }
        (None, _) | (_, None) => builder.with_no_client_auth(),
    };
    client.alpn_protocols = config.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(client))
}

/// Verifies what the other broker shows: as webpki does, and beside that what Mosquitto takes.
#[derive(Debug)]
struct Remote {
    web: Arc<WebPkiServerVerifier>,
    authorities: Authorities,
    /// Its certificate may be for another name.
    any_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Remote {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let another = if self.authorities.has_to_look_at(end_entity) {
            self.authorities.verify(end_entity, now)?;
            let (expected, presented) = (server_name.to_owned(), Vec::new());
            CertificateError::NotValidForNameContext { expected, presented }
        } else {
            // Names come last there: what is wrong with nothing but the name is good otherwise.
            let web = &self.web;
            match web.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                Err(Error::InvalidCertificate(
                    error @ (CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. }),
                )) => error,
                verified => return verified,
            }
        };
        if !self.any_name && !plain::is_for_server(end_entity, server_name) {
            return Err(another.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        plain::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        plain::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
