//! End-to-end encryption: sealing and opening messages so that no broker can read or change them (VEIL-1).
//!
//! [`E2e`] owns scopes with their keys, the numbering of sent messages and the memory of received ones. It has
//! no clock, no randomness and does no I/O: `now_unix_ms` and `entropy` are arguments, and saving the state
//! ([`E2e::export_state`]) is the caller's work. Secrets are erased when dropped and have no `Debug`.
//!
//! Invariants: nothing is sent in plaintext on a topic for which [`E2e::publishes_sealed`] is true; nothing
//! that is not an authentic envelope is delivered from an envelope scope.
//!
//! ```
//! use veilmq_client::e2e::{
//!     E2e, EnvelopeOptions, EpochTiming, Keyring, Limits, MasterSecret, Member, Scope, ScopeConfig,
//! };
//! use veilmq_protocol::{PublishProperties, TopicName};
//!
//! fn member(kid: &str) -> E2e {
//!     let mut e2e = E2e::new(Member::Unsigned(kid.parse().unwrap()), Limits::default());
//!     let keyring = Keyring::master(MasterSecret::new(b"a long random secret"), 1, EpochTiming::default());
//!     let scope = Scope::new("factory/line-3/#").unwrap();
//!     e2e.add_scope(ScopeConfig::envelope(scope, keyring, EnvelopeOptions::default())).unwrap();
//!     e2e
//! }
//! let (mut press, mut lake) = (member("9de50bb148ef83cd"), member("c0ffee0000000001"));
//! let topic = TopicName::new("factory/line-3/sensor/temperature").unwrap();
//! let properties = PublishProperties::default();
//! // In an application: the operating system's random number generator.
//! let mut entropy = |bytes: &mut [u8]| bytes.fill(42);
//!
//! let payload = press.seal(topic, b"21.5", &properties, 1_790_000_000_000, &mut entropy)?;
//! let opened = lake.open(topic, &payload, false, &properties, 1_790_000_000_200)?;
//!
//! assert_eq!(opened.plaintext, b"21.5");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod article;
mod blind;
mod blinding;
mod chunks;
mod cipher;
mod config;
mod directory;
pub mod distribution;
#[cfg(test)]
mod erasure;
mod error;
mod expiry;
mod frame;
mod keyring;
mod lru;
mod opened;
mod pairs;
mod receiver;
mod reopening;
mod replay;
mod rings;
mod scope;
mod sealing;
mod sender;
mod sessions;
mod state;
mod wrapping;

use std::{collections::HashMap, sync::Arc};

use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Kid,
        channel::Operations,
        distribution::Pair,
        envelope::{Envelope, EnvelopeFlags, EnvelopeHeader},
    },
};

pub(crate) use self::replay::Arrival;
pub use self::{
    article::{ArticleKey, ArticleKeys, ArticleMaster, sequence_number, with_sequence_number},
    blind::{Naming, NamingError, overlaps},
    config::{BoundProperties, EnvelopeOptions, Limits, Member, Padding, ScopeConfig, SenderPolicy},
    directory::Directory,
    error::{ConfigError, OpenError, SealError, StateError},
    keyring::{EpochState, EpochTimes, EpochTiming, GroupKey, Keyring, MasterSecret, RotationPlan},
    opened::{Authentication, Opened, Origin, Provenance},
    replay::{ReplayLimits, ReplayWindow},
    scope::Scope,
    state::Saved,
    wrapping::UnwrapError,
};
use self::{
    config::{EnvelopeScope, Mode},
    expiry::Expiry,
    receiver::{Incoming, Receiver},
    rings::{Issuer, Keys, Rings},
    sender::Sender,
    sessions::{Sessions, SessionsUsed},
};

/// What follows the topic of a message on that of its copy in the article's format.
const LEGACY: &str = "/legacy";

/// Fills a buffer with unpredictable bytes.
pub type Entropy<'a> = &'a mut dyn FnMut(&mut [u8]);

