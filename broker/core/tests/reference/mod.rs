//! The clients of the random runs, and the reference model: who was promised what.
//!
//! A message is owed to a session once its publisher has an acknowledgement, if the session subscribed to the topic whenever
//! the PUBLISH went out. Where a crash may have kept or undone a step that nobody was told of, the model allows both.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use veilmq_core::Settings;
use veilmq_protocol::{
    Acknowledgement, Connect, Disconnect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, TopicFilter,
    Unsubscribe, UnsubscribeFiltersBuf, UserProperties, next_frame,
};

use self::client::{Answer, Certainty, Client, Incarnation, Network, Outgoing, Session, Subscription};
use veilmq_simulator::{Conn, World, connect_v5, id, publish};

pub(crate) const TOPICS: [&str; 3] = ["a/b", "a/c", "d"];
pub(crate) const FILTERS: [&str; 5] = ["a/b", "a/+", "a/#", "d", "#"];
/// Which topics each filter matches.
const MATCHES: [[bool; 3]; 5] = [
    [true, false, false],
    [true, true, false],
    [true, true, false],
    [false, false, true],
    [true, true, true],
];
const NAMES: [&str; 3] = ["ann", "bob", "cid"];

/// The broker, its clients and what they may expect.
pub(crate) struct Model {
    world: Option<World>,
    clients: Vec<Client>,
    incarnations: Incarnation,
    messages: BTreeMap<u64, Promise>,
    /// A commit failed since the store was last read, or the broker dies in the middle of things: the store may be behind.
    store_is_behind: bool,
    /// A commit failed: what its publisher sends again may come after what was stored later.
    order_is_lost: bool,
}

/// What is known of a message.
struct Promise {
    qos: QoS,
    acknowledged: bool,
    owed_to: BTreeSet<Incarnation>,
    allowed: BTreeSet<Incarnation>,
    /// Those who wanted it when it was first sent; others may get it late, when it is sent again.
    in_order: BTreeSet<Incarnation>,
}

impl Model {
    /// Starts a broker; so many bytes of what waits for a session stay in memory.
    pub(crate) fn new(shards: u16, clients: usize, session_queue_memory_bytes: usize) -> Self {
        let settings = Settings { shards, session_queue_memory_bytes, ..Settings::default() };
        let clients = NAMES[..clients].iter().map(|name| Client { name, ..Client::default() }).collect();
        Self {
            world: Some(World::with(settings)),
            clients,
            incarnations: 0,
            messages: BTreeMap::new(),
            store_is_behind: false,
            order_is_lost: false,
        }
    }

    fn world(&mut self) -> &mut World {
        self.world.as_mut().unwrap()
    }

    fn now_ms(&mut self) -> u64 {
        self.world().now().milliseconds()
    }

