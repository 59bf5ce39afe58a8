//! Certificates, signatures and key derivation of VEIL-1 sections 2 and 3.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use proptest::prelude::*;
use veil_common::{
    NOT_AFTER, NOT_BEFORE, NOW, broker, bytes, ca_keys, fields, hex, keys, publisher, root, seed, subscriber,
    text, trust, unhex, vectors,
};
use veilmq_protocol::veil::{
    Certificate, CertificateError, CertificateFields, Kid, Roles,
    channel::{
        Identity, IdentityKeys, SignatureError, TrustAnchors, derive, extract, hmac, kid, sign, verify,
    },
    layout::LayoutError,
};

#[test]
fn certificates_are_those_of_the_vectors_byte_for_byte() {
    let vectors = vectors();

    assert_eq!(hex(&ca_keys().ed25519_public()), text(&vectors, "/certs/ca_pub"));
    for (who, identity) in [("pub", publisher()), ("sub", subscriber()), ("broker", broker())] {
        let expected = text(&vectors, &format!("/certs/{who}"));
        assert_eq!(hex(identity.certificate().as_bytes()), expected, "{who}");
    }
    assert_eq!(publisher().certificate().as_bytes().len(), vectors["certs"]["len_pub"]);
}

#[test]
fn kid_and_master_derivation_are_those_of_the_vectors() {
    let vectors = vectors();
    let master = bytes(&vectors, "/article/master");
    let scope = veilmq_protocol::veil::channel::hash(&[b"factory/line-3/#"]);
    let mut context = scope.to_vec();
    context.extend_from_slice(&7_u32.to_be_bytes());
    let mut group_key = [0; 32];

    derive(extract(b"veil1 master", &master).as_bytes(), "gk", &context, &mut group_key);

    assert_eq!(publisher().kid().to_string(), text(&vectors, "/envelope/sender_kid"));
    assert_eq!(hex(&group_key), text(&vectors, "/envelope/gk_from_master"));
}

#[test]
fn key_commitment_is_that_of_the_vectors() {
    let vectors = vectors();
    let group_key = seed("gk epoch 7");
    let mut context = veilmq_protocol::veil::channel::hash(&[b"factory/line-3/#"]).to_vec();
    context.extend_from_slice(&7_u32.to_be_bytes());
    context.extend_from_slice(publisher().kid().as_bytes());
    let mut commitment = [0; 32];

    derive(&group_key, "commit", &context, &mut commitment);

    assert_eq!(hex(&commitment), text(&vectors, "/keyhead/kc"));
}

/// RFC 5869 A.1 and A.3 (extract), RFC 4231 case 1.
#[test]
fn extract_and_hmac_give_the_known_answers() {
    let first = extract(&unhex("000102030405060708090a0b0c"), &[0x0b; 22]);
    let third = extract(&[], &[0x0b; 22]);
    // A key shorter than the block is padded with zeros, so case 1's 20 bytes and 12 zeros agree.
    let mut key = [0; 32];
    key[..20].fill(0x0b);

    assert_eq!(hex(first.as_bytes()), "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
    assert_eq!(hex(third.as_bytes()), "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04");
    assert_eq!(
        hex(&hmac(&key, &[b"Hi ", b"There"])),
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    );
}

/// RFC 8032 section 7.1 test 1 (the key, and the seed it comes from) and RFC 7748 section 6.1.
#[test]
fn public_keys_are_those_of_the_rfcs() {
    let ed25519 = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let x25519 = unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let keys = IdentityKeys::from_seeds(&ed25519.try_into().unwrap(), &x25519.try_into().unwrap());

    assert_eq!(
        hex(&keys.ed25519_public()),
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    );
    assert_eq!(
        hex(&keys.x25519_public()),
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    );
}

#[test]
fn signature_holds_for_its_label_digest_and_key_only() {
    let signer = ca_keys();
    let signature = sign(&signer, "cert", &[7; 32]);
    let public = signer.ed25519_public();

    assert_eq!(verify("cert", &[7; 32], &public, &signature), Ok(()));
    assert_eq!(verify("crl", &[7; 32], &public, &signature), Err(SignatureError));
    assert_eq!(verify("cert", &[8; 32], &public, &signature), Err(SignatureError));
    let other = keys("pub ed", "pub x").ed25519_public();
    assert_eq!(verify("cert", &[7; 32], &other, &signature), Err(SignatureError));
    assert_eq!(verify("cert", &[7; 32], &public, &signature[..63]), Err(SignatureError));
}

/// With the neutral point as key and as R, and S = 0, the equation of RFC 8032 holds for every
/// message; strict verification refuses the small order. S + L is the second form of one S.
#[test]
fn verification_is_strict_about_small_order_and_canonical_s() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    assert_eq!(verify("cert", &[7; 32], &neutral, &forged), Err(SignatureError));

    let signer = ca_keys();
    let mut signature = sign(&signer, "cert", &[7; 32]);
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert_eq!(verify("cert", &[7; 32], &signer.ed25519_public(), &signature), Err(SignatureError));
}

