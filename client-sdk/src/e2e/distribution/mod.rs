//! Distribution of group keys: what this program says and hears on the topics under `_veil/1/` (VEIL-1 sections 8.3, 9).
//!
//! [`Distribution`] owns the scopes this program issues keys for, those it is a member of, its prekeys and what it knows of
//! revocation. It does no I/O: callers hand in messages, time and randomness, publish what [`Distribution::outgoing`] returns
//! after saving [`Distribution::export`], and subscribe to [`Distribution::filters`]. Keys go into the
//! [`E2e`] that every call is given. Invariant: nothing is installed that a verified head does not commit to.

mod barred;
mod event;
mod issuer;
mod issuers;
mod join;
mod joining;
mod membership;
mod memberships;
mod pairs;
mod policy;
mod prekeys;
mod retention;
mod revocation;
mod roster;
mod saved;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use veilmq_protocol::veil::{
    Kid, Roles,
    channel::{Identity, TrustAnchors},
    distribution::{Crl, DistributionError, DistributionTopic, KeyHead, Prekey},
};

pub use self::{
    event::{KeyEvent, Outgoing},
    issuer::{IssuedState, RosterError, Rotation},
    join::JoinError,
    membership::HeadError,
    policy::{Admission, IssuePolicy},
};
use self::{
    issuer::Issuer,
    issuers::Issuers,
    join::{Asked, Asking},
    membership::{Holder, Membership, Taken},
    memberships::Memberships,
    pairs::PairExchanges,
    prekeys::Prekeys,
};
use super::{
    E2e, Entropy,
    config::{EnvelopeOptions, ScopeConfig},
    error::ConfigError,
    keyring::EpochTiming,
    rings::Rings,
    scope::Scope,
    wrapping::UnwrapError,
};

/// Senders whose certificates are asked for at a time.
const WANTED_MAX: usize = 256;

