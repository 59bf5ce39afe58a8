//! What travels so that members get their keys: KEYHEADs, wraps, prekeys, revocation lists and joins (VEIL-1 sections 3.2
//! and 9).
//!
//! This module owns the byte layouts and the topics, and with feature `channel` the signatures. It has no code that derives,
//! wraps or unwraps a group key, so a broker may link all of it. Invariant: an object that was parsed keeps the bytes it was
//! parsed from, and its fields are those of the bytes.

mod crl;
mod head;
mod join;
mod pair;
mod prekey;
mod signed;
#[cfg(feature = "channel")]
mod signing;
mod topic;
mod wrap;

use super::{
    envelope::MAGIC,
    layout::{LayoutError, Reader},
    vmc::CertificateError,
};

#[cfg(feature = "channel")]
pub use self::signing::{roster_root, scope_hash, scope_tag};
pub use self::{
    crl::{Crl, CrlFields, RevocationReason, Revoked},
    head::{KeyHead, KeyHeadFields, KeyHeadFlags, WrapSuite},
    join::{JoinFinish, JoinRequest, JoinRequestFields, JoinResponse},
    pair::Pair,
    prekey::{Prekey, PrekeyFields},
    signed::Signed,
    topic::{DistributionTopic, SCOPE_HASH_LEN},
    wrap::{BUNDLE_MEMBERS_MAX, Wrap, WrapKind, bundle, put_bundle},
};

/// Why something that came over a distribution topic is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DistributionError {
    /// The bytes do not have the layout.
    #[error("layout: {0}")]
    Layout(#[from] LayoutError),
    /// It is another object, or none of VEIL-1.
    #[error("not a VEIL-1 object of type {expected:#04x}")]
    Type {
        /// The type byte it should have.
        expected: u8,
    },
    /// A field has a value that is not allowed; the field is named.
    #[error("the value of {0} is not allowed")]
    Value(&'static str),
    /// The certificate in it is malformed or not trusted.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate does not allow its subject to issue this.
    #[error("the certificate does not cover the scope")]
    Scope,
    /// The signature does not verify.
    #[error("signature does not verify")]
    Signature,
}

/// Reads `"VE"` and the type byte.
fn read_type(reader: &mut Reader<'_>, expected: u8) -> Result<(), DistributionError> {
    let [a, b, kind] = reader.array("type").map_err(|_| DistributionError::Type { expected })?;
    if [a, b] == MAGIC && kind == expected { Ok(()) } else { Err(DistributionError::Type { expected }) }
}

fn text(bytes: &[u8], field: &'static str) -> Result<alloc::string::String, DistributionError> {
    core::str::from_utf8(bytes).map(Into::into).map_err(|_| DistributionError::Value(field))
}
