//! The metrics of a shard, each with where its value is counted.

use std::sync::atomic::{AtomicU64, Ordering};

use veilmq_protocol::veil::channel::Operations;

use self::Cells::{Each, One};
use super::SampleKind::{self, Counter, Gauge};
use super::{DROPS, HANDSHAKES, JoinResult, KeyHeadResult, PACKETS, QOS, SESSIONS, Sample, Stats};
use crate::access::Action;
use crate::e2e::DistributionRefusal;
use crate::farewell::CloseLabel;

struct Metric {
    name: &'static str,
    help: &'static str,
    kind: SampleKind,
    cells: Cells,
}

/// Where the values of a metric are.
enum Cells {
    One(fn(&Stats) -> &AtomicU64),
    /// The name of a label, its values, and a cell for each.
    Each(&'static str, &'static [&'static str], fn(&Stats) -> &[AtomicU64]),
}

static METRICS: [Metric; 30] = [
    metric(
        Counter,
        "veilmq_packets_received_total",
        "MQTT Control Packets received.",
        Each("type", PACKETS.split_at(1).1, |stats| &stats.packets_received[1..]),
    ),
    metric(
        Counter,
        "veilmq_packets_sent_total",
        "MQTT Control Packets sent.",
        Each("type", PACKETS.split_at(1).1, |stats| &stats.packets_sent[1..]),
    ),
    metric(
        Counter,
        "veilmq_messages_received_total",
        "Application Messages received from clients.",
        Each("qos", &QOS, |stats| &stats.messages_received),
    ),
    metric(
        Counter,
        "veilmq_messages_delivered_total",
        "Application Messages sent to subscribers.",
        Each("qos", &QOS, |stats| &stats.messages_delivered),
    ),
    metric(
        Counter,
        "veilmq_messages_dropped_total",
        "Deliveries that did not take place.",
        Each("reason", &DROPS, |stats| &stats.messages_dropped),
    ),
    metric(
        Counter,
        "veilmq_connections_closed_total",
        "Network Connections closed.",
        Each("reason", &CloseLabel::NAMES, |stats| &stats.connections_closed),
    ),
    metric(
        Counter,
        "veilmq_channel_operations_total",
        "Cryptographic operations on records and messages of VEIL-1 channels; handshakes are not among them.",
        Each("operation", &Operations::NAMES, |stats| &stats.channel_operations),
    ),
    metric(
        Counter,
        "veilmq_acl_checks_total",
        "Times that the rules on what clients may do were asked.",
        Each("action", &Action::NAMES, |stats| &stats.acl_checks),
    ),
    metric(
        Counter,
        "veilmq_acl_denied_total",
        "Times that they said no.",
        Each("action", &Action::NAMES, |stats| &stats.acl_denied),
    ),
    metric(
        Counter,
        "veilmq_keyhead_total",
        "KEYHEADs that were looked at.",
        Each("result", &KeyHeadResult::NAMES, |stats| &stats.key_heads),
    ),
    metric(
        Counter,
        "veilmq_join_total",
        "Joins that clients asked for with CONNECT.",
        Each("result", &JoinResult::NAMES, |stats| &stats.joins),
    ),
    metric(
        Counter,
        "veilmq_distribution_rejected_total",
        "Objects of key distribution that were refused.",
        Each("reason", &DistributionRefusal::NAMES, |stats| &stats.distribution_rejected),
    ),
    metric(
        Counter,
        "veilmq_bytes_received_total",
        "Bytes received from clients.",
        One(|stats| &stats.bytes_received),
    ),
    metric(
        Counter,
        "veilmq_message_bytes_received_total",
        "Bytes of the payloads of Application Messages received from clients.",
        One(|stats| &stats.payload_bytes_received),
    ),
    metric(
        Counter,
        "veilmq_message_bytes_delivered_total",
        "Bytes of the payloads of Application Messages sent to subscribers.",
        One(|stats| &stats.payload_bytes_sent),
    ),
    metric(
        Counter,
        "veilmq_message_targets_total",
        "Sessions that Application Messages were for when these were accepted, each counted for each message.",
        One(|stats| &stats.message_targets),
    ),
    metric(
        Counter,
        "veilmq_sessions_expired_total",
        "Sessions ended because their Session Expiry Interval had passed.",
        One(|stats| &stats.sessions_expired),
    ),
    metric(Counter, "veilmq_bytes_sent_total", "Bytes queued for clients.", One(|stats| &stats.bytes_sent)),
    metric(
        Counter,
        "veilmq_connections_opened_total",
        "Network Connections accepted.",
        One(|stats| &stats.connections_opened),
    ),
    metric(
        Counter,
        "veilmq_channel_handshakes_total",
        "VEIL-1 channel handshakes.",
        Each("result", &HANDSHAKES, |stats| &stats.handshakes),
    ),
    metric(
        Counter,
        "veilmq_channel_record_auth_failures_total",
        "VEIL-1 records that were refused.",
        One(|stats| &stats.record_failures),
    ),
    metric(
        Counter,
        "veilmq_channel_group_rekeys_total",
        "Broker group keys that took the place of another.",
        One(|stats| &stats.group_rekeys),
    ),
    metric(Gauge, "veilmq_connections", "Network Connections open now.", One(|stats| &stats.connections)),
    metric(Gauge, "veilmq_sessions", "Sessions held.", Each("state", &SESSIONS, |stats| &stats.sessions)),
    metric(Gauge, "veilmq_subscriptions", "Subscriptions held.", One(|stats| &stats.subscriptions)),
    metric(
        Gauge,
        "veilmq_shared_subscriptions",
        "Shared Subscriptions among those held.",
        One(|stats| &stats.shared_subscriptions),
    ),
    metric(
        Gauge,
        "veilmq_queued_messages",
        "Deliveries waiting for quota, space or a connection.",
        One(|stats| &stats.queued_messages),
    ),
    metric(
        Gauge,
        "veilmq_queued_bytes",
        "Bytes of the deliveries that wait.",
        One(|stats| &stats.queued_bytes),
    ),
    metric(
        Gauge,
        "veilmq_queued_memory_bytes",
        "Bytes of the deliveries that wait in memory; the others wait in the store.",
        One(|stats| &stats.queued_memory_bytes),
    ),
    metric(
        Gauge,
        "veilmq_inflight_messages",
        "QoS 1 and 2 deliveries that await the client.",
        One(|stats| &stats.inflight_messages),
    ),
];

const fn metric(kind: SampleKind, name: &'static str, help: &'static str, cells: Cells) -> Metric {
    Metric { name, help, kind, cells }
}

impl Stats {
    /// Visits every sample.
    pub fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        for &Metric { name, help, kind, ref cells } in &METRICS {
            let mut sample = |label, cell: &AtomicU64| {
                visit(Sample { name, help, kind, label, value: cell.load(Ordering::Relaxed) });
            };
            match cells {
                One(cell) => sample(None, cell(self)),
                Each(label, values, cells) => {
                    for (value, cell) in values.iter().zip(cells(self)) {
                        sample(Some((label, value)), cell);
                    }
                }
            }
        }
    }
}
