//! Answers that were given lately, so that a client that comes back at once is not asked about again.
//!
//! A question is known by a keyed digest alone: neither passwords nor names are kept. Invariant: there are never more entries than
//! allowed, and an entry is not given out after its time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::answer::Answer;

/// A digest of all that a question says.
pub(super) type Key = [u8; 32];

/// Answers that were given lately.
pub(super) struct Cache {
    entries_max: usize,
    entries: HashMap<Key, Entry>,
    /// In the order in which they came, with their moments; those too that have been replaced meanwhile.
    order: VecDeque<(Instant, Key)>,
}

struct Entry {
    since: Instant,
    until: Instant,
    answer: Answer,
}

impl Cache {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries_max, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// Returns the answer to a question, if one is known that still holds.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Answer> {
        let entry = self.entries.get(key).filter(|entry| now < entry.until)?;
        Some(entry.answer.clone())
    }

    /// Keeps an answer for a while; the oldest make room.
    pub(super) fn keep(&mut self, key: Key, answer: Answer, lasting: Duration, now: Instant) {
        if lasting.is_zero() || self.entries_max == 0 {
            return;
        }
        self.entries.insert(key, Entry { since: now, until: now + lasting, answer });
        self.order.push_back((now, key));
        // What was replaced leaves its place in the order behind, so that has a limit of its own.
        while self.entries.len() > self.entries_max || self.order.len() > 2 * self.entries_max {
            let Some((since, key)) = self.order.pop_front() else { return };
            if self.entries.get(&key).is_some_and(|entry| entry.since == since) {
                self.entries.remove(&key);
            }
        }
    }

    /// Returns how many answers are kept, those too whose time is over.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u8) -> Key {
        [number; 32]
    }

    #[test]
    fn an_answer_is_given_out_until_its_time_is_over() {
        let mut cache = Cache::new(10);
        let start = Instant::now();
        cache.keep(key(1), Answer::Deny, SECOND, start);
        cache.keep(key(2), Answer::Next, 2 * SECOND, start);
        cache.keep(key(3), Answer::Deny, Duration::ZERO, start);

        let found = |at| [1, 2, 3].map(|number| cache.find(&key(number), at));
        assert_eq!(found(start), [Some(Answer::Deny), Some(Answer::Next), None]);
        assert_eq!(found(start + SECOND), [None, Some(Answer::Next), None]);
        assert_eq!(found(start + 2 * SECOND), [None, None, None]);
    }

    #[test]
    fn the_oldest_make_room_and_who_is_asked_about_often_takes_no_more() {
        let mut cache = Cache::new(3);
        let start = Instant::now();
        for number in 1..=4 {
            cache.keep(
                key(number),
                Answer::Deny,
                SECOND,
                start + u32::from(number) * Duration::from_millis(1),
            );
        }
        let at = start + Duration::from_millis(5);
        let known = |cache: &Cache| [1, 2, 3, 4].map(|number| cache.find(&key(number), at).is_some());
        assert_eq!(known(&cache), [false, true, true, true]);

        for round in 0..100 {
            cache.keep(key(4), Answer::Deny, SECOND, at + round * Duration::from_micros(1));
            assert!(cache.len() <= 3 && cache.order.len() <= 6);
        }
        assert!(cache.find(&key(4), at + Duration::from_millis(1)).is_some());
    }

    #[test]
    fn a_cache_of_no_entries_keeps_none() {
        let mut cache = Cache::new(0);
        let start = Instant::now();

        cache.keep(key(1), Answer::Deny, SECOND, start);

        assert_eq!((cache.find(&key(1), start), cache.len()), (None, 0));
    }
}
