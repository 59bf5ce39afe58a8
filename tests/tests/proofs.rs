//! The Verifpal models in `docs/proofs` are kept in step with the code: they name the labels that the code signs and derives
//! under, and the page beside them has a row for each.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use veilmq_tests::tools::workspace_root;

/// What signatures are made for (VEIL-1 section 2), apart from revocation lists, which no model has.
const SIGNED: [&str; 9] = [
    "broker auth",
    "client auth",
    "compact client",
    "cert",
    "prekey",
    "key head",
    "join req",
    "join rsp",
    "source",
];
/// What keys, commitments and digests of the models are derived under.
const DERIVED: [&str; 6] = ["commit", "fanout", "group", "msg", "stream key", "wrap"];

struct Model {
    name: String,
    text: String,
}

impl Model {
    /// The constants `label_one_two` of the model, as `one two`.
    fn labels(&self) -> BTreeSet<String> {
        let statements = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let words = statements.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        words.filter_map(|word| word.strip_prefix("label_")).map(|label| label.replace('_', " ")).collect()
    }

    /// What a comment `// NAME: …` says.
    fn says(&self, name: &str) -> &str {
        let prefix = format!("// {name}: ");
        self.text.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_default()
    }

    /// The kinds of the queries in order, as Verifpal's result codes name them.
    fn queries(&self) -> String {
        let kinds = [("confidentiality?", 'c'), ("authentication?", 'a')];
        let kind = |line: &str| kinds.iter().find(|(word, _)| line.trim_start().starts_with(word));
        self.text.lines().filter_map(kind).map(|(_, letter)| letter).collect()
    }
}

fn directory() -> PathBuf {
    workspace_root().join("docs/proofs")
}

fn models() -> Vec<Model> {
    let mut models = Vec::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "vp") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            models.push(Model { name, text: fs::read_to_string(path).unwrap() });
        }
    }
    assert!(models.len() >= 14, "{} models", models.len());
    models
}

/// The lines of code below `directory`, without comments and without the tests at the end of a file.
fn code(directory: &Path, lines: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code(&path, lines);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            lines.push_str(line);
            lines.push('\n');
        }
    }
}

#[test]
fn the_labels_of_the_models_are_those_of_the_code() {
    let mut lines = String::new();
    for sources in ["protocol/src/veil", "client-sdk/src"] {
        code(&workspace_root().join(sources), &mut lines);
    }
    let is_in_the_code = |label: &str| {
        lines.contains(&format!("\"{label}\"")) || lines.contains(&format!("b\"veil1 {label}\""))
    };

    let mut used = BTreeSet::new();
    for model in models() {
        for label in model.labels() {
            assert!(is_in_the_code(&label), "{}: no code uses the label {label:?}", model.name);
            used.insert(label);
        }
    }
    let expected: BTreeSet<String> = SIGNED.iter().chain(&DERIVED).map(|label| (*label).to_owned()).collect();
    assert_eq!(used, expected);
}

#[test]
fn every_model_says_what_is_expected_of_each_of_its_queries() {
    for model in models() {
        let expected: Vec<&str> = model.says("Expected").split(' ').collect();
        let kinds: String = expected.iter().filter_map(|verdict| verdict.chars().next()).collect();

        assert_eq!(kinds, model.queries(), "{}", model.name);
        let is_verdict = |verdict: &&str| matches!(&verdict[1..], "0" | "1");
        assert!(expected.iter().all(is_verdict), "{}: {expected:?}", model.name);
        assert!(model.says("Sessions").parse::<u8>().is_ok_and(|sessions| sessions > 0), "{}", model.name);
    }
}

#[test]
fn the_page_has_a_row_for_each_model_with_its_verdict() {
    let page = fs::read_to_string(directory().join("README.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| [`")).collect();

    for model in models() {
        let (name, expected) = (&model.name, model.says("Expected"));
        let row = rows.iter().find(|row| row.starts_with(&format!("| [`{name}`]({name}.vp) |")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let shown = row.contains(&format!("| {expected} |")) || row.contains("unfinished");
        assert!(shown, "{name}: {row}");
    }
    assert_eq!(rows.len(), models().len());
}
