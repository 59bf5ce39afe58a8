//! What has to do with who a client is: passwords that are checked elsewhere, whose a session is, and what is taken back.
//!
//! Invariant: nothing of a connection is looked at while its password is being checked, and what waits meanwhile is bounded.

use std::collections::HashMap;
use std::sync::Arc;

use veilmq_protocol::{TopicFilter, TopicName};

use super::enforce::reads_keys;
use super::publish::Publication;
use super::{About, Shard};
use crate::access::{
    AccessTables, Action, Asker, BRIDGES, CertificateFields, Names, Permissions, Proof, Verdict,
};
use crate::connection::{Arrival, Connection};
use crate::e2e::{DistributionRule, Member};
use crate::effect::{BridgeErrand, Effect};
use crate::farewell::{BrokerReason, CloseReason, PeerError};
use crate::id::{ConnectionId, SessionId};
use crate::message::Message;
use crate::record::Record;
use crate::session::Session;
use crate::source::Source;
use crate::standing::Standing;
use crate::time::Environment;

/// What a client may send ahead while its password is being checked: what one read of the driver brings.
pub(super) const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// What those may do whose retained messages one subscription brings, each looked up once.
pub(super) type Publishers = HashMap<Arc<Source>, Vec<Option<Box<Permissions>>>>;

