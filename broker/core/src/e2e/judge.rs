//! The judgement on one message: every check of a policy, in one order, with what it counts.
//!
//! First what the payload looks like, then who sends it over what, then when it was sealed, and last whether it was there
//! before. Invariant: a message that is refused leaves nothing behind but a count.

use veilmq_protocol::TopicName;
use veilmq_protocol::veil::envelope::{EnvelopeFlags, EnvelopeHeader};

use super::form::{Form, form_of};
use super::{ActivePolicy, Enforcement, Mark, Outcome, Party, Refusal, Seen, Streams};

/// A message that is about to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inspected<'a> {
    pub(crate) topic: TopicName<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) retain: bool,
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
    pub(crate) fn judge(
        &self,
        message: &Inspected<'_>,
        party: &Party<'_>,
        streams: &Streams,
        unix_ms: u64,
    ) -> Ruling {
        let (form, fault) = self.look_at(message, party, unix_ms);
        let seen = match (fault, form.header) {
            (None, Some(header)) => {
                Some(streams.look_up(&header, stream_topic(&header, message), message.payload))
            }
            (Some(_), _) | (None, None) => None,
        };
        let fault = fault.or((seen == Some(Seen::Other)).then_some(Refusal::Replay));
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
        unix_ms: u64,
    ) -> Result<(), Refusal> {
        let (form, fault) = self.look_at(will, party, unix_ms);
        self.refuse(&form, fault)
    }

    /// Judges a Will Message that is due, which may have come under another policy. Who sealed it, and when, was looked at then.
    pub(crate) fn judge_due_will(&self, will: &Inspected<'_>) -> Result<(), Refusal> {
        if will.is_clear() {
            return Ok(());
        }
        let form = form_of(self, will.payload);
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
    fn look_at(&self, message: &Inspected<'_>, party: &Party<'_>, unix_ms: u64) -> (Form, Option<Refusal>) {
        if message.is_clear() {
            let form = Form { format: None, header: None, fault: None };
            return (form, self.check_clear(party).err());
        }
        let form = form_of(self, message.payload);
        let sender = form.header.map(|header| header.sender);
        let fault = form
            .fault
            .or_else(|| self.check_party(party, sender).err())
            .or_else(|| form.header.and_then(|header| self.check_time(&header, unix_ms).err()));
        (form, fault)
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
