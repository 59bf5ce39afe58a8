//! A bounded map that forgets the entry used longest ago.
//!
//! Owns recency only. Invariant: `order` lists exactly the keys of `entries`, each under its last stamp, and
//! neither ever holds more than `capacity` entries.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

pub(super) struct Lru<K, V> {
    capacity: usize,
    clock: u64,
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), clock: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Looks an entry up without counting it as a use.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Looks an entry up and makes it the most recent one.
    pub(super) fn touch(&mut self, key: &K) -> Option<&mut V> {
        let (stamp, value) = self.entries.get_mut(key)?;
        // An entry in steady use is already the last one: no need to move it.
        if *stamp != self.clock {
            self.clock += 1;
            self.order.remove(stamp);
            self.order.insert(self.clock, key.clone());
            *stamp = self.clock;
        }
        Some(value)
    }

    /// Stores an entry as the most recent one and returns what had to go for it.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        if let Some((stamp, replaced)) = self.entries.insert(key, (self.clock, value)) {
            self.order.remove(&stamp);
            return Some(replaced);
        }
        if self.entries.len() <= self.capacity {
            return None;
        }
        self.pop_oldest()
    }

    /// Forgets the entry used longest ago and returns it.
    pub(super) fn pop_oldest(&mut self) -> Option<V> {
        let (_, oldest) = self.order.pop_first()?;
        self.entries.remove(&oldest).map(|(_, value)| value)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.entries.retain(|key, _| keep(key));
        self.order.retain(|_, key| self.entries.contains_key(key));
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// Visits the entries, the one used longest ago first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.values().filter_map(|key| self.peek(key).map(|value| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_is_forgotten_first() {
        let mut lru = Lru::new(2);
        assert_eq!(lru.insert('a', 1), None);
        assert_eq!(lru.insert('b', 2), None);

        assert_eq!(lru.touch(&'a').copied(), Some(1));
        assert_eq!(lru.insert('c', 3), Some(2));

        assert_eq!(lru.iter().collect::<Vec<_>>(), [(&'a', &1), (&'c', &3)]);
        assert_eq!(lru.len(), 2);
    }

    #[test]
    fn peeking_does_not_count_as_a_use() {
        let mut lru = Lru::new(2);
        lru.insert('a', 1);
        lru.insert('b', 2);

        assert_eq!(lru.peek(&'a'), Some(&1));
        lru.insert('c', 3);

        assert_eq!(lru.peek(&'a'), None);
    }

    #[test]
    fn replacing_an_entry_returns_the_old_value_and_forgets_no_other() {
        let mut lru = Lru::new(2);
        lru.insert('a', 1);
        lru.insert('b', 2);

        assert_eq!(lru.insert('a', 4), Some(1));

        assert_eq!(lru.iter().collect::<Vec<_>>(), [(&'b', &2), (&'a', &4)]);
    }

    #[test]
    fn retain_forgets_the_order_too() {
        let mut lru = Lru::new(3);
        for (key, value) in [('a', 1), ('b', 2), ('c', 3)] {
            lru.insert(key, value);
        }

        lru.retain(|key| *key != 'b');
        lru.insert('d', 4);

        assert_eq!(lru.iter().map(|(key, _)| *key).collect::<String>(), "acd");
    }
}
