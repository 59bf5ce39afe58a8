//! The User Property that protects a PUBLISH in property mode, as bytes (VEIL-1 section 5.3).
//!
//! Owns where the property is in a packet, and how its value is written; tags are made and checked in
//! [`channel`](super::channel). Invariant: what is authenticated is every byte of the packet that keeps its value on the way to the
//! other end, in the order in which it is sent.

use super::layout::LayoutError;
use crate::{
    DecodeError, Frame, PACKET_BYTES_MAX, PacketType, QoS, next_frame,
    property::Property,
    reader::Reader,
    sink::{Sink, Writer},
};
use alloc::vec::Vec;

/// The name of the property.
pub const NAME: &str = "v1m";
/// Length of the tag, in bytes.
pub const TAG_LEN: usize = 16;
/// Length of the number and the tag, in bytes.
const CONTENT_LEN: usize = 8 + TAG_LEN;
/// Length of the value, in characters.
const VALUE_LEN: usize = CONTENT_LEN / 3 * 4;
/// Length of the whole property: identifier, and two strings with their lengths.
const PROPERTY_LEN: usize = 1 + 2 + NAME.len() + 2 + VALUE_LEN;
/// What Remaining Length and Property Length may take more with the property.
const LENGTHS_GROW_MAX: usize = 2;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const DUP: u8 = 0b1000;

/// Why the property of a PUBLISH is refused before its tag is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyLayoutError {
    /// The packet is no PUBLISH, or malformed.
    #[error(transparent)]
    Packet(#[from] DecodeError),
    /// The property is not there.
    #[error("PUBLISH without the property v1m")]
    Missing,
    /// It is there more than once.
    #[error("PUBLISH with several properties v1m")]
    Repeated,
    /// A User Property follows it.
    #[error("v1m is not the last User Property")]
    NotLast,
    /// Its value is not 32 characters of base64url.
    #[error("the value of v1m: {0}")]
    Value(LayoutError),
}

/// The number and the tag that the property says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyValue {
    /// Increases from message to message.
    pub sequence: u64,
    /// What authenticates the message.
    pub tag: [u8; TAG_LEN],
}

impl PropertyValue {
    /// The value as it travels: base64url without padding.
    #[must_use]
    pub fn encode(&self) -> [u8; VALUE_LEN] {
        let mut content = [0; CONTENT_LEN];
        content[..8].copy_from_slice(&self.sequence.to_be_bytes());
        content[8..].copy_from_slice(&self.tag);
        let mut text = [0; VALUE_LEN];
        for (bytes, digits) in content.chunks_exact(3).zip(text.chunks_exact_mut(4)) {
            let group = bytes.iter().fold(0, |group: usize, byte| group << 8 | usize::from(*byte));
            for (digit, shift) in digits.iter_mut().zip([18, 12, 6, 0]) {
                *digit = ALPHABET[group >> shift & 63];
            }
        }
        text
    }

    fn decode(text: &[u8]) -> Result<Self, LayoutError> {
        if text.len() != VALUE_LEN {
            return Err(LayoutError::Value("length"));
        }
        let mut content = [0; CONTENT_LEN];
        for (digits, bytes) in text.chunks_exact(4).zip(content.chunks_exact_mut(3)) {
            let mut group: u32 = 0;
            for digit in digits {
                group = group << 6 | u32::from(value_of(*digit).ok_or(LayoutError::Value("character"))?);
            }
            bytes.copy_from_slice(&group.to_be_bytes()[1..]);
        }
        let (sequence, tag) = content.split_at(8);
        Ok(Self {
            sequence: u64::from_be_bytes(sequence.try_into().map_err(|_| LayoutError::Value("length"))?),
            tag: tag.try_into().map_err(|_| LayoutError::Value("length"))?,
        })
    }
}

fn value_of(digit: u8) -> Option<u8> {
    let at = ALPHABET.iter().position(|known| *known == digit)?;
    u8::try_from(at).ok()
}

/// What the tag of a PUBLISH is made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectedPublish<'a> {
    /// The low nibble of the fixed header, DUP cleared.
    pub flags: u8,
    /// The Topic Name, as it is in the packet.
    pub topic: &'a [u8],
    /// The properties as they are in the packet, in two parts: those before `v1m`, and those after it.
    pub properties: [&'a [u8]; 2],
    /// The payload.
    pub payload: &'a [u8],
}

/// Takes a PUBLISH apart whose property is to be checked.
///
/// # Errors
/// [`PropertyLayoutError`].
pub fn read(frame: Frame<'_>) -> Result<(ProtectedPublish<'_>, PropertyValue), PropertyLayoutError> {
    let publish = Parts::read(frame)?;
    let block = publish.properties;
    let mut own = None;
    let mut is_last = true;
    for found in publish.user_properties() {
        let found = found?;
        is_last = found.is_own;
        if found.is_own && own.replace(found).is_some() {
            return Err(PropertyLayoutError::Repeated);
        }
    }
    let Some(own) = own else { return Err(PropertyLayoutError::Missing) };
    if !is_last {
        return Err(PropertyLayoutError::NotLast);
    }
    let value = PropertyValue::decode(own.value).map_err(PropertyLayoutError::Value)?;
    let before = block.get(..own.start).unwrap_or_default();
    let after = block.get(own.end..).unwrap_or_default();
    let protected = ProtectedPublish {
        flags: publish.flags(),
        topic: publish.topic,
        properties: [before, after],
        payload: publish.payload,
    };
    Ok((protected, value))
}

