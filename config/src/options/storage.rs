//! The options of stored state.

use super::{MEMORY_BYTES_MAX, OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    option(
        "storage.durability",
        Kind::Choice(&["commit", "interval", "memory"]),
        "When stored state is safe: before it is acknowledged, at intervals, or never.",
    ),
    unset(
        integer(
            "storage.interval_milliseconds",
            1,
            60_000,
            "Interval of durability `interval`, in milliseconds; not allowed with another durability.",
        ),
        "`1000` with durability `interval`",
    ),
    option(
        "storage.interval_topics",
        Kind::TopicFilters,
        "Topics whose messages are acknowledged before they are stored: a crash can lose what came within the last 50 ms.",
    ),
    option(
        "storage.memory_topics",
        Kind::TopicFilters,
        "Topics whose messages are never stored, unless `storage.interval_topics` matches them too.",
    ),
    integer(
        "storage.cache_bytes",
        1 << 20,
        MEMORY_BYTES_MAX,
        "Memory the storage engine may use as cache, in bytes; it takes at most 16 MiB besides.",
    ),
    integer(
        "storage.reserve_bytes",
        0,
        MEMORY_BYTES_MAX,
        "Free space of the file system of `data_dir` below which nothing new is stored, in bytes; 0 keeps none.",
    ),
];
