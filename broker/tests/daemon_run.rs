//! The running broker against clients that mean no good, or no well: a process, sockets, bytes.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_process;
mod daemon_support;

use std::io::{PipeReader, Read, Write, pipe};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use daemon_process::{Broker, PATIENCE, connect, packet, publish, read_to_end, subscribe};
use daemon_support::authority;
use nix::sys::signal::Signal;

const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];
const MEGABYTE: f64 = 1024.0 * 1024.0;

fn is_served(client: &mut TcpStream) -> bool {
    client.write_all(&PINGREQ).is_ok() && packet(client).is_ok_and(|answer| answer == PINGRESP)
}

/// Waits for the end of the connection, and returns the packet type and the Reason Code of the DISCONNECT before it.
fn farewell(client: &mut TcpStream) -> (u8, u8) {
    let bytes = read_to_end(client);
    (bytes[0], bytes[2])
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn clients_that_never_finish_their_connect_are_closed_and_cost_nothing() {
    // [A01]
    let broker = Broker::start("[limits]\nconnect_seconds_max = 1");
    let started = Instant::now();
    let mut silent: Vec<TcpStream> = (0..100).map(|_| broker.socket()).collect();
    for (number, stream) in silent.iter_mut().enumerate() {
        stream.write_all(&connect("slow")[..number % 4]).unwrap();
    }

    for stream in &mut silent {
        assert_eq!(read_to_end(stream), b"");
    }

    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(broker.metric("process_cpu_seconds_total") < 1.0);
    assert_eq!(broker.metric("veilmq_connections"), 0.0);
    assert!(is_served(&mut broker.client("good")));
}

#[test]
fn a_first_packet_that_is_no_connect_is_refused_by_its_first_bytes() {
    // [A02]
    let broker = Broker::start("");
    let before = broker.metric("process_resident_memory_bytes");

    for first_byte in [0x30, 0x82, 0xC0, 0xE0, 0xF0, 0x00, 0x11] {
        for _ in 0..20 {
            let mut stream = broker.socket();
            stream.write_all(&[first_byte, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap();

            assert_eq!(read_to_end(&mut stream), b"", "{first_byte:#x}");
        }
    }

    assert!(broker.metric("process_resident_memory_bytes") - before < 16.0 * MEGABYTE);
    assert!(is_served(&mut broker.client("good")));
}

#[test]
fn a_connect_above_its_limit_is_refused_by_its_length() {
    // [A02]
    let broker = Broker::start("");
    let mut stream = broker.socket();

    stream.write_all(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]).unwrap();
    read_to_end(&mut stream);

    assert!(is_served(&mut broker.client("good")));
}

#[test]
fn who_takes_all_connections_takes_none_of_the_files_that_the_broker_needs() {
    // [A18]
    let broker = Broker::start_with_open_files(100, "");
    let mut first = broker.client("first");
    let crowd: Vec<TcpStream> = (0..150).map(|_| broker.socket()).collect();

    wait_until("connections are refused", || broker.metric("veilmq_connections_refused_total") > 0.0);
    broker.signal(Signal::SIGHUP);

    broker.wait_for_log("SIGHUP: the configuration");
    assert_eq!(broker.metric("veilmq_config_last_reload_successful"), 1.0);
    assert!(is_served(&mut first));
    assert_eq!(broker.metric("veilmq_accept_errors_total"), 0.0);
    assert!(broker.get("/livez").starts_with("HTTP/1.0 200"));
    drop(crowd);
    assert!(is_served(&mut broker.client("second")));
}

#[test]
fn a_broker_out_of_file_descriptors_serves_whom_it_has_and_recovers() {
    // [A18]
    let broker = Broker::start("");
    let mut first = broker.client("first");
    broker.allow_open_files(64);
    let mut crowd: Vec<TcpStream> = (0..100).map(|_| broker.socket()).collect();

    let complaint = broker.wait_for_log("connections are not accepted");
    broker.signal(Signal::SIGHUP);

    assert!(complaint.contains("Too many open files"), "{complaint}");
    assert!(is_served(&mut first));
    crowd.clear();
    assert!(is_served(&mut broker.client("second")));
    assert!(broker.metric("veilmq_accept_errors_total") > 0.0);
    assert!(broker.metric("process_cpu_seconds_total") < 2.0);
    assert!(broker.get("/readyz").starts_with("HTTP/1.0 200"));
}

#[test]
fn a_connection_above_the_limit_is_closed_and_counted_and_makes_room_later() {
    let broker = Broker::start("[limits]\nconnections_max = 2");
    let (mut first, second) = (broker.client("first"), broker.client("second"));

    let mut third = broker.socket();
    assert_eq!(read_to_end(&mut third), b"");
    drop(second);
    wait_until("a closed connection makes room", || broker.metric("veilmq_connections") == 1.0);

    assert!(is_served(&mut broker.client("fourth")));
    assert!(is_served(&mut first));
    assert_eq!(broker.metric("veilmq_connections_refused_total"), 1.0);
}

#[test]
fn a_subscriber_that_reads_nothing_is_closed_and_costs_the_others_nothing() {
    // [D06]
    const MESSAGES: usize = 6_000;
    const PAYLOAD: usize = 16_000;
    const AHEAD: usize = 200;
    let limits =
        "[limits]\nwrite_seconds_max = 2\noutbox_bytes_max = 1048576\nsession_queue_bytes_max = 16777216";
    let broker = Broker::start(limits);
    let before = broker.metric("process_resident_memory_bytes");
    let mut stuck = broker.client("stuck");
    stuck.write_all(&subscribe("flood")).unwrap();
    let mut good = broker.client("good");
    good.write_all(&subscribe("flood")).unwrap();
    packet(&mut stuck).unwrap();
    packet(&mut good).unwrap();

    // The publisher never runs ahead of the good subscriber by more than its queue holds: what it misses would be lost.
    let mut publisher = broker.client("publisher");
    let message = publish("flood", &[7; PAYLOAD]);
    let length = message.len();
    let (delivered, deliveries) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; length];
        for _ in 0..MESSAGES {
            good.read_exact(&mut bytes).expect("the good subscriber is served");
            let _ = delivered.send(());
        }
    });
    for number in 0..MESSAGES {
        publisher.write_all(&message).unwrap();
        if number >= AHEAD {
            deliveries.recv().expect("the good subscriber is served");
        }
    }
    reader.join().unwrap();

    let grown = broker.metric("process_resident_memory_bytes") - before;
    assert!(grown < 64.0 * MEGABYTE, "{grown}");
    wait_until("the stuck subscriber is closed", || broker.metric("veilmq_write_timeouts_total") == 1.0);
    assert_eq!(broker.metric("veilmq_connections_closed_total{reason=\"write_timeout\"}"), 1.0);
    assert!(broker.metric("veilmq_messages_dropped_total{reason=\"qos0_no_space\"}") > 0.0);
    assert!(is_served(&mut publisher));
    read_to_end(&mut stuck);
}

