//! What waits for a session that is away takes up disk, not memory, and comes when the client does. The store itself takes some
//! tens of megabytes and a few hundred bytes for each message.
//!
//! `VEILMQ_SPILL_MESSAGES` sets the number of messages, for a longer run.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use veilmq_tests::broker::Broker;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Published, Wire, acknowledgement, publish_packet};

const PUBACK: u8 = 0x40;
const PAYLOAD_BYTES: usize = 8_000;
/// How many messages are sent before the first of them has to be acknowledged.
const WINDOW: usize = 100;

fn messages() -> usize {
    let asked = std::env::var("VEILMQ_SPILL_MESSAGES").ok();
    asked.map_or(15_000, |number| number.parse().expect("VEILMQ_SPILL_MESSAGES is a number"))
}

fn payload(number: usize) -> Vec<u8> {
    let mut payload = vec![b'x'; PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

fn publish(broker: &Broker, count: usize) {
    let (mut wire, _) = Wire::connect(broker.address(), "publisher", true);
    for first in (0..count).step_by(WINDOW) {
        let numbers = first..count.min(first + WINDOW);
        let packet = |number| publish_packet("t", 1 + (number % WINDOW) as u16, 1, false, &payload(number));
        let packets: Vec<u8> = numbers.clone().flat_map(packet).collect();
        wire.send(&packets).unwrap();
        for _ in numbers {
            assert_eq!(wire.packet().unwrap().first, PUBACK);
        }
    }
}

fn drain(broker: &Broker, count: usize) {
    let (mut wire, present) = Wire::connect(broker.address(), "subscriber", false);
    assert!(present);
    for number in 0..count {
        let packet = wire.packet().unwrap();
        let published = Published::read(&packet).unwrap();
        assert!(published.payload == payload(number), "{number} is not the next message");
        wire.send(&acknowledgement(PUBACK, published.packet_id)).unwrap();
    }
}

fn resident_bytes(broker: &Broker) -> usize {
    broker.metric("process_resident_memory_bytes").unwrap() as usize
}

#[test]
fn messages_for_an_absent_session_are_on_disk_and_arrive_in_order() {
    let count = messages();
    let mut broker = Broker::start_configured(|address| {
        format!(
            "listeners = [{{ address = \"{address}\" }}]\naccess.anonymous = true\nstorage.cache_bytes = 1_048_576\n\
             [limits]\nsession_queue_messages_max = 10_000_000\nsession_queue_bytes_max = 4_294_967_296\n\
             session_queue_memory_bytes = 65_536\n"
        )
    });
    let (mut wire, _) = Wire::connect(broker.address(), "subscriber", false);
    wire.subscribe("t", 1);
    drop(wire);
    let before = resident_bytes(&broker);

    publish(&broker, count);

    let grown = resident_bytes(&broker).saturating_sub(before);
    let all = count * PAYLOAD_BYTES;
    println!("{count} messages of {all} bytes: {grown} bytes of memory more than {before}");
    assert!(grown < all / 2, "{grown} bytes for {all} bytes of messages");
    assert!(broker.metric("veilmq_queued_bytes").unwrap() >= all as f64);
    // The last of them leave memory within a second of becoming durable.
    wait_until("little stays in memory", || broker.metric("veilmq_queued_memory_bytes").unwrap() <= 65_536.0);

    broker.kill();
    broker.restart();
    assert!(broker.metric("veilmq_queued_messages").unwrap() >= count as f64);
    assert_eq!(broker.metric("veilmq_queued_memory_bytes"), Some(0.0));
    drain(&broker, count);
    let left = || broker.metric("veilmq_queued_messages").unwrap() as usize;
    assert_eq!(left(), 0);
}
