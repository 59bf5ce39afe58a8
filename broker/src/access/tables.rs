//! The tables of users and rules, made of what the configuration and its files say: one for all listeners, or one for each.
//!
//! Invariant: clients, groups and roles that are administered change the tables of the listeners that go by them, and no other.

use std::path::Path;
use std::sync::Arc;

use veilmq_config::{BadCredentials, BrokerConfig, ListenerAccessConfig, ListenerConfig};
use veilmq_core::{Access, AccessTables, ControlTopics, Rules};

use super::AccessError;
use super::dynamic_security::Directory;
use super::http::Hook;
use super::jwt::Tokens;
use super::users::Users;
use super::verifier::{PasswordSource, Vouchers};
use super::{policies, rules_file};

/// What is in force, or is about to be.
pub(super) struct Tables {
    pub(super) access: AccessTables,
    /// For all listeners, or for each.
    pub(super) users: Vec<Users>,
    /// Where their passwords are from, for all listeners, or for each.
    pub(super) passwords: Vec<Option<PasswordSource>>,
    /// Who vouches for users on all listeners, or on each.
    pub(super) vouchers: Vec<Vouchers>,
    /// For all listeners, or for each, like the users.
    pub(super) sources: Vec<Source>,
    pub(super) directory: Option<Arc<Directory>>,
}

/// The listeners that tables are for.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// The configuration, with every listener that there has been, by number.
    pub config: BrokerConfig,
    /// The numbers of those that are gone; who came by them goes by what was read last.
    pub gone: Vec<usize>,
}

impl Listeners {
    /// Those of a configuration, none of which is gone.
    pub fn of(config: &BrokerConfig) -> Self {
        Self { config: config.clone(), gone: Vec::new() }
    }

    /// Lists those that are there.
    pub(super) fn present(&self) -> impl Iterator<Item = &ListenerConfig> {
        let numbered = self.config.listeners.iter().enumerate();
        numbered.filter(|(number, _)| !self.gone.contains(number)).map(|(_, listener)| listener)
    }
}

/// What was read before.
#[derive(Default)]
pub(super) struct Earlier<'a> {
    pub(super) users: &'a [Users],
    pub(super) sources: &'a [Source],
    pub(super) directory: Option<&'a Directory>,
    pub(super) vouchers: Option<&'a Vouchers>,
}

/// What the table of one listener, or of all, is made of.
#[derive(Clone)]
pub(super) struct Source {
    own: ListenerAccessConfig,
    has_passwords: bool,
    /// Those of a file.
    rules: Option<Rules>,
}

impl Tables {
    /// Reads all files. Users, clients and groups that were there `earlier` and have not changed stay who they are; of listeners that are
    /// gone nothing is read again.
    pub(super) fn read(listeners: &Listeners, earlier: &Earlier<'_>) -> Result<Self, AccessError> {
        let config = &listeners.config;
        let tokens = earlier.vouchers.and_then(|vouchers| vouchers.tokens.as_deref());
        let hook = earlier.vouchers.and_then(|vouchers| vouchers.hook.as_deref());
        let vouchers = Vouchers {
            tokens: Tokens::read(&config.access.jwt, tokens)?.map(Arc::new),
            hook: Hook::read(config, hook)?.map(Arc::new),
        };
        let directory = match &config.access.dynamic_security_file {
            Some(path) => Some(Arc::new(read_directory(path, earlier.directory)?)),
            None => None,
        };
        let nobody = Users::default();
        let mut users = Vec::new();
        let mut sources = Vec::new();
        for (index, own) in accesses(config).into_iter().enumerate() {
            let before = earlier.users.get(index).or(earlier.users.first()).unwrap_or(&nobody);
            match earlier.sources.get(index).filter(|_| listeners.gone.contains(&index)) {
                Some(source) => {
                    users.push(source.users(before, before, directory.as_deref()));
                    sources.push(source.clone());
                }
                None => {
                    let (source, known) = Source::read(config, own, before)?;
                    users.push(source.users(&known, before, directory.as_deref()));
                    sources.push(source);
                }
            }
        }
        let passwords = sources.iter().map(Source::passwords).collect();
        let access = access(config, &sources, &users, &vouchers, directory.as_deref())?;
        let vouchers = sources.iter().map(|source| source.vouchers(&vouchers)).collect();
        Ok(Self { access, users, passwords, vouchers, sources, directory })
    }
}

