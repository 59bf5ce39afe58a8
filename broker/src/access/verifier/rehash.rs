//! Weak hashes of passwords that become strong when their users give them.
//!
//! Invariant: a file is written only where the operator says that it is ours, and an entry that somebody has changed meanwhile stays.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use tracing::{error, info};
use veilmq_core::Credentials;

use super::{Inner, PasswordSource, lock};
use crate::access::password::{PasswordHash, PasswordHashError, Scheme};
use crate::access::password_file::{PasswordFile, PasswordFileError};
use crate::access::try_lock;

/// Why a password was not hashed anew.
#[derive(Debug, thiserror::Error)]
enum RehashError {
    #[error(transparent)]
    Hash(#[from] PasswordHashError),
    #[error(transparent)]
    File(#[from] PasswordFileError),
}

impl Inner {
    /// Hashes a password that was right anew, once, if its file is ours. It takes long, so that nobody waits for it: while others want to
    /// be let in, or another password is hashed anew, it is left to the next login.
    pub(super) fn rehash(&self, credentials: &Credentials) {
        let (user, entrance) = (&*credentials.user, usize::from(credentials.entrance.0));
        let is_weak = || {
            let users = self.users();
            users.get(entrance).or(users.first()).is_some_and(|users| users.is_weak(user))
        };
        if !is_weak() || !lock(&self.queue).waiting.is_empty() {
            return;
        }
        // One at a time, and not while the files change.
        let Some(passwords) = try_lock(&self.passwords) else { return };
        let Some(Some(source)) = passwords.get(entrance).or(passwords.first()) else { return };
        // Another thread may have done it meanwhile.
        if !is_weak() || !source.is_rehashed {
            return;
        }
        let file = source.path.display();
        match self.rehash_in(&source.path, user, &credentials.password, &passwords) {
            Ok(()) => {
                self.counts.rehashed();
                info!(user, %file, "the password of a user was hashed anew");
            }
            Err(error) => error!(user, "a password cannot be hashed anew: {error}"),
        }
    }

    fn rehash_in(
        &self,
        path: &Path,
        user: &str,
        password: &[u8],
        passwords: &[Option<PasswordSource>],
    ) -> Result<(), RehashError> {
        let hash = Arc::new(PasswordHash::make(Scheme::Argon2id, password)?);
        let mut file = PasswordFile::read(path)?;
        // Somebody may have changed or removed the user since the file was loaded: then what it says now stays.
        let is_same = file.find(user).and_then(|text| PasswordHash::parse(text).ok());
        if !is_same.is_some_and(|earlier| earlier.is_of(password)) {
            return Ok(());
        }
        file.set(user, &hash);
        file.write(path)?;
        // Its user stays the same on every listener that goes by this file.
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        let is_from =
            |source: &Option<PasswordSource>| source.as_ref().is_some_and(|known| known.path == path);
        let others =
            users.iter().enumerate().map(|(index, known)| match passwords.get(index).is_some_and(is_from) {
                true => known.rehashed(user, &hash),
                false => known.clone(),
            });
        *users = others.collect();
        Ok(())
    }
}
