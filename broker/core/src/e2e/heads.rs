//! The KEYHEADs that the broker has verified: which epochs of a scope there are, since when, and for whom (VEIL-1 section 9.2).
//!
//! A head goes on from the one before of the same issuer: later in the same epoch, or the next epoch with the link of the last.
//! What was accepted is remembered even when its topic is cleared, so that nothing goes back while the broker runs; after a
//! restart the retained heads are read again, and verified again. Invariant: the issuers that are remembered are a bounded number,
//! and of each a bounded number of epochs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use veilmq_protocol::veil::Kid;
use veilmq_protocol::veil::distribution::{KeyHead, KeyHeadFlags, SCOPE_HASH_LEN, Wrap};

/// First 8 bytes of `H("veil1 scope" || scope)`.
pub(crate) type ScopeHash = [u8; SCOPE_HASH_LEN];

/// How many issuers of scopes are remembered.
const HEADS_MAX: usize = 65_536;
/// How many scopes of one issuer are, so that one cannot take the place of all others.
const SCOPES_MAX: u32 = 16_384;
/// How many epochs of an issuer are: the one in use, those it took the place of, and those announced.
const EPOCHS_MAX: usize = 8;
/// How far a sender's clock may be ahead of the broker's (VEIL-1 section 17).
const CLOCK_SKEW_MS: u64 = 120_000;

/// How a head stands to what is known of its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Break {
    #[error("a newer head of this issuer is known")]
    Rollback,
    #[error("the head leaves epochs out")]
    Gap,
    #[error("the head does not continue the one before")]
    Link,
    #[error("too many issuers are known")]
    Full,
}

/// Every head that was verified.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    by_issuer: BTreeMap<(ScopeHash, Kid), Held>,
    /// How many scopes of each issuer are remembered.
    scopes: BTreeMap<Kid, u32>,
    /// The scopes whose retained heads have been read.
    known: BTreeSet<ScopeHash>,
}

/// What is remembered of one issuer of a scope.
#[derive(Debug)]
struct Held {
    created_ms: u64,
    commitment: [u8; 32],
    previous: [u8; 32],
    link: [u8; 32],
    digest: [u8; 32],
    is_authority: bool,
    /// The newest last.
    epochs: VecDeque<Epoch>,
    members: Members,
}

/// When an epoch counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    number: u32,
    activate_ms: u64,
    retire_ms: u64,
    /// Earlier ones end when it begins.
    ends_others: bool,
}

/// Who has a wrap.
#[derive(Debug)]
enum Members {
    Bundle(BTreeSet<Kid>),
    /// Each wrap is retained on a topic of its own.
    Sharded,
}

/// What the heads of a scope say of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpochState {
    /// No head of the scope is known.
    NoHead,
    /// It is in use, or was until a moment ago; since when, in unix milliseconds.
    InUse { since_ms: u64 },
    /// No head has it, it has not begun, or it is over.
    NotInUse,
}

/// What the heads of a scope say of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It has a wrap, or issues the keys.
    Member,
    /// Its wrap, if there is one, is retained below this issuer.
    Sharded(Kid),
    /// No head has it.
    Stranger,
}

impl Heads {
    /// Tells whether the retained heads of a scope still have to be read.
    pub(crate) fn lacks(&self, scope: &ScopeHash) -> bool {
        !self.known.contains(scope)
    }

    /// Takes note that the retained heads of a scope have been read.
    pub(crate) fn has_read(&mut self, scope: ScopeHash) {
        if self.known.len() >= HEADS_MAX {
            self.known.clear();
        }
        self.known.insert(scope);
    }

    /// Tells how a verified head stands to what is known; changes nothing. True if it is known already, byte by byte.
    pub(crate) fn compare(&self, scope: ScopeHash, head: &KeyHead) -> Result<bool, Break> {
        let Some(held) = self.by_issuer.get(&(scope, head.issuer)) else {
            let of_issuer = self.scopes.get(&head.issuer).copied().unwrap_or_default();
            let is_full = self.by_issuer.len() >= HEADS_MAX || of_issuer >= SCOPES_MAX;
            return if is_full { Err(Break::Full) } else { Ok(false) };
        };
        let newest = held.epochs.back().map_or(0, |epoch| epoch.number);
        if head.epoch < newest || head.epoch == newest && head.created_ms < held.created_ms {
            return Err(Break::Rollback);
        }
        if head.epoch == newest {
            if (head.commitment, head.previous) != (held.commitment, held.previous) {
                return Err(Break::Link);
            }
            let is_same = head.digest() == held.digest;
            return if is_same || head.created_ms > held.created_ms {
                Ok(is_same)
            } else {
                Err(Break::Rollback)
            };
        }
        match head.epoch - newest {
            1 if head.previous == held.link => Ok(false),
            1 => Err(Break::Link),
            _ => Err(Break::Gap),
        }
    }

    /// Remembers a head that was accepted, with the wraps of its bundle.
    pub(crate) fn remember(&mut self, scope: ScopeHash, head: &KeyHead, bundle: &[Wrap]) {
        let epoch = Epoch {
            number: head.epoch,
            activate_ms: head.activate_ms,
            retire_ms: head.retire_ms,
            ends_others: head.flags.contains(KeyHeadFlags::NO_TRANSITION),
        };
        let members = match head.flags.contains(KeyHeadFlags::SHARDED) {
            true => Members::Sharded,
            false => Members::Bundle(bundle.iter().map(|wrap| wrap.kid).collect()),
        };
        let earlier = self.by_issuer.remove(&(scope, head.issuer));
        if earlier.is_none() {
            *self.scopes.entry(head.issuer).or_default() += 1;
        }
        let mut epochs = earlier.map(|held| held.epochs).unwrap_or_default();
        epochs.retain(|other| other.number != epoch.number);
        epochs.push_back(epoch);
        while epochs.len() > EPOCHS_MAX {
            epochs.pop_front();
        }
        let held = Held {
            created_ms: head.created_ms,
            commitment: head.commitment,
            previous: head.previous,
            link: head.link(),
            digest: head.digest(),
            is_authority: head.flags.contains(KeyHeadFlags::AUTHORITY),
            epochs,
            members,
        };
        self.by_issuer.insert((scope, head.issuer), held);
    }

