//! How much there is: counts of records by kind, as reports and the end of an export give them.

use core::fmt;

use serde::Serialize;
use veilmq_core::{Message, Record};

/// Counts of what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Sessions.
    pub(crate) sessions: u64,
    /// Subscriptions of all sessions.
    pub(crate) subscriptions: u64,
    /// Message bodies that sessions wait for; each is stored once.
    pub(crate) messages: u64,
    /// Needs of a session for a message.
    pub(crate) deliveries: u64,
    /// QoS 2 Packet Identifiers that await PUBREL.
    pub(crate) received: u64,
    /// Retained messages.
    pub(crate) retained: u64,
    /// Bytes of the topics, properties and payloads of messages and retained messages.
    pub(crate) message_bytes: u64,
}

impl Tally {
    /// Counts one record of a replay; those that say that something is gone are in none.
    pub(crate) fn add(&mut self, record: &Record) {
        match record {
            Record::Session(_) => self.sessions += 1,
            Record::Subscribed { .. } => self.subscriptions += 1,
            Record::Published { message, references } => {
                self.messages += 1;
                self.deliveries += references.len() as u64;
                self.message_bytes += bytes(message);
            }
            Record::Advanced { .. } => self.deliveries += 1,
            Record::Received { .. } => self.received += 1,
            Record::Retained { message } => {
                self.retained += 1;
                self.message_bytes += bytes(message);
            }
            Record::SessionEnded { .. }
            | Record::Unsubscribed { .. }
            | Record::Forgotten { .. }
            | Record::Settled { .. }
            | Record::Released { .. }
            | Record::RetainedCleared { .. } => {}
        }
    }

    /// Returns the number of everything that was counted.
    pub(crate) fn records(&self) -> u64 {
        let Self { sessions, subscriptions, messages, deliveries, received, retained, message_bytes: _ } =
            self;
        sessions + subscriptions + messages + deliveries + received + retained
    }
}

fn bytes(message: &Message) -> u64 {
    (message.topic().len() + message.application_properties().len() + message.payload().len()) as u64
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, subscriptions, messages, deliveries, received, retained, message_bytes } = self;
        write!(
            f,
            "{sessions} sessions, {subscriptions} subscriptions, {messages} messages, {deliveries} deliveries, \
             {received} received, {retained} retained, {message_bytes} bytes of messages"
        )
    }
}
