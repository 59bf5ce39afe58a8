//! What the TLS connections of one listener share: certificates, authorities, tickets.
//!
//! All of it is read from files, at the start and when they change. Invariant: what is in force was read whole and fits together; a
//! change that does not leaves it as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, HandshakeKind, InconsistentKeys, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tracing::warn;
use veilmq_config::{
    CertificateConfig, CertificateIdentity, ClientCertificate, ListenerTlsConfig, TlsVersion,
};

use super::Tls;
use super::authorities::{authority_files, read_authorities};
use super::certificate::{self, Facts};
use super::client_certificates::ClientCertificates;
use super::plain::Authorities;
use super::stats::TlsStats;
use crate::files::{self, FileError};

/// The largest file of certificates, keys or revocations, in bytes.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Tickets for one connection (TLS 1.3): a client that comes back uses one, and gets another.
const TICKETS: usize = 1;

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What should be in a file is not in it, or is malformed.
    #[error("{} holds no {what}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A key is another certificate's.
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        certificate: PathBuf,
    },
    /// rustls cannot work with what the files say.
    #[error("TLS: {0}")]
    Unusable(Error),
}

impl TlsError {
    /// Returns the file at fault.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Content { path, .. } | Self::Mismatch { key: path, .. } => Some(path),
            Self::Unusable(_) => None,
        }
    }
}

/// TLS on one listener.
pub struct TlsAcceptor {
    /// Where it listens, for log lines and metrics.
    name: String,
    stats: Arc<TlsStats>,
    in_force: RwLock<InForce>,
}

/// What says which files are read, and what for.
struct Said {
    config: ListenerTlsConfig,
    certificates: Vec<CertificateConfig>,
}

/// What verifies the certificates of clients.
pub(super) type Verifier = Arc<dyn ClientCertVerifier>;

/// What was read last and fits together.
#[derive(Clone)]
pub struct InForce {
    said: Arc<Said>,
    server: Arc<ServerConfig>,
    verifier: Option<Verifier>,
    not_after: i64,
    next_update: Option<i64>,
}

/// What tells whether a file has changed.
pub(super) type Stamp = Option<(SystemTime, u64)>;

