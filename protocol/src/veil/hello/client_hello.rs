//! ClientHello: what a client offers, and what each mode appends (VEIL-1 section 4.1).
//!
//! Checks shape only. Invariant: in COMPACT and RESUME the client's proof ends the message, so it can be filled in once the
//! packet around it is encoded.

use super::{CLIENT_HELLO, HelloError, HelloFlags, open};
use crate::veil::{
    layout::{LayoutError, Reader, put_v8, put_v16},
    registry::{Kid, Schemes, VERSION},
};
use alloc::vec::Vec;

const MODE_SIGMA: u8 = 1;
const MODE_COMPACT: u8 = 2;
const MODE_RESUME: u8 = 3;
/// Length of the signature that ends a ClientHello in COMPACT mode.
pub const SIGNATURE_LEN: usize = 64;
/// Length of the binder that ends a ClientHello in RESUME mode.
pub const BINDER_LEN: usize = 32;

/// The mode of a handshake, with what the client shows of itself in its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// SIGMA: nothing yet.
    Sigma,
    /// COMPACT: who it is, in clear.
    Compact {
        /// The client's certificate.
        certificate: &'a [u8],
        /// Its signature over the CONNECT and the name of the broker; zero until the CONNECT is encoded.
        signature: [u8; SIGNATURE_LEN],
    },
    /// RESUME: what it was given on an earlier channel.
    Resume {
        /// The ticket.
        ticket: &'a [u8],
        /// The proof that it knows the ticket's secret; zero until the CONNECT is encoded.
        binder: [u8; BINDER_LEN],
    },
}

impl<'a> Opening<'a> {
    const fn mode(&self) -> u8 {
        match self {
            Self::Sigma => MODE_SIGMA,
            Self::Compact { .. } => MODE_COMPACT,
            Self::Resume { .. } => MODE_RESUME,
        }
    }

    fn read(mode: u8, reader: &mut Reader<'a>) -> Result<Self, LayoutError> {
        Ok(match mode {
            MODE_COMPACT => Self::Compact {
                certificate: reader.v16("certificate")?,
                signature: reader.array("signature")?,
            },
            MODE_RESUME => Self::Resume { ticket: reader.v16("ticket")?, binder: reader.array("binder")? },
            _ => Self::Sigma,
        })
    }

    fn append(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        match self {
            Self::Sigma => {}
            Self::Compact { certificate, signature } => {
                put_v16(out, certificate, "certificate")?;
                out.extend_from_slice(signature);
            }
            Self::Resume { ticket, binder } => {
                put_v16(out, ticket, "ticket")?;
                out.extend_from_slice(binder);
            }
        }
        Ok(())
    }
}

/// The first message of a handshake: 72 bytes in SIGMA mode with two suites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// What the client can do, and what follows the fixed fields.
    pub flags: HelloFlags,
    /// The schemes it accepts.
    pub schemes: Schemes,
    /// Suite numbers in order of preference; unknown ones are allowed and ignored.
    pub suites: &'a [u8],
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// The client's time in unix milliseconds, 0 without a clock.
    pub time_unix_ms: u64,
    /// The trust anchor the client holds.
    pub anchor: Kid,
    /// Its ephemeral X25519 public key.
    pub share: [u8; 32],
    /// ML-KEM-768 encapsulation key, present with [`HelloFlags::HYBRID`].
    pub hybrid_share: Option<&'a [u8]>,
    /// End-to-end join request, present with [`HelloFlags::JOIN`].
    pub join_request: Option<&'a [u8]>,
    /// The mode, and what it appends.
    pub opening: Opening<'a>,
}

impl<'a> ClientHello<'a> {
    /// Parses Authentication Data of a CONNECT.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type, version or mode, reserved bits, or a broken layout.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HelloError> {
        let mut reader = open(bytes, CLIENT_HELLO)?;
        let mode = reader.u8("mode")?;
        if !matches!(mode, MODE_SIGMA | MODE_COMPACT | MODE_RESUME) {
            return Err(HelloError::Mode(mode));
        }
        let flags = HelloFlags::read(&mut reader)?;
        let mut hello = Self {
            flags,
            schemes: Schemes::try_from(reader.u8("schemes")?)?,
            suites: reader.v8("suites")?,
            nonce: reader.array("nonce")?,
            time_unix_ms: reader.u64("time")?,
            anchor: Kid::from_bytes(reader.array("anchor")?),
            share: reader.array("share")?,
            hybrid_share: None,
            join_request: None,
            opening: Opening::Sigma,
        };
        if flags.contains(HelloFlags::HYBRID) {
            hello.hybrid_share = Some(reader.v16("hybrid share")?);
        }
        if flags.contains(HelloFlags::JOIN) {
            hello.join_request = Some(reader.v16("join request")?);
        }
        hello.opening = Opening::read(mode, &mut reader)?;
        reader.finish()?;
        Ok(hello)
    }

    /// Builds the Authentication Data. The flags for the optional parts follow from their presence.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] when a list or an optional part does not fit its length prefix.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let optional = HelloFlags::HYBRID.union(HelloFlags::JOIN).bits();
        let mut flags = HelloFlags(self.flags.bits() & !optional);
        let mut tail = Vec::new();
        if let Some(share) = self.hybrid_share {
            flags = flags.union(HelloFlags::HYBRID);
            put_v16(&mut tail, share, "hybrid share")?;
        }
        if let Some(request) = self.join_request {
            flags = flags.union(HelloFlags::JOIN);
            put_v16(&mut tail, request, "join request")?;
        }
        self.opening.append(&mut tail)?;
        let mut out = Vec::with_capacity(80 + tail.len());
        out.extend_from_slice(&[
            CLIENT_HELLO,
            VERSION,
            self.opening.mode(),
            flags.bits(),
            self.schemes.bits(),
        ]);
        put_v8(&mut out, self.suites, "suites")?;
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        out.extend_from_slice(self.anchor.as_bytes());
        out.extend_from_slice(&self.share);
        out.extend_from_slice(&tail);
        Ok(out)
    }
}
