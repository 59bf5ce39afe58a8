//! Sealed messages and their keys through real brokers that are not trusted: ours, and Debian's Mosquitto over TLS.
//!
//! Whoever meddles has the rights of a broker: it sees every packet and publishes where it likes.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod plant;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use veilmq_client::e2e::distribution::{Distribution, Rotation};
use veilmq_client::e2e::{
    Authentication, Directory, E2e, EnvelopeOptions, EpochTiming, Keyring, Limits, MasterSecret, Member,
    OpenError, Padding, Provenance, Scope, ScopeConfig, SenderPolicy,
};
use veilmq_client::rustls::pki_types::CertificateDer;
use veilmq_client::rustls::pki_types::pem::PemObject;
use veilmq_client::rustls::{ClientConfig, RootCertStore};
use veilmq_client::{Client, ConnectError, QoS, Tls, Will};
use veilmq_protocol::veil::Roles;
use veilmq_protocol::veil::channel::Identity;
use veilmq_protocol::{PublishProperties, TopicName};
use veilmq_tests::carrier::Carrier;
use veilmq_tests::certificates::Authority;
use veilmq_tests::members::{anchors, identity, keys};
use veilmq_tests::tap::Tap;

use plant::{
    Plant, SCOPE, SECRET, TOPIC, activation, message, observed, policy, press, publish, reader, refusal, spy,
    text,
};

/// Runs each sentence once through each broker.
macro_rules! through_both_brokers {
    ($($sentence:ident),+ $(,)?) => {
        mod through_veilmq {
            $(#[tokio::test] async fn $sentence() {
                super::$sentence(super::Plant::new(super::Carrier::veilmq())).await;
            })+
        }
        mod through_mosquitto_over_tls {
            $(#[tokio::test] async fn $sentence() {
                let Some(carrier) = super::Carrier::mosquitto_over_tls() else { return };
                super::$sentence(super::Plant::new(carrier)).await;
            })+
        }
    };
}

through_both_brokers!(
    a_subscriber_that_joins_while_the_publisher_is_off_reads_what_is_retained_and_what_follows,
    a_removed_member_reads_nothing_after_the_epoch_change,
    only_a_rotation_after_a_compromise_ends_the_earlier_epoch_at_once,
    a_holder_of_the_group_key_cannot_make_another_accept_a_forged_message,
    a_retained_message_that_was_rolled_back_or_spliced_is_refused,
    a_head_that_was_rolled_back_brings_no_old_key_back,
    what_was_received_is_remembered_over_a_restart,
    a_publication_that_comes_twice_is_recognised,
    several_publishers_share_a_topic_and_each_has_keys_of_its_own,
    the_members_of_a_shared_subscription_read_each_message_once,
    a_topic_belongs_to_the_most_literal_of_overlapping_scopes,
    what_is_retained_is_sealed_anew_when_the_epoch_changes,
    what_an_earlier_run_had_retained_is_sealed_anew_as_well,
    nothing_else_is_sealed_anew_after_a_restart,
    a_deletion_is_proven_before_it_happens,
    a_will_is_sealed_before_it_is_given_to_the_broker,
    a_long_message_comes_in_parts_and_once,
    a_message_whose_topic_is_inside_survives_a_bridge_that_renames_it,
    neither_packets_nor_files_of_the_broker_hold_plaintext_or_keys,
);

#[tokio::test]
async fn a_broker_that_no_trusted_authority_certified_gets_no_client() {
    let Some(carrier) = Carrier::mosquitto_over_tls() else { return };
    let strangers = Authority::new();
    let tls = Tls::trusting(&strangers.certificate()).unwrap();

    let refused = carrier.client().tls(tls).connect().await;

    let Err(ConnectError::Unreachable { error, .. }) = refused else { panic!("the client has connected") };
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert!(carrier.client().connect().await.is_ok(), "its own authority is believed");
}

#[tokio::test]
async fn a_client_takes_tls_as_its_program_has_configured_it() {
    let Some(carrier) = Carrier::mosquitto_over_tls() else { return };
    let arguments = carrier.arguments();
    // As of memory: no path is named to the client.
    let pem = std::fs::read(arguments.last().unwrap()).unwrap();
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authorities)
        .with_no_client_auth();

    let connected = carrier.client().tls(Tls::from(Arc::new(config))).connect().await;

    assert!(connected.is_ok(), "{:?}", connected.err());
}

