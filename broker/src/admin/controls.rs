//! What operators can do to a running broker, as calls that other threads carry out.
//!
//! Every call is bounded in time: a shard that does not answer is reported, not waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use veilmq_core::{SessionDetail, SessionQuery, SessionSummary, ShardIndex, Shared};

use crate::access::Verifier;
use crate::shard::{Exchange, Mail, Order, SUBSCRIPTIONS_MAX};

const ANSWER_SECONDS_MAX: u64 = 5;

/// A wish to have the configuration read again; what became of it is sent back.
pub type ReloadRequest = oneshot::Sender<Result<ReloadReport, String>>;

/// What a reload has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Options that have changed, and what became of listeners.
    pub changed: Vec<String>,
    /// Options that have another value now, which takes effect at the next start.
    pub next_start: Vec<&'static str>,
}

/// Those who carry out what operators want.
pub struct Controls {
    /// The shards.
    pub(crate) exchange: Arc<Exchange<Mail>>,
    /// What they share.
    pub(crate) shared: Arc<Shared>,
    /// Who knows the bans.
    pub(crate) verifier: Arc<Verifier>,
    /// Who reads the configuration again.
    pub(crate) reload: mpsc::Sender<ReloadRequest>,
}

/// A shard, or the main thread, has not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {ANSWER_SECONDS_MAX} s: the broker is busy or ending")]
pub(super) struct Unanswered;

impl Controls {
    /// Returns the first sessions of all shards that a query asks for.
    pub(super) async fn sessions(&self, query: SessionQuery) -> Result<Vec<SessionSummary>, Unanswered> {
        let query = Arc::new(query);
        let ask = |shard| self.ask(shard, |reply| Order::List { query: Arc::clone(&query), reply });
        let answers: Vec<_> = (0..self.shared.shards()).map(|shard| ask(ShardIndex(shard))).collect();
        let mut sessions = Vec::new();
        for answer in answers {
            sessions.append(&mut wait(answer).await?);
        }
        sessions.sort_unstable_by(|one, other| one.client_id.cmp(&other.client_id));
        sessions.truncate(query.limit);
        Ok(sessions)
    }

    /// Returns one session; None if there is none.
    pub(super) async fn session(&self, client_id: &str) -> Result<Option<SessionDetail>, Unanswered> {
        let home = self.shared.home(client_id);
        let show =
            |reply| Order::Show { client_id: client_id.into(), subscriptions_max: SUBSCRIPTIONS_MAX, reply };
        wait(self.ask(home, show)).await
    }

    /// Ends the connection of a session, and the session too if `ends_session`; returns what it was before, None if there is none.
    pub(super) async fn dismiss(
        &self,
        client_id: &str,
        ends_session: bool,
    ) -> Result<Option<SessionDetail>, Unanswered> {
        let home = self.shared.home(client_id);
        let dismiss = |reply| Order::Dismiss { client_id: client_id.into(), ends_session, reply };
        wait(self.ask(home, dismiss)).await
    }

    /// Has the configuration read again; the inner error says what cannot be used.
    pub(super) async fn reload(&self) -> Result<Result<ReloadReport, String>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.reload.try_send(reply).map_err(|_| Unanswered)?;
        wait(answer).await
    }

    fn ask<T>(
        &self,
        shard: ShardIndex,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        // One that is not taken is dropped with its sender, which the receiver notices.
        self.exchange.order(shard, order(reply));
        answer
    }
}

async fn wait<T>(answer: oneshot::Receiver<T>) -> Result<T, Unanswered> {
    let answered = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), answer).await;
    answered.map_err(|_| Unanswered)?.map_err(|_| Unanswered)
}
