//! Asks services about users, on a thread of its own that waits for many answers at one time.
//!
//! Invariant: what waits to be asked is bounded in number and bytes, and every question about a client that is connected gets an
//! answer, if only that there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, thread};

use tokio::runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use veilmq_core::Verdict;

use super::{Inner, WAITING_BYTES_MAX, WAITING_MAX, Waiting};
use crate::access::http::{Event, Hook, Outcome};

const THREAD_NAME: &str = "http-auth";

/// Asks services about users. The thread lives as long as somebody holds this.
pub(super) struct Asker {
    queue: Sender<Job>,
    bytes: Arc<AtomicUsize>,
}

/// A client that a service is to be asked about.
struct Job {
    hook: Arc<Hook>,
    event: Event,
    waiting: Waiting,
    held: Held,
}

/// Bytes of what waits, counted for as long as it does.
struct Held {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    /// Returns None if that would be more than may wait.
    fn take(total: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let held = Self { total: Arc::clone(total), bytes };
        (total.fetch_add(bytes, Ordering::Relaxed) + bytes <= WAITING_BYTES_MAX).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Asker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gave none.
    pub(super) fn start(inner: Arc<Inner>) -> io::Result<Self> {
        let (queue, jobs) = channel(WAITING_MAX);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || runtime.block_on(ask_for_ever(jobs, inner)))?;
        Ok(Self { queue, bytes: Arc::default() })
    }

    /// Has a service asked; false if too many wait.
    pub(super) fn submit(&self, hook: Arc<Hook>, event: Event, waiting: Waiting) -> bool {
        let Some(held) = Held::take(&self.bytes, waiting.size_bytes()) else { return false };
        self.queue.try_send(Job { hook, event, waiting, held }).is_ok()
    }
}

async fn ask_for_ever(mut jobs: Receiver<Job>, inner: Arc<Inner>) {
    while let Some(job) = jobs.recv().await {
        let Ok(permit) = job.hook.permit().await else { continue };
        // One that wanted to come in has been told so by now.
        if job.event == Event::Connect && inner.is_out_of_time(&job.waiting) {
            inner.counts.verdict(&Verdict::Busy);
            continue;
        }
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let Job { hook, event, waiting, held } = job;
            let (outcome, reply) = hook.ask(event, &waiting.credentials).await;
            inner.counts.asked(event, reply);
            match event {
                Event::Connect => inner.heed(waiting, outcome),
                Event::Renew => waiting.tell(standing(outcome)),
            }
            drop((permit, held));
        });
    }
}

/// Says what becomes of a client that is connected.
fn standing(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Decided(verdict) => verdict,
        // Nobody vouches for it any more.
        Outcome::Over | Outcome::Next => Verdict::Wrong,
    }
}
