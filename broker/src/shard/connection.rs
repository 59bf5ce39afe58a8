//! One Network Connection as the daemon sees it: a socket, and one task that holds no buffer.
//!
//! The task reads into the buffer of its shard and never writes while the connection is open: writing is the flush step's, which
//! this task tells when a socket that was full takes bytes again. After the shard has forgotten the connection, the task writes
//! what is left, closes its side, and waits a little for the peer to close too, so that the farewell is not lost to a reset.
//! Invariant: once the socket is gone the task ends, and with it everything the connection held.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;
use veilmq_core::{ConnectionId, Input, Moment, Outbox};

use super::limit::Permit;
use super::meter::Meter;
use super::socket::{DetachedSocket, Socket, Written};
use super::worker::Worker;
use super::{gate, pace};
use crate::clock;
use crate::logging::MOSQUITTOS_LINES;
use crate::proxy::Proxied;
use crate::tls::DISTRUSTED;
use crate::transport::End;
use crate::websocket::CloseCode;

/// How long a closing connection may take to write what is left and to be closed by its peer.
pub(super) const CLOSE_SECONDS_MAX: u64 = 5;
/// How long a proxy that speaks for itself may say nothing behind its header. It asks whether the broker is there, and knows by then.
const PROXY_SECONDS_MAX: u64 = 2;
/// Full reads in one poll, before other connections have their turn.
const READS_MAX: usize = 4;

/// A Network Connection of this shard.
pub(super) struct Connection {
    id: ConnectionId,
    socket: RefCell<Option<Socket>>,
    closing: RefCell<Option<Box<Closing>>>,
    task: RefCell<Option<Waker>>,
    /// Since when the socket takes no more bytes.
    blocked_since: Cell<Option<Moment>>,
    /// The outbox was at its limit, so the core may hold messages back until it is told of room.
    pub(super) is_full: Cell<bool>,
    pub(super) is_dirty: Cell<bool>,
    pub(super) is_paused: Cell<bool>,
    /// Its password is being checked, and nothing is read until that is done.
    pub(super) is_being_verified: Cell<bool>,
    /// It has sent faster than it may, and is not read for a while.
    pub(super) is_throttled: Cell<bool>,
    pub(super) is_watched: Cell<bool>,
    permit: RefCell<Option<Permit>>,
}

/// What an idle connection costs beside its socket and its session.
const CONNECTION_BYTES_MAX: usize = 160;
const _: () = assert!(size_of::<Connection>() <= CONNECTION_BYTES_MAX);

/// A connection that the shard has forgotten.
struct Closing {
    outbox: Outbox,
    deadline: Moment,
}

impl Connection {
    /// Takes a socket in.
    pub(super) fn new(id: ConnectionId, socket: Socket, permit: Permit) -> Rc<Self> {
        Rc::new(Self {
            id,
            socket: RefCell::new(Some(socket)),
            closing: RefCell::new(None),
            task: RefCell::new(None),
            blocked_since: Cell::new(None),
            is_full: Cell::new(false),
            is_dirty: Cell::new(false),
            is_paused: Cell::new(false),
            is_being_verified: Cell::new(false),
            is_throttled: Cell::new(false),
            is_watched: Cell::new(false),
            permit: RefCell::new(Some(permit)),
        })
    }

    /// Returns its identity.
    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Has its task polled.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.task.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Tells whether it holds the right to be not established yet.
    pub(super) fn is_opening(&self) -> bool {
        self.permit.borrow().as_ref().is_some_and(Permit::is_opening)
    }

    /// Gives that right back.
    pub(super) fn established(&self) {
        if let Some(permit) = &mut *self.permit.borrow_mut() {
            permit.established();
        }
    }

    /// Lends what measures it, if its rate is limited.
    pub(super) fn measure<T>(&self, measure: impl FnOnce(&Meter) -> T) -> Option<T> {
        self.permit.borrow().as_ref().and_then(Permit::meter).map(measure)
    }

