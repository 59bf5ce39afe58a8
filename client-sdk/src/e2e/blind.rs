//! Blind topics: names whose levels the broker sees as tokens (VEIL-1 section 14).
//!
//! Owns the derivation of tokens and the epochs of the key behind them, K_top. Whoever holds K_top can name topics and can
//! find the name of a token by trying names; the broker holds no K_top. Invariant: a filter matches a topic exactly if
//! the filter's tokens match the topic's in the same epoch; what would break that has no tokens.

use std::{
    collections::BTreeSet,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use thiserror::Error;
use veilmq_protocol::{
    TopicFilter, TopicName,
    veil::{channel::hmac, vmc::scope_covers},
};

use super::{
    error::ConfigError,
    keyring::{EpochState, GroupKey, Keyring},
    scope::Scope,
};

/// The level that says that tokens follow.
const MARK: &str = "_vt";
/// Groups of 5 bytes of the MAC that a token shows, 8 characters each.
const TOKEN_GROUPS: usize = 2;
/// The alphabet of RFC 4648 section 6, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// A Topic Name or Topic Filter has at most so many bytes ([MQTT-4.7.3-3]).
const NAME_BYTES_MAX: usize = 0xFFFF;

/// Says why a name has no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NamingError {
    /// The depth of a level is one byte.
    #[error("the name has more than 255 levels")]
    TooDeep,
    /// With tokens in place of levels it would have more than 65,535 bytes.
    #[error("the name would be longer than 65,535 bytes with tokens")]
    TooLong,
    /// The wildcards of filters match no name that begins with `$`, and would match its tokens.
    #[error("a name that begins with `$` cannot be blind")]
    Dollar,
    /// There is no topic key for now, or for this epoch.
    #[error("there is no topic key for it")]
    NoKey,
}

/// How the topics of blind scopes are named: what stands before the tokens in the clear, and the topic keys by epoch.
///
/// K_top of an epoch is the group key of the scope `[PREFIX/]_vt/#` in that epoch: given, or derived from a master secret
/// as every group key is. Several scopes may share one naming.
///
/// ```
/// use veilmq_client::e2e::{GroupKey, Keyring, EpochTiming, Naming};
/// use veilmq_client::{TopicFilter, TopicName};
///
/// let mut keys = Keyring::explicit(EpochTiming::default());
/// keys.insert(1, GroupKey::new(&[7; 32]), 0)?;
/// let naming = Naming::new("plant-7", keys)?;
///
/// let wire = naming.topic(TopicName::new("line-3/temperature")?, 0)?;
/// let filters = naming.filters(TopicFilter::new("+/temperature")?, 0)?;
///
/// assert!(wire.starts_with("plant-7/_vt/0001/") && !wire.contains("line-3"));
/// assert!(TopicFilter::new(&filters[0])?.matches(TopicName::new(&wire)?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Naming {
    /// What stands before the epoch, with its `/`.
    head: Box<str>,
    scope: Scope,
    keys: RwLock<Keyring>,
    /// When the next of the keys is to be erased, in unix milliseconds; in the past once another one was added.
    erasure_due_ms: AtomicU64,
}

impl Naming {
    /// Takes the levels that stay in the clear before all names, or nothing, and the topic keys.
    ///
    /// # Errors
    /// [`ConfigError::InvalidPrefix`] for what is neither empty nor a Topic Name, or begins with `$`.
    pub fn new(prefix: &str, keys: Keyring) -> Result<Self, ConfigError> {
        let is_usable = prefix.is_empty() || (TopicName::new(prefix).is_ok() && !prefix.starts_with('$'));
        let separator = if prefix.is_empty() { "" } else { "/" };
        let head = format!("{prefix}{separator}{MARK}/");
        let scope = Scope::new(&format!("{head}#")).ok().filter(|_| is_usable);
        let scope = scope.ok_or(ConfigError::InvalidPrefix)?;
        Ok(Self { head: head.into(), scope, keys: RwLock::new(keys), erasure_due_ms: AtomicU64::new(0) })
    }

