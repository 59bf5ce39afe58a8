//! The options of what a client may make the broker hold or do.

use super::{MEMORY_BYTES_MAX, OptionSpec, integer};

pub(super) const OPTIONS: &[OptionSpec] = &[
    integer(
        "limits.packet_bytes_max",
        20,
        268_435_460,
        "Maximum Packet Size announced: a whole packet with its fixed header, in bytes.",
    ),
    integer(
        "limits.payload_bytes_max",
        0,
        268_435_455,
        "Largest payload of a message, in bytes; a larger one is acknowledged with 0x83 and goes to nobody. 0 is what fits into a packet.",
    ),
    integer(
        "limits.connect_packet_bytes_max",
        1_024,
        1 << 20,
        "Largest packet taken before the client is authenticated, in bytes, if `limits.packet_bytes_max` is no less.",
    ),
    integer(
        "limits.connect_seconds_max",
        1,
        300,
        "Time from accept to CONNACK, and for a re-authentication, in seconds.",
    ),
    integer(
        "limits.connections_max",
        1,
        10_000_000,
        "Network Connections at one time, all listeners together.",
    ),
    integer(
        "limits.tls_handshakes_max",
        1,
        1_000_000,
        "TLS handshakes in progress at one time; further connections are closed.",
    ),
    integer(
        "limits.keep_alive_seconds_max",
        0,
        65_535,
        "Longest Keep Alive granted (Server Keep Alive), in seconds; 0 grants what is asked.",
    ),
    integer(
        "limits.session_expiry_seconds_max",
        0,
        4_294_967_295,
        "Longest Session Expiry Interval granted, in seconds; 4294967295 grants what is asked, even never.",
    ),
    integer(
        "limits.receive_maximum",
        1,
        65_535,
        "Receive Maximum announced: QoS 1 and 2 publications a client may have in flight to the broker.",
    ),
    integer(
        "limits.inflight_max",
        1,
        65_535,
        "QoS 1 and 2 messages in flight to a client, even if it would take more.",
    ),
    integer(
        "limits.inflight_bytes_max",
        0,
        MEMORY_BYTES_MAX,
        "Payload bytes in flight to a client above which no further QoS 1 or 2 message is sent; 0 is no bound.",
    ),
    integer("limits.topic_alias_maximum", 0, 65_535, "Topic Alias Maximum announced; 0 takes no alias."),
    integer(
        "limits.topic_alias_to_client_max",
        0,
        1_024,
        "Topics of one connection that get an alias towards its client, if that takes as many; 0 uses none.",
    ),
    integer("limits.topic_levels_max", 1, 65_536, "Levels in a Topic Name or Topic Filter."),
    integer("limits.client_id_bytes_max", 23, 65_535, "UTF-8 bytes of a Client Identifier."),
    integer(
        "limits.user_properties_max",
        0,
        65_535,
        "User Properties in one packet; more are refused with 0x97.",
    ),
    integer("limits.subscriptions_per_session_max", 1, 1_000_000, "Subscriptions of one session."),
    integer(
        "limits.session_queue_messages_max",
        1,
        100_000_000,
        "Messages waiting in one session; at least `limits.inflight_max`.",
    ),
    integer(
        "limits.session_queue_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in one session; at least `limits.packet_bytes_max`.",
    ),
    integer(
        "limits.session_queue_memory_bytes",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in one session that stay in memory; the newer ones are in the store alone.",
    ),
    integer(
        "limits.queue_memory_bytes",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in all sessions beyond which newer ones are in the store alone.",
    ),
    integer(
        "limits.queue_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of messages waiting in all sessions, in memory or in the store; at least `limits.session_queue_bytes_max`.",
    ),
    integer(
        "limits.outbox_bytes_max",
        4_096,
        1 << 30,
        "Encoded bytes that may wait for one socket; a single larger packet may exceed it when it waits alone.",
    ),
    integer(
        "limits.write_seconds_max",
        1,
        3_600,
        "How long bytes may wait for a socket that takes none, in seconds, before the connection is closed.",
    ),
    integer(
        "limits.mailbox_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes on their way from one shard to another; at least `limits.packet_bytes_max`.",
    ),
    integer(
        "limits.retained_bytes_max",
        1_024,
        MEMORY_BYTES_MAX,
        "Bytes of all retained messages together; at least `limits.packet_bytes_max`.",
    ),
];
