//! A member of one scope: which heads it believes and what keys it gets from them (VEIL-1 section 9.2).
//!
//! Invariants: the newest head of an issuer that was believed is remembered, so that no older one is; a key is installed only
//! if the signed head commits to it.

use std::collections::BTreeMap;

use thiserror::Error;
use veilmq_protocol::veil::{
    Certificate, Kid,
    channel::{Identity, TrustAnchors},
    distribution::{DistributionError, KeyHead, KeyHeadFlags, Wrap, WrapKind, bundle, scope_hash},
};

use super::prekeys::Prekeys;
use crate::e2e::{
    keyring::Window,
    rings::Rings,
    scope::Scope,
    wrapping::{UnwrapError, Unwrapped, unwrap},
};

/// Wraps that may wait for their heads, and heads for their wraps.
const WAITING_MAX: usize = 16;
/// How long a wrap may come after its head, in milliseconds, before its issuer is asked: it publishes thousands of them one by one.
const WRAP_WAIT_MS: u64 = 30_000;
/// A head that is older than this was not issued again in time (VEIL-1 section 17).
const HEAD_TTL_MS: u64 = 24 * 3_600 * 1_000;

/// Names why a KEYHEAD was not believed or gave no key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// It is malformed, or its issuer may not speak for the scope.
    #[error(transparent)]
    Object(#[from] DistributionError),
    /// It does not belong to the topic it came on.
    #[error("the head belongs to another topic")]
    TopicMismatch,
    /// A newer one is known.
    #[error("the head of epoch {epoch} is older than one already accepted")]
    Rollback {
        /// Its epoch.
        epoch: u32,
    },
    /// Two heads of one epoch commit to different keys.
    #[error("the issuer has given two keys for epoch {epoch}")]
    Equivocation {
        /// Their epoch.
        epoch: u32,
    },
    /// It follows another epoch than the one that is known.
    #[error("the head of epoch {epoch} does not follow the one that is known")]
    BrokenChain {
        /// Its epoch.
        epoch: u32,
    },
    /// There is no wrap for this member.
    #[error("epoch {epoch} was issued without this member")]
    NotAMember {
        /// The epoch.
        epoch: u32,
    },
    /// There is one, and it gives no key.
    #[error("epoch {epoch}: {error}")]
    Unwrap {
        /// The epoch.
        epoch: u32,
        /// Why.
        error: UnwrapError,
    },
}

/// What became of a head or wrap that was believed.
pub(super) enum Taken {
    /// There is a new key, or new times for one, from the issuer with this certificate.
    Installed { epoch: u32, issuer: Box<Certificate> },
    /// Nothing new.
    Known,
    /// The other half is still to come.
    Waiting,
}

/// The newest head of an issuer that was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u32,
    pub(super) created_ms: u64,
    pub(super) link: [u8; 32],
    /// Its key is held.
    pub(super) opened: bool,
}

impl Mark {
    /// From when on the issuer should have issued again.
    const fn stale_ms(&self) -> u64 {
        self.created_ms.saturating_add(HEAD_TTL_MS)
    }
}

pub(super) struct Membership {
    pub(super) scope: Scope,
    /// What its topics call it.
    pub(super) hash: [u8; 8],
    pub(super) marks: BTreeMap<Kid, Mark>,
    heads: BTreeMap<Kid, Waiting>,
    wraps: BTreeMap<Kid, Wrap>,
    /// When the heads were made of which it was told that they are old.
    told: BTreeMap<Kid, u64>,
}

/// A head that gives no key before its wrap comes.
struct Waiting {
    head: KeyHead,
    /// When its issuer is asked for the key, in unix milliseconds; never, if it has been.
    ask_ms: u64,
}

/// What a member opens wraps with and believes heads by.
#[derive(Clone, Copy)]
pub(super) struct Holder<'a> {
    pub(super) identity: &'a Identity,
    pub(super) prekeys: &'a Prekeys,
    pub(super) anchors: &'a TrustAnchors,
    pub(super) now_unix_ms: u64,
}

impl Membership {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            hash: scope_hash(scope.as_str()),
            scope,
            marks: BTreeMap::new(),
            heads: BTreeMap::new(),
            wraps: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// The issuers whose newest head was not issued again in time: they may be away, or the broker may hide what they say. Each
    /// head is told of once.
    pub(super) fn take_stale(&mut self, now_unix_ms: u64) -> Vec<Kid> {
        let Self { marks, told, .. } = self;
        let stale = marks.iter().filter(|(_, mark)| mark.opened && mark.stale_ms() < now_unix_ms);
        let new = stale.filter(|(kid, mark)| told.insert(**kid, mark.created_ms) != Some(mark.created_ms));
        new.map(|(kid, _)| *kid).collect()
    }

