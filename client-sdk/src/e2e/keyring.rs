//! The epochs of one scope: their keys, and when each may seal or open (VEIL-1 sections 8.2, 8.3).
//!
//! Callers pass `now`; nothing here reads a clock. Invariants: epochs become active in the order of their
//! numbers; an epoch that was dropped is never accepted again; its key is erased from memory.

use std::{collections::BTreeMap, num::NonZeroU64};

use veilmq_protocol::veil::channel::{Secret32, extract};
use zeroize::ZeroizeOnDrop;

use super::{error::ConfigError, scope::Scope};

/// Epochs of one issuer that are held at a time: an issuer that announces more makes its members forget the oldest.
const INSTALLED_MAX: usize = 1_024;

/// A 32-byte group key (GK) of one epoch; erased when dropped.
#[derive(ZeroizeOnDrop)]
pub struct GroupKey(Secret32);

impl GroupKey {
    /// Copies the key, which the caller should erase.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Secret32::new(key))
    }

    /// Copies a key to another place that needs it.
    pub(super) fn copy(&self) -> Self {
        Self::new(self.0.as_bytes())
    }

    pub(super) fn derive(&self, label: &str, context: &[u8]) -> Secret32 {
        self.0.derive(label, context)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// A secret of any length from which a scope derives the group key of every epoch (VEIL-1 section 8.2).
///
/// Simple to deploy, but no member can be removed and nothing is forward secret: whoever holds the master secret
/// reads everything, past and future.
#[derive(ZeroizeOnDrop)]
pub struct MasterSecret(Secret32);

impl MasterSecret {
    /// Extracts the secret from `master`, which the caller should erase.
    pub fn new(master: &[u8]) -> Self {
        Self(extract(b"veil1 master", master))
    }

    fn group_key(&self, scope: &Scope, epoch: u32) -> GroupKey {
        let context = [scope.hash().as_slice(), &epoch.to_be_bytes()].concat();
        GroupKey(self.0.derive("gk", &context))
    }
}

/// Where an epoch is in its life at a receiver (VEIL-1 section 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EpochState {
    /// Not active yet, even for a clock that is ahead by the permitted skew.
    Future,
    /// The newest active epoch.
    Current,
    /// Replaced, and still accepted during the transition window.
    Retiring,
    /// Opens retained messages and explicitly requested backlog only.
    History,
    /// Erased.
    Gone,
}

/// The intervals that turn activation times into epoch states, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochTiming {
    /// How far a receiver clock may be behind that of the sender (default 120 s).
    pub clock_skew_ms: u64,
    /// How long a replaced epoch is still accepted for any message (default 10 min).
    pub transition_window_ms: u64,
    /// How long after that it is kept for retained messages (default 7 days).
    pub history_ms: u64,
}

impl Default for EpochTiming {
    fn default() -> Self {
        Self { clock_skew_ms: 120_000, transition_window_ms: 600_000, history_ms: 7 * 24 * 3_600_000 }
    }
}

/// A plan by which the epochs of a master secret follow each other without any announcement.
///
/// Every party configures the same plan: epoch `first_epoch + k` is active from `start_ms + k * every_ms` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPlan {
    /// The epoch that is active at `start_ms`.
    pub first_epoch: u32,
    /// Unix milliseconds.
    pub start_ms: u64,
    /// Milliseconds between activations; VEIL-1 recommends 24 h.
    pub every_ms: NonZeroU64,
}

impl RotationPlan {
    fn epoch_at(&self, now_unix_ms: u64) -> Option<u32> {
        let elapsed = now_unix_ms.checked_sub(self.start_ms)?;
        let steps = u32::try_from(elapsed / self.every_ms).ok()?;
        self.first_epoch.checked_add(steps)
    }

    fn activate_ms(&self, epoch: u32) -> Option<u64> {
        let steps = u64::from(epoch.checked_sub(self.first_epoch)?);
        self.every_ms.get().checked_mul(steps)?.checked_add(self.start_ms)
    }
}

