//! The load generator as a whole against Debian's mosquitto: what it counts, what it prints, what it leaves.
//!
//! Without mosquitto these tests say so and pass, except where `CI` is set: there its absence is a failure.

#![expect(clippy::unwrap_used, reason = "every failure here is a failed test")]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Broker, bench, bench_command, free_port, mosquitto, text};

#[test]
fn compare_measures_every_row_without_losses_and_leaves_no_broker_behind() {
    let Some(mosquitto) = mosquitto() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (file, temporary) = (directory.path().join("report.json"), directory.path().join("temporary"));
    std::fs::create_dir(&temporary).unwrap();

    let compare = bench_command(&[
        "compare",
        &format!("--brokers=mosquitto={0},mosquitto-again={0}", mosquitto.display()),
        "--rounds=2",
        "--scenarios=1-1,1-5,5-1,pairs-2",
        "--qos=0,1,2",
        "--deliveries=2000",
        "--latency-rate=1000",
        "--latency-seconds=1",
        "--connections=50",
        "--connects=40",
        "--retained=300",
        "--away=2",
        "--away-messages=1000",
        "--markdown",
        "--plots",
        directory.path().join("plots").to_str().unwrap(),
        "--json-file",
        file.to_str().unwrap(),
    ])
    .env("TMPDIR", &temporary)
    .output();

    let output = compare.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("| mosquitto-again / mosquitto |"), "{table}");
    assert_eq!(table.matches(": CPU per delivery ").count(), 12 + 3 + 3 + 1 + 2 + 1, "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["faults"], Value::Array(vec![]));
    // Two figures for each of 12 floods and of 3 over TLS, three for each of 3 latencies and of 3 kinds of connections (plain, TLS
    // and resumed), one for memory with and without TLS, two for retained messages and for each of 2 rows of durable pairs, and
    // ten for sessions that are away.
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 2 * (12 + 3) + 3 * (3 + 3) + 2 + 2 + 2 * 2 + 10);
    // What the kill has lost cannot be drained, so that those figures may have no sample.
    let is_certain = |figure: &&Value| !figure["row"].as_str().unwrap().contains("drain");
    for figure in figures.iter().filter(is_certain) {
        for cell in figure["cells"].as_array().unwrap() {
            assert_eq!(cell["samples"].as_array().unwrap().len(), 2, "{figure}");
        }
    }
    assert!(report["brokers"][0]["version"].as_str().unwrap().starts_with("mosquitto version"), "{report}");
    let page = std::fs::read_to_string(directory.path().join("plots/README.md")).unwrap();
    assert!(page.contains("mosquitto version") && page.contains("(cpu-per-delivery.svg)"), "{page}");
    assert_eq!(processes_that_name(&temporary), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn a_run_delivers_every_message_once_with_each_protocol_and_quality_of_service() {
    let Some(mosquitto) = mosquitto() else { return };
    let broker = Broker::start(&mosquitto);

    for protocol in ["3.1.1", "5"] {
        for qos in 0..=2 {
            for (scenario, due) in [("1-1", 3_001), ("1-7", 21_007), ("7-1", 3_001), ("pairs-3", 3_001)] {
                let report = broker.run(&[
                    &format!("--protocol={protocol}"),
                    &format!("--qos={qos}"),
                    &format!("--scenario={scenario}"),
                    "--messages=3001",
                    "--payload=16",
                    "--window=50",
                    "--inflight=20",
                    "--threads=2",
                ]);

                let counted = ["due", "delivered", "lost", "duplicates", "late", "foreign"]
                    .map(|field| report[field].as_u64().unwrap());
                assert_eq!(counted, [due, due, 0, 0, 0, 0], "{scenario} QoS {qos} MQTT {protocol}");
                assert!(report["broker_cpu"]["micros_per_delivery"].is_number(), "{report}");
                assert!(report["latency"].is_null(), "{report}");
            }
        }
    }
}

#[test]
fn a_fixed_rate_is_kept_and_its_latency_is_measured() {
    let Some(mosquitto) = mosquitto() else { return };
    let broker = Broker::start(&mosquitto);

    let report = broker.run(&["--qos=1", "--rate=500", "--seconds=2", "--scenario=2-1"]);

    assert_eq!((&report["published"], &report["delivered"]), (&Value::from(1000), &Value::from(1000)));
    assert!(report["seconds"].as_f64().unwrap() >= 1.99, "{report}");
    let percentiles = ["p50_micros", "p90_micros", "p99_micros", "p999_micros", "max_micros"]
        .map(|field| report["latency"][field].as_f64().unwrap());
    assert!(percentiles.is_sorted() && percentiles[0] > 0.0, "{report}");
}

#[test]
fn payloads_larger_than_every_buffer_arrive() {
    let Some(mosquitto) = mosquitto() else { return };
    let broker = Broker::start(&mosquitto);

    let report = broker.run(&["--qos=2", "--payload=300000", "--messages=50"]);

    assert_eq!(report["delivered"], 50, "{report}");
}

#[test]
fn a_broker_that_drops_messages_is_found_out() {
    let Some(mosquitto) = mosquitto() else { return };
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("acl");
    std::fs::write(&rules, "topic write bench/#\n").unwrap();
    // As root, mosquitto would otherwise change to a user who cannot read the file.
    let broker = Broker::start_with(&mosquitto, &format!("user root\nacl_file {}\n", rules.display()));

    let output = broker.output(&["--messages=10", "--stall-seconds=1"]);

    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["lost"], &report["delivered"]), (&Value::from(10), &Value::from(0)), "{report}");
    assert_eq!(report["stalled"], true);
}

