//! Opening again what this program has sealed itself, and which key that was under.
//!
//! Invariant: only for bytes that are known to be those of this program: neither sender nor repetition is looked at.

use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Kid,
        distribution::Pair,
        layout::{LayoutError, Reader},
    },
};

use super::{
    E2e, EpochMark, blinding,
    config::{EnvelopeScope, Mode},
    error::OpenError,
    find,
    receiver::Incoming,
    rings::Issuer,
};

impl E2e {
    /// Opens a message for `topic` that this program has sealed and had retained under the name `wire`.
    ///
    /// # Errors
    /// [`OpenError`], for instance because its key was erased.
    pub(crate) fn reopen(
        &mut self,
        topic: TopicName<'_>,
        wire: TopicName<'_>,
        payload: &[u8],
        properties: &PublishProperties<'_>,
        now_unix_ms: u64,
    ) -> Result<Vec<u8>, OpenError> {
        let within = match self.is_blind_name(wire) {
            true => blinding::place(&self.scopes, wire, payload, now_unix_ms)?,
            false => {
                let entry = find(&self.scopes, topic).ok_or(OpenError::TopicMismatch)?;
                let (scope, keys, options, pairwise) = match &entry.config.mode {
                    Mode::Envelope { keys, options } => (&entry.config.scope, keys, options, false),
                    Mode::Pairs { pairs, sending, .. } => {
                        let subscriber = Pair::subscriber_of(topic.as_str());
                        let pair = subscriber.and_then(|subscriber| pairs.to(subscriber));
                        let pair = pair.ok_or(OpenError::TopicMismatch)?;
                        (&pair.scope, &pair.keys, sending, true)
                    }
                    Mode::Article(_) => return Err(OpenError::TopicMismatch),
                };
                let tag = scope.tag();
                EnvelopeScope { id: entry.id, scope, tag, blind: None, keys, options, pairwise }
            }
        };
        let incoming = Incoming { topic: wire, payload, retained: true, properties, now_unix_ms };
        self.receiver.reopen(within, topic, incoming)
    }
}

impl EpochMark {
    /// `u8 0 || 8 zero bytes`, or `u8 1 || issuer kid`; `u32 epoch`; `u8 0`, or `u8 1 || u32 epoch` of the name.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, issuer) = match self.issuer {
            Issuer::Configuration => (0, [0; Kid::LEN]),
            Issuer::Party(kid) => (1, *kid.as_bytes()),
        };
        out.push(kind);
        out.extend_from_slice(&issuer);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.push(u8::from(self.naming.is_some()));
        out.extend(self.naming.iter().flat_map(|epoch| epoch.to_be_bytes()));
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let (kind, kid) = (reader.u8("issuer")?, Kid::from_bytes(reader.array("issuer")?));
        let issuer = match kind {
            0 => Issuer::Configuration,
            1 => Issuer::Party(kid),
            2.. => return Err(LayoutError::Value("issuer")),
        };
        let epoch = reader.u32("epoch")?;
        let naming = match reader.u8("naming")? {
            0 => None,
            1 => Some(reader.u32("naming epoch")?),
            2.. => return Err(LayoutError::Value("naming")),
        };
        Ok(Self { issuer, epoch, naming })
    }
}
