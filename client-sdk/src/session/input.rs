//! Received bytes on their way to packets: plain MQTT first, channel records once a channel is established.
//!
//! Owns the receive buffer. Invariant: nothing of a record is given out before its tag has been verified.

use std::ops::Range;

use veilmq_protocol::{
    Packet, ProtocolVersion, Publish, next_frame,
    veil::{
        channel::{Content, FanDelivery, RecordError, RecordOpener},
        record::{ControlOp, RECORD_OVERHEAD_MAX},
    },
};

use super::event::CloseReason;

#[derive(Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    /// Everything before it is done with.
    start: usize,
    opener: Option<RecordOpener>,
    /// Packets of the last opened record that are still to be given out.
    opened: Range<usize>,
}

/// One thing that arrived.
pub(super) enum Incoming<'a> {
    /// A packet, with its bytes from the fixed header on.
    Packet(Packet<'a>, &'a [u8]),
    /// A message of a fan-out, rebuilt.
    Fan(Publish<'a>),
    /// An operation on the channel.
    Control(ControlOp<'a>),
    /// The peer changed its keys.
    KeyUpdated,
}

impl Input {
    /// Forgets everything of the previous connection.
    pub(super) fn reset(&mut self) {
        *self = Self { buffer: std::mem::take(&mut self.buffer), ..Self::default() };
        self.buffer.clear();
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.opened =
                self.opened.start.saturating_sub(self.start)..self.opened.end.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes everything from here on as channel records, or goes on under the keys of a re-authentication.
    pub(super) fn open_with(&mut self, opener: RecordOpener) -> Result<(), RecordError> {
        if let Some(current) = &mut self.opener {
            return current.switch_to(opener);
        }
        self.opener = Some(opener);
        self.opened = self.start..self.start;
        Ok(())
    }

    /// The next thing that has arrived as a whole.
    pub(super) fn next(&mut self, packet_bytes_max: usize) -> Result<Option<Incoming<'_>>, CloseReason> {
        let Some(opener) = &mut self.opener else {
            let Some(packet) = frame_range(&self.buffer, self.start..self.buffer.len(), packet_bytes_max)?
            else {
                return Ok(None);
            };
            self.start = packet.end;
            return decode(&self.buffer, packet).map(Some);
        };
        if !self.opened.is_empty() {
            return next_opened(&self.buffer, &mut self.opened, packet_bytes_max).map(Some);
        }
        let unread = self.buffer.get_mut(self.start..).unwrap_or_default();
        let Some(record) = opener.next(unread, packet_bytes_max.saturating_add(RECORD_OVERHEAD_MAX))? else {
            return Ok(None);
        };
        let base = self.start;
        self.start += record.consumed;
        match record.content {
            Content::Packets(range) => {
                self.opened = base + range.start..base + range.end;
                next_opened(&self.buffer, &mut self.opened, packet_bytes_max).map(Some)
            }
            Content::Fan(delivery) => publish(&self.buffer, base, &delivery).map(Some),
            Content::KeyUpdated => Ok(Some(Incoming::KeyUpdated)),
            Content::Control(range) => {
                let body = self.buffer.get(base + range.start..base + range.end).unwrap_or_default();
                let op = ControlOp::parse(body).map_err(RecordError::from)?;
                Ok(Some(Incoming::Control(op)))
            }
        }
    }
}

fn publish<'a>(buffer: &'a [u8], base: usize, delivery: &FanDelivery) -> Result<Incoming<'a>, CloseReason> {
    Ok(Incoming::Fan(delivery.publish(buffer.get(base..).unwrap_or_default())?))
}

fn next_opened<'a>(
    buffer: &'a [u8],
    opened: &mut Range<usize>,
    packet_bytes_max: usize,
) -> Result<Incoming<'a>, CloseReason> {
    let packet = frame_range(buffer, opened.clone(), packet_bytes_max)?.ok_or(CloseReason::SplitPacket)?;
    opened.start = packet.end;
    decode(buffer, packet)
}

/// Where the first whole packet within `range` lies.
fn frame_range(
    buffer: &[u8],
    range: Range<usize>,
    packet_bytes_max: usize,
) -> Result<Option<Range<usize>>, CloseReason> {
    let start = range.start;
    let framed = next_frame(buffer.get(range).unwrap_or_default(), packet_bytes_max)?;
    Ok(framed.map(|(_, len)| start..start + len))
}

fn decode(buffer: &[u8], packet: Range<usize>) -> Result<Incoming<'_>, CloseReason> {
    let bytes = buffer.get(packet).unwrap_or_default();
    let (frame, _) = next_frame(bytes, bytes.len())?.ok_or(CloseReason::SplitPacket)?;
    Ok(Incoming::Packet(Packet::decode(frame, ProtocolVersion::V5)?, bytes))
}