impl Shard {
    /// Takes note of who a client is by what carries MQTT.
    pub(super) fn vouched(&mut self, connection: ConnectionId, user: &str) {
        if let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) {
            opening.vouched = Some(Arc::from(user));
        }
    }

    /// Takes note of what a client's certificate says.
    pub(super) fn certified(&mut self, connection: ConnectionId, certificate: Arc<CertificateFields>) {
        if let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) {
            opening.certificate = Some(certificate);
        }
    }

    /// Takes note that one of the broker's own bridges is the client.
    pub(super) fn bridged(&mut self, connection: ConnectionId, bridge: BridgeErrand, is_encrypted: bool) {
        if let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) {
            opening.vouched = Some(Arc::from(BRIDGES));
            opening.bridge = Some(bridge);
            opening.is_encrypted = is_encrypted;
        }
    }

    /// Goes on with a connection whose password has been checked, or whose voucher was asked for again. It may be gone by now.
    pub(super) fn verified(
        &mut self,
        connection: ConnectionId,
        verdict: Verdict,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let opening = match self.connections.get_mut(&connection) {
            Some(Connection::Opening(opening)) => opening,
            Some(Connection::Established(_)) => {
                return self.renewed(connection, verdict, environment, effects);
            }
            Some(Connection::Proving(_)) | None => return,
        };
        match opening.decide(verdict, &self.access, environment) {
            None => {}
            Some(Ok(arrival)) => {
                let unread = std::mem::take(&mut opening.partial);
                self.connections.remove(&connection);
                self.opened(arrival, &unread, environment, effects);
            }
            Some(Err(reason)) => self.close(connection, &reason, environment, effects),
        }
    }

    /// Tells why a client may not have the session with its Client Identifier, or may not be here at all. A session belongs to
    /// whoever proved who they are when it began.
    pub(super) fn refusal_of_stranger(&self, arrival: &Arrival) -> Option<PeerError> {
        // The password was checked against the users of now, of which this shard may not have been told yet.
        let access = self.shared.access();
        let access = access.of(arrival.request.entrance);
        if !access.admits(arrival.user.as_ref(), arrival.identity.is_some()) {
            return Some(access.bad_credentials());
        }
        let session = self.session_with_id(&arrival.request.client_id)?;
        if !session.authenticated {
            return None;
        }
        match (&session.user, &arrival.user) {
            // A certificate is proof of the Client Identifier itself.
            _ if arrival.identity.is_some() => None,
            (None, _) => Some(PeerError::SessionOfIdentity),
            (Some(owner), Some(user)) if user.is_proven() && user.name == owner.name => None,
            (Some(_), _) => Some(PeerError::SessionOfUser),
        }
    }

    /// Tells whether the session was made by somebody else than this client, who has proved that the session is its own. What such
    /// a session subscribed to and waits for is not this client's.
    pub(super) fn is_strangers(&self, arrival: &Arrival) -> bool {
        let Some(session) = self.session_with_id(&arrival.request.client_id) else { return false };
        arrival.is_authenticated()
            && (!session.authenticated || session.user.is_some() != arrival.user.is_some())
    }

    /// Tells why a client may not have the Will Message it came with.
    pub(super) fn refusal_of_will(&self, arrival: &Arrival) -> Option<PeerError> {
        let will = arrival.request.will.as_ref()?;
        let topic = TopicName::new(&will.topic).ok()?;
        let mut permissions = self.access.of(arrival.request.entrance).permissions(arrival.asker())?;
        let is_allowed = permissions.allow_publish(topic);
        self.stats.acl_checked(Action::Publish, is_allowed);
        (!is_allowed).then_some(PeerError::NotAuthorized("the Will Topic is not this client's to publish to"))
    }

    /// Tells whether a session may publish to a topic now.
    pub(super) fn may_publish(&mut self, session: SessionId, topic: TopicName<'_>) -> bool {
        !self.access.has_rules() || self.ask_for_publishing(session, topic)
    }

    /// Kept out of the way of publications where there are no rules.
    #[inline(never)]
    fn ask_for_publishing(&mut self, session: SessionId, topic: TopicName<'_>) -> bool {
        let Some(state) = self.sessions.get_mut(&session) else { return true };
        let Some(permissions) = &mut state.permissions else { return true };
        let is_allowed = permissions.allow_publish(topic);
        self.stats.acl_checked(Action::Publish, is_allowed);
        is_allowed
    }

    /// Returns whose a message is that is to be retained, if that will be asked.
    pub(super) fn source_of(&mut self, publication: &Publication<'_>) -> Option<Arc<Source>> {
        if !self.settings.check_retained_source || publication.payload.is_empty() {
            return None;
        }
        let session = self.sessions.get_mut(&publication.publisher?)?;
        let listener = session.entrance.and_then(|entrance| self.settings.entrance_name(entrance));
        let needs_certificate =
            session.entrance.is_some_and(|entrance| self.access.needs_certificates(entrance));
        Some(Arc::clone(session.source(listener, needs_certificate)))
    }

    /// Tells whether a retained message may still be sent to anybody: whoever published it might do so now. One whose publisher is
    /// not known may, and so may what the broker says of itself.
    pub(super) fn may_still_be_retained(&self, message: &Message, publishers: &mut Publishers) -> bool {
        let Some(source) = message.source() else { return true };
        if !self.access.has_rules() || !self.settings.check_retained_source {
            return true;
        }
        let Ok(topic) = TopicName::new(message.topic()) else { return true };
        let permissions =
            publishers.entry(Arc::clone(source)).or_insert_with(|| self.permissions_of_source(source));
        let mut allow = permissions.iter_mut().map(|permissions| {
            permissions.as_mut().is_none_or(|permissions| permissions.allow_publish(topic))
        });
        let is_allowed = allow.any(|is_allowed| is_allowed);
        self.stats.acl_checked(Action::Publish, is_allowed);
        is_allowed
    }

    /// Returns what whoever a retained message is of may do now: anything that one of the answers allows; None is everything.
    fn permissions_of_source(&self, source: &Source) -> Vec<Option<Box<Permissions>>> {
        let entrance = source.listener.as_ref().and_then(|name| self.settings.entrance_named(name));
        let standing = match source.is_vouched && self.access.are_brought_by_vouchers(entrance) {
            true => self.shared.retained.standing(source),
            // Nobody vouches any more for what clients of that listener may do.
            false => Standing::OfListener,
        };
        let rules = match &standing {
            Standing::Unknown => return vec![None],
            Standing::Withdrawn => return Vec::new(),
            Standing::OfListener => None,
            Standing::Rules(rules) => Some(rules),
        };
        let names = Names {
            user: source.user.as_deref(),
            client_id: &source.client_id,
            certificate: source.certificate.as_deref(),
        };
        self.access.permissions_of_absent(entrance, Asker { names, rules })
    }

    /// Takes note of what a session's client may do now, for what it has retained and will retain.
    pub(super) fn tell_standing(&self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        if !self.access.are_brought_by_vouchers(state.entrance) {
            return;
        }
        let Some(user) = &state.user else { return };
        let standing = match (&user.proof, user.rules()) {
            (Proof::Withdrawn, _) => Standing::Withdrawn,
            (_, Some(rules)) => Standing::Rules(rules.clone()),
            (_, None) => Standing::OfListener,
        };
        let owner = (Some(Arc::clone(&user.name)), Arc::clone(&state.client_id));
        self.shared.retained.say(&owner, standing);
    }

    /// Takes note of what may be done by whom a message is of that was retained now.
    pub(super) fn tell_standing_of(&self, message: &Message) {
        let source = message.source().filter(|source| source.is_vouched);
        if let Some(session) = source.and_then(|source| self.by_client_id.get(&source.client_id)) {
            self.tell_standing(*session);
        }
    }

    /// Tells whether a session may have the Will Message published that is due: it may publish to the topic, and its client would
    /// still be let in.
    pub(super) fn may_have_will(&mut self, session: SessionId, topic: TopicName<'_>) -> bool {
        let Some(state) = self.sessions.get(&session) else { return true };
        let would_be_let_in =
            state.is_admitted(&self.access) && self.is_still_trusted(state.identity.as_deref());
        would_be_let_in && self.may_publish(session, topic)
    }

    /// Tells whether a session may subscribe to a filter now; of a Shared Subscription it is the one behind the group.
    pub(super) fn may_subscribe(&self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        let permissions = self.sessions.get(&session).and_then(|state| state.permissions.as_ref());
        let Some(permissions) = permissions else { return true };
        let is_allowed = permissions.allow_subscribe(filter);
        self.stats.acl_checked(Action::Subscribe, is_allowed);
        is_allowed
    }

    /// Tells whether a session may unsubscribe from a filter now. MQTT 3 has no word for a refusal, so there it may.
    pub(super) fn may_unsubscribe(&self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        let permissions = self.sessions.get(&session).and_then(|state| state.permissions.as_ref());
        permissions.is_none_or(|permissions| permissions.allow_unsubscribe(filter))
    }

    /// Goes by the tables that are in force now: sessions may do what these say, and clients that are let in no more are told so.
    /// What waits for a session, or is in flight, is looked at when its turn comes.
    pub(super) fn access_changed(&mut self, environment: &mut Environment<'_>, effects: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.access, self.shared.access());
        self.settings_changed();
        let (mut revoked, mut lost) = (Vec::new(), Vec::new());
        for state in self.sessions.values_mut() {
            state.permissions = permissions_of(state, &self.access);
            let is_unseated = |entrance| before.unseats(entrance, state.user_name(), &self.access);
            let is_trusted = |member: &Arc<Member>| self.shared.with_trust(|trust| member.is_trusted(trust));
            let is_gone = |entrance| !self.settings.entrance(entrance).is_open;
            let reason = match state.entrance.is_some_and(is_unseated) {
                _ if state.entrance.is_some_and(is_gone) => Some(BrokerReason::ListenerGone),
                true => Some(BrokerReason::Unseated),
                false if !state.identity.as_ref().is_none_or(is_trusted) => Some(BrokerReason::Distrusted),
                false => (!state.is_admitted(&self.access)).then_some(BrokerReason::Revoked),
            };
            revoked.extend(reason.and_then(|reason| Some((state.connection?, reason))));
            lost.extend(lost_subscriptions(state, &self.access));
        }
        revoked.sort_unstable_by_key(|(connection, _)| *connection);
        for (connection, reason) in revoked {
            self.close(connection, &CloseReason::Broker(reason), environment, effects);
        }
        for (session, filter) in lost {
            self.end_subscription(session, &filter);
        }
    }

    /// Goes by the limits and capabilities that are in force now.
    fn settings_changed(&mut self) {
        self.settings = self.shared.settings();
        self.takeovers.allow(self.settings.takeovers_per_minute_max);
        self.outgoing.settings = Arc::clone(&self.settings);
    }

    /// Ends what a session has subscribed to and may not any more.
    pub(super) fn end_lost_subscriptions(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        for (session, filter) in lost_subscriptions(state, &self.access) {
            self.end_subscription(session, &filter);
        }
    }

    /// Ends a subscription that the session may not have any more.
    fn end_subscription(&mut self, session: SessionId, filter: &Arc<str>) {
        // It may have ended with its connection.
        let About { client, user, peer } = About::session(session, &self.sessions, &self.connections);
        tracing::info!(client, user, peer, filter = &**filter, "subscription ended: not authorised any more");
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Ok(parsed) = TopicFilter::new(filter) else { return };
        state.subscriptions.remove(filter);
        let (connection, durable) = (state.connection, state.durable);
        self.forget_subscription(session, connection, parsed);
        if durable {
            self.records.push(Record::Unsubscribed { session, filter: Arc::clone(filter) });
        }
    }
}

/// Returns the subscriptions of a session that it may not have any more.
fn lost_subscriptions(session: &Session, access: &AccessTables) -> Vec<(SessionId, Arc<str>)> {
    // Who a client is that is away is known when it comes back; until then it reads nothing.
    let is_held_to_keys =
        access.policies().distribution == DistributionRule::Enforce && session.connection.is_some();
    if session.permissions.is_none() && !is_held_to_keys {
        return Vec::new();
    }
    let may_keep = |filter: TopicFilter<'_>| {
        session.permissions.as_ref().is_none_or(|permissions| permissions.keep_subscription(filter))
            && (!is_held_to_keys || reads_keys(session, filter))
    };
    let is_lost = |filter: &&Arc<str>| TopicFilter::new(filter).is_ok_and(|filter| !may_keep(filter));
    session.subscriptions.keys().filter(is_lost).map(|filter| (session.id, Arc::clone(filter))).collect()
}

/// Returns what the client of a session may do; None if that is everything.
pub(super) fn permissions_of(session: &Session, access: &AccessTables) -> Option<Box<Permissions>> {
    access.permissions(session.entrance, session.asker())
}
