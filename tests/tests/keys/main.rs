//! Group keys with the programs as people use them: `veil ca`, `veil pub`, `veil sub` and `veil authority`, through our broker
//! and through Mosquitto over TLS.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod kills;
mod pairs;
mod plant;

use std::fs;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use plant::{Plant, SCOPE, SECRET, TOPIC};
use veilmq_tests::carrier::Carrier;
use veilmq_tests::tools::run;
use veilmq_tests::waiting::wait_until;

/// A reader that was never there before reads what was retained, and then what follows.
fn a_reader_reads_what_a_publisher_left_behind(plant: &Plant) {
    let publish = |more: &[&str]| {
        let base = ["--issue", SCOPE, "--member", "lake.vmc", "-t", TOPIC, "-q", "1", "-m"];
        plant.run("pub", "press", &[&base[..], more].concat())
    };
    publish(&[SECRET, "-r"]);

    let printed = plant.run("sub", "lake", &["--join", SCOPE, "-t", SCOPE, "-C", "1"]);
    assert_eq!(printed.trim_end(), SECRET);

    let _reader = plant.read("lake");
    plant.wait_for("lake", SECRET);
    publish(&["the next batch"]);
    plant.wait_for("lake", "the next batch");
    for name in ["press.state", "lake.state"] {
        let bytes = fs::read(plant.path(name)).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{name}");
    }
}

/// A member reads the first message of a sender whose certificate it has to fetch first.
#[test]
fn the_first_message_of_a_sender_waits_for_its_certificate_and_not_for_the_next_one() {
    let plant = &Plant::new(Carrier::veilmq());
    plant.certify("keys", "key-authority", "--publish-scope");
    fs::write(plant.path("passphrase"), "correct horse battery staple").unwrap();
    let issue = ["--passphrase-file", "passphrase", "--issue", SCOPE];
    let _authority = plant.start(&["authority", "run"], "keys", &issue);
    plant.wait_for("keys", "issuing the keys of factory/#");
    let publish =
        |text: &str| plant.run("pub", "press", &["--join", SCOPE, "-t", TOPIC, "-q", "1", "-m", text]);
    let members = || plant.made(&["authority", "members", "--state", "keys.state", "--scope", SCOPE]);
    publish("before anybody reads");
    let reader = plant.read("lake");
    wait_until("two members", || members().lines().count() == 2);
    drop(reader);
    // The heads that a new member brings about have been published by then.
    sleep(Duration::from_secs(3));
    let _reader = plant.read("lake");
    sleep(Duration::from_secs(3));

    publish("the first");

    plant.wait_for("lake", "the first");
}

/// Whom the authority removes reads nothing more; the others do, also after its state was lost and restored from a copy.
fn the_authority_removes_a_member_and_outlives_its_state(plant: &Plant) {
    plant.certify("keys", "key-authority", "--publish-scope");
    fs::write(plant.path("passphrase"), "correct horse battery staple").unwrap();
    let protected = ["--passphrase-file", "passphrase"];
    let issuing = "issuing the keys of factory/#";
    let start = || {
        let authority =
            plant.start(&["authority", "run"], "keys", &[&protected[..], &["--issue", SCOPE]].concat());
        plant.wait_for("keys", issuing);
        authority
    };
    let target = ["--state", "keys.state", "--scope", SCOPE];
    let members = || plant.made(&[&["authority", "members"][..], &target].concat());
    let publish =
        |text: &str| plant.run("pub", "press", &["--join", SCOPE, "-t", TOPIC, "-q", "1", "-m", text]);
    let authority = start();
    let _readers = ["lake", "hill"].map(|name| plant.read(name));
    wait_until("two members", || members().lines().count() == 2);

    publish("for both");
    for name in ["lake", "hill"] {
        plant.wait_for(name, "for both");
    }
    let copy = |verb: &str, option: &str| {
        let state = ["authority", verb, "--state", "keys.state", option, "copy"];
        plant.made(&[&state[..], &protected].concat())
    };
    let hill = plant.kid("hill");
    let removed = plant.made(&[&["authority", "remove"][..], &target, &[&hill]].concat());
    let change = "the next key, which it does not get, is announced now and used 5 seconds later";
    assert_eq!(removed, format!("{hill} is no member of {SCOPE} any more; {change}\n"));
    sleep(Duration::from_secs(6));
    publish("for one");

    plant.wait_for("lake", "for one");
    assert!(!plant.has_printed("hill", "for one"));
    assert!(members().lines().any(|line| line == format!("{} lake", plant.kid("lake"))), "{}", members());
    assert!(!members().contains("hill"));

    // What is published after the copy was made is newer than the state that comes back.
    copy("backup", "--to");
    let refused = |verb: &str, option: &str, file: &str| {
        let state = ["authority", verb, "--state", "keys.state", option, file];
        plant.refused(&[&state[..], &protected].concat())
    };
    for own in ["keys.state", "./keys.state.lock"] {
        let said = refused("backup", "--to", own);
        assert!(said.contains(&format!("{own}: that is keys.state or belongs to it")), "{said}");
    }
    fs::rename(plant.path("keys.state"), plant.path("away")).unwrap();
    let said = refused("restore", "--from", "copy");
    assert!(said.contains("keys.state: another client uses this state"), "the authority still runs: {said}");
    fs::rename(plant.path("away"), plant.path("keys.state")).unwrap();
    let rotated = plant.made(&[&["authority", "rotate"][..], &target].concat());
    assert_eq!(rotated, format!("the next key of {SCOPE} is announced now and used 60 seconds later\n"));
    drop(authority);
    fs::remove_file(plant.path("keys.state")).unwrap();
    copy("restore", "--from");
    let _authority = start();
    publish("after the restore");
    plant.wait_for("lake", "after the restore");
    assert!(!members().contains(&plant.kid("hill")));
}

