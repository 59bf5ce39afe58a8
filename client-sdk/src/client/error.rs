//! What can go wrong for the application, one enum per operation.

use std::{io, time::Duration};

use thiserror::Error;
use veilmq_protocol::{EncodeError, ReasonCode, TopicError};

use crate::{
    e2e::{ConfigError, NamingError, SealError, distribution::RosterError},
    session::{CloseReason, DeliveryError, ReauthenticationError, with_text},
};

/// Why no connection came about.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No TCP connection to the broker.
    #[error("cannot reach {address}: {error}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What sort of failure it is; of TLS, [`InvalidData`](io::ErrorKind::InvalidData).
        kind: io::ErrorKind,
        /// What the operating system said.
        error: String,
    },
    /// The connection ended before it was open.
    #[error("{address}: {reason}")]
    Failed {
        /// Host and port.
        address: String,
        /// Why.
        reason: CloseReason,
    },
    /// A VEIL-1 channel was asked for, and something it needs is missing; connecting without would be a downgrade.
    #[error("no VEIL-1 channel without {0}")]
    ChannelIncomplete(&'static str),
    /// The end-to-end scopes are not consistent.
    #[error("end-to-end scope: {0}")]
    Scope(#[from] ConfigError),
    /// Keys are to be issued or received, and something this needs is missing.
    #[error("no keys without {0}")]
    KeysIncomplete(&'static str),
    /// Of so many messages on their way, not all could be told from repetitions (VEIL-1 section 12.2).
    #[error("a receive maximum of {0} is too much for end-to-end scopes, which take 1,023 at most")]
    ReceiveMaximum(u16),
    /// A member that was named cannot be admitted.
    #[error("the certificate of a member: {0}")]
    Member(#[from] RosterError),
    /// The saved state cannot be used.
    #[error("the saved state: {0}")]
    State(String),
    /// The Will is for an end-to-end scope and cannot be sealed.
    #[error("the will cannot be sealed: {0}")]
    Will(#[from] SealError),
    /// The topic of the Will is not a Topic Name.
    #[error("the will topic is invalid: {0}")]
    WillTopic(#[from] TopicError),
    /// The options make no valid CONNECT.
    #[error("the connection options are invalid: {0}")]
    Options(#[from] EncodeError),
}

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic is not a Topic Name.
    #[error("topic {topic:?}: {error}")]
    Topic {
        /// What was given.
        topic: String,
        /// What is wrong with it.
        error: TopicError,
    },
    /// Plaintext was to be published on an end-to-end scope.
    #[error(
        "topic {topic:?} is in the end-to-end scope {scope:?}: only sealed messages may be published there"
    )]
    ScopeIsSealed {
        /// The topic.
        topic: String,
        /// The scope it belongs to.
        scope: String,
    },
    /// The message cannot be sealed.
    #[error("the message for {topic:?} cannot be sealed: {error}")]
    Seal {
        /// The topic.
        topic: String,
        /// Why.
        error: SealError,
    },
    /// QoS 0 is not kept while there is no connection.
    #[error("not connected, and QoS 0 is not kept")]
    NotConnected,
    /// The broker did not take the message.
    #[error("topic {topic:?}: {error}")]
    Delivery {
        /// The topic.
        topic: String,
        /// Why.
        error: DeliveryError,
    },
    /// The client is closed.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}

/// Why a subscription was not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The filter is not a Topic Filter.
    #[error("topic filter {filter:?}: {error}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        error: TopicError,
    },
    /// The filter touches a blind scope and has no tokens there.
    #[error("topic filter {filter:?} cannot be blind: {error}")]
    Naming {
        /// The filter.
        filter: String,
        /// Why.
        error: NamingError,
    },
    /// No Local on a Shared Subscription ([MQTT-3.8.3-4]).
    #[error("topic filter {filter:?}: a shared subscription cannot exclude the client's own messages")]
    NoLocalShared {
        /// The filter.
        filter: String,
    },
    /// The broker refused.
    #[error("the broker refused the subscription to {filter:?}: {}", with_text(*reason, text.as_deref()))]
    Refused {
        /// The filter.
        filter: String,
        /// Its Reason Code.
        reason: ReasonCode,
        /// The broker's Reason String.
        text: Option<String>,
    },
    /// The request is larger than the broker accepts.
    #[error("the packet of {bytes} bytes exceeds the broker's limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The broker's Maximum Packet Size.
        bytes_max: usize,
    },
    /// The broker is connected and said nothing for as long as [an answer may take](crate::Builder::answer_timeout).
    #[error("the broker did not answer SUBSCRIBE to {} within {after:?}", quoted(filters))]
    NoAnswer {
        /// The filters.
        filters: Vec<String>,
        /// How long it was waited for.
        after: Duration,
    },
    /// The client is closed.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}

fn quoted(filters: &[String]) -> String {
    filters.iter().map(|filter| format!("{filter:?}")).collect::<Vec<_>>().join(", ")
}

/// Why unsubscribing or disconnecting failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The filter is not a Topic Filter.
    #[error("topic filter {filter:?}: {error}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        error: TopicError,
    },
    /// The broker refused.
    #[error("the broker refused: {}", with_text(*reason, text.as_deref()))]
    Refused {
        /// Its Reason Code.
        reason: ReasonCode,
        /// Its Reason String.
        text: Option<String>,
    },
    /// The request is larger than the broker accepts.
    #[error("the packet of {bytes} bytes exceeds the broker's limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The broker's Maximum Packet Size.
        bytes_max: usize,
    },
    /// The broker is connected and said nothing for as long as [an answer may take](crate::Builder::answer_timeout). What is subscribed to
    /// stays as it is here.
    #[error("the broker did not answer UNSUBSCRIBE from {filter:?} within {after:?}")]
    NoAnswer {
        /// The filter.
        filter: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The client is closed.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}

/// Why a client did not do what was asked of it as an issuer of keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyRequestError {
    /// The scope is none.
    #[error("scope: {0}")]
    Scope(#[from] ConfigError),
    /// This client issues no keys.
    #[error("this client issues no keys")]
    NotAnIssuer,
    /// This client issues no keys for the scope, the scope is full or at its last epoch, or the certificate does not count.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// It was done and cannot be saved, which is tried again every second. Nothing is announced before it is, and a restart would
    /// forget it.
    #[error("this is done, but not announced before it is saved, and that fails: {0}")]
    Unsaved(String),
    /// The client is closed.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}

/// Why a client did not prove once more who it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReauthenticateError {
    /// It did not begin; the connection is as it was.
    #[error("no re-authentication: {0}")]
    NotBegun(#[from] ReauthenticationError),
    /// The connection ended before it was finished: because one side refused the other, or for another reason.
    #[error("the re-authentication failed: {0}")]
    Failed(CloseReason),
    /// The client is closed.
    #[error("the client is closed: {0}")]
    Closed(CloseReason),
}