#[test]
fn identity_survives_storage_and_refuses_foreign_keys() {
    let stored = publisher().keys().to_bytes();
    let certificate = publisher().certificate().clone();

    assert!(Identity::new(certificate.clone(), IdentityKeys::from_bytes(&stored)).is_ok());
    let foreign = Identity::new(certificate, keys("sub ed", "pub x"));
    assert_eq!(foreign.err(), Some(CertificateError::KeyMismatch));
}

#[test]
fn leaf_is_verified_in_every_respect() {
    use CertificateError::{Expired, NotYetValid, Role, WrongSubject};
    type Row = (&'static str, Roles, &'static str, Option<u64>, Result<(), CertificateError>);
    let not_broker = Role { needed: Roles::BROKER };
    let rows: [Row; 8] = [
        ("good", Roles::PUBLISHER, "press-07", Some(NOW), Ok(())),
        ("any role of several", Roles::CLIENT, "press-07", Some(NOW), Ok(())),
        ("no clock", Roles::CLIENT, "press-07", None, Ok(())),
        ("last second", Roles::CLIENT, "press-07", Some(NOT_AFTER), Ok(())),
        ("expired", Roles::CLIENT, "press-07", Some(NOT_AFTER + 1), Err(Expired)),
        ("early", Roles::CLIENT, "press-07", Some(NOT_BEFORE - 1), Err(NotYetValid)),
        ("wrong role", Roles::BROKER, "press-07", Some(NOW), Err(not_broker)),
        ("wrong subject", Roles::CLIENT, "press-08", Some(NOW), Err(WrongSubject)),
    ];
    for (name, needed, subject, now, expected) in rows {
        let verdict = trust().verify(publisher().certificate(), needed, Some(subject), now);

        assert_eq!(verdict, expected, "{name}");
    }
}

#[test]
fn leaf_of_an_unknown_or_powerless_issuer_is_refused() {
    let leaf = fields(&keys("pub ed", "pub x"), Roles::PUBLISHER, 1, "press-07");
    let rogue = keys("rogue", "rogue x");
    let powerless = publisher();
    let mut trust = trust();

    let unknown = trust.verify(&leaf.sign(&rogue).unwrap(), Roles::CLIENT, None, Some(NOW));
    assert_eq!(unknown, Err(CertificateError::UnknownIssuer(rogue.kid())));

    let pinned = leaf.sign(powerless.keys()).unwrap();
    trust.add(pinned.clone()).unwrap();
    let subject = fields(&keys("sub ed", "sub x"), Roles::SUBSCRIBER, 9, "lake-1");
    let issued = subject.sign(powerless.keys()).unwrap();
    let refused = trust.verify(&issued, Roles::CLIENT, None, Some(NOW));
    assert_eq!(refused, Err(CertificateError::IssuerNotCa(powerless.kid())));
    assert_eq!(trust.verify(&pinned, Roles::CLIENT, Some("press-07"), Some(NOW)), Ok(()));
}

