//! What a scope is configured with: where its keys come from and how its messages are sealed.
//!
//! Owns no state that changes. Invariant: article keys and envelope options never meet in one scope.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

use veilmq_protocol::veil::{Kid, Suite, channel::Identity};

use super::{
    article::ArticleKeys,
    blind::Naming,
    keyring::{EpochTiming, Keyring},
    pairs::Pairs,
    replay::ReplayLimits,
    rings::{Keys, Rings},
    scope::Scope,
    sender::SEQ_END,
};

/// Who seals the messages of this program.
#[derive(Clone)]
pub enum Member {
    /// A key identifier without a signing key: messages are authenticated by the group key alone.
    ///
    /// It should be unique in the group, because it separates the streams of different senders.
    Unsigned(Kid),
    /// A certificate with its keys: messages can carry a source signature.
    Identity(Arc<Identity>),
}

impl Member {
    /// Returns the key identifier that goes into the header.
    pub fn kid(&self) -> Kid {
        match self {
            Self::Unsigned(kid) => *kid,
            Self::Identity(identity) => identity.kid(),
        }
    }
}

/// When the PUBLISH properties 0x01, 0x03, 0x08 and 0x09 are part of the associated data (flag b2).
///
/// A receiver refuses as `BadTag` what a sender with the same setting would not have sent, so a broker can add
/// neither a Response Topic nor a Content Type to a message that had none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BoundProperties {
    /// If the message has a Response Topic, Correlation Data or a Content Type.
    #[default]
    Auto,
    /// For every message, so that absence is bound too.
    Always,
    /// Never: for bridges and brokers that change properties.
    Never,
}

/// How the length of a plaintext is hidden (flag b4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Not at all.
    #[default]
    None,
    /// Up to the next of 64, 128, 256, ... bytes.
    PowersOfTwo,
    /// Up to the next multiple of this many bytes.
    Multiple(NonZeroU32),
}

/// Whose messages a receiver accepts (VEIL-1 section 12.1, step 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SenderPolicy {
    /// Anyone who holds the group key; signed messages still need a certificate as for the others.
    #[default]
    AnyMember,
    /// Senders whose certificate is in the directory, valid now, with publish scopes that cover the topic.
    Known,
    /// As [`SenderPolicy::Known`], and only these.
    Listed(BTreeSet<Kid>),
}

/// How the messages of an envelope scope are sealed, and what a receiver demands of them.
///
/// ```
/// use veilmq_client::e2e::{EnvelopeOptions, Padding};
///
/// let options = EnvelopeOptions {
///     timestamp: true,
///     max_age_ms: Some(30_000),
///     padding: Padding::PowersOfTwo,
///     ..EnvelopeOptions::default()
/// };
/// assert!(!options.sign);
/// ```
#[derive(Clone, Debug)]
pub struct EnvelopeOptions {
    /// Suite to seal with; a receiver opens all of them (default AES-256-GCM).
    pub suite: Suite,
    /// Signs every message. Without [`Member::Identity`] the scope can only be read.
    pub sign: bool,
    /// Refuses messages without a source signature.
    pub require_signature: bool,
    /// Puts the time of sealing into the header.
    pub timestamp: bool,
    /// Largest accepted distance between a timestamp and now, in milliseconds; messages without a timestamp,
    /// retained messages and Wills are exempt.
    pub max_age_ms: Option<u64>,
    /// Which messages bind their properties.
    pub bound: BoundProperties,
    /// How lengths are hidden.
    pub padding: Padding,
    /// Whose messages are accepted.
    pub senders: SenderPolicy,
    /// Accepts live messages under epochs that are kept for retained messages only: for a Session that was
    /// away for longer than the transition window.
    pub backlog: bool,
    /// Hides the Topic Name from the associated data in the ciphertext (flag b3), for bridges that rename topics: receivers go
    /// by the name inside. Messages are then numbered for the whole scope, not for each topic.
    pub inner_topic: bool,
    /// Longer messages are sealed in parts of this many bytes (default 65,536), unless they are to be retained.
    pub chunk_bytes: NonZeroU32,
    /// Publishes what this program has had retained again when the epoch changes, so that those who join later need the
    /// current key alone (default true). Not for topics on which others have messages retained too.
    pub refresh_retained: bool,
}

