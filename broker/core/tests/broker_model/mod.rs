//! A whole MQTT broker, as plainly as it can be written: the reference that the core is compared with.
//!
//! Sessions by Client Identifier, retained messages by topic, a clock. No shards, no store, no index, no cache: every
//! subscription is tried for every message. What a broker may choose it takes from what was seen (`wire`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod action;
mod moment;
mod packet;
mod run;
mod session;
mod share;
mod topics;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::action::{Alias, Connect, Options, Publication, Will};
use self::moment::Moment;
use self::packet::{Connection, Packet, Properties};
pub(crate) use self::run::Run;
use self::session::{Delivery, Link, Message, Session, Subscription};
use self::share::{Place, Rank, shared_filter};
use self::topics::matches;
use self::wire::Wire;

/// The Topic Alias Maximum of the broker.
const ALIAS_MAXIMUM: u16 = 16;

/// The model of a broker.
pub(crate) struct Broker {
    /// Milliseconds.
    now: u64,
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Message>,
    wire: Wire,
    /// Now, among the moments at which something happens.
    moment: Moment,
    /// The client whose session is about to end.
    ending: Option<String>,
    /// Messages of QoS 0 wait for absent clients.
    queues_qos0: bool,
}

/// What a client answers to a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// PUBACK
    Taken,
    /// PUBREC
    Received,
    /// PUBCOMP
    Complete,
}

/// When the broker acts on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Silence,
    SessionEnd,
    Will,
}

impl Broker {
    pub(crate) fn new(now: u64, queues_qos0: bool) -> Self {
        Self {
            queues_qos0,
            now,
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            wire: Wire::default(),
            moment: Moment::nth(0),
            ending: None,
        }
    }

    /// Handles CONNECT.
    pub(crate) fn connect(&mut self, client: &str, connection: Connection, connect: &Connect) {
        self.moment = self.moment.next();
        // [MQTT-3.1.4-3]
        self.close(client, 0x8e);
        if connect.clean_start {
            self.end_session(client);
        }
        let present = self.sessions.contains_key(client);
        self.wire.send(connection, Packet::ConnAck { present, reason: 0 });
        let is_stored = connect.expiry_seconds > 0;
        let begin = || Session::new(is_stored, self.queues_qos0);
        let session = self.sessions.entry(client.to_owned()).or_insert_with(begin);
        session.expiry_seconds = connect.expiry_seconds;
        session.will = connect.will.clone();
        session.connected(Link {
            connection,
            is_v5: connect.is_v5,
            receive_maximum: usize::from(connect.receive_maximum),
            keep_alive_seconds: connect.keep_alive_seconds,
            heard_at: self.now,
            aliases: HashMap::new(),
        });
        self.send_due();
    }

    /// Handles DISCONNECT.
    pub(crate) fn disconnect(&mut self, client: &str, with_will: bool, expiry_seconds: Option<u32>) {
        let session = self.heard(client);
        if let Some(seconds) = expiry_seconds {
            // Section 3.14.2.2.2
            if session.expiry_seconds == 0 && seconds > 0 {
                return self.close(client, 0x82);
            }
            session.expiry_seconds = seconds;
        }
        // [MQTT-3.14.4-3]
        if !with_will {
            session.will = None;
        }
        let connection = session.link.as_ref().unwrap().connection;
        self.wire.send(connection, Packet::Closed);
        self.detach(client);
    }

    /// The connection broke.
    pub(crate) fn cut(&mut self, client: &str) {
        self.moment = self.moment.next();
        let connection = self.sessions[client].link.as_ref().unwrap().connection;
        self.wire.send(connection, Packet::Closed);
        self.detach(client);
    }

    /// Handles PINGREQ.
    pub(crate) fn ping(&mut self, client: &str) {
        self.heard(client);
        self.answer(client, Packet::PingResp);
    }

