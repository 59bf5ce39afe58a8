//! What becomes of each packet while messages cross.

use std::sync::Arc;

use veilmq_protocol::{
    Acknowledgement, BRIDGE_PROPERTY, BROKER_ID_BYTES_MAX, BROKER_PROPERTY, DecodeError, Packet, PacketId,
    Publish, PublishProperties, QoS, ReasonCode, TopicName, UserPropertiesBuf,
};

use crate::blame::Suspect;
use crate::error::Fault;
use crate::link::{Event, Link, Side};
use crate::mapping::Mapping;
use crate::settings::Settings;

/// The most bridges a message crosses.
const CROSSINGS_MAX: usize = 16;
/// What a User Property adds besides its name and value, and what lengths before it may grow by, in bytes.
const PROPERTY_OVERHEAD: usize = 1 + 2 + 2 + 3 + 3;

/// What a careful link does with a message.
enum Verdict {
    Send,
    Wait,
    SetAside,
}

impl Link {
    /// Takes a packet of a side; `false` if it has to wait.
    pub(crate) fn relay(&mut self, side: Side, packet: Packet<'_>) -> Result<bool, Fault> {
        if self.is_too_late(side, &packet) {
            return Ok(true);
        }
        match packet {
            Packet::Publish(publish) => return self.publish(side, &publish),
            Packet::PubAck(answer) => self.acknowledged(side, &answer)?,
            Packet::PubRec(answer) => self.received(side, &answer)?,
            Packet::PubRel(release) => self.release(side, &release)?,
            Packet::PubComp(answer) => self.completed(side, &answer)?,
            Packet::SubAck(answer) => self.subscribed(side, answer.packet_id, answer.reason_codes()),
            Packet::UnsubAck(answer) => drop(self.half_mut(side).own.remove(&answer.packet_id)),
            Packet::PingResp => self.ping_answered(side),
            Packet::Disconnect(farewell) => {
                return Err(Fault::Disconnected { side, reason: farewell.reason });
            }
            // Mosquitto answers it as well, and whoever only wants to know whether the bridge is there is told.
            Packet::PingReq => self.write(side, &Packet::PingResp)?,
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Auth(_) => return Err(Fault::Unexpected { side, packet: packet.packet_type().name() }),
        }
        Ok(true)
    }

    fn publish(&mut self, side: Side, publish: &Publish<'_>) -> Result<bool, Fault> {
        let topic = self.topic_of(side, publish)?;
        let settings = Arc::clone(&self.settings);
        let crossing = settings.map(side, &topic);
        let Some((_, mapped)) = crossing.filter(|_| !self.has_crossed(side, &topic, publish)) else {
            return self.decline(side, publish).map(|()| true);
        };
        let Ok(mapped) = TopicName::new(&mapped) else { return self.decline(side, publish).map(|()| true) };
        if side == Side::Local && self.caution.is_some() {
            match self.weigh(&topic, publish) {
                Verdict::Send => {}
                Verdict::Wait => return Ok(false),
                Verdict::SetAside => return self.decline(side, publish).map(|()| true),
            }
        }
        let user = self.marked(side, publish)?;
        let properties = PublishProperties {
            topic_alias: None,
            subscription_ids: Default::default(),
            user: user.as_user_properties(),
            ..publish.properties
        };
        let mapped = Publish { topic: Some(mapped), properties, ..*publish };
        if side == Side::Remote
            && let Err(reason) = self.bear(&mapped)
        {
            return self.refuse(side, reason, publish.qos, publish.packet_id).map(|()| true);
        }
        let is_too_high = side == Side::Local && publish.qos > self.remote_maximum_qos;
        if is_too_high && self.remote_maximum_qos == QoS::AtMostOnce {
            self.cross(side, &Publish { qos: QoS::AtMostOnce, packet_id: None, dup: false, ..mapped })?;
            return self.decline(side, publish).map(|()| true);
        }
        if !self.begin(side, publish)? {
            return Ok(false);
        }
        // [MQTT-3.2.2-11] What waited in the session came at the QoS of the subscription then.
        let qos = if is_too_high { self.remote_maximum_qos } else { publish.qos };
        if let Some(id) = publish.packet_id.filter(|_| is_too_high) {
            self.lowered.insert(id);
        }
        self.cross(side, &Publish { qos, ..mapped })?;
        Ok(true)
    }

