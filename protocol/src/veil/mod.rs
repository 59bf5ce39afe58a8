//! VEIL-1: what VeilMQ adds to MQTT (see `docs/veil1-protocol.md`).
//!
//! This module owns the byte layouts: registries, certificates, handshake messages, records, what
//! distributes keys, and the clear header of an envelope. It never opens an envelope and holds no key. Feature `channel`
//! adds the cryptography of the client-broker channel in [`channel`]; it changes no layout.

pub mod binding;
#[cfg(feature = "channel")]
pub mod channel;
pub mod distribution;
pub mod envelope;
pub mod fanout;
pub mod hello;
pub mod layout;
pub mod property_mode;
pub mod record;
pub mod registry;
pub mod vmc;

pub use registry::{Kid, Scheme, Schemes, Suite};
pub use vmc::{Certificate, CertificateError, CertificateFields, Roles};
