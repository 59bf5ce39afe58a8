//! One run: all clients of a scenario on their threads, through connecting, publishing and finishing.
//!
//! The broker's CPU time is read when all clients are connected and subscribed, and again when everything has
//! been delivered and acknowledged: connecting and disconnecting cost nothing here. Invariant: every client
//! ends when [`run`] returns or is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;
use veilmq_protocol::{ProtocolVersion, QoS, ReasonCode};

use crate::board::Board;
use crate::ledger::Ledger;
use crate::link::{Link, LinkError, LinkOptions, Transport};
use crate::pacer::Schedule;
use crate::procfs::{CpuTime, Memory, ProcError};
use crate::scenario::Scenario;
use crate::subscribe::subscribe;
use crate::{publisher, subscriber};

/// Everything that defines a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) version: ProtocolVersion,
    /// Subscribers have sessions that outlive their connections.
    pub(crate) is_durable: bool,
    pub(crate) scenario: Scenario,
    pub(crate) qos: QoS,
    pub(crate) payload_bytes: usize,
    pub(crate) amount: Amount,
    /// Messages per second of all publishers together; `None` for full speed.
    pub(crate) per_second: Option<u32>,
    /// Messages of all publishers together that the slowest subscriber may lag behind.
    pub(crate) window: u64,
    /// Unacknowledged QoS 1 and 2 messages of each publisher.
    pub(crate) inflight_max: u16,
    pub(crate) threads: u16,
    pub(crate) broker_pid: Option<u32>,
    /// A publisher gives up when nothing has moved for so long.
    pub(crate) stall: Duration,
    /// The run fails if it takes so much longer than its amount and rate ask for.
    pub(crate) limit: Duration,
}

impl Plan {
    /// How a client of this plan connects, with a session that ends with the connection.
    pub(crate) fn link_options<'a>(&'a self, client_id: &'a str, inbox_bytes: usize) -> LinkOptions<'a> {
        LinkOptions {
            address: self.address,
            transport: &self.transport,
            version: self.version,
            client_id,
            is_durable: false,
            packet_bytes_max: self.payload_bytes + 4096,
            inbox_bytes,
        }
    }

    /// The time that amount and rate ask for; zero where the broker sets the pace.
    fn scheduled(&self) -> Duration {
        match (self.amount, self.per_second) {
            (Amount::Time(time), _) => time,
            (Amount::Messages(total), Some(per_second)) => Duration::from_secs(total / u64::from(per_second)),
            (Amount::Messages(_), None) => Duration::ZERO,
        }
    }
}

/// How much is published.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    /// So many messages by all publishers together.
    Messages(u64),
    /// As many as fit into this time.
    Time(Duration),
}

/// Why a run has no result.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("{0:?} is not a topic")]
    Topic(String),
    #[error("the broker refused a message: {0}")]
    PublishRefused(ReasonCode),
    #[error("the broker acknowledged Packet Identifier {0}, which does not wait for that")]
    NotInFlight(u16),
    #[error("subscription asked for QoS {asked}, the broker answered {granted:?}")]
    NotGranted { asked: u8, granted: Option<u8> },
    #[error("the run took longer than {0:?}")]
    Overran(Duration),
    #[error("cannot start a client thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("a client thread ended early")]
    ClientLost,
}

/// What a run measured.
pub(crate) struct Outcome {
    pub(crate) publishers: Vec<publisher::Outcome>,
    /// Subscribers, and behind them the bystanders.
    pub(crate) subscribers: Vec<subscriber::Outcome>,
    /// The common accounts of a group, one for each publisher; empty ones where there is no group.
    pub(crate) groups: Vec<Ledger>,
    /// From the start of publishing to the last delivery.
    pub(crate) elapsed: Duration,
    pub(crate) broker_cpu: Option<CpuTime>,
    /// At the end, with all connections open.
    pub(crate) broker_memory: Option<Memory>,
    pub(crate) generator_cpu: CpuTime,
}

