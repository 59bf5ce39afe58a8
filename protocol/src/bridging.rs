//! The User Properties by which bridges of this project keep messages from coming back (MQTT 5).

/// On a message, the bridges it has crossed, each by its Client Identifier on the other broker. In CONNECT, a bridge asks with it who the broker is.
pub const BRIDGE_PROPERTY: &str = "veilmq-bridge";
/// In CONNACK, who the broker is, if it was asked. On a message, the brokers from which bridges have taken it.
pub const BROKER_PROPERTY: &str = "veilmq-broker";
/// What a broker calls itself is no longer, in bytes.
pub const BROKER_ID_BYTES_MAX: usize = 32;
