//! What the broker has acknowledged is there after `kill -9` and after a clean stop.
//!
//! The peers are raw sockets that keep their own side of each QoS flow, so that what was acknowledged is known exactly.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Result;

use veilmq_tests::broker::Broker;
use veilmq_tests::tools::require_tool;
use veilmq_tests::wire::{Published, RawPacket, Wire, acknowledgement, publish_packet};

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const DISCONNECT: [u8; 2] = [0xe0, 0];
/// How many publications a test keeps unacknowledged.
const WINDOW: usize = 16;

/// Makes a persistent session with one subscription and leaves it offline.
fn subscribe_and_leave(broker: &Broker, client_id: &str, filter: &str, qos: u8) {
    let (mut wire, session_present) = Wire::connect(broker.address(), client_id, false);
    assert!(!session_present);
    wire.subscribe(filter, qos);
    leave(wire);
}

fn leave(mut wire: Wire) {
    wire.send(&DISCONNECT).unwrap();
    assert_eq!(wire.until_closed(), [0u8; 0]);
}

/// Reconnects to a session that must still be there.
fn resume(broker: &Broker, client_id: &str) -> Wire {
    let (wire, session_present) = Wire::connect(broker.address(), client_id, false);
    assert!(session_present, "the session of {client_id} is lost");
    wire
}

fn number(published: &Published) -> u16 {
    String::from_utf8_lossy(&published.payload).parse().unwrap()
}

fn restart(broker: &mut Broker) {
    broker.kill();
    broker.restart();
}

#[test]
fn every_acknowledged_qos_1_message_survives_kill_9_in_order_per_topic() {
    const NUMBERS: u16 = 1_000;
    let topic = |number: u16| format!("numbers/{}", number % 3);
    let mut broker = Broker::start();
    subscribe_and_leave(&broker, "subscriber", "numbers/#", 1);

    let mut acknowledged = BTreeSet::new();
    for kill_at in [150, 400, 650, 900, usize::MAX] {
        let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
        let mut left =
            (1..=NUMBERS).filter(|number| !acknowledged.contains(number)).collect::<Vec<_>>().into_iter();
        let mut in_flight = BTreeSet::new();
        loop {
            while in_flight.len() < WINDOW
                && let Some(number) = left.next()
            {
                in_flight.insert(number);
                // A write fails once the broker is dead; what it acknowledged before is still to be read.
                let _ = wire.send(&publish_packet(
                    &topic(number),
                    number,
                    1,
                    false,
                    number.to_string().as_bytes(),
                ));
            }
            if in_flight.is_empty() {
                break;
            }
            let puback = match wire.packet() {
                Ok(puback) => puback,
                Err(error) => break assert!(!broker.is_running(), "no answer: {error}"),
            };
            assert_eq!(puback.first, PUBACK);
            assert!(in_flight.remove(&puback.acknowledged()), "a number was acknowledged twice");
            acknowledged.insert(puback.acknowledged());
            if acknowledged.len() == kill_at {
                broker.kill();
            }
        }
        if kill_at < usize::MAX {
            assert!(acknowledged.len() < usize::from(NUMBERS), "the kill was too late to be in the middle");
            broker.restart();
        }
    }
    assert_eq!(acknowledged.len(), usize::from(NUMBERS));

    let mut arrived: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut kills = vec![700, 300];
    let mut wire = resume(&broker, "subscriber");
    while seen.len() < usize::from(NUMBERS) {
        let packet = wire.packet().unwrap_or_else(|error| {
            let missing: Vec<&u16> = acknowledged.difference(&seen).collect();
            panic!("{error}; acknowledged and lost: {missing:?}")
        });
        let published = Published::read(&packet).unwrap_or_else(|| panic!("{packet:?}"));
        assert_eq!(published.qos, 1);
        if seen.insert(number(&published)) {
            arrived.entry(published.topic.clone()).or_default().push(number(&published));
        }
        wire.send(&acknowledgement(PUBACK, published.packet_id)).unwrap();
        if kills.last() == Some(&seen.len()) {
            kills.pop();
            restart(&mut broker);
            wire = resume(&broker, "subscriber");
        }
    }
    for remainder in 0..3 {
        let expected: Vec<u16> = (1..=NUMBERS).filter(|number| number % 3 == remainder).collect();
        assert_eq!(arrived[&topic(remainder)], expected, "the order within a topic changed");
    }
}

