//! Messages that no subscription of this program takes, as long as one may still.
//!
//! The broker sends what has waited right after CONNACK, before the application has subscribed again. Such a message is kept as it came,
//! neither opened nor acknowledged. What was left in a subscription that the application has dropped is kept as it was opened. Invariants:
//! what is kept is unacknowledged on the connection that there is, or of a session that is gone, so that the receive maximum
//! bounds it; nothing leaves but to a subscription, or because the application wants none.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};
use veilmq_protocol::{TopicFilter, TopicName};

use super::{Driver, Waiter};
use crate::{
    client::routes::{Routes, Unread},
    message::{Message, Received},
    session::Receipt,
};

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
    /// What dropped subscriptions have left, in the order in which it came.
    unread: BTreeMap<Receipt, Unread>,
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
        self.tell_later();
        self.messages.push_back((message, receipt));
    }

    fn keep_unread(&mut self, unread: Unread) {
        self.tell_later();
        self.unread.insert(unread.receipt, unread);
    }

    fn tell_later(&mut self) {
        if self.is_empty() {
            self.tell_at = Some(Instant::now() + PATIENCE);
        }
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.unread.is_empty()
    }

    /// Takes what somebody has subscribed to now, in its order.
    fn claim(&mut self, routes: &Routes) -> VecDeque<(Message, Receipt)> {
        let (claimed, kept) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(message, _)| routes.lead_to_somebody(&message.topic));
        self.messages = kept;
        claimed
    }

    /// Takes what was left and somebody reads now, in its order.
    fn claim_unread(&mut self, routes: &Routes) -> impl Iterator<Item = Unread> {
        self.unread
            .extract_if(.., |_, unread| routes.lead_to_a_reader(&unread.topic))
            .map(|(_, unread)| unread)
    }

    /// Returns the receipts of what was left of a filter, if it `is_meant`.
    fn dismiss(&mut self, filter: &str, is_meant: impl Fn(&Unread) -> bool) -> Vec<Receipt> {
        let dismissed = self.unread.extract_if(.., |_, unread| is_meant(unread) && unread.is_for(filter));
        dismissed.map(|(receipt, _)| receipt).collect()
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
        let unread = std::mem::take(&mut self.unread).into_keys();
        std::mem::take(&mut self.messages).into_iter().map(|(_, receipt)| receipt).chain(unread).collect()
    }

    /// When [`Unclaimed::tell`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.tell_at.filter(|_| !self.is_empty())
    }

    /// Tells once that messages wait, when they have waited for long.
    pub(super) fn tell(&mut self) {
        if self.due().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.tell_at = None;
        let kept = self.messages.iter().map(|(message, _)| &*message.topic);
        let topics: BTreeSet<&str> = kept.chain(self.unread.values().map(|unread| &*unread.topic)).collect();
        let topic = topics.first();
        warn!(
            messages = self.messages.len() + self.unread.len(),
            topics = topics.len(),
            topic,
            "messages of subscriptions of an earlier run, or that were dropped, wait until the application subscribes to them or \
             declines them"
        );
    }
}

impl Unread {
    /// Whether a filter matches it, on the wire or as the application calls its topic.
    fn is_for(&self, filter: &str) -> bool {
        let shown = match &self.received {
            Received::Message(Message { topic, .. }) | Received::Refused { topic, .. } => Some(topic),
            Received::Missed { .. } => None,
        };
        matches(filter, &self.topic) || shown.is_some_and(|topic| matches(filter, topic))
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
        self.reclaimed.extend(self.unclaimed.claim_unread(&self.routes));
    }

    /// Keeps what the application has left in subscriptions that it has dropped, unless another one takes it.
    pub(super) fn keep_unread(&mut self, unread: Vec<Unread>) {
        for unread in unread {
            self.unclaimed.keep_unread(unread);
        }
        self.reclaimed.extend(self.unclaimed.claim_unread(&self.routes));
    }

    /// Has the broker send no more for subscriptions that the application has dropped.
    pub(super) fn leave_abandoned(&mut self) {
        let abandoned = self.routes.abandoned();
        for filter in &abandoned {
            let token = self.session.unsubscribe(filter);
            self.waiters.insert(token, Waiter::Abandoned { filter: filter.clone() });
        }
        self.give_up(abandoned);
    }

    /// The broker sends no more for a filter. What came after the application had dropped its subscriptions is for nobody.
    pub(super) fn left(&mut self, filter: &str) {
        self.acknowledge_taken();
        self.routes.unsubscribed(filter);
        for receipt in self.unclaimed.dismiss(filter, |unread| unread.late) {
            self.taken(receipt);
        }
    }

    /// Acknowledges what was left of a filter from which the application has unsubscribed.
    pub(super) fn dismiss(&mut self, filter: &str) {
        self.acknowledge_taken();
        for receipt in self.unclaimed.dismiss(filter, |_| true) {
            self.taken(receipt);
        }
    }

    /// Acknowledges what waits for a filter, which the application has given up.
    pub(super) fn give_up(&mut self, filters: impl IntoIterator<Item = String>) {
        for receipt in filters.into_iter().flat_map(|filter| self.unclaimed.give_up(filter)) {
            self.session.acknowledge(receipt);
        }
    }

    /// Acknowledges what waits, and from now on whatever comes for subscriptions of an earlier run.
    pub(super) fn decline_unclaimed(&mut self) -> usize {
        self.acknowledge_taken();
        let declined = self.unclaimed.decline();
        for receipt in &declined {
            self.taken(*receipt);
        }
        if !declined.is_empty() {
            info!(messages = declined.len(), "messages that no subscription has taken are dropped");
        }
        declined.len()
    }
}
