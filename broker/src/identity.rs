//! The broker's own identity: its private keys and its self-signed certificate, made on the first start.
//!
//! The keys never leave `DIR/identity/broker.key` (mode 0600). Clients pin `broker.vmc`, so a key that is lost is an error, not a
//! reason to make another one.

use std::path::{Path, PathBuf};

use tracing::warn;
use veilmq_protocol::veil::channel::{Identity, IdentityKeys};
use veilmq_protocol::veil::vmc::{CERTIFICATE_BYTES_MAX, SUBJECT_BYTES_MAX};
use veilmq_protocol::veil::{Certificate, CertificateError, CertificateFields, Roles};
use zeroize::Zeroizing;

use crate::files::{self, FileError};

const SUBJECT_DEFAULT: &str = "veilmq";
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";
const DAY_SECONDS: u64 = 24 * 3_600;
/// Clients pin this certificate; replacing it means visiting every client.
const VALIDITY_SECONDS: u64 = 20 * 365 * DAY_SECONDS;
/// 2026-01-01: a clock that is before this has not been set, and what it says must not be over when it has.
const WRITTEN: u64 = 1_767_225_600;

/// Why the broker has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file has the wrong length.
    #[error("{} is not a broker key: it has {found} bytes, not {}", path.display(), IdentityKeys::LEN)]
    Key {
        /// The key file.
        path: PathBuf,
        /// Its length in bytes.
        found: usize,
    },
    /// There is a certificate without its key.
    #[error("{} is missing, but its certificate {} exists: restore the key, or remove the certificate to make a new identity", key.display(), certificate.display())]
    KeyMissing {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// The certificate is malformed, or belongs to another key.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The identity has not been made yet.
    #[error("there is no identity in {} yet; the broker makes it when it first starts", .0.display())]
    Absent(PathBuf),
}

impl IdentityError {
    /// Returns the file or folder at fault.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Key { path, .. } | Self::Certificate { path, .. } | Self::Absent(path) => Some(path),
            Self::KeyMissing { key, .. } => Some(key),
        }
    }
}

/// Where a data directory keeps the broker's identity.
#[derive(Clone, Debug)]
pub struct IdentityFolder {
    folder: PathBuf,
    /// A certificate that the operator had issued for the broker's keys; it is never written.
    issued: Option<PathBuf>,
}

impl IdentityFolder {
    /// Names the place in a data directory, and the certificate to present instead of the self-signed one, if the operator
    /// had one issued; touches nothing.
    pub fn in_data_dir(data_dir: &Path, issued: Option<PathBuf>) -> Self {
        Self { folder: data_dir.join("identity"), issued }
    }

    /// Returns the path of the private keys.
    pub fn key_path(&self) -> PathBuf {
        self.folder.join("broker.key")
    }

    /// Returns the path of the public certificate that clients are shown.
    pub fn certificate_path(&self) -> PathBuf {
        self.issued.clone().unwrap_or_else(|| self.folder.join("broker.vmc"))
    }

    /// Loads the identity, and makes it if there is none.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file at fault.
    pub fn load_or_create(&self, now_unix_seconds: u64) -> Result<Identity, IdentityError> {
        files::create_private_folder(&self.folder)?;
        let keys = match self.load_keys() {
            Err(IdentityError::Absent(_)) => self.create_keys()?,
            loaded => loaded?,
        };
        let identity = match self.load_certificate() {
            Err(IdentityError::File(error)) if error.is_not_found() && self.issued.is_none() => {
                self.certify(keys, now_unix_seconds)?
            }
            certificate => self.join(certificate?, keys)?,
        };
        if let Err(error) = identity.certificate().verify_validity(Some(now_unix_seconds)) {
            // Clients judge that by their own clocks. A machine that does not know the time yet must have a broker all the same.
            let file = self.certificate_path();
            warn!(
                "{}: {error} by the clock of this machine: clients on VEIL-1 channels may refuse it",
                file.display()
            );
        }
        Ok(identity)
    }

