//! The options of how fast clients may send.

use super::{MEMORY_BYTES_MAX, OptionSpec, integer};

pub(super) const OPTIONS: &[OptionSpec] = &[
    integer(
        "rates.client_messages_per_second",
        0,
        10_000_000,
        "Application Messages a second of one connection: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.client_bytes_per_second",
        0,
        MEMORY_BYTES_MAX,
        "Bytes a second of one connection: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.address_messages_per_second",
        0,
        10_000_000,
        "Application Messages a second of all connections from one IP address: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.address_bytes_per_second",
        0,
        MEMORY_BYTES_MAX,
        "Bytes a second of all connections from one IP address: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.user_messages_per_second",
        0,
        10_000_000,
        "Application Messages a second of all connections of one user: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.user_bytes_per_second",
        0,
        MEMORY_BYTES_MAX,
        "Bytes a second of all connections of one user: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
];
