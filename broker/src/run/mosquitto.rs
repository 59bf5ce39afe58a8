//! Mosquitto's database and our directory beside it.
//!
//! Whoever replaces Mosquitto goes on treating its database as the state of the broker: looks whether it is there, and removes it
//! to begin afresh. So a file that stands in its place says where the state is, and when somebody has removed it, what it stood
//! for is set aside. A real database is never touched.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::clock;
use crate::files::{self, FileError};
use crate::store::{DataDirectory, DirectoryError};

/// How Mosquitto's own database begins.
const MAGIC: &[u8] = b"\0\xb5\0mosquitto db";
const SIGN: &str = "The broker keeps its state in ";
/// What there is of state; the broker's identity stays. In the order in which it is set aside: a store goes last, for without it nothing is
/// looked for, and a watermark without its store would be damage.
const STATE: [&str; 3] = ["watermark", "format", STORE];
const STORE: &str = "store";

/// Sets the state aside if the file that stands for it was removed.
///
/// # Errors
/// Names the file that cannot be renamed, or that another broker uses the state.
pub(super) fn follow_removal(database: &Path, data_dir: &Path) -> Result<(), DirectoryError> {
    if database.exists() || !data_dir.join(STORE).exists() {
        return Ok(());
    }
    // Nobody else may be using it.
    let directory = DataDirectory::lock(data_dir)?;
    let aside = free_name(data_dir);
    let failed = |path: &Path, error| DirectoryError::Io { path: path.to_owned(), error };
    files::new_private_folder(&aside).map_err(|error| failed(&aside, error))?;
    for name in STATE {
        let path = data_dir.join(name);
        match fs::rename(&path, aside.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    directory.sync()?;
    warn!(
        "{} was removed, so the broker begins afresh; the state before that was set aside: {}",
        database.display(),
        aside.display()
    );
    Ok(())
}

/// Writes the file that stands for the state, where no file is.
///
/// # Errors
/// Names the file if it cannot be read or written.
pub(super) fn leave_sign(database: &Path, data_dir: &Path) -> Result<(), FileError> {
    if is_mosquittos(database).map_err(|error| FileError::new("read", database, error))? {
        warn!(
            "{} is Mosquitto's own database, and is not read; `veilmq store import-mosquitto` takes a dump of it",
            database.display()
        );
    } else if !database.exists() {
        let text = format!("{SIGN}{}. Remove this file to begin afresh.\n", data_dir.display());
        files::write(database, text.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn is_mosquittos(database: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    match File::open(database) {
        Ok(file) => file.take(MAGIC.len() as u64).read_to_end(&mut start)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(start == MAGIC)
}

fn free_name(data_dir: &Path) -> PathBuf {
    let named = |number| data_dir.join(format!("removed-{}-{number}", clock::unix_seconds()));
    (0_u32..).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(u32::MAX))
}
