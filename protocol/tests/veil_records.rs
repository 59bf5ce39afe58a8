//! The record layer of VEIL-1 sections 4.8, 5.2 and 5.4.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use proptest::prelude::*;
use veil_common::{
    bytes, hex,
    records::{MAX, packets, pair, refuses_every_flip, seal, secret, suite_of, vector_secret},
    text, vectors,
};
use veilmq_protocol::veil::{
    Scheme, Suite,
    channel::{Content, RecordError, RecordOpener, RecordSealer, Side},
    layout::LayoutError,
    record::{ControlOp, RecordHeader},
};

#[test]
fn records_are_those_of_the_vectors_byte_for_byte() {
    let vectors = vectors();
    let publish = bytes(&vectors, "/record/publish");
    for number in ["1", "2", "3"] {
        let suite = suite_of(number);
        let mut sealer = RecordSealer::new(suite, Scheme::Four, vector_secret("/handshake/c_ap"));
        let mut opener =
            RecordOpener::new(Side::Broker, suite, Scheme::Four, vector_secret("/handshake/c_ap"));

        let record = seal(&mut sealer, &publish);

        assert_eq!(hex(&record), text(&vectors, &format!("/record/I/{number}")), "suite {number}");
        assert_eq!(packets(&mut opener, &record), Ok(publish.clone()));
    }
    for number in ["1", "2", "3"] {
        let suite = suite_of(number);
        let mut sealer = RecordSealer::new(suite, Scheme::Two, vector_secret("/handshake/c_ap"));
        let mut opener =
            RecordOpener::new(Side::Broker, suite, Scheme::Two, vector_secret("/handshake/c_ap"));
        let first = seal(&mut sealer, b"\xc0\x00");

        let record = seal(&mut sealer, &publish);

        assert_eq!(hex(&record), text(&vectors, &format!("/record/EI/{number}")), "suite {number}");
        assert_eq!(packets(&mut opener, &first), Ok(b"\xc0\x00".to_vec()));
        assert_eq!(packets(&mut opener, &record), Ok(publish.clone()));
    }
}

#[test]
fn key_updates_are_those_of_the_vectors_byte_for_byte() {
    let vectors = vectors();
    let publish = bytes(&vectors, "/record/publish");
    for number in ["1", "2", "3"] {
        let suite = suite_of(number);
        let mut sealer = RecordSealer::new(suite, Scheme::Two, vector_secret("/handshake/c_ap"));

        let mut update = Vec::new();
        sealer.key_update(&mut update);
        let next = seal(&mut sealer, &publish);

        assert_eq!(hex(&update), text(&vectors, &format!("/record/key_update/{number}/control")));
        assert_eq!(hex(&next), text(&vectors, &format!("/record/key_update/{number}/next")));
    }
}

#[test]
fn several_packets_share_a_record_and_several_records_a_buffer() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Three, Scheme::Four] {
            let (mut sealer, mut opener) = pair(suite, scheme, Side::Broker);
            let mut wire = Vec::new();
            for round in 0..40_u8 {
                let open = sealer.begin(&mut wire);
                for packet in 0..=round {
                    wire.extend_from_slice(&[0xc0, packet]);
                }
                sealer.finish(&mut wire, open);
            }

            let mut rest = wire.as_mut_slice();
            for round in 0..40_usize {
                let opened = opener.next(rest, MAX).unwrap().unwrap();
                let Content::Packets(range) = opened.content else { panic!("not packets") };
                assert_eq!(rest[range].len(), 2 * (round + 1), "{suite:?} {scheme:?}");
                rest = &mut rest[opened.consumed..];
            }
            assert!(rest.is_empty());
            assert_eq!(opener.next(rest, MAX), Ok(None));
        }
    }
}

#[test]
fn record_adds_no_more_than_promised_and_an_empty_one_is_taken_back() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            let (mut sealer, mut opener) = pair(suite, scheme, Side::Broker);
            assert!(seal(&mut sealer, &[]).is_empty());
            for len in 1..40 {
                let record = seal(&mut sealer, &vec![7; len]);

                assert!(record.len() <= len + sealer.overhead_max(), "{suite:?} {scheme:?} {len}");
                assert_eq!(packets(&mut opener, &record), Ok(vec![7; len]));
            }
        }
    }
}

