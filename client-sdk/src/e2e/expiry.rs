//! When keys are to be erased, and their erasure.
//!
//! Invariants: whoever may change the keys of a scope goes through [`E2e::entry_mut`] or [`E2e::pairs_mut`], so that they are
//! looked at with the next [`E2e::advance`]; while nothing has changed and nothing is due, that looks at no scope.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{
    E2e, ScopeEntry, blind::Naming, cipher::StreamId, config::Mode, keyring::EpochState, scope::Scope,
};

/// What all scopes together have to do.
#[derive(Default)]
pub(super) struct Expiry {
    /// The earliest of the scopes and namings that were looked at, in unix milliseconds.
    due: Option<u64>,
    /// Keys of a scope may have changed since.
    has_unseen: bool,
    /// Whatever names topics, each once. The application adds keys to them behind our back.
    namings: Vec<Weak<Naming>>,
    has_erased: bool,
}

impl Expiry {
    /// The keys of a scope may have changed.
    pub(super) const fn note_change(&mut self) {
        self.has_unseen = true;
    }

    /// Topics are named by this as well.
    pub(super) fn note_naming(&mut self, naming: Weak<Naming>) {
        if !self.namings.iter().any(|known| known.ptr_eq(&naming)) {
            self.namings.push(naming);
        }
    }

    fn is_due(&self, now_unix_ms: u64) -> bool {
        let of_names = || self.namings().any(|naming| naming.erasure_due_ms() <= now_unix_ms);
        self.has_unseen || self.due.is_some_and(|due| due <= now_unix_ms) || of_names()
    }

    fn namings(&self) -> impl Iterator<Item = Arc<Naming>> {
        self.namings.iter().filter_map(Weak::upgrade)
    }
}

impl E2e {
    /// When the next of the keys that [`advance`](Self::advance) has seen is to be erased, in unix milliseconds.
    pub const fn erasure_due(&self) -> Option<u64> {
        self.expiry.due
    }

    /// Returns whether a key was erased since this was last asked: if there is a state, it still holds that key until it is
    /// saved.
    pub fn take_erased(&mut self) -> bool {
        std::mem::take(&mut self.expiry.has_erased)
    }

    /// Erases every key whose time is over. Returns when the next one is due, in unix milliseconds.
    ///
    /// Expired keys are refused at any time; calling this is what removes them from memory.
    pub fn advance(&mut self, now_unix_ms: u64) -> Option<u64> {
        self.erase(now_unix_ms);
        self.expiry.due
    }

    /// The scope of this name, whose keys may be changed: they are looked at with the next [`advance`](Self::advance).
    pub(super) fn entry_mut(&mut self, scope: &Scope) -> Option<&mut ScopeEntry> {
        let entry = self.scopes.iter_mut().find(|entry| entry.config.scope == *scope)?;
        entry.is_unseen = true;
        self.expiry.note_change();
        Some(entry)
    }

    /// Erases what is due, and returns how many scopes had to be looked into for that; none if there is nothing to go through them for.
    fn erase(&mut self, now_unix_ms: u64) -> Option<usize> {
        if !self.expiry.is_due(now_unix_ms) {
            return None;
        }
        let Self { scopes, expiry, .. } = self;
        let mut looked_at = BTreeMap::new();
        for entry in scopes.iter_mut() {
            let is_over = entry.erasure_due.is_some_and(|due| due <= now_unix_ms);
            if is_over || entry.is_unseen {
                expiry.has_erased |= is_over;
                entry.erasure_due = entry.erase(now_unix_ms);
                entry.is_unseen = false;
                looked_at.insert(entry.id, &*entry);
            }
        }
        expiry.has_unseen = false;
        expiry.namings.retain(|naming| naming.strong_count() > 0);
        expiry.namings().for_each(|naming| naming.advance(now_unix_ms));
        // What is derived from a key goes with it.
        let live = |stream: &StreamId| {
            looked_at.get(&stream.scope).is_none_or(|entry| entry.has_use_for(stream, now_unix_ms))
        };
        self.sender.retain_keys(live);
        self.receiver.retain_keys(live);
        let count = looked_at.len();
        let of_names = expiry.namings().map(|naming| naming.erasure_due_ms());
        let of_names = of_names.filter(|due| *due != u64::MAX);
        let due = scopes.iter().filter_map(|entry| entry.erasure_due).chain(of_names).min();
        expiry.due = due;
        Some(count)
    }
}

