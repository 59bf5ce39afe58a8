//! What this client has had retained on end-to-end scopes, so that it can be sealed anew when the epoch changes
//! (VEIL-1 section 8.3).
//!
//! Of a message that it has published itself it knows the plaintext; of one that an earlier run of the program has, it knows what the
//! broker was given, and reads that back once another epoch is near: later the key may be gone. Invariants: nothing is sealed anew but what this client has
//! had retained last, to the byte; bounded in number and bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracing::{debug, warn};
use veilmq_protocol::{
    QoS, TopicName,
    veil::{
        channel::hash,
        layout::{LayoutError, Reader},
    },
};

use super::clock::entropy;
use crate::{
    e2e::{E2e, EpochMark, OpenError, SealError},
    message::{Message, Properties, Publication, encode_pairs},
};

const MESSAGES_MAX: usize = 1_024;
const BYTES_MAX: usize = 4 << 20;
/// Messages that are read back at a time, and how long the broker may take.
const READING_MAX: usize = 64;
const READING_MS: u64 = 10_000;

/// Messages by topic, as the application calls it.
pub(super) struct Retained {
    messages: BTreeMap<String, Kept>,
    bytes: usize,
    /// When the next epoch becomes active, in unix milliseconds.
    due_ms: u64,
    /// When the first of those that are being read is given up, at the earliest.
    give_up_ms: u64,
}

impl Default for Retained {
    fn default() -> Self {
        Self { messages: BTreeMap::new(), bytes: 0, due_ms: 0, give_up_ms: u64::MAX }
    }
}

struct Kept {
    /// As the application gave it; none if it is to be read back.
    publication: Option<Publication>,
    left: Left,
    /// It is being read back, until this moment at the latest.
    reading_until_ms: Option<u64>,
    /// There was no room for it, so it is read once it is due.
    waits: bool,
}

/// What the broker was given.
struct Left {
    /// The name that it is retained under.
    wire: String,
    qos: QoS,
    mark: EpochMark,
    /// The hash of the sealed message.
    digest: [u8; 32],
}

/// What is to be done for retained messages.
#[derive(Default)]
pub(super) struct Refresh {
    /// To be published.
    pub(super) publications: Vec<Publication>,
    /// To be subscribed to, for as long as it takes to read what is retained there.
    pub(super) read: Vec<(String, QoS)>,
    /// To be subscribed to no longer.
    pub(super) read_no_more: Vec<String>,
}

impl Retained {
    /// Remembers what was published, on the wire as `sealed`, or that it was deleted; without `mark` it is none of ours.
    pub(super) fn remember(
        &mut self,
        publication: Publication,
        sealed: &Publication,
        mark: Option<EpochMark>,
    ) {
        self.forget(&publication.topic);
        let Some(mark) = mark.filter(|_| !publication.payload.is_empty()) else { return };
        if self.messages.len() >= MESSAGES_MAX {
            warn!(
                topic = publication.topic,
                "too much is retained to seal all of it anew with the next epoch"
            );
            return;
        }
        let digest = hash(&[&sealed.payload]);
        let left = Left { wire: sealed.topic.clone(), qos: publication.qos, mark, digest };
        let topic = publication.topic.clone();
        let has_room = self.bytes.saturating_add(publication.payload.len()) <= BYTES_MAX;
        let publication = has_room.then_some(publication);
        self.bytes += publication.as_ref().map_or(0, |publication| publication.payload.len());
        self.look_again();
        self.messages.insert(topic, Kept { publication, left, reading_until_ms: None, waits: !has_room });
    }

    /// There may be other keys.
    pub(super) const fn look_again(&mut self) {
        self.due_ms = 0;
    }

    /// The connection is gone, and with it what was to be read.
    pub(super) fn disconnected(&mut self) {
        self.messages.values_mut().for_each(|kept| kept.reading_until_ms = None);
        self.look_again();
    }

