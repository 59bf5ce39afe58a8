//! Users that a service answers for over HTTP, in the real broker, with a service that answers well, badly, late and not at all.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::mosquitto::Mosquitto;
use veilmq_tests::puppet::Version;
use veilmq_tests::service::{Question, Reply, Service};
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{RawPacket, Wire, acknowledgement, packet, publish_packet_v5, push_string};

const PUBLISH: u8 = 0x30;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xD0;
const DISCONNECT: u8 = 0xE0;
const BUSY: u8 = 0x89;
const BANNED: u8 = 0x8A;
const WRONG: u8 = 0x86;
const NOT_AUTHORIZED: u8 = 0x87;
const ALLOW: &str = r#"{"result":"allow"}"#;
/// A line of a password file: `secret`, as `mosquitto_passwd` hashes it.
const PASSWORD_OF_ANN: &str = "ann:$7$101$4Y4lf8KAzldcnjsX$HpKBFet4+kjW7YRZm9Pen637bJgt1qJxTKbHP9Fb8mXrRX+C6tiqgrYhT1MpSUkLIRZuP16dOTDJ3m42MOmtFQ==\n";

/// A broker that asks a service.
struct Side {
    broker: Broker,
    service: Service,
}

impl Side {
    /// `options` stand in `[access.http]`, `rest` behind it; in both `URL` is the service's and `DIR` the broker's directory.
    fn start(service: Service, options: &str, rest: &str) -> Self {
        let mut side = Self::stopped(service, options, rest);
        side.broker.restart();
        side
    }

    fn stopped(service: Service, options: &str, rest: &str) -> Self {
        let broker = Broker::configured(|address| {
            format!("shards.count = 2\n[[listeners]]\naddress = \"{address}\"\n")
        });
        let path = broker.directory().join("veilmq.toml");
        let head = fs::read_to_string(&path).unwrap();
        let text = format!("{head}[access.http]\nurl = \"URL/login?x=1\"\n{options}\n{rest}");
        let url = format!("http://{}", service.address());
        let text = text.replace("URL", &url).replace("DIR", &broker.directory().display().to_string());
        fs::write(path, text).unwrap();
        Self { broker, service }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.broker.directory().join(name), text).unwrap();
    }

    fn connect(&self, client_id: &str, user: &str, password: &str) -> (Wire, RawPacket) {
        let mut wire = Wire::open(self.broker.address());
        wire.set_patience(Duration::from_secs(20)).unwrap();
        wire.send(&connect_packet(client_id, user, password)).unwrap();
        let connack = wire.packet().unwrap();
        (wire, connack)
    }

    fn code(&self, user: &str, password: &str) -> u8 {
        self.connect("c", user, password).1.body[1]
    }

    fn join(&self, client_id: &str, user: &str) -> Wire {
        let (wire, connack) = self.connect(client_id, user, "secret");
        assert_eq!(connack.body[1], 0, "{user}: {}", self.broker.log());
        wire
    }

    fn asked(&self) -> usize {
        self.service.questions().len()
    }
}

fn connect_packet(client_id: &str, user: &str, password: &str) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, "MQTT");
    body.extend([5, 0b1100_0010, 0, 0, 0]);
    for text in [client_id, user, password] {
        push_string(&mut body, text);
    }
    packet(0x10, &body)
}

/// Subscribes and returns the Reason Code.
fn subscribe(wire: &mut Wire, filter: &str) -> u8 {
    let mut body = vec![0, 9, 0];
    push_string(&mut body, filter);
    body.push(0);
    wire.send(&packet(0x82, &body)).unwrap();
    let suback = wire.packet().unwrap();
    assert_eq!(suback.first, SUBACK);
    // Behind the properties, which may hold a Reason String.
    suback.body[suback.body.len() - 1]
}

/// Publishes at QoS 1 and returns the Reason Code of PUBACK.
fn publish(wire: &mut Wire, topic: &str) -> u8 {
    wire.send(&publish_packet_v5(topic, 7, 1, b"m")).unwrap();
    let puback = wire.packet().unwrap();
    assert_eq!(puback.first, acknowledgement(0x40, 7)[0]);
    puback.body.get(2).copied().unwrap_or(0)
}

