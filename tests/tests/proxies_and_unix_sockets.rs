//! Clients that come by a proxy or by a Unix socket, on the real broker.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::waiting::wait_until_or;
use veilmq_tests::wire::packet;

const PATIENCE: Duration = Duration::from_secs(15);
/// CONNACK of MQTT 3.1.1: accepted, no session present.
const ACCEPTED: &[u8] = &[0x20, 2, 0, 0];
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 1883\r\n";

/// A CONNECT of MQTT 3.1.1 with a clean session.
fn connect_packet(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).unwrap();
    packet(0x10, &[b"\0\x04MQTT\x04\x02\0\x3c\0".as_slice(), &[length], client_id.as_bytes()].concat())
}

/// Starts a broker that takes PROXY headers from `trusted`.
fn behind_a_proxy(trusted: &str, lines: &str) -> Broker {
    Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 2\n{lines}\n[[listeners]]\naddress = \"{address}\"\n\
             proxy_protocol.trusted = [\"{trusted}\"]\n"
        )
    })
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and returns what comes until the broker closes the connection.
fn answer(broker: &Broker, bytes: &[u8]) -> Vec<u8> {
    let mut stream = open(broker.address());
    // A connection that is not taken at all may be gone already.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn next(stream: &mut impl Read, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).expect("bytes arrive");
    read
}

fn line_with<'a>(log: &'a str, word: &str) -> &'a str {
    log.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no {word} in {log}"))
}

fn wait_for_log(broker: &Broker, text: &str) {
    wait_until_or(|| broker.log().contains(text), || format!("no {text:?} in {}", broker.log()));
}

#[test]
fn the_log_knows_a_client_behind_a_proxy_by_its_own_address() {
    let broker = behind_a_proxy("127.0.0.0/8", "");
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x30\x39\x07\x5b";
    for (number, header) in [HEADER, version_2.as_slice()].into_iter().enumerate() {
        for cut in [0, 5, header.len()] {
            let client_id = format!("client-{number}-{cut}");
            let bytes = [header, &connect_packet(&client_id)].concat();
            let mut stream = open(broker.address());

            stream.write_all(&bytes[..cut]).unwrap();
            thread::sleep(Duration::from_millis(20));
            stream.write_all(&bytes[cut..]).unwrap();

            assert_eq!(next(&mut stream, 4), ACCEPTED, "{header:02x?} cut at {cut}");
            let log = broker.log();
            let line = line_with(&log, &client_id);
            assert!(line.contains("peer=192.0.2.7:12345"), "{line}");
        }
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_is_known_by_its_own_address() {
    let broker = behind_a_proxy("127.0.0.1", "");
    let mut stream = open(broker.address());

    stream.write_all(&[b"PROXY UNKNOWN\r\n".as_slice(), &connect_packet("itself")].concat()).unwrap();

    assert_eq!(next(&mut stream, 4), ACCEPTED);
    let log = broker.log();
    assert!(line_with(&log, "itself").contains("peer=127.0.0.1:"), "{log}");
}

#[test]
fn a_proxy_that_only_asks_whether_the_broker_is_there_is_let_go_soon() {
    let broker = behind_a_proxy("127.0.0.1", "");
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let started = Instant::now();

    let mut quiet = open(broker.address());
    quiet.write_all(local).unwrap();
    let mut speaks = open(broker.address());
    speaks.write_all(local).unwrap();
    speaks.write_all(&connect_packet("speaks")).unwrap();
    assert_eq!(next(&mut speaks, 4), ACCEPTED);
    assert_eq!(quiet.read(&mut [0]).unwrap(), 0);

    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&started.elapsed()));
    wait_for_log(&broker, "a proxy that speaks for itself and says nothing");
    speaks.write_all(&packet(0xc0, &[])).unwrap();
    assert_eq!(next(&mut speaks, 2), [0xd0, 0], "who has said something stays");
}

#[test]
fn a_client_may_come_to_its_proxy_by_a_unix_socket() {
    let broker = behind_a_proxy("127.0.0.1", "");
    for (number, content) in
        [[&b"/run/app.sock"[..], &[0; 203]].concat(), b"/run/app.sock".to_vec()].iter().enumerate()
    {
        let head = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0".as_slice(), &[u8::try_from(content.len()).unwrap()]];
        let client_id = format!("unix-{number}");
        let mut stream = open(broker.address());

        stream
            .write_all(&[&head.concat(), content.as_slice(), &connect_packet(&client_id)].concat())
            .unwrap();

        assert_eq!(next(&mut stream, 4), ACCEPTED);
        let log = broker.log();
        assert!(line_with(&log, &client_id).contains("peer=unix:/run/app.sock"), "{log}");
    }
}

