//! One interface to MQTT client libraries that are not ours, so that each interop scenario is written once.
//!
//! `tests/interop/puppet.md` describes the programs behind it. A [`Client`] never reconnects by itself and keeps
//! every event until it is asked for. Invariant: dropping a client ends its connection without a DISCONNECT.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::message::Message;
use crate::rumqtt::Rumqtt;
use crate::tools::{require_installed, require_tool};

const ANSWER_SECONDS_MAX: u64 = 40;

/// The client libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Eclipse paho-mqtt, in Python.
    Paho,
    /// MQTT.js, in Node.
    MqttJs,
    /// rumqttc, in Rust.
    Rumqttc,
    /// gmqtt, in Python.
    Gmqtt,
}

/// The protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

impl Version {
    /// The version as the puppets take it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// What carries MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// TCP itself.
    Tcp,
    /// WebSocket over TCP, which paho-mqtt and MQTT.js can use.
    WebSocket,
    /// TLS with a broker whose certificate is issued by the authority in this file; the same two can use it.
    Tls(PathBuf),
    /// WebSocket over that.
    SecureWebSocket(PathBuf),
}

impl Carrier {
    /// The carrier as the puppets take it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
            Self::Tls(_) => "tls",
            Self::SecureWebSocket(_) => "secure-websocket",
        }
    }

    /// The file with the authority of the broker's certificate, if it has one.
    fn authority(&self) -> Option<&Path> {
        match self {
            Self::Tcp | Self::WebSocket => None,
            Self::Tls(authority) | Self::SecureWebSocket(authority) => Some(authority),
        }
    }
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The Client Identifier.
    pub id: String,
    /// Clean Start (version 5) or Clean Session (version 3.1.1).
    pub clean: bool,
    /// The Session Expiry Interval in seconds; version 5 only.
    pub expiry: u32,
    /// The Will Message.
    pub will: Option<Message>,
    /// The Receive Maximum; version 5 only.
    pub receive_maximum: Option<u16>,
    /// The Topic Alias Maximum; version 5 only.
    pub topic_alias_maximum: u16,
}

impl Connect {
    /// A connection whose session ends with it.
    #[must_use]
    pub fn clean(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            clean: true,
            expiry: 0,
            will: None,
            receive_maximum: None,
            topic_alias_maximum: 0,
        }
    }

    /// A connection whose session outlives it by an hour.
    #[must_use]
    pub fn persistent(id: &str) -> Self {
        Self { clean: false, expiry: 3600, ..Self::clean(id) }
    }
}

/// What a client is told to do; each order gets one [`Event::Reply`].
#[derive(Debug, Clone)]
pub enum Order {
    /// Open the connection.
    Connect(Connect),
    /// Subscribe one filter.
    Subscribe {
        /// The Topic Filter.
        filter: String,
        /// The Maximum QoS asked for.
        qos: u8,
        /// The Subscription Identifier; version 5 only.
        id: Option<u32>,
    },
    /// Unsubscribe one filter.
    Unsubscribe {
        /// The Topic Filter.
        filter: String,
    },
    /// Publish, and reply after the last acknowledgement.
    Publish(Message),
    /// Send DISCONNECT, and reply when the connection is closed.
    Disconnect,
}

/// What a client tells.
#[derive(Debug)]
pub enum Event {
    /// The outcome of the last order.
    Reply(Result<Reply, String>),
    /// A PUBLISH arrived.
    Message(Box<Message>),
    /// The broker closed the connection, with the Reason Code of its DISCONNECT if it sent one.
    Closed(Option<u8>),
}

/// What the broker answered to an order, as far as the order has an answer.
#[derive(Debug, Default, Clone)]
pub struct Reply {
    /// Session Present, from CONNACK.
    pub session_present: Option<bool>,
    /// The Assigned Client Identifier, from CONNACK.
    pub assigned_id: Option<String>,
    /// The granted QoS or the Reason Code, from SUBACK.
    pub code: Option<u8>,
}

/// Carries out orders; its events come through the channel it was made with.
pub trait Backend: Send {
    /// Starts to carry out `order`.
    fn give(&mut self, order: Order);
}

