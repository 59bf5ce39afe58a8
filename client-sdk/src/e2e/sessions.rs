//! How many sender sessions have used each key that this program issues (VEIL-1 section 8.3).
//!
//! Counts what is sealed and opened here, over restarts. Invariant: bounded, for no more than [`SESSIONS_MAX`] sessions of one
//! scope are told apart.

use std::collections::{BTreeMap, HashSet};

use veilmq_protocol::veil::Kid;

/// Sessions that may use one key (VEIL-1 section 8.3): the number of the epoch changes before there are more.
pub(super) const SESSIONS_MAX: u32 = 1 << 16;

/// Sessions of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionsUsed {
    pub(super) epoch: u32,
    pub(super) count: u32,
}

/// The counts of the scopes whose keys are issued here, by their place in the configuration.
#[derive(Default)]
pub(super) struct Sessions {
    scopes: BTreeMap<u32, Used>,
    has_noted: bool,
}

#[derive(Default)]
struct Used {
    epoch: u32,
    /// By an earlier run of this program.
    before: u32,
    known: HashSet<(Kid, u64)>,
}

impl Sessions {
    /// Takes note of a message.
    pub(super) fn note(&mut self, scope: u32, epoch: u32, sender: Kid, session: u64) {
        let used = self.scopes.entry(scope).or_default();
        if epoch > used.epoch {
            *used = Used { epoch, ..Used::default() };
        }
        if epoch == used.epoch && used.count() <= SESSIONS_MAX {
            self.has_noted |= used.known.insert((sender, session));
        }
    }

    /// Whether there is another session since this was last asked.
    pub(super) const fn take_noted(&mut self) -> bool {
        std::mem::replace(&mut self.has_noted, false)
    }

    /// The sessions of the newest epoch that was used in a scope.
    pub(super) fn used(&self, scope: u32) -> Option<SessionsUsed> {
        let used = self.scopes.get(&scope)?;
        Some(SessionsUsed { epoch: used.epoch, count: used.count() })
    }

    /// Goes on from what an earlier run has counted.
    pub(super) fn resume(&mut self, scope: u32, SessionsUsed { epoch, count }: SessionsUsed) {
        self.scopes.insert(scope, Used { epoch, before: count, known: HashSet::new() });
    }
}

impl Used {
    fn count(&self) -> u32 {
        self.before.saturating_add(u32::try_from(self.known.len()).unwrap_or(u32::MAX))
    }
}
