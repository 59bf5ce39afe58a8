//! What operators do over HTTP: who is let in, what they see, and what becomes of clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use veilmq_tests::broker::Broker;
use veilmq_tests::http::{self, Response};
use veilmq_tests::tools::{require_tool, run, workspace_root};
use veilmq_tests::waiting::wait_until_or;
use veilmq_tests::wire::{Wire, packet, publish_packet, push_string};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A broker that can be administered, with two shards.
fn broker() -> Broker {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let token = folder.keep().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("the token can be written");
    Broker::start_configured(|address| configuration(address, &token.display().to_string()))
}

fn configuration(address: SocketAddr, token: &str) -> String {
    format!(
        "[[listeners]]\naddress = \"{address}\"\n[admin]\ntoken_file = \"{token}\"\n[access]\nanonymous = true\n[shards]\ncount = 2\n"
    )
}

fn call(broker: &Broker, method: &str, path: &str, body: &str) -> Response {
    let authorization = format!("Authorization: Bearer {TOKEN}");
    http::request(broker.admin(), method, &format!("/api/v1{path}"), &[&authorization], body)
        .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Makes a call that must succeed.
fn ask(broker: &Broker, method: &str, path: &str, body: &str) -> Value {
    let answer = call(broker, method, path, body);
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
    serde_json::from_str(&answer.body).expect("the answer is JSON")
}

fn connect_v5(broker: &Broker, client_id: &str) -> Wire {
    let mut wire = Wire::open(broker.address());
    let length = u8::try_from(client_id.len()).expect("a short Client Identifier");
    let body = [b"\0\x04MQTT\x05\x02\0\x3c\0\0".as_slice(), &[length], client_id.as_bytes()].concat();
    wire.send(&packet(0x10, &body)).expect("CONNECT can be sent");
    assert_eq!(wire.packet().expect("CONNACK arrives").first, 0x20);
    wire
}

/// A PUBLISH of QoS 1 with RETAIN.
fn retained(topic: &str, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, topic);
    body.extend_from_slice(&packet_id.to_be_bytes());
    body.extend_from_slice(payload);
    packet(0x33, &body)
}

/// The values of `key` in a list.
fn column<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().expect("a list").iter().filter_map(|entry| entry[key].as_str()).collect()
}

#[test]
fn nobody_is_let_in_without_the_token() {
    let broker = broker();
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    for header in
        ["X-Nothing: 1", &bearer(""), &bearer(&TOKEN[1..]), &format!("Authorization: Basic {TOKEN}")]
    {
        for (method, path) in [("GET", "/sessions"), ("DELETE", "/sessions/x"), ("POST", "/reload")] {
            let path = format!("/api/v1{path}");
            let answer = http::request(broker.admin(), method, &path, &[header], "").unwrap();

            assert_eq!(answer.status, 401, "{header}: {method} {path}");
        }
    }
    assert_eq!(broker.metric("veilmq_admin_refused_total"), Some(12.0));
    assert_eq!(broker.get("/metrics").status, 200, "metrics stay open");
}

#[test]
fn without_a_token_file_nobody_can_administer_the_broker() {
    let broker = Broker::start();

    let answer = call(&broker, "GET", "/sessions", "");

    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("admin.token_file"), "{}", answer.body);
}

#[test]
fn sessions_come_in_pages_in_the_order_of_their_client_identifiers() {
    let broker = broker();
    let names: Vec<String> = (0..25).map(|number| format!("device-{number:02}")).collect();
    let _wires: Vec<Wire> = names.iter().map(|name| Wire::connect(broker.address(), name, true).0).collect();
    let (away, _) = Wire::connect(broker.address(), "away", false);
    drop(away);
    let _other = connect_v5(&broker, "other");

    let mut seen = Vec::new();
    let mut path = "/clients?prefix=device-&limit=10".to_owned();
    let mut pages = 0;
    loop {
        let page = ask(&broker, "GET", &path, "");
        seen.extend(column(&page["sessions"], "client_id").iter().map(ToString::to_string));
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/clients?prefix=device-&limit=10&after={next}");
    }
    assert_eq!((seen, pages), (names, 3));

    let until = Instant::now() + Duration::from_secs(10);
    let mut away = ask(&broker, "GET", "/sessions?connected=false", "");
    while column(&away["sessions"], "client_id") != ["away"] && Instant::now() < until {
        away = ask(&broker, "GET", "/sessions?connected=false", "");
    }
    assert_eq!(column(&away["sessions"], "client_id"), ["away"], "{away}");
    assert_eq!(away["sessions"][0]["connection"], Value::Null);

    for query in ["limit=0", "limit=1001", "limit=x", "unknown=1", "connected=perhaps"] {
        assert_eq!(call(&broker, "GET", &format!("/sessions?{query}"), "").status, 400, "{query}");
    }
}

