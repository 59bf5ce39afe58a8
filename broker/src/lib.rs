//! The VeilMQ daemon: everything around the pure broker of `veilmq-core`.
//!
//! Threads, sockets, storage, the broker's identity, the admin listener and the command line live here; what MQTT means does not.

pub mod access;
pub mod admin;
pub mod bridge;
pub mod cli;
pub mod clock;
mod command_line;
pub mod files;
mod gate;
mod http_api;
pub mod identity;
pub mod listener;
pub mod logging;
mod passwd;
mod proxy;
pub mod run;
pub mod shard;
pub mod store;
pub mod tls;
mod transport;
pub mod trust;
mod upkeep;
mod watched;
mod websocket;
