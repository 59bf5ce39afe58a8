//! The issuer of one scope: its epochs, its roster, and the KEYHEADs that tell of both (VEIL-1 sections 8.3, 9.2, 12.4).
//!
//! Time and randomness are arguments. Invariants: epoch numbers and the times in heads only increase; a key that was wrapped
//! for a member that was removed since is never the newest; nothing is sent under an epoch that was not announced.

use std::collections::{BTreeMap, BTreeSet};

use veilmq_protocol::veil::{
    Certificate, CertificateError, Kid,
    channel::{Identity, hash},
    distribution::{
        BUNDLE_MEMBERS_MAX, DistributionError, DistributionTopic, KeyHead, KeyHeadFields, KeyHeadFlags,
        Prekey, Wrap, WrapKind, put_bundle, roster_root, scope_hash,
    },
};

use thiserror::Error;
use zeroize::Zeroizing;

use super::{Outgoing, barred::Barred, policy::IssuePolicy, retention::Retention};
use crate::e2e::{
    Entropy,
    keyring::{GroupKey, Window},
    rings::Rings,
    scope::Scope,
    sessions::{SESSIONS_MAX, SessionsUsed},
    wrapping::{self, Recipient, Row, RowKey},
};

/// Where an epoch is in its life at its issuer (VEIL-1 section 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IssuedState {
    /// Made, and nobody knows of it.
    Prepared,
    /// Its head is out.
    Announced,
    /// Messages are sealed under it.
    Sending,
    /// A later epoch has replaced it.
    Stopped,
}

/// A head, and its keys as a wrap holds them.
type HeadAndRow = (KeyHead, Zeroizing<Vec<u8>>);

pub(super) struct Issuer {
    pub(super) scope: Scope,
    /// What its topics call it.
    pub(super) hash: [u8; 8],
    pub(super) policy: IssuePolicy,
    pub(super) own: Kid,
    pub(super) authority: bool,
    pub(super) epochs: BTreeMap<u32, Epoch>,
    pub(super) members: BTreeMap<Kid, Member>,
    /// Removed, and let in again only by name.
    pub(super) barred: Barred,
    /// Number and link of the newest epoch there ever was.
    pub(super) tip: Option<(u32, [u8; 32])>,
    /// When the newest head was made, as it says; later than the one before, whatever the clock says.
    pub(super) head_ms: u64,
    /// When it was published, by the clock.
    pub(super) issued_ms: u64,
    /// The roster or a wrap is not what the newest head says.
    pub(super) stale: bool,
    /// Members whose retained wraps are to be cleared.
    pub(super) cleared: BTreeSet<Kid>,
    pub(super) retention: Retention,
    /// The announced epochs are where messages are sealed and opened.
    pub(super) installed: bool,
    /// Another epoch was due, and no number is left for it.
    pub(super) is_exhausted: bool,
    pub(super) told_exhausted: bool,
}

pub(super) struct Epoch {
    pub(super) key: GroupKey,
    pub(super) previous: [u8; 32],
    pub(super) lead_ms: u64,
    pub(super) no_transition: bool,
    /// Activation, once it is announced.
    pub(super) activate_ms: Option<u64>,
}

impl Epoch {
    /// When it may be used, once it is announced.
    fn window(&self, policy: &IssuePolicy) -> Option<Window> {
        let IssuePolicy { rotate_every_ms, outage_ms, timing, .. } = policy;
        let activate_ms = self.activate_ms?;
        let retire_ms = [rotate_every_ms, outage_ms, &timing.transition_window_ms]
            .into_iter()
            .fold(activate_ms, |moment, interval| moment.saturating_add(*interval));
        let drop_ms = retire_ms.saturating_add(timing.history_ms);
        Some(Window { activate_ms, retire_ms, drop_ms, no_transition: self.no_transition })
    }
}

pub(super) struct Member {
    pub(super) certificate: Certificate,
    pub(super) prekey: Option<Prekey>,
}

/// What became of someone who is to be a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    New,
    /// With this certificate already.
    Known,
    /// There is no room for another one.
    Full,
    /// It would need an epoch of its own, and no number is left for that.
    Exhausted,
}

