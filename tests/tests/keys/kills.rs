//! `kill -9` of whoever has to do with keys: nobody goes back to an earlier one, nothing is read twice, and nothing is lost.
//!
//! `VEILMQ_KILLS` is the number of kills, `VEILMQ_SEED` repeats the choices of an earlier run.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use veilmq_client::identity;
use veilmq_tests::broker::Broker;
use veilmq_tests::carrier::contents;
use veilmq_tests::crash::dice::{Dice, from_environment, seed};
use veilmq_tests::search::holds;
use veilmq_tests::tap::Tap;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Published, Wire, connect_packet_v5, publish_packet, publish_packet_v5};

use crate::plant::{Plant, Running, SCOPE, SECRET, TOPIC};

/// Long enough for what is under way to arrive, as a rule; no test depends on it.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// What [`Stage::settle`] has the reader read.
const SETTLING: &str = "and this, so that the state is saved again";

/// How `veil sub` reads, with a session that waits for it.
const READING: [&str; 8] = reading("1");
/// No matching subscribers.
const NO_SUBSCRIBERS: u8 = 0x10;

const fn reading(qos: &str) -> [&str; 8] {
    ["--join", SCOPE, "-t", SCOPE, "-q", qos, "-c", "--json"]
}

/// The programs, and the broker behind what records every packet.
struct Stage {
    broker: Broker,
    tap: Tap,
    plant: Plant,
}

/// A message that a reader has printed.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    text: String,
    epoch: u64,
    seq: u64,
}

impl Stage {
    fn new() -> Self {
        let broker = Broker::start();
        let tap = Tap::start(broker.address());
        let plant = Plant::at(tap.address().port());
        plant.certify("keys", "key-authority", "--publish-scope");
        Self { broker, tap, plant }
    }

    fn authority(&self) -> Running {
        let authority =
            self.plant.start(&["authority", "run"], "keys", &["--issue", SCOPE, "--key-lead", "1"]);
        self.plant.wait_for("keys", "issuing the keys of factory/#");
        authority
    }

    /// A reader that comes back to its session, once that is there.
    fn reader(&self) -> Running {
        self.reader_at("1")
    }

    fn reader_at(&self, qos: &str) -> Running {
        let reader = self.plant.start(&["sub"], "lake", &reading(qos));
        wait_until("the reader listens", || self.is_listened_to());
        reader
    }

    /// Whether somebody has subscribed to the scope. Readers refuse what is asked with.
    fn is_listened_to(&self) -> bool {
        let mut wire = Wire::open(self.broker.address());
        wire.send(&connect_packet_v5("curious", 0)).unwrap();
        wire.packet().unwrap();
        wire.send(&publish_packet_v5("factory/question", 1, 1, b"is anybody there")).unwrap();
        wire.packet().unwrap().body.get(2) != Some(&NO_SUBSCRIBERS)
    }

    fn publish(&self, text: &str) {
        self.plant.run("pub", "press", &["--join", SCOPE, "-t", TOPIC, "-q", "1", "-m", text]);
    }

    fn shown(&self) -> Vec<Shown> {
        parse(&self.plant.printed("lake"))
    }

    fn wait_for(&self, text: &str) {
        let is_shown = || self.shown().iter().any(|shown| shown.text == text);
        wait_until(&format!("{text} (complaints: {})", self.plant.complaints("lake")), is_shown);
    }

    /// Waits until the state of the reader says that it has read what it has shown. That may come later for what it reads now.
    fn settle(&self) {
        let shown_at = SystemTime::now();
        self.publish(SETTLING);
        self.wait_for(SETTLING);
        let saved_at = || std::fs::metadata(self.plant.path("lake.state")).and_then(|file| file.modified());
        wait_until("the state is saved", || saved_at().is_ok_and(|saved_at| saved_at > shown_at));
    }

