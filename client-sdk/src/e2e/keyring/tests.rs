//! What becomes of epochs as time goes on, and what does not fit them. Time is an argument.

use super::*;

const TIMING: EpochTiming =
    EpochTiming { clock_skew_ms: 120_000, transition_window_ms: 600_000, history_ms: 1_000_000 };
const ACTIVE: u64 = 10_000_000;

fn two_epochs() -> Keyring {
    let mut keyring = Keyring::explicit(TIMING);
    keyring.insert(7, GroupKey::new(&[7; 32]), 0).unwrap();
    keyring.insert(8, GroupKey::new(&[8; 32]), ACTIVE).unwrap();
    keyring
}

fn announced() -> Keyring {
    let mut keyring = Keyring::master(MasterSecret::new(b"m"), 7, TIMING);
    keyring.announce(8, ACTIVE).unwrap();
    keyring
}

fn planned() -> Keyring {
    let every_ms = NonZeroU64::new(ACTIVE).unwrap();
    let plan = RotationPlan { first_epoch: 7, start_ms: 0, every_ms };
    Keyring::planned(MasterSecret::new(b"m"), plan, TIMING)
}

#[test]
fn epochs_pass_through_their_states_at_the_times_of_the_transition_window() {
    use EpochState::{Current, Future, Gone, History, Retiring};
    let (retire, drop) = (ACTIVE + 600_000, ACTIVE + 1_600_000);
    let rows = [
        (0, Current, Future, Some(7)),
        (ACTIVE - 120_001, Current, Future, Some(7)),
        (ACTIVE - 120_000, Current, Current, Some(7)),
        (ACTIVE - 1, Current, Current, Some(7)),
        (ACTIVE, Retiring, Current, Some(8)),
        (retire - 1, Retiring, Current, Some(8)),
        (retire, History, Current, Some(8)),
        (drop - 1, History, Current, Some(8)),
        (drop, Gone, Current, Some(8)),
    ];
    for (name, keyring) in [("explicit", two_epochs()), ("announced", announced()), ("planned", planned())] {
        for (now, seven, eight, sending) in rows {
            assert_eq!(keyring.state(7, now), Some(seven), "{name}: epoch 7 at {now}");
            assert_eq!(keyring.state(8, now), Some(eight), "{name}: epoch 8 at {now}");
            assert_eq!(keyring.sending_epoch(now), sending, "{name}: sending at {now}");
        }
    }
}

#[test]
fn plan_goes_on_without_announcements_and_knows_nothing_before_its_start() {
    let keyring = planned();

    assert_eq!(keyring.sending_epoch(ACTIVE * 5), Some(12));
    assert_eq!(keyring.state(12, ACTIVE * 5), Some(EpochState::Current));
    assert_eq!(keyring.state(13, ACTIVE * 5), Some(EpochState::Future));
    assert_eq!(keyring.state(6, ACTIVE * 5), None);
    assert_eq!(keyring.next_activation(ACTIVE * 5), Some(ACTIVE * 6));
    let late = RotationPlan { first_epoch: 0, start_ms: 50, every_ms: NonZeroU64::MIN };
    let keyring = Keyring::planned(MasterSecret::new(b"m"), late, TIMING);
    assert_eq!(keyring.sending_epoch(49), None);
    assert_eq!(keyring.sending_epoch(u64::MAX), None);
}

#[test]
fn keys_are_erased_when_their_time_is_over_and_cannot_come_back() {
    let scope = Scope::new("a").unwrap();
    let mut keyring = two_epochs();
    let drop_ms = keyring.times(7).unwrap().drop_ms;

    assert_eq!(keyring.advance(drop_ms - 1), Some(drop_ms));
    assert!(keyring.with_key(&scope, 7, |_| ()).is_some());

    assert_eq!(keyring.advance(drop_ms), None);
    assert!(keyring.with_key(&scope, 7, |_| ()).is_none());
    assert!(keyring.with_key(&scope, 8, |_| ()).is_some());
    assert_eq!(keyring.state(7, 0), Some(EpochState::Gone));
    assert_eq!(keyring.insert(7, GroupKey::new(&[7; 32]), 0), Err(ConfigError::EpochNotNew(7)));
}

#[test]
fn a_key_goes_at_its_time_although_an_earlier_one_would_stay_longer() {
    let mut keyring = Keyring::explicit(TIMING);
    for (epoch, drop_ms) in [(1, u64::MAX), (2, 50_000), (3, 40_000), (4, u64::MAX), (5, u64::MAX)] {
        let activate_ms = u64::from(epoch) * 1_000;
        let window = Window { activate_ms, retire_ms: u64::MAX, drop_ms, no_transition: false };
        keyring.install(epoch, GroupKey::new(&[1; 32]), window);
    }

    assert_eq!((keyring.advance(39_999), keyring.held().count()), (Some(40_000), 5));
    let last = keyring.times(4).unwrap().drop_ms;
    assert_eq!((keyring.advance(40_000), keyring.held().count()), (Some(last), 2));
    assert_eq!((keyring.advance(last), keyring.held().count()), (None, 1));
}

