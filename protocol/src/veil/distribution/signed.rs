//! What the signed objects of key distribution have in common: fields, and the bytes they were read from.
//!
//! Invariant: the bytes end with the signature, and the fields are those of the bytes before it.

use alloc::vec::Vec;
use core::ops::Deref;

use crate::veil::layout::{LayoutError, Reader};

/// The length of a signature.
pub(super) const SIGNATURE_LEN: usize = 64;

/// A signed object as it travels: its fields, read through `Deref`, and its bytes. Nothing here has verified the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<F> {
    fields: F,
    bytes: Vec<u8>,
}

impl<F> Signed<F> {
    /// Keeps fields and the bytes they were read from, the signature included.
    pub(super) fn new(fields: F, bytes: &[u8]) -> Self {
        Self { fields, bytes: bytes.into() }
    }

    /// The object as it travels; of a KEYHEAD, without a bundle.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes the signature covers, and the signature.
    #[must_use]
    pub fn signed_parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.bytes.len().saturating_sub(SIGNATURE_LEN))
    }
}

impl<F> Deref for Signed<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.fields
    }
}

/// Passes over the signature.
pub(super) fn skip_signature(reader: &mut Reader<'_>) -> Result<(), LayoutError> {
    reader.take(SIGNATURE_LEN, "signature").map(drop)
}
