//! State on disk: one encrypted, authenticated file that is replaced as a whole.
//!
//! The layout is `"VESF" | u8 version | u8 key kind | key salt(16) | file salt(32) | ChaCha20-Poly1305 of the content`, with
//! everything before the ciphertext as associated data. Each file has a key of its own, derived with a new salt, so that no
//! nonce repeats. Invariants: after a crash the file holds the old content or the new one; one program at a time has it open.

use std::{
    fs::{self, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, Nonce},
};
use thiserror::Error;
use veilmq_protocol::veil::channel::{Identity, Secret32, extract};
use zeroize::{ZeroizeOnDrop, Zeroizing};

const MAGIC: [u8; 4] = *b"VESF";
const VERSION: u8 = 1;
const KEY_SALT_LEN: usize = 16;
const FILE_SALT_LEN: usize = 32;
const HEADER_LEN: usize = MAGIC.len() + 2 + KEY_SALT_LEN + FILE_SALT_LEN;
const TAG_LEN: usize = 16;
/// The largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Argon2id: 64 MiB, 3 passes, 1 lane (RFC 9106 section 4, second choice with one lane).
const PASSPHRASE_MEMORY_KIB: u32 = 64 << 10;
const PASSPHRASE_PASSES: u32 = 3;
/// What Linux says of a lock where a network file system has none.
const ENOLCK: i32 = 37;

/// What went wrong with a file of state.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SealedFileError {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// Another program has it open, or another client of this one: each would overwrite what the other has saved.
    #[error("{}: another client uses this state; each needs a file of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is none of ours, or of a version this one does not know.
    #[error("{}: not a sealed state, or one of a later version", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It does not open: the key is another one, or the file was changed.
    #[error("{}: wrong key or passphrase, or the file is damaged", path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness.
    #[error("no randomness: {0}")]
    Randomness(String),
}

/// What a file is encrypted with.
#[derive(ZeroizeOnDrop)]
pub enum StateKey {
    /// 32 random bytes, or what is derived from an identity.
    Key(Secret32),
    /// A passphrase, slow to try.
    Passphrase(Zeroizing<Vec<u8>>),
}

impl StateKey {
    /// Derives the key from the private keys of an identity: whoever has those needs nothing else.
    #[must_use]
    pub fn of_identity(identity: &Identity) -> Self {
        let seeds = identity.keys().to_bytes();
        Self::Key(extract(b"veil1 state file", seeds.as_slice()))
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Key(_) => 0,
            Self::Passphrase(_) => 1,
        }
    }

    fn stretch(&self, salt: &[u8; KEY_SALT_LEN]) -> Secret32 {
        match self {
            Self::Key(key) => Secret32::new(key.as_bytes()),
            Self::Passphrase(passphrase) => {
                let params = Params::new(PASSPHRASE_MEMORY_KIB, PASSPHRASE_PASSES, 1, Some(32));
                let params = params.expect("these parameters are in the range of RFC 9106");
                let mut key = Zeroizing::new([0; 32]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(passphrase, salt, key.as_mut_slice())
                    .expect("the lengths are in the range of RFC 9106");
                Secret32::new(&key)
            }
        }
    }
}

/// What is in a file; erased when dropped.
pub type Content = Zeroizing<Vec<u8>>;

/// A file of state, open for this program: nobody else opens it before this is dropped.
pub struct SealedFile {
    path: PathBuf,
    /// Held, or none for a file that is only read. It is beside the file, which is replaced, and stays there.
    _lock: Option<fs::File>,
    kind: u8,
    key_salt: [u8; KEY_SALT_LEN],
    key: Secret32,
}

