//! Scenarios against the pure core: virtual time, a store in memory, any number of shards.

use std::time::Duration;

use veilmq_protocol::ProtocolVersion;
use veilmq_simulator::{Conn, World};

use super::run::{Received, Transport};
use super::settings::{Change, core_settings};

/// A broker without threads, sockets and clock.
pub struct Simulated {
    /// None only while it crashes.
    world: Option<World>,
    shards: u16,
    /// None for those that are gone.
    connections: Vec<Option<Conn>>,
}

impl Simulated {
    /// Starts a broker.
    #[must_use]
    pub fn start(shards: u16, changes: &[Change]) -> Self {
        let world = World::with(core_settings(shards, changes));
        Self { world: Some(world), shards, connections: Vec::new() }
    }

    /// The broker and a connection that is not gone.
    fn at(&mut self, connection: usize) -> Option<(&mut World, Conn)> {
        let number = self.connections.get(connection).copied().flatten()?;
        self.world.as_mut().map(|world| (world, number))
    }
}

impl Transport for Simulated {
    fn open(&mut self) -> usize {
        let shard = self.connections.len() % usize::from(self.shards);
        let opened = self.world.as_mut().map(|world| world.accept(shard, ProtocolVersion::V5));
        self.connections.push(opened);
        self.connections.len() - 1
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        if let Some((world, number)) = self.at(connection)
            && !world.is_closed(number)
        {
            world.send_bytes(number, bytes);
        }
    }

    fn receive(&mut self, connection: usize, _patience: Duration) -> Received {
        let Some((world, number)) = self.at(connection) else { return Received::Closed };
        let bytes = world.bytes(number);
        match bytes.is_empty() {
            false => Received::Bytes(bytes),
            true if world.is_closed(number) => Received::Closed,
            true => Received::Nothing,
        }
    }

    fn cut(&mut self, connection: usize) {
        if let Some((world, number)) = self.at(connection) {
            world.cut(number);
            self.connections[connection] = None;
        }
    }

    fn pass(&mut self, time: Duration) {
        if let Some(world) = &mut self.world {
            world.pass(time.as_millis() as u64);
        }
    }

    fn crash(&mut self) {
        self.connections.fill(None);
        self.world = self.world.take().map(|world| world.crash(self.shards).0);
    }

    fn quiet(&self) -> Option<Duration> {
        None
    }
}