fn is_alive(wire: &mut Wire) -> bool {
    wire.send(&packet(0xC0, &[])).unwrap();
    wire.packet().is_ok_and(|packet| packet.first == PINGRESP)
}

fn body(question: &Question) -> Value {
    serde_json::from_str(&question.body).unwrap()
}

/// Lets in whose password is `secret`, with what `rules` add to the answer.
fn by_password(rules: Value) -> impl FnMut(&Question) -> Reply + Send {
    move |question| {
        let body = body(question);
        let mut answer = rules.clone();
        let is_right = body["password"] == "secret" || body["event"] == "renew";
        answer["result"] = if is_right { "allow".into() } else { "deny".into() };
        Reply::ok(&answer.to_string())
    }
}

#[test]
fn the_service_is_asked_in_the_documented_bytes_and_its_answer_decides() {
    let service = Service::start(by_password(json!({})));
    let side =
        Side::stopped(service, "token_file = \"DIR/token\"\ncache_seconds = 0\ncache_denied_seconds = 0", "");
    side.write("token", "s3cret-bearer\n");
    let mut side = side;
    side.broker.restart();

    assert_eq!(side.code("ann", "secret"), 0);
    assert_eq!(side.code("ann", "wrong"), WRONG);
    assert_eq!(side.code("nobody", "wrong"), WRONG, "an unknown user is told the same");

    let questions = side.service.questions();
    let address = side.broker.address();
    assert_eq!(questions[0].line, "POST /login?x=1 HTTP/1.1");
    assert_eq!(
        questions[0].body,
        format!(
            r#"{{"event":"connect","username":"ann","password":"secret","clientid":"c","peerhost":"127.0.0.1","listener":"{address}"}}"#
        )
    );
    let header = |name: &str| {
        let found = questions[0].headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("authorization"), "Bearer s3cret-bearer");
    assert_eq!(header("host"), side.service.address().to_string());
    assert_eq!(questions.len(), 3);
    assert_eq!(side.service.connections(), 1, "a connection is used again");
    for (result, count) in [("allow", 1.0), ("deny", 2.0), ("next", 0.0), ("failure", 0.0)] {
        let name = format!("veilmq_auth_http_logins_total{{result=\"{result}\"}}");
        assert_eq!(side.broker.metric(&name), Some(count), "{result}");
    }
    let log = side.broker.log();
    assert!(!log.contains("secret\"") && !log.contains("s3cret"), "a secret is in the log: {log}");
}

#[test]
fn a_form_is_sent_where_that_is_wanted_and_words_of_other_brokers_are_understood() {
    let answers = ["{\"ok\":true,\"error\":\"\"}", "{\"result\":\"ok\"}", "{\"result\":{\"error\":\"no\"}}"];
    let mut answers = answers.into_iter();
    let service = Service::start(move |_| Reply::ok(answers.next().unwrap()));
    let side = Side::start(service, "format = \"form\"\ncache_seconds = 0", "");

    assert_eq!([side.code("a b", "x&y"), side.code("ann", "x"), side.code("ann", "y")], [0, 0, WRONG]);

    let body = side.service.questions()[0].body.clone();
    assert!(body.starts_with("event=connect&username=a+b&password=x%26y&clientid=c&peerhost=127.0.0.1&"));
}

