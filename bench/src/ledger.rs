//! Which numbered messages of one publisher a subscriber has seen: lost, duplicate and late deliveries.
//!
//! Memory grows with the number of gaps, never with the number of messages.
//! Invariant: every number below `next` was delivered or lies in exactly one range of `gaps`.

use std::collections::BTreeMap;

/// The account of one (publisher, subscriber) pair.
#[derive(Default)]
pub(crate) struct Ledger {
    next: u64,
    /// Start of a gap to its end (exclusive).
    gaps: BTreeMap<u64, u64>,
    delivered: u64,
    duplicates: u64,
    late: u64,
}

impl Ledger {
    /// Enters the delivery of message `sequence` (0 is the first).
    pub(crate) fn record(&mut self, sequence: u64) {
        if sequence < self.next {
            self.record_late(sequence);
            return;
        }
        if sequence > self.next {
            self.gaps.insert(self.next, sequence);
        }
        self.next = sequence + 1;
        self.delivered += 1;
    }

    fn record_late(&mut self, sequence: u64) {
        let Some((&start, &end)) =
            self.gaps.range(..=sequence).next_back().filter(|(_, end)| sequence < **end)
        else {
            self.duplicates += 1;
            return;
        };
        self.gaps.remove(&start);
        if start < sequence {
            self.gaps.insert(start, sequence);
        }
        if sequence + 1 < end {
            self.gaps.insert(sequence + 1, end);
        }
        self.late += 1;
        self.delivered += 1;
    }

    /// One more than the highest number seen: how far the publisher's window has been drained.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Distinct messages that arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Deliveries of a message that had already arrived.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Messages that arrived after a message with a higher number.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Messages that never arrived, of `published` in all.
    pub(crate) fn lost(&self, published: u64) -> u64 {
        let gaps: u64 = self.gaps.iter().map(|(start, end)| end - start).sum();
        gaps + published.saturating_sub(self.next)
    }
}

/// The order in which one member of a group sees the messages of one publisher; the others see the rest.
#[derive(Default)]
pub(crate) struct Order {
    next: u64,
    late: u64,
}

impl Order {
    /// Enters the delivery of message `sequence`.
    pub(crate) fn record(&mut self, sequence: u64) {
        self.late += u64::from(sequence < self.next);
        self.next = self.next.max(sequence + 1);
    }

    /// Messages that arrived after one with a higher number.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_counted_as_delivered_lost_late_or_duplicate() {
        // (arrivals, published, delivered, lost, duplicates, late)
        type Row = (&'static [u64], u64, u64, u64, u64, u64);
        let rows: &[Row] = &[
            (&[], 0, 0, 0, 0, 0),
            (&[], 3, 0, 3, 0, 0),
            (&[0, 1, 2], 3, 3, 0, 0, 0),
            (&[0, 1], 3, 2, 1, 0, 0),
            (&[0, 0, 1, 1, 1], 2, 2, 0, 3, 0),
            (&[2], 3, 1, 2, 0, 0),
            (&[0, 4], 5, 2, 3, 0, 0),
            (&[0, 4, 2], 5, 3, 2, 0, 1),
            (&[0, 4, 2, 2], 5, 3, 2, 1, 1),
            (&[0, 4, 1, 2, 3], 5, 5, 0, 0, 3),
            (&[0, 4, 3, 2, 1, 0], 5, 5, 0, 1, 3),
            (&[1, 3, 5, 0, 2, 4], 6, 6, 0, 0, 3),
        ];

        for (arrivals, published, delivered, lost, duplicates, late) in rows {
            let mut ledger = Ledger::default();
            for sequence in *arrivals {
                ledger.record(*sequence);
            }

            let counted = (ledger.delivered(), ledger.lost(*published), ledger.duplicates(), ledger.late());
            assert_eq!(counted, (*delivered, *lost, *duplicates, *late), "arrivals {arrivals:?}");
            assert_eq!(ledger.delivered() + ledger.lost(*published), *published, "arrivals {arrivals:?}");
        }
    }

    #[test]
    fn next_is_one_more_than_the_highest_number_seen() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.next(), 0);

        ledger.record(7);
        ledger.record(2);

        assert_eq!(ledger.next(), 8);
    }

    #[test]
    fn a_member_of_a_group_may_miss_numbers_but_not_see_them_backwards() {
        for (arrivals, late) in [(&[0, 3, 9][..], 0), (&[3, 0, 9, 5], 2), (&[], 0)] {
            let mut order = Order::default();
            arrivals.iter().for_each(|sequence| order.record(*sequence));

            assert_eq!(order.late(), late, "{arrivals:?}");
        }
    }
}
