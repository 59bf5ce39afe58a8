//! Certificates that people make with one line of OpenSSL and that the rules of the web leave out: X.509 version 1, an authority's own
//! certificate shown by a server, and a name in the subject alone. Mosquitto takes them, and so they are taken here.
//!
//! Everything else is verified by webpki. Invariant: whoever is let in holds the private key of a certificate which is good today,
//! is not revoked, and either is itself in the file of authorities or is signed by one of those, with no certificate between them.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::{AlgorithmIdentifier, FromDer};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::certificate;

/// Whom a peer may have its certificate from.
#[derive(Debug)]
pub(crate) struct Authorities {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// What they have revoked; None if nothing is looked at.
    pub(crate) revocations: Option<Vec<CertificateRevocationListDer<'static>>>,
}

impl Authorities {
    /// Tells whether a certificate is one that webpki takes from nobody.
    pub(crate) fn has_to_look_at(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|own| own.as_ref() == certificate.as_ref()) || is_version_1(certificate)
    }

    /// Verifies such a certificate.
    ///
    /// # Errors
    /// What is wrong with it, in the words of rustls.
    pub(crate) fn verify(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let shown = parse(certificate)?;
        check_dates(&shown, now)?;
        if self.certificates.iter().any(|own| own.as_ref() == certificate.as_ref()) {
            return self.check_not_revoked(&shown, &shown);
        }
        let authorities = self.certificates.iter().filter_map(|authority| parse(authority).ok());
        let issuer = authorities
            .filter(|authority| authority.subject() == shown.issuer() && may_issue(authority))
            .find(|authority| {
                is_strong(&shown.signature_algorithm)
                    && shown.verify_signature(Some(authority.public_key())).is_ok()
            })
            .ok_or(CertificateError::UnknownIssuer)?;
        check_dates(&issuer, now)?;
        self.check_not_revoked(&shown, &issuer)
    }

    fn check_not_revoked(
        &self,
        shown: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
    ) -> Result<(), Error> {
        let Some(revocations) = &self.revocations else { return Ok(()) };
        let mut is_known = false;
        for der in revocations {
            let Ok((_, list)) = CertificateRevocationList::from_der(der) else { continue };
            if list.issuer() != shown.issuer()
                || !is_strong(&list.signature_algorithm)
                || list.verify_signature(issuer.public_key()).is_err()
            {
                continue;
            }
            is_known = true;
            if list.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == shown.raw_serial()) {
                return Err(CertificateError::Revoked.into());
            }
        }
        // As for every other certificate: where lists are looked at, there has to be one.
        if is_known { Ok(()) } else { Err(CertificateError::UnknownRevocationStatus.into()) }
    }
}

/// Tells whether a certificate is of the first version of X.509, which has no extensions.
pub(crate) fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|certificate| certificate.version() == X509Version::V1)
}

/// Tells whether a certificate is for a server of this name: by its alternative names, or by its common name if it has none.
pub(crate) fn is_for_server(certificate: &CertificateDer<'_>, server: &ServerName<'_>) -> bool {
    let Ok(parsed) = parse(certificate) else { return false };
    let host = server.to_str();
    let is_named = |name: &str| certificate::is_for(name, &host);
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    match alternatives.map(|extension| &extension.value.general_names) {
        Some(names) => names.iter().any(|name| match (name, server) {
            (GeneralName::DNSName(name), ServerName::DnsName(_)) => is_named(name),
            (GeneralName::IPAddress(bytes), ServerName::IpAddress(address)) => is_address(bytes, address),
            _ => false,
        }),
        None => certificate::common_name(certificate).is_ok_and(|name| is_named(&name)),
    }
}

fn is_address(bytes: &[u8], address: &rustls::pki_types::IpAddr) -> bool {
    use rustls::pki_types::IpAddr;
    match address {
        IpAddr::V4(address) => address.as_ref() == bytes,
        IpAddr::V6(address) => address.as_ref() == bytes,
    }
}

/// Verifies the signature of TLS 1.2 that proves who holds the key of a certificate.
///
/// # Errors
/// The signature is another's, or of a scheme that is not allowed.
pub(crate) fn verify_tls12_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !is_version_1(certificate) {
        return rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms);
    }
    let parsed = parse(certificate)?;
    let bits: &[u8] = &parsed.public_key().subject_public_key.data;
    let scheme = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
    let (_, allowed) = scheme.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let mut verified =
        allowed.iter().map(|algorithm| algorithm.verify_signature(bits, message, signature.signature()));
    match verified.any(|verified| verified.is_ok()) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}

/// Verifies the signature of TLS 1.3 that proves who holds the key of a certificate.
///
/// # Errors
/// As [`verify_tls12_signature`].
pub(crate) fn verify_tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !is_version_1(certificate) {
        return rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms);
    }
    let parsed = parse(certificate)?;
    let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

fn check_dates(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Of version 3, an authority says that it is one; of version 1 none can.
fn may_issue(authority: &X509Certificate<'_>) -> bool {
    authority.version() == X509Version::V1
        || authority.basic_constraints().ok().flatten().is_some_and(|extension| extension.value.ca)
}

/// Collisions of SHA-1 can be made.
fn is_strong(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    ![OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(&algorithm.algorithm)
}
