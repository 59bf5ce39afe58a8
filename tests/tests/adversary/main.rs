//! A malicious broker, somebody on the network, another member, an issuer that cheats: what each can try, and what comes of it.
//!
//! Every row of the threat table of the protocol document (VEIL-1 section 18) has tests here; what the table does not promise
//! is tested as well, so that the document stays honest.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod channel;
mod keys;
mod messages;
mod proxy;
mod world;

use std::collections::BTreeSet;
use std::fs;

use veilmq_tests::tools::workspace_root;

/// The guarantees of the threat table, and the tests that hold the code to them.
const ROWS: [(&str, &[&str]); 13] = [
    (
        "payload secrecy",
        &["neither_the_broker_nor_the_network_sees_a_payload_and_without_the_key_nobody_reads_it"],
    ),
    (
        "payload integrity",
        &[
            "a_message_that_was_changed_anywhere_is_refused",
            "a_message_that_was_moved_to_another_topic_is_refused",
        ],
    ),
    ("source = named sender", &["who_holds_the_group_key_cannot_write_as_another_where_messages_are_signed"]),
    ("no replay to live receivers", &["a_message_that_is_replayed_is_delivered_once"]),
    (
        "drop / delay noticed",
        &["a_message_that_was_dropped_is_noticed_with_the_next_and_a_delayed_one_arrives_once"],
    ),
    (
        "retained rollback noticed",
        &["a_retained_message_that_was_rolled_back_is_refused", "a_head_that_was_rolled_back_is_refused"],
    ),
    ("topic secrecy", &["the_topic_is_secret_under_scheme_2_and_as_documented_not_under_scheme_4"]),
    ("who talks to whom", &["who_talks_to_the_broker_is_as_documented_no_secret"]),
    ("plaintext kept off E2E topics", &["plaintext_on_an_end_to_end_topic_reaches_nobody"]),
    (
        "same key to all members",
        &[
            "an_issuer_that_gives_one_member_another_key_is_caught",
            "wraps_of_another_head_and_changed_heads_give_no_key",
        ],
    ),
    (
        "broker message authenticity",
        &[
            "a_subscriber_with_the_group_key_makes_nobody_accept_a_forged_message",
            "a_digest_tag_of_another_subscriber_is_worthless",
            "a_record_that_was_changed_dropped_replayed_or_moved_ends_the_channel_and_nothing_of_it_arrives",
        ],
    ),
    (
        "forward secrecy, channel",
        &["who_recorded_a_handshake_and_stole_all_keys_afterwards_does_not_get_the_channels_keys"],
    ),
    ("availability", &["a_connect_that_was_stolen_and_replayed_evicts_nobody"]),
];

#[test]
fn every_row_of_the_threat_table_has_its_tests() {
    let document = fs::read_to_string(workspace_root().join("docs/veil1-protocol.md")).unwrap();
    let section = document.split("## 18 Threat model").nth(1).unwrap().split("\n## ").next().unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let documented: BTreeSet<&str> = cells.skip(2).collect();

    let covered: BTreeSet<&str> = ROWS.iter().map(|(row, _)| *row).collect();
    assert_eq!(covered, documented);

    let mut sources = String::new();
    for entry in fs::read_dir(workspace_root().join("tests/tests/adversary")).unwrap() {
        sources.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for (row, tests) in ROWS {
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            assert!(sources.contains(&format!("#[test]\nfn {test}()")), "{row}: there is no {test}");
        }
    }
}
