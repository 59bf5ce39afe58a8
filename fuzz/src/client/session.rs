//! A client's session, and a broker that says what the script says: right or wrong, whole or cut.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use veilmq_client::session::{Event, Now, Receipt, Session, SessionOptions, Submitted, Token};
use veilmq_client::{Message, Properties, Publication, QoS, ReasonCode, RetainHandling};
use veilmq_protocol::{
    Acknowledgement, ConnAck, ConnAckProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, SubscribeOptions, TopicName, next_frame,
};

const STEPS_MAX: usize = 256;
/// What the client lets the broker have on the way at a time.
const RECEIVE_MAXIMUM: NonZeroU16 = NonZeroU16::MIN.saturating_add(3);
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const REASONS: [ReasonCode; 4] = [
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::NotAuthorized,
    ReasonCode::PacketIdentifierNotFound,
];

/// Plays a script of pairs: what happens, and a number that says more of it.
pub fn client_session(script: &[u8]) {
    let mut stage = Stage::new();
    for (step, pair) in script.chunks_exact(2).take(STEPS_MAX).enumerate() {
        if let &[deed, number] = pair {
            stage.play(deed, number, step);
            stage.listen();
            stage.read_output();
        }
    }
}

/// What is known of a client from its packets and events alone.
struct Stage {
    session: Session,
    now_ms: u64,
    /// What the broker granted on this connection.
    quota: usize,
    /// Publications that count against it: those of this connection, and those of earlier ones that are to be completed.
    unanswered: BTreeSet<PacketId>,
    /// Identifiers of the client that name something unfinished.
    in_use: BTreeMap<PacketId, Exchange>,
    /// Publications and requests whose outcome is still to be told.
    waiting: BTreeSet<Token>,
    /// What the application has, and has not acknowledged.
    receipts: Vec<(Receipt, QoS)>,
    acknowledged: usize,
    pubacks: usize,
    /// QoS 2 messages of the broker that it has not released, as far as a right broker would count them.
    unreleased: BTreeSet<PacketId>,
    is_connecting: bool,
    has_said_goodbye: bool,
    /// Packets of the broker arrive byte by byte.
    is_cut: bool,
    /// The broker has sent what is no packet, so nobody knows how the client reads the rest.
    is_garbled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Exchange {
    /// PUBLISH of QoS 1.
    Assured,
    /// PUBLISH of QoS 2 without its PUBREC.
    Exact,
    /// PUBLISH of QoS 2 with its PUBREC.
    Releasing,
    Request,
}

impl Stage {
    fn new() -> Self {
        let options =
            SessionOptions { receive_maximum: RECEIVE_MAXIMUM, queued_max: 16, ..SessionOptions::new("c") };
        Self {
            session: Session::new(options),
            now_ms: 1_000,
            quota: 0,
            unanswered: BTreeSet::new(),
            in_use: BTreeMap::new(),
            waiting: BTreeSet::new(),
            receipts: Vec::new(),
            acknowledged: 0,
            pubacks: 0,
            unreleased: BTreeSet::new(),
            is_connecting: false,
            has_said_goodbye: false,
            is_cut: false,
            is_garbled: false,
        }
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: 1_790_000_000_000 + self.now_ms }
    }

    fn play(&mut self, deed: u8, number: u8, step: usize) {
        match deed & 15 {
            0 => self.connect(),
            1 => self.connack(number),
            2 => self.publish(number, step),
            3 => self.request(number),
            4 => self.acknowledge(number),
            5 => self.pass(number),
            6 => self.message(deed, number),
            7 => self.answer(deed, number),
            8 => self.answer_request(deed, number),
            9 => self.release(number),
            10 => self.session.connection_lost(),
            11 => self.session.disconnect(ReasonCode::Success),
            12 => self.session.set_reading(number & 1 == 0, self.now()),
            13 if deed == 0xFD => self.garble(number),
            13 => self.is_cut = number & 1 == 0,
            14 => self.receive(&Packet::PingResp),
            _ => self.receive(&Packet::Disconnect(Disconnect {
                reason: ReasonCode::ServerShuttingDown,
                ..Disconnect::default()
            })),
        }
    }

    fn connect(&mut self) {
        self.session.connect(None, self.now(), &mut |bytes| bytes.fill(7)).expect("the options are valid");
        self.in_use.retain(|_, exchange| *exchange != Exchange::Request);
        // Whose PUBREC has come waits for PUBCOMP on whatever connection.
        self.unanswered.retain(|id| self.in_use.get(id) == Some(&Exchange::Releasing));
        self.is_connecting = true;
        self.has_said_goodbye = false;
    }

