//! Keys that come late: what waits for them is neither lost nor in their way, and nothing is issued before older ones are heard.

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;
use veilmq_client::{
    Builder, QoS, Subscription,
    e2e::{MasterSecret, distribution::IssuePolicy},
};
use veilmq_protocol::{
    Packet, ProtocolVersion, Publish, PublishProperties, TopicName, next_frame,
    veil::{Roles, distribution::KeyHead},
};

use crate::{
    Broker, MASTER, Peer, message, payload_of,
    sdk_support::{acknowledgement, id, suback},
    world::{self, Party, SCOPE, TOPIC, anchors, scope},
};

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The publisher of the scope, which issues its keys at once.
fn publisher() -> Party {
    Party::publisher("press", IssuePolicy { key_lead_ms: 0, ..IssuePolicy::default() })
}

fn topic_of(packet: &[u8]) -> String {
    let (frame, _) = next_frame(packet, packet.len()).unwrap().unwrap();
    let Packet::Publish(publish) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else { panic!() };
    publish.topic.unwrap().as_str().to_owned()
}

impl Peer {
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        packet_id: Option<u16>,
        retain: bool,
    ) {
        let publish = Publish {
            dup: false,
            qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
            retain,
            topic: Some(TopicName::new(topic).unwrap()),
            packet_id: packet_id.map(id),
            properties: PublishProperties::default(),
            payload,
        };
        self.send(&Packet::Publish(publish)).await;
    }

    /// Grants this many subscriptions, and gives their filters and the QoS asked for.
    pub(crate) async fn grant_keys(&mut self, count: usize) -> BTreeMap<String, u8> {
        let mut filters = BTreeMap::new();
        for _ in 0..count {
            let packet = self.take().await;
            assert_eq!(packet[0], 0x82, "SUBSCRIBE");
            let (frame, _) = next_frame(&packet, packet.len()).unwrap().unwrap();
            let Packet::Subscribe(subscribe) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
                panic!()
            };
            for (filter, options) in subscribe.filters {
                filters.insert(filter.as_str().to_owned(), options.qos.value());
            }
            self.send(&suback(subscribe.packet_id.value(), &[1])).await;
        }
        filters
    }

    /// Takes the introduction of a client and acknowledges it.
    pub(crate) async fn take_introduction(&mut self) -> (String, Vec<u8>) {
        let packet = self.take().await;
        let topic = topic_of(&packet);
        assert!(topic.starts_with("_veil/1/pre/"), "{topic}");
        let packet_id = packet_id(&packet, &topic);
        self.send(&Packet::PubAck(acknowledgement(packet_id))).await;
        (topic, payload_of(&packet))
    }

    /// Lets an issuer hear that nothing is retained of what it says of keys.
    pub(crate) async fn retains_nothing(&mut self, subscriptions: usize) {
        self.grant_keys(subscriptions).await;
        let (topic, introduction) = self.take_introduction().await;
        self.publish(&topic, &introduction, None, false).await;
    }

    /// Takes a head and acknowledges it.
    pub(crate) async fn take_head(&mut self) -> KeyHead {
        let packet = self.take().await;
        let topic = topic_of(&packet);
        assert!(topic.starts_with("_veil/1/kp/"), "{topic}");
        self.send(&Packet::PubAck(acknowledgement(packet_id(&packet, &topic)))).await;
        KeyHead::parse(&payload_of(&packet)).unwrap().0
    }
}

fn packet_id(packet: &[u8], topic: &str) -> u16 {
    let (frame, _) = next_frame(packet, packet.len()).unwrap().unwrap();
    let Packet::Publish(publish) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
        panic!("{topic}")
    };
    publish.packet_id.unwrap().value()
}

pub(crate) fn member(broker: &Broker) -> Builder {
    broker
        .client()
        .identity(world::identity("reader", Roles::SUBSCRIBER, &[SCOPE]))
        .trust(anchors())
        .without_channel()
        .join_scope(SCOPE)
        .unwrap()
        .receive_maximum(NonZeroU16::new(4).unwrap())
}

pub(crate) fn issuer(broker: &Broker) -> Builder {
    broker
        .client()
        .identity(world::identity("press", Roles::PUBLISHER, &[SCOPE]))
        .trust(anchors())
        .without_channel()
        .issue_scope(SCOPE, IssuePolicy { key_lead_ms: 0, ..IssuePolicy::default() })
        .unwrap()
}

