//! A broker without a world: shards, a store in memory and a virtual clock, driven by packets.
//!
//! It plays the driver: routes effects between shards, commits batches (at once, or when a test says so), and keeps what each
//! client would have received.
#![allow(dead_code, reason = "each test binary uses its own part of the world")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use veilmq_core::{
    ConnectionId, Effect, Environment, Input, MemoryStore, Moment, Outbox, Record, Recovery, RecoverySummary,
    Settings, Shard, ShardIndex, Shared, Store, Ticket, VeilServer,
};
use veilmq_protocol::{
    Acknowledgement, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFiltersBuf, SubscribeOptions,
    TopicFilter, TopicName, UserProperties, next_frame,
};

/// A broker, its store and its clients.
pub(crate) struct World {
    pub(crate) shared: Arc<Shared>,
    shards: Vec<Shard>,
    pub(crate) store: MemoryStore,
    /// Batches are made durable at once; otherwise they wait for [`World::commit`].
    pub(crate) commits_at_once: bool,
    pending: VecDeque<(usize, Ticket, Vec<Record>)>,
    /// What shards asked for and is still to be carried out, in the order in which they asked.
    effects: VecDeque<(usize, Effect)>,
    carries_out: bool,
    now: Moment,
    random: u64,
    next_connection: u64,
    clients: BTreeMap<u64, Client>,
}

/// One connection as its client sees it.
struct Client {
    shard: usize,
    version: ProtocolVersion,
    received: Vec<u8>,
    closed: bool,
}

/// A connection's number.
pub(crate) type Conn = ConnectionId;

impl World {
    pub(crate) fn new(shards: u16) -> Self {
        Self::with(Settings { shards, ..Settings::default() })
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self::start(settings, None, MemoryStore::new(), Moment::from_milliseconds(1_800_000_000_000)).0
    }

    pub(crate) fn with_veil(settings: Settings, veil: VeilServer) -> Self {
        Self::start(settings, Some(veil), MemoryStore::new(), Moment::from_milliseconds(1_800_000_000_000)).0
    }

    fn start(
        settings: Settings,
        veil: Option<VeilServer>,
        mut store: MemoryStore,
        now: Moment,
    ) -> (Self, RecoverySummary) {
        let shared = Shared::new(settings, [7; 16], veil);
        let mut recovery = Recovery::new();
        store.replay(&mut |record| recovery.apply(record)).unwrap();
        let (shards, cleanup, summary) = recovery.into_shards(&shared, now);
        store.commit(&cleanup).unwrap();
        let world = Self {
            shared,
            shards,
            store,
            commits_at_once: true,
            pending: VecDeque::new(),
            effects: VecDeque::new(),
            carries_out: false,
            now,
            random: 1,
            next_connection: 1,
            clients: BTreeMap::new(),
        };
        (world, summary)
    }

    /// Kills the broker and starts another on the same store; what was not committed is lost.
    pub(crate) fn crash(self, shards: u16) -> (Self, RecoverySummary) {
        let now = self.now;
        self.crash_until(now, shards)
    }

