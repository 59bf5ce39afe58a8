//! MQTT over WebSocket on the real broker: RFC 6455 byte for byte, section 6 of MQTT, and clients that are not ours.
//!
//! Every form of frame and request is in the broker's own tables; here is what needs sockets, time, or other clients.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::message::Message;
use veilmq_tests::puppet::{Carrier, Client, Connect, Library, Version};
use veilmq_tests::waiting::wait_until;
use veilmq_tests::websocket::{BINARY, CLOSE, Frame, PING, PONG, TEXT, WebSocket, frame, request};
use veilmq_tests::wire::packet;

const PINGREQ: &[u8] = &[0xc0, 0];
const PINGRESP: &[u8] = &[0xd0, 0];
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a broker whose listener speaks WebSocket, with these lines before it in the configuration.
fn start(lines: &str) -> Broker {
    Broker::start_configured(|address| {
        format!(
            "shards.count = 2\naccess.anonymous = true\n{lines}\n[[listeners]]\naddress = \"{address}\"\n\
             protocol = \"websocket\"\n"
        )
    })
}

/// A CONNECT of MQTT 5 with Clean Start and a Keep Alive of 60 seconds.
fn connect_packet(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).expect("a short Client Identifier");
    packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3c\0\0".as_slice(), &[length], client_id.as_bytes()].concat())
}

fn publish_packet(topic: &str, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(topic.len()).expect("a short Topic Name");
    packet(0x30, &[&[0, length], topic.as_bytes(), &[0], payload].concat())
}

/// Opens a WebSocket and connects a client of MQTT 5 on it.
fn client(broker: &Broker, client_id: &str) -> WebSocket {
    let mut websocket = WebSocket::open(broker.address()).expect("the broker accepts a WebSocket");
    websocket.write_all(&connect_packet(client_id)).expect("CONNECT can be sent");
    let connack = next_packet(&mut websocket);
    assert_eq!((connack[0], connack[3]), (0x20, 0), "not accepted: {connack:02x?}");
    websocket
}

/// Subscribes to one Topic Filter at QoS 0.
fn subscribe(websocket: &mut WebSocket, filter: &str) {
    let length = u8::try_from(filter.len()).expect("a short Topic Filter");
    let body = [&[0, 1, 0, 0, length], filter.as_bytes(), &[0]].concat();
    websocket.write_all(&packet(0x82, &body)).expect("SUBSCRIBE can be sent");
    assert_eq!(next_packet(websocket), [0x90, 4, 0, 1, 0, 0]);
}

/// Reads one packet, whatever frames it comes in.
fn next_packet(websocket: &mut WebSocket) -> Vec<u8> {
    let mut packet = vec![0; 2];
    websocket.read_exact(&mut packet).expect("a packet arrives");
    let mut length = usize::from(packet[1] & 0x7f);
    while packet[packet.len() - 1] & 0x80 != 0 {
        let mut byte = [0];
        websocket.read_exact(&mut byte).expect("the Remaining Length has an end");
        length |= usize::from(byte[0] & 0x7f) << (7 * (packet.len() - 1));
        packet.push(byte[0]);
    }
    let head = packet.len();
    packet.resize(head + length, 0);
    websocket.read_exact(&mut packet[head..]).expect("the packet has an end");
    packet
}

fn is_served(websocket: &mut WebSocket) -> bool {
    websocket.write_all(PINGREQ).is_ok() && next_packet(websocket) == PINGRESP
}

fn close_frame(status: u16) -> Frame {
    Frame { first: CLOSE, payload: status.to_be_bytes().to_vec() }
}

/// Expects a DISCONNECT with this Reason Code, whatever its properties, and then a Close frame with this status.
fn assert_says_farewell(frames: &[Frame], reason: u8, status: u16) {
    let [disconnect, close] = frames else { panic!("two frames: {frames:02x?}") };
    assert_eq!((disconnect.first, disconnect.payload[0], disconnect.payload[2]), (BINARY, 0xe0, reason));
    assert_eq!(*close, close_frame(status));
}

