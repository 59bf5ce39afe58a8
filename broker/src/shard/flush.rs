//! The flush step: writes what the turns have put into outboxes, once for each connection and batch.
//!
//! It is a task like the others and runs after all that were ready before it was woken, so that the messages of many reads leave
//! in one write for each subscriber. A socket that takes no more is left to its connection's own task.

use std::io::{self, IoSlice};
use std::rc::Rc;

use veilmq_core::Outbox;

use super::connection::Connection;
use super::worker::Worker;

/// Slices in one vectored write.
const SLICES_MAX: usize = 64;
/// Bytes written to one connection before the next has its turn.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// What came of writing one outbox.
enum Written {
    /// Everything that was there, or nothing was there.
    All,
    /// Its share; more is left.
    Share,
    /// The socket takes no more for now.
    Blocked,
    /// The connection is broken.
    Broken,
}

/// Flushes whenever a connection has become dirty, for ever.
pub(super) async fn flush_for_ever(worker: Rc<Worker>) {
    let mut batch = Vec::new();
    let mut drained = Vec::new();
    let mut broken = Vec::new();
    loop {
        worker.wait_for_dirty(&mut batch).await;
        for connection in batch.drain(..) {
            connection.is_dirty.set(false);
            if connection.blocked_since().is_some() {
                continue;
            }
            let written = worker.with_shard(|shard| {
                let outbox = shard.outbox(connection.id())?;
                let full_before = outbox.len_bytes() >= worker.outbox_bytes_max();
                let written = write(outbox, &connection);
                let is_low = outbox.len_bytes() < worker.outbox_bytes_max() / 2;
                Some((written, full_before, is_low))
            });
            let Some((written, full_before, is_low)) = written else { continue };
            connection.is_full.set(connection.is_full.get() || full_before);
            if is_low && connection.is_full.take() {
                drained.push(connection.id());
            }
            match written {
                Written::All => {}
                Written::Share => worker.mark_dirty(&connection),
                Written::Blocked => worker.block(&connection),
                Written::Broken => broken.push(connection),
            }
        }
        worker.drained(&mut drained);
        for connection in broken.drain(..) {
            worker.lose(&connection);
        }
    }
}

/// Writes an outbox until it is empty, has had its share, or the socket takes no more.
fn write(outbox: &mut Outbox, connection: &Connection) -> Written {
    let mut total = 0;
    while !outbox.is_empty() {
        if total >= WRITE_BYTES_MAX {
            return Written::Share;
        }
        match write_once(outbox, |slices| connection.try_write(slices)) {
            Ok(bytes) => total += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
            Err(_) => return Written::Broken,
        }
    }
    Written::All
}

/// Makes one vectored write from the front of an outbox and returns the bytes that left it.
///
/// # Errors
/// What `write` answered; a write that takes nothing is one that would block.
pub(super) fn write_once(
    outbox: &mut Outbox,
    write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slices = Vec::new();
    outbox.slices(&mut slices, SLICES_MAX);
    let bytes = write(&slices)?;
    if bytes == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    outbox.advance(bytes);
    Ok(bytes)
}
