//! SHA-256, HMAC and HKDF in the shapes VEIL-1 section 2 uses them in.

use alloc::boxed::Box;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The prefix that keeps our labels apart from those of any other protocol.
const LABEL_PREFIX: &[u8] = b"veil1 ";

/// A secret of 32 bytes: zeroized on drop, compared in constant time, never printed.
pub struct Secret32(Box<[u8; 32]>);

impl Secret32 {
    /// Copies the secret from `bytes`, which the caller should zeroize.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(Box::new(*bytes))
    }

    /// Takes 32 bytes from `entropy`, which fills a slice with random bytes.
    #[must_use]
    pub fn generate(entropy: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut secret = Self(Box::new([0; 32]));
        entropy(secret.0.as_mut_slice());
        secret
    }

    /// The bytes; do not copy them without need.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A new secret of its own for `label` and `ctx`: [`derive()`] with `L` = 32.
    #[must_use]
    pub fn derive(&self, label: &str, ctx: &[u8]) -> Self {
        let mut out = Self(Box::new([0; 32]));
        derive(&self.0, label, ctx, out.0.as_mut_slice());
        out
    }
}

impl Drop for Secret32 {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl zeroize::ZeroizeOnDrop for Secret32 {}

impl PartialEq for Secret32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Secret32 {}

/// `H(parts[0] || parts[1] || ...)`, with `H` = SHA-256.
#[must_use]
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Sha256::new();
    for part in parts {
        state.update(part);
    }
    state.finalize().into()
}

/// HMAC-SHA-256 over the concatenated parts (RFC 2104).
#[must_use]
pub fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut state = hmac_state(key);
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

/// A keyed HMAC-SHA-256, ready to be cloned for each message.
pub(super) fn hmac_state(key: &[u8; 32]) -> Hmac<Sha256> {
    KeyInit::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// HKDF-Extract with SHA-256 (RFC 5869 section 2.2); an empty salt means 32 zero bytes.
#[must_use]
pub fn extract(salt: &[u8], ikm: &[u8]) -> Secret32 {
    let (mut output, _) = Hkdf::<Sha256>::extract(Some(salt), ikm);
    let mut secret = Secret32(Box::new([0; 32]));
    secret.0.copy_from_slice(&output);
    output.as_mut_slice().zeroize();
    secret
}

/// `Derive(secret, label, ctx, L)` of VEIL-1 section 2, where `L` is the length of `out`:
/// `HKDF-Expand(secret, u16(L) || v8("veil1 " || label) || v8(ctx), L)`.
///
/// # Panics
/// When the label is above 249 bytes, `ctx` above 255, or `out` above 8,160: errors of the caller,
/// never of received data.
pub fn derive(secret: &[u8; 32], label: &str, ctx: &[u8], out: &mut [u8]) {
    let len = u16::try_from(out.len()).expect("derived keys are at most 8,160 bytes");
    let label_len = u8::try_from(LABEL_PREFIX.len() + label.len()).expect("labels are short");
    let ctx_len = u8::try_from(ctx.len()).expect("contexts are at most 255 bytes");
    Hkdf::<Sha256>::from_prk(secret)
        .expect("32 bytes are a pseudorandom key for SHA-256")
        .expand_multi_info(
            &[&len.to_be_bytes(), &[label_len], LABEL_PREFIX, label.as_bytes(), &[ctx_len], ctx],
            out,
        )
        .expect("derived keys are at most 8,160 bytes");
}
