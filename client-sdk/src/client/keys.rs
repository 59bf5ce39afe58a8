//! The distribution of group keys on one connection after the other: what is asked for, said and kept.
//!
//! Invariants: what the broker retains is heard before anything is issued; nothing is published before the state it follows
//! from is on disk, where there is a file for it; what waits for a key is bounded in number and in time.

use std::collections::{BTreeSet, VecDeque};

use tracing::{error, info, warn};
use veilmq_protocol::veil::{Certificate, CertificateError, Kid};

use super::clock::entropy;
use crate::{
    e2e::{
        E2e, Scope,
        distribution::{Distribution, HeadError, KeyEvent, Outgoing, Rotation},
    },
    message::Message,
    session::Receipt,
};

/// Messages that may wait for a key, and how long (VEIL-1 section 17).
const PARKED_MAX: usize = 256;
const PARKED_MS: u64 = 10_000;
/// How long after a failed save the next is tried.
const RETRY_MS: u64 = 1_000;
/// What the broker retains has been heard by then; what is old after that was not replaced.
const HEARD_MS: u64 = 60_000;

/// What the application asks of an issuer, or of an end of a pair.
pub(super) enum KeyRequest {
    Admit(Box<Certificate>),
    Remove(Kid, Rotation),
    Rotate(Rotation),
    Members,
    AdmitToPairs(Box<Certificate>),
    RemovePair(Kid),
}

/// What it answers.
pub(super) enum KeyAnswer {
    Done(bool),
    Members(Vec<Kid>),
}

/// What is to be sent now.
#[derive(Default)]
pub(super) struct KeyWork {
    pub(super) filters: Vec<String>,
    /// Filters that were subscribed to before and are no longer needed.
    pub(super) gone: Vec<String>,
    pub(super) publications: Vec<Outgoing>,
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
    /// The introduction is not acknowledged, so retained messages may still come.
    Listening,
    Open,
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
    retry_ms: u64,
    /// Since when everything is subscribed to on the connection that there is.
    listening_ms: Option<u64>,
    parked: VecDeque<Parked>,
    /// Messages the broker waits for may take only half of what it sends at a time.
    receipts_max: usize,
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
            retry_ms: 0,
            listening_ms: None,
            parked: VecDeque::new(),
            receipts_max: usize::from(receive_maximum / 2),
        }
    }

    /// The JOIN_REQ for the next CONNECT, if there is something to ask for.
    pub(super) fn join_request(&mut self, now_unix_ms: u64) -> Option<Vec<u8>> {
        let (scope, issuer) = self.asks.as_ref()?;
        self.distribution.ask_with_connect(scope, *issuer, now_unix_ms, &mut entropy)
    }

    pub(super) fn connected(&mut self) {
        self.phase = Phase::Subscribing(0);
        self.introduced = false;
        self.listening_ms = None;
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
        if self.phase == Phase::Listening {
            self.phase = Phase::Open;
        }
    }

    /// Whether there may be keys by now: what this program issues can be used.
    pub(super) fn is_ready(&self) -> bool {
        !self.distribution.is_issuer() || (self.phase == Phase::Open && self.held.is_empty())
    }

    /// Whether what the broker retains may still be on its way: a newer key among it, and who may read no longer.
    pub(super) const fn is_listening(&self) -> bool {
        matches!(self.phase, Phase::Subscribing(_) | Phase::Listening)
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
        if self.phase != Phase::Disconnected {
            (work.filters, work.gone) = self.changed_filters();
        }
        match &mut self.phase {
            Phase::Disconnected | Phase::Listening => {}
            Phase::Subscribing(waiting) => {
                *waiting += work.filters.len();
                if *waiting == 0 && !self.introduced {
                    self.introduced = true;
                    self.listening_ms = Some(now_unix_ms);
                    self.phase = Phase::Listening;
                    self.held.extend(self.distribution.introduction());
                }
            }
            Phase::Open => self.held.extend(self.distribution.outgoing(e2e, now_unix_ms, &mut entropy)),
        }
        if self.stale_due() <= now_unix_ms {
            self.distribution.tell_stale(now_unix_ms);
        }
        self.unsaved |= self.distribution.take_changed();
        if self.unsaved && self.retry_ms <= now_unix_ms {
            match save(&self.distribution, e2e) {
                Ok(()) => self.unsaved = false,
                Err(error) => {
                    error!(%error, "cannot save the state of the keys; nothing new is issued until it is");
                    self.retry_ms = now_unix_ms + RETRY_MS;
                }
            }
        }
        if !self.unsaved && self.phase != Phase::Disconnected {
            work.publications = std::mem::take(&mut self.held);
        }
        for event in self.distribution.take_events() {
            tell(&event);
        }
        work
    }

    /// When [`work`](Self::work) has something to do, or a message has waited long enough, in unix milliseconds.
    pub(super) fn next_due(&self) -> u64 {
        let work = match self.phase {
            Phase::Open if self.unsaved => self.retry_ms,
            Phase::Open => self.distribution.next_due(),
            Phase::Disconnected | Phase::Subscribing(_) | Phase::Listening => u64::MAX,
        };
        self.parked.front().map_or(u64::MAX, |parked| parked.deadline_ms).min(work).min(self.stale_due())
    }

    fn stale_due(&self) -> u64 {
        let heard = self.listening_ms.map(|since| since.saturating_add(HEARD_MS));
        heard.map_or(u64::MAX, |heard| heard.max(self.distribution.stale_due()))
    }

    /// The filters that are new, and those that are there no longer.
    fn changed_filters(&mut self) -> (Vec<String>, Vec<String>) {
        let filters: BTreeSet<String> = self.distribution.filters().into_iter().collect();
        let gone = self.subscribed.difference(&filters).cloned().collect();
        let new = filters.difference(&self.subscribed).cloned().collect();
        self.subscribed = filters;
        (new, gone)
    }

    /// Keeps a message until there is a key for it; gives back one that must not wait any longer, if there are too many.
    pub(super) fn park(
        &mut self,
        message: Message,
        receipt: Option<Receipt>,
        now_unix_ms: u64,
    ) -> Option<Parked> {
        let deadline_ms = now_unix_ms + PARKED_MS;
        self.parked.push_back(Parked { message, receipt, deadline_ms });
        let receipts = self.parked.iter().filter(|parked| parked.receipt.is_some()).count();
        if self.parked.len() > PARKED_MAX || receipts > self.receipts_max {
            return self.parked.pop_front();
        }
        None
    }

    /// The messages that have waited long enough.
    pub(super) fn overdue(&mut self, now_unix_ms: u64) -> Vec<Parked> {
        let count = self.parked.partition_point(|parked| parked.deadline_ms <= now_unix_ms);
        self.parked.drain(..count).collect()
    }

    /// All messages that wait, to be tried again in their order.
    pub(super) fn take_parked(&mut self) -> VecDeque<Parked> {
        std::mem::take(&mut self.parked)
    }

    /// Carries out what the application asks.
    pub(super) fn request(
        &mut self,
        e2e: &mut E2e,
        scope: &Scope,
        request: KeyRequest,
        now_unix_ms: u64,
    ) -> Result<KeyAnswer, CertificateError> {
        let keys = &mut self.distribution;
        let done = match request {
            KeyRequest::Admit(certificate) => keys.admit(scope, *certificate, now_unix_ms, &mut entropy)?,
            KeyRequest::Remove(member, rotation) => keys.remove(scope, member, rotation, &mut entropy),
            KeyRequest::Rotate(rotation) => keys.rotate(scope, rotation, &mut entropy),
            KeyRequest::AdmitToPairs(certificate) => keys.admit_to_pairs(*certificate, now_unix_ms)?,
            KeyRequest::RemovePair(peer) => keys.remove_pair(e2e, peer),
            KeyRequest::Members => return Ok(KeyAnswer::Members(keys.members(scope))),
        };
        Ok(KeyAnswer::Done(done))
    }
}

