//! One MQTT Network Connection of the load generator: a socket, what lies over it, what has arrived and what waits to leave.
//!
//! It knows framing and CONNECT; what packets mean is the business of its user. Everything that is queued in
//! one turn leaves in one write.

mod buffers;
mod layer;
mod tls;
mod veil;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use veilmq_protocol::{
    Connect, ConnectProperties, DecodeError, Disconnect, EncodeError, Packet, PacketType, ProtocolVersion,
    ReasonCode, UserProperties,
    veil::{
        channel::{HandshakeError, Operations, RecordError},
        registry::AUTHENTICATION_METHOD,
    },
};

use self::buffers::{Inbox, Outbox, Window};
use self::layer::Layer;
pub(crate) use self::layer::Transport;
pub(crate) use self::tls::{TlsError, TlsTransport};
pub(crate) use self::veil::{VeilError, VeilTransport};

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
    #[error("the TLS connection failed: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the VEIL-1 handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the VEIL-1 channel failed: {0}")]
    Record(#[from] RecordError),
    #[error(transparent)]
    Identity(#[from] VeilError),
    #[error("no {0} within {1:?}")]
    Late(&'static str, Duration),
}

/// How long a broker may take to answer CONNECT, SUBSCRIBE or PINGREQ.
pub(crate) const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(20);

/// What distinguishes one connection from another.
pub(crate) struct LinkOptions<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) transport: &'a Transport,
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
    layer: Layer,
    /// What the layer has not opened yet; unused without one.
    received: Window,
    /// What the layer has sealed; unused without one.
    sealed: Outbox,
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
                layer: Layer::new(options.transport)?,
                received: Window::default(),
                sealed: Outbox::new(options.version),
                inbox: Inbox::new(options.version, options.packet_bytes_max, options.inbox_bytes),
                outbox: Outbox::new(options.version),
                receive_maximum: u16::MAX,
            };
            while link.layer.is_handshaking() {
                link.turn().await?;
            }
            match options.transport {
                Transport::Tcp | Transport::Tls(_) => link.connect(options).await?,
                Transport::Veil(transport) => link.connect_with_proof(options, transport).await?,
            }
            Ok(link)
        };
        timeout(ANSWER_SECONDS_MAX, opening)
            .await
            .unwrap_or(Err(LinkError::Late("CONNACK", ANSWER_SECONDS_MAX)))
    }

    async fn connect(&mut self, options: &LinkOptions<'_>) -> Result<(), LinkError> {
        self.outbox.push(&connect_packet(options, None))?;
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

    /// CONNECT, AUTH, AUTH, CONNACK: the handshake of a VEIL-1 channel (VEIL-1 section 4).
    async fn connect_with_proof(
        &mut self,
        options: &LinkOptions<'_>,
        transport: &VeilTransport,
    ) -> Result<(), LinkError> {
        let (start, hello) = transport.hello()?;
        self.outbox.push(&connect_packet(options, Some(&hello)))?;
        let mut waiting = Some(start.sent_connect(self.outbox.pending()));
        let mut proven = None;
        loop {
            self.turn().await?;
            match self.inbox.next_with_bytes()? {
                None => {}
                Some((Packet::Auth(auth), _)) if waiting.is_some() => {
                    let Some(start) = waiting.take() else { continue };
                    let data = auth.data.unwrap_or_default();
                    let (answer, next) = transport.prove(start, data, options.client_id)?;
                    self.outbox.push(&Packet::Auth(answer.packet()))?;
                    proven = Some(next);
                }
                Some((Packet::ConnAck(answer), bytes)) => {
                    if answer.reason.is_error() {
                        return Err(LinkError::Refused(answer.reason));
                    }
                    let Some(proven) = proven else {
                        return Err(unexpected(&Packet::ConnAck(answer), "AUTH"));
                    };
                    let receive_maximum = answer.properties.receive_maximum;
                    let packet_bytes_max = answer.properties.packet_bytes_max;
                    self.receive_maximum = receive_maximum.map_or(u16::MAX, Into::into);
                    let established = proven.handle(bytes)?;
                    if !established.scheme.is_framed() {
                        return Ok(());
                    }
                    self.layer = Layer::of_channel(
                        established,
                        packet_bytes_max.map_or(usize::MAX, |max| max.get() as usize),
                        options.packet_bytes_max,
                    );
                    // What came behind CONNACK is in records.
                    let early = self.inbox.window.unread().to_vec();
                    self.inbox.window.consume(early.len());
                    self.received.append(&early);
                    return self.layer.open(&mut self.received, &mut self.inbox);
                }
                Some((other, _)) => return Err(unexpected(&other, "AUTH or CONNACK")),
            }
        }
    }

    /// The handshake took over the keys of an earlier connection.
    pub(crate) fn is_resumed(&self) -> bool {
        self.layer.is_resumed()
    }

    /// The operations on records of a VEIL-1 channel since they were last taken.
    pub(crate) fn take_operations(&mut self) -> Operations {
        self.layer.take_operations()
    }

    /// How many QoS 1 and 2 messages the broker allows in flight towards it.
    pub(crate) fn receive_maximum(&self) -> u16 {
        self.receive_maximum
    }

    /// Bytes that are queued and not written yet.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.outbox.pending().len() + self.sealed.pending().len()
    }

    /// Writes as much of the outbox as the socket takes without waiting.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        self.layer.seal(&mut self.outbox, &mut self.sealed)?;
        let leaving = if self.layer.is_none() { &mut self.outbox } else { &mut self.sealed };
        while !leaving.is_empty() {
            match self.stream.try_write(leaving.pending()) {
                Ok(written) => leaving.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes what is pending and waits until something was read or written. Cancel safe.
    pub(crate) async fn turn(&mut self) -> Result<(), LinkError> {
        self.flush()?;
        let is_plain = self.layer.is_none();
        let (leaving, arriving) = match is_plain {
            true => (&mut self.outbox, &mut self.inbox.window),
            false => (&mut self.sealed, &mut self.received),
        };
        let (mut reader, mut writer) = self.stream.split();
        tokio::select! {
            read = reader.read(arriving.room()) => match read? {
                0 => return Err(LinkError::Closed),
                count => arriving.arrived(count),
            },
            written = writer.write(leaving.pending()), if !leaving.is_empty() => {
                leaving.advance(written?);
                return Ok(());
            }
        }
        self.layer.open(&mut self.received, &mut self.inbox)
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
        self.layer.close();
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

fn connect_packet<'a>(options: &LinkOptions<'a>, hello: Option<&'a [u8]>) -> Packet<'a> {
    Packet::Connect(Connect {
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
            authentication_method: hello.map(|_| AUTHENTICATION_METHOD),
            authentication_data: hello,
            ..ConnectProperties::default()
        },
    })
}
