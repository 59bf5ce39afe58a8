//! The paper to the letter, in each of its schemes: a publisher that answers a subscriber's join while the subscriber connects, through
//! the real broker, with the packets of its fifteen steps.
//!
//! What the wire carries is read by a tap before each party.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use veilmq_client::e2e::distribution::{Admission, IssuePolicy};
use veilmq_client::e2e::{EnvelopeOptions, OpenError, Provenance};
use veilmq_client::{Builder, Client, Message, QoS, Received, Status, Subscription, identity as files};
use veilmq_protocol::veil::channel::Identity;
use veilmq_protocol::veil::distribution::{JoinRequest, Pair};
use veilmq_protocol::veil::hello::{ClientHello, Opening, ServerAnswer, Wait};
use veilmq_protocol::veil::record::RecordType;
use veilmq_protocol::veil::{Kid, Roles, Scheme, Suite};
use veilmq_protocol::{Packet, ProtocolVersion, ReasonCode, next_frame};
use veilmq_tests::broker::Broker;
use veilmq_tests::members::{anchors, identity};
use veilmq_tests::tap::Tap;

const WAIT: Duration = Duration::from_secs(40);
const TEXT: &str = "the recipe is 21 parts of flour";
/// What a JOIN_FIN begins with.
const CONFIRMATION: &[u8] = b"VE\x19";
/// So long an issuer does not say anew who its members are, so that keys come by asking or not at all.
const SETTLE_MS: u64 = 600_000;

/// A broker that serves the modes of the paper, and what its clients know it by.
struct Stage {
    broker: Broker,
    folder: TempDir,
    certificate: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority_file(folder.path());
        let broker = Broker::start_configured(|address| {
            format!(
                "[[listeners]]\naddress = \"{address}\"\n[veil]\ntrust = [{authority:?}]\n\
                 paper_modes = [\"paper-1\", \"paper-2\", \"paper-3\", \"paper-4\"]\n"
            )
        });
        let certificate = broker.data_dir().join("identity/broker.vmc");
        Self { broker, folder, certificate }
    }

    /// Describes a client that follows the paper.
    fn party(&self, address: SocketAddr, identity: &Arc<Identity>, scheme: Scheme) -> Builder {
        let authority = authority_file(self.folder.path());
        let trust = files::load_anchors([self.certificate.as_path(), authority.as_path()]).unwrap();
        let name = files::load_certificate(&self.certificate).unwrap().subject.clone();
        Client::builder("127.0.0.1", address.port())
            .identity(Arc::clone(identity))
            .trust(trust)
            .broker_name(&name)
            .paper(scheme)
            .reconnect(false)
    }

    fn tap(&self) -> Tap {
        Tap::start(self.broker.address())
    }

    fn joins(&self, result: &str) -> Option<f64> {
        self.broker.metric(&format!("veilmq_join_total{{result=\"{result}\"}}"))
    }
}

fn authority_file(folder: &Path) -> PathBuf {
    let file = folder.join("authority.vmc");
    if !file.exists() {
        files::save_certificate(&file, anchors().iter().next().unwrap()).unwrap();
    }
    file
}

fn press() -> Arc<Identity> {
    identity("press", Roles::PUBLISHER, &["factory/#", &format!("{}#", Pair::TOPICS)])
}

fn reader(name: &str) -> Arc<Identity> {
    identity(name, Roles::SUBSCRIBER, &["factory/#", &format!("{}#", Pair::TOPICS)])
}

/// The scope and the topic of what a subscriber gets: in Schemes 1 and 2 it has a key and messages of its own.
fn place(scheme: Scheme, subscriber: Kid) -> (String, String) {
    match scheme {
        Scheme::One | Scheme::Two => {
            (Pair { publisher: press().kid(), subscriber }.to_string(), Pair::topic(subscriber, "factory/t"))
        }
        Scheme::Three | Scheme::Four => ("factory/#".to_owned(), "factory/t".to_owned()),
    }
}

/// The publisher's part of it, and the filter of what the subscriber gets.
fn giving(publisher: Builder, scope: &str) -> (Builder, String) {
    match Pair::parse(scope) {
        Some(pair) => (publisher.issue_pairs(policy()), pair.filter()),
        None => (publisher.issue_scope(scope, policy()).unwrap(), scope.to_owned()),
    }
}

/// The subscriber's part of it, with the request in CONNECT.
fn asking(subscriber: Builder, scope: &str, publisher: Kid) -> Builder {
    match Pair::parse(scope) {
        Some(_) => subscriber.join_pair(publisher).ask_pair_with_connect(publisher),
        None => subscriber.join_scope(scope).unwrap().ask_with_connect(scope, publisher).unwrap(),
    }
}

