//! KEYHEADs, wraps, prekeys, revocation lists and joins of VEIL-1 sections 3.2 and 9: layouts, signatures, refusals.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use std::collections::BTreeSet;

use proptest::prelude::*;
use veil_common::{
    NOT_AFTER, NOW, bytes, ca_keys, fields, hex, identity, keys, publisher, root, subscriber, text, trust,
    vectors,
};
use veilmq_protocol::veil::{
    CertificateError, Kid, Roles, Suite,
    channel::{Identity, hash},
    distribution::{
        Crl, CrlFields, DistributionError, DistributionTopic, JoinFinish, JoinRequest, JoinRequestFields,
        JoinResponse, KeyHead, KeyHeadFields, KeyHeadFlags, Prekey, PrekeyFields, RevocationReason, Revoked,
        Wrap, WrapKind, WrapSuite, bundle, put_bundle, roster_root, scope_hash, scope_tag,
    },
    vmc::scope_covers,
};

const SCOPE: &str = "factory/line-3/#";
const NOW_MS: u64 = NOW * 1000;

/// The head of the vectors.
fn head_fields() -> KeyHeadFields {
    let vectors = vectors();
    KeyHeadFields {
        wrap_suite: WrapSuite::Aes256Gcm,
        flags: KeyHeadFlags::default(),
        scope_tag: scope_tag(SCOPE),
        epoch: 7,
        issuer: publisher().kid(),
        created_ms: 1_790_000_000_000,
        activate_ms: 1_790_000_100_000,
        retire_ms: 1_790_086_400_000,
        drop_ms: 1_790_172_800_000,
        message_suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        scope: SCOPE.to_owned(),
        commitment: bytes(&vectors, "/keyhead/kc").try_into().unwrap(),
        previous: [0; 32],
        roster_root: roster_root(&BTreeSet::from([subscriber().kid()])),
        member_count: 1,
        certificate: publisher().certificate().clone(),
    }
}

fn prekey() -> Prekey {
    let fields = PrekeyFields {
        id: 3,
        not_after_ms: NOW_MS + 1,
        x25519: [9; 32],
        certificate: subscriber().certificate().clone(),
    };
    fields.sign(subscriber().keys()).unwrap()
}

fn crl() -> Crl {
    let revoked = [
        Revoked { serial: 2, reason: RevocationReason::KeyCompromise },
        Revoked { serial: 9, reason: RevocationReason::Unspecified },
    ];
    let fields = CrlFields {
        number: 4,
        this_update: NOW,
        next_update: NOW + 60,
        issuer: root(),
        revoked: revoked.to_vec(),
    };
    fields.sign(&ca_keys()).unwrap()
}

fn join_request() -> JoinRequest {
    let fields = JoinRequestFields {
        nonce: [1; 16],
        created_ms: NOW_MS,
        x25519: [2; 32],
        issuer: publisher().kid(),
        scope: SCOPE.to_owned(),
        certificate: subscriber().certificate().clone(),
    };
    fields.sign(subscriber().keys()).unwrap()
}

#[test]
fn key_head_is_that_of_the_vectors_byte_for_byte() {
    let head = head_fields().sign(publisher().keys()).unwrap();

    assert_eq!(hex(head.as_bytes()), text(&vectors(), "/keyhead/head"));
    assert_eq!(head.verify(&trust(), Some(NOW)), Ok(()));
    let info =
        [b"veil1 wrap", head.digest().as_slice(), subscriber().kid().as_bytes(), &[0, 0, 0, 1]].concat();
    assert_eq!(hex(&info), text(&vectors(), "/keyhead/info"));
}

#[test]
fn wrap_is_that_of_the_vectors_and_98_bytes_long() {
    let sealed = bytes(&vectors(), "/keyhead/enc_and_ct");
    let (encapsulated, ciphertext) = sealed.split_first_chunk::<32>().unwrap();
    let wrap = Wrap {
        kid: subscriber().kid(),
        kind: WrapKind::Prekey,
        prekey_id: 1,
        encapsulated: *encapsulated,
        ciphertext: ciphertext.to_vec(),
    };
    let mut encoded = Vec::new();
    wrap.encode(&mut encoded);

    assert_eq!(encoded.len() as u64, vectors()["keyhead"]["wrap_entry_len"].as_u64().unwrap());
    assert_eq!(Wrap::parse(&encoded), Ok(wrap));
}

