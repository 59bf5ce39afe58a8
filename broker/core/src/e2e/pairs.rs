//! What may go over the topics of pairs (VEIL-1 sections 7, 9.1): what one publisher has sealed for one subscriber.
//!
//! The envelope itself is opaque; its header tells who sealed it and for whom. Invariant: what passes is said to be from the client
//! that publishes it, and is for the subscriber that its topic names.

use veilmq_protocol::TopicName;
use veilmq_protocol::veil::distribution::{Pair, scope_tag};
use veilmq_protocol::veil::envelope::{Envelope, EnvelopeFlags};

use super::{DistributionRefusal, Inspected, Member};

/// Tells whether a topic is one of pairs.
pub(crate) fn is_of_pairs(topic: TopicName<'_>) -> bool {
    topic.as_str().starts_with(Pair::TOPICS)
}

/// Checks what a client publishes on a topic of pairs.
pub(crate) fn check_pair(
    message: &Inspected<'_>,
    writer: Option<&Member>,
) -> Result<(), DistributionRefusal> {
    let subscriber = Pair::subscriber_of(message.topic.as_str()).ok_or(DistributionRefusal::Topic)?;
    let publisher = writer.ok_or(DistributionRefusal::Writer)?.kid;
    if message.retain && message.payload.is_empty() {
        return Ok(());
    }
    let header = Envelope::parse(message.payload).map_err(|_| DistributionRefusal::Malformed)?.header;
    if header.sender != publisher {
        return Err(DistributionRefusal::Writer);
    }
    let pair = Pair { publisher, subscriber };
    // A scope with one member is sealed as any other.
    let scope = match header.flags.contains(EnvelopeFlags::PAIRWISE) {
        true => pair.to_string(),
        false => pair.filter(),
    };
    if header.scope_tag == scope_tag(&scope) { Ok(()) } else { Err(DistributionRefusal::Mismatch) }
}
