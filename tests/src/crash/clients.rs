//! The clients of a fleet that do not publish: correct MQTT clients that go on, after each lost connection, from what they knew.
//!
//! Each runs on a thread of its own for as long as its [`Phase`] lasts. What a subscriber must remember follows from the facts
//! in the log. A connection that ends while the broker lives is a fault.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::ledger::Fact;
use super::log::{Link, Log};
use super::traffic::Stream;
use crate::wire::{Published, RawPacket, acknowledgement, connect_packet, packet, push_string};

pub(super) const PUBACK: u8 = 0x40;
pub(super) const PUBREC: u8 = 0x50;
pub(super) const PUBREL: u8 = 0x62;
pub(super) const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xb0;
const DISCONNECT: [u8; 2] = [0xe0, 0];
/// How long a client waits before it tries to connect again.
const RETRY: Duration = Duration::from_millis(5);

/// What the clients of a fleet share while they run.
#[derive(Debug)]
pub struct Phase {
    /// Whether the broker is about to be killed, or dead.
    is_over: AtomicBool,
    /// Whether nothing new is begun.
    pub(super) is_draining: bool,
    /// How many publishers are not done.
    busy: AtomicUsize,
}

impl Phase {
    /// A phase in which everybody works, or one in which what has been begun is ended.
    #[must_use]
    pub fn new(is_draining: bool, publishers: usize) -> Self {
        Self { is_over: AtomicBool::new(false), is_draining, busy: AtomicUsize::new(publishers) }
    }

    /// Has every client end as soon as its connection does.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Whether a publisher may still have something in flight.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

    /// Says that one publisher is done.
    pub(super) fn publisher_ends(&self) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Waits, but not beyond the end of the phase.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_over() && Instant::now() < end {
            thread::sleep(RETRY.min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Runs `session` until it says that the client is done, or the phase is over.
    pub(super) fn repeat(&self, log: &Log, client: usize, mut session: impl FnMut() -> Result<Next>) {
        while !self.is_over() {
            match session() {
                Ok(Next::Done) => return,
                Ok(Next::Reconnect(pause)) => self.pause(pause),
                Err(_) if self.is_over() => return,
                Err(error) => {
                    log.ledger(|ledger| {
                        let name = ledger.name(client).to_owned();
                        ledger
                            .fault(format!("{name} lost its connection although the broker lives: {error}"));
                    });
                    thread::sleep(RETRY);
                }
            }
        }
    }
}

/// What a client does after it has left its connection.
pub(super) enum Next {
    Done,
    Reconnect(Duration),
}

/// The error of a client that gets a packet it has no use for.
#[must_use]
pub fn unexpected(packet: &RawPacket) -> Error {
    Error::new(ErrorKind::InvalidData, format!("unexpected: {packet:02x?}"))
}

/// Takes silence for an answer: none.
///
/// # Errors
/// Whatever else kept the packet from arriving.
pub fn in_time(packet: Result<RawPacket>) -> Result<Option<RawPacket>> {
    match packet {
        Ok(packet) => Ok(Some(packet)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Receives messages with a session that outlives its connections.
pub struct Subscriber {
    client: usize,
    client_id: String,
    filters: &'static [(&'static str, u8)],
    /// Whether it goes offline at times.
    naps: bool,
    dice: Dice,
}

impl Subscriber {
    /// Makes a subscriber of `filters`, each with its Maximum QoS; one that naps is offline at times.
    #[must_use]
    pub fn new(
        log: &Log,
        client: usize,
        filters: &'static [(&'static str, u8)],
        naps: bool,
        dice: Dice,
    ) -> Self {
        let client_id = log.ledger(|ledger| ledger.name(client).to_owned());
        Self { client, client_id, filters, naps, dice }
    }

    /// Receives until the phase is over.
    pub fn run(&mut self, address: SocketAddr, log: &Log, phase: &Phase) {
        // Whoever naps lets its queue outlive a kill now and then.
        if self.naps && !phase.is_draining && self.dice.chance(50) {
            phase.pause(Duration::from_millis(self.dice.below(1_000)));
        }
        phase.repeat(log, self.client, || self.session(address, log, phase));
    }

    /// Connects and has the subscriptions.
    ///
    /// # Errors
    /// If the connection is lost or a subscription is refused.
    pub fn enter<'a>(&self, address: SocketAddr, log: &'a Log) -> Result<Link<'a>> {
        let mut link = Link::open(log, address, self.client, &connect_packet(&self.client_id, false))?;
        if !log.ledger(|ledger| ledger.is_subscribed(self.client)) {
            let mut body = vec![0, 1];
            for (filter, qos) in self.filters {
                push_string(&mut body, filter);
                body.push(*qos);
            }
            link.send(&packet(0x82, &body))?;
            let granted: Vec<u8> =
                [0, 1].into_iter().chain(self.filters.iter().map(|(_, qos)| *qos)).collect();
            loop {
                let packet = link.packet()?;
                if packet.first != SUBACK {
                    receive(&mut link, self.client, &packet)?;
                } else if packet.body == granted {
                    break;
                } else {
                    return Err(unexpected(&packet));
                }
            }
            link.note(&[Fact::Subscribed { client: self.client }]);
        }
        Ok(link)
    }

    fn session(&mut self, address: SocketAddr, log: &Log, phase: &Phase) -> Result<Next> {
        let mut link = self.enter(address, log)?;
        let mut packets_left =
            if self.naps && !phase.is_draining { 10 + self.dice.below(400) } else { u64::MAX };
        while packets_left > 0 {
            if let Some(packet) = in_time(link.packet())? {
                receive(&mut link, self.client, &packet)?;
                packets_left -= 1;
            }
        }
        if self.dice.chance(50) {
            link.send(&DISCONNECT)?;
        }
        Ok(Next::Reconnect(Duration::from_millis(self.dice.below(150))))
    }
}

