//! The bytes that come out of a WebSocket for the bytes that go in, however they are cut. Frames are written by hand here.

use proptest::prelude::*;

use super::*;

const MESSAGE_BYTES_MAX: usize = 1_000;
const MASK: [u8; 4] = [1, 2, 0x80, 0xFF];

/// What a client sent, what MQTT saw of it, how it ended, and what was answered.
struct Outcome {
    packets: Vec<u8>,
    end: Option<End>,
    answer: Vec<u8>,
}

fn written(websocket: &mut WebSocket) -> Vec<u8> {
    let outbox = Outbox::default();
    let mut all = Vec::new();
    while websocket.has_unsent(&outbox) {
        let mut slices = Vec::new();
        websocket.slices(&outbox, &mut slices, 64);
        // One byte at a time, so that every way to stop is tried.
        all.push(*slices.iter().find_map(|slice| slice.first()).unwrap());
        assert_eq!(websocket.advance(1), 0);
    }
    all
}

fn feed(websocket: &mut WebSocket, bytes: &[u8], step: usize) -> Vec<u8> {
    let mut packets = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let range = websocket.receive(&mut piece);
        packets.extend_from_slice(&piece[range]);
    }
    packets
}

fn opened() -> WebSocket {
    let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX, None);
    assert_eq!(feed(&mut websocket, request("mqtt").as_bytes(), usize::MAX), b"");
    assert!(written(&mut websocket).starts_with(b"HTTP/1.1 101 "));
    websocket
}

/// Feeds frames to an open WebSocket in steps of this many bytes.
fn outcome(frames: &[u8], step: usize) -> Outcome {
    let mut websocket = opened();
    let packets = feed(&mut websocket, frames, step);
    Outcome { packets, end: websocket.end(), answer: written(&mut websocket) }
}

fn request(subprotocols: &str) -> String {
    format!(
        "GET /any?path HTTP/1.1\r\nHost: broker\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nOrigin: http://a\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: {subprotocols}\r\n\r\n"
    )
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[test]
fn a_request_that_offers_mqtt_is_granted_with_that_subprotocol() {
    for (offered, chosen) in [
        ("mqtt", "mqtt"),
        ("chat, mqtt", "mqtt"),
        ("mqttv3.1,mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
        ("chat\r\nSec-WebSocket-Protocol: mqtt", "mqtt"),
    ] {
        // [MQTT-6.0.0-3], [MQTT-6.0.0-4], [MQTT311-6.0.0-3], [MQTT311-6.0.0-4]
        let expected = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
        );
        for step in [1, 7, usize::MAX] {
            let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX, None);
            let sent = [request(offered).into_bytes(), frame(0x82, b"ahead")].concat();

            assert_eq!(feed(&mut websocket, &sent, step), b"ahead", "{offered}");

            assert_eq!(String::from_utf8(written(&mut websocket)).unwrap(), expected);
        }
    }
}

#[test]
fn only_pages_of_the_origins_named_may_connect() {
    let allowed: Arc<[String]> = Arc::from(["http://b".to_owned(), "http://a".to_owned()]);
    let from_nowhere = request("mqtt").replace("Origin: http://a\r\n", "");
    for (sent, status) in [
        (request("mqtt"), "101 Switching Protocols"),
        (request("mqtt").replace("http://a", "http://a.evil"), "403 Forbidden"),
        (request("mqtt").replace("http://a", "HTTP://A"), "403 Forbidden"),
        (from_nowhere, "403 Forbidden"),
    ] {
        let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX, Some(Arc::clone(&allowed)));

        feed(&mut websocket, sent.as_bytes(), usize::MAX);

        let answer = String::from_utf8(written(&mut websocket)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{sent}: {answer}");
    }
}