    /// As [`World::crash`]; the clock then shows `now`, which may be earlier.
    pub(crate) fn crash_until(self, now: Moment, shards: u16) -> (Self, RecoverySummary) {
        let settings = Settings { shards, ..self.shared.settings().clone() };
        Self::start(settings, None, self.store, now)
    }

    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    /// Returns the next deadline of any shard.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.shards.iter().filter_map(Shard::next_deadline).min()
    }

    /// Lets time pass, acting on each deadline on the way.
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let until = self.now + milliseconds;
        while let Some(next) = self.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(next);
            for index in 0..self.shards.len() {
                self.turn(index, Input::Tick);
            }
        }
        self.now = until;
    }

    /// Makes every batch durable that has been handed to the store.
    pub(crate) fn commit(&mut self) {
        while self.commit_one() {}
    }

    /// Makes the oldest batch durable that waits; false if none does.
    pub(crate) fn commit_one(&mut self) -> bool {
        let Some((shard, ticket, records)) = self.pending.pop_front() else { return false };
        self.store.commit(&records).unwrap();
        self.turn(shard, Input::Committed(ticket));
        true
    }

    /// Refuses the oldest batch that waits; false if none does.
    pub(crate) fn fail_one(&mut self) -> bool {
        let Some((shard, ticket, _)) = self.pending.pop_front() else { return false };
        self.turn(shard, Input::CommitFailed(ticket));
        true
    }

    /// Tells whether a crash would lose something.
    pub(crate) fn has_uncommitted(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns the number of message bodies in the store.
    pub(crate) fn stored_bodies(&mut self) -> usize {
        let mut count = 0;
        self.store
            .replay(&mut |record| count += usize::from(matches!(record, Record::Published { .. })))
            .unwrap();
        count
    }

    /// Refuses every batch that waits, as a full disk would.
    pub(crate) fn fail_commits(&mut self) {
        while self.fail_one() {}
    }

    /// Opens a connection on a shard without sending anything.
    pub(crate) fn accept(&mut self, shard: usize, version: ProtocolVersion) -> Conn {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.clients.insert(connection.0, Client { shard, version, received: Vec::new(), closed: false });
        self.turn(shard, Input::Accepted { connection, peer: "test" });
        connection
    }

    /// Connects and returns the connection; CONNACK is left to be received.
    pub(crate) fn connect(&mut self, connect: &Connect<'_>) -> Conn {
        let shard = (self.next_connection as usize) % self.shards.len();
        let connection = self.accept(shard, connect.version);
        self.send(connection, &Packet::Connect(*connect));
        connection
    }

    /// Connects with MQTT 5, expects success, and returns the connection and Session Present.
    pub(crate) fn join(
        &mut self,
        client_id: &str,
        clean_start: bool,
        session_expiry_seconds: u32,
    ) -> (Conn, bool) {
        let connection = self.connect(&connect_v5(client_id, clean_start, session_expiry_seconds));
        let bytes = self.bytes(connection);
        let (frame, consumed) = next_frame(&bytes, usize::MAX).unwrap().expect("a CONNACK");
        let Packet::ConnAck(connack) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
            panic!("expected CONNACK, got {bytes:02x?}");
        };
        assert_eq!(connack.reason, ReasonCode::Success);
        let present = connack.session_present;
        self.clients.get_mut(&connection.0).unwrap().received = bytes[consumed..].to_vec();
        (connection, present)
    }

    pub(crate) fn send(&mut self, connection: Conn, packet: &Packet<'_>) {
        let version = self.clients[&connection.0].version;
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();
        self.send_bytes(connection, &bytes);
    }

    pub(crate) fn send_bytes(&mut self, connection: Conn, bytes: &[u8]) {
        let shard = self.clients[&connection.0].shard;
        let mut bytes = bytes.to_vec();
        self.turn(shard, Input::Received { connection, bytes: &mut bytes });
    }

    /// Cuts the connection without a word.
    pub(crate) fn cut(&mut self, connection: Conn) {
        let shard = self.clients[&connection.0].shard;
        self.turn(shard, Input::Closed { connection });
    }

    /// Takes the bytes that the client has received.
    pub(crate) fn bytes(&mut self, connection: Conn) -> Vec<u8> {
        std::mem::take(&mut self.clients.get_mut(&connection.0).unwrap().received)
    }

    /// Takes what the client has received, each packet in a short form such as `PUBLISH t "x" qos1 id1`.
    pub(crate) fn received(&mut self, connection: Conn) -> Vec<String> {
        let version = self.clients[&connection.0].version;
        describe_all(&self.bytes(connection), version)
    }

    /// Returns the sum over the shards of one sample.
    pub(crate) fn sample(&self, name: &str, label: &str) -> u64 {
        let mut sum = 0;
        for shard in &self.shards {
            shard.stats().visit(&mut |sample| {
                let labelled = sample.label.map_or(label.is_empty(), |(_, value)| value == label);
                sum += if sample.name == name && labelled { sample.value } else { 0 };
            });
        }
        sum
    }

    pub(crate) fn is_closed(&self, connection: Conn) -> bool {
        self.clients[&connection.0].closed
    }

    /// Lets one shard handle an input, and carries out what it asks for.
    pub(crate) fn turn(&mut self, shard: usize, input: Input<'_>) {
        let mut effects = Vec::new();
        let mut random = self.random;
        {
            let mut entropy = |bytes: &mut [u8]| {
                for byte in bytes {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    *byte = (random >> 33) as u8;
                }
            };
            let mut environment =
                Environment { now: self.now, unix_ms: self.now.milliseconds(), entropy: &mut entropy };
            self.shards[shard].handle(&mut environment, input, &mut effects);
            self.shards[shard].end_turn(&mut environment, &mut effects);
        }
        self.random = random;
        self.effects.extend(effects.into_iter().map(|effect| (shard, effect)));
        // A turn within a turn leaves its effects to the outermost, so that they stay in order.
        if !std::mem::replace(&mut self.carries_out, true) {
            while let Some((shard, effect)) = self.effects.pop_front() {
                self.carry_out(shard, effect);
            }
            self.carries_out = false;
        }
    }

    fn carry_out(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Flush(connection) => {
                let mut drained = false;
                if let Some(outbox) = self.shards[shard].outbox(connection) {
                    let bytes = drain(outbox);
                    drained = !bytes.is_empty();
                    self.clients.get_mut(&connection.0).unwrap().received.extend(bytes);
                }
                if drained {
                    self.turn(shard, Input::Drained { connection });
                }
            }
            Effect::Close { connection, mut outbox } => {
                let client = self.clients.get_mut(&connection.0).unwrap();
                client.received.extend(drain(&mut outbox));
                client.closed = true;
            }
            Effect::Hand { shard: ShardIndex(target), arrival } => {
                let connection = arrival.connection();
                self.clients.get_mut(&connection.0).unwrap().shard = usize::from(target);
                self.turn(usize::from(target), Input::Arrived(arrival));
            }
            Effect::Commit { ticket, records } => {
                self.pending.push_back((shard, ticket, records));
                if self.commits_at_once {
                    self.commit();
                }
            }
            Effect::Post { shard: ShardIndex(target), parcel } => {
                self.turn(usize::from(target), Input::Parcel(parcel));
            }
        }
    }

    pub(crate) fn subscribe(&mut self, connection: Conn, filter: &str, qos: QoS) {
        self.subscribe_with(connection, filter, options(qos));
    }

    pub(crate) fn subscribe_with(&mut self, connection: Conn, filter: &str, options: SubscribeOptions) {
        let mut filters = SubscribeFiltersBuf::default();
        filters.push(TopicFilter::new(filter).unwrap(), options).unwrap();
        self.send(
            connection,
            &Packet::Subscribe(Subscribe {
                packet_id: id(9),
                subscription_id: None,
                user: UserProperties::default(),
                filters: filters.as_filters(),
            }),
        );
    }

    pub(crate) fn publish(&mut self, connection: Conn, topic: &str, payload: &str, qos: QoS, packet_id: u16) {
        self.send(connection, &Packet::Publish(publish(topic, payload, qos, packet_id)));
    }

    pub(crate) fn retain(&mut self, connection: Conn, topic: &str, payload: &str) {
        let publish = Publish { retain: true, ..publish(topic, payload, QoS::AtMostOnce, 0) };
        self.send(connection, &Packet::Publish(publish));
    }

    pub(crate) fn ack(
        &mut self,
        connection: Conn,
        make: impl Fn(Acknowledgement<'static>) -> Packet<'static>,
        packet_id: u16,
    ) {
        self.send(connection, &make(Acknowledgement::new(id(packet_id), ReasonCode::Success)));
    }
}

