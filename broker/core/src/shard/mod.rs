//! A shard: the sessions, connections and timers that one thread owns.
//!
//! This file holds the state and the turn; what each input means is in the files beside it. Invariant: at the end of a turn
//! every record of the turn is in one commit, and whatever must wait for it is in `gated` under that commit's ticket.

mod acknowledge;
mod authenticate;
mod close;
mod command;
mod connack;
mod control;
mod deliver;
mod enforce;
mod fan_out;
mod gate;
mod inherit;
mod inspect;
mod join;
mod open;
mod outgoing;
mod prove;
mod publish;
mod receive;
mod release;
mod renewal;
mod retained;
mod share;
mod spill;
mod subscribe;
mod sweep;
mod timer;
mod verdict;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use veilmq_protocol::{Packet, PacketId, PacketType};

use self::gate::Gated;
use self::inherit::Estate;
pub use self::inspect::{
    ConnectionSummary, RetainedPart, RetainedSummary, SessionDetail, SessionQuery, SessionSummary,
};
use self::outgoing::Outgoing;
use self::release::Unreleased;
use self::retained::Walks;
use self::spill::Spill;
use self::timer::Timer;
use crate::access::{AccessTables, Command};
use crate::connection::{Connection, Established, JoinOutcome};
use crate::e2e::Streams;
use crate::effect::{Effect, Input, Parcel, Reader};
use crate::farewell::{BrokerReason, CloseReason, Departure, PeerError};
use crate::groups::Groups;
use crate::id::{ConnectionId, IdMap, IdSet, MessageId, SessionId, ShardIndex, Ticket};
use crate::log_limit::LogLimit;
use crate::matches::MatchCache;
use crate::outbox::Outbox;
use crate::record::Record;
use crate::session::Session;
use crate::settings::SettingsInForce;
use crate::shared::Shared;
use crate::stats::{Gauges, Stats};
use crate::takeovers::Takeovers;
use crate::time::{Environment, Moment};

/// One shard of the broker.
pub struct Shard {
    index: ShardIndex,
    shared: Arc<Shared>,
    /// Who may connect and what clients may do, as [`Shared::access`] said when this shard was last told.
    access: Arc<AccessTables>,
    /// What is offered and how much is allowed, as this shard was last told.
    settings: Arc<SettingsInForce>,
    connections: IdMap<ConnectionId, Connection>,
    /// Boxed, because a table of sessions themselves would hold room for twice as many.
    sessions: IdMap<SessionId, Box<Session>>,
    by_client_id: HashMap<Arc<str>, SessionId>,
    takeovers: Takeovers,
    timers: BTreeSet<(Moment, Timer)>,
    matches: MatchCache,
    stats: Arc<Stats>,
    gauges: Gauges,
    outgoing: Outgoing,
    /// Records of this turn.
    records: Vec<Record>,
    /// Parcels of this turn.
    parcels: Vec<(ShardIndex, Parcel)>,
    /// The messages to be read back that this turn asks for.
    fetches: Vec<(Reader, Vec<MessageId>)>,
    /// Commands of this turn.
    commands: Vec<Command>,
    spill: Spill,
    estate: Estate,
    /// What issuers have answered in this turn to clients that wait on this shard.
    joined: Vec<(ConnectionId, Arc<[u8]>)>,
    /// A revocation list has come in this turn.
    has_revoked: bool,
    walks: Walks,
    /// When this shard looks for retained messages that have expired.
    sweep_at: Option<Moment>,
    /// The ticket that the records of this turn will go under.
    ticket: Ticket,
    /// Whether something waits for that ticket.
    awaited: bool,
    /// The newest ticket that is durable or has failed.
    settled: Option<Ticket>,
    /// What waits for a commit, oldest first.
    gated: VecDeque<(Ticket, Gated)>,
    /// The envelopes that clients of this shard have published lately.
    streams: Streams,
    /// The wall clock of this turn.
    unix_ms: u64,
    /// The application properties of the PUBLISH at hand.
    scratch: Vec<u8>,
    /// Messages of QoS 2 that wait for their PUBREL.
    unreleased: IdMap<ConnectionId, Vec<Unreleased>>,
    /// Messages of QoS 2 that have come again, until their PUBREL; empty without the habits of Mosquitto.
    repeated: IdMap<ConnectionId, IdSet<PacketId>>,
    /// Lines on connections that were refused.
    refusals: LogLimit,
    /// Lines on publications that were refused.
    refused_publications: LogLimit,
}

