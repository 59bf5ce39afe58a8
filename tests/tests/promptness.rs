//! How soon what waits for a subscriber arrives: no pause of the network's own making lies between two packets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::wire::{
    Published, RawPacket, Wire, acknowledgement, connect_packet, packet, publish_packet, push_string,
};

/// What is retained, and how large each is: together more than a segment, and no multiple of one.
const RETAINED: usize = 300;
const PAYLOAD_BYTES: usize = 1_000;
const LIVE: usize = 20;
const TRIES: usize = 9;
const PATIENCE: Duration = Duration::from_secs(10);
/// A small packet that waits for the acknowledgement of the one before, and that one for more to acknowledge, waits 40 ms.
const SILENCE_MAX: Duration = Duration::from_millis(30);
const TOTAL_MAX: Duration = Duration::from_millis(200);

/// Reads the next packet: its first byte, and what follows the Remaining Length.
fn next(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    };
    let first = byte();
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let part = byte();
        length |= usize::from(part & 0x7f) << shift;
        if part & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (first, body)
}

/// Connects, and goes back and forth: a connection that is new acknowledges at once, a later one when it has something to send.
fn connect(stream: &mut (impl Read + Write), client_id: &str) {
    stream.write_all(&connect_packet(client_id, true)).unwrap();
    assert_eq!(next(stream), (0x20, vec![0, 0]));
    for _ in 0..20 {
        stream.write_all(&[0xc0, 0]).unwrap();
        assert_eq!(next(stream).0, 0xd0);
    }
}

fn subscribe(stream: &mut impl Write, filter: &str, qos: u8) {
    let mut body = vec![0, 1];
    push_string(&mut body, filter);
    body.push(qos);
    stream.write_all(&packet(0x82, &body)).unwrap();
}

/// How long `count` messages take to arrive that come since `began`, and the longest wait for one packet.
fn arrival(stream: &mut (impl Read + Write), began: Instant, count: usize) -> [Duration; 2] {
    let (mut arrived, mut silence, mut heard) = (0, Duration::ZERO, began);
    while arrived < count {
        let (first, body) = next(stream);
        silence = silence.max(heard.elapsed());
        heard = Instant::now();
        arrived += usize::from(first >> 4 == 3);
        if first == 0x32 {
            let id = Published::read(&RawPacket { first, body }).unwrap().packet_id;
            stream.write_all(&acknowledgement(0x40, id)).unwrap();
        }
    }
    [began.elapsed(), silence]
}

/// Has a client come to what is retained and then to what is published, and returns how long both took.
fn visit(stream: &mut (impl Read + Write), client_id: &str, qos: u8, writer: &mut Wire) -> [Duration; 4] {
    connect(stream, client_id);

    let began = Instant::now();
    subscribe(stream, "r/+/x", qos);
    let retained = arrival(stream, began, RETAINED);
    subscribe(stream, "live", qos);
    assert_eq!(next(stream).0, 0x90);
    let began = Instant::now();
    for _ in 0..LIVE {
        publish(writer, &publish_packet("live", 1, 1, false, b"x"));
    }
    let live = arrival(stream, began, LIVE);
    [retained[0], retained[1], live[0], live[1]]
}

/// Publishes at QoS 1 and waits until the broker has it.
fn publish(writer: &mut Wire, message: &[u8]) {
    writer.send(message).unwrap();
    assert_eq!(writer.packet().unwrap().acknowledged(), 1);
}

fn median(tries: &[[Duration; 4]], of: usize) -> Duration {
    let mut times: Vec<Duration> = tries.iter().map(|measured| measured[of]).collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn what_is_retained_or_published_one_by_one_reaches_a_subscriber_without_a_pause() {
    let authority = Authority::new();
    let (client, plain) = (TlsClient::new(&authority, None), ReservedPort::new());
    let broker = Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 2\n[[listeners]]\naddress = \"{}\"\n\
             [[listeners]]\naddress = \"{address}\"\n{}",
            plain.address(),
            authority.issue_for_this_machine().on_listener()
        )
    });
    let (mut writer, _) = Wire::connect(plain.address(), "writer", true);
    for number in 0..RETAINED {
        let mut retained = publish_packet(&format!("r/{number}/x"), 1, 1, false, &[b'x'; PAYLOAD_BYTES]);
        retained[0] |= 1;
        publish(&mut writer, &retained);
    }

    for (transport, qos) in [("plain", 0), ("plain", 1), ("TLS", 0), ("TLS", 1)] {
        let mut come = |number: usize| {
            let client_id = format!("{transport}-{qos}-{number}");
            if transport == "TLS" {
                return visit(&mut client.open(broker.address()).unwrap(), &client_id, qos, &mut writer);
            }
            let mut stream = TcpStream::connect(plain.address()).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            visit(&mut stream, &client_id, qos, &mut writer)
        };

        let tries: Vec<[Duration; 4]> = (0..TRIES).map(&mut come).collect();

        for (what, of) in [("retained", 0), ("live", 2)] {
            let (total, silence) = (median(&tries, of), median(&tries, of + 1));
            println!("{transport}, QoS {qos}, {what}: {total:?}, of them {silence:?} at one time");
            assert!(silence < SILENCE_MAX, "{transport}, QoS {qos}, {what}: nothing comes for {silence:?}");
            assert!(total < TOTAL_MAX, "{transport}, QoS {qos}, {what}: {total:?}");
        }
    }
}
