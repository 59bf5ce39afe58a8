//! Property mode with a library that is not ours, inside TLS, against the real broker and a client of ours (VEIL-1 section 5.3).
//!
//! `tests/interop/node/property_mode.mjs` is the other side: MQTT.js as it is, and the protocol written down once more.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::{built_program, finish, require_installed, require_tool, run, spawn};

const PAYLOAD: &str = "21.5 degrees";

fn veil(arguments: &[&str]) -> Output {
    let output = run(Command::new(built_program("veil")).args(arguments), 60);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("temporary directories are UTF-8").to_owned()
}

fn issue(folder: &Path, subject: &str) {
    let (authority, out) = (path(folder, "ca"), path(folder, subject));
    let roles = ["--role", "publisher", "--role", "subscriber"];
    veil(
        &[&["ca", "issue", "--dir", &authority, "--subject", subject, "--out", &out], roles.as_slice()]
            .concat(),
    );
}

#[test]
fn a_library_that_is_not_ours_protects_each_publish_and_talks_to_a_client_of_ours() {
    let (Some(node), Some(_)) = (require_tool("node"), require_installed("node/node_modules/mqtt")) else {
        return;
    };
    let Some(script) = require_installed("node/property_mode.mjs") else { return };
    let folder = TempDir::new().expect("the temporary directory is writable");
    let folder = folder.path();
    veil(&["ca", "init", "--dir", &path(folder, "ca"), "--name", "ca"]);
    issue(folder, "stock");
    issue(folder, "ours");
    let (authority, plain) = (Authority::new(), ReservedPort::new());
    let shown = authority.issue_for_this_machine();
    let broker = Broker::start_configured(|address| {
        format!(
            "[veil]\ntrust = [{:?}]\n[[listeners]]\naddress = \"{}\"\n[[listeners]]\naddress = \"{address}\"\n[listeners.tls]\n{}",
            path(folder, "ca/ca.vmc"),
            plain.address(),
            shown.on_listener()
        )
    });
    let certificate = path(&broker.data_dir(), "identity/broker.vmc");
    let (port, ours) = (plain.number().to_string(), path(folder, "ours"));
    let base = ["-h", "127.0.0.1", "-p", &port, "--identity", &ours, "--trust", &certificate];

    let mut command = Command::new(node);
    command
        .arg(script)
        .arg(broker.port().to_string())
        .arg(authority.certificate())
        .arg(path(folder, "stock/stock"))
        .arg(&certificate);
    let mut stock = spawn(&mut command);
    let mut lines = BufReader::new(stock.stdout.take().expect("it is piped")).lines();
    let mut said = || lines.next().and_then(Result::ok).unwrap_or_default();
    let ready = said();
    if ready != "ready" {
        let output = finish(stock, 40, "node");
        panic!("{ready:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    veil(&[&["pub"], base.as_slice(), &["-t", "to/stock", "-m", PAYLOAD, "-q", "1"]].concat());

    assert_eq!(said(), "echoed");
    assert_eq!(said(), "refused 0x87", "a property that is wrong ends the connection");
    let output = finish(stock, 40, "node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let retained =
        veil(&[&["sub"], base.as_slice(), &["-t", "from/stock", "-C", "1", "-W", "20", "--json"]].concat());
    let retained = String::from_utf8_lossy(&retained.stdout).into_owned();
    assert!(retained.contains(PAYLOAD), "{retained}");
    assert!(!retained.contains("v1m"), "{retained}");
    let failures = || broker.metric("veilmq_channel_record_auth_failures_total");
    let deadline = Instant::now() + Duration::from_secs(10);
    while failures() != Some(1.0) {
        assert!(Instant::now() < deadline, "{:?} failures are counted", failures());
    }
}