fn policy() -> IssuePolicy {
    IssuePolicy { settle_ms: SETTLE_MS, ..IssuePolicy::default() }
}

async fn next(messages: &mut Subscription) -> Received {
    timeout(WAIT, messages.next()).await.expect("something arrives").expect("the client is not closed")
}

async fn message(messages: &mut Subscription) -> Message {
    match next(messages).await {
        Received::Message(message) => message,
        Received::Refused { topic, error } => panic!("{topic} was refused: {error}"),
        Received::Missed { count } => panic!("{count} messages were missed"),
    }
}

async fn publish(client: &Client, topic: &str, retain: bool) {
    let publication = client.publish(topic, TEXT).qos(QoS::AtLeastOnce).retain(retain);
    timeout(WAIT, publication.send()).await.expect("the broker answers").unwrap();
}

fn holds(bytes: &[u8], piece: &[u8]) -> bool {
    bytes.windows(piece.len()).any(|window| window == piece)
}

/// Takes the next packet off what a tap has captured.
fn packet<'a>(captured: &mut &'a [u8]) -> Packet<'a> {
    let (frame, len) = next_frame(captured, usize::MAX).unwrap().expect("a whole packet");
    *captured = &captured[len..];
    Packet::decode(frame, ProtocolVersion::V5).unwrap()
}

/// The types of the records that follow, of both directions; each was written and read at once.
fn record_types(mut captured: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let Some((head, rest)) = captured.split_first_chunk::<5>() {
        let [kind, length @ ..] = *head;
        types.push(kind & 0x7F);
        captured = rest.get(u32::from_be_bytes(length) as usize..).unwrap_or_default();
    }
    types
}

/// The handshake of a party that does not ask for keys: its CONNECT says what it wants, and CONNACK grants it.
fn check_compact(captured: &mut &[u8], scheme: Scheme) {
    let Packet::Connect(connect) = packet(captured) else { panic!("CONNECT") };
    let hello = ClientHello::parse(connect.properties.authentication_data.unwrap()).unwrap();
    assert!(matches!(hello.opening, Opening::Compact { .. }));
    assert_eq!((hello.suites, hello.join_request), (&[1][..], None));
    check_connack(captured, scheme);
}

fn check_connack(captured: &mut &[u8], scheme: Scheme) {
    let Packet::ConnAck(connack) = packet(captured) else { panic!("CONNACK") };
    assert_eq!(connack.reason, ReasonCode::Success);
    let answer = ServerAnswer::parse_compact(connack.properties.authentication_data.unwrap()).unwrap();
    assert_eq!((answer.hello.scheme, answer.hello.suite), (scheme, Suite::Aes256CbcHmacSha256));
}

/// Takes an AUTH with Reason Code 0x18 off, and returns what it says.
fn auth<'a>(captured: &mut &'a [u8]) -> &'a [u8] {
    let Packet::Auth(auth) = packet(captured) else { panic!("AUTH") };
    assert_eq!((auth.reason, auth.method), (ReasonCode::ContinueAuthentication, Some("VEIL-1")));
    auth.data.unwrap()
}

async fn the_fifteen_steps(scheme: Scheme) {
    timeout(WAIT, steps(scheme)).await.expect("the steps end");
}

