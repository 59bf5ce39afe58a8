//! Messages of a resumed session that no subscription of this program matches, as long as it may still subscribe.
//!
//! The broker sends what has waited right after CONNACK, before the application has subscribed again. Such a message is kept as it came,
//! neither opened nor acknowledged. Invariants: what is kept is unacknowledged on the connection that there is, or of a session
//! that is gone, so that the receive maximum bounds it; nothing leaves but to a subscription, or because the application wants none.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};
use veilmq_protocol::{TopicFilter, TopicName};

use super::Driver;
use crate::{client::routes::Routes, message::Message, session::Receipt};

/// Filters that the application has given up and that are remembered, since their last messages may still come.
const GIVEN_UP_MAX: usize = 1_024;
/// How long messages wait before the operator is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the session may have subscriptions of an earlier run of the program.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Earlier {
    /// There was no connection yet.
    #[default]
    Unknown,
    /// It may, and the application has not said that it wants nothing of them.
    Subscribed,
    /// It has none.
    None,
    /// The application wants nothing of them.
    Declined,
}

#[derive(Default)]
pub(super) struct Unclaimed {
    earlier: Earlier,
    messages: VecDeque<(Message, Receipt)>,
    given_up: VecDeque<String>,
    /// When to tell that messages wait.
    tell_at: Option<Instant>,
}

impl Unclaimed {
    /// A connection is there; returns the receipts of what comes again.
    fn connected(&mut self, session_present: bool) -> Vec<Receipt> {
        match (self.earlier, session_present) {
            (Earlier::Unknown, true) => self.earlier = Earlier::Subscribed,
            // What was kept is nowhere else any more, so it stays.
            (Earlier::Unknown | Earlier::Subscribed, false) => self.earlier = Earlier::None,
            (Earlier::Subscribed | Earlier::None | Earlier::Declined, _) => {}
        }
        match self.earlier {
            Earlier::Subscribed => self.messages.drain(..).map(|(_, receipt)| receipt).collect(),
            Earlier::Unknown | Earlier::None | Earlier::Declined => Vec::new(),
        }
    }

    /// Whether the application may still want what comes on `topic`, to which it has not subscribed.
    fn may_be_wanted(&self, topic: &str) -> bool {
        self.earlier == Earlier::Subscribed && !self.given_up.iter().any(|filter| matches(filter, topic))
    }

    fn keep(&mut self, message: Message, receipt: Receipt) {
        if self.messages.is_empty() {
            self.tell_at = Some(Instant::now() + PATIENCE);
        }
        self.messages.push_back((message, receipt));
    }

    /// Takes what somebody has subscribed to now, in its order.
    fn claim(&mut self, routes: &Routes) -> VecDeque<(Message, Receipt)> {
        let (claimed, kept) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(message, _)| routes.lead_to_somebody(&message.topic));
        self.messages = kept;
        claimed
    }

    /// Takes note that nobody wants what a filter matches any more; returns the receipts of that.
    fn give_up(&mut self, filter: String) -> Vec<Receipt> {
        if self.earlier != Earlier::Subscribed {
            return Vec::new();
        }
        let (unwanted, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(message, _)| matches(&filter, &message.topic));
        self.messages = kept;
        self.given_up.push_back(filter);
        if self.given_up.len() > GIVEN_UP_MAX {
            self.given_up.pop_front();
        }
        unwanted.into_iter().map(|(_, receipt)| receipt).collect()
    }

    /// Takes note that nobody wants any of this; returns the receipts.
    fn decline(&mut self) -> Vec<Receipt> {
        self.earlier = Earlier::Declined;
        self.given_up.clear();
        std::mem::take(&mut self.messages).into_iter().map(|(_, receipt)| receipt).collect()
    }

    /// When [`Unclaimed::tell`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.tell_at.filter(|_| !self.messages.is_empty())
    }

    /// Tells once that messages wait, when they have waited for long.
    pub(super) fn tell(&mut self) {
        if self.due().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.tell_at = None;
        let topics: BTreeSet<&str> = self.messages.iter().map(|(message, _)| &*message.topic).collect();
        let topic = topics.first();
        warn!(
            messages = self.messages.len(),
            topics = topics.len(),
            topic,
            "messages of an earlier run's subscriptions wait until the application subscribes to them or declines them"
        );
    }
}

fn matches(filter: &str, topic: &str) -> bool {
    match (TopicFilter::new(filter), TopicName::new(topic)) {
        (Ok(filter), Ok(topic)) => filter.matches(topic),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

impl Driver {
    /// A connection is there: what is kept comes again, if the session is still there.
    pub(super) fn expect_unclaimed(&mut self, session_present: bool) {
        for receipt in self.unclaimed.connected(session_present) {
            self.session.forget(receipt);
        }
    }

    /// Keeps a message that the application may subscribe to yet, or gives it back.
    pub(super) fn keep_unclaimed(&mut self, message: Message, receipt: Option<Receipt>) -> Option<Message> {
        let topic = &message.topic;
        let Some(receipt) = receipt.filter(|_| {
            self.unclaimed.may_be_wanted(topic)
                && !self.reading.contains(topic)
                && !self.routes.lead_to_somebody(topic)
        }) else {
            return Some(message);
        };
        self.unclaimed.keep(message, receipt);
        None
    }

    /// Takes up what came before the application had subscribed to it.
    pub(super) fn claim(&mut self) {
        self.claimed.extend(self.unclaimed.claim(&self.routes));
    }

    /// Acknowledges what waits for a filter, which the application has given up.
    pub(super) fn give_up(&mut self, filters: impl IntoIterator<Item = String>) {
        for receipt in filters.into_iter().flat_map(|filter| self.unclaimed.give_up(filter)) {
            self.session.acknowledge(receipt);
        }
    }

    /// Acknowledges what waits, and from now on whatever comes for subscriptions of an earlier run.
    pub(super) fn decline_unclaimed(&mut self) -> usize {
        let declined = self.unclaimed.decline();
        for receipt in &declined {
            self.session.acknowledge(*receipt);
        }
        if !declined.is_empty() {
            info!(messages = declined.len(), "messages of an earlier run's subscriptions are dropped");
        }
        declined.len()
    }
}