#[test]
fn a_session_is_served_wherever_its_connection_was_accepted() {
    let broker = Broker::start("");

    let mut clients: Vec<TcpStream> = (0..32).map(|n| broker.client(&format!("client-{n}"))).collect();

    assert!(clients.iter_mut().all(is_served));
    assert_eq!(broker.metric("veilmq_sessions{state=\"connected\"}"), 32.0);
}

#[test]
fn a_farewell_reaches_a_client_that_is_still_sending() {
    let broker = Broker::start("");
    let mut client = broker.client("twice");

    // A second CONNECT is a protocol error; what follows it is never read by the core.
    let mut bytes = connect("twice");
    bytes.resize(200_000, 0xC0);
    client.write_all(&bytes).unwrap();

    assert_eq!(farewell(&mut client), (0xE0, 0x82));
}

#[test]
fn an_authority_added_on_the_command_line_is_trusted_while_the_broker_runs() {
    let broker = Broker::start("");
    let file = broker.data.path().join("ca.vmc");
    std::fs::write(&file, authority(1).as_bytes()).unwrap();
    let trust = |arguments: &[&str]| {
        let command = std::process::Command::new(env!("CARGO_BIN_EXE_veilmq"))
            .arg("trust")
            .args(arguments)
            .arg("--data-dir")
            .arg(broker.data.path())
            .output();
        assert!(command.unwrap().status.success());
    };

    trust(&["add", file.to_str().unwrap()]);
    let added = broker.wait_for_log("authority is trusted");
    trust(&["remove", &authority(1).kid().to_string()]);
    let removed = broker.wait_for_log("authority is no longer trusted");

    assert!(added.contains("authority-1") && removed.contains("authority-1"), "{added} {removed}");
}

