//! A broker without a world: shards, a store in memory and a virtual clock, driven by packets.
//!
//! It plays the driver: routes effects between shards, commits batches (at once, or when a test says so), and keeps what each
//! client would have received.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use veilmq_core::{
    AccessTables, Command, ConnectionId, Credentials, Effect, EntranceId, Environment, Input, Job,
    MemoryStore, MessageId, Moment, Outbox, Promise, Reader, Record, Recovery, RecoverySummary, Settings,
    Shard, ShardIndex, Shared, Store, StoreError, Ticket, Totals, VeilServer, Verdict,
};
use veilmq_protocol::{
    Acknowledgement, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe,
    SubscribeFiltersBuf, SubscribeOptions, TopicFilter, UserProperties, next_frame,
};

use crate::describe::describe_all;
use crate::packets::{connect_v5, id, options, publish};

/// A broker, its store and its clients.
pub struct World {
    /// What the shards share.
    pub shared: Arc<Shared>,
    shards: Vec<Shard>,
    /// What was made durable.
    pub store: MemoryStore,
    /// What acknowledgements promise on connections that are opened from now on.
    pub promise: Promise,
    /// Whether TLS carries connections that are opened from now on.
    pub is_encrypted: bool,
    /// The listener by which connections come that are opened from now on.
    pub entrance: EntranceId,
    /// Batches are made durable at once; otherwise they wait for [`World::commit`].
    pub commits_at_once: bool,
    pending: VecDeque<Pending>,
    /// What the store has of a batch that it refused; the next batch takes it back.
    half_stored: Vec<Record>,
    /// The effects that the broker still lives to see, if it is to die among them.
    life: Option<usize>,
    /// Messages are read back at once; otherwise that waits for [`World::fetch_one`].
    pub fetches_at_once: bool,
    fetches: VecDeque<(usize, Reader, Vec<MessageId>)>,
    /// Passwords that are still to be checked, oldest first.
    pub credentials: VecDeque<(Conn, Credentials)>,
    /// The commands to be answered, oldest first, each with the shard it came from.
    pub commands: VecDeque<(usize, Command)>,
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
pub type Conn = ConnectionId;

/// A batch that was handed to the store and is not durable yet.
#[derive(Debug)]
struct Pending {
    shard: usize,
    ticket: Ticket,
    records: Vec<Record>,
    awaited: bool,
}

impl World {
    /// Starts a broker with the default settings and an empty store.
    pub fn new(shards: u16) -> Self {
        Self::with(Settings { shards, ..Settings::default() })
    }

    /// Starts a broker with an empty store.
    pub fn with(settings: Settings) -> Self {
        Self::start(settings, None, MemoryStore::new(), Moment::from_milliseconds(1_800_000_000_000)).0
    }

    /// Starts a broker that serves the VEIL-1 channel.
    pub fn with_veil(settings: Settings, veil: VeilServer) -> Self {
        Self::start(settings, Some(veil), MemoryStore::new(), Moment::from_milliseconds(1_800_000_000_000)).0
    }

    fn start(
        settings: Settings,
        veil: Option<VeilServer>,
        mut store: MemoryStore,
        now: Moment,
    ) -> (Self, RecoverySummary) {
        let shared = Shared::new(settings, [7; 16], veil);
        // No number of parts and no order of jobs changes what comes back.
        let mut recovery = Recovery::new(3);
        store.recover(&mut recovery).unwrap();
        let mut backwards = |jobs: Vec<Job<'_>>| jobs.into_iter().rev().for_each(|job| job());
        let (shards, cleanup, summary) = recovery.into_shards(&shared, now, &mut backwards);
        store.commit(&cleanup).unwrap();
        let mut world = Self {
            shared,
            shards,
            store,
            promise: Promise::Stored,
            is_encrypted: false,
            entrance: EntranceId::default(),
            commits_at_once: true,
            pending: VecDeque::new(),
            half_stored: Vec::new(),
            life: None,
            fetches_at_once: true,
            fetches: VecDeque::new(),
            credentials: VecDeque::new(),
            commands: VecDeque::new(),
            effects: VecDeque::new(),
            carries_out: false,
            now,
            random: 1,
            next_connection: 1,
            clients: BTreeMap::new(),
        };
        // What is due at once happens before anybody connects.
        world.pass(0);
        (world, summary)
    }

    /// Kills the broker and starts another on the same store; what was not committed is lost.
    pub fn crash(self, shards: u16) -> (Self, RecoverySummary) {
        let now = self.now;
        self.crash_until(now, shards)
    }

