//! Sealing a message: scope, epoch, place in a stream, header, cipher, signature (VEIL-1 sections 10, 12.3).
//!
//! Invariant: a slot is taken before the header is written and used for one message only, even if sealing
//! fails afterwards.

use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Kid, Suite,
        channel::{Identity, Operations, hash, sign},
        envelope::{EnvelopeFlags, EnvelopeHeader, HEADER_BYTES, SIGNATURE_BYTES},
    },
};

use super::{
    E2e, Entropy,
    cipher::{IV_BYTES, StreamId, StreamKey},
    config::{EnvelopeScope, Member, Mode, Padding},
    error::SealError,
    find,
    frame::associated_data,
    rings::Issuer,
    sender::{Sender, Slot},
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
        self.seal_as(Kind::Message, topic, plaintext, properties, now_unix_ms, entropy)
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
        self.seal_as(Kind::Will, topic, plaintext, properties, now_unix_ms, entropy)
    }

    fn seal_as(
        &mut self,
        kind: Kind,
        topic: TopicName<'_>,
        plaintext: &[u8],
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, SealError> {
        let entry = find(&self.scopes, topic).ok_or(SealError::NoScope)?;
        let (keys, options) = match &entry.config.mode {
            Mode::Envelope { keys, options } => (keys, options),
            Mode::Article(keys) => {
                let mut iv = [0; IV_BYTES];
                entropy(&mut iv);
                return keys.encrypt(topic, plaintext, iv);
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
        let slot = match kind {
            Kind::Message => self.sender.next_slot(topic.as_str(), now_unix_ms, entropy)?,
            Kind::Will => self.sender.will_slot(topic.as_str(), now_unix_ms, entropy)?,
        };
        let within = EnvelopeScope { id: entry.id, scope: &entry.config.scope, keys, options };
        let kid = self.kid;
        let outgoing =
            Outgoing { topic, plaintext, properties, suite, issuer, epoch, kid, signer, slot, now_unix_ms };
        seal_envelope(&mut self.sender, within, &outgoing, entropy)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Message,
    Will,
}

struct Outgoing<'a> {
    topic: TopicName<'a>,
    plaintext: &'a [u8],
    properties: &'a PublishProperties<'a>,
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
    let Outgoing { signer, .. } = *outgoing;
    let bound = options.bound.applies_to(outgoing.properties).then_some(outgoing.properties);
    let header = EnvelopeHeader {
        suite: outgoing.suite,
        flags: EnvelopeFlags::default()
            .with(EnvelopeFlags::SIGNED, signer.is_some())
            .with(EnvelopeFlags::BOUND, bound.is_some())
            .with(EnvelopeFlags::PADDED, options.padding != Padding::None),
        scope_tag: scope.tag(),
        epoch: outgoing.epoch,
        sender: outgoing.kid,
        session: outgoing.slot.session,
        seq: outgoing.slot.seq,
        timestamp_ms: options.timestamp.then_some(outgoing.now_unix_ms),
    };
    let padded_length = options.padding.padded_length(outgoing.plaintext.len());
    let overhead = HEADER_BYTES + 8 + 2 * IV_BYTES + outgoing.suite.tag_len() + SIGNATURE_BYTES;
    let mut out = Vec::with_capacity(padded_length + overhead);
    header.encode(&mut out);
    let start = out.len();
    let mut associated = Vec::new();
    associated_data(&mut associated, &out, scope, outgoing.topic, bound)
        .map_err(|_| SealError::BoundTooLong)?;

    out.extend_from_slice(outgoing.plaintext);
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
