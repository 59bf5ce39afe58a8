//! Bridges of the real broker: byte for byte against another broker that the test plays, and against real ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod lazy;
mod real;
mod refusing;
mod rig;

use std::net::SocketAddr;

use tempfile::TempDir;
use veilmq_tests::broker::Broker;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Wire, acknowledgement, packet, publish_packet, publish_packet_v5, push_string};

use rig::{
    ACCEPTED, ACCEPTED_V5, FromConf, KEPT, QUIET, Remote, STATE, bridge, bridged, config, expect, hear,
    hears_nothing, is_up, publish, reload, suback, subscribe_packet, subscriber, topic,
};

#[test]
fn connect_is_that_of_a_bridge_in_every_version() {
    let will = |version: &[u8], properties: &[u8], will_properties: &[u8]| {
        let mut body = version.to_vec();
        body.extend_from_slice(properties);
        push_string(&mut body, "far");
        body.extend_from_slice(will_properties);
        push_string(&mut body, STATE);
        body.extend_from_slice(b"\0\x010");
        packet(0x10, &body)
    };
    for (lines, expected) in [
        ("protocol = \"3.1\"", will(b"\0\x06MQIsdp\x83\x2c\0\x3c", b"", b"")),
        ("protocol = \"3.1.1\"", will(b"\0\x04MQTT\x84\x2c\0\x3c", b"", b"")),
        (
            "protocol = \"3.1.1\"\nsays_bridge = false\nkeep_alive_seconds = 9",
            will(b"\0\x04MQTT\x04\x2c\0\x09", b"", b""),
        ),
        (
            "receive_maximum = 20\ntopic_alias_maximum = 0\nsession_expiry_seconds = 0",
            will(
                b"\0\x04MQTT\x05\x2c\0\x3c",
                b"\x1d\x21\0\x14\x27\x01\0\0\0\x26\0\x0dveilmq-bridge\0\x03far",
                b"\0",
            ),
        ),
        (
            "clean_start = true\nnotifications = \"local\"\nusername = \"u\"\npassword = \"p\"\nprotocol = \"3.1.1\"",
            packet(0x10, b"\0\x04MQTT\x84\xc2\0\x3c\0\x03far\0\x01u\0\x01p"),
        ),
    ] {
        let remote = Remote::new();
        let _broker = bridged(&remote, lines);

        expect(&mut remote.accept(), &expected);
    }
}

#[test]
fn the_password_of_a_bridge_is_in_a_file_of_its_own_and_a_new_one_is_taken_by_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let remote = Remote::new();
    let lines = format!(
        "clean_start = true\nnotifications = \"local\"\nprotocol = \"3.1.1\"\nusername = \"u\"\npassword_file = \"{}\"",
        file.display()
    );
    let mut broker = Broker::configured(|own| config(own, remote.address(), &lines));
    let refused = broker.try_restart().unwrap_err();
    assert!(refused.contains("exit status: 1"), "{refused}");
    let named = format!("bridges[].password_file: bridge b: cannot read {}", file.display());
    assert!(broker.log().contains(&named), "{}", broker.log());
    broker.kill();

    for (written, sent) in [("p w\n", &b"\0\x03p w"[..]), ("new", b"\0\x03new")] {
        std::fs::write(&file, written).unwrap();
        if sent.ends_with(b"new") {
            assert!(broker.reload());
        } else {
            broker.restart();
        }

        let connect = packet(0x10, &[b"\0\x04MQTT\x84\xc2\0\x3c\0\x03far\0\x01u", sent].concat());
        let mut wire = remote.accept();
        expect(&mut wire, &connect);
        wire.send(ACCEPTED).unwrap();
    }
}

