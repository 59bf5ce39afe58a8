//! What storing costs: processor time, bytes written, space on disk, time to come back.
//!
//! Each test runs itself again as a child process, since what is measured is that of a whole process. The bounds are loose enough for a slow
//! machine and a build without optimisation. `--nocapture` shows the figures, and `VEILMQ_TEST_COST_SCALE` multiplies the work.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use veilmq_core::{Job, Moment, Record, Recovery, Reference, Settings, Shared, Stage, Store};

use crate::model::{
    forgotten, message, open, open_with_spare, published, reference, replayed, session, settled, sorted_texts,
};

const SESSIONS: u64 = 100;
/// The messages of a batch.
const BATCH: u64 = 64;
const PAYLOAD_BYTES: usize = 256;
/// The threads that bring back what is stored.
const THREADS: u16 = 2;

const CHILD: &str = "VEILMQ_TEST_COST_CHILD";

/// Runs `measure` in a process of its own.
fn alone(test: &str, measure: fn()) {
    if std::env::var_os(CHILD).is_some() {
        return measure();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([&format!("cost::{test}"), "--exact", "--nocapture"]).env(CHILD, "");

    let output = child.output().unwrap();

    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn scale() -> u64 {
    std::env::var("VEILMQ_TEST_COST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

/// The sessions that get a message: as many as `fan_out`, beginning with another one each time.
fn receivers(id: u64, fan_out: u64) -> impl Iterator<Item = u64> {
    (0..fan_out).map(move |index| 1 + (id + index) % SESSIONS)
}

fn publish(id: u64, fan_out: u64) -> Record {
    let plain = |number| Reference { subscription_ids: vec![], ..reference(number, Stage::Queued) };
    let references = receivers(id, fan_out).map(plain).collect();
    Record::Published { message: message(Some(id), "sensors/a", &[id as u8; PAYLOAD_BYTES]), references }
}

fn settle(id: u64, fan_out: u64) -> impl Iterator<Item = Record> {
    receivers(id, fan_out).map(move |number| settled(number, id)).chain([forgotten(id)])
}

/// Processor time that this process has used.
fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let duration =
        |time: TimeVal| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64);
    duration(usage.user_time()) + duration(usage.system_time())
}

/// A number that the system tells of this process; 0 where it does not.
fn told(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |line| line.trim_end_matches("kB").trim().parse().unwrap())
}

fn file_bytes(directory: &Path) -> u64 {
    std::fs::metadata(directory.join("store/db")).unwrap().len()
}

#[test]
fn what_is_stored_and_settled_a_batch_later_is_written_about_once() {
    alone("what_is_stored_and_settled_a_batch_later_is_written_about_once", measure_writing);
}

fn measure_writing() {
    // Each case: sessions that get a message, and the bytes that it may cost.
    for (fan_out, bytes_max) in [(1, 4_000), (SESSIONS, 12_000)] {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path());
        store.commit(&(1..=SESSIONS).map(|number| session(number, 60)).collect::<Vec<_>>()).unwrap();
        let batches = 20 * scale();
        let (started, processor_before, written_before) = (Instant::now(), processor(), told("io", "wchar:"));
        for batch in 1..=batches {
            let ids = batch * BATCH..(batch + 1) * BATCH;
            let mut records: Vec<Record> = ids.clone().map(|id| publish(id, fan_out)).collect();
            records.extend(ids.filter(|_| batch > 1).flat_map(|id| settle(id - BATCH, fan_out)));
            store.commit(&records).unwrap();
        }
        let messages = batches * BATCH;
        let written = (told("io", "wchar:") - written_before) / messages;
        println!(
            "{messages} messages for {fan_out} sessions each; per message {:.1} us of processor time, \
             {:.1} us elapsed, {written} bytes written; {} bytes on disk",
            (processor() - processor_before).as_secs_f64() * 1e6 / messages as f64,
            started.elapsed().as_secs_f64() * 1e6 / messages as f64,
            file_bytes(directory.path()),
        );

        assert!(written < bytes_max, "{written} bytes");
    }
}

