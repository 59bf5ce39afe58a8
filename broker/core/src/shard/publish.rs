//! The way in: PUBLISH from a client, retained messages, and who gets a message.

use std::sync::Arc;

use veilmq_protocol::{EncodeError, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, TopicName};

use super::enforce::Due;
use super::gate::{Answer, Held};
use super::share;
use super::{About, Shard};
use crate::connection::Connection;
use crate::durability::MessageDurability;
use crate::e2e::{DistributionRefusal, Inspected, Refusal};
use crate::effect::Parcel;
use crate::farewell::{BrokerReason, CloseReason, PeerError};
use crate::id::{ConnectionId, SessionId};
use crate::log_limit::LogLimit;
use crate::matches::Matches;
use crate::message::{Expiry, Message, MessageParts};
use crate::record::{Record, Reference, Stage};
use crate::retained::Stored;
use crate::session::Session;
use crate::share::Allotment;
use crate::stats::DropReason;
use crate::storage::StorageState;
use crate::time::Moment;

/// An Application Message as it arrives, from a client or as a Will.
#[derive(Debug)]
pub(super) struct Publication<'a> {
    pub(super) publisher: Option<SessionId>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) topic: TopicName<'a>,
    pub(super) application_properties: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) message_expiry_seconds: Option<u32>,
    /// Whether it is refused where there is no room to store it: a client is told so and has it still, a Will is not.
    pub(super) refusable: bool,
}

/// A message and who gets it.
#[derive(Debug)]
pub(super) struct Distribution {
    message: Arc<Message>,
    matches: Arc<Matches>,
    /// The copies of groups, each for the member that was chosen.
    allotments: Vec<Allotment>,
}

/// A publication that was accepted and is to be distributed, unless it is a command.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) distribution: Option<Distribution>,
    /// Records of this turn hold the message, so its acknowledgement waits for them.
    pub(super) stored: bool,
}

/// A message, and who gets it.
struct Addressed {
    message: Arc<Message>,
    matches: Arc<Matches>,
    choices: Vec<share::Choice>,
    /// The durable sessions that need it, but for those in `choices`.
    references: Vec<Reference>,
}

impl Addressed {
    /// Tells whether a record has to keep the message for some session.
    fn is_stored(&self) -> bool {
        let qos = self.message.qos();
        !self.references.is_empty() || self.choices.iter().any(|choice| choice.stores(qos))
    }
}

/// Why a publication was refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum PublishRefused {
    #[error("retained messages are at their limit")]
    RetainedFull,
    #[error("it has to be stored, and storage takes nothing new")]
    StorageFull,
    #[error("$SYS and $CONTROL belong to the broker")]
    Reserved,
    #[error("its publisher may not publish there")]
    NotAuthorized,
    #[error("its payload is larger than this broker takes")]
    PayloadTooLarge,
    #[error("{0}")]
    EndToEnd(Refusal),
    #[error("{0}")]
    Distribution(DistributionRefusal),
    #[error("it is the same as one before")]
    Duplicate,
    #[error("{0}")]
    Properties(EncodeError),
}

impl PublishRefused {
    fn reason_code(self) -> ReasonCode {
        match self {
            Self::RetainedFull | Self::StorageFull | Self::Properties(_) => ReasonCode::QuotaExceeded,
            Self::Reserved | Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::PayloadTooLarge => ReasonCode::ImplementationSpecificError,
            Self::EndToEnd(refusal) => refusal.reason_code(),
            Self::Distribution(refusal) => refusal.reason_code(),
            Self::Duplicate => ReasonCode::Success,
        }
    }

    fn log(self, topic: TopicName<'_>, about: About<'_>, limit: &mut LogLimit, now: Moment) {
        let (topic, About { client, user, peer }) = (topic.as_str(), about);
        match self {
            // Storage has its own line when it becomes full; one for each message would make the disk no emptier.
            Self::StorageFull | Self::Duplicate => {
                tracing::debug!(topic, client, user, peer, refused = %self, "publish refused");
            }
            Self::RetainedFull
            | Self::Reserved
            | Self::NotAuthorized
            | Self::PayloadTooLarge
            | Self::EndToEnd(_)
            | Self::Distribution(_)
            | Self::Properties(_) => {
                if let Some(suppressed) = limit.admit(now) {
                    tracing::warn!(topic, client, user, peer, refused = %self, suppressed, "publish refused");
                }
            }
        }
    }
}

