//! What the broker says of itself: the totals of all shards, published on `$SYS` topics at an interval.
//!
//! One shard speaks for all.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use veilmq_core::{Input, SysReport};
use veilmq_protocol::TopicName;

use super::tally::Tally;
use super::worker::Worker;
use crate::clock;
use crate::logging::{TopicLine, publish_quietly};

/// Gathers what is announced. It is made on the main thread and moved to the shard that speaks.
pub struct Announcer {
    /// From one report to the next; zero makes none.
    interval: watch::Receiver<Duration>,
    tally: Arc<Tally>,
    report: SysReport,
}

impl Announcer {
    /// Makes the announcer of a broker that starts now and counts this; an `interval` of zero makes no reports.
    pub(crate) fn new(interval: watch::Receiver<Duration>, tally: Arc<Tally>) -> Self {
        Self { interval, tally, report: SysReport::new(env!("CARGO_PKG_VERSION"), clock::now()) }
    }

    /// Announces at once, then at each interval, and when that changes, until nobody can change it any more.
    pub(super) async fn announce_for_ever(mut self, worker: Rc<Worker>) {
        loop {
            let interval = *self.interval.borrow_and_update();
            let is_over = match interval.is_zero() {
                true => self.interval.changed().await.is_err(),
                false => {
                    let changed = self.report.update(&self.tally.totals(), clock::now());
                    worker.announce(&changed);
                    let waited = tokio::time::timeout(interval, self.interval.changed()).await;
                    waited.is_ok_and(|changed| changed.is_err())
                }
            };
            if is_over {
                return;
            }
        }
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
