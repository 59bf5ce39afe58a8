//! The pure broker in a made-up world, for tests: shards, a store in memory and a virtual clock, driven by packets.
//!
//! It plays the driver and refuses nothing: effects go between shards, batches are made durable at once or when a test says
//! so, and what each client would have received is kept. Invariant: the same calls give the same bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod describe;
mod packets;
mod world;

pub use self::describe::describe_all;
pub use self::packets::{connect_v5, connect_v311, id, options, publish};
pub use self::world::{Conn, World};
