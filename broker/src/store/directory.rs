//! The data directory: who may use it, which format it has, and where damaged contents go.
//!
//! ```text
//! DIR/lock           held by the one broker that uses the directory
//! DIR/format         "veilmq-store 2", and a line with the checksum of that, so that damage is not taken for a newer format
//! DIR/watermark      the number of the last durable batch, so that a lost tail is noticed
//! DIR/store/         the engine's files
//! DIR/quarantine-*/  contents that could not be read, set aside and never deleted
//! DIR/rebuild/       a store that a command is making, itself laid out like DIR; and the one it replaces, as `replaced`
//! DIR/inspection/    what the engine writes when a command only reads; at a start the store as it was found, until it was read
//! ```
//!
//! Invariants: nothing below `store/` is touched before the lock is held and the format is known, and nobody but the broker's user
//! and group can look into it, whatever others may do in DIR.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::room::{free_bytes, has_no_file_left};
use crate::clock;
use crate::files::{self, FileError};

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
    /// There is no store in it.
    #[error("data directory {}: there is no store in it", .0.display())]
    NoStore(PathBuf),
    /// There is a store in it, where none was expected.
    #[error("data directory {}: there is a store in it already", .0.display())]
    NotEmpty(PathBuf),
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
    /// It cannot be made.
    #[error(transparent)]
    Folder(#[from] FileError),
    /// The file system has no room, which opening a store takes some of.
    #[error(
        "data directory {}: its disk is full ({free_bytes} bytes are free), and to open the store takes some room: \
         make a few megabytes free on the file system of this folder and start again; nothing stored is lost",
        .path.display()
    )]
    Full {
        /// The data directory.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
    },
    /// The file system takes no other file, of which opening a store makes some.
    #[error(
        "data directory {}: no space left for another file: its file system has as many as it can have (`df -i` shows them), and to open \
         the store takes some: remove others and start again; nothing stored is lost",
        .0.display()
    )]
    NoFileLeft(PathBuf),
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
    /// Creates the directory if need be, takes its lock, and ends what a command that was interrupted has begun.
    ///
    /// # Errors
    /// [`DirectoryError::Locked`] if another process holds the lock.
    pub(crate) fn lock(path: &Path) -> Result<Self, DirectoryError> {
        files::create_private_folder(path)?;
        let directory = Self::lock_existing(path)?;
        directory.settle()?;
        Ok(directory)
    }

    /// Takes the lock of a directory that has a store.
    ///
    /// # Errors
    /// [`DirectoryError::NoStore`], or [`DirectoryError::Locked`] if another process holds the lock.
    pub(crate) fn lock_with_store(path: &Path) -> Result<Self, DirectoryError> {
        let has_store = |path: &Path| path.join("store").exists() || path.join("rebuild/replaced").exists();
        if has_store(path) {
            Self::lock_existing(path)
        } else {
            Err(DirectoryError::NoStore(path.to_owned()))
        }
    }

    fn lock_existing(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |error| DirectoryError::Io { path: path.to_owned(), error };
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

    /// Returns the data directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory of the engine.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Returns where a command makes a new store.
    pub(crate) fn rebuild(&self) -> PathBuf {
        self.path.join("rebuild")
    }

    /// Returns where the store goes that a new one replaces.
    fn replaced(&self) -> PathBuf {
        self.rebuild().join("replaced")
    }

    /// Returns where the store is, even if a command was killed while it put a new one in its place.
    pub(crate) fn store_in_effect(&self) -> PathBuf {
        if self.store().exists() { self.store() } else { self.replaced() }
    }

    /// Puts the store under `rebuild` in the place of the present one, if there is one, and removes that.
    ///
    /// At any moment the directory has the earlier store or the new one, or [`Self::settle`] finds the earlier one.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn adopt_rebuilt(&self) -> Result<(), DirectoryError> {
        let rebuild = self.rebuild();
        let adopt = || {
            // The mark is a lower bound, so that none is right for both stores.
            remove_file(&self.path.join("watermark"))?;
            fs::rename(rebuild.join("format"), self.path.join("format"))?;
            sync_directory(&self.path)?;
            if self.store().exists() {
                fs::rename(self.store(), self.replaced())?;
                sync_directory(&rebuild)?;
                sync_directory(&self.path)?;
            }
            fs::rename(rebuild.join("store"), self.store())?;
            sync_directory(&self.path)?;
            fs::rename(rebuild.join("watermark"), self.path.join("watermark"))?;
            fs::remove_dir_all(&rebuild)
        };
        adopt().map_err(|error| self.failed(error))?;
        self.sync()
    }

    /// Removes a new store that is not going to be used.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn remove_rebuilt(&self) -> io::Result<()> {
        // Only while the store is in its own place is the folder of no use.
        if self.replaced().exists() && !self.store().exists() {
            return Ok(());
        }
        remove_directory(&self.rebuild())
    }

    /// Removes what commands leave behind when they are killed. A store that was about to be replaced is the store again.
    fn settle(&self) -> Result<(), DirectoryError> {
        let settle = || {
            if !self.store().exists() && self.replaced().exists() {
                fs::rename(self.replaced(), self.store())?;
                sync_directory(&self.path)?;
            }
            self.remove_rebuilt()?;
            remove_directory(&self.inspection())
        };
        settle().map_err(|error| self.failed(error))
    }

    /// Returns where a copy of the store goes that the engine may write into, or that is kept from it.
    pub(super) fn inspection(&self) -> PathBuf {
        self.path.join("inspection")
    }

    /// Makes an empty directory for what the engine writes while it only reads.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn make_inspection(&self) -> Result<PathBuf, DirectoryError> {
        let place = self.inspection();
        let make = || remove_directory(&place).and_then(|()| files::new_private_folder(&place));
        make().map_err(|error| self.failed(error))?;
        Ok(place)
    }

    /// Lets only the known format pass, and changes nothing. False if it cannot be told: a broker would set the contents aside.
    ///
    /// # Errors
    /// [`DirectoryError::UnknownFormat`].
    pub(crate) fn has_known_format(&self) -> Result<bool, DirectoryError> {
        match self.read_format()? {
            Format::Known => Ok(true),
            Format::Unknown(found) => Err(self.unknown_format(found, FORMAT)),
            Format::Absent | Format::Unreadable => Ok(false),
        }
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
            match files::new_private_folder(&place) {
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
        let path = self.path.clone();
        if error.kind() == io::ErrorKind::StorageFull {
            // What cannot even be asked counts as nothing.
            if has_no_file_left(&path) {
                return DirectoryError::NoFileLeft(path);
            }
            return DirectoryError::Full { free_bytes: free_bytes(&path).unwrap_or(0), path };
        }
        DirectoryError::Io { path, error }
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

/// Removes a directory with all that is in it, if there is one.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(path))
}

fn remove_file(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
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

    /// Reads the number without leaving a file where there is none; 0 then, and if it is not intact.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn read(directory: &DataDirectory) -> Result<u64, DirectoryError> {
        let path = directory.path.join("watermark");
        match fs::read(&path) {
            Ok(bytes) => Ok(bytes.get(..12).and_then(Self::parse).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(DirectoryError::Io { path, error }),
        }
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

    /// The calls of `adopt_rebuilt` in their order, of which a crash may leave any number.
    #[test]
    fn a_crash_at_any_step_of_a_replacement_leaves_the_earlier_store_or_the_new_one() {
        type Step = fn(&Path);
        let steps: [Step; 6] = [
            |dir| fs::remove_file(dir.join("watermark")).unwrap(),
            |dir| fs::rename(dir.join("rebuild/format"), dir.join("format")).unwrap(),
            |dir| fs::rename(dir.join("store"), dir.join("rebuild/replaced")).unwrap(),
            |dir| fs::rename(dir.join("rebuild/store"), dir.join("store")).unwrap(),
            |dir| fs::rename(dir.join("rebuild/watermark"), dir.join("watermark")).unwrap(),
            |dir| fs::remove_dir_all(dir.join("rebuild")).unwrap(),
        ];
        for done in 0..=steps.len() {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path();
            for (place, contents) in [("", "earlier"), ("rebuild/", "new")] {
                fs::create_dir_all(path.join(place).join("store")).unwrap();
                for name in ["format", "watermark", "store/db"] {
                    fs::write(path.join(place).join(name), contents).unwrap();
                }
            }
            steps.iter().take(done).for_each(|step| step(path));

            let directory = DataDirectory::lock(path).unwrap();

            let expected = if done < 4 { "earlier" } else { "new" };
            assert_eq!(fs::read_to_string(directory.store().join("db")).unwrap(), expected, "{done} steps");
            assert!(!directory.rebuild().exists(), "{done} steps");
        }
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