/// Whoever has the certificates sees whether the authority gives its key to others.
fn the_roster_of_an_authority_is_compared_with_certificates(plant: &Plant) {
    plant.certify("keys", "key-authority", "--publish-scope");
    fs::write(plant.path("passphrase"), "correct horse battery staple").unwrap();
    let issue = ["--passphrase-file", "passphrase", "--issue", SCOPE];
    let _authority = plant.start(&["authority", "run"], "keys", &issue);
    plant.wait_for("keys", "issuing the keys of factory/#");
    let _readers = ["lake", "hill"].map(|name| plant.read(name));
    let diff = |certificates: &[&str]| compared(plant, certificates);
    wait_until("the roster of both", || diff(&["lake.vmc", "hill.vmc"]).0 == Some(0));

    let (status, printed) = diff(&["lake.vmc"]);
    assert_eq!(status, Some(1));
    assert!(printed.contains(&format!("+ {} has the key", plant.kid("hill"))), "{printed}");

    let target = ["--state", "keys.state", "--scope", SCOPE];
    plant.made(&[&["authority", "remove"][..], &target, &[&plant.kid("hill")]].concat());
    wait_until("the roster of one", || diff(&["lake.vmc"]).0 == Some(0));
}

#[test]
fn who_is_refused_keys_and_who_refuses_them_are_told_why() {
    let plant = Plant::new(Carrier::veilmq());
    plant.certify("keys", "key-authority", "--publish-scope");
    let who = ["--subject", "stranger", "--role", "subscriber", "--out", "."];
    plant.made(&[&["ca", "issue", "--dir", "ca"][..], &who].concat());
    let _authority = plant.start(&["authority", "run"], "keys", &["--issue", SCOPE]);
    plant.wait_for("keys", "issuing the keys of factory/#");

    let _stranger = plant.read("stranger");

    wait_until("a reason for the stranger", || {
        plant.complaints("stranger").contains("the certificate has no publish or subscribe scope")
    });
    let complaints = plant.complaints("keys");
    assert!(complaints.contains("who asks for keys gets none"), "{complaints}");
    assert!(
        complaints.contains("JoinRefused: who") && complaints.contains("subject=\"stranger\""),
        "{complaints}"
    );
}

#[test]
fn an_authority_that_may_open_no_more_files_says_so_once_and_waits() {
    let plant = Plant::new(Carrier::veilmq());
    plant.certify("keys", "key-authority", "--publish-scope");
    let authority = plant.start_with_files(32, &["authority", "run"], "keys", &["--issue", SCOPE]);
    plant.wait_for("keys", "issuing the keys of factory/#");

    let requests: Vec<UnixStream> =
        (0..48).map(|_| UnixStream::connect(plant.path("keys.state.sock")).unwrap()).collect();
    wait_until("a complaint", || plant.complaints("keys").contains("veil: requests wait: "));
    let before = authority.busy();
    sleep(Duration::from_secs(3));
    let busy = authority.busy() - before;

    assert!(busy < 100, "{busy} hundredths of a second of three");
    assert_eq!(plant.complaints("keys").matches("requests wait").count(), 1);
    drop(requests);
    plant.made(&["authority", "members", "--state", "keys.state", "--scope", SCOPE]);
}

