//! Deadlines of connections, sessions and queues. Each holds at most one, and re-arms it when it fires too early.

use super::Shard;
use crate::access::Verdict;
use crate::connection::{Connection, JoinOutcome};
use crate::effect::Effect;
use crate::farewell::PeerError;
use crate::id::{ConnectionId, SessionId};
use crate::time::{Environment, Moment};

/// The deadlines that one turn acts on. When many clients are gone at once, their Will Messages do not make one turn, and one batch for
/// the store, that all others wait for.
const DEADLINES_PER_TURN: usize = 256;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// CONNECT, the answer of an issuer, the first record or the end of a re-authentication is late, the keep alive has passed, or the certificate has expired.
    Connection(ConnectionId),
    /// A Will is due, or the session ends.
    Session(SessionId),
    /// Messages that wait for a session expire.
    Queue(SessionId),
    /// Messages may have become durable with the batches of other shards.
    Spill,
    /// What ended sessions have left is to be passed on.
    Estate,
    /// Subscriptions bring more retained messages.
    Walks,
    /// Retained messages expire.
    Sweep,
}

impl Shard {
    /// Acts on deadlines that have passed, the oldest first; of many, some are left for the next turn.
    pub(super) fn tick(&mut self, environment: &mut Environment<'_>, effects: &mut Vec<Effect>) {
        for _ in 0..DEADLINES_PER_TURN {
            let due = self.timers.first().copied().filter(|(at, _)| *at <= environment.now);
            let Some((at, timer)) = due else { return };
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Connection(connection) => self.connection_deadline(connection, environment, effects),
                Timer::Session(session) => self.session_deadline(session, environment),
                Timer::Queue(session) => self.queue_deadline(session, environment.now),
                Timer::Spill => self.spill_deadline(),
                Timer::Estate => self.estate_deadline(environment.now),
                Timer::Walks => self.walks_deadline(environment.now),
                Timer::Sweep => self.sweep_deadline(environment.now),
            }
        }
    }

    /// Arms the connect deadline of a connection that was just accepted.
    pub(super) fn arm_connect(&mut self, connection: ConnectionId, deadline: Moment) {
        self.timers.insert((deadline, Timer::Connection(connection)));
    }

    pub(super) fn disarm_connect(&mut self, connection: ConnectionId, deadline: Moment) {
        self.timers.remove(&(deadline, Timer::Connection(connection)));
    }

    /// Arms the deadline of an established connection, and disarms the earlier one: its keep alive, the end of its certificate
    /// or of its re-authentication. Traffic does not touch the timer: it re-arms itself when it fires.
    pub(super) fn arm_established(&mut self, connection: ConnectionId) {
        let Some(established) = self.established(connection) else { return };
        let at = established.next_deadline();
        let earlier = std::mem::replace(&mut established.timer_at, at);
        if let Some(earlier) = earlier {
            self.timers.remove(&(earlier, Timer::Connection(connection)));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Connection(connection)));
        }
    }

    /// Arms the timer of a session for what it waits for, and disarms the earlier one.
    pub(super) fn arm_session(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if let Some(at) = state.timer_at.take() {
            self.timers.remove(&(at, Timer::Session(session)));
        }
        state.timer_at = state.next_deadline();
        if let Some(at) = state.timer_at {
            self.timers.insert((at, Timer::Session(session)));
        }
    }

    fn connection_deadline(
        &mut self,
        connection: ConnectionId,
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let reason = match self.connections.get(&connection) {
            None => return,
            // The issuer of its keys has had its time.
            Some(Connection::Opening(opening)) if opening.connect_deadline() > environment.now => {
                return self.conclude_join(connection, JoinOutcome::Pending, environment, effects);
            }
            // It has done its part, and its password has not had a turn.
            Some(Connection::Opening(opening)) if opening.awaits_verdict() => {
                return self.verified(connection, Verdict::Busy, environment, effects);
            }
            Some(Connection::Opening(opening)) => {
                PeerError::ConnectTimeout { seconds: opening.offer.connect_seconds_max }
            }
            Some(Connection::Proving(_)) => {
                PeerError::ProofTimeout { milliseconds: self.proof_milliseconds() }
            }
            Some(Connection::Established(established)) => {
                let is_over = |at: Option<Moment>| at.is_some_and(|at| at <= environment.now);
                if is_over(established.proof_over_at) {
                    if self.renew(connection, environment.now, effects) {
                        return;
                    }
                    PeerError::NotAuthorized("its certificate or token, or what vouched for it, has expired")
                } else if is_over(established.exchange_over_at()) {
                    PeerError::ReauthenticationTimeout { seconds: self.settings.connect_seconds_max }
                } else if is_over(established.silent_at()) {
                    PeerError::KeepAlive { seconds: established.keep_alive_seconds }
                } else {
                    if is_over(established.ticket_at()) {
                        self.renew_ticket(connection, environment);
                    }
                    self.arm_established(connection);
                    return;
                }
            }
        };
        self.close(connection, &reason.into(), environment, effects);
    }

    pub(super) fn session_deadline(&mut self, session: SessionId, environment: &mut Environment<'_>) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if state.is_over(environment.now) {
            self.stats.session_expired();
            self.end_session(session, environment.now);
            return;
        }
        if state.will_at().is_some_and(|at| at <= environment.now) {
            self.publish_will(session, environment.now);
        }
        self.arm_session(session);
    }
}
