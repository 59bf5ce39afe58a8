//! Packets on their way into outboxes: what writing one touches beside its connection.
//!
//! It stands apart from the shard's other state, so that a packet can be written while a session is at hand, without looking
//! either up again. Invariant: a connection whose outbox grew is in `dirty` until the turn ends.

use std::sync::Arc;

use veilmq_protocol::{Packet, PacketId, PacketType, PublishHead, QoS};

use super::fan_out::publish_in_group;
use crate::connection::Established;
use crate::explanation;
use crate::groups::Groups;
use crate::id::ConnectionId;
use crate::message::Message;
use crate::outbox::{Buffers, Outbox};
use crate::settings::SettingsInForce;
use crate::stats::{DropReason, Stats};
use crate::time::Moment;
use crate::waiting::Delivery;

/// What all connections of a shard share for writing.
pub(super) struct Outgoing {
    /// What the shard goes by.
    pub(super) settings: Arc<SettingsInForce>,
    stats: Arc<Stats>,
    pub(super) groups: Groups,
    /// Connections whose outbox grew in this turn.
    pub(super) dirty: Vec<ConnectionId>,
    buffers: Buffers,
}

/// A PUBLISH to one subscriber.
pub(super) struct Sending<'a> {
    pub(super) message: &'a Arc<Message>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: &'a [u32],
    pub(super) packet_id: Option<PacketId>,
    pub(super) dup: bool,
}

impl<'a> Sending<'a> {
    /// The PUBLISH of a delivery.
    pub(super) fn of(delivery: &'a Delivery, packet_id: Option<PacketId>, dup: bool) -> Self {
        Self {
            message: &delivery.message,
            qos: delivery.qos,
            retain: delivery.retain,
            subscription_ids: &delivery.subscription_ids,
            packet_id,
            dup,
        }
    }
}

impl Outgoing {
    pub(super) fn new(settings: Arc<SettingsInForce>, stats: Arc<Stats>, groups: Groups) -> Self {
        Self { settings, stats, groups, dirty: Vec::new(), buffers: Buffers::default() }
    }

    /// Writes a packet that is not a PUBLISH.
    pub(super) fn send(&mut self, established: &mut Established, packet: &Packet<'_>) {
        self.lend(established.wire.outbox());
        let is_full = established.wire.waiting_bytes() >= self.settings.outbox_bytes_max;
        match established.wire.send(packet) {
            Ok(bytes) => {
                if is_full {
                    let owed = u32::try_from(bytes).unwrap_or(u32::MAX);
                    established.owed_bytes = established.owed_bytes.saturating_add(owed);
                }
                self.grew(established, packet.packet_type(), bytes);
            }
            // A packet other than PUBLISH is only ever too large because of the client's own limit.
            Err(error) => {
                tracing::debug!(connection = established.connection.0, %error, "packet not sent");
            }
        }
    }

    /// Writes an acknowledgement, with a Reason String if it says no, the client takes it and it fits: `why`, or what is said of its Reason Code ([MQTT-3.4.2-2],
    /// [MQTT-3.5.2-2], [MQTT-3.6.2-2], [MQTT-3.7.2-2], [MQTT-3.9.2-1], [MQTT-3.11.2-1]). It carries no User Properties, so these
    /// are never too much ([MQTT-3.4.2-3], [MQTT-3.5.2-3], [MQTT-3.6.2-3], [MQTT-3.7.2-3], [MQTT-3.9.2-2], [MQTT-3.11.2-2]).
    pub(super) fn send_explained(
        &mut self,
        established: &mut Established,
        packet: &Packet<'_>,
        why: Option<&'static str>,
    ) {
        let explained = if established.wire.explains { explanation::explained(packet, why) } else { None };
        match explained.filter(|packet| established.wire.takes(packet)) {
            Some(explained) => self.send(established, &explained),
            None => self.send(established, packet),
        }
    }

    /// Writes a PUBLISH; false if the client does not take packets of this size ([MQTT-3.1.2-25]).
    pub(super) fn publish(
        &mut self,
        established: &mut Established,
        sending: &Sending<'_>,
        now: Moment,
    ) -> bool {
        let message = sending.message;
        // It subscribed by another listener to what it cannot see here.
        let Some(topic) = established.offer.seen_topic(message.topic_as_bytes()) else { return false };
        let head = PublishHead {
            dup: sending.dup,
            qos: sending.qos,
            retain: sending.retain,
            packet_id: sending.packet_id,
            topic,
            topic_alias: None,
            message_expiry_seconds: message.remaining_seconds(now),
            subscription_ids: sending.subscription_ids,
            // As they came and in their order: [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17],
            // [MQTT-3.3.2-18], [MQTT-3.3.2-20].
            application_properties: message.application_properties(),
            payload_len: message.payload().len(),
        };
        self.lend(established.wire.outbox());
        let sent = match established.wire.group() {
            None => established.wire.publish(&head, message),
            Some(_) => publish_in_group(established, &mut self.groups, &head, message, now),
        };
        match sent {
            Ok(bytes) => {
                self.stats.message_delivered(sending.qos, message.payload().len());
                self.grew(established, PacketType::Publish, bytes);
                true
            }
            Err(error) => {
                tracing::debug!(connection = established.connection.0, %error, "message not sent");
                self.stats.messages_dropped(DropReason::TooLarge, 1);
                false
            }
        }
    }

    /// Gives an outbox a buffer that is about to be written into.
    pub(super) fn lend(&mut self, outbox: &mut Outbox) {
        outbox.borrow_buffer(&mut self.buffers);
    }

    /// Takes back the buffer of an outbox that was written out.
    pub(super) fn written(&mut self, outbox: &mut Outbox) {
        outbox.return_buffer(&mut self.buffers);
    }

    fn grew(&mut self, established: &mut Established, packet: PacketType, bytes: usize) {
        if established.becomes_dirty() {
            self.dirty.push(established.connection);
        }
        self.stats.packet_sent(packet);
        self.stats.bytes_sent(bytes);
    }
}