/// The publisher's side of the QoS 2 flow: which packet was sent last for each Packet Identifier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Publish,
    PubRel,
}

#[derive(Default)]
struct Qos2Publisher {
    in_flight: BTreeMap<u16, Sent>,
}

impl Qos2Publisher {
    fn start(&mut self, wire: &mut Wire, number: u16) {
        self.in_flight.insert(number, Sent::Publish);
        // A write fails once the broker is dead; the flow goes on after the restart.
        let _ = wire.send(&publish_packet("exactly", number, 2, false, number.to_string().as_bytes()));
    }

    /// [MQTT-4.4.0-1] Sends again what has not been acknowledged, in the original order.
    fn resend(&self, wire: &mut Wire) {
        for (number, sent) in &self.in_flight {
            match sent {
                Sent::Publish => {
                    wire.send(&publish_packet("exactly", *number, 2, true, number.to_string().as_bytes()))
                        .unwrap();
                }
                Sent::PubRel => wire.send(&acknowledgement(PUBREL, *number)).unwrap(),
            }
        }
    }

    fn handle(&mut self, wire: &mut Wire, packet: &RawPacket) {
        let number = packet.acknowledged();
        match packet.first {
            PUBREC => {
                self.in_flight.insert(number, Sent::PubRel);
                // As above: a dead broker is noticed by the next read.
                let _ = wire.send(&acknowledgement(PUBREL, number));
            }
            PUBCOMP => {
                assert!(self.in_flight.remove(&number).is_some(), "PUBCOMP for {number}, not in flight");
            }
            _ => panic!("{packet:?} is no answer to a QoS 2 publisher"),
        }
    }
}

/// The subscriber's side of the QoS 2 flow: delivers at PUBLISH and remembers the identifier until PUBREL.
#[derive(Default)]
struct Qos2Subscriber {
    received: BTreeSet<u16>,
    delivered: Vec<u16>,
}

impl Qos2Subscriber {
    fn handle(&mut self, wire: &mut Wire, packet: &RawPacket) -> Result<()> {
        if let Some(published) = Published::read(packet) {
            assert_eq!(published.qos, 2);
            if self.received.insert(published.packet_id) {
                self.delivered.push(number(&published));
            }
            return wire.send(&acknowledgement(PUBREC, published.packet_id));
        }
        assert_eq!(packet.first, PUBREL, "{packet:?} is neither PUBLISH nor PUBREL");
        self.received.remove(&packet.acknowledged());
        wire.send(&acknowledgement(PUBCOMP, packet.acknowledged()))
    }
}

#[test]
fn every_qos_2_message_arrives_exactly_once_over_kill_9() {
    const NUMBERS: u16 = 200;
    let mut broker = Broker::start();
    subscribe_and_leave(&broker, "subscriber", "exactly", 2);

    let mut publisher = Qos2Publisher::default();
    let mut next = 1;
    let mut answers = 0;
    let (mut wire, _) = Wire::connect(broker.address(), "publisher", false);
    while next <= NUMBERS || !publisher.in_flight.is_empty() {
        while publisher.in_flight.len() < WINDOW && next <= NUMBERS {
            publisher.start(&mut wire, next);
            next += 1;
        }
        match wire.packet() {
            Ok(packet) => {
                publisher.handle(&mut wire, &packet);
                answers += 1;
                if [40, 41, 150, 301].contains(&answers) {
                    broker.kill();
                }
            }
            Err(error) => {
                assert!(!broker.is_running(), "no answer: {error}");
                broker.restart();
                wire = resume(&broker, "publisher");
                publisher.resend(&mut wire);
            }
        }
    }

    let mut subscriber = Qos2Subscriber::default();
    let mut packets = 0;
    let mut wire = resume(&broker, "subscriber");
    while subscriber.delivered.len() < usize::from(NUMBERS) || !subscriber.received.is_empty() {
        let packet = wire.packet().unwrap_or_else(|error| panic!("{error} after {:?}", subscriber.delivered));
        subscriber.handle(&mut wire, &packet).unwrap();
        packets += 1;
        if [30, 31, 120, 260].contains(&packets) {
            restart(&mut broker);
            wire = resume(&broker, "subscriber");
        }
    }

    assert_eq!(subscriber.delivered, (1..=NUMBERS).collect::<Vec<_>>());
}

