//! What the broker says of itself: the totals of all shards, published on `$SYS` topics at an interval.
//!
//! One shard speaks for all. It reads what the others count without asking them, so nobody waits for anybody.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::MissedTickBehavior;
use veilmq_core::{Input, Shared, Stats, SysReport, Totals};
use veilmq_protocol::TopicName;

use super::counters::Counters;
use super::worker::Worker;
use crate::admin::process_memory;
use crate::clock;
use crate::logging::{TopicLine, publish_quietly};

/// Gathers what is announced. It is made on the main thread and moved to the shard that speaks.
pub struct Announcer {
    interval: Duration,
    shared: Arc<Shared>,
    shards: Vec<(Arc<Stats>, Arc<Counters>)>,
    report: SysReport,
}

impl Announcer {
    /// Makes the announcer of a broker that starts now with these shards. `interval` is longer than zero.
    pub fn new(interval: Duration, shared: Arc<Shared>, shards: Vec<(Arc<Stats>, Arc<Counters>)>) -> Self {
        Self { interval, shared, shards, report: SysReport::new(env!("CARGO_PKG_VERSION"), clock::now()) }
    }

    /// Announces at once and then at each interval, for ever.
    pub(super) async fn announce_for_ever(mut self, worker: Rc<Worker>) {
        let mut clock = tokio::time::interval(self.interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let changed = self.report.update(&self.totals(), clock::now());
            worker.announce(&changed);
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (stats, counters) in &self.shards {
            stats.add_to(&mut totals);
            totals.messages_dropped += counters.messages_dropped();
        }
        let (messages, bytes) = self.shared.retained_totals();
        (totals.retained_messages, totals.retained_bytes) = (messages as u64, bytes as u64);
        (totals.memory_bytes, totals.memory_bytes_max) = process_memory();
        totals
    }
}

/// Publishes lines of the log, each once.
pub(super) async fn publish_lines(worker: Rc<Worker>, mut lines: Receiver<TopicLine>) {
    while let Some(TopicLine { topic, text }) = lines.recv().await {
        let Ok(topic) = TopicName::new(topic) else { continue };
        let input = Input::Announced { topic, payload: text.as_bytes(), retain: false };
        publish_quietly(|| worker.turn(input));
    }
}