    /// Tells whether the socket is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.socket.borrow().is_none()
    }

    /// Tells since when the socket takes no bytes.
    pub(super) fn blocked_since(&self) -> Option<Moment> {
        self.blocked_since.get()
    }

    /// Returns by when the peer has to say anything, if it has a time of its own for that and has not.
    pub(super) fn speaks_by(&self) -> Option<Moment> {
        self.socket.borrow().as_ref().and_then(Socket::speaks_by)
    }

    /// Returns until when a closing connection may take.
    pub(super) fn closing_deadline(&self) -> Option<Moment> {
        self.closing.borrow().as_ref().map(|closing| closing.deadline)
    }

    /// Tells whether it is closing and has bytes that were not written yet.
    pub(super) fn has_unsent(&self) -> bool {
        match (&*self.closing.borrow(), &*self.socket.borrow()) {
            (Some(closing), Some(socket)) => socket.has_unsent(&closing.outbox),
            (None, _) | (_, None) => false,
        }
    }

    /// Takes note that the socket takes no more bytes; the task then waits until it does.
    pub(super) fn block(&self, now: Moment) {
        self.blocked_since.set(Some(now));
        self.wake();
    }

    /// Begins to close: what is in the outbox is still written, and on a WebSocket a Close frame with `code`.
    pub(super) fn close(&self, outbox: Outbox, code: CloseCode, deadline: Moment) {
        self.blocked_since.set(None);
        if let Some(socket) = &mut *self.socket.borrow_mut() {
            socket.close(code);
        }
        *self.closing.borrow_mut() = Some(Box::new(Closing { outbox, deadline }));
        self.wake();
    }

    /// Closes the socket at once.
    pub(super) fn abandon(&self) {
        drop(self.socket.borrow_mut().take());
        drop(self.permit.borrow_mut().take());
        drop(self.closing.borrow_mut().take());
        self.blocked_since.set(None);
        self.wake();
    }

    /// Takes the socket out, to be used on another thread.
    ///
    /// # Errors
    /// What the operating system answered; None if the socket is gone already.
    pub(super) fn take_socket(&self) -> io::Result<Option<(DetachedSocket, Permit)>> {
        let taken = (self.socket.borrow_mut().take(), self.permit.borrow_mut().take());
        self.wake();
        match taken {
            (Some(socket), Some(permit)) => Ok(Some((socket.detach()?, permit))),
            (None, _) | (_, None) => Ok(None),
        }
    }

    /// Writes what the socket takes of the outbox, and of what goes with it.
    pub(super) fn write(&self, outbox: &mut Outbox) -> Written {
        match &mut *self.socket.borrow_mut() {
            Some(socket) => socket.write(outbox),
            None => Written::Blocked,
        }
    }

    fn poll(self: &Rc<Self>, worker: &Worker, context: &mut Context<'_>) -> Poll<()> {
        self.remember_task(context);
        if self.is_gone() {
            return Poll::Ready(());
        }
        if self.closing.borrow().is_none() {
            self.poll_writable(worker, context);
            if self.poll_reads(worker, context).is_pending() {
                return Poll::Pending;
            }
        }
        self.poll_closing(worker, context)
    }

    fn remember_task(&self, context: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if task.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
    }

    /// Has a blocked connection flushed as soon as its socket takes bytes; an error shows when that is tried.
    fn poll_writable(self: &Rc<Self>, worker: &Worker, context: &mut Context<'_>) {
        if self.blocked_since.get().is_none() {
            return;
        }
        let is_ready =
            self.socket.borrow().as_ref().is_some_and(|socket| socket.poll_write_ready(context).is_ready());
        if is_ready {
            self.blocked_since.set(None);
            worker.mark_dirty(self);
        }
    }

    /// Reads until the socket has nothing left; ready once the connection is no longer open.
    fn poll_reads(self: &Rc<Self>, worker: &Worker, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..READS_MAX {
            if worker.pause_if_needed(self) {
                return Poll::Pending;
            }
            let mut scratch = worker.scratch();
            let mut buffer = ReadBuf::new(&mut scratch);
            match self.poll_read(&mut buffer, context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.take_in(buffer.filled_mut(), worker);
                }
                Poll::Ready(_) => worker.lose(self),
            }
            if self.is_gone() || self.closing.borrow().is_some() {
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_read(&self, buffer: &mut ReadBuf<'_>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.socket.borrow_mut() {
            Some(socket) => socket.poll_read(buffer, context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Hands the core what was read for it.
    fn take_in(self: &Rc<Self>, bytes: &mut [u8], worker: &Worker) {
        let (received_before, length) = (pace::received_so_far(worker), bytes.len());
        let mut plaintext = worker.take_plaintext_buffer();
        let (proxied, user, certificate, packets) = match &mut *self.socket.borrow_mut() {
            Some(socket) => {
                let packets = socket.unpack(bytes, &mut plaintext);
                (socket.take_proxied(), socket.take_user(), socket.take_certificate(), packets)
            }
            None => return,
        };
        if let Some(proxied) = proxied {
            self.introduced(&proxied, packets.is_empty(), worker);
        }
        if let Some(certificate) = certificate {
            worker.turn(Input::Certified { connection: self.id, certificate });
        }
        if let Some(user) = user {
            worker.turn(Input::Vouched { connection: self.id, user: &user });
        }
        if !packets.is_empty() {
            worker.turn(Input::Received { connection: self.id, bytes: packets });
        }
        worker.give_plaintext_buffer(plaintext);
        pace::heed(worker, self, received_before, length);
        self.heed_transport(worker);
    }

    /// Goes by what a proxy says of the client.
    fn introduced(self: &Rc<Self>, proxied: &Proxied, is_silent: bool, worker: &Worker) {
        if proxied.is_local && is_silent {
            let now = clock::now();
            if let Some(socket) = &mut *self.socket.borrow_mut() {
                socket.speak_by(now.plus_seconds(PROXY_SECONDS_MAX));
            }
            worker.watch(self, now);
        }
        let Some(client) = proxied.client.as_ref().map(ToString::to_string) else { return };
        if let Some((tls, cipher)) = proxied.cipher() {
            tracing::info!(target: MOSQUITTOS_LINES, peer = client, tls, cipher, "encrypted up to the proxy");
        }
        worker.turn(Input::Located { connection: self.id, peer: &client });
        let located = match &mut *self.permit.borrow_mut() {
            Some(permit) => gate::locate(worker, permit, &client),
            None => Ok(()),
        };
        if let Err(rule) = located {
            worker.turn(Input::Violated { connection: self.id, rule });
        }
    }

    /// Ends an open connection whose client has lost what it had proved.
    pub(super) fn heed_distrust(&self, worker: &Worker) {
        let is_trusted = self.socket.borrow().as_ref().is_none_or(Socket::is_still_trusted);
        if !is_trusted && self.closing.borrow().is_none() {
            worker.end(self.id, End::Violated(DISTRUSTED));
        }
    }

    /// Does what the client asked of what carries MQTT: answers, or an end.
    pub(super) fn heed_transport(self: &Rc<Self>, worker: &Worker) {
        let (has_answer, end) = match &*self.socket.borrow() {
            Some(socket) => (socket.has_unsent(&Outbox::default()), socket.end()),
            None => return,
        };
        if self.closing.borrow().is_some() {
            return;
        }
        if has_answer {
            worker.mark_dirty(self);
        }
        if let Some(end) = end {
            worker.end(self.id, end);
        }
    }

    /// Writes the rest, closes our side, and discards what comes until the peer closes or the worker's patience ends.
    fn poll_closing(&self, worker: &Worker, context: &mut Context<'_>) -> Poll<()> {
        if self.poll_farewell(context).is_pending() {
            return Poll::Pending;
        }
        for _ in 0..READS_MAX {
            let mut scratch = worker.scratch();
            let mut buffer = ReadBuf::new(&mut scratch);
            match self.poll_read(&mut buffer, context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => {
                    self.abandon();
                    return Poll::Ready(());
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_farewell(&self, context: &mut Context<'_>) -> Poll<()> {
        let (mut closing, mut socket) = (self.closing.borrow_mut(), self.socket.borrow_mut());
        let (Some(closing), Some(socket)) = (closing.as_deref_mut(), &mut *socket) else {
            return Poll::Ready(());
        };
        loop {
            match socket.write(&mut closing.outbox) {
                Written::All => break,
                Written::Share => {}
                Written::Blocked => match socket.poll_write_ready(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {}
                },
                // The peer is not there to read it.
                Written::Broken => {
                    closing.outbox = Outbox::default();
                    break;
                }
            }
        }
        socket.shut_down();
        Poll::Ready(())
    }
}

/// The task of one connection.
pub(super) struct ConnectionTask {
    pub(super) connection: Rc<Connection>,
    pub(super) worker: Rc<Worker>,
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.connection.poll(&self.worker, context)
    }
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.worker.task_ended();
    }
}