    /// Says what a careful link does with a message of this broker.
    fn weigh(&mut self, topic: &str, publish: &Publish<'_>) -> Verdict {
        let Some(caution) = &mut self.caution else { return Verdict::Send };
        let suspect = publish.packet_id.map(|packet_id| Suspect {
            packet_id,
            topic: topic.to_owned(),
            payload_bytes: publish.payload.len(),
        });
        if suspect.is_some() && suspect == caution.condemned {
            self.events.extend(caution.condemned.take().map(Event::MessageSetAside));
            self.progress.set_aside += 1;
            return Verdict::SetAside;
        }
        let is_on_trial = suspect.is_some() && suspect == caution.on_trial;
        if !is_on_trial && !caution.allows() {
            return Verdict::Wait;
        }
        caution.on_trial = suspect;
        Verdict::Send
    }

    fn ping_answered(&mut self, side: Side) {
        self.half_mut(side).keep_alive.answered();
        if let Some(caution) = self.caution.as_mut().filter(|_| side == Side::Remote) {
            caution.is_clear = true;
        }
    }

    /// The other broker has answered a message of this one.
    fn answered(&mut self, id: PacketId) {
        if self.local.flow.answer(id) {
            self.progress.answered += 1;
        }
        if let Some(caution) = &mut self.caution {
            caution.on_trial = None;
        }
    }

    /// Says whether this broker would take a message, as it is to cross, rather than end the connection for it. The other broker would
    /// send it again each time, and nothing else would ever cross.
    fn bear(&self, publish: &Publish<'_>) -> Result<(), ReasonCode> {
        let local = &self.settings.local;
        let levels = publish.topic.map_or(0, |topic| topic.levels().count());
        if levels > local.topic_levels_max as usize
            || publish.properties.user.len() > local.user_properties_max as usize
        {
            return Err(ReasonCode::ImplementationSpecificError);
        }
        // [MQTT-3.2.2-15]
        let bytes = Packet::Publish(*publish).encoded_len(self.settings.version(Side::Local));
        let fits = bytes.is_ok_and(|bytes| bytes <= self.local_packet_bytes_max as usize);
        if fits { Ok(()) } else { Err(ReasonCode::PacketTooLarge) }
    }

    /// The Topic Name of a PUBLISH, which an alias may stand for.
    fn topic_of(&mut self, side: Side, publish: &Publish<'_>) -> Result<String, Fault> {
        let unknown = Fault::Malformed { side, error: DecodeError::TopicAliasInvalid("Topic Alias") };
        let topic = publish.topic.map(|topic| topic.as_str().to_owned());
        let Some(alias) = publish.properties.topic_alias else { return topic.ok_or(unknown) };
        let alias_max = match side {
            Side::Local => 0,
            Side::Remote => self.settings.remote.topic_alias_maximum,
        };
        match topic {
            Some(topic) if alias.get() <= alias_max => {
                self.aliases.insert(alias, topic.clone());
                Ok(topic)
            }
            Some(_) => Err(unknown),
            None => self.aliases.get(&alias).cloned().ok_or(unknown),
        }
    }

    /// Says whether a message comes back that went over this bridge, or goes to a broker that a bridge took it from.
    fn has_crossed(&mut self, side: Side, topic: &str, publish: &Publish<'_>) -> bool {
        let now = self.now;
        if side == Side::Remote
            && let Some(echoes) = &mut self.echoes
            && echoes.is_echo(topic, publish.payload, now)
        {
            return true;
        }
        let Some(mark) = &self.settings.mark else { return false };
        let marks = |name| publish.properties.user.iter().filter(move |(marked, _)| *marked == name);
        let is_among = |name, id: &str| marks(name).any(|(_, marked)| marked == id);
        let sink = self.half(side.other()).broker.as_deref();
        let has_crossed = is_among(BRIDGE_PROPERTY, mark)
            || sink.is_some_and(|sink| is_among(BROKER_PROPERTY, sink))
            || marks(BRIDGE_PROPERTY).count() >= CROSSINGS_MAX;
        if has_crossed {
            self.events.push_back(Event::LoopStopped);
        }
        has_crossed
    }

