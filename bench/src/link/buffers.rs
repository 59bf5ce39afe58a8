//! The bytes of a connection: what has arrived and is not read yet, and what waits to be written.
//!
//! Invariant: `outbox[sent..]` are whole packets but for the one being written.

use veilmq_protocol::{Packet, ProtocolVersion, next_frame};

use super::LinkError;

/// Bytes that have arrived, read from the front.
#[derive(Default)]
pub(super) struct Window {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    pub(super) fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes], start: 0, end: 0 }
    }

    pub(super) fn unread(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Free space, never empty: what is unread moves to the front, a full buffer doubles.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // Readers refuse a packet or record above its limit, so this ends below twice that.
            self.buffer.resize((2 * self.end).max(64), 0);
        }
        &mut self.buffer[self.end..]
    }

    pub(super) fn arrived(&mut self, count: usize) {
        self.end += count;
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.arrived(now.len());
            bytes = later;
        }
    }
}

/// MQTT that has arrived; packets are borrowed from it.
pub(crate) struct Inbox {
    version: ProtocolVersion,
    packet_bytes_max: usize,
    pub(super) window: Window,
}

impl Inbox {
    pub(super) fn new(version: ProtocolVersion, packet_bytes_max: usize, bytes: usize) -> Self {
        Self { version, packet_bytes_max, window: Window::new(bytes) }
    }

    /// Takes the next whole packet; `None` until more has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Packet<'_>>, LinkError> {
        Ok(self.next_with_bytes()?.map(|(packet, _)| packet))
    }

    /// The same with the bytes of the packet, from the fixed header on.
    pub(super) fn next_with_bytes(&mut self) -> Result<Option<(Packet<'_>, &[u8])>, LinkError> {
        let Window { buffer, start, end } = &mut self.window;
        let unread = &buffer[*start..*end];
        let Some((frame, used)) = next_frame(unread, self.packet_bytes_max)? else { return Ok(None) };
        *start += used;
        Ok(Some((Packet::decode(frame, self.version)?, &unread[..used])))
    }
}

/// Bytes that wait to be written.
pub(crate) struct Outbox {
    version: ProtocolVersion,
    buffer: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub(super) fn new(version: ProtocolVersion) -> Self {
        Self { version, buffer: Vec::new(), sent: 0 }
    }

    pub(crate) fn push(&mut self, packet: &Packet<'_>) -> Result<(), LinkError> {
        Ok(packet.encode(self.version, &mut self.buffer)?)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.buffer.len()
    }

    /// Bytes not written yet.
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    pub(super) fn advance(&mut self, written: usize) {
        self.sent += written;
        if self.is_empty() {
            self.buffer.clear();
            self.sent = 0;
        }
    }

    /// Where bytes that are no packets are added.
    pub(super) fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.window.append(bytes);
    }

    #[test]
    fn packets_are_taken_whole_however_the_bytes_arrive() {
        let publish = [0x30, 0x06, 0, 1, b't', b'a', b'b', b'c'];
        let stream: Vec<u8> = publish.repeat(50);
        for chunk_bytes in 1..20 {
            let mut inbox = Inbox::new(ProtocolVersion::V311, 100, 0);
            let mut payloads = 0;

            for chunk in stream.chunks(chunk_bytes) {
                arrive(&mut inbox, chunk);
                while let Some(packet) = inbox.next().unwrap() {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    assert_eq!(publish.payload, b"abc");
                    payloads += 1;
                }
            }

            assert_eq!(payloads, 50, "chunks of {chunk_bytes}");
            assert!(
                inbox.window.buffer.len() <= 64,
                "chunks of {chunk_bytes}: {}",
                inbox.window.buffer.len()
            );
        }
    }

    #[test]
    fn a_packet_above_the_limit_is_refused() {
        let mut inbox = Inbox::new(ProtocolVersion::V311, 100, 64);

        arrive(&mut inbox, &[0x30, 0x7F]);

        assert!(matches!(inbox.next(), Err(LinkError::Decode(_))));
    }

    #[test]
    fn a_partly_written_outbox_keeps_the_rest() {
        let mut outbox = Outbox::new(ProtocolVersion::V311);
        outbox.push(&Packet::PingReq).unwrap();
        outbox.push(&Packet::PingReq).unwrap();

        outbox.advance(3);
        assert_eq!(outbox.pending(), [0]);

        outbox.advance(1);
        assert!(outbox.is_empty());
        outbox.push(&Packet::PingReq).unwrap();
        assert_eq!(outbox.pending(), [0xC0, 0]);
    }
}
