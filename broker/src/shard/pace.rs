//! What follows from what a client has sent: it is established, it is read later, or it has sent too much.

use std::rc::Rc;
use std::time::Instant;

use veilmq_core::Input;

use super::connection::Connection;
use super::meter::{Amount, Pace};
use super::worker::Worker;

/// What a shard has received so far, if somebody's messages are measured.
pub(super) fn received_so_far(worker: &Worker) -> Amount {
    match worker.meters() {
        None => Amount::default(),
        Some(_) => worker.with_shard(|shard| Amount {
            messages: shard.stats().messages_received_so_far(),
            deliveries: shard.stats().message_targets_so_far(),
            bytes: 0,
        }),
    }
}

/// Does what follows from `bytes` that a client has sent, since this much had been received.
pub(super) fn heed(worker: &Worker, connection: &Rc<Connection>, before: Amount, bytes: usize) {
    establish(worker, connection);
    let Some(meters) = worker.meters() else { return };
    let sent = Amount { bytes: bytes as u64, ..received_so_far(worker).since(before) };
    let user = || worker.with_shard(|shard| shard.user_on(connection.id()));
    let pace = connection.measure(|meter| {
        meters.identify(meter, user);
        meter.sent(sent, Instant::now())
    });
    match pace {
        None | Some(Pace::Within) => {}
        Some(Pace::Exceeded) => worker.turn(Input::TooFast { connection: connection.id() }),
        Some(Pace::Wait(time)) => {
            worker.counters().read_throttled();
            connection.is_throttled.set(true);
            let connection = Rc::clone(connection);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(time).await;
                connection.is_throttled.set(false);
                connection.wake();
            });
        }
    }
}

/// Takes note that a connection is established, once it is.
pub(super) fn establish(worker: &Worker, connection: &Connection) {
    if connection.is_opening() && worker.with_shard(|shard| shard.is_established(connection.id())) {
        connection.established();
    }
}
