//! Where policies on end-to-end encryption meet what clients publish: the one place where a message is refused for their sake.

use veilmq_protocol::TopicName;

use super::Shard;
use super::publish::PublishRefused;
use crate::connection::{Arrival, Connection};
use crate::e2e::{Inspected, Mark, Party, Refusal, Ruling};
use crate::farewell::PeerError;
use crate::id::SessionId;
use crate::message::Message;
use crate::session::Session;
use crate::stats::DropReason;

impl Shard {
    /// Judges a message of a client; returns what is to be remembered of it once it has been accepted.
    pub(super) fn inspect(
        &self,
        session: SessionId,
        message: &Inspected<'_>,
    ) -> Result<Option<Mark>, PublishRefused> {
        if self.access.policies.is_empty() { Ok(None) } else { self.inspect_by_policy(session, message) }
    }

    /// Kept out of the way of publications where there are no policies.
    #[inline(never)]
    fn inspect_by_policy(
        &self,
        session: SessionId,
        message: &Inspected<'_>,
    ) -> Result<Option<Mark>, PublishRefused> {
        let Some(active) = self.access.policies.of(message.topic) else { return Ok(None) };
        let Some(state) = self.sessions.get(&session) else { return Ok(None) };
        match active.judge(message, &self.party(state), &self.streams, self.unix_ms) {
            Ruling::Pass(mark) => Ok(mark),
            Ruling::Duplicate => Err(PublishRefused::Duplicate),
            Ruling::Refuse(refusal) => {
                self.stats.messages_dropped(DropReason::EndToEnd, 1);
                Err(PublishRefused::EndToEnd(refusal))
            }
        }
    }

    fn party<'a>(&'a self, session: &'a Session) -> Party<'a> {
        let connection = session.connection.and_then(|connection| self.connections.get(&connection));
        let (is_encrypted, has_records) = match connection {
            Some(Connection::Established(established)) => {
                (established.is_encrypted, established.channel.is_some())
            }
            Some(Connection::Opening(_) | Connection::Proving(_)) | None => (false, false),
        };
        Party {
            member: session.identity.as_deref(),
            name: session.user_name().filter(|_| session.authenticated),
            is_encrypted,
            has_records,
        }
    }

    /// Tells why a client may not have the Will Message it came with, for what that is (VEIL-1 section 13.1).
    pub(super) fn refusal_of_unsealed_will(&self, arrival: &Arrival) -> Option<PeerError> {
        let will = arrival.request.will.as_ref()?;
        let topic = TopicName::new(&will.topic).ok()?;
        let active = self.access.policies.of(topic)?;
        let party = Party {
            member: arrival.identity.as_deref(),
            name: arrival.user_name().filter(|_| arrival.is_authenticated()),
            is_encrypted: arrival.is_encrypted,
            has_records: arrival.has_records,
        };
        let will = Inspected { topic, payload: &will.payload, retain: will.retain };
        active.judge_will(&will, &party, self.unix_ms).err().map(PeerError::EndToEnd)
    }

    /// Tells why a Will Message that is due may not be published after all.
    pub(super) fn refusal_of_due_will(&self, will: &Inspected<'_>) -> Option<Refusal> {
        let refusal = self.access.policies.of(will.topic)?.judge_due_will(will).err()?;
        self.stats.messages_dropped(DropReason::EndToEnd, 1);
        Some(refusal)
    }

    /// Tells whether a retained message is kept from subscribers: the policy of its topic is newer than the message.
    pub(super) fn is_withheld(&self, message: &Message) -> bool {
        if self.access.policies.is_empty() {
            return false;
        }
        let policy = TopicName::new(message.topic()).ok().and_then(|topic| self.access.policies.of(topic));
        policy.is_some_and(|active| active.withholds(message.payload().as_wire_bytes()))
    }
}
