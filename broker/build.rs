//! Tells the program what it was built from, for `veilmq_build_info`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=VEILMQ_REVISION");
    let revision =
        std::env::var("VEILMQ_REVISION").ok().or_else(git_revision).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=VEILMQ_REVISION={revision}");
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = output(&compiler, &["--version"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=VEILMQ_RUSTC={}", version.trim_start_matches("rustc "));
}

/// Builds from a source archive have no repository; they are given the revision in the environment.
fn git_revision() -> Option<String> {
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
