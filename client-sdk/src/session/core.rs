//! What a session knows and does, apart from cutting received bytes into packets.
//!
//! Every packet and deadline is handled here. Invariant: after [`Core::close`] nothing of the old connection is
//! handled any more.

use std::{collections::VecDeque, num::NonZeroU16};

use veilmq_protocol::{
    ConnAck, Disconnect, Packet, PacketType, Publish, QoS, ReasonCode,
    veil::{
        Kid,
        channel::{RecordOpener, Resumption},
        record::ControlOp,
    },
};

use super::{
    Now, SubmitError, Submitted,
    event::{Channel, CloseReason, Event, Token},
    inbound::{Arrival, Inbound},
    input::Incoming,
    opening::{Opened, Opening},
    options::SessionOptions,
    outbound::{Grants, Outbound, PacketIds},
    output::Output,
    reauthentication::Reauthentication,
    requests::Requests,
};
use crate::message::{Message, Properties, Publication};

pub(super) enum Phase {
    Down,
    Opening(Opening),
    Open,
}

pub(super) struct Core {
    pub(super) options: SessionOptions,
    pub(super) phase: Phase,
    /// The session exists on both sides, so later connections resume it.
    pub(super) established: bool,
    pub(super) clean_start: bool,
    pub(super) output: Output,
    pub(super) ids: PacketIds,
    pub(super) outbound: Outbound,
    pub(super) inbound: Inbound,
    pub(super) requests: Requests,
    pub(super) events: VecDeque<Event>,
    pub(super) opener: Option<RecordOpener>,
    /// A JOIN_REQ for the next CONNECT.
    pub(super) join_request: Option<Vec<u8>>,
    /// The CONNECT of this connection carries one.
    pub(super) is_asking: bool,
    /// What to come back with.
    pub(super) resumption: Option<Resumption>,
    /// Issuer and serial number of what the broker at the other end of a channel has shown, whether its packets travel in records or not.
    pub(super) broker: Option<(Kid, u64)>,
    /// There on a connection with a channel of records.
    pub(super) reauthentication: Option<Reauthentication>,
    pub(super) timers: Timers,
    pub(super) next_token: u64,
}

/// Deadlines in monotonic milliseconds.
#[derive(Default)]
pub(super) struct Timers {
    /// When CONNACK must have arrived.
    pub(super) connack: Option<u64>,
    pub(super) keep_alive_ms: u64,
    pub(super) ping: Option<u64>,
    /// When PINGRESP must have arrived.
    pub(super) pingresp: Option<u64>,
    pub(super) rekey: Option<u64>,
    /// When the broker's next AUTH must have arrived.
    pub(super) auth: Option<u64>,
    pub(super) reading_paused: bool,
}

impl Timers {
    pub(super) fn pingresp(&self) -> Option<u64> {
        self.pingresp.filter(|_| !self.reading_paused)
    }

    pub(super) fn auth(&self) -> Option<u64> {
        self.auth.filter(|_| !self.reading_paused)
    }
}

impl Core {
    pub(super) fn new(options: SessionOptions) -> Self {
        Self {
            clean_start: options.clean_start,
            options,
            phase: Phase::Down,
            established: false,
            output: Output::default(),
            ids: PacketIds::default(),
            outbound: Outbound::default(),
            inbound: Inbound::default(),
            requests: Requests::default(),
            events: VecDeque::new(),
            opener: None,
            join_request: None,
            is_asking: false,
            resumption: None,
            broker: None,
            reauthentication: None,
            timers: Timers::default(),
            next_token: 0,
        }
    }

    pub(super) fn packet_bytes_max(&self) -> usize {
        self.options.packet_bytes_max.get() as usize
    }

    pub(super) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(super) fn handle(&mut self, incoming: Incoming<'_>, now: Now) -> Result<(), CloseReason> {
        match (incoming, &self.phase) {
            (Incoming::Packet(packet, bytes), Phase::Opening(_)) => self.handle_opening(packet, bytes, now),
            (Incoming::Packet(Packet::Auth(auth), bytes), Phase::Open) => self.handle_auth(&auth, bytes, now),
            (Incoming::Packet(packet, _), Phase::Open) => self.handle_packet(packet),
            (Incoming::Fan(publish), Phase::Open) => self.handle_publish(&publish),
            (Incoming::Control(op), _) => self.handle_control(op),
            (Incoming::KeyUpdated, _) => Ok(()),
            (Incoming::Packet(..) | Incoming::Fan(_), _) => Ok(()),
        }
    }

    fn handle_opening(&mut self, packet: Packet<'_>, bytes: &[u8], now: Now) -> Result<(), CloseReason> {
        let Phase::Opening(opening) = std::mem::replace(&mut self.phase, Phase::Down) else { return Ok(()) };
        match packet {
            Packet::Auth(auth) => {
                if let Some(answer) = opening.wait(&auth, self.is_asking) {
                    self.output.encoded(&answer?);
                    self.phase = Phase::Opening(opening);
                    return Ok(());
                }
                let (answer, next) = opening.auth(&auth, &self.options, now)?;
                self.phase = Phase::Opening(next);
                self.output.encoded(&answer);
                Ok(())
            }
            Packet::ConnAck(connack) => {
                let opened = opening.connack(&connack, bytes, &self.options, now)?;
                self.connected(&connack, opened, now)
            }
            other => Err(CloseReason::Unexpected(other.packet_type())),
        }
    }

