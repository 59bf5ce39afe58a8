//! The QoS 1 and 2 messages that wait for one session: the oldest in memory, the others as stubs of what is in the store.
//!
//! From the front: entries with their messages (the head), then stubs, then entries that came too late for the head and whose
//! messages are still being stored. Such an entry becomes a stub once its message is durable, in order. The head is filled up
//! from the store while it is being sent. Invariant: entries keep the order in which they came; `bytes`, `memory_bytes` and
//! `stubs` count what is in `entries`, of which `gone` were taken out in the middle.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::id::{IdMap, MessageId};
use crate::message::{Message, Storing};
use crate::time::Moment;
use crate::waiting::{Delivery, Waiting};

/// Entries without use that are worth a pass over all to be rid of.
const USELESS_MIN: usize = 64;

/// The messages of QoS 1 and 2 that wait for one session.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// The number of the next entry.
    next: u64,
    /// The number of the last entry whose message was asked for.
    asked: u64,
    gone: usize,
    stubs: usize,
    bytes: usize,
    memory_bytes: usize,
    /// No entry before this one is a stub.
    head: usize,
    /// The entries at the end of which it is not decided yet whether they keep their messages.
    undecided: usize,
    /// When entries expire, soonest first, those too that have left meanwhile.
    expiries: BinaryHeap<Reverse<(Moment, u64)>>,
}

#[derive(Debug)]
struct Entry {
    /// Increases from entry to entry.
    number: u64,
    /// None if it was taken out.
    waiting: Option<Waiting>,
}

/// The bytes of the messages that wait on all shards, as of the end of each shard's last turn.
#[derive(Debug, Default)]
pub(crate) struct QueueTotals {
    bytes: AtomicUsize,
    memory_bytes: AtomicUsize,
}

impl QueueTotals {
    /// Takes note that the messages of a shard were `before` and are `now`: all bytes, and those in memory.
    pub(crate) fn update(&self, before: (usize, usize), now: (usize, usize)) {
        self.bytes.fetch_add(now.0.wrapping_sub(before.0), Ordering::Relaxed);
        self.memory_bytes.fetch_add(now.1.wrapping_sub(before.1), Ordering::Relaxed);
    }

    /// Returns all bytes, and those in memory.
    pub(crate) fn read(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.memory_bytes.load(Ordering::Relaxed))
    }
}

/// What a store said of messages that were asked for; None stands for one that cannot be read.
pub(crate) type Answers = IdMap<MessageId, Option<Arc<Message>>>;

/// What is first in a queue.
#[derive(Debug)]
pub(crate) enum First {
    /// A delivery, taken out.
    Delivery(Delivery),
    /// A message that has expired, taken out.
    Expired(Waiting),
    /// A message that has to be read back.
    Stub,
    /// Nothing.
    Nothing,
}