#[test]
fn an_issuer_that_announces_without_end_makes_the_oldest_epochs_go() {
    let mut keyring = Keyring::explicit(TIMING);
    let window = |epoch: u32| Window {
        activate_ms: epoch.into(),
        retire_ms: u64::MAX,
        drop_ms: u64::MAX,
        no_transition: false,
    };

    for epoch in 1..=3_000 {
        keyring.install(epoch, GroupKey::new(&[1; 32]), window(epoch));
    }

    assert_eq!(keyring.held().count(), INSTALLED_MAX);
    assert_eq!(keyring.state(1_976, 3_000), Some(EpochState::Gone));
    assert_eq!(keyring.sending_epoch(3_000), Some(3_000));
    keyring.install(1_976, GroupKey::new(&[1; 32]), window(1_976));
    assert_eq!(keyring.state(1_976, 3_000), Some(EpochState::Gone), "it does not come back");
}

#[test]
fn compromise_drops_earlier_epochs_at_once() {
    for mut keyring in [two_epochs(), announced(), planned()] {
        keyring.drop_before(8);

        assert_eq!(keyring.state(7, 0), Some(EpochState::Gone));
        assert_eq!(keyring.sending_epoch(0), None);
        assert_eq!(keyring.sending_epoch(ACTIVE), Some(8));
    }
}

#[test]
fn epochs_that_do_not_fit_the_others_are_refused() {
    let key = || GroupKey::new(&[9; 32]);
    let mut keyring = two_epochs();

    assert_eq!(keyring.insert(8, key(), ACTIVE), Err(ConfigError::EpochNotNew(8)));
    assert_eq!(keyring.insert(9, key(), ACTIVE - 1), Err(ConfigError::EpochOutOfOrder(9)));
    assert_eq!(keyring.insert(6, key(), 1), Err(ConfigError::EpochOutOfOrder(6)));
    assert_eq!(keyring.announce(9, ACTIVE), Err(ConfigError::EpochsArePlanned));
    assert_eq!(announced().insert(9, key(), ACTIVE), Err(ConfigError::EpochsArePlanned));
    assert_eq!(planned().announce(9, ACTIVE), Err(ConfigError::EpochsArePlanned));
    assert_eq!(keyring.insert(6, key(), 0), Ok(()));
}

#[test]
fn every_epoch_of_a_master_secret_has_its_own_key_in_every_scope() {
    let (a, b) = (Scope::new("a").unwrap(), Scope::new("b").unwrap());
    let keyring = planned();
    let key = |scope, epoch| keyring.with_key(scope, epoch, |key| *key.0.as_bytes()).unwrap();

    assert_eq!(key(&a, 7), key(&a, 7));
    assert_ne!(key(&a, 7), key(&a, 8));
    assert_ne!(key(&a, 7), key(&b, 7));
}

#[test]
fn the_last_epoch_ends_as_every_other_does() {
    let scope = Scope::new("a").unwrap();
    let window = Window { activate_ms: 0, retire_ms: ACTIVE, drop_ms: ACTIVE + 1_000, no_transition: false };
    let mut keyring = Keyring::explicit(TIMING);
    keyring.install(u32::MAX, GroupKey::new(&[1; 32]), window);

    assert_eq!(keyring.advance(ACTIVE + 999), Some(ACTIVE + 1_000));
    assert!(keyring.with_key(&scope, u32::MAX, |_| ()).is_some());
    assert_eq!(keyring.advance(ACTIVE + 1_000), None);
    assert_eq!(keyring.held().count(), 0);
    assert_eq!(keyring.state(u32::MAX, 0), Some(EpochState::Gone));
    keyring.install(u32::MAX, GroupKey::new(&[1; 32]), window);
    assert_eq!(keyring.held().count(), 0, "it does not come back");
}

#[test]
fn the_last_epoch_of_a_plan_is_replaced_by_nothing_and_retires_all_the_same() {
    let every_ms = NonZeroU64::new(ACTIVE).unwrap();
    let plan = RotationPlan { first_epoch: u32::MAX, start_ms: 0, every_ms };
    let keyring = Keyring::planned(MasterSecret::new(b"m"), plan, TIMING);

    for (now, state, sending) in [
        (ACTIVE - 1, EpochState::Current, Some(u32::MAX)),
        (ACTIVE, EpochState::Retiring, None),
        (ACTIVE + 600_000, EpochState::History, None),
        (ACTIVE + 1_600_000, EpochState::Gone, None),
    ] {
        assert_eq!((keyring.state(u32::MAX, now), keyring.sending_epoch(now)), (Some(state), sending));
    }
}

#[test]
fn a_plan_says_when_its_oldest_epoch_goes_that_was_not_dropped() {
    let mut keyring = planned();
    let over = |epoch: u64| Some((epoch - 6) * ACTIVE + 1_600_000);

    assert_eq!(keyring.advance(0), over(7));
    assert_eq!(keyring.advance(ACTIVE + 1_599_999), over(7));
    assert_eq!(keyring.advance(ACTIVE + 1_600_000), over(8));
    keyring.drop_before(10);
    assert_eq!(keyring.advance(ACTIVE + 1_600_000), over(10));
    keyring.drop_through(u32::MAX);
    assert_eq!(keyring.advance(ACTIVE), None);
}

#[test]
fn the_application_can_have_every_epoch_dropped_with_the_last() {
    for mut keyring in [two_epochs(), announced(), planned()] {
        keyring.drop_through(u32::MAX);

        assert_eq!(keyring.sending_epoch(ACTIVE), None);
        assert_eq!(keyring.state(8, ACTIVE), Some(EpochState::Gone));
    }
}
