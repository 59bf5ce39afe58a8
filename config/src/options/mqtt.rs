//! The options of what MQTT leaves to a broker.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    integer(
        "mqtt.maximum_qos",
        0,
        2,
        "Maximum QoS announced: the highest that clients may publish with; subscriptions are granted no more.",
    ),
    option("mqtt.retain_available", Kind::Boolean, "Whether messages may be retained."),
    option(
        "mqtt.wildcard_subscription_available",
        Kind::Boolean,
        "Whether a Topic Filter may hold wildcards.",
    ),
    option(
        "mqtt.subscription_identifier_available",
        Kind::Boolean,
        "Whether a SUBSCRIBE may carry a Subscription Identifier.",
    ),
    option(
        "mqtt.shared_subscription_available",
        Kind::Boolean,
        "Whether subscriptions may be shared (`$share/...`).",
    ),
    option(
        "mqtt.refuse_long_keep_alive",
        Kind::Boolean,
        "Whether a client of MQTT 3 that asks for more than `limits.keep_alive_seconds_max` is refused (0x02); it cannot be told another.",
    ),
    option(
        "mqtt.refuse_control_characters",
        Kind::Boolean,
        "Whether a Topic Name or Filter, Client Identifier, User Name or Will Topic with control characters or non-characters is malformed. MQTT lets a broker choose; many clients refuse them, and end with each message on such a topic.",
    ),
    option(
        "mqtt.mosquitto_habits",
        Kind::Boolean,
        "Whether what MQTT leaves open is done as Mosquitto does it, for whom the answers of the broker are compared with; docs/mosquitto.md says what that is.",
    ),
    option(
        "mqtt.upgrade_qos",
        Kind::Boolean,
        "Whether a message is delivered with the QoS of the subscription, even if it was published with a lower one; MQTT says no.",
    ),
    option("mqtt.queue_qos0", Kind::Boolean, "Whether QoS 0 messages wait, in memory, for absent clients."),
    option(
        "mqtt.reason_strings",
        Kind::Boolean,
        "Whether refusals and farewells explain themselves to clients of MQTT 5 with a Reason String.",
    ),
    unset(
        option(
            "mqtt.server_reference",
            Kind::Text { bytes_max: 1_024 },
            "Server Reference for clients when the broker ends: where to go instead, with DISCONNECT or CONNACK 0x9C.",
        ),
        "none; clients are told 0x8B",
    ),
    unset(
        option(
            "mqtt.response_information",
            Kind::Text { bytes_max: 1_024 },
            "Response Information for clients that ask for it; `%c` in it stands for the Client Identifier.",
        ),
        "none is returned",
    ),
];
