//! What all shards together count, read without asking them, so that nobody waits for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_core::{Moment, Shared, Stats, Totals, sys_values};

use super::counters::Counters;
use crate::admin::process_memory;
use crate::clock;

/// The totals of a broker.
pub(crate) struct Tally {
    shared: Arc<Shared>,
    shards: Vec<(Arc<Stats>, Arc<Counters>)>,
    started: Moment,
    /// The most clients that were ever seen connected.
    clients_max: AtomicU64,
}

impl Tally {
    /// Makes that of a broker which starts now with these shards.
    pub(crate) fn new(shared: Arc<Shared>, shards: Vec<(Arc<Stats>, Arc<Counters>)>) -> Self {
        Self { shared, shards, started: clock::now(), clients_max: AtomicU64::new(0) }
    }

    /// Returns the totals at this moment.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (stats, counters) in &self.shards {
            stats.add_to(&mut totals);
            totals.messages_dropped += counters.messages_dropped();
        }
        let (messages, bytes) = self.shared.retained_totals();
        (totals.retained_messages, totals.retained_bytes) = (messages as u64, bytes as u64);
        (totals.memory_bytes, totals.memory_bytes_max) = process_memory();
        self.clients_max.fetch_max(totals.sessions_connected, Ordering::Relaxed);
        totals
    }

    /// Returns what `$SYS` topics say in whole numbers, at this moment.
    pub(crate) fn sys_values(&self) -> Vec<(String, u64)> {
        let totals = self.totals();
        let mut values: Vec<_> = sys_values(&totals).collect();
        values.push(("$SYS/broker/clients/maximum".to_owned(), self.clients_max.load(Ordering::Relaxed)));
        values.push(("$SYS/broker/uptime".to_owned(), clock::now().since(self.started) / 1_000));
        values
    }
}
