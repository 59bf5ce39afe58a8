//! Sealing records (VEIL-1 sections 5.2, 5.4, 6.3 and 4.8), in the caller's buffer.

use super::{
    group::GroupFan, kdf::Secret32, operations::Operations, record::DirectionKeys, suite_keys::RecordTag,
};
use crate::veil::{
    layout::LayoutError,
    record::{ControlOp, HEADER_LEN, RecordType},
    registry::{Scheme, Suite},
};
use alloc::vec::Vec;
use sha2::{Digest, Sha256};

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
        let encrypted = !matches!(record_type, RecordType::Integrity);
        let keys = &self.direction.keys;
        let len = if encrypted { keys.encrypted_len(plain_len) } else { plain_len + keys.tag_len() };
        let header = self.direction.header(record_type, record_len(len));
        out[start..start + HEADER_LEN].copy_from_slice(&header);
        let sequence = self.direction.next_sequence();
        let keys = &self.direction.keys;
        if encrypted {
            keys.seal(sequence, out, start, HEADER_LEN);
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
        let len = body_len + self.direction.keys.tag_len();
        let start = self.begin_fan(RecordType::FanDigest, prefix, header_i, len)?;
        Ok(self.fan_tag(&prefix[start..], body_digest))
    }

    /// Writes a FAN-G or FAN-GE record around what a group shares: appends everything before the
    /// shared bytes to `prefix` and gives the outer tag to be sent after them, if the group has one.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a per-subscriber header above 65,535 bytes; nothing is used up.
    ///
    /// # Panics
    /// When the record exceeds 4 GiB.
    pub fn fan_group(
        &mut self,
        prefix: &mut Vec<u8>,
        header_i: &[u8],
        fan: &GroupFan,
    ) -> Result<Option<RecordTag>, LayoutError> {
        let tag_len = if fan.outer_tag { self.direction.keys.tag_len() } else { 0 };
        let start = self.begin_fan(fan.record_type, prefix, header_i, fan.len + tag_len)?;
        if fan.outer_tag {
            return Ok(Some(self.fan_tag(&prefix[start..], &fan.bound)));
        }
        self.direction.next_sequence();
        Ok(None)
    }

    fn begin_fan(
        &self,
        record_type: RecordType,
        prefix: &mut Vec<u8>,
        header_i: &[u8],
        rest_len: usize,
    ) -> Result<usize, LayoutError> {
        let header_len =
            u16::try_from(header_i.len()).map_err(|_| LayoutError::TooLong("subscriber header"))?;
        let len = record_len(2 + header_i.len() + rest_len);
        let start = prefix.len();
        prefix.extend_from_slice(&self.direction.header(record_type, len));
        prefix.extend_from_slice(&header_len.to_be_bytes());
        prefix.extend_from_slice(header_i);
        Ok(start)
    }

    /// `RecTag_i(hd, v16 header_i || bound)`.
    fn fan_tag(&mut self, clear: &[u8], bound: &[u8; 32]) -> RecordTag {
        self.scratch.clear();
        self.scratch.extend_from_slice(clear);
        self.scratch.extend_from_slice(bound);
        let sequence = self.direction.next_sequence();
        self.direction.keys.digest_tag(sequence, &self.scratch)
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

    /// Goes on under the keys of a re-authentication, from record 0 of the next phase (VEIL-1 section 4.8); no record may be
    /// open.
    pub fn switch_to(&mut self, mut next: Self) {
        next.direction.succeed(&self.direction);
        next.direction.keys.tally.go_on_from(&self.direction.keys.tally);
        *self = next;
    }

    /// The number of records that went out under the current keys; they must change at [`REKEY_RECORDS`](super::REKEY_RECORDS).
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.direction.sequence()
    }

    /// [`gbody_digest`] of a body that is to be sent here, which counts as one of this sealer's operations.
    #[must_use]
    pub fn digest(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.direction.keys.tally.digest();
        gbody_digest(parts)
    }

    /// The operations that were made since they were last taken.
    #[must_use]
    pub fn take_operations(&mut self) -> Operations {
        self.direction.keys.tally.take()
    }

    /// How many bytes of packets fit into one record whose length field may say `record_bytes_max`.
    #[must_use]
    pub const fn packets_max(&self, record_bytes_max: usize) -> usize {
        // Padding is what the sum for an empty body leaves out: a block at most, which it counts already.
        record_bytes_max.saturating_sub(self.direction.keys.encrypted_len(0))
    }

    /// How many bytes [`begin`](Self::begin) and [`finish`](Self::finish) add at most.
    #[must_use]
    pub const fn overhead_max(&self) -> usize {
        HEADER_LEN + self.direction.keys.encrypted_len(0)
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
