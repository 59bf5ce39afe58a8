//! From bytes to packets: framing, records, and the dispatch of an established connection's packets.

use veilmq_protocol::veil::channel::{Content, OpenedRecord};
use veilmq_protocol::veil::record::RECORD_OVERHEAD_MAX;
use veilmq_protocol::{
    Acknowledgement, Disconnect, Frame, Packet, PacketType, ProtocolVersion, Publish, ReasonCode, next_frame,
};

use super::Shard;
use super::verdict::UNREAD_BYTES_MAX;
use crate::connection::{Connection, Next};
use crate::effect::Effect;
use crate::farewell::{CloseReason, Departure, PeerError};
use crate::id::ConnectionId;
use crate::time::{Environment, Moment};

/// Each time so many bytes of one packet have come, its client has been heard.
const PROGRESS_BYTES: usize = 1_024;

impl Shard {
    /// Takes in bytes from the network.
    pub(super) fn received(
        &mut self,
        connection: ConnectionId,
        bytes: &mut [u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.stats.bytes_received(bytes.len());
        self.take_in(connection, bytes, environment, effects);
    }

    /// Handles every whole packet, and keeps the rest until more arrives.
    pub(super) fn take_in(
        &mut self,
        connection: ConnectionId,
        bytes: &mut [u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((mut partial, heard_before)) = self.take_partial(connection, environment) else { return };
        let had_bytes = partial.len();
        if partial.is_empty() {
            let left = self.process(connection, bytes, environment, effects);
            if let Some(rest) = left.and_then(|position| bytes.get(position..)) {
                if left == Some(0) {
                    self.forget_crumbs(connection, (0, rest.len()), heard_before);
                }
                self.keep_partial(connection, rest.to_vec());
            }
            return;
        }
        partial.extend_from_slice(bytes);
        match self.process(connection, &mut partial, environment, effects) {
            None => {}
            // A packet that grows is not copied again with every read.
            Some(0) => {
                self.forget_crumbs(connection, (had_bytes, partial.len()), heard_before);
                self.keep_partial(connection, partial);
            }
            // A short rest does not keep the buffer of a large packet.
            Some(position) => self.keep_partial(connection, partial.split_off(position)),
        }
    }

    /// Takes what came of a packet before, and says when the client was heard before now.
    fn take_partial(
        &mut self,
        connection: ConnectionId,
        environment: &Environment<'_>,
    ) -> Option<(Vec<u8>, Moment)> {
        let now = environment.now;
        Some(match self.connections.get_mut(&connection)? {
            Connection::Opening(opening) => (std::mem::take(&mut opening.partial), now),
            Connection::Proving(proving) => (std::mem::take(&mut proving.partial), now),
            Connection::Established(established) => {
                let heard_before = std::mem::replace(&mut established.last_received, now);
                (std::mem::take(&mut established.partial), heard_before)
            }
        })
    }

    /// Does not take a client for heard of whose packet so many bytes were there, and are now, unless that is progress.
    ///
    /// [MQTT-3.1.2-22] Only packets count. A large one on a slow link may take longer than the keep alive, so its parts count too;
    /// a client that sends a byte now and then to hold its place is silent.
    fn forget_crumbs(
        &mut self,
        connection: ConnectionId,
        (before, after): (usize, usize),
        heard_before: Moment,
    ) {
        if before / PROGRESS_BYTES == after / PROGRESS_BYTES
            && let Some(Connection::Established(established)) = self.connections.get_mut(&connection)
        {
            established.last_received = heard_before;
        }
    }

    /// Handles whole packets; returns where one begins that has not arrived in full.
    fn process(
        &mut self,
        connection: ConnectionId,
        bytes: &mut [u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Option<usize> {
        let mut position = 0;
        while let Some(rest) = bytes.get_mut(position..)
            && !rest.is_empty()
        {
            match self.step(connection, rest, environment, effects) {
                Ok(Step::Consumed(consumed)) => position += consumed,
                Ok(Step::More) => return Some(position),
                Ok(Step::Gone) => return None,
                Err(reason) => {
                    // [MQTT-3.1.4-6], [MQTT-4.13.1-1] What follows the packet at fault is not looked at.
                    self.close(connection, &reason, environment, effects);
                    return None;
                }
            }
        }
        None
    }

    fn keep_partial(&mut self, connection: ConnectionId, bytes: Vec<u8>) {
        match self.connections.get_mut(&connection) {
            Some(Connection::Opening(opening)) => opening.partial = bytes,
            Some(Connection::Proving(proving)) => proving.partial = bytes,
            Some(Connection::Established(established)) => established.partial = bytes,
            None => {}
        }
    }

    /// Handles the next packet or record.
    fn step(
        &mut self,
        connection: ConnectionId,
        bytes: &mut [u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Step, CloseReason> {
        match self.connections.get_mut(&connection) {
            None => Ok(Step::Gone),
            Some(Connection::Opening(_)) => self.step_opening(connection, bytes, environment, effects),
            Some(Connection::Proving(proving)) => {
                let packet_bytes_max = proving.arrival.request.offer.packet_bytes_max;
                let opened = proving.opener().next(bytes, packet_bytes_max + RECORD_OVERHEAD_MAX)?;
                let Some(record) = opened else { return Ok(Step::More) };
                self.proven(connection, environment, effects)?;
                self.record(connection, record, packet_bytes_max, bytes, environment, effects)
            }
            Some(Connection::Established(established)) => {
                let packet_bytes_max = established.offer.packet_bytes_max;
                let Some(channel) = &mut established.channel else {
                    let version = established.wire.version();
                    return match established.wire.published() {
                        None => self.step_packet(
                            connection,
                            version,
                            packet_bytes_max,
                            bytes,
                            environment,
                            effects,
                        ),
                        Some(_) => {
                            self.step_protected(connection, packet_bytes_max, bytes, environment, effects)
                        }
                    };
                };
                let opened = channel.opener.next(bytes, packet_bytes_max + RECORD_OVERHEAD_MAX)?;
                self.stats.channel_operations(&channel.opener.take_operations());
                let Some(record) = opened else { return Ok(Step::More) };
                self.record(connection, record, packet_bytes_max, bytes, environment, effects)
            }
        }
    }

    /// Handles the next packet of a client in property mode, where each PUBLISH has to be authentic (VEIL-1 section 5.3).
    fn step_protected(
        &mut self,
        connection: ConnectionId,
        packet_bytes_max: usize,
        bytes: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Step, CloseReason> {
        let Some((frame, consumed)) = next_frame(bytes, packet_bytes_max)? else {
            return Ok(Step::More);
        };
        if frame.packet_type() != PacketType::Publish {
            return self.step_packet(
                connection,
                ProtocolVersion::V5,
                packet_bytes_max,
                bytes,
                environment,
                effects,
            );
        }
        self.stats.packet_received(PacketType::Publish);
        let Some(opener) = self.established(connection).and_then(|state| state.wire.published()) else {
            return Ok(Step::Gone);
        };
        let opened = opener.open(frame);
        let made = opener.take_operations();
        self.stats.channel_operations(&made);
        let publish = opened?;
        self.settings.check_user_properties(publish.properties.user.len())?;
        self.publish_received(connection, &publish, environment.now)?;
        Ok(Step::Consumed(consumed))
    }

    /// Handles a record that was opened in `bytes`.
    fn record(
        &mut self,
        connection: ConnectionId,
        record: OpenedRecord,
        packet_bytes_max: usize,
        bytes: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Step, CloseReason> {
        match record.content {
            Content::Packets(range) => {
                let packets = bytes.get(range).unwrap_or_default();
                self.packets_of_record(connection, packet_bytes_max, packets, environment, effects)?;
            }
            // The opener has switched keys; other operations are for clients and change nothing here.
            Content::KeyUpdated | Content::Control(_) => {}
            Content::Fan(_) => {
                return Err(PeerError::Protocol("fan-out records come from the broker only").into());
            }
        }
        if !self.connections.contains_key(&connection) {
            return Ok(Step::Gone);
        }
        Ok(Step::Consumed(record.consumed))
    }

    /// Handles the packets of one record, which holds whole packets only (VEIL-1 section 5.2).
    fn packets_of_record(
        &mut self,
        connection: ConnectionId,
        packet_bytes_max: usize,
        packets: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let mut position = 0;
        while let Some(rest) = packets.get(position..)
            && !rest.is_empty()
        {
            match self.step_packet(
                connection,
                ProtocolVersion::V5,
                packet_bytes_max,
                rest,
                environment,
                effects,
            )? {
                Step::Consumed(consumed) => position += consumed,
                Step::More => return Err(PeerError::Protocol("a record ends within a packet").into()),
                Step::Gone => return Ok(()),
            }
        }
        Ok(())
    }

    fn step_opening(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Step, CloseReason> {
        let Some(Connection::Opening(opening)) = self.connections.get_mut(&connection) else {
            return Ok(Step::Gone);
        };
        let bytes_max = self.settings.connect_packet_bytes_max.min(opening.offer.packet_bytes_max);
        if opening.awaits_verdict() {
            let (bytes, maximum) = (bytes.len(), bytes_max.max(UNREAD_BYTES_MAX));
            return if bytes > maximum {
                Err(PeerError::Impatient { bytes, maximum }.into())
            } else {
                Ok(Step::More)
            };
        }
        let next = next_frame(bytes, bytes_max).inspect_err(|_| opening.listen_for_version(bytes));
        let Some((frame, consumed)) = next? else { return Ok(Step::More) };
        self.stats.packet_received(frame.packet_type());
        let was_half_open = opening.is_half_open();
        let join_over_at = opening.join_over_at();
        let written_before = opening.outbox.len_bytes();
        let next = opening.handle(frame, &bytes[..consumed], &self.shared, environment);
        let still_half_open = opening.is_half_open();
        let written = opening.outbox.len_bytes() - written_before;
        match next {
            Ok(Next::Continue) => {
                self.count_sent(PacketType::Auth, written);
                self.outgoing.dirty.push(connection);
                Ok(Step::Consumed(consumed))
            }
            Ok(Next::Acknowledged) => Ok(Step::Consumed(consumed)),
            Ok(Next::Verify(credentials)) => {
                effects.push(Effect::Verify { connection, credentials });
                Ok(Step::Consumed(consumed))
            }
            Ok(Next::Join(arrival, request)) => {
                let unread = &bytes[consumed..];
                self.begin_join(connection, arrival, &request, unread, environment, effects);
                match self.connections.get(&connection) {
                    Some(Connection::Opening(_)) => Ok(Step::Consumed(consumed)),
                    Some(Connection::Proving(_) | Connection::Established(_)) | None => Ok(Step::Gone),
                }
            }
            Ok(Next::Arrive(arrival)) => {
                self.connections.remove(&connection);
                let unread = &bytes[consumed..];
                match join_over_at {
                    None => self.opened(arrival, unread, environment, effects),
                    over_at => {
                        self.disarm_join(connection, over_at);
                        self.joined(arrival, unread, environment, effects);
                    }
                }
                Ok(Step::Gone)
            }
            Err(reason) => {
                // One that is still half open is counted when the connection is refused.
                let failed = was_half_open || matches!(reason, CloseReason::Peer(PeerError::Handshake(_)));
                if failed && !still_half_open {
                    self.stats.handshake(false);
                }
                Err(reason)
            }
        }
    }

    fn step_packet(
        &mut self,
        connection: ConnectionId,
        version: ProtocolVersion,
        packet_bytes_max: usize,
        bytes: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Step, CloseReason> {
        // [MQTT-3.2.2-15]
        let Some((frame, consumed)) = next_frame(bytes, packet_bytes_max)? else {
            return Ok(Step::More);
        };
        self.packet(
            connection,
            version,
            frame,
            bytes.get(..consumed).unwrap_or_default(),
            environment,
            effects,
        )?;
        // No other packet closes the connection, unless it is refused.
        Ok(if frame.packet_type() == PacketType::Disconnect { Step::Gone } else { Step::Consumed(consumed) })
    }

    fn packet(
        &mut self,
        connection: ConnectionId,
        version: ProtocolVersion,
        frame: Frame<'_>,
        packet_bytes: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let got = frame.packet_type();
        self.stats.packet_received(got);
        let now = environment.now;
        // [MQTT-3.1.0-2] A second CONNECT is a Protocol Error, whatever it says, and so is what a server sends.
        if got == PacketType::Connect || is_for_clients(got) {
            return Err(PeerError::Unexpected { got }.into());
        }
        // What comes with each message is not put into the sum of all packets first, which is large.
        match got {
            PacketType::Publish => {
                let publish = Publish::decode(frame, version)?;
                self.settings.check_user_properties(publish.properties.user.len())?;
                self.publish_received(connection, &publish, now)
            }
            PacketType::PubAck => {
                self.puback_received(connection, &self.acknowledgement(frame, version)?, now)
            }
            PacketType::PubRec => {
                self.pubrec_received(connection, &self.acknowledgement(frame, version)?, now)
            }
            PacketType::PubRel => {
                self.pubrel_received(connection, &self.acknowledgement(frame, version)?, now)
            }
            PacketType::PubComp => {
                self.pubcomp_received(connection, &self.acknowledgement(frame, version)?, now)
            }
            PacketType::Connect
            | PacketType::ConnAck
            | PacketType::Subscribe
            | PacketType::SubAck
            | PacketType::Unsubscribe
            | PacketType::UnsubAck
            | PacketType::PingReq
            | PacketType::PingResp
            | PacketType::Disconnect
            | PacketType::Auth => {
                self.other_packet(connection, version, frame, packet_bytes, environment, effects)
            }
        }
    }

    fn acknowledgement<'a>(
        &self,
        frame: Frame<'a>,
        version: ProtocolVersion,
    ) -> Result<Acknowledgement<'a>, CloseReason> {
        let acknowledgement = Acknowledgement::decode(frame, version)?;
        self.settings.check_user_properties(acknowledgement.user.len())?;
        Ok(acknowledgement)
    }

    /// Handles a packet that does not come with each message.
    fn other_packet(
        &mut self,
        connection: ConnectionId,
        version: ProtocolVersion,
        frame: Frame<'_>,
        packet_bytes: &[u8],
        environment: &mut Environment<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let now = environment.now;
        let packet = Packet::decode(frame, version)?;
        self.settings.check_user_properties(packet.user_property_count())?;
        match packet {
            Packet::Subscribe(subscribe) => self.subscribe_received(connection, &subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe_received(connection, &unsubscribe),
            Packet::PingReq => {
                // [MQTT-3.12.4-1]
                self.send(connection, &Packet::PingResp);
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                let reason = self.disconnect_received(connection, &disconnect)?;
                self.close(connection, &reason, environment, effects);
                Ok(())
            }
            Packet::Auth(auth) => self.auth_received(connection, &auth, packet_bytes, environment),
            packet @ (Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::Publish(_)
            | Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp) => Err(Self::unexpected(&packet)),
        }
    }

    /// Takes a DISCONNECT in, and returns how the connection ends.
    fn disconnect_received(
        &mut self,
        connection: ConnectionId,
        disconnect: &Disconnect<'_>,
    ) -> Result<CloseReason, CloseReason> {
        if let Some(expiry_seconds) = disconnect.session_expiry_seconds {
            let maximum = self.settings.session_expiry_seconds_max;
            if let Some(state) = self.session_on(connection) {
                // Section 3.14.2.2.2: a session that was to end with the connection cannot be prolonged now.
                if state.expiry_seconds == 0 && expiry_seconds != 0 {
                    return Err(PeerError::Protocol(
                        "DISCONNECT prolongs a session that had no expiry interval",
                    )
                    .into());
                }
                state.expiry_seconds = expiry_seconds.min(maximum);
            }
        }
        Ok(CloseReason::Departure(match disconnect.reason {
            ReasonCode::Success => Departure::Disconnected,
            // Any other reason leaves the Will in force ([MQTT-3.14.4-3] deletes it for 0x00 only).
            _ => Departure::DisconnectedWithWill,
        }))
    }
}

/// Tells whether only a server sends such packets (table 2-1).
const fn is_for_clients(packet_type: PacketType) -> bool {
    matches!(
        packet_type,
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp
    )
}

/// What handling the next packet came to.
enum Step {
    /// This many bytes are done with.
    Consumed(usize),
    /// The packet or record has not arrived in full.
    More,
    /// The connection is closed, or has moved on with the rest of the bytes.
    Gone,
}
