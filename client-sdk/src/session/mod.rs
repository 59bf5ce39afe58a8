//! The client's side of MQTT 5.0 and of the VEIL-1 channel as a state machine without I/O.
//!
//! A [`Session`] outlives its Network Connections. The driver tells it what happened ([`Session::connect`],
//! [`Session::receive`], [`Session::connection_lost`], [`Session::handle_timeout`]), sends what
//! [`Session::output`] holds, and asks [`Session::poll`] what to do. Time and randomness are arguments.
//!
//! Invariants: with a VEIL-1 channel no packet is sent or believed outside its records once CONNACK is
//! verified; a QoS 1 or 2 message is acknowledged only after the application took it.
//!
//! ```
//! use veilmq_client::session::{Event, Now, Session, SessionOptions};
//!
//! let now = Now { monotonic_ms: 0, unix_ms: 1_790_000_000_000 };
//! let mut session = Session::new(SessionOptions::new("press-07"));
//! session.connect(None, now, &mut |bytes| bytes.fill(42))?;
//! assert_eq!(session.output()[0], 0x10); // CONNECT
//!
//! session.receive(&[0x20, 0x03, 0x00, 0x00, 0x00]); // CONNACK, success
//! assert!(matches!(session.poll(now), Some(Event::Connected { session_present: false, .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod event;
mod inbound;
mod input;
mod opening;
mod options;
mod outbound;
mod output;
mod requests;

use std::{collections::VecDeque, num::NonZeroU16};

use veilmq_protocol::{
    ConnAck, Disconnect, EncodeError, Packet, PacketType, Publish, QoS, ReasonCode, SubscribeOptions,
    veil::{channel::RecordOpener, record::ControlOp},
};

pub use self::{
    event::{Channel, CloseReason, DeliveryError, Event, Token},
    inbound::Receipt,
    options::{ChannelOptions, SessionOptions},
};
use self::{
    inbound::{Arrival, Inbound},
    input::{Incoming, Input},
    opening::{Opened, Opening},
    outbound::{Grants, Outbound, PacketIds},
    output::Output,
    requests::Requests,
};
use crate::message::{Message, Properties, Publication, Will};

/// A reading of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since any fixed moment; never goes back.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// QoS 0: it is in the output.
    Written,
    /// QoS 1 or 2: [`Event::Published`] will tell.
    Queued(Token),
}

/// Why a publication was not even tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// QoS 0 is not kept for a later connection.
    #[error("not connected")]
    NotConnected,
    /// The server or the protocol does not allow it.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// The Session State and the connection it is on, if any.
pub struct Session {
    input: Input,
    core: Core,
}

enum Phase {
    Down,
    Opening(Opening),
    Open,
}

struct Core {
    options: SessionOptions,
    phase: Phase,
    /// The session exists on both sides, so later connections resume it.
    established: bool,
    clean_start: bool,
    output: Output,
    ids: PacketIds,
    outbound: Outbound,
    inbound: Inbound,
    requests: Requests,
    events: VecDeque<Event>,
    opener: Option<RecordOpener>,
    timers: Timers,
    next_token: u64,
}

/// Deadlines in monotonic milliseconds.
#[derive(Default)]
struct Timers {
    /// When CONNACK must have arrived.
    connack: Option<u64>,
    keep_alive_ms: u64,
    ping: Option<u64>,
    /// When PINGRESP must have arrived.
    pingresp: Option<u64>,
    rekey: Option<u64>,
    reading_paused: bool,
}

impl Timers {
    fn pingresp(&self) -> Option<u64> {
        self.pingresp.filter(|_| !self.reading_paused)
    }
}

impl Session {
    /// A session without a connection.
    pub fn new(options: SessionOptions) -> Self {
        Self {
            input: Input::default(),
            core: Core {
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
                timers: Timers::default(),
                next_token: 0,
            },
        }
    }

    /// Begins a Network Connection: puts CONNECT into the output.
    ///
    /// # Errors
    /// [`EncodeError`] when the options make no valid CONNECT.
    pub fn connect(
        &mut self,
        will: Option<&Will>,
        now: Now,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), EncodeError> {
        self.connection_lost();
        self.input.reset();
        let core = &mut self.core;
        core.output.reset();
        core.clean_start = core.options.clean_start && !core.established;
        let (packet, opening) = opening::connect(&core.options, core.clean_start, will, now, entropy)?;
        core.output.encoded(&packet);
        core.phase = Phase::Opening(opening);
        core.timers =
            Timers { connack: Some(now.monotonic_ms + core.options.answer_ms), ..Timers::default() };
        Ok(())
    }

    /// Takes bytes from the connection; [`Self::poll`] says what is in them.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// The transport is gone. Everything unacknowledged waits for the next connection.
    pub fn connection_lost(&mut self) {
        self.core.end();
    }

