//! QoS 2 as Mosquitto has it: a message goes to its subscribers when PUBREL comes, not before, of two with one Packet Identifier the last
//! one counts, and a client that repeats itself again and again is ended.
//!
//! A message waits only where nothing is stored: what PUBREC has taken charge of would be lost in a crash before PUBREL otherwise. Invariant:
//! it goes out when PUBREL comes or the connection ends, whichever is first, so it takes memory for connections only, and each has so much
//! and no more.

use veilmq_protocol::{Acknowledgement, PacketId, Publish, QoS, TopicName};

use super::Shard;
use super::gate::Answer;
use super::publish::{Accepted, Publication, PublishRefused};
use crate::farewell::{CloseReason, PeerError};
use crate::id::{ConnectionId, SessionId};
use crate::record::Record;
use crate::time::Moment;

/// A message between PUBREC and PUBREL.
#[derive(Debug)]
pub(super) struct Unreleased {
    packet_id: PacketId,
    qos: QoS,
    retain: bool,
    topic: Box<str>,
    application_properties: Vec<u8>,
    payload: Box<[u8]>,
    message_expiry_seconds: Option<u32>,
    arrived_at: Moment,
}

impl Shard {
    /// Tells whether a message of QoS 2 is to wait for its PUBREL.
    pub(super) fn waits_for_release(&self, topic: TopicName<'_>) -> bool {
        self.settings.mosquitto_habits && !self.settings.queues_spill && !topic.is_dollar()
    }

    /// Tells whether a message with this identifier waits for its PUBREL.
    pub(super) fn is_unreleased(&self, connection: ConnectionId, packet_id: PacketId) -> bool {
        let waiting = self.unreleased.get(&connection);
        waiting.is_some_and(|waiting| waiting.iter().any(|held| held.packet_id == packet_id))
    }

    /// Takes note that a message has come again (DUP) although PUBREC has answered it on this connection or an earlier one.
    ///
    /// # Errors
    /// It has come again before. [MQTT-4.4.0-1] A client resends after it has reconnected and at no other time.
    pub(super) fn repeat_received(
        &mut self,
        connection: ConnectionId,
        packet_id: PacketId,
    ) -> Result<(), PeerError> {
        if !self.settings.mosquitto_habits || self.repeated.entry(connection).or_default().insert(packet_id) {
            return Ok(());
        }
        Err(PeerError::Protocol("PUBLISH has come again and again although PUBREC has answered it"))
    }

    /// Takes charge of a message until its PUBREL comes, in the place of one with the same identifier. One for which there is no more room
    /// goes out at once.
    ///
    /// # Errors
    /// It may not be published.
    pub(super) fn hold_publish(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        packet_id: PacketId,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
        now: Moment,
    ) -> Result<Accepted, PublishRefused> {
        let waiting = self.unreleased.entry(connection).or_default();
        waiting.retain(|held| held.packet_id != packet_id);
        let bytes: usize = waiting.iter().map(|held| held.payload.len()).sum();
        if waiting.len() >= usize::from(self.settings.receive_maximum)
            || bytes + publish.payload.len() > self.settings.session_queue_bytes_max
        {
            return self.accept_publish(session, publish, topic, now);
        }
        let due = self.check_publish(session, publish, topic)?;
        let mut application_properties = Vec::new();
        publish
            .properties
            .encode_application_as_sent(&mut application_properties)
            .map_err(PublishRefused::Properties)?;
        self.remember(due);
        let held = Unreleased {
            packet_id,
            qos: self.outgoing_qos(publish.qos),
            retain: publish.retain,
            topic: topic.as_str().into(),
            application_properties,
            payload: publish.payload.into(),
            message_expiry_seconds: publish.properties.message_expiry_seconds,
            arrived_at: now,
        };
        self.unreleased.entry(connection).or_default().push(held);
        Ok(Accepted { distribution: None, stored: false })
    }

    /// Handles PUBREL: the client will not repeat the PUBLISH, so its identifier is free ([MQTT-4.3.3-11]).
    pub(super) fn pubrel_received(
        &mut self,
        connection: ConnectionId,
        release: &Acknowledgement<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let packet_id = release.packet_id;
        let Some(state) = self.session_on(connection) else { return Ok(()) };
        let (session, durable) = (state.id, state.durable);
        // [MQTT-4.3.3-12]
        let was_received = state.received.remove(packet_id);
        let answer = match was_received || self.settings.mosquitto_habits {
            true => Answer::PubComp(packet_id),
            false => Answer::PubCompUnknown(packet_id),
        };
        if let Some(repeated) = self.repeated.get_mut(&connection) {
            repeated.remove(&packet_id);
        }
        let released = durable && was_received;
        if released {
            self.records.push(Record::Released { session, packet_id });
        }
        self.release_one(connection, session, packet_id, now);
        // PUBCOMP frees the identifier for a new message, which must not be taken for a repetition after a crash.
        let ticket = self.ticket_to_await(connection, released);
        self.answer(connection, answer, ticket);
        Ok(())
    }

    /// Gives a message to its subscribers, if one with this identifier waits for its PUBREL.
    pub(super) fn release_one(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        packet_id: PacketId,
        now: Moment,
    ) {
        let Some(waiting) = self.unreleased.get_mut(&connection) else { return };
        if let Some(index) = waiting.iter().position(|held| held.packet_id == packet_id) {
            let held = waiting.remove(index);
            self.release(session, &held, now);
        }
    }

    /// Gives all messages to their subscribers that a connection which ends has not released.
    pub(super) fn release_all(&mut self, connection: ConnectionId, session: SessionId, now: Moment) {
        self.repeated.remove(&connection);
        for held in self.unreleased.remove(&connection).unwrap_or_default() {
            self.release(session, &held, now);
        }
    }

    fn release(&mut self, session: SessionId, held: &Unreleased, now: Moment) {
        let Ok(topic) = TopicName::new(&held.topic) else { return };
        let waited = u32::try_from(now.since(held.arrived_at) / 1_000).unwrap_or(u32::MAX);
        let publication = Publication {
            publisher: Some(session),
            qos: held.qos,
            retain: held.retain,
            topic,
            application_properties: &held.application_properties,
            payload: &held.payload,
            message_expiry_seconds: held.message_expiry_seconds.map(|seconds| seconds.saturating_sub(waited)),
            refusable: false,
        };
        if let Err(refused) = self.publish(&publication, now) {
            self.log_refusal(session, refused, topic, now);
        }
    }
}