async fn a_subscriber_that_joins_while_the_publisher_is_off_reads_what_is_retained_and_what_follows(
    plant: Plant,
) {
    let (press, lake) = (press(), reader("lake"));
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    publish(&publisher, TOPIC, SECRET, true).await;
    publisher.disconnect().await.unwrap();

    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    let retained = message(&mut messages).await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    publish(&publisher, TOPIC, "the next batch", false).await;

    assert_eq!((&*retained.payload, retained.retain), (SECRET.as_bytes(), true));
    assert_eq!(text(&mut messages).await, "the next batch");
}

async fn a_removed_member_reads_nothing_after_the_epoch_change(plant: Plant) {
    let (press, lake, hill) = (press(), reader("lake"), reader("hill"));
    let publisher = plant.publisher(&press, &[&lake, &hill], SCOPE).await;
    let (_lake, mut stays) = plant.reader(&lake, SCOPE).await;
    let (_hill, mut goes) = plant.reader(&hill, SCOPE).await;
    publish(&publisher, TOPIC, "for both", false).await;
    for messages in [&mut stays, &mut goes] {
        assert_eq!(text(messages).await, "for both");
    }

    assert!(publisher.remove_member(SCOPE, hill.kid(), Rotation::Removal).await.unwrap().changed);
    activation().await;
    publish(&publisher, TOPIC, "for one", false).await;

    assert_eq!(text(&mut stays).await, "for one");
    assert_eq!(refusal(&mut goes).await, OpenError::NoKey { epoch: 2 });
}

async fn only_a_rotation_after_a_compromise_ends_the_earlier_epoch_at_once(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let mut seen = spy(&meddler, TOPIC).await;
    let mut kept = Vec::new();
    for text in ["one", "two", "three"] {
        kept.push(observed(&publisher, &mut seen, text, false).await);
    }
    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;

    publish(&meddler, TOPIC, &kept[0], false).await;
    assert_eq!(text(&mut messages).await, "one");
    publisher.rotate(SCOPE, Rotation::Ordinary).await.unwrap();
    activation().await;
    publish(&meddler, TOPIC, &kept[1], false).await;
    assert_eq!(text(&mut messages).await, "two", "the transition window");
    publisher.rotate(SCOPE, Rotation::Compromise).await.unwrap();
    activation().await;
    publish(&meddler, TOPIC, &kept[2], false).await;

    assert_eq!(refusal(&mut messages).await, OpenError::EpochDropped { epoch: 1 });
    publish(&publisher, TOPIC, "under the new key", false).await;
    assert_eq!(text(&mut messages).await, "under the new key");
}

/// A scope whose key every member has, and whose messages are to be signed.
fn signed_scope(senders: SenderPolicy, sign: bool) -> ScopeConfig {
    let keyring = Keyring::master(MasterSecret::new(b"known to every member"), 1, EpochTiming::default());
    let options = EnvelopeOptions { sign, require_signature: true, senders, ..EnvelopeOptions::default() };
    ScopeConfig::envelope(Scope::new(SCOPE).unwrap(), keyring, options)
}

fn sealed_by(member: Member, sign: bool, payload: &[u8]) -> Vec<u8> {
    let mut e2e = E2e::new(member, Limits::default());
    e2e.add_scope(signed_scope(SenderPolicy::AnyMember, sign)).unwrap();
    let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
    e2e.seal(topic, payload, &none, unix_ms(), &mut |bytes| bytes.fill(7)).unwrap()
}

fn unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn a_holder_of_the_group_key_cannot_make_another_accept_a_forged_message(plant: Plant) {
    let (press, lake, hill) = (press(), reader("lake"), reader("hill"));
    let mut directory = Directory::default();
    for member in [&press, &hill] {
        directory.pin(member.certificate().clone());
    }
    let reader = plant.carrier.client().identity(lake).trust(anchors()).without_channel();
    let reader = reader.directory(directory).scope(signed_scope(SenderPolicy::Known, false));
    let reader = reader.connect().await.unwrap();
    let mut messages = reader.subscribe(SCOPE).qos(QoS::AtLeastOnce).await.unwrap();
    let meddler = plant.meddler().await;
    let genuine = sealed_by(Member::Identity(Arc::clone(&press)), true, SECRET.as_bytes());
    // The certificate of the press with the keys of another.
    let mut grafted = genuine.clone();
    let own = sealed_by(Member::Identity(Arc::clone(&hill)), true, SECRET.as_bytes());
    let signature = grafted.len() - 64;
    grafted[signature..].copy_from_slice(&own[own.len() - 64..]);

    let as_press = sealed_by(Member::Unsigned(press.kid()), false, b"open the valve");
    for (forged, error) in [
        (as_press, OpenError::BadTag),
        (own, OpenError::UnknownSender(hill.kid())),
        (grafted, OpenError::BadTag),
    ] {
        publish(&meddler, TOPIC, forged, false).await;
        assert_eq!(refusal(&mut messages).await, error);
    }

    publish(&meddler, TOPIC, genuine, false).await;
    let accepted = message(&mut messages).await;
    assert_eq!(accepted.payload, SECRET.as_bytes());
    assert_eq!(accepted.sealed.unwrap().authentication, Authentication::Signed);
}

