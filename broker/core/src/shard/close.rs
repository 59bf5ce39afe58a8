//! The end of connections and sessions, and the Will Messages that go with it.

use std::fmt;

use veilmq_protocol::{Packet, TopicFilter, TopicName};

use super::publish::Publication;
use super::{About, Shard};
use crate::connection::{Connection, Established, Opening, Wire};
use crate::effect::Effect;
use crate::farewell::{CloseLabel, CloseReason, PeerError};
use crate::id::{ConnectionId, SessionId};
use crate::outbox::Outbox;
use crate::record::Record;
use crate::stats::DropReason;
use crate::time::{Environment, Moment};
use crate::waiting::Waiting;

impl Shard {
    /// Ends a connection for a reason: says farewell, lets go of the session, forgets the connection.
    pub(super) fn close(
        &mut self,
        connection: ConnectionId,
        reason: &CloseReason,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.connections.remove(&connection) else { return };
        self.stats.connection_closed(reason.label());
        let outbox = match state {
            Connection::Opening(opening) => self.refuse(*opening, reason, environment.now),
            Connection::Proving(proving) => self.refuse_unproven(*proving, reason),
            Connection::Established(established) => self.part(*established, reason, environment),
        };
        // [MQTT-3.2.2-7], [MQTT-3.14.4-1], [MQTT-3.14.4-2], [MQTT-4.13.2-1] What is in the outbox is the last of it.
        effects.push(Effect::Close { connection, outbox });
    }

    /// Refuses a connection that is not established.
    fn refuse(&mut self, mut opening: Opening, reason: &CloseReason, now: Moment) -> Outbox {
        if let Some(suppressed) = self.refusals.admit(now) {
            let (cause, code) = (reason.label().name(), reason.code());
            let client = opening.client_id.as_deref();
            let user = opening.claimed.as_deref();
            macro_rules! refused {
                (target: $target:expr) => {
                    tracing::info!(
                        target: $target, peer = %opening.peer, client, user, %reason, cause, code, suppressed, "connection refused"
                    )
                };
            }
            match reason.label() {
                // Nobody refused it: it left, as probes do.
                CloseLabel::Closed => refused!(target: crate::CONNECTION_LINES),
                _ => refused!(target: module_path!()),
            }
        }
        self.disarm_connect(opening.connection, opening.connect_deadline());
        self.disarm_join(opening.connection, opening.join_over_at());
        if opening.is_half_open() {
            self.stats.handshake(false);
        }
        if let Some(version) = opening.version
            && let Some(notice) = reason.notice(&self.settings)
            && let before = opening.outbox.len_bytes()
            && let Some(packet) =
                notice.refusals(version).find(|packet| opening.send(packet, version).is_ok())
        {
            self.count_sent(packet.packet_type(), opening.outbox.len_bytes() - before);
        }
        opening.outbox
    }

    fn part(
        &mut self,
        mut established: Established,
        reason: &CloseReason,
        environment: &mut Environment<'_>,
    ) -> Outbox {
        let connection = established.connection;
        self.release_all(connection, established.session, environment.now);
        if let Some(at) = established.timer_at {
            self.timers.remove(&(at, super::timer::Timer::Connection(connection)));
        }
        let session = self.sessions.get(&established.session);
        if let Some(state) = session {
            self.shared.presence.left(state.user_name(), connection);
        }
        tracing::info!(
            target: crate::CONNECTION_LINES,
            connection = connection.0,
            peer = %established.peer,
            client = session.map(|state| &*state.client_id),
            user = session.and_then(|state| state.told_user()),
            %reason,
            cause = reason.label().name(),
            code = reason.code(),
            "disconnected"
        );
        // A re-authentication that was under way, or could not even begin, has failed.
        if established.exchange_over_at().is_some()
            || matches!(reason, CloseReason::Peer(PeerError::Handshake(_)))
        {
            self.stats.handshake(false);
        }
        if established.wire.group().is_some() {
            self.outgoing.groups.leave_all(connection);
        }
        self.detach(established.session, reason, environment.now);
        // CONNACK that waits for a commit may not go out, so nothing behind it may either ([MQTT-3.14.0-1]).
        if established.corked_until.is_some() {
            return Outbox::default();
        }
        self.say_farewell(connection, &mut established.wire, reason);
        established.wire.into_outbox()
    }

    /// Sends DISCONNECT, if there is something to say. A broken channel gets no answer (VEIL-1 section 16).
    pub(super) fn say_farewell(&self, connection: ConnectionId, wire: &mut Wire, reason: &CloseReason) {
        self.say_goodbye(connection, wire, reason);
        if !matches!(reason, CloseReason::Peer(PeerError::Record(_)))
            && let Some(notice) = reason.notice(&self.settings)
            && let Some((packet, bytes)) =
                notice.farewells(wire.version()).find_map(|packet| Some((packet, wire.send(&packet).ok()?)))
        {
            self.count_sent(packet.packet_type(), bytes);
        }
    }

