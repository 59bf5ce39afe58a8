//! The HTTP API as Mosquitto has it, from a `mosquitto.conf`: what it says, to whom, and which files it serves.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use veilmq_tests::certificates::Authority;
use veilmq_tests::drop_in::{Place, Running, v3};
use veilmq_tests::http::{Response, get, request};
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::tools::{built_program, run};

/// A broker with a listener for MQTT and one of the HTTP API.
struct Rig {
    place: Place,
    port: ReservedPort,
    running: Running,
}

impl Rig {
    /// `DIR` stands for the directory of the configuration.
    fn start(global: &str, api: &str) -> Self {
        let (place, port) = (Place::new(), ReservedPort::new());
        Self::write(&place, &port, global, api);
        fs::create_dir(place.path("site")).unwrap();
        fs::write(place.path("site/index.html"), "<p>here</p>").unwrap();
        let running =
            Running::start(&built_program("veilmq"), &place.path("mosquitto.conf"), place.port.number());
        Self { place, port, running }
    }

    fn write(place: &Place, port: &ReservedPort, global: &str, api: &str) {
        let text = format!(
            "{global}user root\nlistener {} 127.0.0.1\nlistener {} 127.0.0.1\nprotocol http_api\n{api}",
            place.port.number(),
            port.number()
        );
        let text = text.replace("DIR", place.directory.path().to_str().unwrap());
        fs::write(place.path("mosquitto.conf"), text).unwrap();
    }

