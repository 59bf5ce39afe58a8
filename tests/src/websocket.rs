//! A WebSocket client for MQTT whose every byte is written here: it shares no code with the broker or its library.
//!
//! Frames are as large as the test says, so that packets and frames do not line up by chance. Nothing is answered by itself.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// The first byte of a frame that is the whole of a binary message.
pub const BINARY: u8 = 0x82;
/// The first byte of a frame that is the whole of a text message.
pub const TEXT: u8 = 0x81;
/// The first byte of a Close frame.
pub const CLOSE: u8 = 0x88;
/// The first byte of a Ping frame.
pub const PING: u8 = 0x89;
/// The first byte of a Pong frame.
pub const PONG: u8 = 0x8a;

/// The key and what must come back for it, from RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

/// An open WebSocket. As `Read` and `Write` it carries bytes in binary frames.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    /// Bytes that came ahead of what was asked for.
    ahead: Vec<u8>,
    /// What is left of the last binary frame.
    payload: Vec<u8>,
    frame_bytes: usize,
}

/// The request for a WebSocket that offers these subprotocols.
#[must_use]
pub fn request(subprotocols: &str) -> String {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {subprotocols}\r\n\r\n"
    )
}

/// A masked frame with this first byte.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn has_line(head: &str, wanted: &str) -> bool {
    head.lines().any(|line| line.eq_ignore_ascii_case(wanted))
}

impl WebSocket {
    /// Opens a WebSocket with the subprotocol `mqtt`; reads time out after ten seconds.
    ///
    /// # Errors
    /// If the broker does not accept the connection.
    ///
    /// # Panics
    /// If it accepts the connection, but not as RFC 6455 and MQTT demand.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let (websocket, head) = Self::open_with(address, &request("mqtt"))?;
        // [MQTT-6.0.0-4]
        assert!(has_line(&head, "sec-websocket-protocol: mqtt"), "{head}");
        Ok(websocket)
    }

    /// Opens a WebSocket with a request of its own, as [`request`] makes one, and returns the head of the answer with it.
    ///
    /// # Errors
    /// If the connection is not accepted.
    ///
    /// # Panics
    /// If it is accepted, but not as RFC 6455 demands.
    pub fn open_with(address: SocketAddr, request: &str) -> Result<(Self, String)> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let mut websocket = Self { stream, ahead: Vec::new(), payload: Vec::new(), frame_bytes: usize::MAX };
        let head = websocket.response()?;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let is_upgrade =
            ["upgrade: websocket", "connection: upgrade"].iter().all(|line| has_line(&head, line));
        assert!(is_upgrade, "{head}");
        assert!(head.contains(&format!(": {ACCEPT}\r\n")), "{head}");
        Ok((websocket, head))
    }

    /// Sends what is written from now on in frames of up to `bytes` bytes.
    #[must_use]
    pub fn in_frames_of(self, bytes: usize) -> Self {
        Self { frame_bytes: bytes, ..self }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the connection, `WouldBlock` after the time for reading.
    ///
    /// # Panics
    /// If the frame is masked, or its length is not in the shortest form.
    pub fn frame(&mut self) -> Result<Frame> {
        let size = loop {
            match size_of_frame(&self.ahead) {
                Some((header, payload)) if self.ahead.len() >= header + payload => break (header, payload),
                _ => self.read_more()?,
            }
        };
        let (header, payload) = size;
        let first = self.ahead[0];
        let payload = self.ahead[header..header + payload].to_vec();
        self.ahead.drain(..header + payload.len());
        Ok(Frame { first, payload })
    }

    /// Reads frames until the broker closes the connection.
    ///
    /// # Panics
    /// If it does not within ten seconds of silence, or closes it in the middle of a frame.
    #[must_use]
    pub fn until_closed(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.frame() {
                Ok(frame) => frames.push(frame),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => panic!("the broker did not close the connection ({error}) after {frames:02x?}"),
            }
        }
        assert!(self.ahead.is_empty(), "the last frame has no end: {:02x?}", self.ahead);
        frames
    }

    /// Changes how long reads wait.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn set_read_timeout(&self, timeout: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// Ends the sending half of the connection without a Close frame.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn end_sending(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn share(&self) -> Result<Self> {
        let stream = self.stream.try_clone()?;
        Ok(Self { stream, ahead: Vec::new(), payload: Vec::new(), frame_bytes: self.frame_bytes })
    }

    fn response(&mut self) -> Result<String> {
        loop {
            let end = self.ahead.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                let head = self.ahead.drain(..end + 4).collect::<Vec<u8>>();
                return String::from_utf8(head).map_err(|error| Error::new(ErrorKind::InvalidData, error));
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.ahead.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}

/// The lengths of the header and of the payload of the frame that begins with `bytes`, once they tell.
fn size_of_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = *bytes.get(1)?;
    assert!(length & 0x80 == 0, "a server masks nothing");
    let (header, payload) = match length {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        length => (2, usize::from(length)),
    };
    let shortest = match payload {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    assert_eq!(header, shortest, "the length is in its shortest form");
    Some((header, payload))
}

impl Read for WebSocket {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.payload.is_empty() {
            match self.frame() {
                Ok(Frame { first: BINARY, payload }) => self.payload = payload,
                Ok(Frame { first: CLOSE, .. }) => return Ok(0),
                Ok(frame) => return Err(Error::new(ErrorKind::InvalidData, format!("{frame:02x?}"))),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let count = self.payload.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.payload[..count]);
        self.payload.drain(..count);
        Ok(count)
    }
}

impl Write for WebSocket {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let frames: Vec<u8> =
            bytes.chunks(self.frame_bytes).flat_map(|payload| frame(BINARY, payload)).collect();
        self.stream.write_all(&frames)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Listens for plain TCP and carries each connection on over a WebSocket to `target`, in frames of up to `frame_bytes`; for
/// clients that know no WebSocket. Returns where it listens, until the test process ends.
///
/// # Panics
/// If no port is free.
#[must_use]
pub fn bridge(target: SocketAddr, frame_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(up) = WebSocket::open(target) else { continue };
            let up = up.in_frames_of(frame_bytes);
            let (Ok(down), Ok(client_too)) = (up.share(), client.try_clone()) else { continue };
            thread::spawn(move || carry(client_too, up));
            thread::spawn(move || carry_back(down, &client));
        }
    });
    address
}

fn carry(mut client: TcpStream, mut websocket: WebSocket) {
    // Either side may have gone.
    let _ = std::io::copy(&mut client, &mut websocket);
    let _ = websocket.send_raw(&frame(CLOSE, &1000_u16.to_be_bytes()));
}

fn carry_back(mut websocket: WebSocket, mut client: &TcpStream) {
    // A client that says nothing for ten seconds is not at its end.
    while let Err(error) = std::io::copy(&mut websocket, &mut client) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}
