//! What a broker in Mosquitto's place writes in its log: the lines that operators' rules look for, held against Mosquitto's own.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use nix::sys::signal::Signal;
use veilmq_tests::drop_in::{Place, connect, heard, v3, v5};
use veilmq_tests::tools::{built_program, require_tool};
use veilmq_tests::waiting::{wait_for_text, wait_until_or};
use veilmq_tests::wire::packet;

const DISCONNECT: &[u8] = &[0xe0, 0];

/// The lines on connections without their time, with `PEER` for an address on this machine.
fn lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let about_connections = |line: &str| {
        let (time, line) = line.split_once(": ")?;
        let is_one = line.starts_with("New ") || line.starts_with("Client ");
        (is_one && !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit())).then(|| named(line))
    };
    text.lines().filter_map(about_connections).collect()
}

fn named(line: &str) -> String {
    match line.split_once("127.0.0.1:") {
        Some((before, after)) => {
            format!("{before}PEER{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line.to_owned(),
    }
}

fn wait_for(log: &Path, line: &str) {
    let is_there = || lines(log).iter().any(|written| written == line);
    wait_until_or(is_there, || format!("{line:?} is not in {:?}", fs::read_to_string(log)));
}

/// What clients do, one after the other, each waiting for the line that its end has; returns all lines on connections.
fn story(program: &Path) -> Vec<String> {
    let place = Place::new();
    let broker = place.start(program, "allow_anonymous true\nmax_packet_size 2000000\n");
    let log = place.path("mosquitto.log");
    let open = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(broker.address).unwrap();
        socket.write_all(bytes).unwrap();
        assert!(heard(&mut socket).starts_with("20"));
        socket
    };
    let mut polite = open(&connect(4, "polite", true, 30, &[]));
    polite.write_all(DISCONNECT).unwrap();
    wait_for(&log, "Client polite disconnected.");
    let abrupt = open(&v5("abrupt"));
    abrupt.shutdown(Shutdown::Both).unwrap();
    wait_for(&log, "Client abrupt closed its connection.");
    let _first = open(&v3("twin", true));
    let mut second = open(&v3("twin", false));
    second.write_all(DISCONNECT).unwrap();
    wait_for(&log, "Client twin disconnected.");
    let mut named = connect(4, "named", true, 60, &[]);
    named[9] |= 0x80;
    named.extend(b"\0\x03bob");
    named[1] += 5;
    open(&named).write_all(DISCONNECT).unwrap();
    wait_for(&log, "Client named disconnected.");
    // Whoever started it has looked whether it listens.
    lines(&log).into_iter().skip_while(|line| !line.contains(" as polite ")).collect()
}

#[test]
fn clients_that_come_and_go_leave_the_lines_that_they_leave_in_mosquittos_log() {
    let ours = story(&built_program("veilmq"));

    let connected = |client: &str| format!("New client connected from PEER as {client}.");
    let new = "New connection from PEER on port PORT.";
    let port = |line: &String| match line.split_once(" on port ") {
        Some((before, _)) => format!("{before} on port PORT."),
        None => line.clone(),
    };
    let ours: Vec<String> = ours.iter().map(port).collect();
    assert_eq!(
        ours,
        [
            connected("polite (p2, c1, k30)").as_str(),
            "Client polite disconnected.",
            new,
            connected("abrupt (p5, c1, k60)").as_str(),
            "Client abrupt closed its connection.",
            new,
            connected("twin (p2, c1, k60)").as_str(),
            new,
            "Client twin already connected, closing old connection.",
            connected("twin (p2, c0, k60)").as_str(),
            "Client twin disconnected.",
            new,
            connected("named (p2, c1, k60, u'bob')").as_str(),
            "Client named disconnected.",
        ]
    );
    let Some(mosquitto) = require_tool("mosquitto") else { return };
    let theirs: Vec<String> = story(&mosquitto).iter().map(port).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn who_is_refused_or_cut_off_is_named_with_its_address() {
    let place = Place::new();
    let broker = place.start(&built_program("veilmq"), "allow_anonymous false\n");
    let log = place.path("mosquitto.log");

    let refused = broker.answers(&[v3("stranger", true)]);

    assert!(refused[0].starts_with("20020005"), "{refused:?}");
    wait_for(&log, "Client stranger [PEER] disconnected: not authorised.");
    let _ = broker.answers(&[packet(0xc0, &[])]);
    wait_for(&log, "Client <unknown> [PEER] disconnected: protocol error. (PINGREQ before CONNECT)");
    broker.signal(Signal::SIGHUP);
    wait_for_text(&log, ": Reloading config.");
    assert!(fs::read_to_string(&log).unwrap().contains("mosquitto version 2.1.2 running"));
    let _ = broker.terminate();
    wait_for_text(&log, "mosquitto version 2.1.2 terminating");
}

#[test]
fn what_a_proxy_says_is_said_in_mosquittos_words() {
    let place = Place::new();
    let proxied = "enable_proxy_protocol 2\nproxy_protocol_v2_require_tls true\nallow_anonymous true\n";
    let broker = place.start(&built_program("veilmq"), proxied);
    let log = place.path("mosquitto.log");
    let head = |family: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        [b"\r\n\r\n\0\r\nQUIT\n\x21".as_slice(), &[family, 0, length], content].concat()
    };
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x30, 0x39, 7, 0x5b]].concat();
    let tls = b"\x20\0\x14\x01\0\0\0\0\x21\0\x07TLSv1.3\x23\0\x02AB";

    let let_in = broker.answers(&[[head(0x21, &[&v6[..], tls].concat()), v3("six", true)].concat()]);
    let refused = broker.answers(&[head(0x21, &v6)]);
    let corrupt = broker.answers(&[head(0x11, b"short")]);

    assert_eq!((&*let_in[0], &*refused[0], &*corrupt[0]), ("20020000", "closed", "closed"));
    wait_for_text(&log, ": Connection from 2001:db8::7:12345 negotiated TLSv1.3 cipher AB");
    wait_for_text(&log, ": New client connected from 2001:db8::7:12345 as six (p2, c1, k60).");
    wait_for_text(&log, ": Connection from 2001:db8::7:12345 rejected, client did not connect using TLS.");
    wait_for_text(&log, ": Connection rejected, corrupt PROXY header.");
}

#[test]
fn lines_go_where_the_file_says_with_the_time_that_it_asks_for() {
    let place = Place::new();
    let log = place.path("other.log");
    let broker = place.start(
        &built_program("veilmq"),
        &format!(
            "allow_anonymous true\nlog_dest file {}\nlog_timestamp_format %Y-%m-%dT%H:%M:%S\n",
            log.display()
        ),
    );

    let _ = broker.answers(&[connect(4, "slow", true, 1, &[])]);

    wait_for_text(&log, "Client slow closed its connection.");
    let text = fs::read_to_string(&log).unwrap();
    let line = text.lines().find(|line| line.contains(" as slow ")).unwrap();
    let (time, rest) = line.split_once(": ").unwrap();
    assert_eq!((time.len(), &time[4..5], &time[10..11]), (19, "-", "T"), "{line}");
    assert!(rest.starts_with("New client connected from 127.0.0.1:"), "{line}");
    let mut silent = TcpStream::connect(broker.address).unwrap();
    silent.write_all(&connect(4, "silent", true, 1, &[])).unwrap();
    assert_eq!(heard(&mut silent), "20020000");
    wait_for_text(&log, "Client silent has exceeded timeout, disconnecting.");
}
