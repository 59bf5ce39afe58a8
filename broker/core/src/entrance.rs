//! What differs from one listener to another: what it offers, whom it takes, and where its clients' topics are.
//!
//! A connection keeps the number of the listener it came by, and what that one offered then. Invariant: behind a mount point a client names and is told no topic
//! that does not begin with it, and never sees the mount point itself.

use std::sync::Arc;

use veilmq_protocol::{DecodeError, ProtocolVersion, TopicFilter, TopicName};

use crate::capabilities::Capabilities;
use crate::farewell::PeerError;
use crate::settings::Settings;
use crate::time::Moment;

/// The place of a listener among [`Settings::entrances`]; a listener keeps it for as long as the broker runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntranceId(pub u16);

/// What one listener offers and asks for.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// What it is known by from one start to the next; empty if it has no name.
    pub name: Arc<str>,
    /// Whether the listener is there. Clients of one that is not are sent away.
    pub is_open: bool,
    /// The versions of MQTT that it speaks.
    pub versions: Versions,
    /// The optional parts of MQTT on offer.
    pub capabilities: Capabilities,
    /// The time from accept to CONNACK.
    pub connect_seconds_max: u32,
    /// The largest packet accepted from a client once it is connected.
    pub packet_bytes_max: usize,
    /// The Receive Maximum told to MQTT 5 clients.
    pub receive_maximum: u16,
    /// The Topic Alias Maximum told to MQTT 5 clients.
    pub topic_alias_maximum: u16,
    /// The most topics of one connection that get an alias towards its client, if that allows as many.
    pub topic_alias_to_client_max: u16,
    /// Whether a Client Identifier may be empty where MQTT allows that.
    pub empty_client_id: bool,
    /// What a Client Identifier begins with that the broker assigns.
    pub assigned_prefix: Arc<str>,
    /// Whether the user name takes the place of the Client Identifier.
    pub user_name_is_client_id: bool,
    /// Whether a client is refused that no certificate proves to be a user.
    pub proven_users_only: bool,
    /// What stands before every topic of its clients, who do not see it; never empty. The VEIL-1 channel is not served behind one:
    /// what it says of topics is authenticated.
    pub mount_point: Option<Arc<str>>,
}

/// Versions of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// MQTT 3.1.
    pub v31: bool,
    /// MQTT 3.1.1.
    pub v311: bool,
    /// MQTT 5.0.
    pub v5: bool,
}

impl Versions {
    /// All that there are.
    pub const ALL: Self = Self { v31: true, v311: true, v5: true };

    fn contains(self, version: ProtocolVersion) -> bool {
        match version {
            ProtocolVersion::V31 => self.v31,
            ProtocolVersion::V311 => self.v311,
            ProtocolVersion::V5 => self.v5,
        }
    }
}

impl Entrance {
    /// Makes a listener that differs from nothing.
    pub fn of(settings: &Settings) -> Self {
        Self {
            name: Arc::from(""),
            is_open: true,
            versions: Versions::ALL,
            capabilities: settings.capabilities.clone(),
            connect_seconds_max: settings.connect_seconds_max,
            packet_bytes_max: settings.packet_bytes_max,
            receive_maximum: settings.receive_maximum,
            topic_alias_maximum: settings.topic_alias_maximum,
            topic_alias_to_client_max: settings.topic_alias_to_client_max,
            empty_client_id: true,
            assigned_prefix: Arc::from("auto-"),
            user_name_is_client_id: false,
            proven_users_only: false,
            mount_point: None,
        }
    }

    /// Returns when a connection has to have its CONNACK that was accepted at this time.
    pub(crate) fn connect_deadline(&self, accepted_at: Moment) -> Moment {
        accepted_at.plus_seconds(self.connect_seconds_max.into())
    }

    /// Refuses a client of a version that the listener does not speak.
    pub(crate) fn check_version(&self, version: ProtocolVersion) -> Result<(), PeerError> {
        // [MQTT-3.1.2-2], [MQTT311-3.1.2-2]
        match self.versions.contains(version) {
            true => Ok(()),
            false => Err(DecodeError::UnsupportedVersion("protocol level on this listener").into()),
        }
    }

    /// Returns the topic that a client's Topic Name stands for; None if it is the name itself.
    ///
    /// # Errors
    /// If it is too long with the mount point before it.
    pub(crate) fn mounted_topic(&self, topic: TopicName<'_>) -> Result<Option<Arc<str>>, PeerError> {
        let Some(mount_point) = &self.mount_point else { return Ok(None) };
        let mounted = format!("{mount_point}{}", topic.as_str());
        TopicName::new(&mounted).map_err(|_| PeerError::MountedTopic)?;
        Ok(Some(mounted.into()))
    }

    /// Returns the filters that a client's Topic Filters stand for; none if they are the filters themselves.
    ///
    /// # Errors
    /// If one is too long with the mount point before it.
    pub(crate) fn mounted_filters<'a>(
        &self,
        filters: impl Iterator<Item = TopicFilter<'a>>,
    ) -> Result<Vec<String>, PeerError> {
        let Some(mount_point) = &self.mount_point else { return Ok(Vec::new()) };
        let mounted = filters.map(|filter| {
            let (text, inner) = (filter.as_str(), filter.inner().as_str());
            // What stands before it names the group of a Shared Subscription.
            let group = text.strip_suffix(inner).unwrap_or_default();
            let mounted = format!("{group}{mount_point}{inner}");
            TopicFilter::new(&mounted).map_err(|_| PeerError::MountedTopic)?;
            Ok(mounted)
        });
        mounted.collect()
    }

    /// Returns a topic as clients of the listener know it; None if they do not.
    pub(crate) fn seen_topic<'a>(&self, topic: &'a [u8]) -> Option<&'a [u8]> {
        match &self.mount_point {
            None => Some(topic),
            Some(mount_point) => topic.strip_prefix(mount_point.as_bytes()).filter(|topic| !topic.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted() -> Entrance {
        Entrance { mount_point: Some("m/".into()), ..Entrance::of(&Settings::default()) }
    }

    #[test]
    fn a_mount_point_stands_before_topics_and_behind_the_name_of_a_group() {
        let entrance = mounted();
        let filters = |texts: &[&str]| {
            let filters: Vec<_> = texts.iter().map(|text| TopicFilter::new(text).unwrap()).collect();
            entrance.mounted_filters(filters.into_iter())
        };

        let topic = entrance.mounted_topic(TopicName::new("a/b").unwrap()).unwrap();

        assert_eq!(topic.as_deref(), Some("m/a/b"));
        let mounted = filters(&["#", "$share/g/a/+", "$SYS/#"]).unwrap();
        assert_eq!(mounted, ["m/#", "$share/g/m/a/+", "m/$SYS/#"]);
        let longest = "x".repeat(65_535);
        assert!(entrance.mounted_topic(TopicName::new(&longest).unwrap()).is_err());
        assert!(filters(&[&longest]).is_err());
    }

    #[test]
    fn what_is_not_below_the_mount_point_is_not_seen() {
        let entrance = mounted();

        assert_eq!(entrance.seen_topic(b"m/a"), Some(&b"a"[..]));
        assert_eq!(entrance.seen_topic(b"m/"), None);
        assert_eq!(entrance.seen_topic(b"other/a"), None);
        assert_eq!(Entrance::of(&Settings::default()).seen_topic(b"m/a"), Some(&b"m/a"[..]));
    }
}
