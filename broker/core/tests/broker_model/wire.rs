//! The network of the model: what it sends, next to what was seen.
//!
//! The standard leaves some choices to a broker: Packet Identifiers, which of several packets goes first, which member of a
//! group gets a message. For these, and for nothing else, the model looks at what the broker did; its own packets are compared
//! afterwards.

use std::collections::BTreeMap;

use super::packet::{Connection, Packet, Publish};
use super::session::Delivery;
use super::share::Copies;

/// Packets by the connection they go to.
pub(crate) type Traffic = BTreeMap<Connection, Vec<Packet>>;

/// Everything on its way to clients within one step.
#[derive(Default)]
pub(crate) struct Wire {
    /// What the broker sent and the model has not, yet.
    seen: Traffic,
    sent: Traffic,
    /// What is known of the choices among the members of groups.
    pub(super) copies: Copies,
}

impl Wire {
    /// Begins a step in which the broker sent `seen`.
    pub(super) fn begin(&mut self, seen: Traffic) {
        self.seen = seen;
    }

    /// Ends a step: returns what the model sent, each stream in order.
    pub(super) fn end(&mut self) -> Traffic {
        std::mem::take(&mut self.sent)
    }

    /// Sends a packet.
    pub(super) fn send(&mut self, connection: Connection, packet: Packet) {
        let packet = self.claim(connection, packet);
        self.sent.entry(connection).or_default().push(packet);
    }

    /// Sends a PUBLISH, and returns its Packet Identifier: its own, or where it has none that of the broker.
    pub(super) fn publish(&mut self, connection: Connection, publish: Publish) -> u16 {
        self.send(connection, Packet::Publish(publish));
        match self.sent[&connection].last() {
            Some(Packet::Publish(publish)) => publish.id,
            _ => 0,
        }
    }

    /// Takes a packet from what was seen. Where it has no identifier yet, it gets the broker's.
    fn claim(&mut self, connection: Connection, packet: Packet) -> Packet {
        let seen = self.seen.entry(connection).or_default();
        let at = seen.iter().position(|other| other.is_like(&packet));
        at.map_or(packet, |at| seen.remove(at))
    }

    /// Notes that a delivery is here, or that it is not.
    pub(super) fn settle(&mut self, delivery: &Delivery, is_here: bool) {
        match (&delivery.place, is_here) {
            (None, _) => {}
            (Some(place), true) => self.copies.is_at(place),
            (Some(place), false) => self.copies.is_not_at(place),
        }
    }

    /// Returns which of the messages that may go next did so: one that is the next of its QoS.
    pub(super) fn next_seen(&self, connection: Connection, candidates: &[Packet]) -> Option<usize> {
        let seen = self.seen.get(&connection).map_or(&[][..], Vec::as_slice);
        let is_next = |index: usize| {
            let packet = &seen[index];
            seen[..index].iter().all(|earlier| earlier.stream() != packet.stream())
        };
        let next = (0..seen.len()).filter(|index| is_next(*index));
        next.filter_map(|index| candidates.iter().position(|other| seen[index].is_like(other))).next()
    }

    /// Counts the packets like this one that were seen.
    pub(super) fn seen_like(&self, connection: Connection, packet: &Packet) -> usize {
        let seen = self.seen.get(&connection).map_or(&[][..], Vec::as_slice);
        seen.iter().filter(|other| other.is_like(packet)).count()
    }

    /// Returns which of the packets that may go next did so.
    pub(super) fn first_seen(&self, connection: Connection, candidates: &[Packet]) -> Option<usize> {
        let seen = self.seen.get(&connection).map_or(&[][..], Vec::as_slice);
        let candidate = |packet: &Packet| candidates.iter().position(|other| packet.is_like(other));
        seen.iter().find_map(candidate)
    }
}

impl Packet {
    /// Tells whether this is `other` with the identifier that `other` lacks.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Publish(this), Self::Publish(other)) if other.id == 0 => {
                *this == Publish { id: this.id, ..other.clone() }
            }
            _ => self == other,
        }
    }
}
