//! Runs the program `veilmq` to its end.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs `veilmq` on a data directory.
pub(crate) fn veilmq(data: &Path, arguments: &[&str]) -> Output {
    let environment = std::env::vars().filter(|(name, _)| !name.starts_with("VEILMQ__"));
    Command::new(env!("CARGO_BIN_EXE_veilmq"))
        .env_clear()
        .envs(environment)
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .output()
        .unwrap()
}

/// Asserts success and returns standard output.
pub(crate) fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Asserts this status, one line on standard error and nothing on standard output; returns the line.
pub(crate) fn error(output: &Output, status: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}
