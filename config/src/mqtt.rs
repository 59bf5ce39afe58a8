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
    /// Whether refusals explain themselves with a Reason String.
    pub reason_strings: bool,
    /// The Server Reference for clients when the broker ends, if there is another server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_reference: Option<String>,
    /// The Response Information for clients that ask for it; `%c` stands for the Client Identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_information: Option<String>,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            maximum_qos: 2,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifier_available: true,
            shared_subscription_available: true,
            reason_strings: true,
            server_reference: None,
            response_information: None,
        }
    }
}
