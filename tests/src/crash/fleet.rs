//! Many connections to one broker that is killed while they work, and the questions that are asked when it is back.
//!
//! Three publishers; subscribers that are always there, that nap, that take QoS 1 alone, and two that share; a client that
//! changes its subscriptions; two with Wills. All have sessions that outlive their connections.
//! Invariant: nobody publishes before every subscriber was acknowledged, so that each is owed every message.

use std::collections::BTreeMap;
use std::io::Result;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::clients::{Changer, PUBACK, Phase, Subscriber, WillHolder, in_time, unexpected};
use super::dice::Dice;
use super::ledger::Ledger;
use super::log::{Log, PATIENCE, Position};
use super::publisher::Publisher;
use super::traffic::PUBLISHERS;
use crate::broker::Broker;
use crate::wire::{Published, Wire, connect_packet, packet, publish_packet, push_string};

/// Topic Filters with their Maximum QoS.
type Filters = &'static [(&'static str, u8)];

/// Name, subscriptions, and whether it naps. The last two share.
const SUBSCRIBERS: [(&str, Filters, bool); 5] = [
    ("live", &[("load/#", 2)], false),
    ("napping", &[("load/#", 2)], true),
    ("at-least-once", &[("load/+", 1), ("will/+", 1)], false),
    ("crew-a", &[("$share/crew/load/#", 2)], false),
    ("crew-b", &[("$share/crew/load/#", 2)], true),
];
const CHANGER: usize = SUBSCRIBERS.len();
const WILL_HOLDERS: usize = 2;
const FIRST_WILL_HOLDER: usize = CHANGER + 1;
const FIRST_PUBLISHER: usize = FIRST_WILL_HOLDER + WILL_HOLDERS;
/// The subscriptions that change; their registers come first.
const FILTERS: usize = 8;
/// The topics to which one publisher retains messages at one QoS; between two QoS MQTT keeps no order, so they share none.
const RETAINED_PER_QOS: usize = 2;
/// How long nothing may happen until it is believed that nothing more will.
const QUIET: Duration = Duration::from_millis(50);
/// How long retained messages may take to arrive once the broker has answered what was asked after them.
const RETAINED_PATIENCE: Duration = Duration::from_secs(1);
const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: u8 = 0xd0;

/// The clients and what they know.
pub struct Fleet {
    log: Log,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    changer: Changer,
    wills: Vec<WillHolder>,
    dice: Dice,
}

fn roster() -> Ledger {
    let mut ledger = Ledger::default();
    let mut last = None;
    for (name, filters, _) in SUBSCRIBERS {
        let is_exact = filters.iter().all(|(_, qos)| *qos == 2);
        last = Some(ledger.add_subscriber(name, is_exact, last.filter(|_| name == "crew-b")));
    }
    ledger.add_client("changer");
    for holder in 0..WILL_HOLDERS {
        ledger.add_client(&format!("will-{holder}"));
    }
    for publisher in 0..PUBLISHERS {
        ledger.add_client(&format!("publisher-{publisher}"));
    }
    for number in 0..FILTERS {
        ledger.add_register(format!("probe/{number}"));
    }
    for publisher in 0..PUBLISHERS {
        for (qos, number) in retained_of_publisher() {
            ledger.add_register(format!("state/{publisher}/{qos}/{number}"));
        }
    }
    ledger
}

/// The QoS and the number of each topic to which one publisher retains messages.
fn retained_of_publisher() -> impl Iterator<Item = (u8, usize)> {
    [1, 2].into_iter().flat_map(|qos| (0..RETAINED_PER_QOS).map(move |number| (qos, number)))
}

impl Fleet {
    /// Makes clients that the broker has never heard of. The Will of the second holder is delayed.
    #[must_use]
    pub fn new(dice: Dice, will_delay_seconds: u32) -> Self {
        let mut fleet = Self::without_publishers(Log::new(roster()), dice, will_delay_seconds);
        let mut register = FILTERS;
        for publisher in 0..PUBLISHERS {
            let retained: Vec<(usize, u8)> =
                (register..).zip(retained_of_publisher().map(|(qos, _)| qos)).collect();
            register += retained.len();
            let client = FIRST_PUBLISHER + usize::from(publisher);
            let dice = fleet.dice.split();
            fleet.publishers.push(Publisher::new(&fleet.log, publisher, client, retained, dice));
        }
        fleet
    }