    /// Adds the topic key of an epoch that names are made with from `activate_ms` on (unix milliseconds). Clients that use this
    /// naming subscribe to its names somewhat earlier, and to those of the epoch before until its transition window is over.
    ///
    /// # Errors
    /// As [`Keyring::insert`].
    pub fn insert(&self, epoch: u32, key: GroupKey, activate_ms: u64) -> Result<(), ConfigError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        self.erasure_due_ms.store(0, Ordering::Relaxed);
        keys.insert(epoch, key, activate_ms)
    }

    /// Returns the name that the broker sees if a message for `topic` is published now.
    ///
    /// # Errors
    /// [`NamingError`].
    pub fn topic(&self, topic: TopicName<'_>, now_unix_ms: u64) -> Result<String, NamingError> {
        self.topic_in(self.sending_epoch(now_unix_ms).ok_or(NamingError::NoKey)?, topic)
    }

    /// Returns the filters the broker is given for `filter` now: one, or two while one epoch follows another. The group of a
    /// Shared Subscription stays in the clear.
    ///
    /// # Errors
    /// [`NamingError`].
    pub fn filters(&self, filter: TopicFilter<'_>, now_unix_ms: u64) -> Result<Vec<String>, NamingError> {
        let epochs = self.epochs(now_unix_ms);
        if epochs.is_empty() {
            return Err(NamingError::NoKey);
        }
        epochs.into_iter().map(|epoch| self.filter_in(epoch, filter)).collect()
    }

    /// Returns the name of a topic in one epoch.
    ///
    /// # Errors
    /// [`NamingError`].
    pub fn topic_in(&self, epoch: u32, topic: TopicName<'_>) -> Result<String, NamingError> {
        self.name(epoch, "", topic.as_str())
    }

    /// Returns what a filter is in one epoch.
    ///
    /// # Errors
    /// [`NamingError`].
    pub fn filter_in(&self, epoch: u32, filter: TopicFilter<'_>) -> Result<String, NamingError> {
        let inner = filter.inner().as_str();
        let group = filter.as_str().strip_suffix(inner).unwrap_or_default();
        self.name(epoch, group, inner)
    }

    /// Returns the epochs whose names may be in use now, ascending.
    pub fn epochs(&self, now_unix_ms: u64) -> Vec<u32> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let in_use = |epoch: &u32| {
            let state = keys.state(*epoch, now_unix_ms);
            matches!(state, Some(EpochState::Current | EpochState::Retiring))
        };
        keys.epochs(now_unix_ms).into_iter().filter(in_use).collect()
    }

    /// Returns the epoch that names are made in now.
    pub fn sending_epoch(&self, now_unix_ms: u64) -> Option<u32> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).sending_epoch(now_unix_ms)
    }

    /// Returns whether a name has the form of the names that this makes, whatever its tokens.
    pub fn is_wire_name(&self, topic: TopicName<'_>) -> bool {
        topic.as_str().starts_with(&*self.head)
    }

    /// The epoch of a name of this form, if its key is held.
    pub(super) fn epoch_of(&self, topic: TopicName<'_>, now_unix_ms: u64) -> Option<u32> {
        let (digits, _) = topic.as_str().strip_prefix(&*self.head)?.split_once('/')?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let is_held = |epoch: &u32| {
            let state = keys.state(*epoch, now_unix_ms);
            format!("{:04x}", epoch & 0xFFFF) == digits && state != Some(EpochState::Gone)
        };
        keys.epochs(now_unix_ms).into_iter().find(is_held)
    }

    /// The scope a blind scope is called on the wire in one epoch.
    pub(super) fn scope_in(&self, epoch: u32, scope: &Scope) -> Result<Scope, NamingError> {
        let wire = self.name(epoch, "", scope.as_str())?;
        Scope::new(&wire).map_err(|_| NamingError::TooLong)
    }

    /// When other names come into use or go out of it, in unix milliseconds, as far as that is known.
    pub(super) fn next_change(&self, now_unix_ms: u64) -> Option<u64> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).next_change(now_unix_ms)
    }

    /// When names are made in another epoch, in unix milliseconds, if it is known.
    pub(super) fn next_activation(&self, now_unix_ms: u64) -> Option<u64> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).next_activation(now_unix_ms)
    }

    /// When the next key is to be erased, in unix milliseconds.
    pub(super) fn erasure_due_ms(&self) -> u64 {
        self.erasure_due_ms.load(Ordering::Relaxed)
    }

    /// Erases keys whose time is over.
    pub(super) fn advance(&self, now_unix_ms: u64) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let due_ms = keys.advance(now_unix_ms).unwrap_or(u64::MAX);
        self.erasure_due_ms.store(due_ms, Ordering::Relaxed);
    }

    fn name(&self, epoch: u32, group: &str, levels: &str) -> Result<String, NamingError> {
        if levels.starts_with('$') {
            return Err(NamingError::Dollar);
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let head = format!("{group}{}{:04x}", self.head, epoch & 0xFFFF);
        let name = keys.with_key(&self.scope, epoch, |key| append_tokens(head, key, levels));
        name.ok_or(NamingError::NoKey)?
    }
}