    /// Works on what has arrived until there is something to tell; `None` asks for more bytes.
    pub fn poll(&mut self, now: Now) -> Option<Event> {
        loop {
            if let Some(event) = self.core.events.pop_front() {
                return Some(event);
            }
            if matches!(self.core.phase, Phase::Down) {
                return None;
            }
            let handled = match self.input.next(self.core.packet_bytes_max()) {
                Ok(None) => return None,
                Ok(Some(incoming)) => self.core.handle(incoming, now),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = handled {
                self.core.close(reason);
            }
            if let Some(opener) = self.core.opener.take() {
                self.input.open_with(opener);
            }
        }
    }

    /// Bytes to send now; tell [`Self::sent`] how many were.
    pub fn output(&mut self) -> &[u8] {
        self.core.output.ready()
    }

    /// Says how many bytes wait to be sent, without closing the record they are in.
    pub fn output_len(&self) -> usize {
        self.core.output.len()
    }

    /// Removes sent bytes from the output and restarts the keep alive.
    pub fn sent(&mut self, len: usize, now: Now) {
        self.core.output.consume(len);
        let timers = &mut self.core.timers;
        if let (Some(ping), true) = (&mut timers.ping, len > 0) {
            *ping = now.monotonic_ms + timers.keep_alive_ms;
        }
    }

    /// When [`Self::handle_timeout`] is due, in monotonic milliseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        let Timers { connack, ping, rekey, .. } = self.core.timers;
        [connack, ping, self.core.timers.pingresp(), rekey].into_iter().flatten().min()
    }

    /// Does what is due: PINGREQ, new channel keys, or giving up on a silent server.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Err(reason) = self.core.handle_timeout(now.monotonic_ms) {
            self.core.close(reason);
        }
    }

    /// Says whether the driver reads from the connection; while it does not, silence of the server proves nothing.
    pub fn set_reading(&mut self, reading: bool, now: Now) {
        let timers = &mut self.core.timers;
        if reading && timers.reading_paused {
            timers.pingresp = timers.pingresp.map(|_| now.monotonic_ms + self.core.options.answer_ms);
        }
        timers.reading_paused = !reading;
    }

    /// Publishes, or queues what must wait for the connection or the server's receive maximum.
    ///
    /// # Errors
    /// [`SubmitError`] for QoS 0 without a connection, and for what the server does not take.
    pub fn publish(&mut self, publication: Publication) -> Result<Submitted, SubmitError> {
        self.core.publish(publication)
    }

    /// Says whether another publication may be queued.
    pub fn accepts_publication(&self) -> bool {
        self.core.outbound.queued() < self.core.options.queued_max
    }

    /// Subscribes to one or more Topic Filters now, or as soon as there is a connection.
    pub fn subscribe(&mut self, filters: &[String], options: SubscribeOptions) -> Token {
        let token = self.core.token();
        self.core.requests.subscribe(token, filters, options);
        self.core.pump();
        token
    }

    /// Unsubscribes now, or as soon as there is a connection.
    pub fn unsubscribe(&mut self, filter: &str) -> Token {
        let token = self.core.token();
        self.core.requests.unsubscribe(Some(token), filter);
        self.core.pump();
        token
    }

    /// Unsubscribes without an event: the application has lost interest.
    pub fn abandon(&mut self, filter: &str) {
        self.core.requests.unsubscribe(None, filter);
        self.core.pump();
    }

    /// The application took a message: PUBACK or PUBREC follows when all that arrived before are taken too.
    pub fn acknowledge(&mut self, receipt: Receipt) {
        let core = &mut self.core;
        if let Err(error) = core.inbound.acknowledge(receipt, &mut core.output) {
            core.close(error.into());
        }
    }

    /// Ends the connection with DISCONNECT; [`ReasonCode::DisconnectWithWill`] has the Will published.
    pub fn disconnect(&mut self, reason: ReasonCode) {
        if matches!(self.core.phase, Phase::Open) {
            self.core.say_goodbye(reason);
        }
        self.core.end();
        self.core.events.push_back(Event::Closed(CloseReason::Requested));
    }

    /// Says whether CONNACK has arrived and the connection lasts.
    pub const fn is_connected(&self) -> bool {
        matches!(self.core.phase, Phase::Open)
    }

    /// Says whether the server owes an answer to a publication or request.
    pub fn awaits_answers(&self) -> bool {
        !(self.core.outbound.is_idle() && self.core.requests.is_idle())
    }

    /// The Client Identifier, as chosen by the server if the options left it empty.
    pub fn client_id(&self) -> &str {
        &self.core.options.client_id
    }

    /// The receive maximum this side announces.
    pub const fn receive_maximum(&self) -> u16 {
        self.core.options.receive_maximum.get()
    }
}

