//! Certificates and keys of VEIL-1 for tests: an authority, and whom it has certified.
//!
//! Everything follows from names, so that the same name is the same party in every process. For tests only.

use std::sync::Arc;

use veilmq_protocol::veil::channel::{Identity, IdentityKeys, TrustAnchors, hash};
use veilmq_protocol::veil::{Certificate, CertificateFields, Roles};

const AUTHORITY: &str = "authority";

/// The keys of the party with this name.
#[must_use]
pub fn keys(name: &str) -> IdentityKeys {
    let seed = |purpose: &str| hash(&[name.as_bytes(), purpose.as_bytes()]);
    IdentityKeys::from_seeds(&seed("ed25519"), &seed("x25519"))
}

/// Trust in the authority, and in nobody else.
///
/// # Panics
/// Never: its certificate is in order.
#[must_use]
pub fn anchors() -> TrustAnchors {
    let keys = keys(AUTHORITY);
    let mut anchors = TrustAnchors::new();
    anchors.add(certificate(AUTHORITY, Roles::CA, &[], &keys)).expect("an authority has signed itself");
    anchors
}

/// Someone the authority has certified in these roles for these scopes.
///
/// # Panics
/// If a scope is none.
#[must_use]
pub fn identity(name: &str, roles: Roles, scopes: &[&str]) -> Arc<Identity> {
    let certificate = certificate(name, roles, scopes, &keys(AUTHORITY));
    Arc::new(Identity::new(certificate, keys(name)).expect("the keys are those of the certificate"))
}

fn certificate(name: &str, roles: Roles, scopes: &[&str], authority: &IdentityKeys) -> Certificate {
    let [a, b, c, d, e, f, g, h, ..] = hash(&[b"serial", name.as_bytes()]);
    let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    let publishes = roles.intersects(Roles::PUBLISHER | Roles::KEY_AUTHORITY);
    let subscribes = roles.contains(Roles::SUBSCRIBER);
    let keys = keys(name);
    let fields = CertificateFields {
        roles,
        serial: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        not_before: 0,
        not_after: u64::MAX,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: name.to_owned(),
        publish_scopes: if publishes { scopes.clone() } else { Vec::new() },
        subscribe_scopes: if subscribes { scopes } else { Vec::new() },
        path_length: None,
        revocation_topic: None,
    };
    fields.sign(authority).expect("the fields of a certificate are in order")
}
