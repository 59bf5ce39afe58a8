//! A device whose certificate was revoked is put out by the broker, and not let in again: `veil ca revoke`, and each way in which
//! its list reaches the broker (VEIL-1 section 3.2).

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::process::{Child, Command, Stdio};

use veilmq_tests::broker::Broker;
use veilmq_tests::parties::Parties;
use veilmq_tests::search::text;
use veilmq_tests::tap::Tap;
use veilmq_tests::tools::{built_program, finish, run};
use veilmq_tests::waiting::wait_until_or;
use veilmq_tests::wire::{Wire, publish_packet};

const SCOPE: &str = "readings/#";
/// Not authorized, the Reason Code with which VEIL-1 answers who is revoked.
const NOT_AUTHORIZED: Option<i32> = Some(0x87);

fn parties() -> Parties {
    let broker = Broker::start();
    let tap = Tap::start(broker.address());
    Parties::meet(broker, tap)
}

/// Starts `veil sub` as `subject`; its channel is open when this returns.
fn listen(parties: &Parties, subject: &str) -> Child {
    let before = connections(&parties.broker, subject);
    let port = parties.broker.port().to_string();
    let (identity, key) = (parties.path(subject), parties.path("key"));
    let trust = parties.broker.data_dir().join("identity/broker.vmc");
    let mut command = Command::new(built_program("veil"));
    command.args(["sub", "-h", "127.0.0.1", "-p", &port, "--identity", &identity, "--trust"]).arg(trust);
    command.args(["--scope", SCOPE, "--master-key", &key, "-t", SCOPE, "-q", "1", "-W", "60"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_there = || connections(&parties.broker, subject) > before;
    wait_until_or(is_there, || format!("{subject} does not come: {}", parties.broker.log()));
    child
}

/// How often a client has connected.
fn connections(broker: &Broker, client_id: &str) -> usize {
    let log = broker.log();
    log.lines().filter(|line| line.contains(" connected") && line.contains(client_id)).count()
}

/// Revokes a certificate, and gives the file with the list.
fn revoke(parties: &Parties, subject: &str) -> String {
    let (authority, certificate) = (parties.path("ca"), parties.path(&format!("{subject}/{subject}.vmc")));
    parties.made(&["ca", "revoke", "--dir", &authority, "--reason", "key-compromise", &certificate]);
    parties.path("ca/ca.crl")
}

fn publish(parties: &Parties, subject: &str) -> Option<i32> {
    let output = parties.exchange("pub", subject, "key", SCOPE, &["-t", "readings/hall", "-m", "21.5"]);
    output.status.code()
}

/// Whoever is put out comes back no more: its program ends with the Reason Code.
fn is_put_out(child: Child) {
    let output = finish(child, 30, "veil sub");
    assert_eq!(output.status.code(), NOT_AUTHORIZED, "{}", text(&output.stderr));
}

#[test]
fn a_list_given_to_a_running_broker_puts_the_device_out_within_seconds() {
    let parties = parties();
    let (gone, mut stays) = (listen(&parties, "reader"), listen(&parties, "device"));

    let list = revoke(&parties, "reader");
    let mut command = Command::new(built_program("veilmq"));
    command.args(["trust", "revoke", &list, "--data-dir"]).arg(parties.broker.data_dir());
    let output = run(&mut command, 30);
    assert!(output.status.success(), "{}", text(&output.stderr));

    is_put_out(gone);
    assert_eq!(publish(&parties, "reader"), NOT_AUTHORIZED);
    assert!(stays.try_wait().unwrap().is_none(), "the others stay");
    stays.kill().unwrap();
    stays.wait().unwrap();
    assert_eq!(publish(&parties, "device"), Some(0));
    assert_eq!(parties.broker.metric("veilmq_connections_closed_total{reason=\"revoked\"}"), Some(1.0));
}

#[test]
fn a_list_past_its_time_is_counted_until_its_successor_comes() {
    let parties = parties();
    let stale = || parties.broker.metric("veilmq_revocations_stale");
    let give = |days: &str| {
        let authority = parties.path("ca");
        parties.made(&["ca", "revoke", "--dir", &authority, "--days", days]);
        let mut command = Command::new(built_program("veilmq"));
        command.args(["trust", "revoke", &parties.path("ca/ca.crl"), "--data-dir"]);
        let output = run(command.arg(parties.broker.data_dir()), 30);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let becomes = |expected: f64| {
        let text = || format!("{:?}: {}", stale(), parties.broker.log());
        wait_until_or(|| stale() == Some(expected), text);
    };
    assert_eq!(stale(), Some(0.0));

    give("0");
    becomes(1.0);
    give("30");

    becomes(0.0);
}

#[test]
fn a_list_that_somebody_publishes_counts_after_kill_9_and_after_its_topic_was_cleared() {
    let mut parties = parties();
    let gone = listen(&parties, "reader");
    let list = fs::read(revoke(&parties, "reader")).unwrap();
    let authority = text(&parties.veil(&["show", &parties.path("ca/ca.vmc")]).stdout);
    let kid = authority.lines().find_map(|line| line.strip_prefix("key identifier")).unwrap().trim();
    let topic = format!("_veil/1/crl/{kid}");

    let (mut anybody, _) = Wire::connect(parties.broker.address(), "anybody", true);
    let retain = |payload: &[u8]| {
        let mut packet = publish_packet(&topic, 1, 1, false, payload);
        packet[0] |= 1;
        packet
    };
    anybody.send(&retain(&list)).unwrap();
    assert_eq!(anybody.packet().unwrap().first, 0x40);
    is_put_out(gone);
    // The broker looks after its files once a second.
    let stored = parties.broker.data_dir().join(format!("trust/{kid}.crl"));
    let is_stored = || fs::read(&stored).is_ok_and(|stored| stored == list);
    wait_until_or(is_stored, || format!("the list is not stored: {}", parties.broker.log()));
    anybody.send(&retain(b"")).unwrap();
    assert_eq!(anybody.packet().unwrap().first, 0x40);

    parties.broker.kill();
    parties.broker.restart();

    assert_eq!(publish(&parties, "reader"), NOT_AUTHORIZED);
    assert_eq!(publish(&parties, "device"), Some(0));
}

#[test]
fn a_configured_list_is_read_again_when_its_file_changes() {
    let configuration =
        |address| format!("access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n");
    let broker = Broker::start_configured(configuration);
    let tap = Tap::start(broker.address());
    let parties = Parties::meet(broker, tap);
    let (authority, list) = (parties.path("ca"), parties.path("ca/ca.crl"));
    parties.made(&["ca", "revoke", "--dir", &authority]);
    let file = parties.broker.directory().join("veilmq.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("veil.revocations = [{list:?}]\n{before}")).unwrap();
    assert!(parties.broker.reload(), "{}", parties.broker.log());
    let gone = listen(&parties, "reader");

    revoke(&parties, "reader");

    is_put_out(gone);
    assert_eq!(publish(&parties, "reader"), NOT_AUTHORIZED);
    assert_eq!(publish(&parties, "device"), Some(0));
}
