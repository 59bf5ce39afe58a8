//! What the tests of sealed messages share: a broker with its clients, and what they send and read.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use veilmq_client::e2e::OpenError;
use veilmq_client::e2e::distribution::{Admission, IssuePolicy};
use veilmq_client::{Builder, Client, Message, QoS, Received, Subscription};
use veilmq_protocol::veil::Roles;
use veilmq_protocol::veil::channel::Identity;
use veilmq_tests::carrier::Carrier;
use veilmq_tests::members::{anchors, identity};

pub(crate) const SCOPE: &str = "factory/#";
pub(crate) const TOPIC: &str = "factory/line-3/t";
pub(crate) const SECRET: &str = "the recipe is 21 parts of flour";
pub(crate) const WAIT: Duration = Duration::from_secs(40);
/// How long the tests let a key be announced before it is used, in milliseconds.
pub(crate) const LEAD_MS: u64 = 300;

/// A broker, and a folder for what its clients keep.
pub(crate) struct Plant {
    pub(crate) carrier: Carrier,
    folder: TempDir,
}

impl Plant {
    pub(crate) fn new(carrier: Carrier) -> Self {
        Self { carrier, folder: tempfile::tempdir().unwrap() }
    }

    /// A party that keeps its state from one connection to the next.
    pub(crate) fn party(&self, identity: &Arc<Identity>) -> Builder {
        let state = self.folder.path().join(identity.kid().to_string());
        let client = self.carrier.client().identity(Arc::clone(identity)).trust(anchors()).without_channel();
        client.state_file(state).reconnect(false)
    }

    pub(crate) async fn publisher(
        &self,
        identity: &Arc<Identity>,
        members: &[&Identity],
        scope: &str,
    ) -> Client {
        let mut builder = self.party(identity).issue_scope(scope, policy()).unwrap();
        for member in members {
            builder = builder.admit(scope, member.certificate().clone()).unwrap();
        }
        builder.connect().await.unwrap()
    }

    pub(crate) async fn reader(&self, identity: &Arc<Identity>, filter: &str) -> (Client, Subscription) {
        let client = self.party(identity).join_scope(SCOPE).unwrap().connect().await.unwrap();
        let messages = client.subscribe(filter).qos(QoS::AtLeastOnce).await.unwrap();
        (client, messages)
    }

    /// Someone without any key, who sees what the broker sees and says what the broker can say.
    pub(crate) async fn meddler(&self) -> Client {
        self.carrier.client().client_id("meddler").connect().await.unwrap()
    }
}

pub(crate) fn policy() -> IssuePolicy {
    IssuePolicy {
        key_lead_ms: LEAD_MS,
        removal_lead_ms: LEAD_MS,
        settle_ms: 50,
        admission: Admission::Named,
        ..IssuePolicy::default()
    }
}

/// Until an epoch that was asked for just now is in use.
pub(crate) async fn activation() {
    sleep(Duration::from_millis(LEAD_MS + 1_000)).await;
}

pub(crate) fn press() -> Arc<Identity> {
    identity("press", Roles::PUBLISHER, &[SCOPE])
}

pub(crate) fn reader(name: &str) -> Arc<Identity> {
    identity(name, Roles::SUBSCRIBER, &[SCOPE])
}

pub(crate) async fn next(messages: &mut Subscription) -> Received {
    timeout(WAIT, messages.next()).await.expect("something arrives").expect("the client is not closed")
}

pub(crate) async fn message(messages: &mut Subscription) -> Message {
    match next(messages).await {
        Received::Message(message) => message,
        Received::Refused { topic, error } => panic!("{topic} was refused: {error}"),
        Received::Missed { count } => panic!("{count} messages were missed"),
    }
}

pub(crate) async fn text(messages: &mut Subscription) -> String {
    String::from_utf8(message(messages).await.payload.to_vec()).unwrap()
}

pub(crate) async fn refusal(messages: &mut Subscription) -> OpenError {
    match next(messages).await {
        Received::Refused { error, .. } => error,
        Received::Message(message) => panic!("{} was accepted", message.topic),
        Received::Missed { count } => panic!("{count} messages were missed"),
    }
}

pub(crate) async fn publish(client: &Client, topic: &str, payload: impl AsRef<[u8]>, retain: bool) {
    let publication = client.publish(topic, payload).qos(QoS::AtLeastOnce).retain(retain);
    timeout(WAIT, publication.send()).await.expect("the broker answers").unwrap();
}

/// Publishes, and gives what the meddler has seen of it.
pub(crate) async fn observed(
    client: &Client,
    seen: &mut Subscription,
    payload: &str,
    retain: bool,
) -> Vec<u8> {
    publish(client, TOPIC, payload, retain).await;
    message(seen).await.payload.to_vec()
}

pub(crate) async fn spy(meddler: &Client, filter: &str) -> Subscription {
    meddler.subscribe(filter).qos(QoS::AtLeastOnce).await.unwrap()
}
