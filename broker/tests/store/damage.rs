//! Damaged files: the store opens, says what is wrong, keeps what is intact, and never panics.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use veilmq::store::OpenReport;
use veilmq_core::{Record, Store};

use crate::model::{
    forgotten, open, open_error, published, replayed, retained, session, settled, sorted_texts,
};

/// A directory with a few hundred batches in it, closed; and what a replay of it gives.
fn filled() -> (tempfile::TempDir, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    store.commit(&[session(1, 60), session(2, 60)]).unwrap();
    for id in 1..150 {
        let mut batch = vec![published(id, &vec![id as u8; 40 * id as usize], &[1, 2]), retained("a", b"x")];
        if id > 50 {
            batch.extend([settled(1, id - 50), settled(2, id - 50), forgotten(id - 50)]);
        }
        store.commit(&batch).unwrap();
    }
    drop(store);
    // Opening writes a snapshot of what the log says so far.
    let (mut store, _) = open(directory.path());
    let texts = sorted_texts(&replayed(&mut store));
    (directory, texts)
}

fn copy(from: &Path) -> tempfile::TempDir {
    fn into(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&target).unwrap();
                into(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let copy = tempfile::tempdir().unwrap();
    into(from, copy.path());
    copy
}

fn overwrite(file: &Path, offset: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

fn snapshot(directory: &Path) -> PathBuf {
    let mut entries = fs::read_dir(directory.join("store")).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).unwrap()
}

fn is_loud(report: &OpenReport) -> bool {
    report.quarantined.is_some()
        || report.replay.damaged_rows + report.replay.orphans + report.replay.lost_batches > 0
}

#[test]
fn whatever_bit_is_flipped_the_store_opens_and_no_loss_is_silent() {
    // [E01]
    let (original, texts) = filled();
    let log = original.path().join("store/db");
    let len = fs::metadata(&log).unwrap().len();
    let bytes = fs::read(&log).unwrap();
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..40 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = (random >> 16) % len;
        let bit = 1 << ((random >> 60) % 8);
        let damaged = copy(original.path());
        overwrite(&damaged.path().join("store/db"), offset, &[bytes[offset as usize] ^ bit]);

        let (mut store, report) = open(damaged.path());

        let found = sorted_texts(&replayed(&mut store));
        assert!(found == texts || is_loud(&report), "bit {bit:#04x} at {offset} of {len}: {report:?}");
        store.commit(&[session(9, 0)]).unwrap();
    }
}

#[test]
fn damage_to_what_follows_from_the_log_loses_nothing() {
    let (original, texts) = filled();
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 6] = [
        ("flipped bits in the snapshot", |dir| overwrite(&snapshot(dir), 20, &[0xff; 8])),
        ("a snapshot of zeros", |dir| fs::write(snapshot(dir), [0; 4_096]).unwrap()),
        ("no snapshot", |dir| fs::remove_file(snapshot(dir)).unwrap()),
        ("an unfinished snapshot", |dir| {
            fs::write(dir.join("store/snap.00000000FFFFFFFF.generating"), b"half").unwrap();
        }),
        ("options of zeros", |dir| fs::write(dir.join("store/conf"), [0; 70]).unwrap()),
        ("other options", |dir| {
            let conf = dir.join("store/conf");
            let mut options = fs::read(&conf).unwrap();
            let at = options.windows(6).position(|window| window == b"524288").unwrap();
            options[at + 5] = b'9';
            fs::write(conf, options).unwrap();
        }),
    ];
    for (name, damage) in damage {
        let damaged = copy(original.path());
        damage(damaged.path());

        let (mut store, report) = open(damaged.path());

        assert_eq!(sorted_texts(&replayed(&mut store)), texts, "{name}");
        assert_eq!(report.quarantined, None, "{name}");
    }
}

#[test]
fn a_lost_tail_is_noticed() {
    let (original, texts) = filled();
    for (name, len) in [("an empty log", 0), ("half a log", 600_000), ("a log without its end", 900_000)] {
        let damaged = copy(original.path());
        fs::remove_file(snapshot(damaged.path())).unwrap();
        let log = File::options().write(true).open(damaged.path().join("store/db")).unwrap();
        assert!(log.metadata().unwrap().len() > len);
        log.set_len(len).unwrap();

        let (mut store, report) = open(damaged.path());

        assert_ne!(sorted_texts(&replayed(&mut store)), texts, "{name}");
        assert!(report.replay.lost_batches > 0 || report.quarantined.is_some(), "{name}: {report:?}");
    }
}

#[test]
fn contents_that_cannot_be_read_are_set_aside_and_kept() {
    let (original, _) = filled();
    let damaged = copy(original.path());
    fs::write(damaged.path().join("format"), [0; 16]).unwrap();

    let (mut store, report) = open(damaged.path());
    let place = report.quarantined.unwrap();
    store.commit(&[session(9, 0)]).unwrap();
    drop(store);
    let (mut store, second) = open(damaged.path());

    assert!(place.file_name().unwrap().to_string_lossy().starts_with("quarantine-"));
    assert_eq!(
        fs::read(place.join("store/db")).unwrap(),
        fs::read(original.path().join("store/db")).unwrap()
    );
    assert_eq!(sorted_texts(&replayed(&mut store)), sorted_texts(&[session(9, 0)]));
    assert_eq!(second.quarantined, None, "it is reported once");
}

#[test]
fn a_directory_of_an_unknown_format_is_refused_and_left_alone() {
    // [E09]
    let (original, texts) = filled();
    let format = original.path().join("format");
    let known = fs::read(&format).unwrap();
    assert!(known.starts_with(b"veilmq-store 2\n"));
    for other in [1, 3] {
        fs::write(&format, format!("veilmq-store {other}\n")).unwrap();

        let error = open_error(original.path());

        assert!(error.contains(&format!("format {other}")) && error.contains("format 2"), "{error}");
    }
    fs::write(&format, known).unwrap();
    assert_eq!(sorted_texts(&replayed(&mut open(original.path()).0)), texts);
}

#[test]
fn a_second_broker_is_refused_by_name_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (mut first, _) = open(directory.path());

    let error = open_error(directory.path());

    assert!(
        error.contains(directory.path().to_str().unwrap()) && error.contains("another broker"),
        "{error}"
    );
    first.commit(&[session(1, 0)]).unwrap();
    drop(first);
    let remaining: Vec<Record> = replayed(&mut open(directory.path()).0);
    assert_eq!(remaining.len(), 1);
}
