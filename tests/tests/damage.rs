//! Damaged data directories: the broker starts on every one of them, and nothing is missing or changed without a report.
//!
//! A directory with known contents is copied, and one file of each copy is damaged at a random place: a bit flipped, a page
//! zeroed, the file cut, emptied or removed. Of the layout the suite knows only which files a broker without a store has, and
//! leaves these alone: an identity that is damaged is never replaced, so such a broker does not start.
//! `VEILMQ_DAMAGES` says how many copies there are, `VEILMQ_DAMAGE_SEED` which.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use veilmq_tests::broker::Broker;
use veilmq_tests::wire::{Published, Wire, acknowledgement, publish_packet};

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: u8 = 0xd0;
const DISCONNECT: [u8; 2] = [0xe0, 0];

const COPIES_DEFAULT: u64 = 20;
const PAGE_BYTES: u64 = 4_096;
const SLEEPERS: u16 = 4;
/// Messages that wait for every sleeper, and as many that all have had.
const MESSAGES: u16 = 120;
const RETAINED: u16 = 40;

/// The payload of the message that a sleeper gets last.
const LAST: &[u8] = b"late";
/// A client that gets nothing so many times in a row has everything.
const SILENCES_MAX: u32 = 5;
const SILENCE: Duration = Duration::from_millis(100);

/// A repeatable sequence of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// What a client can learn of what a broker has stored: one line for each thing.
type Contents = BTreeSet<String>;

fn sleeper(number: u16) -> String {
    format!("sleeper-{number}")
}

/// Messages of 20 to 9,000 bytes, so that some lie in one place and some in several.
fn payload(number: u16) -> Vec<u8> {
    let mut payload = number.to_string().into_bytes();
    payload.resize(20 + usize::from(number % 13) * 748, b'.');
    payload
}

fn leave(mut wire: Wire) {
    wire.send(&DISCONNECT).unwrap();
    drop(wire.until_closed());
}

/// Publishes at QoS 1 or 2 and waits until it is acknowledged.
fn publish(wire: &mut Wire, topic: &str, number: u16, retain: bool, payload: &[u8]) {
    let qos = if number.is_multiple_of(2) { 2 } else { 1 };
    let mut bytes = publish_packet(topic, number, qos, false, payload);
    bytes[0] |= u8::from(retain);
    wire.send(&bytes).unwrap();
    let answer = wire.packet().unwrap();
    if qos == 2 {
        assert_eq!(answer.first, PUBREC);
        wire.send(&acknowledgement(PUBREL, number)).unwrap();
        assert_eq!(wire.packet().unwrap().first, PUBCOMP);
    } else {
        assert_eq!(answer.first, PUBACK);
    }
}

/// Stores sessions, subscriptions, messages that wait and messages that are done with, and retained messages.
fn fill(broker: &Broker) {
    for number in 0..SLEEPERS {
        let (mut wire, _) = Wire::connect(broker.address(), &sleeper(number), false);
        wire.subscribe("queue/+", 2);
        wire.subscribe(&format!("own/{number}"), 2);
        leave(wire);
    }
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    for number in 1..=MESSAGES {
        publish(&mut publisher, &format!("queue/{}", number % 3), number, false, &payload(number));
    }
    for number in 0..SLEEPERS {
        drop(queued(broker, &sleeper(number)));
    }
    for number in 1..=MESSAGES {
        publish(&mut publisher, &format!("queue/{}", number % 3), number, false, &payload(number + 1_000));
    }
    for number in 1..=2 * RETAINED {
        publish(&mut publisher, &format!("kept/{}", number % RETAINED), number, true, &payload(number));
    }
}

/// Takes what waits for a session, until the message that comes last has arrived, or nothing comes any more; None if there is
/// no session.
fn queued(broker: &Broker, client_id: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let (mut wire, session_present) = Wire::connect(broker.address(), client_id, false);
    let mut taken = Vec::new();
    // A ping is answered after what was sent before it; every message that is acknowledged can bring another, and what is read
    // back from the store comes when it has been read.
    let (mut is_last_there, mut silences) = (false, 0);
    while silences < if is_last_there { 1 } else { SILENCES_MAX } {
        let mut came = false;
        wire.send(&PINGREQ).unwrap();
        loop {
            let packet = wire.packet().unwrap();
            if packet.first == PINGRESP {
                break;
            }
            came = true;
            match Published::read(&packet) {
                Some(published) => {
                    let first = if published.qos == 1 { PUBACK } else { PUBREC };
                    wire.send(&acknowledgement(first, published.packet_id)).unwrap();
                    is_last_there |= published.payload == LAST;
                    taken.push((published.topic, published.payload));
                }
                None => wire.send(&acknowledgement(PUBCOMP, packet.acknowledged())).unwrap(),
            }
        }
        silences = if came { 0 } else { silences + 1 };
        if !came && !is_last_there {
            thread::sleep(SILENCE);
        }
    }
    leave(wire);
    session_present.then_some(taken)
}

