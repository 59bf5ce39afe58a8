//! Describes a client before it connects.

mod assembly;
mod pairs;
mod paper;
mod weakenings;

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use veilmq_protocol::veil::{
    Certificate, Kid, Scheme, Schemes, Suite,
    channel::{Identity, TrustAnchors},
};
use zeroize::Zeroizing;

use super::{
    Client, Status,
    backoff::Backoff,
    driver::{Driver, Endpoint},
    error::ConnectError,
    transport::Tls,
};
use crate::{
    e2e::{
        ArticleKeys, ConfigError, Directory, EnvelopeOptions, EpochTiming, Keyring, Limits, MasterSecret,
        Naming, Scope, ScopeConfig, SenderPolicy, distribution::IssuePolicy,
    },
    message::Will,
    sealed_file::StateKey,
    session::{CloseReason, Handshake, SessionOptions},
};

/// Publications that may wait for the task, besides those waiting in the session.
const COMMANDS_MAX: usize = 64;

/// The epoch of a master secret that is not rotated.
const MASTER_EPOCH: u32 = 1;

/// What is asked for with CONNECT.
enum Asked {
    Scope(Scope, Kid),
    Pair(Kid),
}

/// Everything about a connection that can be chosen; see [`Client`] for an example.
#[must_use = "a client exists after `connect().await`"]
pub struct Builder {
    endpoint: Endpoint,
    session: SessionOptions,
    identity: Option<Arc<Identity>>,
    trust: Option<TrustAnchors>,
    broker: Option<String>,
    suites: Option<Vec<Suite>>,
    schemes: Option<Schemes>,
    handshake: Handshake,
    resume: bool,
    weak_groups: bool,
    paper: Option<Scheme>,
    plain_channel: bool,
    scopes: Vec<ScopeConfig>,
    joined: Vec<(Scope, EnvelopeOptions)>,
    issued: Vec<(Scope, EnvelopeOptions, IssuePolicy)>,
    members: Vec<(Scope, Certificate)>,
    pairs: Vec<(Kid, EnvelopeOptions)>,
    issued_pairs: Option<(EnvelopeOptions, IssuePolicy)>,
    pair_members: Vec<Certificate>,
    asks: Option<Asked>,
    legacy: Vec<(Scope, ArticleKeys)>,
    blind: Vec<(Scope, Arc<Naming>)>,
    directory: Directory,
    limits: Limits,
    state: Option<(PathBuf, Option<StateKey>)>,
    accept_replay_after_crash: bool,
}

