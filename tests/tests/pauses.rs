//! A broker that is stopped and goes on, as a virtual machine that is moved: who spoke meanwhile is not taken for dead, and its data
//! has no second owner.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use veilmq_tests::broker::{Broker, command};
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::wire::{Published, Wire, acknowledgement, packet, publish_packet, push_string};

fn signal(broker: &Broker, signal: Signal) {
    let process = i32::try_from(broker.process_id().unwrap()).unwrap();
    kill(Pid::from_raw(process), signal).unwrap();
}

/// Connects with a Keep Alive of one second.
fn connect_restless(broker: &Broker, client_id: &str) -> Wire {
    let mut wire = Wire::open(broker.address());
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 1];
    push_string(&mut body, client_id);
    wire.send(&packet(0x10, &body)).unwrap();
    assert_eq!(wire.packet().unwrap().first, 0x20);
    wire
}

#[test]
fn after_a_pause_who_has_spoken_meanwhile_is_served_and_who_has_not_is_gone() {
    // [E03]
    let broker = Broker::start();
    let mut restless: Vec<Wire> =
        (0..20).map(|number| connect_restless(&broker, &format!("restless-{number}"))).collect();
    let silent = connect_restless(&broker, "silent");
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);

    signal(&broker, Signal::SIGSTOP);
    publisher.send(&publish_packet("t", 7, 1, false, b"while it slept")).unwrap();
    for wire in &mut restless {
        thread::sleep(Duration::from_millis(200));
        wire.send(&packet(0xc0, b"")).unwrap();
    }
    signal(&broker, Signal::SIGCONT);

    for wire in &mut restless {
        assert_eq!(wire.packet().unwrap().first, 0xd0, "PINGRESP");
    }
    assert_eq!(publisher.packet().unwrap().acknowledged(), 7);
    assert_eq!(silent.until_closed(), [0u8; 0]);
}

#[test]
fn what_a_paused_broker_owns_no_other_can_take() {
    // [E03]
    let broker = Broker::start();
    let (mut subscriber, _) = Wire::connect(broker.address(), "subscriber", false);
    subscriber.subscribe("t", 1);
    signal(&broker, Signal::SIGSTOP);
    let (port, admin) = (ReservedPort::new(), ReservedPort::new());

    let second = command(port.number(), &broker.data_dir(), admin.address()).output().unwrap();

    signal(&broker, Signal::SIGCONT);
    assert!(!second.status.success());
    let said =
        String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    assert!(said.contains("another"), "{said}");
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    publisher.send(&publish_packet("t", 1, 1, false, b"mine still")).unwrap();
    let message = Published::read(&subscriber.packet().unwrap()).unwrap();
    assert_eq!(message.payload, b"mine still");
    subscriber.send(&acknowledgement(0x40, message.packet_id)).unwrap();
}
