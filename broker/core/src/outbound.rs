//! The send side of a session: Packet Identifiers, send quota, order, resending.
//!
//! Pure bookkeeping: it says what to send next, callers write it. Invariant: a Packet Identifier is in `in_flight` at most
//! once, and deliveries of QoS 1 and 2 leave in the order in which they came ([MQTT-4.6.0-5], [MQTT-4.6.0-6]).

use std::collections::VecDeque;

use veilmq_protocol::{PacketId, QoS};

use crate::backlog::Backlog;
use crate::id::{IdSet, MessageId};
use crate::in_flight::{InFlight, Progress, Resend};
use crate::message::Storing;
use crate::queue::{Answers, First};
use crate::record::Stage;
use crate::time::Moment;
use crate::waiting::{Delivery, Waiting};

/// Everything on its way to one session.
#[derive(Debug)]
pub(crate) struct Outbound {
    in_flight: VecDeque<InFlight>,
    identifiers: IdSet<PacketId>,
    pub(crate) last_identifier: u16,
    /// What waits; there once something has had to. Most sessions never need the room.
    backlog: Option<Box<Backlog>>,
    /// Messages are being read back.
    is_reading: bool,
    /// Entries of `in_flight` whose current packet has not been sent on this connection.
    unsent: u32,
    /// Those of them whose current packet is a PUBLISH that may be sent; new messages must not overtake it.
    unsent_publishes: u32,
    /// Entries of `in_flight` whose PUBLISH waits for a commit.
    storing: u32,
    /// Entries of `in_flight` that take one of the client's Receive Maximum.
    charged: u32,
    quota_max: u16,
    /// The payload bytes in flight.
    in_flight_bytes: usize,
    /// The payload bytes in flight above which no message follows; 0 for no bound.
    in_flight_bytes_max: usize,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            in_flight: VecDeque::new(),
            identifiers: IdSet::default(),
            last_identifier: 0,
            backlog: None,
            is_reading: false,
            unsent: 0,
            unsent_publishes: 0,
            storing: 0,
            charged: 0,
            quota_max: u16::MAX,
            in_flight_bytes: 0,
            in_flight_bytes_max: 0,
        }
    }
}

impl Outbound {
    /// Begins a connection: everything in flight is to be sent again, within the client's Receive Maximum ([MQTT-4.9.0-1]). With 0,
    /// which no client can say, nothing at all is sent.
    /// Nothing has gone to other members of a Shared Subscription meanwhile ([MQTT-4.8.2-4]).
    pub(crate) fn connected(&mut self, quota_max: u16) {
        self.quota_max = quota_max;
        self.unsent = 0;
        self.unsent_publishes = 0;
        self.charged = 0;
        for entry in &mut self.in_flight {
            entry.sent_now = false;
            entry.is_charged = false;
            self.unsent += 1;
            self.unsent_publishes += u32::from(entry.awaits_publish());
        }
    }

    /// Ends a connection: QoS 0 messages wait for the next one if it `keeps_qos0`, and of the others `memory_bytes_max` bytes stay in memory.
    pub(crate) fn disconnected(&mut self, memory_bytes_max: usize, keeps_qos0: bool) -> usize {
        let mut left = memory_bytes_max;
        for entry in &mut self.in_flight {
            let bytes = entry.delivery.memory_bytes();
            if bytes <= left {
                left -= bytes;
            } else if let Waiting::Whole(delivery) = &entry.delivery
                && delivery.stored_id().is_some()
                && delivery.message.storing() == Storing::Done
            {
                entry.delivery.let_go();
            }
        }
        self.count_in_flight();
        let Some(backlog) = &mut self.backlog else { return 0 };
        let dropped = if keeps_qos0 { 0 } else { backlog.drop_unassured() };
        backlog.queue.let_go_of_head(left);
        if backlog.is_empty() {
            self.backlog = None;
        }
        dropped
    }