    /// Tells whether a sender may seal under an epoch now. A sender that issues keys itself is held to these and to those of
    /// authorities, any other to those of all issuers of the scope.
    pub(crate) fn epoch(
        &self,
        scope: ScopeHash,
        sender: Kid,
        number: u32,
        now_ms: u64,
        transition_ms: u64,
    ) -> EpochState {
        let issues_itself = self.by_issuer.contains_key(&(scope, sender));
        let mut state = EpochState::NoHead;
        for (issuer, held) in self.of_scope(scope) {
            if issues_itself && issuer != sender && !held.is_authority {
                continue;
            }
            if let Some(epoch) = held.in_use(number, now_ms, transition_ms) {
                return EpochState::InUse { since_ms: epoch.activate_ms };
            }
            state = EpochState::NotInUse;
        }
        state
    }

    /// Tells whether a client is a member of a scope.
    pub(crate) fn membership(&self, scope: ScopeHash, kid: Kid) -> Vec<Membership> {
        let of = |(issuer, held): (Kid, &Held)| match &held.members {
            _ if issuer == kid => Membership::Member,
            Members::Bundle(members) if members.contains(&kid) => Membership::Member,
            Members::Bundle(_) => Membership::Stranger,
            Members::Sharded => Membership::Sharded(issuer),
        };
        self.of_scope(scope).map(of).collect()
    }

    fn of_scope(&self, scope: ScopeHash) -> impl Iterator<Item = (Kid, &Held)> {
        let (first, last) = (Kid::from_bytes([0; 8]), Kid::from_bytes([0xFF; 8]));
        let range = self.by_issuer.range((scope, first)..=(scope, last));
        range.map(|((_, issuer), held)| (*issuer, held))
    }
}

impl Held {
    /// Returns an epoch if senders may use it now.
    fn in_use(&self, number: u32, now_ms: u64, transition_ms: u64) -> Option<&Epoch> {
        let at = self.epochs.iter().position(|epoch| epoch.number == number)?;
        let epoch = self.epochs.get(at)?;
        if now_ms.saturating_add(CLOCK_SKEW_MS) < epoch.activate_ms || now_ms > epoch.retire_ms {
            return None;
        }
        let ended =
            self.epochs.iter().skip(at + 1).filter(|later| later.activate_ms <= now_ms).any(|later| {
                let grace = if later.ends_others { 0 } else { transition_ms };
                now_ms - later.activate_ms >= grace
            });
        (!ended).then_some(epoch)
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::veil::Suite;
    use veilmq_protocol::veil::channel::IdentityKeys;
    use veilmq_protocol::veil::distribution::{KeyHeadFields, WrapSuite, scope_hash, scope_tag};
    use veilmq_protocol::veil::vmc::{CertificateFields, Roles};

    use super::*;

    fn head(seed: u8, scope: &str) -> KeyHead {
        let keys = IdentityKeys::from_seeds(&[seed; 32], &[seed ^ 0xFF; 32]);
        let certificate = CertificateFields {
            roles: Roles::PUBLISHER,
            serial: 1,
            not_before: 0,
            not_after: u64::MAX,
            ed25519: keys.ed25519_public(),
            x25519: keys.x25519_public(),
            subject: "press".to_owned(),
            publish_scopes: Vec::new(),
            subscribe_scopes: Vec::new(),
            path_length: None,
            revocation_topic: None,
        };
        let fields = KeyHeadFields {
            wrap_suite: WrapSuite::Aes256Gcm,
            flags: KeyHeadFlags::default(),
            scope_tag: scope_tag(scope),
            epoch: 1,
            issuer: keys.kid(),
            created_ms: 1,
            activate_ms: 1,
            retire_ms: 2,
            drop_ms: 3,
            message_suites: vec![Suite::Aes256Gcm],
            scope: scope.to_owned(),
            commitment: [1; 32],
            previous: [0; 32],
            roster_root: [0; 32],
            member_count: 0,
            certificate: certificate.sign(&keys).unwrap(),
        };
        fields.sign(&keys).unwrap()
    }

    #[test]
    fn an_issuer_of_too_many_scopes_takes_no_room_from_others() {
        let (mut heads, greedy) = (Heads::default(), head(1, "a"));
        for number in 0..SCOPES_MAX {
            let mut scope = [0; SCOPE_HASH_LEN];
            scope[..4].copy_from_slice(&number.to_be_bytes());
            assert_eq!(heads.compare(scope, &greedy), Ok(false));
            heads.remember(scope, &greedy, &[]);
            heads.remember(scope, &greedy, &[]);
        }

        let more = head(1, "b");
        assert_eq!(heads.compare(scope_hash("b"), &more), Err(Break::Full));
        assert_eq!(heads.compare([0; SCOPE_HASH_LEN], &greedy), Ok(true), "what is known goes on");
        assert_eq!(heads.compare(scope_hash("b"), &head(2, "b")), Ok(false));
    }
}
