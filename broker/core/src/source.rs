//! Whose a retained message is, so that it can be held against what its publisher may do when it is sent to somebody.
//!
//! Names only: the sessions and connections that they belonged to may be long gone. Invariant: a source says no more than the
//! rules are asked with.

use std::sync::Arc;

use crate::access::CertificateFields;

/// The client that a message came from, as rules know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// The name by which rules know the client; None for one without a user name.
    pub user: Option<Arc<str>>,
    /// The name of the listener it came by, [`crate::Entrance::name`]; None if that is not known.
    pub listener: Option<Arc<str>>,
    /// Somebody who vouches for the client says what it may do, and not the rules of that listener.
    pub is_vouched: bool,
    /// What its certificate says, if the rules of that listener went by certificates.
    pub certificate: Option<Arc<CertificateFields>>,
}

impl Source {
    /// Returns the bytes that it occupies in memory, at most: names may be shared with others.
    pub(crate) fn size_bytes(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let certificate = self.certificate.as_ref().map_or(0, |certificate| certificate.size_bytes());
        size_of::<Self>() + self.client_id.len() + text(&self.user) + text(&self.listener) + certificate
    }
}