    fn connected(&mut self, connack: &ConnAck<'_>, mut opened: Opened, now: Now) -> Result<(), CloseReason> {
        let session_present = connack.session_present;
        // [MQTT-3.2.2-4]
        if session_present && self.clean_start {
            return Err(CloseReason::SessionNotDiscarded);
        }
        let properties = &connack.properties;
        // [MQTT-3.2.2-16]
        if let Some(client_id) = properties.assigned_client_id {
            client_id.clone_into(&mut self.options.client_id);
        }
        // [MQTT-3.1.2-21], [MQTT-3.2.2-21]
        let keep_alive = properties.server_keep_alive_seconds.unwrap_or(self.options.keep_alive_seconds);
        self.timers.connack = None;
        self.timers.keep_alive_ms = u64::from(keep_alive) * 1_000;
        self.timers.ping = (keep_alive > 0).then(|| now.monotonic_ms + self.timers.keep_alive_ms);
        let mut grants = Grants {
            receive_maximum: properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            packet_bytes_max: properties.packet_bytes_max.map_or(usize::MAX, |max| max.get() as usize),
            maximum_qos: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain_available: properties.retain_available.unwrap_or(true),
        };
        let (status, response) = opened.take_join();
        let channel = self.take_channel(opened, &mut grants, now)?;
        self.established = true;
        self.phase = Phase::Open;
        self.events.push_back(Event::Connected { session_present, channel });
        if std::mem::take(&mut self.is_asking) {
            self.events.push_back(Event::Join { status, response });
        }
        self.outbound.connected(grants, session_present, &mut self.ids, &mut self.events);
        self.inbound.connected(session_present);
        self.requests.connected(session_present);
        self.pump();
        Ok(())
    }

    /// From here on everything goes through the records of the channel, if there is one.
    fn take_channel(
        &mut self,
        opened: Opened,
        grants: &mut Grants,
        now: Now,
    ) -> Result<Option<Channel>, CloseReason> {
        let Opened::Channel { mut established, is_proven } = opened else { return Ok(None) };
        if established.has_weak_groups && !self.allows_weak_groups() {
            return Err(CloseReason::WeakGroup);
        }
        let channel = Channel {
            scheme: established.scheme,
            suite: established.suite,
            broker: established.peer.subject.clone(),
            broker_kid: established.peer.kid(),
        };
        self.resumption = established.take_resumption();
        self.broker = Some((established.peer.issuer(), established.peer.serial));
        if !established.scheme.is_framed() {
            return Ok(Some(channel));
        }
        // A record that exceeds the broker's limit would be the last (VEIL-1 sections 4.4 and 5.2).
        let record_bytes_max = established.params.record_bytes_max;
        let (sealer, opener, predecessor) = established.into_parts();
        let room = record_bytes_max.map_or(usize::MAX, |bytes| sealer.packets_max(bytes as usize));
        grants.packet_bytes_max = grants.packet_bytes_max.min(room);
        self.output.seal_with(sealer, grants.packet_bytes_max);
        self.opener = Some(opener);
        self.reauthentication = Some(Reauthentication::new(predecessor));
        let rekey_ms = self.options.channel.as_ref().map(|channel| channel.rekey_ms);
        self.timers.rekey = rekey_ms.map(|rekey_ms| now.monotonic_ms + rekey_ms);
        if !is_proven {
            // The broker waits for a record, whether there is anything to say or not.
            self.output.packet(&Packet::PingReq)?;
            self.timers.pingresp = Some(now.monotonic_ms + self.options.answer_ms);
        }
        Ok(Some(channel))
    }

    fn handle_packet(&mut self, packet: Packet<'_>) -> Result<(), CloseReason> {
        let Self { outbound, ids, output, requests, .. } = self;
        let event = match packet {
            Packet::Publish(publish) => return self.handle_publish(&publish),
            Packet::PubAck(packet) => outbound.puback(&packet, ids)?,
            Packet::PubRec(packet) => outbound.pubrec(&packet, ids, output)?,
            Packet::PubComp(packet) => outbound.pubcomp(&packet, ids)?,
            Packet::PubRel(packet) => return self.inbound.released(packet.packet_id, output),
            Packet::SubAck(packet) => {
                let answers = (packet.reason_codes(), packet.reason_string);
                requests.answered(PacketType::SubAck, packet.packet_id, answers, ids)?
            }
            Packet::UnsubAck(packet) => {
                let answers = (packet.reason_codes(), packet.reason_string);
                requests.answered(PacketType::UnsubAck, packet.packet_id, answers, ids)?
            }
            Packet::PingResp => {
                self.timers.pingresp = None;
                return Ok(());
            }
            Packet::Disconnect(packet) => {
                let text = packet.reason_string.map(str::to_owned);
                return Err(CloseReason::Disconnected { reason: packet.reason, text });
            }
            other @ (Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::Auth(_)) => return Err(CloseReason::Unexpected(other.packet_type())),
        };
        self.events.extend(event);
        self.pump();
        Ok(())
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) -> Result<(), CloseReason> {
        let topic = self.inbound.topic(publish, self.options.topic_alias_maximum)?;
        let receive_maximum = self.options.receive_maximum.get();
        let Arrival::Deliver(receipt) = self.inbound.arrived(publish, receive_maximum, &mut self.output)?
        else {
            return Ok(());
        };
        let message = Message {
            topic,
            payload: bytes::Bytes::copy_from_slice(publish.payload),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            properties: Properties::received(&publish.properties),
            sealed: None,
        };
        self.events.push_back(Event::Message { message, receipt });
        Ok(())
    }

