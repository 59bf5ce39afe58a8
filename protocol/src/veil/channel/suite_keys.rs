//! One direction's keys in one phase, for whichever suite was chosen (VEIL-1 section 5.2).
//!
//! Key schedules are expanded once and kept; sealing and opening work in place and allocate
//! nothing. Invariant: the caller never uses a sequence number twice under the same keys.

use super::{
    aead::{self, Aead},
    cbc_hmac::{self, CbcHmac},
    kdf::Secret32,
};
use crate::veil::registry::Suite;
use alloc::{boxed::Box, vec::Vec};
use core::ops::Range;

/// The tag of a record: 32 bytes in suite 1, 16 in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTag {
    bytes: [u8; cbc_hmac::TAG_LEN],
    len: usize,
}

impl RecordTag {
    pub(super) fn new(tag: &[u8]) -> Self {
        let mut bytes = [0; cbc_hmac::TAG_LEN];
        bytes[..tag.len()].copy_from_slice(tag);
        Self { bytes, len: tag.len() }
    }
}

impl AsRef<[u8]> for RecordTag {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

pub(super) enum SuiteKeys {
    CbcHmac(Box<CbcHmac>),
    Aead(Aead),
}

impl SuiteKeys {
    /// Expands `ap_x` (VEIL-1 section 4.5).
    pub(super) fn new(suite: Suite, secret: &Secret32) -> Self {
        match suite {
            Suite::Aes256CbcHmacSha256 => Self::CbcHmac(Box::new(CbcHmac::new(secret))),
            Suite::Aes256Gcm => Self::Aead(Aead::aes_gcm(secret)),
            Suite::ChaCha20Poly1305 => Self::Aead(Aead::chacha(secret)),
        }
    }

    /// How many bytes of initialization vector stand before an encrypted body.
    pub(super) const fn iv_len(&self) -> usize {
        match self {
            Self::CbcHmac(_) => cbc_hmac::BLOCK_LEN,
            Self::Aead(_) => 0,
        }
    }

    pub(super) const fn tag_len(&self) -> usize {
        match self {
            Self::CbcHmac(_) => cbc_hmac::TAG_LEN,
            Self::Aead(_) => aead::TAG_LEN,
        }
    }

    /// What the length field of an encrypted record says for a body of `plain_len` bytes.
    pub(super) const fn encrypted_len(&self, plain_len: usize) -> usize {
        match self {
            Self::CbcHmac(_) => CbcHmac::encrypted_len(plain_len),
            Self::Aead(_) => plain_len + aead::TAG_LEN,
        }
    }

    /// `RecTag(hd, data)`, with `hd || data` in one piece.
    pub(super) fn tag(&self, sequence: u64, authenticated: &[u8]) -> RecordTag {
        match self {
            Self::CbcHmac(keys) => RecordTag::new(&keys.tag(sequence, authenticated)),
            Self::Aead(keys) => RecordTag::new(&keys.tag(sequence, authenticated)),
        }
    }

    pub(super) fn tag_matches(&self, sequence: u64, authenticated: &[u8], tag: &[u8]) -> bool {
        match self {
            Self::CbcHmac(keys) => keys.tag_matches(sequence, authenticated, tag),
            Self::Aead(keys) => keys.tag_matches(sequence, authenticated, tag),
        }
    }

    /// Encrypts the record that begins at `start` of `out`, with its header and room for the IV
    /// already in place, and appends the tag.
    pub(super) fn seal(&self, sequence: u64, out: &mut Vec<u8>, start: usize) {
        let tag = match self {
            Self::CbcHmac(keys) => keys.seal(sequence, out, start),
            Self::Aead(keys) => keys.seal(sequence, out, start),
        };
        out.extend_from_slice(tag.as_ref());
    }

    /// Verifies and decrypts a whole encrypted record in place; gives where its plaintext is.
    pub(super) fn open(&self, sequence: u64, record: &mut [u8]) -> Option<Range<usize>> {
        match self {
            Self::CbcHmac(keys) => keys.open(sequence, record),
            Self::Aead(keys) => keys.open(sequence, record),
        }
    }
}
