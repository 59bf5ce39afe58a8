//! Upkeep: commands for the store of a broker that does not run. They check, export, import and compact it.
//!
//! All work record by record on what a replay gives, so that memory does not grow with the payloads that are stored.
//! Invariant: a command that fails leaves what is stored as it was; none changes it in place.

mod command;
mod decode;
mod encode;
mod export;
mod import;
mod mosquitto;
mod progress;
mod rebuild;
mod spool;
mod tally;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use veilmq_core::StoreError;

use self::export::export;
use self::import::{LineError, import};
use self::mosquitto::{DumpFault, Imported, Users, import_mosquitto};
use self::progress::Progress;
use self::rebuild::Rebuild;
use self::tally::Tally;
use crate::files::FileError;
use crate::store::{self, DataDirectory, DirectoryError, Inspection, Reading};

pub(crate) use self::command::{StoreCommand, StoreCommandError, execute};

/// Why a command for the store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpkeepError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The data directory cannot be made.
    #[error(transparent)]
    Folder(#[from] FileError),
    /// The new store refused.
    #[error("cannot write the new store: {0}")]
    Store(#[from] StoreError),
    /// The new store has something else than what was written.
    #[error(
        "the new store does not have what was written to it ({found} instead of {expected}), so it is not used"
    )]
    NotVerified {
        /// What was written.
        expected: String,
        /// What was read.
        found: String,
    },
    /// Something that was stored is not there any more.
    #[error("data directory {}: its store is damaged ({damage}); {advice}", .path.display())]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What is wrong with it.
        damage: String,
        /// What has or can be done.
        advice: &'static str,
    },
    /// A line of an export is wrong.
    #[error("{}: {error}", .input.display())]
    Line {
        /// The export.
        input: PathBuf,
        /// The line and what is wrong with it.
        error: LineError,
    },
    /// A dump of Mosquitto's database is wrong.
    #[error("{}: {fault}", .input.display())]
    Dump {
        /// The dump.
        input: PathBuf,
        /// The field and what is wrong with it.
        fault: DumpFault,
    },
    /// An export cannot be read or written.
    #[error("cannot {action} {}: {error}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The export.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
}

/// What a check found: the result of `veilmq store check`, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct CheckReport {
    /// Whether everything that was stored is there.
    pub(crate) clean: bool,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    /// The bytes of the files of the store.
    pub(crate) disk_bytes: u64,
    /// The rows of the storage engine.
    pub(crate) rows: u64,
    pub(crate) damage: Damage,
}

/// What is wrong with a store.
#[derive(Debug, Serialize)]
pub(crate) struct Damage {
    /// Rows that are not what had been written.
    rows: u64,
    /// Values that refer to a session or message that is not there.
    orphans: u64,
    /// Batches that were durable once and are missing at the end.
    lost_batches: u64,
    /// Values in files that are not synced.
    blob_files: usize,
    /// Why the store as a whole cannot be read.
    unreadable: Option<String>,
}

impl Damage {
    fn of(inspection: &Inspection) -> Self {
        let Inspection { replay, blob_files, unreadable } = inspection;
        Self {
            rows: replay.damaged_rows,
            orphans: replay.orphans,
            lost_batches: replay.lost_batches,
            blob_files: *blob_files,
            unreadable: unreadable.clone(),
        }
    }
}

impl core::fmt::Display for Damage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { rows, orphans, lost_batches, blob_files, unreadable } = self;
        if let Some(error) = unreadable {
            return write!(f, "it cannot be read: {error}");
        }
        let parts = [
            (*rows, "damaged rows"),
            (*orphans, "values that refer to nothing"),
            (*lost_batches, "batches missing at the end"),
            (*blob_files as u64, "values in files that are not synced"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Reads the whole store and changes nothing.
///
/// # Errors
/// There is no store, a broker uses it, it has an unknown format, or the file system refused.
pub(crate) fn check(data_dir: &Path) -> Result<CheckReport, UpkeepError> {
    let directory = DataDirectory::lock_with_store(data_dir)?;
    let mut progress = Progress::start("checked");
    let mut tally = Tally::default();
    let inspection = store::inspect(&directory, Reading::Copied, &mut |record| {
        tally.add(&record);
        progress.report(&tally);
    })?;
    Ok(CheckReport {
        clean: inspection.is_clean(),
        tally,
        disk_bytes: disk_bytes(&directory)?,
        rows: inspection.replay.rows,
        damage: Damage::of(&inspection),
    })
}

/// The bytes of a store before and after it was compacted.
#[derive(Debug)]
pub(crate) struct Compaction {
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Writes what a store has into a new one, which then takes its place.
///
/// # Errors
/// As for [`check`]; the store is damaged; or the new one could not be made, and the earlier one stays.
pub(crate) fn compact(data_dir: &Path) -> Result<Compaction, UpkeepError> {
    // The lock of a directory without a store would make one.
    drop(DataDirectory::lock_with_store(data_dir)?);
    let directory = DataDirectory::lock(data_dir)?;
    let bytes_before = disk_bytes(&directory)?;
    let mut progress = Progress::start("compacted");
    let mut rebuild = Rebuild::begin(&directory)?;
    let mut failed = None;
    let reading = Reading::beside_another(&directory, bytes_before);
    let inspection = store::inspect(&directory, reading, &mut |record| {
        if failed.is_none() {
            failed = rebuild.push(record).err();
            progress.report(rebuild.tally());
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if !inspection.is_clean() {
        let advice = "a broker that starts keeps what is intact, and so does an export";
        return Err(damaged(&directory, &inspection, advice));
    }
    rebuild.adopt(&mut progress)?;
    Ok(Compaction { bytes_before, bytes_after: disk_bytes(&directory)? })
}

fn disk_bytes(directory: &DataDirectory) -> Result<u64, UpkeepError> {
    Ok(store::disk_bytes(&directory.store_in_effect()).map_err(|error| directory.failed(error))?)
}

fn damaged(directory: &DataDirectory, inspection: &Inspection, advice: &'static str) -> UpkeepError {
    let damage = Damage::of(inspection).to_string();
    UpkeepError::Damaged { path: directory.path().to_owned(), damage, advice }
}