#[test]
fn revoked_and_forgotten_issuers_end_trust() {
    let leaf = publisher();
    let leaf = leaf.certificate();
    let mut trust = trust();

    trust.revoke(leaf.issuer(), leaf.serial);
    let revoked = trust.verify(leaf, Roles::CLIENT, None, Some(NOW));
    assert_eq!(revoked, Err(CertificateError::Revoked { issuer: leaf.issuer(), serial: 1 }));

    trust.remove(leaf.issuer());
    let unknown = trust.verify(leaf, Roles::CLIENT, None, Some(NOW));
    assert_eq!(unknown, Err(CertificateError::UnknownIssuer(leaf.issuer())));
}

#[test]
fn issuing_ca_is_believed_below_a_root_and_no_deeper() {
    let issuing = keys("issuing", "issuing x");
    let deeper = keys("deeper", "deeper x");
    let issuing_ca = fields(&issuing, Roles::CA, 10, "issuing").sign(&ca_keys()).unwrap();
    let deeper_ca = fields(&deeper, Roles::CA, 11, "deeper").sign(&issuing).unwrap();
    let leaf = fields(&keys("pub ed", "pub x"), Roles::PUBLISHER, 1, "press-07");
    let leaf = leaf.sign(&issuing).unwrap();
    let mut trust = trust();

    assert_eq!(
        TrustAnchors::new().add(issuing_ca.clone()),
        Err(CertificateError::UnknownIssuer(ca_keys().kid()))
    );
    trust.add(issuing_ca.clone()).unwrap();
    assert_eq!(trust.verify(&leaf, Roles::CLIENT, None, Some(NOW)), Ok(()));
    assert_eq!(trust.add(deeper_ca), Err(CertificateError::PathLength(issuing.kid())));

    trust.revoke(ca_keys().kid(), 10);
    assert_eq!(
        trust.verify(&leaf, Roles::CLIENT, None, Some(NOW)),
        Err(CertificateError::Revoked { issuer: ca_keys().kid(), serial: 10 })
    );

    let mut flat = fields(&ca_keys(), Roles::CA, 0, "root");
    flat.path_length = Some(0);
    let mut trust = TrustAnchors::new();
    trust.add(flat.sign(&ca_keys()).unwrap()).unwrap();
    assert_eq!(trust.add(issuing_ca), Err(CertificateError::PathLength(ca_keys().kid())));
}

#[test]
fn root_that_is_replaced_by_one_that_allows_less_takes_it_from_its_issuing_ca() {
    let issuing = keys("issuing", "issuing x");
    let issuing_ca = fields(&issuing, Roles::CA, 10, "issuing").sign(&ca_keys()).unwrap();
    let leaf = fields(&keys("pub ed", "pub x"), Roles::PUBLISHER, 1, "press-07");
    let leaf = leaf.sign(&issuing).unwrap();
    let mut flat = fields(&ca_keys(), Roles::CA, 0, "root");
    flat.path_length = Some(0);
    let mere_broker = fields(&ca_keys(), Roles::BROKER, 0, "root");
    for (replacement, expected) in [
        (flat, CertificateError::PathLength(ca_keys().kid())),
        (mere_broker, CertificateError::IssuerNotCa(ca_keys().kid())),
    ] {
        let mut trust = trust();
        trust.add(issuing_ca.clone()).unwrap();

        trust.add(replacement.sign(&ca_keys()).unwrap()).unwrap();

        assert_eq!(trust.verify(&leaf, Roles::CLIENT, None, Some(NOW)), Err(expected));
    }
}

#[test]
fn every_flipped_bit_of_a_certificate_is_refused() {
    let good = publisher();
    let good = good.certificate().as_bytes();
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);

        let verdict =
            Certificate::parse(&bad).and_then(|leaf| trust().verify(&leaf, Roles::CLIENT, None, Some(NOW)));

        assert!(verdict.is_err(), "bit {bit}");
    }
}

/// Replaces the extensions of the publisher's certificate, and its subject, and leaves the rest.
fn with_extensions(extensions: &[u8]) -> Result<Certificate, CertificateError> {
    let good = publisher();
    let good = good.certificate().as_bytes();
    let mut bytes = good[..110].to_vec();
    bytes.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(extensions);
    bytes.extend_from_slice(&good[112..]);
    Certificate::parse(&bytes)
}