/// Sends bytes to the listener and returns everything that comes until the broker closes the connection.
fn answer(broker: &Broker, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(broker.address()).expect("the broker accepts a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
    stream.write_all(bytes).expect("the bytes can be sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the broker closes the connection");
    text
}

#[test]
fn packets_arrive_whole_in_frames_of_any_size() {
    // [MQTT-6.0.0-2], [MQTT311-6.0.0-2]
    let broker = start("");
    for size in [1, 2, 5, usize::MAX] {
        let mut websocket = WebSocket::open(broker.address()).expect("a WebSocket").in_frames_of(size);
        let subscribe = packet(0x82, b"\0\x07\0\0\x01a\0");
        let publish = publish_packet("a", b"hello");

        let all = [connect_packet("any-size"), subscribe, publish.clone(), PINGREQ.to_vec()].concat();
        websocket.write_all(&all).expect("all can be sent");

        assert_eq!(next_packet(&mut websocket)[..1], [0x20]);
        assert_eq!(next_packet(&mut websocket), [0x90, 4, 0, 7, 0, 0]);
        let mut rest = [next_packet(&mut websocket), next_packet(&mut websocket)];
        rest.sort();
        assert_eq!(rest, [publish, PINGRESP.to_vec()]);
    }
}

#[test]
fn frames_without_a_byte_in_them_make_the_broker_deaf_to_nothing() {
    // Mosquitto hears nothing of what comes after an empty frame.
    let broker = start("");
    let mut websocket = client(&broker, "empty");
    let (head, tail) = PINGREQ.split_at(1);
    let continuation = 0x80;
    for frames in [
        vec![frame(BINARY, b""), frame(BINARY, PINGREQ)],
        vec![frame(BINARY & 0x7F, b""), frame(continuation, PINGREQ)],
        vec![frame(BINARY & 0x7F, head), frame(0, b""), frame(continuation, tail)],
    ] {
        for frame in &frames {
            websocket.send_raw(frame).expect("the frame can be sent");
        }

        assert_eq!(next_packet(&mut websocket), PINGRESP, "{frames:02x?}");
    }
}

#[test]
fn the_broker_sends_packets_in_binary_frames_that_end_where_packets_end() {
    // [MQTT-6.0.0-1], [MQTT311-6.0.0-1]
    let broker = start("");
    let mut websocket = client(&broker, "binary");

    websocket.write_all(PINGREQ).expect("PINGREQ can be sent");

    assert_eq!(websocket.frame().expect("a frame"), Frame { first: BINARY, payload: PINGRESP.to_vec() });
}

#[test]
fn a_text_frame_closes_the_connection_and_disturbs_nobody() {
    // [MQTT-6.0.0-1], [MQTT311-6.0.0-1]
    let broker = start("");
    let mut bystander = client(&broker, "bystander");
    let mut websocket = client(&broker, "text");

    websocket.send_raw(&frame(TEXT, PINGREQ)).expect("the frame can be sent");

    assert_eq!(websocket.until_closed(), [close_frame(1003)]);
    assert!(is_served(&mut bystander));
    let log = broker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("client=\"text\"")).collect();
    assert_eq!(lines.len(), 2, "connected, disconnected: {lines:?}");
    assert!(lines[1].contains("reason=a text frame on a WebSocket that carries MQTT"), "{lines:?}");
    assert_eq!(broker.metric("veilmq_connections_closed_total{reason=\"protocol_error\"}"), Some(1.0));
}

#[test]
fn a_ping_is_answered_before_and_after_connack_and_is_no_packet() {
    let broker = start("");
    let mut websocket = WebSocket::open(broker.address()).expect("a WebSocket");

    websocket.send_raw(&frame(PING, b"early")).expect("a Ping can be sent");
    assert_eq!(websocket.frame().expect("a frame"), Frame { first: PONG, payload: b"early".to_vec() });
    websocket.write_all(&connect_packet("ping")).expect("CONNECT can be sent");
    assert_eq!(next_packet(&mut websocket)[0], 0x20);
    websocket.send_raw(&frame(PING, b"late")).expect("a Ping can be sent");

    assert_eq!(websocket.frame().expect("a frame"), Frame { first: PONG, payload: b"late".to_vec() });
    assert!(is_served(&mut websocket));
}

