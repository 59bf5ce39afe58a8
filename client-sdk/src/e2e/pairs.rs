//! The keys of pairs: what one publisher has for one subscriber alone (VEIL-1 sections 7, 9.1).
//!
//! Owns keys, not how they come about. Invariants: an envelope of a pair is sealed under the key of that pair and says so (b7);
//! a publisher keeps the newest key of each subscriber only, since it opens nothing with them.

use std::collections::BTreeMap;

use veilmq_protocol::veil::{Kid, distribution::Pair};

use super::{
    E2e, ScopeEntry,
    cipher::StreamId,
    config::{EnvelopeOptions, EnvelopeScope, Mode, ScopeConfig},
    error::{ConfigError, OpenError},
    keyring::{EpochState, EpochTiming, GroupKey, Keyring, Window},
    rings::{Issuer, Keys},
    scope::Scope,
};

/// Which end of a pair this program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Publisher,
    Subscriber,
}

/// The keys of all pairs of one program.
pub(super) struct Pairs {
    own: Kid,
    timing: EpochTiming,
    /// What it publishes, by subscriber.
    to: BTreeMap<Kid, PairKeys>,
    /// What it gets, by publisher.
    from: BTreeMap<Kid, PairKeys>,
}

/// The keys of one pair.
pub(super) struct PairKeys {
    pub(super) scope: Scope,
    pub(super) keys: Keys,
}

impl Pairs {
    fn new(own: Kid) -> Self {
        Self { own, timing: EpochTiming::default(), to: BTreeMap::new(), from: BTreeMap::new() }
    }

    /// The keys for what is published for a subscriber.
    pub(super) fn to(&self, subscriber: Kid) -> Option<&PairKeys> {
        self.to.get(&subscriber)
    }

    pub(super) const fn timing(&self) -> EpochTiming {
        self.timing
    }

    /// Takes the key of an epoch of the pair with `peer`.
    pub(super) fn install(&mut self, end: End, peer: Kid, epoch: u32, key: GroupKey, window: Window) {
        let (own, timing) = (self.own, self.timing);
        let pair = match end {
            End::Publisher => Pair { publisher: own, subscriber: peer },
            End::Subscriber => Pair { publisher: peer, subscriber: own },
        };
        let Ok(scope) = Scope::new(&pair.to_string()) else { return };
        let held = self
            .held_at_mut(end)
            .entry(peer)
            .or_insert_with(|| PairKeys { scope, keys: Keys::Configured(Keyring::explicit(timing)) });
        let Keys::Configured(keyring) = &mut held.keys else { return };
        keyring.install(epoch, key, window);
        if end == End::Publisher {
            keyring.drop_before(epoch);
        }
    }

    /// Erases the keys of the pairs with `peer`.
    pub(super) fn forget(&mut self, peer: Kid) {
        self.to.remove(&peer);
        self.from.remove(&peer);
    }

    /// The keys that are held at one end, with their peers.
    pub(super) fn held(&self, end: End) -> impl Iterator<Item = (Kid, u32, &GroupKey, Window)> {
        let held = match end {
            End::Publisher => &self.to,
            End::Subscriber => &self.from,
        };
        held.iter().flat_map(|(peer, pair)| {
            let keyring = match &pair.keys {
                Keys::Configured(keyring) => Some(keyring),
                Keys::Distributed(_) => None,
            };
            keyring
                .into_iter()
                .flat_map(Keyring::held)
                .map(|(epoch, key, window)| (*peer, epoch, key, window))
        })
    }

    /// Erases the keys whose time has come and returns when the next one is due, in unix milliseconds.
    pub(super) fn advance(&mut self, now_unix_ms: u64) -> Option<u64> {
        let all = self.to.values_mut().chain(self.from.values_mut());
        all.filter_map(|pair| pair.keys.advance(now_unix_ms)).min()
    }

