//! Shards, their clients, and what they send: prepared first, carried out afterwards.
//!
//! A step is what one read of a socket brings, and makes one turn, as it does in the daemon. Invariant: while steps are carried
//! out, nothing is done but what the core and a driver without sockets have to do.

use std::sync::Arc;

use veilmq_core::{
    ConnectionId, Effect, EntranceId, Environment, Input, Moment, Outbox, Promise, Settings, Shard,
    ShardIndex, Shared, Totals, VeilServer,
};
use veilmq_protocol::veil::vmc::Certificate;
use veilmq_protocol::{
    Connect, Packet, ProtocolVersion, QoS, Subscribe, SubscribeFiltersBuf, TopicFilter, UserProperties,
};
use veilmq_simulator::{id, options};

/// A client's connection.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    connection: ConnectionId,
    version: ProtocolVersion,
}

/// A broker and what is going to happen to it.
pub(crate) struct Load {
    broker: Broker,
    steps: Vec<(ConnectionId, Vec<u8>)>,
    /// How many deliveries the steps are to make.
    deliveries: u64,
}

struct Broker {
    shards: Vec<Shard>,
    /// The shard of each connection, by its number.
    homes: Vec<usize>,
    effects: Vec<Effect>,
    written_bytes: usize,
    /// What is written, while somebody asks for it.
    answer: Option<Vec<u8>>,
}

pub(crate) const NOW: Moment = Moment::from_milliseconds(1_800_000_000_000);

impl Load {
    /// Makes a broker of one shard without clients, whose clients will have had `deliveries` messages in the end.
    pub(crate) fn new(deliveries: u64) -> Self {
        Self::with_shards(1, deliveries)
    }

    /// The same with several shards.
    pub(crate) fn with_shards(shards: u16, deliveries: u64) -> Self {
        Self::start(&Shared::new(Settings { shards, ..Settings::default() }, [7; 16], None), deliveries)
    }

    /// The same with one shard and the VEIL-1 channel, for clients whose certificate `trusted` is or has signed.
    pub(crate) fn with_veil(veil: VeilServer, trusted: Certificate, deliveries: u64) -> Self {
        let shared = Shared::new(Settings { shards: 1, ..Settings::default() }, [7; 16], Some(veil));
        shared.trust().write().unwrap().add(trusted).unwrap();
        Self::start(&shared, deliveries)
    }

    fn start(shared: &Arc<Shared>, deliveries: u64) -> Self {
        let shards = 0..shared.settings().shards;
        let shards = shards.map(|index| Shard::new(ShardIndex(index), Arc::clone(shared))).collect();
        let broker =
            Broker { shards, homes: Vec::new(), effects: Vec::new(), written_bytes: 0, answer: None };
        Self { broker, steps: Vec::new(), deliveries }
    }

    /// Does something at once and returns what the broker wrote meanwhile as well.
    pub(crate) fn answer<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (T, Vec<u8>) {
        self.broker.answer = Some(Vec::new());
        let done = act(self);
        (done, self.broker.answer.take().unwrap_or_default())
    }

    /// Connects a client at once.
    pub(crate) fn connect(&mut self, connect: &Connect<'_>) -> Client {
        let connection = ConnectionId(self.broker.homes.len() as u64);
        let client = Client { connection, version: connect.version };
        self.broker.homes.push(0);
        let accepted = Input::Accepted {
            connection,
            peer: "192.0.2.1:1883",
            entrance: EntranceId::default(),
            promise: Promise::Stored,
            is_encrypted: false,
        };
        self.broker.turn(0, accepted);
        self.broker.receive(connection, &mut encode(client, &[Packet::Connect(*connect)]));
        client
    }

    /// Returns the shard that a client's session is on.
    pub(crate) fn shard_of(&self, client: Client) -> usize {
        self.broker.homes[client.connection.0 as usize]
    }

    /// Subscribes a client at once.
    pub(crate) fn subscribe(&mut self, client: Client, filter: &str, qos: QoS) {
        let mut bytes = subscription(client, filter, qos);
        self.broker.receive(client.connection, &mut bytes);
    }

    /// Subscribes a client later.
    pub(crate) fn subscribe_later(&mut self, client: Client, filter: &str, qos: QoS) {
        self.steps.push((client.connection, subscription(client, filter, qos)));
    }

