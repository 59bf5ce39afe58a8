//! What waits for one session: messages of QoS 1 and 2 in their queue, and those of QoS 0 apart from it.
//!
//! Most sessions never have one. Invariant: `unassured_bytes` are the bytes of the deliveries in `unassured`, of which none expires
//! before `unassured_expiry`.

use std::collections::VecDeque;

use crate::queue::Queue;
use crate::time::Moment;
use crate::waiting::Delivery;

/// Messages that wait for one session.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Those of QoS 1 and 2, for quota, space or a connection.
    pub(crate) queue: Queue,
    /// Those of QoS 0, for space or a connection.
    unassured: VecDeque<Delivery>,
    unassured_bytes: usize,
    unassured_expiry: Option<Moment>,
}

impl Backlog {
    /// Tells whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.unassured.len()
    }

    /// Returns the bytes of the messages that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.queue.bytes() + self.unassured_bytes
    }

    /// Returns the bytes of those that are in memory, where all of QoS 0 are.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.queue.memory_bytes() + self.unassured_bytes
    }

    /// Tells whether nothing waits at QoS 0.
    pub(crate) fn has_no_unassured(&self) -> bool {
        self.unassured.is_empty()
    }

    /// Appends a delivery at QoS 0.
    pub(crate) fn push_unassured(&mut self, delivery: Delivery) {
        self.unassured_bytes += delivery.size_bytes();
        self.unassured_expiry = self.unassured_expiry.into_iter().chain(delivery.message.expires_at()).min();
        self.unassured.push_back(delivery);
    }

    /// Takes the first delivery at QoS 0 out.
    pub(crate) fn pop_unassured(&mut self) -> Option<Delivery> {
        let delivery = self.unassured.pop_front()?;
        self.unassured_bytes -= delivery.size_bytes();
        Some(delivery)
    }

    /// Drops what waits at QoS 0, and returns how many messages that was.
    pub(crate) fn drop_unassured(&mut self) -> usize {
        (self.unassured_bytes, self.unassured_expiry) = (0, None);
        std::mem::take(&mut self.unassured).len()
    }

    /// Drops what has expired at QoS 0, and returns how many messages that was.
    pub(crate) fn drop_expired_unassured(&mut self, now: Moment) -> usize {
        if self.unassured_expiry.is_none_or(|at| at > now) {
            return 0;
        }
        let before = self.unassured.len();
        self.unassured.retain(|delivery| !delivery.message.is_expired(now));
        self.unassured_bytes = self.unassured.iter().map(Delivery::size_bytes).sum();
        self.unassured_expiry =
            self.unassured.iter().filter_map(|delivery| delivery.message.expires_at()).min();
        before - self.unassured.len()
    }

    /// Returns when the next message expires, or one that has left expired.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.queue.next_expiry().into_iter().chain(self.unassured_expiry).min()
    }
}
