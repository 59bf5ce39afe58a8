//! What must hold for any bytes whatsoever: the bodies of the fuzz targets, usable without a fuzzer.
//!
//! Each function panics when a property is violated, and only then.
#![forbid(unsafe_code)]

mod channel;
mod client;
mod session;
mod wire;

pub use channel::channel;
pub use client::{client_distribution, client_session};
pub use session::session;
pub use wire::{framing, packet, topic, veil_certificate, veil_distribution, veil_envelope, veil_hello, veil_record};
