//! What a shard counts. Only the shard writes; anyone may read at any time.

mod metrics;

use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_protocol::veil::channel::Operations;
use veilmq_protocol::{PacketType, QoS};

use crate::access::Action;
use crate::e2e::DistributionRefusal;
use crate::farewell::CloseLabel;

/// The values of the label `type`, indexed by packet type.
const PACKETS: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];
const QOS: [&str; 3] = ["0", "1", "2"];
/// What became of a handshake: the values of the label `result`.
const HANDSHAKES: [&str; 2] = ["failure", "success"];
/// Whether a session has a client: the values of the label `state`.
const SESSIONS: [&str; 2] = ["connected", "disconnected"];

/// Why a message was not delivered to a session: the values of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// The session's queue is at its limit.
    QueueFull,
    /// A QoS 0 message found no space, or its client left.
    Unassured,
    /// The packet would exceed the client's Maximum Packet Size, or the payload exceeds what the broker takes.
    TooLarge,
    /// The Message Expiry Interval passed.
    Expired,
    /// It was to be retained, and retained messages are at their limit, so it reached nobody.
    RetainedFull,
    /// Its publisher may not publish to its topic, or whoever it waited for may not receive it any more.
    NotAuthorized,
    /// It had to be stored, and storage takes nothing new: it reached nobody, or was not retained.
    StorageFull,
    /// The queues of all sessions together are at their limit.
    QueuesFull,
    /// It waited in the store and cannot be read back.
    Unreadable,
    /// A policy on end-to-end encryption refused it.
    EndToEnd,
}

const DROPS: [&str; 10] = [
    "queue_full",
    "qos0_no_space",
    "too_large",
    "expired",
    "retained_full",
    "not_authorized",
    "storage_full",
    "queues_full",
    "unreadable",
    "e2e_policy",
];

/// What became of a KEYHEAD: the values of the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyHeadResult {
    Accepted,
    /// It does not verify, or does not go on from the one before.
    Rejected,
}

impl KeyHeadResult {
    const NAMES: [&'static str; 2] = ["accepted", "rejected"];
}

/// What became of a join that a client asked for with CONNECT: the values of the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinResult {
    /// The issuer has answered; whether it gives keys, only the client can tell.
    Answered,
    /// It has not, in time.
    Pending,
    /// The request was not passed on.
    Refused,
}

impl JoinResult {
    const NAMES: [&'static str; 3] = ["answered", "pending", "refused"];
}

/// Counters and gauges of one shard.
#[derive(Debug, Default)]
pub struct Stats {
    packets_received: [AtomicU64; 16],
    packets_sent: [AtomicU64; 16],
    messages_received: [AtomicU64; 3],
    messages_delivered: [AtomicU64; 3],
    message_targets: AtomicU64,
    messages_dropped: [AtomicU64; DROPS.len()],
    payload_bytes_received: AtomicU64,
    payload_bytes_sent: AtomicU64,
    sessions_expired: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    connections_opened: AtomicU64,
    connections_closed: [AtomicU64; CloseLabel::NAMES.len()],
    handshakes: [AtomicU64; HANDSHAKES.len()],
    record_failures: AtomicU64,
    group_rekeys: AtomicU64,
    channel_operations: [AtomicU64; Operations::NAMES.len()],
    acl_checks: [AtomicU64; Action::NAMES.len()],
    acl_denied: [AtomicU64; Action::NAMES.len()],
    key_heads: [AtomicU64; KeyHeadResult::NAMES.len()],
    joins: [AtomicU64; JoinResult::NAMES.len()],
    distribution_rejected: [AtomicU64; DistributionRefusal::NAMES.len()],
    connections: AtomicU64,
    sessions: [AtomicU64; SESSIONS.len()],
    subscriptions: AtomicU64,
    shared_subscriptions: AtomicU64,
    queued_messages: AtomicU64,
    queued_bytes: AtomicU64,
    queued_memory_bytes: AtomicU64,
    inflight_messages: AtomicU64,
}

/// Whether a sample only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One value, named as Prometheus shows it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: SampleKind,
    /// A label and its value, if the metric has one.
    pub label: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: u64,
}

