//! Durable storage: the storage trait on an embedded database, and the thread that commits.
//!
//! [`open`] takes a data directory into use, [`StorageWriter`] makes what shards submit durable and then tells them.
//! What damage can be found is found here and reported; what cannot be read is set aside and never deleted.
//!
//! Durability ([`Durability`]) decides what an acknowledgement promises:
//!
//! | Durability | acknowledged when | what a power cut, or the death of the process, can lose |
//! |---|---|---|
//! | `Commit` | the batch was synced | nothing that was acknowledged |
//! | `Interval` | the batch has arrived | what was acknowledged within the last interval |
//! | `Memory` | the batch has arrived | everything; a restart begins empty |
//!
//! With `Commit`, the messages of some topics may be kept less durably; the core then lets nothing wait for their batch, or makes
//! no records of them at all.

mod apart;
mod as_found;
mod batch;
mod compaction;
mod directory;
mod entry;
mod group;
mod index;
mod inspect;
mod log;
#[cfg(test)]
mod medium;
mod opening;
mod replay;
mod room;
mod rows;
mod sled_store;
mod values;
mod writer;

use std::path::Path;
use std::sync::Arc;

use veilmq_config::{Durability, StorageConfig};
use veilmq_core::{Message, MessageId, Record, Store, StoreError};

pub(crate) use apart::at_once;
pub(crate) use directory::DataDirectory;
pub use directory::DirectoryError;
pub(crate) use group::record_bytes;
pub(crate) use inspect::{Inspection, LIMITS, Reading, disk_bytes, inspect};
pub use opening::ReplayReport;
pub use room::{Condition, FreeBytes, Reserve, Room};
pub use sled_store::{OpenReport, SledLimits, SledStore};
pub use writer::{
    Committed, Completion, Fetched, Refresh, Reply, StorageHandle, StorageWriter, Watch, WriterOptions,
    WriterParts,
};

/// Opens the store that the configuration asks for, with so many threads to read it; with [`Durability::Memory`] the directory is not
/// touched.
///
/// Whatever was found damaged is logged as an error and is in the report.
///
/// # Errors
/// Another broker uses the directory, it has an unknown format, or the file system refused.
pub fn open(
    directory: &Path,
    config: &StorageConfig,
    threads: u16,
) -> Result<(Box<dyn Store>, OpenReport), DirectoryError> {
    match config.durability {
        Durability::Memory => Ok((Box::new(Volatile), OpenReport::default())),
        Durability::Commit | Durability::Interval { .. } => {
            let limits =
                SledLimits { cache_bytes: config.cache_bytes, spare_bytes: SledLimits::SPARE_BYTES, threads };
            let (store, report) = SledStore::open(directory, limits)?;
            tell(&report);
            Ok((Box::new(store), report))
        }
    }
}

fn tell(report: &OpenReport) {
    let OpenReport { quarantined, set_aside, blob_files, replay } = report;
    if let Some(place) = quarantined {
        tracing::error!(place = %place.display(), "storage could not be read and is empty now; its contents were set aside");
    } else if let Some(place) = set_aside {
        tracing::error!(place = %place.display(), "storage was read from its log alone; damaged files were set aside");
    }
    tell_damage(replay);
    if *blob_files > 0 {
        tracing::error!(blob_files, "storage has values in files that are not synced");
    }
    tracing::info!(rows = replay.rows, "storage is open");
}

fn tell_damage(report: &ReplayReport) {
    let ReplayReport { rows: _, damaged_rows, orphans, lost_batches } = report;
    if damaged_rows + orphans + lost_batches > 0 {
        tracing::error!(damaged_rows, orphans, lost_batches, "storage is damaged; what is intact was kept");
    }
}

/// A store that keeps nothing: live sessions have all that they need in memory.
struct Volatile;

impl Store for Volatile {
    fn commit(&mut self, _: &[Record]) -> Result<(), StoreError> {
        Ok(())
    }

    fn replay(&mut self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        Ok(())
    }

    fn fetch(&mut self, _: &[MessageId]) -> Result<Vec<Arc<Message>>, StoreError> {
        Ok(Vec::new())
    }
}