async fn a_retained_message_that_was_rolled_back_or_spliced_is_refused(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let mut seen = spy(&meddler, TOPIC).await;
    let older = observed(&publisher, &mut seen, "closed", true).await;
    let newer = observed(&publisher, &mut seen, "open", true).await;
    let (client, mut messages) = plant.reader(&lake, SCOPE).await;
    assert_eq!(text(&mut messages).await, "open");
    client.disconnect().await.unwrap();

    publish(&meddler, TOPIC, older, true).await;
    let (client, mut messages) = plant.reader(&lake, TOPIC).await;
    assert_eq!(refusal(&mut messages).await, OpenError::RetainedRollback);

    let other = "factory/line-4/t";
    publish(&meddler, other, newer, true).await;
    let mut spliced = client.subscribe(other).qos(QoS::AtLeastOnce).await.unwrap();
    assert_eq!(refusal(&mut spliced).await, OpenError::BadTag);
}

async fn a_head_that_was_rolled_back_brings_no_old_key_back(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let mut heads = spy(&meddler, "_veil/1/kp/#").await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let old_head = message(&mut heads).await;
    let mut seen = spy(&meddler, TOPIC).await;
    let under_old_key = observed(&publisher, &mut seen, "one", false).await;
    publisher.rotate(SCOPE, Rotation::Compromise).await.unwrap();
    activation().await;
    let (client, mut messages) = plant.reader(&lake, SCOPE).await;
    let under_new_key = observed(&publisher, &mut seen, "two", false).await;
    assert_eq!(text(&mut messages).await, "two");
    for client in [client, publisher] {
        client.disconnect().await.unwrap();
    }

    publish(&meddler, &old_head.topic, &old_head.payload, true).await;
    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    publish(&meddler, TOPIC, under_old_key, false).await;
    publish(&meddler, TOPIC, under_new_key, false).await;

    assert_eq!(refusal(&mut messages).await, OpenError::Replay, "the new key is still there");
    assert_eq!(refusal(&mut messages).await, OpenError::NoKey { epoch: 1 });
}

async fn what_was_received_is_remembered_over_a_restart(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let mut seen = spy(&meddler, TOPIC).await;
    let (client, mut messages) = plant.reader(&lake, SCOPE).await;
    let received = observed(&publisher, &mut seen, "once", false).await;
    assert_eq!(text(&mut messages).await, "once");
    client.disconnect().await.unwrap();

    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    publish(&meddler, TOPIC, received, false).await;
    publish(&publisher, TOPIC, "twice", false).await;

    assert_eq!(refusal(&mut messages).await, OpenError::Replay);
    assert_eq!(text(&mut messages).await, "twice");
}

async fn a_publication_that_comes_twice_is_recognised(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let mut seen = spy(&meddler, TOPIC).await;
    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;

    // What a publisher does that has not heard of its PUBACK.
    let sealed = observed(&publisher, &mut seen, "one", false).await;
    publish(&meddler, TOPIC, sealed, false).await;
    publish(&publisher, TOPIC, "two", false).await;

    assert_eq!(text(&mut messages).await, "one");
    assert_eq!(refusal(&mut messages).await, OpenError::Replay);
    assert_eq!(text(&mut messages).await, "two");
}

async fn several_publishers_share_a_topic_and_each_has_keys_of_its_own(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let mill = identity("mill", Roles::PUBLISHER, &[SCOPE]);
    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    let publishers =
        [plant.publisher(&press, &[&lake], SCOPE).await, plant.publisher(&mill, &[&lake], SCOPE).await];

    for round in 0..3 {
        for (publisher, identity) in publishers.iter().zip([&press, &mill]) {
            let name = &identity.certificate().subject;
            publish(publisher, TOPIC, format!("{name} {round}"), false).await;
            assert_eq!(text(&mut messages).await, format!("{name} {round}"));
        }
    }
}