    fn api(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number()).into()
    }

    fn status(&self, path: &str) -> u16 {
        get(self.api(), path).unwrap().status
    }

    fn json(&self, path: &str) -> Value {
        let Response { status, head, body } = get(self.api(), path).unwrap();
        assert_eq!(status, 200, "{head}");
        assert!(head.contains("Content-Type: application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    }
}

/// The header line that shows a user name and a password.
fn shown(encoded: &str) -> String {
    format!("Authorization: Basic {encoded}")
}

#[test]
fn it_says_what_the_broker_counts_and_which_listeners_there_are() {
    let rig = Rig::start("allow_anonymous true\n", "");

    let version = get(rig.api(), "/api/v1/version?any=query").unwrap();
    assert_eq!((version.status, &*version.body), (200, env!("CARGO_PKG_VERSION")));
    let listener = |port: u16, protocol: &str| json!({"port": port, "protocol": protocol, "tls": false, "mtls": false, "allow_anonymous": true});
    assert_eq!(
        rig.json("/api/v1/listeners"),
        json!({"listeners": [listener(rig.place.port.number(), "mqtt"), listener(rig.port.number(), "httpapi")]})
    );
    let before = rig.json("/api/v1/systree");
    assert_eq!(before["$SYS/broker/clients/total"], 0);
    let mut client = TcpStream::connect(rig.running.address).unwrap();
    client.write_all(&v3("c", true)).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let now = rig.json("/api/v1/systree");
    for (name, value) in [
        ("clients/connected", 1),
        ("clients/maximum", 1),
        ("messages/received", 1),
        ("messages/sent", 1),
        ("subscriptions/count", 0),
    ] {
        assert_eq!(now[format!("$SYS/broker/{name}")], value, "{name}");
    }
    assert!(now["$SYS/broker/uptime"].is_u64() && now["$SYS/broker/heap/current"].as_u64() > Some(0));
}

#[test]
fn only_get_is_served_and_each_request_has_a_connection() {
    let rig = Rig::start("allow_anonymous true\n", "");

    for (method, path, status) in
        [("POST", "/api/v1/version", 405), ("PUT", "/", 405), ("GET", "/api/other", 404), ("GET", "/", 404)]
    {
        assert_eq!(request(rig.api(), method, path, &[], "").unwrap().status, status, "{method} {path}");
    }
    let mut stream = TcpStream::connect(rig.api()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let ask = b"GET /api/v1/version HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(&[&ask[..], ask].concat()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 1, "{answers}");
    assert!(answers.contains("\r\nConnection: close\r\n"), "{answers}");
    let body = request(rig.api(), "POST", "/api/v1/version", &[], &"x".repeat(50_000)).unwrap();
    assert_eq!(body.status, 405);
    let mut endless = TcpStream::connect(rig.api()).unwrap();
    endless.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The answer may be there before all of it is written.
    let _ = endless.write_all(&[&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 20_000]].concat());
    let mut answer = [0; 12];
    endless.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[test]
fn files_of_its_directory_are_served_and_no_others() {
    let rig = Rig::start("allow_anonymous true\n", "http_dir DIR/site\n");

    let page = get(rig.api(), "/").unwrap();
    assert_eq!((page.status, &*page.body), (200, "<p>here</p>"));
    assert!(page.head.contains("Content-Type: text/html; charset=utf-8"), "{}", page.head);
    assert_eq!(get(rig.api(), "/index.html").unwrap().body, "<p>here</p>");
    for path in ["/absent", "../mosquitto.conf", "/../mosquitto.conf", "/%2e%2e/mosquitto.conf", "/api/v1"] {
        assert_eq!(rig.status(path), 404, "{path}");
    }
}

#[test]
fn users_have_the_passwords_and_the_rules_of_clients() {
    let place = Place::new();
    let mut command = Command::new(built_program("veilmq"));
    command.args(["passwd", "-c", "-b", "-H", "sha512"]).arg(place.path("passwords")).args(["ann", "secret"]);
    assert!(run(&mut command, 60).status.success());
    fs::write(place.path("rules"), "topic read /api/v1/version\nuser ann\ntopic read /api/#\n").unwrap();
    let global = format!(
        "password_file {0}/passwords\nacl_file {0}/rules\nallow_anonymous true\n",
        place.directory.path().display()
    );
    let rig = Rig::start(&global, "");
    let ask = |path: &str, headers: &[&str]| request(rig.api(), "GET", path, headers, "").unwrap();
    let (ann, wrong) = (shown("YW5uOnNlY3JldA=="), shown("YW5uOndyb25n"));

    for (path, headers, status) in [
        ("/api/v1/version", &[][..], 200),
        ("/api/v1/systree", &[], 401),
        ("/api/v1/systree", &[&*ann], 200),
        ("/api/v1/systree", &[&*wrong], 401),
        ("/api/v1/version", &[&*wrong], 401),
    ] {
        assert_eq!(ask(path, headers).status, status, "{path} {headers:?}");
    }
    let refused = ask("/api/v1/systree", &[]);
    assert_eq!(refused.body, "Not authorised\n");
    assert!(refused.head.contains("WWW-Authenticate: Basic realm="), "{}", refused.head);
    Rig::write(&rig.place, &rig.port, &global.replace("anonymous true", "anonymous false"), "");
    rig.running.signal(Signal::SIGHUP);
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.status("/api/v1/version") != 401 {
        assert!(Instant::now() < deadline, "the reload does not concern it");
    }
    assert_eq!(ask("/api/v1/version", &[&ann]).status, 200);
}

#[test]
fn it_is_served_over_tls_too_and_comes_and_goes_with_a_reload() {
    let authority = Authority::new();
    let certificate = authority.issue_for_this_machine();
    let tls =
        format!("certfile {}\nkeyfile {}\n", certificate.certificate.display(), certificate.key.display());
    let global = "allow_anonymous true\n";
    let rig = Rig::start(global, &tls);

    let mut stream = TlsClient::new(&authority, None).open(rig.api()).unwrap();
    stream.write_all(b"GET /api/v1/listeners HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let listed: Value = serde_json::from_str(body).unwrap();
    assert_eq!(listed["listeners"][1]["tls"], true);

    let conf = rig.place.path("mosquitto.conf");
    let whole = fs::read_to_string(&conf).unwrap();
    let without = whole.split_once(&format!("listener {}", rig.port.number())).unwrap().0.to_owned();
    let reload = |text: &str, is_served: bool| {
        fs::write(&conf, text).unwrap();
        rig.running.signal(Signal::SIGHUP);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TlsClient::new(&authority, None).open(rig.api()).is_ok() != is_served {
            assert!(Instant::now() < deadline, "served: {}", !is_served);
        }
    };
    reload(&without, false);
    reload(&whole, true);
}
