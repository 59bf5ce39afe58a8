//! The Application Message: one immutable image shared by every session that needs it.
//!
//! The core moves payloads and never looks into them: [`Payload`] offers its length and its bytes for the wire, nothing else.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use veilmq_protocol::{PublishProperties, QoS};

use crate::id::{MessageId, SessionId};
use crate::source::Source;
use crate::time::Moment;

/// An Application Message as the broker holds it ("Publication" while it arrives, "Delivery" while it leaves).
pub struct Message {
    id: Option<MessageId>,
    publisher: Option<SessionId>,
    source: Option<Arc<Source>>,
    qos: QoS,
    retain: bool,
    topic_bytes: u16,
    properties_bytes: u32,
    expiry: Option<Expiry>,
    /// Topic Name, application properties, payload: one buffer, written once.
    image: Box<[u8]>,
    /// Durable sessions that still need the stored body and hold this image; the last one to settle forgets it.
    references: AtomicU32,
    /// The count of those that need the stored body without holding this image; all holders together count as one more.
    absent: OnceLock<Arc<AtomicU32>>,
    storing: AtomicU8,
    fan_body: OnceLock<Box<FanBody>>,
}

/// What FAN-D records share besides the payload (VEIL-1 section 6.3).
pub(crate) struct FanBody {
    /// The G-body up to its payload.
    pub(crate) head: Box<[u8]>,
    /// The digest of the whole G-body.
    pub(crate) digest: [u8; 32],
}

/// What is known of the batch that stores a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Storing {
    /// It is not durable yet, or there is none.
    Pending,
    /// It is durable.
    Done,
    /// It was refused.
    Failed,
}

/// When a message stops being deliverable, and the interval its publisher gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The moment after which delivery must not begin.
    pub at: Moment,
    /// The Message Expiry Interval as it arrived, in seconds.
    pub interval_seconds: u32,
}

/// The parts of a [`Message`] before it is put into one image.
#[derive(Clone, Copy)]
pub struct MessageParts<'a> {
    /// The identity of the stored body, if a durable session needs it.
    pub id: Option<MessageId>,
    /// The session that published it; None for the broker itself and for recovered messages.
    pub publisher: Option<SessionId>,
    /// The client that published it, if it is retained and that is to be remembered.
    pub source: Option<&'a Arc<Source>>,
    /// The Quality of Service it was published with.
    pub qos: QoS,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// A valid Topic Name, at most 65,535 bytes.
    pub topic: &'a str,
    /// Properties 0x01, 0x03, 0x08, 0x09 and 0x26, encoded, without length prefix.
    pub application_properties: &'a [u8],
    /// The opaque payload.
    pub payload: &'a [u8],
    /// When it expires.
    pub expiry: Option<Expiry>,
}

impl Message {
    /// Copies the parts into one image; `references` is the number of durable sessions that will settle it.
    pub fn new(parts: &MessageParts<'_>, references: u32) -> Arc<Self> {
        Arc::new(Self::build(parts, references))
    }

    fn build(parts: &MessageParts<'_>, references: u32) -> Self {
        let mut image =
            Vec::with_capacity(parts.topic.len() + parts.application_properties.len() + parts.payload.len());
        image.extend_from_slice(parts.topic.as_bytes());
        image.extend_from_slice(parts.application_properties);
        image.extend_from_slice(parts.payload);
        Self {
            id: parts.id,
            publisher: parts.publisher,
            source: parts.source.map(Arc::clone),
            qos: parts.qos,
            retain: parts.retain,
            topic_bytes: u16::try_from(parts.topic.len()).unwrap_or(u16::MAX),
            properties_bytes: u32::try_from(parts.application_properties.len()).unwrap_or(u32::MAX),
            expiry: parts.expiry,
            image: image.into_boxed_slice(),
            references: AtomicU32::new(references),
            absent: OnceLock::new(),
            storing: AtomicU8::new(Storing::Pending as u8),
            fan_body: OnceLock::new(),
        }
    }

    /// Makes the image of a message that one session has read back from the store; `absent` counts this session and the others
    /// that need it.
    pub(crate) fn read_back(message: Arc<Self>, absent: Option<Arc<AtomicU32>>) -> Arc<Self> {
        // A store in memory gives its own image away.
        let image = Arc::try_unwrap(message).unwrap_or_else(|shared| Self::build(&shared.parts(), 0));
        Arc::new(Self {
            references: AtomicU32::new(1),
            absent: absent.map_or_else(OnceLock::new, OnceLock::from),
            storing: AtomicU8::new(Storing::Done as u8),
            ..image
        })
    }

    /// Copies the message under a stored identity of its own, for `references` durable sessions.
    pub fn with_id(&self, id: MessageId, references: u32) -> Arc<Self> {
        Self::new(&MessageParts { id: Some(id), ..self.parts() }, references)
    }

