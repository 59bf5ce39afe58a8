//! How long `veil pub` and `veil sub` wait for a broker that does not answer, or says no.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
/// PUBACK for the first Packet Identifier: not authorized, with a Reason String.
const REFUSED: &[u8] = b"\x40\x0a\x00\x01\x87\x06\x1f\x00\x03no!";

type Answers = &'static [&'static [u8]];

/// A broker that answers the packets of one client with these, in turn, and nothing after that.
fn broker(answers: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        for answer in answers {
            read_packet(&mut client);
            client.write_all(answer).unwrap();
        }
        let _ = client.read_to_end(&mut Vec::new());
    });
    port
}

/// Reads a packet of less than 128 bytes.
fn read_packet(client: &mut TcpStream) {
    let mut header = [0; 2];
    client.read_exact(&mut header).unwrap();
    client.read_exact(&mut vec![0; usize::from(header[1])]).unwrap();
}

fn start(verb: &str, port: &str, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veil"));
    command.args([verb, "-h", "127.0.0.1", "-p", port, "-t", "a", "-q", "1"]).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The status and the complaint, once the program has ended by itself.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + Duration::from_secs(8);
    // Standard input stays open.
    let stdin = child.stdin.take();
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
    drop(stdin);
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn the_time_that_is_given_covers_connecting_subscribing_and_every_acknowledgement() {
    let rows: [(&str, &[&str], Answers); 5] = [
        ("sub", &["-W", "1"], &[]),
        ("sub", &["-W", "1"], &[CONNACK]),
        ("pub", &["-W", "1", "-m", "x"], &[]),
        ("pub", &["-W", "1", "-m", "x"], &[CONNACK]),
        ("pub", &["-W", "1", "-l"], &[CONNACK]),
    ];
    for (verb, more, answers) in rows {
        let begun = Instant::now();

        let ended = ended(start(verb, &broker(answers), more));

        assert_eq!(ended, (Some(27), "veil: timed out\n".to_owned()), "{verb} {more:?} {answers:?}");
        assert!(begun.elapsed() >= Duration::from_secs(1));
    }
}

#[test]
fn a_line_that_is_refused_is_told_of_before_the_next_one_is_there() {
    let mut publisher = start("pub", &broker(&[CONNACK, REFUSED]), &["-l", "--quiet"]);
    publisher.stdin.as_mut().unwrap().write_all(b"a secret\n").unwrap();

    let (status, complaint) = ended(publisher);

    assert_eq!(status, Some(1));
    let said = "veil: topic \"a\": the broker refused the message: Not authorized (no!)\n";
    assert_eq!(complaint, said);
}