/// Returns the tables and users for other clients, groups and roles, all else being as it is.
pub(super) fn with_directory(
    config: &BrokerConfig,
    sources: &[Source],
    users: &[Users],
    vouchers: &Vouchers,
    directory: &Directory,
) -> Result<(AccessTables, Vec<Users>), AccessError> {
    let pairs = sources.iter().zip(users);
    let users: Vec<_> = pairs.map(|(source, users)| source.users(users, users, Some(directory))).collect();
    Ok((access(config, sources, &users, vouchers, Some(directory))?, users))
}

/// Lists who may connect and what clients may do: for all listeners, or, if that differs, for each.
fn accesses(config: &BrokerConfig) -> Vec<ListenerAccessConfig> {
    let common = config.access_of_listeners();
    match config.listeners.iter().any(|listener| listener.access.is_some()) {
        true => {
            let own = config.listeners.iter().map(|listener| listener.access.as_ref());
            own.map(|access| access.unwrap_or(&common).clone()).collect()
        }
        false => vec![common],
    }
}

fn read_directory(path: &Path, earlier: Option<&Directory>) -> Result<Directory, AccessError> {
    let mut directory = Directory::read(path)?;
    if let Some(earlier) = earlier {
        directory.keep_seats(earlier);
    }
    Ok(directory)
}

fn access(
    config: &BrokerConfig,
    sources: &[Source],
    users: &[Users],
    vouchers: &Vouchers,
    directory: Option<&Directory>,
) -> Result<AccessTables, AccessError> {
    let by_roles = directory.map(|directory| Rules::by_roles(directory.roles()));
    let pairs = sources.iter().zip(users);
    let mut tables = pairs
        .map(|(source, users)| source.access(config, users, &source.vouchers(vouchers), by_roles.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    // One table is for whatever listeners there are.
    Ok(match tables.len() {
        1 => tables.remove(0).into(),
        _ => tables.into(),
    })
}

impl Source {
    fn read(
        config: &BrokerConfig,
        own: ListenerAccessConfig,
        earlier: &Users,
    ) -> Result<(Self, Users), AccessError> {
        let users = own.password_file.as_ref().map(|path| Users::read(path, earlier)).transpose()?;
        let (file, mosquitto_file) = (own.acl_file.as_ref(), own.mosquitto_acl_file.as_ref());
        let rules = rules_file::read(file, mosquitto_file, config.acl.subscribe)?;
        let has_passwords = users.is_some() || own.dynamic_security;
        Ok((Self { own, has_passwords, rules }, users.unwrap_or_default()))
    }

    /// Returns the users with those that are administered, if they may connect here.
    fn users(&self, known: &Users, earlier: &Users, directory: Option<&Directory>) -> Users {
        match directory.filter(|_| self.own.dynamic_security) {
            Some(directory) => known.with_others(directory.credentials(), earlier),
            None => known.with_others(std::iter::empty(), earlier),
        }
    }

    /// Returns where passwords are from, and whether they may be hashed anew there.
    fn passwords(&self) -> Option<PasswordSource> {
        let path = self.own.password_file.clone()?;
        Some(PasswordSource { path, is_rehashed: self.own.rehash })
    }

    /// Returns who vouches for users here.
    fn vouchers(&self, all: &Vouchers) -> Vouchers {
        Vouchers {
            tokens: all.tokens.clone().filter(|_| self.own.jwt),
            hook: all.hook.clone().filter(|_| self.own.http),
        }
    }

    fn access(
        &self,
        config: &BrokerConfig,
        users: &Users,
        vouchers: &Vouchers,
        by_roles: Option<&Rules>,
    ) -> Result<Access, AccessError> {
        Ok(Access {
            anonymous: self.own.anonymous,
            users: self.has_passwords.then(|| users.stamps()),
            authorities: vouchers.authorities(),
            authorities_bring_rules: vouchers.hook.is_some(),
            authorities_name_users: vouchers.tokens.is_some(),
            rules: by_roles.filter(|_| self.own.dynamic_security).or(self.rules.as_ref()).cloned(),
            policies: policies::policies(&config.e2e)?,
            tells_bad_credentials: config.access.bad_credentials == BadCredentials::BadUserNameOrPassword,
            controls: ControlTopics {
                dynamic_security: self.own.dynamic_security,
                broker: config.access.control_api,
            },
        })
    }
}
