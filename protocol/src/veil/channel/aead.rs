//! Suites 2 and 3: an AEAD, whose empty plaintext makes the integrity-only tag
//! (VEIL-1 sections 2 and 5.2).

use super::{
    kdf::{Secret32, derive},
    suite_keys::Purpose,
};
use aes_gcm::Aes256Gcm;
use alloc::boxed::Box;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, array::Array, consts::U12},
};
use core::ops::Range;
use zeroize::Zeroizing;

pub(super) const TAG_LEN: usize = 16;

enum Cipher {
    Gcm(Box<Aes256Gcm>),
    ChaCha(Box<ChaCha20Poly1305>),
}

pub(super) struct Aead {
    cipher: Cipher,
    iv: Zeroizing<[u8; 12]>,
}

impl Aead {
    pub(super) fn aes_gcm(secret: &Secret32, purpose: &Purpose<'_>) -> Self {
        let key = secret.derive(purpose.key, purpose.context);
        Self::new(Cipher::Gcm(Box::new(Aes256Gcm::new(key.as_bytes().into()))), secret, purpose)
    }

    pub(super) fn chacha(secret: &Secret32, purpose: &Purpose<'_>) -> Self {
        let key = secret.derive(purpose.key, purpose.context);
        Self::new(Cipher::ChaCha(Box::new(ChaCha20Poly1305::new(key.as_bytes().into()))), secret, purpose)
    }

    fn new(cipher: Cipher, secret: &Secret32, purpose: &Purpose<'_>) -> Self {
        let mut iv = Zeroizing::new([0; 12]);
        derive(secret.as_bytes(), purpose.iv, purpose.context, iv.as_mut_slice());
        Self { cipher, iv }
    }

    /// `iv_x xor (0^4 || u64 seq)`.
    fn nonce(&self, sequence: u64) -> Array<u8, U12> {
        let mut nonce = *self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce.into()
    }

    pub(super) fn tag(&self, sequence: u64, authenticated: &[u8]) -> [u8; TAG_LEN] {
        self.encrypt(sequence, authenticated, &mut [])
    }

    pub(super) fn tag_matches(&self, sequence: u64, authenticated: &[u8], tag: &[u8]) -> bool {
        self.decrypt(sequence, authenticated, &mut [], tag)
    }

    pub(super) fn seal(&self, sequence: u64, record: &mut [u8], clear_len: usize) -> [u8; TAG_LEN] {
        let (clear, body) = record.split_at_mut(clear_len);
        self.encrypt(sequence, clear, body)
    }

    pub(super) fn open(&self, sequence: u64, sealed: &mut [u8], clear_len: usize) -> Option<Range<usize>> {
        let tag_at = sealed.len().checked_sub(TAG_LEN)?;
        let (authenticated, tag) = sealed.split_at_mut_checked(tag_at)?;
        let (clear, body) = authenticated.split_at_mut_checked(clear_len)?;
        self.decrypt(sequence, clear, body, tag).then_some(clear_len..tag_at)
    }

    fn encrypt(&self, sequence: u64, aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = self.nonce(sequence);
        let tag = match &self.cipher {
            Cipher::Gcm(cipher) => cipher.encrypt_inout_detached(&nonce, aad, buffer.into()),
            Cipher::ChaCha(cipher) => cipher.encrypt_inout_detached(&nonce, aad, buffer.into()),
        };
        tag.expect("a record is far below the AEAD's limit of 64 GiB").into()
    }

    fn decrypt(&self, sequence: u64, aad: &[u8], buffer: &mut [u8], tag: &[u8]) -> bool {
        let Ok(tag) = <[u8; TAG_LEN]>::try_from(tag) else {
            return false;
        };
        let (nonce, tag) = (self.nonce(sequence), tag.into());
        let opened = match &self.cipher {
            Cipher::Gcm(cipher) => cipher.decrypt_inout_detached(&nonce, aad, buffer.into(), &tag),
            Cipher::ChaCha(cipher) => cipher.decrypt_inout_detached(&nonce, aad, buffer.into(), &tag),
        };
        opened.is_ok()
    }
}
