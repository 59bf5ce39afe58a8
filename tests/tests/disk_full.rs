//! A file system that fills up under the real broker: nothing that was acknowledged is lost, what cannot be stored is refused, and
//! the broker recovers by itself.
//!
//! The data directory is a small file system in memory, with ballast that is thrown out when room is wanted. Mounting takes
//! root.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use veilmq_tests::broker::Broker;
use veilmq_tests::tools;
use veilmq_tests::waiting::wait_until_or;
use veilmq_tests::wire::{
    Published, Wire, acknowledgement, connect_packet, connect_packet_v5, publish_packet, publish_packet_v5,
};

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const DISCONNECT: [u8; 2] = [0xe0, 0];
const QUOTA_EXCEEDED: u8 = 0x97;

const DISK_BYTES: usize = 20 * 1024 * 1024;
/// How many files there is room for.
const FILES: usize = 500;
const BALLAST_BYTES: usize = 8 * 1024 * 1024;
const RESERVE_BYTES: usize = 4 * 1024 * 1024;
const PAYLOAD_BYTES: usize = 4_000;
/// How many publications a publisher keeps unacknowledged.
const WINDOW: u16 = 8;

/// A small file system in memory; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it; prints that the test is skipped where nothing may be mounted.
    fn mount(place: &Path, bytes: usize) -> Option<Self> {
        std::fs::create_dir(place).unwrap();
        let options = format!("size={bytes},nr_inodes={FILES},mode=700");
        let mounted = mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()));
        match mounted {
            Ok(()) => Some(Self(place.to_owned())),
            Err(error) => tools::skip("mounting a file system", &format!("run as root ({error})")),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Has it refuse what is written, or take it again.
    fn remount(&self, flags: MsFlags) {
        let none = None::<&Path>;
        mount(none, &self.0, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// A broker, which does not run yet, whose data directory is such a file system.
fn broker_on_disk(bytes: usize, reserve_bytes: usize) -> Option<(Broker, Disk)> {
    let broker = Broker::configured(|address| {
        format!(
            "[access]\nanonymous = true\n[[listeners]]\naddress = \"{address}\"\n[storage]\nreserve_bytes = {reserve_bytes}\n"
        )
    });
    let disk = Disk::mount(&broker.data_dir(), bytes)?;
    Some((broker, disk))
}

/// A broker on such a file system with ballast in it.
fn broker_on_small_disk(reserve_bytes: usize) -> Option<(Broker, Disk)> {
    let (mut broker, disk) = broker_on_disk(DISK_BYTES, reserve_bytes)?;
    std::fs::write(disk.ballast(), vec![1; BALLAST_BYTES]).unwrap();
    broker.restart();
    Some((broker, disk))
}

/// What became of numbered messages, odd numbers at QoS 1 and even ones at QoS 2.
#[derive(Default)]
struct Ledger {
    next: u16,
    acknowledged: BTreeSet<u16>,
    refused: BTreeSet<u16>,
}

impl Ledger {
    fn take_number(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    /// Publishes `count` messages with MQTT 5, or until one is refused or the connection ends.
    fn publish(&mut self, broker: &Broker, count: u16) {
        let mut wire = connect_v5(broker, "publisher", 0);
        let (mut left, mut in_flight) = (count, BTreeSet::new());
        let refused_before = self.refused.len();
        while left > 0 || !in_flight.is_empty() {
            while left > 0 && in_flight.len() < usize::from(WINDOW) && self.refused.len() == refused_before {
                let number = self.take_number();
                left -= 1;
                in_flight.insert(number);
                let payload = payload(number);
                if wire.send(&publish_packet_v5("numbers", number, qos(number), &payload)).is_err() {
                    return;
                }
            }
            if in_flight.is_empty() {
                return;
            }
            let Ok(answer) = wire.packet() else { return };
            let number = match answer.first {
                PUBACK | PUBREC | PUBCOMP => answer.acknowledged(),
                // DISCONNECT tells why the connection ends.
                first => return assert_eq!((first, answer.body.first()), (0xe0, Some(&QUOTA_EXCEEDED))),
            };
            match (answer.first, answer.body.get(2).copied().unwrap_or(0)) {
                (PUBREC, 0) => {
                    // A client counts on the broker from here on.
                    self.acknowledged.insert(number);
                    let _ = wire.send(&acknowledgement(PUBREL, number));
                }
                (PUBACK | PUBCOMP, 0) => {
                    in_flight.remove(&number);
                    self.acknowledged.insert(number);
                }
                (PUBACK | PUBREC, QUOTA_EXCEEDED) => {
                    in_flight.remove(&number);
                    self.refused.insert(number);
                    left = 0;
                }
                _ => panic!("{answer:?}"),
            }
        }
    }

    /// Collects what waits for the subscriber and compares.
    fn check(&self, broker: &Broker) {
        let (mut wire, session_present) = Wire::connect(broker.address(), "sleeper", false);
        assert!(session_present);
        let mut arrived = BTreeMap::<u16, u32>::new();
        while !self.acknowledged.iter().all(|number| arrived.contains_key(number)) {
            let packet = wire.packet().unwrap_or_else(|error| {
                let lost: Vec<&u16> =
                    self.acknowledged.iter().filter(|number| !arrived.contains_key(number)).collect();
                panic!("{error}; acknowledged and lost: {lost:?}")
            });
            if let Some(published) = Published::read(&packet) {
                let number = u16::from_be_bytes([published.payload[0], published.payload[1]]);
                assert_eq!((published.payload, published.qos), (payload(number), qos(number)));
                *arrived.entry(number).or_default() += 1;
                let first = if published.qos == 1 { PUBACK } else { PUBREC };
                wire.send(&acknowledgement(first, published.packet_id)).unwrap();
            } else {
                assert_eq!(packet.first, PUBREL);
                wire.send(&acknowledgement(PUBCOMP, packet.acknowledged())).unwrap();
            }
        }
        assert!(arrived.values().all(|times| *times == 1), "a message came twice: {arrived:?}");
        assert!(self.refused.iter().all(|number| !arrived.contains_key(number)), "a refused message came");
    }
}

fn qos(number: u16) -> u8 {
    if number % 2 == 1 { 1 } else { 2 }
}

fn payload(number: u16) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(PAYLOAD_BYTES, number as u8);
    payload
}

/// Connects with MQTT 5 and returns the connection and the Reason Code of CONNACK.
fn try_connect_v5(broker: &Broker, client_id: &str, session_expiry_seconds: u32) -> (Wire, u8) {
    let mut wire = Wire::open(broker.address());
    wire.send(&connect_packet_v5(client_id, session_expiry_seconds)).unwrap();
    let connack = wire.packet().unwrap();
    assert_eq!(connack.first, CONNACK);
    (wire, connack.body[1])
}

fn connect_v5(broker: &Broker, client_id: &str, session_expiry_seconds: u32) -> Wire {
    let (wire, reason) = try_connect_v5(broker, client_id, session_expiry_seconds);
    assert_eq!(reason, 0);
    wire
}

fn subscribe_and_leave(broker: &Broker) {
    let (mut wire, _) = Wire::connect(broker.address(), "sleeper", false);
    wire.subscribe("numbers", 2);
    wire.send(&DISCONNECT).unwrap();
    assert_eq!(wire.until_closed(), [0_u8; 0]);
}

/// What holds while nothing can be stored, whatever the reason.
fn refuses_what_has_to_be_stored(broker: &Broker, ledger: &mut Ledger, words: &str) {
    let readyz = broker.get("/readyz");
    assert_eq!(readyz.status, 503, "{}", readyz.body);
    assert!(readyz.body.contains(words), "{}", readyz.body);
    assert_eq!(broker.metric("veilmq_storage_state{state=\"ready\"}"), Some(0.0));

    let before = ledger.refused.len();
    ledger.publish(broker, 1);
    ledger.publish(broker, 1);
    assert_eq!(ledger.refused.len(), before + 2, "QoS 1 and QoS 2 are refused with their Reason Code");
    assert_eq!(try_connect_v5(broker, "new", 60).1, QUOTA_EXCEEDED);

    let (mut old, _) = Wire::connect(broker.address(), "old-publisher", true);
    old.send(&publish_packet("numbers", 1, 1, false, b"")).unwrap();
    assert_eq!(old.until_closed(), [0_u8; 0], "MQTT 3.1.1 has no word for it");
    let mut refused = Wire::open(broker.address());
    refused.send(&connect_packet("old-new", false)).unwrap();
    assert_eq!(refused.packet().unwrap().body, [0, 3]);

    let (mut live, _) = Wire::connect(broker.address(), "live", true);
    live.subscribe("elsewhere", 1);
    let mut publisher = connect_v5(broker, "publisher", 0);
    publisher.send(&publish_packet_v5("elsewhere", 1, 1, b"flows")).unwrap();
    assert_eq!(publisher.packet().unwrap().first, PUBACK);
    assert_eq!(Published::read(&live.packet().unwrap()).unwrap().payload, b"flows");
}

fn wait_until_ready(broker: &Broker) {
    let is_ready = || broker.get("/readyz").status == 200;
    wait_until_or(is_ready, || format!("still not ready: {}", broker.get("/readyz").body));
}

fn fills_up_and_recovers(reserve_bytes: usize, words: &str) {
    let Some((mut broker, disk)) = broker_on_small_disk(reserve_bytes) else { return };
    subscribe_and_leave(&broker);
    let mut ledger = Ledger::default();
    while broker.get("/readyz").status == 200 {
        ledger.publish(&broker, 1_000);
        assert!(ledger.next < 20_000, "the disk does not fill up");
    }
    assert!(ledger.acknowledged.len() > 100, "{}", ledger.acknowledged.len());
    refuses_what_has_to_be_stored(&broker, &mut ledger, words);
    if reserve_bytes > 0 {
        // A broker that is started on a full disk serves all the same; opening the store takes some of the reserve.
        broker.kill();
        broker.restart_impaired();
    }

    std::fs::remove_file(disk.ballast()).unwrap();
    wait_until_ready(&broker);
    let before = ledger.acknowledged.len();
    ledger.publish(&broker, 200);
    assert_eq!(ledger.acknowledged.len(), before + 200, "it takes everything again, without a restart");

    broker.kill();
    broker.restart();
    ledger.check(&broker);
    let readyz = broker.get("/readyz").body;
    assert!(readyz.contains("\"storage_damage\":null"), "a full disk is no damage: {readyz}");
    assert!(readyz.contains("\"storage_quarantined\":null"), "{readyz}");
}

#[test]
fn a_disk_that_reaches_its_reserve_loses_nothing_acknowledged_and_recovers() {
    // [D09]
    fills_up_and_recovers(RESERVE_BYTES, "storage is full: ");
}

#[test]
fn a_disk_without_a_free_byte_loses_nothing_acknowledged_and_recovers() {
    fills_up_and_recovers(0, "\"storage\":\"storage ");
}

#[test]
fn a_disk_that_takes_no_other_file_loses_nothing_acknowledged_and_recovers() {
    // [D09]
    let Some((mut broker, disk)) = broker_on_disk(4 * DISK_BYTES, 0) else { return };
    broker.restart();
    subscribe_and_leave(&broker);
    let mut ledger = Ledger::default();
    ledger.publish(&broker, 200);
    let names = (0..FILES).map(|number| disk.0.join(format!("file-{number}")));
    let made: Vec<PathBuf> = names.take_while(|name| std::fs::write(name, b"").is_ok()).collect();
    assert!((1..FILES).contains(&made.len()), "there is no room for another file");

    ledger.publish(&broker, 3_000);
    broker.kill();
    assert!(refusal(&mut broker).contains("no space left for another file"));
    for file in made {
        std::fs::remove_file(file).unwrap();
    }
    broker.restart();
    wait_until_ready(&broker);
    let before = ledger.acknowledged.len();
    ledger.publish(&broker, 200);
    assert_eq!(ledger.acknowledged.len(), before + 200, "it takes everything again");

    broker.kill();
    broker.restart();
    ledger.check(&broker);
    assert!(broker.get("/readyz").body.contains("\"storage_damage\":null"));
}

#[test]
fn a_start_without_a_free_byte_ends_with_one_error_that_names_disk_and_folder_and_harms_nothing() {
    let Some((mut broker, disk)) = broker_on_small_disk(0) else { return };
    subscribe_and_leave(&broker);
    let mut ledger = Ledger::default();
    while broker.get("/readyz").status == 200 {
        ledger.publish(&broker, 1_000);
    }
    assert!(broker.terminate(20).success(), "a broker that cannot store anything ends as ever");
    fill_to_the_brim(&disk);

    let error = refusal(&mut broker);

    assert!(error.contains("its disk is full (0 bytes are free)"), "{error}");
    std::fs::remove_file(disk.ballast()).unwrap();
    broker.restart();
    ledger.check(&broker);
    assert!(broker.get("/readyz").body.contains("\"storage_damage\":null"));
    assert!(broker.terminate(20).success());
}

/// Starts a broker that cannot start, and returns the one error that it ends with, which names the folder.
fn refusal(broker: &mut Broker) -> String {
    let before = broker.log().len();
    let ended = broker.try_restart().unwrap_err();
    broker.kill();
    assert!(ended.contains("exit status: 1"), "{ended}");
    let log = broker.log();
    let errors: Vec<&str> = log[before..].lines().filter(|line| line.starts_with("veilmq: ")).collect();
    let [error] = errors[..] else { panic!("{errors:?}") };
    assert!(error.contains(&broker.data_dir().display().to_string()), "{error}");
    error.to_owned()
}

#[test]
fn a_start_on_a_read_only_disk_ends_with_one_error_that_names_disk_and_folder_and_harms_nothing() {
    let Some((mut broker, disk)) = broker_on_disk(DISK_BYTES, RESERVE_BYTES) else { return };
    disk.remount(MsFlags::MS_RDONLY);
    assert!(refusal(&mut broker).contains("Read-only file system"), "before there is a store");
    disk.remount(MsFlags::empty());
    broker.restart();
    subscribe_and_leave(&broker);
    let mut ledger = Ledger::default();
    ledger.publish(&broker, 100);
    broker.kill();

    disk.remount(MsFlags::MS_RDONLY);
    assert!(refusal(&mut broker).contains("Read-only file system"), "with a store");

    disk.remount(MsFlags::empty());
    broker.restart();
    ledger.check(&broker);
    assert!(broker.get("/readyz").body.contains("\"storage_damage\":null"));
}

/// Leaves not one byte free.
fn fill_to_the_brim(disk: &Disk) {
    let mut file = std::fs::File::create(disk.0.join("brim")).unwrap();
    while file.write_all(&[1; 4_096]).is_ok() {}
}

/// A disk for which the slack that the store has elsewhere is too large.
const TINY_DISK_BYTES: usize = 24 * 1024 * 1024;
const LARGE_PAYLOAD_BYTES: usize = 40_000;

/// Publishes a large message with QoS 1 and returns the Reason Code of its PUBACK.
fn publish_large(publisher: &mut Wire, number: u16) -> u8 {
    let payload = vec![number as u8; LARGE_PAYLOAD_BYTES];
    publisher.send(&publish_packet_v5("numbers", number, 1, &payload)).unwrap();
    let answer = publisher.packet().unwrap();
    assert_eq!((answer.first, answer.acknowledged()), (PUBACK, number));
    answer.body.get(2).copied().unwrap_or(0)
}

/// Publishes large messages until nothing more is stored; returns how many were acknowledged.
fn fill(broker: &Broker) -> u16 {
    let mut publisher = connect_v5(broker, "publisher", 0);
    for number in 1..2_000 {
        match publish_large(&mut publisher, number) {
            0 | 0x10 => {}
            reason => {
                assert_eq!(reason, QUOTA_EXCEEDED);
                return number - 1;
            }
        }
    }
    panic!("the disk does not fill up")
}

/// Comes back as the subscriber that was away, takes these messages, which are the next, and acknowledges them.
fn drain(broker: &Broker, numbers: RangeInclusive<u16>) {
    let (mut wire, session_present) = Wire::connect(broker.address(), "sleeper", false);
    assert!(session_present);
    for number in numbers {
        let published = Published::read(&wire.packet().unwrap()).unwrap();
        assert_eq!((published.payload.len(), published.payload[0]), (LARGE_PAYLOAD_BYTES, number as u8));
        wire.send(&acknowledgement(PUBACK, published.packet_id)).unwrap();
    }
    wire.send(&DISCONNECT).unwrap();
    drop(wire.until_closed());
}

fn subscribe_with_qos_1_and_leave(broker: &Broker) {
    let (mut wire, _) = Wire::connect(broker.address(), "sleeper", false);
    wire.subscribe("numbers", 1);
    wire.send(&DISCONNECT).unwrap();
    assert_eq!(wire.until_closed(), [0_u8; 0]);
}

#[test]
fn a_disk_that_the_store_filled_has_room_again_once_clients_took_what_waited_for_them() {
    let Some((mut broker, _disk)) = broker_on_disk(TINY_DISK_BYTES, RESERVE_BYTES) else { return };
    broker.restart();
    subscribe_with_qos_1_and_leave(&broker);
    for round in 0..3 {
        let stored = fill(&broker);
        assert!(stored > 100, "{stored} messages in round {round}");
        assert_eq!(broker.get("/readyz").status, 503);
        if round == 1 {
            broker.kill();
            broker.restart_impaired();
        }

        drain(&broker, 1..=stored);

        // Nothing is published meanwhile.
        wait_until_ready(&broker);
    }
    broker.kill();
    broker.restart();
    let readyz = broker.get("/readyz").body;
    assert!(readyz.contains("\"storage_damage\":null"), "{readyz}");
}

/// Begins to compact the store of a broker that does not run.
fn compact(broker: &Broker) -> Child {
    let mut command = Command::new(tools::built_program("veilmq"));
    command.args(["store", "compact", "--data-dir"]).arg(broker.data_dir());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_store_is_compacted_on_the_disk_that_it_has_filled_whatever_kills_the_command() {
    const LEFT: u16 = 20;
    let Some((mut broker, _disk)) = broker_on_disk(TINY_DISK_BYTES, RESERVE_BYTES) else { return };
    broker.restart();
    subscribe_with_qos_1_and_leave(&broker);
    let stored = fill(&broker);
    drain(&broker, 1..=stored - LEFT);
    assert!(broker.terminate(20).success());
    let file_bytes = || std::fs::metadata(broker.data_dir().join("store/db")).unwrap().len();
    assert!(file_bytes() > 16_000_000, "there is no room for a copy");

    for milliseconds in [2, 10, 15, 20, 25, 30, 35, 40, 50, 60, 80, 100] {
        let mut child = compact(&broker);
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = compact(&broker).wait_with_output().unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(file_bytes() < 4_000_000, "{}", file_bytes());
    broker.restart();
    drain(&broker, stored - LEFT + 1..=stored);
}

#[test]
fn what_passes_through_a_small_disk_never_fills_it() {
    let Some((mut broker, _disk)) = broker_on_disk(TINY_DISK_BYTES, RESERVE_BYTES) else { return };
    broker.restart();
    let (mut subscriber, _) = Wire::connect(broker.address(), "sleeper", false);
    subscriber.subscribe("numbers", 1);
    let mut publisher = connect_v5(&broker, "publisher", 0);

    // Some 60 MB, of which nothing has to be kept.
    for number in 1..=1_500 {
        assert_eq!(publish_large(&mut publisher, number), 0, "message {number}");
        let published = Published::read(&subscriber.packet().unwrap()).unwrap();
        subscriber.send(&acknowledgement(PUBACK, published.packet_id)).unwrap();
    }

    assert_eq!(broker.get("/readyz").status, 200);
}