#[test]
fn what_the_bridge_says_and_what_it_brings_have_one_running_number() {
    let remote = Remote::new();
    let lines = format!("protocol = \"3.1.1\"\n{}{}", topic("in/#", "in", 1), topic("out/#", "out", 1));
    let broker = bridged(&remote, &lines);
    let mut first = remote.accepted();
    let mut state = Vec::new();
    push_string(&mut state, STATE);
    let notification = |id: u16| packet(0x33, &[&state, &id.to_be_bytes()[..], b"1"].concat());
    let unsubscription = |id: u8| packet(0xa2, &[b"\0", &[id][..], b"\0\x05out/#"].concat());

    expect(&mut first, &notification(1));
    expect(&mut first, &subscribe_packet(2, "in/#", 1));
    expect(&mut first, &unsubscription(3));
    publish(&broker, "out/a", 1, "x");
    expect(&mut first, &publish_packet("out/a", 4, 1, false, b"x"));
    drop(first);
    let mut second = remote.accepted();

    expect(&mut second, &notification(5));
    expect(&mut second, &subscribe_packet(6, "in/#", 1));
    expect(&mut second, &unsubscription(7));
    expect(&mut second, &publish_packet("out/a", 4, 1, true, b"x"));
    second.send(&acknowledgement(0x40, 4)).unwrap();
    publish(&broker, "out/b", 1, "y");
    expect(&mut second, &publish_packet("out/b", 8, 1, false, b"y"));
}

#[test]
fn in_mqtt_5_nothing_comes_back_and_what_is_retained_stays_so() {
    let remote = Remote::new();
    let lines = format!("{QUIET}marks_messages = false\n{}", topic("t/#", "both", 1));
    let broker = bridged(&remote, &lines);
    let mut wire = remote.accept();
    wire.packet().unwrap();
    wire.send(ACCEPTED_V5).unwrap();

    expect(&mut wire, b"\x82\x09\0\x01\0\0\x03t/#\x0d");
    wire.send(b"\x90\x04\0\x01\0\x01").unwrap();
    publish(&broker, "t/a", 1, "x");
    expect(&mut wire, b"\x32\x09\0\x03t/a\0\x02\0x");
    wire.send(b"\x40\x02\0\x02").unwrap();
    let mut local = subscriber(&broker, "s", "t/#");
    wire.send(b"\x32\x09\0\x03t/b\0\x07\0y").unwrap();

    expect(&mut wire, b"\x40\x02\0\x07");
    assert_eq!(hear(&mut local, 1), ["t/b y"]);
}

#[test]
fn a_message_at_qos_2_crosses_once_in_either_direction_over_cuts() {
    let remote = Remote::new();
    let lines = format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t/#", "both", 2));
    let broker = bridged(&remote, &lines);
    let mut local = subscriber(&broker, "s", "t/in");
    let next = |wait_for: u16| {
        let mut wire = remote.accepted();
        expect(&mut wire, &subscribe_packet(wait_for, "t/#", 2));
        wire.send(&suback(wait_for, 2)).unwrap();
        wire
    };

    let mut wire = next(1);
    publish(&broker, "t/out", 2, "x");
    expect(&mut wire, &publish_packet("t/out", 2, 2, false, b"x"));
    wire.send(&publish_packet("t/in", 9, 2, false, b"y")).unwrap();
    expect(&mut wire, &acknowledgement(0x50, 9));
    drop(wire);
    let mut wire = next(3);
    expect(&mut wire, &publish_packet("t/out", 2, 2, true, b"x"));
    wire.send(&acknowledgement(0x50, 2)).unwrap();
    expect(&mut wire, &acknowledgement(0x62, 2));
    wire.send(&publish_packet("t/in", 9, 2, true, b"y")).unwrap();
    expect(&mut wire, &acknowledgement(0x50, 9));
    wire.send(&acknowledgement(0x62, 9)).unwrap();
    expect(&mut wire, &acknowledgement(0x70, 9));
    drop(wire);
    let mut wire = next(4);
    expect(&mut wire, &acknowledgement(0x62, 2));
    wire.send(&acknowledgement(0x70, 2)).unwrap();

    assert_eq!(hear(&mut local, 1), ["t/in y"]);
    hears_nothing(&mut local);
    hears_nothing(&mut wire);
}

