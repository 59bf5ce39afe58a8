//! One MQTT Network Connection of the load generator: a socket, what has arrived and what waits to leave.
//!
//! It knows framing and CONNECT; what packets mean is the business of its user. Everything that is queued in
//! one turn leaves in one write. Invariant: `outbox[sent..]` are whole packets but for the one being written.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use veilmq_protocol::{
    Connect, ConnectProperties, DecodeError, Disconnect, EncodeError, Packet, PacketType, ProtocolVersion,
    ReasonCode, UserProperties, next_frame,
};

/// What ends a connection before its work is done.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("cannot connect to {address}: {source}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker closed the connection: {0}")]
    Disconnected(ReasonCode),
    #[error("the broker refused the connection: {0}")]
    Refused(ReasonCode),
    #[error("the broker sent a packet that is not MQTT: {0}")]
    Decode(#[from] DecodeError),
    #[error("a packet cannot be sent: {0}")]
    Encode(#[from] EncodeError),
    #[error("the broker sent {got:?} where {expected} was due")]
    Unexpected { got: PacketType, expected: &'static str },
    #[error("no {0} within {1:?}")]
    Late(&'static str, Duration),
}

/// How long a broker may take to answer CONNECT, SUBSCRIBE or PINGREQ.
pub(crate) const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(20);

/// What distinguishes one connection from another.
pub(crate) struct LinkOptions<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) version: ProtocolVersion,
    pub(crate) client_id: &'a str,
    /// The session outlives the connection, and is resumed if there is one.
    pub(crate) is_durable: bool,
    /// Larger packets from the broker end the connection.
    pub(crate) packet_bytes_max: usize,
    /// First size of the receive buffer; it grows to the largest packet that arrives.
    pub(crate) inbox_bytes: usize,
}

/// An open connection that the broker has accepted.
pub(crate) struct Link {
    stream: TcpStream,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    receive_maximum: u16,
}

impl Link {
    /// Opens a connection without keep alive.
    ///
    /// # Errors
    /// The broker cannot be reached, refuses, or takes longer than [`ANSWER_SECONDS_MAX`].
    pub(crate) async fn open(options: &LinkOptions<'_>) -> Result<Self, LinkError> {
        let opening = async {
            let stream = TcpStream::connect(options.address)
                .await
                .map_err(|source| LinkError::Unreachable { address: options.address, source })?;
            stream.set_nodelay(true)?;
            let mut link = Self {
                stream,
                inbox: Inbox::new(options.version, options.packet_bytes_max, options.inbox_bytes),
                outbox: Outbox::new(options.version),
                receive_maximum: u16::MAX,
            };
            link.connect(options).await?;
            Ok(link)
        };
        timeout(ANSWER_SECONDS_MAX, opening)
            .await
            .unwrap_or(Err(LinkError::Late("CONNACK", ANSWER_SECONDS_MAX)))
    }

    async fn connect(&mut self, options: &LinkOptions<'_>) -> Result<(), LinkError> {
        self.outbox.push(&Packet::Connect(Connect {
            version: options.version,
            bridge: false,
            clean_start: !options.is_durable,
            keep_alive_seconds: 0,
            client_id: options.client_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                session_expiry_seconds: options.is_durable.then_some(u32::MAX),
                ..ConnectProperties::default()
            },
        }))?;
        loop {
            self.turn().await?;
            match self.inbox.next()? {
                None => {}
                Some(Packet::ConnAck(answer)) if answer.reason.is_error() => {
                    return Err(LinkError::Refused(answer.reason));
                }
                Some(Packet::ConnAck(answer)) => {
                    self.receive_maximum = answer.properties.receive_maximum.map_or(u16::MAX, Into::into);
                    return Ok(());
                }
                Some(other) => return Err(unexpected(&other, "CONNACK")),
            }
        }
    }

    /// How many QoS 1 and 2 messages the broker allows in flight towards it.
    pub(crate) fn receive_maximum(&self) -> u16 {
        self.receive_maximum
    }

    /// Writes as much of the outbox as the socket takes without waiting.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while !self.outbox.is_empty() {
            match self.stream.try_write(self.outbox.pending()) {
                Ok(written) => self.outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes what is pending and waits until something was read or written. Cancel safe.
    pub(crate) async fn turn(&mut self) -> Result<(), LinkError> {
        self.flush()?;
        let (mut reader, mut writer) = self.stream.split();
        tokio::select! {
            read = reader.read(self.inbox.room()) => match read? {
                0 => Err(LinkError::Closed),
                count => { self.inbox.arrived(count); Ok(()) }
            },
            written = writer.write(self.outbox.pending()), if !self.outbox.is_empty() => {
                self.outbox.advance(written?);
                Ok(())
            }
        }
    }

    /// Says DISCONNECT and closes; a broker that is gone already is none the worse.
    pub(crate) async fn close(mut self) -> Result<(), LinkError> {
        self.outbox.push(&Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            session_expiry_seconds: None,
            reason_string: None,
            user: UserProperties::default(),
            server_reference: None,
        }))?;
        self.flush()?;
        self.stream.shutdown().await?;
        Ok(())
    }

    /// Keeps the socket alone, without any buffer.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// What a packet that was not due means: a farewell is a reason, everything else a fault of the broker.
