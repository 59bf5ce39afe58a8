//! Accepts connections for one shard. Running out of file descriptors slows it down and is logged now and then; it never ends.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener as TokioListener;
use tokio::time::Instant;
use tracing::warn;

use super::worker::Worker;
use crate::listener::Listener;

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts until the task is aborted.
pub(super) async fn accept_for_ever(worker: Rc<Worker>, listener: Listener) {
    let Listener { socket, carrier } = listener;
    let listener = match TokioListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
    };
    let mut complaints = Complaints::default();
    let mut pause = PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                pause = PAUSE_MIN;
                // Without it a small packet may wait for the acknowledgement of the one before; the connection works all the same.
                let _ = stream.set_nodelay(true);
                if let Err(reason) = worker.accept(stream, &carrier, &peer.to_string()) {
                    complaints.log(reason);
                }
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                worker.counters().accept_failed();
                complaints.log(&error.to_string());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The peer left before it was accepted; the next connection is not affected.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Logs the first complaint and then a summary every few seconds.
#[derive(Default)]
struct Complaints {
    suppressed: u64,
    logged_at: Option<Instant>,
}

impl Complaints {
    fn log(&mut self, reason: &str) {
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            self.suppressed += 1;
            return;
        }
        warn!(reason, suppressed = self.suppressed, "connections are not accepted");
        self.suppressed = 0;
        self.logged_at = Some(Instant::now());
    }
}
