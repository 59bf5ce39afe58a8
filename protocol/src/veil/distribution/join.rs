//! The messages of an online join (VEIL-1 section 9.1), apart from what is encrypted in them.
//!
//! What the flight of a JOIN_RSP holds, keys among it, is known to members only. Invariant: a request keeps the bytes it was
//! parsed from, because both sides hash them.

use alloc::{string::String, vec::Vec};

use super::{
    DistributionError, read_type,
    signed::{Signed, skip_signature},
    text,
};
use crate::{
    TopicFilter,
    veil::{
        envelope::MAGIC,
        layout::{LayoutError, Reader, put_v16},
        registry::Kid,
        vmc::Certificate,
    },
};

const JOIN_REQUEST: u8 = 0x16;
const JOIN_RESPONSE: u8 = 0x18;
const JOIN_FINISH: u8 = 0x19;

/// What a JOIN_REQ says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequestFields {
    /// Chosen by the member for this join.
    pub nonce: [u8; 16],
    /// When it was made, unix milliseconds; 0 without a clock.
    pub created_ms: u64,
    /// The member's ephemeral X25519 key.
    pub x25519: [u8; 32],
    /// Whom the member asks.
    pub issuer: Kid,
    /// What it wants the keys of.
    pub scope: String,
    /// The certificate of the member.
    pub certificate: Certificate,
}

impl JoinRequestFields {
    /// Builds the bytes a member signs.
    ///
    /// # Errors
    /// Whatever [`JoinRequest::parse`] would find wrong.
    pub fn to_be_signed(&self) -> Result<Vec<u8>, DistributionError> {
        self.check()?;
        let mut out = Vec::with_capacity(384);
        out.extend_from_slice(&MAGIC);
        out.push(JOIN_REQUEST);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out.extend_from_slice(&self.x25519);
        out.extend_from_slice(self.issuer.as_bytes());
        put_v16(&mut out, self.scope.as_bytes(), "scope")?;
        put_v16(&mut out, self.certificate.as_bytes(), "certificate")?;
        Ok(out)
    }

    fn check(&self) -> Result<(), DistributionError> {
        match TopicFilter::new(&self.scope) {
            Ok(filter) if filter.shared().is_none() => Ok(()),
            Ok(_) | Err(_) => Err(DistributionError::Value("scope")),
        }
    }
}

/// A JOIN_REQ.
pub type JoinRequest = Signed<JoinRequestFields>;

impl JoinRequest {
    /// Parses a JOIN_REQ; the signature is not verified here.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, DistributionError> {
        let mut reader = Reader::new(bytes);
        read_type(&mut reader, JOIN_REQUEST)?;
        let fields = JoinRequestFields {
            nonce: reader.array("nonce")?,
            created_ms: reader.u64("created")?,
            x25519: reader.array("x25519")?,
            issuer: Kid::from_bytes(reader.array("issuer")?),
            scope: text(reader.v16("scope")?, "scope")?,
            certificate: Certificate::parse(reader.v16("certificate")?)?,
        };
        skip_signature(&mut reader)?;
        reader.finish()?;
        fields.check()?;
        Ok(Self::new(fields, bytes))
    }
}

/// A JOIN_RSP; its flight is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinResponse<'a> {
    /// The nonce of the request it answers.
    pub request_nonce: [u8; 16],
    /// Chosen by the issuer for this join.
    pub nonce: [u8; 16],
    /// When it was made, unix milliseconds; 0 without a clock.
    pub created_ms: u64,
    /// The issuer's ephemeral X25519 key.
    pub x25519: [u8; 32],
    /// The ciphertext.
    pub flight: &'a [u8],
}

impl<'a> JoinResponse<'a> {
    /// Parses a JOIN_RSP and returns it with the bytes before its flight, which both sides hash.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), DistributionError> {
        let mut reader = Reader::new(bytes);
        read_type(&mut reader, JOIN_RESPONSE)?;
        let request_nonce = reader.array("request nonce")?;
        let nonce = reader.array("nonce")?;
        let created_ms = reader.u64("created")?;
        let x25519 = reader.array("x25519")?;
        let (head, _) = bytes.split_at(reader.offset());
        let flight = reader.v16("flight")?;
        reader.finish()?;
        Ok((Self { request_nonce, nonce, created_ms, x25519, flight }, head))
    }

    /// Returns the bytes before the flight.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&MAGIC);
        out.push(JOIN_RESPONSE);
        out.extend_from_slice(&self.request_nonce);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out.extend_from_slice(&self.x25519);
        out
    }

    /// Returns the response as it travels.
    ///
    /// # Errors
    /// [`LayoutError`] for a flight above 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = self.head();
        put_v16(&mut out, self.flight, "flight")?;
        Ok(out)
    }
}

/// A JOIN_FIN: the member has the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinFinish {
    /// The key confirmation.
    pub mac: [u8; 32],
}

impl JoinFinish {
    /// Parses a JOIN_FIN.
    ///
    /// # Errors
    /// A [`DistributionError`] about shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, DistributionError> {
        let mut reader = Reader::new(bytes);
        read_type(&mut reader, JOIN_FINISH)?;
        let mac = reader.array("mac")?;
        reader.finish()?;
        Ok(Self { mac })
    }

    /// Returns the message as it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &[JOIN_FINISH], &self.mac].concat()
    }
}
