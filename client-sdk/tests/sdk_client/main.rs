//! The asynchronous client against a scripted broker on a loopback socket.
#![allow(clippy::unwrap_used, reason = "test code")]

mod backoff;
mod dropped;
mod offline;
mod parts;
mod removals;
#[path = "../sdk_support/mod.rs"]
mod sdk_support;
mod state;
mod waiting;
#[allow(dead_code, reason = "this binary uses its own part")]
#[path = "../e2e_distribution/world.rs"]
mod world;

use std::{
    io,
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use sdk_support::{acknowledgement, encode, incoming, publish_bytes, resumed, suback, unsuback};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use veilmq_client::{
    Backoff, Builder, Client, ConnectError, Message, PublishError, QoS, ReasonCode, Received, RequestError,
    Status, SubscribeError, Subscription, Will,
    e2e::{Authentication, MasterSecret, OpenError},
    session::CloseReason,
};
use veilmq_protocol::{
    ConnAck, ConnAckProperties, Disconnect, Packet, ProtocolVersion, Publish, PublishProperties, TopicName,
    next_frame, veil::envelope::Envelope,
};

const LIMIT: Duration = Duration::from_secs(20);
const MASTER: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A broker that does what the test says and nothing else.
struct Broker {
    listener: TcpListener,
}

impl Broker {
    async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn client(&self) -> Builder {
        let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(5) };
        Client::builder("127.0.0.1", self.listener.local_addr().unwrap().port())
            .client_id("c")
            .backoff(backoff)
    }

    /// Takes a connection and its CONNECT, and gives `connack`.
    async fn accept(&self, connack: &ConnAck<'_>) -> Peer {
        let mut peer = self.asked().await;
        peer.send(&Packet::ConnAck(*connack)).await;
        peer
    }

    /// Takes a connection and its CONNECT.
    async fn asked(&self) -> Peer {
        let (stream, _) = timeout(LIMIT, self.listener.accept()).await.unwrap().unwrap();
        let mut peer = Peer { stream, buffer: Vec::new(), connect: Vec::new() };
        peer.connect = peer.take().await;
        assert_eq!(peer.connect[0], 0x10, "CONNECT");
        peer
    }

    /// A connected client and the broker's end of its connection.
    async fn connected(&self, builder: Builder) -> (Client, Peer) {
        let connack = ConnAck::default();
        let (client, peer) = tokio::join!(builder.connect(), self.accept(&connack));
        (client.unwrap(), peer)
    }
}

struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    connect: Vec<u8>,
}

impl Peer {
    async fn send(&mut self, packet: &Packet<'_>) {
        self.stream.write_all(&encode(packet)).await.unwrap();
    }

    /// The next packet of the client, as bytes.
    async fn take(&mut self) -> Vec<u8> {
        timeout(LIMIT, self.take_or_end()).await.expect("a packet of the client in time").expect("a packet")
    }

    async fn take_or_end(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((_, len)) = next_frame(&self.buffer, usize::MAX).unwrap() {
                return Some(self.buffer.drain(..len).collect());
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// Takes a SUBSCRIBE and grants it.
    async fn grant(&mut self, client: &Client, filter: &str) -> Subscription {
        let ask = async { client.subscribe(filter).qos(QoS::AtLeastOnce).queue(4).await };
        let answer = async {
            let subscribe = self.take().await;
            assert_eq!(subscribe[0], 0x82, "SUBSCRIBE");
            self.send(&suback(u16::from_be_bytes([subscribe[2], subscribe[3]]), &[1])).await;
        };
        tokio::join!(ask, answer).0.unwrap()
    }
}

fn publish<'a>(topic: &'a str, payload: &'a [u8]) -> Packet<'a> {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: None,
        properties: PublishProperties::default(),
        payload,
    })
}

fn payload_of(packet: &[u8]) -> Vec<u8> {
    let (frame, _) = next_frame(packet, packet.len()).unwrap().unwrap();
    match Packet::decode(frame, ProtocolVersion::V5).unwrap() {
        Packet::Publish(publish) => publish.payload.to_vec(),
        Packet::Connect(connect) => connect.will.unwrap().payload.to_vec(),
        other => panic!("{:?}", other.packet_type()),
    }
}

