//! Whether the broker still retains what an issuer has published last, and when that is put back (VEIL-1 section 9.2).
//!
//! Time is an argument. Invariant: it is put back at most once in [`PUT_BACK_EVERY_MS`], whatever others publish there, and a clock that
//! was set back delays it by no more than that.

use std::collections::VecDeque;

use veilmq_protocol::veil::channel::hash;

/// How often a head is issued again because the broker does not retain it, in milliseconds.
pub(super) const PUT_BACK_EVERY_MS: u64 = 60_000;
/// Heads that may be on their way to the broker and back.
const UNHEARD_MAX: usize = 8;

pub(super) struct Retention {
    /// The newest head with its wraps, as this run has published it.
    newest: Option<[u8; 32]>,
    /// Heads that the broker has not sent back, oldest first: what it sends of them is not what it retains in the end.
    unheard: VecDeque<[u8; 32]>,
    /// The newest was heard on this connection.
    is_heard: bool,
    /// When it is issued again because the broker does not retain it, in unix milliseconds.
    due_ms: u64,
    /// Not before this, in unix milliseconds.
    again_ms: u64,
}

impl Retention {
    pub(super) const fn new() -> Self {
        let unheard = VecDeque::new();
        Self { newest: None, unheard, is_heard: false, due_ms: u64::MAX, again_ms: 0 }
    }

    pub(super) const fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Has nothing wait for a moment that a clock was set back from.
    pub(super) fn advance(&mut self, now_unix_ms: u64) {
        let latest_ms = now_unix_ms.saturating_add(PUT_BACK_EVERY_MS);
        self.again_ms = self.again_ms.min(latest_ms);
        if self.due_ms != u64::MAX {
            self.due_ms = self.due_ms.min(latest_ms);
        }
    }

    /// A head is published.
    pub(super) fn published(&mut self, payload: &[u8], now_unix_ms: u64) {
        if self.due_ms <= now_unix_ms {
            self.again_ms = now_unix_ms.saturating_add(PUT_BACK_EVERY_MS);
        }
        self.due_ms = u64::MAX;
        let newest = hash(&[payload]);
        self.newest = Some(newest);
        if self.unheard.len() >= UNHEARD_MAX {
            self.unheard.pop_front();
        }
        self.unheard.push_back(newest);
    }

    /// There is a connection: what the broker retains is heard again.
    pub(super) const fn connected(&mut self) {
        self.is_heard = false;
    }

    /// Takes what came on the topic of the head. Returns whether it is news that the broker does not retain the newest.
    pub(super) fn heard(&mut self, payload: &[u8], now_unix_ms: u64, settle_ms: u64) -> bool {
        let heard = hash(&[payload]);
        let position = self.unheard.iter().position(|unheard| *unheard == heard);
        self.unheard.drain(..position.map_or(0, |position| position + 1));
        if self.newest == Some(heard) {
            // Whoever may publish there may also show it without having it retained, so that puts nothing off.
            self.is_heard = true;
            return false;
        }
        let wait_ms = if payload.is_empty() { 0 } else { settle_ms };
        position.is_none() && self.put_back(now_unix_ms.saturating_add(wait_ms))
    }

    /// All that the broker retains has been heard. Returns whether it is news that the newest is not among it.
    pub(super) fn all_is_heard(&mut self) -> bool {
        !self.is_heard && self.put_back(0)
    }

    fn put_back(&mut self, at_ms: u64) -> bool {
        let is_news = self.due_ms == u64::MAX && self.newest.is_some();
        if is_news {
            self.due_ms = at_ms.max(self.again_ms);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_000_000;
    const SETTLE: u64 = 1_000;

    /// What a run has published, and the broker has sent back.
    fn retained(payload: &[u8]) -> Retention {
        let mut retention = Retention::new();
        retention.published(payload, START);
        assert!(!retention.heard(payload, START, SETTLE));
        retention
    }

    #[test]
    fn what_an_issuer_hears_of_itself_late_is_not_what_the_broker_retains() {
        let mut retention = Retention::new();
        for head in [b"1", b"2", b"3"] {
            retention.published(head, START);
        }

        for head in [b"1", b"3"] {
            assert!(!retention.heard(head, START, SETTLE));
        }
        assert_eq!(retention.due_ms(), u64::MAX);

        assert!(
            retention.heard(b"2", START, SETTLE),
            "behind the newest it is what somebody else has published"
        );
        assert_eq!(retention.due_ms(), START + SETTLE);
    }

    #[test]
    fn who_shows_the_newest_head_after_another_does_not_keep_it_from_being_put_back() {
        let mut retention = retained(b"head");

        assert!(retention.heard(b"rubbish", START, SETTLE));
        assert!(!retention.heard(b"head", START, SETTLE));

        assert_eq!(retention.due_ms(), START + SETTLE);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_nothing_by_more_than_a_minute() {
        let mut retention = retained(b"head");
        retention.heard(b"", START, SETTLE);
        retention.published(b"again", START);
        retention.heard(b"", START, SETTLE);
        assert_eq!(retention.due_ms(), START + PUT_BACK_EVERY_MS);
        let year_before = START - 365 * 24 * 3_600_000;

        retention.advance(year_before);
        assert_eq!(retention.due_ms(), year_before + PUT_BACK_EVERY_MS);

        retention.published(b"once more", year_before + PUT_BACK_EVERY_MS);
        retention.heard(b"", START, SETTLE);
        assert_eq!(retention.due_ms(), START, "by the clock it is long ago");
    }

    #[test]
    fn what_a_broker_does_not_show_on_a_new_connection_is_put_back_at_once_if_there_is_anything() {
        let mut retention = retained(b"head");
        assert!(!retention.all_is_heard());

        retention.connected();
        assert!(retention.all_is_heard());
        assert_eq!(retention.due_ms(), 0);
        assert!(!retention.all_is_heard(), "said once");

        assert!(!Retention::new().all_is_heard(), "a run issues by itself first");
    }
}
