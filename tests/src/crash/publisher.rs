//! The publishers of a fleet: numbered messages at QoS 1 and 2 with many exchanges in flight, each carried to its end.
//!
//! Over reconnections a publisher keeps its unfinished exchanges and sends again what was not answered.
//! Invariant: a number is used for one message, whatever happens to the connection.

use std::io::Result;
use std::net::SocketAddr;
use std::time::Duration;

use super::clients::{Next, PUBACK, PUBCOMP, PUBREC, PUBREL, Phase, unexpected};
use super::dice::Dice;
use super::ledger::Fact;
use super::log::{Link, Log, Position};
use super::traffic::{PUBLISHERS, Stream, TOPICS};
use crate::wire::{RawPacket, acknowledgement, connect_packet, publish_packet};

/// How many publications a publisher keeps in flight.
const WINDOW: usize = 32;

/// A publication that is not ended yet.
#[derive(Clone)]
struct Exchange {
    /// How many the publisher began before.
    index: usize,
    packet_id: u16,
    publish: Vec<u8>,
    qos: u8,
    /// What its PUBACK or PUBREC says.
    fact: Fact,
    is_received: bool,
}

/// When a publication changed.
struct Past {
    exchange: Exchange,
    begun: Position,
    received: Option<Position>,
    ended: Option<Position>,
}

/// Publishes numbered messages at QoS 1 and 2, and retained messages to topics that are its own.
pub struct Publisher {
    client: usize,
    client_id: String,
    index: u8,
    dice: Dice,
    numbers: [u32; 2 * TOPICS as usize],
    /// Registers of retained messages with their QoS.
    retained: Vec<(usize, u8)>,
    /// In the order in which they were begun.
    in_flight: Vec<Exchange>,
    packet_id: u16,
    begun: usize,
    /// Every exchange, if they are to be remembered.
    history: Option<Vec<Past>>,
}

impl Publisher {
    /// Makes the publisher with this index; `retained` are the registers of its retained messages, each with its QoS.
    ///
    /// # Panics
    /// If there is no such publisher.
    #[must_use]
    pub fn new(log: &Log, index: u8, client: usize, retained: Vec<(usize, u8)>, dice: Dice) -> Self {
        assert!(index < PUBLISHERS, "streams know of no such publisher");
        Self {
            client,
            client_id: log.ledger(|ledger| ledger.name(client).to_owned()),
            index,
            dice,
            numbers: [0; 2 * TOPICS as usize],
            retained,
            in_flight: Vec::new(),
            packet_id: 0,
            begun: 0,
            history: None,
        }
    }

    /// Remembers every exchange from now on, for [`Publisher::at`].
    pub fn remember(&mut self) {
        self.history = Some(Vec::new());
    }

    /// Returns the publisher as it could have been when `is_past` says so of the positions that it has been through; it ends
    /// what it has begun and must not begin anything.
    #[must_use]
    pub fn at(&self, log: &Log, is_past: impl Fn(Position) -> bool) -> Self {
        let mut publisher = Self::new(log, self.index, self.client, self.retained.clone(), self.dice.clone());
        let is_over = |position: Option<Position>| position.is_some_and(&is_past);
        let begun = self.history.iter().flatten().filter(|past| is_past(past.begun) && !is_over(past.ended));
        publisher.in_flight = begun
            .map(|past| Exchange { is_received: is_over(past.received), ..past.exchange.clone() })
            .collect();
        publisher
    }

    /// Publishes until the phase is over; when draining, until nothing is in flight.
    pub fn run(&mut self, address: SocketAddr, log: &Log, phase: &Phase) {
        phase.repeat(log, self.client, || self.session(address, log, phase));
        phase.publisher_ends();
    }

