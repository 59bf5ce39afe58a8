//! The two sockets of a bridge, and the one place where its link meets them.
//!
//! Invariant: at most one read of each side is held here; what is to be written stays in the link until it is.

use std::fmt;
use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::time::sleep;
use veilmq_bridge::{Fault, Link, Side};
use veilmq_protocol::ReasonCode;

use super::remote::Duplex;
use crate::clock;

const READ_BYTES: usize = 16 * 1024;

/// Why a link cannot go on.
#[derive(Debug)]
pub(super) enum LinkEnd {
    /// A broker or the protocol ended it.
    Fault(Fault),
    /// A broker closed the connection.
    Closed(Side),
    /// A connection failed.
    Broken(Side, io::Error),
}

impl LinkEnd {
    /// Says whether the other broker has ended the link on purpose, and its reason if it gave one.
    pub(super) fn by_remote(&self) -> Option<Option<ReasonCode>> {
        match self {
            Self::Fault(Fault::Disconnected { side: Side::Remote, reason }) => Some(Some(*reason)),
            Self::Closed(Side::Remote) => Some(None),
            Self::Broken(Side::Remote, error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
            )
            .then_some(None),
            Self::Fault(_) | Self::Closed(Side::Local) | Self::Broken(Side::Local, _) => None,
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Closed(side) => write!(f, "{side} closed the connection"),
            Self::Broken(side, error) => write!(f, "the connection to {side} failed: {error}"),
        }
    }
}

/// The sockets of one link.
pub(super) struct Wires {
    local: Option<Wire>,
    remote: Option<Wire>,
}

struct Wire {
    reader: Reader,
    writer: Writer,
}

struct Reader {
    half: ReadHalf<Box<dyn Duplex>>,
    buffer: Box<[u8]>,
}

struct Writer {
    half: WriteHalf<Box<dyn Duplex>>,
    /// What was written may still lie in the TLS session.
    is_unflushed: bool,
}

/// What one turn has seen.
enum Seen {
    Read(Side, io::Result<usize>),
    Written(Side, io::Result<()>),
    Deadline,
}

impl Wires {
    /// Holds a connection to this broker alone.
    pub(super) fn local(socket: UnixStream) -> Self {
        Self { local: Some(Wire::new(Box::new(socket))), remote: None }
    }

    /// Holds a connection to the other broker, before there is one to this broker.
    pub(super) fn remote(stream: Box<dyn Duplex>) -> Self {
        Self { local: None, remote: Some(Wire::new(stream)) }
    }

    /// Adds the connection to this broker.
    pub(super) fn add_local(&mut self, socket: UnixStream) {
        self.local = Some(Wire::new(Box::new(socket)));
    }

    /// Tells whether there is a connection to this broker.
    pub(super) fn has_local(&self) -> bool {
        self.local.is_some()
    }

    /// Waits for one thing to happen and has the link act on it. It may be dropped while it waits.
    ///
    /// # Errors
    /// Why the link cannot go on.
    pub(super) async fn turn(&mut self, link: &mut Link) -> Result<(), LinkEnd> {
        let wait = link.deadline().map(|at| Duration::from_millis(at.saturating_sub(now())));
        let (local_reads, remote_reads) = (link.reads(Side::Local), link.reads(Side::Remote));
        let (local_reader, local_writer) = Wire::halves(&mut self.local);
        let (remote_reader, remote_writer) = Wire::halves(&mut self.remote);
        let (to_local, to_remote) = link.outputs();
        let seen = tokio::select! {
            read = read(remote_reader, remote_reads) => Seen::Read(Side::Remote, read),
            read = read(local_reader, local_reads) => Seen::Read(Side::Local, read),
            written = write(remote_writer, to_remote) => Seen::Written(Side::Remote, written),
            written = write(local_writer, to_local) => Seen::Written(Side::Local, written),
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => Seen::Deadline,
        };
        self.act(link, seen)
    }

    fn act(&self, link: &mut Link, seen: Seen) -> Result<(), LinkEnd> {
        let acted = match seen {
            Seen::Read(side, Ok(0)) => return Err(LinkEnd::Closed(side)),
            Seen::Read(side, Ok(length)) => {
                let wire = match side {
                    Side::Local => &self.local,
                    Side::Remote => &self.remote,
                };
                let bytes =
                    wire.as_ref().and_then(|wire| wire.reader.buffer.get(..length)).unwrap_or_default();
                link.receive(side, bytes, now())
            }
            Seen::Written(_, Ok(())) => link.proceed(now()),
            Seen::Deadline => link.tick(now()),
            Seen::Read(side, Err(error)) | Seen::Written(side, Err(error)) => {
                return Err(LinkEnd::Broken(side, error));
            }
        };
        acted.map_err(LinkEnd::Fault)
    }

    /// Writes what is left and closes. It may be dropped while it waits.
    pub(super) async fn finish(&mut self, link: &mut Link) {
        for side in [Side::Remote, Side::Local] {
            let wire = match side {
                Side::Local => &mut self.local,
                Side::Remote => &mut self.remote,
            };
            if let Some(Wire { writer, .. }) = wire {
                // The farewell is a courtesy.
                let _ = writer.half.write_all_buf(link.output(side)).await;
                let _ = writer.half.shutdown().await;
            }
        }
    }
}

impl Wire {
    fn new(stream: Box<dyn Duplex>) -> Self {
        let (reading, writing) = tokio::io::split(stream);
        Self {
            reader: Reader { half: reading, buffer: vec![0; READ_BYTES].into_boxed_slice() },
            writer: Writer { half: writing, is_unflushed: false },
        }
    }

    fn halves(wire: &mut Option<Self>) -> (Option<&mut Reader>, Option<&mut Writer>) {
        match wire {
            Some(Self { reader, writer }) => (Some(reader), Some(writer)),
            None => (None, None),
        }
    }
}

async fn read(reader: Option<&mut Reader>, is_wanted: bool) -> io::Result<usize> {
    match reader {
        Some(Reader { half, buffer }) if is_wanted => half.read(buffer).await,
        Some(_) | None => pending().await,
    }
}

async fn write(writer: Option<&mut Writer>, output: &mut BytesMut) -> io::Result<()> {
    match writer {
        Some(writer) if !output.is_empty() => {
            let length = writer.half.write(output).await?;
            if length == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            output.advance(length);
            if output.is_empty() {
                // Else one large message would keep its memory for good.
                *output = BytesMut::new();
            }
            writer.is_unflushed = true;
            Ok(())
        }
        Some(writer) if writer.is_unflushed => {
            writer.half.flush().await?;
            writer.is_unflushed = false;
            Ok(())
        }
        Some(_) | None => pending().await,
    }
}

/// The time as links count it.
pub(super) fn now() -> u64 {
    clock::now().milliseconds()
}
