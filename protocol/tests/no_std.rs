//! The crate and everything it depends on, with every feature, do without std.

use std::{fs, path::Path, process::Command};

#[test]
fn a_program_without_std_can_use_the_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let probe = root.join("tests/no_std_probe");
    // The same versions as the workspace, which are there without a network.
    fs::copy(root.join("Cargo.lock"), probe.join("Cargo.lock")).expect("the workspace has a lock file");

    let check = Command::new(env!("CARGO"))
        .args(["check", "--quiet", "--offline", "--manifest-path"])
        .arg(probe.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_std_probe"))
        .output()
        .expect("cargo starts");

    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}
