//! A reload: what can change while the broker runs is read again and checked, and only then comes into force.
//!
//! Invariant: what cannot be used changes nothing, is logged, and shows in the metrics until a reload succeeds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::{error, info};
use veilmq_config::{BrokerConfig, Overrides, Sources};
use veilmq_core::{Limits, Sample, SampleKind, Shared};

use super::settings::core_settings;
use crate::access::AccessKeeper;
use crate::admin::metrics::MetricSource;
use crate::admin::{AdminState, read_token};
use crate::bridge::{BridgePlan, Bridges};
use crate::clock;
use crate::shard::{Exchange, Mail};
use crate::trust::TrustKeeper;

/// Reads again what can change.
pub(super) struct Reloader {
    pub(super) trust: Arc<TrustKeeper>,
    pub(super) access: Arc<AccessKeeper>,
    pub(super) exchange: Arc<Exchange<Mail>>,
    pub(super) bridges: Arc<Bridges>,
    pub(super) outcome: Arc<Outcome>,
    pub(super) state: Arc<AdminState>,
    pub(super) shared: Arc<Shared>,
}

/// What became of the last reload; the start counts as one.
pub(super) struct Outcome {
    succeeded: AtomicBool,
    succeeded_at_seconds: AtomicU64,
}

impl Reloader {
    /// Reads the configuration, and the files it names, because `cause` wants it. Options that take effect at the start only stay as
    /// they are in `config`.
    ///
    /// # Errors
    /// What cannot be used; nothing has changed then.
    pub(super) fn reload(
        &self,
        config: &BrokerConfig,
        file: Option<&Path>,
        cause: &str,
    ) -> Result<(), String> {
        let sources = Sources {
            file,
            overrides: Overrides::default(),
            environment: veilmq_config::process_environment(),
        };
        let loaded = match file {
            Some(_) => BrokerConfig::load(sources),
            None => Ok(config.clone()),
        };
        let result = loaded.map_err(|error| error.to_string()).and_then(|now| self.apply(config, &now));
        match &result {
            Ok(()) => info!(
                "{cause}: authorities, users, rules, policies, bridges and limits were read again; other options take effect at the next start"
            ),
            Err(error) => error!("{cause}: {error}; nothing has changed"),
        }
        self.outcome.note(result.is_ok());
        result
    }

    /// Reads users and rules again if a file of theirs has changed.
    pub(super) fn heed_files(&self) {
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

    fn apply(&self, config: &BrokerConfig, now: &BrokerConfig) -> Result<(), String> {
        let admin = &now.admin;
        let limits = Limits::of(&core_settings(now));
        let now = BrokerConfig {
            access: now.access.clone(),
            acl: now.acl.clone(),
            bans: now.bans,
            e2e: now.e2e.clone(),
            veil: now.veil.clone(),
            bridges: now.bridges.clone(),
            ..config.clone()
        };
        // All are looked at before either changes anything.
        let token = read_token(admin.token_file.as_deref()).map_err(|error| error.to_string())?;
        crate::access::check(&now).map_err(|error| error.to_string())?;
        let plans = BridgePlan::all(&now).map_err(|error| error.to_string())?;
        self.trust.reload(&now.veil.trust).map_err(|error| error.to_string())?;
        self.access.reload(&now).map_err(|error| error.to_string())?;
        self.shared.set_limits(limits);
        self.state.set_token(token);
        self.exchange.change_access();
        self.bridges.change(plans);
        Ok(())
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
