//! The private halves of a party's keys, and the identity they make with a certificate.
//!
//! Invariant: the keys of an [`Identity`] are those its certificate names.

use super::{kdf::Secret32, signature::kid};
use crate::veil::{
    registry::Kid,
    vmc::{Certificate, CertificateError, CertificateFields},
};
use ed25519_dalek::{Signer, SigningKey};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// An Ed25519 key that signs and a separate X25519 key that receives wrapped keys.
///
/// One is never converted into the other (VEIL-1 section 3).
#[derive(ZeroizeOnDrop)]
pub struct IdentityKeys {
    ed25519: SigningKey,
    x25519: StaticSecret,
}

impl IdentityKeys {
    /// The length of [`to_bytes`](Self::to_bytes).
    pub const LEN: usize = 64;

    /// Takes the Ed25519 seed (RFC 8032) and the X25519 scalar (RFC 7748), 32 random bytes each.
    #[must_use]
    pub fn from_seeds(ed25519: &[u8; 32], x25519: &[u8; 32]) -> Self {
        Self { ed25519: SigningKey::from_bytes(ed25519), x25519: StaticSecret::from(*x25519) }
    }

    /// Takes what [`to_bytes`](Self::to_bytes) gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut ed25519 = Zeroizing::new([0; 32]);
        let mut x25519 = Zeroizing::new([0; 32]);
        ed25519.copy_from_slice(&bytes[..32]);
        x25519.copy_from_slice(&bytes[32..]);
        Self::from_seeds(&ed25519, &x25519)
    }

    /// The seeds for storage: Ed25519, then X25519.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::LEN]> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        bytes[..32].copy_from_slice(self.ed25519.as_bytes());
        bytes[32..].copy_from_slice(self.x25519.as_bytes());
        bytes
    }

    /// The Ed25519 public key.
    #[must_use]
    pub fn ed25519_public(&self) -> [u8; 32] {
        self.ed25519.verifying_key().to_bytes()
    }

    /// The X25519 public key.
    #[must_use]
    pub fn x25519_public(&self) -> [u8; 32] {
        PublicKey::from(&self.x25519).to_bytes()
    }

    /// The X25519 scalar, for a key encapsulation mechanism that takes it as bytes.
    #[must_use]
    pub fn x25519_secret(&self) -> Secret32 {
        Secret32::new(self.x25519.as_bytes())
    }

    /// The key identifier of the Ed25519 key.
    #[must_use]
    pub fn kid(&self) -> Kid {
        kid(&self.ed25519_public())
    }

    pub(super) fn sign_bytes(&self, input: &[u8]) -> [u8; 64] {
        self.ed25519.sign(input).to_bytes()
    }

    fn belong_to(&self, fields: &CertificateFields) -> bool {
        fields.ed25519 == self.ed25519_public() && fields.x25519 == self.x25519_public()
    }
}

/// A party that can prove who it is: a certificate with its private keys.
pub struct Identity {
    certificate: Certificate,
    keys: IdentityKeys,
}

impl Identity {
    /// Joins a certificate with its keys.
    ///
    /// # Errors
    /// [`CertificateError::KeyMismatch`] when they do not belong together.
    pub fn new(certificate: Certificate, keys: IdentityKeys) -> Result<Self, CertificateError> {
        if keys.belong_to(&certificate) {
            Ok(Self { certificate, keys })
        } else {
            Err(CertificateError::KeyMismatch)
        }
    }

    /// The certificate, which is public.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The private keys.
    #[must_use]
    pub const fn keys(&self) -> &IdentityKeys {
        &self.keys
    }

    /// The key identifier of this party.
    #[must_use]
    pub fn kid(&self) -> Kid {
        self.keys.kid()
    }
}
