//! What an issuer answers when a member is to be taken out: not before it is saved, and with when others hear of it.

use std::{fs, path::Path};

use veilmq_client::{
    Announcement, Builder, Client, KeyChange, KeyRequestError,
    e2e::distribution::{Admission, IssuePolicy, Rotation},
};
use veilmq_protocol::veil::{Certificate, Roles};

use crate::{
    Broker, Peer,
    offline::gone,
    parts::saved_again,
    waiting::issuer,
    world::{self, SCOPE},
};

/// An issuer that has issued, with its state in a file and one member, and the broker's end of its connection.
async fn issuing(broker: &Broker, state: &Path) -> (Client, Peer) {
    let builder: Builder = issuer(broker).state_file(state);
    let connack = veilmq_protocol::ConnAck::default();
    let answer = async {
        let mut peer = broker.accept(&connack).await;
        peer.retains_nothing(6).await;
        peer.take_head().await;
        peer
    };
    let (client, mut peer) = tokio::join!(builder.connect(), answer);
    let client = client.unwrap();
    let member = world::identity("reader", Roles::SUBSCRIBER, &[]);
    assert_eq!(client.admit(SCOPE, member.certificate().clone()).await, Ok(true));
    // The head that it brings about comes when what changes has settled.
    peer.take_head().await;
    (client, peer)
}

async fn remove(client: &Client) -> Result<KeyChange, KeyRequestError> {
    let kid = world::identity("reader", Roles::SUBSCRIBER, &[]).kid();
    client.remove_member(SCOPE, kid, Rotation::Removal).await
}

#[tokio::test]
async fn a_removal_that_cannot_be_saved_is_an_error_and_announced_once_it_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let (client, mut peer) = issuing(&broker, &state).await;
    let obstacle = folder.path().join("c.state.new");
    fs::create_dir(&obstacle).unwrap();

    let Err(KeyRequestError::Unsaved(error)) = remove(&client).await else { panic!("answered as done") };
    assert!(error.starts_with(state.to_str().unwrap()), "{error}");
    peer.says_nothing().await;

    fs::remove_dir(&obstacle).unwrap();
    peer.take_head().await;
    let again = KeyChange { changed: false, announcement: Announcement::Now };
    assert_eq!(remove(&client).await, Ok(again), "it is out");
}

#[tokio::test]
async fn a_removal_is_saved_without_a_connection_and_says_that_it_is_announced_later() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let (client, peer) = issuing(&broker, &state).await;
    assert_eq!(client.rotate(SCOPE, Rotation::Ordinary).await, Ok(Announcement::Now));
    gone(broker, peer, &client).await;
    let (before, obstacle) = (fs::read(&state).unwrap(), folder.path().join("c.state.new"));

    fs::create_dir(&obstacle).unwrap();
    assert!(matches!(remove(&client).await, Err(KeyRequestError::Unsaved(_))));
    fs::remove_dir(&obstacle).unwrap();
    saved_again(&state, &before).await;

    // The request before has taken the member out.
    let later = KeyChange { changed: false, announcement: Announcement::WhenConnected };
    assert_eq!(remove(&client).await, Ok(later));
}

#[tokio::test]
async fn who_was_taken_out_stays_out_though_the_program_names_it_at_each_start() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let (client, mut peer) = issuing(&broker, &state).await;
    remove(&client).await.unwrap();
    peer.take_head().await;
    client.disconnect().await.unwrap();
    let member = world::identity("reader", Roles::SUBSCRIBER, &[]).certificate().clone();

    let connack = veilmq_protocol::ConnAck::default();
    let again = issuer(&broker).state_file(&state).admit(SCOPE, member.clone()).unwrap();
    let answer = async {
        let mut peer = broker.accept(&connack).await;
        peer.retains_nothing(6).await;
        peer
    };
    let (client, _peer) = tokio::join!(again.connect(), answer);

    assert_eq!(client.unwrap().admit(SCOPE, member).await, Ok(true), "it was none");
}

/// A publisher that gives pairs to the subscribers of these names, and keeps its state; and the broker's end of its connection.
async fn giving_pairs(broker: &Broker, state: &Path, names: &[&str]) -> (Client, Peer) {
    let builder = broker
        .client()
        .identity(world::identity("press", Roles::PUBLISHER, &[]))
        .trust(world::anchors())
        .without_channel()
        .issue_pairs(IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() })
        .state_file(state);
    let builder = names.iter().fold(builder, |builder, name| builder.admit_to_pairs(subscriber(name)));
    let connack = veilmq_protocol::ConnAck::default();
    let answer = async {
        let mut peer = broker.accept(&connack).await;
        peer.grant_keys(2).await;
        peer.take_introduction().await;
        peer
    };
    let (client, peer) = tokio::join!(builder.connect(), answer);
    (client.unwrap(), peer)
}

fn subscriber(name: &str) -> Certificate {
    world::identity(name, Roles::SUBSCRIBER, &[]).certificate().clone()
}

#[tokio::test]
async fn whose_pair_was_taken_away_stays_out_though_the_program_names_it_at_each_start() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("c.state");
    let broker = Broker::start().await;
    let names = ["removed", "kept"];
    let (client, _peer) = giving_pairs(&broker, &state, &names).await;
    let [removed, kept] = names.map(|name| subscriber(name).kid());
    assert_eq!(client.remove_pair(removed).await, Ok(true), "it was named");
    client.disconnect().await.unwrap();

    let (client, _peer) = giving_pairs(&broker, &state, &names).await;

    assert_eq!(client.remove_pair(removed).await, Ok(false), "it was not let in");
    assert_eq!(client.remove_pair(kept).await, Ok(true));
    assert_eq!(client.admit_to_pairs(subscriber("removed")).await, Ok(true));
    assert_eq!(client.remove_pair(removed).await, Ok(true), "by name it comes back");
}
