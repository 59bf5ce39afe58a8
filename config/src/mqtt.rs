//! The optional parts of MQTT that the broker offers, and what it tells clients about itself.

use serde::{Deserialize, Serialize};

/// The optional parts of MQTT on offer (MQTT 5 section 3.2.2.3).
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
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            maximum_qos: 2,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifier_available: true,
        }
    }
}
