//! All issuers of one program, and when the first of them has something to do.
//!
//! Time is an argument. Invariant: who may change an issuer goes through [`Issuers::iter_mut`], after which all of them are gone through
//! again; while nothing has changed, nothing is due and the clock was not set back, none is.

use super::{issuer::Issuer, watched::Watched};

pub(super) type Issuers = Watched<Issuer, Agenda>;

/// What is to be done, and when.
pub(super) struct Agenda {
    /// When it was made, in unix milliseconds.
    made_ms: u64,
    /// When something has to be prepared or forgotten, in unix milliseconds.
    advance_ms: u64,
    /// When something has to be published, in unix milliseconds.
    publish_ms: u64,
    is_installed: bool,
}

impl Issuers {
    /// Whether [`Issuer::advance`] may have something to do.
    pub(super) fn has_to_advance(&self, now_unix_ms: u64) -> bool {
        let has_to = |agenda: &Agenda| agenda.advance_ms <= now_unix_ms || now_unix_ms < agenda.made_ms;
        !self.is_empty() && self.found().is_none_or(has_to)
    }

    /// When [`Issuer::publish`] has something to do, in unix milliseconds.
    pub(super) fn publish_due(&self) -> u64 {
        let due = || self.iter().map(Issuer::next_due).min().unwrap_or(u64::MAX);
        self.found().map_or_else(due, |agenda| agenda.publish_ms)
    }

    /// Whether every announced epoch is where messages are sealed and opened.
    pub(super) fn is_installed(&self) -> bool {
        self.found().is_some_and(|agenda| agenda.is_installed)
    }

