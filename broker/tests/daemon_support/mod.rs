//! Certificates for tests of the daemon.
#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test program uses a part")]

use veilmq_protocol::veil::channel::IdentityKeys;
use veilmq_protocol::veil::distribution::{Crl, CrlFields, RevocationReason, Revoked};
use veilmq_protocol::veil::{Certificate, CertificateFields, Roles};

/// The keys of a party; `number` tells parties apart.
pub(crate) fn keys(number: u8) -> IdentityKeys {
    IdentityKeys::from_seeds(&[number; 32], &[number; 32])
}

/// Certifies party `subject_number` with the keys of party `issuer_number`.
pub(crate) fn certificate(subject: &str, subject_number: u8, issuer_number: u8, roles: Roles) -> Certificate {
    let keys_of_subject = keys(subject_number);
    let fields = CertificateFields {
        roles,
        serial: 1,
        not_before: 0,
        not_after: u64::MAX / 2,
        ed25519: keys_of_subject.ed25519_public(),
        x25519: keys_of_subject.x25519_public(),
        subject: subject.into(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    fields.sign(&keys(issuer_number)).unwrap()
}

/// A root authority.
pub(crate) fn authority(number: u8) -> Certificate {
    certificate(&format!("authority-{number}"), number, number, Roles::CA)
}

/// A revocation list of an authority.
pub(crate) fn list(number: u8, list_number: u64, serials: &[u64]) -> Crl {
    let entry = |serial: &u64| Revoked { serial: *serial, reason: RevocationReason::Unspecified };
    let fields = CrlFields {
        number: list_number,
        this_update: 0,
        next_update: u64::MAX,
        issuer: authority(number),
        revoked: serials.iter().map(entry).collect(),
    };
    fields.sign(&keys(number)).unwrap()
}
