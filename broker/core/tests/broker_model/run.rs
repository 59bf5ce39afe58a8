//! A run: the same clients at the core and at the model, and the comparison of what each client received.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};

use veilmq_core::{ConnectionId, Settings};
use veilmq_protocol::{
    Acknowledgement, Connect, Disconnect, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode,
    RetainHandling, Subscribe, SubscribeFiltersBuf, SubscribeOptions, TopicFilter, TopicName, Unsubscribe,
    UnsubscribeFiltersBuf, UserProperties, UserPropertiesBuf, Will,
};
use veilmq_simulator::{World, connect_v5, connect_v311, id, publish};

use super::action::{
    self, Action, Alias, CLIENTS, FILTERS, MIXED_CLIENTS, Manner, Options, Publication, Request,
};
use super::packet::{self, Connection, Reader, Stream};
use super::session::Exchange;
use super::wire::Traffic;
use super::{Answer, Broker};

const NAMES: [&str; CLIENTS] = ["ann", "bob", "cid", "dee"];
/// No exchange of a run gets this far.
const STRAY_ID: u16 = 60_000;

/// The core and the model, side by side.
pub(crate) struct Run {
    world: Option<World>,
    model: Broker,
    /// Which connection each client has.
    clients: [Option<Connection>; CLIENTS],
    readers: BTreeMap<Connection, Reader>,
    messages: u32,
}

impl Run {
    /// Starts both; so many bytes of what waits for a session stay in memory, and what is of QoS 0 may wait for absent clients.
    pub(crate) fn new(shards: u16, session_queue_memory_bytes: usize, queue_qos0: bool) -> Self {
        let settings = Settings { shards, session_queue_memory_bytes, queue_qos0, ..Settings::default() };
        let world = World::with(settings);
        Self {
            model: Broker::new(world.now().milliseconds(), queue_qos0),
            world: Some(world),
            clients: [None; CLIENTS],
            readers: BTreeMap::new(),
            messages: 0,
        }
    }

    /// Does one step with both, and compares.
    pub(crate) fn step(&mut self, action: &Action) {
        // Each step has a moment of its own, so no two deadlines meet.
        self.world().pass(1);
        self.compare(&"a millisecond", |model| model.pass(1));
        match action {
            Action::Connect(connect) => self.connect(connect),
            Action::Cut { client } => self.cut(*client),
            Action::Send { client, request } => self.send(*client, request),
            Action::Pass { seconds } => {
                self.world().pass(seconds * 1_000);
                self.compare(action, |model| model.pass(seconds * 1_000));
            }
            Action::Restart { shards } => self.restart(*shards),
        }
        self.compare_retained();
    }

    /// What has expired is retained for a second more at most.
    fn compare_retained(&mut self) {
        let count = self.world().shared.retained_totals().0;
        let (least, most) = (self.model.retained_since(0), self.model.retained_since(1_000));
        assert!((least..=most).contains(&count), "{count} messages are retained, not {least} to {most}");
    }

    fn world(&mut self) -> &mut World {
        self.world.as_mut().unwrap()
    }

    fn connect(&mut self, connect: &action::Connect) {
        let connect = action::Connect {
            will: connect.will.clone().map(|will| action::Will { payload: self.next_payload(), ..will }),
            ..connect.clone()
        };
        let name = NAMES[connect.client];
        let packet = match connect.is_v5 {
            true => connect_v5(name, connect.clean_start, connect.expiry_seconds),
            false => connect_v311(name, connect.clean_start),
        };
        let mut pairs = UserPropertiesBuf::new();
        let mut packet = Connect { keep_alive_seconds: connect.keep_alive_seconds, ..packet };
        if connect.is_v5 {
            packet.properties.receive_maximum = NonZeroU16::new(connect.receive_maximum);
            packet.properties.topic_alias_maximum = connect.alias_maximum;
        }
        packet.will = connect.will.as_ref().map(|will| Will {
            qos: qos(will.qos),
            retain: will.retain,
            topic: TopicName::new(will.topic).unwrap(),
            payload: will.payload.as_bytes(),
            delay_seconds: will.delay_seconds,
            properties: PublishProperties {
                message_expiry_seconds: will.expiry_seconds,
                ..properties(will.has_properties, &will.payload, &mut pairs)
            },
        });
        let connection = self.world().connect(&packet).0;
        self.readers.insert(connection, Reader::new(packet.version, connect.alias_maximum));
        self.clients[connect.client] = Some(connection);
        self.compare(&packet, |model| model.connect(name, connection, &connect));
    }

