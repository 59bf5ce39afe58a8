//! Checks passwords on threads of its own, so that no shard's turn takes as long as a hash or a question to a service.
//!
//! Where a service is asked, it is asked about every user, and only where it leaves that to others are hashes and tokens looked at.
//! Invariant: what waits to be checked is bounded in number and bytes, however much of it one network sends the others have their
//! turns, and what has waited longer than a client may take to connect is not checked any more. Who is banned is refused without a
//! hash and without a question.

mod asker;
mod counts;
mod line;
mod rehash;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use veilmq_config::BansConfig;
use veilmq_core::{ConnectionId, Credentials, EntranceId, Sample, SampleKind, ShardIndex, Terms, Verdict};

use self::asker::Asker;
use self::counts::Counts;
use self::line::{Line, WEIGHT_MIN};
use super::http::{Event, Hook, Outcome};
use super::jwt::{Proven, TokenFault, Tokens};
use super::limiter::{Ban, Banned, Limiter, NewBans, network};
use super::users::Users;
use crate::admin::metrics::MetricSource;
use crate::clock;

/// The names of the threads begin with this.
const THREAD_NAME_PREFIX: &str = "password-";
const THREADS_MAX: usize = 4;
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many wait at most.
const WAITING_MAX: usize = WAITING_BYTES_MAX / WEIGHT_MIN;

/// Where verdicts go.
pub(crate) type Reply = dyn Fn(ShardIndex, ConnectionId, Verdict) + Send + Sync;

/// The file that passwords on one listener, or on all, are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PasswordSource {
    /// The file.
    pub(super) path: PathBuf,
    /// Whether a password that is right and whose hash is weak is hashed anew and written there.
    pub(super) is_rehashed: bool,
}

/// Checks passwords. It lives as long as somebody holds it.
pub struct Verifier {
    inner: Arc<Inner>,
    asker: Asker,
}

/// What passwords are checked by on one listener, or on all.
#[derive(Clone, Default)]
pub(super) struct Vouchers {
    /// Whose tokens are taken.
    pub(super) tokens: Option<Arc<Tokens>>,
    /// Who is asked before all else.
    pub(super) hook: Option<Arc<Hook>>,
}

impl Vouchers {
    /// Returns the numbers by which the core knows them.
    pub(super) fn authorities(&self) -> Vec<u64> {
        let keys = self.tokens.iter().flat_map(|tokens| tokens.authorities());
        keys.chain(self.hook.iter().map(|hook| hook.authority())).collect()
    }
}

struct Inner {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// By the number of the listener; those of the first are also for listeners that have none of their own.
    users: RwLock<Arc<[Users]>>,
    /// Like the users by the number of the listener.
    passwords: Mutex<Vec<Option<PasswordSource>>>,
    /// Who vouches for users that are in no list, like these by the number of the listener.
    vouchers: RwLock<Arc<[Vouchers]>>,
    limiter: Mutex<Limiter>,
    /// Whether an operator has ever banned anybody, so that others need not take the lock.
    has_operators_bans: AtomicBool,
    patience_seconds: AtomicU64,
    counts: Counts,
}

struct Queue {
    waiting: Line<Waiting>,
    has_ended: bool,
}

struct Waiting {
    since: Instant,
    shard: ShardIndex,
    connection: ConnectionId,
    credentials: Box<Credentials>,
    reply: Arc<Reply>,
}

