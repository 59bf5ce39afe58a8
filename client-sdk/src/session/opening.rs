//! From CONNECT to CONNACK: plain, or through one of the handshakes of a VEIL-1 channel (VEIL-1 section 4).
//!
//! Invariant: with a channel asked for, no CONNACK opens the session whose tag was not verified.

use veilmq_protocol::{
    Auth, ConnAck, EncodeError, Packet, PacketType, ProtocolVersion, ReasonCode,
    veil::{
        channel::{
            AwaitCompactAnswer, AwaitResumeAnswer, AwaitServerFinish, AwaitServerHello, ClientHelloConfig,
            ClientStart, CompactStart, Established, HandshakeError, ResumeStart, Resumption,
        },
        hello::{ChannelForm, JoinStatus, Wait},
        registry::AUTHENTICATION_METHOD,
    },
};

use super::{ChannelOptions, CloseReason, Handshake, Now, SessionOptions};
use crate::message::Will;

pub(super) enum Opening {
    Plain,
    AwaitServerHello(Box<AwaitServerHello>),
    AwaitServerFinish(Box<AwaitServerFinish>),
    AwaitCompactAnswer(Box<AwaitCompactAnswer>),
    AwaitResumeAnswer(Box<AwaitResumeAnswer>),
}

/// How the session is to speak from here on.
pub(super) enum Opened {
    Plain,
    Channel {
        established: Box<Established>,
        /// The broker waits for a record before it gives the client its session (VEIL-1 section 4.6).
        is_proven: bool,
    },
}

impl Opened {
    /// Takes what the broker says of the request that went with CONNECT.
    pub(super) fn take_join(&mut self) -> (JoinStatus, Vec<u8>) {
        let join = match self {
            Self::Plain => None,
            Self::Channel { established, .. } => established.params.join.take(),
        };
        join.unwrap_or((JoinStatus::None, Vec::new()))
    }
}

/// Makes the CONNECT packet, from what was kept of an earlier channel, and with a JOIN_REQ if there is one.
pub(super) fn connect(
    options: &SessionOptions,
    clean_start: bool,
    will: Option<&Will>,
    (resumption, join_request): (Option<Resumption>, Option<Vec<u8>>),
    now: Now,
    entropy: &mut dyn FnMut(&mut [u8]),
) -> Result<(Vec<u8>, Opening), EncodeError> {
    let Some(channel) = &options.channel else {
        return Ok((options.connect_packet(clean_start, will, None)?, Opening::Plain));
    };
    let config = ClientHelloConfig {
        schemes: channel.schemes,
        suites: &channel.suites,
        anchor: channel.anchor(),
        now_unix_ms: Some(now.unix_ms),
        form: ChannelForm::Records,
        join_request: join_request.as_deref(),
    };
    let packet = |hello: &[u8]| options.connect_packet(clean_start, will, Some(hello));
    if let Some(resumption) = resumption.filter(|resumption| is_usable(resumption, channel, now)) {
        let (start, hello) =
            ResumeStart::new(&config, resumption, entropy).map_err(|error| unencodable(&error))?;
        let mut packet = packet(&hello)?;
        let awaiting = start.bind_connect(&mut packet).map_err(|error| unencodable(&error))?;
        return Ok((packet, Opening::AwaitResumeAnswer(Box::new(awaiting))));
    }
    match channel.handshake {
        Handshake::Sigma => {
            let (start, hello) = ClientStart::new(&config, entropy).map_err(|error| unencodable(&error))?;
            let packet = packet(&hello)?;
            let opening = Opening::AwaitServerHello(Box::new(start.sent_connect(&packet)));
            Ok((packet, opening))
        }
        Handshake::Compact => {
            let identity = &channel.identity;
            let broker = channel.broker.as_deref().ok_or(EncodeError::Missing("broker name"))?;
            let (start, hello) =
                CompactStart::new(&config, identity, broker, entropy).map_err(|error| unencodable(&error))?;
            let mut packet = packet(&hello)?;
            let awaiting = start.sign_connect(identity, &mut packet).map_err(|error| unencodable(&error))?;
            Ok((packet, Opening::AwaitCompactAnswer(Box::new(awaiting))))
        }
    }
}

/// Says whether a channel that was made once would be made again: the options and what is trusted may have changed.
fn is_usable(resumption: &Resumption, channel: &ChannelOptions, now: Now) -> bool {
    let (scheme, suite) = resumption.protection();
    channel.resume
        && channel.schemes.contains(scheme)
        && channel.suites.contains(&suite)
        && resumption
            .check_broker(&channel.trust, channel.broker.as_deref(), Some(now.unix_ms / 1_000))
            .is_ok()
}

/// What keeps a handshake from beginning is in the options: a list or a name that is too long.
fn unencodable(error: &HandshakeError) -> EncodeError {
    match error {
        HandshakeError::Encode(_) => EncodeError::TooLong("handshake"),
        _ => EncodeError::OutOfRange("handshake"),
    }
}

