//! What waits until a batch of records is durable: nothing is acknowledged before.

use std::sync::Arc;

use veilmq_protocol::{Acknowledgement, Packet, PacketId, ReasonCode, SubAck, TopicFilter, UnsubAck};

use super::Shard;
use super::publish::Distribution;
use crate::connection::Connection;
use crate::durability::Promise;
use crate::effect::Effect;
use crate::farewell::{BrokerReason, CloseReason};
use crate::id::{ConnectionId, SessionId, Ticket};
use crate::record::{Record, SubscriptionRecord};
use crate::time::Environment;

/// Something that waits for a commit.
#[derive(Debug)]
pub(super) enum Gated {
    /// An answer to a packet of the client.
    Answer { session: SessionId, connection: ConnectionId, answer: Answer },
    /// CONNACK and everything behind it.
    Uncork(ConnectionId),
    /// An exchange whose next packet may go out once its step is stored.
    Proceed { session: SessionId, packet_id: PacketId },
    /// A QoS 2 message that nobody may have before the broker is sure to know it again.
    Distribute(Box<Held>),
    /// The retained messages that a subscription brings.
    Retained { session: SessionId, filter: Arc<str>, subscription: SubscriptionRecord },
}

/// A QoS 2 message of a client that is being stored.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) publisher: SessionId,
    pub(super) packet_id: PacketId,
    pub(super) distribution: Distribution,
}

/// An answer that may have to wait for a commit.
#[derive(Debug)]
pub(super) enum Answer {
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    /// A PUBACK or PUBREC that says no, and why.
    Refused {
        packet_id: PacketId,
        exactly_once: bool,
        reason: ReasonCode,
        why: &'static str,
    },
    PubComp(PacketId),
    /// PUBREL named an identifier that awaits none ([MQTT-3.6.2-1] code 0x92).
    PubCompUnknown(PacketId),
    SubAck(PacketId, Vec<u8>),
    UnsubAck(PacketId, Vec<u8>),
}

impl Shard {
    /// Returns the ticket of this turn if an answer on a connection has to wait for it, because what it acknowledges `is_stored` and
    /// the client was promised as much.
    pub(super) fn ticket_to_await(&mut self, connection: ConnectionId, is_stored: bool) -> Option<Ticket> {
        let ticket = self.ticket;
        let promise = self.established(connection)?.promise;
        (is_stored && promise == Promise::Stored).then_some(ticket)
    }

    /// Returns the commit that an answer must wait for: its own, or that of the answer before it.
    pub(super) fn answers_wait_for(
        &mut self,
        connection: ConnectionId,
        ticket: Option<Ticket>,
    ) -> Option<Ticket> {
        let settled = self.settled;
        self.established(connection)?.answers_wait_for(ticket, settled)
    }

    /// Sends an answer now, or once `ticket` is durable. Answers on a connection keep their order ([MQTT311-4.6.0-2],
    /// [MQTT311-4.6.0-3]).
    pub(super) fn answer(&mut self, connection: ConnectionId, answer: Answer, ticket: Option<Ticket>) {
        let settled = self.settled;
        let Some(established) = self.established(connection) else { return };
        let session = established.session;
        let ticket = established.answers_wait_for(ticket, settled);
        established.acknowledged_with = ticket;
        match ticket {
            Some(ticket) => self.gate(ticket, Gated::Answer { session, connection, answer }),
            None => self.send_answer(connection, &answer),
        }
    }

    /// Lets something wait for a commit. What waits for the same one keeps its order.
    fn gate(&mut self, ticket: Ticket, gated: Gated) {
        // An answer may have to wait for nothing newer than an older commit, which must not wait for newer ones.
        self.awaited |= ticket == self.ticket;
        let at = self.gated.partition_point(|(waits_for, _)| *waits_for <= ticket);
        self.gated.insert(at, (ticket, gated));
    }

    /// Gives a message to its targets once `ticket` is durable.
    pub(super) fn distribute_when_stored(&mut self, ticket: Ticket, held: Held) {
        self.gate(ticket, Gated::Distribute(Box::new(held)));
    }

    /// Holds everything on a connection back until `ticket` is durable.
    pub(super) fn cork(&mut self, connection: ConnectionId, ticket: Ticket) {
        let Some(established) = self.established(connection) else { return };
        established.corked_until = Some(ticket);
        self.gate(ticket, Gated::Uncork(connection));
    }

    /// Lets an exchange go on once the records of this turn are durable, in the order of the PUBRECs ([MQTT311-4.6.0-4]).
    pub(super) fn proceed_when_stored(&mut self, session: SessionId, packet_id: PacketId) {
        self.gate(self.ticket, Gated::Proceed { session, packet_id });
    }

    /// Stores the steps of exchanges again whose commit may have failed while the client was away.
    pub(super) fn store_exchanges_again(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        let mut waiting = Vec::new();
        for (delivery, packet_id, stage) in state.outbound.awaiting_commit() {
            if let Some(message) = delivery.stored_id() {
                self.records
                    .push(Record::Advanced { reference: delivery.reference(session, stage), message });
            }
            waiting.push(packet_id);
        }
        for packet_id in waiting {
            self.proceed_when_stored(session, packet_id);
        }
    }

    /// Delivers the retained messages of a new subscription once the records of this turn are durable.
    pub(super) fn deliver_retained_when_stored(
        &mut self,
        session: SessionId,
        filter: TopicFilter<'_>,
        subscription: SubscriptionRecord,
    ) {
        let filter = Arc::from(filter.as_str());
        self.gate(self.ticket, Gated::Retained { session, filter, subscription });
    }

