//! How a link ends for want of messages: with this broker first, so that nothing is taken from it that could not cross any more.
//!
//! Invariant: nothing is written to this broker behind DISCONNECT ([MQTT-3.14.4-2]), and no message is acknowledged that has not crossed.

use veilmq_protocol::{Disconnect, Packet, ReasonCode};

use crate::error::Fault;
use crate::link::{Link, Side};

impl Link {
    /// When a link that is to end without messages does; `None` while anything is under way: whoever owes an acknowledgement may take
    /// longer than messages stay away.
    pub(crate) fn idle_at(&self) -> Option<u64> {
        let is_at_rest = !self.is_leaving && self.local.is_at_rest() && self.remote.is_at_rest();
        let idle_milliseconds = self.settings.idle_milliseconds.filter(|_| is_at_rest)?;
        Some(self.crossed_at + idle_milliseconds)
    }

    /// Takes farewell of this broker alone: what it has sent at QoS 0 until it hears of that still crosses.
    pub(crate) fn leave(&mut self) -> Result<(), Fault> {
        self.write(Side::Local, &Packet::Disconnect(Disconnect::new(ReasonCode::Success)))?;
        self.local.keep_alive.change(0);
        self.is_leaving = true;
        Err(Fault::Idle)
    }

    /// Says whether a packet means anything any more. What would have to be acknowledged comes again; what the other broker sends at
    /// QoS 0 is as late as if the bridge were gone.
    pub(crate) fn is_too_late(&self, side: Side, packet: &Packet<'_>) -> bool {
        let is_in_time = match packet {
            Packet::Publish(publish) => side == Side::Local && publish.packet_id.is_none(),
            // A careful link sends nothing more before it.
            Packet::PingResp => side == Side::Remote,
            _ => false,
        };
        self.is_leaving && !is_in_time
    }
}