/// Where a run is; clients wait for it to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connect,
    Publish(Instant),
    Finish,
}

/// Connections that are opened at a time.
const OPENING_MAX: usize = 64;
/// How long a client may take to say good-bye.
const FAREWELL_SECONDS_MAX: Duration = Duration::from_secs(1);

/// What a client tells the run.
enum Event {
    Ready,
    Published(u16, publisher::Outcome),
    Received(u16, subscriber::Outcome),
    Failed(LoadError),
}

impl Event {
    fn into_published(self) -> Option<(u16, publisher::Outcome)> {
        if let Self::Published(index, outcome) = self { Some((index, outcome)) } else { None }
    }

    fn into_received(self) -> Option<(u16, subscriber::Outcome)> {
        if let Self::Received(index, outcome) = self { Some((index, outcome)) } else { None }
    }
}

/// Runs `plan` to its end.
///
/// # Errors
/// A client fails, a process cannot be read, or the run takes longer than its limit. Lost and duplicate
/// deliveries are results, not errors.
pub(crate) async fn run(plan: &Plan) -> Result<Outcome, LoadError> {
    let limit = plan.limit + plan.scheduled();
    timeout(limit, drive(plan)).await.unwrap_or(Err(LoadError::Overran(limit)))
}

async fn drive(plan: &Plan) -> Result<Outcome, LoadError> {
    let (publishers, listeners) = (plan.scenario.publishers, plan.scenario.listeners());
    let clients = usize::from(publishers) + usize::from(listeners);
    let board = Arc::new(Board::new(plan.scenario));
    // Dropping the sender ends every client.
    let (phase, phase_seen) = watch::channel(Phase::Connect);
    let (events_in, mut events) = mpsc::channel(clients);
    start_clients(plan, &board, &phase_seen, &events_in)?;
    drop(events_in);

    gather(&mut events, clients, |event| matches!(event, Event::Ready).then_some(())).await?;
    let cpu = CpuReading::take(plan.broker_pid)?;
    let start = Instant::now();
    phase.send_replace(Phase::Publish(start));
    let publishers = gather(&mut events, publishers.into(), Event::into_published).await?;
    phase.send_replace(Phase::Finish);
    let subscribers = gather(&mut events, listeners.into(), Event::into_received).await?;
    let (broker_cpu, generator_cpu) = cpu.since(plan.broker_pid)?;
    // The memory of another user's process may not be read, its CPU time may.
    let broker_memory = plan.broker_pid.and_then(|pid| Memory::of(pid).ok());

    drop(phase);
    while events.recv().await.is_some() {}
    let last = subscribers.iter().filter_map(|(_, outcome)| outcome.last).max().unwrap_or(start);
    Ok(Outcome {
        publishers: in_order(publishers),
        subscribers: in_order(subscribers),
        elapsed: last.saturating_duration_since(start),
        groups: board.take_group_ledgers(),
        broker_cpu,
        broker_memory,
        generator_cpu,
    })
}

/// Waits for `count` events of one kind; any other kind is a client that left its phase.
async fn gather<T>(
    events: &mut mpsc::Receiver<Event>,
    count: usize,
    pick: impl Fn(Event) -> Option<T>,
) -> Result<Vec<T>, LoadError> {
    let mut gathered = Vec::with_capacity(count);
    while gathered.len() < count {
        match events.recv().await.ok_or(LoadError::ClientLost)? {
            Event::Failed(error) => return Err(error),
            event => gathered.push(pick(event).ok_or(LoadError::ClientLost)?),
        }
    }
    Ok(gathered)
}

fn in_order<T>(mut numbered: Vec<(u16, T)>) -> Vec<T> {
    numbered.sort_by_key(|(index, _)| *index);
    numbered.into_iter().map(|(_, outcome)| outcome).collect()
}