/// A client of a library that is not ours.
pub struct Client {
    backend: Box<dyn Backend>,
    events: Receiver<Event>,
    waiting: VecDeque<Event>,
}

impl Client {
    /// Makes an unconnected client for the broker on 127.0.0.1:`port`; none if the library is not installed.
    #[must_use]
    pub fn new(library: Library, version: Version, port: u16) -> Option<Self> {
        Self::carried(library, version, port, &Carrier::Tcp)
    }

    /// Makes an unconnected client whose packets are carried by `carrier`; none if the library is not installed.
    ///
    /// # Panics
    /// If the library does not know this carrier.
    #[must_use]
    pub fn carried(library: Library, version: Version, port: u16, carrier: &Carrier) -> Option<Self> {
        let knows = *carrier == Carrier::Tcp || matches!(library, Library::Paho | Library::MqttJs);
        assert!(knows, "{library:?} is driven over TCP only");
        let (sender, events) = channel();
        let backend: Box<dyn Backend> = match library {
            Library::Paho => python("paho_puppet.py", version, port, carrier, sender)?,
            Library::Gmqtt => python("gmqtt_puppet.py", version, port, carrier, sender)?,
            Library::MqttJs => {
                let mut command = Command::new(require_tool("node")?);
                require_installed("node/node_modules/mqtt")?;
                command.arg(require_installed("node/mqttjs_puppet.mjs")?);
                Box::new(Process::start(command, version, port, carrier, sender))
            }
            Library::Rumqttc => Box::new(Rumqtt::new(version, port, sender)),
        };
        Some(Self { backend, events, waiting: VecDeque::new() })
    }

    /// Connects and returns Session Present.
    ///
    /// # Panics
    /// If the broker refuses; so do all operations that the broker or the library refuses.
    pub fn connect(&mut self, options: Connect) -> bool {
        self.order(Order::Connect(options)).session_present.expect("CONNACK carries Session Present")
    }

    /// Connects without a Client Identifier and returns the one that the broker assigned, if it said so.
    pub fn connect_anonymously(&mut self) -> Option<String> {
        self.order(Order::Connect(Connect::clean(""))).assigned_id
    }

    /// Subscribes and returns the granted QoS or the Reason Code.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        let order = Order::Subscribe { filter: filter.to_owned(), qos, id: None };
        self.order(order).code.expect("SUBACK carries a code")
    }

    /// Subscribes with a Subscription Identifier.
    pub fn subscribe_as(&mut self, id: u32, filter: &str, qos: u8) {
        self.order(Order::Subscribe { filter: filter.to_owned(), qos, id: Some(id) });
    }

    /// Unsubscribes.
    pub fn unsubscribe(&mut self, filter: &str) {
        self.order(Order::Unsubscribe { filter: filter.to_owned() });
    }

    /// Publishes and waits for the last acknowledgement.
    pub fn publish(&mut self, message: Message) {
        self.order(Order::Publish(message));
    }

    /// Starts to publish what the broker will refuse; [`Client::closed`] tells how.
    pub fn publish_in_vain(&mut self, message: Message) {
        self.backend.give(Order::Publish(message));
    }

    /// Sends DISCONNECT and waits until the connection is closed.
    pub fn disconnect(&mut self) {
        self.order(Order::Disconnect);
    }

    /// Waits for the next message.
    ///
    /// # Panics
    /// If none arrives.
    pub fn receive(&mut self) -> Message {
        self.wait_for("a message", |event| match event {
            Event::Message(message) => Ok(*message),
            other => Err(other),
        })
    }

    /// Waits until the broker has closed the connection and returns the Reason Code of its DISCONNECT.
    ///
    /// # Panics
    /// If it does not close the connection.
    pub fn closed(&mut self) -> Option<u8> {
        self.wait_for("the broker closing the connection", |event| match event {
            Event::Closed(reason) => Ok(reason),
            other => Err(other),
        })
    }

    fn order(&mut self, order: Order) -> Reply {
        let what = format!("the outcome of {order:?}");
        self.backend.give(order);
        let outcome = self.wait_for(&what, |event| match event {
            Event::Reply(outcome) => Ok(outcome),
            other => Err(other),
        });
        outcome.unwrap_or_else(|error| panic!("{what} is an error: {error}"))
    }

    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(Event) -> Result<T, Event>) -> T {
        let mut others = VecDeque::new();
        while let Some(event) = self.waiting.pop_front() {
            match wanted(event) {
                Ok(found) => {
                    others.append(&mut self.waiting);
                    self.waiting = others;
                    return found;
                }
                Err(other) => others.push_back(other),
            }
        }
        self.waiting = others;
        let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS_MAX);
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => match wanted(event) {
                    Ok(found) => return found,
                    Err(other) => self.waiting.push_back(other),
                },
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "{what} did not come within {ANSWER_SECONDS_MAX} s; other events: {:?}",
                        self.waiting
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the client ended instead of {what}; other events: {:?}", self.waiting)
                }
            }
        }
    }
}

