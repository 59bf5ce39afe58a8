//! The end of what waits here for a bridge that is there no more.

use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::warn;
use veilmq_core::BridgeErrand;
use veilmq_protocol::{
    Connect, ConnectProperties, Disconnect, Packet, ProtocolVersion, ReasonCode, next_frame,
};

use super::door::Door;

/// How long this broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// A CONNACK of this broker is smaller.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Ends the session that a bridge had on this broker; `false`, with a warning, if it stays.
pub(super) async fn end_session(door: &Door, bridge: &Arc<str>, client_id: &str) -> bool {
    let reason = match timeout(ANSWER_MAX, take_over(door, bridge, client_id)).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "this broker has not answered CONNECT in time".to_owned(),
    };
    warn!(bridge = &**bridge, client_id, reason, "the session of the bridge stays until it expires");
    false
}

/// [MQTT-3.1.2-4] Clean Start discards the session that was there, and the new one ends with the connection.
async fn take_over(door: &Door, bridge: &Arc<str>, client_id: &str) -> io::Result<()> {
    let connect = Connect {
        version: ProtocolVersion::V5,
        bridge: false,
        clean_start: true,
        keep_alive_seconds: 0,
        client_id,
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties {
            session_expiry_seconds: Some(0),
            receive_maximum: NonZeroU16::new(1),
            ..ConnectProperties::default()
        },
    };
    let mut socket = door.connect(bridge, BridgeErrand::default(), false).await?;
    let mut bytes = BytesMut::new();
    write(&Packet::Connect(connect), &mut bytes)?;
    socket.write_all(&bytes.split()).await?;
    let reason = loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if let Some((frame, _)) = next_frame(&bytes, ANSWER_BYTES_MAX).map_err(io::Error::other)? {
            match Packet::decode(frame, ProtocolVersion::V5).map_err(io::Error::other)? {
                Packet::ConnAck(answer) => break answer.reason,
                other => return Err(io::Error::other(format!("not {}", other.packet_type().name()))),
            }
        }
    };
    if reason != ReasonCode::Success {
        return Err(io::Error::other(reason.to_string()));
    }
    bytes.clear();
    write(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)), &mut bytes)?;
    socket.write_all(&bytes).await?;
    // The broker closes once it has seen DISCONNECT.
    while socket.read_buf(&mut bytes).await? > 0 {}
    Ok(())
}

fn write(packet: &Packet<'_>, bytes: &mut BytesMut) -> io::Result<()> {
    packet.encode(ProtocolVersion::V5, bytes).map_err(io::Error::other)
}
