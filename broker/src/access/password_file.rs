//! Password files: one user a line, `name:hash`, as mosquitto_passwd writes them.
//!
//! Invariant: a line that is not understood is an error, never a user and never passed over [CVE-2018-12551]; only blank lines
//! and those that begin with `#` are. What was not changed is written as it was read.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::password::{PasswordHash, PasswordHashError};
use crate::files::{self, FileError};

/// Some hundred thousand users.
const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
const USER_BYTES_MAX: usize = 65_535;

/// Why a password file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not UTF-8.
    #[error("{}: it is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// A line is malformed.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it; without what it says.
        what: String,
    },
    /// What stands behind a user name is no hash.
    #[error("{}:{line}: {reason}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it; without what it says.
        reason: PasswordHashError,
    },
}

impl PasswordFileError {
    /// Returns the file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(error) => error.path(),
            Self::NotText(path) | Self::Line { path, .. } | Self::Hash { path, .. } => path,
        }
    }

    /// Returns what Mosquitto says of a line that it cannot use.
    pub(crate) fn in_mosquittos_words(&self) -> Option<String> {
        match self {
            Self::File(_) | Self::NotText(_) => None,
            Self::Line { path, .. } => Some(format!("Invalid line in password file '{}'.", path.display())),
            Self::Hash { path, .. } => {
                Some(format!("Unable to decode line in password file '{}'.", path.display()))
            }
        }
    }
}

/// The lines of a password file.
#[derive(Default)]
pub struct PasswordFile {
    lines: Vec<Line>,
}

enum Line {
    /// A blank line or a comment.
    Other(String),
    User {
        name: Arc<str>,
        rest: String,
    },
}

/// A user of a password file.
pub struct User<'a> {
    /// The user name.
    pub name: Arc<str>,
    /// What stands behind it.
    pub text: &'a str,
    /// What that says.
    pub hash: PasswordHash,
}

impl PasswordFile {
    /// Reads a file without looking at the hashes.
    ///
    /// # Errors
    /// [`PasswordFileError`], also for a line that has no user name and for a user that is there twice.
    pub fn read(path: &Path) -> Result<Self, PasswordFileError> {
        let bytes = read_bytes(path)?;
        files::warn_if_exposed(path);
        let text = std::str::from_utf8(&bytes).map_err(|_| PasswordFileError::NotText(path.into()))?;
        let mut file = Self::default();
        let mut seen: HashMap<Arc<str>, usize> = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let fault = |what: String| PasswordFileError::Line { path: path.into(), line: index + 1, what };
            let trimmed = line.trim_end();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                file.lines.push(Line::Other(line.to_owned()));
                continue;
            }
            let (name, rest) =
                trimmed.split_once(':').ok_or_else(|| fault("there is no `:` behind a user name".into()))?;
            check_user_name(name).map_err(|what| fault(what.into()))?;
            let name: Arc<str> = Arc::from(name);
            if let Some(earlier) = seen.insert(Arc::clone(&name), index + 1) {
                return Err(fault(format!("the user of line {earlier} again")));
            }
            file.lines.push(Line::User { name, rest: rest.to_owned() });
        }
        Ok(file)
    }

    /// Reads the hash of every user.
    ///
    /// # Errors
    /// [`PasswordFileError::Hash`] with the first that is malformed; `path` is for its text.
    pub fn hashes(&self, path: &Path) -> Result<Vec<User<'_>>, PasswordFileError> {
        let mut hashes = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let Line::User { name, rest } = line else { continue };
            let fault = |reason| PasswordFileError::Hash { path: path.into(), line: index + 1, reason };
            let hash = PasswordHash::parse(rest).map_err(fault)?;
            hashes.push(User { name: Arc::clone(name), text: rest, hash });
        }
        Ok(hashes)
    }

    /// Returns what stands behind the name of a user.
    pub fn find(&self, user: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| match line {
            Line::User { name, rest } if **name == *user => Some(rest.as_str()),
            Line::User { .. } | Line::Other(_) => None,
        })
    }

    /// Adds a user, or replaces what stands behind its name; true if it is new.
    pub fn set(&mut self, user: &str, hash: &PasswordHash) -> bool {
        for line in &mut self.lines {
            if let Line::User { name, rest } = line
                && **name == *user
            {
                *rest = hash.to_string();
                return false;
            }
        }
        self.lines.push(Line::User { name: user.into(), rest: hash.to_string() });
        true
    }

    /// Removes a user; false if it is not there.
    pub fn remove(&mut self, user: &str) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !matches!(line, Line::User { name, .. } if **name == *user));
        self.lines.len() < before
    }

    /// Replaces the password in clear behind every name with its hash; returns how many there were.
    ///
    /// # Errors
    /// As [`PasswordHash::make`]; nothing is then replaced that was not yet.
    pub fn hash_all(
        &mut self,
        make: impl Fn(&[u8]) -> Result<PasswordHash, PasswordHashError>,
    ) -> Result<usize, PasswordHashError> {
        let mut count = 0;
        for line in &mut self.lines {
            if let Line::User { rest, .. } = line
                && PasswordHash::parse(rest).is_err()
            {
                *rest = make(rest.as_bytes())?.to_string();
                count += 1;
            }
        }
        Ok(count)
    }

    /// Writes the file, whole or not at all, with the mode of the one it replaces.
    ///
    /// # Errors
    /// [`PasswordFileError::File`].
    pub fn write(&self, path: &Path) -> Result<(), PasswordFileError> {
        let mut text = zeroize::Zeroizing::new(String::new());
        for line in &self.lines {
            match line {
                Line::Other(line) => text.push_str(line),
                Line::User { name, rest } => {
                    text.push_str(name);
                    text.push(':');
                    text.push_str(rest);
                }
            }
            text.push('\n');
        }
        let earlier = fs::metadata(path).ok();
        let mode = earlier.as_ref().map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        // A link leads to the file that is meant, and stays one.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        files::write(&target, text.as_bytes(), mode)?;
        if let Some(earlier) = earlier {
            // Whoever could read the file before can still. Only root may give it away, and for others it is theirs anyway.
            let _ = chown(&target, Some(earlier.uid()), Some(earlier.gid()));
        }
        Ok(())
    }
}

