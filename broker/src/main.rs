//! The VeilMQ broker daemon.
fn main() {}
