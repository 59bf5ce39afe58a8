//! The handshake messages as bytes: ClientHello, ServerHello, ClientFinish, ServerFinish
//! (VEIL-1 sections 4.1 to 4.4).
//!
//! Owns the layouts of SIGMA mode. It checks shape only and holds no secret: what a flight contains
//! is read after [`channel`](super::channel) has opened it.

use super::{
    layout::{LayoutError, Reader, put_v8, put_v16},
    registry::{Kid, Scheme, Schemes, Suite, UnknownValue, VERSION},
};
use alloc::vec::Vec;
use core::fmt;

const CLIENT_HELLO: u8 = 0x01;
const SERVER_HELLO: u8 = 0x02;
const CLIENT_FINISH: u8 = 0x03;
const SERVER_FINISH: u8 = 0x04;
const MODE_SIGMA: u8 = 1;
/// Length of the tag that ends a ServerFinish.
pub const FINISH_TAG_LEN: usize = 32;

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
    /// Another mode than SIGMA.
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

/// ClientHello in SIGMA mode: 72 bytes with two suites.
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
}

impl<'a> ClientHello<'a> {
    /// Parses Authentication Data of a CONNECT.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type, version or mode, reserved bits, or a broken layout.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HelloError> {
        let mut reader = open(bytes, CLIENT_HELLO)?;
        let mode = reader.u8("mode")?;
        if mode != MODE_SIGMA {
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
        };
        if flags.contains(HelloFlags::HYBRID) {
            hello.hybrid_share = Some(reader.v16("hybrid share")?);
        }
        if flags.contains(HelloFlags::JOIN) {
            hello.join_request = Some(reader.v16("join request")?);
        }
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
        let mut out = Vec::with_capacity(80 + tail.len());
        out.extend_from_slice(&[CLIENT_HELLO, VERSION, MODE_SIGMA, flags.bits(), self.schemes.bits()]);
        put_v8(&mut out, self.suites, "suites")?;
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        out.extend_from_slice(self.anchor.as_bytes());
        out.extend_from_slice(&self.share);
        out.extend_from_slice(&tail);
        Ok(out)
    }
}

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

    /// Parses a ServerHello into its fields, the bytes of its head, and the encrypted flight.
    ///
    /// # Errors
    /// [`HelloError`]; a hybrid share is refused because it is never offered.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), HelloError> {
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
        let head = bytes.get(..reader.offset()).unwrap_or_default();
        let flight = reader.v16("flight")?;
        reader.finish()?;
        Ok((hello, head, flight))
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
        let flight = Self {
            certificate: reader.v16("certificate")?,
            signature: reader.array("signature")?,
            mac: reader.array("mac")?,
        };
        reader.finish()?;
        Ok(flight)
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

/// ServerFinish: encrypted parameters and the tag over the whole CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFinish<'a> {
    /// The encrypted [`ServerFinishParams`].
    pub params: &'a [u8],
    /// The tag, always the last bytes of the Authentication Data.
    pub tag: [u8; FINISH_TAG_LEN],
}

impl<'a> ServerFinish<'a> {
    /// Parses Authentication Data of a CONNACK.
    ///
    /// # Errors
    /// [`HelloError`]: wrong type or version, or a broken layout.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HelloError> {
        let mut reader = open(bytes, SERVER_FINISH)?;
        let params = reader.v16("params")?;
        let tag = reader.array("tag")?;
        reader.finish()?;
        Ok(Self { params, tag })
    }

    /// Builds the Authentication Data.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] for parameters above 65,535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::with_capacity(4 + self.params.len() + FINISH_TAG_LEN);
        out.extend_from_slice(&[SERVER_FINISH, VERSION]);
        put_v16(&mut out, self.params, "params")?;
        out.extend_from_slice(&self.tag);
        Ok(out)
    }
}

/// How far an end-to-end join has come when CONNACK is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum JoinStatus {
    /// None was asked for.
    None = 0,
    /// The issuer has answered; the response follows.
    Done = 1,
    /// The issuer has not answered yet.
    Pending = 2,
}

