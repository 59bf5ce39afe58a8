//! Every attack and fault of `tests/faults.toml` is shown by a test that carries its identifier, or says why it is not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use veilmq_tests::tools::workspace_root;

const FOLDERS: [&str; 7] = ["protocol", "broker", "config", "client-sdk", "tests", "bench", "fuzz"];
const TABLE: &str = "tests/faults.toml";

/// The files below a folder that carry identifiers.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && !["target", "node_modules", ".venv"].iter().any(|name| entry.file_name() == *name)
        {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "mqtt") {
            found.push(path.strip_prefix(workspace_root()).unwrap().to_string_lossy().into_owned());
        }
    }
}

/// The identifiers in a text: a letter from A to E and two digits, in square brackets.
fn identifiers(text: &str) -> BTreeSet<String> {
    let bracketed = text.split('[').skip(1).filter_map(|rest| rest.get(..4));
    let is_identifier = |word: &&str| {
        let bytes = word.as_bytes();
        matches!(bytes, [b'A'..=b'E', one, two, b']'] if one.is_ascii_digit() && two.is_ascii_digit())
    };
    bracketed.filter(is_identifier).map(|word| word[..3].to_owned()).collect()
}

#[test]
fn every_fault_is_shown_where_the_table_says_or_says_why_it_is_not() {
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&workspace_root().join(folder), &mut files);
    }
    let mut carried: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        for identifier in identifiers(&fs::read_to_string(workspace_root().join(&file)).unwrap()) {
            carried.entry(identifier).or_default().insert(file.clone());
        }
    }
    let text = fs::read_to_string(workspace_root().join(TABLE)).unwrap();
    let table: toml::Table = text.parse().unwrap();
    assert!(table.len() > 60, "{TABLE} has every row");

    for (identifier, row) in &table {
        let shown = row.get("shown").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let shown: BTreeSet<String> = shown.iter().map(|file| file.as_str().unwrap().to_owned()).collect();
        let carried = carried.remove(identifier).unwrap_or_default();
        let silent: Vec<_> = shown.difference(&carried).collect();
        assert!(silent.is_empty(), "{TABLE}: {identifier} names {silent:?}, where no test carries it");
        assert!(!shown.is_empty() || carried.is_empty(), "{TABLE}: {identifier} is shown in {carried:?}");
        let left = row.get("left").and_then(toml::Value::as_str).unwrap_or_default();
        assert!(
            !shown.is_empty() || left.ends_with('.'),
            "{TABLE}: {identifier} is not shown and does not say why"
        );
        assert!(row["case"].as_str().is_some_and(|case| !case.is_empty()), "{identifier}");
    }

    assert!(carried.is_empty(), "identifiers that are not in {TABLE}: {carried:?}");
}
