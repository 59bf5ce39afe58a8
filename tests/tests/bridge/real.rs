//! Bridges between real brokers: two of ours, over TLS too, and Mosquitto as the other one.

use std::process::{Command, Stdio};

use tempfile::TempDir;
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::openssl::OpenSsl;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::{built_program, require_tool};
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Wire, acknowledgement, packet, publish_packet};

use crate::rig::{
    PATIENCE, Running, bridge, config, expect, hear, hears_nothing, is_up, publish, subscriber, topic,
};

#[test]
fn a_message_crosses_each_bridge_once_however_two_brokers_are_joined() {
    for (lines, joined_twice) in
        [("protocol = \"3.1.1\"", false), ("protocol = \"5\"", false), ("protocol = \"5\"", true)]
    {
        let lines = format!("{lines}\n{}", topic("t/#", "both", 2));
        let mut there = Broker::not_started();
        let first = Broker::start_configured(|own| {
            there = Broker::configured(|other| {
                let open = format!("access.anonymous = true\n[[listeners]]\naddress = \"{other}\"\n");
                let back = bridge("back", &[own], &lines).replace("\"far\"", "\"back\"");
                if joined_twice { open + &back } else { open }
            });
            there.restart();
            config(own, there.address(), &lines)
        });
        wait_until("the bridges are up", || is_up(&first) && (!joined_twice || is_up(&there)));
        let (mut here_hears, mut there_hears) =
            (subscriber(&first, "s", "t/#"), subscriber(&there, "s", "t/#"));

        publish(&first, "t/a", 1, "from here");
        publish(&there, "t/b", 2, "from there");

        // Each of two bridges takes a message over, and neither brings it back.
        let (own, others) = if joined_twice { (1, 2) } else { (1, 1) };
        for (hears, of_here, of_there) in [(&mut here_hears, own, others), (&mut there_hears, others, own)] {
            let mut heard = hear(hears, of_here + of_there);
            heard.sort();
            let expected = [vec!["t/a from here"; of_here], vec!["t/b from there"; of_there]].concat();
            assert_eq!(heard, expected, "{lines}");
            hears_nothing(hears);
        }
    }
}

/// Three brokers, each with a bridge to the next.
fn ring_of_three(lines: &str) -> Vec<Broker> {
    let mut ring: Vec<Broker> = (0..3).map(|_| Broker::configured(|_| String::new())).collect();
    let addresses: Vec<_> = ring.iter().map(Broker::address).collect();
    for (number, broker) in ring.iter_mut().enumerate() {
        let next = addresses[(number + 1) % addresses.len()];
        let said = config(addresses[number], next, lines);
        let said = said.replace("\"far\"", &format!("\"bridge-{number}\""));
        std::fs::write(broker.directory().join("veilmq.toml"), said).unwrap();
        broker.restart();
    }
    wait_until("the bridges are up", || ring.iter().all(is_up));
    ring
}

#[test]
fn in_a_ring_of_brokers_each_hears_a_message_once_also_the_one_where_it_began() {
    // [E06]
    let ring = ring_of_three(&topic("t/#", "out", 2));
    let mut hears: Vec<Wire> = ring.iter().map(|broker| subscriber(broker, "s", "t/#")).collect();

    for (number, broker) in ring.iter().enumerate() {
        for qos in [1, 2] {
            publish(broker, &format!("t/{number}"), qos, &qos.to_string());
        }
    }

    for wire in &mut hears {
        let mut heard = hear(wire, 6);
        heard.sort();
        assert_eq!(heard, ["t/0 1", "t/0 2", "t/1 1", "t/1 2", "t/2 1", "t/2 2"]);
    }
    hears.iter_mut().for_each(hears_nothing);
    // What came all the way was stopped before the last bridge.
    wait_until("they were stopped", || {
        ring.iter().all(|broker| broker.metric("veilmq_bridge_loops_stopped_total") == Some(2.0))
    });
}