#[test]
fn scheme_two_hides_what_scheme_four_shows() {
    for suite in Suite::ALL {
        let (mut hiding, _) = pair(suite, Scheme::Two, Side::Broker);
        let (mut showing, _) = pair(suite, Scheme::Four, Side::Broker);
        let secret = b"0123456789abcdef0123456789abcdef";
        let shows = |record: &[u8]| record.windows(16).any(|window| window == &secret[..16]);

        assert!(!shows(&seal(&mut hiding, secret)), "{suite:?}");
        assert!(shows(&seal(&mut showing, secret)), "{suite:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_record_is_refused() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            let (mut sealer, _) = pair(suite, scheme, Side::Broker);
            let good = seal(&mut sealer, b"\x32\x05\x00\x01a\x00\x01");
            refuses_every_flip(&good, || pair(suite, scheme, Side::Broker).1);
        }
        let mut good = Vec::new();
        sealer_at_start(suite).key_update(&mut good);
        refuses_every_flip(&good, || pair(suite, Scheme::Four, Side::Client).1);
    }
}

fn sealer_at_start(suite: Suite) -> RecordSealer {
    pair(suite, Scheme::Four, Side::Client).0
}

#[test]
fn replayed_reordered_and_dropped_records_are_refused() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            let (mut sealer, _) = pair(suite, scheme, Side::Broker);
            let records = [b"\xc0\x01", b"\xc0\x02", b"\xc0\x03"].map(|packet| seal(&mut sealer, packet));
            for order in [&[0, 0][..], &[1], &[0, 2], &[0, 1, 0], &[0, 1, 1]] {
                let mut opener = pair(suite, scheme, Side::Broker).1;
                let (last, before) = order.split_last().unwrap();
                for &index in before {
                    packets(&mut opener, &records[index]).unwrap();
                }

                let refused = packets(&mut opener, &records[*last]);

                assert_eq!(refused, Err(RecordError::Authentication), "{suite:?} {scheme:?} {order:?}");
            }
        }
    }
}

#[test]
fn record_of_the_other_direction_session_or_suite_is_refused() {
    let (mut sealer, _) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
    let record = seal(&mut sealer, b"\xc0\x00");
    let mut other_key = RecordOpener::new(Side::Broker, Suite::Aes256Gcm, Scheme::Four, secret("other"));
    let mut other_suite =
        RecordOpener::new(Side::Broker, Suite::ChaCha20Poly1305, Scheme::Four, secret("ap"));

    assert_eq!(packets(&mut other_key, &record), Err(RecordError::Authentication));
    assert_eq!(packets(&mut other_suite, &record), Err(RecordError::Authentication));
}

#[test]
fn incomplete_records_wait_and_a_length_out_of_range_does_not() {
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
    let record = seal(&mut sealer, b"\xc0\x00");
    for arrived in 0..record.len() {
        assert_eq!(opener.next(&mut record[..arrived].to_vec(), MAX), Ok(None), "{arrived} bytes");
    }
    assert_eq!(packets(&mut opener, &record), Ok(b"\xc0\x00".to_vec()));

    for (len, max) in [(0, MAX), (16, MAX), (u32::MAX, MAX), (101, 100)] {
        let (_, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
        let mut header = [&[1_u8][..], &len.to_be_bytes()].concat();
        assert_eq!(opener.next(&mut header, max), Err(RecordError::Length(len)), "{len}");
    }
}

#[test]
fn record_types_belong_to_scheme_and_direction() {
    use RecordError::{TypeNotAllowed, UnknownType};
    let probe = |record_type: u8, side, scheme| {
        let mut opener = RecordOpener::new(side, Suite::Aes256Gcm, scheme, secret("ap"));
        opener.next(&mut [&[record_type][..], &40_u32.to_be_bytes()].concat(), MAX)
    };
    for side in [Side::Client, Side::Broker] {
        for (scheme, allowed) in [
            (Scheme::One, &[][..]),
            (Scheme::Two, &[2, 6]),
            (Scheme::Three, if side == Side::Client { &[2, 5, 6][..] } else { &[2, 6] }),
            (Scheme::Four, if side == Side::Client { &[1, 3, 4, 6][..] } else { &[1, 6] }),
        ] {
            for record_type in 1..=6 {
                let expected = if allowed.contains(&record_type) { Ok(None) } else { Err(TypeNotAllowed) };
                assert_eq!(probe(record_type, side, scheme), expected, "{side:?} {scheme:?} {record_type}");
            }
        }
    }
    assert!(matches!(probe(0, Side::Client, Scheme::Four), Err(UnknownType(_))));
    assert!(matches!(probe(7, Side::Client, Scheme::Four), Err(UnknownType(_))));
}

/// Plain MQTT after a framed CONNACK: no packet type is a record type.
#[test]
fn plain_mqtt_fails_as_a_record() {
    for packet in [&b"\x30\x05\x00\x01abc"[..], b"\xc0\x00\xc0\x00\xc0\x00", b"\xe0\x00\xe0\x00\xe0"] {
        let (_, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
        assert!(opener.next(&mut packet.to_vec(), MAX).is_err(), "{packet:02x?}");
    }
}

#[test]
fn key_update_changes_phase_and_keys_and_restarts_record_numbers() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            for side in [Side::Broker, Side::Client] {
                let (mut sealer, mut opener) = pair(suite, scheme, side);
                for round in 0..3_u8 {
                    let before = seal(&mut sealer, &[0xc0, round]);
                    let mut update = Vec::new();
                    sealer.key_update(&mut update);
                    let after = seal(&mut sealer, &[0xc0, round]);

                    assert_eq!(before[0] & 0x80, if round % 2 == 0 { 0 } else { 0x80 });
                    assert_eq!(before[0] ^ after[0], 0x80, "the phase bit flips");
                    assert_ne!(before[5..], after[5..]);
                    assert_eq!(packets(&mut opener, &before), Ok(vec![0xc0, round]));
                    let opened = opener.next(&mut update, MAX).unwrap().unwrap();
                    assert_eq!(opened.content, Content::KeyUpdated);
                    assert_eq!(packets(&mut opener, &after), Ok(vec![0xc0, round]));
                }
            }
        }
    }
}

