//! A reload: the configuration and the files it names are read again and checked, and only then comes into force what can.
//!
//! Invariant: what cannot be used changes nothing, is logged, and shows in the metrics until a reload succeeds.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};
use veilmq_config::{BrokerConfig, Mode, OptionSpec, Overrides, Sources};
use veilmq_core::{Sample, SampleKind, Shared};

use super::RunError;
use super::listeners::{Changed, Listeners};
use super::memory::MemoryWatch;
use super::settings::{bytes, core_settings, reserve_bytes, within_open_files};
use crate::access::{self, AccessKeeper};
use crate::admin::metrics::MetricSource;
use crate::admin::{AdminState, ReloadReport, read_token};
use crate::bridge::{BridgePlan, Bridges};
use crate::clock;
use crate::http_api::HttpApi;
use crate::logging;
use crate::shard::{Admission, Exchange, Mail};
use crate::store::Reserve;
use crate::tls::TlsKeeper;
use crate::trust::TrustKeeper;

/// What a configuration is made from, each time anew.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// What the command line says.
    pub overrides: Overrides,
}

/// Reads again what can change.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    /// What is in force.
    pub(super) config: BrokerConfig,
    pub(super) listeners: Listeners,
    pub(super) tls: TlsKeeper,
    pub(super) trust: Arc<TrustKeeper>,
    pub(super) access: Arc<AccessKeeper>,
    pub(super) exchange: Arc<Exchange<Mail>>,
    pub(super) admission: Admission,
    pub(super) bridges: Arc<Bridges>,
    pub(super) outcome: Arc<Outcome>,
    pub(super) state: Arc<AdminState>,
    pub(super) shared: Arc<Shared>,
    pub(super) memory: MemoryWatch,
    pub(super) reserve: Reserve,
    /// From one report on `$SYS` topics to the next.
    pub(super) sys_interval: watch::Sender<Duration>,
    /// While it is closed nobody is let in.
    pub(super) gate: watch::Sender<bool>,
    pub(super) http_api: HttpApi,
}

/// What became of the last reload; the start counts as one.
pub(super) struct Outcome {
    succeeded: AtomicBool,
    succeeded_at_seconds: AtomicU64,
}

impl Reloader {
    /// Keeps whoever connects waiting until the next reload is over.
    pub(super) fn let_nobody_in(&self) {
        self.gate.send_replace(false);
    }

    /// Lets those in who wait.
    pub(super) fn let_in(&self) {
        self.gate.send_replace(true);
    }

    /// Reads the configuration, and the files it names, because `cause` wants it; who connects meanwhile waits for what it says. Options
    /// that take effect at the start only stay as they are.
    ///
    /// # Errors
    /// What cannot be used; nothing has changed then.
    pub(super) fn reload(&mut self, cause: &str) -> Result<ReloadReport, String> {
        self.let_nobody_in();
        info!(target: logging::MOSQUITTOS_LINES, "reloading");
        let result = self.load().and_then(|said| {
            let applied = self.apply(&said);
            applied.map_err(|error| error.placed(&said.named).to_string())
        });
        self.let_in();
        self.outcome.note(result.is_ok());
        match &result {
            Ok(report) => {
                info!("{cause}: {}", Changes(&report.changed));
                if !report.next_start.is_empty() {
                    warn!("{cause}: at the next start only: {}", report.next_start.join(", "));
                }
            }
            Err(error) => error!("{cause}: {error}; nothing has changed"),
        }
        result
    }

    /// Reads certificates, users and rules again if a file of theirs has changed.
    pub(super) fn heed_files(&self) {
        if self.tls.rescan() {
            self.exchange.tell_distrust();
        }
        let Some(result) = self.access.rescan() else { return };
        match &result {
            Ok(()) => {
                self.exchange.change_access();
                info!("users and rules were read again, for a file of theirs has changed");
            }
            Err(error) => error!("a file of users or rules has changed: {error}; nothing else has"),
        }
        self.outcome.note(result.is_ok());
    }

    /// Looks how much memory is in use.
    pub(super) fn look_at_memory(&mut self) {
        self.memory.look(&self.shared, &self.state);
    }

    /// How long to wait before the next look at the memory.
    pub(super) fn memory_interval(&self) -> Duration {
        self.memory.interval()
    }

    fn load(&self) -> Result<BrokerConfig, String> {
        // Without a file nothing can have changed.
        let Some(file) = &self.origin.file else { return Ok(self.config.clone()) };
        if !fs::metadata(file).is_ok_and(|metadata| metadata.is_file()) {
            return Err(format!("{}: it is no file that can be read again", file.display()));
        }
        let sources = Sources {
            file: Some(file),
            overrides: self.origin.overrides.clone(),
            environment: veilmq_config::process_environment(),
        };
        BrokerConfig::load(sources).map_err(|error| error.to_string())
    }