/// Reads as much as there is, without setting memory for the largest file aside.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let bytes_max = usize::try_from(length.saturating_add(4_096)).unwrap_or(usize::MAX).min(FILE_BYTES_MAX);
    files::read(path, bytes_max)
}

/// Tells what is wrong with a user name.
///
/// # Errors
/// What it is.
pub fn check_user_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the user name is empty");
    }
    if name.contains([':', '\n', '\r', '\0']) {
        return Err("a user name holds neither `:` nor the end of a line nor NUL");
    }
    if name.len() > USER_BYTES_MAX {
        return Err("the user name is longer than MQTT allows");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::password::Scheme;
    use super::*;

    const HASH: &str = "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_malformed_line_is_an_error_that_names_file_and_line() {
        // [B09]
        for (text, line, what) in [
            ("user\n".to_owned(), 1, "no `:`"),
            (format!("\n:{HASH}\n"), 2, "the user name is empty"),
            (format!("# users\nann:{HASH}\n\nbob:plain\n"), 4, "not a password hash"),
            (format!("ann:{HASH}\nann:{HASH}\n"), 2, "the user of line 1 again"),
            ("ann:$6$\n".to_owned(), 1, "fields"),
        ] {
            let (_folder, path) = file(&text);

            let read =
                PasswordFile::read(&path).and_then(|file| file.hashes(&path).map(|hashes| hashes.len()));

            let error = read.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}:{line}: ", path.display())), "{error}");
            assert!(error.contains(what), "{error}");
            assert!(!error.contains("plain"), "it may be a password: {error}");
        }
    }

    #[test]
    fn blank_lines_and_comments_are_no_users_and_stay_where_they_are() {
        let (_folder, path) = file(&format!("# users\n\nann:{HASH}  \r\n#bob:{HASH}\n"));
        let mut file = PasswordFile::read(&path).unwrap();
        assert_eq!(file.hashes(&path).unwrap().len(), 1);

        let is_new = file.set("cy", &PasswordHash::parse(HASH).unwrap());
        file.write(&path).unwrap();

        assert!(is_new);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# users\n\nann:{HASH}\n#bob:{HASH}\ncy:{HASH}\n"));
    }

    #[test]
    fn users_are_replaced_and_removed_by_name() {
        let (_folder, path) = file(&format!("ann:{HASH}\nbob:{HASH}\n"));
        let mut file = PasswordFile::read(&path).unwrap();

        assert!(!file.set("ann", &PasswordHash::make(Scheme::Sha512, b"new").unwrap()));
        assert!(file.remove("bob"));
        assert!(!file.remove("bob"));

        let hashes = file.hashes(&path).unwrap();
        assert_eq!(hashes.len(), 1);
        assert!(hashes[0].hash.is_of(b"new"));
    }

    #[test]
    fn passwords_in_clear_are_hashed_and_hashes_stay() {
        let (_folder, path) = file(&format!("ann:{HASH}\nbob:a:b\n"));
        let mut file = PasswordFile::read(&path).unwrap();

        let count = file.hash_all(|password| PasswordHash::make(Scheme::Sha512, password)).unwrap();

        assert_eq!(count, 1);
        let hashes = file.hashes(&path).unwrap();
        assert!(hashes[0].hash.is_of(b"test") && hashes[1].hash.is_of(b"a:b"));
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let (_folder, path) = file("");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        PasswordFile::default().write(&path).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