#[test]
fn many_references_come_back_from_few_rows() {
    alone("many_references_come_back_from_few_rows", measure_opening);
}

fn measure_opening() {
    // Each case: sessions that get a message, messages of a batch, and references for each row at least.
    for (fan_out, batch_messages, references_min) in [(SESSIONS, 50, 200), (1, 5_000, 15)] {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path());
        store.commit(&(1..=SESSIONS).map(|number| session(number, 60)).collect::<Vec<_>>()).unwrap();
        let batches = 2 * scale();
        for batch in 0..batches {
            let ids = 1 + batch * batch_messages..=(batch + 1) * batch_messages;
            store.commit(&ids.map(|id| publish(id, fan_out)).collect::<Vec<_>>()).unwrap();
        }
        drop(store);
        let deliveries = batches * batch_messages * fan_out;

        let resident = told("status", "VmRSS:");
        let (started, processor_before) = (Instant::now(), processor());
        let (mut store, report) = open(directory.path());
        let (opened, processor_opened) = (started.elapsed(), processor());
        let resident_open = told("status", "VmRSS:");
        let settings = Settings { shards: THREADS, ..Settings::default() };
        let shared = Shared::new(settings, [1; 16], None);
        let mut recovery = Recovery::new(THREADS);
        store.recover(&mut recovery).unwrap();
        let (replayed, processor_replayed) = (started.elapsed(), processor());
        let mut work = |jobs: Vec<Job<'_>>| {
            std::thread::scope(|scope| jobs.into_iter().for_each(|job| drop(scope.spawn(job))));
        };
        let (_shards, cleanup, summary) =
            recovery.into_shards(&shared, Moment::from_milliseconds(1), &mut work);
        println!(
            "{deliveries} deliveries in {} rows; opened in {opened:?} ({:?} of processor time), replayed in {:?} ({:?}), \
             recovered in {:?} ({:?}); {} kB more resident when open, {} at the end at most, {} bytes on disk",
            report.replay.rows,
            processor_opened - processor_before,
            replayed - opened,
            processor_replayed - processor_opened,
            started.elapsed() - replayed,
            processor() - processor_replayed,
            resident_open.saturating_sub(resident),
            told("status", "VmHWM:").saturating_sub(resident),
            file_bytes(directory.path()),
        );

        assert_eq!((summary.deliveries as u64, cleanup.len()), (deliveries, SESSIONS as usize));
        assert!(report.replay.rows < deliveries / references_min, "{} rows", report.replay.rows);
    }
}

#[test]
fn the_file_stays_small_however_much_goes_through_it() {
    alone("the_file_stays_small_however_much_goes_through_it", measure_churn);
}

fn measure_churn() {
    const ROUNDS: u64 = 100_000;
    const SPARE_BYTES: u64 = 2 * 1024 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open_with_spare(directory.path(), SPARE_BYTES);
    let kept = [session(1, 60), published(1, &[1; 100_000], &[1])];
    store.commit(&kept).unwrap();
    let mut last = 2;
    let mut largest = 0;
    while last < ROUNDS * scale() {
        let ids = last..last + 500;
        let mut records: Vec<Record> = ids.clone().map(|id| publish(id, 1)).collect();
        store.commit(&records).unwrap();
        records = ids.flat_map(|id| settle(id, 1)).collect();
        store.commit(&records).unwrap();
        last += 500;
        largest = largest.max(file_bytes(directory.path()));
    }
    let through = last * PAYLOAD_BYTES as u64;
    println!("{through} bytes of payload went through; the file had at most {largest} bytes");

    assert!(largest < 8 * SPARE_BYTES, "{largest} bytes");
    drop(store);
    let (mut store, report) = open(directory.path());
    assert_eq!(sorted_texts(&replayed(&mut store)), sorted_texts(&kept));
    assert_eq!((report.replay.damaged_rows, report.replay.orphans, report.replay.lost_batches), (0, 0, 0));
}
