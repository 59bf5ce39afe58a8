//! What clients may do, many and fast, seen from outside: beyond a limit they are refused or slowed down, and others are served.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::waiting::wait_until_or;
use veilmq_tests::wire::{Published, Wire, packet, publish_packet, publish_packet_v5};

fn broker(options: &str) -> Broker {
    let mut broker = configured(options);
    broker.restart();
    broker
}

/// A broker that does not run yet.
fn configured(options: &str) -> Broker {
    Broker::configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 2\n{options}\n[[listeners]]\naddress = \"{address}\"\n"
        )
    })
}

/// Tries to connect until that is possible.
fn connect_in_the_end(broker: &Broker, client_id: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut wire = Wire::open(broker.address());
        let sent = wire.send(&veilmq_tests::wire::connect_packet(client_id, true));
        if sent.is_ok() && wire.packet().is_ok() {
            return;
        }
        assert!(Instant::now() < until, "{client_id} is never let in:\n{}", broker.log());
    }
}

#[test]
fn an_address_has_so_many_connections_at_one_time() {
    // [A01]
    let broker = broker("limits.connections_per_address_max = 3");
    let mut wires: Vec<Wire> =
        (0..3).map(|number| Wire::connect(broker.address(), &number.to_string(), true).0).collect();

    assert_eq!(Wire::open(broker.address()).until_closed(), [0u8; 0]);

    wires.pop();
    connect_in_the_end(&broker, "next");
    assert_eq!(broker.metric("veilmq_connections_refused_total").map(|refused| refused >= 1.0), Some(true));
}

#[test]
fn who_has_left_has_no_place_when_the_next_one_comes() {
    let broker = Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 1\nlimits.connections_max = 3\n\
             [[listeners]]\naddress = \"{address}\"\n"
        )
    });

    for round in 0..20 {
        let connect = |number: usize| Wire::connect(broker.address(), &number.to_string(), true).0;
        let wires: Vec<Wire> = (0..3).map(connect).collect();
        assert_eq!(wires.len(), 3, "round {round}: each had a CONNACK");
    }
}

#[test]
fn connections_that_say_nothing_keep_out_others_like_them_and_no_established_one() {
    // [A01]
    let broker = broker("limits.opening_connections_max = 2");
    let established: Vec<Wire> =
        (0..5).map(|number| Wire::connect(broker.address(), &number.to_string(), true).0).collect();
    let silent = [Wire::open(broker.address()), Wire::open(broker.address())];

    let until = Instant::now() + Duration::from_secs(10);
    while broker.metric("veilmq_connections") != Some(7.0) && Instant::now() < until {}
    assert_eq!(Wire::open(broker.address()).until_closed(), [0u8; 0]);

    for mut wire in established {
        wire.send(&packet(0xc0, b"")).unwrap();
        assert_eq!(wire.packet().unwrap().first, 0xd0, "PINGRESP");
    }
    drop(silent);
    connect_in_the_end(&broker, "next");
}

#[test]
fn a_client_above_its_rate_is_read_later_and_one_far_above_is_told() {
    let broker = broker("rates.client_messages_per_second = 20");
    let (mut wire, _) = Wire::connect(broker.address(), "brisk", true);
    let began = Instant::now();

    // A second's worth goes at once; each further message takes a twentieth of a second, and the last read waits for nobody.
    for id in 1..=80 {
        wire.send(&publish_packet("t", id, 1, false, b"x")).unwrap();
        assert_eq!(wire.packet().unwrap().acknowledged(), id);
    }

    assert!(began.elapsed() >= Duration::from_millis(2_800), "{:?}", began.elapsed());
    assert!(broker.metric("veilmq_reads_throttled_total").unwrap() > 0.0);
    let mut flood = Wire::open(broker.address());
    flood.send(&packet(0x10, b"\0\x04MQTT\x05\x02\0\x3c\0\0\x05flood")).unwrap();
    assert_eq!(flood.packet().unwrap().first, 0x20);
    let message = publish_packet_v5("t", 0, 0, b"x");
    flood.send(&message.repeat(1_000)).unwrap();
    let farewell = flood.packet().expect("DISCONNECT arrives");
    assert_eq!((farewell.first, farewell.body[0]), (0xe0, 0x96), "Message rate too high");
}

