//! The keyrings of one scope: one that was configured, or one for each issuer (VEIL-1 section 8.2).
//!
//! Epoch numbers belong to an issuer, and an envelope names its sender only. Invariant: a sender that issues keys itself is
//! read under its own keys first; all others are read under those of key authorities.

use std::collections::BTreeMap;

use veilmq_protocol::veil::{Certificate, Kid, Suite, distribution::RevocationReason};

use super::{
    keyring::{EpochState, EpochTiming, GroupKey, Keyring},
    scope::Scope,
};

/// Where a group key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Issuer {
    /// The configuration of this program.
    Configuration,
    /// KEYHEADs of this party.
    Party(Kid),
}

/// Where the keys of a scope come from.
pub(super) enum Keys {
    /// From the configuration of this program.
    Configured(Keyring),
    /// From KEYHEADs.
    Distributed(Rings),
}

/// The keyrings of the issuers of one scope.
pub(super) struct Rings {
    own: Kid,
    timing: EpochTiming,
    rings: BTreeMap<Kid, Ring>,
}

/// What one issuer has given.
pub(super) struct Ring {
    /// Gives keys for others to send with.
    pub(super) authority: bool,
    pub(super) signed_only: bool,
    pub(super) suites: Vec<Suite>,
    /// The certificate that the issuer has shown: who issued it, and under which number. Unknown of what earlier versions have saved.
    pub(super) vouched: Option<(Kid, u64)>,
    pub(super) keyring: Keyring,
}

impl Keys {
    /// The issuer and epoch to seal under now.
    pub(super) fn sending(&self, now_unix_ms: u64) -> Option<(Issuer, u32)> {
        match self {
            Self::Configured(keyring) => Some((Issuer::Configuration, keyring.sending_epoch(now_unix_ms)?)),
            Self::Distributed(rings) => {
                let sending = |(kid, ring): (Kid, &Ring)| {
                    Some((Issuer::Party(kid), ring.keyring.sending_epoch(now_unix_ms)?))
                };
                match rings.rings.get(&rings.own) {
                    Some(own) => sending((rings.own, own)),
                    // Of several authorities one may have no key that counts.
                    None => rings.of_sender(rings.own).find_map(sending),
                }
            }
        }
    }

    /// When another epoch to seal under becomes active, in unix milliseconds, if it is known.
    pub(super) fn next_activation(&self, now_unix_ms: u64) -> Option<u64> {
        match self {
            Self::Configured(keyring) => keyring.next_activation(now_unix_ms),
            Self::Distributed(rings) => {
                rings.rings.values().filter_map(|ring| ring.keyring.next_activation(now_unix_ms)).min()
            }
        }
    }

    /// Whose key of this number an envelope of `sender` is under, and in which state it is: the best there is.
    pub(super) fn receiving(
        &self,
        sender: Kid,
        epoch: u32,
        now_unix_ms: u64,
    ) -> Option<(Issuer, EpochState)> {
        match self {
            Self::Configured(keyring) => Some((Issuer::Configuration, keyring.state(epoch, now_unix_ms)?)),
            Self::Distributed(rings) => {
                let known = rings.of_sender(sender).filter_map(|(kid, ring)| {
                    Some((Issuer::Party(kid), ring.keyring.state(epoch, now_unix_ms)?))
                });
                known.min_by_key(|(_, state)| usefulness(*state))
            }
        }
    }

    /// The state of an epoch whose stream keys are in use.
    pub(super) fn state(&self, issuer: Issuer, epoch: u32, now_unix_ms: u64) -> Option<EpochState> {
        self.keyring(issuer)?.state(epoch, now_unix_ms)
    }

    /// Gives `use_key` a group key, or returns `None` if there is none.
    pub(super) fn with_key<T>(
        &self,
        issuer: Issuer,
        scope: &Scope,
        epoch: u32,
        use_key: impl FnOnce(&GroupKey) -> T,
    ) -> Option<T> {
        self.keyring(issuer)?.with_key(scope, epoch, use_key)
    }

