//! The keys of one stream, and sealing and opening one message body with them (VEIL-1 sections 8.2, 10).
//!
//! Knows suites, nonces and tags; knows nothing of scopes, replay or properties. Opening has one error for all
//! causes. Invariant: the nonce of an AEAD suite is a function of the sequence number alone, so callers must
//! never seal twice under one sequence number.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{AeadInOut, Nonce, Tag},
};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use chacha20poly1305::ChaCha20Poly1305;
use subtle::ConstantTimeEq;
use veilmq_protocol::veil::{
    Kid, Suite,
    channel::{Secret32, derive, hmac},
};
use zeroize::Zeroizing;

use super::{keyring::GroupKey, rings::Issuer};

/// Length of the initialisation vector in front of a CBC ciphertext.
pub(super) const IV_BYTES: usize = 16;

/// Identifies a stream: everything its keys depend on besides the group key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamId {
    /// Which scope of this program; never travels.
    pub(super) scope: u32,
    /// Whose group key; never travels.
    pub(super) issuer: Issuer,
    pub(super) suite: Suite,
    pub(super) epoch: u32,
    pub(super) sender: Kid,
    pub(super) session: u64,
    pub(super) topic_hash: [u8; 32],
}

impl StreamId {
    fn context(&self) -> [u8; 53] {
        let mut context = [0; 53];
        context[0] = self.suite as u8;
        context[1..5].copy_from_slice(&self.epoch.to_be_bytes());
        context[5..13].copy_from_slice(self.sender.as_bytes());
        context[13..21].copy_from_slice(&self.session.to_be_bytes());
        context[21..].copy_from_slice(&self.topic_hash);
        context
    }
}

/// The cause is withheld on purpose.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAuthentic;

/// The message is longer than the suite allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The keys of one stream, ready for use.
pub(super) enum StreamKey {
    CbcHmac { enc: Secret32, mac: Secret32 },
    Gcm { cipher: Box<Aes256Gcm>, iv: Zeroizing<[u8; 12]> },
    ChaCha { cipher: Box<ChaCha20Poly1305>, iv: Zeroizing<[u8; 12]> },
}

impl StreamKey {
    pub(super) fn derive(group_key: &GroupKey, id: &StreamId) -> Self {
        let context = id.context();
        let secret = |label| group_key.derive(label, &context);
        let iv = || {
            let mut iv = Zeroizing::new([0; 12]);
            derive(group_key.as_bytes(), "stream iv", &context, iv.as_mut_slice());
            iv
        };
        match id.suite {
            Suite::Aes256CbcHmacSha256 => {
                Self::CbcHmac { enc: secret("stream enc"), mac: secret("stream mac") }
            }
            Suite::Aes256Gcm => {
                let cipher = Aes256Gcm::new(secret("stream key").as_bytes().into());
                Self::Gcm { cipher: Box::new(cipher), iv: iv() }
            }
            Suite::ChaCha20Poly1305 => {
                let cipher = ChaCha20Poly1305::new(secret("stream key").as_bytes().into());
                Self::ChaCha { cipher: Box::new(cipher), iv: iv() }
            }
        }
    }

