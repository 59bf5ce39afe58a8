//! The options `veil pub` and `veil sub` share: where to connect, as whom, and with which keys.

use std::{path::PathBuf, sync::Arc};

use clap::{ArgAction, Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;
use veilmq_client::{
    Builder, Client, QoS, Tls, TlsError, TopicName, Will,
    e2e::{
        ArticleKey, ArticleKeys, Directory, EnvelopeOptions, EpochTiming, Keyring, MasterSecret, Padding,
        Scope, ScopeConfig, SenderPolicy,
    },
    identity,
};
use veilmq_protocol::veil::{
    Roles, Scheme, Schemes, Suite,
    channel::{Identity, Secret32, TrustAnchors},
    distribution::DistributionTopic,
};

use crate::{
    failure::Failure, format::unix_ms, keys::Keys, pairs::Pairs, properties::Given, secret, topic::TopicKeys,
};

pub(crate) const EXIT_STATUSES: &str = "Exit status: 0 on success; the Reason Code (128 to 255) if the broker \
    refuses the connection or subscription; 27 if -W runs out; 1 for any other error.";

/// The epoch of a master secret unless `--epoch` says otherwise.
const FIRST_EPOCH: u32 = 1;

#[derive(Args)]
pub(crate) struct Connection {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The broker's host
    #[arg(short = 'h', long, default_value = "localhost")]
    pub(crate) host: String,
    /// The broker's port
    #[arg(short = 'p', long, default_value_t = 1883)]
    pub(crate) port: u16,
    /// Client identifier [default: the subject of the identity, or chosen by the broker]
    #[arg(short = 'i', long)]
    id: Option<String>,
    /// User name
    #[arg(short = 'u', long)]
    username: Option<String>,
    /// Password; better given in the environment, where other users cannot see it
    #[arg(short = 'P', long = "pw", env = "VEIL_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Keep alive in seconds
    #[arg(short = 'k', long = "keepalive", default_value_t = 60)]
    keep_alive: u16,
    /// Keep the session: do not start clean (needs -i or --identity)
    #[arg(short = 'c', long)]
    disable_clean_session: bool,
    /// Session expiry in seconds, or -1 for never [default: -1 with -c, else 0]
    #[arg(short = 'x', long, value_name = "SECONDS", allow_negative_numbers = true)]
    session_expiry_interval: Option<i64>,
    /// Protocol version; this program speaks mqttv5 only
    #[arg(short = 'V', long = "protocol-version", value_parser = protocol_version, default_value = "mqttv5")]
    protocol_version: OnlyVersion5,
    /// MQTT 5 property: connect|publish|will PROPERTY VALUE (or: user-property NAME VALUE)
    #[arg(short = 'D', long = "property", num_args = 3..=4, value_names = ["PACKET", "PROPERTY", "VALUE"])]
    properties: Vec<String>,
    /// Topic of the will
    #[arg(long)]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, requires = "will_topic")]
    will_payload: Option<String>,
    /// QoS of the will
    #[arg(long, requires = "will_topic", value_parser = qos, default_value = "0")]
    will_qos: QoS,
    /// Make the will a retained message
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// Print what the client does on standard error
    #[arg(short = 'd', long)]
    debug: bool,
    /// Do not print progress and warnings on standard error
    #[arg(long)]
    pub(crate) quiet: bool,

    /// File with the authorities to believe (PEM); connects over TLS
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cafile: Option<PathBuf>,
    /// Certificate to show to the broker (PEM)
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "cafile", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "cert")]
    key: Option<PathBuf>,
    /// Name the broker's certificate must carry [default: the host]
    #[arg(long, value_name = "NAME", help_heading = "TLS", requires = "cafile")]
    tls_name: Option<String>,

    /// Who this client is: NAME of NAME.vmc and NAME.key, or a folder with one such pair
    #[arg(long, value_name = "DIR_OR_FILE", help_heading = "VEIL-1")]
    identity: Option<PathBuf>,
    /// Certificate of an authority, or of the broker itself, to trust (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "VEIL-1")]
    trust: Vec<PathBuf>,
    /// The name the broker's certificate must carry
    #[arg(long, value_name = "NAME", help_heading = "VEIL-1", requires = "identity")]
    broker_name: Option<String>,
    /// Also encrypt every packet on the way to the broker, not only authenticate it
    #[arg(long, help_heading = "VEIL-1", requires = "identity")]
    encrypt_channel: bool,
    /// Connect as an ordinary MQTT client although there is an identity
    #[arg(long, help_heading = "VEIL-1", requires = "identity", conflicts_with = "encrypt_channel")]
    no_channel: bool,
    /// Scheme of the channel, 1 to 4: 1 leaves everything after CONNECT plain, 2 encrypts every packet, 3 encrypts messages once for
    /// all subscribers, 4 authenticates every packet [default: 4 or 2, as the broker prefers]
    #[arg(
        long,
        value_name = "N",
        value_parser = scheme,
        help_heading = "VEIL-1",
        requires = "identity",
        conflicts_with_all = ["encrypt_channel", "no_channel"]
    )]
    scheme: Option<Scheme>,
    /// Follow the paper to the letter in that scheme; the broker must serve it, see veil.paper_modes (weakenings)
    #[arg(long, help_heading = "VEIL-1", requires = "scheme", conflicts_with = "suite")]
    paper: bool,

    /// Topic filter whose messages are sealed end to end
    #[arg(long, value_name = "FILTER", help_heading = "End to end", requires = "master_key")]
    scope: Option<String>,
    /// File with the master secret of the scope (make one with `veil key new`)
    #[arg(long, value_name = "FILE", help_heading = "End to end", requires = "scope")]
    master_key: Option<PathBuf>,
    /// Epoch of the master secret
    #[arg(long, value_name = "N", help_heading = "End to end", requires = "scope", default_value_t = FIRST_EPOCH)]
    epoch: u32,
    /// Suite to seal with; all are accepted when reading
    #[arg(long, value_enum, help_heading = "End to end", requires = "scope", default_value = "aes-256-gcm")]
    suite: SuiteName,
    /// Sign what is published, so that readers know the sender (needs --identity)
    #[arg(long, help_heading = "End to end", requires = "identity")]
    sign: bool,
    /// Certificate of a sender; with any, only messages that one of these has signed are accepted (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "End to end", requires = "scope")]
    sender: Vec<PathBuf>,
    /// Use the article's format: JSON, encrypted but not authenticated
    #[arg(long, help_heading = "End to end", requires = "scope", conflicts_with_all = ["sign", "sender", "suite", "epoch"])]
    article: bool,
    /// The key file holds the AES-256 key itself, not a master secret
    #[arg(long, help_heading = "End to end", requires = "article")]
    raw: bool,
    /// Put a sequence number into every JSON object
    #[arg(long, help_heading = "End to end", requires = "article")]
    number: bool,
    /// File with the key that was in use before; accepted for --transition seconds from now
    #[arg(long, value_name = "FILE", help_heading = "End to end", requires = "article")]
    previous_key: Option<PathBuf>,
    /// How long the previous key is accepted
    #[arg(
        long,
        value_name = "SECONDS",
        help_heading = "End to end",
        requires = "previous_key",
        default_value_t = 600
    )]
    transition: u64,
    /// File with a master secret of the article's format; what is published is published in it too, on TOPIC/legacy
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "End to end",
        requires = "scope",
        conflicts_with = "article"
    )]
    legacy_key: Option<PathBuf>,
    /// Accept messages under earlier keys too, which a session that was away over a change of keys (-c) has waiting for it; a
    /// member that was removed meanwhile can still make such messages
    #[arg(long, help_heading = "End to end")]
    backlog: bool,
    /// Say when each message was sealed
    #[arg(long, help_heading = "End to end")]
    timestamp: bool,
    /// Hide the lengths of messages: 64, 128, 256 bytes and so on
    #[arg(long, help_heading = "End to end")]
    pad: bool,
    /// Show the broker tokens in place of the topics of every scope given here; their keys come from --topic-key, or from the
    /// master secret
    #[arg(long, help_heading = "Blind topics", conflicts_with_all = ["article", "legacy_key"])]
    blind: bool,
    #[command(flatten)]
    topics: TopicKeys,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

