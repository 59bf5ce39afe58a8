//! Who waits for something that takes long: the networks that they come from have turns, so that whoever sends many delays its own.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// What one of them counts at least.
pub(super) const WEIGHT_MIN: usize = 4 * 1024;

/// Items that wait, each with the network that it comes from; None is all that has no address.
///
/// Invariant: a network has a turn if and only if something of it waits.
pub(super) struct Line<T> {
    networks: HashMap<Option<IpAddr>, Share<T>>,
    turns: VecDeque<Option<IpAddr>>,
    weight: usize,
    weight_max: usize,
}

/// What waits of one network.
struct Share<T> {
    items: VecDeque<(usize, T)>,
    weight: usize,
}

/// Takes the oldest or the newest item with its weight.
type Take<T> = fn(&mut VecDeque<(usize, T)>) -> Option<(usize, T)>;

impl<T> Line<T> {
    /// Lets so many bytes wait at most, and so many items of [`WEIGHT_MIN`] bytes or less.
    pub(super) fn new(weight_max: usize) -> Self {
        Self { networks: HashMap::new(), turns: VecDeque::new(), weight: 0, weight_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds an item; returns what there is no room for then: the newest of those of which the most is waiting.
    pub(super) fn push(&mut self, network: Option<IpAddr>, bytes: usize, item: T) -> Vec<T> {
        let weight = bytes.max(WEIGHT_MIN);
        let share = self.networks.entry(network).or_insert_with(|| {
            self.turns.push_back(network);
            Share { items: VecDeque::new(), weight: 0 }
        });
        share.items.push_back((weight, item));
        share.weight += weight;
        self.weight += weight;
        let mut left_out = Vec::new();
        while self.weight > self.weight_max {
            let heaviest = self.heaviest(network);
            left_out.extend(self.take(heaviest, VecDeque::pop_back));
            if !self.networks.contains_key(&heaviest) {
                self.turns.retain(|turn| *turn != heaviest);
            }
        }
        left_out
    }

    /// Takes the next item.
    pub(super) fn pop(&mut self) -> Option<T> {
        let network = self.turns.pop_front()?;
        let item = self.take(network, VecDeque::pop_front);
        if self.networks.contains_key(&network) {
            self.turns.push_back(network);
        }
        item
    }

    /// Returns the network of which the most waits; if several are, rather `last`.
    fn heaviest(&self, last: Option<IpAddr>) -> Option<IpAddr> {
        let heaviest = self.networks.iter().max_by_key(|(network, share)| (share.weight, **network == last));
        heaviest.and_then(|(network, _)| *network)
    }

    fn take(&mut self, network: Option<IpAddr>, take: Take<T>) -> Option<T> {
        let share = self.networks.get_mut(&network)?;
        let (weight, item) = take(&mut share.items)?;
        share.weight -= weight;
        self.weight -= weight;
        if share.items.is_empty() {
            self.networks.remove(&network);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    fn all(line: &mut Line<u32>) -> Vec<u32> {
        let items = std::iter::from_fn(|| line.pop()).collect();
        assert!(line.is_empty() && line.networks.is_empty());
        assert_eq!(line.weight, 0);
        items
    }

    #[test]
    fn networks_have_turns_and_each_keeps_its_order() {
        let mut line = Line::new(1 << 20);
        for item in 0..4 {
            assert!(line.push(network(1), 10, item).is_empty());
        }
        for (number, item) in [(2, 20), (3, 30), (2, 21)] {
            assert!(line.push(network(number), 10, item).is_empty());
        }
        assert!(line.push(None, 10, 99).is_empty());

        assert_eq!(line.pop(), Some(0));
        assert!(line.push(network(4), 10, 40).is_empty());
        assert_eq!(all(&mut line), [20, 30, 99, 1, 40, 21, 2, 3]);
    }

    #[test]
    fn where_there_is_no_room_the_newest_of_who_has_most_has_none() {
        let mut line = Line::new(4 * WEIGHT_MIN);
        for item in 0..4 {
            assert!(line.push(network(1), 10, item).is_empty());
        }

        assert_eq!(line.push(network(1), 10, 4), [4]);
        assert_eq!(line.push(network(2), 10, 20), [3]);
        assert_eq!(line.push(network(2), 10, 21), [2]);
        // Who comes last stands back where all have as much.
        assert_eq!(line.push(network(3), 3 * WEIGHT_MIN, 30), [30]);
        assert_eq!(line.push(network(3), 10, 31).len(), 1);

        assert_eq!(line.weight, 4 * WEIGHT_MIN);
        assert_eq!(all(&mut line).len(), 4);
    }

    #[test]
    fn large_items_leave_room_for_fewer() {
        let mut line = Line::new(4 * WEIGHT_MIN);
        for (number, item) in [(1, 1), (2, 2), (3, 3)] {
            assert!(line.push(network(number), WEIGHT_MIN, item).is_empty());
        }

        let left_out = line.push(network(4), 2 * WEIGHT_MIN, 4);
        assert_eq!(left_out, [4], "it has most");
        assert_eq!(all(&mut line), [1, 2, 3]);
    }
}