async fn next(subscription: &mut Subscription) -> Received {
    timeout(LIMIT, subscription.next()).await.expect("a message in time").expect("an open subscription")
}

async fn message(subscription: &mut Subscription) -> Message {
    match next(subscription).await {
        Received::Message(message) => message,
        Received::Refused { topic, error } => panic!("{topic}: {error}"),
        Received::Missed { count } => panic!("{count} missed"),
    }
}

fn scoped(builder: Builder) -> Builder {
    builder.master_scope("factory/#", MasterSecret::new(MASTER)).unwrap()
}

#[tokio::test]
async fn a_publication_resolves_when_the_broker_acknowledges_it() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;

    let pending = client.publish("t", "hi").qos(QoS::AtLeastOnce).submit().await.unwrap();
    assert_eq!(peer.take().await, publish_bytes(0x32, 1, "hi"));
    let mut settled = Box::pin(pending.settled());
    assert!(timeout(Duration::from_millis(30), &mut settled).await.is_err(), "not before PUBACK");
    peer.send(&Packet::PubAck(acknowledgement(1))).await;

    assert_eq!(timeout(LIMIT, settled).await.unwrap(), Ok(ReasonCode::Success));
    assert_eq!(client.publish("t", "hi").send().await, Ok(ReasonCode::Success), "QoS 0 needs no answer");
    assert_eq!(peer.take().await, b"\x30\x06\x00\x01t\x00hi");
}

#[tokio::test]
async fn invalid_topics_and_filters_are_refused_by_name() {
    let broker = Broker::start().await;
    let (client, _peer) = broker.connected(broker.client()).await;

    let error = client.publish("a/#", "x").send().await.unwrap_err();
    assert_eq!(error.to_string(), "topic \"a/#\": a wildcard character is misplaced");
    let error = client.subscribe("a/#/b").await.err().unwrap();
    assert_eq!(error.to_string(), "topic filter \"a/#/b\": a wildcard character is misplaced");
    let error = client.subscribe("$share/g/a").no_local(true).await.err().unwrap();
    assert_eq!(error, SubscribeError::NoLocalShared { filter: "$share/g/a".to_owned() });
    let error = client.unsubscribe("").await.unwrap_err();
    assert_eq!(error.to_string(), "topic filter \"\": the topic is empty");
}

#[tokio::test]
async fn a_message_is_acknowledged_when_the_application_takes_it() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let mut messages = peer.grant(&client, "t").await;

    peer.send(&incoming("one", QoS::AtLeastOnce, 7, false)).await;
    assert!(timeout(Duration::from_millis(30), peer.take_or_end()).await.is_err(), "not taken yet");
    assert_eq!(&message(&mut messages).await.payload[..], b"one");

    assert_eq!(peer.take().await, b"\x40\x02\x00\x07");
}

#[tokio::test]
async fn a_refused_subscription_says_which_filter_and_why() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;

    let ask = async { client.subscribe("a").and("b").await };
    let answer = async {
        peer.take().await;
        let Packet::SubAck(mut refusal) = suback(1, &[0, 0x87]) else { panic!("no SUBACK") };
        refusal.reason_string = Some("no rule lets you");
        peer.send(&Packet::SubAck(refusal)).await;
    };
    let (subscription, ()) = tokio::join!(ask, answer);

    let refused = subscription.err().map(|error| error.to_string());
    let said = "the broker refused the subscription to \"b\": Not authorized (no rule lets you)";
    assert_eq!(refused.as_deref(), Some(said));
}