#[test]
fn a_publisher_that_issues_keys_takes_orders_while_it_runs() {
    let plant = Plant::new(Carrier::veilmq());
    let issue = ["--issue", SCOPE, "-t", TOPIC, "-q", "1", "-m", "tick"];
    let repeated = ["--repeat", "1000", "--repeat-delay", "0.2"];
    let publisher = plant.start(&["pub"], "press", &[&issue[..], &repeated].concat());
    let _readers = ["lake", "hill"].map(|name| plant.read(name));
    let ticks = |name: &str| plant.printed(name).lines().count();
    wait_until("ticks for both", || ticks("lake") > 0 && ticks("hill") > 0);
    let target = ["--state", "press.state", "--scope", SCOPE];
    let members = || plant.made(&[&["authority", "members"][..], &target].concat());
    assert!(members().contains(" lake\n") && members().contains(" hill\n"), "{}", members());

    // Its path is too long for the name of a socket.
    let deep = "d".repeat(110);
    fs::create_dir(plant.path(&deep)).unwrap();
    plant.certify("mill", "publisher", "--publish-scope");
    let state = format!("{deep}/mill.state");
    let elsewhere = [&issue[..], &["--state", &state]].concat();
    let third = run(&mut plant.asking(&["pub"], "mill", &elsewhere), 60);
    assert!(third.status.success(), "{}", String::from_utf8_lossy(&third.stderr));

    let second = run(&mut plant.connecting(&["pub"], "press", &issue), 60);
    plant.made(&[&["authority", "remove"][..], &target, &[&plant.kid("hill")]].concat());
    wait_until("ticks for one alone", || {
        let (lake, hill) = (ticks("lake"), ticks("hill"));
        wait_until("more ticks", || ticks("lake") > lake + 5);
        ticks("hill") == hill
    });
    let (lake, hill) = (ticks("lake"), ticks("hill"));
    wait_until("more ticks", || ticks("lake") > lake + 15);
    assert_eq!(ticks("hill"), hill);
    assert!(!members().contains("hill"));
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(complaint.contains("another program issues keys with this state"), "{complaint}");
    drop(publisher);
}

/// The status of `veil roster diff`, and what it prints.
fn compared(plant: &Plant, certificates: &[&str]) -> (Option<i32>, String) {
    let mut command = plant.asking(&["roster", "diff"], "press", &[&[SCOPE], certificates].concat());
    let output = run(&mut command, 60);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn keys_without_forward_secrecy_are_named_and_not_given_where_they_are_not_wanted() {
    let plant = Plant::new(Carrier::veilmq());
    plant.certify("keys", "key-authority", "--publish-scope");
    let issue = ["--issue", SCOPE, "--member", "lake.vmc"];

    let authority = plant.start(&["authority", "run"], "keys", &issue);
    plant.wait_for("keys", "issuing the keys of factory/#");
    wait_until("the roster", || compared(&plant, &["lake.vmc"]).0 == Some(0));
    let (_, printed) = compared(&plant, &["lake.vmc"]);
    assert!(printed.contains(&format!("! {} has the key without", plant.kid("lake"))), "{printed}");

    drop(authority);
    let strict = [&issue[..], &["--no-static-wraps", "--key-lead", "1"]].concat();
    let _authority = plant.start(&["authority", "run"], "keys", &strict);
    plant.wait_for("keys", "issuing the keys of factory/#");
    plant.made(&["authority", "rotate", "--state", "keys.state", "--scope", SCOPE]);
    wait_until("a key for nobody", || !compared(&plant, &["lake.vmc"]).1.contains('!'));
    assert_eq!(compared(&plant, &["lake.vmc"]).0, Some(0), "it is a member all the same");
}

#[test]
fn the_roster_of_an_authority_is_compared_with_certificates_with_veilmq() {
    the_roster_of_an_authority_is_compared_with_certificates(&Plant::new(Carrier::veilmq()));
}

#[test]
fn the_roster_of_an_authority_is_compared_with_certificates_with_mosquitto_over_tls() {
    let Some(mosquitto) = Carrier::mosquitto_over_tls() else { return };
    the_roster_of_an_authority_is_compared_with_certificates(&Plant::new(mosquitto));
}

#[test]
fn a_reader_reads_what_a_publisher_left_behind_with_veilmq() {
    a_reader_reads_what_a_publisher_left_behind(&Plant::new(Carrier::veilmq()));
}

#[test]
fn a_reader_reads_what_a_publisher_left_behind_with_mosquitto_over_tls() {
    let Some(mosquitto) = Carrier::mosquitto_over_tls() else { return };
    a_reader_reads_what_a_publisher_left_behind(&Plant::new(mosquitto));
}

#[test]
fn the_authority_removes_a_member_and_outlives_its_state_with_veilmq() {
    the_authority_removes_a_member_and_outlives_its_state(&Plant::new(Carrier::veilmq()));
}

#[test]
fn the_authority_removes_a_member_and_outlives_its_state_with_mosquitto_over_tls() {
    let Some(mosquitto) = Carrier::mosquitto_over_tls() else { return };
    the_authority_removes_a_member_and_outlives_its_state(&Plant::new(mosquitto));
}
