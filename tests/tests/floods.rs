//! Clients that ask for more than they take, seen from outside: the broker's memory stays bounded, nothing is lost that has room, and
//! others are served meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::wire::{
    Published, Wire, acknowledgement, connect_packet, connect_packet_v5, packet, publish_packet, push_string,
};

/// What sockets of both sides may hold on the way, beside what the broker keeps.
const ON_THE_WAY_BYTES: usize = 64 * 1024 * 1024;
/// What the memory of the broker may grow by meanwhile.
const GROWTH_BYTES_MAX: f64 = 48.0 * 1024.0 * 1024.0;

fn resident_bytes(broker: &Broker) -> f64 {
    broker.metric("process_resident_memory_bytes").unwrap()
}

/// Has `wire` ask whether it is served, and returns how long that took.
fn ping(wire: &mut Wire) -> Duration {
    let began = Instant::now();
    wire.send(&packet(0xc0, b"")).unwrap();
    while wire.packet().unwrap().first != 0xd0 {}
    began.elapsed()
}

/// Sends `bytes` again and again until nothing more is taken; returns how many bytes that were.
fn send_until_blocked(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sent = 0;
    loop {
        match stream.write(&bytes[sent % bytes.len()..]) {
            Ok(count) => sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return sent,
            Err(error) => panic!("{error} after {sent} bytes"),
        }
        assert!(sent < 2 * ON_THE_WAY_BYTES, "the broker reads on, although nothing is taken from it");
    }
}

/// Reads the same bytes `count` times.
fn read_again(stream: &mut TcpStream, expected: &[u8], count: usize) {
    let mut buffer = vec![0; expected.len() * 16 * 1024];
    for begun in (0..count).step_by(16 * 1024) {
        let times = (count - begun).min(16 * 1024);
        let part = &mut buffer[..times * expected.len()];
        stream.read_exact(part).unwrap_or_else(|error| panic!("{error} after {begun}"));
        assert!(part.chunks(expected.len()).all(|answer| answer == expected), "behind {begun}");
    }
}

#[test]
fn who_asks_and_does_not_read_the_answers_is_not_read_either() {
    // [D06] Each request, and how many bytes of answer there are for each byte of it.
    let unknown_release = acknowledgement(0x50, 1).to_vec();
    for (name, connect, request) in [
        ("pings", connect_packet("deaf", true), packet(0xc0, b"")),
        ("receipts that belong to nothing", connect_packet_v5("deaf", 0), unknown_release),
    ] {
        let broker = Broker::start();
        let (mut other, _) = Wire::connect(broker.address(), "other", true);
        let mut stream = TcpStream::connect(broker.address()).unwrap();
        stream.write_all(&connect).unwrap();
        let mut connack = [0; 2];
        stream.read_exact(&mut connack).unwrap();
        let mut rest = vec![0; connack[1].into()];
        stream.read_exact(&mut rest).unwrap();
        let before = resident_bytes(&broker);

        let sent = send_until_blocked(&mut stream, &request.repeat(16 * 1024));

        let growth = resident_bytes(&broker) - before;
        assert!(growth < GROWTH_BYTES_MAX, "{name}: memory has grown by {growth} bytes");
        assert!(ping(&mut other) < Duration::from_secs(5), "{name}: others are served");
        // Once it reads, it is read again, and every request is answered.
        let whole = sent / request.len();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let first = Wire::on(stream.try_clone().unwrap()).unwrap().packet().unwrap();
        assert!(matches!(first.first, 0xd0 | 0x62), "{name}: {first:?}");
        read_again(&mut stream, &packet(first.first, &first.body), whole - 1);
        assert_eq!(broker.metric("veilmq_write_timeouts_total"), Some(0.0), "{name}");
    }
}

/// Has the broker retain `count` messages below `r/`.
fn retain_many(broker: &Broker, count: usize) {
    let (mut writer, _) = Wire::connect(broker.address(), "writer", true);
    for number in 0..count {
        let mut body = Vec::new();
        push_string(&mut body, &format!("r/{number:06}"));
        body.extend_from_slice(b"kept");
        writer.send(&packet(0x31, &body)).unwrap();
    }
    ping(&mut writer);
}