#[test]
fn a_request_that_is_refused_is_answered_in_http_and_logged_once() {
    let broker = start("");
    for (bytes, status, rule) in [
        (request("chat"), "400 Bad Request", "does not offer the WebSocket subprotocol mqtt"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426 Upgrade Required", "asks for no WebSocket"),
        ("POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "405 Method Not Allowed", "is not GET"),
        (format!("GET /{}", "x".repeat(100_000)), "431 Request Header Fields Too Large", "is too large"),
    ] {
        let answer = answer(&broker, bytes.as_bytes());

        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        let log = broker.log();
        assert_eq!(log.lines().filter(|line| line.contains(rule)).count(), 1, "{log}");
    }
    assert_eq!(broker.metric("veilmq_connections"), Some(0.0));
}

#[test]
fn a_request_that_has_no_end_is_given_the_time_of_a_connect() {
    let broker = start("limits.connect_seconds_max = 1");
    let started = Instant::now();
    let whole = request("mqtt");

    let silent = thread::scope(|scope| {
        let halves = ["", &whole[..whole.len() - 2]];
        let tasks = halves.map(|half| scope.spawn(|| answer(&broker, half.as_bytes())));
        tasks.map(|task| task.join().expect("the connection is closed"))
    });
    let opened = WebSocket::open(broker.address()).expect("a WebSocket");

    assert_eq!(silent, ["", ""], "who has sent no request gets no answer");
    assert_eq!(opened.until_closed(), [close_frame(1000)], "and who sends no CONNECT is left in order");
    assert!(started.elapsed() >= Duration::from_secs(2));
}

#[test]
fn compression_is_not_agreed_to_and_compressed_frames_are_refused() {
    // [D10] What is not decompressed cannot be a bomb.
    let broker = start("");
    let asking = request("mqtt").replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame\r\n\
         Accept-Encoding: gzip, deflate, br\r\n\r\n",
    );
    let (mut websocket, head) = WebSocket::open_with(broker.address(), &asking).unwrap();
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("extensions") && !head.contains("content-encoding"), "{head}");

    // A CONNECT as permessage-deflate would send it: the first reserved bit says so.
    websocket.send_raw(&frame(0xc2, &connect_packet("compressed"))).unwrap();

    assert_eq!(websocket.until_closed(), [close_frame(1002)]);
    assert!(is_served(&mut client(&broker, "plain")));
}

#[test]
fn a_message_above_the_limit_is_refused_by_its_header() {
    let broker = start("limits.packet_bytes_max = 4_096\nlimits.connect_packet_bytes_max = 4_096");
    let mut websocket = client(&broker, "large");

    websocket.send_raw(&frame(BINARY, &[0xc0; 4_097])[..8]).expect("the header can be sent");

    assert_eq!(websocket.until_closed(), [close_frame(1009)]);
}

#[test]
fn a_farewell_of_mqtt_comes_before_the_close_frame() {
    let broker = start("");
    let mut websocket = client(&broker, "twice");

    // A second CONNECT is a protocol error.
    websocket.write_all(&connect_packet("twice")).expect("CONNECT can be sent");

    assert_says_farewell(&websocket.until_closed(), 0x82, 1000);
}

#[test]
fn a_disconnect_and_a_close_frame_end_in_a_close_frame() {
    let broker = start("");
    for bytes in [
        frame(BINARY, &[0xe0, 0]),
        [frame(BINARY, &[0xe0, 0]), frame(CLOSE, &1000_u16.to_be_bytes())].concat(),
        frame(CLOSE, &1000_u16.to_be_bytes()),
    ] {
        let mut websocket = client(&broker, "leaving");

        websocket.send_raw(&bytes).expect("the farewell can be sent");

        assert_eq!(websocket.until_closed(), [close_frame(1000)]);
    }
}

#[test]
fn a_will_is_published_when_a_close_frame_comes_without_a_disconnect() {
    let broker = start("");
    let mut heir = client(&broker, "heir");
    subscribe(&mut heir, "will");
    let mut mortal = WebSocket::open(broker.address()).expect("a WebSocket");
    let connect = packet(0x10, b"\0\x04MQTT\x05\x06\0\x3c\0\0\x06mortal\0\0\x04will\0\x03bye");
    mortal.write_all(&connect).expect("CONNECT can be sent");
    assert_eq!(next_packet(&mut mortal)[..1], [0x20]);

    mortal.send_raw(&frame(CLOSE, b"")).expect("Close can be sent");

    assert_eq!(mortal.until_closed(), [Frame { first: CLOSE, payload: Vec::new() }]);
    assert_eq!(next_packet(&mut heir), publish_packet("will", b"bye"));
}

#[test]
fn sigterm_says_farewell_with_disconnect_and_then_close() {
    let mut broker = start("");
    let clients: Vec<WebSocket> = (0..8).map(|number| client(&broker, &format!("client-{number}"))).collect();

    let farewells =
        thread::spawn(move || clients.into_iter().map(WebSocket::until_closed).collect::<Vec<_>>());
    let status = broker.terminate(10);

    // 0x8B: Server shutting down. 1001: going away.
    for frames in farewells.join().expect("the clients are told") {
        assert_says_farewell(&frames, 0x8b, 1001);
    }
    assert!(status.success());
}

#[test]
fn a_session_is_served_wherever_its_connection_was_accepted() {
    let broker = start("");

    let mut clients: Vec<WebSocket> = (0..16).map(|number| client(&broker, &format!("c-{number}"))).collect();

    assert!(clients.iter_mut().all(is_served));
}

