//! The program as a script sees it: what it writes, what it prints, and how it ends.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use veilmq_client::{
    e2e::{
        E2e, EnvelopeOptions, Limits, Member, Scope,
        distribution::{Distribution, IssuePolicy},
    },
    identity,
    sealed_file::{SealedFile, StateKey},
};
use veilmq_protocol::veil::{Roles, channel::TrustAnchors, distribution::Crl};

/// Runs `veil` in a folder.
fn veil(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veil"));
    command.current_dir(folder).env_remove("VEIL_PASSWORD").args(arguments).output().unwrap()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = veil(folder, arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit status and the first line of the complaint.
fn fail(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = veil(folder, arguments);
    let complaint = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), complaint.lines().next().unwrap_or_default().to_owned())
}

/// A folder with an authority in `ca`.
fn with_authority() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["ca", "init", "--dir", "ca", "--name", "plant", "--days", "30"]);
    folder
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A program that has the state may be about to listen there.
#[test]
fn a_program_that_does_not_get_the_state_leaves_the_socket_beside_it_alone() {
    let folder = with_authority();
    let issue = ["ca", "issue", "--dir", "ca", "--subject", "keys", "--role", "key-authority", "--out", "."];
    succeed(folder.path(), &issue);
    let state = folder.path().join("keys.state");
    let key = StateKey::of_identity(&identity::load(folder.path().join("keys")).unwrap());
    let _other = SealedFile::open(&state, &key).unwrap();
    drop(UnixListener::bind(folder.path().join("keys.state.sock")).unwrap());

    let run = ["authority", "run", "--identity", "keys", "--trust", "ca/ca.vmc", "--state", "keys.state"];
    let (status, complaint) = fail(folder.path(), &[&run[..], &["--issue", "f/#"]].concat());

    assert!(status == 1 && complaint.contains("another client uses this state"), "{status} {complaint}");
    assert!(folder.path().join("keys.state.sock").exists(), "{complaint}");
}

#[test]
fn an_authority_issues_identities_that_its_certificate_vouches_for() {
    let folder = with_authority();
    let path = |name: &str| folder.path().join(name);
    let issue = [
        "ca",
        "issue",
        "--dir",
        "ca",
        "--subject",
        "press-07",
        "--role",
        "publisher",
        "--role",
        "subscriber",
    ];
    let scopes = ["--publish-scope", "factory/#", "--subscribe-scope", "plan/+", "--out", "device"];

    let said = succeed(folder.path(), &[&issue[..], &scopes[..]].concat());

    assert!(said.starts_with("device/press-07.vmc: press-07 (publisher,subscriber), kid "), "{said}");
    let mut anchors = TrustAnchors::new();
    anchors.add(identity::load_certificate(path("ca/ca.vmc")).unwrap()).unwrap();
    let device = identity::load(path("device")).unwrap();
    let certificate = device.certificate();
    anchors.verify(certificate, Roles::PUBLISHER, Some("press-07"), Some(certificate.not_before)).unwrap();
    assert_eq!(certificate.publish_scopes, ["factory/#"]);
    assert_eq!(certificate.subscribe_scopes, ["plan/+"]);
    for key in ["ca/ca.key", "device/press-07.key"] {
        assert_eq!(mode(&path(key)), 0o600, "{key}");
    }
}

#[test]
fn the_keys_of_an_existing_certificate_can_be_certified_without_having_them() {
    let folder = with_authority();
    succeed(folder.path(), &["ca", "init", "--dir", "broker", "--name", "broker-a"]);

    let issue = ["ca", "issue", "--dir", "ca", "--subject", "broker-a", "--role", "broker"];
    succeed(folder.path(), &[&issue[..], &["--certificate", "broker/ca.vmc", "--out", "out"]].concat());

    let before = identity::load_certificate(folder.path().join("broker/ca.vmc")).unwrap();
    let after = identity::load_certificate(folder.path().join("out/broker-a.vmc")).unwrap();
    assert_eq!((after.ed25519, after.x25519), (before.ed25519, before.x25519));
    assert_eq!(after.roles, Roles::BROKER);
    assert!(!folder.path().join("out/broker-a.key").exists());
}

#[test]
fn a_certificate_is_shown_in_words_and_as_json() {
    let folder = with_authority();

    let words = succeed(folder.path(), &["cert", "show", "ca/ca.vmc"]);
    let json = succeed(folder.path(), &["cert", "show", "--json", "ca/ca.vmc"]);

    let certificate = identity::load_certificate(folder.path().join("ca/ca.vmc")).unwrap();
    assert!(words.starts_with("subject           plant\nroles             ca\n"), "{words}");
    let view: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(view["kid"], certificate.kid().to_string());
    assert_eq!(view["self_signed"], true);
    assert_eq!(view["path_length"], 0);
    assert_eq!(view["bytes"], certificate.as_bytes().len());
}

