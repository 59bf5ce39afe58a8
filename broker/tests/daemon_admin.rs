//! The answers of the admin listener, over real HTTP.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use daemon_support::{authority, certificate};
use tempfile::TempDir;
use veilmq::admin::health::{self, HealthError};
use veilmq::admin::metrics::MetricSource;
use veilmq::admin::{AdminServer, AdminState, Pulse, Readiness, Status};
use veilmq::trust::{TrustFolder, TrustKeeper};
use veilmq_config::{Mode, VeilConfig};
use veilmq_core::{Sample, SampleKind, Settings, Shared};
use veilmq_protocol::veil::{Certificate, Roles};

/// The headers of a program on this machine.
const PROGRAM: &str = "Host: localhost:9090\r\nContent-Type: application/octet-stream\r\n";
const BROKER_CERTIFICATE: &[u8] = b"the public certificate of the broker";

struct Admin {
    state: Arc<AdminState>,
    shared: Arc<Shared>,
    server: AdminServer,
    _data: TempDir,
}

impl Admin {
    fn start(mode: Mode) -> Self {
        let data = tempfile::tempdir().unwrap();
        let shared = Shared::new(Settings::default(), [0; 16], None);
        let folder = TrustFolder::in_data_dir(data.path());
        let trust = Arc::new(TrustKeeper::new(folder, &VeilConfig::default(), Arc::clone(&shared)).unwrap());
        let state = Arc::new(AdminState::new(mode, 2, BROKER_CERTIFICATE.to_vec(), trust));
        let server = AdminServer::start("127.0.0.1:0".parse().unwrap(), Arc::clone(&state)).unwrap();
        Self { state, shared, server, _data: data }
    }

    /// Sends a request as a program would and returns the status and the body of the answer.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.request_with(method, path, PROGRAM, body)
    }

    fn request_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        request(self.server.address(), method, path, headers, body)
    }

    fn get(&self, path: &str) -> (u16, String) {
        let (status, body) = self.request("GET", path, b"");
        (status, String::from_utf8(body).unwrap())
    }
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.0\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end_of_head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end_of_head + 4..].to_vec())
}

struct Counts(u64, u64);

impl MetricSource for Counts {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        let sample = |qos, value| Sample {
            name: "veilmq_messages_received_total",
            help: "Application Messages received from clients.",
            kind: SampleKind::Counter,
            label: Some(("qos", qos)),
            value,
        };
        visit(sample("0", self.0));
        visit(sample("1", self.1));
    }
}

/// Shards of which the second answers only if it is alive.
struct Shards {
    turns: AtomicU64,
    second_is_alive: bool,
}

impl Pulse for Shards {
    fn ping(&self) -> Vec<u64> {
        let turns = self.turns();
        self.turns.fetch_add(1, Ordering::Relaxed);
        turns
    }

    fn turns(&self) -> Vec<u64> {
        let turns = self.turns.load(Ordering::Relaxed);
        vec![turns, if self.second_is_alive { turns } else { 0 }]
    }
}

#[test]
fn samples_of_all_shards_are_added_up() {
    let admin = Admin::start(Mode::Development);
    admin.state.add_metrics(Arc::new(Counts(3, 10)));
    admin.state.add_metrics(Arc::new(Counts(4, 20)));

    let (status, page) = admin.get("/metrics");

    assert_eq!(status, 200);
    assert!(page.contains("\nveilmq_messages_received_total{qos=\"0\"} 7\n"), "{page}");
    assert!(page.contains("\nveilmq_messages_received_total{qos=\"1\"} 30\n"), "{page}");
    assert!(page.contains("# TYPE veilmq_messages_received_total counter"), "{page}");
}

#[test]
fn counters_follow_their_source_from_scrape_to_scrape() {
    struct Growing(AtomicU64);
    impl MetricSource for Growing {
        fn visit(&self, visit: &mut dyn FnMut(Sample)) {
            Counts(self.0.fetch_add(5, Ordering::Relaxed), 0).visit(visit);
        }
    }
    let admin = Admin::start(Mode::Development);
    admin.state.add_metrics(Arc::new(Growing(AtomicU64::new(1))));

    for expected in ["} 1\n", "} 6\n"] {
        let (_, page) = admin.get("/metrics");

        assert!(page.contains(&format!("veilmq_messages_received_total{{qos=\"0\"{expected}")), "{page}");
    }
}

#[test]
fn the_page_names_the_build_and_the_process() {
    let admin = Admin::start(Mode::Development);

    let (_, page) = admin.get("/metrics");

    for expected in [
        concat!("veilmq_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\""),
        "veilmq_start_time_seconds ",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(page.contains(&format!("\n{expected}")), "{expected}: {page}");
    }
}

