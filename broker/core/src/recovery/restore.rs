//! The end of a recovery: what was taken in becomes the sessions of shards.
//!
//! It goes in steps, each of jobs that do not touch what others change: sessions find their home shards, what they need of each
//! message is counted, then every shard takes its sessions in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use veilmq_protocol::{QoS, TopicFilter};

use super::{Body, Part, Recovery, RecoveryPart, Stored};
use crate::access::User;
use crate::id::{IdMap, MessageId, SessionId, ShardIndex};
use crate::in_flight::Progress;
use crate::message::Message;
use crate::record::{Record, Reference, Stage};
use crate::session::Session;
use crate::shard::Shard;
use crate::shared::Shared;
use crate::time::Moment;
use crate::waiting::{Stub, Waiting};

/// Something to be done, with others at once or before or after them.
pub type Job<'a> = Box<dyn FnOnce() + Send + 'a>;

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

/// The sessions of one shard, on their way there.
struct Home {
    shard: Shard,
    /// In the order of their identities.
    sessions: Vec<(SessionId, Stored)>,
    /// What ended sessions had as members of groups, and others may have instead.
    ownerless: Vec<(MessageId, SessionId, Reference)>,
    cleanup: Vec<Record>,
    summary: RecoverySummary,
}

impl Recovery {
    /// Makes the shards of a broker, and the records that clean up: sessions that were connected count as disconnected `now`,
    /// and what nobody refers to is forgotten. `work` does jobs, in any order or at once, and returns when all are done.
    pub fn into_shards(
        self,
        shared: &Arc<Shared>,
        now: Moment,
        work: &mut dyn FnMut(Vec<Job<'_>>),
    ) -> (Vec<Shard>, Vec<Record>, RecoverySummary) {
        let mut parts = self.parts;
        for part in &parts {
            part.skip_identities(shared);
        }
        let mut homes = homes(&mut parts, shared, work);
        let mut bodies = Bodies::of(&mut parts);
        let end = homes.iter_mut().map(|home| -> Job<'_> { Box::new(|| home.end_sessions(&bodies)) });
        work(end.collect());
        let forgotten = bodies.count(&homes, work);
        let retained = parts.iter_mut().flat_map(|part| std::mem::take(&mut part.retained).into_values());
        let (cleared, retained_count) = restore_retained(retained, shared, now);
        let take_in = homes.iter_mut().map(|home| -> Job<'_> { Box::new(|| home.take_in(&bodies, now)) });
        work(take_in.collect());
        let estate = estate(&mut homes, &bodies);
        let mut summary = RecoverySummary { retained: retained_count, ..RecoverySummary::default() };
        summary.deliveries = estate.len();
        if let Some(first) = homes.first_mut() {
            first.shard.adopt_estate(estate, now);
            first.shard.arm_sweep(shared.retained.next_expiry(), now);
        }
        let (mut shards, mut cleanup) = (Vec::new(), [forgotten, cleared].concat());
        for mut home in homes {
            home.shard.report_queues();
            home.shard.show_gauges();
            summary.sessions += home.summary.sessions;
            summary.subscriptions += home.summary.subscriptions;
            summary.deliveries += home.shard.deliveries();
            cleanup.append(&mut home.cleanup);
            shards.push(home.shard);
        }
        (shards, cleanup, summary)
    }
}

/// Sends the sessions of all parts to their home shards.
fn homes(parts: &mut [RecoveryPart], shared: &Arc<Shared>, work: &mut dyn FnMut(Vec<Job<'_>>)) -> Vec<Home> {
    let mut homes: Vec<Home> =
        (0..shared.shards()).map(|index| Home::new(ShardIndex(index), shared)).collect();
    let mut sent: Vec<Vec<Vec<(SessionId, Stored)>>> = Vec::new();
    sent.resize_with(parts.len(), || homes.iter().map(|_| Vec::new()).collect());
    let send = parts.iter_mut().zip(&mut sent);
    work(send.map(|(part, homes)| -> Job<'_> { Box::new(|| part.send_home(shared, homes)) }).collect());
    for sent in sent {
        homes.iter_mut().zip(sent).for_each(|(home, sessions)| home.sessions.extend(sessions));
    }
    homes
}

impl RecoveryPart {
    /// Makes sure that no identity that is stored is given out again.
    fn skip_identities(&self, shared: &Shared) {
        if let Some((last, _)) = self.sessions.last_key_value() {
            shared.sessions.skip_past(last.0);
        }
        if let Some(last) = self.bodies.keys().max() {
            shared.messages.skip_past(last.0);
        }
    }

    /// Gives each session to its home shard; one without a head, which nobody can come back to, to the first.
    fn send_home(&mut self, shared: &Shared, homes: &mut [Vec<(SessionId, Stored)>]) {
        for (session, stored) in std::mem::take(&mut self.sessions) {
            let home = stored.head.as_ref().map_or(0, |head| shared.home(&head.client_id).0);
            if let Some(home) = homes.get_mut(usize::from(home)) {
                home.push((session, stored));
            }
        }
    }
}

/// The stored messages that sessions may refer to, in the parts of the recovery.
struct Bodies(Vec<(Part, IdMap<MessageId, Body>)>);

impl Bodies {
    fn of(parts: &mut [RecoveryPart]) -> Self {
        Self(parts.iter_mut().map(|part| (part.part, std::mem::take(&mut part.bodies))).collect())
    }

    fn get(&self, message: MessageId) -> Option<&Body> {
        self.0.get(Part::index_of(message.0, self.0.len()))?.1.get(&message)
    }

    /// Counts those who will settle each body, and forgets the bodies that nobody will.
    fn count(&mut self, homes: &[Home], work: &mut dyn FnMut(Vec<Job<'_>>)) -> Vec<Record> {
        let mut forgotten: Vec<Vec<Record>> = self.0.iter().map(|_| Vec::new()).collect();
        let parts = self.0.iter_mut().zip(&mut forgotten);
        let count = parts.map(|((part, bodies), forgotten)| -> Job<'_> {
            Box::new(|| *forgotten = count_of_part(*part, bodies, homes))
        });
        work(count.collect());
        forgotten.concat()
    }

    /// Makes a delivery whose message has to be read back; None if the message is not there.
    fn stub(&self, message: MessageId, reference: Reference) -> Option<Waiting> {
        let body = self.get(message)?;
        Some(Stub::recovered(&body.head, body.absent.clone(), reference).into())
    }
}

fn count_of_part(part: Part, bodies: &mut IdMap<MessageId, Body>, homes: &[Home]) -> Vec<Record> {
    for home in homes {
        let of_sessions = home.sessions.iter().flat_map(|(_, stored)| stored.references.keys());
        let needed = of_sessions.chain(home.ownerless.iter().map(|(message, ..)| message));
        for message in needed.filter(|message| part.has(message.0)) {
            if let Some(body) = bodies.get_mut(message) {
                body.needed += 1;
            }
        }
    }
    let mut forgotten = Vec::new();
    bodies.retain(|message, body| {
        match body.needed {
            0 => forgotten.push(Record::Forgotten { message: *message }),
            1 => {}
            several => body.absent = Some(Arc::new(AtomicU32::new(several))),
        }
        body.needed > 0
    });
    forgotten
}

impl Home {
    fn new(index: ShardIndex, shared: &Arc<Shared>) -> Self {
        Self {
            shard: Shard::new(index, Arc::clone(shared)),
            sessions: Vec::new(),
            ownerless: Vec::new(),
            cleanup: Vec::new(),
            summary: RecoverySummary::default(),
        }
    }

    /// Ends sessions without a head, and all but the newest of each client: the end of an earlier one may not have been stored.
    fn end_sessions(&mut self, bodies: &Bodies) {
        self.sessions.sort_unstable_by_key(|(session, _)| *session);
        let heads =
            self.sessions.iter().filter_map(|(session, stored)| Some((stored.head.as_ref()?, *session)));
        let newest: HashMap<Arc<str>, SessionId> =
            heads.map(|(head, session)| (Arc::clone(&head.client_id), session)).collect();
        for (session, stored) in std::mem::take(&mut self.sessions) {
            match &stored.head {
                Some(head) if newest.get(&head.client_id) == Some(&session) => {
                    self.sessions.push((session, stored));
                }
                Some(_) | None => self.end(session, stored, bodies),
            }
        }
    }

    fn end(&mut self, session: SessionId, stored: Stored, bodies: &Bodies) {
        self.cleanup.push(Record::SessionEnded { session });
        let outlives = |(_, reference): &(MessageId, Reference)| reference.share.is_some();
        for (message, reference) in stored.references.into_iter().filter(outlives) {
            if is_transferable(&reference) && bodies.get(message).is_some() {
                self.ownerless.push((message, session, reference));
            } else {
                self.cleanup.push(Record::Settled { session, message });
            }
        }
    }

    /// Makes sessions of what was stored of them.
    fn take_in(&mut self, bodies: &Bodies, now: Moment) {
        for (session, stored) in std::mem::take(&mut self.sessions) {
            if let Some(session) = self.session(session, stored, bodies, now) {
                self.shard.adopt_recovered(session, now);
            }
        }
    }

    fn session(&mut self, id: SessionId, stored: Stored, bodies: &Bodies, now: Moment) -> Option<Session> {
        let head = stored.head?;
        let mut session = Session::new(id, head.client_id);
        session.durable = true;
        session.authenticated = head.authenticated;
        session.user = head.user.map(|name| User::remembered(name, head.authenticated));
        session.expiry_seconds = head.expiry_seconds;
        session.outbound.last_identifier = head.last_identifier;
        session.will = head.will.map(Box::new);
        // The wall clock may have been set back since; a session never waits longer than its interval.
        session.disconnected_at = Some(head.disconnected_at.map_or(now, |at| at.min(now)));
        if head.disconnected_at.is_none() {
            self.cleanup.push(session.head());
        }
        self.summary.sessions += 1;
        self.summary.subscriptions += stored.subscriptions.len();
        session.subscriptions = stored.subscriptions;
        session.received = stored.received.into_iter().collect();
        // Identities increase in the order of publication, which is the order of what is in flight and of what is queued.
        for (message, reference) in stored.references {
            let stage = reference.stage;
            match bodies.stub(message, reference) {
                Some(waiting) => restore(&mut session, waiting, stage),
                None => self.cleanup.push(Record::Settled { session: id, message }),
            }
        }
        Some(session)
    }
}

/// Brings retained messages back that have not expired; returns the records that clear others, and how many there are.
fn restore_retained(
    messages: impl Iterator<Item = Arc<Message>>,
    shared: &Shared,
    now: Moment,
) -> (Vec<Record>, usize) {
    let (mut cleared, mut count) = (Vec::new(), 0);
    for message in messages {
        let is_expired = message.is_expired(now);
        if is_expired || shared.settings().relaxed_topics.is_in_memory(message.topic()) {
            cleared.push(Record::RetainedCleared { topic: Arc::from(message.topic()) });
        }
        if !is_expired {
            shared.retained.restore(&message);
            count += 1;
        }
    }
    (cleared, count)
}

/// Returns what nobody owns, in the order of publication.
fn estate(homes: &mut [Home], bodies: &Bodies) -> Vec<(SessionId, Waiting)> {
    let mut ownerless: Vec<(MessageId, SessionId, Reference)> =
        homes.iter_mut().flat_map(|home| std::mem::take(&mut home.ownerless)).collect();
    ownerless.sort_unstable_by_key(|(message, session, _)| (*message, *session));
    let stub = |(message, session, reference)| Some((session, bodies.stub(message, reference)?));
    ownerless.into_iter().filter_map(stub).collect()
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
