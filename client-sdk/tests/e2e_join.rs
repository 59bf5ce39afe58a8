//! The online join against another implementation, and everything that must not pass (VEIL-1 section 9.1).
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::Value;
use veilmq_client::e2e::{
    GroupKey, Scope,
    join::{Answer, Asked, AwaitJoinResponse, JoinError, Joined},
};
use veilmq_protocol::veil::{
    Certificate, CertificateError, CertificateFields, Kid, Roles,
    channel::{Identity, IdentityKeys, TrustAnchors, hash},
    distribution::DistributionError,
};

const NOW: u64 = 1_790_000_300_000;
const SECONDS: Option<u64> = Some(NOW / 1_000);
const SKEW: u64 = 120_000;
const SCOPE: &str = "factory/line-3/#";
const EPOCH: u32 = 7;

fn vectors() -> Value {
    serde_json::from_str(include_str!("data/veil1-join-vectors.json")).unwrap()
}

fn bytes(part: &str, name: &str) -> Vec<u8> {
    let vectors = vectors();
    let text = vectors[part][name].as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn seed(name: &str) -> [u8; 32] {
    hash(&[b"veil1 test seed ", name.as_bytes()])
}

/// Gives these seeds one after the other, each as much as is asked for.
fn entropy(names: &[&str]) -> impl FnMut(&mut [u8]) {
    let mut seeds: Vec<[u8; 32]> = names.iter().rev().map(|name| seed(name)).collect();
    move |out| out.copy_from_slice(&seeds.pop().expect("no more is drawn")[..out.len()])
}

fn trust() -> TrustAnchors {
    let keys = IdentityKeys::from_seeds(&seed("ca"), &seed("ca x"));
    let fields = CertificateFields {
        roles: Roles::CA,
        serial: 1,
        not_before: 0,
        not_after: u64::MAX,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: "ca".to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    let mut anchors = TrustAnchors::new();
    anchors.add(fields.sign(&keys).unwrap()).unwrap();
    anchors
}

fn identity(name: &str, certificate: &str) -> Identity {
    let keys = IdentityKeys::from_seeds(&seed(&format!("{name} ed")), &seed(&format!("{name} x")));
    Identity::new(Certificate::parse(&bytes("common", certificate)).unwrap(), keys).unwrap()
}

fn issuer() -> Identity {
    identity("pub", "cert_p")
}

fn member() -> Identity {
    identity("sub", "cert_s")
}

fn begin() -> (AwaitJoinResponse, Vec<u8>) {
    let scope = Scope::new(SCOPE).unwrap();
    let mut entropy = entropy(&["join ns", "join eph s"]);
    AwaitJoinResponse::begin(issuer().kid(), &scope, &member(), Some(NOW), &mut entropy).unwrap()
}

fn asked(request: &[u8]) -> Result<Asked, JoinError> {
    Asked::read(request, issuer().kid(), &trust(), Some(NOW), SKEW)
}

/// What the issuer makes of an answer: its response, the confirmation it takes, and the pairwise key.
fn answer(part: &str) -> (Vec<u8>, veilmq_client::e2e::join::AwaitJoinFinish) {
    let (_, request) = begin();
    let head = bytes("common", "head");
    let key = GroupKey::new(&bytes("common", "key").try_into().unwrap());
    let answer = match part {
        "group" => Answer::Keys { head: &head, keys: &[(EPOCH, &key)] },
        "pairwise" => Answer::Keys { head: &[], keys: &[] },
        _ => Answer::Refusal(3),
    };
    let mut entropy = entropy(&["join np", "join eph p"]);
    asked(&request).unwrap().answer(&answer, &issuer(), Some(NOW + 20), &mut entropy).unwrap()
}

fn handle(response: &[u8]) -> Result<Joined, JoinError> {
    begin().0.handle(response, &trust(), SECONDS)
}

#[test]
fn both_sides_make_the_bytes_of_another_implementation() {
    assert_eq!(begin().1, bytes("common", "request"));
    for part in ["group", "pairwise"] {
        let (response, awaiting) = answer(part);
        assert_eq!(response, bytes(part, "response"), "{part}");

        let joined = handle(&response).unwrap();

        assert_eq!(joined.finish, bytes(part, "finish"), "{part}");
        assert_eq!(joined.issuer.kid(), issuer().kid());
        assert!(joined.pairwise == pairwise(part), "{part}");
        let (confirmed, pairwise_key) = awaiting.handle(&joined.finish).unwrap();
        assert_eq!(confirmed, member().kid());
        assert!(pairwise_key == pairwise(part), "{part}");
    }
    let joined = handle(&answer("group").0).unwrap();
    assert_eq!(joined.head.unwrap().as_bytes(), bytes("common", "head"));
    let key = GroupKey::new(&bytes("common", "key").try_into().unwrap());
    assert!(joined.keys == [(EPOCH, key)]);
}

/// The pairwise key of the other implementation.
fn pairwise(part: &str) -> GroupKey {
    GroupKey::new(&bytes(part, "pairwise").try_into().unwrap())
}

#[test]
fn a_refusal_is_authentic_and_says_why() {
    assert_eq!(answer("refusal").0, bytes("refusal", "response"));
    assert!(matches!(handle(&bytes("refusal", "response")), Err(JoinError::Refused(3))));
}

#[test]
fn a_flipped_bit_anywhere_in_any_message_ends_the_join() {
    let request = bytes("common", "request");
    for bit in 0..8 * request.len() {
        let mut changed = request.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(asked(&changed).is_err(), "request, bit {bit}");
    }
    let response = bytes("group", "response");
    for bit in 0..8 * response.len() {
        let mut changed = response.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(handle(&changed).is_err(), "response, bit {bit}");
    }
    let finish = bytes("group", "finish");
    for bit in 0..8 * finish.len() {
        let mut changed = finish.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(answer("group").1.handle(&changed).is_err(), "finish, bit {bit}");
    }
}

#[test]
fn who_is_not_trusted_or_not_meant_is_refused() {
    let request = bytes("common", "request");
    let other = Kid::from_bytes([9; 8]);
    let to_other = Asked::read(&request, other, &trust(), Some(NOW), SKEW);
    assert!(matches!(to_other, Err(JoinError::OtherIssuer(kid)) if kid == issuer().kid()));
    let unknown = Asked::read(&request, issuer().kid(), &TrustAnchors::new(), Some(NOW), SKEW);
    assert!(matches!(
        unknown,
        Err(JoinError::Object(DistributionError::Certificate(CertificateError::UnknownIssuer(_))))
    ));
    let late = Asked::read(&request, issuer().kid(), &trust(), Some(NOW + SKEW + 1), SKEW);
    assert!(matches!(late, Err(JoinError::ClockSkew { away_ms }) if away_ms == SKEW + 1));
    let stranger = begin().0.handle(&bytes("group", "response"), &TrustAnchors::new(), SECONDS);
    assert!(matches!(
        stranger,
        Err(JoinError::Object(DistributionError::Certificate(CertificateError::UnknownIssuer(_))))
    ));
}

#[test]
fn the_answer_to_another_request_is_not_believed() {
    let scope = Scope::new(SCOPE).unwrap();
    let mut entropy = entropy(&["another nonce", "another key"]);
    let (awaiting, _) =
        AwaitJoinResponse::begin(issuer().kid(), &scope, &member(), Some(NOW), &mut entropy).unwrap();

    let outcome = awaiting.handle(&bytes("group", "response"), &trust(), SECONDS);

    assert!(matches!(outcome, Err(JoinError::OtherRequest)));
}

#[test]
fn an_issuer_cannot_give_a_key_that_its_head_does_not_commit_to() {
    let (_, request) = begin();
    let head = bytes("common", "head");
    let other = GroupKey::new(&[8; 32]);
    for keys in [vec![(EPOCH, &other)], vec![(EPOCH - 1, &other)], Vec::new()] {
        let answer = Answer::Keys { head: &head, keys: &keys };
        let mut entropy = entropy(&["join np", "join eph p"]);
        let (response, _) =
            asked(&request).unwrap().answer(&answer, &issuer(), Some(NOW), &mut entropy).unwrap();

        assert!(matches!(handle(&response), Err(JoinError::Commitment(EPOCH))));
    }
}
