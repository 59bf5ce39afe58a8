//! Small files: those of the data directory are written whole or not at all, readable by the broker only; those of an operator are
//! read, with a warning where they show secrets to everybody.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

/// A file or folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Names what was tried with which path.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.into(), source }
    }

    /// Returns what cannot be used.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Creates a folder, and those above it, for the broker only (mode 0700), so that a power cut leaves what it then holds
/// reachable. One that exists is left as it is.
///
/// # Errors
/// Names the folder.
pub fn create_private_folder(path: &Path) -> Result<(), FileError> {
    let is_absent = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let absent: Vec<&Path> = path.ancestors().take_while(is_absent).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::new("create folder", path, source))?;
    for folder in &absent {
        sync_name(folder).map_err(|source| FileError::new("sync the folder above", folder, source))?;
    }
    if absent.is_empty() {
        // An earlier start may have been killed before it did this; a folder above that may not be read was not made by us.
        let _ = sync_name(path);
    }
    Ok(())
}

/// Makes one new folder for the broker only.
///
/// # Errors
/// What the operating system answered, also if it exists.
pub fn new_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes a folder for the broker only if it is not there, and otherwise takes from everybody but its owner and its group what they
/// may do in it.
///
/// # Errors
/// What the operating system answered. A folder of another owner stays as it is.
pub fn close_folder(path: &Path) -> io::Result<()> {
    match new_private_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o007 == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7770)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Makes the name of a file or folder durable.
fn sync_name(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// Looks whether the folder is there in which a file is to be.
///
/// # Errors
/// What the operating system says of the folder.
pub fn check_folder_of(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if fs::metadata(above)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// Names the file; a larger one is refused.
pub fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, FileError> {
    let named = |source| FileError::new("read", path, source);
    // It may be a key: room for all of it from the start leaves no copies of its beginning behind.
    let mut bytes = Vec::with_capacity(bytes_max + 1);
    let file = File::open(path).map_err(named)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() > bytes_max {
        return Err(named(io::Error::other(format!("it is larger than {bytes_max} bytes"))));
    }
    Ok(bytes)
}

/// Warns of a file with secrets that every user of this machine may read; it is used all the same, as a mounted one may have no
/// other mode.
pub(crate) fn warn_if_exposed(path: &Path) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0) {
        warn!(file = %path.display(), "every user of this machine may read a file with secrets; `chmod o-r` takes that from them");
    }
}

/// Writes a file durably, so that a reader finds the earlier content or all of this one, never a part.
///
/// # Errors
/// Names the file.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_and_rename(path, bytes, mode).map_err(|source| FileError::new("write", path, source))
}

fn write_and_rename(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report; a left-over temporary file is harmless.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_name(path)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // One that a crash left behind may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_has_the_mode_and_the_bytes_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");

        write(&path, b"first", 0o600).unwrap();
        write(&path, b"second", 0o600).unwrap();

        assert_eq!(read(&path, 6).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_made_with_those_above_it_and_an_existing_one_is_left_as_it_is() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("above").join("folder");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

        create_private_folder(&folder).unwrap();
        assert_eq!((mode(&folder), mode(folder.parent().unwrap())), (0o700, 0o700));

        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        create_private_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o750);
    }

    #[test]
    fn a_folder_that_is_closed_keeps_what_its_group_may_do() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("folder");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;

        close_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);

        fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)).unwrap();
        close_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o2770);
    }

    #[test]
    fn what_a_crash_left_behind_does_not_lend_its_mode_or_its_target_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let left = folder.path().join(format!(".key.{}.new", std::process::id()));
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, b"untouched").unwrap();
        for leave in [
            Box::new(|| fs::write(&left, b"old").unwrap()) as Box<dyn Fn()>,
            Box::new(|| std::os::unix::fs::symlink(&elsewhere, &left).unwrap()),
        ] {
            leave();

            write(&path, b"seeds", 0o600).unwrap();

            assert_eq!(read(&path, 5).unwrap(), b"seeds");
            assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read(&elsewhere).unwrap(), b"untouched");
        }
    }

    #[test]
    fn a_file_above_the_limit_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        fs::write(&path, [0; 11]).unwrap();

        let error = read(&path, 10).unwrap_err();

        assert_eq!(error.to_string(), format!("cannot read {}: it is larger than 10 bytes", path.display()));
    }

    #[test]
    fn a_missing_file_is_told_from_one_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();

        assert!(read(&folder.path().join("missing"), 1).unwrap_err().is_not_found());
        assert!(!read(folder.path(), 1).unwrap_err().is_not_found());
    }
}