/// Whom a line of the log is about.
#[derive(Clone, Copy)]
struct About<'a> {
    client: Option<&'a str>,
    user: Option<&'a str>,
    /// Where it is connected from, if it is.
    peer: Option<&'a str>,
}

impl<'a> About<'a> {
    fn session(
        session: SessionId,
        sessions: &'a IdMap<SessionId, Box<Session>>,
        connections: &'a IdMap<ConnectionId, Connection>,
    ) -> Self {
        let state = sessions.get(&session);
        let connection = state.and_then(|state| connections.get(&state.connection?));
        Self {
            client: state.map(|state| &*state.client_id),
            user: state.and_then(|state| state.told_user()),
            peer: match connection {
                Some(Connection::Established(established)) => Some(&*established.peer),
                Some(Connection::Opening(_) | Connection::Proving(_)) | None => None,
            },
        }
    }
}

impl Shard {
    /// Makes a shard without sessions.
    pub fn new(index: ShardIndex, shared: Arc<Shared>) -> Self {
        let fan_out = shared.veil().map(|veil| veil.fan_out.clone()).unwrap_or_default();
        let stats = Arc::<Stats>::default();
        let settings = shared.settings();
        let outgoing = Outgoing::new(Arc::clone(&settings), Arc::clone(&stats), Groups::new(fan_out));
        Self {
            index,
            access: shared.access(),
            streams: Streams::new(shared.hash_key()),
            unix_ms: 0,
            takeovers: Takeovers::new(settings.takeovers_per_minute_max),
            settings,
            shared,
            connections: IdMap::default(),
            sessions: IdMap::default(),
            by_client_id: HashMap::new(),
            timers: BTreeSet::new(),
            matches: MatchCache::default(),
            outgoing,
            stats,
            gauges: Gauges::default(),
            records: Vec::new(),
            parcels: Vec::new(),
            fetches: Vec::new(),
            commands: Vec::new(),
            spill: Spill::default(),
            estate: Estate::default(),
            joined: Vec::new(),
            has_revoked: false,
            walks: Walks::default(),
            sweep_at: None,
            ticket: Ticket(1),
            awaited: false,
            settled: None,
            gated: VecDeque::new(),
            scratch: Vec::new(),
            unreleased: IdMap::default(),
            repeated: IdMap::default(),
            refusals: LogLimit::default(),
            refused_publications: LogLimit::default(),
        }
    }

    /// Returns the shard's position.
    pub fn index(&self) -> ShardIndex {
        self.index
    }