    fn apply(&mut self, said: &BrokerConfig) -> Result<ReloadReport, RunError> {
        let now = self.config.reloaded(said);
        // All is looked at before anything changes.
        let token = read_token(now.admin.token_file.as_deref())?;
        let plan = self.listeners.plan(&now, &self.tls);
        let mut plan = plan.inspect_err(|_| self.tls.note_failure())?;
        let (roster, gone) = self.listeners.roster(&plan);
        let in_all = BrokerConfig { listeners: roster, ..now.clone() };
        let mut settings = core_settings(&in_all);
        settings.broker_id.clone_from(&self.shared.settings().broker_id);
        for number in &gone {
            if let Some(entrance) = settings.entrances.get_mut(*number) {
                entrance.is_open = false;
            }
        }
        let access = self.access.prepare(access::Listeners { config: in_all, gone })?;
        let bridges = BridgePlan::all(&now)?;
        let log = match logging::prepare(&now.log) {
            Err(error) if now.mode == Mode::Mosquitto => {
                // Mosquitto goes on as before.
                error!("{error}");
                None
            }
            prepared => prepared?,
        };
        self.listeners.bind(&mut plan)?;
        self.trust.reload(&now.veil)?;

        if let Some(log) = log {
            log.apply();
        }
        self.shared.set_settings(settings);
        access.apply();
        self.admission.change(&within_open_files(&now), &now.rates);
        self.exchange.allow(bytes(now.limits.mailbox_bytes_max));
        self.exchange.change_access();
        self.tls.allow(now.limits.tls_handshakes_max as usize);
        let changed = self.listeners.apply(plan, &self.tls);
        let changed = self.listen(changed);
        self.state.set_token(token);
        self.memory.bound(now.limits.memory_bytes);
        self.reserve.set(reserve_bytes(&now.storage));
        let interval = Duration::from_secs(now.sys.interval_seconds.into());
        self.sys_interval.send_if_modified(|known| std::mem::replace(known, interval) != interval);
        self.bridges.change(bridges);
        self.http_api.show(&now);
        let report = report(&self.config, &now, said, changed);
        self.config = now;
        Ok(report)
    }

    /// Has the shards listen on new sockets, and look at clients again whose certificates may not be good any more.
    fn listen(&self, changed: Changed) -> Vec<String> {
        for (shard, listener) in changed.sockets {
            self.exchange.listen(shard, listener);
        }
        self.exchange.tell_distrust();
        if let Err(error) = self.http_api.serve(changed.apis) {
            error!("a listener of the HTTP API cannot be started: {error}");
        }
        let addresses = self.listeners.of_mqtt();
        self.state.update(|readiness| readiness.listeners = addresses);
        changed.changes
    }
}

/// Says what has changed from `before` to `now`, and what else is `said` and has to wait for the next start.
fn report(
    before: &BrokerConfig,
    now: &BrokerConfig,
    said: &BrokerConfig,
    listeners: Vec<String>,
) -> ReloadReport {
    let keys = |one: &BrokerConfig, other: &BrokerConfig| {
        one.differences(other).into_iter().map(|option: &OptionSpec| option.key)
    };
    let mut changed = listeners;
    for key in keys(before, now) {
        // Of a list of tables it is enough which list that is; of listeners more has been said.
        let name = match key.split_once("[].") {
            Some(("listeners", _)) => continue,
            Some((list, _)) => format!("{list}[]"),
            None => key.to_owned(),
        };
        if !changed.contains(&name) {
            changed.push(name);
        }
    }
    ReloadReport { changed, next_start: keys(now, said).collect() }
}

/// What has changed, as a log line says it.
struct Changes<'a>(&'a [String]);

impl fmt::Display for Changes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("the configuration says what it said; the files it names were read again"),
            changed => write!(f, "the configuration was read again; changed: {}", changed.join(", ")),
        }
    }
}

impl Outcome {
    pub(super) fn of_start() -> Arc<Self> {
        let outcome = Self { succeeded: AtomicBool::new(true), succeeded_at_seconds: AtomicU64::new(0) };
        outcome.note(true);
        Arc::new(outcome)
    }

    fn note(&self, succeeded: bool) {
        self.succeeded.store(succeeded, Ordering::Relaxed);
        if succeeded {
            self.succeeded_at_seconds.store(clock::unix_seconds(), Ordering::Relaxed);
        }
    }
}

impl MetricSource for Outcome {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        let mut gauge =
            |name, help, value| visit(Sample { name, help, kind: SampleKind::Gauge, label: None, value });
        gauge(
            "veilmq_config_last_reload_successful",
            "1 if the last reload came into force, 0 if it was refused and nothing has changed.",
            u64::from(self.succeeded.load(Ordering::Relaxed)),
        );
        gauge(
            "veilmq_config_last_reload_success_timestamp_seconds",
            "When a reload, or the start, last came into force, in unix seconds.",
            self.succeeded_at_seconds.load(Ordering::Relaxed),
        );
    }
}
