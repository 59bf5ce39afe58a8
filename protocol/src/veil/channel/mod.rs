//! The cryptography of the client-broker channel and of certificates.
//!
//! Owns the handshake, the key schedule and the record layer of VEIL-1 sections 2 to 6. Time and
//! randomness are arguments; nothing here does I/O. It refuses to open envelopes: it has no code
//! that derives a group or stream key.
//! Invariant: secrets are zeroized on drop, have no `Debug`, and are compared in constant time.

mod aead;
mod cbc_hmac;
#[cfg(test)]
mod erasure;
mod error;
mod established;
mod fanout;
mod flight;
mod group;
mod handshake_client;
mod handshake_server;
mod identity;
mod kdf;
mod one_trip_client;
mod one_trip_server;
mod opener;
mod operations;
mod property_mode;
mod record;
mod schedule;
mod sealer;
mod server_finish;
mod signature;
mod suite_keys;
mod ticket;
mod trust;

pub use error::{HandshakeError, RecordError};
pub use established::{Established, Predecessor, PropertyChannel};
pub use fanout::FanDelivery;
pub use group::{GROUP_TAG_LEN, GroupFan, GroupSealer};
pub use handshake_client::{AwaitServerFinish, AwaitServerHello, ClientHelloConfig, ClientStart};
pub use handshake_server::{
    AwaitClientFinish, AwaitPacket, Protection, ServerAccepted, ServerPolicy, ServerStart,
};
pub use identity::{Identity, IdentityKeys};
pub use kdf::{Secret32, derive, extract, hash, hmac};
pub use one_trip_client::{AwaitCompactAnswer, AwaitResumeAnswer, CompactStart, ResumeStart};
pub use one_trip_server::{ClientExpectation, CompactClient, ResumingClient};
pub use opener::{Content, OpenedRecord, RecordOpener};
pub use operations::Operations;
pub use property_mode::{PropertyError, PropertyOpener, PropertySealer};
pub use record::{REKEY_RECORDS, Side};
pub use sealer::{OpenRecord, RecordSealer, gbody_digest};
pub use signature::{SignatureError, kid, sign, verify};
pub use suite_keys::RecordTag;
pub use ticket::{Resumption, TicketContents, TicketId, TicketKeys};
pub use trust::TrustAnchors;
