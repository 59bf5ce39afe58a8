//! Brings back what is stored before anybody may connect.

use veilmq_core::{Recovery, RecoverySummary, Shard, Shared, Store, StoreError};

use crate::clock;
use std::sync::Arc;

/// What came back.
pub(super) struct Recovered {
    /// The shards with their sessions.
    pub(super) shards: Vec<Shard>,
    /// How much there is.
    pub(super) summary: RecoverySummary,
}

/// Replays the store, partitions what it holds over the shards, and stores what has changed since: sessions that were connected
/// are closed as of now, and what nobody refers to any more goes.
///
/// # Errors
/// What the store answered.
pub(super) fn recover(store: &mut dyn Store, shared: &Arc<Shared>) -> Result<Recovered, StoreError> {
    let mut recovery = Recovery::new();
    store.replay(&mut |record| recovery.apply(record))?;
    let (shards, clean_up, summary) = recovery.into_shards(shared, clock::now());
    if !clean_up.is_empty() {
        store.commit(&clean_up)?;
    }
    Ok(Recovered { shards, summary })
}
