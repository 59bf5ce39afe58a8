//! One shard at work: the core's shard, its sockets, and how what the shard asks for is done.
//!
//! All of it belongs to one thread, so nothing is locked. A turn hands one input to the core, or several of a kind, ends, and has
//! its effects performed in order; performing never calls the core, so turns do not nest.
//! Invariant: a connection is in `connections` as long as the core knows it, and no longer.

mod deadlines;

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::warn;
use veilmq_core::{
    Arrival, ConnectionId, Credentials, Effect, Environment, IdMap, Input, Moment, Outbox, Record, Shard,
    ShardIndex, Ticket,
};
use veilmq_protocol::TopicName;

use super::Mail;
use super::connection::{CLOSE_SECONDS_MAX, Connection, ConnectionTask};
use super::counters::Counters;
use super::gate::Admission;
use super::layers::{Layers, TooManyHandshakes};
use super::limit::Permit;
use super::mailbox::{Completion, Exchange, Posted};
use super::meter::Meters;
use super::parts::WorkerParts;
use super::socket::Socket;
use super::stream::Stream;
use super::{accept, orders, pace};
use crate::access::{Answer, Control, Reply, Verifier};
use crate::clock;
use crate::gate::Gate;
use crate::listener::{Carrier, Listener};
use crate::store::{Fetched, StorageHandle};
use crate::transport::End;
use crate::websocket::CloseCode;

/// One buffer for all sockets of a shard.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;
/// Connections whose certificates are looked at again in one go; each takes up to a few signatures.
const DISTRUST_CHUNK: usize = 16;

/// A shard at work.
pub(super) struct Worker {
    index: ShardIndex,
    shard: RefCell<Shard>,
    effects: RefCell<Vec<Effect>>,
    scratch: RefCell<Box<[u8]>>,
    /// One buffer for what was decrypted of a read.
    plaintext: Cell<Vec<u8>>,
    connections: RefCell<IdMap<ConnectionId, Rc<Connection>>>,
    /// Connection tasks that have not ended.
    tasks: Cell<usize>,
    dirty: RefCell<Vec<Rc<Connection>>>,
    flush: Notify,
    paused: RefCell<Vec<Rc<Connection>>>,
    /// Connections that are blocked or closing, which have a deadline of their own.
    watched: RefCell<Vec<Rc<Connection>>>,
    patrol_at: Cell<Option<Moment>>,
    timer: Notify,
    armed: Cell<Option<Moment>>,
    /// Bit s: the lane to shard s is over its limit.
    stalled_lanes: Cell<u64>,
    /// Bit s: shard s has new mail of this turn.
    rings: Cell<u64>,
    submitted: Cell<Ticket>,
    settled: Cell<Ticket>,
    exchange: Arc<Exchange<Mail>>,
    storage: StorageHandle,
    storage_backlog_bytes_max: usize,
    gate: Admission,
    connection_ids: Arc<AtomicU64>,
    verifier: Arc<Verifier>,
    reply: Arc<Reply>,
    control: Arc<Control>,
    counters: Arc<Counters>,
    /// What measures clients, as the gate said when this shard was last told of a change.
    meters: RefCell<Option<Arc<Meters>>>,
    /// Opens when clients are let in.
    opens: Gate,
    accepting: RefCell<Vec<AbortHandle>>,
}

impl Worker {
    /// Puts a shard to work on this thread.
    pub(super) fn new(parts: WorkerParts) -> Rc<Self> {
        let meters = parts.gate.meters();
        Rc::new(Self {
            index: parts.shard.index(),
            shard: RefCell::new(parts.shard),
            effects: RefCell::default(),
            plaintext: Cell::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            connections: RefCell::default(),
            tasks: Cell::new(0),
            dirty: RefCell::default(),
            flush: Notify::new(),
            paused: RefCell::default(),
            watched: RefCell::default(),
            patrol_at: Cell::new(None),
            timer: Notify::new(),
            armed: Cell::new(None),
            stalled_lanes: Cell::new(0),
            rings: Cell::new(0),
            submitted: Cell::new(Ticket(0)),
            settled: Cell::new(Ticket(0)),
            exchange: parts.exchange,
            storage: parts.storage,
            storage_backlog_bytes_max: parts.storage_backlog_bytes_max,
            gate: parts.gate,
            connection_ids: parts.connection_ids,
            verifier: parts.verifier,
            reply: parts.reply,
            control: parts.control,
            counters: parts.counters,
            meters: RefCell::new(meters),
            opens: parts.opens,
            accepting: RefCell::default(),
        })
    }

