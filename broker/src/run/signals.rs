//! The main thread while the broker serves: signals, and what has to be looked at now and then.

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};
use tracing::{error, info};

use super::notify::Notifier;
use super::reload::Reloader;
use super::{Broker, RunError};
use crate::admin::ReloadReport;
use crate::gate::HangUp;
use crate::trust::TrustKeeper;

const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// The signals that the broker obeys, received from the moment this is made.
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hang_up: AsyncFd<HangUp>,
    save: Signal,
    print: Signal,
}

impl Signals {
    /// Begins to receive signals. One that comes while the broker starts is obeyed once it has started: the first process of a
    /// container is deaf to signals that it does not receive.
    ///
    /// # Errors
    /// [`RunError::System`] if signals cannot be received.
    pub(super) fn receive() -> Result<Self, RunError> {
        Self::try_receive().map_err(RunError::system("receive signals"))
    }

    fn try_receive() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for types that do not own their descriptor; this one does"
        )]
        let hang_up = AsyncFd::with_interest(HangUp::receive()?, Interest::READABLE)?;
        let save = signal(SignalKind::user_defined1())?;
        let print = signal(SignalKind::user_defined2())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hang_up, save, print })
    }

    /// Returns SIGHUP, for who has to see it before it is obeyed.
    pub(super) fn hang_up(&self) -> &HangUp {
        self.hang_up.get_ref()
    }

    /// Serves until SIGTERM or SIGINT.
    pub(super) fn serve_until_told_to_end(self, broker: &mut Broker, notifier: &mut Notifier) {
        let Broker { reloader, reloads, exchange, state, .. } = broker;
        let Self { runtime, mut terminate, mut interrupt, hang_up, mut save, mut print } = self;
        runtime.block_on(async {
            let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
            housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut alive = notifier.alive_interval().map(tokio::time::interval);
            let mut trouble = None;
            let mut memory_look = Instant::now();
            notifier.ready();
            loop {
                tokio::select! {
                    _ = terminate.recv() => return info!("SIGTERM: ending"),
                    _ = interrupt.recv() => return info!("SIGINT: ending"),
                    // Who comes from Mosquitto may send them, and must not end the broker.
                    _ = save.recv() => info!("SIGUSR1: everything is stored already"),
                    _ = print.recv() => info!("SIGUSR2: there is nothing to print"),
                    Ok(mut sent) = hang_up.readable() => {
                        // First, for a thread that sees the signal no more has to see this.
                        reloader.let_nobody_in();
                        if matches!(sent.try_io(|signal| signal.get_ref().take()), Ok(Ok(()))) {
                            crate::logging::reopen_files();
                            // The log and the metrics say what became of it.
                            let _ = reload(reloader, "SIGHUP", notifier);
                        }
                        reloader.let_in();
                    }
                    Some(reply) = reloads.recv() => {
                        // Who asked may have given up waiting.
                        let _ = reply.send(reload(reloader, "reload", notifier));
                    }
                    () = tick(&mut alive) => notifier.alive(&**exchange),
                    _ = housekeeping.tick() => {
                        reloader.heed_files();
                        if look_after_trust(&reloader.trust, &mut trouble) {
                            exchange.change_access();
                        }
                        state.keep_metrics_small();
                    }
                    () = sleep_until(memory_look) => {
                        reloader.look_at_memory();
                        memory_look = Instant::now() + reloader.memory_interval();
                    }
                }
            }
        });
    }
}

/// Reads the configuration again, and lets the service manager know meanwhile.
fn reload(reloader: &mut Reloader, cause: &str, notifier: &Notifier) -> Result<ReloadReport, String> {
    notifier.reloading();
    let result = reloader.reload(cause);
    notifier.ready();
    result
}

/// Waits for the next tick, or for ever.
async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// Notices authorities that were added or removed, and revocation lists; tells whether somebody is trusted no more. Trouble that
/// lasts is logged once.
fn look_after_trust(trust: &TrustKeeper, trouble: &mut Option<String>) -> bool {
    let looked = trust.rescan().map_err(|error| error.to_string());
    if let Err(now) = &looked
        && trouble.as_ref() != Some(now)
    {
        error!("{now}");
    }
    let is_news = *looked.as_ref().unwrap_or(&false);
    *trouble = looked.err();
    is_news
}
