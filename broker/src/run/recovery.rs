//! Brings back what is stored before anybody may connect.

use std::sync::Arc;

use veilmq_core::{Job, Record, Recovery, RecoverySummary, Shard, Shared, Store, StoreError};

use crate::clock;
use crate::store::at_once;

/// What came back.
pub(super) struct Recovered {
    /// The shards with their sessions.
    pub(super) shards: Vec<Shard>,
    /// How much there is.
    pub(super) summary: RecoverySummary,
    /// What has changed since and could not be stored, because the disk is full or broken.
    pub(super) owed: Vec<Record>,
}

/// Reads the store and gives every shard what is its own, with as many threads as there will be shards, and stores what has changed
/// since: sessions that were connected are closed as of now, and what nobody refers to any more goes. A store that can be read but
/// not written keeps nobody waiting.
///
/// # Errors
/// What the store answered when it was read.
pub(super) fn recover(store: &mut dyn Store, shared: &Arc<Shared>) -> Result<Recovered, StoreError> {
    let mut recovery = Recovery::new(shared.shards());
    store.recover(&mut recovery)?;
    let mut work = |jobs: Vec<Job<'_>>| drop(at_once(jobs));
    let (shards, mut owed, summary) = recovery.into_shards(shared, clock::now(), &mut work);
    if owed.is_empty() || store.commit(&owed).is_ok() {
        owed.clear();
    }
    Ok(Recovered { shards, summary, owed })
}
