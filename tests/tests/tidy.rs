//! Rules about the text of the repository that no other tool checks.
//!
//! A rule that is broken names the file and the line.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::path::{Path, PathBuf};

use veilmq_tests::tools::workspace_root;

const RUST_LINES_MAX: usize = 600;

/// A file of the repository: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `PATH:LINE: what` for each line that contains one of `words`.
    fn lines_with<'a>(&'a self, words: &'a [String]) -> impl Iterator<Item = String> + 'a {
        let numbered = self.text.lines().enumerate();
        numbered.flat_map(move |(index, line)| {
            let found = words.iter().filter(move |word| line.contains(word.as_str()));
            found.map(move |word| format!("{}:{}: {word}", self.path, index + 1))
        })
    }
}

/// Every text file that belongs to the repository.
fn files() -> Vec<File> {
    const NOT_OURS: [&str; 4] = ["target", ".git", ".venv", "node_modules"];

    fn visit(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            let is_ours = !NOT_OURS.iter().any(|name| entry.file_name() == *name);
            if kind.is_dir() && is_ours {
                visit(&entry.path(), found);
            } else if kind.is_file() && is_ours {
                found.push(entry.path());
            }
        }
    }

    let root = workspace_root();
    let mut paths = Vec::new();
    visit(root, &mut paths);
    let relative = |path: &Path| path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    let read = |path: PathBuf| Some(File { path: relative(&path), text: fs::read_to_string(&path).ok()? });
    let files: Vec<File> = paths.into_iter().filter_map(read).collect();
    assert!(files.iter().any(|file| file.path == "protocol/src/lib.rs"), "the walk sees the sources");
    files
}

/// The rules would find themselves if their words stood here in one piece.
fn words(pieces: &[[&str; 2]]) -> Vec<String> {
    pieces.iter().map(|pieces| pieces.concat()).collect()
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn nothing_is_left_to_do_later() {
    let left = words(&[
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
        ["FIX", "ME"],
        ["XX", "X "],
        ["#[ig", "nore"],
    ]);

    let found: Vec<String> = files()
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| file.lines_with(&left).collect::<Vec<_>>())
        .collect();

    assert_none(&found);
}

#[test]
fn the_repository_speaks_of_itself_alone() {
    let foreign = words(&[["../", "shared"], ["/wo", "rk/"], [".lib", "rary/"], ["/tmp/", "veil/"]]);

    let found: Vec<String> =
        files().iter().flat_map(|file| file.lines_with(&foreign).collect::<Vec<_>>()).collect();

    assert_none(&found);
}

#[test]
fn every_rust_file_opens_with_what_it_owns() {
    let silent = |file: &File| file.is_rust() && !file.text.starts_with("//! ");

    let found: Vec<String> = files().into_iter().filter(silent).map(|file| file.path).collect();

    assert_none(&found);
}

#[test]
fn no_rust_file_is_too_long_to_read_in_one_sitting() {
    let length = |file: &File| file.text.lines().count();

    let found: Vec<String> = files()
        .iter()
        .filter(|file| file.is_rust() && length(file) > RUST_LINES_MAX)
        .map(|file| format!("{}: {} lines, and {RUST_LINES_MAX} is the limit", file.path, length(file)))
        .collect();

    assert_none(&found);
}

#[test]
fn protocol_and_core_never_fetch_time_randomness_network_disk_or_environment() {
    let effects = words(&[
        ["Instant", "::now"],
        ["System", "Time"],
        ["std::", "net"],
        ["std::", "fs"],
        ["std::", "env"],
        ["std::", "thread"],
        ["std::", "process"],
        ["getrandom", "::"],
        ["thread", "_rng"],
    ]);
    let is_pure =
        |file: &&File| ["protocol/src/", "broker/core/src/"].iter().any(|root| file.path.starts_with(root));

    let found: Vec<String> = files()
        .iter()
        .filter(is_pure)
        .flat_map(|file| file.lines_with(&effects).collect::<Vec<_>>())
        .collect();

    assert_none(&found);
}

#[test]
fn no_channel_without_a_bound_is_made() {
    let unbounded = words(&[
        ["unbounded", "_channel"],
        ["mpsc::", "channel()"],
        ["Unbounded", "Sender"],
        ["unbounded", "()"],
    ]);
    let is_product = |file: &&File| file.path.contains("/src/") && !file.path.starts_with("tests/");

    let found: Vec<String> = files()
        .iter()
        .filter(is_product)
        .flat_map(|file| file.lines_with(&unbounded).collect::<Vec<_>>())
        .collect();

    assert_none(&found);
}

#[test]
fn every_program_that_tests_start_is_built_by_the_test_command() {
    // Cargo builds the programs of a package for `cargo test` only where the package has an integration test.
    let has_test = |package: &str| {
        fs::read_dir(workspace_root().join(package).join("tests")).is_ok_and(|mut entries| {
            entries
                .any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "rs")))
        })
    };

    let without: Vec<&str> =
        ["broker", "client-sdk/cli"].into_iter().filter(|package| !has_test(package)).collect();

    assert!(without.is_empty(), "no integration test in {without:?}");
}

#[test]
fn every_dependency_of_the_workspace_has_its_reason_written_down() {
    let read = |path: &str| fs::read_to_string(workspace_root().join(path)).unwrap();
    let manifest = read("Cargo.toml");
    let record = read("docs/decisions/dependencies.md");
    let (_, section) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let names: Vec<&str> = section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once([' ', '.', '=']).map(|(name, _)| name))
        .filter(|name| !name.starts_with("veilmq-"))
        .collect();
    assert!(names.contains(&"tokio"), "the section is read");

    let missing: Vec<&str> =
        names.into_iter().filter(|name| !record.contains(&format!("| `{name}`"))).collect();

    assert!(missing.is_empty(), "docs/decisions/dependencies.md says nothing of {missing:?}");
}

#[test]
fn every_decision_record_is_in_the_list() {
    let index = fs::read_to_string(workspace_root().join("docs/decisions/README.md")).unwrap();
    let records =
        files().into_iter().filter_map(|file| file.path.strip_prefix("docs/decisions/").map(str::to_owned));

    let missing: Vec<String> =
        records.filter(|name| name != "README.md" && !index.contains(&format!("({name})"))).collect();

    assert_none(&missing);
}

#[test]
fn links_between_documents_lead_to_files_that_exist() {
    let mut broken = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".md")) {
        let folder = Path::new(&file.path).parent().unwrap();
        for target in file.text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_local = !target.is_empty() && !target.contains("://");
            if is_local && !workspace_root().join(folder).join(target).exists() {
                broken.push(format!("{}: {target}", file.path));
            }
        }
    }

    assert_none(&broken);
}
