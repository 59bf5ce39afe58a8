//! Who may connect and what clients may do, as files and the configuration say it: read, checked, and given to the shards.
//!
//! Invariant: tables are read and checked whole before any of them comes into force, so what cannot be used changes nothing.

mod acl_file;
mod authority;
mod broker_api;
mod control;
mod dynamic_security;
mod http;
mod jwt;
mod limiter;
pub mod password;
pub mod password_file;
mod policies;
mod rules_file;
mod tables;
mod users;
mod verifier;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tracing::{error, info};
use veilmq_config::{AccessConfig, BrokerConfig};
use veilmq_core::{Command, PolicyError, Shared};

pub use self::control::Control;
pub(crate) use self::control::{Answer, Audience};
pub use self::dynamic_security::DynamicSecurityError;
use self::dynamic_security::{Answers, Directory, FirstDirectory, Hashes, carry_out};
pub use self::http::HttpAccessError;
pub use self::jwt::JwtError;
pub use self::limiter::{Ban, Banned, network};
pub use self::password_file::PasswordFileError;
pub use self::rules_file::RulesFileError;
pub use self::tables::Listeners;
use self::tables::{Earlier, Source, Tables};
pub(crate) use self::verifier::{Reply, Verifier};
use crate::watched::WatchedFiles;

/// Why access cannot be as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The password file cannot be used.
    #[error(transparent)]
    Passwords(#[from] PasswordFileError),
    /// The file of rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesFileError),
    /// A policy on end-to-end encryption makes no sense.
    #[error("e2e.policies: {0}")]
    Policies(#[from] PolicyError),
    /// The file of dynamic security cannot be used.
    #[error(transparent)]
    DynamicSecurity(#[from] DynamicSecurityError),
    /// The keys for tokens cannot be used.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// The service that is to be asked about users cannot be.
    #[error(transparent)]
    Http(#[from] HttpAccessError),
    /// The operating system gave no thread.
    #[error("cannot start the threads that check passwords: {0}")]
    Threads(io::Error),
}

impl AccessError {
    /// Returns the file at fault.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Passwords(error) => Some(error.path()),
            Self::Rules(error) => Some(error.path()),
            Self::DynamicSecurity(error) => error.path(),
            Self::Jwt(error) => Some(error.path()),
            Self::Http(error) => error.path(),
            Self::Policies(_) | Self::Threads(_) => None,
        }
    }
}

/// Keeps what the shards consult equal to the configuration and its files. What is in force is locked for as long as files are read or
/// written, and never while a password is hashed: who reloads would wait for that.
pub struct AccessKeeper {
    shared: Arc<Shared>,
    verifier: Arc<Verifier>,
    in_force: Mutex<InForce>,
}

/// What is in force.
struct InForce {
    listeners: Listeners,
    sources: Vec<Source>,
    directory: Option<Arc<Directory>>,
    watched: WatchedFiles,
}

/// What was read and is in force nowhere. Nobody administers meanwhile what it says.
pub struct PreparedAccess<'a> {
    keeper: &'a AccessKeeper,
    in_force: MutexGuard<'a, InForce>,
    tables: Tables,
    listeners: Listeners,
    watched: WatchedFiles,
}

impl AccessKeeper {
    /// Reads the files, and starts to check passwords. `shared` is what the shards consult; they have not been made yet. A file of
    /// dynamic security that is missing is made.
    ///
    /// # Errors
    /// [`AccessError`], naming the file and line.
    pub fn new(config: &BrokerConfig, shared: Arc<Shared>) -> Result<Self, AccessError> {
        if let Some(first) = FirstDirectory::wanted(&config.access) {
            first.write()?;
        }
        let listeners = Listeners::of(config);
        let watched = watched(config);
        let tables = Tables::read(&listeners, &Earlier::default())?;
        let patience_seconds = config.limits.connect_seconds_max;
        let verifier = Verifier::start(config.bans, patience_seconds).map_err(AccessError::Threads)?;
        let in_force =
            InForce { listeners: listeners.clone(), sources: Vec::new(), directory: None, watched };
        let keeper = Self { shared, verifier: Arc::new(verifier), in_force: Mutex::new(in_force) };
        keeper.apply(tables, listeners, &mut keeper.in_force());
        Ok(keeper)
    }