#[test]
fn promtool_has_nothing_to_complain_about() {
    let admin = Admin::start(Mode::Development);
    admin.state.add_metrics(Arc::new(Counts(1, 2)));
    let (_, page) = admin.get("/metrics");
    let promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        assert!(std::env::var_os("CI").is_none(), "promtool is not installed");
        return eprintln!("not checked: promtool is not installed");
    };
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();

    let output = promtool.wait_with_output().unwrap();

    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn readiness_follows_the_life_of_the_broker() {
    let admin = Admin::start(Mode::Configured);
    for (change, status, expected) in [
        (None, 503, "\"status\":\"starting\""),
        (Some(Status::Ready), 200, "\"status\":\"ready\""),
        (Some(Status::Draining), 503, "\"status\":\"draining\""),
    ] {
        if let Some(change) = change {
            admin.state.update(|readiness| readiness.status = change);
        }

        let (answered, body) = admin.get("/readyz");

        assert_eq!(answered, status);
        assert!(body.contains(expected) && body.contains("\"mode\":\"configured\""), "{body}");
    }
}

#[test]
fn a_quarantined_store_is_part_of_the_readiness() {
    let admin = Admin::start(Mode::Configured);
    admin.state.update(|readiness| readiness.storage_quarantined = Some("/data/quarantine-1".into()));

    let (_, body) = admin.get("/readyz");

    assert!(body.contains("\"storage_quarantined\":\"/data/quarantine-1\""), "{body}");
}

#[test]
fn a_broker_whose_storage_takes_nothing_new_is_not_ready_and_says_why() {
    let admin = Admin::start(Mode::Configured);
    let full = "storage is full: 5 bytes free of a reserve of 9";
    admin.state.update(|readiness| readiness.storage(Some(full.into())));
    assert!(admin.get("/readyz").1.contains("\"status\":\"starting\""), "it is not ready before it serves");
    assert_eq!(admin.get("/readyz/clients").0, 503);

    admin.state.update(Readiness::serve);
    let (status, body) = admin.get("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("\"status\":\"impaired\"") && body.contains(full), "{body}");
    assert_eq!(admin.get("/readyz/clients").0, 200, "clients may take what waits for them");

    admin.state.update(|readiness| readiness.storage(None));
    let (status, body) = admin.get("/readyz");
    assert_eq!(status, 200);
    assert!(body.contains("\"status\":\"ready\"") && body.contains("\"storage\":null"), "{body}");
}

#[test]
fn a_broker_is_alive_while_it_starts_and_while_every_shard_turns() {
    let admin = Admin::start(Mode::Configured);
    assert_eq!(admin.get("/livez").0, 200);

    admin.state.watch(Arc::new(Shards { turns: AtomicU64::new(0), second_is_alive: true }));

    assert_eq!(admin.get("/livez").0, 200);
    assert_eq!(admin.get("/healthz").0, 200);
}

#[test]
fn a_shard_that_does_not_turn_is_named() {
    let admin = Admin::start(Mode::Configured);
    admin.state.watch(Arc::new(Shards { turns: AtomicU64::new(0), second_is_alive: false }));

    let (status, body) = admin.get("/livez");

    assert_eq!(status, 503);
    assert!(body.contains("\"shards\":[1]"), "{body}");
}

#[test]
fn the_public_certificate_is_handed_out() {
    let admin = Admin::start(Mode::Configured);

    assert_eq!(admin.request("GET", "/veil/identity", b""), (200, BROKER_CERTIFICATE.to_vec()));
}

#[test]
fn a_broker_in_development_mode_takes_an_authority_at_once() {
    let admin = Admin::start(Mode::Development);

    let (status, body) = admin.request("POST", "/veil/trust", authority(1).as_bytes());

    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let trusted: Vec<_> = admin.shared.trust().read().unwrap().iter().map(Certificate::kid).collect();
    assert_eq!(trusted, [authority(1).kid()]);
}

