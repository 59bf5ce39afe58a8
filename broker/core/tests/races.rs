//! Two shards on two threads: what only happens when they run at the same time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Barrier};
use std::thread;

use veilmq_core::{
    ConnectionId, Effect, EntranceId, Environment, Input, Moment, Parcel, Promise, Settings, Shard,
    ShardIndex, Shared,
};
use veilmq_protocol::{
    Packet, ProtocolVersion, Publish, QoS, Subscribe, SubscribeFiltersBuf, TopicFilter, Unsubscribe,
    UnsubscribeFiltersBuf, UserProperties,
};
use veilmq_simulator::{connect_v5, describe_all, id, options, publish};

/// One shard, and the one client that is connected to it.
struct Party {
    shard: Shard,
    connection: ConnectionId,
    received: Vec<u8>,
    parcels: Vec<Parcel>,
}

impl Party {
    /// Connects a client whose home is the shard.
    fn new(index: u16, shared: &Arc<Shared>) -> Self {
        (1..)
            .find_map(|attempt| {
                let connection = ConnectionId(attempt);
                let shard = Shard::new(ShardIndex(index), Arc::clone(shared));
                let mut party = Self { shard, connection, received: Vec::new(), parcels: Vec::new() };
                party.turn(Input::Accepted {
                    connection,
                    peer: "test",
                    entrance: EntranceId::default(),
                    promise: Promise::Stored,
                    is_encrypted: false,
                });
                party.send(&Packet::Connect(connect_v5(&format!("{index}-{attempt}"), true, 0)));
                (party.take_received() == ["CONNACK 0x00"]).then_some(party)
            })
            .unwrap()
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(ProtocolVersion::V5, &mut bytes).unwrap();
        self.turn(Input::Received { connection: self.connection, bytes: &mut bytes });
    }

    fn turn(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        let mut entropy = |bytes: &mut [u8]| bytes.fill(7);
        let mut environment = Environment {
            now: Moment::from_milliseconds(1_800_000_000_000),
            unix_ms: 1_800_000_000_000,
            entropy: &mut entropy,
        };
        self.shard.handle(&mut environment, input, &mut effects);
        self.shard.end_turn(&mut environment, &mut effects);
        for effect in effects {
            match effect {
                Effect::Flush(connection) => {
                    let written = self.shard.write(connection, |outbox| {
                        let bytes = outbox.as_single().unwrap().to_vec();
                        outbox.advance(bytes.len());
                        bytes
                    });
                    self.received.extend(written.unwrap());
                }
                Effect::Post { parcel, .. } => self.parcels.push(parcel),
                // The store is not of interest, nor a client that lives elsewhere.
                Effect::Commit { .. }
                | Effect::Fetch { .. }
                | Effect::Hand { .. }
                | Effect::Close { .. }
                | Effect::Verify { .. }
                | Effect::Renew { .. }
                | Effect::Command(_) => {}
            }
        }
    }

    fn take_received(&mut self) -> Vec<String> {
        describe_all(&std::mem::take(&mut self.received), ProtocolVersion::V5)
    }

    fn subscribe(&mut self) {
        let mut filters = SubscribeFiltersBuf::default();
        filters.push(TopicFilter::new("t").unwrap(), options(QoS::AtMostOnce)).unwrap();
        let user = UserProperties::default();
        let filters = filters.as_filters();
        self.send(&Packet::Subscribe(Subscribe { packet_id: id(1), subscription_id: None, user, filters }));
    }

    fn unsubscribe(&mut self) {
        let mut filters = UnsubscribeFiltersBuf::default();
        filters.push(TopicFilter::new("t").unwrap());
        let user = UserProperties::default();
        let filters = filters.as_filters();
        self.send(&Packet::Unsubscribe(Unsubscribe { packet_id: id(1), user, filters }));
    }
}

#[test]
fn a_retained_message_reaches_who_subscribes_on_another_shard_at_the_same_time() {
    const ROUNDS: usize = 10_000;
    let shared = Shared::new(Settings { shards: 2, ..Settings::default() }, [7; 16], None);
    let mut publisher = Party::new(0, &shared);
    let mut subscriber = Party::new(1, &shared);
    let start = Barrier::new(2);

    for round in 0..ROUNDS {
        let payload = round.to_string();
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let publish = Publish { retain: true, ..publish("t", &payload, QoS::AtMostOnce, 0) };
                publisher.send(&Packet::Publish(publish));
            });
            start.wait();
            subscriber.subscribe();
        });
        for parcel in publisher.parcels.drain(..) {
            subscriber.turn(Input::Parcel(parcel));
        }

        let received = subscriber.take_received();
        assert!(
            received.iter().any(|packet| packet.contains(&format!("{payload:?}"))),
            "round {round}: {received:?}"
        );
        subscriber.unsubscribe();
        subscriber.received.clear();
    }
}
