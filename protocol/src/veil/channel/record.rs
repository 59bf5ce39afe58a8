//! The record layer: sealing and opening channel records (VEIL-1 sections 5.2, 5.4 and 4.8).
//!
//! A sealer and an opener are separate types, one per direction. Both work in the caller's buffer.
//! Invariant: a record number is used once per phase, and the first record that is refused ends the
//! opener, whose keys are gone then.

use super::{
    error::RecordError,
    fanout::FanDelivery,
    kdf::Secret32,
    suite_keys::{RecordTag, SuiteKeys},
};
use crate::veil::{
    layout::LayoutError,
    record::{ControlOp, HEADER_LEN, Phase, RecordHeader, RecordType},
    registry::{Scheme, Suite},
};
use alloc::vec::Vec;
use core::ops::Range;
use sha2::{Digest, Sha256};

/// After this many records under one key the sender moves to the next (VEIL-1 section 4.8).
pub const REKEY_RECORDS: u64 = 1 << 24;

/// Which end of the channel a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that sent CONNECT.
    Client,
    /// The one that answered it.
    Broker,
}

/// `ap_x`, the keys expanded from it, and how far they have been used.
struct DirectionKeys {
    suite: Suite,
    secret: Secret32,
    keys: SuiteKeys,
    phase: Phase,
    sequence: u64,
}

impl DirectionKeys {
    fn new(suite: Suite, secret: Secret32) -> Self {
        let keys = SuiteKeys::new(suite, &secret);
        Self { suite, secret, keys, phase: Phase::default(), sequence: 0 }
    }

    /// `ap_x' = Derive(ap_x, "upd", "", 32)`; record numbers restart, the phase flips.
    fn update(&mut self) {
        self.secret = self.secret.derive("upd", &[]);
        self.keys = SuiteKeys::new(self.suite, &self.secret);
        self.phase = self.phase.next();
        self.sequence = 0;
    }

    const fn header(&self, record_type: RecordType, len: u32) -> [u8; HEADER_LEN] {
        RecordHeader { record_type, phase: self.phase, len }.to_bytes()
    }
}

fn record_len(len: usize) -> u32 {
    u32::try_from(len).expect("a record is below 4 GiB")
}

/// Seals records in one direction.
pub struct RecordSealer {
    direction: DirectionKeys,
    packets: RecordType,
    scratch: Vec<u8>,
}

/// A record that was begun and is to be finished.
#[must_use = "a record is sent only when it is finished"]
#[derive(Debug)]
pub struct OpenRecord {
    record_type: RecordType,
    start: usize,
    body: usize,
}

impl RecordSealer {
    /// Starts at record 0 of the first phase, with the application secret `ap_x` of the sender.
    #[must_use]
    pub fn new(suite: Suite, scheme: Scheme, secret: Secret32) -> Self {
        let packets = match scheme {
            Scheme::One | Scheme::Four => RecordType::Integrity,
            Scheme::Two | Scheme::Three => RecordType::Encrypted,
        };
        Self { direction: DirectionKeys::new(suite, secret), packets, scratch: Vec::new() }
    }

    /// Begins a record of whole MQTT packets at the end of `out`, of the type the scheme asks for;
    /// the caller appends the packets and calls [`finish`](Self::finish).
    pub fn begin(&self, out: &mut Vec<u8>) -> OpenRecord {
        self.begin_as(self.packets, out)
    }

    fn begin_as(&self, record_type: RecordType, out: &mut Vec<u8>) -> OpenRecord {
        let start = out.len();
        let iv_len = match record_type {
            RecordType::Encrypted | RecordType::Control => self.direction.keys.iv_len(),
            _ => 0,
        };
        out.resize(start + HEADER_LEN + iv_len, 0);
        OpenRecord { record_type, start, body: out.len() }
    }

