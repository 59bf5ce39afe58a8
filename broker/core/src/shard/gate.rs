//! What waits until a batch of records is durable: nothing is acknowledged before.

use std::sync::Arc;

use veilmq_protocol::{Acknowledgement, Packet, PacketId, ReasonCode, SubAck, TopicFilter, UnsubAck};

use super::Shard;
use crate::effect::Effect;
use crate::farewell::{BrokerReason, CloseReason};
use crate::id::{ConnectionId, SessionId, Ticket};
use crate::outbound::Progress;
use crate::record::SubscriptionRecord;
use crate::time::Environment;

/// Something that waits for a commit.
#[derive(Debug)]
pub(super) enum Gated {
    /// An answer to a packet of the client.
    Answer(ConnectionId, Answer),
    /// CONNACK and everything behind it.
    Uncork(ConnectionId),
    /// A QoS 2 exchange whose next packet may go out once its step is stored.
    Proceed { session: SessionId, packet_id: PacketId, progress: Progress },
    /// The retained messages that a subscription brings.
    Retained { session: SessionId, filter: Arc<str>, subscription: SubscriptionRecord },
}

/// An answer that may have to wait for a commit.
#[derive(Debug)]
pub(super) enum Answer {
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    PubComp(PacketId),
    /// PUBREL named an identifier that awaits none ([MQTT-3.6.2-1] code 0x92).
    PubCompUnknown(PacketId),
    SubAck(PacketId, Vec<u8>),
    UnsubAck(PacketId, Vec<u8>),
}

impl Shard {
    /// Returns the ticket that the records of this turn will get.
    pub(super) fn current_ticket(&self) -> Ticket {
        self.ticket
    }

    /// Sends an answer now, or once `ticket` is durable. Answers on a connection keep their order.
    pub(super) fn answer(&mut self, connection: ConnectionId, answer: Answer, ticket: Option<Ticket>) {
        let settled = self.settled;
        let Some(established) = self.established(connection) else { return };
        let ticket = ticket.or(established.acknowledged_with).filter(|ticket| Some(*ticket) > settled);
        established.acknowledged_with = ticket;
        match ticket {
            Some(ticket) => self.gated.push_back((ticket, Gated::Answer(connection, answer))),
            None => self.send_answer(connection, &answer),
        }
    }

    /// Holds everything on a connection back until `ticket` is durable.
    pub(super) fn cork(&mut self, connection: ConnectionId, ticket: Ticket) {
        let Some(established) = self.established(connection) else { return };
        established.corked_until = Some(ticket);
        self.gated.push_back((ticket, Gated::Uncork(connection)));
    }

    /// Lets a QoS 2 exchange go on once the records of this turn are durable.
    pub(super) fn proceed_when_stored(
        &mut self,
        session: SessionId,
        packet_id: PacketId,
        progress: Progress,
    ) {
        self.gated.push_back((self.ticket, Gated::Proceed { session, packet_id, progress }));
    }

    /// Delivers the retained messages of a new subscription once the records of this turn are durable.
    pub(super) fn deliver_retained_when_stored(
        &mut self,
        session: SessionId,
        filter: TopicFilter<'_>,
        subscription: SubscriptionRecord,
    ) {
        let filter = Arc::from(filter.as_str());
        self.gated.push_back((self.ticket, Gated::Retained { session, filter, subscription }));
    }

    /// Lets everything through that waited for `ticket` or an earlier one.
    pub(super) fn open_gates(&mut self, ticket: Ticket, environment: &mut Environment<'_>) {
        self.settled = self.settled.max(Some(ticket));
        while let Some((_, gated)) = self.gated.pop_front_if(|(waits_for, _)| *waits_for <= ticket) {
            match gated {
                Gated::Answer(connection, answer) => self.send_answer(connection, &answer),
                Gated::Uncork(connection) => self.uncork(connection),
                Gated::Proceed { session, packet_id, progress } => {
                    if let Some(state) = self.sessions.get_mut(&session) {
                        state.outbound.advance(packet_id, progress);
                    }
                    self.pump(session, environment.now);
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
        while let Some((_, gated)) = self.gated.pop_front_if(|(waits_for, _)| *waits_for <= ticket) {
            let connection = match gated {
                Gated::Answer(connection, _) | Gated::Uncork(connection) => Some(connection),
                Gated::Proceed { session, .. } | Gated::Retained { session, .. } => {
                    self.sessions.get(&session).and_then(|state| state.connection)
                }
            };
            // The client keeps what was not acknowledged and sends it again on its next connection.
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
        self.dirty.push(connection);
    }

    fn send_answer(&mut self, connection: ConnectionId, answer: &Answer) {
        let Some(established) = self.established(connection) else { return };
        match answer {
            Answer::PubAck(..) | Answer::PubComp(..) => {
                established.unacknowledged = established.unacknowledged.saturating_sub(1);
            }
            // An error ends the exchange, so the client's quota is free again.
            Answer::PubRec(_, reason) if reason.is_error() => {
                established.unacknowledged = established.unacknowledged.saturating_sub(1);
            }
            Answer::PubRec(..) | Answer::PubCompUnknown(_) | Answer::SubAck(..) | Answer::UnsubAck(..) => {}
        }
        let packet = match answer {
            Answer::PubAck(packet_id, reason) => Packet::PubAck(Acknowledgement::new(*packet_id, *reason)),
            Answer::PubRec(packet_id, reason) => Packet::PubRec(Acknowledgement::new(*packet_id, *reason)),
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
        self.send(connection, &packet);
    }
}
