//! Signing certificates, and deciding which ones to believe (VEIL-1 section 3.1).
//!
//! Owns the set of CAs and pinned certificates a party holds, and what they have revoked.
//! Invariant: every issuing CA in the set was signed by a root in the set, and every certificate
//! in the set carries a verified signature.

use super::{
    identity::IdentityKeys,
    kdf::hash,
    signature::{self, kid},
};
use crate::veil::{
    registry::Kid,
    vmc::{Certificate, CertificateError, CertificateFields, Roles},
};
use alloc::collections::{BTreeMap, BTreeSet};

const LABEL: &str = "cert";

impl CertificateFields {
    /// Issues a certificate that says this, signed by `issuer`.
    ///
    /// # Errors
    /// A [`CertificateError`] about shape; the issuer's own rights are not looked at here.
    pub fn sign(&self, issuer: &IdentityKeys) -> Result<Certificate, CertificateError> {
        let mut bytes = self.to_be_signed(issuer.kid())?;
        let signature = signature::sign(issuer, LABEL, &hash(&[&bytes]));
        bytes.extend_from_slice(&signature);
        Certificate::parse(&bytes)
    }
}

impl Certificate {
    /// The key identifier of the subject.
    #[must_use]
    pub fn kid(&self) -> Kid {
        kid(&self.ed25519)
    }

    /// Verifies this certificate against the certificate of its issuer: the issuer's name, its CA
    /// role, validity and signature. A self-signed certificate is its own issuer and needs no CA
    /// role. `now_unix_seconds` is `None` only on a device without a clock.
    ///
    /// # Errors
    /// The first [`CertificateError`] in the order of VEIL-1 section 3.1.
    pub fn verify(&self, issuer: &Self, now_unix_seconds: Option<u64>) -> Result<(), CertificateError> {
        let given = issuer.kid();
        if self.issuer() != given {
            let named = self.issuer();
            return Err(CertificateError::WrongIssuer { named, given });
        }
        if self != issuer && !issuer.roles.contains(Roles::CA) {
            return Err(CertificateError::IssuerNotCa(given));
        }
        self.verify_validity(now_unix_seconds)?;
        let (signed, signature) = self.signed_parts();
        signature::verify(LABEL, &hash(&[signed]), &issuer.ed25519, signature)
            .map_err(|_| CertificateError::Signature)
    }

    /// Checks the validity period alone.
    ///
    /// # Errors
    /// [`CertificateError::NotYetValid`] or [`CertificateError::Expired`].
    pub fn verify_validity(&self, now_unix_seconds: Option<u64>) -> Result<(), CertificateError> {
        match now_unix_seconds {
            Some(now) if now < self.not_before => Err(CertificateError::NotYetValid),
            Some(now) if now > self.not_after => Err(CertificateError::Expired),
            Some(_) | None => Ok(()),
        }
    }

    fn is_self_signed(&self) -> bool {
        self.issuer() == self.kid()
    }
}

/// The CAs and pinned certificates a party believes, and the revocations it knows of.
///
/// Chain depth is at most two above the leaf: a root and an issuing CA (VEIL-1 section 3.1).
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    anchors: BTreeMap<Kid, Certificate>,
    revoked: BTreeSet<(Kid, u64)>,
}

impl TrustAnchors {
    /// Trusts nobody.
    #[must_use]
    pub const fn new() -> Self {
        Self { anchors: BTreeMap::new(), revoked: BTreeSet::new() }
    }

    /// Adds a self-signed certificate (a root CA, or a pinned party), or an issuing CA signed by a
    /// root that is already here. Validity is checked at each use, not now.
    ///
    /// # Errors
    /// A [`CertificateError`] when the signature fails, the issuer is unknown or no root, or the
    /// root's path length forbids an issuing CA.
    pub fn add(&mut self, certificate: Certificate) -> Result<Kid, CertificateError> {
        let kid = certificate.kid();
        if certificate.is_self_signed() {
            certificate.verify(&certificate, None)?;
        } else {
            self.check_issuing_ca(&certificate)?;
        }
        self.anchors.insert(kid, certificate);
        Ok(kid)
    }

    fn check_issuing_ca(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let root = self.root_of(certificate)?;
        if !certificate.roles.contains(Roles::CA) {
            return Err(CertificateError::IssuerNotCa(certificate.kid()));
        }
        certificate.verify(root, None)
    }

    /// Returns the root that vouches for an issuing CA.
    fn root_of(&self, issuing_ca: &Certificate) -> Result<&Certificate, CertificateError> {
        let root = self.issuer_of(issuing_ca)?;
        if !root.is_self_signed() || root.path_length == Some(0) {
            return Err(CertificateError::PathLength(root.kid()));
        }
        Ok(root)
    }