// [A15]
#[test]
fn a_request_that_is_no_good_gets_an_answer_in_http_and_nothing_else() {
    let good = request("mqtt");
    let without = |line: &str| good.replace(line, "X-Other: 1");
    for (bytes, status, header) in [
        ("\u{10}\u{e}\0\u{4}MQTT\u{5}\u{2}\0\0\0\0\u{1}c".to_owned(), "400 Bad Request", ""),
        ("hello\r\n\r\n".to_owned(), "400 Bad Request", ""),
        (good.replace("GET", "POST"), "405 Method Not Allowed", "Allow: GET"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "505 HTTP Version Not Supported", ""),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426 Upgrade Required", "Upgrade: websocket"),
        (without("Connection: keep-alive, Upgrade"), "426 Upgrade Required", "Upgrade: websocket"),
        (good.replace("Version: 13", "Version: 8"), "426 Upgrade Required", "Sec-WebSocket-Version: 13"),
        (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), "400 Bad Request", ""),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400 Bad Request", ""),
        (
            good.replace("Host: broker", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nHost: broker"),
            "400 Bad Request",
            "",
        ),
        (without("Host: broker"), "400 Bad Request", ""),
        (good.replace("Host: broker", "Host: broker\r\nHost: other"), "400 Bad Request", ""),
        (good.replace("\r\n", "\n"), "400 Bad Request", ""),
        (good.replace("Host: broker\r\n", "Host: broker\n"), "400 Bad Request", ""),
        (without("Sec-WebSocket-Protocol: mqtt"), "400 Bad Request", ""),
        (request("mqtt5, chat"), "400 Bad Request", ""),
        (request(&"x".repeat(9_000)), "431 Request Header Fields Too Large", ""),
        (
            good.replace("Host: broker\r\n", &"a: b\r\n".repeat(125)),
            "431 Request Header Fields Too Large",
            "",
        ),
    ] {
        for step in [1, 4_096, usize::MAX] {
            let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX, None);

            assert_eq!(feed(&mut websocket, bytes.as_bytes(), step), b"");

            assert!(matches!(websocket.end(), Some(End::Violated(_))), "{bytes:?}");
            websocket.close(CloseCode::Normal);
            let answer = String::from_utf8(written(&mut websocket)).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{bytes:?}: {head}");
            assert!(header.is_empty() || head.lines().any(|line| line == header), "{head}");
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
        }
    }
}

#[test]
fn the_head_of_a_request_is_kept_up_to_its_limit() {
    let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX, None);
    let endless = b"GET / HTTP/1.1\r\n".iter().copied().chain(std::iter::repeat_n(b'a', 1_000_000));

    feed(&mut websocket, &endless.collect::<Vec<u8>>(), 3_000);

    assert!(websocket.request.is_some_and(|head| head.head.len() <= HEAD_BYTES_MAX));
}

#[test]
fn frames_and_packets_need_not_line_up_and_control_frames_may_come_between() {
    // [MQTT-6.0.0-2], [MQTT311-6.0.0-2]
    let ping = frame(0x89, b"are you there");
    let pong = [&[0x8A, 13][..], b"are you there"].concat();
    let long: Vec<u8> = (0..900_u16).map(|number| number as u8).collect();
    for (frames, packets, answer) in [
        (vec![frame(0x82, b"ab"), frame(0x82, b"cde")], b"abcde".to_vec(), vec![]),
        (vec![frame(0x02, b"ab"), frame(0x00, b""), frame(0x80, b"cde")], b"abcde".to_vec(), vec![]),
        (vec![frame(0x82, b""), frame(0x02, b"a"), ping.clone(), frame(0x80, b"b")], b"ab".to_vec(), pong),
        (vec![frame(0x89, b"")], vec![], vec![0x8A, 0]),
        (vec![frame(0x8A, b"unasked"), frame(0x82, &long)], long.clone(), vec![]),
        (vec![frame(0x89, b"1"), frame(0x89, b"2")], vec![], vec![0x8A, 1, b'2']),
    ] {
        let frames = frames.concat();
        for step in 1..=frames.len() {
            let outcome = outcome(&frames, step);

            assert_eq!(outcome.packets, packets);
            assert_eq!(outcome.end, None);
            assert_eq!(outcome.answer, answer);
        }
    }
}

