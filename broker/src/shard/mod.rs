//! The shards: one thread each, with its sockets, its timer, and the core's shard that it owns.
//!
//! A thread runs a few tasks that never end (mail, flush, timer, one for each listening socket) and one for each connection. Threads
//! meet only in the mailboxes.

mod accept;
mod announce;
mod connection;
mod counters;
mod flush;
mod gate;
mod layers;
mod limit;
mod mailbox;
mod meter;
mod orders;
mod pace;
mod parts;
mod socket;
mod stream;
mod tally;
mod timer;
mod visits;
mod worker;

use std::io;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;
use veilmq_core::{Arrival, Parcel, ShardIndex};

pub use announce::Announcer;
pub use counters::Counters;
pub use gate::Admission;
pub use limit::{ConnectionLimit, Permit};
pub use mailbox::{Completion, Exchange, Freight, Posted};
pub use orders::{Order, SUBSCRIPTIONS_MAX};
pub use parts::WorkerParts;
pub use socket::DetachedSocket;
pub(crate) use tally::Tally;

use crate::admin::Pulse;
use crate::bridge::Visits;
use crate::listener::Listener;
use crate::logging;
use worker::Worker;

/// The names of shard threads begin with this.
pub const THREAD_NAME_PREFIX: &str = "shard-";
/// How long clients may take to read their farewell when the broker ends.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// How long clients that have been sent everything may take to close their side when the broker ends.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// What a connection on its way weighs in a mailbox, with the packets it may have sent ahead.
const ARRIVAL_BYTES: usize = 4 * 1024;
const FAREWELL_POLL: Duration = Duration::from_millis(10);

/// What shards send each other.
pub enum Mail {
    /// Something for the core of the receiving shard.
    Parcel(Parcel),
    /// A connection whose session lives on the receiving shard.
    Arrival {
        /// Its socket.
        socket: DetachedSocket,
        /// Its place among the connections that may be open.
        permit: Permit,
        /// What the core knows of it.
        arrival: Box<Arrival>,
    },
}

impl Freight for Mail {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Parcel(parcel) => parcel.size_bytes(),
            Self::Arrival { .. } => ARRIVAL_BYTES,
        }
    }

    fn is_droppable(&self) -> bool {
        match self {
            Self::Parcel(parcel) => parcel.is_droppable(),
            Self::Arrival { .. } => false,
        }
    }
}

impl<T: Freight + Send> Pulse for Exchange<T> {
    fn ping(&self) -> Vec<u64> {
        Self::ping(self)
    }

    fn turns(&self) -> Vec<u64> {
        Self::turns(self)
    }
}

/// Starts the thread of one shard, which accepts on `listeners`; the shard with the announcer speaks for the broker, that with the
/// visits takes its bridges in.
///
/// # Errors
/// The operating system gave no thread or no event queue.
pub fn start(
    parts: WorkerParts,
    listeners: Vec<Listener>,
    announcer: Option<Announcer>,
    visits: Option<Visits>,
) -> io::Result<JoinHandle<()>> {
    let name = format!("{THREAD_NAME_PREFIX}{}", parts.shard.index().0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name).spawn(move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, run(Worker::new(parts), listeners, announcer, visits));
    })
}

/// Works until the broker ends and the clients have had their farewell.
async fn run(
    worker: Rc<Worker>,
    listeners: Vec<Listener>,
    announcer: Option<Announcer>,
    visits: Option<Visits>,
) {
    tokio::task::spawn_local(flush::flush_for_ever(Rc::clone(&worker)));
    tokio::task::spawn_local(timer::keep_time(Rc::clone(&worker)));
    if let Some(announcer) = announcer {
        tokio::task::spawn_local(announcer.announce_for_ever(Rc::clone(&worker)));
    }
    if worker.index() == ShardIndex(0)
        && let Some(lines) = logging::take_topic_lines()
    {
        tokio::task::spawn_local(announce::publish_lines(Rc::clone(&worker), lines));
    }
    if let Some(visits) = visits {
        tokio::task::spawn_local(visits::receive_for_ever(Rc::clone(&worker), visits));
    }
    for listener in listeners {
        worker.listen(listener);
    }
    let (mut mail, mut completions) = (Vec::new(), Vec::new());
    while !worker.exchange().is_shutting_down(worker.index()) {
        worker.take_mail(&mut mail, &mut completions);
        worker.exchange().wait(worker.index()).await;
    }
    worker.stop_listening();
    let began = Instant::now();
    worker.shut_down();
    while worker.tasks() > 0 && began.elapsed() < FAREWELL_MAX {
        if began.elapsed() >= LINGER_MAX && !worker.has_unsent() {
            break;
        }
        // Connections that were on their way arrive now; commits that others wait for still come in.
        worker.take_mail(&mut mail, &mut completions);
        worker.shut_down();
        let _ = tokio::time::timeout(FAREWELL_POLL, worker.exchange().wait(worker.index())).await;
    }
}
