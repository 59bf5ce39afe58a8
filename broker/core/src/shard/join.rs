//! Joins that come with CONNECT: the request goes to its issuer, and CONNACK waits a little for the answer (VEIL-1 section 9.1; the paper's
//! steps 5 to 14).
//!
//! What is asked and answered is sealed between member and issuer; the broker is a messenger, and a filter: it passes on what the client
//! may subscribe to. Invariant: a connection never depends on an issuer, whose answer may come later by other ways.

use std::sync::Arc;

use veilmq_protocol::veil::Kid;
use veilmq_protocol::veil::distribution::{DistributionTopic, JoinRequest, JoinResponse};
use veilmq_protocol::veil::hello::Wait;
use veilmq_protocol::{Packet, PacketType, PublishProperties, QoS, ReasonCode, TopicFilter, TopicName};

use super::Shard;
use super::publish::Publication;
use super::timer::Timer;
use crate::access::Action;
use crate::connection::{Arrival, Connection, JoinOutcome, Joining, auth_packet};
use crate::e2e::{Inspected, Passed, Writer};
use crate::effect::{Effect, Parcel};
use crate::id::{ConnectionId, SessionId};
use crate::stats::JoinResult;
use crate::time::{Environment, Moment};

impl Shard {
    /// Passes a client's JOIN_REQ on, if it may have what it asks for, and lets it wait. Otherwise it goes on at once.
    pub(super) fn begin_join(
        &mut self,
        connection: ConnectionId,
        arrival: Box<Arrival>,
        request: &[u8],
        unread: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (mut arrival, outcome) = match self.permitted(&arrival, request, environment.unix_ms) {
            None => (arrival, JoinOutcome::Refused),
            Some(request) => match self.wait_for_issuer(connection, arrival, &request, environment) {
                Ok(()) => return,
                Err(arrival) => (arrival, JoinOutcome::Pending),
            },
        };
        arrival.join = Some(outcome);
        self.connections.remove(&connection);
        self.joined(arrival, unread, environment, effects);
    }

    /// Checks that a request is the client's own, as if it had published it, and for a scope that it may subscribe to.
    fn permitted(&self, arrival: &Arrival, request: &[u8], unix_ms: u64) -> Option<JoinRequest> {
        let parsed = JoinRequest::parse(request).ok()?;
        let topic = DistributionTopic::Join { issuer: parsed.issuer }.to_string();
        let message = Inspected {
            topic: TopicName::new(&topic).ok()?,
            payload: request,
            retain: false,
            properties: &PublishProperties::default(),
        };
        let writer = Writer::Client(arrival.identity.as_deref());
        let passed = self.shared.with_ledger(unix_ms, |ledger| ledger.verify(&message, writer)).ok()?;
        let Passed::Join(scope) = passed else { return None };
        let filter = TopicFilter::new(&scope).ok()?;
        let access = self.access.of(arrival.request.entrance);
        let Some(permissions) = access.permissions(arrival.asker()) else {
            return Some(parsed);
        };
        let is_allowed = permissions.allow_subscribe(filter);
        self.stats.acl_checked(Action::Subscribe, is_allowed);
        is_allowed.then_some(parsed)
    }