fn tell(event: &KeyEvent) {
    match event {
        KeyEvent::Installed { scope, issuer, epoch } => info!(scope, %issuer, epoch, "new key"),
        KeyEvent::Admitted { scope, member } => info!(scope, %member, "member, or its new prekey"),
        KeyEvent::Removed { scope, member } => info!(scope, %member, "member removed; the epoch changes"),
        KeyEvent::Revocations { authority, number } => info!(%authority, number, "revocation list"),
        KeyEvent::JoinPending { scope, issuer } => {
            info!(scope, %issuer, "JoinPending: the issuer does not answer; its keys may still come");
        }
        KeyEvent::JoinNotPassedOn { scope, issuer } => {
            warn!(scope, %issuer, "the broker does not ask for these keys");
        }
        KeyEvent::Joined { scope, member } => info!(scope, %member, "the member has its keys"),
        KeyEvent::JoinFailed { issuer, error } => warn!(%issuer, %error, "no keys by asking"),
        KeyEvent::StaleHead { scope, issuer } => {
            warn!(scope, %issuer, "StaleHead: the issuer has not confirmed its key in time");
        }
        KeyEvent::StaleRevocation { authority } => {
            warn!(%authority, "StaleRevocation: the revocation list is past its time");
        }
        KeyEvent::HeadRefused { scope, issuer, error: error @ HeadError::NotAMember { .. } } => {
            info!(scope, %issuer, %error, "no key");
        }
        KeyEvent::HeadRefused { scope, issuer, error } => warn!(scope, %issuer, %error, "key refused"),
        KeyEvent::Refused { topic, error } => warn!(topic, %error, "refused"),
        KeyEvent::Overtaken { scope, epoch } => {
            warn!(
                scope,
                epoch, "the state of the issuer is older than what it has published; a new epoch begins"
            );
        }
    }
}