impl TlsAcceptor {
    /// Reads the files of a listener.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub(super) fn load(
        name: String,
        config: &ListenerTlsConfig,
        certificates: Vec<CertificateConfig>,
        stats: Arc<TlsStats>,
    ) -> Result<Self, TlsError> {
        let in_force = RwLock::new(read(&name, &Said { config: config.clone(), certificates }.into())?);
        Ok(Self { name, stats, in_force })
    }

    /// Reads the files again. If they do not fit together, nothing changes.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        self.go_by(read(&self.name, &self.in_force().said)?);
        Ok(())
    }

    /// Reads the files that this configuration names, and changes nothing.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub(super) fn read_as(
        &self,
        config: &ListenerTlsConfig,
        certificates: Vec<CertificateConfig>,
    ) -> Result<InForce, TlsError> {
        read(&self.name, &Said { config: config.clone(), certificates }.into())
    }

    /// Goes by what was read, for connections that are there too as far as they are to be trusted.
    pub(super) fn go_by(&self, now: InForce) {
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Returns what tells whether its files have changed.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let Said { config, certificates } = &*self.in_force().said;
        let own = certificates.iter().flat_map(|pair| [&pair.certificate_file, &pair.key_file]);
        let others = [&config.client_ca_file, &config.crl_file, &config.issuers_file];
        let others = others.into_iter().flatten();
        let mut stamps: Vec<Stamp> = own.chain(others).map(|path| stamp(path)).collect();
        if let Some(folder) = config.client_ca_file.as_ref().filter(|path| path.is_dir()) {
            let files = authority_files(folder).unwrap_or_default();
            stamps.extend(files.iter().map(|path| stamp(path)));
        }
        stamps
    }

    /// Returns where it listens.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns until when its certificates are good, the first that is over, in seconds of Unix time.
    pub(super) fn not_after(&self) -> i64 {
        self.in_force().not_after
    }

    /// Begins TLS on a connection; None if `limits.tls_handshakes_max` handshakes are under way.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Tls> {
        let handshake = self.stats.begin()?;
        // It fails only for settings that are never made.
        let InForce { server, verifier, .. } = self.in_force();
        let session = UnbufferedServerConnection::new(server).ok()?;
        Some(Tls::new(session, Arc::clone(self), verifier, handshake))
    }

    /// Speaks TLS on a connection that belongs to no shard.
    ///
    /// # Errors
    /// What went wrong, or that `limits.tls_handshakes_max` handshakes are under way.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let handshake = self.stats.begin().ok_or(io::ErrorKind::ConnectionRefused)?;
        let acceptor = tokio_rustls::TlsAcceptor::from(self.in_force().server);
        let stream = acceptor.accept(stream).await?;
        handshake.succeeded(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
        Ok(stream)
    }

    /// Returns the User Name that a verified certificate proves, if that is what certificates are for here.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(super) fn user_name_of(&self, der: &CertificateDer<'_>) -> Result<Option<Box<str>>, &'static str> {
        let name = match self.in_force().said.config.identity {
            CertificateIdentity::None => return Ok(None),
            CertificateIdentity::Cn => certificate::common_name(der),
            CertificateIdentity::Subject => certificate::subject(der),
        };
        name.map(|name| Some(name.into_boxed_str()))
    }

    /// Tells whether a client that shows these certificates, which `before` has verified, would still be taken.
    pub(super) fn trusts(&self, chain: &[CertificateDer<'static>], before: Option<&Verifier>) -> bool {
        match (&self.in_force().verifier, chain) {
            (Some(now), _) if before.is_some_and(|before| Arc::ptr_eq(before, now)) => true,
            (Some(now), [own, issuers @ ..]) => now.verify_client_cert(own, issuers, UnixTime::now()).is_ok(),
            (None, _) | (_, []) => true,
        }
    }

    /// Returns when its lists of revocations need a successor, the first of them, in seconds of Unix time; None if it has none that says so.
    pub(super) fn next_update(&self) -> Option<i64> {
        self.in_force().next_update
    }

    fn in_force(&self) -> InForce {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(name: &str, said: &Arc<Said>) -> Result<InForce, TlsError> {
    let Said { config, certificates } = &**said;
    let mut shown = Shown { certificates: Vec::new() };
    let mut not_after = i64::MAX;
    let issuers = match &config.issuers_file {
        Some(path) => read_authorities(path)?,
        None => Vec::new(),
    };
    for pair in certificates {
        let (facts, key) = read_certificate(pair, &issuers)?;
        warn_of_dates(name, &pair.certificate_file, &facts);
        not_after = not_after.min(facts.not_after);
        shown.certificates.push((facts.names, Arc::new(key)));
    }
    let revocations = config.crl_file.as_deref().map(read_revocations).transpose()?.unwrap_or_default();
    let next_update = revocations.iter().filter_map(|list| certificate::next_update(list)).min();
    let verifier = read_verifier(config, revocations)?;
    let versions = match config.minimum_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
        TlsVersion::Tls13 => &[&TLS13][..],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Unusable)?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(shown));
    // A client that comes back is known by its ticket alone, so nothing is stored. New keys for tickets with everything that is read
    // make sure that a client whose certificate was revoked does not come back with an old one.
    server.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Unusable)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = TICKETS;
    Ok(InForce { said: Arc::clone(said), server: Arc::new(server), verifier, not_after, next_update })
}

fn read_certificate(
    pair: &CertificateConfig,
    issuers: &[CertificateDer<'static>],
) -> Result<(Facts, CertifiedKey), TlsError> {
    let path = &pair.certificate_file;
    let unusable = |reason: &str| content(path, "certificate", reason);
    let mut chain = read_certificates(path)?;
    certificate::complete(&mut chain, issuers);
    let facts = chain.first().and_then(|own| certificate::facts(own));
    let facts = facts.ok_or_else(|| unusable("the first one is malformed"))?;
    let key = read_key(&pair.key_file)?;
    match certified_key(chain, key) {
        Ok(key) => Ok((facts, key)),
        Err(Error::InconsistentKeys(_)) => {
            let (key, certificate) = (pair.key_file.clone(), path.clone());
            Err(TlsError::Mismatch { key, certificate })
        }
        Err(error) => Err(content(&pair.key_file, "key of a kind that is known", &error.to_string())),
    }
}

/// Joins a certificate, with those behind it, and its key. Of the certificate only the key is looked at: whoever it is shown to says
/// what it is good for.
///
/// # Errors
/// The key is of an unknown kind, or another certificate's.
pub(crate) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    let key = rustls::crypto::ring::default_provider().key_provider.load_private_key(key)?;
    let own = chain.first().and_then(|own| certificate::public_key(own));
    match (own, key.public_key()) {
        (Some(own), Some(public)) if own != public.as_ref() => Err(InconsistentKeys::KeyMismatch.into()),
        _ => Ok(CertifiedKey::new(chain, key)),
    }
}

