//! The scripts that fuzzing starts from, and each of them with one bit flipped or its end cut off, keep the rules.
#![allow(clippy::unwrap_used, reason = "test code")]

#[allow(unreachable_pub, reason = "a library when a fuzzer builds it")]
#[path = "../../../fuzz/src/session/mod.rs"]
mod session;

use std::fs;
use std::num::NonZeroUsize;
use std::panic::{catch_unwind, resume_unwind};
use std::path::Path;
use std::thread;

const SEEDS_MIN: usize = 20;

fn play(script: &[u8]) {
    if let Err(panic) = catch_unwind(|| session::session(script)) {
        eprintln!("the script was \"{}\"", script.escape_ascii());
        resume_unwind(panic);
    }
}

/// Plays a script, what is left of it when its end is cut off, and what it is with any one bit flipped.
fn play_with_damages(script: &[u8]) {
    play(script);
    for len in 0..script.len() {
        play(&script[..len]);
    }
    for bit in 0..script.len() * 8 {
        let mut damaged = script.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        play(&damaged);
    }
}

#[test]
fn the_session_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/session");
    let seeds: Vec<Vec<u8>> =
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() >= SEEDS_MIN, "the corpus has lost seeds");

    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        for share in seeds.chunks(seeds.len().div_ceil(workers)) {
            scope.spawn(|| share.iter().for_each(|seed| play_with_damages(seed)));
        }
    });
}
