//! The distribution of group keys on one connection after the other: what is asked for, said and kept.
//!
//! Invariants: what the broker retains is heard before anything is issued, unless the broker keeps it back for long; nothing is published before the state it follows
//! from is on disk, where there is a file for it; what waits for a key is bounded in number and in time.

mod request;

use std::collections::{BTreeSet, VecDeque};

use tracing::{error, info, warn};
use veilmq_protocol::{
    QoS,
    veil::{Kid, distribution::DistributionTopic},
};

pub(super) use self::request::{KeyAnswer, KeyRequest};
use super::{clock::entropy, key_log::KeyLog};
use crate::{
    e2e::{
        E2e, Scope,
        distribution::{Distribution, Outgoing},
    },
    message::Message,
    session::Receipt,
};

/// Messages that may wait for a key, besides those that the receive maximum bounds, and how long (VEIL-1 section 17).
const PARKED_MAX: usize = 256;
const PARKED_MS: u64 = 10_000;
/// How long after a failed save the next is tried.
const RETRY_MS: u64 = 1_000;
/// How long an issuer waits for what the broker retains while nothing comes: first at QoS 1, then at QoS 0, where messages that the application
/// has not read keep nothing back.
const LISTENING_MS: u64 = 5_000;
/// What the broker retains has been heard by then; what is old after that was not replaced.
const HEARD_MS: u64 = 60_000;

/// What is to be sent now.
#[derive(Default)]
pub(super) struct KeyWork {
    pub(super) filters: Vec<(String, QoS)>,
    /// Filters that were subscribed to before and are no longer needed.
    pub(super) gone: Vec<String>,
    pub(super) publications: Vec<Outgoing>,
    /// Why the state was not saved that something was to follow from.
    pub(super) unsaved: Option<String>,
}

/// A message that could not be opened yet.
pub(super) struct Parked {
    pub(super) message: Message,
    pub(super) receipt: Option<Receipt>,
    deadline_ms: u64,
}

/// How far this connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Disconnected,
    /// The broker has not answered this many subscriptions.
    Subscribing(usize),
    /// Retained messages may still come.
    Listening(Listening),
    Open,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Listening {
    /// The broker has acknowledged the introduction.
    is_acknowledged: bool,
    /// What was to come before the introduction has: an issuer hears its own, behind what is retained. An acknowledgement does not wait for
    /// messages that the receive maximum keeps back.
    is_heard: bool,
    /// Until when something must come.
    until_ms: u64,
}

pub(super) struct Keys {
    pub(super) distribution: Distribution,
    /// What is asked for with CONNECT, and of whom.
    asks: Option<(Scope, Kid)>,
    phase: Phase,
    introduced: bool,
    subscribed: BTreeSet<String>,
    /// Not published before the state is saved.
    held: Vec<Outgoing>,
    unsaved: bool,
    /// Why the last attempt to save failed.
    save_error: Option<String>,
    retry_ms: u64,
    /// Since when everything is subscribed to on the connection that there is.
    listening_ms: Option<u64>,
    parked: VecDeque<Parked>,
    /// Messages the broker waits for that may wait for a key before keys come at QoS 0: half of what it sends at a time.
    receipts_max: usize,
    /// Keys come at QoS 0, until this moment at least, in unix milliseconds.
    hurried_until_ms: Option<u64>,
    /// Everything comes at QoS 0 until this issuer has heard it.
    listens_again: bool,
    log: KeyLog,
}

impl Keys {
    pub(super) fn new(distribution: Distribution, asks: Option<(Scope, Kid)>, receive_maximum: u16) -> Self {
        Self {
            distribution,
            asks,
            phase: Phase::Disconnected,
            introduced: false,
            subscribed: BTreeSet::new(),
            held: Vec::new(),
            unsaved: false,
            save_error: None,
            retry_ms: 0,
            listening_ms: None,
            parked: VecDeque::new(),
            receipts_max: usize::from(receive_maximum / 2),
            hurried_until_ms: None,
            listens_again: false,
            log: KeyLog::default(),
        }
    }

    /// The JOIN_REQ for the next CONNECT, if there is something to ask for.
    pub(super) fn join_request(&mut self, now_unix_ms: u64) -> Option<Vec<u8>> {
        let (scope, issuer) = self.asks.as_ref()?;
        self.distribution.ask_with_connect(scope, *issuer, now_unix_ms, &mut entropy)
    }

    pub(super) fn connected(&mut self, now_unix_ms: u64) {
        self.phase = Phase::Subscribing(0);
        // What it waits for could not come meanwhile.
        for parked in &mut self.parked {
            parked.deadline_ms = now_unix_ms.saturating_add(PARKED_MS);
        }
        self.distribution.connected();
        self.introduced = false;
        self.listening_ms = None;
        self.listens_again = false;
        self.subscribed.clear();
    }