    /// When [`take_stale`](Self::take_stale) has something to say at the earliest, in unix milliseconds.
    pub(super) fn stale_due(&self) -> u64 {
        let waiting = self.marks.iter().filter(|(kid, mark)| {
            mark.opened && self.told.get(kid).is_none_or(|created_ms| *created_ms != mark.created_ms)
        });
        waiting.map(|(_, mark)| mark.stale_ms().saturating_add(1)).min().unwrap_or(u64::MAX)
    }

    /// The issuers whose heads have waited too long for a wrap that fits: the broker may have lost it, or somebody overwritten it. Each
    /// head is told of once.
    pub(super) fn take_overdue(&mut self, now_unix_ms: u64) -> Vec<Kid> {
        let latest_ms = now_unix_ms.saturating_add(WRAP_WAIT_MS);
        let mut overdue = Vec::new();
        for (issuer, waiting) in self.heads.iter_mut().filter(|(_, waiting)| waiting.ask_ms != u64::MAX) {
            // A clock that was set back.
            waiting.ask_ms = waiting.ask_ms.min(latest_ms);
            if waiting.ask_ms <= now_unix_ms {
                waiting.ask_ms = u64::MAX;
                overdue.push(*issuer);
            }
        }
        overdue
    }

    /// When [`take_overdue`](Self::take_overdue) has something to say at the earliest, in unix milliseconds.
    pub(super) fn overdue_due(&self) -> u64 {
        self.heads.values().map(|waiting| waiting.ask_ms).min().unwrap_or(u64::MAX)
    }

    /// Takes what came on the topic of `issuer`'s heads.
    ///
    /// # Errors
    /// [`HeadError`].
    pub(super) fn take_head(
        &mut self,
        issuer: Kid,
        payload: &[u8],
        holder: Holder<'_>,
        rings: &mut Rings,
    ) -> Result<Taken, HeadError> {
        let (head, rest) = KeyHead::parse(payload)?;
        if head.issuer != issuer || head.scope != self.scope.as_str() {
            return Err(HeadError::TopicMismatch);
        }
        head.verify(holder.anchors, Some(holder.now_unix_ms / 1000))?;
        if self.is_known(&head)? {
            rings.vouch(issuer, &head.certificate);
            return Ok(Taken::Known);
        }
        let own = holder.identity.kid();
        let wrap = match head.flags.contains(KeyHeadFlags::SHARDED) {
            true => self.wraps.get(&issuer).cloned(),
            false => {
                let found = bundle(rest)?.into_iter().find(|wrap| wrap.kid == own);
                Some(found.ok_or_else(|| self.left_out(&head))?)
            }
        };
        let Some(wrap) = wrap else {
            self.keep_head(head, holder.now_unix_ms);
            return Ok(Taken::Waiting);
        };
        match self.open(&head, &wrap, holder, rings) {
            // A wrap on a topic of its own may be that of the head before.
            Err(HeadError::Unwrap { .. }) if head.flags.contains(KeyHeadFlags::SHARDED) => {
                self.keep_head(head, holder.now_unix_ms);
                Ok(Taken::Waiting)
            }
            result => result,
        }
    }

    /// Takes what came on this member's topic of wraps by `issuer`.
    ///
    /// # Errors
    /// [`HeadError`].
    pub(super) fn take_wrap(
        &mut self,
        issuer: Kid,
        payload: &[u8],
        holder: Holder<'_>,
        rings: &mut Rings,
    ) -> Result<Taken, HeadError> {
        if payload.is_empty() {
            self.wraps.remove(&issuer);
            return Ok(Taken::Known);
        }
        let wrap = Wrap::parse(payload)?;
        if wrap.kid != holder.identity.kid() {
            return Err(HeadError::TopicMismatch);
        }
        let Some(waiting) = self.heads.remove(&issuer) else {
            self.keep_wrap(issuer, wrap);
            return Ok(Taken::Waiting);
        };
        let result = self.open(&waiting.head, &wrap, holder, rings);
        self.keep_wrap(issuer, wrap);
        if result.is_err() {
            self.heads.insert(issuer, waiting);
        }
        result
    }

    /// Keeps a head until there is a wrap for it.
    fn keep_head(&mut self, head: KeyHead, now_unix_ms: u64) {
        let known = self.heads.get(&head.issuer);
        if known.is_none() && self.heads.len() >= WAITING_MAX {
            return;
        }
        // Hearing it again puts nothing off.
        let is_same = |waiting: &&Waiting| waiting.head.as_bytes() == head.as_bytes();
        let asked_ms = known.filter(is_same).map_or(u64::MAX, |waiting| waiting.ask_ms);
        let ask_ms = asked_ms.min(now_unix_ms.saturating_add(WRAP_WAIT_MS));
        self.heads.insert(head.issuer, Waiting { head, ask_ms });
    }

