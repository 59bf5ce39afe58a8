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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, info};
use veilmq_config::{AccessConfig, BrokerConfig};
use veilmq_core::{Command, PolicyError, Shared};

pub use self::control::Control;
pub(crate) use self::control::{Answer, Audience};
pub use self::dynamic_security::DynamicSecurityError;
use self::dynamic_security::{Answers, Directory, FirstDirectory, carry_out};
pub use self::http::HttpAccessError;
pub use self::jwt::JwtError;
pub use self::limiter::{Ban, Banned, network};
pub use self::password_file::PasswordFileError;
pub use self::rules_file::RulesFileError;
use self::tables::{Source, Tables};
use self::verifier::Vouchers;
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

/// Keeps what the shards consult equal to the configuration and its files.
pub struct AccessKeeper {
    shared: Arc<Shared>,
    verifier: Arc<Verifier>,
    in_force: Mutex<InForce>,
}

/// What is in force.
struct InForce {
    config: BrokerConfig,
    sources: Vec<Source>,
    directory: Option<Directory>,
    watched: Watched,
}

/// What was read last, whether or not it could be used, and its files.
struct Watched {
    config: Box<BrokerConfig>,
    files: WatchedFiles,
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
        let tables = Tables::read(config, &[], None, &Vouchers::default())?;
        let patience = Duration::from_secs(config.limits.connect_seconds_max.into());
        let verifier = Verifier::start(config.bans, patience).map_err(AccessError::Threads)?;
        let watched = Watched::of(config);
        let in_force = InForce { config: config.clone(), sources: Vec::new(), directory: None, watched };
        let keeper = Self { shared, verifier: Arc::new(verifier), in_force: Mutex::new(in_force) };
        keeper.apply(tables, config, &mut keeper.in_force());
        Ok(keeper)
    }

    /// Reads the files again, those that the configuration names now. The shards must then be told.
    ///
    /// # Errors
    /// [`AccessError`]; nothing has changed then.
    pub fn reload(&self, config: &BrokerConfig) -> Result<(), AccessError> {
        // While they are read nobody administers what they say.
        let mut in_force = self.in_force();
        // What changes while it is read is read again.
        in_force.watched = Watched::of(config);
        let tables = self.read(config, &in_force)?;
        self.apply(tables, config, &mut in_force);
        Ok(())
    }

    /// Reads the files again if one of them has changed since; None if none has. The shards must then be told.
    pub fn rescan(&self) -> Option<Result<(), AccessError>> {
        let mut in_force = self.in_force();
        if !in_force.watched.files.have_changed() {
            return None;
        }
        let config = in_force.watched.config.clone();
        let read = self.read(&config, &in_force);
        Some(read.map(|tables| self.apply(tables, &config, &mut in_force)))
    }

    fn read(&self, config: &BrokerConfig, in_force: &InForce) -> Result<Tables, AccessError> {
        let earlier = in_force.directory.as_ref();
        Tables::read(config, &self.verifier.users(), earlier, &self.verifier.vouchers())
    }

    /// Returns who checks passwords.
    pub(crate) fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Carries out commands on clients, groups and roles, writes the file if that changes anything, and only then goes by it.
    /// Returns the answers, and whether the shards must be told.
    pub(crate) fn administer(&self, command: &Command) -> (Vec<u8>, bool) {
        let mut in_force = self.in_force();
        let path = in_force.config.access.dynamic_security_file.clone();
        let (Some(path), Some(directory)) = (path, &in_force.directory) else {
            // A reload has ended it meanwhile.
            return (carry_out(&mut Directory::default(), b"", &|_| Vec::new()).into_payload(), false);
        };
        let mut directory = directory.clone();
        let mut answers = carry_out(&mut directory, &command.payload, &|user| self.addresses_of(user));
        let mut has_changed = answers.have_changes();
        if has_changed && let Err(error) = self.take_over(&mut in_force, directory, &path) {
            error!("nothing has changed: {error}");
            answers.disown_changes();
            has_changed = false;
        }
        log(command, &answers);
        (answers.into_payload(), has_changed)
    }

    /// Answers a question about the broker.
    pub(crate) fn describe_broker(&self, command: &Command) -> Vec<u8> {
        broker_api::answer(&command.payload, &self.in_force().config)
    }

    /// Writes other clients, groups and roles to the file, and then goes by them.
    fn take_over(
        &self,
        in_force: &mut InForce,
        directory: Directory,
        path: &Path,
    ) -> Result<(), AccessError> {
        let InForce { config, sources, .. } = &*in_force;
        let vouchers = self.verifier.vouchers();
        let users = self.verifier.users();
        let (access, users) = tables::with_directory(config, sources, &users, &vouchers, &directory)?;
        directory.write(path).map_err(DynamicSecurityError::from)?;
        in_force.watched.files.has_written(path);
        self.shared.set_access(access);
        self.verifier.change_users(users);
        in_force.directory = Some(directory);
        Ok(())
    }

    fn addresses_of(&self, user: &Arc<str>) -> Vec<Box<str>> {
        let address = |peer: Box<str>| match peer.parse::<SocketAddr>() {
            Ok(address) => address.ip().to_string().into(),
            Err(_) => peer,
        };
        self.shared.peers_of(user).into_iter().map(address).collect()
    }

    fn apply(&self, tables: Tables, config: &BrokerConfig, in_force: &mut InForce) {
        // In this order nobody is refused by shards who was found right by the new file.
        self.shared.set_access(tables.access);
        if let Some(hook) = tables.vouchers.iter().find_map(|vouchers| vouchers.hook.as_ref()) {
            hook.warn_of_risks();
        }
        self.verifier.apply(tables.users, tables.passwords, tables.vouchers, config.bans);
        in_force.config = config.clone();
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
        return Tables::read(config, &[], None, &Vouchers::default()).map(drop);
    };
    first.check()?;
    // The rest is looked at without the file that would be made.
    let access = AccessConfig { dynamic_security_file: None, ..config.access.clone() };
    let config = BrokerConfig { access, ..config.clone() };
    Tables::read(&config, &[], None, &Vouchers::default()).map(drop)
}

impl Watched {
    fn of(config: &BrokerConfig) -> Self {
        let own = config.listeners.iter().filter_map(|listener| listener.access.as_ref());
        let files = own
            .flat_map(|access| [&access.password_file, &access.acl_file, &access.mosquitto_acl_file])
            .chain([&config.access.password_file, &config.acl.file, &config.acl.mosquitto_file])
            .chain([&config.access.dynamic_security_file, &config.access.jwt.jwks_file])
            .chain([&config.access.http.token_file, &config.access.http.ca]);
        let files = WatchedFiles::new(files.flatten().chain(&config.access.jwt.key_files).cloned());
        Self { config: Box::new(config.clone()), files }
    }
}

/// Says who did what, without what may be a password.
fn log(command: &Command, answers: &Answers) {
    let (client, user) = (&*command.client_id, command.user.as_deref());
    for (command, error) in answers.summary() {
        info!(client, user, command, error, "dynamic security");
    }
}