#[test]
fn one_session_is_shown_with_its_connection_and_its_subscriptions() {
    let broker = broker();
    let (mut wire, _) = Wire::connect(broker.address(), "a/b %", false);
    wire.subscribe("house/+/temperature", 1);

    let shown = ask(&broker, "GET", "/sessions/a%2Fb%20%25", "");

    assert_eq!(shown["client_id"], "a/b %");
    assert_eq!(shown["durable"], true);
    assert_eq!(shown["connection"]["protocol"], "3.1.1");
    assert_eq!(shown["connection"]["channel"], false);
    assert!(shown["connection"]["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
    let subscription = &shown["subscription_list"][0];
    assert_eq!((&subscription["filter"], &subscription["qos"]), (&json!("house/+/temperature"), &json!(1)));
    assert_eq!(call(&broker, "GET", "/sessions/nobody", "").status, 404);
}

#[test]
fn a_disconnected_client_is_told_administrative_action_and_a_deleted_session_is_gone() {
    // [MQTT-3.14.2-1] The Reason Code of section 3.14.2.1 that an operator's wish has.
    let broker = broker();
    let mut wire = connect_v5(&broker, "guest");

    let answer = ask(&broker, "POST", "/sessions/guest/disconnect", "");

    assert_eq!(answer, json!({ "client_id": "guest", "was_connected": true }));
    let farewell = wire.packet().expect("DISCONNECT arrives");
    assert_eq!((farewell.first, farewell.body.first()), (0xe0, Some(&0x98)));
    assert_eq!(broker.metric("veilmq_connections_closed_total{reason=\"dismissed\"}"), Some(1.0));
    assert_eq!(call(&broker, "POST", "/sessions/guest/disconnect", "").status, 404, "it ended with it");

    let (mut sleeper, _) = Wire::connect(broker.address(), "sleeper", false);
    sleeper.subscribe("news", 1);
    ask(&broker, "POST", "/sessions/sleeper/disconnect", "");
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    publisher.send(&publish_packet("news", 1, 1, false, b"1")).unwrap();
    assert_eq!(publisher.packet().unwrap().first, 0x40);
    let until = Instant::now() + Duration::from_secs(10);
    while broker.metric("veilmq_queued_messages") != Some(1.0) && Instant::now() < until {}
    let ended = ask(&broker, "DELETE", "/sessions/sleeper", "");
    assert_eq!(ended, json!({ "client_id": "sleeper", "was_connected": false, "dropped_messages": 1 }));
    let (_wire, session_present) = Wire::connect(broker.address(), "sleeper", false);
    assert!(!session_present);
}

#[test]
fn retained_messages_are_listed_by_topic_and_by_size_and_never_with_their_payloads() {
    let broker = broker();
    let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
    for (number, (topic, bytes)) in
        [("house/a", 10_usize), ("house/b", 3_000), ("house/c", 200), ("garden", 1)].into_iter().enumerate()
    {
        let id = u16::try_from(number + 1).unwrap();
        wire.send(&retained(topic, id, &vec![b'P'; bytes])).unwrap();
        assert_eq!(wire.packet().unwrap().first, 0x40);
    }

    let by_topic = ask(&broker, "GET", "/retained?filter=house/%23&limit=2", "");
    let behind = ask(&broker, "GET", "/retained?filter=house/%23&limit=2&after=house/b", "");
    let by_size = ask(&broker, "GET", "/retained?order=size&limit=3", "");
    let large = ask(&broker, "GET", "/retained?bytes_min=200", "");

    assert_eq!(column(&by_topic["retained"], "topic"), ["house/a", "house/b"]);
    assert_eq!((&by_topic["next"], &by_topic["messages"]), (&json!("house/b"), &json!(4)));
    assert_eq!(column(&behind["retained"], "topic"), ["house/c"]);
    assert_eq!(behind["next"], Value::Null);
    assert_eq!(column(&by_size["retained"], "topic"), ["house/b", "house/c", "house/a"]);
    assert_eq!(by_size["retained"][0]["payload_bytes"], 3_000);
    assert_eq!(column(&large["retained"], "topic"), ["house/b", "house/c"]);
    assert!(!by_size.to_string().contains("PP"), "{by_size}");
    for query in ["filter=a%23", "order=size&after=x", "order=colour"] {
        assert_eq!(call(&broker, "GET", &format!("/retained?{query}"), "").status, 400, "{query}");
    }
}

#[test]
fn a_banned_address_cannot_connect_until_the_ban_is_lifted() {
    // [B14]
    let broker = broker();

    ask(&broker, "POST", "/bans", r#"{"address": "127.0.0.1", "seconds": 600}"#);

    assert_eq!(Wire::open(broker.address()).until_closed(), [0u8; 0]);
    let bans = ask(&broker, "GET", "/bans", "");
    assert_eq!(
        (&bans["bans"][0]["address"], &bans["bans"][0]["because_of"]),
        (&json!("127.0.0.1"), &json!("operator"))
    );
    ask(&broker, "DELETE", "/bans/address/127.0.0.1", "");
    let _ = Wire::connect(broker.address(), "again", true);
    assert_eq!(call(&broker, "DELETE", "/bans/address/127.0.0.1", "").status, 404);
    for body in [
        "",
        "{}",
        r#"{"address": "nowhere"}"#,
        r#"{"user": "a", "address": "::1"}"#,
        r#"{"user": "a", "seconds": 0}"#,
    ] {
        assert_eq!(call(&broker, "POST", "/bans", body).status, 400, "{body}");
    }
}

#[test]
fn the_log_level_changes_while_the_broker_runs() {
    let broker = broker();
    assert_eq!(ask(&broker, "GET", "/log", ""), json!({ "level": "info" }));

    ask(&broker, "PUT", "/log", r#"{"level": "error"}"#);
    let _quiet = Wire::connect(broker.address(), "quiet", true);
    ask(&broker, "PUT", "/log", r#"{"level": "info"}"#);
    let _loud = Wire::connect(broker.address(), "loud", true);

    wait_until_or(
        || broker.log().contains("loud"),
        || format!("no line of the loud client: {}", broker.log()),
    );
    assert!(!broker.log().contains("quiet"), "{}", broker.log());
    assert_eq!(call(&broker, "PUT", "/log", r#"{"level": "loud"}"#).status, 400);
}

#[test]
fn a_reload_answers_with_what_became_of_it() {
    // [B10]
    let broker = broker();
    let unchanged = json!({ "reloaded": true, "changed": [], "next_start": [] });
    assert_eq!(ask(&broker, "POST", "/reload", ""), unchanged);
    let file = broker.directory().join("veilmq.toml");
    let right = std::fs::read_to_string(&file).unwrap();

    std::fs::write(&file, format!("{right}[acl]\nfile = \"/nowhere/rules\"\n")).unwrap();
    let refused = call(&broker, "POST", "/reload", "");

    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("/nowhere/rules"), "{}", refused.body);
    assert_eq!(broker.metric("veilmq_config_last_reload_successful"), Some(0.0));
    std::fs::write(&file, right).unwrap();
    ask(&broker, "POST", "/reload", "");
    assert_eq!(broker.metric("veilmq_config_last_reload_successful"), Some(1.0));
}

#[test]
fn the_page_is_one_document_that_a_browser_may_not_add_anything_to() {
    let broker = Broker::start();

    let page = broker.get("/");

    assert_eq!(page.status, 200);
    let head = page.head.to_lowercase();
    let policy =
        head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(page.body.starts_with("<!doctype html>"));
}

#[test]
fn every_line_of_the_handbook_works() {
    let Some(_) = require_tool("curl") else { return };
    let broker = broker();
    let (mut wire, _) = Wire::connect(broker.address(), "thermostat-1", false);
    let _ = Wire::connect(broker.address(), "thermostat-2", false);
    wire.send(&retained("house/kitchen", 1, b"21")).unwrap();
    let handbook = std::fs::read_to_string(workspace_root().join("docs/operations.md")).unwrap();
    let lines: Vec<&str> = handbook.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(lines.len() >= 15, "{lines:?}");

    for line in lines {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("ADMIN", format!("http://{}", broker.admin()));
        let output = run(shell.env("AUTH", format!("Authorization: Bearer {TOKEN}")), 30);

        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {text}");
        assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok(), "{line}");
    }
}

#[test]
fn a_request_whose_header_does_not_end_and_one_whose_body_is_too_large_are_refused() {
    let broker = broker();
    let mut slow = TcpStream::connect(broker.admin()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").unwrap();
    let began = Instant::now();

    let large = call(&broker, "PUT", "/log", &" ".repeat(100_000));
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);

    assert_eq!(large.status, 413);
    assert!(began.elapsed() < Duration::from_secs(15), "the slow one was closed");
}

#[test]
fn idle_and_slow_connections_keep_no_probe_out() {
    let broker = broker();
    let body = b"POST /veil/trust HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n";
    for (name, said) in [("idle", &b""[..]), ("in a header", b"GET /livez HTTP/1.1\r\n"), ("in a body", body)]
    {
        let crowd: Vec<TcpStream> = (0..100)
            .map(|_| {
                let mut stream = TcpStream::connect(broker.admin()).unwrap();
                stream.write_all(said).unwrap();
                stream
            })
            .collect();
        let began = Instant::now();

        for path in ["/livez", "/metrics", "/readyz"] {
            let answer = http::request(broker.admin(), "GET", path, &[], "").unwrap();
            assert_eq!(answer.status, 200, "{name}: {path}");
        }

        assert!(began.elapsed() < Duration::from_secs(5), "{name}: {:?}", began.elapsed());
        drop(crowd);
    }
}

#[test]
fn a_query_names_clients_and_users_that_no_path_can_hold() {
    let broker = broker();
    for name in [".", "..", "a/../b", "/", "a b&c=d%"] {
        let query: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (wire, _) = Wire::connect(broker.address(), name, false);

        let shown = ask(&broker, "GET", &format!("/session?client_id={query}"), "");
        ask(&broker, "POST", &format!("/session/disconnect?client_id={query}"), "");
        let _ = wire.until_closed();
        let ended = ask(&broker, "DELETE", &format!("/session?client_id={query}"), "");
        ask(&broker, "POST", "/bans", &json!({ "user": name }).to_string());
        ask(&broker, "DELETE", &format!("/bans?user={query}"), "");

        assert_eq!((&shown["client_id"], &ended["client_id"]), (&json!(name), &json!(name)));
        assert_eq!(call(&broker, "DELETE", &format!("/bans?user={query}"), "").status, 404);
    }
    for (method, path) in
        [("GET", "/session"), ("GET", "/session?client=x"), ("DELETE", "/bans?user=a&address=::1")]
    {
        assert_eq!(call(&broker, method, path, "").status, 400, "{method} {path}");
    }
}

#[test]
fn every_refusal_is_json_and_says_what_is_wrong() {
    let broker = broker();
    let large = format!("{{\"user\": \"{}\"}}", "a".repeat(70_000));
    for (method, path, body, status, words) in [
        ("GET", "/nope", "", 404, "nothing of this name"),
        ("GET", "/clients/", "", 404, "nothing of this name"),
        ("TRACE", "/clients", "", 405, "Method Not Allowed"),
        ("GET", "/sessions/%ff", "", 400, "UTF-8"),
        ("POST", "/bans", "[]", 400, "the body is a JSON object"),
        ("POST", "/bans", &large, 413, "limit"),
    ] {
        let answer = call(&broker, method, path, body);

        let said: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{}", answer.body));
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(said["error"].as_str().is_some_and(|said| said.contains(words)), "{said}");
    }
}

#[test]
fn the_name_of_the_scheme_has_no_case() {
    let broker = broker();
    for (scheme, status) in [("bearer", 200), ("BEARER", 200), ("Basic", 401), ("Bearerx", 401)] {
        let authorization = format!("Authorization: {scheme} {TOKEN}");
        let answer = http::request(broker.admin(), "GET", "/api/v1/bans", &[&authorization], "").unwrap();

        assert_eq!(answer.status, status, "{scheme}");
    }
}