/// Everything one program needs to seal what it publishes and open what it receives; see the
/// [module](self) for an example.
pub struct E2e {
    member: Member,
    kid: Kid,
    /// Most specific first, so that the first match owns a topic.
    scopes: Vec<ScopeEntry>,
    next_scope_id: u32,
    sender: Sender,
    receiver: Receiver,
    sessions: Sessions,
    expiry: Expiry,
}

/// Whose key of which number messages are sealed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochMark {
    issuer: Issuer,
    epoch: u32,
    /// The epoch of the name, if that is blind.
    naming: Option<u32>,
}

struct ScopeEntry {
    id: u32,
    config: ScopeConfig,
    /// Keys for copies in the article's format.
    legacy: Option<ArticleKeys>,
    /// How its topics are named on the wire, if they are blind.
    naming: Option<Arc<Naming>>,
    /// When the first of its keys is to be erased, in unix milliseconds; unknown while `is_unseen`.
    erasure_due: Option<u64>,
    is_unseen: bool,
}

impl E2e {
    /// Starts without scopes.
    pub fn new(member: Member, limits: Limits) -> Self {
        Self {
            kid: member.kid(),
            member,
            scopes: Vec::new(),
            next_scope_id: 0,
            sender: Sender::new(&limits),
            receiver: Receiver::new(&limits),
            sessions: Sessions::default(),
            expiry: Expiry::default(),
        }
    }

    /// Adds a scope.
    ///
    /// # Errors
    /// [`ConfigError::DuplicateScope`].
    pub fn add_scope(&mut self, config: ScopeConfig) -> Result<(), ConfigError> {
        if self.scopes.iter().any(|entry| entry.config.scope == config.scope) {
            return Err(ConfigError::DuplicateScope);
        }
        let rank = |entry: &ScopeEntry| entry.config.scope.by_specificity(&config.scope).is_lt();
        let index = self.scopes.partition_point(rank);
        let id = self.next_scope_id;
        let (erasure_due, is_unseen) = (None, true);
        let entry = ScopeEntry { id, config, legacy: None, naming: None, erasure_due, is_unseen };
        self.scopes.insert(index, entry);
        self.expiry.note_change();
        self.next_scope_id += 1;
        Ok(())
    }

    /// Has everything that is published on an envelope scope published in the article's format too, on `TOPIC/legacy`, while
    /// readers move from one to the other (VEIL-1 section 11, mode `dual`). Copies that arrive are left out.
    ///
    /// # Errors
    /// [`ConfigError::NotAnEnvelopeScope`], and [`ConfigError::BlindCopies`].
    pub fn copy_to_legacy(&mut self, scope: &Scope, keys: ArticleKeys) -> Result<(), ConfigError> {
        let entry = self.entry_mut(scope).filter(|entry| matches!(entry.config.mode, Mode::Envelope { .. }));
        let entry = entry.ok_or(ConfigError::NotAnEnvelopeScope)?;
        if entry.naming.is_some() {
            return Err(ConfigError::BlindCopies);
        }
        entry.legacy = Some(keys);
        Ok(())
    }

    /// Returns the keys of a scope in the article's format, to replace them.
    pub fn article_keys_mut(&mut self, scope: &Scope) -> Option<&mut ArticleKeys> {
        let entry = self.entry_mut(scope)?;
        match &mut entry.config.mode {
            Mode::Envelope { .. } => entry.legacy.as_mut(),
            Mode::Article(keys) => Some(keys),
            Mode::Pairs { .. } => None,
        }
    }

    /// Removes a scope and erases its keys. Returns whether it was there.
    pub fn remove_scope(&mut self, scope: &Scope) -> bool {
        let Some(index) = self.scopes.iter().position(|entry| entry.config.scope == *scope) else {
            return false;
        };
        let removed = self.scopes.remove(index).id;
        self.sender.retain_keys(|stream| stream.scope != removed);
        self.receiver.retain_keys(|stream| stream.scope != removed);
        true
    }

