//! What a payload looks like from outside: an envelope, the article's format, or neither.
//!
//! Reads headers and lengths only. Invariant: nothing of a payload leaves this file but the header of an envelope.

use veilmq_protocol::veil::envelope::{Envelope, EnvelopeError, EnvelopeFlags, EnvelopeHeader};

use super::{ActivePolicy, MessageFormat, Refusal};

/// One block with the IV before it (VEIL-1 section 11).
const ARTICLE_BYTES_MIN: usize = 32;
const BLOCK_BYTES: usize = 16;

/// What is known of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// What it was taken for; None for plaintext.
    pub(crate) format: Option<MessageFormat>,
    /// The header, of an envelope.
    pub(crate) header: Option<EnvelopeHeader>,
    /// The first rule about form that it breaks.
    pub(crate) fault: Option<Refusal>,
}

/// Looks at a payload, which is not empty or not retained, as a policy asks.
pub(crate) fn form_of(active: &ActivePolicy, payload: &[u8]) -> Form {
    let mut form = match Envelope::parse(payload) {
        Ok(envelope) => Form {
            format: Some(MessageFormat::Ve1),
            header: Some(envelope.header),
            fault: fault_of(active, &envelope.header),
        },
        Err(EnvelopeError::Malformed(_)) if !looks_like_article(active, payload) => {
            Form { format: Some(MessageFormat::Ve1), header: None, fault: Some(Refusal::Malformed) }
        }
        Err(EnvelopeError::Malformed(_) | EnvelopeError::NotEncrypted) if is_article(payload) => Form {
            format: Some(MessageFormat::Article),
            header: None,
            fault: (!active.policy.formats.contains(&MessageFormat::Article)).then_some(Refusal::Format),
        },
        Err(EnvelopeError::Malformed(_) | EnvelopeError::NotEncrypted) => {
            Form { format: None, header: None, fault: Some(Refusal::Plaintext) }
        }
    };
    if payload.len() > active.policy.payload_bytes_max {
        form.fault = form.fault.or(Some(Refusal::Size));
    }
    form
}

/// A random IV may begin like an envelope; where the article's format is allowed it is given the benefit of the doubt.
fn looks_like_article(active: &ActivePolicy, payload: &[u8]) -> bool {
    active.policy.formats.contains(&MessageFormat::Article) && is_article(payload)
}

fn is_article(payload: &[u8]) -> bool {
    payload.len() >= ARTICLE_BYTES_MIN
        && payload.len().is_multiple_of(BLOCK_BYTES)
        && std::str::from_utf8(payload).is_err()
}

fn fault_of(active: &ActivePolicy, header: &EnvelopeHeader) -> Option<Refusal> {
    let policy = &active.policy;
    if !policy.formats.contains(&MessageFormat::Ve1) {
        return Some(Refusal::Format);
    }
    // The envelope of a pair belongs to no scope of a group.
    if header.scope_tag != active.scope_tag || header.flags.contains(EnvelopeFlags::PAIRWISE) {
        return Some(Refusal::Scope);
    }
    if !policy.suites.contains(&header.suite) {
        return Some(Refusal::Suite);
    }
    if policy.require_signed && !header.flags.contains(EnvelopeFlags::SIGNED) {
        return Some(Refusal::Unsigned);
    }
    None
}
