//! Certificates of authorities: one PEM file of them, or a directory of such files.
//!
//! Of a directory that `openssl rehash` has prepared only the names by hash count, as for OpenSSL itself; of another one all files that
//! are named like certificates. Invariant: a file that counts is read whole or is an error, so no authority is left out unnoticed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::acceptor::{TlsError, read_certificates};
use crate::files::FileError;

const ENDINGS: [&str; 3] = ["pem", "crt", "cer"];
/// The digits of a hash in a name that OpenSSL looks for.
const HASH_DIGITS: usize = 8;

/// Where the authorities of the system usually are.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom to trust towards a server.
pub(crate) struct Trust {
    /// All that was read.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// Those of them that webpki can use, at least one.
    pub(crate) store: RootCertStore,
}

/// Reads whom to trust towards a server: the authorities at a path, or those of the system.
///
/// # Errors
/// [`TlsError`], naming the option and the file; there has to be one that can be used.
pub(crate) fn read_trust(path: Option<&Path>) -> Result<Trust, TlsError> {
    let path = path.map_or_else(system_authorities, Path::to_owned);
    let certificates = read_authorities(&path)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        // A bundle of a system may have some that nobody can use.
        let _ = store.add(certificate.clone());
    }
    if store.is_empty() {
        let reason = "there is none in it that can be used".to_owned();
        return Err(TlsError::Content { path, what: "authority", reason });
    }
    Ok(Trust { certificates, store })
}

fn system_authorities() -> PathBuf {
    let there = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    there.unwrap_or_else(|| SYSTEM_AUTHORITIES[0].into())
}

/// Reads all authorities at a path, each once.
///
/// # Errors
/// [`TlsError`], naming the file.
pub(crate) fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut authorities: Vec<CertificateDer<'static>> = Vec::new();
    for file in authority_files(path)? {
        for authority in read_certificates(&file)? {
            if !authorities.contains(&authority) {
                authorities.push(authority);
            }
        }
    }
    Ok(authorities)
}

/// Returns the files of authorities at a path: itself, or those in it.
///
/// # Errors
/// It is a directory that cannot be read.
pub(super) fn authority_files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| FileError::new("read folder", path, error);
    let entries: Result<Vec<PathBuf>, _> =
        std::fs::read_dir(path).map_err(unreadable)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let (mut by_hash, others): (Vec<_>, Vec<_>) =
        entries.map_err(unreadable)?.into_iter().partition(|path| is_named_by_hash(path));
    if by_hash.is_empty() {
        by_hash = others.into_iter().filter(|path| is_named_like_a_certificate(path)).collect();
    }
    by_hash.sort();
    Ok(by_hash)
}

/// `HASH.NUMBER`; lists of revocations have an `r` before the number.
fn is_named_by_hash(path: &Path) -> bool {
    let text = |part: Option<&'_ OsStr>| part.and_then(OsStr::to_str).map(str::to_owned);
    let (Some(hash), Some(number)) = (text(path.file_stem()), text(path.extension())) else { return false };
    hash.len() == HASH_DIGITS
        && hash.bytes().all(|digit| digit.is_ascii_hexdigit())
        && number.bytes().all(|digit| digit.is_ascii_digit())
}

fn is_named_like_a_certificate(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ENDINGS.iter().any(|known| extension == *known))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_by_hash_go_before_other_names_and_what_is_named_otherwise_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let names = || -> Vec<String> {
            let files = authority_files(folder.path()).unwrap();
            files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        for name in
            ["b.crt", "a.pem", "c.cer", "README", "server.key", "0123abcd.r0", "0123abc.0", "0123abcd.x"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names(), ["a.pem", "b.crt", "c.cer"]);

        for name in ["0123abcd.0", "0123abcd.1", "deadBEEF.0"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names(), ["0123abcd.0", "0123abcd.1", "deadBEEF.0"]);
    }
}
