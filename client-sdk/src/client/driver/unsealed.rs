//! Publications that wait for a key: in a queue for each key, so that one which does not come keeps nothing from others.
//!
//! Pure bookkeeping: callers pass the time, and whether there is a key. Invariants: what is published under one key leaves in the order in
//! which it came; once something has waited for a key in vain, nothing else does until there is one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::client::sealing::SealedUnder;

/// Publications that may wait, for all keys together.
const WAITING_MAX: usize = 256;
/// How long the first may wait for a key, and those behind it.
const WAITING_FOR: Duration = Duration::from_secs(10);
/// How often an announced key is looked at while something waits for it.
const ACTIVATION_POLL: Duration = Duration::from_millis(100);
/// Keys that are known to have been waited for in vain; of more, the oldest are forgotten.
const GIVEN_UP_MAX: usize = 1024;

pub(super) struct Unsealed<T> {
    queues: BTreeMap<SealedUnder, Queue<T>>,
    /// Keys that something has waited for in vain, in the order of giving up, and a topic of each.
    given_up: VecDeque<(SealedUnder, String)>,
}

struct Queue<T> {
    /// That of the first.
    topic: String,
    waiting: VecDeque<T>,
    deadline: Instant,
}

impl<T> Default for Unsealed<T> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), given_up: VecDeque::new() }
    }
}

impl<T> Unsealed<T> {
    /// Whether one more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.queues.values().map(|queue| queue.waiting.len()).sum::<usize>() < WAITING_MAX
    }

    /// Keeps a publication on `topic` if it has to wait, and otherwise gives it back.
    pub(super) fn keep(
        &mut self,
        (key, topic): (SealedUnder, &str),
        is_missing: bool,
        item: T,
        now: Instant,
    ) -> Option<T> {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.waiting.push_back(item);
            return None;
        }
        if !is_missing || self.given_up.iter().any(|(given_up, _)| *given_up == key) {
            return Some(item);
        }
        let (topic, waiting) = (topic.to_owned(), VecDeque::from([item]));
        self.queues.insert(key, Queue { topic, waiting, deadline: now + WAITING_FOR });
        None
    }

    /// Takes what need not wait any longer, or must not: whose key is there, or has not come in time. `is_missing` says for a topic whether
    /// its key is.
    pub(super) fn take_due(&mut self, is_missing: impl Fn(&str) -> bool, now: Instant) -> Vec<T> {
        self.given_up.retain(|(_, topic)| is_missing(topic));
        let mut due = Vec::new();
        let waiting = std::mem::take(&mut self.queues);
        for (key, queue) in waiting {
            let is_missing = is_missing(&queue.topic);
            if is_missing && queue.deadline > now {
                self.queues.insert(key, queue);
                continue;
            }
            due.extend(queue.waiting);
            if is_missing {
                self.given_up.push_back((key, queue.topic));
            }
        }
        let too_many = self.given_up.len().saturating_sub(GIVEN_UP_MAX);
        self.given_up.drain(..too_many);
        due
    }

    /// When there may be something to take.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let first = self.queues.values().map(|queue| queue.deadline).min()?;
        Some(first.min(now + ACTIVATION_POLL))
    }

    /// A new connection may bring any key.
    pub(super) fn connected(&mut self) {
        self.given_up.clear();
    }

    /// Takes all that waits.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.queues).into_values().flat_map(|queue| queue.waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::veil::Kid;

    use super::*;

    /// A key, and a topic that says which.
    fn pair(number: u8) -> (SealedUnder, &'static str) {
        let topics = ["0", "1", "2", "3", "4", "5", "6"];
        (SealedUnder::Pair(Kid::from_bytes([number; 8])), topics[usize::from(number)])
    }

    #[test]
    fn what_waits_for_one_key_keeps_nothing_from_another_and_leaves_in_order() {
        let (mut unsealed, now) = (Unsealed::default(), Instant::now());
        for (number, item) in [(1, "a"), (2, "b"), (1, "c")] {
            assert_eq!(unsealed.keep(pair(number), true, item, now), None);
        }
        assert_eq!(unsealed.keep(pair(3), false, "d", now), Some("d"), "it has a key");
        assert_eq!(unsealed.due(now), Some(now + ACTIVATION_POLL));

        assert_eq!(unsealed.take_due(|topic| topic == "1", now), ["b"]);
        assert_eq!(unsealed.keep(pair(1), false, "e", now), None, "not before those that wait");
        assert_eq!(unsealed.take_due(|_| false, now), ["a", "c", "e"]);
        assert_eq!(unsealed.due(now), None);
    }

    #[test]
    fn one_publication_has_waited_for_a_key_in_vain_for_all_that_follow_until_there_is_one() {
        let (mut unsealed, start) = (Unsealed::default(), Instant::now());
        let end = start + WAITING_FOR;
        assert_eq!(unsealed.keep(pair(1), true, "a", start), None);
        assert_eq!(unsealed.keep(pair(1), true, "b", end), None);
        assert_eq!(unsealed.take_due(|_| true, end), ["a", "b"], "no time of its own for each");

        assert_eq!(unsealed.keep(pair(1), true, "c", end), Some("c"), "at once");
        assert_eq!(unsealed.keep(pair(2), true, "d", end), None, "another key may come");
        assert_eq!(unsealed.take_due(|topic| topic == "2", end), [""; 0], "the key has come");

        assert_eq!(unsealed.keep(pair(1), true, "e", end), None, "and the next may come too");
        assert_eq!(unsealed.take_due(|_| true, end + WAITING_FOR), ["e", "d"]);
        unsealed.connected();
        assert_eq!(unsealed.keep(pair(1), true, "f", end), None, "the connection is another one");
    }

    #[test]
    fn what_waits_is_bounded_over_all_keys_together() {
        let (mut unsealed, now) = (Unsealed::default(), Instant::now());
        for number in 0..WAITING_MAX {
            assert!(unsealed.has_room(), "{number}");
            assert_eq!(unsealed.keep(pair(u8::try_from(number % 7).unwrap()), true, number, now), None);
        }

        assert!(!unsealed.has_room());
        assert_eq!(unsealed.take_all().len(), WAITING_MAX);
        assert!(unsealed.has_room());
    }
}
