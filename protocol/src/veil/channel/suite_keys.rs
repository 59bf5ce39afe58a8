//! The keys of one direction or group, for whichever suite was chosen (VEIL-1 sections 5.2, 6.3).
//!
//! Key schedules are expanded once and kept; sealing and opening work in place and allocate
//! nothing. Invariant: the caller never uses a sequence number twice under the same keys.

use super::{
    aead::{self, Aead},
    cbc_hmac::{self, CbcHmac},
    kdf::Secret32,
    operations::Tally,
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

/// The labels and the context that keys for one purpose are derived under.
pub(super) struct Purpose<'a> {
    pub(super) key: &'static str,
    pub(super) iv: &'static str,
    pub(super) mac: &'static str,
    pub(super) cbc_iv: &'static str,
    pub(super) context: &'a [u8],
}

impl Purpose<'static> {
    /// Records of one direction, from `ap_x` (VEIL-1 section 4.5).
    pub(super) const RECORDS: Self =
        Self { key: "key", iv: "iv", mac: "mac", cbc_iv: "cbc iv", context: &[] };
}

impl<'a> Purpose<'a> {
    /// FAN-GE, from a broker group key (VEIL-1 section 6.3); `context` is gid and epoch.
    pub(super) const fn group(context: &'a [u8]) -> Self {
        Self { key: "g key", iv: "g iv", mac: "g cbc mac", cbc_iv: "g cbc iv", context }
    }
}

/// The keys of one purpose, which count what is done with them.
pub(super) struct SuiteKeys {
    keys: Keys,
    pub(super) tally: Tally,
}

enum Keys {
    CbcHmac(Box<CbcHmac>),
    Aead(Aead),
}

impl SuiteKeys {
    pub(super) fn new(suite: Suite, secret: &Secret32, purpose: &Purpose<'_>) -> Self {
        let keys = match suite {
            Suite::Aes256CbcHmacSha256 => Keys::CbcHmac(Box::new(CbcHmac::new(secret, purpose))),
            Suite::Aes256Gcm => Keys::Aead(Aead::aes_gcm(secret, purpose)),
            Suite::ChaCha20Poly1305 => Keys::Aead(Aead::chacha(secret, purpose)),
        };
        Self { keys, tally: Tally::default() }
    }

    /// How many bytes of initialization vector stand before an encrypted body.
    pub(super) const fn iv_len(&self) -> usize {
        match &self.keys {
            Keys::CbcHmac(_) => cbc_hmac::BLOCK_LEN,
            Keys::Aead(_) => 0,
        }
    }

    pub(super) const fn tag_len(&self) -> usize {
        match &self.keys {
            Keys::CbcHmac(_) => cbc_hmac::TAG_LEN,
            Keys::Aead(_) => aead::TAG_LEN,
        }
    }

    /// What the length field of an encrypted record says for a body of `plain_len` bytes.
    pub(super) const fn encrypted_len(&self, plain_len: usize) -> usize {
        match &self.keys {
            Keys::CbcHmac(_) => CbcHmac::encrypted_len(plain_len),
            Keys::Aead(_) => plain_len + aead::TAG_LEN,
        }
    }

    /// `RecTag(hd, data)` over a whole record, with `hd || data` in one piece.
    pub(super) fn tag(&self, sequence: u64, authenticated: &[u8]) -> RecordTag {
        self.tally.mac();
        self.make_tag(sequence, authenticated)
    }

    /// The same over the digest of a message in place of the message.
    pub(super) fn digest_tag(&self, sequence: u64, authenticated: &[u8]) -> RecordTag {
        self.tally.digest_tag();
        self.make_tag(sequence, authenticated)
    }

    fn make_tag(&self, sequence: u64, authenticated: &[u8]) -> RecordTag {
        match &self.keys {
            Keys::CbcHmac(keys) => RecordTag::new(&keys.tag(sequence, authenticated)),
            Keys::Aead(keys) => RecordTag::new(&keys.tag(sequence, authenticated)),
        }
    }

    /// Verifies what [`tag`](Self::tag) makes.
    pub(super) fn tag_matches(&self, sequence: u64, authenticated: &[u8], tag: &[u8]) -> bool {
        self.tally.mac();
        self.verify_tag(sequence, authenticated, tag)
    }

    /// Verifies what [`digest_tag`](Self::digest_tag) makes.
    pub(super) fn digest_tag_matches(&self, sequence: u64, authenticated: &[u8], tag: &[u8]) -> bool {
        self.tally.digest_tag();
        self.verify_tag(sequence, authenticated, tag)
    }

    fn verify_tag(&self, sequence: u64, authenticated: &[u8], tag: &[u8]) -> bool {
        match &self.keys {
            Keys::CbcHmac(keys) => keys.tag_matches(sequence, authenticated, tag),
            Keys::Aead(keys) => keys.tag_matches(sequence, authenticated, tag),
        }
    }

    /// Encrypts what stands after `clear_len` bytes from `start` of `out` and after room for the IV,
    /// authenticates the clear bytes with it, and appends the tag.
    pub(super) fn seal(&self, sequence: u64, out: &mut Vec<u8>, start: usize, clear_len: usize) {
        self.tally.sealed();
        let tag = match &self.keys {
            Keys::CbcHmac(keys) => RecordTag::new(&keys.seal(sequence, out, start, clear_len)),
            Keys::Aead(keys) => RecordTag::new(&keys.seal(sequence, &mut out[start..], clear_len)),
        };
        out.extend_from_slice(tag.as_ref());
    }

    /// Verifies and decrypts in place what [`seal`](Self::seal) made; gives where the plaintext is.
    pub(super) fn open(&self, sequence: u64, sealed: &mut [u8], clear_len: usize) -> Option<Range<usize>> {
        self.tally.sealed();
        match &self.keys {
            Keys::CbcHmac(keys) => keys.open(sequence, sealed, clear_len),
            Keys::Aead(keys) => keys.open(sequence, sealed, clear_len),
        }
    }
}