    /// When another epoch becomes active, or the broker has had long enough, in unix milliseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        (!self.messages.is_empty()).then_some(self.due_ms.min(self.give_up_ms))
    }

    /// Seals what is retained under an earlier epoch, or has it read back first.
    pub(super) fn refresh(&mut self, e2e: &mut E2e, now_unix_ms: u64) -> Refresh {
        let mut refresh = Refresh { read_no_more: self.give_up(now_unix_ms), ..Refresh::default() };
        if self.messages.is_empty() || self.due_ms > now_unix_ms {
            return refresh;
        }
        let activation = e2e.next_activation(now_unix_ms);
        self.due_ms = activation.unwrap_or(u64::MAX);
        let mut reading = self.messages.values().filter(|kept| kept.reading_until_ms.is_some()).count();
        for (topic, kept) in &mut self.messages {
            let Ok(name) = TopicName::new(topic) else { continue };
            let Some(mark) = e2e.refresh_mark(name, now_unix_ms) else { continue };
            let is_due = mark != kept.left.mark;
            let is_near = activation.is_some() || e2e.is_for_one(name);
            match &kept.publication {
                Some(publication) if is_due => {
                    refresh.publications.extend(kept.left.replace(e2e, publication, mark, now_unix_ms));
                }
                Some(_) => {}
                // Those that find no room have their turn when one of the others is done.
                None if kept.is_wanted(is_due, is_near) && reading < READING_MAX => {
                    reading += 1;
                    let until_ms = now_unix_ms.saturating_add(READING_MS);
                    kept.reading_until_ms = Some(until_ms);
                    self.give_up_ms = self.give_up_ms.min(until_ms);
                    refresh.read.push((kept.left.wire.clone(), kept.left.qos));
                }
                None => {}
            }
        }
        refresh
    }

    /// Takes a retained message that came back; none if it is not one that is being read.
    pub(super) fn read_back(
        &mut self,
        e2e: &mut E2e,
        message: &Message,
        now_unix_ms: u64,
    ) -> Option<Refresh> {
        let reading = |(_, kept): &(&String, &mut Kept)| {
            kept.reading_until_ms.is_some() && kept.left.wire == message.topic
        };
        let (topic, kept) = self.messages.iter_mut().find(reading)?;
        let topic = topic.clone();
        kept.reading_until_ms = None;
        self.due_ms = 0;
        let mut refresh = Refresh { read_no_more: vec![message.topic.clone()], ..Refresh::default() };
        if hash(&[&message.payload]) != kept.left.digest {
            debug!(topic, "someone else has had another message retained, or the broker has an older one");
            self.forget(&topic);
            return Some(refresh);
        }
        let opened = kept.left.open(e2e, &topic, message, now_unix_ms);
        let publication = match opened {
            Ok(publication) => publication,
            Err(error) => {
                warn!(topic, %error, "what is retained cannot be sealed anew");
                self.forget(&topic);
                return Some(refresh);
            }
        };
        let mark = TopicName::new(&topic).ok().and_then(|topic| e2e.refresh_mark(topic, now_unix_ms));
        match mark.filter(|mark| *mark != kept.left.mark) {
            Some(mark) => refresh.publications = kept.left.replace(e2e, &publication, mark, now_unix_ms),
            None if self.bytes.saturating_add(publication.payload.len()) <= BYTES_MAX => {
                self.bytes += publication.payload.len();
                kept.publication = Some(publication);
            }
            None => kept.waits = true,
        }
        Some(refresh)
    }

    /// Forgets what was retained on topics that begin so, and returns what clears it.
    pub(super) fn clear(&mut self, prefix: &str) -> Vec<Publication> {
        let topics: Vec<String> =
            self.messages.keys().filter(|topic| topic.starts_with(prefix)).cloned().collect();
        let mut cleared = Vec::new();
        for topic in topics {
            if let Some(Kept { left, .. }) = self.messages.get(&topic) {
                cleared.push(Publication {
                    topic: left.wire.clone(),
                    payload: Bytes::new(),
                    qos: left.qos,
                    retain: true,
                    properties: Properties::default(),
                });
            }
            self.forget(&topic);
        }
        cleared
    }

    /// The broker does not let this client read what is retained under a name.
    pub(super) fn cannot_read(&mut self, wire: &str) {
        self.messages.retain(|_, kept| kept.reading_until_ms.is_none() || kept.left.wire != wire);
        self.look_again();
    }

    /// `u32 n` and n times topic and what the broker was given.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&u32::try_from(self.messages.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (topic, Kept { left, .. }) in &self.messages {
            for name in [topic, &left.wire] {
                out.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            out.push(left.qos.value());
            left.mark.encode(&mut out);
            out.extend_from_slice(&left.digest);
        }
        out
    }

    /// Takes back what [`encode`](Self::encode) gave.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut reader = Reader::new(bytes);
        let mut messages = BTreeMap::new();
        for _ in 0..reader.u32("message count")? {
            let topic = name(&mut reader)?;
            let left = Left {
                wire: name(&mut reader)?,
                qos: QoS::try_from(reader.u8("QoS")?).map_err(|_| LayoutError::Value("QoS"))?,
                mark: EpochMark::decode(&mut reader)?,
                digest: reader.array("digest")?,
            };
            messages.insert(topic, Kept { publication: None, left, reading_until_ms: None, waits: false });
        }
        reader.finish()?;
        Ok(Self { messages, ..Self::default() })
    }

    fn forget(&mut self, topic: &str) {
        let publication = self.messages.remove(topic).and_then(|kept| kept.publication);
        self.bytes -= publication.map_or(0, |publication| publication.payload.len());
    }

    /// Gives up what the broker does not give back: nothing is retained there.
    fn give_up(&mut self, now_unix_ms: u64) -> Vec<String> {
        if self.give_up_ms > now_unix_ms {
            return Vec::new();
        }
        let late = |kept: &Kept| kept.reading_until_ms.is_some_and(|until_ms| until_ms <= now_unix_ms);
        let given_up: Vec<String> =
            self.messages.extract_if(.., |_, kept| late(kept)).map(|(_, kept)| kept.left.wire).collect();
        let reading = self.messages.values().filter_map(|kept| kept.reading_until_ms);
        self.give_up_ms = reading.min().unwrap_or(u64::MAX);
        if !given_up.is_empty() {
            self.look_again();
        }
        given_up
    }
}