#[test]
fn a_storm_of_subscribers_to_everything_gets_all_that_is_retained_and_stops_nobody() {
    // [D03]
    const MESSAGES: usize = 20_000;
    const SUBSCRIBERS: usize = 20;
    let broker = Broker::start();
    retain_many(&broker, MESSAGES);
    let (mut other, _) = Wire::connect(broker.address(), "other", true);
    let address = broker.address();

    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|number| {
            thread::spawn(move || {
                let (mut wire, _) = Wire::connect(address, &format!("all-{number}"), true);
                wire.set_patience(Duration::from_secs(60)).unwrap();
                wire.subscribe("#", 0);
                for number in 0..MESSAGES {
                    let message = Published::read(&wire.packet().unwrap()).unwrap();
                    assert_eq!(message.topic, format!("r/{number:06}"), "each once, in order");
                }
                ping(&mut wire)
            })
        })
        .collect();

    let mut slowest = Duration::ZERO;
    while subscribers.iter().any(|subscriber| !subscriber.is_finished()) {
        slowest = slowest.max(ping(&mut other));
    }
    for subscriber in subscribers {
        subscriber.join().unwrap();
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let dropped = ["queue_full", "queues_full", "qos0_no_space"]
        .map(|reason| broker.metric(&format!("veilmq_messages_dropped_total{{reason=\"{reason}\"}}")));
    assert_eq!(dropped, [Some(0.0); 3]);
}

#[test]
fn more_retained_messages_than_a_queue_holds_arrive_at_a_slow_subscriber() {
    // [D03]
    let broker = Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\nlimits.inflight_max = 10\nlimits.session_queue_messages_max = 20\n\
             [[listeners]]\naddress = \"{address}\"\n"
        )
    });
    let (mut writer, _) = Wire::connect(broker.address(), "writer", true);
    for number in 0..500 {
        let mut retained = publish_packet(&format!("r/{number:03}"), 1, 1, false, b"kept");
        retained[0] |= 1;
        writer.send(&retained).unwrap();
        writer.packet().unwrap();
    }
    let (mut slow, _) = Wire::connect(broker.address(), "slow", false);

    slow.subscribe("r/+", 1);

    for number in 0..500 {
        let message = Published::read(&slow.packet().unwrap()).unwrap();
        assert_eq!(message.topic, format!("r/{number:03}"));
        slow.send(&acknowledgement(0x40, message.packet_id)).unwrap();
    }
}

#[test]
fn who_publishes_to_many_is_read_as_its_budget_of_deliveries_allows() {
    // [D07]
    let broker = Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 2\nrates.client_deliveries_per_second = 200\n\
             [[listeners]]\naddress = \"{address}\"\n"
        )
    });
    let mut crowd: Vec<Wire> = (0..20)
        .map(|number| {
            let (mut wire, _) = Wire::connect(broker.address(), &format!("crowd-{number}"), true);
            wire.subscribe("loud/#", 0);
            wire
        })
        .collect();
    let (mut loud, _) = Wire::connect(broker.address(), "loud", true);
    let (mut quiet, _) = Wire::connect(broker.address(), "quiet", true);
    let began = Instant::now();

    // Each costs twenty; a second's worth goes at once, and the last read waits for nobody.
    for id in 1..=40 {
        loud.send(&publish_packet("loud/x", id, 1, false, b"x")).unwrap();
        assert_eq!(loud.packet().unwrap().acknowledged(), id);
        quiet.send(&publish_packet("nobody/wants", id, 1, false, b"x")).unwrap();
        assert_eq!(quiet.packet().unwrap().acknowledged(), id);
    }

    assert!(began.elapsed() >= Duration::from_millis(2_500), "{:?}", began.elapsed());
    for wire in &mut crowd {
        for _ in 0..40 {
            assert_eq!(wire.packet().unwrap().first, 0x30, "nothing is lost");
        }
    }
    assert!(broker.metric("veilmq_message_targets_total").unwrap() >= 800.0);
    // Whose messages cost nothing is not slowed down.
    let began = Instant::now();
    for id in 1..=1_000 {
        quiet.send(&publish_packet("nobody/wants", id, 1, false, b"x")).unwrap();
        quiet.packet().unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn what_is_said_on_topics_of_clients_that_misbehave_is_a_few_lines() {
    // [D08]
    const REFUSED: usize = 500;
    let broker = Broker::start_configured(|address| {
        let log = "log.destinations = [\"stderr\", \"topic\"]";
        format!("shards.count = 1\naccess.anonymous = true\n{log}\n[[listeners]]\naddress = \"{address}\"\n")
    });
    let (mut listening, _) = Wire::connect(broker.address(), "listening", true);
    listening.subscribe("$SYS/broker/log/#", 0);

    for _ in 0..REFUSED {
        let mut refused = Wire::open(broker.address());
        // A Connect Flag that is reserved.
        refused.send(&packet(0x10, b"\0\x04MQTT\x04\x03\0\x3c\0\x01c")).unwrap();
        assert!(refused.until_closed().is_empty());
    }
    let (_last, _) = Wire::connect(broker.address(), "last-of-all", true);

    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.contains("last-of-all")) {
        let said = Published::read(&listening.packet().unwrap()).unwrap();
        lines.push(String::from_utf8(said.payload).unwrap());
    }
    let of_refused = lines.iter().filter(|line| line.contains("refused")).count();
    assert!((1..=20).contains(&of_refused), "{of_refused} of {lines:#?}");
    assert!(lines.len() < of_refused + 10, "{lines:#?}");
}