/// [MQTT-3.2.2-15]
#[tokio::test]
async fn a_request_that_the_broker_does_not_take_is_an_error_that_names_its_size_and_is_not_sent() {
    let broker = Broker::start().await;
    let properties = ConnAckProperties { packet_bytes_max: NonZeroU32::new(20), ..Default::default() };
    let connack = ConnAck { properties, ..ConnAck::default() };
    let (client, mut peer) = tokio::join!(broker.client().connect(), broker.accept(&connack));
    let client = client.unwrap();
    let long = "a/long/filter/of/27/letters";

    let error = timeout(LIMIT, async { client.subscribe(long).await.err() }).await.unwrap();
    assert_eq!(error, Some(SubscribeError::TooLarge { bytes: 35, bytes_max: 20 }));
    let error = client.subscribe("one").and("two").and("three").await.err();
    assert_eq!(error, Some(SubscribeError::TooLarge { bytes: 25, bytes_max: 20 }));
    let error = client.unsubscribe(long).await.err();
    assert_eq!(error, Some(RequestError::TooLarge { bytes: 34, bytes_max: 20 }));

    peer.grant(&client, "t").await;
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_is_an_error_that_names_it() {
    let broker = Broker::start().await;
    let impatient = broker.client().answer_timeout(Duration::from_millis(50));
    let (client, mut peer) = broker.connected(impatient).await;

    let error = timeout(LIMIT, async { client.subscribe("a").and("b").await.err() }).await.unwrap();
    let said = "the broker did not answer SUBSCRIBE to \"a\", \"b\" within 50ms";
    assert_eq!(error.unwrap().to_string(), said);
    let error = timeout(LIMIT, client.unsubscribe("a")).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the broker did not answer UNSUBSCRIBE from \"a\" within 50ms");
    assert_eq!([peer.take().await[0], peer.take().await[0]], [0x82, 0xA2], "each once");

    // Its late answer grants what nobody reads, and is taken for no other.
    peer.send(&suback(1, &[0, 0])).await;
    let mut messages = peer.grant(&client, "t").await;
    peer.send(&incoming("one", QoS::AtMostOnce, 0, false)).await;
    assert_eq!(&message(&mut messages).await.payload[..], b"one");
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_what_was_not_acknowledged_is_sent_again() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let pending = client.publish("t", "hi").qos(QoS::AtLeastOnce).submit().await.unwrap();
    peer.take().await;

    drop(peer);
    let mut peer = broker.accept(&resumed()).await;

    assert_eq!(peer.connect[9] & 0x02, 0, "no Clean Start");
    assert_eq!(peer.take().await, publish_bytes(0x3A, 1, "hi"));
    peer.send(&Packet::PubAck(acknowledgement(1))).await;
    assert_eq!(timeout(LIMIT, pending.settled()).await.unwrap(), Ok(ReasonCode::Success));
    assert_eq!(client.status(), Status::Connected { session_present: true, channel: None });
}

#[tokio::test]
async fn a_subscription_survives_the_loss_of_connection_and_session() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let mut messages = peer.grant(&client, "t").await;

    drop(peer);
    let mut peer = broker.accept(&ConnAck::default()).await;
    assert_eq!(peer.take().await[0], 0x82, "SUBSCRIBE again");
    peer.send(&incoming("after", QoS::AtMostOnce, 0, false)).await;

    assert_eq!(&message(&mut messages).await.payload[..], b"after");
}

#[tokio::test]
async fn a_takeover_closes_the_client_for_good() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let mut messages = peer.grant(&client, "t").await;

    peer.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver))).await;

    let reason = CloseReason::Disconnected { reason: ReasonCode::SessionTakenOver, text: None };
    assert_eq!(timeout(LIMIT, client.closed()).await.unwrap(), reason);
    assert!(messages.next().await.is_none());
    assert_eq!(client.publish("t", "x").send().await, Err(PublishError::Closed(reason.clone())));
    assert_eq!(client.disconnect().await, Err(RequestError::Closed(reason)));
}

#[tokio::test]
async fn disconnect_sends_everything_before_the_last_packet() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;

    let pending = client.publish("t", "hi").submit().await.unwrap();
    let (ended, published) = tokio::join!(client.disconnect(), pending.settled());

    assert_eq!((ended, published), (Ok(()), Ok(ReasonCode::Success)));
    assert_eq!(peer.take().await, b"\x30\x06\x00\x01t\x00hi");
    assert_eq!(peer.take().await, b"\xe0\x00");
    assert!(peer.take_or_end().await.is_none());
}

