//! How far every subscriber has got with every publisher: the flow control between them.
//!
//! A publisher stays within a window of messages that not all of its audience has seen, so no broker has to
//! drop anything and every broker is loaded alike. It counts by the highest number seen: a lost message opens
//! the window when a later one arrives. Memory: 8 bytes for each (publisher, subscriber) pair with a topic.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use crate::scenario::Scenario;

/// Shared by all clients of a run.
pub(crate) struct Board {
    scenario: Scenario,
    /// Time zero of the due times in payloads.
    pub(crate) epoch: Instant,
    publishers: Vec<Lane>,
}

struct Lane {
    /// Messages published so far.
    published: AtomicU64,
    /// For each subscriber of the audience: one more than the highest number seen.
    seen: Vec<AtomicU64>,
    /// The publisher sleeps until some subscriber has seen this many.
    wake_at: AtomicU64,
    wake: Notify,
}

impl Board {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let lane = |publisher| Lane {
            published: AtomicU64::new(0),
            seen: scenario.audience(publisher).map(|_| AtomicU64::new(0)).collect(),
            wake_at: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
        };
        Self { scenario, epoch: Instant::now(), publishers: (0..scenario.publishers()).map(lane).collect() }
    }

    /// How many publishers the run has.
    pub(crate) fn publishers(&self) -> u16 {
        self.scenario.publishers()
    }

    /// The subscribers that receive what `publisher` sends.
    pub(crate) fn audience(&self, publisher: u16) -> Range<u16> {
        self.scenario.audience(publisher)
    }

    /// Announces that `publisher` is about to send all messages below `published`.
    pub(crate) fn announce(&self, publisher: u16, published: u64) {
        if let Some(lane) = self.publishers.get(usize::from(publisher)) {
            lane.published.store(published, Ordering::SeqCst);
        }
    }

    /// How many messages `publisher` has announced; 0 for one that does not exist.
    pub(crate) fn published(&self, publisher: u16) -> u64 {
        self.publishers.get(usize::from(publisher)).map_or(0, |lane| lane.published.load(Ordering::SeqCst))
    }

    /// Enters that `subscriber` has seen numbers below `next` of `publisher`.
    pub(crate) fn report(&self, publisher: u16, subscriber: u16, next: u64) {
        let Some(lane) = self.publishers.get(usize::from(publisher)) else { return };
        let place = usize::from(subscriber).checked_sub(usize::from(self.audience(publisher).start));
        let Some(seen) = place.and_then(|place| lane.seen.get(place)) else { return };
        // Store, then look at `wake_at`; the publisher sets `wake_at`, then looks at `seen`: one of them notices.
        seen.store(next, Ordering::SeqCst);
        if next >= lane.wake_at.load(Ordering::SeqCst) {
            lane.wake.notify_one();
        }
    }

    /// How many messages of `publisher` its whole audience has seen.
    pub(crate) fn seen_by_all(&self, publisher: u16) -> u64 {
        let lane = self.publishers.get(usize::from(publisher));
        lane.and_then(|lane| lane.seen.iter().map(|seen| seen.load(Ordering::SeqCst)).min()).unwrap_or(0)
    }

    /// Waits until the whole audience of `publisher` has seen `count` messages. Cancel safe.
    pub(crate) async fn wait_seen(&self, publisher: u16, count: u64) {
        let Some(lane) = self.publishers.get(usize::from(publisher)) else { return };
        lane.wake_at.store(count, Ordering::SeqCst);
        while self.seen_by_all(publisher) < count {
            lane.wake.notified().await;
        }
        lane.wake_at.store(u64::MAX, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_publisher_waits_for_the_slowest_of_its_audience() {
        let board = Board::new(Scenario::FanOut(3));
        let mut wait = pin!(board.wait_seen(0, 10));

        board.report(0, 0, 12);
        board.report(0, 1, 10);
        assert!(poll(wait.as_mut()).is_pending());
        board.report(0, 2, 9);
        assert!(poll(wait.as_mut()).is_pending());
        board.report(0, 2, 10);

        assert!(poll(wait).is_ready());
        assert_eq!(board.seen_by_all(0), 10);
    }

    #[test]
    fn pairs_do_not_wait_for_each_other() {
        let board = Board::new(Scenario::Pairs(3));

        board.report(1, 1, 5);
        board.report(1, 2, 99);

        assert_eq!([0, 1, 2].map(|publisher| board.seen_by_all(publisher)), [0, 5, 0]);
    }

    #[test]
    fn a_publisher_that_does_not_exist_has_published_nothing() {
        let board = Board::new(Scenario::FanIn(2));

        board.announce(1, 7);
        board.announce(2, 7);
        board.report(2, 0, 7);

        assert_eq!([0, 1, 2].map(|publisher| board.published(publisher)), [0, 7, 0]);
    }
}
