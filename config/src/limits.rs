//! What a client may make the broker hold or do, and how those limits depend on each other.
//!
//! The range of each limit is in `options`; every relation between two limits is here and nowhere else.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;
use crate::relations::{Known, Setting};

/// The bytes of a CONNECT that are not its Client Identifier: fixed and variable header, common properties.
const CONNECT_OVERHEAD_BYTES: u64 = 256;

/// What a client may make the broker hold or do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Maximum Packet Size we announce (MQTT 5 section 3.2.2.3.6): a whole packet with its fixed header, in bytes.
    pub packet_bytes_max: u32,
    /// The largest payload of a message, in bytes; 0 is whatever fits into a packet.
    pub payload_bytes_max: u32,
    /// The largest packet taken before the client is authenticated, in bytes; no larger than any other packet.
    pub connect_packet_bytes_max: u32,
    /// From accept to CONNACK, in seconds.
    pub connect_seconds_max: u32,
    /// Network Connections at one time, all listeners together.
    pub connections_max: u32,
    /// Network Connections at one time from one IP address; 0 does not limit.
    pub connections_per_address_max: u32,
    /// Network Connections at one time that are not established yet.
    pub opening_connections_max: u32,
    /// Of those, as many from one address; 0 is no limit.
    pub opening_connections_per_address_max: u32,
    /// The resident memory of the process that the broker keeps below by refusing, in bytes; 0 does not watch it.
    pub memory_bytes: u64,
    /// Sessions at one time, connected or not; 0 is no bound.
    pub sessions_max: u32,
    /// Takeovers of one Client Identifier in a minute; 0 is no bound.
    pub takeovers_per_minute_max: u32,
    /// TLS handshakes in progress at one time.
    pub tls_handshakes_max: u32,
    /// The longest Keep Alive granted (Server Keep Alive), in seconds; 0 grants what is asked.
    pub keep_alive_seconds_max: u16,
    /// The longest Session Expiry Interval granted, in seconds; 4,294,967,295 grants what is asked, even never.
    pub session_expiry_seconds_max: u32,
    /// Receive Maximum we announce: QoS 1 and 2 publications a client may have in flight to us.
    pub receive_maximum: u16,
    /// The most QoS 1 and 2 messages we keep in flight to a client, however many it would take.
    pub inflight_max: u16,
    /// The bytes of messages in flight to a client above which no further one is sent; 0 is no bound.
    pub inflight_bytes_max: u64,
    /// Topic Alias Maximum we announce; 0 takes no alias.
    pub topic_alias_maximum: u16,
    /// Topics of one connection that get an alias towards its client, if that takes as many; 0 uses none.
    pub topic_alias_to_client_max: u16,
    /// Levels in a Topic Name or Topic Filter.
    pub topic_levels_max: u32,
    /// The UTF-8 bytes of a Client Identifier.
    pub client_id_bytes_max: u16,
    /// User Properties in one packet, those of a Will Message included; more are refused with 0x97, Quota exceeded.
    pub user_properties_max: u32,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: u32,
    /// Messages waiting in one session, in flight or not.
    pub session_queue_messages_max: u32,
    /// The bytes of messages waiting in one session.
    pub session_queue_bytes_max: u64,
    /// The bytes of messages waiting in one session that stay in memory.
    pub session_queue_memory_bytes: u64,
    /// The bytes of messages waiting in all sessions that may stay in memory.
    pub queue_memory_bytes: u64,
    /// The bytes of messages waiting in all sessions.
    pub queue_bytes_max: u64,
    /// The encoded bytes that may wait for one socket; a single larger packet may exceed it when it waits alone.
    pub outbox_bytes_max: u64,
    /// How long bytes may wait for a socket that takes none, in seconds, before the connection is closed.
    pub write_seconds_max: u32,
    /// The bytes on their way from one shard to another.
    pub mailbox_bytes_max: u64,
    /// The bytes of all retained messages together.
    pub retained_bytes_max: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            packet_bytes_max: 16 * 1024 * 1024,
            payload_bytes_max: 0,
            connect_packet_bytes_max: 64 * 1024,
            connect_seconds_max: 10,
            connections_max: 100_000,
            connections_per_address_max: 0,
            opening_connections_max: 10_000,
            opening_connections_per_address_max: 2_500,
            memory_bytes: 0,
            sessions_max: 0,
            takeovers_per_minute_max: 600,
            tls_handshakes_max: 1_000,
            keep_alive_seconds_max: 0,
            session_expiry_seconds_max: u32::MAX,
            receive_maximum: 1_024,
            inflight_max: 1_024,
            inflight_bytes_max: 64 * 1024 * 1024,
            topic_alias_maximum: 16,
            topic_alias_to_client_max: 16,
            topic_levels_max: 200,
            client_id_bytes_max: 1_024,
            user_properties_max: 128,
            subscriptions_per_session_max: 10_000,
            session_queue_messages_max: 100_000,
            session_queue_bytes_max: 64 * 1024 * 1024,
            session_queue_memory_bytes: 1024 * 1024,
            queue_memory_bytes: 256 * 1024 * 1024,
            queue_bytes_max: 4 * 1024 * 1024 * 1024,
            outbox_bytes_max: 1024 * 1024,
            write_seconds_max: 60,
            mailbox_bytes_max: 32 * 1024 * 1024,
            retained_bytes_max: 256 * 1024 * 1024,
        }
    }
}

impl LimitsConfig {
    /// Checks every relation between two limits.
    ///
    /// # Errors
    /// The first relation that does not hold, with both keys, both values and where each was set.
    pub(crate) fn check(&self, known: &Known) -> Result<(), ConfigError> {
        let packet = Setting::new("limits.packet_bytes_max", self.packet_bytes_max);
        let connect = Setting::new("limits.connect_packet_bytes_max", self.connect_packet_bytes_max);
        let client_id = Setting::new("limits.client_id_bytes_max", self.client_id_bytes_max);
        let queue_bytes = Setting::new("limits.session_queue_bytes_max", self.session_queue_bytes_max);
        let all_queues = Setting::new("limits.queue_bytes_max", self.queue_bytes_max);
        let mailbox = Setting::new("limits.mailbox_bytes_max", self.mailbox_bytes_max);
        let retained = Setting::new("limits.retained_bytes_max", self.retained_bytes_max);

        known.at_least(
            connect,
            client_id,
            CONNECT_OVERHEAD_BYTES,
            "a CONNECT with the longest Client Identifier must fit",
        )?;
        known.at_least(queue_bytes, packet, 0, "the largest packet must fit into an empty queue")?;
        known.at_least(all_queues, queue_bytes, 0, "one session may use all of it")?;
        known.at_least(mailbox, packet, 0, "the largest packet must fit into an empty mailbox")?;
        known.at_least(retained, packet, 0, "the largest packet may be a retained message")
    }
}