    /// Returns the scope `topic` belongs to.
    pub fn scope_of(&self, topic: TopicName<'_>) -> Option<&Scope> {
        find(&self.scopes, topic).map(|entry| &entry.config.scope)
    }

    /// Returns whether messages on `topic` must be sealed, that is, never leave in plaintext.
    pub fn publishes_sealed(&self, topic: TopicName<'_>) -> bool {
        self.scope_of(topic).is_some() || self.is_blind_name(topic)
    }

    /// Returns whether the keys for messages that come on `topic` come from issuers, so that one that is missing may still come.
    pub fn has_distributed_keys(&self, topic: TopicName<'_>) -> bool {
        let is_distributed = |entry: &ScopeEntry| {
            matches!(
                entry.config.mode,
                Mode::Pairs { .. } | Mode::Envelope { keys: Keys::Distributed(_), .. }
            )
        };
        let mut blind = self.scopes.iter().filter(|entry| entry.names(topic));
        find(&self.scopes, topic).is_some_and(is_distributed) || blind.any(is_distributed)
    }

    /// Returns whether messages on `topic` cannot be sealed now because the key has not come yet.
    pub fn awaits_key(&self, topic: TopicName<'_>, now_unix_ms: u64) -> bool {
        find(&self.scopes, topic).is_some_and(|entry| match &entry.config.mode {
            Mode::Envelope { keys: keys @ Keys::Distributed(_), .. } => keys.sending(now_unix_ms).is_none(),
            Mode::Envelope { keys: Keys::Configured(_), .. } | Mode::Article(_) => false,
            Mode::Pairs { pairs, .. } => {
                let keys = Pair::subscriber_of(topic.as_str()).and_then(|subscriber| pairs.to(subscriber));
                keys.is_none_or(|pair| pair.keys.sending(now_unix_ms).is_none())
            }
        })
    }

    /// Returns the epochs of an envelope scope whose keys were configured, to add or drop some.
    pub fn keyring_mut(&mut self, scope: &Scope) -> Option<&mut Keyring> {
        let entry = self.entry_mut(scope)?;
        match &mut entry.config.mode {
            Mode::Envelope { keys: Keys::Configured(keyring), .. } => Some(keyring),
            Mode::Envelope { keys: Keys::Distributed(_), .. } | Mode::Article(_) | Mode::Pairs { .. } => None,
        }
    }

    /// Returns the keyrings of a scope whose keys are distributed.
    fn rings(&self, scope: &Scope) -> Option<&Rings> {
        let entry = self.scopes.iter().find(|entry| entry.config.scope == *scope)?;
        match &entry.config.mode {
            Mode::Envelope { keys: Keys::Distributed(rings), .. } => Some(rings),
            Mode::Envelope { keys: Keys::Configured(_), .. } | Mode::Article(_) | Mode::Pairs { .. } => None,
        }
    }

    /// Returns the keyrings of a scope whose keys are distributed, to add to them.
    fn rings_mut(&mut self, scope: &Scope) -> Option<&mut Rings> {
        let entry = self.entry_mut(scope)?;
        match &mut entry.config.mode {
            Mode::Envelope { keys: Keys::Distributed(rings), .. } => Some(rings),
            Mode::Envelope { keys: Keys::Configured(_), .. } | Mode::Article(_) | Mode::Pairs { .. } => None,
        }
    }

    /// How many sender sessions have used the newest key of each scope that is issued here, by its Topic Filter.
    fn sessions_used(&self) -> HashMap<&str, SessionsUsed> {
        let used = |entry: &ScopeEntry| self.sessions.used(entry.id);
        self.scopes.iter().filter_map(|entry| Some((entry.config.scope.as_str(), used(entry)?))).collect()
    }

    /// Returns whether one of them has grown since this was last asked.
    const fn take_sessions_noted(&mut self) -> bool {
        self.sessions.take_noted()
    }