#[tokio::test]
async fn the_last_handle_takes_the_connection_with_it() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let second = client.clone();

    drop(client);
    assert!(timeout(Duration::from_millis(30), peer.take_or_end()).await.is_err(), "one handle is left");
    drop(second);

    assert_eq!(peer.take().await, b"\xe0\x00");
}

/// A client that comes back to a session of an earlier run of its program.
async fn returned(broker: &Broker) -> (Client, Peer) {
    let builder = broker.client().clean_start(false).receive_maximum(NonZeroU16::new(3).unwrap());
    let connack = resumed();
    let (client, peer) = tokio::join!(builder.connect(), broker.accept(&connack));
    (client.unwrap(), peer)
}

impl Peer {
    /// Sends what waited for the client, at QoS 1 and at QoS 2.
    async fn send_what_waited(&mut self, dup: bool) {
        self.send(&incoming("one", QoS::AtLeastOnce, 7, dup)).await;
        self.send(&incoming("two", QoS::ExactlyOnce, 8, dup)).await;
    }

    /// Takes an UNSUBSCRIBE and answers it.
    async fn end_subscription(&mut self) {
        let unsubscribe = self.take().await;
        assert_eq!(unsubscribe[0], 0xA2, "UNSUBSCRIBE");
        self.send(&unsuback(u16::from_be_bytes([unsubscribe[2], unsubscribe[3]]), &[0])).await;
    }

    async fn says_nothing(&mut self) {
        let said = timeout(Duration::from_millis(50), self.take_or_end()).await;
        assert!(said.is_err(), "{said:?}");
    }
}

/// PUBACK and PUBREC of what waited.
const TAKEN: [&[u8]; 2] = [b"\x40\x02\x00\x07", b"\x50\x02\x00\x08"];

#[tokio::test]
async fn what_a_resumed_session_brings_waits_until_the_application_subscribes_to_it() {
    let broker = Broker::start().await;
    let (client, mut peer) = returned(&broker).await;
    peer.send_what_waited(false).await;
    peer.says_nothing().await;

    let _other = peer.grant(&client, "other").await;
    peer.says_nothing().await;
    let mut messages = peer.grant(&client, "t").await;
    peer.says_nothing().await;

    for (text, answer) in [&b"one"[..], b"two"].into_iter().zip(TAKEN) {
        assert_eq!(&message(&mut messages).await.payload[..], text);
        assert_eq!(peer.take().await, answer);
    }
    // [MQTT-4.3.3-11]
    peer.send(&Packet::PubRel(acknowledgement(8))).await;
    assert_eq!(peer.take().await, b"\x70\x02\x00\x08");
}

/// The next messages are the two that waited, and nothing comes twice. The broker hears of them if it has sent them again.
async fn takes_what_waited_once(messages: &mut Subscription, peer: &mut Peer, came_again: bool) {
    for text in [&b"one"[..], b"two"] {
        assert_eq!(&message(messages).await.payload[..], text);
    }
    for answer in TAKEN.iter().filter(|_| came_again) {
        assert_eq!(peer.take().await, *answer);
    }
    peer.send(&incoming("after", QoS::AtMostOnce, 0, false)).await;
    assert_eq!(&message(messages).await.payload[..], b"after", "nothing comes twice");
}

#[tokio::test]
async fn what_waits_for_a_subscription_comes_once_over_a_lost_connection_and_a_lost_session() {
    for (connack, comes_again) in [(resumed(), true), (ConnAck::default(), false)] {
        let broker = Broker::start().await;
        let (client, mut peer) = returned(&broker).await;
        peer.send_what_waited(false).await;
        peer.says_nothing().await;

        drop(peer);
        let mut peer = broker.accept(&connack).await;
        if comes_again {
            peer.send_what_waited(true).await;
        }
        peer.says_nothing().await;
        let mut messages = peer.grant(&client, "t").await;

        takes_what_waited_once(&mut messages, &mut peer, comes_again).await;
    }
}

