//! Inspection: reading a store while leaving it as it is, whatever its state.
//!
//! The engine writes when it opens, so it is given a directory of its own. Its snapshots and options are copied there; its log is
//! copied if it is small. A larger log is used where it is: the engine then may clear what lies behind the end that it found,
//! as it does whenever a broker starts, and changes nothing before that end.
//! Invariant: nothing is repaired, set aside or created in the directory, but for the `inspection` folder, which is gone afterwards.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use veilmq_core::Record;

use super::directory::{DataDirectory, DirectoryError, Watermark, remove_directory};
use super::opening::ReplayReport;
use super::sled_store::{self, SledLimits};

/// The largest log that is copied before it is read.
const COPIED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What the engine may use while a command works on a store.
pub(crate) const LIMITS: SledLimits =
    SledLimits { cache_bytes: 16 * 1024 * 1024, spare_bytes: SledLimits::SPARE_BYTES, threads: 1 };

/// What an inspection found.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// What reading all rows found.
    pub(crate) replay: ReplayReport,
    /// The number of values in files of their own, which are not synced.
    pub(crate) blob_files: usize,
    /// Why the store as a whole cannot be read; what was visited then is only a part.
    pub(crate) unreadable: Option<String>,
}

impl Inspection {
    /// Tells whether everything that was stored is there.
    pub(crate) fn is_clean(&self) -> bool {
        let ReplayReport { rows: _, damaged_rows, orphans, lost_batches } = self.replay;
        damaged_rows + orphans + lost_batches == 0 && self.blob_files == 0 && self.unreadable.is_none()
    }
}

/// Visits everything that is stored, in the order of [`Store::replay`](veilmq_core::Store::replay).
///
/// # Errors
/// The store has an unknown format, or the file system refused.
pub(crate) fn inspect(
    directory: &DataDirectory,
    visit: &mut dyn FnMut(Record),
) -> Result<Inspection, DirectoryError> {
    let store = directory.store_in_effect();
    let mut inspection = Inspection {
        replay: ReplayReport::default(),
        blob_files: fs::read_dir(store.join("blobs")).map_or(0, Iterator::count),
        unreadable: None,
    };
    if !directory.has_known_format()? {
        inspection.unreadable = Some("its format file is missing or damaged".into());
        return Ok(inspection);
    }
    let durable = Watermark::read(directory)?;
    let place = directory.make_inspection()?;
    let result = furnish(&store, &place)
        .map_err(|error| directory.failed(error))
        .and_then(|()| sled_store::read_only(directory, &place, LIMITS, visit));
    remove_directory(&place).map_err(|error| directory.failed(error))?;
    match result? {
        Ok((replay, sequence_max)) => {
            inspection.replay = replay;
            inspection.replay.lost_batches += durable.saturating_sub(sequence_max);
        }
        Err(unreadable) => inspection.unreadable = Some(unreadable),
    }
    Ok(inspection)
}

/// Returns the bytes of all files of a store.
///
/// # Errors
/// What the file system answered.
pub(crate) fn disk_bytes(store: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Puts what the engine needs into a directory of its own. Snapshots that a crash left half written are no part of a store.
fn furnish(store: &Path, place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let (from, to) = (entry.path(), place.join(entry.file_name()));
        let metadata = entry.metadata()?;
        if metadata.is_dir() || from.extension().is_some_and(|extension| extension == "generating") {
            continue;
        }
        if metadata.len() <= COPIED_BYTES_MAX {
            fs::copy(&from, &to)?;
        } else {
            symlink(fs::canonicalize(&from)?, &to)?;
        }
    }
    Ok(())
}
