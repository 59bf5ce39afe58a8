//! The way out: a message becomes a delivery, and deliveries become PUBLISH packets as space and quota allow.

use std::sync::Arc;

use veilmq_protocol::{Acknowledgement, Packet, PacketId, QoS, ReasonCode};

use super::Shard;
use super::outgoing::Sending;
use crate::connection::{Connection, Established};
use crate::id::{ConnectionId, IdMap, SessionId};
use crate::in_flight::{Progress, Resend};
use crate::matches::{Matches, Target};
use crate::message::Message;
use crate::queue::First;
use crate::record::{Record, Stage};
use crate::session::permits_receiving;
use crate::stats::DropReason;
use crate::time::Moment;
use crate::waiting::{Delivery, Waiting};

impl Shard {
    /// Delivers a message to every target on this shard.
    pub(super) fn deliver_all(&mut self, message: &Arc<Message>, matches: &Arc<Matches>, now: Moment) {
        for target in matches.on(self.index) {
            // [MQTT-3.8.4-8]
            let qos = target.qos.min(message.qos());
            // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            let retain = message.retain() && target.retain_as_published;
            if qos == QoS::AtMostOnce && self.pass_through(target, message, retain, now) {
                continue;
            }
            let delivery = Delivery {
                message: Arc::clone(message),
                qos,
                retain,
                subscription_ids: target.subscription_ids.as_slice().into(),
                stored: target.durable && qos != QoS::AtMostOnce && message.id().is_some(),
                share: None,
            };
            self.deliver_to(target.session, delivery, now);
        }
    }

    /// Sends a QoS 0 message without a delivery, as nearly all are sent: nothing is before it and the connection has space. False
    /// if it has to go the long way.
    fn pass_through(&mut self, target: &Target, message: &Arc<Message>, retain: bool, now: Moment) -> bool {
        let Some(state) = self.sessions.get_mut(&target.session) else { return false };
        let Some(connection) = state.connection else { return false };
        if !state.may_receive(message, &self.stats) {
            return true;
        }
        if !state.outbound.may_send_now(QoS::AtMostOnce) || message.is_expired(now) {
            return false;
        }
        let bytes_max = self.settings.outbox_bytes_max;
        let Some(established) = with_space(&mut self.connections, connection, bytes_max) else {
            return false;
        };
        let sending = Sending {
            message,
            qos: QoS::AtMostOnce,
            retain,
            subscription_ids: &target.subscription_ids,
            packet_id: None,
            dup: false,
        };
        self.outgoing.publish(established, &sending, now);
        self.show_availability(target.session, now);
        true
    }