/// The receiving side of every QoS: hands over once what may come twice, and acknowledges.
fn receive(link: &mut Link<'_>, client: usize, packet: &RawPacket) -> Result<()> {
    let Some(published) = Published::read(packet) else {
        if packet.first != PUBREL {
            return Err(unexpected(packet));
        }
        let packet_id = packet.acknowledged();
        link.note(&[Fact::Released { client, packet_id }]);
        return link.send(&acknowledgement(PUBCOMP, packet_id));
    };
    let packet_id = published.packet_id;
    let arrived = arrival(client, &published).map_err(Error::other)?;
    match published.qos {
        1 => {
            link.note(&[arrived]);
            link.send(&acknowledgement(PUBACK, packet_id))
        }
        2 => {
            // [MQTT-4.3.3-10] Until PUBREL it is the same message, whether sent again or not.
            if !link.log().ledger(|ledger| ledger.is_held(client, packet_id)) {
                link.note(&[arrived, Fact::Held { client, packet_id }]);
            }
            link.send(&acknowledgement(PUBREC, packet_id))
        }
        _ => Err(unexpected(packet)),
    }
}

/// What the arrival of a message means.
fn arrival(client: usize, published: &Published) -> std::result::Result<Fact, String> {
    match published.topic.strip_prefix("will/") {
        Some(holder) => {
            let number = String::from_utf8_lossy(&published.payload).parse();
            match (holder.parse(), number) {
                (Ok(holder), Ok(number)) => Ok(Fact::WillArrived { holder, number }),
                _ => Err(format!("a damaged Will arrived on {}", published.topic)),
            }
        }
        None => Stream::read(published).map(|(stream, number)| Fact::Arrived { client, stream, number }),
    }
}

/// Subscribes and unsubscribes without pause, one request at a time.
pub struct Changer {
    client: usize,
    client_id: String,
    /// Registers of subscriptions: the value is the Maximum QoS.
    filters: Vec<usize>,
    dice: Dice,
}

impl Changer {
    /// The Topic Filter that it always has; probes end with a message to it.
    pub const LAST: &str = "probe/last";

    /// Makes a client that changes the subscriptions in these registers.
    #[must_use]
    pub fn new(log: &Log, client: usize, filters: Vec<usize>, dice: Dice) -> Self {
        Self { client, client_id: log.ledger(|ledger| ledger.name(client).to_owned()), filters, dice }
    }

