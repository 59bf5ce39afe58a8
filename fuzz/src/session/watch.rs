//! What one client sent and received, and the rules of MQTT that the broker's side of it obeys.
//!
//! It reads both streams with the codec and knows nothing of the broker. A rule that is broken panics. Where several packets
//! were sent in one piece it cannot know which answer came between which, and is as strict as it can be sure of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use veilmq_core::ConnectionId;
use veilmq_protocol::{
    Acknowledgement, ConnAck, Connect, Packet, PacketId, PacketType, ProtocolVersion, Publish, QoS,
    ReasonCode, next_frame,
};

/// One connection, from both ends.
pub(crate) struct Watch {
    pub(crate) connection: ConnectionId,
    /// Packets are held back, to be sent together.
    pub(crate) waits: bool,
    pub(crate) waiting: Vec<u8>,
    sending: Sending,
    receiving: Receiving,
}

/// The client's side of the stream.
struct Sending {
    /// The rest of the stream that is no whole packet.
    partial: Vec<u8>,
    version: Option<ProtocolVersion>,
    state: State,
    receive_maximum: usize,
    packet_bytes_max: usize,
    topic_alias_maximum: u16,
    has_subscribed: bool,
    /// The answers that the broker may still give, with the number of Reason Codes in each.
    asked: BTreeMap<(PacketType, u16), VecDeque<usize>>,
    /// Deliveries that the last piece ended.
    ended: usize,
    /// Acknowledgements of what was not received. They may have met a PUBLISH that waited for a commit behind CONNACK.
    blind: usize,
}

#[derive(PartialEq, Eq)]
enum State {
    Fine,
    /// DISCONNECT was sent; nothing after it counts.
    Left,
    /// What was sent is no packet, or not one that may come first.
    Broken,
}

/// The broker's side of the stream.
#[derive(Default)]
struct Receiving {
    connack: Option<ReasonCode>,
    /// The session may have been there before.
    resumes: bool,
    has_ended: bool,
    /// Packet Identifiers of PUBLISH that are not acknowledged to the end.
    in_flight: BTreeSet<u16>,
    aliases: BTreeSet<u16>,
    owed: Vec<Packet<'static>>,
}

impl Watch {
    pub(crate) fn new(connection: ConnectionId) -> Self {
        Self {
            connection,
            waits: false,
            waiting: Vec::new(),
            sending: Sending {
                partial: Vec::new(),
                version: None,
                state: State::Fine,
                receive_maximum: usize::from(u16::MAX),
                packet_bytes_max: usize::MAX,
                topic_alias_maximum: 0,
                has_subscribed: false,
                asked: BTreeMap::new(),
                ended: 0,
                blind: 0,
            },
            receiving: Receiving::default(),
        }
    }

    /// Returns the version of the client's CONNECT.
    pub(crate) fn version(&self) -> Option<ProtocolVersion> {
        self.sending.version
    }

