//! Users and rules in the real broker: files that Mosquitto's tools write, Mosquitto's clients, reload and revocation.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use veilmq_tests::broker::Broker;
use veilmq_tests::mosquitto::Mosquitto;
use veilmq_tests::puppet::Version;
use veilmq_tests::tools::{built_program, require_tool, run};
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{RawPacket, Wire, packet, push_string};

const RELOADED: &str = "veilmq_config_last_reload_success_timestamp_seconds";
const REFUSED: &str = "veilmq_config_last_reload_successful";

/// A broker whose files lie beside its configuration.
struct Side {
    broker: Broker,
}

impl Side {
    /// Starts a broker; `rest` stands behind the listener in its configuration, and `DIR` in it for its directory.
    fn start(rest: &str, files: &[(&str, &str)]) -> Self {
        let mut side = Self::stopped(rest, files);
        side.broker.restart();
        side
    }

    fn stopped(rest: &str, files: &[(&str, &str)]) -> Self {
        // The directory is known only once the broker has been made.
        let broker = Broker::configured(|address| {
            // A client may come in on one shard and have its session on another.
            format!("shards.count = 2\n[[listeners]]\naddress = \"{address}\"\n")
        });
        let side = Self { broker };
        let path = side.path("veilmq.toml");
        let head = fs::read_to_string(&path).unwrap();
        let folder = side.broker.directory().display().to_string();
        fs::write(&path, format!("{head}{}", rest.replace("DIR", &folder))).unwrap();
        for (name, text) in files {
            side.write(name, text);
        }
        side
    }

    fn path(&self, name: &str) -> PathBuf {
        self.broker.directory().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn passwd(&self, arguments: &[&str]) {
        passwd(&self.path("passwd"), arguments);
    }

    /// Sends SIGHUP and waits until the broker has obeyed.
    fn reload(&self, succeeds: bool) {
        assert_eq!(self.broker.reload(), succeeds, "{}", self.broker.log());
    }

    /// Connects with MQTT 5 and returns the connection and its CONNACK.
    fn connect(&self, client_id: &str, credentials: Option<(&str, &str)>) -> (Wire, RawPacket) {
        let mut wire = Wire::open(self.broker.address());
        wire.send(&connect_packet(5, client_id, credentials)).unwrap();
        let connack = wire.packet().unwrap();
        (wire, connack)
    }

    fn code(&self, client_id: &str, credentials: Option<(&str, &str)>) -> u8 {
        self.connect(client_id, credentials).1.body[1]
    }
}

/// Runs `veilmq passwd` with the options in front of the file and the rest behind it.
fn passwd(file: &Path, arguments: &[&str]) {
    let (options, rest): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|argument| argument.starts_with('-') || argument.starts_with("sha"));
    let output =
        run(Command::new(built_program("veilmq")).arg("passwd").args(options).arg(file).args(rest), 60);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn connect_packet(level: u8, client_id: &str, credentials: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, "MQTT");
    body.extend([level, if credentials.is_some() { 0b1100_0010 } else { 0b10 }, 0, 0]);
    if level == 5 {
        body.push(0);
    }
    push_string(&mut body, client_id);
    for text in credentials.into_iter().flat_map(|(user, password)| [user, password]) {
        push_string(&mut body, text);
    }
    packet(0x10, &body)
}

const PASSWORDS: &str = "[access]\npassword_file = \"DIR/passwd\"\n";