    /// Handles SUBSCRIBE.
    pub(crate) fn subscribe(
        &mut self,
        client: &str,
        packet_id: u16,
        id: Option<u32>,
        filters: &[(&str, Options)],
    ) {
        let session = self.heard(client);
        let mut reasons = Vec::new();
        let mut wanted = Vec::new();
        for (filter, options) in filters {
            let subscription = Subscription {
                filter: (*filter).to_owned(),
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id,
            };
            reasons.push(options.qos);
            let held = session.subscriptions.iter_mut().find(|held| held.filter == *filter);
            let is_new = held.is_none();
            // [MQTT-3.8.4-3]
            match held {
                Some(held) => *held = subscription.clone(),
                None => session.subscriptions.push(subscription.clone()),
            }
            // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
            let wants = options.retain_handling == 0 || (options.retain_handling == 1 && is_new);
            if wants && shared_filter(filter).is_none() {
                wanted.push(subscription);
            }
        }
        self.answer(client, Packet::SubAck { id: packet_id, reasons });
        for subscription in wanted {
            self.deliver_retained(client, &subscription);
        }
        self.send_due();
    }

    fn deliver_retained(&mut self, client: &str, subscription: &Subscription) {
        let session = self.sessions.get_mut(client).unwrap();
        for message in self.retained.values().filter(|held| matches(&subscription.filter, &held.topic)) {
            let delivery = Delivery {
                message: message.clone(),
                qos: message.qos.min(subscription.qos),
                // [MQTT-3.3.1-8]
                retain: true,
                subscription_ids: subscription.id.into_iter().collect(),
                moment: self.moment.clone(),
                place: None,
            };
            session.deliver(delivery, self.now);
        }
    }

    /// Handles UNSUBSCRIBE.
    pub(crate) fn unsubscribe(&mut self, client: &str, packet_id: u16, filters: &[String]) {
        let session = self.heard(client);
        let mut reasons = Vec::new();
        for filter in filters {
            let before = session.subscriptions.len();
            session.subscriptions.retain(|held| held.filter != *filter);
            reasons.push(if session.subscriptions.len() < before { 0x00 } else { 0x11 });
        }
        self.answer(client, Packet::UnsubAck { id: packet_id, reasons });
    }

    /// Handles PUBLISH.
    pub(crate) fn publish(&mut self, client: &str, publication: &Publication) {
        let session = self.heard(client);
        let link = session.link.as_mut().unwrap();
        let topic = match publication.alias {
            Alias::None => publication.topic.to_owned(),
            // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
            Alias::Bind(alias) | Alias::Use(alias) if alias > ALIAS_MAXIMUM => {
                return self.close(client, 0x94);
            }
            Alias::Bind(alias) => {
                link.aliases.insert(alias, publication.topic.to_owned());
                publication.topic.to_owned()
            }
            Alias::Use(alias) => match link.aliases.get(&alias) {
                Some(topic) => topic.clone(),
                None => return self.close(client, 0x82),
            },
        };
        let id = publication.id;
        // [MQTT-4.3.3-10]
        if publication.qos == 2 && session.received.contains(&id) {
            return self.answer(client, Packet::PubRec { id, reason: 0 });
        }
        // Nobody but the broker publishes there.
        let reason =
            if topic.starts_with("$SYS/") { Some(0x87) } else { self.accept(client, topic, publication) };
        match (publication.qos, reason) {
            (1, Some(reason)) => self.answer(client, Packet::PubAck { id, reason }),
            (2, Some(reason)) => self.answer(client, Packet::PubRec { id, reason }),
            _ => {}
        }
    }

    /// Takes a message in, and returns the Reason Code of its acknowledgement if that is still to be sent.
    fn accept(&mut self, client: &str, topic: String, publication: &Publication) -> Option<u8> {
        if publication.qos == 2 {
            let id = publication.id;
            self.sessions.get_mut(client).unwrap().received.push(id);
            // It goes before the message, and does not say whether anybody wants that.
            self.answer(client, Packet::PubRec { id, reason: 0 });
        }
        let message = Message {
            topic,
            payload: publication.payload.clone(),
            qos: publication.qos,
            retain: publication.retain,
            arrived_at: self.now,
            expiry_seconds: publication.expiry_seconds,
            properties: properties(publication.has_properties, &publication.payload),
        };
        let is_wanted = self.distribute(client, &message);
        (publication.qos != 2).then_some(if is_wanted { 0x00 } else { 0x10 })
    }