/// Why an issuer did not do what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RosterError {
    /// This program issues no keys for the scope.
    #[error("no keys are issued for this scope here")]
    NotIssued,
    /// The scope has as many members as [`IssuePolicy::members_max`] allows.
    #[error("the scope has as many members as it may have")]
    Full,
    /// The newest epoch is [`u32::MAX`], and its key cannot be replaced: the scope needs an issuer with another identity.
    #[error("every epoch number of the scope is used; it needs an issuer with another identity")]
    EpochsExhausted,
    /// The certificate does not count.
    #[error("the certificate of the member: {0}")]
    Certificate(#[from] CertificateError),
}

/// Why epochs change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Because it is time, or someone asks for it.
    Ordinary,
    /// A member may read no longer.
    Removal,
    /// The key is known to others: what was sealed under it counts no more.
    Compromise,
}

impl Issuer {
    pub(super) fn new(scope: Scope, own: Kid, authority: bool, policy: IssuePolicy) -> Self {
        Self {
            hash: scope_hash(scope.as_str()),
            scope,
            policy,
            own,
            authority,
            epochs: BTreeMap::new(),
            members: BTreeMap::new(),
            barred: Barred::default(),
            tip: None,
            head_ms: 0,
            issued_ms: 0,
            stale: true,
            cleared: BTreeSet::new(),
            retention: Retention::new(),
            installed: true,
            is_exhausted: false,
            told_exhausted: false,
        }
    }

    /// The state of an epoch at its issuer, if it is still known.
    pub(super) fn state(&self, epoch: u32, now_unix_ms: u64) -> Option<IssuedState> {
        let held = self.epochs.get(&epoch)?;
        Some(match held.activate_ms {
            None => IssuedState::Prepared,
            Some(activate_ms) if activate_ms > now_unix_ms => IssuedState::Announced,
            Some(_) if self.sending(now_unix_ms) == Some(epoch) => IssuedState::Sending,
            Some(_) => IssuedState::Stopped,
        })
    }

    /// Lets a member in whose certificate was verified, or takes another certificate of it.
    pub(super) fn admit(&mut self, certificate: Certificate, entropy: Entropy<'_>) -> Admitted {
        let kid = certificate.kid();
        let has_room = self.members.len() < usize::from(self.policy.members_max);
        match self.members.get(&kid) {
            Some(member) if member.certificate == certificate => return Admitted::Known,
            None if !has_room => return Admitted::Full,
            Some(_) | None => {}
        }
        let needs_epoch = self.policy.join_secrecy && self.tip.is_some();
        if needs_epoch && self.rotate(Rotation::Ordinary, entropy).is_err() {
            return Admitted::Exhausted;
        }
        self.barred.lift(kid);
        self.cleared.remove(&kid);
        let prekey = self.members.remove(&kid).and_then(|member| member.prekey);
        self.members.insert(kid, Member { certificate, prekey });
        self.stale = true;
        Admitted::New
    }

    /// Whether the holder of a verified certificate is a member, or becomes one by showing it.
    pub(super) fn lets_in(&self, certificate: &Certificate) -> bool {
        let kid = certificate.kid();
        let is_member = self.members.contains_key(&kid);
        !self.bars(kid) && (is_member || self.policy.admission.admits(certificate, &self.scope))
    }

    /// Whether someone who is not a member is let in by name alone.
    pub(super) fn bars(&self, kid: Kid) -> bool {
        !self.members.contains_key(&kid) && self.barred.bars(kid)
    }

    /// The newest head that was announced, as it is with the members of now, and its keys as a wrap holds them.
    ///
    /// # Errors
    /// [`DistributionError`] when the head cannot be built.
    pub(super) fn current(
        &mut self,
        identity: &Identity,
        now_unix_ms: u64,
    ) -> Result<Option<HeadAndRow>, DistributionError> {
        let newest = self.epochs.last_key_value().filter(|(_, epoch)| epoch.activate_ms.is_some());
        let Some((&number, _)) = newest else { return Ok(None) };
        if self.stale {
            // What is retained next is newer still.
            self.head_ms = now_unix_ms.max(self.head_ms.saturating_add(1));
        }
        let Some(epoch) = self.epochs.get(&number) else { return Ok(None) };
        let head = self.head(number, epoch, true, identity)?.sign(identity.keys())?;
        Ok(Some((head, self.row(now_unix_ms).encode())))
    }