    fn cut(&mut self, client: usize) {
        let Some(connection) = self.clients[client].take() else { return };
        self.world().cut(ConnectionId(connection));
        self.compare(&"connection lost", |model| model.cut(NAMES[client]));
    }

    fn restart(&mut self, shards: u16) {
        let world = self.world.take().unwrap();
        assert!(!world.has_uncommitted(), "everything is committed at once");
        self.world = Some(world.crash(shards).0);
        self.world().pass(0);
        self.readers.clear();
        self.clients = [None; CLIENTS];
        self.compare(&"restart", Broker::restart);
    }

    fn send(&mut self, client: usize, request: &Request) {
        let mut clients = (client..CLIENTS).chain(0..client);
        let Some(client) = clients.find(|client| self.clients[*client].is_some()) else { return };
        let Some(connection) = self.clients[client] else { return };
        let (name, connection) = (NAMES[client], ConnectionId(connection));
        let is_v5 = self.readers[&connection.0].is_v5();
        match request {
            Request::Ping => {
                self.world().send(connection, &Packet::PingReq);
                self.compare(request, |model| model.ping(name));
            }
            Request::Disconnect { with_will, expiry_seconds } => {
                let (with_will, expiry_seconds) = (*with_will && is_v5, expiry_seconds.filter(|_| is_v5));
                let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
                let disconnect =
                    Disconnect { session_expiry_seconds: expiry_seconds, ..Disconnect::new(reason) };
                self.world().send(connection, &Packet::Disconnect(disconnect));
                self.compare(request, |model| model.disconnect(name, with_will, expiry_seconds));
            }
            Request::Subscribe { id, filters } => {
                let (id, filters) = subscription(client, is_v5, *id, filters);
                self.subscribe(connection, id, &filters);
                self.compare(request, |model| model.subscribe(name, 9, id, &filters));
            }
            Request::Unsubscribe { filters } => {
                let filters = self.held_filters(client, filters);
                let mut list = UnsubscribeFiltersBuf::new();
                filters.iter().for_each(|filter| list.push(TopicFilter::new(filter).unwrap()));
                let (user, list) = (UserProperties::default(), list.as_filters());
                let unsubscribe = Unsubscribe { packet_id: id(9), user, filters: list };
                self.world().send(connection, &Packet::Unsubscribe(unsubscribe));
                self.compare(request, |model| model.unsubscribe(name, 9, &filters));
            }
            Request::Publish(publications) => {
                let publications: Vec<Publication> =
                    publications.iter().map(|publication| self.publication(publication, is_v5)).collect();
                let packets = publications.iter().map(|publication| publication.encode(is_v5));
                let bytes = packets.collect::<Vec<Vec<u8>>>().concat();
                self.world().send_bytes(connection, &bytes);
                self.compare(request, |model| {
                    publications.iter().for_each(|publication| model.publish(name, publication));
                });
            }
            Request::Release { is_awaited, which } => {
                let awaited = &self.model.connected(name).unwrap().received;
                let packet_id = match awaited.is_empty() || !is_awaited {
                    true => 1 + u16::try_from(*which).unwrap(),
                    false => awaited[which % awaited.len()],
                };
                self.world().ack(connection, Packet::PubRel, packet_id);
                self.compare(request, |model| model.release(name, packet_id));
            }
            Request::Answer { which, manner } => self.acknowledge(client, connection, &[*which], *manner),
            Request::AnswerMany { which, count } => {
                let which: Vec<usize> = (*which..which + count).collect();
                self.acknowledge(client, connection, &which, Manner::Proper);
            }
        }
    }

