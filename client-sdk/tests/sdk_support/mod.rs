//! What the session tests share: a session under a virtual clock, and the packets of the server it talks to.
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each test binary uses its own part")]

use bytes::Bytes;
use veilmq_client::{
    Properties, Publication, QoS, RetainHandling,
    session::{CloseReason, DeliveryError, Event, Now, Receipt, Session, SessionOptions, Submitted, Token},
};
use veilmq_protocol::{
    Acknowledgement, ConnAck, ConnAckProperties, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, ReasonCode, SubAck, SubscribeOptions, TopicName, UnsubAck, UserProperties,
};

pub(crate) const UNIX_MS: u64 = 1_790_000_300_000;

/// A session whose time only passes when a test says so.
pub(crate) struct Rig {
    pub(crate) session: Session,
    pub(crate) now_ms: u64,
}

impl Rig {
    pub(crate) fn new(options: SessionOptions) -> Self {
        Self { session: Session::new(options), now_ms: 1_000 }
    }

    /// A session that has connected and whose CONNECT is out of the way.
    pub(crate) fn connected(options: SessionOptions) -> Self {
        let mut rig = Self::new(options);
        rig.reconnect(&ConnAck::default());
        rig
    }

    /// Connects (again) and has the server answer; gives everything the client sent after CONNECT.
    pub(crate) fn reconnect(&mut self, connack: &ConnAck<'_>) -> Vec<u8> {
        self.connect();
        let connect = self.sent();
        assert_eq!(connect[0], 0x10, "CONNECT");
        self.receive(&Packet::ConnAck(*connack));
        match self.poll() {
            Some(Event::Connected { session_present, channel: None }) => {
                assert_eq!(session_present, connack.session_present);
            }
            other => panic!("not connected: {}", describe(other.as_ref())),
        }
        self.sent()
    }

    pub(crate) fn connect(&mut self) {
        self.session.connect(None, self.now(), &mut |bytes| bytes.fill(7)).unwrap();
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: UNIX_MS + self.now_ms }
    }

    pub(crate) fn receive(&mut self, packet: &Packet<'_>) {
        self.session.receive(&encode(packet));
    }

    pub(crate) fn poll(&mut self) -> Option<Event> {
        self.session.poll(self.now())
    }

    /// Everything that waits to be sent, as if it were sent now.
    pub(crate) fn sent(&mut self) -> Vec<u8> {
        let bytes = self.session.output().to_vec();
        self.session.sent(bytes.len(), self.now());
        bytes
    }

    /// Lets time pass and does what is due at its end.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.session.handle_timeout(self.now());
    }

    pub(crate) fn publish(&mut self, payload: &str, qos: QoS) -> Token {
        match self.session.publish(publication(payload, qos)).unwrap() {
            Submitted::Queued(token) => token,
            Submitted::Written => panic!("QoS 0 has no token"),
        }
    }
}

pub(crate) fn publication(payload: &str, qos: QoS) -> Publication {
    Publication {
        topic: "t".to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        properties: Properties::default(),
    }
}

pub(crate) fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut out).unwrap();
    out
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub(crate) fn acknowledgement(value: u16) -> Acknowledgement<'static> {
    Acknowledgement::new(id(value), ReasonCode::Success)
}

/// A CONNACK that resumes the session.
pub(crate) fn resumed() -> ConnAck<'static> {
    ConnAck { session_present: true, ..ConnAck::default() }
}

pub(crate) fn connack(properties: ConnAckProperties<'_>) -> ConnAck<'_> {
    ConnAck { properties, ..ConnAck::default() }
}

/// A PUBLISH from the server on topic `t`.
pub(crate) fn incoming(payload: &'static str, qos: QoS, packet_id: u16, dup: bool) -> Packet<'static> {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic: Some(TopicName::new("t").unwrap()),
        packet_id: PacketId::new(packet_id),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    })
}

/// The bytes of a PUBLISH with one-letter topic `t`, no properties and a short payload.
pub(crate) fn publish_bytes(header: u8, packet_id: u8, payload: &str) -> Vec<u8> {
    let len = u8::try_from(6 + payload.len()).unwrap();
    [&[header, len, 0, 1, b't', 0, packet_id, 0], payload.as_bytes()].concat()
}

/// An event in words, for messages of failed tests.
pub(crate) fn describe(event: Option<&Event>) -> String {
    match event {
        None => "nothing".to_owned(),
        Some(Event::Connected { session_present, channel }) => {
            format!("connected {session_present} {channel:?}")
        }
        Some(Event::Message { message, .. }) => {
            format!("message {}", String::from_utf8_lossy(&message.payload))
        }
        Some(Event::Published { outcome: Ok(reason), .. }) => format!("published: {reason}"),
        Some(Event::Published { outcome: Err(error), .. }) => format!("not published: {error}"),
        Some(Event::Answered { reasons, .. }) => format!("answered {reasons:?}"),
        Some(Event::RequestTooLarge { bytes, .. }) => format!("a request of {bytes} bytes"),
        Some(Event::Unanswered { after_ms, .. }) => format!("no answer in {after_ms} ms"),
        Some(Event::Join { status, .. }) => format!("join {status:?}"),
        Some(Event::Reauthenticated) => "re-authenticated".to_owned(),
        Some(Event::Notice(text)) => format!("notice {text}"),
        Some(Event::Goodbye { retry_after_ms }) => format!("come back after {retry_after_ms} ms"),
        Some(Event::Closed(reason)) => format!("closed: {reason}"),
    }
}

pub(crate) fn options() -> SessionOptions {
    SessionOptions::new("c")
}

pub(crate) fn subscribe_options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

pub(crate) fn outcome(event: Option<Event>) -> (Token, Result<ReasonCode, DeliveryError>) {
    match event {
        Some(Event::Published { token, outcome }) => (token, outcome),
        other => panic!("not published: {}", describe(other.as_ref())),
    }
}

pub(crate) fn message(event: Option<Event>) -> (String, Option<Receipt>) {
    match event {
        Some(Event::Message { message, receipt }) => {
            (String::from_utf8(message.payload.to_vec()).unwrap(), receipt)
        }
        other => panic!("no message: {}", describe(other.as_ref())),
    }
}

pub(crate) fn closed(event: Option<Event>) -> CloseReason {
    match event {
        Some(Event::Closed(reason)) => reason,
        other => panic!("not closed: {}", describe(other.as_ref())),
    }
}

pub(crate) fn suback(packet_id: u16, reasons: &[u8]) -> Packet<'_> {
    Packet::SubAck(SubAck {
        packet_id: id(packet_id),
        reason_string: None,
        user: UserProperties::default(),
        reasons,
    })
}

pub(crate) fn unsuback(packet_id: u16, reasons: &[u8]) -> Packet<'_> {
    Packet::UnsubAck(UnsubAck {
        packet_id: id(packet_id),
        reason_string: None,
        user: UserProperties::default(),
        reasons,
    })
}