/// When an epoch changes state, in unix milliseconds; `u64::MAX` where no successor is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochTimes {
    /// Sealing starts here.
    pub activate_ms: u64,
    /// The successor becomes active here.
    pub replaced_ms: u64,
    /// The transition window ends here.
    pub retire_ms: u64,
    /// The key is erased here.
    pub drop_ms: u64,
}

enum Source {
    Planned { master: MasterSecret, plan: RotationPlan },
    Master { master: MasterSecret, activations: BTreeMap<u32, u64> },
    Explicit { keys: BTreeMap<u32, Held> },
}

/// A key that was given, and until when it may be used at the latest.
struct Held {
    key: GroupKey,
    window: Window,
}

/// What an issuer says about the life of one epoch; unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) activate_ms: u64,
    /// Live messages are refused from here on, replaced or not.
    pub(super) retire_ms: u64,
    /// The key is erased here, replaced or not.
    pub(super) drop_ms: u64,
    /// Earlier epochs are gone once this one is active.
    pub(super) no_transition: bool,
}

/// The epochs of one scope.
///
/// ```
/// use veilmq_client::e2e::{EpochState, EpochTiming, GroupKey, Keyring};
///
/// let mut keyring = Keyring::explicit(EpochTiming::default());
/// keyring.insert(7, GroupKey::new(&[7; 32]), 0)?;
/// keyring.insert(8, GroupKey::new(&[8; 32]), 5_000_000)?;
///
/// assert_eq!(keyring.sending_epoch(4_999_999), Some(7));
/// assert_eq!(keyring.sending_epoch(5_000_000), Some(8));
/// assert_eq!(keyring.state(7, 5_000_000), Some(EpochState::Retiring));
/// # Ok::<(), veilmq_client::e2e::ConfigError>(())
/// ```
pub struct Keyring {
    source: Source,
    timing: EpochTiming,
    gone_through: Option<u32>,
}

impl Keyring {
    /// Starts without any epoch; keys come one by one through [`Keyring::insert`].
    pub fn explicit(timing: EpochTiming) -> Self {
        Self::over(Source::Explicit { keys: BTreeMap::new() }, timing)
    }

    /// Derives keys from `master`; `epoch` is active from the beginning of time until another is announced.
    pub fn master(master: MasterSecret, epoch: u32, timing: EpochTiming) -> Self {
        Self::over(Source::Master { master, activations: BTreeMap::from([(epoch, 0)]) }, timing)
    }

    /// Derives keys from `master` and rotates by `plan`.
    pub fn planned(master: MasterSecret, plan: RotationPlan, timing: EpochTiming) -> Self {
        Self::over(Source::Planned { master, plan }, timing)
    }

    fn over(source: Source, timing: EpochTiming) -> Self {
        Self { source, timing, gone_through: None }
    }

    /// Adds the key of an epoch that becomes active at `activate_ms` (unix milliseconds).
    ///
    /// # Errors
    /// [`ConfigError::EpochsArePlanned`] unless this keyring was made by [`Keyring::explicit`];
    /// [`ConfigError::EpochNotNew`] or [`ConfigError::EpochOutOfOrder`] if the epoch does not fit the others.
    pub fn insert(&mut self, epoch: u32, key: GroupKey, activate_ms: u64) -> Result<(), ConfigError> {
        let gone_through = self.gone_through;
        let Source::Explicit { keys } = &mut self.source else { return Err(ConfigError::EpochsArePlanned) };
        fits(gone_through, keys, |held| held.window.activate_ms, epoch, activate_ms)?;
        let window = Window { activate_ms, retire_ms: u64::MAX, drop_ms: u64::MAX, no_transition: false };
        keys.insert(epoch, Held { key, window });
        Ok(())
    }

