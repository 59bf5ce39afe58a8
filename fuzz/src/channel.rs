//! Channel input: a broker with a VEIL-1 identity, and clients that open, re-authenticate, change keys and talk as the bytes say.
//!
//! A client keeps to the protocol until a step says otherwise. Whatever happens nothing panics, everything that the broker sends
//! opens under the client's keys, a client that kept to the protocol keeps its connection, and a record that was damaged ends one
//! without an answer.

use std::collections::BTreeMap;

use veilmq_core::{FanOut, FanOutForm, Settings, VeilServer};
use veilmq_protocol::veil::channel::{
    AwaitServerFinish, AwaitServerHello, ClientHelloConfig, ClientStart, CompactStart, Content, Established,
    Identity, IdentityKeys, Predecessor, PropertyChannel, RecordOpener, RecordSealer, ResumeStart,
    Resumption, ServerPolicy, TrustAnchors,
};
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::registry::{AUTHENTICATION_METHOD, Scheme, Schemes, Suite};
use veilmq_protocol::veil::vmc::{CertificateFields, Roles};
use veilmq_protocol::{
    Auth, Connect, ConnectProperties, Packet, PacketType, ProtocolVersion, QoS, ReasonCode, Subscribe,
    SubscribeFiltersBuf, TopicFilter, UserProperties, next_frame,
};
use veilmq_simulator::{Conn, World, connect_v5, id, options, publish};

const NAMES: [&str; 2] = ["a", "b"];
const STEPS_MAX: usize = 64;
const SECONDS: Option<u64> = Some(1_800_000_000);

/// Plays a script: the first byte chooses the broker, then each pair is a client with a deed and a number.
pub fn channel(data: &[u8]) {
    let Some((kind, script)) = data.split_first() else { return };
    let mut stage = Stage::new(*kind);
    for step in script.chunks_exact(2).take(STEPS_MAX) {
        if let &[deed, number] = step {
            stage.play(deed, number);
        }
    }
}

