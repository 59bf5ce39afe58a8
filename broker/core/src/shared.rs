//! What all shards share: routes, retained messages, trust and the numbers that never repeat. Read-mostly.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use siphasher::sip::SipHasher13;
use veilmq_protocol::veil::channel::{Identity, ServerPolicy, TicketKeys, TrustAnchors};
use veilmq_protocol::veil::distribution::Crl;
use veilmq_protocol::veil::hello::{ClientHello, Opening};
use veilmq_protocol::veil::{Kid, Scheme, Schemes, Suite};

use crate::access::{Access, AccessTables, Presence};
use crate::e2e::{Heads, Ledger, Registry, ScopeHash};
use crate::groups::FanOut;
use crate::handshakes::{HalfOpen, Handshakes};
use crate::id::{MessageId, Sequence, SessionId, ShardIndex};
use crate::joins::Joins;
use crate::message::Storing;
use crate::pressure::{MemoryPressure, PressureSign};
use crate::queue::QueueTotals;
use crate::record::Record;
use crate::replays::Replays;
use crate::retained::RetainedIndex;
use crate::routes::Routes;
use crate::settings::{Settings, SettingsInForce};
use crate::storage::{StorageSign, StorageState};
use crate::time::Moment;

/// Joins whose time is kept until somebody takes it.
const JOINS_NOTED_MAX: usize = 4_096;

/// What the broker needs to serve the VEIL-1 channel.
pub struct VeilServer {
    /// Its keys and certificate.
    pub identity: Identity,
    /// The suites and schemes it serves.
    pub policy: ServerPolicy,
    /// The schemes that are also served as in the paper, to clients that ask for it (VEIL-1 section 7).
    pub paper_modes: Schemes,
    /// Whether property mode, if the policy allows it, is for encrypted connections only (VEIL-1 section 5.3).
    pub property_requires_tls: bool,
    /// When clients are told to come back at the earliest if the broker goes away, in milliseconds; some are told twice as long.
    pub retry_milliseconds: u32,
    /// How long CONNACK waits for the issuer of the keys that a client asks for with CONNECT, in milliseconds; 0 passes no request on
    /// (VEIL-1 section 9.1).
    pub join_milliseconds: u32,
    /// How it serves handshakes of one round trip.
    pub one_trip: OneTrip,
    /// How it fans messages out.
    pub fan_out: FanOut,
}

impl VeilServer {
    /// Makes a broker that serves channels as one without configuration does: all suites and the default schemes, none as in the paper, property mode
    /// only below TLS if the policy allows it at all, and 3 seconds for an issuer to answer.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            policy: ServerPolicy::default(),
            paper_modes: Schemes::of(&[]),
            property_requires_tls: true,
            retry_milliseconds: 1_000,
            join_milliseconds: 3_000,
            one_trip: OneTrip::default(),
            fan_out: FanOut::default(),
        }
    }

    /// Returns the scheme that a client wants as in the paper, if that is served: it offers nothing else, in COMPACT and under suite 1.
    pub(crate) fn paper_mode(&self, offered: &ClientHello<'_>) -> Option<Scheme> {
        let scheme = offered.schemes.highest()?;
        let is_asked_for = matches!(offered.opening, Opening::Compact { .. })
            && offered.suites == [Suite::Aes256CbcHmacSha256.value()]
            && offered.schemes == Schemes::of(&[scheme]);
        (is_asked_for && self.paper_modes.contains(scheme)).then_some(scheme)
    }

    /// Returns what is accepted of a client on a connection that is encrypted below MQTT, or is not.
    pub(crate) fn policy_for(&self, offered: &ClientHello<'_>, is_encrypted: bool) -> Cow<'_, ServerPolicy> {
        if let Some(scheme) = self.paper_mode(offered) {
            return Cow::Owned(ServerPolicy {
                suites: vec![Suite::Aes256CbcHmacSha256],
                schemes: Schemes::of(&[scheme]),
                property_mode: false,
            });
        }
        if self.policy.property_mode && self.property_requires_tls && !is_encrypted {
            return Cow::Owned(ServerPolicy { property_mode: false, ..self.policy.clone() });
        }
        Cow::Borrowed(&self.policy)
    }
}