#[test]
fn a_head_is_followed_by_its_bundle() {
    let wraps: Vec<Wrap> = (0..3_u8)
        .map(|n| Wrap {
            kid: Kid::from_bytes([n; 8]),
            kind: WrapKind::Static,
            prekey_id: 0,
            encapsulated: [n; 32],
            ciphertext: vec![n; 53],
        })
        .collect();
    let head = head_fields().sign(publisher().keys()).unwrap();
    let mut payload = head.as_bytes().to_vec();
    put_bundle(&mut payload, &wraps);

    let (parsed, rest) = KeyHead::parse(&payload).unwrap();

    assert_eq!(parsed, head);
    assert_eq!(bundle(rest).unwrap(), wraps);
    for wrong in [&rest[..rest.len() - 1], &rest[..1], &[0, 65], &[0, 0, 1]] {
        assert!(bundle(wrong).is_err(), "{} bytes", wrong.len());
    }
    assert_eq!(bundle(&[0, 0]), Ok(Vec::new()));
}

#[test]
fn a_head_is_believed_only_from_an_issuer_that_may_speak_for_its_scope() {
    let issuer = |roles, scopes: &[&str]| {
        let mut fields = fields(&keys("pub ed", "pub x"), roles, 1, "press-07");
        fields.publish_scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        identity("pub ed", "pub x", &fields)
    };
    let verified = |issuer: &Identity, flags| {
        let fields = KeyHeadFields { flags, certificate: issuer.certificate().clone(), ..head_fields() };
        fields.sign(issuer.keys()).unwrap().verify(&trust(), Some(NOW))
    };
    let role = |needed| Err(DistributionError::Certificate(CertificateError::Role { needed }));
    let (plain, authority) = (KeyHeadFlags::default(), KeyHeadFlags::AUTHORITY);
    for (roles, scopes, flags, expected) in [
        (Roles::PUBLISHER, &[][..], plain, Ok(())),
        (Roles::PUBLISHER, &["factory/#"], plain, Ok(())),
        (Roles::PUBLISHER, &["factory/line-3/+", "other"], plain, Err(DistributionError::Scope)),
        (Roles::SUBSCRIBER, &[], plain, role(Roles::PUBLISHER)),
        (Roles::PUBLISHER, &[], authority, role(Roles::KEY_AUTHORITY)),
        (Roles::KEY_AUTHORITY, &[SCOPE], authority, Ok(())),
    ] {
        assert_eq!(verified(&issuer(roles, scopes), flags), expected, "{roles} {scopes:?}");
    }

    let of_another = KeyHeadFields { issuer: subscriber().kid(), ..head_fields() };
    let tagged = KeyHeadFields { scope_tag: [0; 4], ..head_fields() };
    for (fields, field) in [(of_another, "issuer"), (tagged, "scope tag")] {
        let refused = fields.sign(publisher().keys()).unwrap().verify(&trust(), Some(NOW));
        assert_eq!(refused, Err(DistributionError::Value(field)));
    }
    let forged = head_fields().sign(subscriber().keys()).unwrap();
    assert_eq!(forged.verify(&trust(), Some(NOW)), Err(DistributionError::Signature));
    let genuine = head_fields().sign(publisher().keys()).unwrap();
    assert!(genuine.verify(&trust(), Some(NOT_AFTER + 1)).is_err());
}

#[test]
fn impossible_heads_are_not_signed_and_not_parsed() {
    let good = head_fields().sign(publisher().keys()).unwrap();
    for (field, offset, value) in
        [("wrap suite", 3, 3), ("flags", 4, 0x40), ("epoch", 12, 0), ("times", 29, 0x7F)]
    {
        let mut bytes = good.as_bytes().to_vec();
        bytes[offset] = value;
        assert_eq!(KeyHead::parse(&bytes).map(drop), Err(DistributionError::Value(field)));
    }
    for (field, fields) in [
        ("epoch", KeyHeadFields { epoch: 0, ..head_fields() }),
        ("times", KeyHeadFields { drop_ms: 0, ..head_fields() }),
        ("message suites", KeyHeadFields { message_suites: Vec::new(), ..head_fields() }),
        ("scope", KeyHeadFields { scope: "$share/a/b".to_owned(), ..head_fields() }),
        ("scope", KeyHeadFields { scope: "a/#/b".to_owned(), ..head_fields() }),
    ] {
        assert_eq!(fields.sign(publisher().keys()), Err(DistributionError::Value(field)));
    }
}

