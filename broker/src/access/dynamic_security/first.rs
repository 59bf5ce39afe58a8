//! The file that a broker begins with where there is none: roles for everything one may want to administer, and who does it.
//!
//! Names are those of Mosquitto 2.1. Invariant: a file that is there is left alone, and a password that was made up is written down,
//! for the broker's own user to read, before the file that wants it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tracing::info;
use veilmq_config::AccessConfig;
use zeroize::Zeroizing;

use super::commands::SCHEME;
use super::file::{DynamicSecurityError, parse_whole};
use crate::access::password::PasswordHash;
use crate::files;

const PASSWORD_VARIABLE: &str = "MOSQUITTO_DYNSEC_PASSWORD";
/// The shortest password that is taken from the environment, in bytes, as by Mosquitto.
const PASSWORD_BYTES_MIN: usize = 12;
/// Of what is made up, in bytes of randomness.
const RANDOM_BYTES: usize = 15;
const PASSWORD_FILE_BYTES_MAX: usize = 4_096;

/// A file of dynamic security that is yet to be made.
pub(in crate::access) struct FirstDirectory {
    path: PathBuf,
    password: FirstPassword,
}

/// Where the password of the first administrator comes from.
enum FirstPassword {
    File(PathBuf),
    Environment(Zeroizing<Vec<u8>>),
    MadeUp,
}

impl FirstDirectory {
    /// Returns the file that is configured, if it is not there.
    pub(in crate::access) fn wanted(access: &AccessConfig) -> Option<Self> {
        let path = access.dynamic_security_file.clone()?;
        // What cannot be looked at is an error of whoever reads it.
        if !matches!(path.try_exists(), Ok(false)) {
            return None;
        }
        let variable = || std::env::var_os(PASSWORD_VARIABLE).map(OsString::into_encoded_bytes);
        let password = match (&access.dynamic_security_password_file, variable()) {
            (Some(file), _) => FirstPassword::File(file.clone()),
            (None, Some(password)) => FirstPassword::Environment(Zeroizing::new(password)),
            (None, None) => FirstPassword::MadeUp,
        };
        Some(Self { path, password })
    }

    /// Tells whether there is a password to make it with.
    ///
    /// # Errors
    /// [`DynamicSecurityError`].
    pub(in crate::access) fn check(&self) -> Result<(), DynamicSecurityError> {
        self.given().map(drop)
    }

    /// Makes it.
    ///
    /// # Errors
    /// [`DynamicSecurityError`]; then it is not there, or is whole.
    pub(in crate::access) fn write(&self) -> Result<(), DynamicSecurityError> {
        let path = &self.path;
        let clients = match self.given()? {
            Some(password) => vec![administrator(&password)?],
            None => {
                let (admin, demo) = (made_up()?, made_up()?);
                let text = Zeroizing::new(format!("admin {}\ndemoclient {}\n", *admin, *demo));
                let beside = beside(path);
                files::write(&beside, text.as_bytes(), 0o600)?;
                info!(file = %beside.display(), "the first passwords are written down");
                vec![administrator(admin.as_bytes())?, demonstrator(demo.as_bytes())?]
            }
        };
        parse_whole(path, &whole(&clients))?.write(path)?;
        info!(file = %path.display(), "there was no file of dynamic security, and one was made");
        Ok(())
    }

    /// Returns the password of the administrator; None if it is to be made up.
    fn given(&self) -> Result<Option<Zeroizing<Vec<u8>>>, DynamicSecurityError> {
        match &self.password {
            FirstPassword::MadeUp => Ok(None),
            FirstPassword::Environment(password) if password.len() < PASSWORD_BYTES_MIN => {
                Err(DynamicSecurityError::ShortPassword {
                    path: self.path.clone(),
                    variable: PASSWORD_VARIABLE,
                    bytes_min: PASSWORD_BYTES_MIN,
                })
            }
            FirstPassword::Environment(password) => Ok(Some(password.clone())),
            FirstPassword::File(file) => {
                let bytes = Zeroizing::new(files::read(file, PASSWORD_FILE_BYTES_MAX)?);
                let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
                match line.is_empty() {
                    true => Err(DynamicSecurityError::NoPassword { path: file.clone() }),
                    false => Ok(Some(Zeroizing::new(line.to_vec()))),
                }
            }
        }
    }
}

/// Returns where passwords that were made up are written down.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pw");
    name.into()
}

fn made_up() -> Result<Zeroizing<String>, DynamicSecurityError> {
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(&mut *random).map_err(DynamicSecurityError::Randomness)?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*random)))
}

fn administrator(password: &[u8]) -> Result<Value, DynamicSecurityError> {
    client("admin", "The first administrator", password, &["super-admin", "sys-observe", "topic-observe"])
}

fn demonstrator(password: &[u8]) -> Result<Value, DynamicSecurityError> {
    client("democlient", "A client for trying things out, which may use every topic", password, &["client"])
}

