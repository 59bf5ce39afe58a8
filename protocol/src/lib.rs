//! MQTT packets, framing and the byte layouts of VEIL-1.
#![no_std]
extern crate alloc;

pub mod veil;
