//! How far every subscriber has got with every publisher: the flow control between them.
//!
//! A publisher stays within a window of messages that not all of its audience has seen, so no broker has to
//! drop anything and every broker is loaded alike. It counts by the highest number seen: a lost message opens
//! the window when a later one arrives. The members of a group share one account of each publisher, kept here, and count by
//! what they have had together. Memory: 8 bytes for each (publisher, subscriber) pair with a topic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::ledger::Ledger;
use crate::scenario::{Reach, Scenario};

/// Shared by all clients of a run.
pub(crate) struct Board {
    pub(crate) scenario: Scenario,
    /// Time zero of the due times in payloads.
    pub(crate) epoch: Instant,
    publishers: Vec<Lane>,
}

struct Lane {
    /// Messages published so far.
    published: AtomicU64,
    /// For each subscriber of the audience: one more than the highest number seen. For a group: how many it has had.
    seen: Vec<AtomicU64>,
    /// What the group has had; empty where there is none.
    group: Mutex<Ledger>,
    /// The publisher sleeps until some subscriber has seen this many.
    wake_at: AtomicU64,
    wake: Notify,
}

impl Board {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let seen = if scenario.reach == Reach::All { scenario.subscribers } else { 1 };
        let lane = |_| Lane {
            published: AtomicU64::new(0),
            seen: (0..seen).map(|_| AtomicU64::new(0)).collect(),
            group: Mutex::default(),
            wake_at: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
        };
        Self { scenario, epoch: Instant::now(), publishers: (0..scenario.publishers).map(lane).collect() }
    }

    /// A board for one publisher that nobody is to hear.
    pub(crate) fn without_audience() -> Self {
        let mut board = Self::new(Scenario::fan_out(1));
        board.publishers.iter_mut().for_each(|lane| lane.seen.clear());
        board
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

    /// Enters that a member of the group has got message `sequence` of `publisher`.
    pub(crate) fn enter_for_group(&self, publisher: u16, sequence: u64) {
        if let Some(lane) = self.publishers.get(usize::from(publisher)) {
            lane.group.lock().unwrap_or_else(PoisonError::into_inner).record(sequence);
        }
    }

    /// How many messages of `publisher` the group has had.
    pub(crate) fn delivered_to_group(&self, publisher: u16) -> u64 {
        let lane = self.publishers.get(usize::from(publisher));
        lane.map_or(0, |lane| lane.group.lock().unwrap_or_else(PoisonError::into_inner).delivered())
    }

    /// Takes the accounts of the group, one for each publisher; they begin anew.
    pub(crate) fn take_group_ledgers(&self) -> Vec<Ledger> {
        let take =
            |lane: &Lane| std::mem::take(&mut *lane.group.lock().unwrap_or_else(PoisonError::into_inner));
        self.publishers.iter().map(take).collect()
    }

    /// Enters that `subscriber` has seen numbers below `next` of `publisher`.
    pub(crate) fn report(&self, publisher: u16, subscriber: u16, next: u64) {
        let Some(lane) = self.publishers.get(usize::from(publisher)) else { return };
        if !self.scenario.sources(subscriber).contains(&publisher) {
            return;
        }
        let place = if self.scenario.reach == Reach::All { subscriber } else { 0 };
        let Some(seen) = lane.seen.get(usize::from(place)) else { return };
        // Store, then look at `wake_at`; the publisher sets `wake_at`, then looks at `seen`: one of them notices. Two members of
        // a group may come here in the other order than they counted.
        seen.fetch_max(next, Ordering::SeqCst);
        if next >= lane.wake_at.load(Ordering::SeqCst) {
            lane.wake.notify_one();
        }
    }

    /// How many messages of `publisher` its whole audience has seen.
    pub(crate) fn seen_by_all(&self, publisher: u16) -> u64 {
        let Some(lane) = self.publishers.get(usize::from(publisher)) else { return 0 };
        lane.seen.iter().map(|seen| seen.load(Ordering::SeqCst)).min().unwrap_or(u64::MAX)
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
        let board = Board::new(Scenario::fan_out(3));
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
        let board = Board::new(Scenario::pairs(3));

        board.report(1, 1, 5);
        board.report(1, 2, 99);

        assert_eq!([0, 1, 2].map(|publisher| board.seen_by_all(publisher)), [0, 5, 0]);
    }

    #[test]
    fn who_has_no_audience_waits_for_nobody() {
        assert!(poll(pin!(Board::without_audience().wait_seen(0, 10))).is_ready());
    }

    #[test]
    fn the_members_of_a_group_are_counted_together() {
        let board = Board::new(Scenario::shared(1, 2));

        for (member, sequence) in [(0, 1), (1, 0), (1, 0)] {
            board.enter_for_group(0, sequence);
            board.report(0, member, board.delivered_to_group(0));
        }

        assert_eq!(board.seen_by_all(0), 2);
        let ledgers = board.take_group_ledgers();
        assert_eq!((ledgers[0].delivered(), ledgers[0].lost(3), ledgers[0].duplicates()), (2, 1, 1));
    }

    #[test]
    fn a_publisher_that_does_not_exist_has_published_nothing() {
        let board = Board::new(Scenario::fan_in(2));

        board.announce(1, 7);
        board.announce(2, 7);
        board.report(2, 0, 7);

        assert_eq!([0, 1, 2].map(|publisher| board.published(publisher)), [0, 7, 0]);
    }
}
