//! Accepts connections for one shard. Running out of file descriptors slows it down and is logged now and then; it never ends.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tracing::warn;

use super::gate;
use super::stream::Stream;
use super::worker::Worker;
use crate::gate::Gate;
use crate::listener::{BACKLOG, Listener, ListeningSocket};
use crate::logging::MOSQUITTOS_LINES;

/// How long it may take to see that others have left.
const GLANCE: Duration = Duration::from_millis(1);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts while the gate is open, until the listener is gone. Who is in the queue of the kernel by then is still heard, and told if
/// the configuration has the listener no more.
pub(super) async fn accept_until_gone(worker: Rc<Worker>, listener: Listener, mut gate: Gate) {
    gate.pass().await;
    let Listener { socket, mut carrier } = listener;
    let socket = match Socket::attach(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
    };
    let mut complaints = Complaints::default();
    let mut pause = PAUSE_MIN;
    let mut last = BACKLOG as usize;
    while last > 0 {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            changed = carrier.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        // Who comes while the configuration is read again is served by what it says.
        gate.pass().await;
        if carrier.has_changed().is_err() {
            last -= 1;
        }
        let carrier = Arc::clone(&carrier.borrow());
        match accepted {
            Ok((_, _, Some(address))) if !carrier.takes(address) => {
                complaints.log("the peer is not in listeners[].proxy_protocol.trusted");
            }
            Ok((stream, peer, _)) => {
                pause = PAUSE_MIN;
                tracing::info!(target: MOSQUITTOS_LINES, %peer, port = carrier.port, "accepted");
                if !worker.gate().has_room(carrier.limit.as_ref()) {
                    // Who has left before this one came has a place no more, even if nobody has noticed yet.
                    tokio::time::sleep(GLANCE).await;
                }
                let permit = gate::admit(&worker, &carrier, &peer)
                    .inspect_err(|_| worker.counters().connection_refused());
                let taken = permit.and_then(|permit| worker.accept(stream, &carrier, &peer, permit));
                if let Err(reason) = taken {
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

/// A listening socket of this thread.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<str>),
}

impl Socket {
    fn attach(socket: ListeningSocket) -> io::Result<Self> {
        Ok(match socket {
            ListeningSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            ListeningSocket::Unix(socket, name) => Self::Unix(UnixListener::from_std(socket)?, name),
        })
    }

    /// Returns the next connection, who it is for log lines, and its address if it has one. Nothing is lost if it is not waited for to
    /// the end.
    async fn accept(&self) -> io::Result<(Stream, String, Option<IpAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                // Without it a small packet may wait for the acknowledgement of the one before; the connection works all the same.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), peer.to_string(), Some(peer.ip())))
            }
            Self::Unix(socket, name) => {
                let (stream, _) = socket.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(process) => format!("{name} (uid {})", process.uid()),
                    Err(_) => name.to_string(),
                };
                Ok((Stream::Unix(stream), peer, None))
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
