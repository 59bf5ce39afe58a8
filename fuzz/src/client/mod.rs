//! The client: whatever a broker sends, nothing panics, and what the application is told and the network sees keeps the rules.

mod distribution;
mod session;
#[allow(dead_code, reason = "the tests of key distribution use the rest of it")]
#[path = "../../../client-sdk/tests/e2e_distribution/world.rs"]
mod world;

pub use distribution::client_distribution;
pub use session::client_session;
