//! The send side of a session: Packet Identifiers, send quota, order, resending.
//!
//! Pure bookkeeping: it says what to send next, callers write it. Invariant: a Packet Identifier is in `in_flight` at most
//! once, and deliveries of one QoS leave in the order in which they came ([MQTT-4.6.0-5], [MQTT-4.6.0-6]).

use std::collections::VecDeque;
use std::sync::Arc;

use veilmq_protocol::{PacketId, QoS};

use crate::id::{IdSet, SessionId};
use crate::message::Message;
use crate::record::{Reference, Stage};

/// One message on its way to one session.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Box<[u32]>,
    /// The store holds a reference that must be settled.
    pub(crate) stored: bool,
    /// The filter as subscribed, if this is the copy of a group whose member the session is.
    pub(crate) share: Option<Arc<str>>,
}

impl Delivery {
    /// Returns the durable form of this delivery at `stage`.
    pub(crate) fn reference(&self, session: SessionId, stage: Stage) -> Reference {
        Reference {
            session,
            qos: self.qos,
            retain: self.retain,
            subscription_ids: self.subscription_ids.to_vec(),
            share: self.share.clone(),
            stage,
        }
    }

    fn size_bytes(&self) -> usize {
        self.message.size_bytes()
    }
}

/// A QoS 1 or 2 delivery that has a Packet Identifier.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) delivery: Delivery,
    packet_id: PacketId,
    pub(crate) progress: Progress,
    /// PUBLISH has been sent before, on whatever connection: the next one carries DUP ([MQTT-3.3.1-1]).
    sent_before: bool,
    /// The current packet of this exchange has been sent on the current connection.
    sent_now: bool,
    /// It takes one of the client's Receive Maximum: a packet of it was sent on the current connection.
    is_charged: bool,
}

impl InFlight {
    /// Returns how durable storage sees this exchange.
    pub(crate) fn stage(&self) -> Stage {
        match self.progress {
            Progress::Storing | Progress::Published => Stage::Published(self.packet_id),
            Progress::Releasing | Progress::Released => Stage::Released(self.packet_id),
        }
    }

    /// Moves on from waiting for a commit; does nothing if the exchange has moved on otherwise.
    fn after_commit(&self) -> Option<Progress> {
        match self.progress {
            Progress::Storing => Some(Progress::Published),
            Progress::Releasing => Some(Progress::Released),
            Progress::Published | Progress::Released => None,
        }
    }

    fn awaits_publish(&self) -> bool {
        self.progress == Progress::Published && !self.sent_now
    }
}

/// An exchange whose next packet is due.
#[derive(Debug)]
pub(crate) struct Resend<'a> {
    pub(crate) delivery: &'a Delivery,
    pub(crate) packet_id: PacketId,
    pub(crate) progress: Progress,
    /// The PUBLISH went out before.
    pub(crate) dup: bool,
}

/// How far an exchange has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// QoS 2: PUBLISH waits until its identifier is durable.
    Storing,
    /// PUBLISH may be sent; awaiting PUBACK or PUBREC ([MQTT-4.3.2-3], [MQTT-4.3.3-3]).
    Published,
    /// PUBREC arrived; PUBREL waits until that is durable. The PUBLISH is not sent again ([MQTT-4.3.3-6]).
    Releasing,
    /// PUBREL may be sent; awaiting PUBCOMP ([MQTT-4.3.3-5]).
    Released,
}

/// Everything on its way to one session.
#[derive(Debug)]
pub(crate) struct Outbound {
    in_flight: VecDeque<InFlight>,
    identifiers: IdSet<PacketId>,
    last_identifier: u16,
    /// QoS 1 and 2 messages that wait for quota, space or a connection.
    queue: VecDeque<Delivery>,
    /// QoS 0 messages that wait for space.
    unassured: VecDeque<Delivery>,
    waiting_bytes: usize,
    /// Entries of `in_flight` whose current packet has not been sent on this connection.
    unsent: usize,
    /// Those of them whose current packet is a PUBLISH that may be sent; new messages must not overtake it.
    unsent_publishes: usize,
    /// Entries of `in_flight` that take one of the client's Receive Maximum.
    charged: usize,
    quota_max: u16,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            in_flight: VecDeque::new(),
            identifiers: IdSet::default(),
            last_identifier: 0,
            queue: VecDeque::new(),
            unassured: VecDeque::new(),
            waiting_bytes: 0,
            unsent: 0,
            unsent_publishes: 0,
            charged: 0,
            quota_max: u16::MAX,
        }
    }
}