    /// Returns how many deliveries wait.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.len())
    }

    /// Returns the bytes of the deliveries that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }

    /// Returns the bytes of those that wait in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.memory_bytes())
    }

    /// Tells whether the connection is one on which nothing is sent.
    pub(crate) fn takes_nothing(&self) -> bool {
        self.quota_max == 0
    }

    /// Tells whether there is nothing that could be sent, whatever quota is left.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.takes_nothing() || self.unsent == 0 && self.waiting() == 0
    }

    /// Tells whether another `bytes` bytes would exceed the limits of what waits.
    pub(crate) fn is_full(&self, bytes: usize, messages_max: usize, bytes_max: usize) -> bool {
        self.waiting() >= messages_max || self.waiting_bytes() + bytes > bytes_max
    }

    /// Returns how many exchanges are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Appends a delivery to those that wait. At QoS 1 and 2 it stays in memory if it `stays` and all before it are there too.
    pub(crate) fn enqueue(&mut self, delivery: Delivery, stays: bool) {
        let backlog = self.backlog.get_or_insert_default();
        match delivery.qos {
            QoS::AtMostOnce => backlog.push_unassured(delivery),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let stays = stays && backlog.queue.is_all_head();
                backlog.queue.push(delivery.into(), stays);
            }
        }
    }

    /// Appends what was recovered to the QoS 1 and 2 messages that wait.
    pub(crate) fn enqueue_recovered(&mut self, waiting: Waiting) {
        self.backlog.get_or_insert_default().queue.push(waiting, true);
    }

    /// Takes the next waiting QoS 0 delivery.
    pub(crate) fn next_unassured(&mut self) -> Option<Delivery> {
        self.backlog.as_mut()?.pop_unassured()
    }

    /// Takes the next waiting QoS 1 or 2 delivery if the send quota allows another ([MQTT-4.9.0-2]).
    pub(crate) fn next_assured(&mut self, now: Moment) -> First {
        if !self.has_quota() || self.unsent_publishes > 0 {
            return First::Nothing;
        }
        self.backlog.as_mut().map_or(First::Nothing, |backlog| backlog.queue.take_first(now))
    }

    /// Takes QoS 1 and 2 messages out that have expired while they waited, at most `count_max`, and drops those of QoS 0; returns how
    /// many these were.
    pub(crate) fn take_expired(&mut self, now: Moment, count_max: usize, into: &mut Vec<Waiting>) -> usize {
        let Some(backlog) = &mut self.backlog else { return 0 };
        backlog.queue.take_expired(now, count_max, into);
        backlog.drop_expired_unassured(now)
    }

    /// Tells whether messages wait in memory that could go once they are durable.
    pub(crate) fn is_undecided(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.queue.is_undecided())
    }

    /// Lets go of messages that wait in memory and can be read back; true if there may soon be more of them.
    pub(crate) fn let_go(&mut self) -> bool {
        let Some(backlog) = &mut self.backlog else { return false };
        backlog.queue.decide();
        backlog.queue.is_undecided()
    }

    /// Returns the messages to read back for the client: what was in flight before, then what waits, some `bytes_max` bytes
    /// together. None if `memory_bytes_min` bytes wait in memory.
    pub(crate) fn ask(&mut self, now: Moment, memory_bytes_min: usize, bytes_max: usize) -> Vec<MessageId> {
        let mut asked = Vec::new();
        let mut bytes = 0;
        if self.unsent_publishes > 0 {
            for entry in &self.in_flight {
                if let Some(id) = entry.missing()
                    && (bytes == 0 || bytes < bytes_max)
                {
                    bytes += entry.delivery.size_bytes();
                    asked.push(id);
                }
            }
        }
        if bytes < bytes_max
            && let Some(backlog) = &mut self.backlog
            && backlog.queue.wants_messages(memory_bytes_min)
        {
            backlog.queue.ask(now, bytes_max - bytes, &mut asked);
        }
        self.is_reading = !asked.is_empty();
        asked
    }

    /// Tells whether messages may have to be read back before they can be sent.
    pub(crate) fn may_miss_messages(&self) -> bool {
        let is_all_here = self.backlog.as_ref().is_none_or(|backlog| backlog.queue.is_all_here());
        !self.is_reading && (self.unsent_publishes > 0 || !is_all_here)
    }

    /// Returns when the next of the messages that wait expires, or earlier.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.backlog.as_ref()?.next_expiry()
    }

    /// Takes note that what was being read has come, or will not.
    pub(crate) fn reading_ended(&mut self) {
        self.is_reading = false;
    }

    /// Puts messages where they were asked for. Those that cannot be read are taken out of the queue into `lost`; the Packet
    /// Identifiers of those in flight are returned.
    pub(crate) fn fill(&mut self, mut answers: Answers, lost: &mut Vec<Waiting>) -> Vec<PacketId> {
        let mut unreadable = Vec::new();
        for entry in &mut self.in_flight {
            if let Some(answer) = entry.missing().and_then(|id| answers.remove(&id)) {
                match answer {
                    Some(message) => entry.delivery.fill(message),
                    None => unreadable.push(entry.packet_id),
                }
            }
        }
        self.count_in_flight();
        if let Some(backlog) = &mut self.backlog {
            backlog.queue.fill(&mut answers, lost);
        }
        unreadable
    }

    /// Tells whether a delivery of this QoS may be sent at once, ahead of nothing.
    pub(crate) fn may_send_now(&self, qos: QoS) -> bool {
        match qos {
            QoS::AtMostOnce => {
                self.quota_max > 0 && self.backlog.as_ref().is_none_or(|backlog| backlog.has_no_unassured())
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                self.backlog.as_ref().is_none_or(|backlog| backlog.queue.is_empty())
                    && self.unsent_publishes == 0
                    && self.has_quota()
            }
        }
    }

    /// Tells whether a stored delivery has to be durable before it is sent. A QoS 2 identifier that a crash could forget would be used
    /// for another message, and what comes after it must not overtake it.
    pub(crate) fn waits_for_commit(&self, qos: QoS) -> bool {
        qos == QoS::ExactlyOnce || self.storing > 0
    }

    /// Holds messages back while payloads of `bytes_max` bytes are in flight; 0 never does.
    pub(crate) fn bound_bytes_in_flight(&mut self, bytes_max: usize) {
        self.in_flight_bytes_max = bytes_max;
    }

    /// Adds up what is in flight, where messages have left memory or come back: only there their size is exact.
    fn count_in_flight(&mut self) {
        self.in_flight_bytes = self.in_flight.iter().map(|entry| entry.delivery.payload_bytes()).sum();
    }

    fn has_quota(&self) -> bool {
        self.in_flight.len() < usize::from(self.quota_max)
            && (self.in_flight_bytes_max == 0 || self.in_flight_bytes < self.in_flight_bytes_max)
    }

    /// Puts a delivery in flight under a free Packet Identifier.
    pub(crate) fn begin(&mut self, delivery: Delivery, packet_id: PacketId, progress: Progress) {
        let sent = progress == Progress::Published;
        self.unsent += u32::from(!sent);
        self.storing += u32::from(progress == Progress::Storing);
        self.charged += u32::from(sent);
        self.in_flight_bytes += delivery.message.payload().len();
        self.identifiers.insert(packet_id);
        self.in_flight.push_back(InFlight {
            delivery: delivery.into(),
            packet_id,
            progress,
            sent_before: sent,
            sent_now: sent,
            is_charged: sent,
        });
    }

    /// Puts a recovered exchange back in flight.
    pub(crate) fn restore(&mut self, delivery: Waiting, packet_id: PacketId, progress: Progress) {
        self.identifiers.insert(packet_id);
        self.last_identifier = packet_id.value();
        self.unsent += 1;
        let entry =
            InFlight { delivery, packet_id, progress, sent_before: true, sent_now: false, is_charged: false };
        self.unsent_publishes += u32::from(entry.awaits_publish());
        self.in_flight_bytes += entry.delivery.payload_bytes();
        self.in_flight.push_back(entry);
    }

    /// Returns a Packet Identifier that no exchange has ([MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.3-1]). They are handed out in
    /// turn, so that one is not used again right after it was freed.
    pub(crate) fn free_identifier(&mut self) -> PacketId {
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
    pub(crate) fn finish(&mut self, packet_id: PacketId) -> Option<Waiting> {
        let entry = self.in_flight.remove(self.position(packet_id)?)?;
        self.identifiers.remove(&packet_id);
        self.in_flight_bytes -= entry.delivery.payload_bytes();
        self.unsent -= u32::from(!entry.sent_now);
        self.unsent_publishes -= u32::from(entry.awaits_publish());
        self.storing -= u32::from(entry.progress == Progress::Storing);
        self.charged -= u32::from(entry.is_charged);
        Some(entry.delivery)
    }

    /// Moves an exchange on; its next packet has not been sent yet.
    pub(crate) fn advance(&mut self, packet_id: PacketId, progress: Progress) {
        let Some(entry) = self.exchange(packet_id) else { return };
        let awaited_publish = entry.awaits_publish();
        let was_storing = std::mem::replace(&mut entry.progress, progress) == Progress::Storing;
        let was_sent = std::mem::replace(&mut entry.sent_now, false);
        let awaits_publish = entry.awaits_publish();
        self.unsent += u32::from(was_sent);
        self.unsent_publishes += u32::from(awaits_publish);
        self.unsent_publishes -= u32::from(awaited_publish);
        self.storing -= u32::from(was_storing);
    }

    /// Lets an exchange go on that waited for a commit.
    pub(crate) fn stored(&mut self, packet_id: PacketId) {
        if let Some(next) = self.exchange(packet_id).and_then(|entry| entry.after_commit()) {
            self.advance(packet_id, next);
        }
    }

    /// Visits the exchanges that wait for a commit, oldest first.
    pub(crate) fn awaiting_commit(&self) -> impl Iterator<Item = (&Waiting, PacketId, Stage)> {
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
        let has_room = self.charged < u32::from(self.quota_max);
        let entry = self.in_flight.iter_mut().find(|entry| {
            !entry.sent_now
                && match entry.progress {
                    // [MQTT-3.3.4-10], [MQTT-4.9.0-3]
                    Progress::Released => true,
                    Progress::Published => has_room,
                    Progress::Storing | Progress::Releasing => false,
                }
        })?;
        if entry.missing().is_some() {
            return Some(Resend::Missing);
        }
        self.unsent_publishes -= u32::from(entry.awaits_publish());
        self.unsent -= 1;
        entry.sent_now = true;
        self.charged += u32::from(!std::mem::replace(&mut entry.is_charged, true));
        let again = std::mem::replace(&mut entry.sent_before, true);
        let packet_id = entry.packet_id;
        Some(match &entry.delivery {
            Waiting::Whole(delivery) if entry.progress == Progress::Published => {
                Resend::Publish { delivery, packet_id, dup: again }
            }
            Waiting::Whole(_) | Waiting::Stub(_) => Resend::Release(packet_id),
        })
    }

    /// Gives out every QoS 1 and 2 delivery, oldest first, and says of each whether other members of its group may have it
    /// instead: all but QoS 2 messages that the client may have seen ([MQTT-4.8.2-5]).
    pub(crate) fn into_assured(self) -> impl Iterator<Item = (Waiting, bool)> {
        let in_flight = self.in_flight.into_iter().map(|entry| {
            let is_unseen = entry.delivery.qos() != QoS::ExactlyOnce || !entry.sent_before;
            let is_transferable = is_unseen && entry.delivery.share().is_some();
            (entry.delivery, is_transferable)
        });
        let queue = self.backlog.map(|backlog| backlog.queue).unwrap_or_default();
        let queued = queue.into_waiting().map(|waiting| {
            let is_transferable = waiting.share().is_some();
            (waiting, is_transferable)
        });
        in_flight.chain(queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, MessageParts};

    fn begin(outbound: &mut Outbound, delivery: Delivery, progress: Progress) -> PacketId {
        let packet_id = outbound.free_identifier();
        outbound.begin(delivery, packet_id, progress);
        packet_id
    }

    fn delivery(qos: QoS, payload: u8) -> Delivery {
        let parts = MessageParts {
            id: None,
            publisher: None,
            source: None,
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

    fn resent(outbound: &mut Outbound) -> Option<(u8, bool)> {
        match outbound.next_unsent()? {
            Resend::Publish { delivery, dup, .. } => Some((payload(delivery), dup)),
            Resend::Release(_) | Resend::Missing => None,
        }
    }

    fn next(outbound: &mut Outbound) -> Option<u8> {
        match outbound.next_assured(Moment::from_milliseconds(0)) {
            First::Delivery(delivery) => Some(payload(&delivery)),
            First::Expired(_) | First::Stub | First::Nothing => None,
        }
    }

    #[test]
    fn quota_holds_back_and_an_acknowledgement_lets_the_next_through() {
        let mut outbound = Outbound::default();
        outbound.connected(1);
        for number in 0..2 {
            outbound.enqueue(delivery(QoS::AtLeastOnce, number), true);
        }

        assert_eq!(next(&mut outbound), Some(0));
        let packet_id = begin(&mut outbound, delivery(QoS::AtLeastOnce, 0), Progress::Published);
        assert_eq!(next(&mut outbound), None);

        assert!(outbound.finish(packet_id).is_some());
        assert_eq!(next(&mut outbound), Some(1));
        assert_eq!(outbound.waiting_bytes(), 0);
    }

    #[test]
    fn bytes_in_flight_hold_back_whatever_the_quota_but_never_a_single_message() {
        let mut outbound = Outbound { quota_max: 10, in_flight_bytes_max: 2, ..Outbound::default() };
        (0..3).for_each(|number| outbound.enqueue(delivery(QoS::AtLeastOnce, number), true));
        for expected in [0, 1] {
            assert_eq!(next(&mut outbound), Some(expected));
            begin(&mut outbound, delivery(QoS::AtLeastOnce, expected), Progress::Published);
        }
        assert_eq!(next(&mut outbound), None, "two payloads of one byte are in flight");
        outbound.finish(PacketId::new(1).unwrap());
        assert_eq!(next(&mut outbound), Some(2));
    }

    #[test]
    fn identifiers_are_never_zero_and_never_in_use_twice() {
        let mut outbound = Outbound::default();
        let held = begin(&mut outbound, delivery(QoS::AtLeastOnce, 0), Progress::Published);

        for _ in 0..70_000 {
            let packet_id = begin(&mut outbound, delivery(QoS::AtLeastOnce, 1), Progress::Published);
            assert_ne!(packet_id, held);
            outbound.finish(packet_id);
        }
    }

    #[test]
    fn a_new_connection_resends_in_order_within_its_own_quota() {
        let mut outbound = Outbound::default();
        outbound.connected(10);
        for number in 0..3 {
            begin(&mut outbound, delivery(QoS::AtLeastOnce, number), Progress::Published);
        }

        outbound.connected(2);

        assert_eq!(resent(&mut outbound), Some((0, true)));
        assert_eq!(resent(&mut outbound), Some((1, true)));
        assert!(outbound.next_unsent().is_none());
        outbound.finish(PacketId::new(1).unwrap());
        assert_eq!(resent(&mut outbound), Some((2, true)));
    }

    #[test]
    fn a_release_is_resent_even_when_the_quota_is_used_up() {
        let mut outbound = Outbound::default();
        outbound.connected(2);
        let first = begin(&mut outbound, delivery(QoS::ExactlyOnce, 0), Progress::Published);
        begin(&mut outbound, delivery(QoS::ExactlyOnce, 1), Progress::Published);
        outbound.advance(first, Progress::Released);

        outbound.connected(1);

        assert!(matches!(outbound.next_unsent(), Some(Resend::Release(_))));
        assert!(outbound.next_unsent().is_none());
    }

    #[test]
    fn a_release_that_is_being_stored_makes_no_room_within_the_quota() {
        // [MQTT-3.3.4-9]
        let mut outbound = Outbound::default();
        outbound.connected(10);
        let first = begin(&mut outbound, delivery(QoS::ExactlyOnce, 0), Progress::Published);
        begin(&mut outbound, delivery(QoS::ExactlyOnce, 1), Progress::Published);
        outbound.connected(1);
        assert_eq!(resent(&mut outbound), Some((0, true)));

        outbound.advance(first, Progress::Releasing);
        assert!(outbound.next_unsent().is_none());
        outbound.stored(first);
        assert!(matches!(outbound.next_unsent(), Some(Resend::Release(_))));
        assert!(outbound.next_unsent().is_none());

        outbound.finish(first);
        assert_eq!(resent(&mut outbound), Some((1, true)));
    }

    #[test]
    fn a_commit_moves_an_exchange_on_once() {
        let mut outbound = Outbound::default();
        outbound.connected(10);
        let packet_id = begin(&mut outbound, delivery(QoS::ExactlyOnce, 0), Progress::Storing);
        assert!(outbound.next_unsent().is_none() && outbound.waits_for_commit(QoS::AtLeastOnce));
        outbound.stored(packet_id);
        assert!(!outbound.waits_for_commit(QoS::AtLeastOnce));
        assert_eq!(resent(&mut outbound), Some((0, false)));

        outbound.stored(packet_id);

        assert!(outbound.next_unsent().is_none());
        assert_eq!(outbound.awaiting_commit().count(), 0);
    }
}
