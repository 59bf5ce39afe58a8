//! Recovery: what the storage trait replays becomes sessions, routes and retained messages again.
//!
//! What is stored comes in equal parts, by identity, so that several threads can take it in at once; the core has none and asks
//! for them. How many parts there are decides nothing. Whatever is missing because rows were damaged is cleaned up, never
//! guessed: a session without a head ends, a reference without a body is settled, a body without references is forgotten.

mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use veilmq_protocol::PacketId;

pub use self::restore::{Job, RecoverySummary};
use crate::id::{IdMap, MessageId, SessionId};
use crate::message::Message;
use crate::record::{Record, Reference, SessionRecord, SubscriptionRecord};
use crate::waiting::StoredHead;

/// The durable state of a broker, whatever the number of shards.
#[derive(Debug)]
pub struct Recovery {
    /// At least one.
    parts: Vec<RecoveryPart>,
}

/// What is stored of the sessions and messages whose identities make them its own, and of some retained messages.
#[derive(Debug)]
pub struct RecoveryPart {
    part: Part,
    sessions: BTreeMap<SessionId, Stored>,
    bodies: IdMap<MessageId, Body>,
    /// Bodies are held, not just known of.
    holds_bodies: bool,
    retained: BTreeMap<Arc<str>, Arc<Message>>,
}

/// One of several equal parts of what is stored: a session is in one with all that belongs to it, a message body in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: u16,
    count: u16,
}

impl Part {
    /// Tells all of so many parts, at least one, in their order.
    pub fn all(count: u16) -> impl ExactSizeIterator<Item = Self> {
        let count = count.max(1);
        (0..count).map(move |index| Self { index, count })
    }

    /// Tells whether a number falls to this part. Each falls to one.
    pub fn has(self, number: u64) -> bool {
        Self::index_of(number, self.count.into()) == usize::from(self.index)
    }

    /// Returns which of `count` parts, from 0, a number falls to.
    pub fn index_of(number: u64, count: usize) -> usize {
        usize::try_from(number % count.max(1) as u64).unwrap_or(0)
    }
}

/// What is known of a stored message.
#[derive(Debug)]
struct Body {
    head: StoredHead,
    message: Option<Arc<Message>>,
    /// How many sessions need it, once they were counted.
    needed: u32,
    /// Counts them from then on, if they are several.
    absent: Option<Arc<AtomicU32>>,
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

impl Recovery {
    /// Makes an empty state of so many parts, at least one. Of the bodies of messages that sessions wait for it keeps only what
    /// is needed until they are read back.
    pub fn new(parts: u16) -> Self {
        Self { parts: Part::all(parts).map(|part| RecoveryPart::new(part, false)).collect() }
    }

    /// Makes an empty state that holds bodies too.
    pub(crate) fn holding_bodies() -> Self {
        Self { parts: Part::all(1).map(|part| RecoveryPart::new(part, true)).collect() }
    }

    /// Returns the parts. A store may fill each on a thread of its own.
    pub fn parts(&mut self) -> &mut [RecoveryPart] {
        &mut self.parts
    }

    /// Applies one record, to the parts that it concerns.
    pub fn apply(&mut self, mut record: Record) {
        if let Record::Published { message, references } = &mut record
            && let Some(id) = message.id()
        {
            for reference in std::mem::take(references) {
                self.with_part(reference.session.0, |part| part.refer(id, reference));
            }
        }
        self.with_part(owner(&record), |part| part.apply(record));
    }

    fn with_part(&mut self, number: u64, change: impl FnOnce(&mut RecoveryPart)) {
        let index = Part::index_of(number, self.parts.len());
        if let Some(part) = self.parts.get_mut(index) {
            change(part);
        }
    }

    /// Returns a stored body.
    pub(crate) fn body(&self, message: MessageId) -> Option<&Arc<Message>> {
        self.parts.get(Part::index_of(message.0, self.parts.len()))?.bodies.get(&message)?.message.as_ref()
    }

    /// Visits the state as records in their normal form, as far as it is held.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(Record)) {
        let sessions = || self.parts.iter().flat_map(|part| &part.sessions);
        for (session, stored) in sessions() {
            let session = *session;
            if let Some(head) = &stored.head {
                visit(Record::Session(head.clone()));
            }
            for (filter, subscription) in &stored.subscriptions {
                let (filter, subscription) = (Arc::clone(filter), *subscription);
                visit(Record::Subscribed { session, filter, subscription });
            }
        }
        for (id, body) in self.parts.iter().flat_map(|part| &part.bodies) {
            let Some(message) = &body.message else { continue };
            let references = sessions().filter_map(|(_, stored)| stored.references.get(id).cloned());
            visit(Record::Published { message: Arc::clone(message), references: references.collect() });
        }
        for (session, stored) in sessions() {
            for packet_id in &stored.received {
                visit(Record::Received { session: *session, packet_id: *packet_id });
            }
        }
        for message in self.parts.iter().flat_map(|part| part.retained.values()) {
            visit(Record::Retained { message: Arc::clone(message) });
        }
    }
}

/// Returns the number that decides which part a record is for. Retained messages have none of their own: all are in one part
/// then.
fn owner(record: &Record) -> u64 {
    match record {
        Record::Session(SessionRecord { session, .. })
        | Record::SessionEnded { session }
        | Record::Subscribed { session, .. }
        | Record::Unsubscribed { session, .. }
        | Record::Advanced { reference: Reference { session, .. }, .. }
        | Record::Settled { session, .. }
        | Record::Received { session, .. }
        | Record::Released { session, .. } => session.0,
        Record::Published { message, .. } => message.id().map_or(0, |id| id.0),
        Record::Forgotten { message } => message.0,
        Record::Retained { .. } | Record::RetainedCleared { .. } => 0,
    }
}

impl RecoveryPart {
    fn new(part: Part, holds_bodies: bool) -> Self {
        Self {
            part,
            sessions: BTreeMap::new(),
            bodies: IdMap::default(),
            holds_bodies,
            retained: BTreeMap::new(),
        }
    }

    /// Returns what is this part's own. Of retained messages it takes any.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Takes note that a session is stored, so that what belongs to it may come before its head.
    pub fn expect(&mut self, session: SessionId) {
        self.sessions.entry(session).or_default();
    }

    /// Applies one record, of what is this part's own.
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
                self.bodies.insert(head.id, Body { head, message, needed: 0, absent: None });
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
}