/// Verifies the broker by the ServerHello in its AUTH, and makes the AUTH with the ClientFinish.
pub(super) fn prove(
    state: AwaitServerHello,
    auth: &Auth<'_>,
    channel: &ChannelOptions,
    now: Now,
) -> Result<(Vec<u8>, AwaitServerFinish), CloseReason> {
    let (finish, next) = state.handle(
        auth.data.unwrap_or_default(),
        &channel.identity,
        &channel.trust,
        channel.broker.as_deref(),
        Some(now.unix_ms / 1_000),
    )?;
    Ok((auth_packet(ReasonCode::ContinueAuthentication, &finish)?, next))
}

/// The AUTH that carries a message of the handshake.
pub(super) fn auth_packet(reason: ReasonCode, data: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let packet = Packet::Auth(Auth {
        reason,
        method: Some(AUTHENTICATION_METHOD),
        data: Some(data),
        ..Auth::default()
    });
    let mut bytes = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut bytes)?;
    Ok(bytes)
}

impl Opening {
    /// Answers WAIT, if this client has shown who it is and `is_asking` for keys: the broker is asking their issuer.
    pub(super) fn wait(&self, auth: &Auth<'_>, is_asking: bool) -> Option<Result<Vec<u8>, EncodeError>> {
        let may_wait = match self {
            Self::AwaitCompactAnswer(_) | Self::AwaitResumeAnswer(_) | Self::AwaitServerFinish(_) => {
                is_asking
            }
            Self::Plain | Self::AwaitServerHello(_) => false,
        };
        // [MQTT-4.12.0-2], [MQTT-4.12.0-5]
        let is_wait = auth.reason == ReasonCode::ContinueAuthentication
            && auth.method == Some(AUTHENTICATION_METHOD)
            && Wait::Asked.is(auth.data.unwrap_or_default());
        (may_wait && is_wait)
            .then(|| auth_packet(ReasonCode::ContinueAuthentication, &Wait::Acknowledged.to_bytes()))
    }

    /// Handles AUTH: verifies the broker and answers with the ClientFinish. A broker that does not take the ticket goes on as if
    /// there were none.
    pub(super) fn auth(
        self,
        auth: &Auth<'_>,
        options: &SessionOptions,
        now: Now,
    ) -> Result<(Vec<u8>, Self), CloseReason> {
        let unexpected = CloseReason::Unexpected(PacketType::Auth);
        let Some(channel) = &options.channel else { return Err(unexpected) };
        let state = match self {
            Self::AwaitServerHello(state) => *state,
            Self::AwaitResumeAnswer(state) => state.without_ticket(),
            Self::Plain | Self::AwaitServerFinish(_) | Self::AwaitCompactAnswer(_) => {
                return Err(unexpected);
            }
        };
        // [MQTT-4.12.0-2], [MQTT-4.12.0-5]
        let (ReasonCode::ContinueAuthentication, Some(AUTHENTICATION_METHOD)) = (auth.reason, auth.method)
        else {
            return Err(unexpected);
        };
        let (answer, next) = prove(state, auth, channel, now)?;
        Ok((answer, Self::AwaitServerFinish(Box::new(next))))
    }

    /// Handles CONNACK; `bytes` is the whole packet.
    pub(super) fn connack(
        self,
        connack: &ConnAck<'_>,
        bytes: &[u8],
        options: &SessionOptions,
        now: Now,
    ) -> Result<Opened, CloseReason> {
        if connack.reason != ReasonCode::Success {
            return Err(self.refused(connack));
        }
        let (established, is_proven) = match self {
            Self::Plain => return Ok(Opened::Plain),
            // An answer without proof would be a downgrade.
            Self::AwaitServerHello(_) => return Err(CloseReason::NotAuthenticated),
            Self::AwaitServerFinish(state) => (state.handle(bytes)?, true),
            Self::AwaitResumeAnswer(state) => (state.handle(bytes)?, false),
            Self::AwaitCompactAnswer(state) => {
                let channel = options.channel.as_ref().ok_or(CloseReason::NotAuthenticated)?;
                (state.handle(bytes, &channel.trust, Some(now.unix_ms / 1_000))?, false)
            }
        };
        Ok(Opened::Channel { established: Box::new(established), is_proven })
    }

    fn refused(&self, connack: &ConnAck<'_>) -> CloseReason {
        let reason = connack.reason;
        // The ticket is used up, so the next attempt is another.
        let because_of_ticket = matches!(
            reason,
            ReasonCode::NotAuthorized | ReasonCode::BadAuthenticationMethod | ReasonCode::ProtocolError
        );
        if matches!(self, Self::AwaitResumeAnswer(_)) && because_of_ticket {
            return CloseReason::TicketRefused(reason);
        }
        CloseReason::Refused { reason, text: connack.properties.reason_string.map(str::to_owned) }
    }
}
