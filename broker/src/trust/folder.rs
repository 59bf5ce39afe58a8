//! The folder of a data directory with the authorities that are trusted, and the revocation lists of theirs that are known.
//!
//! Files are written whole. Invariant: what cannot be used is part of what reading it returns, and takes nothing else along.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use veilmq_protocol::veil::distribution::Crl;
use veilmq_protocol::veil::{Certificate, Kid};

use super::{TrustError, read_authority, read_list};
use crate::files::{self, FileError};

const EXTENSION: &str = "vmc";
const LIST_EXTENSION: &str = "crl";

/// The folder of trusted authorities and their revocation lists in a data directory.
#[derive(Clone, Debug)]
pub struct TrustFolder {
    folder: PathBuf,
}

impl TrustFolder {
    /// Names the folder in a data directory; touches nothing.
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("trust") }
    }

    /// Creates the folder if it is not there.
    ///
    /// # Errors
    /// [`TrustError::File`].
    pub fn create(&self) -> Result<(), TrustError> {
        Ok(files::create_private_folder(&self.folder)?)
    }

    /// Stores an authority; returns the path of its file.
    ///
    /// # Errors
    /// [`TrustError::File`].
    pub fn add(&self, authority: &Certificate) -> Result<PathBuf, TrustError> {
        self.create()?;
        let path = self.folder.join(format!("{}.{EXTENSION}", authority.kid()));
        files::write(&path, authority.as_bytes(), 0o644)?;
        Ok(path)
    }

    /// Stores a revocation list, in place of an earlier one of its authority; returns the path of its file.
    ///
    /// # Errors
    /// [`TrustError::File`].
    pub fn add_list(&self, list: &Crl) -> Result<PathBuf, TrustError> {
        self.create()?;
        let path = self.folder.join(format!("{}.{LIST_EXTENSION}", list.issuer.kid()));
        files::write(&path, list.as_bytes(), 0o644)?;
        Ok(path)
    }

    /// Removes the authority with this key identifier, whatever its file is called; returns the path of the file.
    ///
    /// # Errors
    /// [`TrustError::Absent`] if there is none.
    pub fn remove(&self, kid: Kid) -> Result<PathBuf, TrustError> {
        for (path, authority) in self.read()? {
            if authority.is_ok_and(|authority| authority.kid() == kid) {
                fs::remove_file(&path).map_err(|source| FileError::new("remove", &path, source))?;
                return Ok(path);
            }
        }
        Err(TrustError::Absent { kid, folder: self.folder.clone() })
    }

    /// Reads every certificate in the folder, in the order of file names. A missing folder is an empty one.
    ///
    /// # Errors
    /// [`TrustError::File`] if the folder cannot be read; files that cannot be used are part of the result.
    pub fn read(&self) -> Result<BTreeMap<PathBuf, Result<Certificate, TrustError>>, TrustError> {
        self.read_with(EXTENSION, read_authority)
    }

    /// Reads every revocation list in the folder, in the order of file names.
    ///
    /// # Errors
    /// As [`TrustFolder::read`].
    pub fn read_lists(&self) -> Result<BTreeMap<PathBuf, Result<Crl, TrustError>>, TrustError> {
        self.read_with(LIST_EXTENSION, read_list)
    }

    fn read_with<T>(
        &self,
        wanted: &str,
        read: impl Fn(&Path) -> Result<T, TrustError>,
    ) -> Result<BTreeMap<PathBuf, Result<T, TrustError>>, TrustError> {
        let named = |source| FileError::new("read folder", &self.folder, source);
        let mut found = BTreeMap::new();
        if !self.folder.exists() {
            return Ok(found);
        }
        for entry in fs::read_dir(&self.folder).map_err(named)? {
            let path = entry.map_err(named)?.path();
            if path.extension().is_some_and(|extension| extension == wanted) {
                let object = read(&path);
                found.insert(path, object);
            }
        }
        Ok(found)
    }

    /// Returns when files came or went last.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        fs::metadata(&self.folder).and_then(|metadata| metadata.modified()).ok()
    }
}