impl Queue {
    /// Returns how many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.gone
    }

    /// Tells whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of the messages that wait, wherever they are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes of those that are in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Tells whether messages wait in memory that could go once they are durable.
    pub(crate) fn is_undecided(&self) -> bool {
        self.undecided > 0
    }

    /// Tells whether a message that came now would follow others in memory.
    pub(crate) fn is_all_head(&self) -> bool {
        self.stubs == 0 && self.undecided == 0
    }

    /// Tells whether every message is in memory.
    pub(crate) fn is_all_here(&self) -> bool {
        self.stubs == 0
    }

    /// Returns when the next message expires, or one that has left expired.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.expiries.peek().map(|Reverse((at, _))| *at)
    }

    /// Appends a message, which stays in memory if `stays`.
    pub(crate) fn push(&mut self, waiting: Waiting, stays: bool) {
        let number = self.next;
        self.next += 1;
        self.joined(&waiting);
        self.undecided += usize::from(!stays);
        if let Some(at) = waiting.expires_at() {
            self.expiries.push(Reverse((at, number)));
        }
        self.entries.push_back(Entry { number, waiting: Some(waiting) });
        self.compact();
    }

    /// Takes the first message out if it can be sent or has expired.
    pub(crate) fn take_first(&mut self, now: Moment) -> First {
        while self.entries.front().is_some_and(|entry| entry.waiting.is_none()) {
            self.pop();
        }
        let Some(Entry { waiting: Some(first), .. }) = self.entries.front() else { return First::Nothing };
        let is_expired = first.is_expired(now);
        if matches!(first, Waiting::Stub(_)) && !is_expired {
            return First::Stub;
        }
        let Some(waiting) = self.pop() else { return First::Nothing };
        match waiting {
            Waiting::Whole(delivery) if !is_expired => First::Delivery(delivery),
            waiting => First::Expired(waiting),
        }
    }

    /// Takes messages out that have expired, at most `count_max`.
    pub(crate) fn take_expired(&mut self, now: Moment, count_max: usize, into: &mut Vec<Waiting>) {
        while into.len() < count_max && self.next_expiry().is_some_and(|at| at <= now) {
            let Some(Reverse((_, number))) = self.expiries.pop() else { break };
            if let Ok(at) = self.entries.binary_search_by_key(&number, |entry| entry.number) {
                into.extend(self.take_out(at));
            }
        }
        self.compact();
    }

    /// Lets go of messages that are durable by now and came too late for the head.
    pub(crate) fn decide(&mut self) {
        while self.undecided > 0 {
            let at = self.entries.len() - self.undecided;
            match self.storing(at) {
                Some(Storing::Pending) => return,
                Some(Storing::Done) => self.let_go(at),
                // What cannot be read back stays.
                Some(Storing::Failed) | None => {}
            }
            self.undecided -= 1;
        }
    }

    /// Lets go of durable messages from the end of the head until `memory_bytes_max` suffices.
    pub(crate) fn let_go_of_head(&mut self, memory_bytes_max: usize) {
        self.find_head();
        let mut at = self.head;
        while self.memory_bytes > memory_bytes_max && at > 0 {
            at -= 1;
            if self.storing(at) == Some(Storing::Done) {
                self.let_go(at);
            }
        }
    }

    /// Tells whether messages should be read back, for a client that is being sent what waits.
    pub(crate) fn wants_messages(&self, memory_bytes_min: usize) -> bool {
        self.stubs > 0 && (self.memory_bytes < memory_bytes_min || self.begins_with_stub())
    }

    /// Appends the messages to read back next: some `bytes_max` bytes, at least one message.
    pub(crate) fn ask(&mut self, now: Moment, bytes_max: usize, into: &mut Vec<MessageId>) {
        self.find_head();
        let mut bytes = 0;
        for entry in self.entries.range(self.head..) {
            let Some(waiting @ Waiting::Stub(stub)) = &entry.waiting else { continue };
            let after = bytes + waiting.size_bytes();
            if bytes > 0 && after > bytes_max {
                return;
            }
            if !waiting.is_expired(now) {
                bytes = after;
                self.asked = entry.number;
                into.push(stub.id());
            }
        }
    }

    /// Puts messages where they were asked for. Those of which it is known now that they cannot be read are taken out.
    pub(crate) fn fill(&mut self, answers: &mut Answers, lost: &mut Vec<Waiting>) {
        let mut at = self.head;
        while let Some(Entry { number, waiting }) = self.entries.get_mut(at)
            && *number <= self.asked
        {
            let id = match waiting {
                Some(Waiting::Stub(stub)) => Some(stub.id()),
                Some(Waiting::Whole(_)) | None => None,
            };
            match id.and_then(|id| answers.remove(&id)) {
                Some(Some(message)) => self.change(at, |waiting| waiting.fill(message)),
                Some(None) => lost.extend(self.take_out(at)),
                None => {}
            }
            at += 1;
        }
    }

    /// Gives all messages out, in order.
    pub(crate) fn into_waiting(self) -> impl Iterator<Item = Waiting> {
        self.entries.into_iter().filter_map(|entry| entry.waiting)
    }

    fn begins_with_stub(&self) -> bool {
        let first = self.entries.iter().find_map(|entry| entry.waiting.as_ref());
        matches!(first, Some(Waiting::Stub(_)))
    }

    fn joined(&mut self, waiting: &Waiting) {
        self.bytes += waiting.size_bytes();
        self.memory_bytes += waiting.memory_bytes();
        self.stubs += usize::from(matches!(waiting, Waiting::Stub(_)));
    }

    fn left(&mut self, waiting: &Waiting) {
        self.bytes -= waiting.size_bytes();
        self.memory_bytes -= waiting.memory_bytes();
        self.stubs -= usize::from(matches!(waiting, Waiting::Stub(_)));
    }

    fn let_go(&mut self, at: usize) {
        self.change(at, Waiting::let_go);
        self.head = self.head.min(at);
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut Waiting)) {
        let Some(mut waiting) = self.entries.get_mut(at).and_then(|entry| entry.waiting.take()) else {
            return;
        };
        self.left(&waiting);
        change(&mut waiting);
        self.joined(&waiting);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.waiting = Some(waiting);
        }
    }

    fn take_out(&mut self, at: usize) -> Option<Waiting> {
        let waiting = self.entries.get_mut(at)?.waiting.take()?;
        self.left(&waiting);
        self.gone += 1;
        Some(waiting)
    }

    /// Returns what is known of the batch that stores a message; None if there is no message, or none that is stored.
    fn storing(&self, at: usize) -> Option<Storing> {
        match &self.entries.get(at)?.waiting {
            Some(Waiting::Whole(delivery)) => delivery.stored_id().map(|_| delivery.message.storing()),
            Some(Waiting::Stub(_)) | None => None,
        }
    }

    fn find_head(&mut self) {
        let is_no_stub = |entry: &Entry| !matches!(entry.waiting, Some(Waiting::Stub(_)));
        while self.entries.get(self.head).is_some_and(is_no_stub) {
            self.head += 1;
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let entry = self.entries.pop_front()?;
        self.head = self.head.saturating_sub(1);
        self.undecided = self.undecided.min(self.entries.len());
        match &entry.waiting {
            Some(waiting) => self.left(waiting),
            None => self.gone -= 1,
        }
        if self.entries.is_empty() && self.entries.capacity() > USELESS_MIN {
            (self.entries, self.expiries) = Default::default();
        }
        entry.waiting
    }

    /// Gets rid of what has been taken out, and of the expiries of what has left, if that is most of what there is.
    fn compact(&mut self) {
        if self.gone > USELESS_MIN.max(self.entries.len() / 2) {
            let decided = self.entries.len() - self.undecided;
            let first_undecided = self.entries.get(decided).map_or(u64::MAX, |entry| entry.number);
            self.entries.retain(|entry| entry.waiting.is_some());
            let decided = self.entries.partition_point(|entry| entry.number < first_undecided);
            self.undecided = self.entries.len() - decided;
            self.gone = 0;
            self.head = 0;
        }
        if self.expiries.len() > USELESS_MIN.max(2 * self.entries.len()) {
            let first = self.entries.front().map_or(u64::MAX, |entry| entry.number);
            self.expiries.retain(|Reverse((_, number))| *number >= first);
        }
    }
}
