//! Another broker that does not take a message and says so with the end of the connection alone.

use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Published, Wire, acknowledgement};

use crate::rig::{ACCEPTED, ACCEPTED_V5, PATIENCE, QUIET, Remote, bridged, config, publish, topic};

/// What the other broker makes of a message.
enum Answer {
    Takes,
    Closes,
    Says(u8),
}

/// Serves connections of the bridge as `judge` says, until it is told that this is enough.
fn serve(
    remote: &Remote,
    connack: &[u8],
    mut judge: impl FnMut(&Published) -> Answer,
    mut is_enough: impl FnMut(&[String]) -> bool,
) -> Vec<String> {
    let (mut taken, deadline) = (Vec::new(), Instant::now() + 2 * PATIENCE);
    while !is_enough(&taken) {
        assert!(Instant::now() < deadline, "{taken:?}");
        let mut wire = remote.accept();
        wire.set_patience(Duration::from_secs(2)).unwrap();
        wire.packet().unwrap();
        wire.send(connack).unwrap();
        serve_connection(&mut wire, &mut judge, &mut taken);
    }
    taken
}

/// Serves one connection until it ends or is silent.
fn serve_connection(wire: &mut Wire, judge: &mut impl FnMut(&Published) -> Answer, taken: &mut Vec<String>) {
    while let Ok(packet) = wire.packet() {
        if packet.first == 0xc0 {
            wire.send(&[0xd0, 0]).unwrap();
        }
        if packet.first == 0x62 {
            wire.send(&acknowledgement(0x70, packet.acknowledged())).unwrap();
        }
        let Some(message) = Published::read(&packet) else { continue };
        match judge(&message) {
            Answer::Closes => return,
            Answer::Says(reason) => {
                wire.send(&[0xe0, 1, reason]).unwrap();
                return;
            }
            Answer::Takes => {}
        }
        // What was answered just before the end is sent again, to a broker that knows it already.
        if !message.topic.starts_with('$') && !taken.contains(&message.topic) {
            taken.push(message.topic);
        }
        match message.qos {
            0 => {}
            1 => wire.send(&acknowledgement(0x40, message.packet_id)).unwrap(),
            _ => wire.send(&acknowledgement(0x50, message.packet_id)).unwrap(),
        }
    }
}

fn set_aside(broker: &Broker) -> f64 {
    broker.metric("veilmq_bridge_set_aside_total").unwrap()
}

#[test]
fn a_message_that_always_ends_the_connection_is_dropped_and_those_around_it_cross_once() {
    for qos in [1, 2] {
        let remote = Remote::new();
        let broker = bridged(&remote, &format!("protocol = \"3.1.1\"\n{}", topic("t/#", "out", 2)));
        for name in ["t/a", "t/poison", "t/b", "t/poison", "t/c"] {
            publish(&broker, name, qos, "x");
        }

        let judge = |message: &Published| match &*message.topic {
            "t/poison" => Answer::Closes,
            _ => Answer::Takes,
        };
        let taken = serve(&remote, ACCEPTED, judge, |taken| taken.len() >= 3);

        assert_eq!(taken, ["t/a", "t/b", "t/c"], "QoS {qos}");
        assert_eq!(set_aside(&broker), 2.0);
        let log = broker.log();
        let line = log.lines().find(|line| line.contains("which is dropped")).unwrap();
        for part in ["t/poison", "payload_bytes=1", &remote.address().to_string()] {
            assert!(line.contains(part), "{line}");
        }
    }
}

#[test]
fn a_reason_for_one_message_alone_proves_it_without_a_notification() {
    let remote = Remote::new();
    let broker = bridged(&remote, &format!("{QUIET}marks_messages = false\n{}", topic("t/#", "out", 1)));
    for name in ["t/poison", "t/b"] {
        publish(&broker, name, 1, "x");
    }

    let judge = |message: &Published| match &*message.topic {
        "t/poison" => Answer::Says(0x95),
        _ => Answer::Takes,
    };
    let taken = serve(&remote, ACCEPTED_V5, judge, |taken| !taken.is_empty());

    assert_eq!(taken, ["t/b"]);
    assert_eq!(set_aside(&broker), 1.0);
}

#[test]
fn another_broker_that_takes_nothing_for_a_while_costs_no_message() {
    for (lines, reason) in [
        // It says nothing, and neither does the bridge: that it takes messages at all is not known.
        (format!("{QUIET}protocol = \"3.1.1\"\n"), None),
        // It does not take the notification either.
        ("protocol = \"3.1.1\"\n".to_owned(), None),
        // It has a reason that is none of the message's.
        (format!("{QUIET}marks_messages = false\n"), Some(0x89)),
    ] {
        let remote = Remote::new();
        let broker = bridged(&remote, &format!("{lines}{}", topic("t/#", "out", 1)));
        for name in ["t/a", "t/b"] {
            publish(&broker, name, 1, "x");
        }

        let mut refusals = 0;
        let judge = |_: &Published| {
            refusals += 1;
            match reason {
                _ if refusals > 7 => Answer::Takes,
                Some(reason) => Answer::Says(reason),
                None => Answer::Closes,
            }
        };
        let connack = if lines.contains("3.1.1") { ACCEPTED } else { ACCEPTED_V5 };
        let taken = serve(&remote, connack, judge, |taken| taken.len() >= 2);

        assert_eq!(taken, ["t/a", "t/b"], "{lines}");
        assert_eq!(set_aside(&broker), 0.0);
    }
}

#[test]
fn a_bridge_that_is_sent_away_at_once_waits_longer_each_time() {
    let remote = Remote::new();
    let address = remote.address();
    let lines = format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t", "in", 0));
    let _broker = Broker::start_configured(|own| {
        config(own, address, &lines).replace("restart_seconds_max = 1", "restart_seconds_max = 8")
    });
    let connected = || {
        let mut wire = remote.accepted();
        // The subscription says that it is up.
        wire.packet().unwrap();
        Instant::now()
    };

    let times: Vec<Instant> = (0..4).map(|_| connected()).collect();

    assert!(times[3] - times[2] > Duration::from_millis(1_900), "{times:?}");
}

#[test]
fn what_waited_crosses_at_the_highest_qos_that_the_other_broker_takes() {
    for (maximum, heads) in [(0, [0x30, 0x30]), (1, [0x32, 0x32])] {
        let remote = Remote::new();
        let broker = bridged(&remote, &format!("{QUIET}marks_messages = false\n{}", topic("t/#", "out", 2)));
        let mut wire = remote.accept();
        wire.packet().unwrap();
        publish(&broker, "t/one", 1, "x");
        publish(&broker, "t/two", 2, "x");
        wire.send(&[0x20, 5, 0, 0, 2, 0x24, maximum]).unwrap();

        for head in heads {
            let packet = wire.packet().unwrap();
            assert_eq!(packet.first, head, "Maximum QoS {maximum}");
            let message = Published::read(&packet).unwrap();
            if message.qos == 1 {
                wire.send(&acknowledgement(0x40, message.packet_id)).unwrap();
            }
        }

        // Both are acknowledged to the end here: nothing is sent again.
        wait_until("nothing is in flight", || broker.metric("veilmq_inflight_messages") == Some(0.0));
        drop(wire);
        let mut wire = remote.accept();
        wire.packet().unwrap();
        wire.send(&[0x20, 5, 0, 0, 2, 0x24, maximum]).unwrap();
        crate::rig::hears_nothing(&mut wire);
        assert_eq!(broker.metric("veilmq_queued_messages"), Some(0.0), "nothing waits");
    }
}