async fn steps(scheme: Scheme) {
    let stage = Stage::new();
    let (press, lake) = (press(), reader("lake"));
    let (scope, topic) = place(scheme, lake.kid());
    let (press_tap, lake_tap) = (stage.tap(), stage.tap());

    // Steps 1 to 4: the publisher's CONNECT with its ClientHello, its verification, CONNACK with the broker's.
    let (publisher, filter) = giving(stage.party(press_tap.address(), &press, scheme), &scope);
    let publisher = publisher.connect().await.unwrap();
    // Steps 5 to 15, which the subscriber is through when it is connected.
    let subscriber = asking(stage.party(lake_tap.address(), &lake, scheme), &scope, press.kid());
    let subscriber = subscriber.connect().await.unwrap();
    let mut messages = subscriber.subscribe(&filter).qos(QoS::AtLeastOnce).await.unwrap();
    publish(&publisher, &topic, false).await;
    let read = message(&mut messages).await;

    assert_eq!(read.payload, TEXT.as_bytes());
    assert_eq!(stage.joins("answered"), Some(1.0));
    let is_readable = matches!(scheme, Scheme::One | Scheme::Four);
    while is_readable && !holds(&press_tap.captured(), CONFIRMATION) {
        sleep(Duration::from_millis(20)).await;
    }
    let (at_press, at_lake) = (press_tap.captured(), lake_tap.captured());
    let mut rest = at_press.as_slice();
    check_compact(&mut rest, scheme);

    let mut rest = at_lake.as_slice();
    // Step 5: CONNECT with the request for the publisher.
    let Packet::Connect(connect) = packet(&mut rest) else { panic!("CONNECT") };
    let hello = ClientHello::parse(connect.properties.authentication_data.unwrap()).unwrap();
    let request = hello.join_request.expect("the request is in CONNECT");
    let parsed = JoinRequest::parse(request).unwrap();
    assert_eq!((parsed.issuer, &*parsed.scope), (press.kid(), &*scope));
    // Steps 6 to 8: the broker checks it and passes it on; the publisher sees it byte for byte, and others only where packets are
    // not encrypted.
    assert_eq!(holds(&at_press, request), is_readable);
    // Steps 9 to 12: the broker asks the subscriber to wait, which it does.
    assert_eq!(auth(&mut rest), Wait::Asked.to_bytes());
    assert_eq!(auth(&mut rest), Wait::Acknowledged.to_bytes());
    // Step 13: the publisher's answer, with the nonce of the request.
    assert_eq!(holds(&at_press, &[b"VE\x18".as_slice(), &parsed.nonce].concat()), is_readable);
    // Step 14: CONNACK, which brings it.
    check_connack(&mut rest, scheme);
    // Step 15, and the confirmation behind it: the subscriber has verified the answer and has the key, with which it has read.
    assert_eq!(holds(&at_press, CONFIRMATION), is_readable);

    match scheme {
        Scheme::One => {
            let (Packet::Publish(_) | Packet::Subscribe(_)) = packet(&mut rest) else { panic!("plain MQTT") };
        }
        Scheme::Two => assert_only(rest, &[RecordType::Encrypted, RecordType::Control]),
        Scheme::Three => {
            let all = [RecordType::Encrypted, RecordType::FanGroupEncrypted, RecordType::Control];
            assert_only(rest, &all);
        }
        Scheme::Four => {
            assert_only(rest, &[RecordType::Integrity, RecordType::FanGroup, RecordType::Control]);
        }
    }
    // Suite 1 end to end as well; under the key of a pair in Schemes 1 and 2.
    let flags = if matches!(scheme, Scheme::One | Scheme::Two) { 0x80 } else { 0 };
    assert_eq!(holds(&at_lake, &[b'V', b'E', 0x10, 0x01, flags]), is_readable);
    assert!(!holds(&at_lake, TEXT.as_bytes()) && !holds(&at_press, TEXT.as_bytes()));
}

/// Holds what was captured to these types of records, of which each is there.
fn assert_only(captured: &[u8], expected: &[RecordType]) {
    let types = record_types(captured);
    let expected: Vec<u8> = expected.iter().map(|kind| *kind as u8).collect();
    assert!(types.iter().all(|kind| expected.contains(kind)), "{types:?}");
    let needed = expected.iter().filter(|kind| **kind != RecordType::Control as u8);
    assert!(needed.clone().all(|kind| types.contains(kind)), "{types:?}");
}

#[tokio::test]
async fn the_fifteen_steps_of_scheme_1() {
    the_fifteen_steps(Scheme::One).await;
}

#[tokio::test]
async fn the_fifteen_steps_of_scheme_2() {
    the_fifteen_steps(Scheme::Two).await;
}

#[tokio::test]
async fn the_fifteen_steps_of_scheme_3() {
    the_fifteen_steps(Scheme::Three).await;
}

#[tokio::test]
async fn the_fifteen_steps_of_scheme_4() {
    the_fifteen_steps(Scheme::Four).await;
}

#[tokio::test]
async fn a_subscriber_of_its_own_asks_again_once_its_publisher_is_there() {
    let stage = Stage::new();
    let (press, lake) = (press(), reader("lake"));
    let pair = Pair { publisher: press.kid(), subscriber: lake.kid() };
    let subscriber =
        asking(stage.party(stage.broker.address(), &lake, Scheme::Two), &pair.to_string(), press.kid());
    let subscriber = timeout(WAIT, subscriber.connect()).await.unwrap().unwrap();
    let mut messages = subscriber.subscribe(&pair.filter()).qos(QoS::AtLeastOnce).await.unwrap();
    assert_eq!(stage.joins("pending"), Some(1.0));

    let publisher = stage.party(stage.broker.address(), &press, Scheme::Two).issue_pairs(policy());
    let publisher = publisher.connect().await.unwrap();
    publish(&publisher, &Pair::topic(lake.kid(), "factory/t"), false).await;

    assert_eq!(message(&mut messages).await.payload, TEXT.as_bytes());
}