impl Shard {
    /// Handles a PUBLISH of a client, as its QoS requires ([MQTT-3.3.4-1]).
    pub(super) fn publish_received(
        &mut self,
        connection: ConnectionId,
        publish: &Publish<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        self.stats.message_received(publish.qos, publish.payload.len());
        self.settings.check_name("Topic Name", publish.topic.map_or("", TopicName::as_str))?;
        // [MQTT-3.3.4-6]
        if !publish.properties.subscription_ids.is_empty() {
            return Err(PeerError::Protocol("a client's PUBLISH carries a subscription identifier").into());
        }
        let Some(Connection::Established(established)) = self.connections.get_mut(&connection) else {
            return Ok(());
        };
        established.offer.capabilities.check_publish(publish).map_err(PeerError::from)?;
        let session = established.session;
        let aliased = established.aliased_topic(publish)?;
        let topic = match &aliased {
            Some(topic) => TopicName::new(topic).ok(),
            None => publish.topic,
        };
        let topic = topic.ok_or(PeerError::Protocol("PUBLISH with neither topic nor alias"))?;
        let mounted = established.offer.mounted_topic(topic)?;
        let topic = mounted.as_deref().and_then(|mounted| TopicName::new(mounted).ok()).unwrap_or(topic);
        self.settings.check_levels(topic)?;
        match publish.packet_id {
            None => {
                match self.accept_publish(session, publish, topic, now) {
                    Ok(accepted) => self.distribute_any(accepted.distribution, now),
                    Err(refused) => self.log_refusal(session, refused, topic, now),
                }
                Ok(())
            }
            Some(packet_id) => self.publish_assured(connection, session, packet_id, publish, topic, now),
        }
    }

    /// Handles a PUBLISH of QoS 1 or 2: it is acknowledged once the broker owns it ([MQTT-4.3.2-4], [MQTT-4.3.3-8]).
    fn publish_assured(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        packet_id: PacketId,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let exactly_once = publish.qos == QoS::ExactlyOnce;
        let Some(state) = self.sessions.get_mut(&session) else { return Ok(()) };
        // [MQTT-4.3.2-5] At QoS 1 nothing is remembered of an identifier.
        let is_repeated = exactly_once && state.received.contains(packet_id);
        if is_repeated && (publish.dup || !self.is_unreleased(connection, packet_id)) {
            if publish.dup {
                self.repeat_received(connection, packet_id)?;
            }
            // [MQTT-4.3.3-10] Acknowledged again, delivered no second time.
            self.answer(connection, Answer::PubRec(packet_id, ReasonCode::Success), None);
            return Ok(());
        }
        let Some(state) = self.sessions.get(&session) else { return Ok(()) };
        let durable = state.durable;
        if !is_repeated {
            self.count_unacknowledged(connection)?;
        }
        // [MQTT-4.3.3-8] The identifier of a durable session's QoS 2 message is stored, whoever gets the message.
        let accepted = match self.shared.room() {
            StorageState::Full | StorageState::Failing if exactly_once && durable => Err(self.no_room()),
            _ if exactly_once && self.waits_for_release(topic) => {
                self.hold_publish(connection, session, packet_id, publish, topic, now)
            }
            _ => self.accept_publish(session, publish, topic, now),
        };
        let Accepted { distribution, mut stored } = match accepted {
            Ok(accepted) => accepted,
            Err(refused) => {
                self.log_refusal(session, refused, topic, now);
                return self.refuse_publish(connection, packet_id, exactly_once, refused);
            }
        };
        if exactly_once && let Some(state) = self.sessions.get_mut(&session) {
            state.received.insert(packet_id);
            if durable {
                self.records.push(Record::Received { session, packet_id });
                stored = true;
            }
        }
        let own = self.ticket_to_await(connection, stored);
        let ticket = self.answers_wait_for(connection, own);
        if exactly_once {
            // It may find subscribers later than now, so PUBREC never says that there are none. It goes first: a client that
            // subscribes to what it publishes knows then which message it gets.
            self.answer(connection, Answer::PubRec(packet_id, ReasonCode::Success), ticket);
            // If the commit fails the client sends it again, and that is no repetition for anyone.
            match (ticket, distribution) {
                (Some(ticket), Some(distribution)) => {
                    self.distribute_when_stored(ticket, Held { publisher: session, packet_id, distribution });
                }
                (_, distribution) => self.distribute_any(distribution, now),
            }
        } else {
            let finds_nobody =
                distribution.as_ref().is_some_and(|distribution| distribution.matches.finds_nobody());
            let reason = match finds_nobody {
                true => ReasonCode::NoMatchingSubscribers,
                false => ReasonCode::Success,
            };
            self.distribute_any(distribution, now);
            self.answer(connection, Answer::PubAck(packet_id, reason), ticket);
        }
        Ok(())
    }