/// How the broker serves COMPACT and RESUME (VEIL-1 sections 4.6 and 4.7).
#[derive(Clone, Debug)]
pub struct OneTrip {
    /// Whether a client may use COMPACT.
    pub compact: bool,
    /// How far the clock of a client that uses COMPACT may be from the broker's, in milliseconds.
    pub clock_skew_milliseconds: u64,
    /// The most CONNECTs of COMPACT, and the most used tickets, that are remembered.
    pub replays_max: usize,
    /// The time from CONNACK to the client's first record, in milliseconds.
    pub proof_milliseconds: u64,
    /// How long a ticket is good for, in milliseconds; 0 gives none.
    pub ticket_milliseconds: u64,
    /// When the broker began to remember, in unix milliseconds.
    pub started_unix_ms: u64,
}

impl Default for OneTrip {
    fn default() -> Self {
        Self {
            compact: true,
            clock_skew_milliseconds: 120_000,
            replays_max: 1 << 20,
            proof_milliseconds: 5_000,
            ticket_milliseconds: 24 * 3_600 * 1_000,
            started_unix_ms: 0,
        }
    }
}

/// The state that all shards share.
pub struct Shared {
    /// The number of shards, 1 to 64.
    shards: u16,
    terms: RwLock<Arc<SettingsInForce>>,
    hash_key: [u8; 16],
    veil: Option<VeilServer>,
    trust: RwLock<TrustAnchors>,
    /// The newest revocation list of each authority.
    pub(crate) revocations: Mutex<BTreeMap<Kid, Crl>>,
    access: RwLock<Arc<AccessTables>>,
    /// What policies have counted.
    pub(crate) policy_counters: Registry,
    heads: RwLock<Heads>,
    pub(crate) presence: Presence,
    handshakes: Arc<Handshakes>,
    pub(crate) joins: Arc<Joins>,
    /// How long clients have waited for their keys, in milliseconds; nobody has looked yet.
    join_milliseconds: Mutex<Vec<u64>>,
    replays: Mutex<Replays>,
    tickets: Mutex<TicketKeys>,
    draining: AtomicBool,
    /// The sessions of all shards.
    session_count: AtomicUsize,
    storage: StorageSign,
    memory: PressureSign,
    batches: AtomicU64,
    /// The messages that wait on all shards.
    pub(crate) queues: QueueTotals,
    pub(crate) routes: Routes,
    pub(crate) retained: RetainedIndex,
    pub(crate) sessions: Sequence,
    pub(crate) messages: Sequence,
}

impl Shared {
    /// Makes the state of a broker without sessions; `hash_key` is random, so that clients cannot choose their shard.
    pub fn new(settings: Settings, hash_key: [u8; 16], veil: Option<VeilServer>) -> Arc<Self> {
        let access = RwLock::new(Arc::new(Access::open_to(settings.anonymous).into()));
        let retained = RetainedIndex::new(settings.retained_bytes_max);
        let one_trip = veil.as_ref().map(|veil| veil.one_trip.clone()).unwrap_or_default();
        Arc::new(Self {
            shards: settings.shards.max(1),
            terms: RwLock::new(Arc::new(SettingsInForce::new(settings))),
            hash_key,
            veil,
            trust: RwLock::default(),
            revocations: Mutex::default(),
            access,
            policy_counters: Registry::default(),
            heads: RwLock::default(),
            presence: Presence::default(),
            handshakes: Arc::default(),
            joins: Arc::default(),
            join_milliseconds: Mutex::default(),
            replays: Mutex::new(Replays::new(one_trip.clock_skew_milliseconds, one_trip.replays_max)),
            tickets: Mutex::new(TicketKeys::new(one_trip.ticket_milliseconds, one_trip.replays_max)),
            draining: AtomicBool::new(false),
            session_count: AtomicUsize::new(0),
            storage: StorageSign::default(),
            memory: PressureSign::default(),
            batches: AtomicU64::new(0),
            queues: QueueTotals::default(),
            routes: Routes::default(),
            retained,
            sessions: Sequence::starting_at(1),
            messages: Sequence::starting_at(1),
        })
    }