    fn session(&mut self, address: SocketAddr, log: &Log, phase: &Phase) -> Result<Next> {
        let mut link = Link::open(log, address, self.client, &connect_packet(&self.client_id, false))?;
        // [MQTT-4.4.0-1] Again, in the original order, what has not been acknowledged.
        for exchange in &mut self.in_flight {
            exchange.publish[0] |= 8;
            if exchange.is_received {
                link.send(&acknowledgement(PUBREL, exchange.packet_id))?;
            } else {
                link.send(&exchange.publish)?;
            }
        }
        // Now and then a publisher leaves without a word, with exchanges in every state.
        let packets_max = 50 + self.dice.below(2_000);
        for _ in 0..packets_max {
            let mut bytes = Vec::new();
            while !phase.is_draining && self.in_flight.len() < WINDOW {
                bytes.extend_from_slice(&self.begin(&link).publish);
            }
            if self.in_flight.is_empty() {
                return Ok(Next::Done);
            }
            link.send(&bytes)?;
            let packet = link.packet()?;
            self.handle(&mut link, &packet)?;
        }
        Ok(Next::Reconnect(Duration::ZERO))
    }

    fn begin(&mut self, link: &Link<'_>) -> &Exchange {
        self.packet_id = (1..=u16::MAX)
            .map(|step| self.packet_id.wrapping_add(step))
            .find(|id| *id != 0 && self.in_flight.iter().all(|exchange| exchange.packet_id != *id))
            .expect("a window of identifiers is smaller than all of them");
        let exchange = if self.dice.chance(12) { self.retained(link.log()) } else { self.numbered() };
        self.begun += 1;
        if let Some(history) = &mut self.history {
            let exchange = exchange.clone();
            history.push(Past { exchange, begun: link.position(), received: None, ended: None });
        }
        self.in_flight.push(exchange);
        &self.in_flight[self.in_flight.len() - 1]
    }

    fn numbered(&mut self) -> Exchange {
        let topic = self.dice.below(u64::from(TOPICS)) as u8;
        let qos = 1 + self.dice.below(2) as u8;
        let stream = Stream { publisher: self.index, topic, qos };
        let number = &mut self.numbers[usize::from(2 * topic + qos - 1)];
        *number += 1;
        let payload = stream.payload(*number);
        Exchange {
            index: self.begun,
            packet_id: self.packet_id,
            publish: publish_packet(&stream.topic_name(), self.packet_id, qos, false, &payload),
            qos,
            fact: Fact::Acknowledged { stream, number: *number },
            is_received: false,
        }
    }

    fn retained(&mut self, log: &Log) -> Exchange {
        let (register, qos) = self.retained[self.dice.below(self.retained.len() as u64) as usize];
        let clears = self.dice.chance(15);
        let (topic, version, payload) = log.ledger(|ledger| {
            let payload = if clears { String::new() } else { format!("state {}", self.dice.below(u64::MAX)) };
            let value = Some(payload.clone()).filter(|text| !text.is_empty());
            (ledger.register_name(register).to_owned(), ledger.attempt(register, value), payload)
        });
        let mut publish = publish_packet(&topic, self.packet_id, qos, false, payload.as_bytes());
        publish[0] |= 1;
        Exchange {
            index: self.begun,
            packet_id: self.packet_id,
            publish,
            qos,
            fact: Fact::Settled { register, version },
            is_received: false,
        }
    }

    fn handle(&mut self, link: &mut Link<'_>, packet: &RawPacket) -> Result<()> {
        let packet_id = packet.acknowledged();
        let position = self.in_flight.iter().position(|exchange| exchange.packet_id == packet_id);
        let Some(position) = position else { return Err(unexpected(packet)) };
        let exchange = &mut self.in_flight[position];
        let past = self.history.as_mut().map(|history| &mut history[exchange.index]);
        let now = Some(link.position());
        match (packet.first, exchange.qos, exchange.is_received) {
            (PUBACK, 1, false) => {
                link.note(&[exchange.fact]);
                past.into_iter().for_each(|past| past.ended = now);
                self.in_flight.remove(position);
            }
            (PUBREC, 2, _) => {
                link.note(&[exchange.fact]);
                past.into_iter().for_each(|past| past.received = past.received.or(now));
                exchange.is_received = true;
                link.send(&acknowledgement(PUBREL, packet_id))?;
            }
            (PUBCOMP, 2, true) => {
                past.into_iter().for_each(|past| past.ended = now);
                self.in_flight.remove(position);
            }
            _ => return Err(unexpected(packet)),
        }
        Ok(())
    }
}