    pub(super) fn disconnected(&mut self) {
        self.phase = Phase::Disconnected;
        self.listening_ms = None;
    }

    /// The broker has answered a subscription.
    pub(super) fn subscribed(&mut self) {
        if let Phase::Subscribing(waiting) = &mut self.phase {
            *waiting = waiting.saturating_sub(1);
        }
    }

    /// The broker has answered a publication.
    pub(super) fn published(&mut self) {
        if let Phase::Listening(listening) = &mut self.phase {
            listening.is_acknowledged = true;
            self.open_when_heard();
        }
    }

    /// A message has come that is about keys.
    pub(super) fn heard(&mut self, topic: &DistributionTopic, is_retained: bool, now_unix_ms: u64) {
        if let Phase::Listening(listening) = &mut self.phase {
            listening.until_ms = now_unix_ms.saturating_add(LISTENING_MS);
            listening.is_heard |= !is_retained && self.distribution.is_introduction(topic);
            self.open_when_heard();
        }
    }

    fn open_when_heard(&mut self) {
        if let Phase::Listening(Listening { is_acknowledged: true, is_heard: true, .. }) = self.phase {
            self.open();
        }
    }

    fn open(&mut self) {
        self.phase = Phase::Open;
        self.distribution.all_is_heard();
        if std::mem::take(&mut self.listens_again) {
            // From here on at QoS 1.
            self.subscribed.clear();
        }
    }

    /// Asks once more for what the broker retains, at QoS 0, or goes on without it.
    fn listen_no_longer(&mut self) {
        if self.listens_again {
            warn!(
                "the broker does not send what it retains; keys are issued without having heard of earlier ones"
            );
            return self.open();
        }
        info!("the broker does not send what it retains; it is asked again, at QoS 0");
        self.listens_again = true;
        self.phase = Phase::Subscribing(0);
        self.introduced = false;
        self.subscribed.clear();
    }

    /// Whether there may be keys by now: what this program issues can be used.
    pub(super) fn is_ready(&self) -> bool {
        !self.distribution.is_issuer() || (self.phase == Phase::Open && self.held.is_empty())
    }

    /// Whether what the broker retains may still be on its way: a newer key among it, and who may read no longer.
    pub(super) const fn is_listening(&self) -> bool {
        matches!(self.phase, Phase::Subscribing(_) | Phase::Listening(_))
    }

    /// Does what is due and returns what is to be sent; `save` puts the state on disk.
    pub(super) fn work(
        &mut self,
        e2e: &mut E2e,
        now_unix_ms: u64,
        save: impl FnOnce(&Distribution, &E2e) -> Result<(), String>,
    ) -> KeyWork {
        self.distribution.advance(e2e, now_unix_ms, &mut entropy);
        let mut work = KeyWork::default();
        if self.listening_due() <= now_unix_ms {
            self.listen_no_longer();
        }
        if self.phase != Phase::Disconnected {
            (work.filters, work.gone) = self.changed_filters(now_unix_ms);
        }
        match &mut self.phase {
            Phase::Disconnected | Phase::Listening(_) => {}
            Phase::Subscribing(waiting) => {
                *waiting += work.filters.len();
                if *waiting == 0 && !self.introduced {
                    self.introduced = true;
                    self.listening_ms = Some(now_unix_ms);
                    self.phase = Phase::Listening(Listening {
                        is_acknowledged: false,
                        is_heard: !self.distribution.issues_scopes(),
                        until_ms: now_unix_ms.saturating_add(LISTENING_MS),
                    });
                    self.held.extend(self.distribution.introduction());
                }
            }
            Phase::Open => self.held.extend(self.distribution.outgoing(now_unix_ms, &mut entropy)),
        }
        if self.stale_due() <= now_unix_ms {
            self.distribution.tell_stale(now_unix_ms);
        }
        self.unsaved |= self.distribution.take_changed();
        // A clock that was set back does not put the next attempt off.
        self.retry_ms = self.retry_ms.min(now_unix_ms + RETRY_MS);
        if self.unsaved && self.retry_ms <= now_unix_ms {
            self.save_error = save(&self.distribution, e2e).err();
            self.unsaved = self.save_error.is_some();
            if let Some(error) = &self.save_error {
                error!(%error, "cannot save the state of the keys; nothing new is issued until it is");
                self.retry_ms = now_unix_ms + RETRY_MS;
                work.unsaved = Some(error.clone());
            }
        }
        if !self.unsaved {
            self.distribution.announced(e2e);
            if self.phase != Phase::Disconnected {
                work.publications = std::mem::take(&mut self.held);
            }
        }
        self.log.tell(&self.distribution.take_events(), now_unix_ms);
        work
    }

