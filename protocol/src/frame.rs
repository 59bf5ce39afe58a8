//! Cuts a byte stream into MQTT Control Packets.
//!
//! Looks at the fixed header only. Refuses a bad first byte and an oversized packet as soon as the bytes that
//! show it are there, so nothing is buffered for a packet that will not be accepted.

use crate::{DecodeError, PacketType, reader::variable_byte_integer};

/// The largest Remaining Length, and the largest Variable Byte Integer (MQTT 5.0 section 1.5.5).
pub const REMAINING_LENGTH_MAX: usize = 268_435_455;

/// The size in bytes of the largest packet MQTT can express, fixed header included.
pub const PACKET_BYTES_MAX: usize = 5 + REMAINING_LENGTH_MAX;

/// One whole packet, not yet decoded; made by [`next_frame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The first byte: packet type and flags.
    pub header: u8,
    /// Everything after the Remaining Length.
    pub body: &'a [u8],
    packet_type: PacketType,
}

impl Frame<'_> {
    /// The packet type, already checked.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        self.packet_type
    }

    /// The size of the whole packet in bytes, fixed header included.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        packet_len(self.body.len())
    }
}

/// Cuts the first packet off `buffer` and returns it with the number of bytes it takes; `None` asks for more.
///
/// `packet_bytes_max` limits the whole packet, fixed header included.
///
/// # Errors
/// A first byte with a reserved type or wrong flags, at once; a Remaining Length of five bytes or not in its
/// shortest form; [`DecodeError::PacketTooLarge`] as soon as the Remaining Length is known.
pub fn next_frame(buffer: &[u8], packet_bytes_max: usize) -> Result<Option<(Frame<'_>, usize)>, DecodeError> {
    let Some(start) = fixed_header(buffer)? else { return Ok(None) };
    let total_len = start.fixed_len + start.remaining_len;
    if total_len > packet_bytes_max {
        return Err(DecodeError::PacketTooLarge("Remaining Length"));
    }
    let Some(body) = buffer.get(start.fixed_len..total_len) else { return Ok(None) };
    Ok(Some((Frame { header: start.header, body, packet_type: start.packet_type }, total_len)))
}

/// The size in bytes of the first packet in `buffer`, once enough of its fixed header is there to tell.
///
/// # Errors
/// As [`next_frame`], without the size limit.
pub fn frame_len(buffer: &[u8]) -> Result<Option<usize>, DecodeError> {
    Ok(fixed_header(buffer)?.map(|start| start.fixed_len + start.remaining_len))
}

/// The size of a packet whose body takes `body_len` bytes.
pub(crate) const fn packet_len(body_len: usize) -> usize {
    1 + variable_byte_integer_len(body_len) + body_len
}

/// The number of bytes a Variable Byte Integer takes.
pub(crate) const fn variable_byte_integer_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

struct FixedHeader {
    header: u8,
    packet_type: PacketType,
    fixed_len: usize,
    remaining_len: usize,
}

fn fixed_header(buffer: &[u8]) -> Result<Option<FixedHeader>, DecodeError> {
    let Some((&header, rest)) = buffer.split_first() else { return Ok(None) };
    let packet_type = PacketType::from_header(header)?;
    let Some((remaining_len, digits)) = variable_byte_integer(rest, "Remaining Length")? else {
        return Ok(None);
    };
    Ok(Some(FixedHeader {
        header,
        packet_type,
        fixed_len: 1 + digits,
        remaining_len: remaining_len as usize,
    }))
}