    /// Takes a verified prekey: of a member, or of someone whose certificate admits it. Returns whether it is new.
    pub(super) fn offer(&mut self, prekey: &Prekey, entropy: Entropy<'_>) -> bool {
        let kid = prekey.certificate.kid();
        if kid == self.own || self.bars(kid) {
            return false;
        }
        if !self.members.contains_key(&kid) {
            let admitted = self.policy.admission.admits(&prekey.certificate, &self.scope);
            if !admitted {
                return false;
            }
            self.admit(prekey.certificate.clone(), entropy);
        }
        let Some(member) = self.members.get_mut(&kid) else { return false };
        if member.certificate.not_before < prekey.certificate.not_before {
            // The same keys with a certificate that was renewed.
            member.certificate = prekey.certificate.clone();
        }
        if member.prekey.as_ref().is_some_and(|known| known.id >= prekey.id) {
            return false;
        }
        member.prekey = Some(prekey.clone());
        self.stale = true;
        true
    }

    /// Takes out every member whose certificate does not count any more, and changes the epoch; with another certificate it
    /// may come back.
    pub(super) fn revise(
        &mut self,
        is_revoked: impl Fn(&Certificate) -> Option<Rotation>,
        entropy: Entropy<'_>,
    ) -> Vec<Kid> {
        let revoked: Vec<(Kid, Rotation)> = self
            .members
            .iter()
            .filter_map(|(kid, member)| Some((*kid, is_revoked(&member.certificate)?)))
            .collect();
        for (kid, rotation) in &revoked {
            self.take_out(*kid, *rotation, &mut *entropy);
        }
        revoked.into_iter().map(|(kid, _)| kid).collect()
    }

    /// Takes a member out and changes the epoch. Returns whether it was one.
    pub(super) fn take_out(&mut self, kid: Kid, rotation: Rotation, entropy: Entropy<'_>) -> bool {
        if self.members.remove(&kid).is_none() {
            return false;
        }
        self.cleared.insert(kid);
        if self.rotate(rotation, entropy).is_err() {
            // Rather no key than one that somebody else has.
            self.epochs.clear();
            self.installed = false;
        }
        true
    }

    /// Prepares another epoch; it is announced with the next [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`RosterError::EpochsExhausted`].
    pub(super) fn rotate(&mut self, rotation: Rotation, entropy: Entropy<'_>) -> Result<(), RosterError> {
        let (lead_ms, no_transition) = match rotation {
            Rotation::Ordinary => (self.policy.key_lead_ms, false),
            Rotation::Removal => (self.policy.removal_lead_ms, false),
            Rotation::Compromise => (self.policy.removal_lead_ms, true),
        };
        if let Some(prepared) =
            self.epochs.values_mut().next_back().filter(|epoch| epoch.activate_ms.is_none())
        {
            // Nobody has its key yet, so it serves for this as well.
            prepared.lead_ms = prepared.lead_ms.min(lead_ms);
            prepared.no_transition |= no_transition;
            return Ok(());
        }
        let (last, previous) = self.tip.unwrap_or_default();
        let Some(number) = last.checked_add(1) else {
            self.is_exhausted = true;
            return Err(RosterError::EpochsExhausted);
        };
        let mut key = Zeroizing::new([0; 32]);
        entropy(key.as_mut_slice());
        let key = GroupKey::new(&key);
        let commitment = wrapping::commitment(&key, &self.scope, number, self.own);
        self.tip = Some((number, hash(&[b"veil1 epoch", &commitment, &previous])));
        self.epochs.insert(number, Epoch { key, previous, lead_ms, no_transition, activate_ms: None });
        Ok(())
    }

    /// Whether it is news that no epoch can follow the newest.
    pub(super) fn take_exhausted(&mut self) -> bool {
        self.is_exhausted && !std::mem::replace(&mut self.told_exhausted, true)
    }

