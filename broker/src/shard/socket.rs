//! A socket and what lies between its bytes and MQTT: nothing, or a WebSocket.
//!
//! Nothing here waits, and a socket without a WebSocket pays one comparison for each read and write.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use veilmq_core::Outbox;

use crate::websocket::{CloseCode, End, WebSocket};

/// Slices in one vectored write.
const SLICES_MAX: usize = 64;
/// Bytes written to one connection before the next has its turn.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// The socket of one connection.
pub(super) struct Socket {
    stream: TcpStream,
    websocket: Option<Box<WebSocket>>,
}

/// A socket on its way to another thread.
pub struct DetachedSocket {
    stream: std::net::TcpStream,
    websocket: Option<Box<WebSocket>>,
}

/// What came of writing one outbox.
pub(super) enum Written {
    /// Everything that was there, or nothing was there.
    All,
    /// Its share; more is left.
    Share,
    /// The socket takes no more for now.
    Blocked,
    /// The connection is broken.
    Broken,
}

impl Socket {
    /// A socket whose bytes are MQTT's.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream, websocket: None }
    }

    /// A socket on which the client is to ask for a WebSocket, with messages of up to `message_bytes_max` bytes.
    pub(super) fn websocket(stream: TcpStream, message_bytes_max: usize) -> Self {
        Self { stream, websocket: Some(Box::new(WebSocket::new(message_bytes_max))) }
    }

    /// Reads through `AsyncRead`, which knows that a buffer which was not filled means an empty socket and spares a system call.
    pub(super) fn poll_read(
        &mut self,
        buffer: &mut ReadBuf<'_>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }

    /// Returns where in what was read the bytes for MQTT are, after it has put them there.
    pub(super) fn unpack(&mut self, bytes: &mut [u8]) -> Range<usize> {
        match &mut self.websocket {
            None => 0..bytes.len(),
            Some(websocket) => websocket.receive(bytes),
        }
    }

    /// Tells why no more is taken from what carries MQTT, if so.
    pub(super) fn end(&self) -> Option<End> {
        self.websocket.as_ref().and_then(|websocket| websocket.end())
    }

    /// Says farewell behind the outbox in the way of what carries MQTT.
    pub(super) fn close(&mut self, code: CloseCode) {
        if let Some(websocket) = &mut self.websocket {
            websocket.close(code);
        }
    }

    /// Tells whether there is something to write.
    pub(super) fn has_unsent(&self, outbox: &Outbox) -> bool {
        match &self.websocket {
            None => !outbox.is_empty(),
            Some(websocket) => websocket.has_unsent(outbox),
        }
    }

    /// Writes until nothing is left, the connection has had its share, or the socket takes no more.
    pub(super) fn write(&mut self, outbox: &mut Outbox) -> Written {
        let mut total = 0;
        while self.has_unsent(outbox) {
            if total >= WRITE_BYTES_MAX {
                return Written::Share;
            }
            match self.write_once(outbox) {
                Ok(0) => return Written::Blocked,
                Ok(bytes) => total += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
                Err(_) => return Written::Broken,
            }
        }
        Written::All
    }

    /// Makes one vectored write and returns how many bytes it took.
    fn write_once(&mut self, outbox: &mut Outbox) -> io::Result<usize> {
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        match &mut self.websocket {
            None => {
                outbox.slices(&mut slices, SLICES_MAX, usize::MAX);
                let bytes = self.stream.try_write_vectored(&slices)?;
                outbox.advance(bytes);
                Ok(bytes)
            }
            Some(websocket) => {
                websocket.slices(outbox, &mut slices, SLICES_MAX);
                let bytes = self.stream.try_write_vectored(&slices)?;
                outbox.advance(websocket.advance(bytes));
                Ok(bytes)
            }
        }
    }

    /// Tells whether the socket takes bytes; if not, the task is woken when it does.
    pub(super) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        // An error shows when writing is tried.
        self.stream.poll_write_ready(context).map(|_| ())
    }

    /// Closes our side.
    pub(super) fn shut_down(&self) {
        // It fails only if the connection is closed already, which reading will show.
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Write);
    }

    /// Takes the socket off this thread.
    ///
    /// # Errors
    /// What the operating system answered.
    pub(super) fn detach(self) -> io::Result<DetachedSocket> {
        Ok(DetachedSocket { stream: self.stream.into_std()?, websocket: self.websocket })
    }
}

impl DetachedSocket {
    /// Brings the socket to this thread.
    ///
    /// # Errors
    /// What the operating system answered.
    pub(super) fn attach(self) -> io::Result<Socket> {
        Ok(Socket { stream: TcpStream::from_std(self.stream)?, websocket: self.websocket })
    }
}