/// The only version there is a client for.
#[derive(Clone, Copy)]
struct OnlyVersion5;

#[derive(Clone, Copy, ValueEnum)]
enum SuiteName {
    #[value(name = "aes-256-cbc-hmac-sha-256")]
    Aes256CbcHmacSha256,
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl SuiteName {
    const fn suite(self) -> Suite {
        match self {
            Self::Aes256CbcHmacSha256 => Suite::Aes256CbcHmacSha256,
            Self::Aes256Gcm => Suite::Aes256Gcm,
            Self::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        }
    }
}

impl Connection {
    /// Reads keys and certificates and describes the client; nothing is sent yet.
    pub(crate) fn builder(&self, given: &Given, pairs: &Pairs) -> Result<Builder, Failure> {
        self.start_logging();
        if !pairs.is_any() {
            self.check_scopes()?;
        }
        let mut builder = Client::builder(&self.host, self.port)
            .keep_alive_seconds(self.keep_alive)
            .clean_start(!self.disable_clean_session)
            .session_expiry_seconds(self.session_expiry(given)?);
        if let Some(id) = &self.id {
            builder = builder.client_id(id);
        } else if self.disable_clean_session && self.identity.is_none() {
            return Err(Failure::new("-c needs a client identifier: give -i or --identity"));
        }
        if let Some(username) = &self.username {
            builder = builder.username(username);
        }
        if let Some(password) = &self.password {
            builder = builder.password(password.as_bytes());
        }
        if let Some(maximum) = given.connect.receive_maximum {
            builder = builder.receive_maximum(maximum);
        }
        if let Some(maximum) = given.connect.packet_bytes_max {
            builder = builder.packet_bytes_max(maximum);
        }
        for (name, value) in &given.connect.user {
            builder = builder.user_property(name, value);
        }
        if let Some(will) = self.will(given) {
            builder = builder.will(will);
        }
        if let Some(tls) = self.tls()? {
            builder = builder.tls(tls);
        }
        let builder = self.with_scope(self.with_channel(builder)?)?;
        let builder = pairs.add_to(builder, &self.envelopes(), self.paper);
        self.with_blind_topics(self.keys.add_to(builder, &self.envelopes())?)
    }