    /// Gives a message to everybody who wants it; false if nobody does.
    fn distribute(&mut self, publisher: &str, message: &Message) -> bool {
        if message.retain {
            // [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]
            self.retained.remove(&message.topic);
            if !message.payload.is_empty() {
                self.retained.insert(message.topic.clone(), message.clone());
            }
        }
        // The choices among members are made before anybody gets the message.
        let groups = self.groups_wanting(&message.topic);
        let chosen: Vec<_> =
            groups.iter().map(|group| (group, self.may_be_chosen(group, message.qos))).collect();
        let mut is_wanted = !groups.is_empty();
        for (client, session) in &mut self.sessions {
            let wants = |held: &&Subscription| {
                shared_filter(&held.filter).is_none() && matches(&held.filter, &message.topic)
            };
            let wanting: Vec<&Subscription> = session.subscriptions.iter().filter(wants).collect();
            // Whoever has subscribed wants the topic, though perhaps not this message.
            is_wanted |= !wanting.is_empty();
            // [MQTT-3.8.3-3]
            let matching = wanting.into_iter().filter(|held| !(held.no_local && client == publisher));
            let matching: Vec<&Subscription> = matching.collect();
            // [MQTT-3.3.4-2], [MQTT-3.8.4-8]
            let Some(highest) = matching.iter().map(|held| held.qos).max() else { continue };
            let mut subscription_ids: Vec<u32> = matching.iter().filter_map(|held| held.id).collect();
            subscription_ids.sort_unstable();
            let delivery = Delivery {
                message: message.clone(),
                qos: highest.min(message.qos),
                // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
                retain: message.retain && matching.iter().any(|held| held.retain_as_published),
                subscription_ids,
                moment: self.moment.clone(),
                place: None,
            };
            session.deliver(delivery, self.now);
        }
        for (group, members) in chosen {
            let places = self.wire.copies.add(group, members.len());
            self.deliver_copy(message, &members, places, &self.moment.clone());
        }
        self.send_due();
        is_wanted
    }

    /// Returns the groups of Shared Subscriptions that want a topic.
    fn groups_wanting(&self, topic: &str) -> BTreeSet<String> {
        let subscriptions = self.sessions.values().flat_map(|session| &session.subscriptions);
        let wanting = subscriptions
            .filter(|held| shared_filter(&held.filter).is_some_and(|filter| matches(filter, topic)));
        wanting.map(|held| held.filter.clone()).collect()
    }

    /// Returns the members of a group that may get its copy of a message: the best that the one who chooses may see, without
    /// those whose sessions are about to end.
    fn may_be_chosen(&self, group: &str, published_qos: u8) -> Vec<String> {
        let mut ranks: Vec<(&String, (Rank, Rank))> = Vec::new();
        let is_ending = |client: &String, session: &Session| {
            self.ending.as_ref() == Some(client) || session.ends_at().is_some_and(|at| at <= self.now)
        };
        for (client, session) in self.sessions.iter().filter(|(client, session)| !is_ending(client, session))
        {
            let part = session.subscriptions.iter().find(|held| held.filter == group);
            ranks.extend(part.map(|held| (client, session.rank(held.qos.min(published_qos)))));
        }
        let limit = ranks.iter().map(|(_, (_, worst))| *worst).min();
        let may_be = |rank: Rank| rank != Rank::Unreachable && limit.is_some_and(|limit| rank <= limit);
        ranks.into_iter().filter(|(_, (best, _))| may_be(*best)).map(|(client, _)| client.clone()).collect()
    }

    /// Gives a group's copy to the member that was chosen, whichever that is.
    fn deliver_copy(&mut self, message: &Message, members: &[String], places: Vec<Place>, moment: &Moment) {
        for (client, place) in members.iter().zip(places) {
            let session = self.sessions.get_mut(client).unwrap();
            let held = session.subscriptions.iter().find(|held| held.filter == place.group).unwrap();
            let delivery = Delivery {
                message: message.clone(),
                // [MQTT-4.8.2-3]
                qos: held.qos.min(message.qos),
                retain: message.retain && held.retain_as_published,
                subscription_ids: held.id.into_iter().collect(),
                moment: moment.clone(),
                place: Some(place),
            };
            session.deliver(delivery, self.now);
        }
    }

    /// Handles PUBREL.
    pub(crate) fn release(&mut self, client: &str, id: u16) {
        let received = &mut self.heard(client).received;
        let is_known = received.contains(&id);
        received.retain(|held| *held != id);
        self.answer(client, Packet::PubComp { id, reason: if is_known { 0x00 } else { 0x92 } });
    }

