//! Lines in the order of an export, whatever the order in which a store gives its records.
//!
//! The lines wait in a file without a name; in memory is only where each of them is, 32 bytes.
//! Invariant: the same contents of a store give the same lines in the same order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};
use veilmq_core::{MessageId, Reference, SessionId};
use veilmq_protocol::PacketId;

/// The bytes that are written at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// The lines that are read at once.
const RUN_LINES_MAX: usize = 256;

/// The place of a line among the others.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    kind: u8,
    first: u64,
    second: u64,
}

impl Place {
    pub(crate) fn session(session: SessionId) -> Self {
        Self { kind: 0, first: session.0, second: 0 }
    }

    pub(crate) fn subscription(session: SessionId, filter: &str) -> Self {
        Self { kind: 1, first: session.0, second: digest(filter) }
    }

    pub(crate) fn message(message: MessageId) -> Self {
        Self { kind: 2, first: message.0, second: 0 }
    }

    /// Right after that of the message.
    pub(crate) fn delivery(message: MessageId, reference: &Reference) -> Self {
        Self { kind: 2, first: message.0, second: reference.session.0.saturating_add(1) }
    }

    pub(crate) fn received(session: SessionId, packet_id: PacketId) -> Self {
        Self { kind: 3, first: session.0, second: packet_id.value().into() }
    }

    pub(crate) fn retained(topic: &str) -> Self {
        Self { kind: 4, first: digest(topic), second: 0 }
    }
}

/// Some order for names: their own would have to be kept.
fn digest(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Where a line is in the file; in the order of places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Spooled {
    kind: u8,
    first: u64,
    second: u64,
    offset: u64,
    bytes: u32,
}

/// The lines that have been taken so far.
pub(crate) struct Spool {
    file: BufWriter<File>,
    lines: Vec<Spooled>,
    bytes: u64,
}

impl Spool {
    /// Makes a file in this folder that goes with the process.
    ///
    /// # Errors
    /// What the file system answered.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join("spool");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(path)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER_BYTES, file), lines: Vec::new(), bytes: 0 })
    }

    /// Takes a line.
    ///
    /// # Errors
    /// What the file system answered, or that the line is beyond 4 GiB.
    pub(crate) fn push(&mut self, place: Place, line: &[u8]) -> io::Result<()> {
        let Place { kind, first, second } = place;
        let bytes = u32::try_from(line.len()).map_err(io::Error::other)?;
        self.file.write_all(line)?;
        self.lines.push(Spooled { kind, first, second, offset: self.bytes, bytes });
        self.bytes += u64::from(bytes);
        Ok(())
    }

    /// Writes all lines in their order.
    ///
    /// # Errors
    /// What the file system or `out` answered.
    pub(crate) fn write_sorted(self, out: &mut impl Write) -> io::Result<()> {
        let Self { file, mut lines, bytes: _ } = self;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        lines.sort_unstable();
        let mut buffer = Vec::new();
        // Most lines follow one another in the file too, and are read together.
        let follows = |a: &Spooled, b: &Spooled| a.offset + u64::from(a.bytes) == b.offset;
        for run in lines.chunk_by(follows).flat_map(|run| run.chunks(RUN_LINES_MAX)) {
            let Some(first) = run.first() else { continue };
            buffer.resize(run.iter().map(|line| line.bytes as usize).sum(), 0);
            file.read_exact_at(&mut buffer, first.offset)?;
            out.write_all(&buffer)?;
        }
        Ok(())
    }
}