    /// Returns the parts, borrowed.
    pub fn parts(&self) -> MessageParts<'_> {
        MessageParts {
            id: self.id,
            publisher: self.publisher,
            source: self.source.as_ref(),
            qos: self.qos,
            retain: self.retain,
            topic: self.topic(),
            application_properties: self.application_properties(),
            payload: self.payload().as_wire_bytes(),
            expiry: self.expiry,
        }
    }

    /// Returns the identity of the stored body; None if no durable session needs it.
    pub fn id(&self) -> Option<MessageId> {
        self.id
    }

    /// Returns the session that published the message, if it did so in this run of the broker.
    pub fn publisher(&self) -> Option<SessionId> {
        self.publisher
    }

    /// Returns the client that published a retained message, if that is known.
    pub fn source(&self) -> Option<&Arc<Source>> {
        self.source.as_ref()
    }

    /// Returns the Quality of Service of the publication.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Returns the RETAIN flag of the publication.
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// Returns the Topic Name.
    pub fn topic(&self) -> &str {
        // The image begins with a &str's bytes, so the conversion cannot fail.
        core::str::from_utf8(self.topic_as_bytes()).unwrap_or_default()
    }

    /// Returns the Topic Name as it goes over the wire, without looking at it again.
    pub fn topic_as_bytes(&self) -> &[u8] {
        &self.image[..usize::from(self.topic_bytes)]
    }

    /// Returns the encoded application properties (0x01, 0x03, 0x08, 0x09, 0x26).
    pub fn application_properties(&self) -> &[u8] {
        let start = usize::from(self.topic_bytes);
        &self.image[start..start + self.properties_bytes as usize]
    }

    /// Returns the decoded application properties.
    pub fn properties(&self) -> PublishProperties<'_> {
        PublishProperties::decode_application(self.application_properties()).unwrap_or_default()
    }

    /// Returns the opaque payload.
    pub fn payload(&self) -> Payload<'_> {
        Payload(&self.image[usize::from(self.topic_bytes) + self.properties_bytes as usize..])
    }

    /// Returns when the message expires.
    pub fn expiry(&self) -> Option<Expiry> {
        self.expiry
    }

    /// Tells whether delivery may no longer begin ([MQTT-3.3.2-5]).
    pub fn is_expired(&self, now: Moment) -> bool {
        self.expiry.is_some_and(|expiry| now >= expiry.at)
    }

    /// Returns the interval to forward: what came in less the time waited here, in seconds ([MQTT-3.3.2-6]).
    pub fn remaining_seconds(&self, now: Moment) -> Option<u32> {
        self.expiry.map(|expiry| {
            let left = expiry.at.since(now).div_ceil(1_000);
            u32::try_from(left).unwrap_or(u32::MAX).min(expiry.interval_seconds)
        })
    }

    /// Returns the bytes that this message occupies in memory, for queue limits.
    pub fn size_bytes(&self) -> usize {
        let source = self.source.as_ref().map_or(0, |source| source.size_bytes());
        self.image.len() + size_of::<Self>() + source
    }

    /// Returns when the message stops being deliverable.
    pub(crate) fn expires_at(&self) -> Option<Moment> {
        self.expiry.map(|expiry| expiry.at)
    }

    /// Takes note of what became of the batch that stores the message.
    pub(crate) fn set_storing(&self, storing: Storing) {
        self.storing.store(storing as u8, Ordering::Release);
    }

    /// Returns what is known of the batch that stores the message.
    pub(crate) fn storing(&self) -> Storing {
        match self.storing.load(Ordering::Acquire) {
            0 => Storing::Pending,
            1 => Storing::Done,
            _ => Storing::Failed,
        }
    }

    /// Gives up one durable reference; true if it was the last and the stored body can be forgotten.
    pub(crate) fn release_reference(&self) -> bool {
        self.references.fetch_sub(1, Ordering::AcqRel) == 1
            && self.absent.get().is_none_or(|absent| release_absent(absent))
    }

    /// Lets one who holds a durable reference do without this image, and returns where it counts from now on; None if nobody
    /// else needs the message.
    pub(crate) fn leave(&self) -> Option<Arc<AtomicU32>> {
        // The last of the holders takes the one that they all counted as.
        if self.references.load(Ordering::Acquire) == 1 {
            return self.absent.get().map(Arc::clone);
        }
        let absent = self.absent.get_or_init(|| Arc::new(AtomicU32::new(1)));
        absent.fetch_add(1, Ordering::Relaxed);
        if self.references.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The others have gone meanwhile, and could not take the one along while this one was here.
            absent.fetch_sub(1, Ordering::AcqRel);
        }
        Some(Arc::clone(absent))
    }

    /// Returns what all FAN-D records of this message share, computed at most once (VEIL-1 section 6.3).
    ///
    /// # Errors
    /// What `compute` gives; the next call computes again.
    pub(crate) fn fan_body<E>(&self, compute: impl FnOnce() -> Result<FanBody, E>) -> Result<&FanBody, E> {
        if let Some(body) = self.fan_body.get() {
            return Ok(body);
        }
        let body = Box::new(compute()?);
        Ok(self.fan_body.get_or_init(|| body))
    }
}

/// Gives up a reference that was counted apart from the image; true if it was the last of all.
pub(crate) fn release_absent(absent: &AtomicU32) -> bool {
    absent.fetch_sub(1, Ordering::AcqRel) == 1
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("topic", &self.topic())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("payload", &self.payload())
            .finish()
    }
}

/// A payload: opaque to the broker, which for end-to-end topics holds only ciphertext and looks at headers alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    /// Returns the length in bytes.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Tells whether there is no payload; with RETAIN this clears a retained message.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes for a socket, a store or the policy of their topic, the only places that may have them.
    pub fn as_wire_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