fn drain(outbox: &mut Outbox) -> Vec<u8> {
    let mut slices = Vec::new();
    outbox.slices(&mut slices, usize::MAX);
    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
    outbox.advance(bytes.len());
    bytes
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub(crate) fn connect_v5(client_id: &str, clean_start: bool, session_expiry_seconds: u32) -> Connect<'_> {
    Connect {
        version: ProtocolVersion::V5,
        clean_start,
        keep_alive_seconds: 0,
        client_id,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: ConnectProperties {
            session_expiry_seconds: (session_expiry_seconds > 0).then_some(session_expiry_seconds),
            ..ConnectProperties::default()
        },
    }
}

pub(crate) fn connect_v311(client_id: &str, clean_session: bool) -> Connect<'_> {
    Connect { version: ProtocolVersion::V311, ..connect_v5(client_id, clean_session, 0) }
}

pub(crate) fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

pub(crate) fn publish<'a>(topic: &'a str, payload: &'a str, qos: QoS, packet_id: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: PacketId::new(packet_id),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    }
}

pub(crate) fn describe_all(mut bytes: &[u8], version: ProtocolVersion) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((frame, consumed)) = next_frame(bytes, usize::MAX).unwrap() {
        all.push(describe(&Packet::decode(frame, version).unwrap()));
        bytes = &bytes[consumed..];
    }
    assert!(bytes.is_empty(), "half a packet: {bytes:02x?}");
    all
}

fn describe(packet: &Packet<'_>) -> String {
    let ack = |name: &str, ack: &Acknowledgement<'_>| {
        let reason = if ack.reason == ReasonCode::Success {
            String::new()
        } else {
            format!(" 0x{:02x}", ack.reason.value())
        };
        format!("{name} id{}{reason}", ack.packet_id.value())
    };
    match packet {
        Packet::ConnAck(connack) => format!(
            "CONNACK 0x{:02x}{}",
            connack.reason.value(),
            if connack.session_present { " present" } else { "" }
        ),
        Packet::Publish(publish) => {
            let mut text = format!(
                "PUBLISH {} {:?} qos{}",
                publish.topic.map_or("", |topic| topic.as_str()),
                String::from_utf8_lossy(publish.payload),
                publish.qos.value()
            );
            if let Some(packet_id) = publish.packet_id {
                text += &format!(" id{}", packet_id.value());
            }
            if publish.dup {
                text += " dup";
            }
            if publish.retain {
                text += " retain";
            }
            if let Some(seconds) = publish.properties.message_expiry_seconds {
                text += &format!(" expires{seconds}");
            }
            text
        }
        Packet::PubAck(packet) => ack("PUBACK", packet),
        Packet::PubRec(packet) => ack("PUBREC", packet),
        Packet::PubRel(packet) => ack("PUBREL", packet),
        Packet::PubComp(packet) => ack("PUBCOMP", packet),
        Packet::SubAck(suback) => format!("SUBACK {:02x?}", suback.reasons),
        Packet::UnsubAck(unsuback) => format!("UNSUBACK {:02x?}", unsuback.reasons),
        Packet::PingResp => "PINGRESP".to_owned(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT 0x{:02x}", disconnect.reason.value()),
        other => format!("{:?}", other.packet_type()),
    }
}
