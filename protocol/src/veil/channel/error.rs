//! Why a handshake or a record is refused, and what the wire says about it.
//!
//! Invariant: the answer on the wire is a pure function of the error and tells a peer nothing it
//! could not see from the outside (VEIL-1 sections 4.9 and 16).

use crate::{
    DecodeError, ReasonCode,
    veil::{
        hello::HelloError,
        layout::LayoutError,
        registry::{Kid, Scheme, Suite, UnknownValue},
        vmc::CertificateError,
    },
};

/// Why a handshake fails; the family decides the Reason Code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Authentication Data is malformed, of another version, or of another mode.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// Another mode of the handshake is due here.
    #[error("this mode of the handshake is not served here")]
    ModeHere,
    /// COMPACT needs to know the time.
    #[error("COMPACT needs a clock")]
    ClockNeeded,
    /// The client's clock, or the CONNECT, is too old or from the future.
    #[error("the clocks are {away_ms} ms apart")]
    ClockSkew {
        /// How far the client's time is from the broker's, in milliseconds.
        away_ms: u64,
    },
    /// A CONNECT of COMPACT that was seen before.
    #[error("this CONNECT was seen before")]
    Replayed,
    /// The proof that the client knows the secret of its ticket is wrong.
    #[error("the binder of the ticket is wrong")]
    Binder,
    /// The client offers no suite the policy allows.
    #[error("no common suite")]
    NoCommonSuite,
    /// The client offers no scheme the policy allows.
    #[error("no common scheme")]
    NoCommonScheme,
    /// The broker chose a suite that was not offered.
    #[error("the broker chose {0:?}, which was not offered")]
    SuiteNotOffered(Suite),
    /// The broker chose a scheme that was not offered, or flags that do not go with it.
    #[error("the broker chose {0:?} or flags that were not offered")]
    SchemeNotOffered(Scheme),
    /// X25519 gave the all-zero value: the peer's share is of small order.
    #[error("the peer's key share is of small order")]
    SmallOrderShare,
    /// An encrypted flight or parameter block does not authenticate.
    #[error("the {0} does not authenticate")]
    Sealed(&'static str),
    /// The contents of an authentic flight or parameter block are malformed.
    #[error("contents of the {0}: {1}")]
    Contents(&'static str, LayoutError),
    /// The peer's certificate is refused.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Another party than the one at the other end of the channel that is re-authenticated.
    #[error("the peer is {got}, and the channel was made with {expected}")]
    OtherIdentity {
        /// Who answers now.
        got: Kid,
        /// Who it was.
        expected: Kid,
    },
    /// The peer's signature over the transcript is wrong.
    #[error("the transcript signature is wrong")]
    Signature,
    /// The peer's MAC over its identity is wrong.
    #[error("the handshake MAC is wrong")]
    Mac,
    /// What was to bring the ServerFinish is not a packet.
    #[error("the packet with the ServerFinish: {0}")]
    Packet(#[from] DecodeError),
    /// Another packet came where CONNACK, or AUTH with success, was due; or bytes follow it.
    #[error("not the one packet that brings the ServerFinish")]
    NotCarrier,
    /// The broker refused the connection; nothing else in that CONNACK is to be believed.
    #[error("the broker refused: {0}")]
    Refused(ReasonCode),
    /// A successful packet without the ServerFinish of this method.
    #[error("the packet carries no ServerFinish")]
    FinishMissing,
    /// The tag over the packet with the ServerFinish is wrong.
    #[error("the tag over the packet with the ServerFinish is wrong")]
    FinishTag,
    /// What we would send does not fit its length prefix.
    #[error("outgoing handshake message: {0}")]
    Encode(LayoutError),
}

impl HandshakeError {
    /// The Reason Code for CONNACK or DISCONNECT (VEIL-1 section 16).
    ///
    /// Whatever depends on keys, certificates or signatures is 0x87 without detail.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Hello(HelloError::Version(_) | HelloError::Mode(_))
            | Self::ModeHere
            | Self::NoCommonSuite
            | Self::NoCommonScheme => ReasonCode::BadAuthenticationMethod,
            Self::Hello(
                HelloError::Layout(_)
                | HelloError::MessageType { .. }
                | HelloError::Flags(_)
                | HelloError::Unknown(_),
            )
            | Self::SuiteNotOffered(_)
            | Self::SchemeNotOffered(_)
            | Self::NotCarrier
            | Self::FinishMissing => ReasonCode::ProtocolError,
            Self::SmallOrderShare
            | Self::ClockSkew { .. }
            | Self::Replayed
            | Self::Binder
            | Self::Sealed(_)
            | Self::Contents(..)
            | Self::Certificate(_)
            | Self::OtherIdentity { .. }
            | Self::Signature
            | Self::Mac
            | Self::FinishTag => ReasonCode::NotAuthorized,
            Self::Packet(error) => error.reason(),
            Self::Refused(reason) => *reason,
            Self::Encode(_) | Self::ClockNeeded => ReasonCode::ImplementationSpecificError,
        }
    }
}

/// Why a record is refused; every one of them ends the connection without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The type is unknown.
    #[error(transparent)]
    UnknownType(#[from] UnknownValue),
    /// The type does not belong to this scheme and direction.
    #[error("record type is not allowed in this scheme and direction")]
    TypeNotAllowed,
    /// The key phase is not the current one.
    #[error("record is of another key phase")]
    Phase,
    /// A KeyUpdate between a re-authentication and the first record under its keys (VEIL-1 section 4.8).
    #[error("key update while the keys of a re-authentication are due")]
    KeyUpdateBarred,
    /// The length is below the smallest or above the largest record.
    #[error("record length {0} is out of range")]
    Length(u32),
    /// The tag is wrong: damage, loss, reorder, replay or forgery.
    #[error("record does not authenticate")]
    Authentication,
    /// An authentic record has malformed contents.
    #[error("record contents: {0}")]
    Contents(#[from] LayoutError),
    /// An earlier record was refused.
    #[error("the channel is closed after an earlier failure")]
    Closed,
}
