//! Every normative statement of MQTT 5.0 and of MQTT 3.1.1 stands in `tests/conformance/clauses.toml`, with the code that
//! implements it and the tests that prove it.
//!
//! The table cannot promise more than there is: a file that it names exists and carries the statement's tag. `CLAUSES=write`
//! fills in the files anew from the tags that the repository carries.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use toml::{Table, Value};
use veilmq_tests::tools::workspace_root;

const TABLE: &str = "tests/conformance/clauses.toml";

/// Statements that the broker does not fulfil, each with its reason in the table. This number may only shrink.
const EXCEPTIONS: usize = 0;

/// A standard: its table in the file, the prefix of its tags, the number of its statements, and the sections that have any with the
/// first and the last number there. A few numbers were never given.
struct Standard {
    table: &'static str,
    prefix: &'static str,
    statements: usize,
    sections: &'static [(&'static str, u8, u8)],
}

const STANDARDS: [Standard; 2] = [
    Standard { table: "mqtt5", prefix: "MQTT-", statements: 251, sections: SECTIONS_5 },
    Standard { table: "mqtt311", prefix: "MQTT311-", statements: 141, sections: SECTIONS_311 },
];

const SECTIONS_5: &[(&str, u8, u8)] = &[
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];
const SECTIONS_311: &[(&str, u8, u8)] = &[
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

/// What the table says of a statement.
struct Entry {
    prefix: &'static str,
    id: String,
    says: String,
    code: Vec<String>,
    tests: Vec<String>,
    /// The statement of MQTT 5.0 whose code this one has too.
    same: Option<String>,
    /// Why a broker cannot see whether a client obeys.
    client: Option<String>,
    /// Why the broker does not obey.
    exception: Option<String>,
}

impl Entry {
    fn read(prefix: &'static str, id: &str, value: &Value) -> Self {
        let fields = value.as_table().unwrap();
        let keys = ["says", "code", "tests", "as", "client", "exception"];
        let unknown: Vec<&String> = fields.keys().filter(|key| !keys.contains(&key.as_str())).collect();
        assert!(unknown.is_empty(), "{prefix}{id} has the unknown keys {unknown:?}");
        let text = |key: &str| fields.get(key).map(|value| value.as_str().unwrap().to_owned());
        let list = |key: &str| {
            let values = fields.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
        };
        Self {
            prefix,
            id: id.to_owned(),
            says: text("says").unwrap_or_default(),
            code: list("code"),
            tests: list("tests"),
            same: text("as"),
            client: text("client"),
            exception: text("exception"),
        }
    }

    fn tag(&self) -> String {
        format!("[{}{}]", self.prefix, self.id)
    }

    /// What the statement still needs.
    fn lack(&self) -> Option<String> {
        if self.client.is_some() || self.exception.is_some() {
            return None;
        }
        let without_code = self.code.is_empty() && self.same.is_none();
        match (without_code, self.tests.is_empty()) {
            (false, false) => None,
            (true, false) => Some(format!("{} has no code", self.tag())),
            (false, true) => Some(format!("{} has no test", self.tag())),
            (true, true) => Some(format!("{} has neither code nor test", self.tag())),
        }
    }

    fn write(&self, standard: &Standard, into: &mut String) {
        let quoted = |text: &str| Value::from(text).to_string();
        let list = |values: &[String]| {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            if values.len() < 2 {
                return format!("[{}]", values.join(""));
            }
            format!("[\n    {},\n]", values.join(",\n    "))
        };
        let _ = writeln!(into, "\n[{}.\"{}\"]\nsays = {}", standard.table, self.id, quoted(&self.says));
        for (key, text) in [("as", &self.same), ("client", &self.client), ("exception", &self.exception)] {
            if let Some(text) = text {
                let _ = writeln!(into, "{key} = {}", quoted(text));
            }
        }
        for (key, values) in [("code", &self.code), ("tests", &self.tests)] {
            if !values.is_empty() {
                let _ = writeln!(into, "{key} = {}", list(values));
            }
        }
    }
}

/// The table as the repository has it, or as the tags make it where that is asked for.
fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let path = workspace_root().join(TABLE);
        let mut text = fs::read_to_string(&path).unwrap();
        if std::env::var("CLAUSES").is_ok_and(|wish| wish == "write") {
            text = filled_in(&text);
            fs::write(&path, &text).unwrap();
        }
        text
    })
}

/// The entries of each standard, in the order of the statements.
fn entries(text: &str) -> Vec<(&'static Standard, Vec<Entry>)> {
    let table: Table = text.parse().unwrap_or_else(|error| panic!("{TABLE}: {error}"));
    let standards = STANDARDS.iter().map(|standard| {
        let statements = table[standard.table].as_table().unwrap();
        let mut entries: Vec<Entry> =
            statements.iter().map(|(id, value)| Entry::read(standard.prefix, id, value)).collect();
        entries.sort_by_key(|entry| order(&entry.id));
        (standard, entries)
    });
    standards.collect()
}

/// The table with the files that carry each tag.
fn filled_in(text: &str) -> String {
    let mut standards = entries(text);
    let sources = files().into_iter().filter(|(path, _)| is_source(path));
    let tagged: Vec<(String, BTreeSet<String>)> = sources.map(|(path, text)| (path, tags(&text))).collect();
    for entry in standards.iter_mut().flat_map(|(_, entries)| entries) {
        let tag = entry.tag();
        let carriers = tagged.iter().filter(|(_, tags)| tags.contains(&tag));
        (entry.tests, entry.code) = carriers.map(|(path, _)| path.clone()).partition(|path| is_test(path));
    }
    written(text, &standards)
}