    /// Takes the connection from a session: the session waits, or ends if its expiry interval is zero ([MQTT-4.1.0-2]).
    fn detach(&mut self, session: SessionId, reason: &CloseReason, now: Moment) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.connection = None;
        state.disconnected_at = Some(now);
        let outlives_connection = state.expiry_seconds > 0;
        let keeps_qos0 = outlives_connection && (state.keeps_qos0 || self.settings.queue_qos0);
        self.gauges.sessions_connected -= 1;
        let memory_bytes_max = self.memory_of_disconnected();
        let dropped =
            self.change_queue(session, |outbound| outbound.disconnected(memory_bytes_max, keeps_qos0));
        self.stats.messages_dropped(DropReason::Unassured, dropped);
        self.show_availability(session, now);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if !reason.publishes_will() {
            // [MQTT-3.14.4-3]
            state.will = None;
        }
        if state.expiry_seconds == 0 {
            self.end_session(session, now);
            return;
        }
        if state.durable {
            let head = state.head();
            self.records.push(head);
        }
        if state.will_at().is_some_and(|at| at <= now) {
            self.publish_will(session, now);
        }
        self.arm_session(session);
    }

    /// Publishes the Will Message of a session, once ([MQTT-3.1.2-10]).
    pub(super) fn publish_will(&mut self, session: SessionId, now: Moment) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        // [MQTT311-3.1.2-12]
        let Some(will) = state.will.take() else { return };
        if state.durable {
            let head = state.head();
            self.records.push(head);
        }
        let Ok(topic) = TopicName::new(&will.topic) else { return };
        if !self.may_have_will(session, topic) {
            self.stats.messages_dropped(DropReason::NotAuthorized, 1);
            self.tell_refused_will(session, topic, &"not authorised any more");
            return;
        }
        if let Some(refusal) = self.refusal_of_due_will(topic, &will) {
            self.tell_refused_will(session, topic, &refusal);
            return;
        }
        let publication = Publication {
            publisher: Some(session),
            qos: self.outgoing_qos(will.qos),
            // [MQTT-3.1.2-14], [MQTT-3.1.2-15]
            retain: will.retain,
            topic,
            // [MQTT-3.1.3-10]
            application_properties: &will.application_properties,
            payload: &will.payload,
            message_expiry_seconds: will.message_expiry_seconds,
            refusable: false,
        };
        if let Err(reason) = self.publish(&publication, now) {
            self.tell_refused_will(session, topic, &reason);
        }
    }

    fn tell_refused_will(&self, session: SessionId, topic: TopicName<'_>, reason: &dyn fmt::Display) {
        // Its connection is gone.
        let About { client, user, .. } = About::session(session, &self.sessions, &self.connections);
        tracing::info!(topic = topic.as_str(), client, user, %reason, "will message refused");
    }

    /// Ends a session: its Will is published, its subscriptions and its references to messages are gone.
    pub(super) fn end_session(&mut self, session: SessionId, now: Moment) {
        if let Some(state) = self.sessions.get(&session) {
            state.withdraw();
        }
        self.publish_will(session, now);
        let Some(state) = self.sessions.remove(&session) else { return };
        self.shared.session_ended();
        if let Some(at) = state.timer_at {
            self.timers.remove(&(at, super::timer::Timer::Session(session)));
        }
        if let Some(at) = state.queue_timer_at {
            self.timers.remove(&(at, super::timer::Timer::Queue(session)));
        }
        self.by_client_id.remove(&state.client_id);
        self.walks.forget_all(session);
        self.gauges.subscriptions -= state.subscriptions.len();
        self.gauges.shared_subscriptions -= state.shared_subscriptions();
        for filter in state.subscriptions.keys() {
            if let Ok(filter) = TopicFilter::new(filter) {
                self.shared.routes.unsubscribe(filter, session);
            }
        }
        self.gauges.queued_messages -= state.outbound.waiting();
        self.gauges.queued_bytes -= state.outbound.waiting_bytes();
        self.gauges.queued_memory_bytes -= state.outbound.memory_bytes();
        self.gauges.inflight_messages -= state.outbound.in_flight();
        if state.durable {
            // It removes the references themselves, but for those of groups.
            self.records.push(Record::SessionEnded { session });
        }
        let mut left_behind = Vec::new();
        for (waiting, is_transferable) in state.outbound.into_assured() {
            match waiting.share() {
                None => self.release_body(&waiting),
                Some(_) if is_transferable => left_behind.push(waiting),
                Some(_) => self.settle(session, &waiting),
            }
        }
        self.bequeath(session, left_behind, now);
        tracing::debug!(client = &*state.client_id, session = session.0, "session ended");
    }

    /// Records that a session has no more need of a message.
    pub(super) fn settle(&mut self, session: SessionId, waiting: &Waiting) {
        if let Some(message) = waiting.stored_id() {
            self.records.push(Record::Settled { session, message });
            self.release_body(waiting);
        }
    }

    /// Gives up a reference to a stored body; the last one forgets it.
    fn release_body(&mut self, waiting: &Waiting) {
        if let Some(message) = waiting.stored_id()
            && waiting.release_reference()
        {
            self.records.push(Record::Forgotten { message });
        }
    }

    /// Answers a packet that the client may not send now.
    pub(super) fn unexpected(packet: &Packet<'_>) -> CloseReason {
        PeerError::Unexpected { got: packet.packet_type() }.into()
    }
}
