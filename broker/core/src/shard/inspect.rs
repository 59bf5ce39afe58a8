//! What an operator may see of sessions and retained messages: who, how many, how large, and never a payload.
//!
//! Plain data, copied out, so that nobody holds on to a session. Every answer is bounded by what was asked for.

use std::collections::BinaryHeap;
use std::sync::Arc;

use veilmq_protocol::{ProtocolVersion, QoS, TopicFilter, TopicName};

use super::Shard;
use crate::connection::Connection;
use crate::effect::Effect;
use crate::farewell::{BrokerReason, CloseReason};
use crate::id::{ConnectionId, ShardIndex};
use crate::message::Message;
use crate::pressure::MemoryPressure;
use crate::record::SubscriptionRecord;
use crate::session::Session;
use crate::shared::Shared;
use crate::time::{Environment, Moment};

/// Which sessions are asked for; a page has the first of them in the order of their Client Identifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Only Client Identifiers behind this one.
    pub after: Option<String>,
    /// Only Client Identifiers that begin with this.
    pub prefix: String,
    /// Only sessions with a Network Connection, or only those without.
    pub connected: Option<bool>,
    /// The most sessions of a page.
    pub limit: usize,
}

/// A session in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSummary {
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// The user that the client has proved to be, or only says it is.
    pub user: Option<Arc<str>>,
    /// Whether the client has proved who it is.
    pub authenticated: bool,
    /// Whether the session is stored.
    pub durable: bool,
    /// The Session Expiry Interval, in seconds; `u32::MAX` never expires.
    pub expiry_seconds: u32,
    /// Subscriptions held.
    pub subscriptions: usize,
    /// Deliveries that wait.
    pub queued_messages: usize,
    /// Bytes of the deliveries that wait.
    pub queued_bytes: usize,
    /// Whether a message found no room since the client went away.
    pub lacked_room: bool,
    /// QoS 1 and 2 deliveries that await the client.
    pub inflight_messages: usize,
    /// The Will Topic, if a Will Message is still to be published.
    pub will_topic: Option<String>,
    /// Its Network Connection, if there is one.
    pub connection: Option<ConnectionSummary>,
}

/// The Network Connection of a session in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSummary {
    /// Where the client is.
    pub peer: Box<str>,
    /// The version of MQTT.
    pub version: ProtocolVersion,
    /// The keep alive in force, in seconds; 0 for none.
    pub keep_alive_seconds: u16,
    /// Whether packets travel on a VEIL-1 channel.
    pub channel: bool,
    /// Bytes that wait for the client to take them.
    pub unsent_bytes: usize,
}

/// One session, with what it subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDetail {
    /// What a list shows of it.
    pub summary: SessionSummary,
    /// The first of its subscriptions, in the order of their filters.
    pub subscriptions: Vec<(Arc<str>, SubscriptionRecord)>,
}

/// A retained message in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedSummary {
    /// The topic.
    pub topic: Arc<str>,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// Bytes that count for `retained_bytes_max`.
    pub bytes: usize,
    /// The QoS it was published with.
    pub qos: QoS,
    /// Seconds until it expires; None if it does not.
    pub expires_seconds: Option<u32>,
}

/// Part of the retained messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedPart {
    /// Those that the filter matches.
    pub messages: Vec<RetainedSummary>,
    /// The last topic that was looked at, if there may be more behind it.
    pub next: Option<Arc<str>>,
}

impl Shard {
    /// Returns the first sessions that a query asks for. It looks at every session of the shard.
    pub fn sessions(&self, query: &SessionQuery) -> Vec<SessionSummary> {
        let is_asked_for = |session: &&Session| {
            query.after.as_deref().is_none_or(|after| &*session.client_id > after)
                && session.client_id.starts_with(&query.prefix)
                && query.connected.is_none_or(|connected| connected == session.connection.is_some())
        };
        // The heap has its greatest on top, which gives way.
        let mut first: BinaryHeap<&Arc<str>> = BinaryHeap::new();
        for session in self.sessions.values().map(|session| &**session).filter(is_asked_for) {
            first.push(&session.client_id);
            if first.len() > query.limit {
                first.pop();
            }
        }
        let sorted = first.into_sorted_vec();
        sorted.into_iter().filter_map(|client_id| self.summary(client_id)).collect()
    }

