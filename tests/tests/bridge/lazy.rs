//! Bridges that connect when enough waits for them, and leave when nothing does.

use std::thread;
use std::time::Duration;

use veilmq_tests::broker::Broker;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Wire, packet, push_string};

use crate::rig::{
    ACCEPTED, KEPT, QUIET, Remote, bridged, config, expect, hear, is_up, publish, reload, topic,
};

/// A lazy bridge that passes on `t/#` at up to `qos`.
fn lazy(threshold: u32, qos: u8) -> String {
    format!(
        "{QUIET}protocol = \"3.1.1\"\nstart = \"lazy\"\nlazy_messages = {threshold}\nidle_seconds = 3\n{}",
        topic("t/#", "out", qos)
    )
}

/// Publishes at QoS 0, and waits until the broker has seen it.
fn publish_unassured(broker: &Broker, topic: &str, payload: &str) {
    let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
    let mut body = Vec::new();
    push_string(&mut body, topic);
    body.extend_from_slice(payload.as_bytes());
    wire.send(&packet(0x30, &body)).unwrap();
    wire.send(&[0xc0, 0]).unwrap();
    expect(&mut wire, &[0xd0, 0]);
}

fn is_called(remote: &Remote) -> bool {
    thread::sleep(Duration::from_millis(1_000));
    remote.0.accept().is_ok()
}

#[test]
fn a_lazy_bridge_brings_what_it_has_come_for_at_every_qos_and_leaves_when_nothing_waits() {
    let remote = Remote::new();
    let broker = bridged(&remote, &lazy(3, 2));

    publish_unassured(&broker, "t/0", "a");
    publish(&broker, "t/1", 1, "b");
    assert!(!is_called(&remote), "two are not enough");
    publish_unassured(&broker, "t/0", "c");
    let mut wire = remote.accept();
    wire.packet().unwrap();
    publish_unassured(&broker, "t/0", "while the other broker thinks about CONNECT");
    wire.send(ACCEPTED).unwrap();

    let mut heard = hear(&mut wire, 4);
    heard.sort();
    assert_eq!(heard, ["t/0 a", "t/0 c", "t/0 while the other broker thinks about CONNECT", "t/1 b"]);
    expect(&mut wire, &[0xe0, 0]);
    drop(wire);

    publish(&broker, "t/2", 2, "d");
    publish_unassured(&broker, "t/0", "e");
    assert!(!is_called(&remote), "two are not enough the second time either");
    publish_unassured(&broker, "t/0", "f");
    let mut wire = remote.accept();
    wire.packet().unwrap();
    wire.send(KEPT).unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.extend(hear(&mut wire, 1));
    }
    heard.sort();
    assert_eq!(heard, ["t/0 e", "t/0 f", "t/2 d"]);
}

#[test]
fn what_waits_for_a_lazy_bridge_waits_while_the_other_broker_is_away_and_over_a_reload() {
    let remote = Remote::new();
    let broker = bridged(&remote, &lazy(2, 1));
    publish_unassured(&broker, "t/0", "a");
    publish_unassured(&broker, "t/0", "b");
    for _ in 0..2 {
        drop(remote.accept());
    }
    assert!(!is_up(&broker));

    let changed = format!("keep_alive_seconds = 9\n{}", lazy(2, 1));
    reload(&broker, &config(broker.address(), remote.address(), &changed));
    wait_until("it goes by what has changed", || {
        let mut wire = remote.accept();
        wire.packet().unwrap().body.ends_with(b"\0\x09\0\x03far")
    });

    assert_eq!(hear(&mut remote.accepted(), 2), ["t/0 a", "t/0 b"]);
}

#[test]
fn a_lazy_bridge_connects_too_when_half_of_what_may_wait_does() {
    let remote = Remote::new();
    let lines = lazy(1_000, 1);
    let broker = Broker::start_configured(|own| {
        let limits = "limits.session_queue_bytes_max = 200000\nlimits.packet_bytes_max = 100000\n";
        format!("{limits}{}", config(own, remote.address(), &lines))
    });

    for _ in 0..2 {
        publish(&broker, "t/1", 1, &"x".repeat(60_000));
    }

    let mut wire = remote.accepted();
    assert_eq!(hear(&mut wire, 2).len(), 2);
}

#[test]
fn a_lazy_bridge_connects_when_a_message_finds_no_room_however_little_waits() {
    let remote = Remote::new();
    let lines = lazy(1_000, 1);
    let broker = Broker::start_configured(|own| {
        let limits = "limits.session_queue_bytes_max = 200000\nlimits.packet_bytes_max = 190000\n";
        format!("{limits}{}", config(own, remote.address(), &lines))
    });
    publish(&broker, "t/1", 1, &"x".repeat(60_000));
    assert!(!is_called(&remote), "less than half");

    publish(&broker, "t/2", 1, &"x".repeat(180_000));

    let mut wire = remote.accepted();
    assert!(hear(&mut wire, 1)[0].starts_with("t/1 x"));
    publish(&broker, "t/2", 1, &"y".repeat(180_000));
    assert!(hear(&mut wire, 1)[0].starts_with("t/2 y"), "the next one finds the bridge there");
}

#[test]
fn a_reload_of_what_a_session_may_hold_changes_when_a_lazy_bridge_connects() {
    let remote = Remote::new();
    let broker = bridged(&remote, &lazy(1_000, 1));
    for payload in ["a", "b", "c"] {
        publish(&broker, "t/1", 1, payload);
    }
    assert!(!is_called(&remote), "a thousand may wait");

    let limited = config(broker.address(), remote.address(), &lazy(1_000, 1));
    reload(&broker, &format!("limits.session_queue_messages_max = 3\n{limited}"));

    assert_eq!(hear(&mut remote.accepted(), 3), ["t/1 a", "t/1 b", "t/1 c"]);
}
