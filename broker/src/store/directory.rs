//! The data directory: who may use it, which format it has, and where damaged contents go.
//!
//! ```text
//! DIR/lock           held by the one broker that uses the directory
//! DIR/format         "veilmq-store 2", and a line with the checksum of that, so that damage is not taken for a newer format
//! DIR/watermark      the number of the last durable batch, so that a lost tail is noticed
//! DIR/store/         the engine's files
//! DIR/quarantine-*/  contents that could not be read, set aside and never deleted
//! ```
//!
//! Invariant: nothing below `store/` is touched before the lock is held and the format is known.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::clock;

/// The format of a data directory, the number in its `format` file. Format 1, a row for each value, was never released.
const FORMAT: u32 = 2;
const FORMAT_MAGIC: &str = "veilmq-store ";

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another broker uses it.
    #[error("data directory {}: another broker is using it", .0.display())]
    Locked(PathBuf),
    /// A newer broker wrote it; it is left as it is.
    #[error("data directory {}: it has format {found}, this broker knows format {known}", .path.display())]
    UnknownFormat {
        /// The data directory.
        path: PathBuf,
        /// The format of the directory, or of a row in it.
        found: u32,
        /// The newest that this broker knows.
        known: u32,
    },
    /// The file system refused.
    #[error("data directory {}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
}

/// What the `format` file says.
enum Format {
    Absent,
    Known,
    Unknown(u32),
    /// The file is empty, torn or overwritten.
    Unreadable,
}

impl DataDirectory {
    /// Creates the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`DirectoryError::Locked`] if another process holds the lock.
    pub(crate) fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |error| DirectoryError::Io { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Returns the directory of the engine.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Lets only the known format pass, and writes it into a new directory. Contents whose format cannot be read
    /// are set aside; the place they went to is returned.
    ///
    /// # Errors
    /// [`DirectoryError::UnknownFormat`]: the directory belongs to another version of the broker.
    pub(crate) fn check_format(&self) -> Result<Option<PathBuf>, DirectoryError> {
        let quarantined = match self.read_format()? {
            Format::Known => return Ok(None),
            Format::Unknown(found) => return Err(self.unknown_format(found, FORMAT)),
            Format::Absent | Format::Unreadable => self.quarantine()?,
        };
        self.write_format()?;
        Ok(quarantined)
    }

    /// Returns the error for contents of an unknown format.
    pub(crate) fn unknown_format(&self, found: u32, known: u32) -> DirectoryError {
        DirectoryError::UnknownFormat { path: self.path.clone(), found, known }
    }

    /// Moves the engine's files and the watermark into a new dated directory; None if there was nothing to move.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn quarantine(&self) -> Result<Option<PathBuf>, DirectoryError> {
        if !self.store().exists() {
            return Ok(None);
        }
        let place = self.quarantine_place()?;
        for name in ["store", "watermark"] {
            let (from, to) = (self.path.join(name), place.join(name));
            if from.exists() {
                fs::rename(&from, &to).map_err(|error| DirectoryError::Io { path: from, error })?;
            }
        }
        self.sync()?;
        Ok(Some(place))
    }

    /// Makes a new dated directory for what is set aside.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn quarantine_place(&self) -> Result<PathBuf, DirectoryError> {
        // 20261121T235222Z: the short form of the date, which every file system takes for a name.
        let date = clock::rfc3339(clock::unix_seconds()).replace(['-', ':'], "");
        for attempt in 1_u32.. {
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let place = self.path.join(format!("quarantine-{date}{suffix}"));
            match fs::create_dir(&place) {
                Ok(()) => return Ok(place),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(DirectoryError::Io { path: place, error }),
            }
        }
        Err(self.failed(io::ErrorKind::AlreadyExists.into()))
    }

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn sync(&self) -> Result<(), DirectoryError> {
        sync_directory(&self.path).map_err(|error| self.failed(error))
    }

    /// Wraps an error of the file system.
    pub(crate) fn failed(&self, error: io::Error) -> DirectoryError {
        DirectoryError::Io { path: self.path.clone(), error }
    }

    fn read_format(&self) -> Result<Format, DirectoryError> {
        let bytes = match fs::read(self.path.join("format")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Format::Absent),
            Err(error) => return Err(self.failed(error)),
        };
        Ok(match core::str::from_utf8(&bytes).ok().and_then(parse_format) {
            Some(FORMAT) => Format::Known,
            Some(found) => Format::Unknown(found),
            None => Format::Unreadable,
        })
    }

    /// Writes the file under another name first, so that a crash leaves a whole one or none.
    fn write_format(&self) -> Result<(), DirectoryError> {
        let temporary = self.path.join("format.new");
        let write = || {
            let mut file = File::create(&temporary)?;
            let line = format!("{FORMAT_MAGIC}{FORMAT}");
            writeln!(file, "{line}\n{}", format_checksum(&line))?;
            file.sync_all()?;
            fs::rename(&temporary, self.path.join("format"))
        };
        write().map_err(|error| self.failed(error))?;
        self.sync()
    }
}