    /// Answers for a message that does not cross.
    fn decline(&mut self, side: Side, publish: &Publish<'_>) -> Result<(), Fault> {
        self.answer_for(side, publish.qos, publish.packet_id)
    }

    /// Answers for a message that the broker opposite would not take.
    pub(crate) fn refuse(
        &mut self,
        side: Side,
        reason: ReasonCode,
        qos: QoS,
        packet_id: Option<PacketId>,
    ) -> Result<(), Fault> {
        self.events.push_back(Event::MessageRefused { side: side.other(), reason });
        self.answer_for(side, qos, packet_id)
    }

    fn answer_for(&mut self, side: Side, qos: QoS, packet_id: Option<PacketId>) -> Result<(), Fault> {
        let Some(id) = packet_id else { return Ok(()) };
        let answer = Acknowledgement::new(id, ReasonCode::Success);
        if qos == QoS::AtLeastOnce {
            return self.write(side, &Packet::PubAck(answer));
        }
        self.half_mut(side).flow.decline(id);
        self.write(side, &Packet::PubRec(answer))
    }

    /// Takes the identifier of a message into use on the other side; `false` if that must wait.
    fn begin(&mut self, side: Side, publish: &Publish<'_>) -> Result<bool, Fault> {
        let Some(id) = publish.packet_id else { return Ok(true) };
        let is_taken = self.half(side.other()).own.contains_key(&id);
        let flow = &mut self.half_mut(side).flow;
        if is_taken || !flow.has_room(id) {
            return Ok(false);
        }
        flow.begin(id);
        let releases = publish.qos == QoS::ExactlyOnce && flow.must_release_first(id, publish.dup);
        if side == Side::Local && !publish.dup {
            self.last_identifier = id.value();
        }
        if releases {
            let release = Acknowledgement::new(id, ReasonCode::Success);
            self.write(side.other(), &Packet::PubRel(release))?;
        }
        Ok(true)
    }

    /// The User Properties of a message on the other side.
    fn marked(&self, side: Side, publish: &Publish<'_>) -> Result<UserPropertiesBuf, Fault> {
        let unwritable = |error| Fault::Unwritable { side: side.other(), error };
        let mut user = UserPropertiesBuf::new();
        for (name, value) in publish.properties.user {
            user.push(name, value).map_err(unwritable)?;
        }
        if let Some(mark) = &self.settings.mark {
            user.push(BRIDGE_PROPERTY, mark).map_err(unwritable)?;
        }
        if let Some(broker) = &self.half(side).broker {
            user.push(BROKER_PROPERTY, broker).map_err(unwritable)?;
        }
        Ok(user)
    }

    fn cross(&mut self, side: Side, publish: &Publish<'_>) -> Result<(), Fault> {
        let sink = side.other();
        let keeps = match sink {
            Side::Local => self.settings.local.keeps_retained,
            Side::Remote => self.settings.remote.passes_retain && self.remote_keeps_retained,
        };
        let retain = publish.retain && keeps;
        self.write(sink, &Packet::Publish(Publish { retain, ..*publish }))?;
        self.crossed_at = self.now;
        self.progress.came_in += u64::from(side == Side::Remote);
        if sink == Side::Remote {
            self.ask_about(publish)?;
            self.expect_echo(publish.topic.map_or("", |topic| topic.as_str()), publish.payload);
        }
        Ok(())
    }

    /// Nobody answers for a message at QoS 0, so a careful link asks for PINGRESP behind it.
    fn ask_about(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        let Some(caution) = self.caution.as_mut().filter(|_| publish.qos == QoS::AtMostOnce) else {
            return Ok(());
        };
        (caution.is_clear, caution.on_trial) = (false, None);
        self.write(Side::Remote, &Packet::PingReq)
    }

    /// Remembers a message that the other broker will send back.
    fn expect_echo(&mut self, topic: &str, payload: &[u8]) {
        let comes_back = |mapping: &Mapping| mapping.map(Side::Remote, topic).is_some();
        if let Some(echoes) = &mut self.echoes
            && self.settings.mappings.iter().any(comes_back)
        {
            echoes.expect(topic, payload, self.now);
        }
    }

