//! Identities on disk: `NAME.vmc` is a certificate, `NAME.key` its 64 bytes of private seeds (VEIL-1 section 3).
//!
//! Key files are written for their owner only, and refused if anyone else could read them. Nothing here prints
//! a key.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use thiserror::Error;
use veilmq_protocol::veil::{
    Certificate, CertificateError, Kid,
    channel::{Identity, IdentityKeys, TrustAnchors},
    vmc::CERTIFICATE_BYTES_MAX,
};
use zeroize::Zeroizing;

/// What went wrong with a file of an identity; every variant names the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The file is not a certificate, or not one that can be used here.
    #[error("{}: {error}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// The key file does not have 64 bytes.
    #[error("{}: a key file has {} bytes, this one has {len}", path.display(), IdentityKeys::LEN)]
    KeyLength {
        /// The file.
        path: PathBuf,
        /// Its length in bytes, as far as it was read.
        len: usize,
    },
    /// Others could read the key file.
    #[error("{}: others may read this key file (mode {mode:03o}); run chmod 600 on it", path.display())]
    KeyReadable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Reads a certificate.
///
/// # Errors
/// [`IdentityError::File`] and [`IdentityError::Certificate`].
pub fn load_certificate(path: impl AsRef<Path>) -> Result<Certificate, IdentityError> {
    let path = path.as_ref();
    let bytes = read_at_most(path, CERTIFICATE_BYTES_MAX + 1)?;
    Certificate::parse(&bytes).map_err(|error| IdentityError::Certificate { path: path.to_owned(), error })
}

/// Reads private keys.
///
/// # Errors
/// [`IdentityError::File`], [`IdentityError::KeyLength`] and [`IdentityError::KeyReadable`].
pub fn load_keys(path: &Path) -> Result<IdentityKeys, IdentityError> {
    check_private(path)?;
    let bytes = read_at_most(path, IdentityKeys::LEN + 1)?;
    match bytes.as_array::<{ IdentityKeys::LEN }>() {
        Some(seeds) => Ok(IdentityKeys::from_bytes(seeds)),
        None => Err(IdentityError::KeyLength { path: path.to_owned(), len: bytes.len() }),
    }
}

/// Reads an identity, given as `NAME`, `NAME.vmc` or `NAME.key`, or as a folder with exactly one of each.
///
/// # Errors
/// [`IdentityError`], also when certificate and key do not belong together.
pub fn load(path: impl AsRef<Path>) -> Result<Identity, IdentityError> {
    let path = path.as_ref();
    let stem = if path.is_dir() { only_key_in(path)? } else { path.to_owned() };
    let (certificate_path, key_path) = files(&stem);
    let certificate = load_certificate(&certificate_path)?;
    Identity::new(certificate, load_keys(&key_path)?)
        .map_err(|error| IdentityError::Certificate { path: certificate_path, error })
}

/// Reads certificates to be trusted: authorities, roots first, or a pinned broker.
///
/// # Errors
/// [`IdentityError`] for the first file that cannot be trusted.
pub fn load_anchors(
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<TrustAnchors, IdentityError> {
    let mut anchors = TrustAnchors::new();
    for path in paths {
        add_anchor(&mut anchors, path)?;
    }
    Ok(anchors)
}

/// Adds the certificate in a file to those trusted.
///
/// # Errors
/// [`IdentityError::File`] and [`IdentityError::Certificate`].
pub fn add_anchor(anchors: &mut TrustAnchors, path: impl AsRef<Path>) -> Result<Kid, IdentityError> {
    let path = path.as_ref();
    let certificate = load_certificate(path)?;
    anchors.add(certificate).map_err(|error| IdentityError::Certificate { path: path.to_owned(), error })
}

/// Writes a certificate; an existing file is replaced.
///
/// # Errors
/// [`IdentityError::File`].
pub fn save_certificate(path: &Path, certificate: &Certificate) -> Result<(), IdentityError> {
    fs::write(path, certificate.as_bytes()).map_err(|error| failed(path, error))
}

/// Writes private keys, readable by the owner only; an existing file is never replaced.
///
/// # Errors
/// [`IdentityError::File`].
pub fn save_keys(path: &Path, keys: &IdentityKeys) -> Result<(), IdentityError> {
    let write = || {
        let mut file = private_options().open(path)?;
        file.write_all(keys.to_bytes().as_slice())?;
        file.sync_all()
    };
    write().map_err(|error| failed(path, error))
}

/// The certificate file and the key file of an identity called `stem`, with or without either extension.
pub fn files(stem: &Path) -> (PathBuf, PathBuf) {
    let extension = stem.extension().and_then(|extension| extension.to_str());
    let stem = match extension {
        Some("vmc" | "key") => stem.with_extension(""),
        _ => stem.to_owned(),
    };
    let with = |extension: &str| {
        let mut name = stem.clone().into_os_string();
        name.push(extension);
        PathBuf::from(name)
    };
    (with(".vmc"), with(".key"))
}

fn only_key_in(folder: &Path) -> Result<PathBuf, IdentityError> {
    let read = || {
        let mut keys = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "key") {
                keys.push(path);
            }
        }
        match <[PathBuf; 1]>::try_from(keys) {
            Ok([key]) => Ok(key),
            Err(keys) if keys.is_empty() => Err(io::Error::other("no .key file in this folder")),
            Err(_) => Err(io::Error::other("several .key files in this folder; name one of them")),
        }
    };
    read().map_err(|error| failed(folder, error))
}

fn read_at_most(path: &Path, len_max: usize) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(len_max));
    let read = fs::File::open(path).and_then(|file| file.take(len_max as u64).read_to_end(&mut bytes));
    read.map_err(|error| failed(path, error))?;
    Ok(bytes)
}

fn failed(path: &Path, error: io::Error) -> IdentityError {
    IdentityError::File { path: path.to_owned(), error }
}

#[cfg(unix)]
fn private_options() -> fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

#[cfg(not(unix))]
fn private_options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    options
}

#[cfg(unix)]
fn check_private(path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).map_err(|error| failed(path, error))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyReadable { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_private(_: &Path) -> Result<(), IdentityError> {
    Ok(())
}
