//! From records back to a broker: the durable state, and the shards made of it.
//!
//! Invariant: applying the records of a run in order gives the state that the run had, and visiting a state gives records
//! that rebuild it.

use core::sync::atomic::AtomicU32;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use veilmq_protocol::{PacketId, QoS, TopicFilter};

use crate::id::{MessageId, SessionId, ShardIndex};
use crate::in_flight::Progress;
use crate::message::Message;
use crate::record::{Record, Reference, SessionRecord, Stage, SubscriptionRecord};
use crate::session::Session;
use crate::shard::Shard;
use crate::shared::Shared;
use crate::time::Moment;
use crate::waiting::{StoredHead, Stub, Waiting};

/// The durable state of a broker, whatever the number of shards.
#[derive(Debug, Default)]
pub struct Recovery {
    sessions: BTreeMap<SessionId, Stored>,
    bodies: BTreeMap<MessageId, Body>,
    /// Bodies are held, not just known of.
    holds_bodies: bool,
    retained: BTreeMap<Arc<str>, Arc<Message>>,
}

/// What is known of a stored message.
#[derive(Debug)]
struct Body {
    head: StoredHead,
    message: Option<Arc<Message>>,
}

/// What is stored of one session; its head may be missing if rows were damaged.
#[derive(Debug, Default)]
struct Stored {
    head: Option<SessionRecord>,
    subscriptions: BTreeMap<Arc<str>, SubscriptionRecord>,
    references: BTreeMap<MessageId, Reference>,
    received: BTreeSet<PacketId>,
}

impl Stored {
    /// Tells whether nothing is left of an ended session.
    fn is_empty(&self) -> bool {
        let Self { head, subscriptions, references, received } = self;
        head.is_none() && subscriptions.is_empty() && references.is_empty() && received.is_empty()
    }
}

/// How much was recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverySummary {
    /// Sessions.
    pub sessions: usize,
    /// Subscriptions of all sessions.
    pub subscriptions: usize,
    /// Deliveries that wait or are in flight.
    pub deliveries: usize,
    /// Retained messages.
    pub retained: usize,
}

impl Recovery {
    /// Makes an empty state. Of the bodies of messages that sessions wait for it keeps only what is needed until they are read
    /// back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty state that holds bodies too.
    pub(crate) fn holding_bodies() -> Self {
        Self { holds_bodies: true, ..Self::default() }
    }