    /// Returns the filters of an UNSUBSCRIBE.
    fn held_filters(&self, client: usize, filters: &[(bool, usize)]) -> Vec<String> {
        let held = &self.model.connected(NAMES[client]).unwrap().subscriptions;
        let filter = |(is_held, which): &(bool, usize)| match held.is_empty() || !is_held {
            true => FILTERS[*which].to_owned(),
            false => held[which % held.len()].filter.clone(),
        };
        filters.iter().map(filter).collect()
    }

    fn subscribe(
        &mut self,
        connection: ConnectionId,
        subscription_id: Option<u32>,
        filters: &[(&str, Options)],
    ) {
        let mut list = SubscribeFiltersBuf::new();
        for (filter, options) in filters {
            let options = SubscribeOptions {
                qos: qos(options.qos),
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                retain_handling: match options.retain_handling {
                    0 => RetainHandling::Send,
                    1 => RetainHandling::SendIfNew,
                    _ => RetainHandling::DoNotSend,
                },
            };
            list.push(TopicFilter::new(filter).unwrap(), options).unwrap();
        }
        let subscribe = Subscribe {
            packet_id: id(9),
            subscription_id: subscription_id.and_then(NonZeroU32::new),
            user: UserProperties::default(),
            filters: list.as_filters(),
        };
        self.world().send(connection, &Packet::Subscribe(subscribe));
    }

    /// Lets a client answer some of the messages that it is receiving.
    fn acknowledge(&mut self, client: usize, connection: ConnectionId, which: &[usize], manner: Manner) {
        let name = NAMES[client];
        let is_v5 = self.readers[&connection.0].is_v5();
        let in_flight: Vec<&Exchange> = match &self.model.connected(name).unwrap().in_flight {
            in_flight if which.len() == 1 => in_flight.iter().collect(),
            in_flight => in_flight.iter().filter(|exchange| exchange.is_charged).collect(),
        };
        let exchanges = which.iter().take(in_flight.len()).map(|which| in_flight[which % in_flight.len()]);
        let answers: Vec<_> = exchanges.map(|exchange| answer(exchange, manner, is_v5)).collect();
        let mut bytes = Vec::new();
        for (answer, packet_id, reason) in &answers {
            let acknowledgement = Acknowledgement::new(id(*packet_id), *reason);
            let packet = match answer {
                Answer::Taken => Packet::PubAck(acknowledgement),
                Answer::Received => Packet::PubRec(acknowledgement),
                Answer::Complete => Packet::PubComp(acknowledgement),
            };
            packet.encode(version(is_v5), &mut bytes).unwrap();
        }
        if bytes.is_empty() {
            return;
        }
        self.world().send_bytes(connection, &bytes);
        self.compare(&answers, |model| {
            for (answer, packet_id, reason) in &answers {
                model.acknowledge(name, *answer, *packet_id, reason.is_error());
            }
        });
    }

    /// Returns a PUBLISH as a client may send it: what its protocol version has, and with a payload of its own. Messages without
    /// one look alike, so groups do not get them: it would not show which of them a member has.
    fn publication(&mut self, publication: &Publication, is_v5: bool) -> Publication {
        let is_known = !matches!(publication.alias, Alias::Use(_));
        let is_shared = !self.model.groups_wanting(publication.topic).is_empty();
        let is_empty = publication.is_empty && is_known && !is_shared;
        let payload = if is_empty { String::new() } else { self.next_payload() };
        publication.of(is_v5, payload)
    }

    fn next_payload(&mut self) -> String {
        self.messages += 1;
        format!("message {}", self.messages)
    }