    /// Takes the key of an epoch from its issuer, or new times for one that is held.
    ///
    /// An earlier epoch that would be active later than this one is superseded and forgotten: it was announced and then
    /// replaced before its time. An epoch that was dropped stays dropped.
    pub(super) fn install(&mut self, epoch: u32, key: GroupKey, window: Window) {
        let Source::Explicit { keys } = &mut self.source else { return };
        if self.gone_through.is_some_and(|last| epoch <= last) {
            return;
        }
        keys.retain(|held, other| *held >= epoch || other.window.activate_ms < window.activate_ms);
        let superseded =
            after(keys, epoch).is_some_and(|later| later.window.activate_ms <= window.activate_ms);
        if !superseded {
            keys.insert(epoch, Held { key, window });
        }
        while keys.len() > INSTALLED_MAX
            && let Some((oldest, _)) = keys.pop_first()
        {
            self.gone_through = self.gone_through.max(Some(oldest));
        }
    }

    /// Has every key that was installed retired and dropped at these times, if not earlier.
    pub(super) fn end(&mut self, retire_ms: u64, drop_ms: u64) {
        let Source::Explicit { keys } = &mut self.source else { return };
        for Held { window, .. } in keys.values_mut() {
            window.retire_ms = window.retire_ms.min(retire_ms);
            window.drop_ms = window.drop_ms.min(drop_ms);
        }
    }

    /// Returns every epoch that is held with its key and times, ascending; none for derived keys.
    pub(super) fn held(&self) -> impl Iterator<Item = (u32, &GroupKey, Window)> {
        let keys = match &self.source {
            Source::Explicit { keys } => Some(keys),
            Source::Planned { .. } | Source::Master { .. } => None,
        };
        keys.into_iter().flatten().map(|(epoch, held)| (*epoch, &held.key, held.window))
    }

    /// Announces that a later epoch of a master secret becomes active at `activate_ms` (unix milliseconds).
    ///
    /// # Errors
    /// [`ConfigError::EpochsArePlanned`] unless this keyring was made by [`Keyring::master`];
    /// [`ConfigError::EpochNotNew`] or [`ConfigError::EpochOutOfOrder`] if the epoch does not fit the others.
    pub fn announce(&mut self, epoch: u32, activate_ms: u64) -> Result<(), ConfigError> {
        let gone_through = self.gone_through;
        let Source::Master { activations, .. } = &mut self.source else {
            return Err(ConfigError::EpochsArePlanned);
        };
        fits(gone_through, activations, |activate_ms| *activate_ms, epoch, activate_ms)?;
        activations.insert(epoch, activate_ms);
        Ok(())
    }

    /// Erases every epoch below `epoch` at once, without transition: what follows a compromise.
    pub fn drop_before(&mut self, epoch: u32) {
        if let Some(last) = epoch.checked_sub(1) {
            self.drop_through(last);
        }
    }

    /// Erases `last` and every epoch before it at once, without transition; with [`u32::MAX`] there is none ever after.
    pub fn drop_through(&mut self, last: u32) {
        self.gone_through = self.gone_through.max(Some(last));
        match &mut self.source {
            Source::Planned { .. } => {}
            Source::Master { activations, .. } => activations.retain(|held, _| *held > last),
            Source::Explicit { keys } => keys.retain(|held, _| *held > last),
        }
    }

    /// Erases the keys whose time has come, with all before them, and returns when the next one is due, in unix milliseconds.
    pub fn advance(&mut self, now_unix_ms: u64) -> Option<u64> {
        let held: Vec<u32> = match &self.source {
            Source::Planned { plan, .. } => return self.plan_due(plan, now_unix_ms),
            Source::Master { activations, .. } => activations.keys().copied().collect(),
            Source::Explicit { keys } => keys.keys().copied().collect(),
        };
        let end = |epoch: u32| self.times(epoch).map(|times| (epoch, times.drop_ms));
        let ends: Vec<(u32, u64)> = held.into_iter().filter_map(end).collect();
        // An earlier epoch may have no end that is known, but none after the end of a later one.
        let over = ends.iter().rev().find(|(_, drop_ms)| *drop_ms <= now_unix_ms).map(|(epoch, _)| *epoch);
        if let Some(over) = over {
            self.drop_through(over);
        }
        let left = ends.into_iter().filter(|(epoch, drop_ms)| Some(*epoch) > over && *drop_ms != u64::MAX);
        left.map(|(_, drop_ms)| drop_ms).min()
    }