    /// Returns one session with at most `subscriptions_max` of its subscriptions; None if there is none.
    pub fn session(&self, client_id: &str, subscriptions_max: usize) -> Option<SessionDetail> {
        let session = self.session_with_id(client_id)?;
        let subscriptions = session.subscriptions.iter().take(subscriptions_max);
        let subscriptions = subscriptions.map(|(filter, record)| (Arc::clone(filter), *record)).collect();
        Some(SessionDetail { summary: self.summary(client_id)?, subscriptions })
    }

    /// Returns the shard that has, or would have, the session of a Client Identifier.
    pub fn home(&self, client_id: &str) -> ShardIndex {
        self.shared.home(client_id)
    }

    /// Returns the user of an established connection, if it has one; None before CONNACK.
    pub fn user_on(&self, connection: ConnectionId) -> Option<Option<Arc<str>>> {
        let session = match self.connections.get(&connection)? {
            Connection::Established(established) => self.sessions.get(&established.session)?,
            Connection::Opening(_) | Connection::Proving(_) => return None,
        };
        Some(session.user.as_ref().map(|user| Arc::clone(&user.name)))
    }

    /// Tells whether a connection is established.
    pub fn is_established(&self, connection: ConnectionId) -> bool {
        matches!(self.connections.get(&connection), Some(Connection::Established(_)))
    }

    /// Returns how short memory is.
    pub fn memory(&self) -> MemoryPressure {
        self.shared.memory()
    }

    /// Ends the connection of a session because an operator says so, and the session too if `ends_session`.
    pub(super) fn dismiss(
        &mut self,
        client_id: &str,
        ends_session: bool,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((session, connection)) =
            self.session_with_id(client_id).map(|state| (state.id, state.connection))
        else {
            return;
        };
        if let Some(connection) = connection {
            self.close(connection, &CloseReason::Broker(BrokerReason::Dismissed), environment, effects);
        }
        // Without a Session Expiry Interval it has ended with its connection.
        if ends_session && self.sessions.contains_key(&session) {
            self.end_session(session, environment.now);
        }
    }

    fn summary(&self, client_id: &str) -> Option<SessionSummary> {
        let session = self.session_with_id(client_id)?;
        Some(SessionSummary {
            client_id: Arc::clone(&session.client_id),
            user: session.user.as_ref().map(|user| Arc::clone(&user.name)),
            authenticated: session.authenticated,
            durable: session.durable,
            expiry_seconds: session.expiry_seconds,
            subscriptions: session.subscriptions.len(),
            queued_messages: session.outbound.waiting(),
            queued_bytes: session.outbound.waiting_bytes(),
            lacked_room: session.lacked_room,
            inflight_messages: session.outbound.in_flight(),
            will_topic: session.will.as_ref().map(|will| will.topic.clone()),
            connection: session.connection.and_then(|connection| self.connection_summary(connection)),
        })
    }

    fn connection_summary(&self, connection: ConnectionId) -> Option<ConnectionSummary> {
        match self.connections.get(&connection)? {
            Connection::Established(established) => Some(ConnectionSummary {
                peer: established.peer.clone(),
                version: established.wire.version(),
                keep_alive_seconds: established.keep_alive_seconds,
                channel: established.channel.is_some(),
                unsent_bytes: established.wire.waiting_bytes(),
            }),
            Connection::Opening(_) | Connection::Proving(_) => None,
        }
    }
}

impl Shared {
    /// Looks at up to `look_at` retained messages of clients behind the topic `after`, and returns those that the filter matches.
    /// Nobody can retain a message meanwhile, so `look_at` should be some thousands.
    pub fn retained_part(
        &self,
        filter: Option<TopicFilter<'_>>,
        after: Option<&str>,
        look_at: usize,
        now: Moment,
    ) -> RetainedPart {
        let mut messages = Vec::new();
        let next = self.retained.walk(after, look_at, |topic, message| {
            let matches =
                filter.is_none_or(|filter| TopicName::new(topic).is_ok_and(|topic| filter.matches(topic)));
            if matches && !message.is_expired(now) {
                messages.push(summary_of(topic, message, now));
            }
        });
        RetainedPart { messages, next }
    }
}

fn summary_of(topic: &Arc<str>, message: &Message, now: Moment) -> RetainedSummary {
    RetainedSummary {
        topic: Arc::clone(topic),
        payload_bytes: message.payload().len(),
        bytes: message.size_bytes(),
        qos: message.qos(),
        expires_seconds: message.remaining_seconds(now),
    }
}