#[tokio::test]
async fn the_receive_maximum_bounds_what_waits_for_a_subscription() {
    let broker = Broker::start().await;
    let (_client, mut peer) = returned(&broker).await;
    peer.send_what_waited(false).await;
    peer.send(&incoming("three", QoS::AtLeastOnce, 9, false)).await;
    peer.says_nothing().await;

    peer.send(&incoming("four", QoS::AtLeastOnce, 10, false)).await;

    // [MQTT-3.3.4-7]
    assert_eq!(peer.take().await, b"\xe0\x01\x93", "Receive Maximum exceeded");
}

#[tokio::test]
async fn what_waits_is_acknowledged_once_the_application_wants_none_of_it() {
    let broker = Broker::start().await;
    let (client, mut peer) = returned(&broker).await;
    peer.send_what_waited(false).await;
    let (ended, ()) = tokio::join!(client.unsubscribe("+"), peer.end_subscription());
    assert_eq!(ended, Ok(()));
    assert_eq!([peer.take().await, peer.take().await], TAKEN);
    peer.send(&incoming("late", QoS::AtLeastOnce, 9, false)).await;
    assert_eq!(peer.take().await, b"\x40\x02\x00\x09", "its last messages may come later");

    let (client, mut peer) = returned(&broker).await;
    peer.send_what_waited(false).await;
    peer.says_nothing().await;
    assert_eq!(client.decline_unclaimed().await, Ok(2));
    assert_eq!([peer.take().await, peer.take().await], TAKEN);
    peer.send(&incoming("late", QoS::AtLeastOnce, 9, false)).await;
    assert_eq!(peer.take().await, b"\x40\x02\x00\x09");
}

