//! The pure VeilMQ broker: connections, sessions, routing and storage records.
//!
//! No clock, no randomness, no network, no disk: time and entropy are arguments ([`Environment`]), the world speaks through
//! [`Input`] and is asked through [`Effect`]. A driver owns the sockets and the store; a [`Shard`] owns everything else that
//! one thread needs, and [`Shared`] is what shards have in common.
//!
//! Payloads are opaque here ([`Payload`]): the core moves them and never looks into them.

mod id;
mod message;
mod record;
mod settings;
mod time;

pub use self::id::{ConnectionId, MessageId, SessionId, ShardIndex, Ticket};
pub use self::message::{Expiry, Message, MessageParts, Payload};
pub use self::record::{
    Record, Reference, SessionRecord, Stage, Store, StoreError, SubscriptionRecord, WillRecord,
};
pub use self::settings::Settings;
pub use self::time::{Environment, Moment};
