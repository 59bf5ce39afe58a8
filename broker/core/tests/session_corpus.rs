//! The scripts that fuzzing starts from, and each of those written by hand with one bit flipped or its end cut off, keep the
//! rules.
#![allow(clippy::unwrap_used, reason = "test code")]

#[allow(unreachable_pub, reason = "a library when a fuzzer builds it")]
#[path = "../../../fuzz/src/session/mod.rs"]
mod session;

use std::fs;
use std::num::NonZeroUsize;
use std::panic::{catch_unwind, resume_unwind};
use std::path::Path;
use std::thread;

const WRITTEN_MIN: usize = 29;
/// Scripts that a fuzzer came upon; they are many, so they are played as they are.
const FOUND_MIN: usize = 100;

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

/// Returns what the files of a folder hold.
fn scripts(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|file| fs::read(file.path()).unwrap()).collect()
}

/// Shares scripts out to as many threads as there are processors.
fn play_all(scripts: &[Vec<u8>], play: fn(&[u8])) {
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || scripts.iter().skip(worker).step_by(workers).for_each(|script| play(script)));
        }
    });
}

#[test]
fn the_session_corpus_holds() {
    // [A12]
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/session");
    let (written, found) = (scripts(&folder), scripts(&folder.join("found")));
    assert!(written.len() >= WRITTEN_MIN && found.len() >= FOUND_MIN, "the corpus has lost scripts");

    play_all(&written, play_with_damages);
    play_all(&found, play);
}
