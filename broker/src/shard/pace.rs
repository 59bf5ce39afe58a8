//! What follows from what a client has sent: it is established, it is read later, or it has sent too much.

use std::rc::Rc;
use std::time::Instant;

use veilmq_core::Input;

use super::connection::Connection;
use super::meter::Pace;
use super::worker::Worker;

/// The Application Messages that a shard has received so far, if somebody's are measured.
pub(super) fn received_so_far(worker: &Worker) -> u64 {
    match worker.gate().meters() {
        None => 0,
        Some(_) => worker.with_shard(|shard| shard.stats().messages_received_so_far()),
    }
}

/// Does what follows from `bytes` that a client has sent, since this many messages had been received.
pub(super) fn heed(worker: &Worker, connection: &Rc<Connection>, received_before: u64, bytes: usize) {
    establish(worker, connection);
    let Some(meters) = worker.gate().meters() else { return };
    let messages = received_so_far(worker).saturating_sub(received_before);
    let user = || worker.with_shard(|shard| shard.user_on(connection.id()));
    let pace = connection.measure(|meter| {
        meters.identify(meter, user);
        meter.sent(messages, bytes, Instant::now())
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