    /// Counts a message that awaits our acknowledgement ([MQTT-3.3.4-7]); MQTT 3.1.1 knows no Receive Maximum.
    fn count_unacknowledged(&mut self, connection: ConnectionId) -> Result<(), PeerError> {
        let Some(established) = self.established(connection) else { return Ok(()) };
        let maximum = established.offer.receive_maximum;
        established.unacknowledged += 1;
        if established.wire.version() == ProtocolVersion::V5
            && established.unacknowledged > u32::from(maximum)
        {
            return Err(PeerError::ReceiveMaximum { maximum });
        }
        Ok(())
    }

    /// Says no to one message, whose identifier is free at once ([MQTT-4.3.3-9]). MQTT 3.1.1 has no way to: what its client may
    /// not publish is acknowledged and goes nowhere, what cannot be kept ends the connection, and the client has it still
    /// ([MQTT311-3.3.5-2]).
    fn refuse_publish(
        &mut self,
        connection: ConnectionId,
        packet_id: PacketId,
        exactly_once: bool,
        refused: PublishRefused,
    ) -> Result<(), CloseReason> {
        let Some(established) = self.established(connection) else { return Ok(()) };
        let version = established.wire.version();
        if exactly_once
            && matches!(refused, PublishRefused::Duplicate)
            && let Some(state) = self.session_on(connection)
        {
            // Its exchange goes on as that of any other message.
            state.received.insert(packet_id);
        }
        let reason = match (version, refused) {
            (ProtocolVersion::V5, PublishRefused::EndToEnd(refusal)) => {
                let (reason, why) = (refusal.reason_code(), refusal.sentence());
                self.answer(connection, Answer::Refused { packet_id, exactly_once, reason, why }, None);
                return Ok(());
            }
            (ProtocolVersion::V5, PublishRefused::Distribution(refusal)) => {
                let (reason, why) = (refusal.reason_code(), refusal.sentence());
                self.answer(connection, Answer::Refused { packet_id, exactly_once, reason, why }, None);
                return Ok(());
            }
            (ProtocolVersion::V5, _) => refused.reason_code(),
            (
                ProtocolVersion::V31 | ProtocolVersion::V311,
                PublishRefused::Reserved
                | PublishRefused::NotAuthorized
                | PublishRefused::PayloadTooLarge
                | PublishRefused::EndToEnd(_)
                | PublishRefused::Distribution(_)
                | PublishRefused::Duplicate,
            ) => ReasonCode::Success,
            (ProtocolVersion::V31 | ProtocolVersion::V311, PublishRefused::StorageFull) => {
                return Err(CloseReason::Broker(BrokerReason::StorageFull));
            }
            (ProtocolVersion::V31 | ProtocolVersion::V311, _) => {
                return Err(
                    PeerError::NotAuthorized("the broker cannot keep another retained message").into()
                );
            }
        };
        let answer = match exactly_once {
            true => Answer::PubRec(packet_id, reason),
            false => Answer::PubAck(packet_id, reason),
        };
        self.answer(connection, answer, None);
        Ok(())
    }

    #[inline(never)]
    pub(super) fn log_refusal(
        &mut self,
        session: SessionId,
        refused: PublishRefused,
        topic: TopicName<'_>,
        now: Moment,
    ) {
        let about = About::session(session, &self.sessions, &self.connections);
        refused.log(topic, about, &mut self.refused_publications, now);
        self.notify(session, &format!("{refused}: {}", topic.as_str()));
    }

    pub(super) fn accept_publish(
        &mut self,
        session: SessionId,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
        now: Moment,
    ) -> Result<Accepted, PublishRefused> {
        // Whose message it is matters for few topics.
        if topic.is_dollar() && self.is_reserved_for(session, topic) {
            return self.publish_reserved(session, topic, publish.payload, now);
        }
        let due = self.check_publish(session, publish, topic)?;
        if self.shared.joins.is_any() {
            self.answer_join(session, topic, publish.payload);
        }
        let mut application_properties = std::mem::take(&mut self.scratch);
        application_properties.clear();
        if let Err(error) = publish.properties.encode_application_as_sent(&mut application_properties) {
            return Err(PublishRefused::Properties(error));
        }
        let publication = Publication {
            publisher: Some(session),
            qos: self.outgoing_qos(publish.qos),
            retain: publish.retain,
            topic,
            application_properties: &application_properties,
            payload: publish.payload,
            message_expiry_seconds: publish.properties.message_expiry_seconds,
            refusable: true,
        };
        let accepted = self.accept(&publication, now);
        self.scratch = application_properties;
        if accepted.is_ok() {
            self.remember(due);
        }
        accepted
    }

