//! What other threads can tell a shard: parcels and sockets from other shards, finished commits and reads, verdicts on
//! passwords, and orders.
//!
//! Between each pair of shards lies one lane with a byte limit. A lane over its limit does not take what may be dropped;
//! everything else is accepted, and the posting shard stops reading from its sockets until the lane is emptied. A receiver is
//! woken once for a batch, not once for a parcel.
//! Invariant: a lane that made its sender stop is emptied by a receiver that then wakes the sender, so nobody waits for ever.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use veilmq_core::{ConnectionId, ShardIndex, Ticket, Verdict};

use super::orders::{ORDERS_MAX, Order};
use crate::access::{Answer, Audience};
use crate::listener::Listener;
use crate::store::Fetched;

/// How long is waited for shards to go by rules that have changed; one that is stuck holds up nobody for ever.
const HEEDED_WITHIN: Duration = Duration::from_secs(1);

/// Something that can lie in a lane.
pub trait Freight {
    /// Returns the bytes it keeps alive.
    fn size_bytes(&self) -> usize;
    /// Tells whether it may be dropped when the lane is full.
    fn is_droppable(&self) -> bool;
}

/// What became of a posted item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted<T> {
    /// It is in the lane.
    Accepted,
    /// It is in the lane, which is over its limit: the sender must stop reading until it is relieved.
    Stalled,
    /// The lane is full and does not take this item, which may be dropped.
    Refused(T),
}

/// What the storage writer says about a shard's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Every batch up to this ticket is durable.
    Committed(Ticket),
    /// This batch could not be stored.
    Failed(Ticket),
}

/// The mailboxes of all shards.
pub struct Exchange<T> {
    shards: usize,
    lane_bytes_max: AtomicUsize,
    /// Row: the receiver. Column: the sender.
    lanes: Box<[Mutex<Lane<T>>]>,
    inboxes: Box<[Inbox]>,
    /// Rings when a shard goes by rules that have changed.
    heeding: Mutex<()>,
    heeded: Condvar,
}

struct Lane<T> {
    items: Vec<T>,
    bytes: usize,
    stalled: bool,
}

/// The parts of a mailbox that hold no freight.
#[derive(Default)]
struct Inbox {
    /// Bit s: the lane from shard s has something in it.
    filled: AtomicU64,
    /// Bit s: the lane to shard s, which had made this shard stop, was emptied.
    relieved: AtomicU64,
    completions: Mutex<Vec<Completion>>,
    fetched: Mutex<Vec<Fetched>>,
    verdicts: Mutex<Vec<(ConnectionId, Verdict)>>,
    orders: Mutex<Vec<Order>>,
    answers: Mutex<Vec<Answer>>,
    listeners: Mutex<Vec<Listener>>,
    /// The last change of rules that it was told of, and the last that it goes by.
    access_told: AtomicU64,
    access_heeded: AtomicU64,
    shutdown: AtomicBool,
    distrust: AtomicBool,
    turns: AtomicU64,
    wake: Notify,
}

impl<T: Freight> Exchange<T> {
    /// Makes the mailboxes of `shards` (1 to 64) shards, `lane_bytes_max` bytes for each pair.
    pub fn new(shards: u16, lane_bytes_max: usize) -> Self {
        let shards = usize::from(shards);
        let lane = || Mutex::new(Lane { items: Vec::new(), bytes: 0, stalled: false });
        Self {
            shards,
            lane_bytes_max: AtomicUsize::new(lane_bytes_max),
            lanes: (0..shards * shards).map(|_| lane()).collect(),
            inboxes: (0..shards).map(|_| Inbox::default()).collect(),
            heeding: Mutex::default(),
            heeded: Condvar::new(),
        }
    }

    /// Allows another number of bytes for each pair from now on.
    pub fn allow(&self, lane_bytes_max: usize) {
        self.lane_bytes_max.store(lane_bytes_max, Ordering::Relaxed);
    }

    /// Puts an item into the lane from one shard to another; the receiver learns of it with [`Self::ring`].
    pub fn post(&self, from: ShardIndex, to: ShardIndex, item: T) -> Posted<T> {
        let mut lane = lock(self.lane(from, to));
        let bytes = lane.bytes.saturating_add(item.size_bytes());
        let full = bytes > self.lane_bytes_max.load(Ordering::Relaxed);
        if full && item.is_droppable() {
            return Posted::Refused(item);
        }
        lane.bytes = bytes;
        lane.items.push(item);
        if full {
            lane.stalled = true;
            return Posted::Stalled;
        }
        Posted::Accepted
    }

    /// Wakes every shard in the bit set `to`, which have items from shard `from`.
    pub fn ring(&self, from: ShardIndex, to: u64) {
        for shard in shards_in(to) {
            let inbox = self.inbox(shard);
            if inbox.filled.fetch_or(1 << from.0, Ordering::AcqRel) == 0 {
                inbox.wake.notify_one();
            }
        }
    }