#[tokio::test]
async fn a_publication_without_a_key_keeps_back_none_that_needs_no_other() {
    let broker = Broker::start().await;
    let builder = member(&broker).master_scope("office/#", MasterSecret::new(MASTER)).unwrap();
    let (client, mut peer) = broker.connected(builder.join_scope("lab/#").unwrap()).await;
    peer.grant_keys(6).await;
    peer.take_introduction().await;

    let mut waiting = Vec::new();
    for topic in [TOPIC, "lab/t", "office/t", "street/t"] {
        waiting.push(client.publish(topic, "hi").submit().await.unwrap());
    }

    let at_once = async { [topic_of(&peer.take().await), topic_of(&peer.take().await)] };
    let at_once = timeout(Duration::from_secs(5), at_once).await;
    assert_eq!(at_once.unwrap(), ["office/t", "street/t"], "others wait for ten seconds");
}

#[tokio::test]
async fn messages_wait_for_a_key_as_far_as_the_receive_maximum_reaches_and_do_not_keep_it_out() {
    let mut publisher = publisher();
    let reader = world::identity("reader", Roles::SUBSCRIBER, &[SCOPE]);
    let mut kept = world::Broker::default();
    publisher.keys.admit(&scope(), reader.certificate().clone(), unix_ms(), &mut world::entropy()).unwrap();
    publisher.visit(&mut kept, unix_ms());
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(member(&broker)).await;
    let asked = peer.grant_keys(4).await;
    assert!(asked.values().all(|qos| *qos == 1), "{asked:?}");
    peer.take_introduction().await;
    let mut messages: Subscription = peer.grant(&client, SCOPE).await;

    for packet_id in 1..=3 {
        peer.publish(TOPIC, &publisher.seal(unix_ms()), Some(packet_id), false).await;
    }
    let asked = peer.grant_keys(3).await;
    peer.publish(TOPIC, &publisher.seal(unix_ms()), Some(4), false).await;
    peer.says_nothing().await;
    let (topic, head) = kept.only("_veil/1/kp/");
    peer.publish(&topic, &head, None, true).await;

    assert!(asked.values().all(|qos| *qos == 0), "{asked:?}");
    assert!(asked.keys().any(|filter| filter.starts_with("_veil/1/kp/")), "{asked:?}");
    for packet_id in 1..=4 {
        assert_eq!(&message(&mut messages).await.payload[..], b"21.5");
        assert_eq!(peer.take().await, [0x40, 2, 0, packet_id]);
    }
}

#[tokio::test]
async fn an_issuer_goes_on_from_its_newest_head_however_late_the_broker_sends_it() {
    let mut earlier = publisher();
    let mut kept = world::Broker::default();
    earlier.visit(&mut kept, unix_ms());
    let (head_topic, head) = kept.only("_veil/1/kp/");
    let broker = Broker::start().await;
    let issuer = issuer(&broker);
    let connack = veilmq_protocol::ConnAck::default();
    let answer = async {
        let mut peer = broker.accept(&connack).await;
        peer.grant_keys(6).await;
        let (topic, introduction) = peer.take_introduction().await;
        // The acknowledgement says nothing of what the receive maximum keeps back.
        peer.says_nothing().await;
        peer.publish(&head_topic, &head, None, true).await;
        peer.says_nothing().await;
        peer.publish(&topic, &introduction, None, false).await;
        let issued = peer.take().await;
        peer.send(&Packet::PubAck(acknowledgement(packet_id(&issued, "head")))).await;
        issued
    };
    let (client, issued) = tokio::join!(issuer.connect(), answer);
    client.unwrap();

    let (before, _) = KeyHead::parse(&head).unwrap();
    let issued = payload_of(&issued);
    let (after, _) = KeyHead::parse(&issued).unwrap();
    assert_eq!((after.epoch, after.previous), (before.epoch + 1, before.link()));
}

#[tokio::test]
async fn an_issuer_that_comes_back_to_a_broker_which_has_lost_its_head_issues_it_again() {
    let broker = Broker::start().await;
    let builder = issuer(&broker);
    let connack = veilmq_protocol::ConnAck::default();
    let answer = async {
        let mut peer = broker.accept(&connack).await;
        peer.retains_nothing(6).await;
        let head = peer.take_head().await;
        (peer, head)
    };
    let (client, (peer, before)) = tokio::join!(builder.connect(), answer);
    let _client = client.unwrap();

    drop(peer);
    let mut peer = broker.accept(&connack).await;
    // The session subscribes again, and then the keys do.
    peer.retains_nothing(12).await;
    let after = peer.take_head().await;

    assert_eq!((after.epoch, after.link()), (before.epoch, before.link()));
    assert!(after.created_ms > before.created_ms);
}
