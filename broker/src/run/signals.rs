//! The main thread while the broker serves: signals, and what has to be looked at now and then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tracing::{error, info};
use veilmq_config::{BrokerConfig, Overrides, Sources};

use super::RunError;
use crate::admin::AdminState;
use crate::trust::TrustKeeper;

const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Returns when the broker is to end: SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError::System`] if signals cannot be received.
pub(super) fn serve_until_told_to_end(
    config: &BrokerConfig,
    file: Option<&Path>,
    trust: &Arc<TrustKeeper>,
    state: &Arc<AdminState>,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::system("start the event queue of the main thread"))?;
    runtime.block_on(serve(config, file, trust, state)).map_err(RunError::system("receive signals"))
}

async fn serve(
    config: &BrokerConfig,
    file: Option<&Path>,
    trust: &TrustKeeper,
    state: &AdminState,
) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => break info!("SIGTERM: ending"),
            _ = interrupt.recv() => break info!("SIGINT: ending"),
            _ = hang_up.recv() => reload_trust(config, file, trust),
            _ = housekeeping.tick() => {
                let failed = trust.rescan().err().map(|error| error.to_string());
                if let Some(failed) = failed.as_ref().filter(|failed| Some(*failed) != trouble.as_ref()) {
                    error!("{failed}");
                }
                trouble = failed;
                state.keep_metrics_small();
            }
        }
    }
    Ok(())
}

/// Reads the authorities again: those that the configuration file names now, and the folder.
fn reload_trust(config: &BrokerConfig, file: Option<&Path>, trust: &TrustKeeper) {
    let sources =
        Sources { file, overrides: Overrides::default(), environment: veilmq_config::process_environment() };
    let configured = match BrokerConfig::load(sources) {
        Ok(now) => now.veil.trust,
        Err(error) => {
            error!("SIGHUP: {error}; the authorities named before stay");
            config.veil.trust.clone()
        }
    };
    match trust.reload(&configured) {
        Ok(()) => info!("SIGHUP: authorities were read again; other options take effect at the next start"),
        Err(error) => error!("SIGHUP: {error}; nothing has changed"),
    }
}