    /// Returns the limits and capabilities in force; a shard that was not told of them yet goes by earlier ones.
    pub fn settings(&self) -> Arc<SettingsInForce> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes limits and capabilities, all but the number of shards and whether queues spill. What clients were told with CONNACK
    /// holds for their connections still. Every shard must then be told with [`crate::Input::AccessChanged`]; until then it goes by
    /// the earlier ones.
    pub fn set_settings(&self, settings: Settings) {
        let before = self.settings();
        let settings = Settings { shards: self.shards, queues_spill: before.queues_spill, ..settings };
        self.retained.bound(settings.retained_bytes_max);
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(SettingsInForce::new(settings));
    }

    /// Returns the number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Returns the authorities whose certificates admit clients; they may change at any time. If one goes, every shard must be told
    /// with [`crate::Input::AccessChanged`].
    pub fn trust(&self) -> &RwLock<TrustAnchors> {
        &self.trust
    }

    /// Changes who may connect and what clients may do. Every shard must then be told with [`crate::Input::AccessChanged`]; what
    /// it does until then goes by the earlier tables.
    pub fn set_access(&self, access: impl Into<AccessTables>) {
        let mut access = access.into();
        access.policies_mut().count_in(&self.policy_counters);
        if access.has_controls() {
            self.presence.keep();
        }
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// Returns where the connections of a user come from, if some topic takes commands.
    pub fn peers_of(&self, user: &Arc<str>) -> Vec<Box<str>> {
        self.presence.peers_of(user)
    }

    /// Returns who may connect and what clients may do, as it is in force.
    pub fn access(&self) -> Arc<AccessTables> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings records of retained messages up to date: each comes to say what its topic retains now, if that is stored and not kept in
    /// memory alone. Whoever commits batches calls this right before, because the batches of several shards arrive in another order
    /// than the shards changed the index in. The last to be stored then says what the index says, and none takes back a newer one.
    pub fn refresh(&self, batch: &mut [Record]) {
        for record in batch {
            let topic: Arc<str> = match record {
                Record::Retained { message } => Arc::from(message.topic()),
                Record::RetainedCleared { topic } => Arc::clone(topic),
                Record::Session(_)
                | Record::SessionEnded { .. }
                | Record::Subscribed { .. }
                | Record::Unsubscribed { .. }
                | Record::Published { .. }
                | Record::Forgotten { .. }
                | Record::Advanced { .. }
                | Record::Settled { .. }
                | Record::Received { .. }
                | Record::Released { .. } => continue,
            };
            let is_stored = !self.settings().relaxed_topics.is_in_memory(&topic);
            *record = match self.retained.current(&topic).filter(|_| is_stored) {
                Some(message) => Record::Retained { message },
                None => Record::RetainedCleared { topic },
            };
        }
    }

    /// Tells every shard what durable storage is able to do; whoever commits batches calls this when it changes.
    pub fn show_storage(&self, state: StorageState) {
        self.storage.show(state);
    }

    /// Returns what durable storage is able to do.
    pub fn storage(&self) -> StorageState {
        self.storage.state()
    }

    /// Tells every shard how short memory is; whoever watches the process calls this when it changes.
    pub fn show_memory(&self, pressure: MemoryPressure) {
        self.memory.show(pressure);
    }

    /// Returns how short memory is.
    pub fn memory(&self) -> MemoryPressure {
        self.memory.pressure()
    }

    /// Returns what can be kept: what storage is able to do, unless memory does not allow it.
    pub(crate) fn room(&self) -> StorageState {
        match (self.storage.state(), self.memory.pressure()) {
            (StorageState::Ready, MemoryPressure::Critical) => StorageState::Full,
            (state, _) => state,
        }
    }

    /// Takes note that a batch is durable, or was refused: its messages can be read back from now on, or never. Whoever commits
    /// batches calls this right after, unless the store keeps nothing.
    pub fn committed(&self, batch: &[Record], is_durable: bool) {
        let storing = if is_durable { Storing::Done } else { Storing::Failed };
        for record in batch {
            if let Record::Published { message, .. } = record {
                message.set_storing(storing);
            }
        }
        self.batches.fetch_add(1, Ordering::Release);
    }

    /// Returns how many batches [`Shared::committed`] was told of.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Acquire)
    }