#[test]
fn whatever_is_no_answer_lets_nobody_in_and_nobody_is_banned_for_it() {
    // [D10]
    let service = Service::start(|_| Reply::ok(""));
    let closed = service.address();
    let side = Side::start(
        service,
        "timeout_milliseconds = 300\n",
        "[bans]\nfailures_per_address_max = 1\nfailures_per_user_max = 1\n",
    );
    let huge = format!(r#"{{"result":"allow","x":"{}"}}"#, "x".repeat(100_000));
    let headers = format!("HTTP/1.1 200 OK\r\n{}\r\n{ALLOW}", "x-y: z\r\n".repeat(20_000));
    let elsewhere =
        format!("HTTP/1.1 302 Found\r\nlocation: http://{closed}/other\r\ncontent-length: 0\r\n\r\n");
    for (name, reply) in [
        ("an error", Reply::Status(500, ALLOW.to_owned())),
        ("nothing found", Reply::Status(404, ALLOW.to_owned())),
        ("a redirect", Reply::Bytes(elsewhere.into_bytes())),
        ("garbage", Reply::Bytes(b"220 smtp ready\r\n".to_vec())),
        ("nothing", Reply::Bytes(Vec::new())),
        ("half an answer", Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_vec())),
        ("no JSON", Reply::ok("ok")),
        ("a huge body", Reply::ok(&huge)),
        ("huge headers", Reply::Bytes(headers.into_bytes())),
        ("rules in other words", Reply::ok(r#"{"result":"allow","acl":[]}"#)),
        ("a time-out", Reply::Late(Duration::from_secs(5), Box::new(Reply::ok(ALLOW)))),
    ] {
        side.service.answer_with(move |_| reply.clone());

        let since = Instant::now();
        assert_eq!(side.code("ann", "secret"), BUSY, "{name}: {}", side.broker.log());
        assert!(since.elapsed() < Duration::from_secs(4), "{name}");
    }

    assert!(side.service.questions().iter().all(|question| !question.line.contains("other")), "not followed");
    side.service.answer_with(|_| Reply::Status(204, String::new()));
    assert_eq!(side.code("ann", "secret"), 0, "nobody was banned");
    assert_eq!(side.broker.metric("veilmq_auth_http_logins_total{result=\"failure\"}"), Some(11.0));
    assert_eq!(side.broker.log().matches("has not answered:").count(), 1, "it is said once");
}

#[test]
fn without_an_answer_others_may_decide_or_anybody_comes_in_if_that_is_wanted() {
    for (policy, right, wrong) in [("deny", BUSY, BUSY), ("next", 0, WRONG), ("allow", 0, 0)] {
        let service = Service::start(|_| Reply::Status(500, String::new()));
        let options = format!("on_failure = \"{policy}\"\n");
        let mut side = Side::stopped(service, &options, "[access]\npassword_file = \"DIR/passwd\"\n");
        side.write("passwd", PASSWORD_OF_ANN);
        side.broker.restart();

        assert_eq!([side.code("ann", "secret"), side.code("ann", "x")], [right, wrong], "{policy}");
        let warning = "anybody can connect as anybody";
        assert_eq!(side.broker.log().contains(warning), policy == "allow", "{policy}");
    }
}

#[test]
fn the_service_may_leave_a_user_to_the_password_file() {
    let service = Service::start(|_| Reply::ok(r#"{"result":"ignore"}"#));
    let mut side = Side::stopped(service, "", "[access]\npassword_file = \"DIR/passwd\"\n");
    side.write("passwd", PASSWORD_OF_ANN);
    side.broker.restart();

    assert_eq!(side.code("ann", "secret"), 0);
    assert_eq!(side.code("ann", "x"), WRONG);
    assert_eq!(side.code("bob", "secret"), WRONG);
    assert_eq!(side.asked(), 3, "about every user, known or not [B14]");
}

#[test]
fn an_answer_is_kept_for_its_time_for_that_question_alone_and_a_reload_forgets_it() {
    let service = Service::start(by_password(json!({})));
    let side = Side::start(service, "cache_seconds = 3\ncache_denied_seconds = 3", "");
    for (user, password, code, asked) in [
        ("ann", "secret", 0, 1),
        ("ann", "secret", 0, 1),
        ("ann", "wrong", WRONG, 2),
        ("ann", "wrong", WRONG, 2),
        ("bob", "secret", 0, 3),
    ] {
        assert_eq!((side.code(user, password), side.asked()), (code, asked), "{user} {password}");
    }
    assert_eq!(side.connect("other", "ann", "secret").1.body[1], 0);
    assert_eq!(side.asked(), 4, "another Client Identifier is another question");
    assert_eq!(side.broker.metric("veilmq_auth_http_cache_hits_total"), Some(2.0));
    assert_eq!(side.broker.metric("veilmq_auth_http_cache_entries"), Some(4.0));

    assert!(side.broker.reload(), "{}", side.broker.log());
    assert_eq!((side.code("ann", "secret"), side.asked()), (0, 5));
    wait_until("the answer is over", || {
        assert_eq!(side.code("ann", "secret"), 0);
        side.asked() == 6
    });
}

#[test]
fn whoever_the_service_denies_too_often_is_banned_and_not_asked_about() {
    // [B14]
    let service = Service::start(|_| Reply::ok(r#"{"result":"deny"}"#));
    let side = Side::start(service, "", "[bans]\nfailures_per_address_max = 3\nfailures_per_user_max = 0\n");
    for password in ["a", "b", "c"] {
        assert_eq!(side.code("ann", password), WRONG);
    }

    assert_eq!(side.code("ann", "d"), BANNED);
    assert_eq!(side.asked(), 3);
}

#[test]
fn others_are_served_while_the_service_hangs() {
    // [D10]
    let hang = |question: &Question| match body(question)["username"] == "ann" {
        true => Reply::Late(Duration::from_secs(8), Box::new(Reply::ok(ALLOW))),
        false => Reply::ok(ALLOW),
    };
    let service = Service::start(by_password(json!({})));
    let side = Side::start(
        service,
        "connections_max = 2\ntimeout_milliseconds = 8000",
        "[access]\nanonymous = true\n",
    );
    let mut bob = side.join("b", "bob");
    assert_eq!(subscribe(&mut bob, "t"), 0);
    // All that may be asked at one time is asked; the answer function itself does not hang.
    side.service.answer_with(hang);
    let _hanging: Vec<Wire> = (0..2)
        .map(|number| {
            let mut wire = Wire::open(side.broker.address());
            wire.send(&connect_packet(&format!("a{number}"), "ann", "secret")).unwrap();
            wire
        })
        .collect();
    side.service.wait_for_questions(3);

    let since = Instant::now();
    assert_eq!(publish_and_receive(&mut bob), PUBLISH);
    assert_eq!(side.connect("b", "bob", "secret").1.body[1], 0, "an answer that is known is not asked for");
    let mut anonymous = Wire::open(side.broker.address());
    anonymous.send(&veilmq_tests::wire::connect_packet_v5("n", 0)).unwrap();
    assert_eq!(anonymous.packet().unwrap().body[1], 0);
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

/// Publishes to `t` at QoS 0.
fn publish_at_most_once(wire: &mut Wire) {
    let mut body = Vec::new();
    push_string(&mut body, "t");
    body.extend([0, b'm']);
    wire.send(&packet(PUBLISH, &body)).unwrap();
}

/// Publishes to `t`, which the client has subscribed to, and returns the first byte of what comes.
fn publish_and_receive(wire: &mut Wire) -> u8 {
    publish_at_most_once(wire);
    wire.packet().unwrap().first
}

#[test]
fn an_answer_may_say_what_the_client_may_do() {
    let rules = json!({
        "publish": ["meters/%u/#"],
        "subscribe": ["meters/%u/#", "clients/%c"],
        "deny_publish": ["meters/+/secret"],
    });
    let service = Service::start(by_password(rules));
    // What the file allows does not count for whom the answer has rules.
    let mut side = Side::stopped(service, "", "[acl]\nfile = \"DIR/acl.toml\"\n");
    side.write("acl.toml", "[everyone]\npublish = [\"open\"]\nsubscribe = [\"open\"]\n");
    side.broker.restart();
    let mut ann = side.join("a", "ann");

    for (topic, code) in [
        ("meters/ann/x", 0x10),
        ("meters/bob/x", NOT_AUTHORIZED),
        ("meters/ann/secret", NOT_AUTHORIZED),
        ("open", NOT_AUTHORIZED),
    ] {
        assert_eq!(publish(&mut ann, topic), code, "{topic}");
    }
    for (filter, code) in [
        ("meters/ann/#", 0),
        ("clients/a", 0),
        ("$share/g/clients/a", 0),
        ("meters/#", NOT_AUTHORIZED),
        ("clients/b", NOT_AUTHORIZED),
        ("open", NOT_AUTHORIZED),
    ] {
        assert_eq!(subscribe(&mut ann, filter), code, "{filter}");
    }
    // A name with a wildcard in it stands for itself [B01].
    let mut plus = side.join("p", "+");
    assert_eq!(subscribe(&mut plus, "meters/ann/#"), NOT_AUTHORIZED);
    assert_eq!(publish(&mut plus, "meters/ann/x"), NOT_AUTHORIZED);

    side.service.answer_with(by_password(json!({})));
    let mut bob = side.join("b", "bob");
    assert_eq!([publish(&mut bob, "open"), publish(&mut bob, "meters/bob/x")], [0x10, NOT_AUTHORIZED]);
}

#[test]
fn what_the_service_takes_back_is_taken_from_a_live_subscription() {
    // [B07]
    let service = Service::start(by_password(json!({"subscribe": ["t"], "publish": ["t"]})));
    let side = Side::start(service, "renew_url = \"URL/renew\"\nrenew_seconds = 1", "");
    let mut ann = side.join("a", "ann");
    assert_eq!(subscribe(&mut ann, "t"), 0);
    assert_eq!(publish_and_receive(&mut ann), PUBLISH);
    side.service.wait_for_questions(2);
    let renewal = side.service.questions()[1].clone();
    assert_eq!(renewal.line, "POST /renew HTTP/1.1");
    assert_eq!(
        (body(&renewal)["event"].clone(), body(&renewal)["username"].clone(), body(&renewal).get("password")),
        ("renew".into(), "ann".into(), None)
    );

    // Then it may publish alone.
    side.service.answer_with(by_password(json!({"publish": ["t"]})));
    side.service.wait_for_questions(side.asked() + 2);
    assert!(is_alive(&mut ann), "what is renewed goes on");
    publish_at_most_once(&mut ann);
    assert!(is_alive(&mut ann), "nothing came before the answer to PINGREQ");

    // At last it may not even stay.
    side.service.answer_with(|_| Reply::ok(r#"{"result":"deny"}"#));
    let farewell = ann.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, NOT_AUTHORIZED));
    assert_eq!(side.broker.metric("veilmq_auth_http_renewals_total{result=\"deny\"}"), Some(1.0));
}

#[test]
fn what_a_client_has_retained_is_not_sent_once_its_right_to_it_is_taken_back() {
    // [B07]
    let service = Service::start(by_password(json!({"publish": ["t"], "subscribe": ["t"]})));
    let side = Side::start(service, "renew_url = \"URL/renew\"\nrenew_seconds = 1\ncache_seconds = 0", "");
    let mut ann = side.join("a", "ann");
    let mut retained = publish_packet_v5("t", 7, 1, b"m");
    retained[0] |= 1;
    ann.send(&retained).unwrap();
    assert_eq!(ann.packet().unwrap().first, acknowledgement(0x40, 7)[0]);
    let mut bob = side.join("b", "bob");
    assert_eq!(subscribe(&mut bob, "t"), 0);
    assert_eq!(bob.packet().unwrap().first & 0xF0, PUBLISH, "it is sent as long as she may publish it");
    drop(bob);

    side.service.answer_with(by_password(json!({"publish": [], "subscribe": ["t"]})));
    side.service.wait_for_questions(side.asked() + 2);
    assert!(is_alive(&mut ann), "she stays");

    let mut bob = side.join("b", "bob");
    assert_eq!(subscribe(&mut bob, "t"), 0);
    assert!(is_alive(&mut bob) && is_alive(&mut bob), "nothing comes before the answers to PINGREQ");
}

#[test]
fn what_was_said_last_holds_for_a_while_when_nobody_answers() {
    let service = Service::start(by_password(json!({"publish": ["t"]})));
    let side = Side::start(service, "renew_url = \"URL/renew\"\nrenew_seconds = 1\nstale_seconds = 3", "");
    let mut ann = side.join("a", "ann");
    side.service.answer_with(|_| Reply::Status(500, String::new()));
    side.service.wait_for_questions(2);

    assert_eq!(publish(&mut ann, "t"), 0x10, "it goes on as it was");
    let farewell = ann.packet().unwrap();

    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, NOT_AUTHORIZED));
}

#[test]
fn a_connection_ends_when_the_answer_says_so_or_another_service_is_asked() {
    // [B07]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let service = Service::start(by_password(json!({"expire_at": now - 1})));
    let side = Side::start(service, "", "");
    assert_eq!(side.code("ann", "secret"), WRONG, "it has ended before it began");
    side.service.answer_with(by_password(json!({"expire_at": now + 4})));
    let mut ann = side.connect("a", "ann2", "secret").0;
    let farewell = ann.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, NOT_AUTHORIZED));

    side.service.answer_with(by_password(json!({})));
    let mut bob = side.join("b", "bob");
    assert!(side.broker.reload());
    assert!(is_alive(&mut bob), "the same service vouches for it");
    let path = side.broker.directory().join("veilmq.toml");
    let text = fs::read_to_string(&path).unwrap().replace("/login?x=1", "/elsewhere");
    fs::write(path, text).unwrap();
    assert!(side.broker.reload());
    let farewell = bob.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, NOT_AUTHORIZED));
}

#[test]
fn whose_time_is_over_is_asked_about_anew_and_has_guessed_no_password() {
    let seconds_from_now = |seconds: u64| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        by_password(json!({"expire_at": since.as_secs() + seconds}))
    };
    let service = Service::start(seconds_from_now(0));
    let bans = "[bans]\nfailures_per_address_max = 1\nfailures_per_user_max = 1\n";
    let side = Side::start(service, "cache_seconds = 86400", bans);
    for times in 1..=3 {
        assert_eq!((side.code("ann", "secret"), side.asked()), (WRONG, times), "it is over at once");
    }
    side.service.answer_with(seconds_from_now(4));
    let mut ann = side.connect("a", "ann", "secret").0;
    side.service.answer_with(seconds_from_now(3_600));

    let farewell = ann.packet().unwrap();
    let (mut again, connack) = side.connect("a", "ann", "secret");

    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, NOT_AUTHORIZED));
    assert_eq!((connack.body[1], side.asked()), (0, 5), "it was given more time meanwhile");
    assert!(is_alive(&mut again));
    assert_eq!(side.connect("a", "ann", "secret").1.body[1], 0);
    assert_eq!(side.asked(), 5, "an answer that still holds is kept as before");
}