    /// Refuses options that would do nothing, since there is no scope that they could concern.
    fn check_scopes(&self) -> Result<(), Failure> {
        let options = [
            ("--sign", self.sign),
            ("--timestamp", self.timestamp),
            ("--pad", self.pad),
            ("--backlog", self.backlog),
            ("--require-signatures", self.keys.requires_signatures()),
        ];
        match options.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) if self.scopes().next().is_none() => Err(Failure::new(format!(
                "{option} needs a scope: give --scope, --join or --issue, or --to or --from"
            ))),
            _ => Ok(()),
        }
    }

    /// The scopes of end-to-end encryption.
    fn scopes(&self) -> impl Iterator<Item = &String> {
        self.scope.iter().chain(self.keys.scopes())
    }

    /// Refuses a topic that lies in none of the scopes that were given: its messages would go in the clear.
    pub(crate) fn check_is_sealed(&self, topic: &str) -> Result<(), Failure> {
        let name = TopicName::new(topic).map_err(|error| Failure::new(format!("-t {topic:?}: {error}")))?;
        let mut scopes = self.scopes().peekable();
        if scopes.peek().is_none() || topic.starts_with(DistributionTopic::PREFIX) {
            return Ok(());
        }
        let is_sealed = |filter: &String| Scope::new(filter).is_ok_and(|scope| scope.contains(name));
        if scopes.any(is_sealed) {
            return Ok(());
        }
        let scopes: Vec<&str> = self.scopes().map(String::as_str).collect();
        Err(Failure::new(format!(
            "{topic} is in none of the scopes {}: its messages would go in the clear; give no scope if that is meant",
            scopes.join(", ")
        )))
    }

    /// Who this client is, if it says so.
    pub(crate) fn identity(&self) -> Result<Option<Arc<Identity>>, Failure> {
        Ok(self.identity.as_deref().map(identity::load).transpose()?.map(Arc::new))
    }

    /// Whose certificates count.
    pub(crate) fn anchors(&self) -> Result<TrustAnchors, Failure> {
        let mut anchors = TrustAnchors::new();
        for path in &self.trust {
            identity::add_anchor(&mut anchors, path)?;
        }
        Ok(anchors)
    }

    pub(crate) fn given(&self) -> Result<Given, Failure> {
        Given::parse(&self.properties)
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let failed = |error: TlsError| Failure::new(error.to_string());
        let Some(authorities) = &self.cafile else { return Ok(None) };
        let tls = match (&self.cert, &self.key) {
            (Some(chain), Some(key)) => Tls::showing(authorities, chain, key),
            _ => Tls::trusting(authorities),
        };
        let tls = tls.map_err(failed)?;
        Ok(Some(match &self.tls_name {
            Some(name) => tls.expecting(name).map_err(failed)?,
            None => tls,
        }))
    }

    fn session_expiry(&self, given: &Given) -> Result<u32, Failure> {
        match (self.session_expiry_interval, given.connect.session_expiry_seconds) {
            (Some(-1), _) => Ok(u32::MAX),
            (Some(seconds), _) => u32::try_from(seconds)
                .map_err(|_| Failure::new(format!("-x {seconds}: give 0 to {} seconds, or -1", u32::MAX))),
            (None, Some(seconds)) => Ok(seconds),
            (None, None) => Ok(if self.disable_clean_session { u32::MAX } else { 0 }),
        }
    }

    fn will(&self, given: &Given) -> Option<Will> {
        let topic = self.will_topic.as_ref()?;
        let payload = self.will_payload.clone().unwrap_or_default();
        let mut will = Will::new(topic, payload).qos(self.will_qos).retain(self.will_retain);
        will.publication.properties = given.will.clone();
        Some(will.delay_seconds(given.will_delay_seconds.unwrap_or(0)))
    }

    fn with_channel(&self, mut builder: Builder) -> Result<Builder, Failure> {
        let anchors = self.anchors()?;
        let Some(identity) = self.identity()? else {
            if self.trust.is_empty() {
                return Ok(builder);
            }
            return Err(Failure::new(
                "--trust needs --identity: only a client that proves who it is gets a channel",
            ));
        };
        builder = builder.identity(identity);
        if self.no_channel {
            return Ok(builder.trust(anchors).without_channel());
        }
        if self.trust.is_empty() {
            return Err(Failure::new(
                "--identity needs --trust FILE to know the broker by, or --no-channel for an ordinary broker",
            ));
        }
        let pinned = anchors_of_brokers(&anchors).next().filter(|_| self.paper);
        if let Some(name) = self.broker_name.as_deref().or(pinned) {
            builder = builder.broker_name(name);
        }
        let builder = builder.trust(anchors);
        match (self.scheme, self.paper) {
            (Some(scheme), true) => Ok(builder.paper(scheme)),
            (Some(scheme), false) => Ok(builder.schemes(Schemes::of(&[scheme]))),
            (None, _) if self.encrypt_channel => Ok(builder.schemes(Schemes::of(&[Scheme::Two]))),
            (None, _) => Ok(builder),
        }
    }

    fn with_scope(&self, builder: Builder) -> Result<Builder, Failure> {
        let (Some(filter), Some(path)) = (&self.scope, &self.master_key) else { return Ok(builder) };
        let scope =
            Scope::new(filter).map_err(|error| Failure::new(format!("--scope {filter:?}: {error}")))?;
        let master = secret::load(path)?;
        if self.article {
            return Ok(builder.scope(ScopeConfig::article(scope, self.article_keys(&master)?)));
        }
        let keyring =
            Keyring::master(MasterSecret::new(master.as_slice()), self.epoch, EpochTiming::default());
        let mut directory = Directory::default();
        for path in &self.sender {
            directory.pin(identity::load_certificate(path)?);
        }
        let mut options = EnvelopeOptions { suite: self.suite.suite(), ..self.envelopes() };
        if !self.sender.is_empty() {
            options.senders = SenderPolicy::Known;
            // Every member can seal in the name of another, and nobody can sign so.
            options.require_signature = true;
        }
        let builder = builder.directory(directory).scope(ScopeConfig::envelope(scope, keyring, options));
        let Some(path) = &self.legacy_key else { return Ok(builder) };
        let keys = ArticleKeys::new(ArticleKey::master(secret::load(path)?.as_slice()));
        builder.copy_to_legacy(filter, keys).map_err(|error| Failure::new(error.to_string()))
    }

    fn with_blind_topics(&self, mut builder: Builder) -> Result<Builder, Failure> {
        if !self.blind {
            return match self.topics.is_given() {
                true => Err(Failure::new("--topic-key needs --blind")),
                false => Ok(builder),
            };
        }
        let master = self.master_key.as_deref().map(secret::load).transpose()?;
        let naming = self.topics.naming(master.as_ref().map(|master| (&**master, self.epoch)))?;
        let mut scopes = self.scopes().peekable();
        if scopes.peek().is_none() {
            return Err(Failure::new("--blind needs a scope: give --scope, --join or --issue"));
        }
        for filter in scopes {
            let blind = builder.blind(filter, Arc::clone(&naming));
            builder = blind.map_err(|error| Failure::new(format!("scope {filter:?}: {error}")))?;
        }
        Ok(builder)
    }

    /// How messages are sealed, whatever their keys.
    fn envelopes(&self) -> EnvelopeOptions {
        EnvelopeOptions {
            sign: self.sign,
            require_signature: self.keys.requires_signatures(),
            backlog: self.backlog,
            timestamp: self.timestamp,
            padding: if self.pad { Padding::PowersOfTwo } else { Padding::None },
            ..EnvelopeOptions::default()
        }
    }

    fn article_keys(&self, current: &[u8; 32]) -> Result<ArticleKeys, Failure> {
        let key = |bytes: &[u8; 32]| match self.raw {
            true => ArticleKey::Raw(Secret32::new(bytes)),
            false => ArticleKey::master(bytes),
        };
        let mut keys = ArticleKeys::new(key(current));
        if let Some(path) = &self.previous_key {
            let until_ms = unix_ms().saturating_add(self.transition.saturating_mul(1_000));
            keys = keys.accepting(key(&*secret::load(path)?), until_ms);
        }
        Ok(if self.number { keys.numbering() } else { keys })
    }

    fn start_logging(&self) {
        let level = match (self.debug, self.quiet) {
            (true, _) => LevelFilter::DEBUG,
            (false, true) => LevelFilter::ERROR,
            (false, false) => LevelFilter::WARN,
        };
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let format = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours);
        // Only the first call in a process has an effect, and there is only one.
        let _ = format.with_max_level(level).with_target(false).try_init();
    }
}

