//! Waiting for what happens in another process, without knowing when.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// More than anything here takes on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until something is so.
///
/// # Panics
/// If it is not so for a minute; `what` is to say what was expected.
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_until_or(is_so, || what.to_owned());
}

/// Does the same, and asks only then what to say.
///
/// # Panics
/// If it is not so for a minute.
pub fn wait_until_or(mut is_so: impl FnMut() -> bool, what: impl FnOnce() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() >= deadline {
            panic!("{}", what());
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until a file holds a text.
///
/// # Panics
/// If it does not for a minute.
pub fn wait_for_text(file: &Path, text: &str) {
    let read = || fs::read_to_string(file).unwrap_or_default();
    wait_until_or(|| read().contains(text), || format!("no {text:?} in {}: {}", file.display(), read()));
}
