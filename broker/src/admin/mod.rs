//! The admin listener: metrics, liveness, readiness, the broker's public certificate, trust in development mode, and what
//! operators do who show a token.
//!
//! It runs on a thread of its own, so a busy shard cannot hide that it is busy. It hands out nothing secret; without the token it
//! takes nothing but a public certificate.

mod api;
mod controls;
pub mod health;
pub mod local;
pub mod metrics;
mod page;
mod places;
mod process;
mod routes;
mod server;
mod state;
mod token;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use tokio::net::TcpListener as TokioListener;
use tokio::sync::oneshot;

pub use controls::{Controls, ReloadReport, ReloadRequest};
pub use process::process_memory;
pub use state::{AdminState, Pulse, Readiness, Status, StorageDamage, mode_name};
pub use token::{Token, TokenError, read_token};

/// Why the admin listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is not free or not ours.
    #[error("cannot listen on {address} for metrics and health: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The operating system gave no thread or event queue.
    #[error("cannot start the admin thread: {0}")]
    Thread(io::Error),
}

/// A running admin listener; dropping it ends the thread.
pub struct AdminServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds the address and answers requests from then on.
    ///
    /// # Errors
    /// [`AdminError`], naming the address.
    pub fn start(address: SocketAddr, state: Arc<AdminState>) -> Result<Self, AdminError> {
        let refuse = |source| AdminError::Listen { address, source };
        let listener = bind(address).map_err(refuse)?;
        listener.set_nonblocking(true).map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            if let Err(error) = runtime.block_on(serve(listener, state, stopped)) {
                tracing::error!(%address, %error, "the admin listener failed");
            }
        };
        let thread =
            std::thread::Builder::new().name("admin".into()).spawn(serve).map_err(AdminError::Thread)?;
        Ok(Self { address: bound, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address it listens on, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens. All addresses of IPv6 are those of IPv4 too, and of these alone where there is no IPv6.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address) {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic, if there was one, has been logged.
            let _ = thread.join();
        }
    }
}

/// Serves until `stopped` resolves; requests under way then are given up, because a shutdown does not wait for scrapers.
async fn serve(
    listener: TcpListener,
    state: Arc<AdminState>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = TokioListener::from_std(listener)?;
    tokio::select! {
        () = server::serve_for_ever(listener, routes::router(state)) => Ok(()),
        _ = stopped => Ok(()),
    }
}
