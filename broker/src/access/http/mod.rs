//! Users that a service answers for over HTTP: what it is asked, what its answers mean, and what holds when there is none.
//!
//! What a client may do is brought by the answer, so nothing is asked for a message. Invariant: no answer is ever taken for yes, unless
//! the operator wants it so; and nothing that a client says of itself is logged but its user name.

mod answer;
mod cache;
mod endpoint;
mod question;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use ring::hmac;
use rustls::ClientConfig;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};
use veilmq_config::{AclSubscribe, BrokerConfig, HttpAccessConfig, HttpFailure, HttpUrl};
use veilmq_core::{CertificateField, Credentials, Terms, Verdict};
use zeroize::Zeroizing;

use self::answer::{Answer, AnswerFault, Grant};
use self::cache::{Cache, Key};
use self::endpoint::{Endpoint, EndpointError};
pub(super) use self::question::Event;
use super::authority;
use crate::clock;
use crate::files::{self, FileError};
use crate::tls::{TlsError, read_trust};

const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// Why the service cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpAccessError {
    /// The file with the token cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it holds cannot be a token.
    #[error("{} must hold one token of visible ASCII characters", .0.display())]
    Token(PathBuf),
    /// The authorities cannot be used.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// The operating system gave no random bytes.
    #[error("cannot get random bytes: {0}")]
    Randomness(getrandom::Error),
}

impl HttpAccessError {
    /// Returns the file at fault.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Token(path) => Some(path),
            Self::Authorities(error) => error.path(),
            Self::Randomness(_) => None,
        }
    }
}

/// A service that is asked about users.
pub(super) struct Hook {
    config: HttpAccessConfig,
    /// Whether the rules of an answer refuse a SUBSCRIBE that they do not allow as a whole.
    is_strict: bool,
    /// The addresses of the listeners, by their numbers.
    listeners: Vec<String>,
    /// The number by which the core knows that it vouches for users.
    authority: u64,
    login: Endpoint,
    renewal: Option<Endpoint>,
    cache: Mutex<Cache>,
    digests: hmac::Key,
    permits: Arc<Semaphore>,
    is_failing: AtomicBool,
}

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// That.
    Decided(Verdict),
    /// It is who it says, and its time is over: no password was guessed.
    Over,
    /// Others may say.
    Next,
}

/// Where an outcome comes from, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Allow,
    Deny,
    Next,
    Failure,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("what it answers is not understood: {0}")]
    Fault(#[from] AnswerFault),
}

impl Hook {
    /// Reads what the configuration names; None if no service is to be asked. Who vouches for users is the same as `earlier` as long as
    /// the same service is asked.
    ///
    /// # Errors
    /// [`HttpAccessError`].
    pub(super) fn read(
        broker: &BrokerConfig,
        earlier: Option<&Self>,
    ) -> Result<Option<Self>, HttpAccessError> {
        let config = &broker.access.http;
        let Some(url) = &config.url else { return Ok(None) };
        let authorization = config.token_file.as_deref().map(authorization).transpose()?;
        let has_tls = url.is_tls || config.renew_url.as_ref().is_some_and(|url| url.is_tls);
        let tls = if has_tls { Some(client_config(config)?) } else { None };
        let endpoint = |url: &HttpUrl| endpoint(config, url, tls.as_ref(), authorization.as_ref());
        let same = earlier.filter(|earlier| earlier.config.url == config.url);
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(HttpAccessError::Randomness)?;
        Ok(Some(Self {
            is_strict: broker.acl.subscribe == AclSubscribe::Strict,
            listeners: broker.listeners.iter().map(|listener| listener.address.to_string()).collect(),
            authority: same.map_or_else(authority::next, |earlier| earlier.authority),
            login: endpoint(url),
            renewal: config.renew_url.as_ref().map(endpoint),
            cache: Mutex::new(Cache::new(config.cache_entries_max as usize)),
            digests: hmac::Key::new(hmac::HMAC_SHA256, &*secret),
            permits: Arc::new(Semaphore::new(config.connections_max.into())),
            is_failing: AtomicBool::new(false),
            config: config.clone(),
        }))
    }

