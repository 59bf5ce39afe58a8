//! Which authorities may certify devices, and whom they have revoked: public certificates and revocation lists named by the
//! configuration, those in `DIR/trust`, and the lists that clients have brought.
//!
//! Files are looked at every second, so `veilmq trust add` works while the broker runs. Only public certificates of
//! authorities are taken: the key that signs devices never comes near the broker.
//! Invariant: a file that cannot be used changes nothing that is already trusted for other reasons, and is logged once.

mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};
use veilmq_config::VeilConfig;
use veilmq_core::{RevocationError, Shared};
use veilmq_protocol::veil::channel::TrustAnchors;
use veilmq_protocol::veil::distribution::{Crl, DistributionError};
use veilmq_protocol::veil::vmc::CERTIFICATE_BYTES_MAX;
use veilmq_protocol::veil::{Certificate, CertificateError, Kid, Roles};

pub use self::folder::TrustFolder;
use crate::clock;
use crate::files::{self, FileError};
use crate::watched::WatchedFiles;

/// Room for half a million revoked certificates.
const LIST_BYTES_MAX: usize = 4 << 20;
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
    /// It is not a revocation list, or not of an authority that is trusted.
    #[error("{origin}: {source}")]
    List {
        /// The file.
        origin: String,
        /// What is wrong with it.
        source: DistributionError,
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

impl TrustError {
    /// Returns the file at fault, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Certificate { origin, .. }
            | Self::NotAuthority { origin, .. }
            | Self::List { origin, .. } => Some(Path::new(origin)),
            Self::Absent { folder, .. } => Some(folder),
        }
    }
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

/// Reads a revocation list from a file; whose it is, and whether that is genuine, is another question.
///
/// # Errors
/// [`TrustError`] naming the file.
pub fn read_list(path: &Path) -> Result<Crl, TrustError> {
    let bytes = files::read(path, LIST_BYTES_MAX)?;
    Crl::parse(&bytes).map_err(|source| TrustError::List { origin: path.display().to_string(), source })
}

/// Checks that one of some authorities has signed a list. They are what signs, whoever has signed them.
///
/// # Errors
/// [`TrustError::List`] naming the file.
pub fn check_list(
    path: &Path,
    list: &Crl,
    authorities: impl Iterator<Item = Certificate>,
) -> Result<(), TrustError> {
    let mut anchors = TrustAnchors::new();
    let mut authorities: Vec<Certificate> = authorities.collect();
    authorities.sort_by_key(is_below_root);
    for authority in authorities {
        // One that cannot be added has signed nothing that counts.
        let _ = anchors.add(authority);
    }
    let origin = || path.display().to_string();
    list.verify(&anchors).map_err(|source| TrustError::List { origin: origin(), source })
}

/// Keeps what a running broker trusts equal to its configuration and its trust folder.
pub struct TrustKeeper {
    folder: TrustFolder,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    configured: Vec<Certificate>,
    configured_lists: Vec<PathBuf>,
    seen: Option<SystemTime>,
    lists: WatchedFiles,
    /// The number of the list of each authority that is in the folder.
    stored: BTreeMap<Kid, u64>,
    /// What was complained about, so that each complaint is logged once.
    complaints: BTreeSet<String>,
    /// Lists that should have had a successor by now, and of which that was said.
    stale: BTreeSet<(Kid, u64)>,
    /// Somebody is trusted no more, of which the shards have not been told.
    has_news: bool,
}

/// What the folder holds.
struct Found {
    /// When files came or went last, before it was read.
    modified: Option<SystemTime>,
    authorities: BTreeMap<PathBuf, Result<Certificate, TrustError>>,
    lists: BTreeMap<PathBuf, Result<Crl, TrustError>>,
}

impl TrustKeeper {
    /// Reads the configured files and the folder. `shared` is what the shards consult.
    ///
    /// # Errors
    /// [`TrustError`] for a configured file or an unreadable folder; files in the folder that cannot be used are logged.
    pub fn new(folder: TrustFolder, config: &VeilConfig, shared: Arc<Shared>) -> Result<Self, TrustError> {
        let keeper = Self { folder, shared, state: Mutex::default() };
        keeper.reload(config)?;
        Ok(keeper)
    }

    /// Reads the configured files and the folder again; if one configured file or the folder cannot be used, nothing changes.
    /// The shards must then be told.
    ///
    /// # Errors
    /// [`TrustError`] naming the file or folder.
    pub fn reload(&self, config: &VeilConfig) -> Result<(), TrustError> {
        let configured = config.trust.iter().map(|path| read_authority(path)).collect::<Result<_, _>>()?;
        for path in &config.revocations {
            read_list(path)?;
        }
        let mut state = self.state();
        let found = self.look()?;
        state.configured = configured;
        state.configured_lists.clone_from(&config.revocations);
        self.apply(&mut state, found);
        Ok(())
    }

    /// Looks whether files have changed, and applies them if so; stores lists that clients have brought. True if the shards must be
    /// told, because somebody is trusted no more.
    ///
    /// # Errors
    /// [`TrustError::File`] if the folder cannot be read or written; what was trusted stays so.
    pub fn rescan(&self) -> Result<bool, TrustError> {
        let mut state = self.state();
        let modified = self.folder.modified();
        let is_young = modified.is_some_and(|at| at.elapsed().is_ok_and(|age| age < SETTLED));
        if state.lists.have_changed() || modified != state.seen || is_young {
            self.apply(&mut state, self.look()?);
        }
        self.store_lists(&mut state)?;
        self.say_what_is_stale(&mut state);
        Ok(std::mem::take(&mut state.has_news))
    }

