//! How a link begins: CONNECT to both brokers, and the packets of the bridge itself: its notification and its subscriptions.
//!
//! On the way to the other broker their Packet Identifiers and those of messages are one running number, as with Mosquitto's bridges.
//! Should a message have the identifier of a packet that was not answered yet, it waits.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use veilmq_protocol::{
    BRIDGE_PROPERTY, BROKER_ID_BYTES_MAX, BROKER_PROPERTY, ConnAck, Connect, ConnectProperties, EncodeError,
    Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, RetainHandling,
    Subscribe, SubscribeFiltersBuf, SubscribeOptions, TopicFilter, TopicName, Unsubscribe,
    UnsubscribeFiltersBuf, UserPropertiesBuf, Will,
};

use crate::error::Fault;
use crate::flow::Flow;
use crate::link::{Event, Link, Side, Stage};
use crate::mapping::Direction;

/// The payload that says that a bridge is up.
const UP: &[u8] = b"1";
/// The payload that says that a bridge is down.
const DOWN: &[u8] = b"0";

/// A packet of the bridge itself that has to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// The PUBLISH that says that the bridge is up.
    Notification,
    /// A SUBSCRIBE for this Topic Filter.
    Subscribe(String),
    /// An UNSUBSCRIBE.
    Unsubscribe,
}