    /// Finishes a record in place: everything appended since [`begin`](Self::begin) is its body. A
    /// record without a body is taken back.
    ///
    /// # Panics
    /// When `out` was cut below the start of the record, or the record exceeds 4 GiB.
    #[expect(clippy::needless_pass_by_value, reason = "a record can be finished only once")]
    pub fn finish(&mut self, out: &mut Vec<u8>, open: OpenRecord) {
        let OpenRecord { record_type, start, body } = open;
        let plain_len = out.len() - body;
        if plain_len == 0 {
            out.truncate(start);
            return;
        }
        let keys = &self.direction.keys;
        let encrypted = !matches!(record_type, RecordType::Integrity);
        let len = if encrypted { keys.encrypted_len(plain_len) } else { plain_len + keys.tag_len() };
        let header = self.direction.header(record_type, record_len(len));
        out[start..start + HEADER_LEN].copy_from_slice(&header);
        let sequence = self.next_sequence();
        let keys = &self.direction.keys;
        if encrypted {
            keys.seal(sequence, out, start);
        } else {
            let tag = keys.tag(sequence, &out[start..]);
            out.extend_from_slice(tag.as_ref());
        }
    }

    /// Writes a FAN-D record around a shared body that is not copied: appends everything before
    /// the body to `prefix` and gives the tag to be sent after it.
    ///
    /// `body_digest` is [`gbody_digest`] of the body and `body_len` its length in bytes.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a per-subscriber header above 65,535 bytes; nothing is used up.
    ///
    /// # Panics
    /// When the record exceeds 4 GiB.
    pub fn fan_d(
        &mut self,
        prefix: &mut Vec<u8>,
        header_i: &[u8],
        body_digest: &[u8; 32],
        body_len: usize,
    ) -> Result<RecordTag, LayoutError> {
        let header_len =
            u16::try_from(header_i.len()).map_err(|_| LayoutError::TooLong("subscriber header"))?;
        let len = 2 + header_i.len() + body_len + self.direction.keys.tag_len();
        let start = prefix.len();
        prefix.extend_from_slice(&self.direction.header(RecordType::FanDigest, record_len(len)));
        prefix.extend_from_slice(&header_len.to_be_bytes());
        prefix.extend_from_slice(header_i);
        self.scratch.clear();
        self.scratch.extend_from_slice(&prefix[start..]);
        self.scratch.extend_from_slice(body_digest);
        let sequence = self.next_sequence();
        Ok(self.direction.keys.tag(sequence, &self.scratch))
    }

    /// Appends a CTRL record. [`ControlOp::KeyUpdate`] also switches to the next keys.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for contents above 65,535 bytes; nothing is appended then.
    pub fn control(&mut self, out: &mut Vec<u8>, op: &ControlOp<'_>) -> Result<(), LayoutError> {
        let open = self.begin_as(RecordType::Control, out);
        if let Err(error) = op.encode(out) {
            out.truncate(open.start);
            return Err(error);
        }
        self.finish(out, open);
        if matches!(op, ControlOp::KeyUpdate) {
            self.direction.update();
        }
        Ok(())
    }

    /// Appends a KeyUpdate under the current keys, then switches to the next (VEIL-1 section 4.8).
    pub fn key_update(&mut self, out: &mut Vec<u8>) {
        self.control(out, &ControlOp::KeyUpdate).expect("a KeyUpdate has no contents");
    }

    /// Whether so many records went out under the current keys that they must change.
    #[must_use]
    pub const fn needs_rekey(&self) -> bool {
        self.direction.sequence >= REKEY_RECORDS
    }

    /// How many bytes [`begin`](Self::begin) and [`finish`](Self::finish) add at most.
    #[must_use]
    pub const fn overhead_max(&self) -> usize {
        HEADER_LEN + self.direction.keys.encrypted_len(0)
    }

    const fn next_sequence(&mut self) -> u64 {
        let sequence = self.direction.sequence;
        self.direction.sequence += 1;
        sequence
    }
}

/// `D = H("veil1 fanout" || G-body)`, over the parts of the body in order.
#[must_use]
pub fn gbody_digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Sha256::new_with_prefix(b"veil1 fanout");
    for part in parts {
        state.update(part);
    }
    state.finalize().into()
}

/// What an opened record contains; ranges are into the buffer it was opened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One or more whole MQTT packets.
    Packets(Range<usize>),
    /// One message of a fan-out.
    Fan(FanDelivery),
    /// The peer has switched to its next keys, and so has this opener.
    KeyUpdated,
    /// Any other operation, for [`ControlOp::parse`], which succeeds on it.
    Control(Range<usize>),
}

/// A record that authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRecord {
    /// How many bytes of the buffer it took.
    pub consumed: usize,
    /// What is in it.
    pub content: Content,
}

/// Opens records in one direction.
pub struct RecordOpener {
    direction: Option<DirectionKeys>,
    side: Side,
    scheme: Scheme,
    scratch: Vec<u8>,
}

