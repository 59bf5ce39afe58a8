//! A session of the model: what waits for a client, and what it has not answered.

use std::collections::HashMap;

use super::action::Will;
use super::moment::Moment;
use super::packet::{self, Packet, Properties, Publish};
use super::share::{Place, Rank};
use super::wire::Wire;

/// An Application Message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// When it came, in milliseconds.
    pub(super) arrived_at: u64,
    pub(super) expiry_seconds: Option<u32>,
    pub(super) properties: Properties,
}

impl Message {
    /// [MQTT-3.3.2-5]
    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.expiry_seconds.is_some_and(|seconds| now - self.arrived_at >= u64::from(seconds) * 1_000)
    }

    /// [MQTT-3.3.2-6]
    fn remaining_seconds(&self, now: u64) -> Option<u32> {
        let waited = u32::try_from((now - self.arrived_at) / 1_000).unwrap();
        self.expiry_seconds.map(|seconds| seconds.saturating_sub(waited))
    }
}

/// A message on its way to one session.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(super) message: Message,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) subscription_ids: Vec<u32>,
    pub(super) moment: Moment,
    /// It is the copy of a group, if it is here.
    pub(super) place: Option<Place>,
}

/// A delivery that the client has begun to receive.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) id: u16,
    pub(crate) delivery: Delivery,
    /// PUBREC came, so it is PUBREL that is repeated from now on.
    pub(crate) is_released: bool,
    /// Its current packet was sent on this connection.
    is_sent: bool,
    /// A packet of it was sent on this connection, so it takes one of the client's Receive Maximum.
    pub(crate) is_charged: bool,
}

/// What a session asked for with a Topic Filter.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(super) filter: String,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) id: Option<u32>,
}

/// The connection of a session.
pub(crate) struct Link {
    pub(super) connection: packet::Connection,
    pub(super) is_v5: bool,
    pub(super) receive_maximum: usize,
    pub(super) keep_alive_seconds: u16,
    pub(super) heard_at: u64,
    /// The client's own aliases.
    pub(super) aliases: HashMap<u16, String>,
}

/// Session State.
pub(crate) struct Session {
    pub(super) link: Option<Link>,
    /// It survives a restart of the broker.
    pub(super) is_stored: bool,
    pub(super) expiry_seconds: u32,
    pub(super) gone_at: Option<u64>,
    pub(super) will: Option<Will>,
    pub(super) subscriptions: Vec<Subscription>,
    /// QoS 2 identifiers of the client that await PUBREL.
    pub(super) received: Vec<u16>,
    pub(super) in_flight: Vec<Exchange>,
    pub(super) queue: Vec<Delivery>,
    /// Messages of QoS 0, until they are sent at once, or to a client that was absent.
    unassured: Vec<Delivery>,
    /// Those of QoS 0 wait for an absent client too.
    queues_qos0: bool,
    /// Another message would have been sent at once when this moment began.
    pub(super) was_ready: bool,
}

impl Session {
    pub(super) fn new(is_stored: bool, queues_qos0: bool) -> Self {
        Self {
            queues_qos0,
            link: None,
            is_stored,
            expiry_seconds: 0,
            gone_at: None,
            will: None,
            subscriptions: Vec::new(),
            received: Vec::new(),
            in_flight: Vec::new(),
            queue: Vec::new(),
            unassured: Vec::new(),
            was_ready: false,
        }
    }

    /// Starts a connection: everything unanswered is to be sent again ([MQTT-4.4.0-1]).
    pub(super) fn connected(&mut self, link: Link) {
        self.link = Some(link);
        self.gone_at = None;
        for exchange in &mut self.in_flight {
            exchange.is_sent = false;
            exchange.is_charged = false;
        }
    }

    /// The broker has died, and what was in its memory alone with it.
    pub(super) fn restarted(&mut self, now: u64) {
        self.unassured.clear();
        if self.link.take().is_some() {
            self.gone_at = Some(now);
        }
    }

    /// Returns when the session ends, in milliseconds.
    pub(super) fn ends_at(&self) -> Option<u64> {
        let gone_at = self.gone_at?;
        (self.expiry_seconds != u32::MAX).then(|| gone_at + u64::from(self.expiry_seconds) * 1_000)
    }

    /// Returns when the Will is due, unless the session ends before.
    pub(super) fn will_at(&self) -> Option<u64> {
        Some(self.gone_at? + u64::from(self.will.as_ref()?.delay_seconds) * 1_000)
    }

    /// Returns when the client has been silent for too long ([MQTT-3.1.2-22]).
    pub(super) fn silent_at(&self) -> Option<u64> {
        let link = self.link.as_ref().filter(|link| link.keep_alive_seconds > 0)?;
        Some(link.heard_at + u64::from(link.keep_alive_seconds) * 1_500)
    }