impl Outbound {
    /// Begins a connection: everything in flight is to be sent again, within the client's Receive Maximum ([MQTT-4.9.0-1]).
    /// Nothing has gone to other members of a Shared Subscription meanwhile ([MQTT-4.8.2-4]).
    pub(crate) fn connected(&mut self, quota_max: u16) {
        self.quota_max = quota_max;
        self.unsent = self.in_flight.len();
        self.unsent_publishes = 0;
        self.charged = 0;
        for entry in &mut self.in_flight {
            entry.sent_now = false;
            entry.is_charged = false;
            self.unsent_publishes += usize::from(entry.awaits_publish());
        }
    }

    /// Ends a connection: QoS 0 messages do not wait for the next one.
    pub(crate) fn disconnected(&mut self) -> usize {
        let dropped = self.unassured.len();
        self.waiting_bytes -= self.unassured.iter().map(Delivery::size_bytes).sum::<usize>();
        self.unassured = VecDeque::new();
        dropped
    }

    /// Returns how many deliveries wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len() + self.unassured.len()
    }

    /// Returns the bytes of the deliveries that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Tells whether there is nothing that could be sent, whatever the quota.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.unsent == 0 && self.waiting() == 0
    }

    /// Tells whether another `bytes` bytes would exceed the limits of what waits.
    pub(crate) fn is_full(&self, bytes: usize, messages_max: usize, bytes_max: usize) -> bool {
        self.waiting() >= messages_max || self.waiting_bytes + bytes > bytes_max
    }

    /// Returns how many exchanges are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Appends a delivery to those that wait.
    pub(crate) fn enqueue(&mut self, delivery: Delivery) {
        self.waiting_bytes += delivery.size_bytes();
        match delivery.qos {
            QoS::AtMostOnce => self.unassured.push_back(delivery),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.queue.push_back(delivery),
        }
    }

    /// Takes the next waiting QoS 0 delivery.
    pub(crate) fn next_unassured(&mut self) -> Option<Delivery> {
        let delivery = self.unassured.pop_front()?;
        self.waiting_bytes -= delivery.size_bytes();
        Some(delivery)
    }

    /// Takes the next waiting QoS 1 or 2 delivery if the send quota allows another ([MQTT-4.9.0-2]).
    pub(crate) fn next_assured(&mut self) -> Option<Delivery> {
        if !self.has_quota() || self.unsent_publishes > 0 {
            return None;
        }
        let delivery = self.queue.pop_front()?;
        self.waiting_bytes -= delivery.size_bytes();
        Some(delivery)
    }

    /// Tells whether a delivery of this QoS may be sent at once, ahead of nothing.
    pub(crate) fn may_send_now(&self, qos: QoS) -> bool {
        match qos {
            QoS::AtMostOnce => self.unassured.is_empty(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                self.queue.is_empty() && self.unsent_publishes == 0 && self.has_quota()
            }
        }
    }

    fn has_quota(&self) -> bool {
        self.in_flight.len() < usize::from(self.quota_max)
    }

    /// Gives a delivery a Packet Identifier and puts it in flight ([MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.3-1]).
    pub(crate) fn begin(&mut self, delivery: Delivery, progress: Progress) -> PacketId {
        let packet_id = self.free_identifier();
        let sent = progress == Progress::Published;
        self.unsent += usize::from(!sent);
        self.charged += usize::from(sent);
        self.identifiers.insert(packet_id);
        self.in_flight.push_back(InFlight {
            delivery,
            packet_id,
            progress,
            sent_before: sent,
            sent_now: sent,
            is_charged: sent,
        });
        packet_id
    }

    /// Puts a recovered exchange back in flight.
    pub(crate) fn restore(&mut self, delivery: Delivery, packet_id: PacketId, progress: Progress) {
        self.identifiers.insert(packet_id);
        self.last_identifier = packet_id.value();
        self.unsent += 1;
        let entry =
            InFlight { delivery, packet_id, progress, sent_before: true, sent_now: false, is_charged: false };
        self.unsent_publishes += usize::from(entry.awaits_publish());
        self.in_flight.push_back(entry);
    }

    /// Identifiers are handed out in turn, so that one is not used again right after it was freed.
    fn free_identifier(&mut self) -> PacketId {
        loop {
            self.last_identifier = self.last_identifier.wrapping_add(1);
            if let Some(packet_id) = PacketId::new(self.last_identifier)
                && !self.identifiers.contains(&packet_id)
            {
                return packet_id;
            }
        }
    }

    /// Returns the exchange of a Packet Identifier.
    pub(crate) fn exchange(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        let position = self.position(packet_id)?;
        self.in_flight.get_mut(position)
    }

    /// Returns where in `in_flight` an identifier is.
    fn position(&self, packet_id: PacketId) -> Option<usize> {
        let first = self.in_flight.front()?.packet_id;
        // Clients acknowledge in the order in which they were sent to ([MQTT-4.6.0-2], [MQTT-4.6.0-3]).
        if packet_id == first {
            return Some(0);
        }
        if !self.identifiers.contains(&packet_id) {
            return None;
        }
        // Identifiers are handed out in turn, so there are at most as many before this one as it is ahead of the first. Not all
        // that were recovered are in turn.
        let ahead = usize::from(packet_id.value().wrapping_sub(first.value()));
        let guess = ahead.min(self.in_flight.len() - 1);
        let is_it = |position: &usize| self.in_flight[*position].packet_id == packet_id;
        (0..=guess).rev().find(is_it).or_else(|| (guess + 1..self.in_flight.len()).find(is_it))
    }

    /// Ends an exchange and frees its Packet Identifier.
    pub(crate) fn finish(&mut self, packet_id: PacketId) -> Option<Delivery> {
        let entry = self.in_flight.remove(self.position(packet_id)?)?;
        self.identifiers.remove(&packet_id);
        self.unsent -= usize::from(!entry.sent_now);
        self.unsent_publishes -= usize::from(entry.awaits_publish());
        self.charged -= usize::from(entry.is_charged);
        Some(entry.delivery)
    }

    /// Moves an exchange on; its next packet has not been sent yet.
    pub(crate) fn advance(&mut self, packet_id: PacketId, progress: Progress) {
        let Some(entry) = self.exchange(packet_id) else { return };
        let awaited_publish = entry.awaits_publish();
        entry.progress = progress;
        let was_sent = std::mem::replace(&mut entry.sent_now, false);
        let awaits_publish = entry.awaits_publish();
        self.unsent += usize::from(was_sent);
        self.unsent_publishes += usize::from(awaits_publish);
        self.unsent_publishes -= usize::from(awaited_publish);
    }

    /// Lets an exchange go on that waited for a commit.
    pub(crate) fn stored(&mut self, packet_id: PacketId) {
        if let Some(next) = self.exchange(packet_id).and_then(|entry| entry.after_commit()) {
            self.advance(packet_id, next);
        }
    }

    /// Visits the exchanges that wait for a commit, oldest first.
    pub(crate) fn awaiting_commit(&self) -> impl Iterator<Item = (&Delivery, PacketId, Stage)> {
        let waiting = self.in_flight.iter().filter(|entry| entry.after_commit().is_some());
        waiting.map(|entry| (&entry.delivery, entry.packet_id, entry.stage()))
    }

    /// Returns the next exchange whose packet may and should be sent, oldest first, and counts it as sent.
    ///
    /// After a reconnect this resends in the original order ([MQTT-4.4.0-1], [MQTT311-4.6.0-1]) and never exceeds the new quota.
    pub(crate) fn next_unsent(&mut self) -> Option<Resend<'_>> {
        if self.unsent == 0 {
            return None;
        }
        // [MQTT-3.3.4-9] An exchange counts until it ends, so PUBREC makes no room for another.
        let has_room = self.charged < usize::from(self.quota_max);
        let entry = self.in_flight.iter_mut().find(|entry| {
            !entry.sent_now
                && match entry.progress {
                    // [MQTT-3.3.4-10], [MQTT-4.9.0-3]
                    Progress::Released => true,
                    Progress::Published => has_room,
                    Progress::Storing | Progress::Releasing => false,
                }
        })?;
        self.unsent_publishes -= usize::from(entry.awaits_publish());
        self.unsent -= 1;
        entry.sent_now = true;
        self.charged += usize::from(!std::mem::replace(&mut entry.is_charged, true));
        let again = std::mem::replace(&mut entry.sent_before, true);
        Some(Resend {
            delivery: &entry.delivery,
            packet_id: entry.packet_id,
            progress: entry.progress,
            dup: again,
        })
    }

    /// Visits every QoS 1 and 2 delivery, oldest first.
    pub(crate) fn assured(&self) -> impl Iterator<Item = &Delivery> {
        self.in_flight.iter().map(|entry| &entry.delivery).chain(&self.queue)
    }

    /// Takes what other members of its group may have instead, oldest first: all but QoS 2 messages that the client may have
    /// seen ([MQTT-4.8.2-5]).
    pub(crate) fn into_transferable(self) -> Vec<Delivery> {
        let in_flight = self.in_flight.into_iter();
        let unseen = in_flight
            .filter(|entry| entry.delivery.qos != QoS::ExactlyOnce || !entry.sent_before)
            .map(|entry| entry.delivery);
        unseen.chain(self.queue).filter(|delivery| delivery.share.is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageParts;

    fn delivery(qos: QoS, payload: u8) -> Delivery {
        let parts = MessageParts {
            id: None,
            publisher: None,
            qos,
            retain: false,
            topic: "t",
            application_properties: &[],
            payload: &[payload],
            expiry: None,
        };
        Delivery {
            message: Message::new(&parts, 0),
            qos,
            retain: false,
            subscription_ids: Box::default(),
            stored: false,
            share: None,
        }
    }

    fn payload(delivery: &Delivery) -> u8 {
        delivery.message.payload().as_wire_bytes()[0]
    }

    #[test]
    fn quota_holds_back_and_an_acknowledgement_lets_the_next_through() {
        let mut outbound = Outbound::default();
        outbound.connected(1);
        for number in 0..2 {
            outbound.enqueue(delivery(QoS::AtLeastOnce, number));
        }

        let first = outbound.next_assured().unwrap();
        let packet_id = outbound.begin(first, Progress::Published);
        assert!(outbound.next_assured().is_none());

        assert_eq!(payload(&outbound.finish(packet_id).unwrap()), 0);
        assert_eq!(payload(&outbound.next_assured().unwrap()), 1);
        assert_eq!(outbound.waiting_bytes(), 0);
    }

    #[test]
    fn identifiers_are_never_zero_and_never_in_use_twice() {
        let mut outbound = Outbound::default();
        let held = outbound.begin(delivery(QoS::AtLeastOnce, 0), Progress::Published);

        for _ in 0..70_000 {
            let packet_id = outbound.begin(delivery(QoS::AtLeastOnce, 1), Progress::Published);
            assert_ne!(packet_id, held);
            outbound.finish(packet_id);
        }
    }

    #[test]
    fn a_new_connection_resends_in_order_within_its_own_quota() {
        let mut outbound = Outbound::default();
        outbound.connected(10);
        for number in 0..3 {
            outbound.begin(delivery(QoS::AtLeastOnce, number), Progress::Published);
        }

        outbound.connected(2);

        assert_eq!(payload(outbound.next_unsent().unwrap().delivery), 0);
        assert_eq!(payload(outbound.next_unsent().unwrap().delivery), 1);
        assert!(outbound.next_unsent().is_none());
        outbound.finish(PacketId::new(1).unwrap());
        let third = outbound.next_unsent().unwrap();
        assert_eq!(payload(third.delivery), 2);
        assert!(third.dup);
    }

    #[test]
    fn a_release_is_resent_even_when_the_quota_is_used_up() {
        let mut outbound = Outbound::default();
        outbound.connected(2);
        let first = outbound.begin(delivery(QoS::ExactlyOnce, 0), Progress::Published);
        outbound.begin(delivery(QoS::ExactlyOnce, 1), Progress::Published);
        outbound.advance(first, Progress::Released);

        outbound.connected(1);

        assert_eq!(outbound.next_unsent().unwrap().progress, Progress::Released);
        assert!(outbound.next_unsent().is_none());
    }

    #[test]
    fn a_release_that_is_being_stored_makes_no_room_within_the_quota() {
        // [MQTT-3.3.4-9]
        let mut outbound = Outbound::default();
        outbound.connected(10);
        let first = outbound.begin(delivery(QoS::ExactlyOnce, 0), Progress::Published);
        outbound.begin(delivery(QoS::ExactlyOnce, 1), Progress::Published);
        outbound.connected(1);
        assert_eq!(payload(outbound.next_unsent().unwrap().delivery), 0);

        outbound.advance(first, Progress::Releasing);
        assert!(outbound.next_unsent().is_none());
        outbound.stored(first);
        assert_eq!(outbound.next_unsent().unwrap().progress, Progress::Released);
        assert!(outbound.next_unsent().is_none());

        outbound.finish(first);
        assert_eq!(payload(outbound.next_unsent().unwrap().delivery), 1);
    }

    #[test]
    fn a_commit_moves_an_exchange_on_once() {
        let mut outbound = Outbound::default();
        outbound.connected(10);
        let packet_id = outbound.begin(delivery(QoS::ExactlyOnce, 0), Progress::Storing);
        outbound.stored(packet_id);
        assert_eq!(outbound.next_unsent().unwrap().progress, Progress::Published);

        outbound.stored(packet_id);

        assert!(outbound.next_unsent().is_none());
        assert_eq!(outbound.awaiting_commit().count(), 0);
    }

    #[test]
    fn what_is_not_durable_yet_is_not_sent() {
        let mut outbound = Outbound::default();
        outbound.connected(10);
        let packet_id = outbound.begin(delivery(QoS::ExactlyOnce, 0), Progress::Storing);
        assert!(outbound.next_unsent().is_none());

        outbound.advance(packet_id, Progress::Published);

        assert!(!outbound.next_unsent().unwrap().dup);
    }
}