    /// Returns the number by which the core knows that it vouches for users.
    pub(super) fn authority(&self) -> u64 {
        self.authority
    }

    /// Says what an operator should know of how it is configured.
    pub(super) fn warn_of_risks(&self) {
        if self.config.on_failure == HttpFailure::Allow {
            warn!(
                "access.http.on_failure is \"allow\": whenever the service does not answer, anybody can connect as anybody"
            );
        }
        let is_near = |url: &HttpUrl| {
            url.host == "localhost" || url.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        };
        if let Some(url) = self.config.url.as_ref().filter(|url| !url.is_tls && !is_near(url)) {
            warn!("access.http.url is {url}: passwords go there without TLS");
        }
    }

    /// Waits until another question may be asked.
    ///
    /// # Errors
    /// Never; nobody closes it.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.permits).acquire_owned().await
    }

    /// Returns what was said of a client lately, if that still holds.
    pub(super) fn recall(&self, credentials: &Credentials) -> Option<Outcome> {
        let answer = self.cache().find(&self.key(credentials), Instant::now())?;
        // The wall clock may have been set since it was kept.
        Some(self.outcome_of(&answer, credentials)).filter(|outcome| *outcome != Outcome::Over)
    }

    /// Asks about a client.
    pub(super) async fn ask(&self, event: Event, credentials: &Credentials) -> (Outcome, Reply) {
        let endpoint = match event {
            Event::Connect => Some(&self.login),
            Event::Renew => self.renewal.as_ref(),
        };
        // A reload has taken the URL away: who was let in before comes in anew once its time is over.
        let Some(endpoint) = endpoint else { return (Outcome::Decided(Verdict::Busy), Reply::Failure) };
        match self.answer(endpoint, event, credentials).await {
            Ok(answer) => {
                self.note(None);
                let reply = match &answer {
                    Answer::Allow(_) => Reply::Allow,
                    Answer::Deny => Reply::Deny,
                    Answer::Next => Reply::Next,
                };
                debug!(user = &*credentials.user, ?event, ?reply, "the service of access.http has answered");
                let outcome = self.outcome_of(&answer, credentials);
                if event == Event::Connect {
                    self.keep(credentials, answer);
                }
                (outcome, reply)
            }
            Err(error) => {
                self.note(Some(&error));
                (self.outcome_without_answer(event, credentials), Reply::Failure)
            }
        }
    }

    /// Returns how many answers are kept.
    pub(super) fn cached(&self) -> usize {
        self.cache().len()
    }

    async fn answer(
        &self,
        endpoint: &Endpoint,
        event: Event,
        credentials: &Credentials,
    ) -> Result<Answer, NoAnswer> {
        let listener = self.listeners.get(usize::from(credentials.entrance.0)).map_or("", String::as_str);
        let host = host(&credentials.peer);
        let body = question::body(self.config.format, event, credentials, &host, listener);
        let (status, body) = endpoint.ask(body).await?;
        Ok(Answer::parse(status, &body, self.is_strict)?)
    }

    fn outcome_of(&self, answer: &Answer, credentials: &Credentials) -> Outcome {
        match answer {
            Answer::Allow(grant) => match self.terms(grant) {
                Some(terms) => Outcome::Decided(Verdict::Vouched {
                    user: Arc::clone(&credentials.user),
                    authority: self.authority,
                    terms,
                }),
                None => Outcome::Over,
            },
            Answer::Deny => Outcome::Decided(Verdict::Wrong),
            Answer::Next => Outcome::Next,
        }
    }

    fn outcome_without_answer(&self, event: Event, credentials: &Credentials) -> Outcome {
        match (event, self.config.on_failure) {
            (Event::Connect, HttpFailure::Allow) => {
                self.outcome_of(&Answer::Allow(Grant::default()), credentials)
            }
            (Event::Connect, HttpFailure::Next) => Outcome::Next,
            // What was said last holds for as long as it may.
            (Event::Renew, _) | (Event::Connect, HttpFailure::Deny) => Outcome::Decided(Verdict::Busy),
        }
    }

    /// Returns on what terms a client is let in; None if its time is over.
    fn terms(&self, grant: &Grant) -> Option<Terms> {
        let now = clock::now();
        let left = grant.time_left(clock::unix_ms());
        if left == Some(0) {
            return None;
        }
        // The wall clock may have been set since the start, and moments are not.
        let expires = left.map(|left| now + left);
        let renew_at = self.renewal.as_ref().map(|_| now.plus_seconds(u64::from(self.config.renew_seconds)));
        let stale_at = renew_at
            .filter(|_| self.config.on_failure != HttpFailure::Allow)
            .map(|at| at.plus_seconds(u64::from(self.config.stale_seconds)));
        let until = expires.into_iter().chain(stale_at).min();
        Some(Terms { rules: grant.rules.clone(), renew_at, until })
    }

    fn keep(&self, credentials: &Credentials, answer: Answer) {
        let (seconds, left) = match &answer {
            Answer::Allow(grant) => (self.config.cache_seconds, grant.time_left(clock::unix_ms())),
            Answer::Deny | Answer::Next => (self.config.cache_denied_seconds, None),
        };
        // Whoever comes back when its time is over is asked about: it may have been given more.
        let left = left.map_or(Duration::MAX, Duration::from_millis);
        let lasting = Duration::from_secs(seconds.into()).min(left);
        self.cache().keep(self.key(credentials), answer, lasting, Instant::now());
    }

    /// Returns the digest of all that the service is told of a client.
    fn key(&self, credentials: &Credentials) -> Key {
        let host = host(&credentials.peer);
        let mut digest = hmac::Context::with_key(&self.digests);
        digest.update(&credentials.entrance.0.to_be_bytes());
        // All that it is told of a certificate is in that, and the fingerprint stands for it.
        let certificate = credentials.certificate.as_ref();
        let certificate = certificate.and_then(|fields| fields.field(CertificateField::Fingerprint));
        let texts: [&[u8]; 5] = [
            credentials.user.as_bytes(),
            credentials.client_id.as_bytes(),
            host.as_bytes(),
            &credentials.password,
            certificate.unwrap_or_default().as_bytes(),
        ];
        for text in texts {
            digest.update(&(text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        let mut key = Key::default();
        key.iter_mut().zip(digest.sign().as_ref()).for_each(|(to, from)| *to = *from);
        key
    }

    /// Says it once when there are no answers, and once when there are again.
    fn note(&self, error: Option<&NoAnswer>) {
        let was_failing = self.is_failing.swap(error.is_some(), Ordering::Relaxed);
        match (was_failing, error) {
            (false, Some(error)) => warn!("the service of access.http has not answered: {error}"),
            (true, Some(error)) => debug!("the service of access.http has not answered again: {error}"),
            (true, None) => info!("the service of access.http answers again"),
            (false, None) => {}
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(
    config: &HttpAccessConfig,
    url: &HttpUrl,
    tls: Option<&Arc<ClientConfig>>,
    authorization: Option<&HeaderValue>,
) -> Endpoint {
    let tls = tls.filter(|_| url.is_tls).cloned();
    let time = Duration::from_millis(config.timeout_milliseconds.into());
    Endpoint::new(url.clone(), tls, authorization.cloned(), question::content_type(config.format), time)
}

fn client_config(config: &HttpAccessConfig) -> Result<Arc<ClientConfig>, TlsError> {
    let trust = read_trust(config.ca.as_deref())?.store;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    Ok(Arc::new(builder.with_root_certificates(trust).with_no_client_auth()))
}

/// Reads the token; white space around it does not belong to it.
fn authorization(path: &Path) -> Result<HeaderValue, HttpAccessError> {
    let text = Zeroizing::new(files::read(path, TOKEN_BYTES_MAX)?);
    files::warn_if_exposed(path);
    let token = text.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(HttpAccessError::Token(path.to_owned()));
    }
    let value = Zeroizing::new([b"Bearer ", token].concat());
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| HttpAccessError::Token(path.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the address in what a connection comes from; a client on a Unix socket has none.
fn host(peer: &str) -> String {
    peer.parse().map(|peer: SocketAddr| peer.ip().to_canonical().to_string()).unwrap_or_default()
}