async fn the_members_of_a_shared_subscription_read_each_message_once(plant: Plant) {
    let (press, lake, hill) = (press(), reader("lake"), reader("hill"));
    let publisher = plant.publisher(&press, &[&lake, &hill], SCOPE).await;
    let (_lake, mut first) = plant.reader(&lake, "$share/readers/factory/#").await;
    let (_hill, mut second) = plant.reader(&hill, "$share/readers/factory/#").await;
    let sent: BTreeSet<String> = (0..20).map(|number| format!("message {number}")).collect();

    for message in &sent {
        publish(&publisher, TOPIC, message, false).await;
    }
    let mut read = Vec::new();
    while read.len() < sent.len() {
        read.push(tokio::select! {
            text = text(&mut first) => text,
            text = text(&mut second) => text,
        });
    }

    assert_eq!(read.iter().cloned().collect::<BTreeSet<_>>(), sent);
}

async fn a_topic_belongs_to_the_most_literal_of_overlapping_scopes(plant: Plant) {
    const ALARMS: &str = "factory/+/alarm";
    let (press, lake, hill) = (press(), reader("lake"), reader("hill"));
    let publisher = plant.party(&press).issue_scope(SCOPE, policy()).unwrap();
    let publisher = publisher.issue_scope(ALARMS, policy()).unwrap();
    let publisher = publisher.admit(SCOPE, lake.certificate().clone()).unwrap();
    let publisher = publisher.admit(SCOPE, hill.certificate().clone()).unwrap();
    let publisher = publisher.admit(ALARMS, hill.certificate().clone()).unwrap().connect().await.unwrap();
    let hears_both = plant.party(&hill).join_scope(SCOPE).unwrap().join_scope(ALARMS).unwrap();
    let hears_both = hears_both.connect().await.unwrap();
    let mut both = hears_both.subscribe("factory/#").qos(QoS::AtLeastOnce).await.unwrap();
    let (_lake, mut one) = plant.reader(&lake, SCOPE).await;

    publish(&publisher, "factory/line-3/alarm", "smoke", false).await;
    publish(&publisher, TOPIC, "21.5", false).await;

    assert_eq!([text(&mut both).await, text(&mut both).await], ["smoke", "21.5"]);
    assert_eq!(refusal(&mut one).await, OpenError::TopicMismatch);
    assert_eq!(text(&mut one).await, "21.5");
}

async fn what_is_retained_is_sealed_anew_when_the_epoch_changes(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    publish(&publisher, TOPIC, "open", true).await;
    publish(&publisher, "factory/line-4/t", "shut", true).await;
    publish(&publisher, "factory/line-4/t", "", true).await;

    // Whoever comes now gets no earlier key.
    publisher.rotate(SCOPE, Rotation::Compromise).await.unwrap();
    activation().await;
    publisher.disconnect().await.unwrap();

    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    let retained = message(&mut messages).await;
    let Provenance::Envelope(origin) = retained.sealed.unwrap().provenance else { panic!("no envelope") };
    assert_eq!((&*retained.payload, retained.retain), (&b"open"[..], true));
    assert_eq!((origin.epoch, origin.refresh), (2, true));
}

/// After a restart the client knows what it has had retained, but not what that said.
async fn what_an_earlier_run_had_retained_is_sealed_anew_as_well(plant: Plant) {
    for rotation in [Rotation::Removal, Rotation::Compromise] {
        let (press, lake) = (press(), reader("lake"));
        let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
        publish(&publisher, TOPIC, "open", true).await;
        publish(&publisher, "factory/line-4/t", "shut", true).await;
        publish(&publisher, "factory/line-4/t", "", true).await;
        publisher.disconnect().await.unwrap();

        let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
        publisher.rotate(SCOPE, rotation).await.unwrap();
        activation().await;
        publisher.disconnect().await.unwrap();

        let (client, mut messages) = plant.reader(&lake, SCOPE).await;
        let retained = message(&mut messages).await;
        let Provenance::Envelope(origin) = retained.sealed.unwrap().provenance else { panic!("no envelope") };
        assert_eq!((&*retained.payload, retained.retain, origin.refresh), (&b"open"[..], true, true));
        client.disconnect().await.unwrap();
    }
}