impl Verifier {
    /// Starts the threads. A client has `patience_seconds` to connect.
    ///
    /// # Errors
    /// The operating system gave no thread.
    pub(super) fn start(bans: BansConfig, patience_seconds: u32) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            queue: Mutex::new(Queue { waiting: Line::new(WAITING_BYTES_MAX), has_ended: false }),
            wake: Condvar::new(),
            users: RwLock::new(Arc::from([])),
            passwords: Mutex::default(),
            vouchers: RwLock::new(Arc::from([])),
            limiter: Mutex::new(Limiter::new(bans)),
            has_operators_bans: AtomicBool::new(false),
            patience_seconds: AtomicU64::new(patience_seconds.into()),
            counts: Counts::default(),
        });
        let asker = Asker::start(Arc::clone(&inner))?;
        let verifier = Self { inner, asker };
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
        let waiting =
            Waiting { since: Instant::now(), shard, connection, credentials, reply: Arc::clone(reply) };
        if self.inner.is_banned(&waiting.credentials) {
            return self.inner.count_and_tell(&waiting, Verdict::Banned);
        }
        let Some(hook) = self.inner.vouchers(waiting.credentials.entrance).hook else {
            return self.inner.pass_on(waiting);
        };
        if let Some(outcome) = hook.recall(&waiting.credentials) {
            self.inner.counts.recalled();
            return self.inner.heed(waiting, outcome);
        }
        if !self.asker.submit(hook, Event::Connect, waiting) {
            self.inner.counts.verdict(&Verdict::Busy);
            reply(shard, connection, Verdict::Busy);
        }
    }

    /// Has somebody asked once more about a client that was let in; `reply` is told the verdict.
    pub(crate) fn renew(
        &self,
        shard: ShardIndex,
        connection: ConnectionId,
        credentials: Box<Credentials>,
        reply: &Arc<Reply>,
    ) {
        let Some(hook) = self.inner.vouchers(credentials.entrance).hook else {
            return reply(shard, connection, Verdict::Wrong);
        };
        let since = Instant::now();
        let waiting = Waiting { since, shard, connection, credentials, reply: Arc::clone(reply) };
        if !self.asker.submit(hook, Event::Renew, waiting) {
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
    pub(super) fn vouchers(&self) -> Vouchers {
        let all = self.inner.all_vouchers();
        Vouchers {
            tokens: all.iter().find_map(|vouchers| vouchers.tokens.clone()),
            hook: all.iter().find_map(|vouchers| vouchers.hook.clone()),
        }
    }

    /// Goes by other users from now on.
    pub(super) fn change_users(&self, users: Vec<Users>) {
        *self.inner.users.write().unwrap_or_else(PoisonError::into_inner) = users.into();
    }

    /// Goes by other users and limits from now on.
    pub(super) fn apply(
        &self,
        users: Vec<Users>,
        passwords: Vec<Option<PasswordSource>>,
        vouchers: Vec<Vouchers>,
        (bans, patience_seconds): (BansConfig, u32),
    ) {
        self.inner.patience_seconds.store(patience_seconds.into(), Ordering::Relaxed);
        *self.inner.vouchers.write().unwrap_or_else(PoisonError::into_inner) = vouchers.into();
        self.change_users(users);
        *lock(&self.inner.passwords) = passwords;
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
    /// Tells whether the client has had the time to connect, so that its connection is closed by now.
    fn is_out_of_time(&self, waiting: &Waiting) -> bool {
        waiting.since.elapsed().as_secs() >= self.patience_seconds.load(Ordering::Relaxed)
    }

    fn check_for_ever(&self) {
        while let Some(waiting) = self.next() {
            // It has been told so by now.
            if self.is_out_of_time(&waiting) {
                self.counts.verdict(&Verdict::Busy);
                continue;
            }
            // Many may have been let in before the first of them failed.
            let outcome = match self.is_banned(&waiting.credentials) {
                true => Outcome::Decided(Verdict::Banned),
                false => self.prove(&waiting.credentials),
            };
            self.conclude(&waiting, outcome);
        }
    }

    /// Tells what came of a look at a password.
    fn conclude(&self, waiting: &Waiting, outcome: Outcome) {
        let is_right = matches!(outcome, Outcome::Decided(Verdict::Right(_)));
        match outcome {
            Outcome::Decided(verdict) => self.settle(waiting, verdict),
            Outcome::Over => self.count_and_tell(waiting, Verdict::Wrong),
            // Nobody else is left to say.
            Outcome::Next => self.settle(waiting, Verdict::Wrong),
        }
        if is_right {
            self.rehash(&waiting.credentials);
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.has_ended {
                return None;
            }
            if let Some(waiting) = queue.waiting.pop() {
                return Some(waiting);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has a password looked at here.
    fn pass_on(&self, waiting: Waiting) {
        let (network, bytes) = (address(&waiting.credentials).map(network), waiting.size_bytes());
        let left_out = lock(&self.queue).waiting.push(network, bytes, waiting);
        self.wake.notify_one();
        for waiting in left_out {
            self.count_and_tell(&waiting, Verdict::Busy);
        }
    }

    /// Does what a service says of a login.
    fn heed(&self, waiting: Waiting, outcome: Outcome) {
        match outcome {
            Outcome::Next => self.pass_on(waiting),
            // Many may have been asked about before the first of them failed.
            Outcome::Decided(_) | Outcome::Over if self.is_banned(&waiting.credentials) => {
                self.count_and_tell(&waiting, Verdict::Banned);
            }
            Outcome::Decided(verdict) => self.settle(&waiting, verdict),
            Outcome::Over => self.count_and_tell(&waiting, Verdict::Wrong),
        }
    }

    /// Passes a verdict on, and takes note of who fails.
    fn settle(&self, waiting: &Waiting, verdict: Verdict) {
        let credentials = &waiting.credentials;
        let (address, named, now) = (address(credentials), &*credentials.user, Instant::now());
        let mut limiter = lock(&self.limiter);
        let mut verdict = verdict;
        let bans = match &verdict {
            Verdict::Wrong => Some(limiter.failed(address, named, now)),
            // Who gave no user name may be somebody who is banned.
            Verdict::Vouched { user, .. } if limiter.is_banned(address, user, now) => {
                verdict = Verdict::Banned;
                None
            }
            Verdict::Vouched { user, .. } => {
                limiter.succeeded(address, user, now);
                None
            }
            Verdict::Right(_) => {
                limiter.succeeded(address, named, now);
                None
            }
            Verdict::Banned | Verdict::Busy => None,
        };
        drop(limiter);
        if let Some(bans) = bans {
            self.tell_bans(credentials, bans);
        }
        self.count_and_tell(waiting, verdict);
    }

    fn count_and_tell(&self, waiting: &Waiting, verdict: Verdict) {
        self.counts.verdict(&verdict);
        waiting.tell(verdict);
    }

    fn is_banned(&self, credentials: &Credentials) -> bool {
        lock(&self.limiter).is_banned(address(credentials), &credentials.user, Instant::now())
    }

    /// Finds out whether a client is who it says. The form of the password alone says whether it is looked at as a token, and one that
    /// proves nothing is looked at as a password too, so that nobody learns which users there are [B14].
    fn prove(&self, credentials: &Credentials) -> Outcome {
        let (user, password) = (&*credentials.user, &credentials.password);
        let users = self.users();
        let Some(users) = users.get(usize::from(credentials.entrance.0)).or(users.first()) else {
            return Outcome::Next;
        };
        if Tokens::has_form_of_token(password)
            && let Some(tokens) = self.vouchers(credentials.entrance).tokens
        {
            match proven(&tokens, credentials) {
                Ok(proven) if !users.has(&proven.user) => return Outcome::Decided(vouched(proven)),
                Err(TokenFault::Expired) if !users.has(user) => return Outcome::Over,
                Ok(_) | Err(_) => {}
            }
        }
        match users.check(user, &credentials.client_id, password) {
            Some(stamp) => Outcome::Decided(Verdict::Right(stamp)),
            None => Outcome::Next,
        }
    }

    /// Returns who vouches for users on a listener.
    fn vouchers(&self, entrance: EntranceId) -> Vouchers {
        let all = self.all_vouchers();
        all.get(usize::from(entrance.0)).or(all.first()).cloned().unwrap_or_default()
    }

    fn all_vouchers(&self) -> Arc<[Vouchers]> {
        Arc::clone(&self.vouchers.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell_bans(&self, credentials: &Credentials, bans: NewBans) {
        self.counts.bans(bans);
        let (peer, user) = (&*credentials.peer, &*credentials.user);
        if bans.address {
            warn!(peer, user, "too many wrong passwords: the address is banned for bans.seconds");
        }
        if bans.user {
            warn!(
                peer,
                user,
                "too many wrong passwords: the user is banned where it has not been yet, for bans.seconds"
            );
        }
    }

    fn users(&self) -> Arc<[Users]> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks a token.
fn proven(tokens: &Tokens, credentials: &Credentials) -> Result<Proven, TokenFault> {
    let (peer, user) = (&*credentials.peer, &*credentials.user);
    let proven = tokens.check(user, &credentials.password, clock::unix_seconds());
    proven.inspect_err(|fault| debug!(peer, user, "a token was refused: {fault}"))
}

/// Lets in whom a token proves, until it ends.
fn vouched(proven: Proven) -> Verdict {
    let Proven { user, authority, until_seconds } = proven;
    // The wall clock may have been set since the start, and moments are not.
    let left = until_seconds.saturating_mul(1_000).saturating_sub(clock::unix_ms());
    Verdict::Vouched { user, authority, terms: Terms::until(clock::now() + left) }
}

impl Waiting {
    fn size_bytes(&self) -> usize {
        size_of::<Credentials>() + self.credentials.user.len() + self.credentials.password.len()
    }

    fn tell(&self, verdict: Verdict) {
        (self.reply)(self.shard, self.connection, verdict);
    }
}

impl MetricSource for Verifier {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        self.inner.counts.visit(visit);
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
        visit(Sample {
            name: "veilmq_auth_http_cache_entries",
            help: "Answers of the service of access.http that are kept.",
            kind: SampleKind::Gauge,
            label: None,
            value: self.vouchers().hook.map_or(0, |hook| hook.cached()) as u64,
        });
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
mod tests;