    /// Moves everything that lies in the lanes to a shard into `into` and relieves the senders that had stopped.
    pub fn collect(&self, to: ShardIndex, into: &mut Vec<T>) {
        for from in shards_in(self.inbox(to).filled.swap(0, Ordering::AcqRel)) {
            if self.empty_lane(from, to, into) {
                let sender = self.inbox(from);
                sender.relieved.fetch_or(1 << to.0, Ordering::AcqRel);
                sender.wake.notify_one();
            }
        }
    }

    /// Returns true if the sender of the lane had stopped because of it.
    fn empty_lane(&self, from: ShardIndex, to: ShardIndex, into: &mut Vec<T>) -> bool {
        let mut lane = lock(self.lane(from, to));
        into.append(&mut lane.items);
        lane.bytes = 0;
        std::mem::take(&mut lane.stalled)
    }

    /// Returns, once, the shards whose lanes from `shard` were emptied after they had made it stop.
    pub fn relieved(&self, shard: ShardIndex) -> u64 {
        self.inbox(shard).relieved.swap(0, Ordering::AcqRel)
    }

    /// Returns the bytes that lie in all lanes to a shard.
    pub fn waiting_bytes(&self, to: ShardIndex) -> usize {
        (0..self.shards).map(|from| lock(self.lane(ShardIndex(from as u16), to)).bytes).sum()
    }

    /// Tells a shard what became of its batch. Consecutive commits are merged.
    pub fn complete(&self, shard: ShardIndex, completion: Completion) {
        let inbox = self.inbox(shard);
        let mut completions = lock(&inbox.completions);
        match (completions.last_mut(), completion) {
            (Some(last @ Completion::Committed(_)), Completion::Committed(_)) => *last = completion,
            _ => completions.push(completion),
        }
        drop(completions);
        inbox.wake.notify_one();
    }

    /// Moves what became of a shard's batches into `into`, in order.
    pub fn completions(&self, shard: ShardIndex, into: &mut Vec<Completion>) {
        into.append(&mut lock(&self.inbox(shard).completions));
    }

    /// Gives a shard what it wanted to read from the store.
    pub fn fetched(&self, shard: ShardIndex, fetched: Fetched) {
        let inbox = self.inbox(shard);
        lock(&inbox.fetched).push(fetched);
        inbox.wake.notify_one();
    }

    /// Takes what a shard wanted to read, in the order in which it asked.
    pub fn take_fetched(&self, shard: ShardIndex) -> Vec<Fetched> {
        std::mem::take(&mut lock(&self.inbox(shard).fetched))
    }

    /// Tells a shard what became of a password.
    pub fn judge(&self, shard: ShardIndex, connection: ConnectionId, verdict: Verdict) {
        let inbox = self.inbox(shard);
        lock(&inbox.verdicts).push((connection, verdict));
        inbox.wake.notify_one();
    }

    /// Takes what became of the passwords of a shard.
    pub fn take_verdicts(&self, shard: ShardIndex) -> Vec<(ConnectionId, Verdict)> {
        std::mem::take(&mut lock(&self.inbox(shard).verdicts))
    }

    /// Gives a shard an order; dropped if too many wait.
    pub fn order(&self, shard: ShardIndex, order: Order) {
        let inbox = self.inbox(shard);
        let mut orders = lock(&inbox.orders);
        if orders.len() < ORDERS_MAX {
            orders.push(order);
        }
        drop(orders);
        inbox.wake.notify_one();
    }

    /// Takes the orders that wait for a shard.
    pub fn take_orders(&self, shard: ShardIndex) -> Vec<Order> {
        std::mem::take(&mut lock(&self.inbox(shard).orders))
    }

    /// Gives a shard a socket to listen on.
    pub fn listen(&self, shard: ShardIndex, listener: Listener) {
        let inbox = self.inbox(shard);
        lock(&inbox.listeners).push(listener);
        inbox.wake.notify_one();
    }

    /// Takes the sockets that a shard is to listen on.
    pub(crate) fn take_listeners(&self, shard: ShardIndex) -> Vec<Listener> {
        std::mem::take(&mut lock(&self.inbox(shard).listeners))
    }

    /// Takes the answers to commands of a shard's clients.
    pub(crate) fn take_answers(&self, shard: ShardIndex) -> Vec<Answer> {
        std::mem::take(&mut lock(&self.inbox(shard).answers))
    }

    /// Tells every shard that other rules are in force, and returns once all go by them.
    pub fn change_access(&self) {
        self.change_access_of(|_| true);
    }

