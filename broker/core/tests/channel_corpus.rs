//! The scripts that fuzzing of the channel starts from, and each of them with one bit flipped or its end cut off, keep the rules.
#![allow(clippy::unwrap_used, reason = "test code")]

#[allow(unreachable_pub, reason = "a library when a fuzzer builds it")]
#[path = "../../../fuzz/src/channel.rs"]
mod channel;

use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::Path;

const SCRIPTS_MIN: usize = 8;

fn play(script: &[u8]) {
    if let Err(panic) = catch_unwind(|| channel::channel(script)) {
        eprintln!("the script was {script:02x?}");
        resume_unwind(panic);
    }
}

#[test]
fn the_channel_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/channel");
    let scripts: Vec<Vec<u8>> =
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(scripts.len() >= SCRIPTS_MIN, "the corpus has lost scripts");
    for script in scripts {
        play(&script);
        for len in 0..script.len() {
            play(&script[..len]);
        }
        for bit in 0..script.len() * 8 {
            let mut damaged = script.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            play(&damaged);
        }
    }
}
