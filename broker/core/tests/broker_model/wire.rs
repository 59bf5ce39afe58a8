//! The network of the model: what it sends, next to what was seen.
//!
//! The standard leaves some choices to a broker: Packet Identifiers, and which of several packets goes first. For these, and
//! for nothing else, the model looks at what the broker did; its own packets are compared afterwards.

use std::collections::BTreeMap;

use super::packet::{Connection, Packet, Publish};

/// Packets by the connection they go to.
pub(crate) type Traffic = BTreeMap<Connection, Vec<Packet>>;

/// Everything on its way to clients within one step.
#[derive(Default)]
pub(crate) struct Wire {
    /// What the broker sent and the model has not, yet.
    seen: Traffic,
    sent: Traffic,
}

impl Wire {
    /// Begins a step in which the broker sent `seen`.
    pub(super) fn begin(&mut self, seen: Traffic) {
        self.seen = seen;
        self.sent.clear();
    }

    /// Ends a step: returns what the model sent.
    pub(super) fn end(&mut self) -> Traffic {
        std::mem::take(&mut self.sent)
    }

    /// Sends a packet.
    pub(super) fn send(&mut self, connection: Connection, packet: Packet) {
        let seen = self.seen.entry(connection).or_default();
        let at = seen.iter().position(|other| other.is_like(&packet));
        // Where the packet has no identifier yet, it gets the broker's.
        let packet = at.map_or(packet, |at| seen.remove(at));
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

    /// Returns which of the packets that may go next did so, the first if none did.
    pub(super) fn first_seen(&self, connection: Connection, candidates: &[Packet]) -> usize {
        let seen = self.seen.get(&connection).map_or(&[][..], Vec::as_slice);
        let candidate = |packet: &Packet| candidates.iter().position(|other| packet.is_like(other));
        seen.iter().find_map(candidate).unwrap_or(0)
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