    fn change_access_of(&self, is_told: impl Fn(usize) -> bool) {
        let mut told = Vec::with_capacity(self.shards);
        for (_, inbox) in self.inboxes.iter().enumerate().filter(|(shard, _)| is_told(*shard)) {
            told.push((inbox, inbox.access_told.fetch_add(1, Ordering::AcqRel) + 1));
            inbox.wake.notify_one();
        }
        let is_behind =
            |(inbox, change): &(&Inbox, u64)| inbox.access_heeded.load(Ordering::Acquire) < *change;
        let waiting = lock(&self.heeding);
        drop(self.heeded.wait_timeout_while(waiting, HEEDED_WITHIN, |()| told.iter().any(is_behind)));
    }

    /// Returns the change of rules that a shard has to heed, if there is one.
    pub fn access_change(&self, shard: ShardIndex) -> Option<u64> {
        let inbox = self.inbox(shard);
        let told = inbox.access_told.load(Ordering::Acquire);
        (told > inbox.access_heeded.load(Ordering::Relaxed)).then_some(told)
    }

    /// Takes note that a shard goes by the rules since a change.
    pub fn access_heeded(&self, shard: ShardIndex, change: u64) {
        self.inbox(shard).access_heeded.store(change, Ordering::Release);
        drop(lock(&self.heeding));
        self.heeded.notify_all();
    }

    /// Tells every shard to say farewell to its clients and end.
    pub fn shut_down(&self) {
        for inbox in &self.inboxes {
            inbox.shutdown.store(true, Ordering::Release);
            inbox.wake.notify_one();
        }
    }

    /// Tells every shard that some of its clients may not be trusted any more.
    pub fn tell_distrust(&self) {
        for inbox in &self.inboxes {
            inbox.distrust.store(true, Ordering::Release);
            inbox.wake.notify_one();
        }
    }

    /// Tells, once, whether some clients of a shard may not be trusted any more.
    pub fn take_distrust(&self, shard: ShardIndex) -> bool {
        self.inbox(shard).distrust.swap(false, Ordering::AcqRel)
    }

    /// Tells whether the shards were told to end.
    pub fn is_shutting_down(&self, shard: ShardIndex) -> bool {
        self.inbox(shard).shutdown.load(Ordering::Acquire)
    }

    /// Waits until there is something in a shard's mailbox, or it was rung for.
    pub async fn wait(&self, shard: ShardIndex) {
        self.inbox(shard).wake.notified().await;
    }

