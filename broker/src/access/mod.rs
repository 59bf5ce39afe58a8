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
use std::sync::Arc;
use std::time::Duration;

use veilmq_config::{BadCredentials, BrokerConfig};
use veilmq_core::{Access, PolicyError, Shared};

pub use self::limiter::{Ban, Banned};
pub use self::password_file::PasswordFileError;
pub use self::rules_file::RulesFileError;
use self::users::Users;
use self::verifier::Rehash;
pub(crate) use self::verifier::{Reply, Verifier};

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
    access: Access,
    users: Users,
    rehash: Rehash,
}

/// Keeps what the shards consult equal to the configuration and its files.
pub struct AccessKeeper {
    shared: Arc<Shared>,
    verifier: Arc<Verifier>,
}

impl AccessKeeper {
    /// Reads the files, and starts to check passwords. `shared` is what the shards consult; they have not been made yet.
    ///
    /// # Errors
    /// [`AccessError`], naming the file and line.
    pub fn new(config: &BrokerConfig, shared: Arc<Shared>) -> Result<Self, AccessError> {
        let tables = Tables::read(config, &Users::default())?;
        let patience = Duration::from_secs(config.limits.connect_seconds_max.into());
        let verifier = Verifier::start(config.bans, patience).map_err(AccessError::Threads)?;
        let keeper = Self { shared, verifier: Arc::new(verifier) };
        keeper.apply(tables, config);
        Ok(keeper)
    }

    /// Reads the files again, those that the configuration names now. The shards must then be told.
    ///
    /// # Errors
    /// [`AccessError`]; nothing has changed then.
    pub fn reload(&self, config: &BrokerConfig) -> Result<(), AccessError> {
        let tables = Tables::read(config, &self.verifier.users())?;
        self.apply(tables, config);
        Ok(())
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
    Tables::read(config, &Users::default()).map(drop)
}

impl Tables {
    fn read(config: &BrokerConfig, earlier: &Users) -> Result<Self, AccessError> {
        let path = config.access.password_file.as_ref();
        let users = path.map(|path| Users::read(path, earlier)).transpose()?;
        let access = Access {
            anonymous: config.access.anonymous,
            users: users.as_ref().map(Users::stamps),
            rules: rules_file::read(&config.acl)?,
            policies: policies::policies(&config.e2e)?,
            tells_bad_credentials: config.access.bad_credentials == BadCredentials::BadUserNameOrPassword,
        };
        let rehash = match path {
            Some(path) if config.access.rehash => Rehash::In(path.clone()),
            Some(_) | None => Rehash::Never,
        };
        Ok(Self { access, users: users.unwrap_or_default(), rehash })
    }
}
