//! Checks passwords on threads of its own, so that no shard's turn takes as long as a hash.
//!
//! Invariant: what waits to be checked is bounded in number and bytes, and what has waited longer than a client may take to
//! connect is not checked any more. Who is banned is refused without a hash.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};
use veilmq_config::BansConfig;
use veilmq_core::{ConnectionId, Credentials, Sample, SampleKind, ShardIndex, Verdict};

use super::jwt::{Proven, Tokens};
use super::limiter::{Ban, Banned, Limiter, NewBans};
use super::password::{PasswordHash, Scheme};
use super::password_file::{PasswordFile, PasswordFileError};
use super::users::Users;
use crate::admin::metrics::MetricSource;
use crate::clock;

/// The names of the threads begin with this.
const THREAD_NAME_PREFIX: &str = "password-";
const THREADS_MAX: usize = 4;
const WAITING_MAX: usize = 4_096;
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where verdicts go.
pub(crate) type Reply = dyn Fn(ShardIndex, ConnectionId, Verdict) + Send + Sync;

/// What is done about a password that is right and whose hash is weak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rehash {
    /// Nothing.
    Never,
    /// It is hashed anew and written to this file.
    In(PathBuf),
}

/// Checks passwords. It lives as long as somebody holds it.
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// By the number of the listener; those of the first are also for listeners that have none of their own.
    users: RwLock<Arc<[Users]>>,
    rehash: Mutex<Rehash>,
    /// Who vouches for users that are in no list, like these by the number of the listener.
    tokens: RwLock<Arc<[Option<Arc<Tokens>>]>>,
    limiter: Mutex<Limiter>,
    /// Whether an operator has ever banned anybody, so that others need not take the lock.
    has_operators_bans: AtomicBool,
    patience: Duration,
    counts: Counts,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    has_ended: bool,
}

struct Waiting {
    since: Instant,
    shard: ShardIndex,
    connection: ConnectionId,
    credentials: Box<Credentials>,
    reply: Arc<Reply>,
}

#[derive(Default)]
struct Counts {
    succeeded: AtomicU64,
    failed: AtomicU64,
    banned: AtomicU64,
    busy: AtomicU64,
    addresses_banned: AtomicU64,
    users_banned: AtomicU64,
    rehashed: AtomicU64,
}

impl Verifier {
    /// Starts the threads. A client has `patience` to connect.
    ///
    /// # Errors
    /// The operating system gave no thread.
    pub(super) fn start(bans: BansConfig, patience: Duration) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            queue: Mutex::default(),
            wake: Condvar::new(),
            users: RwLock::new(Arc::from([])),
            rehash: Mutex::new(Rehash::Never),
            tokens: RwLock::new(Arc::from([])),
            limiter: Mutex::new(Limiter::new(bans)),
            has_operators_bans: AtomicBool::new(false),
            patience,
            counts: Counts::default(),
        });
        let verifier = Self { inner };
        let threads = thread::available_parallelism().map_or(1, |cores| cores.get().clamp(1, THREADS_MAX));
        for number in 0..threads {
            let inner = Arc::clone(&verifier.inner);
            let name = format!("{THREAD_NAME_PREFIX}{number}");
            thread::Builder::new().name(name).spawn(move || inner.check_for_ever())?;
        }
        Ok(verifier)
    }

    /// Has a password checked; `reply` is told the verdict, at once if that needs no look at the password.
    pub(crate) fn verify(
        &self,
        shard: ShardIndex,
        connection: ConnectionId,
        credentials: Box<Credentials>,
        reply: &Arc<Reply>,
    ) {
        let now = Instant::now();
        let counts = &self.inner.counts;
        if lock(&self.inner.limiter).is_banned(address(&credentials), &credentials.user, now) {
            counts.banned.fetch_add(1, Ordering::Relaxed);
            return reply(shard, connection, Verdict::Banned);
        }
        let waiting = Waiting { since: now, shard, connection, credentials, reply: Arc::clone(reply) };
        if !self.inner.enqueue(waiting) {
            counts.busy.fetch_add(1, Ordering::Relaxed);
            reply(shard, connection, Verdict::Busy);
        }
    }

    /// Bans somebody because an operator says so.
    pub(crate) fn ban(&self, banned: &Banned, lasting: Duration) {
        lock(&self.inner.limiter).ban(banned, lasting, Instant::now());
        self.inner.has_operators_bans.store(true, Ordering::Release);
    }

    /// Lifts a ban; false if there is none.
    pub(crate) fn lift(&self, banned: &Banned) -> bool {
        lock(&self.inner.limiter).lift(banned, Instant::now())
    }

    /// Returns the bans in force, at most `count_max` of each kind.
    pub(crate) fn bans(&self, count_max: usize) -> Vec<Ban> {
        lock(&self.inner.limiter).bans(count_max, Instant::now())
    }

    /// Tells whether an operator has banned the address of a peer, which then may not even connect.
    pub(crate) fn is_banned_by_operator(&self, peer: &str) -> bool {
        self.inner.has_operators_bans.load(Ordering::Acquire)
            && address_of(peer).is_some_and(|address| {
                lock(&self.inner.limiter).is_banned_by_operator(address, Instant::now())
            })
    }

    /// Returns the users that passwords are checked against.
    pub(super) fn users(&self) -> Arc<[Users]> {
        self.inner.users()
    }

    /// Returns who vouches for users that are in no list, on whatever listener.
    pub(super) fn tokens(&self) -> Option<Arc<Tokens>> {
        self.inner.tokens().iter().flatten().next().cloned()
    }

    /// Goes by other users from now on.
    pub(super) fn change_users(&self, users: Vec<Users>) {
        *self.inner.users.write().unwrap_or_else(PoisonError::into_inner) = users.into();
    }

    /// Goes by other users and limits from now on.
    pub(super) fn apply(
        &self,
        users: Vec<Users>,
        rehash: Rehash,
        tokens: Vec<Option<Arc<Tokens>>>,
        bans: BansConfig,
    ) {
        *self.inner.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens.into();
        self.change_users(users);
        *lock(&self.inner.rehash) = rehash;
        lock(&self.inner.limiter).set_config(bans);
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        lock(&self.inner.queue).has_ended = true;
        self.inner.wake.notify_all();
    }
}

