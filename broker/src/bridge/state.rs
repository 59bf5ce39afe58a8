//! What the bridges count.

use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_core::{Sample, SampleKind};

use crate::admin::metrics::MetricSource;

/// The counters of all bridges together.
#[derive(Debug, Default)]
pub struct BridgeCounters {
    configured: AtomicU64,
    connected: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    set_aside: AtomicU64,
    loops: AtomicU64,
}

impl BridgeCounters {
    pub(super) fn configured(&self, bridges: usize) {
        self.configured.store(bridges as u64, Ordering::Relaxed);
    }

    pub(super) fn up(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn down(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_aside(&self) {
        self.set_aside.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn loop_stopped(&self) {
        self.loops.fetch_add(1, Ordering::Relaxed);
    }
}

impl MetricSource for BridgeCounters {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connected = read(&self.connected);
        let away = read(&self.configured).saturating_sub(connected);
        for (state, value) in [("up", connected), ("down", away)] {
            visit(Sample {
                name: "veilmq_bridges",
                help: "Bridges to other brokers.",
                kind: SampleKind::Gauge,
                label: Some(("state", state)),
                value,
            });
        }
        for (name, help, counter) in [
            (
                "veilmq_bridge_failures_total",
                "Connections of bridges that failed or were not made.",
                &self.failures,
            ),
            (
                "veilmq_bridge_refused_total",
                "Messages and subscriptions of bridges that a broker refused for good.",
                &self.refused,
            ),
            (
                "veilmq_bridge_set_aside_total",
                "Messages of bridges given up because the other broker ended every connection at them.",
                &self.set_aside,
            ),
            (
                "veilmq_bridge_loops_stopped_total",
                "Messages that had crossed a bridge before and were stopped there.",
                &self.loops,
            ),
        ] {
            visit(Sample { name, help, kind: SampleKind::Counter, label: None, value: read(counter) });
        }
    }
}
