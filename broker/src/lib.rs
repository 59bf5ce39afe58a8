//! The VeilMQ broker daemon as a library, for its binary and its tests.

pub mod store;
