//! kill -9 at any point, also while opening: every batch that was reported as committed is there, whole.
//!
//! The test runs itself again as a child process, which commits numbered batches and prints each number afterwards.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use veilmq_core::{Record, Store};

use crate::model::{forgotten, open, published, replayed, retained, session, settled};

const DIRECTORY: &str = "VEILMQ_TEST_CRASH_DIRECTORY";
const KILLS: u64 = 15;
/// The messages that stay stored before they are settled.
const WINDOW: u64 = 20;
const SESSIONS: [u64; 3] = [1, 2, 3];

#[test]
fn what_was_committed_survives_kill_at_any_point() {
    // [C12]
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        commit_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut committed = 0;
    for kill in 0..KILLS {
        // Every third child dies young, often while it opens the store that the child before it left behind.
        let milliseconds = if kill % 3 == 1 { 4 + 3 * kill } else { 120 + 37 * kill };
        let child = spawn(directory.path());
        committed = committed.max(kill_after(child, Duration::from_millis(milliseconds)));
        if kill % 3 != 0 {
            check(directory.path(), committed);
        }
    }
    check(directory.path(), committed);
    assert!(committed > 2 * WINDOW, "the children got to commit something: {committed}");
}

fn spawn(directory: &Path) -> Child {
    let test = "crash::what_was_committed_survives_kill_at_any_point";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(DIRECTORY, directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the child and returns the last number it printed in full, 0 if none.
fn kill_after(mut child: Child, delay: Duration) -> u64 {
    let output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.filter_map(|line| line.strip_prefix("committed ")?.strip_suffix('.')?.parse().ok()).last()
    });
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap().unwrap_or(0)
}

fn payload(number: u64) -> Vec<u8> {
    // Sizes go from one row to several.
    vec![number as u8; (number as usize * 997) % 20_000]
}

fn commit_until_killed(directory: &Path) -> ! {
    // The harness has begun a line already.
    println!();
    let (mut store, _) = open(directory);
    let mut number = highest(&replayed(&mut store));
    loop {
        number += 1;
        let mut batch: Vec<Record> = SESSIONS.iter().map(|number| session(*number, 60)).collect();
        batch.push(published(number, &payload(number), &SESSIONS));
        batch.push(retained("last", &number.to_le_bytes()));
        if let Some(old) = number.checked_sub(WINDOW).filter(|old| *old > 0) {
            batch.extend(SESSIONS.iter().map(|session| settled(*session, old)));
            batch.push(forgotten(old));
        }
        store.commit(&batch).unwrap();
        println!("committed {number}.");
    }
}

fn highest(records: &[Record]) -> u64 {
    let retained = records.iter().find_map(|record| match record {
        Record::Retained { message } => message.payload().as_wire_bytes().try_into().ok(),
        _ => None,
    });
    retained.map_or(0, u64::from_le_bytes)
}

/// Opens the store and checks that it holds exactly the batches up to one number, at least `committed`.
fn check(directory: &Path, committed: u64) {
    let (mut store, report) = open(directory);
    let records = replayed(&mut store);
    let last = highest(&records);
    assert!(last >= committed, "{committed} was committed, {last} is there");
    assert_eq!((report.quarantined, report.set_aside, report.blob_files), (None, None, 0));
    let replay = report.replay;
    assert_eq!((replay.damaged_rows, replay.orphans, replay.lost_batches), (0, 0, 0));

    let mut expected = (last + 1).saturating_sub(WINDOW).max(1)..=last;
    for record in &records {
        if let Record::Published { message, references } = record {
            let number = message.id().unwrap().0;
            assert_eq!(Some(number), expected.next());
            assert_eq!(message.payload().as_wire_bytes(), payload(number), "message {number}");
            assert_eq!(references.len(), SESSIONS.len(), "message {number}");
        }
    }
    assert_eq!(expected.next(), None);
}