    /// Lets the model do what the core has done, and compares what each client received.
    fn compare(&mut self, what: &dyn std::fmt::Debug, act: impl FnOnce(&mut Broker)) {
        let seen = self.read();
        self.model.wire.begin(seen.clone());
        self.model.begin_turn();
        act(&mut self.model);
        let expected = self.model.wire.end();
        for connection in self.readers.keys() {
            let seen = seen.get(connection).map_or(&[][..], Vec::as_slice);
            let expected = expected.get(connection).map_or(&[][..], Vec::as_slice);
            assert!(
                are_equal(seen, expected),
                "after {what:?}\nconnection {connection} got\n{}instead of\n{}",
                lines(seen),
                lines(expected),
            );
        }
        self.forget_closed(&expected);
    }

    /// Takes what has arrived at the clients.
    fn read(&mut self) -> Traffic {
        let world = self.world.as_mut().unwrap();
        let mut seen = Traffic::new();
        for (connection, reader) in &mut self.readers {
            let mut packets = reader.read(&world.bytes(ConnectionId(*connection)));
            if world.is_closed(ConnectionId(*connection)) {
                packets.push(packet::Packet::Closed);
            }
            if !packets.is_empty() {
                seen.insert(*connection, packets);
            }
        }
        seen
    }

    fn forget_closed(&mut self, traffic: &Traffic) {
        for (connection, packets) in traffic {
            if packets.contains(&packet::Packet::Closed) {
                self.readers.remove(connection);
                for client in &mut self.clients {
                    *client = client.filter(|held| held != connection);
                }
            }
        }
    }
}

/// Compares what a client received in one step: each stream in order, CONNACK before everything, the farewell after it.
fn are_equal(seen: &[packet::Packet], expected: &[packet::Packet]) -> bool {
    let by_stream = |packets: &[packet::Packet]| {
        let mut streams: BTreeMap<Stream, Vec<packet::Packet>> = BTreeMap::new();
        for packet in packets {
            streams.entry(packet.stream()).or_default().push(packet.clone());
        }
        streams
    };
    let is_framed = |packets: &[packet::Packet]| {
        let connack = packets.iter().position(|packet| matches!(packet, packet::Packet::ConnAck { .. }));
        let farewell = packets
            .iter()
            .position(|packet| matches!(packet, packet::Packet::Disconnect { .. } | packet::Packet::Closed));
        let is_farewell = |packet: &packet::Packet| {
            matches!(packet, packet::Packet::Disconnect { .. } | packet::Packet::Closed)
        };
        connack.is_none_or(|at| at == 0) && farewell.is_none_or(|at| packets[at..].iter().all(is_farewell))
    };
    is_framed(seen) && by_stream(seen) == by_stream(expected)
}

/// Returns what a client answers to a message.
fn answer(exchange: &Exchange, manner: Manner, is_v5: bool) -> (Answer, u16, ReasonCode) {
    let qos = exchange.delivery.qos;
    let proper = match (qos, exchange.is_released) {
        (1, _) => Answer::Taken,
        (_, false) => Answer::Received,
        (_, true) => Answer::Complete,
    };
    let confused = if qos == 1 { Answer::Received } else { Answer::Taken };
    match manner {
        // MQTT 3.1.1 has no way to refuse, nor has PUBCOMP.
        Manner::Refuse if is_v5 && !exchange.is_released => {
            (proper, exchange.id, ReasonCode::ImplementationSpecificError)
        }
        Manner::Proper | Manner::Refuse => (proper, exchange.id, ReasonCode::Success),
        Manner::ReceiveAgain if qos == 2 => (Answer::Received, exchange.id, ReasonCode::Success),
        Manner::ReceiveAgain => (proper, exchange.id, ReasonCode::Success),
        Manner::Stray => (proper, STRAY_ID, ReasonCode::Success),
        Manner::Confused => (confused, exchange.id, ReasonCode::Success),
    }
}

fn version(is_v5: bool) -> ProtocolVersion {
    if is_v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 }
}

fn lines(packets: &[packet::Packet]) -> String {
    packets.iter().map(|packet| format!("  {packet:?}\n")).collect()
}

fn qos(value: u8) -> QoS {
    QoS::try_from(value).unwrap()
}

