//! The facts of a run in the order in which they became known, and the connections they came over.
//!
//! Each fact stands at a position: a connection, and the bytes that had arrived over it. Who knows how far the broker had got
//! with each connection at some moment knows which facts the clients could have seen by then.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::{Fact, Ledger};
use crate::wire::{RawPacket, Wire};

/// How long an answer may take: a sync on a busy machine takes its time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A moment in the life of a client.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Index of the connection in the order of [`Log::ports`].
    pub connection: usize,
    /// The bytes that had been received over it.
    pub received_bytes: u64,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    facts: Vec<(Position, Fact)>,
    ports: Vec<u16>,
    /// The earliest moment at which a Will may arrive.
    will_delays: BTreeMap<(usize, u32), Instant>,
}

/// What all clients of a fleet write to.
#[derive(Debug)]
pub struct Log(Mutex<State>);

impl Log {
    /// Goes on from `ledger`.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self(Mutex::new(State { ledger, facts: Vec::new(), ports: Vec::new(), will_delays: BTreeMap::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A client that panics fails the test by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the ledger, or changes something in it that is not a fact.
    pub fn ledger<T>(&self, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
        use_it(&mut self.lock().ledger)
    }

    /// Enters a broken promise.
    pub fn fault(&self, fault: String) {
        self.ledger(|ledger| ledger.fault(fault));
    }

    /// Says that the broker starts now, so that the delay of each Will that is due counts from now unless it does already.
    pub fn broker_starts(&self, will_delay: impl Fn(usize) -> Duration) {
        let mut state = self.lock();
        for will in state.ledger.wills_due() {
            state.will_delays.entry(will).or_insert(Instant::now() + will_delay(will.0));
        }
    }

    /// How many facts are known.
    #[must_use]
    pub fn facts(&self) -> usize {
        self.lock().facts.len()
    }

    /// The clients' port of each connection, in the order in which the connections were made.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.lock().ports.clone()
    }

    /// Returns the ledger with the facts alone that could have been known when `is_past` says so of their positions.
    #[must_use]
    pub fn ledger_at(&self, is_past: impl Fn(Position) -> bool) -> Ledger {
        let state = self.lock();
        let known = state.facts.iter().filter(|(position, _)| is_past(*position));
        state.ledger.with_facts(known.map(|(_, fact)| fact))
    }
}

/// A connection whose packets become facts.
#[derive(Debug)]
pub struct Link<'a> {
    wire: Wire,
    log: &'a Log,
    connection: usize,
}

impl<'a> Link<'a> {
    /// Connects `client`, whose session must be there if it ever was acknowledged.
    ///
    /// # Errors
    /// If the broker is gone or does not accept the connection.
    pub fn open(log: &'a Log, address: SocketAddr, client: usize, connect: &[u8]) -> Result<Self> {
        let wire = Wire::try_open(address)?;
        wire.set_patience(PATIENCE)?;
        let port = wire.local_port()?;
        let connection = {
            let mut state = log.lock();
            state.ports.push(port);
            state.ports.len() - 1
        };
        let mut link = Self { wire, log, connection };
        link.send(connect)?;
        let connack = link.packet()?;
        if connack.first != 0x20 || connack.body.get(1) != Some(&0) {
            return Err(Error::other(format!("not accepted: {connack:02x?}")));
        }
        log.ledger(|ledger| ledger.resumed(client, connack.body[0] & 1 == 1));
        link.note(&[Fact::Connected { client }]);
        Ok(link)
    }

    /// Enters what the packet that was read last has taught, all at once.
    pub fn note(&self, facts: &[Fact]) {
        let mut state = self.log.lock();
        for fact in facts {
            state.ledger.note(*fact);
            state.facts.push((self.position(), *fact));
            if let Fact::WillArrived { holder, number } = *fact
                && state.will_delays.get(&(holder, number)).is_some_and(|earliest| Instant::now() < *earliest)
            {
                state
                    .ledger
                    .fault(format!("Will {number} of holder {holder} came before its delay was over"));
            }
        }
    }

    /// Reads the next packet.
    ///
    /// # Errors
    /// As [`Wire::packet`].
    pub fn packet(&mut self) -> Result<RawPacket> {
        self.wire.packet()
    }

    /// Sends `bytes` as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.wire.send(bytes)
    }

    /// Where this connection is now.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { connection: self.connection, received_bytes: self.wire.received_bytes() }
    }

    /// The log that this connection writes to.
    #[must_use]
    pub fn log(&self) -> &'a Log {
        self.log
    }
}
