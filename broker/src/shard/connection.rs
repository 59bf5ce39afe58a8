//! One Network Connection as the daemon sees it: a socket, and one task that holds no buffer.
//!
//! The task reads into the buffer of its shard and never writes while the connection is open: writing is the flush step's, which
//! this task tells when a socket that was full takes bytes again. After the shard has forgotten the connection, the task writes
//! what is left, closes its side, and waits a little for the peer to close too, so that the farewell is not lost to a reset.
//! Invariant: once the socket is gone the task ends, and with it everything the connection held.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use veilmq_core::{ConnectionId, Input, Moment, Outbox};

use super::flush::write_once;
use super::limit::Permit;
use super::worker::Worker;

/// How long a closing connection may take to write what is left and to be closed by its peer.
pub(super) const CLOSE_SECONDS_MAX: u64 = 5;
/// Full reads in one poll, before other connections have their turn.
const READS_MAX: usize = 4;

/// A Network Connection of this shard.
pub(super) struct Connection {
    id: ConnectionId,
    stream: RefCell<Option<TcpStream>>,
    closing: RefCell<Option<Box<Closing>>>,
    task: RefCell<Option<Waker>>,
    /// Since when the socket takes no more bytes.
    blocked_since: Cell<Option<Moment>>,
    /// The outbox was at its limit, so the core may hold messages back until it is told of room.
    pub(super) is_full: Cell<bool>,
    pub(super) is_dirty: Cell<bool>,
    pub(super) is_paused: Cell<bool>,
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
    pub(super) fn new(id: ConnectionId, stream: TcpStream, permit: Permit) -> Rc<Self> {
        Rc::new(Self {
            id,
            stream: RefCell::new(Some(stream)),
            closing: RefCell::new(None),
            task: RefCell::new(None),
            blocked_since: Cell::new(None),
            is_full: Cell::new(false),
            is_dirty: Cell::new(false),
            is_paused: Cell::new(false),
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

    /// Tells whether the socket is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.stream.borrow().is_none()
    }

    /// Tells since when the socket takes no bytes.
    pub(super) fn blocked_since(&self) -> Option<Moment> {
        self.blocked_since.get()
    }

    /// Returns until when a closing connection may take.
    pub(super) fn closing_deadline(&self) -> Option<Moment> {
        self.closing.borrow().as_ref().map(|closing| closing.deadline)
    }

    /// Tells whether it is closing and has bytes that were not written yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.closing.borrow().as_ref().is_some_and(|closing| !closing.outbox.is_empty())
    }

    /// Takes note that the socket takes no more bytes; the task then waits until it does.
    pub(super) fn block(&self, now: Moment) {
        self.blocked_since.set(Some(now));
        self.wake();
    }

    /// Begins to close: what is in the outbox is still written.
    pub(super) fn close(&self, outbox: Outbox, deadline: Moment) {
        self.blocked_since.set(None);
        *self.closing.borrow_mut() = Some(Box::new(Closing { outbox, deadline }));
        self.wake();
    }

    /// Closes the socket at once.
    pub(super) fn abandon(&self) {
        drop(self.stream.borrow_mut().take());
        drop(self.permit.borrow_mut().take());
        drop(self.closing.borrow_mut().take());
        self.blocked_since.set(None);
        self.wake();
    }

    /// Takes the socket out, to be used on another thread.
    ///
    /// # Errors
    /// What the operating system answered; None if the socket is gone already.
    pub(super) fn take_socket(&self) -> io::Result<Option<(std::net::TcpStream, Permit)>> {
        let taken = (self.stream.borrow_mut().take(), self.permit.borrow_mut().take());
        self.wake();
        match taken {
            (Some(stream), Some(permit)) => Ok(Some((stream.into_std()?, permit))),
            (None, _) | (_, None) => Ok(None),
        }
    }

    /// Writes without waiting; `WouldBlock` if the socket is full or gone.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.stream.borrow() {
            Some(stream) => stream.try_write_vectored(slices),
            None => Err(io::ErrorKind::WouldBlock.into()),
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
            self.stream.borrow().as_ref().is_some_and(|stream| stream.poll_write_ready(context).is_ready());
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
                    worker.turn(Input::Received { connection: self.id, bytes: buffer.filled_mut() });
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

    /// Reads through `AsyncRead`, which knows that a buffer which was not filled means an empty socket and spares a system call.
    fn poll_read(&self, buffer: &mut ReadBuf<'_>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => Pin::new(stream).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
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
        let mut closing = self.closing.borrow_mut();
        let (Some(closing), Some(stream)) = (closing.as_deref_mut(), &*self.stream.borrow()) else {
            return Poll::Ready(());
        };
        while !closing.outbox.is_empty() {
            match write_once(&mut closing.outbox, |slices| stream.try_write_vectored(slices)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match stream.poll_write_ready(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(_) => {}
                    }
                }
                // The peer is not there to read it.
                Err(_) => closing.outbox = Outbox::default(),
            }
        }
        // It fails only if the connection is closed already, which reading will show.
        let _ = SockRef::from(stream).shutdown(Shutdown::Write);
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