    /// Lets a client send packets at once, all in one read.
    pub(crate) fn send_now(&mut self, client: Client, packets: &[Packet<'_>]) {
        self.send_bytes_now(client, &mut encode(client, packets));
    }

    /// Lets a client send bytes at once, all in one read.
    pub(crate) fn send_bytes_now(&mut self, client: Client, bytes: &mut [u8]) {
        self.broker.receive(client.connection, bytes);
    }

    /// Lets a client send packets later, all in one read.
    pub(crate) fn send(&mut self, client: Client, packets: &[Packet<'_>]) {
        self.steps.push((client.connection, encode(client, packets)));
    }

    /// Carries out what was prepared.
    ///
    /// # Panics
    /// If it did not come to as many deliveries as it should.
    pub(crate) fn run(mut self) {
        carry_out(&mut self.broker, &mut self.steps);

        let mut totals = Totals::default();
        for shard in &self.broker.shards {
            shard.stats().add_to(&mut totals);
        }
        assert_eq!(totals.messages_delivered, self.deliveries);
        assert_eq!((totals.messages_dropped, totals.queued_messages), (0, 0));
        assert!(self.broker.written_bytes as u64 >= totals.bytes_sent, "everything is written");
        assert_eq!(totals.inflight_messages, 0, "every message is acknowledged in the end");
    }
}

/// What is counted: the symbol's name is known to whoever counts.
#[inline(never)]
fn carry_out(broker: &mut Broker, steps: &mut [(ConnectionId, Vec<u8>)]) {
    for (connection, bytes) in steps {
        broker.receive(*connection, bytes);
    }
}

impl Broker {
    fn receive(&mut self, connection: ConnectionId, bytes: &mut [u8]) {
        self.turn(self.homes[connection.0 as usize], Input::Received { connection, bytes });
    }

    /// Makes a turn; sockets take everything, and batches are durable at once.
    fn turn(&mut self, shard: usize, input: Input<'_>) {
        let mut entropy = |bytes: &mut [u8]| bytes.fill(7);
        let mut environment = Environment { now: NOW, unix_ms: NOW.milliseconds(), entropy: &mut entropy };
        self.shards[shard].handle(&mut environment, input, &mut self.effects);
        self.shards[shard].end_turn(&mut environment, &mut self.effects);
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Flush(connection) => self.write(shard, connection),
                Effect::Commit { ticket, .. } => self.turn(shard, Input::Committed(ticket)),
                Effect::Hand { shard: ShardIndex(home), arrival } => {
                    self.homes[arrival.connection().0 as usize] = usize::from(home);
                    self.turn(usize::from(home), Input::Arrived(arrival));
                }
                Effect::Post { shard: ShardIndex(other), parcel } => {
                    self.turn(usize::from(other), Input::Parcel(parcel));
                }
                Effect::Close { .. }
                | Effect::Fetch { .. }
                | Effect::Verify { .. }
                | Effect::Renew { .. }
                | Effect::Command(_) => {
                    panic!("{effect:?} in a benchmark")
                }
            }
        }
        self.effects = effects;
    }

    fn write(&mut self, shard: usize, connection: ConnectionId) {
        let answer = &mut self.answer;
        let written = self.shards[shard].write(connection, |outbox| {
            if let Some(answer) = answer {
                answer.extend_from_slice(outbox.as_single().unwrap());
            }
            let bytes = outbox.as_single().map_or_else(|| vectored_bytes(outbox), <[u8]>::len);
            outbox.advance(bytes);
            assert!(outbox.is_empty(), "one write takes everything");
            bytes
        });
        self.written_bytes += written.unwrap_or_default();
    }
}

fn vectored_bytes(outbox: &Outbox) -> usize {
    let mut slices = Vec::new();
    outbox.slices(&mut slices, 64, usize::MAX);
    slices.iter().map(|slice| slice.len()).sum()
}

pub(crate) fn subscription(client: Client, filter: &str, qos: QoS) -> Vec<u8> {
    let mut filters = SubscribeFiltersBuf::new();
    filters.push(TopicFilter::new(filter).unwrap(), options(qos)).unwrap();
    let subscribe = Subscribe {
        packet_id: id(1),
        subscription_id: None,
        user: UserProperties::default(),
        filters: filters.as_filters(),
    };
    encode(client, &[Packet::Subscribe(subscribe)])
}

pub(crate) fn encode(client: Client, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for packet in packets {
        packet.encode(client.version, &mut bytes).unwrap();
    }
    bytes
}