/// Starts a puppet that is written in Python; none if it is not installed.
fn python(
    script: &str,
    version: Version,
    port: u16,
    carrier: &Carrier,
    events: Sender<Event>,
) -> Option<Box<dyn Backend>> {
    let mut command = Command::new(require_installed(".venv/bin/python")?);
    command.arg(require_installed(script)?);
    Some(Box::new(Process::start(command, version, port, carrier, events)))
}

/// A puppet program.
struct Process {
    child: Child,
    orders: ChildStdin,
    /// For payloads that are too large for a line.
    directory: TempDir,
}

impl Process {
    fn start(
        mut command: Command,
        version: Version,
        port: u16,
        carrier: &Carrier,
        events: Sender<Event>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        command.arg(port.to_string()).arg(version.name()).arg(directory.path()).arg(carrier.name());
        command.args(carrier.authority());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let orders = child.stdin.take().expect("standard input is piped");
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event =
                    read_event(&line).unwrap_or_else(|| Event::Reply(Err(format!("the puppet said {line}"))));
                if events.send(event).is_err() {
                    break;
                }
            }
        });
        Self { child, orders, directory }
    }
}

impl Backend for Process {
    fn give(&mut self, order: Order) {
        let line = match order {
            Order::Connect(connect) => json!({
                "op": "connect",
                "id": connect.id,
                "clean": connect.clean,
                "expiry": connect.expiry,
                "will": connect.will.map(|will| will.to_json(self.directory.path())),
                "receive_maximum": connect.receive_maximum,
                "topic_alias_maximum": connect.topic_alias_maximum,
            }),
            Order::Subscribe { filter, qos, id } => {
                json!({ "op": "subscribe", "filter": filter, "qos": qos, "id": id })
            }
            Order::Unsubscribe { filter } => json!({ "op": "unsubscribe", "filter": filter }),
            Order::Publish(message) => {
                let mut line = message.to_json(self.directory.path());
                line["op"] = "publish".into();
                line
            }
            Order::Disconnect => json!({ "op": "disconnect" }),
        };
        // A puppet that has ended is noticed where its reply is awaited.
        let _ = writeln!(self.orders, "{line}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; it is reaped either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_event(line: &str) -> Option<Event> {
    let value: Value = serde_json::from_str(line).ok()?;
    if let Some(reply) = value.get("reply") {
        return Some(Event::Reply(Ok(Reply {
            session_present: reply["session_present"].as_bool(),
            assigned_id: reply["assigned_id"].as_str().map(str::to_owned),
            code: reply["code"].as_u64().and_then(|code| u8::try_from(code).ok()),
        })));
    }
    if let Some(message) = value.get("message") {
        return Message::from_json(message).map(|message| Event::Message(Box::new(message)));
    }
    if let Some(closed) = value.get("closed") {
        return Some(Event::Closed(closed["reason"].as_u64().and_then(|reason| u8::try_from(reason).ok())));
    }
    value["error"].as_str().map(|error| Event::Reply(Err(error.to_owned())))
}