#[test]
fn extensions_are_read_refused_or_ignored_by_type() {
    use CertificateError::{ExtensionCritical, ExtensionOrder, ExtensionValue, Layout};
    let cases: [(&str, &[u8], Option<CertificateError>); 13] = [
        ("none", &[], None),
        ("publish scopes", b"\x01\x00\x0a\x00\x03a/#\x00\x03b/+", None),
        ("unknown, not critical", b"\x7f\x00\x01x", None),
        ("unknown, critical", b"\x80\x00\x00", Some(ExtensionCritical(0x80))),
        ("repeated", b"\x7f\x00\x00\x7f\x00\x00", Some(ExtensionOrder(0x7f))),
        ("descending", b"\x7e\x00\x00\x7d\x00\x00", Some(ExtensionOrder(0x7d))),
        ("empty list", b"\x01\x00\x00", Some(ExtensionValue(1))),
        ("list cut short", b"\x02\x00\x03\x00\x05a", Some(ExtensionValue(2))),
        ("hash inside", b"\x02\x00\x05\x00\x03#/a", Some(ExtensionValue(2))),
        ("shared subscription", b"\x02\x00\x0c\x00\x0a$share/g/a", Some(ExtensionValue(2))),
        ("path length of two bytes", b"\x04\x00\x02\x00\x00", Some(ExtensionValue(4))),
        ("revocation topic with a wildcard", b"\x05\x00\x01#", Some(ExtensionValue(5))),
        ("value cut short", b"\x01\x00\x09a", Some(Layout(LayoutError::Truncated("extension")))),
    ];
    for (name, extensions, refused) in cases {
        assert_eq!(with_extensions(extensions).err(), refused, "{name}");
    }
    let parsed = with_extensions(b"\x01\x00\x0a\x00\x03a/#\x00\x03b/+").unwrap();
    assert_eq!(parsed.publish_scopes, ["a/#", "b/+"]);
}

fn any_fields() -> impl Strategy<Value = CertificateFields> {
    let scopes = || prop::collection::vec("[a-z]{1,8}(/[a-z]{1,8}){0,3}(/#)?", 0..4);
    (
        (0..64_u8, any::<u64>(), any::<u32>(), any::<u32>()),
        (any::<[u8; 32]>(), any::<[u8; 32]>(), "[^\0]{1,16}"),
        (scopes(), scopes(), any::<Option<u8>>(), prop::option::of("[a-z]{1,9}")),
    )
        .prop_map(|(head, keys, extensions)| CertificateFields {
            roles: Roles::from_bits(head.0).unwrap(),
            serial: head.1,
            not_before: u64::from(head.2),
            not_after: u64::from(head.2) + u64::from(head.3),
            ed25519: keys.0,
            x25519: keys.1,
            subject: keys.2,
            publish_scopes: extensions.0,
            subscribe_scopes: extensions.1,
            path_length: extensions.2,
            revocation_topic: extensions.3,
        })
}

proptest! {
    #[test]
    fn parsing_undoes_building(fields in any_fields()) {
        let certificate = fields.sign(&ca_keys()).unwrap();

        prop_assert_eq!(&*certificate, &fields);
        prop_assert_eq!(certificate.issuer(), ca_keys().kid());
        prop_assert_eq!(certificate.kid(), kid(&fields.ed25519));
        prop_assert_eq!(certificate.verify(&root(), None), Ok(()));
    }

    #[test]
    fn parsing_arbitrary_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Certificate::parse(&bytes);
    }

    #[test]
    fn parsing_damaged_certificates_does_not_panic(
        at in 0..176_usize, value in any::<u8>(), cut in 0..176_usize,
    ) {
        let mut bytes = publisher().certificate().as_bytes().to_vec();
        bytes[at] = value;
        let _ = Certificate::parse(&bytes);
        bytes.truncate(cut);
        prop_assert!(Certificate::parse(&bytes).is_err());
    }
}

#[test]
fn kid_is_the_head_of_a_labelled_hash() {
    let public = ca_keys().ed25519_public();
    let whole = veilmq_protocol::veil::channel::hash(&[b"veil1 kid", &public]);

    assert_eq!(kid(&public), Kid::from_bytes(whole[..8].try_into().unwrap()));
}