    /// Returns what the shard counts.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Takes in what happened. Effects that cannot wait for the end of the turn are appended to `effects`.
    pub fn handle(&mut self, environment: &mut Environment<'_>, input: Input<'_>, effects: &mut Vec<Effect>) {
        self.unix_ms = environment.unix_ms;
        match input {
            Input::Accepted { connection, peer, entrance, promise, is_encrypted } => {
                self.accepted(connection, peer, entrance, (promise, is_encrypted), environment.now);
            }
            Input::Located { connection, peer } => self.located(connection, peer),
            Input::Vouched { connection, user } => self.vouched(connection, user),
            Input::Certified { connection, certificate } => self.certified(connection, certificate),
            Input::Bridged { connection, errand, is_encrypted } => {
                self.bridged(connection, errand, is_encrypted);
            }
            Input::Verified { connection, verdict } => {
                self.verified(connection, verdict, environment, effects);
            }
            Input::Answered { session, topic, payload } => {
                self.command_answered(session, topic, payload, environment.now);
            }
            Input::AccessChanged => self.access_changed(environment, effects),
            Input::Received { connection, bytes } => self.received(connection, bytes, environment, effects),
            Input::Closed { connection } => {
                self.close(connection, &CloseReason::Departure(Departure::Closed), environment, effects);
            }
            Input::TookNothing { connection, seconds } => {
                let reason = CloseReason::Departure(Departure::TookNothing { seconds });
                self.close(connection, &reason, environment, effects);
            }
            Input::Violated { connection, rule } => {
                self.close(connection, &PeerError::Transport(rule).into(), environment, effects);
            }
            Input::Arrived(arrival) => self.arrived(*arrival, environment, effects),
            Input::Drained { connection } => self.drained(connection, environment.now),
            Input::Parcel(Parcel::Deliver { message, matches }) => {
                self.deliver_all(&message, &matches, environment.now);
            }
            Input::Parcel(Parcel::Allot(allotment)) => self.deliver_allotment(allotment, environment.now),
            Input::Parcel(Parcel::Joined { connection, response }) => {
                self.conclude_join(connection, JoinOutcome::Done(response), environment, effects);
            }
            Input::Parcel(Parcel::AccessChanged) => self.access_changed(environment, effects),
            Input::Committed(ticket) => self.open_gates(ticket, environment),
            Input::CommitFailed(ticket) => self.fail_gates(ticket, environment, effects),
            Input::Fetched { reader: Reader::Session(session), asked, messages } => {
                self.fetched(session, &asked, messages, environment, effects);
            }
            Input::Fetched { reader: Reader::Heirs, asked, messages } => {
                self.fetched_for_heirs(&asked, messages, environment.now);
            }
            Input::Announced { topic, payload, retain } => {
                self.announce(topic, payload, retain, environment.now);
            }
            Input::TooFast { connection } => {
                self.close(connection, &PeerError::MessageRate.into(), environment, effects);
            }
            Input::Dismissed { client_id, ends_session } => {
                self.dismiss(client_id, ends_session, environment, effects);
            }
            Input::Tick => self.tick(environment, effects),
            Input::Shutdown => self.shut_down(environment, effects),
        }
    }

