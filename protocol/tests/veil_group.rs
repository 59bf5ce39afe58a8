//! FAN-G and FAN-GE, the group fan-out of VEIL-1 sections 6.3 and 6.4.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use veil_common::{
    bytes,
    handshake::Setup,
    hex,
    records::{MAX, refuses_every_flip, suite_of, vector_secret},
    seed, text, vectors,
};
use veilmq_protocol::veil::{
    Scheme, Suite,
    channel::{Content, GroupSealer, RecordError, RecordOpener, RecordSealer, Secret32, Side},
    layout::LayoutError,
    record::{ControlOp, RecordType, SharedBody},
};

const SCOPE: &[u8] = b"factory/line-3/#";
const HEADER: &[u8] = b"\x02\x00\x15\x00\x00";
const BODY: SharedBody<'static> =
    SharedBody { stamp: None, topic: b"a/b", properties: &[], payload: b"payload" };
const KINDS: [(Scheme, RecordType); 2] =
    [(Scheme::Four, RecordType::FanGroup), (Scheme::Three, RecordType::FanGroupEncrypted)];

fn group(suite: Suite, outer_tag: bool) -> GroupSealer {
    GroupSealer::new(5, 2, suite, outer_tag, Secret32::new(&seed("gkb")))
}

/// A broker's sealer and the opener of its client.
fn channel(suite: Suite, scheme: Scheme) -> (RecordSealer, RecordOpener) {
    let secret = || vector_secret("/handshake/s_ap");
    (RecordSealer::new(suite, scheme, secret()), RecordOpener::new(Side::Client, suite, scheme, secret()))
}

fn control(sealer: &mut RecordSealer, op: &ControlOp<'_>) -> Vec<u8> {
    let mut record = Vec::new();
    sealer.control(&mut record, op).unwrap();
    record
}

/// One message to one member.
fn fan(group: &mut GroupSealer, kind: RecordType, sealer: &mut RecordSealer) -> Vec<u8> {
    let mut shared = Vec::new();
    let fan = if kind == RecordType::FanGroup {
        let (fan, tag) = group.authenticate(BODY, 7, &mut shared).unwrap();
        shared.extend_from_slice(BODY.payload);
        shared.extend_from_slice(&tag);
        fan
    } else {
        group.encrypt(BODY, 7, &mut shared).unwrap()
    };
    let mut record = Vec::new();
    let outer = sealer.fan_group(&mut record, HEADER, &fan).unwrap();
    record.extend_from_slice(&shared);
    record.extend_from_slice(outer.as_ref().map_or(&[], AsRef::as_ref));
    record
}

fn open(opener: &mut RecordOpener, record: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut buffer = record.to_vec();
    let opened = opener.next(&mut buffer, MAX)?.expect("the record is whole");
    assert_eq!(opened.consumed, record.len());
    match opened.content {
        Content::Fan(delivery) => Ok(delivery.publish(&buffer).unwrap().payload.to_vec()),
        Content::Control(range) => Ok(buffer[range].to_vec()),
        other => panic!("neither fan-out nor control: {other:?}"),
    }
}

#[test]
fn group_grants_are_those_of_the_vectors_and_open_the_fan_outs_of_the_vectors() {
    let vectors = vectors();
    let envelope = bytes(&vectors, "/envelope/cases/chacha20-poly1305/hex");
    for number in ["1", "2", "3"] {
        for (scheme, name) in [(Scheme::Four, "FAN_G"), (Scheme::Three, "FAN_GE")] {
            let suite = suite_of(number);
            let (mut sealer, mut opener) = channel(suite, scheme);
            let group = group(suite, true);

            let grant = control(&mut sealer, &group.grant(3_600_000, SCOPE));
            assert_eq!(hex(&grant), text(&vectors, &format!("/record/group_grant/{number}")));
            open(&mut opener, &grant).unwrap();

            let record = bytes(&vectors, &format!("/record/{name}/{number}"));
            assert_eq!(open(&mut opener, &record), Ok(envelope.clone()), "{name} {number}");
        }
    }
}

