//! The certificates of clients: those that webpki takes, and those that Mosquitto takes beside them.
//!
//! Invariant: whoever is let in has a certificate that is good today, or, where an operator asks for no dates, was good at some time.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate;
use super::plain::{self, Authorities};

/// Verifies what clients show.
#[derive(Debug)]
pub(super) struct ClientCertificates {
    /// What webpki says.
    pub(super) web: Arc<dyn ClientCertVerifier>,
    pub(super) authorities: Authorities,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Certificates are verified as of a time at which they were good.
    pub(super) ignores_dates: bool,
}

/// Returns the time nearest to `now` at which a certificate is good.
///
/// # Errors
/// It is none.
fn within_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<UnixTime, Error> {
    let malformed = Error::InvalidCertificate(CertificateError::BadEncoding);
    let facts = certificate::facts(certificate).ok_or(malformed)?;
    let seconds = |date: i64| u64::try_from(date).unwrap_or_default();
    let (from, until) = (seconds(facts.not_before), seconds(facts.not_after));
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().min(until).max(from))))
}

impl ClientCertVerifier for ClientCertificates {
    fn offer_client_auth(&self) -> bool {
        self.web.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.web.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.web.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = if self.ignores_dates { within_dates(end_entity, now)? } else { now };
        if self.authorities.has_to_look_at(end_entity) {
            return self.authorities.verify(end_entity, now).map(|()| ClientCertVerified::assertion());
        }
        self.web.verify_client_cert(end_entity, intermediates, now)
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
        self.web.supported_verify_schemes()
    }
}