pub(crate) fn unexpected(packet: &Packet<'_>, expected: &'static str) -> LinkError {
    match packet {
        Packet::Disconnect(farewell) => LinkError::Disconnected(farewell.reason),
        other => LinkError::Unexpected { got: other.packet_type(), expected },
    }
}

/// Bytes that have arrived; packets are borrowed from it.
pub(crate) struct Inbox {
    version: ProtocolVersion,
    packet_bytes_max: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn new(version: ProtocolVersion, packet_bytes_max: usize, bytes: usize) -> Self {
        Self { version, packet_bytes_max, buffer: vec![0; bytes], start: 0, end: 0 }
    }

    /// Takes the next whole packet; `None` until more has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Packet<'_>>, LinkError> {
        let Some((frame, used)) = next_frame(&self.buffer[self.start..self.end], self.packet_bytes_max)?
        else {
            return Ok(None);
        };
        self.start += used;
        Ok(Some(Packet::decode(frame, self.version)?))
    }

    /// Free space, never empty: what is left of a packet moves to the front, a full buffer doubles.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // `next` refuses a packet above `packet_bytes_max`, so this ends below twice that.
            self.buffer.resize((2 * self.end).max(64), 0);
        }
        &mut self.buffer[self.end..]
    }

    fn arrived(&mut self, count: usize) {
        self.end += count;
    }
}

/// Bytes that wait to be written.
pub(crate) struct Outbox {
    version: ProtocolVersion,
    buffer: Vec<u8>,
    sent: usize,
}

impl Outbox {
    fn new(version: ProtocolVersion) -> Self {
        Self { version, buffer: Vec::new(), sent: 0 }
    }

    pub(crate) fn push(&mut self, packet: &Packet<'_>) -> Result<(), LinkError> {
        Ok(packet.encode(self.version, &mut self.buffer)?)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.buffer.len()
    }

    /// Bytes not written yet.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    fn advance(&mut self, written: usize) {
        self.sent += written;
        if self.is_empty() {
            self.buffer.clear();
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(inbox: &mut Inbox, bytes: &[u8]) {
        let room = inbox.room();
        room[..bytes.len()].copy_from_slice(bytes);
        inbox.arrived(bytes.len());
    }

    #[test]
    fn packets_are_taken_whole_however_the_bytes_arrive() {
        let publish = [0x30, 0x06, 0, 1, b't', b'a', b'b', b'c'];
        let stream: Vec<u8> = publish.repeat(50);
        for chunk_bytes in 1..20 {
            let mut inbox = Inbox::new(ProtocolVersion::V311, 100, 0);
            let mut payloads = 0;

            for chunk in stream.chunks(chunk_bytes) {
                arrive(&mut inbox, chunk);
                while let Some(packet) = inbox.next().unwrap() {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    assert_eq!(publish.payload, b"abc");
                    payloads += 1;
                }
            }

            assert_eq!(payloads, 50, "chunks of {chunk_bytes}");
            assert!(inbox.buffer.len() <= 64, "chunks of {chunk_bytes}: {}", inbox.buffer.len());
        }
    }

    #[test]
    fn a_packet_above_the_limit_is_refused() {
        let mut inbox = Inbox::new(ProtocolVersion::V311, 100, 64);

        arrive(&mut inbox, &[0x30, 0x7F]);

        assert!(matches!(inbox.next(), Err(LinkError::Decode(_))));
    }

    #[test]
    fn a_partly_written_outbox_keeps_the_rest() {
        let mut outbox = Outbox::new(ProtocolVersion::V311);
        outbox.push(&Packet::PingReq).unwrap();
        outbox.push(&Packet::PingReq).unwrap();

        outbox.advance(3);
        assert_eq!(outbox.pending(), [0]);

        outbox.advance(1);
        assert!(outbox.is_empty());
        outbox.push(&Packet::PingReq).unwrap();
        assert_eq!(outbox.pending(), [0xC0, 0]);
    }
}
