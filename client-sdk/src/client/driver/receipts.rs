//! When the broker is told that a message has arrived.
//!
//! Invariant: a message of QoS 1 or 2 is acknowledged when the application has it or wants it no more; parts of one
//! (VEIL-1 section 12.5) with it, unless they would keep the rest of it from coming.

use super::Driver;
use crate::session::Receipt;

impl Driver {
    pub(super) fn acknowledge(&mut self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            self.session.acknowledge(receipt);
        }
    }

    pub(super) fn acknowledge_taken(&mut self) {
        let settled = self.taken.drain();
        for receipt in settled.taken {
            self.taken(receipt);
        }
        self.keep_unread(settled.unread);
    }

    /// The application has a message, or wants none.
    pub(super) fn taken(&mut self, receipt: Receipt) {
        for part in self.sealing.taken(receipt) {
            self.session.acknowledge(part);
        }
        self.session.acknowledge(receipt);
    }

    /// Acknowledges parts of messages that are given up, and the oldest ones while they are in the way of what else is to come: a message
    /// may have more parts than the receive maximum.
    pub(super) fn release_parts(&mut self) {
        for receipt in self.sealing.released_parts() {
            self.session.acknowledge(receipt);
        }
        let held_max = usize::from(self.session.receive_maximum() / 2);
        while self.session.unacknowledged() > held_max
            && let Some(oldest) = self.session.oldest_unacknowledged()
            && self.sealing.release_part(oldest)
        {
            self.session.acknowledge(oldest);
        }
    }
}
