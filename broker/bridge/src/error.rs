//! Why a link ends. Nothing is lost by it: the sessions on both sides keep what was not acknowledged.

use veilmq_protocol::{DecodeError, EncodeError, ReasonCode};

use crate::link::Side;

/// Why a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A broker refused the connection.
    #[error("{side} refused the connection: {reason}")]
    Refused {
        /// Which one.
        side: Side,
        /// Its answer.
        reason: ReasonCode,
    },
    /// A broker ended the connection with DISCONNECT.
    #[error("{side} ended the connection: {reason}")]
    Disconnected {
        /// Which one.
        side: Side,
        /// Why.
        reason: ReasonCode,
    },
    /// A broker cannot take messages for now.
    #[error("{side} cannot take messages for now: {reason}")]
    Overloaded {
        /// Which one.
        side: Side,
        /// Its answer.
        reason: ReasonCode,
    },
    /// A broker sent what is not MQTT.
    #[error("{side} sent a malformed packet: {error}")]
    Malformed {
        /// Which one.
        side: Side,
        /// The fault.
        error: DecodeError,
    },
    /// A broker sent a packet that it must not send then.
    #[error("{side} sent {packet}, which it must not send now")]
    Unexpected {
        /// Which one.
        side: Side,
        /// The packet.
        packet: &'static str,
    },
    /// A packet cannot be passed on.
    #[error("a packet for {side} cannot be written: {error}")]
    Unwritable {
        /// For which broker.
        side: Side,
        /// Why not.
        error: EncodeError,
    },
    /// No message has crossed for as long as the bridge is to wait for one.
    #[error("no message has crossed lately")]
    Idle,
    /// A broker has not answered in time.
    #[error("{side} has not answered {packet} in time")]
    Silent {
        /// Which one.
        side: Side,
        /// What it owes an answer to.
        packet: &'static str,
    },
}
