//! Suite 1 for records: AES-256-CBC, then HMAC-SHA-256, under separate keys (VEIL-1 section 5.2).
//!
//! The initialization vector is AES-256 of the record number under a key of its own: nobody without
//! that key can predict it, it does not repeat, and sealing needs no random numbers.

use super::{
    kdf::{Secret32, hmac_state},
    suite_keys::RecordTag,
};
use crate::veil::record::HEADER_LEN;
use aes::{
    Aes256,
    cipher::{
        Array, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit,
        block_padding::Pkcs7,
    },
};
use alloc::vec::Vec;
use core::ops::Range;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

pub(super) const BLOCK_LEN: usize = 16;
pub(super) const TAG_LEN: usize = 32;

pub(super) struct CbcHmac {
    cipher: Aes256,
    iv_cipher: Aes256,
    mac: Hmac<Sha256>,
}

impl CbcHmac {
    pub(super) fn new(secret: &Secret32) -> Self {
        let cipher = |label| Aes256::new(secret.derive(label, &[]).as_bytes().into());
        Self {
            cipher: cipher("key"),
            iv_cipher: cipher("cbc iv"),
            mac: hmac_state(secret.derive("mac", &[]).as_bytes()),
        }
    }

    /// IV, padded ciphertext and tag for a body of `plain_len` bytes.
    pub(super) const fn encrypted_len(plain_len: usize) -> usize {
        BLOCK_LEN + (plain_len / BLOCK_LEN + 1) * BLOCK_LEN + TAG_LEN
    }

    /// `HMAC(mac_x, u64 seq || hd || data)`.
    pub(super) fn tag(&self, sequence: u64, authenticated: &[u8]) -> [u8; TAG_LEN] {
        let mut mac = self.mac.clone();
        mac.update(&sequence.to_be_bytes());
        mac.update(authenticated);
        mac.finalize().into_bytes().into()
    }

    pub(super) fn tag_matches(&self, sequence: u64, authenticated: &[u8], tag: &[u8]) -> bool {
        self.tag(sequence, authenticated).ct_eq(tag).into()
    }

    /// Fills in the IV and pads and encrypts what follows it up to the end of `out`.
    pub(super) fn seal(&self, sequence: u64, out: &mut Vec<u8>, start: usize) -> RecordTag {
        let iv_at = start + HEADER_LEN;
        let plain_len = out.len() - iv_at - BLOCK_LEN;
        out.resize(out.len() + BLOCK_LEN - plain_len % BLOCK_LEN, 0);
        let (iv, body) = out[iv_at..].split_at_mut(BLOCK_LEN);
        iv.copy_from_slice(&self.iv(sequence));
        let mode = cbc::Encryptor::inner_iv_init(&self.cipher, &self.iv(sequence));
        mode.encrypt_padded::<Pkcs7>(body, plain_len).expect("the body has room for its padding");
        RecordTag::new(&self.tag(sequence, &out[start..]))
    }

    fn iv(&self, sequence: u64) -> Array<u8, aes::cipher::consts::U16> {
        let mut block = Array([0; BLOCK_LEN]);
        block[8..].copy_from_slice(&sequence.to_be_bytes());
        self.iv_cipher.encrypt_block(&mut block);
        block
    }

    /// Verifies, then decrypts; the padding is not looked at before the tag holds.
    pub(super) fn open(&self, sequence: u64, record: &mut [u8]) -> Option<Range<usize>> {
        let tag_at = record.len().checked_sub(TAG_LEN)?;
        let (authenticated, tag) = record.split_at_mut_checked(tag_at)?;
        if !self.tag_matches(sequence, authenticated, tag) {
            return None;
        }
        let (iv, body) = authenticated.get_mut(HEADER_LEN..)?.split_first_chunk_mut::<BLOCK_LEN>()?;
        let mode = cbc::Decryptor::inner_iv_init(&self.cipher, &Array(*iv));
        let plain_len = mode.decrypt_padded::<Pkcs7>(body).ok()?.len();
        let plain_at = HEADER_LEN + BLOCK_LEN;
        Some(plain_at..plain_at + plain_len)
    }
}
