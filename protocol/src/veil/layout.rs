//! Reading and writing the length-prefixed fields of VEIL-1 section 2.
//!
//! Owns the cursor over received bytes; every read is bounds-checked and nothing here panics on
//! input. It refuses to interpret: meaning belongs to the module that owns the layout.

use alloc::vec::Vec;

/// The bytes ended before the field did, or were longer than the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A field runs past the end of the bytes.
    #[error("{0} runs past the end")]
    Truncated(&'static str),
    /// Bytes are left over after the last field.
    #[error("{0} bytes after the last field")]
    Trailing(usize),
    /// A field is longer than its length prefix can say.
    #[error("{0} is too long for its length prefix")]
    TooLong(&'static str),
    /// A list is out of order, or an entry is repeated.
    #[error("{0} is out of order or repeated")]
    Order(&'static str),
    /// A field has a value that means nothing.
    #[error("{0} has a value that is not allowed")]
    Value(&'static str),
}

/// A cursor over received bytes; each method takes one field, named for the error.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// How many bytes were taken so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when fewer are left.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], LayoutError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let taken = rest.get(..len).ok_or(LayoutError::Truncated(field))?;
        self.offset += len;
        Ok(taken)
    }

    /// Takes a field of fixed size.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when fewer than `N` bytes are left.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], LayoutError> {
        self.take(N, field)?.try_into().map_err(|_| LayoutError::Truncated(field))
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] at the end.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, LayoutError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// Takes a big-endian `u16`.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when it is cut short.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, LayoutError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Takes a big-endian `u32`.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when it is cut short.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, LayoutError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Takes a big-endian `u64`.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when it is cut short.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, LayoutError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Takes a field behind a one-byte length.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when the length or the field is cut short.
    pub fn v8(&mut self, field: &'static str) -> Result<&'a [u8], LayoutError> {
        let len = self.u8(field)?;
        self.take(usize::from(len), field)
    }

    /// Takes a field behind a two-byte length.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when the length or the field is cut short.
    pub fn v16(&mut self, field: &'static str) -> Result<&'a [u8], LayoutError> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// Takes a field behind a four-byte length.
    ///
    /// # Errors
    /// [`LayoutError::Truncated`] when the length or the field is cut short.
    pub fn v32(&mut self, field: &'static str) -> Result<&'a [u8], LayoutError> {
        let len = self.u32(field)?;
        let len = usize::try_from(len).map_err(|_| LayoutError::Truncated(field))?;
        self.take(len, field)
    }

    /// Takes everything that is left.
    #[must_use]
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        self.offset = self.bytes.len();
        rest
    }

    /// Ends the layout.
    ///
    /// # Errors
    /// [`LayoutError::Trailing`] when bytes are left.
    pub const fn finish(self) -> Result<(), LayoutError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(LayoutError::Trailing(left)),
        }
    }
}

/// Appends `bytes` behind a one-byte length.
///
/// # Errors
/// [`LayoutError::TooLong`] above 255 bytes.
pub fn put_v8(out: &mut Vec<u8>, bytes: &[u8], field: &'static str) -> Result<(), LayoutError> {
    let len = u8::try_from(bytes.len()).map_err(|_| LayoutError::TooLong(field))?;
    out.push(len);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends `bytes` behind a two-byte length.
///
/// # Errors
/// [`LayoutError::TooLong`] above 65,535 bytes.
pub fn put_v16(out: &mut Vec<u8>, bytes: &[u8], field: &'static str) -> Result<(), LayoutError> {
    let len = u16::try_from(bytes.len()).map_err(|_| LayoutError::TooLong(field))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends `bytes` behind a four-byte length.
///
/// # Errors
/// [`LayoutError::TooLong`] above 4,294,967,295 bytes.
pub fn put_v32(out: &mut Vec<u8>, bytes: &[u8], field: &'static str) -> Result<(), LayoutError> {
    let len = u32::try_from(bytes.len()).map_err(|_| LayoutError::TooLong(field))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}