    /// Changes subscriptions until the phase is over.
    pub fn run(&mut self, address: SocketAddr, log: &Log, phase: &Phase) {
        phase.repeat(log, self.client, || {
            let mut link = self.enter(address, log)?;
            loop {
                self.change(&mut link)?;
                thread::sleep(Duration::from_micros(self.dice.below(4_000)));
            }
        });
    }

    /// Connects and has the one subscription that stays.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn enter<'a>(&self, address: SocketAddr, log: &'a Log) -> Result<Link<'a>> {
        let mut link = Link::open(log, address, self.client, &connect_packet(&self.client_id, false))?;
        if !log.ledger(|ledger| ledger.is_subscribed(self.client)) {
            self.request(&mut link, Self::LAST, Some(1))?;
            link.note(&[Fact::Subscribed { client: self.client }]);
        }
        Ok(link)
    }

    fn change(&mut self, link: &mut Link<'_>) -> Result<()> {
        let register = self.filters[self.dice.below(self.filters.len() as u64) as usize];
        let qos = [None, Some(0), Some(1)][self.dice.below(3) as usize];
        let (filter, version) = link.log().ledger(|ledger| {
            let version = ledger.attempt(register, qos.map(|qos: u8| qos.to_string()));
            (ledger.register_name(register).to_owned(), version)
        });
        self.request(link, &filter, qos)?;
        link.note(&[Fact::Settled { register, version }]);
        Ok(())
    }

    /// Subscribes at a QoS or, without one, unsubscribes.
    fn request(&self, link: &mut Link<'_>, filter: &str, qos: Option<u8>) -> Result<()> {
        let mut body = vec![0, 1];
        push_string(&mut body, filter);
        body.extend(qos);
        link.send(&packet(if qos.is_some() { 0x82 } else { 0xa2 }, &body))?;
        loop {
            let packet = link.packet()?;
            if let Some(published) = Published::read(&packet) {
                // What is left of an earlier probe.
                self.take(link, &published)?;
            } else if [SUBACK, UNSUBACK].contains(&packet.first) && packet.body[2..] == *qos.as_slice() {
                return Ok(());
            } else {
                return Err(unexpected(&packet));
            }
        }
    }

    /// Takes a message of a probe.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn take(&self, link: &mut Link<'_>, published: &Published) -> Result<()> {
        if published.qos == 1 { link.send(&acknowledgement(PUBACK, published.packet_id)) } else { Ok(()) }
    }
}

/// Connects with a Will (MQTT 5) and waits to be cut off; returns when the Will has been published.
pub struct WillHolder {
    client: usize,
    client_id: String,
    holder: usize,
    number: u32,
    delay_seconds: u32,
}

impl WillHolder {
    /// Makes the holder with this index, the last level of the Will Topic.
    #[must_use]
    pub fn new(log: &Log, client: usize, holder: usize, delay_seconds: u32) -> Self {
        let client_id = log.ledger(|ledger| ledger.name(client).to_owned());
        Self { client, client_id, holder, number: 0, delay_seconds }
    }

    /// Stays connected until the phase is over, unless a Will of it is still due.
    pub fn run(&mut self, address: SocketAddr, log: &Log, phase: &Phase) {
        phase.repeat(log, self.client, || {
            if log.ledger(|ledger| ledger.is_will_due(self.holder)) {
                // Whoever returned now would call the Will back.
                return Ok(Next::Reconnect(RETRY));
            }
            self.number += 1;
            let mut link = Link::open(log, address, self.client, &self.connect())?;
            link.note(&[Fact::WillArmed { holder: self.holder, number: self.number }]);
            loop {
                if let Some(packet) = in_time(link.packet())? {
                    return Err(unexpected(&packet));
                }
            }
        });
    }

    fn connect(&self) -> Vec<u8> {
        // Will at QoS 1; a Keep Alive of 600 seconds; a session that stays for an hour.
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0x0c, 2, 88, 5, 0x11, 0, 0, 0x0e, 0x10];
        push_string(&mut body, &self.client_id);
        body.extend([5, 0x18]);
        body.extend(self.delay_seconds.to_be_bytes());
        push_string(&mut body, &format!("will/{}", self.holder));
        push_string(&mut body, &self.number.to_string());
        packet(0x10, &body)
    }

    /// How long after a crash its Will is to be published.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_secs(self.delay_seconds.into())
    }
}
