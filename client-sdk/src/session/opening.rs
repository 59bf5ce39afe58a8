//! From CONNECT to CONNACK: plain, or through the SIGMA handshake of a VEIL-1 channel (VEIL-1 section 4).
//!
//! Invariant: with a channel asked for, no CONNACK opens the session whose tag was not verified.

use veilmq_protocol::{
    Auth, ConnAck, EncodeError, Packet, PacketType, ProtocolVersion, ReasonCode,
    veil::{
        channel::{AwaitServerFinish, AwaitServerHello, ClientHelloConfig, ClientStart, Established},
        registry::AUTHENTICATION_METHOD,
    },
};

use super::{ChannelOptions, CloseReason, Now, SessionOptions};
use crate::message::Will;

pub(super) enum Opening {
    Plain,
    AwaitServerHello(Box<AwaitServerHello>),
    AwaitServerFinish(Box<AwaitServerFinish>),
}

/// How the session is to speak from here on.
pub(super) enum Opened {
    Plain,
    Channel(Box<Established>),
}

/// Makes the CONNECT packet.
pub(super) fn connect(
    options: &SessionOptions,
    clean_start: bool,
    will: Option<&Will>,
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
    };
    let (start, hello) =
        ClientStart::new(&config, entropy).map_err(|_| EncodeError::TooLong("list of suites"))?;
    let packet = options.connect_packet(clean_start, will, Some(&hello))?;
    let opening = Opening::AwaitServerHello(Box::new(start.sent_connect(&packet)));
    Ok((packet, opening))
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
    /// Handles AUTH: verifies the broker and answers with the ClientFinish.
    pub(super) fn auth(
        self,
        auth: &Auth<'_>,
        options: &SessionOptions,
        now: Now,
    ) -> Result<(Vec<u8>, Self), CloseReason> {
        let (Self::AwaitServerHello(state), Some(channel)) = (self, &options.channel) else {
            return Err(CloseReason::Unexpected(PacketType::Auth));
        };
        // [MQTT-4.12.0-2], [MQTT-4.12.0-5]
        let (ReasonCode::ContinueAuthentication, Some(AUTHENTICATION_METHOD)) = (auth.reason, auth.method)
        else {
            return Err(CloseReason::Unexpected(PacketType::Auth));
        };
        let (answer, next) = prove(*state, auth, channel, now)?;
        Ok((answer, Self::AwaitServerFinish(Box::new(next))))
    }

    /// Handles CONNACK; `bytes` is the whole packet.
    pub(super) fn connack(self, connack: &ConnAck<'_>, bytes: &[u8]) -> Result<Opened, CloseReason> {
        if connack.reason != ReasonCode::Success {
            let text = connack.properties.reason_string.map(str::to_owned);
            return Err(CloseReason::Refused { reason: connack.reason, text });
        }
        match self {
            Self::Plain => Ok(Opened::Plain),
            // An answer without proof would be a downgrade.
            Self::AwaitServerHello(_) => Err(CloseReason::NotAuthenticated),
            Self::AwaitServerFinish(state) => {
                let channel = state.handle(bytes)?;
                if channel.scheme.is_framed() {
                    Ok(Opened::Channel(Box::new(channel)))
                } else {
                    Ok(Opened::Plain)
                }
            }
        }
    }
}