    /// Handles PUBACK, PUBREC and PUBCOMP.
    pub(crate) fn acknowledge(&mut self, client: &str, answer: Answer, id: u16, is_error: bool) {
        let session = self.heard(client);
        let exchange = session.exchange(id);
        let state = exchange.map(|index| {
            let exchange = &session.in_flight[index];
            (index, exchange.delivery.qos, exchange.is_released)
        });
        match (answer, state) {
            (Answer::Taken | Answer::Complete, None) => {}
            (Answer::Received, None) => self.answer(client, Packet::PubRel { id, reason: 0x92 }),
            // [MQTT-4.4.0-2] An error ends the exchange as success does.
            (Answer::Taken, Some((index, 1, _))) | (Answer::Complete, Some((index, 2, true))) => {
                session.in_flight.remove(index);
            }
            (Answer::Received, Some((index, 2, _))) if is_error => {
                session.in_flight.remove(index);
            }
            (Answer::Received, Some((index, 2, _))) => session.release(index),
            (Answer::Taken | Answer::Received | Answer::Complete, Some(_)) => {
                return self.close(client, 0x82);
            }
        }
        self.send_due();
    }

    /// Lets time pass, acting on each deadline on the way.
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let until = self.now + milliseconds;
        while let Some((at, client, deadline)) = self.next_deadline().filter(|(at, ..)| *at <= until) {
            if at > self.now {
                self.now = at;
                self.moment = self.moment.next();
                self.begin_turn();
            }
            self.moment = self.moment.with_next_cause();
            match deadline {
                Deadline::Silence => self.close(&client, 0x8d),
                Deadline::SessionEnd => self.end_session(&client),
                Deadline::Will => self.publish_will(&client),
            }
        }
        self.now = until;
    }

    fn next_deadline(&self) -> Option<(u64, String, Deadline)> {
        let mut deadlines = Vec::new();
        for (client, session) in &self.sessions {
            let of_session = [
                (session.silent_at(), Deadline::Silence),
                (session.ends_at(), Deadline::SessionEnd),
                (session.will_at(), Deadline::Will),
            ];
            for (at, deadline) in of_session {
                deadlines.extend(at.map(|at| (at, client.clone(), deadline)));
            }
        }
        deadlines.into_iter().min()
    }

    /// Kills the broker and starts it again: all connections are gone, and the sessions that end with theirs.
    pub(crate) fn restart(&mut self) {
        self.moment = self.moment.next();
        for session in self.sessions.values().filter(|session| !session.is_stored) {
            session.queue.iter().for_each(|delivery| self.wire.copies.lose(delivery));
        }
        self.sessions.retain(|_, session| session.is_stored);
        self.sessions.values_mut().for_each(|session| session.restarted(self.now));
        // Wills without delay are due at once.
        self.pass(0);
    }

    /// Returns the session of a client, if it is connected.
    pub(crate) fn connected(&self, client: &str) -> Option<&Session> {
        self.sessions.get(client).filter(|session| session.link.is_some())
    }

    /// Returns how many retained messages have not expired, or not so many milliseconds ago.
    pub(crate) fn retained_since(&self, milliseconds: u64) -> usize {
        let expiry_of = |message: &Message| Some(u64::from(message.expiry_seconds?) * 1_000);
        let is_over = |message: &&Message| {
            expiry_of(message).is_some_and(|expiry| self.now - message.arrived_at >= expiry + milliseconds)
        };
        self.retained.values().filter(|message| !is_over(message)).count()
    }

    /// Sends everything that may be sent.
    fn send_due(&mut self) {
        for session in self.sessions.values_mut() {
            session.send_due(self.now, &mut self.wire);
        }
    }

    /// Begins a turn of the broker. Until it ends, word of what it sends to one client may not reach the others.
    fn begin_turn(&mut self) {
        for session in self.sessions.values_mut() {
            session.was_ready = session.is_ready();
        }
    }

    /// Notes that a client has sent something.
    fn heard(&mut self, client: &str) -> &mut Session {
        self.moment = self.moment.next();
        let session = self.sessions.get_mut(client).unwrap();
        session.link.as_mut().unwrap().heard_at = self.now;
        session
    }

    /// Sends a packet that is no PUBLISH to a client, as its protocol version has it.
    fn answer(&mut self, client: &str, packet: Packet) {
        let link = self.sessions[client].link.as_ref().unwrap();
        let packet = match packet {
            packet if link.is_v5 => packet,
            Packet::PubAck { id, .. } => Packet::PubAck { id, reason: 0 },
            Packet::PubRec { id, .. } => Packet::PubRec { id, reason: 0 },
            Packet::PubRel { id, .. } => Packet::PubRel { id, reason: 0 },
            Packet::PubComp { id, .. } => Packet::PubComp { id, reason: 0 },
            Packet::UnsubAck { id, .. } => Packet::UnsubAck { id, reasons: Vec::new() },
            packet => packet,
        };
        self.wire.send(link.connection, packet);
    }

    /// Closes the connection of a client, if it has one, with a farewell where there is a word for it.
    fn close(&mut self, client: &str, reason: u8) {
        let Some(link) = self.sessions.get(client).and_then(|session| session.link.as_ref()) else { return };
        let connection = link.connection;
        if link.is_v5 {
            self.wire.send(connection, Packet::Disconnect { reason });
        }
        self.wire.send(connection, Packet::Closed);
        self.detach(client);
    }

    /// Takes the connection from a session.
    fn detach(&mut self, client: &str) {
        let session = self.sessions.get_mut(client).unwrap();
        session.link = None;
        session.gone_at = Some(self.now);
        // What is due is due now: the end of the session, or a Will without delay.
        if session.ends_at() == Some(self.now) {
            self.end_session(client);
        } else if session.will_at() == Some(self.now) {
            self.publish_will(client);
        }
    }

    /// Ends a session, and publishes its Will if that has not been done ([MQTT-3.1.2-8]). What it has as a member of groups then
    /// goes to others, in order.
    fn end_session(&mut self, client: &str) {
        if !self.sessions.contains_key(client) {
            return;
        }
        self.ending = Some(client.to_owned());
        self.publish_will(client);
        self.ending = None;
        let session = self.sessions.remove(client).unwrap();
        let mut copies = session.into_transferable();
        copies.retain(|copy| copy.place.is_some() && self.wire.copies.is_possible(copy));
        while !copies.is_empty() {
            // What has no order is given out before anything is sent.
            let count = leading(&copies);
            copies.drain(..count).for_each(|copy| self.pass_on(copy));
            self.send_due();
        }
    }

    /// Gives a copy that a session had when it ended to another member of its group.
    fn pass_on(&mut self, copy: Delivery) {
        let is_here = self.wire.copies.is_possible(&copy);
        let Delivery { message, place, moment, .. } = copy;
        let Some(place) = place.filter(|_| is_here) else { return };
        let members = self.may_be_chosen(&place.group, message.qos);
        let places = self.wire.copies.pass_on(&place, members.len());
        self.deliver_copy(&message, &members, places, &moment.within(&self.moment));
    }

    fn publish_will(&mut self, client: &str) {
        let Some(will) = self.sessions.get_mut(client).unwrap().will.take() else { return };
        let message = will_message(&will, self.now);
        self.distribute(client, &message);
    }
}

/// Returns how many deliveries at least have to go before all others.
fn leading(deliveries: &[Delivery]) -> usize {
    let is_ahead = |at: &usize| {
        let (earlier, later) = deliveries.split_at(*at);
        earlier.iter().all(|first| later.iter().all(|second| first.moment.precedes(&second.moment)))
    };
    (1..deliveries.len()).find(is_ahead).unwrap_or(deliveries.len())
}

fn will_message(will: &Will, now: u64) -> Message {
    Message {
        topic: will.topic.to_owned(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        arrived_at: now,
        expiry_seconds: will.expiry_seconds,
        properties: properties(will.has_properties, &will.payload),
    }
}

/// The properties that clients of a run give to a message.
fn properties(has_properties: bool, payload: &str) -> Properties {
    if !has_properties {
        return Properties::default();
    }
    Properties {
        is_utf8: Some(true),
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("answers".to_owned()),
        correlation_data: Some(payload.as_bytes().to_vec()),
        user: vec![("key".to_owned(), "1".to_owned()), ("key".to_owned(), "2".to_owned())],
    }
}
