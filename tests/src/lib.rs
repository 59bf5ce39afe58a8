//! The harness of the tests that span packages: the real broker as a child process, raw sockets, HTTP, and
//! MQTT clients that were not written here.
//!
//! Nothing in it knows how the broker works inside, and none of its MQTT code is shared with the broker: a mistake
//! in our own codec cannot cancel itself out. Invariant: what a test starts is gone when the test ends.

pub mod broker;
pub mod http;
pub mod mosquitto;
pub mod ports;
pub mod puppet;
pub mod rumqtt;
pub mod tap;
pub mod tools;
pub mod wire;
