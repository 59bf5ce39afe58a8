//! Where policies on end-to-end encryption meet what clients publish: the one place where a message is refused for their sake.

use std::sync::Arc;

use veilmq_protocol::veil::Kid;
use veilmq_protocol::veil::distribution::{Crl, DistributionTopic, KeyHead, Wrap, scope_hash};
use veilmq_protocol::{PublishProperties, TopicFilter, TopicName};

use super::Shard;
use super::publish::PublishRefused;
use crate::access::BRIDGES;
use crate::connection::{Arrival, Connection};
use crate::e2e::{
    Context, DistributionRefusal, DistributionRule, Inspected, Mark, Member, Membership, Party, Passed,
    Refusal, Ruling, ScopeHash, Writer, check_pair, is_distribution, is_of_pairs, is_revocation, may_read,
};
use crate::effect::Parcel;
use crate::farewell::PeerError;
use crate::id::{SessionId, ShardIndex};
use crate::message::Message;
use crate::record::WillRecord;
use crate::session::Session;
use crate::stats::{DropReason, KeyHeadResult};

/// The most scopes that one subscription is told of.
const NOTICES_MAX: usize = 8;

/// What is to be remembered of a message once it has been accepted.
#[derive(Debug)]
pub(super) enum Due {
    Nothing,
    Envelope(Mark),
    Head(Box<(KeyHead, Vec<Wrap>)>),
    Revocations(Box<Crl>),
}

impl Shard {
    /// Judges a message of a client; returns what is to be remembered of it once it has been accepted.
    pub(super) fn inspect(&self, session: SessionId, message: &Inspected<'_>) -> Result<Due, PublishRefused> {
        if self.access.policies().is_empty() && !is_revocation(message.topic) {
            Ok(Due::Nothing)
        } else {
            self.inspect_by_policy(session, message)
        }
    }

    /// Kept out of the way of publications where there are no policies.
    #[inline(never)]
    fn inspect_by_policy(&self, session: SessionId, message: &Inspected<'_>) -> Result<Due, PublishRefused> {
        let Some(state) = self.sessions.get(&session) else { return Ok(Due::Nothing) };
        if is_distribution(message.topic) {
            return self.inspect_distribution(state, message);
        }
        if is_of_pairs(message.topic) {
            return self.inspect_pair(state, message);
        }
        let Some(active) = self.access.policies().of(message.topic) else { return Ok(Due::Nothing) };
        match active.judge(message, &self.party(state), self.context()) {
            Ruling::Pass(mark) => Ok(mark.map_or(Due::Nothing, Due::Envelope)),
            Ruling::Duplicate => Err(PublishRefused::Duplicate),
            Ruling::Refuse(refusal) => {
                self.stats.messages_dropped(DropReason::EndToEnd, 1);
                Err(PublishRefused::EndToEnd(refusal))
            }
        }
    }

    /// Verifies an object of key distribution. Where nothing is enforced, a head that passes counts all the same.
    fn inspect_distribution(&self, state: &Session, message: &Inspected<'_>) -> Result<Due, PublishRefused> {
        let is_head = matches!(
            DistributionTopic::parse(message.topic.as_str()),
            Some(DistributionTopic::KeyHead { .. })
        );
        let verified = self.verify_distribution(state, message);
        match (&verified, is_head) {
            (Ok(Due::Head(_)), _) => self.stats.key_head(KeyHeadResult::Accepted),
            (Err(_), true) => self.stats.key_head(KeyHeadResult::Rejected),
            (Ok(_), _) | (Err(_), false) => {}
        }
        match (verified, self.access.policies().distribution) {
            (Ok(due), _) => Ok(due),
            (Err(_), DistributionRule::Observe)
            | (Err(DistributionRefusal::Authority), DistributionRule::Verify) => Ok(Due::Nothing),
            (Err(refusal), DistributionRule::Verify | DistributionRule::Enforce) => {
                Err(self.refuse_distribution(refusal))
            }
        }
    }

    fn refuse_distribution(&self, refusal: DistributionRefusal) -> PublishRefused {
        self.stats.distribution_rejected(refusal);
        self.stats.messages_dropped(DropReason::EndToEnd, 1);
        PublishRefused::Distribution(refusal)
    }

    /// Looks at what is for one subscriber alone.
    fn inspect_pair(&self, state: &Session, message: &Inspected<'_>) -> Result<Due, PublishRefused> {
        if self.access.policies().distribution != DistributionRule::Enforce {
            return Ok(Due::Nothing);
        }
        let checked = check_pair(message, state.identity.as_deref());
        checked.map(|()| Due::Nothing).map_err(|refusal| self.refuse_distribution(refusal))
    }

