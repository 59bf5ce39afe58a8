//! What the broker answers, byte for byte, to packets that the standard forbids.
//!
//! The tables of `protocol/tests` hold every malformed form; here a few of each kind go through the real broker, to
//! show the farewell on the wire, the closed connection, and that nobody else notices.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use veilmq_tests::broker::Broker;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Wire, connect_packet, packet};

/// Where in the life of a connection the bytes are sent.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// As the first bytes.
    BeforeConnect,
    /// After an accepted CONNECT of MQTT 3.1.1.
    ConnectedV311,
    /// After an accepted CONNECT of MQTT 5.
    ConnectedV5,
}

use Phase::{BeforeConnect, ConnectedV5, ConnectedV311};

/// What is wrong, when it is sent, the bytes, and all the bytes that come back before the connection is closed.
type Row = (&'static str, Phase, &'static [u8], &'static [u8]);

const CONNECT_V5: &[u8] = b"\0\x04MQTT\x05\x02\0\x3c\0\0\x01v";

const ROWS: &[Row] = &[
    // Before CONNACK a version 5 client is told by CONNACK; who speaks no MQTT at all is told nothing.
    ("not MQTT", BeforeConnect, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    ("PINGREQ before CONNECT", BeforeConnect, b"\xc0\0", b""),
    ("a first packet of 256 MiB", BeforeConnect, b"\x10\xff\xff\xff\x7f", b""),
    ("reserved Connect Flag, 3.1.1", BeforeConnect, b"\x10\x0d\0\x04MQTT\x04\x03\0\x3c\0\x01c", b""),
    (
        "reserved Connect Flag, 5",
        BeforeConnect,
        b"\x10\x0e\0\x04MQTT\x05\x03\0\x3c\0\0\x01c",
        b"\x20\x03\0\x81\0",
    ),
    (
        "Receive Maximum 0",
        BeforeConnect,
        b"\x10\x11\0\x04MQTT\x05\x02\0\x3c\x03\x21\0\0\0\x01c",
        b"\x20\x03\0\x82\0",
    ),
    (
        "wildcard in the Will Topic",
        BeforeConnect,
        b"\x10\x14\0\x04MQTT\x05\x06\0\x3c\0\0\x01c\0\0\x01#\0\0",
        b"\x20\x03\0\x81\0",
    ),
    ("protocol level 6", BeforeConnect, b"\x10\x0e\0\x04MQTT\x06\x02\0\x3c\0\0\x01c", b"\x20\x02\0\x01"),
    (
        "no Client Identifier for a session to keep",
        BeforeConnect,
        b"\x10\x0c\0\x04MQTT\x04\0\0\x3c\0\0",
        b"\x20\x02\0\x02",
    ),
    // Afterwards a version 5 client is told by DISCONNECT, and MQTT 3.1.1 has no word for it.
    ("reserved packet type", ConnectedV5, b"\x00\0", b"\xe0\x01\x81"),
    ("QoS 3", ConnectedV5, b"\x36\x06\0\x01a\0\x01\0", b"\xe0\x01\x81"),
    ("QoS 3, 3.1.1", ConnectedV311, b"\x36\x05\0\x01a\0\x01", b""),
    ("Remaining Length of five bytes", ConnectedV5, b"\x30\x80\x80\x80\x80\x01", b"\xe0\x01\x81"),
    ("bytes after the end of PUBACK", ConnectedV5, b"\x40\x05\0\x01\0\0\0", b"\xe0\x01\x81"),
    ("Topic Name that is not UTF-8", ConnectedV5, b"\x30\x05\0\x02\xc3\x28\0", b"\xe0\x01\x81"),
    ("Topic Name with a wildcard", ConnectedV5, b"\x30\x06\0\x03a/#\0", b"\xe0\x01\x81"),
    ("Topic Alias 0", ConnectedV5, b"\x30\x07\0\x01a\x03\x23\0\0", b"\xe0\x01\x94"),
    ("Topic Alias that nobody announced", ConnectedV5, b"\x30\x06\0\0\x03\x23\0\x01", b"\xe0\x01\x82"),
    ("SUBSCRIBE without a Topic Filter", ConnectedV5, b"\x82\x03\0\x01\0", b"\xe0\x01\x82"),
    (
        "Topic Filter with a wildcard inside a level",
        ConnectedV5,
        b"\x82\x08\0\x01\0\0\x02a#\0",
        b"\xe0\x01\x81",
    ),
    (
        "No Local on a shared subscription",
        ConnectedV5,
        b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04",
        b"\xe0\x01\x82",
    ),
    ("a second CONNECT", ConnectedV5, b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c", b"\xe0\x01\x82"),
    ("a packet that only a server sends", ConnectedV5, b"\x20\x03\0\0\0", b"\xe0\x01\x82"),
    ("AUTH where no method was negotiated", ConnectedV5, b"\xf0\x02\x19\0", b"\xe0\x01\x82"),
    ("PUBLISH larger than the limit", ConnectedV5, b"\x30\xff\xff\xff\x7f", b"\xe0\x01\x95"),
];

/// Sends the bytes of `row` in its phase and returns what comes back.
fn answer(broker: &Broker, (what, phase, bytes, _): &Row) -> Vec<u8> {
    println!("{what}");
    let mut wire = Wire::open(broker.address());
    let connect = match phase {
        BeforeConnect => None,
        ConnectedV311 => Some(connect_packet("v", true)),
        ConnectedV5 => Some(packet(0x10, CONNECT_V5)),
    };
    if let Some(connect) = connect {
        wire.send(&connect).expect("CONNECT can be sent");
        let connack = wire.packet().expect("a CONNACK arrives");
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "the broker accepts a valid CONNECT");
    }
    wire.send(bytes).expect("the malformed bytes can be sent");
    without_reason_string(wire.until_closed())
}

/// Takes the Reason String out of an answer of MQTT 5 that has nothing else to say.
fn without_reason_string(answer: Vec<u8>) -> Vec<u8> {
    let is_whole = answer.get(1).is_some_and(|length| usize::from(*length) + 2 == answer.len());
    match answer.as_slice() {
        [0x20, _, 0, reason, _, 0x1f, ..] if is_whole => vec![0x20, 3, 0, *reason, 0],
        [0xe0, _, reason, _, 0x1f, ..] if is_whole => vec![0xe0, 1, *reason],
        _ => answer,
    }
}

#[test]
fn every_malformed_form_is_answered_with_its_reason_and_the_connection_is_closed() {
    // [A03]
    let broker = Broker::start();
    let (mut bystander, _) = Wire::connect(broker.address(), "bystander", true);

    let wrong: Vec<String> = ROWS
        .iter()
        .map(|row| (row, answer(&broker, row)))
        .filter(|(row, got)| got != row.3)
        .map(|((what, phase, _, expected), got)| {
            format!("{what} ({phase:?}): {got:02x?}, not {expected:02x?}")
        })
        .collect();

    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    bystander.send(b"\xc0\0").expect("PINGREQ can be sent");
    assert_eq!(bystander.packet().expect("a PINGRESP arrives").first, 0xd0, "nobody else notices");
}

#[test]
fn a_will_that_is_refused_leaves_nothing_behind() {
    // [A08] Session Expiry Interval is no property of a will; what comes behind it is large enough to be missed.
    const ROUNDS: usize = 2_000;
    const PAYLOAD: usize = 32_000;
    let broker = Broker::start();
    let payload = [&u16::try_from(PAYLOAD).unwrap().to_be_bytes(), [7; PAYLOAD].as_slice()].concat();
    let body = [b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01w\x05\x11\0\0\0\x01\0\x01t".as_slice(), &payload].concat();
    let refused = packet(0x10, &body);
    let rounds = |count: usize| {
        for _ in 0..count {
            let mut wire = Wire::open(broker.address());
            wire.send(&refused).expect("CONNECT can be sent");
            assert_eq!(without_reason_string(wire.until_closed()), b"\x20\x03\0\x81\0");
        }
        wait_until("they are gone", || broker.metric("veilmq_connections") == Some(0.0));
    };
    let measured = |name: &str| broker.metric(name).expect("the metric is there");
    rounds(200);
    let (files, resident) = (measured("process_open_fds"), measured("process_resident_memory_bytes"));

    rounds(ROUNDS);

    assert!(measured("process_open_fds") <= files + 1.0);
    let grown = measured("process_resident_memory_bytes") - resident;
    assert!(grown < (ROUNDS * PAYLOAD / 8) as f64, "{grown} bytes more");
}

#[test]
fn an_unfinished_packet_is_waited_for_and_then_taken() {
    // [A05]
    let broker = Broker::start();
    let mut wire = Wire::open(broker.address());
    let connect = connect_packet("slow", true);

    for byte in &connect {
        wire.send(&[*byte]).expect("a byte can be sent");
    }

    let connack = wire.packet().expect("a CONNACK arrives");
    assert_eq!((connack.first, connack.body.as_slice()), (0x20, [0, 0].as_slice()));
}

#[test]
fn packets_that_arrive_in_one_piece_are_all_answered_in_order() {
    let broker = Broker::start();
    let mut wire = Wire::open(broker.address());
    let subscribe = packet(0x82, b"\0\x07\0\x01a\x01");
    let publish = packet(0x32, b"\0\x01a\0\x09hello");

    wire.send(&[connect_packet("all-at-once", true), subscribe, publish, vec![0xc0, 0]].concat())
        .expect("all can be sent");

    let mut answers: Vec<u8> = (0..5).map(|_| wire.packet().expect("five packets arrive").first).collect();
    assert_eq!(answers[..2], [0x20, 0x90], "CONNACK and SUBACK come first");
    answers.sort_unstable();
    assert_eq!(answers, [0x20, 0x32, 0x40, 0x90, 0xd0]);
}

#[test]
fn what_is_said_over_udp_reaches_nobody() {
    // [A17] QUIC would be served there: an Initial packet of version 1, one of a version that asks for negotiation, a Retry, and noise.
    let broker = Broker::start();
    for ports in [broker.address(), broker.admin()] {
        for first in [0xc3_u8, 0xf0, 0x80, 0x00] {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("there are ports");
            socket.connect(ports).expect("the address is one of this machine");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it is not zero");
            let mut datagram = vec![first, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xb0];
            datagram.resize(1_200, 0);
            socket.send(&datagram).expect("it can be sent");

            let answer = socket.recv(&mut [0; 2_000]);

            assert_eq!(
                answer.map_err(|error| error.kind()),
                Err(ErrorKind::ConnectionRefused),
                "{first:#04x}"
            );
        }
    }
}