#[test]
fn a_broker_in_development_mode_gives_an_authority_up_again() {
    let admin = Admin::start(Mode::Development);
    let (taken, kept) = (authority(1), authority(2));
    for authority in [&taken, &kept] {
        assert_eq!(admin.request("POST", "/veil/trust", authority.as_bytes()).0, 200);
    }
    let path = format!("/veil/trust/{}", taken.kid());

    assert_eq!(admin.request_with("DELETE", &path, "Host: rebound.example\r\n", b"").0, 403);
    assert_eq!(admin.request_with("DELETE", "/veil/trust/all", PROGRAM, b"").0, 400);
    assert_eq!(admin.request_with("DELETE", &path, PROGRAM, b"").0, 200);

    let trusted: Vec<_> = admin.shared.trust().read().unwrap().iter().map(Certificate::kid).collect();
    assert_eq!(trusted, [kept.kid()]);
    assert_eq!(admin.request_with("DELETE", &path, PROGRAM, b"").0, 404);
    let configured = Admin::start(Mode::Configured);
    assert_eq!(configured.request_with("DELETE", &path, PROGRAM, b"").0, 403);
}

#[test]
fn an_authority_is_refused_with_a_sentence() {
    let device = certificate("device-7", 3, 1, Roles::PUBLISHER);
    for (mode, body, status, expected) in [
        (Mode::Configured, authority(1).as_bytes(), 403, "has a configuration file"),
        (Mode::Development, device.as_bytes(), 400, "is not an authority's"),
        (Mode::Development, b"VMC", 400, "request body: certificate"),
        (Mode::Development, &[0; 5_000], 413, "length limit exceeded"),
    ] {
        let admin = Admin::start(mode);

        let (answered, answer) = admin.request("POST", "/veil/trust", body);

        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answered, status, "{answer}");
        assert!(answer.contains(expected), "{answer}");
        assert_eq!(admin.shared.trust().read().unwrap().iter().count(), 0);
    }
}

#[test]
fn an_authority_is_not_taken_from_a_page_in_a_browser_on_this_machine() {
    let of_type = "Content-Type: application/octet-stream\r\n";
    for (headers, status, expected) in [
        (format!("Host: 127.0.0.1:9090\r\nOrigin: https://evil.example\r\n{of_type}"), 403, "web page"),
        (format!("Host: 127.0.0.1:9090\r\nOrigin: null\r\n{of_type}"), 403, "web page"),
        (format!("Host: rebound.example:9090\r\n{of_type}"), 403, "loopback"),
        (format!("Host: 127.0.0.1.rebound.example\r\n{of_type}"), 403, "loopback"),
        (format!("Host: 192.0.2.7:9090\r\n{of_type}"), 403, "loopback"),
        (of_type.to_owned(), 403, "loopback"),
        ("Host: 127.0.0.1:9090\r\nContent-Type: text/plain\r\n".to_owned(), 415, "octet-stream"),
        ("Host: 127.0.0.1:9090\r\n".to_owned(), 415, "octet-stream"),
    ] {
        let admin = Admin::start(Mode::Development);

        let (answered, answer) = admin.request_with("POST", "/veil/trust", &headers, authority(1).as_bytes());

        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answered, status, "{headers} {answer}");
        assert!(answer.contains(expected), "{answer}");
        assert_eq!(admin.shared.trust().read().unwrap().iter().count(), 0, "{headers}");
    }
}

#[test]
fn every_name_of_this_machine_is_good_for_adding_an_authority() {
    for host in ["localhost", "LocalHost:9090", "127.0.0.1:9090", "127.1.2.3", "[::1]:9090", "[::1]"] {
        let admin = Admin::start(Mode::Development);
        let headers = format!("Host: {host}\r\nContent-Type: application/octet-stream\r\n");

        let (status, _) = admin.request_with("POST", "/veil/trust", &headers, authority(1).as_bytes());

        assert_eq!(status, 200, "{host}");
    }
}

#[test]
fn the_health_check_tells_ready_from_not_ready_and_from_nobody() {
    let admin = Admin::start(Mode::Configured);
    let address = admin.server.address();

    let starting = health::ask_at(Some(address)).unwrap_err();
    admin.state.update(|readiness| readiness.status = Status::Ready);
    let ready = health::ask_at(Some(SocketAddr::new("0.0.0.0".parse().unwrap(), address.port()))).unwrap();
    drop(admin);
    let gone = health::ask_at(Some(address)).unwrap_err();

    assert!(matches!(starting, HealthError::NotReady { .. }), "{starting}");
    assert!(ready.contains("\"status\":\"ready\""), "{ready}");
    assert!(matches!(gone, HealthError::NoAnswer { .. }), "{gone}");
    assert!(matches!(health::ask_at(None), Err(HealthError::Off)));
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let admin = Admin::start(Mode::Configured);
    let address = admin.server.address();

    let error = AdminServer::start(address, Arc::clone(&admin.state)).err().unwrap().to_string();

    assert!(error.starts_with(&format!("cannot listen on {address}")), "{error}");
}
