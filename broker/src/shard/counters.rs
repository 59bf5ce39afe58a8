//! What the daemon counts for one shard beside what the core counts. Only the shard writes.

use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_core::{Sample, SampleKind};

/// Counters of one shard's sockets and mailboxes.
#[derive(Debug, Default)]
pub struct Counters {
    deliveries_dropped: AtomicU64,
    connections_refused: AtomicU64,
    accept_errors: AtomicU64,
    write_timeouts: AtomicU64,
    reads_paused: AtomicU64,
    reads_throttled: AtomicU64,
}

impl Counters {
    /// So many sessions of another shard do not get a message, because its mailbox is full.
    pub(super) fn deliveries_dropped(&self, count: u64) {
        self.deliveries_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// A connection was closed at once because there are enough.
    pub(super) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The operating system gave no connection.
    pub(super) fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A client took no bytes for too long.
    pub(super) fn write_timed_out(&self) {
        self.write_timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was not read because what its messages need is behind.
    pub(super) fn read_paused(&self) {
        self.reads_paused.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was not read for a while because its client sends faster than it may.
    pub(super) fn read_throttled(&self) {
        self.reads_throttled.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many deliveries did not take place because a mailbox was full.
    pub(super) fn messages_dropped(&self) -> u64 {
        self.deliveries_dropped.load(Ordering::Relaxed)
    }

    /// Visits every sample.
    pub fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        for (name, help, label, cell) in [
            (
                "veilmq_messages_dropped_total",
                "Deliveries that did not take place.",
                Some(("reason", "mailbox_full")),
                &self.deliveries_dropped,
            ),
            (
                "veilmq_connections_refused_total",
                "Network Connections closed when accepted, because of a limit or a ban.",
                None,
                &self.connections_refused,
            ),
            (
                "veilmq_accept_errors_total",
                "Network Connections that the operating system could not give.",
                None,
                &self.accept_errors,
            ),
            (
                "veilmq_write_timeouts_total",
                "Network Connections closed because the client took no bytes for limits.write_seconds_max.",
                None,
                &self.write_timeouts,
            ),
            (
                "veilmq_reads_paused_total",
                "Times a connection was not read because storage or another shard was behind.",
                None,
                &self.reads_paused,
            ),
            (
                "veilmq_reads_throttled_total",
                "Times a connection was not read for a while because its client sends faster than rates allow.",
                None,
                &self.reads_throttled,
            ),
        ] {
            visit(Sample {
                name,
                help,
                kind: SampleKind::Counter,
                label,
                value: cell.load(Ordering::Relaxed),
            });
        }
    }
}
