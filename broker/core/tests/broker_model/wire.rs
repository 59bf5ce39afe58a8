//! The network of the model: what it sends, next to what was seen.
//!
//! The standard leaves some choices to a broker: Packet Identifiers, which of several packets goes first, which member of a
//! group gets a message. For these, and for nothing else, the model looks at what the broker did; its own packets are compared
//! afterwards.

use std::collections::BTreeMap;

use super::packet::{Connection, Packet, Publish};
use super::share::{Copies, Place};

/// Packets by the connection they go to.
pub(crate) type Traffic = BTreeMap<Connection, Vec<Packet>>;

/// Everything on its way to clients within one step.
#[derive(Default)]
pub(crate) struct Wire {
    /// What the broker sent and the model has not, yet, with its position.
    seen: BTreeMap<Connection, Vec<(usize, Packet)>>,
    sent: Traffic,
    /// QoS 0 messages by their moment and, within a moment, by the position that they have with the broker.
    sent_unassured: BTreeMap<Connection, Vec<(u64, usize, Packet)>>,
    /// What is known of the choices among the members of groups.
    pub(super) copies: Copies,
}

impl Wire {
    /// Begins a step in which the broker sent `seen`.
    pub(super) fn begin(&mut self, seen: Traffic) {
        let numbered = |packets: Vec<Packet>| packets.into_iter().enumerate().collect();
        self.seen = seen.into_iter().map(|(connection, packets)| (connection, numbered(packets))).collect();
    }

    /// Ends a step: returns what the model sent, each stream in order.
    pub(super) fn end(&mut self) -> Traffic {
        let mut traffic = std::mem::take(&mut self.sent);
        for (connection, mut packets) in std::mem::take(&mut self.sent_unassured) {
            packets.sort_by_key(|(moment, position, _)| (*moment, *position));
            traffic.entry(connection).or_default().extend(packets.into_iter().map(|(.., packet)| packet));
        }
        traffic
    }

    /// Sends a packet.
    pub(super) fn send(&mut self, connection: Connection, packet: Packet) {
        let (_, packet) = self.claim(connection, packet);
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

    /// Sends a PUBLISH of QoS 0, which has no order among those of the same moment.
    pub(super) fn publish_unassured(&mut self, connection: Connection, publish: Publish, moment: u64) {
        let (position, packet) = self.claim(connection, Packet::Publish(publish));
        self.sent_unassured.entry(connection).or_default().push((moment, position, packet));
    }

    /// Takes a packet from what was seen, with its position. Where it has no identifier yet, it gets the broker's.
    fn claim(&mut self, connection: Connection, packet: Packet) -> (usize, Packet) {
        let seen = self.seen.entry(connection).or_default();
        let at = seen.iter().position(|(_, other)| other.is_like(&packet));
        at.map_or((usize::MAX, packet), |at| seen.remove(at))
    }

    /// Notes that a group's copy is at a place, or that it is not.
    pub(super) fn settle(&mut self, place: &Place, is_here: bool) {
        match is_here {
            true => self.copies.is_at(place),
            false => self.copies.is_not_at(place),
        }
    }

    /// Returns which of the messages that may go next did so: one that is the next of its QoS.
    pub(super) fn next_seen(&self, connection: Connection, candidates: &[Packet]) -> Option<usize> {
        let seen = self.seen.get(&connection).map_or(&[][..], Vec::as_slice);
        let is_next = |index: usize| {
            let packet = &seen[index].1;
            seen[..index].iter().all(|(_, earlier)| earlier.stream() != packet.stream())
        };
        let next = (0..seen.len()).filter(|index| is_next(*index));
        next.filter_map(|index| candidates.iter().position(|other| seen[index].1.is_like(other))).next()
    }

    /// Returns which of the packets that may go next did so.
    pub(super) fn first_seen(&self, connection: Connection, candidates: &[Packet]) -> Option<usize> {
        let seen = self.seen.get(&connection).map_or(&[][..], Vec::as_slice);
        let candidate = |packet: &Packet| candidates.iter().position(|other| packet.is_like(other));
        seen.iter().find_map(|(_, packet)| candidate(packet))
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