fn client(name: &str, says: &str, password: &[u8], roles: &[&str]) -> Result<Value, DynamicSecurityError> {
    let hash = PasswordHash::make(SCHEME, password)?;
    let roles: Value = roles.iter().map(|role| json!({ "rolename": role })).collect();
    Ok(json!({ "username": name, "textname": says, "encoded_password": hash.to_string(), "roles": roles }))
}

fn whole(clients: &[Value]) -> Value {
    const EVERYTHING: &[&str] =
        &["publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern"];
    const OBSERVE: &[&str] = &["publishClientReceive", "subscribePattern", "unsubscribePattern"];
    json!({
        "defaultACLAccess": {
            "publishClientSend": false, "publishClientReceive": true, "subscribe": false, "unsubscribe": true,
        },
        "clients": clients,
        "groups": [{
            "groupname": "unauthenticated",
            "textname": "Clients without a user name, where they may connect",
            "roles": [],
        }],
        "anonymousGroup": "unauthenticated",
        "roles": [
            role("client", "May use every topic of applications", EVERYTHING, "#"),
            role("broker-admin", "May ask what the broker consists of", EVERYTHING, "$CONTROL/broker/#"),
            role("dynsec-admin", "May administer clients, groups and roles", EVERYTHING, "$CONTROL/dynamic-security/#"),
            role("super-admin", "May administer everything", EVERYTHING, "$CONTROL/#"),
            role("sys-notify", "May say how a bridge is", &["publishClientSend"], "$SYS/broker/connection/%c/state"),
            role("sys-observe", "May see what the broker says of itself", OBSERVE, "$SYS/#"),
            role("topic-observe", "May see every topic of applications", OBSERVE, "#"),
        ],
    })
}

fn role(name: &str, says: &str, kinds: &[&str], topics: &str) -> Value {
    let acl = |kind: &&str| json!({ "acltype": kind, "topic": topics, "priority": 0, "allow": true });
    let acls: Value = kinds.iter().map(acl).collect();
    json!({ "rolename": name, "textdescription": says, "acls": acls })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::Directory;
    use super::*;

    fn users(path: &Path) -> Vec<(String, bool, bool)> {
        let directory = Directory::read(path).unwrap();
        let roles = directory.roles();
        let know = |credential: crate::access::users::Credential| {
            let name = credential.name.to_string();
            (name, credential.hash.is_of(b"a long password"), roles.users.contains_key(&credential.name))
        };
        directory.credentials().map(know).collect()
    }

    #[test]
    fn a_file_that_is_missing_is_made_with_the_password_of_the_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let (path, given) = (folder.path().join("ds.json"), folder.path().join("pw"));
        fs::write(&given, "a long password \nrest\n").unwrap();
        let first = FirstDirectory { path: path.clone(), password: FirstPassword::File(given.clone()) };

        first.check().unwrap();
        assert!(!path.exists(), "a check makes nothing");
        first.write().unwrap();

        assert_eq!(users(&path), [("admin".to_owned(), true, true)]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&given, "\n").unwrap();
        assert!(matches!(first.check(), Err(DynamicSecurityError::NoPassword { path }) if path == given));
    }

    #[test]
    fn a_password_of_the_environment_has_to_be_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ds.json");
        let with = |password: &[u8]| FirstDirectory {
            path: path.clone(),
            password: FirstPassword::Environment(Zeroizing::new(password.to_vec())),
        };

        assert!(matches!(with(b"elevenbytes").write(), Err(DynamicSecurityError::ShortPassword { .. })));
        assert!(!path.exists());
        with(b"a long password").write().unwrap();

        assert_eq!(users(&path), [("admin".to_owned(), true, true)]);
    }

    #[test]
    fn passwords_that_are_made_up_are_written_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ds.json");

        FirstDirectory { path: path.clone(), password: FirstPassword::MadeUp }.write().unwrap();

        let beside = folder.path().join("ds.json.pw");
        assert_eq!(fs::metadata(&beside).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(beside).unwrap();
        let directory = Directory::read(&path).unwrap();
        for (line, credential) in text.lines().zip(directory.credentials()) {
            let (name, password) = line.split_once(' ').unwrap();
            assert_eq!(name, &*credential.name);
            assert!(credential.hash.is_of(password.as_bytes()) && password.len() == 20, "{line}");
        }
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ds.json");
        let access = |file| AccessConfig {
            dynamic_security_file: file,
            dynamic_security_password_file: Some(folder.path().join("pw")),
            ..veilmq_config::BrokerConfig::default().access
        };
        assert!(FirstDirectory::wanted(&access(None)).is_none());
        assert!(FirstDirectory::wanted(&access(Some(path.clone()))).is_some());

        fs::write(&path, "{}").unwrap();

        assert!(FirstDirectory::wanted(&access(Some(path))).is_none());
    }
}