impl Stats {
    pub(crate) fn packet_received(&self, packet: PacketType) {
        increment(&self.packets_received[packet as usize & 15]);
    }

    pub(crate) fn packet_sent(&self, packet: PacketType) {
        increment(&self.packets_sent[packet as usize & 15]);
    }

    pub(crate) fn message_received(&self, qos: QoS, payload_bytes: usize) {
        increment(&self.messages_received[qos as usize]);
        add(&self.payload_bytes_received, payload_bytes as u64);
    }

    pub(crate) fn message_delivered(&self, qos: QoS, payload_bytes: usize) {
        increment(&self.messages_delivered[qos as usize]);
        add(&self.payload_bytes_sent, payload_bytes as u64);
    }

    /// A message was accepted that so many sessions want.
    pub(crate) fn message_targets(&self, count: usize) {
        add(&self.message_targets, count as u64);
    }

    pub(crate) fn session_expired(&self) {
        increment(&self.sessions_expired);
    }

    pub(crate) fn messages_dropped(&self, reason: DropReason, count: usize) {
        add(&self.messages_dropped[reason as usize], count as u64);
    }

    pub(crate) fn bytes_received(&self, bytes: usize) {
        add(&self.bytes_received, bytes as u64);
    }

    pub(crate) fn bytes_sent(&self, bytes: usize) {
        add(&self.bytes_sent, bytes as u64);
    }

    pub(crate) fn connection_opened(&self) {
        increment(&self.connections_opened);
    }

    pub(crate) fn connection_closed(&self, label: CloseLabel) {
        increment(&self.connections_closed[label as usize]);
        if label == CloseLabel::RecordAuthentication {
            increment(&self.record_failures);
        }
    }

    pub(crate) fn handshake(&self, succeeded: bool) {
        increment(&self.handshakes[usize::from(succeeded)]);
    }

    /// Shows how many group keys took the place of another.
    pub(crate) fn group_rekeys(&self, total: u64) {
        self.group_rekeys.store(total, Ordering::Relaxed);
    }

    /// Cryptography was used on records or messages of channels.
    pub(crate) fn channel_operations(&self, made: &Operations) {
        for (cell, count) in self.channel_operations.iter().zip(made.counts()) {
            add(cell, count);
        }
    }

    /// A rule was asked for.
    pub(crate) fn acl_checked(&self, action: Action, is_allowed: bool) {
        increment(&self.acl_checks[action as usize]);
        if !is_allowed {
            increment(&self.acl_denied[action as usize]);
        }
    }

    pub(crate) fn key_head(&self, result: KeyHeadResult) {
        increment(&self.key_heads[result as usize]);
    }

    pub(crate) fn join(&self, result: JoinResult) {
        increment(&self.joins[result as usize]);
    }

    pub(crate) fn distribution_rejected(&self, refusal: DistributionRefusal) {
        increment(&self.distribution_rejected[refusal as usize]);
    }

    pub(crate) fn gauges(&self, gauges: &Gauges) {
        for (cell, value) in [
            (&self.connections, gauges.connections),
            (&self.sessions[0], gauges.sessions_connected),
            (&self.sessions[1], gauges.sessions_disconnected),
            (&self.subscriptions, gauges.subscriptions),
            (&self.shared_subscriptions, gauges.shared_subscriptions),
            (&self.queued_messages, gauges.queued_messages),
            (&self.queued_bytes, gauges.queued_bytes),
            (&self.queued_memory_bytes, gauges.queued_memory_bytes),
            (&self.inflight_messages, gauges.inflight_messages),
        ] {
            cell.store(value as u64, Ordering::Relaxed);
        }
    }

