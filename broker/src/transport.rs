//! What lies between a socket and MQTT has in common: how it ends.

/// Why no more is taken from what carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has closed it in order.
    Closed,
    /// The peer broke this rule.
    Violated(&'static str),
}