/// Reads the text of a `format` file; None if it is not whole. The checksum may be missing, but not wrong.
fn parse_format(text: &str) -> Option<u32> {
    let (line, checksum) = text.split_once('\n').unwrap_or((text, ""));
    let is_intact = checksum.is_empty() || checksum.trim_end() == format_checksum(line);
    line.strip_prefix(FORMAT_MAGIC).filter(|_| is_intact)?.parse().ok()
}

fn format_checksum(line: &str) -> String {
    format!("{:08x}", crc32fast::hash(line.as_bytes()))
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        // Closing the file would not do while a process that is being started still has a copy of it.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, path = %self.path.display(), "the data directory was not unlocked");
        }
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A small file with the sequence number of the last durable batch, written after each.
///
/// It is a lower bound: never synced itself, it may lag behind, but never ahead of what was durable.
/// If the store has less than this, batches that were acknowledged are gone.
#[derive(Debug)]
pub(crate) struct Watermark(File);

impl Watermark {
    /// Opens the file and reads the number; 0 if there is none, or none that is intact.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn open(directory: &DataDirectory) -> Result<(Self, u64), DirectoryError> {
        let path = directory.path.join("watermark");
        let open = || {
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
            let mut bytes = Vec::new();
            // A whole mark has 12 bytes; whatever follows them is not ours.
            (&mut file).take(12).read_to_end(&mut bytes)?;
            Ok((Self(file), Self::parse(&bytes).unwrap_or(0)))
        };
        open().map_err(|error| DirectoryError::Io { path: path.clone(), error })
    }

    /// Records that the batch with this number is durable.
    ///
    /// # Errors
    /// What the file system answered; the batch is durable all the same.
    pub(crate) fn set(&mut self, sequence: u64) -> io::Result<()> {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&crc32fast::hash(&sequence.to_le_bytes()).to_le_bytes());
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&bytes)
    }

    fn parse(bytes: &[u8]) -> Option<u64> {
        let (sequence, sum) = bytes.split_first_chunk::<8>()?;
        let intact = crc32fast::hash(sequence).to_le_bytes() == sum;
        intact.then(|| u64::from_le_bytes(*sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let first = DataDirectory::lock(temporary.path()).unwrap();

        let error = DataDirectory::lock(temporary.path()).unwrap_err().to_string();

        assert!(error.contains(temporary.path().to_str().unwrap()), "{error}");
        drop(first);
        assert!(DataDirectory::lock(temporary.path()).is_ok());
    }

    #[test]
    fn no_damage_makes_the_format_of_a_directory_another_one() {
        let line = format!("{FORMAT_MAGIC}{FORMAT}");
        let whole = format!("{line}\n{}\n", format_checksum(&line)).into_bytes();
        let number = |bytes: &[u8]| core::str::from_utf8(bytes).ok().and_then(parse_format);
        assert_eq!(number(&whole), Some(FORMAT));

        for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, 1_u8 << bit))) {
            let mut damaged = whole.clone();
            damaged[at] ^= bit;
            assert!(number(&damaged).is_none_or(|number| number == FORMAT), "{damaged:?}");
            assert!(number(&whole[..at]).is_none_or(|number| number == FORMAT), "cut at {at}");
        }
        assert_eq!(
            parse_format("veilmq-store 4294967295\n"),
            Some(u32::MAX),
            "a directory of a newer broker"
        );
    }

    #[test]
    fn a_torn_watermark_counts_as_none() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDirectory::lock(temporary.path()).unwrap();
        let (mut watermark, none) = Watermark::open(&directory).unwrap();
        watermark.set(77).unwrap();
        let read = || Watermark::open(&directory).unwrap().1;
        let whole = read();

        fs::write(temporary.path().join("watermark"), [0; 9]).unwrap();

        assert_eq!((none, whole, read()), (0, 77, 0));
    }
}
