//! What was received is not received again, over sessions, restarts and crashes (VEIL-1 section 12.2).

mod e2e_support;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use e2e_support::{JSON, NOW, SCOPE, TOPIC, counter, keyring, member, plain, topic, unsigned};
use proptest::prelude::*;
use veilmq_client::e2e::{
    E2e, EnvelopeOptions, Limits, OpenError, Opened, Provenance, ReplayLimits, ReplayWindow, Saved, Scope,
    ScopeConfig, StateError,
};
use veilmq_protocol::veil::{Suite, channel::hash};

const GRACE: u64 = 60_000;

fn publisher() -> E2e {
    member(unsigned(2), EnvelopeOptions::default())
}

fn reader() -> E2e {
    member(unsigned(1), EnvelopeOptions::default())
}

/// A reader that tells the last `messages` of a stream apart.
fn wide_reader(messages: u16) -> E2e {
    let window = ReplayWindow::new(messages).expect("a width that there is");
    let replay = ReplayLimits { window, ..ReplayLimits::default() };
    let mut e2e = E2e::new(unsigned(1), Limits { replay, ..Limits::default() });
    let scope = Scope::new(SCOPE).expect("a filter");
    let config = ScopeConfig::envelope(scope, keyring(), EnvelopeOptions::default());
    e2e.add_scope(config).expect("the only scope");
    e2e
}

fn seal(sender: &mut E2e, now: u64) -> Vec<u8> {
    sender.seal(topic(TOPIC), JSON, &plain(), now, &mut counter()).expect("the scope has a key")
}

fn will(sender: &mut E2e, now: u64) -> Vec<u8> {
    sender.seal_will(topic(TOPIC), JSON, &plain(), now, &mut counter()).expect("the scope has a key")
}

fn live(reader: &mut E2e, payload: &[u8], now: u64) -> Result<(), OpenError> {
    reader.open(topic(TOPIC), payload, false, &plain(), now).map(|_: Opened| ())
}

