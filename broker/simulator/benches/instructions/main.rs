//! Counts the instructions that the core spends on a message, and compares them with the table beside this file.
//!
//! Time on a shared machine says little about a change of a few per cent; the number of instructions is the same with every run.
//! Each scenario runs in a process of its own under Valgrind's callgrind, which counts inside [`load::carry_out`] only: what the
//! core does, without sockets, store or the preparation of packets. It does not say what a cache miss or a system call costs.
//!
//! `INSTRUCTIONS=write` takes the counts into the table instead. The counts belong to the toolchain of `rust-toolchain.toml`.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod load;
mod scenarios;
mod sealed;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use self::load::Load;
use self::scenarios::{SCENARIOS, Scenario};

/// What makes this program run one scenario instead of measuring all.
const RUN: &str = "--run";
/// How far a count may be from the table, in per cent: beyond it someone has to look.
const TOLERANCE_PERCENT: u64 = 5;

const TABLE_HEAD: &str = "\
# Instructions of the core for each message delivered, or for each packet where none is. What the rows are stands in
# instructions/scenarios.rs. Written by:
#     INSTRUCTIONS=write cargo bench -p veilmq-simulator --bench instructions
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let Some(name) = arguments.iter().skip_while(|argument| *argument != RUN).nth(1) {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
        (scenario.prepare)().run();
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed");
        return if env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let counts: BTreeMap<&str, u64> =
        SCENARIOS.iter().map(|scenario| (scenario.name, count(scenario))).collect();
    if env::var_os("INSTRUCTIONS").is_some_and(|wish| wish == "write") {
        fs::write(table_path(), table(&counts)).unwrap();
        return ExitCode::SUCCESS;
    }
    compare(&counts)
}

/// Runs a scenario under callgrind and returns the instructions for each of its messages.
fn count(scenario: &Scenario) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("callgrind");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no", "--toggle-collect=*carry_out*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe().unwrap())
        .args([RUN, scenario.name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", scenario.name, String::from_utf8_lossy(&output.stderr));
    total(&profile).div_ceil(scenario.messages)
}

fn total(profile: &Path) -> u64 {
    let profile = fs::read_to_string(profile).unwrap();
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap().parse().unwrap();
    assert!(total > 0, "callgrind has not found the function to count in");
    total
}

fn compare(counts: &BTreeMap<&str, u64>) -> ExitCode {
    let text = fs::read_to_string(table_path()).unwrap();
    let known: BTreeMap<String, u64> = toml::from_str(&text).unwrap();
    let mut failed = 0;
    for (name, count) in counts {
        let change = known.get(*name).map(|known| change_percent(*known, *count));
        let is_near = change.is_some_and(|percent| percent.abs() <= TOLERANCE_PERCENT as f64);
        failed += usize::from(!is_near);
        let change = change.map_or("not in the table".to_owned(), |percent| format!("{percent:+.1} %"));
        println!("{name:<22}{count:>8}  {change}{}", if is_near { "" } else { "  <--" });
    }
    let forgotten = known.keys().filter(|name| !counts.contains_key(name.as_str())).count();
    println!("{} passed, {} failed", counts.len() - failed, failed + forgotten);
    if failed + forgotten == 0 {
        return ExitCode::SUCCESS;
    }
    println!(
        "More than {TOLERANCE_PERCENT} % from {}. If that is meant to be, for better or worse, say why and run:\n    \
         INSTRUCTIONS=write cargo bench -p veilmq-simulator --bench instructions",
        table_path().display()
    );
    ExitCode::FAILURE
}

fn change_percent(known: u64, count: u64) -> f64 {
    (count as f64 - known as f64) * 100.0 / known as f64
}

fn table(counts: &BTreeMap<&str, u64>) -> String {
    let mut table = TABLE_HEAD.to_owned();
    for (name, count) in counts {
        println!("{name:<22}{count:>8}");
        writeln!(table, "{name} = {count}").unwrap();
    }
    table
}

fn table_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml")
}
