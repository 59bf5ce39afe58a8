//! An established Network Connection: its limits, its aliases, its keep alive and its unread bytes.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use veilmq_protocol::Publish;

use super::{Channel, Wire};
use crate::durability::Promise;
use crate::entrance::Entrance;
use crate::farewell::PeerError;
use crate::id::{ConnectionId, SessionId, Ticket};
use crate::time::Moment;

/// A connection after CONNACK.
pub(crate) struct Established {
    pub(crate) connection: ConnectionId,
    pub(crate) session: SessionId,
    /// What its listener offered when it came, which its CONNACK has announced.
    pub(crate) offer: Arc<Entrance>,
    pub(crate) peer: Box<str>,
    /// What acknowledgements to the client promise.
    pub(crate) promise: Promise,
    /// TLS carries the connection.
    pub(crate) is_encrypted: bool,
    /// When the connection has to end because the client's certificate or token has expired, or what vouches for it is to be renewed.
    pub(crate) proof_over_at: Option<Moment>,
    pub(crate) wire: Wire,
    /// Opens records and re-authenticates; None on a connection without records.
    pub(crate) channel: Option<Box<Channel>>,
    /// The bytes of a packet or record that has not arrived in full.
    pub(crate) partial: Vec<u8>,
    /// The client is a bridge of another broker.
    pub(crate) is_bridge: bool,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) last_received: Moment,
    pub(crate) timer_at: Option<Moment>,
    /// It is in the shard's list of connections whose outbox grew in this turn.
    pub(crate) is_dirty: bool,
    /// Nothing may be written before this batch is durable: CONNACK is at the head of the outbox.
    pub(crate) corked_until: Option<Ticket>,
    /// The newest batch that an acknowledgement on this connection waits for; later ones queue behind it.
    pub(crate) acknowledged_with: Option<Ticket>,
    /// QoS 1 and 2 messages of the client that it has no final acknowledgement for.
    pub(crate) unacknowledged: u32,
    /// The bytes of answers that went into a full outbox, until that has room again.
    pub(crate) owed_bytes: u32,
    /// What the client's Topic Aliases stand for, as long as the connection lasts ([MQTT-3.3.2-7]); there once it has used one.
    #[expect(clippy::box_collection, reason = "few connections have it, all pay for its size")]
    aliases: Option<Box<HashMap<u16, Arc<str>>>>,
}

impl Established {
    pub(crate) fn new(
        connection: ConnectionId,
        session: SessionId,
        peer: Box<str>,
        offer: Arc<Entrance>,
        wire: Wire,
        now: Moment,
    ) -> Self {
        Self {
            connection,
            session,
            offer,
            peer,
            promise: Promise::default(),
            is_encrypted: false,
            proof_over_at: None,
            wire,
            channel: None,
            partial: Vec::new(),
            is_bridge: false,
            keep_alive_seconds: 0,
            last_received: now,
            timer_at: None,
            is_dirty: false,
            corked_until: None,
            acknowledged_with: None,
            unacknowledged: 0,
            owed_bytes: 0,
            aliases: None,
        }
    }

    /// Takes note that the outbox grew; true if that is the first time in this turn.
    pub(crate) fn becomes_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Returns the commit that an answer must wait for: its own, or that of the answer before it, unless that is `settled`.
    pub(crate) fn answers_wait_for(&self, ticket: Option<Ticket>, settled: Option<Ticket>) -> Option<Ticket> {
        ticket.or(self.acknowledged_with).filter(|ticket| Some(*ticket) > settled)
    }

    /// Returns when silence has lasted one and a half times the keep alive ([MQTT-3.1.2-22]).
    pub(crate) fn silent_at(&self) -> Option<Moment> {
        (self.keep_alive_seconds != 0)
            .then(|| self.last_received + u64::from(self.keep_alive_seconds) * 1_500)
    }

    /// Returns when the connection next needs attention.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let deadlines = [self.silent_at(), self.proof_over_at, self.exchange_over_at(), self.ticket_at()];
        deadlines.into_iter().flatten().min()
    }

    /// Returns when the client is to be given another ticket.
    pub(crate) fn ticket_at(&self) -> Option<Moment> {
        self.channel.as_ref()?.ticket_at()
    }

    /// Returns when the re-authentication under way has taken too long.
    pub(crate) fn exchange_over_at(&self) -> Option<Moment> {
        self.channel.as_ref()?.exchange_over_at()
    }

    /// Returns the topic that a Topic Alias stands for, or None where the PUBLISH names its topic itself; binds the alias if
    /// the PUBLISH has both (section 3.3.2.3.4).
    pub(crate) fn aliased_topic(&mut self, publish: &Publish<'_>) -> Result<Option<Arc<str>>, PeerError> {
        let Some(alias) = publish.properties.topic_alias.map(NonZeroU16::get) else { return Ok(None) };
        let alias_maximum = self.offer.topic_alias_maximum;
        // [MQTT-3.2.2-17], [MQTT-3.2.2-18], [MQTT-3.3.2-9], [MQTT-3.3.2-12]
        if alias > alias_maximum {
            return Err(PeerError::TopicAlias { alias, maximum: alias_maximum });
        }
        match publish.topic {
            Some(topic) => {
                self.aliases.get_or_insert_default().insert(alias, Arc::from(topic.as_str()));
                Ok(None)
            }
            None => match self.aliases.as_ref().and_then(|aliases| aliases.get(&alias)) {
                Some(topic) => Ok(Some(Arc::clone(topic))),
                None => Err(PeerError::Protocol("PUBLISH with a topic alias that stands for no topic yet")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_takes_little_memory() {
        assert!(size_of::<Established>() <= 240, "{} bytes", size_of::<Established>());
    }
}