/// Reads a private key from a file.
///
/// # Errors
/// [`TlsError`], naming both.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = zeroize::Zeroizing::new(files::read(path, FILE_BYTES_MAX)?);
    files::warn_if_exposed(path);
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| content(path, "private key in PEM that is not encrypted", &reason(&error)))
}

fn read_verifier(
    config: &ListenerTlsConfig,
    revocations: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Option<Verifier>, TlsError> {
    let Some(path) =
        config.client_ca_file.as_ref().filter(|_| config.client_certificate != ClientCertificate::Off)
    else {
        return Ok(None);
    };
    let unusable = |error: &dyn ToString| content(path, "usable authority", &error.to_string());
    let certificates = read_authorities(path)?;
    let mut authorities = RootCertStore::empty();
    for authority in &certificates {
        authorities.add(authority.clone()).map_err(|error| unusable(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
    let revocations = config.crl_file.as_ref().map(|_| revocations);
    if let Some(revocations) = &revocations {
        builder = builder.with_crls(revocations.clone()).only_check_end_entity_revocation();
    }
    if config.client_certificate == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    let web = match (builder.build(), &config.crl_file) {
        (Ok(web), _) => web,
        (Err(VerifierBuilderError::InvalidCrl(error)), Some(path)) => {
            return Err(content(path, "usable list of revocations", &format!("{error:?}")));
        }
        (Err(error), _) => return Err(unusable(&error)),
    };
    let authorities = Authorities { certificates, revocations };
    let ignores_dates = config.ignore_client_dates;
    Ok(Some(Arc::new(ClientCertificates { web, authorities, algorithms, ignores_dates })))
}

/// Reads the certificates, at least one,.
///
/// # Errors
/// [`TlsError`], naming both.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = files::read(path, FILE_BYTES_MAX)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(content(path, "certificate", "there is none in PEM in it"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(content(path, "certificate", &reason(&error))),
    }
}

fn read_revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let text = files::read(path, FILE_BYTES_MAX)?;
    let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let unusable = |reason: &str| content(path, "list of revocations", reason);
    match read {
        Ok(lists) if lists.is_empty() => Err(unusable("there is none in PEM in it")),
        Ok(lists) => Ok(lists),
        Err(error) => Err(unusable(&reason(&error))),
    }
}

fn content(path: &Path, what: &'static str, reason: &str) -> TlsError {
    TlsError::Content { path: path.into(), what, reason: reason.to_owned() }
}

/// Says what is wrong with a file without repeating any of it: it may be a key.
fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is none in it".to_owned(),
        pem::Error::MissingSectionEnd { .. } => "an END line is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed".to_owned(),
        pem::Error::Base64Decode(_) => "it is not Base64".to_owned(),
        _ => "it is not PEM".to_owned(),
    }
}

fn warn_of_dates(listener: &str, path: &Path, facts: &Facts) {
    let now = i64::try_from(crate::clock::unix_seconds()).unwrap_or(i64::MAX);
    let path = path.display();
    if facts.not_after < now {
        warn!(listener, "the certificate in {path} has expired: clients will refuse it");
    }
    if facts.not_before > now {
        warn!(listener, "the certificate in {path} is not good yet: clients will refuse it");
    }
}

/// The certificates that are shown, with the names that they are for.
#[derive(Debug)]
struct Shown {
    certificates: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for Shown {
    /// Prefers what is for the name that the client asks for, exactly before by wildcard, with a key that the client understands.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().unwrap_or_default();
        let is_understood = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let rank = |names: &[String]| {
            if names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
                0
            } else if names.iter().any(|name| certificate::is_for(name, host)) {
                1
            } else {
                2
            }
        };
        // Of those of the same rank the first.
        let understood = self.certificates.iter().filter(|(_, key)| is_understood(key));
        let best = understood.min_by_key(|(names, _)| rank(names));
        best.map(|(_, key)| Arc::clone(key))
    }
}
