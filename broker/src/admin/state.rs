//! What the admin listener knows about the broker: whether it is ready, whether its shards turn, what it counts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use veilmq_config::{ListenAddress, Mode};

use super::controls::Controls;
use super::metrics::{MetricSource, MetricsPage};
use super::token::Token;
use crate::trust::TrustKeeper;

/// How long a shard may take to answer before the broker counts as stuck.
const TURN_SECONDS_MAX: u64 = 5;
const TURN_POLL: Duration = Duration::from_millis(5);

/// A sign of life of each shard.
pub trait Pulse: Send + Sync {
    /// Asks every shard to make a turn and returns how many each had made before.
    fn ping(&self) -> Vec<u64>;
    /// Returns how many turns each shard has made.
    fn turns(&self) -> Vec<u64>;
}

/// Whether the broker does its work, and the details that `/readyz` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Where it is between start and end.
    pub status: Status,
    /// Whether a configuration file was given.
    pub mode: &'static str,
    /// The version of the broker.
    pub version: &'static str,
    /// The number of shards.
    pub shards: u16,
    /// The addresses on which MQTT clients are served.
    pub listeners: Vec<ListenAddress>,
    /// Sessions that were found in the store at the start.
    pub recovered_sessions: usize,
    /// Where a store that could not be opened was put aside; its content is missing from this broker.
    pub storage_quarantined: Option<PathBuf>,
    /// What was found damaged when the store was opened; none if all was whole.
    pub storage_damage: Option<StorageDamage>,
    /// Why storage does not take everything at the moment; none while it does.
    pub storage: Option<String>,
    /// What is refused because memory is short; none while it is not.
    pub memory: Option<&'static str>,
}

/// What was found damaged when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageDamage {
    /// Where damaged files were put that the store could be read without.
    pub set_aside: Option<PathBuf>,
    /// Rows that are damaged, or lack one that belongs to them.
    pub damaged_rows: u64,
    /// Rows that nothing leads to any more.
    pub orphans: u64,
    /// Batches that were durable and are gone.
    pub lost_batches: u64,
}

impl Readiness {
    /// Serves clients from now on, as far as storage and memory let it.
    pub fn serve(&mut self) {
        let is_whole = self.storage.is_none() && self.memory.is_none();
        self.status = if is_whole { Status::Ready } else { Status::Impaired };
    }

    /// Takes note of why storage does not take everything, or that it does.
    pub fn storage(&mut self, trouble: Option<String>) {
        self.storage = trouble;
        self.serve_still();
    }

    /// Takes note of what is refused because memory is short, or that it is not.
    pub fn memory(&mut self, trouble: Option<&'static str>) {
        self.memory = trouble;
        self.serve_still();
    }

    fn serve_still(&mut self) {
        if matches!(self.status, Status::Ready | Status::Impaired) {
            self.serve();
        }
    }

    /// Tells whether clients may connect: also while nothing new is stored, since they take what waits for them, which makes room.
    pub(super) fn admits_clients(&self) -> bool {
        matches!(self.status, Status::Ready | Status::Impaired) && self.memory.is_none()
    }
}

/// Where a broker is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It recovers what was stored.
    Starting,
    /// It serves clients.
    Ready,
    /// It serves clients, but refuses what would have to be stored, or clients that are not here yet.
    Impaired,
    /// It says farewell to its clients.
    Draining,
}

/// Everything the admin listener answers from.
pub struct AdminState {
    mode: Mode,
    readiness: Mutex<Readiness>,
    pulse: OnceLock<Arc<dyn Pulse>>,
    metrics: MetricsPage,
    certificate: Vec<u8>,
    trust: Arc<TrustKeeper>,
    token: RwLock<Option<Token>>,
    controls: OnceLock<Controls>,
    refused: AtomicU64,
}

impl AdminState {
    /// Makes the state of a broker that is starting. `certificate` is the broker's public certificate, or nothing.
    pub fn new(mode: Mode, shards: u16, certificate: Vec<u8>, trust: Arc<TrustKeeper>) -> Self {
        let readiness = Readiness {
            status: Status::Starting,
            mode: mode_name(mode),
            version: env!("CARGO_PKG_VERSION"),
            shards,
            listeners: Vec::new(),
            recovered_sessions: 0,
            storage_quarantined: None,
            storage_damage: None,
            storage: None,
            memory: None,
        };
        Self {
            mode,
            readiness: Mutex::new(readiness),
            pulse: OnceLock::new(),
            metrics: MetricsPage::new(),
            certificate,
            trust,
            token: RwLock::default(),
            controls: OnceLock::new(),
            refused: AtomicU64::new(0),
        }
    }

    /// Adds counters to `/metrics`.
    pub fn add_metrics(&self, source: Arc<dyn MetricSource>) {
        self.metrics.add(source);
    }

    /// Has what other parts of the program record through the `metrics` facade shown on `/metrics`; the first broker of a process
    /// gets it.
    pub fn record_globally(&self) {
        self.metrics.record_globally();
    }

    /// Folds recorded measurements into their histograms, so that they take no more memory when nobody scrapes.
    pub fn keep_metrics_small(&self) {
        self.metrics.keep_small();
    }

    /// Names the shards that `/livez` watches; the first call counts.
    pub fn watch(&self, pulse: Arc<dyn Pulse>) {
        let _ = self.pulse.set(pulse);
    }

    /// Changes what `/readyz` answers.
    pub fn update(&self, change: impl FnOnce(&mut Readiness)) {
        change(&mut self.lock());
    }

    /// Returns what `/readyz` answers.
    pub fn readiness(&self) -> Readiness {
        self.lock().clone()
    }

    /// Lets operators in who show this token from now on; without one nobody.
    pub fn set_token(&self, token: Option<Token>) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Gives operators something to control; the first call counts.
    pub fn control(&self, controls: Controls) {
        let _ = self.controls.set(controls);
    }

    /// Returns what operators can do; None while the broker starts.
    pub(super) fn controls(&self) -> Option<&Controls> {
        self.controls.get()
    }

    /// Tells whether this is the token of operators; None if there is no token at all.
    pub(super) fn admits(&self, shown: Option<&[u8]>) -> Option<bool> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let admitted = token.as_ref()?.is(shown.unwrap_or_default());
        if !admitted {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        Some(admitted)
    }

    /// Returns the text of `/metrics`.
    pub(super) fn render_metrics(&self) -> String {
        self.metrics.render(self.refused.load(Ordering::Relaxed))
    }

    /// Returns the broker's public certificate.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Returns the mode.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the keeper of trusted authorities.
    pub(super) fn trust(&self) -> &TrustKeeper {
        &self.trust
    }

    /// Returns the shards that do not turn: those that made no turn within some seconds although they were asked to.
    pub(super) async fn stuck_shards(&self) -> Vec<usize> {
        let Some(pulse) = self.pulse.get() else { return Vec::new() };
        let before = pulse.ping();
        let deadline = Instant::now() + Duration::from_secs(TURN_SECONDS_MAX);
        loop {
            let now = pulse.turns();
            let stuck: Vec<usize> =
                (0..before.len()).filter(|shard| before.get(*shard) == now.get(*shard)).collect();
            if stuck.is_empty() || Instant::now() >= deadline {
                return stuck;
            }
            tokio::time::sleep(TURN_POLL).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Readiness> {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the word for a mode in answers and log lines.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Development => "development",
        Mode::Configured => "configured",
        Mode::Mosquitto => "mosquitto",
    }
}
