//! What one side has sent and the link has not taken yet.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use veilmq_protocol::{DecodeError, PacketId, QoS, frame_len, next_frame};

/// The type of PUBLISH in a fixed header (section 2.1.2).
const PUBLISH: u8 = 3;
/// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK and PINGRESP, which may overtake what waits.
const ANSWERS: [u8; 7] = [4, 5, 6, 7, 9, 11, 13];
/// How much may wait before nothing more is looked at, in bytes.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// What the link is given to take.
#[derive(Debug)]
pub(crate) enum Taken {
    Packet(Bytes),
    Oversized(Oversized),
}

impl Taken {
    /// What it counts for while it waits, in bytes.
    fn held_bytes(&self) -> usize {
        let packet_bytes = match self {
            Self::Packet(packet) => packet.len(),
            Self::Oversized(_) => 0,
        };
        size_of::<Self>() + packet_bytes
    }
}

/// A PUBLISH that is larger than may be, of which nothing was kept but what its answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Oversized {
    pub(crate) qos: QoS,
    pub(crate) packet_id: Option<PacketId>,
}

/// Bytes of one side, taken packet by packet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: BytesMut,
    /// What waits: the first was taken and could not be acted on, the others came behind it.
    held: VecDeque<Taken>,
    held_bytes: usize,
    /// A PUBLISH that is passed over, and how many of its bytes are still to come.
    passing: Option<(Oversized, usize)>,
    /// There may be a whole packet among the bytes.
    may_have_packet: bool,
}

impl Inbox {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.may_have_packet = true;
    }

    /// Takes the next whole packet, or passes over a PUBLISH larger than `packet_bytes_max` if it may.
    ///
    /// # Errors
    /// The bytes begin no packet, or one larger than `packet_bytes_max` that may not be passed over.
    pub(crate) fn take(
        &mut self,
        packet_bytes_max: u32,
        passes_over: bool,
    ) -> Result<Option<Taken>, DecodeError> {
        match self.held.pop_front() {
            Some(held) => {
                self.held_bytes -= held.held_bytes();
                Ok(Some(held))
            }
            None => self.take_from_bytes(packet_bytes_max, passes_over),
        }
    }

    fn take_from_bytes(
        &mut self,
        packet_bytes_max: u32,
        passes_over: bool,
    ) -> Result<Option<Taken>, DecodeError> {
        let is_publish = |header: &u8| header >> 4 == PUBLISH;
        if passes_over
            && self.bytes.first().is_some_and(is_publish)
            && self.passing.is_none()
            && let Some(length) = frame_len(&self.bytes)?
            && length > packet_bytes_max as usize
        {
            self.passing = oversized(&self.bytes, length)?.map(|oversized| (oversized, length));
            self.may_have_packet = self.passing.is_some();
        }
        match self.passing {
            Some(_) => return Ok(self.pass_over().map(Taken::Oversized)),
            None if !self.may_have_packet => return Ok(None),
            None => {}
        }
        match next_frame(&self.bytes, packet_bytes_max as usize)? {
            Some((_, used)) => Ok(Some(Taken::Packet(self.bytes.split_to(used).freeze()))),
            None => {
                self.may_have_packet = false;
                if let Some(length) = frame_len(&self.bytes)? {
                    self.bytes.reserve(length.saturating_sub(self.bytes.remaining()));
                }
                Ok(None)
            }
        }
    }

    /// Drops what has come of a PUBLISH that is passed over, and returns it once that was all.
    fn pass_over(&mut self) -> Option<Oversized> {
        let (oversized, rest) = self.passing?;
        let come = rest.min(self.bytes.len());
        self.bytes.advance(come);
        self.passing = Some((oversized, rest - come)).filter(|(_, rest)| *rest > 0);
        self.may_have_packet = self.passing.is_none();
        self.passing.is_none().then_some(oversized)
    }

    /// Puts a packet back, to be taken again first.
    pub(crate) fn hold(&mut self, packet: Bytes) {
        let taken = Taken::Packet(packet);
        self.held_bytes += taken.held_bytes();
        self.held.push_front(taken);
    }

    /// Takes the next answer behind what waits: it may be what that waits for, on this side or on the other.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) fn take_answer(
        &mut self,
        packet_bytes_max: u32,
        passes_over: bool,
    ) -> Result<Option<Bytes>, DecodeError> {
        while self.held_bytes < HELD_BYTES_MAX {
            match self.take_from_bytes(packet_bytes_max, passes_over)? {
                None => break,
                Some(Taken::Packet(packet)) if is_answer(&packet) => return Ok(Some(packet)),
                Some(taken) => {
                    self.held_bytes += taken.held_bytes();
                    self.held.push_back(taken);
                }
            }
        }
        Ok(None)
    }

    /// Says whether nothing waits, not even part of a packet.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.held.is_empty() && self.passing.is_none()
    }

    /// Says whether nothing can be taken before more has come.
    pub(crate) fn wants_more(&self) -> bool {
        !self.may_have_packet && self.held_bytes < HELD_BYTES_MAX
    }
}

fn is_answer(packet: &Bytes) -> bool {
    packet.first().is_some_and(|header| ANSWERS.contains(&(header >> 4)))
}

/// What the answer to a PUBLISH of `length` bytes needs, once so much of it is there.
fn oversized(bytes: &[u8], length: usize) -> Result<Option<Oversized>, DecodeError> {
    let Some(&header) = bytes.first() else { return Ok(None) };
    let qos = QoS::try_from(header >> 1 & 3).map_err(|_| DecodeError::Reserved("QoS"))?;
    if qos == QoS::AtMostOnce {
        return Ok(Some(Oversized { qos, packet_id: None }));
    }
    // Section 2.2.3: a Remaining Length ends with the first byte below 128.
    let lengths = bytes.iter().skip(1).take_while(|byte| **byte >= 0x80).count();
    let topic_at = lengths + 2;
    let number_at = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    let Some(topic_len) = number_at(topic_at) else { return Ok(None) };
    let id_at = topic_at + 2 + usize::from(topic_len);
    if id_at + 2 > length {
        return Err(DecodeError::Truncated("Topic Name"));
    }
    let Some(id) = number_at(id_at) else { return Ok(None) };
    let packet_id = PacketId::new(id).ok_or(DecodeError::NotAllowed("Packet Identifier"))?;
    Ok(Some(Oversized { qos, packet_id: Some(packet_id) }))
}