    /// Remembers from now on what [`Fleet::at`] asks for.
    pub fn remember(&mut self) {
        self.publishers.iter_mut().for_each(Publisher::remember);
    }

    /// Makes all clients again as they could have been when `is_past` says so of the positions that they have been through.
    #[must_use]
    pub fn at(&self, is_past: impl Fn(Position) -> bool, dice: Dice) -> Self {
        let mut fleet = Self::without_publishers(Log::new(self.log.ledger_at(&is_past)), dice, 0);
        fleet.publishers =
            self.publishers.iter().map(|publisher| publisher.at(&fleet.log, &is_past)).collect();
        fleet
    }

    fn without_publishers(log: Log, mut dice: Dice, will_delay_seconds: u32) -> Self {
        let subscribers = SUBSCRIBERS
            .into_iter()
            .enumerate()
            .map(|(client, (_, filters, naps))| Subscriber::new(&log, client, filters, naps, dice.split()));
        let subscribers = subscribers.collect();
        let changer = Changer::new(&log, CHANGER, (0..FILTERS).collect(), dice.split());
        let wills = (0..WILL_HOLDERS).map(|holder| {
            let delay_seconds = if holder == 0 { 0 } else { will_delay_seconds };
            WillHolder::new(&log, FIRST_WILL_HOLDER + holder, holder, delay_seconds)
        });
        let wills = wills.collect();
        Self { log, publishers: Vec::new(), subscribers, changer, wills, dice }
    }

    /// Has every subscriber's session and subscriptions acknowledged.
    ///
    /// # Errors
    /// If the broker refuses one.
    pub fn enlist(&mut self, address: SocketAddr) -> Result<()> {
        for subscriber in &self.subscribers {
            subscriber.enter(address, &self.log)?;
        }
        self.changer.enter(address, &self.log).map(drop)
    }

    /// Lets everybody work for a while and then kills the broker.
    pub fn work(&mut self, broker: &mut Broker, time: Duration) {
        self.phase(broker, false, |_, _| thread::sleep(time));
    }

    /// Lets everybody end what was begun, kills the broker, and enters what never came as faults.
    pub fn settle(&mut self, broker: &mut Broker, limit: Duration) {
        self.phase(broker, true, |log, phase| {
            let deadline = Instant::now() + limit;
            let (mut facts, mut since) = (log.facts(), Instant::now());
            loop {
                thread::sleep(QUIET / 10);
                if log.facts() != facts {
                    (facts, since) = (log.facts(), Instant::now());
                }
                let is_quiet = since.elapsed() >= QUIET && !phase.is_busy();
                if is_quiet && log.ledger(|ledger| ledger.missing().is_empty()) || Instant::now() > deadline {
                    break;
                }
            }
        });
        self.log.ledger(|ledger| {
            for missing in ledger.missing() {
                ledger.fault(missing);
            }
        });
    }

    fn phase(&mut self, broker: &mut Broker, is_draining: bool, wait: impl FnOnce(&Log, &Phase)) {
        let (log, address) = (&self.log, broker.address());
        let phase = &Phase::new(is_draining, self.publishers.len());
        thread::scope(|scope| {
            for publisher in &mut self.publishers {
                scope.spawn(move || publisher.run(address, log, phase));
            }
            for subscriber in &mut self.subscribers {
                scope.spawn(move || subscriber.run(address, log, phase));
            }
            if !is_draining {
                scope.spawn(|| self.changer.run(address, log, phase));
                for holder in &mut self.wills {
                    scope.spawn(move || holder.run(address, log, phase));
                }
            }
            wait(log, phase);
            phase.end();
            broker.kill();
        });
    }

