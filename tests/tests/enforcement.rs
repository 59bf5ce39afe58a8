//! The broker enforces end-to-end encryption without reading anything: the real broker, our SDK, and Mosquitto's clients.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;

use veilmq_tests::broker::Broker;
use veilmq_tests::carrier::contents;
use veilmq_tests::mosquitto::Mosquitto;
use veilmq_tests::parties::Parties;
use veilmq_tests::puppet::Version;
use veilmq_tests::search::{holds, text};
use veilmq_tests::tap::Tap;
use veilmq_tests::wire::{Published, Wire, connect_packet_v5, publish_packet, publish_packet_v5};

const PLAINTEXT: &str = "the temperature of the hall is 19.5";
const POLICIES: &str = "
[e2e]
distribution = \"enforce\"

[[e2e.policies]]
name = \"readings\"
topics = \"readings/#\"
require_signed = true

[[e2e.policies]]
name = \"shared\"
topics = \"shared/#\"
scope = \"shared/#\"
sender_binding = false
transition_seconds = 0

[[e2e.policies]]
name = \"legacy\"
topics = \"legacy/#\"
formats = [\"article\"]

[[e2e.policies]]
name = \"trial\"
topics = \"trial/#\"
mode = \"prefer\"
";

/// The parties, and a broker with policies.
fn parties() -> Parties {
    let broker = Broker::start_configured(|address| {
        format!(
            "shards.count = 2\naccess.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n{POLICIES}"
        )
    });
    let tap = Tap::start(broker.address());
    Parties::meet(broker, tap)
}

fn publish(parties: &Parties, scope: &str, topic: &str, more: &[&str]) {
    let base = ["-t", topic, "-m", PLAINTEXT, "--sign"];
    let output = parties.exchange("pub", "device", "key", scope, &[&base, more].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn rejected(broker: &Broker, policy: &str, reason: &str) -> f64 {
    let sample = format!("veilmq_e2e_rejected_total{{policy=\"{policy}\",reason=\"{reason}\"}}");
    broker.metric(&sample).unwrap_or(0.0)
}

/// A client of MQTT 5 on a raw socket.
fn wire_v5(broker: &Broker, client_id: &str) -> Wire {
    let mut wire = Wire::open(broker.address());
    wire.send(&connect_packet_v5(client_id, 0)).unwrap();
    assert_eq!(wire.packet().unwrap().body[1], 0);
    wire
}

/// Publishes at QoS 1 and returns the Reason Code of PUBACK.
fn code(wire: &mut Wire, topic: &str, payload: &[u8]) -> u8 {
    wire.send(&publish_packet_v5(topic, 1, 1, payload)).unwrap();
    let puback = wire.packet().unwrap();
    assert_eq!(puback.first & 0xf0, 0x40);
    puback.body.get(2).copied().unwrap_or(0)
}

/// The envelope that a topic retains.
fn retained(broker: &Broker, topic: &str) -> Vec<u8> {
    let (mut wire, _) = Wire::connect(broker.address(), "collector", true);
    wire.subscribe(topic, 0);
    Published::read(&wire.packet().unwrap()).unwrap().payload
}

#[test]
fn plaintext_of_mosquitto_is_refused_in_every_way_it_can_come_and_the_sdk_passes() {
    let parties = parties();
    let broker = &parties.broker;
    let Some(new) = Mosquitto::new(Version::V5, broker.port()) else { return };
    let old = Mosquitto::new(Version::V311, broker.port()).unwrap();
    // The length stands for the payload, which is no text where it is sealed.
    let shown = "%t %l";
    let reader = new.subscribe_showing(shown, &["-t", "readings/#", "-t", "open", "-q", "2"]);
    let member = new.subscribe_showing(shown, &["-t", "$share/g/readings/#", "-t", "open", "-q", "1"]);
    let plain = ["-t", "readings/hall", "-m", PLAINTEXT];

    let assured = new.attempt("mosquitto_pub", &[plain.as_slice(), &["-q", "1"]].concat());
    assert!(text(&assured.stderr).contains("Payload format invalid"), "{}", text(&assured.stderr));
    assert_eq!(rejected(broker, "readings", "plaintext"), 1.0);
    let exact = new.attempt("mosquitto_pub", &[plain.as_slice(), &["-q", "2"]].concat());
    assert!(text(&exact.stderr).contains("Payload format invalid"), "{}", text(&exact.stderr));
    new.publish(&[plain.as_slice(), &["-q", "0", "-r"]].concat());
    for qos in ["0", "1", "2"] {
        // MQTT 3.1.1 has no word for it: the message is acknowledged and goes nowhere.
        old.publish(&[plain.as_slice(), &["-q", qos]].concat());
    }
    for client in [new, old] {
        let will = ["-t", "x", "--will-topic", "readings/hall", "--will-payload", PLAINTEXT, "-C", "1"];
        let refused = client.attempt("mosquitto_sub", &will);
        assert!(!refused.status.success(), "a Will in the clear is refused");
    }
    assert_eq!(rejected(broker, "readings", "plaintext"), 8.0);

    new.publish(&["-t", "open", "-m", "marker", "-q", "1"]);
    for subscriber in [&reader, &member] {
        assert_eq!(subscriber.message(), "open 6", "nothing came before");
    }
    publish(&parties, "readings/#", "readings/hall", &["--retain"]);
    for subscriber in [&reader, &member] {
        assert!(subscriber.message().starts_with("readings/hall 1"), "an envelope with its signature");
    }
    let sender = parties.path("device/device.vmc");
    let read = parties.exchange(
        "sub",
        "reader",
        "key",
        "readings/#",
        &["-t", "readings/#", "--sender", &sender, "-v", "-C", "1", "-W", "20"],
    );
    assert_eq!(text(&read.stdout), format!("readings/hall {PLAINTEXT}\n"), "{}", text(&read.stderr));
}

#[test]
fn envelopes_are_refused_where_they_do_not_belong() {
    let parties = parties();
    let broker = &parties.broker;
    publish(&parties, "readings/#", "readings/hall", &["--retain"]);
    publish(&parties, "shared/#", "shared/hall", &["--retain"]);
    let (bound, free) = (retained(broker, "readings/hall"), retained(broker, "shared/hall"));
    let mut stranger = wire_v5(broker, "stranger");
    let mut changed = free.clone();
    *changed.last_mut().unwrap() ^= 1;
    let article: Vec<u8> = (0..48_u8).map(|byte| byte.wrapping_mul(37) ^ 0xE5).collect();

    for (topic, payload, expected, policy, reason) in [
        ("readings/hall", &bound, 0x87, "readings", "sender"),
        ("shared/hall", &bound, 0x99, "shared", "scope"),
        ("readings/hall", &free, 0x99, "readings", "scope"),
        ("readings/hall", &article, 0x99, "readings", "format"),
        ("legacy/hall", &bound, 0x99, "legacy", "format"),
        ("readings/hall", &Vec::new(), 0x99, "readings", "plaintext"),
    ] {
        assert_eq!(code(&mut stranger, topic, payload), expected, "{policy} {reason}");
        assert!(rejected(broker, policy, reason) >= 1.0, "{policy} {reason}");
    }
    assert_eq!(code(&mut stranger, "legacy/hall", &article), 0x10);
    // What the device has published is there once: its own bytes are a repetition, others under its number are refused. The
    // windows are those of the shard where the publisher is at home.
    assert!(matches!(code(&mut stranger, "shared/hall", &free), 0 | 0x10));
    assert_eq!(code(&mut stranger, "shared/hall", &free), 0);
    assert_eq!(code(&mut stranger, "shared/hall", &changed), 0x99);
    assert_eq!(rejected(broker, "shared", "replay"), 1.0);
    // Bytes 9 to 12 are the epoch, 29 to 32 the number.
    let in_epoch = |epoch: u8, number: u8| {
        let mut payload = free.clone();
        (payload[12], payload[32]) = (epoch, number);
        payload
    };
    assert_eq!(code(&mut stranger, "shared/hall", &in_epoch(9, 50)), 0x10);
    assert_eq!(code(&mut stranger, "shared/hall", &in_epoch(8, 51)), 0x99);
    assert_eq!(rejected(broker, "shared", "epoch"), 1.0);
    // What the publisher retained cannot be cleared by somebody else.
    let mut clear = publish_packet("readings/hall", 1, 1, false, b"");
    clear[0] |= 1;
    let (mut old, _) = Wire::connect(broker.address(), "old", true);
    old.send(&clear).unwrap();
    assert_eq!(old.packet().unwrap().acknowledged(), 1);
    assert_eq!(rejected(broker, "readings", "clear"), 1.0);
    assert_eq!(retained(broker, "readings/hall"), bound);
}

#[test]
fn what_is_written_on_topics_of_key_distribution_is_verified() {
    let parties = parties();
    let broker = &parties.broker;
    let head = "_veil/1/kp/950537d600000000/9de50bb148ef83cd";
    let forged = [b"VE\x13\x01".as_slice(), &[0; 400]].concat();
    let mut stranger = wire_v5(broker, "stranger");

    for (topic, expected, reason) in [
        (head, 0x87, "writer"),
        ("_veil/1/pre/9de50bb148ef83cd", 0x87, "writer"),
        ("_veil/1/ctl/9de50bb148ef83cd", 0x87, "topic"),
    ] {
        assert_eq!(code(&mut stranger, topic, &forged), expected, "{topic}");
        let sample = format!("veilmq_distribution_rejected_total{{reason=\"{reason}\"}}");
        assert!(broker.metric(&sample) >= Some(1.0), "{reason}");
    }
    // A revocation list speaks for itself, so this one does not.
    let mut list = publish_packet_v5("_veil/1/crl/9de50bb148ef83cd", 1, 1, &forged);
    list[0] |= 1;
    stranger.send(&list).unwrap();
    assert_eq!(stranger.packet().unwrap().body[2], 0x99);
    assert_eq!(broker.metric("veilmq_keyhead_total{result=\"rejected\"}"), Some(1.0));
}

#[test]
fn a_trial_counts_and_policies_change_while_the_broker_runs() {
    let mut parties = parties();
    let broker = &parties.broker;
    let file = broker.directory().join("veilmq.toml");
    let configuration = fs::read_to_string(&file).unwrap();
    let mut client = wire_v5(broker, "client");

    assert_eq!(code(&mut client, "trial/hall", PLAINTEXT.as_bytes()), 0x10);
    let tolerated = "veilmq_e2e_tolerated_total{policy=\"trial\",reason=\"plaintext\"}";
    assert_eq!(broker.metric(tolerated), Some(1.0));

    fs::write(&file, configuration.replace("mode = \"prefer\"", "mode = \"require\"")).unwrap();
    assert!(broker.reload(), "{}", broker.log());
    assert_eq!(code(&mut client, "trial/hall", PLAINTEXT.as_bytes()), 0x99);
    assert_eq!(rejected(broker, "trial", "plaintext"), 1.0);

    fs::write(&file, configuration.replace("scope = \"shared/#\"", "scope = \"shared/hall\"")).unwrap();
    assert!(!broker.reload(), "the scope does not cover the topics");
    assert!(broker.log().contains("policy shared"), "{}", broker.log());
    assert_eq!(code(&mut client, "trial/hall", PLAINTEXT.as_bytes()), 0x99, "nothing has changed");

    fs::write(&file, &configuration).unwrap();
    parties.broker.kill();
    for (path, bytes) in contents(&parties.broker.data_dir()) {
        assert!(!holds(&bytes, PLAINTEXT), "{} holds the plaintext", path.display());
    }
}