/// Returns a SUBSCRIBE as a client may send it: what its protocol version has, and at most one Shared Subscription.
///
/// A client that gets copies from two groups has to be able to tell them apart: by Subscription Identifier, which only the
/// clients that always speak MQTT 5 can rely on. It has to tell them from retained messages too, which copies look like when they
/// come as published: with MQTT 5 a Shared Subscription goes alone, so that its identifier is its own. A client that came back
/// with MQTT 3.1.1 gets all at once, so there it shows in their number.
fn subscription(
    client: usize,
    is_v5: bool,
    id: Option<u32>,
    filters: &[(&'static str, Options)],
) -> (Option<u32>, Vec<(&'static str, Options)>) {
    let mut share = None;
    let mut allowed = Vec::new();
    for (filter, options) in filters {
        if filter.starts_with("$share/") {
            if share.is_some() || (client < MIXED_CLIENTS && !filter.starts_with("$share/g/")) {
                continue;
            }
            share =
                Some(100 + u32::try_from(FILTERS.iter().position(|held| held == filter).unwrap()).unwrap());
        }
        allowed.push((*filter, options.of(is_v5)));
    }
    if is_v5 && share.is_some() {
        allowed.retain(|(filter, _)| filter.starts_with("$share/"));
    }
    if allowed.is_empty() {
        allowed.push((FILTERS[0], filters[0].1.of(is_v5)));
    }
    (share.or(id).filter(|_| is_v5), allowed)
}

/// The properties that the model calls by the same name.
fn properties<'a>(
    has_properties: bool,
    payload: &'a str,
    pairs: &'a mut UserPropertiesBuf,
) -> PublishProperties<'a> {
    if !has_properties {
        return PublishProperties::default();
    }
    pairs.push("key", "1").unwrap();
    pairs.push("key", "2").unwrap();
    PublishProperties {
        payload_is_utf8: Some(true),
        response_topic: Some(TopicName::new("answers").unwrap()),
        correlation_data: Some(payload.as_bytes()),
        content_type: Some("text/plain"),
        user: pairs.as_user_properties(),
        ..PublishProperties::default()
    }
}

impl Options {
    /// Leaves out what the client's protocol version does not have.
    fn of(self, is_v5: bool) -> Self {
        match is_v5 {
            true => self,
            false => Self { qos: self.qos, no_local: false, retain_as_published: false, retain_handling: 0 },
        }
    }
}

impl Publication {
    /// Gives it a payload, and leaves out what the client's protocol version does not have.
    fn of(&self, is_v5: bool, payload: String) -> Self {
        Self {
            dup: self.dup && self.qos > 0,
            // Identifiers of QoS 1 and 2 stay apart: one in use is not to be used for another message.
            id: [0, 10 + self.id, self.id][usize::from(self.qos)],
            payload,
            alias: if is_v5 { self.alias } else { Alias::None },
            expiry_seconds: self.expiry_seconds.filter(|_| is_v5),
            has_properties: self.has_properties && is_v5,
            ..self.clone()
        }
    }

    fn encode(&self, is_v5: bool) -> Vec<u8> {
        let mut pairs = UserPropertiesBuf::new();
        let properties = properties(self.has_properties, &self.payload, &mut pairs);
        let packet = publish(self.topic, &self.payload, qos(self.qos), self.id);
        let packet = veilmq_protocol::Publish {
            dup: self.dup,
            retain: self.retain,
            topic: packet.topic.filter(|_| !matches!(self.alias, Alias::Use(_))),
            properties: PublishProperties {
                message_expiry_seconds: self.expiry_seconds,
                topic_alias: match self.alias {
                    Alias::None => None,
                    Alias::Bind(alias) | Alias::Use(alias) => NonZeroU16::new(alias),
                },
                ..properties
            },
            ..packet
        };
        let mut bytes = Vec::new();
        Packet::Publish(packet).encode(version(is_v5), &mut bytes).unwrap();
        bytes
    }
}