    /// Goes on from what was counted before a restart.
    fn resume_sessions(&mut self, scope: &Scope, used: SessionsUsed) {
        if let Some(entry) = self.scopes.iter().find(|entry| entry.config.scope == *scope) {
            self.sessions.resume(entry.id, used);
        }
    }

    /// Returns whether a sender session was begun since this was last asked: if there is a state, it is to be saved before what
    /// was sealed leaves, so that no later run begins the same one.
    pub fn take_session_begun(&mut self) -> bool {
        self.sender.take_session_begun()
    }

    /// Returns whether messages on `topic` are sealed in envelopes.
    pub fn seals_envelopes(&self, topic: TopicName<'_>) -> bool {
        find(&self.scopes, topic)
            .is_some_and(|entry| matches!(entry.config.mode, Mode::Envelope { .. } | Mode::Pairs { .. }))
    }

    /// Returns whether a message that came on `topic` must be opened: the topic is in a scope or is a blind name, or the message
    /// is an envelope of a scope that has its topic inside.
    pub fn opens(&self, topic: TopicName<'_>, payload: &[u8]) -> bool {
        self.is_blind_name(topic) || entry_for(&self.scopes, topic, payload).is_some()
    }

    /// Returns under which key messages on `topic` are sealed now: a value that changes with the epoch. None for topics whose
    /// retained messages are not to be sealed anew, and while there is no key.
    pub(crate) fn refresh_mark(&self, topic: TopicName<'_>, now_unix_ms: u64) -> Option<EpochMark> {
        let entry = find(&self.scopes, topic)?;
        let naming = entry.naming.as_ref().and_then(|naming| naming.sending_epoch(now_unix_ms));
        match &entry.config.mode {
            Mode::Envelope { keys, options } if options.refresh_retained => {
                keys.sending(now_unix_ms).map(|(issuer, epoch)| EpochMark { issuer, epoch, naming })
            }
            Mode::Pairs { pairs, sending, .. } if sending.refresh_retained => {
                let pair = Pair::subscriber_of(topic.as_str()).and_then(|subscriber| pairs.to(subscriber))?;
                pair.keys.sending(now_unix_ms).map(|(issuer, epoch)| EpochMark { issuer, epoch, naming })
            }
            Mode::Envelope { .. } | Mode::Article(_) | Mode::Pairs { .. } => None,
        }
    }

    /// Returns whether what this program publishes on `topic` is for one subscriber alone: its next key is not announced, and ends
    /// the one before at once.
    pub(crate) fn is_for_one(&self, topic: TopicName<'_>) -> bool {
        find(&self.scopes, topic).is_some_and(|entry| matches!(entry.config.mode, Mode::Pairs { .. }))
    }

    /// Returns when the next epoch of any scope becomes active, in unix milliseconds, as far as that is known.
    pub fn next_activation(&self, now_unix_ms: u64) -> Option<u64> {
        let activations = self.scopes.iter().flat_map(|entry| {
            let of_keys = match &entry.config.mode {
                Mode::Envelope { keys, .. } => keys.next_activation(now_unix_ms),
                Mode::Article(_) | Mode::Pairs { .. } => None,
            };
            let of_names = entry.naming.as_ref().and_then(|naming| naming.next_activation(now_unix_ms));
            [of_keys, of_names].into_iter().flatten()
        });
        activations.min()
    }

    /// Returns the senders this program knows.
    pub fn directory(&self) -> &Directory {
        &self.receiver.directory
    }

    /// Returns the senders this program knows, to add or revoke some.
    pub fn directory_mut(&mut self) -> &mut Directory {
        &mut self.receiver.directory
    }

    /// Returns how many (sender, topic) pairs were forgotten by the replay state for lack of space.
    pub fn replay_evictions(&self) -> u64 {
        self.receiver.replay.evictions()
    }

