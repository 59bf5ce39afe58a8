//! What to say about a key that no option has: the nearest option, or that it must not be here at all.

use crate::error::{ConfigError, Fault, Origin};
use crate::options::OPTIONS;

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

fn names_an_end_to_end_key(segment: &str) -> bool {
    let segment = segment.to_ascii_lowercase().replace('-', "_");
    let singular = segment.trim_end_matches("_file").trim_end_matches('s');
    END_TO_END_KEYS.contains(&singular)
}

/// The option or section whose name differs least, if it differs little or only in its section.
fn nearest(key: &str) -> Option<&'static str> {
    let sections = OPTIONS.iter().filter_map(|spec| Some(spec.key.split_once('.')?.0.trim_end_matches("[]")));
    let candidates = OPTIONS.iter().map(|spec| spec.key).chain(sections);
    let tolerated = 2.max(key.chars().count() / 5);
    candidates
        .map(|candidate| {
            let same_member = candidate.rsplit('.').next() == key.rsplit('.').next();
            (if same_member { 1 } else { edit_distance(key, candidate) }, candidate)
        })
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
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
