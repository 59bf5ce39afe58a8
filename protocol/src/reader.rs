//! A cursor over the body of one packet: every read is bounds-checked and names the field it reads.

use core::num::{NonZeroU16, NonZeroU32};

use crate::{DecodeError, PacketId, ReasonCode, TopicError, TopicFilter, TopicName};

/// What is left to read of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that nothing follows the last field.
    pub(crate) const fn finish(self, last_field: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(last_field)) }
    }

    pub(crate) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// A two-byte number that may not be 0.
    pub(crate) fn non_zero_u16(&mut self, field: &'static str) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.u16(field)?).ok_or(DecodeError::NotAllowed(field))
    }

    /// A four-byte number that may not be 0.
    pub(crate) fn non_zero_u32(&mut self, field: &'static str) -> Result<NonZeroU32, DecodeError> {
        NonZeroU32::new(self.u32(field)?).ok_or(DecodeError::NotAllowed(field))
    }

    /// A byte that means false or true; other values are not allowed.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::NotAllowed(field)),
        }
    }

    pub(crate) fn variable_byte_integer(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let (value, digits) =
            variable_byte_integer(self.rest, field)?.ok_or(DecodeError::Truncated(field))?;
        self.take(digits, field)?;
        Ok(value)
    }

    /// Binary Data: a two-byte length and that many bytes.
    pub(crate) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// A UTF-8 Encoded String without U+0000.
    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let text = self.utf8(field)?;
        // [MQTT-1.5.4-2]
        if text.as_bytes().contains(&0) { Err(DecodeError::InvalidString(field)) } else { Ok(text) }
    }

    /// A UTF-8 Encoded String whose U+0000 check is left to the caller.
    pub(crate) fn utf8(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        // [MQTT-1.5.4-1] `from_utf8` refuses surrogates; [MQTT-1.5.4-3] it keeps U+FEFF.
        core::str::from_utf8(self.binary(field)?).map_err(|_| DecodeError::InvalidString(field))
    }

    pub(crate) fn topic_name(&mut self, field: &'static str) -> Result<TopicName<'a>, DecodeError> {
        let text = self.utf8(field)?;
        TopicName::new(text).map_err(|error| topic_fault(error, field, DecodeError::TopicNameInvalid))
    }

    pub(crate) fn topic_filter(&mut self) -> Result<TopicFilter<'a>, DecodeError> {
        const FIELD: &str = "Topic Filter";
        // [MQTT-3.8.3-1], [MQTT-3.10.3-1]
        let text = self.utf8(FIELD)?;
        TopicFilter::new(text).map_err(|error| topic_fault(error, FIELD, DecodeError::TopicFilterInvalid))
    }

    /// A Reason Code of those the packet may carry.
    pub(crate) fn reason_code(&mut self, allowed: &[ReasonCode]) -> Result<ReasonCode, DecodeError> {
        reason_code(self.u8("Reason Code")?, allowed)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        // [MQTT-2.2.1-3], [MQTT-2.2.1-4]
        PacketId::new(self.u16("Packet Identifier")?).ok_or(DecodeError::NotAllowed("Packet Identifier"))
    }
}

/// Checks a Reason Code against those the packet may carry.
pub(crate) fn reason_code(value: u8, allowed: &[ReasonCode]) -> Result<ReasonCode, DecodeError> {
    let known = allowed.iter().find(|code| code.value() == value);
    known.copied().ok_or(DecodeError::NotAllowed("Reason Code"))
}

/// A topic with U+0000 is a malformed string; every other fault is the topic's own.
pub(crate) fn topic_fault(
    error: TopicError,
    field: &'static str,
    invalid: fn(&'static str) -> DecodeError,
) -> DecodeError {
    match error {
        TopicError::HoldsNul => DecodeError::InvalidString(field),
        TopicError::Empty | TopicError::TooLong | TopicError::Wildcard | TopicError::ShareName => {
            invalid(field)
        }
    }
}

/// Reads a Variable Byte Integer and the number of bytes it took; `None` if it is not all there.
pub(crate) fn variable_byte_integer(
    bytes: &[u8],
    field: &'static str,
) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &digit) in bytes.iter().take(4).enumerate() {
        value |= u32::from(digit & 0x7F) << (7 * index);
        if digit & 0x80 == 0 {
            // [MQTT-1.5.5-1] A last digit of 0 could have been left out.
            let minimal = index == 0 || digit != 0;
            return if minimal {
                Ok(Some((value, index + 1)))
            } else {
                Err(DecodeError::InvalidVariableByteInteger(field))
            };
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DecodeError::InvalidVariableByteInteger(field)) }
}
