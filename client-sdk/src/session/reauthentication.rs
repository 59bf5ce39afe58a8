//! Re-authentication on an open channel (VEIL-1 section 4.8): both sides prove once more who they are, and change keys.
//!
//! Other packets flow meanwhile. Invariants: at most one exchange is under way, with a deadline for each answer of the broker; the
//! sending keys are not changed otherwise between the client's proof and the switch.

use std::sync::Arc;

use thiserror::Error;
use veilmq_protocol::{
    Auth, EncodeError, PacketType, ReasonCode,
    veil::{
        CertificateError, Kid,
        channel::{
            AwaitServerFinish, AwaitServerHello, ClientStart, HandshakeError, Identity, Predecessor,
            Resumption,
        },
        registry::AUTHENTICATION_METHOD,
    },
};

use super::{
    Now,
    core::{Core, Phase},
    event::{CloseReason, Event},
    opening::{auth_packet, prove},
};

/// Why a re-authentication could not begin; the connection is as it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReauthenticationError {
    /// There is no connection. A new identity is kept for the next.
    #[error("not connected")]
    NotConnected,
    /// The connection has no VEIL-1 channel with records.
    #[error("the connection has no VEIL-1 channel")]
    NoChannel,
    /// An earlier one is not finished.
    #[error("a re-authentication is under way")]
    UnderWay,
    /// The identity has another key than the one the channel was made with.
    #[error("the new identity is {got}, and the channel was made by {expected}")]
    OtherIdentity {
        /// Whose identity was given.
        got: Kid,
        /// Who connected.
        expected: Kid,
    },
    /// The first message is no valid packet.
    #[error("cannot send: {0}")]
    Unencodable(#[from] EncodeError),
}

/// What an open channel keeps for its re-authentication.
pub(super) struct Reauthentication {
    predecessor: Predecessor,
    exchange: Option<Exchange>,
}

/// An exchange, named after what it waits for.
enum Exchange {
    AwaitServerHello(Box<AwaitServerHello>),
    AwaitServerFinish(Box<AwaitServerFinish>),
}

impl Reauthentication {
    pub(super) const fn new(predecessor: Predecessor) -> Self {
        Self { predecessor, exchange: None }
    }

    /// A ticket that came over the channel.
    pub(super) fn resumption(&self, ticket: &[u8]) -> Option<Resumption> {
        self.predecessor.resumption(ticket)
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.exchange.is_some()
    }
}

impl Core {
    /// Takes another certificate of the same key, for this and every later handshake.
    pub(super) fn renew(&mut self, identity: Arc<Identity>) -> Result<(), ReauthenticationError> {
        let channel = self.options.channel.as_mut().ok_or(ReauthenticationError::NoChannel)?;
        let (got, expected) = (identity.kid(), channel.identity.kid());
        if got != expected {
            return Err(ReauthenticationError::OtherIdentity { got, expected });
        }
        channel.identity = identity;
        Ok(())
    }

    /// Goes by what was revoked, for this channel and for those to come.
    pub(super) fn revoke(&mut self, revoked: &[(Kid, u64)]) -> Result<(), CloseReason> {
        let Some(channel) = &mut self.options.channel else { return Ok(()) };
        let trust = Arc::make_mut(&mut channel.trust);
        for (issuer, serial) in revoked {
            trust.revoke(*issuer, *serial);
        }
        match self.broker {
            Some((issuer, serial)) if !trust.vouch_for(issuer, serial) => {
                Err(HandshakeError::from(CertificateError::Revoked { issuer, serial }).into())
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn reauthenticate(
        &mut self,
        now: Now,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), ReauthenticationError> {
        let channel = self.options.channel.as_ref().ok_or(ReauthenticationError::NoChannel)?;
        if !matches!(self.phase, Phase::Open) {
            return Err(ReauthenticationError::NotConnected);
        }
        let state = self.reauthentication.as_mut().ok_or(ReauthenticationError::NoChannel)?;
        if state.is_under_way() {
            return Err(ReauthenticationError::UnderWay);
        }
        let (start, hello) =
            ClientStart::again(&state.predecessor, channel.anchor(), Some(now.unix_ms), entropy)
                .map_err(|_| EncodeError::TooLong("list of suites"))?;
        // [MQTT-4.12.1-1]
        let packet = auth_packet(ReasonCode::ReAuthenticate, &hello)?;
        let awaiting = start.sent_auth(&state.predecessor, &packet);
        state.exchange = Some(Exchange::AwaitServerHello(Box::new(awaiting)));
        self.output.encoded(&packet);
        self.timers.auth = Some(now.monotonic_ms + self.options.answer_ms);
        Ok(())
    }

    /// Handles AUTH on an open connection; `bytes` is the whole packet.
    pub(super) fn handle_auth(&mut self, auth: &Auth<'_>, bytes: &[u8], now: Now) -> Result<(), CloseReason> {
        let unexpected = CloseReason::Unexpected(PacketType::Auth);
        let exchange = self.reauthentication.as_mut().and_then(|state| state.exchange.take());
        let (Some(exchange), Some(channel)) = (exchange, &self.options.channel) else {
            return Err(unexpected);
        };
        // [MQTT-4.12.0-5], [MQTT-4.12.1-2]
        if auth.method != Some(AUTHENTICATION_METHOD) {
            return Err(unexpected);
        }
        match (exchange, auth.reason) {
            (Exchange::AwaitServerHello(state), ReasonCode::ContinueAuthentication) => {
                let (answer, next) = prove(*state, auth, channel, now)?;
                self.output.encoded(&answer);
                self.output.bar_rekey();
                self.timers.rekey = None;
                self.timers.auth = Some(now.monotonic_ms + self.options.answer_ms);
                if let Some(state) = &mut self.reauthentication {
                    state.exchange = Some(Exchange::AwaitServerFinish(Box::new(next)));
                }
                Ok(())
            }
            (Exchange::AwaitServerFinish(state), ReasonCode::Success) => {
                let mut established = state.handle_auth(bytes)?;
                if established.has_weak_groups && !channel.weak_groups {
                    return Err(CloseReason::WeakGroup);
                }
                self.resumption = established.take_resumption();
                self.broker = Some((established.peer.issuer(), established.peer.serial));
                let (sealer, opener, predecessor) = established.into_parts();
                self.timers.rekey = Some(now.monotonic_ms + channel.rekey_ms);
                self.timers.auth = None;
                self.output.switch_to(sealer);
                self.opener = Some(opener);
                self.reauthentication = Some(Reauthentication::new(predecessor));
                self.events.push_back(Event::Reauthenticated);
                Ok(())
            }
            _ => Err(unexpected),
        }
    }
}
