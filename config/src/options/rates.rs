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
        "rates.client_deliveries_per_second",
        0,
        1_000_000_000,
        "Deliveries a second that the messages of one connection bring about, one for each session that wants a message: who causes more is read later. 0 does not limit.",
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
        "Application Messages a second of all connections from one IP address (of IPv6: with the same first 64 bits): who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.address_deliveries_per_second",
        0,
        1_000_000_000,
        "Deliveries a second that the messages of all connections from one IP address bring about, one for each session that wants a message: who causes more is read later. 0 does not limit.",
    ),
    integer(
        "rates.address_bytes_per_second",
        0,
        MEMORY_BYTES_MAX,
        "Bytes a second of all connections from one IP address (of IPv6: with the same first 64 bits): who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.user_messages_per_second",
        0,
        10_000_000,
        "Application Messages a second of all connections of one user: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
    integer(
        "rates.user_deliveries_per_second",
        0,
        1_000_000_000,
        "Deliveries a second that the messages of all connections of one user bring about, one for each session that wants a message: who causes more is read later. 0 does not limit.",
    ),
    integer(
        "rates.user_bytes_per_second",
        0,
        MEMORY_BYTES_MAX,
        "Bytes a second of all connections of one user: who sends faster is read later, and told 0x96 when ten seconds ahead. 0 does not limit.",
    ),
];
