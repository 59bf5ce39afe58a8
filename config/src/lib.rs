//! Typed configuration of the broker.
