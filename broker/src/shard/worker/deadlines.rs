//! What a shard does at its time: what the core has planned, and the end of connections that nobody waits for any longer.
//!
//! Invariant: whoever has a deadline of its own is looked at until it has none.

use std::rc::Rc;

use veilmq_core::{Input, Moment};

use super::Worker;
use crate::clock;
use crate::proxy::SAYS_NOTHING;
use crate::shard::connection::Connection;
use crate::transport::End;

/// How often connections with a deadline of their own are looked at.
const PATROL_MILLISECONDS: u64 = 500;

impl Worker {
    /// Has a connection looked after that has a deadline of its own.
    pub(in crate::shard) fn watch(&self, connection: &Rc<Connection>, now: Moment) {
        if connection.is_watched.replace(true) {
            return;
        }
        self.watched.borrow_mut().push(Rc::clone(connection));
        if self.patrol_at.get().is_none() {
            self.patrol_at.set(Some(now + PATROL_MILLISECONDS));
            self.timer.notify_one();
        }
    }

    /// Looks after connections that have a deadline of their own.
    fn patrol(&self, now: Moment) {
        let mut late = Vec::new();
        let watched = self.watched.take();
        for connection in watched {
            let closes_at = connection.closing_deadline();
            let gives_up_at =
                connection.blocked_since().map(|since| since.plus_seconds(self.gate.write_seconds_max()));
            match closes_at.or(gives_up_at).or(connection.speaks_by()) {
                Some(deadline) if deadline > now => {
                    self.watched.borrow_mut().push(connection);
                    continue;
                }
                Some(_) => late.push(Rc::clone(&connection)),
                None => {}
            }
            connection.is_watched.set(false);
        }
        for connection in late {
            self.give_up(&connection);
        }
        let is_idle = self.watched.borrow().is_empty();
        self.patrol_at.set((!is_idle).then_some(now + PATROL_MILLISECONDS));
    }

    fn give_up(&self, connection: &Connection) {
        let id = connection.id();
        match (connection.closing_deadline(), connection.blocked_since()) {
            (Some(_), _) => self.lose(connection),
            (None, Some(since)) => {
                self.counters.write_timed_out();
                let seconds = clock::now().since(since) / 1_000;
                self.abandon(connection, Input::TookNothing { connection: id, seconds });
            }
            (None, None) => self.end(id, End::Violated(SAYS_NOTHING)),
        }
    }

    pub(super) fn arm(&self, deadline: Option<Moment>) {
        let Some(deadline) = deadline else { return };
        if self.armed.get().is_none_or(|armed| deadline < armed) {
            self.armed.set(Some(deadline));
            self.timer.notify_one();
        }
    }

    /// Returns when something is due, and remembers it: only an earlier deadline needs to wake the timer.
    pub(in crate::shard) fn next_due(&self) -> Option<Moment> {
        let deadline = self.with_shard(|shard| shard.next_deadline());
        let due = [deadline, self.patrol_at.get()].into_iter().flatten().min();
        self.armed.set(due);
        due
    }

    /// Waits until an earlier deadline than the one last returned came up.
    pub(in crate::shard) async fn wait_for_earlier_deadline(&self) {
        self.timer.notified().await;
    }

    /// Does what is due.
    pub(in crate::shard) fn tick(&self) {
        let now = clock::now();
        if self.patrol_at.get().is_some_and(|at| at <= now) {
            self.patrol(now);
        }
        if self.with_shard(|shard| shard.next_deadline()).is_some_and(|at| at <= now) {
            self.turn(Input::Tick);
        }
    }
}