    /// Returns how many Application Messages were received from clients.
    pub fn messages_received_so_far(&self) -> u64 {
        self.messages_received.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    /// Returns how many sessions the messages were for that were accepted, each counted for each message.
    pub fn message_targets_so_far(&self) -> u64 {
        self.message_targets.load(Ordering::Relaxed)
    }

    /// Adds what this shard has counted and holds to the totals of the broker.
    pub fn add_to(&self, totals: &mut Totals) {
        let sum = |cells: &[AtomicU64]| cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum::<u64>();
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        for (total, value) in [
            (&mut totals.packets_received, sum(&self.packets_received)),
            (&mut totals.packets_sent, sum(&self.packets_sent)),
            (&mut totals.connects_received, read(&self.packets_received[PacketType::Connect as usize])),
            (&mut totals.messages_received, sum(&self.messages_received)),
            (&mut totals.messages_delivered, sum(&self.messages_delivered)),
            (&mut totals.messages_dropped, sum(&self.messages_dropped)),
            (&mut totals.payload_bytes_received, read(&self.payload_bytes_received)),
            (&mut totals.payload_bytes_sent, read(&self.payload_bytes_sent)),
            (&mut totals.bytes_received, read(&self.bytes_received)),
            (&mut totals.bytes_sent, read(&self.bytes_sent)),
            (&mut totals.connections_opened, read(&self.connections_opened)),
            (&mut totals.sessions_expired, read(&self.sessions_expired)),
            (&mut totals.sessions_connected, read(&self.sessions[0])),
            (&mut totals.sessions_disconnected, read(&self.sessions[1])),
            (&mut totals.subscriptions, read(&self.subscriptions)),
            (&mut totals.shared_subscriptions, read(&self.shared_subscriptions)),
            (&mut totals.queued_messages, read(&self.queued_messages)),
            (&mut totals.queued_bytes, read(&self.queued_bytes)),
            (&mut totals.inflight_messages, read(&self.inflight_messages)),
        ] {
            *total += value;
        }
    }
}

/// What all shards together have counted since the start, and what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// MQTT Control Packets received.
    pub packets_received: u64,
    /// MQTT Control Packets sent.
    pub packets_sent: u64,
    /// CONNECT packets received.
    pub connects_received: u64,
    /// Application Messages received from clients.
    pub messages_received: u64,
    /// Application Messages sent to subscribers.
    pub messages_delivered: u64,
    /// Deliveries that did not take place.
    pub messages_dropped: u64,
    /// Payload bytes of the messages received.
    pub payload_bytes_received: u64,
    /// Payload bytes of the messages sent.
    pub payload_bytes_sent: u64,
    /// Bytes received from clients.
    pub bytes_received: u64,
    /// Bytes queued for clients.
    pub bytes_sent: u64,
    /// Network Connections accepted.
    pub connections_opened: u64,
    /// Sessions ended because their Session Expiry Interval had passed.
    pub sessions_expired: u64,
    /// Sessions with a Network Connection.
    pub sessions_connected: u64,
    /// Sessions without a Network Connection.
    pub sessions_disconnected: u64,
    /// Subscriptions held.
    pub subscriptions: u64,
    /// Shared subscriptions held.
    pub shared_subscriptions: u64,
    /// Deliveries that wait for quota, space or a connection.
    pub queued_messages: u64,
    /// Bytes of the deliveries that wait.
    pub queued_bytes: u64,
    /// QoS 1 and 2 deliveries that await the client.
    pub inflight_messages: u64,
    /// Retained messages of clients.
    pub retained_messages: u64,
    /// Bytes of the retained messages of clients.
    pub retained_bytes: u64,
    /// Memory that the process occupies now, in bytes.
    pub memory_bytes: u64,
    /// The most memory that the process has occupied, in bytes.
    pub memory_bytes_max: u64,
}

/// What a shard holds at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) connections: usize,
    pub(crate) sessions_connected: usize,
    pub(crate) sessions_disconnected: usize,
    pub(crate) subscriptions: usize,
    pub(crate) shared_subscriptions: usize,
    pub(crate) queued_messages: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) queued_memory_bytes: usize,
    pub(crate) inflight_messages: usize,
}

/// A load and a store instead of a locked addition: there is one writer.
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

fn increment(cell: &AtomicU64) {
    add(cell, 1);
}
