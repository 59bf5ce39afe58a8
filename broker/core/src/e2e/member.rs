//! What is kept of a client's certificate while it is connected: who it is, and what it may publish.

use std::sync::Arc;

use veilmq_protocol::veil::channel::TrustAnchors;
use veilmq_protocol::veil::vmc::scope_covers;
use veilmq_protocol::veil::{Certificate, Kid, Roles};

/// A client with a VEIL-1 identity.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) kid: Kid,
    /// Its public key.
    pub(crate) ed25519: [u8; 32],
    roles: Roles,
    /// Who issued its certificate, and under which number.
    issuer: Kid,
    serial: u64,
    /// The scopes it may publish to; none restricts nothing (decision record 0200).
    publish_scopes: Box<[String]>,
}

impl Member {
    pub(crate) fn of(certificate: &Certificate) -> Arc<Self> {
        Arc::new(Self {
            kid: certificate.kid(),
            ed25519: certificate.ed25519,
            roles: certificate.roles,
            issuer: certificate.issuer(),
            serial: certificate.serial,
            publish_scopes: certificate.publish_scopes.clone().into_boxed_slice(),
        })
    }

    /// Tells whether its certificate still counts, as far as that does not depend on time.
    pub(crate) fn is_trusted(&self, trust: &TrustAnchors) -> bool {
        trust.vouch_for(self.issuer, self.serial)
    }

    /// Tells whether its certificate allows it to publish to a scope.
    pub(crate) fn may_publish(&self, scope: &str) -> bool {
        let scopes = &self.publish_scopes;
        self.roles.contains(Roles::PUBLISHER)
            && (scopes.is_empty() || scopes.iter().any(|outer| scope_covers(outer, scope)))
    }
}
