//! What the real broker tells the SDK's client on its own over a VEIL-1 channel: notices, tickets and a goodbye (VEIL-1 section 5.4).

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::timeout;
use veilmq_client::{Builder, Client, QoS, Status, identity as files};
use veilmq_protocol::veil::Roles;
use veilmq_protocol::veil::hello::{ClientHello, Opening};
use veilmq_protocol::{Packet, ProtocolVersion, next_frame};
use veilmq_tests::broker::Broker;
use veilmq_tests::members::{anchors, identity};
use veilmq_tests::tap::Tap;

const WAIT: Duration = Duration::from_secs(40);
const RETRY: Duration = Duration::from_millis(3_000);

/// A broker that trusts the authority of these tests, with a policy, short tickets, and a pause before clients come back.
fn broker(folder: &Path) -> Broker {
    let authority = folder.join("authority.vmc");
    files::save_certificate(&authority, anchors().iter().next().unwrap()).unwrap();
    Broker::start_configured(|address| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[veil]\ntrust = [{authority:?}]\nticket_seconds = 4\n\
             retry_milliseconds = {}\n[[e2e.policies]]\nname = \"readings\"\ntopics = \"readings/#\"\n",
            RETRY.as_millis()
        )
    })
}

fn builder(broker: &Broker, address: SocketAddr) -> Builder {
    let certificate = broker.data_dir().join("identity/broker.vmc");
    let press = identity("press", Roles::PUBLISHER | Roles::SUBSCRIBER, &["readings/#"]);
    let trust = files::load_anchors([&certificate]).unwrap();
    Client::builder("127.0.0.1", address.port()).identity(press).trust(trust)
}

async fn until_connected(client: &Client) {
    let connected = async {
        while !matches!(client.status(), Status::Connected { .. }) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, connected).await.expect("the client comes back");
}

async fn until_disconnected(client: &Client) {
    let gone = async {
        while matches!(client.status(), Status::Connected { .. }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT, gone).await.expect("the connection ends");
}

#[tokio::test]
async fn a_refused_publication_is_noticed_with_its_reason_at_every_qos() {
    let folder = TempDir::new().unwrap();
    let broker = broker(folder.path());
    let client = builder(&broker, broker.address()).connect().await.unwrap();
    let mut notices = client.watch_notice();

    for (qos, topic) in [
        (QoS::AtMostOnce, "readings/hall"),
        (QoS::AtLeastOnce, "readings/roof"),
        (QoS::ExactlyOnce, "readings/yard"),
    ] {
        let published = client.publish_plain(topic, "19.5").qos(qos).send().await;
        assert_eq!(published.is_ok(), qos == QoS::AtMostOnce, "QoS 0 has no other answer than the notice");

        timeout(WAIT, notices.changed()).await.expect("there is a notice").unwrap();
        let notice = notices.borrow().clone().unwrap();
        assert!(notice.contains(topic) && notice.contains("not sealed end to end"), "{notice}");
        assert!(!notice.contains("19.5"), "{notice}");
    }
}

#[tokio::test]
async fn a_client_that_is_told_goodbye_comes_back_no_sooner_than_it_was_told() {
    let folder = TempDir::new().unwrap();
    let mut broker = broker(folder.path());
    let client = builder(&broker, broker.address()).connect().await.unwrap();

    broker.terminate(30);
    let ended = Instant::now();
    until_disconnected(&client).await;
    broker.restart();
    until_connected(&client).await;

    let pause = ended.elapsed();
    // The goodbye came before the process ended, and the times of two processes are compared.
    assert!(pause + Duration::from_millis(500) >= RETRY, "{pause:?}");
}

/// Whether a connection begins with a ticket.
fn resumes(bytes: &[u8]) -> bool {
    let (frame, _) = next_frame(bytes, usize::MAX).unwrap().unwrap();
    let Packet::Connect(connect) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
        panic!("CONNECT")
    };
    let hello = ClientHello::parse(connect.properties.authentication_data.unwrap()).unwrap();
    matches!(hello.opening, Opening::Resume { .. })
}

#[tokio::test]
async fn a_client_that_stays_longer_than_its_ticket_comes_back_with_another() {
    let folder = TempDir::new().unwrap();
    let broker = broker(folder.path());
    let tap = Tap::start(broker.address());
    let client = builder(&broker, tap.address()).connect().await.unwrap();

    // The ticket of CONNACK is over after four seconds; one that comes every two is not.
    tokio::time::sleep(Duration::from_millis(5_000)).await;
    let before = tap.captured();
    tap.cut();
    until_disconnected(&client).await;
    until_connected(&client).await;
    client.publish_plain("open/hall", "19.5").qos(QoS::AtLeastOnce).send().await.unwrap();

    assert!(!resumes(&before) && resumes(&tap.captured()[before.len()..]));
}