    /// As [`World::crash`]; the clock then shows `now`, which may be earlier.
    pub fn crash_until(self, now: Moment, shards: u16) -> (Self, RecoverySummary) {
        let settings = Settings { shards, ..(**self.shared.settings()).clone() };
        Self::start(settings, None, self.into_store(), now)
    }

    /// Kills the broker and starts one with another configuration on the same store.
    pub fn restart(self, settings: Settings) -> (Self, RecoverySummary) {
        let now = self.now;
        Self::start(settings, None, self.into_store(), now)
    }

    /// Lets the broker die after it has carried out that many more effects: from then on it does nothing, and a crash is due.
    pub fn die_after(&mut self, effects: usize) {
        self.life = Some(effects);
    }

    /// Leaves what a crash leaves.
    fn into_store(mut self) -> MemoryStore {
        self.store.commit(&self.half_stored).unwrap();
        self.store
    }

    fn is_dead(&self) -> bool {
        self.life == Some(0)
    }

    /// Returns one of the shards.
    pub fn shard(&self, index: usize) -> &Shard {
        &self.shards[index]
    }

    /// Returns what the clock shows.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Returns the next deadline of any shard.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.shards.iter().filter_map(Shard::next_deadline).min()
    }

    /// Lets time pass, acting on each deadline on the way.
    pub fn pass(&mut self, milliseconds: u64) {
        let until = self.now + milliseconds;
        while !self.is_dead()
            && let Some(next) = self.next_deadline().filter(|at| *at <= until)
        {
            self.now = self.now.max(next);
            for index in 0..self.shards.len() {
                self.turn(index, Input::Tick);
            }
        }
        self.now = until;
    }

    /// Makes every batch durable that has been handed to the store.
    pub fn commit(&mut self) {
        while self.commit_one() {}
    }

    /// Makes the oldest batch durable that waits; false if none does.
    pub fn commit_one(&mut self) -> bool {
        self.commit_at(0)
    }

    /// Makes the oldest batch of one shard durable that waits, before older ones of others; false if it has none.
    pub fn commit_one_of(&mut self, shard: usize) -> bool {
        let Some(position) = self.pending.iter().position(|pending| pending.shard == shard) else {
            return false;
        };
        self.commit_at(position)
    }

    fn commit_at(&mut self, position: usize) -> bool {
        if self.is_dead() {
            return false;
        }
        let Some(Pending { shard, ticket, mut records, awaited: _ }) = self.pending.remove(position) else {
            return false;
        };
        self.shared.refresh(&mut records);
        self.half_stored.clear();
        self.store.commit(&records).unwrap();
        self.shared.committed(&records, true);
        self.turn(shard, Input::Committed(ticket));
        true
    }

    /// Answers the oldest request for stored messages; false if none waits.
    pub fn fetch_one(&mut self) -> bool {
        if self.is_dead() {
            return false;
        }
        let Some((shard, reader, asked)) = self.fetches.pop_front() else { return false };
        let messages = self.store.fetch(&asked);
        self.turn(shard, Input::Fetched { reader, asked, messages });
        true
    }

    /// Refuses the oldest request for stored messages; false if none waits.
    pub fn fail_fetch(&mut self) -> bool {
        if self.is_dead() {
            return false;
        }
        let Some((shard, reader, asked)) = self.fetches.pop_front() else { return false };
        let messages = Err(StoreError("refused by the test".into()));
        self.turn(shard, Input::Fetched { reader, asked, messages });
        true
    }

    /// Returns what the oldest request for stored messages asks for.
    pub fn fetching(&self) -> Option<&[MessageId]> {
        self.fetches.front().map(|(_, _, asked)| asked.as_slice())
    }

    /// Refuses the oldest batch that waits; false if none does.
    pub fn fail_one(&mut self) -> bool {
        self.refuse_one().is_some()
    }

    /// Refuses the oldest batch that waits, although the disk has it, as after a failed sync: a crash finds it there unless
    /// another batch was committed since. False if none waits.
    pub fn fail_one_after_writing(&mut self) -> bool {
        let Some(mut records) = self.refuse_one() else { return false };
        self.shared.refresh(&mut records);
        self.half_stored = records;
        true
    }

    fn refuse_one(&mut self) -> Option<Vec<Record>> {
        if self.is_dead() {
            return None;
        }
        let Pending { shard, ticket, records, awaited: _ } = self.pending.pop_front()?;
        self.shared.committed(&records, false);
        self.turn(shard, Input::CommitFailed(ticket));
        Some(records)
    }

