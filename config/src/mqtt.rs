//! The optional parts of MQTT that the broker offers, and what it tells clients about itself.

use serde::{Deserialize, Serialize};

/// The optional parts of MQTT on offer, and what clients are told of the broker (MQTT 5 section 3.2.2.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The highest QoS that clients may publish with and that subscriptions are granted, 0 to 2.
    pub maximum_qos: u8,
    /// Whether messages may be retained.
    pub retain_available: bool,
    /// Whether a Topic Filter may hold wildcards.
    pub wildcard_subscription_available: bool,
    /// Whether a SUBSCRIBE may carry a Subscription Identifier.
    pub subscription_identifier_available: bool,
    /// Whether subscriptions may be shared.
    pub shared_subscription_available: bool,
    /// Whether a client of MQTT 3 that asks for a longer Keep Alive than allowed is refused.
    pub refuse_long_keep_alive: bool,
    /// Whether names with control characters or non-characters are malformed.
    pub refuse_control_characters: bool,
    /// Whether what MQTT leaves open is done as Mosquitto does it.
    pub mosquitto_habits: bool,
    /// Whether a message is delivered with the QoS of the subscription, even if it was published with a lower one.
    pub upgrade_qos: bool,
    /// Whether QoS 0 messages wait for a session without a Network Connection.
    pub queue_qos0: bool,
    /// Whether refusals explain themselves with a Reason String.
    pub reason_strings: bool,
    /// The Server Reference for clients when the broker ends, if there is another server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_reference: Option<String>,
    /// The Response Information for clients that ask for it; `%c` stands for the Client Identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_information: Option<String>,
}

/// What one listener offers of MQTT, where that is not what all offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerMqttConfig {
    /// The versions that are spoken there.
    pub versions: Vec<MqttVersion>,
    /// The highest QoS there, 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_qos: Option<u8>,
    /// The Topic Alias Maximum announced there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_alias_maximum: Option<u16>,
    /// The topics of one connection that get an alias towards its client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_alias_to_client_max: Option<u16>,
    /// Whether a Client Identifier may be empty where MQTT allows that.
    pub empty_client_id: bool,
    /// What a Client Identifier begins with that the broker assigns.
    pub assigned_client_id_prefix: String,
    /// Whether the user name takes the place of the Client Identifier.
    pub user_name_as_client_id: bool,
    /// Whether a client is refused that no certificate proves to be a user.
    pub proven_users_only: bool,
    /// What stands before every topic of the clients there, who do not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<String>,
}

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MqttVersion {
    /// MQTT 3.1.
    #[serde(rename = "3.1")]
    V31,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
    /// MQTT 5.0.
    #[serde(rename = "5")]
    V5,
}

impl MqttVersion {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];
}

impl Default for ListenerMqttConfig {
    fn default() -> Self {
        Self {
            versions: MqttVersion::ALL.to_vec(),
            maximum_qos: None,
            topic_alias_maximum: None,
            topic_alias_to_client_max: None,
            empty_client_id: true,
            assigned_client_id_prefix: "auto-".to_owned(),
            user_name_as_client_id: false,
            proven_users_only: false,
            mount_point: None,
        }
    }
}

impl ListenerMqttConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            maximum_qos: 2,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifier_available: true,
            shared_subscription_available: true,
            refuse_long_keep_alive: false,
            refuse_control_characters: true,
            mosquitto_habits: false,
            upgrade_qos: false,
            queue_qos0: false,
            reason_strings: true,
            server_reference: None,
            response_information: None,
        }
    }
}
