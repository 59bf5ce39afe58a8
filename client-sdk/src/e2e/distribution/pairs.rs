//! Who has the key of a pair with whom, and when another exchange is due (VEIL-1 sections 7, 9.1).
//!
//! Owns both ends of the exchange but its cryptography. Invariants: a publisher seals under a key once its subscriber has shown
//! that it has it; the epochs of a pair only increase, also when the publisher has lost its state.

use std::collections::BTreeMap;

use veilmq_protocol::veil::{
    Certificate, Kid, Roles,
    distribution::{Pair, Prekey},
    layout::Reader,
};
use zeroize::Zeroizing;

use super::{
    Distribution, IssuePolicy, KeyEvent, RosterError,
    barred::Barred,
    join::{Answer, PairKey, Term},
    joining::{NO_KEY_YET, NO_SUCH_SCOPE, NOT_ADMITTED},
    saved::{Writer, optional, read_certificate, read_window},
};
use crate::e2e::{
    E2e, Entropy,
    config::EnvelopeOptions,
    error::{ConfigError, StateError},
    keyring::{GroupKey, Window},
    pairs::End,
    scope::Scope,
};

/// How long a subscriber waits before it asks a publisher again that has not answered.
const ASK_AGAIN_MS: u64 = 30_000;

/// What this program knows of its pairs besides their keys.
#[derive(Default)]
pub(super) struct PairExchanges {
    /// How it gives keys to subscribers, if it does.
    giving: Option<Giving>,
    /// Whom it gets messages of its own from.
    publishers: BTreeMap<Kid, Publisher>,
}

struct Giving {
    policy: IssuePolicy,
    /// Let in by name.
    named: BTreeMap<Kid, Certificate>,
    granted: BTreeMap<Kid, Granted>,
    /// Taken away, and let in again only by name.
    barred: Barred,
}

/// The newest epoch that was given to a subscriber, whether or not it has confirmed it.
struct Granted {
    certificate: Certificate,
    epoch: u32,
}

#[derive(Default)]
struct Publisher {
    /// When it is asked next, unix milliseconds.
    ask_ms: u64,
    /// Its prekey: another one says that it has begun anew.
    prekey: Option<u32>,
    has_key: bool,
}

impl PairExchanges {
    pub(super) fn gives(&self) -> bool {
        self.giving.is_some()
    }

    pub(super) fn is_any(&self) -> bool {
        self.gives() || !self.publishers.is_empty()
    }

    pub(super) fn publishers(&self) -> impl Iterator<Item = Kid> {
        self.publishers.keys().copied()
    }

    pub(super) fn lacks_key(&self, publisher: Kid) -> bool {
        self.publishers.get(&publisher).is_some_and(|publisher| !publisher.has_key)
    }

    /// When a publisher is to be asked, in unix milliseconds.
    pub(super) fn next_due(&self) -> u64 {
        self.publishers.values().map(|publisher| publisher.ask_ms).min().unwrap_or(u64::MAX)
    }

    /// Takes note of the prekey of a publisher: who has another one may have lost the keys of its pairs.
    pub(super) fn introduced(&mut self, prekey: &Prekey) {
        let Some(publisher) = self.publishers.get_mut(&prekey.certificate.kid()) else { return };
        let is_another = publisher.prekey.replace(prekey.id).is_some_and(|known| known != prekey.id);
        if is_another || !publisher.has_key {
            publisher.ask_ms = 0;
        }
    }

    /// There is a key of a publisher; the next is asked for when half of its time is over.
    pub(super) fn taken(&mut self, publisher: Kid, term: Term) {
        if let Some(publisher) = self.publishers.get_mut(&publisher) {
            publisher.has_key = true;
            publisher.ask_ms = term.activate_ms.midpoint(term.retire_ms);
        }
    }