/// The entries as a file; `text` is the one they come from, whose first comment is kept.
fn written(text: &str, standards: &[(&Standard, Vec<Entry>)]) -> String {
    let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
    let mut written = head.join("\n") + "\n";
    for (standard, entries) in standards {
        entries.iter().for_each(|entry| entry.write(standard, &mut written));
    }
    written
}

/// Sorts 3.2.2-1 before 3.2.2-10 and 3.10.1-1.
fn order(id: &str) -> Vec<u32> {
    id.split(['.', '-']).map(|number| number.parse().unwrap()).collect()
}

/// The text files that may carry tags, by their paths from the root.
fn files() -> BTreeMap<String, String> {
    fn visit(directory: &Path, found: &mut Vec<PathBuf>) {
        const NOT_OURS: [&str; 4] = ["target", ".git", ".venv", "node_modules"];
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => visit(&entry.path(), found),
                false => found.push(entry.path()),
            }
        }
    }
    let mut paths = Vec::new();
    visit(workspace_root(), &mut paths);
    let texts = paths.into_iter().filter_map(|path| {
        let name = path.strip_prefix(workspace_root()).ok()?.to_string_lossy().into_owned();
        Some((name, fs::read_to_string(&path).ok()?))
    });
    texts.collect()
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The tags of a text: `[MQTT-`, a section, `-`, a number, `]`, or the same with `[MQTT311-`.
fn tags(text: &str) -> BTreeSet<String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_tag = |tag: &str| {
        let statement = STANDARDS.iter().find_map(|standard| tag.strip_prefix(standard.prefix));
        let parts = statement.and_then(|statement| statement.split_once('-'));
        parts.is_some_and(|(section, number)| section.split('.').all(is_number) && is_number(number))
    };
    let candidates = text.split('[').skip(1).filter_map(|rest| rest.split_once(']').map(|(tag, _)| tag));
    candidates.filter(|tag| is_tag(tag)).map(|tag| format!("[{tag}]")).collect()
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_table_holds_every_statement_of_both_standards_and_no_other() {
    let standards = entries(text());

    let mut wrong = Vec::new();
    for (standard, entries) in &standards {
        assert_eq!(entries.len(), standard.statements, "{}", standard.table);
        for entry in entries {
            let (section, number) = entry.id.split_once('-').unwrap();
            let number: u8 = number.parse().unwrap();
            let is_known = |(known, first, last): &(&str, u8, u8)| {
                *known == section && (*first..=*last).contains(&number)
            };
            if !standard.sections.iter().any(is_known) {
                wrong.push(format!("{} is no statement", entry.tag()));
            }
            if entry.says.is_empty() {
                wrong.push(format!("{} does not say anything", entry.tag()));
            }
            let (_, fives) = &standards[0];
            if let Some(same) = &entry.same
                && !fives.iter().any(|five| five.id == *same)
            {
                wrong.push(format!("{} is as {same}, which is no statement", entry.tag()));
            }
        }
    }

    assert_none(&wrong);
}

#[test]
fn a_file_that_the_table_names_exists_and_carries_the_tag() {
    let files = files();
    let standards = entries(text());

    let mut wrong = Vec::new();
    for entry in standards.iter().flat_map(|(_, entries)| entries) {
        for (paths, test) in [(&entry.code, false), (&entry.tests, true)] {
            for path in paths {
                let has_tag = files.get(path).is_some_and(|text| text.contains(&entry.tag()));
                if !has_tag || is_test(path) != test {
                    wrong.push(format!(
                        "{}: {path} is not there, has no such tag or is in the wrong list",
                        entry.tag()
                    ));
                }
            }
        }
    }

    assert_none(&wrong);
}

#[test]
fn a_tag_names_a_statement_that_there_is() {
    let standards = entries(text());
    let known: BTreeSet<String> =
        standards.iter().flat_map(|(_, entries)| entries.iter().map(Entry::tag)).collect();

    let mut unknown = Vec::new();
    for (path, text) in files() {
        unknown.extend(tags(&text).difference(&known).map(|tag| format!("{path}: {tag} is no statement")));
    }

    assert_none(&unknown);
}

#[test]
fn every_statement_has_code_and_tests_or_a_reason_why_not() {
    let standards = entries(text());
    let fives: BTreeMap<&str, &Entry> =
        standards[0].1.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    let all = || standards.iter().flat_map(|(_, entries)| entries);

    // What a broker cannot see in one version it cannot see in the other.
    let is_unseen = |entry: &&Entry| {
        let five = entry.same.as_deref().and_then(|same| fives.get(same));
        five.is_some_and(|five| five.client.is_some() || five.exception.is_some())
    };
    let lacking: Vec<String> = all().filter(|entry| !is_unseen(entry)).filter_map(Entry::lack).collect();
    let exceptions = all().filter(|entry| entry.exception.is_some()).count();

    assert_none(&lacking);
    assert_eq!(exceptions, EXCEPTIONS, "the number of exceptions");
}

#[test]
fn the_table_is_written_as_it_is_read() {
    let written = written(text(), &entries(text()));

    assert_eq!(written.parse::<Table>().unwrap(), text().parse::<Table>().unwrap());
}

/// Tags count where a program or a test is: not in documents, and not in the table itself.
fn is_source(path: &str) -> bool {
    [".rs", ".mqtt"].iter().any(|end| path.ends_with(end))
}
