//! The judgement on one message: every check of a policy, in one order, with what it counts.
//!
//! First what the payload looks like, then who sends it over what, then when it was sealed, and last whether it was there
//! before. Invariant: a message that is refused leaves nothing behind but a count.

use veilmq_protocol::veil::binding::verify_source;
use veilmq_protocol::veil::envelope::{Envelope, EnvelopeFlags, EnvelopeHeader};
use veilmq_protocol::{PublishProperties, TopicName};

use super::form::{Form, form_of};
use super::{ActivePolicy, Enforcement, EpochState, Mark, Outcome, Party, Refusal, Seen, Streams};
use crate::shared::Shared;

/// A message that is about to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspected<'a> {
    pub(crate) topic: TopicName<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) retain: bool,
    pub(crate) properties: &'a PublishProperties<'a>,
}

/// What a message is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) streams: &'a Streams,
    pub(crate) unix_ms: u64,
}

impl Inspected<'_> {
    /// Tells whether it clears the retained message of its topic, which no envelope can ask for.
    fn is_clear(&self) -> bool {
        self.retain && self.payload.is_empty()
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It goes on its way; the mark is to be remembered once it has been accepted.
    Pass(Option<Mark>),
    /// It has gone on its way before.
    Duplicate,
    /// It is refused.
    Refuse(Refusal),
}

impl ActivePolicy {
    /// Judges a message of a client, and counts it.
    pub(crate) fn judge(&self, message: &Inspected<'_>, party: &Party<'_>, context: Context<'_>) -> Ruling {
        let (form, fault) = self.look_at(message, party, context);
        let seen = match (fault, form.header) {
            (None, Some(header)) => {
                let topic = stream_topic(&header, message);
                Some(context.streams.look_up(&header, topic, message.payload))
            }
            (Some(_), _) | (None, None) => None,
        };
        let fault = match seen {
            Some(Seen::Other) => Some(Refusal::Replay),
            // The dearest check comes last, and not for what goes nowhere.
            Some(Seen::No(_)) => self.check_signature(message, party, context).err(),
            Some(Seen::Same) | None => fault,
        };
        let (outcome, ruling) = match (fault, self.policy.enforcement, seen) {
            (None, _, Some(Seen::Same)) => (Outcome::Duplicate, Ruling::Duplicate),
            (None, _, Some(Seen::No(mark))) => (Outcome::Accepted, Ruling::Pass(Some(mark))),
            (None, _, Some(Seen::Other) | None) => (Outcome::Accepted, Ruling::Pass(None)),
            (Some(fault), Enforcement::Require, _) => {
                self.counters.rejected(fault);
                (Outcome::Rejected, Ruling::Refuse(fault))
            }
            (Some(fault), Enforcement::Prefer | Enforcement::Off, _) => {
                self.counters.tolerated(fault);
                (Outcome::Tolerated, Ruling::Pass(None))
            }
        };
        self.counters.message(form.format, outcome);
        ruling
    }

    /// Judges the Will Message that a client comes with; only a refusal is counted, for it is published later or never.
    pub(crate) fn judge_will(
        &self,
        will: &Inspected<'_>,
        party: &Party<'_>,
        context: Context<'_>,
    ) -> Result<(), Refusal> {
        let (form, fault) = self.look_at(will, party, context);
        let fault =
            fault.or_else(|| form.header.and_then(|_| self.check_signature(will, party, context).err()));
        self.refuse(&form, fault)
    }

    /// Judges a Will Message that is due, which may have come under another policy. Who sealed it, and when, was looked at then.
    pub(crate) fn judge_due_will(&self, payload: &[u8]) -> Result<(), Refusal> {
        let form = form_of(self, payload);
        self.refuse(&form, form.fault)
    }

    /// Tells whether a message that was retained under another policy is kept from subscribers, and counts it.
    pub(crate) fn withholds(&self, payload: &[u8]) -> bool {
        let form = form_of(self, payload);
        let is_withheld = form.fault.is_some() && self.policy.enforcement == Enforcement::Require;
        if is_withheld {
            self.counters.message(form.format, Outcome::Withheld);
        }
        is_withheld
    }

