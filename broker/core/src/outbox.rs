//! The bytes that wait for one socket: small packets copied together, large payloads shared.
//!
//! The core appends, the driver writes from the front. An empty outbox owns no buffer.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use crate::message::Message;

/// Payloads of at least this many bytes are shared between subscribers; smaller ones are cheaper to copy.
pub(crate) const SHARED_PAYLOAD_BYTES_MIN: usize = 2_048;

/// Written bytes at the front of a buffer that are worth moving the rest for.
const WRITTEN_BYTES_MAX: usize = 64 * 1024;

/// What a buffer begins with: room for some packets, and no more than allocators hand out at once.
const BUFFER_BYTES_MIN: usize = 512;

/// Bytes waiting for one socket.
#[derive(Default)]
pub struct Outbox {
    /// What waits before `tail`; nothing unless a payload is shared.
    segments: VecDeque<Segment>,
    tail: Vec<u8>,
    /// Bytes at the front that have been written.
    written: usize,
    bytes: usize,
}

enum Segment {
    Bytes(Vec<u8>),
    /// The payload of a message, shared.
    Payload(Arc<Message>),
    /// What was made once for several connections.
    Shared(Arc<[u8]>),
}

impl Segment {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Payload(message) => message.payload().as_wire_bytes(),
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Outbox {
    /// Tells whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns how many bytes wait.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Appends up to `slices_max` slices of what waits, from the front, for a vectored write of up to `bytes_max` bytes.
    pub fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>, slices_max: usize, bytes_max: usize) {
        let mut skip = self.written;
        let mut left = bytes_max;
        let shared = self.segments.iter().map(Segment::as_bytes);
        for bytes in shared.chain([self.tail.as_slice()]).take(slices_max) {
            let bytes = &bytes[skip..];
            let bytes = &bytes[..bytes.len().min(left)];
            skip = 0;
            left -= bytes.len();
            if !bytes.is_empty() {
                into.push(IoSlice::new(bytes));
            }
        }
    }

    /// Takes note that `bytes` bytes from the front have been written.
    pub fn advance(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            *self = Self::default();
            return;
        }
        self.bytes -= bytes;
        self.written += bytes;
        while let Some(first) = self.segments.front() {
            let length = first.as_bytes().len();
            if self.written < length {
                return;
            }
            self.written -= length;
            self.segments.pop_front();
        }
        self.give_back_written();
    }

    /// Frees what has been written of a buffer that never runs empty, or a client that is always a little behind would make it
    /// grow for ever. At most as many bytes are moved as have been written.
    fn give_back_written(&mut self) {
        if self.written >= WRITTEN_BYTES_MAX && self.written >= self.tail.len() / 2 {
            self.tail.drain(..self.written);
            self.tail.shrink_to(2 * self.tail.len());
            self.written = 0;
        }
    }

    /// Appends what `write` puts at the end of a buffer, and returns what it returns.
    pub(crate) fn append<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.tail.capacity() == 0 {
            self.tail.reserve(BUFFER_BYTES_MIN);
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        // Closing an empty record takes its header back, so the tail may also have become shorter.
        self.bytes = self.bytes + self.tail.len() - before;
        result
    }

    /// Appends the payload of a message without copying it.
    pub(crate) fn append_payload(&mut self, message: &Arc<Message>) {
        self.bytes += message.payload().len();
        self.append_segment(Segment::Payload(Arc::clone(message)));
    }

    /// Appends bytes that several connections get, copied where they are few.
    pub(crate) fn append_shared(&mut self, bytes: &Arc<[u8]>) {
        if bytes.len() < SHARED_PAYLOAD_BYTES_MIN {
            return self.append(|tail| tail.extend_from_slice(bytes));
        }
        self.bytes += bytes.len();
        self.append_segment(Segment::Shared(Arc::clone(bytes)));
    }

    fn append_segment(&mut self, segment: Segment) {
        if !self.tail.is_empty() {
            self.segments.push_back(Segment::Bytes(std::mem::take(&mut self.tail)));
        }
        self.segments.push_back(segment);
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outbox({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use veilmq_protocol::QoS;

    use super::*;
    use crate::message::MessageParts;

    fn written(outbox: &Outbox) -> Vec<u8> {
        let mut slices = Vec::new();
        outbox.slices(&mut slices, usize::MAX, usize::MAX);
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn a_buffer_that_never_runs_empty_does_not_grow() {
        let mut outbox = Outbox::default();
        let mut expected = 0_u8;
        outbox.append(|tail| tail.extend_from_slice(&[0; 250]));
        for round in 1..20_000_u32 {
            outbox.append(|tail| tail.extend_from_slice(&[(round % 251) as u8; 250]));
            assert_eq!(written(&outbox)[..250], [expected; 250]);
            outbox.advance(250);
            expected = (round % 251) as u8;
        }

        let held = outbox.tail.capacity();
        assert!(held < 4 * WRITTEN_BYTES_MAX, "{held} bytes are held");
        assert_eq!(outbox.len_bytes(), 250);
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_whatever_the_size_of_each_write() {
        let parts = MessageParts {
            id: None,
            publisher: None,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "t",
            application_properties: &[],
            payload: b"payload",
            expiry: None,
        };
        let message = Message::new(&parts, 0);
        for step in 1..20 {
            let mut outbox = Outbox::default();
            outbox.append(|tail| tail.extend_from_slice(b"abc"));
            outbox.append(|tail| tail.extend_from_slice(b"def"));
            outbox.append_payload(&message);
            outbox.append(|tail| tail.extend_from_slice(b"xyz"));

            let mut all = Vec::new();
            while !outbox.is_empty() {
                let bytes = written(&outbox);
                assert_eq!(bytes.len(), outbox.len_bytes());
                let now = step.min(bytes.len());
                all.extend_from_slice(&bytes[..now]);
                outbox.advance(now);
            }

            assert_eq!(all, b"abcdefpayloadxyz");
            assert_eq!((outbox.segments.capacity(), outbox.tail.capacity()), (0, 0));
        }
    }
}