    /// Ends the turn: seals what was written, and asks for the commit, the fetches, the parcels and the writes of the turn, in
    /// this order.
    pub fn end_turn(&mut self, environment: &mut Environment<'_>, effects: &mut Vec<Effect>) {
        self.conclude_joins(environment, effects);
        if std::mem::take(&mut self.has_revoked) {
            self.access_changed(environment, effects);
        }
        self.let_go_of_stored(environment.now);
        self.walks.end_turn();
        if let Some(made) = self.outgoing.groups.end_turn() {
            self.stats.channel_operations(&made);
        }
        self.report_queues();
        if !self.records.is_empty() {
            effects.push(Effect::Commit {
                ticket: self.ticket,
                records: std::mem::take(&mut self.records),
                awaited: std::mem::take(&mut self.awaited),
            });
            self.ticket = Ticket(self.ticket.0 + 1);
        }
        effects.extend(self.fetches.drain(..).map(|(reader, messages)| Effect::Fetch { reader, messages }));
        effects.extend(self.commands.drain(..).map(|command| Effect::Command(Box::new(command))));
        effects.extend(self.parcels.drain(..).map(|(shard, parcel)| Effect::Post { shard, parcel }));
        let mut dirty = std::mem::take(&mut self.outgoing.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        for connection in dirty.drain(..) {
            if self.seal(connection, environment.now) {
                effects.push(Effect::Flush(connection));
            }
        }
        self.outgoing.dirty = dirty;
        self.show_gauges();
    }

    /// Lets [`Shard::stats`] say what the shard holds at the moment.
    pub(crate) fn show_gauges(&self) {
        self.stats.gauges(&self.gauges());
        self.stats.group_rekeys(self.outgoing.groups.rekeys());
    }

    /// Lends the bytes that wait for a connection to `write`, which writes as many as it can, and returns what it returns; None
    /// while they have to wait for a commit.
    pub fn write<T>(&mut self, connection: ConnectionId, write: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
        let outbox = match self.connections.get_mut(&connection)? {
            Connection::Opening(opening) => &mut opening.outbox,
            Connection::Proving(proving) => proving.wire.outbox(),
            Connection::Established(established) if established.corked_until.is_some() => return None,
            Connection::Established(established) => established.wire.outbox(),
        };
        let result = write(outbox);
        self.outgoing.written(outbox);
        Some(result)
    }

    /// Returns the bytes in an outbox above which messages wait elsewhere.
    pub fn outbox_bytes_max(&self) -> usize {
        self.settings.outbox_bytes_max
    }

    /// Tells whether a client has not taken so many answers that nothing more should be read from it: as many bytes as an outbox holds,
    /// beside those that fill it. Messages wait elsewhere once an outbox is full; answers cannot. [`Input::Drained`] settles it.
    pub fn owes_too_much(&self, connection: ConnectionId) -> bool {
        match self.connections.get(&connection) {
            Some(Connection::Established(established)) => {
                established.owed_bytes as usize >= self.settings.outbox_bytes_max
            }
            Some(Connection::Opening(_) | Connection::Proving(_)) | None => false,
        }
    }

    /// Returns when [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Returns how many deliveries wait or are in flight.
    pub(crate) fn deliveries(&self) -> usize {
        self.gauges.queued_messages + self.gauges.inflight_messages
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Takes in a disconnected session whose routes are known.
    pub(crate) fn insert_session(&mut self, mut session: Session, now: Moment) {
        let id = session.id;
        session.permissions = verdict::permissions_of(&session, &self.access);
        self.gauges.subscriptions += session.subscriptions.len();
        self.gauges.shared_subscriptions += session.shared_subscriptions();
        self.gauges.queued_messages += session.outbound.waiting();
        self.gauges.queued_bytes += session.outbound.waiting_bytes();
        self.gauges.queued_memory_bytes += session.outbound.memory_bytes();
        self.gauges.inflight_messages += session.outbound.in_flight();
        self.by_client_id.insert(Arc::clone(&session.client_id), id);
        self.sessions.insert(id, Box::new(session));
        self.shared.session_began();
        self.show_availability(id, now);
        self.arm_session(id);
        self.arm_queue(id, now);
    }

    /// Closes the record that this turn wrote into; true if there is something to flush.
    fn seal(&mut self, connection: ConnectionId, now: Moment) -> bool {
        let settings = &self.settings;
        let (rekey_milliseconds, rekey_records) =
            (u64::from(settings.rekey_seconds) * 1_000, settings.rekey_records);
        match self.connections.get_mut(&connection) {
            None => false,
            Some(Connection::Opening(opening)) => !opening.outbox.is_empty(),
            Some(Connection::Proving(proving)) => !proving.wire.outbox().is_empty(),
            Some(Connection::Established(established)) => {
                established.is_dirty = false;
                established.wire.seal(now, rekey_milliseconds, rekey_records);
                if let Some(made) = established.wire.take_operations() {
                    self.stats.channel_operations(&made);
                }
                established.corked_until.is_none() && !established.wire.outbox().is_empty()
            }
        }
    }

    fn established(&mut self, connection: ConnectionId) -> Option<&mut Established> {
        match self.connections.get_mut(&connection)? {
            Connection::Established(established) => Some(established),
            Connection::Opening(_) | Connection::Proving(_) => None,
        }
    }

    /// Sends a packet that is not a PUBLISH on an established connection.
    fn send(&mut self, connection: ConnectionId, packet: &Packet<'_>) {
        if let Some(Connection::Established(established)) = self.connections.get_mut(&connection) {
            self.outgoing.send(established, packet);
        }
    }

    fn count_sent(&self, packet: PacketType, bytes: usize) {
        self.stats.packet_sent(packet);
        self.stats.bytes_sent(bytes);
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            connections: self.connections.len(),
            sessions_disconnected: self.sessions.len() - self.gauges.sessions_connected,
            ..self.gauges
        }
    }

    fn shut_down(&mut self, environment: &mut Environment<'_>, effects: &mut Vec<Effect>) {
        self.shared.drain();
        // Who has not said CONNECT yet is told where to go when it does; there is no version to tell it in before.
        let is_silent =
            |state: &Connection| matches!(state, Connection::Opening(opening) if opening.is_silent());
        let known = self.connections.iter().filter(|(_, state)| !is_silent(state));
        let mut open: Vec<ConnectionId> = known.map(|(connection, _)| *connection).collect();
        open.sort_unstable();
        self.withdraw_transient_members();
        for connection in open {
            self.close(connection, &CloseReason::Broker(BrokerReason::Shutdown), environment, effects);
        }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("index", &self.index)
            .field("gauges", &self.gauges())
            .finish_non_exhaustive()
    }
}