impl Inner {
    fn enqueue(&self, waiting: Waiting) -> bool {
        let mut queue = lock(&self.queue);
        let bytes = waiting.size_bytes();
        if queue.waiting.len() >= WAITING_MAX || queue.bytes + bytes > WAITING_BYTES_MAX {
            return false;
        }
        queue.bytes += bytes;
        queue.waiting.push_back(waiting);
        drop(queue);
        self.wake.notify_one();
        true
    }

    fn check_for_ever(&self) {
        while let Some(waiting) = self.next() {
            // Its connection has been closed by now.
            if waiting.since.elapsed() >= self.patience {
                continue;
            }
            let verdict = self.check(&waiting.credentials);
            (waiting.reply)(waiting.shard, waiting.connection, verdict);
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.has_ended {
                return None;
            }
            if let Some(waiting) = queue.waiting.pop_front() {
                queue.bytes -= waiting.size_bytes();
                return Some(waiting);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn check(&self, credentials: &Credentials) -> Verdict {
        let (address, user) = (address(credentials), &*credentials.user);
        // Many may have been let in before the first of them failed.
        if lock(&self.limiter).is_banned(address, user, Instant::now()) {
            self.counts.banned.fetch_add(1, Ordering::Relaxed);
            return Verdict::Banned;
        }
        let Some(verdict) = self.prove(credentials) else {
            let bans = lock(&self.limiter).failed(address, user, Instant::now());
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
            self.tell_bans(credentials, bans);
            return Verdict::Wrong;
        };
        lock(&self.limiter).succeeded(address, user, Instant::now());
        self.counts.succeeded.fetch_add(1, Ordering::Relaxed);
        verdict
    }

    /// Finds out whether a client is who it says. The form of the password alone says whether it is looked at as a token, and one that
    /// proves nothing is looked at as a password too, so that nobody learns which users there are [B14].
    fn prove(&self, credentials: &Credentials) -> Option<Verdict> {
        let (user, password) = (&*credentials.user, &credentials.password);
        let (users, tokens) = (self.users(), self.tokens());
        let entrance = usize::from(credentials.entrance.0);
        let users = users.get(entrance).or(users.first())?;
        if Tokens::has_form_of_token(password)
            && let Some(Some(tokens)) = tokens.get(entrance).or(tokens.first())
            && let Some(verdict) = vouched(tokens, credentials)
            && !users.has(user)
        {
            return Some(verdict);
        }
        let stamp = users.check(user, &credentials.client_id, password)?;
        if users.is_weak(user) {
            self.rehash(user, password);
        }
        Some(Verdict::Right(stamp))
    }

    fn tokens(&self) -> Arc<[Option<Arc<Tokens>>]> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell_bans(&self, credentials: &Credentials, bans: NewBans) {
        let (peer, user) = (&*credentials.peer, &*credentials.user);
        if bans.address {
            self.counts.addresses_banned.fetch_add(1, Ordering::Relaxed);
            warn!(peer, user, "too many wrong passwords: the address is banned for bans.seconds");
        }
        if bans.user {
            self.counts.users_banned.fetch_add(1, Ordering::Relaxed);
            warn!(
                peer,
                user,
                "too many wrong passwords: the user is banned where it has not been yet, for bans.seconds"
            );
        }
    }

    /// Hashes a password anew, once; the file is ours if the operator says so.
    fn rehash(&self, user: &str, password: &[u8]) {
        let rehash = lock(&self.rehash);
        let Rehash::In(path) = &*rehash else { return };
        // Another thread may have done it while this one waited.
        if !self.users().first().is_some_and(|users| users.is_weak(user)) {
            return;
        }
        match self.rehash_in(path, user, password) {
            Ok(()) => {
                self.counts.rehashed.fetch_add(1, Ordering::Relaxed);
                info!(user, file = %path.display(), "the password of a user was hashed anew");
            }
            Err(error) => error!(user, "a password cannot be hashed anew: {error}"),
        }
    }

    fn rehash_in(&self, path: &Path, user: &str, password: &[u8]) -> Result<(), RehashError> {
        let hash = PasswordHash::make(Scheme::Argon2id, password)?;
        let mut file = PasswordFile::read(path)?;
        // Somebody may have changed or removed the user since the file was loaded: then what it says now stays.
        let is_same = file.find(user).and_then(|text| PasswordHash::parse(text).ok());
        if !is_same.is_some_and(|earlier| earlier.is_of(password)) {
            return Ok(());
        }
        file.set(user, &hash);
        file.write(path)?;
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        if let [common] = &**users {
            *users = Arc::from([common.rehashed(user, hash)]);
        }
        Ok(())
    }

    fn users(&self) -> Arc<[Users]> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks a token.
fn vouched(tokens: &Tokens, credentials: &Credentials) -> Option<Verdict> {
    let (peer, user) = (&*credentials.peer, &*credentials.user);
    match tokens.check(user, &credentials.password, clock::unix_seconds()) {
        Ok(Proven { authority, until_seconds }) => {
            // The wall clock may have been set since the start, and moments are not.
            let left = until_seconds.saturating_mul(1_000).saturating_sub(clock::unix_ms());
            Some(Verdict::Vouched { authority, until: clock::now() + left })
        }
        Err(fault) => {
            debug!(peer, user, "a token was refused: {fault}");
            None
        }
    }
}

/// Why a password was not hashed anew.
#[derive(Debug, thiserror::Error)]
enum RehashError {
    #[error(transparent)]
    Hash(#[from] super::password::PasswordHashError),
    #[error(transparent)]
    File(#[from] PasswordFileError),
}

impl Waiting {
    fn size_bytes(&self) -> usize {
        size_of::<Credentials>() + self.credentials.user.len() + self.credentials.password.len()
    }
}

impl MetricSource for Verifier {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        let counts = &self.inner.counts;
        let mut counter = |name, help, label, cell: &AtomicU64| {
            visit(Sample {
                name,
                help,
                kind: SampleKind::Counter,
                label,
                value: cell.load(Ordering::Relaxed),
            });
        };
        for (result, cell) in [
            ("success", &counts.succeeded),
            ("failure", &counts.failed),
            ("banned", &counts.banned),
            ("busy", &counts.busy),
        ] {
            let help = "User names and passwords that were to be checked.";
            counter("veilmq_auth_attempts_total", help, Some(("result", result)), cell);
        }
        for (kind, cell) in [("address", &counts.addresses_banned), ("user", &counts.users_banned)] {
            let help = "Bans because of too many wrong passwords.";
            counter("veilmq_auth_bans_total", help, Some(("kind", kind)), cell);
        }
        let help = "Passwords that were hashed anew because their hash was weak.";
        counter("veilmq_auth_rehashed_total", help, None, &counts.rehashed);
        let (addresses, users) = lock(&self.inner.limiter).banned(Instant::now());
        for (kind, value) in [("address", addresses), ("user", users)] {
            visit(Sample {
                name: "veilmq_auth_banned",
                help: "Who is banned at the moment.",
                kind: SampleKind::Gauge,
                label: Some(("kind", kind)),
                value: value as u64,
            });
        }
    }
}

/// Returns the address that a connection comes from, if it has one.
fn address(credentials: &Credentials) -> Option<IpAddr> {
    address_of(&credentials.peer)
}

/// A client on a Unix socket has none.
fn address_of(peer: &str) -> Option<IpAddr> {
    peer.parse().map(|peer: SocketAddr| peer.ip()).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use veilmq_config::JwtConfig;
    use veilmq_core::EntranceId;

    use super::*;

    const BANS: BansConfig = BansConfig {
        failures_per_address_max: 3,
        failures_per_user_max: 0,
        window_seconds: 60,
        seconds: 300,
    };

    fn credentials(user: &str, password: &[u8]) -> Box<Credentials> {
        Box::new(Credentials {
            entrance: EntranceId::default(),
            peer: "192.0.2.7:50123".into(),
            client_id: "c".into(),
            user: user.into(),
            password: password.to_vec().into(),
        })
    }

    struct Bench {
        verifier: Verifier,
        reply: Arc<Reply>,
        verdicts: mpsc::Receiver<Verdict>,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        fn new(rehash: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("passwd");
            let mut file = PasswordFile::default();
            file.set("ann", &PasswordHash::make(Scheme::Sha512, b"right").unwrap());
            file.write(&path).unwrap();
            let verifier = Verifier::start(BANS, Duration::from_secs(10)).unwrap();
            let rehash = if rehash { Rehash::In(path.clone()) } else { Rehash::Never };
            verifier.apply(vec![Users::read(&path, &Users::default()).unwrap()], rehash, Vec::new(), BANS);
            let (told, verdicts) = mpsc::sync_channel(2 * WAITING_MAX);
            let reply: Arc<Reply> = Arc::new(move |_, _, verdict| told.send(verdict).unwrap());
            Self { verifier, reply, verdicts, path, _folder: folder }
        }

        fn go_by(&self, users: Users, tokens: Option<Arc<Tokens>>) {
            self.verifier.apply(vec![users], Rehash::Never, vec![tokens], BANS);
        }

        fn ask(&self, user: &str, password: &[u8]) -> Verdict {
            self.verifier.verify(ShardIndex(0), ConnectionId(1), credentials(user, password), &self.reply);
            self.verdicts.recv_timeout(Duration::from_secs(10)).unwrap()
        }
    }

    #[test]
    fn passwords_are_checked_and_too_many_wrong_ones_ban_the_address() {
        // [B14]
        let bench = Bench::new(false);
        assert!(matches!(bench.ask("ann", b"right"), Verdict::Right(_)));

        for (user, password) in [("ann", b"wrong"), ("bob", b"right"), ("ann", b"")] as [(&str, &[u8]); 3] {
            assert_eq!(bench.ask(user, password), Verdict::Wrong);
        }

        assert_eq!(bench.ask("ann", b"right"), Verdict::Banned);
        let mut banned = 0;
        bench.verifier.visit(&mut |sample| {
            if sample.name == "veilmq_auth_bans_total" {
                banned += sample.value;
            }
        });
        assert_eq!(banned, 1);
    }

    #[test]
    fn more_than_can_wait_are_told_that_the_broker_is_busy() {
        // [B15]
        let bench = Bench::new(false);
        let strong = PasswordHash::make(Scheme::Argon2id, b"right").unwrap();
        let mut file = PasswordFile::default();
        file.set("ann", &strong);
        file.write(&bench.path).unwrap();
        bench.go_by(Users::read(&bench.path, &Users::default()).unwrap(), None);

        for _ in 0..WAITING_MAX + 100 {
            bench.verifier.verify(ShardIndex(0), ConnectionId(1), credentials("ann", b"wrong"), &bench.reply);
        }

        let busy = bench.verdicts.try_iter().filter(|verdict| *verdict == Verdict::Busy).count();
        assert!(busy > 0, "the queue holds no more than {WAITING_MAX}");
    }

    #[test]
    fn a_weak_hash_becomes_a_strong_one_at_the_first_login_if_the_file_is_ours() {
        for is_ours in [true, false] {
            let bench = Bench::new(is_ours);
            let first = bench.ask("ann", b"right");

            let text = std::fs::read_to_string(&bench.path).unwrap();

            assert_eq!(text.starts_with("ann:$argon2id$"), is_ours, "{text}");
            assert_eq!(bench.ask("ann", b"right"), first, "it is the same user as before");
        }
    }

    #[test]
    fn a_token_proves_a_user_that_no_file_knows_and_no_other() {
        let bench = Bench::new(false);
        let vectors: serde_json::Value = serde_json::from_str(include_str!("jwt/vectors.json")).unwrap();
        let jwks_file = bench.path.with_file_name("jwks.json");
        std::fs::write(&jwks_file, vectors["jwks"].to_string()).unwrap();
        let config = JwtConfig { jwks_file: Some(jwks_file), ..JwtConfig::default() };
        let tokens = Tokens::read(&config, None).unwrap().map(Arc::new);
        let token = vectors["tokens"]["lasting"]["ES256"].as_str().unwrap().as_bytes();

        bench.go_by(Users::read(&bench.path, &Users::default()).unwrap(), tokens.clone());
        assert_eq!(bench.ask("ann", token), Verdict::Wrong);
        assert!(matches!(bench.ask("ann", b"right"), Verdict::Right(_)));
        bench.go_by(Users::default(), tokens);
        assert!(matches!(bench.ask("ann", token), Verdict::Vouched { .. }));
        bench.go_by(Users::default(), None);
        assert_eq!(bench.ask("ann", token), Verdict::Wrong);
    }
}