    /// What a topic retains, as the broker gives it to anybody.
    fn retained(&self, filter: &str) -> Published {
        let (mut wire, _) = Wire::connect(self.broker.address(), "curious", true);
        wire.subscribe(filter, 0);
        Published::read(&wire.packet().unwrap()).unwrap()
    }

    /// Puts a message into the broker, as one that is malicious itself would.
    fn plant_message(&self, topic: &str, payload: &[u8], retain: bool) {
        let (mut wire, _) = Wire::connect(self.broker.address(), "malicious", true);
        let mut packet = publish_packet(topic, 1, 1, false, payload);
        packet[0] |= u8::from(retain);
        wire.send(&packet).unwrap();
        assert_eq!(wire.packet().unwrap().first, 0x40);
    }
}

/// Reads lines of JSON; the last one may have been cut off by a kill.
fn parse(printed: &str) -> Vec<Shown> {
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .map(|line| Shown {
            text: line["payload"].as_str().unwrap().to_owned(),
            epoch: line["sealed"]["epoch"].as_u64().unwrap(),
            seq: line["sealed"]["seq"].as_u64().unwrap(),
        })
        .collect()
}

#[test]
fn nobody_goes_back_to_an_earlier_key_over_kills_at_random_moments_of_rotations() {
    let mut stage = Stage::new();
    let mut dice = Dice::new(seed());
    let mut authority = stage.authority();
    let mut reader = stage.reader();
    stage.publish(SECRET);
    stage.wait_for(SECRET);
    let first = stage.retained("_veil/1/kp/+/+");
    let (mut shown, mut sent, mut readers_killed) = (Vec::new(), vec![SECRET.to_owned()], 0);

    let rounds = from_environment("VEILMQ_KILLS", 6);
    for round in 0..rounds {
        stage.plant.made(&["authority", "rotate", "--state", "keys.state", "--scope", SCOPE]);
        // Before the key is announced, while it is, and after it has come into use.
        sleep(Duration::from_millis(dice.below(2_000)));
        match dice.below(3) {
            0 => {
                drop(authority);
                authority = stage.authority();
            }
            1 => {
                stage.broker.kill();
                stage.broker.restart();
            }
            _ => {
                drop(reader);
                shown.extend(stage.shown());
                readers_killed += 1;
                reader = stage.reader();
            }
        }
        let text = format!("{SECRET}, {round}");
        stage.publish(&text);
        sent.push(text);
    }
    stage.wait_for(sent.last().unwrap());
    shown.extend(stage.shown());

    for text in &sent {
        assert!(shown.iter().any(|shown| shown.text == *text), "{text:?} is lost: {shown:?}");
    }
    assert!(shown.len() <= sent.len() + readers_killed, "more came twice than was read at a kill: {shown:?}");
    assert!(shown.is_sorted_by_key(|shown| shown.epoch), "an earlier key was used again: {shown:?}");
    let newest = shown.last().unwrap().epoch;
    assert!((2..=1 + rounds).contains(&newest), "the key has changed, and no more often than was asked for");

    // The broker gives everybody the first head again, and no authority is there to contradict it.
    drop(authority);
    drop(reader);
    stage.plant_message(&first.topic, &first.payload, true);
    let _reader = stage.reader();
    wait_until("the reader refuses the head", || stage.plant.complaints("lake").contains("key refused"));
    stage.publish("after all");
    stage.wait_for("after all");
    // A key may have been announced before the authority fell silent, one for each rotation that was asked for.
    let announced = newest..=1 + rounds;
    assert!(announced.contains(&stage.shown().last().unwrap().epoch), "{announced:?}: {:?}", stage.shown());

    stage.broker.terminate(30);
    let mut places = vec![("the packets".to_owned(), stage.tap.captured())];
    places.extend(
        contents(&stage.broker.data_dir())
            .into_iter()
            .map(|(path, bytes)| (path.display().to_string(), bytes)),
    );
    assert!(places.iter().any(|(_, bytes)| holds(bytes, TOPIC)), "topics are no secret, so they are found");
    for (place, bytes) in &places {
        assert!(!holds(bytes, SECRET), "{place}: plaintext");
        for name in ["keys", "press", "lake"] {
            let keys = identity::load_keys(&stage.plant.path(&format!("{name}.key"))).unwrap().to_bytes();
            let is_there = |key: &[u8]| bytes.windows(key.len()).any(|window| window == key);
            assert!(!keys.chunks(32).any(is_there), "{place}: a key of {name}");
        }
    }
}

