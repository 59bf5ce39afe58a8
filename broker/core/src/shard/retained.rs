//! The retained messages that a subscription brings ([MQTT-3.3.1-9]), a part at a time.
//!
//! A walk goes through the topics that its filter can match. A turn looks at so many of them, and a session that has enough is left
//! alone until it has taken that; the walk then goes on where it was. So neither a million retained messages nor a thousand
//! clients that subscribe to all of them keep the other clients of a shard waiting, or fill a queue until it drops some.
//! Invariant: a session has at most one walk for each of its subscriptions, and none after it has ended.

use std::collections::VecDeque;
use std::sync::Arc;

use veilmq_protocol::TopicFilter;

use super::Shard;
use super::timer::Timer;
use super::verdict::Publishers;
use crate::id::{IdMap, SessionId};
use crate::message::Message;
use crate::record::SubscriptionRecord;
use crate::retained::Portion;
use crate::time::Moment;
use crate::waiting::Delivery;

/// The retained topics that one turn looks at.
const TOPICS_PER_TURN: usize = 4_096;
/// The retained messages that are looked for at once, before it is seen whether their session wants more.
const TOPICS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 256 * 1024;
/// A session has enough with so many messages that wait.
const WAITING_MAX: usize = 1_000;

/// The walks of a shard that are not over.
#[derive(Debug)]
pub(super) struct Walks {
    by_session: IdMap<SessionId, Pending>,
    /// Sessions that can go on, in turn.
    ready: VecDeque<SessionId>,
    /// The topics that this turn may still look at.
    topics_left: usize,
    is_armed: bool,
}

/// The walks of one session.
#[derive(Debug, Default)]
struct Pending {
    walks: VecDeque<Walk>,
    is_ready: bool,
}

#[derive(Debug)]
struct Walk {
    filter: Arc<str>,
    subscription: SubscriptionRecord,
    /// The topic behind which it goes on.
    after: Option<Arc<str>>,
}

impl Default for Walks {
    fn default() -> Self {
        Self {
            by_session: IdMap::default(),
            ready: VecDeque::new(),
            topics_left: TOPICS_PER_TURN,
            is_armed: false,
        }
    }
}

impl Walks {
    /// Forgets the walk of a subscription.
    pub(super) fn forget(&mut self, session: SessionId, filter: TopicFilter<'_>) {
        if let Some(pending) = self.by_session.get_mut(&session) {
            pending.walks.retain(|walk| *walk.filter != *filter.as_str());
        }
    }

    /// Forgets the walks of a session that has ended.
    pub(super) fn forget_all(&mut self, session: SessionId) {
        self.by_session.remove(&session);
    }

    /// Begins another turn.
    pub(super) fn end_turn(&mut self) {
        self.topics_left = TOPICS_PER_TURN;
    }
}

impl Shard {
    /// Delivers the retained messages that a new subscription matches, with RETAIN set: the first ones now.
    pub(super) fn deliver_retained(
        &mut self,
        session: SessionId,
        filter: TopicFilter<'_>,
        subscription: &SubscriptionRecord,
        now: Moment,
    ) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        self.walks.forget(session, filter);
        let walk = Walk { filter: Arc::from(filter.as_str()), subscription: *subscription, after: None };
        if let Some(rest) = self.walk(session, walk, now) {
            self.walks.by_session.entry(session).or_default().walks.push_back(rest);
            self.go_on_with_walks(session, now);
        }
    }

    /// Lets the walks of a session go on, if it has some and wants more.
    pub(super) fn go_on_with_walks(&mut self, session: SessionId, now: Moment) {
        if self.walks.by_session.is_empty() || !self.wants_more(session) {
            return;
        }
        if let Some(pending) = self.walks.by_session.get_mut(&session)
            && !std::mem::replace(&mut pending.is_ready, true)
        {
            self.walks.ready.push_back(session);
            self.arm_walks(now);
        }
    }

    /// Goes on with walks, each session in its turn.
    pub(super) fn walks_deadline(&mut self, now: Moment) {
        self.walks.is_armed = false;
        while self.walks.topics_left > 0
            && let Some(session) = self.walks.ready.pop_front()
        {
            let Some(pending) = self.walks.by_session.get_mut(&session) else { continue };
            pending.is_ready = false;
            if !self.wants_more(session) {
                continue;
            }
            let Some(pending) = self.walks.by_session.get_mut(&session) else { continue };
            let Some(walk) = pending.walks.pop_front() else {
                self.walks.forget_all(session);
                continue;
            };
            let rest = self.walk(session, walk, now);
            if let Some(pending) = self.walks.by_session.get_mut(&session) {
                pending.walks.extend(rest);
            }
            self.go_on_with_walks(session, now);
        }
        if !self.walks.ready.is_empty() {
            self.arm_walks(now);
        }
    }

    fn arm_walks(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.walks.is_armed, true) {
            self.timers.insert((now + 1, Timer::Walks));
        }
    }

    /// Tells whether a session that is connected can be given more retained messages.
    fn wants_more(&self, session: SessionId) -> bool {
        let connection = self.sessions.get(&session).and_then(|state| state.connection);
        connection.is_some_and(|connection| self.has_space(connection)) && self.room_of(session) > 0
    }

    /// Returns how many more messages a session should be given at once; 0 if it has enough.
    fn room_of(&self, session: SessionId) -> usize {
        let outbox_bytes_max = self.settings.outbox_bytes_max;
        let messages_max = self.settings.session_queue_messages_max.min(WAITING_MAX);
        let bytes_max = self.settings.session_queue_bytes_max.min(outbox_bytes_max).max(1);
        match self.sessions.get(&session) {
            Some(state) if !state.outbound.is_full(1, messages_max, bytes_max) => {
                messages_max - state.outbound.waiting()
            }
            Some(_) | None => 0,
        }
    }

    /// Goes through topics until there are no more, the session has enough, or the turn has; returns what is left.
    fn walk(&mut self, session: SessionId, mut walk: Walk, now: Moment) -> Option<Walk> {
        let filter = Arc::clone(&walk.filter);
        let filter = TopicFilter::new(&filter).ok()?;
        let mut publishers = Publishers::new();
        loop {
            let topics = TOPICS_AT_ONCE.min(self.walks.topics_left);
            let portion = Portion { topics, messages: self.room_of(session), bytes: BYTES_AT_ONCE };
            if portion.topics == 0 || portion.messages == 0 {
                return Some(walk);
            }
            let part = self.shared.retained.part(filter, walk.after.as_deref(), portion);
            self.walks.topics_left -= topics;
            for message in part.messages {
                self.deliver_one_retained(session, message, &walk.subscription, &mut publishers, now);
            }
            walk.after = Some(part.next?);
        }
    }

    fn deliver_one_retained(
        &mut self,
        session: SessionId,
        message: Arc<Message>,
        subscription: &SubscriptionRecord,
        publishers: &mut Publishers,
        now: Moment,
    ) {
        let is_over = message.is_expired(now);
        if is_over || self.is_withheld(&message) || !self.may_still_be_retained(&message, publishers) {
            return;
        }
        let delivery = Delivery {
            qos: message.qos().min(subscription.options.qos),
            // [MQTT311-3.3.1-8]
            retain: true,
            // [MQTT-3.3.4-5]
            subscription_ids: subscription.subscription_id.into_iter().collect(),
            stored: false,
            share: None,
            message,
        };
        self.deliver_to(session, delivery, now);
    }
}
