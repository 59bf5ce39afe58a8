//! The users that a running broker knows, each with the hash of its password.
//!
//! Invariant: to check a password takes as long for a user that does not exist as for one that does [B14].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::password::PasswordHash;
use super::password_file::{PasswordFile, PasswordFileError, User};

/// Numbers that say whether an entry is still the one that a client proved itself to.
static STAMPS: AtomicU64 = AtomicU64::new(1);

/// The users of one password file.
#[derive(Default)]
pub(super) struct Users {
    entries: HashMap<Arc<str>, Entry>,
    /// The hashes of all users; one that does not exist has its password checked against one of them.
    decoys: Vec<Arc<PasswordHash>>,
    names: RandomState,
}

struct Entry {
    hash: Arc<PasswordHash>,
    stamp: u64,
    /// What the file says of it.
    text: String,
}

impl Users {
    /// Reads a password file. An entry that says what it said in `earlier` keeps its number.
    ///
    /// # Errors
    /// [`PasswordFileError`].
    pub(super) fn read(path: &Path, earlier: &Self) -> Result<Self, PasswordFileError> {
        let mut users = Self { names: earlier.names.clone(), ..Self::default() };
        for User { name, text, hash } in PasswordFile::read(path)?.hashes(path)? {
            let hash = Arc::new(hash);
            users.decoys.push(Arc::clone(&hash));
            let same = earlier.entries.get(&name).filter(|entry| entry.text == text);
            let stamp = same.map_or_else(|| STAMPS.fetch_add(1, Ordering::Relaxed), |entry| entry.stamp);
            users.entries.insert(name, Entry { hash, stamp, text: text.to_owned() });
        }
        Ok(users)
    }

    /// Returns the numbers of all users.
    pub(super) fn stamps(&self) -> HashMap<Arc<str>, u64> {
        self.entries.iter().map(|(name, entry)| (Arc::clone(name), entry.stamp)).collect()
    }

    /// Checks a password; returns the number of the user if it is right. Whether there is such a user shows in nothing else.
    pub(super) fn check(&self, user: &str, password: &[u8]) -> Option<u64> {
        let (hash, stamp) = self.hash_for(user)?;
        let is_right = hash.is_of(password);
        stamp.filter(|_| is_right)
    }

    /// Returns the hash that the password of a user is checked against, and the number of the user if there is one. None if
    /// there are no users at all.
    fn hash_for(&self, user: &str) -> Option<(&PasswordHash, Option<u64>)> {
        if let Some(entry) = self.entries.get(user) {
            return Some((&entry.hash, Some(entry.stamp)));
        }
        // The same name always meets the same hash, as that of a user would.
        let chosen = self.names.hash_one(user).checked_rem(self.decoys.len() as u64)?;
        let decoy = self.decoys.get(usize::try_from(chosen).ok()?)?;
        Some((decoy, None))
    }

    /// Tells whether the hash of a user can be tried against too fast.
    pub(super) fn is_weak(&self, user: &str) -> bool {
        self.entries.get(user).is_some_and(|entry| entry.hash.is_weak())
    }

    /// Returns the users with another hash for one of them, which keeps its number: it is of the same password.
    pub(super) fn rehashed(&self, user: &str, hash: PasswordHash) -> Self {
        let hash = Arc::new(hash);
        let mut users = Self { entries: HashMap::new(), decoys: Vec::new(), names: self.names.clone() };
        for (name, entry) in &self.entries {
            let (hash, text) = match **name == *user {
                true => (Arc::clone(&hash), hash.to_string()),
                false => (Arc::clone(&entry.hash), entry.text.clone()),
            };
            users.decoys.push(Arc::clone(&hash));
            users.entries.insert(Arc::clone(name), Entry { hash, stamp: entry.stamp, text });
        }
        users
    }
}

#[cfg(test)]
mod tests {
    use super::super::password::Scheme;
    use super::*;

    fn users(lines: &[(&str, &PasswordHash)], earlier: &Users) -> Users {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let text: String = lines.iter().map(|(name, hash)| format!("{name}:{hash}\n")).collect();
        std::fs::write(&path, text).unwrap();
        Users::read(&path, earlier).unwrap()
    }

    #[test]
    fn a_user_keeps_its_number_as_long_as_its_line_stays() {
        let (first, second) = (
            PasswordHash::make(Scheme::Sha512, b"one").unwrap(),
            PasswordHash::make(Scheme::Sha512, b"two").unwrap(),
        );
        let before = users(&[("ann", &first), ("bob", &first)], &Users::default());

        let after = users(&[("ann", &first), ("bob", &second)], &before);

        assert_eq!(before.check("ann", b"one"), after.check("ann", b"one"));
        assert!(after.check("bob", b"two").is_some());
        assert_ne!(before.check("bob", b"one"), after.check("bob", b"two"));
        assert_eq!(after.check("bob", b"one"), None);
        assert_eq!(after.check("cy", b"one"), None);
    }

    #[test]
    fn a_user_that_is_rehashed_keeps_its_number_over_the_next_reload_too() {
        let weak = PasswordHash::make(Scheme::Sha512, b"one").unwrap();
        let before = users(&[("ann", &weak)], &Users::default());
        let stamp = before.check("ann", b"one");
        let strong = || PasswordHash::make(Scheme::Pbkdf2 { iterations: Some(100_000) }, b"one").unwrap();
        let hash = strong();
        let text = PasswordHash::parse(&hash.to_string()).unwrap();

        let rehashed = before.rehashed("ann", hash);
        let reloaded = users(&[("ann", &text)], &rehashed);

        assert!(before.is_weak("ann") && !rehashed.is_weak("ann"));
        assert_eq!((rehashed.check("ann", b"one"), reloaded.check("ann", b"one")), (stamp, stamp));
    }

    #[test]
    fn the_password_of_a_user_that_does_not_exist_is_checked_against_the_hash_of_one_that_does() {
        // [B14]
        let hashes = [b"one", b"two"].map(|password| PasswordHash::make(Scheme::Sha512, password).unwrap());
        let users = users(&[("ann", &hashes[0]), ("bob", &hashes[1])], &Users::default());
        let mut met = std::collections::BTreeSet::new();
        for number in 0..100 {
            let name = format!("nobody {number}");
            let (hash, stamp) = users.hash_for(&name).unwrap();
            let (again, _) = users.hash_for(&name).unwrap();

            assert!(std::ptr::eq(hash, again) && stamp.is_none());
            // Not even the password of the user whose hash it is lets anybody in.
            assert!(users.check(&name, b"one").is_none() && users.check(&name, b"two").is_none());
            met.insert(hash.to_string());
        }
        assert_eq!(met, hashes.map(|hash| hash.to_string()).into());
    }
}
