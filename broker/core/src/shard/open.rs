//! From accept to CONNACK: openings, takeover, resuming or starting a session.

use std::sync::Arc;

use veilmq_protocol::veil::channel::ServerAccepted;
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::{PacketType, ProtocolVersion};

use super::Shard;
use super::verdict::permissions_of;
use crate::access::BRIDGES;
use crate::connection::{
    Arrival, Channel, ConnectRequest, Connection, Established, JoinOutcome, Opening, Told, Wire,
};
use crate::durability::Promise;
use crate::effect::Effect;
use crate::entrance::EntranceId;
use crate::farewell::{BrokerReason, CloseReason};
use crate::id::{ConnectionId, SessionId};
use crate::session::Session;
use crate::storage::StorageState;
use crate::time::{Environment, Moment};

impl Shard {
    pub(super) fn accepted(
        &mut self,
        connection: ConnectionId,
        peer: &str,
        entrance: EntranceId,
        (promise, is_encrypted): (Promise, bool),
        now: Moment,
    ) {
        self.stats.connection_opened();
        // A listener may have begun to offer something else before this shard was told.
        let offer = Arc::clone(self.shared.settings().entrance(entrance));
        let mut opening = Opening::new(connection, peer, (entrance, offer), now);
        (opening.promise, opening.is_encrypted) = (promise, is_encrypted);
        let deadline = opening.connect_deadline();
        self.connections.insert(connection, Connection::Opening(Box::new(opening)));
        self.arm_connect(connection, deadline);
    }

