//! Runs a scenario on a transport.
//!
//! Refuses to pass over what no line expects: at the end, at a cut and at a crash nothing may be left unread, and no connection
//! may be closed unless a line says so. Invariant: a scenario either held or failed with the line, what it expected and what came.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use veilmq_protocol::PacketType;

use super::decode::take_packet;
use super::encode::{Variables, encode};
use super::expect;
use super::line::Line;
use super::script::{Action, Event, Scenario, Step, Version, opens};
use super::value::Value;

/// How long an expected packet or close may take where time is real.
const PATIENCE: Duration = Duration::from_secs(15);

/// A broker with an empty store, and network connections to it.
pub trait Transport {
    /// Opens a network connection and returns its number.
    fn open(&mut self) -> usize;
    /// Sends bytes; a connection that the broker has closed swallows them.
    fn send(&mut self, connection: usize, bytes: &[u8]);
    /// Returns what has arrived; waits for it no longer than `patience`, if at all.
    fn receive(&mut self, connection: usize, patience: Duration) -> Received;
    /// Ends a network connection without a word.
    fn cut(&mut self, connection: usize);
    /// Lets time pass.
    fn pass(&mut self, time: Duration);
    /// Kills the broker, which ends every connection, and starts it again on the same store.
    fn crash(&mut self);
    /// How long what was caused may take to arrive; none if it is there at once.
    fn quiet(&self) -> Option<Duration>;
}

/// What came over a network connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// These bytes, at least one.
    Bytes(Vec<u8>),
    /// Nothing so far.
    Nothing,
    /// Nothing, and nothing will: the broker has closed the connection.
    Closed,
}

/// A scenario that did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The scenario's title, with its file and line.
    pub scenario: String,
    /// The version it ran in.
    pub version: Version,
    /// The name of the file and the line that did not hold.
    pub place: String,
    /// What was expected there.
    pub expected: String,
    /// What came instead.
    pub got: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, version, place, expected, got } = self;
        let version = version.name();
        write!(f, "{place}: expected: {expected}\n  got: {got}\n  in MQTT {version}, {scenario}")
    }
}

/// Runs a scenario in one version.
///
/// # Errors
/// The first line that does not hold.
pub fn run(scenario: &Scenario, version: Version, transport: &mut dyn Transport) -> Result<(), Failure> {
    let failure = |line: usize, expected: &str, got: String| Failure {
        scenario: scenario.to_string(),
        version,
        place: format!("{}:{line}", scenario.file),
        expected: expected.to_owned(),
        got,
    };
    let mut run = Run { transport, version, variables: Variables::new(), connections: BTreeMap::new() };
    let steps: Vec<&Step> = scenario.steps.iter().filter(|step| step.counts_in(version)).collect();
    let mut rest = steps.as_slice();
    while let Some((step, after)) = rest.split_first() {
        let group = in_any_order(rest);
        let outcome = if group.is_empty() {
            rest = after;
            run.step(&step.action)
        } else {
            rest = &rest[group.len()..];
            run.receive_in_any_order(&group)
        };
        outcome.map_err(|got| failure(step.line, &step.text, got))?;
    }
    let last = steps.last().map_or(scenario.line, |step| step.line);
    run.end().map_err(|got| failure(last, "the end of the scenario, with nothing unread", got))
}

/// The packets of the steps that come next and may come in any order.
fn in_any_order<'a>(steps: &[&'a Step]) -> Vec<(&'a str, &'a Line)> {
    let mut group: Vec<(&str, &Line)> = Vec::new();
    for step in steps {
        match &step.action {
            Action::At { connection, event: Event::ReceiveSome(line) }
                if group.first().is_none_or(|(first, _)| first == connection) =>
            {
                group.push((connection, line));
            }
            _ => break,
        }
    }
    group
}

struct Run<'a> {
    transport: &'a mut dyn Transport,
    version: Version,
    variables: Variables,
    /// The connections that are open as far as the lines have said.
    connections: BTreeMap<String, Connection>,
}

struct Connection {
    number: usize,
    version: Version,
    /// What arrived and is not a whole packet.
    bytes: Vec<u8>,
    unread: VecDeque<Line>,
    is_closed: bool,
    /// The client has said DISCONNECT.
    has_left: bool,
    /// CONNACK has said success.
    is_established: bool,
    /// A PINGREQ would keep nothing alive and be a packet of its own.
    can_ping: bool,
    /// PINGREQs that await their PINGRESP.
    pings: usize,
    /// Something was sent that the broker may not have taken in.
    is_ahead: bool,
}

