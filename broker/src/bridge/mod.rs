//! Bridges to other brokers: one thread that drives the links of `veilmq-bridge` over sockets.
//!
//! On this side a bridge is a client like any other, on a socket pair whose other end a shard has accepted; so queues, limits and
//! what is stored are those of clients. Invariant: a bridge that fails says why, waits, and tries again; it never ends the broker,
//! nor another bridge.

mod door;
mod leaving;
mod memory;
mod plan;
mod remote;
mod runner;
mod state;
mod tls;
mod wires;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

pub use door::{Door, Visit, Visits};
pub use memory::BridgeMemory;
pub use plan::{BridgeError, BridgePlan};
use runner::{Leave, Orders, Runner};
pub use state::BridgeCounters;

/// The thread's name.
const THREAD_NAME: &str = "bridges";
/// How long bridges may take to subscribe here before clients are let in all the same.
const FIRST_SUBSCRIPTIONS_MAX: Duration = Duration::from_secs(5);

/// The bridges at work.
#[derive(Debug)]
pub struct Bridges {
    wanted: watch::Sender<Wanted>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is to do.
#[derive(Debug, Clone)]
struct Wanted {
    plans: Vec<Arc<BridgePlan>>,
    is_ending: bool,
}

impl Bridges {
    /// Starts a thread for all bridges, and waits until they have subscribed here: nothing that is published from now on misses them.
    ///
    /// # Errors
    /// The operating system gave no thread or no event queue.
    pub fn start(
        plans: Vec<BridgePlan>,
        memory: BridgeMemory,
        door: Door,
        counters: Arc<BridgeCounters>,
    ) -> io::Result<Self> {
        let plans = plans.into_iter().map(Arc::new).collect();
        let (wanted, receiver) = watch::channel(Wanted { plans, is_ending: false });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, readiness) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, supervise(receiver, memory, door, counters, ready));
        })?;
        // A thread that has ended instead is missed when it is joined.
        let _ = readiness.recv();
        Ok(Self { wanted, thread: Mutex::new(Some(thread)) })
    }

    /// Has these bridges at work instead: what is new begins, what is not there any more ends and is forgotten, and what has
    /// changed is told so. The others notice nothing.
    pub fn change(&self, plans: Vec<BridgePlan>) {
        self.wanted.send_modify(|wanted| wanted.plans = plans.into_iter().map(Arc::new).collect());
    }

    /// Has every bridge say farewell to both its brokers, and waits for that.
    pub fn stop(&self) {
        self.wanted.send_modify(|wanted| wanted.is_ending = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("the bridges ended early");
        }
    }
}

/// A bridge at work, as the thread sees it.
struct Working {
    orders: watch::Sender<Orders>,
    task: tokio::task::JoinHandle<()>,
}

impl Working {
    /// Tells the bridge what it is to be from now on, if that is anything else.
    fn change(&self, plan: &Arc<BridgePlan>) {
        self.orders.send_if_modified(|orders| {
            let has_changed = orders.plan != *plan;
            if has_changed {
                info!(bridge = &*plan.name, "the bridge has changed");
                orders.interruptions += u64::from(plan.changes_at_once);
                orders.plan = Arc::clone(plan);
            }
            has_changed
        });
    }

    /// Has the bridge end, and waits for that.
    async fn end(self, leave: Leave) {
        self.orders.send_modify(|orders| orders.leave = Some(leave));
        if self.task.await.is_err() {
            error!("a bridge ended early");
        }
    }
}

/// Keeps exactly the wanted bridges at work, and says when the first of them have subscribed here.
async fn supervise(
    mut wanted: watch::Receiver<Wanted>,
    mut memory: BridgeMemory,
    door: Door,
    counters: Arc<BridgeCounters>,
    ready: std::sync::mpsc::SyncSender<()>,
) {
    let mut ready = Some(ready);
    let first = wanted.borrow().plans.clone();
    for (bridge, client_id) in memory.orphans(&first) {
        if leaving::end_session(&door, &bridge, &client_id).await {
            info!(bridge = &*bridge, client_id, "what waited for the bridge, which is gone, is dropped");
            // One that goes on under another Client Identifier notes that itself.
            if !first.iter().any(|plan| plan.name == bridge) {
                memory.forget(&bridge);
            }
        }
    }
    let memory = Rc::new(RefCell::new(memory));
    let mut working: HashMap<Arc<str>, Working> = HashMap::new();
    loop {
        let Wanted { plans, is_ending } = wanted.borrow_and_update().clone();
        if is_ending {
            break;
        }
        counters.configured(plans.len());
        let is_gone = |name: &Arc<str>| !plans.iter().any(|plan| plan.name == *name);
        let gone: Vec<Arc<str>> = working.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            if let Some(bridge) = working.remove(&name) {
                bridge.end(Leave::Forgotten).await;
                info!(bridge = &*name, "the bridge is gone");
            }
        }
        let mut beginning = Vec::new();
        for plan in plans {
            if let Some(bridge) = working.get(&plan.name) {
                bridge.change(&plan);
                continue;
            }
            let name = Arc::clone(&plan.name);
            let (orders, receiver) = watch::channel(Orders::new(plan));
            let (parked, first) = oneshot::channel();
            beginning.push(first);
            let runner =
                Runner::new(receiver, Rc::clone(&memory), door.clone(), Arc::clone(&counters), parked);
            working.insert(name, Working { orders, task: tokio::task::spawn_local(runner.run()) });
        }
        if let Some(ready) = ready.take() {
            let all = async {
                for first in beginning {
                    // One that was dropped has ended.
                    let _ = first.await;
                }
            };
            if timeout(FIRST_SUBSCRIPTIONS_MAX, all).await.is_err() {
                warn!("bridges have not subscribed yet, and clients are let in");
            }
            // Nobody waits for it if the broker does not start after all.
            let _ = ready.send(());
        }
        if wanted.changed().await.is_err() {
            break;
        }
    }
    for bridge in working.values() {
        bridge.orders.send_modify(|orders| orders.leave = Some(Leave::Stopped));
    }
    for (_, bridge) in working {
        bridge.end(Leave::Stopped).await;
    }
}