    /// When the oldest epoch of a plan that is not gone will be. None of its keys are held, but what is derived from them is.
    fn plan_due(&self, plan: &RotationPlan, now_unix_ms: u64) -> Option<u64> {
        let kept_ms = self.timing.transition_window_ms.saturating_add(self.timing.history_ms);
        let replaced_ms = now_unix_ms.saturating_sub(kept_ms).max(plan.start_ms);
        let held = self.gone_through.map_or(Some(0), |last| last.checked_add(1))?;
        let oldest = plan.epoch_at(replaced_ms)?.max(held);
        self.times(oldest).map(|times| times.drop_ms).filter(|drop_ms| *drop_ms != u64::MAX)
    }

    /// Returns when `epoch` changes state, or `None` if it is not known.
    pub fn times(&self, epoch: u32) -> Option<EpochTimes> {
        let activate_ms = self.activate_ms(epoch)?;
        let replaced_ms = match &self.source {
            // Also of the last number, which has no successor.
            Source::Planned { plan, .. } => activate_ms.checked_add(plan.every_ms.get()),
            Source::Master { activations, .. } => after(activations, epoch).copied(),
            Source::Explicit { keys } => after(keys, epoch).map(|held| held.window.activate_ms),
        };
        let replaced_ms = replaced_ms.unwrap_or(u64::MAX);
        let limits = self.limits(epoch);
        let retire_ms = replaced_ms.saturating_add(self.timing.transition_window_ms).min(limits.retire_ms);
        let drop_ms = retire_ms.saturating_add(self.timing.history_ms).min(limits.drop_ms);
        Some(EpochTimes { activate_ms, replaced_ms: replaced_ms.min(retire_ms), retire_ms, drop_ms })
    }

    /// What bounds the life of `epoch` besides its successor.
    fn limits(&self, epoch: u32) -> Window {
        let mut limits =
            Window { activate_ms: 0, retire_ms: u64::MAX, drop_ms: u64::MAX, no_transition: false };
        let Source::Explicit { keys } = &self.source else { return limits };
        if let Some(held) = keys.get(&epoch) {
            limits = held.window;
        }
        let Some(next) = epoch.checked_add(1) else { return limits };
        let cut = keys.range(next..).find(|(_, held)| held.window.no_transition);
        if let Some((_, cut)) = cut {
            limits.retire_ms = limits.retire_ms.min(cut.window.activate_ms);
            limits.drop_ms = limits.drop_ms.min(cut.window.activate_ms);
        }
        limits
    }

    /// Returns the state of `epoch` at a receiver, or `None` if it is not known.
    pub fn state(&self, epoch: u32, now_unix_ms: u64) -> Option<EpochState> {
        if self.gone_through.is_some_and(|last| epoch <= last) {
            return Some(EpochState::Gone);
        }
        let times = self.times(epoch)?;
        Some(match now_unix_ms {
            now if now >= times.drop_ms => EpochState::Gone,
            now if now >= times.retire_ms => EpochState::History,
            now if now >= times.replaced_ms => EpochState::Retiring,
            now if now.saturating_add(self.timing.clock_skew_ms) >= times.activate_ms => EpochState::Current,
            _ => EpochState::Future,
        })
    }

    /// Returns the epoch a sender seals under at `now_unix_ms`, if there is one.
    pub fn sending_epoch(&self, now_unix_ms: u64) -> Option<u32> {
        let newest = match &self.source {
            Source::Planned { plan, .. } => plan.epoch_at(now_unix_ms),
            Source::Master { activations, .. } => newest_active(
                activations.iter().map(|(epoch, activate_ms)| (*epoch, *activate_ms)),
                now_unix_ms,
            ),
            Source::Explicit { keys } => {
                newest_active(keys.iter().map(|(epoch, held)| (*epoch, held.window.activate_ms)), now_unix_ms)
            }
        };
        newest.filter(|epoch| {
            let retired = self.limits(*epoch).retire_ms <= now_unix_ms;
            !retired && self.gone_through.is_none_or(|last| *epoch > last)
        })
    }