#[test]
fn in_a_ring_that_marks_nothing_prefixes_that_no_other_bridge_maps_keep_messages_from_going_round() {
    // [E06]
    for protocol in ["protocol = \"3.1.1\"", "protocol = \"5\"\nmarks_messages = false"] {
        let prefixes = "local_prefix = \"a/\"\nremote_prefix = \"b/\"\n";
        let ring = ring_of_three(&format!(
            "{protocol}\nnotifications = \"off\"\n{}{prefixes}",
            topic("#", "both", 1)
        ));
        let mut hears: Vec<Wire> = ring.iter().map(|broker| subscriber(broker, "s", "#")).collect();

        for name in ["a/up", "b/down", "c/stays"] {
            publish(&ring[0], name, 1, "x");
        }

        let expected: [&[&str]; 3] = [&["a/up x", "b/down x", "c/stays x"], &["b/up x"], &["a/down x"]];
        for (wire, expected) in hears.iter_mut().zip(expected) {
            assert_eq!(hear(wire, expected.len()), expected, "{protocol}");
            hears_nothing(wire);
        }
    }
}

#[test]
fn over_tls_a_bridge_trusts_its_authorities_alone_and_shows_its_certificate() {
    // [B17] A certificate of the right authority for another name is not enough.
    let (authority, strangers) = (Authority::new(), Authority::new());
    let own = authority.issue_for_this_machine();
    let ca = format!("ca = {:?}", authority.certificate());
    let elsewhere = authority.issue("elsewhere", 7, &["elsewhere.example"]);
    let shown = format!("certificate_file = {:?}\nkey_file = {:?}", own.certificate, own.key);
    let asked = format!(
        "client_certificate = \"required\"\nclient_ca_file = {:?}\ncrl_file = {:?}\n",
        authority.certificate(),
        authority.revocations()
    );
    for (certificate, asked, tls, expected) in [
        (&own, "", ca.clone(), None),
        (&own, asked.as_str(), format!("{ca}\n{shown}"), None),
        (&elsewhere, "", format!("{ca}\nany_name = true"), None),
        (&elsewhere, "", ca.clone(), Some("certificate not valid for name")),
        (&own, "", format!("ca = {:?}", strangers.certificate()), Some("invalid peer certificate")),
        (
            &own,
            "",
            format!("ca = {:?}\nany_name = true", strangers.certificate()),
            Some("invalid peer certificate"),
        ),
    ] {
        let there = Broker::start_configured(|address| {
            format!(
                "access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n[listeners.tls]\n{asked}{}",
                certificate.on_listener()
            )
        });
        let lines = format!("[bridges.tls]\n{tls}\n{}", topic("t", "both", 1));
        let here = Broker::start_configured(|own| config(own, there.address(), &lines));

        match expected {
            None => wait_until("the bridge is up", || is_up(&here)),
            Some(reason) => {
                wait_until(reason, || here.log().contains(reason));
                assert!(!is_up(&here));
            }
        }
    }
}

#[test]
fn a_bridge_takes_the_certificates_that_mosquitto_takes_from_the_other_broker() {
    // Each keeps its files under the names that it issues for.
    let (Some(authority), Some(modern), Some(lonely)) =
        (OpenSsl::new("ca"), OpenSsl::new("modern"), OpenSsl::new("lonely"))
    else {
        return;
    };
    let old = authority.issue("127.0.0.1");
    let plain = modern.issue_with_extensions("127.0.0.1");
    let alone = lonely.self_signed("127.0.0.1");
    let (elsewhere, other) = (authority.issue("elsewhere"), lonely.self_signed("other"));
    let (ca, modern) = (authority.certificate(), modern.certificate());
    for (shown, trusted, more, is_taken) in [
        (&old, &ca, "", true),
        (&plain, &modern, "", true),
        (&alone, &alone.certificate, "", true),
        (&elsewhere, &ca, "", false),
        (&elsewhere, &ca, "any_name = true", true),
        (&other, &other.certificate, "any_name = true", true),
        (&other, &alone.certificate, "any_name = true", false),
    ] {
        let there = Broker::start_configured(|address| {
            format!(
                "access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n[listeners.tls]\n{}",
                shown.on_listener()
            )
        });
        let lines = format!("[bridges.tls]\nca = {trusted:?}\n{more}\n{}", topic("t", "both", 1));
        let here = Broker::start_configured(|own| config(own, there.address(), &lines));

        match is_taken {
            true => wait_until("the bridge is up", || is_up(&here)),
            false => {
                wait_until("the bridge is refused", || here.log().contains("invalid peer certificate"));
                assert!(!is_up(&here), "{shown:?} {more}");
            }
        }
    }
}