impl Default for EnvelopeOptions {
    fn default() -> Self {
        Self {
            suite: Suite::Aes256Gcm,
            sign: false,
            require_signature: false,
            timestamp: false,
            max_age_ms: None,
            bound: BoundProperties::Auto,
            padding: Padding::None,
            senders: SenderPolicy::AnyMember,
            backlog: false,
            inner_topic: false,
            chunk_bytes: NonZeroU32::MIN.saturating_add((64 << 10) - 1),
            refresh_retained: true,
        }
    }
}

/// The configuration of one scope.
pub struct ScopeConfig {
    pub(super) scope: Scope,
    pub(super) mode: Mode,
}

pub(super) enum Mode {
    Envelope {
        keys: Keys,
        options: EnvelopeOptions,
    },
    Article(ArticleKeys),
    /// One scope for each pair, under the topics of all pairs.
    Pairs {
        pairs: Pairs,
        sending: EnvelopeOptions,
        receiving: EnvelopeOptions,
    },
}

impl ScopeConfig {
    /// A scope whose messages are VE1 envelopes under the epochs of `keyring`.
    pub fn envelope(scope: Scope, keyring: Keyring, options: EnvelopeOptions) -> Self {
        Self { scope, mode: Mode::Envelope { keys: Keys::Configured(keyring), options } }
    }

    /// A scope whose messages are VE1 envelopes under keys that come with KEYHEADs; `own` is this program.
    pub(super) fn distributed(scope: Scope, own: Kid, timing: EpochTiming, options: EnvelopeOptions) -> Self {
        Self { scope, mode: Mode::Envelope { keys: Keys::Distributed(Rings::new(own, timing)), options } }
    }

    /// A scope in the article's format: encrypted, but not authenticated in any way (VEIL-1 section 11).
    pub fn article(scope: Scope, keys: ArticleKeys) -> Self {
        Self { scope, mode: Mode::Article(keys) }
    }

    /// Tells whether its messages have the article's format.
    pub(crate) const fn is_article(&self) -> bool {
        matches!(self.mode, Mode::Article(_))
    }

    /// Seals envelopes with another suite.
    pub(crate) const fn seal_with(&mut self, suite: Suite) {
        if let Mode::Envelope { options, .. } = &mut self.mode {
            options.suite = suite;
        }
    }

    /// Returns the scope.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// The envelope scope a message belongs to.
#[derive(Clone, Copy)]
pub(super) struct EnvelopeScope<'a> {
    pub(super) id: u32,
    pub(super) scope: &'a Scope,
    /// The hint that envelopes carry: that of the scope, or of what it is called on the wire.
    pub(super) tag: [u8; 4],
    /// How its topics are named, and in which epoch, if they are blind.
    pub(super) blind: Option<(&'a Naming, u32)>,
    pub(super) keys: &'a Keys,
    pub(super) options: &'a EnvelopeOptions,
    /// Whether it is that of a pair, which envelopes say.
    pub(super) pairwise: bool,
}

/// Bounds on what an [`E2e`](super::E2e) keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bounds of the replay state.
    pub replay: ReplayLimits,
    /// Topics one sender session may publish to; one more starts a new session.
    pub sending_streams_max: usize,
    /// Messages one sender session may hold on one topic (default and at most 2^31); one more starts a new session.
    pub stream_messages_max: u32,
    /// Bytes of messages kept that have not come completely (default 128 MiB); beyond it the oldest is given up.
    pub chunked_bytes_max: usize,
    /// Stream keys kept derived, for sending and for receiving each (about 1 KiB apiece).
    pub stream_keys_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            replay: ReplayLimits::default(),
            sending_streams_max: 65_536,
            stream_messages_max: SEQ_END,
            chunked_bytes_max: 128 << 20,
            stream_keys_max: 1_024,
        }
    }
}