fn identity(seed: u8, subject: &str, roles: Roles) -> Identity {
    let authority = IdentityKeys::from_seeds(&[1; 32], &[2; 32]);
    let keys = if seed == 1 { IdentityKeys::from_seeds(&[1; 32], &[2; 32]) } else { keys(seed) };
    let fields = CertificateFields {
        roles,
        serial: u64::from(seed),
        not_before: 1_700_000_000,
        not_after: 1_900_000_000,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    let certificate = fields.sign(&authority).expect("the fields are well-formed");
    Identity::new(certificate, keys).expect("the keys are the certificate's")
}

fn keys(seed: u8) -> IdentityKeys {
    IdentityKeys::from_seeds(&[seed; 32], &[seed ^ 0xFF; 32])
}

/// A connection with its channel.
struct Client {
    connection: Conn,
    sealer: RecordSealer,
    opener: RecordOpener,
    predecessor: Predecessor,
    exchange: Option<Exchange>,
    /// It has kept to the protocol so far, so the broker has no reason to end the connection.
    is_good: bool,
}

/// A connection in property mode.
struct Stock {
    connection: Conn,
    channel: PropertyChannel,
}

enum Exchange {
    Hello(AwaitServerHello),
    Finish(AwaitServerFinish),
}

struct Stage {
    world: World,
    anchors: TrustAnchors,
    clients: BTreeMap<usize, Client>,
    stock: BTreeMap<usize, Stock>,
    tickets: BTreeMap<usize, Resumption>,
    /// Makes what clients draw at random differ.
    drawn: u8,
}

impl Stage {
    fn new(kind: u8) -> Self {
        let form = match kind >> 1 & 3 {
            0 => FanOutForm::Digest,
            1 => FanOutForm::Group,
            _ => FanOutForm::GroupOuter,
        };
        let veil = VeilServer {
            policy: ServerPolicy { schemes: Schemes::ALL, property_mode: true, ..ServerPolicy::default() },
            property_requires_tls: false,
            paper_modes: Schemes::ALL,
            fan_out: FanOut { form, rekey_milliseconds_min: 0, ..FanOut::default() },
            ..VeilServer::new(identity(2, "broker", Roles::BROKER))
        };
        let settings = Settings {
            shards: 1 + u16::from(kind & 1),
            packet_bytes_max: 2_048,
            rekey_records: 5,
            ..Settings::default()
        };
        let world = World::with_veil(settings, veil);
        let authority = identity(1, "authority", Roles::CA).certificate().clone();
        let mut anchors = TrustAnchors::new();
        anchors.add(authority.clone()).expect("an authority");
        world.shared.trust().write().expect("no panic").add(authority).expect("an authority");
        Self {
            world,
            anchors,
            clients: BTreeMap::new(),
            stock: BTreeMap::new(),
            tickets: BTreeMap::new(),
            drawn: 0,
        }
    }

    fn play(&mut self, deed: u8, number: u8) {
        let slot = usize::from(deed & 1);
        match deed >> 1 & 15 {
            0 => self.sigma(slot, number),
            1 => self.compact(slot, number),
            2 => self.resume(slot, number),
            3 => self.begin_again(slot),
            4 => self.key_update(slot),
            5 => self.publish(slot, number),
            6 => self.subscribe(slot),
            7 => self.damage(slot, number),
            8 => self.cut(slot),
            9 => self.world.pass(u64::from(number) * 100),
            10 => self.stray(slot, ReasonCode::ReAuthenticate, &[1, number]),
            11 => self.stray(slot, ReasonCode::ContinueAuthentication, &[3, number]),
            12 => self.property_mode(slot, number),
            13 => self.protected(slot, number),
            14 => self.damage_protected(slot, number),
            _ => self.garbage(slot, number),
        }
        self.collect();
    }

    fn config<'a>(&self, number: u8, suites: &'a [Suite]) -> ClientHelloConfig<'a> {
        let scheme = match number & 3 {
            0 => Scheme::Four,
            1 => Scheme::Three,
            _ => Scheme::Two,
        };
        ClientHelloConfig {
            schemes: Schemes::of(&[scheme]),
            suites,
            anchor: identity(1, "authority", Roles::CA).kid(),
            now_unix_ms: Some(self.world.now().milliseconds()),
            form: ChannelForm::Records,
            join_request: None,
        }
    }

    fn draw(&mut self) -> impl FnMut(&mut [u8]) + use<> {
        self.drawn = self.drawn.wrapping_add(1);
        let byte = self.drawn;
        move |bytes| bytes.fill(byte)
    }

    fn member(slot: usize) -> Identity {
        identity(if slot == 0 { 10 } else { 11 }, NAMES[slot], Roles::PUBLISHER)
    }

    fn connect(slot: usize, hello: &[u8]) -> Vec<u8> {
        let connect = connect_v5(NAMES[slot], false, 60);
        let properties = ConnectProperties {
            authentication_method: Some(AUTHENTICATION_METHOD),
            authentication_data: Some(hello),
            ..connect.properties
        };
        encode(&Packet::Connect(Connect { properties, keep_alive_seconds: 0, ..connect }))
    }

    fn open(&mut self, slot: usize, connect: &[u8]) -> (Conn, Vec<u8>) {
        let connection =
            self.world.accept(slot % usize::from(self.world.shared.settings().shards), ProtocolVersion::V5);
        self.world.send_bytes(connection, connect);
        (connection, self.world.bytes(connection))
    }

    fn sigma(&mut self, slot: usize, number: u8) {
        let suites = [Suite::ALL[usize::from(number) % 3]];
        let (start, hello) =
            ClientStart::new(&self.config(number, &suites), &mut self.draw()).expect("a short list");
        let connect = Self::connect(slot, &hello);
        let (connection, answer) = self.open(slot, &connect);
        self.prove(slot, connection, start.sent_connect(&connect), &answer);
    }

    /// Goes on with SIGMA from the broker's AUTH; after CONNACK the rest is records.
    fn prove(&mut self, slot: usize, connection: Conn, awaiting: AwaitServerHello, answer: &[u8]) {
        let hello = auth_data(answer).expect("AUTH 0x18 answers a good CONNECT");
        let (finish, awaiting) = awaiting
            .handle(&hello, &Self::member(slot), &self.anchors, Some("broker"), SECONDS)
            .expect("the broker proves who it is");
        self.world.send_bytes(connection, &auth_packet(ReasonCode::ContinueAuthentication, &finish));
        let answer = self.world.bytes(connection);
        let (_, len) = next_frame(&answer, usize::MAX).expect("CONNACK").expect("CONNACK");
        let established = awaiting.handle(&answer[..len]).expect("the broker finishes");
        self.established(slot, connection, established, &answer[len..]);
    }

    fn compact(&mut self, slot: usize, number: u8) {
        let suites = [Suite::ALL[usize::from(number) % 3]];
        let member = Self::member(slot);
        let (start, hello) =
            CompactStart::new(&self.config(number, &suites), &member, "broker", &mut self.draw())
                .expect("a clock and a short list");
        let mut connect = Self::connect(slot, &hello);
        let awaiting = start.sign_connect(&member, &mut connect).expect("a CONNECT");
        let (connection, answer) = self.open(slot, &connect);
        match awaiting.handle(&answer, &self.anchors, SECONDS) {
            Ok(established) => self.established(slot, connection, established, &[]),
            // After 256 openings the same nonce comes again.
            Err(_) => assert!(self.world.is_closed(connection)),
        }
    }

    fn resume(&mut self, slot: usize, number: u8) {
        let Some(resumption) = self.tickets.remove(&slot) else { return self.sigma(slot, number) };
        let (start, hello) =
            ResumeStart::new(&self.config(number, &Suite::ALL), resumption, &mut self.draw())
                .expect("a short list");
        let mut connect = Self::connect(slot, &hello);
        let awaiting = start.bind_connect(&mut connect).expect("a CONNECT");
        let (connection, answer) = self.open(slot, &connect);
        if auth_data(&answer).is_some() {
            return self.prove(slot, connection, awaiting.without_ticket(), &answer);
        }
        let established = awaiting.handle(&answer).expect("the broker knows the ticket");
        self.established(slot, connection, established, &[]);
    }

    fn established(&mut self, slot: usize, connection: Conn, mut established: Established, rest: &[u8]) {
        if let Some(resumption) = established.take_resumption() {
            self.tickets.insert(slot, resumption);
        }
        let (sealer, opener, predecessor) = established.into_parts();
        let mut client = Client { connection, sealer, opener, predecessor, exchange: None, is_good: true };
        let mut rest = rest.to_vec();
        client.receives(&mut rest, slot, &self.anchors);
        self.clients.insert(slot, client);
        self.raw(slot, &[0xC0, 0]);
    }

    /// Sends bytes as the packets of a record.
    fn raw(&mut self, slot: usize, packets: &[u8]) {
        let Some(client) = self.clients.get_mut(&slot) else { return };
        let record = client.seal(packets);
        self.world.send_bytes(client.connection, &record);
    }

    fn begin_again(&mut self, slot: usize) {
        let mut draw = self.draw();
        let Some(client) = self.clients.get_mut(&slot) else { return };
        let anchor = keys(1).kid();
        let (start, hello) =
            ClientStart::again(&client.predecessor, anchor, SECONDS, &mut draw).expect("one suite");
        let packet = auth_packet(ReasonCode::ReAuthenticate, &hello);
        let again = start.sent_auth(&client.predecessor, &packet);
        // A second one while the first is under way ends the connection.
        client.exchange = Some(Exchange::Hello(again));
        self.raw(slot, &packet);
    }

    fn key_update(&mut self, slot: usize) {
        let Some(client) = self.clients.get_mut(&slot) else { return };
        let mut record = Vec::new();
        client.sealer.key_update(&mut record);
        self.world.send_bytes(client.connection, &record);
    }

    fn publish(&mut self, slot: usize, number: u8) {
        let payload = "x".repeat(usize::from(number));
        let message = publish("t", &payload, QoS::AtMostOnce, 0);
        self.raw(slot, &encode(&Packet::Publish(message)));
    }

    fn subscribe(&mut self, slot: usize) {
        self.raw(slot, &subscribe());
    }

    /// Connects as a library that protects each PUBLISH with a property, and subscribes.
    fn property_mode(&mut self, slot: usize, number: u8) {
        let suites = [Suite::ALL[usize::from(number) % 3]];
        let config = ClientHelloConfig {
            schemes: Schemes::ALL,
            form: ChannelForm::Property,
            join_request: None,
            ..self.config(number, &suites)
        };
        let (start, hello) = ClientStart::new(&config, &mut self.draw()).expect("a short list");
        let connect = Self::connect(slot, &hello);
        let (connection, answer) = self.open(slot, &connect);
        let hello = auth_data(&answer).expect("AUTH 0x18 answers a good CONNECT");
        let (finish, awaiting) = start
            .sent_connect(&connect)
            .handle(&hello, &Self::member(slot), &self.anchors, Some("broker"), SECONDS)
            .expect("the broker proves who it is");
        self.world.send_bytes(connection, &auth_packet(ReasonCode::ContinueAuthentication, &finish));
        let answer = self.world.bytes(connection);
        let (_, len) = next_frame(&answer, usize::MAX).expect("CONNACK").expect("CONNACK");
        let established = awaiting.handle(&answer[..len]).expect("the broker finishes");
        let channel = established.into_property_mode().expect("Scheme 4 is there in property mode");
        // It has taken over what the same name had.
        self.clients.remove(&slot);
        let mut stock = Stock { connection, channel };
        stock.receives(&answer[len..]);
        self.stock.insert(slot, stock);
        self.world.send_bytes(connection, &subscribe());
    }

    /// Publishes in property mode.
    fn protected(&mut self, slot: usize, number: u8) {
        let Some(stock) = self.stock.get_mut(&slot) else { return };
        let packet = stock.seal(number);
        self.world.send_bytes(stock.connection, &packet);
    }

    /// A PUBLISH with one bit of its payload flipped is the end of a connection in property mode.
    fn damage_protected(&mut self, slot: usize, number: u8) {
        self.collect();
        let Some(mut stock) = self.stock.remove(&slot) else { return };
        let mut packet = stock.seal(number.saturating_add(1));
        if let Some(last) = packet.last_mut() {
            *last ^= 1 << (number & 7);
        }
        self.world.send_bytes(stock.connection, &packet);
        assert!(self.world.is_closed(stock.connection), "a payload of {number} bytes");
        let farewell = self.world.bytes(stock.connection);
        assert_eq!(farewell.get(2), Some(&0x87), "{farewell:02x?}");
    }

    /// Sends an AUTH that nothing led to.
    fn stray(&mut self, slot: usize, reason: ReasonCode, data: &[u8]) {
        self.garbage_follows(slot);
        self.raw(slot, &auth_packet(reason, data));
    }

    /// Sends what is no packet.
    fn garbage(&mut self, slot: usize, number: u8) {
        self.garbage_follows(slot);
        self.raw(slot, &[number]);
    }

    fn garbage_follows(&mut self, slot: usize) {
        if let Some(client) = self.clients.get_mut(&slot) {
            client.is_good = false;
        }
    }

    /// A record with one bit flipped behind its header is the end, and nothing is said about it.
    fn damage(&mut self, slot: usize, number: u8) {
        self.collect();
        let Some(mut client) = self.clients.remove(&slot) else { return };
        let mut record = client.seal(&[0xC0, 0]);
        let at = 5 + usize::from(number) % (record.len() - 5);
        record[at] ^= 1 << (number & 7);
        self.world.send_bytes(client.connection, &record);
        assert!(self.world.is_closed(client.connection), "byte {at}");
        assert!(self.world.bytes(client.connection).is_empty(), "byte {at}");
    }

    fn cut(&mut self, slot: usize) {
        if let Some(client) = self.clients.remove(&slot) {
            self.world.cut(client.connection);
        }
        if let Some(stock) = self.stock.remove(&slot) {
            self.world.cut(stock.connection);
        }
    }

    /// Lets every client open what it received and answer, until nobody has anything to say.
    fn collect(&mut self) {
        for stock in self.stock.values_mut() {
            let bytes = self.world.bytes(stock.connection);
            stock.receives(&bytes);
        }
        let world = &self.world;
        self.stock.retain(|_, stock| !world.is_closed(stock.connection));
        loop {
            let mut answers = Vec::new();
            for (slot, client) in &mut self.clients {
                let mut bytes = self.world.bytes(client.connection);
                let answer = client.receives(&mut bytes, *slot, &self.anchors);
                answers.extend(answer.map(|answer| (*slot, answer)));
            }
            let world = &self.world;
            self.clients.retain(|_, client| {
                let is_closed = world.is_closed(client.connection);
                assert!(!(is_closed && client.is_good), "a client that kept to the protocol is let go");
                !is_closed
            });
            if answers.is_empty() {
                return;
            }
            for (slot, answer) in answers {
                self.raw(slot, &answer);
            }
        }
    }
}