/// Names the endpoint alone: the rest holds secrets.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port, .. } = &self.endpoint;
        f.debug_struct("Builder").field("host", host).field("port", port).finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            endpoint: Endpoint {
                host: host.to_owned(),
                port,
                tls: None,
                connect_timeout: Duration::from_secs(10),
                reconnect: true,
                backoff: Backoff::default(),
                will: None,
                reauthenticate_every: Duration::from_secs(24 * 3_600),
            },
            session: SessionOptions::new(""),
            identity: None,
            trust: None,
            broker: None,
            suites: None,
            schemes: None,
            handshake: Handshake::default(),
            resume: true,
            weak_groups: false,
            paper: None,
            plain_channel: false,
            scopes: Vec::new(),
            joined: Vec::new(),
            issued: Vec::new(),
            members: Vec::new(),
            pairs: Vec::new(),
            issued_pairs: None,
            pair_members: Vec::new(),
            asks: None,
            legacy: Vec::new(),
            blind: Vec::new(),
            directory: Directory::default(),
            limits: Limits::default(),
            state: None,
            accept_replay_after_crash: true,
        }
    }

    /// Sets the Client Identifier; otherwise it is the subject of the identity, or chosen by the broker.
    pub fn client_id(mut self, client_id: &str) -> Self {
        client_id.clone_into(&mut self.session.client_id);
        self
    }

    /// Discards an earlier session at the first connection (default true); reconnects always resume. Without that, what the earlier
    /// session brings waits for the application: see [`Client::decline_unclaimed`](super::Client::decline_unclaimed).
    pub const fn clean_start(mut self, clean_start: bool) -> Self {
        self.session.clean_start = clean_start;
        self
    }

    /// Sets how long the broker keeps the session without a connection, in seconds (default 300).
    pub const fn session_expiry_seconds(mut self, seconds: u32) -> Self {
        self.session.session_expiry_seconds = seconds;
        self
    }

    /// Sets the longest silence, in seconds (default 60); 0 turns the check off.
    pub const fn keep_alive_seconds(mut self, seconds: u16) -> Self {
        self.session.keep_alive_seconds = seconds;
        self
    }

    /// Sets how many QoS 1 and 2 messages may be on their way to the client (default 64; at most 1,023 with end-to-end scopes,
    /// whose replay windows grow with it). Of a message in parts, half as many parts are safe from a crash before it is whole.
    pub const fn receive_maximum(mut self, messages: NonZeroU16) -> Self {
        self.session.receive_maximum = messages;
        self
    }

    /// Sets the largest packet accepted, in bytes (default 16 MiB).
    pub const fn packet_bytes_max(mut self, bytes: NonZeroU32) -> Self {
        self.session.packet_bytes_max = bytes;
        self
    }

    /// Sets how many publications may wait for the connection or the broker (default 256).
    pub const fn queued_max(mut self, publications: usize) -> Self {
        self.session.queued_max = publications;
        self
    }

    /// Sets the user name.
    pub fn username(mut self, username: &str) -> Self {
        self.session.username = Some(username.to_owned());
        self
    }

    /// Sets the password.
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.session.password = Some(Zeroizing::new(password.into()));
        self
    }

    /// Attaches a pair to CONNECT; repeatable.
    pub fn user_property(mut self, name: &str, value: &str) -> Self {
        self.session.user_properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets what the broker publishes when the connection is lost; sealed anew at each connection if its topic
    /// is in an end-to-end scope. A connection that begins before the key of that scope has come has no Will, with a warning.
    pub fn will(mut self, will: Will) -> Self {
        self.endpoint.will = Some(will);
        self
    }

    /// Sets who this client is: it connects over a VEIL-1 channel, which also needs [`trust`](Self::trust), unless
    /// [`without_channel`](Self::without_channel) says otherwise. The identity also signs messages on scopes that
    /// ask for it.
    pub fn identity(mut self, identity: impl Into<Arc<Identity>>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Sets whom this client believes: authorities, or the pinned certificate of the broker.
    pub fn trust(mut self, anchors: TrustAnchors) -> Self {
        self.trust = Some(anchors);
        self
    }

    /// Sets the name the broker's certificate must carry.
    pub fn broker_name(mut self, name: &str) -> Self {
        self.broker = Some(name.to_owned());
        self
    }

    /// Sets the suites of the channel in order of preference (default all, AES-256-GCM first).
    pub fn suites(mut self, suites: &[Suite]) -> Self {
        self.suites = Some(suites.to_vec());
        self
    }

    /// Sets the schemes of the channel: 4 authenticates every packet, 2 encrypts them as well (default both, of
    /// which the broker prefers 4); 3 is 2 with messages encrypted once for all subscribers. 1 leaves everything after CONNECT
    /// plain and is warned of.
    pub const fn schemes(mut self, schemes: Schemes) -> Self {
        self.schemes = Some(schemes);
        self
    }

    /// Sets how a connection without a ticket begins (default SIGMA). COMPACT saves a round trip; it needs
    /// [`broker_name`](Self::broker_name) and a clock, and shows the client's certificate to the network.
    pub const fn handshake(mut self, handshake: Handshake) -> Self {
        self.handshake = handshake;
        self
    }

    /// Comes back with the ticket of the last connection, if the broker gave one (default true).
    pub const fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Takes messages that only a group key authenticates, as in the paper: any other subscriber can forge them. Without this
    /// option such a broker is left (default false).
    pub const fn weak_groups(mut self, accept: bool) -> Self {
        self.weak_groups = accept;
        self
    }

    /// Sets how often the client proves once more who it is on a channel that lasts (default 24 hours).
    pub const fn reauthenticate_every(mut self, interval: Duration) -> Self {
        self.endpoint.reauthenticate_every = interval;
        self
    }

    /// Connects as an ordinary MQTT client even with an identity: for brokers that do not speak VEIL-1.
    pub const fn without_channel(mut self) -> Self {
        self.plain_channel = true;
        self
    }

    /// Connects over TLS, to brokers that are to be reached so.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.endpoint.tls = Some(tls);
        self
    }

    /// Adds an end-to-end scope.
    pub fn scope(mut self, scope: ScopeConfig) -> Self {
        self.scopes.push(scope);
        self
    }

    /// Adds an end-to-end scope under a master secret, with default options and without rotation: simple, but
    /// no member can be removed and there is no forward secrecy (VEIL-1 section 8.2).
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn master_scope(self, filter: &str, master: MasterSecret) -> Result<Self, ConfigError> {
        let keyring = Keyring::master(master, MASTER_EPOCH, EpochTiming::default());
        Ok(self.scope(ScopeConfig::envelope(Scope::new(filter)?, keyring, EnvelopeOptions::default())))
    }

    /// Also publishes what is published on a scope in the article's format, on `TOPIC/legacy`, while its readers move from one to
    /// the other; such copies are left out where they arrive (VEIL-1 section 11).
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn copy_to_legacy(mut self, filter: &str, keys: ArticleKeys) -> Result<Self, ConfigError> {
        self.legacy.push((Scope::new(filter)?, keys));
        Ok(self)
    }

    /// Hides the topics of a scope from the broker: it sees tokens in place of their levels, and `+`, `#`, retained messages,
    /// Wills and Shared Subscriptions work as ever (VEIL-1 section 14, which also says what still shows). The application goes on
    /// with real names. Every member needs the same topic keys.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn blind(mut self, filter: &str, naming: Arc<Naming>) -> Result<Self, ConfigError> {
        self.blind.push((Scope::new(filter)?, naming));
        Ok(self)
    }

    /// Becomes a member of an end-to-end scope: its keys come through the broker from whoever is certified to issue them, also
    /// when nobody else is there (VEIL-1 section 9.2). Needs [`identity`](Self::identity) and [`trust`](Self::trust).
    ///
    /// Messages are accepted from senders with a certificate for the topic only.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn join_scope(self, filter: &str) -> Result<Self, ConfigError> {
        self.join_scope_with(filter, known_senders())
    }

    /// Does the same with other options.
    ///
    /// # Errors
    /// As [`join_scope`](Self::join_scope).
    pub fn join_scope_with(mut self, filter: &str, options: EnvelopeOptions) -> Result<Self, ConfigError> {
        self.joined.push((Scope::new(filter)?, options));
        Ok(self)
    }

    /// Issues the keys of an end-to-end scope: for what this client publishes, or as key authority for everyone if its
    /// certificate says so. Needs the same as [`join_scope`](Self::join_scope), and a [`state_file`](Self::state_file) if the
    /// program is to go on with its members after a restart.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn issue_scope(self, filter: &str, policy: IssuePolicy) -> Result<Self, ConfigError> {
        self.issue_scope_with(filter, policy, known_senders())
    }

    /// Does the same with other options.
    ///
    /// # Errors
    /// As [`issue_scope`](Self::issue_scope).
    pub fn issue_scope_with(
        mut self,
        filter: &str,
        policy: IssuePolicy,
        options: EnvelopeOptions,
    ) -> Result<Self, ConfigError> {
        self.issued.push((Scope::new(filter)?, options, policy));
        Ok(self)
    }

    /// Lets a member into a scope that is issued here before it has ever connected; repeatable. Whom [`Client::remove_member`] has taken
    /// out stays out, as long as the state is kept: [`Client::admit`] lets it in again.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no filter.
    pub fn admit(mut self, filter: &str, member: Certificate) -> Result<Self, ConfigError> {
        self.members.push((Scope::new(filter)?, member));
        Ok(self)
    }

    /// Keeps keys, members and which messages were received in a file, encrypted under a key derived from the identity. One client at a time
    /// uses it, until it is [disconnected](Client::disconnect): `PATH.lock`, beside it, keeps others out.
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = Some((path.into(), None));
        self
    }

    /// Does the same with a key or passphrase of its own.
    pub fn state_file_with_key(mut self, path: impl Into<PathBuf>, key: StateKey) -> Self {
        self.state = Some((path.into(), Some(key)));
        self
    }

    /// Whether messages are accepted after a crash (`kill -9`, loss of power) of which the saved state does not say that they were
    /// received (default true). What came in the moments before the crash, and was not saved yet, is then accepted once more. With
    /// `false` it is not, nor is anything else of sender sessions older than the start but what is above the saved marks: messages are
    /// lost that were sent while this program was away.
    pub const fn accept_replay_after_crash(mut self, accept: bool) -> Self {
        self.accept_replay_after_crash = accept;
        self
    }

    /// Sets the certificates of the senders this client knows.
    pub fn directory(mut self, directory: Directory) -> Self {
        self.directory = directory;
        self
    }

    /// Bounds the memory of the end-to-end state.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Connects again after a connection is lost (default true).
    pub const fn reconnect(mut self, reconnect: bool) -> Self {
        self.endpoint.reconnect = reconnect;
        self
    }

    /// Sets the pauses between attempts to connect again.
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.endpoint.backoff = backoff;
        self
    }

    /// Sets how long connecting, CONNACK, PINGRESP, SUBACK and UNSUBACK may take each (default 10 s).
    pub fn answer_timeout(mut self, limit: Duration) -> Self {
        self.endpoint.connect_timeout = limit;
        self.session.answer_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Connects; must be called within a tokio runtime, on which the client's task then runs.
    ///
    /// The first attempt is the only one: if it fails, so does this. A [state](Self::state_file) that another client has is waited for,
    /// for two seconds: one that is about to end, such as one whose connecting was given up, lets go of it within that time.
    ///
    /// Cancel safe: if the future is dropped, nothing of the client is left but the last packet and the last save.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let address = self.endpoint.address();
        let stopped =
            || ConnectError::Failed { address, reason: CloseReason::Lost("the runtime ended".into()) };
        let (publishes, publishes_taken) = mpsc::channel(COMMANDS_MAX);
        let (commands, commands_taken) = mpsc::channel(COMMANDS_MAX);
        let (status_sender, status) = watch::channel(Status::Connecting);
        let (notice_sender, notice) = watch::channel(None);
        let (first, connected) = oneshot::channel();
        let channels = (publishes_taken, commands_taken);
        // However early the caller drops this future, the state is saved and let go of.
        let task = tokio::spawn(async move {
            // It derives a key from a passphrase, and writes a file.
            match tokio::task::spawn_blocking(|| self.assemble()).await {
                Ok(Ok((endpoint, session, sealing))) => {
                    let status = (status_sender, notice_sender);
                    Driver::new(endpoint, session, sealing, channels, status, first).run().await;
                }
                // Nobody may be waiting for it any more.
                Ok(Err(error)) => drop(first.send(Err(error))),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        });
        let client = Client { publishes, commands, status, notice };
        let outcome = connected.await.map_err(|_| stopped()).flatten();
        // The state can be opened again then.
        if outcome.is_err()
            && let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        outcome.map(|()| client)
    }
}

/// What the application of a device expects: messages of senders that are certified, and of nobody else.
fn known_senders() -> EnvelopeOptions {
    EnvelopeOptions { senders: SenderPolicy::Known, ..EnvelopeOptions::default() }
}