    /// Counts a turn of a shard, as a sign of life.
    pub fn count_turn(&self, shard: ShardIndex) {
        self.inbox(shard).turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes every shard and returns how many turns each had made before that.
    pub fn ping(&self) -> Vec<u64> {
        let turns = self.turns();
        for inbox in &self.inboxes {
            inbox.wake.notify_one();
        }
        turns
    }

    /// Returns how many turns each shard has made.
    pub fn turns(&self) -> Vec<u64> {
        self.inboxes.iter().map(|inbox| inbox.turns.load(Ordering::Relaxed)).collect()
    }

    fn lane(&self, from: ShardIndex, to: ShardIndex) -> &Mutex<Lane<T>> {
        &self.lanes[usize::from(to.0) * self.shards + usize::from(from.0)]
    }

    fn inbox(&self, shard: ShardIndex) -> &Inbox {
        &self.inboxes[usize::from(shard.0)]
    }
}

impl<T: Freight + Send> Audience for Exchange<T> {
    fn answer(&self, shard: ShardIndex, answer: Answer) {
        if answer.changes_access {
            self.change_access_of(|other| other != usize::from(shard.0));
        }
        let inbox = self.inbox(shard);
        lock(&inbox.answers).push(answer);
        inbox.wake.notify_one();
    }
}

/// Lists the shards of a bit set.
fn shards_in(mut set: u64) -> impl Iterator<Item = ShardIndex> {
    std::iter::from_fn(move || {
        let shard = ShardIndex(u16::try_from(set.trailing_zeros()).ok().filter(|_| set != 0)?);
        set &= set - 1;
        Some(shard)
    })
}

/// Locks, even if another thread panicked while it held the lock: all that is guarded here is whole between two statements.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Crate {
        bytes: usize,
        droppable: bool,
    }

    impl Freight for Crate {
        fn size_bytes(&self) -> usize {
            self.bytes
        }

        fn is_droppable(&self) -> bool {
            self.droppable
        }
    }

    const A: ShardIndex = ShardIndex(0);
    const B: ShardIndex = ShardIndex(1);
    const LIMIT: usize = 100;

    fn droppable(bytes: usize) -> Crate {
        Crate { bytes, droppable: true }
    }

    fn needed(bytes: usize) -> Crate {
        Crate { bytes, droppable: false }
    }

    fn collect(exchange: &Exchange<Crate>, to: ShardIndex) -> Vec<Crate> {
        let mut items = Vec::new();
        exchange.collect(to, &mut items);
        items
    }

    #[test]
    fn a_full_lane_drops_only_what_may_be_dropped() {
        let exchange = Exchange::new(2, LIMIT);

        assert_eq!(exchange.post(A, B, droppable(LIMIT)), Posted::Accepted);
        assert_eq!(exchange.post(A, B, droppable(1)), Posted::Refused(droppable(1)));
        assert_eq!(exchange.post(A, B, needed(1)), Posted::Stalled);

        exchange.ring(A, 1 << B.0);
        assert_eq!(collect(&exchange, B), [droppable(LIMIT), needed(1)]);
    }

    #[test]
    fn lanes_of_other_pairs_are_not_filled() {
        let exchange = Exchange::new(2, LIMIT);
        exchange.post(A, B, needed(LIMIT));

        assert_eq!(exchange.post(B, A, droppable(LIMIT)), Posted::Accepted);
        assert_eq!(exchange.waiting_bytes(A), LIMIT);
        assert_eq!(exchange.waiting_bytes(B), LIMIT);
    }

    #[test]
    fn an_emptied_lane_relieves_its_sender_once() {
        let exchange = Exchange::new(2, LIMIT);
        exchange.post(A, B, needed(LIMIT + 1));
        exchange.ring(A, 1 << B.0);
        assert_eq!(exchange.relieved(A), 0);

        collect(&exchange, B);

        assert_eq!(exchange.relieved(A), 1 << B.0);
        assert_eq!(exchange.relieved(A), 0);
        assert_eq!(exchange.post(A, B, droppable(LIMIT)), Posted::Accepted);
    }

    #[test]
    fn a_lane_within_its_limit_relieves_nobody() {
        let exchange = Exchange::new(2, LIMIT);
        exchange.post(A, B, needed(LIMIT));
        exchange.ring(A, 1 << B.0);

        collect(&exchange, B);

        assert_eq!(exchange.relieved(A), 0);
    }

    #[test]
    fn nothing_is_collected_before_the_bell() {
        let exchange = Exchange::new(2, LIMIT);
        exchange.post(A, B, needed(1));

        assert_eq!(collect(&exchange, B), []);
        exchange.ring(A, 1 << B.0);
        assert_eq!(collect(&exchange, B), [needed(1)]);
    }

    #[test]
    fn the_last_of_sixty_four_shards_can_post_to_itself_and_others() {
        let exchange = Exchange::new(64, LIMIT);
        let last = ShardIndex(63);
        exchange.post(last, last, needed(1));
        exchange.post(last, A, needed(2));
        exchange.ring(last, 1 << 63 | 1);

        assert_eq!(collect(&exchange, last), [needed(1)]);
        assert_eq!(collect(&exchange, A), [needed(2)]);
    }

    #[test]
    fn commits_are_merged_but_never_across_a_failure() {
        let exchange = Exchange::<Crate>::new(1, LIMIT);
        for completion in [
            Completion::Committed(Ticket(1)),
            Completion::Committed(Ticket(2)),
            Completion::Failed(Ticket(3)),
            Completion::Committed(Ticket(4)),
        ] {
            exchange.complete(A, completion);
        }

        let mut completions = Vec::new();
        exchange.completions(A, &mut completions);

        assert_eq!(
            completions,
            [
                Completion::Committed(Ticket(2)),
                Completion::Failed(Ticket(3)),
                Completion::Committed(Ticket(4))
            ]
        );
    }

    #[tokio::test]
    async fn a_bell_before_the_wait_is_not_lost() {
        let exchange = Exchange::new(2, LIMIT);
        exchange.post(A, B, needed(1));
        exchange.ring(A, 1 << B.0);

        let waited = tokio::time::timeout(Duration::from_secs(5), exchange.wait(B)).await;

        assert!(waited.is_ok());
    }

    #[test]
    fn who_has_changed_rules_is_answered_when_every_other_shard_goes_by_them() {
        let exchange = Exchange::<Crate>::new(2, LIMIT);
        let answer = Answer {
            session: veilmq_core::SessionId(1),
            topic: veilmq_core::ControlTopic::DynamicSecurity,
            payload: Vec::new(),
            changes_access: true,
        };
        std::thread::scope(|threads| {
            let answering = threads.spawn(|| exchange.answer(A, answer));
            let change = std::iter::repeat_with(|| exchange.access_change(B)).flatten().next().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            assert!(exchange.take_answers(A).is_empty(), "the other shard does not go by them yet");
            exchange.access_heeded(B, change);
            answering.join().unwrap();
        });

        assert_eq!(exchange.access_change(B), None);
        assert_eq!(exchange.access_change(A), None, "its own learns it from the answer");
        assert_eq!(exchange.take_answers(A).len(), 1);
    }
}
