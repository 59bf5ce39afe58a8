//! A disk that is full: what cannot be stored is refused, what was acknowledged stays, and commits go on once there is room.
//!
//! The test runs itself again as a child process, whose files may not grow beyond a limit.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use veilmq_core::{Record, Store, StoreError};

use crate::model::{open, published, replayed, session, sorted_texts};

const DIRECTORY: &str = "VEILMQ_TEST_FULL_DIRECTORY";

#[test]
fn a_full_disk_fails_commits_and_loses_nothing_that_was_acknowledged() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return fill_and_recover(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    // Without the trap, the signal that goes with the limit would end the child; ignored, writes fail as they should.
    let mut child = Command::new("sh");
    child.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    child.args(["full::a_full_disk_fails_commits_and_loses_nothing_that_was_acknowledged", "--exact"]);

    let output = child.env(DIRECTORY, directory.path()).output().unwrap();

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_batch_without_records_is_written_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    store.commit(&[session(1, 60)]).unwrap();

    store.commit(&[]).unwrap();

    drop(store);
    let (mut store, report) = open(directory.path());
    assert_eq!(report.replay.rows, 2);
    assert_eq!(sorted_texts(&replayed(&mut store)), sorted_texts(&[session(1, 60)]));
}

fn fill_and_recover(directory: &Path) {
    let (mut store, _) = open(directory);
    store.commit(&[session(1, 60)]).unwrap();
    limit_files(std::fs::metadata(directory.join("store/db")).unwrap().len() + 300_000);
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    let mut ids = 1..10_000;
    let mut commit = |store: &mut dyn Store| -> Result<u64, (u64, StoreError)> {
        let id = ids.next().unwrap();
        store.commit(&[published(id, &[id as u8; 5_000], &[1])]).map(|()| id).map_err(|error| (id, error))
    };
    while refused.len() < 2 {
        match commit(&mut store) {
            Ok(id) => acknowledged.push(id),
            Err((id, _)) => refused.push(id),
        }
    }

    lift_limit();
    let started = Instant::now();
    let after = loop {
        match commit(&mut store) {
            Ok(id) => break id,
            Err((id, error)) => {
                assert!(started.elapsed() < Duration::from_secs(30), "{error}");
                refused.push(id);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    acknowledged.push(after);
    drop(store);

    let (mut store, report) = open(directory);
    let stored: Vec<u64> = replayed(&mut store).iter().filter_map(message_id).collect();
    assert!(acknowledged.len() > 2 && acknowledged.iter().all(|id| stored.contains(id)), "{stored:?}");
    assert!(!refused.iter().any(|id| stored.contains(id)), "{refused:?} were refused, {stored:?} are there");
    assert_eq!((report.quarantined, report.replay.damaged_rows, report.replay.lost_batches), (None, 0, 0));
}

fn message_id(record: &Record) -> Option<u64> {
    if let Record::Published { message, .. } = record { message.id().map(|id| id.0) } else { None }
}

fn limit_files(bytes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();
}

fn lift_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
}
