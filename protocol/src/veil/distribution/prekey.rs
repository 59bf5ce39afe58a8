//! Prekeys: short-lived X25519 keys that wraps are made for, so that they cannot be opened later (VEIL-1 section 9.3).
//!
//! Public halves only. Nothing here has verified the signature.

use alloc::vec::Vec;

use super::{
    DistributionError, read_type,
    signed::{Signed, skip_signature},
};
use crate::veil::{
    envelope::MAGIC,
    layout::{Reader, put_v16},
    vmc::Certificate,
};

const PREKEY: u8 = 0x15;

/// What a prekey says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrekeyFields {
    /// Its number, at least 1, ascending.
    pub id: u32,
    /// The last moment wraps may be made for it, unix milliseconds.
    pub not_after_ms: u64,
    /// The public key.
    pub x25519: [u8; 32],
    /// The certificate of the member it belongs to.
    pub certificate: Certificate,
}

impl PrekeyFields {
    /// Builds the bytes a member signs.
    ///
    /// # Errors
    /// [`DistributionError::Layout`].
    pub fn to_be_signed(&self) -> Result<Vec<u8>, DistributionError> {
        let mut out = Vec::with_capacity(320);
        out.extend_from_slice(&MAGIC);
        out.push(PREKEY);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.not_after_ms.to_be_bytes());
        out.extend_from_slice(&self.x25519);
        put_v16(&mut out, self.certificate.as_bytes(), "certificate")?;
        Ok(out)
    }
}

/// A prekey.
pub type Prekey = Signed<PrekeyFields>;

impl Prekey {
    /// Parses a prekey; the signature is not verified here.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, DistributionError> {
        let mut reader = Reader::new(bytes);
        read_type(&mut reader, PREKEY)?;
        let fields = PrekeyFields {
            id: reader.u32("prekey id")?,
            not_after_ms: reader.u64("not after")?,
            x25519: reader.array("x25519")?,
            certificate: Certificate::parse(reader.v16("certificate")?)?,
        };
        skip_signature(&mut reader)?;
        reader.finish()?;
        if fields.id == 0 {
            return Err(DistributionError::Value("prekey id"));
        }
        Ok(Self::new(fields, bytes))
    }
}
