//! Which authorities may certify devices: public certificates named by the configuration, and those in `DIR/trust`.
//!
//! The folder is looked at every second, so `veilmq trust add` works while the broker runs. Only public certificates of
//! authorities are taken: the key that signs devices never comes near the broker.
//! Invariant: a file that cannot be used changes nothing that is already trusted for other reasons, and is logged once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};
use veilmq_core::Shared;
use veilmq_protocol::veil::channel::TrustAnchors;
use veilmq_protocol::veil::vmc::CERTIFICATE_BYTES_MAX;
use veilmq_protocol::veil::{Certificate, CertificateError, Kid, Roles};

use crate::files::{self, FileError};

const EXTENSION: &str = "vmc";
/// A folder changed twice within the resolution of its time stamp looks unchanged, so young changes are read again.
const SETTLED: Duration = Duration::from_secs(2);

/// Why a certificate is not taken as an authority.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file or the folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate is malformed, badly signed, or from an unknown issuer.
    #[error("{origin}: {source}")]
    Certificate {
        /// The file, or what else it came in.
        origin: String,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The certificate is that of a device or broker.
    #[error(
        "{origin}: the certificate of {subject:?} is not an authority's (its roles: {roles}); give the certificate that signed it"
    )]
    NotAuthority {
        /// The file, or what else it came in.
        origin: String,
        /// Whose certificate it is.
        subject: String,
        /// What it may be.
        roles: Roles,
    },
    /// Nothing in the folder has this key identifier.
    #[error("no certificate with key identifier {kid} in {}", folder.display())]
    Absent {
        /// What was asked for.
        kid: Kid,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

/// Reads an authority's public certificate.
///
/// # Errors
/// [`TrustError`] naming `origin`, if it is not a certificate, or not an authority's.
pub fn parse_authority(origin: &str, bytes: &[u8]) -> Result<Certificate, TrustError> {
    let refuse = |source| TrustError::Certificate { origin: origin.into(), source };
    let certificate = Certificate::parse(bytes).map_err(refuse)?;
    if !certificate.roles.contains(Roles::CA) {
        let (subject, roles) = (certificate.subject.clone(), certificate.roles);
        return Err(TrustError::NotAuthority { origin: origin.into(), subject, roles });
    }
    if certificate.issuer() == certificate.kid() {
        certificate.verify(&certificate, None).map_err(refuse)?;
    }
    Ok(certificate)
}

/// Reads an authority's public certificate from a file.
///
/// # Errors
/// As [`parse_authority`], and [`TrustError::File`].
pub fn read_authority(path: &Path) -> Result<Certificate, TrustError> {
    let bytes = files::read(path, CERTIFICATE_BYTES_MAX)?;
    parse_authority(&path.display().to_string(), &bytes)
}

/// The folder of trusted authorities in a data directory.
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
        let named = |source| FileError::new("read folder", &self.folder, source);
        let mut authorities = BTreeMap::new();
        if !self.folder.exists() {
            return Ok(authorities);
        }
        for entry in fs::read_dir(&self.folder).map_err(named)? {
            let path = entry.map_err(named)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                let authority = read_authority(&path);
                authorities.insert(path, authority);
            }
        }
        Ok(authorities)
    }

    fn modified(&self) -> Option<SystemTime> {
        fs::metadata(&self.folder).and_then(|metadata| metadata.modified()).ok()
    }
}

/// Keeps the trust anchors of a running broker equal to its configuration and its trust folder.
pub struct TrustKeeper {
    folder: TrustFolder,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    configured: Vec<Certificate>,
    seen: Option<SystemTime>,
    /// What was complained about, so that each complaint is logged once.
    complaints: BTreeSet<String>,
}

impl TrustKeeper {
    /// Reads the configured files and the folder. `shared` is what the shards consult.
    ///
    /// # Errors
    /// [`TrustError`] for a configured file or an unreadable folder; files in the folder that cannot be used are logged.
    pub fn new(folder: TrustFolder, configured: &[PathBuf], shared: Arc<Shared>) -> Result<Self, TrustError> {
        let keeper = Self { folder, shared, state: Mutex::default() };
        keeper.reload(configured)?;
        Ok(keeper)
    }

    /// Reads the configured files and the folder again; if one configured file cannot be used, nothing changes.
    ///
    /// # Errors
    /// [`TrustError`] naming the file.
    pub fn reload(&self, configured: &[PathBuf]) -> Result<(), TrustError> {
        let configured = configured.iter().map(|path| read_authority(path)).collect::<Result<_, _>>()?;
        let mut state = self.state();
        state.configured = configured;
        state.seen = None;
        self.apply(&mut state)
    }

    /// Looks whether the folder has changed, and applies it if so.
    ///
    /// # Errors
    /// [`TrustError::File`] if the folder cannot be read; what was trusted stays so.
    pub fn rescan(&self) -> Result<(), TrustError> {
        let mut state = self.state();
        let modified = self.folder.modified();
        let is_young = modified.is_some_and(|at| at.elapsed().is_ok_and(|age| age < SETTLED));
        if modified == state.seen && !is_young {
            return Ok(());
        }
        self.apply(&mut state)
    }

    /// Stores an authority in the folder and trusts it at once.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn add(&self, authority: &Certificate) -> Result<(), TrustError> {
        let mut state = self.state();
        self.folder.add(authority)?;
        self.apply(&mut state)
    }

    fn apply(&self, state: &mut State) -> Result<(), TrustError> {
        let seen = self.folder.modified();
        let mut complaints = BTreeSet::new();
        let mut wanted = state.configured.clone();
        for authority in self.folder.read()?.into_values() {
            match authority {
                Ok(authority) => wanted.push(authority),
                Err(error) => drop(complaints.insert(error.to_string())),
            }
        }
        let mut anchors = self.shared.trust().write().unwrap_or_else(PoisonError::into_inner);
        for (authority, error) in make_equal(&mut anchors, wanted) {
            complaints.insert(format!("authority {:?} ({}): {error}", authority.subject, authority.kid()));
        }
        drop(anchors);
        for complaint in complaints.difference(&state.complaints) {
            warn!("not trusted: {complaint}");
        }
        state.complaints = complaints;
        state.seen = seen;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes and adds anchors until they are those wanted; returns those that could not be added.
fn make_equal(
    anchors: &mut TrustAnchors,
    mut wanted: Vec<Certificate>,
) -> Vec<(Certificate, CertificateError)> {
    let before: BTreeMap<Kid, Certificate> =
        anchors.iter().map(|anchor| (anchor.kid(), anchor.clone())).collect();
    let kids: BTreeSet<Kid> = wanted.iter().map(Certificate::kid).collect();
    for (kid, anchor) in before.iter().filter(|(kid, _)| !kids.contains(kid)) {
        anchors.remove(*kid);
        info!(%kid, subject = anchor.subject.as_str(), "authority is no longer trusted");
    }
    // A root goes before the issuing authorities that it signed.
    wanted.sort_by_key(|authority| authority.issuer() != authority.kid());
    let mut refused = Vec::new();
    for authority in wanted {
        let kid = authority.kid();
        if anchors.get(kid) == Some(&authority) {
            continue;
        }
        match anchors.add(authority.clone()) {
            Ok(_) if before.get(&kid) == Some(&authority) => {}
            Ok(_) => info!(%kid, subject = authority.subject.as_str(), "authority is trusted"),
            Err(error) => refused.push((authority, error)),
        }
    }
    refused
}
