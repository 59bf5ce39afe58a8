//! Who may connect and what clients may do, as files and the configuration say it: read, checked, and given to the shards.
//!
//! Invariant: tables are read and checked whole before any of them comes into force, so what cannot be used changes nothing.

mod acl_file;
mod limiter;
pub mod password;
pub mod password_file;
mod policies;
mod rules_file;
mod users;
mod verifier;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use veilmq_config::{BadCredentials, BrokerConfig, ListenerAccessConfig};
use veilmq_core::{Access, AccessTables, PolicyError, Shared};

pub use self::limiter::{Ban, Banned};
pub use self::password_file::PasswordFileError;
pub use self::rules_file::RulesFileError;
use self::users::Users;
use self::verifier::Rehash;
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
    /// The operating system gave no thread.
    #[error("cannot start the password threads: {0}")]
    Threads(io::Error),
}

/// What the files say.
struct Tables {
    access: AccessTables,
    /// For all listeners, or for each.
    users: Vec<Users>,
    rehash: Rehash,
}

/// Keeps what the shards consult equal to the configuration and its files.
pub struct AccessKeeper {
    shared: Arc<Shared>,
    verifier: Arc<Verifier>,
    watched: Mutex<Watched>,
}

/// What was read last, and its files.
struct Watched {
    config: Box<BrokerConfig>,
    files: WatchedFiles,
}

impl AccessKeeper {
    /// Reads the files, and starts to check passwords. `shared` is what the shards consult; they have not been made yet.
    ///
    /// # Errors
    /// [`AccessError`], naming the file and line.
    pub fn new(config: &BrokerConfig, shared: Arc<Shared>) -> Result<Self, AccessError> {
        let tables = Tables::read(config, &[])?;
        let patience = Duration::from_secs(config.limits.connect_seconds_max.into());
        let verifier = Verifier::start(config.bans, patience).map_err(AccessError::Threads)?;
        let watched = Mutex::new(Watched::of(config));
        let keeper = Self { shared, verifier: Arc::new(verifier), watched };
        keeper.apply(tables, config);
        Ok(keeper)
    }

    /// Reads the files again, those that the configuration names now. The shards must then be told.
    ///
    /// # Errors
    /// [`AccessError`]; nothing has changed then.
    pub fn reload(&self, config: &BrokerConfig) -> Result<(), AccessError> {
        // What changes while it is read is read again.
        *self.watched() = Watched::of(config);
        let tables = Tables::read(config, &self.verifier.users())?;
        self.apply(tables, config);
        Ok(())
    }

    /// Reads the files again if one of them has changed since; None if none has. The shards must then be told.
    pub fn rescan(&self) -> Option<Result<(), AccessError>> {
        let mut watched = self.watched();
        if !watched.files.have_changed() {
            return None;
        }
        let read = Tables::read(&watched.config, &self.verifier.users());
        Some(read.map(|tables| self.apply(tables, &watched.config)))
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns who checks passwords.
    pub(crate) fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    fn apply(&self, tables: Tables, config: &BrokerConfig) {
        // In this order nobody is refused by shards who was found right by the new file.
        self.shared.set_access(tables.access);
        self.verifier.apply(tables.users, tables.rehash, config.bans);
    }
}

/// Reads every file that the configuration names, and does nothing with it.
///
/// # Errors
/// [`AccessError`], naming the file and line.
pub fn check(config: &BrokerConfig) -> Result<(), AccessError> {
    Tables::read(config, &[]).map(drop)
}

impl Watched {
    fn of(config: &BrokerConfig) -> Self {
        let own = config.listeners.iter().filter_map(|listener| listener.access.as_ref());
        let files = own
            .flat_map(|access| [&access.password_file, &access.acl_file, &access.mosquitto_acl_file])
            .chain([&config.access.password_file, &config.acl.file, &config.acl.mosquitto_file]);
        let files = WatchedFiles::new(files.flatten().cloned());
        Self { config: Box::new(config.clone()), files }
    }
}

impl Tables {
    /// Reads all files. Users that were there in `earlier` and have not changed stay who they are.
    fn read(config: &BrokerConfig, earlier: &[Users]) -> Result<Self, AccessError> {
        let common = ListenerAccessConfig {
            anonymous: config.access.anonymous,
            password_file: config.access.password_file.clone(),
            acl_file: config.acl.file.clone(),
            mosquitto_acl_file: config.acl.mosquitto_file.clone(),
        };
        let listeners = config.listeners.iter();
        let own: Vec<_> = match listeners.clone().any(|listener| listener.access.is_some()) {
            true => listeners.map(|listener| listener.access.as_ref().unwrap_or(&common)).collect(),
            false => vec![&common],
        };
        let mut users = Vec::with_capacity(own.len());
        let mut access = Vec::with_capacity(own.len());
        let nobody = Users::default();
        for (index, one) in own.into_iter().enumerate() {
            let earlier = earlier.get(index).or(earlier.first()).unwrap_or(&nobody);
            let (table, known) = read_one(config, one, earlier)?;
            access.push(table);
            users.push(known);
        }
        let rehash = match &config.access.password_file {
            Some(path) if config.access.rehash && users.len() == 1 => Rehash::In(path.clone()),
            Some(_) | None => Rehash::Never,
        };
        // One table is for whatever listeners there are.
        let access = match access.len() {
            1 => access.remove(0).into(),
            _ => access.into(),
        };
        Ok(Self { access, users, rehash })
    }
}

/// Reads what is said of one listener, or of all.
fn read_one(
    config: &BrokerConfig,
    own: &ListenerAccessConfig,
    earlier: &Users,
) -> Result<(Access, Users), AccessError> {
    let users = own.password_file.as_ref().map(|path| Users::read(path, earlier)).transpose()?;
    let (file, mosquitto_file) = (own.acl_file.as_ref(), own.mosquitto_acl_file.as_ref());
    let access = Access {
        anonymous: own.anonymous,
        users: users.as_ref().map(Users::stamps),
        rules: rules_file::read(file, mosquitto_file, config.acl.subscribe)?,
        policies: policies::policies(&config.e2e)?,
        tells_bad_credentials: config.access.bad_credentials == BadCredentials::BadUserNameOrPassword,
    };
    Ok((access, users.unwrap_or_default()))
}
