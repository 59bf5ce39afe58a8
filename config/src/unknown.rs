//! What to say about a key that no option has: the nearest option, or that it must not be here at all.

use crate::error::{ConfigError, Fault, Origin};
use crate::options::{OPTIONS, OptionSpec};

/// Names under which end-to-end secrets are known (VEIL-1 section 13.2); none of them is an option of a broker.
const END_TO_END_KEYS: &[&str] = &[
    "master_secret",
    "master_key",
    "group_key",
    "group_secret",
    "gk",
    "gk_p",
    "pairwise_key",
    "topic_key",
    "topic_token_key",
    "token_key",
    "scope_key",
    "scope_secret",
    "payload_key",
    "e2e_key",
    "e2e_secret",
    "client_key",
    "client_private_key",
];

/// The error for a key that no option has.
pub(crate) fn unknown_key(origin: Origin, key: &str) -> ConfigError {
    let key = key.to_owned();
    if key.split('.').any(names_an_end_to_end_key) {
        return ConfigError::new(origin, Fault::EndToEndKey { key });
    }
    let nearest = nearest(&key);
    ConfigError::new(origin, Fault::UnknownKey { key, nearest })
}

/// The error for an environment variable of ours that no option has; `key` is the option that its name spells.
pub(crate) fn unknown_variable(variable: &str, key: String) -> ConfigError {
    let origin = Origin::Environment { variable: variable.to_owned() };
    if key.split('.').any(names_an_end_to_end_key) {
        return ConfigError::new(origin, Fault::EndToEndKey { key });
    }
    ConfigError::new(origin, Fault::UnknownVariable { advice: advice(&key) })
}

fn advice(key: &str) -> String {
    let of_section = |spec: &&OptionSpec| spec.key.starts_with(&format!("{key}."));
    if let Some(example) = OPTIONS.iter().filter(|spec| spec.has_variable()).find(of_section) {
        return format!(
            "{key} is a section of options, each with its own variable, such as {}",
            example.variable()
        );
    }
    let lists = OPTIONS.iter().filter_map(|spec| Some(spec.key.split_once("[]")?.0));
    if let Some(list) = lists.clone().find(|list| key == *list || key.starts_with(&format!("{list}."))) {
        let elsewhere =
            OPTIONS.iter().find(|spec| spec.has_variable() && spec.key.starts_with(&format!("{list}[]")));
        let elsewhere =
            elsewhere.map_or_else(String::new, |spec| format!(", or as a list by {}", spec.variable()));
        return format!("{list} is set in the configuration file{elsewhere}");
    }
    let nearest = OPTIONS
        .iter()
        .filter(|spec| spec.has_variable())
        .map(|spec| (difference(key, spec.key.split_once("[]").map_or(spec.key, |(list, _)| list)), spec))
        .filter(|(difference, _)| *difference <= tolerated(key))
        .min_by_key(|(difference, _)| *difference);
    match nearest {
        Some((_, spec)) => format!("did you mean {}?", spec.variable()),
        None => "docs/configuration.md lists every option".to_owned(),
    }
}

fn names_an_end_to_end_key(segment: &str) -> bool {
    let segment = segment.to_ascii_lowercase().replace('-', "_");
    let singular = segment.trim_end_matches("_file").trim_end_matches('s');
    END_TO_END_KEYS.contains(&singular)
}

/// The option or section whose name differs least, if it differs little or only in its section.
fn nearest(key: &str) -> Option<&'static str> {
    let sections = OPTIONS.iter().filter_map(|spec| Some(spec.key.split_once('.')?.0.trim_end_matches("[]")));
    let candidates = OPTIONS.iter().map(|spec| spec.key).chain(sections);
    candidates
        .map(|candidate| (difference(key, candidate), candidate))
        .filter(|(difference, _)| *difference <= tolerated(key))
        .min_by_key(|(difference, _)| *difference)
        .map(|(_, candidate)| candidate)
}

/// How much may differ in a typing error.
fn tolerated(key: &str) -> usize {
    2.max(key.chars().count() / 5)
}

/// The edit distance, or 1 if only the section differs.
fn difference(key: &str, candidate: &str) -> usize {
    let same_member = candidate.rsplit('.').next() == key.rsplit('.').next();
    if same_member { usize::from(key != candidate) } else { edit_distance(key, candidate) }
}

/// Insertions, deletions and replacements between two names (Levenshtein).
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut beside = line + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(right.chars()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            beside = replaced.min(*cell + 1).min(beside + 1);
            *cell = beside;
        }
        row[0] = line + 1;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_changes() {
        for (left, right, distance) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("limit", "limits", 1), ("abc", "", 3)]
        {
            assert_eq!(edit_distance(left, right), distance, "{left} to {right}");
        }
    }

    #[test]
    fn nearest_finds_typing_errors_and_wrong_sections_only() {
        for (key, expected) in [
            ("limits.recieve_maximum", Some("limits.receive_maximum")),
            ("limit", Some("limits")),
            ("listener", Some("listeners")),
            ("packet_bytes_max", Some("limits.packet_bytes_max")),
            ("bridge", Some("bridges")),
            ("cluster", None),
        ] {
            assert_eq!(nearest(key), expected, "{key}");
        }
    }
}
