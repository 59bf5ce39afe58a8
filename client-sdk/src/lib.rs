//! MQTT 5 client.
