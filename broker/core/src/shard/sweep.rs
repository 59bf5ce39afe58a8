//! Retained messages that expire: they leave the broker and its store when they do, whether anybody asks for them or not.
//!
//! All shards share what is retained, so each that has retained something with an expiry looks for what is over, to the second.
//! Whoever comes first removes it and records that. Invariant: some shard looks no later than a second after the next message expires.

use std::sync::Arc;

use super::Shard;
use super::timer::Timer;
use crate::record::Record;
use crate::time::Moment;

/// The retained messages that expire in one turn.
const EXPIRED_PER_TURN: usize = 1_000;

impl Shard {
    /// Lets this shard look for retained messages that have expired when one does that expires at `expiry`, unless it looks before.
    pub(crate) fn arm_sweep(&mut self, expiry: Option<Moment>, now: Moment) {
        let Some(at) = expiry.map(|at| at.to_second().max(now + 1)) else { return };
        if self.sweep_at.is_some_and(|armed| armed <= at) {
            return;
        }
        if let Some(armed) = self.sweep_at.replace(at) {
            self.timers.remove(&(armed, Timer::Sweep));
        }
        self.timers.insert((at, Timer::Sweep));
    }

    /// Removes retained messages that have expired; of many, some are left for a later turn.
    pub(super) fn sweep_deadline(&mut self, now: Moment) {
        self.sweep_at = None;
        let expired = self.shared.retained.take_expired(now, EXPIRED_PER_TURN);
        self.forget_expired(expired);
        self.arm_sweep(self.shared.retained.next_expiry(), now);
    }

    /// Has the store forget what was retained of topics, where it knows of it.
    pub(super) fn forget_expired(&mut self, topics: Vec<Arc<str>>) {
        let relaxed = &self.settings.relaxed_topics;
        let stored = topics.into_iter().filter(|topic| !relaxed.is_in_memory(topic));
        self.records.extend(stored.map(|topic| Record::RetainedCleared { topic }));
    }
}