    /// Stores an authority in the folder and trusts it at once.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn add(&self, authority: &Certificate) -> Result<(), TrustError> {
        let mut state = self.state();
        self.folder.add(authority)?;
        self.apply(&mut state, self.look()?);
        Ok(())
    }

    /// Takes an authority out of the folder; unless the configuration names it too, it is trusted no more, and shards are told with
    /// the next [`TrustKeeper::rescan`].
    ///
    /// # Errors
    /// [`TrustError::Absent`] if it is not in the folder, and [`TrustError::File`].
    pub fn remove(&self, kid: Kid) -> Result<(), TrustError> {
        let mut state = self.state();
        self.folder.remove(kid)?;
        self.apply(&mut state, self.look()?);
        Ok(())
    }

    fn look(&self) -> Result<Found, TrustError> {
        let modified = self.folder.modified();
        Ok(Found { modified, authorities: self.folder.read()?, lists: self.folder.read_lists()? })
    }

    fn apply(&self, state: &mut State, found: Found) {
        let mut complaints = BTreeSet::new();
        let mut wanted = state.configured.clone();
        for authority in found.authorities.into_values() {
            match authority {
                Ok(authority) => wanted.push(authority),
                Err(error) => drop(complaints.insert(format!("not trusted: {error}"))),
            }
        }
        let mut anchors = self.shared.trust().write().unwrap_or_else(PoisonError::into_inner);
        let Change { has_removed, refused } = make_equal(&mut anchors, wanted);
        drop(anchors);
        state.has_news |= has_removed;
        for (authority, error) in refused {
            let (subject, kid) = (&authority.subject, authority.kid());
            complaints.insert(format!("not trusted: authority {subject:?} ({kid}): {error}"));
        }
        self.apply_lists(state, found.lists, &mut complaints);
        for complaint in complaints.difference(&state.complaints) {
            warn!("{complaint}");
        }
        state.complaints = complaints;
        state.seen = found.modified;
    }

    fn apply_lists(
        &self,
        state: &mut State,
        mut files: BTreeMap<PathBuf, Result<Crl, TrustError>>,
        complaints: &mut BTreeSet<String>,
    ) {
        state.stored = stored(&files);
        files.extend(state.configured_lists.iter().map(|path| (path.clone(), read_list(path))));
        state.lists = WatchedFiles::new(files.keys().cloned());
        for (path, list) in files {
            let applied = list.map_err(|error| error.to_string()).and_then(|list| self.revoke(&list));
            match applied {
                Ok(is_news) => state.has_news |= is_news,
                Err(error) => {
                    complaints.insert(format!("revocation list {} is not used: {error}", path.display()));
                }
            }
        }
        // An authority may have become trusted only now.
        state.has_news |= self.shared.revoke_retained();
    }

    fn revoke(&self, list: &Crl) -> Result<bool, String> {
        match self.shared.revoke(list) {
            Ok(true) => {
                let (authority, revoked) = (list.issuer.kid(), list.revoked.len());
                info!(%authority, number = list.number, revoked, "revocation list");
                Ok(true)
            }
            // A newer one has come since the file was written.
            Ok(false) | Err(RevocationError::Rollback { .. }) => Ok(false),
            Err(RevocationError::Object(error)) => Err(error.to_string()),
        }
    }

    /// Stores the lists that clients have brought: numbers do not go back over a restart either (VEIL-1 section 3.2).
    fn store_lists(&self, state: &mut State) -> Result<(), TrustError> {
        for list in self.shared.revocations() {
            let authority = list.issuer.kid();
            if state.stored.get(&authority).is_none_or(|stored| *stored < list.number) {
                self.folder.add_list(&list)?;
                state.stored.insert(authority, list.number);
            }
        }
        Ok(())
    }

    fn say_what_is_stale(&self, state: &mut State) {
        let now = clock::unix_seconds();
        for list in self.shared.revocations().into_iter().filter(|list| list.next_update < now) {
            let authority = list.issuer.kid();
            if state.stale.insert((authority, list.number)) {
                warn!(%authority, number = list.number, "StaleRevocation: the revocation list is past its time");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number of the newest list of each authority among files.
fn stored(files: &BTreeMap<PathBuf, Result<Crl, TrustError>>) -> BTreeMap<Kid, u64> {
    let mut numbers = BTreeMap::new();
    for list in files.values().flatten() {
        let number = numbers.entry(list.issuer.kid()).or_insert(list.number);
        *number = list.number.max(*number);
    }
    numbers
}

/// What became of the anchors.
struct Change {
    /// One is trusted no more.
    has_removed: bool,
    /// Those that could not be added.
    refused: Vec<(Certificate, CertificateError)>,
}

/// Removes and adds anchors until they are those wanted.
fn make_equal(anchors: &mut TrustAnchors, mut wanted: Vec<Certificate>) -> Change {
    let before: BTreeMap<Kid, Certificate> =
        anchors.iter().map(|anchor| (anchor.kid(), anchor.clone())).collect();
    let kids: BTreeSet<Kid> = wanted.iter().map(Certificate::kid).collect();
    let mut has_removed = false;
    for (kid, anchor) in before.iter().filter(|(kid, _)| !kids.contains(kid)) {
        has_removed = true;
        anchors.remove(*kid);
        info!(%kid, subject = anchor.subject.as_str(), "authority is no longer trusted");
    }
    // A root goes before the issuing authorities that it signed.
    wanted.sort_by_key(is_below_root);
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
    Change { has_removed, refused }
}

fn is_below_root(authority: &Certificate) -> bool {
    authority.issuer() != authority.kid()
}