    /// Tells whether a message of QoS 1 or 2 would be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        let has_room = self.link.as_ref().is_some_and(|link| self.in_flight.len() < link.receive_maximum);
        has_room && !self.is_behind()
    }

    /// Tells whether messages of earlier connections have to be sent first.
    fn is_behind(&self) -> bool {
        self.in_flight.iter().any(|exchange| !exchange.is_sent && !exchange.is_released)
    }

    /// Returns how good a choice this member of a group is: the best and the worst that the one who chooses may see, because
    /// word of what else happens at this moment may not have reached it, and what waits may not be here.
    pub(super) fn rank(&self, qos: u8) -> (Rank, Rank) {
        let is_ready_at_worst =
            |link: &Link| self.is_ready() && self.in_flight.len() + self.queue.len() < link.receive_maximum;
        match (&self.link, qos) {
            (Some(_), 0) => (Rank::Ready, Rank::Ready),
            (Some(link), _) if is_ready_at_worst(link) => (Rank::Ready, Rank::Ready),
            (Some(_), _) if self.was_ready || self.is_ready() => (Rank::Ready, Rank::Busy),
            (Some(_), _) => (Rank::Busy, Rank::Busy),
            (None, 0) => (Rank::Unreachable, Rank::Unreachable),
            (None, _) => (Rank::Away, Rank::Away),
        }
    }

    /// Returns what other members of its groups may have of a session that has ended: all but QoS 2 messages that the client
    /// has seen ([MQTT-4.8.2-5]). Their moments say in which order the session had them: those that were sent first.
    pub(super) fn into_transferable(self) -> Vec<Delivery> {
        let moved = |delivery: Delivery, moment| Delivery { moment, ..delivery };
        let unanswered = self.in_flight.into_iter().filter(|exchange| exchange.delivery.qos == 1);
        let sent = (0..).zip(unanswered).map(|(nth, exchange)| moved(exchange.delivery, Moment::nth(nth)));
        let mut deliveries: Vec<Delivery> = sent.collect();
        let after = Moment::nth(deliveries.len() as u64);
        deliveries.extend(self.queue.into_iter().map(|delivery| {
            let moment = delivery.moment.within(&after);
            moved(delivery, moment)
        }));
        deliveries
    }

    /// Takes a message in for [`Session::send_due`]: one of QoS 0 may go out at once or never, others wait.
    pub(super) fn deliver(&mut self, delivery: Delivery, now: u64) {
        if delivery.message.is_expired(now) {
            return;
        }
        match (delivery.qos, &self.link) {
            (0, None) if !self.queues_qos0 => {}
            (0, _) => self.unassured.push(delivery),
            (_, _) => self.queue.push(delivery),
        }
    }

    /// Sends everything that may be sent now.
    pub(super) fn send_due(&mut self, now: u64, wire: &mut Wire) {
        while self.send_unassured(now, wire) || self.send_again(now, wire) || self.send_new(now, wire) {}
    }

    /// Sends one packet of an exchange that was begun before; false if there is none.
    fn send_again(&mut self, now: u64, wire: &mut Wire) -> bool {
        let Some(link) = &self.link else { return false };
        let charged = self.in_flight.iter().filter(|exchange| exchange.is_charged).count();
        // [MQTT-3.3.4-9], [MQTT-3.3.4-10]
        let has_room = charged < link.receive_maximum;
        let may_go = |exchange: &&Exchange| !exchange.is_sent && (exchange.is_released || has_room);
        // The oldest is first, among PUBREL packets and among messages of one QoS.
        let is_first = |exchange: &&Exchange| {
            let mut alike = self.in_flight.iter().filter(|other| other.kind() == exchange.kind());
            alike.find(may_go).is_some_and(|first| first.id == exchange.id)
        };
        let due: Vec<&Exchange> = self.in_flight.iter().filter(may_go).filter(is_first).collect();
        let packets: Vec<Packet> = due.iter().map(|exchange| exchange.packet_again(link, now)).collect();
        if packets.is_empty() {
            return false;
        }
        let first = wire.first_seen(link.connection, &packets).unwrap_or(0);
        wire.send(link.connection, packets[first].clone());
        let id = due[first].id;
        for exchange in self.in_flight.iter_mut().filter(|exchange| exchange.id == id) {
            exchange.is_sent = true;
            exchange.is_charged = true;
        }
        true
    }

    /// Sends the next message of QoS 0; false if none is here.
    fn send_unassured(&mut self, now: u64, wire: &mut Wire) -> bool {
        let Some(link) = &self.link else { return false };
        let Some(delivery) = take_next(&mut self.unassured, link, now, wire) else { return false };
        wire.publish(link.connection, link.publish(&delivery, false, now));
        true
    }

    /// Sends the next message that waits; false if none may go or none is here.
    fn send_new(&mut self, now: u64, wire: &mut Wire) -> bool {
        let Some(link) = self.link.as_ref().filter(|_| self.is_ready()) else { return false };
        let Some(delivery) = take_next(&mut self.queue, link, now, wire) else { return false };
        let id = wire.publish(link.connection, link.publish(&delivery, false, now));
        // [MQTT-2.2.1-4]
        let is_in_use = id != 0 && self.exchange(id).is_some();
        assert!(!is_in_use, "identifier {id} is in use");
        self.in_flight.push(Exchange { id, delivery, is_released: false, is_sent: true, is_charged: true });
        true
    }

    /// Finds the exchange that an acknowledgement names.
    pub(super) fn exchange(&self, id: u16) -> Option<usize> {
        self.in_flight.iter().position(|exchange| exchange.id == id)
    }

    /// The client has taken the message over (PUBREC).
    pub(super) fn release(&mut self, index: usize) {
        self.in_flight[index].is_released = true;
        self.in_flight[index].is_sent = false;
    }
}