#[test]
fn an_epoch_is_linked_to_all_before_it_and_keeps_its_link_when_it_is_issued_again() {
    let fields = head_fields();
    let again =
        KeyHeadFields { created_ms: fields.created_ms + 1, flags: KeyHeadFlags::REISSUE, ..head_fields() };

    assert_eq!(fields.link(), hash(&[b"veil1 epoch", &fields.commitment, &[0; 32]]));
    assert_eq!(again.link(), fields.link());
    assert_ne!(KeyHeadFields { previous: [1; 32], ..head_fields() }.link(), fields.link());
}

#[test]
fn the_roster_root_is_a_merkle_root_over_sorted_leaves() {
    let kids: Vec<Kid> = (0..3_u8).map(|n| Kid::from_bytes([n; 8])).collect();
    let mut leaves: Vec<[u8; 32]> = kids.iter().map(|kid| hash(&[b"veil1 leaf", kid.as_bytes()])).collect();
    leaves.sort_unstable();
    let pair = hash(&[b"veil1 node", &leaves[0], &leaves[1]]);

    assert_eq!(roster_root(&BTreeSet::new()), [0; 32]);
    assert_eq!(roster_root(&BTreeSet::from([kids[0]])), hash(&[b"veil1 leaf", kids[0].as_bytes()]));
    assert_eq!(roster_root(&kids.into_iter().collect()), hash(&[b"veil1 node", &pair, &leaves[2]]));
}

#[test]
fn prekeys_lists_and_requests_are_read_back_and_verified() {
    assert_eq!(Prekey::parse(prekey().as_bytes()), Ok(prekey()));
    assert_eq!(prekey().verify(&trust(), NOW_MS), Ok(()));
    assert_eq!(prekey().verify(&trust(), NOW_MS + 2), Err(DistributionError::Value("not after")));

    assert_eq!(Crl::parse(crl().as_bytes()), Ok(crl()));
    assert_eq!(crl().verify(&trust()), Ok(()));

    assert_eq!(JoinRequest::parse(join_request().as_bytes()), Ok(join_request()));
    assert_eq!(join_request().verify(&trust(), Some(NOW)), Ok(()));

    let response = JoinResponse {
        request_nonce: [1; 16],
        nonce: [2; 16],
        created_ms: 3,
        x25519: [4; 32],
        flight: b"sealed",
    };
    let encoded = response.encode().unwrap();
    let (parsed, head) = JoinResponse::parse(&encoded).unwrap();
    assert_eq!((parsed, head), (response.clone(), &*response.head()));

    let finish = JoinFinish { mac: [5; 32] };
    assert_eq!(JoinFinish::parse(&finish.encode()), Ok(finish));
}

#[test]
fn a_revocation_list_counts_only_from_an_authority_that_is_trusted() {
    let publisher = publisher();
    let fields = CrlFields {
        number: 1,
        this_update: 0,
        next_update: 0,
        issuer: publisher.certificate().clone(),
        revoked: vec![],
    };
    let by_publisher = fields.sign(publisher.keys()).unwrap();
    let kid = publisher.kid();
    assert_eq!(by_publisher.verify(&trust()), Err(CertificateError::UnknownIssuer(kid).into()));

    let forged = CrlFields { number: 5, this_update: 0, next_update: 0, issuer: root(), revoked: vec![] };
    assert_eq!(forged.sign(publisher.keys()).unwrap().verify(&trust()), Err(DistributionError::Signature));

    let mut pinned = trust();
    let keys = keys("sub ed", "sub x");
    let without_ca = veil_common::fields(&keys, Roles::SUBSCRIBER, 1, "pinned").sign(&keys).unwrap();
    pinned.add(without_ca.clone()).unwrap();
    let fields = CrlFields { number: 1, this_update: 0, next_update: 0, issuer: without_ca, revoked: vec![] };
    let refused = fields.sign(&keys).unwrap().verify(&pinned);
    assert_eq!(refused, Err(CertificateError::IssuerNotCa(keys.kid()).into()));
}