    /// Loads the public certificate.
    ///
    /// # Errors
    /// [`IdentityError::Absent`] before the first start; otherwise names the file at fault.
    pub fn certificate(&self) -> Result<Certificate, IdentityError> {
        match self.load_certificate() {
            Err(IdentityError::File(error)) if error.is_not_found() && self.issued.is_none() => {
                Err(IdentityError::Absent(self.folder.clone()))
            }
            loaded => loaded,
        }
    }

    fn load_keys(&self) -> Result<IdentityKeys, IdentityError> {
        let path = self.key_path();
        let bytes = match files::read(&path, IdentityKeys::LEN) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if !error.is_not_found() => return Err(error.into()),
            Err(_) if self.issued.is_none() && self.certificate_path().exists() => {
                return Err(IdentityError::KeyMissing { key: path, certificate: self.certificate_path() });
            }
            Err(_) => return Err(IdentityError::Absent(self.folder.clone())),
        };
        let seeds =
            bytes.as_slice().try_into().map_err(|_| IdentityError::Key { path, found: bytes.len() })?;
        Ok(IdentityKeys::from_bytes(seeds))
    }

    fn create_keys(&self) -> Result<IdentityKeys, IdentityError> {
        let path = self.key_path();
        let mut seeds = Zeroizing::new([0; IdentityKeys::LEN]);
        getrandom::fill(seeds.as_mut_slice())
            .map_err(|error| FileError::new("make a key for", &path, error.into()))?;
        files::write(&path, seeds.as_slice(), 0o600)?;
        Ok(IdentityKeys::from_bytes(&seeds))
    }

    fn load_certificate(&self) -> Result<Certificate, IdentityError> {
        let bytes = files::read(&self.certificate_path(), CERTIFICATE_BYTES_MAX)?;
        Certificate::parse(&bytes).map_err(|source| self.refuse(source))
    }

    fn certify(&self, keys: IdentityKeys, now_unix_seconds: u64) -> Result<Identity, IdentityError> {
        let fields = CertificateFields {
            roles: Roles::BROKER,
            serial: 1,
            // A client whose clock is a little late must be able to connect at once.
            not_before: now_unix_seconds.saturating_sub(DAY_SECONDS),
            not_after: now_unix_seconds.max(WRITTEN).saturating_add(VALIDITY_SECONDS),
            ed25519: keys.ed25519_public(),
            x25519: keys.x25519_public(),
            subject: subject(&std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default()),
            publish_scopes: Vec::new(),
            subscribe_scopes: Vec::new(),
            path_length: None,
            revocation_topic: None,
        };
        let certificate = fields.sign(&keys).map_err(|source| self.refuse(source))?;
        files::write(&self.certificate_path(), certificate.as_bytes(), 0o644)?;
        self.join(certificate, keys)
    }

    fn join(&self, certificate: Certificate, keys: IdentityKeys) -> Result<Identity, IdentityError> {
        Identity::new(certificate, keys).map_err(|source| self.refuse(source))
    }

    fn refuse(&self, source: CertificateError) -> IdentityError {
        IdentityError::Certificate { path: self.certificate_path(), source }
    }
}

