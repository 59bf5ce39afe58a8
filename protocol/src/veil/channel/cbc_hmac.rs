//! Suite 1: AES-256-CBC, then HMAC-SHA-256, under separate keys (VEIL-1 section 5.2).
//!
//! The initialization vector is AES-256 of the record number under a key of its own: nobody without
//! that key can predict it, it does not repeat, and sealing needs no random numbers.

use super::{
    kdf::{Secret32, hmac_state},
    suite_keys::Purpose,
};
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
    pub(super) fn new(secret: &Secret32, purpose: &Purpose<'_>) -> Self {
        let derived = |label| secret.derive(label, purpose.context);
        Self {
            cipher: Aes256::new(derived(purpose.key).as_bytes().into()),
            iv_cipher: Aes256::new(derived(purpose.cbc_iv).as_bytes().into()),
            mac: hmac_state(derived(purpose.mac).as_bytes()),
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

    /// Fills in the IV, pads and encrypts what follows it up to the end of `out`, and gives the tag.
    pub(super) fn seal(
        &self,
        sequence: u64,
        out: &mut Vec<u8>,
        start: usize,
        clear_len: usize,
    ) -> [u8; TAG_LEN] {
        let iv_at = start + clear_len;
        let plain_len = out.len() - iv_at - BLOCK_LEN;
        out.resize(out.len() + BLOCK_LEN - plain_len % BLOCK_LEN, 0);
        let (iv, body) = out[iv_at..].split_at_mut(BLOCK_LEN);
        let unpredictable = self.iv(sequence);
        iv.copy_from_slice(&unpredictable);
        let mode = cbc::Encryptor::inner_iv_init(&self.cipher, &unpredictable);
        mode.encrypt_padded::<Pkcs7>(body, plain_len).expect("the body has room for its padding");
        self.tag(sequence, &out[start..])
    }

    fn iv(&self, sequence: u64) -> Array<u8, aes::cipher::consts::U16> {
        let mut block = Array([0; BLOCK_LEN]);
        block[8..].copy_from_slice(&sequence.to_be_bytes());
        self.iv_cipher.encrypt_block(&mut block);
        block
    }

    /// Verifies, then decrypts; the padding is not looked at before the tag holds.
    pub(super) fn open(&self, sequence: u64, sealed: &mut [u8], clear_len: usize) -> Option<Range<usize>> {
        let tag_at = sealed.len().checked_sub(TAG_LEN)?;
        let (authenticated, tag) = sealed.split_at_mut_checked(tag_at)?;
        if !self.tag_matches(sequence, authenticated, tag) {
            return None;
        }
        let (iv, body) = authenticated.get_mut(clear_len..)?.split_first_chunk_mut::<BLOCK_LEN>()?;
        let mode = cbc::Decryptor::inner_iv_init(&self.cipher, &Array(*iv));
        let plain_len = mode.decrypt_padded::<Pkcs7>(body).ok()?.len();
        let plain_at = clear_len + BLOCK_LEN;
        Some(plain_at..plain_at + plain_len)
    }
}