    /// Whether the last epoch there can be was and is no more.
    pub(super) fn is_over(&self) -> bool {
        self.epochs.is_empty() && self.tip.is_some_and(|(last, _)| last == u32::MAX)
    }

    /// Goes on after a head of this issuer that this state knows nothing of: it was restored from an older copy.
    pub(super) fn overtake(&mut self, head: &KeyHead, entropy: Entropy<'_>) -> bool {
        let ours = self.tip.is_some_and(|(number, link)| number > head.epoch || link == head.link());
        if ours {
            return false;
        }
        // What is held may have the same numbers and other keys, and nobody would take it.
        self.epochs.clear();
        self.tip = Some((head.epoch, head.link()));
        self.head_ms = self.head_ms.max(head.created_ms);
        // Where no number is left, nothing is sealed any more.
        self.installed &= self.rotate(Rotation::Removal, entropy).is_ok();
        true
    }

    /// Takes what came on the topic of its heads. Returns whether it is news that the newest is not retained, and is put back.
    pub(super) fn hear(&mut self, payload: &[u8], now_unix_ms: u64) -> bool {
        self.retention.heard(payload, now_unix_ms, self.policy.settle_ms)
    }

    /// Prepares the next epoch when it is time and forgets keys that are needed no longer. Returns whether anything changed.
    pub(super) fn advance(
        &mut self,
        used: Option<SessionsUsed>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> bool {
        let (before, tip) = (self.epochs.len(), self.tip);
        // A clock that was set back.
        self.issued_ms = self.issued_ms.min(now_unix_ms);
        self.retention.advance(now_unix_ms);
        let is_due = self.rotation_due().is_some_and(|due| due <= now_unix_ms) || self.is_ahead(now_unix_ms);
        if self.epochs.is_empty() || is_due || used.is_some_and(|used| self.is_worn(used)) {
            // The last epoch there can be goes on until it is over.
            let _ = self.rotate(Rotation::Ordinary, entropy);
        }
        let policy = &self.policy;
        self.epochs.retain(|_, epoch| epoch.window(policy).is_none_or(|window| window.drop_ms > now_unix_ms));
        if let Some(sending) = self.sending(now_unix_ms) {
            let oldest = sending.saturating_sub(u32::from(self.policy.shared_history));
            self.epochs.retain(|number, _| *number >= oldest);
        }
        (before, tip) != (self.epochs.len(), self.tip)
    }

    /// Whether the newest epoch was announced by a clock that has been set back since: it would be long before anybody seals under it.
    fn is_ahead(&self, now_unix_ms: u64) -> bool {
        let lead_ms = self.policy.key_lead_ms.max(self.policy.removal_lead_ms);
        let newest = self.epochs.values().next_back().and_then(|epoch| epoch.activate_ms);
        newest.is_some_and(|activate_ms| activate_ms > now_unix_ms.saturating_add(lead_ms))
    }

    /// Whether too many sender sessions have used the newest key.
    fn is_worn(&self, used: SessionsUsed) -> bool {
        let is_newest = self.tip.is_some_and(|(newest, _)| newest == used.epoch);
        is_newest && used.count > self.policy.sessions_max.min(SESSIONS_MAX)
    }

    /// Whether there is an epoch, and the newest one has its head.
    pub(super) fn is_announced(&self) -> bool {
        self.epochs.values().next_back().is_some_and(|newest| newest.activate_ms.is_some())
    }

    /// When [`advance`](Self::advance) has something to do again after it has been called now, if neither the issuer nor the clock is
    /// changed; in unix milliseconds.
    pub(super) fn advance_due(&self, now_unix_ms: u64) -> u64 {
        let activations = self.epochs.values().filter_map(|epoch| epoch.activate_ms);
        // One that becomes active may be the last reason to keep another.
        let activations = activations.filter(|activate_ms| *activate_ms > now_unix_ms);
        let over = self.epochs.values().filter_map(|epoch| Some(epoch.window(&self.policy)?.drop_ms));
        activations.chain(over).chain(self.rotation_due()).min().unwrap_or(u64::MAX)
    }

    /// When [`advance`](Self::advance) or [`publish`](Self::publish) has something to do, in unix milliseconds.
    pub(super) fn next_due(&self) -> u64 {
        if self.is_over() {
            return u64::MAX;
        }
        if !self.is_announced() {
            return 0;
        }
        let issue = if self.stale { self.policy.settle_ms } else { self.policy.reissue_every_ms };
        let issue_ms = self.issued_ms.saturating_add(issue).min(self.retention.due_ms());
        self.rotation_due().unwrap_or(u64::MAX).min(issue_ms)
    }

    /// Returns what is to be published now, after what it says was saved: a head and its wraps, or nothing.
    ///
    /// # Errors
    /// [`DistributionError`] when the head cannot be built, for instance because the certificate is too long.
    pub(super) fn publish(
        &mut self,
        identity: &Identity,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<Outgoing>, DistributionError> {
        let Some((&number, newest)) = self.epochs.last_key_value() else { return Ok(Vec::new()) };
        let announced = newest.activate_ms.is_some();
        if announced && self.next_due() > now_unix_ms {
            return Ok(Vec::new());
        }
        if !announced {
            self.announce(number, now_unix_ms);
        }
        self.head_ms = now_unix_ms.max(self.head_ms.saturating_add(1));
        self.issued_ms = now_unix_ms;
        self.stale = false;
        let Some(epoch) = self.epochs.get(&number) else { return Ok(Vec::new()) };
        let head = self.head(number, epoch, announced, identity)?.sign(identity.keys())?;
        let row = self.row(now_unix_ms);
        let wraps: Vec<Wrap> = self
            .members
            .iter()
            .filter_map(|(kid, member)| self.recipient(*kid, member, now_unix_ms))
            .filter_map(|recipient| wrapping::wrap(&head, &recipient, &row, &mut *entropy))
            .collect();
        Ok(self.packages(&head, &wraps, now_unix_ms))
    }

    /// Puts the announced epochs where messages are sealed and opened.
    pub(super) fn install(&mut self, rings: &mut Rings) {
        self.installed = true;
        let is_over = self.is_over();
        let ring = rings.ring(self.own);
        ring.authority = self.authority;
        ring.signed_only = self.policy.signed_only;
        ring.suites.clone_from(&self.policy.suites);
        if is_over {
            ring.keyring.drop_through(u32::MAX);
        }
        for (number, epoch) in &self.epochs {
            if let Some(window) = epoch.window(&self.policy) {
                ring.keyring.install(*number, epoch.key.copy(), window);
            }
        }
    }

    /// Gives the newest epoch its time. An earlier one that was to become active later never will.
    fn announce(&mut self, number: u32, now_unix_ms: u64) {
        let first = self.epochs.len() == 1 && self.head_ms == 0;
        if let Some(epoch) = self.epochs.get_mut(&number) {
            let lead_ms = if first { 0 } else { epoch.lead_ms };
            epoch.activate_ms = Some(now_unix_ms.saturating_add(lead_ms));
        }
    }

    fn head(
        &self,
        number: u32,
        epoch: &Epoch,
        announced: bool,
        identity: &Identity,
    ) -> Result<KeyHeadFields, DistributionError> {
        let window = epoch.window(&self.policy).ok_or(DistributionError::Value("activation"))?;
        let sharded = self.members.len() > BUNDLE_MEMBERS_MAX;
        let roster: BTreeSet<Kid> = self.members.keys().copied().collect();
        Ok(KeyHeadFields {
            wrap_suite: self.policy.wrap_suite,
            flags: KeyHeadFlags::default()
                .with(KeyHeadFlags::BUNDLE, !sharded)
                .with(KeyHeadFlags::SHARDED, sharded)
                .with(KeyHeadFlags::AUTHORITY, self.authority)
                .with(KeyHeadFlags::REISSUE, announced)
                .with(KeyHeadFlags::SIGNED_ONLY, self.policy.signed_only)
                .with(KeyHeadFlags::NO_TRANSITION, epoch.no_transition),
            scope_tag: self.scope.tag(),
            epoch: number,
            issuer: self.own,
            created_ms: self.head_ms,
            activate_ms: window.activate_ms,
            retire_ms: window.retire_ms,
            drop_ms: window.drop_ms,
            message_suites: self.policy.suites.clone(),
            scope: self.scope.as_str().to_owned(),
            commitment: wrapping::commitment(&epoch.key, &self.scope, number, self.own),
            previous: epoch.previous,
            roster_root: roster_root(&roster),
            member_count: u16::try_from(roster.len())
                .map_err(|_| DistributionError::Value("member count"))?,
            certificate: identity.certificate().clone(),
        })
    }

    /// The newest key, those members need until it is active, and what history they may have.
    fn row(&self, now_unix_ms: u64) -> Row<'_> {
        let newest = self.epochs.keys().next_back().copied().unwrap_or_default();
        let oldest = match self.policy.join_secrecy {
            true => newest,
            false => {
                let sending = self.sending(now_unix_ms).unwrap_or(newest);
                sending.saturating_sub(u32::from(self.policy.shared_history))
            }
        };
        let no_transition = self.epochs.get(&newest).is_some_and(|epoch| epoch.no_transition);
        let oldest = if no_transition { newest } else { oldest };
        let mut row = Row { keys: Vec::new(), previous: [0; 32] };
        for (number, epoch) in self.epochs.range(oldest..).rev() {
            let Some(activate_ms) = epoch.activate_ms else { continue };
            row.keys.push(RowKey { epoch: *number, key: &epoch.key, activate_ms });
            row.previous = epoch.previous;
        }
        row
    }

    fn recipient(&self, kid: Kid, member: &Member, now_unix_ms: u64) -> Option<Recipient> {
        if let Some(prekey) = member.prekey.as_ref().filter(|prekey| prekey.not_after_ms > now_unix_ms) {
            return Some(Recipient {
                kid,
                kind: WrapKind::Prekey,
                prekey_id: prekey.id,
                public: prekey.x25519,
            });
        }
        let public = self.policy.allow_static_wrap.then_some(member.certificate.x25519)?;
        Some(Recipient { kid, kind: WrapKind::Static, prekey_id: 0, public })
    }

    fn packages(&mut self, head: &KeyHead, wraps: &[Wrap], now_unix_ms: u64) -> Vec<Outgoing> {
        let (scope, issuer) = (self.hash, self.own);
        let mut payload = head.as_bytes().to_vec();
        let sharded = head.flags.contains(KeyHeadFlags::SHARDED);
        if !sharded {
            put_bundle(&mut payload, wraps);
        }
        self.retention.published(&payload, now_unix_ms);
        let retained = |topic: DistributionTopic, payload| {
            let topic = topic.to_string();
            Outgoing { topic, payload, retain: true, answer: None }
        };
        let mut packages = vec![retained(DistributionTopic::KeyHead { scope, issuer }, payload)];
        for wrap in wraps.iter().filter(|_| sharded) {
            let mut payload = Vec::with_capacity(128);
            wrap.encode(&mut payload);
            packages.push(retained(DistributionTopic::Wrap { scope, issuer, member: wrap.kid }, payload));
        }
        for member in std::mem::take(&mut self.cleared) {
            packages.push(retained(DistributionTopic::Wrap { scope, issuer, member }, Vec::new()));
        }
        packages
    }

    /// The newest epoch that is active.
    pub(super) fn sending(&self, now_unix_ms: u64) -> Option<u32> {
        let active = |epoch: &Epoch| epoch.activate_ms.is_some_and(|activate_ms| activate_ms <= now_unix_ms);
        self.epochs.iter().rev().find(|(_, epoch)| active(epoch)).map(|(number, _)| *number)
    }

    /// When the newest epoch is to be replaced, or is over if that cannot be.
    fn rotation_due(&self) -> Option<u64> {
        let newest = self.epochs.values().next_back()?;
        let activate_ms = newest.activate_ms?;
        if self.is_exhausted {
            return Some(newest.window(&self.policy)?.drop_ms);
        }
        Some(activate_ms.saturating_add(self.policy.rotate_every_ms).saturating_sub(self.policy.key_lead_ms))
    }
}