#[test]
fn a_client_without_a_good_header_is_refused() {
    // [A14]
    let broker = behind_a_proxy("127.0.0.0/8", "");
    for (bytes, rule) in [
        (connect_packet("direct"), "no PROXY header, and the listener expects one"),
        (b"PROXY TCP4 192.0.2.7\r\n".to_vec(), "a malformed PROXY header"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), "a PROXY header that is too long"),
    ] {
        assert!(answer(&broker, &bytes).is_empty());
        wait_for_log(&broker, rule);
    }
    assert!(!broker.log().contains("client=\"direct\""));
}

#[test]
fn a_header_that_does_not_end_has_the_time_of_a_connect() {
    // [A14]
    let broker = behind_a_proxy("127.0.0.0/8", "limits.connect_seconds_max = 1");
    for bytes in [&HEADER[..20], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0", b""] {
        let started = Instant::now();

        assert!(answer(&broker, bytes).is_empty());

        assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    }
}

#[test]
fn only_proxies_may_connect_where_headers_are_taken() {
    // [A14]
    let broker = behind_a_proxy("10.0.0.0/8", "");

    assert!(answer(&broker, &[HEADER, &connect_packet("spoofed")].concat()).is_empty());

    wait_for_log(&broker, "the peer is not in listeners[].proxy_protocol.trusted");
    assert!(!broker.log().contains("192.0.2.7"), "what a stranger says counts for nothing");
}

#[test]
fn a_header_comes_before_tls() {
    let authority = Authority::new();
    let certificate = authority.issue_for_this_machine();
    let broker = Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n\
             proxy_protocol.trusted = [\"127.0.0.1\"]\n{}",
            certificate.on_listener()
        )
    });
    let mut socket = open(broker.address());
    socket.write_all(HEADER).unwrap();

    let mut stream = TlsClient::new(&authority, None).on(socket).unwrap();
    stream.write_all(&connect_packet("inside")).unwrap();

    assert_eq!(next(&mut stream, 4), ACCEPTED);
    let log = broker.log();
    assert!(line_with(&log, "client=\"inside\"").contains("peer=192.0.2.7:12345"), "{log}");
}

#[test]
fn clients_meet_over_a_unix_socket_that_is_gone_when_the_broker_is() {
    let mut broker = Broker::configured(|_| "access.anonymous = true\nshards.count = 2\n".to_owned());
    let path = broker.directory().join("mqtt.sock");
    let file = broker.directory().join("veilmq.toml");
    let listener = format!("[[listeners]]\naddress = \"unix:{}\"\nmode = \"0600\"\n", path.display());
    fs::write(&file, fs::read_to_string(&file).unwrap() + &listener).unwrap();
    broker.restart();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // A killed broker leaves its socket behind, and the next one takes its place.
    broker.kill();
    assert!(path.exists());
    broker.restart();
    let mut streams: Vec<_> = (0..8)
        .map(|number| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&connect_packet(&format!("unix-{number}"))).unwrap();
            assert_eq!(next(&mut stream, 4), ACCEPTED);
            stream
        })
        .collect();
    streams[0].write_all(&packet(0x82, b"\0\x01\0\x01a\0")).unwrap();
    assert_eq!(next(&mut streams[0], 5), [0x90, 3, 0, 1, 0]);
    streams[7].write_all(&packet(0x30, b"\0\x01ahello")).unwrap();

    assert_eq!(next(&mut streams[0], 10), b"\x30\x08\0\x01ahello");
    let log = broker.log();
    let peer =
        format!("peer=unix:{} (uid {})", path.display(), fs::metadata(broker.directory()).unwrap().uid());
    assert!(line_with(&log, "client=\"unix-0\"").contains(&peer), "{log}");
    assert!(broker.get("/readyz").body.contains(&format!("\"unix:{}\"", path.display())));
    drop(streams);
    assert!(broker.terminate(10).success());
    assert!(!path.exists());
}
