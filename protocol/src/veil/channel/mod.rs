//! The cryptography of the client-broker channel and of certificates.
//!
//! Owns the handshake, the key schedule and the record layer of VEIL-1 sections 2 to 6. Time and
//! randomness are arguments; nothing here does I/O. It refuses to open envelopes: it has no code
//! that derives a group or stream key.
//! Invariant: secrets are zeroized on drop, have no `Debug`, and are compared in constant time.

mod identity;
mod kdf;
mod signature;
mod trust;

pub use identity::{Identity, IdentityKeys};
pub use kdf::{Secret32, derive, extract, hash, hmac};
pub use signature::{SignatureError, kid, sign, verify};
pub use trust::TrustAnchors;