#[test]
fn lists_out_of_order_are_refused() {
    let entry = |serial| Revoked { serial, reason: RevocationReason::Superseded };
    for serials in [[2, 1], [1, 1]] {
        let fields = CrlFields {
            number: 1,
            this_update: 0,
            next_update: 0,
            issuer: root(),
            revoked: serials.map(entry).to_vec(),
        };
        assert!(matches!(fields.sign(&ca_keys()), Err(DistributionError::Layout(_))));
    }
}

#[test]
fn topics_are_those_of_section_9() {
    let (scope, issuer, member) = (scope_hash(SCOPE), Kid::from_bytes([0xAB; 8]), Kid::from_bytes([1; 8]));
    let rows = [
        (DistributionTopic::Prekey { member }, "_veil/1/pre/0101010101010101"),
        (DistributionTopic::KeyHead { scope, issuer }, "_veil/1/kp/950537d6b35c9d57/abababababababab"),
        (
            DistributionTopic::Wrap { scope, issuer, member },
            "_veil/1/kp/950537d6b35c9d57/abababababababab/w/0101010101010101",
        ),
        (DistributionTopic::Join { issuer }, "_veil/1/jn/abababababababab"),
        (DistributionTopic::JoinResponse { member }, "_veil/1/jr/0101010101010101"),
        (DistributionTopic::Revocations { authority: issuer }, "_veil/1/crl/abababababababab"),
    ];
    let hash_text = Kid::from_bytes(scope).to_string();
    for (topic, expected) in rows {
        let expected = expected.replace("950537d6b35c9d57", &hash_text);
        assert_eq!(topic.to_string(), expected);
        assert_eq!(DistributionTopic::parse(&expected), Some(topic));
        for wrong in
            [expected.to_uppercase(), format!("{expected}/x"), expected[..expected.len() - 1].to_owned()]
        {
            assert_eq!(DistributionTopic::parse(&wrong), None, "{wrong}");
        }
    }
    assert!(hash_text.starts_with("950537d6"), "the tag is the beginning of the hash");
}

#[test]
fn a_scope_covers_another_if_every_topic_of_it_is_its_own() {
    for (outer, inner, expected) in [
        ("#", "a/b", true),
        ("#", "#", true),
        ("a/#", "a", true),
        ("a/#", "a/+/c", true),
        ("a/#", "a/#", true),
        ("a/#", "ab", false),
        ("a/+", "a/b", true),
        ("a/+", "a/+", true),
        ("a/+", "a/#", false),
        ("a/+", "a", false),
        ("a/b", "a/+", false),
        ("a/b", "a/b/c", false),
        ("+/b", "a/b", true),
        ("#", "$SYS/a", false),
        ("+/a", "$SYS/a", false),
        ("$SYS/#", "$SYS/a", true),
        ("a//#", "a//b", true),
        ("a/#/b", "a", false),
        ("#", "$share/g/a", false),
    ] {
        assert_eq!(scope_covers(outer, inner), expected, "{outer} over {inner}");
    }
}

proptest! {
    #[test]
    fn one_flipped_bit_spoils_every_signed_object(position in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let flipped = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let index = position.index(bytes.len());
            bytes[index] ^= 1 << bit;
            bytes
        };
        let head = flipped(head_fields().sign(publisher().keys()).unwrap().as_bytes());
        let accepted = KeyHead::parse(&head).is_ok_and(|(head, _)| head.verify(&trust(), Some(NOW)).is_ok());
        prop_assert!(!accepted, "head");
        let prekey = flipped(prekey().as_bytes());
        prop_assert!(!Prekey::parse(&prekey).is_ok_and(|prekey| prekey.verify(&trust(), NOW_MS).is_ok()), "prekey");
        let request = flipped(join_request().as_bytes());
        prop_assert!(!JoinRequest::parse(&request).is_ok_and(|request| request.verify(&trust(), Some(NOW)).is_ok()), "join");
        let list = flipped(crl().as_bytes());
        prop_assert!(!Crl::parse(&list).is_ok_and(|list| list.verify(&trust()).is_ok()), "list");
    }
}