    /// Lets everything through that waited for `ticket` or an earlier one.
    pub(super) fn open_gates(&mut self, ticket: Ticket, environment: &mut Environment<'_>) {
        self.settled = self.settled.max(Some(ticket));
        while let Some((_, gated)) = self.gated.pop_front_if(|(waits_for, _)| *waits_for <= ticket) {
            match gated {
                Gated::Answer { connection, answer, .. } => self.send_answer(connection, &answer),
                Gated::Uncork(connection) => self.uncork(connection),
                Gated::Proceed { session, packet_id } => {
                    if let Some(state) = self.sessions.get_mut(&session) {
                        state.outbound.stored(packet_id);
                    }
                    self.pump(session, environment.now);
                }
                Gated::Distribute(held) => {
                    self.distribute(held.distribution, environment.now);
                }
                Gated::Retained { session, filter, subscription } => {
                    if let Ok(filter) = TopicFilter::new(&filter) {
                        self.deliver_retained(session, filter, &subscription, environment.now);
                    }
                }
            }
        }
    }

    /// Refuses everything that waited for `ticket` or an earlier one: it is not stored.
    pub(super) fn fail_gates(
        &mut self,
        ticket: Ticket,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.settled = self.settled.max(Some(ticket));
        // What was accepted and is not stored comes again, and is no repetition.
        self.streams.forget();
        while let Some((_, gated)) = self.gated.pop_front_if(|(waits_for, _)| *waits_for <= ticket) {
            let connection = match gated {
                Gated::Answer { session, connection, answer } => {
                    if let (Answer::PubComp(packet_id), Some(state)) =
                        (answer, self.sessions.get_mut(&session))
                    {
                        // Its release is not stored, so the client's next PUBREL has to store it.
                        state.received.insert(packet_id);
                    }
                    Some(connection)
                }
                Gated::Uncork(connection) => Some(connection),
                Gated::Distribute(held) => {
                    // Nobody has seen it, so the client's next attempt is no repetition.
                    if let Some(state) = self.sessions.get_mut(&held.publisher) {
                        state.received.remove(held.packet_id);
                    }
                    None
                }
                Gated::Proceed { session, .. } | Gated::Retained { session, .. } => {
                    self.sessions.get(&session).and_then(|state| state.connection)
                }
            };
            // [MQTT311-4.8.0-2] The client keeps what was not acknowledged and sends it again on its next connection.
            if let Some(connection) = connection {
                self.close(
                    connection,
                    &CloseReason::Broker(BrokerReason::StorageFailed),
                    environment,
                    effects,
                );
            }
        }
    }

    fn uncork(&mut self, connection: ConnectionId) {
        let Some(established) = self.established(connection) else { return };
        established.corked_until = None;
        self.outgoing.dirty.push(connection);
    }

    fn send_answer(&mut self, connection: ConnectionId, answer: &Answer) {
        let Some(Connection::Established(established)) = self.connections.get_mut(&connection) else {
            return;
        };
        match answer {
            Answer::PubAck(..) | Answer::PubComp(..) => {
                established.unacknowledged = established.unacknowledged.saturating_sub(1);
            }
            // An error ends the exchange, so the client's quota is free again.
            Answer::PubRec(_, reason) if reason.is_error() => {
                established.unacknowledged = established.unacknowledged.saturating_sub(1);
            }
            Answer::Refused { .. } => {
                established.unacknowledged = established.unacknowledged.saturating_sub(1);
            }
            Answer::PubRec(..) | Answer::PubCompUnknown(_) | Answer::SubAck(..) | Answer::UnsubAck(..) => {}
        }
        let packet = match answer {
            Answer::PubAck(packet_id, reason) => Packet::PubAck(Acknowledgement::new(*packet_id, *reason)),
            Answer::PubRec(packet_id, reason) => Packet::PubRec(Acknowledgement::new(*packet_id, *reason)),
            Answer::Refused { packet_id, exactly_once, reason, .. } => {
                let refusal = Acknowledgement::new(*packet_id, *reason);
                if *exactly_once { Packet::PubRec(refusal) } else { Packet::PubAck(refusal) }
            }
            Answer::PubComp(packet_id) => {
                Packet::PubComp(Acknowledgement::new(*packet_id, ReasonCode::Success))
            }
            Answer::PubCompUnknown(packet_id) => {
                Packet::PubComp(Acknowledgement::new(*packet_id, ReasonCode::PacketIdentifierNotFound))
            }
            Answer::SubAck(packet_id, reasons) => Packet::SubAck(SubAck {
                packet_id: *packet_id,
                reason_string: None,
                user: Default::default(),
                reasons,
            }),
            Answer::UnsubAck(packet_id, reasons) => Packet::UnsubAck(UnsubAck {
                packet_id: *packet_id,
                reason_string: None,
                user: Default::default(),
                reasons,
            }),
        };
        let why = match answer {
            Answer::Refused { why, .. } => Some(*why),
            Answer::PubAck(..)
            | Answer::PubRec(..)
            | Answer::PubComp(_)
            | Answer::PubCompUnknown(_)
            | Answer::SubAck(..)
            | Answer::UnsubAck(..) => None,
        };
        self.outgoing.send_explained(established, &packet, why);
    }
}
