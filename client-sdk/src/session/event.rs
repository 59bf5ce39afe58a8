//! What a session tells its driver, and why connections end and requests fail.

use thiserror::Error;
use veilmq_protocol::{
    DecodeError, EncodeError, PacketType, QoS, ReasonCode,
    veil::{
        Kid, Scheme, Suite,
        channel::{HandshakeError, RecordError},
        hello::JoinStatus,
    },
};

use super::inbound::Receipt;
use crate::message::Message;

/// Names a publication or request until its outcome is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(super) u64);

/// An established VEIL-1 channel, and who is at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// What records protect: 4 the integrity of every packet, 2 and 3 its content as well.
    pub scheme: Scheme,
    /// The suite of the records.
    pub suite: Suite,
    /// The name in the broker's certificate.
    pub broker: String,
    /// The key identifier of the broker.
    pub broker_kid: Kid,
}

/// Something the driver or the application should know, in the order it happened.
pub enum Event {
    /// CONNACK arrived (and, on a VEIL-1 channel, the broker is authenticated).
    Connected {
        /// Says that the server resumed the session.
        session_present: bool,
        /// The VEIL-1 channel, if there is one.
        channel: Option<Channel>,
    },
    /// What became of the request that went with CONNECT; it comes right after [`Connected`](Self::Connected).
    Join {
        /// How far it has come.
        status: JoinStatus,
        /// The JOIN_RSP if it is done, else empty.
        response: Vec<u8>,
    },
    /// A message arrived; after the application took it, hand `receipt` to
    /// [`Session::acknowledge`](super::Session::acknowledge).
    Message {
        /// The message, its payload as it arrived.
        message: Message,
        /// Present with QoS 1 and 2.
        receipt: Option<Receipt>,
    },
    /// A publication is settled: PUBACK, PUBCOMP, or a reason why there will be none.
    Published {
        /// What [`Session::publish`](super::Session::publish) returned.
        token: Token,
        /// The server's success code, or the failure.
        outcome: Result<ReasonCode, DeliveryError>,
    },
    /// A SUBSCRIBE or UNSUBSCRIBE was answered.
    Answered {
        /// What [`Session::subscribe`](super::Session::subscribe) or
        /// [`Session::unsubscribe`](super::Session::unsubscribe) returned.
        token: Token,
        /// One Reason Code for each filter.
        reasons: Vec<ReasonCode>,
        /// The Reason String.
        text: Option<String>,
    },
    /// A SUBSCRIBE or UNSUBSCRIBE is larger than the server takes, and is not sent.
    RequestTooLarge {
        /// As of [`Answered`](Self::Answered); none for a subscription that was to be made again.
        token: Option<Token>,
        /// Its size.
        bytes: usize,
        /// The server's Maximum Packet Size.
        bytes_max: usize,
    },
    /// A SUBSCRIBE or UNSUBSCRIBE was not answered in time. It is not sent again, and an answer that comes later is not told.
    Unanswered {
        /// As of [`Answered`](Self::Answered); none for a subscription that was to be made again.
        token: Option<Token>,
        /// How long the answer was waited for, in milliseconds.
        after_ms: u64,
    },
    /// Both sides have proved once more who they are, and go on under new keys.
    Reauthenticated,
    /// The broker has something to say to people.
    Notice(String),
    /// The broker is about to end the connection for a reason of its own, which passes.
    Goodbye {
        /// When to come back at the earliest, in milliseconds.
        retry_after_ms: u32,
    },
    /// The connection is over; what is left of the output may still be sent.
    Closed(CloseReason),
}

/// Why a publication was not delivered to the server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// The server refused it.
    #[error("the broker refused the message: {}", with_text(*reason, text.as_deref()))]
    Rejected {
        /// Its Reason Code.
        reason: ReasonCode,
        /// Its Reason String, which says what was wrong.
        text: Option<String>,
    },
    /// The server discarded the session while a QoS 2 message was on its way, which may or may not have arrived.
    #[error("the broker lost the session: the message may or may not have been delivered")]
    SessionLost,
    /// The packet is larger than the server accepts.
    #[error("the packet of {bytes} bytes exceeds the broker's limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The server's Maximum Packet Size.
        bytes_max: usize,
    },
    /// The server does not serve this QoS.
    #[error("the broker serves QoS {maximum:?} at most")]
    QosNotSupported {
        /// The highest it does serve.
        maximum: QoS,
    },
    /// The server does not keep retained messages.
    #[error("the broker does not keep retained messages")]
    RetainNotSupported,
    /// The message is no valid packet.
    #[error(transparent)]
    Invalid(#[from] EncodeError),
}

