//! The harness of the tests that span packages: the real broker as a child process, raw sockets, HTTP, and
//! MQTT clients that were not written here.
//!
//! None of its MQTT code is shared with the broker: a mistake in our own codec cannot cancel itself out. Only `conformance`
//! knows the core, which it drives as it drives the program. Invariant: what a test starts is gone when the test ends.

pub mod broker;
pub mod browser;
pub mod carrier;
pub mod certificates;
pub mod conformance;
pub mod crash;
pub mod drop_in;
pub mod http;
pub mod members;
pub mod message;
pub mod mosquitto;
pub mod openssl;
pub mod parties;
pub mod ports;
pub mod puppet;
pub mod rumqtt;
pub mod search;
pub mod service;
pub mod tap;
pub mod tls;
pub mod tools;
pub mod waiting;
pub mod websocket;
pub mod wire;
