//! Every scenario, small, against our own broker and against Debian's mosquitto: nothing is lost or doubled, and what a
//! broker that dies loses is found out.
//!
//! A broker that is not there is skipped with a line that says so, except where `CI` is set: there its absence is a failure.

#![expect(clippy::unwrap_used, reason = "every failure here is a failed test")]

mod support;

use std::process::Stdio;

use serde_json::Value;
use support::{Broker, bench, bench_command, mosquitto, text, veilmq};

/// Calls `test` with each broker there is.
fn with_each_broker(test: impl Fn(&str, &Broker)) {
    if let Some(program) = veilmq() {
        test("veilmq", &Broker::start_veilmq(&program));
    }
    if let Some(program) = mosquitto() {
        test("mosquitto", &Broker::start(&program));
    }
}

fn counts(report: &Value) -> [u64; 6] {
    ["due", "delivered", "lost", "duplicates", "late", "foreign"].map(|field| report[field].as_u64().unwrap())
}

#[test]
fn traffic_of_every_scenario_arrives_once_with_each_quality_of_service_and_size() {
    // Scenario, deliveries that each message causes.
    let rows = [
        ("1-1", 1),
        ("1-20", 20),
        ("20-1", 1),
        ("pairs-10", 1),
        ("shared-10-3", 1),
        ("wildcards-200", 1),
        ("subscriptions-1500", 1),
    ];

    with_each_broker(|name, broker| {
        for (scenario, copies) in rows {
            for (qos, payload, messages) in [(0, 16, 500), (1, 256, 500), (2, 4_096, 200), (1, 65_536, 20)] {
                let report = broker.run(&[
                    &format!("--scenario={scenario}"),
                    &format!("--qos={qos}"),
                    &format!("--payload={payload}"),
                    &format!("--messages={messages}"),
                    "--window=100",
                    "--protocol=5",
                ]);

                let due = messages * copies;
                assert_eq!(
                    counts(&report),
                    [due, due, 0, 0, 0, 0],
                    "{name}: {scenario}, QoS {qos}, {payload} B"
                );
                assert!(report["broker_memory"]["pss_bytes"].as_u64().unwrap() > 0, "{report}");
            }
        }
    });
}

#[test]
fn retained_messages_reach_one_subscriber_of_all_of_them_and_are_cleared() {
    with_each_broker(|name, broker| {
        for qos in ["0", "1", "2"] {
            let report = broker.run(&["--scenario=retained-3000", "--qos", qos]);

            assert_eq!(counts(&report), [3_000, 3_000, 0, 0, 0, 0], "{name}, QoS {qos}");
            assert!(report["stored"]["acknowledged_per_second"].as_f64().unwrap() > 0.0, "{report}");
        }

        // Each run has topics of its own, so that what another left is not counted: a subscriber of everything sees it.
        let left = std::process::Command::new("mosquitto_sub")
            .args(["-p", broker.target().rsplit(':').next().unwrap(), "-t", "bench/#", "-W", "1"])
            .output();
        if let Ok(left) = left {
            assert_eq!(text(&left.stdout), "", "{name}");
        }
    });
}