fn retained(reader: &mut E2e, payload: &[u8], now: u64) -> Result<(), OpenError> {
    reader.open(topic(TOPIC), payload, true, &plain(), now).map(|_: Opened| ())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The model: a set of what was delivered, and the highest number. As many numbers as the window is wide can be told apart.
    #[test]
    fn window_behaves_like_a_set_of_the_last_numbers(
        width in prop::sample::select(vec![128_u16, 192, 1_024]),
        steps in prop::collection::vec((0_usize..1_300, 0_usize..40), 1..200),
    ) {
        let mut publisher = publisher();
        let payloads: Vec<Vec<u8>> = (0..1_340).map(|_| seal(&mut publisher, NOW)).collect();
        let mut reader = wide_reader(width);
        let width = usize::from(width);
        let mut delivered = BTreeSet::new();
        for (base, offset) in steps {
            let seq = base + offset;
            let highest = delivered.last().copied();
            let expected = match highest {
                Some(highest) if seq + width <= highest || delivered.contains(&seq) => Err(OpenError::Replay),
                Some(highest) if seq > highest => Ok(seq - highest - 1),
                _ => Ok(0),
            };

            let opened = reader.open(topic(TOPIC), &payloads[seq], false, &plain(), NOW);

            let gap = opened.map(|opened| opened.origin().map_or(usize::MAX, |origin| origin.gap as usize));
            prop_assert_eq!(gap, expected, "seq {} after {:?}", seq, highest);
            if expected.is_ok() {
                delivered.insert(seq);
            }
        }
    }

    /// Whatever the order of messages, sessions, saves and restarts: a live message is delivered once.
    #[test]
    fn no_live_message_is_delivered_twice(
        steps in prop::collection::vec((0_usize..6, 0_usize..8, 0_u64..40_000, 0_u8..10), 1..120),
    ) {
        let payloads: Vec<Vec<Vec<u8>>> = (0..6)
            .map(|session| {
                let mut publisher = publisher();
                (0..8).map(|_| seal(&mut publisher, NOW + session)).collect()
            })
            .collect();
        let mut reader = reader();
        let mut now = NOW + 10;
        let mut delivered = HashSet::new();
        for (session, seq, wait, restart) in steps {
            now += wait;
            if restart == 0 {
                let state = reader.export_state(Saved::AtShutdown);
                reader = self::reader();
                reader.import_state(&state, now, false).unwrap();
            }
            if live(&mut reader, &payloads[session][seq], now).is_ok() {
                prop_assert!(delivered.insert((session, seq)), "session {} seq {} came twice", session, seq);
            }
        }
    }

    #[test]
    fn what_is_sealed_opens_whatever_the_plaintext_topic_and_suite(
        plaintext in prop::collection::vec(any::<u8>(), 0..600),
        level in "[a-z0-9 ü/]{0,20}",
        suite in prop::sample::select(Suite::ALL.to_vec()),
        timestamp in any::<bool>(),
        padding in prop::option::of(1_u32..100),
    ) {
        let padding = padding.and_then(std::num::NonZeroU32::new);
        let options = EnvelopeOptions {
            suite,
            timestamp,
            padding: padding.map_or_else(Default::default, veilmq_client::e2e::Padding::Multiple),
            ..EnvelopeOptions::default()
        };
        let name = format!("factory/line-3/{level}");
        let mut sender = member(unsigned(2), options);

        let payload = sender.seal(topic(&name), &plaintext, &plain(), NOW, &mut counter()).unwrap();
        let opened = reader().open(topic(&name), &payload, false, &plain(), NOW).unwrap();

        prop_assert_eq!(opened.plaintext, plaintext);
    }

    #[test]
    fn no_bytes_make_opening_panic_or_yield_a_message(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = b"VE\x10\x02\x00\x95\x05\x37\xd6\0\0\0\x07".to_vec();
        framed.extend_from_slice(&payload);
        let mut reader = reader();

        // An empty payload is no message: it opens as the tombstone of a retained one, and proves nothing.
        match reader.open(topic(TOPIC), &payload, false, &plain(), NOW) {
            Ok(opened) => prop_assert!(payload.is_empty() && opened.provenance == Provenance::Tombstone),
            Err(_) => prop_assert!(!payload.is_empty()),
        }
        prop_assert!(live(&mut reader, &framed, NOW).is_err());
    }

    #[test]
    fn no_bytes_make_importing_panic_or_succeed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = b"VE2E\x01\x01".to_vec();
        framed.extend_from_slice(&bytes);

        prop_assert!(reader().import_state(&bytes, NOW, false).is_err());
        prop_assert!(reader().import_state(&framed, NOW, false).is_err());
    }
}

#[test]
fn a_retransmission_is_the_same_envelope_and_is_recognised() {
    let mut reader = reader();
    let payload = seal(&mut publisher(), NOW);

    assert_eq!(live(&mut reader, &payload, NOW), Ok(()));
    assert_eq!(live(&mut reader, &payload, NOW), Err(OpenError::Replay));
}

#[test]
fn a_forged_message_does_not_use_up_the_number_of_the_genuine_one() {
    let mut reader = reader();
    let genuine = seal(&mut publisher(), NOW);
    let mut forged = genuine.clone();
    forged[40] ^= 1;

    assert_eq!(live(&mut reader, &forged, NOW), Err(OpenError::BadTag));
    assert_eq!(live(&mut reader, &genuine, NOW), Ok(()));
}

#[test]
fn an_older_session_is_accepted_until_the_grace_time_after_the_newer_one_is_over() {
    let mut old = publisher();
    let old: Vec<Vec<u8>> = (0..4).map(|_| seal(&mut old, NOW)).collect();
    let new = seal(&mut publisher(), NOW + 1);
    let mut reader = reader();

    assert_eq!(live(&mut reader, &old[0], NOW), Ok(()));
    assert_eq!(live(&mut reader, &new, NOW + 1), Ok(()));
    assert_eq!(live(&mut reader, &old[1], NOW + 1 + GRACE), Ok(()));
    assert_eq!(live(&mut reader, &old[2], NOW + 2 + GRACE), Err(OpenError::SessionRollback));
    assert_eq!(retained(&mut reader, &old[3], NOW + 2 + GRACE), Ok(()));
}