#[tokio::test]
async fn what_makes_connecting_fail_is_named() {
    let broker = Broker::start().await;
    let address = broker.listener.local_addr().unwrap().to_string();
    let refusal = ConnAck { reason: ReasonCode::NotAuthorized, ..ConnAck::default() };
    let (refused, peer) = tokio::join!(broker.client().connect(), broker.accept(&refusal));
    drop(peer);
    let silent = broker.client().answer_timeout(Duration::from_millis(50)).connect().await;
    drop(broker.listener);
    let unreachable = Client::builder("127.0.0.1", address.rsplit(':').next().unwrap().parse().unwrap());
    let unreachable = unreachable.connect().await;

    let failed = |reason| ConnectError::Failed { address: address.clone(), reason };
    let not_authorized = CloseReason::Refused { reason: ReasonCode::NotAuthorized, text: None };
    assert_eq!(refused.err(), Some(failed(not_authorized)));
    assert_eq!(silent.err(), Some(failed(CloseReason::Timeout("CONNACK"))));
    let Some(ConnectError::Unreachable { address: named, kind, .. }) = unreachable.err() else { panic!() };
    assert_eq!((named, kind), (address, io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn on_a_scope_only_envelopes_leave_and_only_authentic_ones_arrive() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(scoped(broker.client())).await;
    let (reader, mut reader_peer) = broker.connected(scoped(broker.client()).client_id("reader")).await;
    let mut messages = reader_peer.grant(&reader, "#").await;

    client.publish("factory/t", "21.5 degrees").send().await.unwrap();
    let sealed = payload_of(&peer.take().await);
    assert!(Envelope::parse(&sealed).is_ok());
    assert!(!sealed.windows(4).any(|window| b"21.5 degrees".windows(4).any(|piece| piece == window)));

    reader_peer.send(&publish("factory/t", &sealed)).await;
    let opened = message(&mut messages).await;
    assert_eq!(&opened.payload[..], b"21.5 degrees");
    assert_eq!(opened.sealed.unwrap().authentication, Authentication::Group);
    let mut flipped = sealed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    // A sequence number that was not used yet, so that the tag decides.
    flipped[32] ^= 1;
    for (payload, expected) in
        [(&b"21.5"[..], OpenError::NotEncrypted), (&flipped, OpenError::BadTag), (&sealed, OpenError::Replay)]
    {
        reader_peer.send(&publish("factory/t", payload)).await;
        let Received::Refused { topic, error } = next(&mut messages).await else { panic!("accepted") };
        assert_eq!((topic.as_str(), error), ("factory/t", expected));
    }
    reader_peer.send(&publish("office/t", b"plain")).await;
    let plain = message(&mut messages).await;
    assert_eq!((&plain.payload[..], plain.sealed), (&b"plain"[..], None));
}

#[tokio::test]
async fn plaintext_on_a_scope_is_an_error_and_not_sent() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(scoped(broker.client())).await;

    let refused = client.publish_plain("factory/t", "21.5").qos(QoS::AtLeastOnce).send().await;
    client.publish_plain("office/t", "x").send().await.unwrap();

    let scope = "factory/#".to_owned();
    assert_eq!(refused, Err(PublishError::ScopeIsSealed { topic: "factory/t".to_owned(), scope }));
    assert_eq!(payload_of(&peer.take().await), b"x", "the first packet that left");
}

#[tokio::test]
async fn a_will_on_a_scope_is_sealed_anew_for_every_connection() {
    let broker = Broker::start().await;
    let will = Will::new("factory/will", "gone for good");
    let (client, peer) = broker.connected(scoped(broker.client()).will(will)).await;
    let first = payload_of(&peer.connect);
    drop(peer);
    let second = payload_of(&broker.accept(&resumed()).await.connect);
    drop(client);

    for payload in [&first, &second] {
        assert!(Envelope::parse(payload).unwrap().header.is_will());
        assert!(!payload.windows(4).any(|window| window == b"gone"));
    }
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_holds_up_the_broker_and_loses_nothing() {
    const COUNT: u32 = 20_000;
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let mut messages = peer.grant(&client, "t").await;
    let flood = tokio::spawn(async move {
        let filling = [b'.'; 1_000];
        for number in 0..COUNT {
            peer.send(&publish("t", &[&number.to_be_bytes()[..], &filling].concat())).await;
        }
        peer
    });

    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!flood.is_finished(), "20 MB do not fit into any buffer on the way");
    for number in 0..COUNT {
        assert_eq!(message(&mut messages).await.payload[..4], number.to_be_bytes());
    }
    flood.await.unwrap();
}

#[tokio::test]
async fn an_answer_behind_messages_nobody_takes_still_comes_and_what_was_left_out_is_counted() {
    const COUNT: u64 = 500;
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(broker.client()).await;
    let mut messages = peer.grant(&client, "t").await;

    let publish_in_loop = async { client.publish("other", "x").qos(QoS::AtLeastOnce).send().await };
    let answer_late = async {
        let packet = peer.take().await;
        assert_eq!(packet[0], 0x32);
        for _ in 0..COUNT {
            peer.send(&incoming("flood", QoS::AtMostOnce, 0, false)).await;
        }
        peer.send(&Packet::PubAck(acknowledgement(2))).await;
    };
    let (published, ()) = timeout(LIMIT, async { tokio::join!(publish_in_loop, answer_late) }).await.unwrap();
    assert_eq!(published, Ok(ReasonCode::Success));

    let mut taken = 0;
    let missed = loop {
        match timeout(Duration::from_millis(300), messages.next()).await {
            Ok(Some(Received::Message(_))) => taken += 1,
            Ok(other) => break other.map(|_| 0),
            // The count comes with the next message that finds room.
            Err(_) => {
                peer.send(&incoming("last", QoS::AtMostOnce, 0, false)).await;
                let Received::Missed { count } = next(&mut messages).await else { panic!("not counted") };
                assert_eq!(&message(&mut messages).await.payload[..], b"last");
                break Some(count);
            }
        }
    };
    assert!(taken > 0);
    assert_eq!(missed, Some(COUNT - taken), "every message is taken or counted");
}
