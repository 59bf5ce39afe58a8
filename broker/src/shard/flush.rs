//! The flush step: writes what the turns have put into outboxes, once for each connection and batch.
//!
//! It is a task like the others and runs after all that were ready before it was woken, so that the messages of many reads leave
//! in one write for each subscriber. A socket that takes no more is left to its connection's own task.

use std::rc::Rc;

use veilmq_core::{ConnectionId, Shard};

use super::socket::Written;
use super::worker::Worker;

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
                connection.is_full.set(connection.is_full.get() || is_full(&worker, connection.id()));
                continue;
            }
            let written = worker.with_shard(|shard| {
                let outbox_bytes_max = shard.outbox_bytes_max();
                shard.write(connection.id(), |outbox| {
                    let full_before = outbox.len_bytes() >= outbox_bytes_max;
                    let written = connection.write(outbox);
                    let is_low = outbox.len_bytes() < outbox_bytes_max / 2;
                    (written, full_before, is_low)
                })
            });
            let Some((written, full_before, is_low)) = written else { continue };
            connection.is_full.set(connection.is_full.get() || full_before);
            if is_low && connection.is_full.take() {
                drained.push(connection.id());
                // It may not have been read because it did not take what it had asked for.
                connection.wake();
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

/// Tells whether the outbox of a connection is at its limit.
fn is_full(worker: &Worker, connection: ConnectionId) -> bool {
    let full = |shard: &mut Shard| {
        let maximum = shard.outbox_bytes_max();
        shard.write(connection, |outbox| outbox.len_bytes() >= maximum)
    };
    worker.with_shard(full).unwrap_or_default()
}