    /// Keeps a wrap until there is a head for it. Anyone can make one, so those of issuers that nobody knows give way to the others,
    /// and the older ones among them to the newer.
    fn keep_wrap(&mut self, issuer: Kid, wrap: Wrap) {
        let is_known = |issuer: &Kid| self.marks.contains_key(issuer) || self.heads.contains_key(issuer);
        if self.wraps.len() >= WAITING_MAX && !self.wraps.contains_key(&issuer) {
            let Some(stranger) = self.wraps.keys().find(|kid| !is_known(kid)).copied() else { return };
            self.wraps.remove(&stranger);
        }
        self.wraps.insert(issuer, wrap);
    }

    /// Takes a head and the keys it commits to from an issuer that was asked.
    ///
    /// # Errors
    /// [`HeadError`].
    pub(super) fn take_answer(
        &mut self,
        head: &KeyHead,
        keys: Vec<Unwrapped>,
        holder: Holder<'_>,
        rings: &mut Rings,
    ) -> Result<Taken, HeadError> {
        head.verify(holder.anchors, Some(holder.now_unix_ms / 1000))?;
        if self.is_known(head)? {
            return Ok(Taken::Known);
        }
        self.install(head, keys, rings);
        Ok(Taken::Installed { epoch: head.epoch, issuer: Box::new(head.certificate.clone()) })
    }

    /// Believes a verified head unless a newer one is known; true if this very one is.
    fn is_known(&self, head: &KeyHead) -> Result<bool, HeadError> {
        let Some(mark) = self.marks.get(&head.issuer) else { return Ok(false) };
        let epoch = head.epoch;
        if (epoch, head.created_ms) < (mark.epoch, mark.created_ms) {
            return Err(HeadError::Rollback { epoch });
        }
        if epoch == mark.epoch && head.link() != mark.link {
            return Err(HeadError::Equivocation { epoch });
        }
        if mark.epoch.checked_add(1) == Some(epoch) && head.previous != mark.link {
            return Err(HeadError::BrokenChain { epoch });
        }
        Ok(epoch == mark.epoch && head.created_ms == mark.created_ms && mark.opened)
    }

    /// A head without this member still rules out every older one.
    fn left_out(&mut self, head: &KeyHead) -> HeadError {
        let mark = Mark { epoch: head.epoch, created_ms: head.created_ms, link: head.link(), opened: false };
        self.marks.insert(head.issuer, mark);
        HeadError::NotAMember { epoch: head.epoch }
    }

    fn open(
        &mut self,
        head: &KeyHead,
        wrap: &Wrap,
        holder: Holder<'_>,
        rings: &mut Rings,
    ) -> Result<Taken, HeadError> {
        let epoch = head.epoch;
        let opened = match wrap.kind {
            WrapKind::Static => unwrap(head, wrap, &holder.identity.keys().x25519_secret(), &self.scope),
            WrapKind::Prekey => match holder.prekeys.secret(wrap.prekey_id) {
                Some(secret) => unwrap(head, wrap, secret, &self.scope),
                None => Err(UnwrapError::Sealed),
            },
        };
        let keys = opened.map_err(|error| HeadError::Unwrap { epoch, error })?;
        self.install(head, keys, rings);
        Ok(Taken::Installed { epoch, issuer: Box::new(head.certificate.clone()) })
    }

    /// Takes the keys a believed head commits to.
    pub(super) fn install(&mut self, head: &KeyHead, keys: Vec<Unwrapped>, rings: &mut Rings) {
        let mark = Mark { epoch: head.epoch, created_ms: head.created_ms, link: head.link(), opened: true };
        self.marks.insert(head.issuer, mark);
        self.heads.retain(|_, Waiting { head: waiting, .. }| {
            waiting.issuer != head.issuer
                || (waiting.epoch, waiting.created_ms) > (head.epoch, head.created_ms)
        });
        let ring = rings.ring(head.issuer);
        ring.authority = head.flags.contains(KeyHeadFlags::AUTHORITY);
        ring.signed_only = head.flags.contains(KeyHeadFlags::SIGNED_ONLY);
        ring.suites.clone_from(&head.message_suites);
        ring.vouched = Some((head.certificate.issuer(), head.certificate.serial));
        for Unwrapped { epoch, key, activate_ms } in keys {
            let window = match epoch == head.epoch {
                true => Window {
                    activate_ms,
                    retire_ms: head.retire_ms,
                    drop_ms: head.drop_ms,
                    no_transition: head.flags.contains(KeyHeadFlags::NO_TRANSITION),
                },
                false => Window { activate_ms, retire_ms: u64::MAX, drop_ms: u64::MAX, no_transition: false },
            };
            let held = ring.keyring.held().any(|(number, _, _)| number == epoch);
            if epoch == head.epoch || !held {
                ring.keyring.install(epoch, key, window);
            }
        }
    }
}
