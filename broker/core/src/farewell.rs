//! Why a connection ends, and the packet that says so. The only place that builds farewell packets.
//!
//! The reaction on the wire is a pure function of the phase, the protocol version, the reason and the settings. Invariant: a Reason
//! String holds fixed words and numbers of the client's own, never what came in a packet or concerns another client.

use std::sync::Arc;

use veilmq_protocol::veil::channel::{HandshakeError, PropertyError, RecordError};
use veilmq_protocol::{
    ConnAck, ConnAckProperties, DecodeError, Disconnect, Packet, PacketType, ProtocolVersion, ReasonCode,
};

use crate::capabilities::Unavailable;
use crate::connection::SendError;
use crate::e2e::Refusal;
use crate::settings::Settings;

/// Why a connection ends, grouped by who caused it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseReason {
    /// The peer left in order, or it vanished.
    #[error("{0}")]
    Departure(Departure),
    /// The peer broke a rule.
    #[error("{0}")]
    Peer(PeerError),
    /// The broker ends it for reasons of its own.
    #[error("{0}")]
    Broker(BrokerReason),
}

/// How a peer left.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Departure {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the client disconnected and asked for its Will Message")]
    DisconnectedWithWill,
    #[error("the connection was closed by the client or the network")]
    Closed,
    /// It cannot be told: it takes no bytes.
    #[error("took no bytes for {seconds} s")]
    TookNothing { seconds: u64 },
}