    /// Whether the keys of this issuer are made by this program.
    pub(super) fn issues(&self, issuer: Issuer) -> bool {
        matches!((self, issuer), (Self::Distributed(rings), Issuer::Party(kid)) if kid == rings.own)
    }

    /// What the issuer demands of messages: a signature, and one of these suites (any, if empty).
    pub(super) fn demands(&self, issuer: Issuer) -> (bool, &[Suite]) {
        match (self, issuer) {
            (Self::Distributed(rings), Issuer::Party(kid)) => {
                rings.rings.get(&kid).map_or((false, &[]), |ring| (ring.signed_only, &ring.suites))
            }
            (Self::Configured(_), _) | (Self::Distributed(_), Issuer::Configuration) => (false, &[]),
        }
    }

    /// Erases the keys whose time has come and returns when the next one is due, in unix milliseconds.
    pub(super) fn advance(&mut self, now_unix_ms: u64) -> Option<u64> {
        match self {
            Self::Configured(keyring) => keyring.advance(now_unix_ms),
            Self::Distributed(rings) => {
                let due = rings.rings.values_mut().filter_map(|ring| ring.keyring.advance(now_unix_ms));
                due.min()
            }
        }
    }

    fn keyring(&self, issuer: Issuer) -> Option<&Keyring> {
        match (self, issuer) {
            (Self::Configured(keyring), Issuer::Configuration) => Some(keyring),
            (Self::Distributed(rings), Issuer::Party(kid)) => Some(&rings.rings.get(&kid)?.keyring),
            (Self::Configured(_), Issuer::Party(_)) | (Self::Distributed(_), Issuer::Configuration) => None,
        }
    }
}

impl Rings {
    pub(super) fn new(own: Kid, timing: EpochTiming) -> Self {
        Self { own, timing, rings: BTreeMap::new() }
    }

    /// The ring of an issuer, made at its first use.
    pub(super) fn ring(&mut self, issuer: Kid) -> &mut Ring {
        let timing = self.timing;
        self.rings.entry(issuer).or_insert_with(|| Ring {
            authority: false,
            signed_only: false,
            suites: Vec::new(),
            vouched: None,
            keyring: Keyring::explicit(timing),
        })
    }

    /// Remembers by which certificate an issuer speaks, if it has keys here.
    pub(super) fn vouch(&mut self, issuer: Kid, certificate: &Certificate) {
        if let Some(ring) = self.rings.get_mut(&issuer) {
            ring.vouched = Some((certificate.issuer(), certificate.serial));
        }
    }

    /// Ends the keys of authorities whose certificate counts no more: nothing is sealed under them from now on. Where a key is in
    /// other hands, nothing is opened either. A sender that issues keys itself is refused as a sender.
    pub(super) fn heed(&mut self, reason: impl Fn(Kid, u64) -> Option<RevocationReason>, now_unix_ms: u64) {
        for ring in self.rings.values_mut().filter(|ring| ring.authority) {
            match ring.vouched.and_then(|(issuer, serial)| reason(issuer, serial)) {
                // The authority has another certificate for the same keys.
                None | Some(RevocationReason::Superseded) => {}
                Some(RevocationReason::KeyCompromise) => ring.keyring.end(now_unix_ms, now_unix_ms),
                Some(
                    RevocationReason::Unspecified
                    | RevocationReason::CessationOfOperation
                    | RevocationReason::PrivilegeWithdrawn,
                ) => ring.keyring.end(now_unix_ms, u64::MAX),
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Kid, &Ring)> {
        self.rings.iter().map(|(kid, ring)| (*kid, ring))
    }

    fn of_sender(&self, sender: Kid) -> impl Iterator<Item = (Kid, &Ring)> {
        let own = self.rings.get(&sender).map(|ring| (sender, ring));
        let authorities = self.iter().filter(move |(kid, ring)| ring.authority && *kid != sender);
        own.into_iter().chain(authorities)
    }
}

fn usefulness(state: EpochState) -> u8 {
    match state {
        EpochState::Current | EpochState::Retiring => 0,
        EpochState::History => 1,
        EpochState::Future => 2,
        EpochState::Gone => 3,
    }
}
