//! The seeds of the fuzz targets, and each of them with one bit flipped or its end cut off, hold what fuzzing checks.
#![allow(clippy::unwrap_used, reason = "test code")]

#[allow(unreachable_pub, reason = "a library when a fuzzer builds it")]
#[path = "../../fuzz/src/wire/mod.rs"]
mod targets;

use std::{fs, path::Path};

fn replay(target: fn(&[u8]), name: &str, seeds_min: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let seeds: Vec<Vec<u8>> =
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() >= seeds_min, "the corpus of {name} has lost seeds");
    for seed in seeds {
        target(&seed);
        for len in 0..seed.len() {
            target(&seed[..len]);
        }
        for bit in 0..seed.len() * 8 {
            let mut damaged = seed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            target(&damaged);
        }
    }
}

#[test]
fn the_framing_corpus_holds() {
    replay(targets::framing, "framing", 10);
}

#[test]
fn the_packet_corpus_holds() {
    replay(targets::packet, "packet", 31);
}

#[test]
fn the_topic_corpus_holds() {
    replay(targets::topic, "topic", 11);
}

#[test]
fn the_veil_corpora_hold() {
    replay(targets::veil_certificate, "veil_certificate", 4);
    replay(targets::veil_distribution, "veil_distribution", 14);
    replay(targets::veil_envelope, "veil_envelope", 6);
    replay(targets::veil_hello, "veil_hello", 7);
    replay(targets::veil_record, "veil_record", 12);
}
