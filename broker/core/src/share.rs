//! Shared Subscriptions: groups, their members, and which member gets a message (section 4.8.2).
//!
//! A group is everyone who subscribed to the same `$share/NAME/FILTER`. The shard that publishes chooses; what it has to know
//! of a member, the member's home shard shows in an [`Availability`]. Invariant: a group gets one copy of a message, and
//! members that can take it equally well get one each in turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use veilmq_protocol::QoS;

use crate::id::{IdMap, SessionId};
use crate::message::Message;
use crate::record::{Reference, Stage};
use crate::routes::Subscriber;

/// How good a choice a member is: the smaller the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Preference {
    /// Connected, with send quota and space: the message goes out at once.
    Ready,
    /// Connected; the message waits for quota or space.
    Busy,
    /// The message waits for the client to connect.
    Away,
    /// The session's queue is full, so the message would be dropped.
    Full,
    /// The message would not wait for the client.
    Unreachable,
}

/// How well a session can take messages: shown by its home shard, read by every shard. Only a hint, which may be late.
#[derive(Debug)]
pub(crate) struct Availability {
    unassured: AtomicU8,
    assured: AtomicU8,
}

impl Default for Availability {
    fn default() -> Self {
        let unreachable = || AtomicU8::new(Preference::Unreachable as u8);
        Self { unassured: unreachable(), assured: unreachable() }
    }
}

impl Availability {
    /// Shows how good a choice the session is for messages of QoS 0, and for those of QoS 1 and 2.
    pub(crate) fn show(&self, unassured: Preference, assured: Preference) {
        self.unassured.store(unassured as u8, Ordering::Relaxed);
        self.assured.store(assured as u8, Ordering::Relaxed);
    }

    fn preference(&self, qos: QoS) -> Preference {
        let cell = if qos == QoS::AtMostOnce { &self.unassured } else { &self.assured };
        match cell.load(Ordering::Relaxed) {
            0 => Preference::Ready,
            1 => Preference::Busy,
            2 => Preference::Away,
            3 => Preference::Full,
            _ => Preference::Unreachable,
        }
    }
}

/// A session that takes part in a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) subscriber: Subscriber,
    pub(crate) availability: Arc<Availability>,
}

impl Member {
    /// Returns the QoS of a delivery: that of the message, within what this member was granted ([MQTT-4.8.2-3]).
    pub(crate) fn qos(&self, published: QoS) -> QoS {
        self.subscriber.qos.min(published)
    }

    /// Tells whether a delivery to this member is stored.
    pub(crate) fn stores(&self, published: QoS) -> bool {
        self.subscriber.durable && self.qos(published) != QoS::AtMostOnce
    }
}

/// The members of a group in the order in which they joined, as the route table holds them.
#[derive(Debug)]
pub(crate) struct Group {
    filter: Arc<str>,
    members: BTreeMap<u64, Arc<Member>>,
    places: IdMap<SessionId, u64>,
    turn: Arc<AtomicU64>,
}

impl Group {
    /// Makes the group of a filter as subscribed.
    pub(crate) fn new(filter: &str) -> Self {
        Self {
            filter: Arc::from(filter),
            members: BTreeMap::new(),
            places: IdMap::default(),
            turn: Arc::default(),
        }
    }

    /// Adds a member, or changes it and leaves it its place; true if it is new.
    pub(crate) fn join(&mut self, member: Member) -> bool {
        let last = self.members.last_key_value().map_or(0, |(place, _)| *place);
        let mut new = false;
        let place = *self.places.entry(member.subscriber.session).or_insert_with(|| {
            new = true;
            last + 1
        });
        self.members.insert(place, Arc::new(member));
        new
    }

    /// Removes a member; true if it was one.
    pub(crate) fn leave(&mut self, session: SessionId) -> bool {
        let place = self.places.remove(&session);
        place.is_some_and(|place| self.members.remove(&place).is_some())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the group as it is now; its turn goes on whoever holds it.
    pub(crate) fn share(&self) -> Share {
        Share {
            filter: Arc::clone(&self.filter),
            members: self.members.iter().map(|(place, member)| (*place, Arc::clone(member))).collect(),
            turn: Arc::clone(&self.turn),
        }
    }
}

/// A group as it was when a shard looked.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    filter: Arc<str>,
    members: Vec<(u64, Arc<Member>)>,
    /// The place of the member that was chosen last. Shards may race for it: then two messages go to one member.
    turn: Arc<AtomicU64>,
}

impl Share {
    /// Returns the filter as subscribed, which names the group.
    pub(crate) fn filter(&self) -> &Arc<str> {
        &self.filter
    }

    /// Returns about how many bytes it occupies.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.members.len() * size_of::<(u64, Arc<Member>)>()
    }

    /// Chooses the member that gets a message published with `published`; None if nobody could receive it.
    pub(crate) fn choose(&self, published: QoS) -> Option<&Arc<Member>> {
        let last = self.turn.load(Ordering::Relaxed);
        let (earlier, next) =
            self.members.split_at(self.members.partition_point(|(place, _)| *place <= last));
        let mut best: Option<(Preference, u64, &Arc<Member>)> = None;
        for (place, member) in next.iter().chain(earlier) {
            let preference = member.availability.preference(member.qos(published));
            if best.is_none_or(|(found, ..)| preference < found) {
                best = Some((preference, *place, member));
            }
            if preference == Preference::Ready {
                break;
            }
        }
        let (preference, place, member) = best?;
        if preference == Preference::Unreachable {
            return None;
        }
        self.turn.store(place, Ordering::Relaxed);
        Some(member)
    }
}

/// A group's copy of a message, for the member that was chosen.
#[derive(Clone, Debug)]
pub struct Allotment {
    pub(crate) message: Arc<Message>,
    /// The filter as subscribed.
    pub(crate) share: Arc<str>,
    pub(crate) member: Arc<Member>,
}

impl Allotment {
    /// Returns the stored need of the message that the chosen session has, if its deliveries are stored.
    pub(crate) fn reference(&self) -> Option<Reference> {
        let member = &self.member;
        member.stores(self.message.qos()).then(|| Reference {
            session: member.subscriber.session,
            qos: member.qos(self.message.qos()),
            retain: self.retain(),
            subscription_ids: member.subscriber.subscription_id.into_iter().collect(),
            share: Some(Arc::clone(&self.share)),
            stage: Stage::Queued,
        })
    }

    /// Returns the RETAIN flag of the delivery ([MQTT-3.3.1-12], [MQTT-3.3.1-13]).
    pub(crate) fn retain(&self) -> bool {
        self.message.retain() && self.member.subscriber.retain_as_published
    }
}