/// What the broker gives back is sealed anew only if it is the very message that was retained last.
async fn nothing_else_is_sealed_anew_after_a_restart(plant: Plant) {
    let press = press();
    let meddler = plant.meddler().await;
    let mut seen = spy(&meddler, TOPIC).await;
    let publisher = plant.publisher(&press, &[], SCOPE).await;
    let older = observed(&publisher, &mut seen, "the gate is open", true).await;
    observed(&publisher, &mut seen, "the gate is shut", true).await;
    publisher.disconnect().await.unwrap();
    publish(&meddler, TOPIC, &older, true).await;
    assert_eq!(message(&mut seen).await.payload, older);

    let publisher = plant.publisher(&press, &[], SCOPE).await;
    publisher.rotate(SCOPE, Rotation::Removal).await.unwrap();
    activation().await;
    publisher.disconnect().await.unwrap();

    let mut later = spy(&meddler, TOPIC).await;
    assert_eq!(message(&mut later).await.payload, older, "nobody has vouched for it anew");
}

async fn a_deletion_is_proven_before_it_happens(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let (client, mut messages) = plant.reader(&lake, SCOPE).await;
    publish(&publisher, TOPIC, "open", true).await;
    assert_eq!(text(&mut messages).await, "open");

    publish(&publisher, TOPIC, "", true).await;

    assert_eq!(message(&mut messages).await.deletes(), Some(Authentication::Group));
    assert_eq!(message(&mut messages).await.deletes(), Some(Authentication::None));
    let mut later = client.subscribe(TOPIC).qos(QoS::AtLeastOnce).await.unwrap();
    publish(&publisher, TOPIC, "not retained", false).await;
    assert_eq!(text(&mut later).await, "not retained");
}

async fn a_will_is_sealed_before_it_is_given_to_the_broker(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let mut seen = spy(&meddler, TOPIC).await;
    let connect = || async {
        let will = Will::new(TOPIC, SECRET).qos(QoS::AtLeastOnce);
        let publisher = plant.party(&press).issue_scope(SCOPE, policy()).unwrap().will(will);
        publisher.admit(SCOPE, lake.certificate().clone()).unwrap().connect().await.unwrap()
    };
    // There are keys from the second connection on; the first has no Will rather than one in the clear.
    connect().await.disconnect_with_will().await.unwrap();
    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    let publisher = connect().await;
    publish(&publisher, TOPIC, "working", false).await;

    publisher.disconnect_with_will().await.unwrap();

    assert_eq!(text(&mut messages).await, "working");
    let read = message(&mut messages).await;
    let Provenance::Envelope(origin) = read.sealed.unwrap().provenance else { panic!("no envelope") };
    assert_eq!((&*read.payload, origin.will), (SECRET.as_bytes(), true));
    for _ in 0..2 {
        assert!(!holds(&message(&mut seen).await.payload, SECRET.as_bytes()));
    }
}

async fn a_long_message_comes_in_parts_and_once(plant: Plant) {
    const PART_BYTES: usize = 64 << 10;
    let (press, lake) = (press(), reader("lake"));
    let meddler = plant.meddler().await;
    let mut seen = spy(&meddler, TOPIC).await;
    let publisher = plant.publisher(&press, &[&lake], SCOPE).await;
    let (_client, mut messages) = plant.reader(&lake, SCOPE).await;
    let long: String = (0..50_000).map(|number| format!("{number:06}")).collect();

    publish(&publisher, TOPIC, &long, false).await;
    publish(&publisher, TOPIC, "short", false).await;

    assert_eq!(text(&mut messages).await, long);
    assert_eq!(text(&mut messages).await, "short");
    for _ in 0..long.len().div_ceil(PART_BYTES) + 1 {
        assert!(message(&mut seen).await.payload.len() < PART_BYTES + 256);
    }
}

async fn a_message_whose_topic_is_inside_survives_a_bridge_that_renames_it(plant: Plant) {
    let client = |name: &str| {
        let keyring = Keyring::master(MasterSecret::new(b"known to every member"), 1, EpochTiming::default());
        let options = EnvelopeOptions {
            inner_topic: true,
            timestamp: true,
            padding: Padding::PowersOfTwo,
            ..EnvelopeOptions::default()
        };
        let scope = ScopeConfig::envelope(Scope::new(SCOPE).unwrap(), keyring, options);
        plant.carrier.client().client_id(name).scope(scope).connect()
    };
    let (press, lake) = (client("press").await.unwrap(), client("lake").await.unwrap());
    let bridge = plant.meddler().await;
    let mut here = spy(&bridge, SCOPE).await;
    let mut there = lake.subscribe("remote/#").qos(QoS::AtLeastOnce).await.unwrap();

    for (topic, payload) in [(TOPIC, "21.5"), ("factory/line-4/t", "a bit longer than the other")] {
        publish(&press, topic, payload, false).await;
        let passing = message(&mut here).await;
        publish(&bridge, &format!("remote/{}", passing.topic), &passing.payload, false).await;

        let read = message(&mut there).await;
        assert_eq!((read.topic.as_str(), &*read.payload), (topic, payload.as_bytes()));
        // The header with its time, the plaintext in its bucket, and the tag.
        assert_eq!(passing.payload.len(), 33 + 8 + 64 + 16);
    }
}