    /// Returns the cryptographic operations that sealing and opening messages took since this was last asked, without
    /// signatures.
    pub fn take_operations(&mut self) -> Operations {
        let mut made = std::mem::take(&mut self.sender.operations);
        made += std::mem::take(&mut self.receiver.operations);
        made
    }

    /// Opens a received message (VEIL-1 section 12.1).
    ///
    /// `topic` is the full Topic Name after alias resolution. `retained` says that the message comes from the
    /// retained message store, so it may arrive repeatedly; on a subscription with Retain As Published the
    /// RETAIN flag alone does not tell. `properties` are those of the PUBLISH as received.
    ///
    /// # Errors
    /// [`OpenError`]; the payload must not reach the application then.
    pub fn open(
        &mut self,
        topic: TopicName<'_>,
        payload: &[u8],
        retained: bool,
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
    ) -> Result<Opened, OpenError> {
        // Who had subscribed before gets what clears a retained message without the RETAIN flag.
        if self.is_blind_name(topic) {
            let within = blinding::place(&self.scopes, topic, payload, now_unix_ms)?;
            let incoming = Incoming { topic, payload, retained, properties, now_unix_ms };
            return self.receiver.open(within, incoming, &mut self.sessions);
        }
        if payload.is_empty() {
            let provenance = Provenance::Tombstone;
            return Ok(Opened { plaintext: Vec::new(), provenance, retained, topic: None });
        }
        let entry = entry_for(&self.scopes, topic, payload).ok_or(OpenError::TopicMismatch)?;
        // On a blind scope the names of topics are never seen, so this is none of its messages.
        if entry.naming.is_some() {
            return Err(OpenError::TopicMismatch);
        }
        match &entry.config.mode {
            Mode::Article(keys) => {
                let plaintext = keys.decrypt(topic, payload, now_unix_ms)?;
                Ok(Opened { plaintext, provenance: Provenance::Article, retained, topic: None })
            }
            Mode::Envelope { .. } if entry.is_legacy_copy(topic) => Err(OpenError::LegacyCopy),
            Mode::Envelope { keys, options } => {
                let scope = &entry.config.scope;
                let tag = scope.tag();
                let within =
                    EnvelopeScope { id: entry.id, scope, tag, blind: None, keys, options, pairwise: false };
                let incoming = Incoming { topic, payload, retained, properties, now_unix_ms };
                self.receiver.open(within, incoming, &mut self.sessions)
            }
            Mode::Pairs { .. } => {
                let EnvelopeHeader { sender, epoch, .. } = Envelope::parse(payload)?.header;
                let subscriber = Pair::subscriber_of(topic.as_str());
                let within = pairs::place(entry, sender, subscriber, epoch)?;
                let incoming = Incoming { topic, payload, retained, properties, now_unix_ms };
                self.receiver.open(within, incoming, &mut self.sessions)
            }
        }
    }
}

impl ScopeEntry {
    fn is_legacy_copy(&self, topic: TopicName<'_>) -> bool {
        self.legacy.is_some() && topic.as_str().ends_with(LEGACY)
    }
}

fn find<'a>(scopes: &'a [ScopeEntry], topic: TopicName<'_>) -> Option<&'a ScopeEntry> {
    scopes.iter().find(|entry| entry.config.scope.contains(topic))
}

/// The scope of `topic`, or the one an envelope on another topic says it belongs to.
fn entry_for<'a>(scopes: &'a [ScopeEntry], topic: TopicName<'_>, payload: &[u8]) -> Option<&'a ScopeEntry> {
    find(scopes, topic).or_else(|| {
        let header = Envelope::parse(payload).ok()?.header;
        let inner = header.flags.contains(EnvelopeFlags::INNER_TOPIC);
        scopes.iter().find(|entry| {
            let is_envelope = entry.naming.is_none() && matches!(entry.config.mode, Mode::Envelope { .. });
            inner && is_envelope && entry.config.scope.tag() == header.scope_tag
        })
    })
}