    /// Returns how many messages of clients are retained, and their bytes.
    pub fn retained_totals(&self) -> (usize, usize) {
        self.retained.totals()
    }

    /// Returns the one shard where the session of a Client Identifier lives.
    pub fn home(&self, client_id: &str) -> ShardIndex {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(client_id.as_bytes());
        ShardIndex(u16::try_from(hasher.finish() % u64::from(self.shards)).unwrap_or(0))
    }

    /// Verifies something by what is retained and trusted now.
    pub(crate) fn with_ledger<T>(&self, unix_ms: u64, read: impl FnOnce(&Ledger<'_>) -> T) -> T {
        self.with_trust(|trust| read(&Ledger { retained: &self.retained, trust, unix_ms }))
    }

    /// Reads what verified heads say of a scope; those that are retained are read first, once.
    pub(crate) fn with_heads<T>(&self, scope: ScopeHash, unix_ms: u64, read: impl FnOnce(&Heads) -> T) -> T {
        {
            let heads = self.heads.read().unwrap_or_else(PoisonError::into_inner);
            if !heads.lacks(&scope) {
                return read(&heads);
            }
        }
        let retained = self.with_ledger(unix_ms, |ledger| ledger.retained_heads(scope));
        let mut heads = self.heads.write().unwrap_or_else(PoisonError::into_inner);
        for (head, bundle) in &retained {
            if heads.compare(scope, head) == Ok(false) {
                heads.remember(scope, head, bundle);
            }
        }
        heads.has_read(scope);
        read(&heads)
    }

    /// Changes what is known of heads.
    pub(crate) fn change_heads(&self, change: impl FnOnce(&mut Heads)) {
        change(&mut self.heads.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns the public key of a member that has a prekey here.
    pub(crate) fn public_key_of(&self, sender: Kid, unix_ms: u64) -> Option<[u8; 32]> {
        self.with_ledger(unix_ms, |ledger| ledger.key_of(sender))
    }

    /// Takes note of how long a client has waited for keys that it asked for with CONNECT, unless too many are noted already.
    pub(crate) fn note_join(&self, milliseconds: u64) {
        let mut noted = self.join_milliseconds.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < JOINS_NOTED_MAX {
            noted.push(milliseconds);
        }
    }

    /// Takes how long clients have waited for keys that they asked for with CONNECT, answered or not, in milliseconds.
    pub fn take_join_milliseconds(&self) -> Vec<u64> {
        std::mem::take(&mut self.join_milliseconds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the key of hashes whose values clients must not be able to choose.
    pub(crate) fn hash_key(&self) -> [u8; 16] {
        self.hash_key
    }

    pub(crate) fn veil(&self) -> Option<&VeilServer> {
        self.veil.as_ref()
    }

    pub(crate) fn with_trust<T>(&self, read: impl FnOnce(&TrustAnchors) -> T) -> T {
        read(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replays(&self) -> MutexGuard<'_, Replays> {
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tickets(&self) -> MutexGuard<'_, TicketKeys> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a handshake with `peer` until the result is dropped; None if no other may begin now (VEIL-1 section 4.9).
    pub(crate) fn begin_handshake(&self, peer: &str, now: Moment) -> Option<HalfOpen> {
        self.handshakes.begin(peer, now, self.settings().half_open_max)
    }

    /// Takes note that the broker is going away: nobody is let in any more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Tells whether another session would be one too many. Shards that begin one at the same moment may each find room.
    pub(crate) fn has_all_sessions(&self) -> bool {
        let maximum = self.settings().sessions_max;
        maximum > 0 && self.session_count.load(Ordering::Relaxed) >= maximum
    }

    pub(crate) fn session_began(&self) {
        self.session_count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn session_ended(&self) {
        self.session_count.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.sessions.next())
    }

    pub(crate) fn next_message(&self) -> MessageId {
        MessageId(self.messages.next())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings()).finish_non_exhaustive()
    }
}