    /// Returns when the next epoch becomes active, in unix milliseconds, if it is known.
    pub fn next_activation(&self, now_unix_ms: u64) -> Option<u64> {
        let later = |activate_ms: &u64| *activate_ms > now_unix_ms;
        match &self.source {
            Source::Planned { plan, .. } => match plan.epoch_at(now_unix_ms) {
                Some(epoch) => plan.activate_ms(epoch.checked_add(1)?),
                None => Some(plan.start_ms).filter(later),
            },
            Source::Master { activations, .. } => activations.values().copied().filter(later).min(),
            Source::Explicit { keys } => {
                keys.values().map(|held| held.window.activate_ms).filter(later).min()
            }
        }
    }

    /// Returns the epochs that may have a key now, ascending; of a rotation plan those around the current one.
    pub(super) fn epochs(&self, now_unix_ms: u64) -> Vec<u32> {
        match &self.source {
            Source::Planned { plan, .. } => {
                let current = plan.epoch_at(now_unix_ms).unwrap_or(plan.first_epoch);
                let around = [current.checked_sub(1), Some(current), current.checked_add(1)];
                around.into_iter().flatten().filter(|epoch| *epoch >= plan.first_epoch).collect()
            }
            Source::Master { activations, .. } => activations.keys().copied().collect(),
            Source::Explicit { keys } => keys.keys().copied().collect(),
        }
    }

    /// Returns when an epoch begins or ceases to be accepted for any message, in unix milliseconds, as far as that is known.
    pub(super) fn next_change(&self, now_unix_ms: u64) -> Option<u64> {
        let times = self.epochs(now_unix_ms).into_iter().filter_map(|epoch| self.times(epoch));
        let changes = times
            .flat_map(|times| [times.activate_ms.saturating_sub(self.timing.clock_skew_ms), times.retire_ms]);
        changes.filter(|change_ms| *change_ms > now_unix_ms && *change_ms != u64::MAX).min()
    }

    /// Gives `use_key` the group key of `epoch`, or returns `None` if there is none.
    pub(super) fn with_key<T>(
        &self,
        scope: &Scope,
        epoch: u32,
        use_key: impl FnOnce(&GroupKey) -> T,
    ) -> Option<T> {
        self.activate_ms(epoch)?;
        match &self.source {
            Source::Planned { master, .. } | Source::Master { master, .. } => {
                Some(use_key(&master.group_key(scope, epoch)))
            }
            Source::Explicit { keys } => keys.get(&epoch).map(|held| use_key(&held.key)),
        }
    }

    fn activate_ms(&self, epoch: u32) -> Option<u64> {
        if self.gone_through.is_some_and(|last| epoch <= last) {
            return None;
        }
        match &self.source {
            Source::Planned { plan, .. } => plan.activate_ms(epoch),
            Source::Master { activations, .. } => activations.get(&epoch).copied(),
            Source::Explicit { keys } => keys.get(&epoch).map(|held| held.window.activate_ms),
        }
    }
}

fn after<V>(epochs: &BTreeMap<u32, V>, epoch: u32) -> Option<&V> {
    epochs.range(epoch.checked_add(1)?..).next().map(|(_, value)| value)
}

fn newest_active(mut epochs: impl DoubleEndedIterator<Item = (u32, u64)>, now_unix_ms: u64) -> Option<u32> {
    epochs.rfind(|(_, activate_ms)| *activate_ms <= now_unix_ms).map(|(epoch, _)| epoch)
}

fn fits<V>(
    gone_through: Option<u32>,
    epochs: &BTreeMap<u32, V>,
    activation: impl Fn(&V) -> u64,
    epoch: u32,
    activate_ms: u64,
) -> Result<(), ConfigError> {
    if epochs.contains_key(&epoch) || gone_through.is_some_and(|last| epoch <= last) {
        return Err(ConfigError::EpochNotNew(epoch));
    }
    let before = epochs.range(..epoch).next_back().is_none_or(|(_, held)| activation(held) <= activate_ms);
    let behind = after(epochs, epoch).is_none_or(|held| activation(held) >= activate_ms);
    if before && behind { Ok(()) } else { Err(ConfigError::EpochOutOfOrder(epoch)) }
}

#[cfg(test)]
mod tests;