#[test]
fn the_service_has_to_show_a_certificate_of_an_authority_that_is_trusted() {
    for is_trusted in [true, false] {
        let (authority, other) = (Authority::new(), Authority::new());
        let certificate = authority.issue_for_this_machine();
        let service = Service::start_with_tls(&certificate, |_| Reply::ok(ALLOW));
        let mut side = Side::stopped(service, "ca = \"DIR/ca.crt\"", "");
        let trusted = if is_trusted { &authority } else { &other };
        fs::copy(trusted.certificate(), side.broker.directory().join("ca.crt")).unwrap();
        let path = side.broker.directory().join("veilmq.toml");
        let text = fs::read_to_string(&path).unwrap().replace("http://", "https://");
        fs::write(path, text).unwrap();
        side.broker.restart();

        let code = side.code("ann", "secret");

        assert_eq!(code, if is_trusted { 0 } else { BUSY }, "{}", side.broker.log());
    }
}

#[test]
fn what_cannot_be_used_is_named_at_the_start_and_changes_nothing_at_a_reload() {
    // [B09]
    let service = Service::start(by_password(json!({})));
    let mut side = Side::stopped(service, "token_file = \"DIR/token\"", "");
    assert!(side.broker.try_restart().is_err());
    assert!(side.broker.log().contains("access.http.token_file: cannot"), "{}", side.broker.log());
    side.write("token", "two words");
    side.broker.kill();
    assert!(side.broker.try_restart().is_err());
    assert!(side.broker.log().contains("must hold one token"), "{}", side.broker.log());

    side.write("token", "one");
    side.broker.kill();
    side.broker.restart();
    fs::remove_file(side.broker.directory().join("token")).unwrap();
    assert!(!side.broker.reload());
    assert_eq!(side.code("ann", "secret"), 0);
}

#[test]
fn clients_of_mosquitto_log_in_with_users_of_the_service() {
    let Some(_) = Mosquitto::new(Version::V5, 0) else { return };
    let service = Service::start(by_password(json!({"publish": ["out/%u"], "subscribe": ["out/#"]})));
    let side = Side::start(service, "", "");
    for version in [Version::V311, Version::V5] {
        let clients = Mosquitto::new(version, side.broker.port()).unwrap();
        let subscriber = clients.subscribe(&["-t", "out/#", "-u", "bob", "-P", "secret"]);

        clients.publish(&["-t", "out/ann", "-m", "hello", "-q", "1", "-u", "ann", "-P", "secret"]);
        let refused = ["-t", "out/ann", "-m", "x", "-u", "ann", "-P", "wrong"];

        assert_eq!(subscriber.message(), "out/ann q0 r0 hello");
        assert!(!clients.attempt("mosquitto_pub", &refused).status.success());
    }
}
