//! User Properties: pairs of strings carried in order, seen in place or built by hand.
//!
//! Invariant: the bytes have been validated, so walking them cannot fail.

use alloc::vec::Vec;
use core::fmt;

use crate::{
    EncodeError,
    property::Property,
    reader::Reader,
    sink::{Properties, Sink, Writer},
};

/// The User Properties of one packet, in order; an iterator over (name, value).
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// A block of properties, among them the User Properties.
    block: &'a [u8],
    /// How many User Properties are left in it.
    count: u32,
    /// How many bytes those take.
    encoded_len: u32,
}

impl<'a> UserProperties<'a> {
    pub(crate) const fn in_block(block: &'a [u8], count: u32, encoded_len: u32) -> Self {
        Self { block, count, encoded_len }
    }

    /// Says whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of bytes they take on the wire, property identifiers included.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        self.encoded_len as usize
    }

    /// The same pairs from the start, for `for` loops over a borrowed packet.
    #[must_use]
    pub const fn iter(&self) -> Self {
        *self
    }

    /// The same pairs but for the last.
    #[cfg(feature = "channel")]
    pub(crate) fn without_last(self) -> Self {
        let mut rest = self;
        let mut last_len = 0;
        while let Some(encoded) = rest.next_encoded() {
            last_len = encoded.len() as u32;
        }
        let encoded_len = self.encoded_len.saturating_sub(last_len);
        Self { count: self.count.saturating_sub(1), encoded_len, ..self }
    }

    /// The encoding of the next pair, identifier included.
    fn next_encoded(&mut self) -> Option<&'a [u8]> {
        while self.count > 0 {
            let start = self.block;
            let mut reader = Reader::new(start);
            let property = Property::read(&mut reader).ok()?;
            property.skip(&mut reader).ok()?;
            self.block = reader.rest();
            if property == Property::User {
                self.count -= 1;
                return start.get(..start.len() - self.block.len());
            }
        }
        None
    }
}

impl<'a> Iterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let encoded = self.next_encoded()?;
        self.encoded_len = self.encoded_len.saturating_sub(encoded.len() as u32);
        let mut pair = Reader::new(encoded.get(1..)?);
        Some((pair.utf8("User Property").ok()?, pair.utf8("User Property").ok()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count as usize, Some(self.count as usize))
    }
}

impl ExactSizeIterator for UserProperties<'_> {}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(*self).finish()
    }
}

impl Properties for UserProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) -> Result<(), EncodeError> {
        if self.block.len() == self.encoded_len() {
            out.put(self.block);
            return Ok(());
        }
        let mut left = *self;
        while let Some(encoded) = left.next_encoded() {
            out.put(encoded);
        }
        Ok(())
    }
}

/// Owned User Properties, built pair by pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPropertiesBuf {
    encoded: Vec<u8>,
    count: u32,
}

impl UserPropertiesBuf {
    /// Makes an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { encoded: Vec::new(), count: 0 }
    }

    /// Appends a pair.
    ///
    /// # Errors
    /// Leaves the list as it was when a string is longer than 65,535 bytes or holds U+0000, or when the list
    /// would outgrow a packet.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), EncodeError> {
        let start = self.encoded.len();
        let result = self.append(name, value);
        match result {
            Ok(()) => self.count += 1,
            Err(_) => self.encoded.truncate(start),
        }
        result
    }

    fn append(&mut self, name: &str, value: &str) -> Result<(), EncodeError> {
        let mut out = Writer(&mut self.encoded);
        out.u8(Property::User.id());
        out.string(name, "User Property")?;
        out.string(value, "User Property")?;
        if self.encoded.len() > crate::REMAINING_LENGTH_MAX {
            return Err(EncodeError::PacketTooLarge("User Property"));
        }
        Ok(())
    }

    /// The pairs, for use in a packet.
    #[must_use]
    pub fn as_user_properties(&self) -> UserProperties<'_> {
        UserProperties::in_block(&self.encoded, self.count, self.encoded.len() as u32)
    }
}