/// The names of brokers that are trusted by their own certificates: the paper's first packet names the broker that it is for.
fn anchors_of_brokers(anchors: &TrustAnchors) -> impl Iterator<Item = &str> {
    anchors.iter().filter(|anchor| anchor.roles.contains(Roles::BROKER)).map(|anchor| anchor.subject.as_str())
}

/// Reads a scheme: 1, 2, 3 or 4.
fn scheme(text: &str) -> Result<Scheme, String> {
    let all = [("1", Scheme::One), ("2", Scheme::Two), ("3", Scheme::Three), ("4", Scheme::Four)];
    let found = all.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, scheme)| scheme).ok_or_else(|| "a scheme is 1, 2, 3 or 4".to_owned())
}

/// Reads a QoS: 0, 1 or 2.
pub(crate) fn qos(text: &str) -> Result<QoS, String> {
    let value = text.parse::<u8>().ok().and_then(|value| QoS::try_from(value).ok());
    value.ok_or_else(|| "a QoS is 0, 1 or 2".to_owned())
}

fn protocol_version(text: &str) -> Result<OnlyVersion5, String> {
    match text {
        "mqttv5" | "5" => Ok(OnlyVersion5),
        _ => {
            Err("only mqttv5 is spoken here; use mosquitto_pub and mosquitto_sub for older versions"
                .to_owned())
        }
    }
}
