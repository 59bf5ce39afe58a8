//! A socket and what lies between its bytes and MQTT: nothing, or layers.
//!
//! Nothing here waits, and a socket without layers pays one comparison for each read and write.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use veilmq_core::{CertificateFields, Moment, Outbox};

use super::layers::Layers;
use super::stream::{DetachedStream, Stream};
use crate::proxy::Proxied;
use crate::transport::End;
use crate::websocket::CloseCode;

/// Slices in one vectored write.
pub(super) const SLICES_MAX: usize = 64;
/// Bytes written to one connection before the next has its turn.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// The socket of one connection.
pub(super) struct Socket {
    stream: Stream,
    layers: Option<Box<Layers>>,
}

/// A socket on its way to another thread.
pub struct DetachedSocket {
    stream: DetachedStream,
    layers: Option<Box<Layers>>,
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
    /// A socket whose bytes go through these layers before they are MQTT's.
    pub(super) fn new(stream: Stream, layers: Option<Box<Layers>>) -> Self {
        Self { stream, layers }
    }

    /// Reads through `AsyncRead`, which knows that a buffer which was not filled means an empty socket and spares a system call.
    pub(super) fn poll_read(
        &mut self,
        buffer: &mut ReadBuf<'_>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.poll_read(buffer, context)
    }

    /// Returns the bytes for MQTT in what was read: they are where it was read to, or else in `plaintext`, which was empty.
    pub(super) fn unpack<'a>(&mut self, bytes: &'a mut [u8], plaintext: &'a mut Vec<u8>) -> &'a mut [u8] {
        match &mut self.layers {
            None => bytes,
            Some(layers) => layers.receive(bytes, plaintext),
        }
    }

    /// Returns, once, what the proxy says of the client.
    pub(super) fn take_proxied(&mut self) -> Option<Box<Proxied>> {
        self.layers.as_mut()?.take_proxied()
    }

    /// Gives the peer so long to say anything.
    pub(super) fn speak_by(&mut self, deadline: Moment) {
        if let Some(layers) = &mut self.layers {
            layers.speak_by(deadline);
        }
    }

    /// Returns by when the peer has to say anything, if it has a time of its own for that and has not.
    pub(super) fn speaks_by(&self) -> Option<Moment> {
        self.layers.as_ref()?.speaks_by()
    }

    /// Returns, once, the User Name that what carries MQTT has proved.
    pub(super) fn take_user(&mut self) -> Option<Box<str>> {
        self.layers.as_mut()?.take_user()
    }

    /// Returns, once, what the certificate says that the client has shown to what carries MQTT.
    pub(super) fn take_certificate(&mut self) -> Option<Arc<CertificateFields>> {
        self.layers.as_mut()?.take_certificate()
    }

    /// Tells whether the client may still be connected, as far as what carries MQTT has to say.
    pub(super) fn is_still_trusted(&self) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.is_still_trusted())
    }

    /// Tells why no more is taken from what carries MQTT, if so.
    pub(super) fn end(&self) -> Option<End> {
        self.layers.as_ref().and_then(|layers| layers.end())
    }

    /// Says farewell behind the outbox in the way of what carries MQTT.
    pub(super) fn close(&mut self, code: CloseCode) {
        if let Some(layers) = &mut self.layers {
            layers.close(code);
        }
    }

    /// Tells whether there is something to write.
    pub(super) fn has_unsent(&self, outbox: &Outbox) -> bool {
        match &self.layers {
            None => !outbox.is_empty(),
            Some(layers) => layers.has_unsent(outbox),
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

    /// Makes one write, vectored where what waits lies in several pieces, and returns how many bytes it took.
    fn write_once(&mut self, outbox: &mut Outbox) -> io::Result<usize> {
        let Self { stream, layers } = self;
        match layers {
            None => {
                let bytes = match outbox.as_single() {
                    Some(bytes) => stream.try_write(bytes)?,
                    None => {
                        let mut slices: Vec<IoSlice<'_>> = Vec::new();
                        outbox.slices(&mut slices, SLICES_MAX, usize::MAX);
                        stream.try_write_vectored(&slices)?
                    }
                };
                outbox.advance(bytes);
                Ok(bytes)
            }
            Some(layers) => layers.write_once(outbox, |slices| stream.try_write_vectored(slices)),
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
        let _ = self.stream.shut_down();
    }

    /// Takes the socket off this thread.
    ///
    /// # Errors
    /// What the operating system answered.
    pub(super) fn detach(self) -> io::Result<DetachedSocket> {
        Ok(DetachedSocket { stream: self.stream.detach()?, layers: self.layers })
    }
}

impl DetachedSocket {
    /// Brings the socket to this thread.
    ///
    /// # Errors
    /// What the operating system answered.
    pub(super) fn attach(self) -> io::Result<Socket> {
        Ok(Socket { stream: self.stream.attach()?, layers: self.layers })
    }
}