    /// A side has answered a QoS 1 message to the end.
    fn acknowledged(&mut self, side: Side, answer: &Acknowledgement<'_>) -> Result<(), Fault> {
        let id = answer.packet_id;
        if self.half_mut(side).own.remove(&id).is_some() {
            if let Some(caution) = &mut self.caution {
                caution.is_notified |= side == Side::Remote && !answer.reason.is_error();
            }
            return Ok(());
        }
        if !self.judge(side, answer)? {
            return Ok(());
        }
        self.half_mut(side.other()).flow.end(id);
        if side == Side::Remote && self.lowered.remove(&id) {
            if !answer.reason.is_error() {
                self.local.flow.decline(id);
            }
            return self.pass(side, Packet::PubRec, answer);
        }
        self.pass(side, Packet::PubAck, answer)
    }

    /// A side has taken charge of a QoS 2 message, or refused it.
    fn received(&mut self, side: Side, answer: &Acknowledgement<'_>) -> Result<(), Fault> {
        let id = answer.packet_id;
        if !self.half(side.other()).flow.is_open(id) && !answer.reason.is_error() {
            // Section 4.3.3: whoever holds a message that this broker knows nothing of any more is to let go of it.
            return self.write(side, &Packet::PubRel(Acknowledgement::new(id, ReasonCode::Success)));
        }
        if !self.judge(side, answer)? {
            return Ok(());
        }
        if answer.reason.is_error() {
            self.half_mut(side.other()).flow.end(answer.packet_id);
        }
        self.pass(side, Packet::PubRec, answer)
    }

    /// A side releases a QoS 2 message.
    fn release(&mut self, side: Side, release: &Acknowledgement<'_>) -> Result<(), Fault> {
        let id = release.packet_id;
        // A broker that serves no QoS 2 was given none: PUBREC was this bridge's, perhaps on an earlier connection.
        let is_own = side == Side::Local && self.remote_maximum_qos < QoS::ExactlyOnce;
        let flow = &mut self.half_mut(side).flow;
        if flow.was_declined(id) || is_own {
            return self.write(side, &Packet::PubComp(Acknowledgement::new(id, ReasonCode::Success)));
        }
        flow.begin_release(id);
        self.pass(side, Packet::PubRel, release)
    }

    /// A side has answered a QoS 2 message to the end.
    fn completed(&mut self, side: Side, answer: &Acknowledgement<'_>) -> Result<(), Fault> {
        let flow = &mut self.half_mut(side.other()).flow;
        if flow.was_released_first(answer.packet_id) || !flow.end(answer.packet_id) {
            return Ok(());
        }
        self.pass(side, Packet::PubComp, answer)
    }

    /// Says whether an acknowledgement is one for a message that was passed on; a broker that has no room is asked again later.
    fn judge(&mut self, side: Side, answer: &Acknowledgement<'_>) -> Result<bool, Fault> {
        if !self.half(side.other()).flow.is_open(answer.packet_id) {
            return Ok(false);
        }
        if answer.reason == ReasonCode::QuotaExceeded {
            return Err(Fault::Overloaded { side, reason: answer.reason });
        }
        if side == Side::Remote {
            self.answered(answer.packet_id);
        }
        if answer.reason.is_error() {
            self.events.push_back(Event::MessageRefused { side, reason: answer.reason });
        }
        Ok(true)
    }

    /// Passes an acknowledgement on, without what only the broker that sent it means.
    fn pass<'a>(
        &mut self,
        side: Side,
        packet: impl FnOnce(Acknowledgement<'a>) -> Packet<'a>,
        answer: &Acknowledgement<'_>,
    ) -> Result<(), Fault> {
        self.crossed_at = self.now;
        self.write(side.other(), &packet(Acknowledgement::new(answer.packet_id, answer.reason)))
    }
}

impl Settings {
    /// What the marks add to a packet, in bytes.
    pub(crate) fn trail_bytes_max(&self) -> usize {
        let of_broker = BROKER_PROPERTY.len() + BROKER_ID_BYTES_MAX + PROPERTY_OVERHEAD;
        let of_bridge = |mark: &String| BRIDGE_PROPERTY.len() + mark.len() + PROPERTY_OVERHEAD;
        self.mark.as_ref().map_or(0, |mark| of_bridge(mark) + of_broker)
    }
}
