//! Queues that spill: which messages that wait stay in memory, and how the others come back when they are due.
//!
//! A session keeps its oldest messages in memory, up to a limit; the others leave it once they are durable. There is one more
//! limit for all sessions together, of which a shard knows what the others held at the end of their last turns. Messages are
//! read back for connected clients alone, a bit ahead of what is sent, one request at a time. Invariant: the gauges of a shard
//! say what its sessions hold.

use super::Shard;
use super::timer::Timer;
use crate::effect::{Effect, Reader};
use crate::farewell::{BrokerReason, CloseReason};
use crate::id::{MessageId, SessionId};
use crate::message::Message;
use crate::outbound::Outbound;
use crate::queue::Answers;
use crate::record::StoreError;
use crate::stats::DropReason;
use crate::time::{Environment, Moment};
use crate::waiting::Delivery;
use std::sync::Arc;

/// The bytes of messages that one request reads back, if the limits of memory allow that.
pub(super) const READ_BYTES_MAX: usize = 256 * 1024;
/// How long messages stay in memory that became durable with a batch of another shard, if nothing else happens.
const LOOK_MILLISECONDS: u64 = 1_000;
/// The expired messages that are dropped in one turn.
const EXPIRED_MAX: usize = 1_000;

/// What a shard remembers of queues that spill.
#[derive(Debug, Default)]
pub(super) struct Spill {
    /// Sessions with messages in memory that may leave it once they are durable.
    undecided: Vec<SessionId>,
    /// How many batches had been committed when these were last looked at.
    batches: u64,
    /// When they are looked at again without that.
    look_at: Option<Moment>,
    /// What the shared totals say of this shard: all bytes that wait, and those in memory.
    reported: (usize, usize),
}

impl Shard {
    /// Tells why a session has no room for a message of this size; None if it has.
    pub(super) fn has_no_room(&self, session: SessionId, bytes: usize) -> Option<DropReason> {
        let limits = &self.settings;
        let (messages_max, bytes_max) = (limits.session_queue_messages_max, limits.session_queue_bytes_max);
        if self.sessions.get(&session)?.outbound.is_full(bytes, messages_max, bytes_max) {
            return Some(DropReason::QueueFull);
        }
        (self.queue_totals().0 + bytes > limits.queue_bytes_max).then_some(DropReason::QueuesFull)
    }

    /// Lets a message wait for its session, in memory or, once it is durable, in the store.
    pub(super) fn let_wait(&mut self, session: SessionId, delivery: Delivery, now: Moment) {
        let bytes = delivery.size_bytes();
        let stays = self.memory_allows(session, bytes);
        let expires = delivery.message.expires_at().is_some();
        let was_undecided = self.change_queue(session, |outbound| {
            let was_undecided = outbound.is_undecided();
            outbound.enqueue(delivery, stays);
            was_undecided
        });
        if expires {
            self.arm_queue(session, now);
        }
        if self.let_go(session) && !was_undecided {
            self.spill.undecided.push(session);
        }
    }

    /// Tells whether another message of this size may wait in memory.
    fn memory_allows(&self, session: SessionId, bytes: usize) -> bool {
        let settings = &self.settings;
        let held = self.sessions.get(&session).map_or(0, |state| state.outbound.memory_bytes());
        !settings.queues_spill
            || held + bytes <= settings.session_queue_memory_bytes
                && self.queue_totals().1 + bytes <= settings.queue_memory_bytes
    }

    /// Returns how many bytes a disconnected session may keep in memory.
    pub(super) fn memory_of_disconnected(&self) -> usize {
        let settings = &self.settings;
        match settings.queues_spill {
            false => usize::MAX,
            true if self.queue_totals().1 > settings.queue_memory_bytes => 0,
            true => settings.session_queue_memory_bytes,
        }
    }

    /// Returns the bytes that wait on all shards, and those of them in memory.
    fn queue_totals(&self) -> (usize, usize) {
        let (bytes, memory_bytes) = self.shared.queues.read();
        let reported = self.spill.reported;
        (
            bytes.wrapping_add(self.gauges.queued_bytes).wrapping_sub(reported.0),
            memory_bytes.wrapping_add(self.gauges.queued_memory_bytes).wrapping_sub(reported.1),
        )
    }

    /// Tells the other shards what waits on this one.
    pub(crate) fn report_queues(&mut self) {
        let now = (self.gauges.queued_bytes, self.gauges.queued_memory_bytes);
        if now != self.spill.reported {
            self.shared.queues.update(self.spill.reported, now);
            self.spill.reported = now;
        }
    }

    /// Takes note that a message has left the queue of its session.
    pub(super) fn left_queue(&mut self, bytes: usize, memory_bytes: usize) {
        self.gauges.queued_messages -= 1;
        self.gauges.queued_bytes -= bytes;
        self.gauges.queued_memory_bytes -= memory_bytes;
    }

    /// Changes what waits for a session, and the gauges with it.
    pub(super) fn change_queue<T: Default>(
        &mut self,
        session: SessionId,
        change: impl FnOnce(&mut Outbound) -> T,
    ) -> T {
        let Some(state) = self.sessions.get_mut(&session) else { return T::default() };
        let outbound = &mut state.outbound;
        self.gauges.queued_messages -= outbound.waiting();
        self.gauges.queued_bytes -= outbound.waiting_bytes();
        self.gauges.queued_memory_bytes -= outbound.memory_bytes();
        let result = change(outbound);
        self.gauges.queued_messages += outbound.waiting();
        self.gauges.queued_bytes += outbound.waiting_bytes();
        self.gauges.queued_memory_bytes += outbound.memory_bytes();
        result
    }