#[tokio::test]
async fn while_the_publisher_is_away_a_subscriber_connects_all_the_same_and_reads_what_is_retained() {
    let stage = Stage::new();
    let (press, lake) = (press(), reader("lake"));
    let (scope, topic) = place(Scheme::Four, lake.kid());
    let publisher = stage.party(stage.broker.address(), &press, Scheme::Four);
    let publisher = publisher.issue_scope(&scope, policy()).unwrap();
    let publisher = publisher.admit(&scope, lake.certificate().clone()).unwrap().connect().await.unwrap();
    publish(&publisher, &topic, true).await;
    publisher.disconnect().await.unwrap();

    let subscriber = stage.party(stage.broker.address(), &lake, Scheme::Four);
    let subscriber = subscriber.join_scope(&scope).unwrap().ask_with_connect(&scope, press.kid()).unwrap();
    let subscriber = subscriber.connect().await.unwrap();

    assert_eq!(stage.joins("pending"), Some(1.0));
    let mut messages = subscriber.subscribe(&topic).qos(QoS::AtLeastOnce).await.unwrap();
    assert_eq!(message(&mut messages).await.payload, TEXT.as_bytes());
}

#[tokio::test]
async fn a_subscriber_that_the_publisher_refuses_is_connected_and_reads_nothing() {
    let stage = Stage::new();
    let (press, hill) = (press(), reader("hill"));
    let (scope, topic) = place(Scheme::Four, hill.kid());
    let named = IssuePolicy { admission: Admission::Named, ..policy() };
    let publisher = stage.party(stage.broker.address(), &press, Scheme::Four);
    let publisher = publisher.issue_scope(&scope, named).unwrap().connect().await.unwrap();
    let subscriber = stage.party(stage.broker.address(), &hill, Scheme::Four);
    let subscriber = subscriber.join_scope_with(&scope, EnvelopeOptions::default()).unwrap();
    let subscriber = subscriber.ask_with_connect(&scope, press.kid()).unwrap().connect().await.unwrap();

    let mut messages = subscriber.subscribe(&scope).qos(QoS::AtLeastOnce).await.unwrap();
    publish(&publisher, &topic, false).await;

    assert_eq!(stage.joins("answered"), Some(1.0), "the refusal is the publisher's");
    let Received::Refused { error, .. } = next(&mut messages).await else { panic!("it was read") };
    assert_eq!(error, OpenError::NoKey { epoch: 1 });
    assert!(matches!(subscriber.status(), Status::Connected { .. }));
}

#[test]
fn each_mode_that_is_served_is_warned_of_at_the_start() {
    let stage = Stage::new();

    let log = stage.broker.log();

    for mode in ["paper-1", "paper-2", "paper-3", "paper-4"] {
        assert!(log.lines().any(|line| line.contains("veil.paper_modes") && line.contains(mode)), "{mode}");
    }
}

#[tokio::test]
async fn what_is_retained_for_one_follows_the_key_of_the_pair_and_goes_with_it() {
    for restarts in [false, true] {
        let stage = Stage::new();
        let (press, lake) = (press(), reader("lake"));
        let pair = Pair { publisher: press.kid(), subscriber: lake.kid() };
        // The next key is asked for after three seconds.
        let policy = || IssuePolicy { rotate_every_ms: 3_000, ..policy() };
        let publisher = || {
            let publisher = stage.party(stage.broker.address(), &press, Scheme::Two).issue_pairs(policy());
            publisher.state_file(stage.folder.path().join("press.state"))
        };
        let mut client = publisher().connect().await.unwrap();
        let subscriber = stage.party(stage.broker.address(), &lake, Scheme::Two).join_pair(press.kid());
        let subscriber = subscriber.connect().await.unwrap();
        let mut messages = subscriber.subscribe(&pair.filter()).qos(QoS::AtLeastOnce).await.unwrap();
        publish(&client, &Pair::topic(lake.kid(), "factory/t"), true).await;
        let first = message(&mut messages).await;

        if restarts {
            client.disconnect().await.unwrap();
            client = publisher().connect().await.unwrap();
        }
        let second = message(&mut messages).await;

        assert_eq!(second.payload, TEXT.as_bytes());
        let [before, after] = [first, second].map(|message| match message.sealed.unwrap().provenance {
            Provenance::Envelope(origin) => origin,
            other => panic!("{other:?}"),
        });
        assert!(after.refresh && !before.refresh && after.epoch > before.epoch, "{before:?} {after:?}");

        assert_eq!(client.remove_pair(lake.kid()).await, Ok(true));
        let mut third = message(&mut messages).await;
        while !third.payload.is_empty() {
            // Another key may have come meanwhile.
            third = message(&mut messages).await;
        }
        assert_eq!(client.remove_pair(lake.kid()).await, Ok(false));
    }
}