    /// Decides about a request for the key of a pair, of someone whose certificate was verified.
    pub(super) fn grant(
        &mut self,
        pair: Pair,
        own: Kid,
        certificate: &Certificate,
        now_unix_ms: u64,
    ) -> Answer<'static> {
        let subscriber = certificate.kid();
        let Some(giving) = self.giving.as_mut().filter(|_| pair == Pair { publisher: own, subscriber })
        else {
            return Answer::Refused(NO_SUCH_SCOPE);
        };
        if !giving.lets_in(pair, certificate) {
            return Answer::Refused(NOT_ADMITTED);
        }
        let by_time = u32::try_from(now_unix_ms / 1_000).unwrap_or(u32::MAX);
        let before = giving.granted.get(&subscriber).map_or(0, |granted| granted.epoch);
        // Under a number that was used, what was derived of the key before would count as derived of this one.
        let Some(after) = before.checked_add(1) else { return Answer::Refused(NO_KEY_YET) };
        let epoch = by_time.max(after);
        giving.granted.insert(subscriber, Granted { certificate: certificate.clone(), epoch });
        // A subscriber asks again when half of it is over, so that a publisher may be away for as long as it rotates.
        let life_ms = giving.policy.rotate_every_ms.saturating_mul(2);
        Answer::Pair(Term { epoch, activate_ms: now_unix_ms, retire_ms: now_unix_ms.saturating_add(life_ms) })
    }

    /// Forgets a peer at either end. Returns whether there was anything to forget.
    fn remove(&mut self, peer: Kid) -> bool {
        let was_publisher = self.publishers.remove(&peer).is_some();
        let Some(giving) = &mut self.giving else { return was_publisher };
        let was_named = giving.named.remove(&peer).is_some();
        let was_granted = giving.granted.remove(&peer).is_some();
        was_publisher || was_named || was_granted
    }

    /// Whether a subscriber that confirms a key is still to have it.
    pub(super) fn is_granted(&self, subscriber: Kid) -> bool {
        self.giving.as_ref().is_some_and(|giving| giving.granted.contains_key(&subscriber))
    }

    /// Forgets those whose certificates do not count any more, and returns who they are.
    pub(super) fn revise(&mut self, is_revoked: impl Fn(&Certificate) -> bool) -> Vec<Kid> {
        let Some(giving) = &mut self.giving else { return Vec::new() };
        giving.named.retain(|_, certificate| !is_revoked(certificate));
        let revoked = giving.granted.iter().filter(|(_, granted)| is_revoked(&granted.certificate));
        let revoked: Vec<Kid> = revoked.map(|(kid, _)| *kid).collect();
        giving.granted.retain(|kid, _| !revoked.contains(kid));
        revoked
    }
}

impl Giving {
    /// Whether someone who has no pair is given one by name alone.
    fn bars(&self, subscriber: Kid) -> bool {
        let is_in = self.granted.contains_key(&subscriber) || self.named.contains_key(&subscriber);
        !is_in && self.barred.bars(subscriber)
    }

    fn lets_in(&self, pair: Pair, certificate: &Certificate) -> bool {
        let subscriber = certificate.kid();
        let Ok(scope) = Scope::new(&pair.filter()) else { return false };
        let has_room = self.granted.len() < usize::from(self.policy.members_max);
        let is_known = self.granted.contains_key(&subscriber);
        let is_named = self.named.contains_key(&subscriber);
        let may_come = (has_room || is_known) && !self.bars(subscriber);
        may_come && (is_named || self.policy.admission.admits(certificate, &scope))
    }
}