#[test]
fn secrets_that_everybody_may_read_are_a_warning_that_names_the_file() {
    let rest = format!("[admin]\ntoken_file = \"DIR/token\"\n{PASSWORDS}");
    let mut side = Side::stopped(&rest, &[("token", "sixteen-characters")]);
    side.passwd(&["-c", "-b", "ann", "one"]);
    for (name, mode) in [("passwd", 0o644), ("token", 0o640)] {
        fs::set_permissions(side.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    side.broker.restart();

    let warns_of = |name: &str| {
        let file = format!("file={}", side.path(name).display());
        side.broker.log().lines().any(|line| line.contains("WARN") && line.contains(&file))
    };
    assert!(warns_of("passwd"), "{}", side.broker.log());
    assert!(!warns_of("token"), "{}", side.broker.log());
    assert_eq!(side.code("c", Some(("ann", "one"))), 0, "it is used all the same");
}

#[test]
fn users_of_files_that_either_tool_wrote_connect_with_their_passwords() {
    let Some(tool) = require_tool("mosquitto_passwd") else { return };
    let side = Side::stopped(PASSWORDS, &[]);
    let output = run(Command::new(tool).args(["-c", "-b"]).arg(side.path("passwd")).args(["ann", "one"]), 60);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    side.passwd(&["-b", "bob", "two"]);
    side.passwd(&["-b", "-H", "sha512-pbkdf2", "cy", "three"]);
    side.passwd(&["-b", "-H", "sha512", "dee", "four"]);
    let mut side = side;
    side.broker.restart();

    for (user, password) in [("ann", "one"), ("bob", "two"), ("cy", "three"), ("dee", "four")] {
        assert_eq!(side.code("c", Some((user, password))), 0, "{user}");
        assert_eq!(side.code("c", Some((user, "wrong"))), 0x86, "{user}");
    }
    assert_eq!(side.code("c", Some(("eve", "one"))), 0x86);
    assert_eq!(side.code("c", Some(("ann", ""))), 0x86);
    assert_eq!(side.code("c", None), 0x87);
    // MQTT 3.1.1, table 3.1
    let mut old = Wire::open(side.broker.address());
    old.send(&connect_packet(4, "c", Some(("ann", "wrong")))).unwrap();
    assert_eq!(old.packet().unwrap().body, [0, 5]);
    assert_eq!(side.broker.metric("veilmq_auth_attempts_total{result=\"success\"}"), Some(4.0));
    assert_eq!(side.broker.metric("veilmq_auth_attempts_total{result=\"failure\"}"), Some(7.0));
    let log = side.broker.log();
    assert!(!log.contains("wrong\"") && !log.contains("three"), "a password is in the log: {log}");
}

#[test]
fn what_either_tool_does_not_take_the_broker_does_not_take() {
    // [B09]
    for (name, configuration, text, what) in [
        ("passwd", PASSWORDS, "ann:plain\n", "passwd:1: it is not a password hash"),
        ("passwd", PASSWORDS, "\nann\n", "passwd:2: there is no `:`"),
        ("acl", "[acl]\nmosquitto_file = \"DIR/acl\"\n", "topic a\nuser\n", "acl:2: there is no name"),
        (
            "acl.toml",
            "[acl]\nfile = \"DIR/acl.toml\"\n",
            "[everyone]\nwrite = []\n",
            "acl.toml:2: unknown field",
        ),
    ] {
        let mut side = Side::stopped(configuration, &[(name, text)]);

        side.broker.try_restart().unwrap_err();

        let log = side.broker.log();
        assert!(log.contains(what), "{text}: {log}");
        let check = run(
            Command::new(built_program("veilmq")).args(["check-config", "-c"]).arg(side.path("veilmq.toml")),
            60,
        );
        assert!(!check.status.success());
        assert!(String::from_utf8_lossy(&check.stderr).contains(what));
    }
}

#[test]
fn mosquittos_rules_hold_for_mosquittos_clients() {
    let acl =
        "topic read open/#\nuser ann\ntopic readwrite a/#\ntopic deny a/secret\npattern write from/%u/%c\n";
    for version in [Version::V311, Version::V5] {
        let Some(_) = Mosquitto::new(version, 0) else { return };
        let side = Side::start(
            "[access]\nanonymous = true\n[acl]\nmosquitto_file = \"DIR/acl\"\nsubscribe = \"compat\"\n",
            &[("acl", acl)],
        );
        let clients = Mosquitto::new(version, side.broker.port()).unwrap();
        let ann = clients.subscribe(&["-t", "#", "-q", "1", "-u", "ann", "-i", "reader"]);

        let publish = |user: &str, client_id: &str, topic: &str| {
            clients.publish(&["-t", topic, "-m", "m", "-q", "0", "-u", user, "-i", client_id]);
        };
        publish("ann", "w", "a/secret");
        publish("bob", "w", "a/b");
        publish("ann", "w", "b");
        publish("ann", "+", "from/ann/x");
        publish("ann", "w", "a/last");

        assert_eq!(ann.message(), "a/last q0 r0 m");
        // What the pattern lets a client write nobody may read here.
        assert!(side.broker.metric("veilmq_acl_denied_total{action=\"publish\"}").unwrap() >= 3.0);
    }
}

#[test]
fn an_empty_file_of_rules_denies_everything() {
    // [B09]
    let side = Side::start(
        "[access]\nanonymous = true\n[acl]\nmosquitto_file = \"DIR/acl\"\n",
        &[("acl", "# nothing\n")],
    );
    let (mut wire, connack) = side.connect("c", None);
    assert_eq!(connack.body[1], 0);
    let mut subscribe = vec![0, 1, 0];
    push_string(&mut subscribe, "t");
    subscribe.push(0);
    wire.send(&packet(0x82, &subscribe)).unwrap();
    let suback = wire.packet().unwrap();
    assert_eq!((suback.first, suback.body.last()), (0x90, Some(&0x87)));
}

#[test]
fn lines_of_the_log_about_a_client_have_its_user_and_its_address() {
    let rest = format!("{PASSWORDS}[acl]\nfile = \"DIR/acl.toml\"\n[log]\nformat = \"json\"\n");
    let mut side = Side::stopped(&rest, &[("acl.toml", "[users.ann]\nsubscribe = [\"t\"]\n")]);
    side.passwd(&["-c", "-b", "ann", "one"]);
    side.broker.restart();
    let (mut ann, _) = side.connect("c", Some(("ann", "one")));
    ann.send(&packet(0x32, b"\0\x01x\0\x01\0m")).unwrap();
    assert!(ann.packet().unwrap().body.starts_with(b"\0\x01\x87"));
    drop(ann);
    wait_until("the client is gone", || side.broker.log().contains("\"disconnected\""));

    for line in ["connected", "publish refused", "disconnected"] {
        let log = side.broker.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let Some(told) = lines.into_iter().find(|told| told["message"] == line) else {
            panic!("{line}: {log}")
        };
        assert_eq!((told["client"].as_str(), told["user"].as_str()), (Some("c"), Some("ann")), "{told}");
        assert!(told["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{told}");
    }
}

#[test]
fn a_reload_changes_users_and_rules_and_silences_whom_it_revokes() {
    // [B07]
    let rules = "[users.ann]\nsubscribe = [\"t\"]\n[users.bob]\npublish = [\"t\"]\n";
    let side = Side::stopped(&format!("{PASSWORDS}[acl]\nfile = \"DIR/acl.toml\"\n"), &[("acl.toml", rules)]);
    side.passwd(&["-c", "-b", "ann", "one"]);
    side.passwd(&["-b", "bob", "two"]);
    let mut side = side;
    side.broker.restart();
    let (mut ann, _) = side.connect("a", Some(("ann", "one")));
    let mut subscribe = vec![0, 1, 0];
    push_string(&mut subscribe, "t");
    subscribe.push(0);
    ann.send(&packet(0x82, &subscribe)).unwrap();
    assert_eq!(ann.packet().unwrap().body.last(), Some(&0));
    let (mut bob, _) = side.connect("b", Some(("bob", "two")));
    let mut publish = |payload: &[u8]| {
        let mut body = Vec::new();
        push_string(&mut body, "t");
        body.extend([0, 9, 0]);
        body.extend(payload);
        bob.send(&packet(0x32, &body)).unwrap();
        let puback = bob.packet().unwrap();
        puback.body.get(2).copied().unwrap_or(0)
    };
    assert_eq!(publish(b"first"), 0);
    assert_eq!(ann.packet().unwrap().first, 0x30);

    side.write("acl.toml", "[users.ann]\nsubscribe = [\"t\"]\n[users.bob]\npublish = [\"other\"]\n");
    side.reload(true);
    assert_eq!(publish(b"second"), 0x87);

    side.passwd(&["-D", "ann"]);
    side.reload(true);
    let farewell = ann.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (0xE0, 0x87));
    assert_eq!(side.code("a", Some(("ann", "one"))), 0x86);
    assert_eq!(publish(b"bob is still there"), 0x87);
}

#[test]
fn a_reload_of_what_cannot_be_used_changes_nothing_and_shows() {
    // [B10]
    let side = Side::stopped(PASSWORDS, &[]);
    side.passwd(&["-c", "-b", "ann", "one"]);
    let mut side = side;
    side.broker.restart();
    assert_eq!(side.broker.metric(REFUSED), Some(1.0));
    let started = side.broker.metric(RELOADED).unwrap();
    let (mut ann, _) = side.connect("a", Some(("ann", "one")));
    let good = fs::read_to_string(side.path("passwd")).unwrap();
    let configuration = fs::read_to_string(side.path("veilmq.toml")).unwrap();

    for (name, text) in [
        ("passwd", "ann:broken\n"),
        ("veilmq.toml", "[access]\npasword_file = \"x\"\n"),
        ("veilmq.toml", "[acl"),
    ] {
        side.write(name, text);
        side.reload(false);

        ann.send(&[0xC0, 0]).unwrap();
        assert_eq!(ann.packet().unwrap().first, 0xD0, "the connection stays");
        assert_eq!(side.code("b", Some(("ann", "one"))), 0, "the last good users stay");
        side.write("passwd", &good);
        side.write("veilmq.toml", &configuration);
    }
    side.reload(true);
    assert!(side.broker.metric(RELOADED).unwrap() >= started);
}

#[test]
fn an_address_that_tries_too_many_passwords_is_banned_for_a_while() {
    // [B14]
    let side = Side::stopped(&format!("{PASSWORDS}[bans]\nfailures_per_address_max = 3\nseconds = 2\n"), &[]);
    side.passwd(&["-c", "-b", "-H", "sha512", "ann", "one"]);
    let mut side = side;
    side.broker.restart();
    for _ in 0..3 {
        assert_eq!(side.code("c", Some(("ann", "guess"))), 0x86);
    }

    assert_eq!(side.code("c", Some(("ann", "one"))), 0x8A);
    assert_eq!(side.broker.metric("veilmq_auth_banned{kind=\"address\"}"), Some(1.0));
    let log = side.broker.log();
    assert!(log.contains("the address is banned") && log.contains("127.0.0.1"), "{log}");

    wait_until("the end of the ban", || side.code("c", Some(("ann", "one"))) == 0);
}

#[test]
fn many_logins_at_once_keep_no_other_client_waiting() {
    // [B15]
    let side = Side::stopped("[access]\nanonymous = true\npassword_file = \"DIR/passwd\"\n", &[]);
    side.passwd(&["-c", "-b", "-H", "sha512-pbkdf2", "-I2000000", "ann", "one"]);
    let mut side = side;
    side.broker.restart();
    let (mut other, _) = side.connect("other", None);
    let mut logins: Vec<Wire> = (0..20)
        .map(|number| {
            let mut wire = Wire::open(side.broker.address());
            wire.send(&connect_packet(5, &format!("c{number}"), Some(("ann", "guess")))).unwrap();
            wire
        })
        .collect();

    for _ in 0..20 {
        other.send(&[0xC0, 0]).unwrap();
        assert_eq!(other.packet().unwrap().first, 0xD0);
    }

    // Each of these passwords takes about a second to check, so the last is still waiting.
    let last = logins.last_mut().unwrap();
    last.set_patience(Duration::from_millis(1)).unwrap();
    assert!(last.packet().is_err(), "the pings were answered after all logins");
}