/// Why a Network Connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// This side disconnected.
    #[error("disconnected by this client")]
    Requested,
    /// The transport ended or failed.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// There was no transport to begin with.
    #[error("{0}")]
    Unreachable(String),
    /// CONNACK carried an error.
    #[error("the broker refused the connection: {}", with_text(*reason, text.as_deref()))]
    Refused {
        /// Its Reason Code; 0x87 also stands for every failure of the broker to authenticate this client.
        reason: ReasonCode,
        /// Its Reason String.
        text: Option<String>,
    },
    /// CONNACK carried an error that may be about the ticket of an earlier connection; the next attempt goes without.
    #[error("the broker refused to resume the channel: {0}")]
    TicketRefused(ReasonCode),
    /// The server sent DISCONNECT.
    #[error("the broker disconnected: {}", with_text(*reason, text.as_deref()))]
    Disconnected {
        /// Its Reason Code.
        reason: ReasonCode,
        /// Its Reason String.
        text: Option<String>,
    },
    /// The VEIL-1 handshake failed on this side, when connecting or in a re-authentication.
    #[error("the VEIL-1 handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    /// The broker accepted the connection without proving who it is.
    #[error("the broker does not speak VEIL-1: it accepted the connection without authenticating itself")]
    NotAuthenticated,
    /// A channel record was refused.
    #[error("the VEIL-1 channel is broken: {0}")]
    ChannelBroken(#[from] RecordError),
    /// The server sent bytes that are no MQTT packet.
    #[error("the broker sent a malformed packet: {0}")]
    Malformed(#[from] DecodeError),
    /// The broker fans out under a group key alone, and this client was not told to put up with that.
    #[error("the broker's fan-out lets any subscriber forge messages, which this client does not accept")]
    WeakGroup,
    /// A channel record ends inside a packet.
    #[error("the broker sent a record that ends inside a packet")]
    SplitPacket,
    /// The server sent a packet that is not due.
    #[error("the broker sent {0}, which is not due")]
    Unexpected(PacketType),
    /// The server claims a session although a clean start was asked for ([MQTT-3.2.2-4]).
    #[error("the broker resumed a session that was to be discarded")]
    SessionNotDiscarded,
    /// More unacknowledged messages than the Receive Maximum ([MQTT-3.3.4-9]).
    #[error("the broker sent more messages than the receive maximum allows")]
    ReceiveMaximumExceeded,
    /// A Topic Alias out of range or without a Topic Name.
    #[error("the broker used an invalid topic alias")]
    TopicAliasInvalid,
    /// No answer in time.
    #[error("no {0} from the broker in time")]
    Timeout(&'static str),
    /// What this side was to send is no valid packet.
    #[error("cannot send: {0}")]
    Unencodable(#[from] EncodeError),
}

impl CloseReason {
    /// The Reason Code of the DISCONNECT this side sends, if it sends one (MQTT 5.0 section 4.13).
    pub(super) const fn answer(&self) -> Option<ReasonCode> {
        match self {
            Self::Requested => Some(ReasonCode::Success),
            Self::Malformed(error) => Some(error.reason()),
            Self::WeakGroup => Some(ReasonCode::ImplementationSpecificError),
            Self::Unexpected(_) | Self::SessionNotDiscarded | Self::SplitPacket => {
                Some(ReasonCode::ProtocolError)
            }
            Self::ReceiveMaximumExceeded => Some(ReasonCode::ReceiveMaximumExceeded),
            Self::TopicAliasInvalid => Some(ReasonCode::TopicAliasInvalid),
            Self::Unencodable(_) => Some(ReasonCode::ImplementationSpecificError),
            // [MQTT-4.12.1-2] A client has no code for a broker that fails to prove who it is. Before CONNACK nothing is sent.
            Self::Handshake(_) => Some(ReasonCode::UnspecifiedError),
            // VEIL-1 section 16: a broken channel is closed without answer.
            Self::Lost(_)
            | Self::Unreachable(_)
            | Self::Refused { .. }
            | Self::Disconnected { .. }
            | Self::TicketRefused(_)
            | Self::NotAuthenticated
            | Self::ChannelBroken(_)
            | Self::Timeout(_) => None,
        }
    }

    /// Says whether connecting again with the same options would fail or do harm.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Requested => true,
            Self::Refused { reason, .. } | Self::Disconnected { reason, .. } => matches!(
                reason,
                ReasonCode::UnsupportedProtocolVersion
                    | ReasonCode::ClientIdentifierNotValid
                    | ReasonCode::BadUserNameOrPassword
                    | ReasonCode::NotAuthorized
                    | ReasonCode::Banned
                    | ReasonCode::BadAuthenticationMethod
                    | ReasonCode::SessionTakenOver
            ),
            Self::Unencodable(_) | Self::WeakGroup => true,
            Self::Lost(_)
            | Self::Unreachable(_)
            | Self::TicketRefused(_)
            | Self::Handshake(_)
            | Self::NotAuthenticated
            | Self::ChannelBroken(_)
            | Self::Malformed(_)
            | Self::SplitPacket
            | Self::Unexpected(_)
            | Self::SessionNotDiscarded
            | Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::Timeout(_) => false,
        }
    }
}

/// The name of a Reason Code, with the Reason String that came with it. What a terminal would obey is left out.
pub(crate) fn with_text(reason: ReasonCode, text: Option<&str>) -> String {
    let shown = |text: &str| text.chars().filter(|character| !is_obeyed(*character)).collect::<String>();
    text.map_or_else(|| reason.to_string(), |text| format!("{reason} ({})", shown(text)))
}

/// Control characters, and those that change the order of others (Unicode Standard Annex 9, table 2).
fn is_obeyed(character: char) -> bool {
    let is_of_order = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    is_of_order || character.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_string_tells_a_terminal_nothing_but_letters() {
        let said = with_text(ReasonCode::NotAuthorized, Some("n\u{1b}[2Jo\u{202e} é\u{200d}\u{2067}\u{7f}!"));

        assert_eq!(said, format!("{} (n[2Jo é\u{200d}!)", ReasonCode::NotAuthorized));
    }
}
