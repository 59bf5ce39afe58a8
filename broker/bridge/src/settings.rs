//! What a bridge is told before it starts. Plain data; the caller has checked what only a configuration can get wrong.

use std::fmt;

use veilmq_protocol::{ProtocolVersion, QoS};

use crate::link::Side;
use crate::mapping::Mapping;

/// One bridge.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What it is on the other broker.
    pub remote: RemoteSettings,
    /// What it is on this one.
    pub local: LocalSettings,
    /// What an earlier configuration has subscribed to and this one does not: it is to be unsubscribed from.
    pub dropped: Filters,
    /// What crosses; the first mapping that wants a message names it on the other side.
    pub mappings: Vec<Mapping>,
    /// What messages that have crossed this bridge carry in MQTT 5, so that none crosses it twice; unlike that of any other bridge
    /// of any broker. `None` marks nothing.
    pub mark: Option<String>,
    /// After how long without a message the bridge ends, in milliseconds; `None` keeps it up.
    pub idle_milliseconds: Option<u64>,
    /// A random key for recognising echoes of MQTT 3.
    pub hash_key: [u8; 16],
}

/// Topic Filters of the two sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// In the session on this broker.
    pub local: Vec<String>,
    /// In the session on the other broker.
    pub remote: Vec<String>,
}

/// The bridge as a client of the other broker.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// The version it speaks.
    pub version: ProtocolVersion,
    /// Whether to say in MQTT 3 that it is a bridge: the other broker, if it knows of that, sends nothing back and leaves RETAIN
    /// as it was published. A broker that does not may refuse the connection.
    pub says_bridge: bool,
    /// Its Client Identifier there.
    pub client_id: String,
    /// Its user name there.
    pub username: Option<String>,
    /// Its password there.
    pub password: Option<Vec<u8>>,
    /// Whether the other broker forgets the session when the connection ends.
    pub clean_start: bool,
    /// How long the other broker keeps the session, in seconds; `None` leaves it out. MQTT 5 only.
    pub session_expiry_seconds: Option<u32>,
    /// The longest silence, in seconds; 0 turns PINGREQ off.
    pub keep_alive_seconds: u16,
    /// Receive Maximum, 1 to 65,535: QoS 1 and 2 messages in flight in either direction.
    pub receive_maximum: u16,
    /// The largest packet taken from the other broker, in bytes.
    pub packet_bytes_max: u32,
    /// Whether CONNECT says so (Maximum Packet Size). MQTT 5 only.
    pub says_packet_bytes_max: bool,
    /// The largest packet sent to the other broker, in bytes, even if it takes larger ones.
    pub sent_packet_bytes_max: Option<u32>,
    /// The highest Topic Alias taken from the other broker; 0 takes none.
    pub topic_alias_maximum: u16,
    /// Where the other broker's clients see whether the bridge is up: a retained `1` or, from its Will, `0`.
    pub notification_topic: Option<String>,
    /// Whether RETAIN is passed on to the other broker.
    pub passes_retain: bool,
    /// Whether to unsubscribe from what is only sent, in case an earlier configuration subscribed to it.
    pub unsubscribes: bool,
}

impl fmt::Debug for RemoteSettings {
    /// Leaves the credentials out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSettings")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// The bridge as a client of this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSettings {
    /// Its Client Identifier here.
    pub client_id: String,
    /// Whether what is published while the bridge is down is forgotten.
    pub clean_start: bool,
    /// How long the session waits for the bridge, in seconds.
    pub session_expiry_seconds: u32,
    /// The highest QoS this broker serves.
    pub maximum_qos: QoS,
    /// Whether this broker keeps retained messages.
    pub keeps_retained: bool,
    /// The largest packet this broker sends, in bytes.
    pub packet_bytes_max: u32,
    /// The most levels of a topic that this broker takes.
    pub topic_levels_max: u32,
    /// The most User Properties of a packet that this broker takes.
    pub user_properties_max: u32,
}

impl Settings {
    /// What the sessions have once the bridge has subscribed, and not yet unsubscribed.
    #[must_use]
    pub fn subscribed(&self) -> Filters {
        let of = |side, dropped: &[String]| {
            let mapped = self.mappings.iter().filter(|mapping| mapping.direction().takes_from(side));
            mapped.map(|mapping| mapping.filter(side).to_owned()).chain(dropped.iter().cloned()).collect()
        };
        Filters {
            local: of(Side::Local, &self.dropped.local),
            remote: of(Side::Remote, &self.dropped.remote),
        }
    }

    /// Takes note of what the sessions had before and are not to have any more. The sessions are the same.
    pub fn drop_filters(&mut self, before: Filters) {
        self.dropped = Filters::default();
        let Filters { local, remote } = self.subscribed();
        let gone = |had: Vec<String>, kept: &[String]| {
            had.into_iter().filter(|filter| !kept.contains(filter)).collect()
        };
        self.dropped = Filters { local: gone(before.local, &local), remote: gone(before.remote, &remote) };
    }

    /// The largest packet taken from one side, in bytes.
    pub(crate) fn packet_bytes_max(&self, from: Side) -> u32 {
        match from {
            Side::Local => self.local.packet_bytes_max,
            Side::Remote => self.remote.packet_bytes_max,
        }
    }

    /// The version spoken on one side.
    pub(crate) fn version(&self, side: Side) -> ProtocolVersion {
        match side {
            Side::Local => ProtocolVersion::V5,
            Side::Remote => self.remote.version,
        }
    }

    /// The first mapping that lets a message cross, and what its topic is called on the other side.
    pub(crate) fn map(&self, from: Side, topic: &str) -> Option<(&Mapping, String)> {
        self.mappings.iter().find_map(|mapping| Some((mapping, mapping.map(from, topic)?)))
    }

    /// Whether the other broker sends back what the bridge publishes there.
    pub(crate) fn is_echoed(&self) -> bool {
        self.remote.version != ProtocolVersion::V5 && !self.remote.says_bridge
    }
}
