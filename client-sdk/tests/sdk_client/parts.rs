//! Messages in parts (VEIL-1 section 12.5): what the broker is told of them, and when.

use std::{
    collections::VecDeque,
    num::{NonZeroU16, NonZeroU32},
    path::Path,
    time::Duration,
};

use tokio::{runtime::Builder as RuntimeBuilder, time::timeout};
use veilmq_client::{
    Builder, Client, QoS, Subscription,
    e2e::{E2e, EnvelopeOptions, EpochTiming, Keyring, Limits, MasterSecret, Member, Scope, ScopeConfig},
    sealed_file::StateKey,
};
use veilmq_protocol::{
    Packet, Publish, PublishProperties, TopicName,
    veil::{Kid, channel::Secret32},
};

use crate::{
    Broker, LIMIT, MASTER, Peer, message, scoped,
    sdk_support::{id, resumed},
};

const TOPIC: &str = "factory/t";

/// Seals in parts of one byte.
pub(crate) struct Sender {
    e2e: E2e,
    drawn: u8,
}

impl Sender {
    pub(crate) fn new() -> Self {
        let mut e2e = E2e::new(Member::Unsigned(Kid::from_bytes([9; 8])), Limits::default());
        let keyring = Keyring::master(MasterSecret::new(MASTER), 1, EpochTiming::default());
        let options = EnvelopeOptions { chunk_bytes: NonZeroU32::MIN, ..EnvelopeOptions::default() };
        e2e.add_scope(ScopeConfig::envelope(Scope::new("factory/#").unwrap(), keyring, options)).unwrap();
        Self { e2e, drawn: 0 }
    }

    pub(crate) fn seal(&mut self, text: &str) -> Vec<Vec<u8>> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now_unix_ms = u64::try_from(now.as_millis()).unwrap();
        let mut draw = |out: &mut [u8]| {
            self.drawn += 1;
            out.fill(self.drawn);
        };
        let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
        self.e2e.seal_in_parts(topic, text.as_bytes(), &none, now_unix_ms, &mut draw).unwrap()
    }
}

impl Peer {
    pub(crate) async fn send_part(&mut self, qos: QoS, packet_id: u16, dup: bool, payload: &[u8]) {
        let publish = Publish {
            dup,
            qos,
            retain: false,
            topic: Some(TopicName::new(TOPIC).unwrap()),
            packet_id: Some(id(packet_id)),
            properties: PublishProperties::default(),
            payload,
        };
        self.send(&Packet::Publish(publish)).await;
    }

    /// Takes an acknowledgement of this type and gives its Packet Identifier.
    async fn acknowledged(&mut self, first: u8) -> u16 {
        let packet = self.take().await;
        assert_eq!(packet[0], first);
        u16::from_be_bytes([packet[2], packet[3]])
    }
}

async fn reading(broker: &Broker, builder: Builder) -> (Client, Peer, Subscription) {
    let (client, mut peer) = broker.connected(scoped(builder)).await;
    let messages = peer.grant(&client, "#").await;
    (client, peer, messages)
}

async fn text(messages: &mut Subscription) -> String {
    String::from_utf8(message(messages).await.payload.to_vec()).unwrap()
}

#[tokio::test]
async fn parts_are_acknowledged_when_the_application_has_the_whole_message() {
    for (qos, answer) in [(QoS::AtLeastOnce, 0x40), (QoS::ExactlyOnce, 0x50)] {
        let broker = Broker::start().await;
        let (_client, mut peer, mut messages) = reading(&broker, broker.client()).await;
        let parts = Sender::new().seal("abc");

        for (packet_id, part) in (1..).zip(&parts) {
            peer.send_part(qos, packet_id, false, part).await;
            peer.says_nothing().await;
        }
        assert_eq!(text(&mut messages).await, "abc");

        for packet_id in 1..=3 {
            assert_eq!(peer.acknowledged(answer).await, packet_id);
        }
    }
}