    /// Takes the acknowledgements that the client has to give.
    pub(crate) fn owed(&mut self) -> Vec<Packet<'static>> {
        std::mem::take(&mut self.receiving.owed)
    }

    /// Notes what the client sends.
    pub(crate) fn sends(&mut self, bytes: &[u8]) {
        let mut stream = std::mem::take(&mut self.sending.partial);
        stream.extend_from_slice(bytes);
        let mut rest = stream.as_slice();
        while self.sending.state == State::Fine {
            match next_frame(rest, usize::MAX) {
                Ok(None) => break,
                Err(_) => self.sending.state = State::Broken,
                Ok(Some((frame, used))) => {
                    let version = self.version().unwrap_or(ProtocolVersion::V5);
                    self.sends_packet(Packet::decode(frame, version).ok());
                    rest = &rest[used..];
                }
            }
        }
        self.sending.partial = rest.to_vec();
    }

    /// Notes a packet that the client sends; None is one that cannot be read.
    fn sends_packet(&mut self, packet: Option<Packet<'_>>) {
        match packet {
            Some(Packet::Connect(connect)) if self.sending.version.is_none() => {
                self.sending.connects(&connect);
            }
            Some(packet) if self.sending.version.is_some() => self.sends_later(&packet),
            Some(_) | None => self.sending.state = State::Broken,
        }
    }

    fn sends_later(&mut self, packet: &Packet<'_>) {
        let sending = &mut self.sending;
        match packet {
            Packet::Publish(publish) => match publish.qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => sending.asks(PacketType::PubAck, publish.packet_id, 0),
                QoS::ExactlyOnce => sending.asks(PacketType::PubRec, publish.packet_id, 0),
            },
            Packet::PubAck(ack) | Packet::PubComp(ack) => self.ends_delivery(ack.packet_id),
            Packet::PubRec(ack) if ack.reason.is_error() => self.ends_delivery(ack.packet_id),
            Packet::PubRec(ack) => sending.asks(PacketType::PubRel, Some(ack.packet_id), 0),
            Packet::PubRel(ack) => sending.asks(PacketType::PubComp, Some(ack.packet_id), 0),
            Packet::Subscribe(subscribe) => {
                sending.has_subscribed = true;
                let filters = subscribe.filters.iter().count();
                sending.asks(PacketType::SubAck, Some(subscribe.packet_id), filters);
            }
            Packet::Unsubscribe(unsubscribe) => {
                // That of MQTT 3 does not say how it went.
                let filters = if sending.version == Some(ProtocolVersion::V5) {
                    unsubscribe.filters.iter().count()
                } else {
                    0
                };
                sending.asks(PacketType::UnsubAck, Some(unsubscribe.packet_id), filters);
            }
            Packet::PingReq => sending.asks(PacketType::PingResp, None, 0),
            Packet::Disconnect(_) => sending.state = State::Left,
            // [MQTT-3.1.0-2]
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => sending.state = State::Broken,
            Packet::Auth(_) => {}
        }
    }

    fn ends_delivery(&mut self, packet_id: PacketId) {
        let was_in_flight = self.receiving.in_flight.remove(&packet_id.value());
        self.sending.ended += 1;
        self.sending.blind += usize::from(!was_in_flight);
    }

    /// Checks what the client received.
    pub(crate) fn receives(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let whole = next_frame(rest, usize::MAX).expect("the broker's stream is framed");
            let (frame, used) = whole.expect("the broker's packets are whole");
            // [MQTT-3.1.2-24]
            assert!(used <= self.sending.packet_bytes_max, "{used} bytes for {:?}", frame.packet_type());
            // A CONNECT that cannot be read is answered in the form that fits what could be read of it.
            let version =
                self.version().unwrap_or(if used == 4 { ProtocolVersion::V311 } else { ProtocolVersion::V5 });
            let packet = Packet::decode(frame, version)
                .unwrap_or_else(|error| panic!("the broker sent {:02x?}: {error}", &rest[..used]));
            self.receives_packet(&packet, version);
            rest = &rest[used..];
        }
    }

    fn receives_packet(&mut self, packet: &Packet<'_>, version: ProtocolVersion) {
        let Self { sending, receiving, .. } = self;
        assert!(!receiving.has_ended, "{packet:?} after the end");
        match (&receiving.connack, packet) {
            (None, Packet::ConnAck(connack)) => return receiving.connack(connack, version),
            (None, Packet::Auth(_)) => {}
            // [MQTT-3.2.0-1], [MQTT-3.2.0-2]
            (None, _) | (Some(_), Packet::ConnAck(_)) => panic!("{packet:?} in the place of CONNACK"),
            (Some(_), _) => {}
        }
        match packet {
            Packet::Publish(publish) => self.receives_publish(publish, version),
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                sending.answered(packet.packet_type(), Some(ack.packet_id), 0);
            }
            Packet::PubComp(ack) => sending.answered(PacketType::PubComp, Some(ack.packet_id), 0),
            Packet::PubRel(ack) => {
                let asked = sending.take_asked(PacketType::PubRel, Some(ack.packet_id)).is_some();
                assert!(asked || receiving.resumes, "{ack:?} before PUBREC");
                receiving
                    .owed
                    .push(Packet::PubComp(Acknowledgement::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::SubAck(ack) => {
                sending.answered(PacketType::SubAck, Some(ack.packet_id), ack.reasons.len());
            }
            Packet::UnsubAck(ack) => {
                sending.answered(PacketType::UnsubAck, Some(ack.packet_id), ack.reasons.len());
            }
            Packet::PingResp => sending.answered(PacketType::PingResp, None, 0),
            Packet::Disconnect(_) | Packet::Auth(_) => {
                assert_eq!(version, ProtocolVersion::V5, "{packet:?} is for MQTT 5");
                receiving.has_ended = matches!(packet, Packet::Disconnect(_));
            }
            Packet::ConnAck(_)
            | Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq => panic!("the broker sent {packet:?}"),
        }
    }

    fn receives_publish(&mut self, publish: &Publish<'_>, version: ProtocolVersion) {
        let Self { sending, receiving, .. } = self;
        assert!(sending.has_subscribed || receiving.resumes, "nobody asked for {publish:?}");
        // [MQTT-3.3.1-2], and only what an earlier connection got may come again ([MQTT-4.4.0-1]).
        assert!(!publish.dup || receiving.resumes && publish.qos != QoS::AtMostOnce, "{publish:?}");
        receiving.alias(publish, sending.topic_alias_maximum);
        let Some(packet_id) = publish.packet_id else { return };
        let is_new = receiving.in_flight.insert(packet_id.value());
        let unsure = sending.ended + sending.blind;
        assert!(is_new || unsure > 0, "{packet_id:?} is in use: {publish:?}");
        if version == ProtocolVersion::V5 {
            // [MQTT-3.3.4-9]
            let most = sending.receive_maximum + unsure;
            assert!(receiving.in_flight.len() <= most, "{} in flight", receiving.in_flight.len());
        }
        receiving.owed.push(match publish.qos {
            QoS::ExactlyOnce => Packet::PubRec(Acknowledgement::new(packet_id, ReasonCode::Success)),
            QoS::AtLeastOnce | QoS::AtMostOnce => {
                Packet::PubAck(Acknowledgement::new(packet_id, ReasonCode::Success))
            }
        });
    }

    /// Notes that everything that the broker has to say for now was received.
    pub(crate) fn ends_turn(&mut self, is_closed: bool) {
        self.sending.ended = 0;
        if is_closed {
            return;
        }
        assert!(self.sending.state == State::Fine, "the connection outlives what the client sent");
        assert!(!self.receiving.has_ended, "the connection outlives the broker's farewell");
    }
}

impl Sending {
    fn connects(&mut self, connect: &Connect<'_>) {
        self.version = Some(connect.version);
        let properties = &connect.properties;
        self.receive_maximum =
            properties.receive_maximum.map_or(usize::from(u16::MAX), |max| max.get().into());
        self.packet_bytes_max = properties.packet_bytes_max.map_or(usize::MAX, |max| max.get() as usize);
        self.topic_alias_maximum = properties.topic_alias_maximum;
    }

    fn asks(&mut self, answer: PacketType, packet_id: Option<PacketId>, reasons: usize) {
        self.asked.entry((answer, packet_id.map_or(0, PacketId::value))).or_default().push_back(reasons);
    }

    fn answered(&mut self, answer: PacketType, packet_id: Option<PacketId>, reasons: usize) {
        let asked = self.take_asked(answer, packet_id);
        assert_eq!(asked, Some(reasons), "Reason Codes that {answer:?} {packet_id:?} was asked for");
    }

    fn take_asked(&mut self, answer: PacketType, packet_id: Option<PacketId>) -> Option<usize> {
        self.asked.get_mut(&(answer, packet_id.map_or(0, PacketId::value)))?.pop_front()
    }
}

impl Receiving {
    fn connack(&mut self, connack: &ConnAck<'_>, version: ProtocolVersion) {
        // [MQTT-3.2.2-6], [MQTT-3.2.2-7]
        assert!(!(connack.reason.is_error() && connack.session_present), "{connack:?}");
        self.connack = Some(connack.reason);
        // MQTT 3.1 does not tell.
        self.resumes = connack.session_present || version == ProtocolVersion::V31;
        self.has_ended = connack.reason.is_error();
    }

    fn alias(&mut self, publish: &Publish<'_>, maximum: u16) {
        let Some(alias) = publish.properties.topic_alias else {
            return assert!(publish.topic.is_some(), "{publish:?}");
        };
        // [MQTT-3.1.2-26]
        assert!(alias.get() <= maximum, "{alias} of {maximum} aliases");
        let is_new = self.aliases.insert(alias.get());
        assert!(publish.topic.is_some() || !is_new, "an alias without a topic: {publish:?}");
    }
}
