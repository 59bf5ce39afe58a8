//! The limits and capabilities of a broker, as the core applies them; configuration fills them in, and a reload does so again.
//!
//! Invariant: what a client was told with CONNACK stands in the [`Entrance`] that its connection keeps, so that other settings change
//! it for later connections only.

use std::ops::Deref;
use std::sync::Arc;

use veilmq_protocol::{DecodeError, TopicFilter, TopicName};

use crate::capabilities::Capabilities;
use crate::durability::RelaxedTopics;
use crate::entrance::{Entrance, EntranceId};
use crate::farewell::PeerError;

/// Limits and capabilities. Bytes are bytes, seconds are seconds; every limit is inclusive.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The number of shards, 1 to 64.
    pub shards: u16,
    /// Whether a client that proves nothing may connect, until [`crate::Shared::set_access`] says otherwise.
    pub anonymous: bool,
    /// The optional parts of MQTT on offer.
    pub capabilities: Capabilities,
    /// What listeners offer, by [`crate::EntranceId`]; one that is not among them offers what these settings say.
    pub entrances: Vec<Entrance>,
    /// What bridges are told that ask who this broker is, unlike any other broker; `None` tells them nothing.
    pub broker_id: Option<Arc<str>>,
    /// Whether refusals and farewells of MQTT 5 explain themselves with a Reason String.
    pub reason_strings: bool,
    /// The Server Reference that clients are given when the broker goes away.
    pub server_reference: Option<Arc<str>>,
    /// The Response Information for clients that ask for it; `%c` stands for the Client Identifier.
    pub response_information: Option<Arc<str>>,
    /// The largest packet accepted from a client.
    pub packet_bytes_max: usize,
    /// The largest payload accepted; larger messages are acknowledged and go to nobody.
    pub payload_bytes_max: usize,
    /// The largest CONNECT or AUTH accepted before the connection is established, if `packet_bytes_max` is no less.
    pub connect_packet_bytes_max: usize,
    /// The time from accept to CONNACK, and from the beginning of a re-authentication to the client's proof.
    pub connect_seconds_max: u32,
    /// The longest keep alive; 0 leaves it to the client.
    pub keep_alive_seconds_max: u16,
    /// Whether a client of MQTT 3 that asks for a longer keep alive is refused.
    pub refuse_long_keep_alive: bool,
    /// Whether names with control characters or non-characters are malformed: MQTT lets a broker choose (sections 1.5.4 and 1.5.3), and
    /// clients that choose so would end with each message on such a topic.
    pub refuse_control_characters: bool,
    /// Whether what MQTT leaves open is done as Mosquitto does it: a CONNECT that is malformed or has a reserved Will Topic is answered
    /// with nothing, too many levels are malformed, too many sessions are a busy broker, a release of an unknown identifier succeeds,
    /// anybody may say how a bridge fares, nobody publishes below `$share`, and a client that comes back with Clean Start in time takes its delayed Will Message back.
    pub mosquitto_habits: bool,
    /// Whether messages are delivered with the QoS of the subscription, whatever they were published with.
    pub upgrade_qos: bool,
    /// Whether QoS 0 messages wait for sessions without a connection.
    pub queue_qos0: bool,
    /// The longest session expiry; `u32::MAX` for no limit.
    pub session_expiry_seconds_max: u32,
    /// The Receive Maximum told to MQTT 5 clients.
    pub receive_maximum: u16,
    /// The most QoS 1 and 2 messages in flight to one client.
    pub inflight_max: u16,
    /// The payload bytes in flight to one client above which no more follow; 0 for no bound.
    pub inflight_bytes_max: usize,
    /// The Topic Alias Maximum told to MQTT 5 clients.
    pub topic_alias_maximum: u16,
    /// The most topics of one connection that get an alias towards its client, if that allows as many.
    pub topic_alias_to_client_max: u16,
    /// The most levels in a Topic Name or Topic Filter.
    pub topic_levels_max: usize,
    /// What every Client Identifier has to begin with, if anything.
    pub client_id_prefix: Option<Arc<str>>,
    /// The most sessions, connected or not; 0 for no bound.
    pub sessions_max: usize,
    /// The most takeovers of one Client Identifier in a minute; 0 for no bound.
    pub takeovers_per_minute_max: u32,
    /// The longest Client Identifier.
    pub client_id_bytes_max: usize,
    /// The most User Properties in one packet.
    pub user_properties_max: usize,
    /// The most subscriptions of one session.
    pub subscriptions_per_session_max: usize,
    /// The most messages waiting for one session.
    pub session_queue_messages_max: usize,
    /// The most bytes of messages waiting for one session.
    pub session_queue_bytes_max: usize,
    /// The bytes of messages waiting for one session that stay in memory, besides those that are being stored.
    pub session_queue_memory_bytes: usize,
    /// The bytes of messages waiting for all sessions above which no more of them stay in memory than have to.
    pub queue_memory_bytes: usize,
    /// The most bytes of messages waiting for all sessions.
    pub queue_bytes_max: usize,
    /// Whether the store keeps messages, so that those that wait need not stay in memory.
    pub queues_spill: bool,
    /// The bytes in an outbox above which messages wait in the session instead.
    pub outbox_bytes_max: usize,
    /// The topics whose messages are kept less durably.
    pub relaxed_topics: RelaxedTopics,
    /// The most bytes of retained messages.
    pub retained_bytes_max: usize,
    /// Whether a retained message is sent only if its publisher might still publish it.
    pub check_retained_source: bool,
    /// The VEIL-1 handshakes under way beyond which each address may begin four a second.
    pub half_open_max: usize,
    /// The time after which a channel's keys are replaced, in seconds.
    pub rekey_seconds: u32,
    /// The records after which a channel's keys are replaced.
    pub rekey_records: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: 1,
            anonymous: true,
            capabilities: Capabilities::default(),
            entrances: Vec::new(),
            broker_id: None,
            reason_strings: true,
            server_reference: None,
            response_information: None,
            packet_bytes_max: 16 * 1024 * 1024,
            payload_bytes_max: usize::MAX,
            connect_packet_bytes_max: 64 * 1024,
            connect_seconds_max: 10,
            keep_alive_seconds_max: 0,
            refuse_long_keep_alive: false,
            refuse_control_characters: false,
            mosquitto_habits: false,
            upgrade_qos: false,
            queue_qos0: false,
            session_expiry_seconds_max: u32::MAX,
            receive_maximum: 1_024,
            inflight_max: 1_024,
            inflight_bytes_max: 0,
            topic_alias_maximum: 16,
            topic_alias_to_client_max: 16,
            topic_levels_max: 200,
            client_id_prefix: None,
            sessions_max: 0,
            takeovers_per_minute_max: 600,
            client_id_bytes_max: 1_024,
            user_properties_max: 128,
            subscriptions_per_session_max: 100_000,
            session_queue_messages_max: 1_000_000,
            session_queue_bytes_max: 256 * 1024 * 1024,
            session_queue_memory_bytes: 1024 * 1024,
            queue_memory_bytes: 256 * 1024 * 1024,
            queue_bytes_max: 4 * 1024 * 1024 * 1024,
            queues_spill: true,
            outbox_bytes_max: 256 * 1024,
            relaxed_topics: RelaxedTopics::default(),
            retained_bytes_max: 1024 * 1024 * 1024,
            check_retained_source: true,
            half_open_max: 1_000,
            rekey_seconds: 3_600,
            rekey_records: 1 << 24,
        }
    }
}

