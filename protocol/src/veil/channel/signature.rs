//! Ed25519 under the domain separation of VEIL-1 section 2.
//!
//! Signs and verifies digests only, each under a label, so that a signature made for one purpose
//! is worthless for another. Verification is strict: non-canonical `S` and small-order points fail.

use super::{identity::IdentityKeys, kdf::hash};
use crate::veil::registry::Kid;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, VerifyingKey};

/// The public key is not one, or the signature is not by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct SignatureError;

/// `first 8 bytes of H("veil1 kid" || ed25519_pub)` (VEIL-1 section 3).
#[must_use]
pub fn kid(ed25519_public: &[u8; 32]) -> Kid {
    let [a, b, c, d, e, f, g, h, ..] = hash(&[b"veil1 kid", ed25519_public]);
    Kid::from_bytes([a, b, c, d, e, f, g, h])
}

/// `SigInput(label, digest)`: 64 spaces, our prefix, the label, a zero byte, the digest.
fn input(label: &str, digest: &[u8; 32]) -> Vec<u8> {
    let mut input = Vec::with_capacity(64 + 6 + label.len() + 1 + 32);
    input.resize(64, b' ');
    input.extend_from_slice(b"veil1 ");
    input.extend_from_slice(label.as_bytes());
    input.push(0);
    input.extend_from_slice(digest);
    input
}

/// `Sign(sk, label, digest)` of VEIL-1 section 2.
#[must_use]
pub fn sign(keys: &IdentityKeys, label: &str, digest: &[u8; 32]) -> [u8; 64] {
    keys.sign_bytes(&input(label, digest))
}

/// Verifies what [`sign`] makes, strictly.
///
/// # Errors
/// [`SignatureError`] for any cause: a malformed or small-order key, a non-canonical or wrong
/// signature, a signature of another length.
pub fn verify(
    label: &str,
    digest: &[u8; 32],
    ed25519_public: &[u8; 32],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(ed25519_public).map_err(|_| SignatureError)?;
    let signature = Signature::from_slice(signature).map_err(|_| SignatureError)?;
    key.verify_strict(&input(label, digest), &signature).map_err(|_| SignatureError)
}