#[test]
fn an_unknown_older_session_is_accepted_within_the_grace_time_only() {
    let old = seal(&mut publisher(), NOW);
    let new = seal(&mut publisher(), NOW + 1);
    for (wait, expected) in [(GRACE, Ok(())), (GRACE + 1, Err(OpenError::SessionRollback))] {
        let mut reader = reader();
        live(&mut reader, &new, NOW).unwrap();
        assert_eq!(live(&mut reader, &old, NOW + wait), expected);
    }
}

#[test]
fn a_session_that_was_forgotten_for_lack_of_space_does_not_come_back() {
    let mut oldest = publisher();
    let (first, second) = (seal(&mut oldest, NOW), seal(&mut oldest, NOW));
    let mut reader = reader();
    live(&mut reader, &first, NOW).unwrap();
    for session in 1..5 {
        live(&mut reader, &seal(&mut publisher(), NOW + session), NOW).unwrap();
    }

    assert_eq!(live(&mut reader, &first, NOW), Err(OpenError::SessionRollback));
    assert_eq!(live(&mut reader, &second, NOW), Err(OpenError::SessionRollback));
}

#[test]
fn an_unknown_session_older_than_the_four_that_are_remembered_is_refused_at_once() {
    let oldest = seal(&mut publisher(), NOW);
    let mut reader = reader();
    for session in 1..5 {
        live(&mut reader, &seal(&mut publisher(), NOW + session), NOW).unwrap();
    }

    assert_eq!(live(&mut reader, &oldest, NOW), Err(OpenError::SessionRollback));
}

#[test]
fn the_grace_time_starts_with_the_first_of_the_newer_sessions() {
    let mut old = publisher();
    let (first, second) = (seal(&mut old, NOW), seal(&mut old, NOW));
    let mut reader = reader();
    live(&mut reader, &first, NOW).unwrap();
    live(&mut reader, &seal(&mut publisher(), NOW + 1), NOW).unwrap();
    live(&mut reader, &seal(&mut publisher(), NOW + 2), NOW + GRACE).unwrap();

    assert_eq!(live(&mut reader, &second, NOW + GRACE + 1), Err(OpenError::SessionRollback));
}

#[test]
fn a_retained_message_of_an_earlier_session_does_not_take_the_place_of_a_later_one() {
    let mut newest = publisher();
    let retained_old: Vec<Vec<u8>> = (0..5).map(|session| seal(&mut publisher(), NOW + session)).collect();
    let (first, second) = (seal(&mut newest, NOW + 9), seal(&mut newest, NOW + 9));
    let mut reader = reader();
    live(&mut reader, &first, NOW).unwrap();
    for payload in &retained_old {
        retained(&mut reader, payload, NOW).unwrap();
    }

    assert_eq!(live(&mut reader, &first, NOW + 10 * GRACE), Err(OpenError::Replay));
    assert_eq!(live(&mut reader, &second, NOW + 10 * GRACE), Ok(()));
}

#[test]
fn a_will_opens_once_however_late_and_does_not_disturb_the_sessions() {
    let mut publisher = publisher();
    let will = will(&mut publisher, NOW);
    let before = seal(&mut publisher, NOW + 5);
    let after = seal(&mut publisher, NOW + 6);
    let mut reader = reader();
    live(&mut reader, &before, NOW).unwrap();

    assert_eq!(live(&mut reader, &will, NOW + 100 * GRACE), Ok(()));
    assert_eq!(live(&mut reader, &will, NOW + 100 * GRACE), Err(OpenError::Replay));
    assert_eq!(live(&mut reader, &after, NOW + 100 * GRACE), Ok(()));
}