#[test]
fn idle_connections_are_opened_and_weighed() {
    let Some(mosquitto) = mosquitto() else { return };
    let broker = Broker::start(&mosquitto);
    let (target, pid) = (broker.target(), broker.child.id().to_string());

    let output = bench(&["idle", "--target", &target, "--connections=300", "--broker-pid", &pid, "--json"]);

    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["connections"]["count"], 300);
    let bytes = report["connections"]["memory"]["pss_bytes_per_connection"].as_f64().unwrap();
    assert!((100.0..100_000.0).contains(&bytes), "{report}");
}

#[test]
fn a_terminated_comparison_takes_its_brokers_with_it() {
    let Some(mosquitto) = mosquitto() else { return };
    let temporary = tempfile::tempdir().unwrap();
    let brokers = format!("--brokers=mosquitto={}", mosquitto.display());
    let mut command = bench_command(&["compare", &brokers, "--rounds=1000", "--latency-rate=0"]);
    let mut compare =
        command.env("TMPDIR", temporary.path()).stderr(std::process::Stdio::piped()).spawn().unwrap();

    // The first line of progress means that all brokers run.
    let mut line = String::new();
    let mut progress = std::io::BufReader::new(compare.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut progress, &mut line).unwrap();
    assert_eq!(processes_that_name(temporary.path()).len(), 1, "{line}");
    let pid = nix::unistd::Pid::from_raw(compare.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();

    assert_eq!(compare.wait().unwrap().code(), Some(2));
    assert_eq!(processes_that_name(temporary.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn nobody_listening_is_one_clear_error() {
    let port = free_port();

    let output = bench(&["run", "--target", &format!("127.0.0.1:{port}")]);

    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.starts_with(&format!("veilmq-bench: cannot connect to 127.0.0.1:{port}")), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_remote_target_is_refused() {
    let output = bench(&["run", "--target", "192.0.2.1:1883"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--allow-remote"), "{}", text(&output.stderr));
}

/// Command lines of running processes that name `path`, as a broker started by `compare` names its directory.
fn processes_that_name(path: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(path.to_str().unwrap())).collect()
}
