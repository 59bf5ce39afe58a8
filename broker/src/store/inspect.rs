//! Inspection: reading a store while leaving it as it is, whatever its state.
//!
//! The engine writes when it opens, so it is given a copy, unless the log is large or there is no room ([`Reading`]). Otherwise the store is
//! opened where it is, exactly as a broker does when it starts. A snapshot of the engine belongs to the log that it was made of: the
//! engine clears what its newest snapshot does not need, so a log that it has opened with a snapshot elsewhere may be empty without that.
//! Invariant: nothing is repaired or set aside, and of a store that was copied nothing is changed; the `inspection` folder is gone
//! afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use veilmq_core::Record;

use super::directory::{DataDirectory, DirectoryError, Watermark, remove_directory, sync_directory};
use super::opening::ReplayReport;
use super::room::free_bytes;
use super::sled_store::{self, SledLimits};

/// The largest log that is copied before it is read.
pub(super) const COPIED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What is copied at once.
const COPY_BYTES: usize = 256 * 1024;
/// What the engine may use while a command works on a store.
pub(crate) const LIMITS: SledLimits =
    SledLimits { cache_bytes: 16 * 1024 * 1024, spare_bytes: SledLimits::SPARE_BYTES, threads: 1 };

/// How the engine gets at the log that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// By a copy, unless the log is large: then nothing of the store can change.
    Copied,
    /// Where it is, as a broker does.
    InPlace,
}

impl Reading {
    /// Chooses how to read a store of so many bytes beside which another one is made of it: a copy must leave room for that.
    pub(crate) fn beside_another(directory: &DataDirectory, store_bytes: u64) -> Self {
        // Where it cannot be found out, a copy that fails says so.
        let free_bytes = free_bytes(directory.path()).unwrap_or(u64::MAX);
        if free_bytes / 3 >= store_bytes { Self::Copied } else { Self::InPlace }
    }

    /// Returns the bytes of the largest log that is copied.
    fn copied_bytes_max(self) -> u64 {
        match self {
            Self::Copied => COPIED_BYTES_MAX,
            // A store without a log is not given one.
            Self::InPlace => 0,
        }
    }
}

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
    reading: Reading,
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
    let result = if log_bytes(&store) <= reading.copied_bytes_max() {
        let place = directory.make_inspection()?;
        let result = copy(&store, &place)
            .map_err(|error| directory.failed(error))
            .and_then(|()| sled_store::read_only(directory, &place, LIMITS, visit));
        remove_directory(&place).map_err(|error| directory.failed(error))?;
        result
    } else {
        sled_store::remove_unfinished_snapshots(&store).map_err(|error| directory.failed(error))?;
        let result = sled_store::read_only(directory, &store, LIMITS, visit);
        sync_directory(&store).map_err(|error| directory.failed(error))?;
        result
    };
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

/// Returns the bytes of the log of a store; 0 if it has none.
pub(super) fn log_bytes(store: &Path) -> u64 {
    fs::metadata(store.join("db")).map_or(0, |log| log.len())
}

/// Copies a file byte by byte: blocks that two files share would be damaged in both.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut part = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut part)? {
            0 => return Ok(()),
            bytes => to.write_all(part.get(..bytes).unwrap_or_default())?,
        }
    }
}

/// Copies what the engine needs into a directory of its own. Snapshots that a crash left half written are no part of a store.
pub(super) fn copy(store: &Path, place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let (from, to) = (entry.path(), place.join(entry.file_name()));
        if !entry.metadata()?.is_dir() && from.extension().is_none_or(|extension| extension != "generating") {
            copy_file(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use veilmq_core::Store;

    use super::super::medium::{published, session, settled};
    use super::super::sled_store::SledStore;
    use super::*;

    #[test]
    fn a_store_that_was_read_where_it_is_still_has_what_it_had() {
        // So many commits that the engine uses segments again, and has no snapshot that it could start from.
        for commits in [100, 300, 600] {
            let temporary = tempfile::tempdir().unwrap();
            let (mut store, _) =
                SledStore::open(temporary.path(), SledLimits { spare_bytes: 0, ..LIMITS }).unwrap();
            store.commit(&[session(1)]).unwrap();
            for id in 1..=commits {
                let mut records = vec![published(id, &[1; 6_000], [1])];
                records.extend(settled(1, id - 1));
                store.commit(&records).unwrap();
            }
            drop(store);
            let directory = DataDirectory::lock(temporary.path()).unwrap();

            for reading in [Reading::InPlace, Reading::InPlace, Reading::Copied] {
                let mut bodies = 0;
                let inspection = inspect(&directory, reading, &mut |record| {
                    bodies += u64::from(matches!(record, Record::Published { .. }));
                })
                .unwrap();

                assert_eq!((inspection.is_clean(), bodies), (true, 1), "{commits} commits, {reading:?}");
            }
            drop(directory);
            let (_, report) = SledStore::open(temporary.path(), LIMITS).unwrap();
            assert_eq!((report.is_damaged(), report.quarantined), (false, None));
        }
    }
}