    /// Applies one record.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Session(head) => {
                let stored = self.sessions.entry(head.session).or_default();
                stored.head = Some(head);
            }
            Record::SessionEnded { session } => self.end(session),
            Record::Subscribed { session, filter, subscription } => {
                self.sessions.entry(session).or_default().subscriptions.insert(filter, subscription);
            }
            Record::Unsubscribed { session, filter } => {
                if let Some(stored) = self.sessions.get_mut(&session) {
                    stored.subscriptions.remove(&filter);
                }
            }
            Record::Published { message, references } => {
                let Some(head) = StoredHead::of(&message) else { return };
                for reference in references {
                    self.refer(head.id, reference);
                }
                let message = Some(message).filter(|_| self.holds_bodies);
                self.bodies.insert(head.id, Body { head, message });
            }
            Record::Forgotten { message } => {
                self.bodies.remove(&message);
            }
            Record::Advanced { reference, message } => self.refer(message, reference),
            Record::Settled { session, message } => {
                if let Some(stored) = self.sessions.get_mut(&session) {
                    stored.references.remove(&message);
                    if stored.is_empty() {
                        self.sessions.remove(&session);
                    }
                }
            }
            Record::Received { session, packet_id } => {
                self.sessions.entry(session).or_default().received.insert(packet_id);
            }
            Record::Released { session, packet_id } => {
                if let Some(stored) = self.sessions.get_mut(&session) {
                    stored.received.remove(&packet_id);
                }
            }
            Record::Retained { message } => {
                self.retained.insert(Arc::from(message.topic()), message);
            }
            Record::RetainedCleared { topic } => {
                self.retained.remove(&topic);
            }
        }
    }

    /// Ends a session; what it has as a member of groups stays until it is settled.
    fn end(&mut self, session: SessionId) {
        let Some(mut ended) = self.sessions.remove(&session) else { return };
        ended.references.retain(|_, reference| reference.share.is_some());
        if !ended.references.is_empty() {
            self.sessions.insert(session, Stored { references: ended.references, ..Stored::default() });
        }
    }

    /// A session that is not known any more needs nothing: its end may have been stored by another shard before. What it had as
    /// a member of a group is for another one.
    fn refer(&mut self, message: MessageId, reference: Reference) {
        let stored = match reference.share {
            Some(_) => Some(self.sessions.entry(reference.session).or_default()),
            None => self.sessions.get_mut(&reference.session),
        };
        if let Some(stored) = stored {
            stored.references.insert(message, reference);
        }
    }

    /// Returns a stored body.
    pub(crate) fn body(&self, message: MessageId) -> Option<&Arc<Message>> {
        self.bodies.get(&message)?.message.as_ref()
    }

    /// Visits the state as records in their normal form, as far as it is held.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(Record)) {
        for (session, stored) in &self.sessions {
            let session = *session;
            if let Some(head) = &stored.head {
                visit(Record::Session(head.clone()));
            }
            for (filter, subscription) in &stored.subscriptions {
                let (filter, subscription) = (Arc::clone(filter), *subscription);
                visit(Record::Subscribed { session, filter, subscription });
            }
        }
        for (id, body) in &self.bodies {
            let Some(message) = &body.message else { continue };
            let references = self.sessions.values().filter_map(|stored| stored.references.get(id).cloned());
            visit(Record::Published { message: Arc::clone(message), references: references.collect() });
        }
        for (session, stored) in &self.sessions {
            for packet_id in &stored.received {
                visit(Record::Received { session: *session, packet_id: *packet_id });
            }
        }
        for message in self.retained.values() {
            visit(Record::Retained { message: Arc::clone(message) });
        }
    }

    /// Makes the shards of a broker, and the records that clean up: sessions that were connected count as disconnected `now`,
    /// and what nobody refers to is forgotten.
    pub fn into_shards(
        mut self,
        shared: &Arc<Shared>,
        now: Moment,
    ) -> (Vec<Shard>, Vec<Record>, RecoverySummary) {
        let mut shards: Vec<Shard> = (0..shared.settings().shards.max(1))
            .map(|index| Shard::new(ShardIndex(index), Arc::clone(shared)))
            .collect();
        let mut cleanup = Vec::new();
        let mut summary = RecoverySummary::default();
        if let Some((last, _)) = self.sessions.last_key_value() {
            shared.sessions.skip_past(last.0);
        }
        if let Some((last, _)) = self.bodies.last_key_value() {
            shared.messages.skip_past(last.0);
        }
        let ownerless = self.end_sessions(&mut cleanup);
        let absent = self.count_references(&ownerless, &mut cleanup);
        for (id, stored) in std::mem::take(&mut self.sessions) {
            let Some(session) = self.session(id, stored, &absent, now, &mut cleanup, &mut summary) else {
                continue;
            };
            let home = usize::from(shared.home(&session.client_id).0);
            if let Some(shard) = shards.get_mut(home) {
                shard.adopt_recovered(session, now);
            }
        }
        for message in self.retained.values() {
            if message.is_expired(now) {
                cleanup.push(Record::RetainedCleared { topic: Arc::from(message.topic()) });
            } else {
                shared.retained.restore(message);
                if shared.settings().relaxed_topics.is_in_memory(message.topic()) {
                    cleanup.push(Record::RetainedCleared { topic: Arc::from(message.topic()) });
                }
                summary.retained += 1;
            }
        }
        summary.deliveries = ownerless.len() + shards.iter().map(Shard::deliveries).sum::<usize>();
        if let Some(first) = shards.first_mut() {
            let stub =
                |((message, session), reference)| Some((session, self.stub(message, &absent, reference)?));
            first.adopt_estate(ownerless.into_iter().filter_map(stub).collect(), now);
        }
        for shard in &mut shards {
            shard.report_queues();
            shard.show_gauges();
        }
        (shards, cleanup, summary)
    }

    /// Ends sessions without a head, and all but the newest of each client: the end of an earlier one may not have been
    /// stored. Returns what they had as members of groups and others may have instead, in the order of publication.
    fn end_sessions(&mut self, cleanup: &mut Vec<Record>) -> BTreeMap<(MessageId, SessionId), Reference> {
        let mut newest: HashMap<Arc<str>, SessionId> = HashMap::new();
        let mut ended = Vec::new();
        for (session, stored) in &self.sessions {
            match &stored.head {
                Some(head) => ended.extend(newest.insert(Arc::clone(&head.client_id), *session)),
                None => ended.push(*session),
            }
        }
        let mut ownerless = BTreeMap::new();
        for session in ended {
            cleanup.push(Record::SessionEnded { session });
            let references =
                self.sessions.remove(&session).map(|stored| stored.references).unwrap_or_default();
            for (id, reference) in references.into_iter().filter(|(_, reference)| reference.share.is_some()) {
                if is_transferable(&reference) && self.bodies.contains_key(&id) {
                    ownerless.insert((id, session), reference);
                } else {
                    cleanup.push(Record::Settled { session, message: id });
                }
            }
        }
        ownerless
    }

    /// Counts those who will settle each body, if they are several, and forgets the bodies that nobody will.
    fn count_references(
        &mut self,
        ownerless: &BTreeMap<(MessageId, SessionId), Reference>,
        cleanup: &mut Vec<Record>,
    ) -> HashMap<MessageId, Arc<AtomicU32>> {
        let mut counts: HashMap<MessageId, u32> = HashMap::new();
        let of_sessions = self.sessions.values().flat_map(|stored| stored.references.keys());
        for id in of_sessions.chain(ownerless.keys().map(|(id, _)| id)) {
            *counts.entry(*id).or_default() += 1;
        }
        self.bodies.retain(|id, _| {
            let is_needed = counts.contains_key(id);
            if !is_needed {
                cleanup.push(Record::Forgotten { message: *id });
            }
            is_needed
        });
        let shared = counts.into_iter().filter(|(_, count)| *count > 1);
        shared.map(|(id, count)| (id, Arc::new(AtomicU32::new(count)))).collect()
    }

    /// Makes a delivery whose message has to be read back; None if the message is not there.
    fn stub(
        &self,
        message: MessageId,
        absent: &HashMap<MessageId, Arc<AtomicU32>>,
        reference: Reference,
    ) -> Option<Waiting> {
        let body = self.bodies.get(&message)?;
        Some(Stub::recovered(&body.head, absent.get(&message).map(Arc::clone), reference).into())
    }

    fn session(
        &self,
        id: SessionId,
        stored: Stored,
        absent: &HashMap<MessageId, Arc<AtomicU32>>,
        now: Moment,
        cleanup: &mut Vec<Record>,
        summary: &mut RecoverySummary,
    ) -> Option<Session> {
        let head = stored.head?;
        let mut session = Session::new(id, head.client_id);
        session.durable = true;
        session.authenticated = head.authenticated;
        session.expiry_seconds = head.expiry_seconds;
        session.will = head.will.map(Box::new);
        // The wall clock may have been set back since; a session never waits longer than its interval.
        session.disconnected_at = Some(head.disconnected_at.map_or(now, |at| at.min(now)));
        if head.disconnected_at.is_none() {
            cleanup.push(session.head());
        }
        summary.sessions += 1;
        summary.subscriptions += stored.subscriptions.len();
        session.subscriptions = stored.subscriptions;
        session.received = stored.received;
        // Identities increase in the order of publication, which is the order of what is in flight and of what is queued.
        for (message, reference) in stored.references {
            let stage = reference.stage;
            match self.stub(message, absent, reference) {
                Some(waiting) => restore(&mut session, waiting, stage),
                None => cleanup.push(Record::Settled { session: id, message }),
            }
        }
        Some(session)
    }
}

/// Tells whether other members of a group may have the message: all but a QoS 2 message that the client may have seen
/// ([MQTT-4.8.2-5]).
fn is_transferable(reference: &Reference) -> bool {
    reference.share.is_some() && (reference.stage == Stage::Queued || reference.qos != QoS::ExactlyOnce)
}

fn restore(session: &mut Session, waiting: Waiting, stage: Stage) {
    match stage {
        Stage::Queued => session.outbound.enqueue_recovered(waiting),
        Stage::Published(packet_id) => session.outbound.restore(waiting, packet_id, Progress::Published),
        Stage::Released(packet_id) => session.outbound.restore(waiting, packet_id, Progress::Released),
    }
}

impl Shard {
    /// Takes in a session that was recovered, with its routes and timers.
    fn adopt_recovered(&mut self, mut session: Session, now: Moment) {
        let subscriptions = std::mem::take(&mut session.subscriptions);
        for (filter, subscription) in &subscriptions {
            if let Ok(filter) = TopicFilter::new(filter) {
                Self::route(self.shared(), self.index(), &mut session, filter, subscription);
            }
        }
        session.subscriptions = subscriptions;
        self.insert_session(session, now);
    }
}
