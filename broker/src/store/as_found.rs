//! A store as it was found, kept where something in it was damaged: the engine goes on behind the last batch that it can read, and overwrites
//! what stands behind the damage.
//!
//! Invariant: the copy is there before the engine opens the store, and is gone again or named in the report before anything is served.
//! What is too large for a copy, or leaves no room for one, is opened without.

use std::fs::{self, File};

use super::directory::{DataDirectory, DirectoryError, remove_directory, sync_directory};
use super::inspect::{COPIED_BYTES_MAX, copy, log_bytes};
use super::room::free_bytes;
use super::sled_store::OpenReport;

/// What stays free beside a copy.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;
/// Damage is met again until something has been stored, so a broker that is started often would keep many.
const KEPT_MAX: usize = 3;
/// What a copy is called where it is kept.
const NAME: &str = "as-found";

/// A copy that the engine does not touch.
pub(super) struct AsFound(());

impl AsFound {
    /// Copies the store, if there is one of a size that can be.
    pub(super) fn copy(directory: &DataDirectory) -> Option<Self> {
        let store = directory.store();
        let bytes = log_bytes(&store);
        let has_room =
            || free_bytes(directory.path()).is_ok_and(|free| free > bytes.saturating_add(SPARE_BYTES));
        if bytes == 0 || bytes > COPIED_BYTES_MAX || !has_room() {
            return None;
        }
        let place = directory.make_inspection().ok()?;
        match copy(&store, &place) {
            Ok(()) => Some(Self(())),
            Err(error) => {
                tracing::warn!(%error, "the store is opened without a copy of what it is now");
                // The next start removes what is left of it.
                let _ = remove_directory(&place);
                None
            }
        }
    }

    /// Keeps the copy if what was read is less than what had been stored, and says so in the report.
    ///
    /// # Errors
    /// What the file system answered.
    pub(super) fn settle(
        self,
        directory: &DataDirectory,
        report: &mut OpenReport,
    ) -> Result<(), DirectoryError> {
        let place = directory.inspection();
        let is_less = report.replay.damaged_rows + report.replay.lost_batches > 0;
        let is_enough = count_kept(directory) >= KEPT_MAX;
        if is_enough && is_less {
            tracing::error!(
                "the store as it was found is not kept: {KEPT_MAX} copies of earlier starts are there"
            );
        }
        if is_enough || report.quarantined.is_none() && !is_less {
            return remove_directory(&place).map_err(|error| directory.failed(error));
        }
        let kept = match report.quarantined.as_ref().or(report.set_aside.as_ref()) {
            Some(kept) => kept.clone(),
            None => directory.quarantine_place()?,
        };
        let keep = || {
            for file in fs::read_dir(&place)? {
                File::open(file?.path())?.sync_all()?;
            }
            sync_directory(&place)?;
            fs::rename(&place, kept.join(NAME))?;
            sync_directory(&kept)
        };
        keep().map_err(|error| directory.failed(error))?;
        directory.sync()?;
        if report.quarantined.is_none() {
            report.set_aside = Some(kept);
        }
        Ok(())
    }
}

/// Counts the copies that earlier starts have kept.
fn count_kept(directory: &DataDirectory) -> usize {
    let entries = fs::read_dir(directory.path()).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().join(NAME).exists()).count()
}
