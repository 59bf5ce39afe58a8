//! Revocation lists (VEIL-1 section 3.2): which certificates of an authority count no more.
//!
//! Numbers only increase; remembering the highest is the work of whoever holds state. Invariant: serial numbers ascend
//! strictly. Nothing here has verified the signature.

use alloc::vec::Vec;

use super::{
    DistributionError, read_type,
    signed::{Signed, skip_signature},
};
use crate::veil::{
    envelope::MAGIC,
    layout::{LayoutError, Reader, put_v16},
    vmc::Certificate,
};

const CRL: u8 = 0x17;
const ENTRY_LEN: usize = 9;

/// Why a certificate was revoked; the values are those of RFC 5280 section 5.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RevocationReason {
    /// No reason was given.
    Unspecified = 0,
    /// Someone else may have the keys: epochs change without transition.
    KeyCompromise = 1,
    /// Another certificate has taken its place.
    Superseded = 4,
    /// The device is in use no longer.
    CessationOfOperation = 5,
    /// A right was withdrawn.
    PrivilegeWithdrawn = 9,
}

impl RevocationReason {
    /// An unknown reason revokes all the same.
    fn from_value(value: u8) -> Self {
        match value {
            1 => Self::KeyCompromise,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            9 => Self::PrivilegeWithdrawn,
            _ => Self::Unspecified,
        }
    }
}

/// One revoked certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: u64,
    /// Why.
    pub reason: RevocationReason,
}

/// What a revocation list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFields {
    /// Increases with every list of this issuer.
    pub number: u64,
    /// When it was made, unix seconds.
    pub this_update: u64,
    /// When another is due, unix seconds.
    pub next_update: u64,
    /// The certificate of the authority.
    pub issuer: Certificate,
    /// What is revoked, by ascending serial number.
    pub revoked: Vec<Revoked>,
}

impl CrlFields {
    /// Builds the bytes an authority signs.
    ///
    /// # Errors
    /// Whatever [`Crl::parse`] would find wrong.
    pub fn to_be_signed(&self) -> Result<Vec<u8>, DistributionError> {
        self.check()?;
        let mut out = Vec::with_capacity(320 + ENTRY_LEN * self.revoked.len());
        out.extend_from_slice(&MAGIC);
        out.push(CRL);
        for field in [self.number, self.this_update, self.next_update] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        put_v16(&mut out, self.issuer.as_bytes(), "issuer certificate")?;
        let count = u32::try_from(self.revoked.len()).map_err(|_| DistributionError::Value("count"))?;
        out.extend_from_slice(&count.to_be_bytes());
        for entry in &self.revoked {
            out.extend_from_slice(&entry.serial.to_be_bytes());
            out.push(entry.reason as u8);
        }
        Ok(out)
    }

    fn check(&self) -> Result<(), DistributionError> {
        if self.next_update < self.this_update {
            return Err(DistributionError::Value("next update"));
        }
        if !self.revoked.is_sorted_by(|a, b| a.serial < b.serial) {
            return Err(LayoutError::Order("serial").into());
        }
        Ok(())
    }
}

/// A revocation list.
pub type Crl = Signed<CrlFields>;

impl Crl {
    /// Parses a revocation list; the signature is not verified here.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, DistributionError> {
        let mut reader = Reader::new(bytes);
        read_type(&mut reader, CRL)?;
        let mut fields = CrlFields {
            number: reader.u64("number")?,
            this_update: reader.u64("this update")?,
            next_update: reader.u64("next update")?,
            issuer: Certificate::parse(reader.v16("issuer certificate")?)?,
            revoked: Vec::new(),
        };
        let count = usize::try_from(reader.u32("count")?).map_err(|_| DistributionError::Value("count"))?;
        let entries = reader.take(count.saturating_mul(ENTRY_LEN), "entries")?;
        let mut entries = Reader::new(entries);
        while entries.remaining() > 0 {
            let serial = entries.u64("serial")?;
            let reason = RevocationReason::from_value(entries.u8("reason")?);
            fields.revoked.push(Revoked { serial, reason });
        }
        skip_signature(&mut reader)?;
        reader.finish()?;
        fields.check()?;
        Ok(Self::new(fields, bytes))
    }
}
