//! What has its time has it while there is no connection too.

use std::time::Duration;

use tokio::time::timeout;
use veilmq_client::{Client, PublishError, QoS, Status, e2e::SealError};

use crate::{
    Broker, LIMIT, Peer, message,
    parts::{Sender, keeping, saved_again},
    waiting::member,
    world::TOPIC,
};

/// The broker is gone, and the client knows it.
pub(crate) async fn gone(broker: Broker, peer: Peer, client: &Client) {
    drop((broker, peer));
    let is_known = async {
        while matches!(client.status(), Status::Connected { .. }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, is_known).await.unwrap();
}

#[tokio::test]
async fn what_is_taken_while_there_is_no_connection_is_saved_as_received() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(keeping(&broker, &state)).await;
    let mut messages = peer.grant(&client, "#").await;
    peer.send_part(QoS::AtLeastOnce, 1, false, &Sender::new().seal("x")[0]).await;
    peer.says_nothing().await;
    gone(broker, peer, &client).await;
    let before = std::fs::read(&state).unwrap();

    assert_eq!(&message(&mut messages).await.payload[..], b"x");

    saved_again(&state, &before).await;
}

#[tokio::test]
async fn a_publication_waits_no_longer_for_a_key_when_there_is_no_connection() {
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(member(&broker)).await;
    peer.grant_keys(4).await;
    peer.take_introduction().await;
    let pending = client.publish(TOPIC, "hi").qos(QoS::AtLeastOnce).submit().await.unwrap();
    gone(broker, peer, &client).await;

    tokio::time::pause();
    let settled = timeout(Duration::from_secs(60), pending.settled()).await.unwrap();

    let failed = PublishError::Seal { topic: TOPIC.to_owned(), error: SealError::NoKey };
    assert_eq!(settled, Err(failed));
}
