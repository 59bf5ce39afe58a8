//! When a client connects again.

use std::time::Instant;

use super::*;

/// Ends connections as soon as they are accepted, and returns how long the next one took to come.
async fn pause_after(broker: &Broker, peer: Peer) -> (Duration, Peer) {
    drop(peer);
    let lost = Instant::now();
    let peer = broker.accept(&resumed()).await;
    (lost.elapsed(), peer)
}

#[tokio::test]
async fn a_broker_that_takes_connections_and_ends_them_is_asked_less_and_less() {
    let broker = Broker::start().await;
    let backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_millis(640) };
    let (_client, mut peer) = broker.connected(broker.client().backoff(backoff)).await;

    let mut pause;
    for attempt in 0..5 {
        (pause, peer) = pause_after(&broker, peer).await;

        // From the upper half of a pause on.
        assert!(pause >= Duration::from_millis(10 << attempt), "{attempt}: {pause:?}");
    }
    tokio::time::sleep(backoff.max).await;
    let (pause, _peer) = pause_after(&broker, peer).await;

    assert!(
        pause < Duration::from_millis(320),
        "after a connection that lasted it is the first one: {pause:?}"
    );
}
