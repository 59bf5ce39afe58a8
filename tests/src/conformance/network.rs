//! Scenarios against the real program over any kind of network connection; each scenario has a broker of its own.
//!
//! A kind of connection is a [`Dial`] and its [`Link`]. Invariant: the broker ends with the transport.

use std::io::Result;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::run::{Received, Transport};
use super::settings::{Change, configuration};
use crate::broker::Broker;

/// Two shards are enough for deliveries to cross them.
const SHARDS: u16 = 2;
/// How long a delivery takes from one shard to another on a machine that is busy with other tests.
const QUIET: Duration = Duration::from_millis(30);

/// How long a broker may take to close a connection that has ended.
const CUT_SECONDS_MAX: Duration = Duration::from_secs(10);

/// A kind of network connection.
pub trait Dial {
    /// What it opens.
    type Link: Link;

    /// The part of a configuration file that has the broker accept such connections at `address`.
    fn listener(&self, address: SocketAddr) -> String;

    /// Opens a connection.
    ///
    /// # Errors
    /// If the broker does not accept it.
    fn open(&self, address: SocketAddr) -> Result<Self::Link>;
}

/// A network connection: MQTT bytes in both directions. Dropping it ends it.
pub trait Link {
    /// Sends bytes.
    ///
    /// # Errors
    /// If the connection has ended.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the sending half without a word; the broker then closes the connection.
    ///
    /// # Errors
    /// If the connection has ended.
    fn end(&mut self) -> Result<()>;

    /// Returns what has arrived; waits for it no longer than `patience`.
    fn receive(&mut self, patience: Duration) -> Received;
}

/// The real broker and connections of one kind.
pub struct Network<D: Dial> {
    dial: D,
    broker: Broker,
    /// None for those that are gone.
    links: Vec<Option<D::Link>>,
}

impl<D: Dial> Network<D> {
    /// Starts a broker.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start(dial: D, changes: &[Change]) -> Self {
        let settings = configuration(SHARDS, changes);
        let broker = Broker::start_configured(|address| settings + &dial.listener(address));
        Self { dial, broker, links: Vec::new() }
    }
}

impl<D: Dial> Transport for Network<D> {
    fn open(&mut self) -> usize {
        let link = self.dial.open(self.broker.address());
        self.links.push(Some(link.unwrap_or_else(|error| panic!("the broker accepts nobody: {error}"))));
        self.links.len() - 1
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        if let Some(link) = &mut self.links[connection] {
            // A connection that has ended shows when it is read.
            let _ = link.send(bytes);
        }
    }

    fn receive(&mut self, connection: usize, patience: Duration) -> Received {
        self.links[connection].as_mut().map_or(Received::Closed, |link| link.receive(patience))
    }

    /// Returns when the broker knows: what the next step does comes after it.
    fn cut(&mut self, connection: usize) {
        let Some(mut link) = self.links[connection].take() else { return };
        // A connection that has ended shows when it is read.
        let _ = link.end();
        let deadline = Instant::now() + CUT_SECONDS_MAX;
        while link.receive(QUIET) != Received::Closed {
            assert!(Instant::now() < deadline, "the broker does not notice the end of a connection");
        }
    }

    fn pass(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn crash(&mut self) {
        self.links.clear();
        self.broker.kill();
        self.broker.restart();
    }

    fn quiet(&self) -> Option<Duration> {
        Some(QUIET)
    }
}