    /// Looks whether a message may be published, and returns what is due once it is.
    pub(super) fn check_publish(
        &mut self,
        session: SessionId,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
    ) -> Result<Due, PublishRefused> {
        if !self.may_publish(session, topic) {
            self.stats.messages_dropped(DropReason::NotAuthorized, 1);
            return Err(PublishRefused::NotAuthorized);
        }
        if publish.payload.len() > self.settings.payload_bytes_max {
            self.stats.messages_dropped(DropReason::TooLarge, 1);
            return Err(PublishRefused::PayloadTooLarge);
        }
        let (payload, retain) = (publish.payload, publish.retain);
        self.inspect(session, &Inspected { topic, payload, retain, properties: &publish.properties })
    }

    /// Returns the highest QoS that a message may be delivered with: that of the publisher, unless subscriptions decide alone.
    pub(super) fn outgoing_qos(&self, published: QoS) -> QoS {
        if self.settings.upgrade_qos { QoS::ExactlyOnce } else { published }
    }

    /// Publishes a message of the broker's own accord, as it does with a Will; tells whether anybody gets it.
    pub(super) fn publish(
        &mut self,
        publication: &Publication<'_>,
        now: Moment,
    ) -> Result<bool, PublishRefused> {
        let Accepted { distribution, .. } = self.accept(publication, now)?;
        let is_heard = distribution.as_ref().is_some_and(|distribution| !distribution.matches.is_empty());
        self.distribute_any(distribution, now);
        Ok(is_heard)
    }

    /// Publishes what the broker says of itself, as Mosquitto does: at QoS 2. While storage takes nothing new it is
    /// said at QoS 0, which is not stored for anybody.
    pub(super) fn announce(&mut self, topic: TopicName<'_>, payload: &[u8], retain: bool, now: Moment) {
        let publication = Publication {
            publisher: None,
            qos: match self.shared.room() {
                StorageState::Ready => QoS::ExactlyOnce,
                StorageState::Full | StorageState::Failing => QoS::AtMostOnce,
            },
            retain,
            topic,
            application_properties: &[],
            payload,
            message_expiry_seconds: None,
            refusable: false,
        };
        if let Err(refused) = self.publish(&publication, now) {
            tracing::warn!(topic = topic.as_str(), %refused, "announcement refused");
        }
    }

    /// Takes a message in: retains it if asked, and stores it for durable sessions.
    fn accept(&mut self, publication: &Publication<'_>, now: Moment) -> Result<Accepted, PublishRefused> {
        let records_before = self.records.len();
        let durability = self.settings.relaxed_topics.durability_of(publication.topic);
        let mut addressed = self.address(publication, durability, now);
        // What is kept in memory alone needs no room on the disk.
        let has_room = !publication.refusable
            || durability == MessageDurability::Memory
            || self.shared.room() == StorageState::Ready;
        if !has_room && addressed.is_stored() {
            return Err(self.no_room());
        }
        // [MQTT-3.3.1-8]
        if publication.retain {
            match has_room {
                true => self.retain(&addressed.message, now)?,
                false => self.retain_without_room(&addressed.message)?,
            }
            // Who subscribed on another shard since the message was addressed may have looked for it before it was retained.
            if self.matches.is_outdated(&self.shared.routes) {
                addressed = self.address(publication, durability, now);
            }
        }
        let Addressed { message, matches, choices, mut references } = addressed;
        let allotments = self.allot(choices, &message, &mut references);
        if !references.is_empty() {
            self.records.push(Record::Published { message: Arc::clone(&message), references });
        }
        self.stats.message_targets(matches.copies());
        let stored = durability == MessageDurability::Commit && self.records.len() > records_before;
        Ok(Accepted { distribution: Some(Distribution { message, matches, allotments }), stored })
    }

