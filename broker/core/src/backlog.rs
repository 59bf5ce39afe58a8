//! What waits for one session: messages of QoS 1 and 2 in their queue, and those of QoS 0 apart from it.
//!
//! Most sessions never have one. Invariant: `unassured_bytes` are the bytes of the deliveries in `unassured`.

use std::collections::VecDeque;

use crate::queue::Queue;
use crate::waiting::Delivery;

/// Messages that wait for one session.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Those of QoS 1 and 2, for quota, space or a connection.
    pub(crate) queue: Queue,
    /// Those of QoS 0, for space.
    pub(crate) unassured: VecDeque<Delivery>,
    pub(crate) unassured_bytes: usize,
}

impl Backlog {
    /// Tells whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.unassured.is_empty()
    }

    /// Drops what waits at QoS 0, and returns how many messages that was.
    pub(crate) fn drop_unassured(&mut self) -> usize {
        self.unassured_bytes = 0;
        std::mem::take(&mut self.unassured).len()
    }
}