#[test]
fn what_came_before_a_connection_moved_to_the_shard_of_its_session_is_not_lost() {
    let broker = start("");
    for number in 0..8 {
        let mut websocket = WebSocket::open(broker.address()).expect("a WebSocket");
        let connect = frame(BINARY, &connect_packet(&format!("moved-{number}")));
        let pingreq = frame(BINARY, PINGREQ);
        let together = [connect.clone(), frame(PING, b"p"), pingreq[..3].to_vec()].concat();

        websocket.send_raw(&together).expect("frames can be sent");
        websocket.send_raw(&pingreq[3..]).expect("the rest can be sent");

        let (mut packets, mut is_answered) = (Vec::new(), false);
        while !packets.ends_with(PINGRESP) || !is_answered {
            match websocket.frame().expect("a frame arrives") {
                Frame { first: BINARY, payload } => packets.extend_from_slice(&payload),
                other => is_answered = other == Frame { first: PONG, payload: b"p".to_vec() },
            }
        }
        let mut websocket = WebSocket::open(broker.address()).expect("a WebSocket");
        websocket.send_raw(&[connect, frame(TEXT, b"")].concat()).expect("frames can be sent");
        assert_eq!(websocket.until_closed().last(), Some(&close_frame(1003)));
    }
}

#[test]
fn a_large_message_reaches_a_subscriber_that_reads_in_small_bites() {
    let broker = start("");
    let mut slow = client(&broker, "slow");
    subscribe(&mut slow, "large");
    let payload: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    let publish = publish_packet("large", &payload);
    let mut publisher = client(&broker, "publisher").in_frames_of(100_000);

    publisher.write_all(&publish).expect("PUBLISH can be sent");
    slow.send_raw(&frame(PING, b"in between")).expect("a Ping can be sent");

    let (mut received, mut is_answered) = (Vec::new(), false);
    while received.len() < publish.len() || !is_answered {
        thread::sleep(Duration::from_millis(1));
        match slow.frame().expect("a frame arrives") {
            Frame { first: BINARY, payload } => received.extend_from_slice(&payload),
            other => {
                assert_eq!(other, Frame { first: PONG, payload: b"in between".to_vec() });
                is_answered = true;
            }
        }
    }
    assert!(received == publish, "{} of {} bytes", received.len(), publish.len());
}

#[test]
fn a_subscriber_that_reads_nothing_is_closed_and_costs_the_others_nothing() {
    // [D06]
    let broker = start("limits.write_seconds_max = 1\nlimits.outbox_bytes_max = 65_536");
    let mut stuck = client(&broker, "stuck");
    subscribe(&mut stuck, "flood");
    let mut publisher = client(&broker, "publisher");
    let message = publish_packet("flood", &[7; 60_000]);

    let deadline = Instant::now() + PATIENCE;
    while broker.metric("veilmq_write_timeouts_total") != Some(1.0) {
        assert!(Instant::now() < deadline, "the stuck subscriber is closed");
        for _ in 0..50 {
            publisher.write_all(&message).expect("PUBLISH can be sent");
        }
        assert!(is_served(&mut publisher));
    }

    let dropped = broker.metric("veilmq_messages_dropped_total{reason=\"qos0_no_space\"}");
    assert!(dropped.is_some_and(|dropped| dropped > 0.0), "{dropped:?}");
}

#[test]
fn connections_above_the_limit_are_closed_and_make_room_later() {
    let broker = start("limits.connections_max = 1");
    let first = client(&broker, "first");

    let refused = WebSocket::open(broker.address()).expect_err("there is no room");
    drop(first);
    wait_until("a closed connection makes room", || broker.metric("veilmq_connections") == Some(0.0));

    assert!(matches!(refused.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{refused}");
    assert!(is_served(&mut client(&broker, "second")));
    assert_eq!(broker.metric("veilmq_connections_refused_total"), Some(1.0));
}

#[test]
fn clients_that_are_not_ours_meet_over_websocket() {
    let broker = start("");
    for (library, version) in [
        (Library::MqttJs, Version::V5),
        (Library::MqttJs, Version::V311),
        (Library::Paho, Version::V5),
        (Library::Paho, Version::V311),
    ] {
        let Some(mut reader) = Client::carried(library, version, broker.port(), &Carrier::WebSocket) else {
            return;
        };
        let Some(mut writer) = Client::carried(library, version, broker.port(), &Carrier::WebSocket) else {
            return;
        };
        reader.connect(Connect::clean("reader"));
        writer.connect(Connect::clean("writer"));

        for (qos, size) in [(0, 10), (1, 1_000), (2, 300_000)] {
            assert_eq!(reader.subscribe("ws/#", qos), qos);
            let message = Message::new("ws/a", &vec![qos; size], qos);
            writer.publish(message.clone());
            assert_eq!(reader.receive(), message, "{library:?} {version:?}");
        }
        reader.disconnect();
        writer.disconnect();
    }
}