impl Run<'_> {
    fn step(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Wait(time) => self.transport.pass(*time),
            Action::Crash => {
                self.end()?;
                self.connections.clear();
                self.transport.crash();
            }
            Action::At { connection, event } => {
                if matches!(event, Event::Send(_) | Event::SendBytes(_)) {
                    self.let_broker_catch_up(Some(connection))?;
                }
                self.prepare(connection, event)?;
                self.event(connection, event)?;
            }
        }
        Ok(())
    }

    /// Makes steps happen in order where connections know nothing of each other: what was sent is taken in, except what `sender`
    /// has sent, who is about to send more.
    fn let_broker_catch_up(&mut self, sender: Option<&str>) -> Result<(), String> {
        if self.transport.quiet().is_none() {
            return Ok(());
        }
        let is_other = |name: &str| sender != Some(name);
        let ahead = self.connections.iter().filter(|(name, other)| other.is_ahead && is_other(name));
        let ahead: Vec<String> = ahead.map(|(name, _)| name.clone()).collect();
        for name in ahead {
            if self.connection(&name)?.has_left {
                while matches!(self.fill(&name, PATIENCE)?, Received::Bytes(_)) {}
            }
            self.ping(&name)?;
            self.connection(&name)?.is_ahead = false;
        }
        Ok(())
    }

    /// Sees to it that the connection of a step exists.
    fn prepare(&mut self, name: &str, event: &Event) -> Result<(), String> {
        let exists = self.connections.get(name);
        if opens(event) && exists.is_some_and(|connection| connection.has_left) {
            self.is_closed(name)?;
        }
        let exists = self.connections.contains_key(name);
        match (event, exists) {
            (Event::Open, true) => return Err(format!("{name} is open already")),
            (Event::Open, false) => {}
            (event, false) if opens(event) => {}
            (_, false) => return Err(format!("there is no connection {name}")),
            (_, true) => return Ok(()),
        }
        let connection = Connection {
            number: self.transport.open(),
            version: self.version,
            bytes: Vec::new(),
            unread: VecDeque::new(),
            is_closed: false,
            has_left: false,
            is_established: false,
            can_ping: false,
            pings: 0,
            is_ahead: false,
        };
        self.connections.insert(name.to_owned(), connection);
        Ok(())
    }

    fn event(&mut self, name: &str, event: &Event) -> Result<(), String> {
        match event {
            Event::Open => Ok(()),
            Event::Send(line) => self.send(name, line),
            Event::SendBytes(bytes) => {
                let connection = self.connection(name)?;
                // What follows might become part of a packet that these bytes began.
                connection.can_ping = false;
                connection.is_ahead = true;
                let number = connection.number;
                self.transport.send(number, bytes);
                Ok(())
            }
            Event::Receive(line) => {
                let got = self.next(name)?;
                let version = self.connection(name)?.version;
                expect::check(line, &got, version, &mut self.variables)
                    .map_err(|difference| format!("{got} ({difference})"))
            }
            Event::ReceiveSome(line) => self.receive_in_any_order(&[(name, line)]),
            Event::ReceiveNothing => {
                self.settle(&[name])?;
                self.nothing_unread(name)
            }
            Event::IsAlive => {
                self.settle(&[name])?;
                match self.connection(name)?.is_closed {
                    true => Err("the broker closed the connection".to_owned()),
                    false => Ok(()),
                }
            }
            Event::IsClosed => self.is_closed(name),
            Event::Cut => {
                self.settle(&[name])?;
                self.nothing_unread(name)?;
                if let Some(connection) = self.connections.remove(name) {
                    self.transport.cut(connection.number);
                }
                Ok(())
            }
        }
    }

    fn send(&mut self, name: &str, line: &Line) -> Result<(), String> {
        let connection = self.connections.get_mut(name).ok_or("the connection is gone")?;
        if line.packet == PacketType::Connect {
            connection.version = connect_version(line)?.unwrap_or(self.version);
            connection.can_ping = line.number("keep_alive", 0) == 0;
        }
        connection.is_ahead = true;
        connection.has_left |= line.packet == PacketType::Disconnect;
        connection.pings += usize::from(line.packet == PacketType::PingReq);
        let bytes = encode(line, connection.version, &self.variables)?;
        self.transport.send(connection.number, &bytes);
        Ok(())
    }

    fn is_closed(&mut self, name: &str) -> Result<(), String> {
        while !self.connection(name)?.is_closed {
            if self.fill(name, PATIENCE)? == Received::Nothing {
                return Err("the connection is open".to_owned());
            }
        }
        self.nothing_unread(name)?;
        self.connections.remove(name);
        Ok(())
    }

    /// Matches packets of one connection with the lines that expect them, each with one.
    fn receive_in_any_order(&mut self, group: &[(&str, &Line)]) -> Result<(), String> {
        let mut expected: Vec<&Line> = group.iter().map(|(_, line)| *line).collect();
        let Some((name, _)) = group.first() else { return Ok(()) };
        while !expected.is_empty() {
            let left = expected.len();
            let got = self
                .next(name)
                .map_err(|got| format!("{got}, where {left} of {} packets are still to come", group.len()))?;
            let version = self.connection(name)?.version;
            let found = expected.iter().position(|line| {
                let mut variables = self.variables.clone();
                let is_equal = expect::check(line, &got, version, &mut variables).is_ok();
                if is_equal {
                    self.variables = variables;
                }
                is_equal
            });
            let found = found.ok_or_else(|| {
                let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
                format!("{got}, which is none of {}", expected.join("; "))
            })?;
            expected.remove(found);
        }
        Ok(())
    }

    /// Waits until everything that was caused has arrived, then checks every connection.
    fn end(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.connections.keys().cloned().collect();
        self.settle(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        for name in &names {
            self.nothing_unread(name).map_err(|got| format!("{name}: {got}"))?;
            let connection = self.connection(name)?;
            if connection.is_closed && !connection.has_left {
                return Err(format!("the broker closed {name}, and no line says so"));
            }
        }
        Ok(())
    }

    fn nothing_unread(&mut self, name: &str) -> Result<(), String> {
        let connection = self.connection(name)?;
        match connection.unread.front() {
            Some(packet) => Err(packet.to_string()),
            None if connection.bytes.is_empty() => Ok(()),
            None => Err(format!("part of a packet: {:02x?}", connection.bytes)),
        }
    }

    /// Waits until what was caused has arrived on these connections. Where time is real, deliveries may come from another
    /// thread of the broker than answers, so a quiet time comes before the answer to a PINGREQ.
    fn settle(&mut self, names: &[&str]) -> Result<(), String> {
        self.let_broker_catch_up(None)?;
        if let Some(quiet) = self.transport.quiet() {
            self.transport.pass(quiet);
            for name in names {
                self.ping(name)?;
            }
        }
        for name in names {
            while matches!(self.fill(name, Duration::ZERO)?, Received::Bytes(_)) {}
        }
        Ok(())
    }

    /// Makes sure that the broker has taken in everything that was sent on a connection, if that can be known.
    fn ping(&mut self, name: &str) -> Result<(), String> {
        let connection = self.connection(name)?;
        let is_idle = connection.pings == 0 && connection.bytes.is_empty();
        if !connection.can_ping || !connection.is_established || connection.has_left || !is_idle {
            return Ok(());
        }
        connection.pings = 1;
        let number = connection.number;
        self.transport.send(number, &[0xC0, 0x00]);
        let is_answer = |line: &Line| line.packet == PacketType::PingResp;
        while !self.connection(name)?.unread.iter().any(is_answer) {
            if !matches!(self.fill(name, PATIENCE)?, Received::Bytes(_)) {
                break;
            }
        }
        let connection = self.connection(name)?;
        connection.unread.retain(|line| !is_answer(line));
        Ok(())
    }

    /// Takes the next packet, which may have to be waited for.
    fn next(&mut self, name: &str) -> Result<Line, String> {
        loop {
            if let Some(packet) = self.connection(name)?.unread.pop_front() {
                return Ok(packet);
            }
            match self.fill(name, PATIENCE)? {
                Received::Bytes(_) => {}
                Received::Nothing => return Err("nothing".to_owned()),
                Received::Closed => return Err("nothing, and the broker closed the connection".to_owned()),
            }
        }
    }

    /// Takes in what has arrived.
    fn fill(&mut self, name: &str, patience: Duration) -> Result<Received, String> {
        let number = self.connection(name)?.number;
        let received = self.transport.receive(number, patience);
        let connection = self.connection(name)?;
        match &received {
            Received::Bytes(bytes) => connection.bytes.extend_from_slice(bytes),
            Received::Nothing => {}
            Received::Closed => connection.is_closed = true,
        }
        while let Some(packet) = take_packet(&mut connection.bytes, connection.version)? {
            connection.note(&packet);
            connection.unread.push_back(packet);
        }
        Ok(received)
    }

    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        self.connections.get_mut(name).ok_or_else(|| format!("there is no connection {name}"))
    }
}

impl Connection {
    fn note(&mut self, packet: &Line) {
        match packet.packet {
            PacketType::ConnAck => {
                self.is_established = packet.reason == 0;
                self.can_ping &= !packet.has("server_keep_alive");
            }
            PacketType::PingResp => self.pings = self.pings.saturating_sub(1),
            _ => {}
        }
    }
}

/// The version that a CONNECT asks for, if it differs from that of the scenario.
fn connect_version(line: &Line) -> Result<Option<Version>, String> {
    let Some(Value::Text(name)) = line.values("version").next() else { return Ok(None) };
    let name = String::from_utf8_lossy(name);
    Version::named(&name).map(Some).ok_or_else(|| format!("{name} is no version"))
}
