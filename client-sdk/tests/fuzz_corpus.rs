//! What a hostile broker does to a client: the scripts that fuzzing starts from, damaged copies of them, and scripts made up at
//! random, through the functions that fuzzing runs.
#![allow(clippy::unwrap_used, reason = "test code")]

#[allow(unreachable_pub, reason = "a library when a fuzzer builds it")]
#[path = "../../fuzz/src/client/mod.rs"]
mod targets;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

fn replay(target: fn(&[u8]), name: &str, scripts_min: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let scripts: Vec<Vec<u8>> =
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(scripts.len() >= scripts_min, "the corpus of {name} has lost scripts");
    for script in scripts {
        target(&script);
    }
}

#[test]
fn the_corpora_hold() {
    replay(targets::client_session, "client_session", 200);
    replay(targets::client_distribution, "client_distribution", 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_session_keeps_the_rules_whatever_the_broker_says(script in prop::collection::vec(any::<u8>(), 0..200)) {
        targets::client_session(&script);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn keys_reach_members_alone_whatever_the_broker_carries(script in prop::collection::vec(any::<u8>(), 0..120)) {
        targets::client_distribution(&script);
    }
}
