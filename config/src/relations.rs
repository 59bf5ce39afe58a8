//! What must hold between options, and who set each of them.

use std::collections::HashSet;

use crate::access::ListenerAccessConfig;
use crate::address::ListenAddress;
use crate::broker_config::{BrokerConfig, ListenerProtocol, Mode};
use crate::e2e::{E2eDistribution, E2ePolicyConfig};
use crate::error::{ConfigError, Fault, Origin};
use crate::named::{Named, Outside};
use crate::options::{LISTENERS, OptionSpec};
use crate::storage::Durability;
use crate::tls::{CertificateIdentity, ListenerTlsConfig};
use crate::value::Given;

const TRUSTED: &str = "listeners[].proxy_protocol.trusted";

/// Who set each option, and to what; an option nobody set has its default.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The later ones count.
    set: Vec<Said>,
}

/// That an option was set.
#[derive(Debug, Clone)]
struct Said {
    key: &'static str,
    /// In which table of each list that the key goes through, counted from 0.
    place: Vec<usize>,
    origin: Origin,
    value: String,
    /// What it names outside of the configuration.
    outside: Vec<Outside>,
}

/// An option with its number, as far as relations need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    key: &'static str,
    number: u64,
}

impl Setting {
    pub(crate) fn new(key: &'static str, number: impl Into<u64>) -> Self {
        Self { key, number: number.into() }
    }
}

impl Known {
    /// Notes that a later layer set the option, in these tables of the lists that its key goes through.
    pub(crate) fn set(&mut self, key: &'static str, place: &[usize], origin: Origin, value: &impl ToString) {
        let (place, value) = (place.to_vec(), value.to_string());
        self.set.push(Said { key, place, origin, value, outside: Vec::new() });
    }

    /// Notes the same of an option with a value that was checked.
    pub(crate) fn set_option(&mut self, spec: &OptionSpec, place: &[usize], origin: Origin, given: &Given) {
        let (key, place, value) = (spec.key, place.to_vec(), given.to_string());
        self.set.push(Said { key, place, origin, value, outside: Outside::all(spec, given) });
    }

    /// Returns what is named outside of the configuration, and where.
    pub(crate) fn named(&self) -> Vec<Named> {
        let mut replaced = HashSet::new();
        let in_force = self.set.iter().rev().filter(|said| replaced.insert((said.key, &said.place)));
        let mut named: Vec<Named> = in_force
            .flat_map(|said| {
                let at = |outside: &Outside| Named {
                    origin: said.origin.clone(),
                    option: said.key.to_owned(),
                    outside: outside.clone(),
                };
                said.outside.iter().rev().map(at)
            })
            .collect();
        named.reverse();
        named
    }

    /// Forgets the tables of a list, such as `listeners[]`, which a later layer replaces.
    pub(crate) fn forget(&mut self, list: &str) {
        self.set.retain(|said| said.key.split_once('.').is_none_or(|(first, _)| first != list));
    }

    /// Returns what is known where only one table of each list is looked at.
    pub(crate) fn within(&self, place: &[usize]) -> Self {
        let is_there = |said: &&Said| said.place.iter().zip(place).all(|(said, looked_at)| said == looked_at);
        Self { set: self.set.iter().filter(is_there).cloned().collect() }
    }

