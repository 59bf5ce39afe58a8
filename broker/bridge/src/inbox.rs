//! What one side has sent and the link has not taken yet.

use bytes::{Buf, Bytes, BytesMut};
use veilmq_protocol::{DecodeError, frame_len, next_frame};

/// Bytes of one side, taken packet by packet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: BytesMut,
    /// A packet that was taken and has to wait.
    held: Option<Bytes>,
    /// There may be a whole packet among the bytes.
    may_have_packet: bool,
}

impl Inbox {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.may_have_packet = true;
    }

    /// Takes the next whole packet.
    ///
    /// # Errors
    /// The bytes begin no packet, or one larger than `packet_bytes_max`.
    pub(crate) fn take(&mut self, packet_bytes_max: u32) -> Result<Option<Bytes>, DecodeError> {
        if self.held.is_some() {
            return Ok(self.held.take());
        }
        match next_frame(&self.bytes, packet_bytes_max as usize)? {
            Some((_, used)) => Ok(Some(self.bytes.split_to(used).freeze())),
            None => {
                self.may_have_packet = false;
                if let Some(length) = frame_len(&self.bytes)? {
                    self.bytes.reserve(length.saturating_sub(self.bytes.remaining()));
                }
                Ok(None)
            }
        }
    }

    /// Puts a packet back, to be taken again first.
    pub(crate) fn hold(&mut self, packet: Bytes) {
        self.held = Some(packet);
    }

    /// Says whether nothing can be taken before more has come.
    pub(crate) fn wants_more(&self) -> bool {
        !self.may_have_packet && self.held.is_none()
    }
}
