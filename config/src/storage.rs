//! Where and how durably state is kept.

use serde::{Deserialize, Serialize};

/// Where and how durably state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StorageKeys", into = "StorageKeys")]
pub struct StorageConfig {
    /// When written state is safe from a crash.
    pub durability: Durability,
    /// Topic Filters of messages that are acknowledged before they are stored.
    pub interval_topics: Vec<String>,
    /// Topic Filters of messages that are never stored.
    pub memory_topics: Vec<String>,
    /// The memory the storage engine may use as cache, in bytes.
    pub cache_bytes: u64,
    /// The free space of the file system below which nothing new is stored, in bytes; 0 keeps none.
    pub reserve_bytes: u64,
}

/// When written state is safe from a crash, which is what an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged: nothing acknowledged is lost.
    Commit,
    /// At intervals: a kill or a power cut may lose what was acknowledged within the last one.
    Interval {
        /// The interval between two commits, in milliseconds.
        milliseconds: u32,
    },
    /// Never: a restart begins empty.
    Memory,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Commit,
            interval_topics: Vec::new(),
            memory_topics: Vec::new(),
            cache_bytes: 32 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
        }
    }
}

/// `StorageConfig` as it is written: an interval is a key of its own, so that one environment variable can set it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageKeys {
    durability: DurabilityKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_milliseconds: Option<u32>,
    interval_topics: Vec<String>,
    memory_topics: Vec<String>,
    cache_bytes: u64,
    reserve_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityKey {
    Commit,
    Interval,
    Memory,
}

impl StorageKeys {
    const INTERVAL_MILLISECONDS: u32 = 1_000;
}

impl From<StorageKeys> for StorageConfig {
    fn from(keys: StorageKeys) -> Self {
        let StorageKeys {
            durability,
            interval_milliseconds,
            interval_topics,
            memory_topics,
            cache_bytes,
            reserve_bytes,
        } = keys;
        let durability = match durability {
            DurabilityKey::Commit => Durability::Commit,
            DurabilityKey::Interval => Durability::Interval {
                milliseconds: interval_milliseconds.unwrap_or(StorageKeys::INTERVAL_MILLISECONDS),
            },
            DurabilityKey::Memory => Durability::Memory,
        };
        Self { durability, interval_topics, memory_topics, cache_bytes, reserve_bytes }
    }
}

impl From<StorageConfig> for StorageKeys {
    fn from(config: StorageConfig) -> Self {
        let StorageConfig { durability, interval_topics, memory_topics, cache_bytes, reserve_bytes } = config;
        let (durability, interval_milliseconds) = match durability {
            Durability::Commit => (DurabilityKey::Commit, None),
            Durability::Interval { milliseconds } => (DurabilityKey::Interval, Some(milliseconds)),
            Durability::Memory => (DurabilityKey::Memory, None),
        };
        Self { durability, interval_milliseconds, interval_topics, memory_topics, cache_bytes, reserve_bytes }
    }
}