#[test]
fn connections_are_counted_and_timed() {
    with_each_broker(|name, broker| {
        let report = broker.run(&["--scenario=connects-200"]);

        assert_eq!(report["connections"]["count"], 200, "{name}");
        assert!(report["connections"]["per_second"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["connections"]["broker_cpu_micros"].is_number(), "{report}");
        assert!(report["latency"]["p99_micros"].as_f64().unwrap() > 0.0, "{report}");
    });
}

#[test]
fn idle_connections_are_spread_over_processes() {
    with_each_broker(|name, broker| {
        let report = broker.run(&["--scenario=idle-250", "--processes=3"]);

        assert_eq!(report["connections"]["count"], 250, "{name}");
        // Other tests run the same program, which moves what is proportional.
        let bytes = report["connections"]["memory"]["rss_bytes_per_connection"].as_f64().unwrap();
        assert!((50.0..200_000.0).contains(&bytes), "{name}: {report}");
    });
}

#[test]
fn sessions_that_were_away_get_everything() {
    with_each_broker(|name, broker| {
        let report = broker.run(&["--scenario=away-3", "--messages=1000"]);

        assert_eq!(counts(&report), [3_000, 3_000, 0, 0, 0, 0], "{name}");
        assert_eq!(
            (&report["published"], &report["stored"]["sessions"]),
            (&Value::from(1_000), &Value::from(3))
        );
        assert!(report["stored"]["puback"]["p50_micros"].as_f64().unwrap() > 0.0, "{report}");
    });
}

#[test]
fn a_latency_scenario_brings_its_rate_along() {
    with_each_broker(|name, broker| {
        let report = broker.run(&["--scenario=latency", "--messages=1000"]);

        assert_eq!(
            (&report["rate_per_second"], &report["qos"]),
            (&Value::from(2_000), &Value::from(1)),
            "{name}"
        );
        assert!(report["seconds"].as_f64().unwrap() > 0.45, "{name}: {report}");
        assert!(report["latency"]["p999_micros"].as_f64().unwrap() > 0.0, "{name}: {report}");
    });
}

#[test]
fn a_broker_that_is_killed_in_the_middle_leaves_no_result() {
    with_each_broker(|name, broker| {
        let target = broker.target();
        let mut run = bench_command(&["run", "--target", &target, "--qos=1", "--rate=500", "--seconds=60"]);
        let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(700));
        let pid = nix::unistd::Pid::from_raw(broker.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();

        let output = run.wait_with_output().unwrap();

        assert_eq!(output.status.code(), Some(2), "{name}: {}", text(&output.stdout));
        assert!(text(&output.stderr).contains("connection"), "{name}: {}", text(&output.stderr));
    });
}

#[test]
fn growth_is_measured_along_every_dimension_and_judged() {
    let Some(program) = veilmq() else { return };
    let broker = format!("--broker=veilmq={}", program.display());
    let sizes = [
        "--connections=10,60",
        "--subscriptions=1,1500",
        "--fan-out=1,20",
        "--idle=40,80",
        "--rows=500,1000",
    ];
    let directory = tempfile::tempdir().unwrap();
    let plots = format!("--plots={}", directory.path().display());
    let measure = |sizes: &[&str], tolerance: &str| {
        let common = [
            "growth",
            &broker,
            &plots,
            "--deliveries=2000",
            "--rounds=1",
            "--json",
            "--tolerance",
            tolerance,
        ];
        bench(&[&common, sizes].concat())
    };

    let generous = measure(&sizes, "1000");
    assert!(generous.status.success(), "{}", text(&generous.stderr));
    let report: Value = serde_json::from_slice(&generous.stdout).unwrap();
    let curves = report["curves"].as_array().unwrap();
    assert_eq!(curves.len(), 5, "{report}");
    assert!(curves.iter().all(|curve| curve["points"].as_array().unwrap().len() == 2), "{report}");
    assert!(directory.path().join("growth-subscribers.svg").is_file());

    // No cost is as small as this.
    let strict =
        measure(&["--connections", "--subscriptions", "--idle", "--rows", "--fan-out=1,20"], "0.0001");
    assert_eq!(strict.status.code(), Some(1), "{}", text(&strict.stderr));
}

#[test]
fn the_named_scenarios_are_listed() {
    let output = bench(&["scenarios"]);

    assert!(output.status.success());
    let table = text(&output.stdout);
    for name in
        ["1-1000", "pairs-500", "shared-100-10", "wildcards-10000", "subscriptions-100000", "away-100"]
    {
        assert!(table.lines().any(|line| line.split_whitespace().next() == Some(name)), "{table}");
    }
}
