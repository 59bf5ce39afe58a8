//! Clients that take each other's place again and again, as two devices with one Client Identifier do: so many takeovers of a
//! Client Identifier in a minute, and the next client is told to come later, which leaves the one that is there in peace.
//!
//! Invariant: what is remembered is bounded by the takeovers of the last minute.

use std::collections::HashMap;
use std::sync::Arc;

use crate::time::Moment;

const MINUTE_MILLISECONDS: u64 = 60_000;
/// Entries that are over are swept out when as many have come.
const SWEEP_EVERY: usize = 1_024;

/// The takeovers of the Client Identifiers of one shard.
#[derive(Debug)]
pub(crate) struct Takeovers {
    /// How many a minute allows; 0 allows any number.
    maximum: u32,
    /// Until when the takeovers of each count.
    counted_until: HashMap<Arc<str>, Moment>,
}

impl Takeovers {
    pub(crate) fn new(maximum: u32) -> Self {
        Self { maximum, counted_until: HashMap::new() }
    }

    /// Sets how many a minute allows from now on.
    pub(crate) fn allow(&mut self, maximum: u32) {
        self.maximum = maximum;
    }

    /// Tells whether a client may take the place of another now, and counts it if so.
    pub(crate) fn admit(&mut self, client_id: &Arc<str>, now: Moment) -> bool {
        if self.maximum == 0 {
            return true;
        }
        let each = (MINUTE_MILLISECONDS / u64::from(self.maximum)).max(1);
        if self.counted_until.len() % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.counted_until.retain(|_, until| *until > now);
        }
        let until = self.counted_until.entry(Arc::clone(client_id)).or_insert(now);
        let next = (*until).max(now) + each;
        let is_admitted = next.since(now) <= each * u64::from(self.maximum);
        if is_admitted {
            *until = next;
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_milliseconds(1_000_000);

    #[test]
    fn so_many_come_at_once_and_the_next_when_its_share_of_the_minute_has_passed() {
        // [C02]
        let mut takeovers = Takeovers::new(60);
        let (twin, other) = (Arc::from("twin"), Arc::from("other"));

        assert_eq!((0..1_000).filter(|_| takeovers.admit(&twin, START)).count(), 60);
        assert!(takeovers.admit(&other, START), "others are not concerned");
        assert!(!takeovers.admit(&twin, START + 999));
        assert!(takeovers.admit(&twin, START + 1_000));
        assert!(!takeovers.admit(&twin, START + 1_000));
        let later = START + 120_000;
        assert_eq!((0..1_000).filter(|_| takeovers.admit(&twin, later)).count(), 60);
    }

    #[test]
    fn nothing_is_remembered_for_longer_than_it_counts() {
        // [C02]
        let mut takeovers = Takeovers::new(60);
        for number in 0..20_000_u64 {
            assert!(takeovers.admit(&Arc::from(number.to_string()), START + number * 10));
        }

        assert!(takeovers.counted_until.len() <= 2 * SWEEP_EVERY, "{}", takeovers.counted_until.len());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut takeovers = Takeovers::new(0);

        assert!((0..1_000).all(|_| takeovers.admit(&Arc::from("twin"), START)));
        assert!(takeovers.counted_until.is_empty());
    }
}