    /// Tells whether a crash would lose something.
    pub fn has_uncommitted(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tells of each batch that waits, oldest first, whether something waits for it.
    pub fn awaited(&self) -> Vec<bool> {
        self.pending.iter().map(|pending| pending.awaited).collect()
    }

    /// Returns the number of message bodies in the store.
    pub fn stored_bodies(&mut self) -> usize {
        let mut count = 0;
        self.store
            .replay(&mut |record| count += usize::from(matches!(record, Record::Published { .. })))
            .unwrap();
        count
    }

    /// Refuses every batch that waits, as a full disk would.
    pub fn fail_commits(&mut self) {
        while self.fail_one() {}
    }

    /// Opens a connection on a shard without sending anything.
    pub fn accept(&mut self, shard: usize, version: ProtocolVersion) -> Conn {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.clients.insert(connection.0, Client { shard, version, received: Vec::new(), closed: false });
        let (promise, is_encrypted) = (self.promise, self.is_encrypted);
        let entrance = self.entrance;
        self.turn(shard, Input::Accepted { connection, peer: "test", entrance, promise, is_encrypted });
        connection
    }

    /// Connects and returns the connection; CONNACK is left to be received.
    pub fn connect(&mut self, connect: &Connect<'_>) -> Conn {
        let shard = (self.next_connection as usize) % self.shards.len();
        let connection = self.accept(shard, connect.version);
        self.send(connection, &Packet::Connect(*connect));
        connection
    }

    /// Connects with MQTT 5, expects success, and returns the connection and Session Present.
    pub fn join(&mut self, client_id: &str, clean_start: bool, session_expiry_seconds: u32) -> (Conn, bool) {
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

    /// Lets a client send a packet.
    pub fn send(&mut self, connection: Conn, packet: &Packet<'_>) {
        let version = self.clients[&connection.0].version;
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();
        self.send_bytes(connection, &bytes);
    }

    /// Lets a client send bytes, whatever they are.
    pub fn send_bytes(&mut self, connection: Conn, bytes: &[u8]) {
        let shard = self.clients[&connection.0].shard;
        let mut bytes = bytes.to_vec();
        self.turn(shard, Input::Received { connection, bytes: &mut bytes });
    }

    /// Says what became of the oldest password that is to be checked.
    ///
    /// # Panics
    /// If there is none.
    pub fn judge(&mut self, verdict: Verdict) {
        let (connection, _) = self.credentials.pop_front().expect("a password to be checked");
        self.turn(self.clients[&connection.0].shard, Input::Verified { connection, verdict });
    }

    /// Takes the oldest command that clients have given, if there is one, and answers it.
    pub fn answer(&mut self, payload: &[u8]) -> Option<Command> {
        let (shard, command) = self.commands.pop_front()?;
        let (session, topic) = (command.session, command.topic);
        self.turn(shard, Input::Answered { session, topic, payload });
        Some(command)
    }

    /// Changes who may connect and what clients may do, and tells every shard.
    pub fn set_access(&mut self, access: impl Into<AccessTables>) {
        self.shared.set_access(access);
        self.tell_access();
    }

    /// Tells every shard that who may connect, or what clients may do, has changed.
    pub fn tell_access(&mut self) {
        for shard in 0..self.shards.len() {
            self.turn(shard, Input::AccessChanged);
        }
    }

    /// Changes limits and capabilities, and tells every shard.
    pub fn set_settings(&mut self, settings: Settings) {
        self.shared.set_settings(settings);
        for shard in 0..self.shards.len() {
            self.turn(shard, Input::AccessChanged);
        }
    }

    /// Cuts the connection without a word.
    pub fn cut(&mut self, connection: Conn) {
        let shard = self.clients[&connection.0].shard;
        self.turn(shard, Input::Closed { connection });
    }

    /// Takes the bytes that the client has received.
    pub fn bytes(&mut self, connection: Conn) -> Vec<u8> {
        std::mem::take(&mut self.clients.get_mut(&connection.0).unwrap().received)
    }

    /// Takes what the client has received, each packet in a short form such as `PUBLISH t "x" qos1 id1`.
    pub fn received(&mut self, connection: Conn) -> Vec<String> {
        let version = self.clients[&connection.0].version;
        describe_all(&self.bytes(connection), version)
    }

    /// Returns the sum over the shards of one sample.
    pub fn sample(&self, name: &str, label: &str) -> u64 {
        let mut sum = 0;
        for shard in &self.shards {
            shard.stats().visit(&mut |sample| {
                let labelled = sample.label.map_or(label.is_empty(), |(_, value)| value == label);
                sum += if sample.name == name && labelled { sample.value } else { 0 };
            });
        }
        sum
    }

    /// Returns what a policy has counted; `label` is the value of the last label.
    pub fn policy_sample(&self, name: &str, policy: &str, label: &str) -> u64 {
        let mut sum = 0;
        self.shared.visit_policies(&mut |sample| {
            let is_of_policy = sample.labels.contains(&("policy", policy));
            let is_labelled = sample.labels.last().is_some_and(|(_, value)| *value == label);
            sum += if sample.name == name && is_of_policy && is_labelled { sample.value } else { 0 };
        });
        sum
    }

    /// Returns what all shards have counted and hold.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            shard.stats().add_to(&mut totals);
        }
        totals
    }