/// Returns the host name if it can be the subject of a certificate, else a fixed name.
fn subject(host_name: &str) -> String {
    let name = host_name.trim();
    let fits = !name.is_empty() && name.len() <= SUBJECT_BYTES_MAX && name != "(none)";
    if fits { name.into() } else { SUBJECT_DEFAULT.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_an_identity_that_later_starts_keep() {
        let data = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::in_data_dir(data.path(), None);

        let first = folder.load_or_create(NOW).unwrap();
        let second = folder.load_or_create(NOW + 1).unwrap();

        assert_eq!(first.kid(), second.kid());
        assert_eq!(first.certificate(), second.certificate());
        assert_eq!(folder.certificate().unwrap(), *first.certificate());
    }

    #[test]
    fn the_certificate_is_self_signed_and_for_a_broker() {
        let data = tempfile::tempdir().unwrap();

        let identity = IdentityFolder::in_data_dir(data.path(), None).load_or_create(NOW).unwrap();
        let certificate = identity.certificate();

        assert_eq!(certificate.roles, Roles::BROKER);
        assert_eq!(certificate.issuer(), identity.kid());
        assert_eq!(certificate.verify(certificate, Some(NOW)), Ok(()));
    }

    #[test]
    fn a_clock_that_is_not_set_yet_keeps_no_broker_from_its_identity() {
        let data = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::in_data_dir(data.path(), None);

        let early = folder.load_or_create(DAY_SECONDS).unwrap();
        assert_eq!(
            early.certificate().verify_validity(Some(NOW)),
            Ok(()),
            "it is good once the clock is set"
        );
        fs::remove_dir_all(data.path().join("identity")).unwrap();
        let kid = folder.load_or_create(NOW).unwrap().kid();

        for now in [0, NOW - 3 * DAY_SECONDS, NOW + 2 * VALIDITY_SECONDS] {
            assert_eq!(folder.load_or_create(now).unwrap().kid(), kid, "{now}");
        }
    }

    #[test]
    fn only_the_broker_can_read_its_key() {
        let data = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::in_data_dir(data.path(), None);
        folder.load_or_create(NOW).unwrap();

        assert_eq!(mode(&folder.key_path()), 0o600);
        assert_eq!(mode(&data.path().join("identity")), 0o700);
        assert_eq!(fs::read(folder.key_path()).unwrap().len(), IdentityKeys::LEN);
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error_that_names_both() {
        let data = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::in_data_dir(data.path(), None);
        folder.load_or_create(NOW).unwrap();
        fs::remove_file(folder.key_path()).unwrap();

        let error = folder.load_or_create(NOW).err().unwrap().to_string();

        assert!(error.contains("broker.key is missing") && error.contains("broker.vmc"), "{error}");
        assert!(!folder.key_path().exists());
    }

    #[test]
    fn a_key_without_its_certificate_is_certified_again() {
        let data = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::in_data_dir(data.path(), None);
        let kid = folder.load_or_create(NOW).unwrap().kid();
        fs::remove_file(folder.certificate_path()).unwrap();

        assert_eq!(folder.load_or_create(NOW).unwrap().kid(), kid);
    }

    #[test]
    fn damaged_files_are_errors_that_name_the_file() {
        for (damage, expected) in [
            ("broker.key", "broker.key is not a broker key: it has 3 bytes, not 64"),
            ("broker.vmc", "broker.vmc: certificate"),
        ] {
            let data = tempfile::tempdir().unwrap();
            let folder = IdentityFolder::in_data_dir(data.path(), None);
            folder.load_or_create(NOW).unwrap();
            fs::write(data.path().join("identity").join(damage), "abc").unwrap();

            let error = folder.load_or_create(NOW).err().unwrap().to_string();

            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::in_data_dir(data.path(), None);
        folder.load_or_create(NOW).unwrap();
        let foreign = IdentityFolder::in_data_dir(other.path(), None);
        foreign.load_or_create(NOW).unwrap();
        fs::copy(foreign.certificate_path(), folder.certificate_path()).unwrap();

        let error = folder.load_or_create(NOW).err().unwrap().to_string();

        assert!(error.contains("do not belong"), "{error}");
    }

    #[test]
    fn the_subject_is_the_host_name_if_it_fits() {
        let long = "x".repeat(SUBJECT_BYTES_MAX + 1);
        for (host, expected) in
            [("gateway-7\n", "gateway-7"), ("", "veilmq"), ("(none)", "veilmq"), (&long, "veilmq")]
        {
            assert_eq!(subject(host), expected);
        }
    }
}
