//! Where encoded bytes go: counted first, then written, by the same code.
//!
//! A packet states its body once, in [`Body::write`]; its length is the length of what that writes.

use bytes::BufMut;

use crate::{
    EncodeError, PacketId, ProtocolVersion,
    frame::{REMAINING_LENGTH_MAX, packet_len, variable_byte_integer_len},
    property::Property,
};

/// Takes bytes in order.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn packet_id(&mut self, id: PacketId) {
        self.u16(id.value());
    }

    /// Writes at most [`REMAINING_LENGTH_MAX`], in the fewest bytes ([MQTT-1.5.5-1]).
    fn variable_byte_integer(&mut self, value: usize) {
        let [d0, d1, d2, d3] = [0, 7, 14, 21].map(|shift| (value >> shift) as u8 & 0x7F);
        match variable_byte_integer_len(value) {
            1 => self.put(&[d0]),
            2 => self.put(&[d0 | 0x80, d1]),
            3 => self.put(&[d0 | 0x80, d1 | 0x80, d2]),
            _ => self.put(&[d0 | 0x80, d1 | 0x80, d2 | 0x80, d3]),
        }
    }

    fn binary(&mut self, bytes: &[u8], field: &'static str) -> Result<(), EncodeError> {
        self.u16(u16::try_from(bytes.len()).map_err(|_| EncodeError::TooLong(field))?);
        self.put(bytes);
        Ok(())
    }

    fn string(&mut self, text: &str, field: &'static str) -> Result<(), EncodeError> {
        // [MQTT-1.5.4-2]
        if text.as_bytes().contains(&0) {
            return Err(EncodeError::HoldsNul(field));
        }
        self.binary(text.as_bytes(), field)
    }

    /// Writes a block of properties behind its length ([MQTT-2.2.2-1]).
    fn properties<P: Properties + ?Sized>(&mut self, properties: &P) -> Result<(), EncodeError>
    where
        Self: Sized,
    {
        let mut counted = Count(0);
        properties.write(&mut counted)?;
        if counted.0 > REMAINING_LENGTH_MAX {
            return Err(EncodeError::PacketTooLarge("Property Length"));
        }
        self.variable_byte_integer(counted.0);
        properties.write(self)
    }

    fn u8_property(&mut self, property: Property, value: Option<u8>) {
        if let Some(value) = value {
            self.put(&[property.id(), value]);
        }
    }

    fn flag_property(&mut self, property: Property, value: Option<bool>) {
        self.u8_property(property, value.map(u8::from));
    }

    fn u16_property(&mut self, property: Property, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(property.id());
            self.u16(value);
        }
    }

    fn u32_property(&mut self, property: Property, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(property.id());
            self.u32(value);
        }
    }

    fn string_property(&mut self, property: Property, value: Option<&str>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.u8(property.id());
        self.string(value, property.name())
    }

    fn binary_property(&mut self, property: Property, value: Option<&[u8]>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.u8(property.id());
        self.binary(value, property.name())
    }
}

/// A set of properties that can be written without its length.
pub(crate) trait Properties {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError>;
}

/// Everything of a packet after its Remaining Length.
pub(crate) trait Body {
    fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) -> Result<(), EncodeError>;
}

/// Only counts.
pub(crate) struct Count(pub(crate) usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Writes into a buffer the caller has made large enough.
pub(crate) struct Writer<'b, B>(pub(crate) &'b mut B);

impl<B: BufMut> Sink for Writer<'_, B> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }
}

/// The size of a whole packet with this body.
pub(crate) fn encoded_len(body: &impl Body, version: ProtocolVersion) -> Result<usize, EncodeError> {
    body_len(body, version).map(packet_len)
}

/// Writes a whole packet of up to `bytes_max` bytes, or nothing; returns how many it takes.
pub(crate) fn encode<B: BufMut>(
    header: u8,
    body: &impl Body,
    version: ProtocolVersion,
    bytes_max: usize,
    out: &mut B,
) -> Result<usize, EncodeError> {
    let body_len = body_len(body, version)?;
    let packet_len = packet_len(body_len);
    if packet_len > bytes_max {
        return Err(EncodeError::PacketTooLarge("packet"));
    }
    if out.remaining_mut() < packet_len {
        return Err(EncodeError::NoRoom("packet"));
    }
    let mut writer = Writer(out);
    writer.u8(header);
    writer.variable_byte_integer(body_len);
    body.write(version, &mut writer)?;
    Ok(packet_len)
}

fn body_len(body: &impl Body, version: ProtocolVersion) -> Result<usize, EncodeError> {
    let mut counted = Count(0);
    body.write(version, &mut counted)?;
    if counted.0 > REMAINING_LENGTH_MAX {
        return Err(EncodeError::PacketTooLarge("packet"));
    }
    Ok(counted.0)
}