    /// When [`work`](Self::work) has something to do, or a message has waited long enough, in unix milliseconds.
    pub(super) fn next_due(&self) -> u64 {
        let work = match self.phase {
            // Also without a connection: what was asked for has to outlive this process.
            Phase::Disconnected | Phase::Subscribing(_) | Phase::Listening(_) | Phase::Open
                if self.unsaved =>
            {
                self.retry_ms
            }
            Phase::Open => self.distribution.next_due(),
            Phase::Listening(_) => self.listening_due(),
            Phase::Disconnected | Phase::Subscribing(_) => u64::MAX,
        };
        // While messages wait, the first of their deadlines comes before.
        let hurried =
            self.hurried_until_ms.filter(|_| self.receipts() == 0 && self.phase != Phase::Disconnected);
        work.min(self.parked_due()).min(hurried.unwrap_or(u64::MAX)).min(self.stale_due()).min(self.log.due())
    }

    /// When the first message has waited long enough. No key comes without a connection, so that time does not count.
    fn parked_due(&self) -> u64 {
        match (self.phase, self.parked.front()) {
            (Phase::Disconnected, _) | (_, None) => u64::MAX,
            (Phase::Subscribing(_) | Phase::Listening(_) | Phase::Open, Some(first)) => first.deadline_ms,
        }
    }

    fn listening_due(&self) -> u64 {
        match self.phase {
            Phase::Listening(Listening { is_acknowledged: true, until_ms, .. }) => until_ms,
            Phase::Disconnected | Phase::Subscribing(_) | Phase::Listening(_) | Phase::Open => u64::MAX,
        }
    }

    fn stale_due(&self) -> u64 {
        let heard = self.listening_ms.map(|since| since.saturating_add(HEARD_MS));
        heard.map_or(u64::MAX, |heard| heard.max(self.distribution.stale_due()))
    }

    /// The filters that are new, or wanted at another QoS, and those that are there no longer.
    fn changed_filters(&mut self, now_unix_ms: u64) -> (Vec<(String, QoS)>, Vec<String>) {
        let (receipts, hurried_until_ms) = (self.receipts(), self.hurried_until_ms);
        let hurries = hurried_until_ms
            .map_or(receipts > self.receipts_max, |until_ms| receipts > 0 || now_unix_ms < until_ms);
        let is_turned = hurries != hurried_until_ms.is_some();
        // To make them up takes a while where there are thousands of scopes.
        if !self.distribution.take_filters_changed() && !is_turned && !self.subscribed.is_empty() {
            return Default::default();
        }
        let filters: BTreeSet<String> = self.distribution.filters().into_iter().collect();
        let gone = self.subscribed.difference(&filters).cloned().collect();
        let needed: BTreeSet<String> = self.distribution.reading_filters().into_iter().collect();
        if is_turned {
            self.hurried_until_ms = hurries.then(|| now_unix_ms.saturating_add(PARKED_MS));
            // To subscribe once more also brings what is retained there once more.
            self.subscribed.retain(|filter| !needed.contains(filter));
        }
        let listens_again = self.listens_again;
        let qos = |filter: &String| match listens_again || (hurries && needed.contains(filter)) {
            true => QoS::AtMostOnce,
            false => QoS::AtLeastOnce,
        };
        let new = filters.difference(&self.subscribed).map(|filter| (filter.clone(), qos(filter))).collect();
        self.subscribed = filters;
        (new, gone)
    }

    /// How many of the messages that the broker waits for wait for a key.
    fn receipts(&self) -> usize {
        self.parked.iter().filter(|parked| parked.receipt.is_some()).count()
    }

    /// Keeps a message until there is a key for it; gives back one that must not wait any longer, if there are too many. The receive
    /// maximum bounds those that the broker waits for. They would keep keys from coming at QoS 1.
    pub(super) fn park(
        &mut self,
        message: Message,
        receipt: Option<Receipt>,
        now_unix_ms: u64,
    ) -> Option<Parked> {
        let deadline_ms = now_unix_ms + PARKED_MS;
        self.parked.push_back(Parked { message, receipt, deadline_ms });
        if self.parked.len() - self.receipts() <= PARKED_MAX {
            return None;
        }
        let oldest = self.parked.iter().position(|parked| parked.receipt.is_none());
        oldest.and_then(|oldest| self.parked.remove(oldest))
    }

    /// The messages that have waited long enough.
    pub(super) fn overdue(&mut self, now_unix_ms: u64) -> Vec<Parked> {
        if self.parked_due() > now_unix_ms {
            return Vec::new();
        }
        let count = self.parked.partition_point(|parked| parked.deadline_ms <= now_unix_ms);
        self.parked.drain(..count).collect()
    }

    /// All messages that wait, to be tried again in their order.
    pub(super) fn take_parked(&mut self) -> VecDeque<Parked> {
        std::mem::take(&mut self.parked)
    }
}

#[cfg(test)]
mod tests;
