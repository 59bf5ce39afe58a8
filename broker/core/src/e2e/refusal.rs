//! Why a message is refused by a policy: the Reason Code, the sentence and the metric label of each check, in one place.

use veilmq_protocol::ReasonCode;

/// The check that a message did not pass (VEIL-1 section 13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub(crate) enum Refusal {
    Plaintext,
    Malformed,
    Format,
    Suite,
    Scope,
    Unsigned,
    Size,
    Channel,
    Sender,
    Time,
    Replay,
    Clear,
    Epoch,
    EpochAge,
    Signature,
    Member,
}

impl Refusal {
    /// The values of the label `reason`, in the order of their discriminants.
    pub(crate) const NAMES: [&'static str; 16] = [
        "plaintext",
        "malformed",
        "format",
        "suite",
        "scope",
        "unsigned",
        "size",
        "channel",
        "sender",
        "time",
        "replay",
        "clear",
        "epoch",
        "epoch_age",
        "signature",
        "member",
    ];

    /// Returns the Reason Code of PUBACK, PUBREC or CONNACK (VEIL-1 section 16).
    pub(crate) fn reason_code(self) -> ReasonCode {
        match self {
            Self::Plaintext
            | Self::Malformed
            | Self::Format
            | Self::Suite
            | Self::Scope
            | Self::Unsigned
            | Self::Time
            | Self::Epoch
            | Self::EpochAge
            | Self::Replay => ReasonCode::PayloadFormatInvalid,
            Self::Channel | Self::Sender | Self::Clear | Self::Signature | Self::Member => {
                ReasonCode::NotAuthorized
            }
            // What `limits.payload_bytes_max` refuses is answered in the same way.
            Self::Size => ReasonCode::ImplementationSpecificError,
        }
    }

    /// Returns the sentence for the client's log.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Plaintext => "the payload is not sealed end to end",
            Self::Malformed => "the end-to-end envelope is malformed",
            Self::Format => "this end-to-end format is not allowed on this topic",
            Self::Suite => "the suite of the envelope is not allowed on this topic",
            Self::Scope => "the envelope is sealed for another scope than that of this topic",
            Self::Unsigned => "the envelope has no source signature",
            Self::Size => "the payload is larger than the policy of this topic allows",
            Self::Channel => "this topic takes messages over a protected connection only",
            Self::Sender => "the sender in the envelope is not this client",
            Self::Time => "the time in the envelope is missing or too far from now",
            Self::Replay => "the envelope repeats a number with other content, or is too old to compare",
            Self::Epoch => "the epoch of the envelope is not in use",
            Self::EpochAge => "the epoch of the envelope is too old, or nobody says how old it is",
            Self::Signature => "the source signature does not verify, or the sender is not known here",
            Self::Member => "only members of the scope may subscribe to it",
            Self::Clear => "only publishers of the scope may clear its retained messages",
        }
    }
}
