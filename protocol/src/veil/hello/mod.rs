//! The handshake messages as bytes: ClientHello, ServerHello, ClientFinish, ServerFinish
//! (VEIL-1 sections 4.1 to 4.4, 4.6 and 4.7).
//!
//! Owns the layouts. It checks shape only and holds no secret: what a flight contains
//! is read after [`channel`](super::channel) has opened it.

mod client_hello;
mod server_finish;
mod server_hello;

use super::{
    layout::{LayoutError, Reader, put_v16},
    registry::{UnknownValue, VERSION},
};
use alloc::vec::Vec;

pub use client_hello::{BINDER_LEN, ClientHello, Opening, SIGNATURE_LEN};
pub use server_finish::{FINISH_TAG_LEN, JoinStatus, ServerFinish, ServerFinishParams};
pub use server_hello::{ServerAnswer, ServerHello};

const CLIENT_HELLO: u8 = 0x01;
const SERVER_HELLO: u8 = 0x02;
const CLIENT_FINISH: u8 = 0x03;
const SERVER_FINISH: u8 = 0x04;
const WAIT: u8 = 0x0A;
const WAIT_ACKNOWLEDGED: u8 = 0x0B;

/// Why handshake bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The bytes do not have the layout.
    #[error("handshake message layout: {0}")]
    Layout(#[from] LayoutError),
    /// Another message was due.
    #[error("handshake message of type {got:#04x}, expected {expected:#04x}")]
    MessageType {
        /// The type received.
        got: u8,
        /// The type that was due.
        expected: u8,
    },
    /// Another version of the protocol.
    #[error("handshake version {0} is not supported")]
    Version(u8),
    /// A mode that is unknown, or not served here.
    #[error("handshake mode {0} is not supported")]
    Mode(u8),
    /// A flag bit that is reserved, or that this message cannot carry.
    #[error("handshake flags {0:#04x} are not allowed")]
    Flags(u8),
    /// A registry number that is unknown where one must be known.
    #[error("handshake: {0}")]
    Unknown(#[from] UnknownValue),
}

/// The flag bits of a ClientHello, and of the ServerHello that chooses from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelloFlags(u8);

impl HelloFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Packets travel in records after CONNACK.
    pub const FRAMED: Self = Self(1);
    /// Property mode for PUBLISH.
    pub const PROPERTY: Self = Self(1 << 1);
    /// A hybrid key share follows.
    pub const HYBRID: Self = Self(1 << 2);
    /// An end-to-end join request follows.
    pub const JOIN: Self = Self(1 << 3);
    /// The client has no clock.
    pub const CLOCKLESS: Self = Self(1 << 4);
    const KNOWN: u8 = 0x1F;

    /// The flag byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, HelloError> {
        let bits = reader.u8("flags")?;
        if bits & !Self::KNOWN == 0 { Ok(Self(bits)) } else { Err(HelloError::Flags(bits)) }
    }
}

/// How a channel protects packets after CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelForm {
    /// Not at all: Scheme 1.
    Plain,
    /// All of them, in records (VEIL-1 section 5.2).
    Records,
    /// Each PUBLISH, by a User Property (VEIL-1 section 5.3).
    Property,
}

impl ChannelForm {
    /// The flags that choose it.
    #[must_use]
    pub const fn flags(self) -> HelloFlags {
        match self {
            Self::Plain => HelloFlags::NONE,
            Self::Records => HelloFlags::FRAMED,
            Self::Property => HelloFlags::PROPERTY,
        }
    }
}

/// Reads the type and version bytes every message begins with.
fn open(bytes: &[u8], expected: u8) -> Result<Reader<'_>, HelloError> {
    let mut reader = Reader::new(bytes);
    let got = reader.u8("message type")?;
    if got != expected {
        return Err(HelloError::MessageType { got, expected });
    }
    match reader.u8("version")? {
        VERSION => Ok(reader),
        version => Err(HelloError::Version(version)),
    }
}

/// What the two sides say in AUTH while the issuer of the keys is asked that a client wants with CONNECT (VEIL-1 sections 4.9 and
/// 9.1). It says nothing that is believed, so it is not in the transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// WAIT, of the broker.
    Asked,
    /// WAIT-ACK, of the client.
    Acknowledged,
}

impl Wait {
    /// The Authentication Data.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 2] {
        match self {
            Self::Asked => [WAIT, VERSION],
            Self::Acknowledged => [WAIT_ACKNOWLEDGED, VERSION],
        }
    }

    /// Whether Authentication Data are this message.
    #[must_use]
    pub fn is(self, bytes: &[u8]) -> bool {
        bytes == self.to_bytes()
    }
}

/// ClientFinish: nothing but an encrypted flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFinish<'a> {
    /// The encrypted flight.
    pub flight: &'a [u8],
}

impl<'a> ClientFinish<'a> {
    /// Parses Authentication Data of the client's AUTH.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type or version, or a broken layout.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HelloError> {
        let mut reader = open(bytes, CLIENT_FINISH)?;
        let flight = reader.v16("flight")?;
        reader.finish()?;
        Ok(Self { flight })
    }

    /// Builds the Authentication Data.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] above 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::with_capacity(4 + self.flight.len());
        out.extend_from_slice(&[CLIENT_FINISH, VERSION]);
        put_v16(&mut out, self.flight, "flight")?;
        Ok(out)
    }
}

/// What a flight says once it is open: who, and the two proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight<'a> {
    /// The sender's certificate.
    pub certificate: &'a [u8],
    /// Its signature over the transcript.
    pub signature: [u8; 64],
    /// Its MAC under the handshake key.
    pub mac: [u8; 32],
}

impl<'a> Flight<'a> {
    /// Parses the plaintext of a flight.
    ///
    /// # Errors
    /// [`LayoutError`] when the three fields do not fill it exactly.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let mut reader = Reader::new(bytes);
        let flight = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(flight)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, LayoutError> {
        Ok(Self {
            certificate: reader.v16("certificate")?,
            signature: reader.array("signature")?,
            mac: reader.array("mac")?,
        })
    }

    /// Builds the plaintext.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for a certificate above 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::with_capacity(2 + self.certificate.len() + 96 + 16);
        put_v16(&mut out, self.certificate, "certificate")?;
        out.extend_from_slice(&self.signature);
        out.extend_from_slice(&self.mac);
        Ok(out)
    }
}
