//! Client certificates whose dates are not looked at, where an operator asks for that.
//!
//! Everything else about them is verified as ever. Invariant: whoever is let in has a certificate that was good at some time.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate;

/// Verifies certificates as of a time at which they were good.
#[derive(Debug)]
pub(super) struct Undated(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Undated {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let malformed = Error::InvalidCertificate(CertificateError::BadEncoding);
        let facts = certificate::facts(end_entity).ok_or(malformed)?;
        let seconds = |date: i64| u64::try_from(date).unwrap_or_default();
        let (from, until) = (seconds(facts.not_before), seconds(facts.not_after));
        let at = now.as_secs().min(until).max(from);
        let then = UnixTime::since_unix_epoch(Duration::from_secs(at));
        self.0.verify_client_cert(end_entity, intermediates, then)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
