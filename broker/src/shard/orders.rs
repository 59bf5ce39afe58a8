//! What an operator wants of a shard: to see sessions, or to have a client gone. A bridge sees its own session so.
//!
//! Orders come through the mailbox and are carried out between two turns. Who asked may have given up waiting; then nobody is told.

use std::sync::Arc;

use tokio::sync::oneshot;
use veilmq_core::{Input, SessionDetail, SessionQuery, SessionSummary};

use super::worker::Worker;

/// The most orders that wait for one shard; more are dropped, and whoever gave them sees that there is no answer.
pub(super) const ORDERS_MAX: usize = 256;
/// The most subscriptions of one session that operators are shown.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

/// Something that somebody outside wants of a shard.
pub enum Order {
    /// To see sessions.
    List {
        /// Which.
        query: Arc<SessionQuery>,
        /// Where they go.
        reply: oneshot::Sender<Vec<SessionSummary>>,
    },
    /// To see one session.
    Show {
        /// Its Client Identifier.
        client_id: String,
        /// The most of its subscriptions that are shown.
        subscriptions_max: usize,
        /// Where it goes; None if there is none.
        reply: oneshot::Sender<Option<SessionDetail>>,
    },
    /// To have a client gone.
    Dismiss {
        /// Its Client Identifier.
        client_id: String,
        /// Whether its session ends too.
        ends_session: bool,
        /// Where the session goes, as it was before; None if there is none.
        reply: oneshot::Sender<Option<SessionDetail>>,
    },
}

/// Carries orders out.
pub(super) fn carry_out(worker: &Worker) {
    for order in worker.exchange().take_orders(worker.index()) {
        let show = |client_id: &str, subscriptions_max| {
            worker.with_shard(|shard| shard.session(client_id, subscriptions_max))
        };
        // Who gave up waiting is not told.
        match order {
            Order::List { query, reply } => {
                let _ = reply.send(worker.with_shard(|shard| shard.sessions(&query)));
            }
            Order::Show { client_id, subscriptions_max, reply } => {
                let _ = reply.send(show(&client_id, subscriptions_max));
            }
            Order::Dismiss { client_id, ends_session, reply } => {
                let before = show(&client_id, SUBSCRIPTIONS_MAX);
                worker.turn(Input::Dismissed { client_id: &client_id, ends_session });
                let _ = reply.send(before);
            }
        }
    }
}
