//! The bytes that wait for one socket: small packets copied together, large payloads shared.
//!
//! The core appends, the driver writes from the front. An empty outbox owns no buffer: it borrows one when something is appended,
//! and gives it back when all of it has been written.

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

/// Buffers that are kept for the next outbox: beyond this size they are freed.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// What all buffers that are kept may hold together.
const ALL_KEPT_BYTES_MAX: usize = 512 * 1024;

/// The buffers of outboxes that ran empty, for those that fill up next.
#[derive(Default)]
pub(crate) struct Buffers {
    kept: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    fn take(&mut self) -> Option<Vec<u8>> {
        let buffer = self.kept.pop()?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if (1..=KEPT_BYTES_MAX).contains(&bytes) && self.bytes + bytes <= ALL_KEPT_BYTES_MAX {
            buffer.clear();
            self.bytes += bytes;
            self.kept.push(buffer);
        }
    }
}

/// Bytes waiting for one socket.
#[derive(Default)]
pub struct Outbox {
    /// What waits before `tail`; nothing unless a payload is shared.
    #[expect(clippy::box_collection, reason = "few connections have it, all pay for its size")]
    segments: Option<Box<VecDeque<Segment>>>,
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

    /// Returns all that waits if it lies in one piece, as it nearly always does.
    pub fn as_single(&self) -> Option<&[u8]> {
        if self.segments.is_none() { self.tail.get(self.written..) } else { None }
    }

    /// Appends up to `slices_max` slices of what waits, from the front, for a vectored write of up to `bytes_max` bytes.
    pub fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>, slices_max: usize, bytes_max: usize) {
        let mut skip = self.written;
        let mut left = bytes_max;
        let shared = self.segments.iter().flat_map(|segments| segments.iter()).map(Segment::as_bytes);
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
            // The buffer stays for whoever takes it back.
            let tail = std::mem::take(&mut self.tail);
            *self = Self { tail, ..Self::default() };
            self.tail.clear();
            return;
        }
        self.bytes -= bytes;
        self.written += bytes;
        if let Some(segments) = &mut self.segments {
            while let Some(first) = segments.front() {
                let length = first.as_bytes().len();
                if self.written < length {
                    return;
                }
                self.written -= length;
                segments.pop_front();
            }
            self.segments = None;
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

    /// Takes a buffer, if there is none.
    pub(crate) fn borrow_buffer(&mut self, buffers: &mut Buffers) {
        if self.tail.capacity() == 0
            && let Some(buffer) = buffers.take()
        {
            self.tail = buffer;
        }
    }

    /// Gives the buffer back, if nothing is in it.
    pub(crate) fn return_buffer(&mut self, buffers: &mut Buffers) {
        if self.tail.is_empty() && self.tail.capacity() > 0 {
            buffers.keep(std::mem::take(&mut self.tail));
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
        let segments = self.segments.get_or_insert_default();
        if !self.tail.is_empty() {
            segments.push_back(Segment::Bytes(std::mem::take(&mut self.tail)));
        }
        segments.push_back(segment);
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
            source: None,
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
            let mut buffers = Buffers::default();
            outbox.return_buffer(&mut buffers);
            assert!(outbox.segments.is_none() && outbox.tail.capacity() == 0);
        }
    }

    #[test]
    fn a_buffer_goes_from_one_outbox_to_the_next_and_large_ones_are_freed() {
        let mut buffers = Buffers::default();
        for (bytes, is_kept) in [(1, true), (KEPT_BYTES_MAX, true), (KEPT_BYTES_MAX + 1, false)] {
            let mut outbox = Outbox::default();
            outbox.append(|tail| tail.resize(bytes, 7));
            outbox.return_buffer(&mut buffers);
            assert!(buffers.kept.is_empty(), "nothing is taken from an outbox that is not empty");

            outbox.advance(bytes);
            outbox.return_buffer(&mut buffers);
            assert_eq!(buffers.kept.len(), usize::from(is_kept), "{bytes}");

            outbox.borrow_buffer(&mut buffers);
            assert_eq!(outbox.tail.capacity() >= bytes, is_kept, "{bytes}");
            assert!(outbox.tail.is_empty() && buffers.kept.is_empty() && buffers.bytes == 0);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut buffers = Buffers::default();
        for _ in 0..10_000 {
            buffers.keep(Vec::with_capacity(BUFFER_BYTES_MIN));
        }

        let held: usize = buffers.kept.iter().map(Vec::capacity).sum();
        assert_eq!(held, buffers.bytes);
        assert!((ALL_KEPT_BYTES_MAX / 2..=ALL_KEPT_BYTES_MAX).contains(&held), "{held} bytes");
    }
}