#[test]
fn group_tag_is_that_of_the_vectors() {
    let vectors = vectors();
    let body = bytes(&vectors, "/record/gbody_group");
    let body = SharedBody::parse(&body).unwrap();
    let mut group = group(Suite::Aes256Gcm, false);
    let mut head = Vec::new();
    for _ in 0..77 {
        group.authenticate(BODY, 0, &mut head).unwrap();
    }
    head.clear();

    let (_, tag) = group.authenticate(body, 1_790_000_400_000, &mut head).unwrap();

    assert_eq!(hex(&[&head, body.payload].concat()), text(&vectors, "/record/gbody_group"));
    assert_eq!(hex(&tag), text(&vectors, "/record/gtag"));
}

#[test]
fn members_of_different_suites_share_what_the_group_seals_once() {
    for group_suite in Suite::ALL {
        for outer_tag in [false, true] {
            for (scheme, kind) in KINDS {
                for suite in Suite::ALL {
                    let mut group = group(group_suite, outer_tag);
                    let (mut sealer, mut opener) = channel(suite, scheme);
                    let grant = control(&mut sealer, &group.grant(1000, SCOPE));
                    open(&mut opener, &grant).unwrap();
                    for _ in 0..3 {
                        let record = fan(&mut group, kind, &mut sealer);
                        assert_eq!(open(&mut opener, &record), Ok(b"payload".to_vec()));
                    }
                }
            }
        }
    }
}

fn granted(suite: Suite, scheme: Scheme, outer_tag: bool) -> (GroupSealer, RecordSealer, RecordOpener) {
    let (mut sealer, mut opener) = channel(suite, scheme);
    let group = group(suite, outer_tag);
    let grant = control(&mut sealer, &group.grant(1000, SCOPE));
    open(&mut opener, &grant).unwrap();
    (group, sealer, opener)
}

#[test]
fn every_flipped_bit_of_a_group_record_with_outer_tag_is_refused() {
    for suite in Suite::ALL {
        for (scheme, kind) in KINDS {
            let (mut group, mut sealer, _) = granted(suite, scheme, true);
            let good = fan(&mut group, kind, &mut sealer);

            refuses_every_flip(&good, || granted(suite, scheme, true).2);
        }
    }
}

/// What the group tag alone covers: everything but the record header and the per-subscriber header.
#[test]
fn every_flipped_bit_of_the_shared_part_is_refused_without_outer_tag() {
    for suite in Suite::ALL {
        for (scheme, kind) in KINDS {
            let (mut group, mut sealer, _) = granted(suite, scheme, false);
            let good = fan(&mut group, kind, &mut sealer);
            for bit in (5 + 2 + HEADER.len()) * 8..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let mut opener = granted(suite, scheme, false).2;
                assert_eq!(open(&mut opener, &bad), Err(RecordError::Authentication), "{suite:?} bit {bit}");
            }
        }
    }
}

#[test]
fn message_of_the_group_is_taken_once() {
    for (scheme, kind) in KINDS {
        let (mut group, mut sealer, mut opener) = granted(Suite::Aes256Gcm, scheme, false);
        let record = fan(&mut group, kind, &mut sealer);

        assert!(open(&mut opener, &record).is_ok());
        assert_eq!(open(&mut opener, &record), Err(RecordError::Authentication));
    }
}

/// The attack that the outer tag closes: a member knows the group key, not the other's channel key.
#[test]
fn member_can_forge_to_another_only_without_outer_tag() {
    for outer_tag in [false, true] {
        for (scheme, kind) in KINDS {
            let (mut insider, _, mut victim) = granted(Suite::Aes256Gcm, scheme, outer_tag);
            let own = Secret32::new(&seed("the insider's own channel"));
            let mut forger = RecordSealer::new(Suite::Aes256Gcm, scheme, own);

            let forged = fan(&mut insider, kind, &mut forger);

            assert_eq!(open(&mut victim, &forged).is_ok(), !outer_tag, "{scheme:?}");
        }
    }
}