#[test]
fn a_will_says_so() {
    let payload = will(&mut publisher(), NOW);

    let opened = reader().open(topic(TOPIC), &payload, false, &plain(), NOW).unwrap();

    let origin = opened.origin().unwrap();
    assert!(origin.will);
    assert_eq!(origin.session & 0x8000, 0x8000);
}

#[test]
fn the_newest_retained_message_may_come_any_number_of_times_and_an_older_one_never() {
    let mut publisher = publisher();
    let (older, newer) = (seal(&mut publisher, NOW), seal(&mut publisher, NOW));
    let mut reader = reader();

    assert_eq!(retained(&mut reader, &older, NOW), Ok(()));
    assert_eq!(retained(&mut reader, &older, NOW), Ok(()));
    assert_eq!(retained(&mut reader, &newer, NOW), Ok(()));
    assert_eq!(retained(&mut reader, &older, NOW), Err(OpenError::RetainedRollback));
    assert_eq!(retained(&mut reader, &newer, NOW), Ok(()));
}

#[test]
fn retained_messages_have_no_gaps_between_them() {
    let mut publisher = publisher();
    let payloads: Vec<Vec<u8>> = (0..6).map(|_| seal(&mut publisher, NOW)).collect();
    let mut reader = reader();
    let mut gap = |seq: usize, retained| {
        let opened = reader.open(topic(TOPIC), &payloads[seq], retained, &plain(), NOW).unwrap();
        opened.origin().unwrap().gap
    };

    assert_eq!([gap(0, true), gap(3, true), gap(5, false)], [0, 0, 1]);
}

#[test]
fn a_retained_message_of_an_earlier_session_is_a_rollback() {
    let older = seal(&mut publisher(), NOW);
    let newer = seal(&mut publisher(), NOW + 1);
    let mut reader = reader();
    retained(&mut reader, &newer, NOW).unwrap();

    assert_eq!(retained(&mut reader, &older, NOW), Err(OpenError::RetainedRollback));
}

#[test]
fn the_live_copy_of_a_retained_message_is_a_replay_but_not_the_other_way_round() {
    let mut publisher = publisher();
    let (first, second) = (seal(&mut publisher, NOW), seal(&mut publisher, NOW));
    let mut reader = reader();

    assert_eq!(retained(&mut reader, &first, NOW), Ok(()));
    assert_eq!(live(&mut reader, &first, NOW), Err(OpenError::Replay));
    assert_eq!(live(&mut reader, &second, NOW), Ok(()));
    assert_eq!(retained(&mut reader, &second, NOW), Ok(()));
}

#[test]
fn a_retained_will_does_not_make_the_retained_messages_before_it_a_rollback() {
    let mut publisher = publisher();
    let online = seal(&mut publisher, NOW);
    let offline = will(&mut publisher, NOW + 10);
    let mut reader = reader();

    assert_eq!(retained(&mut reader, &offline, NOW), Ok(()));
    assert_eq!(retained(&mut reader, &online, NOW), Ok(()));
}

/// Reads session and sequence number where the envelope layout has them.
fn position(payload: &[u8]) -> (u64, u32) {
    let session = payload[21..29].try_into().map(u64::from_be_bytes).expect("eight bytes");
    (session, payload[29..33].try_into().map(u32::from_be_bytes).expect("four bytes"))
}

#[test]
fn no_key_and_nonce_is_used_twice_over_restarts_with_any_clock_that_keeps_its_state() {
    let mut used: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    let mut state = publisher().export_state(Saved::InPassing);
    // Clocks of a device without a battery: stuck, set back, running.
    for (run, now) in [NOW, NOW, NOW - 86_400_000, 0, 0, NOW + 1].into_iter().enumerate() {
        let mut publisher = publisher();
        publisher.import_state(&state, now, false).unwrap();
        // The same random bits every time: a device whose generator has failed.
        let mut broken = |bytes: &mut [u8]| bytes.fill(7);
        for message in 0..20 {
            let sealed = match message % 5 {
                4 => publisher.seal_will(topic(TOPIC), JSON, &plain(), now, &mut broken),
                _ => publisher.seal(topic(TOPIC), JSON, &plain(), now, &mut broken),
            };
            let repeated = used.insert(position(&sealed.unwrap()), run);
            assert_eq!(repeated, None, "message {message} of run {run}");
        }
        state = publisher.export_state(Saved::InPassing);
    }
}