impl Core {
    fn packet_bytes_max(&self) -> usize {
        self.options.packet_bytes_max.get() as usize
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn handle(&mut self, incoming: Incoming<'_>, now: Now) -> Result<(), CloseReason> {
        match (incoming, &self.phase) {
            (Incoming::Packet(packet, bytes), Phase::Opening(_)) => self.handle_opening(packet, bytes, now),
            (Incoming::Packet(packet, _), Phase::Open) => self.handle_packet(packet),
            (Incoming::Fan(publish), Phase::Open) => self.handle_publish(&publish),
            (Incoming::Control(op), _) => {
                self.handle_control(op);
                Ok(())
            }
            (Incoming::KeyUpdated, _) => Ok(()),
            (Incoming::Packet(..) | Incoming::Fan(_), _) => Ok(()),
        }
    }

    fn handle_opening(&mut self, packet: Packet<'_>, bytes: &[u8], now: Now) -> Result<(), CloseReason> {
        let Phase::Opening(opening) = std::mem::replace(&mut self.phase, Phase::Down) else { return Ok(()) };
        match packet {
            Packet::Auth(auth) => {
                let (answer, next) = opening.auth(&auth, &self.options, now)?;
                self.phase = Phase::Opening(next);
                self.output.encoded(&answer);
                Ok(())
            }
            Packet::ConnAck(connack) => {
                let opened = opening.connack(&connack, bytes)?;
                self.connected(&connack, opened, now)
            }
            other => Err(CloseReason::Unexpected(other.packet_type())),
        }
    }

    fn connected(&mut self, connack: &ConnAck<'_>, opened: Opened, now: Now) -> Result<(), CloseReason> {
        let session_present = connack.session_present;
        // [MQTT-3.2.2-4]
        if session_present && self.clean_start {
            return Err(CloseReason::SessionNotDiscarded);
        }
        let mut established = None;
        if let Opened::Channel(channel) = opened {
            established = Some(Channel {
                scheme: channel.scheme,
                suite: channel.suite,
                broker: channel.peer.subject.clone(),
                broker_kid: channel.peer.kid(),
            });
            self.output.seal_with(channel.sealer);
            self.opener = Some(channel.opener);
            let rekey_ms = self.options.channel.as_ref().map(|channel| channel.rekey_ms);
            self.timers.rekey = rekey_ms.map(|rekey_ms| now.monotonic_ms + rekey_ms);
        }
        let properties = &connack.properties;
        // [MQTT-3.2.2-16]
        if let Some(client_id) = properties.assigned_client_id {
            client_id.clone_into(&mut self.options.client_id);
        }
        // [MQTT-3.2.2-21]
        let keep_alive = properties.server_keep_alive_seconds.unwrap_or(self.options.keep_alive_seconds);
        self.timers.connack = None;
        self.timers.keep_alive_ms = u64::from(keep_alive) * 1_000;
        self.timers.ping = (keep_alive > 0).then(|| now.monotonic_ms + self.timers.keep_alive_ms);
        let grants = Grants {
            receive_maximum: properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            packet_bytes_max: properties.packet_bytes_max.map_or(usize::MAX, |max| max.get() as usize),
            maximum_qos: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain_available: properties.retain_available.unwrap_or(true),
        };
        self.established = true;
        self.phase = Phase::Open;
        self.events.push_back(Event::Connected { session_present, channel: established });
        self.outbound.connected(grants, session_present, &mut self.ids, &mut self.events);
        self.inbound.connected(session_present);
        self.requests.connected(session_present);
        self.pump();
        Ok(())
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
                requests.answered(PacketType::SubAck, packet.packet_id, packet.reason_codes(), ids)?
            }
            Packet::UnsubAck(packet) => {
                requests.answered(PacketType::UnsubAck, packet.packet_id, packet.reason_codes(), ids)?
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

    fn handle_control(&mut self, op: ControlOp<'_>) {
        match op {
            ControlOp::Notice(text) => self.events.push_back(Event::Notice(text.to_owned())),
            // Group keys and tickets belong to modes this client does not ask for; Goodbye precedes DISCONNECT.
            ControlOp::KeyUpdate
            | ControlOp::GroupGrant { .. }
            | ControlOp::GroupRevoke { .. }
            | ControlOp::Ticket(_)
            | ControlOp::Goodbye { .. } => {}
        }
    }

    fn publish(&mut self, publication: Publication) -> Result<Submitted, SubmitError> {
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
    fn pump(&mut self) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let Self { ids, output, outbound, requests, events, .. } = self;
        let pumped = requests.pump(ids, output).and_then(|()| outbound.pump(ids, output, events));
        if let Err(error) = pumped {
            self.close(error.into());
        }
    }

    fn handle_timeout(&mut self, now_ms: u64) -> Result<(), CloseReason> {
        let is_due = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now_ms);
        if is_due(self.timers.connack) {
            return Err(CloseReason::Timeout("CONNACK"));
        }
        if is_due(self.timers.pingresp()) {
            return Err(CloseReason::Timeout("PINGRESP"));
        }
        let Some(channel) = &self.options.channel else { return self.keep_alive(now_ms) };
        if is_due(self.timers.rekey) || self.output.needs_rekey() {
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

    fn close(&mut self, reason: CloseReason) {
        if let (Phase::Open, Some(code)) = (&self.phase, reason.answer()) {
            self.say_goodbye(code);
        }
        self.end();
        self.events.push_back(Event::Closed(reason));
    }

    fn say_goodbye(&mut self, reason: ReasonCode) {
        // A DISCONNECT without properties always encodes; were it not so, closing alone says enough.
        let _ = self.output.packet(&Packet::Disconnect(Disconnect::new(reason)));
    }

    fn end(&mut self) {
        self.phase = Phase::Down;
        self.timers = Timers::default();
        self.requests.connection_lost(&mut self.ids);
    }
}
