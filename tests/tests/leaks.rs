//! What connections that fail leave behind, however they fail: no file, no thread, no memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Wire, packet, push_string};

/// How often each way to fail is tried in one round.
const TIMES: usize = 50;
const ROUNDS: usize = 8;
/// What each that could be missed has the broker keep meanwhile.
const WILL_BYTES: usize = 30_000;

/// A CONNECT of MQTT 3.1.1 with a large will and a password that no user has.
fn login() -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\xc6\0\x3c\0\x01c\0\x01t".to_vec();
    push_string(&mut body, &"w".repeat(WILL_BYTES));
    push_string(&mut body, "stranger");
    push_string(&mut body, "guessed");
    packet(0x10, &body)
}

struct Attack {
    broker: Broker,
    plain: ReservedPort,
    trusting: TlsClient,
    doubting: TlsClient,
}

impl Attack {
    fn new() -> Self {
        let authority = Authority::new();
        let plain = ReservedPort::new();
        let broker = Broker::start_configured(|address| {
            format!(
                "shards.count = 2\nlimits.connect_seconds_max = 1\n[bans]\nfailures_per_address_max = 0\n\
                 failures_per_user_max = 0\n[[listeners]]\naddress = \"{}\"\n[[listeners]]\naddress = \"{address}\"\n{}",
                plain.address(),
                authority.issue_for_this_machine().on_listener()
            )
        });
        let trusting = TlsClient::new(&authority, None);
        Self { broker, plain, trusting, doubting: TlsClient::new(&Authority::new(), None) }
    }

    /// Fails in every way, and waits until the broker has seen the end of each.
    fn round(&self) {
        let login = login();
        let silent: Vec<Wire> = (0..TIMES).map(|_| Wire::open(self.plain.address())).collect();
        for _ in 0..TIMES {
            let mut malformed = Wire::open(self.plain.address());
            malformed.send(&[0xff; 64]).unwrap();
            assert_eq!(malformed.until_closed(), [0_u8; 0]);

            let mut unfinished = Wire::open(self.plain.address());
            unfinished.send(&login[..WILL_BYTES]).unwrap();
            drop(unfinished);

            let mut refused = Wire::open(self.plain.address());
            refused.send(&login).unwrap();
            assert_eq!(refused.packet().unwrap().body, [0, 5], "not authorized");

            for garbage in [&b"no TLS at all"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
                TcpStream::connect(self.broker.address()).unwrap().write_all(garbage).unwrap();
            }
            assert!(self.doubting.open(self.broker.address()).is_err());

            let mut cut = self.trusting.open(self.broker.address()).unwrap();
            cut.write_all(&login[..WILL_BYTES]).unwrap();
            drop(cut);

            let mut stranger = self.trusting.open(self.broker.address()).unwrap();
            stranger.write_all(&login).unwrap();
            let mut connack = [0; 4];
            stranger.read_exact(&mut connack).unwrap();
            assert_eq!(connack, [0x20, 2, 0, 5]);
        }
        for wire in silent {
            assert_eq!(wire.until_closed(), [0_u8; 0]);
        }
        wait_until("they are gone", || self.broker.metric("veilmq_connections") == Some(0.0));
    }

    /// The files that are open, and the threads.
    fn held(&self) -> [usize; 2] {
        let process = self.broker.process_id().unwrap();
        ["fd", "task"].map(|what| fs::read_dir(format!("/proc/{process}/{what}")).unwrap().count())
    }

    fn resident_bytes(&self) -> f64 {
        self.broker.metric("process_resident_memory_bytes").unwrap()
    }
}

#[test]
fn connections_that_fail_leave_nothing_behind() {
    // [A08], [A16]
    let attack = Attack::new();
    // The first rounds fill what the broker and its allocator keep to use again.
    for _ in 0..2 {
        attack.round();
    }
    let (held, resident) = (attack.held(), attack.resident_bytes());

    for _ in 0..ROUNDS {
        attack.round();
    }

    // The connection that asks for a metric may not be closed yet, and threads of the pool come and go.
    let is_as_before = || attack.held().iter().zip(held).all(|(now, before)| *now <= before + 2);
    wait_until(&format!("{held:?} files and threads as before"), is_as_before);
    let grown = attack.resident_bytes() - resident;
    assert!(grown < (ROUNDS * TIMES * WILL_BYTES / 4) as f64, "{grown} bytes more");
}