    fn issuer_of(&self, certificate: &Certificate) -> Result<&Certificate, CertificateError> {
        let issuer = certificate.issuer();
        self.anchors.get(&issuer).ok_or(CertificateError::UnknownIssuer(issuer))
    }

    /// Stops trusting `kid`, and with a root every issuing CA below it.
    pub fn remove(&mut self, kid: Kid) -> Option<Certificate> {
        let removed = self.anchors.remove(&kid);
        self.anchors.retain(|_, anchor| anchor.is_self_signed() || anchor.issuer() != kid);
        removed
    }

    /// The trusted certificate with this key identifier.
    #[must_use]
    pub fn get(&self, kid: Kid) -> Option<&Certificate> {
        self.anchors.get(&kid)
    }

    /// Every trusted certificate, in the order of key identifiers.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.anchors.values()
    }

    /// Remembers that `issuer` has revoked its certificate number `serial`.
    pub fn revoke(&mut self, issuer: Kid, serial: u64) {
        self.revoked.insert((issuer, serial));
    }

    /// Whether `certificate` was revoked by its issuer.
    #[must_use]
    pub fn is_revoked(&self, certificate: &Certificate) -> bool {
        self.revoked.contains(&(certificate.issuer(), certificate.serial))
    }

    /// Whether a certificate that was verified earlier still counts: its issuer is trusted, and neither it nor an authority above
    /// it was revoked since. Validity is not looked at.
    #[must_use]
    pub fn vouch_for(&self, issuer: Kid, serial: u64) -> bool {
        let Some(anchor) = self.anchors.get(&issuer) else { return false };
        !self.revoked.contains(&(issuer, serial)) && self.verify_anchor(anchor, None).is_ok()
    }

    /// Verifies `leaf` for a protocol step that needs any one of the roles in `needed`, presented
    /// by the party called `expected_subject` if the caller knows the name.
    ///
    /// `now_unix_seconds` is `None` only on a device without a clock.
    ///
    /// # Errors
    /// The first [`CertificateError`] in the order of VEIL-1 section 3.1: issuer, validity,
    /// signature, role, revocation, subject. An issuing CA is held to the same rules.
    pub fn verify(
        &self,
        leaf: &Certificate,
        needed: Roles,
        expected_subject: Option<&str>,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), CertificateError> {
        let issuer = self.issuer_of(leaf)?;
        leaf.verify(issuer, now_unix_seconds)?;
        self.check_standing(leaf, issuer, needed, expected_subject, now_unix_seconds)
    }

    /// Verifies once more a `leaf` that [`verify`](Self::verify) accepted earlier, all but its signature, which does not change
    /// with time.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub(super) fn recheck(
        &self,
        leaf: &Certificate,
        needed: Roles,
        expected_subject: Option<&str>,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), CertificateError> {
        let issuer = self.issuer_of(leaf)?;
        leaf.verify_validity(now_unix_seconds)?;
        self.check_standing(leaf, issuer, needed, expected_subject, now_unix_seconds)
    }

    fn check_standing(
        &self,
        leaf: &Certificate,
        issuer: &Certificate,
        needed: Roles,
        expected_subject: Option<&str>,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), CertificateError> {
        self.verify_anchor(issuer, now_unix_seconds)?;
        if !leaf.roles.intersects(needed) {
            return Err(CertificateError::Role { needed });
        }
        self.check_revocation(leaf)?;
        match expected_subject {
            Some(name) if name != leaf.subject => Err(CertificateError::WrongSubject),
            Some(_) | None => Ok(()),
        }
    }

    /// The signatures of anchors were verified when they were added; time and revocation move on, and a root may have been
    /// replaced by one that allows less.
    fn verify_anchor(
        &self,
        anchor: &Certificate,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), CertificateError> {
        anchor.verify_validity(now_unix_seconds)?;
        self.check_revocation(anchor)?;
        if anchor.is_self_signed() {
            return Ok(());
        }
        let root = self.root_of(anchor)?;
        if !root.roles.contains(Roles::CA) {
            return Err(CertificateError::IssuerNotCa(root.kid()));
        }
        root.verify_validity(now_unix_seconds)?;
        self.check_revocation(root)
    }

    fn check_revocation(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        if self.is_revoked(certificate) {
            let issuer = certificate.issuer();
            let serial = certificate.serial;
            return Err(CertificateError::Revoked { issuer, serial });
        }
        Ok(())
    }
}