/// Takes the delivery that goes next, of those that may go now; None if none is here.
///
/// It is one that was seen to go next, and behind no other that must be here. Which of the others are not here shows thereby:
/// those that would have gone before it. A copy that was seen may be here for several reasons, as when the session has it from
/// one that ended or has had it from the beginning; what goes before it then has to do so whatever the reason. It may also look
/// like the retained message that a subscription brought later: then it is here if there are packets enough for both.
fn take_next(waiting: &mut Vec<Delivery>, link: &Link, now: u64, wire: &mut Wire) -> Option<Delivery> {
    waiting.retain(|delivery| !delivery.message.is_expired(now) && wire.copies.is_possible(delivery));
    let packet = |delivery: &Delivery| Packet::Publish(link.publish(delivery, false, now));
    let may_go = |delivery: &Delivery| {
        let mut ahead = waiting.iter().filter(|other| other.moment.precedes(&delivery.moment));
        !ahead.any(|other| wire.copies.is_certain(other))
    };
    let may_be_seen = |delivery: &Delivery| {
        let certain = waiting.iter().filter(|other| wire.copies.is_certain(other));
        let taken = certain.filter(|other| packet(other) == packet(delivery)).count();
        wire.copies.is_certain(delivery) || wire.seen_like(link.connection, &packet(delivery)) > taken
    };
    let may_be_next = |index: &usize| may_go(&waiting[*index]) && may_be_seen(&waiting[*index]);
    let first: Vec<usize> = (0..waiting.len()).filter(may_be_next).collect();
    let packets: Vec<Packet> = first.iter().map(|index| packet(&waiting[*index])).collect();
    let is_certain = |index: &usize| wire.copies.is_certain(&waiting[*index]);
    let next = wire.next_seen(link.connection, &packets).or_else(|| first.iter().position(is_certain));
    let Some(next) = next else {
        waiting.drain(..).for_each(|delivery| wire.settle(&delivery, false));
        return None;
    };
    let moments: Vec<Moment> = waiting
        .iter()
        .filter(|delivery| packet(delivery) == packets[next])
        .map(|delivery| delivery.moment.clone())
        .collect();
    let delivery = waiting.remove(first[next]);
    wire.settle(&delivery, true);
    for other in waiting.iter() {
        let is_ahead = moments.iter().all(|moment| other.moment.precedes(moment));
        let is_late = other.qos == delivery.qos || wire.seen_like(link.connection, &packet(other)) == 0;
        if is_ahead && is_late {
            wire.settle(other, false);
        }
    }
    Some(delivery)
}

impl Exchange {
    fn kind(&self) -> (bool, u8) {
        (self.is_released, self.delivery.qos)
    }

    /// Returns what is sent of this exchange on a new connection.
    fn packet_again(&self, link: &Link, now: u64) -> Packet {
        if self.is_released {
            return Packet::PubRel { id: self.id, reason: 0 };
        }
        Packet::Publish(Publish { id: self.id, ..link.publish(&self.delivery, true, now) })
    }
}

impl Link {
    /// Returns a delivery as this client gets it, without Packet Identifier.
    fn publish(&self, delivery: &Delivery, dup: bool, now: u64) -> Publish {
        let message = &delivery.message;
        let publish = Publish {
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            id: 0,
            subscription_ids: delivery.subscription_ids.clone(),
            expiry_seconds: message.remaining_seconds(now),
            properties: message.properties.clone(),
        };
        if self.is_v5 {
            return publish;
        }
        // MQTT 3.1.1 has no properties.
        let properties = Properties::default();
        Publish { subscription_ids: Vec::new(), expiry_seconds: None, properties, ..publish }
    }
}
