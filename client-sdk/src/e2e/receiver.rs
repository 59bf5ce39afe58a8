//! The receiving side: the algorithm of VEIL-1 section 12.1, step by step.
//!
//! Invariant: a message that is not authentic changes nothing but the cache of derived keys.

use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        channel::{hash, verify},
        envelope::{Envelope, EnvelopeFlags},
    },
};

use super::{
    cipher::{StreamId, StreamKey},
    config::{EnvelopeOptions, Limits},
    directory::Directory,
    error::OpenError,
    frame::{associated_data, unpad},
    keyring::{EpochState, Keyring},
    lru::Lru,
    opened::{Opened, Origin, Provenance},
    replay::{Arrival, Replay},
    scope::Scope,
};

/// What arrived, as the caller of [`E2e::open`](super::E2e::open) described it.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) topic: TopicName<'a>,
    pub(super) payload: &'a [u8],
    pub(super) retained: bool,
    pub(super) properties: &'a PublishProperties<'a>,
    pub(super) now_unix_ms: u64,
}

/// The envelope scope a message belongs to.
#[derive(Clone, Copy)]
pub(super) struct EnvelopeScope<'a> {
    pub(super) id: u32,
    pub(super) scope: &'a Scope,
    pub(super) keyring: &'a Keyring,
    pub(super) options: &'a EnvelopeOptions,
}

pub(super) struct Receiver {
    pub(super) replay: Replay,
    pub(super) directory: Directory,
    keys: Lru<StreamId, StreamKey>,
    associated_data: Vec<u8>,
}

impl Receiver {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            replay: Replay::new(limits.replay),
            directory: Directory::default(),
            keys: Lru::new(limits.stream_keys_max),
            associated_data: Vec::new(),
        }
    }

    pub(super) fn open(
        &mut self,
        within: EnvelopeScope<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Opened, OpenError> {
        let EnvelopeScope { scope, options, .. } = within;
        let Incoming { topic, retained, now_unix_ms, .. } = incoming;
        let envelope = Envelope::parse(incoming.payload)?;
        let header = &envelope.header;
        refuse_unsupported(header.flags)?;
        if header.scope_tag != scope.tag() {
            return Err(OpenError::TopicMismatch);
        }
        check_epoch(within, &envelope, retained, now_unix_ms)?;
        self.directory.check(&options.senders, header.sender, topic, now_unix_ms)?;
        let arrival = Arrival::new(header, hash(&[topic.as_str().as_bytes()]), retained);
        self.replay.check(&arrival, now_unix_ms)?;

        let plaintext = self.authenticate(within, incoming, &envelope, arrival.stream.topic_hash)?;

        let gap = self.replay.commit(&arrival, now_unix_ms);
        let age_ms = header.timestamp_ms.map(|sealed_ms| now_unix_ms.saturating_sub(sealed_ms));
        if !retained && !header.is_will() {
            check_freshness(options.max_age_ms, header.timestamp_ms, now_unix_ms)?;
        }
        let origin = Origin {
            sender: header.sender,
            signed: envelope.signature.is_some(),
            session: header.session,
            epoch: header.epoch,
            seq: header.seq,
            gap,
            will: header.is_will(),
            age_ms,
        };
        Ok(Opened { plaintext, provenance: Provenance::Envelope(origin), retained })
    }

    /// Erases the keys of streams for which `keep` is false.
    pub(super) fn retain_keys(&mut self, keep: impl FnMut(&StreamId) -> bool) {
        self.keys.retain(keep);
    }

    /// Verifies binding, signature and tag, in this order, and returns the plaintext without its padding.
    fn authenticate(
        &mut self,
        within: EnvelopeScope<'_>,
        incoming: Incoming<'_>,
        envelope: &Envelope<'_>,
        topic_hash: [u8; 32],
    ) -> Result<Vec<u8>, OpenError> {
        let header = &envelope.header;
        let bound = header.flags.contains(EnvelopeFlags::BOUND).then_some(incoming.properties);
        if bound.is_none() && within.options.bound.applies_to(incoming.properties) {
            return Err(OpenError::BadTag);
        }
        associated_data(
            &mut self.associated_data,
            envelope.header_bytes,
            within.scope,
            incoming.topic,
            bound,
        )
        .map_err(|_| OpenError::Malformed("bound properties"))?;
        self.verify_signature(within.options, envelope)?;

        let id = StreamId {
            scope: within.id,
            suite: header.suite,
            epoch: header.epoch,
            sender: header.sender,
            session: header.session,
            topic_hash,
        };
        let derived = match self.keys.touch(&id) {
            Some(_) => None,
            None => Some(
                within
                    .keyring
                    .with_key(within.scope, header.epoch, |group_key| StreamKey::derive(group_key, &id))
                    .ok_or(OpenError::NoKey { epoch: header.epoch })?,
            ),
        };
        let key = derived.as_ref().or_else(|| self.keys.peek(&id)).ok_or(OpenError::BadTag)?;
        let mut plaintext =
            key.open(header.seq, &self.associated_data, envelope.body).map_err(|_| OpenError::BadTag)?;
        // Only keys that opened something are kept, so forged headers cannot flush the cache.
        if let Some(key) = derived {
            self.keys.insert(id, key);
        }
        if header.flags.contains(EnvelopeFlags::PADDED) {
            unpad(&mut plaintext).ok_or(OpenError::Malformed("padding"))?;
        }
        Ok(plaintext)
    }

    fn verify_signature(&self, options: &EnvelopeOptions, envelope: &Envelope<'_>) -> Result<(), OpenError> {
        let Some(signature) = envelope.signature else {
            return if options.require_signature { Err(OpenError::BadTag) } else { Ok(()) };
        };
        let sender = envelope.header.sender;
        let certificate = self.directory.certificate(sender).ok_or(OpenError::UnknownSender(sender))?;
        let digest = hash(&[&self.associated_data, envelope.body]);
        verify("source", &digest, &certificate.ed25519, signature).map_err(|_| OpenError::BadTag)
    }
}