#[test]
fn a_subject_cannot_make_a_terminal_show_another_name() {
    let folder = with_authority();
    let issue = ["ca", "issue", "--dir", "ca", "--role", "subscriber", "--out", ".", "--subject"];
    let summary = succeed(folder.path(), &[&issue[..], &["la\u{202e}ke\u{1b}[2J"]].concat());
    let file = summary.split(": ").next().unwrap();

    let words = succeed(folder.path(), &["cert", "show", file]);

    for said in [&summary, &words] {
        assert!(said.contains("la\\u{202e}ke\\u{1b}[2J"), "{said}");
        assert!(!said.contains(['\u{202e}', '\u{1b}']), "{said:?}");
    }
}

#[test]
fn no_key_is_ever_overwritten() {
    let folder = with_authority();
    succeed(folder.path(), &["key", "new", "master.key"]);
    let before = (
        fs::read(folder.path().join("ca/ca.key")).unwrap(),
        fs::read(folder.path().join("master.key")).unwrap(),
    );

    let again = fail(folder.path(), &["ca", "init", "--dir", "ca"]);
    let key_again = fail(folder.path(), &["key", "new", "master.key"]);

    assert_eq!(again, (1, "veil: ca/ca.key: File exists (os error 17)".to_owned()));
    assert_eq!(key_again, (1, "veil: master.key: File exists (os error 17)".to_owned()));
    let after = (
        fs::read(folder.path().join("ca/ca.key")).unwrap(),
        fs::read(folder.path().join("master.key")).unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(mode(&folder.path().join("master.key")), 0o600);
    assert_eq!(before.1.len(), 65, "64 digits and a line end");
}

#[test]
fn bad_input_gives_one_line_that_names_the_thing_at_fault() {
    let folder = with_authority();
    succeed(folder.path(), &["key", "new", "master.key"]);
    fs::write(folder.path().join("short.key"), "abc").unwrap();
    fs::set_permissions(folder.path().join("short.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let publish = |more: &[&'static str]| [&["pub", "-p", "1", "-t", "a", "-m", "x"], more].concat();
    let issue =
        |more: &[&'static str]| [&["ca", "issue", "--dir", "ca", "--role", "publisher"], more].concat();
    let rows = [
        (
            publish(&["--identity", "none", "--trust", "ca/ca.vmc"]),
            "none.vmc: No such file or directory (os error 2)",
        ),
        (publish(&["--trust", "ca/ca.key"]), "ca/ca.key: certificate does not begin with VMC1"),
        (publish(&["--trust", "ca/ca.vmc"]), "--trust needs --identity: "),
        (publish(&["--identity", "ca/ca"]), "--identity needs --trust FILE to know the broker by, "),
        (publish(&["--scope", "a/#/b", "--master-key", "master.key"]), "--scope \"a/#/b\": "),
        (
            publish(&["--scope", "a", "--master-key", "short.key"]),
            "short.key: a master key is 64 hexadecimal digits",
        ),
        (
            publish(&["--scope", "a", "--master-key", "ca/ca.vmc"]),
            "ca/ca.vmc: others may read this key file (mode 6",
        ),
        (
            publish(&["--scope", "b/#", "--master-key", "master.key"]),
            "a is in none of the scopes b/#: its messages would go in the clear",
        ),
        (publish(&["--pad"]), "--pad needs a scope: give --scope, --join or --issue"),
        (publish(&["--require-signatures"]), "--require-signatures needs a scope: "),
        (publish(&["-c"]), "-c needs a client identifier: give -i or --identity"),
        (publish(&["-D", "publish", "topic-alias", "1"]), "-D publish topic-alias: no such property"),
        (publish(&["-x", "-2"]), "-x -2: give 0 to 4294967295 seconds, or -1"),
        (issue(&["--subject", ""]), "--subject \"\": certificate subject is not 1..=64 bytes"),
        (issue(&["--subject", "a", "--publish-scope", "a/#/b"]), "--publish-scope \"a/#/b\": "),
        (vec!["cert", "show", "ca"], "ca: Is a directory (os error 21)"),
    ];
    for (arguments, complaint) in rows {
        let (status, line) = fail(folder.path(), &arguments);
        assert!(line.starts_with(&format!("veil: {complaint}")), "{arguments:?}: {line}");
        assert_eq!(status, 1, "{arguments:?}");
    }
}

#[test]
fn who_is_revoked_is_revoked_with_all_certificates_it_ever_got_and_gets_no_other() {
    let folder = with_authority();
    let path = |name: &str| folder.path().join(name);
    let authority = ["--dir", "ca"];
    let who = ["--subject", "press", "--role", "publisher", "--out", "."];
    succeed(folder.path(), &[&["ca", "issue"], &authority[..], &who].concat());
    let first = identity::load_certificate(path("press.vmc")).unwrap();
    succeed(folder.path(), &[&["ca", "renew"], &authority[..], &["press.vmc"]].concat());
    let renewed = identity::load_certificate(path("press.vmc")).unwrap();
    assert_ne!(first.serial, renewed.serial);

    succeed(folder.path(), &[&["ca", "revoke"], &authority[..], &["press.vmc"]].concat());

    let list = Crl::parse(&fs::read(path("ca/ca.crl")).unwrap()).unwrap();
    let mut revoked: Vec<u64> = list.revoked.iter().map(|entry| entry.serial).collect();
    let mut expected = [first.serial, renewed.serial];
    revoked.sort_unstable();
    expected.sort_unstable();
    assert_eq!(revoked, expected);
    let again = ["--subject", "press", "--role", "publisher", "--certificate", "press.vmc", "--out", "again"];
    for arguments in [
        [&["ca", "renew"], &authority[..], &["press.vmc"]].concat(),
        [&["ca", "issue"], &authority[..], &again].concat(),
    ] {
        let (status, line) = fail(folder.path(), &arguments);
        assert_eq!(
            (status, line.contains("are revoked; issue a certificate with new ones")),
            (1, true),
            "{line}"
        );
    }
    let (_, line) = fail(folder.path(), &[&["ca", "revoke"], &authority[..], &["ca/ca.vmc"]].concat());
    assert!(line.starts_with("veil: ca/ca.vmc: it is the authority's own"), "{line}");
}

#[test]
fn wrong_usage_ends_with_the_status_of_mosquittos_clients() {
    let folder = tempfile::tempdir().unwrap();
    let rows: [(&[&str], &str); 5] = [
        (&["pub", "-t", "a"], "error: the following required arguments were not provided:"),
        (
            &["pub", "-t", "a", "-m", "x", "-n"],
            "error: the argument '--message <MESSAGE>' cannot be used with '--null-message'",
        ),
        (
            &["pub", "-t", "a", "-m", "x", "-q", "3"],
            "error: invalid value '3' for '--qos <QOS>': a QoS is 0, 1 or 2",
        ),
        (&["sub", "-t", "a", "-V", "mqttv311"], "error: invalid value 'mqttv311' for '--protocol-version"),
        (&["sub"], "error: the following required arguments were not provided:"),
    ];
    for (arguments, complaint) in rows {
        let (status, line) = fail(folder.path(), arguments);
        assert!(line.starts_with(complaint), "{arguments:?}: {line}");
        assert_eq!(status, 1, "{arguments:?}");
    }
    assert!(succeed(folder.path(), &["--version"]).starts_with("veil "));
    assert!(succeed(folder.path(), &["sub", "--help"]).contains("Exit status:"));
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let there = ["-h", "127.0.0.1", "-p", &port];

    let refused = format!("veil: cannot reach 127.0.0.1:{port}: Connection refused (os error 111)");
    for command in [&["pub", "-t", "a", "-n"][..], &["sub", "-t", "a"]] {
        let complaint = fail(folder.path(), &[command, &there].concat());
        assert_eq!(complaint, (1, refused.clone()), "{command:?}");
    }
    let admin = format!("127.0.0.1:{port}");
    let demo = fail(folder.path(), &[&["demo", "--admin", &admin], &there[..]].concat());
    assert_eq!(demo, (1, format!("veil: admin listener {admin}: Connection refused (os error 111)")));
}

#[test]
fn what_cannot_be_between_two_alone_is_refused_before_anybody_connects() {
    let folder = with_authority();
    let folder = folder.path();
    for (name, role) in [("mill", "publisher"), ("lake", "subscriber")] {
        let who = ["--subject", name, "--role", role, "--publish-scope", "factory/#", "--out", "."];
        succeed(folder, &[&["ca", "issue", "--dir", "ca"][..], &who].concat());
    }
    let who = |name| ["--identity", name, "--trust", "ca/ca.vmc", "--no-channel", "-h", "192.0.2.1"];

    let to = ["pub", "--to", "lake.vmc", "-t", "factory/t", "-n"];
    let (status, complaint) = fail(folder, &[&to[..], &who("mill")].concat());
    assert_eq!(status, 1);
    assert!(
        complaint.contains("no publish scope of this client's certificate covers _veil/1/p2p/"),
        "{complaint}"
    );
    let from = ["sub", "--from", "mill.vmc", "-t", "$share/g/factory/#"];
    let shared = "veil: -t $share/g/factory/#: --from and a shared subscription exclude each other";
    assert_eq!(fail(folder, &[&from[..], &who("lake")].concat()), (1, shared.to_owned()));
    // A Will Message would be everybody's, and in the clear.
    let (_, complaint) = fail(folder, &[&to[..], &who("mill"), &["--will-topic", "factory/t"]].concat());
    assert!(complaint.contains("'--to <FILE>' cannot be used with '--will-topic"), "{complaint}");
}

/// Writes what `press` publishes as issuer of `factory/#` with one member, `lake`, to the file `head`.
fn write_head(folder: &Path) {
    let path = |name: &str| folder.join(name);
    let mut anchors = TrustAnchors::new();
    identity::add_anchor(&mut anchors, path("ca/ca.vmc")).unwrap();
    let press = Arc::new(identity::load(path("press")).unwrap());
    let mut e2e = E2e::new(Member::Identity(Arc::clone(&press)), Limits::default());
    let mut keys = Distribution::new(press, anchors);
    let scope = Scope::new("factory/#").unwrap();
    keys.issue(&mut e2e, scope.clone(), EnvelopeOptions::default(), IssuePolicy::default()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut entropy = |bytes: &mut [u8]| getrandom::fill(bytes).unwrap();
    keys.admit(&scope, identity::load_certificate(path("lake.vmc")).unwrap(), now, &mut entropy).unwrap();
    keys.advance(&mut e2e, now, &mut entropy);
    let outgoing = keys.outgoing(now, &mut entropy);
    let head = outgoing.iter().find(|outgoing| outgoing.topic.starts_with("_veil/1/kp/")).unwrap();
    fs::write(path("head"), &head.payload).unwrap();
}

#[test]
fn a_roster_is_compared_with_the_head_of_an_issuer() {
    let folder = with_authority();
    let folder = folder.path();
    for (name, role, scopes) in [
        ("press", "publisher", "--publish-scope"),
        ("lake", "subscriber", "--subscribe-scope"),
        ("hill", "subscriber", "--subscribe-scope"),
    ] {
        let who = ["--subject", name, "--role", role, scopes, "factory/#", "--out", "."];
        succeed(folder, &[&["ca", "issue", "--dir", "ca"][..], &who].concat());
    }
    write_head(folder);
    let kid = |name: &str| identity::load_certificate(folder.join(format!("{name}.vmc"))).unwrap().kid();
    let diff = |more: &[&str]| {
        let output =
            veil(folder, &[&["roster", "diff", "--trust", "ca/ca.vmc", "--head", "head"][..], more].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };

    let (status, same) = diff(&["factory/#", "lake.vmc", "press.vmc"]);
    assert_eq!((status, same.lines().last()), (0, Some("  = the roster")), "{same}");
    assert!(same.contains(&format!("issuer {} (press), epoch 1", kid("press"))), "{same}");

    let (status, other) = diff(&["factory/#", "hill.vmc"]);
    let lines = [
        format!("  ! {} has the key without forward secrecy: it had shown no prekey", kid("lake")),
        format!("  + {} has the key and is not on the roster", kid("lake")),
        format!("  - {} (hill) is on the roster and has no key", kid("hill")),
    ];
    assert_eq!(
        (status, other.lines().skip(1).collect::<Vec<_>>()),
        (1, lines.each_ref().map(String::as_str).to_vec())
    );

    succeed(folder, &["ca", "revoke", "--dir", "ca", "lake.vmc"]);
    let (status, revoked) = diff(&["factory/#", "lake.vmc", "--crl", "ca/ca.crl"]);
    assert_eq!((status, revoked.lines().last()), (1, Some(&*lines[1])), "{revoked}");
    assert!(revoked.starts_with("lake.vmc: does not count"), "{revoked}");

    assert_eq!(diff(&["office/#", "lake.vmc"]).0, 1, "a head of another scope says nothing");
    let mut head = fs::read(folder.join("head")).unwrap();
    head[60] ^= 1;
    fs::write(folder.join("head"), head).unwrap();
    assert_eq!(diff(&["factory/#", "lake.vmc"]).0, 1, "nor does one that does not verify");
}