    fn next_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        self.incarnations
    }

    pub(crate) fn connect(&mut self, client: usize, clean_start: bool, expiry_seconds: u32, quota: u16) {
        self.end_expired();
        let name = self.clients[client].name;
        let mut connect = connect_v5(name, clean_start, expiry_seconds);
        connect.properties.receive_maximum = NonZeroU16::new(quota);
        let connection = self.world().connect(&Connect { ..connect });
        self.detached(client);
        if clean_start {
            self.ended(client);
        }
        let incarnation = self.next_incarnation();
        let state = &mut self.clients[client];
        state.may_have_returned &= !clean_start;
        let resumes = state.session.is_some();
        let session = state.session.get_or_insert_with(|| Session::new(incarnation));
        session.is_confirmed = false;
        session.ends_at_ms = None;
        state.connection = Some(Network {
            id: connection,
            is_ready: false,
            resumes,
            expiry_seconds,
            receive_maximum: usize::from(quota),
            holding: BTreeSet::new(),
            owes: VecDeque::new(),
            subscribing: VecDeque::new(),
            unsubscribing: VecDeque::new(),
        });
    }

    pub(crate) fn disconnect(&mut self, client: usize) {
        let Some(connection) = self.ready(client) else { return };
        self.world().send(connection, &Packet::Disconnect(Disconnect::default()));
        self.detached(client);
    }

    pub(crate) fn cut(&mut self, client: usize) {
        let Some(connection) = self.clients[client].connection.as_ref().map(|network| network.id) else {
            return;
        };
        self.world().cut(connection);
        self.detached(client);
    }

    pub(crate) fn subscribe(&mut self, client: usize, filter: usize, qos: QoS) {
        let Some(connection) = self.ready(client) else { return };
        let state = &mut self.clients[client];
        state.connection.as_mut().unwrap().subscribing.push_back((filter, qos));
        let session = state.session.as_mut().unwrap();
        let certainty = Certainty::InForce;
        session.subscriptions.insert(filter, Subscription { qos, certainty });
        self.world().subscribe(connection, FILTERS[filter], qos);
    }

    pub(crate) fn unsubscribe(&mut self, client: usize, filter: usize) {
        let Some(connection) = self.ready(client) else { return };
        let state = &mut self.clients[client];
        state.connection.as_mut().unwrap().unsubscribing.push_back(filter);
        let session = state.session.as_mut().unwrap();
        if let Some(gone) = session.subscriptions.remove(&filter) {
            session.leaving.insert(filter, gone.qos);
        }
        let mut filters = UnsubscribeFiltersBuf::default();
        filters.push(TopicFilter::new(FILTERS[filter]).unwrap());
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id: id(10),
            user: UserProperties::default(),
            filters: filters.as_filters(),
        });
        self.world().send(connection, &packet);
    }

    pub(crate) fn publish(&mut self, client: usize, topic: usize, qos: QoS) {
        let Some(connection) = self.ready(client) else { return };
        let number = self.messages.len() as u64 + 1;
        let nobody = BTreeSet::new;
        let promise =
            Promise { qos, acknowledged: false, owed_to: nobody(), allowed: nobody(), in_order: nobody() };
        self.messages.insert(number, promise);
        let state = &mut self.clients[client];
        let mut packet_id = 0;
        if qos != QoS::AtMostOnce {
            state.last_id += 1;
            packet_id = state.last_id;
            state.outgoing.push(Outgoing { packet_id, number, topic, qos, is_released: false });
        }
        self.note_publication(number, topic, qos, true);
        let payload = format!("{client} {topic} {number}");
        self.world().publish(connection, TOPICS[topic], &payload, qos, packet_id);
    }

    /// Notes who wants a message at the moment at which its PUBLISH is sent.
    fn note_publication(&mut self, number: u64, topic: usize, qos: QoS, is_first: bool) {
        let (mut owed_to, mut in_order) = (BTreeSet::new(), BTreeSet::new());
        let promise = self.messages.get_mut(&number).unwrap();
        for client in &self.clients {
            let Some(session) = &client.session else { continue };
            let is_there = client.connection.as_ref().is_some_and(|network| network.is_ready);
            let matching = session.subscriptions.iter().filter(|(filter, _)| MATCHES[**filter][topic]);
            for (_, subscription) in matching {
                promise.allowed.insert(session.incarnation);
                if subscription.certainty != Certainty::Unknown
                    && subscription.qos != QoS::AtMostOnce
                    && qos != QoS::AtMostOnce
                {
                    owed_to.insert(session.incarnation);
                }
                // A repetition is the first that somebody gets who was away, for whom no copy of QoS 0 is kept, or whose subscription
                // was not there yet.
                let may_have_missed_it = !is_there && subscription.qos.min(qos) == QoS::AtMostOnce
                    || subscription.certainty == Certainty::Unknown;
                if !may_have_missed_it {
                    in_order.insert(session.incarnation);
                }
            }
        }
        if is_first {
            promise.owed_to = owed_to;
            promise.in_order = in_order;
        } else {
            promise.owed_to.retain(|incarnation| owed_to.contains(incarnation));
        }
    }

    pub(crate) fn acknowledge(&mut self, client: usize, count: usize) {
        for _ in 0..count {
            let Some(connection) = self.ready(client) else { return };
            let state = &mut self.clients[client];
            let network = state.connection.as_mut().unwrap();
            let session = state.session.as_mut().unwrap();
            let Some((answer, packet_id)) = network.owes.pop_front() else { return };
            if !matches!(answer, Answer::Received) {
                network.holding.remove(&packet_id);
            }
            session.unanswered.remove(&packet_id);
            let packet = match answer {
                Answer::Taken => Packet::PubAck,
                Answer::Received => Packet::PubRec,
                Answer::Complete => Packet::PubComp,
            };
            self.world().ack(connection, packet, packet_id);
            self.read(client);
        }
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.world().pass(seconds * 1_000);
        self.end_expired();
    }

    pub(crate) fn hold_commits(&mut self) {
        self.world().commits_at_once = false;
        self.world().fetches_at_once = false;
    }

    pub(crate) fn commit(&mut self, batches: usize) {
        for _ in 0..batches {
            self.world().commit_one();
            self.world().fetch_one();
            self.read_everything();
        }
    }

    pub(crate) fn die_after(&mut self, effects: usize) {
        self.world().die_after(effects);
        self.store_is_behind = true;
    }

    pub(crate) fn fail_commits(&mut self, batches: usize, is_written: bool) {
        for _ in 0..batches {
            let world = self.world();
            let has_failed = if is_written { world.fail_one_after_writing() } else { world.fail_one() };
            self.store_is_behind |= has_failed;
            self.order_is_lost |= self.store_is_behind;
            self.world().fail_fetch();
            for client in 0..self.clients.len() {
                self.read(client);
                let closed = self.clients[client]
                    .connection
                    .as_ref()
                    .is_some_and(|network| self.world.as_ref().unwrap().is_closed(network.id));
                if closed {
                    self.detached(client);
                }
            }
        }
    }

    pub(crate) fn crash(&mut self, shards: u16) {
        self.read_everything();
        self.end_expired();
        let world = self.world.take().unwrap();
        let uncertain = self.store_is_behind || world.has_uncommitted();
        self.world = Some(world.crash(shards).0);
        self.store_is_behind = false;
        for client in 0..self.clients.len() {
            self.let_go(client);
            let state = &mut self.clients[client];
            state.may_have_returned |= uncertain && state.session.is_none();
            if let Some(session) = &mut state.session {
                session.survives_a_crash();
                session.may_end_late |= uncertain;
                if !session.is_confirmed {
                    state.session = None;
                    state.may_have_returned = true;
                    state.outgoing.clear();
                }
            }
        }
    }

    /// Connects everyone, answers everything, and checks that all promises were kept and that nothing is left over.
    pub(crate) fn conclude(mut self) {
        self.world().commits_at_once = true;
        self.world().fetches_at_once = true;
        self.world().commit();
        while self.world().fetch_one() {}
        self.read_everything();
        if self.store_is_behind {
            self.crash(2);
        }
        for client in 0..self.clients.len() {
            self.connect(client, false, 300, 3);
        }
        for _ in 0..3 {
            self.read_everything();
            for client in 0..self.clients.len() {
                self.acknowledge(client, usize::MAX);
            }
        }
        for client in &self.clients {
            let session = client.session.as_ref().unwrap();
            assert!(client.outgoing.is_empty(), "{} got no final answer", client.name);
            for (number, promise) in &self.messages {
                if promise.acknowledged && promise.owed_to.contains(&session.incarnation) {
                    assert!(session.seen.contains(number), "{} never got {number}", client.name);
                }
            }
        }
        let world = self.world();
        assert_eq!(world.stored_bodies(), 0, "bodies that nobody needs are still stored");
        for gauge in ["veilmq_queued_messages", "veilmq_queued_bytes", "veilmq_inflight_messages"] {
            assert_eq!(world.sample(gauge, ""), 0, "{gauge}");
        }
        assert_eq!(world.sample("veilmq_sessions", "connected"), self.clients.len() as u64);
        for client in 0..self.clients.len() {
            self.connect(client, true, 0, 1);
            self.cut(client);
        }
        let world = self.world();
        assert_eq!(world.sample("veilmq_sessions", "connected"), 0);
        assert_eq!(world.sample("veilmq_sessions", "disconnected"), 0);
        assert_eq!(world.sample("veilmq_subscriptions", ""), 0);
    }

    fn ready(&self, client: usize) -> Option<Conn> {
        self.clients[client].connection.as_ref().filter(|network| network.is_ready).map(|network| network.id)
    }

    /// Takes the connection from a client's session.
    fn detached(&mut self, client: usize) {
        self.read(client);
        self.let_go(client);
    }

    fn let_go(&mut self, client: usize) {
        let now_ms = self.now_ms();
        let state = &mut self.clients[client];
        let Some(network) = state.connection.take() else { return };
        let session = state.session.as_mut().unwrap();
        session.may_repeat_lost |= !network.is_ready;
        session.ends_at_ms =
            (network.expiry_seconds != u32::MAX).then(|| now_ms + u64::from(network.expiry_seconds) * 1_000);
        self.end_expired();
    }

    fn end_expired(&mut self) {
        let now_ms = self.now_ms();
        for client in 0..self.clients.len() {
            let session = self.clients[client].session.as_ref();
            if session.and_then(|session| session.ends_at_ms).is_some_and(|at| at <= now_ms) {
                self.ended(client);
            }
        }
    }

    fn ended(&mut self, client: usize) {
        let state = &mut self.clients[client];
        let ended = state.session.take();
        state.may_have_returned |= ended.is_some_and(|session| session.may_end_late);
        state.outgoing.clear();
    }

    pub(crate) fn read_everything(&mut self) {
        for client in 0..self.clients.len() {
            self.read(client);
        }
    }

    /// Lets a client act on what it has received.
    fn read(&mut self, client: usize) {
        loop {
            let Some(connection) = self.clients[client].connection.as_ref().map(|network| network.id) else {
                return;
            };
            let bytes = self.world().bytes(connection);
            if bytes.is_empty() {
                return;
            }
            let mut rest = &bytes[..];
            while let Some((frame, consumed)) = next_frame(rest, usize::MAX).unwrap() {
                rest = &rest[consumed..];
                let packet = Packet::decode(frame, ProtocolVersion::V5).unwrap();
                self.take(client, connection, &packet);
            }
            assert!(rest.is_empty(), "half a packet");
        }
    }

    fn take(&mut self, client: usize, connection: Conn, packet: &Packet<'_>) {
        match packet {
            Packet::ConnAck(connack) => self.connected(client, connection, connack.session_present),
            Packet::Publish(publish) => self.delivered(client, publish),
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                assert!(!ack.reason.is_error());
                let outgoing = &mut self.clients[client].outgoing;
                let Some(at) = outgoing.iter().position(|out| out.packet_id == ack.packet_id.value()) else {
                    panic!("an answer to nothing: {ack:?}");
                };
                self.messages.get_mut(&outgoing[at].number).unwrap().acknowledged = true;
                if matches!(packet, Packet::PubAck(_)) {
                    assert_eq!(outgoing.remove(at).qos, QoS::AtLeastOnce);
                } else {
                    assert_eq!(outgoing[at].qos, QoS::ExactlyOnce);
                    outgoing[at].is_released = true;
                    let packet_id = ack.packet_id.value();
                    self.release(connection, packet_id);
                }
            }
            Packet::PubRel(release) => {
                let packet_id = release.packet_id.value();
                let state = &mut self.clients[client];
                state.session.as_mut().unwrap().received.remove(&packet_id);
                state.connection.as_mut().unwrap().owes.push_back((Answer::Complete, packet_id));
            }
            Packet::PubComp(ack) => {
                let outgoing = &mut self.clients[client].outgoing;
                let at = outgoing.iter().position(|out| out.packet_id == ack.packet_id.value()).unwrap();
                assert!(outgoing.remove(at).is_released);
            }
            Packet::SubAck(_) => {
                let state = &mut self.clients[client];
                let (filter, qos) = state.connection.as_mut().unwrap().subscribing.pop_front().unwrap();
                if let Some(held) = state.session.as_mut().unwrap().subscriptions.get_mut(&filter)
                    && held.qos == qos
                {
                    held.certainty = Certainty::Told;
                }
            }
            Packet::UnsubAck(_) => {
                let state = &mut self.clients[client];
                let filter = state.connection.as_mut().unwrap().unsubscribing.pop_front().unwrap();
                state.session.as_mut().unwrap().leaving.remove(&filter);
            }
            Packet::Disconnect(disconnect) => {
                let reason = disconnect.reason;
                assert!(matches!(reason, ReasonCode::SessionTakenOver | ReasonCode::QuotaExceeded));
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn release(&mut self, connection: Conn, packet_id: u16) {
        let release = Acknowledgement::new(id(packet_id), ReasonCode::Success);
        self.world().send(connection, &Packet::PubRel(release));
    }

    /// Handles CONNACK: a client sends again what has no final answer, in order.
    fn connected(&mut self, client: usize, connection: Conn, present: bool) {
        let incarnation = self.next_incarnation();
        let state = &mut self.clients[client];
        let network = state.connection.as_mut().unwrap();
        network.is_ready = true;
        let session = state.session.as_mut().unwrap();
        if std::mem::take(&mut state.may_have_returned) && present {
            *session = Session::returned(incarnation);
        } else {
            assert_eq!(present, network.resumes, "session of {}", state.name);
        }
        session.is_confirmed = true;
        session.may_end_late = false;
        let again: Vec<(u16, u64, usize, QoS, bool)> = state
            .outgoing
            .iter()
            .map(|out| (out.packet_id, out.number, out.topic, out.qos, out.is_released))
            .collect();
        for (packet_id, number, topic, qos, is_released) in again {
            if is_released {
                self.release(connection, packet_id);
                continue;
            }
            self.note_publication(number, topic, qos, false);
            let payload = format!("{client} {topic} {number}");
            let publish = Publish { dup: true, ..publish(TOPICS[topic], &payload, qos, packet_id) };
            self.world().send(connection, &Packet::Publish(publish));
        }
    }

    /// Handles PUBLISH, checking it against what the client knows.
    fn delivered(&mut self, client: usize, publish: &Publish<'_>) {
        let state = &mut self.clients[client];
        let network = state.connection.as_mut().unwrap();
        let session = state.session.as_mut().unwrap();
        let text = String::from_utf8(publish.payload.to_vec()).unwrap();
        let parts: Vec<u64> = text.split(' ').map(|part| part.parse().unwrap()).collect();
        let (publisher, topic, number) = (parts[0], usize::try_from(parts[1]).unwrap(), parts[2]);
        let promise = &self.messages[&number];
        let allowed = promise.allowed.contains(&session.incarnation);
        assert!(allowed || session.is_wild, "{} got {number} without a subscription", state.name);
        if let Some(packet_id) = publish.packet_id {
            let packet_id = packet_id.value();
            // [MQTT-3.3.4-9]
            network.holding.insert(packet_id);
            assert!(network.holding.len() <= network.receive_maximum, "above the Receive Maximum");
            // [MQTT-2.2.1-4], [MQTT-3.3.1-1]
            let known = session.received.get(&packet_id).or(session.unanswered.get(&packet_id));
            match known {
                Some(known) => {
                    assert_eq!(*known, number, "an identifier in use was given to another message");
                    assert!(publish.dup, "sent again without DUP");
                }
                None => assert!(!publish.dup || session.may_repeat_lost, "DUP on what was never sent"),
            }
            session.unanswered.insert(packet_id, number);
        }
        match publish.qos {
            QoS::AtMostOnce => assert!(!publish.dup),
            QoS::AtLeastOnce => {
                network.owes.push_back((Answer::Taken, publish.packet_id.unwrap().value()));
            }
            QoS::ExactlyOnce => {
                let packet_id = publish.packet_id.unwrap().value();
                network.owes.push_back((Answer::Received, packet_id));
                if session.received.insert(packet_id, number).is_some() {
                    return;
                }
                assert!(session.twice.insert(number), "{} got QoS 2 message {number} twice", state.name);
            }
        }
        // [MQTT-4.6.0-5], [MQTT-4.6.0-6] Only repetitions may come after newer messages.
        let in_order = promise.in_order.contains(&session.incarnation) && !self.order_is_lost;
        if session.seen.insert(number) && in_order {
            let newest = session.newest.entry((publisher, topic, promise.qos, publish.qos)).or_default();
            assert!(number > *newest, "{} got {number} after {newest}", state.name);
            *newest = number;
        }
    }
}