impl Client {
    fn seal(&mut self, packets: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let open = self.sealer.begin(&mut bytes);
        bytes.extend_from_slice(packets);
        self.sealer.finish(&mut bytes, open);
        bytes
    }

    /// Opens records; returns the packet that answers an AUTH among them.
    fn receives(&mut self, bytes: &mut [u8], slot: usize, anchors: &TrustAnchors) -> Option<Vec<u8>> {
        let mut rest = bytes;
        let mut answer = None;
        while !rest.is_empty() {
            let record = self.opener.next(rest, 1 << 20).expect("the broker's records open");
            let record = record.expect("the broker sends whole records");
            let (now, later) = rest.split_at_mut(record.consumed);
            match record.content {
                Content::Packets(range) => {
                    let mut packets = &now[range];
                    while !packets.is_empty() {
                        let (_, len) =
                            next_frame(packets, usize::MAX).expect("a packet").expect("a whole packet");
                        answer = self.packet(&packets[..len], slot, anchors).or(answer);
                        packets = &packets[len..];
                    }
                }
                Content::Fan(delivery) => _ = delivery.publish(now).expect("a PUBLISH"),
                Content::KeyUpdated | Content::Control(_) => {}
            }
            rest = later;
        }
        answer
    }

    fn packet(&mut self, packet: &[u8], slot: usize, anchors: &TrustAnchors) -> Option<Vec<u8>> {
        let (frame, _) = next_frame(packet, usize::MAX).ok()??;
        let Ok(Packet::Auth(auth)) = Packet::decode(frame, ProtocolVersion::V5) else { return None };
        match self.exchange.take()? {
            Exchange::Hello(awaiting) => {
                let data = auth.data.unwrap_or_default();
                let (finish, next) =
                    awaiting.handle(data, &Stage::member(slot), anchors, Some("broker"), SECONDS).ok()?;
                self.exchange = Some(Exchange::Finish(next));
                Some(auth_packet(ReasonCode::ContinueAuthentication, &finish))
            }
            Exchange::Finish(awaiting) => {
                let established = awaiting.handle_auth(packet).expect("the broker finishes");
                let (sealer, opener, predecessor) = established.into_parts();
                self.sealer.switch_to(sealer);
                self.opener.switch_to(opener).expect("the broker changes keys once");
                self.predecessor = predecessor;
                Some(vec![0xC0, 0])
            }
        }
    }
}