fn contents(broker: &Broker) -> Contents {
    let mut contents = Contents::new();
    // Those who are subscribed to it get this one message; before anything is taken, which could change what is seen.
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);
    for number in 0..SLEEPERS {
        // At QoS 2, so that no other message takes longer on its way.
        publish(&mut publisher, &format!("own/{number}"), 2, false, LAST);
    }
    for number in 0..SLEEPERS {
        let client_id = sleeper(number);
        let Some(taken) = queued(broker, &client_id) else { continue };
        contents.insert(format!("session {client_id}"));
        for (position, (topic, payload)) in taken.into_iter().enumerate() {
            contents.insert(format!("{client_id} {position} {topic} {}", String::from_utf8_lossy(&payload)));
        }
    }
    let (mut wire, _) = Wire::connect(broker.address(), "reader", true);
    wire.subscribe("kept/#", 0);
    wire.send(&PINGREQ).unwrap();
    while let Some(published) = Published::read(&wire.packet().unwrap()) {
        contents.insert(format!("{} {}", published.topic, String::from_utf8_lossy(&published.payload)));
    }
    contents
}

/// All files below a directory, by their names relative to it.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(directory).unwrap().to_owned());
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&file), target).unwrap();
    }
}

/// Damages a file, and says how.
fn damage(file: &Path, random: &mut Random) -> String {
    let len = fs::metadata(file).unwrap().len();
    let open = || File::options().read(true).write(true).open(file).unwrap();
    match random.below(8) {
        0..=2 if len > 0 => {
            let (at, bit) = (random.below(len), 1 << random.below(8));
            let mut byte = [0];
            open().read_exact_at(&mut byte, at).unwrap();
            open().write_all_at(&[byte[0] ^ bit], at).unwrap();
            format!("bit {bit:#04x} of byte {at} of {len} flipped")
        }
        3 | 4 if len > 0 => {
            let at = random.below(len) / PAGE_BYTES * PAGE_BYTES;
            let zeros = vec![0; usize::try_from(PAGE_BYTES.min(len - at)).unwrap()];
            open().write_all_at(&zeros, at).unwrap();
            format!("the page at {at} of {len} zeroed")
        }
        5 | 6 if len > 0 => {
            let kept = random.below(len);
            open().set_len(kept).unwrap();
            format!("cut at {kept} of {len}")
        }
        _ => {
            fs::remove_file(file).unwrap();
            format!("removed, with {len} bytes")
        }
    }
}

/// What the broker says about damage: error lines of its log, and what `/readyz` shows.
fn reports(broker: &Broker, log_before: usize) -> Vec<String> {
    let log = broker.log();
    let errors = log.get(log_before..).unwrap_or_default().lines().filter(|line| line.contains(" ERROR "));
    let mut reports: Vec<String> = errors.map(str::to_owned).collect();
    let readyz = broker.get("/readyz").body;
    let is_silent =
        readyz.contains("\"storage_quarantined\":null") && readyz.contains("\"storage_damage\":null");
    if !is_silent {
        reports.push(readyz);
    }
    reports
}

/// The files of a broker that stores nothing.
fn files_without_store() -> BTreeSet<PathBuf> {
    let broker = Broker::start_configured(|address| {
        format!(
            "[access]\nanonymous = true\n[[listeners]]\naddress = \"{address}\"\n[storage]\ndurability = \"memory\"\n"
        )
    });
    files(&broker.data_dir())
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn a_damaged_directory_never_prevents_a_start_and_never_loses_anything_silently() {
    // [E01]
    let copies = number_from_environment("VEILMQ_DAMAGES").unwrap_or(COPIES_DEFAULT);
    let seed = number_from_environment("VEILMQ_DAMAGE_SEED").unwrap_or(1);
    let not_stored = files_without_store();
    let mut broker = Broker::start();
    fill(&broker);
    assert!(broker.terminate(20).success());
    let original = broker.directory().join("original");
    copy(&broker.data_dir(), &original);
    broker.restart();
    let known = contents(&broker);
    assert_eq!(reports(&broker, 0), [""; 0], "what is whole is not reported");
    let expected = SLEEPERS * (2 + MESSAGES) + RETAINED;
    assert_eq!(known.len(), usize::from(expected), "all that was filled in is there");

    let targets: Vec<PathBuf> = files(&original).difference(&not_stored).cloned().collect();
    let mut random = Random(seed);
    let mut differing = 0;
    for number in 1..=copies {
        broker.kill();
        fs::remove_dir_all(broker.data_dir()).unwrap();
        copy(&original, &broker.data_dir());
        // Larger files have more places to be damaged at, but none is left out.
        let target = match random.below(3) {
            0 => targets[random.below(targets.len() as u64) as usize].clone(),
            _ => largest(&original, &targets),
        };
        let damage = damage(&broker.data_dir().join(&target), &mut random);
        eprintln!("copy {number} of seed {seed}: {}: {damage}", target.display());
        let log_before = broker.log().len();

        broker.restart();

        let found = contents(&broker);
        let is_reported = !reports(&broker, log_before).is_empty();
        assert!(found == known || is_reported, "nothing reported, {}", difference(&known, &found));
        differing += u64::from(found != known);
    }
    eprintln!("{} of {copies} damaged copies lost nothing, {differing} did and said so", copies - differing);
}

fn difference(known: &Contents, found: &Contents) -> String {
    let missing: Vec<&str> = known.difference(found).map(String::as_str).collect();
    let first: String = missing.first().unwrap_or(&"none").chars().take(60).collect();
    let new = found.difference(known).count();
    format!("but {} of {} missing (the first: {first}), {new} new", missing.len(), known.len())
}

fn largest(directory: &Path, files: &[PathBuf]) -> PathBuf {
    let bytes = |file: &&PathBuf| fs::metadata(directory.join(file)).unwrap().len();
    files.iter().max_by_key(bytes).unwrap().clone()
}