impl RecordOpener {
    /// Starts at record 0 of the first phase, with the application secret `ap_x` of the peer; `side`
    /// is the one that receives.
    #[must_use]
    pub fn new(side: Side, suite: Suite, scheme: Scheme, secret: Secret32) -> Self {
        let direction = Some(DirectionKeys::new(suite, secret));
        Self { direction, side, scheme, scratch: Vec::new() }
    }

    /// Opens the record at the start of `buffer` in place, or gives `None` when it has not all
    /// arrived. `record_bytes_max` bounds its length field: the packet limit and
    /// [`RECORD_OVERHEAD_MAX`](crate::veil::record::RECORD_OVERHEAD_MAX). A length out of range is
    /// refused as soon as the header is there.
    ///
    /// # Errors
    /// [`RecordError`]; from then on every call gives [`RecordError::Closed`].
    pub fn next(
        &mut self,
        buffer: &mut [u8],
        record_bytes_max: usize,
    ) -> Result<Option<OpenedRecord>, RecordError> {
        let opened = self.open(buffer, record_bytes_max);
        if opened.is_err() {
            self.direction = None;
        }
        opened
    }

    fn open(
        &mut self,
        buffer: &mut [u8],
        record_bytes_max: usize,
    ) -> Result<Option<OpenedRecord>, RecordError> {
        let direction = self.direction.as_mut().ok_or(RecordError::Closed)?;
        let Some(header) = RecordHeader::read(buffer)? else {
            return Ok(None);
        };
        if !is_allowed(header.record_type, self.side, self.scheme) {
            return Err(RecordError::TypeNotAllowed);
        }
        if header.phase != direction.phase {
            return Err(RecordError::Phase);
        }
        let out_of_range = RecordError::Length(header.len);
        let len = usize::try_from(header.len).map_err(|_| out_of_range)?;
        if len <= direction.keys.tag_len() || len > record_bytes_max {
            return Err(out_of_range);
        }
        let consumed = HEADER_LEN + len;
        let Some(record) = buffer.get_mut(..consumed) else {
            return Ok(None);
        };
        let sequence = direction.sequence;
        direction.sequence += 1;
        let content = match header.record_type {
            RecordType::Integrity => {
                let body_end = consumed - direction.keys.tag_len();
                let (authenticated, tag) = record.split_at(body_end);
                if !direction.keys.tag_matches(sequence, authenticated, tag) {
                    return Err(RecordError::Authentication);
                }
                Content::Packets(HEADER_LEN..body_end)
            }
            RecordType::Encrypted => {
                let plain = direction.keys.open(sequence, record).ok_or(RecordError::Authentication)?;
                if plain.is_empty() {
                    return Err(LayoutError::Truncated("packets").into());
                }
                Content::Packets(plain)
            }
            RecordType::Control => {
                let plain = direction.keys.open(sequence, record).ok_or(RecordError::Authentication)?;
                let body = record.get(plain.clone()).unwrap_or_default();
                match ControlOp::parse(body)? {
                    ControlOp::KeyUpdate => {
                        direction.update();
                        Content::KeyUpdated
                    }
                    _ => Content::Control(plain),
                }
            }
            RecordType::FanDigest => {
                let delivery = FanDelivery::locate(record, direction.keys.tag_len())
                    .ok_or(RecordError::Authentication)?;
                delivery.put_authenticated(record, &mut self.scratch);
                if !direction.keys.tag_matches(sequence, &self.scratch, delivery.tag(record)) {
                    return Err(RecordError::Authentication);
                }
                Content::Fan(delivery)
            }
            RecordType::FanGroup | RecordType::FanGroupEncrypted => {
                return Err(RecordError::TypeNotAllowed);
            }
        };
        Ok(Some(OpenedRecord { consumed, content }))
    }
}

/// Which records may arrive (VEIL-1 section 7): only the broker fans out.
const fn is_allowed(record_type: RecordType, receiver: Side, scheme: Scheme) -> bool {
    match (record_type, scheme) {
        (_, Scheme::One) => false,
        (RecordType::Control, _)
        | (RecordType::Integrity, Scheme::Four)
        | (RecordType::Encrypted, Scheme::Two | Scheme::Three) => true,
        (RecordType::FanDigest, Scheme::Four) => matches!(receiver, Side::Client),
        _ => false,
    }
}