/// What a peer did wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("{0}")]
    Transport(&'static str),
    #[error("{0}")]
    Packet(DecodeError),
    #[error("{got} before CONNECT")]
    NotConnect { got: PacketType },
    #[error("unexpected {got}")]
    Unexpected { got: PacketType },
    #[error("{0}")]
    Protocol(&'static str),
    #[error("{0}")]
    Unavailable(Unavailable),
    #[error("topic alias {alias} above the maximum of {maximum}")]
    TopicAlias { alias: u16, maximum: u16 },
    #[error("topic with {levels} levels, {maximum} are allowed")]
    TopicLevels { levels: usize, maximum: usize },
    #[error("{count} User Properties in a packet, {maximum} are allowed")]
    UserProperties { count: usize, maximum: usize },
    #[error("topic too long behind the mount point of the listener")]
    MountedTopic,
    #[error("more unacknowledged messages than the Receive Maximum of {maximum}")]
    ReceiveMaximum { maximum: u16 },
    #[error("more messages or bytes than the client may send")]
    MessageRate,
    #[error("no CONNECT within {seconds} s")]
    ConnectTimeout { seconds: u32 },
    #[error("nothing heard for one and a half times the keep alive of {seconds} s")]
    KeepAlive { seconds: u16 },
    #[error("no record within {milliseconds} ms of CONNACK")]
    ProofTimeout { milliseconds: u64 },
    #[error("re-authentication not finished within {seconds} s")]
    ReauthenticationTimeout { seconds: u32 },
    #[error("client identifier refused: {0}")]
    ClientId(&'static str),
    #[error("an empty client identifier is not taken here")]
    EmptyClientId,
    #[error("not authorised: {0}")]
    NotAuthorized(&'static str),
    #[error("not authorised: the session of this client identifier belongs to a VEIL-1 identity")]
    SessionOfIdentity,
    #[error("not authorised: the session of this client identifier belongs to another user")]
    SessionOfUser,
    #[error("the Will Message: {0}")]
    EndToEnd(Refusal),
    #[error("not authorised: the Will Topic belongs to the broker")]
    ReservedWill,
    #[error("the Will Message has {bytes} bytes, {maximum} are taken")]
    LargeWill { bytes: usize, maximum: usize },
    #[error("user name or password refused")]
    Credentials,
    #[error("no certificate proves a user name")]
    Unproven,
    #[error("too many wrong passwords")]
    Banned,
    #[error("{bytes} bytes before CONNACK, {maximum} are taken")]
    Impatient { bytes: usize, maximum: usize },
    #[error("authentication method not served")]
    AuthenticationMethod,
    #[error("CONNACK cannot be sent: {0}")]
    ConnAck(SendError),
    #[error("VEIL-1 handshake: {0}")]
    Handshake(HandshakeError),
    #[error("VEIL-1 record: {0}")]
    Record(RecordError),
    #[error("VEIL-1 property mode: {0}")]
    Property(PropertyError),
}

impl PeerError {
    /// The client's Maximum Packet Size is below what a handshake takes.
    pub(crate) const HANDSHAKE_UNFIT: Self = Self::Protocol("the handshake does not fit into a packet");
}

/// Why the broker ends a connection.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum BrokerReason {
    #[error("another connection took the session over")]
    TakenOver,
    #[error("the broker is shutting down")]
    Shutdown,
    #[error("what was acknowledged could not be stored")]
    StorageFailed,
    #[error("there is no room to store anything")]
    StorageFull,
    #[error("too many handshakes are under way")]
    HalfOpen,
    #[error("too many handshakes are remembered")]
    ReplaysFull,
    #[error("the session has changed since CONNACK")]
    SessionChanged,
    #[error("there are as many sessions as this broker keeps")]
    TooManySessions,
    #[error("the session is taken over too often")]
    TakenOverTooOften,
    #[error("too many passwords are being checked")]
    Busy,
    #[error("not authorised any more")]
    Revoked,
    #[error("its VEIL-1 certificate counts no more")]
    Distrusted,
    #[error("an operator ended the connection")]
    Dismissed,
    #[error("an administrator has changed what its user may do")]
    Unseated,
    #[error("its listener was taken out of the configuration")]
    ListenerGone,
}

impl CloseReason {
    /// Tells whether the session's Will Message is to be published ([MQTT-3.1.2-8], [MQTT-3.14.4-3]).
    pub(crate) fn publishes_will(&self) -> bool {
        !matches!(self, Self::Departure(Departure::Disconnected))
    }

    /// Returns the metric label.
    pub(crate) fn label(&self) -> CloseLabel {
        match self {
            Self::Departure(Departure::Disconnected | Departure::DisconnectedWithWill) => {
                CloseLabel::Disconnected
            }
            Self::Departure(Departure::Closed) => CloseLabel::Closed,
            Self::Departure(Departure::TookNothing { .. }) => CloseLabel::WriteTimeout,
            Self::Peer(PeerError::ConnectTimeout { .. } | PeerError::ProofTimeout { .. }) => {
                CloseLabel::ConnectTimeout
            }
            Self::Peer(PeerError::KeepAlive { .. }) => CloseLabel::KeepAlive,
            Self::Peer(
                PeerError::NotAuthorized(_)
                | PeerError::EndToEnd(_)
                | PeerError::ReservedWill
                | PeerError::LargeWill { .. }
                | PeerError::SessionOfIdentity
                | PeerError::SessionOfUser
                | PeerError::Credentials
                | PeerError::Unproven
                | PeerError::Banned
                | PeerError::AuthenticationMethod
                | PeerError::ConnAck(_)
                | PeerError::Handshake(_)
                | PeerError::ReauthenticationTimeout { .. }
                | PeerError::ClientId(_)
                | PeerError::EmptyClientId,
            ) => CloseLabel::Refused,
            Self::Peer(PeerError::Record(_) | PeerError::Property(_)) => CloseLabel::RecordAuthentication,
            Self::Peer(PeerError::MessageRate) => CloseLabel::MessageRate,
            Self::Peer(
                PeerError::Transport(_)
                | PeerError::Packet(_)
                | PeerError::NotConnect { .. }
                | PeerError::Unexpected { .. }
                | PeerError::Protocol(_)
                | PeerError::Unavailable(_)
                | PeerError::TopicAlias { .. }
                | PeerError::TopicLevels { .. }
                | PeerError::MountedTopic
                | PeerError::UserProperties { .. }
                | PeerError::ReceiveMaximum { .. }
                | PeerError::Impatient { .. },
            ) => CloseLabel::ProtocolError,
            Self::Broker(BrokerReason::TakenOver) => CloseLabel::TakenOver,
            Self::Broker(BrokerReason::Shutdown) => CloseLabel::Shutdown,
            Self::Broker(BrokerReason::StorageFailed | BrokerReason::StorageFull) => {
                CloseLabel::StorageFailed
            }
            Self::Broker(
                BrokerReason::HalfOpen
                | BrokerReason::TooManySessions
                | BrokerReason::TakenOverTooOften
                | BrokerReason::Busy
                | BrokerReason::ReplaysFull
                | BrokerReason::SessionChanged,
            ) => CloseLabel::Refused,
            Self::Broker(BrokerReason::Revoked | BrokerReason::Distrusted | BrokerReason::Unseated) => {
                CloseLabel::Revoked
            }
            Self::Broker(BrokerReason::Dismissed | BrokerReason::ListenerGone) => CloseLabel::Dismissed,
        }
    }

    /// Returns the Reason Code as a number, for log lines; None if nothing is said on the wire.
    pub(crate) fn code(&self) -> Option<u8> {
        self.reason_code().map(ReasonCode::value)
    }

    /// Returns the Reason Code for the wire; None if nothing is to be said.
    fn reason_code(&self) -> Option<ReasonCode> {
        match self {
            Self::Departure(_) => None,
            Self::Peer(error) => match error {
                PeerError::Packet(error) => Some(error.reason()),
                PeerError::Transport(_)
                | PeerError::NotConnect { .. }
                | PeerError::ConnectTimeout { .. }
                | PeerError::ProofTimeout { .. }
                | PeerError::Record(_) => None,
                PeerError::Unexpected { .. } | PeerError::Protocol(_) => Some(ReasonCode::ProtocolError),
                PeerError::Unavailable(unavailable) => Some(unavailable.reason()),
                PeerError::TopicAlias { .. } => Some(ReasonCode::TopicAliasInvalid),
                PeerError::TopicLevels { .. } | PeerError::MountedTopic => Some(ReasonCode::TopicNameInvalid),
                PeerError::ReceiveMaximum { .. } => Some(ReasonCode::ReceiveMaximumExceeded),
                PeerError::KeepAlive { .. } => Some(ReasonCode::KeepAliveTimeout),
                // Section 3.14.2.1
                PeerError::MessageRate => Some(ReasonCode::MessageRateTooHigh),
                // [MQTT-3.1.3-8] There is none that could be not valid; Mosquitto says the same.
                PeerError::EmptyClientId => Some(ReasonCode::UnspecifiedError),
                PeerError::ClientId(_) => Some(ReasonCode::ClientIdentifierNotValid),
                PeerError::UserProperties { .. }
                | PeerError::ReauthenticationTimeout { .. }
                | PeerError::Impatient { .. } => Some(ReasonCode::QuotaExceeded),
                PeerError::NotAuthorized(_)
                | PeerError::ReservedWill
                | PeerError::SessionOfIdentity
                | PeerError::SessionOfUser => Some(ReasonCode::NotAuthorized),
                PeerError::LargeWill { .. } => Some(ReasonCode::PacketTooLarge),
                PeerError::EndToEnd(refusal) => Some(refusal.reason_code()),
                PeerError::Credentials | PeerError::Unproven => Some(ReasonCode::BadUserNameOrPassword),
                PeerError::Banned => Some(ReasonCode::Banned),
                PeerError::AuthenticationMethod => Some(ReasonCode::BadAuthenticationMethod),
                // Table 3-1: the CONNECT is valid but is not accepted.
                PeerError::ConnAck(_) => Some(ReasonCode::ImplementationSpecificError),
                PeerError::Handshake(error) => Some(error.reason()),
                PeerError::Property(error) => Some(error.reason()),
            },
            Self::Broker(BrokerReason::TakenOver) => Some(ReasonCode::SessionTakenOver),
            Self::Broker(BrokerReason::Shutdown) => Some(ReasonCode::ServerShuttingDown),
            Self::Broker(BrokerReason::Busy) => Some(ReasonCode::ServerBusy),
            Self::Broker(BrokerReason::TakenOverTooOften) => Some(ReasonCode::ConnectionRateExceeded),
            Self::Broker(BrokerReason::Revoked | BrokerReason::Distrusted) => Some(ReasonCode::NotAuthorized),
            // Section 3.14.2.1
            Self::Broker(BrokerReason::Dismissed | BrokerReason::Unseated | BrokerReason::ListenerGone) => {
                Some(ReasonCode::AdministrativeAction)
            }
            Self::Broker(
                BrokerReason::StorageFailed
                | BrokerReason::StorageFull
                | BrokerReason::HalfOpen
                | BrokerReason::TooManySessions
                | BrokerReason::ReplaysFull,
            ) => Some(ReasonCode::QuotaExceeded),
            Self::Broker(BrokerReason::SessionChanged) => Some(ReasonCode::ServerBusy),
        }
    }

    /// Returns the Reason Code of an end that has nothing to do with the client, which may come back later.
    pub(crate) fn passes(&self) -> Option<ReasonCode> {
        let Self::Broker(reason) = self else { return None };
        match reason {
            BrokerReason::Shutdown
            | BrokerReason::StorageFailed
            | BrokerReason::StorageFull
            | BrokerReason::SessionChanged => self.reason_code(),
            BrokerReason::TakenOver
            | BrokerReason::HalfOpen
            | BrokerReason::ReplaysFull
            | BrokerReason::TooManySessions
            | BrokerReason::TakenOverTooOften
            | BrokerReason::Busy
            | BrokerReason::Dismissed
            | BrokerReason::Unseated
            | BrokerReason::ListenerGone
            | BrokerReason::Revoked
            | BrokerReason::Distrusted => None,
        }
    }

    /// Returns the words for it that the client may read; None where it is to learn no more than the Reason Code.
    fn explanation(&self) -> Option<String> {
        match self {
            Self::Departure(_) => None,
            Self::Peer(error) => match error {
                // Who tries to get in learns nothing of why that fails (VEIL-1 section 4.9), nor of others' sessions.
                PeerError::Handshake(_)
                | PeerError::Record(_)
                | PeerError::Property(_)
                | PeerError::SessionOfIdentity
                | PeerError::SessionOfUser => None,
                PeerError::Transport(_)
                | PeerError::Packet(_)
                | PeerError::NotConnect { .. }
                | PeerError::Unexpected { .. }
                | PeerError::Protocol(_)
                | PeerError::Unavailable(_)
                | PeerError::TopicAlias { .. }
                | PeerError::TopicLevels { .. }
                | PeerError::MountedTopic
                | PeerError::UserProperties { .. }
                | PeerError::ReceiveMaximum { .. }
                | PeerError::ConnectTimeout { .. }
                | PeerError::ProofTimeout { .. }
                | PeerError::KeepAlive { .. }
                | PeerError::MessageRate
                | PeerError::ReauthenticationTimeout { .. }
                | PeerError::ClientId(_)
                | PeerError::EmptyClientId
                | PeerError::NotAuthorized(_)
                | PeerError::EndToEnd(_)
                | PeerError::ReservedWill
                | PeerError::LargeWill { .. }
                | PeerError::Credentials
                | PeerError::Unproven
                | PeerError::Banned
                | PeerError::Impatient { .. }
                | PeerError::ConnAck(_)
                | PeerError::AuthenticationMethod => Some(error.to_string()),
            },
            // VEIL-1 section 16: no detail.
            Self::Broker(BrokerReason::Distrusted) => None,
            Self::Broker(reason) => Some(reason.to_string()),
        }
    }

    /// Returns what the client is to be told; None if nothing is to be said.
    pub(crate) fn notice(&self, settings: &Settings) -> Option<Notice> {
        let reason = self.habitual(settings).or_else(|| self.reason_code())?;
        let reason_string = self.explanation().filter(|_| settings.reason_strings);
        let (reason, server_reference) = match (self, &settings.server_reference) {
            (Self::Broker(BrokerReason::Shutdown), Some(server)) => {
                (ReasonCode::UseAnotherServer, Some(Arc::clone(server)))
            }
            _ => (reason, None),
        };
        let silence = match self {
            // No return code of MQTT 3 is for a Will Message that is not taken.
            Self::Peer(PeerError::LargeWill { .. }) => Silence::Never,
            // Their code 4 is said as Mosquitto says it.
            Self::Peer(PeerError::Unproven) => Silence::Never,
            Self::Peer(PeerError::ReservedWill) if settings.mosquitto_habits => Silence::Always,
            // Section 4.13.1: a server may answer an error in CONNECT.
            Self::Peer(PeerError::Packet(error))
                if settings.mosquitto_habits
                    && error.reason() == ReasonCode::MalformedPacket
                    && UNANSWERED.contains(&error.field()) =>
            {
                Silence::Always
            }
            _ => Silence::WhereSpeechless,
        };
        Some(Notice { reason, reason_string, server_reference, silence })
    }

    /// Returns the Reason Code that Mosquitto has for something that MQTT has several for.
    fn habitual(&self, settings: &Settings) -> Option<ReasonCode> {
        match self {
            _ if !settings.mosquitto_habits => None,
            Self::Peer(PeerError::TopicLevels { .. }) => Some(ReasonCode::MalformedPacket),
            Self::Peer(PeerError::Packet(DecodeError::InvalidString("Client Identifier"))) => {
                Some(ReasonCode::ClientIdentifierNotValid)
            }
            Self::Broker(BrokerReason::TooManySessions) => Some(ReasonCode::ServerBusy),
            Self::Departure(_) | Self::Peer(_) | Self::Broker(_) => None,
        }
    }
}

/// What Mosquitto answers with nothing where it is malformed in CONNECT.
const UNANSWERED: [&str; 6] =
    ["Remaining Length", "Connect Flags", "Will Topic", "Will Payload", "User Name", "Password"];

/// What a client is told about the end of its connection.
#[derive(Debug)]
pub(crate) struct Notice {
    reason: ReasonCode,
    reason_string: Option<String>,
    server_reference: Option<Arc<str>>,
    silence: Silence,
}

/// When a CONNECT is refused without a CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    Never,
    /// Where MQTT 3 has no return code for it.
    WhereSpeechless,
    Always,
}

impl Notice {
    /// Returns the forms of a refusal of a connection that is not established yet, the fullest first: a CONNACK with an error.
    pub(crate) fn refusals(&self, version: ProtocolVersion) -> impl Iterator<Item = Packet<'_>> {
        let reason = match self.reason {
            // MQTT 3.1.1 has 4 for what is malformed in them (table 3.1); in MQTT 3.1 it is the code for this.
            ReasonCode::BadUserNameOrPassword
                if version == ProtocolVersion::V311 && self.silence != Silence::Never =>
            {
                ReasonCode::NotAuthorized
            }
            // No return code of theirs is for a Will Message that is not taken.
            ReasonCode::PayloadFormatInvalid if version != ProtocolVersion::V5 => ReasonCode::NotAuthorized,
            ReasonCode::PacketTooLarge
                if version != ProtocolVersion::V5 && self.silence == Silence::Never =>
            {
                ReasonCode::NotAuthorized
            }
            // Table 3-1 has neither before CONNACK; "server unavailable" is their equivalent.
            ReasonCode::ServerShuttingDown | ReasonCode::AdministrativeAction => {
                ReasonCode::ServerUnavailable
            }
            reason => reason,
        };
        // [MQTT311-3.2.2-6] Where no return code fits, the connection is closed without one.
        let speechless = matches!(
            reason,
            ReasonCode::MalformedPacket
                | ReasonCode::ProtocolError
                | ReasonCode::PacketTooLarge
                | ReasonCode::TopicNameInvalid
                | ReasonCode::QosNotSupported
                | ReasonCode::RetainNotSupported
        );
        let said = match self.silence {
            Silence::Never => true,
            Silence::WhereSpeechless => version == ProtocolVersion::V5 || !speechless,
            Silence::Always => false,
        };
        self.forms().filter(move |_| said).map(move |(reason_string, server_reference)| {
            let properties =
                ConnAckProperties { reason_string, server_reference, ..ConnAckProperties::default() };
            Packet::ConnAck(ConnAck { session_present: false, reason, properties })
        })
    }

    /// Returns the forms of the farewell of an established connection, the fullest first; 3.1.1 and 3.1 have none.
    pub(crate) fn farewells(&self, version: ProtocolVersion) -> impl Iterator<Item = Packet<'_>> {
        let reason = self.reason;
        let said = version == ProtocolVersion::V5;
        self.forms().filter(move |_| said).map(move |(reason_string, server_reference)| {
            // [MQTT-3.14.2-2]
            Packet::Disconnect(Disconnect {
                reason,
                reason_string,
                server_reference,
                ..Disconnect::default()
            })
        })
    }

    /// Returns the words of each form, of which the first is sent that fits ([MQTT-3.2.2-19], [MQTT-3.14.2-3]). None has
    /// User Properties ([MQTT-3.2.2-20], [MQTT-3.14.2-4]).
    fn forms(&self) -> impl Iterator<Item = (Option<&str>, Option<&str>)> {
        let (words, server) = (self.reason_string.as_deref(), self.server_reference.as_deref());
        [(words, server), (None, server), (None, None)].into_iter()
    }
}