impl ScopeEntry {
    /// Erases the keys whose time has come and returns when the next one is due, in unix milliseconds.
    fn erase(&mut self, now_unix_ms: u64) -> Option<u64> {
        let own = match &mut self.config.mode {
            Mode::Envelope { keys, .. } => keys.advance(now_unix_ms),
            Mode::Article(keys) => keys.advance(now_unix_ms),
            Mode::Pairs { pairs, .. } => pairs.advance(now_unix_ms),
        };
        let legacy = self.legacy.as_mut().and_then(|keys| keys.advance(now_unix_ms));
        [own, legacy].into_iter().flatten().min()
    }

    /// Whether the keys of a stream may still be needed.
    fn has_use_for(&self, stream: &StreamId, now_unix_ms: u64) -> bool {
        match &self.config.mode {
            Mode::Envelope { keys, .. } => {
                let state = keys.state(stream.issuer, stream.epoch, now_unix_ms);
                !matches!(state, Some(EpochState::Gone) | None)
            }
            Mode::Article(_) => false,
            Mode::Pairs { pairs, .. } => pairs.has_use_for(stream, now_unix_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use veilmq_protocol::{PublishProperties, TopicName, veil::Kid};

    use super::*;
    use crate::e2e::{
        ArticleKey, ArticleKeys, EnvelopeOptions, EpochTiming, GroupKey, Keyring, Limits, MasterSecret,
        Member, RotationPlan, ScopeConfig, keyring::Window, pairs::End,
    };

    const NOW: u64 = 1_790_000_000_000;
    const TIMING: EpochTiming =
        EpochTiming { clock_skew_ms: 0, transition_window_ms: 1_000, history_ms: 10_000 };
    /// When the epoch is over whose successor becomes active now.
    const OVER: u64 = NOW + 11_000;

    fn own() -> Kid {
        Kid::from_bytes([1; 8])
    }

    fn scope(filter: &str) -> Scope {
        Scope::new(filter).unwrap()
    }

    fn key() -> GroupKey {
        GroupKey::new(&[7; 32])
    }

    fn window(drop_ms: u64) -> Window {
        Window { activate_ms: NOW, retire_ms: drop_ms, drop_ms, no_transition: false }
    }

    fn keyring(epochs: &[(u32, u64)]) -> Keyring {
        let mut keyring = Keyring::explicit(TIMING);
        for (epoch, activate_ms) in epochs {
            keyring.insert(*epoch, key(), *activate_ms).unwrap();
        }
        keyring
    }

    fn add(e2e: &mut E2e, filter: &str, keyring: Keyring) {
        let config = ScopeConfig::envelope(scope(filter), keyring, EnvelopeOptions::default());
        e2e.add_scope(config).unwrap();
    }

    fn add_distributed(e2e: &mut E2e, filter: &str) {
        let config = ScopeConfig::distributed(scope(filter), own(), TIMING, EnvelopeOptions::default());
        e2e.add_scope(config).unwrap();
    }

    fn install(e2e: &mut E2e, filter: &str, drop_ms: u64) {
        let rings = e2e.rings_mut(&scope(filter)).unwrap();
        rings.ring(own()).keyring.install(1, key(), window(drop_ms));
    }

    fn held(e2e: &E2e, filter: &str) -> usize {
        e2e.rings(&scope(filter)).unwrap().iter().map(|(_, ring)| ring.keyring.held().count()).sum()
    }

    fn two_names() -> Naming {
        Naming::new("", keyring(&[(1, 0), (2, NOW)])).unwrap()
    }

    /// A scope of every kind, all of which were looked at; nothing is due.
    fn with_every_kind() -> E2e {
        let mut e2e = E2e::new(Member::Unsigned(own()), Limits::default());
        add(&mut e2e, "configured/#", keyring(&[(1, 0)]));
        add(&mut e2e, "master/#", Keyring::master(MasterSecret::new(b"m"), 1, TIMING));
        add_distributed(&mut e2e, "distributed/#");
        let keys = ArticleKeys::new(ArticleKey::master(&[7; 32]));
        e2e.add_scope(ScopeConfig::article(scope("article/#"), keys)).unwrap();
        e2e.add_pairs(End::Subscriber, EnvelopeOptions::default()).unwrap();
        assert_eq!((e2e.advance(NOW), e2e.erase(NOW)), (None, None));
        e2e
    }

    #[test]
    fn whatever_changes_keys_has_them_erased_in_time() {
        type Change = fn(&mut E2e);
        let rows: [(&str, Change, u64); 12] = [
            ("a scope more", |e2e| add(e2e, "a/#", keyring(&[(1, 0), (2, NOW)])), OVER),
            (
                "an epoch more",
                |e2e| e2e.keyring_mut(&scope("configured/#")).unwrap().insert(2, key(), NOW).unwrap(),
                OVER,
            ),
            (
                "an announcement",
                |e2e| e2e.keyring_mut(&scope("master/#")).unwrap().announce(2, NOW).unwrap(),
                OVER,
            ),
            ("a key from its issuer", |e2e| install(e2e, "distributed/#", NOW + 5), NOW + 5),
            (
                "the end of an issuer",
                |e2e| {
                    install(e2e, "distributed/#", NOW + 500);
                    e2e.advance(NOW);
                    let rings = e2e.rings_mut(&scope("distributed/#")).unwrap();
                    rings.ring(own()).keyring.end(NOW, NOW + 5);
                },
                NOW + 5,
            ),
            (
                "a key of a pair",
                |e2e| {
                    let peer = Kid::from_bytes([2; 8]);
                    e2e.pairs_mut().unwrap().install(End::Subscriber, peer, 1, key(), window(NOW + 5));
                },
                NOW + 5,
            ),
            (
                "another key of the article",
                |e2e| {
                    let keys = e2e.article_keys_mut(&scope("article/#")).unwrap();
                    keys.rotate(ArticleKey::master(&[8; 32]), NOW + 5, 1_000);
                },
                NOW + 5,
            ),
            (
                "copies for the article",
                |e2e| {
                    let keys = ArticleKeys::new(ArticleKey::master(&[7; 32]));
                    let keys = keys.accepting(ArticleKey::master(&[6; 32]), NOW + 5);
                    e2e.copy_to_legacy(&scope("configured/#"), keys).unwrap();
                },
                NOW + 5,
            ),
            (
                "blind names",
                |e2e| e2e.make_blind(&scope("configured/#"), Arc::new(two_names())).unwrap(),
                OVER,
            ),
            (
                "a topic key more",
                |e2e| {
                    let naming = Arc::new(Naming::new("", keyring(&[(1, 0)])).unwrap());
                    e2e.make_blind(&scope("configured/#"), Arc::clone(&naming)).unwrap();
                    e2e.advance(NOW);
                    naming.insert(2, key(), NOW).unwrap();
                },
                OVER,
            ),
            (
                "a plan",
                |e2e| {
                    let every_ms = NonZeroU64::new(100_000).unwrap();
                    let plan = RotationPlan { first_epoch: 1, start_ms: NOW - 100_000, every_ms };
                    add(e2e, "a/#", Keyring::planned(MasterSecret::new(b"m"), plan, TIMING));
                },
                OVER,
            ),
            (
                "a clock that was set back",
                |e2e| {
                    e2e.advance(NOW + 1_000_000);
                    install(e2e, "distributed/#", NOW + 5);
                },
                NOW + 5,
            ),
        ];
        for (name, change, due) in rows {
            let mut e2e = with_every_kind();

            change(&mut e2e);

            assert_eq!((e2e.advance(NOW), e2e.take_erased()), (Some(due), false), "{name}");
            assert_eq!((e2e.advance(due - 1), e2e.take_erased()), (Some(due), false), "{name}");
            assert_ne!(e2e.advance(due), Some(due), "{name}");
            assert!(e2e.erase(due).is_none() && held(&e2e, "distributed/#") == 0, "{name}");
        }
    }

    #[test]
    fn a_turn_looks_at_the_scopes_that_have_changed_or_have_something_due_and_at_no_others() {
        let mut e2e = E2e::new(Member::Unsigned(own()), Limits::default());
        for index in 0..2_000 {
            let filter = format!("line-{index}/#");
            add_distributed(&mut e2e, &filter);
            install(&mut e2e, &filter, NOW + 1_000 + index);
        }
        assert_eq!(e2e.erase(NOW), Some(2_000));

        assert!((0..100).all(|turn| e2e.erase(NOW + turn).is_none()));
        install(&mut e2e, "line-7/#", NOW + 5_000);
        assert_eq!([e2e.erase(NOW + 100), e2e.erase(NOW + 100)], [Some(1), None]);
        assert_eq!([e2e.erase(NOW + 1_002), e2e.erase(NOW + 1_002)], [Some(3), None]);

        let held: Vec<usize> = (0..9).map(|index| held(&e2e, &format!("line-{index}/#"))).collect();
        assert_eq!(held, [0, 0, 0, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn what_is_derived_from_a_key_goes_with_it_however_it_went() {
        fn seal(e2e: &mut E2e, topic: &str, now: u64) {
            let (topic, none) = (TopicName::new(topic).unwrap(), PublishProperties::default());
            e2e.seal(topic, b"x", &none, now, &mut |bytes| bytes.fill(0)).unwrap();
        }
        let mut e2e = with_every_kind();
        let every_ms = NonZeroU64::new(100_000).unwrap();
        let plan = RotationPlan { first_epoch: 1, start_ms: NOW, every_ms };
        add(&mut e2e, "planned/#", Keyring::planned(MasterSecret::new(b"m"), plan, TIMING));
        install(&mut e2e, "distributed/#", NOW + 1_000_000);
        for topic in ["configured/t", "distributed/t", "planned/t"] {
            seal(&mut e2e, topic, NOW);
        }
        e2e.advance(NOW);
        assert_eq!(e2e.sender.keys.len(), 3);

        e2e.keyring_mut(&scope("configured/#")).unwrap().drop_before(2);
        e2e.advance(NOW);
        assert_eq!(e2e.sender.keys.len(), 2, "dropped by the application");
        let rings = e2e.rings_mut(&scope("distributed/#")).unwrap();
        rings.ring(own()).keyring.install(2, key(), window(NOW + 1_000_000));
        e2e.advance(NOW);
        assert_eq!(e2e.sender.keys.len(), 1, "superseded");
        e2e.advance(OVER + 99_999);
        assert_eq!(e2e.sender.keys.len(), 1);
        e2e.advance(OVER + 100_000);
        assert_eq!(e2e.sender.keys.len(), 0, "over by its plan");
    }

    #[test]
    fn names_that_nobody_uses_are_not_kept() {
        let mut e2e = with_every_kind();
        let naming = Arc::new(two_names());
        e2e.make_blind(&scope("configured/#"), Arc::clone(&naming)).unwrap();
        e2e.make_blind(&scope("master/#"), Arc::clone(&naming)).unwrap();
        assert_eq!(e2e.expiry.namings.len(), 1);

        for filter in ["configured/#", "master/#"] {
            assert!(e2e.remove_scope(&scope(filter)));
        }

        assert_eq!(Arc::strong_count(&naming), 1);
        drop(naming);
        add(&mut e2e, "a/#", keyring(&[(1, 0)]));
        e2e.advance(NOW);
        assert_eq!((e2e.expiry.namings.len(), e2e.erasure_due()), (0, None));
    }
}