    fn connack(&mut self, number: u8) {
        let receive_maximum = NonZeroU16::new(u16::from(number >> 1 & 3));
        self.quota = receive_maximum.map_or(usize::from(u16::MAX), |maximum| usize::from(maximum.get()));
        let properties = ConnAckProperties {
            receive_maximum,
            packet_bytes_max: (number & 8 != 0).then(|| std::num::NonZeroU32::MIN.saturating_add(14)),
            maximum_qos: (number & 16 != 0).then_some(QoS::AtLeastOnce),
            retain_available: (number & 32 != 0).then_some(false),
            ..ConnAckProperties::default()
        };
        let reason = if number & 64 == 0 { ReasonCode::Success } else { ReasonCode::ServerBusy };
        let session_present = number & 1 != 0;
        self.receive(&Packet::ConnAck(ConnAck { session_present, reason, properties }));
    }

    fn publish(&mut self, number: u8, step: usize) {
        if !self.session.accepts_publication() {
            return;
        }
        let publication = Publication {
            topic: "t".to_owned(),
            payload: bytes::Bytes::from(vec![b'p'; usize::from(number >> 3)]),
            qos: QOS[usize::from(number) % QOS.len()],
            retain: step.is_multiple_of(5),
            properties: Properties::default(),
        };
        if let Ok(Submitted::Queued(token)) = self.session.publish(publication) {
            assert!(self.waiting.insert(token), "a token is given once");
        }
    }

    fn request(&mut self, number: u8) {
        let filter = format!("t/{}", number & 3);
        let token = match number >> 2 & 3 {
            0 => self.session.unsubscribe(&filter),
            1 => return self.session.abandon(&filter),
            _ => {
                let options = SubscribeOptions {
                    qos: QoS::ExactlyOnce,
                    no_local: false,
                    retain_as_published: false,
                    retain_handling: RetainHandling::Send,
                };
                self.session.subscribe(&[filter], options)
            }
        };
        assert!(self.waiting.insert(token), "a token is given once");
    }

    fn acknowledge(&mut self, number: u8) {
        if self.receipts.is_empty() {
            return;
        }
        let (receipt, qos) = self.receipts.remove(usize::from(number) % self.receipts.len());
        if qos == QoS::AtLeastOnce {
            self.acknowledged += 1;
        }
        self.session.acknowledge(receipt);
    }

    fn pass(&mut self, number: u8) {
        self.now_ms += u64::from(number) * 500;
        self.session.handle_timeout(self.now());
        let due = self.session.next_timeout();
        assert!(due.is_none_or(|due| due > self.now_ms), "what was due is done");
    }

    fn message(&mut self, deed: u8, number: u8) {
        let qos = QOS[usize::from(deed >> 4) % QOS.len()];
        self.receive(&Packet::Publish(Publish {
            dup: deed & 0x80 != 0 && qos != QoS::AtMostOnce,
            qos,
            retain: false,
            topic: TopicName::new("t").ok(),
            packet_id: Some(message_id(number)).filter(|_| qos != QoS::AtMostOnce),
            properties: PublishProperties::default(),
            payload: &[number],
        }));
    }

    fn answer(&mut self, deed: u8, number: u8) {
        let Some(id) = PacketId::new(u16::from(number >> 4)) else { return };
        let answer = Acknowledgement::new(id, REASONS[usize::from(number) % REASONS.len()]);
        let packet = match deed >> 4 & 3 {
            0 => Packet::PubAck(answer),
            1 | 2 => Packet::PubRec(answer),
            _ => Packet::PubComp(answer),
        };
        // Not every answer has every reason: a client that gets another disconnects.
        let bytes = encode(&packet);
        let (frame, _) = next_frame(&bytes, usize::MAX).expect("a frame").expect("a whole one");
        if self.session.is_connected() && Packet::decode(frame, ProtocolVersion::V5).is_ok() {
            self.follow(id, &packet, answer.reason.is_error());
        }
        self.receive_bytes(&bytes);
    }

    /// Notes what an answer means for the exchange that it names, if it fits.
    fn follow(&mut self, id: PacketId, answer: &Packet<'_>, is_error: bool) {
        let is_settled = match (self.in_use.get_mut(&id), answer) {
            (Some(Exchange::Assured), Packet::PubAck(_))
            | (Some(Exchange::Releasing), Packet::PubComp(_)) => true,
            (Some(exchange @ Exchange::Exact), Packet::PubRec(_)) => {
                *exchange = Exchange::Releasing;
                is_error
            }
            _ => false,
        };
        if is_settled {
            self.in_use.remove(&id);
            self.unanswered.remove(&id);
        }
    }

    fn answer_request(&mut self, deed: u8, number: u8) {
        let Some(id) = PacketId::new(u16::from(number >> 4)) else { return };
        if self.in_use.get(&id) == Some(&Exchange::Request) {
            self.in_use.remove(&id);
        }
        let kind = if deed & 0x10 == 0 { 0x90 } else { 0xB0 };
        let reason = if number & 1 == 0 { ReasonCode::Success } else { ReasonCode::NotAuthorized };
        let [high, low] = id.value().to_be_bytes();
        self.receive_bytes(&[kind, 4, high, low, 0, reason as u8]);
    }

