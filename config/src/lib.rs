//! Typed configuration of the broker: layers, defaults, ranges, relations, precise errors.
//!
//! Layers, each over the one before: built-in defaults, the TOML file, environment variables
//! `VEILMQ__SECTION__KEY` (or `VEILMQ__SECTION__KEY_FILE`, whose value is read from that file), the command line.
//! The crate opens no socket and keeps no key; it refuses every key it does not know, and end-to-end keys by name.
//!
//! Invariant: a [`BrokerConfig`] returned by [`BrokerConfig::load`] is within every range of [`OPTIONS`] and every
//! relation between options holds, so nobody checks again. `docs/configuration.md` is tested against [`OPTIONS`].
//!
//! ```
//! use veilmq_config::{BrokerConfig, Mode, Overrides, Sources};
//!
//! let config = BrokerConfig::load(Sources {
//!     file: None,
//!     overrides: Overrides { ports: vec![2883], ..Overrides::default() },
//!     environment: [("HOME".to_owned(), "/home/you".to_owned())],
//! })?;
//! assert_eq!(config.mode, Mode::Development);
//! assert!(config.listeners.iter().all(|listener| listener.address.is_local()));
//! # Ok::<(), veilmq_config::ConfigError>(())
//! ```

mod access;
mod address;
mod bridge;
mod broker_config;
mod document;
mod e2e;
mod environment;
mod error;
mod http;
mod jwt;
mod kind;
mod limits;
mod load;
mod mosquitto;
mod mqtt;
mod named;
mod options;
mod proxy;
mod rates;
mod relations;
mod reload;
mod storage;
mod tls;
mod unknown;
mod value;
mod veil;

pub use access::{AccessConfig, AclConfig, AclSubscribe, BadCredentials, BansConfig, ListenerAccessConfig};
pub use address::{FileMode, ListenAddress, NoListenAddress};
pub use bridge::{
    BridgeConfig, BridgeDirection, BridgeNotifications, BridgePassword, BridgeProtocol, BridgeReload,
    BridgeStart, BridgeTlsConfig, BridgeTopicConfig, NoRemoteAddress, RemoteAddress, TcpKeepAliveConfig,
};
pub use broker_config::{
    AdminConfig, BrokerConfig, ListenerConfig, ListenerDurability, ListenerProtocol, LogConfig, LogFormat,
    LogLevel, Mode, MosquittoConfig, ProcessConfig, ShardsConfig, SysConfig, SyslogFacility,
};
pub use e2e::{E2eChannel, E2eConfig, E2eDistribution, E2eFormat, E2eMode, E2ePolicyConfig};
pub use environment::process_environment;
pub use error::{ConfigError, Fault, InMosquitto, Origin};
pub use http::{HttpAccessConfig, HttpFailure, HttpFormat, HttpUrl, NoHttpUrl};
pub use jwt::JwtConfig;
pub use kind::Kind;
pub use limits::LimitsConfig;
pub use load::{Overrides, Sources};
pub use mosquitto::{
    Fate, MosquittoOption, Note, Scope, Strictness, import_mosquitto, is_mosquitto_file, mosquitto_options,
};
pub use mqtt::{ListenerMqttConfig, MqttConfig, MqttVersion};
pub use named::{Named, Outside};
pub use options::{OPTIONS, OptionSpec};
pub use proxy::{Network, NoNetwork, ProxiedTls, ProxyIdentity, ProxyProtocolConfig};
pub use rates::RatesConfig;
pub use reload::Reload;
pub use storage::{Durability, StorageConfig};
pub use tls::{
    CertificateConfig, CertificateIdentity, ClientCertificate, ListenerTlsConfig, TlsConfig, TlsVersion,
};
pub use veil::{FanOut, PaperMode, Scheme, Suite, VeilConfig};