#[test]
fn what_is_published_while_the_other_broker_is_away_waits_even_over_a_crash() {
    let port = ReservedPort::new();
    let lines = format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t/#", "out", 2));
    let mut broker = Broker::start_configured(|own| config(own, port.address(), &lines));
    wait_until("the bridge has tried to connect", || {
        broker.metric("veilmq_bridge_failures_total").is_some_and(|failures| failures >= 1.0)
    });

    publish(&broker, "t/1", 1, "x");
    publish(&broker, "t/2", 2, "y");
    broker.kill();
    broker.restart();
    publish(&broker, "t/3", 1, "z");
    let remote = Remote::at(port.address());
    let mut wire = remote.accepted();

    assert_eq!(hear(&mut wire, 3), ["t/1 x", "t/2 y", "t/3 z"]);
    wait_until("the bridge is up", || is_up(&broker));
}

#[test]
fn what_is_published_at_qos_0_while_the_other_broker_thinks_about_connect_crosses() {
    let remote = Remote::new();
    let broker = bridged(&remote, &format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t/#", "out", 0)));
    let publish = |payload: &str| {
        let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
        wire.send(&packet(0x30, &[b"\0\x03t/0", payload.as_bytes()].concat())).unwrap();
        // The answer to this comes when the broker has seen the message.
        wire.send(&[0xc0, 0]).unwrap();
        expect(&mut wire, &[0xd0, 0]);
    };

    let mut wire = remote.accept();
    assert_eq!(wire.packet().unwrap().first, 0x10);
    publish("x");
    wire.send(ACCEPTED).unwrap();

    assert_eq!(hear(&mut wire, 1), ["t/0 x"]);
}

#[test]
fn a_broker_that_does_not_know_of_bridges_is_asked_as_a_client_asks() {
    let remote = Remote::new();
    let broker = bridged(&remote, &format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t", "both", 0)));

    let mut refusing = remote.accept();
    expect(&mut refusing, &packet(0x10, b"\0\x04MQTT\x84\0\0\x3c\0\x03far"));
    refusing.send(&[0x20, 2, 0, 1]).unwrap();
    let mut wire = remote.accept();
    expect(&mut wire, &packet(0x10, b"\0\x04MQTT\x04\0\0\x3c\0\x03far"));
    wire.send(ACCEPTED).unwrap();
    expect(&mut wire, &subscribe_packet(1, "t", 0));
    let mut local = subscriber(&broker, "s", "t");
    publish(&broker, "t", 1, "x");
    assert_eq!(hear(&mut wire, 1), ["t x"]);
    // It sends back what it is sent, as it knows no better.
    wire.send(&packet(0x30, b"\0\x01tx")).unwrap();

    assert_eq!(hear(&mut local, 1), ["t x"]);
    hears_nothing(&mut local);
}

#[test]
fn clients_see_whether_the_bridge_is_up() {
    let remote = Remote::new();
    let broker = bridged(&remote, "protocol = \"3.1.1\"\nnotifications = \"local\"\n");
    let mut watcher = subscriber(&broker, "s", "$SYS/broker/connection/#");

    let mut wire = remote.accept();
    assert_eq!(hear(&mut watcher, 1), [format!("{STATE} 0")]);
    wire.send(ACCEPTED).unwrap();
    assert_eq!(hear(&mut watcher, 1), [format!("{STATE} 1")]);
    assert!(is_up(&broker));
    drop(wire);

    assert_eq!(hear(&mut watcher, 1), [format!("{STATE} 0")]);
}

#[test]
fn no_rule_and_no_password_stands_in_the_way_of_a_bridge() {
    let remote = Remote::new();
    let lines = format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t", "out", 1));
    let rules = TempDir::new().unwrap();
    let file = rules.path().join("acl");
    std::fs::write(&file, "topic write t\n").unwrap();
    let broker = Broker::start_configured(|own| {
        format!("acl.mosquitto_file = {file:?}\n{}", config(own, remote.address(), &lines))
    });
    let mut wire = remote.accepted();

    publish(&broker, "t", 1, "x");

    assert_eq!(hear(&mut wire, 1), ["t x"]);
}

#[test]
fn limits_and_rates_are_for_clients_and_not_for_bridges() {
    let remote = Remote::new();
    let lines = format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t", "in", 0));
    let broker = Broker::start_configured(|own| {
        format!(
            "limits.connections_max = 1\nlimits.connections_per_address_max = 1\nlimits.opening_connections_max = 1\n\
             rates.client_messages_per_second = 5\nrates.client_bytes_per_second = 100\n{}",
            config(own, remote.address(), &lines)
        )
    });
    let mut only_client = subscriber(&broker, "s", "t");
    let mut wire = remote.accepted();
    expect(&mut wire, &subscribe_packet(1, "t", 0));
    wait_until("the bridge is up beside the only client", || is_up(&broker));

    wire.send(&packet(0x30, b"\0\x01tx").repeat(1_000)).unwrap();

    assert_eq!(hear(&mut only_client, 1_000), vec!["t x"; 1_000]);
    assert!(is_up(&broker));
}

#[test]
fn what_another_broker_may_not_say_ends_the_bridge_alone() {
    // [E08] Bridges are what there is between brokers.
    let remote = Remote::new();
    let lines = format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t/#", "both", 1));
    let broker = Broker::start_configured(|own| {
        format!("limits.packet_bytes_max = 10000\n{}", config(own, remote.address(), &lines))
    });
    let mut client = subscriber(&broker, "s", "t/#");
    for (name, bytes) in [
        (
            "a packet of 256 MiB",
            packet(0x90, b"")[..1].iter().copied().chain([0xff, 0xff, 0xff, 0x7f]).collect(),
        ),
        ("a packet above the limit, which is no message", packet(0x90, &[0; 10_000])),
        ("a Remaining Length of five bytes", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("QoS 3", b"\x36\x07\0\x03t/a\0\x01".to_vec()),
        ("a topic that is not UTF-8", b"\x30\x05\0\x03t/\xff".to_vec()),
        ("a topic with a wildcard", b"\x30\x05\0\x03t/+".to_vec()),
        ("a reserved packet type", vec![0x00, 0]),
        ("CONNECT", veilmq_tests::wire::connect_packet("x", true)),
        ("a second CONNACK", ACCEPTED.to_vec()),
        ("SUBSCRIBE", subscribe_packet(1, "#", 1)),
        ("AUTH", vec![0xf0, 0]),
    ] {
        let mut wire = remote.accepted();
        assert_eq!(wire.packet().unwrap().first, 0x82, "{name}");
        wire.send(&bytes).unwrap();

        let after = wire.until_closed();
        assert!(after.len() < 100, "{name}: {after:02x?}");
    }
    let mut wire = remote.accepted();
    publish(&broker, "t/a", 1, "goes on");
    assert_eq!(hear(&mut client, 1), ["t/a goes on"], "nothing of all that came in");
    wire.packet().unwrap();
}

#[test]
fn the_second_address_is_used_while_the_first_is_away() {
    let (away, there) = (ReservedPort::new(), Remote::new());
    let addresses = [away.address(), there.address()];
    let _broker = Broker::start_configured(|own| {
        let bridge =
            bridge("b", &addresses, &format!("{QUIET}protocol = \"3.1.1\"\n{}", topic("t", "in", 0)));
        format!("access.anonymous = true\n[[listeners]]\naddress = \"{own}\"\n{bridge}")
    });

    expect(&mut there.accepted(), &subscribe_packet(1, "t", 0));
}

#[test]
fn a_reload_touches_the_bridges_that_have_changed_alone() {
    let (stays, changes, comes) = (Remote::new(), Remote::new(), Remote::new());
    let lines = |pattern: &str| format!("{QUIET}protocol = \"3.1.1\"\n{}", topic(pattern, "in", 0));
    let named = |name: &str, remote: &Remote, pattern: &str| {
        bridge(name, &[remote.address()], &lines(pattern)).replace("\"far\"", &format!("\"far-{name}\""))
    };
    let head = |own: SocketAddr| format!("access.anonymous = true\n[[listeners]]\naddress = \"{own}\"\n");
    let before = format!("{}{}", named("stays", &stays, "a"), named("changes", &changes, "b"));
    let broker = Broker::start_configured(|own| head(own) + &before);
    let (mut staying, mut changing) = (stays.accepted(), changes.accepted());
    expect(&mut staying, &subscribe_packet(1, "a", 0));
    expect(&mut changing, &subscribe_packet(1, "b", 0));

    let after = [named("stays", &stays, "a"), named("changes", &changes, "c"), named("comes", &comes, "d")];
    reload(&broker, &(head(broker.address()) + &after.concat()));

    expect(&mut changing, &[0xe0, 0]);
    let (mut changed, mut coming) = (changes.accepted(), comes.accepted());
    expect(&mut changed, &subscribe_packet(1, "c", 0));
    expect(&mut coming, &subscribe_packet(1, "d", 0));
    let mut local = subscriber(&broker, "s", "a");
    staying.send(&packet(0x30, b"\0\x01ax")).unwrap();
    assert_eq!(hear(&mut local, 1), ["a x"]);

    reload(&broker, &(head(broker.address()) + &after[1..].concat()));

    expect(&mut staying, &[0xe0, 0]);
    wait_until("two are left", || broker.metric("veilmq_bridges{state=\"up\"}") == Some(2.0));
    assert_eq!(broker.metric("veilmq_bridges{state=\"down\"}"), Some(0.0));
}

#[test]
fn what_is_not_mapped_any_more_after_a_restart_is_unsubscribed_from_on_both_sides() {
    let remote = Remote::new();
    let lines = |topics: &str| format!("{QUIET}protocol = \"3.1.1\"\n{topics}");
    let stays = topic("stays", "in", 1);
    let before = lines(&format!("{}{stays}{}", topic("gone/in", "in", 1), topic("gone/out", "out", 1)));
    let mut broker = bridged(&remote, &before);
    let mut wire = remote.accepted();
    expect(&mut wire, &subscribe_packet(1, "gone/in", 1));
    expect(&mut wire, &subscribe_packet(2, "stays", 1));
    broker.kill();
    let after = config(broker.address(), remote.address(), &lines(&stays));
    std::fs::write(broker.directory().join("veilmq.toml"), after).unwrap();
    let resumed = |id: u8| {
        let mut wire = remote.accept();
        wire.packet().unwrap();
        wire.send(KEPT).unwrap();
        expect(&mut wire, &subscribe_packet(id.into(), "stays", 1));
        wire
    };

    // The first UNSUBSCRIBE is not answered, so it counts for nothing.
    broker.restart();
    expect(&mut resumed(1), &packet(0xa2, b"\0\x02\0\x07gone/in"));
    broker.kill();
    broker.restart();
    let mut wire = resumed(1);
    expect(&mut wire, &packet(0xa2, b"\0\x02\0\x07gone/in"));
    wire.send(&[0xb0, 2, 0, 2]).unwrap();
    publish(&broker, "gone/out", 1, "x");
    hears_nothing(&mut wire);
    drop(wire);

    hears_nothing(&mut resumed(3));
    assert_eq!(broker.metric("veilmq_queued_messages"), Some(0.0), "it has unsubscribed here too");
}

#[test]
fn what_is_not_mapped_any_more_is_unsubscribed_from_at_each_address_that_kept_it() {
    let (first, second) = (Remote::new(), Remote::new());
    let addresses = [first.address(), second.address()];
    let configured = |own, topics: &str| {
        let bridge = bridge("b", &addresses, &format!("{QUIET}protocol = \"3.1.1\"\n{topics}"));
        format!("access.anonymous = true\n[[listeners]]\naddress = \"{own}\"\n{bridge}")
    };
    let stays = topic("stays", "in", 1);
    let broker =
        Broker::start_configured(|own| configured(own, &format!("{}{stays}", topic("gone", "in", 1))));
    drop(first.accepted());
    reload(&broker, &configured(broker.address(), &stays));
    let unsubscribed = |remote: &Remote, id: u8| {
        let mut wire = remote.accept();
        wire.packet().unwrap();
        wire.send(KEPT).unwrap();
        expect(&mut wire, &subscribe_packet(id.into(), "stays", 1));
        expect(&mut wire, &packet(0xa2, &[b"\0", &[id + 1][..], b"\0\x04gone"].concat()));
        wire.send(&[0xb0, 2, 0, id + 1]).unwrap();
        wait_until("it is up", || is_up(&broker));
        wire
    };

    drop(unsubscribed(&first, 1));
    drop(first);

    unsubscribed(&second, 3);
}

#[test]
fn nothing_waits_after_a_restart_for_a_bridge_that_is_gone_or_has_another_name_here() {
    // Nobody listens there.
    let port = ReservedPort::new();
    let lines = |here: &str| {
        format!("{QUIET}protocol = \"3.1.1\"\nlocal_client_id = \"{here}\"\n{}", topic("t", "out", 1))
    };
    let queued = |broker: &Broker| broker.metric("veilmq_queued_messages");
    let has_tried = |broker: &Broker| {
        broker.metric("veilmq_bridge_failures_total").is_some_and(|failures| failures >= 1.0)
    };
    let mut broker = Broker::start_configured(|own| config(own, port.address(), &lines("first")));
    wait_until("the bridge has tried to connect", || has_tried(&broker));
    publish(&broker, "t", 1, "x");
    assert_eq!(queued(&broker), Some(1.0));
    let own = broker.address();
    let with_bridge = config(own, port.address(), &lines("second"));
    let without = with_bridge.split("[[bridges]]").next().unwrap().to_owned();

    for (configuration, expected) in [(with_bridge, 1.0), (without, 0.0)] {
        broker.kill();
        std::fs::write(broker.directory().join("veilmq.toml"), configuration).unwrap();
        broker.restart();
        wait_until("the bridge has tried to connect", || expected == 0.0 || has_tried(&broker));
        publish(&broker, "t", 1, "y");

        wait_until("only what a bridge comes for waits", || queued(&broker) == Some(expected));
    }
}

#[test]
fn a_bridge_of_mqtt_5_from_a_mosquitto_conf_says_what_mosquitto_s_says() {
    let remote = Remote::new();
    let broker = FromConf::start(&remote, "topic t both 1\nbridge_protocol_version mqttv50\n");
    let mut wire = remote.accept();

    expect(&mut wire, &packet(0x10, b"\0\x04MQTT\x05\0\0\x3c\x06\x22\0\x0a\x21\0\x14\0\x03far"));
    wire.send(ACCEPTED_V5).unwrap();
    expect(&mut wire, b"\x82\x07\0\x01\0\0\x01t\x0d");
    let (mut publisher, _) = Wire::connect(broker.address(), "p", true);
    publisher.send(&publish_packet("t", 1, 1, false, b"x")).unwrap();

    expect(&mut wire, &publish_packet_v5("t", 2, 1, b"x"));
}

#[test]
fn a_connection_of_a_mosquitto_conf_is_a_bridge() {
    let remote = Remote::new();
    let topics =
        "topic # in 0 local/ remote/\ntopic +/v both 1 here/ there/\nbridge_attempt_unsubscribe false\n";
    let broker = FromConf::start(&remote, topics);
    let mut wire = remote.accept();

    expect(&mut wire, &packet(0x10, b"\0\x04MQTT\x84\0\0\x3c\0\x03far"));
    wire.send(ACCEPTED).unwrap();
    expect(&mut wire, &subscribe_packet(1, "remote/#", 0));
    expect(&mut wire, &subscribe_packet(2, "there/+/v", 1));
    let (mut local, _) = Wire::connect(broker.address(), "s", true);
    local.subscribe("local/#", 0);
    wire.send(&packet(0x30, b"\0\x08remote/ax")).unwrap();
    assert_eq!(hear(&mut local, 1), ["local/a x"]);
    local.send(&publish_packet("here/a/v", 1, 1, false, b"y")).unwrap();

    expect(&mut wire, &publish_packet("there/a/v", 3, 1, false, b"y"));
}
