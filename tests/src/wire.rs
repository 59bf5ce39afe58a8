//! A raw MQTT peer: sends exactly the bytes it is given and reads whole packets back.
//!
//! Knows the fixed header and the few MQTT 3.1.1 packets that the crash tests need, and nothing of the broker's own
//! codec. It does not acknowledge, answer or retry anything by itself.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One packet as it came: the first byte, and what follows the Remaining Length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPacket {
    /// Packet type and flags.
    pub first: u8,
    /// The bytes after the Remaining Length.
    pub body: Vec<u8>,
}

impl RawPacket {
    /// The Packet Identifier of an acknowledgement: the first two bytes after the Remaining Length.
    ///
    /// # Panics
    /// If the packet is shorter than that.
    #[must_use]
    pub fn acknowledged(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }
}

/// A PUBLISH as MQTT 3.1.1 writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Quality of Service, 0..=2.
    pub qos: u8,
    /// The Topic Name.
    pub topic: String,
    /// The Packet Identifier; 0 at QoS 0.
    pub packet_id: u16,
    /// The Application Message.
    pub payload: Vec<u8>,
}

impl Published {
    /// Reads the PUBLISH in `packet`; none if it is another packet.
    ///
    /// # Panics
    /// If it is a PUBLISH whose fields do not fit.
    #[must_use]
    pub fn read(packet: &RawPacket) -> Option<Self> {
        if packet.first >> 4 != 3 {
            return None;
        }
        let qos = packet.first >> 1 & 3;
        let topic_end = 2 + usize::from(packet.acknowledged());
        let topic = String::from_utf8(packet.body[2..topic_end].to_vec()).expect("a Topic Name is UTF-8");
        let payload_start = if qos == 0 { topic_end } else { topic_end + 2 };
        let packet_id =
            packet.body[topic_end..payload_start].iter().fold(0, |id, byte| id << 8 | u16::from(*byte));
        Some(Self { qos, topic, packet_id, payload: packet.body[payload_start..].to_vec() })
    }
}

/// One connection to a broker.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// The bytes that packets read through this handle had.
    received_bytes: u64,
}

impl Wire {
    /// Connects and sends nothing; reads time out after ten seconds.
    ///
    /// # Panics
    /// If the connection cannot be made.
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects as [`Wire::open`] does, to a broker that may be dead.
    ///
    /// # Errors
    /// If the connection cannot be made.
    pub fn try_open(address: SocketAddr) -> Result<Self> {
        Self::on(TcpStream::connect(address)?)
    }

    /// Takes a connection that is there; reads time out after ten seconds.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn on(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, received_bytes: 0 })
    }

    /// The port of this end of the connection.
    ///
    /// # Errors
    /// If the operating system does not know it.
    pub fn local_port(&self) -> Result<u16> {
        Ok(self.stream.local_addr()?.port())
    }

    /// Changes how long a read waits for silence to end.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// The bytes of all packets that were read through this handle.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Connects with MQTT 3.1.1 and returns the connection with the Session Present flag.
    ///
    /// # Panics
    /// If the broker does not accept the connection.
    #[must_use]
    pub fn connect(address: SocketAddr, client_id: &str, clean_session: bool) -> (Self, bool) {
        let mut wire = Self::open(address);
        wire.send(&connect_packet(client_id, clean_session)).expect("CONNECT can be sent");
        let connack = wire.packet().expect("a CONNACK arrives");
        assert_eq!(
            (connack.first, connack.body.len(), connack.body[1]),
            (0x20, 2, 0),
            "not accepted: {connack:?}"
        );
        (wire, connack.body[0] == 1)
    }

    /// Subscribes with MQTT 3.1.1 and waits for the grant.
    ///
    /// # Panics
    /// If the broker does not grant `qos`, or sends something else first.
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = vec![0, 1];
        push_string(&mut body, filter);
        body.push(qos);
        self.send(&packet(0x82, &body)).expect("SUBSCRIBE can be sent");
        let suback = self.packet().expect("a SUBACK arrives");
        assert_eq!(suback, RawPacket { first: 0x90, body: vec![0, 1, qos] });
    }

    /// Sends `bytes` as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the next packet.
    ///
    /// # Errors
    /// `UnexpectedEof` if the broker closed the connection, `WouldBlock` after ten seconds of silence.
    pub fn packet(&mut self) -> Result<RawPacket> {
        let first = self.byte()?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body)?;
                self.received_bytes += body.len() as u64;
                return Ok(RawPacket { first, body });
            }
        }
        Err(Error::new(ErrorKind::InvalidData, "the Remaining Length has more than four bytes"))
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        self.received_bytes += 1;
        Ok(byte[0])
    }

    /// Reads everything that comes until the broker closes the connection.
    ///
    /// # Panics
    /// If the broker does not close it within ten seconds of silence.
    #[must_use]
    pub fn until_closed(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            // A broker that closes while bytes are still on their way to it may cause a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("the broker did not close the connection ({error}) after {bytes:02x?}"),
        }
    }

    /// A second handle to the same connection, so that one thread can read while another writes.
    ///
    /// # Panics
    /// If the operating system refuses to copy the handle.
    #[must_use]
    pub fn share(&self) -> Self {
        let stream = self.stream.try_clone().expect("a socket handle can be copied");
        Self { stream, received_bytes: 0 }
    }
}

/// Builds a CONNECT of MQTT 3.1.1 with a Keep Alive of 60 seconds.
#[must_use]
pub fn connect_packet(client_id: &str, clean_session: bool) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, u8::from(clean_session) << 1, 0, 60];
    push_string(&mut body, client_id);
    packet(0x10, &body)
}

/// Builds a CONNECT of MQTT 5 with a Keep Alive of 60 seconds; the session ends with the connection if it expires after 0.
#[must_use]
pub fn connect_packet_v5(client_id: &str, session_expiry_seconds: u32) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 5, 0x11];
    body.extend_from_slice(&session_expiry_seconds.to_be_bytes());
    push_string(&mut body, client_id);
    packet(0x10, &body)
}

/// Builds a PUBLISH of MQTT 5 at QoS 1 or 2 without properties.
#[must_use]
pub fn publish_packet_v5(topic: &str, packet_id: u16, qos: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, topic);
    body.extend_from_slice(&packet_id.to_be_bytes());
    body.push(0);
    body.extend_from_slice(payload);
    packet(0x30 | qos << 1, &body)
}

/// Builds a PUBLISH of MQTT 3.1.1 at QoS 1 or 2.
#[must_use]
pub fn publish_packet(topic: &str, packet_id: u16, qos: u8, dup: bool, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_string(&mut body, topic);
    body.extend_from_slice(&packet_id.to_be_bytes());
    body.extend_from_slice(payload);
    packet(0x30 | u8::from(dup) << 3 | qos << 1, &body)
}

/// Builds PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70), by its first byte.
#[must_use]
pub fn acknowledgement(first: u8, packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [first, 2, high, low]
}

/// Puts the fixed header before `body`.
///
/// # Panics
/// If the body is longer than a packet can be.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= 268_435_455, "no packet is that long");
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        bytes.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Appends a string field: two bytes of length, then the text.
///
/// # Panics
/// If the text is longer than 65,535 bytes.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("a string field has at most 65,535 bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
