//! One exchange of QoS 1 or 2 with a client: how far it has come, and what is sent next.
//!
//! Its invariants are those of the module `outbound`, which owns all exchanges of a session.

use veilmq_protocol::PacketId;

use crate::id::MessageId;
use crate::record::Stage;
use crate::waiting::{Delivery, Waiting};

/// A QoS 1 or 2 delivery that has a Packet Identifier.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) delivery: Waiting,
    pub(crate) packet_id: PacketId,
    pub(crate) progress: Progress,
    /// PUBLISH has been sent before, on whatever connection: the next one carries DUP ([MQTT-3.3.1-1]).
    pub(crate) sent_before: bool,
    /// The current packet of this exchange has been sent on the current connection.
    pub(crate) sent_now: bool,
    /// It takes one of the client's Receive Maximum: a packet of it was sent on the current connection.
    pub(crate) is_charged: bool,
}

impl InFlight {
    /// Returns how durable storage sees this exchange.
    pub(crate) fn stage(&self) -> Stage {
        match self.progress {
            Progress::Storing | Progress::Published => Stage::Published(self.packet_id),
            Progress::Releasing | Progress::Released => Stage::Released(self.packet_id),
        }
    }

    /// Moves on from waiting for a commit; does nothing if the exchange has moved on otherwise.
    pub(crate) fn after_commit(&self) -> Option<Progress> {
        match self.progress {
            Progress::Storing => Some(Progress::Published),
            Progress::Releasing => Some(Progress::Released),
            Progress::Published | Progress::Released => None,
        }
    }

    /// Tells whether PUBLISH may be sent and has not been sent on the current connection.
    pub(crate) fn awaits_publish(&self) -> bool {
        self.progress == Progress::Published && !self.sent_now
    }

    /// Returns the message that has to be read back before the next packet can be sent.
    pub(crate) fn missing(&self) -> Option<MessageId> {
        match &self.delivery {
            Waiting::Stub(stub) if self.awaits_publish() => Some(stub.id()),
            Waiting::Stub(_) | Waiting::Whole(_) => None,
        }
    }
}

/// The next packet of an exchange.
#[derive(Debug)]
pub(crate) enum Resend<'a> {
    /// PUBLISH; `dup` if it went out before.
    Publish { delivery: &'a Delivery, packet_id: PacketId, dup: bool },
    /// PUBREL.
    Release(PacketId),
    /// PUBLISH, whose message has to be read back first. Nothing may overtake it.
    Missing,
}

/// How far an exchange has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// PUBLISH waits until its identifier is durable: at QoS 2, and at QoS 1 behind such a one.
    Storing,
    /// PUBLISH may be sent; awaiting PUBACK or PUBREC ([MQTT-4.3.2-3], [MQTT-4.3.3-3]).
    Published,
    /// PUBREC arrived; PUBREL waits until that is durable. The PUBLISH is not sent again ([MQTT-4.3.3-6]).
    Releasing,
    /// PUBREL may be sent; awaiting PUBCOMP ([MQTT-4.3.3-5]).
    Released,
}
