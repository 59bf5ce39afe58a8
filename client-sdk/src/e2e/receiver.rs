//! The receiving side: the algorithm of VEIL-1 section 12.1, step by step.
//!
//! Invariant: a message that is not authentic changes nothing but the cache of derived keys.

use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Kid,
        binding::associated_data,
        channel::{Operations, hash, verify},
        envelope::{Envelope, EnvelopeFlags, EnvelopeHeader},
    },
};

use super::{
    blind::Naming,
    chunks::{Chunks, MessageName},
    cipher::{StreamId, StreamKey},
    config::{EnvelopeOptions, EnvelopeScope, Limits},
    directory::Directory,
    error::OpenError,
    frame::{take_inner_topic, unpad},
    keyring::EpochState,
    lru::Lru,
    opened::{Opened, Origin, Provenance},
    replay::{Arrival, Replay},
    rings::Issuer,
    sessions::Sessions,
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

pub(super) struct Receiver {
    pub(super) replay: Replay,
    pub(super) directory: Directory,
    pub(super) chunks: Chunks,
    keys: Lru<StreamId, StreamKey>,
    associated_data: Vec<u8>,
    /// What opening took since it was last taken, of messages that were not authentic as well.
    pub(super) operations: Operations,
}

impl Receiver {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            replay: Replay::new(limits.replay),
            directory: Directory::default(),
            chunks: Chunks::new(limits.chunked_bytes_max),
            keys: Lru::new(limits.stream_keys_max),
            associated_data: Vec::new(),
            operations: Operations::default(),
        }
    }

    pub(super) fn open(
        &mut self,
        within: EnvelopeScope<'_>,
        incoming: Incoming<'_>,
        sessions: &mut Sessions,
    ) -> Result<Opened, OpenError> {
        let EnvelopeScope { scope, options, .. } = within;
        let Incoming { topic, retained, now_unix_ms, .. } = incoming;
        let envelope = Envelope::parse(incoming.payload)?;
        let header = &envelope.header;
        refuse_misplaced(header, within.pairwise, retained)?;
        let inner = header.flags.contains(EnvelopeFlags::INNER_TOPIC);
        if header.scope_tag != within.tag || (within.blind.is_some() && !inner) {
            return Err(OpenError::TopicMismatch);
        }
        let issuer = check_epoch(within, &envelope, retained, now_unix_ms)?;
        let signed = envelope.signature.is_some();
        let (signed_only, suites) = within.keys.demands(issuer);
        if signed_only && !signed {
            return Err(OpenError::BadTag);
        }
        if !suites.is_empty() && !suites.contains(&header.suite) {
            return Err(OpenError::Malformed("suite"));
        }
        let topic_hash = hash(&[if inner { "" } else { topic.as_str() }.as_bytes()]);
        if inner {
            self.directory.check_unrevoked(header.sender)?;
        } else if let Err(error) =
            self.directory.check(&options.senders, header.sender, signed, topic, now_unix_ms)
        {
            // A sender that is not known is looked for, and what strangers say is no reason to send anything.
            if matches!(error, OpenError::UnknownSender(_)) {
                self.bind(within, incoming, &envelope)?;
                self.decrypt(within, issuer, &envelope, topic_hash)?;
            }
            return Err(error);
        }
        if !inner {
            self.replay.check(&Arrival::new(header, topic_hash, retained), now_unix_ms)?;
        }

        let mut plaintext = self.authenticate(within, issuer, incoming, &envelope, topic_hash)?;
        let (topic, stream_hash) = match inner {
            false => (None, topic_hash),
            true => {
                let named = take_inner_topic(&mut plaintext).ok_or(OpenError::Malformed("inner topic"))?;
                self.check_inner(within, incoming, header.sender, signed, &named)?;
                // Which topic it is was not known before, so nor was whether it has been received.
                let stream_hash = hash(&[b"veil1 inner", scope.hash(), named.as_bytes()]);
                self.replay.check(&Arrival::new(header, stream_hash, retained), now_unix_ms)?;
                (Some(named), stream_hash)
            }
        };

        if within.keys.issues(issuer) {
            sessions.note(within.id, header.epoch, header.sender, header.session);
        }
        let gap = self.replay.commit(&Arrival::new(header, stream_hash, retained), now_unix_ms);
        // Numbers count for the whole scope then, so what is missing may be for other topics.
        let gap = if inner { 0 } else { gap };
        let age_ms = header.timestamp_ms.map(|sealed_ms| now_unix_ms.saturating_sub(sealed_ms));
        if !retained && !header.is_will() {
            check_freshness(options.max_age_ms, header.timestamp_ms, now_unix_ms)?;
        }
        if let Some(chunk) = header.chunk {
            let EnvelopeHeader { sender, session, .. } = *header;
            let name =
                MessageName { sender, session, topic_hash: stream_hash, signed, message: chunk.message };
            plaintext = self.chunks.take(name, chunk, plaintext, now_unix_ms)?;
        }
        let origin = Origin {
            sender: header.sender,
            signed,
            session: header.session,
            epoch: header.epoch,
            seq: header.seq,
            gap,
            will: header.is_will(),
            refresh: header.flags.contains(EnvelopeFlags::REFRESH),
            age_ms,
        };
        Ok(Opened { plaintext, provenance: Provenance::Envelope(origin), retained, topic })
    }

    /// What is decided by the topic for an envelope that has it inside.
    fn check_inner(
        &self,
        within: EnvelopeScope<'_>,
        incoming: Incoming<'_>,
        sender: Kid,
        signed: bool,
        topic: &str,
    ) -> Result<(), OpenError> {
        let topic = TopicName::new(topic).map_err(|_| OpenError::Malformed("inner topic"))?;
        // VEIL-1 section 14: on a blind topic its own tokens bind a message to it.
        let is_there = |(naming, epoch): (&Naming, u32)| {
            naming.topic_in(epoch, topic).is_ok_and(|wire| wire == incoming.topic.as_str())
        };
        if !within.scope.contains(topic) || !within.blind.is_none_or(is_there) {
            return Err(OpenError::TopicMismatch);
        }
        self.directory.check(&within.options.senders, sender, signed, topic, incoming.now_unix_ms)
    }

    /// Erases the keys of streams for which `keep` is false.
    pub(super) fn retain_keys(&mut self, keep: impl FnMut(&StreamId) -> bool) {
        self.keys.retain(keep);
    }

    /// Opens what this program is known to have sealed for `topic`.
    pub(super) fn reopen(
        &mut self,
        within: EnvelopeScope<'_>,
        topic: TopicName<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Vec<u8>, OpenError> {
        let envelope = Envelope::parse(incoming.payload)?;
        let EnvelopeHeader { sender, epoch, flags, .. } = envelope.header;
        let known = within.keys.receiving(sender, epoch, incoming.now_unix_ms);
        let (issuer, _) = known.ok_or(OpenError::NoKey { epoch })?;
        let inner = flags.contains(EnvelopeFlags::INNER_TOPIC);
        let topic_hash = hash(&[if inner { "" } else { incoming.topic.as_str() }.as_bytes()]);
        self.bind(within, incoming, &envelope)?;
        let mut plaintext = self.decrypt(within, issuer, &envelope, topic_hash)?;
        if inner && take_inner_topic(&mut plaintext).as_deref() != Some(topic.as_str()) {
            return Err(OpenError::TopicMismatch);
        }
        Ok(plaintext)
    }

    /// Verifies binding, signature and tag, in this order, and returns the plaintext without its padding.
    fn authenticate(
        &mut self,
        within: EnvelopeScope<'_>,
        issuer: Issuer,
        incoming: Incoming<'_>,
        envelope: &Envelope<'_>,
        topic_hash: [u8; 32],
    ) -> Result<Vec<u8>, OpenError> {
        self.bind(within, incoming, envelope)?;
        self.verify_signature(within.options, envelope)?;
        self.decrypt(within, issuer, envelope, topic_hash)
    }

    /// Puts together what the envelope is bound to.
    fn bind(
        &mut self,
        within: EnvelopeScope<'_>,
        incoming: Incoming<'_>,
        envelope: &Envelope<'_>,
    ) -> Result<(), OpenError> {
        let flags = envelope.header.flags;
        let bound = flags.contains(EnvelopeFlags::BOUND).then_some(incoming.properties);
        if bound.is_none() && within.options.bound.applies_to(incoming.properties) {
            return Err(OpenError::BadTag);
        }
        associated_data(
            &mut self.associated_data,
            envelope.header_bytes,
            within.scope.as_str(),
            if flags.contains(EnvelopeFlags::INNER_TOPIC) { "" } else { incoming.topic.as_str() },
            bound,
        )
        .map_err(|_| OpenError::Malformed("bound properties"))
    }

    fn decrypt(
        &mut self,
        within: EnvelopeScope<'_>,
        issuer: Issuer,
        envelope: &Envelope<'_>,
        topic_hash: [u8; 32],
    ) -> Result<Vec<u8>, OpenError> {
        let header = &envelope.header;
        let id = StreamId {
            scope: within.id,
            issuer,
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
                    .keys
                    .with_key(issuer, within.scope, header.epoch, |group_key| {
                        StreamKey::derive(group_key, &id)
                    })
                    .ok_or(OpenError::NoKey { epoch: header.epoch })?,
            ),
        };
        let key = derived.as_ref().or_else(|| self.keys.peek(&id)).ok_or(OpenError::BadTag)?;
        self.operations += Operations::SEALED;
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

fn refuse_misplaced(header: &EnvelopeHeader, pairwise: bool, retained: bool) -> Result<(), OpenError> {
    if header.flags.contains(EnvelopeFlags::PAIRWISE) != pairwise {
        return Err(OpenError::Malformed("pairwise flag"));
    }
    if pairwise && header.flags.contains(EnvelopeFlags::INNER_TOPIC) {
        return Err(OpenError::Malformed("inner topic"));
    }
    // VEIL-1 section 12.5: whoever joins later could not know that it has all parts.
    if header.chunk.is_some() && (retained || header.is_will()) {
        return Err(OpenError::Malformed("chunk"));
    }
    Ok(())
}

/// VEIL-1 section 12.1, step 4.
fn check_epoch(
    within: EnvelopeScope<'_>,
    envelope: &Envelope<'_>,
    retained: bool,
    now_unix_ms: u64,
) -> Result<Issuer, OpenError> {
    let EnvelopeHeader { epoch, sender, .. } = envelope.header;
    let (issuer, state) =
        within.keys.receiving(sender, epoch, now_unix_ms).ok_or(OpenError::NoKey { epoch })?;
    match state {
        EpochState::Current | EpochState::Retiring => Ok(issuer),
        // A Will waits at the broker for as long as its connection lasts.
        EpochState::History if retained || within.options.backlog || envelope.header.is_will() => Ok(issuer),
        EpochState::History | EpochState::Gone => Err(OpenError::EpochDropped { epoch }),
        EpochState::Future => Err(OpenError::NoKey { epoch }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::{E2e, EpochTiming, GroupKey, Keyring, Member, Scope, ScopeConfig};

    const NEXT_ACTIVE: u64 = 1_000_000;

    fn member(kid: u8) -> E2e {
        let mut keyring = Keyring::explicit(EpochTiming::default());
        keyring.insert(1, GroupKey::new(&[1; 32]), 0).unwrap();
        keyring.insert(2, GroupKey::new(&[2; 32]), NEXT_ACTIVE).unwrap();
        let scope = Scope::new("a").unwrap();
        let mut e2e = E2e::new(Member::Unsigned(Kid::from_bytes([kid; 8])), Limits::default());
        e2e.add_scope(ScopeConfig::envelope(scope, keyring, EnvelopeOptions::default())).unwrap();
        e2e
    }

    fn topic() -> TopicName<'static> {
        TopicName::new("a").unwrap()
    }

    fn open(reader: &mut E2e, payload: &[u8], now: u64) -> Result<Opened, OpenError> {
        reader.open(topic(), payload, false, &PublishProperties::default(), now)
    }

    fn seal(sender: &mut E2e, now: u64) -> Vec<u8> {
        sender.seal(topic(), b"x", &PublishProperties::default(), now, &mut |bytes| bytes.fill(0)).unwrap()
    }

    #[test]
    fn keys_are_derived_once_per_stream_and_never_kept_for_a_forgery() {
        let (mut sender, mut reader) = (member(1), member(2));
        let genuine = seal(&mut sender, 0);
        let mut forged = genuine.clone();
        forged[13] ^= 1;

        assert_eq!(open(&mut reader, &forged, 0), Err(OpenError::BadTag));
        assert_eq!(reader.receiver.keys.len(), 0);

        open(&mut reader, &genuine, 0).unwrap();
        open(&mut reader, &seal(&mut sender, 0), 0).unwrap();
        assert_eq!(reader.receiver.keys.len(), 1);
    }

    #[test]
    fn stream_keys_go_with_their_epoch_and_with_their_scope() {
        let (mut sender, mut reader) = (member(1), member(2));
        open(&mut reader, &seal(&mut sender, 0), 0).unwrap();
        open(&mut reader, &seal(&mut sender, NEXT_ACTIVE), NEXT_ACTIVE).unwrap();
        assert_eq!(reader.receiver.keys.len(), 2);

        reader.advance(u64::MAX - 1);
        assert_eq!(reader.receiver.keys.len(), 1);

        reader.remove_scope(&Scope::new("a").unwrap());
        assert_eq!(reader.receiver.keys.len(), 0);
    }
}