/// What comes between two parts waits behind them, since acknowledgements keep the order of arrival.
#[tokio::test]
async fn a_message_may_have_more_parts_than_the_receive_maximum() {
    for receive_maximum in [1, 2, 3, 8] {
        let broker = Broker::start().await;
        let builder = broker.client().receive_maximum(NonZeroU16::new(receive_maximum).unwrap());
        let (_client, mut peer, mut messages) = reading(&broker, builder).await;
        let mut sender = Sender::new();
        let mut packets = sender.seal("0123456789abcdef");
        packets.insert(3, sender.seal("x").remove(0));
        let mut under_way = VecDeque::new();
        let mut shown = Vec::new();

        for (packet_id, packet) in (1..).zip(&packets) {
            if under_way.len() == usize::from(receive_maximum) {
                assert_eq!(Some(peer.acknowledged(0x40).await), under_way.pop_front());
            }
            peer.send_part(QoS::AtLeastOnce, packet_id, false, packet).await;
            under_way.push_back(packet_id);
            if packet_id == 4 {
                shown.push(text(&mut messages).await);
            }
        }
        shown.push(text(&mut messages).await);

        assert_eq!(shown, ["x", "0123456789abcdef"], "receive maximum {receive_maximum}");
        for packet_id in under_way {
            assert_eq!(peer.acknowledged(0x40).await, packet_id);
        }
    }
}

#[tokio::test]
async fn parts_of_a_message_that_is_given_up_are_acknowledged() {
    let broker = Broker::start().await;
    let (_client, mut peer, _messages) = reading(&broker, broker.client()).await;
    let mut sender = Sender::new();

    // Four messages of one sender may be incomplete.
    for packet_id in 1..=4 {
        let part = sender.seal("ab").remove(0);
        peer.send_part(QoS::AtLeastOnce, packet_id, false, &part).await;
    }
    peer.says_nothing().await;
    let part = sender.seal("ab").remove(0);
    peer.send_part(QoS::AtLeastOnce, 5, false, &part).await;

    assert_eq!(peer.acknowledged(0x40).await, 1);
    peer.says_nothing().await;
}

/// Waits until something else is in a file.
pub(crate) async fn saved_again(state: &Path, before: &[u8]) {
    let is_saved = async {
        while std::fs::read(state).unwrap() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, is_saved).await.unwrap();
}

pub(crate) fn key() -> StateKey {
    StateKey::Key(Secret32::new(&[7; 32]))
}

/// Comes back to its session, with what it saved there.
pub(crate) fn keeping(broker: &Broker, state: &Path) -> Builder {
    scoped(broker.client().clean_start(false)).state_file_with_key(state, key())
}

#[test]
fn a_crash_between_the_parts_loses_nothing_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let mut sender = Sender::new();
    let (before, parts) = (sender.seal("x"), sender.seal("abc"));

    let runtime = || RuntimeBuilder::new_current_thread().enable_all().build().unwrap();
    let crashed = runtime();
    crashed.block_on(async {
        let broker = Broker::start().await;
        let (client, mut peer) = broker.connected(keeping(&broker, &state)).await;
        let mut messages = peer.grant(&client, "#").await;
        let at_first = std::fs::read(&state).unwrap();
        peer.send_part(QoS::AtLeastOnce, 1, false, &before[0]).await;
        assert_eq!(text(&mut messages).await, "x");
        assert_eq!(peer.acknowledged(0x40).await, 1);
        peer.send_part(QoS::AtLeastOnce, 2, false, &parts[0]).await;
        peer.send_part(QoS::AtLeastOnce, 3, false, &parts[1]).await;
        peer.says_nothing().await;
        saved_again(&state, &at_first).await;
        // Neither may end in order.
        std::mem::forget((client, messages));
    });
    crashed.shutdown_background();

    runtime().block_on(async {
        let broker = Broker::start().await;
        let connack = resumed();
        let (client, mut peer) = tokio::join!(keeping(&broker, &state).connect(), broker.accept(&connack));
        let client = client.unwrap();
        let mut messages = peer.grant(&client, "#").await;
        for (packet_id, packet) in [(1, &before[0]), (2, &parts[0]), (3, &parts[1]), (4, &parts[2])] {
            peer.send_part(QoS::AtLeastOnce, packet_id, packet_id < 4, packet).await;
        }

        assert_eq!(peer.acknowledged(0x40).await, 1, "that one was shown before");
        assert_eq!(text(&mut messages).await, "abc");
        for packet_id in 2..=4 {
            assert_eq!(peer.acknowledged(0x40).await, packet_id);
        }
    });
}