#[test]
fn key_that_was_revoked_or_superseded_twice_opens_nothing() {
    let rows: [(&[(u32, bool)], bool); 4] =
        [(&[], true), (&[(2, false)], false), (&[(3, true)], true), (&[(3, true), (4, true)], false)];
    for (changes, opens) in rows {
        let (mut group, mut sealer, mut opener) = granted(Suite::Aes256Gcm, Scheme::Four, true);
        for &(epoch, granted) in changes {
            let later = GroupSealer::new(5, epoch, Suite::Aes256Gcm, true, Secret32::new(&[9; 32]));
            let grant = later.grant(1000, SCOPE);
            let op = if granted { grant } else { ControlOp::GroupRevoke { gid: 5, epoch } };
            let record = control(&mut sealer, &op);
            open(&mut opener, &record).unwrap();
        }

        let record = fan(&mut group, RecordType::FanGroup, &mut sealer);

        assert_eq!(open(&mut opener, &record).is_ok(), opens, "{changes:?}");
    }
}

#[test]
fn number_of_group_keys_is_bounded() {
    let (mut sealer, mut opener) = channel(Suite::ChaCha20Poly1305, Scheme::Four);
    let mut outcome = Ok(Vec::new());
    for gid in 0..1025 {
        assert!(outcome.is_ok(), "group {gid}");
        let group = GroupSealer::new(gid, 1, Suite::ChaCha20Poly1305, true, Secret32::new(&[9; 32]));
        let record = control(&mut sealer, &group.grant(1000, SCOPE));
        outcome = open(&mut opener, &record);
    }

    assert_eq!(outcome, Err(RecordError::Contents(LayoutError::Value("group grant"))));
}

#[test]
fn group_key_may_come_with_connack() {
    let mut group = group(Suite::Aes256Gcm, true);
    let mut content = Vec::new();
    group.grant(1000, SCOPE).encode_content(&mut content).unwrap();
    let mut setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    setup.params.group_grants = vec![content];

    let (mut client, mut broker) = setup.run(|_, _| {}).unwrap();
    let record = fan(&mut group, RecordType::FanGroup, &mut broker.sealer);

    assert_eq!(open(&mut client.opener, &record), Ok(b"payload".to_vec()));
    assert!(client.params.group_grants.is_empty(), "the key is in the opener only");
    setup.params.group_grants = vec![vec![1, 2, 3]];
    assert!(setup.run(|_, _| {}).is_err());
}

#[test]
fn group_keys_outlive_a_re_authentication_and_those_that_come_with_it_join_them() {
    let (mut sealer, mut opener) = channel(Suite::Aes256Gcm, Scheme::Four);
    let mut old = group(Suite::Aes256Gcm, true);
    open(&mut opener, &control(&mut sealer, &old.grant(1000, SCOPE))).unwrap();
    let secret = || Secret32::new(&seed("ap of the re-authentication"));
    let mut next_sealer = RecordSealer::new(Suite::Aes256Gcm, Scheme::Four, secret());
    let mut next_opener = RecordOpener::new(Side::Client, Suite::Aes256Gcm, Scheme::Four, secret());
    let mut new = GroupSealer::new(6, 1, Suite::Aes256Gcm, true, Secret32::new(&[6; 32]));
    open(&mut next_opener, &control(&mut next_sealer, &new.grant(1000, SCOPE))).unwrap();

    sealer.switch_to(next_sealer);
    opener.switch_to(next_opener).unwrap();

    for group in [&mut old, &mut new] {
        let record = fan(group, RecordType::FanGroup, &mut sealer);
        assert_eq!(open(&mut opener, &record), Ok(b"payload".to_vec()));
    }
}