impl Stock {
    fn seal(&mut self, number: u8) -> Vec<u8> {
        let payload = "x".repeat(usize::from(number));
        let plain = encode(&Packet::Publish(publish("t", &payload, QoS::AtMostOnce, 0)));
        let mut packet = Vec::new();
        self.channel.publishes.seal(&plain, &mut packet).expect("a PUBLISH");
        packet
    }

    /// Takes packets in, of which each PUBLISH is authentic.
    fn receives(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (frame, len) = next_frame(rest, usize::MAX).expect("a packet").expect("a whole packet");
            if frame.packet_type() == PacketType::Publish {
                self.channel.published.open(frame).expect("the broker's messages are authentic");
            }
            rest = &rest[len..];
        }
    }
}

fn subscribe() -> Vec<u8> {
    let mut filters = SubscribeFiltersBuf::default();
    let filter = TopicFilter::new("t").expect("a filter");
    filters.push(filter, options(QoS::AtMostOnce)).expect("one filter");
    encode(&Packet::Subscribe(Subscribe {
        packet_id: id(1),
        subscription_id: None,
        user: UserProperties::default(),
        filters: filters.as_filters(),
    }))
}

fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut bytes).expect("a packet of our own");
    bytes
}

fn auth_packet(reason: ReasonCode, data: &[u8]) -> Vec<u8> {
    encode(&Packet::Auth(Auth {
        reason,
        method: Some(AUTHENTICATION_METHOD),
        data: Some(data),
        ..Auth::default()
    }))
}

/// What an AUTH at the start of `bytes` carries.
fn auth_data(bytes: &[u8]) -> Option<Vec<u8>> {
    let (frame, _) = next_frame(bytes, usize::MAX).ok()??;
    match Packet::decode(frame, ProtocolVersion::V5).ok()? {
        Packet::Auth(auth) => auth.data.map(<[u8]>::to_vec),
        _ => None,
    }
}
