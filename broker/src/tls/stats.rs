//! How many TLS handshakes there are and how they end, counted over all shards.
//!
//! Invariant: every handshake that began is counted once when it is over, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_core::{Sample, SampleKind};

use crate::admin::metrics::MetricSource;
use crate::shard::{ConnectionLimit, Permit};

/// Handshakes of all listeners.
#[derive(Debug)]
pub(super) struct TlsStats {
    under_way: ConnectionLimit,
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

impl TlsStats {
    /// Allows so many handshakes at one time.
    pub(super) fn new(handshakes_max: usize) -> Self {
        Self {
            under_way: ConnectionLimit::new(handshakes_max),
            full: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Allows another number from now on.
    pub(super) fn allow(&self, handshakes_max: usize) {
        self.under_way.allow(handshakes_max);
    }

    /// Begins one more handshake; None if enough are under way.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Handshake> {
        let permit = self.under_way.permit();
        if permit.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        Some(Handshake { _permit: permit?, stats: Arc::clone(self), is_over: false })
    }
}

impl MetricSource for TlsStats {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        for (result, count) in [
            ("full", &self.full),
            ("resumed", &self.resumed),
            ("failed", &self.failed),
            ("refused", &self.refused),
        ] {
            visit(Sample {
                name: "veilmq_tls_handshakes_total",
                help: "TLS handshakes that are over; refused ones found limits.tls_handshakes_max under way.",
                kind: SampleKind::Counter,
                label: Some(("result", result)),
                value: count.load(Ordering::Relaxed),
            });
        }
    }
}

/// A handshake under way; one that is dropped has failed.
pub(super) struct Handshake {
    stats: Arc<TlsStats>,
    _permit: Permit,
    is_over: bool,
}

impl Handshake {
    /// Takes note that it is complete.
    pub(super) fn succeeded(mut self, is_resumed: bool) {
        self.is_over = true;
        let count = if is_resumed { &self.stats.resumed } else { &self.stats.full };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.is_over {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
