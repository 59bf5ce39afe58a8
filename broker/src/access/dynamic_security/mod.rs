//! Mosquitto's dynamic security: clients, groups and roles in one file, administered over MQTT.
//!
//! Pure but for the file: commands come in as JSON and change a [`Directory`]; who asks is checked elsewhere. Invariant: what is
//! in force is what the file says.

mod clients;
mod commands;
mod directory;
mod file;
#[cfg(test)]
mod file_tests;
mod first;
mod groups;
mod json;
mod roles;
mod tables;
#[cfg(test)]
mod tests;

pub(super) use self::commands::{Answers, Done, Hashes, NO_COMMAND, Outcome, answer_each, carry_out};
pub(super) use self::directory::Directory;
pub use self::file::DynamicSecurityError;
pub(super) use self::first::FirstDirectory;
