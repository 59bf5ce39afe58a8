//! Sealing a message: scope, epoch, place in a stream, header, cipher, signature (VEIL-1 sections 10, 12.3).
//!
//! Invariant: a slot is taken before the header is written and used for one message only, even if sealing
//! fails afterwards.

use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Kid, Suite,
        binding::associated_data,
        channel::{Identity, Operations, hash, sign},
        distribution::Pair,
        envelope::{Chunk, EnvelopeFlags, EnvelopeHeader, HEADER_BYTES, SIGNATURE_BYTES},
        layout::put_v16,
    },
};

use super::{
    E2e, Entropy, LEGACY,
    blind::NamingError,
    chunks::MESSAGE_BYTES_MAX,
    cipher::{IV_BYTES, StreamId, StreamKey},
    config::{EnvelopeScope, Member, Mode, Padding},
    error::SealError,
    find,
    rings::Issuer,
    sender::{Sender, Slot, StreamOf},
};

impl E2e {
    /// Seals a message for `topic`. Seal once and keep the bytes: a retransmission is the same packet.
    ///
    /// `properties` are the application properties of the PUBLISH that will carry it. `now_unix_ms` must not
    /// run behind an earlier run of this program whose state was not restored.
    ///
    /// # Errors
    /// [`SealError`]; nothing of the plaintext may be sent in that case.
    pub fn seal(
        &mut self,
        topic: TopicName<'_>,
        plaintext: &[u8],
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, SealError> {
        self.seal_as(Kind::Message, Content { topic, plaintext, properties }, now_unix_ms, entropy)
    }

    /// Does the same with a message of any length to 64 MiB: one above `chunk_bytes` becomes several envelopes, to be published
    /// in this order with the same properties (VEIL-1 section 12.5). They must not be retained.
    ///
    /// # Errors
    /// As [`E2e::seal`].
    pub fn seal_in_parts(
        &mut self,
        topic: TopicName<'_>,
        plaintext: &[u8],
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let part_bytes = find(&self.scopes, topic).and_then(|entry| match &entry.config.mode {
            Mode::Envelope { options, .. } | Mode::Pairs { sending: options, .. } => {
                usize::try_from(options.chunk_bytes.get()).ok()
            }
            Mode::Article(_) => None,
        });
        let Some(part_bytes) = part_bytes.filter(|part_bytes| plaintext.len() > *part_bytes) else {
            return Ok(vec![self.seal(topic, plaintext, properties, now_unix_ms, entropy)?]);
        };
        let total_bytes = plaintext.len() as u64;
        if total_bytes > MESSAGE_BYTES_MAX {
            return Err(SealError::TooLong);
        }
        let mut message = [0; 8];
        entropy(&mut message);
        let message = u64::from_be_bytes(message);
        let count = u32::try_from(plaintext.len().div_ceil(part_bytes)).map_err(|_| SealError::TooLong)?;
        let parts = (0..count).zip(plaintext.chunks(part_bytes));
        parts
            .map(|(index, plaintext)| {
                let kind = Kind::Chunk(Chunk { message, index, count, total_bytes });
                self.seal_as(kind, Content { topic, plaintext, properties }, now_unix_ms, &mut *entropy)
            })
            .collect()
    }

    /// Seals a message anew that is retained under an earlier epoch, and marks it as such (VEIL-1 section 8.3).
    ///
    /// # Errors
    /// As [`E2e::seal`].
    pub fn seal_refresh(
        &mut self,
        topic: TopicName<'_>,
        plaintext: &[u8],
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, SealError> {
        self.seal_as(Kind::Refresh, Content { topic, plaintext, properties }, now_unix_ms, entropy)
    }

    /// Makes the copy of a message in the article's format, with the topic to publish it on, where the scope is configured so
    /// ([`E2e::copy_to_legacy`]).
    ///
    /// # Errors
    /// [`SealError::NotJson`] if there can be none, and [`SealError::LegacyTopic`] if nothing can be published there.
    pub fn seal_legacy(
        &mut self,
        topic: TopicName<'_>,
        plaintext: &[u8],
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Option<(String, Vec<u8>)>, SealError> {
        let Some(entry) = self.scopes.iter_mut().find(|entry| entry.config.scope.contains(topic)) else {
            return Ok(None);
        };
        let Some(keys) = &mut entry.legacy else { return Ok(None) };
        let copy = format!("{}{LEGACY}", topic.as_str());
        let name = TopicName::new(&copy).map_err(|_| SealError::LegacyTopic)?;
        if plaintext.is_empty() {
            return Ok(Some((copy, Vec::new())));
        }
        let mut iv = [0; IV_BYTES];
        entropy(&mut iv);
        let sealed = keys.seal(name, plaintext, now_unix_ms, iv)?;
        Ok(Some((copy, sealed)))
    }

    /// Seals a Will for a CONNECT, in a session of its own (VEIL-1 section 12.3).
    ///
    /// Receivers accept it for as long as they keep its epoch, however late the broker sends it.
    ///
    /// # Errors
    /// As [`E2e::seal`].
    pub fn seal_will(
        &mut self,
        topic: TopicName<'_>,
        plaintext: &[u8],
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, SealError> {
        self.seal_as(Kind::Will, Content { topic, plaintext, properties }, now_unix_ms, entropy)
    }

    fn seal_as(
        &mut self,
        kind: Kind,
        content: Content<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, SealError> {
        let topic = content.topic;
        if self.is_blind_name(topic) {
            return Err(SealError::BlindName);
        }
        if content.properties.response_topic.is_some_and(|topic| self.is_blind(topic)) {
            return Err(SealError::ResponseTopic);
        }
        let owner = self.scopes.iter_mut().find(|entry| entry.config.scope.contains(topic));
        let entry = owner.ok_or(SealError::NoScope)?;
        let (keys, options, scope, pairwise) = match &mut entry.config.mode {
            Mode::Envelope { keys, options } => (&*keys, &*options, &entry.config.scope, false),
            Mode::Pairs { pairs, sending, .. } => {
                let subscriber = Pair::subscriber_of(topic.as_str()).ok_or(SealError::NoScope)?;
                let pair = pairs.to(subscriber).ok_or(SealError::NoKey)?;
                (&pair.keys, &*sending, &pair.scope, true)
            }
            Mode::Article(keys) => {
                let mut iv = [0; IV_BYTES];
                entropy(&mut iv);
                return keys.seal(topic, content.plaintext, now_unix_ms, iv);
            }
        };
        let (issuer, epoch) = keys.sending(now_unix_ms).ok_or(SealError::NoKey)?;
        let (signed_only, suites) = keys.demands(issuer);
        let sign = options.sign || signed_only;
        let signer = match &self.member {
            Member::Identity(identity) if sign => Some(&**identity),
            Member::Unsigned(_) if sign => return Err(SealError::NoIdentity),
            Member::Identity(_) | Member::Unsigned(_) => None,
        };
        let suite = match suites.first() {
            Some(first) if !suites.contains(&options.suite) => *first,
            Some(_) | None => options.suite,
        };
        let blind = match &entry.naming {
            Some(naming) => {
                let epoch = naming.sending_epoch(now_unix_ms).ok_or(NamingError::NoKey)?;
                Some((&**naming, epoch))
            }
            None => None,
        };
        let tag = match blind {
            Some((naming, epoch)) => naming.scope_in(epoch, scope)?.tag(),
            None => scope.tag(),
        };
        let inner = options.inner_topic.then(|| format!("\0{}", scope.as_str()));
        let stream = match &inner {
            // No topic holds U+0000, so this is a stream of its own.
            Some(name) => StreamOf { name, topic: "" },
            None => StreamOf::topic(topic.as_str()),
        };
        let slot = match kind {
            Kind::Message | Kind::Refresh | Kind::Chunk(_) => {
                self.sender.next_slot(stream, now_unix_ms, entropy)?
            }
            Kind::Will => self.sender.will_slot(stream.topic, now_unix_ms, entropy)?,
        };
        let within = EnvelopeScope { id: entry.id, scope, tag, blind, keys, options, pairwise };
        let kid = self.kid;
        if keys.issues(issuer) {
            self.sessions.note(entry.id, epoch, kid, slot.session);
        }
        let outgoing = Outgoing { kind, content, suite, issuer, epoch, kid, signer, slot, now_unix_ms };
        seal_envelope(&mut self.sender, within, &outgoing, entropy)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Will,
    Refresh,
    Chunk(Chunk),
}

#[derive(Clone, Copy)]
struct Content<'a> {
    topic: TopicName<'a>,
    plaintext: &'a [u8],
    properties: &'a PublishProperties<'a>,
}

struct Outgoing<'a> {
    kind: Kind,
    content: Content<'a>,
    suite: Suite,
    issuer: Issuer,
    epoch: u32,
    kid: Kid,
    signer: Option<&'a Identity>,
    slot: Slot,
    now_unix_ms: u64,
}

fn seal_envelope(
    sender: &mut Sender,
    within: EnvelopeScope<'_>,
    outgoing: &Outgoing<'_>,
    entropy: Entropy<'_>,
) -> Result<Vec<u8>, SealError> {
    let EnvelopeScope { scope, options, .. } = within;
    let Outgoing { kind, signer, content: Content { topic, plaintext, properties }, .. } = *outgoing;
    let bound = options.bound.applies_to(properties).then_some(properties);
    let header = EnvelopeHeader {
        suite: outgoing.suite,
        flags: EnvelopeFlags::default()
            .with(EnvelopeFlags::SIGNED, signer.is_some())
            .with(EnvelopeFlags::BOUND, bound.is_some())
            .with(EnvelopeFlags::INNER_TOPIC, options.inner_topic)
            .with(EnvelopeFlags::REFRESH, kind == Kind::Refresh)
            .with(EnvelopeFlags::PAIRWISE, within.pairwise)
            .with(EnvelopeFlags::PADDED, options.padding != Padding::None),
        scope_tag: within.tag,
        epoch: outgoing.epoch,
        sender: outgoing.kid,
        session: outgoing.slot.session,
        seq: outgoing.slot.seq,
        timestamp_ms: options.timestamp.then_some(outgoing.now_unix_ms),
        chunk: match kind {
            Kind::Chunk(chunk) => Some(chunk),
            Kind::Message | Kind::Will | Kind::Refresh => None,
        },
    };
    let (inner, outer) = if options.inner_topic { (Some(topic), "") } else { (None, topic.as_str()) };
    let inner_length = inner.map_or(0, |topic| 2 + topic.as_str().len());
    let padded_length = options.padding.padded_length(inner_length + plaintext.len());
    let overhead = HEADER_BYTES + 8 + 24 + 2 * IV_BYTES + outgoing.suite.tag_len() + SIGNATURE_BYTES;
    let mut out = Vec::with_capacity(padded_length + overhead);
    header.encode(&mut out);
    let start = out.len();
    let mut associated = Vec::new();
    associated_data(&mut associated, &out, scope.as_str(), outer, bound)
        .map_err(|_| SealError::BoundTooLong)?;

    if let Some(topic) = inner {
        // A Topic Name is at most 65,535 bytes long.
        put_v16(&mut out, topic.as_str().as_bytes(), "topic").map_err(|_| SealError::TooLong)?;
    }
    out.extend_from_slice(plaintext);
    if options.padding != Padding::None {
        out.push(0x80);
        out.resize(start + padded_length, 0);
    }
    let id = StreamId {
        scope: within.id,
        issuer: outgoing.issuer,
        suite: header.suite,
        epoch: header.epoch,
        sender: header.sender,
        session: header.session,
        topic_hash: outgoing.slot.topic_hash,
    };
    let derive =
        || within.keys.with_key(id.issuer, scope, id.epoch, |group_key| StreamKey::derive(group_key, &id));
    let key = sender.key(id, derive).ok_or(SealError::NoKey)?;
    key.seal(header.seq, &associated, &mut out, start, entropy).map_err(|_| SealError::TooLong)?;
    sender.operations += Operations::SEALED;
    if let Some(identity) = signer {
        let digest = hash(&[&associated, out.get(start..).unwrap_or_default()]);
        out.extend_from_slice(&sign(identity.keys(), "source", &digest));
    }
    Ok(out)
}