    fn said(&self, key: &str) -> Option<&Said> {
        self.set.iter().rfind(|said| said.key == key)
    }

    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.said(key).map_or(Origin::Default, |said| said.origin.clone())
    }

    /// The value that was set, as it was given.
    pub(crate) fn value(&self, key: &str) -> String {
        self.said(key).map(|said| said.value.clone()).unwrap_or_default()
    }

    /// Requires `upper >= lower + margin`.
    pub(crate) fn at_least(
        &self,
        upper: Setting,
        lower: Setting,
        margin: u64,
        reason: &str,
    ) -> Result<(), ConfigError> {
        let least = lower.number.saturating_add(margin);
        if upper.number >= least {
            return Ok(());
        }
        Err(ConfigError::new(
            self.origin(upper.key),
            Fault::Relation {
                key: upper.key,
                value: upper.number.to_string(),
                allowed: format!("at least {least}"),
                because: format!("{} is {} ({}): {reason}", lower.key, lower.number, self.origin(lower.key)),
            },
        ))
    }

    /// Checks every relation of a configuration whose values are each in range.
    pub(crate) fn check(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        config.limits.check(self)?;
        self.interval_belongs_to_durability(config)?;
        self.relaxed_topics_are_relaxed(config)?;
        self.listeners_promise_what_the_broker_keeps(config)?;
        self.addresses_are_distinct(config)?;
        self.one_file_has_the_rules(config)?;
        self.one_file_has_the_rules_of_a_listener(config)?;
        self.roles_are_the_only_rules(config)?;
        self.tokens_have_keys(config)?;
        self.a_service_is_named(config)?;
        self.members_are_written_by_their_issuers(config)?;
        self.listeners_fit_their_addresses(config)?;
        self.listeners_fit_their_protocols(config)?;
        config.check_tls(self)?;
        config.check_bridges(self)?;
        match config.mode {
            Mode::Development => self.development_stays_on_loopback(config),
            Mode::Configured => self.somebody_may_connect(config),
            // Mosquitto starts all the same, and refuses everybody.
            Mode::Mosquitto => Ok(()),
        }
    }

    fn interval_belongs_to_durability(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        const KEY: &str = "storage.interval_milliseconds";
        let Some(Said { origin, value, .. }) = self.said(KEY) else { return Ok(()) };
        if matches!(config.storage.durability, Durability::Interval { .. }) {
            return Ok(());
        }
        Err(ConfigError::new(
            origin.clone(),
            Fault::Relation {
                key: KEY,
                value: value.clone(),
                allowed: "no value".to_owned(),
                because: format!(
                    "storage.durability is not \"interval\" ({})",
                    self.origin("storage.durability")
                ),
            },
        ))
    }

    /// Nothing is more durable on a listener than the broker keeps it, and saying that it is less so means nothing then.
    fn listeners_promise_what_the_broker_keeps(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        const KEY: &str = "listeners[].durability";
        let given = config.listeners.iter().position(|listener| listener.durability.is_some());
        let Some(index) = given.filter(|_| config.storage.durability != Durability::Commit) else {
            return Ok(());
        };
        let listener = self.within(&[index]);
        Err(ConfigError::new(
            listener.origin(KEY),
            Fault::Relation {
                key: KEY,
                value: listener.value(KEY),
                allowed: "no value".to_owned(),
                because: format!(
                    "storage.durability is not \"commit\" ({})",
                    self.origin("storage.durability")
                ),
            },
        ))
    }

    /// A list of topics whose messages are kept less durably must not name a class that all messages have, or a better one.
    fn relaxed_topics_are_relaxed(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        let storage = &config.storage;
        let (is_commit, is_memory) =
            (storage.durability == Durability::Commit, storage.durability == Durability::Memory);
        let lists = [
            ("storage.interval_topics", &storage.interval_topics, is_commit),
            ("storage.memory_topics", &storage.memory_topics, !is_memory),
        ];
        for (key, topics, is_allowed) in lists {
            if !topics.is_empty() && !is_allowed {
                return Err(ConfigError::new(
                    self.origin(key),
                    Fault::Relation {
                        key,
                        value: format!("{topics:?}"),
                        allowed: "no topic".to_owned(),
                        because: format!(
                            "storage.durability promises no more than that for any topic ({})",
                            self.origin("storage.durability")
                        ),
                    },
                ));
            }
        }
        Ok(())
    }

    fn one_file_has_the_rules(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        let (Some(path), Some(_)) = (&config.acl.mosquitto_file, &config.acl.file) else { return Ok(()) };
        Err(ConfigError::new(
            self.origin("acl.mosquitto_file"),
            Fault::Relation {
                key: "acl.mosquitto_file",
                value: format!("{path:?}"),
                allowed: "no value".to_owned(),
                because: format!("acl.file has the rules ({})", self.origin("acl.file")),
            },
        ))
    }

    fn one_file_has_the_rules_of_a_listener(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        const KEY: &str = "listeners[].access.mosquitto_acl_file";
        let has_both =
            |access: &ListenerAccessConfig| access.acl_file.is_some() && access.mosquitto_acl_file.is_some();
        match accesses(config).find(|(_, access)| has_both(access)) {
            None => Ok(()),
            Some((index, _)) => {
                let because = "listeners[].access.acl_file has the rules".to_owned();
                Err(self.within(&[index]).refuse_value(KEY, because))
            }
        }
    }

    /// Rules of a file would leave roles without any meaning.
    fn roles_are_the_only_rules(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        const FILE: &str = "access.dynamic_security_file";
        const OWN: &str = "listeners[].access.dynamic_security";
        for (index, access) in accesses(config).filter(|(_, access)| access.dynamic_security) {
            let listener = self.within(&[index]);
            if access.acl_file.is_some() || access.mosquitto_acl_file.is_some() {
                return Err(listener.refuse_value(OWN, "a file has the rules of that listener".to_owned()));
            }
            if config.access.dynamic_security_file.is_none() {
                return Err(listener.refuse_value(OWN, format!("{FILE} is not given")));
            }
        }
        if config.access.dynamic_security_file.is_none() {
            return Ok(());
        }
        let files = [("acl.file", &config.acl.file), ("acl.mosquitto_file", &config.acl.mosquitto_file)];
        match files.into_iter().find(|(_, file)| file.is_some()) {
            None => Ok(()),
            Some((other, _)) => {
                Err(self.refuse_value(FILE, format!("{other} has the rules ({})", self.origin(other))))
            }
        }
    }

    fn tokens_have_keys(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        let takes_tokens = accesses(config).find(|(_, access)| access.jwt);
        match takes_tokens.filter(|_| !config.access.jwt.is_on()) {
            Some((index, _)) => Err(self.within(&[index]).refuse_value(
                "listeners[].access.jwt",
                "neither access.jwt.jwks_file nor access.jwt.key_files is given".to_owned(),
            )),
            None => Ok(()),
        }
    }

    fn a_service_is_named(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        const URL: &str = "access.http.url";
        if config.access.http.url.is_some() {
            return Ok(());
        }
        if let Some((index, _)) = accesses(config).find(|(_, access)| access.http) {
            let because = format!("{URL} is not given");
            return Err(self.within(&[index]).refuse_value("listeners[].access.http", because));
        }
        match config.access.http.renew_url {
            Some(_) => Err(self.refuse_value("access.http.renew_url", format!("{URL} is not given"))),
            None => Ok(()),
        }
    }

    fn addresses_are_distinct(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        let mut taken: Vec<Listening<'_>> = Vec::new();
        for listening in addresses(config) {
            let Listening { key, address, interface, .. } = &listening;
            let is_same = |other: &&Listening<'_>| {
                other.address == *address && other.interface == *interface && !address.is_any()
            };
            if let Some(other) = taken.iter().find(is_same) {
                return Err(ConfigError::new(
                    self.within(&listening.place).origin(key),
                    Fault::Relation {
                        key,
                        value: format!("\"{address}\""),
                        allowed: "an address nobody else uses".to_owned(),
                        because: if other.key == *key {
                            "it is listed twice".to_owned()
                        } else {
                            format!(
                                "{} is the same ({})",
                                other.key,
                                self.within(&other.place).origin(other.key)
                            )
                        },
                    },
                ));
            }
            taken.push(listening);
        }
        Ok(())
    }

    /// A Unix socket has permissions, and only addresses of TCP can be trusted or not.
    fn listeners_fit_their_addresses(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        for (index, listener) in config.listeners.iter().enumerate() {
            let known = self.within(&[index]);
            let is_unix = listener.address.unix().is_some();
            if listener.mode.is_some() && !is_unix {
                return Err(
                    known.refuse_value("listeners[].mode", format!("{} is no Unix socket", listener.address))
                );
            }
            let trusted = listener.proxy_protocol.as_ref().map(|proxy| &proxy.trusted);
            if trusted.is_some_and(|trusted| trusted.is_empty() != is_unix) {
                let because = match is_unix {
                    true => "whoever may write to a Unix socket is trusted; an empty list is allowed",
                    false => "nobody could connect; name the addresses of the proxies",
                };
                return Err(known.refuse_value(TRUSTED, because.to_owned()));
            }
        }
        Ok(())
    }

    /// What has no MQTT has nothing of what belongs to it, and files are for HTTP.
    fn listeners_fit_their_protocols(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        for (index, listener) in config.listeners.iter().enumerate() {
            let known = self.within(&[index]);
            let is_http = listener.protocol == ListenerProtocol::HttpApi;
            if listener.http_directory.is_some() && !is_http {
                let because =
                    "only a listener with listeners[].protocol \"http_api\" serves files".to_owned();
                return Err(known.refuse_value("listeners[].http_directory", because));
            }
            if is_http && (listener.address.unix().is_some() || listener.proxy_protocol.is_some()) {
                let because = "the HTTP API is served over TCP, without PROXY headers".to_owned();
                return Err(known.refuse_value("listeners[].protocol", because));
            }
        }
        Ok(())
    }

    /// Elsewhere whoever likes could write a wrap for themselves.
    fn members_are_written_by_their_issuers(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        const KEY: &str = "e2e.distribution";
        const MEMBERS_ONLY: &str = "e2e.policies[].members_only";
        let asking = config.e2e.policies.iter().position(E2ePolicyConfig::asks_for_members);
        let Some(index) = asking.filter(|_| config.e2e.distribution() != E2eDistribution::Enforce) else {
            return Ok(());
        };
        let because = format!(
            "{MEMBERS_ONLY} is true ({}) and goes by wraps, which have no signature",
            self.within(&[index]).origin(MEMBERS_ONLY)
        );
        let (value, allowed) = (self.value(KEY), "\"enforce\"".to_owned());
        Err(ConfigError::new(self.origin(KEY), Fault::Relation { key: KEY, value, allowed, because }))
    }

    fn refuse_value(&self, key: &'static str, because: String) -> ConfigError {
        let (value, allowed) = (self.value(key), "no such value".to_owned());
        ConfigError::new(self.origin(key), Fault::Relation { key, value, allowed, because })
    }

    /// Anonymous clients and trust by introduction are only tolerable while nobody else can reach the broker.
    fn development_stays_on_loopback(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        let Some(Listening { key, place, address, .. }) =
            addresses(config).find(|listening| !listening.address.is_local())
        else {
            return Ok(());
        };
        Err(ConfigError::new(
            self.within(&place).origin(key),
            Fault::Relation {
                key,
                value: format!("\"{address}\""),
                allowed: "a loopback address".to_owned(),
                because:
                    "without a configuration file (-c FILE) the broker can be reached from this machine only"
                        .to_owned(),
            },
        ))
    }

    fn somebody_may_connect(&self, config: &BrokerConfig) -> Result<(), ConfigError> {
        let has_users = |tls: &ListenerTlsConfig| tls.identity != CertificateIdentity::None;
        let has_certified_users =
            config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).any(has_users);
        let may_connect = |access: &ListenerAccessConfig| {
            access.anonymous
                || access.password_file.is_some()
                || access.dynamic_security
                || access.jwt
                || access.http
        };
        if accesses(config).any(|(_, access)| may_connect(access))
            || config.access.anonymous
            || config.access.password_file.is_some()
            || config.access.dynamic_security_file.is_some()
            || config.access.jwt.is_on()
            || config.access.http.url.is_some()
            || config.veil.enabled
            || has_certified_users
        {
            return Ok(());
        }
        Err(ConfigError::new(
            self.origin("veil.enabled"),
            Fault::Relation {
                key: "veil.enabled",
                value: "false".to_owned(),
                allowed: "true".to_owned(),
                because: format!(
                    "access.anonymous is false ({}): no client could connect",
                    self.origin("access.anonymous")
                ),
            },
        ))
    }
}

/// Returns what listeners have of their own about who may connect, with the place of each in the list.
fn accesses(config: &BrokerConfig) -> impl Iterator<Item = (usize, &ListenerAccessConfig)> {
    let listeners = config.listeners.iter().enumerate();
    listeners.filter_map(|(index, listener)| Some((index, listener.access.as_ref()?)))
}

/// Where something listens.
struct Listening<'a> {
    /// The option that says so.
    key: &'static str,
    place: Vec<usize>,
    address: ListenAddress,
    /// The network interface that it is bound to.
    interface: Option<&'a str>,
}

/// Lists where something listens.
fn addresses(config: &BrokerConfig) -> impl Iterator<Item = Listening<'_>> {
    let listeners = config.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| Listening {
        key: LISTENERS,
        place: vec![index],
        address: listener.address.clone(),
        interface: listener.interface.as_deref(),
    });
    let admin = config.admin.address.map(|address| Listening {
        key: "admin.address",
        place: Vec::new(),
        address: address.into(),
        interface: None,
    });
    listeners.chain(admin)
}
