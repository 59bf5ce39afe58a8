//! Session input: a broker without a world, and clients that do whatever the bytes say.
//!
//! The bytes are a script (see `script.rs`): packets on several connections, well-formed, damaged or raw, in one piece or in
//! many; lost connections, time, commits that are late or fail, crashes. Whatever happens, what each client receives obeys
//! MQTT (see `watch.rs`), and when every session has ended nothing is left of any.

mod packets;
mod script;
mod watch;

use std::collections::BTreeMap;

use veilmq_core::{Input, RecoverySummary, Settings};
use veilmq_protocol::{Packet, ProtocolVersion};
use veilmq_simulator::World;

use script::{Script, Step};
use watch::Watch;

/// How long a session outlives its connection at most.
const SESSION_SECONDS_MAX: u32 = 7_200;
/// Packets that wait to be sent in one piece.
const WAITING_BYTES_MAX: usize = 16 * 1024;

/// Plays a script, and checks what every client receives and what is left in the end.
pub fn session(data: &[u8]) {
    let mut script = Script::new(data);
    let mut stage = Stage::new(script.number());
    while let Some(step) = script.step() {
        stage.play(step, &mut script);
    }
    stage.conclude();
}

/// The broker and the clients whose connections are open.
struct Stage {
    /// Taken out for the moment of a crash.
    world: Option<World>,
    clients: BTreeMap<u8, Watch>,
    /// Where a damaged packet differs, and how; used up by the next one.
    damage: Option<(u8, u8)>,
    /// The size of the pieces in which packets are sent; 0 for whole packets.
    piece_bytes: usize,
    /// A commit failed, so until the next start the store knows less than the broker.
    store_is_behind: bool,
}

/// Limits that are small enough to be reached.
fn tight(shards: u16) -> Settings {
    Settings {
        packet_bytes_max: 1_024,
        connect_packet_bytes_max: 256,
        keep_alive_seconds_max: 30,
        receive_maximum: 3,
        inflight_max: 3,
        topic_alias_maximum: 2,
        topic_levels_max: 4,
        client_id_bytes_max: 8,
        subscriptions_per_session_max: 3,
        session_queue_messages_max: 5,
        session_queue_bytes_max: 2_000,
        session_queue_memory_bytes: 500,
        outbox_bytes_max: 256,
        retained_bytes_max: 1_000,
        ..roomy(shards)
    }
}

fn roomy(shards: u16) -> Settings {
    Settings { shards, session_expiry_seconds_max: SESSION_SECONDS_MAX, ..Settings::default() }
}

impl Stage {
    fn new(kind: u8) -> Self {
        let shards = 1 + u16::from(kind & 7) % 3;
        let settings = if kind & 8 == 0 { roomy(shards) } else { tight(shards) };
        Self {
            world: Some(World::with(settings)),
            clients: BTreeMap::new(),
            damage: None,
            piece_bytes: 0,
            store_is_behind: false,
        }
    }

    fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("the world is there between crashes")
    }

    fn play(&mut self, step: Step<'_>, script: &mut Script<'_>) {
        match step {
            Step::Connect { slot } => {
                self.open(slot);
                packets::connect(script, |packet, version| self.send(slot, packet, version));
            }
            Step::Open { slot } => self.open(slot),
            Step::Packet { slot, kind } => {
                let version = self.version(slot);
                packets::packet(kind, version, script, |packet| self.send(slot, packet, version));
            }
            Step::Raw { slot, bytes } => self.send_bytes(slot, bytes),
            Step::Acknowledge { slot } => self.acknowledge(slot),
            Step::Cut { slot } => self.cut(slot),
            Step::Damage { position, pattern } => self.damage = Some((position, pattern)),
            Step::Pieces { bytes } => self.piece_bytes = bytes,
            Step::Together { slot } => self.together(slot),
            Step::Pass { milliseconds } => self.world().pass(milliseconds),
            Step::HoldCommits(hold) => self.world().commits_at_once = !hold,
            Step::Commit => _ = self.world().commit_one(),
            Step::FailCommit => self.store_is_behind |= self.world().fail_one(),
            Step::ShutDown => self.shut_down(),
            Step::Crash { shards } => _ = self.crash(shards),
        }
        self.collect();
    }

    fn version(&self, slot: u8) -> ProtocolVersion {
        self.clients.get(&slot).and_then(Watch::version).unwrap_or(ProtocolVersion::V5)
    }

    /// Opens a connection; one that the slot had before is lost.
    fn open(&mut self, slot: u8) {
        self.cut(slot);
        let shard = usize::from(slot) % usize::from(self.world().shared.settings().shards);
        let connection = self.world().accept(shard, ProtocolVersion::V5);
        self.clients.insert(slot, Watch::new(connection));
    }

    fn cut(&mut self, slot: u8) {
        self.send_waiting(slot);
        if let Some(client) = self.clients.remove(&slot) {
            self.world().cut(client.connection);
        }
    }

    fn send(&mut self, slot: u8, packet: &Packet<'_>, version: ProtocolVersion) {
        let mut bytes = Vec::new();
        // What the version cannot express is not sent.
        if packet.encode(version, &mut bytes).is_err() {
            return;
        }
        if let Some((position, pattern)) = self.damage.take() {
            let position = usize::from(position) % bytes.len();
            bytes[position] ^= pattern;
        }
        self.send_bytes(slot, &bytes);
    }

    fn send_bytes(&mut self, slot: u8, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&slot) else { return };
        if client.waits && client.waiting.len() < WAITING_BYTES_MAX {
            client.waiting.extend_from_slice(bytes);
            return;
        }
        self.send_waiting(slot);
        match self.piece_bytes {
            0 => self.send_piece(slot, bytes),
            len => bytes.chunks(len).for_each(|piece| self.send_piece(slot, piece)),
        }
    }

    /// Begins to hold packets back, or sends those that were to go together.
    fn together(&mut self, slot: u8) {
        match self.clients.get_mut(&slot) {
            Some(client) if !client.waits => client.waits = true,
            _ => self.send_waiting(slot),
        }
    }

    fn send_waiting(&mut self, slot: u8) {
        let Some(client) = self.clients.get_mut(&slot) else { return };
        client.waits = false;
        let waiting = std::mem::take(&mut client.waiting);
        if !waiting.is_empty() {
            self.send_piece(slot, &waiting);
        }
    }

    fn send_piece(&mut self, slot: u8, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&slot) else { return };
        client.sends(bytes);
        let connection = client.connection;
        self.world().send_bytes(connection, bytes);
        self.collect();
    }

    /// Sends every acknowledgement that the client owes.
    fn acknowledge(&mut self, slot: u8) {
        let version = self.version(slot);
        let Some(client) = self.clients.get_mut(&slot) else { return };
        for packet in client.owed() {
            self.send(slot, &packet, version);
        }
    }

    /// Gives every client what it received, and forgets those whose connection is closed.
    fn collect(&mut self) {
        let world = self.world.as_mut().expect("the world is there between crashes");
        self.clients.retain(|_, client| {
            client.receives(&world.bytes(client.connection));
            let is_closed = world.is_closed(client.connection);
            client.ends_turn(is_closed);
            !is_closed
        });
    }

    fn shut_down(&mut self) {
        for shard in 0..usize::from(self.world().shared.settings().shards) {
            self.world().turn(shard, Input::Shutdown);
        }
        self.world().commit();
        self.collect();
        // Who has not said CONNECT yet is answered when it does.
        let is_silent = |client: &Watch| client.version().is_none();
        assert!(self.clients.values().all(is_silent), "a connection outlived the broker");
        self.crash(1);
    }

    /// Kills the broker and starts another; what was not committed is lost.
    fn crash(&mut self, shards: u16) -> RecoverySummary {
        self.collect();
        self.clients.clear();
        let world = self.world.take().expect("the world is there between crashes");
        let commits_at_once = world.commits_at_once;
        let (mut world, summary) = world.crash(shards);
        world.commits_at_once = commits_at_once;
        self.world = Some(world);
        self.store_is_behind = false;
        summary
    }

    /// Ends everything, and checks that nothing is left but retained messages.
    fn conclude(mut self) {
        self.world().commits_at_once = true;
        self.world().commit();
        self.collect();
        for slot in self.clients.keys().copied().collect::<Vec<_>>() {
            self.cut(slot);
            self.collect();
        }
        if self.store_is_behind {
            self.crash(2);
        }
        self.world().pass(u64::from(SESSION_SECONDS_MAX + 1) * 1_000);
        let world = self.world();
        for (gauge, label) in [
            ("veilmq_connections", ""),
            ("veilmq_sessions", "connected"),
            ("veilmq_sessions", "disconnected"),
            ("veilmq_subscriptions", ""),
            ("veilmq_queued_messages", ""),
            ("veilmq_queued_bytes", ""),
            ("veilmq_inflight_messages", ""),
        ] {
            assert_eq!(world.sample(gauge, label), 0, "{gauge} {label}");
        }
        assert_eq!(world.stored_bodies(), 0, "bodies that nobody needs are still stored");
        let (retained, _) = world.shared.retained_totals();
        let recovered = self.crash(3);
        // Those that have expired are let go of at the start.
        assert!(recovered.retained <= retained, "{recovered:?} of {retained} retained");
        assert_eq!(recovered, RecoverySummary { retained: recovered.retained, ..RecoverySummary::default() });
    }
}