impl SealedFile {
    /// Opens the file at `path` and returns what is in it, or nothing if there is none yet.
    ///
    /// # Errors
    /// [`SealedFileError`].
    pub fn open(path: &Path, key: &StateKey) -> Result<(Self, Option<Content>), SealedFileError> {
        let lock = lock(path)?;
        match Self::read(path, key) {
            Ok((file, content)) => Ok((Self { _lock: lock, ..file }, Some(content))),
            Err(SealedFileError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                let mut key_salt = [0; KEY_SALT_LEN];
                random(&mut key_salt)?;
                Ok((Self::new(path, key, key_salt, lock), None))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the file at `path`, as it was saved last, also while somebody has it open.
    ///
    /// # Errors
    /// [`SealedFileError`].
    pub fn read(path: &Path, key: &StateKey) -> Result<(Self, Content), SealedFileError> {
        let sealed =
            read_bytes(path).map_err(|error| SealedFileError::File { path: path.to_owned(), error })?;
        let format = || SealedFileError::Format { path: path.to_owned() };
        let (header, body) = sealed.split_first_chunk::<HEADER_LEN>().ok_or_else(format)?;
        let (prefix, salts) = header.split_at(MAGIC.len() + 2);
        if prefix != [MAGIC.as_slice(), &[VERSION, key.kind()]].concat() {
            return Err(format());
        }
        let (key_salt, file_salt) = salts.split_first_chunk::<KEY_SALT_LEN>().ok_or_else(format)?;
        let file = Self::new(path, key, *key_salt, None);
        let content = open_body(&file.cipher(file_salt), header, body);
        let content = content.ok_or_else(|| SealedFileError::Sealed { path: path.to_owned() })?;
        Ok((file, content))
    }

    fn new(path: &Path, key: &StateKey, key_salt: [u8; KEY_SALT_LEN], lock: Option<fs::File>) -> Self {
        let stretched = key.stretch(&key_salt);
        Self { path: path.to_owned(), _lock: lock, kind: key.kind(), key_salt, key: stretched }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces what is in the file; when this returns, it is on disk.
    ///
    /// # Errors
    /// [`SealedFileError::File`] and [`SealedFileError::Randomness`]; the file holds what it held before then.
    pub fn save(&self, content: &[u8]) -> Result<(), SealedFileError> {
        self.save_as(&self.path, content)
    }

    /// Writes the same kind of file elsewhere, under the same key: a backup.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_as(&self, path: &Path, content: &[u8]) -> Result<(), SealedFileError> {
        let mut file_salt = [0; FILE_SALT_LEN];
        random(&mut file_salt)?;
        let header = [MAGIC.as_slice(), &[VERSION, self.kind], &self.key_salt, &file_salt].concat();
        let mut body = Zeroizing::new(Vec::with_capacity(content.len() + TAG_LEN));
        body.extend_from_slice(content);
        let tag = self
            .cipher(&file_salt)
            .encrypt_inout_detached(
                &Nonce::<ChaCha20Poly1305>::default(),
                &header,
                body.as_mut_slice().into(),
            )
            .expect("a state is below the limit of the cipher, 256 GiB");
        body.extend_from_slice(&tag);
        replace(path, &[&header, &body])
            .map_err(|error| SealedFileError::File { path: path.to_owned(), error })
    }

    fn cipher(&self, file_salt: &[u8]) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.key.derive("state file", file_salt).as_bytes().into())
    }
}

fn open_body(cipher: &ChaCha20Poly1305, header: &[u8], body: &[u8]) -> Option<Content> {
    let (ciphertext, tag) = body.split_last_chunk::<TAG_LEN>()?;
    let mut content = Zeroizing::new(ciphertext.to_vec());
    let nonce = Nonce::<ChaCha20Poly1305>::default();
    cipher.decrypt_inout_detached(&nonce, header, content.as_mut_slice().into(), tag.into()).ok()?;
    Some(content)
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Keeps others from the file at `path`; nothing where the system has no such locks.
fn lock(path: &Path) -> Result<Option<fs::File>, SealedFileError> {
    let beside = with_extension(path, ".lock");
    let failed = |error| SealedFileError::File { path: beside.clone(), error };
    let lock = private_options().open(&beside).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(SealedFileError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whether an error of a lock says that there are none.
fn has_no_locks(error: &io::Error) -> bool {
    let is_enolck = cfg!(target_os = "linux") && error.raw_os_error() == Some(ENOLCK);
    is_enolck || error.kind() == io::ErrorKind::Unsupported
}

fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(extension);
    PathBuf::from(name)
}

/// Writes a new file beside the old one, and puts it in its place once it is on disk.
fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let temporary = with_extension(path, ".new");
    let mut file = private_options().open(&temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(unix)]
fn private_options() -> fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
}

#[cfg(not(unix))]
fn private_options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    options
}

fn random(bytes: &mut [u8]) -> Result<(), SealedFileError> {
    getrandom::fill(bytes).map_err(|error| SealedFileError::Randomness(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> StateKey {
        StateKey::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_file_system_without_locks_is_no_error_and_a_failing_one_is() {
        let errors = [io::Error::from(io::ErrorKind::Unsupported), io::Error::from_raw_os_error(5)];

        assert_eq!(errors.map(|error| has_no_locks(&error)), [true, false]);
        #[cfg(target_os = "linux")]
        assert!(has_no_locks(&io::Error::from_raw_os_error(ENOLCK)));
    }

    #[test]
    fn what_was_saved_is_there_again_under_the_same_key_only() {
        for (right, wrong) in [
            (StateKey::Key(Secret32::new(&[1; 32])), StateKey::Key(Secret32::new(&[2; 32]))),
            (passphrase("correct horse"), passphrase("battery staple")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state");
            let (file, before) = SealedFile::open(&path, &right).unwrap();
            assert!(before.is_none());
            file.save(b"first").unwrap();
            file.save(b"second").unwrap();
            drop(file);

            let (_, content) = SealedFile::open(&path, &right).unwrap();
            assert_eq!(content.unwrap().as_slice(), b"second");
            assert!(matches!(SealedFile::open(&path, &wrong), Err(SealedFileError::Sealed { .. })));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the lock alone is left beside it");
        }
    }

    #[test]
    fn a_file_is_open_once_and_can_be_read_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let key = StateKey::Key(Secret32::new(&[1; 32]));
        let (file, _) = SealedFile::open(&path, &key).unwrap();

        let error = SealedFile::open(&path, &key).err().unwrap();
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
        assert!(matches!(error, SealedFileError::InUse { .. }));
        file.save(b"content").unwrap();
        assert_eq!(SealedFile::read(&path, &key).unwrap().1.as_slice(), b"content");
        drop(file);

        assert!(SealedFile::open(&path, &key).is_ok());
    }

    #[test]
    fn a_key_is_not_taken_for_a_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let key = StateKey::Key(Secret32::new(&[1; 32]));
        SealedFile::open(&path, &key).unwrap().0.save(b"content").unwrap();

        assert!(matches!(SealedFile::open(&path, &passphrase("x")), Err(SealedFileError::Format { .. })));
    }

    #[test]
    fn a_changed_or_shortened_file_is_refused_and_shows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let key = StateKey::Key(Secret32::new(&[1; 32]));
        SealedFile::open(&path, &key).unwrap().0.save(b"a secret that nobody sees").unwrap();
        let good = fs::read(&path).unwrap();
        assert!(!good.windows(6).any(|window| window == b"secret"));

        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &changed).unwrap();
            assert!(SealedFile::open(&path, &key).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert!(SealedFile::open(&path, &key).is_err(), "{len} bytes");
        }
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_the_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");

        SealedFile::open(&path, &StateKey::Key(Secret32::new(&[1; 32]))).unwrap().0.save(b"content").unwrap();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
