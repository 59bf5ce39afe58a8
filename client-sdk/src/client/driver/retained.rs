//! Reading back what an earlier run of the program has had retained, so that it can be sealed anew (VEIL-1 section 8.3).
//!
//! Invariant: a subscription of the application is neither changed nor ended by this.

use tracing::warn;
use veilmq_protocol::{QoS, RetainHandling, SubscribeOptions};

use super::{Driver, Waiter};
use crate::{client::retained::Refresh, message::Message};

impl Driver {
    /// Publishes what is sealed anew, and asks for what has to be read first.
    pub(super) fn refresh_retained(&mut self) {
        let refresh = self.sealing.refresh();
        self.carry_out(refresh);
    }

    /// Looks whether a retained message is one that is being read back; the application gets it all the same if it has subscribed.
    pub(super) fn read_back(&mut self, message: &Message) {
        if let Some(refresh) = self.sealing.read_back(message) {
            self.carry_out(refresh);
        }
    }

    fn carry_out(&mut self, Refresh { publications, read, read_no_more }: Refresh) {
        self.ready.extend(publications.into_iter().map(|publication| (publication, None)));
        for (wire, qos) in read {
            self.read(wire, qos);
        }
        for wire in read_no_more {
            self.stop_reading(&wire);
        }
    }

    fn read(&mut self, wire: String, qos: QoS) {
        let own = SubscribeOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let options = match self.routes.options_of(&wire) {
            // What is retained comes once more for the subscription that there is.
            Some(options) => SubscribeOptions { retain_handling: RetainHandling::Send, ..options },
            None => {
                self.reading.insert(wire.clone());
                own
            }
        };
        let token = self.session.subscribe(std::slice::from_ref(&wire), options);
        self.waiters.insert(token, Waiter::Retained { wire });
    }

    /// The broker does not let this client read what it has had retained.
    pub(super) fn cannot_read(&mut self, wire: &str, reason: &str) {
        warn!(
            topic = wire,
            reason, "a retained message of an earlier run cannot be read back to be sealed anew"
        );
        self.sealing.cannot_read(wire);
        self.reading.remove(wire);
    }

    fn stop_reading(&mut self, wire: &str) {
        // The application may have subscribed meanwhile.
        if self.reading.remove(wire) && self.routes.options_of(wire).is_none() {
            self.session.abandon(wire);
        }
    }
}