    /// Says that the broker, which was dead, starts now.
    pub fn broker_starts(&self) {
        self.log.broker_starts(|holder| self.wills[holder].delay());
    }

    /// Compares retained messages and changed subscriptions with what was acknowledged.
    pub fn audit(&mut self, address: SocketAddr) {
        let done = self.audit_retained(address).and_then(|()| self.audit_subscriptions(address));
        if let Err(error) = done {
            self.log.fault(format!("an audit got no answer: {error}"));
        }
    }

    fn audit_retained(&self, address: SocketAddr) -> Result<()> {
        let mut visitor = visit(address)?;
        let mut body = vec![0, 1];
        push_string(&mut body, "state/#");
        body.push(0);
        visitor.send(&packet(0x82, &body))?;
        visitor.send(&PINGREQ)?;
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut is_answered = false;
        loop {
            let is_complete = self.log.ledger(|ledger| {
                (FILTERS..ledger.registers()).all(|register| {
                    let value = found.get(ledger.register_name(register)).map(String::as_str);
                    ledger.may_be(register, value)
                })
            });
            if is_answered && is_complete {
                break;
            }
            let Some(packet) = in_time(visitor.packet())? else { break };
            if packet.first == PINGRESP {
                is_answered = true;
                visitor.set_patience(RETAINED_PATIENCE)?;
            }
            if let Some(published) = Published::read(&packet) {
                found.insert(published.topic, String::from_utf8_lossy(&published.payload).into_owned());
            }
        }
        self.log.ledger(|ledger| {
            for register in FILTERS..ledger.registers() {
                let value = found.get(ledger.register_name(register)).cloned();
                ledger.found(register, value.as_deref());
            }
        });
        Ok(())
    }

    /// A subscription is there if a message comes through it, with the QoS of the subscription.
    fn audit_subscriptions(&mut self, address: SocketAddr) -> Result<()> {
        let round = self.dice.below(u64::MAX).to_string();
        let mut link = self.changer.enter(address, &self.log)?;
        let mut visitor = visit(address)?;
        let mut topics: Vec<String> = self
            .log
            .ledger(|ledger| (0..FILTERS).map(|filter| ledger.register_name(filter).to_owned()).collect());
        topics.push(Changer::LAST.to_owned());
        for topic in &topics {
            visitor.send(&publish_packet(topic, 1, 1, false, round.as_bytes()))?;
            let puback = visitor.packet()?;
            if puback.first != PUBACK {
                return Err(unexpected(&puback));
            }
        }
        let mut found = BTreeMap::new();
        while !found.contains_key(Changer::LAST) {
            let packet = link.packet()?;
            let Some(published) = Published::read(&packet) else { return Err(unexpected(&packet)) };
            self.changer.take(&mut link, &published)?;
            // Others are left from a probe that the death of the broker cut short.
            if published.payload == round.as_bytes() {
                found.insert(published.topic, published.qos.to_string());
            }
        }
        self.log.ledger(|ledger| {
            for (filter, topic) in topics.iter().enumerate().take(FILTERS) {
                ledger.found(filter, found.get(topic).map(String::as_str));
            }
        });
        Ok(())
    }

    /// Every promise that was broken so far.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.log.ledger(|ledger| ledger.faults().to_vec())
    }

    /// Enters a broken promise.
    pub fn fault(&self, fault: String) {
        self.log.fault(fault);
    }

    /// How many messages were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.log.ledger(|ledger| ledger.acknowledged())
    }

    /// The clients' port of each connection, in the order in which the connections were made.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.log.ports()
    }
}

/// Connects somebody who leaves nothing behind.
fn visit(address: SocketAddr) -> Result<Wire> {
    let mut visitor = Wire::try_open(address)?;
    visitor.set_patience(PATIENCE)?;
    visitor.send(&connect_packet("visitor", true))?;
    let connack = visitor.packet()?;
    if connack.first == 0x20 && connack.body == [0, 0] { Ok(visitor) } else { Err(unexpected(&connack)) }
}
