//! `docs/mosquitto.md` says what the table of Mosquitto's options says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use veilmq_config::{Fate, Scope, mosquitto_options};

#[test]
fn every_option_of_mosquitto_is_listed_once() {
    let names: BTreeSet<&str> = mosquitto_options().map(|option| option.name).collect();

    assert_eq!(names.len(), mosquitto_options().count());
    // Five options of the plugins that are built in stand beside the row for those of all plugins.
    assert_eq!(names.len(), 139 + 5);
}

fn documented_row(option: &veilmq_config::MosquittoOption) -> String {
    let scope = match option.scope {
        Scope::Global => "broker",
        Scope::Security => "broker or listener",
        Scope::Listener => "listener",
        Scope::Bridge => "bridge",
        Scope::Plugin => "plugin",
    };
    let fate = match option.fate {
        Fate::Honoured => "honoured",
        Fate::WithoutEffect => "no effect",
        Fate::Refused => "refused",
    };
    let note = option.note.strip_prefix("no effect: ").unwrap_or(option.note);
    format!("| `{}` | {scope} | {fate} | {note} |", option.name)
}

#[test]
fn the_document_has_one_true_row_for_each_option_of_mosquitto() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mosquitto.md");
    let document = fs::read_to_string(path).unwrap();

    let mut expected: Vec<String> = mosquitto_options().map(documented_row).collect();
    expected.sort();

    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows, expected, "the table should be\n{}\n", expected.join("\n"));
}
