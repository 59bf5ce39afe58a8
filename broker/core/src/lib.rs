//! The pure VeilMQ broker.
