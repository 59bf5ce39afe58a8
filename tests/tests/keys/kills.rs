//! `kill -9` of whoever has to do with keys: nobody goes back to an earlier one.
//!
//! `VEILMQ_KILLS` is the number of kills, `VEILMQ_SEED` repeats the choices of an earlier run.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use veilmq_client::identity;
use veilmq_tests::broker::Broker;
use veilmq_tests::carrier::contents;
use veilmq_tests::crash::dice::{Dice, from_environment, seed};
use veilmq_tests::search::holds;
use veilmq_tests::tap::Tap;
use veilmq_tests::wire::{Published, Wire, connect_packet_v5, publish_packet, publish_packet_v5};

use crate::plant::{Plant, Running, SCOPE, SECRET, TOPIC, eventually};

/// How `veil sub` reads, with a session that waits for it.
const READING: [&str; 8] = ["--join", SCOPE, "-t", SCOPE, "-q", "1", "-c", "--json"];
/// No matching subscribers.
const NO_SUBSCRIBERS: u8 = 0x10;

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
        let reader = self.plant.start(&["sub"], "lake", &READING);
        eventually("the reader listens", || self.is_listened_to());
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
        eventually(text, || self.shown().iter().any(|shown| shown.text == text));
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

    for round in 0..from_environment("VEILMQ_KILLS", 6) {
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
    assert!(newest > 1, "the key has changed");

    // The broker gives everybody the first head again, and no authority is there to contradict it.
    drop(authority);
    drop(reader);
    stage.plant_message(&first.topic, &first.payload, true);
    let _reader = stage.reader();
    eventually("the reader refuses the head", || stage.plant.complaints("lake").contains("key refused"));
    stage.publish("after all");
    stage.wait_for("after all");
    assert!(stage.shown().last().unwrap().epoch >= newest, "{:?}", stage.shown());

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
    sleep(Duration::from_secs(2));
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
    eventually("the reader refuses the head", || stage.plant.complaints("lake").contains("key refused"));

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
