//! How a bridge gets in: it makes a pair of sockets and hands one to a shard, which takes it for a client's.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use veilmq_core::{BridgeErrand, SessionDetail, SessionSummary};

/// How many visits may wait for the shard; bridges then wait too.
const WAITING_MAX: usize = 64;

/// What a bridge asks of the shard.
#[derive(Debug)]
pub enum Visit {
    /// Take this end of a socket pair as the connection of a client.
    Connection {
        /// The shard's end.
        socket: StdUnixStream,
        /// The bridge's name.
        bridge: Arc<str>,
        /// What it comes for.
        errand: BridgeErrand,
        /// Whether TLS carries its connection to the other broker.
        is_encrypted: bool,
    },
    /// Show the session of a bridge.
    Look {
        /// Its Client Identifier.
        client_id: String,
        /// Where it goes; None if there is none.
        reply: oneshot::Sender<Option<SessionDetail>>,
    },
    /// Say on a topic how a bridge fares.
    Announcement {
        /// The topic.
        topic: String,
        /// `1` or `0`.
        payload: &'static str,
    },
}

/// The bridges' end.
#[derive(Debug, Clone)]
pub struct Door(mpsc::Sender<Visit>);

/// The shard's end.
pub type Visits = mpsc::Receiver<Visit>;

impl Door {
    /// Makes a door and what comes in through it.
    pub fn new() -> (Self, Visits) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Connects to this broker.
    ///
    /// # Errors
    /// The operating system gave no sockets, or the broker is ending.
    pub(super) async fn connect(
        &self,
        bridge: &Arc<str>,
        errand: BridgeErrand,
        is_encrypted: bool,
    ) -> io::Result<UnixStream> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let bridge = Arc::clone(bridge);
        self.send(Visit::Connection { socket: theirs, bridge, errand, is_encrypted }).await?;
        UnixStream::from_std(ours)
    }

    /// Returns what this broker says of a session; None if there is none.
    ///
    /// # Errors
    /// The broker is busy or ending.
    pub(super) async fn look(&self, client_id: &str) -> io::Result<Option<SessionSummary>> {
        let (reply, answer) = oneshot::channel();
        self.send(Visit::Look { client_id: client_id.to_owned(), reply }).await?;
        let session = answer.await.map_err(|_| io::Error::other("this broker is busy"))?;
        Ok(session.map(|session| session.summary))
    }

    /// Says how a bridge fares, if the broker is not ending.
    pub(super) async fn announce(&self, topic: String, payload: &'static str) {
        // Nobody is left to hear it.
        let _ = self.send(Visit::Announcement { topic, payload }).await;
    }

    async fn send(&self, visit: Visit) -> io::Result<()> {
        self.0.send(visit).await.map_err(|_| io::Error::other("the broker is ending"))
    }
}
