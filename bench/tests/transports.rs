//! TLS and VEIL-1 channels under the load, against Debian's mosquitto and our own broker.
//!
//! A broker that is not there is skipped with a line that says so, except where `CI` is set: there its absence is a failure.

#![expect(clippy::unwrap_used, reason = "every failure here is a failed test")]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Broker, Certificate, Channel, bench, mosquitto, text, veilmq};

fn counts(report: &Value) -> [u64; 4] {
    ["due", "delivered", "lost", "duplicates"].map(|field| report[field].as_u64().unwrap())
}

fn mosquitto_with_tls(program: &Path, certificate: &Certificate) -> Broker {
    let Certificate { chain, key, .. } = certificate;
    // As root, mosquitto would otherwise change to a user who cannot read the key.
    let tls = format!("user root\ncertfile {}\nkeyfile {}\n", chain.display(), key.display());
    Broker::start_with(program, &tls)
}

/// Calls `test` with each broker there is, which speaks TLS.
fn with_each_broker(test: impl Fn(&str, &Broker, &Certificate)) {
    let certificate = Certificate::make("localhost");
    if let Some(program) = mosquitto() {
        test("mosquitto", &mosquitto_with_tls(&program, &certificate), &certificate);
    }
    if let Some(program) = veilmq() {
        test("veilmq", &Broker::start_veilmq_with_tls(&program, &certificate), &certificate);
    }
}

#[test]
fn traffic_over_tls_arrives_once() {
    with_each_broker(|name, broker, certificate| {
        for (scenario, qos, payload) in [("1-1", "0", "16"), ("pairs-5", "1", "100"), ("5-1", "2", "70000")] {
            let report = broker.run(&[
                "--transport=tls",
                &certificate.ca(),
                "--scenario",
                scenario,
                "--qos",
                qos,
                "--payload",
                payload,
                "--messages=200",
            ]);

            assert_eq!(counts(&report), [200, 200, 0, 0], "{name}: {scenario}, QoS {qos}");
            assert_eq!(report["transport"], "tls");
        }
    });
}

#[test]
fn tls_connections_are_resumed_if_that_is_asked_for_and_not_otherwise() {
    with_each_broker(|name, broker, certificate| {
        let connects = ["--scenario=connects-150", "--transport=tls", &certificate.ca()];

        let full = broker.run(&connects);
        let resumed = broker.run(&[&connects[..], &["--tls-resume"]].concat());

        assert_eq!(full["connections"]["resumed"], 0, "{name}: {full}");
        // Each of the 32 clients has nothing to resume the first time, and a ticket of its own every time after that.
        assert_eq!(resumed["connections"]["resumed"], 150 - 32, "{name}: {resumed}");
    });
}

#[test]
fn idle_connections_over_tls_are_held_by_other_processes_too() {
    let Some(program) = mosquitto() else { return };
    let certificate = Certificate::make("localhost");
    let broker = mosquitto_with_tls(&program, &certificate);

    let report = broker.run(&["--scenario=idle-60", "--processes=2", "--transport=tls", &certificate.ca()]);

    assert_eq!(report["connections"]["count"], 60);
    assert!(
        report["connections"]["memory"]["rss_bytes_per_connection"].as_f64().unwrap() > 1_000.0,
        "{report}"
    );
}

#[test]
fn a_tls_broker_that_is_not_trusted_or_has_another_name_is_not_loaded() {
    let Some(program) = mosquitto() else { return };
    let (certificate, other) = (Certificate::make("localhost"), Certificate::make("localhost"));
    let broker = mosquitto_with_tls(&program, &certificate);

    for words in [vec![other.ca()], vec![certificate.ca(), "--tls-name=elsewhere".to_owned()]] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = broker.output(&[&["--transport=tls"], &words[..]].concat());

        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("certificate"), "{}", text(&output.stderr));
    }
}

#[test]
fn traffic_and_connections_over_veil_1_channels_arrive_once() {
    let Some(program) = veilmq() else { return };
    let (broker, channel) = Broker::start_veilmq_with_channel(&program);
    let Channel { words, .. } = &channel;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();

    let rows = [("1-1", "0", 200), ("1-20", "0", 4_000), ("pairs-5", "1", 200), ("shared-4-2", "2", 200)];
    for (scenario, qos, due) in rows {
        for payload in ["16", "300", "40000"] {
            let asked = ["--scenario", scenario, "--qos", qos, "--payload", payload, "--messages=200"];
            let report = broker.run(&[&words[..], &asked].concat());

            assert_eq!(counts(&report), [due, due, 0, 0], "{scenario}, QoS {qos}, {payload} B");
            assert_eq!((&report["transport"], &report["protocol"]), (&"veil".into(), &"5".into()));
        }
    }

    let connects = broker.run(&[&words[..], &["--scenario=connects-50"]].concat());
    assert_eq!(connects["connections"]["count"], 50);
    let away = broker.run(&[&words[..], &["--scenario=away-2", "--messages=500"]].concat());
    assert_eq!(counts(&away), [1_000, 1_000, 0, 0]);
}

#[test]
fn a_veil_1_client_of_another_authority_is_refused() {
    let Some(program) = veilmq() else { return };
    let (_ours, channel) = Broker::start_veilmq_with_channel(&program);
    let (stranger, _) = Broker::start_veilmq_with_channel(&program);
    let words: Vec<&str> = channel.words.iter().map(String::as_str).collect();

    let output = bench(&[&["run", "--target", &stranger.target()], &words[..]].concat());

    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("VEIL-1 handshake"), "{}", text(&output.stderr));
}
