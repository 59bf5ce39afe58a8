//! Operations on channels that the broker begins: another ticket, a notice, a goodbye (VEIL-1 section 5.4).
//!
//! A client without a channel is told nothing here. In property mode an operation is a PUBLISH, to a client that has subscribed to it.
//! Invariant: nothing here goes into an outbox that is full, so a client that provokes notices costs no more than it reads.

use veilmq_protocol::veil::record::ControlOp;
use veilmq_protocol::{TopicFilter, TopicName};

use super::Shard;
use crate::connection::Wire;
use crate::farewell::CloseReason;
use crate::id::{ConnectionId, SessionId};
use crate::time::Environment;

/// Spreads clients that have to come back: a constant whose multiples are far apart.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Shard {
    /// Gives a client another ticket while it could still come back with the last.
    pub(super) fn renew_ticket(&mut self, connection: ConnectionId, environment: &mut Environment<'_>) {
        let shared = std::sync::Arc::clone(&self.shared);
        let Some(established) = self.established(connection) else { return };
        let Some(channel) = &mut established.channel else { return };
        match channel.renew_ticket(&shared, environment) {
            Ok(ticket) => self.tell(connection, &ControlOp::Ticket(&ticket)),
            Err(error) => tracing::debug!(connection = connection.0, %error, "no other ticket"),
        }
    }

    /// Tells the client of a session something that a person should read, if it is there and has a channel.
    pub(super) fn notify(&mut self, session: SessionId, text: &str) {
        let Some(connection) = self.sessions.get(&session).and_then(|state| state.connection) else { return };
        self.tell(connection, &ControlOp::Notice(text));
    }

    fn tell(&mut self, connection: ConnectionId, op: &ControlOp<'_>) {
        let bytes_max = self.settings.outbox_bytes_max;
        let Some(crate::connection::Connection::Established(established)) =
            self.connections.get_mut(&connection)
        else {
            return;
        };
        let is_heard = established.wire.has_records()
            || established.wire.operations_topic().and_then(|topic| TopicName::new(topic).ok()).is_some_and(
                |topic| {
                    let filters =
                        self.sessions.get(&established.session).map(|state| state.subscriptions.keys());
                    filters
                        .into_iter()
                        .flatten()
                        .any(|filter| TopicFilter::new(filter).is_ok_and(|filter| filter.matches(topic)))
                },
            );
        if !is_heard || established.wire.waiting_bytes() >= bytes_max {
            return;
        }
        self.outgoing.lend(established.wire.outbox());
        if let Err(error) = established.wire.control(op) {
            tracing::debug!(connection = connection.0, %error, "operation not sent");
        }
        if established.becomes_dirty() {
            self.outgoing.dirty.push(connection);
        }
    }

    /// Tells a client on a channel when to come back, right before its connection ends for a reason that passes.
    pub(super) fn say_goodbye(&self, connection: ConnectionId, wire: &mut Wire, reason: &CloseReason) {
        let Some(code) = reason.passes().filter(|_| wire.has_records()) else { return };
        let base = self.shared.veil().map_or(0, |veil| veil.retry_milliseconds);
        // The upper half of the product is as good as random, so not all come at once.
        let spread = connection.0.wrapping_mul(SPREAD) >> 32;
        let retry_after_ms = u64::from(base) + spread % (u64::from(base) + 1);
        let op = ControlOp::Goodbye {
            reason: code.value(),
            retry_after_ms: u32::try_from(retry_after_ms).unwrap_or(u32::MAX),
        };
        if let Err(error) = wire.control(&op) {
            tracing::debug!(connection = connection.0, %error, "goodbye not said");
        }
    }
}
