//! What the bridges ask of a shard: to take their connections, to show what waits for them, and to say how they fare.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::UnixStream;
use tracing::warn;
use veilmq_config::ListenerProtocol;
use veilmq_core::{ConnectionId, EntranceId, Input, Promise};

use super::gate;
use super::orders::Order;
use super::stream::Stream;
use super::worker::Worker;
use crate::bridge::{Visit, Visits};
use crate::listener::Carrier;

/// What carries MQTT between a bridge and its broker: nothing but the socket.
const CARRIER: Carrier = Carrier {
    protocol: ListenerProtocol::Mqtt,
    origins: None,
    message_bytes_max: 0,
    tls: None,
    proxies: None,
    // That of no listener, so that what one of them has of its own does not concern bridges.
    entrance: EntranceId(u16::MAX),
    promise: Promise::Stored,
    limit: None,
    port: 0,
    http_directory: None,
};

/// Takes bridges in until none can come any more.
pub(super) async fn receive_for_ever(worker: Rc<Worker>, mut visits: Visits) {
    while let Some(visit) = visits.recv().await {
        match visit {
            Visit::Connection { socket, bridge, errand, is_encrypted } => {
                let stream = UnixStream::from_std(socket).map(Stream::Unix);
                let taken = stream.map_err(|error| error.to_string()).and_then(|stream| {
                    let connection = take_in(&worker, stream, &bridge).map_err(str::to_owned)?;
                    worker.turn(Input::Bridged { connection, errand, is_encrypted });
                    Ok(())
                });
                if let Err(reason) = taken {
                    warn!(bridge = &*bridge, reason, "the bridge cannot connect to its own broker");
                }
            }
            Visit::Look { client_id, reply } => {
                let home = worker.with_shard(|shard| shard.home(&client_id));
                worker.exchange().order(home, Order::Show { client_id, subscriptions_max: 0, reply });
            }
            Visit::Announcement { topic, payload } => worker.announce(&[(topic, payload.to_owned())]),
        }
    }
}

fn take_in(worker: &Rc<Worker>, stream: Stream, bridge: &Arc<str>) -> Result<ConnectionId, &'static str> {
    let permit = gate::admit_own(worker)?;
    worker.accept(stream, &CARRIER, &format!("bridge {bridge}"), permit)
}
