//! What the process is to the system: its number in a file, and the user it runs as.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Uid, User, setgid, setgroups, setuid};
use tracing::info;
use veilmq_config::Mode;

use crate::files::{self, FileError};

/// The user that Mosquitto's files name where that one is installed, and who takes its place where it is not.
const MOSQUITTOS_USER: &str = "mosquitto";
const NOBODY: &str = "nobody";

/// Why the process cannot become the configured user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("there is no user {0}")]
    Unknown(String),
    /// The system refused.
    #[error("cannot become {user}: {error}")]
    System {
        /// The user.
        user: String,
        /// What the system answered.
        error: Errno,
    },
}

impl UserError {
    /// Returns the name of the user.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Unknown(user) | Self::System { user, .. } => user,
        }
    }
}

/// A file with the number of this process; removed when dropped.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Looks whether there is a folder for the file.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn check(path: &Path) -> Result<(), FileError> {
        files::check_folder_of(path).map_err(|source| FileError::new("write", path, source))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn write(path: &Path) -> Result<Self, FileError> {
        files::write(path, std::process::id().to_string().as_bytes(), 0o644)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The user that we are now may not be allowed to; nobody is helped by an error at the end.
        let _ = fs::remove_file(&self.0);
    }
}

/// Becomes a user, with its groups only, if root runs this process; nobody else can, and stays who they are. Must be called
/// before there are threads.
///
/// # Errors
/// [`UserError`].
pub(super) fn become_user(name: &str, mode: Mode) -> Result<(), UserError> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let user = find_user(name, mode)?;
    if user.uid.is_root() {
        return Ok(());
    }
    let failed = |error| UserError::System { user: name.to_owned(), error };
    setgroups(&[user.gid]).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    info!(user = user.name, "running as");
    Ok(())
}

/// Finds a user by its name.
///
/// # Errors
/// [`UserError`].
pub(super) fn find_user(name: &str, mode: Mode) -> Result<User, UserError> {
    let failed = |error| UserError::System { user: name.to_owned(), error };
    let user = match User::from_name(name).map_err(failed)? {
        None if mode == Mode::Mosquitto && name == MOSQUITTOS_USER => {
            User::from_name(NOBODY).map_err(failed)?
        }
        found => found,
    };
    user.ok_or_else(|| UserError::Unknown(name.to_owned()))
}