impl Settings {
    /// Refuses a packet with more User Properties than the limit.
    pub(crate) fn check_user_properties(&self, count: usize) -> Result<(), PeerError> {
        let maximum = self.user_properties_max;
        if count > maximum { Err(PeerError::UserProperties { count, maximum }) } else { Ok(()) }
    }

    /// Refuses a name with characters that others may refuse, where that is wanted.
    pub(crate) fn check_name(&self, field: &'static str, name: &str) -> Result<(), PeerError> {
        if self.refuse_control_characters && !is_plain(name) {
            return Err(PeerError::Packet(DecodeError::InvalidString(field)));
        }
        Ok(())
    }

    /// Refuses topics deeper than the limit, which bounds every walk of the trie.
    pub(crate) fn check_levels(&self, topic: TopicName<'_>) -> Result<(), PeerError> {
        self.check_depth(topic.as_str(), || topic.levels().count())
    }

    /// Refuses filters deeper than that.
    pub(crate) fn check_filter_levels(&self, filter: TopicFilter<'_>) -> Result<(), PeerError> {
        let filter = filter.inner();
        self.check_depth(filter.as_str(), || filter.levels().count())
    }

    fn check_depth(&self, text: &str, levels: impl FnOnce() -> usize) -> Result<(), PeerError> {
        let maximum = self.topic_levels_max;
        // There is at most one level more than there are bytes, so most names need not be taken apart.
        if text.len() < maximum {
            return Ok(());
        }
        let levels = levels();
        if levels > maximum { Err(PeerError::TopicLevels { levels, maximum }) } else { Ok(()) }
    }
}

/// The settings in force, and what each listener offers by them.
#[derive(Debug)]
pub struct SettingsInForce {
    settings: Settings,
    /// By the number of the listener.
    entrances: Vec<Arc<Entrance>>,
    /// What a listener offers that is not among them.
    common: Arc<Entrance>,
}

impl SettingsInForce {
    pub(crate) fn new(settings: Settings) -> Self {
        let common = Arc::new(Entrance::of(&settings));
        let entrances = settings.entrances.iter().cloned().map(Arc::new).collect();
        Self { settings, entrances, common }
    }

    /// Returns what a listener offers.
    pub(crate) fn entrance(&self, id: EntranceId) -> &Arc<Entrance> {
        self.entrances.get(usize::from(id.0)).unwrap_or(&self.common)
    }

    /// Returns what a listener is known by from one start to the next, if it has a name.
    pub(crate) fn entrance_name(&self, id: EntranceId) -> Option<&Arc<str>> {
        Some(&self.entrances.get(usize::from(id.0))?.name).filter(|name| !name.is_empty())
    }

    /// Returns the listener with a name.
    pub(crate) fn entrance_named(&self, name: &str) -> Option<EntranceId> {
        let index = self.entrances.iter().position(|entrance| *entrance.name == *name)?;
        u16::try_from(index).ok().map(EntranceId)
    }
}

impl Deref for SettingsInForce {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// Tells whether a text has none of the characters that it SHOULD NOT have (MQTT 5.0 section 1.5.4, MQTT 3.1.1 section 1.5.3): U+0001
/// to U+001F, U+007F to U+009F, and the non-characters of Unicode.
fn is_plain(text: &str) -> bool {
    // Few names have anything else.
    if text.bytes().all(|byte| matches!(byte, 0x20..0x7f)) {
        return true;
    }
    let is_no_character =
        |char: char| matches!(u32::from(char), 0xfdd0..=0xfdef) || u32::from(char) & 0xfffe == 0xfffe;
    !text.chars().any(|char| char.is_control() || is_no_character(char))
}
