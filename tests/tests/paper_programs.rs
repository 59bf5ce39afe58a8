//! The paper to the letter with the programs as people use them: `veil pub` and `veil sub` with `--scheme N --paper`.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::process::Command;

use veilmq_protocol::veil::hello::{ClientHello, Opening};
use veilmq_protocol::{Packet, ProtocolVersion, next_frame};
use veilmq_tests::broker::Broker;
use veilmq_tests::parties::Parties;
use veilmq_tests::search::{holds, text};
use veilmq_tests::tap::Tap;
use veilmq_tests::tools::{built_program, run, spawn};
use veilmq_tests::waiting::wait_until;

const SCOPE: &str = "readings/#";
const PLAINTEXT: &str = "the temperature of the hall is 19.5";

/// A broker that serves `modes`, all of them or none.
fn parties(modes: &str) -> Parties {
    let broker = Broker::start_configured(|address| {
        format!("access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n[veil]\n{modes}\n")
    });
    let tap = Tap::start(broker.address());
    Parties::meet(broker, tap)
}

/// The program as `subject`, which follows the paper in a scheme and keeps its state.
fn command(parties: &Parties, verb: &str, subject: &str, scheme: &str, more: &[&str]) -> Command {
    let mut command = Command::new(built_program("veil"));
    let port = parties.tap.address().port().to_string();
    command.args([verb, "-h", "127.0.0.1", "-p", &port, "-q", "1", "--scheme", scheme, "--paper"]);
    command.arg("--trust").arg(parties.broker.data_dir().join("identity/broker.vmc"));
    command.args(["--trust", &parties.path("ca/ca.vmc"), "--identity", &parties.path(subject)]);
    command.args(["--state", &parties.path(&format!("{subject}.state"))]).args(more);
    command
}

fn kid(parties: &Parties, subject: &str) -> String {
    let shown = text(&parties.veil(&["show", &parties.path(&format!("{subject}/{subject}.vmc"))]).stdout);
    let line = shown.lines().find(|line| line.starts_with("key identifier")).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn in_each_scheme_a_subscriber_asks_while_it_connects_and_reads_what_follows() {
    let parties = parties("paper_modes = [\"paper-1\", \"paper-2\", \"paper-3\", \"paper-4\"]");
    let (issuer, member) = (kid(&parties, "device"), parties.path("reader/reader.vmc"));
    for (asked, scheme) in ["1", "2", "3", "4"].into_iter().enumerate() {
        // Each scheme begins without keys.
        for subject in ["device", "reader"] {
            let _ = std::fs::remove_file(parties.path(&format!("{subject}.state")));
        }
        let scope = format!("readings/{scheme}/#");
        let topic = format!("readings/{scheme}/hall");
        let retained = || parties.broker.metric("veilmq_retained_messages").unwrap_or_default();
        let before = retained();
        let issue = [
            "--issue",
            &scope,
            "--member",
            &member,
            "-t",
            &topic,
            "-m",
            PLAINTEXT,
            "-r",
            "--repeat",
            "100",
            "--repeat-delay",
            "0.5",
        ];
        let mut publisher = spawn(&mut command(&parties, "pub", "device", scheme, &issue));
        // The head of the key, and the message: the issuer is there.
        wait_until("what is to wait is retained", || retained() >= before + 2.0);

        let join = ["--join", &scope, "--ask", &issuer, "-t", &scope, "-C", "1", "-W", "30"];
        let read = run(&mut command(&parties, "sub", "reader", scheme, &join), 60);
        publisher.kill().unwrap();
        publisher.wait().unwrap();

        assert_eq!(text(&read.stdout), format!("{PLAINTEXT}\n"), "scheme {scheme}: {}", text(&read.stderr));
        assert!(text(&read.stderr).contains("COMPACT"), "the weakening is warned of: {}", text(&read.stderr));
        assert_eq!(parties.broker.metric("veilmq_join_total{result=\"answered\"}"), Some(asked as f64 + 1.0));
        assert_eq!(parties.broker.metric("veilmq_join_seconds_count"), Some(asked as f64 + 1.0));
    }
    assert!(!holds(&parties.tap.captured(), PLAINTEXT));
    let captured = parties.tap.captured();
    let (frame, _) = next_frame(&captured, usize::MAX).unwrap().unwrap();
    let Packet::Connect(connect) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
        panic!("CONNECT")
    };
    let hello = ClientHello::parse(connect.properties.authentication_data.unwrap()).unwrap();
    assert!(matches!(hello.opening, Opening::Compact { .. }));
    assert_eq!(hello.suites, [1]);
}

#[test]
fn in_the_schemes_of_pairs_a_subscriber_asks_its_publisher_while_it_connects() {
    let parties = parties("paper_modes = [\"paper-1\", \"paper-2\"]");
    let certificate = |subject: &str| parties.path(&format!("{subject}/{subject}.vmc"));
    let (device, reader) = (certificate("device"), certificate("reader"));
    let repeated = ["-t", "readings/hall", "-m", PLAINTEXT, "--repeat", "100", "--repeat-delay", "0.5"];
    for (asked, scheme) in ["1", "2"].into_iter().enumerate() {
        for subject in ["device", "reader"] {
            let _ = std::fs::remove_file(parties.path(&format!("{subject}.state")));
        }
        let to = [&["--to", reader.as_str()][..], &repeated].concat();
        let published =
            || parties.broker.metric("veilmq_messages_received_total{qos=\"1\"}").unwrap_or_default();
        let before = published();
        let mut publisher = spawn(&mut command(&parties, "pub", "device", scheme, &to));
        // Its prekey: it listens.
        wait_until("a message is published", || published() > before);

        let from = ["--from", &device, "-t", "readings/#", "-v", "-C", "1", "-W", "30"];
        let read = run(&mut command(&parties, "sub", "reader", scheme, &from), 60);
        publisher.kill().unwrap();
        publisher.wait().unwrap();

        let line = format!("readings/hall {PLAINTEXT}\n");
        assert_eq!(text(&read.stdout), line, "scheme {scheme}: {}", text(&read.stderr));
        assert_eq!(parties.broker.metric("veilmq_join_total{result=\"answered\"}"), Some(asked as f64 + 1.0));
    }
    assert!(!holds(&parties.tap.captured(), PLAINTEXT));
}

#[test]
fn a_broker_that_does_not_serve_the_mode_is_left() {
    let parties = parties("");

    let join = ["--join", SCOPE, "-t", SCOPE, "-C", "1", "-W", "30"];
    let refused = run(&mut command(&parties, "sub", "reader", "3", &join), 60);

    assert_eq!(refused.status.code(), Some(0x8C), "{}", text(&refused.stderr));
}