    /// All issuers have advanced: makes the agenda.
    pub(super) fn advanced(&mut self, now_unix_ms: u64) {
        let advance = self.iter().map(|issuer| issuer.advance_due(now_unix_ms));
        let agenda = Agenda {
            made_ms: now_unix_ms,
            advance_ms: advance.min().unwrap_or(u64::MAX),
            publish_ms: self.publish_due(),
            is_installed: self.iter().all(|issuer| issuer.installed),
        };
        self.note(agenda);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use veilmq_protocol::{
        TopicName,
        veil::{
            CertificateFields, Kid, Roles,
            channel::{Identity, IdentityKeys, TrustAnchors},
            distribution::KeyHead,
        },
    };

    use crate::e2e::{
        E2e, EnvelopeOptions, EpochTiming, Limits, Member, Scope,
        distribution::{Distribution, IssuePolicy, Rotation},
    };

    const START: u64 = 1_790_000_000_000;
    const HOUR: u64 = 3_600_000;

    /// A program that issues the keys of so many scopes.
    struct Program {
        e2e: E2e,
        keys: Distribution,
    }

    impl Program {
        fn new(scopes: usize, policy: &IssuePolicy) -> Self {
            let own = IdentityKeys::from_seeds(&[1; 32], &[2; 32]);
            let fields = CertificateFields {
                roles: Roles::PUBLISHER,
                serial: 1,
                not_before: 0,
                not_after: u64::MAX,
                ed25519: own.ed25519_public(),
                x25519: own.x25519_public(),
                subject: "press".to_owned(),
                publish_scopes: Vec::new(),
                subscribe_scopes: Vec::new(),
                path_length: None,
                revocation_topic: None,
            };
            let identity = Arc::new(Identity::new(fields.sign(&own).unwrap(), own).unwrap());
            let mut e2e = E2e::new(Member::Identity(Arc::clone(&identity)), Limits::default());
            let mut keys = Distribution::new(identity, TrustAnchors::new());
            for index in 0..scopes {
                keys.issue(&mut e2e, scope(index), EnvelopeOptions::default(), policy.clone()).unwrap();
            }
            Self { e2e, keys }
        }

        /// A turn of the client: returns how many issuers were gone through to advance, and the epochs that were announced.
        fn turn(&mut self, now: u64) -> (usize, Vec<u32>) {
            let advanced = self.keys.advance_issuers(&mut self.e2e, now, &mut entropy);
            let outgoing = self.keys.outgoing(now, &mut entropy);
            self.keys.announced(&mut self.e2e);
            let heads = outgoing.iter().filter(|outgoing| outgoing.topic.starts_with("_veil/1/kp/"));
            (advanced, heads.map(|head| KeyHead::parse(&head.payload).unwrap().0.epoch).collect())
        }

        /// As the next turn does that has nothing else to do.
        fn settled(scopes: usize, policy: &IssuePolicy) -> Self {
            let mut program = Self::new(scopes, policy);
            assert_eq!(program.turn(START), (scopes, vec![1; scopes]));
            assert_eq!(program.turn(START), (scopes, vec![]), "what was announced has changed them");
            assert_eq!(program.turn(START), (0, vec![]));
            program
        }

        fn note_session(&mut self, session: u64) {
            self.e2e.sessions.note(0, 1, Kid::from_bytes([1; 8]), session);
        }
    }

    fn entropy(bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn scope(index: usize) -> Scope {
        Scope::new(&format!("line-{index}/#")).unwrap()
    }

    #[test]
    fn a_turn_goes_through_nothing_while_nothing_is_due_and_nothing_has_changed() {
        let mut program = Program::settled(2_000, &IssuePolicy::default());

        let quiet: usize = (1..=100).map(|second| program.turn(START + second * 1_000).0).sum();

        assert_eq!(quiet, 0);
        assert_eq!(program.keys.issuers.publish_due(), START + 12 * HOUR);
        program.keys.advance(&mut program.e2e, START + 100_000, &mut entropy);
        assert!(!program.keys.memberships.has_overdue(START + 100_000), "nor through a membership");
        program.keys.rotate(&scope(7), Rotation::Ordinary, &mut entropy).unwrap();
        assert_eq!(program.turn(START + 200_000), (2_000, vec![2]));
    }

    #[test]
    fn what_is_due_is_done_in_time_though_nothing_has_changed() {
        let policy = IssuePolicy { rotate_every_ms: 24 * HOUR, ..IssuePolicy::default() };
        let mut program = Program::settled(1, &policy);
        let epochs = |program: &Program| program.keys.issuers.iter().next().unwrap().epochs.len();

        assert_eq!(program.turn(START + 12 * HOUR - 1), (0, vec![]));
        assert_eq!(program.turn(START + 12 * HOUR), (0, vec![1]), "it is issued again");
        program.turn(START + 12 * HOUR);
        assert_eq!(program.turn(START + 24 * HOUR - 60_001), (0, vec![]));
        assert_eq!(program.turn(START + 24 * HOUR - 60_000), (1, vec![2]), "the next epoch");
        program.turn(START + 24 * HOUR - 60_000);
        assert_eq!((program.turn(START + 24 * HOUR - 1), epochs(&program)), ((0, vec![]), 2));
        assert_eq!(
            (program.turn(START + 24 * HOUR), epochs(&program)),
            ((1, vec![]), 1),
            "the first is over"
        );
    }

    #[test]
    fn a_key_whose_time_is_over_is_forgotten_though_no_other_can_be_announced() {
        let timing = EpochTiming { history_ms: HOUR, ..EpochTiming::default() };
        let policy = IssuePolicy { outage_ms: 0, timing, ..IssuePolicy::default() };
        let over = START + 25 * HOUR + 600_000;
        for last in [1, u32::MAX] {
            let mut program = Program::settled(1, &policy);
            let issuer = program.keys.issuers.iter_mut().next().unwrap();
            issuer.tip = issuer.tip.map(|(_, link)| (last, link));
            // Without a connection.
            let mut advance = |now| {
                let advanced = program.keys.advance_issuers(&mut program.e2e, now, &mut entropy);
                (advanced, program.keys.issuers.iter().next().unwrap().epochs.contains_key(&1))
            };

            assert_eq!([advance(over - 1), advance(over - 1)], [(1, true), (0, true)], "{last}");
            assert_eq!([advance(over), advance(over)], [(1, false), (0, false)], "{last}");
        }
    }

    #[test]
    fn what_could_not_be_saved_at_once_is_sealed_under_as_soon_as_it_is() {
        let mut program = Program::new(1, &IssuePolicy::default());
        program.keys.advance_issuers(&mut program.e2e, START, &mut entropy);
        assert_eq!(program.keys.outgoing(START, &mut entropy).len(), 1);
        for _ in 0..2 {
            program.keys.advance_issuers(&mut program.e2e, START, &mut entropy);
        }

        program.keys.announced(&mut program.e2e);

        assert!(!program.e2e.awaits_key(TopicName::new("line-0/t").unwrap(), START));
    }

    #[test]
    fn a_clock_that_was_set_back_has_the_issuers_gone_through() {
        let mut program = Program::settled(1, &IssuePolicy::default());
        let before = START - 24 * HOUR;

        assert_eq!(program.turn(before), (1, vec![2]), "nobody would seal under the first for a day");
        program.turn(before);
        assert_eq!(program.turn(before), (0, vec![]));
    }

    #[test]
    fn a_session_more_is_noticed_and_one_that_is_known_is_not() {
        let mut program = Program::settled(1, &IssuePolicy { sessions_max: 1, ..IssuePolicy::default() });

        program.note_session(1);
        assert_eq!(program.turn(START), (1, vec![]));
        program.note_session(1);
        assert_eq!(program.turn(START), (0, vec![]));
        program.note_session(2);
        assert_eq!(program.turn(START), (1, vec![2]));
    }
}
