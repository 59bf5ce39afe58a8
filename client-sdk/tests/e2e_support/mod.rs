//! What the end-to-end tests share: reference values, members of a group, counted entropy.

#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::sync::Arc;

use serde_json::Value;
use veilmq_client::e2e::{
    E2e, EnvelopeOptions, EpochTiming, GroupKey, Keyring, Limits, Member, Scope, ScopeConfig,
};
use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Certificate, CertificateFields, Kid, Roles,
        channel::{Identity, IdentityKeys, hash},
    },
};

/// A moment inside the validity of the reference certificates, in unix milliseconds.
pub(crate) const NOW: u64 = 1_790_000_123_456;
pub(crate) const SCOPE: &str = "factory/line-3/#";
pub(crate) const TOPIC: &str = "factory/line-3/sensor/temperature";
pub(crate) const EPOCH: u32 = 7;
pub(crate) const JSON: &[u8] = br#"{"seq":42,"t":21.5,"unit":"C"}"#;

pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../data/veil1-vectors.json")).unwrap()
}

pub(crate) fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The deterministic keys of the reference implementation.
pub(crate) fn seed(name: &str) -> [u8; 32] {
    hash(&[b"veil1 test seed ", name.as_bytes()])
}

pub(crate) fn topic(name: &str) -> TopicName<'_> {
    TopicName::new(name).unwrap()
}

pub(crate) fn plain() -> PublishProperties<'static> {
    PublishProperties::default()
}

/// The reference publisher `press-07`.
pub(crate) fn press() -> Member {
    let certificate = Certificate::parse(&hex(&vectors()["certs"]["pub"])).unwrap();
    let keys = IdentityKeys::from_seeds(&seed("pub ed"), &seed("pub x"));
    Member::Identity(Arc::new(Identity::new(certificate, keys).unwrap()))
}

pub(crate) fn unsigned(kid: u8) -> Member {
    Member::Unsigned(Kid::from_bytes([kid; 8]))
}

/// A publisher's certificate by the reference CA, for `seed(name)`.
pub(crate) fn certificate(name: &str, publish_scopes: &[&str]) -> Certificate {
    let keys = IdentityKeys::from_seeds(&seed(name), &seed(name));
    CertificateFields {
        roles: Roles::PUBLISHER,
        serial: 9,
        not_before: 1_790_000_000,
        not_after: 1_821_536_000,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: name.into(),
        publish_scopes: publish_scopes.iter().map(|scope| (*scope).into()).collect(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    }
    .sign(&IdentityKeys::from_seeds(&seed("ca"), &seed("ca")))
    .unwrap()
}

/// The keyring of the reference envelopes: epoch 7, active from the beginning.
pub(crate) fn keyring() -> Keyring {
    let mut keyring = Keyring::explicit(EpochTiming::default());
    keyring.insert(EPOCH, GroupKey::new(&seed("gk epoch 7")), 0).unwrap();
    keyring
}

/// A member with one scope.
pub(crate) fn member_with(member: Member, scope: &str, keyring: Keyring, options: EnvelopeOptions) -> E2e {
    let mut e2e = E2e::new(member, Limits::default());
    e2e.add_scope(ScopeConfig::envelope(Scope::new(scope).unwrap(), keyring, options)).unwrap();
    e2e
}

/// A member of the reference scope with the reference key.
pub(crate) fn member(member: Member, options: EnvelopeOptions) -> E2e {
    member_with(member, SCOPE, keyring(), options)
}

/// Entropy that never repeats: a counter.
pub(crate) fn counter() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u64;
    move |bytes| {
        for byte in bytes {
            next += 1;
            *byte = (next * 37 % 251) as u8;
        }
    }
}
