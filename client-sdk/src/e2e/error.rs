//! What can go wrong when configuring, sealing and opening, by who is at fault.
//!
//! Receive-side errors carry the names of VEIL-1 section 16, are events for the application, and never cause
//! network traffic that an attacker could time.

use thiserror::Error;
use veilmq_protocol::veil::{Kid, envelope::EnvelopeError, layout::LayoutError};

use super::blind::NamingError;

/// Names why a scope could not be configured (the operator's or the program's fault).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The scope is not a Topic Filter.
    #[error("the scope is not a valid Topic Filter")]
    InvalidFilter,
    /// The scope is a shared subscription filter, which names subscribers and not topics.
    #[error("a shared subscription filter cannot be a scope")]
    SharedFilter,
    /// Another scope with the same Topic Filter is configured.
    #[error("the scope is configured twice")]
    DuplicateScope,
    /// An epoch number was given that is already known or was dropped.
    #[error("epoch {0} is already known or was dropped")]
    EpochNotNew(u32),
    /// An epoch would become active before its predecessor or after its successor.
    #[error("epoch {0} would not be activated in the order of epoch numbers")]
    EpochOutOfOrder(u32),
    /// The keys of this scope come from elsewhere: from a rotation plan, or as article keys.
    #[error("the scope does not take epochs one by one")]
    EpochsArePlanned,
    /// Copies in the article's format are made of what is sealed in envelopes only.
    #[error("the scope is none whose messages are envelopes")]
    NotAnEnvelopeScope,
    /// What is to stay in the clear before blind names is no Topic Name, or begins with `$`.
    #[error("what stands before blind names is not a Topic Name, or begins with `$`")]
    InvalidPrefix,
    /// The copies in the article's format would show the names.
    #[error("a blind scope cannot have copies in the article's format, which show its names")]
    BlindCopies,
    /// The scope itself has no name made of tokens.
    #[error("the scope cannot be blind: {0}")]
    NotBlind(NamingError),
    /// The certificate allows neither publishing nor being a key authority.
    #[error("the certificate does not allow to issue keys")]
    MayNotIssue,
}

/// Names why a message could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// No configured scope contains the topic.
    #[error("no end-to-end scope contains the topic")]
    NoScope,
    /// No epoch of the scope is active yet, or all of them have been retired.
    #[error("no epoch of the scope may be used for sending at this time")]
    NoKey,
    /// The scope is to be signed and this program has no signing key: it can only read there.
    #[error("the scope is to be signed but there is no identity key")]
    NoIdentity,
    /// Bound properties together exceed 65,535 bytes.
    #[error("the bound properties exceed 65,535 bytes")]
    BoundTooLong,
    /// The article format carries JSON and nothing else.
    #[error("a message in the article format must be JSON")]
    NotJson,
    /// The topic is too long for a copy in the article's format beside it.
    #[error("the topic of the copy in the article's format would be too long")]
    LegacyTopic,
    /// The topic is in a blind scope and has no name made of tokens.
    #[error("the topic cannot be blind: {0}")]
    Naming(#[from] NamingError),
    /// The topic is what the broker sees of another one; messages are published by real names.
    #[error("the topic is a blind name; publish by the real one")]
    BlindName,
    /// The Response Topic is in a blind scope, and its name would be seen.
    #[error("the Response Topic is in a blind scope, and everyone on the way would see its name")]
    ResponseTopic,
    /// The plaintext is longer than the suite can seal.
    #[error("the plaintext is too long for the suite")]
    TooLong,
    /// Every session number was used, which needs a clock that went far into the future.
    #[error("no session number is left")]
    SessionsExhausted,
}