    /// Publishes a request for its issuer and sends WAIT; gives the arrival back if nobody is there to answer.
    fn wait_for_issuer(
        &mut self,
        connection: ConnectionId,
        arrival: Box<Arrival>,
        request: &JoinRequest,
        environment: &Environment<'_>,
    ) -> Result<(), Box<Arrival>> {
        let now = environment.now;
        let milliseconds = self.shared.veil().map_or(0, |veil| veil.join_milliseconds);
        // The client has time left to answer WAIT in.
        let left = arrival.connect_deadline().since(now) / 2;
        let over_at = now + u64::from(milliseconds).min(left);
        let asked = (request.certificate.kid(), request.nonce);
        let place = (self.index, connection);
        let Some(under_way) = self.shared.joins.begin(asked, request.issuer, place) else {
            return Err(arrival);
        };
        if !self.forward(request, milliseconds.div_ceil(1_000), now) {
            return Err(arrival);
        }
        let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) else {
            return Err(arrival);
        };
        let wait = Wait::Asked.to_bytes();
        let before = opening.outbox.len_bytes();
        let auth = Packet::Auth(auth_packet(ReasonCode::ContinueAuthentication, &wait));
        if opening.send(&auth, arrival.request.version).is_err() {
            return Err(arrival);
        }
        let written = opening.outbox.len_bytes() - before;
        opening.wait_for_issuer(Joining::new(arrival, now, over_at, under_way));
        self.timers.insert((over_at, Timer::Connection(connection)));
        self.count_sent(PacketType::Auth, written);
        self.outgoing.dirty.push(connection);
        Ok(())
    }

    /// Publishes a request; false if nobody has subscribed to it.
    fn forward(&mut self, request: &JoinRequest, seconds: u32, now: Moment) -> bool {
        let topic = DistributionTopic::Join { issuer: request.issuer }.to_string();
        let answers = DistributionTopic::JoinResponse { member: request.certificate.kid() }.to_string();
        let (Ok(topic), Ok(response_topic)) = (TopicName::new(&topic), TopicName::new(&answers)) else {
            return false;
        };
        let properties = PublishProperties {
            response_topic: Some(response_topic),
            correlation_data: Some(&request.nonce),
            ..PublishProperties::default()
        };
        let mut application_properties = Vec::new();
        if properties.encode_application(&mut application_properties).is_err() {
            return false;
        }
        let publication = Publication {
            publisher: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            application_properties: &application_properties,
            payload: request.as_bytes(),
            message_expiry_seconds: Some(seconds),
            refusable: true,
        };
        self.publish(&publication, now).unwrap_or(false)
    }

    /// Hands an issuer's JOIN_RSP to the connection that waits for it, if one does.
    #[inline(never)]
    pub(super) fn answer_join(&mut self, session: SessionId, topic: TopicName<'_>, payload: &[u8]) {
        let Some(DistributionTopic::JoinResponse { member }) = DistributionTopic::parse(topic.as_str())
        else {
            return;
        };
        let Ok((response, _)) = JoinResponse::parse(payload) else { return };
        let Some((issuer, (shard, connection))) = self.shared.joins.find(member, response.request_nonce)
        else {
            return;
        };
        if self.kid_of(session).is_some_and(|kid| kid != issuer) {
            return;
        }
        let response = Arc::from(payload);
        match shard == self.index {
            true => self.joined.push((connection, response)),
            false => self.parcels.push((shard, Parcel::Joined { connection, response })),
        }
    }

    fn kid_of(&self, session: SessionId) -> Option<Kid> {
        Some(self.sessions.get(&session)?.identity.as_ref()?.kid)
    }

    /// Lets clients go on whose issuer has answered in this turn, on this shard.
    pub(super) fn conclude_joins(&mut self, environment: &mut Environment<'_>, effects: &mut Vec<Effect>) {
        if self.joined.is_empty() {
            return;
        }
        for (connection, response) in std::mem::take(&mut self.joined) {
            self.conclude_join(connection, JoinOutcome::Done(response), environment, effects);
        }
    }

    /// Lets a client go on once it has answered WAIT, with an answer of its issuer or without.
    pub(super) fn conclude_join(
        &mut self,
        connection: ConnectionId,
        outcome: JoinOutcome,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) else { return };
        let over_at = opening.join_over_at();
        if let Some(arrival) = opening.conclude_join(outcome) {
            let unread = std::mem::take(&mut opening.partial);
            self.disarm_join(connection, over_at);
            self.connections.remove(&connection);
            self.joined(arrival, &unread, environment, effects);
        }
    }

    /// Goes on after a join, whatever became of it.
    pub(super) fn joined(
        &mut self,
        arrival: Box<Arrival>,
        unread: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.stats.join(match &arrival.join {
            None | Some(JoinOutcome::Refused) => JoinResult::Refused,
            Some(JoinOutcome::Pending) => JoinResult::Pending,
            Some(JoinOutcome::Done(_)) => JoinResult::Answered,
        });
        if let Some(began_at) = arrival.join_began_at {
            self.shared.note_join(environment.now.since(began_at));
        }
        self.opened(arrival, unread, environment, effects);
    }

    /// Takes the deadline of a join away.
    pub(super) fn disarm_join(&mut self, connection: ConnectionId, over_at: Option<Moment>) {
        if let Some(over_at) = over_at {
            self.timers.remove(&(over_at, Timer::Connection(connection)));
        }
    }
}