/// What the broker tells the client in ServerFinish, as TLVs (VEIL-1 section 4.4).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerFinishParams {
    /// A resumption ticket (type 1).
    pub ticket: Option<Vec<u8>>,
    /// The longest record the broker accepts, as its length field says it (type 2).
    pub record_bytes_max: Option<u32>,
    /// The state of the join asked for in ClientHello, and the response if done (type 3).
    pub join: Option<(JoinStatus, Vec<u8>)>,
    /// The broker's time in unix milliseconds (type 4).
    pub time_unix_ms: Option<u64>,
    /// Bodies of GroupGrant operations (type 5, section 5.4).
    pub group_grants: Vec<Vec<u8>>,
    /// Digest of the Topic Filters that demand end-to-end encryption (type 6).
    pub policy_digest: Option<[u8; 32]>,
}

impl fmt::Debug for ServerFinishParams {
    /// Leaves out the ticket, the join response and the group keys, which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFinishParams")
            .field("ticket_len", &self.ticket.as_ref().map(Vec::len))
            .field("record_bytes_max", &self.record_bytes_max)
            .field("join", &self.join.as_ref().map(|(status, _)| status))
            .field("time_unix_ms", &self.time_unix_ms)
            .field("group_grants", &self.group_grants.len())
            .field("policy_digest", &self.policy_digest)
            .finish()
    }
}

const PARAM_TICKET: u8 = 1;
const PARAM_RECORD_LIMIT: u8 = 2;
const PARAM_JOIN: u8 = 3;
const PARAM_TIME: u8 = 4;
const PARAM_GROUP_GRANTS: u8 = 5;
const PARAM_POLICY_DIGEST: u8 = 6;

impl ServerFinishParams {
    /// Parses the TLVs; unknown types are ignored, a repeated type is refused.
    ///
    /// # Errors
    /// [`LayoutError`] when a TLV is cut short, repeated, or of the wrong size.
    pub fn parse(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut params = Self::default();
        let mut reader = Reader::new(bytes);
        let mut previous = 0;
        while reader.remaining() > 0 {
            let kind = reader.u8("parameter")?;
            let mut value = Reader::new(reader.v16("parameter")?);
            if kind <= previous {
                return Err(LayoutError::Order("parameter"));
            }
            previous = kind;
            params.read(kind, &mut value)?;
            value.finish()?;
        }
        Ok(params)
    }

    fn read(&mut self, kind: u8, value: &mut Reader<'_>) -> Result<(), LayoutError> {
        match kind {
            PARAM_TICKET => self.ticket = Some(value.rest().into()),
            PARAM_RECORD_LIMIT => self.record_bytes_max = Some(value.u32("record limit")?),
            PARAM_JOIN => {
                let status = match value.u8("join status")? {
                    0 => JoinStatus::None,
                    1 => JoinStatus::Done,
                    2 => JoinStatus::Pending,
                    _ => return Err(LayoutError::Value("join status")),
                };
                self.join = Some((status, value.rest().into()));
            }
            PARAM_TIME => self.time_unix_ms = Some(value.u64("broker time")?),
            PARAM_GROUP_GRANTS => {
                while value.remaining() > 0 {
                    self.group_grants.push(value.v16("group grant")?.into());
                }
            }
            PARAM_POLICY_DIGEST => self.policy_digest = Some(value.array("policy digest")?),
            _ => {
                let _ = value.rest();
            }
        }
        Ok(())
    }

    /// Builds the TLVs in ascending order.
    ///
    /// # Errors
    /// [`LayoutError::TooLong`] when a value does not fit its length prefix.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::new();
        let mut put = |kind: u8, value: &[u8]| {
            out.push(kind);
            put_v16(&mut out, value, "parameter")
        };
        if let Some(ticket) = &self.ticket {
            put(PARAM_TICKET, ticket)?;
        }
        if let Some(limit) = self.record_bytes_max {
            put(PARAM_RECORD_LIMIT, &limit.to_be_bytes())?;
        }
        if let Some((status, response)) = &self.join {
            let mut value = Vec::with_capacity(1 + response.len());
            value.push(*status as u8);
            value.extend_from_slice(response);
            put(PARAM_JOIN, &value)?;
        }
        if let Some(time) = self.time_unix_ms {
            put(PARAM_TIME, &time.to_be_bytes())?;
        }
        if !self.group_grants.is_empty() {
            let mut value = Vec::new();
            for grant in &self.group_grants {
                put_v16(&mut value, grant, "group grant")?;
            }
            put(PARAM_GROUP_GRANTS, &value)?;
        }
        if let Some(digest) = &self.policy_digest {
            put(PARAM_POLICY_DIGEST, digest)?;
        }
        Ok(out)
    }
}