/// Names why a received message was not delivered (VEIL-1 section 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Plaintext, or something else that is not an envelope, on an end-to-end scope.
    #[error("the payload is not encrypted")]
    NotEncrypted,
    /// The envelope breaks its layout or uses a feature this receiver does not have; the field is named.
    #[error("malformed envelope: {0}")]
    Malformed(&'static str),
    /// The topic is in no configured scope, or the envelope was made for another scope.
    #[error("the envelope does not belong to this topic")]
    TopicMismatch,
    /// The topic is a blind name of an epoch whose topic key is not held.
    #[error("no topic key for this name")]
    UnknownName,
    /// The epoch is unknown or lies in the future.
    #[error("no key for epoch {epoch}")]
    NoKey {
        /// Epoch the envelope names.
        epoch: u32,
    },
    /// The epoch was erased, or is kept for retained messages and backlog only.
    #[error("epoch {epoch} is no longer accepted")]
    EpochDropped {
        /// Epoch the envelope names.
        epoch: u32,
    },
    /// The sender is not known, not valid now, or may not publish to the topic.
    #[error("unknown sender {0}")]
    UnknownSender(Kid),
    /// The certificate of the sender was revoked.
    #[error("sender {0} is revoked")]
    SenderRevoked(Kid),
    /// Tag, signature or required binding is wrong; deliberately one error for every cause.
    #[error("the message is not authentic")]
    BadTag,
    /// The message was received before, or is older than the replay window.
    #[error("the message was received before")]
    Replay,
    /// The message comes from a sender session that a newer one has replaced.
    #[error("the message belongs to an outdated sender session")]
    SessionRollback,
    /// A retained message is older than one already received.
    #[error("the retained message is older than one already received")]
    RetainedRollback,
    /// The message is authentic but its timestamp differs from now by more than `max_age_ms`.
    #[error("the message is {age_ms} ms old")]
    TooOld {
        /// Distance between the timestamp and now, in milliseconds.
        age_ms: u64,
    },
    /// A part of a message was authentic, and others are still missing; no reason to complain.
    #[error("other parts of the message are missing")]
    Incomplete,
    /// It is the copy in the article format of a message that comes in an envelope too; no reason to complain.
    #[error("a copy in the article format")]
    LegacyCopy,
    /// A message in the article format did not decrypt to JSON; deliberately one error for every cause.
    #[error("the message is not valid in the article format")]
    BadLegacy,
}

impl OpenError {
    /// Returns the name used in VEIL-1 section 16, for counters and events.
    ///
    /// ```
    /// use veilmq_client::e2e::OpenError;
    ///
    /// assert_eq!(OpenError::NoKey { epoch: 7 }.name(), "NoKey");
    /// ```
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotEncrypted => "NotEncrypted",
            Self::Malformed(_) => "Malformed",
            Self::TopicMismatch => "TopicMismatch",
            Self::UnknownName => "UnknownName",
            Self::NoKey { .. } => "NoKey",
            Self::EpochDropped { .. } => "EpochDropped",
            Self::UnknownSender(_) => "UnknownSender",
            Self::SenderRevoked(_) => "SenderRevoked",
            Self::BadTag => "BadTag",
            Self::Replay => "Replay",
            Self::SessionRollback => "SessionRollback",
            Self::RetainedRollback => "RetainedRollback",
            Self::TooOld { .. } => "TooOld",
            Self::Incomplete => "Incomplete",
            Self::LegacyCopy => "LegacyCopy",
            Self::BadLegacy => "BadLegacy",
        }
    }
}

impl From<EnvelopeError> for OpenError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::NotEncrypted => Self::NotEncrypted,
            EnvelopeError::Malformed(field) => Self::Malformed(field),
        }
    }
}

/// Names why a saved state was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The bytes are not a saved state of this program.
    #[error("not a saved end-to-end state")]
    NotState,
    /// The state was written by a version this one does not know.
    #[error("unknown version {0} of the saved end-to-end state")]
    Version(u8),
    /// The checksum does not match: the state was cut short or changed.
    #[error("the saved end-to-end state is damaged")]
    Checksum,
    /// The checksum matches but the layout is not kept.
    #[error("the saved end-to-end state is impossible: {0}")]
    Impossible(#[from] LayoutError),
    /// A scope in it is none.
    #[error("the saved end-to-end state is impossible: {0}")]
    Scope(#[from] ConfigError),
}
