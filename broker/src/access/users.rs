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

/// What a user shows for who it is, as it is administered over MQTT.
pub(super) struct Credential {
    pub(super) name: Arc<str>,
    pub(super) hash: Arc<PasswordHash>,
    /// Another Client Identifier than this is refused.
    pub(super) client_id: Option<Arc<str>>,
}

/// The users of a password file, and those that are administered over MQTT.
#[derive(Clone, Default)]
pub(super) struct Users {
    entries: HashMap<Arc<str>, Entry>,
    /// The hashes of all users; one that does not exist has its password checked against one of them.
    decoys: Vec<Arc<PasswordHash>>,
    names: RandomState,
}

#[derive(Clone)]
struct Entry {
    hash: Arc<PasswordHash>,
    stamp: u64,
    /// What the file says of it.
    text: String,
    client_id: Option<Arc<str>>,
    source: Source,
}

/// Where a user stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    PasswordFile,
    Directory,
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
            let entry =
                Entry { hash, stamp, text: text.to_owned(), client_id: None, source: Source::PasswordFile };
            users.entries.insert(name, entry);
        }
        Ok(users)
    }

    /// Returns the users of the password file with these others, of which those keep their number that show what they showed in
    /// `earlier`. A user of the password file goes before another with its name.
    pub(super) fn with_others(&self, others: impl Iterator<Item = Credential>, earlier: &Self) -> Self {
        let mut users = Self { names: self.names.clone(), ..Self::default() };
        for (name, entry) in &self.entries {
            if entry.source == Source::PasswordFile {
                users.decoys.push(Arc::clone(&entry.hash));
                users.entries.insert(Arc::clone(name), entry.clone());
            }
        }
        for Credential { name, hash, client_id } in others {
            if users.entries.contains_key(&name) {
                continue;
            }
            let text = hash.to_string();
            let is_same = |entry: &&Entry| {
                entry.text == text && entry.client_id == client_id && entry.source == Source::Directory
            };
            let same = earlier.entries.get(&name).filter(is_same);
            let stamp = same.map_or_else(|| STAMPS.fetch_add(1, Ordering::Relaxed), |entry| entry.stamp);
            users.decoys.push(Arc::clone(&hash));
            users.entries.insert(name, Entry { hash, stamp, text, client_id, source: Source::Directory });
        }
        users
    }

    /// Returns the numbers of all users.
    pub(super) fn stamps(&self) -> HashMap<Arc<str>, u64> {
        self.entries.iter().map(|(name, entry)| (Arc::clone(name), entry.stamp)).collect()
    }

    /// Checks a password; returns the number of the user if it is right, and right for this Client Identifier. Whether there is
    /// such a user shows in nothing else.
    pub(super) fn check(&self, user: &str, client_id: &str, password: &[u8]) -> Option<u64> {
        let (hash, stamp) = self.hash_for(user)?;
        let is_right = hash.is_of(password);
        let wanted = self.entries.get(user).and_then(|entry| entry.client_id.as_deref());
        stamp.filter(|_| is_right && wanted.is_none_or(|wanted| wanted == client_id))
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

    /// Tells whether there is such a user.
    pub(super) fn has(&self, user: &str) -> bool {
        self.entries.contains_key(user)
    }

    /// Tells whether the hash of a user of the password file can be tried against too fast.
    pub(super) fn is_weak(&self, user: &str) -> bool {
        let entry = self.entries.get(user).filter(|entry| entry.source == Source::PasswordFile);
        entry.is_some_and(|entry| entry.hash.is_weak())
    }

    /// Returns the users with another hash for one of them, which keeps its number: it is of the same password.
    pub(super) fn rehashed(&self, user: &str, hash: &Arc<PasswordHash>) -> Self {
        let mut users = Self { entries: HashMap::new(), decoys: Vec::new(), names: self.names.clone() };
        for (name, entry) in &self.entries {
            let mut entry = entry.clone();
            if **name == *user {
                entry.text = hash.to_string();
                entry.hash = Arc::clone(hash);
            }
            users.decoys.push(Arc::clone(&entry.hash));
            users.entries.insert(Arc::clone(name), entry);
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

        assert_eq!(before.check("ann", "c", b"one"), after.check("ann", "c", b"one"));
        assert!(after.check("bob", "c", b"two").is_some());
        assert_ne!(before.check("bob", "c", b"one"), after.check("bob", "c", b"two"));
        assert_eq!(after.check("bob", "c", b"one"), None);
        assert_eq!(after.check("cy", "c", b"one"), None);
    }

    #[test]
    fn a_user_that_is_rehashed_keeps_its_number_over_the_next_reload_too() {
        let weak = PasswordHash::make(Scheme::Sha512, b"one").unwrap();
        let before = users(&[("ann", &weak)], &Users::default());
        let stamp = before.check("ann", "c", b"one");
        let strong = || PasswordHash::make(Scheme::Pbkdf2 { iterations: Some(100_000) }, b"one").unwrap();
        let hash = strong();
        let text = PasswordHash::parse(&hash.to_string()).unwrap();

        let rehashed = before.rehashed("ann", &Arc::new(hash));
        let reloaded = users(&[("ann", &text)], &rehashed);

        assert!(before.is_weak("ann") && !rehashed.is_weak("ann"));
        assert_eq!((rehashed.check("ann", "c", b"one"), reloaded.check("ann", "c", b"one")), (stamp, stamp));
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
            assert!(users.check(&name, "c", b"one").is_none() && users.check(&name, "c", b"two").is_none());
            met.insert(hash.to_string());
        }
        assert_eq!(met, hashes.map(|hash| hash.to_string()).into());
    }

    #[test]
    fn users_of_the_password_file_go_before_others_and_a_client_identifier_can_be_wanted() {
        let hash = |password: &[u8]| PasswordHash::make(Scheme::Sha512, password).unwrap();
        let file = users(&[("ann", &hash(b"one"))], &Users::default());
        let other = |name: &str, client_id: Option<&str>| Credential {
            name: name.into(),
            hash: Arc::new(hash(b"two")),
            client_id: client_id.map(Arc::from),
        };
        let before =
            file.with_others([other("ann", None), other("bob", Some("b"))].into_iter(), &Users::default());

        assert_eq!(before.check("ann", "c", b"one"), file.check("ann", "c", b"one"));
        assert_eq!(before.check("ann", "c", b"two"), None);
        assert_eq!(before.check("bob", "c", b"two"), None);
        let bob = before.check("bob", "b", b"two");
        assert!(bob.is_some());
        assert!(before.is_weak("ann") && !before.is_weak("bob"), "only a password file is written anew");

        let known = before.entries["bob"].hash.clone();
        let same = Credential { name: "bob".into(), hash: known.clone(), client_id: Some("b".into()) };
        assert_eq!(before.with_others([same].into_iter(), &before).check("bob", "b", b"two"), bob);
        let freer = Credential { name: "bob".into(), hash: known, client_id: None };
        assert_ne!(before.with_others([freer].into_iter(), &before).check("bob", "b", b"two"), bob);
        assert_eq!(before.with_others(std::iter::empty(), &before).check("bob", "b", b"two"), None);
    }
}
