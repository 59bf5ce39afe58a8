//! The senders a receiver knows: certificates by key identifier, and which of them were revoked.
//!
//! Invariant: a certificate enters only pinned by the operator or verified under a trust anchor, so the per
//! message check needs no signature.

use std::collections::{BTreeMap, BTreeSet};

use veilmq_protocol::{
    TopicName,
    veil::{
        Certificate, CertificateError, Kid, Roles, channel::TrustAnchors, distribution::RevocationReason,
    },
};

use super::{config::SenderPolicy, error::OpenError, scope::filter_contains};

/// Certificates of senders.
///
/// ```
/// use veilmq_client::e2e::Directory;
///
/// let mut directory = Directory::default();
/// let stolen = "9de50bb148ef83cd".parse().unwrap();
/// directory.revoke(stolen);
/// assert!(directory.is_revoked(stolen));
/// ```
#[derive(Default)]
pub struct Directory {
    certificates: BTreeMap<Kid, Certificate>,
    /// Those that `anchors` vouched for, and the operator did not name.
    introduced: BTreeSet<Kid>,
    revoked: BTreeSet<Kid>,
    /// Whose certificate an authority has revoked, until they have shown another.
    withdrawn: BTreeSet<Kid>,
}

impl Directory {
    /// Adds a certificate because the operator says so; its signature is not looked at.
    pub fn pin(&mut self, certificate: Certificate) -> Kid {
        let kid = certificate.kid();
        self.withdrawn.remove(&kid);
        self.certificates.insert(kid, certificate);
        kid
    }

    /// Adds a publisher's certificate if `anchors` vouch for it.
    ///
    /// # Errors
    /// The [`CertificateError`] that `anchors` found.
    pub fn introduce(
        &mut self,
        certificate: Certificate,
        anchors: &TrustAnchors,
        now_unix_ms: u64,
    ) -> Result<Kid, CertificateError> {
        let now_unix_seconds = Some(now_unix_ms / 1000);
        anchors.verify(&certificate, Roles::PUBLISHER, None, now_unix_seconds)?;
        let kid = certificate.kid();
        let known = self.certificates.get(&kid).filter(|_| !self.is_revoked(kid));
        let is_older = known.is_some_and(|known| {
            certificate.not_before < known.not_before && known.verify_validity(now_unix_seconds).is_ok()
        });
        // Whoever keeps an object with an earlier certificate brings back nothing that it allowed.
        Ok(if is_older { kid } else { self.reintroduce(certificate) })
    }

    /// Adds a certificate that was introduced before and kept where nobody else can write.
    pub(super) fn reintroduce(&mut self, certificate: Certificate) -> Kid {
        let is_named = self.certificates.contains_key(&certificate.kid());
        let kid = self.pin(certificate);
        if !is_named {
            self.introduced.insert(kid);
        }
        kid
    }

    /// The certificates that were introduced.
    pub(super) fn introduced(&self) -> impl Iterator<Item = &Certificate> {
        self.introduced.iter().filter_map(|kid| self.certificates.get(kid))
    }

    /// Returns the certificate of `kid`.
    pub fn certificate(&self, kid: Kid) -> Option<&Certificate> {
        self.certificates.get(&kid)
    }

    /// Believes no certificate any more for which there is a reason. One that was superseded is forgotten, for its holder has
    /// another; the holder of any other is refused until it shows one that counts.
    pub(super) fn heed(&mut self, reason: impl Fn(&Certificate) -> Option<RevocationReason>) {
        let Self { certificates, withdrawn, .. } = self;
        certificates.retain(|kid, certificate| match reason(certificate) {
            None => true,
            Some(RevocationReason::Superseded) => false,
            Some(
                RevocationReason::Unspecified
                | RevocationReason::KeyCompromise
                | RevocationReason::CessationOfOperation
                | RevocationReason::PrivilegeWithdrawn,
            ) => {
                withdrawn.insert(*kid);
                true
            }
        });
    }

    /// Refuses everything from `kid` from now on.
    pub fn revoke(&mut self, kid: Kid) {
        self.revoked.insert(kid);
    }

    /// Returns whether `kid` was revoked, here or by the authority that has certified it.
    pub fn is_revoked(&self, kid: Kid) -> bool {
        self.revoked.contains(&kid) || self.withdrawn.contains(&kid)
    }

    /// Decides what can be decided of `sender` without a topic.
    pub(super) fn check_unrevoked(&self, sender: Kid) -> Result<(), OpenError> {
        if self.is_revoked(sender) { Err(OpenError::SenderRevoked(sender)) } else { Ok(()) }
    }

    /// Decides whether `policy` lets `sender` publish to `topic` now (VEIL-1 section 12.1, step 5).
    ///
    /// A signed message needs a certificate whatever the policy: a signature by a key that is expired, or not
    /// for this topic, proves nothing.
    pub(super) fn check(
        &self,
        policy: &SenderPolicy,
        sender: Kid,
        signed: bool,
        topic: TopicName<'_>,
        now_unix_ms: u64,
    ) -> Result<(), OpenError> {
        self.check_unrevoked(sender)?;
        let listed = match policy {
            SenderPolicy::AnyMember if !signed => return Ok(()),
            SenderPolicy::AnyMember | SenderPolicy::Known => true,
            SenderPolicy::Listed(kids) => kids.contains(&sender),
        };
        let known = self.certificate(sender).filter(|_| listed).ok_or(OpenError::UnknownSender(sender))?;
        let valid = known.verify_validity(Some(now_unix_ms / 1000)).is_ok();
        if valid && known.roles.contains(Roles::PUBLISHER) && may_publish(known, topic) {
            Ok(())
        } else {
            Err(OpenError::UnknownSender(sender))
        }
    }
}

/// A certificate without publish scopes does not restrict its subject.
fn may_publish(certificate: &Certificate, topic: TopicName<'_>) -> bool {
    let scopes = &certificate.publish_scopes;
    scopes.is_empty() || scopes.iter().any(|scope| filter_contains(scope, topic))
}
