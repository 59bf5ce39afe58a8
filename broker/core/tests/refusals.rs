//! Each violation gets the Reason Code that the standard names for it, and one sentence of explanation where that may be said.
//!
//! The tables state the bytes of a violation and of the answer; the malformed forms of each packet are in `protocol/tests`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;

use veilmq_core::Settings;
use veilmq_protocol::{
    Acknowledgement, Connect, ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode, next_frame,
};
use veilmq_simulator::{Conn, World, connect_v5, connect_v311, id, publish};

/// What is wrong, the bytes, the Reason Code and the sentence for it.
type Row = (&'static str, &'static [u8], u8, &'static str);

/// After CONNACK, in MQTT 5. Nothing but a DISCONNECT answers, and the connection is closed ([MQTT-4.13.1-1], [MQTT-4.13.2-1]).
const ESTABLISHED: &[Row] = &[
    ("packet type 0", b"\x00\0", 0x81, "packet type holds a reserved value"),
    ("reserved flags of DISCONNECT", b"\xe1\0", 0x81, "fixed header flags holds a reserved value"),
    ("reserved flags of AUTH", b"\xf1\0", 0x81, "fixed header flags holds a reserved value"),
    (
        "Remaining Length of five bytes",
        b"\x30\x80\x80\x80\x80\x01",
        0x81,
        "Remaining Length is not a valid Variable Byte Integer",
    ),
    ("PINGREQ with a body", b"\xc0\x01\0", 0x81, "PINGREQ is followed by surplus bytes"),
    ("QoS 3", b"\x36\x06\0\x01a\0\x01\0", 0x81, "fixed header flags holds a reserved value"),
    ("DUP at QoS 0", b"\x38\x04\0\x01a\0", 0x81, "fixed header flags holds a reserved value"),
    ("Topic Name with U+0000", b"\x30\x04\0\x01\0\0", 0x81, "Topic Name is not a valid UTF-8 string"),
    ("Topic Name with a wildcard", b"\x30\x06\0\x03a/#\0", 0x81, "Topic Name is not a valid Topic Name"),
    ("neither Topic Name nor Topic Alias", b"\x30\x03\0\0\0", 0x82, "Topic Name is missing"),
    (
        "Packet Identifier 0",
        b"\x32\x06\0\x01a\0\0\0",
        0x82,
        "Packet Identifier holds a value the protocol does not allow",
    ),
    (
        "a property of another packet",
        b"\x30\x06\0\x01a\x02\x24\x01",
        0x81,
        "Maximum QoS is not allowed in this packet",
    ),
    (
        "an unknown property",
        b"\x30\x06\0\x01a\x02\x7f\x01",
        0x81,
        "unknown property is not allowed in this packet",
    ),
    ("a property twice", b"\x30\x08\0\x01a\x04\x01\0\x01\0", 0x82, "Payload Format Indicator is repeated"),
    ("Topic Alias 0", b"\x30\x07\0\x01a\x03\x23\0\0", 0x94, "Topic Alias is zero"),
    (
        "Topic Alias above ours",
        b"\x30\x07\0\x01a\x03\x23\0\x11",
        0x94,
        "topic alias 17 above the maximum of 16",
    ),
    (
        "Topic Alias that stands for nothing",
        b"\x30\x06\0\0\x03\x23\0\x01",
        0x82,
        "PUBLISH with a topic alias that stands for no topic yet",
    ),
    (
        "Subscription Identifier from a client",
        b"\x30\x06\0\x01a\x02\x0b\x01",
        0x82,
        "a client's PUBLISH carries a subscription identifier",
    ),
    (
        "Topic Name deeper than the limit",
        b"\x30\x08\0\x05/////\0",
        0x90,
        "topic with 6 levels, 5 are allowed",
    ),
    ("a packet above our maximum", b"\x30\x80\x10", 0x95, "Remaining Length exceeds the limit"),
    ("SUBSCRIBE without a filter", b"\x82\x03\0\x01\0", 0x82, "Topic Filter is missing"),
    (
        "SUBSCRIBE without its flags",
        b"\x80\x07\0\x01\0\0\x01a\0",
        0x81,
        "fixed header flags holds a reserved value",
    ),
    (
        "Topic Filter with a misplaced wildcard",
        b"\x82\x08\0\x01\0\0\x02a#\0",
        0x81,
        "Topic Filter is not a valid Topic Filter",
    ),
    ("empty Topic Filter", b"\x82\x06\0\x01\0\0\0\0", 0x81, "Topic Filter is not a valid Topic Filter"),
    (
        "reserved Subscription Options",
        b"\x82\x07\0\x01\0\0\x01a\x40",
        0x81,
        "Subscription Options holds a reserved value",
    ),
    (
        "Maximum QoS 3",
        b"\x82\x07\0\x01\0\0\x01a\x03",
        0x82,
        "Maximum QoS holds a value the protocol does not allow",
    ),
    (
        "Retain Handling 3",
        b"\x82\x07\0\x01\0\0\x01a\x30",
        0x82,
        "Retain Handling holds a value the protocol does not allow",
    ),
    (
        "Subscription Identifier 0",
        b"\x82\x09\0\x01\x02\x0b\0\0\x01a\0",
        0x82,
        "Subscription Identifier holds a value the protocol does not allow",
    ),
    (
        "No Local on a shared subscription",
        b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04",
        0x82,
        "No Local holds a value the protocol does not allow",
    ),
    ("UNSUBSCRIBE without a filter", b"\xa2\x03\0\x01\0", 0x82, "Topic Filter is missing"),
    (
        "a Reason Code that PUBACK has not",
        b"\x40\x03\0\x01\x8e",
        0x82,
        "Reason Code holds a value the protocol does not allow",
    ),
    ("a second CONNECT", b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c", 0x82, "unexpected CONNECT"),
    ("CONNACK from a client", b"\x20\x03\0\0\0", 0x82, "unexpected CONNACK"),
    ("SUBACK from a client", b"\x90\x04\0\x01\0\0", 0x82, "unexpected SUBACK"),
    ("PINGRESP from a client", b"\xd0\0", 0x82, "unexpected PINGRESP"),
    ("AUTH without a method in CONNECT", b"\xf0\x06\x19\x04\x15\0\x01X", 0x82, "unexpected AUTH"),
    (
        "DISCONNECT that prolongs a session without expiry",
        b"\xe0\x07\0\x05\x11\0\0\0\x3c",
        0x82,
        "DISCONNECT prolongs a session that had no expiry interval",
    ),
    (
        "more User Properties than the limit",
        b"\x30\x19\0\x01a\x15\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b",
        0x97,
        "3 User Properties in a packet, 2 are allowed",
    ),
];

/// Before CONNACK, in MQTT 5: a CONNACK answers ([MQTT-3.2.2-7], [MQTT-3.2.2-8]).
const OPENING: &[Row] = &[
    (
        "reserved Connect Flag",
        b"\x10\x0e\0\x04MQTT\x05\x03\0\x3c\0\0\x01c",
        0x81,
        "Connect Flags holds a reserved value",
    ),
    ("Will QoS 3", b"\x10\x0e\0\x04MQTT\x05\x1e\0\x3c\0\0\x01c", 0x81, "Will QoS holds a reserved value"),
    (
        "Receive Maximum 0",
        b"\x10\x11\0\x04MQTT\x05\x02\0\x3c\x03\x21\0\0\0\x01c",
        0x82,
        "Receive Maximum holds a value the protocol does not allow",
    ),
    (
        "Maximum Packet Size 0",
        b"\x10\x13\0\x04MQTT\x05\x02\0\x3c\x05\x27\0\0\0\0\0\x01c",
        0x82,
        "Maximum Packet Size holds a value the protocol does not allow",
    ),
    (
        "Authentication Data without a method",
        b"\x10\x12\0\x04MQTT\x05\x02\0\x3c\x04\x16\0\x01X\0\x01c",
        0x82,
        "Authentication Method is missing",
    ),
    (
        "a method that is not served",
        b"\x10\x12\0\x04MQTT\x05\x02\0\x3c\x04\x15\0\x01X\0\x01c",
        0x8c,
        "authentication method not served",
    ),
    (
        "Will Topic with a wildcard",
        b"\x10\x14\0\x04MQTT\x05\x06\0\x3c\0\0\x01c\0\0\x01#\0\0",
        0x81,
        "Will Topic is not a valid Topic Name",
    ),
    (
        "Will Topic deeper than the limit",
        b"\x10\x18\0\x04MQTT\x05\x06\0\x3c\0\0\x01c\0\0\x05/////\0\0",
        0x90,
        "topic with 6 levels, 5 are allowed",
    ),
    (
        "Client Identifier longer than the limit",
        b"\x10\x26\0\x04MQTT\x05\x02\0\x3c\0\0\x19ccccccccccccccccccccccccc",
        0x85,
        "client identifier refused: longer than this broker allows",
    ),
    (
        "more User Properties than the limit, those of the Will counted",
        b"\x10\x29\0\x04MQTT\x05\x06\0\x3c\x0e\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b\0\x01c\x07\x26\0\x01a\0\x01b\0\x01t\0\0",
        0x97,
        "3 User Properties in a packet, 2 are allowed",
    ),
    (
        "a CONNECT above our maximum",
        b"\x10\xff\x01\0\x04MQTT\x05\x02\0\x3c\0\0\x01c",
        0x95,
        "Remaining Length exceeds the limit",
    ),
];

/// In MQTT 3.1.1: the bytes, and all that answers before the connection is closed.
type OldRow = (&'static str, &'static [u8], &'static [u8]);

/// Before CONNACK: a return code where one fits ([MQTT311-3.2.2-6]).
const OPENING_V311: &[OldRow] = &[
    ("PINGREQ first", b"\xc0\0", b""),
    ("reserved Connect Flag", b"\x10\x0d\0\x04MQTT\x04\x03\0\x3c\0\x01c", b""),
    ("a password without a user name", b"\x10\x10\0\x04MQTT\x04\x42\0\x3c\0\x01c\0\x01p", b""),
    ("protocol level 6", b"\x10\x0e\0\x04MQTT\x06\x02\0\x3c\0\0\x01c", b"\x20\x02\0\x01"),
    ("no Client Identifier for a session to keep", b"\x10\x0c\0\x04MQTT\x04\0\0\x3c\0\0", b"\x20\x02\0\x02"),
    (
        "Client Identifier longer than the limit",
        b"\x10\x25\0\x04MQTT\x04\x02\0\x3c\0\x19ccccccccccccccccccccccccc",
        b"\x20\x02\0\x02",
    ),
    (
        "a Will for a topic of the broker",
        b"\x10\x17\0\x04MQTT\x04\x06\0\x3c\0\x01c\0\x06$SYS/x\0\0",
        b"\x20\x02\0\x05",
    ),
    ("Will Topic with a wildcard", b"\x10\x12\0\x04MQTT\x04\x06\0\x3c\0\x01c\0\x01#\0\0", b""),
    ("a CONNECT above our maximum", b"\x10\xff\x01\0\x04MQTT\x04\x02\0\x3c\0\x01c", b""),
];

/// After CONNACK: 3.1.1 has no word for it, so the connection is just closed ([MQTT311-4.8.0-1]).
const ESTABLISHED_V311: &[(&str, &[u8])] = &[
    ("packet type 15", b"\xf0\0"),
    ("QoS 3", b"\x36\x05\0\x01a\0\x01"),
    ("Topic Name with a wildcard", b"\x30\x03\0\x01#"),
    ("SUBSCRIBE without a filter", b"\x82\x02\0\x01"),
    ("Requested QoS 3", b"\x82\x06\0\x01\0\x01a\x03"),
    ("a second CONNECT", b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c"),
    ("a packet above our maximum", b"\x30\x80\x10"),
    ("CONNACK from a client", b"\x20\x02\0\0"),
];

fn world(reason_strings: bool) -> World {
    World::with(Settings {
        reason_strings,
        topic_levels_max: 5,
        client_id_bytes_max: 24,
        user_properties_max: 2,
        packet_bytes_max: 1_024,
        connect_packet_bytes_max: 128,
        ..Settings::default()
    })
}

/// Returns a Reason String as a property block that holds nothing else, with its length.
fn reason_string_block(sentence: &str) -> Vec<u8> {
    let length = u8::try_from(sentence.len()).unwrap();
    [&[length + 3, 0x1f, 0, length], sentence.as_bytes()].concat()
}

/// Puts a Remaining Length behind the first byte.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).unwrap()], body].concat()
}

/// Compares all rows, so that one run shows every difference.
fn check(answers: impl IntoIterator<Item = (&'static str, (Vec<u8>, bool), Vec<u8>)>) {
    let wrong: Vec<String> = answers
        .into_iter()
        .filter(|(_, (answer, closed), expected)| answer != expected || !closed)
        .map(|(what, (answer, closed), expected)| {
            let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
            format!("{what}: {} (closed: {closed}), not {}", shown(&answer), shown(&expected))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn answer_after(connect: &Connect<'_>, reason_strings: bool, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut world = world(reason_strings);
    let connection = world.connect(connect);
    assert_eq!(world.bytes(connection)[0], 0x20, "CONNACK");
    world.send_bytes(connection, bytes);
    (world.bytes(connection), world.is_closed(connection))
}

fn answer_to_first(reason_strings: bool, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut world = world(reason_strings);
    let connection = world.accept(0, ProtocolVersion::V5);
    world.send_bytes(connection, bytes);
    (world.bytes(connection), world.is_closed(connection))
}

#[test]
fn a_violation_after_connack_gets_disconnect_with_its_reason() {
    // [A09], [A10], [D01]
    let connect = connect_v5("v", true, 0);
    check(
        ESTABLISHED.iter().map(|(what, bytes, code, _)| {
            (*what, answer_after(&connect, false, bytes), packet(0xe0, &[*code]))
        }),
    );
    check(ESTABLISHED.iter().map(|(what, bytes, code, sentence)| {
        let body = [&[*code], reason_string_block(sentence).as_slice()].concat();
        (*what, answer_after(&connect, true, bytes), packet(0xe0, &body))
    }));
}

#[test]
fn a_violation_before_connack_gets_connack_with_its_reason() {
    // [A03]
    check(
        OPENING.iter().map(|(what, bytes, code, _)| {
            (*what, answer_to_first(false, bytes), packet(0x20, &[0, *code, 0]))
        }),
    );
    check(OPENING.iter().map(|(what, bytes, code, sentence)| {
        let body = [&[0, *code], reason_string_block(sentence).as_slice()].concat();
        (*what, answer_to_first(true, bytes), packet(0x20, &body))
    }));
}

#[test]
fn a_violation_of_mqtt_3_1_1_gets_a_return_code_or_nothing() {
    let connect = connect_v311("v", true);
    check(
        OPENING_V311
            .iter()
            .map(|(what, bytes, expected)| (*what, answer_to_first(true, bytes), expected.to_vec())),
    );
    check(
        ESTABLISHED_V311.iter().map(|(what, bytes)| (*what, answer_after(&connect, true, bytes), Vec::new())),
    );
}

#[test]
fn more_unacknowledged_messages_than_our_receive_maximum_are_0x93() {
    // [C08]
    let mut world = World::with(Settings { receive_maximum: 2, ..Settings::default() });
    let (connection, _) = world.join("x", true, 0);
    for packet_id in 1..=3 {
        world.publish(connection, "t", "x", QoS::ExactlyOnce, packet_id);
    }

    assert_eq!(world.received(connection), ["PUBREC id1", "PUBREC id2", "DISCONNECT 0x93"]);
    assert!(world.is_closed(connection));
}

#[test]
fn silence_and_takeover_have_a_reason_and_a_sentence() {
    let mut world = World::new(1);
    let silent = world.connect(&Connect { keep_alive_seconds: 10, ..connect_v5("silent", true, 0) });
    let (first, _) = world.join("twin", true, 0);
    world.bytes(silent);

    world.join("twin", true, 0);
    world.pass(15_000);

    let taken_over = reason_string_block("another connection took the session over");
    assert_eq!(world.bytes(first), packet(0xe0, &[&[0x8e], taken_over.as_slice()].concat()));
    let late = reason_string_block("nothing heard for one and a half times the keep alive of 10 s");
    assert_eq!(world.bytes(silent), packet(0xe0, &[&[0x8d], late.as_slice()].concat()));
}

#[test]
fn a_reason_string_that_does_not_fit_is_left_out() {
    // [MQTT-3.14.2-3], [MQTT-3.2.2-19]
    let pingresp = b"\xd0\0";
    let sentence = "unexpected PINGRESP";
    let full = packet(0xe0, &[&[0x82], reason_string_block(sentence).as_slice()].concat());
    for (packet_bytes_max, expected) in [
        (full.len(), full.clone()),
        (full.len() - 1, b"\xe0\x01\x82".to_vec()),
        (21, b"\xe0\x01\x82".to_vec()),
    ] {
        let properties = with_packet_bytes_max(packet_bytes_max);
        let connect = Connect { properties, ..connect_v5("x", true, 0) };
        check([("DISCONNECT", answer_after(&connect, true, pingresp), expected)]);
    }

    let too_long = "c".repeat(25);
    let sentence = "client identifier refused: longer than this broker allows";
    let full = packet(0x20, &[&[0, 0x85], reason_string_block(sentence).as_slice()].concat());
    for (packet_bytes_max, expected) in
        [(full.len(), full.clone()), (full.len() - 1, b"\x20\x03\0\x85\0".to_vec())]
    {
        let mut world = world(true);
        let properties = with_packet_bytes_max(packet_bytes_max);
        let connection = world.connect(&Connect { properties, ..connect_v5(&too_long, true, 0) });
        assert_eq!(world.bytes(connection), expected);
    }
}

#[test]
fn a_client_that_takes_no_connack_is_told_so_as_far_as_it_takes_it() {
    // [MQTT-3.1.2-24]
    for (packet_bytes_max, expected) in [(5, b"\x20\x03\0\x83\0".to_vec()), (4, Vec::new())] {
        let mut world = world(true);
        let properties = with_packet_bytes_max(packet_bytes_max);
        let connection = world.connect(&Connect { properties, ..connect_v5("x", true, 0) });

        assert_eq!(world.bytes(connection), expected);
        assert!(world.is_closed(connection));
    }
}

fn with_packet_bytes_max(bytes: usize) -> ConnectProperties<'static> {
    ConnectProperties {
        packet_bytes_max: NonZeroU32::new(u32::try_from(bytes).unwrap()),
        ..ConnectProperties::default()
    }
}

/// Does something that is refused with an acknowledgement.
type Ask = fn(&mut World, Conn);

/// What is asked for, and the answer: its first byte, what comes before its properties, its sentence, what comes after them.
type AckRow = (&'static str, Ask, u8, &'static [u8], &'static str, &'static [u8]);

const ACKNOWLEDGEMENTS: &[AckRow] = &[
    (
        "a retained message beyond the limit, QoS 1",
        |world, connection| retain(world, connection, QoS::AtLeastOnce),
        0x40,
        b"\0\x01\x97",
        "the broker has no room to keep the message",
        b"",
    ),
    (
        "a retained message beyond the limit, QoS 2",
        |world, connection| retain(world, connection, QoS::ExactlyOnce),
        0x50,
        b"\0\x01\x97",
        "the broker has no room to keep the message",
        b"",
    ),
    (
        "PUBREL for nothing",
        |world, connection| world.ack(connection, Packet::PubRel, 7),
        0x70,
        b"\0\x07\x92",
        "no QoS 2 exchange has this Packet Identifier",
        b"",
    ),
    (
        "PUBREC for nothing",
        |world, connection| world.ack(connection, Packet::PubRec, 7),
        0x62,
        b"\0\x07\x92",
        "no QoS 2 exchange has this Packet Identifier",
        b"",
    ),
    (
        "a topic of the broker",
        |world, connection| world.publish(connection, "$SYS/x", "x", QoS::AtLeastOnce, 1),
        0x40,
        b"\0\x01\x87",
        "not authorised to publish to this topic",
        b"",
    ),
    (
        "a subscription beyond the limit",
        |world, connection| world.subscribe(connection, "another", QoS::AtMostOnce),
        0x90,
        b"\0\x09",
        "there is no room for another subscription of this session",
        b"\x97",
    ),
    (
        "a filter with too many levels",
        |world, connection| world.subscribe(connection, "/////", QoS::AtMostOnce),
        0x90,
        b"\0\x09",
        "a Topic Filter has more levels than this broker allows",
        b"\x8f",
    ),
];

fn retain(world: &mut World, connection: Conn, qos: QoS) {
    let publish = veilmq_protocol::Publish { retain: true, ..publish("t", "too much to keep", qos, 1) };
    world.send(connection, &Packet::Publish(publish));
}

/// Joins where next to nothing can be kept, and subscribes as often as is allowed.
fn join_narrow(reason_strings: bool, properties: ConnectProperties<'static>) -> (World, Conn) {
    let mut world = World::with(Settings {
        reason_strings,
        topic_levels_max: 5,
        subscriptions_per_session_max: 1,
        retained_bytes_max: 1,
        ..Settings::default()
    });
    let connection = world.connect(&Connect { properties, ..connect_v5("x", true, 0) });
    world.subscribe(connection, "first", QoS::AtMostOnce);
    world.bytes(connection);
    (world, connection)
}

#[test]
fn an_acknowledgement_explains_itself_only_to_clients_that_allow_it() {
    // [MQTT-3.1.2-29]
    for (what, ask, first, before, sentence, after) in ACKNOWLEDGEMENTS {
        let block = reason_string_block(sentence);
        let explained = packet(*first, &[*before, block.as_slice(), *after].concat());
        // Without properties their length is left out where the standard allows it: before nothing else.
        let no_properties: &[u8] = if after.is_empty() { b"" } else { b"\0" };
        let bare = packet(*first, &[*before, no_properties, *after].concat());
        let quiet = ConnectProperties { request_problem_information: false, ..ConnectProperties::default() };
        let narrow = with_packet_bytes_max(explained.len() - 1);
        let just_wide_enough = with_packet_bytes_max(explained.len());
        for (who, reason_strings, properties, expected) in [
            ("anybody", true, ConnectProperties::default(), &explained),
            ("who asks for no problem information", true, quiet, &bare),
            ("who takes no packet of that size", true, narrow, &bare),
            ("who takes it just so", true, just_wide_enough, &explained),
            ("anybody, reason strings turned off", false, ConnectProperties::default(), &bare),
        ] {
            let (mut world, connection) = join_narrow(reason_strings, properties);

            ask(&mut world, connection);

            assert_eq!(world.bytes(connection), *expected, "{what}, {who}");
            assert!(!world.is_closed(connection), "{what}, {who}");
        }
    }
}

#[test]
fn a_success_explains_nothing() {
    let (mut world, connection) = join_narrow(true, ConnectProperties::default());
    world.subscribe(connection, "first", QoS::AtLeastOnce);
    world.publish(connection, "nobody", "x", QoS::AtLeastOnce, 1);

    assert_eq!(world.bytes(connection), b"\x90\x04\0\x09\0\x01\x40\x03\0\x01\x10");
}

#[test]
fn sentences_repeat_nothing_that_a_client_sent() {
    let secret = "s3cret";
    let connect =
        Connect { username: Some(secret), password: Some(secret.as_bytes()), ..connect_v5(secret, true, 0) };
    let mut world = world(true);
    let connection = world.connect(&connect);
    world.bytes(connection);

    world.publish(connection, &format!("a/b/c/d/e/{secret}"), secret, QoS::AtMostOnce, 0);

    let bytes = world.bytes(connection);
    assert!(bytes.len() > 3 && !bytes.windows(6).any(|window| window == secret.as_bytes()), "{bytes:02x?}");
}

#[test]
fn as_many_user_properties_as_the_limit_are_taken() {
    let mut world = world(true);
    let connection = world.connect(&connect_v5("x", true, 0));
    world.bytes(connection);

    world.send_bytes(connection, b"\x30\x12\0\x01a\x0e\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b");

    assert!(!world.is_closed(connection));
    assert_eq!(world.bytes(connection), b"");
}

#[test]
fn an_error_of_the_client_ends_its_exchange_without_a_word() {
    let (mut world, connection) = join_narrow(true, ConnectProperties::default());
    let refused = Acknowledgement::new(id(7), ReasonCode::UnspecifiedError);
    world.send(connection, &Packet::PubAck(refused));

    assert!(next_frame(&world.bytes(connection), usize::MAX).unwrap().is_none());
    assert!(!world.is_closed(connection));
}