#[test]
fn the_broker_leaves_no_core_dump_with_keys_in_it() {
    let limits = Broker::start("").limits();

    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();

    let values: Vec<&str> = core.split_whitespace().skip(4).collect();
    assert_eq!(values, ["0", "0", "bytes"], "{core}");
}

#[test]
fn a_json_log_has_one_object_on_each_line() {
    let broker = Broker::start("[log]\nformat = \"json\"");
    drop(broker.client("someone"));

    let line = broker.wait_for_log("disconnected");

    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["level"].as_str(), line["client"].is_string()), (Some("INFO"), true), "{line}");
}

#[test]
fn a_client_cannot_write_lines_of_its_own_into_the_log() {
    let broker = Broker::start("mqtt.refuse_control_characters = false\n");
    drop(broker.client("one\n2026-01-01 ERROR \u{1b}[2Jforged"));

    let connected = broker.wait_for_log("connected");
    let disconnected = broker.wait_for_log("disconnected");

    for line in [connected, disconnected] {
        assert!(line.contains("client=\"one\\n2026-01-01 ERROR \\u{1b}[2Jforged\""), "{line}");
    }
}

/// A CONNECT whose Client Identifier makes long lines, and is that of no other number.
fn connect_of_1000_bytes(number: usize) -> Vec<u8> {
    let client_id = format!("{number:x>1000}");
    let mut packet = vec![0x10, 0xF5, 7, 0, 4];
    packet.extend_from_slice(b"MQTT\x05\x02\x00\x00\x00\x03\xE8");
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

/// A broker whose log goes to a pipe that nobody reads, and so many clients that lines are lost.
fn broker_with_a_stalled_log() -> (Broker, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let pipe = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    let broker = Broker::start(&format!("[log]\ndestinations = [\"stderr\", \"{pipe}\"]"));
    let lines_dropped = || broker.metric("veilmq_log_lines_dropped_total");
    assert_eq!(lines_dropped(), 0.0);
    let deadline = Instant::now() + PATIENCE;
    let mut numbers = 0..;
    while lines_dropped() == 0.0 {
        assert!(Instant::now() < deadline, "no line is dropped");
        for number in numbers.by_ref().take(100) {
            let mut client = broker.socket();
            client.write_all(&connect_of_1000_bytes(number)).unwrap();
            assert_eq!(packet(&mut client).unwrap()[0], 0x20);
        }
    }
    (broker, reader)
}

/// [D08]
#[test]
fn clients_are_served_while_nobody_reads_the_log_and_whoever_reads_again_is_told_what_was_lost() {
    let (broker, mut reader) = broker_with_a_stalled_log();
    let (mut text, mut part) = (String::new(), vec![0; 65_536]);

    while !text.contains("log lines were dropped") || !text.ends_with('\n') {
        let length = reader.read(&mut part).unwrap();
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }

    let (_, lost) = text.split_once("lost=").unwrap();
    let lost: f64 = lost.split_whitespace().next().unwrap().parse().unwrap();
    assert!(lost > 0.0);
    assert_eq!(broker.metric("veilmq_log_lines_dropped_total"), lost);
    broker.client("after");
}

#[test]
fn sigterm_ends_a_broker_whose_log_nobody_reads() {
    let (mut broker, _reader) = broker_with_a_stalled_log();

    broker.signal(Signal::SIGTERM);

    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn sigterm_says_farewell_to_every_client_and_ends_with_status_0() {
    let mut broker = Broker::start("");
    let mut clients: Vec<TcpStream> = (0..8).map(|n| broker.client(&format!("client-{n}"))).collect();

    broker.signal(Signal::SIGTERM);

    for client in &mut clients {
        // [MQTT-3.14.2-1] 0x8B: Server shutting down.
        assert_eq!(farewell(client), (0xE0, 0x8B));
    }
    drop(clients);
    assert!(broker.wait().success());
    assert!(TcpStream::connect(broker.mqtt).is_err());
}

#[test]
fn sigint_ends_the_broker_although_a_client_does_not_read() {
    let mut broker = Broker::start("");
    let client = broker.client("deaf");
    let started = Instant::now();

    broker.signal(Signal::SIGINT);

    assert!(broker.wait().success());
    assert!(started.elapsed() < Duration::from_secs(4));
    drop(client);
}