impl Kept {
    /// Whether it is to be read back now.
    const fn is_wanted(&self, is_due: bool, is_near: bool) -> bool {
        self.reading_until_ms.is_none() && (is_due || (is_near && !self.waits))
    }
}

impl Left {
    /// Opens what came back.
    fn open(
        &self,
        e2e: &mut E2e,
        topic: &str,
        message: &Message,
        now_unix_ms: u64,
    ) -> Result<Publication, OpenError> {
        let name = TopicName::new(topic).map_err(|_| OpenError::TopicMismatch)?;
        let wire = TopicName::new(&self.wire).map_err(|_| OpenError::TopicMismatch)?;
        // User Properties are never bound.
        let none = veilmq_protocol::UserPropertiesBuf::new();
        let properties = message.properties.borrow(&none).map_err(|_| OpenError::Malformed("properties"))?;
        let plaintext = e2e.reopen(name, wire, &message.payload, &properties, now_unix_ms)?;
        Ok(Publication {
            topic: topic.to_owned(),
            payload: Bytes::from(plaintext),
            qos: self.qos,
            retain: true,
            properties: message.properties.clone(),
        })
    }

    /// Seals a message anew, to take the place of what the broker has.
    fn replace(
        &mut self,
        e2e: &mut E2e,
        publication: &Publication,
        mark: EpochMark,
        now_unix_ms: u64,
    ) -> Vec<Publication> {
        match seal(e2e, publication, now_unix_ms) {
            Ok((wire, payload)) => {
                self.mark = mark;
                self.digest = hash(&[&payload]);
                let mut replaced = vec![publication.carrying(&wire, payload)];
                let before = std::mem::replace(&mut self.wire, wire);
                if before != self.wire {
                    // VEIL-1 section 14: it is retained under the new name, and no longer under the old one.
                    replaced.push(publication.carrying(&before, Bytes::new()));
                }
                replaced
            }
            Err(error) => {
                warn!(topic = publication.topic, %error, "a retained message cannot be sealed anew");
                Vec::new()
            }
        }
    }
}

fn seal(e2e: &mut E2e, publication: &Publication, now_unix_ms: u64) -> Result<(String, Bytes), SealError> {
    let topic = TopicName::new(&publication.topic).map_err(|_| SealError::NoScope)?;
    // What was published before can be encoded.
    let user = encode_pairs(&publication.properties.user).unwrap_or_default();
    let properties = publication.properties.borrow(&user).unwrap_or_default();
    let wire = e2e.wire_topic(topic, now_unix_ms)?.unwrap_or_else(|| publication.topic.clone());
    let sealed = e2e.seal_refresh(topic, &publication.payload, &properties, now_unix_ms, &mut entropy)?;
    Ok((wire, Bytes::from(sealed)))
}

fn name(reader: &mut Reader<'_>) -> Result<String, LayoutError> {
    let name = str::from_utf8(reader.v32("topic")?).map_err(|_| LayoutError::Value("topic"))?;
    Ok(name.to_owned())
}