impl Distribution {
    /// Gives each subscriber that asks a key of its own, for what is published on `_veil/1/p2p/<its kid>/` (VEIL-1 sections 7,
    /// 9.1). Of `policy` count admission, `rotate_every_ms` and `members_max`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn issue_pairs(
        &mut self,
        e2e: &mut E2e,
        options: EnvelopeOptions,
        policy: IssuePolicy,
    ) -> Result<(), ConfigError> {
        if !self.identity.certificate().roles.contains(Roles::PUBLISHER) {
            return Err(ConfigError::MayNotIssue);
        }
        e2e.add_pairs(End::Publisher, options)?;
        self.filters_changed = true;
        self.pairs.giving = Some(Giving {
            policy,
            named: BTreeMap::new(),
            granted: BTreeMap::new(),
            barred: Barred::default(),
        });
        Ok(())
    }

    /// Gets messages of its own from a publisher, under a key that only the two of them have.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn join_pair(
        &mut self,
        e2e: &mut E2e,
        publisher: Kid,
        options: EnvelopeOptions,
    ) -> Result<(), ConfigError> {
        e2e.add_pairs(End::Subscriber, options)?;
        self.filters_changed = true;
        self.pairs.publishers.insert(publisher, Publisher::default());
        Ok(())
    }

    /// Lets a subscriber have a key of its own by name, also after a restart, until the pair is [removed](Self::remove_pair). Returns
    /// whether keys are given here.
    ///
    /// # Errors
    /// [`RosterError::Certificate`], and [`RosterError::Full`] when as many are named as may have a pair.
    pub fn admit_to_pairs(
        &mut self,
        certificate: Certificate,
        now_unix_ms: u64,
    ) -> Result<bool, RosterError> {
        self.anchors.verify(&certificate, Roles::SUBSCRIBER, None, Some(now_unix_ms / 1_000))?;
        let Some(giving) = &mut self.pairs.giving else { return Ok(false) };
        let is_known = giving.named.contains_key(&certificate.kid());
        if !is_known && giving.named.len() >= usize::from(giving.policy.members_max) {
            return Err(RosterError::Full);
        }
        self.changed |= giving.barred.lift(certificate.kid());
        let known = giving.named.insert(certificate.kid(), certificate.clone());
        self.changed |= known != Some(certificate);
        Ok(true)
    }

    /// Whether a subscriber was taken out of the pairs by [`remove_pair`](Self::remove_pair), and not let in again since; of everybody who
    /// has none, once 65,536 were ([`KeyEvent::Closed`]).
    pub fn is_removed_from_pairs(&self, subscriber: Kid) -> bool {
        self.pairs.giving.as_ref().is_some_and(|giving| giving.bars(subscriber))
    }

    /// Takes away the pair with `peer`, whichever end that is: its keys are erased, and no exchange with it is answered or begun. A
    /// subscriber stays out until it is [admitted by name](Self::admit_to_pairs), also after a restart. Returns whether there was one.
    pub fn remove_pair(&mut self, e2e: &mut E2e, peer: Kid) -> bool {
        let removed = self.pairs.remove(peer);
        self.filters_changed |= removed;
        let is_closed = self.pairs.giving.as_mut().is_some_and(|giving| giving.barred.bar(peer));
        let own = self.identity.kid();
        let [to, from] = [(own, peer), (peer, own)]
            .map(|(publisher, subscriber)| Pair { publisher, subscriber }.to_string());
        self.asking.retain(|asking| asking.scope.as_str() != from);
        e2e.forget_pair(peer);
        self.changed = true;
        if removed {
            let scope = if self.pairs.gives() { to } else { from };
            self.events.push(KeyEvent::Removed { scope, member: peer });
        }
        if is_closed {
            self.events.push(KeyEvent::Closed { scope: format!("{}#", Pair::TOPICS) });
        }
        removed
    }

    /// Asks the publishers whose keys are missing or half over. One that is being asked has its time to answer first.
    pub(super) fn ask_publishers(&mut self, now_unix_ms: u64, entropy: Entropy<'_>) {
        let is_due = |publisher: &Publisher| publisher.ask_ms <= now_unix_ms;
        let due = self.pairs.publishers.iter().filter(|(_, publisher)| is_due(publisher));
        let due: Vec<Kid> = due.map(|(kid, _)| *kid).collect();
        for publisher in due {
            let pair = Pair { publisher, subscriber: self.identity.kid() };
            let Ok(scope) = Scope::new(&pair.to_string()) else { continue };
            let under_way = self.asking.iter().find(|asking| asking.scope == scope);
            let under_way = under_way.and_then(|asking| asking.deadline_ms);
            let ask_ms = under_way.unwrap_or_else(|| now_unix_ms.saturating_add(ASK_AGAIN_MS));
            if under_way.is_none() {
                self.ask(&scope, publisher, now_unix_ms, &mut *entropy);
            }
            if let Some(publisher) = self.pairs.publishers.get_mut(&publisher) {
                publisher.ask_ms = ask_ms;
            }
        }
    }

    /// Writes the pairs and their keys.
    pub(super) fn write_pairs(&self, e2e: &E2e, out: &mut Writer) {
        let granted = self.pairs.giving.iter().flat_map(|giving| giving.granted.values());
        let granted: Vec<&Granted> = granted.collect();
        out.count(granted.len());
        for Granted { certificate, epoch } in granted {
            out.v32(certificate.as_bytes());
            out.u32(*epoch);
        }
        let named = self.pairs.giving.iter().flat_map(|giving| giving.named.values());
        let named: Vec<&Certificate> = named.collect();
        out.count(named.len());
        for certificate in named {
            out.v32(certificate.as_bytes());
        }
        out.kids(self.pairs.giving.iter().flat_map(|giving| giving.barred.iter()));
        out.count(self.pairs.publishers.len());
        for (kid, publisher) in &self.pairs.publishers {
            out.bytes(kid.as_bytes());
            out.u64(publisher.ask_ms);
            out.u8(u8::from(publisher.has_key));
            out.optional(publisher.prekey.as_ref(), |out, id| out.u32(*id));
        }
        for end in [End::Publisher, End::Subscriber] {
            let held: Vec<_> = e2e.pairs().into_iter().flat_map(|pairs| pairs.held(end)).collect();
            out.count(held.len());
            for (peer, epoch, key, window) in held {
                out.bytes(peer.as_bytes());
                out.u32(epoch);
                out.bytes(key.as_bytes());
                out.window(window);
            }
        }
    }

    /// Reads what [`write_pairs`](Self::write_pairs) wrote; what is not configured any more is passed over.
    pub(super) fn read_pairs(&mut self, e2e: &mut E2e, reader: &mut Reader<'_>) -> Result<(), StateError> {
        for _ in 0..reader.u32("pair count")? {
            let certificate = read_certificate(reader)?;
            let granted = Granted { epoch: reader.u32("epoch")?, certificate };
            if let Some(giving) = &mut self.pairs.giving {
                giving.granted.insert(granted.certificate.kid(), granted);
            }
        }
        for _ in 0..reader.u32("named count")? {
            let certificate = read_certificate(reader)?;
            if let Some(giving) = &mut self.pairs.giving {
                giving.named.insert(certificate.kid(), certificate);
            }
        }
        for _ in 0..reader.u32("barred count")? {
            let kid = Kid::from_bytes(reader.array("barred")?);
            if let Some(giving) = &mut self.pairs.giving {
                giving.barred.bar(kid);
            }
        }
        for _ in 0..reader.u32("publisher count")? {
            let kid = Kid::from_bytes(reader.array("publisher")?);
            let ask_ms = reader.u64("asking")?;
            let has_key = reader.u8("presence")? != 0;
            let prekey = optional(reader, |reader| Ok(reader.u32("prekey id")?))?;
            if let Some(publisher) = self.pairs.publishers.get_mut(&kid) {
                *publisher = Publisher { ask_ms, prekey, has_key };
            }
        }
        for end in [End::Publisher, End::Subscriber] {
            for _ in 0..reader.u32("key count")? {
                let peer = Kid::from_bytes(reader.array("peer")?);
                let epoch = reader.u32("epoch")?;
                let key = GroupKey::new(&Zeroizing::new(reader.array("pair key")?));
                let window = read_window(reader)?;
                let is_configured = match end {
                    End::Publisher => self.pairs.gives(),
                    End::Subscriber => self.pairs.publishers.contains_key(&peer),
                };
                if let Some(pairs) = e2e.pairs_mut().filter(|_| is_configured) {
                    pairs.install(end, peer, epoch, key, window);
                }
            }
        }
        Ok(())
    }
}

/// Puts the key of a pair where messages are sealed and opened.
pub(super) fn install_pair(e2e: &mut E2e, end: End, peer: Kid, PairKey { key, term }: PairKey) {
    let Term { epoch, activate_ms, retire_ms } = term;
    let Some(pairs) = e2e.pairs_mut() else { return };
    let history_ms = pairs.timing().history_ms;
    let drop_ms = retire_ms.saturating_add(history_ms);
    pairs.install(end, peer, epoch, key, Window { activate_ms, retire_ms, drop_ms, no_transition: false });
}