fn refuse_unsupported(flags: EnvelopeFlags) -> Result<(), OpenError> {
    if flags.contains(EnvelopeFlags::INNER_TOPIC) {
        return Err(OpenError::Malformed("inner topic flag"));
    }
    if flags.contains(EnvelopeFlags::PAIRWISE) {
        return Err(OpenError::Malformed("pairwise flag"));
    }
    Ok(())
}

/// VEIL-1 section 12.1, step 4.
fn check_epoch(
    within: EnvelopeScope<'_>,
    envelope: &Envelope<'_>,
    retained: bool,
    now_unix_ms: u64,
) -> Result<(), OpenError> {
    let epoch = envelope.header.epoch;
    match within.keyring.state(epoch, now_unix_ms) {
        Some(EpochState::Current | EpochState::Retiring) => Ok(()),
        // A Will waits at the broker for as long as its connection lasts.
        Some(EpochState::History) if retained || within.options.backlog || envelope.header.is_will() => {
            Ok(())
        }
        Some(EpochState::History | EpochState::Gone) => Err(OpenError::EpochDropped { epoch }),
        Some(EpochState::Future) | None => Err(OpenError::NoKey { epoch }),
    }
}

fn check_freshness(
    max_age_ms: Option<u64>,
    timestamp_ms: Option<u64>,
    now_unix_ms: u64,
) -> Result<(), OpenError> {
    let (Some(max_age_ms), Some(timestamp_ms)) = (max_age_ms, timestamp_ms) else { return Ok(()) };
    match now_unix_ms.abs_diff(timestamp_ms) {
        age_ms if age_ms > max_age_ms => Err(OpenError::TooOld { age_ms }),
        _ => Ok(()),
    }
}