/// Appends the PUBLISH in `packet` with the property, whose value `make` gives for the message. Other properties of that name are
/// left out.
///
/// # Errors
/// [`PropertyLayoutError::Packet`], also when there is no room for the property; nothing is appended then.
pub fn write(
    packet: &[u8],
    make: impl FnOnce(&ProtectedPublish<'_>) -> PropertyValue,
    out: &mut Vec<u8>,
) -> Result<(), PropertyLayoutError> {
    if packet.len() > PACKET_BYTES_MAX - PROPERTY_LEN - LENGTHS_GROW_MAX {
        return Err(DecodeError::PacketTooLarge("Remaining Length").into());
    }
    let truncated = DecodeError::Truncated("PUBLISH");
    let (frame, _) = next_frame(packet, PACKET_BYTES_MAX)?.ok_or(truncated)?;
    let publish = Parts::read(frame)?;
    let mut properties = Vec::with_capacity(publish.properties.len() + PROPERTY_LEN);
    let mut copied = 0;
    for found in publish.user_properties() {
        let found = found?;
        if found.is_own {
            properties.extend_from_slice(publish.properties.get(copied..found.start).unwrap_or_default());
            copied = found.end;
        }
    }
    properties.extend_from_slice(publish.properties.get(copied..).unwrap_or_default());
    let value = make(&ProtectedPublish {
        flags: publish.flags(),
        topic: publish.topic,
        properties: [&properties, &[]],
        payload: publish.payload,
    });
    properties.push(Property::User.id());
    properties.extend_from_slice(&(NAME.len() as u16).to_be_bytes());
    properties.extend_from_slice(NAME.as_bytes());
    properties.extend_from_slice(&(VALUE_LEN as u16).to_be_bytes());
    properties.extend_from_slice(&value.encode());
    publish.put_with(&properties, out);
    Ok(())
}

/// A PUBLISH of MQTT 5 in its parts.
struct Parts<'a> {
    header: u8,
    topic: &'a [u8],
    packet_id: &'a [u8],
    properties: &'a [u8],
    payload: &'a [u8],
}

/// A User Property in a block of properties.
#[derive(Clone, Copy)]
struct Found<'a> {
    start: usize,
    end: usize,
    is_own: bool,
    value: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(frame: Frame<'a>) -> Result<Self, DecodeError> {
        if frame.packet_type() != PacketType::Publish {
            return Err(DecodeError::NotAllowed("packet type"));
        }
        let mut body = Reader::new(frame.body);
        let topic = body.binary("Topic Name")?;
        let has_id = QoS::try_from(frame.header >> 1 & 0b11)? != QoS::AtMostOnce;
        let packet_id = body.take(if has_id { 2 } else { 0 }, "Packet Identifier")?;
        let len = body.variable_byte_integer("Property Length")?;
        let properties = body.take(len as usize, "Property Length")?;
        Ok(Self { header: frame.header, topic, packet_id, properties, payload: body.rest() })
    }

    const fn flags(&self) -> u8 {
        self.header & 0x0F & !DUP
    }

    fn user_properties(&self) -> impl Iterator<Item = Result<Found<'a>, DecodeError>> + use<'a> {
        let block = self.properties;
        let mut reader = Reader::new(block);
        core::iter::from_fn(move || {
            while !reader.is_empty() {
                let start = block.len() - reader.rest().len();
                match find(block, &mut reader, start) {
                    Ok(None) => {}
                    Ok(Some(found)) => return Some(Ok(found)),
                    Err(error) => {
                        reader = Reader::new(&[]);
                        return Some(Err(error));
                    }
                }
            }
            None
        })
    }

    /// Appends the packet with another block of properties.
    fn put_with(&self, properties: &[u8], out: &mut Vec<u8>) {
        let mut length = Vec::with_capacity(4);
        Writer(&mut length).variable_byte_integer(properties.len());
        let body = 2
            + self.topic.len()
            + self.packet_id.len()
            + length.len()
            + properties.len()
            + self.payload.len();
        out.push(self.header);
        Writer(out).variable_byte_integer(body);
        out.extend_from_slice(&(self.topic.len() as u16).to_be_bytes());
        for part in [self.topic, self.packet_id, &length, properties, self.payload] {
            out.extend_from_slice(part);
        }
    }
}

/// Reads one property; `None` if it is no User Property.
fn find<'a>(
    block: &'a [u8],
    reader: &mut Reader<'a>,
    start: usize,
) -> Result<Option<Found<'a>>, DecodeError> {
    let property = Property::read(reader)?;
    if property != Property::User {
        property.skip(reader)?;
        return Ok(None);
    }
    let name = reader.binary("User Property")?;
    let value = reader.binary("User Property")?;
    let end = block.len() - reader.rest().len();
    Ok(Some(Found { start, end, is_own: name == NAME.as_bytes(), value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_other_texts_do_not() {
        let value = PropertyValue { sequence: 0x0123_4567_89AB_CDEF, tag: *b"sixteen bytes !!" };

        let text = value.encode();

        assert_eq!(&text, b"ASNFZ4mrze9zaXh0ZWVuIGJ5dGVzICEh");
        assert_eq!(PropertyValue::decode(&text), Ok(value));
        for wrong in [&text[..31], b"ASNFZ4mrze9zaXh0ZWVuIGJ5dGVzICE=", b"ASNFZ4mrze+zaXh0ZWVuIGJ5dGVzICEh"] {
            assert!(PropertyValue::decode(wrong).is_err());
        }
    }
}