/// CPU time of the broker and of this process.
pub(crate) struct CpuReading {
    broker: Option<CpuTime>,
    generator: CpuTime,
}

impl CpuReading {
    pub(crate) fn take(broker_pid: Option<u32>) -> Result<Self, ProcError> {
        let broker = broker_pid.map(CpuTime::of).transpose()?;
        Ok(Self { broker, generator: CpuTime::of(std::process::id())? })
    }

    pub(crate) fn since(self, broker_pid: Option<u32>) -> Result<(Option<CpuTime>, CpuTime), ProcError> {
        let now = Self::take(broker_pid)?;
        let broker = now.broker.zip(self.broker).map(|(now, before)| now.since(before));
        Ok((broker, now.generator.since(self.generator)))
    }
}

/// What all clients of a run have in common.
#[derive(Clone)]
struct Shared {
    plan: Arc<Plan>,
    board: Arc<Board>,
    /// Keeps topics and Client Identifiers of different runs apart.
    run: Arc<str>,
    /// Limits how many connections are on their way at a time: a listener's backlog is short.
    opening: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
    events: mpsc::Sender<Event>,
}

fn start_clients(
    plan: &Plan,
    board: &Arc<Board>,
    phase: &watch::Receiver<Phase>,
    events: &mpsc::Sender<Event>,
) -> Result<(), LoadError> {
    let shared = Shared {
        plan: Arc::new(plan.clone()),
        board: Arc::clone(board),
        run: run_name().into(),
        opening: Arc::new(Semaphore::new(OPENING_MAX)),
        phase: phase.clone(),
        events: events.clone(),
    };
    for thread in 0..plan.threads {
        let shared = shared.clone();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Thread)?;
        std::thread::Builder::new()
            .name(format!("clients-{thread}"))
            .spawn(move || runtime.block_on(run_clients(shared, thread)))
            .map_err(LoadError::Thread)?;
    }
    Ok(())
}

/// Runs every client that belongs to `thread` until the last has ended.
async fn run_clients(shared: Shared, thread: u16) {
    let local = LocalSet::new();
    let threads = shared.plan.threads;
    let mine = |count: u16| (0..count).filter(move |index| index % threads == thread);
    for index in mine(shared.plan.scenario.listeners()) {
        local.spawn_local(client(
            shared.clone(),
            move |shared| async move { subscriber(shared, index).await },
        ));
    }
    for index in mine(shared.plan.scenario.publishers) {
        local
            .spawn_local(client(shared.clone(), move |shared| async move { publisher(shared, index).await }));
    }
    drop(shared);
    local.await;
}

/// Runs one client and reports how it ended. Its connection stays open until the run is over, so that no
/// client's farewell is counted as work of the others.
async fn client<F>(shared: Shared, work: impl FnOnce(Shared) -> F)
where
    F: Future<Output = Result<(Event, Link), LoadError>>,
{
    let mut phase = shared.phase.clone();
    let events = shared.events.clone();
    let result = tokio::select! {
        result = work(shared) => result,
        () = run_over(&mut phase) => return,
    };
    // Nobody listens any more if another client has failed meanwhile.
    match result {
        Ok((event, link)) => {
            let _ = events.send(event).await;
            run_over(&mut phase).await;
            let _ = timeout(FAREWELL_SECONDS_MAX, link.close()).await;
        }
        Err(error) => {
            let _ = events.send(Event::Failed(error)).await;
        }
    }
}

