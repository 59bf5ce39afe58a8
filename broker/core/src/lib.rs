//! The pure VeilMQ broker: connections, sessions, routing and storage records.
//!
//! No clock, no randomness, no network, no disk: time and entropy are arguments ([`Environment`]), the world speaks through
//! [`Input`] and is asked through [`Effect`]. A driver owns the sockets and the store; a [`Shard`] owns everything else that
//! one thread needs, and [`Shared`] is what shards have in common.
//!
//! Payloads are opaque here ([`Payload`]): the core moves them, and looks at no more of them than the clear header of an envelope,
//! where a [`Policy`] asks for one.

mod access;
mod backlog;
mod capabilities;
mod connection;
mod durability;
mod e2e;
mod effect;
mod entrance;
mod explanation;
mod farewell;
mod groups;
mod handshakes;
mod id;
mod in_flight;
mod joins;
mod log_limit;
mod matches;
mod memory;
mod message;
mod outbound;
mod outbox;
mod pressure;
mod queue;
mod record;
mod recovery;
mod replays;
mod retained;
mod routes;
mod session;
mod settings;
mod shard;
mod share;
mod shared;
mod source;
mod standing;
mod stats;
mod storage;
mod sys;
mod takeovers;
mod time;
mod waiting;

/// The target of log lines on clients that connect and disconnect, so that they can be left out.
pub const CONNECTION_LINES: &str = "veilmq_connections";

pub use self::access::{
    Access, AccessTables, Actions, Admission, CertificateField, CertificateFields, Command, ControlTopic,
    ControlTopics, Credentials, Holder, Role, RoleDefaults, RoleRule, Roles, Rule, RuleEffect, Rules,
    Stage as RuleStage, Subject, Template, TemplateError, Terms, Verdict, Visitor,
};
pub use self::capabilities::Capabilities;
pub use self::connection::Arrival;
pub use self::durability::{Promise, RelaxedTopics};
pub use self::e2e::{
    DistributionRule, Enforcement, MessageFormat, Policies, Policy, PolicyError, PolicySample,
    RequiredChannel, RevocationError,
};
pub use self::effect::{BridgeErrand, Effect, Input, Parcel, Reader};
pub use self::entrance::{Entrance, EntranceId, Versions};
pub use self::groups::{FanOut, FanOutForm};
pub use self::id::{ConnectionId, IdHasher, IdMap, MessageId, SessionId, ShardIndex, Ticket};
pub use self::matches::{Matches, Target};
pub use self::memory::MemoryStore;
pub use self::message::{Expiry, Message, MessageParts, Payload};
pub use self::outbox::Outbox;
pub use self::pressure::MemoryPressure;
pub use self::record::{
    Record, Reference, SessionRecord, Stage, Store, StoreError, SubscriptionRecord, WillRecord,
};
pub use self::recovery::{Job, Part, Recovery, RecoveryPart, RecoverySummary};
pub use self::settings::{Settings, SettingsInForce};
pub use self::shard::{
    ConnectionSummary, RetainedPart, RetainedSummary, SessionDetail, SessionQuery, SessionSummary, Shard,
};
pub use self::share::Allotment;
pub use self::shared::{OneTrip, Shared, VeilServer};
pub use self::source::Source;
pub use self::stats::{Sample, SampleKind, Stats, Totals};
pub use self::storage::StorageState;
pub use self::sys::{SysReport, sys_values};
pub use self::time::{Environment, Moment};
