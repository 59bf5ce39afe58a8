//! Brings back what is stored before anybody may connect.

use veilmq_core::{Record, Recovery, RecoverySummary, Shard, Shared, Store, StoreError};

use crate::clock;
use std::sync::Arc;

/// What came back.
pub(super) struct Recovered {
    /// The shards with their sessions.
    pub(super) shards: Vec<Shard>,
    /// How much there is.
    pub(super) summary: RecoverySummary,
    /// What has changed since and could not be stored, because the disk is full or broken.
    pub(super) owed: Vec<Record>,
}

/// Replays the store, partitions what it holds over the shards, and stores what has changed since: sessions that were connected
/// are closed as of now, and what nobody refers to any more goes. A store that can be read but not written keeps nobody waiting.
///
/// # Errors
/// What the store answered when it was read.
pub(super) fn recover(store: &mut dyn Store, shared: &Arc<Shared>) -> Result<Recovered, StoreError> {
    let mut recovery = Recovery::new();
    store.replay(&mut |record| recovery.apply(record))?;
    let (shards, mut owed, summary) = recovery.into_shards(shared, clock::now());
    if owed.is_empty() || store.commit(&owed).is_ok() {
        owed.clear();
    }
    Ok(Recovered { shards, summary, owed })
}
