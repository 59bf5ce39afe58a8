//! Links that end for want of messages: when they do, and what becomes of what comes meanwhile.

use veilmq_bridge::{Fault, Link, Side};
use veilmq_protocol::ProtocolVersion;

use crate::wire::{hex, relaying, sample};

/// A link that ends after five seconds without messages, and whose own packets are answered.
fn idle() -> Link {
    let mut settings = sample(ProtocolVersion::V311);
    settings.idle_milliseconds = Some(5_000);
    let mut link = relaying(settings);
    let answers = b"\x40\x02\x00\x01\x90\x03\x00\x02\x01\xb0\x02\x00\x03";
    link.receive(Side::Remote, answers, 0).unwrap();
    link.receive(Side::Local, b"\x90\x04\xff\xff\x00\x01\x90\x04\xff\xfe\x00\x02", 0).unwrap();
    link
}

fn write_all(link: &mut Link) {
    link.output(Side::Local).clear();
    link.output(Side::Remote).clear();
}

#[test]
fn a_link_that_is_to_end_without_messages_does() {
    let mut link = idle();
    link.receive(Side::Local, b"\x30\x0c\x00\x08bridge/x\x00a", 3_000).unwrap();
    link.tick(8_000).unwrap();
    write_all(&mut link);

    assert_eq!(link.deadline(), Some(8_000));
    link.tick(7_999).unwrap();

    assert_eq!(link.tick(8_000), Err(Fault::Idle));
    assert_eq!(link.deadline().filter(|at| *at <= 8_000), None, "it says so once");
}

#[test]
fn a_link_that_awaits_an_acknowledgement_stays_and_leaves_later() {
    let out = |first: u8| hex(&[&[first, 0x0e], b"\x00\x08bridge/x\x00\x07\x00a"]);
    let unmapped = |first: u8| hex(&[&[first, 0x0a], b"\x00\x04rp/x\x00\x07\x00a"]);
    let incoming = |first: u8| hex(&[&[first, 0x0d], b"\x00\x08bridge/x\x00\x07a"]);
    let steps = |steps: &[(Side, &[u8])]| {
        steps.iter().map(|(side, bytes)| (*side, bytes.to_vec())).collect::<Vec<(Side, Vec<u8>)>>()
    };
    let (local, remote) = (Side::Local, Side::Remote);
    for (name, packets) in [
        ("PUBACK there", steps(&[(local, &out(0x32)), (remote, b"\x40\x02\x00\x07")])),
        ("PUBACK here", steps(&[(remote, &incoming(0x32)), (local, b"\x40\x02\x00\x07")])),
        (
            "PUBREC, PUBREL, PUBCOMP",
            steps(&[
                (local, &out(0x34)),
                (remote, b"\x50\x02\x00\x07"),
                (local, b"\x62\x02\x00\x07"),
                (remote, b"\x70\x02\x00\x07"),
            ]),
        ),
        ("PUBREL of what does not cross", steps(&[(local, &unmapped(0x34)), (local, b"\x62\x02\x00\x07")])),
        ("the rest of a packet", steps(&[(remote, b"\xd0"), (remote, b"\x00")])),
    ] {
        let mut link = idle();
        for (number, (side, bytes)) in packets.iter().enumerate() {
            let now = 1 + 9_000 * number as u64;
            assert!(number == 0 || link.tick(now).is_ok(), "{name}: before step {number}");
            link.receive(*side, bytes, now).unwrap();
            write_all(&mut link);
        }

        let ended = link.tick(60_000);
        assert_eq!(ended, Err(Fault::Idle), "{name}");
    }

    let mut link = idle();
    link.receive(local, &out(0x32), 1).unwrap();
    write_all(&mut link);
    link.receive(remote, b"\x40\x02\x00\x07", 9_000).unwrap();
    write_all(&mut link);
    assert_eq!(link.deadline(), Some(14_000), "what waits behind it may come now");
}

#[test]
fn what_this_broker_has_sent_at_qos_0_before_it_hears_of_the_farewell_still_crosses() {
    let mut link = idle();
    link.tick(5_000).unwrap_err();
    assert_eq!(link.output(Side::Local).split(), b"\xe0\x00".as_slice());

    link.receive(Side::Local, b"\x30\x0c\x00\x08bridge/x\x00a", 5_001).unwrap();
    link.receive(Side::Local, b"\x32\x0e\x00\x08bridge/x\x00\x04\x00b", 5_001).unwrap();
    link.close().unwrap();

    assert_eq!(link.output(Side::Remote).split(), b"\x30\x0b\x00\x08bridge/xa\xe0\x00".as_slice());
    assert_eq!(link.output(Side::Local).split(), b"".as_slice(), "what waits for its answer comes again");
}

#[test]
fn nothing_is_written_behind_the_farewell_and_nothing_acknowledged_that_has_not_crossed() {
    let mut link = idle();
    link.tick(5_000).unwrap_err();
    assert_eq!(link.output(Side::Local).split(), b"\xe0\x00".as_slice());

    for (side, bytes) in [
        (Side::Remote, b"\x30\x0b\x00\x08bridge/xa".as_slice()),
        (Side::Remote, b"\x32\x0d\x00\x08bridge/x\x00\x07a"),
        (Side::Remote, b"\x34\x0d\x00\x08bridge/x\x00\x08a"),
        (Side::Remote, b"\x32\x09\x00\x04rp/x\x00\x09a"),
        (Side::Remote, b"\x62\x02\x00\x0a"),
        (Side::Local, b"\x62\x02\x00\x07"),
        (Side::Local, b"\x50\x02\x00\x08"),
    ] {
        link.receive(side, bytes, 5_001).unwrap();
    }
    link.tick(5_002).unwrap();

    assert_eq!(link.output(Side::Local).split(), b"".as_slice());
    assert_eq!(link.output(Side::Remote).split(), b"".as_slice(), "the other broker sends it again");
}
