//! Export: everything that is stored, as lines of JSON that other programs can read and `import` takes back.
//!
//! Invariant: an export that was cut has no last line; one that has it has all that the store had to give.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::progress::Progress;
use super::spool::Spool;
use super::tally::Tally;
use super::{UpkeepError, damaged, encode};
use crate::store::{self, DataDirectory};

/// The bytes that are written at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes what is stored to a new file, or to standard output (`-`), and returns what it was.
///
/// A damaged store gives what is intact of it, and then an error.
///
/// # Errors
/// As for [`check`](super::check); or the file cannot be written, and is removed.
pub(crate) fn export(data_dir: &Path, output: &Path) -> Result<Tally, UpkeepError> {
    let directory = DataDirectory::lock_with_store(data_dir)?;
    let target = Target::open(output)?;
    let exported = write(&directory, BufWriter::with_capacity(BUFFER_BYTES, target.writer()?), output);
    match &exported {
        Ok(_) | Err(UpkeepError::Damaged { .. }) => target.keep()?,
        Err(_) => target.remove(),
    }
    exported
}

fn write(directory: &DataDirectory, mut out: impl Write, name: &Path) -> Result<Tally, UpkeepError> {
    let failed = |error| UpkeepError::File { action: "write", path: name.to_owned(), error };
    let mut progress = Progress::start("read");
    let mut tally = Tally::default();
    let mut line = Vec::new();
    let mut spool = Spool::create(directory.path()).map_err(|error| directory.failed(error))?;
    let mut spooled = Ok(());
    let inspection = store::inspect(directory, store::Reading::Copied, &mut |record| {
        if spooled.is_ok() {
            tally.add(&record);
            spooled = encode::record(&record, &mut line, |place, line| spool.push(place, line));
            progress.report(&tally);
        }
    })?;
    spooled.map_err(|error| directory.failed(error))?;
    line.clear();
    encode::header(&mut line);
    out.write_all(&line).map_err(failed)?;
    spool.write_sorted(&mut out).map_err(failed)?;
    if inspection.unreadable.is_none() {
        line.clear();
        encode::end(&tally, &mut line);
        out.write_all(&line).map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    if inspection.is_clean() {
        Ok(tally)
    } else {
        let advice = match inspection.unreadable {
            Some(_) => "what could be read was exported, without the last line",
            None => "what is intact was exported",
        };
        Err(damaged(directory, &inspection, advice))
    }
}

/// Where an export goes.
enum Target {
    StandardOutput,
    File { path: PathBuf, file: File },
}

impl Target {
    /// Opens a file that does not exist yet, for nobody else to read: it has what clients sent.
    fn open(output: &Path) -> Result<Self, UpkeepError> {
        if output.as_os_str() == "-" {
            return Ok(Self::StandardOutput);
        }
        let path = output.to_owned();
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Self::File { path, file }),
            Err(error) => Err(UpkeepError::File { action: "create", path, error }),
        }
    }

    fn writer(&self) -> Result<Box<dyn Write>, UpkeepError> {
        match self {
            Self::StandardOutput => Ok(Box::new(io::stdout().lock())),
            Self::File { path, file } => match file.try_clone() {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(UpkeepError::File { action: "write", path: path.clone(), error }),
            },
        }
    }

    fn keep(self) -> Result<(), UpkeepError> {
        match self {
            Self::StandardOutput => Ok(()),
            Self::File { path, file } => {
                file.sync_all().map_err(|error| UpkeepError::File { action: "write", path, error })
            }
        }
    }

    fn remove(self) {
        if let Self::File { path, file: _ } = self {
            // The first error is the one to report; without a last line the rest is known to be cut.
            let _ = fs::remove_file(path);
        }
    }
}