    fn verify_distribution(
        &self,
        state: &Session,
        message: &Inspected<'_>,
    ) -> Result<Due, DistributionRefusal> {
        let writer = match self.access.policies().distribution {
            DistributionRule::Verify => Writer::Anybody(state.identity.as_deref()),
            DistributionRule::Observe | DistributionRule::Enforce => {
                Writer::Client(state.identity.as_deref())
            }
        };
        let passed = self.shared.with_ledger(self.unix_ms, |ledger| ledger.verify(message, writer))?;
        match passed {
            Passed::Plain => Ok(Due::Nothing),
            Passed::Join(scope) => match TopicFilter::new(&scope) {
                Ok(scope) if self.may_subscribe(state.id, scope) => Ok(Due::Nothing),
                Ok(_) | Err(_) => Err(DistributionRefusal::Scope),
            },
            Passed::Head(head) => {
                let scope = scope_hash(&head.0.scope);
                let is_known =
                    self.shared.with_heads(scope, self.unix_ms, |heads| heads.compare(scope, &head.0))?;
                Ok(if is_known { Due::Nothing } else { Due::Head(head) })
            }
            Passed::Revocations(list) => match self.shared.knows_newer(&list) {
                true => Err(DistributionRefusal::Rollback),
                false => Ok(Due::Revocations(list)),
            },
        }
    }

    /// Remembers what has been accepted.
    pub(super) fn remember(&mut self, due: Due) {
        match due {
            Due::Nothing => {}
            Due::Envelope(mark) => self.streams.remember(mark, self.unix_ms),
            Due::Head(head) => {
                let (head, bundle) = *head;
                let scope = scope_hash(&head.scope);
                self.shared.change_heads(|heads| heads.remember(scope, &head, &bundle));
            }
            Due::Revocations(list) => self.heed_revocations(&list),
        }
    }

    /// Goes by a revocation list that a client has brought, and has the other shards do so.
    fn heed_revocations(&mut self, list: &Crl) {
        if !self.shared.revoke(list).unwrap_or(false) {
            return;
        }
        let (authority, revoked) = (list.issuer.kid(), list.revoked.len());
        tracing::info!(%authority, number = list.number, revoked, "revocation list");
        let others = (0..self.shared.settings().shards).map(ShardIndex).filter(|shard| *shard != self.index);
        self.parcels.extend(others.map(|shard| (shard, Parcel::AccessChanged)));
        self.has_revoked = true;
    }

    /// Tells whether the certificate that a client has shown, if any, still counts (VEIL-1 section 3.2).
    pub(super) fn is_still_trusted(&self, identity: Option<&Member>) -> bool {
        identity.is_none_or(|member| self.shared.with_trust(|trust| member.is_trusted(trust)))
    }

    /// Tells whether a client may subscribe, as far as that is for members alone, or for the client that a topic of key distribution
    /// names.
    pub(super) fn is_member_where_asked(&self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        if self.access.policies().distribution == DistributionRule::Enforce
            && !self.may_read_keys(session, filter.inner())
        {
            self.stats.distribution_rejected(DistributionRefusal::Reader);
            return false;
        }
        let kid = self.sessions.get(&session).and_then(|state| Some(state.identity.as_ref()?.kid));
        for active in self.access.policies().closed(filter.inner()) {
            if kid.is_none_or(|kid| self.membership(active.scope_hash, kid) != Some(true)) {
                active.counters.rejected(Refusal::Member);
                return false;
            }
        }
        true
    }

    /// Tells whether topics of key distribution that a filter matches are for the client of a session to read. A bridge of this broker
    /// passes on what its operator says.
    fn may_read_keys(&self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        self.sessions.get(&session).is_none_or(|state| reads_keys(state, filter))
    }

    /// Tells a client on a channel which scopes it has subscribed to without having a key for them (VEIL-1 section 13.1).
    pub(super) fn notify_stranger(&mut self, session: SessionId, filter: TopicFilter<'_>) {
        if self.access.policies().is_empty() {
            return;
        }
        let kid = self.sessions.get(&session).and_then(|state| Some(state.identity.as_ref()?.kid));
        let Some(kid) = kid else { return };
        let open = self.access.policies().open(filter.inner());
        let strange = open.filter(|active| self.membership(active.scope_hash, kid) == Some(false));
        let scopes: Vec<Arc<str>> =
            strange.take(NOTICES_MAX).map(|active| Arc::clone(&active.scope)).collect();
        for scope in scopes {
            self.notify(session, &format!("no key of this scope is for this client: {scope}"));
        }
    }

