//! Packets on their way to bytes: plain MQTT, or channel records that several packets share.
//!
//! Owns the send buffer and the sending keys. Invariant: with a channel, no packet leaves outside a record.

use veilmq_protocol::{
    EncodeError, Packet, ProtocolVersion,
    veil::channel::{OpenRecord, REKEY_RECORDS, RecordSealer},
};

/// Packets share a record up to this size, in bytes; a larger packet gets its own.
const RECORD_BYTES_SHARED: usize = 16_384;

/// Sent bytes are removed from the front of the buffer once there are this many.
const SENT_BYTES_KEPT: usize = 65_536;

#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    sealer: Option<RecordSealer>,
    record_bytes_shared: usize,
    open: Option<(OpenRecord, usize)>,
    /// A re-authentication is about to replace the keys.
    rekey_barred: bool,
}

impl Output {
    /// Forgets everything of the previous connection, its keys included.
    pub(super) fn reset(&mut self) {
        *self = Self { bytes: std::mem::take(&mut self.bytes), ..Self::default() };
        self.bytes.clear();
    }

    /// Puts everything from here on into channel records. The peer takes packets of `packet_bytes_max`, and
    /// records that carry as much.
    pub(super) fn seal_with(&mut self, sealer: RecordSealer, packet_bytes_max: usize) {
        self.sealer = Some(sealer);
        self.record_bytes_shared = RECORD_BYTES_SHARED.min(packet_bytes_max);
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>) -> Result<(), EncodeError> {
        let len = packet.encoded_len(ProtocolVersion::V5)?;
        packet.encode(ProtocolVersion::V5, self.room(len))
    }

    /// Appends a packet that is encoded already.
    pub(super) fn encoded(&mut self, packet: &[u8]) {
        self.room(packet.len()).extend_from_slice(packet);
    }

    /// Says how much waits to be sent, in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Everything that can be sent now; call [`Self::consume`] for what was.
    pub(super) fn ready(&mut self) -> &[u8] {
        self.finish_record();
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.sent = (self.sent + len).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent >= SENT_BYTES_KEPT && self.open.is_none() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Changes the sending keys (VEIL-1 section 4.8, light).
    pub(super) fn rekey(&mut self) {
        self.finish_record();
        if let Some(sealer) = &mut self.sealer {
            sealer.key_update(&mut self.bytes);
        }
    }

    /// Leaves the sending keys as they are until [`Self::switch_to`] (VEIL-1 section 4.8).
    pub(super) const fn bar_rekey(&mut self) {
        self.rekey_barred = true;
    }

    /// Goes on under the keys of a re-authentication.
    pub(super) fn switch_to(&mut self, next: RecordSealer) {
        self.finish_record();
        if let Some(sealer) = &mut self.sealer {
            sealer.switch_to(next);
        }
        self.rekey_barred = false;
    }

    /// Where the next packet of `len` bytes goes.
    fn room(&mut self, len: usize) -> &mut Vec<u8> {
        if self
            .open
            .as_ref()
            .is_some_and(|(_, body)| self.bytes.len() - body + len > self.record_bytes_shared)
        {
            self.finish_record();
        }
        if let (Some(sealer), None) = (&self.sealer, &self.open) {
            let record = sealer.begin(&mut self.bytes);
            self.open = Some((record, self.bytes.len()));
        }
        &mut self.bytes
    }

    fn finish_record(&mut self) {
        if let (Some((record, _)), Some(sealer)) = (self.open.take(), &mut self.sealer) {
            sealer.finish(&mut self.bytes, record);
            if sealer.records() >= REKEY_RECORDS && !self.rekey_barred {
                sealer.key_update(&mut self.bytes);
            }
        }
    }
}