    fn handle_control(&mut self, op: ControlOp<'_>) -> Result<(), CloseReason> {
        match op {
            ControlOp::Notice(text) => self.events.push_back(Event::Notice(text.to_owned())),
            ControlOp::Ticket(ticket) => {
                let channel = self.reauthentication.as_ref();
                self.resumption = channel.and_then(|channel| channel.resumption(ticket));
            }
            ControlOp::GroupGrant { outer_tag: false, .. } if !self.allows_weak_groups() => {
                return Err(CloseReason::WeakGroup);
            }
            ControlOp::Goodbye { retry_after_ms, .. } => {
                self.events.push_back(Event::Goodbye { retry_after_ms });
            }
            // The opener has followed operations on keys.
            ControlOp::KeyUpdate | ControlOp::GroupGrant { .. } | ControlOp::GroupRevoke { .. } => {}
        }
        Ok(())
    }

    fn allows_weak_groups(&self) -> bool {
        self.options.channel.as_ref().is_some_and(|channel| channel.weak_groups)
    }

    pub(super) fn publish(&mut self, publication: Publication) -> Result<Submitted, SubmitError> {
        if publication.qos == QoS::AtMostOnce {
            if !matches!(self.phase, Phase::Open) {
                return Err(SubmitError::NotConnected);
            }
            let packet = self.outbound.encode(&publication, None)?;
            self.output.encoded(&packet);
            return Ok(Submitted::Written);
        }
        let token = self.token();
        self.outbound.queue(token, publication);
        self.pump();
        Ok(Submitted::Queued(token))
    }

    /// Sends whatever may be sent.
    pub(super) fn pump(&mut self) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let Self { ids, output, outbound, requests, events, .. } = self;
        let pumped = requests
            .pump(ids, outbound.packet_bytes_max(), output, events)
            .and_then(|()| outbound.pump(ids, output, events));
        if let Err(error) = pumped {
            self.close(error.into());
        }
    }

    pub(super) fn handle_timeout(&mut self, now_ms: u64) -> Result<(), CloseReason> {
        let is_due = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now_ms);
        if is_due(self.timers.connack) {
            return Err(CloseReason::Timeout("CONNACK"));
        }
        if is_due(self.timers.pingresp()) {
            return Err(CloseReason::Timeout("PINGRESP"));
        }
        if is_due(self.timers.auth()) {
            return Err(CloseReason::Timeout("AUTH"));
        }
        if !self.timers.reading_paused {
            self.requests.give_up(now_ms, self.options.answer_ms, &mut self.events);
        }
        let Some(channel) = &self.options.channel else { return self.keep_alive(now_ms) };
        if is_due(self.timers.rekey) {
            self.output.rekey();
            self.timers.rekey = Some(now_ms + channel.rekey_ms);
        }
        self.keep_alive(now_ms)
    }

    // [MQTT-3.1.2-20]
    fn keep_alive(&mut self, now_ms: u64) -> Result<(), CloseReason> {
        if self.timers.ping.is_none_or(|ping| ping > now_ms) {
            return Ok(());
        }
        self.output.packet(&Packet::PingReq)?;
        self.timers.ping = Some(now_ms + self.timers.keep_alive_ms);
        self.timers.pingresp = self.timers.pingresp.or(Some(now_ms + self.options.answer_ms));
        Ok(())
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        if let (Phase::Open, Some(code)) = (&self.phase, reason.answer()) {
            self.say_goodbye(code);
        }
        self.end();
        self.events.push_back(Event::Closed(reason));
    }

    pub(super) fn say_goodbye(&mut self, reason: ReasonCode) {
        // A DISCONNECT without properties always encodes; were it not so, closing alone says enough.
        let _ = self.output.packet(&Packet::Disconnect(Disconnect::new(reason)));
    }

    pub(super) fn end(&mut self) {
        self.phase = Phase::Down;
        self.timers = Timers::default();
        self.broker = None;
        self.reauthentication = None;
        self.inbound.connection_lost();
        self.requests.connection_lost(&mut self.ids);
    }
}