/// How a membership takes what came on one kind of topic.
type Take = fn(&mut Membership, Kid, &[u8], Holder<'_>, &mut Rings) -> Result<Taken, HeadError>;

/// Everything one program needs to issue keys and to get them; see the [module](self).
pub struct Distribution {
    identity: Arc<Identity>,
    anchors: TrustAnchors,
    memberships: Memberships,
    issuers: Issuers,
    prekeys: Prekeys,
    prekey_due: bool,
    /// The newest list of each authority.
    lists: BTreeMap<Kid, Crl>,
    /// Lists have come that [`take_revoked`](Self::take_revoked) has not told of.
    has_new_lists: bool,
    /// The numbers of the lists of which it was told that they are past their time.
    told_lists: BTreeMap<Kid, u64>,
    /// Senders whose certificates are asked for.
    wanted: VecDeque<Kid>,
    /// Something that [`filters`](Self::filters) goes by has changed.
    filters_changed: bool,
    /// What this member has asked, and what was asked of this issuer.
    asking: Vec<Asking>,
    asked: Asked,
    pairs: PairExchanges,
    /// To be published as soon as there is a connection.
    queued: Vec<Outgoing>,
    changed: bool,
    events: Vec<KeyEvent>,
}

impl Distribution {
    /// Starts without scopes. `anchors` say which certificates count.
    pub fn new(identity: Arc<Identity>, anchors: TrustAnchors) -> Self {
        Self {
            identity,
            anchors,
            memberships: Memberships::default(),
            issuers: Issuers::default(),
            prekeys: Prekeys::default(),
            prekey_due: true,
            lists: BTreeMap::new(),
            has_new_lists: false,
            told_lists: BTreeMap::new(),
            wanted: VecDeque::new(),
            filters_changed: true,
            asking: Vec::new(),
            asked: Asked::default(),
            pairs: PairExchanges::default(),
            queued: Vec::new(),
            changed: false,
            events: Vec::new(),
        }
    }

    /// Becomes a member of a scope: its keys come from whoever is certified to issue them.
    ///
    /// # Errors
    /// [`ConfigError::DuplicateScope`].
    pub fn join(&mut self, e2e: &mut E2e, scope: Scope, options: EnvelopeOptions) -> Result<(), ConfigError> {
        self.add_scope(e2e, &scope, EpochTiming::default(), options)?;
        self.filters_changed = true;
        self.memberships.push(Membership::new(scope));
        Ok(())
    }

    /// Issues the keys of a scope: as key authority if the certificate says so, else as a publisher for its own messages.
    ///
    /// # Errors
    /// [`ConfigError::DuplicateScope`] and [`ConfigError::MayNotIssue`].
    pub fn issue(
        &mut self,
        e2e: &mut E2e,
        scope: Scope,
        options: EnvelopeOptions,
        policy: IssuePolicy,
    ) -> Result<(), ConfigError> {
        let roles = self.identity.certificate().roles;
        if !roles.intersects(Roles::KEY_AUTHORITY | Roles::PUBLISHER) {
            return Err(ConfigError::MayNotIssue);
        }
        self.add_scope(e2e, &scope, policy.timing, options)?;
        self.filters_changed = true;
        let authority = roles.contains(Roles::KEY_AUTHORITY);
        self.memberships.push(Membership::new(scope.clone()));
        self.issuers.push(Issuer::new(scope, self.identity.kid(), authority, policy));
        Ok(())
    }

    fn add_scope(
        &self,
        e2e: &mut E2e,
        scope: &Scope,
        timing: EpochTiming,
        options: EnvelopeOptions,
    ) -> Result<(), ConfigError> {
        e2e.add_scope(ScopeConfig::distributed(scope.clone(), self.identity.kid(), timing, options))
    }

    /// The Topic Filters to subscribe to; there may be more of them later.
    pub fn filters(&self) -> Vec<String> {
        let mut filters = self.reading_filters();
        let own = self.identity.kid();
        if self.is_issuer() {
            filters.push(DistributionTopic::Join { issuer: own }.to_string());
        }
        for authority in self.anchors.iter().filter(|anchor| anchor.roles.contains(Roles::CA)) {
            filters.push(DistributionTopic::Revocations { authority: authority.kid() }.to_string());
        }
        if !self.issuers.is_empty() {
            filters.push(format!("{}pre/+", DistributionTopic::PREFIX));
        }
        filters
    }

    /// Returns whether the [`filters`](Self::filters) may have changed since this was last asked.
    pub const fn take_filters_changed(&mut self) -> bool {
        std::mem::replace(&mut self.filters_changed, false)
    }

    /// There is a connection: what the broker retains comes again on the [`filters`](Self::filters).
    pub fn connected(&mut self) {
        self.issuers.iter_mut().for_each(|issuer| issuer.retention.connected());
    }

    /// All that the broker retains has come: heads of this issuer that did not are put back.
    pub fn all_is_heard(&mut self) {
        for issuer in self.issuers.iter_mut() {
            if issuer.retention.all_is_heard() {
                self.events.push(KeyEvent::HeadLost { scope: issuer.scope.as_str().to_owned() });
            }
        }
    }

    /// Those of the [`filters`](Self::filters) on which comes what this program needs to open messages.
    pub fn reading_filters(&self) -> Vec<String> {
        let own = self.identity.kid();
        let mut filters: Vec<String> = Vec::new();
        for membership in self.memberships.iter() {
            let hash = Kid::from_bytes(membership.hash);
            filters.push(format!("{}kp/{hash}/+", DistributionTopic::PREFIX));
            filters.push(format!("{}kp/{hash}/+/w/{own}", DistributionTopic::PREFIX));
        }
        if !self.memberships.is_empty() || self.pairs.publishers().next().is_some() {
            filters.push(DistributionTopic::JoinResponse { member: own }.to_string());
        }
        // Who issues keys hears of everybody.
        if self.issuers.is_empty() {
            let topic = |member: &Kid| DistributionTopic::Prekey { member: *member }.to_string();
            let wanted: BTreeSet<Kid> = self.wanted.iter().copied().chain(self.pairs.publishers()).collect();
            filters.extend(wanted.iter().map(topic));
        }
        filters
    }

    /// Asks for the certificate of a sender, and for that of the one asked for longest ago no more if there are too many: who a message
    /// says it is from is not proven yet. Returns whether [`filters`](Self::filters) has changed.
    pub fn want_certificate(&mut self, sender: Kid) -> bool {
        if self.wanted.contains(&sender) {
            return false;
        }
        if self.wanted.len() >= WANTED_MAX {
            self.wanted.pop_front();
        }
        self.wanted.push_back(sender);
        self.filters_changed = true;
        true
    }

    /// Takes a message from one of the topics. Returns whether messages that could not be opened may be tried again.
    pub fn handle(
        &mut self,
        e2e: &mut E2e,
        topic: &str,
        payload: &[u8],
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> bool {
        let outcome = match DistributionTopic::parse(topic) {
            Some(DistributionTopic::KeyHead { scope, issuer }) if issuer == self.identity.kid() => {
                return self.handle_own_head(scope, payload, now_unix_ms, entropy);
            }
            Some(DistributionTopic::KeyHead { scope, issuer }) => {
                let before = self.events.len();
                let can_open =
                    self.handle_half(e2e, scope, issuer, payload, now_unix_ms, Membership::take_head);
                // Also who has lost the key that a wrap was made for.
                if let Some(KeyEvent::HeadRefused {
                    scope,
                    error: HeadError::NotAMember { .. } | HeadError::Unwrap { error: UnwrapError::Sealed, .. },
                    ..
                }) = self.events.get(before)
                    && let Ok(scope) = Scope::new(scope)
                {
                    self.ask(&scope, issuer, now_unix_ms, entropy);
                }
                return can_open;
            }
            Some(DistributionTopic::Wrap { scope, issuer, .. }) => {
                return self.handle_half(e2e, scope, issuer, payload, now_unix_ms, Membership::take_wrap);
            }
            Some(DistributionTopic::Prekey { member }) if member == self.identity.kid() => Ok(false),
            Some(DistributionTopic::Prekey { member }) => {
                self.handle_prekey(e2e, member, payload, now_unix_ms, entropy)
            }
            Some(DistributionTopic::Revocations { authority }) => {
                self.handle_list(e2e, authority, payload, now_unix_ms, entropy)
            }
            Some(DistributionTopic::Join { .. }) => {
                self.handle_join(e2e, payload, now_unix_ms, entropy);
                return false;
            }
            Some(DistributionTopic::JoinResponse { .. }) => {
                return self.handle_join_response(e2e, payload, now_unix_ms);
            }
            None => Ok(false),
        };
        outcome.unwrap_or_else(|error| {
            self.events.push(KeyEvent::Refused { topic: topic.to_owned(), error });
            false
        })
    }

    /// Does what is due: prekeys, epochs, keys to be erased.
    pub fn advance(&mut self, e2e: &mut E2e, now_unix_ms: u64, entropy: Entropy<'_>) {
        let takes_part = !self.memberships.is_empty() || self.pairs.is_any();
        if takes_part && self.prekeys.advance(now_unix_ms, &mut *entropy) {
            self.prekey_due = true;
            self.changed = true;
        }
        self.advance_issuers(e2e, now_unix_ms, &mut *entropy);
        self.give_up_asking(now_unix_ms);
        self.ask_for_wraps(now_unix_ms, entropy);
        e2e.advance(now_unix_ms);
    }

    /// Does what is due for the issuers, and returns how many were gone through for that.
    fn advance_issuers(&mut self, e2e: &mut E2e, now_unix_ms: u64, entropy: Entropy<'_>) -> usize {
        let sessions_begun = e2e.take_sessions_noted();
        if !sessions_begun && !self.issuers.has_to_advance(now_unix_ms) {
            return 0;
        }
        let used = e2e.sessions_used();
        for issuer in self.issuers.iter_mut() {
            let used = used.get(issuer.scope.as_str()).copied();
            self.changed |= issuer.advance(used, now_unix_ms, &mut *entropy);
            if issuer.take_exhausted() {
                self.events.push(KeyEvent::EpochsExhausted { scope: issuer.scope.as_str().to_owned() });
            }
        }
        self.issuers.advanced(now_unix_ms);
        self.issuers.len()
    }

    /// When [`advance`](Self::advance) and [`outgoing`](Self::outgoing) have something to do next, in unix milliseconds.
    pub fn next_due(&self) -> u64 {
        let issuers = [self.issuers.publish_due()];
        let asking = self.asking.iter().filter_map(|asking| asking.deadline_ms);
        let wraps = [self.memberships.overdue_due()];
        let pairs = [self.prekeys.next_due(), self.pairs.next_due()];
        issuers.into_iter().chain(asking).chain(wraps).chain(pairs).min().unwrap_or(u64::MAX)
    }

    /// Returns the prekey of this member, to be published first on every connection: its acknowledgement also tells that what
    /// was retained on the [`filters`](Self::filters) has been handed in.
    pub fn introduction(&mut self) -> Option<Outgoing> {
        self.prekey_due = false;
        let topic = DistributionTopic::Prekey { member: self.identity.kid() }.to_string();
        match self.prekeys.signed(&self.identity) {
            Ok(prekey) => {
                let payload = prekey?.as_bytes().to_vec();
                Some(Outgoing { topic, payload, retain: true, answer: None })
            }
            Err(error) => {
                self.events.push(KeyEvent::Refused { topic, error });
                None
            }
        }
    }

    /// Whether this is where the [`introduction`](Self::introduction) is published. An issuer subscribes to it as well.
    pub fn is_introduction(&self, topic: &DistributionTopic) -> bool {
        *topic == DistributionTopic::Prekey { member: self.identity.kid() }
    }

    /// Whether this program issues the keys of a scope.
    pub const fn issues_scopes(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// Whether this program issues the keys of a scope, or those of pairs.
    pub fn is_issuer(&self) -> bool {
        !self.issuers.is_empty() || self.pairs.gives()
    }

    /// Returns what is to be published, once [`export`](Self::export) is saved and [`announced`](Self::announced) was told so; call it
    /// while there is a connection.
    pub fn outgoing(&mut self, now_unix_ms: u64, entropy: Entropy<'_>) -> Vec<Outgoing> {
        self.ask_publishers(now_unix_ms, &mut *entropy);
        let mut outgoing = std::mem::take(&mut self.queued);
        if self.prekey_due {
            outgoing.extend(self.introduction());
        }
        if self.issuers.publish_due() > now_unix_ms {
            return outgoing;
        }
        for issuer in self.issuers.iter_mut() {
            match issuer.publish(&self.identity, now_unix_ms, &mut *entropy) {
                Ok(packages) if packages.is_empty() => {}
                Ok(packages) => {
                    outgoing.extend(packages);
                    self.changed = true;
                    issuer.installed = false;
                }
                Err(error) => {
                    self.events.push(KeyEvent::Refused { topic: issuer.scope.as_str().to_owned(), error });
                }
            }
        }
        outgoing
    }

    /// What [`outgoing`](Self::outgoing) has returned is saved: from now on messages are sealed under the keys that it announces, when
    /// their time comes. What was not saved may never be announced.
    pub fn announced(&mut self, e2e: &mut E2e) {
        if self.issuers.is_installed() {
            return;
        }
        for issuer in self.issuers.iter_mut().filter(|issuer| !issuer.installed) {
            if let Some(rings) = e2e.rings_mut(&issuer.scope) {
                issuer.install(rings);
            }
        }
    }

    /// Returns whether there is something new to be saved, once.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Returns what has happened since the last call.
    pub fn take_events(&mut self) -> Vec<KeyEvent> {
        std::mem::take(&mut self.events)
    }

    /// Takes a head or a wrap, whichever `take` is for.
    fn handle_half(
        &mut self,
        e2e: &mut E2e,
        hash: [u8; 8],
        issuer: Kid,
        payload: &[u8],
        now_unix_ms: u64,
        take: Take,
    ) -> bool {
        let Some(membership) = self.memberships.iter_mut().find(|membership| membership.hash == hash) else {
            return false;
        };
        let Some(rings) = e2e.rings_mut(&membership.scope) else { return false };
        let (identity, prekeys, anchors) = (&*self.identity, &self.prekeys, &self.anchors);
        let holder = Holder { identity, prekeys, anchors, now_unix_ms };
        let before = membership.marks.get(&issuer).copied();
        let taken = take(membership, issuer, payload, holder, rings);
        let scope = membership.scope.as_str().to_owned();
        self.changed |= membership.marks.get(&issuer).copied() != before;
        match taken {
            Ok(Taken::Installed { epoch, issuer: certificate }) => {
                self.events.push(KeyEvent::Installed { scope: scope.clone(), issuer, epoch });
                self.tell_stale_heads(now_unix_ms);
                // A publisher that issues its own keys is a sender; an authority that may not publish need not be known.
                let _ = e2e.directory_mut().introduce(*certificate, &self.anchors, now_unix_ms);
                true
            }
            Ok(Taken::Known) => {
                self.tell_stale_heads(now_unix_ms);
                false
            }
            Ok(Taken::Waiting) => false,
            Err(error) => {
                self.events.push(KeyEvent::HeadRefused { scope, issuer, error });
                false
            }
        }
    }

    /// Says which issuers and authorities have let the time pass to say once more what they said last: they may be away, or the broker
    /// may hide it. Everything is said once. Nothing is known before what the broker retains has been heard.
    pub fn tell_stale(&mut self, now_unix_ms: u64) {
        self.tell_stale_heads(now_unix_ms);
        for (authority, list) in &self.lists {
            let is_stale = list.next_update < now_unix_ms / 1000;
            if is_stale && self.told_lists.insert(*authority, list.number) != Some(list.number) {
                self.events.push(KeyEvent::StaleRevocation { authority: *authority });
            }
        }
    }

    /// When [`tell_stale`](Self::tell_stale) may have something to say, in unix milliseconds.
    pub fn stale_due(&self) -> u64 {
        let lists = self.lists.iter().filter(|(kid, list)| self.told_lists.get(kid) != Some(&list.number));
        let lists = lists.map(|(_, list)| list.next_update.saturating_add(1).saturating_mul(1000));
        lists.min().unwrap_or(u64::MAX).min(self.memberships.stale_due())
    }

    fn tell_stale_heads(&mut self, now_unix_ms: u64) {
        if self.memberships.stale_due() > now_unix_ms {
            return;
        }
        for membership in self.memberships.iter_mut() {
            let scope = membership.scope.as_str().to_owned();
            let stale = membership.take_stale(now_unix_ms).into_iter();
            self.events.extend(stale.map(|issuer| KeyEvent::StaleHead { scope: scope.clone(), issuer }));
        }
    }

    fn handle_own_head(
        &mut self,
        hash: [u8; 8],
        payload: &[u8],
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> bool {
        let issuer = self.issuers.iter_mut().find(|issuer| issuer.hash == hash);
        let Some(issuer) = issuer else { return false };
        let is_news = issuer.hear(payload, now_unix_ms);
        let scope = issuer.scope.as_str().to_owned();
        // Only what this identity signed itself can make it go on from there.
        let head = KeyHead::parse(payload).ok().map(|(head, _)| head).filter(|head| {
            let is_own = head.scope == scope && head.issuer == self.identity.kid();
            is_own && head.verify(&self.anchors, None).is_ok()
        });
        if let Some(head) = head
            && issuer.overtake(&head, entropy)
        {
            self.changed = true;
            self.events.push(KeyEvent::Overtaken { scope, epoch: head.epoch });
        } else if is_news {
            self.events.push(match payload.is_empty() {
                true => KeyEvent::HeadCleared { scope },
                false => KeyEvent::HeadLost { scope },
            });
        }
        false
    }

    fn handle_prekey(
        &mut self,
        e2e: &mut E2e,
        member: Kid,
        payload: &[u8],
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<bool, DistributionError> {
        let prekey = Prekey::parse(payload)?;
        if prekey.certificate.kid() != member {
            return Err(DistributionError::Value("member"));
        }
        prekey.verify(&self.anchors, now_unix_ms)?;
        for issuer in self.issuers.iter_mut() {
            if issuer.offer(&prekey, &mut *entropy) {
                self.changed = true;
                self.events.push(KeyEvent::Admitted { scope: issuer.scope.as_str().to_owned(), member });
            }
        }
        if let Some(index) = self.wanted.iter().position(|wanted| *wanted == member) {
            self.wanted.remove(index);
            self.filters_changed = true;
        }
        self.pairs.introduced(&prekey);
        let known = e2e.directory().certificate(member) == Some(&prekey.certificate);
        Ok(!known
            && e2e.directory_mut().introduce(prekey.certificate.clone(), &self.anchors, now_unix_ms).is_ok())
    }
}