    /// Returns what a message looks like, and the first rule that it breaks.
    fn look_at(
        &self,
        message: &Inspected<'_>,
        party: &Party<'_>,
        context: Context<'_>,
    ) -> (Form, Option<Refusal>) {
        if message.is_clear() {
            let form = Form { format: None, header: None, fault: None };
            return (form, self.check_clear(party).err());
        }
        let form = form_of(self, message.payload);
        let sender = form.header.map(|header| header.sender);
        let fault = form.fault.or_else(|| self.check_party(party, sender).err()).or_else(|| {
            let header = form.header?;
            self.check_time(&header, context.unix_ms).and_then(|()| self.check_epoch(&header, context)).err()
        });
        (form, fault)
    }

    fn check_epoch(&self, header: &EnvelopeHeader, context: Context<'_>) -> Result<(), Refusal> {
        let (monotonic, maximum) = (self.policy.epoch_monotonic, self.policy.epoch_milliseconds_max);
        if !monotonic && maximum.is_none() {
            return Ok(());
        }
        let (now, transition) = (context.unix_ms, self.policy.transition_milliseconds);
        let state = context.shared.with_heads(self.scope_hash, now, |heads| {
            heads.epoch(self.scope_hash, header.sender, header.epoch, now, transition)
        });
        match (state, maximum) {
            (EpochState::InUse { since_ms }, Some(maximum)) if now.saturating_sub(since_ms) > maximum => {
                Err(Refusal::EpochAge)
            }
            (EpochState::InUse { .. }, _) => Ok(()),
            (EpochState::NotInUse, _) if monotonic => Err(Refusal::Epoch),
            (EpochState::NoHead | EpochState::NotInUse, Some(_)) => Err(Refusal::EpochAge),
            (EpochState::NotInUse, None) => Ok(()),
            (EpochState::NoHead, None) => match context.streams.has_left(header, now, transition) {
                true => Err(Refusal::Epoch),
                false => Ok(()),
            },
        }
    }

    /// Verifies the source signature of an envelope that has one, with the key of the client or of whom it speaks for.
    fn check_signature(
        &self,
        message: &Inspected<'_>,
        party: &Party<'_>,
        context: Context<'_>,
    ) -> Result<(), Refusal> {
        if !self.policy.verify_signature {
            return Ok(());
        }
        let envelope = Envelope::parse(message.payload).map_err(|_| Refusal::Malformed)?;
        if envelope.signature.is_none() {
            return Ok(());
        }
        let sender = envelope.header.sender;
        let own = party.member.filter(|member| member.kid == sender).map(|member| member.ed25519);
        let key = own.or_else(|| context.shared.public_key_of(sender, context.unix_ms));
        let key = key.ok_or(Refusal::Signature)?;
        verify_source(&envelope, &self.scope, message.topic.as_str(), message.properties, &key)
            .map_err(|_| Refusal::Signature)
    }

    fn check_time(&self, header: &EnvelopeHeader, unix_ms: u64) -> Result<(), Refusal> {
        let Some(maximum) = self.policy.skew_milliseconds_max else { return Ok(()) };
        match header.timestamp_ms {
            Some(sealed) if sealed.abs_diff(unix_ms) <= maximum => Ok(()),
            Some(_) | None => Err(Refusal::Time),
        }
    }

    fn refuse(&self, form: &Form, fault: Option<Refusal>) -> Result<(), Refusal> {
        let Some(fault) = fault else { return Ok(()) };
        if self.policy.enforcement != Enforcement::Require {
            self.counters.tolerated(fault);
            return Ok(());
        }
        self.counters.rejected(fault);
        self.counters.message(form.format, Outcome::Rejected);
        Err(fault)
    }
}

/// Returns the topic that numbers belong to: none where the envelope hides its own (VEIL-1 section 10).
fn stream_topic<'a>(header: &EnvelopeHeader, message: &Inspected<'a>) -> &'a str {
    match header.flags.contains(EnvelopeFlags::INNER_TOPIC) {
        true => "",
        false => message.topic.as_str(),
    }
}
