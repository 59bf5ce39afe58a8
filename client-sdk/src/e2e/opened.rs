//! What a receiver learns about a message besides its plaintext.

use std::fmt;

use veilmq_protocol::veil::Kid;

/// How far the origin of a message is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authentication {
    /// Not at all: the article's format, and tombstones.
    None,
    /// A holder of the group key wrote it.
    Group,
    /// The named sender wrote it, even if the broker and other members are dishonest.
    Signed,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// An authentic envelope.
    Envelope(Origin),
    /// A message in the article's format: anyone may have written or changed it.
    Article,
    /// An empty message: anyone who can publish may have cleared the topic.
    Tombstone,
}

/// The authenticated facts of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Key identifier of the sender.
    pub sender: Kid,
    /// Whether the sender is proven or merely claimed by a member of the group.
    pub signed: bool,
    /// Sender session.
    pub session: u64,
    /// Epoch of the group key.
    pub epoch: u32,
    /// Number of the message in its stream.
    pub seq: u32,
    /// Messages missing directly before this one; 0 for retained messages and at the start of a stream.
    pub gap: u32,
    /// Whether it was sealed as a Will.
    pub will: bool,
    /// Whether it was retained before and was published again under a newer epoch: it says nothing new.
    pub refresh: bool,
    /// Time between sealing and opening in milliseconds, if the sender gave a timestamp.
    pub age_ms: Option<u64>,
}

/// An opened message. Its `Debug` shows the length of the plaintext only, so that logs do not leak it.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The application's payload.
    pub plaintext: Vec<u8>,
    /// Where it came from.
    pub provenance: Provenance,
    /// Whether it was sent from the retained message store.
    pub retained: bool,
    /// The Topic Name inside the envelope, which counts instead of the one it came on, if there is one.
    pub topic: Option<String>,
}

impl Opened {
    /// Returns how far the origin is proven.
    pub fn authentication(&self) -> Authentication {
        match self.provenance {
            Provenance::Envelope(Origin { signed: true, .. }) => Authentication::Signed,
            Provenance::Envelope(Origin { signed: false, .. }) => Authentication::Group,
            Provenance::Article | Provenance::Tombstone => Authentication::None,
        }
    }

    /// Returns the facts of the envelope, if the message was one.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.provenance {
            Provenance::Envelope(origin) => Some(origin),
            Provenance::Article | Provenance::Tombstone => None,
        }
    }

    /// Returns whether the message says that what is retained on the topic is deleted; [`Opened::authentication`] tells how far
    /// that is proven.
    pub fn is_tombstone(&self) -> bool {
        self.plaintext.is_empty()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("plaintext_len", &self.plaintext.len())
            .field("provenance", &self.provenance)
            .field("retained", &self.retained)
            .field("topic", &self.topic)
            .finish()
    }
}
