//! The topics of key distribution (VEIL-1 section 9): ordinary names, because brokers refuse clients on `$...`.
//!
//! Invariant: parsing accepts exactly what `Display` writes.

use alloc::string::ToString;
use core::fmt;

use crate::veil::registry::Kid;

/// Length of the scope hash in topics, in bytes; it is written as twice as many hexadecimal digits.
pub const SCOPE_HASH_LEN: usize = 8;

/// A topic of key distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DistributionTopic {
    /// `_veil/1/pre/<kid>`: the prekey of a member, retained.
    Prekey {
        /// The member.
        member: Kid,
    },
    /// `_veil/1/kp/<scope hash>/<issuer kid>`: KEYHEAD and bundle, retained.
    KeyHead {
        /// First 8 bytes of `H("veil1 scope" || scope)`.
        scope: [u8; SCOPE_HASH_LEN],
        /// The issuer.
        issuer: Kid,
    },
    /// `_veil/1/kp/<scope hash>/<issuer kid>/w/<kid>`: the wrap of one member, retained.
    Wrap {
        /// First 8 bytes of `H("veil1 scope" || scope)`.
        scope: [u8; SCOPE_HASH_LEN],
        /// The issuer.
        issuer: Kid,
        /// The member.
        member: Kid,
    },
    /// `_veil/1/jn/<issuer kid>`: JOIN_REQ and JOIN_FIN.
    Join {
        /// The issuer.
        issuer: Kid,
    },
    /// `_veil/1/jr/<kid>`: JOIN_RSP.
    JoinResponse {
        /// The member.
        member: Kid,
    },
    /// `_veil/1/crl/<ca kid>`: the revocation list, retained.
    Revocations {
        /// The authority.
        authority: Kid,
    },
}

impl DistributionTopic {
    /// What every one of them begins with.
    pub const PREFIX: &'static str = "_veil/1/";

    /// Recognises a Topic Name; `None` for any other.
    #[must_use]
    pub fn parse(topic: &str) -> Option<Self> {
        let mut levels = topic.strip_prefix(Self::PREFIX)?.split('/');
        let (kind, first) = (levels.next()?, levels.next()?);
        let found = match kind {
            "pre" => Self::Prekey { member: kid(first)? },
            "jn" => Self::Join { issuer: kid(first)? },
            "jr" => Self::JoinResponse { member: kid(first)? },
            "crl" => Self::Revocations { authority: kid(first)? },
            "kp" => {
                let (scope, issuer) = (*kid(first)?.as_bytes(), kid(levels.next()?)?);
                match levels.next() {
                    None => Self::KeyHead { scope, issuer },
                    Some("w") => Self::Wrap { scope, issuer, member: kid(levels.next()?)? },
                    Some(_) => return None,
                }
            }
            _ => return None,
        };
        levels.next().is_none().then_some(found)
    }
}

/// Sixteen lowercase hexadecimal digits; a scope hash has the same form.
fn kid(level: &str) -> Option<Kid> {
    let kid: Kid = level.parse().ok()?;
    (kid.to_string() == level).then_some(kid)
}

impl fmt::Display for DistributionTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        match self {
            Self::Prekey { member } => write!(f, "pre/{member}"),
            Self::KeyHead { scope, issuer } => write!(f, "kp/{}/{issuer}", Kid::from_bytes(*scope)),
            Self::Wrap { scope, issuer, member } => {
                write!(f, "kp/{}/{issuer}/w/{member}", Kid::from_bytes(*scope))
            }
            Self::Join { issuer } => write!(f, "jn/{issuer}"),
            Self::JoinResponse { member } => write!(f, "jr/{member}"),
            Self::Revocations { authority } => write!(f, "crl/{authority}"),
        }
    }
}