#[test]
fn a_store_that_was_restored_from_an_earlier_copy_brings_no_old_key_back() {
    let mut stage = Stage::new();
    let authority = stage.authority();
    let reader = stage.reader();
    stage.publish("one");
    stage.wait_for("one");
    stage.broker.terminate(30);
    let copy = stage.broker.directory().join("copy");
    copy_folder(&stage.broker.data_dir(), &copy);
    stage.broker.restart();
    stage.plant.made(&["authority", "rotate", "--state", "keys.state", "--scope", SCOPE]);
    // The key has come into use.
    sleep(2 * UNDER_WAY);
    stage.publish("two");
    stage.wait_for("two");
    let newest = stage.shown().last().unwrap().epoch;
    assert_eq!(newest, 2);

    drop(authority);
    drop(reader);
    stage.broker.kill();
    std::fs::remove_dir_all(stage.broker.data_dir()).unwrap();
    copy_folder(&copy, &stage.broker.data_dir());
    stage.broker.restart();
    let _reader = stage.reader();
    wait_until("the reader refuses the head", || stage.plant.complaints("lake").contains("key refused"));

    // The authority hears its own old head, and says again what is newer.
    let _authority = stage.authority();
    stage.publish("three");
    stage.wait_for("three");
    assert!(stage.shown().iter().all(|shown| shown.epoch >= newest), "{:?}", stage.shown());
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for (path, bytes) in contents(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
}

#[test]
fn a_killed_reader_refuses_what_it_has_shown_and_loses_nothing_it_has_not() {
    let stage = Stage::new();
    let _authority = stage.authority();
    let (mut spy, _) = Wire::connect(stage.broker.address(), "spy", true);
    spy.subscribe(TOPIC, 0);
    let reader = stage.reader();
    stage.publish("shown");
    stage.wait_for("shown");
    let envelope = Published::read(&spy.packet().unwrap()).unwrap().payload;
    stage.settle();

    drop(reader);
    let mut shown = stage.shown();
    stage.publish("sent meanwhile");
    stage.plant_message(TOPIC, &envelope, false);
    let reader = stage.reader();
    stage.wait_for("sent meanwhile");
    stage.plant_message(TOPIC, &envelope, false);
    wait_until("both replays are refused", || {
        stage.plant.complaints("lake").matches("(Replay)").count() == 2
    });

    drop(reader);
    shown.extend(stage.shown());
    let texts: Vec<&str> = shown.iter().map(|shown| &*shown.text).filter(|text| *text != SETTLING).collect();
    assert_eq!(texts, ["shown", "sent meanwhile"]);
}

#[test]
fn what_a_killed_reader_had_not_written_comes_again() {
    const MESSAGES: u64 = 200;
    let stage = Stage::new();
    let _authority = stage.authority();
    let reader = stage.reader();
    stage.publish("the first, so that the reader has the key");
    stage.wait_for("the first, so that the reader has the key");
    stage.settle();
    drop(reader);
    let mut reader = stage.plant.connecting(&["sub"], "lake", &READING);
    // Nobody reads from it, so that only as much is written as fits into a pipe.
    let mut reader = reader.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (text, count) = ("x".repeat(1_000), MESSAGES.to_string());
    stage.plant.run(
        "pub",
        "press",
        &["--join", SCOPE, "-t", TOPIC, "-q", "1", "-m", &text, "--repeat", &count],
    );
    sleep(UNDER_WAY);

    reader.kill().unwrap();
    let mut written = String::new();
    reader.stdout.take().unwrap().read_to_string(&mut written).unwrap();
    reader.wait().unwrap();
    let before = parse(&written);
    assert!(before.len() < MESSAGES as usize, "the pipe has held them up");

    let _reader = stage.reader();
    stage.publish("the last");
    stage.wait_for("the last");
    let numbers = |shown: &[Shown]| -> Vec<u64> {
        shown.iter().filter(|shown| shown.text == text).map(|shown| shown.seq).collect()
    };
    let (before, after) = (numbers(&before), numbers(&stage.shown()));
    let all: BTreeSet<u64> = before.iter().chain(&after).copied().collect();
    assert_eq!(all.len() as u64, MESSAGES, "{before:?} {after:?}");
    // What was written since the state was saved last.
    let again: Vec<u64> = after.into_iter().filter(|number| before.contains(number)).collect();
    assert!(before.ends_with(&again), "{before:?} {again:?}");
}

/// Programs that take over the session of a reader, and are killed with what it brings.
#[test]
fn what_a_killed_program_had_not_subscribed_to_waits_for_one_that_does() {
    const MESSAGES: usize = 30;
    for qos in ["1", "2"] {
        let stage = Stage::new();
        let _authority = stage.authority();
        let reader = stage.reader_at(qos);
        stage.publish("the first, so that the reader has the key");
        stage.wait_for("the first, so that the reader has the key");
        stage.settle();
        drop(reader);
        let count = MESSAGES.to_string();
        let messages = ["--join", SCOPE, "-t", TOPIC, "-q", qos, "-m", SECRET, "--repeat", &count];
        stage.plant.run("pub", "press", &messages);

        for _ in 0..2 {
            let mut idle = stage.plant.asking(&["pub"], "lake", &["-c", "-t", "elsewhere", "-l"]);
            let mut idle = idle.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            sleep(UNDER_WAY);
            idle.kill().unwrap();
            idle.wait().unwrap();
        }

        let _reader = stage.reader_at(qos);
        stage.publish("the last");
        stage.wait_for("the last");
        let shown = stage.shown();
        let numbers: Vec<u64> =
            shown.iter().filter(|shown| shown.text == SECRET).map(|shown| shown.seq).collect();
        assert_eq!(numbers.len(), MESSAGES, "QoS {qos}: {numbers:?}");
        assert!(numbers.is_sorted_by(|a, b| a < b), "QoS {qos}: {numbers:?}");
    }
}

#[test]
fn a_message_in_parts_survives_a_kill_of_its_reader_between_them() {
    let stage = Stage::new();
    let _authority = stage.authority();
    let (mut spy, _) = Wire::connect(stage.broker.address(), "spy", true);
    spy.subscribe(TOPIC, 0);
    let long = "three parts ".repeat(12_000);
    std::fs::write(stage.plant.path("long"), &long).unwrap();
    stage.plant.run("pub", "press", &["--join", SCOPE, "-t", TOPIC, "-q", "1", "-f", "long"]);
    let parts: Vec<Vec<u8>> =
        (0..3).map(|_| Published::read(&spy.packet().unwrap()).unwrap().payload).collect();

    let reader = stage.reader();
    stage.publish("shown");
    stage.wait_for("shown");
    stage.settle();
    stage.plant_message(TOPIC, &parts[0], false);
    stage.plant_message(TOPIC, &parts[1], false);
    sleep(UNDER_WAY);
    drop(reader);
    let _reader = stage.reader();
    stage.plant_message(TOPIC, &parts[2], false);

    wait_until("the message is whole", || stage.shown().iter().any(|shown| shown.text == long));
    assert!(stage.shown().iter().all(|shown| shown.text != "shown"), "and nothing else comes again");
}
