//! The file of a client's state: it is written before anything else, and by one client at a time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::{runtime::Builder as RuntimeBuilder, time::timeout};
use veilmq_client::{Builder, ConnectError, QoS, Received};
use veilmq_protocol::ConnAck;

use crate::{
    Broker, LIMIT, message, next,
    parts::{Sender, keeping},
    sdk_support::resumed,
    waiting::{issuer, member},
};

/// Has a client fail to connect, and the words of its error.
async fn refused(builder: Builder) -> String {
    match timeout(LIMIT, builder.connect()).await.expect("an answer in time") {
        Err(ConnectError::State(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("connected"),
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_written_is_one_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    // What is written first cannot be.
    fs::create_dir(folder.path().join("c.state.new")).unwrap();

    for state in [&state, &folder.path().join("missing/c.state")] {
        for builder in [keeping(&broker, state), member(&broker), issuer(&broker)] {
            let error = refused(builder.state_file_with_key(state, crate::parts::key())).await;
            assert!(error.starts_with(state.to_str().unwrap()), "{error}");
        }
    }
}

#[tokio::test]
async fn an_issuer_whose_state_cannot_be_saved_any_more_does_not_connect() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let builder = issuer(&broker).state_file(&state);

    let answer = async {
        let connack = ConnAck::default();
        let mut peer = broker.accept(&connack).await;
        peer.grant_keys(6).await;
        let (topic, introduction) = peer.take_introduction().await;
        fs::create_dir(folder.path().join("c.state.new")).unwrap();
        peer.publish(&topic, &introduction, None, false).await;
        while let Some(packet) = peer.take_or_end().await {
            assert_ne!(packet[0] & 0xF0, 0x30, "PUBLISH");
        }
    };
    let (error, ()) = tokio::join!(refused(builder), answer);

    assert!(error.starts_with(state.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_state_has_one_client_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(keeping(&broker, &state)).await;

    let error = refused(keeping(&broker, &state)).await;
    assert!(error.starts_with(state.to_str().unwrap()) && error.contains("another client"), "{error}");
    peer.says_nothing().await;
    client.disconnect().await.unwrap();
    drop(peer);

    // A client that could not connect has let go of it too.
    for _ in 0..2 {
        let (refused, ()) = tokio::join!(keeping(&broker, &state).connect(), async {
            drop(broker.asked().await);
        });
        assert!(matches!(refused, Err(ConnectError::Failed { .. })), "{:?}", refused.err());
    }
}

#[tokio::test]
async fn a_connect_that_is_given_up_lets_go_of_the_state_and_is_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let sealed = Sender::new().seal("x");
    let (client, _) = broker.connected(keeping(&broker, &state)).await;
    client.disconnect().await.unwrap();

    // While CONNACK is waited for, and while the state is opened.
    for milliseconds in [30, 30, 1].into_iter().chain([0; 10]) {
        let connecting = keeping(&broker, &state).connect();
        assert!(timeout(Duration::from_millis(milliseconds), connecting).await.is_err(), "no broker answers");
    }
    // They may be in the queue of the listener.
    let broker = Broker::start().await;
    let connack = resumed();
    let builder = keeping(&broker, &state).accept_replay_after_crash(false);
    let (client, mut peer) = tokio::join!(builder.connect(), broker.accept(&connack));
    let mut messages = peer.grant(&client.unwrap(), "#").await;
    peer.send_part(QoS::AtLeastOnce, 1, true, &sealed[0]).await;

    assert_eq!(&message(&mut messages).await.payload[..], b"x");
}

/// What is written there waits until this is dropped.
#[cfg(unix)]
struct SlowDisk(PathBuf);

#[cfg(unix)]
impl SlowDisk {
    fn new(path: PathBuf) -> Self {
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }
}

#[cfg(unix)]
impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Whoever opens it for writing waits for a reader, which this is for as long as the test runs.
        std::mem::forget(fs::File::options().read(true).write(true).open(&self.0).unwrap());
        fs::remove_file(&self.0).unwrap();
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_and_are_acknowledged_while_the_disk_is_slow() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let (client, mut peer) = broker.connected(keeping(&broker, &state)).await;
    let mut messages = peer.grant(&client, "#").await;
    let mut sender = Sender::new();
    let disk = SlowDisk::new(folder.path().join("c.state.new"));

    for packet_id in 1..=20 {
        peer.send_part(QoS::AtLeastOnce, packet_id, false, &sender.seal("x")[0]).await;
        let taken = async {
            message(&mut messages).await;
            peer.take().await
        };
        let puback = timeout(Duration::from_secs(5), taken).await.expect("nothing waits for the disk");
        assert_eq!(puback[..2], [0x40, 2]);
        // Time for a save to begin.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = fs::read(&state).unwrap();
    drop(disk);
    client.disconnect().await.unwrap();

    assert_ne!(fs::read(&state).unwrap(), before, "the last save is not left out");
}

/// Ends without a word, after it had ended in order before.
fn crashed(state: &Path) {
    let runtime = RuntimeBuilder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = Broker::start().await;
        let (client, _peer) = broker.connected(keeping(&broker, state)).await;
        client.disconnect().await.unwrap();
        // Nothing comes and nothing is due, so nothing else says that it has run.
        std::mem::forget(broker.connected(keeping(&broker, state)).await);
    });
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_crash_is_known_for_one_although_nothing_was_saved_since_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let sealed = Sender::new().seal("x");
    let path = state.clone();
    std::thread::spawn(move || crashed(&path)).join().unwrap();

    let broker = Broker::start().await;
    let connack = resumed();
    let builder = keeping(&broker, &state).accept_replay_after_crash(false);
    let (client, mut peer) = tokio::join!(builder.connect(), broker.accept(&connack));
    let mut messages = peer.grant(&client.unwrap(), "#").await;
    peer.send_part(QoS::AtLeastOnce, 1, true, &sealed[0]).await;

    // It may have been received in the run that crashed.
    let received = next(&mut messages).await;
    assert!(matches!(received, Received::Refused { .. }));
}
