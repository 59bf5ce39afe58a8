//! A bridge between this broker and another one, as a function: bytes in, bytes out.
//!
//! A bridge is a client of both brokers. What it takes from the one it gives to the other *under the same Packet Identifier*,
//! and it passes on an acknowledgement only when it was given one. So whatever was not acknowledged to the end is still held by
//! one of the two brokers, and a bridge keeps nothing that a crash could lose: QoS 1 stays at least once, QoS 2 exactly once,
//! over restarts of either broker and of the bridge.
//!
//! It has no sockets and no clock: whoever drives a [`Link`] passes bytes and the time, and writes what the link puts out.
//! Invariant: a link never acknowledges a message that the other side has not acknowledged, except one that no topic mapping
//! wants.

mod blame;
mod echo;
mod error;
mod flow;
mod inbox;
mod keep_alive;
mod leaving;
mod link;
mod mapping;
mod opening;
mod relay;
mod settings;

pub use blame::{Blame, Caution, Suspect, TRIES};
pub use error::Fault;
pub use link::{Event, Link, Side};
pub use mapping::{Direction, Mapping, MappingError};
pub use settings::{Filters, LocalSettings, RemoteSettings, Settings};
