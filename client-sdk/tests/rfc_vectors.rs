//! The vectors of the RFCs that define the primitives of channels, keys and messages.
//!
//! Each primitive is called as the code calls it: HMAC, HKDF-Extract and SHA-256 through our own functions, the others
//! with our sizes and with strict verification. RFC 9180 stands beside the code that wraps keys.
#![allow(clippy::unwrap_used, reason = "test code")]

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, array::Array},
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use veilmq_protocol::veil::channel::extract;
use x25519_dalek::{PublicKey, StaticSecret, X25519_BASEPOINT_BYTES, x25519};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    unhex(text).try_into().unwrap()
}

/// The bytes from `first` to `last`, each one more than the one before.
fn counting(first: u8, last: u8) -> Vec<u8> {
    (first..=last).collect()
}

#[test]
fn hkdf_gives_the_keys_of_rfc_5869_appendix_a() {
    struct Case {
        ikm: Vec<u8>,
        salt: Vec<u8>,
        info: Vec<u8>,
        prk: &'static str,
        okm: &'static str,
    }
    let cases = [
        Case {
            ikm: vec![0x0b; 22],
            salt: counting(0, 0x0c),
            info: counting(0xf0, 0xf9),
            prk: "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            okm: "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        },
        Case {
            ikm: counting(0, 0x4f),
            salt: counting(0x60, 0xaf),
            info: counting(0xb0, 0xff),
            prk: "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            okm: "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
                  da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        },
        Case {
            ikm: vec![0x0b; 22],
            salt: Vec::new(),
            info: Vec::new(),
            prk: "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            okm: "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        },
    ];
    for (number, case) in (1..).zip(cases) {
        let prk = extract(&case.salt, &case.ikm);
        assert_eq!(prk.as_bytes().as_slice(), unhex(case.prk), "A.{number}");

        let expected = unhex(case.okm);
        let mut okm = vec![0; expected.len()];
        Hkdf::<Sha256>::from_prk(prk.as_bytes()).unwrap().expand(&case.info, &mut okm).unwrap();
        assert_eq!(okm, expected, "A.{number}");
    }
}

#[test]
fn hmac_sha_256_gives_the_tags_of_rfc_4231() {
    let larger_than_a_block = [0xaa; 131];
    let long_text = b"This is a test using a larger than block-size key and a larger than block-size data. \
        The key needs to be hashed before being used by the HMAC algorithm.";
    let cases: [(&[u8], &[u8], &str); 7] = [
        (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (&counting(1, 0x19), &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        // The RFC gives this tag truncated to 128 bits.
        (&[0x0c; 20], b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
        (
            &larger_than_a_block,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (&larger_than_a_block, long_text, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
    ];
    for (number, (key, text, expected)) in (1..).zip(cases) {
        let mut state = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        state.update(text);
        let tag = state.finalize().into_bytes();
        assert!(tag.starts_with(&unhex(expected)), "test case {number}");
    }
}

#[test]
fn x25519_multiplies_as_in_rfc_7748_section_5_2() {
    let cases = [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ];
    for (scalar, point, expected) in cases {
        let shared = StaticSecret::from(array::<32>(scalar)).diffie_hellman(&PublicKey::from(array(point)));
        assert_eq!(shared.as_bytes(), &array(expected));
    }

    let (mut scalar, mut point) = (X25519_BASEPOINT_BYTES, X25519_BASEPOINT_BYTES);
    for round in 1..=1000 {
        (scalar, point) = (x25519(scalar, point), scalar);
        let expected = match round {
            1 => "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
            1000 => "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51",
            _ => continue,
        };
        assert_eq!(scalar, array(expected), "after {round} rounds");
    }
}

#[test]
fn x25519_agrees_on_the_secret_of_rfc_7748_section_6_1() {
    let alice =
        StaticSecret::from(array::<32>("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
    let bob =
        StaticSecret::from(array::<32>("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    let (alices, bobs) = (PublicKey::from(&alice), PublicKey::from(&bob));

    assert_eq!(alices.as_bytes(), &array("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
    assert_eq!(bobs.as_bytes(), &array("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let secret = array("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(alice.diffie_hellman(&bobs).as_bytes(), &secret);
    assert_eq!(bob.diffie_hellman(&alices).as_bytes(), &secret);
}

#[test]
fn ed25519_makes_and_accepts_the_signatures_of_rfc_8032_section_7_1() {
    let abc_hashed = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                      2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let cases = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
             5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
        (
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            abc_hashed,
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589\
             09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ),
    ];
    for (secret, public, message, expected) in cases {
        let signing = SigningKey::from_bytes(&array(secret));
        let message = unhex(message);
        assert_eq!(signing.verifying_key().as_bytes(), &array(public));
        assert_eq!(signing.sign(&message).to_bytes(), array(expected));

        let verifying = VerifyingKey::from_bytes(&array(public)).unwrap();
        let accepts =
            |bytes: [u8; 64]| verifying.verify_strict(&message, &Signature::from_bytes(&bytes)).is_ok();
        assert!(accepts(array(expected)));
        let mut changed: [u8; 64] = array(expected);
        changed[0] ^= 1;
        assert!(!accepts(changed));
    }
}

#[test]
fn chacha20_poly1305_seals_and_opens_as_in_rfc_8439() {
    let sunscreen = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                     sunscreen would be it.";
    let drafts = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, \
                  or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference \
                  material or to cite them other than as /\u{201c}work in progress./\u{201d}";
    let cases = [
        (
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            sunscreen,
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
             1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
             3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        ),
        (
            "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0",
            "000000000102030405060708",
            "f33388860000000000004e91",
            drafts,
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0\
             bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
             9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9\
             9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
             0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130\
             305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
            "eead9d67890cbb22392336fea1851f38",
        ),
    ];
    for (key, nonce, associated_data, plaintext, ciphertext, tag) in cases {
        let cipher = ChaCha20Poly1305::new(&array::<32>(key).into());
        let (nonce, associated_data) = (Array(array::<12>(nonce)), unhex(associated_data));
        let mut buffer = plaintext.as_bytes().to_vec();

        let made = cipher.encrypt_inout_detached(&nonce, &associated_data, buffer.as_mut_slice().into());
        assert_eq!((buffer.clone(), made.unwrap().to_vec()), (unhex(ciphertext), unhex(tag)));

        let tag = Array(array::<16>(tag));
        let opened =
            cipher.decrypt_inout_detached(&nonce, &associated_data, buffer.as_mut_slice().into(), &tag);
        assert!(opened.is_ok());
        assert_eq!(buffer, plaintext.as_bytes());
    }
}