    /// Sends a delivery to a session, or lets it wait there. If the session ended while the message was on its way, its reference
    /// is given up.
    pub(super) fn deliver_to(&mut self, session: SessionId, mut delivery: Delivery, now: Moment) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return self.settle(session, &delivery.into());
        };
        if delivery.message.is_expired(now) {
            self.drop_delivery(session, delivery, DropReason::Expired);
            return;
        }
        let waits = self.settings.queue_qos0 || state.keeps_qos0;
        if state.connection.is_none() && delivery.qos == QoS::AtMostOnce && !waits {
            return;
        }
        if !state.may_receive(&delivery.message, &self.stats) {
            self.settle(session, &delivery.into());
            return;
        }
        if state.durable
            && !delivery.stored
            && delivery.qos != QoS::AtMostOnce
            && !self.settings.relaxed_topics.is_in_memory(delivery.message.topic())
        {
            delivery.message = delivery.message.with_id(self.shared.next_message(), 1);
            delivery.stored = true;
            self.records.push(Record::Published {
                message: Arc::clone(&delivery.message),
                references: vec![delivery.reference(session, Stage::Queued)],
            });
        }
        let connection = state.connection.filter(|_| state.outbound.may_send_now(delivery.qos));
        match connection.filter(|connection| self.has_space(*connection)) {
            Some(connection) => self.begin(session, connection, delivery, now),
            None => self.enqueue(session, delivery, now),
        }
        self.show_availability(session, now);
    }

    fn enqueue(&mut self, session: SessionId, delivery: Delivery, now: Moment) {
        let bytes = delivery.size_bytes();
        let mut full = self.has_no_room(session, bytes);
        if full.is_some() {
            self.drop_expired(session, now);
            full = self.has_no_room(session, bytes);
        }
        if full.is_some() {
            self.note_lack_of_room(session);
        }
        // What may be dropped makes room for what may not.
        while full.is_some() && delivery.qos != QoS::AtMostOnce && self.drop_unassured(session) {
            full = self.has_no_room(session, bytes);
        }
        match full {
            Some(_) if delivery.qos == QoS::AtMostOnce => {
                self.drop_delivery(session, delivery, DropReason::Unassured);
            }
            Some(reason) => self.drop_delivery(session, delivery, reason),
            None => self.let_wait(session, delivery, now),
        }
    }

    /// What a client that is away, or takes nothing, would find missing shows in its session.
    fn note_lack_of_room(&mut self, session: SessionId) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.lacked_room |= state.connection.is_none() || state.outbound.takes_nothing();
        }
    }

    /// Drops the oldest QoS 0 message that waits for a session; false if there is none.
    fn drop_unassured(&mut self, session: SessionId) -> bool {
        let Some(dropped) = self.sessions.get_mut(&session).and_then(|state| state.outbound.next_unassured())
        else {
            return false;
        };
        let bytes = dropped.size_bytes();
        self.left_queue(bytes, bytes);
        self.stats.messages_dropped(DropReason::Unassured, 1);
        true
    }

    pub(super) fn drop_delivery(
        &mut self,
        session: SessionId,
        delivery: impl Into<Waiting>,
        reason: DropReason,
    ) {
        self.stats.messages_dropped(reason, 1);
        self.settle(session, &delivery.into());
    }

    /// Drops a delivery that has waited for its client, and passes over a Packet Identifier: as with Mosquitto, which numbers
    /// messages when they come, the client sees that something is missing.
    pub(super) fn drop_waiting(
        &mut self,
        session: SessionId,
        delivery: impl Into<Waiting>,
        reason: DropReason,
    ) {
        let waiting = delivery.into();
        if let Some(state) = self.sessions.get_mut(&session).filter(|_| waiting.qos() != QoS::AtMostOnce) {
            state.outbound.free_identifier();
        }
        self.drop_delivery(session, waiting, reason);
    }

    /// Tells whether more may be put into the outbox of a connection.
    pub(super) fn has_space(&self, connection: ConnectionId) -> bool {
        let bytes_max = self.settings.outbox_bytes_max;
        match self.connections.get(&connection) {
            Some(Connection::Established(established)) => established.wire.waiting_bytes() < bytes_max,
            _ => false,
        }
    }

    /// Takes the first step of a delivery on a connection that has space and quota for it. DUP is 0, whatever it was when the
    /// message came ([MQTT-3.3.1-3], [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2]).
    fn begin(&mut self, session: SessionId, connection: ConnectionId, delivery: Delivery, now: Moment) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(Connection::Established(established)) = self.connections.get_mut(&connection) else {
            return;
        };
        if delivery.qos == QoS::AtMostOnce {
            self.outgoing.publish(established, &Sending::of(&delivery, None, false), now);
            return;
        }
        let packet_id = state.outbound.free_identifier();
        if let Some(message) = delivery.stored_id() {
            let reference = delivery.reference(session, Stage::Published(packet_id));
            self.records.push(Record::Advanced { reference, message });
        }
        if delivery.stored && state.outbound.waits_for_commit(delivery.qos) {
            state.outbound.begin(delivery, packet_id, Progress::Storing);
            self.gauges.inflight_messages += 1;
            self.proceed_when_stored(session, packet_id);
        } else if self.outgoing.publish(established, &Sending::of(&delivery, Some(packet_id), false), now) {
            state.outbound.begin(delivery, packet_id, Progress::Published);
            self.gauges.inflight_messages += 1;
        } else {
            self.settle(session, &delivery.into());
        }
    }

    /// Sends what waits for a session, as far as space and quota allow: first what was sent before, then what is new.
    pub(super) fn pump(&mut self, session: SessionId, now: Moment) {
        let Some(state) = self.sessions.get(&session) else { return };
        if !state.outbound.is_at_rest() {
            self.send_waiting(session, now);
            self.read_ahead(session, now);
        }
        self.go_on_with_walks(session, now);
        self.show_availability(session, now);
    }

    fn send_waiting(&mut self, session: SessionId, now: Moment) {
        loop {
            let Some(state) = self.sessions.get_mut(&session) else { return };
            let Some(connection) = state.connection else { return };
            if state.outbound.is_at_rest() || !self.has_space(connection) {
                return;
            }
            if self.send_unsent(session, connection, now) {
                continue;
            }
            let Some(state) = self.sessions.get_mut(&session) else { return };
            let first = match state.outbound.next_unassured() {
                Some(delivery) if delivery.message.is_expired(now) => First::Expired(delivery.into()),
                Some(delivery) => First::Delivery(delivery),
                None => state.outbound.next_assured(now),
            };
            match first {
                // What it may receive can have changed since.
                First::Delivery(delivery) if !state.may_receive(&delivery.message, &self.stats) => {
                    let bytes = delivery.size_bytes();
                    self.left_queue(bytes, bytes);
                    self.drop_waiting(session, delivery, DropReason::NotAuthorized);
                }
                First::Delivery(delivery) => {
                    let bytes = delivery.size_bytes();
                    self.left_queue(bytes, bytes);
                    self.begin(session, connection, delivery, now);
                }
                First::Expired(waiting) => {
                    self.left_queue(waiting.size_bytes(), waiting.memory_bytes());
                    self.drop_waiting(session, waiting, DropReason::Expired);
                }
                First::Stub | First::Nothing => return,
            }
        }
    }

    /// Sends the next packet of the oldest exchange that has one due; false if there is none. An exchange that has begun is
    /// finished even if its message has expired ([MQTT-4.3.3-7], [MQTT-4.3.3-13]).
    fn send_unsent(&mut self, session: SessionId, connection: ConnectionId, now: Moment) -> bool {
        let Some(state) = self.sessions.get_mut(&session) else { return false };
        match state.outbound.next_unsent() {
            Some(Resend::Release(packet_id)) => {
                let release = Packet::PubRel(Acknowledgement::new(packet_id, ReasonCode::Success));
                self.send(connection, &release);
            }
            Some(Resend::Publish { delivery, packet_id, dup }) => {
                // What it may receive can have changed since.
                if !permits_receiving(&mut state.permissions, &delivery.message, &self.stats) {
                    self.stats.messages_dropped(DropReason::NotAuthorized, 1);
                    self.finish(session, packet_id);
                    return true;
                }
                let sending = Sending::of(delivery, Some(packet_id), dup);
                if let Some(Connection::Established(established)) = self.connections.get_mut(&connection)
                    && !self.outgoing.publish(established, &sending, now)
                {
                    self.finish(session, packet_id);
                }
            }
            Some(Resend::Missing) | None => return false,
        }
        true
    }

    /// Ends an exchange with the client.
    pub(super) fn finish(&mut self, session: SessionId, packet_id: PacketId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if let Some(delivery) = state.outbound.finish(packet_id) {
            self.gauges.inflight_messages -= 1;
            self.settle(session, &delivery);
        }
    }

    pub(super) fn drained(&mut self, connection: ConnectionId, now: Moment) {
        let Some(established) = self.established(connection) else { return };
        established.owed_bytes = 0;
        let session = established.session;
        self.pump(session, now);
    }
}

/// Returns an established connection whose outbox holds less than `bytes_max` bytes.
fn with_space(
    connections: &mut IdMap<ConnectionId, Connection>,
    connection: ConnectionId,
    bytes_max: usize,
) -> Option<&mut Established> {
    match connections.get_mut(&connection)? {
        Connection::Established(established) if established.wire.waiting_bytes() < bytes_max => {
            Some(established)
        }
        Connection::Established(_) | Connection::Opening(_) | Connection::Proving(_) => None,
    }
}
