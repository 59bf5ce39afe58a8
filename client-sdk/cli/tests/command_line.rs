//! The command line of `veil` where no broker is needed: what is wrong is named, and nothing is overwritten.

use std::path::Path;
use std::process::{Command, Output};

fn veil(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veil"));
    command.args(arguments).current_dir(folder).output().expect("veil can be started")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_command_line_is_named_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, fact) in
        [(["frobnicate", "-x"], "frobnicate"), (["pub", "--topik"], "--topik"), (["sub", "-q"], "--qos")]
    {
        let output = veil(folder.path(), &arguments);

        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(fact), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn what_a_blind_name_needs_is_named_with_its_alternative() {
    let folder = tempfile::tempdir().unwrap();

    let output = veil(folder.path(), &["topic", "blind", "a/b"]);

    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("<--topic-key <[EPOCH:]FILE>|--master-key <FILE>>"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn keys_and_authorities_are_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, file) in [
        (["key", "new", "master.key"].as_slice(), "master.key"),
        (&["ca", "init", "--dir", "ca"], "ca/ca.key"),
    ] {
        assert!(veil(folder.path(), arguments).status.success(), "{arguments:?}");
        let first = std::fs::read(folder.path().join(file)).unwrap();

        let second = veil(folder.path(), arguments);

        assert_eq!(second.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&second).contains(file), "{}", stderr(&second));
        assert_eq!(std::fs::read(folder.path().join(file)).unwrap(), first);
    }
}

#[test]
fn a_private_key_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    assert!(veil(folder.path(), &["ca", "init", "--dir", "ca"]).status.success());
    assert!(veil(folder.path(), &["key", "new", "master.key"]).status.success());

    for file in ["ca/ca.key", "master.key"] {
        let mode = folder.path().join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}