impl Link {
    pub(crate) fn connect_to_remote(&mut self) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        let (remote, question) = (&settings.remote, self.question(Side::Remote)?);
        let topic = remote.notification_topic.as_deref().and_then(|topic| TopicName::new(topic).ok());
        let will = topic.map(|topic| Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            topic,
            payload: DOWN,
            delay_seconds: 0,
            properties: PublishProperties::default(),
        });
        let connect = Connect {
            version: remote.version,
            bridge: remote.says_bridge && remote.version != ProtocolVersion::V5,
            clean_start: remote.clean_start,
            keep_alive_seconds: remote.keep_alive_seconds,
            client_id: &remote.client_id,
            username: remote.username.as_deref(),
            password: remote.password.as_deref(),
            will,
            properties: ConnectProperties {
                session_expiry_seconds: remote.session_expiry_seconds,
                receive_maximum: NonZeroU16::new(remote.receive_maximum),
                packet_bytes_max: NonZeroU32::new(remote.packet_bytes_max)
                    .filter(|_| remote.says_packet_bytes_max),
                topic_alias_maximum: remote.topic_alias_maximum,
                user: question.as_user_properties(),
                ..ConnectProperties::default()
            },
        };
        self.write(Side::Remote, &Packet::Connect(connect))
    }

    pub(crate) fn connect_to_local(&mut self) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        let (local, question) = (&settings.local, self.question(Side::Local)?);
        let connect = Connect {
            version: ProtocolVersion::V5,
            bridge: false,
            clean_start: local.clean_start,
            keep_alive_seconds: 0,
            client_id: &local.client_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                session_expiry_seconds: Some(local.session_expiry_seconds),
                receive_maximum: NonZeroU16::new(self.local_receive_maximum()),
                packet_bytes_max: self.local_packet_bytes_max(),
                user: question.as_user_properties(),
                ..ConnectProperties::default()
            },
        };
        self.write(Side::Local, &Packet::Connect(connect))
    }

    /// What asks a broker who it is, where messages are marked with that.
    fn question(&self, side: Side) -> Result<UserPropertiesBuf, Fault> {
        let mut user = UserPropertiesBuf::new();
        if let Some(mark) = &self.settings.mark {
            user.push(BRIDGE_PROPERTY, mark).map_err(|error| Fault::Unwritable { side, error })?;
        }
        Ok(user)
    }

    /// Takes note of who a broker is.
    fn be_introduced(&mut self, side: Side, answer: &ConnAck<'_>) {
        let mut said = answer.properties.user.iter().filter(|(name, _)| *name == BROKER_PROPERTY);
        let id = said.next().map(|(_, id)| id).filter(|id| id.len() <= BROKER_ID_BYTES_MAX);
        self.half_mut(side).broker = id.filter(|_| self.settings.mark.is_some()).map(str::to_owned);
    }

    /// How many messages this broker may have sent unacknowledged.
    fn local_receive_maximum(&self) -> u16 {
        match self.caution {
            Some(_) => 1,
            None => self.settings.remote.receive_maximum.min(self.remote_receive_maximum),
        }
    }

    /// What the other broker takes, less what a packet may grow by on its way there.
    fn local_packet_bytes_max(&self) -> Option<NonZeroU32> {
        let growth = self.settings.mappings.iter().map(|mapping| mapping.growth(Side::Local)).max();
        let growth = growth.unwrap_or(0) + self.settings.trail_bytes_max();
        let bytes_max = self.remote_packet_bytes_max?;
        let rest = bytes_max.saturating_sub(u32::try_from(growth).unwrap_or(u32::MAX));
        NonZeroU32::new(rest.max(1))
    }

    /// Takes the CONNACK of a side.
    pub(crate) fn accepted(&mut self, side: Side, packet: &Packet<'_>) -> Result<bool, Fault> {
        let Packet::ConnAck(answer) = packet else {
            return Err(Fault::Unexpected { side, packet: packet.packet_type().name() });
        };
        if answer.reason != ReasonCode::Success {
            return Err(Fault::Refused { side, reason: answer.reason });
        }
        self.be_introduced(side, answer);
        match side {
            Side::Remote => self.accepted_by_remote(answer)?,
            Side::Local => self.accepted_by_local(answer)?,
        }
        Ok(true)
    }

    fn accepted_by_remote(&mut self, answer: &ConnAck<'_>) -> Result<(), Fault> {
        let properties = &answer.properties;
        self.remote_session_present = answer.session_present;
        self.remote_receive_maximum = properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        let takes = properties.packet_bytes_max.map(NonZeroU32::get);
        self.remote_packet_bytes_max = [self.remote_packet_bytes_max, takes].into_iter().flatten().min();
        self.remote_maximum_qos = properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
        self.remote_keeps_retained = properties.retain_available.unwrap_or(true);
        if let Some(seconds) = properties.server_keep_alive_seconds {
            self.remote.keep_alive.change(seconds);
        }
        self.notify()?;
        self.subscribe_at_remote()?;
        if self.caution.is_some() {
            self.write(Side::Remote, &Packet::PingReq)?;
        }
        self.stage = Stage::AwaitLocalConnAck;
        self.connect_to_local()
    }

    fn accepted_by_local(&mut self, answer: &ConnAck<'_>) -> Result<(), Fault> {
        let quota = answer.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        self.local_packet_bytes_max = answer.properties.packet_bytes_max.map_or(u32::MAX, NonZeroU32::get);
        self.local.flow = Flow::new(
            self.remote_receive_maximum,
            self.remote_session_present || self.is_silent_on_sessions(),
        );
        self.remote.flow = Flow::new(quota, answer.session_present);
        self.obey_local_keep_alive(answer);
        self.subscribe_at_local(RetainHandling::Send)?;
        self.stage = Stage::Relaying;
        self.crossed_at = self.now;
        self.events.push_back(Event::Up);
        Ok(())
    }

    /// MQTT 3.1 does not say whether the other broker has kept the session.
    fn is_silent_on_sessions(&self) -> bool {
        self.settings.remote.version == ProtocolVersion::V31
    }

    /// Takes a packet of this broker while the link is only to subscribe.
    pub(crate) fn parking(&mut self, packet: &Packet<'_>) -> Result<bool, Fault> {
        match packet {
            Packet::ConnAck(answer) if answer.reason != ReasonCode::Success => {
                return Err(Fault::Refused { side: Side::Local, reason: answer.reason });
            }
            Packet::ConnAck(answer) => {
                self.obey_local_keep_alive(answer);
                self.subscribe_at_local(RetainHandling::DoNotSend)?;
                let settings = Arc::clone(&self.settings);
                for filter in &settings.dropped.local {
                    self.unsubscribe(Side::Local, filter)?;
                }
            }
            Packet::UnsubAck(answer) => drop(self.local.own.remove(&answer.packet_id)),
            Packet::SubAck(answer) => self.subscribed(Side::Local, answer.packet_id, answer.reason_codes()),
            Packet::PingResp => self.local.keep_alive.answered(),
            // It stays unacknowledged, and is sent again when the bridge is up.
            Packet::Publish(_) | Packet::PubRel(_) => {}
            other => {
                return Err(Fault::Unexpected { side: Side::Local, packet: other.packet_type().name() });
            }
        }
        if self.local.own.is_empty() && self.stage == Stage::Parking {
            self.stage = Stage::Parked;
            self.close()?;
        }
        Ok(true)
    }

    /// This broker may want to hear of every client now and then, whatever the client asks for.
    fn obey_local_keep_alive(&mut self, answer: &ConnAck<'_>) {
        if let Some(seconds) = answer.properties.server_keep_alive_seconds {
            self.local.keep_alive.change(seconds);
        }
    }

    /// Says on the other broker that the bridge is up.
    fn notify(&mut self) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        let Some(topic) = settings.remote.notification_topic.as_deref() else { return Ok(()) };
        let Ok(topic) = TopicName::new(topic) else { return Ok(()) };
        let packet_id = self.own_id(Side::Remote, Own::Notification)?;
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce.min(self.remote_maximum_qos),
            retain: self.remote_keeps_retained,
            topic: Some(topic),
            packet_id: Some(packet_id),
            properties: PublishProperties::default(),
            payload: UP,
        };
        if publish.qos == QoS::AtMostOnce {
            self.remote.own.remove(&packet_id);
        }
        self.write(Side::Remote, &Packet::Publish(publish))
    }

    fn subscribe_at_remote(&mut self) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        let retain_handling = RetainHandling::Send;
        for mapping in &settings.mappings {
            let filter = mapping.filter(Side::Remote);
            if mapping.direction().takes_from(Side::Remote) {
                let qos = mapping.qos().min(settings.local.maximum_qos);
                self.subscribe(Side::Remote, filter, qos, retain_handling)?;
            } else if settings.remote.unsubscribes {
                self.unsubscribe(Side::Remote, filter)?;
            }
        }
        // A session that began with this connection has nothing of before; MQTT 3.1 does not say whether it did.
        let is_kept = self.remote_session_present || self.is_silent_on_sessions();
        for filter in settings.dropped.remote.iter().filter(|_| is_kept) {
            self.unsubscribe(Side::Remote, filter)?;
        }
        Ok(())
    }

    fn subscribe_at_local(&mut self, retain_handling: RetainHandling) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        for mapping in &settings.mappings {
            if mapping.direction() != Direction::In {
                let qos = mapping.qos().min(self.remote_maximum_qos);
                self.subscribe(Side::Local, mapping.filter(Side::Local), qos, retain_handling)?;
            }
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        side: Side,
        filter: &str,
        qos: QoS,
        retain_handling: RetainHandling,
    ) -> Result<(), Fault> {
        let Ok(topics) = TopicFilter::new(filter) else { return Ok(()) };
        let packet_id = self.own_id(side, Own::Subscribe(filter.to_owned()))?;
        let options = SubscribeOptions { qos, no_local: true, retain_as_published: true, retain_handling };
        let mut filters = SubscribeFiltersBuf::new();
        filters.push(topics, options).map_err(|error| Fault::Unwritable { side, error })?;
        let filters = filters.as_filters();
        let subscribe = Subscribe { packet_id, subscription_id: None, user: Default::default(), filters };
        self.write(side, &Packet::Subscribe(subscribe))
    }

    fn unsubscribe(&mut self, side: Side, filter: &str) -> Result<(), Fault> {
        let Ok(topics) = TopicFilter::new(filter) else { return Ok(()) };
        let packet_id = self.own_id(side, Own::Unsubscribe)?;
        let mut filters = UnsubscribeFiltersBuf::new();
        filters.push(topics);
        let unsubscribe = Unsubscribe { packet_id, user: Default::default(), filters: filters.as_filters() };
        self.write(side, &Packet::Unsubscribe(unsubscribe))
    }

    /// Takes the answer to a SUBSCRIBE.
    pub(crate) fn subscribed(
        &mut self,
        side: Side,
        packet_id: PacketId,
        reasons: impl Iterator<Item = ReasonCode>,
    ) {
        let Some(Own::Subscribe(filter)) = self.half_mut(side).own.remove(&packet_id) else { return };
        for reason in reasons.filter(|reason| reason.is_error()) {
            self.events.push_back(Event::SubscriptionRefused { side, filter: filter.clone(), reason });
        }
    }

    /// Gives a packet of the bridge itself an identifier. All of them are given before the first message is passed on.
    fn own_id(&mut self, side: Side, own: Own) -> Result<PacketId, Fault> {
        let id = match side {
            Side::Remote => self.next_identifier(),
            // Those of the other broker's messages count up from 1.
            Side::Local => {
                u16::try_from(self.local.own.len()).ok().and_then(|count| PacketId::new(u16::MAX - count))
            }
        };
        let id = id.ok_or(Fault::Unwritable { side, error: EncodeError::OutOfRange("Packet Identifier") })?;
        self.half_mut(side).own.insert(id, own);
        Ok(id)
    }

    /// The next identifier on the way to the other broker that no packet of the bridge has; `None` if all have been tried.
    fn next_identifier(&mut self) -> Option<PacketId> {
        (0..=u16::MAX).find_map(|_| {
            self.last_identifier = self.last_identifier.wrapping_add(1);
            PacketId::new(self.last_identifier).filter(|id| !self.remote.own.contains_key(id))
        })
    }
}
