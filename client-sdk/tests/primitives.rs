//! Project Wycheproof's vectors, with what goes wrong in them, for every primitive that protects messages and keys.
//!
//! The primitives are used as the SDK uses them: with their sizes, and with strict verification.
#![allow(clippy::unwrap_used, reason = "test code")]

use aes_gcm::{
    Aes256Gcm,
    aead::{AeadInOut, KeyInit, Nonce, Tag},
};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use chacha20poly1305::ChaCha20Poly1305;
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use wycheproof::{TestResult, aead, cipher, eddsa, hkdf as hkdf_tests, mac, xdh};
use x25519_dalek::{PublicKey, StaticSecret};

/// Counts what was tried, so that a set that is passed over fails.
fn at_least(count: usize, minimum: usize) {
    assert!(count >= minimum, "{count} vectors, and there are {minimum} that apply");
}

fn aead_vectors<C>(set: aead::TestName, minimum: usize)
where
    C: KeyInit + AeadInOut,
    Nonce<C>: From<[u8; 12]>,
    for<'a> &'a Tag<C>: From<&'a [u8; 16]>,
{
    let mut count = 0;
    for group in aead::TestSet::load(set).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let cipher = C::new_from_slice(&test.key).unwrap();
            let nonce: [u8; 12] = test.nonce.as_ref().try_into().unwrap();
            let tag: [u8; 16] = test.tag.as_ref().try_into().unwrap();
            let mut opened = test.ct.to_vec();
            let outcome = cipher.decrypt_inout_detached(
                &nonce.into(),
                &test.aad,
                opened.as_mut_slice().into(),
                (&tag).into(),
            );
            assert_eq!(outcome.is_ok(), test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            if test.result == TestResult::Valid {
                assert_eq!(opened, test.pt.as_ref(), "{}", test.tc_id);
                let mut sealed = test.pt.to_vec();
                let made = cipher
                    .encrypt_inout_detached(&nonce.into(), &test.aad, sealed.as_mut_slice().into())
                    .unwrap();
                assert_eq!(
                    (sealed.as_slice(), made.as_slice()),
                    (test.ct.as_ref(), tag.as_slice()),
                    "{}",
                    test.tc_id
                );
            }
            count += 1;
        }
    }
    at_least(count, minimum);
}

#[test]
fn aes_256_gcm_agrees() {
    aead_vectors::<Aes256Gcm>(aead::TestName::AesGcm, 60);
}

#[test]
fn chacha20_poly1305_agrees() {
    aead_vectors::<ChaCha20Poly1305>(aead::TestName::ChaCha20Poly1305, 200);
}

#[test]
fn aes_256_cbc_with_pkcs7_agrees() {
    let mut count = 0;
    for group in cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap().test_groups {
        if group.key_size != 256 {
            continue;
        }
        for test in group.tests {
            let key: [u8; 32] = test.key.as_ref().try_into().unwrap();
            let iv: [u8; 16] = test.nonce.as_ref().try_into().unwrap();
            let opened = cbc::Decryptor::<aes::Aes256>::new(&key.into(), &iv.into())
                .decrypt_padded_vec::<Pkcs7>(&test.ct);
            if test.result == TestResult::Valid {
                assert_eq!(opened.unwrap(), test.pt.as_ref(), "{}", test.tc_id);
                let sealed = cbc::Encryptor::<aes::Aes256>::new(&key.into(), &iv.into())
                    .encrypt_padded_vec::<Pkcs7>(&test.pt);
                assert_eq!(sealed, test.ct.as_ref(), "{}", test.tc_id);
            } else {
                assert!(opened.is_err(), "{}: {}", test.tc_id, test.comment);
            }
            count += 1;
        }
    }
    at_least(count, 50);
}

#[test]
fn hmac_sha_256_agrees() {
    let mut count = 0;
    for group in mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        if group.tag_size != 256 {
            continue;
        }
        for test in group.tests {
            let mut state = <Hmac<Sha256> as KeyInit>::new_from_slice(&test.key).unwrap();
            state.update(&test.msg);
            let is_right = state.verify_slice(&test.tag).is_ok();
            assert_eq!(is_right, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    at_least(count, 80);
}

#[test]
fn hkdf_sha_256_agrees() {
    let mut count = 0;
    for group in hkdf_tests::TestSet::load(hkdf_tests::TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let mut okm = vec![0; test.size];
            let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
            assert_eq!(
                expanded.is_ok(),
                test.result == TestResult::Valid,
                "{}: {}",
                test.tc_id,
                test.comment
            );
            if expanded.is_ok() {
                assert_eq!(okm, test.okm.as_ref(), "{}", test.tc_id);
            }
            count += 1;
        }
    }
    at_least(count, 80);
}

#[test]
fn x25519_agrees_and_refuses_shared_secrets_of_zero() {
    let mut count = 0;
    for group in xdh::TestSet::load(xdh::TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let (Ok(secret), Ok(public)) = (
                <[u8; 32]>::try_from(test.private_key.as_ref()),
                <[u8; 32]>::try_from(test.public_key.as_ref()),
            ) else {
                assert_ne!(test.result, TestResult::Valid, "{}", test.tc_id);
                continue;
            };
            let shared = StaticSecret::from(secret).diffie_hellman(&PublicKey::from(public));
            assert_eq!(shared.as_bytes(), test.shared_secret.as_ref(), "{}: {}", test.tc_id, test.comment);
            let is_zero = test.shared_secret.iter().all(|byte| *byte == 0);
            assert_eq!(shared.was_contributory(), !is_zero, "{}", test.tc_id);
            count += 1;
        }
    }
    at_least(count, 500);
}

#[test]
fn ed25519_agrees_under_strict_verification() {
    let mut count = 0;
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key: [u8; 32] = group.key.pk.as_ref().try_into().unwrap();
        let key = VerifyingKey::from_bytes(&key).unwrap();
        for test in group.tests {
            let is_right = Signature::from_slice(&test.sig)
                .is_ok_and(|signature| key.verify_strict(&test.msg, &signature).is_ok());
            assert_eq!(is_right, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    at_least(count, 100);
}