    /// Encrypts `out[start..]` in place and appends the tag. The CBC suite puts an IV from `entropy` in front.
    pub(super) fn seal(
        &self,
        seq: u32,
        associated_data: &[u8],
        out: &mut Vec<u8>,
        start: usize,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TooLong> {
        match self {
            Self::CbcHmac { enc, mac } => {
                let mut iv = [0; IV_BYTES];
                entropy(&mut iv);
                let body = cbc_encrypt(enc.as_bytes(), &iv, out.get(start..).unwrap_or_default());
                let tag = cbc_hmac(mac, associated_data, &body);
                out.truncate(start);
                out.extend_from_slice(&body);
                out.extend_from_slice(&tag);
                Ok(())
            }
            Self::Gcm { cipher, iv } => aead_seal(&**cipher, iv, seq, associated_data, out, start),
            Self::ChaCha { cipher, iv } => aead_seal(&**cipher, iv, seq, associated_data, out, start),
        }
    }

    /// Verifies and decrypts `body` (ciphertext and tag).
    pub(super) fn open(
        &self,
        seq: u32,
        associated_data: &[u8],
        body: &[u8],
    ) -> Result<Vec<u8>, NotAuthentic> {
        match self {
            Self::CbcHmac { enc, mac } => {
                let (body, tag) = body.split_last_chunk::<32>().ok_or(NotAuthentic)?;
                // The tag comes first: padding of a forged ciphertext is never looked at.
                if !bool::from(cbc_hmac(mac, associated_data, body).ct_eq(tag)) {
                    return Err(NotAuthentic);
                }
                cbc_decrypt(enc.as_bytes(), body).ok_or(NotAuthentic)
            }
            Self::Gcm { cipher, iv } => aead_open(&**cipher, iv, seq, associated_data, body),
            Self::ChaCha { cipher, iv } => aead_open(&**cipher, iv, seq, associated_data, body),
        }
    }
}

fn nonce(iv: &[u8; 12], seq: u32) -> [u8; 12] {
    let mut nonce = *iv;
    for (byte, seq) in nonce.iter_mut().skip(8).zip(seq.to_be_bytes()) {
        *byte ^= seq;
    }
    nonce
}

fn aead_seal<C>(
    cipher: &C,
    iv: &[u8; 12],
    seq: u32,
    associated_data: &[u8],
    out: &mut Vec<u8>,
    start: usize,
) -> Result<(), TooLong>
where
    C: AeadInOut,
    Nonce<C>: From<[u8; 12]>,
{
    let plaintext = out.get_mut(start..).unwrap_or_default();
    let tag = cipher
        .encrypt_inout_detached(&nonce(iv, seq).into(), associated_data, plaintext.into())
        .map_err(|_| TooLong)?;
    out.extend_from_slice(&tag);
    Ok(())
}

fn aead_open<C>(
    cipher: &C,
    iv: &[u8; 12],
    seq: u32,
    associated_data: &[u8],
    body: &[u8],
) -> Result<Vec<u8>, NotAuthentic>
where
    C: AeadInOut,
    Nonce<C>: From<[u8; 12]>,
    for<'a> &'a Tag<C>: From<&'a [u8; 16]>,
{
    let (ciphertext, tag) = body.split_last_chunk::<16>().ok_or(NotAuthentic)?;
    let mut plaintext = ciphertext.to_vec();
    cipher
        .decrypt_inout_detached(
            &nonce(iv, seq).into(),
            associated_data,
            plaintext.as_mut_slice().into(),
            tag.into(),
        )
        .map_err(|_| NotAuthentic)?;
    Ok(plaintext)
}

/// HMAC over `AAD || IV || CBC || u64 bit length of AAD`.
fn cbc_hmac(key: &Secret32, associated_data: &[u8], body: &[u8]) -> [u8; 32] {
    let bits = (associated_data.len() as u64).saturating_mul(8);
    hmac(key.as_bytes(), &[associated_data, body, &bits.to_be_bytes()])
}

/// Returns `IV || AES-256-CBC(PKCS#7(plaintext))`.
pub(super) fn cbc_encrypt(key: &[u8; 32], iv: &[u8; IV_BYTES], plaintext: &[u8]) -> Vec<u8> {
    let ciphertext =
        cbc::Encryptor::<aes::Aes256>::new(key.into(), iv.into()).encrypt_padded_vec::<Pkcs7>(plaintext);
    [iv.as_slice(), &ciphertext].concat()
}

/// Reverses [`cbc_encrypt`] without any authentication; `None` if the padding or the length is wrong.
pub(super) fn cbc_decrypt(key: &[u8; 32], body: &[u8]) -> Option<Vec<u8>> {
    let (iv, ciphertext) = body.split_first_chunk::<IV_BYTES>()?;
    cbc::Decryptor::<aes::Aes256>::new(key.into(), iv.into()).decrypt_padded_vec::<Pkcs7>(ciphertext).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ID: StreamId = StreamId {
        scope: 0,
        issuer: Issuer::Configuration,
        suite: Suite::Aes256Gcm,
        epoch: 7,
        sender: Kid::from_bytes([1; 8]),
        session: 0x0102_0304_0506_0708,
        topic_hash: [9; 32],
    };

    fn seal(group_key: u8, id: &StreamId, seq: u32) -> Vec<u8> {
        let mut out = b"clear".to_vec();
        let key = StreamKey::derive(&GroupKey::new(&[group_key; 32]), id);
        key.seal(seq, b"associated", &mut out, 5, &mut |iv| iv.fill(4)).unwrap();
        out
    }

    #[test]
    fn context_is_laid_out_as_in_section_8_2() {
        let expected = [&[2, 0, 0, 0, 7][..], &[1; 8], &[1, 2, 3, 4, 5, 6, 7, 8], &[9; 32]].concat();

        assert_eq!(ID.context().as_slice(), expected);
    }

    #[test]
    fn every_part_of_a_stream_and_every_number_in_it_changes_key_or_nonce() {
        let streams = [
            ID,
            StreamId { suite: Suite::ChaCha20Poly1305, ..ID },
            StreamId { epoch: 8, ..ID },
            StreamId { sender: Kid::from_bytes([2; 8]), ..ID },
            StreamId { session: ID.session + 1, ..ID },
            StreamId { topic_hash: [8; 32], ..ID },
        ];
        let mut tags = HashSet::new();
        for group_key in 0..2 {
            for id in &streams {
                for seq in [0, 1, 255, 256, u32::MAX] {
                    assert!(tags.insert(seal(group_key, id, seq)), "{group_key} {id:?} {seq}");
                }
            }
        }
    }

    #[test]
    fn what_stands_before_the_plaintext_stays_as_it_is() {
        for suite in Suite::ALL {
            let id = StreamId { suite, ..ID };
            let sealed = seal(1, &id, 3);
            let key = StreamKey::derive(&GroupKey::new(&[1; 32]), &id);

            assert_eq!(&sealed[..5], b"clear");
            assert_eq!(key.open(3, b"associated", &sealed[5..]), Ok(Vec::new()));
            assert_eq!(
                key.open(4, b"associated", &sealed[5..]).is_err(),
                suite != Suite::Aes256CbcHmacSha256
            );
            assert_eq!(key.open(3, b"other", &sealed[5..]), Err(NotAuthentic));
            assert_eq!(key.open(3, b"associated", &sealed[6..]), Err(NotAuthentic));
        }
    }
}
