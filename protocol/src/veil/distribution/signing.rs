//! Signing and verifying the objects of key distribution (VEIL-1 sections 3.2 and 9).
//!
//! Each signature has a label of its own and covers every byte before it. Verification holds the signer to its certificate:
//! who it is, what role it has, and which scopes it may speak for. Revocation comes with the anchors; what was seen before
//! (rollback) is the business of whoever keeps state.

use alloc::{collections::BTreeSet, vec::Vec};

use super::{
    Crl, CrlFields, DistributionError, JoinRequest, JoinRequestFields, KeyHead, KeyHeadFields, KeyHeadFlags,
    Prekey, PrekeyFields, SCOPE_HASH_LEN,
};
use crate::veil::{
    channel::{IdentityKeys, TrustAnchors, hash, sign, verify},
    registry::Kid,
    vmc::{CertificateError, Roles, scope_covers},
};

const HEAD: &str = "key head";
const PREKEY: &str = "prekey";
const CRL: &str = "crl";
const JOIN: &str = "join req";

/// First 4 bytes of `H("veil1 scope" || scope)`, the hint in envelopes and heads (VEIL-1 section 8.1).
#[must_use]
pub fn scope_tag(scope: &str) -> [u8; 4] {
    let [a, b, c, d, ..] = hash(&[b"veil1 scope", scope.as_bytes()]);
    [a, b, c, d]
}

/// First 8 bytes of `H("veil1 scope" || scope)`, which topics carry (VEIL-1 section 9).
#[must_use]
pub fn scope_hash(scope: &str) -> [u8; SCOPE_HASH_LEN] {
    let [a, b, c, d, e, f, g, h, ..] = hash(&[b"veil1 scope", scope.as_bytes()]);
    [a, b, c, d, e, f, g, h]
}

/// The Merkle root of a roster: leaves `H("veil1 leaf" || kid)` in ascending order, nodes `H("veil1 node" || left || right)`,
/// an odd one passed up as it is; 32 zero bytes for nobody.
#[must_use]
pub fn roster_root(members: &BTreeSet<Kid>) -> [u8; 32] {
    let mut level: Vec<[u8; 32]> = members.iter().map(|kid| hash(&[b"veil1 leaf", kid.as_bytes()])).collect();
    level.sort_unstable();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => hash(&[b"veil1 node", left, right]),
                odd => odd.first().copied().unwrap_or_default(),
            })
            .collect();
    }
    level.first().copied().unwrap_or_default()
}

impl KeyHeadFields {
    /// What the next epoch calls this one: `H("veil1 epoch" || kc || previous)`, the same for every re-issue.
    #[must_use]
    pub fn link(&self) -> [u8; 32] {
        hash(&[b"veil1 epoch", &self.commitment, &self.previous])
    }

    /// Signs this head.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn sign(&self, issuer: &IdentityKeys) -> Result<KeyHead, DistributionError> {
        KeyHead::parse(&signed(self.to_be_signed()?, HEAD, issuer)).map(|(head, _)| head)
    }
}

impl KeyHead {
    /// `H(KEYHEAD)`, which wraps are bound to.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        hash(&[self.as_bytes()])
    }

    /// Verifies who issued this head and that it may: certificate, role, scope and signature.
    ///
    /// `now_unix_seconds` is `None` only on a device without a clock.
    ///
    /// # Errors
    /// The first [`DistributionError`] in this order.
    pub fn verify(
        &self,
        anchors: &TrustAnchors,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), DistributionError> {
        if self.certificate.kid() != self.issuer {
            return Err(DistributionError::Value("issuer"));
        }
        if self.scope_tag != scope_tag(&self.scope) {
            return Err(DistributionError::Value("scope tag"));
        }
        let role = match self.flags.contains(KeyHeadFlags::AUTHORITY) {
            true => Roles::KEY_AUTHORITY,
            false => Roles::PUBLISHER,
        };
        anchors.verify(&self.certificate, role, None, now_unix_seconds)?;
        let scopes = &self.certificate.publish_scopes;
        if !scopes.is_empty() && !scopes.iter().any(|outer| scope_covers(outer, &self.scope)) {
            return Err(DistributionError::Scope);
        }
        check(self.signed_parts(), HEAD, &self.certificate.ed25519)
    }
}

impl PrekeyFields {
    /// Signs this prekey.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn sign(&self, member: &IdentityKeys) -> Result<Prekey, DistributionError> {
        Prekey::parse(&signed(self.to_be_signed()?, PREKEY, member))
    }
}

impl Prekey {
    /// Verifies whose prekey this is, and that it may still be used at `now_unix_ms`.
    ///
    /// # Errors
    /// The first [`DistributionError`]: certificate, signature, lifetime.
    pub fn verify(&self, anchors: &TrustAnchors, now_unix_ms: u64) -> Result<(), DistributionError> {
        anchors.verify(&self.certificate, Roles::CLIENT, None, Some(now_unix_ms / 1000))?;
        check(self.signed_parts(), PREKEY, &self.certificate.ed25519)?;
        if self.not_after_ms < now_unix_ms { Err(DistributionError::Value("not after")) } else { Ok(()) }
    }
}

impl CrlFields {
    /// Signs this list.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn sign(&self, authority: &IdentityKeys) -> Result<Crl, DistributionError> {
        Crl::parse(&signed(self.to_be_signed()?, CRL, authority))
    }
}

impl Crl {
    /// Verifies that one of `anchors`, an authority, made this list.
    ///
    /// # Errors
    /// [`DistributionError::Certificate`] or [`DistributionError::Signature`].
    pub fn verify(&self, anchors: &TrustAnchors) -> Result<(), DistributionError> {
        let kid = self.issuer.kid();
        let anchor = anchors.get(kid).ok_or(CertificateError::UnknownIssuer(kid))?;
        if !anchor.roles.contains(Roles::CA) {
            return Err(CertificateError::IssuerNotCa(kid).into());
        }
        if anchors.is_revoked(anchor) {
            return Err(CertificateError::Revoked { issuer: anchor.issuer(), serial: anchor.serial }.into());
        }
        check(self.signed_parts(), CRL, &anchor.ed25519)
    }
}

impl JoinRequestFields {
    /// Signs this request.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn sign(&self, member: &IdentityKeys) -> Result<JoinRequest, DistributionError> {
        JoinRequest::parse(&signed(self.to_be_signed()?, JOIN, member))
    }
}

impl JoinRequest {
    /// Verifies who asks.
    ///
    /// # Errors
    /// [`DistributionError::Certificate`] or [`DistributionError::Signature`].
    pub fn verify(
        &self,
        anchors: &TrustAnchors,
        now_unix_seconds: Option<u64>,
    ) -> Result<(), DistributionError> {
        anchors.verify(&self.certificate, Roles::CLIENT, None, now_unix_seconds)?;
        check(self.signed_parts(), JOIN, &self.certificate.ed25519)
    }
}

fn signed(mut bytes: Vec<u8>, label: &str, keys: &IdentityKeys) -> Vec<u8> {
    let signature = sign(keys, label, &hash(&[&bytes]));
    bytes.extend_from_slice(&signature);
    bytes
}

fn check(
    (signed, signature): (&[u8], &[u8]),
    label: &str,
    ed25519: &[u8; 32],
) -> Result<(), DistributionError> {
    verify(label, &hash(&[signed]), ed25519, signature).map_err(|_| DistributionError::Signature)
}