#[test]
fn a_bridge_whose_authorities_cannot_be_read_or_are_none_starts_nothing() {
    // [B16]
    let directory = TempDir::new().unwrap();
    let empty = directory.path().join("empty.crt");
    std::fs::write(&empty, "").unwrap();
    for file in ["/absent/ca.crt", empty.to_str().unwrap()] {
        let lines = format!("[bridges.tls]\nca = \"{file}\"\n{}", topic("t", "out", 1));
        let nowhere = ReservedPort::new();
        let mut broker = Broker::configured(|own| config(own, nowhere.address(), &lines));

        assert!(broker.try_restart().is_err());

        let log = broker.log();
        assert!(log.contains("bridges[].tls.ca: bridge b: "), "{log}");
        assert!(log.contains(file), "{log}");
        let configuration = broker.directory().join("veilmq.toml");
        let checked = Command::new(built_program("veilmq"))
            .arg("check-config")
            .arg("-c")
            .arg(configuration)
            .output()
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(!checked.status.success() && said.contains("bridges[].tls.ca: bridge b: "), "{said}");
    }
}

#[test]
fn mosquitto_is_bridged_in_every_version_and_may_go_and_come_back() {
    let Some(program) = require_tool("mosquitto") else { return };
    for version in ["3.1", "3.1.1", "5"] {
        let (port, directory) = (ReservedPort::new(), TempDir::new().unwrap());
        let conf = directory.path().join("mosquitto.conf");
        let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", port.number());
        std::fs::write(&conf, text).unwrap();
        let start = || {
            let mut command = Command::new(&program);
            let child =
                command.arg("-c").arg(&conf).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            wait_until("mosquitto listens", || Wire::try_open(port.address()).is_ok());
            Running(child)
        };
        let mosquitto = start();
        let lines = format!("protocol = \"{version}\"\nclean_start = false\n{}", topic("t/#", "both", 2));
        let broker = Broker::start_configured(|own| config(own, port.address(), &lines));
        wait_until("the bridge is up", || is_up(&broker));
        let mut here = subscriber(&broker, "s", "t/#");
        let there = || {
            let (mut wire, _) = Wire::connect(port.address(), "s", true);
            wire.subscribe("t/#", 2);
            wire.set_patience(PATIENCE).unwrap();
            wire
        };
        let mut far = there();

        publish(&broker, "t/1", 2, "out");
        assert_eq!(hear(&mut far, 1), ["t/1 out"], "{version}");
        far.send(&publish_packet("t/2", 9, 1, false, b"in")).unwrap();
        assert_eq!(hear(&mut here, 2), ["t/1 out", "t/2 in"], "{version}");
        drop(mosquitto);
        wait_until("the bridge is down", || !is_up(&broker));
        // Retained, it is there for whoever subscribes before it comes or after.
        let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
        wire.send(&packet(0x33, b"\0\x03t/3\0\x01later")).unwrap();
        expect(&mut wire, &acknowledgement(0x40, 1));
        let _again = start();
        let mut far = there();

        assert_eq!(hear(&mut far, 1), ["t/3 later"], "{version}");
        assert_eq!(hear(&mut here, 1), ["t/3 later"], "{version}");
        hears_nothing(&mut here);
    }
}