/// The values of the label `reason` of `veilmq_connections_closed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseLabel {
    Disconnected,
    Closed,
    ConnectTimeout,
    KeepAlive,
    Refused,
    RecordAuthentication,
    ProtocolError,
    TakenOver,
    Shutdown,
    StorageFailed,
    Revoked,
    Dismissed,
    MessageRate,
    WriteTimeout,
}

impl CloseLabel {
    /// Returns the label as metrics and log lines have it.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// All labels, in the order of their discriminants.
    pub(crate) const NAMES: [&'static str; 14] = [
        "disconnected",
        "closed",
        "connect_timeout",
        "keep_alive",
        "refused",
        "record_authentication",
        "protocol_error",
        "taken_over",
        "shutdown",
        "storage_failed",
        "revoked",
        "dismissed",
        "message_rate",
        "write_timeout",
    ];
}

impl From<PeerError> for CloseReason {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

impl From<Unavailable> for PeerError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

impl From<DecodeError> for PeerError {
    fn from(error: DecodeError) -> Self {
        Self::Packet(error)
    }
}

impl From<DecodeError> for CloseReason {
    fn from(error: DecodeError) -> Self {
        Self::Peer(PeerError::Packet(error))
    }
}

impl From<HandshakeError> for CloseReason {
    fn from(error: HandshakeError) -> Self {
        Self::Peer(PeerError::Handshake(error))
    }
}

impl From<PropertyError> for CloseReason {
    fn from(error: PropertyError) -> Self {
        Self::Peer(PeerError::Property(error))
    }
}

impl From<RecordError> for CloseReason {
    fn from(error: RecordError) -> Self {
        Self::Peer(PeerError::Record(error))
    }
}
