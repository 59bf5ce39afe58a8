//! Metrics, health and what never stands in a log.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use veilmq_tests::broker::Broker;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::{built_program, finish, require_tool, run, spawn, workspace_root};
use veilmq_tests::wire::{Wire, packet, publish_packet};

/// Publishes `payload` at QoS 1 to a live subscriber and returns when it has arrived.
fn exchange(broker: &Broker, payload: &[u8]) {
    let (mut subscriber, _) = Wire::connect(broker.address(), "subscriber", true);
    subscriber.subscribe("observed/#", 1);
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    publisher.send(&publish_packet("observed/a", 1, 1, false, payload)).expect("PUBLISH can be sent");
    assert_eq!(publisher.packet().expect("a PUBACK arrives").first, 0x40);
    assert_eq!(subscriber.packet().expect("the message arrives").first, 0x32);
}

#[test]
fn metrics_pass_promtool_and_count_what_happened() {
    let Some(promtool) = require_tool("promtool") else { return };
    let broker = Broker::start();
    exchange(&broker, b"reading");

    let metrics = broker.get("/metrics");

    assert_eq!(metrics.status, 200);
    let mut check = spawn(Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()));
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), metrics.body.as_bytes()).unwrap();
    let checked = finish(check, 30, "promtool");
    let complaints = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
    assert_eq!(broker.metric("veilmq_messages_received_total{qos=\"1\"}"), Some(1.0));
    assert_eq!(broker.metric("veilmq_messages_delivered_total{qos=\"1\"}"), Some(1.0));
    for name in ["veilmq_build_info", "veilmq_connections", "veilmq_start_time_seconds"] {
        assert!(metrics.body.contains(&format!("# TYPE {name} ")), "{name} is missing in:\n{}", metrics.body);
    }
}

#[test]
fn the_scrape_configuration_is_one_that_prometheus_takes() {
    let Some(promtool) = require_tool("promtool") else { return };
    let file = workspace_root().join("deploy/prometheus.yml");

    let checked = run(Command::new(promtool).args(["check", "config"]).arg(file), 30);

    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_running_broker_is_alive_ready_and_healthy() {
    let broker = Broker::start();

    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(broker.get(path).status, 200, "{path}");
    }
    assert_eq!(broker.get("/nothing").status, 404);
    assert_eq!(health(&broker.admin().to_string()), Some(0));
}

#[test]
fn health_fails_where_no_broker_answers() {
    let nobody = ReservedPort::new();

    assert_eq!(health(&nobody.address().to_string()), Some(1));
}

fn health(admin: &str) -> Option<i32> {
    run(Command::new(built_program("veilmq")).args(["health", "--admin", admin]), 30).status.code()
}

#[test]
fn payloads_and_credentials_never_stand_in_the_log() {
    let broker = Broker::start_with(&["-v"]);
    exchange(&broker, b"payload-that-is-nobodys-business");
    let mut wire = Wire::open(broker.address());
    wire.send(&packet(0x10, b"\0\x04MQTT\x04\xc2\0\x3c\0\x04with\0\x04user\0\x0eword-of-no-log")).unwrap();
    // Whether such a client is let in is not the point here.
    let _ = wire.packet();

    let log = broker.log();

    assert!(log.contains("subscriber"), "connections are logged with -v: {log}");
    for secret in ["nobodys-business", "word-of-no-log"] {
        assert!(!log.contains(secret), "{secret} stands in the log:\n{log}");
    }
}

#[test]
fn a_refused_password_is_logged_with_the_user_it_was_for() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("passwords");
    let made = run(
        Command::new(built_program("veilmq"))
            .args(["passwd", "-c", "-b"])
            .arg(&passwords)
            .args(["ann", "right"]),
        30,
    );
    assert!(made.status.success());
    let broker = Broker::start_configured(|address| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[access]\npassword_file = \"{}\"\n",
            passwords.display()
        )
    });
    let mut wire = Wire::open(broker.address());

    wire.send(&packet(0x10, b"\0\x04MQTT\x04\xc2\0\x3c\0\x04with\0\x03ann\0\x05wrong")).unwrap();
    assert_eq!(wire.packet().unwrap().first, 0x20);

    let log = log_with(&broker.directory().join("log"), "connection refused");
    let line = log.lines().find(|line| line.contains("connection refused")).unwrap();
    assert!(
        line.contains("user=\"ann\"") && line.contains("client=\"with\"") && !log.contains("wrong\""),
        "{line}"
    );
}

/// What a log says once it has a line with these words, which is written a moment after the client has its answer.
fn log_with(file: &Path, words: &str) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let log = std::fs::read_to_string(file).unwrap_or_default();
        if log.ends_with('\n') && log.contains(words) {
            return log;
        }
        assert!(Instant::now() < until, "no {words:?} in {log:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_lines_for_connections_a_probe_leaves_none_and_a_refusal_does() {
    let file = tempfile::tempdir().unwrap();
    let log = file.path().join("log");
    let broker = Broker::start_configured(|address| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[log]\nconnections = false\ndestinations = [\"stderr\", \"{}\"]\n",
            log.display()
        )
    });
    drop(Wire::open(broker.address()));
    let until = Instant::now() + Duration::from_secs(10);
    while broker.metric("veilmq_connections_closed_total{reason=\"closed\"}") != Some(1.0) {
        assert!(Instant::now() < until, "the probe is not over");
    }

    let mut wire = Wire::open(broker.address());
    wire.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\x3c\0\x07refused")).unwrap();
    assert_eq!(wire.packet().unwrap().body, [0, 5]);
    assert_eq!(wire.until_closed(), [0_u8; 0]);

    let text = log_with(&log, "connection refused");
    assert_eq!(text.matches("connection refused").count(), 1, "{text}");
    assert!(text.contains("client=\"refused\""), "{text}");
    let mode = std::fs::metadata(&log).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "there are names in it");
}