#[test]
fn copies_of_one_state_go_on_in_sessions_of_their_own_without_any_clock() {
    let state = publisher().export_state(Saved::InPassing);
    let mut count = 0_u64;
    let sessions: BTreeSet<u64> = (0..1_000)
        .map(|_| {
            let mut copy = publisher();
            copy.import_state(&state, 0, false).unwrap();
            let mut random = |bytes: &mut [u8]| {
                count += 1;
                let drawn = hash(&[b"copies", &count.to_be_bytes()]);
                bytes.copy_from_slice(&drawn[..bytes.len()]);
            };
            position(&copy.seal(topic(TOPIC), JSON, &plain(), 0, &mut random).unwrap()).0
        })
        .collect();

    // With the 15 random bits of a session alone, about fifteen of a thousand would have met another.
    assert_eq!(sessions.len(), 1_000);
}

#[test]
fn the_same_plaintext_never_gives_the_same_ciphertext() {
    let mut publisher = publisher();
    let bodies: HashSet<Vec<u8>> = (0..200)
        .map(|message| {
            let name = format!("factory/line-3/{}", message % 10);
            let sealed = publisher.seal(topic(&name), JSON, &plain(), NOW, &mut |bytes| bytes.fill(0));
            sealed.expect("the scope has a key")[33..].to_vec()
        })
        .collect();

    assert_eq!(bodies.len(), 200);
}

#[test]
fn state_saved_at_shutdown_is_the_state_after_the_restart() {
    let mut publisher = publisher();
    let payloads: Vec<Vec<u8>> = (0..6).map(|_| seal(&mut publisher, NOW)).collect();
    let will = will(&mut publisher, NOW);
    let mut before = reader();
    live(&mut before, &payloads[0], NOW).unwrap();
    live(&mut before, &payloads[4], NOW).unwrap();
    live(&mut before, &will, NOW).unwrap();
    retained(&mut before, &payloads[3], NOW).unwrap();

    let state = before.export_state(Saved::AtShutdown);
    let mut after = reader();
    after.import_state(&state, NOW, false).unwrap();

    assert_eq!(after.export_state(Saved::AtShutdown), state);
    let rows = [(0, false), (1, true), (2, true), (3, false), (4, false), (5, true)];
    for (seq, is_new) in rows {
        assert_eq!(live(&mut after, &payloads[seq], NOW).is_ok(), is_new, "seq {seq}");
    }
    assert_eq!(live(&mut after, &will, NOW), Err(OpenError::Replay));
    assert_eq!(retained(&mut after, &payloads[2], NOW), Err(OpenError::RetainedRollback));
}

#[test]
fn after_a_crash_only_what_is_certainly_new_is_accepted() {
    let mut publisher = publisher();
    let payloads: Vec<Vec<u8>> = (0..6).map(|_| seal(&mut publisher, NOW)).collect();
    let stranger = seal(&mut member(unsigned(3), EnvelopeOptions::default()), NOW);
    let newcomer = seal(&mut member(unsigned(3), EnvelopeOptions::default()), NOW + 11);
    let mut before = reader();
    live(&mut before, &payloads[0], NOW).unwrap();
    live(&mut before, &payloads[3], NOW).unwrap();
    let state = before.export_state(Saved::InPassing);

    let mut after = reader();
    after.import_state(&state, NOW + 10, false).unwrap();
    let mut trusting = reader();
    trusting.import_state(&state, NOW + 10, true).unwrap();

    assert_eq!(live(&mut after, &payloads[1], NOW + 10), Err(OpenError::Replay));
    assert_eq!(live(&mut after, &payloads[4], NOW + 10), Ok(()));
    assert_eq!(live(&mut after, &stranger, NOW + 10), Err(OpenError::SessionRollback));
    assert_eq!(retained(&mut after, &stranger, NOW + 10), Ok(()));
    assert_eq!(live(&mut after, &newcomer, NOW + 11), Ok(()));
    assert_eq!(live(&mut trusting, &payloads[1], NOW + 10), Ok(()));
    assert_eq!(live(&mut trusting, &stranger, NOW + 10), Ok(()));
}