// [A15]
#[test]
fn what_the_rules_forbid_is_answered_with_a_close_frame_and_nothing_after_it_is_taken() {
    let unmasked = [0x82, 1, b'x'].to_vec();
    let with_length = |first: u8, length: &[u8]| [&[first][..], length, &MASK, &[0; 300]].concat();
    for (what, bytes, status) in [
        // [MQTT-6.0.0-1], [MQTT311-6.0.0-1]
        ("a text frame", frame(0x81, b"text"), 1003),
        ("an empty text frame", frame(0x01, b""), 1003),
        ("no mask", unmasked, 1002),
        ("a reserved bit", frame(0xC2, b"x"), 1002),
        ("a reserved data opcode", frame(0x83, b"x"), 1002),
        ("a reserved control opcode", frame(0x8B, b"x"), 1002),
        ("a fragmented Ping", frame(0x09, b"x"), 1002),
        ("a Ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a message inside another", [frame(0x02, b""), frame(0x82, b"x")].concat(), 1002),
        ("a length that is not in its shortest form", with_length(0x82, &[0xFE, 0, 5]), 1002),
        ("a message above the limit", frame(0x82, &[0; 1_001]), 1009),
        ("a length of 2^64 - 1", with_length(0x82, &[0xFF; 9]), 1009),
        ("fragments above the limit", [frame(0x02, b""), frame(0x80, &[0; 1_001])].concat(), 1009),
        ("a Close frame of one byte", frame(0x88, b"x"), 1002),
        ("a Close frame with a status for nobody", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("a reason that is not UTF-8", frame(0x88, &[0x03, 0xE8, 0xFF]), 1007),
    ] {
        let sent = [frame(0x82, b"before"), bytes, frame(0x82, b"after")].concat();
        for step in [1, 2, 3, 5, sent.len()] {
            let outcome = outcome(&sent, step);

            assert_eq!(outcome.packets, b"before", "{what}");
            assert!(matches!(outcome.end, Some(End::Violated(_))), "{what}");
            let [high, low] = u16::to_be_bytes(status);
            assert_eq!(outcome.answer, [0x88, 2, high, low], "{what}");
        }
    }
}

#[test]
fn a_close_frame_is_answered_with_its_status() {
    for (sent, answer) in [
        (frame(0x88, b""), vec![0x88, 0]),
        (frame(0x88, b"\x03\xE8bye"), vec![0x88, 2, 0x03, 0xE8]),
        (frame(0x88, &4_000_u16.to_be_bytes()), vec![0x88, 2, 0x0F, 0xA0]),
    ] {
        let mut websocket = opened();

        feed(&mut websocket, &[sent, frame(0x82, b"after")].concat(), 1);
        websocket.close(CloseCode::Normal);

        assert_eq!(websocket.end(), Some(End::Closed));
        assert_eq!(written(&mut websocket), answer);
        websocket.close(CloseCode::Normal);
        assert_eq!(written(&mut websocket), b"", "one Close frame is enough");
    }
}

#[test]
fn pings_of_a_client_that_reads_nothing_take_no_memory() {
    let mut websocket = opened();
    let pings = frame(0x89, &[7; 125]).repeat(1_000);
    let outbox = Outbox::default();

    for _ in 0..100 {
        feed(&mut websocket, &pings, 4_096);
        websocket.slices(&outbox, &mut Vec::new(), 64);
    }

    assert!(written(&mut websocket).len() <= 2 * 127);
}

fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let first = prop::sample::select(vec![0x82_u8, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0x81]);
    let frames =
        prop::collection::vec((first, payload).prop_map(|(first, payload)| frame(first, &payload)), 0..8);
    let junk = prop::collection::vec(any::<u8>(), 0..40);
    (frames, junk).prop_map(|(frames, junk)| [frames.concat(), junk].concat())
}

proptest! {
    #[test]
    fn the_way_bytes_are_cut_changes_nothing(bytes in any_frames(), step in 1_usize..200) {
        let (cut, whole) = (outcome(&bytes, step), outcome(&bytes, usize::MAX));

        prop_assert_eq!(cut.packets, whole.packets);
        prop_assert_eq!(cut.end, whole.end);
        prop_assert_eq!(cut.answer, whole.answer);
    }

    #[test]
    fn no_bytes_in_place_of_a_request_make_it_panic(
        begin in 0_usize..200,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        step in 1_usize..50,
    ) {
        let mixed = [&request("mqtt").as_bytes()[..begin], &bytes].concat();

        prop_assert_eq!(feed(&mut WebSocket::new(MESSAGE_BYTES_MAX, None), &mixed, step), b"");
    }
}
