//! What the VEIL-1 tests share: the vectors, their deterministic inputs, and a small cast.
#![cfg(feature = "channel")]
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each test binary uses its own part")]

pub(crate) mod handshake;
pub(crate) mod records;

use serde_json::Value;
use veilmq_protocol::veil::{
    Certificate, CertificateFields, Roles,
    channel::{Identity, IdentityKeys, TrustAnchors, hash},
};

pub(crate) const NOT_BEFORE: u64 = 1_790_000_000;
pub(crate) const NOT_AFTER: u64 = 1_821_536_000;
pub(crate) const NOW: u64 = 1_790_000_300;

/// The vectors of VEIL-1, made by an independent implementation.
pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../data/veil1-vectors.json")).unwrap()
}

/// The text at a JSON pointer.
pub(crate) fn text<'a>(vectors: &'a Value, pointer: &str) -> &'a str {
    let value = vectors.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no text at {pointer}"))
}

/// The bytes written in hexadecimal at a JSON pointer.
pub(crate) fn bytes(vectors: &Value, pointer: &str) -> Vec<u8> {
    unhex(text(vectors, pointer))
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "odd number of digits");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The seed the vectors derive each key from.
pub(crate) fn seed(name: &str) -> [u8; 32] {
    hash(&[b"veil1 test seed ", name.as_bytes()])
}

pub(crate) fn keys(ed25519: &str, x25519: &str) -> IdentityKeys {
    IdentityKeys::from_seeds(&seed(ed25519), &seed(x25519))
}

pub(crate) fn ca_keys() -> IdentityKeys {
    keys("ca", "ca x")
}

pub(crate) fn fields(keys: &IdentityKeys, roles: Roles, serial: u64, subject: &str) -> CertificateFields {
    CertificateFields {
        roles,
        serial,
        not_before: NOT_BEFORE,
        not_after: NOT_AFTER,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.into(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    }
}

pub(crate) fn root() -> Certificate {
    let ca = ca_keys();
    fields(&ca, Roles::CA, 0, "root").sign(&ca).unwrap()
}

pub(crate) fn trust() -> TrustAnchors {
    let mut trust = TrustAnchors::new();
    trust.add(root()).unwrap();
    trust
}

pub(crate) fn identity(ed25519: &str, x25519: &str, fields: &CertificateFields) -> Identity {
    let certificate = fields.sign(&ca_keys()).unwrap();
    Identity::new(certificate, keys(ed25519, x25519)).unwrap()
}

/// The client of the vectors.
pub(crate) fn publisher() -> Identity {
    let fields = fields(&keys("pub ed", "pub x"), Roles::PUBLISHER, 1, "press-07");
    identity("pub ed", "pub x", &fields)
}

pub(crate) fn subscriber() -> Identity {
    let fields = fields(&keys("sub ed", "sub x"), Roles::SUBSCRIBER, 2, "lake-1");
    identity("sub ed", "sub x", &fields)
}

/// The broker of the vectors.
pub(crate) fn broker() -> Identity {
    let fields = fields(&keys("broker ed", "broker x"), Roles::BROKER, 3, "broker-a");
    identity("broker ed", "broker x", &fields)
}
