//! Blind scopes: their messages are sealed under real names and travel under names made of tokens (VEIL-1 section 14).
//!
//! Owns where real names and those on the wire meet. Invariant: no message of a blind scope leaves or is taken under its real
//! name, and none without that name inside.

use std::sync::Arc;

use veilmq_protocol::{TopicFilter, TopicName, veil::envelope::Envelope};

use super::{
    E2e, ScopeEntry,
    blind::{Naming, NamingError, wire_filters},
    config::{EnvelopeScope, Mode},
    error::{ConfigError, OpenError},
    find,
    scope::Scope,
};

impl E2e {
    /// Makes an envelope scope blind: the broker sees tokens in place of its topics and in place of its own name. Messages have
    /// their topics inside then, whatever the options of the scope say.
    ///
    /// # Errors
    /// [`ConfigError::NotAnEnvelopeScope`], [`ConfigError::BlindCopies`], and [`ConfigError::NotBlind`] for a scope that has no
    /// name made of tokens.
    pub fn make_blind(&mut self, scope: &Scope, naming: Arc<Naming>) -> Result<(), ConfigError> {
        let entry = self.entry_mut(scope).ok_or(ConfigError::NotAnEnvelopeScope)?;
        if entry.legacy.is_some() {
            return Err(ConfigError::BlindCopies);
        }
        let Mode::Envelope { options, .. } = &mut entry.config.mode else {
            return Err(ConfigError::NotAnEnvelopeScope);
        };
        if scope.as_str().starts_with('$') {
            return Err(ConfigError::NotBlind(NamingError::Dollar));
        }
        options.inner_topic = true;
        let shared = Arc::downgrade(&naming);
        entry.naming = Some(naming);
        self.expiry.note_naming(shared);
        Ok(())
    }

    /// Returns whether messages on `topic` travel under another name.
    pub fn is_blind(&self, topic: TopicName<'_>) -> bool {
        find(&self.scopes, topic).is_some_and(|entry| entry.naming.is_some())
    }

    /// Returns whether `topic` is a name of the kind that messages of blind scopes travel under.
    pub fn is_blind_name(&self, topic: TopicName<'_>) -> bool {
        self.scopes.iter().any(|entry| entry.names(topic))
    }

    /// Returns the name that a message sealed now for `topic` is to be published on; none for the same name.
    ///
    /// # Errors
    /// [`NamingError`].
    pub fn wire_topic(&self, topic: TopicName<'_>, now_unix_ms: u64) -> Result<Option<String>, NamingError> {
        let naming = find(&self.scopes, topic).and_then(|entry| entry.naming.as_ref());
        naming.map(|naming| naming.topic(topic, now_unix_ms)).transpose()
    }

    /// Returns the filters to subscribe to for everything that a filter matches, in blind scopes and elsewhere.
    ///
    /// # Errors
    /// [`NamingError`].
    pub fn wire_filters(
        &self,
        filter: TopicFilter<'_>,
        now_unix_ms: u64,
    ) -> Result<Vec<String>, NamingError> {
        let blind =
            self.scopes.iter().filter_map(|entry| Some((&entry.config.scope, &**entry.naming.as_ref()?)));
        wire_filters(filter, blind, now_unix_ms)
    }

    /// The epochs of all names that may be in use now: when this changes, so do the filters to subscribe to.
    pub(crate) fn naming_epochs(&self, now_unix_ms: u64) -> Vec<Vec<u32>> {
        self.namings().map(|naming| naming.epochs(now_unix_ms)).collect()
    }

    /// When that changes, in unix milliseconds, as far as it is known.
    pub(crate) fn next_naming(&self, now_unix_ms: u64) -> Option<u64> {
        self.namings().filter_map(|naming| naming.next_change(now_unix_ms)).min()
    }

    fn namings(&self) -> impl Iterator<Item = &Naming> {
        self.scopes.iter().filter_map(|entry| entry.naming.as_deref())
    }
}

impl ScopeEntry {
    /// Whether a name has the form of those that its messages travel under.
    pub(super) fn names(&self, topic: TopicName<'_>) -> bool {
        self.naming.as_ref().is_some_and(|naming| naming.is_wire_name(topic))
    }
}

/// Finds the scope of an envelope that came on a blind name: the one that its header gives the tag of.
pub(super) fn place<'a>(
    scopes: &'a [ScopeEntry],
    topic: TopicName<'_>,
    payload: &[u8],
    now_unix_ms: u64,
) -> Result<EnvelopeScope<'a>, OpenError> {
    let header = Envelope::parse(payload)?.header;
    let mut is_known = false;
    for entry in scopes.iter().filter(|entry| entry.names(topic)) {
        let (Some(naming), Mode::Envelope { keys, options }) = (&entry.naming, &entry.config.mode) else {
            continue;
        };
        let Some(epoch) = naming.epoch_of(topic, now_unix_ms) else { continue };
        is_known = true;
        let scope = &entry.config.scope;
        let tag = naming.scope_in(epoch, scope).map_err(|_| OpenError::TopicMismatch)?.tag();
        if tag == header.scope_tag {
            let blind = Some((&**naming, epoch));
            return Ok(EnvelopeScope { id: entry.id, scope, tag, blind, keys, options, pairwise: false });
        }
    }
    Err(if is_known { OpenError::TopicMismatch } else { OpenError::UnknownName })
}
