//! How fast clients may send.

use serde::{Deserialize, Serialize};

/// What one client, all clients of one address, and all of one user may send in a second; 0 does not limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesConfig {
    /// Application Messages of one connection.
    pub client_messages_per_second: u32,
    /// Deliveries that the messages of one connection bring about.
    pub client_deliveries_per_second: u32,
    /// Bytes of one connection.
    pub client_bytes_per_second: u64,
    /// Application Messages of all connections from one IP address.
    pub address_messages_per_second: u32,
    /// Deliveries that the messages of all connections from one IP address bring about.
    pub address_deliveries_per_second: u32,
    /// Bytes of all connections from one IP address.
    pub address_bytes_per_second: u64,
    /// Application Messages of all connections of one user.
    pub user_messages_per_second: u32,
    /// Deliveries that the messages of all connections of one user bring about.
    pub user_deliveries_per_second: u32,
    /// Bytes of all connections of one user.
    pub user_bytes_per_second: u64,
}