/// A publisher whose random numbers are known: what it issues and seals is published by someone else.
struct Glass {
    e2e: E2e,
    keys: Distribution,
    drawn: Vec<Vec<u8>>,
}

impl Glass {
    fn new(press: &Arc<Identity>, member: &Identity) -> Self {
        let mut e2e = E2e::new(Member::Identity(Arc::clone(press)), Limits::default());
        let mut keys = Distribution::new(Arc::clone(press), anchors());
        let scope = Scope::new(SCOPE).unwrap();
        let mut drawn = Vec::new();
        let mut entropy = recorded(&mut drawn);
        keys.issue(&mut e2e, scope.clone(), EnvelopeOptions::default(), policy()).unwrap();
        keys.admit(&scope, member.certificate().clone(), unix_ms(), &mut entropy).unwrap();
        keys.advance(&mut e2e, unix_ms(), &mut entropy);
        drop(entropy);
        Self { e2e, keys, drawn }
    }

    async fn publish(&mut self, client: &Client) {
        let mut entropy = recorded(&mut self.drawn);
        for issued in self.keys.outgoing(unix_ms(), &mut entropy) {
            publish(client, &issued.topic, &issued.payload, issued.retain).await;
        }
        self.keys.announced(&mut self.e2e);
        let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
        let sealed = self.e2e.seal(topic, SECRET.as_bytes(), &none, unix_ms(), &mut entropy).unwrap();
        publish(client, TOPIC, sealed, true).await;
    }
}

/// Randomness that is written down.
fn recorded(drawn: &mut Vec<Vec<u8>>) -> impl FnMut(&mut [u8]) {
    |bytes| {
        let seed = format!("{:?} {}", SystemTime::now(), drawn.len());
        for (index, chunk) in bytes.chunks_mut(32).enumerate() {
            let random = keys(&format!("{seed} {index}")).to_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        drawn.push(bytes.to_vec());
    }
}

async fn neither_packets_nor_files_of_the_broker_hold_plaintext_or_keys(plant: Plant) {
    let (press, lake) = (press(), reader("lake"));
    let tap = Tap::start(plant.carrier.plain());
    let tapped = |name: &str| Client::builder("127.0.0.1", tap.address().port()).client_id(name);
    let mut glass = Glass::new(&press, &lake);
    let messenger = tapped("messenger").connect().await.unwrap();
    glass.publish(&messenger).await;
    let reads = tapped("lake").identity(Arc::clone(&lake)).trust(anchors()).without_channel();
    let reads = reads.join_scope(SCOPE).unwrap().connect().await.unwrap();
    let mut messages = reads.subscribe(SCOPE).qos(QoS::AtLeastOnce).await.unwrap();
    assert_eq!(text(&mut messages).await, SECRET);
    for client in [messenger, reads] {
        client.disconnect().await.unwrap();
    }

    let captured = tap.captured();
    let files = plant.carrier.end();

    // Keys and their seeds are 32 bytes; what is shorter are parts of session numbers, which envelopes show.
    let mut secrets: Vec<Vec<u8>> = glass.drawn.into_iter().filter(|drawn| drawn.len() >= 32).collect();
    assert!(secrets.len() >= 3, "a group key, a prekey and a wrap");
    secrets.push(SECRET.as_bytes().to_vec());
    for name in ["press", "lake"] {
        let own = keys(name).to_bytes();
        secrets.extend(own.chunks(32).map(<[u8]>::to_vec));
    }
    assert!(holds(&captured, TOPIC.as_bytes()), "the exchange is searched");
    assert!(files.iter().any(|(_, bytes)| holds(bytes, TOPIC.as_bytes())), "the stored message is searched");
    for secret in &secrets {
        assert!(!holds(&captured, secret), "{secret:?} passed the wire");
        for (path, bytes) in &files {
            assert!(!holds(bytes, secret), "{} holds {secret:?}", path.display());
        }
    }
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