    /// Takes note of where a client is that came by a proxy.
    pub(super) fn located(&mut self, connection: ConnectionId, peer: &str) {
        if let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) {
            opening.peer = Box::from(peer);
        }
    }

    /// Passes an authenticated connection on to the shard of its session.
    pub(super) fn opened(
        &mut self,
        mut arrival: Box<Arrival>,
        unread: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if arrival.channel.as_ref().is_some_and(is_proven) {
            self.stats.handshake(true);
        }
        self.disarm_connect(arrival.connection, arrival.connect_deadline());
        arrival.unread.extend_from_slice(unread);
        let home = self.shared.home(&arrival.request.client_id);
        if home == self.index {
            self.arrived(*arrival, environment, effects);
        } else {
            effects.push(Effect::Hand { shard: home, arrival });
        }
    }

    /// Gives an authenticated connection its session ([MQTT-3.1.4-3] to [MQTT-3.1.4-5]).
    pub(super) fn arrived(
        &mut self,
        mut arrival: Arrival,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        // A client that was told of a change finds it in force, even where this shard has not been told yet.
        let is_up_to_date = Arc::ptr_eq(&self.access, &self.shared.access())
            && Arc::ptr_eq(&self.settings, &self.shared.settings());
        if !is_up_to_date {
            self.access_changed(environment, effects);
        }
        self.end_if_due(&arrival.request.client_id, environment);
        if let Some(reason) = self.refusal_of(&arrival) {
            return self.turn_away(&arrival, &reason, environment, effects);
        }
        self.prepare_groups(&arrival, environment);
        if !arrival.channel.as_ref().is_none_or(is_proven) {
            return self.let_prove(arrival, environment, effects);
        }
        if !self.may_take_over(&arrival.request.client_id, environment.now) {
            let reason = CloseReason::Broker(BrokerReason::TakenOverTooOften);
            return self.turn_away(&arrival, &reason, environment, effects);
        }
        self.make_way(&arrival, environment, effects);
        // [MQTT-3.2.2-2], [MQTT-3.2.2-3]
        let present = self.by_client_id.contains_key(&arrival.request.client_id);
        let wire = self.wire_of(&arrival.request);
        let told = Told {
            group_grants: self.grant_ahead(&arrival),
            join: arrival.join.as_ref().map(JoinOutcome::param),
        };
        let channel = arrival.channel.take();
        // [MQTT-3.2.0-1], [MQTT-3.2.0-2] The first packet of the connection, and the only one of its kind.
        let written = self.write_connack(&arrival.request, channel, present, told, wire, environment);
        let (wire, channel) = match written {
            Ok(written) => written,
            Err(reason) => {
                self.outgoing.groups.leave_all(arrival.connection);
                return self.turn_away(&arrival, &reason, environment, effects);
            }
        };
        let connection = arrival.connection;
        let mut unread = std::mem::take(&mut arrival.unread);
        self.count_sent(PacketType::ConnAck, wire.waiting_bytes());
        self.begin_session(arrival, present, wire, channel, environment.now);
        if !unread.is_empty() {
            self.take_in(connection, &mut unread, environment, effects);
        }
    }

    /// Ends what a new connection takes the place of ([MQTT-3.1.4-3], [MQTT-3.1.2-4], [MQTT-3.1.4-4]).
    pub(super) fn make_way(
        &mut self,
        arrival: &Arrival,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.forget_delayed_will(arrival);
        self.take_over(&arrival.request.client_id, environment, effects);
        if (arrival.request.clean_start || self.is_strangers(arrival))
            && let Some(old) = self.by_client_id.get(&arrival.request.client_id).copied()
        {
            self.end_session(old, environment.now);
        }
    }

    /// Forgets the Will Message of a session that is away and ends now, because its client has come back in time (section 3.1.2.5).
    /// Section 3.1.3.2.2 says that the end of a session ends the delay, so this is a matter of habits.
    fn forget_delayed_will(&mut self, arrival: &Arrival) {
        if !self.settings.mosquitto_habits || self.is_strangers(arrival) {
            return;
        }
        let session = self.by_client_id.get(&arrival.request.client_id);
        let state = session.and_then(|session| self.sessions.get_mut(session));
        if let Some(state) = state.filter(|state| state.connection.is_none()) {
            state.will = None;
        }
    }

    /// Joins a connection that has CONNACK with its session, and sends what waits there.
    pub(super) fn begin_session(
        &mut self,
        arrival: Arrival,
        present: bool,
        wire: Wire,
        channel: Option<Box<Channel>>,
        now: Moment,
    ) {
        let session = self.session_of(&arrival.request.client_id);
        self.adopt(session, &arrival);
        self.tell_standing(session);
        self.shared.presence.came(arrival.user_name(), arrival.connection, &arrival.peer);
        tracing::info!(
            target: crate::CONNECTION_LINES,
            connection = arrival.connection.0,
            peer = %arrival.peer,
            client = &*arrival.request.client_id,
            version = arrival.request.version.level(),
            identity = arrival.identity.as_ref().map(|member| tracing::field::display(member.kid)),
            user = arrival.user.as_ref().map(|user| &*user.name).filter(|user| *user != BRIDGES),
            clean_start = arrival.request.clean_start,
            keep_alive_seconds = arrival.request.keep_alive_seconds,
            session_present = present,
            "connected"
        );
        self.establish(arrival, session, wire, channel, now);
        self.pump(session, now);
    }

    pub(super) fn wire_of(&mut self, request: &ConnectRequest) -> Wire {
        let aliases = request.topic_alias_maximum.min(request.offer.topic_alias_to_client_max);
        let mut wire = Wire::new(request.version, request.packet_bytes_max, aliases);
        self.outgoing.lend(wire.outbox());
        wire
    }

    /// Refuses everybody while the broker goes away, whose certificate counts no more, whose session is somebody else's, whose Will Message may not be published,
    /// and whose session there is no room to store.
    pub(super) fn refusal_of(&self, arrival: &Arrival) -> Option<CloseReason> {
        if self.shared.is_draining() {
            return Some(CloseReason::Broker(BrokerReason::Shutdown));
        }
        if !self.settings.entrance(arrival.request.entrance).is_open {
            return Some(CloseReason::Broker(BrokerReason::ListenerGone));
        }
        // A list may have come since its handshake.
        if !self.is_still_trusted(arrival.identity.as_deref()) {
            return Some(CloseReason::Broker(BrokerReason::Distrusted));
        }
        let session = self.session_with_id(&arrival.request.client_id);
        let refusal = self.refusal_of_stranger(arrival).or_else(|| self.refusal_of_will(arrival));
        if let Some(refusal) = refusal.or_else(|| self.refusal_of_unsealed_will(arrival)) {
            return Some(refusal.into());
        }
        if session.is_none() && self.shared.has_all_sessions() {
            return Some(CloseReason::Broker(BrokerReason::TooManySessions));
        }
        let was_stored = session.is_some_and(|session| session.durable);
        let is_stored = self.session_expiry_seconds(&arrival.request) > 0;
        let has_room = match self.shared.room() {
            StorageState::Ready => true,
            // Who comes back for what is stored frees it.
            StorageState::Full => was_stored || !is_stored,
            StorageState::Failing => !was_stored && !is_stored,
        };
        (!has_room).then_some(CloseReason::Broker(BrokerReason::StorageFull))
    }

    pub(super) fn session_with_id(&self, client_id: &str) -> Option<&Session> {
        self.sessions.get(self.by_client_id.get(client_id)?).map(|session| &**session)
    }

    /// Tells whether the connection that the session of this Client Identifier has, if any, may be ended for another one, and counts
    /// that if so. This is where two clients with one identifier are slowed down.
    pub(super) fn may_take_over(&mut self, client_id: &Arc<str>, now: Moment) -> bool {
        self.session_with_id(client_id).is_none_or(|session| session.connection.is_none())
            || self.takeovers.admit(client_id, now)
    }

    /// Ends the connection that the session of this Client Identifier has, if any ([MQTT-3.1.4-3]).
    fn take_over(
        &mut self,
        client_id: &Arc<str>,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(connection) = self.session_with_id(client_id).and_then(|session| session.connection) {
            self.close(connection, &CloseReason::Broker(BrokerReason::TakenOver), environment, effects);
        }
    }

    /// Does what the session's deadline asks for, if it has passed and the clock has not said so yet ([MQTT-3.1.2-23]).
    pub(super) fn end_if_due(&mut self, client_id: &Arc<str>, environment: &mut Environment<'_>) {
        let Some(session) = self.by_client_id.get(client_id).copied() else { return };
        let deadline = self.sessions.get(&session).and_then(|state| state.next_deadline());
        if deadline.is_some_and(|at| at <= environment.now) {
            self.session_deadline(session, environment);
        }
    }

    /// Refuses a connection that has arrived: it is an opening once more, which knows how to.
    pub(super) fn turn_away(
        &mut self,
        arrival: &Arrival,
        reason: &CloseReason,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let entrance = (arrival.request.entrance, Arc::clone(&arrival.request.offer));
        let mut opening = Opening::new(arrival.connection, &arrival.peer, entrance, arrival.accepted_at);
        opening.version = Some(arrival.request.version);
        opening.client_id = Some(Arc::clone(&arrival.request.client_id));
        opening.packet_bytes_max = arrival.request.packet_bytes_max;
        self.connections.insert(arrival.connection, Connection::Opening(Box::new(opening)));
        self.close(arrival.connection, reason, environment, effects);
    }

    /// Returns the session of a Client Identifier ([MQTT-3.1.3-2], [MQTT-3.1.2-5]), a new one if there is none ([MQTT-3.1.2-6]).
    fn session_of(&mut self, client_id: &Arc<str>) -> SessionId {
        if let Some(session) = self.by_client_id.get(client_id) {
            return *session;
        }
        let session = self.shared.next_session();
        let state = Session::new(session, Arc::clone(client_id));
        self.sessions.insert(session, Box::new(state));
        self.shared.session_began();
        self.by_client_id.insert(Arc::clone(client_id), session);
        session
    }

    /// Puts the session into the state that CONNECT asks for, and stores it if it will outlive the connection.
    fn adopt(&mut self, session: SessionId, arrival: &Arrival) {
        let request = &arrival.request;
        let expiry_seconds = self.session_expiry_seconds(request);
        let quota = request.receive_maximum.min(self.settings.inflight_max);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.connection = Some(arrival.connection);
        state.entrance = Some(request.entrance);
        state.authenticated = arrival.is_authenticated();
        state.user = arrival.user.clone();
        state.identity = arrival.identity.clone();
        state.show_certificate(arrival.certificate.clone());
        state.permissions = permissions_of(state, &self.access);
        state.disconnected_at = None;
        state.expiry_seconds = expiry_seconds;
        // [MQTT-3.1.2-7], [MQTT-3.1.3-9] The Will takes the place of one whose delay had not passed.
        state.will = request.will.clone();
        state.keeps_qos0 = false;
        if let Some(errand) = arrival.bridge {
            (state.outbound.last_identifier, state.keeps_qos0) = (errand.last_identifier, errand.keeps_qos0);
        }
        let only_subscribes = arrival.bridge.is_some_and(|errand| errand.only_subscribes);
        state.lacked_room &= only_subscribes;
        state.outbound.connected(if only_subscribes { 0 } else { quota });
        state.outbound.bound_bytes_in_flight(self.settings.inflight_bytes_max);
        // A session that was stored stays so until it ends; one without expiry interval never outlives its connection.
        state.durable |= expiry_seconds > 0;
        if state.durable {
            let head = state.head();
            self.records.push(head);
            self.store_exchanges_again(session);
        }
        self.gauges.sessions_connected += 1;
        // Its client may have come by another listener before, or other rules have been in force when the broker was stopped.
        self.end_lost_subscriptions(session);
        self.arm_session(session);
    }

    fn establish(
        &mut self,
        arrival: Arrival,
        session: SessionId,
        wire: Wire,
        channel: Option<Box<Channel>>,
        now: Moment,
    ) {
        let Arrival { connection, peer, promise, is_encrypted, request, proof_over_at, .. } = arrival;
        let offer = Arc::clone(&request.offer);
        let mut established = Established::new(connection, session, peer, offer, wire, now);
        established.promise = promise;
        established.is_encrypted = is_encrypted;
        established.proof_over_at = proof_over_at;
        established.channel = channel;
        established.wire.explains = self.settings.reason_strings
            && request.version == ProtocolVersion::V5
            && request.problem_information;
        established.is_bridge = request.is_bridge;
        established.keep_alive_seconds = self.keep_alive_seconds(&request);
        self.connections.insert(connection, Connection::Established(Box::new(established)));
        self.arm_established(connection);
        self.outgoing.dirty.push(connection);
        // Also what ended the session before this one: a crash must not bring back what the client has seen gone.
        if let Some(ticket) = self.ticket_to_await(connection, !self.records.is_empty()) {
            self.cork(connection, ticket);
        }
    }
}

/// Tells whether a handshake has shown that the client is there. Without records nothing could show it later.
fn is_proven(accepted: &ServerAccepted) -> bool {
    accepted.is_proven || accepted.protection.form != ChannelForm::Records
}