    /// Reads the files that the configuration names now, and changes nothing.
    ///
    /// # Errors
    /// [`AccessError`], naming the file and line.
    pub fn prepare(&self, listeners: Listeners) -> Result<PreparedAccess<'_>, AccessError> {
        let in_force = self.in_force();
        // What changes while it is read is read again.
        let watched = watched(&listeners.config);
        let tables = self.read(&listeners, &in_force)?;
        Ok(PreparedAccess { keeper: self, in_force, tables, listeners, watched })
    }

    /// Reads the files again if one of them has changed since; None if none has, or one is being written: then the next look tells. The
    /// shards must then be told.
    pub fn rescan(&self) -> Option<Result<(), AccessError>> {
        let mut in_force = try_lock(&self.in_force)?;
        if !in_force.watched.have_changed() {
            return None;
        }
        let listeners = in_force.listeners.clone();
        let read = self.read(&listeners, &in_force);
        Some(read.map(|tables| self.apply(tables, listeners, &mut in_force)))
    }

    fn read(&self, listeners: &Listeners, in_force: &InForce) -> Result<Tables, AccessError> {
        let (users, vouchers) = (self.verifier.users(), self.verifier.vouchers());
        let earlier = Earlier {
            users: &users,
            sources: &in_force.sources,
            directory: in_force.directory.as_deref(),
            vouchers: Some(&vouchers),
        };
        Tables::read(listeners, &earlier)
    }

    /// Returns who checks passwords.
    pub(crate) fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Carries out commands on clients, groups and roles, writes the file if that changes anything, and only then goes by it.
    /// Returns the answers, and whether the shards must be told.
    pub(crate) fn administer(&self, command: &Command) -> (Vec<u8>, bool) {
        let hashes = Hashes::default();
        let peers = |user: &Arc<str>| self.addresses_of(user);
        loop {
            let Some(earlier) = self.in_force().directory.clone() else {
                // A reload has ended it meanwhile.
                let answers = carry_out(&mut Directory::default(), b"", &hashes, &|_| Vec::new());
                return (answers.into_payload(), false);
            };
            let mut directory = Directory::clone(&earlier);
            let mut answers = carry_out(&mut directory, &command.payload, &hashes, &peers);
            let mut has_changed = answers.have_changes();
            if has_changed {
                let Some(taken_over) = self.replace(&earlier, directory) else { continue };
                if let Err(error) = taken_over {
                    error!("nothing has changed: {error}");
                    answers.disown_changes();
                    has_changed = false;
                }
            }
            log(command, &answers);
            return (answers.into_payload(), has_changed);
        }
    }

    /// Answers a question about the broker.
    pub(crate) fn describe_broker(&self, command: &Command) -> Vec<u8> {
        broker_api::answer(&command.payload, &self.in_force().listeners)
    }

    /// Puts other clients, groups and roles in the place of earlier ones; None if those are not in force any more, since the file was
    /// read again.
    fn replace(&self, earlier: &Arc<Directory>, directory: Directory) -> Option<Result<(), AccessError>> {
        let mut in_force = self.in_force();
        let now = in_force.directory.as_ref().filter(|now| Arc::ptr_eq(now, earlier));
        let path =
            in_force.listeners.config.access.dynamic_security_file.clone().filter(|_| now.is_some())?;
        Some(self.take_over(&mut in_force, directory, &path))
    }

    /// Writes other clients, groups and roles to the file, and then goes by them.
    fn take_over(
        &self,
        in_force: &mut InForce,
        directory: Directory,
        path: &Path,
    ) -> Result<(), AccessError> {
        let (config, sources) = (&in_force.listeners.config, &in_force.sources);
        let vouchers = self.verifier.vouchers();
        let users = self.verifier.users();
        let (access, users) = tables::with_directory(config, sources, &users, &vouchers, &directory)?;
        directory.write(path).map_err(DynamicSecurityError::from)?;
        in_force.watched.has_written(path);
        self.shared.set_access(access);
        self.verifier.change_users(users);
        in_force.directory = Some(Arc::new(directory));
        Ok(())
    }

    fn addresses_of(&self, user: &Arc<str>) -> Vec<Box<str>> {
        let address = |peer: Box<str>| match peer.parse::<SocketAddr>() {
            Ok(address) => address.ip().to_string().into(),
            Err(_) => peer,
        };
        self.shared.peers_of(user).into_iter().map(address).collect()
    }

    fn apply(&self, tables: Tables, listeners: Listeners, in_force: &mut InForce) {
        // In this order nobody is refused by shards who was found right by the new file.
        self.shared.set_access(tables.access);
        if let Some(hook) = tables.vouchers.iter().find_map(|vouchers| vouchers.hook.as_ref()) {
            hook.warn_of_risks();
        }
        let patience_seconds = listeners.config.limits.connect_seconds_max;
        let bans = (listeners.config.bans, patience_seconds);
        self.verifier.apply(tables.users, tables.passwords, tables.vouchers, bans);
        in_force.listeners = listeners;
        (in_force.sources, in_force.directory) = (tables.sources, tables.directory);
    }

    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads every file that the configuration names, and does nothing with it.
///
/// # Errors
/// [`AccessError`], naming the file and line.
pub fn check(config: &BrokerConfig) -> Result<(), AccessError> {
    let Some(first) = FirstDirectory::wanted(&config.access) else {
        return Tables::read(&Listeners::of(config), &Earlier::default()).map(drop);
    };
    first.check()?;
    // The rest is looked at without the file that would be made.
    let access = AccessConfig { dynamic_security_file: None, ..config.access.clone() };
    let config = BrokerConfig { access, ..config.clone() };
    Tables::read(&Listeners::of(&config), &Earlier::default()).map(drop)
}

/// Returns the files that a configuration names, to be watched.
fn watched(config: &BrokerConfig) -> WatchedFiles {
    let own = config.listeners.iter().filter_map(|listener| listener.access.as_ref());
    let files = own
        .flat_map(|access| [&access.password_file, &access.acl_file, &access.mosquitto_acl_file])
        .chain([&config.access.password_file, &config.acl.file, &config.acl.mosquitto_file])
        .chain([&config.access.dynamic_security_file, &config.access.jwt.jwks_file])
        .chain([&config.access.http.token_file, &config.access.http.ca]);
    WatchedFiles::new(files.flatten().chain(&config.access.jwt.key_files).cloned())
}

impl PreparedAccess<'_> {
    /// Puts what was read in force. The shards must then be told.
    pub fn apply(mut self) {
        self.in_force.watched = self.watched;
        self.keeper.apply(self.tables, self.listeners, &mut self.in_force);
    }
}

/// Locks, unless somebody else holds the lock.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Says who did what, without what may be a password.
fn log(command: &Command, answers: &Answers) {
    let (client, user) = (&*command.client_id, command.user.as_deref());
    for (command, error) in answers.summary() {
        info!(client, user, command, error, "dynamic security");
    }
}

#[cfg(test)]
mod tests;
