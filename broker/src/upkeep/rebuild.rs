//! A new store beside the present one: filled in bounded batches, read back, and only then put in its place.
//!
//! Invariant: until [`Rebuild::adopt`] has verified it, nothing but its own folder has changed; that goes if it is not adopted.

use veilmq_core::{Record, Store};

use super::progress::Progress;
use super::tally::Tally;
use super::{UpkeepError, damaged};
use crate::store::{self, DataDirectory, LIMITS, Reading, SledStore};

/// The bytes of records at which they are committed.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A store that is being made.
pub(crate) struct Rebuild<'d> {
    directory: &'d DataDirectory,
    /// None once everything is in it.
    store: Option<SledStore>,
    batch: Vec<Record>,
    batch_bytes: usize,
    tally: Tally,
}

impl<'d> Rebuild<'d> {
    /// Makes an empty store in the directory's place for new ones.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn begin(directory: &'d DataDirectory) -> Result<Self, UpkeepError> {
        let (store, _) = SledStore::open(&directory.rebuild(), LIMITS)?;
        Ok(Self { directory, store: Some(store), batch: Vec::new(), batch_bytes: 0, tally: Tally::default() })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// What the store answered.
    pub(crate) fn push(&mut self, record: Record) -> Result<(), UpkeepError> {
        self.tally.add(&record);
        self.batch_bytes += store::record_bytes(&record);
        self.batch.push(record);
        if self.batch_bytes < BATCH_BYTES_MAX { Ok(()) } else { self.commit() }
    }

    /// Returns what was added.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Reads the new store, and lets it take the place of the present one if it has what was added and nothing else.
    ///
    /// # Errors
    /// [`UpkeepError::NotVerified`], or what the store or the file system answered.
    pub(crate) fn adopt(mut self, progress: &mut Progress) -> Result<(), UpkeepError> {
        self.commit()?;
        self.store = None;
        progress.turn_to("verified");
        let made = DataDirectory::lock_with_store(&self.directory.rebuild())?;
        let mut found = Tally::default();
        // There may be no room for a copy, and nobody needs to keep it as it is.
        let inspection = store::inspect(&made, Reading::InPlace, &mut |record| {
            found.add(&record);
            progress.report(&found);
        })?;
        if !inspection.is_clean() {
            return Err(damaged(&made, &inspection, "so it is not used"));
        }
        if found != self.tally {
            let (expected, found) = (self.tally.to_string(), found.to_string());
            return Err(UpkeepError::NotVerified { expected, found });
        }
        drop(made);
        Ok(self.directory.adopt_rebuilt()?)
    }

    fn commit(&mut self) -> Result<(), UpkeepError> {
        if let Some(store) = &mut self.store {
            store.commit(&self.batch)?;
        }
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}

impl Drop for Rebuild<'_> {
    fn drop(&mut self) {
        self.store = None;
        // What cannot be removed now is removed by whoever locks the directory next.
        let _ = self.directory.remove_rebuilt();
    }
}