#[test]
fn a_damaged_or_foreign_state_is_refused_and_changes_nothing() {
    let mut before = reader();
    let payload = seal(&mut publisher(), NOW);
    live(&mut before, &payload, NOW).unwrap();
    let state = before.export_state(Saved::AtShutdown);
    let mut e2e = reader();

    for index in 0..state.len() {
        let mut damaged = state.clone();
        damaged[index] ^= 1;
        let expected = match index {
            0..4 => StateError::NotState,
            4 => StateError::Version(3),
            _ => StateError::Checksum,
        };
        assert_eq!(e2e.import_state(&damaged, NOW, false), Err(expected), "byte {index}");
    }
    for length in 0..state.len() {
        assert!(e2e.import_state(&state[..length], NOW, false).is_err(), "{length} bytes");
    }

    assert_eq!(live(&mut e2e, &payload, NOW), Ok(()));
}

#[test]
fn a_window_keeps_what_it_knows_over_restarts_whatever_its_width_was() {
    let mut publisher = publisher();
    let payloads: Vec<Vec<u8>> = (0..900).map(|_| seal(&mut publisher, NOW)).collect();
    for (before, after) in [(128, 1_024), (1_024, 128), (1_024, 1_024)] {
        let mut reader = wide_reader(before);
        for seq in [0, 700, 899] {
            live(&mut reader, &payloads[seq], NOW).unwrap();
        }
        let mut restarted = wide_reader(after);
        restarted.import_state(&reader.export_state(Saved::AtShutdown), NOW, false).unwrap();

        for seq in [0, 700, 899] {
            assert_eq!(
                live(&mut restarted, &payloads[seq], NOW),
                Err(OpenError::Replay),
                "{before} {after} {seq}"
            );
        }
        // Of what one of them did not hold, nobody knows that it is new.
        let far = if before == after { Ok(()) } else { Err(OpenError::Replay) };
        assert_eq!(live(&mut restarted, &payloads[100], NOW), far, "{before} {after}");
        assert_eq!(live(&mut restarted, &payloads[800], NOW), Ok(()), "{before} {after}");
    }
}

#[test]
fn a_sender_on_very_many_topics_makes_nobody_take_an_older_message_of_another_twice() {
    let replay = ReplayLimits { streams_max: 40, sender_streams_max: 30, ..ReplayLimits::default() };
    let limits = Limits { replay, ..Limits::default() };
    let limited = || {
        let mut e2e = E2e::new(unsigned(1), limits);
        let scope = Scope::new(SCOPE).expect("a filter");
        let config = ScopeConfig::envelope(scope, keyring(), EnvelopeOptions::default());
        e2e.add_scope(config).expect("the only scope");
        e2e
    };
    let mut reader = limited();
    let honest = seal(&mut publisher(), NOW);
    live(&mut reader, &honest, NOW).unwrap();

    let mut flooding = member(unsigned(3), EnvelopeOptions::default());
    for number in 0..200 {
        let name = format!("factory/line-3/{number}");
        let payload =
            flooding.seal(topic(&name), JSON, &plain(), NOW, &mut counter()).expect("the scope has a key");
        reader.open(topic(&name), &payload, false, &plain(), NOW).unwrap();
    }

    assert_eq!(live(&mut reader, &honest, NOW), Err(OpenError::Replay));
    assert_eq!(reader.replay_evictions(), 170);
    let mut restarted = limited();
    restarted.import_state(&reader.export_state(Saved::AtShutdown), NOW, true).unwrap();
    assert_eq!(live(&mut restarted, &honest, NOW), Err(OpenError::Replay));
    assert_eq!(restarted.replay_evictions(), 0);
}