#[test]
fn while_memory_is_short_nobody_else_is_let_in_and_metrics_say_so() {
    // [D09]
    let mut broker = configured("limits.memory_bytes = 1048576");
    broker.restart_impaired();

    let until = Instant::now() + Duration::from_secs(10);
    while broker.metric("veilmq_memory_pressure{level=\"critical\"}") != Some(1.0) {
        assert!(Instant::now() < until, "{}", broker.log());
    }

    assert_eq!(Wire::open(broker.address()).until_closed(), [0u8; 0]);
    assert!(broker.log().contains("memory is very short"), "{}", broker.log());
    for path in ["/readyz", "/readyz/clients"] {
        let readyz = broker.get(path);
        assert_eq!(readyz.status, 503, "{path}: {}", readyz.body);
        assert!(readyz.body.contains("\"memory\":\"memory is very short: "), "{}", readyz.body);
    }
    assert_eq!(broker.get("/livez").status, 200);
}

#[test]
fn memory_that_was_short_is_given_back_and_clients_are_let_in_again() {
    // [D09]
    const TOPICS: usize = 400;
    // What the engine of the store keeps is not what has to be given back: with the program, at most half of this.
    let broker = broker("limits.memory_bytes = 160000000\nstorage.cache_bytes = 8388608");
    let mut hoarder = Wire::open(broker.address());
    hoarder.send(&packet(0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x07hoarder")).unwrap();
    assert_eq!(hoarder.packet().unwrap().first, 0x20);
    let mut retain = |number: usize, payload: &[u8]| {
        let mut publish = publish_packet_v5(&format!("hoard/{number}"), 1, 1, payload);
        publish[0] |= 1;
        hoarder.send(&publish).unwrap();
        // A PUBACK without Reason Code is one with success.
        hoarder.packet().unwrap().body.get(2).is_none_or(|code| *code < 0x80)
    };
    let payload = vec![b'x'; 1_000_000];

    let stored = (0..TOPICS).take_while(|number| retain(*number, &payload)).count();
    assert!(stored < TOPICS, "memory never became short");
    for number in 0..stored {
        retain(number, b"");
    }
    // Whoever asked the broker meanwhile would have the allocator tidy up by that.
    wait_until_or(|| broker.log().contains("memory is not short any more"), || broker.log());
    let _ = Wire::connect(broker.address(), "newcomer", true);
    assert_eq!(broker.get("/readyz").status, 200);
}

#[test]
fn what_a_full_mailbox_does_not_take_is_counted_for_each_who_misses_it() {
    const SUBSCRIBERS: usize = 16;
    const MESSAGES: usize = 100;
    let broker = broker("limits.packet_bytes_max = 1024\nlimits.mailbox_bytes_max = 1024");
    let subscribe = |number: usize| {
        let (mut wire, _) = Wire::connect(broker.address(), &format!("s{number}"), true);
        wire.subscribe("t", 0);
        wire
    };
    let mut subscribers: Vec<Wire> = (0..SUBSCRIBERS).map(subscribe).collect();
    let (mut writer, _) = Wire::connect(broker.address(), "writer", true);
    let mut all = publish_packet("t", 0, 0, false, &[b'm'; 800]).repeat(MESSAGES);
    // One of QoS 1 always arrives.
    all.extend(publish_packet("t", 1, 1, false, b"last"));

    writer.send(&all).unwrap();

    let received = |wire: &mut Wire| {
        let messages = std::iter::from_fn(|| Published::read(&wire.packet().unwrap()));
        messages.take_while(|message| message.payload != b"last").count()
    };
    let received: usize = subscribers.iter_mut().map(received).sum();
    let missed = SUBSCRIBERS * MESSAGES - received;
    assert!(missed > 0, "all of them have fitted into the mailbox");
    assert_eq!(broker.metric("veilmq_messages_dropped_total{reason=\"mailbox_full\"}"), Some(missed as f64));
}
