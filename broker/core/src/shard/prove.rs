//! Deferred takeover: a client that opened with COMPACT or RESUME gets its session with its first record (VEIL-1 section 4.6).
//!
//! Until then an earlier connection with the same Client Identifier stays, no message that waits is sent and no Will published. For
//! that time two connections share an identifier, a bounded deviation from section 3.1.4 of MQTT 5.0.

use veilmq_protocol::PacketType;

use super::Shard;
use super::timer::Timer;
use crate::connection::{Arrival, Connection, JoinOutcome, Proving, Told};
use crate::effect::Effect;
use crate::farewell::{BrokerReason, CloseReason, PeerError};
use crate::id::ConnectionId;
use crate::outbox::Outbox;
use crate::time::Environment;

impl Shard {
    /// Sends CONNACK to a client that is to show that it is there, and changes nothing else.
    pub(super) fn let_prove(
        &mut self,
        mut arrival: Arrival,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let session_present = self.is_session_present(&arrival);
        let wire = self.wire_of(&arrival.request);
        let told = Told { join: arrival.join.as_ref().map(JoinOutcome::param), ..Told::default() };
        let channel = arrival.channel.take();
        let written = self.write_connack(&arrival.request, channel, session_present, told, wire, environment);
        let (wire, channel) = match written {
            Ok((wire, Some(channel))) => (wire, channel),
            Ok((_, None)) => {
                let reason = PeerError::Protocol("a handshake without records cannot be proved").into();
                return self.turn_away(&arrival, &reason, environment, effects);
            }
            Err(reason) => return self.turn_away(&arrival, &reason, environment, effects),
        };
        let connection = arrival.connection;
        let mut unread = std::mem::take(&mut arrival.unread);
        let over_at = environment.now + self.proof_milliseconds();
        self.count_sent(PacketType::ConnAck, wire.waiting_bytes());
        let proving = Proving { arrival, wire, channel, session_present, partial: Vec::new(), over_at };
        self.connections.insert(connection, Connection::Proving(Box::new(proving)));
        self.timers.insert((over_at, Timer::Connection(connection)));
        self.outgoing.dirty.push(connection);
        if !unread.is_empty() {
            self.take_in(connection, &mut unread, environment, effects);
        }
    }

    /// Tells what CONNACK says of the session of a client.
    fn is_session_present(&self, arrival: &Arrival) -> bool {
        let is_there = self.by_client_id.contains_key(&arrival.request.client_id);
        is_there && !arrival.request.clean_start && !self.is_strangers(arrival)
    }

    pub(super) fn proof_milliseconds(&self) -> u64 {
        self.shared.veil().map_or(0, |veil| veil.one_trip.proof_milliseconds)
    }

    /// Gives a client its session, which has shown with a record that it is there.
    pub(super) fn proven(
        &mut self,
        connection: ConnectionId,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Some(Connection::Proving(proving)) = self.connections.get(&connection) else { return Ok(()) };
        let client_id = std::sync::Arc::clone(&proving.arrival.request.client_id);
        self.end_if_due(&client_id, environment);
        let Some(Connection::Proving(proving)) = self.connections.get(&connection) else { return Ok(()) };
        if let Some(reason) = self.refusal_of(&proving.arrival) {
            return Err(reason);
        }
        if proving.session_present != self.is_session_present(&proving.arrival) {
            return Err(CloseReason::Broker(BrokerReason::SessionChanged));
        }
        if !self.may_take_over(&client_id, environment.now) {
            return Err(CloseReason::Broker(BrokerReason::TakenOverTooOften));
        }
        let Some(Connection::Proving(proving)) = self.connections.remove(&connection) else { return Ok(()) };
        let Proving { arrival, wire, channel, session_present, partial: _, over_at } = *proving;
        self.timers.remove(&(over_at, Timer::Connection(connection)));
        self.stats.handshake(true);
        self.make_way(&arrival, environment, effects);
        self.begin_session(arrival, session_present, wire, Some(channel), environment.now);
        Ok(())
    }

    /// Ends a connection whose client has not shown that it is there, or whose session was not to be had.
    pub(super) fn refuse_unproven(&mut self, mut proving: Proving, reason: &CloseReason) -> Outbox {
        let connection = proving.arrival.connection;
        self.timers.remove(&(proving.over_at, Timer::Connection(connection)));
        self.stats.handshake(false);
        tracing::info!(
            connection = connection.0,
            peer = %proving.arrival.peer,
            client = &*proving.arrival.request.client_id,
            %reason,
            cause = reason.label().name(),
            code = reason.code(),
            "connection ended before its first record"
        );
        self.say_farewell(connection, &mut proving.wire, reason);
        proving.wire.into_outbox()
    }
}