/// A name that no other run of this or another generator on this machine has. NATS takes no dot in a topic.
pub(crate) fn run_name() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("{:x}-{:x}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

/// Returns when the run is over for everybody.
async fn run_over(phase: &mut watch::Receiver<Phase>) {
    while phase.changed().await.is_ok() {}
}

async fn subscriber(shared: Shared, index: u16) -> Result<(Event, Link), LoadError> {
    // A bystander gets nothing to read.
    let inbox_bytes = if index < shared.plan.scenario.subscribers { 64 * 1024 } else { 4 * 1024 };
    let mut link = open(&shared, 's', index, inbox_bytes).await?;
    let filters = shared.plan.scenario.filters(&root(&shared), index);
    subscribe(&mut link, &filters, shared.plan.qos).await?;
    shared.events.send(Event::Ready).await.map_err(|_| LoadError::ClientLost)?;
    let outcome = subscriber::receive(&mut link, shared.board, index, None, shared.phase).await?;
    Ok((Event::Received(index, outcome), link))
}

async fn publisher(mut shared: Shared, index: u16) -> Result<(Event, Link), LoadError> {
    let mut link = open(&shared, 'p', index, 4 * 1024).await?;
    shared.events.send(Event::Ready).await.map_err(|_| LoadError::ClientLost)?;
    let begun = shared.phase.wait_for(|phase| *phase != Phase::Connect).await;
    let phase = begun.map(|phase| *phase).map_err(|_| LoadError::ClientLost)?;
    let Phase::Publish(start) = phase else { return Err(LoadError::ClientLost) };
    let task = task(&shared, index, start);
    let outcome = publisher::publish(&mut link, shared.board, task).await?;
    Ok((Event::Published(index, outcome), link))
}

fn task(shared: &Shared, index: u16, start: Instant) -> publisher::Task {
    let plan = &shared.plan;
    let publishers = plan.scenario.publishers;
    let schedule = plan.per_second.map(|per_second| Schedule::new(start, per_second, publishers, index));
    let (messages, until) = match (plan.amount, &schedule) {
        (Amount::Messages(total), _) => (Some(share(total, publishers, index)), None),
        // What is due is sent, however late.
        (Amount::Time(time), Some(schedule)) => (Some(schedule.due_count(start + time)), None),
        (Amount::Time(time), None) => (None, Some(start + time)),
    };
    publisher::Task {
        index,
        topics: plan.scenario.publisher_topics(&root(shared), index),
        qos: plan.qos,
        retain: false,
        payload_bytes: plan.payload_bytes,
        messages,
        until,
        schedule,
        window: share(plan.window, publishers, index).max(1),
        inflight_max: plan.inflight_max,
        stall: plan.stall,
    }
}

async fn open(shared: &Shared, role: char, index: u16, inbox_bytes: usize) -> Result<Link, LinkError> {
    let client_id = format!("{}{role}{index}", shared.run);
    let is_durable = shared.plan.is_durable && role == 's';
    let options = LinkOptions { is_durable, ..shared.plan.link_options(&client_id, inbox_bytes) };
    let _turn = shared.opening.acquire().await;
    Link::open(&options).await
}

/// What all topics of a run begin with.
fn root(shared: &Shared) -> String {
    format!("bench/{}", shared.run)
}

/// The part of `total` that falls to one of `count`, as equal as whole numbers allow.
fn share(total: u64, count: u16, index: u16) -> u64 {
    total / u64::from(count) + u64::from(u64::from(index) < total % u64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_comes_on_top_of_what_amount_and_rate_ask_for() {
        let rows = [
            (Amount::Messages(1_000), None, 0),
            (Amount::Messages(1_000), Some(10), 100),
            (Amount::Time(Duration::from_secs(7)), None, 7),
            (Amount::Time(Duration::from_secs(7)), Some(10), 7),
        ];

        for (amount, per_second, seconds) in rows {
            let plan = Plan { amount, per_second, ..crate::test_plan("1-1") };
            assert_eq!(plan.scheduled(), Duration::from_secs(seconds), "{amount:?} at {per_second:?}");
        }
    }

    #[test]
    fn shares_add_up_and_differ_by_at_most_one() {
        for (total, count) in [(0, 3), (1, 3), (7, 3), (100, 100), (1_000_001, 100)] {
            let shares: Vec<_> = (0..count).map(|index| share(total, count, index)).collect();

            assert_eq!(shares.iter().sum::<u64>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