    fn release(&mut self, number: u8) {
        let id = message_id(number);
        self.unreleased.remove(&id);
        self.receive(&Packet::PubRel(Acknowledgement::new(id, ReasonCode::Success)));
    }

    fn receive(&mut self, packet: &Packet<'_>) {
        self.receive_bytes(&encode(packet));
    }

    fn receive_bytes(&mut self, bytes: &[u8]) {
        let piece = if self.is_cut { 1 } else { bytes.len() };
        for piece in bytes.chunks(piece) {
            self.session.receive(piece);
            self.listen();
        }
    }

    fn garble(&mut self, byte: u8) {
        self.is_garbled = true;
        self.session.receive(&[byte]);
    }

    /// Hears what the session has to tell.
    fn listen(&mut self) {
        while let Some(event) = self.session.poll(self.now()) {
            match event {
                Event::Connected { session_present: false, .. } => {
                    self.unreleased.clear();
                    self.in_use.clear();
                    self.unanswered.clear();
                }
                Event::Published { token, .. }
                | Event::Answered { token, .. }
                | Event::RequestTooLarge { token: Some(token), .. } => self.settle(token),
                Event::Message { message, receipt } => self.take(&message, receipt),
                _ => {}
            }
        }
        assert!(self.session.unacknowledged() <= usize::from(RECEIVE_MAXIMUM.get()));
    }

    fn take(&mut self, message: &Message, receipt: Option<Receipt>) {
        assert_eq!(receipt.is_some(), message.qos != QoS::AtMostOnce);
        let Some(receipt) = receipt else { return };
        assert!(self.receipts.iter().all(|(other, _)| *other != receipt), "a receipt is given once");
        self.receipts.push((receipt, message.qos));
        let id = message_id(message.payload.first().copied().unwrap_or_default());
        if message.qos == QoS::AtLeastOnce {
            self.unreleased.remove(&id);
        } else {
            assert!(self.unreleased.insert(id) || self.is_garbled, "a message of QoS 2 is delivered once");
        }
    }

    fn settle(&mut self, token: Token) {
        assert!(self.waiting.remove(&token), "an outcome is told once");
    }

    /// Takes what the client sends and holds it against the rules.
    fn read_output(&mut self) {
        let bytes = self.session.output().to_vec();
        self.session.sent(bytes.len(), self.now());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (frame, used) = next_frame(rest, usize::MAX).expect("a frame").expect("a whole one");
            let packet = Packet::decode(frame, ProtocolVersion::V5).expect("a packet of MQTT 5");
            assert_eq!(
                matches!(packet, Packet::Connect(_)),
                self.is_connecting,
                "CONNECT is first, and only that"
            );
            assert!(!self.has_said_goodbye, "nothing follows DISCONNECT");
            self.is_connecting = false;
            self.sent(&packet);
            rest = &rest[used..];
        }
    }

    fn sent(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) if !self.is_garbled => {
                let Some(id) = publish.packet_id else { return };
                assert!(self.unanswered.insert(id), "an identifier is sent once on a connection");
                assert!(self.unanswered.len() <= self.quota, "the broker's Receive Maximum holds");
                let exchange =
                    if publish.qos == QoS::ExactlyOnce { Exchange::Exact } else { Exchange::Assured };
                let earlier = self.in_use.insert(id, exchange);
                assert_eq!(earlier.is_some(), publish.dup, "what is sent again is marked, and nothing else");
            }
            Packet::Subscribe(subscribe) => self.begin(subscribe.packet_id),
            Packet::Unsubscribe(unsubscribe) => self.begin(unsubscribe.packet_id),
            Packet::PubAck(_) => {
                self.pubacks += 1;
                assert!(
                    self.pubacks <= self.acknowledged,
                    "only what the application has taken is acknowledged"
                );
            }
            Packet::Disconnect(_) => self.has_said_goodbye = true,
            Packet::Publish(_)
            | Packet::Connect(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::PingReq => {}
            other => panic!("a client does not send {:?}", other.packet_type()),
        }
    }

    fn begin(&mut self, id: PacketId) {
        let earlier = self.in_use.insert(id, Exchange::Request);
        assert!(earlier.is_none() || self.is_garbled, "an identifier names one thing at a time");
    }
}

/// The identifier of a message of the broker, which its payload tells.
fn message_id(number: u8) -> PacketId {
    PacketId::new(u16::from(number & 3) + 1).expect("not zero")
}

fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut bytes).expect("a packet that can be written");
    bytes
}
