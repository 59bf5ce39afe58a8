//! What clients answer to our PUBLISH packets: PUBACK, PUBREC and PUBCOMP.

use veilmq_protocol::{Acknowledgement, Packet, QoS, ReasonCode};

use super::Shard;
use crate::connection::Connection;
use crate::farewell::{CloseReason, PeerError};
use crate::id::ConnectionId;
use crate::in_flight::Progress;
use crate::record::{Record, Stage};
use crate::time::Moment;

impl Shard {
    /// Handles PUBACK: the QoS 1 exchange is over, whatever its Reason Code ([MQTT-4.4.0-2]).
    pub(super) fn puback_received(
        &mut self,
        connection: ConnectionId,
        ack: &Acknowledgement<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let Some(state) = self.session_on(connection) else { return Ok(()) };
        let session = state.id;
        match state.outbound.exchange(ack.packet_id).map(|entry| entry.delivery.qos()) {
            // An identifier we do not know is left over from an earlier connection.
            None => return Ok(()),
            Some(QoS::ExactlyOnce) => {
                return Err(PeerError::Protocol("PUBACK answers a QoS 2 PUBLISH").into());
            }
            Some(QoS::AtMostOnce | QoS::AtLeastOnce) => self.finish(session, ack.packet_id),
        }
        self.pump(session, now);
        Ok(())
    }

    /// Handles PUBREC: the client owns the message; an error ends the exchange ([MQTT-4.3.3-4], [MQTT-4.4.0-2]).
    pub(super) fn pubrec_received(
        &mut self,
        connection: ConnectionId,
        ack: &Acknowledgement<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let packet_id = ack.packet_id;
        let Some(state) = self.session_on(connection) else { return Ok(()) };
        let session = state.id;
        let Some(entry) = state.outbound.exchange(packet_id) else {
            // A client that refuses has nothing to be released from.
            if ack.reason.is_error() {
                return Ok(());
            }
            let unknown = Acknowledgement::new(packet_id, ReasonCode::PacketIdentifierNotFound);
            if let Some(Connection::Established(established)) = self.connections.get_mut(&connection) {
                self.outgoing.send_explained(established, &Packet::PubRel(unknown), None);
            }
            return Ok(());
        };
        if entry.delivery.qos() != QoS::ExactlyOnce {
            return Err(PeerError::Protocol("PUBREC answers a QoS 1 PUBLISH").into());
        }
        // [MQTT-4.8.2-6] What one member of a Shared Subscription refuses goes to no other.
        if ack.reason.is_error() {
            self.finish(session, packet_id);
        } else if entry.progress == Progress::Released {
            // The client repeats itself, so PUBREL may be lost: it is sent again.
            state.outbound.advance(packet_id, Progress::Released);
        } else if entry.progress == Progress::Published {
            let stored = entry.delivery.stored_id();
            let reference = entry.delivery.reference(session, Stage::Released(packet_id));
            match stored {
                // PUBREL makes the client forget the identifier: a crash must not bring the PUBLISH back.
                Some(message) => {
                    state.outbound.advance(packet_id, Progress::Releasing);
                    self.records.push(Record::Advanced { reference, message });
                    self.proceed_when_stored(session, packet_id);
                }
                None => state.outbound.advance(packet_id, Progress::Released),
            }
        }
        self.pump(session, now);
        Ok(())
    }

    /// Handles PUBCOMP: the QoS 2 exchange is over.
    pub(super) fn pubcomp_received(
        &mut self,
        connection: ConnectionId,
        ack: &Acknowledgement<'_>,
        now: Moment,
    ) -> Result<(), CloseReason> {
        let Some(state) = self.session_on(connection) else { return Ok(()) };
        let session = state.id;
        match state.outbound.exchange(ack.packet_id).map(|entry| entry.progress) {
            None => return Ok(()),
            Some(Progress::Storing | Progress::Published) => {
                return Err(PeerError::Protocol("PUBCOMP before PUBREC").into());
            }
            Some(Progress::Releasing | Progress::Released) => self.finish(session, ack.packet_id),
        }
        self.pump(session, now);
        Ok(())
    }
}