#[test]
fn record_of_the_wrong_phase_is_refused() {
    let early = {
        let (mut sealer, _) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
        sealer.key_update(&mut Vec::new());
        seal(&mut sealer, b"\xc0\x00")
    };
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
    assert_eq!(packets(&mut opener, &early), Err(RecordError::Phase));

    let old = seal(&mut sealer, b"\xc0\x00");
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
    let mut update = Vec::new();
    sealer.key_update(&mut update);
    opener.next(&mut update, MAX).unwrap();
    assert_eq!(packets(&mut opener, &old), Err(RecordError::Phase));
}

#[test]
fn control_operations_survive_the_channel_in_every_suite() {
    let ops = [
        ControlOp::GroupGrant {
            gid: 5,
            epoch: 2,
            key: &[7; 32],
            valid_ms: 1000,
            suite: Suite::Aes256Gcm,
            outer_tag: true,
            scope: b"factory/#",
        },
        ControlOp::GroupRevoke { gid: 5, epoch: 2 },
        ControlOp::Ticket(b"ticket"),
        ControlOp::Notice("epoch too old on factory/#"),
        ControlOp::Goodbye { reason: 0x8b, retry_after_ms: 5000 },
    ];
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Three, Scheme::Four] {
            let (mut sealer, mut opener) = pair(suite, scheme, Side::Client);
            for op in &ops {
                let mut wire = Vec::new();
                sealer.control(&mut wire, op).unwrap();
                let opened = opener.next(&mut wire, MAX).unwrap().unwrap();
                let Content::Control(range) = opened.content else { panic!("not control") };
                assert!(ControlOp::parse(&wire[range]) == Ok(*op), "{suite:?}");
            }
        }
    }
}

#[test]
fn broker_takes_no_operation_but_key_update() {
    let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Scheme::Four, Side::Broker);
    let mut wire = Vec::new();
    sealer.control(&mut wire, &ControlOp::GroupRevoke { gid: 5, epoch: 2 }).unwrap();

    let refused = opener.next(&mut wire, MAX);

    assert_eq!(refused, Err(RecordError::Contents(LayoutError::Value("operation"))));
}

#[test]
fn malformed_control_operations_are_refused() {
    let rows: [(&[u8], LayoutError); 6] = [
        (b"", LayoutError::Truncated("operation")),
        (b"\x01\x00\x01x", LayoutError::Trailing(1)),
        (b"\x01\x00\x00x", LayoutError::Trailing(1)),
        (b"\x07\x00\x00", LayoutError::Value("operation")),
        (b"\x05\x00\x01\xff", LayoutError::Value("notice")),
        (b"\x03\x00\x04abcd", LayoutError::Truncated("epoch")),
    ];
    for (bytes, error) in rows {
        assert!(ControlOp::parse(bytes) == Err(error), "{bytes:02x?}");
    }
    let long = vec![0; 65_536];
    let mut out = vec![1];
    assert_eq!(ControlOp::Ticket(&long).encode(&mut out), Err(LayoutError::TooLong("operation")));
    assert_eq!(out, [1]);
}

proptest! {
    #[test]
    fn opening_arbitrary_bytes_does_not_panic_and_never_succeeds(
        suite in 0..3_usize, scheme in 2..5_u8, record_type in 0..8_u8,
        len in 0..300_u32, body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let scheme = Scheme::try_from(scheme).unwrap();
        let (_, mut opener) = pair(Suite::ALL[suite], scheme, Side::Client);
        let mut bytes = [&[record_type][..], &len.to_be_bytes(), &body].concat();
        prop_assert!(!matches!(opener.next(&mut bytes, 200), Ok(Some(_))));
    }

    #[test]
    fn parsing_arbitrary_record_parts_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RecordHeader::read(&bytes);
        let _ = ControlOp::parse(&bytes);
    }
}
