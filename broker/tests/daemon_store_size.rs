//! `veilmq store`, and a broker, on a large store: memory follows the number of what is stored, never its size.
//!
//! `VEILMQ_TEST_STORE_DELIVERIES` is the size of the store, 100,000 unless given; `--nocapture` shows memory and time.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon_process::Broker;
use tempfile::tempdir;

mod daemon_process;

const SESSIONS: u64 = 1_000;
const MEGABYTE: u64 = 1024 * 1024;

/// Writes an export: each of `wide` messages goes to all sessions, each of `narrow` messages, of `payload` bytes, to one.
fn write_export(path: &Path, wide: u64, narrow: u64, payload: usize) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let payload_text = "A".repeat(payload / 3 * 4);
    writeln!(out, r#"{{"format":"veilmq-export","version":1}}"#).unwrap();
    for session in 0..SESSIONS {
        writeln!(out, r#"{{"kind":"session","session":{session},"client_id":"client-{session}","authenticated":false,"user":null,"expiry_seconds":4294967295,"disconnected_at_ms":1700000000000,"will":null,"last_packet_id":0}}"#).unwrap();
    }
    for message in 0..wide + narrow {
        let (sessions, payload) = if message < wide {
            (0..SESSIONS, "")
        } else {
            (message % SESSIONS..message % SESSIONS + 1, &*payload_text)
        };
        writeln!(out, r#"{{"kind":"message","message":{message},"topic":"t","qos":1,"retain":false,"expires_at_ms":null,"expiry_seconds":null,"properties":"","payload":"{payload}"}}"#).unwrap();
        for session in sessions {
            writeln!(out, r#"{{"kind":"delivery","message":{message},"session":{session},"qos":1,"retain":false,"subscription_ids":[],"share":null,"stage":"queued","packet_id":null}}"#).unwrap();
        }
    }
    let deliveries = wide * SESSIONS + narrow;
    let bytes = wide + narrow * (1 + payload as u64 / 3 * 3);
    writeln!(out, r#"{{"kind":"end","sessions":{SESSIONS},"subscriptions":0,"messages":{},"deliveries":{deliveries},"received":0,"retained":0,"message_bytes":{bytes}}}"#, wide + narrow).unwrap();
    out.flush().unwrap();
}

/// Runs a command to its end and returns the most memory it had, in bytes.
fn peak(data: &Path, arguments: &[&str]) -> u64 {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_veilmq"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // The mark only rises, so the last one that is seen is the highest but for the last few milliseconds.
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024;
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success(), "{arguments:?}");
    println!("{arguments:?}: {} MB, {:?}", peak / MEGABYTE, started.elapsed());
    peak
}

/// Runs all commands on the store of an export and returns the peak of each.
fn peaks(wide: u64, narrow: u64, payload: usize) -> Vec<u64> {
    let folder = tempdir().unwrap();
    let (data, first, second) =
        (folder.path().join("data"), folder.path().join("first"), folder.path().join("second"));
    write_export(&first, wide, narrow, payload);
    let commands = [
        vec!["import", "--input", first.to_str().unwrap()],
        vec!["check"],
        vec!["compact"],
        vec!["export", "--output", second.to_str().unwrap()],
    ];
    let peaks = commands.iter().map(|command| peak(&data, &[&["store"], &command[..]].concat())).collect();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the export is the same again");
    peaks
}

#[test]
fn memory_is_bounded_by_the_number_of_what_is_stored() {
    let deliveries =
        std::env::var("VEILMQ_TEST_STORE_DELIVERIES").map_or(100_000, |text| text.parse().unwrap());
    let narrow = deliveries / 10;

    // The program itself and its sessions, whatever machine and allocator this is.
    let base = peaks(0, 1, 30);
    let peaks = peaks((deliveries - narrow) / SESSIONS, narrow, 30);

    // The first part is caches that fill, and what the allocator gives back late.
    let growth_max = 32 * MEGABYTE + 120 * deliveries;
    for (base, peak) in base.iter().zip(&peaks) {
        assert!(*peak < base + growth_max, "{deliveries} deliveries: {peaks:?}, and without: {base:?}");
    }
}

#[test]
fn a_broker_that_starts_on_much_that_is_stored_has_no_more_in_memory_than_its_cache_may_have() {
    let folder = tempdir().unwrap();
    let (data, export) = (tempdir().unwrap(), folder.path().join("export"));
    write_export(&export, 0, 6_000, 30_000);
    peak(data.path(), &["store", "import", "--input", export.to_str().unwrap()]);

    let without = Broker::start("[storage]\ncache_bytes = 8388608").resident_bytes();
    let with = Broker::start_on(data, "[storage]\ncache_bytes = 8388608").resident_bytes();

    // The cache, 16 MiB that the engine takes whatever the cache, and an index.
    assert!(with < without + 40 * MEGABYTE, "with 180 MB of payloads {with} bytes, without {without}");
}

#[test]
fn memory_does_not_grow_with_the_payloads() {
    let half = peaks(0, 4_000, 15_000);
    let whole = peaks(0, 4_000, 30_000);

    for (half, whole) in half.into_iter().zip(whole) {
        assert!(whole < half + 30 * MEGABYTE, "with 60 MB of payloads {half} bytes, with 120 MB {whole}");
        assert!(whole < 160 * MEGABYTE, "with 120 MB of payloads {whole} bytes");
    }
}
