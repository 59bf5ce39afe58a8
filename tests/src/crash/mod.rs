//! Crashes under load: clients that know what the broker has acknowledged, and two ways to stop it without warning.
//!
//! [`fleet`] drives many connections of [`clients`] and [`publisher`]s against a broker; [`ledger`] holds what was acknowledged against what is
//! there afterwards, whichever way the broker died. `kill -9` needs no more than that; for a power cut [`trace`] reads a
//! recording of the broker's system calls, and [`disk`] makes of it what a disk would hold at any moment of the recording.
//! Nothing here knows what the broker keeps in its data directory, or how.

pub mod clients;
pub mod dice;
pub mod disk;
pub mod fleet;
pub mod ledger;
pub mod log;
mod pages;
pub mod publisher;
pub mod trace;
pub mod traffic;