    /// Returns the shard that has a connection.
    pub fn shard_of(&self, connection: Conn) -> usize {
        self.clients[&connection.0].shard
    }

    /// Tells whether the broker has closed a connection.
    pub fn is_closed(&self, connection: Conn) -> bool {
        self.clients[&connection.0].closed
    }

    /// Lets one shard handle an input, and carries out what it asks for.
    pub fn turn(&mut self, shard: usize, input: Input<'_>) {
        if self.is_dead() {
            return;
        }
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
            while !self.is_dead()
                && let Some((shard, effect)) = self.effects.pop_front()
            {
                self.life = self.life.map(|effects| effects - 1);
                self.carry_out(shard, effect);
            }
            self.carries_out = false;
        }
    }

    fn carry_out(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Flush(connection) => {
                let bytes = self.shards[shard].write(connection, drain).unwrap_or_default();
                if !bytes.is_empty() {
                    self.clients.get_mut(&connection.0).unwrap().received.extend(bytes);
                    self.turn(shard, Input::Drained { connection });
                }
            }
            Effect::Close { connection, mut outbox } => {
                let client = self.clients.get_mut(&connection.0).unwrap();
                client.received.extend(drain(&mut outbox));
                client.closed = true;
            }
            Effect::Verify { connection, credentials } | Effect::Renew { connection, credentials } => {
                self.credentials.push_back((connection, *credentials));
            }
            Effect::Command(command) => self.commands.push_back((shard, *command)),
            Effect::Hand { shard: ShardIndex(target), arrival } => {
                let connection = arrival.connection();
                self.clients.get_mut(&connection.0).unwrap().shard = usize::from(target);
                self.turn(usize::from(target), Input::Arrived(arrival));
            }
            Effect::Commit { ticket, records, awaited } => {
                self.pending.push_back(Pending { shard, ticket, records, awaited });
                if self.commits_at_once {
                    self.commit();
                }
            }
            Effect::Fetch { reader, messages } => {
                self.fetches.push_back((shard, reader, messages));
                while self.fetches_at_once && self.fetch_one() {}
            }
            Effect::Post { shard: ShardIndex(target), parcel } => {
                self.turn(usize::from(target), Input::Parcel(parcel));
            }
        }
    }

    /// Subscribes with the default options; SUBACK is left to be received.
    pub fn subscribe(&mut self, connection: Conn, filter: &str, qos: QoS) {
        self.subscribe_with(connection, filter, options(qos));
    }

    /// Subscribes; SUBACK is left to be received.
    pub fn subscribe_with(&mut self, connection: Conn, filter: &str, options: SubscribeOptions) {
        self.send_subscribe(connection, [(filter, options)]);
    }

    /// Subscribes to all filters with one packet and the default options; SUBACK is left to be received.
    pub fn subscribe_all<F: AsRef<str>>(&mut self, connection: Conn, filters: &[F], qos: QoS) {
        self.send_subscribe(connection, filters.iter().map(|filter| (filter.as_ref(), options(qos))));
    }

    fn send_subscribe<'a>(
        &mut self,
        connection: Conn,
        subscriptions: impl IntoIterator<Item = (&'a str, SubscribeOptions)>,
    ) {
        let mut filters = SubscribeFiltersBuf::default();
        for (filter, options) in subscriptions {
            filters.push(TopicFilter::new(filter).unwrap(), options).unwrap();
        }
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

    /// Publishes; the answer is left to be received.
    pub fn publish(&mut self, connection: Conn, topic: &str, payload: &str, qos: QoS, packet_id: u16) {
        self.send(connection, &Packet::Publish(publish(topic, payload, qos, packet_id)));
    }

    /// Publishes a retained message of QoS 0.
    pub fn retain(&mut self, connection: Conn, topic: &str, payload: &str) {
        let publish = Publish { retain: true, ..publish(topic, payload, QoS::AtMostOnce, 0) };
        self.send(connection, &Packet::Publish(publish));
    }

    /// Sends an acknowledgement of success, such as `Packet::PubAck`.
    pub fn ack(
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
    outbox.slices(&mut slices, usize::MAX, usize::MAX);
    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
    outbox.advance(bytes.len());
    bytes
}
