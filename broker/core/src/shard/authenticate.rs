//! AUTH on an established connection: a client proves once more who it is, and both sides change keys (section 4.12.1; VEIL-1
//! section 4.8). Other packets flow meanwhile.

use std::sync::Arc;

use veilmq_protocol::veil::registry::AUTHENTICATION_METHOD;
use veilmq_protocol::{Auth, Packet, PacketType, ReasonCode};

use super::Shard;
use crate::connection::auth_packet;
use crate::farewell::{CloseReason, PeerError};
use crate::id::ConnectionId;
use crate::time::Environment;

impl Shard {
    /// Takes an AUTH in; `packet_bytes` is all of it, from the fixed header on.
    pub(super) fn auth_received(
        &mut self,
        connection: ConnectionId,
        auth: &Auth<'_>,
        packet_bytes: &[u8],
        environment: &mut Environment<'_>,
    ) -> Result<(), CloseReason> {
        // [MQTT-4.12.0-7] Without a method in CONNECT there is no AUTH.
        if self.established(connection).is_none_or(|established| established.channel.is_none()) {
            return Err(Self::unexpected(&Packet::Auth(*auth)));
        }
        // [MQTT-4.12.1-1]
        if auth.method != Some(AUTHENTICATION_METHOD) {
            return Err(PeerError::Protocol("AUTH must keep the method of CONNECT").into());
        }
        // [MQTT-4.12.1-2] What fails here ends the connection with DISCONNECT.
        match auth.reason {
            ReasonCode::ReAuthenticate => self.reauthenticate(connection, auth, packet_bytes, environment),
            ReasonCode::ContinueAuthentication => self.client_finish(connection, auth, environment),
            _ => Err(PeerError::Protocol("AUTH of a client begins or continues").into()),
        }
    }

    fn reauthenticate(
        &mut self,
        connection: ConnectionId,
        auth: &Auth<'_>,
        packet_bytes: &[u8],
        environment: &mut Environment<'_>,
    ) -> Result<(), CloseReason> {
        let shared = Arc::clone(&self.shared);
        let Some(established) = self.established(connection) else { return Ok(()) };
        let Some(channel) = &mut established.channel else { return Ok(()) };
        let hello = channel.begin(auth, packet_bytes, &established.peer, &shared, environment)?;
        // [MQTT-4.12.0-5]; without Reason String and User Properties: [MQTT-3.15.2-2], [MQTT-3.15.2-3]
        let answer = Packet::Auth(auth_packet(ReasonCode::ContinueAuthentication, &hello));
        let bytes = established.wire.send(&answer).map_err(|_| PeerError::HANDSHAKE_UNFIT)?;
        self.outgoing.dirty.push(connection);
        self.count_sent(PacketType::Auth, bytes);
        self.arm_established(connection);
        Ok(())
    }

    fn client_finish(
        &mut self,
        connection: ConnectionId,
        auth: &Auth<'_>,
        environment: &mut Environment<'_>,
    ) -> Result<(), CloseReason> {
        let shared = Arc::clone(&self.shared);
        let Some(client_id) = self.session_on(connection).map(|session| Arc::clone(&session.client_id))
        else {
            return Ok(());
        };
        let Some(established) = self.established(connection) else { return Ok(()) };
        let Some(channel) = &mut established.channel else { return Ok(()) };
        let packet_bytes_max = established.offer.packet_bytes_max;
        let done = channel.finish(auth, &client_id, packet_bytes_max, &shared, environment)?;
        established.proof_over_at = Some(done.certificate_over_at);
        established
            .wire
            .switch_after(&done.auth, done.sealer, environment.now)
            .map_err(|_| PeerError::HANDSHAKE_UNFIT)?;
        if let Some(state) = self.session_on(connection) {
            state.identity = Some(done.identity);
        }
        tracing::info!(connection = connection.0, client = &*client_id, "re-authenticated");
        self.stats.handshake(true);
        self.outgoing.dirty.push(connection);
        self.count_sent(PacketType::Auth, done.auth.len());
        self.arm_established(connection);
        Ok(())
    }
}