fn state_is_back_after(stop: fn(&mut Broker)) {
    let mut broker = Broker::start();
    subscribe_and_leave(&broker, "sleeper", "mail/+", 1);
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    let mut publish = |topic: &str, packet_id: u16, retain: bool, payload: &[u8]| {
        let mut packet = publish_packet(topic, packet_id, 1, false, payload);
        packet[0] |= u8::from(retain);
        publisher.send(&packet).unwrap();
        let puback = publisher.packet().unwrap();
        assert_eq!(puback, RawPacket { first: PUBACK, body: packet_id.to_be_bytes().into() });
    };
    publish("state/kept", 1, true, b"kept");
    publish("state/replaced", 2, true, b"old");
    publish("state/replaced", 3, true, b"new");
    publish("state/cleared", 4, true, b"gone");
    publish("state/cleared", 5, true, b"");
    publish("mail/queued", 6, false, b"queued");
    let (mut leaver, _) = Wire::connect(broker.address(), "leaver", false);
    leaver.subscribe("mail/+", 1);
    leave(leaver);
    leave(Wire::connect(broker.address(), "leaver", true).0);

    stop(&mut broker);
    broker.restart();

    let (mut late, _) = Wire::connect(broker.address(), "late", true);
    late.subscribe("state/#", 1);
    let mut retained = [late.packet().unwrap(), late.packet().unwrap()].map(|packet| {
        assert_eq!(packet.first & 1, 1, "RETAIN is set");
        let published = Published::read(&packet).unwrap();
        (published.topic, published.payload)
    });
    retained.sort();
    let expected = [("state/kept", b"kept".as_slice()), ("state/replaced", b"new")];
    assert_eq!(retained, expected.map(|(topic, payload)| (topic.to_owned(), payload.to_vec())));

    let (_, session_present) = Wire::connect(broker.address(), "leaver", false);
    assert!(!session_present, "a session that a clean start ended stays ended");
    let mut sleeper = resume(&broker, "sleeper");
    let queued = Published::read(&sleeper.packet().unwrap()).unwrap();
    assert_eq!((queued.topic.as_str(), queued.payload.as_slice()), ("mail/queued", b"queued".as_slice()));
    sleeper.send(&acknowledgement(PUBACK, queued.packet_id)).unwrap();
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    publisher.send(&publish_packet("mail/new", 7, 1, false, b"new")).unwrap();
    let live = Published::read(&sleeper.packet().unwrap()).unwrap();
    assert_eq!((live.topic.as_str(), live.payload.as_slice()), ("mail/new", b"new".as_slice()));
}

#[test]
fn retained_messages_sessions_and_subscriptions_are_back_after_kill_9() {
    state_is_back_after(Broker::kill);
}

#[test]
fn retained_messages_sessions_and_subscriptions_are_back_after_a_clean_stop() {
    state_is_back_after(|broker| {
        let status = broker.terminate(10);
        assert!(status.success(), "{status}");
    });
}

#[test]
fn nothing_is_acknowledged_once_a_sync_has_failed() {
    // [D09]
    let Some(strace) = require_tool("strace") else { return };
    let mut broker = Broker::start();
    subscribe_and_leave(&broker, "subscriber", "t", 1);
    broker.terminate(20);
    let inject = "inject=fdatasync:error=EIO:when=40+".to_owned();
    let mut wrapper = vec![strace.to_str().unwrap().to_owned()];
    wrapper.extend(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"].map(str::to_owned));
    wrapper.push(inject);
    broker.run_under(wrapper);
    broker.restart();

    let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
    let mut acknowledged = 0;
    for number in 1..=1_000 {
        if wire.send(&publish_packet("t", number, 1, false, number.to_string().as_bytes())).is_err() {
            break;
        }
        match wire.packet() {
            Ok(puback) => assert_eq!((puback.first, puback.acknowledged()), (PUBACK, number)),
            Err(_) => break,
        }
        acknowledged = number;
    }
    assert!((1..1_000).contains(&acknowledged), "{acknowledged} are acknowledged");
    assert_eq!(broker.get("/readyz").status, 503);
    assert!(broker.log().contains("cannot be synced"), "{}", broker.log());
    broker.kill();

    broker.run_under(Vec::new());
    broker.restart();
    let mut subscriber = resume(&broker, "subscriber");
    for expected in 1..=acknowledged {
        let published = Published::read(&subscriber.packet().unwrap()).unwrap();
        assert_eq!(number(&published), expected);
        subscriber.send(&acknowledgement(PUBACK, published.packet_id)).unwrap();
    }
}
