//! MQTT 5 client.

pub mod e2e;