fn append_tokens(mut name: String, key: &GroupKey, levels: &str) -> Result<String, NamingError> {
    for (index, level) in levels.split('/').enumerate() {
        let depth = u8::try_from(index + 1).map_err(|_| NamingError::TooDeep)?;
        name.push('/');
        match level {
            "+" | "#" => name.push_str(level),
            level => push_token(&mut name, key, depth, level)?,
        }
    }
    if name.len() > NAME_BYTES_MAX { Err(NamingError::TooLong) } else { Ok(name) }
}

/// `token(d, s)`: the first 10 bytes of `HMAC(K_top, "veil1 level" || u8 d || v16 s)` as 16 letters and digits.
fn push_token(out: &mut String, key: &GroupKey, depth: u8, level: &str) -> Result<(), NamingError> {
    let length = u16::try_from(level.len()).map_err(|_| NamingError::TooLong)?;
    let parts = [b"veil1 level".as_slice(), &[depth], &length.to_be_bytes(), level.as_bytes()];
    let mac = hmac(key.as_bytes(), &parts);
    for five in mac.as_chunks::<5>().0.iter().take(TOKEN_GROUPS) {
        let word = five.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        let letters = (0..8).rev().map(|place| (word >> (5 * place)) & 31);
        out.extend(
            letters.filter_map(|letter| BASE32.get(usize::try_from(letter).ok()?)).map(|c| char::from(*c)),
        );
    }
    Ok(())
}

/// Returns the filters that bring everything that a filter matches: the filter itself unless blind scopes have all of it, and
/// what it is in each of those that it touches.
pub(super) fn wire_filters<'a>(
    filter: TopicFilter<'_>,
    scopes: impl Iterator<Item = (&'a Scope, &'a Naming)>,
    now_unix_ms: u64,
) -> Result<Vec<String>, NamingError> {
    let inner = filter.inner().as_str();
    let mut wire = Vec::new();
    let mut is_blind = false;
    for (scope, naming) in scopes.filter(|(scope, _)| overlaps(scope.as_str(), inner)) {
        is_blind |= scope_covers(scope.as_str(), inner);
        wire.extend(naming.filters(filter, now_unix_ms)?);
    }
    if !is_blind {
        // What the filter itself brings is not to come a second time.
        let covered = |name: &String| {
            TopicFilter::new(name).is_ok_and(|name| scope_covers(inner, name.inner().as_str()))
        };
        wire.retain(|name| !covered(name));
        wire.insert(0, filter.as_str().to_owned());
    }
    let mut seen = BTreeSet::new();
    wire.retain(|name| seen.insert(name.clone()));
    Ok(wire)
}

/// Returns whether any topic matches both filters.
pub fn overlaps(one: &str, other: &str) -> bool {
    // [MQTT-4.7.2-1] A wildcard at the first level does not match names that begin with `$`.
    if one.starts_with('$') != other.starts_with('$') {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(one), Some(other)) if one == other => {}
            (Some(_), Some(_)) => return false,
        }
    }
}