    /// Tells whether some head of a scope has a wrap for a client; None if no head is known.
    fn membership(&self, scope: ScopeHash, kid: Kid) -> Option<bool> {
        let found = self.shared.with_heads(scope, self.unix_ms, |heads| heads.membership(scope, kid));
        let is_known = !found.is_empty();
        let is_member = found.into_iter().any(|membership| match membership {
            Membership::Member => true,
            Membership::Stranger => false,
            Membership::Sharded(issuer) => {
                let topic = DistributionTopic::Wrap { scope, issuer, member: kid }.to_string();
                self.shared.retained.current(&topic).is_some()
            }
        });
        is_known.then_some(is_member)
    }

    fn context(&self) -> Context<'_> {
        Context { shared: &self.shared, streams: &self.streams, unix_ms: self.unix_ms }
    }

    fn party<'a>(&'a self, session: &'a Session) -> Party<'a> {
        let connection = session.connection.and_then(|connection| self.connections.get(&connection));
        let (is_encrypted, is_protected) = match connection {
            Some(Connection::Established(established)) => {
                (established.is_encrypted, established.wire.is_protected())
            }
            Some(Connection::Opening(_) | Connection::Proving(_)) | None => (false, false),
        };
        Party {
            member: session.identity.as_deref(),
            name: match session.user_name() {
                // Bridges of this broker are all one user; their Client Identifiers tell them apart, and are theirs alone.
                Some(BRIDGES) => Some(&session.client_id),
                name => name.filter(|_| session.authenticated),
            },
            is_encrypted,
            is_protected,
        }
    }

    /// Tells why a client may not have the Will Message it came with, for what that is (VEIL-1 section 13.1).
    pub(super) fn refusal_of_unsealed_will(&self, arrival: &Arrival) -> Option<PeerError> {
        let will = arrival.request.will.as_ref()?;
        let topic = TopicName::new(&will.topic).ok()?;
        if self.access.policies().distribution != DistributionRule::Observe && is_distribution(topic) {
            return Some(PeerError::NotAuthorized("nothing of key distribution is said by a Will Message"));
        }
        if self.access.policies().distribution == DistributionRule::Enforce && is_of_pairs(topic) {
            let message = Inspected {
                topic,
                payload: &will.payload,
                retain: will.retain,
                properties: &PublishProperties::default(),
            };
            let refusal = check_pair(&message, arrival.identity.as_deref()).err()?;
            return Some(PeerError::NotAuthorized(refusal.sentence()));
        }
        let active = self.access.policies().of(topic)?;
        let party = Party {
            member: arrival.identity.as_deref(),
            name: arrival.user_name().filter(|_| arrival.is_authenticated()),
            is_encrypted: arrival.is_encrypted,
            is_protected: arrival.is_protected,
        };
        let properties = PublishProperties::decode_application(&will.application_properties).ok()?;
        let will = Inspected { topic, payload: &will.payload, retain: will.retain, properties: &properties };
        active.judge_will(&will, &party, self.context()).err().map(PeerError::EndToEnd)
    }

    /// Tells why a Will Message that is due may not be published after all.
    pub(super) fn refusal_of_due_will(
        &self,
        topic: TopicName<'_>,
        will: &WillRecord,
    ) -> Option<PublishRefused> {
        if self.access.policies().distribution != DistributionRule::Observe && is_distribution(topic) {
            return Some(self.refuse_distribution(DistributionRefusal::Topic));
        }
        let active = self.access.policies().of(topic)?;
        let is_clear = will.retain && will.payload.is_empty();
        let refusal = if is_clear { None } else { active.judge_due_will(&will.payload).err() }?;
        self.stats.messages_dropped(DropReason::EndToEnd, 1);
        Some(PublishRefused::EndToEnd(refusal))
    }

    /// Tells whether a retained message is kept from subscribers: the policy of its topic is newer than the message.
    pub(super) fn is_withheld(&self, message: &Message) -> bool {
        if self.access.policies().is_empty() {
            return false;
        }
        let policy = TopicName::new(message.topic()).ok().and_then(|topic| self.access.policies().of(topic));
        policy.is_some_and(|active| active.withholds(message.payload().as_wire_bytes()))
    }
}

/// Tells whether topics of key distribution that a filter matches are for the client of a session to read.
pub(super) fn reads_keys(session: &Session, filter: TopicFilter<'_>) -> bool {
    session.user_name() == Some(BRIDGES) || may_read(filter.inner().as_str(), session.identity.as_deref())
}