    /// Lets go of messages of a session that are durable; true if more may follow.
    fn let_go(&mut self, session: SessionId) -> bool {
        self.change_queue(session, Outbound::let_go)
    }

    /// Lets go of what has become durable, at the end of a turn.
    pub(super) fn let_go_of_stored(&mut self, now: Moment) {
        if self.spill.undecided.is_empty() {
            return;
        }
        let batches = self.shared.batches();
        if std::mem::replace(&mut self.spill.batches, batches) != batches {
            self.look_at_undecided();
        }
        if !self.spill.undecided.is_empty() && self.spill.look_at.is_none() {
            let at = now + LOOK_MILLISECONDS;
            self.spill.look_at = Some(at);
            self.timers.insert((at, Timer::Spill));
        }
    }

    fn look_at_undecided(&mut self) {
        let mut sessions = std::mem::take(&mut self.spill.undecided);
        sessions.sort_unstable();
        sessions.dedup();
        sessions.retain(|session| self.let_go(*session));
        self.spill.undecided = sessions;
    }

    /// Lets go of what has become durable with batches of other shards.
    pub(super) fn spill_deadline(&mut self) {
        self.spill.look_at = None;
        self.look_at_undecided();
    }

    /// Asks for the messages that a client is to be sent next, if they are not in memory.
    pub(super) fn read_ahead(&mut self, session: SessionId, now: Moment) {
        let Some(state) = self.sessions.get(&session) else { return };
        if state.connection.is_none() || !state.outbound.may_miss_messages() {
            return;
        }
        let settings = &self.settings;
        let bytes_max = READ_BYTES_MAX.min(settings.session_queue_memory_bytes).max(1);
        let is_scarce = self.queue_totals().1 > settings.queue_memory_bytes;
        let memory_bytes_min = if is_scarce { 0 } else { bytes_max };
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let messages = state.outbound.ask(now, memory_bytes_min, bytes_max);
        if !messages.is_empty() {
            self.fetches.push((Reader::Session(session), messages));
        }
    }

    /// Goes on with a session whose messages were read back.
    pub(super) fn fetched(
        &mut self,
        session: SessionId,
        asked: &[MessageId],
        messages: Result<Vec<Arc<Message>>, StoreError>,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.outbound.reading_ended();
        // Without a client they would only take up memory.
        let Some(connection) = state.connection else { return };
        match messages {
            Ok(messages) => {
                self.fill(session, answers(asked, messages));
                self.pump(session, environment.now);
            }
            Err(error) => {
                tracing::error!(connection = connection.0, %error, "stored messages cannot be read now");
                let reason = CloseReason::Broker(BrokerReason::StorageFailed);
                self.close(connection, &reason, environment, effects);
            }
        }
    }

    fn fill(&mut self, session: SessionId, answers: Answers) {
        let mut lost = Vec::new();
        let exchanges = self.change_queue(session, |outbound| outbound.fill(answers, &mut lost));
        let count = lost.len() + exchanges.len();
        if count > 0 {
            tracing::error!(session = session.0, count, "stored messages are damaged and lost");
        }
        for packet_id in exchanges {
            self.stats.messages_dropped(DropReason::Unreadable, 1);
            self.finish(session, packet_id);
        }
        for waiting in lost {
            self.drop_delivery(session, waiting, DropReason::Unreadable);
        }
    }

    /// Drops messages of a session that have expired; others may be left for a later turn.
    pub(super) fn drop_expired(&mut self, session: SessionId, now: Moment) {
        let mut expired = Vec::new();
        let unassured =
            self.change_queue(session, |outbound| outbound.take_expired(now, EXPIRED_MAX, &mut expired));
        self.stats.messages_dropped(DropReason::Expired, unassured);
        for waiting in expired {
            self.drop_waiting(session, waiting, DropReason::Expired);
        }
    }

    /// Drops what has expired in the queue of a session, and arms its timer anew.
    pub(super) fn queue_deadline(&mut self, session: SessionId, now: Moment) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.queue_timer_at = None;
        }
        self.drop_expired(session, now);
        self.arm_queue(session, now);
    }

    /// Arms the timer of a session for the next of its messages to expire, to the second.
    pub(super) fn arm_queue(&mut self, session: SessionId, now: Moment) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(next) = state.outbound.next_expiry() else { return };
        let at = next.to_second().max(now + 1);
        if state.queue_timer_at.is_some_and(|armed| armed <= at) {
            return;
        }
        if let Some(armed) = state.queue_timer_at.replace(at) {
            self.timers.remove(&(armed, Timer::Queue(session)));
        }
        self.timers.insert((at, Timer::Queue(session)));
    }
}

/// Says of each message that was asked for whether it was read.
pub(super) fn answers(asked: &[MessageId], messages: Vec<Arc<Message>>) -> Answers {
    let mut answers: Answers = asked.iter().map(|id| (*id, None)).collect();
    for message in messages {
        if let Some(answer) = message.id().and_then(|id| answers.get_mut(&id)) {
            *answer = Some(message);
        }
    }
    answers
}