    /// Whether the keys of a stream may still be needed.
    pub(super) fn has_use_for(&self, stream: &StreamId, now_unix_ms: u64) -> bool {
        let lives = |pair: &PairKeys| {
            let state = pair.keys.state(Issuer::Configuration, stream.epoch, now_unix_ms);
            !matches!(state, Some(EpochState::Gone) | None)
        };
        match stream.sender == self.own {
            true => self.to.values().any(lives),
            false => self.from.get(&stream.sender).is_some_and(lives),
        }
    }

    fn held_at_mut(&mut self, end: End) -> &mut BTreeMap<Kid, PairKeys> {
        match end {
            End::Publisher => &mut self.to,
            End::Subscriber => &mut self.from,
        }
    }
}

impl E2e {
    /// Takes part in pairs at one end.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(super) fn add_pairs(&mut self, end: End, options: EnvelopeOptions) -> Result<(), ConfigError> {
        if self.pairs_mut().is_none() {
            let scope = Scope::new(&format!("{}#", Pair::TOPICS))?;
            let (sending, receiving) = (EnvelopeOptions::default(), EnvelopeOptions::default());
            let mode = Mode::Pairs { pairs: Pairs::new(self.kid), sending, receiving };
            self.add_scope(ScopeConfig { scope, mode })?;
        }
        // The name of the receiver is in the topic, which is bound.
        let options = EnvelopeOptions { inner_topic: false, ..options };
        for entry in &mut self.scopes {
            if let Mode::Pairs { sending, receiving, .. } = &mut entry.config.mode {
                match end {
                    End::Publisher => *sending = options,
                    End::Subscriber => *receiving = options,
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Erases the keys of the pairs with `peer`, and what was derived from them.
    pub(super) fn forget_pair(&mut self, peer: Kid) {
        let own = self.kid;
        let entry = self.scopes.iter_mut().find_map(|entry| match &mut entry.config.mode {
            Mode::Pairs { pairs, .. } => Some((entry.id, pairs)),
            Mode::Envelope { .. } | Mode::Article(_) => None,
        });
        let Some((id, pairs)) = entry else { return };
        pairs.forget(peer);
        // Whom a stream of this program is for does not show; those for others are derived again.
        let is_theirs = |stream: &StreamId| stream.scope == id && [own, peer].contains(&stream.sender);
        self.sender.retain_keys(|stream| !is_theirs(stream));
        self.receiver.retain_keys(|stream| !is_theirs(stream));
    }

    /// The keys of pairs, to add to them: they are looked at with the next [`advance`](Self::advance).
    pub(super) fn pairs_mut(&mut self) -> Option<&mut Pairs> {
        self.expiry.note_change();
        self.scopes.iter_mut().find_map(|entry| match &mut entry.config.mode {
            Mode::Pairs { pairs, .. } => {
                entry.is_unseen = true;
                Some(pairs)
            }
            Mode::Envelope { .. } | Mode::Article(_) => None,
        })
    }

    pub(super) fn pairs(&self) -> Option<&Pairs> {
        self.scopes.iter().find_map(|entry| match &entry.config.mode {
            Mode::Pairs { pairs, .. } => Some(pairs),
            Mode::Envelope { .. } | Mode::Article(_) => None,
        })
    }
}

/// Finds the pair of an envelope of `sender` on a topic of `subscriber`.
pub(super) fn place(
    entry: &ScopeEntry,
    sender: Kid,
    subscriber: Option<Kid>,
    epoch: u32,
) -> Result<EnvelopeScope<'_>, OpenError> {
    let Mode::Pairs { pairs, receiving, .. } = &entry.config.mode else {
        return Err(OpenError::TopicMismatch);
    };
    if subscriber != Some(pairs.own) {
        return Err(OpenError::TopicMismatch);
    }
    let PairKeys { scope, keys } = pairs.from.get(&sender).ok_or(OpenError::NoKey { epoch })?;
    let tag = scope.tag();
    Ok(EnvelopeScope { id: entry.id, scope, tag, blind: None, keys, options: receiving, pairwise: true })
}