    /// Returns the position of the shard.
    pub(super) fn index(&self) -> ShardIndex {
        self.index
    }

    /// Returns the mailboxes.
    pub(super) fn exchange(&self) -> &Exchange<Mail> {
        &self.exchange
    }

    /// Returns who may have a connection.
    pub(super) fn gate(&self) -> &Admission {
        &self.gate
    }

    /// Returns what measures clients, if anything does.
    pub(super) fn meters(&self) -> Option<Arc<Meters>> {
        self.meters.borrow().clone()
    }

    /// Returns what is counted.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the read buffer. It may be lent while a turn is made, and to one reader at a time.
    pub(super) fn scratch(&self) -> RefMut<'_, [u8]> {
        RefMut::map(self.scratch.borrow_mut(), |scratch| &mut **scratch)
    }

    /// Takes the buffer for what is decrypted; it is empty.
    pub(super) fn take_plaintext_buffer(&self) -> Vec<u8> {
        self.plaintext.take()
    }

    /// Gives the buffer back, unless it has become larger than what one read makes necessary.
    pub(super) fn give_plaintext_buffer(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= 2 * SCRATCH_BYTES {
            buffer.clear();
            self.plaintext.set(buffer);
        }
    }

    /// Looks at every connection whether its client is still who it has proved to be, a few at a time.
    async fn end_distrusted(self: Rc<Self>) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for some in connections.chunks(DISTRUST_CHUNK) {
            for connection in some {
                connection.heed_distrust(&self);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Lends the core's shard between turns.
    pub(super) fn with_shard<T>(&self, read: impl FnOnce(&mut Shard) -> T) -> T {
        read(&mut self.shard.borrow_mut())
    }

    /// Makes a turn with one input.
    pub(super) fn turn(&self, input: Input<'_>) {
        self.make_turn(|shard, environment, effects| shard.handle(environment, input, effects));
    }

    /// Publishes what the broker says of itself: topics below `$SYS`, each with its payload.
    pub(super) fn announce(&self, announcements: &[(String, String)]) {
        if announcements.is_empty() {
            return;
        }
        self.make_turn(|shard, environment, effects| {
            for (topic, payload) in announcements {
                let Ok(topic) = TopicName::new(topic) else { continue };
                let input = Input::Announced { topic, payload: payload.as_bytes(), retain: true };
                shard.handle(environment, input, effects);
            }
        });
    }

    fn make_turn(&self, act: impl FnOnce(&mut Shard, &mut Environment<'_>, &mut Vec<Effect>)) {
        let mut entropy = fill_random;
        let mut environment =
            Environment { now: clock::now(), unix_ms: clock::unix_ms(), entropy: &mut entropy };
        let mut effects = self.effects.take();
        let mut shard = self.shard.borrow_mut();
        act(&mut shard, &mut environment, &mut effects);
        shard.end_turn(&mut environment, &mut effects);
        let deadline = shard.next_deadline();
        drop(shard);
        self.exchange.count_turn(self.index);
        for effect in effects.drain(..) {
            self.perform(effect, environment.now);
        }
        self.effects.replace(effects);
        self.exchange.ring(self.index, self.rings.take());
        self.arm(deadline);
    }

    fn perform(&self, effect: Effect, now: Moment) {
        match effect {
            Effect::Flush(connection) => {
                if let Some(connection) = self.connections.borrow().get(&connection) {
                    self.mark_dirty(connection);
                }
            }
            Effect::Close { connection, outbox } => self.close(connection, outbox, now),
            Effect::Verify { connection, credentials } => self.verify(connection, credentials),
            Effect::Renew { connection, credentials } => {
                self.verifier.renew(self.index, connection, credentials, &self.reply);
            }
            Effect::Command(command) => self.control.submit(self.index, command),
            Effect::Hand { shard, arrival } => self.hand(shard, arrival),
            Effect::Commit { ticket, records, awaited } => self.commit(ticket, records, awaited),
            Effect::Fetch { reader, messages } => self.storage.fetch(self.index, reader, messages),
            Effect::Post { shard, parcel } => self.post(shard, Mail::Parcel(parcel)),
        }
    }

    fn close(&self, connection: ConnectionId, outbox: Outbox, now: Moment) {
        if let Some(connection) = self.connections.borrow_mut().remove(&connection) {
            let is_ending = self.exchange.is_shutting_down(self.index);
            let code = if is_ending { CloseCode::Away } else { CloseCode::Normal };
            connection.close(outbox, code, now.plus_seconds(CLOSE_SECONDS_MAX));
            self.watch(&connection, now);
        }
    }

    /// Has a password checked; meanwhile nothing more is read, so that nothing has to be kept.
    fn verify(&self, connection: ConnectionId, credentials: Box<Credentials>) {
        if let Some(connection) = self.connections.borrow().get(&connection) {
            connection.is_being_verified.set(true);
        }
        self.verifier.verify(self.index, connection, credentials, &self.reply);
    }

    fn take_verdicts(&self) {
        for (id, verdict) in self.exchange.take_verdicts(self.index) {
            let connection = self.connections.borrow().get(&id).cloned();
            self.turn(Input::Verified { connection: id, verdict });
            if let Some(connection) = connection {
                connection.is_being_verified.set(false);
                pace::establish(self, &connection);
                connection.wake();
            }
        }
    }

    fn hand(&self, shard: ShardIndex, arrival: Box<Arrival>) {
        let Some(connection) = self.connections.borrow_mut().remove(&arrival.connection()) else { return };
        match connection.take_socket() {
            Ok(Some((socket, permit))) => self.post(shard, Mail::Arrival { socket, permit, arrival }),
            Ok(None) => {}
            Err(error) => {
                warn!(connection = connection.id().0, %error, "connection lost on its way to its shard");
            }
        }
    }

    fn commit(&self, ticket: Ticket, records: Vec<Record>, awaited: bool) {
        self.submitted.set(ticket);
        self.storage.submit(self.index, ticket, records, awaited);
    }

    fn post(&self, shard: ShardIndex, mail: Mail) {
        match self.exchange.post(self.index, shard, mail) {
            Posted::Accepted => {}
            Posted::Stalled => self.stalled_lanes.set(self.stalled_lanes.get() | 1 << shard.0),
            Posted::Refused(Mail::Parcel(parcel)) => {
                return self.counters.deliveries_dropped(parcel.deliveries(shard));
            }
            // It may not be dropped.
            Posted::Refused(Mail::Arrival { .. }) => return,
        }
        self.rings.set(self.rings.get() | 1 << shard.0);
    }

    /// Takes a socket that was accepted, and says which connection that is now.
    ///
    /// # Errors
    /// Why it was closed at once instead.
    pub(super) fn accept(
        self: &Rc<Self>,
        stream: Stream,
        carrier: &Carrier,
        peer: &str,
        permit: Permit,
    ) -> Result<ConnectionId, &'static str> {
        let layers = match Layers::of(carrier) {
            Ok(layers) => layers,
            Err(TooManyHandshakes) => return Err("limits.tls_handshakes_max TLS handshakes are under way"),
        };
        let id = ConnectionId(self.connection_ids.fetch_add(1, Ordering::Relaxed));
        self.adopt(id, Socket::new(stream, layers), permit);
        self.turn(carrier.accepted(id, peer));
        Ok(id)
    }

    /// Tells whether an operator has banned the address of a client.
    pub(super) fn is_banned(&self, peer: &str) -> bool {
        self.verifier.is_banned_by_operator(peer)
    }

    /// Takes what lies in the mailbox, and lets connections read again that had to pause.
    pub(super) fn take_mail(self: &Rc<Self>, mail: &mut Vec<Mail>, completions: &mut Vec<Completion>) {
        self.exchange.completions(self.index, completions);
        for completion in completions.drain(..) {
            let (ticket, input) = match completion {
                Completion::Committed(ticket) => (ticket, Input::Committed(ticket)),
                Completion::Failed(ticket) => (ticket, Input::CommitFailed(ticket)),
            };
            self.settled.set(ticket);
            self.turn(input);
        }
        for Fetched { reader, asked, messages } in self.exchange.take_fetched(self.index) {
            self.turn(Input::Fetched { reader, asked, messages });
        }
        let change = self.exchange.access_change(self.index);
        let mut has_access_changed = change.is_some();
        // Who has changed its own rights learns that before it is told to go.
        for Answer { session, topic, payload, changes_access } in self.exchange.take_answers(self.index) {
            self.turn(Input::Answered { session, topic, payload: &payload });
            has_access_changed |= changes_access;
        }
        if has_access_changed {
            self.meters.replace(self.gate.meters());
            self.turn(Input::AccessChanged);
        }
        if let Some(change) = change {
            self.exchange.access_heeded(self.index, change);
        }
        for listener in self.exchange.take_listeners(self.index) {
            self.listen(listener);
        }
        self.take_verdicts();
        orders::carry_out(self);
        self.exchange.collect(self.index, mail);
        if !mail.is_empty() {
            self.open_mail(mail);
        }
        self.stalled_lanes.set(self.stalled_lanes.get() & !self.exchange.relieved(self.index));
        self.resume_reading();
        if self.exchange.take_distrust(self.index) {
            tokio::task::spawn_local(Rc::clone(self).end_distrusted());
        }
        // An empty mailbox is a question whether this shard is alive.
        self.exchange.count_turn(self.index);
    }

    /// All parcels of a batch make one turn.
    fn open_mail(self: &Rc<Self>, mail: &mut Vec<Mail>) {
        let mut arrivals = Vec::new();
        self.make_turn(|shard, environment, effects| {
            for mail in mail.drain(..) {
                match mail {
                    Mail::Parcel(parcel) => shard.handle(environment, Input::Parcel(parcel), effects),
                    Mail::Arrival { socket, permit, arrival } => arrivals.push((socket, permit, arrival)),
                }
            }
        });
        for (socket, permit, arrival) in arrivals {
            match socket.attach() {
                Ok(socket) => {
                    let connection = self.adopt(arrival.connection(), socket, permit);
                    self.turn(Input::Arrived(arrival));
                    pace::establish(self, &connection);
                    // On its way it may have missed that certificates were read again.
                    connection.heed_distrust(self);
                    connection.heed_transport(self);
                }
                Err(error) => warn!(%error, "connection lost on its way to its shard"),
            }
        }
    }

    fn adopt(self: &Rc<Self>, id: ConnectionId, socket: Socket, permit: Permit) -> Rc<Connection> {
        let connection = Connection::new(id, socket, permit);
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        self.tasks.set(self.tasks.get() + 1);
        let task = ConnectionTask { connection: Rc::clone(&connection), worker: Rc::clone(self) };
        tokio::task::spawn_local(task);
        connection
    }

    /// Takes note that the task of a connection has ended.
    pub(super) fn task_ended(&self) {
        self.tasks.set(self.tasks.get() - 1);
    }

    /// Tells how many connections still have a task.
    pub(super) fn tasks(&self) -> usize {
        self.tasks.get()
    }

    /// Tells whether a closing connection has bytes that were not written yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.watched.borrow().iter().any(|connection| connection.has_unsent())
    }

    /// Takes note that an open connection is broken or was closed by its peer.
    pub(super) fn lose(&self, connection: &Connection) {
        self.abandon(connection, Input::Closed { connection: connection.id() });
    }

    /// Closes a socket at once, and tells the core why, if it knows the connection.
    fn abandon(&self, connection: &Connection, why: Input<'_>) {
        connection.abandon();
        if self.connections.borrow_mut().remove(&connection.id()).is_some() {
            self.turn(why);
        }
    }

    /// Ends a connection on which no more is taken: what waits for the client is still sent.
    pub(super) fn end(&self, connection: ConnectionId, end: End) {
        match end {
            End::Closed => self.turn(Input::Closed { connection }),
            End::Violated(rule) => self.turn(Input::Violated { connection, rule }),
        }
    }

    /// Has a connection's outbox written at the end of this batch.
    pub(super) fn mark_dirty(&self, connection: &Rc<Connection>) {
        if connection.is_dirty.replace(true) {
            return;
        }
        let mut dirty = self.dirty.borrow_mut();
        dirty.push(Rc::clone(connection));
        if dirty.len() == 1 {
            self.flush.notify_one();
        }
    }

    /// Waits until connections are dirty and all other tasks had a turn, and moves them into `batch`, which is empty.
    pub(super) async fn wait_for_dirty(&self, batch: &mut Vec<Rc<Connection>>) {
        if !self.dirty.borrow().is_empty() {
            // What the flush itself made dirty must not keep the others waiting.
            tokio::task::yield_now().await;
        }
        self.flush.notified().await;
        std::mem::swap(&mut *self.dirty.borrow_mut(), batch);
    }

    /// Accepts on a listener until it is gone.
    pub(super) fn listen(self: &Rc<Self>, listener: Listener) {
        let task = accept::accept_until_gone(Rc::clone(self), listener, self.opens.clone());
        let mut accepting = self.accepting.borrow_mut();
        accepting.retain(|task| !task.is_finished());
        accepting.push(tokio::task::spawn_local(task).abort_handle());
    }

    /// Accepts nothing more.
    pub(super) fn stop_listening(&self) {
        for task in self.accepting.take() {
            task.abort();
        }
    }

    /// Tells the core which connections were full and have room again.
    pub(super) fn drained(&self, connections: &mut Vec<ConnectionId>) {
        if connections.is_empty() {
            return;
        }
        self.make_turn(|shard, environment, effects| {
            for connection in connections.drain(..) {
                shard.handle(environment, Input::Drained { connection }, effects);
            }
        });
    }

    /// Takes note that a socket takes no more bytes.
    pub(super) fn block(&self, connection: &Rc<Connection>) {
        let now = clock::now();
        connection.block(now);
        self.watch(connection, now);
    }

    /// Tells whether a connection must not be read now; it is then woken when it may.
    pub(super) fn pause_if_needed(&self, connection: &Rc<Connection>) -> bool {
        if connection.is_being_verified.get() || connection.is_throttled.get() {
            return true;
        }
        if connection.is_full.get() && self.with_shard(|shard| shard.owes_too_much(connection.id())) {
            return true;
        }
        if !self.is_behind() {
            return false;
        }
        if !connection.is_paused.replace(true) {
            self.counters.read_paused();
            self.paused.borrow_mut().push(Rc::clone(connection));
        }
        true
    }

    /// Tells whether a mailbox is full, or the storage writer has too much to do of which some is this shard's.
    fn is_behind(&self) -> bool {
        self.stalled_lanes.get() != 0
            || self.settled.get() < self.submitted.get()
                && self.storage.backlog_bytes() > self.storage_backlog_bytes_max
    }

    fn resume_reading(&self) {
        if self.is_behind() {
            return;
        }
        for connection in self.paused.take() {
            connection.is_paused.set(false);
            connection.wake();
        }
    }

    /// Closes every connection that the core knows, if there is any.
    pub(super) fn shut_down(&self) {
        if !self.connections.borrow().is_empty() {
            self.turn(Input::Shutdown);
        }
    }
}

fn fill_random(bytes: &mut [u8]) {
    // Without randomness no key is safe, and there is no one to ask but the operating system.
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}
