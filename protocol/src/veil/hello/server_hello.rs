//! ServerHello: what the broker chose, and how it proves who it is in each mode (VEIL-1 sections 4.2, 4.6 and 4.7).
//!
//! Checks shape only.

use super::{Flight, HelloError, HelloFlags, SERVER_HELLO, ServerFinish, open};
use crate::veil::{
    layout::{LayoutError, Reader},
    registry::{Scheme, Suite, VERSION},
};
use alloc::vec::Vec;

/// The part of a ServerHello before its encrypted flight; what `T1` covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// What the broker chose from the client's flags.
    pub flags: HelloFlags,
    /// The chosen scheme.
    pub scheme: Scheme,
    /// The chosen suite.
    pub suite: Suite,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// The broker's time in unix milliseconds.
    pub time_unix_ms: u64,
    /// Its ephemeral X25519 public key.
    pub share: [u8; 32],
}

impl ServerHello {
    /// Length of the head in bytes.
    pub const HEAD_LEN: usize = 61;

    /// Parses the ServerHello of SIGMA mode into its fields, the bytes of its head, and the encrypted flight.
    ///
    /// # Errors
    /// [`HelloError`]; a hybrid share is refused because it is never offered.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), HelloError> {
        let (hello, head, mut reader) = Self::parse_head(bytes)?;
        let flight = reader.v16("flight")?;
        reader.finish()?;
        Ok((hello, head, flight))
    }

    fn parse_head(bytes: &[u8]) -> Result<(Self, &[u8], Reader<'_>), HelloError> {
        let mut reader = open(bytes, SERVER_HELLO)?;
        let flags = HelloFlags::read(&mut reader)?;
        if flags.contains(HelloFlags::HYBRID) {
            return Err(HelloError::Flags(flags.bits()));
        }
        let hello = Self {
            flags,
            scheme: reader.u8("scheme")?.try_into()?,
            suite: reader.u8("suite")?.try_into()?,
            nonce: reader.array("nonce")?,
            time_unix_ms: reader.u64("time")?,
            share: reader.array("share")?,
        };
        Ok((hello, bytes.get(..reader.offset()).unwrap_or_default(), reader))
    }

    /// Builds the head; the flight follows behind a two-byte length.
    #[must_use]
    pub fn encode_head(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&[SERVER_HELLO, VERSION, self.flags.bits()]);
        out.extend_from_slice(&[self.scheme.value(), self.suite.value()]);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        out.extend_from_slice(&self.share);
        out
    }
}

/// What the broker answers within CONNACK: ServerHello and ServerFinish in one, as COMPACT and RESUME have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAnswer<'a> {
    /// What the broker chose.
    pub hello: ServerHello,
    /// The bytes of its head.
    pub head: &'a [u8],
    /// Who the broker is, in clear, in COMPACT mode; in RESUME mode the client knows.
    pub proof: Option<Flight<'a>>,
    /// Parameters and tag.
    pub finish: ServerFinish<'a>,
}

impl<'a> ServerAnswer<'a> {
    /// Parses Authentication Data of the CONNACK that answers a ClientHello in COMPACT mode.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type or version, or a broken layout.
    pub fn parse_compact(bytes: &'a [u8]) -> Result<Self, HelloError> {
        Self::parse(bytes, |reader| Flight::read(reader).map(Some))
    }

    /// Parses Authentication Data of the CONNACK that answers a ClientHello in RESUME mode.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type or version, or a broken layout.
    pub fn parse_resume(bytes: &'a [u8]) -> Result<Self, HelloError> {
        Self::parse(bytes, |_| Ok(None))
    }

    fn parse(
        bytes: &'a [u8],
        read_proof: impl FnOnce(&mut Reader<'a>) -> Result<Option<Flight<'a>>, LayoutError>,
    ) -> Result<Self, HelloError> {
        let (hello, head, mut reader) = ServerHello::parse_head(bytes)?;
        let proof = read_proof(&mut reader)?;
        let finish = ServerFinish::read(&mut reader)?;
        reader.finish()?;
        Ok(Self { hello, head, proof, finish })
    }
}