    /// Finds out who gets a message, and makes it.
    fn address(
        &mut self,
        publication: &Publication<'_>,
        durability: MessageDurability,
        now: Moment,
    ) -> Addressed {
        let matches = self.matches.matches(&self.shared.routes, publication.topic, publication.publisher);
        let choices = share::choose(&matches, publication.qos);
        let (references, needed) = match durability {
            MessageDurability::Memory => (Vec::new(), 0),
            MessageDurability::Commit | MessageDurability::Interval => {
                let references = references(&matches, publication);
                let refers = |choice: &&share::Choice| choice.refers_to_publication(publication.qos);
                let needed = references.len() + choices.iter().filter(refers).count();
                (references, needed)
            }
        };
        let source = if publication.retain { self.source_of(publication) } else { None };
        let message = Message::new(
            &MessageParts {
                id: (needed > 0).then(|| self.shared.next_message()),
                publisher: publication.publisher,
                source: source.as_ref(),
                qos: publication.qos,
                retain: publication.retain,
                topic: publication.topic.as_str(),
                application_properties: publication.application_properties,
                payload: publication.payload,
                expiry: publication.message_expiry_seconds.map(|interval_seconds| Expiry {
                    at: now.plus_seconds(u64::from(interval_seconds)),
                    interval_seconds,
                }),
            },
            u32::try_from(needed).unwrap_or(u32::MAX),
        );
        Addressed { message, matches, choices, references }
    }

    /// Keeps a message as its topic's retained one ([MQTT-3.3.1-5]).
    fn retain(&mut self, message: &Arc<Message>, now: Moment) -> Result<(), PublishRefused> {
        if message.publisher().is_none() {
            // What the broker says of itself is said anew after a restart.
            self.shared.retained.store_own(message);
            return Ok(());
        }
        let mut expired = Vec::new();
        let stored = self.shared.retained.store(message, now, &mut expired);
        self.forget_expired(expired);
        let record = match stored {
            Stored::Kept => {
                self.tell_standing_of(message);
                self.arm_sweep(message.expires_at(), now);
                Record::Retained { message: Arc::clone(message) }
            }
            Stored::Cleared => Record::RetainedCleared { topic: Arc::from(message.topic()) },
            Stored::Nothing => return Ok(()),
            Stored::OverBudget => {
                self.stats.messages_dropped(DropReason::RetainedFull, 1);
                return Err(PublishRefused::RetainedFull);
            }
        };
        if !self.settings.relaxed_topics.is_in_memory(message.topic()) {
            self.records.push(record);
        }
        Ok(())
    }

    /// Does what a retained message asks for while storage takes nothing new. One that clears its topic frees something. One of
    /// QoS 0 is discarded, which leaves its topic without any (section 3.3.1.3); at a higher QoS its publisher keeps it.
    fn retain_without_room(&mut self, message: &Arc<Message>) -> Result<(), PublishRefused> {
        if message.qos() != QoS::AtMostOnce && !message.payload().is_empty() {
            return Err(self.no_room());
        }
        if self.shared.retained.clear(message.topic()) {
            self.records.push(Record::RetainedCleared { topic: Arc::from(message.topic()) });
        }
        if !message.payload().is_empty() {
            self.stats.messages_dropped(DropReason::StorageFull, 1);
        }
        Ok(())
    }

    /// Counts a message that there is no room for.
    fn no_room(&self) -> PublishRefused {
        self.stats.messages_dropped(DropReason::StorageFull, 1);
        PublishRefused::StorageFull
    }

    fn distribute_any(&mut self, distribution: Option<Distribution>, now: Moment) {
        if let Some(distribution) = distribution {
            self.distribute(distribution, now);
        }
    }

    /// Gives a message to the targets on this shard, and passes it on to the other shards that have some ([MQTT-4.5.0-1]).
    pub(super) fn distribute(&mut self, distribution: Distribution, now: Moment) {
        let Distribution { message, matches, allotments } = distribution;
        for shard in matches.shards() {
            if shard != self.index {
                let parcel = Parcel::Deliver { message: Arc::clone(&message), matches: Arc::clone(&matches) };
                self.parcels.push((shard, parcel));
            }
        }
        self.deliver_all(&message, &matches, now);
        for allotment in allotments {
            self.hand_out(allotment, now);
        }
    }

    /// Returns the session of an established connection.
    pub(super) fn session_on(&mut self, connection: ConnectionId) -> Option<&mut Session> {
        let session = self.established(connection)?.session;
        self.sessions.get_mut(&session).map(|state| &mut **state)
    }
}

/// Returns the durable sessions that need a message of QoS 1 or 2.
fn references(matches: &Matches, publication: &Publication<'_>) -> Vec<Reference> {
    if publication.qos == QoS::AtMostOnce {
        return Vec::new();
    }
    let needing = matches.targets().filter(|target| target.durable && target.qos != QoS::AtMostOnce);
    needing
        .map(|target| Reference {
            session: target.session,
            qos: target.qos.min(publication.qos),
            retain: publication.retain && target.retain_as_published,
            subscription_ids: target.subscription_ids.clone(),
            share: None,
            stage: Stage::Queued,
        })
        .collect()
}
